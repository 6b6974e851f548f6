/*
 * registry/image.c
 *	  See image.h for the structures and the argument; the labels P1..P4,
 *	  C1..C3 and R1..R5 below are those of its banner.
 */
#ifndef PGR_STANDALONE
#include "postgres.h"
#endif

#include "registry/image.h"

/* Reclaim in batches of this many objects, or this part of the arena. */
#define RECLAIM_BATCH 96 /* or more, where there are many pins to look at */
#define RECLAIM_FRACTION 16
#define RECLAIM_MOST 16384 /* of what one pin has kept, at once */

/* Versions of one entry before its chain is pruned; more with many lines. */
#define LONG_CHAIN 16

/* Room for every pin that there can be; the arena behind it is aligned. */
static Size
pinned_bytes(uint32 lines, uint32 spares)
{
	Size pins = (Size) lines * PGR_LINE_PINS + (Size) spares * PGR_SPARE_PINS;

	return TYPEALIGN(128, pins * sizeof(uint64));
}

Size
pgr_image_bytes(uint32 lines, uint32 spares, Size arena_bytes)
{
	return TYPEALIGN(128, sizeof(PgrSharedImage)) +
		(Size) lines * sizeof(PgrSharedLine) +
		(Size) spares * sizeof(PgrSharedSpareLine) +
		pinned_bytes(lines, spares) + arena_bytes;
}

static void
recent_write(PgrSharedImage *image, uint64 generation, PgrRef root)
{
	PgrRecentRoot *recent = &image->recent[generation % PGR_RECENT];

	pg_atomic_write_u64(&recent->generation, 0);
	pg_write_barrier(); /* pairs with the read barriers of R5 */
	pg_atomic_write_u32(&recent->root, root);
	pg_write_barrier(); /* pairs with the read barriers of R5 */
	pg_atomic_write_u64(&recent->generation, generation);
}

static void
init_lines(PgrSharedImage *image)
{
	for (uint32 i = 0; i < image->lines_count; i++)
	{
		PgrSharedLine *line = pgr_image_line(image, i);

		memset(line, 0, sizeof(*line));
		for (int p = 0; p < PGR_LINE_PINS; p++)
			pg_atomic_init_u64(&line->pins[p], 0);
		pg_atomic_init_u64(&line->parallel_pin, 0);
		pg_atomic_init_u32(&line->parallel_root, 0);
		pg_atomic_init_u32(&line->pending_head, 0);
		pg_atomic_init_u32(&line->in_use, 0);
	}
	for (uint32 i = 0; i < image->spares_count; i++)
	{
		PgrSharedSpareLine *spare = pgr_image_spare(image, i);

		pg_atomic_init_u32(&spare->owner, 0);
		for (int p = 0; p < PGR_SPARE_PINS; p++)
			pg_atomic_init_u64(&spare->pins[p], 0);
	}
}

void
pgr_image_init(PgrSharedImage *image, uint32 lines, uint32 spares,
			   Size arena_bytes, uint64 seed)
{
	PgrArena *arena;
	PgrSharedRoot *root;

	memset(image, 0, sizeof(*image));
	image->seed = seed;
	image->lines_count = lines;
	image->spares_count = spares;
	image->lines_offset = TYPEALIGN(128, sizeof(PgrSharedImage));
	image->spares_offset = image->lines_offset +
		(uint64) lines * sizeof(PgrSharedLine);
	image->pinned_offset = image->spares_offset +
		(uint64) spares * sizeof(PgrSharedSpareLine);
	image->arena_offset = image->pinned_offset + pinned_bytes(lines, spares);
	pg_atomic_init_u64(&image->generation, 0);
	pg_atomic_init_u32(&image->lines_high, 0);
	pg_atomic_init_u32(&image->spares_high, 0);
	for (int i = 0; i < PGR_RECENT; i++)
	{
		pg_atomic_init_u64(&image->recent[i].generation, 0);
		pg_atomic_init_u32(&image->recent[i].root, 0);
	}
	init_lines(image);

	arena = pgr_image_arena(image);
	pgr_arena_init(arena, arena_bytes);
	for (uint32 slot = 0; slot < PGR_FIRST_FREE_SLOT; slot++)
		image->slot_bitmap[0] |= UINT64_C(1) << slot;
	image->slots_used = PGR_FIRST_FREE_SLOT;

	/* an arena of the minimum size has room for the first root */
	image->root = pgr_arena_alloc(arena, sizeof(PgrSharedRoot),
								  PGR_MEMORY_ROOT, true);
	root = pgr_image_ptr(image, image->root);
	memset(root, 0, sizeof(*root));
	root->object.birth = 1;
	recent_write(image, 1, image->root);
	pg_atomic_write_u64(&image->generation, 1);
}

