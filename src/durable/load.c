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

#include "base/clock.h"
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
#include "settings.h"
#include "shm/area.h"
#include "shm/follow_state.h"
#include "shm/load_state.h"

#ifdef PGR_TESTING
#include "durable/session.h"
#include "storage/lock.h"
#endif

/* ------------------------------------------------------------------------
 * One registry
 * ------------------------------------------------------------------------
 */

StaticAssertDecl(PGR_BOUND_BYTES >= PGR_KEY_MAX_BYTES,
				 "every key can be a bound");

/* What memory has of a registry, in one look. */
typedef struct Memory
{
	uint32 slot; /* PGR_NO_SLOT: nothing */
	PgrResidency residency;
	TimestampTz changed_at;
	uint64 birth; /* of its block */
} Memory;

static Memory
look_at(const PgrDefinition *definition)
{
	Memory memory = {.slot = PGR_NO_SLOT};
	const PgrBlock *block;
	uint32 slot;

	LWLockAcquire(pgr_area_lock(PGR_LOCK_WRITER), LW_SHARED);
	block = pgr_directory_find(pgr_image_ptr(pgr_image, pgr_image->root),
							   PGR_NEWEST, definition->database,
							   definition->extension, definition->name,
							   definition->name_len, &slot);
	if (block != NULL && definition->incarnation != 0 &&
		block->definition.incarnation == definition->incarnation)
	{
		memory.slot = slot;
		memory.residency = (PgrResidency) block->definition.residency;
		memory.changed_at = pgr_block_changed_at(block, PGR_NEWEST);
		memory.birth = block->object.birth;
	}
	LWLockRelease(pgr_area_lock(PGR_LOCK_WRITER));
	return memory;
}

static TimestampTz
last_change(const PgrDefinition *definition, const PgrChange *changes, int n)
{
	TimestampTz last = definition->created_at;

	for (int i = 0; i < n; i++)
		last = Max(last, changes[i].updated_at);
	return last;
}

static bool
publish(PgrPlanRegistry *registry, TimestampTz now)
{
	PgrRef page;
	PgrPlan plan = {
		.registries = registry,
		.nregistries = 1,
		.pages = &page,
		.counts = true,
		.hollows = registry->residency == PGR_MAKE_HOLLOW,
		.now = now,
		.by = pgr_publishers_load(),
	};
	Size wanted;

	/* no slot: its database has yet to be loaded */
	if (registry->slot == PGR_NO_SLOT || !pgr_plan_reserve(&plan, &wanted))
		return false;
	(void) pgr_plan_commit(&plan);
	return !plan.some_void;
}

/* Publish these entries, and no others, as the whole or the first part of it. */
static bool
publish_first(const PgrDefinition *definition, PgrChange *changes, int n,
			  PgrPlanResidency residency)
{
	PgrPlanRegistry registry = {
		.action = PGR_PLAN_CHANGE,
		.slot = look_at(definition).slot,
		.definition = *definition,
		.changes = changes,
		.nchanges = n,
		.fresh = true,
		.residency = residency,
	};

	return publish(&registry, last_change(definition, changes, n));
}

/*
 * Publish these entries beside those that memory has.  False also if it has
 * another block by now: it may have none of them.
 */
static bool
publish_next(const PgrDefinition *definition, const Memory *memory,
			 PgrChange *changes, int n, PgrPlanResidency residency)
{
	PgrPlanRegistry registry = {
		.action = PGR_PLAN_CHANGE,
		.slot = memory->slot,
		.definition = *definition,
		.changes = changes,
		.nchanges = n,
		.residency = residency,
		.expected_birth = memory->birth,
	};

	return publish(&registry,
				   Max(memory->changed_at,
					   last_change(definition, changes, n)));
}

/* If a part of it is in memory, that goes. */
static void
give_up_part(const PgrDefinition *definition)
{
	Memory memory = look_at(definition);
	PgrPlanRegistry registry = {
		.action = PGR_PLAN_CHANGE,
		.slot = memory.slot,
		.definition = *definition,
	};

	if (memory.slot == PGR_NO_SLOT || memory.residency != PGR_PARTIAL)
		return;
	pgr_plan_make_hollow(&registry);
	(void) publish(&registry, memory.changed_at);
}

