/*
 * log/hook.c
 *	  The emit_log_hook: previous hook, level, one copy into the ring.
 *
 * Runs in every process, whenever PostgreSQL writes to its log: in the
 * postmaster before and between its segments, before InitProcess and after
 * ProcKill, in critical sections, with LWLocks held, before a failed
 * transaction has been aborted, and during exit.
 *
 * So nothing here may raise an error (one inside the hook resets ErrorContext
 * and with it the record that is being reported, PG_TRY or not), allocate
 * (ErrorContext is hardly ever reset in the postmaster), take a lock, wait,
 * look into a catalog or call CHECK_FOR_INTERRUPTS (L-1).  What is read of the
 * process are variables that are either valid or zero at any time.  It does
 * not touch edata.
 *
 * Which records: PostgreSQL asks only for those that pass log_min_messages.
 * Of these, log_min_level takes the ones that a log_min_messages of the same
 * value would have let through, so "error" includes LOG, and "log" is LOG,
 * FATAL and PANIC.  A record that another hook keeps out of the server log is
 * copied all the same, whichever of the two was loaded first.
 */
#include "postgres.h"

#include <signal.h>

/*
 * Two strings of MyProcPort are wanted, not the headers of Kerberos and
 * OpenSSL.  Port keeps its layout without them, on purpose (libpq-be.h).
 */
#undef ENABLE_GSS
#undef USE_OPENSSL
#undef USE_SSL
#include "libpq/libpq-be.h"
#include "mb/pg_wchar.h"
#include "miscadmin.h"
#include "storage/ipc.h"
#include "storage/pg_shmem.h"
#include "storage/proc.h"
#include "tcop/tcopprot.h"
#include "utils/guc.h"
#include "utils/timestamp.h"

#include "log/hook.h"
#include "log/record.h"
#include "settings.h"

PgrSharedRing *pgr_log_ring = NULL;

/* The ring's shape, out of reach of other processes; inherited by fork. */
static struct
{
	uint32 slots;
	uint32 slot_bytes;
} made;

static emit_log_hook_type previous_hook = NULL;

/*
 * State of this process.  A child inherits the postmaster's by fork, so it is
 * reset when the pid changes.
 */
static int state_pid = 0;
static bool copying = false;

/* Records of the postmaster that found no ring; the next ring counts them. */
static uint64 missed = 0;

/*
 * Would a log_min_messages of min_level let elevel through?  Same order as
 * is_log_level_output in elog.c: LOG stands between ERROR and FATAL.
 */
static bool
level_passes(int elevel, int min_level)
{
	if (elevel == LOG || elevel == LOG_SERVER_ONLY)
		return min_level == LOG || min_level <= ERROR;
	if (elevel == WARNING_CLIENT_ONLY)
		return false;
	if (min_level == LOG)
		return elevel >= FATAL;
	return elevel >= min_level;
}

/*
 * May this process touch the segment?  The syslogger may not, and the ring
 * pointer that it inherited does not know that.  UsedShmemSegAddr covers the
 * moment before it has a type, and whoever else detaches.  The shape is
 * compared because the postmaster logs too: a backend that has run wild over
 * the segment must not take it along.
 */
static inline bool
attached(void)
{
	return pgr_log_ring != NULL && MyBackendType != B_LOGGER &&
		UsedShmemSegAddr != NULL && pgr_log_ring->slots == made.slots &&
		pgr_log_ring->slot_bytes == made.slot_bytes;
}

/*
 * The encoding of the bytes, as far as this process knows it.  Before it is
 * connected to a database the database encoding is SQL_ASCII, and what is
 * known is the encoding that messages are translated to.
 */
static int
text_encoding(void)
{
	int encoding = GetDatabaseEncoding();

	return encoding == PG_SQL_ASCII ? GetMessageEncoding() : encoding;
}

/*
 * The message.  hide_stmt says that the text already contains the statement
 * (log_statement, log_min_duration_statement, auto_explain); without
 * log_capture_statement only its untranslated pattern is kept.
 */
static const char *
message_of(const ErrorData *edata)
{
	if (edata->hide_stmt && !pgr_settings.log_capture_statement)
		return edata->message_id ? edata->message_id : "(statement)";
	return edata->message;
}

/* The statement under PostgreSQL's own rules for its STATEMENT line. */
static const char *
statement_of(ErrorData *edata)
{
	if (!pgr_settings.log_capture_statement || !check_log_of_query(edata))
		return NULL;
	return debug_query_string;
}

/* The server log prefers detail_log too. */
static const char *
detail_of(const ErrorData *edata)
{
	if (!pgr_settings.log_capture_detail)
		return NULL;
	return edata->detail_log ? edata->detail_log : edata->detail;
}

static const char *
context_of(const ErrorData *edata)
{
	if (!pgr_settings.log_capture_detail || edata->hide_ctx)
		return NULL;
	return edata->context;
}

static const char *
backend_type(void)
{
	if (!IsPostmasterEnvironment)
		return "standalone backend";
	return get_backend_type_for_log();
}

static void
collect_texts(ErrorData *edata, const char *source[PGR_LOG_FIELDS])
{
	source[PGR_LOG_BACKEND_TYPE] = backend_type();
	source[PGR_LOG_DATABASE] = MyProcPort ? MyProcPort->database_name : NULL;
	source[PGR_LOG_USERNAME] = MyProcPort ? MyProcPort->user_name : NULL;
	source[PGR_LOG_APPLICATION] = application_name;
	source[PGR_LOG_MESSAGE] = message_of(edata);
	source[PGR_LOG_DETAIL] = detail_of(edata);
	source[PGR_LOG_HINT] = edata->hint;
	source[PGR_LOG_CONTEXT] = context_of(edata);
	source[PGR_LOG_STATEMENT] = statement_of(edata);
}

