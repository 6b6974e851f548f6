/*
 * shm/load_state.c
 *	  Shared state of loads; shm/load_state.h has the protocol.
 *
 * Called by backends, the scheduler, the lister and loaders.  No section under
 * the lock may throw.
 */
#include "postgres.h"

#include "miscadmin.h"
#include "storage/ipc.h"
#include "storage/lwlock.h"
#include "utils/timestamp.h"

#include "shm/area.h"
#include "shm/load_state.h"
#include "shm/refresh_state.h"

#define REMIND_AFTER_MS (60 * 60 * 1000)

PgrSharedLoads *pgr_load_state = NULL;

Size
pgr_load_state_size(void)
{
	return sizeof(PgrSharedLoads);
}

void
pgr_load_state_init(void *part, Size size)
{
	PgrSharedLoads *state = part;

	memset(state, 0, size);
	pg_atomic_init_u64(&state->wanted, 1);
	pg_atomic_init_u64(&state->taken, 0);
	pg_atomic_init_u64(&state->done, 0);
}

static PgrLoadReport *
state_lock(LWLockMode mode)
{
	LWLockAcquire(pgr_area_lock(PGR_LOCK_LOADS), mode);
	return &pgr_load_state->report;
}

static void
state_unlock(void)
{
	LWLockRelease(pgr_area_lock(PGR_LOCK_LOADS));
}

void
pgr_load_state_read(PgrLoadReport *report)
{
	*report = *state_lock(LW_SHARED);
	report->done = pg_atomic_read_u64(&pgr_load_state->done);
	report->wanted = pg_atomic_read_u64(&pgr_load_state->wanted);
	state_unlock();
}

void
pgr_load_want(void)
{
	PgrSharedLoads *state = pgr_load_state;

	if (state == NULL)
		return;
	/* pairs with the barrier in take_requests() */
	pg_memory_barrier();
	if (pg_atomic_read_u64(&state->wanted) !=
		pg_atomic_read_u64(&state->taken))
		return;
	pg_atomic_fetch_add_u64(&state->wanted, 1);
	pgr_refresh_wake_scheduler();
}

void
pgr_load_retry(void)
{
	if (pgr_load_state == NULL)
		return;
	pgr_load_want();
	state_lock(LW_EXCLUSIVE)->attempts = 0;
	state_unlock();
	pgr_refresh_wake_scheduler();
}

/* ------------------------------------------------------------------------
 * The scheduler
 * ------------------------------------------------------------------------
 */

void
pgr_load_attempt(void)
{
	state_lock(LW_EXCLUSIVE)->attempts++;
	state_unlock();
}

void
pgr_load_no_slot(void)
{
	PgrLoadReport *report = state_lock(LW_EXCLUSIVE);
	bool first = !report->no_slot_logged;

	report->no_slot_logged = true;
	state_unlock();

	if (first)
		ereport(LOG,
				(errmsg("pg_registry cannot load registries: there is no free slot for a background worker"),
				 errdetail("Registries that are not in memory are read from their tables."),
				 errhint("If this lasts, raise max_worker_processes; pg_registry needs four.")));
}

/* ------------------------------------------------------------------------
 * The lister
 * ------------------------------------------------------------------------
 */

static void
take_requests(void)
{
	PgrSharedLoads *state = pgr_load_state;

	pg_atomic_write_u64(&state->taken, pg_atomic_read_u64(&state->wanted));
	/* pairs with the barrier in pgr_load_want() */
	pg_memory_barrier();
}

/* before_shmem_exit callback of the lister. */
static void
lister_ended_cb(int code, Datum arg)
{
	PgrLoadReport *report = state_lock(LW_EXCLUSIVE);

	if (report->lister_pid == MyProcPid)
		report->lister_pid = 0;
	state_unlock();

	/* a request may have come too late for this round */
	pgr_refresh_wake_scheduler();
}

