/*
 * registry/pending.c
 *	  Keeping and reading the list of uncommitted changes; see pending.h.
 *
 * Process model: the list has one writer, this backend outside parallel mode.
 * In a parallel worker everything here only reads the leader's list.
 */
#include "postgres.h"

#include "access/parallel.h"
#include "access/xact.h"
#include "miscadmin.h"
#include "utils/hsearch.h"
#include "utils/memutils.h"
#include "utils/snapmgr.h"
#include "utils/timestamp.h"

#include "base/compat.h"
#include "registry/directory.h"
#include "registry/pending_list.h"
#include "registry/pin.h"
#include "settings.h"
#include "shm/area.h"

/* A list longer than this is searched through an index. */
#define INDEX_FROM 32

/* So many deletes of a transaction may be recorded in a full arena. */
#define LAST_RESORT_DELETES 8

/* hash of (registry, key) -> newest change with that hash */
typedef struct IndexEntry
{
	uint64 hash;
	PgrRef newest;
} IndexEntry;

static PgrRef head = 0; /* our own; a worker asks its leader's line */
static uint32 last_sequence = 0;
static uint32 length = 0;
static uint64 list_bytes = 0;
static bool has_renamed = false;   /* some ENTER is, or was, in the list */
static bool has_untracked = false; /* the same of UNTRACKED */
static bool has_forgotten = false; /* the same of FORGET */
static bool closed = false;        /* PRE_COMMIT has folded the list */
static HTAB *list_index = NULL;    /* in TopTransactionContext */

/* The outermost that has changed a table without any change in the list. */
static SubTransactionId unlisted = InvalidSubTransactionId;
static bool has_hidden = false; /* since the transaction began */

static PgrPendingChange *
change_at(PgrRef ref)
{
	return pgr_image_ptr(pgr_image, ref);
}

static uint64
change_hash(const PgrRegistryName *registry, const char *key, uint32 key_len)
{
	uint64 seed = pgr_image->seed ^ registry->extension;
	uint64 hash;

	hash = pgr_key_hash(registry->name, registry->len,
						pgr_key_word(registry->name, registry->len), seed);
	if (key == NULL)
		return hash;
	return pgr_key_hash(key, key_len, pgr_key_word(key, key_len), hash);
}

/* ------------------------------------------------------------------------
 * Index
 * ------------------------------------------------------------------------
 */

static HTAB *
index_in(HTAB *index, PgrRef ref)
{
	PgrPendingChange *change = change_at(ref);
	bool found;
	IndexEntry *entry = hash_search(index, &change->hash, HASH_ENTER, &found);

	/* a worker writes nothing; it walks its leader's list from entry->newest */
	if (!IsParallelWorker())
		change->older_same = found ? entry->newest : 0;
	entry->newest = ref;
	return index;
}

static void
unindex_change(PgrRef ref)
{
	PgrPendingChange *change = change_at(ref);
	IndexEntry *entry = hash_search(list_index, &change->hash, HASH_FIND,
									NULL);

	if (change->older_same != 0)
		entry->newest = change->older_same;
	else
		hash_search(list_index, &change->hash, HASH_REMOVE, NULL);
}

static void
build_index(void)
{
	HASHCTL control = {.keysize = sizeof(uint64),
					   .entrysize = sizeof(IndexEntry),
					   .hcxt = TopTransactionContext};
	PgrPendingChange **changes;
	HTAB *index;
	int n;

	index = hash_create("pg_registry pending changes", 256, &control,
						HASH_ELEM | HASH_BLOBS | HASH_CONTEXT);
	changes = pgr_pending_oldest_first(&n);
	for (int i = 0; i < n; i++)
		index_in(index, pgr_arena_ref(pgr_image_arena(pgr_image), changes[i]));
	pfree(changes);
	list_index = index;
}

PgrPendingChange **
pgr_pending_oldest_first(int *n)
{
	PgrPendingChange **changes;
	int count = 0;

	for (PgrRef ref = pgr_pin_pending_head(); ref != 0;
		 ref = change_at(ref)->older)
		count++;
	changes = MemoryContextAllocHuge(CurrentMemoryContext,
									 Max(count, 1) * sizeof(*changes));
	*n = count;
	for (PgrRef ref = pgr_pin_pending_head(); ref != 0;
		 ref = change_at(ref)->older)
		changes[--count] = change_at(ref);
	return changes;
}

/* ------------------------------------------------------------------------
 * Writing
 * ------------------------------------------------------------------------
 */

