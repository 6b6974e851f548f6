/*
 * sql/state.c
 *	  Changing registries: create, drop, put, delete.
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
#include "registry/directory.h"
#include "registry/write.h"

PG_FUNCTION_INFO_V1(pgr_sql_create_registry);
PG_FUNCTION_INFO_V1(pgr_sql_drop_registry);
PG_FUNCTION_INFO_V1(pgr_sql_put);
PG_FUNCTION_INFO_V1(pgr_sql_put_any);
PG_FUNCTION_INFO_V1(pgr_sql_put_many);
PG_FUNCTION_INFO_V1(pgr_sql_delete);

static void
refuse_null(FunctionCallInfo fcinfo, int argument, const char *name)
{
	if (!PG_ARGISNULL(argument))
		return;
	ereport(ERROR,
			(errcode(ERRCODE_NULL_VALUE_NOT_ALLOWED),
			 errmsg("%s must not be null", name)));
}

static PgrText
name_argument(FunctionCallInfo fcinfo)
{
	refuse_null(fcinfo, 0, "the registry name");
	return pgr_text(PG_GETARG_DATUM(0));
}

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

	refuse_null(fcinfo, 1, "the key");
	key = pgr_text(PG_GETARG_DATUM(1));
	check_key(key);
	return key;
}

/* ------------------------------------------------------------------------
 * Registries
 * ------------------------------------------------------------------------
 */

static void
not_yet(const char *what, const char *hint)
{
	ereport(ERROR,
			(errcode(ERRCODE_FEATURE_NOT_SUPPORTED),
			 errmsg("%s is not supported yet", what),
			 hint ? errhint("%s", hint) : 0));
}

static void
refuse_unsupported_options(FunctionCallInfo fcinfo)
{
	char *keys = text_to_cstring(PG_GETARG_TEXT_PP(2));
	char *on_stale = text_to_cstring(PG_GETARG_TEXT_PP(5));

	if (strcmp(keys, "duplicate") == 0)
		not_yet("keys => 'duplicate'", NULL);
	if (strcmp(keys, "unique") != 0)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("keys must be 'unique', not \"%s\"", keys)));
	if (PG_GETARG_BOOL(3))
		not_yet(
			"a durable registry",
			"Create it with durable => false: its contents end with the server.");
	if (!PG_ARGISNULL(4))
		not_yet("max_age", NULL);
	if (strcmp(on_stale, "null") == 0 || strcmp(on_stale, "error") == 0)
		not_yet("on_stale other than 'serve'", NULL);
	if (strcmp(on_stale, "serve") != 0)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("on_stale must be 'serve', 'null' or 'error', not \"%s\"",
						on_stale)));
	if (PG_GETARG_BOOL(6))
		not_yet("notify => true", NULL);
}

static void
check_registry_name(PgrText name)
{
	if (name.len == 0)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_NAME),
				 errmsg("a registry name must not be empty")));
	if (name.len >= PGR_NAME_LEN)
		ereport(ERROR,
				(errcode(ERRCODE_NAME_TOO_LONG),
				 errmsg("a registry name of %u bytes is too long", name.len),
				 errdetail("Names have at most %d bytes.", PGR_NAME_LEN - 1)));
	if (name.len == strlen(PGR_RATES_NAME) &&
		memcmp(name.data, PGR_RATES_NAME, name.len) == 0)
		ereport(ERROR,
				(errcode(ERRCODE_RESERVED_NAME),
				 errmsg("the registry name \"%s\" is reserved for exchange rates",
						PGR_RATES_NAME)));
}

/* An equal definition is fine with if_not_exists, another never is. */
static void
check_existing(PgrText name, const PgrDefinition *existing, PgrValueType type,
			   bool if_not_exists)
{
	if (existing->value_type != type)
		ereport(ERROR,
				(errcode(ERRCODE_DUPLICATE_OBJECT),
				 errmsg("registry \"%.*s\" already exists with another definition",
						(int) name.len, name.data),
				 errdetail("Its value type is %s, not %s.",
						   pgr_value_type_name(existing->value_type),
						   pgr_value_type_name(type))));
	ereport(if_not_exists ? NOTICE : ERROR,
			(errcode(ERRCODE_DUPLICATE_OBJECT),
			 if_not_exists ?
			 errmsg("registry \"%.*s\" already exists, skipping",
					(int) name.len, name.data) :
			 errmsg("registry \"%.*s\" already exists", (int) name.len,
					name.data)));
}

static PgrValueType
value_type_argument(Oid type)
{
	PgrValueType value_type;

	if (!pgr_value_type_from_oid(type, &value_type))
		ereport(ERROR,
				(errcode(ERRCODE_FEATURE_NOT_SUPPORTED),
				 errmsg("a registry cannot hold values of type %s",
						format_type_extended(type, -1, FORMAT_TYPE_ALLOW_INVALID)),
				 errhint("Use jsonb, text, numeric, float8, bigint, boolean or timestamptz.")));
	return value_type;
}

