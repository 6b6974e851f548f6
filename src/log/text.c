/*
 * log/text.c
 *	  See text.h.  Not for the log hook: allocates and looks into catalogs.
 */
#include "postgres.h"

#include "catalog/namespace.h"
#include "lib/stringinfo.h"
#include "mb/pg_wchar.h"

#include "log/text.h"

/* How bytes become text of this database. */
typedef struct Target
{
	int encoding;   /* of this database */
	int source;     /* of the bytes */
	Oid conversion; /* function from one to the other, or none */
	bool verify;    /* they are in this database's own encoding */
} Target;

static Target
target_for(int source)
{
	Target target = {0};

	target.encoding = GetDatabaseEncoding();
	target.source = PG_VALID_ENCODING(source) ? source : PG_SQL_ASCII;
	if (target.encoding == PG_SQL_ASCII)
		return target;
	if (target.source == PG_SQL_ASCII || target.source == target.encoding)
		target.verify = true;
	else
		target.conversion = FindDefaultConversionProc(target.source,
													  target.encoding);
	return target;
}

static int
ascii_prefix(const char *bytes, int length)
{
	int n = 0;

	while (n < length && !IS_HIGHBIT_SET(bytes[n]))
		n++;
	return n;
}

/* Append as many converted bytes as possible; how many were taken. */
static int
convert_prefix(StringInfo out, const Target *target, const char *bytes,
			   int length)
{
	/* With this much room the function takes them all, if they are valid. */
	int room = length * MAX_CONVERSION_GROWTH + MAX_CONVERSION_GROWTH + 1;
	unsigned char *converted = palloc(room);
	int taken;

	taken = pg_do_encoding_conversion_buf(target->conversion, target->source,
										  target->encoding,
										  (unsigned char *) bytes, length,
										  converted, room, true);
	appendStringInfoString(out, (char *) converted);
	pfree(converted);
	return taken;
}

/* Append what can be shown from the start of "bytes"; how many were taken. */
static int
take_prefix(StringInfo out, const Target *target, const char *bytes,
			int length)
{
	int taken;

	if (OidIsValid(target->conversion))
		return convert_prefix(out, target, bytes, length);
	if (target->verify)
		taken = pg_encoding_verifymbstr(target->encoding, bytes, length);
	else
		taken = ascii_prefix(bytes, length);
	appendBinaryStringInfo(out, bytes, taken);
	return taken;
}

char *
pgr_log_text_readable(const char *bytes, int length, int encoding)
{
	StringInfoData out;
	Target target;
	int at = ascii_prefix(bytes, length);

	initStringInfo(&out);
	appendBinaryStringInfo(&out, bytes, at);
	if (at < length)
		target = target_for(encoding);
	while (at < length)
	{
		at += take_prefix(&out, &target, bytes + at, length - at);
		if (at < length)
			appendStringInfo(&out, "\\x%02x", (unsigned char) bytes[at++]);
	}
	return out.data;
}