static bool
is_same_name(const PgrRegistryName *a, const PgrRegistryName *b)
{
	return a->len == b->len && memcmp(a->name, b->name, a->len) == 0;
}

static void
free_change(PgrRef ref)
{
	pgr_arena_free(pgr_image_arena(pgr_image), ref);
}

/*
 * Memory for a change, with the writer lock held.  Uncommitted changes take at
 * most half of the arena, so that open transactions cannot stop everybody
 * else's commits.  What leads to less memory may use the last of it: drops,
 * and a few deletes.
 */
static PgrRef
allocate_change(PgrPendingKind kind, Size size)
{
	PgrArena *arena = pgr_image_arena(pgr_image);
	bool drops = kind == PGR_CHANGE_DROP || kind == PGR_CHANGE_DROP_ALL ||
		kind == PGR_CHANGE_UNTRACKED || kind == PGR_CHANGE_FORGET;
	bool removes = kind == PGR_CHANGE_DELETE || kind == PGR_CHANGE_CLEAR;

	if (!drops &&
		arena->kind_units[PGR_MEMORY_PENDING] + size / PGR_ARENA_UNIT >
			arena->units / 2)
		return 0;
	return pgr_plan_alloc(size, PGR_MEMORY_PENDING,
						  drops || (removes && length < LAST_RESORT_DELETES));
}

/*
 * The changes of one transaction may take as much as the registries of its
 * database.  What a rollback to a savepoint gave back still counts.
 */
static bool
is_over_quota(PgrPendingKind kind, Size size)
{
	uint64 limit = (uint64) pgr_settings.max_kb_per_database * 1024;

	return kind == PGR_CHANGE_PUT && limit > 0 && list_bytes + size > limit;
}

static void
refuse_if_closed(void)
{
	if (closed)
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("cannot change a registry while the transaction is committing")));
}

static Size
change_bytes(const PgrRegistryName *registry, uint32 key_len, uint32 data_len)
{
	return offsetof(PgrPendingChange, data) + MAXALIGN(data_len) +
		registry->len + key_len;
}

/*
 * Add a change; the caller has done every check.  False if there is no memory
 * for it in the arena; the list is then as it was.
 */
static bool
try_add(PgrPendingKind kind, const PgrRegistryName *registry, const char *key,
		uint32 key_len, const void *data, uint32 data_len,
		const PgrPendingChange *rest)
{
	Size size = change_bytes(registry, key_len, data_len);
	PgrRef ref;
	PgrPendingChange *change;

	refuse_if_closed();
	LWLockAcquire(pgr_area_lock(PGR_LOCK_WRITER), LW_EXCLUSIVE);
	ref = allocate_change(kind, size);
	LWLockRelease(pgr_area_lock(PGR_LOCK_WRITER));
	if (ref == 0)
		return false;

	change = change_at(ref);
	*change = *rest;
	change->kind = kind;
	change->hash = change_hash(registry, key, key_len);
	change->older = head;
	change->older_same = 0;
	change->sequence = ++last_sequence;
	change->subtransaction = GetCurrentSubTransactionId();
	change->command = GetCurrentCommandId(true);
	change->database = registry->database;
	change->extension = registry->extension;
	change->name_len = registry->len;
	change->key_len = key_len;
	change->value_len = data_len;
	change->name_offset = (uint32) MAXALIGN(data_len);
	change->key_offset = change->name_offset + registry->len;
	if (data_len > 0)
		memcpy(change->data, data, data_len);
	memcpy(change->data + change->name_offset, registry->name, registry->len);
	if (key_len > 0)
		memcpy(change->data + change->key_offset, key, key_len);

	head = ref;
	length++;
	list_bytes += size;
	pgr_pin_set_pending(head);
	if (list_index != NULL)
	{
		HTAB *index = list_index;

		list_index = NULL; /* built anew if this runs out of memory */
		list_index = index_in(index, ref);
	}
	return true;
}

/* The same; the only failures are a full arena and a full backend. */
static void
add_change(PgrPendingKind kind, const PgrRegistryName *registry,
		   const char *key, uint32 key_len, const void *data, uint32 data_len,
		   const PgrPendingChange *rest)
{
	Size size = change_bytes(registry, key_len, data_len);

	if (is_over_quota(kind, size))
		pgr_plan_over_quota(list_bytes + size);
	if (!try_add(kind, registry, key, key_len, data, data_len, rest))
		pgr_plan_out_of_memory(size);
}

static bool is_untracked(const PgrRegistryName *origin, uint64 incarnation);
static bool has_changed_grants(const PgrRegistryName *origin,
							   uint64 incarnation);

