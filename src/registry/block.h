/*
 * registry/block.h
 *	  One version of one registry: a flat hash block.
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
 *
 * A small block never changes once it is published.  A large one, which says
 * so with "patchable", can be changed in place: registry/patch.h has the rules
 * and the argument.  pgr_block_lookup() and pgr_block_next_entry() read both,
 * as of a generation; what works on slots alone is for blocks that do not
 * change.
 */
#ifndef PGR_REGISTRY_BLOCK_H
#define PGR_REGISTRY_BLOCK_H

#include "base/atomics.h"

#include "base/bits.h"
#include "shm/arena.h"

#ifdef __SSE2__
#include <emmintrin.h>
#endif

#define PGR_NAME_LEN 64 /* registry names: 1 to 63 bytes */
#define PGR_ROLE_LEN 64 /* NAMEDATALEN, which not all users of this have */
#define PGR_KEY_MAX_BYTES 1024
#define PGR_GROUP 16 /* tags in a group */

/* Offsets in a block have 31 bits, in units of 8 bytes. */
#define PGR_BLOCK_MAX_ENTRIES (INT64_C(1) << 24)
#define PGR_BLOCK_MAX_BYTES (UINT64_C(1) << 33)
#define PGR_BLOCK_TOO_LARGE (SIZE_MAX / 2)

typedef enum PgrObjectKind
{
	PGR_OBJECT_PLAIN, /* root, page */
	PGR_OBJECT_BLOCK,
	PGR_OBJECT_VERSION /* PgrVersion of patch.h */
} PgrObjectKind;

/*
 * Head of everything that is published by generation: roots, pages, blocks,
 * versions of entries.
 *
 * Written by the writer only, under the writer lock.  Readers never look at
 * it, but for the birth of a version.
 *
 * An object is reachable from the generations in [birth, death).
 */
typedef struct PgrSharedObject
{
	uint64 birth;
	uint64 death; /* 0 = current */
	PgrRef next_retired;
	uint32 kind; /* PgrObjectKind */
} PgrSharedObject;

/*
 * What follows the head in roots, pages and blocks, so that the writer's
 * stores into it do not touch a cache line that readers load.
 */
#define PGR_OBJECT_REST \
	(PGR_ARENA_UNIT - PGR_CHUNK_HEADER - sizeof(PgrSharedObject))

typedef enum PgrBlockKind
{
	PGR_BLOCK_DATABASES, /* (database, extension) -> directory's slot */
	PGR_BLOCK_DIRECTORY, /* registry name -> registry's slot */
	PGR_BLOCK_REGISTRY,
	PGR_BLOCK_RATES
} PgrBlockKind;

/*
 * Does the block hold what there is?  Of a durable registry that is not
 * resident it holds nothing, or the part that loads have come to, and reads go
 * to the table; a directory that is not names only some registries, and the
 * table has the others.
 */
typedef enum PgrResidency
{
	PGR_RESIDENT,
	PGR_FROM_TABLE,
	PGR_LOST,   /* of a memory registry: it was lost with the server */
	PGR_PARTIAL /* loads have come to some of it: see durable/load.h */
} PgrResidency;

/* What a registry is; copied from version to version. */
typedef struct PgrDefinition
{
	Oid database;
	Oid extension;
	Oid owner;        /* a role, while it has the name owner_name */
	uint8 kind;       /* PgrBlockKind */
	uint8 value_type; /* PgrValueType, of registry/value.h */
	uint16 name_len;
	uint64 incarnation; /* generation that created it */
	TimestampTz created_at;
	uint8 on_stale;   /* PgrOnStale, of settings.h */
	bool durable;     /* a table holds its entries, too */
	uint8 residency;  /* PgrResidency */
	int64 max_age_us; /* 0 = none */
	char name[PGR_NAME_LEN];
	char owner_name[PGR_ROLE_LEN];
} PgrDefinition;

static inline bool
pgr_is_read_from_table(const PgrDefinition *definition)
{
	return definition->residency == PGR_FROM_TABLE ||
		definition->residency == PGR_PARTIAL;
}

