/*
 * sql/views.c
 *	  What can be seen: entries, registries, rates, readers, memory.
 *
 * Everything that belongs to a registry is read under the statement's pin;
 * readers and memory describe the moment of the call.
 */
#include "postgres.h"

#include "access/xact.h"
#include "commands/dbcommands.h"
#include "fmgr.h"
#include "funcapi.h"
#include "mb/pg_wchar.h"
#include "miscadmin.h"
#include "storage/lwlock.h"
#include "utils/acl.h"
#include "utils/backend_status.h"
#include "utils/builtins.h"
#include "utils/fmgrprotos.h"
#include "utils/memutils.h"
#include "utils/numeric.h"
#include "utils/timestamp.h"

#include "base/compat.h"
#include "registry/directory.h"
#include "registry/rates.h"
#include "registry/reader.h"
#include "registry/stale.h"
#include "registry/table.h"
#include "settings.h"
#include "shm/area.h"
#include "shm/load_state.h"

PG_FUNCTION_INFO_V1(pgr_sql_entries);
PG_FUNCTION_INFO_V1(pgr_sql_entry_count);
PG_FUNCTION_INFO_V1(pgr_sql_registry_exists);
PG_FUNCTION_INFO_V1(pgr_sql_generation);
PG_FUNCTION_INFO_V1(pgr_sql_advance);
PG_FUNCTION_INFO_V1(pgr_sql_list_registries);
PG_FUNCTION_INFO_V1(pgr_sql_list_rates);
PG_FUNCTION_INFO_V1(pgr_sql_list_readers);
PG_FUNCTION_INFO_V1(pgr_sql_list_memory);

/* Memory of one row at a time, so that long results do not pile up. */
static MemoryContext
row_context(void)
{
	return AllocSetContextCreate(CurrentMemoryContext, "pg_registry row",
								 ALLOCSET_SMALL_SIZES);
}

static Datum
optional_timestamp(TimestampTz at, bool *isnull)
{
	*isnull = at == 0;
	return TimestampTzGetDatum(at);
}

/* ------------------------------------------------------------------------
 * Entries of one registry
 * ------------------------------------------------------------------------
 */

Datum
pgr_sql_entries(PG_FUNCTION_ARGS)
{
	ReturnSetInfo *result = (ReturnSetInfo *) fcinfo->resultinfo;
	const PgrBlock *block;
	PgrEntry entry;
	uint64 generation;
	uint64 position = 0;
	MemoryContext row;
	MemoryContext caller;

	InitMaterializedSRF(fcinfo, 0);
	block = pgr_reader_block(pgr_text(PG_GETARG_DATUM(0)));
	if (block == NULL)
		return (Datum) 0;
	row = row_context();
	caller = MemoryContextSwitchTo(row);
	generation = pgr_pin()->generation;
	while (pgr_block_next_entry(block, generation, &position, &entry))
	{
		Datum values[5] = {0};
		bool nulls[5] = {0};
		PgrValue value;

		CHECK_FOR_INTERRUPTS();
		if (pgr_reader_expired(entry.expires_at))
			continue;
		pgr_value_of_entry(block->definition.value_type, &entry, &value);
		values[0] = PointerGetDatum(
			cstring_to_text_with_len(entry.key, entry.key_len));
		values[1] = pgr_value_to_jsonb(block->definition.value_type, &value);
		nulls[2] = true; /* owner_pid: until registrations exist */
		values[3] = optional_timestamp(entry.item->updated_at, &nulls[3]);
		values[4] = optional_timestamp(entry.expires_at, &nulls[4]);
		tuplestore_putvalues(result->setResult, result->setDesc, values,
							 nulls);
		MemoryContextReset(row);
	}
	MemoryContextSwitchTo(caller);
	MemoryContextDelete(row);
	return (Datum) 0;
}

/* O(1), unless entries of the registry can expire. */
Datum
pgr_sql_entry_count(PG_FUNCTION_ARGS)
{
	const PgrBlock *block = pgr_reader_block(pgr_text(PG_GETARG_DATUM(0)));

	const PgrPin *pin = pgr_pin();

	PG_RETURN_INT64(
		block == NULL ? 0 : pgr_block_count(block, pin->generation, pin->at));
}

Datum
pgr_sql_registry_exists(PG_FUNCTION_ARGS)
{
	pgr_area_require();
	PG_RETURN_BOOL(pgr_reader_exists(pgr_text(PG_GETARG_DATUM(0))));
}

