/*
 * shm/refresh_state.h
 *	  What the scheduler and everybody else tell each other about refreshes.
 *
 * The scheduler has no row in pg_stat_activity and cannot be sent a message,
 * so all that registry.status() shows of it, and all that refresh(), pause()
 * and restart_workers() ask of it, goes through this struct.
 */
#ifndef PGR_SHM_REFRESH_STATE_H
#define PGR_SHM_REFRESH_STATE_H

#include "datatype/timestamp.h"
#include "port/atomics.h"
#include "storage/condition_variable.h"

#define PGR_REFRESH_SOURCE_LEN 256
#define PGR_REFRESH_TEXT_LEN 512

typedef enum PgrSchedulerState
{
	PGR_SCHEDULER_NOT_RUNNING,
	PGR_SCHEDULER_STARTING,
	PGR_SCHEDULER_IDLE,     /* waits for the next interval */
	PGR_SCHEDULER_FETCHING, /* a request is under way */
	PGR_SCHEDULER_WAITING,  /* backs off after a failure */
	PGR_SCHEDULER_PAUSED,
	PGR_SCHEDULER_NOT_CONFIGURED,
	PGR_SCHEDULER_OUTBOUND_OFF,
	PGR_SCHEDULER_HELD,       /* this host may not send: armed_hosts */
	PGR_SCHEDULER_STANDBY,    /* in recovery, and refresh_on is primary */
	PGR_SCHEDULER_OTHER_BUILD /* libraries upgraded, server not restarted */
} PgrSchedulerState;

/* How a run of the source ended.  All of it belongs to one run. */
typedef struct PgrRefreshResult
{
	bool ok;
	bool changed;                     /* published something that differs */
	int http_status;                  /* 0 = no answer */
	uint64 generation;                /* that shows the set, if ok */
	char error[PGR_REFRESH_TEXT_LEN]; /* "" if ok */
} PgrRefreshResult;

/* When the source said last what it says, and that is these rates. */
typedef struct PgrRatesAnswer
{
	uint64 rates; /* identity of a PgrRatesInfo; 0 = no answer yet */
	TimestampTz at;
} PgrRatesAnswer;

#define PGR_KEPT_ANSWERS 16

/*
 * The last good answers that had nothing new.  A set that differs is published
 * with the time of its answer; from then on all that changes is this, so that
 * an equal answer costs no generation, no WAL and no process.
 *
 * Writers: the postmaster when it starts, then the scheduler.
 * Readers: every new pin, without a lock.
 * Protocol: the writer fills the place of number + 1, then, after a write
 *	  barrier, stores that number.  A reader copies the place of the number that
 *	  it has read, and starts over if that has moved on so far that the place
 *	  may have been filled anew: after fifteen answers.
 * Lifetime: the segment's.  answer_file.h keeps the last one beyond that.
 * If the writer dies midway: the number is the old one, and its place whole.
 */
typedef struct PgrSharedAnswers
{
	pg_atomic_uint64 number;
	PgrRatesAnswer answers[PGR_KEPT_ANSWERS];
} PgrSharedAnswers;

/*
 * Writers: the scheduler (one process at a time) and backends that call
 *	  refresh(), pause() or resume(), each its own group of fields.
 * Readers: registry.status(), waiting refresh() calls, the scheduler.
 * Protocol: every field but "answers" is guarded by PGR_LOCK_REFRESH, held for the length
 *	  of a copy and never around anything that can throw.  Reads of rates take
 *	  no part in it.
 *	  Runs are numbered: run_started is run_done or run_done + 1, the latter
 *	  while one is under way.  A caller of refresh() joins the run that is
 *	  under way; else it asks for run_done + 1.  It then waits on "finished"
 *	  until run_done has reached its number, so any number of callers cost one
 *	  request (single-flight).
 * Lifetime: the segment's.  After a crash of the server all is zero again.
 * If a writer dies midway: a process that exits by itself releases the lock
 *	  after its last complete assignment; nothing here needs two fields to
 *	  agree for safety, only for display.  One that is killed takes the segment
 *	  with it.  A scheduler that exits ends its run as failed, so no caller
 *	  waits for a run that nobody makes.
 */
typedef struct PgrSharedRefresh
{
	/* written by the scheduler: about itself */
	int scheduler_pid; /* 0 = none; with procno names its latch */
	int scheduler_procno;
	TimestampTz scheduler_started_at;
	PgrSchedulerState state;
	bool other_build_reported; /* warned, once per segment */

	/* written by the scheduler: about the source */
	char source[PGR_REFRESH_SOURCE_LEN]; /* masked URL, "" = none */
	uint64 attempts;
	uint64 successes;    /* 304 included */
	uint64 not_modified; /* of those: nothing differed */
	uint64 changed;      /* of those: something did */
	uint64 failures;
	int consecutive_failures;
	TimestampTz failing_since; /* 0 while it works */
	TimestampTz last_attempt;
	TimestampTz last_success;
	TimestampTz next_refresh;              /* 0 = none planned */
	int http_status;                       /* of the last run; 0 = no answer */
	uint64 bytes;                          /* body of the last run */
	int64 duration_us;                     /* request of the last run */
	char last_error[PGR_REFRESH_TEXT_LEN]; /* stays after recovery */
	TimestampTz last_error_at;
	char quarantine[PGR_REFRESH_TEXT_LEN]; /* "" = none */
	TimestampTz quarantined_at;

	/* written by the scheduler: runs */
	uint64 run_started;
	uint64 run_done;
	bool interrupted;        /* run_done: by the end of the process */
	PgrRefreshResult result; /* of run_done */

	/* written by backends */
	uint64 run_wanted; /* start this run now, if not started yet */
	bool paused;

	/* has a protocol of its own */
	PgrSharedAnswers answers;

	/* has a spinlock of its own; broadcast whenever run_done has grown */
	ConditionVariable finished;
} PgrSharedRefresh;

/* In shared memory of a preloaded server, else NULL. */
extern PgrSharedRefresh *pgr_refresh_state;

/* For pgr_area_add_part. */
extern Size pgr_refresh_state_size(void);
extern void pgr_refresh_state_init(void *part, Size size);

/* A consistent copy, for display; its ConditionVariable must not be used. */
extern void pgr_refresh_state_snapshot(PgrSharedRefresh *copy);

/* What status() shows for it. */
extern const char *pgr_refresh_state_name(PgrSchedulerState state);

/*
 * Make the calling process the scheduler that status() shows, until it exits.
 * False if its library is not of this build: then it must stay idle and touch
 * nothing of ours; the first one that finds this out warns.  For the
 * scheduler, through PgrCoreApi.
 */
extern bool pgr_refresh_attach(const char *build_id);

/* Wake the scheduler; nothing happens if there is none. */
extern void pgr_refresh_wake_scheduler(void);

/*
 * Ask for a run, or join the one under way; the result is the number to wait
 * for.  Wakes the scheduler.
 */
extern uint64 pgr_refresh_request(void);

/* Has that run ended?  Then *result is that of the last run that did. */
extern bool pgr_refresh_poll(uint64 run, PgrRefreshResult *result);

extern void pgr_refresh_set_paused(bool paused);

/* The source says again what it said: for the scheduler. */
extern void pgr_refresh_note_answer(uint64 rates, TimestampTz at);

/* Lock-free; without an answer, or without shared memory, all zero. */
extern PgrRatesAnswer pgr_refresh_last_answer(void);

/* SIGTERM to the scheduler; the postmaster starts it again. */
extern void pgr_refresh_restart_scheduler(void);

#endif /* PGR_SHM_REFRESH_STATE_H */
