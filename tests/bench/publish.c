/*
 * publish.c
 *	  The write side at the level of its C functions: pgr_plan_reserve() and
 *	  pgr_plan_commit() of values that are parsed already, without a
 *	  transaction, SQL or a heavyweight lock around them.
 *
 * Linked with the objects of the release build into the library that only
 * scripts/bench loads.  The functions publish at once, whatever becomes of the
 * transaction; nobody else may change the same registry meanwhile.
 */
#include "postgres.h"

#include "access/xact.h"
#include "common/pg_prng.h"
#include "fmgr.h"
#include "miscadmin.h"
#include "portability/instr_time.h"
#include "utils/builtins.h"
#include "utils/memutils.h"
#include "utils/timestamp.h"

#include "registry/directory.h"
#include "registry/line.h"
#include "registry/plan.h"
#include "shm/area.h"

PG_FUNCTION_INFO_V1(pgr_sql_bench_publish);
PG_FUNCTION_INFO_V1(pgr_sql_bench_load);

/* Longest key of a registry that is published to, with its NUL. */
#define KEY_BYTES 16

typedef struct Publisher
{
	PgrPlan plan;
	PgrPlanRegistry registry;
	PgrRef page;
} Publisher;

/* Under the writer lock, as no pin keeps the root for us. */
static void
open_registry(Publisher *publisher, const text *name)
{
	const PgrBlock *block;

	memset(publisher, 0, sizeof(*publisher));
	LWLockAcquire(pgr_area_lock(PGR_LOCK_WRITER), LW_SHARED);
	block = pgr_directory_find(pgr_image_ptr(pgr_image, pgr_image->root),
							   PGR_NEWEST, MyDatabaseId,
							   pgr_directory_extension(), VARDATA_ANY(name),
							   VARSIZE_ANY_EXHDR(name),
							   &publisher->registry.slot);
	if (block != NULL)
		publisher->registry.definition = block->definition;
	LWLockRelease(pgr_area_lock(PGR_LOCK_WRITER));
	if (block == NULL)
		elog(ERROR, "no such registry");
	publisher->registry.action = PGR_PLAN_CHANGE;
	publisher->plan.registries = &publisher->registry;
	publisher->plan.nregistries = 1;
	publisher->plan.pages = &publisher->page;
	publisher->plan.now = GetCurrentTransactionStartTimestamp();
}

static void
publish(Publisher *publisher, PgrChange *changes, int n)
{
	Size wanted;

	publisher->registry.changes = changes;
	publisher->registry.nchanges = n;
	if (!pgr_plan_reserve(&publisher->plan, &wanted))
		pgr_plan_out_of_memory(wanted);
	pgr_plan_commit(&publisher->plan);
}

static double
ns_since(instr_time start)
{
	instr_time now;

	INSTR_TIME_SET_CURRENT(now);
	INSTR_TIME_SUBTRACT(now, start);
	return INSTR_TIME_GET_DOUBLE(now) * 1e9;
}

/* "I1000000", "I1000001", ... as tests/bench/setup.sql has them. */
static void
fill_change(PgrChange *change, char *key, int i)
{
	memset(change, 0, sizeof(*change));
	change->key = key;
	change->key_len = snprintf(key, KEY_BYTES, "I%d", 1000000 + i);
	change->fixed.f8 = i;
	change->updated_at = GetCurrentTransactionStartTimestamp();
}

/* 0 to n - 1, in their order or in none. */
static int *
numbers(int n, bool shuffled)
{
	int *order = MemoryContextAllocHuge(CurrentMemoryContext,
										(Size) n * sizeof(int));

	for (int i = 0; i < n; i++)
		order[i] = i;
	for (int i = n - 1; shuffled && i > 0; i--)
	{
		int j = (int) pg_prng_uint64_range(&pg_global_prng_state, 0, i);
		int number = order[i];

		order[i] = order[j];
		order[j] = number;
	}
	return order;
}

/*
 * "n" of the "keys" keys, one after the other in memory in the order in which
 * they will be used: looking for them there is not what is measured.
 */
static PgrChange *
make_changes(int keys, int n, bool shuffled)
{
	int *order = numbers(keys, shuffled);
	PgrChange *changes = MemoryContextAllocHuge(CurrentMemoryContext,
												(Size) n * sizeof(PgrChange));
	char *texts = MemoryContextAllocHuge(CurrentMemoryContext,
										 (Size) n * KEY_BYTES);

	for (int i = 0; i < n; i++)
		fill_change(&changes[i], texts + (Size) i * KEY_BYTES, order[i]);
	pfree(order);
	return changes;
}

/*
 * publish(registry, keys, changed, most, ms): nanoseconds for each publish of
 * "changed" of a registry's "keys" keys, at most "most" times.  It looks at the
 * clock after 1, 3, 7, ... publishes and stops once "ms" have passed.
 */
Datum
pgr_sql_bench_publish(PG_FUNCTION_ARGS)
{
	int keys = PG_GETARG_INT32(1);
	int changed = PG_GETARG_INT32(2);
	int64 most = PG_GETARG_INT64(3);
	double limit = PG_GETARG_INT32(4) * 1e6;
	int prepared = (int) Min(keys, most * changed);
	PgrChange *changes = make_changes(keys, prepared, true);
	Publisher publisher;
	instr_time start;
	int64 done = 0;

	open_registry(&publisher, PG_GETARG_TEXT_PP(0));
	INSTR_TIME_SET_CURRENT(start);
	for (int64 first = 0; done < most; first += changed)
	{
		if (first + changed > prepared)
			first = 0;
		for (int i = 0; i < changed; i++)
			changes[first + i].fixed.f8 += 1;
		publish(&publisher, changes + first, changed);
		done++;
		CHECK_FOR_INTERRUPTS();
		if ((done & (done + 1)) == 0 && ns_since(start) > limit)
			break;
	}
	PG_RETURN_FLOAT8(ns_since(start) / done);
}

/*
 * load(registry, keys, shuffled): milliseconds to put that many keys into an
 * empty registry by one publish.
 */
Datum
pgr_sql_bench_load(PG_FUNCTION_ARGS)
{
	int keys = PG_GETARG_INT32(1);
	PgrChange *changes = make_changes(keys, keys, PG_GETARG_BOOL(2));
	Publisher publisher;
	instr_time start;

	open_registry(&publisher, PG_GETARG_TEXT_PP(0));
	INSTR_TIME_SET_CURRENT(start);
	publish(&publisher, changes, keys);
	PG_RETURN_FLOAT8(ns_since(start) / 1e6);
}
