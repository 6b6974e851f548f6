/*
 * sql/state.c
 *	  Changing entries: put, delete, clear.
 *
 * None is STRICT: a NULL is an error that says what to do instead.
 */
#include "postgres.h"

#include "access/xact.h"
#include "fmgr.h"
#include "mb/pg_wchar.h"
#include "miscadmin.h"
#include "utils/builtins.h"
#include "utils/fmgrprotos.h"
#include "utils/jsonb.h"
#include "utils/timestamp.h"

#include "base/compat.h"
#include "durable/store.h"
#include "registry/directory.h"
#include "sql/arguments.h"

PG_FUNCTION_INFO_V1(pgr_sql_put);
PG_FUNCTION_INFO_V1(pgr_sql_put_any);
PG_FUNCTION_INFO_V1(pgr_sql_put_many);
PG_FUNCTION_INFO_V1(pgr_sql_delete);
PG_FUNCTION_INFO_V1(pgr_sql_clear);

static void
check_key(PgrText key)
{
	if (key.len == 0)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("a key must not be empty")));
	if (key.len > PGR_KEY_MAX_BYTES)
		ereport(ERROR,
				(errcode(ERRCODE_PROGRAM_LIMIT_EXCEEDED),
				 errmsg("a key of %u bytes is too long", key.len),
				 errdetail("Keys have at most %d bytes.", PGR_KEY_MAX_BYTES)));
}

static PgrText
key_argument(FunctionCallInfo fcinfo)
{
	PgrText key;

	pgr_refuse_null(fcinfo, 1, "the key");
	key = pgr_text(PG_GETARG_DATUM(1));
	check_key(key);
	return key;
}

/* ------------------------------------------------------------------------
 * Entries
 * ------------------------------------------------------------------------
 */

static TimestampTz
ttl_argument(FunctionCallInfo fcinfo)
{
	TimestampTz now = GetCurrentTransactionStartTimestamp();
	TimestampTz expires_at;

	if (PG_ARGISNULL(3))
		return 0;
	expires_at = DatumGetTimestampTz(
		DirectFunctionCall2(timestamptz_pl_interval, TimestampTzGetDatum(now),
							PG_GETARG_DATUM(3)));
	if (expires_at <= now)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("ttl must be positive")));
	return expires_at;
}

static void
refuse_null_value(FunctionCallInfo fcinfo)
{
	if (PG_ARGISNULL(2))
		ereport(ERROR,
				(errcode(ERRCODE_NULL_VALUE_NOT_ALLOWED),
				 errmsg("a value must not be null"),
				 errhint("Use registry.delete().")));
}

Datum
pgr_sql_put(PG_FUNCTION_ARGS)
{
	PgrText name = pgr_name_argument(fcinfo);
	PgrText key = key_argument(fcinfo);
	PgrDefinition definition;
	PgrValue value;
	TimestampTz expires_at;

	refuse_null_value(fcinfo);
	expires_at = ttl_argument(fcinfo);
	pgr_write_open("registry.put()", name, &key, PGR_MAY_WRITE, &definition);
	pgr_value_from_text(definition.value_type,
						text_to_cstring(PG_GETARG_TEXT_PP(2)), &value);
	pgr_write_recheck(&definition);
	pgr_store_put(&definition, key, &value, expires_at);
	PG_RETURN_VOID();
}

Datum
pgr_sql_put_any(PG_FUNCTION_ARGS)
{
	PgrText name = pgr_name_argument(fcinfo);
	PgrText key = key_argument(fcinfo);
	Oid type = get_fn_expr_argtype(fcinfo->flinfo, 2);
	PgrDefinition definition;
	PgrValue value;
	TimestampTz expires_at;

	refuse_null_value(fcinfo);
	if (!OidIsValid(type))
		ereport(ERROR,
				(errcode(ERRCODE_INDETERMINATE_DATATYPE),
				 errmsg("could not determine the data type of the value")));
	expires_at = ttl_argument(fcinfo);
	pgr_write_open("registry.put()", name, &key, PGR_MAY_WRITE, &definition);
	pgr_value_from_datum(definition.value_type, PG_GETARG_DATUM(2), type,
						 &value);
	pgr_write_recheck(&definition);
	pgr_store_put(&definition, key, &value, expires_at);
	PG_RETURN_VOID();
}

