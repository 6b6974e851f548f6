/*
 * base/outbound.h
 *	  May this machine send a request at all?  What the settings say.
 *
 * A copy of a data directory cannot be told from its original by anything in
 * it; so the configuration names the machines that may send (S-3).  Whether a
 * database is a copy of another one is durable/arm.h's question.
 */
#ifndef PGR_BASE_OUTBOUND_H
#define PGR_BASE_OUTBOUND_H

#define PGR_HOST_NAME_LEN 256

typedef enum PgrOutbound
{
	PGR_OUTBOUND_ALLOWED,
	PGR_OUTBOUND_OFF,        /* pg_registry.outbound */
	PGR_OUTBOUND_OTHER_HOST, /* armed_hosts does not match this one */
	PGR_OUTBOUND_UNNAMED     /* armed_hosts is empty: no secrets */
} PgrOutbound;

/* The name of this machine, "" if it has none; it can change any time. */
extern void pgr_outbound_host(char host[PGR_HOST_NAME_LEN]);

/*
 * May a request with this URL be sent from "host"?  It is a GET without
 * headers that hold secrets; others need a matching name, too.
 */
extern PgrOutbound pgr_outbound_check(bool outbound, const char *armed_hosts,
									  const char *host, const char *url);

/* What to do about it, a sentence; NULL if it may. */
extern const char *pgr_outbound_advice(PgrOutbound outbound);

/* Why it may not, as an error of a refresh. */
extern const char *pgr_outbound_reason(PgrOutbound outbound);

/*
 * Does one of the patterns, separated by commas, match the whole name?  '*'
 * stands for any characters, '?' for one; case does not matter.
 */
extern bool pgr_outbound_host_matches(const char *patterns, const char *host);

#endif /* PGR_BASE_OUTBOUND_H */
