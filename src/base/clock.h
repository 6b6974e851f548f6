/*
 * base/clock.h
 *	  Time for timers.
 */
#ifndef PGR_BASE_CLOCK_H
#define PGR_BASE_CLOCK_H

#include <time.h>

/* Not the time of day: that may be set. */
static inline int64
pgr_monotonic_ms(void)
{
	struct timespec now;

	(void) clock_gettime(CLOCK_MONOTONIC, &now);
	return now.tv_sec * INT64CONST(1000) + now.tv_nsec / 1000000;
}

#endif /* PGR_BASE_CLOCK_H */
