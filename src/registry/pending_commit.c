/*
 * registry/pending_commit.c
 *	  From the list of uncommitted changes to one publish.
 *
 * pgr_pending_prepare_commit() runs at PRE_COMMIT and does all that can fail:
 * it folds the list and reserves.  pgr_pending_commit() runs in the commit
 * callback.  Between the two this transaction holds the heavyweight locks of
 * registry/write.c, so no other transaction can create, drop or change what
 * the plan names; only the drop of a whole extension or database can.  So each
 * change carries the incarnation that it was made for, from the put on, and is
 * void for any other.
 */
#include "postgres.h"

#include "miscadmin.h"
#include "utils/hsearch.h"
#include "utils/memutils.h"
#include "utils/timestamp.h"

#include "base/compat.h"
#include "registry/directory.h"
#include "registry/pending_list.h"
#include "registry/pin.h"
#include "settings.h"
#include "shm/area.h"

/* Beyond this many keys a fold finds them through a hash table. */
#define HASH_FROM 16

/* hash of key -> index in changes; keys with the same hash share an entry */
typedef struct FoldEntry
{
	uint64 hash;
	int first;
} FoldEntry;

/* What the transaction does to one registry. */
typedef struct Target
{
	PgrRegistryName registry;
	const PgrBlock *existing; /* before the transaction; NULL = none */
	uint32 slot;
	bool drop; /* the existing one */
	const PgrDefinition *create;
	PgrFold fold;
} Target;

typedef struct Compiler
{
	PgrPendingChange **drops; /* of whole extensions and databases */
	int ndrops;
	Target *targets;
	int ntargets;
	int capacity;
	HTAB *by_name; /* once there are many targets */
	PgrPlanRegistry *registries;
	int nregistries;
	int max_registries;
	PgrFold directory; /* of this database */
	Oid extension;     /* whose directory */
	PgrFold databases;
	int *fixups; /* entries of the plan whose slot a directory
								 * must name once it is reserved */
	int nfixups;
	const PgrSharedRoot *root;
	uint64 generation; /* of the pin that holds it */
	bool frees;
} Compiler;

static PgrPlan plan;
static bool reserved = false;

/* ------------------------------------------------------------------------
 * Folding
 * ------------------------------------------------------------------------
 */

static PgrChange *
fold_find(PgrFold *fold, const char *key, uint32 key_len, uint64 hash)
{
	if (fold->by_key != NULL)
	{
		FoldEntry *entry = hash_search(fold->by_key, &hash, HASH_FIND, NULL);

		if (entry == NULL)
			return NULL;
		/* different keys of one hash are as good as impossible: look on */
		for (int i = entry->first; i < fold->nchanges; i++)
			if (fold->changes[i].key_len == key_len &&
				memcmp(fold->changes[i].key, key, key_len) == 0)
				return &fold->changes[i];
		return NULL;
	}
	for (int i = 0; i < fold->nchanges; i++)
		if (fold->changes[i].key_len == key_len &&
			memcmp(fold->changes[i].key, key, key_len) == 0)
			return &fold->changes[i];
	return NULL;
}

static void
fold_hash(PgrFold *fold, int i)
{
	const PgrChange *change = &fold->changes[i];
	uint64 hash = pgr_key_hash(change->key, change->key_len,
							   pgr_key_word(change->key, change->key_len),
							   pgr_image->seed);
	bool found;
	FoldEntry *entry = hash_search(fold->by_key, &hash, HASH_ENTER, &found);

	if (!found)
		entry->first = i;
}

