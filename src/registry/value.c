/*
 * registry/value.c
 *	  See value.h.  Runs in backends, in a transaction; may throw.
 */
#include "postgres.h"

#include <math.h>

#include "catalog/pg_type.h"
#include "common/shortest_dec.h"
#include "fmgr.h"
#include "miscadmin.h"
#include "nodes/makefuncs.h"
#include "parser/parse_coerce.h"
#include "utils/builtins.h"
#include "utils/date.h"
#include "utils/datetime.h"
#include "utils/fmgroids.h"
#include "utils/fmgrprotos.h"
#include "utils/json.h"
#include "utils/jsonb.h"
#include "utils/lsyscache.h"
#include "utils/numeric.h"
#include "utils/timestamp.h"

#include "base/compat.h"
#include "registry/value.h"

typedef struct TypeRow
{
	Oid oid;
	const char *name;
	const char *reader; /* the function that reads it unconverted */
	bool varlena;
} TypeRow;

static const TypeRow types[PGR_VALUE_TYPES] = {
	[PGR_TYPE_JSONB] = {JSONBOID, "jsonb", "get", true},
	[PGR_TYPE_TEXT] = {TEXTOID, "text", "get_text", true},
	[PGR_TYPE_NUMERIC] = {NUMERICOID, "numeric", "get_numeric", true},
	[PGR_TYPE_FLOAT8] = {FLOAT8OID, "float8", "get_float8", false},
	[PGR_TYPE_BIGINT] = {INT8OID, "bigint", "get_bigint", false},
	[PGR_TYPE_BOOLEAN] = {BOOLOID, "boolean", "get_boolean", false},
	[PGR_TYPE_TIMESTAMPTZ] = {TIMESTAMPTZOID, "timestamptz", "get_timestamptz",
							  false},
};

bool
pgr_value_type_from_oid(Oid type, PgrValueType *value_type)
{
	for (int i = 0; i < PGR_VALUE_TYPES; i++)
	{
		if (types[i].oid != type)
			continue;
		*value_type = (PgrValueType) i;
		return true;
	}
	return false;
}

bool
pgr_value_type_from_name(const char *name, PgrValueType *value_type)
{
	for (int i = 0; i < PGR_VALUE_TYPES; i++)
	{
		if (strcmp(types[i].name, name) != 0)
			continue;
		*value_type = (PgrValueType) i;
		return true;
	}
	return false;
}

const char *
pgr_value_type_name(PgrValueType type)
{
	return types[type].name;
}

/* The value as a datum of its own type, pointing to where it lies. */
static Datum
as_datum(PgrValueType type, const PgrValue *value)
{
	switch (type)
	{
		case PGR_TYPE_FLOAT8:
			return Float8GetDatum(value->fixed.f8);
		case PGR_TYPE_BIGINT:
			return Int64GetDatum(value->fixed.i8);
		case PGR_TYPE_BOOLEAN:
			return BoolGetDatum(value->fixed.i8 != 0);
		case PGR_TYPE_TIMESTAMPTZ:
			return TimestampTzGetDatum(value->fixed.i8);
		default:
			return PointerGetDatum(value->data);
	}
}

void
pgr_value_encode(PgrValueType type, Datum datum, PgrValue *value)
{
	memset(value, 0, sizeof(*value));
	if (types[type].varlena)
	{
		struct varlena *data = PG_DETOAST_DATUM(datum);

		value->data = data;
		value->len = VARSIZE(data);
	}
	switch (type)
	{
		case PGR_TYPE_NUMERIC:
			value->fixed.f8 = DatumGetFloat8(
				DirectFunctionCall1(numeric_float8_no_overflow,
									PointerGetDatum(value->data)));
			break;
		case PGR_TYPE_FLOAT8:
			value->fixed.f8 = DatumGetFloat8(datum);
			break;
		case PGR_TYPE_BIGINT:
		case PGR_TYPE_TIMESTAMPTZ:
			value->fixed.i8 = DatumGetInt64(datum);
			break;
		case PGR_TYPE_BOOLEAN:
			value->fixed.i8 = DatumGetBool(datum);
			break;
		default:
			break;
	}
}

void
pgr_value_from_text(PgrValueType type, char *text, PgrValue *value)
{
	Oid input;
	Oid parameter;

	getTypeInputInfo(types[type].oid, &input, &parameter);
	pgr_value_encode(type, OidInputFunctionCall(input, text, parameter, -1),
					 value);
}

