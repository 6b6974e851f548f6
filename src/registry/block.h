/*
 * registry/block.h
 *	  One version of one registry: a flat hash block, immutable once published.
 *
 * A block is one piece of memory:
 *
 *		head | tags | slots | extra | items
 *
 * The index is made of groups of 16 one-byte tags.  A key's hash names one
 * group and one tag; all 16 tags are compared at once and the slot behind the
 * matching tag holds the key's first eight bytes, so a lookup of a short key
 * touches one line of tags and one slot, whatever else collides.  (Linear
 * probing mispredicts its loop, which costs more than any barrier.)  Groups
 * are at most half full, so overflow into the next group is rare.
 *
 * Offsets are relative to the block, so a block can live in the arena or in a
 * backend's own memory.  No global, nothing throws.
 */
#ifndef PGR_REGISTRY_BLOCK_H
#define PGR_REGISTRY_BLOCK_H

#include "base/bits.h"
#include "shm/arena.h"

#ifdef __SSE2__
#include <emmintrin.h>
#endif

#define PGR_NAME_LEN 64 /* registry names: 1 to 63 bytes */
#define PGR_KEY_MAX_BYTES 1024
#define PGR_GROUP 16 /* tags in a group */

/* Offsets in a block are 32 bits wide; a larger one fits no arena. */
#define PGR_BLOCK_MAX_ENTRIES (INT64_C(1) << 24)
#define PGR_BLOCK_MAX_BYTES (UINT64_C(1) << 34)
#define PGR_BLOCK_TOO_LARGE (SIZE_MAX / 2)

/*
 * Head of everything that is published by generation: roots, pages, blocks.
 *
 * Written by the writer only, under the writer lock; readers never look at it.
 * It fills the rest of the chunk's first cache line, so that the writer's
 * stores into it do not touch a line that readers load.
 *
 * An object is reachable from the generations in [birth, death).
 */
typedef struct PgrSharedObject
{
	uint64 birth;
	uint64 death; /* 0 = current */
	PgrRef next_retired;
	uint32 spare;
	uint64 padding[3];
} PgrSharedObject;

StaticAssertDecl(sizeof(PgrSharedObject) + PGR_CHUNK_HEADER == PGR_ARENA_UNIT,
				 "an object's head fills its first cache line");

typedef enum PgrBlockKind
{
	PGR_BLOCK_DATABASES, /* (database, extension) -> directory's slot */
	PGR_BLOCK_DIRECTORY, /* registry name -> registry's slot */
	PGR_BLOCK_REGISTRY,
	PGR_BLOCK_RATES
} PgrBlockKind;

/* What a registry is; copied from version to version. */
typedef struct PgrDefinition
{
	Oid database;
	Oid extension;
	Oid owner;        /* 0: readable by everybody */
	uint8 kind;       /* PgrBlockKind */
	uint8 value_type; /* PgrValueType, of registry/value.h */
	uint16 name_len;
	uint64 incarnation; /* generation that created it */
	TimestampTz created_at;
	uint8 on_stale;   /* PgrOnStale, of settings.h */
	int64 max_age_us; /* 0 = none */
	char name[PGR_NAME_LEN];
} PgrDefinition;

/* A value of fixed size, or the float8 twin of a numeric. */
typedef union PgrFixed
{
	double f8;
	int64 i8;
} PgrFixed;

#define PGR_SLOT_MISSING 1 /* rates: the provider stopped sending it */

typedef struct PgrSlot
{
	uint64 key8; /* pgr_key_word() of the key */
	uint16 key_len;
	uint16 flags;
	uint32 item; /* offset of the PgrItem, in 8-byte units */
	PgrFixed fixed;
	TimestampTz expires_at; /* 0 = never */
} PgrSlot;

StaticAssertDecl(sizeof(PgrSlot) == 32, "two slots to a cache line");

/* The parts of an entry that a lookup of a fixed-size value does not need. */
typedef struct PgrItem
{
	TimestampTz updated_at;
	uint32 value_len;  /* bytes at data[0]; 0 for fixed-size types */
	uint32 key_offset; /* of the key's bytes in data */
	char data[FLEXIBLE_ARRAY_MEMBER];
} PgrItem;

/* Immutable from the moment a root names it. */
typedef struct PgrBlock
{
	PgrSharedObject object;
	/* first cache line of readers */
	uint64 seed;
	uint32 group_mask;
	uint32 slots_offset;
	uint32 extra_offset;
	uint32 extra_len;
	uint32 items_offset;
	uint32 expiring; /* entries with expires_at; may overcount */
	int64 entries;
	uint64 live_bytes; /* of the items that slots name */
	TimestampTz changed_at;
	/* the rest */
	uint64 size; /* bytes of this block that are used */
	PgrDefinition definition;
	char padding[16];
} PgrBlock;

