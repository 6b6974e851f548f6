/*
 * registry/publishers.c
 *	  See publishers.h.  Runs in backends and in whatever publishes.
 */
#include "postgres.h"

#include "access/transam.h"
#include "access/xact.h"
#include "miscadmin.h"
#include "storage/procarray.h"
#include "utils/snapmgr.h"

#include "base/compat.h"
#include "registry/publishers.h"

/* So many running transactions are worth asking about. */
#define MOST_RUNNING 16
#define LOOK_AGAIN_AFTER 16 /* records */

PgrSharedPublishers *pgr_publishers = NULL;

/* Where this backend stands among the committers; -1 nowhere. */
static int my_slot = -1;

Size
pgr_publishers_size(void)
{
	return offsetof(PgrSharedPublishers, committers) +
		MaxBackends * sizeof(pg_atomic_uint64);
}

void
pgr_publishers_init(void *part, Size size)
{
	PgrSharedPublishers *shared = part;

	memset(shared, 0, size);
	pg_atomic_init_u64(&shared->published, 0);
	pg_atomic_init_u32(&shared->committers_high, 0);
	shared->committers_count = MaxBackends;
	for (int i = 0; i < MaxBackends; i++)
		pg_atomic_init_u64(&shared->committers[i], 0);
}

/* ------------------------------------------------------------------------
 * Writers
 * ------------------------------------------------------------------------
 */

static void
raise_high(uint32 high)
{
	uint32 old = pg_atomic_read_u32(&pgr_publishers->committers_high);

	while (old < high &&
		   !pg_atomic_compare_exchange_u32(&pgr_publishers->committers_high,
										   &old, high))
		;
}

void
pgr_publishers_enter(TransactionId xid)
{
	uint64 me = (uint64) MyDatabaseId << 32 | xid;

	Assert(my_slot < 0);
	for (uint32 i = 0; i < pgr_publishers->committers_count; i++)
	{
		uint64 nobody = 0;

		if (!pg_atomic_compare_exchange_u64(&pgr_publishers->committers[i],
											&nobody, me))
			continue;
		my_slot = (int) i;
		raise_high(i + 1);
		return;
	}
	Assert(false); /* there is one for each of us */
}

void
pgr_publishers_leave(void)
{
	pg_write_barrier(); /* W4, pairs with A2 */
	if (my_slot >= 0)
		pg_atomic_write_u64(&pgr_publishers->committers[my_slot], 0);
	my_slot = -1;
}

PgrPublishedBy
pgr_publishers_me(void)
{
	PgrPublishedBy by = {
		.xid = U64FromFullTransactionId(GetTopFullTransactionIdIfAny()),
	};

	return by;
}

PgrPublishedBy
pgr_publishers_load(void)
{
	PgrPublishedBy by = {
		.xid = U64FromFullTransactionId(ReadNextFullTransactionId()) - 1,
		.everything = true,
	};

	return by;
}

void
pgr_publishers_record(PgrPublishedBy by, uint64 generation)
{
	uint64 n = pg_atomic_read_u64(&pgr_publishers->published);
	PgrPublisher *record = &pgr_publishers->ring[n % PGR_PUBLISHERS];
	const PgrPublisher *last = &pgr_publishers->ring[(n - 1) % PGR_PUBLISHERS];

	if (by.xid == 0)
		return;
	pg_write_barrier(); /* the last count before what it lets go of; see A4 */
	record->generation = generation;
	record->xid = by.xid;
	record->highest = n == 0 ? by.xid : Max(by.xid, last->highest);
	record->database = MyDatabaseId;
	record->everything = by.everything;
	pg_write_barrier();
	pg_atomic_write_u64(&pgr_publishers->published, n + 1);
}

/* ------------------------------------------------------------------------
 * Readers
 * ------------------------------------------------------------------------
 */

static bool
is_visible(TransactionId xid, Snapshot snapshot)
{
	return !XidInMVCCSnapshot(xid, snapshot);
}

/* Is "xid" older than every transaction that ran when the snapshot was taken? */
static bool
is_long_over(uint64 xid, Snapshot snapshot)
{
	uint64 next;
	uint64 xmin;

	if (TransactionIdPrecedes((TransactionId) xid, snapshot->xmin))
		return true;
	/* or so old that 32 bits cannot tell */
	next = U64FromFullTransactionId(ReadNextFullTransactionId());
	xmin = (next & ~(uint64) PG_UINT32_MAX) | snapshot->xmin;
	if (xmin > next)
		xmin -= UINT64_C(1) << 32;
	return xid < xmin;
}

