/*
 * registry/plan.c
 *	  See plan.h.  Runs in backends (transactions) and in the scheduler.
 *
 * The writer lock protects the arena, the image's own fields and the list of
 * reservations.  Nothing in between its acquire and its release can throw.
 */
#include "postgres.h"

#include "storage/lwlock.h"

#include "base/compat.h"
#include "registry/directory.h"
#include "registry/line.h"
#include "registry/plan.h"
#include "settings.h"
#include "shm/area.h"

/*
 * What the open reservations of one slot may add to it.  In the arena, named
 * by the image's table; exists while there is a reservation, and of a registry
 * that is patched until it ends.  If its owners die, the segment is made anew.
 */
typedef struct PgrReservation
{
	uint32 slot;
	uint32 reservers; /* who will build a block */
	uint32 patchers;  /* who will not */
	bool fresh;       /* its one reserver keeps nothing of the block */
	uint32 extra_len; /* the largest asked for */
	int64 entries;
	int64 patched; /* of these, by patchers: never more than there is room */
	uint64 bytes;
	PgrRef spares; /* one for each reserver, linked */
} PgrReservation;

/* An unused spare block holds its link in its first bytes. */
typedef struct Spare
{
	PgrRef next;
} Spare;

#define SLACK_FROM_BYTES (256 * 1024)

static PgrArena *
arena(void)
{
	return pgr_image_arena(pgr_image);
}

PgrRef
pgr_plan_alloc(Size size, PgrMemoryKind kind, bool last_resort)
{
	PgrRef ref = pgr_arena_alloc(arena(), size, kind, last_resort);

	if (ref == 0 && pgr_image->retired_count > 0)
	{
		pgr_image_reclaim(pgr_image, true);
		ref = pgr_arena_alloc(arena(), size, kind, last_resort);
	}
	return ref;
}

static const PgrBlock *
current_block(uint32 slot)
{
	return pgr_root_block(pgr_image, pgr_image_ptr(pgr_image, pgr_image->root),
						  slot);
}

/* ------------------------------------------------------------------------
 * Reservations
 * ------------------------------------------------------------------------
 */

static PgrRef *
find_reservation(uint32 slot)
{
	return &pgr_image->reservations[slot];
}

static Size
reservation_bytes(const PgrReservation *reservation)
{
	const PgrBlock *block = current_block(reservation->slot);
	uint32 extra_len = Max(block ? block->extra_len : 0,
						   reservation->extra_len);

	if (block == NULL || reservation->fresh)
		return pgr_block_bytes(reservation->entries, reservation->bytes,
							   extra_len);
	return pgr_block_bytes(block->entries + reservation->entries,
						   block->live_bytes + reservation->bytes, extra_len);
}

/*
 * A spare block.  Of a large registry with some slack, if there is memory, so
 * that it does not become too small with the next change that somebody
 * reserves.
 */
static PgrRef
alloc_spare(Size bytes, bool last_resort)
{
	PgrRef ref = 0;

	if (bytes >= SLACK_FROM_BYTES)
		ref = pgr_arena_alloc(arena(), bytes + bytes / 16, PGR_MEMORY_RESERVED,
							  false);
	return ref != 0 ? ref :
					  pgr_plan_alloc(bytes, PGR_MEMORY_RESERVED, last_resort);
}

/* Replace spares that are too small, then add until each reserver has one. */
static bool
fill_spares(PgrReservation *reservation, bool last_resort, Size *wanted)
{
	Size bytes = reservation_bytes(reservation);
	uint32 have = 0;

	*wanted = bytes;
	for (PgrRef *link = &reservation->spares; *link != 0;)
	{
		Spare *spare = pgr_image_ptr(pgr_image, *link);
		PgrRef larger;

		if (pgr_arena_payload_bytes(arena(), *link) < bytes)
		{
			larger = alloc_spare(bytes, last_resort);
			if (larger == 0)
				return false;
			((Spare *) pgr_image_ptr(pgr_image, larger))->next = spare->next;
			pgr_arena_free(arena(), *link);
			*link = larger;
			spare = pgr_image_ptr(pgr_image, larger);
		}
		have++;
		link = &spare->next;
	}
	for (; have < reservation->reservers; have++)
	{
		PgrRef ref = alloc_spare(bytes, last_resort);

		if (ref == 0)
			return false;
		((Spare *) pgr_image_ptr(pgr_image, ref))->next = reservation->spares;
		reservation->spares = ref;
	}
	return true;
}