typedef enum PgrPrivilege
{
	PGR_MAY_READ = 1,
	PGR_MAY_WRITE, /* put, put_many, delete */
	PGR_MAY_ADMIN  /* all that changes, or tells about, the registry itself */
} PgrPrivilege;

/*
 * One grant, in the "extra" part of a registry's block.  It holds for the role
 * "grantee" while that has this name; for everybody if it is 0.
 */
typedef struct PgrGrant
{
	Oid grantee;
	uint32 privilege; /* PgrPrivilege */
	char name[PGR_ROLE_LEN];
} PgrGrant;

/* A value of fixed size, or the float8 twin of a numeric. */
typedef union PgrFixed
{
	double f8;
	int64 i8;
} PgrFixed;

#define PGR_SLOT_MISSING 1 /* rates: the provider stopped sending it */
#define PGR_SLOT_EXPIRES 2 /* its item has an expires_at */
#define PGR_SLOT_DELETED 4 /* in patched blocks: the key is not there */
#define PGR_SLOT_VALUE 8   /* the item has a value_len above 0 */

/*
 * Where an item lies, as one word that is loaded at once: an offset in the
 * block in units of 8 bytes, or, with this bit, the arena's place of a
 * PgrVersion.  0 = nowhere.
 */
#define PGR_PLACE_OUTSIDE UINT32_C(0x80000000)

typedef struct PgrSlot
{
	uint64 key8; /* pgr_key_word() of the key */
	uint16 key_len;
	uint16 flags;
	uint32 place; /* of the PgrItem */
	PgrFixed fixed;
	uint64 version; /* generation since when; 0 = since the block was built */
} PgrSlot;

StaticAssertDecl(sizeof(PgrSlot) == 32, "two slots to a cache line");

/* The parts of an entry that a lookup of a fixed-size value does not need. */
typedef struct PgrItem
{
	TimestampTz updated_at;
	TimestampTz expires_at; /* 0 = never */
	uint32 value_len;       /* bytes at data[0]; 0 for fixed-size types */
	uint32 key_offset;      /* of the key's bytes in data */
	char data[FLEXIBLE_ARRAY_MEMBER];
} PgrItem;

#define PGR_BLOCK_PADDING 6

/* Immutable from the moment a root names it, but for patches. */
typedef struct PgrBlock
{
	PgrSharedObject object;
	/* writer only: the rest of the first cache line, as of now */
	int64 entries;
	uint64 live_bytes; /* of the items of all entries */
	uint32 taken;      /* slots that hold, or held, an entry */
	uint32 outside;    /* slots whose newest version is a PgrVersion */
	/* first cache line of readers */
	uint64 seed;
	uint32 group_mask;
	uint32 slots_offset;
	uint32 extra_offset;
	uint32 extra_len;
	uint32 items_offset;
	uint32 expiring; /* entries that can expire; may overcount */
	int64 built_entries;
	TimestampTz built_at; /* last change when it was built */
	PgrRef self;          /* its own place; 0 in private memory */
	PgrRef last_ref;      /* no version lies behind this place */
	bool patchable;
	/* the rest */
	uint64 size; /* bytes of this block that are used */
	PgrDefinition definition;
	PgrSlot state;            /* of a patched block: fixed.i8 = entries, item's
							  * updated_at = last change; place 0 = as built */
	pg_atomic_uint64 unlinks; /* see patch.h */
	uint64 outside_bytes;     /* writer: chunks of the newest versions */
	TimestampTz changed_now;  /* last change of all */
	/* writer, in a directory: of all registries of its database */
	uint64 database_bytes;
	uint64 database_reserved; /* what commits under way may add */
	uint64 database_hollow;   /* how many of them are not in memory */
	/* as of which generation all are, PGR_NEWEST if they are not: readers' */
	pg_atomic_uint64 whole_since;
	uint64 padding[PGR_BLOCK_PADDING];
} PgrBlock;

