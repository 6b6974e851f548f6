/*
 * shm/arena.c
 *	  See arena.h.
 *
 * The arena is a row of chunks without gaps, each with a 16-byte header that
 * holds its own size and its left neighbour's, so both neighbours of a freed
 * chunk are found by arithmetic.  The last unit is a sentinel that is never
 * free, so a chunk always has a right neighbour.
 */
#ifndef PGR_STANDALONE
#include "postgres.h"
#endif

#include "shm/arena.h"

typedef struct Chunk
{
	uint32 units;
	uint32 left_units; /* of the chunk to the left; 0 = none */
	uint32 kind;       /* PgrMemoryKind */
	uint32 magic;
	/* while free only: */
	PgrRef next;
	PgrRef prev;
} Chunk;

#define CHUNK_MAGIC 0x70677261
#define CLOBBER 0x7F

/* So many chunks of a request's own class are tried first. */
#define FIRST_LOOK 8

StaticAssertDecl(offsetof(Chunk, next) == PGR_CHUNK_HEADER,
				 "payload starts behind the header");

static inline Chunk *
chunk_at(const PgrArena *arena, PgrRef ref)
{
	return (Chunk *) ((char *) arena + (Size) ref * PGR_ARENA_UNIT);
}

static inline uint64
units_for(Size size)
{
	return ((uint64) size + PGR_CHUNK_HEADER + PGR_ARENA_UNIT - 1) /
		PGR_ARENA_UNIT;
}

/* The class that a chunk of this size is kept in. */
static void
class_of(uint64 units, int *fl, int *sl)
{
	if (units < PGR_ARENA_SL)
	{
		*fl = 0;
		*sl = (int) units;
	}
	else
	{
		int high = pgr_bits_high(units);

		*fl = high - 3;
		*sl = (int) (units >> (high - 4)) - PGR_ARENA_SL;
	}
}

/* The smallest class whose every chunk is large enough. */
static void
class_for(uint64 units, int *fl, int *sl)
{
	if (units >= PGR_ARENA_SL)
		units += (UINT64_C(1) << (pgr_bits_high(units) - 4)) - 1;
	class_of(units, fl, sl);
}

static void
list_insert(PgrArena *arena, PgrRef ref)
{
	Chunk *chunk = chunk_at(arena, ref);
	int fl;
	int sl;

	class_of(chunk->units, &fl, &sl);
	chunk->kind = PGR_MEMORY_FREE;
	chunk->prev = 0;
	chunk->next = arena->heads[fl][sl];
	if (chunk->next)
		chunk_at(arena, chunk->next)->prev = ref;
	arena->heads[fl][sl] = ref;
	arena->fl_bitmap |= UINT32_C(1) << fl;
	arena->sl_bitmap[fl] |= UINT32_C(1) << sl;
}

static void
list_remove(PgrArena *arena, PgrRef ref)
{
	Chunk *chunk = chunk_at(arena, ref);
	int fl;
	int sl;

	class_of(chunk->units, &fl, &sl);
	if (chunk->next)
		chunk_at(arena, chunk->next)->prev = chunk->prev;
	if (chunk->prev)
		chunk_at(arena, chunk->prev)->next = chunk->next;
	else
	{
		Assert(arena->heads[fl][sl] == ref);
		arena->heads[fl][sl] = chunk->next;
		if (chunk->next == 0)
		{
			arena->sl_bitmap[fl] &= ~(UINT32_C(1) << sl);
			if (arena->sl_bitmap[fl] == 0)
				arena->fl_bitmap &= ~(UINT32_C(1) << fl);
		}
	}
}

/* A large enough chunk among the first "limit" of a list, 0 if none. */
static PgrRef
list_search(const PgrArena *arena, int fl, int sl, uint64 units, uint32 limit)
{
	PgrRef ref = arena->heads[fl][sl];

	for (uint32 i = 0; i < limit && ref != 0; i++)
	{
		if (chunk_at(arena, ref)->units >= units)
			return ref;
		ref = chunk_at(arena, ref)->next;
	}
	return 0;
}

