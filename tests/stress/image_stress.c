/*
 * image_stress.c
 *	  If this fails, a statement sees a mixture of two states, a value that
 *	  nobody wrote, or memory that belongs to something else by now; or memory
 *	  is held back without bound, or for ever.
 *
 * One writer and several readers, plain processes over one image in an
 * anonymous shared mapping, as fast as they can.
 *
 * A value binds registry, key, the generation that wrote it and an amount
 * together with a checksum, so a value of another key, of another registry or
 * of freed memory is told from a good one.  Before each publish the writer
 * notes, in a table of the test, how many entries each registry has in that
 * generation, the sum of their checksums and what has been changed.  A reader
 * who pinned that generation compares: whole registries, what that generation
 * changed, what the next one did (which must not be seen), and random keys, of
 * which it remembers some until the end of the pin.  Readers hold up to 34 pins
 * in a line and spare lines.  The parent stops, continues and kills them; it
 * clears the line of a killed one, as on_shmem_exit does for one that exits.
 * At the end nothing is retired, and the books show what is published.
 *
 * Atomic accesses of the image lose some time now and then (PGR_CHAOS), so
 * that windows of two instructions are hit in seconds.
 *
 *		image_stress [seconds [seed]]		default 8, for all storms together
 *
 * What it was seen to find, and after how long, stands in docs/testing.md.
 *
 * link: -DPGR_STANDALONE -DPGR_CHAOS src/shm/arena.c src/registry/block.c src/registry/patch.c src/registry/image.c
 */
#include <errno.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "registry/image.h"

#define MB ((Size) 1024 * 1024)
#define READERS 4
#define SPARES 8
#define REGISTRIES 4
#define MAX_CHANGES 16
#define SLOT_OF(r) (PGR_FIRST_FREE_SLOT + (uint32) (r) *200)
#define TRUTHS 16384
#define PINS (PGR_LINE_PINS + 2 * PGR_SPARE_PINS)
#define MAX_ARENA (640 * MB)

typedef struct Value
{
	uint64 number; /* of the key */
	uint64 generation;
	uint64 amount;
	uint64 check;
} Value;

/* One change of one publish. */
typedef struct Step
{
	uint32 registry;
	uint32 number;
	bool remove;
	uint64 amount;
} Step;

/* What a generation consists of; written as the roots in "recent" are. */
typedef struct Truth
{
	uint64 generation;
	uint32 entries[REGISTRIES];
	uint64 sums[REGISTRIES];
	int nsteps;
	Step steps[MAX_CHANGES];
} Truth;

typedef struct Shared
{
	int stop;
	uint64 errors;
	char first_error[160];
	uint64 publishes;
	uint64 built;
	uint64 patched;
	uint64 dropped;
	uint64 refused;
	uint64 most_retired;
	uint64 pins;
	uint64 reads;
	uint64 snapshots;
	uint64 judged; /* of the snapshots */
	uint64 spare_pins;
	Truth truths[TRUTHS];
} Shared;

/* A storm. */
typedef struct Storm
{
	const char *name;
	uint32 sizes[REGISTRIES]; /* keys; 0 = no such registry */
	Size arena_bytes;
	int patches;   /* percent of the changes that can be patches and are */
	double share;  /* of the time */
	bool exhausts; /* the arena is too small for it */
} Storm;

static const Storm storms[] = {
	{"one to 100 keys, replaced", {1, 10, 30, 100}, 4 * MB, 0, 1, false},
	{"one to 100 keys, patched", {1, 10, 30, 100}, 4 * MB, 95, 1, false},
	{"up to 20,000 keys, both",
	 {1, 100, 3000, 20000},
	 64 * MB,
	 80,
	 1.5,
	 false},
	{"a full arena, replaced", {50, 1500, 0, 0}, 1 * MB, 0, 1, true},
	{"a full arena, patched", {50, 1500, 0, 0}, 1 * MB, 70, 1, true},
	{"1,000,000 keys", {10, 1000, 0, 1000000}, MAX_ARENA, 99, 2.5, false},
};

static Shared *shared;
static PgrSharedImage *image;
static const Storm *storm;
static uint64 random_state;
static uint32 chaos_every;
static uint32 chaos_left;
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
wrong(const char *format, ...)
{
	va_list args;

	if (__atomic_fetch_add(&shared->errors, 1, __ATOMIC_SEQ_CST) > 0)
		return;
	va_start(args, format);
	vsnprintf(shared->first_error, sizeof(shared->first_error), format, args);
	va_end(args);
}

static void
count(uint64 *counter, uint64 n)
{
	__atomic_fetch_add(counter, n, __ATOMIC_RELAXED);
}

