/*
 * fetch/format_frankfurter_v2.c
 *	  [{"date":"2026-03-18","base":"EUR","quote":"AUD","rate":1.6305},...]
 *
 * Frankfurter's API v2, /v2/rates.  It blends providers, so the dates of the
 * rows differ: the set's is the newest.  A row of the base itself may come.
 */
#include "postgres.h"

#include "fetch/formats.h"

static const char *
read_row(PgrBuilder *builder, JsonbContainer *row)
{
	JsonbValue base;
	JsonbValue quote;
	JsonbValue date;
	JsonbValue rate;
	const char *error;

	if (pgr_json_string(row, "base", &base) == NULL ||
		pgr_json_string(row, "quote", &quote) == NULL)
		return "a row has no base or no quote";
	if (!pgr_builder_wants(builder, quote.val.string.val,
						   quote.val.string.len))
		return NULL;
	error = pgr_builder_base(builder, base.val.string.val,
							 base.val.string.len);
	if (error != NULL)
		return error;
	if (pgr_json_string(row, "date", &date) == NULL)
		return psprintf("the row of %.3s has no date", quote.val.string.val);
	error = pgr_builder_date(builder, date.val.string.val,
							 date.val.string.len);
	if (error != NULL)
		return error;
	if (pgr_json_member(row, "rate", &rate) == NULL)
		return psprintf("the row of %.3s has no rate", quote.val.string.val);
	if (rate.type != jbvNumeric)
		return pgr_builder_refuse(quote.val.string.val, pgr_json_show(&rate));
	return pgr_builder_rate(builder, quote.val.string.val, rate.val.numeric);
}

const char *
pgr_format_frankfurter_v2(PgrBuilder *builder, JsonbContainer *root)
{
	JsonbIterator *it;
	JsonbIteratorToken token;
	JsonbValue value;
	const char *error = NULL;

	if (!JsonContainerIsArray(root))
		return pgr_shape_explain(root);

	it = JsonbIteratorInit(root);
	while (error == NULL &&
		   (token = JsonbIteratorNext(&it, &value, true)) != WJB_DONE)
	{
		if (token != WJB_ELEM)
			continue;
		if (value.type != jbvBinary ||
			!JsonContainerIsObject(value.val.binary.data))
			return "it is a JSON array, but not of objects";
		error = read_row(builder, value.val.binary.data);
	}
	return error;
}
