/*
 * sql/checks.c
 *	  registry.checks: what somebody should be woken up for, and what not.
 *
 * Each check has one row, whatever the state: also in a server that did not
 * preload the library, on a standby, with nothing configured.  One that does
 * not apply is ok and says why.  No row holds what an entry or a registry's
 * name could give away: pg_monitor may read neither.
 */
#include "postgres.h"

#include "access/xlog.h"
#include "commands/dbcommands.h"
#include "fmgr.h"
#include "funcapi.h"
#include "miscadmin.h"
#include "storage/lwlock.h"
#include "utils/builtins.h"
#include "utils/timestamp.h"

#include "base/compat.h"
#include "durable/grants.h"
#include "durable/guard.h"
#include "log/hook.h"
#include "registry/directory.h"
#include "registry/rates.h"
#include "registry/reader.h"
#include "registry/table.h"
#include "settings.h"
#include "shm/area.h"
#include "shm/load_state.h"
#include "shm/refresh_state.h"

PG_FUNCTION_INFO_V1(pgr_sql_list_checks);

#define CHECK_COLUMNS 7

#define MAX_FAILURES 2           /* in a row; with the next the log has it */
#define MAX_MEMORY_USED 0.9      /* of pg_registry.shared_memory */
#define MAX_MEMORY_HELD 0.25     /* of the same */
#define MAX_RECORDS_DROPPED 0.01 /* of all */

/* What the checks look at, as of one moment each. */
typedef struct Facts
{
	PgrSharedRefresh refresh;
	PgrLoadReport loads;
	char *guard_problem; /* NULL = all is well */
	char *guard_remedy;
	uint64 memory_total;
	uint64 memory_used;
	uint64 memory_old;
} Facts;

typedef struct Finding
{
	bool ok;
	bool has_value; /* and threshold */
	double value;
	double threshold;
	const char *detail;
	const char *hint; /* shown if it is not ok */
} Finding;

typedef void (*Look)(const Facts *facts, Finding *finding);

static void
does_not_apply(Finding *finding, const char *why)
{
	finding->detail = psprintf("Does not apply: %s.", why);
}

/* Ok up to the threshold, inclusive. */
static void
compare(Finding *finding, double value, double threshold)
{
	finding->has_value = true;
	finding->value = value;
	finding->threshold = threshold;
	finding->ok = value <= threshold;
}

/* ------------------------------------------------------------------------
 * The server
 * ------------------------------------------------------------------------
 */

static void
look_preloaded(const Facts *facts, Finding *finding)
{
	finding->ok = pgr_area_header != NULL;
	finding->detail = finding->ok ? "The library is preloaded." :
									"The library is not preloaded.";
	finding->hint =
		"Add \"shared_preload_libraries = 'pg_registry'\" to postgresql.conf and restart the server.";
}

static void
look_scheduler_running(const Facts *facts, Finding *finding)
{
	finding->ok = facts->refresh.scheduler_pid != 0;
	finding->detail = finding->ok ?
		psprintf("The scheduler is process %d.",
				 facts->refresh.scheduler_pid) :
		"There is no scheduler: nothing is fetched or loaded.";
	finding->hint =
		"It starts again within 5 seconds; if not, see the server log and max_worker_processes.";
}

static void
look_scheduler_build(const Facts *facts, Finding *finding)
{
	finding->ok = facts->refresh.state != PGR_SCHEDULER_OTHER_BUILD;
	finding->detail = finding->ok ?
		"The scheduler has found no other build of the library." :
		"The scheduler is of another build than the server: it stays idle.";
	finding->hint = "The package was upgraded: restart the server.";
}

/* ------------------------------------------------------------------------
 * Exchange rates
 * ------------------------------------------------------------------------
 */

static bool
is_configured(void)
{
	return pgr_settings.rates_url[0] != '\0';
}

static bool
is_idle_standby(const Facts *facts)
{
	return facts->refresh.state == PGR_SCHEDULER_STANDBY;
}

static double
seconds_between(TimestampTz from, TimestampTz to)
{
	return (double) (to - from) / USECS_PER_SEC;
}

static TimestampTz
start_of_day(DateADT date)
{
	return (TimestampTz) date * USECS_PER_DAY;
}

