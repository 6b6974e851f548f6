/*
 * shm/load_state.h
 *	  Who wants registries loaded from their tables, and how far that is.
 *
 * Anybody asks for a round; the scheduler starts the lister; the lister starts
 * one loader for each database; each of them leaves its results here.  What
 * they do with a database is in durable/.
 */
#ifndef PGR_SHM_LOAD_STATE_H
#define PGR_SHM_LOAD_STATE_H

#include "datatype/timestamp.h"
#include "port/atomics.h"

#define PGR_LOAD_TEXT_LEN 512
#define PGR_LOAD_COMPLAINTS 8
#define PGR_LOADS_AT_ONCE 4 /* more than the lister starts */
#define PGR_PARTIAL_LOADS 8
#define PGR_BOUND_BYTES 1024 /* as long as a key can be */

/* How a loader ended. */
typedef enum PgrLoadOutcome
{
	PGR_LOAD_LOST, /* before it could say anything else */
	PGR_LOAD_OK,
	PGR_LOAD_MORE, /* its time was over: another one has to go on */
	PGR_LOAD_GONE, /* the database is gone or lets nobody in: nothing to do */
	PGR_LOAD_FAILED
} PgrLoadOutcome;

/* Plain values, for display and for the scheduler; guarded by the lock. */
typedef struct PgrLoadReport
{
	/* copied from the atomics by pgr_load_state_read() */
	uint64 wanted;
	uint64 done;

	/* written by the scheduler */
	int attempts;        /* rounds begun since the last complete one */
	bool no_slot_logged; /* also by the lister; false after a complete round */

	/* written by the lister */
	int lister_pid; /* 0 = none */
	uint64 rounds;  /* begun; the number of the current or last one */
	uint64 complete_rounds;
	TimestampTz last_round_at;
	TimestampTz last_complete_at;
	int databases; /* loaders started in the round */

	/* written by loaders of the round "rounds"; zero when it begins */
	int reported;
	int failed;
	int not_fitting; /* registries */

	/* written by the lister: "failed" of the round before */
	int failed_before;

	/* written by loaders of any round */
	uint64 databases_loaded; /* those without the extension included */
	uint64 failures;
	Oid last_error_database;
	char last_error[PGR_LOAD_TEXT_LEN]; /* stays after recovery */
	TimestampTz last_error_at;
} PgrLoadReport;

/* A database about which the log has a line already. */
typedef struct PgrLoadComplaint
{
	Oid database; /* 0 is the list of databases itself */
	TimestampTz at;
} PgrLoadComplaint;

/* The registry that a loader is about to publish. */
typedef struct PgrLoading
{
	int pid; /* 0 = nobody */
	Oid database;
	uint64 incarnation;
} PgrLoading;

/* Where the next loader of a database has to go on. */
typedef struct PgrLoadMore
{
	Oid database; /* 0 = unused */
	uint32 after; /* registries in higher slots */
} PgrLoadMore;

/*
 * How far loads have come with a registry that takes several: to this key, and
 * it is in.  See durable/load.h.
 */
typedef struct PgrPartialLoad
{
	Oid database;
	uint32 slot;
	uint64 incarnation; /* 0 = unused */
	uint32 len;
	char key[PGR_BOUND_BYTES];
} PgrPartialLoad;

/*
 * Writers: "wanted" anybody who finds or makes a registry that is not in the
 *	  image; "taken" and "done" the lister; the rest as its groups say.
 * Readers: the scheduler, checks and status; reads of registries never.
 * Protocol: rounds are asked for by number.  The lister copies "wanted" into
 *	  "taken" before it looks at anything, and after a round in which every
 *	  loader succeeded, and everything fitted, "taken" into "done".  So there is
 *	  work while wanted != done.  Whoever asks has made visible what is to be
 *	  found, then, after a full barrier, compares wanted with taken: if a
 *	  request is pending that no round has taken yet, that round will see it and
 *	  nothing need be stored.  The lister's full barrier behind its store of
 *	  "taken" is the other half: one of the two sees the other's store, so no
 *	  request is lost.
 *	  The rest is guarded by PGR_LOCK_LOADS, held for a few assignments and
 *	  never around anything that can throw.
 * Lifetime: the segment's.  It starts with wanted = 1: a server that has just
 *	  started, after a crash too, has nothing in memory.
 * If a writer dies midway: one that is killed takes the segment with it; the
 *	  others leave through exit callbacks, which take the lister's pid back and
 *	  count a loader.  A round whose loaders have not all reported is not
 *	  complete, so it is made again.
 */
