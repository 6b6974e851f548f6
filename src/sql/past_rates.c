/*
 * sql/past_rates.c
 *	  See past_rates.h.
 */
#include "postgres.h"

#include "access/xact.h"
#include "utils/builtins.h"
#include "utils/fmgrprotos.h"
#include "utils/hsearch.h"
#include "utils/memutils.h"
#include "utils/snapmgr.h"

#include "base/compat.h"
#include "durable/rate_sets.h"
#include "registry/pin.h"
#include "sql/past_rates.h"

/* Kept at most; with more, all are forgotten. */
#define MOST_SETS 1000
#define MOST_DATES 20000

/*
 * What the sets were read for: a statement, and in it what this transaction
 * had done by then.
 */
typedef struct Moment
{
	uint64 token;
	CommandId command;
	SubTransactionId subtransaction;
} Moment;

struct PgrPastRates
{
	MemoryContext memory; /* of all below */
	Moment moment;
	HTAB *dates; /* NULL = nothing is kept */
	HTAB *sets;
};

typedef struct DateEntry
{
	DateADT date;
	int64 rate_set;
} DateEntry;

PgrPastRates *
pgr_past_rates_create(MemoryContext context)
{
	PgrPastRates *past = MemoryContextAllocZero(context, sizeof(PgrPastRates));

	past->memory = AllocSetContextCreate(context, "pg_registry past rates",
										 ALLOCSET_DEFAULT_SIZES);
	return past;
}

static HTAB *
create_table(PgrPastRates *past, const char *name, Size key, Size entry)
{
	HASHCTL control = {
		.keysize = key,
		.entrysize = entry,
		.hcxt = past->memory,
	};

	return hash_create(name, 64, &control,
					   HASH_ELEM | HASH_BLOBS | HASH_CONTEXT);
}

static void
forget(PgrPastRates *past)
{
	past->dates = NULL;
	MemoryContextReset(past->memory);
	past->sets = create_table(past, "pg_registry past sets", sizeof(int64),
							  sizeof(PgrPastSet));
	past->dates = create_table(past, "pg_registry past dates", sizeof(DateADT),
							   sizeof(DateEntry));
}

static Moment
moment_now(void)
{
	Moment moment = {
		.token = pgr_pin()->token,
		.command = ActiveSnapshotSet() ? GetActiveSnapshot()->curcid : 0,
		.subtransaction = GetCurrentSubTransactionId(),
	};

	return moment;
}

static bool
is_same_moment(const Moment *a, const Moment *b)
{
	return a->token == b->token && a->command == b->command &&
		a->subtransaction == b->subtransaction;
}

static void
forget_what_is_old(PgrPastRates *past)
{
	Moment now = moment_now();

	if (past->dates != NULL && is_same_moment(&past->moment, &now) &&
		hash_get_num_entries(past->dates) < MOST_DATES &&
		hash_get_num_entries(past->sets) < MOST_SETS)
		return;
	forget(past);
	past->moment = now;
}

static int64
set_of_date(PgrPastRates *past, DateADT date)
{
	DateEntry *entry = hash_search(past->dates, &date, HASH_FIND, NULL);
	PgrRateSetRow row;
	int64 rate_set = 0;

	if (entry != NULL)
		return entry->rate_set;
	if (pgr_rate_sets_on_date(date, PGR_VIEW_STATEMENT, &row))
		rate_set = row.set.rate_set;
	entry = hash_search(past->dates, &date, HASH_ENTER, NULL);
	entry->rate_set = rate_set;
	return rate_set;
}

/* In memory that the caller forgets; the block is kept. */
static const PgrBlock *
read_block(PgrPastRates *past, int64 rate_set)
{
	MemoryContext caller = CurrentMemoryContext;
	MemoryContext rows = AllocSetContextCreate(caller, "pg_registry rates",
											   ALLOCSET_SMALL_SIZES);
	PgrRateSetRow row = {0};
	const PgrBlock *block;

	MemoryContextSwitchTo(rows);
	if (rate_set != 0 &&
		pgr_rate_sets_find(rate_set, PGR_VIEW_STATEMENT, &row))
		pgr_rate_sets_read_rates(&row.set, PGR_VIEW_STATEMENT);
	block = pgr_rates_private_block(&row.set, past->memory);
	MemoryContextSwitchTo(caller);
	MemoryContextDelete(rows);
	return block;
}

const PgrPastSet *
pgr_past_rates_on(PgrPastRates *past, DateADT date)
{
	int64 rate_set;
	PgrPastSet *set;
	const PgrBlock *block;

	forget_what_is_old(past);
	rate_set = set_of_date(past, date);
	set = hash_search(past->sets, &rate_set, HASH_FIND, NULL);
	if (set != NULL)
		return set;
	block = read_block(past, rate_set);
	set = hash_search(past->sets, &rate_set, HASH_ENTER, NULL);
	set->block = block;
	set->info = pgr_rates_info(block);
	return set;
}

/* A set of the 1st is as old for the 9th as it was then. */
PgrStaleReason
pgr_past_rates_stale(const PgrPastSet *set, DateADT date)
{
	TimestampTz at = pgr_pin()->at;

	if (set->info == NULL)
		return PGR_STALE_NO;
	if (date < at / USECS_PER_DAY)
		at = (TimestampTz) date * USECS_PER_DAY;
	/* an answer about the past need not be a recent one */
	return pgr_rates_stale(set->info, at, at);
}

static char *
date_text(DateADT date)
{
	return DatumGetCString(
		DirectFunctionCall1(date_out, DateADTGetDatum(date)));
}

void
pgr_past_rates_refuse(DateADT date)
{
	PgrRateSetRow oldest;

	ereport(ERROR,
			(errcode(ERRCODE_NO_DATA),
			 errmsg("there are no exchange rates of %s or before",
					date_text(date)),
			 pgr_rate_sets_oldest(PGR_VIEW_STATEMENT, &oldest) ?
			 errhint("The oldest rate set is of %s.",
					 date_text(oldest.set.value_date)) :
			 errhint("This database has no rate sets yet.")));
}

bool
pgr_past_rates_exist(void)
{
	PgrRateSetRow oldest;

	return pgr_rate_sets_oldest(PGR_VIEW_STATEMENT, &oldest);
}