static void
describe_age(const PgrRatesInfo *info, TimestampTz now, Finding *finding)
{
	TimestampTz checked_at = pgr_rates_checked_at(info);
	PgrStaleReason reason = pgr_rates_stale(info, checked_at, now);
	bool old_value = reason == PGR_STALE_VALUE_DATE;

	compare(finding,
			seconds_between(old_value ? start_of_day(info->value_date) :
										checked_at,
							now),
			old_value ? pgr_settings.rates_max_value_age_s :
						pgr_settings.rates_max_age_s);
	finding->ok = reason == PGR_STALE_NO;
	finding->detail = psprintf("The rates are %s; the last good answer: %s.",
							   finding->ok ?
								   "fresh" :
								   psprintf("stale (%s)",
											pgr_rates_stale_name(reason)),
							   timestamptz_to_str(checked_at));
}

static const char *
why_not_fresh(const PgrSharedRefresh *refresh)
{
	if (refresh->state == PGR_SCHEDULER_OUTBOUND_OFF)
		return "Nothing is sent: pg_registry.outbound is off.";
	if (refresh->state == PGR_SCHEDULER_HELD)
		return "This host may not send the request: see advice in registry.status(), and pg_registry.armed_hosts.";
	if (refresh->paused)
		return "Fetching is paused: call registry.resume('rates').";
	return "See rates_last_error in registry.status(); registry.refresh('rates') tries at once.";
}

static void
look_rates_fresh(const Facts *facts, Finding *finding)
{
	const PgrRatesInfo *info = pgr_rates_info(pgr_rates_block());

	finding->hint = why_not_fresh(&facts->refresh);
	if (info != NULL && !is_idle_standby(facts))
		describe_age(info, pgr_pin()->at, finding);
	else if (!is_configured())
		does_not_apply(finding, "pg_registry.rates_url is not set");
	else if (is_idle_standby(facts))
		does_not_apply(finding, "nothing is fetched on this standby");
	else
	{
		finding->ok = false;
		finding->detail = "There are no rates yet: nothing has been fetched.";
	}
}

static void
look_rates_failing(const Facts *facts, Finding *finding)
{
	if (!is_configured())
	{
		does_not_apply(finding, "pg_registry.rates_url is not set");
		return;
	}
	compare(finding, facts->refresh.consecutive_failures, MAX_FAILURES);
	finding->detail = facts->refresh.consecutive_failures == 0 ?
		"The last attempt went well." :
		psprintf("%d attempts in a row have failed; the last error: %s",
				 facts->refresh.consecutive_failures,
				 facts->refresh.last_error);
	finding->hint =
		"The last good rates stay in use; see whether the provider can be reached from this host.";
}

static void
look_rates_quarantine(const Facts *facts, Finding *finding)
{
	if (!is_configured())
	{
		does_not_apply(finding, "pg_registry.rates_url is not set");
		return;
	}
	finding->ok = facts->refresh.quarantine[0] == '\0';
	finding->detail = finding->ok ? "No rates are held back." :
									facts->refresh.quarantine;
	finding->hint =
		"Check the rates, then raise pg_registry.rates_max_change or call registry.set_rates().";
}

/* ------------------------------------------------------------------------
 * Memory
 * ------------------------------------------------------------------------
 */

static void
measure_memory(Facts *facts)
{
	const PgrArena *arena = pgr_image_arena(pgr_image);

	facts->memory_total = arena->units * PGR_ARENA_UNIT;
	facts->memory_used = facts->memory_total -
		arena->kind_units[PGR_MEMORY_FREE] * PGR_ARENA_UNIT;
	facts->memory_old = pgr_image->retired_bytes;
}

static double
memory_share(const Facts *facts, uint64 bytes)
{
	return (double) bytes / facts->memory_total;
}

/* What nobody needs any more is freed by the next writer: no reason to warn. */
static void
take_memory(Facts *facts)
{
	LWLockAcquire(pgr_area_lock(PGR_LOCK_WRITER), LW_EXCLUSIVE);
	measure_memory(facts);
	if (memory_share(facts, facts->memory_used) > MAX_MEMORY_USED ||
		memory_share(facts, facts->memory_old) > MAX_MEMORY_HELD)
	{
		pgr_image_reclaim(pgr_image, true);
		measure_memory(facts);
	}
	LWLockRelease(pgr_area_lock(PGR_LOCK_WRITER));
}

static void
look_memory_used(const Facts *facts, Finding *finding)
{
	compare(finding, memory_share(facts, facts->memory_used), MAX_MEMORY_USED);
	finding->detail = psprintf("Of " UINT64_FORMAT " bytes, " UINT64_FORMAT
							   " are used.",
							   facts->memory_total, facts->memory_used);
	finding->hint =
		"See registry.memory; drop registries or increase pg_registry.shared_memory.";
}

