/*
 * registry/image.h
 *	  The multi-version image: roots, pages, pins, publication, reclamation.
 *
 * A root names the current block of every registry of the cluster: 256 pages
 * of 256 blocks.  A publish that replaces blocks copies the root, the pages it
 * changes, and nothing else, so it costs the same for ten registries and for
 * ten thousand; one that only patches blocks (patch.h) goes on with the same
 * root.
 *
 * This file takes pointers and owns no globals; registry/pin.c decides which
 * statement uses which pin, registry/plan.c how a publish is reserved and made.
 *
 * ARGUMENT
 *
 * Publish of generation g, under the writer lock:
 *		P1	write root(g), its pages and blocks
 *		P2	recent[g % N] = {0, ..}; barrier; {.., root}; barrier; {g, root}
 *		P3	write barrier; generation = g
 *		P4	death of every replaced object = g; onto the retired list
 * Reclaim, under the writer lock, some time after P4:
 *		C1	full barrier
 *		C2	read every pin
 *		C3	free each retired object with no pin in [birth, death); what is
 *			known to be kept by a pin that is still there may wait, and a block
 *			waits for its versions
 * Pin, by a reader that owns its line:
 *		R1	g = generation
 *		R2	line.pins[i] = g
 *		R3	full barrier
 *		R4	if generation != g, go to R1
 *		R5	root = recent[g % N]; if it is not g's (or no more), go to R1
 *
 * An object that generation g reaches has birth <= g, and while g is current
 * death is unset.  If R4 reads g, then P3 of g + 1 had not become visible to
 * the reader when R3 completed, and R2 was visible to everybody at R3.  So P3
 * of g + 1 comes after R2 in the order of the two full barriers, and with it
 * every C2 that could free an object of death >= g + 1: that C2 sees the pin.
 * Hence between R4 and the release of the pin nothing that g reaches is
 * freed.  R5 can only read g's root or find the slot overwritten by
 * generation g + N, and then starts over; with N publishes between R4 and R5
 * as the price of one retry, no reader can be starved by a writer that works
 * for its publishes.
 *
 * A reader stopped (SIGSTOP) between R2 and R4 holds back what its g reached
 * and nothing else.  A reader that is killed takes the server down (crash
 * restart), a reader that exits clears its line in on_shmem_exit, before its
 * proc number can be given to another process.
 *
 * Release of a pin needs a release barrier before the store of 0: loads from
 * the block must not move below it.
 */
#ifndef PGR_REGISTRY_IMAGE_H
#define PGR_REGISTRY_IMAGE_H

#include "base/atomics.h"

#include "registry/block.h"
#include "registry/patch.h"
#include "shm/arena.h"

#define PGR_PAGE_SLOTS 256
#define PGR_ROOT_PAGES 256
#define PGR_MAX_SLOTS (PGR_PAGE_SLOTS * PGR_ROOT_PAGES)
#define PGR_RECENT 16

/* Slots of the root that are there from the start. */
#define PGR_SLOT_DATABASES 0
#define PGR_SLOT_RATES 1
#define PGR_SLOT_QUARANTINE 2 /* rates that differ too much to be published */
#define PGR_FIRST_FREE_SLOT 3
#define PGR_NO_SLOT UINT32_MAX

/*
 * The reserved registry name of exchange rates: those of the cluster, which are
 * what was fetched last, and those that a database has of its own.
 */
#define PGR_RATES_NAME "rates"

typedef struct PgrSharedPage
{
	PgrSharedObject object;
	char writers[PGR_OBJECT_REST];
	PgrRef blocks[PGR_PAGE_SLOTS];
} PgrSharedPage;

/* Of one generation, or of several where patches alone were published. */
typedef struct PgrSharedRoot
{
	PgrSharedObject object;
	char writers[PGR_OBJECT_REST];
	PgrRef pages[PGR_ROOT_PAGES];
} PgrSharedRoot;

/* Where the root of a recent generation lies.  Writer: publish.  See R5. */
typedef struct PgrRecentRoot
{
	pg_atomic_uint64 generation; /* 0 while being overwritten */
	pg_atomic_uint32 root;       /* PgrRef */
} PgrRecentRoot;

#define PGR_LINE_PINS 6
#define PGR_SPARE_PINS 15

