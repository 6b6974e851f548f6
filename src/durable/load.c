/*
 * durable/load.c
 *	  See load.h.  Runs in refresh workers, and in backends for reload().
 */
#include "postgres.h"

#include "access/xact.h"
#include "miscadmin.h"
#include "nodes/pg_list.h"
#include "utils/memutils.h"
#include "utils/snapmgr.h"
#include "utils/timestamp.h"

#include "base/compat.h"
#include "durable/grants.h"
#include "durable/guard.h"
#include "durable/load.h"
#include "durable/rate_sets.h"
#include "durable/tables.h"
#include "registry/directory.h"
#include "registry/line.h"
#include "registry/pending.h"
#include "registry/pin.h"
#include "registry/plan.h"
#include "registry/restate.h"
#include "registry/write.h"
#include "shm/area.h"
#include "shm/follow_state.h"
#include "shm/load_state.h"

/* ------------------------------------------------------------------------
 * One registry
 * ------------------------------------------------------------------------
 */

static uint32
slot_of(const PgrDefinition *definition)
{
	const PgrBlock *block;
	uint32 slot;

	LWLockAcquire(pgr_area_lock(PGR_LOCK_WRITER), LW_SHARED);
	block = pgr_directory_find(pgr_image_ptr(pgr_image, pgr_image->root),
							   PGR_NEWEST, definition->database,
							   definition->extension, definition->name,
							   definition->name_len, &slot);
	LWLockRelease(pgr_area_lock(PGR_LOCK_WRITER));
	return block != NULL && definition->incarnation != 0 &&
			block->definition.incarnation == definition->incarnation ?
		slot :
		PGR_NO_SLOT;
}

static TimestampTz
last_change(const PgrDefinition *definition, const PgrChange *changes, int n)
{
	TimestampTz last = definition->created_at;

	for (int i = 0; i < n; i++)
		last = Max(last, changes[i].updated_at);
	return last;
}

/* Publish these entries, and no others, as the whole of the registry. */
static bool
publish_all(const PgrDefinition *definition, PgrChange *changes, int n)
{
	PgrRef page;
	PgrPlanRegistry registry = {
		.action = PGR_PLAN_CHANGE,
		.slot = slot_of(definition),
		.definition = *definition,
		.changes = changes,
		.nchanges = n,
		.fresh = true,
		.residency = PGR_MAKE_RESIDENT,
	};
	PgrPlan plan = {
		.registries = &registry,
		.nregistries = 1,
		.pages = &page,
		.counts = true,
		.now = last_change(definition, changes, n),
		.by = pgr_publishers_load(),
	};
	Size wanted;

	/* no slot: its database has yet to be loaded */
	if (registry.slot == PGR_NO_SLOT || !pgr_plan_reserve(&plan, &wanted))
		return false;
	(void) pgr_plan_commit(&plan);
	return true;
}

bool
pgr_load_registry(PgrDefinition *definition)
{
	PgrText name = {definition->name, definition->name_len};
	MemoryContext caller = CurrentMemoryContext;
	MemoryContext rows = AllocSetContextCreate(caller, "pg_registry load",
											   ALLOCSET_DEFAULT_SIZES);
	PgrChange *changes;
	bool fits = true;
	int n;

	pgr_guard_require();
	if (pgr_write_open_row(name, NULL, definition) && definition->durable)
	{
		MemoryContextSwitchTo(rows);
		changes = pgr_table_changes(definition, PGR_VIEW_COMMITTED, &n);
		fits = publish_all(definition, changes, n);
		MemoryContextSwitchTo(caller);
	}
	MemoryContextDelete(rows);
	return fits;
}

/* ------------------------------------------------------------------------
 * One database
 * ------------------------------------------------------------------------
 */

static void
make_known(const PgrDefinition *definition, void *arg)
{
	PgrText name = {definition->name, definition->name_len};
	PgrDefinition known;

	if (pgr_write_find_known(name, &known))
		pgr_grants_refresh(&known);
	else
		pgr_pending_create(definition);
}

/* With this transaction's commit the directory names every registry. */
static void
load_definitions(void)
{
	pgr_write_lock_directory();
	pgr_table->each_definition(PGR_VIEW_COMMITTED, make_known, NULL);
	pgr_pending_complete(pgr_directory_extension());
}

static void
begin(void)
{
	StartTransactionCommand();
	PushActiveSnapshot(GetTransactionSnapshot());
}

static void
commit(void)
{
	PopActiveSnapshot();
	CommitTransactionCommand();
}

typedef struct HollowList
{
	MemoryContext context; /* outlives the transaction */
	List *definitions;
	bool has_rates; /* they are loaded already */
} HollowList;

/* As of the statement's pin. */
static void
collect_hollow(HollowList *list)
{
	const PgrPin *pin = pgr_pin();
	uint32 slot = pgr_directory_slot(pin->root, pin->generation, MyDatabaseId,
									 pgr_directory_extension());
	MemoryContext caller = MemoryContextSwitchTo(list->context);
	const PgrBlock *directory;
	PgrEntry entry;
	uint64 position = 0;

	if (slot != PGR_NO_SLOT)
	{
		directory = pgr_root_block(pgr_image, pin->root, slot);
		while (pgr_block_next_entry(directory, pin->generation, &position,
									&entry))
		{
			const PgrBlock *block = pgr_root_block(pgr_image, pin->root,
												   (uint32) entry.fixed.i8);
			PgrDefinition *definition;

			if (block->definition.residency != PGR_FROM_TABLE)
				continue;
			definition = palloc(sizeof(PgrDefinition));
			*definition = block->definition;
			list->definitions = lappend(list->definitions, definition);
		}
	}
	MemoryContextSwitchTo(caller);
}

