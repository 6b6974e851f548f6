/*
 * noop.c
 *	  Functions to measure ours against: what a C function with the same
 *	  arguments costs that looks nothing up.
 *
 * A module of its own, which only scripts/bench builds and loads.  It uses
 * nothing of ours, so that the yardstick stays the same when we get faster.
 */
#include "postgres.h"

#include "fmgr.h"
#include "utils/builtins.h"
#include "utils/fmgrprotos.h"
#include "utils/memutils.h"
#include "utils/numeric.h"

PG_MODULE_MAGIC;

PG_FUNCTION_INFO_V1(bench_noop_float8);
PG_FUNCTION_INFO_V1(bench_noop_numeric);
PG_FUNCTION_INFO_V1(bench_hash_key);
PG_FUNCTION_INFO_V1(bench_hash_both);

Datum
bench_noop_float8(PG_FUNCTION_ARGS)
{
	PG_RETURN_FLOAT8(1.0);
}

/* Multiplying by 1 would be cheaper than by a rate. */
Datum
bench_noop_numeric(PG_FUNCTION_ARGS)
{
	static Numeric rate = NULL;
	MemoryContext caller;

	if (unlikely(rate == NULL))
	{
		caller = MemoryContextSwitchTo(TopMemoryContext);
		rate = DatumGetNumeric(
			DirectFunctionCall3(numeric_in,
								CStringGetDatum("0.925925925925925926"),
								ObjectIdGetDatum(InvalidOid),
								Int32GetDatum(-1)));
		MemoryContextSwitchTo(caller);
	}
	PG_RETURN_NUMERIC(rate);
}

/* A word at a time, multiplied to 128 bits and folded: as fast as it gets. */
static inline uint64
hash(const text *t)
{
	const char *p = VARDATA_ANY(t);
	uint32 left = VARSIZE_ANY_EXHDR(t);
	uint64 h = UINT64_C(0x9E3779B97F4A7C15) ^ left;
	uint64 word;

	for (;;)
	{
		unsigned __int128 product;

		word = 0;
		if (left >= 8)
			memcpy(&word, p, 8);
		else if (left >= 4)
		{
			uint32 low;
			uint32 high;

			memcpy(&low, p, 4);
			memcpy(&high, p + left - 4, 4);
			word = low | (uint64) high << 32;
		}
		else if (left > 0)
			word = (uint8) p[0] | (uint64) (uint8) p[left >> 1] << 8 |
				(uint64) (uint8) p[left - 1] << 16;
		product = (unsigned __int128) (word ^ UINT64_C(0xD1B54A32D192ED03)) *
			h;
		h = (uint64) product ^ (uint64) (product >> 64);
		if (left <= 8)
			return h;
		p += 8;
		left -= 8;
	}
}

/* What no lookup can do without that knows what the first argument names. */
Datum
bench_hash_key(PG_FUNCTION_ARGS)
{
	text *first = PG_GETARG_TEXT_PP(0);
	text *second = PG_GETARG_TEXT_PP(1);

	PG_RETURN_FLOAT8(
		(float8) (int32) (hash(second) + VARSIZE_ANY_EXHDR(first)));
}

/* What no lookup can do without that knows nothing. */
Datum
bench_hash_both(PG_FUNCTION_ARGS)
{
	text *first = PG_GETARG_TEXT_PP(0);
	text *second = PG_GETARG_TEXT_PP(1);

	PG_RETURN_FLOAT8((float8) (int32) (hash(second) ^ hash(first)));
}
