/*
 * shm/area.h
 *	  The one piece of the main shared memory segment that is ours.
 *
 * Modules register their part from _PG_init; the area sums the sizes in
 * shmem_request_hook, and lays the parts out and initializes them in
 * shmem_startup_hook.  A part's pointer stays NULL in a server that did not
 * preload us, which is how everybody asks "are we loaded?".
 */
#ifndef PGR_SHM_AREA_H
#define PGR_SHM_AREA_H

#include "storage/lwlock.h"

#define PGR_BUILD_ID_LEN 40

/* Head of the area.  Written once, by the process that creates the segment. */
typedef struct PgrSharedHeader
{
	char build_id[PGR_BUILD_ID_LEN]; /* of the library that made it */
	uint64 hash_seed; /* random: nobody can aim for collisions */
	int64 started_at; /* TimestampTz */
} PgrSharedHeader;

/* The locks of the area.  None is ever taken by a read or by the log
 * hook (L-1). */
typedef enum PgrLockId
{
	PGR_LOCK_WRITER,  /* arena, root, retired list, reservations */
	PGR_LOCK_REFRESH, /* PgrSharedRefresh */
	PGR_LOCK_LOADS,   /* PgrSharedLoads, but its atomics */
	PGR_LOCK_FOLLOW,  /* places of PgrSharedFollow; before PGR_LOCK_WRITER */
	PGR_LOCK_COUNT
} PgrLockId;

typedef Size (*PgrPartSize)(void);
typedef void (*PgrPartInit)(void *part, Size size);

/*
 * Register a part, in _PG_init while shared_preload_libraries is processed.
 * "size" is asked when MaxBackends is known; "init" runs once per segment (so
 * again after a crash), in the postmaster, before any other process can see
 * the part; *where is set in the postmaster and inherited by fork.
 */
extern void pgr_area_add_part(PgrPartSize size, PgrPartInit init,
							  void **where);

/* Install the hooks; call after the last pgr_area_add_part. */
extern void pgr_area_install(void);

extern PgrSharedHeader *pgr_area_header; /* NULL = not preloaded */

extern LWLock *pgr_area_lock(PgrLockId id);

/*
 * ERROR 55000 naming the line to add to postgresql.conf, unless preloaded.
 * First line of every SQL function that needs shared memory.
 */
extern void pgr_area_require(void);

#endif /* PGR_SHM_AREA_H */
