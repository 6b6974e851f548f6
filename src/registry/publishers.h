/*
 * registry/publishers.h
 *	  Does a generation agree with a snapshot?
 *	  (pg_registry.read_consistency = snapshot)
 *
 * A generation has the changes of the transactions that have published by
 * then, a snapshot those of the transactions that had ended when it was
 * taken.  They agree, for the durable registries of a database, if every
 * transaction that has changed one is in both or in neither.  A statement
 * whose pin does not agree reads its tables; no version is kept for it.
 *
 * What is known of those transactions: a slot for each that is about to
 * commit and has not published, and a ring of those that have, the last
 * PGR_PUBLISHERS of the cluster.
 *
 * ARGUMENT.  Writer, of transaction x:
 *		W1	PRE_COMMIT: take a slot, which says x
 *		W2	commit; leave the array of running transactions
 *		W3	under the writer lock: record {generation g, x}; barrier;
 *			generation = g
 *		W4	barrier; give the slot back
 * Reader, with snapshot s and pin p, in whatever order they were taken:
 *		A1	read the slots; is one visible in s?
 *		A2	read barrier
 *		A3	read the records, from the newest to one of which and before which
 *			all is in p, and visible in s
 *		A4	were any of them overwritten meanwhile?
 *
 * If x is visible in s, W2 came before s was taken and with it W1, which a
 * lock of PostgreSQL's own (ProcArrayLock) orders.  So A1 finds x, or finds
 * its slot given back; then W3 came before A3, and A3 finds the record, and
 * whether p has it: a record of a later generation than p that s sees, or one
 * of p's that s does not see, is a disagreement.  If p has x, its record was
 * there before p could be taken (W3).  What A3 does not reach is in both, or
 * was overwritten, which counts as a disagreement.
 *
 * All records up to one are visible in s if the largest transaction id of them
 * is below s's xmin, or else below its xmax while those that s saw running
 * below it are running still: who has published has ended (W2, W3).  So a
 * transaction that runs for hours does not make A3 read the whole ring.
 *
 * A load publishes what is in the tables, of transactions that have left no
 * record, since they found the registry not in memory.  Its record is of
 * everything that had begun by then, judged as "all records up to one" is.  A
 * pin before a load read the table anyhow.
 *
 * What is replayed leaves no records.  So neither a snapshot nor a pin that was
 * taken during recovery agrees with anything.
 */
#ifndef PGR_REGISTRY_PUBLISHERS_H
#define PGR_REGISTRY_PUBLISHERS_H

#include "access/transam.h"
#include "port/atomics.h"
#include "utils/snapshot.h"

#define PGR_PUBLISHERS 512 /* a power of two */

typedef struct PgrPublisher
{
	uint64 generation;
	uint64 xid;     /* a full transaction id */
	uint64 highest; /* of this record and all before */
	Oid database;
	bool everything; /* all that had begun by "xid", in any order */
} PgrPublisher;

/*
 * Writers: of "committers", one for each process that can have a transaction,
 *	  any of these, by compare-and-swap from 0, back to 0 by the same one; of the
 *	  rest, whoever holds the writer lock.
 * Readers: statements under read_consistency = snapshot, without a lock.
 * Protocol: above.  A record is complete before "published" counts it.
 * Lifetime: the segment's.  A writer that dies midway takes the server down,
 *	  and with it the segment.
 */
typedef struct PgrSharedPublishers
{
	pg_atomic_uint64 published;       /* records ever written */
	pg_atomic_uint32 committers_high; /* none at this index or beyond, ever */
	uint32 committers_count;
	PgrPublisher ring[PGR_PUBLISHERS];
	pg_atomic_uint64
		committers[FLEXIBLE_ARRAY_MEMBER]; /* database << 32 | xid */
} PgrSharedPublishers;

/* In shared memory of a preloaded server, else NULL. */
extern PgrSharedPublishers *pgr_publishers;

/* For pgr_area_add_part. */
extern Size pgr_publishers_size(void);
extern void pgr_publishers_init(void *part, Size size);

/* W1 and W4; neither fails.  The second does nothing without the first. */
extern void pgr_publishers_enter(TransactionId xid);
extern void pgr_publishers_leave(void);

/* What a plan says of who publishes it; xid 0: nobody that matters here. */
typedef struct PgrPublishedBy
{
	uint64 xid;
	bool everything;
} PgrPublishedBy;

/* This transaction, which has a transaction id; and a load. */
extern PgrPublishedBy pgr_publishers_me(void);
extern PgrPublishedBy pgr_publishers_load(void);

/* W3, but for the last step.  The caller holds the writer lock. */
extern void pgr_publishers_record(PgrPublishedBy by, uint64 generation);

typedef enum PgrAgreement
{
	PGR_AGREES,
	PGR_NOT_YET_PUBLISHED, /* a newer generation may agree */
	PGR_DISAGREES
} PgrAgreement;

/* Of the durable registries of this database. */
extern PgrAgreement pgr_publishers_agree(uint64 generation, Snapshot snapshot);

#endif /* PGR_REGISTRY_PUBLISHERS_H */
