/*
 * http/headers.h
 *	  Reading response headers.
 */
#ifndef PGR_HTTP_HEADERS_H
#define PGR_HTTP_HEADERS_H

#include <time.h>

#include "http/http.h"

extern void pgr_headers_reset(PgrHttpHeaders *headers);

/*
 * Note one line, as libcurl's header callback gets it; a status line starts
 * over.  Allocates nothing.
 */
extern void pgr_headers_add(PgrHttpHeaders *headers, const char *line,
							size_t len, time_t now);

/*
 * Retry-After (RFC 9110 10.2.3): seconds from now, 0 if the date is past, -1
 * if it is neither a number nor a date.  Not CURLINFO_RETRY_AFTER, which
 * returns negative numbers for past dates before libcurl 8.12.
 */
extern long pgr_headers_retry_after(const char *value, time_t now);

/*
 * max-age of Cache-Control in seconds; 0 for no-store and no-cache, -1 if it
 * says nothing.  s-maxage is for shared caches, which we are not.
 */
extern long pgr_headers_max_age(const char *value);

#endif /* PGR_HTTP_HEADERS_H */
