/*
 * shm/follow_state.c
 *	  Shared state of followers; see shm/follow_state.h.
 */
#include "postgres.h"

#include "access/xlog.h"
#include "miscadmin.h"
#include "storage/ipc.h"
#include "storage/lwlock.h"
#include "utils/timestamp.h"

#include "base/clock.h"
#include "settings.h"
#include "shm/area.h"
#include "shm/follow_state.h"
#include "shm/load_state.h"

/* D-2: a change is readable within a second of its replay. */
#define FRESH_MS 1000

PgrSharedFollow *pgr_follow_state = NULL;

static PgrFollowPlace *my_place = NULL;

Size
pgr_follow_state_size(void)
{
	return sizeof(PgrSharedFollow);
}

void
pgr_follow_state_init(void *part, Size size)
{
	PgrSharedFollow *state = part;

	memset(state, 0, size);
	pg_atomic_init_u32(&state->used, 0);
	for (int i = 0; i < PGR_FOLLOW_PLACES; i++)
		pg_atomic_init_u64(&state->places[i].polled_ms, 0);
	pg_atomic_init_u64(&state->log.sampled_at, 0);
}

static PgrFollowPlace *
find_place(Oid database)
{
	for (int i = 0; i < PGR_FOLLOW_PLACES; i++)
		if (pgr_follow_state->places[i].database == database)
			return &pgr_follow_state->places[i];
	return NULL;
}

PgrFollowPlace *
pgr_follow_place(Oid database)
{
	if (pgr_follow_state == NULL ||
		pg_atomic_read_u32(&pgr_follow_state->used) == 0)
		return NULL;
	return find_place(database);
}

bool
pgr_follow_lags(Oid database)
{
	PgrFollowPlace *place = pgr_follow_place(database);
	uint64 polled_ms;

	/*
	 * Pairs with the barrier in pgr_follow_release_locked(): without a place,
	 * what is pinned from here on is as new as the last publish.
	 */
	pg_read_barrier();
	if (place == NULL)
		return false;
	polled_ms = pg_atomic_read_u64(&place->polled_ms);
	/* what that poll has published is what will be pinned */
	pg_read_barrier();
	return !RecoveryInProgress() || polled_ms == 0 ||
		(uint64) pgr_monotonic_ms() > polled_ms + FRESH_MS;
}

bool
pgr_follow_is_wanted(Oid database)
{
	PgrFollowPlace *place;
	bool wanted;

	if (pgr_follow_state == NULL || !RecoveryInProgress())
		return false;
	LWLockAcquire(pgr_area_lock(PGR_LOCK_FOLLOW), LW_SHARED);
	place = find_place(database);
	wanted = place ? place->pid == 0 : find_place(InvalidOid) != NULL;
	LWLockRelease(pgr_area_lock(PGR_LOCK_FOLLOW));
	return wanted;
}

/* before_shmem_exit callback: what was published stays, while it is fresh. */
static void
follower_ended_cb(int code, Datum arg)
{
	LWLockAcquire(pgr_area_lock(PGR_LOCK_FOLLOW), LW_EXCLUSIVE);
	if (pgr_follow_is_mine_locked(my_place, MyDatabaseId))
		my_place->pid = 0;
	LWLockRelease(pgr_area_lock(PGR_LOCK_FOLLOW));
	pgr_load_want();
}

static PgrFollowPlace *
claim_locked(Oid database)
{
	PgrFollowPlace *place = find_place(database);

	if (place == NULL)
		place = find_place(InvalidOid);
	if (place == NULL || place->pid != 0)
		return NULL;
	/* until all is loaded: before anybody can find the place */
	pg_atomic_write_u64(&place->polled_ms, 0);
	memset(&place->counts, 0, sizeof(place->counts));
	pg_write_barrier();
	if (place->database == InvalidOid)
	{
		place->database = database;
		pg_atomic_fetch_add_u32(&pgr_follow_state->used, 1);
	}
	place->pid = MyProcPid;
	return place;
}

PgrFollowPlace *
pgr_follow_claim(Oid database)
{
	PgrFollowPlace *place;

	LWLockAcquire(pgr_area_lock(PGR_LOCK_FOLLOW), LW_EXCLUSIVE);
	place = claim_locked(database);
	LWLockRelease(pgr_area_lock(PGR_LOCK_FOLLOW));
	if (place == NULL)
		return NULL;
	my_place = place;
	before_shmem_exit(follower_ended_cb, (Datum) 0);

	/*
	 * The promoted server's first writer finds the place, or we find that
	 * there is one: the lock was a full barrier between the two.
	 */
	return RecoveryInProgress() ? place : NULL;
}

void
pgr_follow_release_locked(PgrFollowPlace *place)
{
	Assert(place->database != InvalidOid);
	/* pairs with the barrier in pgr_follow_lags() */
	pg_memory_barrier();
	place->database = InvalidOid;
	place->pid = 0;
	pg_atomic_fetch_sub_u32(&pgr_follow_state->used, 1);
}

bool
pgr_follow_is_mine_locked(const PgrFollowPlace *place, Oid database)
{
	return place->database == database && place->pid == MyProcPid;
}

/* ------------------------------------------------------------------------
 * The log
 * ------------------------------------------------------------------------
 */

static int
retention_ms(void)
{
#ifdef PGR_TESTING
	if (pgr_settings.test_log_retention_ms > 0)
		return pgr_settings.test_log_retention_ms;
#endif
	return 10 * 60 * 1000;
}

uint64
pgr_follow_horizon(TimestampTz now, uint64 (*oldest)(void))
{
	PgrFollowLog *log = &pgr_follow_state->log;
	TimestampTz sampled_at = (TimestampTz) pg_atomic_read_u64(
		&log->sampled_at);
	uint64 sample;

	if (!TimestampDifferenceExceeds(sampled_at, now, retention_ms()))
		return log->horizon;
	sample = oldest();
	LWLockAcquire(pgr_area_lock(PGR_LOCK_FOLLOW), LW_EXCLUSIVE);
	if ((TimestampTz) pg_atomic_read_u64(&log->sampled_at) == sampled_at)
	{
		log->horizon = log->oldest;
		log->oldest = sample;
		pg_atomic_write_u64(&log->sampled_at, (uint64) now);
	}
	LWLockRelease(pgr_area_lock(PGR_LOCK_FOLLOW));
	return log->horizon;
}
