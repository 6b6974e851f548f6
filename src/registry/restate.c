/*
 * registry/restate.c
 *	  See restate.h.
 */
#include "postgres.h"

#include "access/xlog.h"
#include "miscadmin.h"
#include "storage/lwlock.h"
#include "utils/timestamp.h"

#include "base/compat.h"
#include "registry/access.h"
#include "registry/directory.h"
#include "registry/line.h"
#include "registry/restate.h"
#include "shm/area.h"
#include "shm/follow_state.h"
#include "shm/load_state.h"

/* A change of a directory that must name the slot of what the plan creates. */
typedef struct Naming
{
	int change;
	int registry;
} Naming;

typedef struct Restater
{
	const PgrSharedRoot *root; /* pinned */
	uint64 generation;
	Oid extension;
	bool complete;
	PgrPlan plan;
	PgrChange *names; /* of the directory */
	int nnames;
	Naming *namings;
	int nnamings;
	PgrDatabaseKey key;
	PgrChange database; /* of the list of databases */
	int directory;      /* in the plan; -1 = not created by it */
} Restater;

/* ------------------------------------------------------------------------
 * Compiling
 * ------------------------------------------------------------------------
 */

static PgrPlanRegistry *
emit(Restater *restater, PgrPlanAction action, uint32 slot,
	 const PgrDefinition *definition)
{
	PgrPlanRegistry *registry =
		&restater->plan.registries[restater->plan.nregistries++];

	memset(registry, 0, sizeof(*registry));
	registry->action = action;
	registry->slot = slot;
	registry->definition = *definition;
	return registry;
}

static PgrChange *
emit_name(Restater *restater, const PgrDefinition *definition, bool remove)
{
	PgrChange *name = &restater->names[restater->nnames++];

	memset(name, 0, sizeof(*name));
	name->key = definition->name;
	name->key_len = definition->name_len;
	name->remove = remove;
	return name;
}

static void
set_grants(PgrPlanRegistry *registry, const PgrRestated *restated)
{
	registry->extra = restated->grants;
	registry->extra_len = (uint32) (restated->ngrants * sizeof(PgrGrant));
}

static void
emit_create(Restater *restater, const PgrRestated *restated)
{
	Naming *naming = &restater->namings[restater->nnamings++];
	PgrPlanRegistry *registry;

	naming->change = restater->nnames;
	naming->registry = restater->plan.nregistries;
	(void) emit_name(restater, &restated->definition, false);
	registry = emit(restater, PGR_PLAN_CREATE, PGR_NO_SLOT,
					&restated->definition);
	registry->definition.incarnation = 0; /* the publish has the real one */
	registry->definition.residency = !restated->definition.durable ? PGR_LOST :
		restated->all ? PGR_RESIDENT :
						PGR_FROM_TABLE;
	registry->changed_at = restated->changed_at;
	set_grants(registry, restated);
	if (registry->definition.residency != PGR_RESIDENT)
		return;
	registry->changes = restated->changes;
	registry->nchanges = restated->nchanges;
}

static bool
is_same_definition(const PgrDefinition *a, const PgrDefinition *b)
{
	return a->owner == b->owner && strcmp(a->owner_name, b->owner_name) == 0 &&
		a->value_type == b->value_type && a->on_stale == b->on_stale &&
		a->max_age_us == b->max_age_us;
}

/* The table's definition, as another one of the registry that is there. */
static void
alter(PgrPlanRegistry *registry, const PgrDefinition *definition)
{
	PgrDefinition *altered;

	if (is_same_definition(&registry->definition, definition))
		return;
	altered = palloc(sizeof(PgrDefinition));
	*altered = *definition;
	altered->incarnation = registry->definition.incarnation;
	altered->residency = registry->definition.residency;
	registry->alter = altered;
}

static void
emit_change(Restater *restater, const PgrRestated *restated, uint32 slot,
			const PgrBlock *block)
{
	PgrPlanRegistry *registry = emit(restater, PGR_PLAN_CHANGE, slot,
									 &block->definition);

	alter(registry, &restated->definition);
	registry->changed_at = restated->changed_at;
	if (restated->all && restated->definition.durable)
	{
		registry->fresh = true;
		registry->residency = PGR_MAKE_RESIDENT;
	}
	registry->changes = restated->changes;
	registry->nchanges = restated->nchanges;
	if (!pgr_access_block_has(block, restated->grants, restated->ngrants))
		set_grants(registry, restated);
	/* the table has it all; or there is nothing to say */
	if ((block->definition.residency == PGR_FROM_TABLE ||
		 registry->nchanges == 0) &&
		!registry->fresh && registry->alter == NULL && registry->extra == NULL)
		restater->plan.nregistries--;
}

