/*
 * arena_stress.c
 *	  If this fails, two registries share memory, memory leaks until the server
 *	  is restarted, or a full arena is damaged instead of refused.
 *
 * One process, as in the extension one holder of the writer lock.  A map of
 * all units tells whom each belongs to, so an overlap is seen when it is made;
 * every chunk is filled with a pattern of its own, which is compared when it
 * is freed.  After each step the books add up, now and then all chunks and
 * lists are walked.
 *
 * The adversaries at the end measure fragmentation: how far into the arena a
 * sequence gets whose live bytes never exceed a limit.  The sequences and the
 * results are in docs/shared-memory.md.
 *
 *		arena_stress [seconds [seed]]	a million cycles, and more of them
 *										until the time is over
 *
 * Seen to fail with each of: no merge with the left neighbour, no merge with
 * the right one, shrink without the books, a split one unit too short, a list
 * whose bitmap is not cleared, no reserve, no clobbering.
 *
 * link: -DPGR_STANDALONE src/shm/arena.c
 */
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <time.h>

#include "shm/arena.h"

#define MB ((Size) 1024 * 1024)
#define ARENA_BYTES (256 * MB)
#define UNITS (ARENA_BYTES / PGR_ARENA_UNIT)
#define CYCLES 1000000
#define CYCLES_BYTES (128 * MB) /* full now and then */
#define NOBODY 0
#define CLOBBERED 0x7F

/* A chunk that the test holds. */
typedef struct Held
{
	PgrRef ref;
	uint32 units;
	Size size; /* payload bytes that were asked for */
	uint32 stamp;
	PgrMemoryKind kind;
} Held;

static PgrArena *arena;
static uint32 *owner; /* of each unit: stamp, or NOBODY */
static uint64 arena_units;
static uint32 last_stamp;
static uint64 live_units;
static uint64 top_unit; /* highest ever used, + 1 */
static uint64 wrong;    /* steps after which something did not add up */
static const char *first_wrong;
static uint64 random_state;
static int tests = 0;
static int failures = 0;

static void
ok(bool good, const char *format, ...)
{
	va_list args;

	printf("%sok %d - ", good ? "" : "not ", ++tests);
	va_start(args, format);
	vprintf(format, args);
	va_end(args);
	printf("\n");
	fflush(stdout);
	failures += !good;
}

static void
note_wrong(const char *what)
{
	wrong++;
	if (first_wrong == NULL)
		first_wrong = what;
}

/* The end of a story: nothing was wrong in it. */
static void
all_good(const char *name)
{
	ok(wrong == 0, "%s", name);
	if (wrong > 0)
		printf("# %llu times, first: %s\n", (unsigned long long) wrong,
			   first_wrong);
	wrong = 0;
	first_wrong = NULL;
}

static void *
map(Size size)
{
	void *at = mmap(NULL, size, PROT_READ | PROT_WRITE,
					MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);

	if (at == MAP_FAILED)
	{
		perror("mmap");
		exit(2);
	}
	return at;
}

static void
new_arena(Size size)
{
	pgr_arena_init(arena, size);
	arena_units = arena->units;
	memset(owner, 0, arena_units * sizeof(uint32));
	live_units = top_unit = 0;
}

static uint64
random_word(void)
{
	random_state ^= random_state << 13;
	random_state ^= random_state >> 7;
	random_state ^= random_state << 17;
	return random_state;
}

static uint64
random_below(uint64 n)
{
	return (random_word() >> 11) % n;
}

/* Each power of two is as likely as the next. */
static Size
random_size(Size least, Size most)
{
	int low = pgr_bits_high(least);
	int high = pgr_bits_high(most);
	Size size = (Size) 1 << (low + random_below(high - low + 1));

	size += random_below(size);
	return size < least ? least : size > most ? most : size;
}

static double
now_s(void)
{
	struct timespec time;

	clock_gettime(CLOCK_MONOTONIC, &time);
	return (double) time.tv_sec + (double) time.tv_nsec / 1e9;
}

/* ------------------------------------------------------------------------
 * Checked calls
 * ------------------------------------------------------------------------
 */

