/*
 * shm/refresh_state.c
 *	  Shared state of refreshes: the side of it that lives in pg_registry.
 *
 * Called by backends, and by the scheduler when it starts and ends.  What the
 * scheduler writes while it works is in fetch/run.c.  No section under the
 * lock may throw.
 */
#include "postgres.h"

#include <signal.h>

#include "miscadmin.h"
#include "storage/ipc.h"
#include "storage/latch.h"
#include "storage/lwlock.h"
#include "storage/proc.h"
#include "utils/timestamp.h"

#include "base/compat.h"
#include "build_id.h"
#include "shm/answer_file.h"
#include "shm/area.h"
#include "shm/refresh_state.h"

PgrSharedRefresh *pgr_refresh_state = NULL;

Size
pgr_refresh_state_size(void)
{
	return sizeof(PgrSharedRefresh);
}

void
pgr_refresh_state_init(void *part, Size size)
{
	PgrSharedRefresh *state = part;
	PgrKeptAnswer kept;

	memset(state, 0, size);
	state->state = PGR_SCHEDULER_NOT_RUNNING;
	if (pgr_answer_file_read(&kept))
		state->answers.answers[0] = kept.answer;
	pg_atomic_init_u64(&state->answers.number, 0);
	ConditionVariableInit(&state->finished);
}

static void
state_lock(LWLockMode mode)
{
	LWLockAcquire(pgr_area_lock(PGR_LOCK_REFRESH), mode);
}

static void
state_unlock(void)
{
	LWLockRelease(pgr_area_lock(PGR_LOCK_REFRESH));
}

void
pgr_refresh_state_snapshot(PgrSharedRefresh *copy)
{
	state_lock(LW_SHARED);
	memcpy(copy, pgr_refresh_state, sizeof(*copy));
	state_unlock();
}

const char *
pgr_refresh_state_name(PgrSchedulerState state)
{
	switch (state)
	{
		case PGR_SCHEDULER_NOT_RUNNING:
			return "not running";
		case PGR_SCHEDULER_STARTING:
			return "starting";
		case PGR_SCHEDULER_IDLE:
			return "idle";
		case PGR_SCHEDULER_FETCHING:
			return "fetching";
		case PGR_SCHEDULER_WAITING:
			return "waiting";
		case PGR_SCHEDULER_PAUSED:
			return "paused";
		case PGR_SCHEDULER_NOT_CONFIGURED:
			return "not configured";
		case PGR_SCHEDULER_OUTBOUND_OFF:
			return "outbound off";
		case PGR_SCHEDULER_HELD:
			return "held";
		case PGR_SCHEDULER_STANDBY:
			return "standby";
		case PGR_SCHEDULER_OTHER_BUILD:
			return "other build";
	}
	return "unknown";
}

/*
 * before_shmem_exit callback of the scheduler.  A run that is still open has
 * no other way to end.
 */
static void
detach_cb(int code, Datum arg)
{
	PgrSharedRefresh *state = pgr_refresh_state;
	bool ended_run;

	/* The lock may be ours if an error ends the process. */
	LWLockReleaseAll();

	state_lock(LW_EXCLUSIVE);
	if (state->scheduler_pid == MyProcPid)
	{
		state->scheduler_pid = 0;
		state->state = PGR_SCHEDULER_NOT_RUNNING;
		state->next_refresh = 0;
	}
	ended_run = state->run_started != state->run_done;
	if (ended_run)
	{
		memset(&state->result, 0, sizeof(state->result));
		strlcpy(state->result.error,
				"the scheduler was stopped during the request",
				sizeof(state->result.error));
		state->run_done = state->run_started;
		state->interrupted = true;
	}
	state_unlock();

	if (ended_run)
		ConditionVariableBroadcast(&state->finished);
}

static void
warn_other_build(void)
{
	ereport(WARNING,
			(errmsg("pg_registry does not refresh anything until the server is restarted"),
			 errdetail("The files of the package were replaced; the server still runs the previous version of pg_registry. Reads go on.")));
}

