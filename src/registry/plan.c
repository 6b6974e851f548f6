/*
 * registry/plan.c
 *	  See plan.h.  Runs in backends (transactions) and in the scheduler.
 *
 * The writer lock protects the arena, the image's own fields and the list of
 * reservations.  Nothing in between its acquire and its release can throw.
 */
#include "postgres.h"

#include "miscadmin.h"
#include "storage/lwlock.h"
#include "storage/proc.h"
#include "utils/timestamp.h"

#include "base/compat.h"
#include "registry/pin.h"
#include "registry/plan.h"
#include "registry/reader.h"
#include "shm/area.h"

/*
 * What the open reservations of one slot may add to it.  In the arena, named
 * by the image's table; exists while there is a reservation.  If its owners
 * die, the segment is made anew.
 */
typedef struct PgrReservation
{
	uint32 slot;
	uint32 reservers; /* who will build a block */
	uint32 patchers;  /* who will not */
	bool fresh;       /* its one reserver keeps nothing of the block */
	uint32 extra_len; /* the largest asked for */
	int64 entries;
	uint64 bytes;
	PgrRef spares; /* one for each reserver, linked */
} PgrReservation;

/* An unused spare block holds its link in its first bytes. */
typedef struct Spare
{
	PgrRef next;
} Spare;

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
	uint32 extra_len = reservation->extra_len;

	if (block == NULL || reservation->fresh)
		return pgr_block_bytes(reservation->entries, reservation->bytes,
							   extra_len);
	return pgr_block_bytes(block->entries + reservation->entries,
						   block->live_bytes + reservation->bytes,
						   Max(block->extra_len, extra_len));
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
			larger = pgr_plan_alloc(bytes, PGR_MEMORY_RESERVED, last_resort);
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
		PgrRef ref = pgr_plan_alloc(bytes, PGR_MEMORY_RESERVED, last_resort);

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

