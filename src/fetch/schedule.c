/*
 * fetch/schedule.c
 *	  When to fetch next: arithmetic only.
 *
 * Full jitter as in "Exponential Backoff And Jitter" (AWS architecture blog,
 * 2015), with a floor, as an immediate retry helps nobody.
 */
#include "postgres.h"

#include "fetch/schedule.h"

#define MIN_BACKOFF_MS INT64CONST(1000)
#define MAX_BACKOFF_MS (INT64CONST(15) * 60 * 1000)
#define MAX_DOUBLINGS 20
#define INTERVAL_JITTER 0.05 /* on either side */
#define BOUND_JITTER 0.10    /* past a bound that the server gave */

/* A bound of the server's, capped, and a little later. */
static int64
lower_bound_ms(long seconds, long cap_s, double random)
{
	if (seconds <= 0)
		return 0;
	return (int64) (Min(seconds, cap_s) * 1000.0 *
					(1.0 + BOUND_JITTER * random));
}

int64
pgr_schedule_after_success_ms(int interval_s, long fresh_s, double random)
{
	double interval_ms = interval_s * 1000.0;
	int64 delay_ms = (int64) (interval_ms *
							  (1.0 + INTERVAL_JITTER * (2.0 * random - 1.0)));

	return Max(delay_ms,
			   lower_bound_ms(fresh_s, PGR_SCHEDULE_MAX_CACHE_S, random));
}

int64
pgr_schedule_after_failure_ms(int failures, int interval_s, long retry_after_s,
							  double random)
{
	int64 cap_ms = Min(interval_s * INT64CONST(1000), MAX_BACKOFF_MS);
	int64 bound_ms = MIN_BACKOFF_MS << Min(failures, MAX_DOUBLINGS);
	int64 delay_ms;

	delay_ms = (int64) (Min(bound_ms, cap_ms) * random);
	return Max(Max(delay_ms, MIN_BACKOFF_MS),
			   lower_bound_ms(retry_after_s, PGR_SCHEDULE_MAX_RETRY_AFTER_S,
							  random));
}