/* What a block that can be patched must know of where it lies. */
static void
place_block(const PgrSharedImage *image, PgrBlock *block, PgrRef ref)
{
	block->self = ref;
	block->last_ref =
		(PgrRef) (pgr_image_arena(image)->units - 1 -
				  TYPEALIGN(PGR_ARENA_UNIT,
							sizeof(PgrVersion) + PGR_CHUNK_HEADER) /
					  PGR_ARENA_UNIT);
}

void
pgr_image_init_slot(PgrSharedImage *image, uint32 slot,
					const PgrDefinition *definition)
{
	PgrArena *arena = pgr_image_arena(image);
	PgrSharedRoot *root = pgr_image_ptr(image, image->root);
	PgrRef *page_ref = &root->pages[slot / PGR_PAGE_SLOTS];
	PgrSharedPage *page;
	PgrBlockBuild build = {.definition = definition, .seed = image->seed};
	PgrRef ref;
	PgrBlock *block;

	if (*page_ref == 0)
	{
		*page_ref = pgr_arena_alloc(arena, sizeof(PgrSharedPage),
									PGR_MEMORY_ROOT, true);
		page = pgr_image_ptr(image, *page_ref);
		memset(page, 0, sizeof(*page));
		page->object.birth = 1;
	}
	page = pgr_image_ptr(image, *page_ref);
	ref = pgr_arena_alloc(arena, pgr_block_build_bytes(&build),
						  PGR_MEMORY_BLOCK, true);
	block = pgr_image_ptr(image, ref);
	pgr_block_build(block, &build);
	block->object.birth = 1;
	block->definition.incarnation = 1;
	place_block(image, block, ref);
	page->blocks[slot % PGR_PAGE_SLOTS] = ref;
}

/* ------------------------------------------------------------------------
 * Readers
 * ------------------------------------------------------------------------
 */

const PgrSharedRoot *
pgr_image_pin(PgrSharedImage *image, pg_atomic_uint64 *cell,
			  uint64 *generation)
{
	for (;;)
	{
		uint64 g = pg_atomic_read_u64(&image->generation); /* R1 */
		PgrRecentRoot *recent = &image->recent[g % PGR_RECENT];
		PgrRef root;

		pg_atomic_write_u64(cell, g); /* R2 */
		pg_memory_barrier();          /* R3, pairs with C1 */
		if (pg_atomic_read_u64(&image->generation) != g) /* R4 */
			continue;
		pg_read_barrier();                                /* pairs with P3 */
		if (pg_atomic_read_u64(&recent->generation) != g) /* R5 */
			continue;
		pg_read_barrier(); /* pairs with recent_write */
		root = pg_atomic_read_u32(&recent->root);
		pg_read_barrier(); /* pairs with recent_write */
		if (pg_atomic_read_u64(&recent->generation) != g)
			continue;
		*generation = g;
		return pgr_image_ptr(image, root);
	}
}

void
pgr_image_unpin(pg_atomic_uint64 *cell)
{
	pg_memory_barrier(); /* loads from the pinned blocks are done */
	pg_atomic_write_u64(cell, 0);
}

/* ------------------------------------------------------------------------
 * What is pinned, and what that leaves to be freed
 * ------------------------------------------------------------------------
 */

/* The generations that are pinned, each once, in ascending order. */
typedef struct Pinned
{
	uint64 *generations; /* the image's, under the writer lock */
	int n;
} Pinned;

/* Index of the first pinned generation that is not below g. */
static int
first_pinned(const Pinned *pinned, uint64 g)
{
	int low = 0;
	int high = pinned->n;

	while (low < high)
	{
		int middle = (low + high) / 2;

		if (pinned->generations[middle] < g)
			low = middle + 1;
		else
			high = middle;
	}
	return low;
}