static Datum
call_to_jsonb(Datum datum, Oid source)
{
	FmgrInfo function;
	FunctionCallInfo call = palloc0(SizeForFunctionCallInfo(1));
	Const *argument = makeNode(Const);
	FuncExpr *expression = makeNode(FuncExpr);

	/* to_jsonb asks the expression for its argument's type */
	argument->consttype = source;
	expression->args = list_make1(argument);
	fmgr_info(F_TO_JSONB, &function);
	fmgr_info_set_expr((Node *) expression, &function);
	InitFunctionCallInfoData(*call, &function, 1, InvalidOid, NULL, NULL);
	call->args[0].value = datum;
	call->args[0].isnull = false;
	return FunctionCallInvoke(call);
}

/* A cast function may also take a typmod and whether the cast is explicit. */
static Datum
call_cast(Oid function, Datum datum)
{
	switch (get_func_nargs(function))
	{
		case 1:
			return OidFunctionCall1(function, datum);
		case 2:
			return OidFunctionCall2(function, datum, Int32GetDatum(-1));
		default:
			return OidFunctionCall3(function, datum, Int32GetDatum(-1),
									BoolGetDatum(false));
	}
}

static void
refuse_cast(PgrValueType type, Oid source)
{
	ereport(ERROR,
			(errcode(ERRCODE_DATATYPE_MISMATCH),
			 errmsg("cannot store a value of type %s in a registry of type %s",
					format_type_be(source), types[type].name),
			 errhint("Cast the value to %s first.", types[type].name)));
}

void
pgr_value_from_datum(PgrValueType type, Datum datum, Oid source,
					 PgrValue *value)
{
	Oid target = types[type].oid;
	Oid function = InvalidOid;
	Oid output;
	bool varlena;

	switch (
		find_coercion_pathway(target, source, COERCION_ASSIGNMENT, &function))
	{
		case COERCION_PATH_RELABELTYPE:
			break;
		case COERCION_PATH_FUNC:
			datum = call_cast(function, datum);
			break;
		case COERCION_PATH_COERCEVIAIO:
			getTypeOutputInfo(source, &output, &varlena);
			pgr_value_from_text(type, OidOutputFunctionCall(output, datum),
								value);
			return;
		default:
			if (type != PGR_TYPE_JSONB)
				refuse_cast(type, source);
			datum = call_to_jsonb(datum, source);
	}
	pgr_value_encode(type, datum, value);
}

/* A scalar's text as its author wrote it; an object's or array's as JSON. */
static char *
member_text(JsonbValue *member)
{
	switch (member->type)
	{
		case jbvString:
			return pnstrdup(member->val.string.val, member->val.string.len);
		case jbvNumeric:
			return DatumGetCString(
				DirectFunctionCall1(numeric_out,
									NumericGetDatum(member->val.numeric)));
		case jbvBool:
			return pstrdup(member->val.boolean ? "true" : "false");
		default:
		{
			Jsonb *json = JsonbValueToJsonb(member);

			return JsonbToCString(NULL, &json->root, VARSIZE(json));
		}
	}
}

void
pgr_value_from_jsonb(PgrValueType type, JsonbValue *member, PgrValue *value)
{
	if (type == PGR_TYPE_JSONB)
		pgr_value_encode(type, JsonbPGetDatum(JsonbValueToJsonb(member)),
						 value);
	else if (type == PGR_TYPE_NUMERIC && member->type == jbvNumeric)
		pgr_value_encode(type, NumericGetDatum(member->val.numeric), value);
	else
		pgr_value_from_text(type, member_text(member), value);
}

/* ------------------------------------------------------------------------
 * Readers
 * ------------------------------------------------------------------------
 */

static void
refuse_read(PgrValueType type, const char *wanted)
{
	ereport(ERROR,
			(errcode(ERRCODE_DATATYPE_MISMATCH),
			 errmsg("a registry of type %s cannot be read as %s",
					types[type].name, wanted),
			 errhint("Use registry.%s().", types[type].reader)));
}

static Datum
copy_varlena(const PgrValue *value)
{
	void *copy = palloc(value->len);

	memcpy(copy, value->data, value->len);
	return PointerGetDatum(copy);
}

static void
timestamp_member(JsonbValue *member, TimestampTz at)
{
	char buffer[MAXDATELEN + 1];

	JsonEncodeDateTime(buffer, TimestampTzGetDatum(at), TIMESTAMPTZOID, NULL);
	member->type = jbvString;
	member->val.string.val = pstrdup(buffer);
	member->val.string.len = strlen(member->val.string.val);
}

Datum
pgr_value_to_jsonb(PgrValueType type, const PgrValue *value)
{
	JsonbValue member;

	switch (type)
	{
		case PGR_TYPE_JSONB:
			return copy_varlena(value);
		case PGR_TYPE_TEXT:
			member.type = jbvString;
			member.val.string.val = (char *) VARDATA_ANY(value->data);
			member.val.string.len = VARSIZE_ANY_EXHDR(value->data);
			break;
		case PGR_TYPE_TIMESTAMPTZ:
			timestamp_member(&member, value->fixed.i8);
			break;
		case PGR_TYPE_BOOLEAN:
			member.type = jbvBool;
			member.val.boolean = value->fixed.i8 != 0;
			break;
		default:
			/* numbers; NaN and infinity become strings, as in to_jsonb */
			return call_to_jsonb(as_datum(type, value), types[type].oid);
	}
	return JsonbPGetDatum(JsonbValueToJsonb(&member));
}