/*
 * What a backend pins: its own cache line, indexed by its proc number.
 *
 * Writer: that backend only (nobody else, ever).  Readers: reclaim, and of the
 * parallel_ and pending_ fields the parallel workers of that backend.
 * Lifetime: a pin lies here until the last portal that holds it ends, the
 * transaction ends or the process exits; the generations are facts about
 * memory, so no offset of a block stands here.  If the owner is killed, the
 * segment is made anew.
 */
typedef struct PgrSharedLine
{
	/* hot: what reclaim scans */
	pg_atomic_uint64 pins[PGR_LINE_PINS]; /* generations; 0 = unused */
	pg_atomic_uint64 parallel_pin;  /* my workers read this one; 0 = none */
	pg_atomic_uint32 parallel_root; /* its root; valid before parallel_pin */
	pg_atomic_uint32 pending_head;  /* my newest uncommitted change */
	/* cold: for parallel workers and registry.readers */
	TimestampTz parallel_at;
	TimestampTz pinned_at[PGR_LINE_PINS];
	pg_atomic_uint32 in_use; /* pid of the owner, 0 = nobody */
	uint32 parallel_flags;   /* of parallel_pin: see pin.c */
	/* of parallel_pin: its PgrRatesAnswer */
	uint64 parallel_answer_rates;
	TimestampTz parallel_answer_at;
	uint64 tail[6];
} PgrSharedLine;

StaticAssertDecl(offsetof(PgrSharedLine, parallel_at) == 64,
				 "a scan reads one cache line of each backend");
StaticAssertDecl(sizeof(PgrSharedLine) == 192, "a line is three cache lines");

/*
 * Room for more pins than a line holds.  "owner" is claimed by
 * compare-and-swap and given back by its owner only; the rest as in a line.
 */
typedef struct PgrSharedSpareLine
{
	/* hot: what reclaim scans */
	pg_atomic_uint32 owner; /* pid, 0 = free */
	uint32 padding;
	pg_atomic_uint64 pins[PGR_SPARE_PINS];
	/* cold: for registry.readers */
	TimestampTz pinned_at[PGR_SPARE_PINS];
	uint64 tail;
} PgrSharedSpareLine;

StaticAssertDecl(sizeof(PgrSharedSpareLine) == 256,
				 "a spare line is four cache lines");

/*
 * A list of retired objects.  Those in a list of kept ones are kept by the pin
 * of one generation (and maybe others): nobody needs to look at them as long
 * as that is there, however many they are.
 */
typedef struct PgrRetired
{
	uint64 keeper; /* 0 = none, or various */
	PgrRef head;
	PgrRef tail;
	uint32 count;
} PgrRetired;

#define PGR_KEPT_LISTS 64

/*
 * The image.
 *
 * Written under the writer lock only, except the lines (their owners) and
 * spare lines (compare-and-swap).  "generation" and "recent" are read by
 * everybody without a lock.  A writer that dies midway takes the server down
 * with it.
 */
typedef struct PgrSharedImage
{
	/* read by every new pin */
	pg_atomic_uint64 generation; /* the newest that is published */
	uint64 pad1[7];
	PgrRecentRoot recent[PGR_RECENT];

	/* writer lock */
	PgrRef root;                     /* the current one */
	PgrRetired fresh;                /* retired since the last reclaim */
	PgrRetired kept[PGR_KEPT_LISTS]; /* what that had to keep, by keeper */
	PgrRetired mixed;                /* when there are more keepers */
	bool mixed_due;                  /* something there waits to be freed */
	uint32 since_mixed;              /* retired since that was looked at */
	uint32 retired_count;            /* all of them */
	uint64 retired_bytes;
	uint64 fresh_bytes;
	uint64 reclaimed_count;
	uint32 slots_used;
	uint32 slot_hint; /* no word of the bitmap before has a free bit */
	uint64 slot_bitmap[PGR_MAX_SLOTS / 64];
	PgrRef
		reservations[PGR_MAX_SLOTS]; /* PgrReservation of plan.c; 0 = none */

	/* fixed at start */
	uint64 seed;
	uint64 arena_offset; /* from the image */
	uint32 lines_count;
	uint32 spares_count;
	uint64 lines_offset;
	uint64 spares_offset;
	uint64 pinned_offset; /* room for every pin, for reclaim */
	uint64 pad2[8];
	/* grows only: lines beyond were never used */
	pg_atomic_uint32 lines_high;
	pg_atomic_uint32 spares_high;
} PgrSharedImage;