static void *
share(Size size)
{
	void *at = mmap(NULL, size, PROT_READ | PROT_WRITE,
					MAP_SHARED | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);

	if (at == MAP_FAILED)
	{
		perror("mmap");
		exit(2);
	}
	return at;
}

static void
nap_us(long us)
{
	struct timespec time = {us / 1000000, us % 1000000 * 1000};

	nanosleep(&time, NULL);
}

static double
now_s(void)
{
	struct timespec time;

	clock_gettime(CLOCK_MONOTONIC, &time);
	return (double) time.tv_sec + (double) time.tv_nsec / 1e9;
}

static uint64
random_word(void)
{
	random_state ^= random_state << 13;
	random_state ^= random_state >> 7;
	random_state ^= random_state << 17;
	return random_state;
}

static uint32
random_below(uint64 n)
{
	return (uint32) ((random_word() >> 11) % n);
}

static bool
stopping(void)
{
	return __atomic_load_n(&shared->stop, __ATOMIC_RELAXED);
}

/* Called before each atomic access of the image: see base/atomics.h. */
void
pgr_chaos(void)
{
	if (chaos_every == 0 || chaos_left-- > 0)
		return;
	chaos_left = random_below(chaos_every);
	nap_us(random_below(32) == 0 ? 2000 : random_below(4) == 0 ? 100 : 1);
}

/* ------------------------------------------------------------------------
 * Keys and values
 * ------------------------------------------------------------------------
 */

/* Short and long ones; of the long ones the first bytes are the same. */
static uint32
key_text(uint32 number, char *text)
{
	uint32 len = 0;

	if (number % 4 == 0)
	{
		memcpy(text, "longer key ", 11);
		len = 11;
	}
	text[len++] = 'k';
	do
		text[len++] = (char) ('0' + number % 10);
	while ((number /= 10) > 0);
	return len;
}

static uint64
check_of(uint32 registry, const Value *value)
{
	uint64 word = pgr_mix(value->number ^ UINT64_C(0x9E3779B97F4A7C15),
						  value->generation ^ UINT64_C(0xE7037ED1A0B428DB));

	return pgr_mix(word ^ registry,
				   value->amount ^ UINT64_C(0xA0761D6478BD642F));
}

static bool
is_good(uint32 registry, const PgrEntry *entry, uint64 generation,
		Value *value)
{
	if (entry->item->value_len != sizeof(Value))
		return false;
	memcpy(value, entry->item->data, sizeof(Value));
	return value->check == check_of(registry, value) &&
		value->generation <= generation &&
		entry->fixed.i8 == (int64) value->amount;
}

/* ------------------------------------------------------------------------
 * The writer
 * ------------------------------------------------------------------------
 */

/* What the newest generation holds, in the writer's own memory. */
typedef struct Model
{
	uint32 keys;
	uint32 entries;
	uint64 sum;
	bool exists;
	uint64 *checks; /* of each key; 0 = not there */
} Model;

static Model models[REGISTRIES];

/* What one publish needs for one registry. */
typedef struct Part
{
	uint32 registry;
	bool drop;
	int nchanges;
	PgrChange *changes;
	Value *values;
	char (*keys)[24];
	PgrBlockBuild build;
	PgrDefinition definition;
	bool patch;
	PgrRef block;
	PgrRef versions;
} Part;

static const PgrBlock *
current_block(uint32 registry)
{
	return pgr_root_block(image, pgr_image_ptr(image, image->root),
						  SLOT_OF(registry));
}

static PgrRef
take(Size size)
{
	PgrArena *arena = pgr_image_arena(image);
	PgrRef ref = pgr_arena_alloc(arena, size, PGR_MEMORY_RESERVED, false);

	if (ref == 0)
	{
		pgr_image_reclaim(image, true);
		ref = pgr_arena_alloc(arena, size, PGR_MEMORY_RESERVED, false);
	}
	return ref;
}

static void
give(PgrRef ref)
{
	if (ref != 0)
		pgr_arena_free(pgr_image_arena(image), ref);
}

static void
part_free(Part *part)
{
	free(part->changes);
	free(part->values);
	free(part->keys);
}