/*
 * Give back what the list has of a registry that it cannot have whole: nobody
 * will read it.  But not what a rollback to a savepoint would leave.
 */
static void
forget_listed(const PgrRegistryName *origin, uint64 incarnation)
{
	SubTransactionId mine = GetCurrentSubTransactionId();
	PgrRef *link = &head;

	list_index = NULL;
	LWLockAcquire(pgr_area_lock(PGR_LOCK_WRITER), LW_EXCLUSIVE);
	while (*link != 0 && change_at(*link)->subtransaction == mine)
	{
		PgrPendingChange *change = change_at(*link);
		PgrRef ref = *link;

		if (change->incarnation != incarnation ||
			(change->kind != PGR_CHANGE_PUT &&
			 change->kind != PGR_CHANGE_DELETE) ||
			!pgr_change_is_of(change, origin))
		{
			link = &change->older;
			continue;
		}
		*link = change->older;
		list_bytes -= change_bytes(origin, change->key_len, change->value_len);
		length--;
		free_change(ref);
	}
	pgr_pin_set_pending(head);
	LWLockRelease(pgr_area_lock(PGR_LOCK_WRITER));
}

/*
 * A change of entries.  Those of a durable registry are in its table anyway:
 * if the list has no room for them, this transaction goes on without, reads
 * that table, and its commit takes the registry out of memory.
 */
static void
add_entry_change(PgrPendingKind kind, const PgrDefinition *definition,
				 const PgrRegistryName *registry, const char *key,
				 uint32 key_len, const void *data, uint32 data_len,
				 const PgrPendingChange *rest)
{
	PgrPendingChange untracked = {.incarnation = definition->incarnation};

	if (!definition->durable)
	{
		add_change(kind, registry, key, key_len, data, data_len, rest);
		return;
	}
	if (has_untracked && is_untracked(registry, definition->incarnation))
		return;
	if (!is_over_quota(kind, change_bytes(registry, key_len, data_len)) &&
		try_add(kind, registry, key, key_len, data, data_len, rest))
		return;
	forget_listed(registry, definition->incarnation);
	add_change(PGR_CHANGE_UNTRACKED, registry, "", 0, NULL, 0, &untracked);
	has_untracked = true;
}

static PgrRegistryName origin_of(const PgrDefinition *definition,
								 CommandId before);

/* For writers, who see all that they have done. */
static PgrRegistryName
newest_origin(const PgrDefinition *definition)
{
	return origin_of(definition, InvalidCommandId);
}

void
pgr_pending_put(const PgrDefinition *definition, const char *key,
				uint32 key_len, const PgrValue *value, TimestampTz updated_at,
				TimestampTz expires_at)
{
	PgrRegistryName registry = newest_origin(definition);
	PgrPendingChange rest = {
		.incarnation = definition->incarnation,
		.fixed = value->fixed,
		.updated_at = updated_at,
		.expires_at = expires_at,
	};

	add_entry_change(PGR_CHANGE_PUT, definition, &registry, key, key_len,
					 value->data, value->len, &rest);
}

void
pgr_pending_delete(const PgrDefinition *definition, const char *key,
				   uint32 key_len)
{
	PgrRegistryName registry = newest_origin(definition);
	PgrPendingChange rest = {.incarnation = definition->incarnation};

	add_entry_change(PGR_CHANGE_DELETE, definition, &registry, key, key_len,
					 NULL, 0, &rest);
}

void
pgr_pending_create(const PgrDefinition *definition)
{
	PgrRegistryName registry = pgr_registry_name(definition);
	PgrDefinition created = *definition;
	PgrPendingChange rest = {0};

	/* no other change of the transaction ever has this number */
	created.incarnation = PGR_PROVISIONAL | ((uint64) last_sequence + 1);
	rest.incarnation = created.incarnation;
	add_change(PGR_CHANGE_CREATE, &registry, NULL, 0, &created,
			   sizeof(created), &rest);
}

void
pgr_pending_drop(const PgrDefinition *definition)
{
	PgrRegistryName registry = pgr_registry_name(definition);
	PgrRegistryName origin = newest_origin(definition);
	PgrPendingChange rest = {.incarnation = definition->incarnation};

	if (is_same_name(&origin, &registry))
		add_change(PGR_CHANGE_DROP, &registry, NULL, 0, NULL, 0, &rest);
	else
		add_change(PGR_CHANGE_DROP, &registry, NULL, 0, origin.name,
				   origin.len, &rest);
}