static PgrChange *
fold_change(PgrFold *fold, const char *key, uint32 key_len)
{
	uint64 hash = pgr_key_hash(key, key_len, pgr_key_word(key, key_len),
							   pgr_image->seed);
	PgrChange *change = fold_find(fold, key, key_len, hash);

	if (change != NULL)
		return change;
	if (fold->nchanges == fold->capacity)
	{
		int capacity = Max(8, fold->capacity * 2);
		PgrChange *larger = MemoryContextAllocHuge(CurrentMemoryContext,
												   capacity *
													   sizeof(PgrChange));

		if (fold->nchanges > 0)
			memcpy(larger, fold->changes, fold->nchanges * sizeof(PgrChange));
		fold->changes = larger;
		fold->capacity = capacity;
	}
	change = &fold->changes[fold->nchanges++];
	memset(change, 0, sizeof(*change));
	change->key = key;
	change->key_len = key_len;
	if (fold->by_key != NULL)
		fold_hash(fold, fold->nchanges - 1);
	else if (fold->nchanges > HASH_FROM)
	{
		HASHCTL control = {.keysize = sizeof(uint64),
						   .entrysize = sizeof(FoldEntry),
						   .hcxt = CurrentMemoryContext};

		fold->by_key = hash_create("pg_registry fold", 256, &control,
								   HASH_ELEM | HASH_BLOBS | HASH_CONTEXT);
		for (int i = 0; i < fold->nchanges; i++)
			fold_hash(fold, i);
	}
	return change;
}

void
pgr_fold_clear(PgrFold *fold)
{
	memset(fold, 0, sizeof(*fold));
}

/* A new set of rates: what an earlier one of this transaction named is kept,
 * as missing, unless the base is another. */
static void
fold_rates(PgrFold *fold, const PgrPendingChange *change)
{
	if (fold->extra != NULL &&
		memcmp(fold->extra, change->data, change->flags) != 0)
		pgr_fold_clear(fold);
	for (int i = 0; i < fold->nchanges; i++)
		fold->changes[i].flags |= PGR_SLOT_MISSING;
	fold->mark_missing = true;
	fold->extra = change->data;
	fold->extra_len = change->value_len;
	fold->extra_prefix = change->flags;
}

void
pgr_fold_add(PgrFold *fold, const PgrPendingChange *change)
{
	PgrChange *to;

	if (change->kind == PGR_CHANGE_RATES)
	{
		fold_rates(fold, change);
		return;
	}
	Assert(change->kind == PGR_CHANGE_PUT ||
		   change->kind == PGR_CHANGE_DELETE);
	to = fold_change(fold, change->data + change->key_offset, change->key_len);
	to->remove = change->kind == PGR_CHANGE_DELETE;
	to->flags = 0;
	to->value = change->data;
	to->value_len = change->value_len;
	to->fixed = change->fixed;
	to->updated_at = change->updated_at;
	to->expires_at = change->expires_at;
}

/* ------------------------------------------------------------------------
 * Compiling the plan
 * ------------------------------------------------------------------------
 */

/* Key of by_name; zeroed, since it is compared as bytes. */
typedef struct TargetName
{
	Oid database;
	Oid extension;
	char name[PGR_NAME_LEN];
} TargetName;

typedef struct TargetEntry
{
	TargetName name;
	int target;
} TargetEntry;

static void
index_target(Compiler *compiler, int i)
{
	const PgrRegistryName *registry = &compiler->targets[i].registry;
	TargetName name = {registry->database, registry->extension, ""};
	TargetEntry *entry;

	memcpy(name.name, registry->name, registry->len);
	entry = hash_search(compiler->by_name, &name, HASH_ENTER, NULL);
	entry->target = i;
}

static Target *
known_target(Compiler *compiler, const PgrPendingChange *change)
{
	if (compiler->by_name != NULL)
	{
		TargetName name = {change->database, change->extension, ""};
		TargetEntry *entry;

		memcpy(name.name, change->data + change->name_offset,
			   change->name_len);
		entry = hash_search(compiler->by_name, &name, HASH_FIND, NULL);
		return entry ? &compiler->targets[entry->target] : NULL;
	}
	for (int i = compiler->ntargets - 1; i >= 0; i--)
		if (pgr_change_is_of(change, &compiler->targets[i].registry))
			return &compiler->targets[i];
	return NULL;
}

