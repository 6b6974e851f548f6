/*
 * sql/rates.c
 *	  rate, rate_float8, convert, quote.
 *
 * Definitions: the set gives r(c), units of c for one unit of the base, and
 * r(base) = 1.  rate(from, to) = r(to) / r(from): exactly r(to) out of the
 * base, otherwise rounded once to 18 significant digits (F-2).
 * convert(a, from, to) = a * rate(from, to) exactly (F-1).
 *
 * With on_date the set is one of the tables: see past_rates.h.
 *
 * A call's fn_extra remembers the block of the current pin and the numeric
 * rates it has computed from it, so that a query divides once per pair of
 * currencies and not once per row.
 */
#include "postgres.h"

#include "access/xact.h"
#include "fmgr.h"
#include "funcapi.h"
#include "mb/pg_wchar.h"
#include "miscadmin.h"
#include "nodes/primnodes.h"
#include "utils/builtins.h"
#include "utils/fmgrprotos.h"
#include "utils/jsonb.h"
#include "utils/memutils.h"
#include "utils/numeric.h"
#include "utils/timestamp.h"

#include "base/compat.h"
#include "base/iso4217.h"
#include "registry/rates.h"
#include "registry/reader.h"
#include "settings.h"
#include "shm/area.h"
#include "shm/refresh_state.h"
#include "sql/currency.h"
#include "sql/past_rates.h"

PG_FUNCTION_INFO_V1(pgr_sql_rate);
PG_FUNCTION_INFO_V1(pgr_sql_rate_float8);
PG_FUNCTION_INFO_V1(pgr_sql_convert);
PG_FUNCTION_INFO_V1(pgr_sql_quote);

/* Blocks of up to this many slots have a cache entry for each of them. */
#define CACHED_RATES 256

typedef struct CachedRate
{
	const PgrSlot *from;
	const PgrSlot *to;
	Numeric rate;
} CachedRate;

/* What a call knows for one pin. */
typedef struct RatesReader
{
	uint64 token; /* of the pin; PGR_NO_TOKEN = ask again */
	const PgrBlock *block;
	const PgrRatesInfo *info; /* NULL: no set was ever published */
	TimestampTz checked_at;   /* then nothing */
	PgrStaleReason stale;     /* of the set */
	bool simple;              /* nothing can be refused for being stale */
	const PgrSlot *to;        /* of a constant second currency */
	bool to_is_constant;
	bool plain; /* rate, convert: the optional arguments are constants that
				 * change nothing */
	/* rates already computed; made when first used, CACHED_RATES each */
	double *quotients;          /* of slots into "to"; 0 = not yet */
	CachedRate *pairs;          /* by cache_index() */
	MemoryContext memory;       /* of the pairs' rates */
	MemoryContext call_context; /* lives as long as the reader */
	PgrPastRates *past;         /* made when first used */
	const DateADT *on_date;     /* of a reader of one past day, else NULL */
} RatesReader;

/* One currency against all others: no two share an entry. */
static inline Size
cache_index(const PgrBlock *block, const PgrSlot *from, const PgrSlot *to)
{
	const PgrSlot *slots = pgr_block_slots(block);

	return ((Size) (from - slots) + (Size) (to - slots) * 31) % CACHED_RATES;
}

/* ------------------------------------------------------------------------
 * The set of the current pin
 * ------------------------------------------------------------------------
 */

static bool
argument_is_constant(FmgrInfo *flinfo, int argument)
{
	Node *expression = flinfo->fn_expr;

	if (expression == NULL || !IsA(expression, FuncExpr) ||
		list_length(((FuncExpr *) expression)->args) <= argument)
		return false;
	return IsA(list_nth(((FuncExpr *) expression)->args, argument), Const);
}

static RatesReader *
reader_create(FmgrInfo *flinfo, int to_argument)
{
	RatesReader *reader = MemoryContextAllocZero(flinfo->fn_mcxt,
												 sizeof(RatesReader));

	reader->token = PGR_NO_TOKEN;
	reader->to_is_constant = argument_is_constant(flinfo, to_argument);
	reader->call_context = flinfo->fn_mcxt;
	flinfo->fn_extra = reader;
	return reader;
}