/* Sessions that run the same statements mostly pin the same generation. */
static void
collect_cells(Pinned *pinned, pg_atomic_uint64 *cells, int n)
{
	for (int i = 0; i < n; i++)
	{
		uint64 g = pg_atomic_read_u64(&cells[i]);

		if (g != 0 &&
			(pinned->n == 0 || pinned->generations[pinned->n - 1] != g))
			pinned->generations[pinned->n++] = g;
	}
}

static int
compare_generations(const void *a, const void *b)
{
	uint64 left = *(const uint64 *) a;
	uint64 right = *(const uint64 *) b;

	return left < right ? -1 : left > right;
}

static void
sort_pinned(Pinned *pinned)
{
	int n = 0;

	qsort(pinned->generations, pinned->n, sizeof(uint64), compare_generations);
	for (int i = 0; i < pinned->n; i++)
		if (n == 0 || pinned->generations[n - 1] != pinned->generations[i])
			pinned->generations[n++] = pinned->generations[i];
	pinned->n = n;
}

static void
collect_pinned(PgrSharedImage *image, Pinned *pinned)
{
	uint32 lines = pg_atomic_read_u32(&image->lines_high);
	uint32 spares = pg_atomic_read_u32(&image->spares_high);

	pinned->generations = (uint64 *) ((char *) image + image->pinned_offset);
	pinned->n = 0;
	for (uint32 i = 0; i < lines; i++)
		collect_cells(pinned, pgr_image_line(image, i)->pins, PGR_LINE_PINS);
	for (uint32 i = 0; i < spares; i++)
		collect_cells(pinned, pgr_image_spare(image, i)->pins, PGR_SPARE_PINS);
	sort_pinned(pinned);
}

static bool
is_pinned(const Pinned *pinned, const PgrSharedObject *object)
{
	int i = first_pinned(pinned, object->birth);

	return i < pinned->n && pinned->generations[i] < object->death;
}

static bool
is_unneeded(const PgrSharedObject *object, const void *pinned)
{
	return !is_pinned(pinned, object);
}

/* Take a version out of its chain, and what else nobody needs there. */
static void
unlink_version(PgrSharedImage *image, const PgrVersion *version,
			   const Pinned *pinned)
{
	if (version->links != PGR_VERSION_UNLINKED)
		pgr_patch_prune(pgr_image_ptr(image, version->block), version->slot,
						is_unneeded, pinned);
}

/* U1 and U2 for all versions of a list that no pin needs. */
static void
unlink_retired(PgrSharedImage *image, const PgrRetired *list,
			   const Pinned *pinned)
{
	for (PgrRef ref = list->head; ref != 0;)
	{
		PgrSharedObject *object = pgr_image_ptr(image, ref);

		if (object->kind == PGR_OBJECT_VERSION && !is_pinned(pinned, object))
			unlink_version(image, (PgrVersion *) object, pinned);
		ref = object->next_retired;
	}
	pg_write_barrier(); /* U2, pairs with L6 */
}

/* Append a chain of objects to a list, and empty where it came from. */
static void
move_list(const PgrSharedImage *image, PgrRetired *to, PgrRetired *from)
{
	if (from->head == 0)
		return;
	if (to->tail != 0)
		((PgrSharedObject *) pgr_image_ptr(image, to->tail))->next_retired =
			from->head;
	else
		to->head = from->head;
	to->tail = from->tail;
	to->count += from->count;
	memset(from, 0, sizeof(*from));
}

/*
 * Chains that have grown long since they were last pruned, of the slots that
 * this publish has changed: a reader of an old generation walks them.  Memory
 * is freed by the next reclaim.
 */
static void
prune_long_chains(PgrSharedImage *image, PgrRef ref)
{
	uint32 limit = Max(LONG_CHAIN,
					   pg_atomic_read_u32(&image->lines_high) / 16);
	Pinned pinned;
	bool collected = false;

	while (ref != 0)
	{
		PgrSharedObject *object = pgr_image_ptr(image, ref);
		PgrVersion *version = (PgrVersion *) object;

		ref = object->next_retired;
		if (object->kind != PGR_OBJECT_VERSION || version->links < limit ||
			version->links == PGR_VERSION_UNLINKED)
			continue;
		if (!collected)
		{
			pg_memory_barrier(); /* C1 */
			collect_pinned(image, &pinned);
			collected = true;
		}
		unlink_version(image, version, &pinned);
	}
}