static void
remember_target(Compiler *compiler)
{
	if (compiler->by_name != NULL)
		index_target(compiler, compiler->ntargets - 1);
	else if (compiler->ntargets > HASH_FROM)
	{
		HASHCTL control = {
			.keysize = sizeof(TargetName),
			.entrysize = sizeof(TargetEntry),
			.hcxt = CurrentMemoryContext,
		};

		compiler->by_name = hash_create("pg_registry targets", 256, &control,
										HASH_ELEM | HASH_BLOBS | HASH_CONTEXT);
		for (int i = 0; i < compiler->ntargets; i++)
			index_target(compiler, i);
	}
}

static Target *
find_target(Compiler *compiler, const PgrPendingChange *change)
{
	PgrRegistryName registry = {change->database, change->extension,
								change->data + change->name_offset,
								change->name_len};
	Target *target = known_target(compiler, change);

	if (target != NULL)
		return target;
	if (compiler->ntargets == compiler->capacity)
	{
		compiler->capacity = Max(8, compiler->capacity * 2);
		compiler->targets = compiler->targets ?
			repalloc(compiler->targets, compiler->capacity * sizeof(Target)) :
			palloc(compiler->capacity * sizeof(Target));
	}
	target = &compiler->targets[compiler->ntargets++];
	memset(target, 0, sizeof(*target));
	target->registry = registry;
	target->existing = pgr_directory_find(compiler->root, compiler->generation,
										  registry.database,
										  registry.extension, registry.name,
										  registry.len, &target->slot);
	remember_target(compiler);
	return target;
}

static PgrPlanRegistry *
emit(Compiler *compiler, PgrPlanAction action, uint32 slot,
	 const PgrDefinition *definition)
{
	PgrPlanRegistry *registry;

	if (compiler->nregistries == compiler->max_registries)
	{
		compiler->max_registries = Max(8, compiler->max_registries * 2);
		compiler->registries = compiler->registries ?
			repalloc(compiler->registries,
					 compiler->max_registries * sizeof(PgrPlanRegistry)) :
			palloc(compiler->max_registries * sizeof(PgrPlanRegistry));
	}
	registry = &compiler->registries[compiler->nregistries++];
	memset(registry, 0, sizeof(*registry));
	registry->action = action;
	registry->slot = slot;
	registry->definition = *definition;
	return registry;
}

static void
emit_fold(PgrPlanRegistry *registry, const PgrFold *fold)
{
	registry->changes = fold->changes;
	registry->nchanges = fold->nchanges;
	registry->mark_missing = fold->mark_missing;
	registry->extra = fold->extra;
	registry->extra_len = fold->extra_len;
	registry->extra_prefix = fold->extra_prefix;
}

/*
 * Is the change for the registry that is there now?  If not, that one was
 * dropped with its extension meanwhile, and the change is void.
 */
static bool
is_for_existing(const Target *target, const PgrPendingChange *change)
{
	return target->existing != NULL &&
		target->existing->definition.incarnation == change->incarnation;
}

static void
collect(Compiler *compiler, const PgrPendingChange *change)
{
	Target *target;

	CHECK_FOR_INTERRUPTS();
	if (change->kind == PGR_CHANGE_DROP_ALL)
		return; /* compile has it */
	target = find_target(compiler, change);
	switch ((PgrPendingKind) change->kind)
	{
		case PGR_CHANGE_CREATE:
			pgr_fold_clear(&target->fold);
			target->create = (const PgrDefinition *) change->data;
			break;
		case PGR_CHANGE_DROP:
			pgr_fold_clear(&target->fold);
			target->create = NULL;
			target->drop |= is_for_existing(target, change);
			break;
		default:
			if (change->incarnation == 0 || is_for_existing(target, change))
				pgr_fold_add(&target->fold, change);
			break;
	}
}

static void
add_fixup(Compiler *compiler, PgrFold *fold, const char *key, uint32 key_len,
		  int registry)
{
	fold_change(fold, key, key_len)->remove = false;
	compiler->fixups[compiler->nfixups++] = registry;
}

