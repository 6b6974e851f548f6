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
#include "storage/proc.h"
#include "tcop/utility.h"
#include "utils/inval.h"
#include "utils/timestamp.h"

#include "base/compat.h"
#include "registry/directory.h"
#include "registry/restate.h"
#include "registry/table.h"
#include "registry/write.h"
#include "shm/area.h"

/* objsubid of our locks; 0 is the extension's own */
#define FIRST_STRIPE 1
#define STRIPES 64
#define MAX_STRIPE_LOCKS 128 /* of one transaction */
#define WHOLE_REGISTRY 65
#define DIRECTORY 66

/* False if this transaction had it already. */
static bool
lock_object(Oid database, uint32 object, uint16 part, LOCKMODE mode)
{
	LOCKTAG tag;

	SET_LOCKTAG_OBJECT(tag, database, ExtensionRelationId, object, part);
	return LockAcquire(&tag, mode, false, false) != LOCKACQUIRE_ALREADY_HELD;
}

static bool
has_whole(Oid database, uint32 object)
{
	LOCKTAG tag;

	SET_LOCKTAG_OBJECT(tag, database, ExtensionRelationId, object,
					   WHOLE_REGISTRY);
	return pgr_lock_held_by_me(&tag, ExclusiveLock);
}

static uint32
hash_text(const char *data, uint32 len)
{
	return hash_bytes((const unsigned char *) data, (int) len);
}

static void
lock_whole(const PgrRegistryName *registry)
{
	(void) lock_object(registry->database,
					   hash_text(registry->name, registry->len),
					   WHOLE_REGISTRY, ExclusiveLock);
}

/*
 * The key's stripe.  A transaction that has locked many goes on with whole
 * registries, so that nobody can fill the lock table with stripes.  It has to
 * wait for those who have the shared lock; so that they do not wait for its
 * stripes, a stripe comes before the shared lock, and who has the whole
 * registry takes no stripe.  Who changes one key cannot deadlock with it.
 */
static void
lock_key(const PgrRegistryName *registry, PgrText key)
{
	static LocalTransactionId transaction = InvalidLocalTransactionId;
	static int stripes = 0;
	uint32 object = hash_text(registry->name, registry->len);

	if (transaction != PgrLocalTransactionId())
	{
		transaction = PgrLocalTransactionId();
		stripes = 0;
	}
	if (has_whole(registry->database, object))
		return;
	if (stripes >= MAX_STRIPE_LOCKS)
	{
		lock_whole(registry);
		return;
	}
	stripes += lock_object(registry->database, object,
						   FIRST_STRIPE +
							   hash_text(key.data, key.len) % STRIPES,
						   ExclusiveLock);
	(void) lock_object(registry->database, object, WHOLE_REGISTRY,
					   RowExclusiveLock);
}

void
pgr_write_lock_directory(void)
{
	pgr_restate_end_following();
	(void) lock_object(MyDatabaseId, 0, DIRECTORY, ExclusiveLock);
}

void
pgr_write_keep_directory(void)
{
	(void) lock_object(MyDatabaseId, 0, DIRECTORY, ShareLock);
}

void
pgr_write_allowed_here(const char *what)
{
	pgr_area_require();
	PreventCommandIfReadOnly(what);
	PreventCommandIfParallelMode(what);
	PreventCommandDuringRecovery(what);
	pgr_restate_end_following();
}

/*
 * What a name means in the newest commit and our own changes; the block is
 * valid while the writer lock, shared, keeps the current root.  No pin needed.
 */
static const PgrDefinition *
resolve_newest_locked(const PgrRegistryName *registry, const PgrBlock **block,
					  PgrPendingState *state)
{
	const PgrSharedRoot *root = pgr_image_ptr(pgr_image, pgr_image->root);
	uint32 slot;

	if (pgr_pending_any())
		return pgr_pending_resolve(registry, true, root, PGR_NEWEST, block,
								   state);
	*block = pgr_directory_find(root, PGR_NEWEST, registry->database,
								registry->extension, registry->name,
								registry->len, &slot);
	return *block ? &(*block)->definition : NULL;
}

/*
 * Of a database whose image has not been loaded yet, its table knows; such a
 * definition has no incarnation.
 */
static bool
definition_in_table(const PgrRegistryName *registry, PgrDefinition *definition)
{
	PgrText name = {registry->name, registry->len};

	if (pgr_table == NULL || registry->database != MyDatabaseId)
		return false;
	return (!pgr_directory_is_complete_now(registry->database,
										   registry->extension) ||
			pgr_pending_forgotten(registry->extension)) &&
		pgr_table->definition(name, PGR_VIEW_NEWEST, definition);
}

