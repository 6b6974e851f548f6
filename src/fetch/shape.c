/*
 * fetch/shape.c
 *	  Telling the JSON of rate providers apart by their members.
 *
 * A wrong rates_format or URL must end in a message that names what came, not
 * in "invalid".
 */
#include "postgres.h"

#include "fetch/formats.h"

#define MAX_MEMBERS 3

/* The first whose members are all there. */
static const struct
{
	const char *looks_like;
	const char *members[MAX_MEMBERS];
	bool supported;
} shapes[] = {
	{"exchangerate_host", {"quotes", "source"}, false},
	{"open_er_api", {"base_code", "rates"}, false},
	{"exchangerate-api v6", {"base_code", "conversion_rates"}, false},
	{"fixer", {"success", "base", "rates"}, false},
	{"open_exchange_rates", {"timestamp", "base", "rates"}, false},
	{"a time series of frankfurter", {"start_date", "rates"}, false},
	{"frankfurter", {"base", "rates"}, true},
	{"a single rate of frankfurter_v2", {"base", "quote", "rate"}, false},
};

/* Where providers put the text of an error, the best first. */
static const char *const message_members[] = {"description", "message", "info",
											  "error-type",  "detail",  "type",
											  "error"};

static bool
has_members(JsonbContainer *root, const char *const *members)
{
	JsonbValue value;

	for (int i = 0; i < MAX_MEMBERS && members[i] != NULL; i++)
		if (pgr_json_member(root, members[i], &value) == NULL)
			return false;
	return true;
}

/* {"AUD": "Australian Dollar", ...} */
static bool
is_currency_list(JsonbContainer *root)
{
	JsonbIterator *it = JsonbIteratorInit(root);
	JsonbIteratorToken token;
	JsonbValue value;
	bool any = false;

	while ((token = JsonbIteratorNext(&it, &value, true)) != WJB_DONE)
	{
		if (token == WJB_KEY &&
			!pgr_code_is_valid(value.val.string.val, value.val.string.len))
			return false;
		if (token == WJB_VALUE && value.type != jbvString)
			return false;
		any = any || token == WJB_VALUE;
	}
	return any;
}

static const char *
unsupported(const char *shape)
{
	return psprintf("it looks like %s, which is not supported yet", shape);
}

static bool
says_it_failed(JsonbContainer *root)
{
	JsonbValue value;

	if (pgr_json_member(root, "success", &value) != NULL &&
		value.type == jbvBool && !value.val.boolean)
		return true;
	if (pgr_json_member(root, "error", &value) != NULL &&
		value.type != jbvNull && (value.type != jbvBool || value.val.boolean))
		return true;
	if (pgr_json_string(root, "result", &value) != NULL &&
		value.val.string.len == strlen("error") &&
		strncmp(value.val.string.val, "error", strlen("error")) == 0)
		return true;
	return pgr_json_string(root, "message", &value) != NULL &&
		pgr_json_member(root, "rates", &value) == NULL;
}

static const char *
find_message(JsonbContainer *root)
{
	JsonbContainer *error = pgr_json_object(root, "error");
	JsonbValue value;

	for (size_t i = 0; i < lengthof(message_members); i++)
		if (pgr_json_string(root, message_members[i], &value) != NULL)
			return pgr_builder_quote(value.val.string.val,
									 value.val.string.len);
	/* One level down at most: the object is not of our making. */
	for (size_t i = 0; error != NULL && i < lengthof(message_members); i++)
		if (pgr_json_string(error, message_members[i], &value) != NULL)
			return pgr_builder_quote(value.val.string.val,
									 value.val.string.len);
	return "no reason";
}

const char *
pgr_shape_provider_message(JsonbContainer *root)
{
	if (!JsonContainerIsObject(root) || !says_it_failed(root))
		return NULL;
	return find_message(root);
}

const char *
pgr_shape_refuse(JsonbContainer *root)
{
	const char *message = pgr_shape_provider_message(root);

	if (message != NULL)
		return psprintf("the provider reports an error: %s", message);
	for (size_t i = 0; i < lengthof(shapes); i++)
		if (has_members(root, shapes[i].members))
			return shapes[i].supported ? NULL :
										 unsupported(shapes[i].looks_like);
	if (is_currency_list(root))
		return unsupported("the currency list of frankfurter");
	return "it is JSON of a shape that no supported format has";
}

const char *
pgr_shape_explain(JsonbContainer *root)
{
	const char *refusal;

	if (JsonContainerIsScalar(root))
		return "it is a single JSON value";
	if (JsonContainerIsArray(root))
		return "it looks like frankfurter_v2";
	refusal = pgr_shape_refuse(root);
	return refusal != NULL ? refusal : "it looks like frankfurter";
}
