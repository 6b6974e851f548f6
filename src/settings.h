/*
 * settings.h
 *	  Every setting of pg_registry, with its unit in its C name.
 *
 * One struct, so that pg_registry_http, which sees no symbol of ours, can be
 * handed its address.  All are read-only outside settings.c.  None is read
 * inside a libcurl callback.
 */
#ifndef PGR_SETTINGS_H
#define PGR_SETTINGS_H

typedef enum PgrRatesFormat
{
	PGR_FORMAT_AUTO,
	PGR_FORMAT_FRANKFURTER,
	PGR_FORMAT_FRANKFURTER_V2,
	PGR_FORMAT_ECB_XML,
} PgrRatesFormat;

typedef enum PgrOnStale
{
	PGR_ON_STALE_SERVE,
	PGR_ON_STALE_NULL,
	PGR_ON_STALE_ERROR,
} PgrOnStale;

typedef enum PgrRefreshOn
{
	PGR_REFRESH_ON_PRIMARY,
	PGR_REFRESH_ON_BOTH,
} PgrRefreshOn;

typedef enum PgrReadConsistency
{
	PGR_READ_ISOLATION,
	PGR_READ_SNAPSHOT,
} PgrReadConsistency;

typedef struct PgrSettings
{
	/* reads: anybody's */
	int read_consistency; /* PgrReadConsistency */

	/* memory: postmaster only */
	int shared_memory_kb;
	int max_kb_per_database;
	int log_ring_slots;

	/* what may be sent: reload */
	bool outbound;     /* off: nothing, at once */
	char *armed_hosts; /* patterns, or "" = see base/outbound.h */

	/* rates: reload */
	char *rates_url;
	char *rates_currencies;
	int rates_format; /* PgrRatesFormat */
	int rates_interval_s;
	int rates_timeout_ms;
	bool rates_honor_cache;
	int rates_max_change_percent; /* 0 = off */
	int rates_max_age_s;
	int rates_max_value_age_s;
	int rates_on_stale; /* PgrOnStale */
	int refresh_on;     /* PgrRefreshOn */

	/* log: reload, superuser only */
	int log_min_level; /* an elevel; PGR_LOG_OFF = nothing */
	bool log_capture_statement;
	bool log_capture_detail; /* detail, hint stays, and context */

#ifdef PGR_TESTING
	int test_commit_delay_ms;  /* in the commit callback, W-2's test */
	int test_load_lock;        /* number of an advisory lock of loaders */
	int test_load_result;      /* of a loader: -1 = an error */
	int test_load_entries;     /* of one loader; 0 = by time */
	int test_batch_lock;       /* as test_load_lock, before a batch ends */
	int test_log_retention_ms; /* of the log of changes; 0 = as ever */
#endif
} PgrSettings;

/* Above every elevel that PostgreSQL has. */
#define PGR_LOG_OFF 100

extern PgrSettings pgr_settings;

extern void pgr_settings_define(void);

/*
 * Is "code" in the comma-separated list of rates_currencies ('' = all)?  The
 * list was validated when it was set.
 */
extern bool pgr_settings_keeps_currency(const char *currencies,
										const char *code);

#endif /* PGR_SETTINGS_H */