void
pgr_pending_clear(const PgrDefinition *definition)
{
	PgrRegistryName registry = newest_origin(definition);
	PgrPendingChange rest = {.incarnation = definition->incarnation};

	add_entry_change(PGR_CHANGE_CLEAR, definition, &registry, "", 0, NULL, 0,
					 &rest);
}

void
pgr_pending_alter(const PgrDefinition *definition,
				  const PgrDefinition *altered)
{
	PgrRegistryName before = pgr_registry_name(definition);
	PgrRegistryName after = pgr_registry_name(altered);
	PgrRegistryName origin = newest_origin(definition);
	PgrPendingChange rest = {.incarnation = definition->incarnation};

	add_change(PGR_CHANGE_ALTER, &origin, "", 0, altered, sizeof(*altered),
			   &rest);
	if (is_same_name(&before, &after))
		return;
	add_change(PGR_CHANGE_LEAVE, &before, NULL, 0, NULL, 0, &rest);
	add_change(PGR_CHANGE_ENTER, &after, NULL, 0, origin.name, origin.len,
			   &rest);
	has_renamed = true;
}

/* One is enough: it lasts as long as the changes that come after it. */
void
pgr_pending_grants(const PgrDefinition *definition)
{
	PgrRegistryName registry = newest_origin(definition);
	PgrPendingChange rest = {.incarnation = definition->incarnation};

	if (!has_changed_grants(&registry, definition->incarnation))
		add_change(PGR_CHANGE_GRANTS, &registry, "", 0, NULL, 0, &rest);
}

void
pgr_pending_rates(const PgrDefinition *definition, const void *extra,
				  uint32 extra_len, uint32 base_len)
{
	PgrRegistryName registry = pgr_registry_name(definition);
	PgrPendingChange rest = {.incarnation = definition->incarnation,
							 .flags = (uint16) base_len};

	add_change(PGR_CHANGE_RATES, &registry, "", 0, extra, extra_len, &rest);
}

bool
pgr_pending_newest_rates(void *extra, uint32 extra_len)
{
	for (PgrRef ref = head; ref != 0; ref = change_at(ref)->older)
	{
		const PgrPendingChange *change = change_at(ref);

		if (change->kind != PGR_CHANGE_RATES)
			continue;
		memcpy(extra, change->data, Min(extra_len, change->value_len));
		return true;
	}
	return false;
}

void
pgr_pending_complete(Oid extension)
{
	PgrPendingChange rest = {0};
	PgrRegistryName registry = {MyDatabaseId, extension, "", 0};

	add_change(PGR_CHANGE_COMPLETE, &registry, NULL, 0, NULL, 0, &rest);
}

void
pgr_pending_forget(Oid extension)
{
	PgrPendingChange rest = {0};
	PgrRegistryName registry = {MyDatabaseId, extension, "", 0};

	if (pgr_pending_forgotten(extension))
		return;
	add_change(PGR_CHANGE_FORGET, &registry, "", 0, NULL, 0, &rest);
	has_forgotten = true;
}

void
pgr_pending_drop_all(Oid database, Oid extension)
{
	PgrPendingChange rest = {0};
	PgrRegistryName registry = {database, extension, "", 0};

	add_change(PGR_CHANGE_DROP_ALL, &registry, NULL, 0, NULL, 0, &rest);
}

void
pgr_pending_hidden(void)
{
	has_hidden = true;
}

bool
pgr_pending_has_hidden(void)
{
	return has_hidden;
}

void
pgr_pending_unlisted(void)
{
	if (unlisted == InvalidSubTransactionId)
		unlisted = GetCurrentSubTransactionId();
}

/* ------------------------------------------------------------------------
 * Reading
 * ------------------------------------------------------------------------
 */

/* Changes of earlier commands are visible, as rows would be. */
static CommandId
visible_before(bool all)
{
	if (all)
		return InvalidCommandId; /* the largest */
	if (ActiveSnapshotSet())
		return GetActiveSnapshot()->curcid;
	return GetCurrentCommandId(false);
}

/* Is the change what a reader of this registry and key looks for? */
static bool
is_wanted(const PgrPendingChange *change, const PgrRegistryName *registry,
		  uint64 incarnation, const char *key, uint32 key_len)
{
	if (!pgr_change_is_of(change, registry) || change->key_len != key_len)
		return false;
	/* what the name means is ours to say, whichever incarnation we pinned */
	if (key == NULL)
		return pgr_change_is_of_name(change->kind);
	return change->incarnation == incarnation &&
		memcmp(change->data + change->key_offset, key, key_len) == 0;
}

