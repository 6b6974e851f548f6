/*
 * durable/follower.c
 *	  The follower: a worker that keeps the image of one database of a standby
 *	  up to date (D-2); durable/follow.h has what it does, and why that is right.
 *
 * It stays connected, but is in a transaction only while it reads, so that
 * replay rarely has to cancel it; if it has, it goes on from where it was.
 * Replay of DROP DATABASE ends it, like any session.  It is never restarted:
 * its exit asks for a round of loads, and a loader starts another one.
 */
#include "postgres.h"

#include "access/xact.h"
#include "fmgr.h"
#include "miscadmin.h"
#include "postmaster/bgworker.h"
#include "postmaster/interrupt.h"
#include "storage/ipc.h"
#include "storage/latch.h"
#include "storage/lwlock.h"
#include "tcop/tcopprot.h"
#include "utils/memutils.h"
#include "utils/wait_event.h"

#include "durable/follow.h"
#include "durable/follower.h"
#include "durable/session.h"
#include "shm/load_state.h"

#define POLL_MS 200L
#define MAX_PAUSE_MS 5000L

PGDLLEXPORT void pgr_follower_main(Datum arg);

static PgrFollowPlace *place = NULL;
static bool is_gone = false; /* the database */
static int failures = 0;     /* one after the other */

static emit_log_hook_type prev_emit_log = NULL;

/* ------------------------------------------------------------------------
 * Starting
 * ------------------------------------------------------------------------
 */

static bool
start(Oid database)
{
	BackgroundWorkerHandle *handle;
	BackgroundWorker worker;

	memset(&worker, 0, sizeof(worker));
	worker.bgw_flags = BGWORKER_SHMEM_ACCESS |
		BGWORKER_BACKEND_DATABASE_CONNECTION;
	worker.bgw_start_time = BgWorkerStart_ConsistentState;
	worker.bgw_restart_time = BGW_NEVER_RESTART;
	worker.bgw_main_arg = ObjectIdGetDatum(database);
	strlcpy(worker.bgw_library_name, "pg_registry", BGW_MAXLEN);
	strlcpy(worker.bgw_function_name, "pgr_follower_main", BGW_MAXLEN);
	strlcpy(worker.bgw_type, "pg_registry follower", BGW_MAXLEN);
	snprintf(worker.bgw_name, BGW_MAXLEN,
			 "pg_registry follower for database %u", database);
	return RegisterDynamicBackgroundWorker(&worker, &handle);
}

bool
pgr_follower_provide(void)
{
	if (!pgr_follow_has_registries() || !pgr_follow_is_wanted(MyDatabaseId))
		return true;
	return start(MyDatabaseId);
}

/* ------------------------------------------------------------------------
 * Ending
 * ------------------------------------------------------------------------
 */

/* before_shmem_exit callback. */
static void
forget_if_gone_cb(int code, Datum arg)
{
	if (is_gone && place != NULL)
		pgr_follow_forget(place);
}

/* on_proc_exit callback: the postmaster logs every status but 0. */
static void
exit_quietly_cb(int code, Datum arg)
{
	if (is_gone && code != 0)
		proc_exit(0);
}

/* There is no other place to stop a FATAL error's line. */
static void
quiet_emit_log(ErrorData *error)
{
	if (pgr_session_is_about_database(error))
	{
		is_gone = true;
		error->output_to_server = false;
	}
	else if (prev_emit_log)
		prev_emit_log(error);
}

static void
prepare_exit(void)
{
	on_proc_exit(exit_quietly_cb, (Datum) 0);
	prev_emit_log = emit_log_hook;
	emit_log_hook = quiet_emit_log;
}

/* ------------------------------------------------------------------------
 * Working
 * ------------------------------------------------------------------------
 */

/*
 * Called in a PG_CATCH block.  Being cancelled by replay, and waiting for its
 * locks, are part of a standby's life.
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

	failures++;
	place->counts.failures++;
	log = pgr_load_note_error(MyDatabaseId, error->message);
	if (error->sqlerrcode == ERRCODE_LOCK_NOT_AVAILABLE ||
		error->sqlerrcode == ERRCODE_QUERY_CANCELED ||
		error->sqlerrcode == ERRCODE_T_R_SERIALIZATION_FAILURE)
		log = false;
	ereport(log ? WARNING : DEBUG2,
			(errcode(error->sqlerrcode),
			 errmsg("could not follow the changes of database \"%s\": %s",
					database, error->message),
			 errdetail("Its registries are read from their tables, and it is tried again.")));
	FreeErrorData(error);
}

/* The one place where errors end. */
static PgrFollowResult
poll(const char *database)
{
	volatile PgrFollowResult result = PGR_FOLLOW_ON;

	PG_TRY();
	{
		result = pgr_follow_poll(place);
		failures = 0;
	}
	PG_CATCH();
	{
		note_error(database);
	}
	PG_END_TRY();
	return result;
}

static void
wait_for_more(void)
{
	long pause = failures == 0 ? POLL_MS : POLL_MS << Min(failures, 5);

	(void) WaitLatch(MyLatch, WL_LATCH_SET | WL_TIMEOUT | WL_EXIT_ON_PM_DEATH,
					 Min(pause, MAX_PAUSE_MS), PG_WAIT_EXTENSION);
	ResetLatch(MyLatch);
}

void
pgr_follower_main(Datum arg)
{
	const char *database;

	/* the library was replaced, and this is another copy of it */
	if (pgr_follow_state == NULL)
		proc_exit(0);

	prepare_exit();
	/* the default handler would end us wherever we are */
	pqsignal(SIGTERM, die);
	BackgroundWorkerUnblockSignals();
	BackgroundWorkerInitializeConnectionByOid(DatumGetObjectId(arg),
											  InvalidOid, 0);
	pgr_session_prepare();
	database = pgr_session_database_name();
	place = pgr_follow_claim(MyDatabaseId);
	if (place == NULL)
		proc_exit(0);
	before_shmem_exit(forget_if_gone_cb, (Datum) 0);
	while (poll(database) == PGR_FOLLOW_ON)
	{
		wait_for_more();
		CHECK_FOR_INTERRUPTS();
	}
	proc_exit(0);
}