static void
reader_resolve(RatesReader *reader)
{
	pgr_area_require();
	reader->token = PGR_NO_TOKEN;
	reader->block = pgr_rates_block();
	reader->info = pgr_rates_info(reader->block);
	reader->checked_at = reader->info == NULL ?
		0 :
		pgr_rates_checked_at(reader->info);
	reader->stale = reader->info == NULL ?
		PGR_STALE_NO :
		pgr_rates_stale(reader->info, reader->checked_at, pgr_pin()->at);
	reader->simple = reader->info != NULL &&
		pgr_settings.rates_on_stale == PGR_ON_STALE_SERVE;
	reader->to = NULL;
	if (reader->quotients != NULL)
		memset(reader->quotients, 0, CACHED_RATES * sizeof(double));
	if (reader->pairs != NULL)
	{
		memset(reader->pairs, 0, CACHED_RATES * sizeof(CachedRate));
		MemoryContextReset(reader->memory);
	}
	/* a block in shared memory is there as long as the pin */
	if (pgr_pin_token != 0 && reader->block->self != 0)
		reader->token = pgr_pin_token;
}

static inline RatesReader *
reader_of(FunctionCallInfo fcinfo, int to_argument)
{
	RatesReader *reader = fcinfo->flinfo->fn_extra;

	if (unlikely(reader == NULL))
		reader = reader_create(fcinfo->flinfo, to_argument);
	if (unlikely(reader->token != pgr_pin_token))
		reader_resolve(reader);
	return reader;
}

/* ------------------------------------------------------------------------
 * Errors
 * ------------------------------------------------------------------------
 */

static char *
date_text(DateADT date)
{
	return DatumGetCString(
		DirectFunctionCall1(date_out, DateADTGetDatum(date)));
}

static void refuse_no_set(const RatesReader *reader) pg_attribute_noreturn();
static void refuse_unknown(const RatesReader *reader, PgrText code)
	pg_attribute_noreturn();

static void
refuse_no_set(const RatesReader *reader)
{
	PgrSharedRefresh refresh;

	if (reader->on_date != NULL &&
		(pgr_past_rates_exist() || pgr_rates_info(pgr_rates_block()) != NULL))
		pgr_past_rates_refuse(*reader->on_date);

	if (pgr_settings.rates_url[0] == '\0')
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("no exchange rates are configured"),
				 errhint("Add to postgresql.conf, then reload:\n"
						 "pg_registry.rates_url = 'https://api.frankfurter.dev/v1/latest'\n"
						 "pg_registry.rates_interval = '1h'")));
	pgr_refresh_state_snapshot(&refresh);
	ereport(ERROR,
			(errcode(ERRCODE_IO_ERROR),
			 errmsg("exchange rates have not been fetched yet"),
			 refresh.last_error[0] ?
			 errdetail("The last attempt failed: %s", refresh.last_error) : 0,
			 errhint("See registry.status().")));
}

static void
refuse_unknown(const RatesReader *reader, PgrText code)
{
	ereport(ERROR,
			(errcode(ERRCODE_UNDEFINED_OBJECT),
			 errmsg("there is no exchange rate for currency \"%.*s\"",
					(int) code.len, code.data),
			 reader->on_date != NULL ?
			 errdetail("The rate set of %s does not have it.", date_text(reader->info->value_date)) :
			 0,
			 errhint("See registry.rates for the known currencies; rate() and convert() give null with missing_ok => true.")));
}

static void
refuse_stale(const RatesReader *reader, PgrStaleReason reason,
			 const char *code)
{
	const PgrRatesInfo *info = reader->info;
	char *fact;

	if (reason == PGR_STALE_VALUE_DATE)
		fact = psprintf("The rates are of %s", date_text(info->value_date));
	else if (reason == PGR_STALE_MISSING)
		fact = psprintf("The last set has no rate of %.3s", code);
	else
		fact = psprintf("The last good answer came at %s",
						timestamptz_to_str(reader->checked_at));
	ereport(ERROR,
			(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
			 errmsg("exchange rates are stale (%s)",
					pgr_rates_stale_name(reason)),
			 errdetail("%s, and pg_registry.rates_on_stale is \"error\".", fact)));
}

