/*
 * durable/lister.c
 *	  The lister: a worker that has the registries of every database loaded.
 *
 * Connected to no database, which is enough to read pg_database.  It starts a
 * loader for each, a few at a time, and another one where a loader's time was
 * over, after all the others; waits until all have ended, records the round and
 * ends; it is never restarted.  While it waits it holds no transaction, and it
 * looks at interrupts, so that nobody waits for it.
 */
#include "postgres.h"

#include "access/heapam.h"
#include "access/htup_details.h"
#include "access/table.h"
#include "access/tableam.h"
#include "access/xact.h"
#include "catalog/pg_database.h"
#include "fmgr.h"
#include "miscadmin.h"
#include "storage/ipc.h"
#include "storage/latch.h"
#include "storage/lwlock.h"
#include "tcop/tcopprot.h"
#include "utils/guc.h"
#include "utils/memutils.h"
#include "utils/snapmgr.h"
#include "utils/wait_event.h"

#include "base/clock.h"
#include "durable/follow.h"
#include "durable/loader.h"
#include "shm/load_state.h"

#define LOADERS_AT_ONCE 2

/* Notifications can be lost, if the postmaster is short of memory. */
#define LOOK_AGAIN_MS 1000L

/* Parallel queries take slots for this long at a time; others for longer. */
#define WAIT_FOR_SLOT_MS 5000

/* datconnlimit of a database that was not dropped to the end */
#define INVALID_DATABASE (-2)

PGDLLEXPORT void pgr_lister_main(Datum arg);

typedef struct Waiting
{
	Oid database;
	uint32 after; /* see PgrLoadMore */
} Waiting;

/* One round. */
typedef struct Round
{
	uint64 number;
	List *databases; /* oids */
	List *loaders;   /* Waiting: for each, and for what one has left */
	int started;     /* of them, from the head */
	BackgroundWorkerHandle *running[LOADERS_AT_ONCE];
	int nrunning;
	int64 starved_at_ms; /* nothing runs and nothing can be started; 0 = no */
} Round;

static bool
is_to_be_loaded(Form_pg_database database)
{
	return database->datallowconn &&
		database->datconnlimit != INVALID_DATABASE &&
		strcmp(NameStr(database->datname), "template0") != 0;
}

/* The databases to load, in the current memory context. */
static List *
list_databases(void)
{
	MemoryContext context = CurrentMemoryContext;
	List *databases = NIL;
	Relation relation;
	TableScanDesc scan;
	HeapTuple tuple;

	StartTransactionCommand();
	(void) GetTransactionSnapshot();
	relation = table_open(DatabaseRelationId, AccessShareLock);
	scan = table_beginscan_catalog(relation, 0, NULL);
	while ((tuple = heap_getnext(scan, ForwardScanDirection)) != NULL)
	{
		Form_pg_database database = (Form_pg_database) GETSTRUCT(tuple);
		MemoryContext scanning = MemoryContextSwitchTo(context);

		if (is_to_be_loaded(database))
			databases = lappend_oid(databases, database->oid);
		MemoryContextSwitchTo(scanning);
	}
	table_endscan(scan);
	table_close(relation, AccessShareLock);
	CommitTransactionCommand();
	MemoryContextSwitchTo(context);
	return databases;
}

static void
wait_in_line(Round *round, Oid database, uint32 after)
{
	Waiting *waiting = palloc(sizeof(Waiting));

	waiting->database = database;
	waiting->after = after;
	round->loaders = lappend(round->loaders, waiting);
}

/* Forget loaders that have ended, but not what they have left. */
static void
reap(Round *round)
{
	int left = 0;
	Oid database;
	uint32 after;

	for (int i = 0; i < round->nrunning; i++)
	{
		BackgroundWorkerHandle *handle = round->running[i];
		pid_t pid;

		if (GetBackgroundWorkerPid(handle, &pid) == BGWH_STOPPED)
			pfree(handle);
		else
			round->running[left++] = handle;
	}
	round->nrunning = left;
	while (pgr_load_take(&database, &after))
		wait_in_line(round, database, after);
}