/* One reserver less; spares beyond the others' are the caller's to free. */
static void
leave_reservation(PgrRef *link, const PgrPlanRegistry *registry)
{
	PgrReservation *reservation = pgr_image_ptr(pgr_image, *link);
	PgrRef ref;

	reservation->entries -= registry->entries;
	reservation->bytes -= registry->bytes;
	if (registry->patch)
		reservation->patchers--;
	else
		reservation->reservers--;
	if (reservation->reservers + reservation->patchers > 0)
		return;
	while ((ref = take_spare_block(reservation)) != 0)
		pgr_arena_free(arena(), ref);
	ref = *link;
	*link = 0;
	pgr_arena_free(arena(), ref);
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
		return pgr_image_ptr(pgr_image, *link);
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
 * with everything else that is reserved.
 */
static bool
can_patch(const PgrPlanRegistry *registry, const PgrReservation *reservation)
{
	const PgrBlock *block = current_block(registry->slot);

	return block != NULL && block->patchable && !registry->fresh &&
		registry->alter == NULL && registry->extra == NULL &&
		!registry->mark_missing && registry->expected_birth == 0 &&
		pgr_patch_is_cheaper(block, registry->nchanges) &&
		reservation->entries <= pgr_patch_room(block) &&
		/* what grows beyond this could never be built again */
		(registry->entries == 0 ||
		 reservation_bytes(reservation) != PGR_BLOCK_TOO_LARGE);
}

/* They lead to no less memory, even for deletions: not of the last resort. */
static bool
reserve_versions(PgrPlanRegistry *registry, Size *wanted)
{
	PgrRef *link = &registry->versions;

	for (int i = 0; i <= registry->nchanges; i++)
	{
		PgrRef ref;

		*wanted = pgr_patch_version_bytes(
			i < registry->nchanges ? &registry->changes[i] : NULL);
		ref = pgr_plan_alloc(*wanted, PGR_MEMORY_RESERVED, false);
		*link = ref;
		if (ref == 0)
		{
			free_versions(registry);
			return false;
		}
		link = pgr_publish_link(pgr_image, ref);
		*link = 0;
	}
	return true;
}

static bool
reserve_change(PgrPlanRegistry *registry, bool last_resort, Size *wanted)
{
	PgrReservation *reservation = open_reservation(registry->slot, last_resort,
												   wanted);

	if (reservation == NULL)
		return false;
	reservation->entries += registry->entries;
	reservation->bytes += registry->bytes;
	reservation->extra_len = Max(reservation->extra_len, registry->extra_len);
	reservation->fresh = registry->fresh && reservation->reservers == 0 &&
		reservation->patchers == 0;
	registry->reserved = true;
	registry->patch = can_patch(registry, reservation) &&
		reserve_versions(registry, wanted);
	if (registry->patch)
		reservation->patchers++;
	else
		reservation->reservers++;
	return fill_spares(reservation, last_resort, wanted);
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
}

/* The first registry that is not patched needs a new root. */
static bool
reserve_root(PgrPlan *plan, Size *wanted)
{
	if (plan->root != 0)
		return true;
	*wanted = sizeof(PgrSharedRoot);
	plan->root = pgr_plan_alloc(sizeof(PgrSharedRoot), PGR_MEMORY_RESERVED,
								plan->frees);
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
			!reserve_create(registry, plan->frees, wanted))
			return false;
		if (registry->action == PGR_PLAN_CHANGE &&
			!reserve_change(registry, plan->frees, wanted))
			return false;
		if (registry->patch)
			continue;
		if (!reserve_root(plan, wanted))
			return false;
		if (!has_page[registry->slot / PGR_PAGE_SLOTS])
		{
			PgrRef page = pgr_plan_alloc(sizeof(PgrSharedPage),
										 PGR_MEMORY_RESERVED, plan->frees);

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
	LWLockAcquire(pgr_area_lock(PGR_LOCK_WRITER), LW_EXCLUSIVE);
	fits = reserve_locked(plan, wanted);
	if (!fits)
		cancel_locked(plan);
	LWLockRelease(pgr_area_lock(PGR_LOCK_WRITER));
	return fits;
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

/* "others" is what other plans may still add to the registry. */
static void
build_into(PgrRef memory, const PgrPlan *plan, PgrPlanRegistry *registry,
		   const PgrBlock *old, const PgrReservation *others)
{
	PgrBlockBuild build = {
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
		.now = plan->now,
	};
	PgrBlock *block = pgr_image_ptr(pgr_image, memory);

	if (others != NULL)
		build.room = others->entries;
	build.patchable = (others != NULL && others->patchers > 0) ||
		(build.definition->kind != PGR_BLOCK_RATES &&
		 pgr_patch_pays((old && !registry->fresh ? old->entries : 0) +
						registry->nchanges));
	pgr_block_build(block, &build);
	if (old != NULL && registry->alter != NULL && registry->nchanges == 0 &&
		!registry->fresh)
		block->built_at = pgr_block_changed_at(old, PGR_NEWEST);
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
	if (is_void(registry, pgr_publish_current(publish, registry->slot)))
	{
		free_versions(registry);
		plan->some_void = true;
		return;
	}
	pgr_publish_patch(publish, registry->slot, registry->changes,
					  registry->nchanges, plan->now, registry->versions);
	registry->versions = 0;
}

static void
commit_build(PgrPublish *publish, PgrPlan *plan, PgrPlanRegistry *registry,
			 PgrReservation *reservation)
{
	const PgrBlock *old = pgr_publish_current(publish, registry->slot);
	PgrReservation others = *reservation;
	PgrRef memory = take_spare_block(reservation);

	Assert(memory != 0);
	if (is_void(registry, old))
	{
		pgr_arena_free(arena(), memory);
		plan->some_void = true;
		return;
	}
	others.entries -= registry->entries;
	build_into(memory, plan, registry, old, &others);
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
	pgr_image_slot_free(pgr_image, registry->slot);
}

uint64
pgr_plan_commit(PgrPlan *plan)
{
	PgrPublish publish;
	uint64 generation;

	plan->some_void = false;
	LWLockAcquire(pgr_area_lock(PGR_LOCK_WRITER), LW_EXCLUSIVE);
	pgr_publish_begin(&publish, pgr_image, plan->root, plan->pages,
					  plan->npages);
	plan->root = 0;
	for (int i = 0; i < plan->nregistries; i++)
	{
		PgrPlanRegistry *registry = &plan->registries[i];

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
	}
	generation = pgr_publish_end(&publish);
	if (publish.new_root != 0) /* nothing but void changes */
		pgr_arena_free(arena(), publish.new_root);
	for (int i = publish.pages_used; i < plan->npages; i++)
		pgr_arena_free(arena(), plan->pages[i]);
	plan->npages = 0;
	pgr_image_reclaim(pgr_image, false);
	LWLockRelease(pgr_area_lock(PGR_LOCK_WRITER));
	return generation;
}

/* ------------------------------------------------------------------------
 * The report of a full arena
 * ------------------------------------------------------------------------
 */

typedef struct Shortage
{
	uint64 total;
	uint64 used;
	uint64 pending;
	uint64 retired;
	uint64 largest_free;
	PgrDefinition largest;
	uint64 largest_bytes;
	PgrLinePin oldest;
} Shortage;

static void
find_largest(Shortage *shortage)
{
	for (uint32 slot = 0; slot < PGR_MAX_SLOTS; slot++)
	{
		const PgrBlock *block;

		if (pgr_image->slot_bitmap[slot / 64] == 0)
		{
			slot |= 63;
			continue;
		}
		block = current_block(slot);
		if (block == NULL || block->definition.kind < PGR_BLOCK_REGISTRY ||
			block->size + block->outside_bytes <= shortage->largest_bytes)
			continue;
		shortage->largest_bytes = block->size + block->outside_bytes;
		shortage->largest = block->definition;
	}
}

/* The name of a registry that the current role may read. */
static char *
shown_name(const PgrDefinition *definition)
{
	if (definition->kind != PGR_BLOCK_RATES &&
		(definition->kind != PGR_BLOCK_REGISTRY ||
		 definition->database != MyDatabaseId ||
		 !pgr_reader_allowed(definition)))
		return "of another database or role";
	return psprintf("\"%.*s\"", definition->name_len, definition->name);
}

static void
pg_attribute_noreturn() refuse_registry(void)
{
	ereport(ERROR,
			(errcode(ERRCODE_PROGRAM_LIMIT_EXCEEDED),
			 errmsg("there are too many registries"),
			 errdetail("All databases of a server together can have %d registries and lists of registries.",
					   PGR_MAX_SLOTS - PGR_FIRST_FREE_SLOT)));
}

void
pgr_plan_out_of_memory(Size wanted)
{
	Shortage shortage;
	char pins[160];

	if (wanted == 0)
		refuse_registry();
	memset(&shortage, 0, sizeof(shortage));
	LWLockAcquire(pgr_area_lock(PGR_LOCK_WRITER), LW_SHARED);
	shortage.total = arena()->units * PGR_ARENA_UNIT;
	shortage.used = (arena()->units - arena()->kind_units[PGR_MEMORY_FREE]) *
		PGR_ARENA_UNIT;
	shortage.pending = arena()->kind_units[PGR_MEMORY_PENDING] *
		PGR_ARENA_UNIT;
	shortage.retired = pgr_image->retired_bytes;
	shortage.largest_free = pgr_arena_largest_free(arena());
	find_largest(&shortage);
	(void) pgr_line_oldest(&shortage.oldest);
	LWLockRelease(pgr_area_lock(PGR_LOCK_WRITER));

	if (shortage.retired > 0 && shortage.oldest.pid != 0)
		snprintf(pins, sizeof(pins),
				 "process %d pins generation " UINT64_FORMAT " since %s",
				 shortage.oldest.pid, shortage.oldest.generation,
				 timestamptz_to_str(shortage.oldest.at));
	else
		strlcpy(pins, "no process pins an old version", sizeof(pins));
	ereport(ERROR,
			(errcode(ERRCODE_OUT_OF_MEMORY),
			 errmsg("out of shared memory for pg_registry: cannot reserve %zu bytes",
					wanted),
			 errdetail("Of " UINT64_FORMAT " bytes, " UINT64_FORMAT
					   " are used, " UINT64_FORMAT " of them by uncommitted changes and "
					   UINT64_FORMAT " by old versions that are pinned or not yet reclaimed; the largest free piece has " UINT64_FORMAT " bytes; the largest registry %s takes "
					   UINT64_FORMAT " bytes; %s.",
					   shortage.total, shortage.used, shortage.pending,
					   shortage.retired, shortage.largest_free,
					   shown_name(&shortage.largest),
					   shortage.largest_bytes, pins),
			 errhint("Drop registries, end idle transactions, or increase pg_registry.shared_memory; see registry.memory and registry.readers.  A change of entries, a deletion too, can need room for a copy of its registry.")));
}
