/*
 * registry/table.c
 *	  See table.h.  Runs in backends, in a transaction; may throw.
 */
#include "postgres.h"

#include "miscadmin.h"
#include "utils/memutils.h"
#include "utils/timestamp.h"

#include "registry/pending.h"
#include "registry/table.h"

const PgrTable *pgr_table = NULL;

typedef struct Collector
{
	PgrValueType type;
	PgrChange *changes;
	int n;
	int capacity;
	bool (*enough)(int n); /* may be NULL */
	bool stopped;
} Collector;

static void *
copy_bytes(const void *data, Size len)
{
	void *copy = palloc(len);

	memcpy(copy, data, len);
	return copy;
}

static void
collect_row(const PgrTableRow *row, void *arg)
{
	Collector *collector = arg;
	PgrChange *change;
	PgrValue value;

	CHECK_FOR_INTERRUPTS();
	if (collector->n == collector->capacity)
	{
		collector->capacity *= 2;
		collector->changes = repalloc_huge(collector->changes,
										   collector->capacity *
											   sizeof(PgrChange));
	}
	pgr_value_from_text(collector->type, row->value, &value);
	change = &collector->changes[collector->n++];
	*change = (PgrChange){
		.key = copy_bytes(row->key.data, row->key.len),
		.key_len = row->key.len,
		.value_len = value.len,
		.value = value.data,
		.fixed = value.fixed,
		.updated_at = row->updated_at,
		.expires_at = row->expires_at,
	};
}

PgrChange *
pgr_table_changes(const PgrDefinition *definition, PgrTableView view, int *n)
{
	PgrText name = {definition->name, definition->name_len};
	Collector collector = {
		.type = (PgrValueType) definition->value_type,
		.capacity = 64,
	};

	collector.changes = palloc(collector.capacity * sizeof(PgrChange));
	pgr_table->scan(name, view, collect_row, &collector);
	*n = collector.n;
	return collector.changes;
}

static bool
collect_until_enough(const PgrTableRow *row, void *arg)
{
	Collector *collector = arg;

	if (collector->n > 0 && collector->enough(collector->n))
		collector->stopped = true; /* this row is for the next time */
	else
		collect_row(row, collector);
	return !collector->stopped;
}

PgrChange *
pgr_table_changes_after(const PgrDefinition *definition, const PgrText *after,
						PgrTableView view, bool (*enough)(int n), int *n,
						bool *end)
{
	PgrText name = {definition->name, definition->name_len};
	Collector collector = {
		.type = (PgrValueType) definition->value_type,
		.capacity = 64,
		.enough = enough,
	};

	collector.changes = palloc(collector.capacity * sizeof(PgrChange));
	if (!pgr_table->scan_after(name, after, view, collect_until_enough,
							   &collector))
		return NULL;
	*n = collector.n;
	*end = !collector.stopped;
	return collector.changes;
}

static TimestampTz
last_change(const PgrDefinition *definition, const PgrChange *changes, int n)
{
	TimestampTz last = definition->created_at;

	for (int i = 0; i < n; i++)
		last = Max(last, changes[i].updated_at);
	return last;
}

PgrBlock *
pgr_table_block(const PgrDefinition *definition, PgrTableView view)
{
	MemoryContext caller = CurrentMemoryContext;
	MemoryContext rows = AllocSetContextCreate(caller, "pg_registry rows",
											   ALLOCSET_DEFAULT_SIZES);
	PgrBlockBuild build = {.definition = definition};
	PgrBlock *block;

	MemoryContextSwitchTo(rows);
	build.changes = pgr_table_changes(definition, view, &build.nchanges);
	build.now = last_change(definition, build.changes, build.nchanges);
	MemoryContextSwitchTo(caller);
	block = pgr_block_build_private(&build);
	if (definition->durable)
		block->definition.residency = PGR_RESIDENT;
	MemoryContextDelete(rows);
	return block;
}

typedef struct Counter
{
	TimestampTz now;
	TimestampTz last_change;
	int64 n;
} Counter;

static void
count_row(const PgrTableRow *row, void *arg)
{
	Counter *counter = arg;

	CHECK_FOR_INTERRUPTS();
	counter->n += row->expires_at == 0 || row->expires_at > counter->now;
	counter->last_change = Max(counter->last_change, row->updated_at);
}

int64
pgr_table_count(const PgrDefinition *definition, PgrTableView view,
				TimestampTz now, TimestampTz *last_change)
{
	PgrText name = {definition->name, definition->name_len};
	Counter counter = {now, definition->created_at, 0};

	pgr_table->scan(name, view, count_row, &counter);
	*last_change = counter.last_change;
	return counter.n;
}

PgrBlock *
pgr_table_empty_block(const PgrDefinition *definition, TimestampTz last_change)
{
	PgrBlockBuild build = {.definition = definition, .now = last_change};

	return pgr_block_build_private(&build);
}

bool
pgr_table_find(const PgrDefinition *definition, PgrText key, PgrTableView view,
			   PgrValue *value, TimestampTz *expires_at)
{
	PgrText name = {definition->name, definition->name_len};
	PgrTableRow row;

	if (!pgr_table->find(name, key, view, &row))
		return false;
	pgr_value_from_text((PgrValueType) definition->value_type, row.value,
						value);
	*expires_at = row.expires_at;
	return true;
}
