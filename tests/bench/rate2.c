/*
 * rate2.c
 *	  registry.rate with two arguments and none that have defaults, to see what
 *	  the four others cost the plain call.
 *
 * Compiled out of the same source as registry.rate, so that nothing else can
 * differ, and linked into a library that only scripts/bench loads.
 */
#define pgr_sql_rate bench_other_rate
#define pgr_sql_rate_float8 bench_other_rate_float8
#define pgr_sql_convert bench_other_convert
#define pgr_sql_quote bench_other_quote

#include "sql/rates.c"

PG_FUNCTION_INFO_V1(pgr_sql_bench_rate2);

Datum
pgr_sql_bench_rate2(PG_FUNCTION_ARGS)
{
	RatesReader *reader = fcinfo->flinfo->fn_extra;
	PgrText from;
	PgrText to;
	const PgrSlot *from_slot;
	const PgrSlot *to_slot;

	if (PG_ARGISNULL(0) || PG_ARGISNULL(1))
		PG_RETURN_NULL();
	from_slot = from_slot_fast(fcinfo, PG_GETARG_DATUM(0));
	if (likely(from_slot != NULL))
		PG_RETURN_NUMERIC(
			copy_numeric(cached_rate(reader, from_slot, reader->to)));
	reader = reader_of(fcinfo, 1);
	from = pgr_text(PG_GETARG_DATUM(0));
	to = pgr_text(PG_GETARG_DATUM(1));
	switch (look_up(reader, from, to, false, &from_slot, &to_slot))
	{
		case ANSWER_RATE:
			remember_to(reader, to_slot);
			PG_RETURN_NUMERIC(
				copy_numeric(cached_rate(reader, from_slot, to_slot)));
		case ANSWER_ONE:
			PG_RETURN_NUMERIC(int64_to_numeric(1));
		case ANSWER_NULL:
			break;
	}
	PG_RETURN_NULL();
}