/* Is the registry of the table not the one that the image has, if any? */
static bool
is_another(const PgrBlock *block, const PgrDefinition *definition)
{
	return block == NULL ||
		block->definition.created_at != definition->created_at ||
		block->definition.durable != definition->durable;
}

static void
emit_registry(Restater *restater, const PgrRestated *restated)
{
	uint32 slot;
	const PgrBlock *block =
		pgr_directory_find(restater->root, restater->generation, MyDatabaseId,
						   restater->extension, restated->definition.name,
						   restated->definition.name_len, &slot);

	if (block != NULL && block->definition.kind == PGR_BLOCK_RATES)
		return; /* nobody else's name */
	if (!restated->gone && is_another(block, &restated->definition))
	{
		if (block != NULL)
			(void) emit(restater, PGR_PLAN_DROP, slot, &block->definition);
		emit_create(restater, restated);
	}
	else if (!restated->gone)
		emit_change(restater, restated, slot, block);
	else if (block != NULL)
	{
		(void) emit(restater, PGR_PLAN_DROP, slot, &block->definition);
		(void) emit_name(restater, &restated->definition, true);
	}
}

static void
emit_names(Restater *restater, PgrPlanRegistry *directory)
{
	directory->changes = restater->names;
	directory->nchanges = restater->nnames;
}

static void
emit_new_directory(Restater *restater)
{
	PgrDefinition definition = {
		.kind = PGR_BLOCK_DIRECTORY,
		.database = MyDatabaseId,
		.extension = restater->extension,
		.residency = restater->complete ? PGR_RESIDENT : PGR_FROM_TABLE,
	};
	PgrPlanRegistry *databases;

	restater->directory = restater->plan.nregistries;
	emit_names(restater,
			   emit(restater, PGR_PLAN_CREATE, PGR_NO_SLOT, &definition));
	restater->database.key = (const char *) &restater->key;
	restater->database.key_len = sizeof(restater->key);
	databases = emit(restater, PGR_PLAN_CHANGE, PGR_SLOT_DATABASES,
					 &pgr_root_block(pgr_image, restater->root,
									 PGR_SLOT_DATABASES)
						  ->definition);
	databases->changes = &restater->database;
	databases->nchanges = 1;
}

static void
emit_directory(Restater *restater)
{
	uint32 slot = pgr_directory_slot(restater->root, restater->generation,
									 MyDatabaseId, restater->extension);
	bool complete = pgr_directory_is_complete(restater->root, slot);
	PgrPlanRegistry *directory;

	if (slot == PGR_NO_SLOT)
	{
		emit_new_directory(restater);
		return;
	}
	if (restater->nnames == 0 && complete >= restater->complete)
		return;
	directory =
		emit(restater, PGR_PLAN_CHANGE, slot,
			 &pgr_root_block(pgr_image, restater->root, slot)->definition);
	emit_names(restater, directory);
	if (restater->complete)
		directory->residency = PGR_MAKE_RESIDENT;
}

/* Directories name slots: those that the reservation took. */
static void
resolve_namings(Restater *restater)
{
	const PgrPlanRegistry *registries = restater->plan.registries;

	for (int i = 0; i < restater->nnamings; i++)
		restater->names[restater->namings[i].change].fixed.i8 =
			registries[restater->namings[i].registry].slot;
	if (restater->directory >= 0)
		restater->database.fixed.i8 = registries[restater->directory].slot;
}

/* ------------------------------------------------------------------------
 * Publishing
 * ------------------------------------------------------------------------
 */

/* First what would be built anew, then everything. */
static bool
make_hollow(PgrPlan *plan, bool all)
{
	bool any = false;

	for (int i = 0; i < plan->nregistries; i++)
	{
		PgrPlanRegistry *registry = &plan->registries[i];

		if (!registry->definition.durable ||
			registry->action == PGR_PLAN_DROP ||
			registry->residency == PGR_MAKE_HOLLOW ||
			!(all || registry->fresh || registry->action == PGR_PLAN_CREATE))
			continue;
		pgr_plan_make_hollow(registry);
		any = true;
	}
	plan->frees |= any;
	return any;
}

static PgrRestateResult
publish(Restater *restater)
{
	PgrPlan *plan = &restater->plan;
	PgrRestateResult result = PGR_RESTATE_OK;
	Size wanted;

	if (plan->nregistries == 0)
		return result;
	if (!pgr_plan_reserve(plan, &wanted))
	{
		result = PGR_RESTATE_HOLLOW;
		if (!(make_hollow(plan, false) && pgr_plan_reserve(plan, &wanted)) &&
			!(make_hollow(plan, true) && pgr_plan_reserve(plan, &wanted)))
			return PGR_RESTATE_FAILED;
	}
	resolve_namings(restater);
	plan->by = pgr_publishers_load();
	(void) pgr_plan_commit(plan);
	return result;
}

