/*
 * durable/loader.c
 *	  The loader: a worker that loads the registries of one database, and ends
 *	  when all are loaded or its time is over.
 *
 * An ordinary session as far as others are concerned: DROP DATABASE and CREATE
 * DATABASE ... TEMPLATE wait for it for a moment or terminate it.  It waits
 * for no lock for longer than they wait for it (N-2).
 *
 * It is never restarted.  However it ends, an exit callback says so in shared
 * memory; the scheduler sees to it that what is missing is tried again.  That
 * its database is gone or lets nobody in is no failure, and not worth a line
 * in the log.
 */
#include "postgres.h"

#include "access/xact.h"
#include "access/xlog.h"
#include "fmgr.h"
#include "miscadmin.h"
#include "storage/ipc.h"
#include "storage/lwlock.h"
#include "tcop/tcopprot.h"
#include "utils/memutils.h"

#include "base/clock.h"
#include "durable/load.h"
#include "durable/follower.h"
#include "durable/loader.h"
#include "durable/session.h"
#include "settings.h"
#include "shm/load_state.h"

#ifdef PGR_TESTING
#include "storage/lock.h"
#endif

PGDLLEXPORT void pgr_loader_main(Datum arg);

/* What is to be said of this process when it ends. */
static PgrLoadOutcome outcome = PGR_LOAD_LOST;
static PgrLoadTurn turn = {0};

/* In bgw_extra. */
typedef struct Order
{
	uint64 round;
	uint32 after;
} Order;

static Order order = {0};

static emit_log_hook_type prev_emit_log = NULL;

BackgroundWorkerHandle *
pgr_loader_start(Oid database, uint64 round, uint32 after)
{
	Order its_order = {round, after};
	BackgroundWorkerHandle *handle = NULL;
	BackgroundWorker worker;

	memset(&worker, 0, sizeof(worker));
	worker.bgw_flags = BGWORKER_SHMEM_ACCESS |
		BGWORKER_BACKEND_DATABASE_CONNECTION;
	worker.bgw_start_time = BgWorkerStart_ConsistentState;
	worker.bgw_restart_time = BGW_NEVER_RESTART;
	worker.bgw_main_arg = ObjectIdGetDatum(database);
	worker.bgw_notify_pid = MyProcPid;
	memcpy(worker.bgw_extra, &its_order, sizeof(its_order));
	strlcpy(worker.bgw_library_name, "pg_registry", BGW_MAXLEN);
	strlcpy(worker.bgw_function_name, "pgr_loader_main", BGW_MAXLEN);
	strlcpy(worker.bgw_type, "pg_registry refresh worker", BGW_MAXLEN);
	snprintf(worker.bgw_name, BGW_MAXLEN,
			 "pg_registry refresh worker for database %u", database);
	return RegisterDynamicBackgroundWorker(&worker, &handle) ? handle : NULL;
}

/* ------------------------------------------------------------------------
 * Ending
 * ------------------------------------------------------------------------
 */

/* before_shmem_exit callback. */
static void
report_cb(int code, Datum arg)
{
	pgr_load_set_loading(InvalidOid, 0);
	if (outcome == PGR_LOAD_MORE)
		pgr_load_leave(order.round, DatumGetObjectId(arg), turn.after);
	pgr_load_loader_ended(order.round, outcome, turn.not_fitting);
}

/*
 * on_proc_exit callback: the postmaster logs every status but 0.  proc_exit()
 * may be called again; it goes on where it was.
 */
static void
exit_quietly_cb(int code, Datum arg)
{
	if (outcome == PGR_LOAD_GONE && code != 0)
		proc_exit(0);
}

/* There is no other place to stop a FATAL error's line. */
static void
quiet_emit_log(ErrorData *error)
{
	if (pgr_session_is_about_database(error))
	{
		outcome = PGR_LOAD_GONE;
		error->output_to_server = false;
	}
	else if (prev_emit_log)
		prev_emit_log(error);
}

static void
prepare_exit(Datum database)
{
	on_proc_exit(exit_quietly_cb, (Datum) 0);
	before_shmem_exit(report_cb, database);
	prev_emit_log = emit_log_hook;
	emit_log_hook = quiet_emit_log;
}

/* ------------------------------------------------------------------------
 * Working
 * ------------------------------------------------------------------------
 */

#ifdef PGR_TESTING
/*
 * What ALTER DATABASE ... SET asks for, so that tests can look at a loader at
 * work, and see it fail.
 */
static void
obey_test(void)
{
	LOCKTAG tag;

	if (pgr_settings.test_load_lock != 0)
	{
		pgr_session_option("lock_timeout", "0");
		StartTransactionCommand();
		/* pg_advisory_lock(0, n) */
		SET_LOCKTAG_ADVISORY(tag, MyDatabaseId, 0, pgr_settings.test_load_lock,
							 2);
		(void) LockAcquire(&tag, ShareLock, false, false);
		CommitTransactionCommand();
		pgr_session_option("lock_timeout", PGR_SESSION_LOCK_TIMEOUT);
	}
	if (pgr_settings.test_load_result < 0)
		elog(ERROR, "failure for a test");
	turn.not_fitting = pgr_settings.test_load_result;
}
#endif

/*
 * Called in a PG_CATCH block.  That a lock was not to be had in time is
 * somebody else's long transaction: not an error, but to be tried again.
 */
static void
note_error(const char *database)
{
	ErrorData *error;
	bool log;

	MemoryContextSwitchTo(TopMemoryContext);
	error = CopyErrorData();
	FlushErrorState();
	AbortOutOfAnyTransaction();
	LWLockReleaseAll();

	outcome = PGR_LOAD_FAILED;
	log = pgr_load_note_error(MyDatabaseId, error->message);
	if (error->sqlerrcode == ERRCODE_LOCK_NOT_AVAILABLE)
		log = false;
	ereport(log ? WARNING : DEBUG2,
			(errcode(error->sqlerrcode),
			 errmsg("could not load the registries of database \"%s\": %s",
					database, error->message),
			 errdetail("They are read from their tables, and loading is tried again.")));
	FreeErrorData(error);
}

/* The one place where errors end. */
static void
load(const char *database)
{
	PG_TRY();
	{
#ifdef PGR_TESTING
		obey_test();
#endif
		/* replay would go on behind the back of a load */
		if (RecoveryInProgress())
			turn.not_fitting += !pgr_follower_provide();
		else
			pgr_load_database(&turn);
		outcome = turn.more ? PGR_LOAD_MORE : PGR_LOAD_OK;
	}
	PG_CATCH();
	{
		note_error(database);
	}
	PG_END_TRY();
}

void
pgr_loader_main(Datum arg)
{
	/* the library was replaced, and this is another copy of it */
	if (pgr_load_state == NULL)
		proc_exit(0);

	memcpy(&order, MyBgworkerEntry->bgw_extra, sizeof(order));
	turn.after = order.after;
	prepare_exit(arg);
	/* the default handler would end us wherever we are */
	pqsignal(SIGTERM, die);
	BackgroundWorkerUnblockSignals();
	turn.began_ms = pgr_monotonic_ms();
	BackgroundWorkerInitializeConnectionByOid(DatumGetObjectId(arg),
											  InvalidOid, 0);
	pgr_session_prepare();
	load(pgr_session_database_name());
	proc_exit(0);
}
