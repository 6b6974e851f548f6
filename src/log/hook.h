/*
 * log/hook.h
 *	  Copy what the server logs into a ring in shared memory.
 *
 * Every process that logs is a writer of the ring; registry.log_tail reads it.
 */
#ifndef PGR_LOG_HOOK_H
#define PGR_LOG_HOOK_H

#include "shm/ring.h"

/*
 * The ring of PgrLogRecords.  NULL: not preloaded, or in a postmaster that has
 * no segment at the moment.
 */
extern PgrSharedRing *pgr_log_ring;

/* The part's size and start, for pgr_area_add_part. */
extern Size pgr_log_ring_size(void);
extern void pgr_log_ring_init(void *part, Size size);

/* Once, in _PG_init, while shared_preload_libraries is processed. */
extern void pgr_log_install_hook(void);

/*
 * Since the server started or restarted after a crash.  Every record at or
 * above log_min_level is in exactly one of accepted and the dropped ones,
 * those of the syslogger and of a server that has no shared memory any more
 * (its last lines) excepted.
 */
typedef struct PgrLogCounters
{
	uint64 accepted;
	uint64 truncated;         /* of the accepted */
	uint64 dropped_busy;      /* slot held by a stopped or slower writer */
	uint64 dropped_recursion; /* logged while a record was being copied */
	uint64 dropped_too_early; /* logged before shared memory existed */
	uint32 slots;
} PgrLogCounters;

/* All 0 if not preloaded.  Throws nothing. */
extern void pgr_log_counters(PgrLogCounters *counters);

#endif /* PGR_LOG_HOOK_H */
