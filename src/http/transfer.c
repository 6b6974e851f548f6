/*
 * http/transfer.c
 *	  One request: its options, its callbacks, its end.
 *
 * The callbacks run inside libcurl: no ereport, no palloc, no longjmp.  They
 * note what happened in the transfer and return an error code.
 */
#include "postgres.h"

#include <arpa/inet.h>
#include <unistd.h>

#include "http/headers.h"
#include "http/transfer.h"
#include "http/url.h"

#define USER_AGENT "pg_registry/1.0"
#define MAX_CONNECT_MS 5000
#define LOW_SPEED_SECONDS 10
#define MAX_HEADER_BYTES (64 * 1024)
#define FIRST_BODY_BYTES (16 * 1024)

/* How long a kept connection may serve: names and policies change. */
#define MAX_CONNECTION_IDLE_S 60
#define MAX_CONNECTION_AGE_S 600

static void
note_refused(PgrHttpTransfer *transfer, const char *address, const char *kind)
{
	snprintf(transfer->refused, sizeof(transfer->refused),
			 "connection to %s refused: it is %s", address, kind);
}

static curl_socket_t
open_socket_cb(void *arg, curlsocktype purpose, struct curl_sockaddr *address)
{
	PgrHttpTransfer *transfer = arg;
	const char *kind = pgr_address_refuse(&address->addr, transfer->policy);

	if (kind != NULL)
	{
		char text[INET6_ADDRSTRLEN] = "an address";
		const void *raw = address->family == AF_INET6 ?
			(const void *) &((struct sockaddr_in6 *) &address->addr)
				->sin6_addr :
			(const void *) &((struct sockaddr_in *) &address->addr)->sin_addr;

		(void) inet_ntop(address->family, raw, text, sizeof(text));
		note_refused(transfer, text, kind);
		return CURL_SOCKET_BAD;
	}
	return socket(address->family, address->socktype | SOCK_CLOEXEC,
				  address->protocol);
}

/* A kept connection is reused without open_socket_cb; this one always runs. */
static int
before_request_cb(void *arg, char *remote_ip, char *local_ip, int remote_port,
				  int local_port)
{
	PgrHttpTransfer *transfer = arg;
	const char *kind = pgr_address_refuse_text(remote_ip, transfer->policy);

	if (kind == NULL)
		return CURL_PREREQFUNC_OK;
	note_refused(transfer, remote_ip, kind);
	return CURL_PREREQFUNC_ABORT;
}

static size_t
header_cb(char *data, size_t size, size_t n, void *arg)
{
	PgrHttpTransfer *transfer = arg;

	transfer->header_bytes += n;
	if (transfer->header_bytes > MAX_HEADER_BYTES)
	{
		transfer->too_large = true;
		return 0;
	}
	pgr_headers_add(&transfer->response.headers, data, n, time(NULL));
	return n;
}

/* Make room for the body and its NUL. */
static bool
reserve_body(PgrHttpTransfer *transfer, size_t bytes)
{
	size_t allocated = Max(transfer->body_allocated, FIRST_BODY_BYTES);
	char *body;

	if (bytes < transfer->body_allocated)
		return true;
	while (allocated <= bytes)
		allocated *= 2;
	body = realloc(transfer->body, allocated);
	if (body == NULL)
		return false;
	transfer->body = body;
	transfer->body_allocated = allocated;
	return true;
}

/*
 * CURLOPT_MAXFILESIZE only looks at Content-Length before libcurl 8.4, so the
 * bytes are counted here.
 */
static size_t
body_cb(char *data, size_t size, size_t n, void *arg)
{
	PgrHttpTransfer *transfer = arg;
	PgrHttpResponse *response = &transfer->response;

	if (n > transfer->max_body_bytes - response->body_bytes)
	{
		transfer->too_large = true;
		return 0;
	}
	if (!reserve_body(transfer, response->body_bytes + n))
		return 0;
	memcpy(transfer->body + response->body_bytes, data, n);
	response->body_bytes += n;
	transfer->body[response->body_bytes] = '\0';
	return n;
}

/*
 * Add "name: value"; an unusable value is left out, and without a validator
 * the whole body comes.
 */
