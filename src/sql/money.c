/*
 * sql/money.c
 *	  minor_units and round_money.
 */
#include "postgres.h"

#include "fmgr.h"
#include "mb/pg_wchar.h"
#include "utils/builtins.h"
#include "utils/fmgrprotos.h"
#include "utils/numeric.h"

#include "base/compat.h"
#include "base/iso4217.h"
#include "registry/reader.h"

PG_FUNCTION_INFO_V1(pgr_sql_minor_units);
PG_FUNCTION_INFO_V1(pgr_sql_round_money);

static int
units_of(PgrText currency)
{
	char upper[PGR_ISO4217_LEN + 1];
	int units = currency.len == PGR_ISO4217_LEN ?
		pgr_iso4217_minor_units(currency.data) :
		PGR_MINOR_UNITS_UNKNOWN;
	bool meant = units == PGR_MINOR_UNITS_UNKNOWN &&
		pgr_iso4217_upper(currency.data, currency.len, upper) &&
		pgr_iso4217_minor_units(upper) != PGR_MINOR_UNITS_UNKNOWN;

	if (units == PGR_MINOR_UNITS_UNKNOWN)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("\"%.*s\" is not a currency code of ISO 4217",
						pg_mbcliplen(currency.data, currency.len, 32),
						currency.data),
				 meant ? errhint("Did you mean \"%s\"?", upper) :
				 errhint("Codes are three upper-case letters, such as \"EUR\".")));
	return units;
}

/* Decimal places of amounts in a currency; NULL for codes that have none. */
Datum
pgr_sql_minor_units(PG_FUNCTION_ARGS)
{
	int units = units_of(pgr_text(PG_GETARG_DATUM(0)));

	if (units == PGR_MINOR_UNITS_NONE)
		PG_RETURN_NULL();
	PG_RETURN_INT32(units);
}

static Datum
numeric_one(void)
{
	return NumericGetDatum(int64_to_numeric(1));
}

/* 10^-places */
static Datum
unit_of(int places)
{
	char text[32];

	snprintf(text, sizeof(text), "1e-%d", places);
	return DirectFunctionCall3(numeric_in, CStringGetDatum(text),
							   ObjectIdGetDatum(InvalidOid),
							   Int32GetDatum(-1));
}

/* Compare |amount - truncated| with half a unit: exact, in numeric. */
static int
compare_with_half(Datum amount, Datum truncated, int places)
{
	Datum rest = DirectFunctionCall1(numeric_abs,
									 DirectFunctionCall2(numeric_sub, amount,
														 truncated));
	Datum twice = DirectFunctionCall2(numeric_add, rest, rest);

	return DatumGetInt32(
		DirectFunctionCall2(numeric_cmp, twice, unit_of(places)));
}

static bool
is_odd(Datum truncated, int places)
{
	Datum units = DirectFunctionCall2(numeric_div_trunc, truncated,
									  unit_of(places));
	Datum two = DirectFunctionCall2(numeric_add, numeric_one(), numeric_one());
	Datum rest = DirectFunctionCall2(numeric_mod, units, two);

	return DatumGetInt32(
			   DirectFunctionCall2(numeric_cmp, rest,
								   NumericGetDatum(int64_to_numeric(0)))) != 0;
}

/* One unit further from zero. */
static Datum
away(Datum amount, Datum truncated, int places)
{
	Datum sign = DirectFunctionCall1(numeric_sign, amount);

	return DirectFunctionCall2(numeric_add, truncated,
							   DirectFunctionCall2(numeric_mul, sign,
												   unit_of(places)));
}

typedef enum RoundingMode
{
	HALF_UP, /* half away from zero, as round() does */
	HALF_EVEN,
	UP,  /* away from zero */
	DOWN /* towards zero */
} RoundingMode;

static RoundingMode
mode_argument(const char *mode)
{
	if (strcmp(mode, "half_up") == 0)
		return HALF_UP;
	if (strcmp(mode, "half_even") == 0)
		return HALF_EVEN;
	if (strcmp(mode, "up") == 0)
		return UP;
	if (strcmp(mode, "down") == 0)
		return DOWN;
	ereport(ERROR,
			(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
			 errmsg("unknown rounding mode \"%s\"", mode),
			 errhint("Use half_up, half_even, up or down.")));
}

static Datum
round_to(Datum amount, int places, RoundingMode mode)
{
	Datum truncated = DirectFunctionCall2(numeric_trunc, amount,
										  Int32GetDatum(places));
	int half;

	if (mode == HALF_UP)
		return DirectFunctionCall2(numeric_round, amount,
								   Int32GetDatum(places));
	if (mode == DOWN)
		return truncated;
	if (mode == UP)
		return DatumGetInt32(
				   DirectFunctionCall2(numeric_cmp, amount, truncated)) == 0 ?
			truncated :
			away(amount, truncated, places);
	half = compare_with_half(amount, truncated, places);
	if (half > 0 || (half == 0 && is_odd(truncated, places)))
		return away(amount, truncated, places);
	return truncated;
}

/*
 * An amount with the decimal places of its currency.  Modes: half_up (half
 * away from zero), half_even, up (away from zero), down (towards zero).
 */
Datum
pgr_sql_round_money(PG_FUNCTION_ARGS)
{
	Datum amount = PG_GETARG_DATUM(0);
	PgrText currency = pgr_text(PG_GETARG_DATUM(1));
	RoundingMode mode = mode_argument(text_to_cstring(PG_GETARG_TEXT_PP(2)));
	int units = units_of(currency);

	if (units == PGR_MINOR_UNITS_NONE)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("currency \"%.3s\" has no minor units",
						currency.data)));
	if (numeric_is_nan(DatumGetNumeric(amount)) ||
		numeric_is_inf(DatumGetNumeric(amount)))
		PG_RETURN_DATUM(amount);
	PG_RETURN_DATUM(round_to(amount, units, mode));
}