Datum
pgr_sql_generation(PG_FUNCTION_ARGS)
{
	pgr_area_require();
	PG_RETURN_INT64((int64) pgr_pin()->generation);
}

Datum
pgr_sql_advance(PG_FUNCTION_ARGS)
{
	pgr_area_require();
	if (IsolationUsesXactSnapshot())
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_TRANSACTION_STATE),
				 errmsg("registry.advance() cannot be used in a transaction of isolation level REPEATABLE READ or SERIALIZABLE"),
				 errdetail("All reads of such a transaction see one generation.")));
	if (IsInParallelMode())
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("registry.advance() cannot be used while a parallel query runs"),
				 errdetail("Its parallel workers go on reading the generation that they began with.")));
	PG_RETURN_INT64((int64) pgr_pin_advance()->generation);
}

/* ------------------------------------------------------------------------
 * registry.registries
 * ------------------------------------------------------------------------
 */

#define REGISTRY_COLUMNS 13

static void
describe_max_age(int64 max_age_us, uint8 on_stale, Datum *values, bool *nulls)
{
	Interval *max_age = pgr_max_age_to_interval(max_age_us);

	nulls[10] = max_age == NULL;
	values[10] = IntervalPGetDatum(max_age);
	values[11] = CStringGetTextDatum(pgr_on_stale_name(on_stale));
}

static void
describe_age(const PgrDefinition *definition, const PgrBlock *block,
			 Datum *values, bool *nulls)
{
	values[9] = BoolGetDatum(pgr_stale(definition, block));
	describe_max_age(definition->max_age_us, definition->on_stale, values,
					 nulls);
}

static void
describe_age_of_rates(const PgrBlock *block, Datum *values, bool *nulls)
{
	const PgrRatesInfo *info = pgr_rates_info(block);

	nulls[9] = info == NULL;
	values[9] = BoolGetDatum(info != NULL &&
							 pgr_rates_stale(info, pgr_rates_checked_at(info),
											 pgr_pin()->at) != PGR_STALE_NO);
	describe_max_age(pgr_settings.rates_max_age_s * USECS_PER_SEC,
					 (uint8) pgr_settings.rates_on_stale, values, nulls);
}

static const char *
state_name(const PgrBlock *block, const PgrDefinition *definition,
		   bool from_table)
{
	if (block->definition.residency == PGR_LOST)
		return "lost at restart";
	if (!from_table)
		return "resident";
	return pgr_load_is_loading(definition->database, definition->incarnation) ?
		"loading" :
		"from table";
}

static void
put_registry(ReturnSetInfo *result, const PgrBlock *block,
			 const PgrDefinition *definition, bool from_table, int64 entries)
{
	Datum values[REGISTRY_COLUMNS] = {0};
	bool nulls[REGISTRY_COLUMNS] = {0};
	const PgrPin *pin = pgr_pin();

	values[0] = PointerGetDatum(
		cstring_to_text_with_len(definition->name, definition->name_len));
	values[1] = CStringGetTextDatum(
		pgr_value_type_name(definition->value_type));
	values[2] = CStringGetTextDatum("unique");
	values[3] = BoolGetDatum(definition->durable);
	nulls[4] = definition->owner_name[0] == '\0';
	values[4] = DirectFunctionCall1(namein,
									CStringGetDatum(definition->owner_name));
	values[5] = CStringGetTextDatum(state_name(block, definition, from_table));
	values[6] = Int64GetDatum(
		from_table ? entries :
					 pgr_block_count(block, pin->generation, pin->at));
	values[7] = Int64GetDatum(
		from_table ? 0 : (int64) (block->size + block->outside_bytes));
	values[8] = optional_timestamp(pgr_block_changed_at(block,
														pin->generation),
								   &nulls[8]);
	nulls[12] = !definition->durable;
	values[12] = Int64GetDatum((int64) pgr_reader_fallbacks(definition));
	if (definition->kind == PGR_BLOCK_RATES)
		describe_age_of_rates(block, values, nulls);
	else
		describe_age(definition, block, values, nulls);
	tuplestore_putvalues(result->setResult, result->setDesc, values, nulls);
}

