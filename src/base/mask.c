/*
 * base/mask.c
 *	  Text from outside made fit for views, logs and messages.
 *
 * Pure functions on the caller's buffers: no palloc, no ereport.
 */
#include "postgres.h"

#include "base/mask.h"

/* Shorter values ("EUR", "1") are parameters, not keys. */
#define MIN_SECRET_LEN 5

#define MASK "..."

static void
append(char *dst, size_t size, const char *src, size_t len)
{
	size_t used = strlen(dst);

	if (used + 1 >= size)
		return;
	pgr_mask_control(dst + used, Min(size - used, len + 1), src, len);
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
	append(dst, size, host, end - host);
	if (*end == '?')
		append(dst, size, "?" MASK, strlen("?" MASK));
}

/* Overwrite every occurrence of the secret; it is longer than the mask. */
static void
mask_occurrences(char *text, const char *secret, size_t len)
{
	char *p = text;

	if (len < MIN_SECRET_LEN)
		return;
	for (; *p != '\0'; p++)
	{
		if (strncmp(p, secret, len) != 0)
			continue;
		memcpy(p, MASK, strlen(MASK));
		p += strlen(MASK);
		memmove(p, p + len - strlen(MASK), strlen(p + len - strlen(MASK)) + 1);
		p--;
	}
}

void
pgr_mask_secrets(char *text, const char *url)
{
	const char *query = strchr(url, '?');
	const char *p;

	if (query == NULL)
		return;
	query++;
	mask_occurrences(text, query, strcspn(query, "#"));
	for (p = query; *p != '\0' && *p != '#';)
	{
		size_t len = strcspn(p, "&#");
		const char *value = memchr(p, '=', len);

		if (value != NULL)
			mask_occurrences(text, value + 1, p + len - (value + 1));
		p += len;
		if (*p == '&')
			p++;
	}
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