static void
look_memory_held(const Facts *facts, Finding *finding)
{
	PgrLinePin oldest;

	(void) pgr_line_oldest(&oldest);
	compare(finding, memory_share(facts, facts->memory_old), MAX_MEMORY_HELD);
	finding->detail = psprintf(
		"Old versions take " UINT64_FORMAT " bytes%s.", facts->memory_old,
		finding->ok || oldest.pid == 0 ?
			"" :
			psprintf("; the oldest pin is that of process %d, since %s",
					 oldest.pid, timestamptz_to_str(oldest.at)));
	finding->hint =
		"See registry.readers; end the transactions that have been open for long.";
}

/* ------------------------------------------------------------------------
 * Durable registries
 * ------------------------------------------------------------------------
 */

/* Has a round of loads ended, and left something to do? */
static bool
has_tried(const PgrLoadReport *loads)
{
	return loads->wanted != loads->done &&
		(loads->attempts > 1 ||
		 (loads->attempts == 1 && loads->lister_pid == 0 &&
		  loads->rounds > loads->complete_rounds));
}

/* Databases that the last round could not load; while one runs, the one before. */
static int
failed_databases(const PgrLoadReport *loads)
{
	return loads->failed > 0 || loads->lister_pid == 0 ? loads->failed :
														 loads->failed_before;
}

static bool
loads_fail(const PgrLoadReport *loads)
{
	return loads->wanted != loads->done &&
		(loads->no_slot_logged || failed_databases(loads) > 0);
}

static void
count_durable(const PgrDefinition *definition, void *arg)
{
	int *n = arg;

	*n += definition->durable;
}

/* Durable registries of this database: in the directory, by residency. */
static void
count_known(const PgrBlock *directory, const PgrPin *pin, int *resident,
			int *hollow)
{
	uint64 position = 0;
	PgrEntry entry;

	while (pgr_block_next_entry(directory, pin->generation, &position, &entry))
	{
		const PgrBlock *block = pgr_root_block(pgr_image, pin->root,
											   (uint32) entry.fixed.i8);

		if (!block->definition.durable)
			continue;
		if (pgr_is_read_from_table(&block->definition))
			(*hollow)++;
		else
			(*resident)++;
	}
}

static int
count_not_resident(void)
{
	const PgrPin *pin = pgr_pin();
	uint32 slot = pgr_directory_slot(pin->root, pin->generation, MyDatabaseId,
									 pgr_directory_extension());
	int resident = 0;
	int hollow = 0;
	int stored = 0;

	if (slot != PGR_NO_SLOT)
		count_known(pgr_root_block(pgr_image, pin->root, slot), pin, &resident,
					&hollow);
	if (pgr_directory_is_complete(pin->root, slot))
		return hollow;
	pgr_table->each_definition(PGR_VIEW_STATEMENT, count_durable, &stored);
	return Max(stored - resident, 0);
}

/* Why registries are not in memory, if it is not for lack of that. */
static const char *
other_reason(const Facts *facts)
{
	if (RecoveryInProgress())
		return "this is a standby";
	if (facts->guard_problem != NULL)
		return "see image_verified";
	if (loads_fail(&facts->loads))
		return "see loads_failing";
	return has_tried(&facts->loads) ? NULL : "they are being loaded";
}

static void
look_registries_resident(const Facts *facts, Finding *finding)
{
	int n = count_not_resident();
	const char *reason = other_reason(facts);

	compare(finding, n, 0);
	if (finding->ok)
		finding->detail =
			"All durable registries of this database are in memory.";
	else if (reason != NULL)
		finding->detail = psprintf("%d are read from their tables: %s.", n,
								   reason);
	else
		finding->detail =
			psprintf("%d are read from their tables, for lack of memory.", n);
	finding->ok |= reason != NULL;
	finding->hint =
		"See registry.registries and registry.memory; increase pg_registry.shared_memory, or pg_registry.max_bytes_per_database.";
}

static void
look_loads_failing(const Facts *facts, Finding *finding)
{
	const PgrLoadReport *loads = &facts->loads;
	bool failing = loads_fail(loads);
	char *database = get_database_name(loads->last_error_database);

	compare(finding, failing ? failed_databases(loads) : 0, 0);
	finding->ok = !failing;
	if (!failing)
		finding->detail =
			"The last round of loads went well, or none was needed.";
	else if (loads->no_slot_logged)
		finding->detail =
			"There is no free slot for a background worker that loads registries.";
	else
		finding->detail = psprintf(
			"Registries of %d databases could not be loaded, most recently of \"%s\".",
			failed_databases(loads), database ? database : "?");
	finding->hint =
		"They are read from their tables. The server log has the errors; raise max_worker_processes if there are no slots.";
}