/* First chunk of the smallest class that surely fits, 0 if none. */
static PgrRef
list_first(const PgrArena *arena, uint64 units)
{
	int fl;
	int sl;
	uint32 map;

	class_for(units, &fl, &sl);
	if (fl >= PGR_ARENA_FL)
		return 0;
	map = arena->sl_bitmap[fl] & (~UINT32_C(0) << sl);
	if (map == 0)
	{
		map = fl + 1 < PGR_ARENA_FL ?
			arena->fl_bitmap & (~UINT32_C(0) << (fl + 1)) :
			0;
		if (map == 0)
			return 0;
		fl = pgr_bits_low(map);
		map = arena->sl_bitmap[fl];
	}
	return arena->heads[fl][pgr_bits_low(map)];
}

/*
 * A free chunk of at least "units".  The first look lets a block take the hole
 * that one of the same size has left, instead of cutting a larger chunk; the
 * last one is long only when there is nothing larger in the whole arena.
 */
static PgrRef
list_find(const PgrArena *arena, uint64 units)
{
	int fl;
	int sl;
	PgrRef ref;

	class_of(units, &fl, &sl);
	ref = list_search(arena, fl, sl, units, FIRST_LOOK);
	if (ref == 0)
		ref = list_first(arena, units);
	if (ref == 0)
		ref = list_search(arena, fl, sl, units, UINT32_MAX);
	return ref;
}

static void
chunk_write(PgrArena *arena, PgrRef ref, uint64 units, uint32 left_units)
{
	Chunk *chunk = chunk_at(arena, ref);

	chunk->units = (uint32) units;
	chunk->left_units = left_units;
	chunk->magic = CHUNK_MAGIC;
	chunk_at(arena, ref + (uint32) units)->left_units = (uint32) units;
}

/*
 * Whoever still reads what was freed must not find it there (assert builds).
 * A header goes too, so that its chunk cannot be freed twice.
 */
static inline void
clobber(PgrArena *arena, PgrRef ref, uint64 units)
{
#ifdef USE_ASSERT_CHECKING
	memset(chunk_at(arena, ref), CLOBBER, units * PGR_ARENA_UNIT);
#endif
}

/* The same for the header and links of a free chunk that is merged away. */
static inline void
clobber_head(PgrArena *arena, PgrRef ref)
{
#ifdef USE_ASSERT_CHECKING
	memset(chunk_at(arena, ref), CLOBBER, sizeof(Chunk));
#endif
}

/*
 * Cut a chunk that is in no list to "units"; the rest is merged with a free
 * right neighbour and listed.
 */
static void
chunk_cut(PgrArena *arena, PgrRef ref, uint64 units)
{
	Chunk *chunk = chunk_at(arena, ref);
	uint64 rest = chunk->units - units;
	PgrRef right = ref + chunk->units;

	if (rest == 0)
		return;
	if (chunk_at(arena, right)->kind == PGR_MEMORY_FREE)
	{
		list_remove(arena, right);
		rest += chunk_at(arena, right)->units;
		clobber_head(arena, right);
	}
	chunk->units = (uint32) units;
	chunk_write(arena, ref + (uint32) units, rest, (uint32) units);
	list_insert(arena, ref + (uint32) units);
}