/*
 * The newest visible change of this registry and key, NULL if there is none.
 * Without a key, of the name; the key of a whole registry's changes is empty,
 * and "kind" says which.
 */
static const PgrPendingChange *
newest_visible(const PgrRegistryName *registry, uint64 incarnation,
			   const char *key, uint32 key_len, PgrPendingKind kind,
			   CommandId before)
{
	PgrRef ref = pgr_pin_pending_head();
	uint64 hash = change_hash(registry, key, key_len);
	bool indexed = list_index != NULL;

	if (!indexed && (length > INDEX_FROM || IsParallelWorker()))
	{
		build_index();
		indexed = true;
	}
	if (indexed)
	{
		IndexEntry *entry = hash_search(list_index, &hash, HASH_FIND, NULL);

		ref = entry ? entry->newest : 0;
	}
	while (ref != 0)
	{
		const PgrPendingChange *change = change_at(ref);

		if (change->hash == hash && change->command < before &&
			(key == NULL || key_len > 0 || change->kind == kind) &&
			is_wanted(change, registry, incarnation, key, key_len))
			return change;
		/* a worker's leader may not have linked the older ones */
		ref = indexed && !IsParallelWorker() ? change->older_same :
											   change->older;
	}
	return NULL;
}

static const PgrPendingChange *
newest_of_name(const PgrRegistryName *name, CommandId before)
{
	return newest_visible(name, 0, NULL, 0, PGR_CHANGE_CREATE, before);
}

static const PgrPendingChange *
newest_of_registry(const PgrRegistryName *origin, uint64 incarnation,
				   PgrPendingKind kind, CommandId before)
{
	return newest_visible(origin, incarnation, "", 0, kind, before);
}

/* As below. */
bool
pgr_pending_forgotten(Oid extension)
{
	PgrRegistryName registry = {MyDatabaseId, extension, "", 0};

	if (!has_forgotten && !IsParallelWorker())
		return false;
	return newest_of_registry(&registry, 0, PGR_CHANGE_FORGET,
							  InvalidCommandId) != NULL;
}

bool
pgr_pending_sees_rates(const PgrDefinition *definition)
{
	PgrRegistryName registry = pgr_registry_name(definition);

	return newest_of_registry(&registry, definition->incarnation,
							  PGR_CHANGE_RATES, visible_before(false)) != NULL;
}

/* From any command on: the table shows each command what it may see. */
static bool
is_untracked(const PgrRegistryName *origin, uint64 incarnation)
{
	return newest_of_registry(origin, incarnation, PGR_CHANGE_UNTRACKED,
							  InvalidCommandId) != NULL;
}

/* The same. */
static bool
has_changed_grants(const PgrRegistryName *origin, uint64 incarnation)
{
	return newest_of_registry(origin, incarnation, PGR_CHANGE_GRANTS,
							  InvalidCommandId) != NULL;
}

bool
pgr_pending_changes_grants(const PgrPendingState *state)
{
	return state->committed == NULL ||
		pgr_pending_forgotten(state->origin.extension) ||
		has_changed_grants(&state->origin, state->incarnation);
}

void
pgr_pending_state(const PgrRegistryName *registry, bool all,
				  PgrPendingState *state)
{
	const PgrPendingChange *change = newest_of_name(registry,
													visible_before(all));

	memset(state, 0, sizeof(*state));
	state->origin = *registry;
	if (change == NULL)
		return;
	state->touched = true;
	switch (change->kind)
	{
		case PGR_CHANGE_CREATE:
			state->created = (const PgrDefinition *) change->data;
			break;
		case PGR_CHANGE_ENTER:
			state->origin.name = change->data;
			state->origin.len = change->value_len;
			break;
		case PGR_CHANGE_DROP:
		case PGR_CHANGE_LEAVE:
			state->gone = true;
			break;
		default:
			return;
	}
	state->incarnation = change->incarnation;
}

