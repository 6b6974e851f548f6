/*
 * registry/block.c
 *	  Building and walking blocks; see block.h for the layout.
 *
 * Everything is sized before it is written: a build into memory of
 * pgr_block_build_bytes() cannot fail, which is what lets it run inside a
 * commit.
 */
#ifndef PGR_STANDALONE
#include "postgres.h"
#endif

#include "registry/block.h"

#ifdef PGR_TESTING
uint64 pgr_block_groups_searched = 0;
uint64 pgr_block_entries_copied = 0;
#endif

/* Blocks start 16 bytes behind a cache line; so do offsets that meet one. */
#define LINE_OFFSET(n) \
	(TYPEALIGN(PGR_ARENA_UNIT, (n) + PGR_CHUNK_HEADER) - PGR_CHUNK_HEADER)

typedef struct Layout
{
	uint32 groups;
	uint64 slots_offset;
	uint64 extra_offset;
	uint64 items_offset;
	uint64 size;
} Layout;

Size
pgr_block_item_bytes(uint32 key_len, uint32 value_len)
{
	return MAXALIGN(offsetof(PgrItem, data) + MAXALIGN(value_len) + key_len);
}

static void
layout_for(Layout *layout, int64 entries, uint64 item_bytes, uint32 extra_len)
{
	uint32 groups = 1;

	while ((int64) groups * (PGR_GROUP / 2) < entries)
		groups *= 2;
	layout->groups = groups;
	layout->slots_offset = LINE_OFFSET(sizeof(PgrBlock) +
									   (uint64) groups * PGR_GROUP);
	layout->extra_offset = layout->slots_offset +
		(uint64) groups * PGR_GROUP * sizeof(PgrSlot);
	layout->items_offset = layout->extra_offset + MAXALIGN(extra_len);
	layout->size = layout->items_offset + item_bytes;
}

Size
pgr_block_bytes(int64 entries, uint64 item_bytes, uint32 extra_len)
{
	Layout layout;

	if (entries > PGR_BLOCK_MAX_ENTRIES || item_bytes > PGR_BLOCK_MAX_BYTES)
		return PGR_BLOCK_TOO_LARGE;
	layout_for(&layout, entries, item_bytes, extra_len);
	return layout.size;
}

/* Item bytes of all entries; the sum in the block is of the newest state. */
static uint64
live_bytes_at(const PgrBlock *block, uint64 generation)
{
	uint64 bytes = 0;
	uint64 position = 0;
	PgrEntry entry;

	if (!block->patchable || generation == PGR_NEWEST)
		return block->live_bytes;
	while (pgr_block_next_entry(block, generation, &position, &entry))
		bytes += pgr_block_item_bytes(entry.key_len, entry.item->value_len);
	return bytes;
}

/* Item bytes of an entry that is there, 0 if the key is not. */
static Size
replaced_bytes(const PgrBlockBuild *build, const PgrChange *change)
{
	PgrEntry entry;

	if (build->old == NULL ||
		!pgr_block_lookup(build->old, build->generation, change->key,
						  change->key_len, &entry))
		return 0;
	return pgr_block_item_bytes(change->key_len, entry.item->value_len);
}

/*
 * What the new block holds at most: all old entries and the new keys, all old
 * items but those that are replaced.  Entries that go are counted; for a
 * moment the new block has them too.
 */
static void
build_bounds(const PgrBlockBuild *build, int64 *entries, uint64 *bytes,
			 uint32 *extra_len)
{
	const PgrBlock *old = build->old;

	*entries = old ? pgr_block_entries(old, build->generation) : 0;
	*bytes = old ? live_bytes_at(old, build->generation) : 0;
	*extra_len = build->extra ? build->extra_len : (old ? old->extra_len : 0);
	for (int i = 0; i < build->nchanges; i++)
	{
		const PgrChange *change = &build->changes[i];
		Size replaced;

		if (change->remove)
			continue;
		replaced = replaced_bytes(build, change);
		*entries += replaced == 0;
		*bytes += pgr_block_item_bytes(change->key_len, change->value_len) -
			replaced;
	}
}

