/*
 * registry/directory.c
 *	  See directory.h.  Loads only, but for the first look at pg_extension.
 */
#include "postgres.h"

#include "commands/extension.h"
#include "miscadmin.h"
#include "storage/lwlock.h"
#include "utils/inval.h"
#include "utils/syscache.h"

#include "base/compat.h"
#include "registry/directory.h"
#include "registry/pin.h"
#include "shm/area.h"

static Oid extension = InvalidOid;
static bool extension_known = false; /* InvalidOid is an answer, too */
static uint64 times_forgotten = 0;

/*
 * CREATE and DROP EXTENSION create and drop the schema "registry", whose
 * invalidation reaches every session; pg_extension itself has no cache.
 */
static void
forget_extension(Datum arg, int cache, uint32 hash)
{
	extension_known = false;
	times_forgotten++;
}

Oid
pgr_directory_extension(void)
{
	static bool registered = false;
	uint64 before;

	if (likely(extension_known))
		return extension;
	if (!registered)
	{
		CacheRegisterSyscacheCallback(NAMESPACEOID, forget_extension,
									  (Datum) 0);
		registered = true;
	}
	before = times_forgotten;
	extension = get_extension_oid("pg_registry", true);
	extension_known = before == times_forgotten;
	return extension;
}

uint32
pgr_directory_slot(const PgrSharedRoot *root, uint64 generation, Oid database,
				   Oid ext)
{
	PgrDatabaseKey key = {database, ext};
	PgrEntry entry;

	return pgr_block_lookup(pgr_root_block(pgr_image, root,
										   PGR_SLOT_DATABASES),
							generation, (const char *) &key, sizeof(key),
							&entry) ?
		(uint32) entry.fixed.i8 :
		PGR_NO_SLOT;
}

static bool
is_rates(const char *name, uint32 len)
{
	return len == strlen(PGR_RATES_NAME) &&
		memcmp(name, PGR_RATES_NAME, len) == 0;
}

const PgrBlock *
pgr_directory_lookup(const PgrSharedRoot *root, uint64 generation,
					 uint32 directory, const char *name, uint32 len,
					 uint32 *slot)
{
	PgrEntry entry;

	if (directory == PGR_NO_SLOT ||
		!pgr_block_lookup(pgr_root_block(pgr_image, root, directory),
						  generation, name, len, &entry))
		return NULL;
	*slot = (uint32) entry.fixed.i8;
	return pgr_root_block(pgr_image, root, *slot);
}

const PgrBlock *
pgr_directory_find(const PgrSharedRoot *root, uint64 generation, Oid database,
				   Oid ext, const char *name, uint32 len, uint32 *slot)
{
	const PgrBlock *block;

	*slot = pgr_directory_slot(root, generation, database, ext);
	block = pgr_directory_lookup(root, generation, *slot, name, len, slot);
	if (block != NULL || !is_rates(name, len))
		return block;
	*slot = PGR_SLOT_RATES;
	return pgr_root_block(pgr_image, root, PGR_SLOT_RATES);
}

bool
pgr_directory_is_complete(const PgrSharedRoot *root, uint32 slot)
{
	return slot != PGR_NO_SLOT &&
		pgr_root_block(pgr_image, root, slot)->definition.residency ==
		PGR_RESIDENT;
}

bool
pgr_directory_is_complete_now(Oid database, Oid ext)
{
	const PgrSharedRoot *root;
	bool complete;

	LWLockAcquire(pgr_area_lock(PGR_LOCK_WRITER), LW_SHARED);
	root = pgr_image_ptr(pgr_image, pgr_image->root);
	complete = pgr_directory_is_complete(root,
										 pgr_directory_slot(root, PGR_NEWEST,
															database, ext));
	LWLockRelease(pgr_area_lock(PGR_LOCK_WRITER));
	return complete;
}

bool
pgr_directory_is_whole(const PgrSharedRoot *root, uint64 generation,
					   uint32 slot)
{
	const PgrBlock *directory;

	if (!pgr_directory_is_complete(root, slot))
		return false;
	directory = pgr_root_block(pgr_image, root, slot);
	return pg_atomic_read_u64((pg_atomic_uint64 *) &directory->whole_since) <=
		generation;
}