static PgrRef
take_spare_block(PgrReservation *reservation)
{
	PgrRef ref = reservation->spares;

	if (ref != 0)
		reservation->spares = ((Spare *) pgr_image_ptr(pgr_image, ref))->next;
	return ref;
}

static void
end_reservation(PgrRef *link)
{
	PgrRef ref = *link;

	*link = 0;
	pgr_arena_free(arena(), ref);
}

/* That of a registry that ends, if nobody has reserved anything. */
static void
end_idle_reservation(uint32 slot)
{
	PgrRef *link = find_reservation(slot);
	const PgrReservation *reservation;

	if (*link == 0)
		return;
	reservation = pgr_image_ptr(pgr_image, *link);
	if (reservation->reservers + reservation->patchers == 0)
		end_reservation(link);
}

/* One reserver less; spares beyond the others' are the caller's to free. */
static void
leave_reservation(PgrRef *link, const PgrPlanRegistry *registry)
{
	PgrReservation *reservation = pgr_image_ptr(pgr_image, *link);
	const PgrBlock *block = current_block(reservation->slot);
	PgrRef ref;

	reservation->entries -= registry->entries;
	reservation->bytes -= registry->bytes;
	if (registry->patch)
	{
		reservation->patchers--;
		reservation->patched -= registry->entries;
	}
	else
		reservation->reservers--;
	if (reservation->reservers + reservation->patchers > 0)
		return;
	while ((ref = take_spare_block(reservation)) != 0)
		pgr_arena_free(arena(), ref);
	if (block != NULL && block->patchable)
		pgr_arena_set_kind(arena(), *link, PGR_MEMORY_BLOCK);
	else
		end_reservation(link);
}

static uint32
count_spares(const PgrReservation *reservation)
{
	uint32 n = 0;

	for (PgrRef ref = reservation->spares; ref != 0;
		 ref = ((Spare *) pgr_image_ptr(pgr_image, ref))->next)
		n++;
	return n;
}

/* Chunks for versions that were not used. */
static void
free_versions(PgrPlanRegistry *registry)
{
	PgrRef next;

	for (PgrRef ref = registry->versions; ref != 0; ref = next)
	{
		next = *pgr_publish_link(pgr_image, ref);
		pgr_arena_free(arena(), ref);
	}
	registry->versions = 0;
}

static void
cancel_change(PgrPlanRegistry *registry)
{
	PgrRef *link = find_reservation(registry->slot);
	PgrReservation *reservation = pgr_image_ptr(pgr_image, *link);

	registry->reserved = false;
	free_versions(registry);
	if (!registry->patch &&
		count_spares(reservation) == reservation->reservers &&
		reservation->reservers + reservation->patchers > 1)
		pgr_arena_free(arena(), take_spare_block(reservation));
	leave_reservation(link, registry);
}

/* The slot's reservation, made if there is none; NULL: out of memory. */
static PgrReservation *
open_reservation(uint32 slot, bool last_resort, Size *wanted)
{
	PgrRef *link = find_reservation(slot);
	PgrReservation *reservation;
	PgrRef ref;

	if (*link != 0)
	{
		pgr_arena_set_kind(arena(), *link, PGR_MEMORY_RESERVED);
		return pgr_image_ptr(pgr_image, *link);
	}
	*wanted = sizeof(PgrReservation);
	ref = pgr_plan_alloc(sizeof(PgrReservation), PGR_MEMORY_RESERVED,
						 last_resort);
	if (ref == 0)
		return NULL;
	reservation = pgr_image_ptr(pgr_image, ref);
	memset(reservation, 0, sizeof(*reservation));
	reservation->slot = slot;
	*link = ref;
	return reservation;
}

/*
 * Patch, rather than build?  Only what the present block has room for, along
 * with all other patches that are reserved.
 */
static bool
can_patch(const PgrPlanRegistry *registry, const PgrReservation *reservation)
{
	const PgrBlock *block = current_block(registry->slot);

	return block->patchable && !registry->fresh && registry->alter == NULL &&
		registry->extra == NULL && registry->residency == PGR_KEEP_RESIDENCY &&
		!registry->mark_missing && registry->expected_birth == 0 &&
		pgr_patch_is_cheaper(block, registry->nchanges) &&
		reservation->patched + registry->entries <= pgr_patch_room(block) &&
		/* what grows beyond this could never be built again */
		(registry->entries == 0 ||
		 reservation_bytes(reservation) != PGR_BLOCK_TOO_LARGE);
}

