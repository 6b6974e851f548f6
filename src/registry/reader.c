/*
 * registry/reader.c
 *	  See reader.h.  Runs in backends and parallel workers, in a transaction.
 */
#include "postgres.h"

#include "access/xact.h"
#include "access/xlog.h"
#include "mb/pg_wchar.h"
#include "nodes/primnodes.h"
#include "utils/memutils.h"

#include "base/compat.h"
#include "registry/directory.h"
#include "registry/line.h"
#include "registry/rates.h"
#include "registry/reader.h"
#include "registry/stale.h"
#include "registry/table.h"
#include "settings.h"
#include "shm/area.h"
#include "shm/fallbacks.h"
#include "shm/follow_state.h"
#include "shm/load_state.h"

/* The definition may be another than the block's, with our own changes. */
static bool
may_read(const PgrDefinition *definition, const PgrBlock *granted,
		 uint32 directory)
{
	PgrGrants grants = granted ?
		pgr_access_of_block(pgr_pin()->root, directory, granted) :
		pgr_access_in_table();

	return pgr_access_allowed(definition, &grants, PGR_VIEW_STATEMENT,
							  PGR_MAY_READ);
}

bool
pgr_reader_may_read(const PgrBlock *block)
{
	const PgrDefinition *definition = &block->definition;
	const PgrPin *pin = pgr_pin();

	return may_read(definition, block,
					pgr_directory_slot(pin->root, pin->generation,
									   definition->database,
									   definition->extension));
}

void
pgr_reader_refuse(PgrText name)
{
	int len = pg_mbcliplen(name.data, name.len, PGR_NAME_LEN - 1);

	ereport(ERROR,
			(errcode(ERRCODE_UNDEFINED_OBJECT),
			 errmsg("registry \"%.*s\" does not exist or you may not read it",
					len, name.data)));
}

static bool
is_rates(PgrText name)
{
	return name.len == strlen(PGR_RATES_NAME) &&
		memcmp(name.data, PGR_RATES_NAME, name.len) == 0;
}

static PgrRegistryName
registry_name(PgrText name)
{
	PgrRegistryName registry = {MyDatabaseId, pgr_directory_extension(),
								name.data, name.len};

	return registry;
}

/* What a name means to a statement. */
typedef struct Target
{
	const PgrDefinition *definition; /* NULL: nothing */
	const PgrBlock *block;           /* NULL: no committed entries in memory */
	PgrPendingState state;           /* what our own changes do to it */
	bool from_table;                 /* its entries are read there */
	const PgrBlock *granted;         /* NULL: its grants are read there, too */
	uint32 directory;                /* its slot, unless these are the rates */
} Target;

/*
 * As of the active snapshot.  If nobody has loaded this database, or nobody
 * follows what is replayed there, somebody has to.
 */
static PgrDefinition *
find_definition_in_table(PgrText name, const PgrSharedRoot *root,
						 uint32 directory)
{
	PgrDefinition *definition = palloc(sizeof(PgrDefinition));
	bool found;

	if (!RecoveryInProgress() && !pgr_directory_is_complete(root, directory))
		pgr_load_want();
	found = pgr_table->definition(name, PGR_VIEW_STATEMENT, definition);
	if (found && definition->durable && pgr_follow_is_wanted(MyDatabaseId))
		pgr_load_want();
	return found ? definition : NULL;
}

/*
 * A registry that the image does not name: of a database that has not been
 * loaded yet, perhaps.  Of a registry that is not durable there is nothing but
 * its definition.
 */
static void
resolve_in_table(PgrText name, const PgrSharedRoot *root, uint32 directory,
				 Target *target)
{
	if (pgr_table == NULL ||
		(pgr_directory_is_complete(root, directory) &&
		 !pgr_pending_forgotten(pgr_directory_extension())))
		return;
	target->definition = find_definition_in_table(name, root, directory);
	target->from_table = target->definition != NULL;
}

/*
 * What follows replay is not as new as it has to be, or a promotion has made
 * the tables writable.  They know, and our own changes of durable registries
 * are in them.
 */
static bool
resolve_ahead_of_image(PgrText name, Target *target)
{
	PgrDefinition *definition = palloc(sizeof(PgrDefinition));

	if (pgr_follow_is_wanted(MyDatabaseId))
		pgr_load_want();
	if (!pgr_table->definition(name, PGR_VIEW_STATEMENT, definition))
		return true;
	if (!definition->durable && pgr_pending_any())
		return false;
	target->definition = definition;
	target->from_table = true;
	return true;
}

bool
pgr_reader_disagrees(void)
{
	return pgr_image != NULL && pgr_table != NULL && pgr_pin_compares() &&
		!pgr_pin_agrees();
}

