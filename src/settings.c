/*
 * settings.c
 *	  Definitions and checks of every setting.
 *
 * Check hooks run in the postmaster on reload, so they touch no shared memory
 * and no catalog; a value that they refuse leaves the old one in force.  No
 * assign hook does anything: the scheduler compares when it reloads.
 */
#include "postgres.h"

#include <arpa/inet.h>
#include <limits.h>
#include <netinet/in.h>

#include "utils/guc.h"

#include "base/compat.h"
#include "settings.h"

/* What 31 bits of places in units of 64 bytes can name, less the rest. */
#define MAX_SHARED_MEMORY_KB Min(MAX_KILOBYTES, 127 * 1024 * 1024)

PgrSettings pgr_settings;

static const struct config_enum_entry format_options[] =
	{{"auto", PGR_FORMAT_AUTO, false},
	 {"frankfurter", PGR_FORMAT_FRANKFURTER, false},
	 {"frankfurter_v2", PGR_FORMAT_FRANKFURTER_V2, false},
	 {"ecb_xml", PGR_FORMAT_ECB_XML, false},
	 {NULL, 0, false}};

static const struct config_enum_entry on_stale_options[] =
	{{"serve", PGR_ON_STALE_SERVE, false},
	 {"null", PGR_ON_STALE_NULL, false},
	 {"error", PGR_ON_STALE_ERROR, false},
	 {NULL, 0, false}};

static const struct config_enum_entry read_consistency_options[] =
	{{"isolation", PGR_READ_ISOLATION, false},
	 {"snapshot", PGR_READ_SNAPSHOT, false},
	 {NULL, 0, false}};

static const struct config_enum_entry refresh_on_options[] =
	{{"primary", PGR_REFRESH_ON_PRIMARY, false},
	 {"both", PGR_REFRESH_ON_BOTH, false},
	 {NULL, 0, false}};

static const struct config_enum_entry level_options[] =
	{{"debug5", DEBUG5, false},
	 {"debug4", DEBUG4, false},
	 {"debug3", DEBUG3, false},
	 {"debug2", DEBUG2, false},
	 {"debug1", DEBUG1, false},
	 {"debug", DEBUG2, true},
	 {"info", INFO, false},
	 {"notice", NOTICE, false},
	 {"warning", WARNING, false},
	 {"error", ERROR, false},
	 {"log", LOG, false},
	 {"fatal", FATAL, false},
	 {"panic", PANIC, false},
	 {"off", PGR_LOG_OFF, false},
	 {NULL, 0, false}};

/* ------------------------------------------------------------------------
 * Checks
 * ------------------------------------------------------------------------
 */

/* A literal of 127.0.0.0/8 or ::1, or "localhost". */
static bool
is_loopback(const char *host, Size len)
{
	char text[INET6_ADDRSTRLEN];
	struct in_addr address;

	if ((len == strlen("localhost") &&
		 pg_strncasecmp(host, "localhost", len) == 0) ||
		(len == strlen("[::1]") && strncmp(host, "[::1]", len) == 0))
		return true;
	if (len >= sizeof(text))
		return false;
	memcpy(text, host, len);
	text[len] = '\0';
	return inet_pton(AF_INET, text, &address) == 1 &&
		ntohl(address.s_addr) >> 24 == 127;
}

/* Nothing, or a colon and a port. */
static bool
is_port(const char *text, const char *end)
{
	Size digits;

	if (text == end)
		return true;
	digits = strspn(text + 1, "0123456789");
	return *text == ':' && digits >= 1 && digits <= 5 &&
		text + 1 + digits == end && atoi(text + 1) >= 1 &&
		atoi(text + 1) <= 65535;
}

/* The host part of an authority, brackets included; NULL if they do not match */
static const char *
host_end(const char *host, const char *end)
{
	const char *mark;

	if (host[0] == '[')
	{
		mark = memchr(host, ']', end - host);
		return mark ? mark + 1 : NULL;
	}
	mark = memchr(host, ':', end - host);
	return mark ? mark : end;
}