/* The grants of what resolve_newest_locked() has found, as a copy. */
static PgrGrants
newest_grants_locked(const PgrBlock *block, const PgrPendingState *state)
{
	const PgrSharedRoot *root = pgr_image_ptr(pgr_image, pgr_image->root);

	if (!pgr_pending_any())
		return pgr_access_copy_nothrow(root, PGR_NEWEST, block);
	return pgr_pending_changes_grants(state) ?
		pgr_access_in_table() :
		pgr_access_copy_nothrow(root, PGR_NEWEST, state->committed);
}

/*
 * Copy the definition that is newest: the last committed one, or our own.  The
 * same of its grants, unless NULL.
 */
static bool
newest_with_grants(const PgrRegistryName *registry, PgrDefinition *definition,
				   PgrGrants *grants)
{
	const PgrBlock *block;
	const PgrDefinition *newest;
	PgrPendingState state = {0};

	/* may allocate, so before the lock */
	if (pgr_pending_any())
		pgr_pending_state(registry, true, &state);
	LWLockAcquire(pgr_area_lock(PGR_LOCK_WRITER), LW_SHARED);
	newest = resolve_newest_locked(registry, &block, &state);
	if (newest != NULL)
		*definition = *newest;
	if (grants != NULL)
		*grants = newest != NULL ? newest_grants_locked(block, &state) :
								   pgr_access_in_table();
	LWLockRelease(pgr_area_lock(PGR_LOCK_WRITER));
	return newest != NULL || definition_in_table(registry, definition);
}

static bool
newest_definition(const PgrRegistryName *registry, PgrDefinition *definition)
{
	return newest_with_grants(registry, definition, NULL);
}

static bool
valid_name(PgrText name)
{
	return name.len > 0 && name.len < PGR_NAME_LEN;
}

/*
 * Names in the extension as it is now: it may have been dropped, and created
 * again, while we waited for a lock.
 */
static PgrRegistryName
current_name(PgrText name)
{
	PgrRegistryName registry = {MyDatabaseId, InvalidOid, name.data, name.len};

	AcceptInvalidationMessages();
	registry.extension = pgr_directory_extension();
	return registry;
}

PgrGrants
pgr_write_newest_grants(const PgrDefinition *definition)
{
	PgrRegistryName registry = pgr_registry_name(definition);
	PgrDefinition newest;
	PgrGrants grants;

	(void) newest_with_grants(&registry, &newest, &grants);
	return grants;
}

bool
pgr_write_image_has_grants(const PgrDefinition *definition,
						   const PgrGrant *list, int n)
{
	const PgrBlock *block;
	bool same;
	uint32 slot;

	LWLockAcquire(pgr_area_lock(PGR_LOCK_WRITER), LW_SHARED);
	block = pgr_directory_find(pgr_image_ptr(pgr_image, pgr_image->root),
							   PGR_NEWEST, definition->database,
							   definition->extension, definition->name,
							   definition->name_len, &slot);
	same = block == NULL || pgr_access_block_has(block, list, n);
	LWLockRelease(pgr_area_lock(PGR_LOCK_WRITER));
	return same;
}

/* To who may read the registry its existence is no secret. */
static void
refuse_reader(PgrText name, PgrPrivilege privilege)
{
	ereport(ERROR,
			(errcode(ERRCODE_INSUFFICIENT_PRIVILEGE),
			 errmsg("permission denied for registry \"%.*s\"",
					(int) name.len, name.data),
			 privilege == PGR_MAY_WRITE ?
			 errdetail("You may read it, but not write to it.") :
			 errdetail("You may read it, but not administer it.")));
}

static bool
find_allowed(PgrText name, PgrPrivilege privilege, PgrDefinition *definition)
{
	PgrRegistryName registry = current_name(name);
	PgrGrants grants;

	if (!newest_with_grants(&registry, definition, &grants))
		return false;
	if (pgr_access_allowed(definition, &grants, PGR_VIEW_NEWEST, privilege))
		return true;
	if (pgr_access_allowed(definition, &grants, PGR_VIEW_NEWEST, PGR_MAY_READ))
		refuse_reader(name, privilege);
	return false;
}

static void
refuse_rates(PgrText name, const char *what)
{
	if (name.len == strlen(PGR_RATES_NAME) &&
		memcmp(name.data, PGR_RATES_NAME, name.len) == 0)
		ereport(ERROR,
				(errcode(ERRCODE_RESERVED_NAME),
				 errmsg("%s cannot change the registry \"%s\"", what, PGR_RATES_NAME),
				 errhint("Use registry.set_rates().")));
}