/*
 * The generation and the snapshot are of different moments, and the snapshot
 * is what counts.  A registry that is not durable has nothing but the image.
 */
static bool
resolve_as_of_snapshot(PgrText name, const PgrPin *pin, Target *target)
{
	uint32 directory = pgr_directory_slot(pin->root, pin->generation,
										  MyDatabaseId,
										  pgr_directory_extension());
	const PgrDefinition *definition = find_definition_in_table(name, pin->root,
															   directory);

	if (definition == NULL)
		return true;
	if (!definition->durable)
		return false;
	target->definition = definition;
	target->from_table = true;
	return true;
}

/* Of a server that has not preloaded us: what is durable can be read. */
static void
resolve_without_image(PgrText name, Target *target)
{
	static bool warned = false;

	if (is_rates(name) || !resolve_ahead_of_image(name, target) ||
		target->definition == NULL || !target->definition->durable)
		pgr_area_require();
	if (!warned)
		ereport(WARNING,
				(errmsg("durable registries are read from their tables, as pg_registry is not preloaded"),
				 errhint("Add shared_preload_libraries = 'pg_registry' to postgresql.conf and restart the server.")));
	warned = true;
}

/* One lookup for the directory, which tells more than the name, and one in it. */
static const PgrBlock *
find_block(PgrText name, const PgrPin *pin, uint32 *directory)
{
	uint32 slot;

	*directory = pgr_directory_slot(pin->root, pin->generation, MyDatabaseId,
									pgr_directory_extension());
	return pgr_directory_lookup(pin->root, pin->generation, *directory,
								name.data, name.len, &slot);
}

/* Resolve a name under the statement's pin. */
static void
resolve(PgrText name, Target *target)
{
	const PgrPin *pin;
	bool disagrees;

	memset(target, 0, sizeof(*target));
	if (name.len == 0 || name.len >= PGR_NAME_LEN)
		return;
	if (unlikely(pgr_image == NULL))
	{
		resolve_without_image(name, target);
		return;
	}
	if (is_rates(name))
	{
		target->block = pgr_rates_block();
		target->definition = &target->block->definition;
		return;
	}
	pin = pgr_pin();
	if (unlikely(pin->lags) && resolve_ahead_of_image(name, target))
		return;
	disagrees = pgr_reader_disagrees();
	if (disagrees && resolve_as_of_snapshot(name, pin, target))
		return;
	if (pgr_pending_any())
	{
		PgrRegistryName registry = registry_name(name);

		target->definition = pgr_pending_resolve(&registry, false, pin->root,
												 pin->generation,
												 &target->block,
												 &target->state);
		target->from_table = target->state.from_table;
		if (target->definition != NULL &&
			!pgr_pending_changes_grants(&target->state))
			target->granted = target->state.committed;
		target->directory = pgr_directory_slot(pin->root, pin->generation,
											   MyDatabaseId,
											   registry.extension);
	}
	else
	{
		target->block = find_block(name, pin, &target->directory);
		if (target->block != NULL)
		{
			target->definition = &target->block->definition;
			target->granted = target->block;
			target->from_table = pgr_is_read_from_table(target->definition);
		}
	}
	if (target->definition == NULL)
		resolve_in_table(name, pin->root, target->directory, target);
	/* to the snapshot this name is that of a memory registry */
	if (disagrees && target->definition != NULL && target->definition->durable)
		memset(target, 0, sizeof(*target));
}

/* May the current role read it? */
static bool
is_allowed(const Target *target)
{
	return target->definition != NULL &&
		may_read(target->definition, target->granted, target->directory);
}

static void
resolve_allowed(PgrText name, Target *target)
{
	resolve(name, target);
	if (!is_allowed(target))
		pgr_reader_refuse(name);
}

/* Is argument 0 of the call a constant of the query? */
static bool
name_is_constant(FmgrInfo *flinfo)
{
	Node *expression = flinfo->fn_expr;
	List *args = NIL;

	if (expression != NULL && IsA(expression, FuncExpr))
		args = ((FuncExpr *) expression)->args;
	return args != NIL && IsA(linitial(args), Const);
}

static void
remember(FunctionCallInfo fcinfo, PgrText name, const PgrBlock *block)
{
	PgrReader *reader = fcinfo->flinfo->fn_extra;

	if (reader == NULL)
	{
		reader = MemoryContextAllocZero(fcinfo->flinfo->fn_mcxt,
										sizeof(PgrReader));
		reader->constant = name_is_constant(fcinfo->flinfo);
		fcinfo->flinfo->fn_extra = reader;
	}
	/* 0: this transaction must look through its own changes each time */
	reader->token = pgr_pin_token == 0 ? PGR_NO_TOKEN : pgr_pin_token;
	reader->user = GetUserId();
	reader->block = block;
	reader->generation = pgr_pin()->generation;
	reader->plain = reader->constant && block->expiring == 0 &&
		!block->patchable;
	reader->patched = reader->constant && block->expiring == 0 &&
		block->patchable;
	reader->value_type = block->definition.value_type;
	reader->name_len = (uint16) name.len;
	memcpy(reader->name, name.data, name.len);
}