void
pgr_arena_init(PgrArena *base, Size size)
{
	uint64 units = size / PGR_ARENA_UNIT;
	uint64 head = (sizeof(PgrArena) + PGR_ARENA_UNIT - 1) / PGR_ARENA_UNIT;
	uint64 body;
	Chunk *sentinel;

	Assert(((uintptr_t) base & (PGR_ARENA_UNIT - 1)) == 0);
	Assert(size >= PGR_ARENA_MIN_BYTES);
	if (units > PGR_ARENA_MAX_UNITS)
		units = PGR_ARENA_MAX_UNITS;
	memset(base, 0, sizeof(*base));
	base->units = units;
	body = units - head - 1;
	base->kind_units[PGR_MEMORY_OVERHEAD] = head + 1;
	base->kind_units[PGR_MEMORY_FREE] = body;
	base->reserve_units = units / 64;

	sentinel = chunk_at(base, (PgrRef) (head + body));
	sentinel->units = 1;
	sentinel->kind = PGR_MEMORY_OVERHEAD;
	sentinel->magic = CHUNK_MAGIC;
	chunk_write(base, (PgrRef) head, body, 0);
	list_insert(base, (PgrRef) head);
}

PgrRef
pgr_arena_alloc(PgrArena *arena, Size size, PgrMemoryKind kind,
				bool last_resort)
{
	uint64 units = units_for(size);
	PgrRef ref;
	Chunk *chunk;

	if (size >= (Size) arena->units * PGR_ARENA_UNIT)
		return 0;
	if (!last_resort &&
		arena->kind_units[PGR_MEMORY_FREE] < units + arena->reserve_units)
		return 0;
	ref = list_find(arena, units);
	if (ref == 0)
		return 0;
	chunk = chunk_at(arena, ref);
	Assert(chunk->magic == CHUNK_MAGIC && chunk->kind == PGR_MEMORY_FREE);
	list_remove(arena, ref);
	chunk->kind = kind;
	chunk_cut(arena, ref, units);
	arena->kind_units[PGR_MEMORY_FREE] -= units;
	arena->kind_units[kind] += units;
	return ref;
}

void
pgr_arena_free(PgrArena *arena, PgrRef ref)
{
	Chunk *chunk = chunk_at(arena, ref);
	uint64 units = chunk->units;
	uint32 left_units = chunk->left_units;
	PgrRef right = ref + chunk->units;

	Assert(chunk->magic == CHUNK_MAGIC && chunk->kind != PGR_MEMORY_FREE);
	arena->kind_units[chunk->kind] -= units;
	arena->kind_units[PGR_MEMORY_FREE] += units;
	clobber(arena, ref, units);
	if (chunk_at(arena, right)->kind == PGR_MEMORY_FREE)
	{
		list_remove(arena, right);
		units += chunk_at(arena, right)->units;
		clobber_head(arena, right);
	}
	if (left_units != 0 &&
		chunk_at(arena, ref - left_units)->kind == PGR_MEMORY_FREE)
	{
		ref -= left_units;
		list_remove(arena, ref);
		units += left_units;
		left_units = chunk_at(arena, ref)->left_units;
	}
	chunk_write(arena, ref, units, left_units);
	list_insert(arena, ref);
}

void
pgr_arena_shrink(PgrArena *arena, PgrRef ref, Size size)
{
	Chunk *chunk = chunk_at(arena, ref);
	uint64 units = units_for(size);
	uint64 rest;

	Assert(chunk->magic == CHUNK_MAGIC && chunk->kind != PGR_MEMORY_FREE);
	Assert(units <= chunk->units);
	rest = chunk->units - units;
	arena->kind_units[chunk->kind] -= rest;
	arena->kind_units[PGR_MEMORY_FREE] += rest;
	clobber(arena, ref + (uint32) units, rest);
	chunk_cut(arena, ref, units);
}

void
pgr_arena_set_kind(PgrArena *arena, PgrRef ref, PgrMemoryKind kind)
{
	Chunk *chunk = chunk_at(arena, ref);

	Assert(chunk->magic == CHUNK_MAGIC && chunk->kind != PGR_MEMORY_FREE);
	Assert(kind != PGR_MEMORY_FREE);
	arena->kind_units[chunk->kind] -= chunk->units;
	arena->kind_units[kind] += chunk->units;
	chunk->kind = kind;
}

