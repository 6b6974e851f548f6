/*
 * registry/pin.c
 *	  The statement chain and the pins of this process; see pin.h.
 *
 * Process model: everything here is local to a backend; what others may see of
 * it stands in its line (line.c).  Nothing here takes a lock.
 *
 * The chain follows the C stack: a hook pushes a frame that lives in its own
 * stack frame, and PG_FINALLY pops it, so an ERROR cannot leave a dangling
 * one.  A portal's claim on a pin is an Attachment in the portal's memory
 * context, whose reset callback ends it; it outlives the transaction when the
 * portal does (a procedure that commits), but its pin does not.
 */
#include "postgres.h"

#include "access/parallel.h"
#include "access/xact.h"
#include "access/xlog.h"
#include "executor/executor.h"
#include "miscadmin.h"
#include "storage/proc.h"
#include "tcop/pquery.h"
#include "tcop/utility.h"
#include "utils/memutils.h"
#include "utils/portal.h"
#include "utils/snapmgr.h"
#include "utils/timestamp.h"

#include "base/compat.h"
#include "registry/directory.h"
#include "registry/line.h"
#include "registry/pin.h"
#include "registry/publishers.h"
#include "settings.h"
#include "shm/follow_state.h"

/*
 * How often a new pin asks again, while transactions that its snapshot sees are
 * between their commit and their publish: some microseconds.
 */
#define MOST_TRIES 100

/* Bits of parallel_flags of a line. */
#define PARALLEL_LAGS 1
#define PARALLEL_RECOVERY 2
#define PARALLEL_NOT_WHOLE 4

/* A running portal, or NULL where there is none (SPI in a trigger at commit) */
typedef struct Frame
{
	Portal portal;
	struct Frame *up;
	bool executes;      /* a plan: what its expressions yield ends with it */
	MemoryContext plan; /* what lives as long as that */
} Frame;

typedef struct Attachment
{
	MemoryContextCallback callback;
	Portal portal;
	PgrPin *pin;  /* NULL: ended with its transaction */
	PgrPin *kept; /* what advance() has superseded; values may be lent */
	struct Attachment *next;
} Attachment;

uint64 pgr_pin_token = 0;
PgrPin *pgr_pin_current = NULL;
bool pgr_pin_lends = false;

static Frame *chain = NULL;
static Attachment *attachments = NULL;
static PgrPin *transaction_pin = NULL;
static PgrPin *transaction_kept = NULL;
static PgrPin *workers_pin = NULL; /* what parallel_pin of our line names */
static PgrPin *leaders_pin = NULL; /* in a parallel worker */
static PgrPin *free_pins = NULL;
static uint64 last_token = 0;
static PgrRef my_pending_head = 0;
static bool reads_pending = false; /* this transaction changed something */

static ExecutorStart_hook_type prev_executor_start = NULL;
static ExecutorRun_hook_type prev_executor_run = NULL;
static ExecutorFinish_hook_type prev_executor_finish = NULL;
static ProcessUtility_hook_type prev_process_utility = NULL;

/* ------------------------------------------------------------------------
 * Pins
 * ------------------------------------------------------------------------
 */

static PgrPin *
pin_allocate(void)
{
	PgrPin *pin = free_pins;

	if (pin != NULL)
		free_pins = pin->next_free;
	else
		pin = MemoryContextAlloc(TopMemoryContext, sizeof(PgrPin));
	memset(pin, 0, sizeof(*pin));
	pin->token = ++last_token;
	return pin;
}

/* Of a generation that nobody has read yet: would a newer one be better? */
static bool
wants_newer(uint64 generation, int tries)
{
	if (pgr_settings.read_consistency != PGR_READ_SNAPSHOT ||
		tries >= MOST_TRIES || !ActiveSnapshotSet() ||
		pgr_publishers_agree(generation, GetActiveSnapshot()) !=
			PGR_NOT_YET_PUBLISHED)
		return false;
	pg_spin_delay();
	return true;
}

/* Pin the newest generation; see pgr_line_pin() for when there is no room. */
static PgrPin *
pin_new(void)
{
	PgrPin *pin = pin_allocate();
	int tries = 0;

	pin->at = GetCurrentTimestamp();
	pin->answer = pgr_refresh_last_answer();
	/* before the pin: what is fresh now is not older in what we pin */
	pin->lags = pgr_follow_lags(MyDatabaseId);
	pin->cell = pgr_line_pin(pin->at, &pin->generation, &pin->root);
	pin->in_recovery = RecoveryInProgress();
	while (pin->cell >= 0 && wants_newer(pin->generation, tries++))
	{
		pgr_line_unpin(pin->cell);
		pin->cell = pgr_line_pin(pin->at, &pin->generation, &pin->root);
	}
	/* and after it: nobody has begun to make another state meanwhile */
	pin->lags |= pgr_follow_lags(MyDatabaseId);
	return pin;
}