/* What is really built on: nothing, if the old entries do not apply. */
static PgrBlockBuild
settle(const PgrBlockBuild *build)
{
	PgrBlockBuild settled = *build;
	const PgrBlock *old = build->old;

	if (build->fresh)
	{
		if (build->extra == NULL && old != NULL)
		{
			settled.extra = (const char *) old + old->extra_offset;
			settled.extra_len = old->extra_len;
		}
		settled.old = NULL;
	}
	else if (old != NULL && build->extra_prefix > 0 &&
			 (old->extra_len < build->extra_prefix ||
			  memcmp((const char *) old + old->extra_offset, build->extra,
					 build->extra_prefix) != 0))
		settled.old = NULL;
	return settled;
}

Size
pgr_block_build_bytes(const PgrBlockBuild *build)
{
	PgrBlockBuild settled = settle(build);
	int64 entries;
	uint64 bytes;
	uint32 extra_len;

	build_bounds(&settled, &entries, &bytes, &extra_len);
	return pgr_block_bytes(entries + settled.room, bytes, extra_len);
}

/* A free slot for a key that is not in the block. */
static PgrSlot *
slot_claim(PgrBlock *block, uint64 hash)
{
	uint32 group = pgr_hash_group(hash) & block->group_mask;

	for (;;)
	{
		uint8 *tags = (uint8 *) pgr_block_tags(block) +
			(Size) group * PGR_GROUP;
		int i = pgr_group_vacancy(tags, hash);

		if (i >= 0)
		{
			tags[i] = pgr_hash_tag(hash);
			return (PgrSlot *) pgr_block_slots(block) +
				(Size) group * PGR_GROUP + i;
		}
		group = (group + 1) & block->group_mask;
	}
}

/* Write an item at *end and advance it. */
static PgrItem *
item_write(PgrBlock *block, PgrSlot *slot, uint64 *end, const char *key,
		   uint32 key_len, const void *value, uint32 value_len)
{
	PgrItem *item = (PgrItem *) ((char *) block + *end);
	Size bytes = pgr_block_item_bytes(key_len, value_len);

	slot->place = (uint32) (*end / 8);
	item->value_len = value_len;
	item->key_offset = (uint32) MAXALIGN(value_len);
	if (value_len > 0)
		memcpy(item->data, value, value_len);
	memcpy(item->data + item->key_offset, key, key_len);
	*end += bytes;
	block->live_bytes += bytes;
	return item;
}

/* The flags that follow from the item. */
static void
set_item_flags(PgrBlock *block, PgrSlot *slot, PgrItem *item,
			   TimestampTz expires_at)
{
	item->expires_at = expires_at;
	slot->flags &= ~(PGR_SLOT_EXPIRES | PGR_SLOT_VALUE);
	if (item->value_len > 0)
		slot->flags |= PGR_SLOT_VALUE;
	if (expires_at == 0)
		return;
	slot->flags |= PGR_SLOT_EXPIRES;
	block->expiring++;
}

/*
 * A change goes in before the old entries do, so that these need not make
 * room for it.  A removal is an entry too until the old ones are in.
 */
static void
insert_change(PgrBlock *block, const PgrBlockBuild *build,
			  const PgrChange *change, uint64 *end)
{
	uint64 word = pgr_key_word(change->key, change->key_len);
	uint64 hash = pgr_key_hash(change->key, change->key_len, word,
							   block->seed);
	PgrSlot *slot;
	PgrItem *item;

	if (change->remove && replaced_bytes(build, change) == 0)
		return;
	slot = slot_claim(block, hash);
	slot->key8 = word;
	slot->key_len = (uint16) change->key_len;
	slot->flags = change->flags;
	slot->fixed = change->fixed;
	slot->version = 0;
	item = item_write(block, slot, end, change->key, change->key_len,
					  change->value, change->remove ? 0 : change->value_len);
	item->updated_at = change->updated_at;
	set_item_flags(block, slot, item, change->expires_at);
	block->built_entries++;
}