static void
copy_record(PgrSharedRing *ring, ErrorData *edata)
{
	const char *source[PGR_LOG_FIELDS];
	PgrLogRecord *record;
	uint64 ticket;

	collect_texts(edata, source);
	record = pgr_ring_claim(ring, &ticket);
	if (record == NULL)
		return;

	record->time = GetCurrentTimestamp();
	record->pid = MyProcPid;
	record->database = MyDatabaseId;
	record->role = MyProc ? MyProc->roleId : InvalidOid;
	record->sqlerrcode = edata->sqlerrcode;
	record->elevel = (int16) edata->elevel;
	pgr_log_record_pack(record, text_encoding(), source);
	if (record->truncated)
		pgr_ring_count(ring, PGR_RING_TRUNCATED, 1);

	pgr_ring_release(ring, ticket);
}

/*
 * Copy with signals blocked.  Some handlers end the process without a crash
 * (a background worker's default SIGTERM raises FATAL in the handler, a
 * connection that sends its startup packet calls _exit), and a slot that is
 * being written would stay so for ever.
 */
static void
take_record(ErrorData *edata)
{
	sigset_t all;
	sigset_t before;

	if (state_pid != MyProcPid)
	{
		state_pid = MyProcPid;
		copying = false;
	}
	if (copying)
	{
		pgr_ring_count(pgr_log_ring, PGR_RING_RECURSION, 1);
		return;
	}

	sigfillset(&all);
	sigprocmask(SIG_SETMASK, &all, &before);
	copying = true;
	copy_record(pgr_log_ring, edata);
	copying = false;
	sigprocmask(SIG_SETMASK, &before, NULL);
}

/*
 * A reload logs the new value of each setting.  A URL can hold a key, so that
 * line goes nowhere, before any other hook copies it (S-2); the scheduler says
 * what changed without the key.
 */
static bool
tells_url(const ErrorData *edata)
{
	static const char setting[] = "pg_registry.rates_url";

	if (edata->message_id == NULL || edata->message == NULL ||
		edata->message_id[0] != 'p' ||
		strcmp(edata->message_id, "parameter \"%s\" changed to \"%s\"") != 0)
		return false;
	/* as somebody typed it, in quotation marks of any language */
	for (const char *p = edata->message; *p != '\0'; p++)
		if (pg_strncasecmp(p, setting, strlen(setting)) == 0)
			return true;
	return false;
}

static void
emit_log(ErrorData *edata)
{
	int saved_errno;

	if (unlikely(tells_url(edata)))
	{
		edata->output_to_server = false;
		return;
	}
	if (previous_hook)
		previous_hook(edata);

	if (likely(pgr_settings.log_min_level >= PGR_LOG_OFF))
		return;
	if (!level_passes(edata->elevel, pgr_settings.log_min_level))
		return;

	if (!attached())
	{
		missed++;
		return;
	}
	saved_errno = errno;
	take_record(edata);
	errno = saved_errno;
}

/*
 * The segment is about to be detached.  Registered by whoever creates it,
 * that is the postmaster or a single-user backend; children forget its exit
 * callbacks when they are forked and keep the pointer, since they log until
 * their very end and stay attached that long.
 */
static void
forget_ring_cb(int code, Datum arg)
{
	pgr_log_ring = NULL;
}

static uint32
ring_slots(void)
{
	return (uint32) Max(pgr_settings.log_ring_slots, 1);
}

Size
pgr_log_ring_size(void)
{
	return pgr_ring_size(ring_slots(), PGR_LOG_SLOT_BYTES);
}

void
pgr_log_ring_init(void *part, Size size)
{
	PgrSharedRing *ring = part;

	pgr_ring_init(ring, ring_slots(), PGR_LOG_SLOT_BYTES);
	made.slots = ring->slots;
	made.slot_bytes = ring->slot_bytes;
	pgr_ring_count(ring, PGR_RING_TOO_EARLY, missed);
	missed = 0;

	/*
	 * After a crash the postmaster runs its exit callbacks, forgets them,
	 * makes a new segment and comes here again.  The last registered runs
	 * first, so ours comes before the detach.
	 */
	on_shmem_exit(forget_ring_cb, (Datum) 0);
}

void
pgr_log_install_hook(void)
{
	Assert(emit_log_hook != emit_log);
	previous_hook = emit_log_hook;
	emit_log_hook = emit_log;
}

void
pgr_log_counters(PgrLogCounters *counters)
{
	const PgrSharedRing *ring = pgr_log_ring;

	memset(counters, 0, sizeof(*counters));
	if (ring == NULL)
		return;
	counters->accepted = pgr_ring_counter(ring, PGR_RING_ACCEPTED);
	counters->truncated = pgr_ring_counter(ring, PGR_RING_TRUNCATED);
	counters->dropped_busy = pgr_ring_counter(ring, PGR_RING_BUSY);
	counters->dropped_recursion = pgr_ring_counter(ring, PGR_RING_RECURSION);
	counters->dropped_too_early = pgr_ring_counter(ring, PGR_RING_TOO_EARLY);
	counters->slots = ring->slots;
}