StaticAssertDecl(offsetof(PgrBlock, seed) + PGR_CHUNK_HEADER == PGR_ARENA_UNIT,
				 "readers begin at a cache line");
StaticAssertDecl((sizeof(PgrBlock) + PGR_CHUNK_HEADER) % PGR_ARENA_UNIT == 0,
				 "tags start at a cache line");

/* An entry as of one generation; the pointers hold while that is pinned. */
typedef struct PgrEntry
{
	const PgrItem *item;
	const char *key;
	uint32 key_len;
	uint16 flags;
	PgrFixed fixed;
	TimestampTz expires_at; /* 0 = never */
} PgrEntry;

/* For blocks that cannot change meanwhile, and under the writer lock. */
#define PGR_NEWEST UINT64_MAX

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
	uint64 generation;   /* as of which */
	const PgrDefinition *definition;
	uint64 seed;
	bool patchable;
	int64 room;               /* for so many more entries, by patches */
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

/* The entries of a generation, likewise; false at the end. */
extern bool pgr_block_next_entry(const PgrBlock *block, uint64 generation,
								 uint64 *position, PgrEntry *entry);

/*
 * Entries that are there, expired ones included, and the last change.  That is
 * the newest one if the registry has no max_age: nothing depends on it then.
 */
extern int64 pgr_block_entries(const PgrBlock *block, uint64 generation);
extern TimestampTz pgr_block_changed_at(const PgrBlock *block,
										uint64 generation);

/* Entries that have not expired by "now"; O(1) if none can expire. */
extern int64 pgr_block_count(const PgrBlock *block, uint64 generation,
							 TimestampTz now);

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

/*
 * The slot of its group that a new key takes if it is free, so that a reader
 * can ask for it before it has the tags: in a group that is half full four of
 * five keys are at home.
 */
#define pgr_hash_home(hash) ((uint32) ((hash) >> 8) % PGR_GROUP)

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