static void
check_books(void)
{
	uint64 sum = 0;

	for (int i = 0; i < PGR_MEMORY_KINDS; i++)
		sum += arena->kind_units[i];
	if (sum != arena_units)
		note_wrong("the books do not add up to the arena");
	if (arena_units - arena->kind_units[PGR_MEMORY_FREE] -
			arena->kind_units[PGR_MEMORY_OVERHEAD] !=
		live_units)
		note_wrong("the books do not show what is in use");
}

static void
check_all(void)
{
	const char *what = pgr_arena_check(arena);

	check_books();
	if (what != NULL)
		note_wrong(what);
}

static uint64
free_chunks(void)
{
	uint64 n = 0;

	for (int i = 0; i < PGR_ARENA_FL * PGR_ARENA_SL; i++)
	{
		PgrRef ref = (&arena->heads[0][0])[i];

		for (; ref != 0; ref = *(PgrRef *) pgr_arena_ptr(arena, ref))
			n++;
	}
	return n;
}

static void
own_units(PgrRef ref, uint64 units, uint32 from, uint32 to)
{
	for (uint64 i = ref; i < ref + units; i++)
	{
		if (i >= arena_units || owner[i] != from)
		{
			note_wrong("two chunks overlap");
			return;
		}
		owner[i] = to;
	}
}

/* A word of the pattern for every 64 bytes; in large chunks for every 4 kB. */
static Size
next_place(Size at)
{
	return at + (at < 65536 ? 64 : 4096);
}

static void
fill(const Held *held)
{
	char *p = pgr_arena_ptr(arena, held->ref);

	for (Size at = 0; at + 8 <= held->size; at = next_place(at))
	{
		uint64 word = held->stamp * UINT64_C(0x9E3779B97F4A7C15) + at;

		memcpy(p + at, &word, sizeof(word));
	}
}

static void
compare(const Held *held)
{
	const char *p = pgr_arena_ptr(arena, held->ref);

	for (Size at = 0; at + 8 <= held->size; at = next_place(at))
	{
		uint64 word = held->stamp * UINT64_C(0x9E3779B97F4A7C15) + at;

		if (memcmp(p + at, &word, sizeof(word)) != 0)
		{
			note_wrong("somebody wrote into a chunk");
			return;
		}
	}
}

static bool
get_as(Held *held, Size size, PgrMemoryKind kind, bool last_resort)
{
	PgrRef ref = pgr_arena_alloc(arena, size, kind, last_resort);

	memset(held, 0, sizeof(*held));
	if (ref != 0)
	{
		held->ref = ref;
		held->size = size;
		held->kind = kind;
		held->stamp = ++last_stamp;
		held->units = pgr_arena_chunk_bytes(arena, ref) / PGR_ARENA_UNIT;
		if (pgr_arena_payload_bytes(arena, ref) < size)
			note_wrong("a chunk is smaller than asked for");
		own_units(ref, held->units, NOBODY, held->stamp);
		live_units += held->units;
		top_unit = Max(top_unit, ref + (uint64) held->units);
		fill(held);
	}
	check_books();
	return ref != 0;
}

static bool
get(Held *held, Size size, PgrMemoryKind kind)
{
	return get_as(held, size, kind, false);
}

static void
put_back(Held *held)
{
	const unsigned char *p = pgr_arena_ptr(arena, held->ref);

	if (held->ref == 0)
		return;
	compare(held);
	own_units(held->ref, held->units, held->stamp, NOBODY);
	live_units -= held->units;
	pgr_arena_free(arena, held->ref);
	/* behind the links of the list that it is in now */
	if (held->size > 16 &&
		(p[8] != CLOBBERED || p[held->size - 1] != CLOBBERED))
		note_wrong("freed memory is not overwritten");
	check_books();
	held->ref = 0;
}

static void
cut(Held *held, Size size)
{
	uint64 units;

	pgr_arena_shrink(arena, held->ref, size);
	units = pgr_arena_chunk_bytes(arena, held->ref) / PGR_ARENA_UNIT;
	if (units > held->units ||
		pgr_arena_payload_bytes(arena, held->ref) < size)
		note_wrong("a chunk is not what was kept of it");
	own_units(held->ref + (PgrRef) units, held->units - units, held->stamp,
			  NOBODY);
	live_units -= held->units - units;
	held->units = (uint32) units;
	held->size = Min(held->size, size);
	check_books();
}

static void
rebook(Held *held, PgrMemoryKind kind)
{
	pgr_arena_set_kind(arena, held->ref, kind);
	held->kind = kind;
	check_books();
}