/* Bytes that an object takes, with what ends with it. */
static Size
object_bytes(PgrArena *arena, const PgrSharedObject *object, PgrRef ref)
{
	Size bytes = pgr_arena_chunk_bytes(arena, ref);

	if (object->kind == PGR_OBJECT_BLOCK)
		bytes += ((const PgrBlock *) object)->outside_bytes;
	return bytes;
}

/* C3.  The newest versions of a block end with it. */
static void
free_object(PgrSharedImage *image, PgrRef ref)
{
	PgrArena *arena = pgr_image_arena(image);
	PgrSharedObject *object = pgr_image_ptr(image, ref);
	uint64 position = 0;
	PgrRef version;

	if (object->kind == PGR_OBJECT_BLOCK)
		while ((version = pgr_patch_next_newest((PgrBlock *) object,
												&position)) != 0)
			pgr_arena_free(arena, version);
	pgr_arena_free(arena, ref);
	image->reclaimed_count++;
}

/* ------------------------------------------------------------------------
 * The writer
 * ------------------------------------------------------------------------
 */

/* Names no longer what the generations before it did. */
static void
replace_object(PgrPublish *publish, PgrRef ref)
{
	PgrSharedObject *object = pgr_image_ptr(publish->image, ref);
	PgrRetired one = {.head = ref, .tail = ref, .count = 1};

	Assert(object->death == 0);
	object->next_retired = 0;
	move_list(publish->image, &publish->replaced, &one);
}

void
pgr_publish_begin(PgrPublish *publish, PgrSharedImage *image, PgrRef root,
				  PgrRef *pages, int npages)
{
	publish->image = image;
	publish->generation = pg_atomic_read_u64(&image->generation) + 1;
	publish->root = image->root;
	publish->new_root = root;
	publish->pages = pages;
	publish->npages = npages;
	publish->pages_used = 0;
	memset(&publish->replaced, 0, sizeof(publish->replaced));
}

/* The root, as this publish's own copy. */
static PgrSharedRoot *
own_root(PgrPublish *publish)
{
	PgrSharedRoot *root = pgr_image_ptr(publish->image, publish->root);
	PgrSharedRoot *copy;

	if (publish->new_root == 0)
		return root;
	copy = pgr_image_ptr(publish->image, publish->new_root);
	memcpy(copy, root, sizeof(*copy));
	memset(&copy->object, 0, sizeof(copy->object));
	copy->object.birth = publish->generation;
	pgr_arena_set_kind(pgr_image_arena(publish->image), publish->new_root,
					   PGR_MEMORY_ROOT);
	replace_object(publish, publish->root);
	publish->root = publish->new_root;
	publish->new_root = 0;
	return copy;
}

const PgrBlock *
pgr_publish_current(const PgrPublish *publish, uint32 slot)
{
	return pgr_root_block(publish->image,
						  pgr_image_ptr(publish->image, publish->root), slot);
}

/* The page of a slot, as this publish's own copy. */
static PgrSharedPage *
own_page(PgrPublish *publish, uint32 slot)
{
	PgrSharedRoot *root = own_root(publish);
	PgrRef *ref = &root->pages[slot / PGR_PAGE_SLOTS];
	PgrSharedPage *old = *ref ? pgr_image_ptr(publish->image, *ref) : NULL;
	PgrSharedPage *page;

	if (old != NULL && old->object.birth == publish->generation)
		return old;
	Assert(publish->pages_used < publish->npages);
	page = pgr_image_ptr(publish->image, publish->pages[publish->pages_used]);
	if (old != NULL)
	{
		memcpy(page, old, sizeof(*page));
		replace_object(publish, *ref);
	}
	else
		memset(page, 0, sizeof(*page));
	memset(&page->object, 0, sizeof(page->object));
	page->object.birth = publish->generation;
	*ref = publish->pages[publish->pages_used++];
	pgr_arena_set_kind(pgr_image_arena(publish->image), *ref, PGR_MEMORY_ROOT);
	return page;
}

void
pgr_publish_set(PgrPublish *publish, uint32 slot, PgrRef block)
{
	PgrRef *ref = &own_page(publish, slot)->blocks[slot % PGR_PAGE_SLOTS];

	if (*ref != 0)
		replace_object(publish, *ref);
	*ref = block;
	if (block != 0)
	{
		PgrBlock *b = pgr_image_ptr(publish->image, block);

		b->object.birth = publish->generation;
		if (b->definition.incarnation == 0)
			b->definition.incarnation = publish->generation;
		place_block(publish->image, b, block);
		pgr_arena_set_kind(pgr_image_arena(publish->image), block,
						   PGR_MEMORY_BLOCK);
	}
}