/* Which slot of a group a new key takes; -1: the group is full. */
static inline int
pgr_group_vacancy(const uint8 *tags, uint64 hash)
{
	uint32 empty = pgr_group_match(tags, PGR_TAG_EMPTY);
	uint32 home = pgr_hash_home(hash);

	if (empty == 0)
		return -1;
	if (empty & (UINT32_C(1) << home))
		return (int) home;
	if (empty & (UINT32_C(1) << (home ^ 1))) /* in the same cache line */
		return (int) (home ^ 1);
	return pgr_bits_low(empty);
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

/* The item of a slot that no patch has changed. */
static inline const PgrItem *
pgr_block_item(const PgrBlock *block, const PgrSlot *slot)
{
	return (const PgrItem *) ((const char *) block + (Size) slot->place * 8);
}

static inline const char *
pgr_block_key(const PgrBlock *block, const PgrSlot *slot)
{
	const PgrItem *item = pgr_block_item(block, slot);

	return item->data + item->key_offset;
}

#ifdef PGR_TESTING
/* What this process has done so far, so that tests need not measure time. */
extern uint64 pgr_block_groups_searched;
extern uint64 pgr_block_entries_copied;
#define pgr_block_count_one(counter) ((void) (counter)++)
#else
#define pgr_block_count_one(counter) ((void) 0)
#endif

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

		pgr_block_count_one(pgr_block_groups_searched);
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

/* What a place names, if it is somewhere. */
extern const PgrItem *pgr_block_item_at(const PgrBlock *block, uint32 place);

/* The way back: what the slot held at an older generation (L4 to L7). */
extern bool pgr_block_read_older(const PgrBlock *block, const PgrSlot *slot,
								 uint64 generation, PgrEntry *entry);

/*
 * What a slot holds as of a generation; false if nothing.  The labels are
 * those of patch.h.
 */
static inline bool
pgr_block_read_slot(const PgrBlock *block, const PgrSlot *slot,
					uint64 generation, PgrEntry *entry)
{
	uint32 place = slot->place; /* L1 */

	entry->flags = slot->flags;
	entry->fixed = slot->fixed;
	if (block->patchable)
	{
		pg_read_barrier();                        /* L2, pairs with V3 */
		if (unlikely(slot->version > generation)) /* L3 */
			return pgr_block_read_older(block, slot, generation, entry);
		if (unlikely((entry->flags & PGR_SLOT_DELETED) || place == 0))
			return false;
	}
	if (unlikely(place & PGR_PLACE_OUTSIDE))
		entry->item = pgr_block_item_at(block, place);
	else
		entry->item = (const PgrItem *) ((const char *) block +
										 (Size) place * 8);
	return true;
}

/* The state of the whole, false if it is as the block was built. */
static inline bool
pgr_block_read_state(const PgrBlock *block, uint64 generation, PgrEntry *entry)
{
	return block->patchable &&
		pgr_block_read_slot(block, &block->state, generation, entry);
}

/* The rest of an entry, once its item is known. */
static inline void
pgr_entry_complete(PgrEntry *entry, uint32 key_len)
{
	entry->key_len = key_len;
	entry->key = entry->item->data + entry->item->key_offset;
	entry->expires_at = entry->item->expires_at;
}

/* The entry of a key as of a generation, whose word and hash are known. */
static inline bool
pgr_block_lookup_hashed(const PgrBlock *block, uint64 generation,
						const char *key, uint32 len, uint64 word, uint64 hash,
						PgrEntry *entry)
{
	uint32 group = pgr_hash_group(hash) & block->group_mask;

	for (;;)
	{
		const uint8 *tags = pgr_block_tags(block) + (Size) group * PGR_GROUP;
		const PgrSlot *slots = pgr_block_slots(block) +
			(Size) group * PGR_GROUP;
		uint32 match;

		__builtin_prefetch(slots + pgr_hash_home(hash));
		match = pgr_group_match(tags, pgr_hash_tag(hash));
		pgr_block_count_one(pgr_block_groups_searched);
		for (; match != 0; match &= match - 1)
		{
			const PgrSlot *slot = slots + pgr_bits_low(match);

			if (unlikely(slot->key8 != word || slot->key_len != len) ||
				!pgr_block_read_slot(block, slot, generation, entry))
				continue;
			entry->expires_at = 0;
			if (len > 8 || (entry->flags & PGR_SLOT_EXPIRES))
			{
				pgr_entry_complete(entry, len);
				if (len > 8 && memcmp(entry->key, key, len) != 0)
					continue;
			}
			return true;
		}
		if (likely(pgr_group_match(tags, PGR_TAG_EMPTY) != 0))
			return false;
		group = (group + 1) & block->group_mask;
	}
}

/*
 * The same, hashing.  Without looking at the item of a short key that cannot
 * expire, so the entry's key is not filled in.
 */
static inline bool
pgr_block_lookup(const PgrBlock *block, uint64 generation, const char *key,
				 uint32 len, PgrEntry *entry)
{
	uint64 word = pgr_key_word(key, len);

	return pgr_block_lookup_hashed(block, generation, key, len, word,
								   pgr_key_hash(key, len, word, block->seed),
								   entry);
}

/* ------------------------------------------------------------------------
 * Many lookups at once
 *
 * A lookup in a large block waits for memory three times: for the tags, the
 * slot, the item.  Whoever has several keys asks for each of these for all
 * keys before it waits for the first.  Hints only: any order is right.
 * ------------------------------------------------------------------------
 */

/* The tags of a key's group, and the slot where it most likely is. */
static inline void
pgr_block_prefetch_home(const PgrBlock *block, uint64 hash)
{
	Size first = (Size) (pgr_hash_group(hash) & block->group_mask) * PGR_GROUP;

	__builtin_prefetch(pgr_block_tags(block) + first);
	__builtin_prefetch(pgr_block_slots(block) + first + pgr_hash_home(hash));
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
			__builtin_prefetch(pgr_block_item_at(block, slot->place));
	}
}

#endif /* PGR_REGISTRY_BLOCK_H */