/* Room for a plan of so many registries of one directory. */
static void
init_restater(Restater *restater, int n)
{
	memset(restater, 0, sizeof(*restater));
	restater->directory = -1;
	restater->names = palloc(Max(n, 1) * sizeof(PgrChange));
	restater->namings = palloc(Max(n, 1) * sizeof(Naming));
	/* one of a name may go and another one come; and two directories */
	restater->plan.registries = palloc((2 * n + 2) * sizeof(PgrPlanRegistry));
	restater->plan.pages = palloc((2 * n + 2) * sizeof(PgrRef));
	restater->plan.now = GetCurrentTimestamp();
}

PgrRestateResult
pgr_restate(Oid extension, PgrRestated *registries, int n, bool complete)
{
	PgrRestateResult result;
	Restater restater;
	int cell;

	init_restater(&restater, n);
	restater.extension = extension;
	restater.complete = complete;
	restater.key.database = MyDatabaseId;
	restater.key.extension = extension;
	restater.plan.counts = true;
	/* the newest state, which stays that: nobody else writes here */
	cell = pgr_line_pin(restater.plan.now, &restater.generation,
						&restater.root);
	PG_TRY();
	{
		for (int i = 0; i < n; i++)
			emit_registry(&restater, &registries[i]);
		emit_directory(&restater);
		result = publish(&restater);
	}
	PG_FINALLY();
	{
		if (cell >= 0)
			pgr_line_unpin(cell);
	}
	PG_END_TRY();
	return result;
}

/* ------------------------------------------------------------------------
 * Forgetting
 * ------------------------------------------------------------------------
 */

static void
emit_drops(Restater *restater, uint32 slot)
{
	const PgrBlock *directory = pgr_root_block(pgr_image, restater->root,
											   slot);
	PgrEntry name;
	uint64 position = 0;

	while (pgr_block_next_entry(directory, restater->generation, &position,
								&name))
	{
		uint32 registry = (uint32) name.fixed.i8;

		(void) emit(restater, PGR_PLAN_DROP, registry,
					&pgr_root_block(pgr_image, restater->root, registry)
						 ->definition);
	}
	(void) emit(restater, PGR_PLAN_DROP, slot, &directory->definition);
}

/* One directory of the database; *found says whether there was one. */
static bool
forget_one(Oid database, const PgrSharedRoot *root, uint64 generation,
		   bool *found)
{
	const PgrBlock *databases = pgr_root_block(pgr_image, root,
											   PGR_SLOT_DATABASES);
	Restater restater;
	PgrPlanRegistry *list;
	PgrEntry entry;
	uint64 position = 0;

	*found = false;
	while (pgr_block_next_entry(databases, generation, &position, &entry))
	{
		uint32 slot = (uint32) entry.fixed.i8;
		const PgrBlock *directory = pgr_root_block(pgr_image, root, slot);

		if (directory->definition.database != database)
			continue;
		init_restater(&restater,
					  (int) pgr_block_entries(directory, generation) + 1);
		restater.root = root;
		restater.generation = generation;
		restater.plan.frees = true;
		emit_drops(&restater, slot);
		memcpy(&restater.key, entry.key, sizeof(restater.key));
		restater.database.key = (const char *) &restater.key;
		restater.database.key_len = sizeof(restater.key);
		restater.database.remove = true;
		list = emit(&restater, PGR_PLAN_CHANGE, PGR_SLOT_DATABASES,
					&databases->definition);
		list->changes = &restater.database;
		list->nchanges = 1;
		*found = true;
		return publish(&restater) == PGR_RESTATE_OK;
	}
	return true;
}

bool
pgr_restate_forget(Oid database)
{
	const PgrSharedRoot *root;
	uint64 generation;
	bool found = true;
	bool done = true;

	while (found && done)
	{
		int cell = pgr_line_pin(GetCurrentTimestamp(), &generation, &root);

		done = forget_one(database, root, generation, &found);
		if (cell >= 0)
			pgr_line_unpin(cell);
	}
	return done;
}

void
pgr_restate_end_following(void)
{
	PgrFollowPlace *place;
	bool done = true;

	/* the order matters: see pgr_follow_claim() */
	if (RecoveryInProgress() || pgr_follow_place(MyDatabaseId) == NULL)
		return;
	LWLockAcquire(pgr_area_lock(PGR_LOCK_FOLLOW), LW_EXCLUSIVE);
	place = pgr_follow_place(MyDatabaseId);
	if (place != NULL && (done = pgr_restate_forget(MyDatabaseId)))
		pgr_follow_release_locked(place);
	LWLockRelease(pgr_area_lock(PGR_LOCK_FOLLOW));
	if (!done)
		pgr_plan_out_of_memory(sizeof(PgrSharedRoot));
	pgr_load_want();
}