const PgrDefinition *
pgr_pending_resolve(const PgrRegistryName *registry, bool all,
					const PgrSharedRoot *root, uint64 generation,
					const PgrBlock **block, PgrPendingState *state)
{
	CommandId before = visible_before(all);
	const PgrDefinition *definition;
	const PgrPendingChange *change;
	bool is_ours;
	uint32 slot;

	*block = NULL;
	pgr_pending_state(registry, all, state);
	if (state->gone)
		return NULL;
	if (state->created == NULL)
		*block = pgr_directory_find(root, generation, registry->database,
									registry->extension, state->origin.name,
									state->origin.len, &slot);
	if (*block != NULL && state->incarnation != 0 &&
		state->incarnation != (*block)->definition.incarnation)
		*block = NULL;
	state->committed = *block;
	is_ours = *block == NULL;
	definition = is_ours ? state->created : &(*block)->definition;
	if (definition != NULL)
		state->incarnation = definition->incarnation;
	else if (state->incarnation == 0)
		return NULL;
	state->from_table = definition != NULL &&
		pgr_is_read_from_table(definition);
	change = newest_of_registry(&state->origin, state->incarnation,
								PGR_CHANGE_ALTER, before);
	if (change != NULL)
	{
		definition = (const PgrDefinition *) change->data;
		/* one that we have created and renamed */
		if (is_ours)
			state->from_table = pgr_is_read_from_table(definition);
	}
	change = newest_of_registry(&state->origin, state->incarnation,
								PGR_CHANGE_CLEAR, before);
	if (change != NULL)
		state->since = change->sequence;
	if (change != NULL || state->created != NULL)
		*block = NULL;
	if (definition == NULL || !definition->durable)
	{
		state->from_table = false;
		return definition;
	}
	if (pgr_pending_forgotten(registry->extension))
	{
		*block = NULL;
		return NULL; /* the table knows */
	}
	state->from_table = state->from_table ||
		is_untracked(&state->origin, state->incarnation);
	return definition;
}

/* Where our changes of a registry are, whatever it is called by now. */
static PgrRegistryName
origin_of(const PgrDefinition *definition, CommandId before)
{
	PgrRegistryName registry = pgr_registry_name(definition);
	const PgrPendingChange *change;

	if (!has_renamed && !IsParallelWorker())
		return registry;
	change = newest_of_name(&registry, before);
	if (change != NULL && change->kind == PGR_CHANGE_ENTER)
	{
		registry.name = change->data;
		registry.len = change->value_len;
	}
	return registry;
}

PgrPendingFound
pgr_pending_find(const PgrDefinition *definition, const PgrPendingState *state,
				 bool all, const char *key, uint32 key_len, PgrValue *value,
				 TimestampTz *expires_at)
{
	const PgrPendingChange *change =
		newest_visible(&state->origin, definition->incarnation, key, key_len,
					   PGR_CHANGE_PUT, visible_before(all));

	if (change == NULL || change->sequence < state->since)
		return PGR_PENDING_NONE;
	if (change->kind == PGR_CHANGE_DELETE)
		return PGR_PENDING_DELETED;
	value->fixed = change->fixed;
	value->len = change->value_len;
	value->data = change->data;
	*expires_at = change->expires_at;
	return PGR_PENDING_VALUE;
}

bool
pgr_pending_changes(const PgrDefinition *definition)
{
	PgrRegistryName origin = origin_of(definition, visible_before(false));

	for (PgrRef ref = pgr_pin_pending_head(); ref != 0;
		 ref = change_at(ref)->older)
		if (change_at(ref)->incarnation == definition->incarnation &&
			change_at(ref)->kind != PGR_CHANGE_GRANTS &&
			pgr_change_is_of(change_at(ref), &origin))
			return true;
	return false;
}

/* The visible changes to the entries of a registry, folded. */
static void
fold_visible(PgrFold *fold, const PgrDefinition *definition, CommandId before)
{
	PgrRegistryName origin = origin_of(definition, before);
	PgrPendingChange **changes;
	int n;

	changes = pgr_pending_oldest_first(&n);
	for (int i = 0; i < n; i++)
	{
		const PgrPendingChange *change = changes[i];

		if (change->command < before &&
			change->incarnation == definition->incarnation &&
			(change->kind == PGR_CHANGE_RATES ||
			 change->kind == PGR_CHANGE_CLEAR ||
			 change->kind == PGR_CHANGE_PUT ||
			 change->kind == PGR_CHANGE_DELETE) &&
			pgr_change_is_of(change, &origin))
			pgr_fold_add(fold, change);
	}
	pfree(changes);
}

static bool
has_expired(TimestampTz expires_at, TimestampTz now)
{
	return expires_at != 0 && expires_at <= now;
}

/* How many entries more than the block (NULL = none) the changes make. */
static int64
count_difference(const PgrFold *fold, const PgrBlock *block, TimestampTz now)
{
	int64 difference = 0;

	for (int i = 0; i < fold->nchanges; i++)
	{
		const PgrChange *change = &fold->changes[i];
		PgrEntry entry;
		bool found = block != NULL &&
			pgr_block_lookup(block, PGR_NEWEST, change->key, change->key_len,
							 &entry);

		difference += !change->remove && !has_expired(change->expires_at, now);
		difference -= found && !has_expired(entry.expires_at, now);
	}
	return difference;
}