/* Nothing is in use: the arena is as it was made. */
static void
check_empty(const char *name)
{
	PgrArena *fresh = map(MB);

	check_all();
	if (live_units != 0 || free_chunks() != 1)
		note_wrong("at the end there is not one free chunk");
	pgr_arena_init(fresh, MB);
	if (arena_units == fresh->units && memcmp(arena, fresh, sizeof(*arena)))
		note_wrong("an emptied arena differs from a new one");
	munmap(fresh, MB);
	all_good(name);
}

/* ------------------------------------------------------------------------
 * A million cycles
 * ------------------------------------------------------------------------
 */

#define REGISTRIES 400
#define CHANGES 64

typedef struct Registry
{
	Held block;
	Held old[3]; /* versions that readers keep for a while */
} Registry;

static Registry registries[REGISTRIES];
static Held root, page;
static Held changes[CHANGES];
static uint64 refused;

static Size
block_size(void)
{
	uint64 what = random_below(5000);

	if (what == 0)
		return random_size(MB, 100 * MB);
	if (what < 5)
		return random_size(65536, MB);
	return random_size(1024, 8192);
}

/* A new version of a root or page, and the end of the old one. */
static bool
replace(Held *held, Size size)
{
	Held copy;

	if (!get(&copy, size, PGR_MEMORY_RESERVED))
		return false;
	rebook(&copy, PGR_MEMORY_ROOT);
	put_back(held);
	*held = copy;
	return true;
}

/* As a commit does: reserve by the upper bound, build, cut, publish. */
static void
cycle_put(Registry *registry)
{
	Held next;
	Size size = block_size();
	int n = (int) random_below(4);

	for (int i = 0; i < n; i++)
	{
		Held *change = &changes[random_below(CHANGES)];

		put_back(change);
		(void) get(change, 128 + random_below(173), PGR_MEMORY_PENDING);
	}
	if (!get(&next, size, PGR_MEMORY_RESERVED) || !replace(&root, 1024) ||
		!replace(&page, 1024))
	{
		put_back(&next);
		refused++;
		return;
	}
	cut(&next, size - random_below(size / 4));
	rebook(&next, PGR_MEMORY_BLOCK);
	put_back(&registry->old[2]);
	registry->old[2] = registry->old[1];
	registry->old[1] = registry->old[0];
	registry->old[0] = registry->block;
	registry->block = next;
}

static void
cycle_drop(Registry *registry)
{
	put_back(&registry->block);
	for (int i = 0; i < 3; i++)
		put_back(&registry->old[i]);
}

static void
cycle_delete_change(void)
{
	put_back(&changes[random_below(CHANGES)]);
}

static void
cycles(double seconds)
{
	double end = now_s() + seconds;
	uint64 n = 0;

	new_arena(CYCLES_BYTES);
	while (n < CYCLES || now_s() < end)
	{
		Registry *registry = &registries[random_below(REGISTRIES)];
		uint64 what = random_below(10);

		if (what < 7)
			cycle_put(registry);
		else if (what < 8)
			cycle_drop(registry);
		else
			cycle_delete_change();
		if (++n % 16384 == 0)
			check_all();
	}
	check_all();
	for (int i = 0; i < REGISTRIES; i++)
		cycle_drop(&registries[i]);
	for (int i = 0; i < CHANGES; i++)
		put_back(&changes[i]);
	put_back(&root);
	put_back(&page);
	printf("# %llu cycles, %llu of them refused, up to %.1f MB used\n",
		   (unsigned long long) n, (unsigned long long) refused,
		   (double) top_unit * PGR_ARENA_UNIT / MB);
	check_empty("a million cycles: every byte accounted for, no chunk "
				"written into, one free chunk at the end");
}

/* ------------------------------------------------------------------------
 * A full arena
 * ------------------------------------------------------------------------
 */

#define STEPS 24

/*
 * A sequence of requests with so much room that each of them in turn is the
 * first that fails: nothing has moved by then, and all goes back.
 */