/* One more version for a patch, put at *link. */
static bool
reserve_version(PgrRef *link, const PgrChange *change, Size *wanted)
{
	*wanted = pgr_patch_version_bytes(change);
	*link = pgr_plan_alloc(*wanted, PGR_MEMORY_RESERVED, false);
	if (*link == 0)
		return false;
	*pgr_publish_link(pgr_image, *link) = 0;
	return true;
}

/* They lead to no less memory, even for deletions: not of the last resort. */
static bool
reserve_versions(PgrPlanRegistry *registry, Size *wanted)
{
	PgrRef *link = &registry->versions;

	for (int i = 0; i < registry->nchanges; i++)
	{
		if (!reserve_version(link, &registry->changes[i], wanted))
		{
			free_versions(registry);
			return false;
		}
		link = pgr_publish_link(pgr_image, *link);
	}
	/* last, as it waits for the lines that reserve_change() has asked for */
	if (pgr_patch_changes_state(current_block(registry->slot),
								registry->changes, registry->nchanges) &&
		!reserve_version(link, NULL, wanted))
	{
		free_versions(registry);
		return false;
	}
	return true;
}

/*
 * Should somebody build the block anew although it could be patched?  If much
 * of it is what was deleted; or if its slots will soon be used up: then one
 * builds while there is still room for the patches of others.
 */
static bool
should_build(const PgrBlock *block, const PgrReservation *reservation)
{
	int64 slots = ((int64) block->group_mask + 1) * PGR_GROUP;

	return block->entries < (int64) block->taken / 4 ||
		(reservation->reservers == 0 &&
		 pgr_patch_room(block) - reservation->patched < slots / 16);
}

static bool
reserve_build(PgrPlanRegistry *registry, PgrReservation *reservation,
			  bool last_resort, Size *wanted)
{
	registry->patch = false;
	reservation->reservers++;
	return fill_spares(reservation, last_resort, wanted);
}

/* The spares of others must have room for our changes, too. */
static bool
reserve_patch(PgrPlanRegistry *registry, PgrReservation *reservation,
			  bool last_resort, Size *wanted)
{
	registry->patch = true;
	reservation->patchers++;
	reservation->patched += registry->entries;
	return fill_spares(reservation, last_resort, wanted);
}

static bool
reserve_change(PgrPlanRegistry *registry, bool last_resort, Size *wanted)
{
	PgrReservation *reservation = open_reservation(registry->slot, last_resort,
												   wanted);
	const PgrBlock *block = current_block(registry->slot);

	if (reservation == NULL)
		return false;
	if (block != NULL && block->patchable)
		pgr_patch_prefetch(block, registry->changes, registry->nchanges);
	reservation->fresh = registry->fresh && reservation->reservers == 0 &&
		reservation->patchers == 0;
	reservation->entries += registry->entries;
	reservation->bytes += registry->bytes;
	reservation->extra_len = Max(reservation->extra_len, registry->extra_len);
	registry->reserved = true;
	if (block == NULL || !can_patch(registry, reservation))
		return reserve_build(registry, reservation, last_resort, wanted);
	if (should_build(block, reservation))
	{
		if (reserve_build(registry, reservation, last_resort, wanted))
			return true;
		reservation->reservers--;
	}
	if (reserve_versions(registry, wanted))
		return reserve_patch(registry, reservation, last_resort, wanted);
	return reserve_build(registry, reservation, last_resort, wanted);
}

static bool
reserve_create(PgrPlanRegistry *registry, bool last_resort, Size *wanted)
{
	*wanted = pgr_block_bytes(registry->entries, registry->bytes,
							  registry->extra_len);
	if (!registry->has_slot)
	{
		registry->slot = pgr_image_slot_alloc(pgr_image);
		if (registry->slot == PGR_NO_SLOT)
		{
			*wanted = 0; /* not a matter of bytes */
			return false;
		}
		registry->has_slot = true;
	}
	registry->block = pgr_plan_alloc(*wanted, PGR_MEMORY_RESERVED,
									 last_resort);
	return registry->block != 0;
}