/*
 * A definition that only the table has: give the registry its place in the
 * image, with this transaction, so that it can be changed.  "definition" is
 * then what the image has.
 */
static void
adopt(PgrDefinition *definition)
{
	PgrRegistryName registry = pgr_registry_name(definition);

	if (definition->incarnation != 0)
		return;
	pgr_write_lock_directory();
	if (!newest_definition(&registry, definition) ||
		definition->incarnation != 0)
		return;
	pgr_pending_create(definition);
	(void) newest_definition(&registry, definition);
}

static bool
is_same_entry(const PgrEntry *a, const PgrEntry *b)
{
	return a->fixed.i8 == b->fixed.i8 &&
		a->item->updated_at == b->item->updated_at &&
		a->item->value_len == b->item->value_len &&
		memcmp(a->item->data, b->item->data, a->item->value_len) == 0;
}

/*
 * In REPEATABLE READ and above a transaction may have read what another one
 * has replaced since.  Most often that shows in the table; but between that
 * one's commit and its publish a snapshot is newer than a pin, and only the
 * image tells that what was read is old.
 */
static void
refuse_if_newer_in_image(const PgrRegistryName *registry, PgrText key)
{
	const PgrSharedRoot *root;
	const PgrBlock *read;
	const PgrBlock *newest;
	PgrEntry before;
	PgrEntry after;
	const PgrPin *pin;
	bool same = true;
	uint32 slot;

	if (!IsolationUsesXactSnapshot())
		return;
	pin = pgr_pin();
	read = pgr_directory_find(pin->root, pin->generation, registry->database,
							  registry->extension, registry->name,
							  registry->len, &slot);
	LWLockAcquire(pgr_area_lock(PGR_LOCK_WRITER), LW_SHARED);
	root = pgr_image_ptr(pgr_image, pgr_image->root);
	newest = pgr_directory_find(root, PGR_NEWEST, registry->database,
								registry->extension, registry->name,
								registry->len, &slot);
	if (read != NULL && newest != NULL &&
		read->definition.residency == PGR_RESIDENT &&
		newest->definition.residency == PGR_RESIDENT)
	{
		bool was = pgr_block_lookup(read, pin->generation, key.data, key.len,
									&before);
		bool is = pgr_block_lookup(newest, PGR_NEWEST, key.data, key.len,
								   &after);

		same = was == is && (!was || is_same_entry(&before, &after));
	}
	LWLockRelease(pgr_area_lock(PGR_LOCK_WRITER));
	if (!same)
		ereport(ERROR,
				(errcode(ERRCODE_T_R_SERIALIZATION_FAILURE),
				 errmsg("could not serialize access due to concurrent update")));
}

void
pgr_write_open(const char *what, PgrText name, const PgrText *key,
			   PgrPrivilege privilege, PgrDefinition *definition)
{
	PgrRegistryName registry;

	pgr_write_allowed_here(what);
	refuse_rates(name, what);
	/* before the lock, so that nobody can lock what is not his */
	if (!valid_name(name) || !find_allowed(name, privilege, definition))
		pgr_reader_refuse(name);
	registry = pgr_registry_name(definition);
	if (!definition->durable)
		adopt(definition);
	if (key != NULL)
		lock_key(&registry, *key);
	else
		lock_whole(&registry);
	if (!find_allowed(name, privilege, definition))
		pgr_reader_refuse(name);
	if (key != NULL && definition->durable)
		refuse_if_newer_in_image(&registry, *key);
}

void
pgr_write_open_grants(const char *what, PgrText name,
					  PgrDefinition *definition)
{
	pgr_write_allowed_here(what);
	refuse_rates(name, what);
	if (!valid_name(name) || !find_allowed(name, PGR_MAY_ADMIN, definition))
		pgr_reader_refuse(name);
	pgr_write_lock_directory();
	if (!find_allowed(name, PGR_MAY_ADMIN, definition))
		pgr_reader_refuse(name);
}

bool
pgr_write_find_known(PgrText name, PgrDefinition *definition)
{
	PgrRegistryName registry = current_name(name);

	return newest_definition(&registry, definition) &&
		definition->kind == PGR_BLOCK_REGISTRY && definition->incarnation != 0;
}

bool
pgr_write_is_known(const PgrDefinition *definition)
{
	PgrRegistryName registry = pgr_registry_name(definition);
	PgrDefinition now;

	return newest_definition(&registry, &now) && now.incarnation != 0;
}

bool
pgr_write_open_row(PgrText name, const PgrText *key, PgrDefinition *definition)
{
	PgrRegistryName registry = current_name(name);

	pgr_restate_end_following();
	if (key != NULL)
		lock_key(&registry, *key);
	else
		lock_whole(&registry);
	return newest_definition(&registry, definition);
}