static bool
prepare_load(HollowList *list)
{
	bool installed;

	begin();
	installed = OidIsValid(pgr_tables_definitions());
	if (installed)
		pgr_guard_repair();
	commit();
	if (!installed)
		return false;
	/* the table of rates is asked until the directory is complete: by then
	 * memory has to know what this database has withdrawn */
	begin();
	list->has_rates = pgr_rate_sets_load(false);
	commit();
	begin();
	pgr_guard_require();
	if (!pgr_directory_is_complete_now(MyDatabaseId,
									   pgr_directory_extension()))
		load_definitions();
	commit();
	begin();
	collect_hollow(list);
	commit();
	return true;
}

/*
 * A follower that finds itself on a promoted server brings the image up to
 * date, which is less work; if there is none, what it left goes.
 */
static bool
is_being_followed(void)
{
	const PgrFollowPlace *place = pgr_follow_place(MyDatabaseId);

	if (place != NULL && place->pid != 0)
		return true;
	pgr_restate_end_following();
	return false;
}

/*
 * One registry with a value that nobody can read, say, must not keep the
 * others out of memory.  It is read from its table, where reading that value
 * says what is wrong.
 */
static bool
load_one(PgrDefinition *definition)
{
	MemoryContext caller = CurrentMemoryContext;
	volatile bool loaded = false;

	PG_TRY();
	{
		begin();
		pgr_load_set_loading(MyDatabaseId, definition->incarnation);
		loaded = pgr_load_registry(definition);
		commit();
	}
	PG_CATCH();
	{
		ErrorData *error;

		MemoryContextSwitchTo(caller);
		error = CopyErrorData();
		if (error->sqlerrcode == ERRCODE_QUERY_CANCELED ||
			error->sqlerrcode == ERRCODE_LOCK_NOT_AVAILABLE)
			PG_RE_THROW();
		FlushErrorState();
		AbortCurrentTransaction();
		ereport(DEBUG1,
				(errmsg_internal("registry \"%s\" is not loaded: %s",
								 definition->name, error->message)));
		FreeErrorData(error);
	}
	PG_END_TRY();
	pgr_load_set_loading(InvalidOid, 0);
	MemoryContextSwitchTo(caller);
	return loaded;
}

int
pgr_load_database(void)
{
	HollowList list = {
		.context = AllocSetContextCreate(TopMemoryContext, "pg_registry loads",
										 ALLOCSET_SMALL_SIZES),
	};
	ListCell *cell;
	int failed = 0;

	if (!is_being_followed() && prepare_load(&list))
	{
		foreach (cell, list.definitions)
		{
			failed += !load_one(lfirst(cell));
		}
		begin();
		(void) (list.has_rates || pgr_rate_sets_load(true));
		commit();
	}
	MemoryContextDelete(list.context);
	return failed;
}

/* ------------------------------------------------------------------------
 * Comparing
 * ------------------------------------------------------------------------
 */

typedef void (*VisitProblem)(const char *key, uint32 key_len,
							 const char *problem, void *arg);

static bool
is_same_entry(const PgrEntry *a, const PgrEntry *b)
{
	return a->fixed.i8 == b->fixed.i8 && a->expires_at == b->expires_at &&
		a->item->value_len == b->item->value_len &&
		memcmp(a->item->data, b->item->data, a->item->value_len) == 0;
}

/* Entries that have expired may have gone from either. */
static bool
has_expired(const PgrEntry *entry, TimestampTz now)
{
	return entry->expires_at != 0 && entry->expires_at <= now;
}

/* What "a" has and "b" has not, or not so. */
static void
compare_one_way(const PgrBlock *a, const PgrBlock *b, uint64 generation,
				const char *missing, const char *differs, VisitProblem visit,
				void *arg)
{
	TimestampTz now = GetCurrentTransactionStartTimestamp();
	uint64 position = 0;
	PgrEntry entry;
	PgrEntry other;

	while (pgr_block_next_entry(a, generation, &position, &entry))
	{
		CHECK_FOR_INTERRUPTS();
		if (has_expired(&entry, now))
			continue;
		if (!pgr_block_lookup(b, generation, entry.key, entry.key_len, &other))
			visit(entry.key, entry.key_len, missing, arg);
		else if (differs != NULL && !is_same_entry(&entry, &other))
			visit(entry.key, entry.key_len, differs, arg);
	}
}

void
pgr_load_compare(const PgrDefinition *definition, VisitProblem visit,
				 void *arg)
{
	const PgrBlock *table = pgr_table_block(definition, PGR_VIEW_COMMITTED);
	const PgrSharedRoot *root;
	const PgrBlock *block;
	uint64 generation;
	uint32 slot;
	int cell = pgr_line_pin(GetCurrentTimestamp(), &generation, &root);

	PG_TRY();
	{
		block = pgr_directory_find(root, generation, definition->database,
								   definition->extension, definition->name,
								   definition->name_len, &slot);
		if (block != NULL && block->definition.residency == PGR_RESIDENT)
		{
			compare_one_way(table, block, generation, "not in memory",
							"differs in memory", visit, arg);
			compare_one_way(block, table, generation, "not in the table", NULL,
							visit, arg);
		}
	}
	PG_FINALLY();
	{
		if (cell >= 0)
			pgr_line_unpin(cell);
	}
	PG_END_TRY();
}
