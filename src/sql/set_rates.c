/*
 * sql/set_rates.c
 *	  set_rates, accept_rates, withdraw_rates: sets of rates by hand, as changes
 *	  of this transaction, in the tables and in the image.
 */
#include "postgres.h"

#include "access/xact.h"
#include "fmgr.h"
#include "utils/builtins.h"
#include "utils/fmgrprotos.h"
#include "utils/jsonb.h"
#include "utils/numeric.h"
#include "utils/timestamp.h"

#include "base/compat.h"
#include "durable/rate_sets.h"
#include "registry/rates.h"
#include "registry/write.h"
#include "sql/currency.h"

PG_FUNCTION_INFO_V1(pgr_sql_set_rates);
PG_FUNCTION_INFO_V1(pgr_sql_accept_rates);
PG_FUNCTION_INFO_V1(pgr_sql_withdraw_rates);

/* ------------------------------------------------------------------------
 * A set by hand
 * ------------------------------------------------------------------------
 */

/* Digits with at most one point between or before them, as in a decimal. */
static bool
is_decimal(const char *text)
{
	Size whole = strspn(text, "0123456789");
	Size fraction;

	if (text[whole] == '\0')
		return whole > 0;
	fraction = strspn(text + whole + 1, "0123456789");
	return text[whole] == '.' && fraction > 0 &&
		text[whole + 1 + fraction] == '\0';
}

/* A JSON number, or a string that is a decimal. */
static Numeric
rate_member(const char *code, JsonbValue *member)
{
	Numeric rate = NULL;
	PgrRateCheck check = PGR_RATE_NOT_POSITIVE;

	if (member->type == jbvNumeric)
		rate = member->val.numeric;
	else if (member->type == jbvString)
	{
		char *text = pnstrdup(member->val.string.val, member->val.string.len);

		if (is_decimal(text))
			rate = DatumGetNumeric(
				DirectFunctionCall3(numeric_in, CStringGetDatum(text),
									ObjectIdGetDatum(InvalidOid),
									Int32GetDatum(-1)));
	}
	if (rate != NULL)
		check = pgr_rates_check(rate);
	if (check == PGR_RATE_OUT_OF_RANGE)
		ereport(ERROR,
				(errcode(ERRCODE_NUMERIC_VALUE_OUT_OF_RANGE),
				 errmsg("the rate of %s is out of range", code),
				 errdetail("Rates are between 1e-%d and 1e%d and have at most %d decimal places.",
						   PGR_RATE_MAX_EXPONENT, PGR_RATE_MAX_EXPONENT,
						   PGR_RATE_MAX_SCALE)));
	if (check != PGR_RATE_OK)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("the rate of %s is not a positive number", code)));
	return rate;
}

static void
check_base_member(const PgrRateSet *set, const PgrRate *rate)
{
	if (strcmp(rate->code, set->base) == 0 &&
		DatumGetInt32(
			DirectFunctionCall2(numeric_cmp, NumericGetDatum(rate->value),
								NumericGetDatum(int64_to_numeric(1)))) != 0)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("the rate of the base %s must be 1", set->base)));
}

static void
fill_set(PgrRateSet *set, Jsonb *rates)
{
	JsonbIterator *iterator;
	JsonbValue key;
	JsonbValue member;

	if (!JB_ROOT_IS_OBJECT(rates) || JB_ROOT_COUNT(rates) == 0)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("rates must be a JSON object of currency codes and rates, and not empty")));
	if (JB_ROOT_COUNT(rates) > PGR_RATES_MAX_CURRENCIES)
		ereport(ERROR,
				(errcode(ERRCODE_PROGRAM_LIMIT_EXCEEDED),
				 errmsg("a set has at most %d rates",
						PGR_RATES_MAX_CURRENCIES)));
	set->rates = palloc(JB_ROOT_COUNT(rates) * sizeof(PgrRate));
	iterator = JsonbIteratorInit(&rates->root);
	(void) JsonbIteratorNext(&iterator, &key, true);
	while (JsonbIteratorNext(&iterator, &key, true) == WJB_KEY)
	{
		PgrRate *rate = &set->rates[set->nrates++];
		PgrText code = {key.val.string.val, key.val.string.len};

		pgr_currency_check(code);
		memcpy(rate->code, code.data, PGR_CURRENCY_LEN);
		rate->code[PGR_CURRENCY_LEN] = '\0';
		(void) JsonbIteratorNext(&iterator, &member, true);
		rate->value = rate_member(rate->code, &member);
		check_base_member(set, rate);
	}
}

static void
refuse_null(const char *name)
{
	ereport(ERROR,
			(errcode(ERRCODE_NULL_VALUE_NOT_ALLOWED),
			 errmsg("%s must not be null", name)));
}

