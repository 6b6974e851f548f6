/*
 * fetch/fetch.c
 *	  Keeps the exchange rates fresh.
 *
 * A state machine without a wait of its own: each step looks at the settings,
 * at what others ask for, at the network and at the clock, and does what is
 * due.  At most one request is under way; its run ends exactly once, whatever
 * happens.  No transaction, snapshot, lock or pin is ever held (N-1), and no
 * catalog is touched: the process has no database.
 */
#include "postgres.h"

#include "access/xlog.h"
#include "common/hashfn.h"
#include "common/pg_prng.h"
#include "utils/memutils.h"
#include "utils/timestamp.h"

#include "base/clock.h"
#include "base/mask.h"
#include "base/outbound.h"
#include "fetch/answer.h"
#include "fetch/fetch.h"
#include "fetch/report.h"
#include "fetch/run.h"
#include "fetch/schedule.h"
#include "http/http.h"

#define MAX_BODY_BYTES (1024 * 1024)
#define ACCEPT "application/json, application/xml;q=0.9, text/xml;q=0.9"

/* After that the source is asked even if rates may still come from a table. */
#define MAX_WAIT_FOR_LOADS_MS INT64CONST(30000)

/* A promotion announces itself to nobody, so look now and then. */
#define MAX_WAIT_MS 10000L

/* The settings that decide what is fetched and what is accepted. */
typedef struct Wishes
{
	char *url;
	char *currencies;
	int format;
	int max_change_percent;
} Wishes;

/* How the last run ended, as far as the next one depends on it. */
typedef struct Ended
{
	int64 at_ms;
	int failures;   /* in a row, for the backoff */
	long bound_s;   /* the server's wish for the next, or -1 */
	int interval_s; /* that was in force */
	bool honor_cache;
} Ended;

struct PgrFetch
{
	const PgrCoreApi *core;
	MemoryContext context; /* of one step */
	PgrHttp *http;         /* made at the first request */

	Wishes wishes;
	char source[PGR_REFRESH_SOURCE_LEN]; /* masked URL */
	uint64 question;  /* all that an answer depends on, without secrets */
	bool started;     /* a step was made: changes are changes */
	bool looked_back; /* at what was fetched before this process */
	int64 created_ms;
	bool changed; /* the URL, and nothing published since */

	/* of the last good answer; only of use while its rates are published */
	char etag[PGR_HTTP_VALIDATOR_LEN];
	char last_modified[PGR_HTTP_VALIDATOR_LEN];

	bool in_run;
	bool conditional; /* this run's request has validators */
	PgrHttpTransfer *transfer;

	int64 due_ms; /* 0 = at once */
	Ended ended;
	PgrReport report;

	/* what registry.status() shows, to write it on change only */
	PgrSchedulerState shown_state;
	int64 shown_due_ms;
};

PgrFetch *
pgr_fetch_create(const PgrCoreApi *core)
{
	PgrFetch *fetch = MemoryContextAllocZero(TopMemoryContext,
											 sizeof(PgrFetch));

	fetch->core = core;
	fetch->context = AllocSetContextCreate(TopMemoryContext,
										   "pg_registry fetch",
										   ALLOCSET_DEFAULT_SIZES);
	fetch->wishes.url = MemoryContextStrdup(TopMemoryContext, "");
	fetch->wishes.currencies = MemoryContextStrdup(TopMemoryContext, "");
	fetch->created_ms = pgr_monotonic_ms();
	pgr_report_init(&fetch->report, fetch->created_ms, false);
	return fetch;
}

int
pgr_fetch_fd(const PgrFetch *fetch)
{
	return fetch->http != NULL ? pgr_http_fd(fetch->http) : -1;
}

static void
drop_transfer(PgrFetch *fetch)
{
	if (fetch->transfer != NULL)
		pgr_http_free(fetch->http, fetch->transfer);
	fetch->transfer = NULL;
}

static void
forget_validators(PgrFetch *fetch)
{
	fetch->etag[0] = '\0';
	fetch->last_modified[0] = '\0';
}

static void
keep_string(char **kept, const char *value)
{
	char *copy = MemoryContextStrdup(TopMemoryContext, value);

	pfree(*kept);
	*kept = copy;
}

static uint64
hash_text(const char *text, uint64 seed)
{
	return hash_bytes_extended((const unsigned char *) text,
							   (int) strlen(text), seed);
}

/*
 * Other wishes than before are a new start: what is known of the source does
 * not apply, and the answer is wanted at once.  A request that is under way
 * is made anew; whoever waits for it gets the new one's result.
 */
