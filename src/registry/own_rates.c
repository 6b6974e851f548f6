/*
 * registry/own_rates.c
 *	  The rates of one database; see rates.h.  Runs in backends.
 */
#include "postgres.h"

#include "access/xact.h"
#include "access/xlog.h"
#include "miscadmin.h"
#include "utils/memutils.h"

#include "base/compat.h"
#include "registry/directory.h"
#include "registry/pending.h"
#include "registry/rates.h"
#include "registry/table.h"
#include "shm/load_state.h"

/* ------------------------------------------------------------------------
 * Which ones
 * ------------------------------------------------------------------------
 */

static PgrRegistryName
own_name(void)
{
	PgrRegistryName name = {MyDatabaseId, pgr_directory_extension(),
							PGR_RATES_NAME, strlen(PGR_RATES_NAME)};

	return name;
}

static const PgrBlock *
cluster_block(const PgrSharedRoot *root)
{
	return pgr_root_block(pgr_image, root, PGR_SLOT_RATES);
}

/* The database's own, NULL if it has none. */
static const PgrBlock *
own_block(const PgrSharedRoot *root, uint64 generation)
{
	uint32 slot;
	const PgrBlock *block = pgr_directory_find(root, generation, MyDatabaseId,
											   pgr_directory_extension(),
											   PGR_RATES_NAME,
											   strlen(PGR_RATES_NAME), &slot);

	return slot == PGR_SLOT_RATES ? NULL : block;
}

/* What it says also when it says that there are no rates. */
static const PgrRatesInfo *
judgement(const PgrBlock *own)
{
	Assert(own->extra_len >= sizeof(PgrRatesInfo));
	return (const PgrRatesInfo *) ((const char *) own + own->extra_offset);
}

/* Is it later, and other, than what the database knows? */
static bool
is_news(const PgrBlock *cluster, const PgrBlock *own)
{
	const PgrRatesInfo *fetched = pgr_rates_info(cluster);

	return fetched != NULL &&
		(own == NULL ||
		 (judgement(own)->since < fetched->fetched_at &&
		  judgement(own)->refused != fetched->identity));
}

static const PgrBlock *
newer_block(const PgrBlock *cluster, const PgrBlock *own)
{
	return own == NULL || is_news(cluster, own) ? cluster : own;
}

/* ------------------------------------------------------------------------
 * Reading
 * ------------------------------------------------------------------------
 */

/* The table's rates, for the calls that follow in this statement. */
typedef struct Stored
{
	MemoryContext context;
	const PgrBlock *block; /* NULL = there are none */
	uint64 token;
} Stored;

static const PgrBlock *
stored_block(void)
{
	static Stored stored = {0};
	uint64 token = pgr_pin()->token;
	MemoryContext caller;

	if (stored.token == token)
		return stored.block;
	if (stored.context == NULL)
		stored.context = AllocSetContextCreate(TopMemoryContext,
											   "pg_registry stored rates",
											   ALLOCSET_SMALL_SIZES);
	stored.token = 0;
	MemoryContextReset(stored.context);
	caller = MemoryContextSwitchTo(stored.context);
	stored.block = pgr_table->rates(PGR_VIEW_STATEMENT);
	MemoryContextSwitchTo(caller);
	stored.token = token;
	return stored.block;
}

/*
 * May the table know what memory does not, although there is no own block?  Not
 * once the database has been loaded.
 */
static bool
is_unloaded(const PgrPin *pin)
{
	bool complete;

	if (RecoveryInProgress())
		return true;
	complete = pgr_directory_is_complete(
		pin->root,
		pgr_directory_slot(pin->root, pin->generation, MyDatabaseId,
						   pgr_directory_extension()));
	if (!complete)
		pgr_load_want();
	return !complete;
}

static const PgrBlock *
committed_block(const PgrPin *pin)
{
	const PgrBlock *cluster = cluster_block(pin->root);
	const PgrBlock *own = own_block(pin->root, pin->generation);

	if (own == NULL && (pgr_rates_info(cluster) == NULL || is_unloaded(pin)))
		own = stored_block();
	return newer_block(cluster, own);
}

const PgrBlock *
pgr_rates_block(void)
{
	const PgrPin *pin = pgr_pin();
	PgrRegistryName name;
	PgrPendingState state;
	const PgrDefinition *definition;
	const PgrBlock *base;

	if (!pgr_pending_any())
		return committed_block(pin);
	name = own_name();
	definition = pgr_pending_resolve(&name, false, pin->root, pin->generation,
									 &base, &state);
	return definition != NULL && definition->database == MyDatabaseId &&
			pgr_pending_sees_rates(definition) ?
		pgr_pending_overlay_kept(definition, base) :
		committed_block(pin);
}

static int64
row_of(const PgrRatesInfo *info, PgrTableView view)
{
	if (info == NULL || info->base[0] == '\0')
		return 0;
	if (info->rate_set != 0)
		return info->rate_set;
	return info->manual ? 0 : pgr_table->rate_set(info, view);
}

int64
pgr_rates_row(const PgrRatesInfo *info)
{
	return row_of(info, PGR_VIEW_STATEMENT);
}

/* ------------------------------------------------------------------------
 * As of the newest commit, for writers and loaders
 * ------------------------------------------------------------------------
 */

/*
 * Pinned for a few assignments: nobody waits for a lock, and the statement's
 * own pin stays what it is.
 */
typedef struct Newest
{
	int cell;
	const PgrBlock *cluster;
	const PgrBlock *own;
} Newest;

