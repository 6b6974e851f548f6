/*
 * sql/get.c
 *	  get_*: one value of one registry.
 *
 * The fast path of each is the product: no lock, no store to shared memory, no
 * palloc for a fixed-size result.
 *
 * Each function comes twice: with the key as text, and with a bigint that
 * stands for its decimal text.  The bodies are inlined into both, so that
 * neither pays for the other.
 */
#include "postgres.h"

#include "fmgr.h"
#include "utils/builtins.h"
#include "utils/timestamp.h"

#include "base/compat.h"
#include "registry/reader.h"

#define DEFINE_GETTER(name)                         \
	PG_FUNCTION_INFO_V1(pgr_sql_##name);            \
	PG_FUNCTION_INFO_V1(pgr_sql_##name##_by_int);   \
	Datum pgr_sql_##name(PG_FUNCTION_ARGS)          \
	{                                               \
		return name(fcinfo, KEY_TEXT);              \
	}                                               \
	Datum pgr_sql_##name##_by_int(PG_FUNCTION_ARGS) \
	{                                               \
		return name(fcinfo, KEY_BIGINT);            \
	}                                               \
	extern Datum pgr_sql_##name(PG_FUNCTION_ARGS)

typedef enum KeyKind
{
	KEY_TEXT,
	KEY_BIGINT
} KeyKind;

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
static pg_noinline bool
find(FunctionCallInfo fcinfo, KeyKind kind, PgrValueType *type,
	 PgrValue *value)
{
	char digits[PGR_INT_KEY_BYTES];
	PgrText key = kind == KEY_TEXT ? pgr_text(PG_GETARG_DATUM(1)) :
									 pgr_int_key(PG_GETARG_INT64(1), digits);
	PgrEntry entry;

	switch (find_fast(fcinfo, key, type, &entry))
	{
		case FOUND:
			pgr_value_of_entry(*type, &entry, value);
			return true;
		case NOT_FOUND:
			return false;
		default:
			return pgr_reader_find(fcinfo, pgr_text(PG_GETARG_DATUM(0)), key,
								   type, value);
	}
}

/* The shortest path; NULL: ask find(). */
static pg_attribute_always_inline const PgrSlot *
find_slot(FunctionCallInfo fcinfo, KeyKind kind)
{
	return kind == KEY_TEXT ? pgr_reader_slot(fcinfo) :
							  pgr_reader_slot_int(fcinfo);
}

static inline PgrValueType
type_read(FunctionCallInfo fcinfo)
{
	return ((const PgrReader *) fcinfo->flinfo->fn_extra)->value_type;
}

/* A value of a type of fixed size, in a large registry: the next best path. */
static pg_attribute_always_inline bool
find_fixed(FunctionCallInfo fcinfo, KeyKind kind, PgrValueType wanted,
		   PgrFixed *fixed)
{
	PgrEntry entry;

	if (kind != KEY_TEXT || !pgr_reader_entry(fcinfo, &entry) ||
		type_read(fcinfo) != wanted)
		return false;
	*fixed = entry.fixed;
	return true;
}

static pg_noinline Datum
get_float8_slowly(FunctionCallInfo fcinfo, KeyKind kind)
{
	PgrValueType type;
	PgrValue value;
	PgrFixed fixed;

	if (find_fixed(fcinfo, kind, PGR_TYPE_FLOAT8, &fixed))
		PG_RETURN_FLOAT8(fixed.f8);

	if (!find(fcinfo, kind, &type, &value))
		PG_RETURN_NULL();
	PG_RETURN_FLOAT8(pgr_value_to_float8(type, &value));
}

static pg_attribute_always_inline Datum
get_float8(FunctionCallInfo fcinfo, KeyKind kind)
{
	const PgrSlot *slot = find_slot(fcinfo, kind);

	if (likely(slot != NULL))
	{
		PgrValueType type = type_read(fcinfo);

		if (likely(type == PGR_TYPE_FLOAT8 ||
				   (type == PGR_TYPE_NUMERIC &&
					pgr_value_twin_is_exact(slot->fixed.f8))))
			PG_RETURN_FLOAT8(slot->fixed.f8);
	}
	return get_float8_slowly(fcinfo, kind);
}

static pg_noinline Datum
get_bigint_slowly(FunctionCallInfo fcinfo, KeyKind kind)
{
	PgrValueType type;
	PgrValue value;
	PgrFixed fixed;

	if (find_fixed(fcinfo, kind, PGR_TYPE_BIGINT, &fixed))
		PG_RETURN_INT64(fixed.i8);

	if (!find(fcinfo, kind, &type, &value))
		PG_RETURN_NULL();
	PG_RETURN_INT64(pgr_value_to_bigint(type, &value));
}

static pg_attribute_always_inline Datum
get_bigint(FunctionCallInfo fcinfo, KeyKind kind)
{
	const PgrSlot *slot = find_slot(fcinfo, kind);

	if (likely(slot != NULL && type_read(fcinfo) == PGR_TYPE_BIGINT))
		PG_RETURN_INT64(slot->fixed.i8);
	return get_bigint_slowly(fcinfo, kind);
}

static pg_noinline Datum
get_boolean_slowly(FunctionCallInfo fcinfo, KeyKind kind)
{
	PgrValueType type;
	PgrValue value;

	if (!find(fcinfo, kind, &type, &value))
		PG_RETURN_NULL();
	PG_RETURN_BOOL(pgr_value_to_boolean(type, &value));
}

static pg_attribute_always_inline Datum
get_boolean(FunctionCallInfo fcinfo, KeyKind kind)
{
	const PgrSlot *slot = find_slot(fcinfo, kind);

	if (likely(slot != NULL && type_read(fcinfo) == PGR_TYPE_BOOLEAN))
		PG_RETURN_BOOL(slot->fixed.i8 != 0);
	return get_boolean_slowly(fcinfo, kind);
}

static pg_noinline Datum
get_timestamptz_slowly(FunctionCallInfo fcinfo, KeyKind kind)
{
	PgrValueType type;
	PgrValue value;

	if (!find(fcinfo, kind, &type, &value))
		PG_RETURN_NULL();
	PG_RETURN_TIMESTAMPTZ(pgr_value_to_timestamptz(type, &value));
}

static pg_attribute_always_inline Datum
get_timestamptz(FunctionCallInfo fcinfo, KeyKind kind)
{
	const PgrSlot *slot = find_slot(fcinfo, kind);

	if (likely(slot != NULL && type_read(fcinfo) == PGR_TYPE_TIMESTAMPTZ))
		PG_RETURN_TIMESTAMPTZ(slot->fixed.i8);
	return get_timestamptz_slowly(fcinfo, kind);
}

static pg_noinline Datum
get_numeric_slowly(FunctionCallInfo fcinfo, KeyKind kind)
{
	PgrValueType type;
	PgrValue value;

	if (!find(fcinfo, kind, &type, &value))
		PG_RETURN_NULL();
	/* our own changes lie elsewhere, and go with a rollback to a savepoint */
	if (type == PGR_TYPE_NUMERIC && pgr_pin_lends && !pgr_pending_any())
		PG_RETURN_POINTER(value.data);
	return pgr_value_to_numeric(type, &value);
}

static pg_attribute_always_inline Datum
get_numeric(FunctionCallInfo fcinfo, KeyKind kind)
{
	const PgrSlot *slot = find_slot(fcinfo, kind);

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
	return get_numeric_slowly(fcinfo, kind);
}

static pg_attribute_always_inline Datum
get_text(FunctionCallInfo fcinfo, KeyKind kind)
{
	PgrValueType type;
	PgrValue value;

	if (!find(fcinfo, kind, &type, &value))
		PG_RETURN_NULL();
	return pgr_value_to_text(type, &value);
}

static pg_attribute_always_inline Datum
get(FunctionCallInfo fcinfo, KeyKind kind)
{
	PgrValueType type;
	PgrValue value;

	if (!find(fcinfo, kind, &type, &value))
		PG_RETURN_NULL();
	return pgr_value_to_jsonb(type, &value);
}

DEFINE_GETTER(get);
DEFINE_GETTER(get_text);
DEFINE_GETTER(get_numeric);
DEFINE_GETTER(get_float8);
DEFINE_GETTER(get_bigint);
DEFINE_GETTER(get_boolean);
DEFINE_GETTER(get_timestamptz);