static void
pin_release(PgrPin *pin)
{
	Assert(pin->holders > 0);
	if (--pin->holders > 0)
		return;
	if (pin->cell >= 0)
		pgr_line_unpin(pin->cell);
	pin->next_free = free_pins;
	free_pins = pin;
}

static void
forget_current(void)
{
	pgr_pin_current = NULL;
	pgr_pin_token = 0;
	pgr_pin_lends = false;
}

static Attachment *
attachment_of(Portal portal)
{
	for (Attachment *a = attachments; a != NULL; a = a->next)
		if (a->portal == portal)
			return a;
	return NULL;
}

/*
 * May a read return a pointer into the pinned block instead of a copy?
 *
 * While a plan runs, what its expressions yield lives at most as long as the
 * plan: whoever needs it longer copies it (tuples, tuplestores, variables of
 * PL/pgSQL, transition values, constants made by the planner).  The pin lives
 * at least as long, since the plan's portal holds it.  A utility command is
 * another matter: the arguments of CALL are handed to the procedure as they
 * are, and outlive its COMMIT, which ends the pin.  So only inside a plan.
 *
 * advance() supersedes the pin while values may be lent; it is kept for that
 * until the portal ends.  It is the last one that lends, so that a loop with
 * advance() holds back one version and not all it has seen.
 */
static bool
may_lend(void)
{
	if (chain == NULL || !chain->executes || transaction_kept != NULL)
		return false;
	for (Frame *f = chain; f != NULL; f = f->up)
	{
		Attachment *attachment = f->portal ? attachment_of(f->portal) : NULL;

		if (attachment != NULL && attachment->kept != NULL)
			return false;
	}
	return true;
}

static void
set_current(PgrPin *pin)
{
	pgr_pin_current = pin;
	pgr_pin_token = reads_pending ? 0 : pin->token;
	pgr_pin_lends = may_lend();
}

/* ------------------------------------------------------------------------
 * Portals
 * ------------------------------------------------------------------------
 */

static void
release_and_forget(PgrPin **pin)
{
	if (*pin != NULL)
		pin_release(*pin);
	*pin = NULL;
}

static void
end_attachment(Attachment *attachment)
{
	release_and_forget(&attachment->pin);
	release_and_forget(&attachment->kept);
}

/* What advance() does: the old pin is kept if values may be lent from it. */
static void
supersede(PgrPin **pin, PgrPin **kept)
{
	if (*kept == NULL)
		*kept = *pin;
	else if (*pin != NULL)
		pin_release(*pin);
	*pin = NULL;
}

/* The portal's memory goes away: idempotent, in any order with the rest. */
static void
attachment_ended(void *arg)
{
	Attachment *attachment = arg;

	for (Attachment **a = &attachments; *a != NULL; a = &(*a)->next)
	{
		if (*a == attachment)
		{
			*a = attachment->next;
			break;
		}
	}
	end_attachment(attachment);
	forget_current();
}

static Attachment *
attach(Portal portal)
{
	Attachment *attachment = attachment_of(portal);

	if (attachment != NULL)
		return attachment;
	attachment = MemoryContextAllocZero(portal->portalContext,
										sizeof(Attachment));
	attachment->portal = portal;
	attachment->callback.func = attachment_ended;
	attachment->callback.arg = attachment;
	attachment->next = attachments;
	attachments = attachment;
	MemoryContextRegisterResetCallback(portal->portalContext,
									   &attachment->callback);
	return attachment;
}

static PgrPin *
resolve_transaction(void)
{
	if (transaction_pin == NULL)
	{
		transaction_pin = pin_new();
		transaction_pin->holders = 1;
	}
	return transaction_pin;
}

/* The chain as it is now: the hooks' frames, below ActivePortal if it is not
 * the innermost of them. */
static Frame *
chain_now(Frame *here)
{
	if (chain != NULL && chain->portal == ActivePortal)
		return chain;
	here->portal = ActivePortal;
	here->up = chain;
	here->executes = false;
	here->plan = NULL;
	return here;
}

