/*
 * registry/patch.c
 *	  See patch.h for the rules; the labels are those of its argument.
 */
#ifndef PGR_STANDALONE
#include "postgres.h"
#endif

#include "registry/patch.h"

/*
 * Below this a rebuild is quick, and reading a block that is patched without
 * pause costs far more than reading one that is replaced: docs/decisions/0006.
 */
#define PATCHABLE_FROM 2048

/* A change by patch costs about as much as rebuilding so many entries. */
#define ENTRIES_PER_PATCH 8

/* As many keys' lines as a core asks for at a time. */
#define MOST_PREFETCHED 8

/* A walk looks after so many steps whether it is still in its chain. */
#define STEPS_BETWEEN_LOOKS 256

bool
pgr_patch_pays(int64 entries)
{
	return entries >= PATCHABLE_FROM;
}

bool
pgr_patch_is_cheaper(const PgrBlock *block, int nchanges)
{
	return (int64) nchanges * ENTRIES_PER_PATCH <=
		pgr_block_entries(block, PGR_NEWEST);
}

/* Three quarters: beyond that groups overflow into their neighbours. */
int64
pgr_patch_room(const PgrBlock *block)
{
	int64 slots = ((int64) block->group_mask + 1) * PGR_GROUP;

	return slots / 4 * 3 - (int64) block->taken;
}

/* ------------------------------------------------------------------------
 * Readers
 * ------------------------------------------------------------------------
 */

static const PgrVersion *
version_at_place(const PgrBlock *block, uint32 place)
{
	return pgr_block_version(block, place & ~PGR_PLACE_OUTSIDE);
}

const PgrItem *
pgr_block_item_at(const PgrBlock *block, uint32 place)
{
	if (place & PGR_PLACE_OUTSIDE)
		return &version_at_place(block, place)->item;
	return (const PgrItem *) ((const char *) block + (Size) place * 8);
}

typedef struct Step
{
	uint32 place; /* of what was found; 0 = the key is not there */
	uint16 flags;
	PgrFixed fixed;
} Step;

static uint64
unlinks_of(const PgrBlock *block)
{
	return pg_atomic_read_u64((pg_atomic_uint64 *) &block->unlinks);
}

/*
 * L5: walk from a version to the one that "generation" sees.  False if
 * something was freed since "unlinks" were counted, and the walk was led
 * astray by it: out of the arena, or round and round.
 */
static bool
walk(const PgrBlock *block, uint32 place, uint64 generation, uint64 unlinks,
	 Step *found)
{
	PgrRef ref = place & ~PGR_PLACE_OUTSIDE;

	for (uint32 steps = 1;; steps++)
	{
		const volatile PgrVersion *version = pgr_block_version(block, ref);

		if (version->object.birth <= generation)
		{
			found->place = ref | PGR_PLACE_OUTSIDE;
			found->flags = version->flags;
			found->fixed.i8 = version->fixed.i8;
			return true;
		}
		found->place = version->base_place;
		found->flags = version->base_flags;
		found->fixed.i8 = version->base_fixed.i8;
		ref = version->older;
		if (ref == 0)
			return true;
		if (ref > block->last_ref)
			return false;
		if (steps % STEPS_BETWEEN_LOOKS == 0 && unlinks_of(block) != unlinks)
			return false;
	}
}

bool
pgr_block_read_older(const PgrBlock *block, const PgrSlot *slot,
					 uint64 generation, PgrEntry *entry)
{
	const volatile PgrSlot *now = slot;
	Step found;

	for (;;)
	{
		uint64 before = unlinks_of(block); /* L4 */
		bool good = true;

		pg_read_barrier();              /* pairs with U2 */
		found.fixed.i8 = now->fixed.i8; /* L5 */
		found.flags = now->flags;
		pg_read_barrier(); /* pairs with the barrier in V4 */
		found.place = now->place;
		if (found.place & PGR_PLACE_OUTSIDE)
			good = walk(block, found.place, generation, before, &found);
		pg_read_barrier(); /* L6, pairs with U2 */
		if (good && unlinks_of(block) == before)
			break;
	}
	if (found.place == 0 || (found.flags & PGR_SLOT_DELETED))
		return false;
	entry->flags = found.flags;
	entry->fixed = found.fixed;
	entry->item = pgr_block_item_at(block, found.place); /* L7 */
	return true;
}

/* ------------------------------------------------------------------------
 * The writer
 * ------------------------------------------------------------------------
 */

Size
pgr_patch_version_bytes(const PgrChange *change)
{
	Size bytes = offsetof(PgrVersion, item);

	if (change == NULL)
		return bytes + pgr_block_item_bytes(0, 0);
	return bytes +
		pgr_block_item_bytes(change->key_len,
							 change->remove ? 0 : change->value_len);
}