static bool
run_until_full(int turn, bool last_resort)
{
	Held held[STEPS];
	int n = 0;

	random_state = 1;
	for (; n < STEPS; n++)
	{
		Size size = random_size(64, 8192);
		PgrArena before = *arena;

		if (!get_as(&held[n], size, PGR_MEMORY_RESERVED, last_resort))
		{
			if (memcmp(&before, arena, sizeof(before)) != 0)
				note_wrong("a refused request has changed something");
			break;
		}
		if (n % 3 == 2)
			cut(&held[n], size / 2);
	}
	check_all();
	for (int i = 0; i < n; i++)
		put_back(&held[(i + turn) % n]);
	return n == STEPS;
}

static void
every_point(bool last_resort)
{
	Held filler;
	bool filled = false;
	int points = 0;

	for (uint32 room = 0; !filled; room++)
	{
		uint64 left;

		new_arena(PGR_ARENA_MIN_BYTES);
		left = arena->kind_units[PGR_MEMORY_FREE] - room -
			(last_resort ? 0 : arena->reserve_units);
		if (!get_as(&filler, left * PGR_ARENA_UNIT - PGR_CHUNK_HEADER,
					PGR_MEMORY_BLOCK, true))
			note_wrong("the filler does not fit");
		filled = run_until_full((int) room, last_resort);
		check_all();
		put_back(&filler);
		if (live_units != 0 || free_chunks() != 1)
			note_wrong("something is left over");
		points++;
	}
	printf("# %d arenas\n", points);
	all_good(last_resort ? "full at every point, last resort: refused, "
						   "nothing changed, nothing lost" :
						   "full at every point: refused, nothing changed, "
						   "nothing lost");
}

/* The last units are for those who give memory back. */
static void
reserve(void)
{
	Held held[20000];
	int n = 0;
	uint64 left;

	new_arena(PGR_ARENA_MIN_BYTES);
	while (get(&held[n], 100, PGR_MEMORY_PENDING))
		n++;
	left = arena->kind_units[PGR_MEMORY_FREE];
	ok(left >= arena->reserve_units && left < arena->reserve_units + 2,
	   "reserve: ordinary requests leave %llu units of %llu",
	   (unsigned long long) left, (unsigned long long) arena_units);
	while (get_as(&held[n], 1, PGR_MEMORY_RESERVED, true))
		n++;
	ok(arena->kind_units[PGR_MEMORY_FREE] == 0 && arena->fl_bitmap == 0 &&
		   pgr_arena_largest_free(arena) == 0,
	   "reserve: the last resort takes the last unit");
	check_all();
	for (int i = 0; i < n; i += 2)
		put_back(&held[i]);
	check_all();
	for (int i = 1; i < n; i += 2)
		put_back(&held[i]);
	check_empty("reserve: and all comes back");
}

/* A request fails only if no free chunk is large enough. */
static void
exact_fit(void)
{
	Held hole, wall, rest;
	Size sizes[] = {100, 1000, 5000, 33333, 100001, 262143};
	Size absurd[] = {MB, 64 * MB, (Size) 1 << 40, SIZE_MAX - 64, SIZE_MAX};

	for (int i = 0; i < 6; i++)
	{
		Size largest;

		new_arena(PGR_ARENA_MIN_BYTES);
		get(&hole, sizes[i], PGR_MEMORY_BLOCK);
		get(&wall, 1, PGR_MEMORY_ROOT);
		get_as(&rest, pgr_arena_largest_free(arena), PGR_MEMORY_BLOCK, true);
		put_back(&hole);
		largest = pgr_arena_largest_free(arena);
		if (get_as(&hole, largest + 1, PGR_MEMORY_BLOCK, true))
			note_wrong("more than the largest free chunk is handed out");
		if (!get_as(&hole, largest, PGR_MEMORY_BLOCK, true) ||
			arena->kind_units[PGR_MEMORY_FREE] != 0)
			note_wrong("the largest free chunk is refused");
		put_back(&wall);
		put_back(&rest);
		put_back(&hole);
		check_all();
	}
	for (int i = 0; i < 5; i++)
		if (pgr_arena_alloc(arena, absurd[i], PGR_MEMORY_BLOCK, true) != 0)
			note_wrong("a request larger than the arena succeeds");
	check_empty("exact fit: a hole is used to the last byte, more is refused");
}