Datum
pgr_sql_delete(PG_FUNCTION_ARGS)
{
	PgrText name = pgr_name_argument(fcinfo);
	PgrText key;
	PgrDefinition definition;

	pgr_refuse_null(fcinfo, 1, "the key");
	key = pgr_text(PG_GETARG_DATUM(1));
	pgr_write_open("registry.delete()", name, &key, PGR_MAY_WRITE,
				   &definition);
	PG_RETURN_BOOL(key.len > 0 && key.len <= PGR_KEY_MAX_BYTES &&
				   pgr_store_delete(&definition, key));
}

static void
member_context(void *arg)
{
	const PgrText *key = arg;

	errcontext("value of key \"%.*s\"", pg_mbcliplen(key->data, key->len, 63),
			   key->data);
}

static void
encode_member(const PgrDefinition *definition, const JsonbValue *key_value,
			  JsonbValue *member, PgrStorePut *put)
{
	PgrValueType type = (PgrValueType) definition->value_type;
	PgrText key = {key_value->val.string.val, key_value->val.string.len};
	ErrorContextCallback context = {error_context_stack, member_context, &key};

	check_key(key);
	if (member->type == jbvNull && type != PGR_TYPE_JSONB)
		ereport(ERROR,
				(errcode(ERRCODE_NULL_VALUE_NOT_ALLOWED),
				 errmsg("the value of key \"%.*s\" must not be null",
						pg_mbcliplen(key.data, key.len, 63), key.data),
				 errhint("Use registry.delete().")));
	put->key = key;
	put->expires_at = 0;
	error_context_stack = &context;
	pgr_value_from_jsonb(type, member, &put->value);
	error_context_stack = context.previous;
	pgr_write_recheck(definition);
}

/* Put each member; how many there are. */
static int64
put_members(const PgrDefinition *definition, Jsonb *entries)
{
	int most = (int) JB_ROOT_COUNT(entries);
	PgrStorePut *puts = MemoryContextAllocHuge(CurrentMemoryContext,
											   Max(most, 1) *
												   sizeof(PgrStorePut));
	JsonbIterator *iterator = JsonbIteratorInit(&entries->root);
	JsonbValue key;
	JsonbValue member;
	int n = 0;

	(void) JsonbIteratorNext(&iterator, &key, true);
	while (JsonbIteratorNext(&iterator, &key, true) == WJB_KEY)
	{
		(void) JsonbIteratorNext(&iterator, &member, true);
		encode_member(definition, &key, &member, &puts[n++]);
	}
	pgr_store_put_many(definition, puts, n);
	return n;
}

/* How many members have a key that is there. */
static int64
count_known(const PgrDefinition *definition, Jsonb *entries)
{
	JsonbIterator *iterator = JsonbIteratorInit(&entries->root);
	JsonbValue key;
	JsonbValue member;
	int64 n = 0;

	(void) JsonbIteratorNext(&iterator, &key, true);
	while (JsonbIteratorNext(&iterator, &key, true) == WJB_KEY)
	{
		PgrText text = {key.val.string.val, (uint32) key.val.string.len};

		(void) JsonbIteratorNext(&iterator, &member, true);
		check_key(text);
		n += pgr_write_key_exists(definition, text);
	}
	return n;
}

/* Make room for a whole new state; how many entries go and do not come back. */
static int64
remove_others(const PgrDefinition *definition, Jsonb *entries)
{
	int64 kept = count_known(definition, entries);

	return pgr_store_clear(definition) - kept;
}

Datum
pgr_sql_put_many(PG_FUNCTION_ARGS)
{
	PgrText name = pgr_name_argument(fcinfo);
	PgrDefinition definition;
	Jsonb *entries;
	int64 removed = 0;

	pgr_refuse_null(fcinfo, 1, "entries");
	pgr_refuse_null(fcinfo, 2, "replace");
	pgr_write_open("registry.put_many()", name, NULL, PGR_MAY_WRITE,
				   &definition);
	entries = PG_GETARG_JSONB_P(1);
	if (!JB_ROOT_IS_OBJECT(entries))
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("entries must be a JSON object of keys and values")));
	if (PG_GETARG_BOOL(2))
		removed = remove_others(&definition, entries);
	PG_RETURN_INT64(removed + put_members(&definition, entries));
}

Datum
pgr_sql_clear(PG_FUNCTION_ARGS)
{
	PgrText name = pgr_name_argument(fcinfo);
	PgrDefinition definition;

	pgr_write_open("registry.clear()", name, NULL, PGR_MAY_WRITE, &definition);
	PG_RETURN_INT64(pgr_store_clear(&definition));
}
