/*
 * shm/fallbacks.h
 *	  How many reads each durable registry answered from its table.
 */
#ifndef PGR_SHM_FALLBACKS_H
#define PGR_SHM_FALLBACKS_H

#include "port/atomics.h"

#define PGR_FALLBACK_SLOTS 4096 /* a power of two */

typedef struct PgrFallbackSlot
{
	pg_atomic_uint64 key; /* 0 = free; never changes again */
	pg_atomic_uint64 reads;
} PgrFallbackSlot;

/*
 * Writers: every process that reads a table for lack of an image.  Readers:
 *	  views.
 * Protocol: open addressing; a slot is taken by compare-and-swap of its key and
 *	  never given back, its count only grows.  Nothing depends on the order of
 *	  the two, so all is relaxed.  When the slots near a key are taken, its reads
 *	  are not counted: registries beyond the first few thousand that were read so.
 * Lifetime: the segment's.  A writer that dies midway has counted or has not.
 */
typedef struct PgrSharedFallbacks
{
	PgrFallbackSlot slots[PGR_FALLBACK_SLOTS];
} PgrSharedFallbacks;

/* In shared memory of a preloaded server, else NULL. */
extern PgrSharedFallbacks *pgr_fallbacks;

/* For pgr_area_add_part. */
extern Size pgr_fallbacks_size(void);
extern void pgr_fallbacks_init(void *part, Size size);

/* "key" is a hash of the registry, and not 0.  Neither throws nor waits. */
extern void pgr_fallback_count(uint64 key);
extern uint64 pgr_fallback_reads(uint64 key);

#endif /* PGR_SHM_FALLBACKS_H */
