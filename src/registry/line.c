/*
 * registry/line.c
 *	  This backend's line of the image and its spare lines; see line.h.
 *
 * Only the owner writes a line.  It takes it with its first pin and leaves it
 * in on_shmem_exit, before its proc number can be given away.
 */
#include "postgres.h"

#include "miscadmin.h"
#include "storage/ipc.h"
#include "storage/proc.h"
#include "utils/timestamp.h"

#include "base/compat.h"
#include "registry/line.h"
#include "registry/value.h"
#include "settings.h"
#include "shm/area.h"

#define MAX_SPARES 8 /* spare lines of one backend */
#define MAX_CELLS (PGR_LINE_PINS + MAX_SPARES * PGR_SPARE_PINS)

/* One place of our line, or of a spare line, that can name a generation. */
typedef struct Cell
{
	pg_atomic_uint64 *shared;
	TimestampTz *pinned_at;
	uint64 generation;
	const PgrSharedRoot *root;
	int pins;
} Cell;

PgrSharedImage *pgr_image = NULL;

static PgrSharedLine *my_line = NULL;
static Cell cells[MAX_CELLS];
static int ncells = 0;
static PgrSharedSpareLine *my_spares[MAX_SPARES];
static int nspares = 0;

static uint32
line_count(void)
{
	return MaxBackends + NUM_AUXILIARY_PROCS;
}

static uint32
spare_count(void)
{
	return 16 + MaxBackends / 8;
}

static Size
arena_bytes(void)
{
	return (Size) pgr_settings.shared_memory_kb * 1024;
}

Size
pgr_line_shared_size(void)
{
	return pgr_image_bytes(line_count(), spare_count(), arena_bytes());
}

void
pgr_line_shared_init(void *part, Size size)
{
	PgrDefinition databases = {.kind = PGR_BLOCK_DATABASES};
	PgrDefinition rates = {
		.kind = PGR_BLOCK_RATES,
		.value_type = PGR_TYPE_NUMERIC,
		.name = PGR_RATES_NAME,
		.name_len = strlen(PGR_RATES_NAME),
		.created_at = GetCurrentTimestamp(),
	};

	pgr_image_init(part, line_count(), spare_count(), arena_bytes(),
				   pgr_area_header->hash_seed);
	pgr_image_init_slot(part, PGR_SLOT_DATABASES, &databases);
	pgr_image_init_slot(part, PGR_SLOT_RATES, &rates);
	pgr_image_init_slot(part, PGR_SLOT_QUARANTINE, &rates);
}

static void
raise_high(pg_atomic_uint32 *high, uint32 count)
{
	uint32 old = pg_atomic_read_u32(high);

	while (old < count && !pg_atomic_compare_exchange_u32(high, &old, count))
		;
}

/*
 * At process exit.  ProcKill, which gives our proc number away, was
 * registered before this and so runs after it.
 */
static void
leave_line(int code, Datum arg)
{
	for (int i = 0; i < ncells; i++)
		pgr_image_unpin(cells[i].shared);
	pg_atomic_write_u64(&my_line->parallel_pin, 0);
	pg_atomic_write_u32(&my_line->pending_head, 0);
	pg_write_barrier(); /* empty before anybody else can own it */
	for (int i = 0; i < nspares; i++)
		pg_atomic_write_u32(&my_spares[i]->owner, 0);
	pg_atomic_write_u32(&my_line->in_use, 0);
	ncells = nspares = 0;
	my_line = NULL;
}

static void
add_cell(pg_atomic_uint64 *shared, TimestampTz *pinned_at)
{
	Cell *cell = &cells[ncells++];

	memset(cell, 0, sizeof(*cell));
	cell->shared = shared;
	cell->pinned_at = pinned_at;
}

static void
take_line(void)
{
	uint32 number = PgrProcNumber(MyProc);

	if (number >= pgr_image->lines_count)
		elog(ERROR, "proc number %u is beyond the %u lines of pg_registry",
			 number, pgr_image->lines_count);
	my_line = pgr_image_line(pgr_image, number);
	for (int i = 0; i < PGR_LINE_PINS; i++)
		add_cell(&my_line->pins[i], &my_line->pinned_at[i]);
	pg_atomic_write_u32(&my_line->in_use, (uint32) MyProcPid);
	/* a full barrier: reclaim must know of the line before it holds a pin */
	raise_high(&pgr_image->lines_high, number + 1);
	on_shmem_exit(leave_line, (Datum) 0);
}

static bool
take_spare(void)
{
	if (nspares == MAX_SPARES)
		return false;
	for (uint32 i = 0; i < pgr_image->spares_count; i++)
	{
		PgrSharedSpareLine *spare = pgr_image_spare(pgr_image, i);
		uint32 nobody = 0;

		/* look first: a failed exchange would take its cache line away */
		if (pg_atomic_read_u32(&spare->owner) != 0 ||
			!pg_atomic_compare_exchange_u32(&spare->owner, &nobody,
											(uint32) MyProcPid))
			continue;
		raise_high(&pgr_image->spares_high, i + 1);
		my_spares[nspares++] = spare;
		for (int p = 0; p < PGR_SPARE_PINS; p++)
			add_cell(&spare->pins[p], &spare->pinned_at[p]);
		return true;
	}
	return false;
}