static bool
is_all_started(const Round *round)
{
	return round->started == list_length(round->loaders);
}

/* Start as many loaders as may run and there are slots for. */
static void
start_loaders(Round *round)
{
	while (round->nrunning < LOADERS_AT_ONCE && !is_all_started(round))
	{
		const Waiting *next = list_nth(round->loaders, round->started);
		BackgroundWorkerHandle *handle =
			pgr_loader_start(next->database, round->number, next->after);

		if (handle == NULL)
			return;
		round->running[round->nrunning++] = handle;
		round->started++;
	}
}

/* Have there been no slots for so long that it is better to give up? */
static bool
is_starved(Round *round)
{
	int64 now = pgr_monotonic_ms();

	if (round->nrunning > 0)
	{
		round->starved_at_ms = 0;
		return false;
	}
	if (round->starved_at_ms == 0)
		round->starved_at_ms = now;
	return now - round->starved_at_ms >= WAIT_FOR_SLOT_MS;
}

static void
wait_for_change(void)
{
	(void) WaitLatch(MyLatch, WL_LATCH_SET | WL_TIMEOUT | WL_EXIT_ON_PM_DEATH,
					 LOOK_AGAIN_MS, PG_WAIT_EXTENSION);
	ResetLatch(MyLatch);
}

/* False if not all databases had their loader. */
static bool
run_loaders(Round *round)
{
	for (;;)
	{
		CHECK_FOR_INTERRUPTS();
		reap(round);
		start_loaders(round);
		if (round->nrunning == 0 && is_all_started(round))
			return true;
		if (is_starved(round))
		{
			pgr_load_no_slot();
			return false;
		}
		wait_for_change();
	}
}

static void
report_round(const Round *round)
{
	PgrLoadReport report;

	pgr_load_state_read(&report);
	ereport(DEBUG1,
			(errmsg_internal("pg_registry has looked at %d of %d databases: %d failed, %d registries did not fit",
							 report.databases, list_length(round->loaders),
							 report.failed, report.not_fitting)));
}

static bool
is_of_database(const PgrPartialLoad *partial, void *databases)
{
	return list_member_oid(databases, partial->database);
}

static void
make_round(Round *round)
{
	ListCell *cell;
	bool all;

	round->databases = list_databases();
	foreach (cell, round->databases)
	{
		wait_in_line(round, lfirst_oid(cell), 0);
	}
	pgr_follow_forget_dropped(round->databases);
	pgr_load_keep_bounds(is_of_database, round->databases);
	all = run_loaders(round);
	pgr_load_round_end(round->started, all);
	report_round(round);
}

/* Called in a PG_CATCH block. */
static void
note_error(void)
{
	ErrorData *error;

	MemoryContextSwitchTo(TopMemoryContext);
	error = CopyErrorData();
	FlushErrorState();
	AbortOutOfAnyTransaction();
	LWLockReleaseAll();
	ereport(pgr_load_note_error(InvalidOid, error->message) ? WARNING : DEBUG2,
			(errcode(error->sqlerrcode),
			 errmsg("pg_registry could not have registries loaded: %s",
					error->message),
			 errdetail("They are read from their tables, and loading is tried again.")));
	FreeErrorData(error);
}

void
pgr_lister_main(Datum arg)
{
	Round round = {0};

	/* the library was replaced, and this is another copy of it */
	if (pgr_load_state == NULL)
		proc_exit(0);

	/* the default handler would end us wherever we are */
	pqsignal(SIGTERM, die);
	BackgroundWorkerUnblockSignals();
	if (!pgr_load_round_begin(&round.number))
		proc_exit(0);
	BackgroundWorkerInitializeConnection(NULL, NULL, 0);
	SetConfigOption("default_transaction_isolation", "read committed",
					PGC_SUSET, PGC_S_OVERRIDE);

	PG_TRY();
	{
		make_round(&round);
	}
	PG_CATCH();
	{
		note_error();
	}
	PG_END_TRY();
	proc_exit(0);
}