static void
sum_changes(PgrPlanRegistry *registry)
{
	registry->entries = 0;
	registry->bytes = 0;
	for (int i = 0; i < registry->nchanges; i++)
	{
		const PgrChange *change = &registry->changes[i];

		if (change->remove)
			continue;
		registry->entries++;
		registry->bytes += pgr_block_item_bytes(change->key_len,
												change->value_len);
	}
}

static TimestampTz
change_time(const PgrPlan *plan, const PgrPlanRegistry *registry)
{
	return registry->changed_at != 0 ? registry->changed_at : plan->now;
}

/* What a plan makes of a registry, but for the room it leaves to others. */
static void
build_of(PgrBlockBuild *build, const PgrPlan *plan,
		 const PgrPlanRegistry *registry, const PgrBlock *old)
{
	*build = (PgrBlockBuild){
		.old = old,
		.generation = PGR_NEWEST,
		.definition = registry->alter ? registry->alter :
			old                       ? &old->definition :
										&registry->definition,
		.seed = pgr_image->seed,
		.changes = registry->changes,
		.nchanges = registry->nchanges,
		.mark_missing = registry->mark_missing,
		.fresh = registry->fresh,
		.extra = registry->extra,
		.extra_len = registry->extra_len,
		.extra_prefix = registry->extra_prefix,
		.now = change_time(plan, registry),
	};
}

/* ------------------------------------------------------------------------
 * The limit of one database
 *
 * Its directory keeps the books: what its registries take, and what commits
 * under way may add.  A plan is of one database, but for the rates, which count
 * for none, and for the end of a database, which ends its books.
 * ------------------------------------------------------------------------
 */

static PgrBlock *
directory_of(const PgrPlan *plan)
{
	const PgrSharedRoot *root = pgr_image_ptr(pgr_image, pgr_image->root);

	for (int i = 0; i < plan->nregistries; i++)
	{
		const PgrDefinition *definition = &plan->registries[i].definition;
		uint32 slot;

		if (definition->kind != PGR_BLOCK_REGISTRY)
			continue;
		slot = pgr_directory_slot(root, PGR_NEWEST, definition->database,
								  definition->extension);
		return slot == PGR_NO_SLOT ? NULL : (PgrBlock *) current_block(slot);
	}
	return NULL;
}

/* What a registry takes: its block, and the versions that belong to it. */
static int64
bytes_of(const PgrBlock *block)
{
	if (block == NULL || block->definition.kind != PGR_BLOCK_REGISTRY)
		return 0;
	return (int64) pgr_arena_chunk_bytes(arena(),
										 pgr_arena_ref(arena(), block)) +
		(int64) block->outside_bytes;
}

/* By how much a change that is reserved lets its registry grow, at most. */
static int64
growth_of(const PgrPlan *plan, const PgrPlanRegistry *registry)
{
	const PgrBlock *block = current_block(registry->slot);
	PgrBlockBuild build;
	int64 growth = 0;

	if (registry->definition.kind != PGR_BLOCK_REGISTRY ||
		registry->action == PGR_PLAN_DROP)
		return 0;
	/* what is read from its table costs its name only */
	if (registry->action == PGR_PLAN_CREATE && registry->definition.durable &&
		registry->definition.residency == PGR_FROM_TABLE)
		return 0;
	if (registry->action == PGR_PLAN_CREATE)
		return (int64) pgr_arena_chunk_bytes(arena(), registry->block);
	if (!registry->patch)
	{
		build_of(&build, plan, registry, block);
		return (int64) pgr_block_build_bytes(&build) - bytes_of(block);
	}
	for (PgrRef ref = registry->versions; ref != 0;
		 ref = *pgr_publish_link(pgr_image, ref))
		growth += (int64) pgr_arena_chunk_bytes(arena(), ref);
	return growth;
}

/* What leads to less memory is always allowed. */
static bool
reserve_quota(PgrPlan *plan)
{
	uint64 limit = (uint64) pgr_settings.max_kb_per_database * 1024;
	PgrBlock *directory;
	uint64 used;
	int64 growth = 0;

	if (!plan->counts || limit == 0 || plan->frees)
		return true;
	for (int i = 0; i < plan->nregistries; i++)
		growth += growth_of(plan, &plan->registries[i]);
	if (growth <= 0)
		return true;
	directory = directory_of(plan);
	used = directory ?
		directory->database_bytes + directory->database_reserved :
		0;
	if (used + (uint64) growth > limit)
	{
		plan->over_quota = used + (uint64) growth;
		return false;
	}
	if (directory != NULL)
	{
		plan->quota = (uint64) growth;
		directory->database_reserved += plan->quota;
	}
	return true;
}

