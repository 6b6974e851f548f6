/*
 * base/outbound.c
 *	  See outbound.h.  No state, no palloc, no ereport.
 */
#include "postgres.h"

#include <unistd.h>

#include "base/mask.h"
#include "base/outbound.h"

void
pgr_outbound_host(char host[PGR_HOST_NAME_LEN])
{
	if (gethostname(host, PGR_HOST_NAME_LEN) != 0)
		host[0] = '\0';
	host[PGR_HOST_NAME_LEN - 1] = '\0';
}

static bool
same_letter(char a, char b)
{
	return pg_ascii_tolower((unsigned char) a) ==
		pg_ascii_tolower((unsigned char) b);
}

/*
 * Up to the last star everything has been matched as early as possible, so
 * going back to that one is enough.
 */
static bool
pattern_matches(const char *pattern, const char *end, const char *text)
{
	const char *after_star = NULL;
	const char *retry = NULL;

	while (*text != '\0')
	{
		if (pattern < end && *pattern == '*')
		{
			after_star = ++pattern;
			retry = text;
		}
		else if (pattern < end &&
				 (*pattern == '?' || same_letter(*pattern, *text)))
		{
			pattern++;
			text++;
		}
		else if (after_star == NULL)
			return false;
		else
		{
			pattern = after_star;
			text = ++retry;
		}
	}
	while (pattern < end && *pattern == '*')
		pattern++;
	return pattern == end;
}

bool
pgr_outbound_host_matches(const char *patterns, const char *host)
{
	if (host[0] == '\0')
		return false;
	for (const char *p = patterns + strspn(patterns, ", \t"); *p != '\0';
		 p += strspn(p, ", \t"))
	{
		const char *end = p + strcspn(p, ", \t");

		if (pattern_matches(p, end, host))
			return true;
		p = end;
	}
	return false;
}

PgrOutbound
pgr_outbound_check(bool outbound, const char *armed_hosts, const char *host,
				   const char *url)
{
	if (!outbound)
		return PGR_OUTBOUND_OFF;
	/* a list that names nobody was not meant to let everybody in */
	if (armed_hosts[0] != '\0')
		return pgr_outbound_host_matches(armed_hosts, host) ?
			PGR_OUTBOUND_ALLOWED :
			PGR_OUTBOUND_OTHER_HOST;
	return pgr_mask_url_has_secret(url) ? PGR_OUTBOUND_UNNAMED :
										  PGR_OUTBOUND_ALLOWED;
}

const char *
pgr_outbound_reason(PgrOutbound outbound)
{
	switch (outbound)
	{
		case PGR_OUTBOUND_ALLOWED:
			break;
		case PGR_OUTBOUND_OFF:
			return "pg_registry.outbound is off";
		case PGR_OUTBOUND_OTHER_HOST:
			return "held: pg_registry.armed_hosts does not match the name of this host";
		case PGR_OUTBOUND_UNNAMED:
			return "held: the URL may hold a secret, and pg_registry.armed_hosts names no host that may send it";
	}
	return NULL;
}

const char *
pgr_outbound_advice(PgrOutbound outbound)
{
	switch (outbound)
	{
		case PGR_OUTBOUND_ALLOWED:
			break;
		case PGR_OUTBOUND_OFF:
			return "Nothing is sent: pg_registry.outbound is off.";
		case PGR_OUTBOUND_OTHER_HOST:
			return "Nothing is sent from this host: if it is meant to, add its name to pg_registry.armed_hosts in postgresql.conf and reload.";
		case PGR_OUTBOUND_UNNAMED:
			return "The URL may hold a secret: name the hosts that may send it in pg_registry.armed_hosts in postgresql.conf, and reload.";
	}
	return NULL;
}