/* The slot that belongs to the key, whatever it holds. */
static PgrSlot *
slot_of_key(const PgrBlock *block, const char *key, uint32 len, uint64 word,
			uint64 hash)
{
	uint32 group = pgr_hash_group(hash) & block->group_mask;

	for (;;)
	{
		const uint8 *tags = pgr_block_tags(block) + (Size) group * PGR_GROUP;
		uint32 match = pgr_group_match(tags, pgr_hash_tag(hash));

		for (; match != 0; match &= match - 1)
		{
			const PgrSlot *slot = pgr_block_slots(block) +
				(Size) group * PGR_GROUP + pgr_bits_low(match);
			const PgrItem *item = pgr_block_item_at(block, slot->place);

			if (slot->key8 == word && slot->key_len == len &&
				(len <= 8 ||
				 memcmp(item->data + item->key_offset, key, len) == 0))
				return (PgrSlot *) slot;
		}
		if (pgr_group_match(tags, PGR_TAG_EMPTY) != 0)
			return NULL;
		group = (group + 1) & block->group_mask;
	}
}

/* A slot for a new key; its tag is not set yet. */
static PgrSlot *
slot_for_new_key(PgrBlock *block, uint64 hash)
{
	uint32 group = pgr_hash_group(hash) & block->group_mask;

	for (;;)
	{
		const uint8 *tags = pgr_block_tags(block) + (Size) group * PGR_GROUP;
		int i = pgr_group_vacancy(tags, hash);

		if (i >= 0)
			return (PgrSlot *) pgr_block_slots(block) +
				(Size) group * PGR_GROUP + i;
		group = (group + 1) & block->group_mask;
	}
}

/* V1, but for the item */
static void
version_start(PgrVersion *version, const PgrBlock *block, const PgrSlot *slot,
			  uint64 generation)
{
	memset(version, 0, sizeof(*version));
	version->object.birth = generation;
	version->object.kind = PGR_OBJECT_VERSION;
	version->block = block->self;
	version->slot = slot == &block->state ?
		PGR_STATE_SLOT :
		(uint32) (slot - pgr_block_slots(block));
	if (slot->place & PGR_PLACE_OUTSIDE)
	{
		const PgrVersion *older = version_at_place(block, slot->place);

		version->older = slot->place & ~PGR_PLACE_OUTSIDE;
		version->base_place = older->base_place;
		version->base_fixed = older->base_fixed;
		version->base_flags = older->base_flags;
		version->links = older->links + 1;
	}
	else
	{
		version->base_place = slot->place;
		version->base_fixed = slot->fixed;
		version->base_flags = slot->flags;
	}
}

static void
version_fill(PgrVersion *version, const PgrChange *change)
{
	uint32 value_len = change->remove ? 0 : change->value_len;
	PgrItem *item = &version->item;

	version->fixed = change->fixed;
	version->flags = change->remove ? PGR_SLOT_DELETED : change->flags;
	version->flags &= ~(PGR_SLOT_EXPIRES | PGR_SLOT_VALUE);
	if (change->expires_at != 0 && !change->remove)
		version->flags |= PGR_SLOT_EXPIRES;
	if (value_len > 0)
		version->flags |= PGR_SLOT_VALUE;
	item->updated_at = change->updated_at;
	item->expires_at = change->remove ? 0 : change->expires_at;
	item->value_len = value_len;
	item->key_offset = (uint32) MAXALIGN(value_len);
	if (value_len > 0)
		memcpy(item->data, change->value, value_len);
	memcpy(item->data + item->key_offset, change->key, change->key_len);
}

/* V2 to V4; returns the version that is superseded, 0 if none */
static PgrRef
slot_set(PgrBlock *block, volatile PgrSlot *slot, const PgrVersion *version,
		 PgrRef ref)
{
	uint32 replaced = slot->place;

	pg_write_barrier(); /* the version is complete before V4 names it */
	slot->version = version->object.birth; /* V2 */
	pg_write_barrier();                    /* V3, pairs with L2 */
	slot->place = ref | PGR_PLACE_OUTSIDE; /* V4 */
	pg_write_barrier();                    /* pairs with the one in L5 */
	slot->fixed.i8 = version->fixed.i8;
	slot->flags = version->flags;
	if (replaced & PGR_PLACE_OUTSIDE)
		return replaced & ~PGR_PLACE_OUTSIDE;
	block->outside++;
	return 0;
}

static Size
live_item_bytes(const PgrBlock *block, const PgrSlot *slot)
{
	if (slot->place == 0 || (slot->flags & PGR_SLOT_DELETED))
		return 0;
	if (!(slot->flags & PGR_SLOT_VALUE))
		return pgr_block_item_bytes(slot->key_len, 0);
	return pgr_block_item_bytes(slot->key_len,
								pgr_block_item_at(block, slot->place)
									->value_len);
}