static void
emit_target(Compiler *compiler, const Target *target)
{
	if (target->create != NULL || target->drop)
		compiler->extension = target->registry.extension;
	if (target->create != NULL)
	{
		int index = compiler->nregistries;

		emit_fold(emit(compiler, PGR_PLAN_CREATE, PGR_NO_SLOT, target->create),
				  &target->fold);
		add_fixup(compiler, &compiler->directory, target->registry.name,
				  target->registry.len, index);
		compiler->frees = false;
	}
	else if (target->drop)
		fold_change(&compiler->directory, target->registry.name,
					target->registry.len)
			->remove = true;
	if (target->drop)
		emit(compiler, PGR_PLAN_DROP, target->slot,
			 &target->existing->definition);
	if (target->create == NULL && !target->drop && target->existing != NULL &&
		(target->fold.nchanges > 0 || target->fold.extra != NULL))
	{
		emit_fold(emit(compiler, PGR_PLAN_CHANGE, target->slot,
					   &target->existing->definition),
				  &target->fold);
		for (int i = 0; i < target->fold.nchanges; i++)
			compiler->frees &= target->fold.changes[i].remove;
	}
}

/* The database's own directory, made with its first registry. */
static void
emit_directory(Compiler *compiler)
{
	Oid extension = compiler->extension;
	uint32 slot;

	if (compiler->directory.nchanges == 0)
		return;
	slot = pgr_directory_slot(compiler->root, compiler->generation,
							  MyDatabaseId, extension);
	if (slot != PGR_NO_SLOT)
		emit_fold(emit(compiler, PGR_PLAN_CHANGE, slot,
					   &pgr_root_block(pgr_image, compiler->root, slot)
							->definition),
				  &compiler->directory);
	else
	{
		PgrDefinition definition = {
			.kind = PGR_BLOCK_DIRECTORY,
			.database = MyDatabaseId,
			.extension = extension,
		};
		PgrDatabaseKey *key = palloc(sizeof(PgrDatabaseKey));
		int index = compiler->nregistries;

		key->database = MyDatabaseId;
		key->extension = extension;
		emit_fold(emit(compiler, PGR_PLAN_CREATE, PGR_NO_SLOT, &definition),
				  &compiler->directory);
		add_fixup(compiler, &compiler->databases, (char *) key, sizeof(*key),
				  index);
	}
}

static void
emit_drop_directory(Compiler *compiler, const PgrEntry *entry)
{
	const PgrSharedRoot *root = compiler->root;
	uint32 slot = (uint32) entry->fixed.i8;
	const PgrBlock *directory = pgr_root_block(pgr_image, root, slot);
	PgrDatabaseKey *key = palloc(sizeof(PgrDatabaseKey));
	PgrEntry name;
	uint64 position = 0;

	while (pgr_block_next_entry(directory, compiler->generation, &position,
								&name))
	{
		uint32 registry = (uint32) name.fixed.i8;

		emit(compiler, PGR_PLAN_DROP, registry,
			 &pgr_root_block(pgr_image, root, registry)->definition);
	}
	emit(compiler, PGR_PLAN_DROP, slot, &directory->definition);
	key->database = directory->definition.database;
	key->extension = directory->definition.extension;
	fold_change(&compiler->databases, (char *) key, sizeof(*key))->remove =
		true;
}

static void
emit_drop_all(Compiler *compiler, const PgrPendingChange *change)
{
	const PgrBlock *databases = pgr_root_block(pgr_image, compiler->root,
											   PGR_SLOT_DATABASES);
	PgrEntry entry;
	uint64 position = 0;

	while (pgr_block_next_entry(databases, compiler->generation, &position,
								&entry))
	{
		PgrDatabaseKey key;

		memcpy(&key, entry.key, sizeof(key));
		if (key.database == change->database &&
			(change->extension == InvalidOid ||
			 key.extension == change->extension))
			emit_drop_directory(compiler, &entry);
	}
}