static bool
may_remember(FunctionCallInfo fcinfo)
{
	return !pgr_pending_any() &&
		(!pgr_pin_compares() || pgr_pin_is_of_plan(fcinfo->flinfo->fn_mcxt));
}

static uint64
fallback_key(const PgrDefinition *definition)
{
	uint64 seed = (pgr_image ? pgr_image->seed : 0) ^
		((uint64) definition->database << 32 | definition->extension);

	return 1 |
		pgr_key_hash(definition->name, definition->name_len,
					 pgr_key_word(definition->name, definition->name_len),
					 seed);
}

uint64
pgr_reader_fallbacks(const PgrDefinition *definition)
{
	return pgr_fallback_reads(fallback_key(definition));
}

static void
count_fallback(const PgrDefinition *definition)
{
	if (definition->durable)
		pgr_fallback_count(fallback_key(definition));
}

/* The whole of a registry that is read from its table. */
static const PgrBlock *
block_from_table(const PgrDefinition *definition)
{
	const PgrBlock *block = pgr_table_block(definition, PGR_VIEW_STATEMENT);

	return pgr_stale_may_serve(definition, block) ? block : NULL;
}

static bool
find_in_table(const PgrDefinition *definition, PgrText key, PgrValue *value)
{
	TimestampTz expires_at;

	count_fallback(definition);
	/* how old the registry is only the whole of it can tell */
	if (definition->max_age_us != 0 && block_from_table(definition) == NULL)
		return false;
	return pgr_table_find(definition, key, PGR_VIEW_STATEMENT, value,
						  &expires_at) &&
		!pgr_reader_expired(expires_at);
}

/* Rates that only this process has: its own, or the table's. */
static bool
find_in_private(const PgrBlock *block, PgrText key, PgrValue *value)
{
	PgrEntry entry;
	char *copy;

	if (!pgr_block_lookup(block, PGR_NEWEST, key.data, key.len, &entry))
		return false;
	pgr_value_of_entry(PGR_TYPE_NUMERIC, &entry, value);
	/* a function that the query calls may make another block */
	copy = palloc(value->len);
	memcpy(copy, value->data, value->len);
	value->data = copy;
	return true;
}

bool
pgr_reader_find(FunctionCallInfo fcinfo, PgrText name, PgrText key,
				PgrValueType *type, PgrValue *value)
{
	Target target;
	PgrEntry entry;

	resolve_allowed(name, &target);
	*type = (PgrValueType) target.definition->value_type;
	if (key.len > PGR_KEY_MAX_BYTES)
		key.len = 0;
	if (target.from_table)
		return find_in_table(target.definition, key, value);
	if (!pgr_stale_may_serve(target.definition, target.block))
		return false;
	if (key.len == 0)
		return false;
	if (target.definition->kind == PGR_BLOCK_RATES && target.block->self == 0)
		return find_in_private(target.block, key, value);
	if (pgr_pending_any())
	{
		TimestampTz expires_at;

		switch (pgr_pending_find(target.definition, &target.state, false,
								 key.data, key.len, value, &expires_at))
		{
			case PGR_PENDING_VALUE:
				return !pgr_reader_expired(expires_at);
			case PGR_PENDING_DELETED:
				return false;
			case PGR_PENDING_NONE:
				break;
		}
	}
	if (target.block == NULL)
		return false;
	if (may_remember(fcinfo))
		remember(fcinfo, name, target.block);
	if (!pgr_block_lookup(target.block, pgr_pin()->generation, key.data,
						  key.len, &entry) ||
		pgr_reader_expired(entry.expires_at))
		return false;
	pgr_value_of_entry(*type, &entry, value);
	return true;
}

const PgrBlock *
pgr_reader_block(PgrText name)
{
	Target target;

	resolve_allowed(name, &target);
	if (target.from_table)
	{
		count_fallback(target.definition);
		return block_from_table(target.definition);
	}
	if (!pgr_stale_may_serve(target.definition, target.block))
		return NULL;
	if (!pgr_pending_any() || target.definition->kind == PGR_BLOCK_RATES)
		return target.block;
	return pgr_pending_overlay_kept(target.definition, target.block);
}

/* ------------------------------------------------------------------------
 * Many keys
 * ------------------------------------------------------------------------
 */

