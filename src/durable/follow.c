/*
 * durable/follow.c
 *	  See follow.h.  Runs in a follower, on a standby.
 */
#include "postgres.h"

#include "access/transam.h"
#include "access/xact.h"
#include "access/xlog.h"
#include "access/xlogrecovery.h"
#include "catalog/pg_type.h"
#include "miscadmin.h"
#include "storage/lwlock.h"
#include "utils/builtins.h"
#include "utils/hsearch.h"
#include "utils/memutils.h"
#include "utils/snapmgr.h"
#include "utils/timestamp.h"

#include "base/clock.h"
#include "base/compat.h"
#include "durable/changes.h"
#include "durable/follow.h"
#include "durable/tables.h"
#include "registry/directory.h"
#include "registry/line.h"
#include "registry/restate.h"
#include "shm/area.h"

/* What had no room is tried again so often. */
#define RETRY_HOLLOW_MS INT64CONST(30000)
#define MAX_RETRY_HOLLOW_MS INT64CONST(600000)

/* More keys than this of one registry: read all of it. */
#define MAX_KEYS 100000

/* A snapshot, as far as it is about transactions; ids do not wrap around. */
typedef struct Since
{
	uint64 xmin;
	uint64 xmax;
	uint64 *running; /* sorted */
	int nrunning;
} Since;

/* What this process knows of its database; none of it is in a transaction. */
static MemoryContext followed = NULL; /* holds "since" */
static Since since;
static bool is_loaded = false; /* "since" is valid */
static XLogRecPtr polled_lsn = InvalidXLogRecPtr;
static Oid extension = InvalidOid;
static bool some_hollow = false; /* had no room */
static int64 hollow_ms = 0;      /* when that was found last */
static int64 retry_hollow_ms = RETRY_HOLLOW_MS;

/* ------------------------------------------------------------------------
 * Snapshots
 * ------------------------------------------------------------------------
 */

static int
compare_ids(const void *a, const void *b)
{
	uint64 x = *(const uint64 *) a;
	uint64 y = *(const uint64 *) b;

	return x < y ? -1 : x > y;
}

/* In the current memory context. */
static void
describe_snapshot(Snapshot snapshot, Since *to)
{
	/* in recovery all are where else subtransactions are */
	const TransactionId *ids = snapshot->takenDuringRecovery ?
		snapshot->subxip :
		snapshot->xip;

	to->xmin = pgr_changes_widen(snapshot->xmin);
	to->xmax = pgr_changes_widen(snapshot->xmax);
	to->nrunning = snapshot->takenDuringRecovery ? snapshot->subxcnt :
												   (int) snapshot->xcnt;
	to->running = palloc(Max(to->nrunning, 1) * sizeof(uint64));
	for (int i = 0; i < to->nrunning; i++)
		to->running[i] = pgr_changes_widen(ids[i]);
	qsort(to->running, to->nrunning, sizeof(uint64), compare_ids);
}

static bool
is_running(const Since *snapshot, uint64 xid)
{
	return bsearch(&xid, snapshot->running, snapshot->nrunning, sizeof(uint64),
				   compare_ids) != NULL;
}