static bool
add_header(PgrHttpTransfer *transfer, const char *name, const char *value)
{
	char line[PGR_HTTP_VALIDATOR_LEN + 64];
	struct curl_slist *list;

	for (const char *p = value; *p != '\0'; p++)
		if ((unsigned char) *p < ' ' || *p == 0x7F)
			return true;
	snprintf(line, sizeof(line), "%s: %s", name, value);
	list = curl_slist_append(transfer->header_list, line);
	if (list == NULL)
		return false;
	transfer->header_list = list;
	return true;
}

static bool
add_headers(PgrHttpTransfer *transfer, const PgrHttpRequest *request)
{
	if (!add_header(transfer, "Accept", request->accept))
		return false;
	if (request->etag[0] != '\0')
		return add_header(transfer, "If-None-Match", request->etag);
	if (request->last_modified[0] != '\0')
		return add_header(transfer, "If-Modified-Since",
						  request->last_modified);
	return true;
}

#define SET(option, value)                                     \
	do                                                         \
	{                                                          \
		if (curl_easy_setopt(easy, option, value) != CURLE_OK) \
			return #option;                                    \
	} while (0)

/*
 * What may be contacted, and how.  Each of these functions returns NULL or
 * the name of the option that this libcurl refuses: a request without one of
 * them must not be made.
 */
static const char *
set_policy(PgrHttpTransfer *transfer, CURL *easy)
{
	SET(CURLOPT_PROTOCOLS_STR,
		transfer->policy == PGR_ADDRESS_LOOPBACK ? "https,http" : "https");
	SET(CURLOPT_FOLLOWLOCATION, 0L);
	SET(CURLOPT_OPENSOCKETFUNCTION, open_socket_cb);
	SET(CURLOPT_OPENSOCKETDATA, transfer);
	SET(CURLOPT_PREREQFUNCTION, before_request_cb);
	SET(CURLOPT_PREREQDATA, transfer);
	/* The address of a proxy says nothing about the target's. */
	SET(CURLOPT_PROXY, "");
	SET(CURLOPT_NOPROXY, "*");
	SET(CURLOPT_NETRC, (long) CURL_NETRC_IGNORED);
	SET(CURLOPT_DISALLOW_USERNAME_IN_URL, 1L);
	SET(CURLOPT_UNRESTRICTED_AUTH, 0L);
	SET(CURLOPT_HTTP09_ALLOWED, 0L);
	SET(CURLOPT_SSL_VERIFYPEER, 1L);
	SET(CURLOPT_SSL_VERIFYHOST, 2L);
	SET(CURLOPT_SSLVERSION, (long) CURL_SSLVERSION_TLSv1_2);
	return NULL;
}

/* No signals, no wait for a resolver, no endless answer. */
static const char *
set_limits(PgrHttpTransfer *transfer, CURL *easy)
{
	SET(CURLOPT_NOSIGNAL, 1L);
	SET(CURLOPT_QUICK_EXIT, 1L);
	SET(CURLOPT_TIMEOUT_MS, (long) transfer->timeout_ms);
	SET(CURLOPT_CONNECTTIMEOUT_MS,
		(long) Min(transfer->timeout_ms, MAX_CONNECT_MS));
	SET(CURLOPT_LOW_SPEED_LIMIT, 1L);
	/* never before a first byte may come late by the setting */
	SET(CURLOPT_LOW_SPEED_TIME,
		(long) Max(LOW_SPEED_SECONDS, transfer->timeout_ms / 1000));
	SET(CURLOPT_MAXFILESIZE_LARGE, (curl_off_t) transfer->max_body_bytes);
	SET(CURLOPT_TCP_KEEPALIVE, 1L);
	SET(CURLOPT_MAXAGE_CONN, (long) MAX_CONNECTION_IDLE_S);
	SET(CURLOPT_MAXLIFETIME_CONN, (long) MAX_CONNECTION_AGE_S);
	return NULL;
}

