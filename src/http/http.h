/*
 * http/http.h
 *	  GET requests without blocking: start them, wait for one descriptor
 *	  together with whatever else you wait for, take what has ended.
 *
 * Knows neither registries nor SQL.  Nothing here throws or waits; memory is
 * malloc'ed, because libcurl's threads and callbacks must stay away from
 * PostgreSQL's allocator.  Only for a process that runs no backend's work.
 */
#ifndef PGR_HTTP_HTTP_H
#define PGR_HTTP_HTTP_H

#define PGR_HTTP_ERROR_LEN 256
#define PGR_HTTP_VALIDATOR_LEN 256
#define PGR_HTTP_REASON_LEN 64

/* Handle of the event loop; one per process. */
typedef struct PgrHttp PgrHttp;

/* A request under way, and then its response. */
typedef struct PgrHttpTransfer PgrHttpTransfer;

/* Strings are copied. */
typedef struct PgrHttpRequest
{
	const char *url;           /* https, or http to this machine */
	const char *accept;        /* value of the Accept header */
	const char *etag;          /* of the answer we have, or "" */
	const char *last_modified; /* the same; used if there is no etag */
	int timeout_ms;            /* for all of it */
	size_t max_body_bytes;
} PgrHttpRequest;

/* Headers that a caller may want; "" or -1 = not sent or of no use. */
typedef struct PgrHttpHeaders
{
	char reason[PGR_HTTP_REASON_LEN];  /* of the status line */
	char etag[PGR_HTTP_VALIDATOR_LEN]; /* verbatim */
	char last_modified[PGR_HTTP_VALIDATOR_LEN];
	char location[PGR_HTTP_VALIDATOR_LEN];
	long max_age_s; /* of Cache-Control; age_s is to be taken off */
	long age_s;     /* how long a cache had it */
	long retry_after_s;
} PgrHttpHeaders;

typedef struct PgrHttpResponse
{
	bool complete;                  /* a whole answer, of whatever status */
	char error[PGR_HTTP_ERROR_LEN]; /* if not: why */
	int status;                     /* 0 = none was received */
	PgrHttpHeaders headers;
	const char *body; /* NUL-terminated, NULL if empty */
	size_t body_bytes;
	int64 duration_us;
} PgrHttpResponse;

/*
 * Once per process, after the fork.  NULL if the system lacks resources or
 * libcurl is too old for the options that security depends on; then "error"
 * says why.
 */
extern PgrHttp *pgr_http_create(char error[PGR_HTTP_ERROR_LEN]);

/* Becomes readable whenever pgr_http_drive has something to do. */
extern int pgr_http_fd(const PgrHttp *http);

/* NULL if the request cannot be started: "error" says why. */
extern PgrHttpTransfer *pgr_http_start(PgrHttp *http,
									   const PgrHttpRequest *request,
									   char error[PGR_HTTP_ERROR_LEN]);

/* Move every transfer on as far as it gets without waiting. */
extern void pgr_http_drive(PgrHttp *http);

/* The response, or NULL while it is under way; the transfer owns it. */
extern const PgrHttpResponse *
pgr_http_response(const PgrHttpTransfer *transfer);

/* Close the connections that are kept for later; nothing may be under way. */
extern void pgr_http_disconnect(PgrHttp *http);

/* Forget a transfer, under way or not. */
extern void pgr_http_free(PgrHttp *http, PgrHttpTransfer *transfer);

#endif /* PGR_HTTP_HTTP_H */