/* ------------------------------------------------------------------------
 * Lookup
 * ------------------------------------------------------------------------
 */

typedef enum Answer
{
	ANSWER_RATE, /* r(to) / r(from) of the two slots */
	ANSWER_ONE,  /* one currency, known but not in the set */
	ANSWER_NULL
} Answer;

static PgrStaleReason
slot_stale(const RatesReader *reader, const PgrSlot *slot)
{
	return slot != NULL && (slot->flags & PGR_SLOT_MISSING) ?
		PGR_STALE_MISSING :
		reader->stale;
}

/* True: NULL is the answer.  ERROR if that is the policy. */
static bool
stale_policy(const RatesReader *reader, const PgrSlot *slot)
{
	PgrStaleReason reason;

	if (pgr_settings.rates_on_stale == PGR_ON_STALE_SERVE)
		return false;
	reason = slot_stale(reader, slot);
	if (reason == PGR_STALE_NO)
		return false;
	if (pgr_settings.rates_on_stale == PGR_ON_STALE_ERROR)
		refuse_stale(reader, reason, pgr_block_key(reader->block, slot));
	return true;
}

/* All checks, in the order in which a user would want to hear of them. */
static Answer
look_up(RatesReader *reader, PgrText from, PgrText to, bool missing_ok,
		const PgrSlot **from_slot, const PgrSlot **to_slot)
{
	pgr_currency_check(from);
	pgr_currency_check(to);
	*from_slot = pgr_block_find(reader->block, from.data, from.len);
	*to_slot = pgr_block_find(reader->block, to.data, to.len);
	if (memcmp(from.data, to.data, PGR_CURRENCY_LEN) == 0 &&
		(*to_slot != NULL ||
		 pgr_iso4217_minor_units(to.data) != PGR_MINOR_UNITS_UNKNOWN))
		return ANSWER_ONE; /* whatever the set says, and however old it is */
	if (reader->info == NULL)
	{
		if (reader->on_date != NULL && missing_ok)
			return ANSWER_NULL;
		refuse_no_set(reader);
	}
	if (*from_slot == NULL || *to_slot == NULL)
	{
		if (missing_ok)
			return ANSWER_NULL;
		refuse_unknown(reader, *from_slot == NULL ? from : to);
	}
	if (stale_policy(reader, *from_slot) || stale_policy(reader, *to_slot))
		return ANSWER_NULL;
	return ANSWER_RATE;
}

static Numeric
slot_numeric(const PgrBlock *block, const PgrSlot *slot)
{
	return (Numeric) pgr_block_item(block, slot)->data;
}

static Numeric
copy_numeric(Numeric n)
{
	Numeric copy = palloc(VARSIZE(n));

	memcpy(copy, n, VARSIZE(n));
	return copy;
}

static bool
is_base(const RatesReader *reader, const PgrSlot *slot)
{
	return memcmp(pgr_block_key(reader->block, slot), reader->info->base,
				  PGR_CURRENCY_LEN) == 0;
}

static Numeric
compute_rate(const RatesReader *reader, const PgrSlot *from, const PgrSlot *to)
{
	Assert(reader->info != NULL);
	if (from == to)
		return int64_to_numeric(1);
	if (is_base(reader, from))
		return slot_numeric(reader->block, to);
	return pgr_rates_quotient(slot_numeric(reader->block, to),
							  slot_numeric(reader->block, from));
}

static CachedRate *
pair_of(RatesReader *reader, const PgrSlot *from, const PgrSlot *to)
{
	if (unlikely(reader->pairs == NULL))
	{
		reader->memory = AllocSetContextCreate(reader->call_context,
											   "pg_registry rates of a call",
											   ALLOCSET_SMALL_SIZES);
		reader->pairs = MemoryContextAllocZero(reader->call_context,
											   CACHED_RATES *
												   sizeof(CachedRate));
	}
	return &reader->pairs[cache_index(reader->block, from, to)];
}

