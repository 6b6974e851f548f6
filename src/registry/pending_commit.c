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
#include "registry/table.h"
#include "settings.h"
#include "shm/area.h"
#include "shm/load_state.h"

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
	PgrRegistryName origin;
	uint64 incarnation;
	const PgrBlock *existing; /* before the transaction; NULL = none */
	uint32 slot;
	bool drop;
	bool untracked;                  /* the list lacks some of its changes */
	bool grants;                     /* they are as the table has them */
	const PgrDefinition *definition; /* newest of ours; NULL = unchanged */
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
	bool complete; /* the directory names all registries from now on */
	bool forget;   /* and it names no durable one */
	const PgrSharedRoot *root;
	uint64 generation; /* of the pin that holds it */
	bool frees;
} Compiler;

static PgrPlan plan;
static bool reserved = false;
static bool forgets = false;

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
	if (change->kind == PGR_CHANGE_CLEAR)
	{
		pgr_fold_clear(fold);
		fold->fresh = true;
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
	uint64 incarnation;
	char name[PGR_NAME_LEN];
} TargetName;

typedef struct TargetEntry
{
	TargetName name;
	int target;
} TargetEntry;

static void
set_target_name(TargetName *name, const PgrRegistryName *origin,
				uint64 incarnation)
{
	memset(name, 0, sizeof(*name));
	name->database = origin->database;
	name->extension = origin->extension;
	name->incarnation = incarnation;
	memcpy(name->name, origin->name, origin->len);
}

static void
index_target(Compiler *compiler, int i)
{
	const Target *target = &compiler->targets[i];
	TargetName name;
	TargetEntry *entry;

	set_target_name(&name, &target->origin, target->incarnation);
	entry = hash_search(compiler->by_name, &name, HASH_ENTER, NULL);
	entry->target = i;
}

static Target *
known_target(Compiler *compiler, const PgrRegistryName *origin,
			 uint64 incarnation)
{
	if (compiler->by_name != NULL)
	{
		TargetName name;
		TargetEntry *entry;

		set_target_name(&name, origin, incarnation);
		entry = hash_search(compiler->by_name, &name, HASH_FIND, NULL);
		return entry ? &compiler->targets[entry->target] : NULL;
	}
	for (int i = compiler->ntargets - 1; i >= 0; i--)
	{
		Target *target = &compiler->targets[i];

		if (target->incarnation == incarnation &&
			target->origin.database == origin->database &&
			target->origin.extension == origin->extension &&
			target->origin.len == origin->len &&
			memcmp(target->origin.name, origin->name, origin->len) == 0)
			return target;
	}
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
	PgrRegistryName origin = pgr_change_origin(change);
	Target *target = known_target(compiler, &origin, change->incarnation);

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
	target->origin = origin;
	target->incarnation = change->incarnation;
	target->existing = pgr_directory_find(compiler->root, compiler->generation,
										  origin.database, origin.extension,
										  origin.name, origin.len,
										  &target->slot);
	/* another one: ours was dropped with its extension, or is yet to come */
	if (target->existing != NULL &&
		target->existing->definition.incarnation != change->incarnation)
		target->existing = NULL;
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
	registry->fresh = fold->fresh;
	registry->extra = fold->extra;
	registry->extra_len = fold->extra_len;
	registry->extra_prefix = fold->extra_prefix;
}