static void
copy_entry(PgrBlock *block, const PgrBlockBuild *build, const PgrEntry *from,
		   uint64 *end)
{
	uint64 word = pgr_key_word(from->key, from->key_len);
	uint64 hash = pgr_key_hash(from->key, from->key_len, word, block->seed);
	PgrSlot *slot;
	PgrItem *item;

	if (build->nchanges > 0 &&
		pgr_block_find_hashed(block, from->key, from->key_len, word, hash))
		return;
	slot = slot_claim(block, hash);
	slot->key8 = word;
	slot->key_len = (uint16) from->key_len;
	slot->flags = from->flags;
	slot->fixed = from->fixed;
	slot->version = 0;
	if (build->mark_missing)
		slot->flags |= PGR_SLOT_MISSING;
	item = item_write(block, slot, end, from->key, from->key_len,
					  from->item->data, from->item->value_len);
	item->updated_at = from->item->updated_at;
	set_item_flags(block, slot, item, from->expires_at);
	block->built_entries++;
}

/* The old entries that no change has replaced and that have not expired. */
static void
copy_old(PgrBlock *block, const PgrBlockBuild *build, uint64 *end)
{
	uint64 position = 0;
	PgrEntry entry;

	while (
		pgr_block_next_entry(build->old, build->generation, &position, &entry))
	{
		pgr_block_count_one(pgr_block_entries_copied);
		if (entry.expires_at == 0 || entry.expires_at > build->now)
			copy_entry(block, build, &entry, end);
	}
}

static void
remove_key(PgrBlock *block, const char *key, uint32 len)
{
	const PgrSlot *slot = pgr_block_find(block, key, len);

	if (slot == NULL)
		return;
	block->live_bytes -=
		pgr_block_item_bytes(slot->key_len,
							 pgr_block_item(block, slot)->value_len);
	((uint8 *) pgr_block_tags(block))[slot - pgr_block_slots(block)] =
		PGR_TAG_REMOVED;
	block->built_entries--;
}

static void
start_block(PgrBlock *memory, const PgrBlockBuild *build, const Layout *layout)
{
	memset(memory, 0, sizeof(PgrBlock) + (Size) layout->groups * PGR_GROUP);
	/* a reader may see the tag of an insert before its slot: patch.h, V5 */
	if (build->patchable)
		memset((char *) memory + layout->slots_offset, 0,
			   (Size) layout->groups * PGR_GROUP * sizeof(PgrSlot));
	pg_atomic_init_u64(&memory->unlinks, 0);
	memory->object.kind = PGR_OBJECT_BLOCK;
	memory->patchable = build->patchable;
	memory->seed = build->seed;
	memory->group_mask = layout->groups - 1;
	memory->slots_offset = (uint32) layout->slots_offset;
	memory->extra_offset = (uint32) layout->extra_offset;
	memory->items_offset = (uint32) layout->items_offset;
	memory->built_at = memory->changed_now = build->now;
	memory->definition = *build->definition;
}

/* ------------------------------------------------------------------------
 * Copying
 *
 * New values for keys that are there, each as long as the old one: then the
 * new version is the old one but for these, and copying it whole takes half of
 * the time that building it takes.
 * ------------------------------------------------------------------------
 */

static bool
fits_in_place(const PgrBlock *old, const PgrChange *change)
{
	const PgrSlot *slot;

	if (change->remove || change->expires_at != 0)
		return false;
	slot = pgr_block_find(old, change->key, change->key_len);
	return slot != NULL &&
		pgr_block_item(old, slot)->value_len == change->value_len;
}

/* Into a place of "size" bytes. */
static bool
can_copy(const PgrBlockBuild *build, uint64 size)
{
	const PgrBlock *old = build->old;

	if (old == NULL || old->patchable || build->patchable ||
		build->mark_missing || build->extra != NULL || old->expiring != 0 ||
		old->seed != build->seed || old->size > size)
		return false;
	for (int i = 0; i < build->nchanges; i++)
		if (!fits_in_place(old, &build->changes[i]))
			return false;
	return true;
}

static void
change_in_place(PgrBlock *block, const PgrChange *change)
{
	PgrSlot *slot = (PgrSlot *) pgr_block_find(block, change->key,
											   change->key_len);
	PgrItem *item = (PgrItem *) pgr_block_item(block, slot);

	slot->fixed = change->fixed;
	slot->flags = change->flags | (slot->flags & PGR_SLOT_VALUE);
	item->updated_at = change->updated_at;
	if (change->value_len > 0)
		memcpy(item->data, change->value, change->value_len);
}

