/*
 * shm/follow_state.h
 *	  Databases whose image follows replay, on a standby.
 *
 * A place belongs to a database.  While a database has one, what the image has
 * of it was made during recovery, and may be used only under the conditions of
 * pgr_follow_lags().  The whole protocol is in durable/follow.h.
 */
#ifndef PGR_SHM_FOLLOW_STATE_H
#define PGR_SHM_FOLLOW_STATE_H

#include "datatype/timestamp.h"
#include "port/atomics.h"

/* Each takes a connection, and a slot of a background worker, for good. */
#define PGR_FOLLOW_PLACES 4

/* What a place can tell. */
typedef struct PgrFollowCounts
{
	uint64 polls;    /* complete ones */
	uint64 keys;     /* read one by one */
	uint64 reloads;  /* registries that were read as a whole */
	uint64 failures; /* polls */
} PgrFollowCounts;

/*
 * Writers: of "database" and "pid" whoever holds PGR_LOCK_FOLLOW; of the rest
 *	  the follower whose pid it is.
 * Readers: "database" and "polled_ms" the first read of each statement, with
 *	  no lock.
 * Lifetime: from the claim of the first follower of the database until its
 *	  image is the primary's own, or gone.
 * If a writer dies midway: one that is killed takes the segment with it; else
 *	  the exit callback of a follower takes its pid back.  The place stays, so
 *	  what it has published counts as long as it is fresh.
 */
typedef struct PgrFollowPlace
{
	Oid database; /* 0 = free */
	int pid;      /* 0 = nobody follows, for now */
	pg_atomic_uint64 polled_ms; /* monotonic: the image is no older than this;
									* 0 = it is not complete */
	PgrFollowCounts counts;
} PgrFollowPlace;

/*
 * The log's part: when rows of it may go.  Cluster-wide, as xids are.  Guarded
 * by PGR_LOCK_FOLLOW, but for a first look at "sampled_at".
 */
typedef struct PgrFollowLog
{
	pg_atomic_uint64 sampled_at; /* TimestampTz */
	uint64 oldest;               /* that ran then */
	uint64 horizon;              /* of the sample before; 0 = none yet */
} PgrFollowLog;

typedef struct PgrSharedFollow
{
	pg_atomic_uint32 used; /* places */
	PgrFollowPlace places[PGR_FOLLOW_PLACES];
	PgrFollowLog log;
} PgrSharedFollow;

/* In shared memory of a preloaded server, else NULL. */
extern PgrSharedFollow *pgr_follow_state;

/* For pgr_area_add_part. */
extern Size pgr_follow_state_size(void);
extern void pgr_follow_state_init(void *part, Size size);

/* That of a database, NULL if it has none.  Needs no lock. */
extern PgrFollowPlace *pgr_follow_place(Oid database);

/*
 * May the image of this database be behind the tables by more than a
 * statement may notice?  Asked before the image is pinned.  Loads only.
 */
extern bool pgr_follow_lags(Oid database);

/* Would a claim succeed? */
extern bool pgr_follow_is_wanted(Oid database);

/*
 * For a follower: become the one of this database, until the exit.  NULL if
 * there is another one, no place, or no recovery any more.
 */
extern PgrFollowPlace *pgr_follow_claim(Oid database);

/* Under PGR_LOCK_FOLLOW: nobody need care any more. */
extern void pgr_follow_release_locked(PgrFollowPlace *place);

/* Is it still ours?  Under PGR_LOCK_FOLLOW. */
extern bool pgr_follow_is_mine_locked(const PgrFollowPlace *place,
									  Oid database);

/*
 * Transactions below this one ended so long ago that the log need not have
 * them; 0 = nothing is known.  "oldest" is asked for once in that time.
 */
extern uint64 pgr_follow_horizon(TimestampTz now, uint64 (*oldest)(void));

#endif /* PGR_SHM_FOLLOW_STATE_H */