Datum
pgr_sql_set_rates(PG_FUNCTION_ARGS)
{
	static const char *const names[] = {"base", "rates", "value_date", "name"};
	PgrRateSet set = {.source = PGR_RATES_BY_HAND, .manual = true};
	PgrDefinition definition;
	PgrText base;

	pgr_write_allowed_here("registry.set_rates()");
	for (int i = 0; i < (int) lengthof(names); i++)
		if (PG_ARGISNULL(i))
			refuse_null(names[i]);
	base = pgr_text(PG_GETARG_DATUM(0));
	pgr_currency_check(base);
	pgr_currency_check_set_name(PG_GETARG_DATUM(3));
	memcpy(set.base, base.data, PGR_CURRENCY_LEN);
	set.value_date = PG_GETARG_DATEADT(2);
	if (DATE_NOT_FINITE(set.value_date) ||
		set.value_date >= TIMESTAMP_END_JULIAN - POSTGRES_EPOCH_JDATE)
		ereport(ERROR,
				(errcode(ERRCODE_DATETIME_VALUE_OUT_OF_RANGE),
				 errmsg("value_date is out of range")));
	set.fetched_at = set.checked_at = GetCurrentTransactionStartTimestamp();
	fill_set(&set, PG_GETARG_JSONB_P(1));
	pgr_write_open_rates(&definition);
	pgr_rate_sets_publish(&set, NULL);
	pgr_rates_set(&definition, &set);
	PG_RETURN_INT64(set.rate_set);
}

/* ------------------------------------------------------------------------
 * Judging sets that are there
 * ------------------------------------------------------------------------
 */

/* The lock, then the row as it is under it. */
static void
open_set(int64 id, PgrRateSetRow *row)
{
	(void) pgr_write_lock_rates(true);
	if (!pgr_rate_sets_find(id, PGR_VIEW_NEWEST, row))
		ereport(ERROR,
				(errcode(ERRCODE_UNDEFINED_OBJECT),
				 errmsg("there is no rate set %lld", (long long) id),
				 errhint("See registry.rate_sets.")));
	if (row->status == PGR_RATE_SET_WITHDRAWN)
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("rate set %lld has been withdrawn", (long long) id),
				 errhint("To use its rates all the same, give them to registry.set_rates().")));
}

Datum
pgr_sql_accept_rates(PG_FUNCTION_ARGS)
{
	PgrDefinition definition;
	PgrRateSetRow row;

	pgr_write_allowed_here("registry.accept_rates()");
	if (PG_ARGISNULL(0))
		refuse_null("rate_set");
	open_set(PG_GETARG_INT64(0), &row);
	if (row.status == PGR_RATE_SET_PUBLISHED)
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("rate set %lld is published already",
						(long long) PG_GETARG_INT64(0))));
	pgr_rate_sets_read_rates(&row.set, PGR_VIEW_NEWEST);
	pgr_rate_sets_accept(&row);
	pgr_write_open_rates(&definition);
	pgr_rates_set(&definition, &row.set);
	PG_RETURN_VOID();
}

/*
 * This database has read this set: it reads the one before it, as of now, if
 * there is one.
 */
static void
serve_newest(PgrRateSet *withdrawn)
{
	PgrRateSetRow newest = {0};
	PgrDefinition definition;

	if (pgr_rate_sets_newest(PGR_VIEW_NEWEST, &newest))
		pgr_rate_sets_read_rates(&newest.set, PGR_VIEW_NEWEST);
	else
		memset(&newest, 0, sizeof(newest));
	pgr_rate_sets_read_rates(withdrawn, PGR_VIEW_NEWEST);
	newest.set.published_at = GetCurrentTimestamp();
	newest.set.refused = pgr_rates_identity(withdrawn);
	pgr_write_open_rates(&definition);
	pgr_rates_replace(&definition, &newest.set);
}

Datum
pgr_sql_withdraw_rates(PG_FUNCTION_ARGS)
{
	PgrRateSetRow row;
	char *reason;
	bool is_served;

	pgr_write_allowed_here("registry.withdraw_rates()");
	if (PG_ARGISNULL(0))
		refuse_null("rate_set");
	if (PG_ARGISNULL(1))
		refuse_null("reason");
	reason = text_to_cstring(PG_GETARG_TEXT_PP(1));
	if (reason[strspn(reason, " ")] == '\0')
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("reason must not be empty")));
	open_set(PG_GETARG_INT64(0), &row);
	is_served = pgr_rates_newest_row() == row.set.rate_set;
	pgr_rate_sets_withdraw(&row, reason);
	if (is_served)
		serve_newest(&row.set);
	PG_RETURN_VOID();
}