int64
pgr_pending_count_newest(const PgrDefinition *definition)
{
	TimestampTz now = GetCurrentTransactionStartTimestamp();
	PgrFold fold = {0};
	PgrRegistryName registry = pgr_registry_name(definition);
	PgrPendingState state = {.origin = registry};
	const PgrBlock *block = NULL;
	int64 count;
	uint32 slot;

	if (pgr_pending_any())
	{
		fold_visible(&fold, definition, InvalidCommandId);
		pgr_pending_state(&registry, true, &state);
	}
	LWLockAcquire(pgr_area_lock(PGR_LOCK_WRITER), LW_SHARED);
	if (!fold.fresh && !(definition->incarnation & PGR_PROVISIONAL))
		block = pgr_directory_find(pgr_image_ptr(pgr_image, pgr_image->root),
								   PGR_NEWEST, definition->database,
								   definition->extension, state.origin.name,
								   state.origin.len, &slot);
	count = (block ? pgr_block_count(block, PGR_NEWEST, now) : 0) +
		count_difference(&fold, block, now);
	LWLockRelease(pgr_area_lock(PGR_LOCK_WRITER));
	return count;
}

PgrBlock *
pgr_block_build_private(const PgrBlockBuild *build)
{
	/* aligned as in the arena */
	char *memory = MemoryContextAllocHuge(CurrentMemoryContext,
										  pgr_block_build_bytes(build) +
											  2 * PGR_ARENA_UNIT);
	PgrBlock *block = (PgrBlock *) (TYPEALIGN(PGR_ARENA_UNIT, memory) +
									PGR_CHUNK_HEADER);

	pgr_block_build(block, build);
	return block;
}

PgrBlock *
pgr_pending_overlay(const PgrDefinition *definition, const PgrBlock *base,
					const PgrPin *pin)
{
	PgrFold fold = {0};
	PgrBlockBuild build = {
		.old = base,
		.generation = pin->generation,
		.definition = definition,
		.seed = pgr_image->seed,
		.now = pin->at,
	};
	PgrBlock *block;

	fold_visible(&fold, definition, visible_before(false));
	build.changes = fold.changes;
	build.nchanges = fold.nchanges;
	build.mark_missing = fold.mark_missing;
	build.fresh = fold.fresh;
	build.extra = fold.extra;
	build.extra_len = fold.extra_len;
	build.extra_prefix = fold.extra_prefix;

	block = pgr_block_build_private(&build);
	/* as the commit will have it; a new definition is no change of entries */
	block->built_at = base && fold.nchanges == 0 && !fold.fresh ?
		pgr_block_changed_at(base, pin->generation) :
		GetCurrentTransactionStartTimestamp();
	return block;
}

/* The last overlay: of one registry, pin, list of changes and command. */
typedef struct Overlay
{
	MemoryContext context;
	const PgrBlock *block; /* NULL = none */
	uint64 token;
	PgrRef head;
	CommandId before;
} Overlay;

static bool
overlay_is_for(const Overlay *overlay, const PgrDefinition *definition,
			   const PgrPin *pin, CommandId before)
{
	const PgrDefinition *kept;

	if (overlay->block == NULL || overlay->token != pin->token ||
		overlay->head != pgr_pin_pending_head() || overlay->before != before)
		return false;
	kept = &overlay->block->definition;
	return kept->database == definition->database &&
		kept->extension == definition->extension &&
		kept->incarnation == definition->incarnation &&
		kept->name_len == definition->name_len &&
		memcmp(kept->name, definition->name, kept->name_len) == 0;
}

const PgrBlock *
pgr_pending_overlay_kept(const PgrDefinition *definition, const PgrBlock *base)
{
	static Overlay overlay;
	CommandId before = visible_before(false);
	const PgrPin *pin = pgr_pin();
	MemoryContext caller;

	if (overlay_is_for(&overlay, definition, pin, before))
		return overlay.block;
	overlay.block = NULL;
	if (overlay.context == NULL)
		overlay.context = AllocSetContextCreate(TopMemoryContext,
												"pg_registry overlay",
												ALLOCSET_SMALL_SIZES);
	MemoryContextReset(overlay.context);
	caller = MemoryContextSwitchTo(overlay.context);
	overlay.block = pgr_pending_overlay(definition, base, pin);
	MemoryContextSwitchTo(caller);
	overlay.token = pin->token;
	overlay.head = pgr_pin_pending_head();
	overlay.before = before;
	return overlay.block;
}