static void
pin_newest(Newest *newest)
{
	const PgrSharedRoot *root;
	uint64 generation;

	(void) pgr_directory_extension(); /* may look into a catalog */
	newest->cell = pgr_line_pin(GetCurrentTimestamp(), &generation, &root);
	newest->cluster = cluster_block(root);
	newest->own = own_block(root, generation);
}

static void
unpin_newest(Newest *newest)
{
	pgr_line_unpin(newest->cell);
}

/* Of what others will read once this transaction has committed. */
static PgrRatesInfo
newest_info(void)
{
	PgrRatesInfo info = {0};
	const PgrRatesInfo *served;
	Newest newest;

	if (pgr_pending_newest_rates(&info, sizeof(info)))
		return info;
	pin_newest(&newest);
	served = pgr_rates_info(newer_block(newest.cluster, newest.own));
	if (served != NULL)
		info = *served;
	unpin_newest(&newest);
	return info;
}

int64
pgr_rates_newest_row(void)
{
	PgrRatesInfo info = newest_info();

	return row_of(&info, PGR_VIEW_NEWEST);
}

bool
pgr_rates_are_served(const PgrRateSet *set)
{
	PgrRatesInfo info = newest_info();
	uint64 identity = set->base[0] == '\0' ? 0 : pgr_rates_identity(set);

	return info.identity == identity &&
		(set->refused == 0 || info.refused == set->refused);
}

bool
pgr_rates_has_own(void)
{
	Newest newest;

	pin_newest(&newest);
	unpin_newest(&newest);
	return newest.own != NULL;
}

/* ------------------------------------------------------------------------
 * Writing
 * ------------------------------------------------------------------------
 */

static void
put_set(const PgrDefinition *definition, const PgrRateSet *set)
{
	PgrRatesInfo info;
	PgrChange *changes;
	int n = pgr_rates_changes(set, &changes);

	pgr_rates_fill_info(&info, set);
	pgr_pending_rates(definition, &info, sizeof(info), sizeof(info.base));
	for (int i = 0; i < n; i++)
	{
		PgrValue value = {changes[i].fixed, changes[i].value_len,
						  changes[i].value};

		pgr_pending_put(definition, changes[i].key, changes[i].key_len, &value,
						set->fetched_at, 0);
	}
}

/*
 * The database's own rates have been behind the cluster's: they become a copy
 * of these, so that what the next set lacks is kept as missing.
 */
static void
copy_cluster(const PgrDefinition *definition, const PgrBlock *cluster)
{
	uint64 position = 0;
	PgrEntry entry;
	PgrValue value;

	pgr_pending_clear(definition);
	pgr_pending_rates(definition, pgr_rates_info(cluster),
					  sizeof(PgrRatesInfo), PGR_CURRENCY_LEN + 1);
	while (pgr_block_next_entry(cluster, PGR_NEWEST, &position, &entry))
	{
		pgr_value_of_entry(PGR_TYPE_NUMERIC, &entry, &value);
		pgr_pending_put(definition, entry.key, entry.key_len, &value,
						entry.item->updated_at, 0);
	}
}

/* What the set of this transaction takes over from what there was. */
static void
take_over(PgrRateSet *set, const Newest *newest)
{
	const PgrRatesInfo *fetched = pgr_rates_info(newest->cluster);
	PgrRatesInfo own = {0};

	if (!pgr_pending_newest_rates(&own, sizeof(own)) && newest->own != NULL)
		own = *judgement(newest->own);
	/* stays withdrawn, unless somebody sets just that */
	if (set->refused == 0 &&
		(set->base[0] == '\0' || own.refused != pgr_rates_identity(set)))
		set->refused = own.refused;
	/* newer than what there is, even if the clock was set back */
	if (set->published_at == 0)
		set->published_at = set->fetched_at;
	if (fetched != NULL)
		set->published_at = Max(set->published_at, fetched->fetched_at);
}

static void
change_own(const PgrDefinition *definition, PgrRateSet *set, bool keep)
{
	PgrRatesInfo ignored;
	bool first = !pgr_pending_newest_rates(&ignored, sizeof(ignored));
	Newest newest;

	pin_newest(&newest);
	PG_TRY();
	{
		take_over(set, &newest);
		if (!keep)
			pgr_pending_clear(definition);
		else if (first && is_news(newest.cluster, newest.own))
			copy_cluster(definition, newest.cluster);
		put_set(definition, set);
	}
	PG_FINALLY();
	{
		unpin_newest(&newest);
	}
	PG_END_TRY();
}

void
pgr_rates_set(const PgrDefinition *definition, PgrRateSet *set)
{
	change_own(definition, set, true);
}

void
pgr_rates_replace(const PgrDefinition *definition, PgrRateSet *set)
{
	change_own(definition, set, false);
}

/* ------------------------------------------------------------------------
 * Blocks of our own
 * ------------------------------------------------------------------------
 */

const PgrBlock *
pgr_rates_private_block(const PgrRateSet *set, MemoryContext context)
{
	PgrDefinition definition = {
		.kind = PGR_BLOCK_RATES,
		.value_type = PGR_TYPE_NUMERIC,
		.name = PGR_RATES_NAME,
		.name_len = strlen(PGR_RATES_NAME),
	};
	PgrRatesInfo info;
	PgrBlockBuild build = {
		.definition = &definition,
		.seed = pgr_image->seed,
		.extra = &info,
		.extra_len = sizeof(info),
		.now = set->fetched_at,
	};
	PgrChange *changes;
	MemoryContext caller;
	const PgrBlock *block;

	pgr_rates_fill_info(&info, set);
	build.nchanges = pgr_rates_changes(set, &changes);
	build.changes = changes;
	caller = MemoryContextSwitchTo(context);
	block = pgr_block_build_private(&build);
	MemoryContextSwitchTo(caller);
	return block;
}