/* What is wrong with a URL, NULL if nothing is that we can see here. */
static const char *
url_mistake(const char *url)
{
	const char *host;
	const char *after;
	const char *end;
	bool plain = pg_strncasecmp(url, "http://", 7) == 0;

	for (const char *c = url; *c; c++)
		if ((unsigned char) *c <= ' ' || (unsigned char) *c >= 0x7F)
			return "A URL has no spaces, control characters or characters outside ASCII.";
	if (!plain && pg_strncasecmp(url, "https://", 8) != 0)
		return "The URL must begin with \"https://\" (or \"http://\" for a loopback address).";
	host = strstr(url, "://") + 3;
	end = host + strcspn(host, "/?#");
	if (memchr(host, '@', end - host) != NULL)
		return "A URL with a user name or password is not accepted.";
	after = host_end(host, end);
	if (after == NULL)
		return "The IPv6 address of the URL has no closing bracket.";
	if (after == host)
		return "The URL has no host name.";
	if (after != end && *after != ':')
		return "After the IPv6 address of the URL only a port may follow.";
	if (!is_port(after, end))
		return "The port of the URL must be a number from 1 to 65535.";
	if (plain && !is_loopback(host, after - host))
		return "Plain http is accepted only for a literal loopback address or \"localhost\".";
	return NULL;
}

/*
 * Catches what can only be a mistake; the rest is libcurl's business.  The
 * message does not quote the value, which can hold a secret (S-2).
 */
static bool
check_url(char **newval, void **extra, GucSource source)
{
	const char *mistake = (*newval)[0] ? url_mistake(*newval) : NULL;

	if (mistake == NULL)
		return true;
	GUC_check_errmsg("invalid value for parameter \"pg_registry.rates_url\"");
	GUC_check_errdetail("%s", mistake);
	return false;
}

/* The next code of a list: skips spaces; returns its length, 0 at the end. */
static int
next_code(const char **list)
{
	*list += strspn(*list, " \t");
	return (int) strcspn(*list, ", \t");
}

static bool
check_currencies(char **newval, void **extra, GucSource source)
{
	const char *list = *newval;
	int len;

	if (list[strspn(list, " \t")] == '\0')
		return true;
	for (;;)
	{
		len = next_code(&list);
		if (len != 3 || strspn(list, "ABCDEFGHIJKLMNOPQRSTUVWXYZ") < 3)
		{
			GUC_check_errdetail(
				"The list holds currency codes of three upper-case letters, separated by commas, such as 'EUR,USD,GBP'.");
			return false;
		}
		list += len;
		list += strspn(list, " \t");
		if (*list == '\0')
			return true;
		if (*list != ',')
		{
			GUC_check_errdetail("Currency codes are separated by commas.");
			return false;
		}
		list++;
	}
}

bool
pgr_settings_keeps_currency(const char *currencies, const char *code)
{
	const char *list = currencies;
	int len;
	bool any = false;

	while ((len = next_code(&list)) > 0)
	{
		any = true;
		if (len == 3 && strncmp(list, code, 3) == 0)
			return true;
		list += len;
		list += strspn(list, " \t,");
	}
	return !any;
}

/* ------------------------------------------------------------------------
 * Definitions
 * ------------------------------------------------------------------------
 */

static void
define_memory(void)
{
	/* only the postmaster can reserve memory */
	DefineCustomIntVariable(
		"pg_registry.shared_memory", "Shared memory for registries.",
		"It holds every version that a statement still reads, so allow for some.",
		&pgr_settings.shared_memory_kb, 64 * 1024, 1024, MAX_SHARED_MEMORY_KB,
		PGC_POSTMASTER, GUC_UNIT_KB, NULL, NULL, NULL);
	DefineCustomIntVariable(
		"pg_registry.max_bytes_per_database",
		"Shared memory that the registries of one database may take.",
		"0 means no limit of its own.  Superusers can set it for each database with ALTER DATABASE.",
		&pgr_settings.max_kb_per_database, 0, 0, MAX_SHARED_MEMORY_KB,
		PGC_SUSET, GUC_UNIT_KB, NULL, NULL, NULL);
	DefineCustomIntVariable(
		"pg_registry.log_ring_slots",
		"Number of log records that are kept in shared memory.", NULL,
		&pgr_settings.log_ring_slots, 1024, 16, 1024 * 1024, PGC_POSTMASTER, 0,
		NULL, NULL, NULL);
}

