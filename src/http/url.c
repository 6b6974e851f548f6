/*
 * http/url.c
 *	  Which URLs may be requested at all.
 *
 * libcurl's own parser decides what the host is, so that no two readings of
 * one text can differ.
 */
#include "postgres.h"

#include <curl/curl.h>

#include "http/url.h"

static bool
host_is_loopback(const char *host)
{
	char text[64];

	if (pg_strcasecmp(host, "localhost") == 0)
		return true;
	/* libcurl leaves the brackets of an IPv6 address on. */
	strlcpy(text, host[0] == '[' ? host + 1 : host, sizeof(text));
	text[strcspn(text, "]")] = '\0';
	return pgr_address_refuse_text(text, PGR_ADDRESS_LOOPBACK) == NULL;
}

static const char *
refuse_parts(CURLU *parts, PgrAddressPolicy *policy)
{
	const char *error = NULL;
	char *scheme = NULL;
	char *host = NULL;
	char *user = NULL;

	(void) curl_url_get(parts, CURLUPART_USER, &user, 0);
	if (curl_url_get(parts, CURLUPART_SCHEME, &scheme, 0) != CURLUE_OK ||
		curl_url_get(parts, CURLUPART_HOST, &host, 0) != CURLUE_OK)
		error = "the URL has no host";
	else if (user != NULL)
		error = "the URL holds a user name, which would appear in logs";
	else
	{
		*policy = host_is_loopback(host) ? PGR_ADDRESS_LOOPBACK :
										   PGR_ADDRESS_PUBLIC;
		if (strcmp(scheme, "https") != 0 &&
			(strcmp(scheme, "http") != 0 || *policy != PGR_ADDRESS_LOOPBACK))
			error =
				"the URL must begin with https:// (http:// only to a loopback address)";
	}
	curl_free(scheme);
	curl_free(host);
	curl_free(user);
	return error;
}

const char *
pgr_url_refuse(const char *url, PgrAddressPolicy *policy)
{
	CURLU *parts = curl_url();
	const char *error;

	if (parts == NULL)
		return "out of memory";
	if (curl_url_set(parts, CURLUPART_URL, url, CURLU_NON_SUPPORT_SCHEME) !=
		CURLUE_OK)
		error = "the URL is malformed";
	else
		error = refuse_parts(parts, policy);
	curl_url_cleanup(parts);
	return error;
}