typedef struct PgrSharedLoads
{
	pg_atomic_uint64 wanted;
	pg_atomic_uint64 taken;
	pg_atomic_uint64 done;

	PgrLoadReport report;
	PgrLoadComplaint complaints[PGR_LOAD_COMPLAINTS];
	int next_complaint;
	PgrLoading loading[PGR_LOADS_AT_ONCE]; /* written by loaders */
	PgrLoadMore more[PGR_LOADS_AT_ONCE]; /* by loaders; taken by the lister */
	/* by loaders, under the lock on the whole registry */
	PgrPartialLoad partial[PGR_PARTIAL_LOADS];
} PgrSharedLoads;

/* In shared memory of a preloaded server, else NULL. */
extern PgrSharedLoads *pgr_load_state;

/* For pgr_area_add_part. */
extern Size pgr_load_state_size(void);
extern void pgr_load_state_init(void *part, Size size);

/* A consistent copy. */
extern void pgr_load_state_read(PgrLoadReport *report);

/*
 * Ask for a round that begins from now on.  Two loads if one is pending, else
 * an atomic add and a wake-up, so it may be called often, by commit callbacks
 * too.  Neither throws nor waits, but for a lock that is held for a moment; in
 * a server that did not preload us it does nothing.
 */
extern void pgr_load_want(void);

/*
 * The same, and soon, however often it failed: what stood in the way may have
 * gone.
 */
extern void pgr_load_retry(void);

/* For the scheduler: it is about to start a lister. */
extern void pgr_load_attempt(void);

/*
 * For the scheduler and the lister: there was no slot for a worker.  One line
 * in the log for each time that this begins.
 */
extern void pgr_load_no_slot(void);

/*
 * For the lister: become the one that there is, until it exits, and begin a
 * round.  False if there is another.
 */
extern bool pgr_load_round_begin(uint64 *round);

/*
 * All loaders have ended, of "databases" that were to be loaded; "all" = every
 * one could be started.
 */
extern void pgr_load_round_end(int databases, bool all);

/* For a loader, once: how it ended. */
extern void pgr_load_loader_ended(uint64 round, PgrLoadOutcome outcome,
								  int not_fitting);

/*
 * Before that, with PGR_LOAD_MORE: what is left of its database.  And for the
 * lister, when loaders have ended: false if none has left anything.
 */
extern void pgr_load_leave(uint64 round, Oid database, uint32 after);
extern bool pgr_load_take(Oid *database, uint32 *after);

/*
 * The bound of the registry of this database, slot and incarnation.  The first
 * fills in the key; false: it is not known.  The second: false if it cannot be
 * kept, as there are too many such registries.
 */
extern bool pgr_load_bound(PgrPartialLoad *partial);
extern bool pgr_load_set_bound(const PgrPartialLoad *partial);
extern void pgr_load_end_bound(const PgrPartialLoad *partial);

/* Forget all for which "keep", which must not throw, says false. */
extern void pgr_load_keep_bounds(bool (*keep)(const PgrPartialLoad *partial,
											  void *arg),
								 void *arg);

/*
 * For a loader: from now on it loads this registry; none with incarnation 0.
 * And for views: is anybody loading it?
 */
extern void pgr_load_set_loading(Oid database, uint64 incarnation);
extern bool pgr_load_is_loading(Oid database, uint64 incarnation);

/*
 * Keeps the error.  True if the log should have it: it has none about this
 * database since the last complete round, or for an hour.
 */
extern bool pgr_load_note_error(Oid database, const char *error);

#endif /* PGR_SHM_LOAD_STATE_H */
