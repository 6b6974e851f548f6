/*
 * sql/get.c
 *	  get_*: one value of one registry.
 *
 * The fast path of each is the product: no lock, no store to shared memory, no
 * palloc for a fixed-size result.
 */
#include "postgres.h"

#include "fmgr.h"
#include "utils/builtins.h"

#include "base/compat.h"
#include "registry/reader.h"

PG_FUNCTION_INFO_V1(pgr_sql_get);
PG_FUNCTION_INFO_V1(pgr_sql_get_text);
PG_FUNCTION_INFO_V1(pgr_sql_get_numeric);
PG_FUNCTION_INFO_V1(pgr_sql_get_float8);

typedef enum Found
{
	NOT_FOUND,
	FOUND,
	UNRESOLVED
} Found;

/* Keys that no put accepts are in no registry. */
static inline bool
possible_key(PgrText key)
{
	return key.len <= PGR_KEY_MAX_BYTES;
}

static inline Found
find_fast(FunctionCallInfo fcinfo, PgrText key, PgrValueType *type,
		  PgrEntry *entry)
{
	const PgrBlock *block = pgr_reader_fast(fcinfo);
	const PgrReader *reader = fcinfo->flinfo->fn_extra;

	if (unlikely(block == NULL))
		return UNRESOLVED;
	if (unlikely(!possible_key(key)))
		return NOT_FOUND;
	if (!pgr_block_lookup(block, reader->generation, key.data, key.len,
						  entry) ||
		pgr_reader_expired(entry->expires_at))
		return NOT_FOUND;
	*type = (PgrValueType) reader->value_type;
	return FOUND;
}

/* Whatever path it takes; the value lies in shared memory. */
static bool
find(FunctionCallInfo fcinfo, PgrValueType *type, PgrValue *value)
{
	PgrText key = pgr_text(PG_GETARG_DATUM(1));
	PgrEntry entry;

	switch (find_fast(fcinfo, key, type, &entry))
	{
		case FOUND:
			pgr_value_of_entry(&entry, value);
			return true;
		case NOT_FOUND:
			return false;
		default:
			return pgr_reader_find(fcinfo, pgr_text(PG_GETARG_DATUM(0)), key,
								   type, value);
	}
}

static pg_noinline Datum
get_float8_slowly(FunctionCallInfo fcinfo)
{
	PgrValueType type;
	PgrValue value;

	if (!find(fcinfo, &type, &value))
		PG_RETURN_NULL();
	PG_RETURN_FLOAT8(pgr_value_to_float8(type, &value));
}

Datum
pgr_sql_get_float8(PG_FUNCTION_ARGS)
{
	const PgrSlot *slot = pgr_reader_slot(fcinfo);

	if (likely(slot != NULL))
	{
		const PgrReader *reader = fcinfo->flinfo->fn_extra;

		if (likely(reader->value_type == PGR_TYPE_FLOAT8 ||
				   (reader->value_type == PGR_TYPE_NUMERIC &&
					pgr_value_twin_is_exact(slot->fixed.f8))))
			PG_RETURN_FLOAT8(slot->fixed.f8);
	}
	return get_float8_slowly(fcinfo);
}

static pg_noinline Datum
get_numeric_slowly(FunctionCallInfo fcinfo)
{
	PgrValueType type;
	PgrValue value;

	if (!find(fcinfo, &type, &value))
		PG_RETURN_NULL();
	/* our own changes lie elsewhere, and go with a rollback to a savepoint */
	if (type == PGR_TYPE_NUMERIC && pgr_pin_lends && !pgr_pending_any())
		PG_RETURN_POINTER(value.data);
	return pgr_value_to_numeric(type, &value);
}

Datum
pgr_sql_get_numeric(PG_FUNCTION_ARGS)
{
	const PgrSlot *slot = pgr_reader_slot(fcinfo);

	if (likely(slot != NULL))
	{
		const PgrReader *reader = fcinfo->flinfo->fn_extra;
		const PgrItem *item = pgr_block_item(reader->block, slot);

		/* where it lies, while the pin outlives it: may_lend() in pin.c */
		if (likely(reader->value_type == PGR_TYPE_NUMERIC && pgr_pin_lends))
			PG_RETURN_POINTER(item->data);
		if (reader->value_type == PGR_TYPE_NUMERIC)
			PG_RETURN_DATUM(PointerGetDatum(
				memcpy(palloc(item->value_len), item->data, item->value_len)));
	}
	return get_numeric_slowly(fcinfo);
}

Datum
pgr_sql_get_text(PG_FUNCTION_ARGS)
{
	PgrValueType type;
	PgrValue value;

	if (!find(fcinfo, &type, &value))
		PG_RETURN_NULL();
	return pgr_value_to_text(type, &value);
}

Datum
pgr_sql_get(PG_FUNCTION_ARGS)
{
	PgrValueType type;
	PgrValue value;

	if (!find(fcinfo, &type, &value))
		PG_RETURN_NULL();
	return pgr_value_to_jsonb(type, &value);
}
