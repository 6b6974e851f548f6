/*
 * sql/refresh.c
 *	  registry.refresh(), pause(), resume() and restart_workers().
 *
 * They leave a note in shared memory and wake the scheduler, which alone
 * decides and speaks HTTP.  A waiting refresh() holds no lock of ours.  A held
 * database cannot ask for anything that sends (S-3).
 */
#include "postgres.h"

#include "access/htup_details.h"
#include "access/xact.h"
#include "fmgr.h"
#include "funcapi.h"
#include "miscadmin.h"
#include "portability/instr_time.h"
#include "utils/builtins.h"
#include "utils/timestamp.h"
#include "utils/wait_event.h"

#include "base/compat.h"
#include "durable/arm.h"
#include "shm/area.h"
#include "shm/refresh_state.h"

/* The one source there is. */
#define RATES_SOURCE "rates"

/* Columns of refresh()'s result. */
enum
{
	COL_OK,
	COL_HTTP_STATUS,
	COL_CHANGED,
	COL_GENERATION,
	COL_VISIBLE,
	COL_ERROR,
	NCOLS
};

PG_FUNCTION_INFO_V1(pgr_sql_refresh);
PG_FUNCTION_INFO_V1(pgr_sql_pause);
PG_FUNCTION_INFO_V1(pgr_sql_resume);
PG_FUNCTION_INFO_V1(pgr_sql_restart_workers);

static void
require_argument(FunctionCallInfo fcinfo, int i, const char *name)
{
	if (PG_ARGISNULL(i))
		ereport(ERROR,
				(errcode(ERRCODE_NULL_VALUE_NOT_ALLOWED),
				 errmsg("argument \"%s\" must not be null", name)));
}

static void
require_source(FunctionCallInfo fcinfo, const char *argument)
{
	char *name;

	require_argument(fcinfo, 0, argument);
	name = text_to_cstring(PG_GETARG_TEXT_PP(0));
	if (strcmp(name, RATES_SOURCE) != 0)
		ereport(ERROR,
				(errcode(ERRCODE_UNDEFINED_OBJECT),
				 errmsg("source \"%s\" does not exist", name)));
}

/* The timeout in milliseconds, at most INT_MAX. */
static long
timeout_argument(Interval *timeout)
{
	double ms = timeout->time / 1000.0 +
		(timeout->day + timeout->month * (double) DAYS_PER_MONTH) *
			SECS_PER_DAY * 1000.0;

	if (ms < 0)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("timeout must not be negative")));
	return (long) Min(ms, (double) INT_MAX);
}

/*
 * Wait until the run has ended, at most that long.  False if it has not, and
 * then result->error says why.
 */
static bool
wait_for_run(uint64 run, long timeout_ms, PgrRefreshResult *result)
{
	ConditionVariable *finished = &pgr_refresh_state->finished;
	PgrSharedRefresh now;
	instr_time start;
	bool done;

	INSTR_TIME_SET_CURRENT(start);
	ConditionVariablePrepareToSleep(finished);
	while (!(done = pgr_refresh_poll(run, result)))
	{
		instr_time spent;
		long left_ms;

		INSTR_TIME_SET_CURRENT(spent);
		INSTR_TIME_SUBTRACT(spent, start);
		left_ms = timeout_ms - (long) INSTR_TIME_GET_MILLISEC(spent);
		if (left_ms <= 0)
			break;
		ConditionVariableTimedSleep(finished, left_ms, PG_WAIT_EXTENSION);
	}
	ConditionVariableCancelSleep();
	if (done)
		return true;

	memset(result, 0, sizeof(*result));
	pgr_refresh_state_snapshot(&now);
	if (now.state == PGR_SCHEDULER_NOT_RUNNING)
		strlcpy(result->error, "timeout: the scheduler is not running",
				sizeof(result->error));
	else if (now.state == PGR_SCHEDULER_OTHER_BUILD)
		strlcpy(
			result->error,
			"the scheduler is idle until the server is restarted: the files of the package were replaced",
			sizeof(result->error));
	else
		snprintf(result->error, sizeof(result->error),
				 "timeout: no result within %ld ms; the refresh goes on",
				 timeout_ms);
	return false;
}

static Datum
result_tuple(FunctionCallInfo fcinfo, const PgrRefreshResult *result)
{
	TupleDesc tupdesc;
	Datum values[NCOLS] = {0};
	bool nulls[NCOLS];

	if (get_call_result_type(fcinfo, NULL, &tupdesc) != TYPEFUNC_COMPOSITE)
		elog(ERROR, "return type must be a row type");
	memset(nulls, true, sizeof(nulls));

	if (result != NULL)
	{
		values[COL_OK] = BoolGetDatum(result->ok);
		values[COL_HTTP_STATUS] = Int32GetDatum(result->http_status);
		values[COL_CHANGED] = BoolGetDatum(result->changed);
		values[COL_GENERATION] = Int64GetDatum((int64) result->generation);
		/* A transaction snapshot keeps the pin it may already have. */
		values[COL_VISIBLE] = BoolGetDatum(!IsolationUsesXactSnapshot());
		values[COL_ERROR] = CStringGetTextDatum(result->error);

		nulls[COL_OK] = nulls[COL_CHANGED] = false;
		nulls[COL_HTTP_STATUS] = result->http_status == 0;
		nulls[COL_GENERATION] = nulls[COL_VISIBLE] = !result->ok;
		nulls[COL_ERROR] = result->error[0] == '\0';
	}
	return HeapTupleGetDatum(
		heap_form_tuple(BlessTupleDesc(tupdesc), values, nulls));
}

Datum
pgr_sql_refresh(PG_FUNCTION_ARGS)
{
	PgrRefreshResult result;
	long timeout_ms;
	uint64 run;

	pgr_area_require();
	require_source(fcinfo, "source");
	require_argument(fcinfo, 1, "wait");
	require_argument(fcinfo, 2, "timeout");
	require_argument(fcinfo, 3, "raise");
	timeout_ms = timeout_argument(PG_GETARG_INTERVAL_P(2));
	pgr_arm_require("registry.refresh()");

	run = pgr_refresh_request();
	if (!PG_GETARG_BOOL(1))
		return result_tuple(fcinfo, NULL);

	(void) wait_for_run(run, timeout_ms, &result);
	if (!result.ok && PG_GETARG_BOOL(3))
		ereport(ERROR,
				(errcode(ERRCODE_CONNECTION_FAILURE),
				 errmsg("refresh of source \"%s\" failed", RATES_SOURCE),
				 errdetail_internal("%s", result.error)));
	return result_tuple(fcinfo, &result);
}

Datum
pgr_sql_pause(PG_FUNCTION_ARGS)
{
	pgr_area_require();
	require_source(fcinfo, "name");
	pgr_refresh_set_paused(true);
	PG_RETURN_VOID();
}

Datum
pgr_sql_resume(PG_FUNCTION_ARGS)
{
	pgr_area_require();
	require_source(fcinfo, "name");
	pgr_arm_require("registry.resume()");
	pgr_refresh_set_paused(false);
	PG_RETURN_VOID();
}

Datum
pgr_sql_restart_workers(PG_FUNCTION_ARGS)
{
	pgr_area_require();
	pgr_refresh_restart_scheduler();
	PG_RETURN_VOID();
}
