/*
 * sql/set_rates.c
 *	  set_rates: a set of rates by hand, as a change of this transaction.
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
#include "registry/rates.h"
#include "registry/write.h"
#include "sql/currency.h"

PG_FUNCTION_INFO_V1(pgr_sql_set_rates);

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

Datum
pgr_sql_set_rates(PG_FUNCTION_ARGS)
{
	static const char *const names[] = {"base", "rates", "value_date", "name"};
	PgrRateSet set = {.source = "set_rates"};
	PgrDefinition definition;
	PgrText base;

	pgr_write_allowed_here("registry.set_rates()");
	for (int i = 0; i < (int) lengthof(names); i++)
		if (PG_ARGISNULL(i))
			ereport(ERROR,
					(errcode(ERRCODE_NULL_VALUE_NOT_ALLOWED),
					 errmsg("%s must not be null", names[i])));
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
	set.fetched_at = GetCurrentTransactionStartTimestamp();
	fill_set(&set, PG_GETARG_JSONB_P(1));
	pgr_write_open_rates(&definition);
	pgr_rates_set(&definition, &set);
	PG_RETURN_NULL(); /* rate_set: until rate sets exist */
}