/* Apply steps to memory of our own; the image and the model are untouched. */
static void
part_start(Part *part, uint32 registry, const Step *steps, int nsteps,
		   uint64 generation)
{
	memset(part, 0, sizeof(*part));
	part->registry = registry;
	part->changes = calloc(nsteps, sizeof(PgrChange));
	part->values = calloc(nsteps, sizeof(Value));
	part->keys = calloc(nsteps, sizeof(part->keys[0]));
	for (int i = 0; i < nsteps; i++)
	{
		PgrChange *change = &part->changes[part->nchanges];
		Value *value = &part->values[part->nchanges];

		if (steps[i].registry != registry)
			continue;
		value->number = steps[i].number;
		value->generation = generation;
		value->amount = steps[i].amount;
		value->check = check_of(registry, value);
		change->key = part->keys[part->nchanges];
		change->key_len = key_text(steps[i].number,
								   part->keys[part->nchanges]);
		change->remove = steps[i].remove;
		change->value = value;
		change->value_len = sizeof(*value);
		change->fixed.i8 = (int64) value->amount;
		change->updated_at = (TimestampTz) generation;
		part->nchanges++;
	}
}

/* The ways to publish: a new block ... */
static bool
reserve_block(Part *part)
{
	const PgrBlock *old = current_block(part->registry);

	part->definition.kind = PGR_BLOCK_REGISTRY;
	part->build.old = old;
	part->build.generation = PGR_NEWEST;
	part->build.definition = old ? &old->definition : &part->definition;
	part->build.seed = image->seed;
	part->build.changes = part->changes;
	part->build.nchanges = part->nchanges;
	part->build.patchable = storm->patches > 0;
	part->build.room = part->build.patchable ? random_below(64) : 0;
	part->block = take(pgr_block_build_bytes(&part->build));
	return part->block != 0;
}

static void
publish_block(PgrPublish *publish, Part *part)
{
	PgrBlock *block = pgr_image_ptr(image, part->block);

	pgr_block_build(block, &part->build);
	pgr_arena_shrink(pgr_image_arena(image), part->block, block->size);
	pgr_publish_set(publish, SLOT_OF(part->registry), part->block);
	count(&shared->built, 1);
}

/* ... or versions of a few entries. */
static bool
reserve_versions(Part *part)
{
	PgrRef *link = &part->versions;

	for (int i = 0; i <= part->nchanges; i++)
	{
		*link = take(pgr_patch_version_bytes(
			i < part->nchanges ? &part->changes[i] : NULL));
		if (*link == 0)
			return false;
		link = pgr_publish_link(image, *link);
		*link = 0;
	}
	return true;
}

static void
publish_versions(PgrPublish *publish, Part *part)
{
	pgr_publish_patch(publish, SLOT_OF(part->registry), part->changes,
					  part->nchanges, (TimestampTz) publish->generation,
					  part->versions);
	count(&shared->patched, 1);
}

static bool
can_patch(const Part *part)
{
	const PgrBlock *block = current_block(part->registry);

	return block != NULL && block->patchable &&
		pgr_patch_room(block) >= part->nchanges &&
		random_below(100) < (uint32) storm->patches;
}

static bool
reserve_part(Part *part)
{
	if (part->drop)
		return true;
	part->patch = can_patch(part);
	return part->patch ? reserve_versions(part) : reserve_block(part);
}

static void
cancel_part(Part *part)
{
	give(part->block);
	while (part->versions != 0)
	{
		PgrRef next = *pgr_publish_link(image, part->versions);

		give(part->versions);
		part->versions = next;
	}
}

static void
model_apply(const Part *part)
{
	Model *model = &models[part->registry];

	model->exists = !part->drop;
	if (part->drop)
	{
		memset(model->checks, 0, model->keys * sizeof(uint64));
		model->entries = 0;
		model->sum = 0;
	}
	for (int i = 0; i < part->nchanges; i++)
	{
		uint64 *check = &model->checks[part->values[i].number];

		model->entries -= *check != 0;
		model->sum -= *check;
		*check = part->changes[i].remove ? 0 : part->values[i].check;
		model->entries += *check != 0;
		model->sum += *check;
	}
}

static void
record_truth(uint64 generation, const Step *steps, int nsteps)
{
	Truth *truth = &shared->truths[generation % TRUTHS];

	__atomic_store_n(&truth->generation, 0, __ATOMIC_RELAXED);
	__atomic_thread_fence(__ATOMIC_SEQ_CST);
	for (int r = 0; r < REGISTRIES; r++)
	{
		truth->entries[r] = models[r].exists ? models[r].entries : UINT32_MAX;
		truth->sums[r] = models[r].sum;
	}
	truth->nsteps = Min(nsteps, MAX_CHANGES);
	if (nsteps > 0)
		memcpy(truth->steps, steps, truth->nsteps * sizeof(Step));
	__atomic_thread_fence(__ATOMIC_SEQ_CST);
	__atomic_store_n(&truth->generation, generation, __ATOMIC_RELEASE);
}