static void
end_bound(const PgrDefinition *definition)
{
	PgrPartialLoad part = {
		.database = definition->database,
		.slot = look_at(definition).slot,
		.incarnation = definition->incarnation,
	};

	pgr_load_end_bound(&part);
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
		fits = publish_first(definition, changes, n, PGR_MAKE_RESIDENT);
		if (!fits)
			give_up_part(definition);
		end_bound(definition);
		MemoryContextSwitchTo(caller);
	}
	MemoryContextDelete(rows);
	return fits;
}

/* ------------------------------------------------------------------------
 * One batch
 * ------------------------------------------------------------------------
 */

/*
 * How long a loader reads rows: with the wait for a lock before it, or with
 * what it publishes after it, less than CREATE DATABASE waits for us (N-2).
 */
#define TURN_MS 2000
#define ROWS_BETWEEN_LOOKS 1024

static int64 turn_began_ms = 0;
static int64 turn_entries = 0; /* of registries, or parts, before this one */

/* With n entries more: is it another loader's turn? */
static bool
is_turn_over(int n)
{
#ifdef PGR_TESTING
	if (pgr_settings.test_load_entries > 0)
		return turn_entries + n >= pgr_settings.test_load_entries;
#endif
	return n % ROWS_BETWEEN_LOOKS == 0 &&
		pgr_monotonic_ms() - turn_began_ms >= TURN_MS;
}

#ifdef PGR_TESTING
/* With rows that have been read, and the lock on their registry. */
static void
wait_for_test(void)
{
	LOCKTAG tag;

	if (pgr_settings.test_batch_lock == 0)
		return;
	pgr_session_option("lock_timeout", "0");
	/* pg_advisory_lock(0, n) */
	SET_LOCKTAG_ADVISORY(tag, MyDatabaseId, 0, pgr_settings.test_batch_lock,
						 2);
	(void) LockAcquire(&tag, ShareLock, false, false);
	pgr_session_option("lock_timeout", PGR_SESSION_LOCK_TIMEOUT);
}
#endif

typedef enum LoadResult
{
	LOADED,
	LOADED_IN_PART, /* there is more of it */
	NO_ROOM
} LoadResult;

/*
 * With the lock on the whole registry.  False if that is not a way to load it:
 * the table has lost its index, there is no room for two blocks, or too many
 * others are loaded in part.
 */
static bool
load_batch(const PgrDefinition *definition, LoadResult *result)
{
	Memory memory = look_at(definition);
	PgrPartialLoad part = {
		.database = definition->database,
		.slot = memory.slot,
		.incarnation = definition->incarnation,
	};
	bool first = memory.residency != PGR_PARTIAL || !pgr_load_bound(&part);
	PgrText bound = {part.key, part.len};
	PgrPlanResidency residency;
	PgrChange *changes;
	bool end;
	int n;

	*result = LOADED;
	if (memory.slot != PGR_NO_SLOT && memory.residency == PGR_RESIDENT)
		return true; /* somebody has reloaded it */
	changes = pgr_table_changes_after(definition, first ? NULL : &bound,
									  PGR_VIEW_COMMITTED, is_turn_over, &n,
									  &end);
	/* a place for the bound comes before the part that it bounds */
	if (changes == NULL || (first && !end && !pgr_load_set_bound(&part)))
		return false;
#ifdef PGR_TESTING
	wait_for_test();
#endif
	residency = end ? PGR_MAKE_RESIDENT : PGR_MAKE_PARTIAL;
	if (!(first ? publish_first(definition, changes, n, residency) :
				  publish_next(definition, &memory, changes, n, residency)))
		return false;
	if (end)
		pgr_load_end_bound(&part);
	else
	{
		part.len = changes[n - 1].key_len;
		memcpy(part.key, changes[n - 1].key, part.len);
		(void) pgr_load_set_bound(&part);
	}
	turn_entries += n;
	if (!end)
		*result = LOADED_IN_PART;
	return true;
}

