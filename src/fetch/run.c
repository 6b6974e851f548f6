/*
 * fetch/run.c
 *	  The scheduler's entries in PgrSharedRefresh.
 *
 * The other side of shm/refresh_state.c, whose functions this library cannot
 * see.  Sections under the lock hold assignments only.
 */
#include "postgres.h"

#include "utils/timestamp.h"

#include "fetch/run.h"

static PgrSharedRefresh *
lock_state(const PgrCoreApi *core, LWLockMode mode)
{
	LWLockAcquire(core->lock(PGR_LOCK_REFRESH), mode);
	return core->refresh;
}

static void
unlock_state(const PgrCoreApi *core)
{
	LWLockRelease(core->lock(PGR_LOCK_REFRESH));
}

PgrRunOrders
pgr_run_orders(const PgrCoreApi *core)
{
	PgrSharedRefresh *state = lock_state(core, LW_SHARED);
	PgrRunOrders orders = {
		.wanted = state->run_wanted > state->run_started,
		.paused = state->paused,
		.interrupted = state->interrupted,
	};

	unlock_state(core);
	return orders;
}

void
pgr_run_begin(const PgrCoreApi *core)
{
	TimestampTz now = GetCurrentTimestamp();
	PgrSharedRefresh *state = lock_state(core, LW_EXCLUSIVE);

	state->run_started = state->run_done + 1;
	state->interrupted = false;
	state->attempts++;
	state->last_attempt = now;
	state->next_refresh = 0;
	state->state = PGR_SCHEDULER_FETCHING;
	unlock_state(core);
}

/* The answer was good: the source works. */
static void
count_success(PgrSharedRefresh *state, const PgrRunOutcome *outcome,
			  TimestampTz now)
{
	state->successes++;
	if (outcome->kind == PGR_RUN_CHANGED)
		state->changed++;
	else
		state->not_modified++;
	state->last_success = now;
	state->quarantine[0] = '\0';
	state->quarantined_at = 0;
}

static void
count_failure(PgrSharedRefresh *state, TimestampTz now)
{
	state->failures++;
	state->consecutive_failures++;
	if (state->failing_since == 0)
		state->failing_since = now;
}

static void
note_error(PgrSharedRefresh *state, const PgrRunOutcome *outcome,
		   TimestampTz now)
{
	strlcpy(state->last_error, outcome->error, sizeof(state->last_error));
	state->last_error_at = now;
	if (outcome->kind == PGR_RUN_QUARANTINED)
	{
		strlcpy(state->quarantine, outcome->error, sizeof(state->quarantine));
		state->quarantined_at = now;
	}
}

static void
set_result(PgrSharedRefresh *state, const PgrRunOutcome *outcome)
{
	PgrRefreshResult *result = &state->result;

	result->ok = outcome->kind == PGR_RUN_CHANGED ||
		outcome->kind == PGR_RUN_NOT_MODIFIED;
	result->changed = outcome->kind == PGR_RUN_CHANGED;
	result->http_status = outcome->http_status;
	result->generation = outcome->generation;
	strlcpy(result->error, result->ok ? "" : outcome->error,
			sizeof(result->error));
	state->run_done = state->run_started;
}

bool
pgr_run_end(const PgrCoreApi *core, const PgrRunOutcome *outcome,
			PgrSchedulerState next_state, TimestampTz next_refresh,
			PgrStreak *streak)
{
	TimestampTz now = GetCurrentTimestamp();
	PgrSharedRefresh *state = lock_state(core, LW_EXCLUSIVE);
	bool first = state->quarantine[0] == '\0';

	Assert(outcome->kind != PGR_RUN_NOT_TRIED);
	state->state = next_state;
	state->next_refresh = next_refresh;
	state->http_status = outcome->http_status;
	state->bytes = outcome->bytes;
	state->duration_us = outcome->duration_us;
	if (outcome->kind == PGR_RUN_FAILED)
		count_failure(state, now);
	streak->failures = state->consecutive_failures;
	streak->since = state->failing_since;
	if (outcome->kind != PGR_RUN_FAILED)
	{
		state->consecutive_failures = 0;
		state->failing_since = 0;
	}
	if (outcome->kind == PGR_RUN_FAILED ||
		outcome->kind == PGR_RUN_QUARANTINED)
		note_error(state, outcome, now);
	else
		count_success(state, outcome, now);
	set_result(state, outcome);
	unlock_state(core);

	ConditionVariableBroadcast(&core->refresh->finished);
	return first;
}

void
pgr_run_decline(const PgrCoreApi *core, const char *reason)
{
	PgrRunOutcome outcome = {.kind = PGR_RUN_NOT_TRIED};
	PgrSharedRefresh *state;

	strlcpy(outcome.error, reason, sizeof(outcome.error));
	state = lock_state(core, LW_EXCLUSIVE);
	if (state->run_wanted > state->run_started)
		state->run_started = state->run_wanted;
	set_result(state, &outcome);
	unlock_state(core);

	ConditionVariableBroadcast(&core->refresh->finished);
}

void
pgr_run_new_source(const PgrCoreApi *core, const char *source)
{
	PgrSharedRefresh *state = lock_state(core, LW_EXCLUSIVE);

	strlcpy(state->source, source, sizeof(state->source));
	state->quarantine[0] = '\0';
	state->quarantined_at = 0;
	unlock_state(core);
}

void
pgr_run_show_state(const PgrCoreApi *core, PgrSchedulerState state,
				   TimestampTz next_refresh)
{
	PgrSharedRefresh *shared = lock_state(core, LW_EXCLUSIVE);

	shared->state = state;
	shared->next_refresh = next_refresh;
	unlock_state(core);
}
