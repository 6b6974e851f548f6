/*
 * worker/scheduler.c
 *	  The scheduler: a static background worker without a database.
 *
 * Not being in the ProcArray and having no ProcSignal slot, it never holds up
 * DROP DATABASE or CREATE DATABASE ... TEMPLATE; for the same reason it gets
 * none of a backend's signals and brings its own handlers.  They set a flag
 * and the latch; the loop does the rest, also with a request under way.
 *
 * It exits with status 1, after which the postmaster starts it again.  It
 * must never touch a catalog: there is no database to find one in.
 */
#include "postgres.h"

#include <signal.h>

#include "fmgr.h"
#include "libpq/pqsignal.h"
#include "mb/pg_wchar.h"
#include "miscadmin.h"
#include "postmaster/bgworker.h"
#include "postmaster/interrupt.h"
#include "storage/ipc.h"
#include "storage/latch.h"
#include "storage/lwlock.h"
#include "utils/guc.h"
#include "utils/memutils.h"
#include "utils/wait_event.h"

#include "base/compat.h"
#include "fetch/core.h"
#include "fetch/fetch.h"
#include "worker/loads.h"

PG_MODULE_MAGIC;

/* After an error of our own, so that a persistent one is no tight loop. */
#define PAUSE_AFTER_ERROR_MS 5000L

#define FOREVER (-1L)

PGDLLEXPORT void pgr_scheduler_main(Datum arg);

/* Nobody is known to send it; if somebody does, have a look around. */
static void
wake_up_cb(SIGNAL_ARGS)
{
	int save_errno = errno;

	SetLatch(MyLatch);
	errno = save_errno;
}

static void
take_signals(void)
{
	pqsignal(SIGTERM, SignalHandlerForShutdownRequest);
	pqsignal(SIGHUP, SignalHandlerForConfigReload);
	pqsignal(SIGUSR1, wake_up_cb);
	BackgroundWorkerUnblockSignals();
}

/* Wait for the latch, for libcurl's descriptor if there is one, or the time. */
static void
wait_for_work(int fd, long timeout_ms)
{
	int events = WL_LATCH_SET | WL_EXIT_ON_PM_DEATH;

	if (fd >= 0)
		events |= WL_SOCKET_READABLE;
	if (timeout_ms >= 0)
		events |= WL_TIMEOUT;
	(void) WaitLatchOrSocket(MyLatch, events, fd >= 0 ? fd : PGINVALID_SOCKET,
							 timeout_ms, PG_WAIT_EXTENSION);
	ResetLatch(MyLatch);
}

static void
handle_signals(void)
{
	if (ShutdownRequestPending)
		proc_exit(1);
	if (ConfigReloadPending)
	{
		ConfigReloadPending = false;
		ProcessConfigFile(PGC_SIGHUP);
	}
}

/*
 * Called in a PG_CATCH block: report the error, give back what it left, and
 * count it as a failure of the source.
 */
static void
recover(PgrFetch *fetch)
{
	ErrorData *error;

	MemoryContextSwitchTo(TopMemoryContext);
	error = CopyErrorData();
	EmitErrorReport();
	FlushErrorState();
	LWLockReleaseAll();
	pgr_fetch_recover(fetch, error->message);
	FreeErrorData(error);
}

/*
 * One cycle: the one place where errors end.  Then wait; after an error not
 * for the network, which may be the reason of the next one.
 */
static void
run_cycle(PgrFetch *fetch, PgrLoads *loads)
{
	volatile long timeout_ms = PAUSE_AFTER_ERROR_MS;
	volatile int fd = -1;
	long loads_ms;

	PG_TRY();
	{
		handle_signals();
		loads_ms = pgr_loads_step(loads);
		timeout_ms = Min(pgr_fetch_step(fetch), loads_ms);
		fd = pgr_fetch_fd(fetch);
	}
	PG_CATCH();
	{
		recover(fetch);
	}
	PG_END_TRY();
	wait_for_work(fd, timeout_ms);
}

void
pgr_scheduler_main(Datum arg)
{
	const PgrCoreApi *core;
	PgrFetch *fetch;
	PgrLoads *loads;

	take_signals();

	/* What comes from the network is UTF-8; without a database nobody said so. */
	SetDatabaseEncoding(PG_UTF8);

	core = pgr_core_attach();
	while (core == NULL)
	{
		handle_signals();
		wait_for_work(-1, FOREVER);
	}
	fetch = pgr_fetch_create(core);
	loads = pgr_loads_create(core);
	for (;;)
		run_cycle(fetch, loads);
}
