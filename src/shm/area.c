/*
 * shm/area.c
 *	  Request, layout and start-up of our part of shared memory.
 *
 * Runs in the postmaster only (and in a single-user backend).  After a crash
 * PostgreSQL makes a fresh segment and calls the startup hook again, so every
 * part starts empty.  No pointer into a process's own memory is ever stored
 * in the segment.
 */
#include "postgres.h"

#include "miscadmin.h"
#include "storage/ipc.h"
#include "storage/shmem.h"
#include "utils/timestamp.h"

#include "base/compat.h"
#include "build_id.h"
#include "shm/area.h"

#define MAX_PARTS 8
#define TRANCHE "pg_registry"
#define PART_ALIGN 128 /* two cache lines: adjacent-line prefetch */

typedef struct Part
{
	PgrPartSize size;
	PgrPartInit init;
	void **where;
} Part;

PgrSharedHeader *pgr_area_header = NULL;

static Part parts[MAX_PARTS];
static int nparts = 0;
static LWLockPadded *locks = NULL;

static shmem_request_hook_type prev_request_hook = NULL;
static shmem_startup_hook_type prev_startup_hook = NULL;

void
pgr_area_add_part(PgrPartSize size, PgrPartInit init, void **where)
{
	if (nparts == MAX_PARTS)
		elog(ERROR, "too many parts in the shared memory of pg_registry");
	parts[nparts].size = size;
	parts[nparts].init = init;
	parts[nparts].where = where;
	nparts++;
}

static Size
area_size(void)
{
	Size size = TYPEALIGN(PART_ALIGN, sizeof(PgrSharedHeader));

	for (int i = 0; i < nparts; i++)
		size = add_size(size, TYPEALIGN(PART_ALIGN, parts[i].size()));
	return add_size(size, PART_ALIGN);
}

static void
area_request(void)
{
	if (prev_request_hook)
		prev_request_hook();
	RequestAddinShmemSpace(area_size());
	RequestNamedLWLockTranche(TRANCHE, PGR_LOCK_COUNT);
}

static void
init_header(PgrSharedHeader *header)
{
	memset(header, 0, sizeof(*header));
	strlcpy(header->build_id, PGR_BUILD_ID, sizeof(header->build_id));
	if (!pg_strong_random(&header->hash_seed, sizeof(header->hash_seed)))
		header->hash_seed = (uint64) GetCurrentTimestamp();
	header->started_at = GetCurrentTimestamp();
}

static void
area_startup(void)
{
	bool found;
	char *base;

	if (prev_startup_hook)
		prev_startup_hook();

	LWLockAcquire(AddinShmemInitLock, LW_EXCLUSIVE);
	base = ShmemInitStruct("pg_registry", area_size(), &found);
	base = (char *) TYPEALIGN(PART_ALIGN, base);
	locks = GetNamedLWLockTranche(TRANCHE);

	pgr_area_header = (PgrSharedHeader *) base;
	if (!found)
		init_header(pgr_area_header);
	base += TYPEALIGN(PART_ALIGN, sizeof(PgrSharedHeader));

	for (int i = 0; i < nparts; i++)
	{
		Size size = parts[i].size();

		if (!found)
			parts[i].init(base, size);
		*parts[i].where = base;
		base += TYPEALIGN(PART_ALIGN, size);
	}
	LWLockRelease(AddinShmemInitLock);
}

void
pgr_area_install(void)
{
	prev_request_hook = shmem_request_hook;
	shmem_request_hook = area_request;
	prev_startup_hook = shmem_startup_hook;
	shmem_startup_hook = area_startup;
}

LWLock *
pgr_area_lock(PgrLockId id)
{
	return &locks[id].lock;
}

void
pgr_area_require(void)
{
	if (likely(pgr_area_header != NULL))
		return;
	ereport(ERROR,
			(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
			 errmsg("pg_registry is not loaded by the server"),
			 errdetail("Its state lives in shared memory, which is reserved when the server starts."),
			 errhint("Add \"shared_preload_libraries = 'pg_registry'\" to postgresql.conf and restart the server.")));
}