/* Lives until the next pin. */
static Numeric
cached_rate(RatesReader *reader, const PgrSlot *from, const PgrSlot *to)
{
	CachedRate *pair = pair_of(reader, from, to);
	Numeric rate;
	MemoryContext caller;

	if (likely(pair->from == from && pair->to == to))
		return pair->rate;
	rate = compute_rate(reader, from, to);
	caller = MemoryContextSwitchTo(reader->memory);
	pair->from = NULL;
	pair->rate = copy_numeric(rate);
	pair->from = from;
	pair->to = to;
	MemoryContextSwitchTo(caller);
	return pair->rate;
}

/*
 * The shortest path: same pin, nothing can be refused, both currencies known,
 * the first one as a tuple holds it and the second one a constant.  NULL: take
 * the other path, which also sets reader->to.
 */
static pg_attribute_always_inline const PgrSlot *
from_slot_fast(FunctionCallInfo fcinfo, Datum from)
{
	const RatesReader *reader = fcinfo->flinfo->fn_extra;
	uint64 word;
	uint32 len;

	if (unlikely(reader == NULL || reader->token != pgr_pin_token ||
				 reader->to == NULL))
		return NULL;
	len = pgr_short_key(from, &word);
	if (unlikely(len == 0))
		return NULL;
	return pgr_block_find_short(reader->block, from, len, word);
}

/* After a look-up that succeeded and that nothing can make stale. */
static void
remember_to(RatesReader *reader, const PgrSlot *to)
{
	if (!reader->simple || !reader->to_is_constant ||
		reader->token == PGR_NO_TOKEN)
		return;
	if (reader->quotients == NULL)
		reader->quotients = MemoryContextAllocZero(reader->call_context,
												   CACHED_RATES *
													   sizeof(double));
	reader->to = to;
}

static pg_noinline Datum
rate_float8_slowly(FunctionCallInfo fcinfo)
{
	RatesReader *reader = reader_of(fcinfo, 1);
	const PgrSlot *from;
	const PgrSlot *to;

	switch (look_up(reader, pgr_text(PG_GETARG_DATUM(0)),
					pgr_text(PG_GETARG_DATUM(1)), false, &from, &to))
	{
		case ANSWER_RATE:
			remember_to(reader, to);
			PG_RETURN_FLOAT8(to->fixed.f8 / from->fixed.f8);
		case ANSWER_ONE:
			PG_RETURN_FLOAT8(1.0);
		case ANSWER_NULL:
			break;
	}
	PG_RETURN_NULL();
}

Datum
pgr_sql_rate_float8(PG_FUNCTION_ARGS)
{
	const PgrSlot *from = from_slot_fast(fcinfo, PG_GETARG_DATUM(0));

	if (likely(from != NULL))
	{
		RatesReader *reader = fcinfo->flinfo->fn_extra;
		Size i = (Size) (from - pgr_block_slots(reader->block));

		if (unlikely(i >= CACHED_RATES))
			PG_RETURN_FLOAT8(reader->to->fixed.f8 / from->fixed.f8);
		if (unlikely(reader->quotients[i] == 0))
			reader->quotients[i] = reader->to->fixed.f8 / from->fixed.f8;
		PG_RETURN_FLOAT8(reader->quotients[i]);
	}
	return rate_float8_slowly(fcinfo);
}

/* ------------------------------------------------------------------------
 * rate and convert
 * ------------------------------------------------------------------------
 */

/* Positions of the arguments that rate and convert share. */
typedef struct Positions
{
	int from;
	int on_date;
	int missing_ok;
	int max_age;
	int rates;
} Positions;

/* A reader of the set of one past day, valid until the next one is made. */
static void
reader_on_date(RatesReader *reader, const DateADT *date,
			   RatesReader *past_reader)
{
	const PgrPastSet *set;

	if (reader->past == NULL)
		reader->past = pgr_past_rates_create(reader->call_context);
	set = pgr_past_rates_on(reader->past, *date);
	*past_reader = (RatesReader){
		.block = set->block,
		.info = set->info,
		.stale = pgr_past_rates_stale(set, *date),
		.on_date = date,
	};
}