static PgrPin *
resolve_statement(void)
{
	Frame here;
	Frame *first = chain_now(&here);
	PgrPin *pin = NULL;
	bool portals = false;

	for (Frame *f = first; f != NULL && pin == NULL; f = f->up)
	{
		Attachment *attachment;

		if (f->portal == NULL)
			continue;
		portals = true;
		attachment = attachment_of(f->portal);
		if (attachment != NULL)
			pin = attachment->pin; /* may be NULL */
	}
	if (!portals)
		return resolve_transaction();

	/* allocate every attachment first: nothing below can fail half-way */
	for (Frame *f = first; f != NULL; f = f->up)
		if (f->portal != NULL)
			attach(f->portal);
	if (pin == NULL)
		pin = pin_new();
	for (Frame *f = first; f != NULL; f = f->up)
	{
		Attachment *attachment;

		if (f->portal == NULL)
			continue;
		attachment = attachment_of(f->portal);
		if (attachment->pin == NULL)
		{
			attachment->pin = pin;
			pin->holders++;
		}
	}
	return pin;
}

/*
 * In a parallel worker: the leader's pin, if it pinned for us.  The leader
 * holds it until we are gone (AtEOXact_Parallel waits for workers before the
 * transaction callbacks run), so we store nothing.
 */
static PgrPin *
resolve_leader(void)
{
	PgrSharedLine *line;
	uint64 generation;

	line = pgr_image_line(pgr_image, PgrProcNumber(MyProc->lockGroupLeader));
	reads_pending = pg_atomic_read_u32(&line->pending_head) != 0;
	generation = pg_atomic_read_u64(&line->parallel_pin);
	if (generation == 0)
		return NULL;
	pg_read_barrier(); /* pairs with share_with_workers */
	if (leaders_pin == NULL || leaders_pin->generation != generation)
	{
		if (leaders_pin == NULL)
			leaders_pin = pin_allocate();
		leaders_pin->token = ++last_token;
		leaders_pin->cell = -1;
		leaders_pin->holders = 1; /* ours for good */
		leaders_pin->generation = generation;
		leaders_pin->root =
			pgr_image_ptr(pgr_image, pg_atomic_read_u32(&line->parallel_root));
		leaders_pin->at = line->parallel_at;
		leaders_pin->lags = line->parallel_flags & PARALLEL_LAGS;
		leaders_pin->in_recovery = line->parallel_flags & PARALLEL_RECOVERY;
		leaders_pin->whole = line->parallel_flags & PARALLEL_NOT_WHOLE ?
			PGR_PIN_NOT_WHOLE :
			PGR_PIN_WHOLE;
		leaders_pin->judged_xmax = InvalidTransactionId;
		leaders_pin->answer.rates = line->parallel_answer_rates;
		leaders_pin->answer.at = line->parallel_answer_at;
	}
	return leaders_pin;
}

/*
 * Our parallel workers are gone.  Never called while they may read: workers_pin
 * is what every read of the leader uses then, so nothing can replace it.
 */
static void
end_sharing(void)
{
	PgrPin *pin = workers_pin;

	if (pin == NULL)
		return;
	workers_pin = NULL;
	pg_atomic_write_u64(&pgr_line_mine()->parallel_pin, 0);
	pin_release(pin);
}

/* Of a server that has not preloaded us: nothing but the time. */
static PgrPin *
pin_nothing(void)
{
	static PgrPin nothing = {
		.generation = PGR_NEWEST,
		.cell = -1,
		.lags = true,
	};

	nothing.at = GetCurrentStatementStartTimestamp();
	return &nothing;
}

/*
 * Who remembers what he resolved under another setting has to resolve it
 * again, be it for the same pin.
 */
static void
renew_tokens(void)
{
	static int last_consistency = PGR_READ_ISOLATION;

	if (last_consistency == pgr_settings.read_consistency)
		return;
	last_consistency = pgr_settings.read_consistency;
	for (Attachment *a = attachments; a != NULL; a = a->next)
		if (a->pin != NULL)
			a->pin->token = ++last_token;
	if (transaction_pin != NULL)
		transaction_pin->token = ++last_token;
}

PgrPin *
pgr_pin_resolve(void)
{
	PgrPin *pin = NULL;

	if (pgr_image == NULL)
		return pin_nothing();
	renew_tokens();
	if (IsParallelWorker() && MyProc->lockGroupLeader != NULL)
		pin = resolve_leader();
	else if (workers_pin != NULL && IsInParallelMode())
		pin = workers_pin; /* what our workers are reading */
	if (pin == NULL)
		pin = IsolationUsesXactSnapshot() || IsParallelWorker() ?
			resolve_transaction() :
			resolve_statement();
	set_current(pin);
	return pin;
}