/* With our own changes; also of a registry that only this transaction sees. */
static void
put_changed(ReturnSetInfo *result, const PgrBlock *block,
			const PgrDefinition *definition, bool from_table)
{
	TimestampTz last_change;
	int64 entries = 0;
	MemoryContext row;
	MemoryContext caller;

	row = row_context();
	caller = MemoryContextSwitchTo(row);
	if (from_table)
	{
		entries = pgr_table_count(definition, PGR_VIEW_STATEMENT,
								  pgr_pin()->at, &last_change);
		block = pgr_table_empty_block(definition, last_change);
	}
	else if (block == NULL || pgr_pending_changes(definition))
		block = pgr_pending_overlay(definition, block, pgr_pin());
	put_registry(result, block, definition, from_table, entries);
	MemoryContextSwitchTo(caller);
	MemoryContextDelete(row);
}

static void
put_named(const PgrRegistryName *name, void *arg)
{
	PgrText text = {name->name, name->len};
	const PgrBlock *block;
	bool from_table;
	const PgrDefinition *definition = pgr_reader_look(text, &block,
													  &from_table);

	/* what only the table knows is put_unloaded's to show; rates were shown */
	if (definition != NULL && definition->incarnation != 0 &&
		definition->kind != PGR_BLOCK_RATES)
		put_changed(arg, block, definition, from_table);
}

/* A name that we have changed is pgr_pending_named's to show. */
static bool
is_touched(const PgrDefinition *definition)
{
	PgrRegistryName name = pgr_registry_name(definition);
	PgrPendingState state;

	if (!pgr_pending_any())
		return false;
	pgr_pending_state(&name, false, &state);
	return state.touched;
}

/*
 * Under read_consistency = snapshot the list is that of the snapshot, too.
 * Otherwise it tells what is in memory, wherever this statement would read.
 */
static bool
is_as_of_snapshot(void)
{
	return pgr_settings.read_consistency == PGR_READ_SNAPSHOT &&
		pgr_reader_disagrees();
}

static void
put_committed(ReturnSetInfo *result, const PgrBlock *directory,
			  const PgrPin *pin)
{
	bool as_it_is = !pgr_pending_any() && !is_as_of_snapshot();
	PgrEntry entry;
	uint64 position = 0;

	/* a block is published together with its name */
	while (pgr_block_next_entry(directory, pin->generation, &position, &entry))
	{
		const PgrBlock *block = pgr_root_block(pgr_image, pin->root,
											   (uint32) entry.fixed.i8);
		const PgrDefinition *definition = &block->definition;
		PgrRegistryName name = pgr_registry_name(definition);

		CHECK_FOR_INTERRUPTS();
		if (definition->kind == PGR_BLOCK_RATES)
			continue;
		if (!as_it_is && !is_touched(definition))
			put_named(&name, result);
		else if (as_it_is && pgr_reader_may_read(block))
			put_changed(result, block, definition,
						pgr_is_read_from_table(definition));
	}
}

/* What the directory does not name yet, nor any change of our own. */
static void
put_unloaded(const PgrDefinition *definition, void *arg)
{
	PgrText name = {definition->name, definition->name_len};
	const PgrBlock *block;
	const PgrDefinition *known;
	bool from_table;

	known = pgr_reader_look(name, &block, &from_table);
	if (known != NULL && known->incarnation == 0)
		put_changed(arg, NULL, known, from_table);
}

Datum
pgr_sql_list_registries(PG_FUNCTION_ARGS)
{
	ReturnSetInfo *result = (ReturnSetInfo *) fcinfo->resultinfo;
	const PgrPin *pin;
	const PgrBlock *rates;
	uint32 slot;

	InitMaterializedSRF(fcinfo, 0);
	pgr_area_require();
	pin = pgr_pin();
	rates = pgr_rates_block();
	put_registry(result, rates, &rates->definition,
				 rates->self == 0 && !pgr_pending_any(),
				 pgr_block_count(rates, PGR_NEWEST, pin->at));
	slot = pgr_directory_slot(pin->root, pin->generation, MyDatabaseId,
							  pgr_directory_extension());
	if (pin->lags || is_as_of_snapshot() ||
		!pgr_directory_is_complete(pin->root, slot) ||
		pgr_pending_forgotten(pgr_directory_extension()))
		pgr_table->each_definition(PGR_VIEW_STATEMENT, put_unloaded, result);
	if (slot != PGR_NO_SLOT && !pin->lags)
		put_committed(result, pgr_root_block(pgr_image, pin->root, slot), pin);
	if (pgr_pending_any())
		pgr_pending_named(put_named, result);
	return (Datum) 0;
}