static void
define_outbound(void)
{
	DefineCustomBoolVariable(
		"pg_registry.outbound",
		"Requests may be sent; off stops them all at once.", NULL,
		&pgr_settings.outbound, true, PGC_SIGHUP, 0, NULL, NULL, NULL);

	/*
	 * No check refuses anything: a mistake at the start of the server would
	 * leave the list empty, which allows more than any mistake does.
	 */
	DefineCustomStringVariable(
		"pg_registry.armed_hosts",
		"Names of the hosts that may send requests, with * and ?, separated by commas.",
		"Empty: any host may send GET requests without secrets, and nothing else.",
		&pgr_settings.armed_hosts, "", PGC_SIGHUP,
		GUC_SUPERUSER_ONLY | GUC_DISALLOW_IN_AUTO_FILE, NULL, NULL, NULL);
}

static void
define_rates_source(void)
{
	DefineCustomStringVariable(
		"pg_registry.rates_url",
		"Where exchange rates are fetched from; empty: nowhere.",
		"https, or http for a literal loopback address or \"localhost\".",
		&pgr_settings.rates_url, "", PGC_SIGHUP, GUC_SUPERUSER_ONLY, check_url,
		NULL, NULL);
	DefineCustomEnumVariable("pg_registry.rates_format",
							 "Format of the answer.", NULL,
							 &pgr_settings.rates_format, PGR_FORMAT_AUTO,
							 format_options, PGC_SIGHUP, 0, NULL, NULL, NULL);
	DefineCustomStringVariable(
		"pg_registry.rates_currencies",
		"Currencies to keep, separated by commas; empty: all.",
		"Other currencies of the answer are neither stored nor validated.",
		&pgr_settings.rates_currencies, "", PGC_SIGHUP, 0, check_currencies,
		NULL, NULL);
	DefineCustomIntVariable("pg_registry.rates_interval",
							"Time between two requests for exchange rates.",
							NULL, &pgr_settings.rates_interval_s, 3600, 1,
							7 * 24 * 3600, PGC_SIGHUP, GUC_UNIT_S, NULL, NULL,
							NULL);
	DefineCustomIntVariable("pg_registry.rates_timeout",
							"Total time that one request may take.", NULL,
							&pgr_settings.rates_timeout_ms, 15000, 100,
							300 * 1000, PGC_SIGHUP, GUC_UNIT_MS, NULL, NULL,
							NULL);
	DefineCustomBoolVariable(
		"pg_registry.rates_honor_cache",
		"Do not ask again before the answer's Cache-Control: max-age has passed.",
		"At most 24 hours.", &pgr_settings.rates_honor_cache, true, PGC_SIGHUP,
		0, NULL, NULL, NULL);
	DefineCustomEnumVariable(
		"pg_registry.refresh_on",
		"Servers that fetch: the primary, or standbys too.", NULL,
		&pgr_settings.refresh_on, PGR_REFRESH_ON_PRIMARY, refresh_on_options,
		PGC_SIGHUP, 0, NULL, NULL, NULL);
}

static void
define_reads(void)
{
	DefineCustomEnumVariable(
		"pg_registry.read_consistency",
		"What reads of durable registries agree with.",
		"isolation: with all other reads of the statement; snapshot: with the statement's reads of tables, too, if need be through the registry's own table.",
		&pgr_settings.read_consistency, PGR_READ_ISOLATION,
		read_consistency_options, PGC_USERSET, 0, NULL, NULL, NULL);
}