/* All or nothing, as a transaction's commit; false if the arena is full. */
static bool
publish_parts(Part *parts, int nparts, const Step *steps, int nsteps)
{
	PgrPublish publish;
	PgrRef root = 0;
	PgrRef pages[REGISTRIES] = {0};
	int npages = 0;
	bool good = true;

	for (int i = 0; i < nparts && good; i++)
	{
		good = reserve_part(&parts[i]);
		if (!good || parts[i].patch)
			continue;
		if (root == 0)
			root = take(sizeof(PgrSharedRoot));
		pages[npages++] = take(sizeof(PgrSharedPage));
		good = root != 0 && pages[npages - 1] != 0;
	}
	if (!good)
	{
		for (int i = 0; i < nparts; i++)
			cancel_part(&parts[i]);
		for (int i = 0; i < npages; i++)
			give(pages[i]);
		give(root);
		count(&shared->refused, 1);
		return false;
	}

	for (int i = 0; i < nparts; i++)
		model_apply(&parts[i]);
	pgr_publish_begin(&publish, image, root, pages, npages);
	for (int i = 0; i < nparts; i++)
	{
		if (parts[i].drop)
			pgr_publish_set(&publish, SLOT_OF(parts[i].registry), 0);
		else if (parts[i].patch)
			publish_versions(&publish, &parts[i]);
		else
			publish_block(&publish, &parts[i]);
	}
	record_truth(publish.generation, steps, nsteps);
	pgr_publish_end(&publish);
	give(publish.new_root);
	for (int i = publish.pages_used; i < npages; i++)
		give(pages[i]);
	count(&shared->publishes, 1);
	return true;
}

static uint64
next_generation(void)
{
	return pg_atomic_read_u64(&image->generation) + 1;
}

static bool
has_step(const Step *steps, int n, uint32 registry, uint32 number)
{
	for (int i = 0; i < n; i++)
		if (steps[i].registry == registry && steps[i].number == number)
			return true;
	return false;
}

/* One or two registries; a registry that was dropped comes back. */
static bool
change_some(void)
{
	Step steps[MAX_CHANGES];
	int n = 0;
	int want = 1 + (int) random_below(MAX_CHANGES);
	uint32 first = random_below(REGISTRIES);
	uint32 second = random_below(REGISTRIES);
	Part parts[2];
	int nparts = 0;
	bool done;

	/* a rebuild of the largest takes long */
	if (models[first].keys >= 100000 && random_below(4) > 0)
		want = 1;
	for (int i = 0; i < want; i++)
	{
		uint32 r = i % 2 ? first : second;
		Step step = {r, 0, random_below(4) == 0, random_word()};

		if (models[r].keys == 0)
			continue;
		step.number = random_below(models[r].keys);
		if (!has_step(steps, n, r, step.number))
			steps[n++] = step;
	}
	for (uint32 r = 0; r < REGISTRIES; r++)
	{
		bool named = false;

		for (int i = 0; i < n; i++)
			named |= steps[i].registry == r;
		if (named)
			part_start(&parts[nparts++], r, steps, n, next_generation());
	}
	done = nparts == 0 || publish_parts(parts, nparts, steps, n);
	for (int i = 0; i < nparts; i++)
		part_free(&parts[i]);
	return done;
}

static void
drop_registry(uint32 registry)
{
	Part part = {.registry = registry, .drop = true};

	if (models[registry].exists && publish_parts(&part, 1, NULL, 0))
		count(&shared->dropped, 1);
}

static void
fill_registry(uint32 registry, uint32 keys)
{
	Step *steps = calloc(keys, sizeof(Step));
	Part part;

	for (uint32 i = 0; i < keys; i++)
		steps[i] = (Step){registry, i, false, random_word()};
	part_start(&part, registry, steps, (int) keys, next_generation());
	if (!publish_parts(&part, 1, steps, (int) keys))
		wrong("an empty arena has no room for %u keys", keys);
	part_free(&part);
	free(steps);
}

static void
writer_main(int argument)
{
	chaos_every = 1000;
	while (!stopping())
	{
		uint32 r = random_below(REGISTRIES);

		if (random_below(256) == 0 && models[r].keys <= 3000)
			drop_registry(r);
		else
			(void) change_some();
		pgr_image_reclaim(image, random_below(8) == 0);
		shared->most_retired = Max(shared->most_retired, image->retired_bytes);
	}
}

/* ------------------------------------------------------------------------
 * Readers
 * ------------------------------------------------------------------------
 */

#define REMEMBERED 8