Datum
pgr_value_to_text(PgrValueType type, const PgrValue *value)
{
	Oid output;
	bool varlena;

	if (type == PGR_TYPE_TEXT)
		return copy_varlena(value);
	getTypeOutputInfo(types[type].oid, &output, &varlena);
	return CStringGetTextDatum(
		OidOutputFunctionCall(output, as_datum(type, value)));
}

/* All digits, which float8out leaves to extra_float_digits. */
static char *
float8_to_stored(float8 value)
{
	char *stored = palloc(DOUBLE_SHORTEST_DECIMAL_LEN);

	if (isnan(value) || isinf(value))
		return DatumGetCString(
			DirectFunctionCall1(float8out, Float8GetDatum(value)));
	double_to_shortest_decimal_buf(value, stored);
	return stored;
}

char *
pgr_value_to_stored(PgrValueType type, const PgrValue *value)
{
	char *stored;

	switch (type)
	{
		case PGR_TYPE_FLOAT8:
			return float8_to_stored(value->fixed.f8);
		case PGR_TYPE_TIMESTAMPTZ:
			/* in ISO 8601 with an offset, whatever DateStyle is */
			stored = palloc(MAXDATELEN + 1);
			JsonEncodeDateTime(stored, TimestampTzGetDatum(value->fixed.i8),
							   TIMESTAMPTZOID, NULL);
			return stored;
		case PGR_TYPE_BOOLEAN:
			return pstrdup(value->fixed.i8 ? "true" : "false");
		default:
			return TextDatumGetCString(pgr_value_to_text(type, value));
	}
}

Datum
pgr_value_to_numeric(PgrValueType type, const PgrValue *value)
{
	switch (type)
	{
		case PGR_TYPE_NUMERIC:
			return copy_varlena(value);
		case PGR_TYPE_FLOAT8:
			return DirectFunctionCall1(float8_numeric, as_datum(type, value));
		case PGR_TYPE_BIGINT:
			return DirectFunctionCall1(int8_numeric, as_datum(type, value));
		case PGR_TYPE_JSONB:
			return DirectFunctionCall1(jsonb_numeric, as_datum(type, value));
		default:
			refuse_read(type, "numeric");
			return (Datum) 0;
	}
}

float8
pgr_value_to_float8(PgrValueType type, const PgrValue *value)
{
	switch (type)
	{
		case PGR_TYPE_NUMERIC:
			if (!pgr_value_twin_is_exact(value->fixed.f8))
				return DatumGetFloat8(
					DirectFunctionCall1(numeric_float8,
										as_datum(type, value)));
			return value->fixed.f8;
		case PGR_TYPE_FLOAT8:
			return value->fixed.f8;
		case PGR_TYPE_BIGINT:
			return (float8) value->fixed.i8;
		case PGR_TYPE_JSONB:
			return DatumGetFloat8(
				DirectFunctionCall1(jsonb_float8, as_datum(type, value)));
		default:
			refuse_read(type, "float8");
			return 0;
	}
}

int64
pgr_value_to_bigint(PgrValueType type, const PgrValue *value)
{
	switch (type)
	{
		case PGR_TYPE_NUMERIC:
			return DatumGetInt64(
				DirectFunctionCall1(numeric_int8, as_datum(type, value)));
		case PGR_TYPE_FLOAT8:
			return DatumGetInt64(
				DirectFunctionCall1(dtoi8, as_datum(type, value)));
		case PGR_TYPE_BIGINT:
			return value->fixed.i8;
		case PGR_TYPE_JSONB:
			return DatumGetInt64(
				DirectFunctionCall1(jsonb_int8, as_datum(type, value)));
		default:
			refuse_read(type, "bigint");
			return 0;
	}
}

bool
pgr_value_to_boolean(PgrValueType type, const PgrValue *value)
{
	switch (type)
	{
		case PGR_TYPE_BOOLEAN:
			return value->fixed.i8 != 0;
		case PGR_TYPE_JSONB:
			return DatumGetBool(
				DirectFunctionCall1(jsonb_bool, as_datum(type, value)));
		default:
			refuse_read(type, "boolean");
			return false;
	}
}

/* No type of ours has a cast to timestamptz. */
TimestampTz
pgr_value_to_timestamptz(PgrValueType type, const PgrValue *value)
{
	if (type != PGR_TYPE_TIMESTAMPTZ)
		refuse_read(type, "timestamptz");
	return value->fixed.i8;
}