void
pgr_line_give_back_spares(void)
{
	if (nspares == 0)
		return;
	pg_write_barrier(); /* their pins are gone before the next owner's come */
	for (int i = 0; i < nspares; i++)
		pg_atomic_write_u32(&my_spares[i]->owner, 0);
	nspares = 0;
	ncells = Min(ncells, PGR_LINE_PINS);
}

/* A cell without a pin, -1 if there is none anywhere. */
static int
free_cell(void)
{
	for (int i = 0; i < ncells; i++)
		if (cells[i].pins == 0)
			return i;
	if (take_spare())
		return ncells - PGR_SPARE_PINS;
	return -1;
}

static int
newest_cell(void)
{
	int newest = 0;

	for (int i = 1; i < ncells; i++)
		if (cells[i].generation > cells[newest].generation)
			newest = i;
	return newest;
}

PgrSharedLine *
pgr_line_mine(void)
{
	if (my_line == NULL)
		take_line();
	return my_line;
}

/* A cell that names this generation too, so that one of them can be freed. */
static int
same_generation(int i)
{
	for (int other = 0; other < ncells; other++)
		if (other != i && cells[other].pins > 0 &&
			cells[other].generation == cells[i].generation)
			return other;
	return -1;
}

int
pgr_line_pin(TimestampTz at, uint64 *generation, const PgrSharedRoot **root)
{
	int i;

	(void) pgr_line_mine();
	i = free_cell();
	if (i < 0)
		i = newest_cell();
	else
	{
		Cell *cell = &cells[i];
		int same;

		*cell->pinned_at = at;
		pg_write_barrier(); /* pairs with read_cell: a pin has its time */
		cell->root = pgr_image_pin(pgr_image, cell->shared, &cell->generation);
		same = same_generation(i);
		if (same >= 0)
		{
			pgr_image_unpin(cell->shared);
			cell->generation = 0;
			i = same;
		}
	}
	cells[i].pins++;
	*generation = cells[i].generation;
	*root = cells[i].root;
	return i;
}

void
pgr_line_unpin(int i)
{
	Cell *cell = &cells[i];

	if (--cell->pins > 0)
		return;
	pgr_image_unpin(cell->shared);
	cell->generation = 0;
}

/* ------------------------------------------------------------------------
 * Everybody's pins
 * ------------------------------------------------------------------------
 */

/*
 * What a cell names, and whose it is, as they were together at one moment.
 * False if it names nothing.
 */
static bool
read_cell(pg_atomic_uint32 *owner, pg_atomic_uint64 *cell,
		  const volatile TimestampTz *pinned_at, PgrLinePin *pin)
{
	for (;;)
	{
		pin->pid = (int) pg_atomic_read_u32(owner);
		pg_read_barrier(); /* pairs with the barrier before "owner" is 0 */
		pin->generation = pg_atomic_read_u64(cell);
		if (pin->pid == 0 || pin->generation == 0)
			return false;
		pg_read_barrier(); /* pairs with pgr_line_pin */
		pin->at = *pinned_at;
		pg_read_barrier(); /* pairs with pgr_line_pin */
		if (pg_atomic_read_u64(cell) == pin->generation &&
			(int) pg_atomic_read_u32(owner) == pin->pid)
			return true;
	}
}

void
pgr_line_visit(PgrLineVisitor visit, void *arg)
{
	uint32 lines = pg_atomic_read_u32(&pgr_image->lines_high);
	uint32 spares = pg_atomic_read_u32(&pgr_image->spares_high);
	PgrLinePin pin;

	for (uint32 i = 0; i < lines; i++)
	{
		PgrSharedLine *line = pgr_image_line(pgr_image, i);

		for (int p = 0; p < PGR_LINE_PINS; p++)
			if (read_cell(&line->in_use, &line->pins[p], &line->pinned_at[p],
						  &pin))
				visit(&pin, arg);
	}
	for (uint32 i = 0; i < spares; i++)
	{
		PgrSharedSpareLine *spare = pgr_image_spare(pgr_image, i);

		for (int p = 0; p < PGR_SPARE_PINS; p++)
			if (read_cell(&spare->owner, &spare->pins[p], &spare->pinned_at[p],
						  &pin))
				visit(&pin, arg);
	}
}

static void
keep_oldest(const PgrLinePin *pin, void *arg)
{
	PgrLinePin *oldest = arg;

	if (oldest->pid == 0 || pin->generation < oldest->generation)
		*oldest = *pin;
}

bool
pgr_line_oldest(PgrLinePin *oldest)
{
	memset(oldest, 0, sizeof(*oldest));
	pgr_line_visit(keep_oldest, oldest);
	return oldest->pid != 0;
}