Size
pgr_arena_chunk_bytes(PgrArena *arena, PgrRef ref)
{
	return (Size) chunk_at(arena, ref)->units * PGR_ARENA_UNIT;
}

Size
pgr_arena_payload_bytes(PgrArena *arena, PgrRef ref)
{
	return pgr_arena_chunk_bytes(arena, ref) - PGR_CHUNK_HEADER;
}

Size
pgr_arena_largest_free(PgrArena *arena)
{
	Size largest = 0;
	int fl;

	if (arena->fl_bitmap == 0)
		return 0;
	fl = pgr_bits_high(arena->fl_bitmap);
	for (PgrRef ref = arena->heads[fl][pgr_bits_high(arena->sl_bitmap[fl])];
		 ref != 0; ref = chunk_at(arena, ref)->next)
		largest = Max(largest, pgr_arena_payload_bytes(arena, ref));
	return largest;
}

#ifdef USE_ASSERT_CHECKING

/* Free chunks that the lists name, each in the class that it belongs to. */
static const char *
check_lists(const PgrArena *arena, uint64 *listed)
{
	*listed = 0;
	for (int i = 0; i < PGR_ARENA_FL * PGR_ARENA_SL; i++)
	{
		int list_fl = i / PGR_ARENA_SL;
		int list_sl = i % PGR_ARENA_SL;
		PgrRef head = arena->heads[list_fl][list_sl];
		PgrRef prev = 0;

		if ((head != 0) != (arena->sl_bitmap[list_fl] >> list_sl & 1) ||
			(arena->sl_bitmap[list_fl] != 0) !=
				(arena->fl_bitmap >> list_fl & 1))
			return "a bitmap does not tell which lists have chunks";
		for (PgrRef ref = head; ref != 0; ref = chunk_at(arena, ref)->next)
		{
			const Chunk *chunk = chunk_at(arena, ref);
			int fl;
			int sl;

			if (ref >= arena->units || chunk->magic != CHUNK_MAGIC ||
				chunk->kind != PGR_MEMORY_FREE || chunk->prev != prev)
				return "a list names what is no free chunk";
			class_of(chunk->units, &fl, &sl);
			if (fl != list_fl || sl != list_sl)
				return "a free chunk is in a wrong list";
			prev = ref;
			++*listed;
		}
	}
	return NULL;
}

const char *
pgr_arena_check(const PgrArena *arena)
{
	uint64 head = (sizeof(PgrArena) + PGR_ARENA_UNIT - 1) / PGR_ARENA_UNIT;
	uint64 units[PGR_MEMORY_KINDS] = {0};
	uint64 ref = head;
	uint64 free_chunks = 0;
	uint64 listed;
	const char *wrong;
	const Chunk *left = NULL;

	units[PGR_MEMORY_OVERHEAD] = head;
	while (ref < arena->units)
	{
		const Chunk *chunk = chunk_at(arena, (PgrRef) ref);

		if (chunk->magic != CHUNK_MAGIC || chunk->units == 0 ||
			chunk->kind >= PGR_MEMORY_KINDS)
			return "a header is damaged";
		if (chunk->left_units != (left ? left->units : 0))
			return "a chunk does not know its left neighbour";
		if (left && left->kind == PGR_MEMORY_FREE &&
			chunk->kind == PGR_MEMORY_FREE)
			return "two free neighbours are not merged";
		units[chunk->kind] += chunk->units;
		free_chunks += chunk->kind == PGR_MEMORY_FREE;
		ref += chunk->units;
		left = chunk;
	}
	if (ref != arena->units)
		return "the chunks do not end where the arena ends";
	if (memcmp(units, arena->kind_units, sizeof(units)) != 0)
		return "the books do not agree with the chunks";
	wrong = check_lists(arena, &listed);
	if (wrong == NULL && listed != free_chunks)
		wrong = "a free chunk is in no list";
	return wrong;
}

#endif /* USE_ASSERT_CHECKING */
