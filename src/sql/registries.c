/*
 * sql/registries.c
 *	  Creating, altering and dropping registries.
 *
 * None is STRICT: a NULL is an error.
 */
#include "postgres.h"

#include "access/xact.h"
#include "fmgr.h"
#include "mb/pg_wchar.h"
#include "miscadmin.h"
#include "utils/acl.h"
#include "utils/builtins.h"
#include "utils/fmgrprotos.h"
#include "utils/jsonb.h"
#include "utils/timestamp.h"

#include "base/compat.h"
#include "registry/directory.h"
#include "durable/store.h"
#include "registry/stale.h"
#include "sql/arguments.h"

PG_FUNCTION_INFO_V1(pgr_sql_create_registry);
PG_FUNCTION_INFO_V1(pgr_sql_alter_registry);
PG_FUNCTION_INFO_V1(pgr_sql_drop_registry);

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

	if (strcmp(keys, "duplicate") == 0)
		not_yet("keys => 'duplicate'", NULL);
	if (strcmp(keys, "unique") != 0)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("keys must be 'unique', not \"%s\"", keys)));
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

static const char *
max_age_text(int64 max_age_us)
{
	Interval *max_age = pgr_max_age_to_interval(max_age_us);

	return max_age ?
		DatumGetCString(
			DirectFunctionCall1(interval_out, IntervalPGetDatum(max_age))) :
		"none";
}

/* What differs first; NULL if nothing does. */
static const char *
difference(const PgrDefinition *existing, const PgrDefinition *wanted)
{
	if (existing->value_type != wanted->value_type)
		return psprintf("Its value type is %s, not %s.",
						pgr_value_type_name(existing->value_type),
						pgr_value_type_name(wanted->value_type));
	if (existing->durable != wanted->durable)
		return existing->durable ? "It is durable." : "It is not durable.";
	if (existing->max_age_us != wanted->max_age_us)
		return psprintf("Its max_age is %s, not %s.",
						max_age_text(existing->max_age_us),
						max_age_text(wanted->max_age_us));
	if (existing->on_stale != wanted->on_stale)
		return psprintf("Its on_stale is %s, not %s.",
						pgr_on_stale_name(existing->on_stale),
						pgr_on_stale_name(wanted->on_stale));
	return NULL;
}