static inline PgrArena *
pgr_image_arena(const PgrSharedImage *image)
{
	return (PgrArena *) ((char *) image + image->arena_offset);
}

static inline PgrSharedLine *
pgr_image_line(const PgrSharedImage *image, uint32 i)
{
	return (PgrSharedLine *) ((char *) image + image->lines_offset) + i;
}

static inline PgrSharedSpareLine *
pgr_image_spare(const PgrSharedImage *image, uint32 i)
{
	return (PgrSharedSpareLine *) ((char *) image + image->spares_offset) + i;
}

static inline void *
pgr_image_ptr(const PgrSharedImage *image, PgrRef ref)
{
	return pgr_arena_ptr(pgr_image_arena(image), ref);
}

/* The block in a slot of a root, NULL if there is none. */
static inline const PgrBlock *
pgr_root_block(const PgrSharedImage *image, const PgrSharedRoot *root,
			   uint32 slot)
{
	PgrRef page = root->pages[slot / PGR_PAGE_SLOTS];
	PgrRef block;

	if (page == 0)
		return NULL;
	block = ((const PgrSharedPage *) pgr_image_ptr(image, page))
				->blocks[slot % PGR_PAGE_SLOTS];
	return block == 0 ? NULL : pgr_image_ptr(image, block);
}

/* Bytes for an image with an arena of this size. */
extern Size pgr_image_bytes(uint32 lines, uint32 spares, Size arena_bytes);

/* Lay out an empty image: generation 1, no registry. */
extern void pgr_image_init(PgrSharedImage *image, uint32 lines, uint32 spares,
						   Size arena_bytes, uint64 seed);

/* Before anybody reads: an empty block of this definition in a fixed slot. */
extern void pgr_image_init_slot(PgrSharedImage *image, uint32 slot,
								const PgrDefinition *definition);

/*
 * Pin the newest generation in a cell that the caller owns; returns its root,
 * which stays valid until pgr_image_unpin.  Takes no lock, allocates nothing.
 */
extern const PgrSharedRoot *pgr_image_pin(PgrSharedImage *image,
										  pg_atomic_uint64 *cell,
										  uint64 *generation);

extern void pgr_image_unpin(pg_atomic_uint64 *cell);

/*
 * One publish, under the writer lock: begin with a root and pages from the
 * caller's reservation, set slots, end.  Nothing in it can fail; readers see
 * all of it at the end, at once.  A publish of patches only needs neither.
 */
typedef struct PgrPublish
{
	PgrSharedImage *image;
	uint64 generation;
	PgrRef root;     /* what this publish will name */
	PgrRef new_root; /* reserved; 0 once it is the root */
	PgrRef *pages;   /* reserved pages */
	int npages;
	int pages_used;
	PgrRetired replaced; /* to be retired at the end */
} PgrPublish;

extern void pgr_publish_begin(PgrPublish *publish, PgrSharedImage *image,
							  PgrRef root, PgrRef *pages, int npages);
extern const PgrBlock *pgr_publish_current(const PgrPublish *publish,
										   uint32 slot);
extern void pgr_publish_set(PgrPublish *publish, uint32 slot, PgrRef block);

/*
 * Change entries of the block in a slot, which is patchable, in place.
 * "versions" is a list of chunks, in the order of the changes, each large enough
 * for its change, and one for the state if pgr_patch_changes_state(); linked by
 * pgr_publish_link().  What is not needed of them is freed.
 */
extern void pgr_publish_patch(PgrPublish *publish, uint32 slot,
							  const PgrChange *changes, int nchanges,
							  TimestampTz now, PgrRef versions);

/* The link of a chunk that is reserved for a version. */
static inline PgrRef *
pgr_publish_link(const PgrSharedImage *image, PgrRef version)
{
	return pgr_image_ptr(image, version);
}

extern uint64 pgr_publish_end(PgrPublish *publish);

/*
 * Free retired objects that no pin needs.  Under the writer lock.  Cheap to
 * call after each publish: it works only when enough has been retired, unless
 * "now".
 */
extern void pgr_image_reclaim(PgrSharedImage *image, bool now);

/* Slots of the root, under the writer lock; PGR_NO_SLOT when all are taken. */
extern uint32 pgr_image_slot_alloc(PgrSharedImage *image);
extern void pgr_image_slot_free(PgrSharedImage *image, uint32 slot);

#endif /* PGR_REGISTRY_IMAGE_H */
