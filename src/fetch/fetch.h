/*
 * fetch/fetch.h
 *	  Keeps the exchange rates fresh: what the scheduler does in each cycle.
 */
#ifndef PGR_FETCH_FETCH_H
#define PGR_FETCH_FETCH_H

#include "fetch/core.h"

typedef struct PgrFetch PgrFetch;

extern PgrFetch *pgr_fetch_create(const PgrCoreApi *core);

/* Wait for it to be readable, next to the latch; -1 = there is none now. */
extern int pgr_fetch_fd(const PgrFetch *fetch);

/*
 * Do what is due, without waiting for anything.  Call it after every wake-up
 * and reload.  Returns how many milliseconds to wait at most.  May throw, and
 * then pgr_fetch_recover() must follow.
 */
extern long pgr_fetch_step(PgrFetch *fetch);

/* The last step has thrown "error": that is a failed run. */
extern void pgr_fetch_recover(PgrFetch *fetch, const char *error);

#endif /* PGR_FETCH_FETCH_H */
