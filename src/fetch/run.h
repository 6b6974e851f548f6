/*
 * fetch/run.h
 *	  The scheduler's entries in PgrSharedRefresh.
 *
 * All take the lock for the length of a few assignments and throw nothing.
 */
#ifndef PGR_FETCH_RUN_H
#define PGR_FETCH_RUN_H

#include "registry/core_api.h"

typedef enum PgrRunKind
{
	PGR_RUN_CHANGED,      /* published, something differs */
	PGR_RUN_NOT_MODIFIED, /* a good answer, nothing new */
	PGR_RUN_QUARANTINED,  /* a good answer, not to be believed */
	PGR_RUN_FAILED,
	PGR_RUN_NOT_TRIED /* somebody asked, but it must not run */
} PgrRunKind;

typedef struct PgrRunOutcome
{
	PgrRunKind kind;
	int http_status;
	uint64 bytes;
	int64 duration_us;
	uint64 generation;                /* CHANGED and NOT_MODIFIED */
	char error[PGR_REFRESH_TEXT_LEN]; /* the other kinds */
} PgrRunOutcome;

/* Failures in a row: those up to now, or those that have just ended. */
typedef struct PgrStreak
{
	int failures;
	TimestampTz since;
} PgrStreak;

/* What others have asked for. */
typedef struct PgrRunOrders
{
	bool wanted; /* a run now */
	bool paused;
	bool interrupted; /* the last run, with the process that made it */
} PgrRunOrders;

extern PgrRunOrders pgr_run_orders(const PgrCoreApi *core);

extern void pgr_run_begin(const PgrCoreApi *core);

/*
 * End the run, show what the scheduler does next, and wake whoever waits.
 * *streak is the state of the source after a failure, and what a success has
 * ended.  True if nothing was in quarantine before.
 */
extern bool pgr_run_end(const PgrCoreApi *core, const PgrRunOutcome *outcome,
						PgrSchedulerState next_state, TimestampTz next_refresh,
						PgrStreak *streak);

/* Answer callers of refresh() although nothing may be fetched. */
extern void pgr_run_decline(const PgrCoreApi *core, const char *reason);

/* Show another source; what was quarantined came from different settings. */
extern void pgr_run_new_source(const PgrCoreApi *core, const char *source);

extern void pgr_run_show_state(const PgrCoreApi *core, PgrSchedulerState state,
							   TimestampTz next_refresh);

#endif /* PGR_FETCH_RUN_H */