/* ------------------------------------------------------------------------
 * registry.rates
 * ------------------------------------------------------------------------
 */

#define RATE_COLUMNS 11

static void
put_rate(ReturnSetInfo *result, const PgrEntry *entry,
		 const PgrRatesInfo *info)
{
	Datum values[RATE_COLUMNS] = {0};
	bool nulls[RATE_COLUMNS] = {0};
	TimestampTz now = pgr_pin()->at;
	TimestampTz checked_at = pgr_rates_checked_at(info);
	PgrStaleReason reason = (entry->flags & PGR_SLOT_MISSING) ?
		PGR_STALE_MISSING :
		pgr_rates_stale(info, checked_at, now);
	const char *name = pgr_rates_stale_name(reason);
	PgrValue value;

	pgr_value_of_entry(PGR_TYPE_NUMERIC, entry, &value);
	values[0] = PointerGetDatum(
		cstring_to_text_with_len(entry->key, entry->key_len));
	values[1] = pgr_value_to_numeric(PGR_TYPE_NUMERIC, &value);
	values[2] = CStringGetTextDatum(info->base);
	values[3] = DateADTGetDatum(info->value_date);
	/* of this rate: a missing one keeps the time of its last set */
	values[4] = TimestampTzGetDatum(entry->item->updated_at);
	values[5] = TimestampTzGetDatum(checked_at);
	values[6] = DirectFunctionCall2(timestamp_mi, TimestampTzGetDatum(now),
									values[5]);
	values[7] = BoolGetDatum(reason != PGR_STALE_NO);
	nulls[8] = name == NULL;
	if (name != NULL)
		values[8] = CStringGetTextDatum(name);
	values[9] = Int64GetDatum(pgr_rates_row(info));
	nulls[9] = values[9] == 0;
	values[10] = CStringGetTextDatum(info->source);
	tuplestore_putvalues(result->setResult, result->setDesc, values, nulls);
}

Datum
pgr_sql_list_rates(PG_FUNCTION_ARGS)
{
	ReturnSetInfo *result = (ReturnSetInfo *) fcinfo->resultinfo;
	const PgrBlock *block;
	PgrEntry entry;
	uint64 position = 0;

	InitMaterializedSRF(fcinfo, 0);
	pgr_area_require();
	block = pgr_rates_block();
	if (pgr_rates_info(block) != NULL)
		while (pgr_block_next_entry(block, PGR_NEWEST, &position, &entry))
			put_rate(result, &entry, pgr_rates_info(block));
	return (Datum) 0;
}

/* ------------------------------------------------------------------------
 * registry.readers
 * ------------------------------------------------------------------------
 */

typedef struct QueryStart
{
	int pid;
	TimestampTz at;
} QueryStart;

typedef struct Readers
{
	ReturnSetInfo *result;
	QueryStart *starts; /* of every process, by pid */
	int nstarts;
} Readers;

static int
compare_pids(const void *a, const void *b)
{
	int left = ((const QueryStart *) a)->pid;
	int right = ((const QueryStart *) b)->pid;

	return left < right ? -1 : left > right;
}

static void
collect_starts(Readers *readers)
{
	int n = pgstat_fetch_stat_numbackends();

	readers->starts = palloc(Max(n, 1) * sizeof(QueryStart));
	for (int i = 1; i <= n; i++)
	{
		LocalPgBackendStatus *local = pgstat_fetch_stat_local_beentry(i);
		QueryStart *start = &readers->starts[readers->nstarts];

		if (local == NULL)
			continue;
		start->pid = local->backendStatus.st_procpid;
		start->at = local->backendStatus.st_activity_start_timestamp;
		readers->nstarts++;
	}
	qsort(readers->starts, readers->nstarts, sizeof(QueryStart), compare_pids);
}

static void
put_reader(const PgrLinePin *pin, void *arg)
{
	Readers *readers = arg;
	QueryStart wanted = {.pid = pin->pid};
	const QueryStart *start = bsearch(&wanted, readers->starts,
									  readers->nstarts, sizeof(QueryStart),
									  compare_pids);
	Datum values[4];
	bool nulls[4] = {0};

	values[0] = Int32GetDatum(pin->pid);
	values[1] = Int64GetDatum((int64) pin->generation);
	values[2] = TimestampTzGetDatum(pin->at);
	values[3] = optional_timestamp(start ? start->at : 0, &nulls[3]);
	tuplestore_putvalues(readers->result->setResult, readers->result->setDesc,
						 values, nulls);
}

