/*
 * durable/rate_sets.h
 *	  Sets of exchange rates in their tables.
 *
 *		_registry.rate_sets			one row for each set
 *		_registry.rate_set_values	one row for each rate of a set
 *
 * A set is added once, with all of its rates (F-3); after that only its status
 * changes.  Whoever adds one or changes a status holds the lock on the rates
 * (pgr_write_open_rates) until his transaction ends.  So ids, and times of
 * publication, grow in the order in which sets are committed (W-2), and the
 * set that was published last is the newest there is.
 *
 * Reads are scans of our own, as in tables.h: no privilege is asked, and they
 * run in parallel workers and on a standby.
 */
#ifndef PGR_DURABLE_RATE_SETS_H
#define PGR_DURABLE_RATE_SETS_H

#include "registry/rates.h"
#include "registry/table.h"

typedef enum PgrRateSetStatus
{
	PGR_RATE_SET_PUBLISHED,
	PGR_RATE_SET_QUARANTINED,
	PGR_RATE_SET_WITHDRAWN
} PgrRateSetStatus;

#define PGR_RATE_SET_HASH_BYTES 32

/* A row of rate_sets, in the current memory context. */
typedef struct PgrRateSetRow
{
	PgrRateSet set; /* set.rate_set is its id; no rates unless asked for */
	PgrRateSetStatus status;
	bool was_held_back; /* whatever became of it since */
	uint8 hash[PGR_RATE_SET_HASH_BYTES];
} PgrRateSetRow;

/* All of these: false if there is none. */
extern bool pgr_rate_sets_find(int64 id, PgrTableView view,
							   PgrRateSetRow *row);

/* The published set that was published last. */
extern bool pgr_rate_sets_newest(PgrTableView view, PgrRateSetRow *row);

/* The set that was added last, whatever its status. */
extern bool pgr_rate_sets_last(PgrTableView view, PgrRateSetRow *row);

/*
 * The published set of that date, or of the last date before it; of several,
 * the one that was published last.
 */
extern bool pgr_rate_sets_on_date(DateADT date, PgrTableView view,
								  PgrRateSetRow *row);

/* The published set of the first date. */
extern bool pgr_rate_sets_oldest(PgrTableView view, PgrRateSetRow *row);

/* What registry/table.h asks. */
extern const PgrBlock *pgr_rate_sets_block(PgrTableView view);
extern int64 pgr_rate_sets_row_of(const PgrRatesInfo *info, PgrTableView view);

/*
 * For a loader, in a transaction: the table gets the set that was fetched, if
 * that is newer than what it has; else the image gets the set of the table: as
 * the cluster's, if it was fetched, and as the database's own where it reads
 * another one than that.  False, with nothing done, if somebody changes the
 * rates of this database right now, and the caller does not want to wait.
 */
extern bool pgr_rate_sets_load(bool wait);

/* Adds the rates of the set, in the current memory context. */
extern void pgr_rate_sets_read_rates(PgrRateSet *set, PgrTableView view);

/*
 * Add a set and give it its id.  If the newest published set says the same,
 * nothing is written, and the set takes that one's id and time.  "reason" is
 * why other databases hold it back, or NULL.
 */
extern void pgr_rate_sets_publish(PgrRateSet *set, const char *reason);

/* Was the set that was added last withdrawn, and says the same? */
extern bool pgr_rate_sets_was_withdrawn(const PgrRateSet *set);

/*
 * Add a set that nobody reads until it is accepted.  Nothing is written if the
 * set that was added last says the same.
 */
extern void pgr_rate_sets_quarantine(const PgrRateSet *set,
									 const char *reason);

/* A set that was found becomes the newest published one. */
extern void pgr_rate_sets_accept(PgrRateSetRow *row);

/* A set that was found is no longer read. */
extern void pgr_rate_sets_withdraw(const PgrRateSetRow *row,
								   const char *reason);

#endif /* PGR_DURABLE_RATE_SETS_H */