static bool
is_whole(PgrPin *pin)
{
	if (pin->whole == PGR_PIN_NOT_ASKED)
	{
		uint32 directory = pgr_directory_slot(pin->root, pin->generation,
											  MyDatabaseId,
											  pgr_directory_extension());

		pin->whole = pgr_directory_is_whole(pin->root, pin->generation,
											directory) ?
			PGR_PIN_WHOLE :
			PGR_PIN_NOT_WHOLE;
	}
	return pin->whole == PGR_PIN_WHOLE;
}

bool
pgr_pin_compares(void)
{
	return pgr_settings.read_consistency == PGR_READ_SNAPSHOT ||
		!is_whole(pgr_pin());
}

/*
 * Once is enough for a pin and a snapshot, however much is published later, and
 * all rows of a statement are to have the same answer.
 * Of two snapshots with the same xmax the later one lacks those of the running
 * transactions that have ended since and has no others: with as many of them
 * they are the same.
 */
bool
pgr_pin_agrees(void)
{
	PgrPin *pin = pgr_pin();
	Snapshot snapshot;

	if (pin->in_recovery || !ActiveSnapshotSet())
		return false;
	snapshot = GetActiveSnapshot();
	if (pin->judged_xmax != snapshot->xmax ||
		pin->judged_xcnt != snapshot->xcnt)
	{
		pin->agrees = pgr_publishers_agree(pin->generation, snapshot) ==
			PGR_AGREES;
		pin->judged_xmax = snapshot->xmax;
		pin->judged_xcnt = snapshot->xcnt;
	}
	return pin->agrees;
}

bool
pgr_pin_is_of_plan(MemoryContext context)
{
	return chain != NULL && chain->plan == context;
}

PgrPin *
pgr_pin_advance(void)
{
	Frame here;

	Assert(!IsInParallelMode());
	forget_current();
	for (Frame *f = chain_now(&here); f != NULL; f = f->up)
	{
		Attachment *attachment = f->portal ? attachment_of(f->portal) : NULL;

		if (attachment != NULL)
			supersede(&attachment->pin, &attachment->kept);
	}
	supersede(&transaction_pin, &transaction_kept);
	return pgr_pin();
}

void
pgr_pin_set_pending(PgrRef head)
{
	pg_atomic_write_u32(&pgr_line_mine()->pending_head, head);
	my_pending_head = head;
	reads_pending = head != 0;
	forget_current();
}

PgrRef
pgr_pin_pending_head(void)
{
	if (IsParallelWorker() && MyProc->lockGroupLeader != NULL &&
		pgr_image != NULL)
	{
		PgrSharedLine *line =
			pgr_image_line(pgr_image, PgrProcNumber(MyProc->lockGroupLeader));

		return pg_atomic_read_u32(&line->pending_head);
	}
	return my_pending_head;
}

static void
renew_token(PgrPin *pin)
{
	if (pin != NULL)
		pin->token = ++last_token;
}

/* Called for invalidation messages: anywhere, and throws nothing. */
void
pgr_pin_renew_tokens(void)
{
	for (Attachment *a = attachments; a != NULL; a = a->next)
		renew_token(a->pin);
	renew_token(transaction_pin);
	renew_token(workers_pin);
	renew_token(leaders_pin);
	forget_current();
}

/*
 * AtEOSubXact_Parallel has waited for the workers of a query that failed.  No
 * outer one can be running: parallel mode allows no subtransactions.  A cursor
 * that failed stays open until somebody closes it, but cannot read any more.
 */
void
pgr_pin_abort_subtransaction(void)
{
	forget_current(); /* the failed statement's */
	end_sharing();
	for (Attachment *a = attachments; a != NULL; a = a->next)
		if (a->portal->status == PORTAL_FAILED)
			end_attachment(a);
}

void
pgr_pin_end_transaction(void)
{
	forget_current();
	end_sharing(); /* AtEOXact_Parallel has waited for them */
	for (Attachment *a = attachments; a != NULL; a = a->next)
		end_attachment(a);
	release_and_forget(&transaction_pin);
	release_and_forget(&transaction_kept);
	pgr_line_give_back_spares();
}

/* ------------------------------------------------------------------------
 * Hooks
 * ------------------------------------------------------------------------
 */

/*
 * Before a parallel plan starts its workers: name our pin for them, and hold
 * it until they are gone, whatever else happens to it.  A plan that runs
 * inside another parallel plan shares its statement's pin.  True if this call
 * has to be undone.
 */