static void
copy_block(PgrBlock *memory, const PgrBlockBuild *build)
{
	const PgrBlock *old = build->old;

	memcpy(memory, old, old->size);
	memset(&memory->object, 0, sizeof(memory->object));
	memory->object.kind = PGR_OBJECT_BLOCK;
	memory->definition = *build->definition;
	memory->built_at = memory->changed_now = build->now;
	memory->self = 0;
	memory->database_bytes = memory->database_reserved = 0;
	memory->database_hollow = 0;
	pg_atomic_init_u64(&memory->whole_since, 0);
	for (int i = 0; i < build->nchanges; i++)
		change_in_place(memory, &build->changes[i]);
}

void
pgr_block_build(PgrBlock *memory, const PgrBlockBuild *request)
{
	PgrBlockBuild settled = settle(request);
	const PgrBlockBuild *build = &settled;
	Layout layout;
	int64 entries;
	uint64 bytes;
	uint32 extra_len;
	uint64 end;

	build_bounds(build, &entries, &bytes, &extra_len);
	layout_for(&layout, entries + build->room, bytes, extra_len);
	if (can_copy(build, layout.size))
	{
		copy_block(memory, build);
		return;
	}
	start_block(memory, build, &layout);
	memory->extra_len = extra_len;

	if (build->extra)
		memcpy((char *) memory + layout.extra_offset, build->extra, extra_len);
	else if (build->old)
		memcpy((char *) memory + layout.extra_offset,
			   (const char *) build->old + build->old->extra_offset,
			   extra_len);

	end = layout.items_offset;
	for (int i = 0; i < build->nchanges; i++)
		insert_change(memory, build, &build->changes[i], &end);
	if (build->old)
		copy_old(memory, build, &end);
	memory->taken = (uint32) memory->built_entries;
	for (int i = 0; i < build->nchanges; i++)
		if (build->changes[i].remove)
			remove_key(memory, build->changes[i].key,
					   build->changes[i].key_len);
	Assert(end <= layout.size);
	memory->size = end;
	memory->entries = memory->built_entries;
}

/* ------------------------------------------------------------------------
 * Reading
 * ------------------------------------------------------------------------
 */

const PgrSlot *
pgr_block_next(const PgrBlock *block, uint64 *position)
{
	const uint8 *tags = pgr_block_tags(block);
	uint64 slots = ((uint64) block->group_mask + 1) * PGR_GROUP;

	while (*position < slots)
	{
		uint64 i = (*position)++;

		if (tags[i] & 0x80)
			return pgr_block_slots(block) + i;
	}
	return NULL;
}

bool
pgr_block_next_entry(const PgrBlock *block, uint64 generation,
					 uint64 *position, PgrEntry *entry)
{
	const PgrSlot *slot;

	while ((slot = pgr_block_next(block, position)) != NULL)
	{
		uint32 key_len = slot->key_len;

		if (!pgr_block_read_slot(block, slot, generation, entry))
			continue;
		pgr_entry_complete(entry, key_len);
		return true;
	}
	return false;
}

int64
pgr_block_entries(const PgrBlock *block, uint64 generation)
{
	PgrEntry state;

	if (generation == PGR_NEWEST)
		return block->entries;
	return pgr_block_read_state(block, generation, &state) ?
		state.fixed.i8 :
		block->built_entries;
}

TimestampTz
pgr_block_changed_at(const PgrBlock *block, uint64 generation)
{
	PgrEntry state;

	if (block->patchable && block->definition.max_age_us == 0)
		return block->changed_now;
	return pgr_block_read_state(block, generation, &state) ?
		state.item->updated_at :
		block->built_at;
}

int64
pgr_block_count(const PgrBlock *block, uint64 generation, TimestampTz now)
{
	int64 n = 0;
	uint64 position = 0;
	PgrEntry entry;

	if (block->expiring == 0)
		return pgr_block_entries(block, generation);
	while (pgr_block_next_entry(block, generation, &position, &entry))
		n += entry.expires_at == 0 || entry.expires_at > now;
	return n;
}