Datum
pgr_sql_list_readers(PG_FUNCTION_ARGS)
{
	Readers readers = {.result = (ReturnSetInfo *) fcinfo->resultinfo};

	InitMaterializedSRF(fcinfo, 0);
	pgr_area_require();
	collect_starts(&readers);
	pgr_line_visit(put_reader, &readers);
	return (Datum) 0;
}

/* ------------------------------------------------------------------------
 * registry.memory
 * ------------------------------------------------------------------------
 */

typedef struct MemoryBooks
{
	uint64 rates;
	uint64 mine; /* this database's blocks */
	uint64 others;
	uint64 kinds[PGR_MEMORY_KINDS];
	uint64 retired;
	uint64 total;
} MemoryBooks;

/* Under the writer lock, shared: nothing moves, nothing here throws. */
static void
take_books(MemoryBooks *books)
{
	PgrArena *arena = pgr_image_arena(pgr_image);
	const PgrSharedRoot *root;

	memset(books, 0, sizeof(*books));
	LWLockAcquire(pgr_area_lock(PGR_LOCK_WRITER), LW_SHARED);
	root = pgr_image_ptr(pgr_image, pgr_image->root);
	for (uint32 slot = 0; slot < PGR_MAX_SLOTS; slot++)
	{
		const PgrBlock *block;
		Size bytes;

		if (pgr_image->slot_bitmap[slot / 64] == 0)
		{
			slot |= 63;
			continue;
		}
		block = pgr_root_block(pgr_image, root, slot);
		if (block == NULL || block->definition.kind < PGR_BLOCK_REGISTRY)
			continue; /* directories: what is left over */
		bytes = pgr_arena_chunk_bytes(arena, pgr_arena_ref(arena, block)) +
			block->outside_bytes;
		if (block->definition.kind == PGR_BLOCK_RATES)
			books->rates += bytes;
		else if (block->definition.database == MyDatabaseId)
			books->mine += bytes;
		else
			books->others += bytes;
	}
	for (int i = 0; i < PGR_MEMORY_KINDS; i++)
		books->kinds[i] = arena->kind_units[i] * PGR_ARENA_UNIT;
	books->retired = pgr_image->retired_bytes;
	books->total = arena->units * PGR_ARENA_UNIT;
	Assert(pgr_arena_check(arena) == NULL);
	LWLockRelease(pgr_area_lock(PGR_LOCK_WRITER));
}

static void
put_memory(ReturnSetInfo *result, const char *what, uint64 bytes)
{
	Datum values[2] = {CStringGetTextDatum(what),
					   Int64GetDatum((int64) bytes)};
	bool nulls[2] = {false, false};

	tuplestore_putvalues(result->setResult, result->setDesc, values, nulls);
}

/* The rows' sum is pg_registry.shared_memory. */
Datum
pgr_sql_list_memory(PG_FUNCTION_ARGS)
{
	ReturnSetInfo *result = (ReturnSetInfo *) fcinfo->resultinfo;
	MemoryBooks books;

	InitMaterializedSRF(fcinfo, 0);
	pgr_area_require();
	take_books(&books);
	put_memory(result,
			   psprintf("registries of database %s",
						get_database_name(MyDatabaseId)),
			   books.mine);
	put_memory(result, "registries of other databases", books.others);
	put_memory(result, "rates", books.rates);
	put_memory(result, "old versions", books.retired);
	put_memory(result, "directory",
			   books.kinds[PGR_MEMORY_BLOCK] + books.kinds[PGR_MEMORY_ROOT] -
				   books.mine - books.others - books.rates - books.retired);
	put_memory(result, "uncommitted changes", books.kinds[PGR_MEMORY_PENDING]);
	put_memory(result, "reserved by commits",
			   books.kinds[PGR_MEMORY_RESERVED]);
	put_memory(result, "overhead", books.kinds[PGR_MEMORY_OVERHEAD]);
	put_memory(result, "free", books.kinds[PGR_MEMORY_FREE]);
	return (Datum) 0;
}
