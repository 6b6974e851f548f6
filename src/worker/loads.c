/*
 * worker/loads.c
 *	  When registries are loaded from their tables.
 *
 * The scheduler compares what is wanted with what was done whenever it wakes
 * up, and at least once a minute, and starts a lister (durable/lister.c) if
 * they differ.  There is one lister at a time.  What it has not completed is
 * tried again, ever later.
 *
 * The scheduler gets no word of the lister's start and end, so it looks: at
 * the lister's slot, and at the pid that a lister keeps in shared memory, since
 * a predecessor of this process may have started it.
 */
#include "postgres.h"

#include "postmaster/bgworker.h"
#include "utils/memutils.h"

#include "base/clock.h"
#include "worker/loads.h"

#define RECONCILE_MS 60000L
#define LOOK_AT_LISTER_MS 1000L
#define MIN_BETWEEN_ROUNDS_MS INT64CONST(1000)
#define MIN_BACKOFF_MS INT64CONST(5000)
#define MAX_BACKOFF_MS INT64CONST(300000)
#define MAX_DOUBLINGS 6

struct PgrLoads
{
	const PgrCoreApi *core;
	BackgroundWorkerHandle *lister; /* that this process started, or NULL */
	bool waiting;                   /* for a lister to end */
	int64 ended_ms;                 /* when that was noticed; 0 = never yet */
};

PgrLoads *
pgr_loads_create(const PgrCoreApi *core)
{
	PgrLoads *loads = MemoryContextAllocZero(TopMemoryContext,
											 sizeof(PgrLoads));

	loads->core = core;
	return loads;
}

static bool
lister_runs(PgrLoads *loads, const PgrLoadReport *report)
{
	pid_t pid;

	if (loads->lister != NULL &&
		GetBackgroundWorkerPid(loads->lister, &pid) == BGWH_STOPPED)
	{
		pfree(loads->lister);
		loads->lister = NULL;
	}
	return loads->lister != NULL || report->lister_pid != 0;
}

/* How long after the last round the next one may begin. */
static int64
pause_ms(int attempts)
{
	if (attempts == 0)
		return MIN_BETWEEN_ROUNDS_MS;
	return Min(MIN_BACKOFF_MS << Min(attempts - 1, MAX_DOUBLINGS),
			   MAX_BACKOFF_MS);
}

static void
start_lister(PgrLoads *loads)
{
	MemoryContext caller = MemoryContextSwitchTo(TopMemoryContext);
	BackgroundWorker worker;

	memset(&worker, 0, sizeof(worker));
	worker.bgw_flags = BGWORKER_SHMEM_ACCESS |
		BGWORKER_BACKEND_DATABASE_CONNECTION;
	worker.bgw_start_time = BgWorkerStart_ConsistentState;
	worker.bgw_restart_time = BGW_NEVER_RESTART;
	strlcpy(worker.bgw_library_name, "pg_registry", BGW_MAXLEN);
	strlcpy(worker.bgw_function_name, "pgr_lister_main", BGW_MAXLEN);
	strlcpy(worker.bgw_name, "pg_registry lister", BGW_MAXLEN);
	strlcpy(worker.bgw_type, "pg_registry lister", BGW_MAXLEN);

	loads->core->load_attempt();
	loads->waiting = true;
	if (!RegisterDynamicBackgroundWorker(&worker, &loads->lister))
		loads->core->load_no_slot();
	MemoryContextSwitchTo(caller);
}

/* No lister runs: when may one?  In milliseconds from now. */
static int64
remaining_ms(PgrLoads *loads, int attempts)
{
	int64 now = pgr_monotonic_ms();

	if (loads->waiting)
	{
		loads->waiting = false;
		loads->ended_ms = now;
	}
	if (loads->ended_ms == 0)
		return 0;
	return loads->ended_ms + pause_ms(attempts) - now;
}

long
pgr_loads_step(PgrLoads *loads)
{
	PgrLoadReport report;
	int64 remaining;

	loads->core->load_state_read(&report);
	if (lister_runs(loads, &report))
	{
		loads->waiting = true;
		return LOOK_AT_LISTER_MS;
	}
	remaining = remaining_ms(loads, report.attempts);
	if (report.wanted == report.done)
		return RECONCILE_MS;
	if (remaining > 0)
		return (long) remaining;
	start_lister(loads);
	return LOOK_AT_LISTER_MS;
}
