/*
 * registry/patch.h
 *	  Changing a large block in place, under readers of older generations.
 *
 * Rebuilding a block of a million entries for one change takes a fifth of a
 * second.  A patch takes a slot, makes it hold the newest version, and links
 * what it held before behind that.  The publish then only advances the
 * generation: root, page and block stay.
 *
 * A slot holds the newest version and its generation.  Each version that did
 * not come with the block is a PgrVersion, a chunk of the arena of its own,
 * linked to the next older one.  A slot belongs to one key as long as its
 * block lives; a deletion is a version, too.  Only a rebuild drops keys and
 * makes room for new ones.
 *
 * ARGUMENT (R-1, R-2, R-4; P, C and R labels are those of image.h)
 *
 * Patch, under the writer lock, for generation n = generation + 1:
 *		V1	fill a version N: birth = n, older = the slot's place
 *		V2	slot.version = n
 *		V3	write barrier
 *		V4	slot.place = N; write barrier; slot.fixed, slot.flags = N's
 *		V5	for a new key: write barrier; tag = the key's
 * P2 and P3 publish n; what was superseded gets death = n and is retired.
 * Reclaim, after C2:
 *		U1	for a retired version with no pin in [birth, death): the older of
 *			its newer neighbour = its own older
 *		U2	write barrier; block.unlinks++; write barrier
 *		U3	free it
 * Read of a slot at generation g, which the reader has pinned:
 *		L1	place, flags, fixed = the slot's
 *		L2	read barrier
 *		L3	if slot.version <= g: this is it
 *		L4	u = block.unlinks; read barrier
 *		L5	fixed, flags = the slot's; read barrier; place = the slot's;
 *			walk from there by older to a version with birth <= g, or else to
 *			what the block was built with
 *		L6	read barrier; if block.unlinks != u: go to L4
 *		L7	follow the pointers of what was found
 *
 * The fast way.  What L1 read is not newer than what L3 read: a store of V4
 * that L1 saw makes the V2 before it visible at L3.  Nor is it older: every
 * store for a generation <= g came before P3 of g, which the pin has read.  So
 * version <= g at L3 means that place, flags and fixed belong together and are
 * what g sees, and the version at that place is not freed, since g lies in its
 * [birth, death).
 *
 * The way back.  L3 read a generation n > g.  If L5 finds the slot at a
 * PgrVersion, the chain from there has every version that a pin needs, in
 * order: U1 takes out only what no pin needs.  Those that the walk passes may
 * be taken out and freed, and overwritten, under its feet; so it believes
 * nothing until L6 has shown that between L4 and L6 nothing of this block was
 * freed, checks that every place lies in the arena, and looks at "unlinks" now
 * and then, lest it goes round in circles.  What it found then is a version that g needs: it stays (L7).  If
 * L5 finds the slot at what the block was built with, V4 has not come that far
 * and fixed and flags, which L5 read before the place, are still those of the
 * block: nobody waits for a writer that was stopped between V2 and V4.
 *
 * A walk starts over only if the writer has freed something meanwhile, which
 * it does once in many publishes; a reader can be delayed by a writer that
 * works, never by one that stands still.
 *
 * A reader that sees the tag of V5 but not yet the slot finds a slot of zeroes,
 * which is no key's: slots of a patchable block are cleared when it is built.
 *
 * tests/model has this as a Promela model with each barrier as a mutation,
 * tests/stress/image_stress.c breaks it in practice.
 */
#ifndef PGR_REGISTRY_PATCH_H
#define PGR_REGISTRY_PATCH_H

#include "registry/block.h"

/*
 * One version of one entry, or of the state of the whole block.
 *
 * Writer: under the writer lock.  Readers: by L5, from birth to item; the
 * lines marked W are the writer's alone.  Immutable once linked, but for
 * "older" and W.  Lifetime: [birth, death) as all that is published; the
 * newest ones of a block that is replaced end with it.
 */
typedef struct PgrVersion
{
	PgrSharedObject object; /* all but birth: W */
	PgrRef block;           /* W */
	uint32 slot;            /* W; PGR_STATE_SLOT = the state */
	PgrRef older;           /* 0: what the block was built with */
	uint32 base_place;      /* that: 0 = the key was not there */
	PgrFixed base_fixed;
	PgrFixed fixed;
	uint16 base_flags;
	uint16 flags;
	uint32 links; /* W; made since the chain was pruned, or UNLINKED */
	PgrItem item;
} PgrVersion;

#define PGR_STATE_SLOT UINT32_MAX
#define PGR_VERSION_UNLINKED UINT32_MAX

static inline PgrVersion *
pgr_block_version(const PgrBlock *block, PgrRef ref)
{
	return (PgrVersion *) ((char *) block +
						   ((int64) ref - (int64) block->self) *
							   PGR_ARENA_UNIT);
}

/* Are there so many entries that a block should be patchable? */
extern bool pgr_patch_pays(int64 entries);

/* Is patching so many of them cheaper than building the block anew? */
extern bool pgr_patch_is_cheaper(const PgrBlock *block, int nchanges);

/* New keys that the block has room for. */
extern int64 pgr_patch_room(const PgrBlock *block);

/* Bytes of the version that a change needs; of the state's, without one. */
extern Size pgr_patch_version_bytes(const PgrChange *change);

/*
 * Make one change for generation "generation", which is not yet published,
 * in the version at "ref", which holds pgr_patch_version_bytes().  Returns
 * false, and leaves the version unused, if there is nothing to change: a
 * deletion of a key that is not there.  *replaced is the version that this one
 * supersedes, to be retired with the publish; 0 = none.  Cannot fail: the
 * caller has seen to it that there is room.
 */
extern bool pgr_patch_apply(PgrBlock *block, uint64 generation,
							const PgrChange *change, PgrRef ref,
							PgrRef *replaced);

/*
 * Ask for the lines that the first of these changes will need, long before
 * they do: more than half of what a patch costs is waiting for them.
 */
extern void pgr_patch_prefetch(const PgrBlock *block, const PgrChange *changes,
							   int nchanges);

/*
 * Does the state of the whole change with these changes?  Not if every key is
 * there before and after and nothing depends on the time of the last change.
 * While the caller holds what keeps others from changing these keys, and
 * nothing in the block can expire, the answer stays the same.
 */
extern bool pgr_patch_changes_state(const PgrBlock *block,
									const PgrChange *changes, int nchanges);

/* The new state of the whole, after the changes: always the last one. */
extern void pgr_patch_finish(PgrBlock *block, uint64 generation,
							 TimestampTz now, PgrRef ref, PgrRef *replaced);

/*
 * Unlink the versions of a slot's chain that "unneeded" says no pin needs; the
 * newest is always kept.  U1 and U2, but for the last barrier of U2.
 */
extern void pgr_patch_prune(PgrBlock *block, uint32 slot,
							bool (*unneeded)(const PgrSharedObject *object,
											 const void *arg),
							const void *arg);

/* The newest version of each slot, for the end of its block: *position = 0
 * at first, 0 at the end. */
extern PgrRef pgr_patch_next_newest(const PgrBlock *block, uint64 *position);

#endif /* PGR_REGISTRY_PATCH_H */