static bool
share_with_workers(void)
{
	PgrPin *pin = pgr_pin();
	PgrSharedLine *line = pgr_line_mine();

	if (workers_pin == pin)
		return false;
	end_sharing(); /* a statement that failed left it to us */
	pg_atomic_write_u32(&line->parallel_root,
						pgr_arena_ref(pgr_image_arena(pgr_image), pin->root));
	line->parallel_at = pin->at;
	line->parallel_flags = (pin->lags ? PARALLEL_LAGS : 0) |
		(pin->in_recovery ? PARALLEL_RECOVERY : 0) |
		(is_whole(pin) ? 0 : PARALLEL_NOT_WHOLE);
	line->parallel_answer_rates = pin->answer.rates;
	line->parallel_answer_at = pin->answer.at;
	pg_write_barrier(); /* pairs with resolve_leader */
	pg_atomic_write_u64(&line->parallel_pin, pin->generation);
	pin->holders++;
	workers_pin = pin;
	return true;
}

/*
 * A top-level statement begins to run.  Under READ COMMITTED a pin that was
 * taken without a portal, by planning this statement or an earlier one, must
 * not outlive that: it would grow old with the transaction.
 */
static void
begin_statement(void)
{
	forget_current();
	if (chain == NULL && ActivePortal != NULL &&
		!IsolationUsesXactSnapshot() && !IsParallelWorker())
	{
		release_and_forget(&transaction_pin);
		release_and_forget(&transaction_kept);
	}
}

/*
 * Starting a plan can evaluate functions too (partition pruning).  The portal
 * is active by then, so its pin is the one that running it will use.
 */
static void
executor_start(QueryDesc *query, int flags)
{
	begin_statement();
	/* as soon after the snapshot as can be: what is published between the two
	 * makes them disagree */
	if (pgr_settings.read_consistency == PGR_READ_SNAPSHOT &&
		pgr_image != NULL)
		(void) pgr_pin();
	if (prev_executor_start)
		prev_executor_start(query, flags);
	else
		standard_ExecutorStart(query, flags);
	forget_current();
}

static void
executor_run(PGR_EXECUTOR_RUN_ARGS)
{
	Frame frame = {ActivePortal, chain, true, query->estate->es_query_cxt};
	volatile bool shared = false;

	begin_statement();
	chain = &frame;
	PG_TRY();
	{
		if (query->plannedstmt->parallelModeNeeded && pgr_image != NULL &&
			!IsParallelWorker())
			shared = share_with_workers();
		if (prev_executor_run)
			prev_executor_run(PGR_EXECUTOR_RUN_PASS);
		else
			standard_ExecutorRun(PGR_EXECUTOR_RUN_PASS);
	}
	PG_FINALLY();
	{
		chain = frame.up;
		forget_current();
	}
	PG_END_TRY();

	/* after an ERROR workers may still run: the transaction's end does it */
	if (shared)
		end_sharing();
}

static void
executor_finish(QueryDesc *query)
{
	Frame frame = {ActivePortal, chain, false, NULL};

	chain = &frame;
	forget_current();
	PG_TRY();
	{
		if (prev_executor_finish)
			prev_executor_finish(query);
		else
			standard_ExecutorFinish(query);
	}
	PG_FINALLY();
	{
		chain = frame.up;
		forget_current();
	}
	PG_END_TRY();
}

static void
process_utility(PlannedStmt *statement, const char *text, bool read_only_tree,
				ProcessUtilityContext context, ParamListInfo params,
				QueryEnvironment *environment, DestReceiver *receiver,
				QueryCompletion *completion)
{
	Frame frame = {ActivePortal, chain, false, NULL};

	begin_statement();
	chain = &frame;
	PG_TRY();
	{
		if (prev_process_utility)
			prev_process_utility(statement, text, read_only_tree, context,
								 params, environment, receiver, completion);
		else
			standard_ProcessUtility(statement, text, read_only_tree, context,
									params, environment, receiver, completion);
	}
	PG_FINALLY();
	{
		chain = frame.up;
		forget_current();
	}
	PG_END_TRY();
}

void
pgr_pin_install(void)
{
	prev_executor_start = ExecutorStart_hook;
	ExecutorStart_hook = executor_start;
	prev_executor_run = ExecutorRun_hook;
	ExecutorRun_hook = executor_run;
	prev_executor_finish = ExecutorFinish_hook;
	ExecutorFinish_hook = executor_finish;
	prev_process_utility = ProcessUtility_hook;
	ProcessUtility_hook = process_utility;
}