void
pgr_write_recheck(const PgrDefinition *definition)
{
	PgrRegistryName registry = pgr_registry_name(definition);
	PgrDefinition now;

	/* loading a database gives its registries incarnations */
	if (newest_definition(&registry, &now) &&
		(now.incarnation == definition->incarnation ||
		 (definition->incarnation == 0 && now.durable)) &&
		now.value_type == definition->value_type)
		return;
	ereport(ERROR,
			(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
			 errmsg("registry \"%.*s\" was changed while the value was being converted",
					definition->name_len, definition->name)));
}

bool
pgr_write_lock_rates(bool wait)
{
	LOCKTAG tag;

	SET_LOCKTAG_OBJECT(tag, MyDatabaseId, ExtensionRelationId,
					   hash_text(PGR_RATES_NAME, strlen(PGR_RATES_NAME)),
					   WHOLE_REGISTRY);
	return LockAcquire(&tag, ExclusiveLock, false, !wait) !=
		LOCKACQUIRE_NOT_AVAIL;
}

static void
create_rates(const PgrRegistryName *registry)
{
	PgrDefinition definition = {
		.database = registry->database,
		.extension = registry->extension,
		.kind = PGR_BLOCK_RATES,
		.value_type = PGR_TYPE_NUMERIC,
		.name = PGR_RATES_NAME,
		.name_len = strlen(PGR_RATES_NAME),
		.created_at = GetCurrentTimestamp(),
	};

	pgr_pending_create(&definition);
}

void
pgr_write_open_rates(PgrDefinition *definition)
{
	PgrText name = {PGR_RATES_NAME, strlen(PGR_RATES_NAME)};
	PgrRegistryName registry;

	(void) pgr_write_lock_rates(true);
	registry = current_name(name);
	/* else it is the cluster's, or nobody's */
	if (newest_definition(&registry, definition) &&
		definition->database == MyDatabaseId)
		return;
	pgr_write_lock_directory();
	registry = current_name(name);
	create_rates(&registry);
	if (!newest_definition(&registry, definition))
		elog(ERROR, "the registry of the rates is missing");
}

bool
pgr_write_key_exists(const PgrDefinition *definition, PgrText key)
{
	PgrRegistryName registry = pgr_registry_name(definition);
	PgrPendingState state;
	PgrPendingFound ours = PGR_PENDING_NONE;
	const PgrBlock *block;
	PgrEntry entry;
	bool found = false;
	PgrValue value;
	TimestampTz expires_at = 0;
	TimestampTz now = GetCurrentTransactionStartTimestamp();

	/* resident or not, the table knows */
	if (definition->durable)
		return pgr_table_find(definition, key, PGR_VIEW_NEWEST, &value,
							  &expires_at) &&
			(expires_at == 0 || expires_at > now);
	if (pgr_pending_any())
		pgr_pending_state(&registry, true, &state);
	LWLockAcquire(pgr_area_lock(PGR_LOCK_WRITER), LW_SHARED);
	(void) resolve_newest_locked(&registry, &block, &state);
	if (pgr_pending_any())
		ours = pgr_pending_find(definition, &state, true, key.data, key.len,
								&value, &expires_at);
	if (ours == PGR_PENDING_NONE && block != NULL &&
		pgr_block_lookup(block, PGR_NEWEST, key.data, key.len, &entry))
	{
		found = true;
		expires_at = entry.expires_at;
	}
	LWLockRelease(pgr_area_lock(PGR_LOCK_WRITER));
	return (ours == PGR_PENDING_VALUE || found) &&
		(expires_at == 0 || expires_at > now);
}

bool
pgr_write_find_for_ddl(PgrText name, bool drop, PgrDefinition *definition)
{
	PgrRegistryName registry;

	if (drop)
	{
		if (!valid_name(name) ||
			!find_allowed(name, PGR_MAY_ADMIN, definition))
			return false;
		pgr_write_lock_directory();
		registry = pgr_registry_name(definition);
		lock_whole(&registry);
		if (!find_allowed(name, PGR_MAY_ADMIN, definition))
			return false;
		adopt(definition);
		return true;
	}
	pgr_write_lock_directory();
	registry = current_name(name);
	if (!OidIsValid(registry.extension))
		ereport(ERROR,
				(errcode(ERRCODE_UNDEFINED_OBJECT),
				 errmsg("extension \"pg_registry\" is not installed in this database")));
	if (newest_definition(&registry, definition))
		return true;
	memset(definition, 0, sizeof(*definition));
	definition->database = registry.database;
	definition->extension = registry.extension;
	return false;
}