StaticAssertDecl((sizeof(PgrBlock) + PGR_CHUNK_HEADER) % PGR_ARENA_UNIT == 0,
				 "tags start at a cache line");

/* One change to a block, in the caller's memory. */
typedef struct PgrChange
{
	const char *key;
	uint32 key_len;
	bool remove;
	uint16 flags;
	uint32 value_len;
	const void *value; /* variable-size part, MAXALIGNed */
	PgrFixed fixed;
	TimestampTz updated_at;
	TimestampTz expires_at;
} PgrChange;

typedef struct PgrBlockBuild
{
	const PgrBlock *old; /* NULL: start empty */
	const PgrDefinition *definition;
	uint64 seed;
	const PgrChange *changes; /* no key twice */
	int nchanges;
	bool mark_missing; /* entries of "old" that no change names */
	bool fresh;        /* no entry of "old" stays */
	const void *extra; /* NULL: old's */
	uint32 extra_len;
	uint32 extra_prefix; /* start empty unless this much of it stays */
	TimestampTz now;     /* entries that expired before are left out */
} PgrBlockBuild;

/* Bytes that an entry's item takes. */
extern Size pgr_block_item_bytes(uint32 key_len, uint32 value_len);

/*
 * Bytes of a block of this many entries and item bytes; monotonic in all.
 * PGR_BLOCK_TOO_LARGE if there is no such block.
 */
extern Size pgr_block_bytes(int64 entries, uint64 item_bytes,
							uint32 extra_len);

/* Upper bound of the bytes that pgr_block_build will need. */
extern Size pgr_block_build_bytes(const PgrBlockBuild *build);

/*
 * Build a version at "memory", which holds pgr_block_build_bytes() bytes and
 * lies 16 bytes behind a 64-byte border.  Cannot fail.  Leaves object.birth
 * and object.death 0.
 */
extern void pgr_block_build(PgrBlock *memory, const PgrBlockBuild *request);

/*
 * The slots in use, in no promised order: start with *position = 0, NULL at
 * the end.
 */
extern const PgrSlot *pgr_block_next(const PgrBlock *block, uint64 *position);

/* Entries that have not expired by "now"; O(1) if none can expire. */
extern int64 pgr_block_count(const PgrBlock *block, TimestampTz now);

/* ------------------------------------------------------------------------
 * Lookup
 * ------------------------------------------------------------------------
 */

static inline uint64
pgr_load64(const void *p)
{
	uint64 v;

	memcpy(&v, p, sizeof(v));
	return v;
}

static inline uint32
pgr_load32(const void *p)
{
	uint32 v;

	memcpy(&v, p, sizeof(v));
	return v;
}

/*
 * The first bytes of a key as one word: together with the length it tells any
 * two keys of up to eight bytes apart.  Never reads past the key.
 */
static inline uint64
pgr_key_word(const char *key, uint32 len)
{
	const unsigned char *k = (const unsigned char *) key;

	if (len >= 8)
		return pgr_load64(k);
	if (len >= 4)
		return pgr_load32(k) | (uint64) pgr_load32(k + len - 4) << 32;
	if (len == 0)
		return 0;
	return k[0] | (uint64) k[len >> 1] << 8 | (uint64) k[len - 1] << 16;
}

/* Multiply to 128 bits and fold, the mixing step of the "mum" hash family. */
static inline uint64
pgr_mix(uint64 a, uint64 b)
{
	unsigned __int128 product = (unsigned __int128) a * b;

	return (uint64) product ^ (uint64) (product >> 64);
}

static inline uint64
pgr_key_hash(const char *key, uint32 len, uint64 word, uint64 seed)
{
	uint64 h = seed ^ len;

	if (unlikely(len > 8))
	{
		uint32 i = 8;

		for (; i + 8 < len; i += 8)
			h = pgr_mix(h ^ pgr_load64(key + i), UINT64_C(0x9E3779B97F4A7C15));
		h = pgr_mix(h ^ pgr_load64(key + len - 8),
					UINT64_C(0x9E3779B97F4A7C15));
	}
	return pgr_mix(word ^ UINT64_C(0xA0761D6478BD642F),
				   h ^ UINT64_C(0xE7037ED1A0B428DB));
}

#define PGR_TAG_EMPTY 0
#define PGR_TAG_REMOVED 1
#define pgr_hash_tag(hash) ((uint8) ((hash) | 0x80))
#define pgr_hash_group(hash) ((uint32) ((hash) >> 32))