/* None of them can have published: they run.  False if they are many. */
static bool
all_still_run(const TransactionId *xids, uint32 n, TransactionId highest)
{
	int checked = 0;

	for (uint32 i = 0; i < n; i++)
		if (TransactionIdPrecedesOrEquals(xids[i], highest) &&
			(++checked > MOST_RUNNING || !TransactionIdIsInProgress(xids[i])))
			return false;
	return true;
}

/*
 * Is every transaction that has published by now, and has this id or a smaller
 * one, visible?  Of a load the largest id can be that of one that still runs.
 */
static bool
all_are_visible(uint64 highest, Snapshot snapshot)
{
	TransactionId last = (TransactionId) highest;
	TransactionId xid = snapshot->xmax;

	if (is_long_over(highest, snapshot))
		return true;
	for (int i = 0; TransactionIdPrecedesOrEquals(xid, last); i++)
	{
		if (i == MOST_RUNNING || !TransactionIdIsInProgress(xid))
			return false;
		TransactionIdAdvance(xid);
	}
	return all_still_run(snapshot->xip, snapshot->xcnt, last);
}

/* A1 */
static bool
sees_a_committer(Snapshot snapshot)
{
	uint32 high = pg_atomic_read_u32(&pgr_publishers->committers_high);

	for (uint32 i = 0; i < high; i++)
	{
		uint64 committer = pg_atomic_read_u64(&pgr_publishers->committers[i]);

		if (committer >> 32 == MyDatabaseId && (int) i != my_slot &&
			is_visible((TransactionId) committer, snapshot))
			return true;
	}
	return false;
}

static PgrAgreement
agrees_with(const PgrPublisher *record, uint64 generation, Snapshot snapshot)
{
	bool pinned = record->generation <= generation;
	bool visible;

	if (record->database != MyDatabaseId || (record->everything && !pinned))
		return PGR_AGREES;
	if (record->everything)
		visible = all_are_visible(record->xid, snapshot);
	else
		visible = is_long_over(record->xid, snapshot) ||
			is_visible((TransactionId) record->xid, snapshot);
	if (visible == pinned)
		return PGR_AGREES;
	return visible ? PGR_NOT_YET_PUBLISHED : PGR_DISAGREES;
}

/* Is all up to this record, the read-th that was read, in both? */
static bool
ends_search(const PgrPublisher *record, uint64 generation, Snapshot snapshot,
			int read)
{
	if (record->generation > generation)
		return false;
	return read % LOOK_AGAIN_AFTER == 0 ?
		all_are_visible(record->highest, snapshot) :
		is_long_over(record->highest, snapshot);
}

/* A3; *n is how many records stand before the last one that was read. */
static PgrAgreement
read_records(uint64 generation, Snapshot snapshot, uint64 *n)
{
	for (int read = 1; *n > 0; read++)
	{
		PgrPublisher record = pgr_publishers->ring[--*n % PGR_PUBLISHERS];
		PgrAgreement agreement = agrees_with(&record, generation, snapshot);

		if (agreement != PGR_AGREES ||
			ends_search(&record, generation, snapshot, read))
			return agreement;
		if (pg_atomic_read_u64(&pgr_publishers->published) - *n >=
			PGR_PUBLISHERS)
			return PGR_DISAGREES;
	}
	return PGR_AGREES;
}

PgrAgreement
pgr_publishers_agree(uint64 generation, Snapshot snapshot)
{
	PgrAgreement agreement;
	uint64 n;

	if (snapshot->snapshot_type != SNAPSHOT_MVCC ||
		snapshot->takenDuringRecovery)
		return PGR_DISAGREES;
	if (sees_a_committer(snapshot))
		return PGR_NOT_YET_PUBLISHED;
	pg_read_barrier(); /* A2, pairs with W4 */
	n = pg_atomic_read_u64(&pgr_publishers->published);
	pg_read_barrier();
	agreement = read_records(generation, snapshot, &n);
	pg_read_barrier(); /* A4 */
	if (pg_atomic_read_u64(&pgr_publishers->published) - n >= PGR_PUBLISHERS)
		return PGR_DISAGREES;
	return agreement;
}