bool
pgr_refresh_attach(const char *build_id)
{
	PgrSharedRefresh *state = pgr_refresh_state;
	bool same = strcmp(build_id, PGR_BUILD_ID) == 0 &&
		strcmp(pgr_area_header->build_id, PGR_BUILD_ID) == 0;
	bool warn;

	before_shmem_exit(detach_cb, (Datum) 0);

	state_lock(LW_EXCLUSIVE);
	state->scheduler_pid = MyProcPid;
	state->scheduler_procno = PgrProcNumber(MyProc);
	state->scheduler_started_at = GetCurrentTimestamp();
	state->state = same ? PGR_SCHEDULER_STARTING : PGR_SCHEDULER_OTHER_BUILD;
	warn = !same && !state->other_build_reported;
	if (warn)
		state->other_build_reported = true;
	state_unlock();

	if (warn)
		warn_other_build();
	return same;
}

/* The scheduler's PGPROC, or NULL if there is none. */
static PGPROC *
scheduler_proc(int *pid)
{
	PGPROC *proc;
	int procno;

	state_lock(LW_SHARED);
	*pid = pgr_refresh_state->scheduler_pid;
	procno = pgr_refresh_state->scheduler_procno;
	state_unlock();

	if (*pid == 0)
		return NULL;
	proc = GetPGProcByNumber(procno);
	return proc->pid == *pid ? proc : NULL;
}

void
pgr_refresh_wake_scheduler(void)
{
	int pid;
	PGPROC *proc = scheduler_proc(&pid);

	/* If it exits right now, its successor looks at the state by itself. */
	if (proc != NULL)
		SetLatch(&proc->procLatch);
}

void
pgr_refresh_restart_scheduler(void)
{
	int pid;

	if (scheduler_proc(&pid) != NULL && kill(pid, SIGTERM) != 0)
		ereport(WARNING,
				(errmsg("could not send a signal to the scheduler of pg_registry (process %d): %m",
						pid)));
}

uint64
pgr_refresh_request(void)
{
	PgrSharedRefresh *state = pgr_refresh_state;
	uint64 run;

	state_lock(LW_EXCLUSIVE);
	if (state->run_started == state->run_done)
		state->run_wanted = state->run_done + 1;
	run = Max(state->run_started, state->run_wanted);
	state_unlock();

	pgr_refresh_wake_scheduler();
	return run;
}

bool
pgr_refresh_poll(uint64 run, PgrRefreshResult *result)
{
	PgrSharedRefresh *state = pgr_refresh_state;
	bool done;

	state_lock(LW_SHARED);
	done = state->run_done >= run;
	if (done)
		*result = state->result;
	state_unlock();
	return done;
}

/* ------------------------------------------------------------------------
 * Answers without news
 * ------------------------------------------------------------------------
 */

void
pgr_refresh_note_answer(uint64 rates, TimestampTz at)
{
	PgrSharedAnswers *shared = &pgr_refresh_state->answers;
	uint64 number = pg_atomic_read_u64(&shared->number) + 1;
	PgrRatesAnswer *place = &shared->answers[number % PGR_KEPT_ANSWERS];

	place->rates = rates;
	place->at = at;
	pg_write_barrier(); /* pairs with pgr_refresh_last_answer */
	pg_atomic_write_u64(&shared->number, number);
}

PgrRatesAnswer
pgr_refresh_last_answer(void)
{
	PgrSharedAnswers *shared = &pgr_refresh_state->answers;
	PgrRatesAnswer answer = {0, 0};
	uint64 number;

	if (pgr_refresh_state == NULL)
		return answer;
	do
	{
		number = pg_atomic_read_u64(&shared->number);
		pg_read_barrier(); /* pairs with pgr_refresh_note_answer */
		answer = shared->answers[number % PGR_KEPT_ANSWERS];
		pg_read_barrier(); /* the copy comes before the second look */
	} while (pg_atomic_read_u64(&shared->number) - number >=
			 PGR_KEPT_ANSWERS - 1);
	return answer;
}

void
pgr_refresh_set_paused(bool paused)
{
	state_lock(LW_EXCLUSIVE);
	pgr_refresh_state->paused = paused;
	state_unlock();
	pgr_refresh_wake_scheduler();
}
