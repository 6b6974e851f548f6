/*
 * sql/status.c
 *	  registry.status(): one row for people, and build_id().
 *
 * Works without preload: then it says so, and what to do.
 */
#include "postgres.h"

#include "fmgr.h"
#include "funcapi.h"
#include "miscadmin.h"
#include "storage/lwlock.h"
#include "utils/builtins.h"
#include "utils/timestamp.h"

#include "base/compat.h"
#include "base/outbound.h"
#include "durable/arm.h"
#include "log/hook.h"
#include "registry/pin.h"
#include "settings.h"
#include "shm/area.h"
#include "shm/refresh_state.h"

PG_FUNCTION_INFO_V1(pgr_sql_status);

/* One result column after the other, by the names in the install script. */
typedef struct Row
{
	TupleDesc description;
	Datum *values;
	bool *nulls;
	int next;
} Row;

static void
add(Row *row, Datum value, bool isnull)
{
	if (row->next == row->description->natts)
		elog(ERROR, "registry.status() has fewer columns than this library fills");
	row->values[row->next] = value;
	row->nulls[row->next++] = isnull;
}

static void
add_text(Row *row, const char *text)
{
	bool isnull = text == NULL || text[0] == '\0';

	add(row, isnull ? (Datum) 0 : CStringGetTextDatum(text), isnull);
}

static void
add_time(Row *row, TimestampTz at)
{
	add(row, TimestampTzGetDatum(at), at == 0);
}

static void
add_count(Row *row, uint64 count)
{
	add(row, Int64GetDatum((int64) count), false);
}

/* A number for which 0 means "there is none". */
static void
add_number(Row *row, int number)
{
	add(row, Int32GetDatum(number), number == 0);
}

static void
add_scheduler(Row *row, const PgrSharedRefresh *refresh)
{
	Interval *duration = palloc0(sizeof(Interval));

	duration->time = refresh->duration_us;
	add_number(row, refresh->scheduler_pid);
	add_text(row, pgr_refresh_state_name(refresh->state));
	add_time(row, refresh->scheduler_started_at);
	add_text(row, refresh->source);
	add(row, BoolGetDatum(refresh->paused), false);
	add_count(row, refresh->attempts);
	add_count(row, refresh->successes);
	add_count(row, refresh->not_modified);
	add_count(row, refresh->changed);
	add_count(row, refresh->failures);
	add(row, Int32GetDatum(refresh->consecutive_failures), false);
	add_time(row, refresh->failing_since);
	add_time(row, refresh->last_attempt);
	add_time(row, refresh->last_success);
	add_text(row, refresh->last_error);
	add_time(row, refresh->last_error_at);
	add_number(row, refresh->http_status);
	add_count(row, refresh->bytes);
	add(row, IntervalPGetDatum(duration), refresh->attempts == 0);
	add_time(row, refresh->next_refresh);
	add_text(row, refresh->quarantine);
	add_time(row, refresh->quarantined_at);
}

static void
add_image(Row *row)
{
	PgrArena *arena = pgr_image_arena(pgr_image);
	uint64 total;
	uint64 free_bytes;
	PgrLinePin oldest;

	LWLockAcquire(pgr_area_lock(PGR_LOCK_WRITER), LW_SHARED);
	total = arena->units * PGR_ARENA_UNIT;
	free_bytes = arena->kind_units[PGR_MEMORY_FREE] * PGR_ARENA_UNIT;
	LWLockRelease(pgr_area_lock(PGR_LOCK_WRITER));
	(void) pgr_line_oldest(&oldest);
	add_count(row, pg_atomic_read_u64(&pgr_image->generation));
	add(row, Int64GetDatum((int64) oldest.generation), oldest.pid == 0);
	add_number(row, oldest.pid);
	add_count(row, total);
	add_count(row, total - free_bytes);
}

static void
add_log(Row *row)
{
	PgrLogCounters counters;

	pgr_log_counters(&counters);
	add_count(row, counters.accepted);
	add_count(row, counters.truncated);
	add_count(row, counters.dropped_busy);
	add_count(row, counters.dropped_recursion);
	add_count(row, counters.dropped_too_early);
}

static PgrOutbound
find_ban(const char *host)
{
	return pgr_outbound_check(pgr_settings.outbound, pgr_settings.armed_hosts,
							  host, pgr_settings.rates_url);
}

/* What this host and this database may send. */
static void
add_armed(Row *row, const char *host, const char *held)
{
	add_text(row, host);
	add(row, BoolGetDatum(held == NULL), false);
	add_text(row, held);
}

/* What is missing, and what to do. */
static const char *
advice(const PgrSharedRefresh *refresh, const char *host, const char *held)
{
	if (refresh->state == PGR_SCHEDULER_OTHER_BUILD)
		return "The package was upgraded: restart the server.";
	if (held != NULL)
		return "This database is held. " PGR_ARM_HINT;
	if (pgr_settings.rates_url[0] == '\0')
		return "Nothing is fetched: set pg_registry.rates_url and reload.";
	if (find_ban(host) != PGR_OUTBOUND_ALLOWED)
		return pgr_outbound_advice(find_ban(host));
	if (refresh->scheduler_pid == 0)
		return "The scheduler is not running: it starts again within 5 seconds; if not, see the server log and max_worker_processes.";
	if (refresh->quarantine[0])
		return "The newest rates are not published: check them, then raise pg_registry.rates_max_change or call registry.set_rates().";
	if (refresh->consecutive_failures > 0)
		return "The source fails: see rates_last_error.";
	return NULL;
}

Datum
pgr_sql_status(PG_FUNCTION_ARGS)
{
	Row row = {0};
	PgrSharedRefresh refresh;
	char host[PGR_HOST_NAME_LEN];
	const char *held;

	if (get_call_result_type(fcinfo, NULL, &row.description) !=
		TYPEFUNC_COMPOSITE)
		elog(ERROR, "return type must be a row type");
	row.values = palloc0(row.description->natts * sizeof(Datum));
	row.nulls = palloc(row.description->natts * sizeof(bool));
	memset(row.nulls, true, row.description->natts * sizeof(bool));
	add(&row, BoolGetDatum(pgr_area_header != NULL), false);
	if (pgr_area_header == NULL)
		add_text(
			&row,
			"Add \"shared_preload_libraries = 'pg_registry'\" to postgresql.conf and restart the server.");
	else
	{
		pgr_refresh_state_snapshot(&refresh);
		pgr_outbound_host(host);
		held = pgr_arm_why_held(PGR_VIEW_STATEMENT);
		add_text(&row, advice(&refresh, host, held));
		add_scheduler(&row, &refresh);
		add_image(&row);
		add_log(&row);
		add_armed(&row, host, held);
	}
	PG_RETURN_DATUM(
		HeapTupleGetDatum(heap_form_tuple(BlessTupleDesc(row.description),
										  row.values, row.nulls)));
}