/* "growth" is what the plan has done; 0 if it was cancelled. */
static void
settle_quota(PgrPlan *plan, int64 growth)
{
	PgrBlock *directory = NULL;

	if (growth != 0 || plan->quota != 0)
		directory = directory_of(plan);
	if (directory != NULL)
	{
		directory->database_bytes += (uint64) growth;
		directory->database_reserved -= Min(plan->quota,
											directory->database_reserved);
	}
	plan->quota = 0;
}

/* ------------------------------------------------------------------------
 * Reserving
 * ------------------------------------------------------------------------
 */

/* With the lock held: undo what pgr_plan_reserve has done so far. */
static void
cancel_locked(PgrPlan *plan)
{
	for (int i = 0; i < plan->nregistries; i++)
	{
		PgrPlanRegistry *registry = &plan->registries[i];

		if (registry->reserved)
			cancel_change(registry);
		if (registry->action == PGR_PLAN_CREATE)
		{
			if (registry->block != 0)
				pgr_arena_free(arena(), registry->block);
			registry->block = 0;
			if (registry->has_slot)
				pgr_image_slot_free(pgr_image, registry->slot);
			registry->has_slot = false;
		}
	}
	for (int i = 0; i < plan->npages; i++)
		pgr_arena_free(arena(), plan->pages[i]);
	plan->npages = 0;
	if (plan->root != 0)
		pgr_arena_free(arena(), plan->root);
	plan->root = 0;
	settle_quota(plan, 0);
}

static bool
last_resort(const PgrPlan *plan)
{
	return plan->frees || plan->hollows;
}

/* The first registry that is not patched needs a new root. */
static bool
reserve_root(PgrPlan *plan, Size *wanted)
{
	if (plan->root != 0)
		return true;
	*wanted = sizeof(PgrSharedRoot);
	plan->root = pgr_plan_alloc(sizeof(PgrSharedRoot), PGR_MEMORY_RESERVED,
								last_resort(plan));
	return plan->root != 0;
}

static bool
reserve_locked(PgrPlan *plan, Size *wanted)
{
	bool has_page[PGR_ROOT_PAGES] = {false};

	for (int i = 0; i < plan->nregistries; i++)
	{
		PgrPlanRegistry *registry = &plan->registries[i];

		sum_changes(registry);
		if (registry->action == PGR_PLAN_CREATE &&
			!reserve_create(registry, last_resort(plan), wanted))
			return false;
		if (registry->action == PGR_PLAN_CHANGE &&
			!reserve_change(registry, last_resort(plan), wanted))
			return false;
		if (registry->patch)
			continue;
		if (!reserve_root(plan, wanted))
			return false;
		if (!has_page[registry->slot / PGR_PAGE_SLOTS])
		{
			PgrRef page = pgr_plan_alloc(sizeof(PgrSharedPage),
										 PGR_MEMORY_RESERVED,
										 last_resort(plan));

			*wanted = sizeof(PgrSharedPage);
			if (page == 0)
				return false;
			plan->pages[plan->npages++] = page;
			has_page[registry->slot / PGR_PAGE_SLOTS] = true;
		}
	}
	return true;
}

bool
pgr_plan_reserve(PgrPlan *plan, Size *wanted)
{
	bool fits;

	plan->root = 0;
	plan->npages = 0;
	plan->quota = plan->over_quota = 0;
	LWLockAcquire(pgr_area_lock(PGR_LOCK_WRITER), LW_EXCLUSIVE);
	fits = reserve_locked(plan, wanted) && reserve_quota(plan);
	if (!fits)
		cancel_locked(plan);
	LWLockRelease(pgr_area_lock(PGR_LOCK_WRITER));
	return fits;
}

void
pgr_plan_make_hollow(PgrPlanRegistry *registry)
{
	registry->residency = PGR_MAKE_HOLLOW;
	registry->definition.residency = PGR_FROM_TABLE;
	registry->nchanges = 0;
	registry->fresh = true;
}

void
pgr_plan_cancel(PgrPlan *plan)
{
	LWLockAcquire(pgr_area_lock(PGR_LOCK_WRITER), LW_EXCLUSIVE);
	cancel_locked(plan);
	LWLockRelease(pgr_area_lock(PGR_LOCK_WRITER));
}

