/*
 * registry/pin.h
 *	  Which generation a read uses: one for each top-level statement.
 *
 * A statement is the chain of portals that are running, kept by hooks on
 * ExecutorStart, ExecutorRun, ExecutorFinish and ProcessUtility.  The first
 * read takes the pin of the innermost portal of the chain that has one, else
 * a new one, and gives it to every portal of the chain that has none.  So a
 * query, the functions that it calls and the cursors that they open read one
 * generation, and a cursor keeps its own between two FETCHes.  Without
 * a portal, and from REPEATABLE READ on, the pin is the transaction's; under
 * READ COMMITTED that one (of planning, mostly) ends when the next statement
 * starts.  A parallel worker reads what its leader pinned before the workers
 * were started.
 *
 * A pin ends with the last portal that holds it, in any case with the
 * transaction, and at process exit.
 *
 * Under read_consistency = snapshot the pin is taken as soon as the plan
 * starts, and compared with the active snapshot: see publishers.h.
 *
 * A database may have durable registries that are not in memory: it is being
 * loaded, or there is no room.  They are read from their table, as of the
 * active snapshot.  So that what one statement reads of them and of the others
 * agrees, a pin of such a generation is compared with the snapshot
 * whatever the setting is.  Whether it is one is found out once, before its
 * first read: what has been read cannot be taken back.
 */
#ifndef PGR_REGISTRY_PIN_H
#define PGR_REGISTRY_PIN_H

#include "registry/line.h"
#include "shm/refresh_state.h"

typedef enum PgrPinWhole
{
	PGR_PIN_NOT_ASKED,
	PGR_PIN_WHOLE, /* every durable registry of the database is in it */
	PGR_PIN_NOT_WHOLE
} PgrPinWhole;

typedef struct PgrPin
{
	uint64 generation;
	const PgrSharedRoot *root;
	TimestampTz at;   /* what "now" is for expiry and age */
	uint64 token;     /* of this pin in this process; never 0 */
	int cell;         /* -1: the leader's */
	bool lags;        /* durable registries are to be read from their tables:
					 * replay may be ahead of this generation */
	int holders;      /* portals, and the transaction */
	bool in_recovery; /* when it was taken */
	PgrPinWhole whole;
	/* whether it agrees with the snapshot that has these; 0 = none */
	TransactionId judged_xmax;
	uint32 judged_xcnt;
	bool agrees;
	/* what the source of the rates said last, as of "at" */
	PgrRatesAnswer answer;
	struct PgrPin *next_free;
} PgrPin;

/*
 * The token of the current statement's pin, 0 if it is not resolved or if
 * this transaction has changes of its own to read through.  It is all that the
 * fast path of a read tests.
 */
extern uint64 pgr_pin_token;

extern PgrPin *pgr_pin_current;

/*
 * May a result point into the block, rather than be a copy?  Only while the
 * token is the current one.
 */
extern bool pgr_pin_lends;

/* Slow path of pgr_pin(): may allocate, never fails for lack of pins. */
extern PgrPin *pgr_pin_resolve(void);

/* The current statement's pin. */
static inline PgrPin *
pgr_pin(void)
{
	return likely(pgr_pin_current != NULL) ? pgr_pin_current :
											 pgr_pin_resolve();
}

/*
 * Must what the current pin shows of durable registries be what the active
 * snapshot shows of their tables?  And is it?
 */
extern bool pgr_pin_compares(void);
extern bool pgr_pin_agrees(void);

/*
 * Does what was made in this context belong to the plan that runs, and so to
 * one pin and one snapshot?  PL/pgSQL keeps the state of simple expressions for
 * a whole transaction.
 */
extern bool pgr_pin_is_of_plan(MemoryContext context);

/* A subtransaction was aborted; its parallel workers are gone. */
extern void pgr_pin_abort_subtransaction(void);

/* Drop what the chain pins, so that the next read pins anew. */
extern PgrPin *pgr_pin_advance(void);

/*
 * From now on (or no longer) reads of this transaction must look at its own
 * changes: "head" is the newest of them, for our parallel workers.
 */
extern void pgr_pin_set_pending(PgrRef head);

/* Our own newest uncommitted change, or our leader's in a parallel worker. */
extern PgrRef pgr_pin_pending_head(void);

/*
 * What reads remember of a pin (that this role may read) may not hold any
 * more: they go through their slow path again.
 */
extern void pgr_pin_renew_tokens(void);

/* The transaction ended: so did every pin.  From the xact callback. */
extern void pgr_pin_end_transaction(void);

/* _PG_init: the hooks. */
extern void pgr_pin_install(void);

#endif /* PGR_REGISTRY_PIN_H */
