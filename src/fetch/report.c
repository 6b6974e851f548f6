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
#define EPISODE_GAP_MS (INT64CONST(10) * 60 * 1000)

static void
init_reported(PgrReported *reported, int64 now_ms, bool at_once)
{
	reported->spoken_ms = now_ms - EPISODE_GAP_MS;
	reported->remind_ms = at_once ? now_ms - REMIND_AFTER_MS : now_ms;
}

void
pgr_report_init(PgrReport *report, int64 now_ms, bool at_once)
{
	init_reported(&report->failure, now_ms, at_once);
	init_reported(&report->quarantine, now_ms, at_once);
	report->warned = true; /* perhaps by the process before this one */
}

/* Is it time, for the first of a series or for a reminder? */
static bool
is_due(PgrReported *reported, int64 now_ms, bool first)
{
	if (first ? now_ms - reported->spoken_ms < EPISODE_GAP_MS :
				now_ms - reported->remind_ms < REMIND_AFTER_MS)
		return false;
	reported->spoken_ms = reported->remind_ms = now_ms;
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
pgr_report_banned(const char *source, const char *reason)
{
	ereport(LOG,
			(errmsg("exchange rates are not fetched from %s: %s", source,
					reason)));
}

void
pgr_report_outcome(PgrReport *report, int64 now_ms, const char *source,
				   const PgrRunOutcome *outcome, const PgrStreak *streak,
				   bool first)
{
	bool third = streak->failures == FAILURES_TO_WARN;

	if (outcome->kind == PGR_RUN_FAILED)
	{
		if (streak->failures < FAILURES_TO_WARN)
			return;
		if (third)
			report->warned = false;
		if (is_due(&report->failure, now_ms, third))
		{
			report->warned = true;
			report_failure(source, outcome->error, streak);
		}
		return;
	}
	if (streak->failures >= FAILURES_TO_WARN && report->warned)
		report_recovery(streak);
	if (outcome->kind == PGR_RUN_QUARANTINED &&
		is_due(&report->quarantine, now_ms, first))
		report_quarantine(source, outcome->error);
}