/* Does the registry go with its extension or database anyway? */
static bool
is_dropped(const Compiler *compiler, const Target *target)
{
	for (int i = 0; i < compiler->ndrops; i++)
		if (compiler->drops[i]->database == target->registry.database &&
			(compiler->drops[i]->extension == InvalidOid ||
			 compiler->drops[i]->extension == target->registry.extension))
			return true;
	return false;
}

static void
compile(Compiler *compiler, PgrPendingChange **changes, int n)
{
	compiler->drops = MemoryContextAllocHuge(CurrentMemoryContext,
											 Max(n, 1) *
												 sizeof(*compiler->drops));
	for (int i = 0; i < n; i++)
	{
		collect(compiler, changes[i]);
		if (changes[i]->kind == PGR_CHANGE_DROP_ALL)
			compiler->drops[compiler->ndrops++] = changes[i];
	}
	compiler->fixups = palloc((compiler->ntargets + 1) * sizeof(int));
	for (int i = 0; i < compiler->ntargets; i++)
		if (!is_dropped(compiler, &compiler->targets[i]))
			emit_target(compiler, &compiler->targets[i]);
	emit_directory(compiler);
	for (int i = 0; i < compiler->ndrops; i++)
		emit_drop_all(compiler, compiler->drops[i]);
	if (compiler->databases.nchanges > 0)
		emit_fold(emit(compiler, PGR_PLAN_CHANGE, PGR_SLOT_DATABASES,
					   &pgr_root_block(pgr_image, compiler->root,
									   PGR_SLOT_DATABASES)
							->definition),
				  &compiler->databases);
}

/* Directory entries name slots: write those that the reservation took. */
static void
resolve_fixups(Compiler *compiler)
{
	for (int i = 0; i < compiler->nfixups; i++)
	{
		const PgrPlanRegistry *created =
			&compiler->registries[compiler->fixups[i]];
		bool directory = created->definition.kind == PGR_BLOCK_DIRECTORY;
		PgrDatabaseKey key = {created->definition.database,
							  created->definition.extension};
		PgrChange *change = directory ?
			fold_change(&compiler->databases, (char *) &key, sizeof(key)) :
			fold_change(&compiler->directory, created->definition.name,
						created->definition.name_len);

		change->fixed.i8 = created->slot;
	}
}

void
pgr_pending_prepare_commit(void)
{
	MemoryContext context = MemoryContextSwitchTo(TopTransactionContext);
	Compiler compiler = {.frees = true};
	PgrPendingChange **changes;
	const PgrPin *pin;
	Size wanted = 0;
	int n;

	changes = pgr_pending_oldest_first(&n);
	/* the newest state, held until the transaction's end; no read follows */
	pin = pgr_pin_advance();
	compiler.root = pin->root;
	compiler.generation = pin->generation;
	compile(&compiler, changes, n);

	memset(&plan, 0, sizeof(plan));
	plan.registries = compiler.registries;
	plan.nregistries = compiler.nregistries;
	plan.frees = compiler.frees;
	plan.now = GetCurrentTransactionStartTimestamp();
	plan.pages = palloc(Max(plan.nregistries, 1) * sizeof(PgrRef));
	MemoryContextSwitchTo(context);
	if (!pgr_plan_reserve(&plan, &wanted))
	{
		/* DROP DATABASE has removed files by now and must not fail here */
		if (compiler.ndrops < n)
			pgr_plan_out_of_memory(wanted);
		ereport(WARNING,
				(errcode(ERRCODE_OUT_OF_MEMORY),
				 errmsg("the registries of a dropped database keep their shared memory until the server restarts")));
		return;
	}
	reserved = true;
	resolve_fixups(&compiler);
}

void
pgr_pending_commit(void)
{
	if (!reserved)
		return;
	reserved = false;
#ifdef PGR_TESTING
	if (pgr_settings.test_commit_delay_ms > 0)
		pg_usleep(pgr_settings.test_commit_delay_ms * 1000L);
#endif
	pgr_plan_commit(&plan);
}

void
pgr_pending_cancel_commit(void)
{
	if (!reserved)
		return;
	reserved = false;
	pgr_plan_cancel(&plan);
}
