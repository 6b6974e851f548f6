/*
 * fetch/format_ecb_xml.c
 *	  The European Central Bank's eurofxref-daily.xml.
 *
 *	  <gesmes:Envelope ...> <Cube> <Cube time='2025-10-09'>
 *	      <Cube currency='USD' rate='1.1611'/> ...
 *
 * The base is EUR and is not written anywhere.  Read with libxml2's pull
 * parser, as no regular expression knows all that XML may look like; xpath()
 * needs a catalog and would crash a process without a database.
 *
 * The document is a stranger's: no network, no entities, no DOCTYPE, bounded
 * depth.  libxml2 does not see ereport: its handler only notes the message.
 */
#include "postgres.h"

#include <libxml/xmlreader.h>

#include "utils/builtins.h"
#include "utils/fmgrprotos.h"

#include "fetch/formats.h"

#define BASE "EUR"
#define MAX_DEPTH 8
#define MAX_RATE_LEN 64
#define HAS_DOCTYPE "it has a DOCTYPE or entities, which rates never have"

#if LIBXML_VERSION >= 21200
typedef const xmlError *XmlErrorArg;
#else
typedef xmlErrorPtr XmlErrorArg;
#endif

typedef struct Reading
{
	PgrBuilder *builder;
	xmlTextReaderPtr reader;
	int days;        /* <Cube time=...> so far */
	char error[160]; /* libxml2's first complaint */
} Reading;

static void
note_error_cb(void *arg, XmlErrorArg error)
{
	Reading *reading = arg;

	if (reading->error[0] == '\0' && error->message != NULL)
		snprintf(reading->error, sizeof(reading->error), "line %d: %.*s",
				 error->line, (int) strcspn(error->message, "\r\n"),
				 error->message);
}

/* The attribute's text in our memory, NULL if the element has none. */
static char *
attribute(Reading *reading, const char *name)
{
	xmlChar *value = xmlTextReaderGetAttribute(reading->reader,
											   (const xmlChar *) name);
	size_t bytes;
	char *copy;

	if (value == NULL)
		return NULL;
	/* An error in between would leave libxml2's copy behind. */
	bytes = strlen((char *) value) + 1;
	copy = MemoryContextAllocExtended(CurrentMemoryContext, bytes,
									  MCXT_ALLOC_NO_OOM);
	if (copy != NULL)
		memcpy(copy, value, bytes);
	xmlFree(value);
	if (copy == NULL)
		ereport(ERROR,
				(errcode(ERRCODE_OUT_OF_MEMORY), errmsg("out of memory")));
	return copy;
}

/* Digits with at most one point among or before them, nothing else. */
static bool
is_decimal(const char *text)
{
	size_t whole = strspn(text, "0123456789");
	size_t point = text[whole] == '.' ? 1 : 0;
	size_t fraction = strspn(text + whole + point, "0123456789") * point;

	return whole + fraction > 0 && whole + point + fraction <= MAX_RATE_LEN &&
		text[whole + point + fraction] == '\0';
}

static const char *
read_rate(Reading *reading, const char *code, const char *rate)
{
	Datum value;

	if (reading->days == 0)
		return "a rate comes before any date";
	if (!pgr_builder_wants(reading->builder, code, strlen(code)))
		return NULL;
	if (rate == NULL)
		return pgr_builder_refuse(code, "not given");
	if (!is_decimal(rate))
		return pgr_builder_refuse(code, pgr_builder_quote(rate, strlen(rate)));
	value = DirectFunctionCall3(numeric_in, CStringGetDatum(rate),
								ObjectIdGetDatum(InvalidOid),
								Int32GetDatum(-1));
	return pgr_builder_rate(reading->builder, code, DatumGetNumeric(value));
}

static const char *
read_element(Reading *reading)
{
	const char *name = (const char *) xmlTextReaderConstLocalName(
		reading->reader);
	char *text;

	if (xmlTextReaderDepth(reading->reader) == 0 &&
		strcmp(name, "Envelope") != 0)
		return psprintf("it looks like %s, not like ecb_xml",
						pg_strcasecmp(name, "html") == 0 ?
							"a web page" :
							pgr_builder_quote(name, strlen(name)));
	if (strcmp(name, "Cube") != 0)
		return NULL;
	text = attribute(reading, "time");
	if (text != NULL)
	{
		if (++reading->days > 1)
			return "it holds several days: the ECB's history is not supported yet";
		return pgr_builder_date(reading->builder, text, strlen(text));
	}
	text = attribute(reading, "currency");
	if (text != NULL)
		return read_rate(reading, text, attribute(reading, "rate"));
	return NULL;
}

static const char *
read_node(Reading *reading)
{
	if (xmlTextReaderDepth(reading->reader) > MAX_DEPTH)
		return psprintf("its elements are nested more than %d deep",
						MAX_DEPTH);
	switch (xmlTextReaderNodeType(reading->reader))
	{
		case XML_READER_TYPE_ELEMENT:
			return read_element(reading);
		case XML_READER_TYPE_DOCUMENT_TYPE:
		case XML_READER_TYPE_ENTITY_REFERENCE:
			return HAS_DOCTYPE;
		default:
			return NULL;
	}
}

static const char *
read_document(Reading *reading)
{
	const char *error = NULL;
	int more;

	while ((more = xmlTextReaderRead(reading->reader)) == 1)
	{
		error = read_node(reading);
		if (error != NULL)
			return error;
	}
	if (more != 0)
		return psprintf("it is not well-formed XML: %s",
						reading->error[0] != '\0' ?
							pgr_builder_quote(reading->error,
											  strlen(reading->error)) :
							"unknown error");
	if (reading->days == 0)
		return "there is no date: it does not look like ecb_xml";
	return NULL;
}

const char *
pgr_format_ecb_xml(PgrBuilder *builder, const char *body, size_t len)
{
	Reading reading = {.builder = builder};
	const char *volatile error = NULL;

	/* Before libxml2 reads the declarations in it. */
	if (strstr(body, "<!DOCTYPE") != NULL)
		return HAS_DOCTYPE;
	error = pgr_builder_base(builder, BASE, strlen(BASE));
	if (error != NULL)
		return error;
	reading.reader = xmlReaderForMemory(body, (int) len, NULL, NULL,
										XML_PARSE_NONET);
	if (reading.reader == NULL)
		return "out of memory";
	xmlTextReaderSetStructuredErrorHandler(reading.reader, note_error_cb,
										   &reading);

	/* An error of ours leaves no reader behind. */
	PG_TRY();
	{
		error = read_document(&reading);
	}
	PG_FINALLY();
	{
		xmlFreeTextReader(reading.reader);
	}
	PG_END_TRY();
	return error;
}