static void
notice_wishes(PgrFetch *fetch)
{
	const PgrSettings *settings = fetch->core->settings;
	Wishes *wishes = &fetch->wishes;
	bool new_url;

	if (strcmp(wishes->url, settings->rates_url) == 0 &&
		strcmp(wishes->currencies, settings->rates_currencies) == 0 &&
		wishes->format == settings->rates_format &&
		wishes->max_change_percent == settings->rates_max_change_percent)
		return;

	new_url = strcmp(wishes->url, settings->rates_url) != 0;
	keep_string(&wishes->url, settings->rates_url);
	keep_string(&wishes->currencies, settings->rates_currencies);
	wishes->format = settings->rates_format;
	wishes->max_change_percent = settings->rates_max_change_percent;

	pgr_mask_url(fetch->source, sizeof(fetch->source), wishes->url);
	fetch->question = hash_text(fetch->source,
								hash_text(wishes->currencies,
										  (uint64) wishes->format));
	fetch->looked_back |= fetch->started;
	if (new_url && fetch->started)
		pgr_report_source(fetch->source);
	forget_validators(fetch);
	drop_transfer(fetch);
	/* another limit is applied, not waived; another source is on purpose */
	fetch->changed = fetch->started && (fetch->changed || new_url);
	fetch->due_ms = 0;
	fetch->ended.failures = 0;
	pgr_report_init(&fetch->report, pgr_monotonic_ms(), true);
	pgr_run_new_source(fetch->core, fetch->source);
}

/* When the next run is due, from how the last one ended. */
static void
plan_next(PgrFetch *fetch)
{
	const PgrSettings *settings = fetch->core->settings;
	Ended *ended = &fetch->ended;
	double random = pg_prng_double(&pg_global_prng_state);
	long fresh_s = settings->rates_honor_cache ? ended->bound_s : -1;

	ended->interval_s = settings->rates_interval_s;
	ended->honor_cache = settings->rates_honor_cache;
	fetch->due_ms = ended->at_ms +
		(ended->failures > 0 ?
			 pgr_schedule_after_failure_ms(ended->failures, ended->interval_s,
										   ended->bound_s, random) :
			 pgr_schedule_after_success_ms(ended->interval_s, fresh_s,
										   random));
}

/* The settings of the schedule change the time, not the source. */
static void
notice_interval(PgrFetch *fetch)
{
	const PgrSettings *settings = fetch->core->settings;

	if (fetch->due_ms != 0 &&
		(fetch->ended.interval_s != settings->rates_interval_s ||
		 fetch->ended.honor_cache != settings->rates_honor_cache))
		plan_next(fetch);
}

/* The machine's name is asked for each time: it may get another one. */
static PgrOutbound
find_ban(const PgrFetch *fetch)
{
	const PgrSettings *settings = fetch->core->settings;
	char host[PGR_HOST_NAME_LEN];

	pgr_outbound_host(host);
	return pgr_outbound_check(settings->outbound, settings->armed_hosts, host,
							  fetch->wishes.url);
}

/*
 * Is it known what there was before this process?  Rates come back with the
 * first round of loads, or not at all.
 */
static bool
is_loaded(const PgrFetch *fetch)
{
	PgrLoadReport report;

	fetch->core->load_state_read(&report);
	return report.done > 0 || (report.rounds > 0 && report.lister_pid == 0) ||
		pgr_monotonic_ms() - fetch->created_ms > MAX_WAIT_FOR_LOADS_MS;
}

/*
 * The first request is due when it would have been without a restart.  False:
 * that is not known yet.
 */
static bool
look_back(PgrFetch *fetch)
{
	TimestampTz now = GetCurrentTimestamp();
	TimestampTz answered_at;

	if (fetch->looked_back)
		return true;
	if (!is_loaded(fetch))
		return false;
	fetch->looked_back = true;
	answered_at = fetch->core->rates_answered_at(fetch->question);
	if (answered_at != 0 && answered_at <= now)
	{
		fetch->ended.at_ms = pgr_monotonic_ms() - (now - answered_at) / 1000;
		fetch->ended.bound_s = -1;
		plan_next(fetch);
	}
	return true;
}

/*
 * Why nothing may be fetched now, and the state to show; NULL if it may.
 */