static LoadResult
load_in_batches(PgrDefinition *definition)
{
	PgrText name = {definition->name, definition->name_len};
	MemoryContext caller = CurrentMemoryContext;
	MemoryContext rows = AllocSetContextCreate(caller, "pg_registry batch",
											   ALLOCSET_DEFAULT_SIZES);
	LoadResult result = LOADED;
	bool done = true;

	pgr_guard_require();
	if (pgr_write_open_row(name, NULL, definition) && definition->durable)
	{
		MemoryContextSwitchTo(rows);
		done = load_batch(definition, &result);
		MemoryContextSwitchTo(caller);
	}
	MemoryContextDelete(rows);
	if (done)
		return result;
	give_up_part(definition); /* to make room */
	return pgr_load_registry(definition) ? LOADED : NO_ROOM;
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

/* Incarnations are no names: a load makes many registries by one publish. */
typedef struct Hollow
{
	uint32 slot;
	PgrDefinition definition;
} Hollow;

typedef struct HollowList
{
	MemoryContext context; /* outlives the transaction */
	List *registries;      /* Hollow, in the order of their slots */
	bool has_rates;        /* they are loaded already */
} HollowList;

static int
compare_slots(const ListCell *a, const ListCell *b)
{
	const Hollow *one = lfirst(a);
	const Hollow *other = lfirst(b);

	return (one->slot > other->slot) - (one->slot < other->slot);
}

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
			Hollow *hollow;

			if (!pgr_is_read_from_table(&block->definition))
				continue;
			hollow = palloc(sizeof(Hollow));
			hollow->slot = (uint32) entry.fixed.i8;
			hollow->definition = block->definition;
			list->registries = lappend(list->registries, hollow);
		}
	}
	list_sort(list->registries, compare_slots);
	MemoryContextSwitchTo(caller);
}

/* Of another database, or of a registry that is still loaded in part. */
static bool
is_bound_of_use(const PgrPartialLoad *partial, void *arg)
{
	const HollowList *list = arg;
	ListCell *cell;

	if (partial->database != MyDatabaseId)
		return true;
	foreach (cell, list->registries)
	{
		const Hollow *hollow = lfirst(cell);

		if (hollow->slot == partial->slot &&
			hollow->definition.incarnation == partial->incarnation &&
			hollow->definition.residency == PGR_PARTIAL)
			return true;
	}
	return false;
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
	pgr_load_keep_bounds(is_bound_of_use, list);
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
static LoadResult
load_one(PgrDefinition *definition)
{
	MemoryContext caller = CurrentMemoryContext;
	volatile LoadResult loaded = NO_ROOM;

	PG_TRY();
	{
		begin();
		pgr_load_set_loading(MyDatabaseId, definition->incarnation);
		loaded = load_in_batches(definition);
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
		give_up_part(definition);
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

/* Those behind "turn->after", as long as its time lasts. */
static void
load_hollow(const HollowList *list, PgrLoadTurn *turn)
{
	ListCell *cell;

	foreach (cell, list->registries)
	{
		Hollow *hollow = lfirst(cell);
		LoadResult result;

		if (hollow->slot <= turn->after)
			continue;
		result = load_one(&hollow->definition);
		turn->not_fitting += result == NO_ROOM;
		turn->after = result == LOADED_IN_PART ? hollow->slot - 1 :
												 hollow->slot;
		turn->more = result == LOADED_IN_PART ||
			(lnext(list->registries, cell) != NULL && is_turn_over(0));
		if (turn->more)
			return;
	}
}

void
pgr_load_database(PgrLoadTurn *turn)
{
	HollowList list = {
		.context = AllocSetContextCreate(TopMemoryContext, "pg_registry loads",
										 ALLOCSET_SMALL_SIZES),
	};

	turn_began_ms = turn->began_ms;
	turn_entries = 0;
	if (!is_being_followed() && prepare_load(&list))
	{
		load_hollow(&list, turn);
		begin();
		(void) (list.has_rates || turn->more || pgr_rate_sets_load(true));
		commit();
	}
	MemoryContextDelete(list.context);
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