bool
pgr_load_round_begin(uint64 *round)
{
	PgrLoadReport *report;
	bool alone;

	before_shmem_exit(lister_ended_cb, (Datum) 0);

	report = state_lock(LW_EXCLUSIVE);
	alone = report->lister_pid == 0;
	if (alone)
	{
		report->lister_pid = MyProcPid;
		report->rounds++;
		report->last_round_at = GetCurrentTimestamp();
		report->databases = 0;
		report->reported = 0;
		report->failed_before = report->failed;
		report->failed = 0;
		report->not_fitting = 0;
		memset(pgr_load_state->more, 0, sizeof(pgr_load_state->more));
	}
	*round = report->rounds;
	state_unlock();

	if (alone)
		take_requests();
	return alone;
}

static void
forget_complaints(PgrSharedLoads *state)
{
	memset(state->complaints, 0, sizeof(state->complaints));
	state->report.no_slot_logged = false;
}

void
pgr_load_round_end(int databases, bool all)
{
	PgrSharedLoads *state = pgr_load_state;
	PgrLoadReport *report = state_lock(LW_EXCLUSIVE);

	report->databases = databases;
	if (all && report->reported == databases && report->failed == 0)
		forget_complaints(state);
	else
		all = false;
	if (all && report->not_fitting == 0)
	{
		report->attempts = 0;
		report->complete_rounds++;
		report->last_complete_at = GetCurrentTimestamp();
		pg_atomic_write_u64(&state->done, pg_atomic_read_u64(&state->taken));
	}
	state_unlock();
}

/* ------------------------------------------------------------------------
 * Loaders
 * ------------------------------------------------------------------------
 */

void
pgr_load_loader_ended(uint64 round, PgrLoadOutcome outcome, int not_fitting)
{
	bool failed = outcome == PGR_LOAD_LOST || outcome == PGR_LOAD_FAILED;
	PgrLoadReport *report = state_lock(LW_EXCLUSIVE);

	if (failed)
		report->failures++;
	if (outcome == PGR_LOAD_OK)
		report->databases_loaded++;
	/* one whose lister was terminated may outlive its round */
	if (report->rounds == round)
	{
		report->reported++;
		report->failed += failed ? 1 : 0;
		report->not_fitting += not_fitting;
	}
	state_unlock();
}

void
pgr_load_leave(uint64 round, Oid database, uint32 after)
{
	const PgrLoadReport *report = state_lock(LW_EXCLUSIVE);

	for (int i = 0; i < PGR_LOADS_AT_ONCE && report->rounds == round; i++)
	{
		PgrLoadMore *more = &pgr_load_state->more[i];

		if (OidIsValid(more->database))
			continue;
		more->database = database;
		more->after = after;
		break;
	}
	state_unlock();
}

bool
pgr_load_take(Oid *database, uint32 *after)
{
	*database = InvalidOid;
	(void) state_lock(LW_EXCLUSIVE);
	for (int i = 0; i < PGR_LOADS_AT_ONCE && !OidIsValid(*database); i++)
	{
		PgrLoadMore *more = &pgr_load_state->more[i];

		*database = more->database;
		*after = more->after;
		more->database = InvalidOid;
	}
	state_unlock();
	return OidIsValid(*database);
}

static PgrPartialLoad *
find_partial(const PgrPartialLoad *like)
{
	for (int i = 0; i < PGR_PARTIAL_LOADS; i++)
	{
		PgrPartialLoad *partial = &pgr_load_state->partial[i];

		if (partial->incarnation == like->incarnation &&
			partial->slot == like->slot && partial->database == like->database)
			return partial;
	}
	return NULL;
}

bool
pgr_load_bound(PgrPartialLoad *partial)
{
	const PgrPartialLoad *found;

	(void) state_lock(LW_SHARED);
	found = find_partial(partial);
	if (found != NULL)
		*partial = *found;
	state_unlock();
	return found != NULL;
}

