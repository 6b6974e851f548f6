/*
 * base/mask.c
 *	  Text from outside made fit for views, logs and messages.
 *
 * Pure functions on the caller's buffers: no palloc, no ereport.
 */
#include "postgres.h"

#include <ctype.h>

#include "base/mask.h"

/* Shorter values ("EUR", "1") are parameters, not keys. */
#define MIN_SECRET_LEN 5

/* The beginning of a longer one tells enough from here on. */
#define MIN_TELLING_LEN 8

/* A part of a path that is shorter is a name or a date. */
#define MIN_PATH_KEY_LEN 16

#define MAX_DECODED_LEN 512

/* A longer word of a query may be a key: "2025-04-04" is none. */
#define MAX_PLAIN_WORD_LEN 10

#define MASK "..."

static void
append(char *dst, size_t size, const char *src, size_t len)
{
	size_t used = strlen(dst);

	if (used + 1 >= size)
		return;
	pgr_mask_control(dst + used, Min(size - used, len + 1), src, len);
}

/*
 * Is this part of a path an access key?  Some providers put it there.  Long,
 * of letters and digits, with both.
 */
static bool
looks_like_key(const char *part, size_t len)
{
	bool letter = false;
	bool digit = false;

	if (len < MIN_PATH_KEY_LEN)
		return false;
	for (size_t i = 0; i < len; i++)
	{
		char c = part[i];

		if (c >= '0' && c <= '9')
			digit = true;
		else if ((c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z'))
			letter = true;
		else if (c != '-' && c != '_')
			return false;
	}
	return letter && digit;
}

/* The path, each part that looks like a key masked. */
static void
append_path(char *dst, size_t size, const char *path, const char *end)
{
	while (path < end)
	{
		size_t len;

		append(dst, size, "/", 1);
		path++;
		len = strcspn(path, "/?#");
		if (looks_like_key(path, len))
			append(dst, size, MASK, strlen(MASK));
		else
			append(dst, size, path, len);
		path += len;
	}
}

void
pgr_mask_url(char *dst, size_t size, const char *url)
{
	const char *scheme_end = strstr(url, "://");
	const char *host = scheme_end ? scheme_end + 3 : url;
	const char *path = host + strcspn(host, "/?#");
	const char *end = host + strcspn(host, "?#");

	dst[0] = '\0';
	append(dst, size, url, host - url);
	for (const char *p = host; p < path; p++)
		if (*p == '@')
			host = p + 1;
	append(dst, size, host, path - host);
	append_path(dst, size, path, end);
	if (*end == '?')
		append(dst, size, "?" MASK, strlen("?" MASK));
}

/* Bytes of the secret, or of a telling beginning of it, that text starts with */
static size_t
match_secret(const char *text, const char *secret, size_t len, bool whole)
{
	size_t n = 0;

	while (n < len && text[n] == secret[n] && text[n] != '\0')
		n++;
	return n == len || (!whole && n >= MIN_TELLING_LEN) ? n : 0;
}

/*
 * Overwrite every occurrence of the secret, and unless only the whole of it is
 * meant, of its beginning, since the text may have been cut; neither is
 * shorter than the mask.
 */
static void
mask_occurrences(char *text, const char *secret, size_t len, bool whole)
{
	if (len < MIN_SECRET_LEN)
		return;
	for (char *p = text; *p != '\0'; p++)
	{
		size_t n = match_secret(p, secret, len, whole);

		if (n == 0)
			continue;
		memcpy(p, MASK, strlen(MASK));
		p += strlen(MASK);
		memmove(p, p + n - strlen(MASK), strlen(p + n - strlen(MASK)) + 1);
		p--;
	}
}

static int
hex_digit(char c)
{
	if (c >= '0' && c <= '9')
		return c - '0';
	if (c >= 'a' && c <= 'f')
		return c - 'a' + 10;
	if (c >= 'A' && c <= 'F')
		return c - 'A' + 10;
	return -1;
}

/* A value as it stands in the URL, and as the provider has decoded it. */
static void
mask_value(char *text, const char *value, size_t len)
{
	char decoded[MAX_DECODED_LEN];
	size_t n = 0;

	mask_occurrences(text, value, len, false);
	for (size_t i = 0; i < len && n < sizeof(decoded); i++)
	{
		if (value[i] == '%' && i + 2 < len && hex_digit(value[i + 1]) >= 0 &&
			hex_digit(value[i + 2]) >= 0)
		{
			decoded[n++] = (char) (hex_digit(value[i + 1]) * 16 +
								   hex_digit(value[i + 2]));
			i += 2;
		}
		else
			decoded[n++] = value[i] == '+' ? ' ' : value[i];
	}
	mask_occurrences(text, decoded, n, false);
}

static void
mask_path_keys(char *text, const char *url)
{
	const char *p = url + strcspn(url, "/?#");

	while (*p == '/')
	{
		size_t len = strcspn(p + 1, "/?#");

		if (looks_like_key(p + 1, len))
			mask_occurrences(text, p + 1, len, false);
		p += 1 + len;
	}
}

void
pgr_mask_secrets(char *text, const char *url)
{
	const char *scheme_end = strstr(url, "://");
	const char *query = strchr(url, '?');
	const char *p;

	mask_path_keys(text, scheme_end ? scheme_end + 3 : url);
	if (query == NULL)
		return;
	query++;
	mask_occurrences(text, query, strcspn(query, "#"), true);
	for (p = query; *p != '\0' && *p != '#';)
	{
		size_t len = strcspn(p, "&#");
		const char *value = memchr(p, '=', len);

		if (value != NULL)
			mask_value(text, value + 1, p + len - (value + 1));
		p += len;
		if (*p == '&')
			p++;
	}
}

/* ------------------------------------------------------------------------
 * Is there a secret at all?
 * ------------------------------------------------------------------------
 */

static bool
contains(const char *text, size_t len, const char *word)
{
	size_t n = strlen(word);

	for (size_t i = 0; i + n <= len; i++)
		if (pg_strncasecmp(text + i, word, n) == 0)
			return true;
	return false;
}

/* app_id, apikey, access_token, ...; and some that are none. */
static bool
named_like_secret(const char *name, size_t len)
{
	static const char *const words[] = {"key",     "token", "secret", "pass",
										"pwd",     "auth",  "cred",   "sign",
										"session", "user",  "login"};

	if (len >= 2 && pg_strncasecmp(name + len - 2, "id", 2) == 0)
		return true;
	for (size_t i = 0; i < lengthof(words); i++)
		if (contains(name, len, words[i]))
			return true;
	return false;
}

/* The bytes that separate the items of a list here. */
static size_t
separator(const char *text, const char *end)
{
	if (text < end && (*text == ',' || *text == '|'))
		return 1;
	return end - text >= 3 && pg_strncasecmp(text, "%2C", 3) == 0 ? 3 : 0;
}

/* Short words and numbers, perhaps a list of them: codes, dates, formats. */
static bool
plain_value(const char *text, size_t len)
{
	const char *end = text + len;
	size_t n = 0;

	while (text < end)
	{
		size_t skip = separator(text, end);

		if (skip == 0 && !isalnum((unsigned char) *text) &&
			strchr("-_.:", *text) == NULL)
			return false;
		n = skip > 0 ? 0 : n + 1;
		if (n > MAX_PLAIN_WORD_LEN)
			return false;
		text += skip > 0 ? skip : 1;
	}
	return true;
}

/* One "name=value", or just a value. */
static bool
parameter_has_secret(const char *text, size_t len)
{
	const char *mark = memchr(text, '=', len);

	if (mark == NULL)
		return named_like_secret(text, len) || !plain_value(text, len);
	return named_like_secret(text, mark - text) ||
		!plain_value(mark + 1, text + len - (mark + 1));
}

/* Unlike what is masked, a key here may have any characters. */
static bool
path_has_secret(const char *path, const char *end)
{
	while (path < end)
	{
		size_t len = strcspn(path, "/.?#");
		size_t digits = 0;
		size_t letters = 0;

		for (size_t i = 0; i < len; i++)
		{
			digits += isdigit((unsigned char) path[i]) != 0;
			letters += isalpha((unsigned char) path[i]) != 0;
		}
		if (len >= MIN_PATH_KEY_LEN && digits > 0 && letters > 0)
			return true;
		path += len + 1;
	}
	return false;
}

bool
pgr_mask_url_has_secret(const char *url)
{
	const char *scheme_end = strstr(url, "://");
	const char *host = scheme_end ? scheme_end + 3 : url;
	const char *path = host + strcspn(host, "/?#");
	const char *p = host + strcspn(host, "?#");

	if (memchr(host, '@', path - host) != NULL || path_has_secret(path, p))
		return true;
	while (*p == '?' || *p == '&')
	{
		size_t len = strcspn(++p, "&#");

		if (parameter_has_secret(p, len))
			return true;
		p += len;
	}
	return false;
}

void
pgr_mask_control(char *dst, size_t size, const char *src, size_t len)
{
	size_t n = Min(len, size - 1);

	for (size_t i = 0; i < n; i++)
	{
		unsigned char c = (unsigned char) src[i];

		dst[i] = c < ' ' || c == 0x7F ? ' ' : c > 0x7F ? '?' : (char) c;
	}
	dst[n] = '\0';
}