void
pgr_pending_named(void (*visit)(const PgrRegistryName *name, void *arg),
				  void *arg)
{
	CommandId before = visible_before(false);
	PgrPendingChange **changes;
	int n;

	changes = pgr_pending_oldest_first(&n);
	for (int i = 0; i < n; i++)
	{
		PgrRegistryName registry = {changes[i]->database,
									changes[i]->extension,
									changes[i]->data + changes[i]->name_offset,
									changes[i]->name_len};

		if ((changes[i]->kind == PGR_CHANGE_CREATE ||
			 changes[i]->kind == PGR_CHANGE_ENTER) &&
			newest_of_name(&registry, before) == changes[i])
			visit(&registry, arg);
	}
	pfree(changes);
}

/* ------------------------------------------------------------------------
 * Transactions
 * ------------------------------------------------------------------------
 */

static void
free_all(void)
{
	PgrRef ref = head;

	if (ref == 0)
		return;
	pgr_pin_set_pending(0);
	LWLockAcquire(pgr_area_lock(PGR_LOCK_WRITER), LW_EXCLUSIVE);
	while (ref != 0)
	{
		PgrRef older = change_at(ref)->older;

		free_change(ref);
		ref = older;
	}
	LWLockRelease(pgr_area_lock(PGR_LOCK_WRITER));
	head = 0;
}

static void
end_transaction(void)
{
	free_all();
	length = 0;
	list_bytes = 0;
	last_sequence = 0;
	has_renamed = false;
	has_untracked = false;
	has_forgotten = false;
	closed = false;
	unlisted = InvalidSubTransactionId;
	has_hidden = false;
	list_index = NULL; /* goes with TopTransactionContext */
	pgr_pin_end_transaction();
}

static void
xact_callback(XactEvent event, void *arg)
{
	switch (event)
	{
		case XACT_EVENT_PRE_COMMIT:
			if (head != 0)
				pgr_pending_prepare_commit();
			closed = true;
			break;
		case XACT_EVENT_COMMIT:
			if (head != 0)
				pgr_pending_commit();
			end_transaction();
			break;
		case XACT_EVENT_ABORT:
			if (head != 0)
				pgr_pending_cancel_commit();
			end_transaction();
			break;
		case XACT_EVENT_PRE_PREPARE:
			if (head != 0 || unlisted != InvalidSubTransactionId)
				ereport(ERROR,
						(errcode(ERRCODE_FEATURE_NOT_SUPPORTED),
						 errmsg("cannot PREPARE a transaction that has changed a registry"),
						 errhint("Commit it, or change registries in a transaction of its own.")));
			break;
		case XACT_EVENT_PREPARE:
		case XACT_EVENT_PARALLEL_COMMIT:
		case XACT_EVENT_PARALLEL_ABORT:
			list_index = NULL;
			pgr_pin_end_transaction();
			break;
		case XACT_EVENT_PARALLEL_PRE_COMMIT:
			break;
	}
}

static void
subxact_callback(SubXactEvent event, SubTransactionId mine,
				 SubTransactionId parent, void *arg)
{
	if (event == SUBXACT_EVENT_ABORT_SUB)
		pgr_pin_abort_subtransaction();
	if (unlisted == mine)
		unlisted = event == SUBXACT_EVENT_COMMIT_SUB ?
			parent :
			(event == SUBXACT_EVENT_ABORT_SUB ? InvalidSubTransactionId :
												mine);
	if (head == 0)
		return;
	if (event == SUBXACT_EVENT_COMMIT_SUB)
	{
		for (PgrRef ref = head;
			 ref != 0 && change_at(ref)->subtransaction == mine;
			 ref = change_at(ref)->older)
			change_at(ref)->subtransaction = parent;
	}
	else if (event == SUBXACT_EVENT_ABORT_SUB)
	{
		PgrRef ref = head;

		LWLockAcquire(pgr_area_lock(PGR_LOCK_WRITER), LW_EXCLUSIVE);
		while (ref != 0 && change_at(ref)->subtransaction == mine)
		{
			PgrRef older = change_at(ref)->older;

			if (list_index != NULL)
				unindex_change(ref);
			free_change(ref);
			length--;
			ref = older;
		}
		LWLockRelease(pgr_area_lock(PGR_LOCK_WRITER));
		if (ref != head)
		{
			head = ref;
			pgr_pin_set_pending(head);
		}
	}
}

void
pgr_pending_install(void)
{
	RegisterXactCallback(xact_callback, NULL);
	RegisterSubXactCallback(subxact_callback, NULL);
}