static const char *
set_request(PgrHttpTransfer *transfer, CURL *easy, const char *url)
{
	SET(CURLOPT_URL, url);
	SET(CURLOPT_HTTPGET, 1L);
	SET(CURLOPT_USERAGENT, USER_AGENT);
	SET(CURLOPT_HTTPHEADER, transfer->header_list);
	/* No compression: a small body could unpack to a huge one. */
	SET(CURLOPT_ACCEPT_ENCODING, NULL);
	SET(CURLOPT_HEADERFUNCTION, header_cb);
	SET(CURLOPT_HEADERDATA, transfer);
	SET(CURLOPT_WRITEFUNCTION, body_cb);
	SET(CURLOPT_WRITEDATA, transfer);
	SET(CURLOPT_ERRORBUFFER, transfer->curl_error);
	SET(CURLOPT_PRIVATE, transfer);
	return NULL;
}

#undef SET

PgrHttpTransfer *
pgr_transfer_create(const PgrHttpRequest *request,
					char error[PGR_HTTP_ERROR_LEN])
{
	PgrHttpTransfer *transfer = calloc(1, sizeof(PgrHttpTransfer));
	const char *why;

	if (transfer == NULL || (transfer->easy = curl_easy_init()) == NULL)
	{
		free(transfer);
		strlcpy(error, "out of memory", PGR_HTTP_ERROR_LEN);
		return NULL;
	}
	transfer->timeout_ms = request->timeout_ms;
	transfer->max_body_bytes = request->max_body_bytes;
	pgr_headers_reset(&transfer->response.headers);

	why = pgr_url_refuse(request->url, &transfer->policy);
	if (why != NULL)
		strlcpy(error, why, PGR_HTTP_ERROR_LEN);
	else if (!add_headers(transfer, request))
		strlcpy(error, why = "out of memory", PGR_HTTP_ERROR_LEN);
	else if ((why = set_policy(transfer, transfer->easy)) != NULL ||
			 (why = set_limits(transfer, transfer->easy)) != NULL ||
			 (why = set_request(transfer, transfer->easy, request->url)) !=
				 NULL)
		snprintf(error, PGR_HTTP_ERROR_LEN, "libcurl does not accept %s", why);
	if (why == NULL)
		return transfer;

	pgr_transfer_free(transfer);
	return NULL;
}

/* Why it failed, in our words where libcurl's are about its own options. */
static void
describe_failure(PgrHttpTransfer *transfer, CURLcode code, char *error)
{
	const char *curl_says = transfer->curl_error[0] != '\0' ?
		transfer->curl_error :
		curl_easy_strerror(code);

	if (transfer->too_large || code == CURLE_FILESIZE_EXCEEDED)
		snprintf(error, PGR_HTTP_ERROR_LEN,
				 "the answer is larger than %zu bytes (headers: %d)",
				 transfer->max_body_bytes, MAX_HEADER_BYTES);
	else if (transfer->refused[0] != '\0' &&
			 (code == CURLE_COULDNT_CONNECT ||
			  code == CURLE_ABORTED_BY_CALLBACK))
		strlcpy(error, transfer->refused, PGR_HTTP_ERROR_LEN);
	else if (code == CURLE_PARTIAL_FILE)
		snprintf(error, PGR_HTTP_ERROR_LEN, "the answer is incomplete: %s",
				 curl_says);
	else if (code == CURLE_OPERATION_TIMEDOUT)
		snprintf(error, PGR_HTTP_ERROR_LEN, "timeout: %s", curl_says);
	else if (code == CURLE_WRITE_ERROR)
		strlcpy(error, "out of memory", PGR_HTTP_ERROR_LEN);
	else
		strlcpy(error, curl_says, PGR_HTTP_ERROR_LEN);
}

void
pgr_transfer_finish(PgrHttpTransfer *transfer, CURLcode code)
{
	PgrHttpResponse *response = &transfer->response;
	curl_off_t duration_us = 0;
	long status = 0;

	(void) curl_easy_getinfo(transfer->easy, CURLINFO_RESPONSE_CODE, &status);
	(void) curl_easy_getinfo(transfer->easy, CURLINFO_TOTAL_TIME_T,
							 &duration_us);
	response->status = (int) status;
	response->duration_us = duration_us;
	response->body = transfer->body;
	response->complete = code == CURLE_OK;
	if (!response->complete)
		describe_failure(transfer, code, response->error);
	transfer->finished = true;
}

void
pgr_transfer_free(PgrHttpTransfer *transfer)
{
	curl_easy_cleanup(transfer->easy);
	curl_slist_free_all(transfer->header_list);
	free(transfer->body);
	free(transfer);
}
