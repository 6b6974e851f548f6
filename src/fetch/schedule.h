/*
 * fetch/schedule.h
 *	  When to fetch next: arithmetic only.
 *
 * "random" is uniform in [0, 1).  All times are milliseconds; times of day
 * have no part in it, so a stepped clock delays nothing.
 */
#ifndef PGR_FETCH_SCHEDULE_H
#define PGR_FETCH_SCHEDULE_H

/* What a server may ask of us at most. */
#define PGR_SCHEDULE_MAX_CACHE_S (24 * 60 * 60)
#define PGR_SCHEDULE_MAX_RETRY_AFTER_S (60 * 60)

/*
 * After an answer: the interval, give or take a few percent, so that many
 * servers do not ask in step; never before the answer is "fresh_s" old (-1 =
 * it did not say).
 */
extern int64 pgr_schedule_after_success_ms(int interval_s, long fresh_s,
										   double random);

/*
 * After the n-th failure in a row (n >= 1): full jitter, that is uniform
 * below a bound that doubles from 2 s on, up to the interval or 15
 * minutes; at least 1 s, and never before "retry_after_s" (-1 = not said).
 */
extern int64 pgr_schedule_after_failure_ms(int failures, int interval_s,
										   long retry_after_s, double random);

#endif /* PGR_FETCH_SCHEDULE_H */
