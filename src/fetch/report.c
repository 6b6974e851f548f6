/*
 * fetch/report.c
 *	  What of the refreshes gets into the server log.
 *
 * An attempt that fails is an entry in registry.status(), not a line in the
 * log: a provider that is down for a week would fill it.
 */
#include "postgres.h"

#include "utils/timestamp.h"

#include "fetch/report.h"

#define FAILURES_TO_WARN 3
#define REMIND_AFTER_MS (INT64CONST(60) * 60 * 1000)

void
pgr_report_init(PgrReport *report, int64 now_ms, bool at_once)
{
	report->failure_ms = at_once ? now_ms - REMIND_AFTER_MS : now_ms;
	report->quarantine_ms = report->failure_ms;
}

/* Is it time, now or for a reminder? */
static bool
is_due(int64 *last_ms, int64 now_ms, bool at_once)
{
	if (!at_once && now_ms - *last_ms < REMIND_AFTER_MS)
		return false;
	*last_ms = now_ms;
	return true;
}

static void
report_failure(const char *source, const char *error, const PgrStreak *streak)
{
	ereport(WARNING,
			(errmsg("exchange rates could not be refreshed %d times in a row",
					streak->failures),
			 errdetail("Source %s fails since %s; the last error: %s", source,
					   timestamptz_to_str(streak->since), error),
			 errhint("The last good rates stay in use. registry.status() shows every attempt.")));
}

static void
report_quarantine(const char *source, const char *reason)
{
	ereport(WARNING,
			(errmsg("new exchange rates were not published"),
			 errdetail("Source %s: %s", source, reason),
			 errhint("The previous rates stay in use. To accept such a change, raise pg_registry.rates_max_change or call registry.set_rates().")));
}

static void
report_recovery(const PgrStreak *streak)
{
	int64 seconds = (GetCurrentTimestamp() - streak->since) / USECS_PER_SEC;

	ereport(LOG,
			(errmsg("exchange rates are refreshed again, after %d failed attempts in " INT64_FORMAT " s",
					streak->failures, seconds)));
}

/* In place of PostgreSQL's own line, which shows the whole URL; see log/. */
void
pgr_report_source(const char *source)
{
	if (source[0] == '\0')
		ereport(LOG, (errmsg("exchange rates are not fetched any more")));
	else
		ereport(LOG, (errmsg("exchange rates are fetched from %s", source)));
}

void
pgr_report_outcome(PgrReport *report, int64 now_ms, const char *source,
				   const PgrRunOutcome *outcome, const PgrStreak *streak,
				   bool first)
{
	if (outcome->kind == PGR_RUN_FAILED)
	{
		if (streak->failures >= FAILURES_TO_WARN &&
			is_due(&report->failure_ms, now_ms,
				   streak->failures == FAILURES_TO_WARN))
			report_failure(source, outcome->error, streak);
		return;
	}
	if (streak->failures >= FAILURES_TO_WARN)
		report_recovery(streak);
	if (outcome->kind == PGR_RUN_QUARANTINED &&
		is_due(&report->quarantine_ms, now_ms, first))
		report_quarantine(source, outcome->error);
}