/* As rate_of_call_slowly; the arguments are not null. */
static pg_noinline Numeric
rate_on_date(RatesReader *reader, DateADT date, PgrText from, PgrText to,
			 bool missing_ok)
{
	RatesReader past;
	const PgrSlot *from_slot;
	const PgrSlot *to_slot;

	reader_on_date(reader, &date, &past);
	switch (look_up(&past, from, to, missing_ok, &from_slot, &to_slot))
	{
		case ANSWER_RATE:
			return compute_rate(&past, from_slot, to_slot);
		case ANSWER_ONE:
			return int64_to_numeric(1);
		case ANSWER_NULL:
			break;
	}
	return NULL;
}

static void
refuse_max_age_of_past(void)
{
	ereport(ERROR,
			(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
			 errmsg("on_date and max_age cannot be combined"),
			 errdetail("Rates of a past day do not age.")));
}

/* True: too old for this caller, who prefers NULL. */
static bool
older_than(const RatesReader *reader, Interval *max_age, bool missing_ok)
{
	TimestampTz oldest = DatumGetTimestampTz(
		DirectFunctionCall2(timestamptz_mi_interval,
							TimestampTzGetDatum(pgr_pin()->at),
							IntervalPGetDatum(max_age)));

	if (reader->info == NULL || reader->checked_at >= oldest)
		return false;
	if (!missing_ok)
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("exchange rates are older than max_age"),
				 errdetail("The last good answer came at %s.",
						   timestamptz_to_str(reader->checked_at))));
	return true;
}

/* Constants, and as if they had not been given: after all checks of a call. */
static bool
options_are_plain(FunctionCallInfo fcinfo, const Positions *at)
{
	return PG_ARGISNULL(at->on_date) && PG_ARGISNULL(at->max_age) &&
		argument_is_constant(fcinfo->flinfo, at->on_date) &&
		argument_is_constant(fcinfo->flinfo, at->max_age) &&
		argument_is_constant(fcinfo->flinfo, at->rates);
}

/*
 * The rate that a call of rate or convert asks for: NULL, or a numeric that
 * lives until the next pin.
 */
static pg_noinline Numeric
rate_of_call_slowly(FunctionCallInfo fcinfo, const Positions *at)
{
	RatesReader *reader;
	PgrText from;
	PgrText to;
	bool missing_ok;
	const PgrSlot *from_slot;
	const PgrSlot *to_slot;

	if (PG_ARGISNULL(at->from) || PG_ARGISNULL(at->from + 1) ||
		PG_ARGISNULL(at->rates))
		return NULL;
	pgr_currency_check_set_name(PG_GETARG_DATUM(at->rates));
	missing_ok = !PG_ARGISNULL(at->missing_ok) &&
		PG_GETARG_BOOL(at->missing_ok);
	reader = reader_of(fcinfo, at->from + 1);
	from = pgr_text(PG_GETARG_DATUM(at->from));
	to = pgr_text(PG_GETARG_DATUM(at->from + 1));
	if (unlikely(!PG_ARGISNULL(at->on_date)))
	{
		if (!PG_ARGISNULL(at->max_age))
			refuse_max_age_of_past();
		return rate_on_date(reader, PG_GETARG_DATEADT(at->on_date), from, to,
							missing_ok);
	}
	switch (look_up(reader, from, to, missing_ok, &from_slot, &to_slot))
	{
		case ANSWER_RATE:
			if (unlikely(!PG_ARGISNULL(at->max_age)) &&
				older_than(reader, PG_GETARG_INTERVAL_P(at->max_age),
						   missing_ok))
				return NULL;
			reader->plain = options_are_plain(fcinfo, at);
			remember_to(reader, to_slot);
			return cached_rate(reader, from_slot, to_slot);
		case ANSWER_ONE:
			return int64_to_numeric(1);
		case ANSWER_NULL:
			break;
	}
	return NULL;
}