typedef struct Pin
{
	pg_atomic_uint64 *cell;
	bool held;
	uint64 generation;
	const PgrSharedRoot *root;
	bool has_truth;
	Truth truth;
	Step keys[REMEMBERED]; /* "remove": was not there; "amount": check */
	int nkeys;
} Pin;

static Pin pins[PINS];
static int npins;
static int my_number;
static PgrSharedSpareLine *my_spares[2];
static int nspares;

static void
raise_high(pg_atomic_uint32 *high, uint32 to)
{
	uint32 old = pg_atomic_read_u32(high);

	while (old < to && !pg_atomic_compare_exchange_u32(high, &old, to))
		;
}

static void
take_line(void)
{
	PgrSharedLine *line = pgr_image_line(image, (uint32) my_number);

	npins = nspares = 0;
	for (int i = 0; i < PGR_LINE_PINS; i++)
		pins[npins++].cell = &line->pins[i];
	pg_atomic_write_u32(&line->in_use, (uint32) getpid());
	raise_high(&image->lines_high, (uint32) my_number + 1);
}

static void
take_spare(void)
{
	for (uint32 i = 0; i < SPARES && nspares < 2; i++)
	{
		PgrSharedSpareLine *spare = pgr_image_spare(image, i);
		uint32 nobody = 0;

		if (!pg_atomic_compare_exchange_u32(&spare->owner, &nobody,
											(uint32) getpid()))
			continue;
		raise_high(&image->spares_high, i + 1);
		my_spares[nspares++] = spare;
		for (int p = 0; p < PGR_SPARE_PINS; p++)
			pins[npins++].cell = &spare->pins[p];
		count(&shared->spare_pins, 1);
		return;
	}
}

/* When none of their pins is held. */
static void
give_back_spares(void)
{
	for (int i = PGR_LINE_PINS; i < npins; i++)
		if (pins[i].held)
			return;
	pg_write_barrier();
	for (int i = 0; i < nspares; i++)
		pg_atomic_write_u32(&my_spares[i]->owner, 0);
	nspares = 0;
	npins = PGR_LINE_PINS;
}

/* A copy of what the test knows of a generation, false if that is gone. */
static bool
get_truth(uint64 generation, Truth *truth)
{
	const Truth *at = &shared->truths[generation % TRUTHS];

	if (__atomic_load_n(&at->generation, __ATOMIC_ACQUIRE) != generation)
		return false;
	memcpy(truth, at, sizeof(*truth));
	__atomic_thread_fence(__ATOMIC_SEQ_CST);
	return __atomic_load_n(&at->generation, __ATOMIC_RELAXED) == generation &&
		truth->generation == generation;
}

static const PgrBlock *
block_of(const Pin *pin, uint32 registry)
{
	return pgr_root_block(image, pin->root, SLOT_OF(registry));
}

/* The check word of a key as the pin sees it, 0 if it is not there. */
static uint64
read_key(const Pin *pin, uint32 registry, uint32 number, uint64 *written)
{
	const PgrBlock *block = block_of(pin, registry);
	char key[24];
	uint32 len = key_text(number, key);
	PgrEntry entry;
	Value value;

	count(&shared->reads, 1);
	*written = 0;
	if (block == NULL ||
		!pgr_block_lookup(block, pin->generation, key, len, &entry))
		return 0;
	if (!is_good(registry, &entry, pin->generation, &value) ||
		value.number != number)
	{
		wrong("registry %u, key %u at %llu: not a value of it", registry,
			  number, (unsigned long long) pin->generation);
		return 0;
	}
	*written = value.generation;
	return value.check;
}

static void
read_registry(const Pin *pin, uint32 registry)
{
	const PgrBlock *block = block_of(pin, registry);
	uint64 position = 0;
	uint64 sum = 0;
	uint32 n = 0;
	PgrEntry entry;
	Value value;

	while (block != NULL &&
		   pgr_block_next_entry(block, pin->generation, &position, &entry))
	{
		char key[24];
		uint32 len;

		if (!is_good(registry, &entry, pin->generation, &value))
		{
			wrong("registry %u at %llu: a value that nobody wrote", registry,
				  (unsigned long long) pin->generation);
			return;
		}
		len = key_text((uint32) value.number, key);
		if (entry.key_len != len || memcmp(entry.key, key, len) != 0)
			wrong("registry %u: a value of another key", registry);
		sum += value.check;
		n++;
	}
	count(&shared->snapshots, 1);
	if (!pin->has_truth)
		return;
	count(&shared->judged, 1);
	if (block == NULL)
		n = UINT32_MAX;
	else if (pgr_block_entries(block, pin->generation) != n)
		wrong("registry %u: the block counts other entries", registry);
	if (n != pin->truth.entries[registry] || sum != pin->truth.sums[registry])
		wrong("registry %u at %llu: %u entries where there were %u, or others",
			  registry, (unsigned long long) pin->generation, n,
			  pin->truth.entries[registry]);
}