static void
keep_since(const Since *from)
{
	uint64 *running;

	if (followed == NULL)
		followed = AllocSetContextCreate(TopMemoryContext,
										 "pg_registry follower",
										 ALLOCSET_DEFAULT_SIZES);
	MemoryContextReset(followed);
	running = MemoryContextAlloc(followed,
								 Max(from->nrunning, 1) * sizeof(uint64));
	if (from->nrunning > 0)
		memcpy(running, from->running, from->nrunning * sizeof(uint64));
	since = *from;
	since.running = running;
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

/* ------------------------------------------------------------------------
 * What has changed
 * ------------------------------------------------------------------------
 */

typedef struct Changed
{
	char name[PGR_NAME_LEN]; /* padded with zeros: the key */
	bool all;
	PgrText *keys;
	int nkeys;
	int capacity;
} Changed;

typedef struct Changes
{
	HTAB *registries;
	uint64 pruned; /* nothing below is left in the log */
} Changes;

static Changed *
find_changed(Changes *changes, PgrText name)
{
	char key[PGR_NAME_LEN] = {0};
	bool found;
	Changed *changed;

	memcpy(key, name.data, name.len);
	changed = hash_search(changes->registries, key, HASH_ENTER, &found);
	if (!found)
		memset(&changed->all, 0, sizeof(Changed) - offsetof(Changed, all));
	return changed;
}

static void
add_key(Changed *changed, Datum key)
{
	if (changed->nkeys == changed->capacity)
	{
		changed->capacity = Max(16, changed->capacity * 2);
		changed->keys = changed->keys ?
			repalloc(changed->keys, changed->capacity * sizeof(PgrText)) :
			palloc(changed->capacity * sizeof(PgrText));
	}
	changed->keys[changed->nkeys++] = pgr_text(key);
}

static void
add_keys(Changed *changed, ArrayType *keys)
{
	Datum *elements;
	int n;

	/* the row's own memory ends with the scan's next step */
	keys = (ArrayType *) PG_DETOAST_DATUM_COPY(PointerGetDatum(keys));
	deconstruct_array(keys, TEXTOID, -1, false, TYPALIGN_INT, &elements, NULL,
					  &n);
	for (int i = 0; i < n; i++)
		add_key(changed, elements[i]);
	changed->all |= changed->nkeys > MAX_KEYS;
}

static void
take_row(const PgrChangesRow *row, void *arg)
{
	Changes *changes = arg;
	Changed *changed;

	changes->pruned = Max(changes->pruned, row->pruned);
	if (row->registry.len == 0 || row->registry.len >= PGR_NAME_LEN)
		return;
	changed = find_changed(changes, row->registry);
	if (row->keys == NULL)
		changed->all = true;
	else if (!changed->all)
		add_keys(changed, row->keys);
}

/* All that ended between "since" and "now", the active snapshot. */
static void
collect_changes(const Since *now, Changes *changes)
{
	HASHCTL control = {
		.keysize = PGR_NAME_LEN,
		.entrysize = sizeof(Changed),
		.hcxt = CurrentMemoryContext,
	};

	changes->registries = hash_create("pg_registry changes", 32, &control,
									  HASH_ELEM | HASH_BLOBS | HASH_CONTEXT);
	for (int i = 0; i < since.nrunning; i++)
		if (!is_running(now, since.running[i]))
			pgr_changes_visit(since.running[i], since.running[i] + 1, take_row,
							  changes);
	if (now->xmax > since.xmax)
		pgr_changes_visit(since.xmax, now->xmax, take_row, changes);
}

/* Registries that had no room: nobody else changes what we look at. */
static void
add_hollow(Changes *changes)
{
	const PgrSharedRoot *root;
	uint64 generation;
	int cell = pgr_line_pin(GetCurrentTimestamp(), &generation, &root);
	uint32 slot = pgr_directory_slot(root, generation, MyDatabaseId,
									 extension);
	uint64 position = 0;
	PgrEntry entry;

	while (slot != PGR_NO_SLOT &&
		   pgr_block_next_entry(pgr_root_block(pgr_image, root, slot),
								generation, &position, &entry))
	{
		const PgrDefinition *definition =
			&pgr_root_block(pgr_image, root, (uint32) entry.fixed.i8)
				 ->definition;
		PgrText name = {definition->name, definition->name_len};

		if (definition->residency == PGR_FROM_TABLE)
			find_changed(changes, name)->all = true;
	}
	if (cell >= 0)
		pgr_line_unpin(cell);
}

/* ------------------------------------------------------------------------
 * Reading it
 * ------------------------------------------------------------------------
 */

static int
compare_keys(const void *a, const void *b)
{
	const PgrText *x = a;
	const PgrText *y = b;

	if (x->len != y->len)
		return x->len < y->len ? -1 : 1;
	return memcmp(x->data, y->data, x->len);
}

static void
read_key(const PgrDefinition *definition, PgrText key, PgrChange *change)
{
	PgrText name = {definition->name, definition->name_len};
	PgrTableRow row;
	PgrValue value;

	memset(change, 0, sizeof(*change));
	change->key = key.data;
	change->key_len = key.len;
	change->remove = !pgr_table->find(name, key, PGR_VIEW_STATEMENT, &row);
	if (change->remove)
		return;
	pgr_value_from_text((PgrValueType) definition->value_type, row.value,
						&value);
	change->value = value.data;
	change->value_len = value.len;
	change->fixed = value.fixed;
	change->updated_at = row.updated_at;
	change->expires_at = row.expires_at;
}

static void
read_keys(Changed *changed, PgrRestated *registry)
{
	registry->changes = palloc(Max(changed->nkeys, 1) * sizeof(PgrChange));
	qsort(changed->keys, changed->nkeys, sizeof(PgrText), compare_keys);
	for (int i = 0; i < changed->nkeys; i++)
		if (i == 0 ||
			compare_keys(&changed->keys[i], &changed->keys[i - 1]) != 0)
			read_key(&registry->definition, changed->keys[i],
					 &registry->changes[registry->nchanges++]);
}

/* The newest of its rows; a deletion leaves none, and is of now. */
static TimestampTz
change_time(const PgrRestated *registry)
{
	TimestampTz last = registry->all ? registry->definition.created_at : 0;

	for (int i = 0; i < registry->nchanges; i++)
		last = Max(last,
				   registry->changes[i].remove ?
					   GetCurrentTransactionStartTimestamp() :
					   registry->changes[i].updated_at);
	return last;
}

/* As the active snapshot sees it. */
static void
read_registry(Changed *changed, PgrRestated *registry)
{
	PgrText name = {changed->name,
					(uint32) strnlen(changed->name, PGR_NAME_LEN)};
	PgrDefinition *definition = &registry->definition;

	memset(registry, 0, sizeof(*registry));
	registry->all = changed->all;
	registry->gone = !pgr_table->definition(name, PGR_VIEW_STATEMENT,
											definition);
	if (registry->gone)
	{
		memset(definition, 0, sizeof(*definition));
		memcpy(definition->name, name.data, name.len);
		definition->name_len = (uint16) name.len;
		return;
	}
	registry->grants = pgr_table->grants(name, PGR_VIEW_STATEMENT,
										 &registry->ngrants);
	if (!definition->durable)
		return;
	if (changed->all)
		registry->changes = pgr_table_changes(definition, PGR_VIEW_STATEMENT,
											  &registry->nchanges);
	else
		read_keys(changed, registry);
	registry->changed_at = change_time(registry);
}

static PgrRestated *
read_changes(Changes *changes, int *n)
{
	long count = hash_get_num_entries(changes->registries);
	PgrRestated *registries = palloc(Max(count, 1) * sizeof(PgrRestated));
	HASH_SEQ_STATUS status;
	Changed *changed;

	*n = 0;
	hash_seq_init(&status, changes->registries);
	while ((changed = hash_seq_search(&status)) != NULL)
		read_registry(changed, &registries[(*n)++]);
	return registries;
}

/* ------------------------------------------------------------------------
 * Publishing it
 * ------------------------------------------------------------------------
 */

/* Reading what does not fit is work for nothing: ever less often. */
static void
note_hollow(void)
{
	if (some_hollow)
		retry_hollow_ms = Min(2 * retry_hollow_ms, MAX_RETRY_HOLLOW_MS);
	some_hollow = true;
	hollow_ms = pgr_monotonic_ms();
}

static bool
is_time_for_hollow(void)
{
	return some_hollow && pgr_monotonic_ms() - hollow_ms > retry_hollow_ms;
}

/* False if our place has ended. */
static bool
publish(PgrFollowPlace *place, PgrRestated *registries, int n, bool complete)
{
	PgrRestateResult result = PGR_RESTATE_OK;
	bool mine;

	LWLockAcquire(pgr_area_lock(PGR_LOCK_FOLLOW), LW_EXCLUSIVE);
	mine = pgr_follow_is_mine_locked(place, MyDatabaseId);
	if (mine)
		result = pgr_restate(extension, registries, n, complete);
	LWLockRelease(pgr_area_lock(PGR_LOCK_FOLLOW));
	if (result == PGR_RESTATE_FAILED)
		ereport(ERROR,
				(errcode(ERRCODE_OUT_OF_MEMORY),
				 errmsg("out of shared memory for pg_registry")));
	if (result == PGR_RESTATE_HOLLOW)
		note_hollow();
	return mine;
}

/* The image is what the tables were at "at_ms". */
static void
note_poll(PgrFollowPlace *place, int64 at_ms)
{
	/* pairs with the barrier in pgr_follow_lags() */
	pg_write_barrier();
	pg_atomic_write_u64(&place->polled_ms, (uint64) at_ms);
	place->counts.polls++;
}

static void
count_changes(PgrFollowPlace *place, const PgrRestated *registries, int n)
{
	for (int i = 0; i < n; i++)
	{
		if (registries[i].all)
			place->counts.reloads++;
		else
			place->counts.keys += registries[i].nchanges;
	}
}

/* ------------------------------------------------------------------------
 * Loading
 * ------------------------------------------------------------------------
 */

/* A list of names, in the memory context. */
typedef struct NameList
{
	MemoryContext context; /* outlives the transaction */
	List *names;
} NameList;

static void
take_name(const PgrDefinition *definition, void *arg)
{
	NameList *list = arg;
	MemoryContext caller = MemoryContextSwitchTo(list->context);
	Changed *changed = palloc0(sizeof(Changed));

	memcpy(changed->name, definition->name, definition->name_len);
	changed->all = true;
	list->names = lappend(list->names, changed);
	MemoryContextSwitchTo(caller);
}

static bool
load_one(PgrFollowPlace *place, Changed *changed)
{
	PgrRestated registry;
	bool mine;

	begin();
	read_registry(changed, &registry);
	mine = registry.gone || publish(place, &registry, 1, false);
	count_changes(place, &registry, 1);
	commit();
	return mine;
}

static bool
load_all(PgrFollowPlace *place, const NameList *list)
{
	ListCell *cell;

	foreach (cell, list->names)
	{
		CHECK_FOR_INTERRUPTS();
		if (!load_one(place, lfirst(cell)))
			return false;
	}
	return true;
}

/* What is there is of another follower, or too old to go on from. */
static bool
start_empty(PgrFollowPlace *place)
{
	bool mine;
	bool done = true;

	LWLockAcquire(pgr_area_lock(PGR_LOCK_FOLLOW), LW_EXCLUSIVE);
	mine = pgr_follow_is_mine_locked(place, MyDatabaseId);
	if (mine)
	{
		pg_atomic_write_u64(&place->polled_ms, 0);
		done = pgr_restate_forget(MyDatabaseId);
	}
	LWLockRelease(pgr_area_lock(PGR_LOCK_FOLLOW));
	if (!done)
		pgr_plan_out_of_memory(sizeof(PgrSharedRoot));
	return mine;
}

static bool
load(PgrFollowPlace *place)
{
	static MemoryContext context = NULL;
	bool mine = start_empty(place);
	NameList list;
	Since now;

	if (context == NULL)
		context = AllocSetContextCreate(TopMemoryContext, "pg_registry loads",
										ALLOCSET_DEFAULT_SIZES);
	MemoryContextReset(context); /* of a load that failed */
	list = (NameList){.context = context};
	some_hollow = false;
	begin();
	describe_snapshot(GetActiveSnapshot(), &now);
	keep_since(&now);
	extension = pgr_directory_extension();
	pgr_table->each_definition(PGR_VIEW_STATEMENT, take_name, &list);
	commit();
	mine = mine && load_all(place, &list);
	MemoryContextReset(context);
	is_loaded = mine;
	return mine;
}

/* ------------------------------------------------------------------------
 * Polling
 * ------------------------------------------------------------------------
 */

static void
find_durable(const PgrDefinition *definition, void *arg)
{
	*(bool *) arg |= definition->durable;
}

bool
pgr_follow_has_registries(void)
{
	bool any = false;

	begin();
	if (OidIsValid(pgr_tables_definitions()) &&
		OidIsValid(pgr_tables_changes()))
		pgr_table->each_definition(PGR_VIEW_STATEMENT, find_durable, &any);
	commit();
	return any;
}

void
pgr_follow_forget(PgrFollowPlace *place)
{
	LWLockAcquire(pgr_area_lock(PGR_LOCK_FOLLOW), LW_EXCLUSIVE);
	if (pgr_follow_is_mine_locked(place, MyDatabaseId) &&
		pgr_restate_forget(MyDatabaseId))
		pgr_follow_release_locked(place);
	LWLockRelease(pgr_area_lock(PGR_LOCK_FOLLOW));
}

void
pgr_follow_forget_dropped(const List *databases)
{
	LWLockAcquire(pgr_area_lock(PGR_LOCK_FOLLOW), LW_EXCLUSIVE);
	for (int i = 0; i < PGR_FOLLOW_PLACES; i++)
	{
		PgrFollowPlace *other = &pgr_follow_state->places[i];

		if (OidIsValid(other->database) && other->pid == 0 &&
			!list_member_oid(databases, other->database) &&
			pgr_restate_forget(other->database))
			pgr_follow_release_locked(other);
	}
	LWLockRelease(pgr_area_lock(PGR_LOCK_FOLLOW));
}

/* After the last poll: see 4 of the argument. */
static void
end_following(PgrFollowPlace *place)
{
	LWLockAcquire(pgr_area_lock(PGR_LOCK_FOLLOW), LW_EXCLUSIVE);
	if (pgr_follow_is_mine_locked(place, MyDatabaseId))
		pgr_follow_release_locked(place);
	LWLockRelease(pgr_area_lock(PGR_LOCK_FOLLOW));
}

typedef enum Step
{
	STEP_DONE,
	STEP_LOAD_AGAIN,
	STEP_OVER
} Step;

/* In a transaction: from "since" to its snapshot. */
static Step
catch_up(PgrFollowPlace *place, int64 at_ms)
{
	Changes changes = {0};
	PgrRestated *registries;
	Since now;
	bool retry;
	int n;

	if (!OidIsValid(pgr_directory_extension()))
		return STEP_OVER;
	if (pgr_directory_extension() != extension)
		return STEP_LOAD_AGAIN;
	describe_snapshot(GetActiveSnapshot(), &now);
	collect_changes(&now, &changes);
	if (changes.pruned > since.xmin)
		return STEP_LOAD_AGAIN;
	retry = is_time_for_hollow();
	if (retry)
		add_hollow(&changes);
	registries = read_changes(&changes, &n);
	if (!publish(place, registries, n, true))
		return STEP_OVER;
	if (retry && !is_time_for_hollow())
		retry = false; /* some still have no room */
	some_hollow &= !retry;
	count_changes(place, registries, n);
	keep_since(&now);
	note_poll(place, at_ms);
	return STEP_DONE;
}

static Step
catch_up_now(PgrFollowPlace *place)
{
	int64 at_ms = pgr_monotonic_ms();
	XLogRecPtr lsn = GetXLogReplayRecPtr(NULL);
	Step step;

	begin();
	step = catch_up(place, at_ms);
	commit();
	if (step == STEP_DONE)
		polled_lsn = lsn;
	return step;
}

/* Has nothing been replayed since the last poll? */
static bool
is_idle(PgrFollowPlace *place)
{
	int64 at_ms = pgr_monotonic_ms();

	if (!is_loaded || GetXLogReplayRecPtr(NULL) != polled_lsn ||
		is_time_for_hollow())
		return false;
	note_poll(place, at_ms);
	return true;
}

PgrFollowResult
pgr_follow_poll(PgrFollowPlace *place)
{
	bool promoted = !RecoveryInProgress();
	Step step;

	if (!promoted && is_idle(place))
		return PGR_FOLLOW_ON;
	if (!is_loaded && !load(place))
		return PGR_FOLLOW_OVER;
	step = catch_up_now(place);
	if (step == STEP_LOAD_AGAIN)
		is_loaded = false;
	if (step == STEP_OVER)
		pgr_follow_forget(place);
	if (step == STEP_DONE && promoted)
		end_following(place);
	return step == STEP_OVER || (step == STEP_DONE && promoted) ?
		PGR_FOLLOW_OVER :
		PGR_FOLLOW_ON;
}