/* ------------------------------------------------------------------------
 * Commit
 * ------------------------------------------------------------------------
 */

/* Of a definition that is altered, too: others may have published since. */
static PgrResidency
residency_after(const PgrPlanRegistry *registry, const PgrBlock *old)
{
	switch (registry->residency)
	{
		case PGR_MAKE_RESIDENT:
			return PGR_RESIDENT;
		case PGR_MAKE_PARTIAL:
			return PGR_PARTIAL;
		case PGR_MAKE_HOLLOW:
			return PGR_FROM_TABLE;
		default:
			break;
	}
	if (old == NULL)
		return registry->definition.residency;
	/* who puts something into a registry that was lost knows about it */
	if (old->definition.residency == PGR_LOST && registry->nchanges > 0)
		return PGR_RESIDENT;
	return old->definition.residency;
}

/* A hollow block of a registry has no entries; a directory always has. */
static bool
is_hollow(const PgrPlanRegistry *registry, const PgrBlock *old)
{
	return registry->definition.kind == PGR_BLOCK_REGISTRY &&
		residency_after(registry, old) == PGR_FROM_TABLE;
}

/* Only the definition or the grants change. */
static bool
keeps_entries(const PgrPlanRegistry *registry)
{
	return (registry->alter != NULL ||
			(registry->extra != NULL &&
			 registry->definition.kind == PGR_BLOCK_REGISTRY)) &&
		registry->nchanges == 0 && !registry->fresh;
}

/* "others" tells what patches of other plans will need room for. */
static void
build_into(PgrRef memory, const PgrPlan *plan, PgrPlanRegistry *registry,
		   const PgrBlock *old, const PgrReservation *others)
{
	PgrBlockBuild build;
	PgrBlock *block = pgr_image_ptr(pgr_image, memory);

	build_of(&build, plan, registry, old);
	if (is_hollow(registry, old))
	{
		build.nchanges = 0;
		build.fresh = true;
		others = NULL;
	}
	if (others != NULL)
		build.room = others->patched;
	build.patchable = (others != NULL && others->patchers > 0) ||
		(build.definition->kind != PGR_BLOCK_RATES &&
		 pgr_patch_pays((old && !build.fresh ? old->entries : 0) +
						build.nchanges));
	pgr_block_build(block, &build);
	block->definition.residency = residency_after(registry, old);
	if (old != NULL)
	{
		block->database_bytes = old->database_bytes;
		block->database_reserved = old->database_reserved;
		block->database_hollow = old->database_hollow;
		pg_atomic_write_u64(&block->whole_since,
							pg_atomic_read_u64(
								(pg_atomic_uint64 *) &old->whole_since));
	}
	if (old != NULL && keeps_entries(registry))
		block->built_at = block->changed_now =
			pgr_block_changed_at(old, PGR_NEWEST);
	pgr_arena_shrink(arena(), memory, block->size);
}

/* Dropped meanwhile, with its database or extension: a void change. */
static bool
is_void(const PgrPlanRegistry *registry, const PgrBlock *old)
{
	return old == NULL ||
		old->definition.incarnation != registry->definition.incarnation ||
		(registry->expected_birth != 0 &&
		 old->object.birth != registry->expected_birth);
}

static void
commit_patch(PgrPublish *publish, PgrPlan *plan, PgrPlanRegistry *registry)
{
	const PgrBlock *old = pgr_publish_current(publish, registry->slot);

	if (is_void(registry, old) || is_hollow(registry, old))
	{
		free_versions(registry);
		plan->some_void = true;
		return;
	}
	pgr_publish_patch(publish, registry->slot, registry->changes,
					  registry->nchanges, change_time(plan, registry),
					  registry->versions);
	registry->versions = 0;
}

static void
commit_build(PgrPublish *publish, PgrPlan *plan, PgrPlanRegistry *registry,
			 PgrReservation *reservation)
{
	const PgrBlock *old = pgr_publish_current(publish, registry->slot);
	PgrRef memory = take_spare_block(reservation);

	Assert(memory != 0);
	if (is_void(registry, old))
	{
		pgr_arena_free(arena(), memory);
		plan->some_void = true;
		return;
	}
	build_into(memory, plan, registry, old, reservation);
	pgr_publish_set(publish, registry->slot, memory);
}