/* What this generation changed is there; what the next one did is not. */
static void
read_changed(const Pin *pin)
{
	Truth next;
	uint64 written;

	for (int i = 0; pin->has_truth && i < pin->truth.nsteps; i++)
	{
		const Step *step = &pin->truth.steps[i];
		uint64 check = read_key(pin, step->registry, step->number, &written);

		if (step->remove ? check != 0 : written != pin->generation)
			wrong("registry %u, key %u: a change of %llu is missing",
				  step->registry, step->number,
				  (unsigned long long) pin->generation);
	}
	if (!get_truth(pin->generation + 1, &next))
		return;
	for (int i = 0; i < next.nsteps; i++)
		(void) read_key(pin, next.steps[i].registry, next.steps[i].number,
						&written); /* complains if it is newer */
}

/* Keys that were read before: the same again. */
static void
read_again(const Pin *pin)
{
	uint64 written;

	for (int i = 0; i < pin->nkeys; i++)
		if (read_key(pin, pin->keys[i].registry, pin->keys[i].number,
					 &written) != pin->keys[i].amount)
			wrong("registry %u, key %u at %llu: differs within one pin",
				  pin->keys[i].registry, pin->keys[i].number,
				  (unsigned long long) pin->generation);
}

static void
look(Pin *pin)
{
	uint32 r = random_below(REGISTRIES);
	uint32 keys = storm->sizes[r];

	if (keys == 0)
		return;
	read_changed(pin);
	read_again(pin);
	if (pin->nkeys < REMEMBERED)
	{
		Step *key = &pin->keys[pin->nkeys++];
		uint64 written;

		key->registry = r;
		key->number = random_below(keys);
		key->amount = read_key(pin, r, key->number, &written);
	}
	if (random_below(1 + keys / 100) == 0)
		read_registry(pin, r);
}

static void
begin_pin(Pin *pin)
{
	pg_atomic_uint64 *cell = pin->cell;

	memset(pin, 0, sizeof(*pin));
	pin->cell = cell;
	pin->held = true;
	pin->root = pgr_image_pin(image, cell, &pin->generation);
	pin->has_truth = get_truth(pin->generation, &pin->truth);
	count(&shared->pins, 1);
	look(pin);
}

static void
end_pin(Pin *pin)
{
	look(pin);
	pgr_image_unpin(pin->cell);
	pin->held = false;
}

/* Few pins most of the time, now and then as many as there is room for. */
static void
reader_main(int number)
{
	uint32 hold = 3;

	my_number = number;
	chaos_every = 100;
	take_line();
	while (!stopping())
	{
		Pin *pin = &pins[random_below((uint64) npins)];

		if (!pin->held)
			begin_pin(pin);
		else if (random_below(hold) == 0)
			end_pin(pin);
		else
			look(pin);
		if (random_below(200) == 0)
			nap_us(random_below(2000));
		if (random_below(100) > 0)
			continue;
		hold = 1 + random_below(12);
		if (hold > 8)
			take_spare();
		else
			give_back_spares();
	}
	for (int i = 0; i < npins; i++)
		if (pins[i].held)
			end_pin(&pins[i]);
	give_back_spares();
	pg_atomic_write_u32(&pgr_image_line(image, (uint32) number)->in_use, 0);
}

/* ------------------------------------------------------------------------
 * The parent
 * ------------------------------------------------------------------------
 */

static pid_t
start(void (*body)(int), int argument)
{
	pid_t pid;

	(void) random_word();
	pid = fork();
	if (pid < 0)
	{
		perror("fork");
		exit(2);
	}
	if (pid == 0)
	{
		random_state ^= (uint64) getpid() << 20;
		body(argument);
		_exit(0);
	}
	return pid;
}

/* What on_shmem_exit does for a process that ends by itself. */
static void
clear_line(uint32 number, pid_t pid)
{
	PgrSharedLine *line = pgr_image_line(image, number);

	for (int i = 0; i < PGR_LINE_PINS; i++)
		pgr_image_unpin(&line->pins[i]);
	for (uint32 s = 0; s < SPARES; s++)
	{
		PgrSharedSpareLine *spare = pgr_image_spare(image, s);

		if (pg_atomic_read_u32(&spare->owner) != (uint32) pid)
			continue;
		for (int i = 0; i < PGR_SPARE_PINS; i++)
			pgr_image_unpin(&spare->pins[i]);
		pg_atomic_write_u32(&spare->owner, 0);
	}
}

