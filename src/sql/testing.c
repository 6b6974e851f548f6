/*
 * sql/testing.c
 *	  Functions that only tests call, in builds with PGR_TESTING.
 *
 * The install script does not know them: a test creates what it needs.
 */
#include "postgres.h"

#include "fmgr.h"
#include "miscadmin.h"
#include "utils/builtins.h"

#include "registry/block.h"
#include "log/hook.h"
#include "shm/area.h"
#include "shm/follow_state.h"
#include "shm/load_state.h"

#ifdef PGR_TESTING

PG_FUNCTION_INFO_V1(pgr_sql_test_groups_searched);
PG_FUNCTION_INFO_V1(pgr_sql_test_entries_copied);
PG_FUNCTION_INFO_V1(pgr_sql_test_load_want);
PG_FUNCTION_INFO_V1(pgr_sql_test_load_state);
PG_FUNCTION_INFO_V1(pgr_sql_test_log_claim);
PG_FUNCTION_INFO_V1(pgr_sql_test_log_release);
PG_FUNCTION_INFO_V1(pgr_sql_test_follow_state);

Datum
pgr_sql_test_groups_searched(PG_FUNCTION_ARGS)
{
	PG_RETURN_INT64((int64) pgr_block_groups_searched);
}

Datum
pgr_sql_test_entries_copied(PG_FUNCTION_ARGS)
{
	PG_RETURN_INT64((int64) pgr_block_entries_copied);
}

Datum
pgr_sql_test_load_want(PG_FUNCTION_ARGS)
{
	pgr_load_want();
	PG_RETURN_VOID();
}

/* What a writer has that was stopped in the middle of a record: a slot. */
Datum
pgr_sql_test_log_claim(PG_FUNCTION_ARGS)
{
	uint64 ticket;

	if (pgr_ring_claim(pgr_log_ring, &ticket) == NULL)
		elog(ERROR, "the slot is taken");
	PG_RETURN_INT64((int64) ticket);
}

Datum
pgr_sql_test_log_release(PG_FUNCTION_ARGS)
{
	pgr_ring_release(pgr_log_ring, (uint64) PG_GETARG_INT64(0));
	PG_RETURN_VOID();
}

/* As text of a json object. */
Datum
pgr_sql_test_load_state(PG_FUNCTION_ARGS)
{
	PgrLoadReport report;

	pgr_area_require();
	pgr_load_state_read(&report);
	PG_RETURN_TEXT_P(cstring_to_text(psprintf(
		"{\"wanted\": " UINT64_FORMAT ", \"done\": " UINT64_FORMAT
		", \"attempts\": %d, \"lister_pid\": %d, \"rounds\": " UINT64_FORMAT
		", \"complete_rounds\": " UINT64_FORMAT
		", \"databases\": %d, \"failed\": %d, \"not_fitting\": %d"
		", \"failures\": " UINT64_FORMAT ", \"last_error\": \"%s\"}",
		report.wanted, report.done, report.attempts, report.lister_pid,
		report.rounds, report.complete_rounds, report.databases, report.failed,
		report.not_fitting, report.failures, report.last_error)));
}

/* Of this database's place, as text of a json object; null: it has none. */
Datum
pgr_sql_test_follow_state(PG_FUNCTION_ARGS)
{
	const PgrFollowPlace *place = pgr_follow_place(MyDatabaseId);

	if (place == NULL)
		PG_RETURN_NULL();
	PG_RETURN_TEXT_P(cstring_to_text(psprintf(
		"{\"pid\": %d, \"lags\": %s, \"polls\": " UINT64_FORMAT
		", \"keys\": " UINT64_FORMAT ", \"reloads\": " UINT64_FORMAT
		", \"failures\": " UINT64_FORMAT "}",
		place->pid, pgr_follow_lags(MyDatabaseId) ? "true" : "false",
		place->counts.polls, place->counts.keys, place->counts.reloads,
		place->counts.failures)));
}

#endif