/* What pgr_publish_patch does with each chunk of its list. */
static void
patch_one(PgrPublish *publish, PgrBlock *block, const PgrChange *change,
		  TimestampTz now, PgrRef version)
{
	PgrArena *arena = pgr_image_arena(publish->image);
	PgrRef replaced = 0;

	if (change == NULL)
		pgr_patch_finish(block, publish->generation, now, version, &replaced);
	else if (!pgr_patch_apply(block, publish->generation, change, version,
							  &replaced))
	{
		pgr_arena_free(arena, version);
		return;
	}
	pgr_arena_set_kind(arena, version, PGR_MEMORY_BLOCK);
	block->outside_bytes += pgr_arena_chunk_bytes(arena, version);
	if (replaced == 0)
		return;
	block->outside_bytes -= pgr_arena_chunk_bytes(arena, replaced);
	replace_object(publish, replaced);
}

void
pgr_publish_patch(PgrPublish *publish, uint32 slot, const PgrChange *changes,
				  int nchanges, TimestampTz now, PgrRef versions)
{
	PgrBlock *block = (PgrBlock *) pgr_publish_current(publish, slot);
	PgrRef version = versions;

	Assert(block->patchable);
	block->changed_now = now;
	for (int i = 0; version != 0; i++)
	{
		PgrRef next = *pgr_publish_link(publish->image, version);

		patch_one(publish, block, i < nchanges ? &changes[i] : NULL, now,
				  version);
		version = next;
	}
}

uint64
pgr_publish_end(PgrPublish *publish)
{
	PgrSharedImage *image = publish->image;
	PgrArena *arena = pgr_image_arena(image);
	PgrRef replaced = publish->replaced.head;

	recent_write(image, publish->generation, publish->root); /* P2 */
	pg_write_barrier(); /* P3, pairs with the read barrier of R4 */
	pg_atomic_write_u64(&image->generation, publish->generation);
	image->root = publish->root;

	for (PgrRef ref = replaced; ref != 0;) /* P4 */
	{
		PgrSharedObject *object = pgr_image_ptr(image, ref);
		Size bytes = object_bytes(arena, object, ref);

		object->death = publish->generation;
		image->retired_bytes += bytes;
		image->fresh_bytes += bytes;
		ref = object->next_retired;
	}
	image->retired_count += publish->replaced.count;
	image->since_mixed += publish->replaced.count;
	move_list(image, &image->fresh, &publish->replaced);
	prune_long_chains(image, replaced);
	return publish->generation;
}

/* ------------------------------------------------------------------------
 * Reclamation
 * ------------------------------------------------------------------------
 */

/*
 * The list of what a generation keeps: the one it has, or one that is free.
 */
static PgrRetired *
kept_by(PgrSharedImage *image, uint64 keeper)
{
	PgrRetired *unused = &image->mixed;

	for (int i = 0; i < PGR_KEPT_LISTS; i++)
	{
		if (image->kept[i].keeper == keeper)
			return &image->kept[i];
		if (image->kept[i].keeper == 0)
			unused = &image->kept[i];
	}
	if (unused != &image->mixed)
		unused->keeper = keeper;
	return unused;
}

static void
keep_object(PgrSharedImage *image, PgrRef ref, const Pinned *pinned)
{
	PgrSharedObject *object = pgr_image_ptr(image, ref);
	PgrRetired one = {.head = ref, .tail = ref, .count = 1};

	object->next_retired = 0;
	move_list(image,
			  kept_by(image,
					  pinned
						  ->generations[first_pinned(pinned, object->birth)]),
			  &one);
}

/* The first objects of a list, at most so many, to another one. */
static void
move_some(const PgrSharedImage *image, PgrRetired *to, PgrRetired *from,
		  uint32 most)
{
	PgrRetired some = *from;
	PgrSharedObject *last = NULL;

	if (from->count <= most)
	{
		move_list(image, to, from);
		return;
	}
	for (uint32 i = 0; i < most; i++)
	{
		some.tail = last ? last->next_retired : some.head;
		last = pgr_image_ptr(image, some.tail);
	}
	some.count = most;
	from->head = last->next_retired;
	from->count -= most;
	last->next_retired = 0;
	move_list(image, to, &some);
}