Datum
pgr_sql_create_registry(PG_FUNCTION_ARGS)
{
	static const char *const names[] =
		{"the registry name", "value_type", "keys",         "durable", NULL,
		 "on_stale",          "notify",     "if_not_exists"};
	PgrText name;
	PgrDefinition existing;
	PgrDefinition definition = {.kind = PGR_BLOCK_REGISTRY};

	pgr_write_allowed_here("registry.create_registry()");
	for (int i = 0; i < (int) lengthof(names); i++)
		if (names[i] != NULL)
			refuse_null(fcinfo, i, names[i]);
	name = pgr_text(PG_GETARG_DATUM(0));
	definition.value_type = value_type_argument(PG_GETARG_OID(1));
	refuse_unsupported_options(fcinfo);
	check_registry_name(name);
	if (pgr_write_find_for_ddl(name, false, &existing))
	{
		check_existing(name, &existing, definition.value_type,
					   PG_GETARG_BOOL(7));
		PG_RETURN_VOID();
	}
	definition.database = existing.database;
	definition.extension = existing.extension;
	definition.owner = GetUserId();
	definition.name_len = (uint16) name.len;
	definition.created_at = GetCurrentTransactionStartTimestamp();
	memcpy(definition.name, name.data, name.len);
	pgr_pending_create(&definition);
	PG_RETURN_VOID();
}

Datum
pgr_sql_drop_registry(PG_FUNCTION_ARGS)
{
	PgrText name;
	PgrDefinition existing;

	pgr_write_allowed_here("registry.drop_registry()");
	name = name_argument(fcinfo);
	refuse_null(fcinfo, 1, "if_exists");
	refuse_null(fcinfo, 2, "cascade");
	if (name.len > 0 && name.len < PGR_NAME_LEN)
		check_registry_name(name);
	if (pgr_write_find_for_ddl(name, true, &existing))
	{
		pgr_pending_drop(&existing);
		PG_RETURN_VOID();
	}
	if (!PG_GETARG_BOOL(1))
		pgr_reader_refuse(name);
	ereport(NOTICE,
			(errmsg("registry \"%.*s\" does not exist, skipping",
					pg_mbcliplen(name.data, name.len, PGR_NAME_LEN - 1),
					name.data)));
	PG_RETURN_VOID();
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
	PgrText name = name_argument(fcinfo);
	PgrText key = key_argument(fcinfo);
	PgrDefinition definition;
	PgrValue value;
	TimestampTz expires_at;

	refuse_null_value(fcinfo);
	expires_at = ttl_argument(fcinfo);
	pgr_write_open("registry.put()", name, &key, &definition);
	pgr_value_from_text(definition.value_type,
						text_to_cstring(PG_GETARG_TEXT_PP(2)), &value);
	pgr_write_recheck(&definition);
	pgr_pending_put(&definition, key.data, key.len, &value, expires_at);
	PG_RETURN_VOID();
}

Datum
pgr_sql_put_any(PG_FUNCTION_ARGS)
{
	PgrText name = name_argument(fcinfo);
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
	pgr_write_open("registry.put()", name, &key, &definition);
	pgr_value_from_datum(definition.value_type, PG_GETARG_DATUM(2), type,
						 &value);
	pgr_write_recheck(&definition);
	pgr_pending_put(&definition, key.data, key.len, &value, expires_at);
	PG_RETURN_VOID();
}

Datum
pgr_sql_delete(PG_FUNCTION_ARGS)
{
	PgrText name = name_argument(fcinfo);
	PgrText key;
	PgrDefinition definition;

	refuse_null(fcinfo, 1, "the key");
	key = pgr_text(PG_GETARG_DATUM(1));
	pgr_write_open("registry.delete()", name, &key, &definition);
	if (key.len == 0 || key.len > PGR_KEY_MAX_BYTES ||
		!pgr_write_key_exists(&definition, key))
		PG_RETURN_BOOL(false);
	pgr_pending_delete(&definition, key.data, key.len);
	PG_RETURN_BOOL(true);
}

static void
member_context(void *arg)
{
	const PgrText *key = arg;

	errcontext("value of key \"%.*s\"", pg_mbcliplen(key->data, key->len, 63),
			   key->data);
}

static void
put_member(const PgrDefinition *definition, const JsonbValue *key_value,
		   JsonbValue *member)
{
	PgrValueType type = (PgrValueType) definition->value_type;
	PgrText key = {key_value->val.string.val, key_value->val.string.len};
	PgrValue value;
	ErrorContextCallback context = {error_context_stack, member_context, &key};

	check_key(key);
	if (member->type == jbvNull && type != PGR_TYPE_JSONB)
		ereport(ERROR,
				(errcode(ERRCODE_NULL_VALUE_NOT_ALLOWED),
				 errmsg("the value of key \"%.*s\" must not be null",
						pg_mbcliplen(key.data, key.len, 63), key.data),
				 errhint("Use registry.delete().")));
	error_context_stack = &context;
	pgr_value_from_jsonb(type, member, &value);
	error_context_stack = context.previous;
	pgr_write_recheck(definition);
	pgr_pending_put(definition, key.data, key.len, &value, 0);
}

Datum
pgr_sql_put_many(PG_FUNCTION_ARGS)
{
	PgrText name = name_argument(fcinfo);
	PgrDefinition definition;
	Jsonb *entries;
	JsonbIterator *iterator;
	JsonbValue key;
	JsonbValue member;
	int64 n = 0;

	refuse_null(fcinfo, 1, "entries");
	refuse_null(fcinfo, 2, "replace");
	if (PG_GETARG_BOOL(2))
		not_yet("replace => true", NULL);
	pgr_write_open("registry.put_many()", name, NULL, &definition);
	entries = PG_GETARG_JSONB_P(1);
	if (!JB_ROOT_IS_OBJECT(entries))
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("entries must be a JSON object of keys and values")));
	iterator = JsonbIteratorInit(&entries->root);
	(void) JsonbIteratorNext(&iterator, &key, true);
	while (JsonbIteratorNext(&iterator, &key, true) == WJB_KEY)
	{
		(void) JsonbIteratorNext(&iterator, &member, true);
		put_member(&definition, &key, &member);
		n++;
	}
	PG_RETURN_INT64(n);
}
