/*
 * registry/write.c
 *	  See write.h.  Runs in backends, in a transaction.
 */
#include "postgres.h"

#include "access/xact.h"
#include "catalog/pg_extension.h"
#include "common/hashfn.h"
#include "storage/lmgr.h"
#include "storage/lock.h"
#include "tcop/utility.h"
#include "utils/timestamp.h"

#include "base/compat.h"
#include "registry/directory.h"
#include "registry/write.h"
#include "shm/area.h"

/* objsubid of our locks; 0 is the extension's own */
#define FIRST_STRIPE 1
#define STRIPES 64
#define WHOLE_REGISTRY 65
#define DIRECTORY 66

static void
lock_object(Oid database, uint32 object, uint16 part, LOCKMODE mode)
{
	LOCKTAG tag;

	SET_LOCKTAG_OBJECT(tag, database, ExtensionRelationId, object, part);
	(void) LockAcquire(&tag, mode, false, false);
}

static uint32
hash_text(const char *data, uint32 len)
{
	return hash_bytes((const unsigned char *) data, (int) len);
}

static void
lock_key(const PgrRegistryName *registry, PgrText key)
{
	uint32 object = hash_text(registry->name, registry->len);

	lock_object(registry->database, object, WHOLE_REGISTRY, RowExclusiveLock);
	lock_object(registry->database, object,
				FIRST_STRIPE + hash_text(key.data, key.len) % STRIPES,
				ExclusiveLock);
}

static void
lock_whole(const PgrRegistryName *registry)
{
	lock_object(registry->database, hash_text(registry->name, registry->len),
				WHOLE_REGISTRY, ExclusiveLock);
}

void
pgr_write_lock_rates(void)
{
	lock_object(InvalidOid, hash_text(PGR_RATES_NAME, strlen(PGR_RATES_NAME)),
				WHOLE_REGISTRY, ExclusiveLock);
}

void
pgr_write_lock_directory(void)
{
	lock_object(MyDatabaseId, 0, DIRECTORY, ExclusiveLock);
}

void
pgr_write_allowed_here(const char *what)
{
	pgr_area_require();
	PreventCommandIfReadOnly(what);
	PreventCommandIfParallelMode(what);
	PreventCommandDuringRecovery(what);
}

/*
 * Copy the definition that is newest: the last committed one, or our own.
 * The writer lock, shared, keeps the current root; no pin is needed.
 */
static bool
newest_definition(const PgrRegistryName *registry, PgrDefinition *definition)
{
	const PgrBlock *block;
	PgrPendingState state = {0};
	uint32 slot;

	if (pgr_pending_any())
		pgr_pending_state(registry, true, &state);
	if (state.dropped)
		return false;
	if (state.created)
	{
		*definition = *state.created;
		return true;
	}
	LWLockAcquire(pgr_area_lock(PGR_LOCK_WRITER), LW_SHARED);
	block = pgr_directory_find(pgr_image_ptr(pgr_image, pgr_image->root),
							   registry->name, registry->len, &slot);
	if (block != NULL)
		*definition = block->definition;
	LWLockRelease(pgr_area_lock(PGR_LOCK_WRITER));
	return block != NULL;
}

static bool
valid_name(PgrText name)
{
	return name.len > 0 && name.len < PGR_NAME_LEN;
}

static void
fill_name(PgrText name, PgrRegistryName *registry)
{
	registry->database = MyDatabaseId;
	registry->extension = pgr_directory_extension();
	registry->name = name.data;
	registry->len = name.len;
}

static void
refuse_rates(PgrText name, const char *what)
{
	if (name.len == strlen(PGR_RATES_NAME) &&
		memcmp(name.data, PGR_RATES_NAME, name.len) == 0)
		ereport(ERROR,
				(errcode(ERRCODE_RESERVED_NAME),
				 errmsg("%s cannot change the registry \"%s\"", what,
						PGR_RATES_NAME),
				 errhint("Use registry.set_rates().")));
}

void
pgr_write_open(const char *what, PgrText name, const PgrText *key,
			   PgrRegistryName *registry, PgrDefinition *definition)
{
	pgr_write_allowed_here(what);
	refuse_rates(name, what);
	fill_name(name, registry);
	/* before the lock, so that nobody can lock what is not his */
	if (!valid_name(name) || !newest_definition(registry, definition) ||
		!pgr_reader_allowed(definition))
		pgr_reader_refuse(name);
	if (key != NULL)
		lock_key(registry, *key);
	else
		lock_whole(registry);
	if (!newest_definition(registry, definition) ||
		!pgr_reader_allowed(definition))
		pgr_reader_refuse(name);
}

bool
pgr_write_key_exists(const PgrRegistryName *registry, PgrText key)
{
	PgrPendingState state = {0};
	const PgrBlock *block;
	const PgrSlot *found = NULL;
	PgrValue value;
	TimestampTz expires_at = 0;
	TimestampTz now = GetCurrentTransactionStartTimestamp();
	uint32 slot;

	if (pgr_pending_any())
	{
		pgr_pending_state(registry, true, &state);
		switch (pgr_pending_find(registry, &state, true, key.data, key.len,
								 &value, &expires_at))
		{
			case PGR_PENDING_VALUE:
				return expires_at == 0 || expires_at > now;
			case PGR_PENDING_DELETED:
				return false;
			case PGR_PENDING_NONE:
				break;
		}
	}
	if (state.created)
		return false;
	LWLockAcquire(pgr_area_lock(PGR_LOCK_WRITER), LW_SHARED);
	block = pgr_directory_find(pgr_image_ptr(pgr_image, pgr_image->root),
							   registry->name, registry->len, &slot);
	if (block != NULL)
		found = pgr_block_find(block, key.data, key.len);
	if (found != NULL)
		expires_at = found->expires_at;
	LWLockRelease(pgr_area_lock(PGR_LOCK_WRITER));
	return found != NULL && (expires_at == 0 || expires_at > now);
}

bool
pgr_write_find_for_ddl(PgrText name, bool drop, PgrRegistryName *registry,
					   PgrDefinition *definition)
{
	fill_name(name, registry);
	if (!valid_name(name))
		return false;
	if (drop &&
		(!newest_definition(registry, definition) ||
		 !pgr_reader_allowed(definition)))
		return false;
	pgr_write_lock_directory();
	if (drop)
		lock_whole(registry);
	return newest_definition(registry, definition);
}