/*
 * What has to be looked at: the newly retired and what nobody keeps any more.
 * So the work is paid for by new garbage and by pins that end; a pin that keeps
 * a million versions costs the others nothing while it is there, and no commit
 * has to clear up after it alone, unless it needs the memory now.  True if
 * nothing is left that could be freed.
 */
static bool
take_work(PgrSharedImage *image, const Pinned *pinned, bool now,
		  PgrRetired *work)
{
	bool complete = true;

	memset(work, 0, sizeof(*work));
	move_list(image, work, &image->fresh);
	for (int i = 0; i < PGR_KEPT_LISTS; i++)
	{
		PgrRetired *kept = &image->kept[i];
		int p = first_pinned(pinned, kept->keeper);

		if (kept->keeper == 0 ||
			(p < pinned->n && pinned->generations[p] == kept->keeper))
			continue;
		move_some(image, work, kept, now ? UINT32_MAX : RECLAIM_MOST);
		if (kept->count == 0)
			kept->keeper = 0;
		else
			complete = false;
	}
	if (!now && !image->mixed_due &&
		image->since_mixed < image->mixed.count / 2)
		return complete && image->mixed.count == 0;
	image->since_mixed = 0;
	image->mixed_due = false;
	move_list(image, work, &image->mixed);
	return complete;
}

/*
 * The versions of a block need it to be unlinked, so it ends after all of
 * them: in a round that leaves out nothing.
 */
static void
defer_block(PgrSharedImage *image, PgrRef ref)
{
	PgrRetired one = {.head = ref, .tail = ref, .count = 1};

	((PgrSharedObject *) pgr_image_ptr(image, ref))->next_retired = 0;
	move_list(image, &image->mixed, &one);
	image->mixed_due = true;
}

static bool
has_versions(const PgrSharedObject *object)
{
	return object->kind == PGR_OBJECT_BLOCK &&
		((const PgrBlock *) object)->patchable;
}

static bool
is_due(const PgrSharedImage *image, const PgrArena *arena)
{
	uint32 lines = pg_atomic_read_u32(&((PgrSharedImage *) image)->lines_high);

	return image->fresh.count >= Max(RECLAIM_BATCH, lines / 4) ||
		image->fresh_bytes >= arena->units * PGR_ARENA_UNIT / RECLAIM_FRACTION;
}

void
pgr_image_reclaim(PgrSharedImage *image, bool now)
{
	PgrArena *arena = pgr_image_arena(image);
	Pinned pinned;
	PgrRetired work;
	PgrRef ref;
	bool complete;

	if (!now && !is_due(image, arena))
		return;

	pg_memory_barrier();            /* C1, pairs with R3 */
	collect_pinned(image, &pinned); /* C2 */
	image->fresh_bytes = 0;
	complete = take_work(image, &pinned, now, &work);
	unlink_retired(image, &work, &pinned);
	ref = work.head;
	while (ref != 0)
	{
		PgrSharedObject *object = pgr_image_ptr(image, ref);
		PgrRef next = object->next_retired;

		if (is_pinned(&pinned, object))
			keep_object(image, ref, &pinned);
		else if (!complete && has_versions(object))
			defer_block(image, ref);
		else
		{
			image->retired_count--;
			image->retired_bytes -= object_bytes(arena, object, ref);
			free_object(image, ref); /* C3, U3 */
		}
		ref = next;
	}
}

uint32
pgr_image_slot_alloc(PgrSharedImage *image)
{
	for (uint32 i = image->slot_hint; i < PGR_MAX_SLOTS / 64; i++)
	{
		uint64 word = image->slot_bitmap[i];

		if (word != UINT64_MAX)
		{
			int bit = pgr_bits_low(~word);

			image->slot_bitmap[i] |= UINT64_C(1) << bit;
			image->slots_used++;
			image->slot_hint = i;
			return i * 64 + (uint32) bit;
		}
	}
	return PGR_NO_SLOT;
}

void
pgr_image_slot_free(PgrSharedImage *image, uint32 slot)
{
	Assert(image->slot_bitmap[slot / 64] & (UINT64_C(1) << (slot % 64)));
	image->slot_bitmap[slot / 64] &= ~(UINT64_C(1) << (slot % 64));
	image->slots_used--;
	image->slot_hint = Min(image->slot_hint, slot / 64);
}