bool
pgr_patch_apply(PgrBlock *block, uint64 generation, const PgrChange *change,
				PgrRef ref, PgrRef *replaced)
{
	uint64 word = pgr_key_word(change->key, change->key_len);
	uint64 hash = pgr_key_hash(change->key, change->key_len, word,
							   block->seed);
	PgrSlot *slot = slot_of_key(block, change->key, change->key_len, word,
								hash);
	PgrVersion *version = pgr_block_version(block, ref);
	bool new_key = slot == NULL;

	*replaced = 0;
	if (change->remove && (new_key || live_item_bytes(block, slot) == 0))
		return false;
	if (new_key)
		slot = slot_for_new_key(block, hash);
	else
		block->live_bytes -= live_item_bytes(block, slot);
	block->entries += !change->remove - (live_item_bytes(block, slot) != 0);
	version_start(version, block, slot, generation);
	version_fill(version, change);
	if (new_key)
	{
		slot->version = generation; /* V2 also for what follows */
		pg_write_barrier();
		slot->key8 = word;
		slot->key_len = (uint16) change->key_len;
	}
	*replaced = slot_set(block, slot, version, ref);
	block->live_bytes += live_item_bytes(block, slot);
	/* never back to 0: older generations read it, too */
	if ((version->flags & PGR_SLOT_EXPIRES) && block->expiring < UINT32_MAX)
		block->expiring++;
	if (new_key)
	{
		pg_write_barrier(); /* V5 */
		((volatile uint8 *) pgr_block_tags(
			block))[slot - pgr_block_slots(block)] = pgr_hash_tag(hash);
		block->taken++;
	}
	return true;
}

void
pgr_patch_finish(PgrBlock *block, uint64 generation, TimestampTz now,
				 PgrRef ref, PgrRef *replaced)
{
	PgrVersion *version = pgr_block_version(block, ref);

	version_start(version, block, &block->state, generation);
	version->fixed.i8 = block->entries;
	version->item.updated_at = now;
	*replaced = slot_set(block, &block->state, version, ref);
}

void
pgr_patch_prefetch(const PgrBlock *block, const PgrChange *changes,
				   int nchanges)
{
	for (int i = 0; i < Min(nchanges, MOST_PREFETCHED); i++)
	{
		const PgrChange *change = &changes[i];
		uint64 word = pgr_key_word(change->key, change->key_len);

		pgr_block_prefetch_home(block,
								pgr_key_hash(change->key, change->key_len,
											 word, block->seed));
	}
}

/*
 * The version that will be superseded, far away in memory most likely, and
 * what lies before and behind it, which the arena looks at when it frees it:
 * as a rule those are versions of the same size.
 */
static void
prefetch_version(const PgrEntry *entry)
{
	const char *version = (const char *) entry->item -
		offsetof(PgrVersion, item);

	__builtin_prefetch(version, 1);
	__builtin_prefetch(version + PGR_ARENA_UNIT, 1);
	__builtin_prefetch(version + (Size) 2 * PGR_ARENA_UNIT, 1);
	__builtin_prefetch(version - (Size) 2 * PGR_ARENA_UNIT, 1);
}

bool
pgr_patch_changes_state(const PgrBlock *block, const PgrChange *changes,
						int nchanges)
{
	if (block->definition.max_age_us != 0 || block->expiring != 0)
		return true;
	for (int i = 0; i < nchanges; i++)
	{
		PgrEntry entry;

		if (changes[i].remove ||
			!pgr_block_lookup(block, PGR_NEWEST, changes[i].key,
							  changes[i].key_len, &entry))
			return true;
		prefetch_version(&entry);
	}
	return false;
}

/* ------------------------------------------------------------------------
 * The end of versions
 * ------------------------------------------------------------------------
 */

static PgrSlot *
slot_at(PgrBlock *block, uint32 slot)
{
	return slot == PGR_STATE_SLOT ? &block->state :
									(PgrSlot *) pgr_block_slots(block) + slot;
}

void
pgr_patch_prune(PgrBlock *block, uint32 slot,
				bool (*unneeded)(const PgrSharedObject *object,
								 const void *arg),
				const void *arg)
{
	PgrVersion *newer = pgr_block_version(block,
										  slot_at(block, slot)->place &
											  ~PGR_PLACE_OUTSIDE);

	newer->links = 0;
	while (newer->older != 0)
	{
		PgrVersion *version = pgr_block_version(block, newer->older);

		if (!unneeded(&version->object, arg))
		{
			newer = version;
			continue;
		}
		*(volatile PgrRef *) &newer->older = version->older; /* U1 */
		version->links = PGR_VERSION_UNLINKED;
		pg_write_barrier(); /* U2, pairs with L4 */
		pg_atomic_write_u64(&block->unlinks,
							pg_atomic_read_u64(&block->unlinks) + 1);
	}
}

PgrRef
pgr_patch_next_newest(const PgrBlock *block, uint64 *position)
{
	uint32 state = block->state.place;
	const PgrSlot *slot;

	if (block->outside == 0)
		return 0;
	while ((slot = pgr_block_next(block, position)) != NULL)
		if (slot->place & PGR_PLACE_OUTSIDE)
			return slot->place & ~PGR_PLACE_OUTSIDE;
	if (*position == UINT64_MAX || !(state & PGR_PLACE_OUTSIDE))
		return 0;
	*position = UINT64_MAX;
	return state & ~PGR_PLACE_OUTSIDE;
}
