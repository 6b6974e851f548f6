/*
 * http/transfer.h
 *	  One request and its response; for http/multi.c only.
 */
#ifndef PGR_HTTP_TRANSFER_H
#define PGR_HTTP_TRANSFER_H

#include <curl/curl.h>

#include "http/address.h"
#include "http/http.h"

struct PgrHttpTransfer
{
	PgrHttpTransfer *next; /* in the list of its PgrHttp */
	CURL *easy;
	struct curl_slist *header_list;
	bool in_multi;
	bool finished;
	PgrAddressPolicy policy;
	int timeout_ms;

	/* written by callbacks */
	char *body;
	size_t body_allocated;
	size_t max_body_bytes;
	size_t header_bytes;
	bool too_large;
	char refused[PGR_HTTP_ERROR_LEN]; /* "" = no address was */
	char curl_error[CURL_ERROR_SIZE];

	PgrHttpResponse response;
};

/* NULL with an error text, or ready to be added to a multi handle. */
extern PgrHttpTransfer *pgr_transfer_create(const PgrHttpRequest *request,
											char error[PGR_HTTP_ERROR_LEN]);

/* Fill in the response; "code" is what libcurl says of the end. */
extern void pgr_transfer_finish(PgrHttpTransfer *transfer, CURLcode code);

/* It must not be in a multi handle any more. */
extern void pgr_transfer_free(PgrHttpTransfer *transfer);

#endif /* PGR_HTTP_TRANSFER_H */