static bool
holds_pins(uint32 number)
{
	for (int i = 0; i < PGR_LINE_PINS; i++)
		if (pg_atomic_read_u64(&pgr_image_line(image, number)->pins[i]) != 0)
			return true;
	return false;
}

static void
new_image(const Storm *of)
{
	storm = of;
	memset(shared, 0, sizeof(*shared));
	pgr_image_init(image, READERS, SPARES, of->arena_bytes, random_word());
	for (uint32 r = 0; r < REGISTRIES; r++)
	{
		Model *model = &models[r];

		free(model->checks);
		memset(model, 0, sizeof(*model));
		model->keys = of->sizes[r];
		model->checks = calloc(model->keys + 1, sizeof(uint64));
		if (model->keys > 0)
			fill_registry(r, model->keys);
	}
}

/* What the newest generation consists of, counted from its root. */
static uint64
published_bytes(void)
{
	PgrArena *arena = pgr_image_arena(image);
	const PgrSharedRoot *root = pgr_image_ptr(image, image->root);
	uint64 bytes = pgr_arena_chunk_bytes(arena, image->root);

	for (uint32 i = 0; i < PGR_ROOT_PAGES; i++)
		if (root->pages[i] != 0)
			bytes += pgr_arena_chunk_bytes(arena, root->pages[i]);
	for (uint32 r = 0; r < REGISTRIES; r++)
	{
		const PgrBlock *block = current_block(r);

		if (block != NULL)
			bytes += block->outside_bytes +
				pgr_arena_chunk_bytes(arena, pgr_arena_ref(arena, block));
	}
	return bytes;
}

/* Published and retired: nothing else is in use. */
static bool
books_agree(void)
{
	const PgrArena *arena = pgr_image_arena(image);

	return (arena->kind_units[PGR_MEMORY_BLOCK] +
			arena->kind_units[PGR_MEMORY_ROOT]) *
			PGR_ARENA_UNIT ==
		published_bytes() + image->retired_bytes &&
		arena->kind_units[PGR_MEMORY_RESERVED] == 0;
}

/* Nobody pins: nothing is kept, and the books show what is published. */
static void
check_rest(const char *name)
{
	const char *what = pgr_arena_check(pgr_image_arena(image));

	ok(books_agree(), "%s: every byte in use is published or retired", name);
	pgr_image_reclaim(image, true);
	if (what == NULL)
		what = pgr_arena_check(pgr_image_arena(image));
	ok(image->retired_count == 0 && image->retired_bytes == 0 &&
		   what == NULL && books_agree(),
	   "%s: at the end nothing is retired%s%s", name, what ? ": " : "",
	   what ? what : "");
}

typedef struct Chaos
{
	pid_t readers[READERS];
	uint64 stopped;
	uint64 killed;
	uint64 killed_pinned;
	int crashed;
} Chaos;

static void
stop_or_kill(Chaos *chaos)
{
	int victim = (int) random_below(READERS);
	pid_t pid = chaos->readers[victim];
	int status;

	kill(pid, SIGSTOP);
	nap_us(random_below(random_below(10) == 0 ? 50000 : 3000));
	chaos->stopped++;
	if (random_below(8) > 0)
	{
		kill(pid, SIGCONT);
		return;
	}
	chaos->killed++;
	chaos->killed_pinned += holds_pins((uint32) victim);
	kill(pid, SIGKILL);
	waitpid(pid, &status, 0);
	chaos->crashed += !WIFSIGNALED(status) || WTERMSIG(status) != SIGKILL;
	clear_line((uint32) victim, pid);
	chaos->readers[victim] = start(reader_main, victim);
}

