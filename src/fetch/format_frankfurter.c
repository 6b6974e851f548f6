/*
 * fetch/format_frankfurter.c
 *	  {"amount":1.0,"base":"EUR","date":"2025-04-04","rates":{"AUD":1.8098,...}}
 *
 * Frankfurter's API v1, https://api.frankfurter.dev/v1/latest.  "date" is the
 * provider's last working day; the base is not among the rates.
 */
#include "postgres.h"

#include "utils/builtins.h"
#include "utils/fmgrprotos.h"

#include "fetch/formats.h"

/* The API multiplies every rate by it; absent means 1. */
static const char *
check_amount(JsonbContainer *root)
{
	JsonbValue amount;

	if (pgr_json_member(root, "amount", &amount) == NULL)
		return NULL;
	if (amount.type == jbvNumeric &&
		DatumGetBool(
			DirectFunctionCall2(numeric_eq,
								NumericGetDatum(amount.val.numeric),
								NumericGetDatum(int64_to_numeric(1)))))
		return NULL;
	return psprintf("the amount is %s instead of 1", pgr_json_show(&amount));
}

static const char *
read_rates(PgrBuilder *builder, JsonbContainer *rates)
{
	JsonbIterator *it = JsonbIteratorInit(rates);
	JsonbIteratorToken token;
	JsonbValue value;
	char code[PGR_CURRENCY_LEN + 1] = "";
	bool wanted = false;
	const char *error = NULL;

	while (error == NULL &&
		   (token = JsonbIteratorNext(&it, &value, true)) != WJB_DONE)
	{
		if (token == WJB_KEY)
		{
			wanted = pgr_builder_wants(builder, value.val.string.val,
									   value.val.string.len);
			if (wanted)
				memcpy(code, value.val.string.val, PGR_CURRENCY_LEN);
		}
		else if (token == WJB_VALUE && wanted)
			error = value.type == jbvNumeric ?
				pgr_builder_rate(builder, code, value.val.numeric) :
				pgr_builder_refuse(code, pgr_json_show(&value));
	}
	return error;
}

const char *
pgr_format_frankfurter(PgrBuilder *builder, JsonbContainer *root)
{
	JsonbContainer *rates = pgr_json_object(root, "rates");
	JsonbValue base;
	JsonbValue date;
	const char *error;

	if (rates == NULL || pgr_json_string(root, "base", &base) == NULL)
		return pgr_shape_explain(root);
	if (pgr_json_string(root, "date", &date) == NULL)
	{
		error = pgr_shape_refuse(root);
		return error != NULL ? error : "there is no date";
	}

	if ((error = check_amount(root)) != NULL ||
		(error = pgr_builder_base(builder, base.val.string.val,
								  base.val.string.len)) != NULL ||
		(error = pgr_builder_date(builder, date.val.string.val,
								  date.val.string.len)) != NULL)
		return error;
	return read_rates(builder, rates);
}