static void
collect(Compiler *compiler, const PgrPendingChange *change)
{
	Target *target;

	CHECK_FOR_INTERRUPTS();
	if (change->kind == PGR_CHANGE_DROP_ALL ||
		change->kind == PGR_CHANGE_LEAVE || change->kind == PGR_CHANGE_ENTER)
		return; /* compile has the first, ALTER what the others say */
	if (change->kind == PGR_CHANGE_COMPLETE)
	{
		compiler->complete = true;
		compiler->extension = change->extension;
		return;
	}
	if (change->kind == PGR_CHANGE_FORGET)
	{
		compiler->forget = true;
		compiler->extension = change->extension;
		return;
	}
	target = find_target(compiler, change);
	switch ((PgrPendingKind) change->kind)
	{
		case PGR_CHANGE_CREATE:
		case PGR_CHANGE_ALTER:
			target->definition = (const PgrDefinition *) change->data;
			break;
		case PGR_CHANGE_DROP:
			target->drop = true;
			break;
		case PGR_CHANGE_UNTRACKED:
			target->untracked = true;
			break;
		case PGR_CHANGE_GRANTS:
			target->grants = true;
			break;
		default:
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

/* Does the registry end with another name than it began with? */
static bool
is_renamed(const Target *target)
{
	return target->existing != NULL && target->definition != NULL &&
		(target->definition->name_len != target->origin.len ||
		 memcmp(target->definition->name, target->origin.name,
				target->origin.len) != 0);
}

/* Before any name is given anew. */
static void
emit_name_removal(Compiler *compiler, const Target *target)
{
	if (target->existing == NULL || (!target->drop && !is_renamed(target)))
		return;
	compiler->extension = target->origin.extension;
	fold_change(&compiler->directory, target->origin.name, target->origin.len)
		->remove = true;
}

/*
 * The grants as this transaction leaves them: all of its rows are visible, as
 * are all that others have committed, since it holds the directory's lock.
 * Everybody may read the rates, and their blocks have something else there.
 */
static void
emit_grants(PgrPlanRegistry *registry, const PgrDefinition *definition)
{
	PgrText name = {definition->name, definition->name_len};
	int n;

	if (definition->kind == PGR_BLOCK_RATES)
		return;
	registry->extra = pgr_table->grants(name, PGR_VIEW_NEWEST, &n);
	registry->extra_len = (uint32) (n * sizeof(PgrGrant));
}

static void
emit_create(Compiler *compiler, const Target *target)
{
	int index = compiler->nregistries;
	PgrPlanRegistry *registry = emit(compiler, PGR_PLAN_CREATE, PGR_NO_SLOT,
									 target->definition);

	registry->definition.incarnation = 0; /* the publish has the real one */
	if (target->untracked)
		registry->definition.residency = PGR_FROM_TABLE;
	if (registry->definition.residency == PGR_LOST &&
		target->fold.nchanges > 0)
		registry->definition.residency = PGR_RESIDENT;
	if (registry->definition.residency != PGR_FROM_TABLE)
		emit_fold(registry, &target->fold);
	emit_grants(registry, target->definition);
	add_fixup(compiler, &compiler->directory, target->definition->name,
			  target->definition->name_len, index);
	compiler->extension = target->origin.extension;
	compiler->frees = false;
}

static const PgrDefinition *
newest_definition(const Target *target)
{
	return target->definition ? target->definition :
								&target->existing->definition;
}

static void
emit_change(Compiler *compiler, const Target *target)
{
	const PgrFold *fold = &target->fold;
	PgrPlanRegistry *registry;

	if (fold->nchanges == 0 && fold->extra == NULL && !fold->fresh &&
		target->definition == NULL && !target->untracked && !target->grants)
		return;
	if (target->existing->definition.residency == PGR_FROM_TABLE &&
		target->definition == NULL && !target->grants)
		return; /* the table has it all */
	registry = emit(compiler, PGR_PLAN_CHANGE, target->slot,
					&target->existing->definition);
	registry->alter = target->definition;
	if (target->untracked)
		pgr_plan_make_hollow(registry);
	else
		emit_fold(registry, fold);
	if (target->grants)
	{
		emit_grants(registry, newest_definition(target));
		compiler->frees &= registry->extra_len <= target->existing->extra_len;
	}
	if (is_renamed(target))
	{
		PgrChange *entry = fold_change(&compiler->directory,
									   target->definition->name,
									   target->definition->name_len);

		entry->remove = false;
		entry->fixed.i8 = target->slot;
	}
	compiler->frees &= target->definition == NULL;
	for (int i = 0; i < fold->nchanges; i++)
		compiler->frees &= fold->changes[i].remove;
}

static void
emit_target(Compiler *compiler, const Target *target)
{
	if (target->incarnation & PGR_PROVISIONAL)
	{
		if (!target->drop)
			emit_create(compiler, target);
	}
	else if (target->existing == NULL)
		return; /* void */
	else if (target->drop)
		emit(compiler, PGR_PLAN_DROP, target->slot,
			 &target->existing->definition);
	else
		emit_change(compiler, target);
}

/* The database's own directory, made with its first registry. */
static void
emit_directory(Compiler *compiler)
{
	Oid extension = compiler->extension;
	uint32 slot;

	if (compiler->directory.nchanges == 0 && !compiler->complete &&
		!compiler->forget)
		return;
	slot = pgr_directory_slot(compiler->root, compiler->generation,
							  MyDatabaseId, extension);
	if (slot != PGR_NO_SLOT)
	{
		const PgrBlock *directory = pgr_root_block(pgr_image, compiler->root,
												   slot);
		PgrPlanRegistry *registry = emit(compiler, PGR_PLAN_CHANGE, slot,
										 &directory->definition);

		emit_fold(registry, &compiler->directory);
		if (compiler->forget)
			registry->residency = PGR_MAKE_HOLLOW;
		else if (compiler->complete)
			registry->residency = PGR_MAKE_RESIDENT;
	}
	else if (compiler->directory.nchanges > 0 || compiler->complete)
	{
		PgrDefinition definition = {
			.kind = PGR_BLOCK_DIRECTORY,
			.database = MyDatabaseId,
			.extension = extension,
			.residency = compiler->complete && !compiler->forget ?
				PGR_RESIDENT :
				PGR_FROM_TABLE,
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

/* All durable registries that the directory names. */
static void
emit_forget(Compiler *compiler)
{
	uint32 slot = pgr_directory_slot(compiler->root, compiler->generation,
									 MyDatabaseId, compiler->extension);
	const PgrBlock *directory;
	PgrEntry name;
	uint64 position = 0;

	if (slot == PGR_NO_SLOT)
		return;
	directory = pgr_root_block(pgr_image, compiler->root, slot);
	while (pgr_block_next_entry(directory, compiler->generation, &position,
								&name))
	{
		uint32 registry = (uint32) name.fixed.i8;
		const PgrDefinition *definition =
			&pgr_root_block(pgr_image, compiler->root, registry)->definition;

		if (!definition->durable)
			continue;
		emit(compiler, PGR_PLAN_DROP, registry, definition);
		fold_change(&compiler->directory, name.key, name.key_len)->remove =
			true;
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

/* Does what belongs to an extension go with it, or with its database? */
static bool
is_dropped(const Compiler *compiler, Oid database, Oid extension)
{
	for (int i = 0; i < compiler->ndrops; i++)
		if (compiler->drops[i]->database == database &&
			(compiler->drops[i]->extension == InvalidOid ||
			 compiler->drops[i]->extension == extension))
			return true;
	return false;
}

/* Is what the list has of a registry void? */
static bool
is_void(const Compiler *compiler, const Target *target)
{
	const PgrDefinition *definition = target->existing ?
		&target->existing->definition :
		target->definition;

	if (is_dropped(compiler, target->origin.database,
				   target->origin.extension))
		return true;
	return compiler->forget && definition != NULL && definition->durable;
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
	compiler->forget &= !is_dropped(compiler, MyDatabaseId,
									compiler->extension);
	compiler->fixups = palloc((compiler->ntargets + 1) * sizeof(int));
	for (int i = 0; i < compiler->ntargets; i++)
		if (!is_void(compiler, &compiler->targets[i]))
			emit_name_removal(compiler, &compiler->targets[i]);
	if (compiler->forget)
		emit_forget(compiler);
	for (int i = 0; i < compiler->ntargets; i++)
		if (!is_void(compiler, &compiler->targets[i]))
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

/*
 * For standbys: what the list has of durable registries.  Whoever creates,
 * alters or drops one, or changes what is not listed, has said so already.
 */
static void
log_target(const Target *target)
{
	const PgrFold *fold = &target->fold;
	PgrText name = {target->origin.name, target->origin.len};
	bool all = target->existing == NULL || fold->fresh || target->untracked;

	if (target->origin.database != MyDatabaseId || target->drop ||
		(target->incarnation & PGR_PROVISIONAL) || is_renamed(target) ||
		(target->existing != NULL && !target->existing->definition.durable))
		return;
	if (all || fold->nchanges > 0)
		pgr_table->log_changes(name, all ? NULL : fold->changes,
							   fold->nchanges);
}

static void
log_changes(const Compiler *compiler)
{
	for (int i = 0; i < compiler->ntargets; i++)
		log_target(&compiler->targets[i]);
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

/*
 * There is no room for all.  What a table holds as well is read from there,
 * from this commit on; false if that is no way out.
 */
static bool
make_durable_hollow(void)
{
	bool any = false;

	for (int i = 0; i < plan.nregistries; i++)
	{
		PgrPlanRegistry *registry = &plan.registries[i];

		if (!registry->definition.durable || registry->action == PGR_PLAN_DROP)
			continue;
		pgr_plan_make_hollow(registry);
		any = true;
	}
	plan.hollows = any;
	return any;
}

/* Does the transaction change what the tables have, too? */
static bool
changes_tables(const Compiler *compiler)
{
	if (compiler->forget)
		return true;
	for (int i = 0; i < compiler->ntargets; i++)
	{
		const Target *target = &compiler->targets[i];

		if (target->drop || target->definition != NULL ||
			(target->existing != NULL && target->existing->definition.durable))
			return true;
	}
	return false;
}

/* Nothing below fails: who agrees with a snapshot has to know of us now. */
static void
announce(const Compiler *compiler)
{
	if (changes_tables(compiler))
		plan.by = pgr_publishers_me();
	else if (compiler->complete)
		plan.by = pgr_publishers_load();
	if (plan.by.xid != 0 && !plan.by.everything)
		pgr_publishers_enter((TransactionId) plan.by.xid);
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
	log_changes(&compiler);

	forgets = compiler.forget;
	memset(&plan, 0, sizeof(plan));
	plan.registries = compiler.registries;
	plan.nregistries = compiler.nregistries;
	plan.frees = compiler.frees;
	plan.counts = true;
	plan.now = GetCurrentTransactionStartTimestamp();
	plan.pages = palloc(Max(plan.nregistries, 1) * sizeof(PgrRef));
	MemoryContextSwitchTo(context);
	if (!pgr_plan_reserve(&plan, &wanted) &&
		!(make_durable_hollow() && pgr_plan_reserve(&plan, &wanted)))
	{
		/* DROP DATABASE has removed files by now and must not fail here */
		if (plan.over_quota != 0)
			pgr_plan_over_quota(plan.over_quota);
		if (compiler.ndrops < n)
			pgr_plan_out_of_memory(wanted);
		ereport(WARNING,
				(errcode(ERRCODE_OUT_OF_MEMORY),
				 errmsg("the registries of a dropped database keep their shared memory until the server restarts")));
		return;
	}
	reserved = true;
	resolve_fixups(&compiler);
	announce(&compiler);
}

/* Is there a registry now, or a directory, that the table knows better? */
static bool
leaves_something_to_load(void)
{
	for (int i = 0; i < plan.nregistries; i++)
	{
		const PgrPlanRegistry *registry = &plan.registries[i];

		if (registry->residency == PGR_MAKE_HOLLOW ||
			(registry->action == PGR_PLAN_CREATE &&
			 registry->definition.residency == PGR_FROM_TABLE))
			return true;
	}
	return false;
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
	pgr_publishers_leave();
	/* what kept registries from being loaded may have gone with it */
	if (forgets)
		pgr_load_retry();
	else if (leaves_something_to_load())
		pgr_load_want();
}

void
pgr_pending_cancel_commit(void)
{
	if (!reserved)
		return;
	reserved = false;
	pgr_publishers_leave();
	pgr_plan_cancel(&plan);
}