static void
run_storm(const Storm *of, double seconds)
{
	Chaos chaos = {.crashed = 0};
	double began, end;
	pid_t writer;
	int status = -1;
	double found = 0;

	chaos_every = 0;
	new_image(of);
	began = now_s();
	end = began + seconds;
	for (int i = 0; i < READERS; i++)
		chaos.readers[i] = start(reader_main, i);
	writer = start(writer_main, 0);
	while (now_s() < end && shared->errors == 0 && chaos.crashed == 0)
	{
		stop_or_kill(&chaos);
		if (waitpid(writer, &status, WNOHANG) == writer)
			break;
		for (int i = 0; i < READERS; i++)
			chaos.crashed += waitpid(chaos.readers[i], &status, WNOHANG) > 0;
	}
	found = now_s() - began;
	shared->stop = 1;
	for (int i = 0; i < READERS; i++)
		if (waitpid(chaos.readers[i], &status, 0) > 0)
			chaos.crashed += status != 0;
	if (waitpid(writer, &status, 0) < 0)
		status = -1;

	printf("# %llu publishes (%llu blocks, %llu patches, %llu drops, %llu "
		   "refused), %llu pins, %llu spare lines, %llu reads, %llu whole "
		   "registries; %llu stops, %llu kills\n",
		   (unsigned long long) shared->publishes,
		   (unsigned long long) shared->built,
		   (unsigned long long) shared->patched,
		   (unsigned long long) shared->dropped,
		   (unsigned long long) shared->refused,
		   (unsigned long long) shared->pins,
		   (unsigned long long) shared->spare_pins,
		   (unsigned long long) shared->reads,
		   (unsigned long long) shared->snapshots,
		   (unsigned long long) chaos.stopped,
		   (unsigned long long) chaos.killed);
	ok(shared->errors == 0, "%s: every read is of the pinned generation",
	   of->name);
	if (shared->errors > 0)
		printf("# after %.2f s: %s\n", found, shared->first_error);
	ok(chaos.crashed == 0 && status == 0, "%s: every process ended well",
	   of->name);
	if (chaos.crashed > 0 || status != 0)
		printf("# after %.2f s\n", found);
	ok(shared->publishes > 10 && shared->pins > 10 && shared->judged > 0 &&
		   (of->patches == 0 || shared->patched > 0) &&
		   (!of->exhausts || shared->refused > 0),
	   "%s: everything that it is about has happened", of->name);
	if (shared->errors == 0 && chaos.crashed == 0 && status == 0)
		check_rest(of->name);
}

/* ------------------------------------------------------------------------
 * Idle pins
 * ------------------------------------------------------------------------
 */

/*
 * However much is published, idle pins hold back what they see, once each, and
 * the next rounds of garbage that are not due yet.
 */
static void
idle_pins(const char *name, int n, int patches, int publishes)
{
	Storm of = {name, {20, 200, 1000, 0}, 16 * MB, patches, 0, false};
	uint64 snapshot = 0;
	uint64 most = 0;
	uint64 round;

	new_image(&of);
	snapshot = published_bytes();
	my_number = 0;
	take_line();
	for (int i = 0; i < publishes; i++)
	{
		if (i % (publishes / 8) == 0 && i / (publishes / 8) < n)
			begin_pin(&pins[i / (publishes / 8)]);
		if (!change_some())
			wrong("an idle pin fills the arena");
		snapshot = Max(snapshot, published_bytes());
		if (!books_agree())
			wrong("memory in use is neither published nor retired");
		pgr_image_reclaim(image, false);
		most = Max(most, image->retired_bytes);
	}
	round = Max(of.arena_bytes / 16, (uint64) n * snapshot / 2) + snapshot;
	ok(shared->errors == 0 && most <= (uint64) n * snapshot + round,
	   "%s: %d publishes, %llu bytes retired at most, of %llu allowed", name,
	   publishes, (unsigned long long) most,
	   (unsigned long long) (n * snapshot + round));
	pgr_image_reclaim(image, true);
	ok(image->retired_bytes <= (uint64) n * snapshot,
	   "%s: %llu bytes held back, of %llu published at most", name,
	   (unsigned long long) image->retired_bytes,
	   (unsigned long long) snapshot);
	for (int i = 0; i < n; i++)
		end_pin(&pins[i]);
	ok(shared->errors == 0, "%s: and they see what they saw %s", name,
	   shared->first_error);
	check_rest(name);
}

int
main(int argc, char **argv)
{
	double seconds = argc > 1 ? atof(argv[1]) : 8;

	random_state = argc > 2 ? strtoull(argv[2], NULL, 0) | 1 :
							  UINT64_C(0x2545F4914F6CDD1D);
	shared = share(sizeof(*shared));
	image = share(pgr_image_bytes(READERS, SPARES, MAX_ARENA));

	idle_pins("one idle pin, replaced", 1, 0, 20000);
	idle_pins("one idle pin, patched", 1, 95, 20000);
	idle_pins("five idle pins, replaced", 5, 0, 20000);
	idle_pins("five idle pins, patched", 5, 95, 20000);
	for (Size i = 0; i < sizeof(storms) / sizeof(storms[0]); i++)
		run_storm(&storms[i], seconds * storms[i].share / 8);
	printf("1..%d\n", tests);
	return failures ? 1 : 0;
}
