/*
 * fetch/parse.c
 *	  The body of an answer to a set of rates: encoding, format, errors.
 *
 * PostgreSQL's input functions report what they dislike by throwing; here it
 * becomes a text.  What they say may quote the body.
 */
#include "postgres.h"

#include "mb/pg_wchar.h"
#include "utils/builtins.h"
#include "utils/memutils.h"

#include "fetch/formats.h"
#include "fetch/parse.h"

#define UTF8_BOM "\xEF\xBB\xBF"
#define CSV_HEADER "date,base,quote,rate"

/* Skip what may stand before the first byte that counts. */
static void
skip_to_content(const char **body, size_t *len)
{
	size_t skip = 0;

	if (*len >= strlen(UTF8_BOM) &&
		memcmp(*body, UTF8_BOM, strlen(UTF8_BOM)) == 0)
		skip = strlen(UTF8_BOM);
	/* Ends at the latest at the NUL behind the body. */
	skip += strspn(*body + skip, " \t\r\n");
	*body += skip;
	*len -= skip;
}

static const char *
check_bytes(const char *body, size_t len)
{
	if (len == 0)
		return "it is empty";
	if (memchr(body, '\0', len) != NULL ||
		!pg_verify_mbstr(PG_UTF8, body, (int) len, true))
		return "it is not text in UTF-8";
	return NULL;
}

static const char *
parse_json(PgrBuilder *builder, const char *body)
{
	PgrRatesFormat format = builder->input->format;
	JsonbContainer *root;
	const char *error = pgr_json_refuse(body);

	if (error != NULL)
		return error;
	root = &pgr_json_read(body)->root;

	if (JsonContainerIsObject(root) &&
		(error = pgr_shape_provider_message(root)) != NULL)
		return psprintf("the provider reports an error: %s", error);
	if (format == PGR_FORMAT_AUTO)
	{
		if (JsonContainerIsScalar(root))
			return pgr_shape_explain(root);
		if (JsonContainerIsObject(root) &&
			(error = pgr_shape_refuse(root)) != NULL)
			return error;
		format = JsonContainerIsObject(root) ? PGR_FORMAT_FRANKFURTER :
											   PGR_FORMAT_FRANKFURTER_V2;
	}
	return format == PGR_FORMAT_FRANKFURTER ?
		pgr_format_frankfurter(builder, root) :
		pgr_format_frankfurter_v2(builder, root);
}

static const char *
parse_body(PgrBuilder *builder)
{
	const char *body = builder->input->body;
	size_t len = builder->input->len;
	PgrRatesFormat format = builder->input->format;
	const char *error;

	if (len > 0)
		skip_to_content(&body, &len);
	error = check_bytes(body, len);
	if (error != NULL)
		return error;
	if (pg_strncasecmp(body, "<!doctype html", 14) == 0)
		return "it is a web page";

	if (*body == '<')
		error = format == PGR_FORMAT_AUTO || format == PGR_FORMAT_ECB_XML ?
			pgr_format_ecb_xml(builder, body, len) :
			"it looks like XML";
	else if (format == PGR_FORMAT_ECB_XML)
		error = "it is not XML";
	else if (strncmp(body, CSV_HEADER, strlen(CSV_HEADER)) == 0)
		error =
			"it looks like the CSV form of frankfurter_v2, which is not supported yet";
	else if (format == PGR_FORMAT_AUTO && *body != '{' && *body != '[')
		error = psprintf("it is neither JSON nor XML: %s",
						 pgr_builder_quote(body, Min(len, 40)));
	else
		error = parse_json(builder, body);
	return error != NULL ? error : pgr_builder_finish(builder);
}

/*
 * Called in a PG_CATCH block: take the error as a text and go on as if it had
 * not been thrown.
 */
static const char *
catch_error(MemoryContext context)
{
	ErrorData *error;

	MemoryContextSwitchTo(context);
	error = CopyErrorData();
	FlushErrorState();
	if (error->detail == NULL)
		return error->message;
	return psprintf("%s: %s", error->message, error->detail);
}

const char *
pgr_parse_rates(const PgrParseInput *input, PgrRateSet *set)
{
	MemoryContext context = CurrentMemoryContext;
	PgrBuilder builder;
	const char *volatile error = NULL;

	pgr_builder_init(&builder, input, set);
	PG_TRY();
	{
		error = parse_body(&builder);
	}
	PG_CATCH();
	{
		error = catch_error(context);
	}
	PG_END_TRY();
	return error;
}

const char *
pgr_parse_provider_message(const char *body, size_t len)
{
	MemoryContext context = CurrentMemoryContext;
	const char *volatile message = NULL;

	if (len == 0)
		return NULL;
	skip_to_content(&body, &len);
	if (check_bytes(body, len) != NULL || *body != '{' ||
		pgr_json_refuse(body) != NULL)
		return NULL;
	PG_TRY();
	{
		message = pgr_shape_provider_message(&pgr_json_read(body)->root);
	}
	PG_CATCH();
	{
		/* Half a body, or a page that only begins like JSON. */
		(void) catch_error(context);
		message = NULL;
	}
	PG_END_TRY();
	return message;
}