/* An equal definition is fine with if_not_exists, another never is. */
static void
check_existing(PgrText name, const PgrDefinition *existing,
			   const PgrDefinition *wanted, bool if_not_exists)
{
	const char *differs = difference(existing, wanted);

	if (differs != NULL)
		ereport(ERROR,
				(errcode(ERRCODE_DUPLICATE_OBJECT),
				 errmsg("registry \"%.*s\" already exists with another definition",
						(int) name.len, name.data),
				 errdetail("%s", differs)));
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

static void
set_owner(PgrDefinition *definition, Oid owner)
{
	definition->owner = owner;
	strlcpy(definition->owner_name, GetUserNameFromId(owner, false),
			sizeof(definition->owner_name));
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
			pgr_refuse_null(fcinfo, i, names[i]);
	name = pgr_text(PG_GETARG_DATUM(0));
	definition.value_type = value_type_argument(PG_GETARG_OID(1));
	refuse_unsupported_options(fcinfo);
	definition.durable = PG_GETARG_BOOL(3);
	if (!PG_ARGISNULL(4))
		definition.max_age_us = pgr_max_age_from_interval(
			PG_GETARG_INTERVAL_P(4));
	definition.on_stale = pgr_on_stale_from_text(
		text_to_cstring(PG_GETARG_TEXT_PP(5)));
	check_registry_name(name);
	if (pgr_write_find_for_ddl(name, false, &existing))
	{
		check_existing(name, &existing, &definition, PG_GETARG_BOOL(7));
		PG_RETURN_VOID();
	}
	definition.database = existing.database;
	definition.extension = existing.extension;
	set_owner(&definition, GetUserId());
	definition.name_len = (uint16) name.len;
	definition.created_at = GetCurrentTransactionStartTimestamp();
	memcpy(definition.name, name.data, name.len);
	pgr_store_create(&definition);
	PG_RETURN_VOID();
}

Datum
pgr_sql_drop_registry(PG_FUNCTION_ARGS)
{
	PgrText name;
	PgrDefinition existing;

	pgr_write_allowed_here("registry.drop_registry()");
	name = pgr_name_argument(fcinfo);
	pgr_refuse_null(fcinfo, 1, "if_exists");
	pgr_refuse_null(fcinfo, 2, "cascade");
	if (name.len > 0 && name.len < PGR_NAME_LEN)
		check_registry_name(name);
	if (pgr_write_find_for_ddl(name, true, &existing))
	{
		pgr_store_drop(&existing);
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
 * alter_registry
 * ------------------------------------------------------------------------
 */

/* The members of "options" that are null, or of another type than "type". */
static void
check_option_type(const char *option, const JsonbValue *value,
				  enum jbvType type, bool null_allowed)
{
	if (value->type == type || (null_allowed && value->type == jbvNull))
		return;
	if (value->type == jbvNull)
		ereport(ERROR,
				(errcode(ERRCODE_NULL_VALUE_NOT_ALLOWED),
				 errmsg("option \"%s\" must not be null", option)));
	ereport(ERROR,
			(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
			 errmsg("option \"%s\" must be a JSON %s", option,
					type == jbvBool ? "boolean" : "string")));
}

static char *
string_option(const char *option, const JsonbValue *value)
{
	check_option_type(option, value, jbvString, false);
	return pnstrdup(value->val.string.val, value->val.string.len);
}

static void
alter_max_age(PgrDefinition *altered, const JsonbValue *value)
{
	Datum interval;

	check_option_type("max_age", value, jbvString, true);
	altered->max_age_us = 0;
	if (value->type == jbvNull)
		return;
	interval =
		DirectFunctionCall3(interval_in,
							CStringGetDatum(string_option("max_age", value)),
							ObjectIdGetDatum(InvalidOid), Int32GetDatum(-1));
	altered->max_age_us = pgr_max_age_from_interval(
		DatumGetIntervalP(interval));
}

static void
alter_on_stale(PgrDefinition *altered, const JsonbValue *value)
{
	altered->on_stale = pgr_on_stale_from_text(
		string_option("on_stale", value));
}

static void
alter_notify(PgrDefinition *altered, const JsonbValue *value)
{
	check_option_type("notify", value, jbvBool, false);
	if (value->val.boolean)
		not_yet("notify => true", NULL);
}

/*
 * As ALTER ... OWNER TO: its owner may give it to his own roles.  The privilege
 * "admin" is not enough, as the new owner could not be deprived of it.
 */
static void
alter_owner(PgrDefinition *altered, const JsonbValue *value)
{
	Oid owner = get_role_oid(string_option("owner", value), false);

	if (!pgr_access_is_owner(altered))
		ereport(ERROR,
				(errcode(ERRCODE_INSUFFICIENT_PRIVILEGE),
				 errmsg("must be owner of registry \"%s\"", altered->name)));
	check_is_member_of_role(GetUserId(), owner);
	set_owner(altered, owner);
}

static void
alter_name(PgrDefinition *altered, const JsonbValue *value)
{
	PgrText name = {string_option("name", value), 0};

	name.len = (uint32) strlen(name.data);
	check_registry_name(name);
	memset(altered->name, 0, sizeof(altered->name));
	memcpy(altered->name, name.data, name.len);
	altered->name_len = (uint16) name.len;
}

static void
alter_value_type(PgrDefinition *altered, const JsonbValue *value)
{
	char *name = string_option("value_type", value);

	altered->value_type = value_type_argument(DatumGetObjectId(
		DirectFunctionCall1(regtypein, CStringGetDatum(name))));
}

static const struct
{
	const char *name;
	void (*alter)(PgrDefinition *altered, const JsonbValue *value);
} options[] = {
	{"max_age", alter_max_age}, {"on_stale", alter_on_stale},
	{"notify", alter_notify},   {"owner", alter_owner},
	{"name", alter_name},       {"value_type", alter_value_type},
};

static void
alter_option(PgrDefinition *altered, const JsonbValue *key,
			 const JsonbValue *value)
{
	const char *name = key->val.string.val;
	int len = key->val.string.len;

	for (int i = 0; i < (int) lengthof(options); i++)
		if (len == (int) strlen(options[i].name) &&
			memcmp(name, options[i].name, len) == 0)
		{
			options[i].alter(altered, value);
			return;
		}
	ereport(ERROR,
			(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
			 errmsg("unrecognized option \"%.*s\"",
					pg_mbcliplen(name, len, 63), name),
			 errhint("Options are max_age, on_stale, notify, owner, name and value_type.")));
}

static void
alter_options(PgrDefinition *altered, Jsonb *json)
{
	JsonbIterator *iterator;
	JsonbValue key;
	JsonbValue value;

	if (!JB_ROOT_IS_OBJECT(json))
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("options must be a JSON object")));
	iterator = JsonbIteratorInit(&json->root);
	(void) JsonbIteratorNext(&iterator, &key, true);
	while (JsonbIteratorNext(&iterator, &key, true) == WJB_KEY)
	{
		(void) JsonbIteratorNext(&iterator, &value, true);
		alter_option(altered, &key, &value);
	}
}

/* Nobody else can take the name meanwhile: the directory is locked. */
static void
check_new_name(const PgrDefinition *existing, const PgrDefinition *altered)
{
	PgrText name = {altered->name, altered->name_len};
	PgrDefinition other;

	if (strcmp(existing->name, altered->name) != 0 &&
		pgr_write_find_for_ddl(name, false, &other))
		ereport(ERROR,
				(errcode(ERRCODE_DUPLICATE_OBJECT),
				 errmsg("registry \"%s\" already exists", altered->name)));
}

/* Entries that have expired are still there, and go. */
static void
change_value_type(const PgrDefinition *existing)
{
	int64 entries = pgr_store_clear(existing);

	if (entries > 0)
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("cannot change the value type of registry \"%s\"",
						existing->name),
				 errdetail_plural("It has " INT64_FORMAT " entry.",
								  "It has " INT64_FORMAT " entries.",
								  (unsigned long) entries, entries),
				 errhint("Use registry.clear() first.")));
}

Datum
pgr_sql_alter_registry(PG_FUNCTION_ARGS)
{
	PgrText name;
	PgrDefinition existing;
	PgrDefinition altered;

	pgr_write_allowed_here("registry.alter_registry()");
	name = pgr_name_argument(fcinfo);
	pgr_refuse_null(fcinfo, 1, "options");
	if (name.len > 0 && name.len < PGR_NAME_LEN)
		check_registry_name(name);
	if (!pgr_write_find_for_ddl(name, true, &existing))
		pgr_reader_refuse(name);
	altered = existing;
	alter_options(&altered, PG_GETARG_JSONB_P(1));
	check_new_name(&existing, &altered);
	if (altered.value_type != existing.value_type)
		change_value_type(&existing);
	pgr_store_alter(&existing, &altered);
	PG_RETURN_VOID();
}