/* All cuts of one chunk, with a free and with a used neighbour. */
static void
shrink(void)
{
	Held chunk, neighbour;

	for (int used = 0; used < 2; used++)
	{
		for (Size size = 0; size <= 4096; size += 13)
		{
			new_arena(PGR_ARENA_MIN_BYTES);
			get(&chunk, 4096, PGR_MEMORY_RESERVED);
			get(&neighbour, 512, PGR_MEMORY_ROOT);
			if (!used)
				put_back(&neighbour);
			cut(&chunk, size);
			check_all();
			cut(&chunk, size / 2);
			check_all();
			put_back(&chunk);
			if (used)
				put_back(&neighbour);
			if (live_units != 0 || free_chunks() != 1)
				note_wrong("something is left over");
		}
	}
	all_good("shrink: every size, beside a free and a used neighbour");
}

/* ------------------------------------------------------------------------
 * Fragmentation
 * ------------------------------------------------------------------------
 */

#define LIVE_UNITS (4 * MB / PGR_ARENA_UNIT) /* never more in use at once */
#define LARGEST_UNITS (MB / PGR_ARENA_UNIT)

/* What is live, in the order of addresses: size at its first unit. */
static uint32 *size_at;

static bool
take_units(uint64 units)
{
	PgrRef ref = pgr_arena_alloc(arena,
								 units * PGR_ARENA_UNIT - PGR_CHUNK_HEADER,
								 PGR_MEMORY_BLOCK, true);

	if (ref == 0)
	{
		note_wrong("the arena of the adversaries is too small");
		return false;
	}
	size_at[ref] = (uint32) units;
	live_units += units;
	top_unit = Max(top_unit, ref + units);
	return true;
}

static void
give_units(uint64 ref)
{
	live_units -= size_at[ref];
	size_at[ref] = 0;
	pgr_arena_free(arena, (PgrRef) ref);
}

static void
take_all(uint64 units)
{
	while (live_units + units <= LIVE_UNITS && take_units(units))
		;
}

static double
spread(void)
{
	return (double) top_unit / LIVE_UNITS;
}

static void
give_everything(void)
{
	for (uint64 ref = 0; ref < top_unit; ref++)
		if (size_at[ref] != 0)
			give_units(ref);
	check_all();
	if (live_units != 0 || free_chunks() != 1)
		note_wrong("something is left over");
}

/*
 * Fill with small and large in turn, free every large one, and ask for what is
 * one unit larger.
 */
static double
every_second(uint64 large, double unused)
{
	new_arena(ARENA_BYTES);
	while (live_units + 1 + large <= LIVE_UNITS)
	{
		take_units(1);
		take_units(large);
	}
	for (uint64 ref = 0; ref < top_unit; ref++)
		if (size_at[ref] == large)
			give_units(ref);
	take_all(large + 1);
	return spread();
}

/*
 * Free as much as possible so that every hole stays below "next" units: keep a
 * chunk only if the hole would become too large without it.
 */
static void
free_below(uint64 next)
{
	uint64 hole = 0;
	uint64 top = top_unit;

	for (uint64 ref = 0; ref < top;)
	{
		uint64 units = size_at[ref];

		if (units == 0)
		{
			hole += owner[ref] == NOBODY;
			ref++;
		}
		else if (hole + units < next)
		{
			give_units(ref);
			hole += units;
			ref += units;
		}
		else
		{
			hole = 0;
			ref += units;
		}
	}
}

/* Sizes grow by a factor, and nothing that was freed is of use to the next. */
static double
staircase(uint64 first, double factor)
{
	new_arena(ARENA_BYTES);
	/* the head is no hole */
	for (uint64 i = 0; i < sizeof(PgrArena) / PGR_ARENA_UNIT + 1; i++)
		owner[i] = UINT32_MAX;
	take_all(first);
	for (uint64 units = first; units < LARGEST_UNITS;)
	{
		units = Max(units + 1, (uint64) ((double) units * factor));
		free_below(units);
		take_all(units);
	}
	return spread();
}

/* Live chunks that lie over an address that is "offset" modulo "step". */
static uint64
covering(uint64 offset, uint64 step, bool free_others)
{
	uint64 units = 0;

	for (uint64 ref = 0; ref < top_unit; ref++)
	{
		uint64 first = ref + (offset + step - ref % step) % step;

		if (size_at[ref] == 0)
			continue;
		if (first < ref + size_at[ref])
			units += size_at[ref];
		else if (free_others)
			give_units(ref);
	}
	return units;
}