static pg_attribute_always_inline Numeric
rate_of_call(FunctionCallInfo fcinfo, const Positions *at)
{
	RatesReader *reader = fcinfo->flinfo->fn_extra;

	if (likely(reader != NULL && reader->plain && !PG_ARGISNULL(at->from)))
	{
		const PgrSlot *from = from_slot_fast(fcinfo,
											 PG_GETARG_DATUM(at->from));

		if (likely(from != NULL))
			return cached_rate(reader, from, reader->to);
	}
	return rate_of_call_slowly(fcinfo, at);
}

Datum
pgr_sql_rate(PG_FUNCTION_ARGS)
{
	static const Positions positions = {0, 2, 3, 4, 5};
	Numeric rate = rate_of_call(fcinfo, &positions);

	if (rate == NULL)
		PG_RETURN_NULL();
	PG_RETURN_NUMERIC(copy_numeric(rate));
}

Datum
pgr_sql_convert(PG_FUNCTION_ARGS)
{
	static const Positions positions = {1, 4, 5, 6, 7};
	Numeric rate;
	Datum result;

	if (PG_ARGISNULL(0))
		PG_RETURN_NULL();
	rate = rate_of_call(fcinfo, &positions);
	if (rate == NULL)
		PG_RETURN_NULL();
	result = DirectFunctionCall2(numeric_mul, PG_GETARG_DATUM(0),
								 NumericGetDatum(rate));
	if (!PG_ARGISNULL(3))
		result = DirectFunctionCall2(numeric_round, result,
									 PG_GETARG_DATUM(3));
	PG_RETURN_DATUM(result);
}

/* ------------------------------------------------------------------------
 * quote
 * ------------------------------------------------------------------------
 */

#define QUOTE_COLUMNS 9

Datum
pgr_sql_quote(PG_FUNCTION_ARGS)
{
	RatesReader *reader;
	RatesReader past;
	DateADT date;
	PgrText from;
	PgrText to;
	const PgrSlot *from_slot;
	const PgrSlot *to_slot;
	TupleDesc description;
	Datum values[QUOTE_COLUMNS] = {0};
	bool nulls[QUOTE_COLUMNS] = {0};
	Answer answer;

	if (get_call_result_type(fcinfo, NULL, &description) != TYPEFUNC_COMPOSITE)
		elog(ERROR, "return type must be a row type");
	if (PG_ARGISNULL(0) || PG_ARGISNULL(1) || PG_ARGISNULL(3))
		PG_RETURN_NULL();
	pgr_currency_check_set_name(PG_GETARG_DATUM(3));
	reader = reader_of(fcinfo, 1);
	if (!PG_ARGISNULL(2))
	{
		date = PG_GETARG_DATEADT(2);
		reader_on_date(reader, &date, &past);
		reader = &past;
	}
	from = pgr_text(PG_GETARG_DATUM(0));
	to = pgr_text(PG_GETARG_DATUM(1));
	answer = look_up(reader, from, to, false, &from_slot, &to_slot);
	if (answer == ANSWER_NULL)
		PG_RETURN_NULL();
	if (reader->info == NULL)
		refuse_no_set(reader);

	values[0] = NumericGetDatum(
		answer == ANSWER_ONE ?
			int64_to_numeric(1) :
			copy_numeric(compute_rate(reader, from_slot, to_slot)));
	values[1] = PointerGetDatum(cstring_to_text_with_len(from.data, from.len));
	values[2] = PointerGetDatum(cstring_to_text_with_len(to.data, to.len));
	values[3] = CStringGetTextDatum(reader->info->base);
	values[4] = DateADTGetDatum(reader->info->value_date);
	values[5] = TimestampTzGetDatum(reader->info->fetched_at);
	values[6] = CStringGetTextDatum(reader->info->source);
	values[7] = Int64GetDatum(pgr_rates_row(reader->info));
	nulls[7] = values[7] == 0;
	values[8] = BoolGetDatum(
		reader->stale != PGR_STALE_NO ||
		(answer == ANSWER_RATE &&
		 ((from_slot->flags | to_slot->flags) & PGR_SLOT_MISSING) != 0));
	PG_RETURN_DATUM(HeapTupleGetDatum(
		heap_form_tuple(BlessTupleDesc(description), values, nulls)));
}