static void
look_image_verified(const Facts *facts, Finding *finding)
{
	finding->ok = facts->guard_problem == NULL;
	finding->detail = finding->ok ?
		"All triggers that keep memory and tables of this database the same are in force." :
		psprintf("Registries of this database are read from their tables: %s.",
				 facts->guard_problem);
	finding->hint = facts->guard_remedy;
}

/* What is granted to them holds for nobody, and such a registry has no owner. */
static void
look_grants_resolved(const Facts *facts, Finding *finding)
{
	int n = pgr_grants_count_orphans();

	compare(finding, n, 0);
	finding->detail = finding->ok ?
		"All owners and grantees of registries of this database are roles of this cluster." :
		psprintf(
			"%d owners and grantees of registries of this database are no roles of this cluster.",
			n);
	finding->hint =
		"registry.verify() names them. After a restore call registry.restore_grants(), after ALTER ROLE old RENAME TO new registry.restore_grants('old', 'new'); of a dropped role, use registry.revoke_access(), or registry.alter_registry() with another owner.";
}

/* ------------------------------------------------------------------------
 * Log
 * ------------------------------------------------------------------------
 */

static void
look_log_dropped(const Facts *facts, Finding *finding)
{
	PgrLogCounters counters;
	uint64 dropped;

	/* what was logged before there was any memory is nobody's fault */
	pgr_log_counters(&counters);
	dropped = counters.dropped_busy + counters.dropped_recursion;
	compare(finding,
			dropped == 0 ? 0 :
						   (double) dropped / (counters.accepted + dropped),
			MAX_RECORDS_DROPPED);
	finding->detail = psprintf("Of " UINT64_FORMAT
							   " log records since the start, " UINT64_FORMAT
							   " were dropped.",
							   counters.accepted + dropped, dropped);
	finding->hint =
		"Increase pg_registry.log_ring_slots, or raise pg_registry.log_min_level.";
}

/* ------------------------------------------------------------------------
 * All of them
 * ------------------------------------------------------------------------
 */

static const struct
{
	const char *name;
	const char *severity;
	Look look;
} checks[] = {
	{"preloaded", "critical", look_preloaded}, /* the others need it */
	{"scheduler_running", "critical", look_scheduler_running},
	{"scheduler_build", "warning", look_scheduler_build},
	{"rates_fresh", "critical", look_rates_fresh},
	{"rates_failing", "warning", look_rates_failing},
	{"rates_quarantine", "warning", look_rates_quarantine},
	{"memory_used", "warning", look_memory_used},
	{"memory_held_by_pins", "warning", look_memory_held},
	{"registries_resident", "warning", look_registries_resident},
	{"loads_failing", "warning", look_loads_failing},
	{"image_verified", "warning", look_image_verified},
	{"grants_resolved", "warning", look_grants_resolved},
	{"log_dropped", "warning", look_log_dropped},
};

static void
take_facts(Facts *facts)
{
	memset(facts, 0, sizeof(*facts));
	if (pgr_area_header == NULL)
		return;
	pgr_refresh_state_snapshot(&facts->refresh);
	pgr_load_state_read(&facts->loads);
	pgr_guard_describe(&facts->guard_problem, &facts->guard_remedy);
	take_memory(facts);
}

static void
put_check(ReturnSetInfo *result, const char *name, const char *severity,
		  const Finding *finding)
{
	bool has_hint = !finding->ok && finding->hint != NULL;
	Datum values[CHECK_COLUMNS] = {
		CStringGetTextDatum(name),
		BoolGetDatum(finding->ok),
		CStringGetTextDatum(severity),
		Float8GetDatum(finding->value),
		Float8GetDatum(finding->threshold),
		CStringGetTextDatum(finding->detail),
		has_hint ? CStringGetTextDatum(finding->hint) : (Datum) 0,
	};
	bool nulls[CHECK_COLUMNS] = {
		[3] = !finding->has_value,
		[4] = !finding->has_value,
		[6] = !has_hint,
	};

	tuplestore_putvalues(result->setResult, result->setDesc, values, nulls);
}

Datum
pgr_sql_list_checks(PG_FUNCTION_ARGS)
{
	ReturnSetInfo *result = (ReturnSetInfo *) fcinfo->resultinfo;
	Facts facts;

	InitMaterializedSRF(fcinfo, 0);
	take_facts(&facts);
	for (size_t i = 0; i < lengthof(checks); i++)
	{
		Finding finding = {.ok = true};

		if (pgr_area_header == NULL && checks[i].look != look_preloaded)
			does_not_apply(&finding, "the library is not preloaded");
		else
			checks[i].look(&facts, &finding);
		put_check(result, checks[i].name, checks[i].severity, &finding);
	}
	return (Datum) 0;
}