static const char *
find_obstacle(PgrFetch *fetch, bool paused, PgrSchedulerState *state)
{
	PgrOutbound outbound;

	if (fetch->wishes.url[0] == '\0')
	{
		*state = PGR_SCHEDULER_NOT_CONFIGURED;
		return "pg_registry.rates_url is not set";
	}
	if (fetch->core->settings->refresh_on == PGR_REFRESH_ON_PRIMARY &&
		RecoveryInProgress())
	{
		*state = PGR_SCHEDULER_STANDBY;
		return "this server is a standby, and pg_registry.refresh_on is \"primary\"";
	}
	outbound = find_ban(fetch);
	if (outbound != PGR_OUTBOUND_ALLOWED)
	{
		*state = outbound == PGR_OUTBOUND_OFF ? PGR_SCHEDULER_OUTBOUND_OFF :
												PGR_SCHEDULER_HELD;
		return pgr_outbound_reason(outbound);
	}
	if (paused)
	{
		*state = PGR_SCHEDULER_PAUSED;
		return "source \"rates\" is paused";
	}
	return NULL;
}

/* The time of day of a monotonic time, 0 = none. */
static TimestampTz
time_of_day(int64 ms)
{
	return ms == 0 ? 0 :
					 GetCurrentTimestamp() + (ms - pgr_monotonic_ms()) * 1000;
}

static PgrSchedulerState
idle_state(const PgrFetch *fetch)
{
	return fetch->ended.failures > 0 ? PGR_SCHEDULER_WAITING :
									   PGR_SCHEDULER_IDLE;
}

static void
show_state(PgrFetch *fetch, PgrSchedulerState state, int64 due_ms)
{
	if (state == fetch->shown_state && due_ms == fetch->shown_due_ms)
		return;
	pgr_run_show_state(fetch->core, state, time_of_day(due_ms));
	fetch->shown_state = state;
	fetch->shown_due_ms = due_ms;
}

/* End the run: plan the next, publish the outcome, log what is worth it. */
static void
end_run(PgrFetch *fetch, const PgrRunOutcome *outcome, long bound_s)
{
	PgrStreak streak;
	bool first;

	drop_transfer(fetch);
	fetch->in_run = false;

	fetch->ended.at_ms = pgr_monotonic_ms();
	fetch->ended.bound_s = bound_s;
	if (outcome->kind == PGR_RUN_FAILED)
		fetch->ended.failures++;
	else
		fetch->ended.failures = 0;
	plan_next(fetch);

	fetch->shown_state = idle_state(fetch);
	fetch->shown_due_ms = fetch->due_ms;
	first = pgr_run_end(fetch->core, outcome, fetch->shown_state,
						time_of_day(fetch->due_ms), &streak);
	pgr_report_outcome(&fetch->report, fetch->ended.at_ms, fetch->source,
					   outcome, &streak, first);
}

static PgrQuestion
question_of(const PgrFetch *fetch)
{
	PgrQuestion question = {
		.url = fetch->wishes.url,
		.source = fetch->source,
		.id = fetch->question,
		.conditional = fetch->conditional,
		.accepted = fetch->changed,
	};

	return question;
}

static void
fail_run(PgrFetch *fetch, const char *error)
{
	PgrQuestion question = question_of(fetch);
	PgrRunOutcome outcome;

	pgr_answer_none(&question, error, &outcome);
	end_run(fetch, &outcome, -1);
}

/* Ask the provider; the run has begun. */
static void
send_request(PgrFetch *fetch)
{
	bool known = fetch->core->rates_is_from(fetch->source);
	PgrHttpRequest request = {
		.url = fetch->wishes.url,
		.accept = ACCEPT,
		.etag = known ? fetch->etag : "",
		.last_modified = known ? fetch->last_modified : "",
		.timeout_ms = fetch->core->settings->rates_timeout_ms,
		.max_body_bytes = MAX_BODY_BYTES,
	};
	char error[PGR_HTTP_ERROR_LEN];

	fetch->conditional = request.etag[0] != '\0' ||
		request.last_modified[0] != '\0';
	if (fetch->http == NULL)
		fetch->http = pgr_http_create(error);
	if (fetch->http != NULL)
		fetch->transfer = pgr_http_start(fetch->http, &request, error);
	if (fetch->transfer == NULL)
		fail_run(fetch, error);
}

static void
begin_run(PgrFetch *fetch)
{
	pgr_run_begin(fetch->core);
	fetch->in_run = true;
	fetch->shown_state = PGR_SCHEDULER_FETCHING;
	fetch->shown_due_ms = 0;
	send_request(fetch);
}

/*
 * Validators belong to the set that is published.  Those of one that was
 * refused must not be kept: "not modified" would then vouch for the old one.
 */
