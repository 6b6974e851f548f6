/*
 * fetch/report.h
 *	  What of the refreshes gets into the server log: never a line for each.
 */
#ifndef PGR_FETCH_REPORT_H
#define PGR_FETCH_REPORT_H

#include "fetch/run.h"

/* Monotonic times of one sort of WARNING. */
typedef struct PgrReported
{
	int64 spoken_ms; /* of the last one */
	int64 remind_ms; /* an hour from here on the next reminder is due */
} PgrReported;

typedef struct PgrReport
{
	PgrReported failure;
	PgrReported quarantine;
	bool warned; /* of the series that recovery would end */
} PgrReport;

/*
 * A process that has just started reminds of nothing at once; after a change
 * of the settings the next failure of a bad series is news ("at_once").
 */
extern void pgr_report_init(PgrReport *report, int64 now_ms, bool at_once);

/*
 * Report how a run ended: a WARNING at the third failure in a row and hourly
 * from then on, a LOG when that is over; a WARNING at the first quarantined
 * set ("first") and hourly from then on.  A source that comes and goes is
 * reported once in ten minutes.
 */
extern void pgr_report_outcome(PgrReport *report, int64 now_ms,
							   const char *source,
							   const PgrRunOutcome *outcome,
							   const PgrStreak *streak, bool first);

/* pg_registry.rates_url was changed; "source" is masked, "" for none. */
extern void pgr_report_source(const char *source);

/* This host may not send requests, for that reason. */
extern void pgr_report_banned(const char *source, const char *reason);

#endif /* PGR_FETCH_REPORT_H */
