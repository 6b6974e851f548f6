/*
 * fetch/json.c
 *	  JSON of strangers, with PostgreSQL's own parser.
 *
 * jsonb_in touches no catalog, so it works without a database; numbers keep
 * their digits, as jsonb holds them as numeric.  Two things must be looked at
 * before it runs: 1e131071 is a short text and a huge number, and a name that
 * occurs twice leaves no trace in jsonb.
 */
#include "postgres.h"

#include "fmgr.h"
#include "utils/fmgrprotos.h"

#include "fetch/builder.h"
#include "fetch/json.h"

#define MAX_DIGITS 64
#define MAX_DEPTH 16
#define MAX_EXPONENT 64

/* The end of the string that starts at p. */
static const char *
skip_string(const char *p)
{
	for (p++; *p != '\0' && *p != '"'; p++)
		if (*p == '\\' && p[1] != '\0')
			p++;
	return *p == '"' ? p + 1 : p;
}

/* The end of the number that starts at p; NULL if it is too big. */
static const char *
skip_number(const char *p)
{
	int digits = 0;

	for (; (*p >= '0' && *p <= '9') || *p == '.' || *p == '-'; p++)
		digits++;
	if (digits > MAX_DIGITS)
		return NULL;
	if (*p == 'e' || *p == 'E')
	{
		long exponent;
		char *end;

		exponent = strtol(p + 1, &end, 10);
		if (exponent > MAX_EXPONENT || exponent < -MAX_EXPONENT)
			return NULL;
		p = Max(p + 1, (const char *) end);
	}
	return p;
}

/* A member's name, of "len" bytes as written: what is wrong with it. */
static const char *
refuse_name(PgrCodeSet *codes, const char *name, size_t len)
{
	/* A code can be written so that it looks like another name. */
	for (size_t i = 0; i + 1 < len; i++)
		if (name[i] == '\\' && name[i + 1] == 'u')
			return "it holds a member name with a \\u escape";
	if (pgr_code_is_valid(name, len) && !pgr_code_set_add(codes, name))
		return psprintf("%.3s occurs more than once", name);
	return NULL;
}

const char *
pgr_json_refuse(const char *text)
{
	PgrCodeSet *codes = palloc0(MAX_DEPTH * sizeof(PgrCodeSet));
	int depth = 0;
	const char *p = text;
	const char *why = NULL;

	while (*p != '\0' && why == NULL)
	{
		if (*p == '"')
		{
			const char *name = p + 1;

			p = skip_string(p);
			if (p[strspn(p, " \t\r\n")] == ':')
				why = refuse_name(&codes[depth], name, p - 1 - name);
			continue;
		}
		if ((*p >= '0' && *p <= '9') || *p == '-')
		{
			p = skip_number(p);
			if (p == NULL)
				return psprintf(
					"it holds a number of more than %d digits, or with an exponent beyond %d",
					MAX_DIGITS, MAX_EXPONENT);
			continue;
		}
		if (*p == '{')
		{
			if (++depth == MAX_DEPTH)
				return "it is nested too deeply";
			memset(&codes[depth], 0, sizeof(codes[depth]));
		}
		else if (*p == '}' && depth > 0)
			depth--;
		p++;
	}
	return why;
}

Jsonb *
pgr_json_read(const char *text)
{
	return DatumGetJsonbP(
		DirectFunctionCall1(jsonb_in, CStringGetDatum(text)));
}

JsonbValue *
pgr_json_member(JsonbContainer *object, const char *name, JsonbValue *value)
{
	if (!JsonContainerIsObject(object))
		return NULL;
	return getKeyJsonValueFromContainer(object, name, (int) strlen(name),
										value);
}

JsonbValue *
pgr_json_string(JsonbContainer *object, const char *name, JsonbValue *value)
{
	JsonbValue *found = pgr_json_member(object, name, value);

	return found != NULL && found->type == jbvString ? found : NULL;
}

JsonbContainer *
pgr_json_object(JsonbContainer *object, const char *name)
{
	JsonbValue value;

	if (pgr_json_member(object, name, &value) == NULL ||
		value.type != jbvBinary ||
		!JsonContainerIsObject(value.val.binary.data))
		return NULL;
	return value.val.binary.data;
}

const char *
pgr_json_show(const JsonbValue *value)
{
	switch (value->type)
	{
		case jbvString:
			return pgr_builder_quote(value->val.string.val,
									 value->val.string.len);
		case jbvNull:
			return "null";
		case jbvBool:
			return value->val.boolean ? "true" : "false";
		case jbvNumeric:
			return DatumGetCString(
				DirectFunctionCall1(numeric_out,
									NumericGetDatum(value->val.numeric)));
		default:
			return "no single value";
	}
}