static void
define_rates_policy(void)
{
	DefineCustomIntVariable(
		"pg_registry.rates_max_change",
		"Largest change of a rate that is published without confirmation, in percent; 0: any.",
		"A set beyond it, or with another base, is not published.",
		&pgr_settings.rates_max_change_percent, 50, 0, 1000000, PGC_SIGHUP, 0,
		NULL, NULL, NULL);
	DefineCustomIntVariable(
		"pg_registry.rates_max_age",
		"Rates are stale this long after the last good answer; 0: never.",
		NULL, &pgr_settings.rates_max_age_s, 24 * 3600, 0, INT_MAX, PGC_SIGHUP,
		GUC_UNIT_S, NULL, NULL, NULL);
	DefineCustomIntVariable(
		"pg_registry.rates_max_value_age",
		"Rates are stale this long after the date that the provider gives them; 0: never.",
		NULL, &pgr_settings.rates_max_value_age_s, 7 * 24 * 3600, 0, INT_MAX,
		PGC_SIGHUP, GUC_UNIT_S, NULL, NULL, NULL);
	DefineCustomEnumVariable("pg_registry.rates_on_stale",
							 "What reading a stale rate does.", NULL,
							 &pgr_settings.rates_on_stale, PGR_ON_STALE_SERVE,
							 on_stale_options, PGC_SIGHUP, 0, NULL, NULL,
							 NULL);
}

static void
define_log(void)
{
	DefineCustomEnumVariable(
		"pg_registry.log_min_level",
		"Log records at or above this level are kept for registry.log_tail().",
		"Ordered as in log_min_messages.", &pgr_settings.log_min_level,
		PGR_LOG_OFF, level_options, PGC_SIGHUP, GUC_SUPERUSER_ONLY, NULL, NULL,
		NULL);
	DefineCustomBoolVariable(
		"pg_registry.log_capture_statement",
		"Keep the statement of a log record too.",
		"Statements can hold passwords and personal data.",
		&pgr_settings.log_capture_statement, false, PGC_SIGHUP,
		GUC_SUPERUSER_ONLY, NULL, NULL, NULL);
	DefineCustomBoolVariable(
		"pg_registry.log_capture_detail",
		"Keep the detail and the context of a log record too.",
		"Details can hold key values.", &pgr_settings.log_capture_detail,
		false, PGC_SIGHUP, GUC_SUPERUSER_ONLY, NULL, NULL, NULL);
}

void
pgr_settings_define(void)
{
	define_memory();
	define_outbound();
	define_rates_source();
	define_rates_policy();
	define_reads();
	define_log();
#ifdef PGR_TESTING
	DefineCustomIntVariable(
		"pg_registry.test_commit_delay",
		"Delay inside the commit callback; only in test builds.", NULL,
		&pgr_settings.test_commit_delay_ms, 0, 0, 60000, PGC_USERSET,
		GUC_UNIT_MS, NULL, NULL, NULL);
	DefineCustomIntVariable(
		"pg_registry.test_load_lock",
		"Advisory lock (0, n) that a loader waits for; only in test builds.",
		NULL, &pgr_settings.test_load_lock, 0, 0, INT_MAX, PGC_USERSET, 0,
		NULL, NULL, NULL);
	DefineCustomIntVariable(
		"pg_registry.test_load_result",
		"What a loader finds besides: -1 an error, n registries that do not fit; only in test builds.",
		NULL, &pgr_settings.test_load_result, 0, -1, 1000, PGC_USERSET, 0,
		NULL, NULL, NULL);
	DefineCustomIntVariable(
		"pg_registry.test_load_entries",
		"How many entries a loader loads before another one goes on; only in test builds.",
		NULL, &pgr_settings.test_load_entries, 0, 0, INT_MAX, PGC_USERSET, 0,
		NULL, NULL, NULL);
	DefineCustomIntVariable(
		"pg_registry.test_batch_lock",
		"Advisory lock (0, n) that a loader waits for before it publishes; only in test builds.",
		NULL, &pgr_settings.test_batch_lock, 0, 0, INT_MAX, PGC_USERSET, 0,
		NULL, NULL, NULL);
	DefineCustomIntVariable(
		"pg_registry.test_log_retention",
		"How long the log of changes keeps a row; only in test builds.", NULL,
		&pgr_settings.test_log_retention_ms, 0, 0, INT_MAX, PGC_SIGHUP,
		GUC_UNIT_MS, NULL, NULL, NULL);
#endif
	MarkGUCPrefixReserved("pg_registry");
}