/* Bit i is set where tags[i] == tag. */
static inline uint32
pgr_group_match(const uint8 *tags, uint8 tag)
{
#ifdef __SSE2__
	__m128i group = _mm_load_si128((const __m128i *) tags);

	return (uint32) _mm_movemask_epi8(
		_mm_cmpeq_epi8(group, _mm_set1_epi8((char) tag)));
#else
	uint32 bits = 0;

	for (int i = 0; i < PGR_GROUP; i++)
		bits |= (uint32) (tags[i] == tag) << i;
	return bits;
#endif
}

static inline const uint8 *
pgr_block_tags(const PgrBlock *block)
{
	return (const uint8 *) block + sizeof(PgrBlock);
}

static inline const PgrSlot *
pgr_block_slots(const PgrBlock *block)
{
	return (const PgrSlot *) ((const char *) block + block->slots_offset);
}

static inline const PgrItem *
pgr_block_item(const PgrBlock *block, const PgrSlot *slot)
{
	return (const PgrItem *) ((const char *) block + (Size) slot->item * 8);
}

static inline const char *
pgr_block_key(const PgrBlock *block, const PgrSlot *slot)
{
	const PgrItem *item = pgr_block_item(block, slot);

	return item->data + item->key_offset;
}

/*
 * The slot of a key whose word and hash are known, NULL if there is none.
 * Inlined by force: a call would cost a fifth of a whole read.
 */
static inline __attribute__((always_inline)) const PgrSlot *
pgr_block_find_hashed(const PgrBlock *block, const char *key, uint32 len,
					  uint64 word, uint64 hash)
{
	uint32 group = pgr_hash_group(hash) & block->group_mask;

	for (;;)
	{
		const uint8 *tags = pgr_block_tags(block) + (Size) group * PGR_GROUP;
		const PgrSlot *slots = pgr_block_slots(block) +
			(Size) group * PGR_GROUP;
		uint32 match = pgr_group_match(tags, pgr_hash_tag(hash));

		while (match != 0)
		{
			const PgrSlot *slot = slots + pgr_bits_low(match);

			if (likely(slot->key8 == word && slot->key_len == len) &&
				(len <= 8 ||
				 memcmp(pgr_block_key(block, slot), key, len) == 0))
				return slot;
			match &= match - 1;
		}
		if (likely(pgr_group_match(tags, PGR_TAG_EMPTY) != 0))
			return NULL;
		group = (group + 1) & block->group_mask;
	}
}

static inline const PgrSlot *
pgr_block_find(const PgrBlock *block, const char *key, uint32 len)
{
	uint64 word = pgr_key_word(key, len);

	return pgr_block_find_hashed(block, key, len, word,
								 pgr_key_hash(key, len, word, block->seed));
}

/* ------------------------------------------------------------------------
 * Many lookups at once
 *
 * A lookup in a large block waits for memory three times: for the tags, the
 * slot, the item.  Whoever has several keys asks for each of these for all
 * keys before it waits for the first.  Hints only: any order is right.
 * ------------------------------------------------------------------------
 */

static inline void
pgr_block_prefetch_tags(const PgrBlock *block, uint64 hash)
{
	uint32 group = pgr_hash_group(hash) & block->group_mask;

	__builtin_prefetch(pgr_block_tags(block) + (Size) group * PGR_GROUP);
}

/* Reads the tags. */
static inline void
pgr_block_prefetch_slot(const PgrBlock *block, uint64 hash)
{
	uint32 group = pgr_hash_group(hash) & block->group_mask;
	const uint8 *tags = pgr_block_tags(block) + (Size) group * PGR_GROUP;
	uint32 match = pgr_group_match(tags, pgr_hash_tag(hash));

	for (; match != 0; match &= match - 1)
		__builtin_prefetch(pgr_block_slots(block) + (Size) group * PGR_GROUP +
						   pgr_bits_low(match));
}

/* Reads the slot, if it is in the key's own group. */
static inline void
pgr_block_prefetch_item(const PgrBlock *block, uint64 word, uint64 hash)
{
	uint32 group = pgr_hash_group(hash) & block->group_mask;
	const uint8 *tags = pgr_block_tags(block) + (Size) group * PGR_GROUP;
	uint32 match = pgr_group_match(tags, pgr_hash_tag(hash));

	for (; match != 0; match &= match - 1)
	{
		const PgrSlot *slot = pgr_block_slots(block) +
			(Size) group * PGR_GROUP + pgr_bits_low(match);

		if (slot->key8 == word)
			__builtin_prefetch(pgr_block_item(block, slot));
	}
}

#endif /* PGR_REGISTRY_BLOCK_H */