#define BATCH 16 /* as many lines as a core can wait for at a time */

/* The entries that have been visited: open addressing, at most half full. */
typedef struct Visited
{
	const PgrItem **items;
	uint32 mask;
} Visited;

static void
start_visits(Visited *visited, int n)
{
	uint32 size = 16;

	while (size < (uint32) n * 2)
		size *= 2;
	visited->mask = size - 1;
	visited->items = MemoryContextAllocExtended(CurrentMemoryContext,
												size * sizeof(PgrItem *),
												MCXT_ALLOC_HUGE |
													MCXT_ALLOC_ZERO);
}

static bool
is_first_visit(Visited *visited, const PgrItem *item)
{
	uint32 i = (uint32) pgr_mix((uintptr_t) item,
								UINT64_C(0x9E3779B97F4A7C15)) &
		visited->mask;

	for (; visited->items[i] != NULL; i = (i + 1) & visited->mask)
		if (visited->items[i] == item)
			return false;
	visited->items[i] = item;
	return true;
}

/* Each step asks for what the next one reads, for all keys of the batch. */
static void
find_batch(const PgrBlock *block, const PgrText *keys, int n,
		   uint64 generation, PgrEntry *found)
{
	uint64 words[BATCH];
	uint64 hashes[BATCH];

	for (int i = 0; i < n; i++)
	{
		words[i] = pgr_key_word(keys[i].data, keys[i].len);
		hashes[i] = pgr_key_hash(keys[i].data, keys[i].len, words[i],
								 block->seed);
		pgr_block_prefetch_home(block, hashes[i]);
	}
	for (int i = 0; i < n; i++)
		pgr_block_prefetch_slot(block, hashes[i]);
	for (int i = 0; i < n; i++)
		pgr_block_prefetch_item(block, words[i], hashes[i]);
	for (int i = 0; i < n; i++)
	{
		if (!pgr_block_lookup_hashed(block, generation, keys[i].data,
									 keys[i].len, words[i], hashes[i],
									 &found[i]))
			found[i].item = NULL;
		else
			pgr_entry_complete(&found[i], keys[i].len);
	}
}

void
pgr_reader_find_many(PgrText name, const PgrText *keys, int n,
					 PgrReaderVisit visit, void *arg)
{
	const PgrBlock *block = pgr_reader_block(name);
	PgrEntry found[BATCH];
	Visited visited;
	uint64 generation;

	if (block == NULL)
		return;
	generation = pgr_pin()->generation;
	start_visits(&visited, n);
	for (int start = 0; start < n; start += BATCH)
	{
		int batch = Min(BATCH, n - start);

		CHECK_FOR_INTERRUPTS();
		find_batch(block, keys + start, batch, generation, found);
		for (int i = 0; i < batch; i++)
			if (found[i].item != NULL && keys[start + i].len > 0 &&
				!pgr_reader_expired(found[i].expires_at) &&
				is_first_visit(&visited, found[i].item))
				visit(block, &found[i], arg);
	}
	pfree(visited.items);
}

bool
pgr_reader_estimate(PgrText name, double *entries)
{
	Oid extension = pgr_directory_extension();
	const PgrSharedRoot *root;
	const PgrBlock *block;
	PgrDefinition definition;
	PgrGrants grants;
	uint64 generation;
	double count = 0;
	uint32 slot;
	int cell;

	/* an image that lags may have grants that have been revoked */
	if (name.len == 0 || name.len >= PGR_NAME_LEN || pgr_image == NULL ||
		pgr_follow_lags(MyDatabaseId))
		return false;
	cell = pgr_line_pin(GetCurrentStatementStartTimestamp(), &generation,
						&root);
	block = pgr_directory_find(root, generation, MyDatabaseId, extension,
							   name.data, name.len, &slot);
	if (block != NULL)
	{
		definition = block->definition;
		grants = pgr_access_copy_nothrow(root, generation, block);
		count = (double) pgr_block_entries(block, generation);
	}
	if (cell >= 0)
		pgr_line_unpin(cell);
	if (block == NULL ||
		!pgr_access_allowed(&definition, &grants, PGR_VIEW_STATEMENT,
							PGR_MAY_READ))
		return false;
	*entries = count;
	return true;
}

const PgrDefinition *
pgr_reader_look(PgrText name, const PgrBlock **block, bool *from_table)
{
	Target target;

	resolve(name, &target);
	*block = target.block;
	*from_table = target.from_table;
	return is_allowed(&target) ? target.definition : NULL;
}

bool
pgr_reader_exists(PgrText name)
{
	const PgrBlock *block;
	bool from_table;

	return pgr_reader_look(name, &block, &from_table) != NULL;
}