static void
commit_change(PgrPublish *publish, PgrPlan *plan, PgrPlanRegistry *registry)
{
	PgrRef *link = find_reservation(registry->slot);
	PgrReservation *reservation = pgr_image_ptr(pgr_image, *link);

	registry->reserved = false;
	if (registry->patch)
		commit_patch(publish, plan, registry);
	else
		commit_build(publish, plan, registry, reservation);
	leave_reservation(link, registry);
}

static void
commit_drop(PgrPublish *publish, PgrPlanRegistry *registry)
{
	const PgrBlock *old = pgr_publish_current(publish, registry->slot);

	if (old == NULL ||
		old->definition.incarnation != registry->definition.incarnation)
		return;
	pgr_publish_set(publish, registry->slot, 0);
	end_idle_reservation(registry->slot);
	pgr_image_slot_free(pgr_image, registry->slot);
}

static int
count_hollow(const PgrBlock *block)
{
	return block != NULL && block->definition.kind == PGR_BLOCK_REGISTRY &&
		pgr_is_read_from_table(&block->definition);
}

/*
 * Who pins a generation in which the database has a registry that is not in
 * memory must find whole_since above it: so it is raised, at the latest, with
 * the publish that begins this, and lowered, at the earliest, to the one that
 * ends it.  Both are before the generation can be pinned.
 */
static void
settle_hollow(const PgrPlan *plan, PgrPublish *publish, int64 more)
{
	const PgrBlock *databases = pgr_publish_current(publish,
													PGR_SLOT_DATABASES);
	PgrBlock *directory = NULL;

	for (int i = 0; i < plan->nregistries && directory == NULL; i++)
	{
		const PgrDefinition *definition = &plan->registries[i].definition;
		PgrDatabaseKey key = {definition->database, definition->extension};
		PgrEntry entry;

		if (definition->kind == PGR_BLOCK_REGISTRY &&
			pgr_block_lookup(databases, PGR_NEWEST, (const char *) &key,
							 sizeof(key), &entry))
			directory = (PgrBlock *)
				pgr_publish_current(publish, (uint32) entry.fixed.i8);
	}
	if (directory == NULL) /* it went with its database */
		return;
	directory->database_hollow += (uint64) more;
	pg_atomic_write_u64(&directory->whole_since,
						directory->database_hollow > 0 ? PGR_NEWEST :
														 publish->generation);
}

uint64
pgr_plan_commit(PgrPlan *plan)
{
	PgrPublish publish;
	uint64 generation;
	int64 growth = 0;
	int64 hollow = 0;

	plan->some_void = false;
	LWLockAcquire(pgr_area_lock(PGR_LOCK_WRITER), LW_EXCLUSIVE);
	pgr_publish_begin(&publish, pgr_image, plan->root, plan->pages,
					  plan->npages);
	plan->root = 0;
	for (int i = 0; i < plan->nregistries; i++)
	{
		PgrPlanRegistry *registry = &plan->registries[i];

		growth -= bytes_of(pgr_publish_current(&publish, registry->slot));
		hollow -= count_hollow(pgr_publish_current(&publish, registry->slot));
		switch (registry->action)
		{
			case PGR_PLAN_CREATE:
				build_into(registry->block, plan, registry, NULL, NULL);
				pgr_publish_set(&publish, registry->slot, registry->block);
				break;
			case PGR_PLAN_CHANGE:
				commit_change(&publish, plan, registry);
				break;
			case PGR_PLAN_DROP:
				commit_drop(&publish, registry);
				break;
		}
		growth += bytes_of(pgr_publish_current(&publish, registry->slot));
		hollow += count_hollow(pgr_publish_current(&publish, registry->slot));
	}
	if (hollow != 0)
		settle_hollow(plan, &publish, hollow);
	pgr_publishers_record(plan->by, publish.generation);
	generation = pgr_publish_end(&publish);
	settle_quota(plan, growth);
	if (publish.new_root != 0) /* nothing but void changes */
		pgr_arena_free(arena(), publish.new_root);
	for (int i = publish.pages_used; i < plan->npages; i++)
		pgr_arena_free(arena(), plan->pages[i]);
	plan->npages = 0;
	pgr_image_reclaim(pgr_image, false);
	LWLockRelease(pgr_area_lock(PGR_LOCK_WRITER));
	return generation;
}