static void
note_published(PgrFetch *fetch, const PgrHttpHeaders *headers,
			   const PgrRunOutcome *outcome)
{
	if (outcome->http_status == 304 || outcome->kind == PGR_RUN_FAILED ||
		outcome->kind == PGR_RUN_QUARANTINED)
		return;
	fetch->changed = false;
	strlcpy(fetch->etag, headers->etag, sizeof(fetch->etag));
	strlcpy(fetch->last_modified, headers->last_modified,
			sizeof(fetch->last_modified));
}

static void
take_response(PgrFetch *fetch, const PgrHttpResponse *response)
{
	const PgrHttpHeaders *headers = &response->headers;
	PgrQuestion question = question_of(fetch);
	PgrRunOutcome outcome;
	long bound_s;

	if (!pgr_answer_take(fetch->core, &question, response, &outcome))
	{
		drop_transfer(fetch);
		forget_validators(fetch);
		send_request(fetch);
		return;
	}
	note_published(fetch, headers, &outcome);
	if (outcome.kind == PGR_RUN_FAILED)
		bound_s = headers->retry_after_s;
	else
		bound_s = Max(headers->max_age_s - headers->age_s, -1);
	end_run(fetch, &outcome, bound_s);
}

static bool
is_banned(PgrSchedulerState state)
{
	return state == PGR_SCHEDULER_HELD || state == PGR_SCHEDULER_OUTBOUND_OFF;
}

/*
 * Nothing may be fetched: stop what is under way, answer who asks.  What can
 * surprise somebody is told once.
 */
static void
stand_down(PgrFetch *fetch, const PgrRunOrders *orders, const char *obstacle,
		   PgrSchedulerState state)
{
	if (fetch->in_run || orders->wanted)
	{
		drop_transfer(fetch);
		fetch->in_run = false;
		pgr_run_decline(fetch->core, obstacle);
	}
	if (fetch->http != NULL)
		pgr_http_disconnect(fetch->http);
	if (is_banned(state) && state != fetch->shown_state)
		pgr_report_banned(fetch->source, obstacle);
	show_state(fetch, state, 0);
}

/* Everything that is due, once. */
static void
step(PgrFetch *fetch)
{
	PgrRunOrders orders;
	PgrSchedulerState state;
	const PgrHttpResponse *response;
	const char *obstacle;

	notice_wishes(fetch);
	notice_interval(fetch);
	orders = pgr_run_orders(fetch->core);
	obstacle = find_obstacle(fetch, orders.paused, &state);
	if (obstacle != NULL)
	{
		stand_down(fetch, &orders, obstacle, state);
		return;
	}

	/* Even without a request: libcurl also looks after kept connections. */
	if (fetch->http != NULL)
		pgr_http_drive(fetch->http);
	if (fetch->in_run && fetch->transfer == NULL)
		send_request(fetch);
	if (fetch->transfer != NULL &&
		(response = pgr_http_response(fetch->transfer)) != NULL)
		take_response(fetch, response);
	if (!fetch->in_run && !orders.wanted && !orders.interrupted &&
		!look_back(fetch))
	{
		show_state(fetch, PGR_SCHEDULER_STARTING, 0);
		return;
	}
	if (!fetch->in_run && orders.wanted)
		fetch->ended.failures = 0; /* somebody has reason to hope */
	if (!fetch->in_run &&
		(orders.wanted || pgr_monotonic_ms() >= fetch->due_ms))
		begin_run(fetch);
	if (!fetch->in_run)
		show_state(fetch, idle_state(fetch), fetch->due_ms);
}

long
pgr_fetch_step(PgrFetch *fetch)
{
	MemoryContext caller = MemoryContextSwitchTo(fetch->context);
	long wait_ms = MAX_WAIT_MS;

	step(fetch);
	if (fetch->shown_due_ms != 0)
		wait_ms = (long) Min(fetch->shown_due_ms - pgr_monotonic_ms(),
							 wait_ms);

	fetch->started = true;
	MemoryContextSwitchTo(caller);
	MemoryContextReset(fetch->context);
	return Max(wait_ms, 0);
}

void
pgr_fetch_recover(PgrFetch *fetch, const char *error)
{
	char text[PGR_REFRESH_TEXT_LEN];

	snprintf(text, sizeof(text), "internal error: %s", error);
	MemoryContextReset(fetch->context);
	forget_validators(fetch);
	if (fetch->in_run)
		fail_run(fetch, text);
	else
		fetch->due_ms = pgr_monotonic_ms() + MAX_WAIT_MS;
}