bool
pgr_load_set_bound(const PgrPartialLoad *partial)
{
	static const PgrPartialLoad unused = {0};
	PgrPartialLoad *place;

	Assert(partial->len <= PGR_BOUND_BYTES);
	(void) state_lock(LW_EXCLUSIVE);
	place = find_partial(partial);
	if (place == NULL)
		place = find_partial(&unused);
	if (place != NULL)
		*place = *partial;
	state_unlock();
	return place != NULL;
}

static void
forget(PgrPartialLoad *partial)
{
	memset(partial, 0, offsetof(PgrPartialLoad, key));
}

void
pgr_load_end_bound(const PgrPartialLoad *partial)
{
	PgrPartialLoad *found;

	(void) state_lock(LW_EXCLUSIVE);
	found = find_partial(partial);
	if (found != NULL)
		forget(found);
	state_unlock();
}

void
pgr_load_keep_bounds(bool (*keep)(const PgrPartialLoad *partial, void *arg),
					 void *arg)
{
	(void) state_lock(LW_EXCLUSIVE);
	for (int i = 0; i < PGR_PARTIAL_LOADS; i++)
	{
		PgrPartialLoad *partial = &pgr_load_state->partial[i];

		if (partial->incarnation != 0 && !keep(partial, arg))
			forget(partial);
	}
	state_unlock();
}

/* With pid 0: the first place that is free; NULL if there is none. */
static PgrLoading *
find_loading(int pid)
{
	for (int i = 0; i < PGR_LOADS_AT_ONCE; i++)
		if (pgr_load_state->loading[i].pid == pid)
			return &pgr_load_state->loading[i];
	return NULL;
}

void
pgr_load_set_loading(Oid database, uint64 incarnation)
{
	PgrLoading *loading;

	(void) state_lock(LW_EXCLUSIVE);
	loading = find_loading(MyProcPid);
	if (loading == NULL)
		loading = find_loading(0);
	if (loading != NULL)
	{
		loading->pid = incarnation != 0 ? MyProcPid : 0;
		loading->database = database;
		loading->incarnation = incarnation;
	}
	state_unlock();
}

bool
pgr_load_is_loading(Oid database, uint64 incarnation)
{
	bool found = false;

	(void) state_lock(LW_SHARED);
	for (int i = 0; i < PGR_LOADS_AT_ONCE; i++)
	{
		const PgrLoading *loading = &pgr_load_state->loading[i];

		found |= loading->pid != 0 && loading->database == database &&
			loading->incarnation == incarnation;
	}
	state_unlock();
	return found;
}

/* The place where the complaint about a database stands, or will. */
static PgrLoadComplaint *
find_complaint(PgrSharedLoads *state, Oid database)
{
	for (int i = 0; i < PGR_LOAD_COMPLAINTS; i++)
		if (state->complaints[i].at != 0 &&
			state->complaints[i].database == database)
			return &state->complaints[i];
	state->next_complaint = (state->next_complaint + 1) % PGR_LOAD_COMPLAINTS;
	memset(&state->complaints[state->next_complaint], 0,
		   sizeof(PgrLoadComplaint));
	return &state->complaints[state->next_complaint];
}

bool
pgr_load_note_error(Oid database, const char *error)
{
	TimestampTz now = GetCurrentTimestamp();
	PgrSharedLoads *state = pgr_load_state;
	PgrLoadReport *report = state_lock(LW_EXCLUSIVE);
	PgrLoadComplaint *complaint = find_complaint(state, database);
	bool log = complaint->at == 0 ||
		TimestampDifferenceExceeds(complaint->at, now, REMIND_AFTER_MS);

	if (log)
	{
		complaint->database = database;
		complaint->at = now;
	}
	strlcpy(report->last_error, error, sizeof(report->last_error));
	report->last_error_database = database;
	report->last_error_at = now;
	state_unlock();
	return log;
}
