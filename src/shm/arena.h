/*
 * shm/arena.h
 *	  A size-class allocator over one fixed area.
 *
 * Two-level segregated fit (M. Masmano et al., "TLSF: a New Dynamic Memory
 * Allocator for Real-Time Systems", 2004): allocation and release in constant
 * time, neighbours merged at once.  A request first looks at a few chunks of
 * its own class, then takes the smallest class whose every chunk is large
 * enough; only when there is none does it look through all of its own class,
 * so it fails only if no free chunk is large enough.  Chunks are cut to the
 * unit, so nothing is lost inside them but the rounding to 64 bytes; what lies
 * between them is bounded by merging (measured: docs/shared-memory.md).
 *
 * It owns no global and throws nothing: the caller holds a lock (in the
 * extension the writer lock) and decides what a failure means.  Memory is
 * touched when it is handed out, not before.
 */
#ifndef PGR_SHM_ARENA_H
#define PGR_SHM_ARENA_H

#include "base/bits.h"

/* A place in the arena, in units from its start; 0 is no place. */
typedef uint32 PgrRef;

#define PGR_ARENA_UNIT 64
#define PGR_ARENA_MIN_BYTES (1024 * 1024)
#define PGR_ARENA_MAX_UNITS INT32_MAX /* users have the 32nd bit of a PgrRef */
#define PGR_CHUNK_HEADER 16 /* payload starts here inside its chunk */

/* What a chunk holds, for the books of registry.memory. */
typedef enum PgrMemoryKind
{
	PGR_MEMORY_FREE,
	PGR_MEMORY_ROOT,     /* roots and pages */
	PGR_MEMORY_BLOCK,    /* published and retired blocks */
	PGR_MEMORY_RESERVED, /* blocks, roots, pages of commits under way */
	PGR_MEMORY_PENDING,  /* changes of open transactions */
	PGR_MEMORY_OVERHEAD, /* the arena's own tables */
	PGR_MEMORY_KINDS
} PgrMemoryKind;

#define PGR_ARENA_FL 32
#define PGR_ARENA_SL 16

/*
 * Head of the arena, in its first bytes.
 *
 * Writers and readers: whoever holds the writer lock.  A process that dies
 * inside takes the server down with it (postmaster's crash restart), so no
 * half-done list is ever seen.
 */
typedef struct PgrArena
{
	uint64 units; /* all of it, this head included */
	uint64 kind_units[PGR_MEMORY_KINDS];
	uint64 reserve_units; /* only for callers that give memory back */
	uint32 fl_bitmap;
	uint32 sl_bitmap[PGR_ARENA_FL];
	PgrRef heads[PGR_ARENA_FL][PGR_ARENA_SL];
} PgrArena;

/* "size" bytes at "base" become an arena; base is 64-byte aligned. */
extern void pgr_arena_init(PgrArena *base, Size size);

/*
 * At least "size" bytes, 16-byte aligned and 16 bytes past a 64-byte border;
 * 0 if no free chunk is large enough, with nothing changed.  The last "reserve_units" are handed out only with
 * "last_resort", which is for work that ends in freeing memory (drop, delete).
 */
extern PgrRef pgr_arena_alloc(PgrArena *arena, Size size, PgrMemoryKind kind,
							  bool last_resort);

extern void pgr_arena_free(PgrArena *arena, PgrRef ref);

/* Give back what lies behind the first "size" bytes.  Cannot fail. */
extern void pgr_arena_shrink(PgrArena *arena, PgrRef ref, Size size);

/* Move a chunk's bytes to another line of the books. */
extern void pgr_arena_set_kind(PgrArena *arena, PgrRef ref,
							   PgrMemoryKind kind);

/* Bytes that a chunk takes, header and rounding included. */
extern Size pgr_arena_chunk_bytes(PgrArena *arena, PgrRef ref);

/* Payload bytes of a chunk. */
extern Size pgr_arena_payload_bytes(PgrArena *arena, PgrRef ref);

/*
 * The largest size that an allocation of last resort would get.  Walks one
 * list: for messages only.
 */
extern Size pgr_arena_largest_free(PgrArena *arena);

#ifdef USE_ASSERT_CHECKING
/*
 * Walk all chunks and lists: NULL if every byte is where the books say, else
 * what is wrong.
 */
extern const char *pgr_arena_check(const PgrArena *arena);
#endif

static inline void *
pgr_arena_ptr(const PgrArena *arena, PgrRef ref)
{
	return (char *) arena + (Size) ref * PGR_ARENA_UNIT + PGR_CHUNK_HEADER;
}

/* The place of a payload. */
static inline PgrRef
pgr_arena_ref(const PgrArena *arena, const void *payload)
{
	return (PgrRef) (((const char *) payload - (const char *) arena) /
					 PGR_ARENA_UNIT);
}

#endif /* PGR_SHM_ARENA_H */