/*
 * J. M. Robson, "Bounds for some functions concerning dynamic storage
 * allocation", 1974: sizes are powers of two; before each, keep what lies over
 * one address in so many, the one of two choices that keeps less.
 */
static double
robson(uint64 first, double unused)
{
	uint64 offset = 0;

	new_arena(ARENA_BYTES);
	take_all(first);
	for (uint64 step = 2 * first; step <= LARGEST_UNITS; step *= 2)
	{
		if (covering(offset, step, false) >
			covering(offset + step / 2, step, false))
			offset += step / 2;
		(void) covering(offset, step, true);
		take_all(step);
	}
	return spread();
}

/* What registries do: blocks, pages and changes, replaced in random order. */
static double
registry_mix(uint64 seed, double unused)
{
	enum
	{
		SLOTS = 512
	};
	PgrRef refs[SLOTS] = {0};

	random_state = seed;
	new_arena(ARENA_BYTES);
	for (int i = 0; i < 300000; i++)
	{
		int slot = (int) random_below(SLOTS);
		Size size = slot < 256 ? 128 + random_below(173) :
			slot < 384         ? 1024 :
								 random_size(1024, MB);
		uint64 units = (size + PGR_CHUNK_HEADER + PGR_ARENA_UNIT - 1) /
			PGR_ARENA_UNIT;

		/* a new version stands beside the old one for a moment */
		if (live_units + units <= LIVE_UNITS)
		{
			PgrRef old = refs[slot];

			refs[slot] = pgr_arena_alloc(arena, size, PGR_MEMORY_BLOCK, true);
			size_at[refs[slot]] = (uint32) units;
			live_units += units;
			top_unit = Max(top_unit, refs[slot] + units);
			if (old != 0)
				give_units(old);
		}
		else if (refs[slot] != 0)
		{
			give_units(refs[slot]);
			refs[slot] = 0;
		}
	}
	return spread();
}

/*
 * "at_most": measured, rounded up; docs/shared-memory.md shows the table.  A
 * change of the allocator that makes one worse has to change the table too.
 */
static const struct
{
	const char *name;
	double (*run)(uint64 argument, double factor);
	uint64 argument;
	double factor;
	double at_most;
} adversaries[] = {
	{"registries, 128 bytes to 1 MB, at random", registry_mix, 1, 0, 1.85},
	{"every second freed, 64 bytes and 1 kB", every_second, 16, 0, 1.95},
	{"every second freed, 64 bytes and 128 kB", every_second, 2048, 0, 1.95},
	{"staircase, sizes grow by 1/16", staircase, 1, 1.0625, 4.01},
	{"staircase, sizes grow by 1/4", staircase, 1, 1.25, 2.55},
	{"staircase, sizes double", staircase, 1, 2, 8.01},
	{"staircase, sizes grow 8 times", staircase, 1, 8, 5.01},
	{"staircase from 1 kB, sizes double", staircase, 16, 2, 6.01},
	{"Robson, 64 bytes to 1 MB", robson, 1, 0, 8.01},
	{"Robson, 1 kB to 1 MB", robson, 16, 0, 6.01},
};

static void
fragmentation(void)
{
	size_at = map(UNITS * sizeof(uint32));
	for (Size i = 0; i < sizeof(adversaries) / sizeof(adversaries[0]); i++)
	{
		double found = adversaries[i].run(adversaries[i].argument,
										  adversaries[i].factor);

		give_everything();
		ok(found <= adversaries[i].at_most && wrong == 0,
		   "fragmentation: %s: %.2f of the live bytes, at most %.2f",
		   adversaries[i].name, found, adversaries[i].at_most);
		wrong = 0;
	}
}

int
main(int argc, char **argv)
{
	double seconds = argc > 1 ? atof(argv[1]) : 1;
	uint64 seed = argc > 2 ? strtoull(argv[2], NULL, 0) :
							 UINT64_C(0x2545F4914F6CDD1D);

	arena = map(ARENA_BYTES);
	owner = map(UNITS * sizeof(uint32));

	exact_fit();
	shrink();
	reserve();
	every_point(false);
	every_point(true);
	random_state = seed | 1;
	cycles(seconds);
	fragmentation();
	printf("1..%d\n", tests);
	return failures ? 1 : 0;
}
