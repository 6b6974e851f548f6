/*
 * http/headers.c
 *	  Reading response headers.
 *
 * Runs inside libcurl's header callback: works in fixed buffers, and what
 * does not fit is as good as not sent.
 */
#include "postgres.h"

#include <ctype.h>
#include <curl/curl.h>

#include "http/headers.h"

#define VALUE_LEN 512
#define MAX_SECONDS_DIGITS 9

void
pgr_headers_reset(PgrHttpHeaders *headers)
{
	memset(headers, 0, sizeof(*headers));
	headers->max_age_s = -1;
	headers->retry_after_s = -1;
}

/* All digits, and few enough for a long of 32 bits; else -1. */
static long
parse_seconds(const char *text)
{
	size_t digits = strspn(text, "0123456789");

	if (digits == 0 || digits > MAX_SECONDS_DIGITS || text[digits] != '\0')
		return -1;
	return strtol(text, NULL, 10);
}

long
pgr_headers_retry_after(const char *value, time_t now)
{
	time_t when;

	if (value[0] == '-' && parse_seconds(value + 1) >= 0)
		return 0;
	if (!isalpha((unsigned char) value[0]))
		return parse_seconds(value);

	/* Knows all three forms of an HTTP date. */
	when = curl_getdate(value, NULL);
	if (when == (time_t) -1)
		return -1;
	return when <= now ? 0 : (long) Min(when - now, INT_MAX);
}

/* Is the directive at p this one?  Then *value is what follows its name. */
static bool
is_directive(const char *p, const char *name, const char **value)
{
	size_t len = strlen(name);

	if (pg_strncasecmp(p, name, len) != 0)
		return false;
	*value = p + len;
	return strchr("= ,\t", p[len]) != NULL;
}

long
pgr_headers_max_age(const char *value)
{
	const char *p = value;
	const char *rest;
	long max_age = -1;

	while (*p != '\0')
	{
		p += strspn(p, " \t,");
		if (is_directive(p, "no-store", &rest) ||
			is_directive(p, "no-cache", &rest))
			return 0;
		if (is_directive(p, "max-age", &rest) && *rest == '=')
		{
			size_t digits;

			rest += rest[1] == '"' ? 2 : 1;
			digits = strspn(rest, "0123456789");
			if (digits > MAX_SECONDS_DIGITS)
				max_age = INT_MAX;
			else if (digits > 0)
				max_age = strtol(rest, NULL, 10);
		}
		p += strcspn(p, ",");
	}
	return max_age;
}

static bool
is_header(const char *line, size_t name_len, const char *name)
{
	return name_len == strlen(name) &&
		pg_strncasecmp(line, name, name_len) == 0;
}

static void
copy(char *dst, size_t size, const char *value)
{
	if (strlen(value) < size)
		strlcpy(dst, value, size);
}

/* "HTTP/1.1 404 Not Found": keep the words, if there are any. */
static void
read_status_line(PgrHttpHeaders *headers, const char *line)
{
	const char *status = strchr(line, ' ');
	const char *reason = status ? strchr(status + 1, ' ') : NULL;

	pgr_headers_reset(headers);
	if (reason != NULL)
		strlcpy(headers->reason, reason + 1, sizeof(headers->reason));
}

void
pgr_headers_add(PgrHttpHeaders *headers, const char *line, size_t len,
				time_t now)
{
	char text[VALUE_LEN];
	const char *colon;
	const char *value;
	size_t name_len;

	while (len > 0 && isspace((unsigned char) line[len - 1]))
		len--;
	if (len >= sizeof(text))
		return;
	memcpy(text, line, len);
	text[len] = '\0';

	if (strncmp(text, "HTTP/", strlen("HTTP/")) == 0)
	{
		read_status_line(headers, text);
		return;
	}
	colon = strchr(text, ':');
	if (colon == NULL)
		return;
	name_len = colon - text;
	value = colon + 1 + strspn(colon + 1, " \t");

	if (is_header(text, name_len, "ETag"))
		copy(headers->etag, sizeof(headers->etag), value);
	else if (is_header(text, name_len, "Last-Modified"))
		copy(headers->last_modified, sizeof(headers->last_modified), value);
	else if (is_header(text, name_len, "Location"))
		copy(headers->location, sizeof(headers->location), value);
	else if (is_header(text, name_len, "Retry-After"))
		headers->retry_after_s = pgr_headers_retry_after(value, now);
	else if (is_header(text, name_len, "Cache-Control"))
		headers->max_age_s = pgr_headers_max_age(value);
	else if (is_header(text, name_len, "Age"))
		headers->age_s = Max(parse_seconds(value), 0);
}
