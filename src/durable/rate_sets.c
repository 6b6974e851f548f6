/*
 * durable/rate_sets.c
 *	  See rate_sets.h: the reading side.
 */
#include "postgres.h"

#include "access/genam.h"
#include "access/htup_details.h"
#include "access/table.h"
#include "access/tableam.h"
#include "access/xlog.h"
#include "catalog/pg_type.h"
#include "miscadmin.h"
#include "utils/builtins.h"
#include "utils/fmgroids.h"
#include "utils/rel.h"
#include "utils/snapmgr.h"

#include "base/compat.h"
#include "base/mask.h"
#include "durable/rate_sets.h"
#include "durable/tables.h"
#include "registry/write.h"
#include "settings.h"

/* Columns of _registry.rate_sets. */
enum RateSetColumn
{
	SET_ID = 1,
	SET_SOURCE,
	SET_BASE,
	SET_VALUE_DATE,
	SET_FETCHED_AT,
	SET_PUBLISHED_AT,
	SET_BODY_HASH,
	SET_STATUS,
	SET_REASON,
	SET_COLUMNS = SET_REASON
};

static const Oid set_types[SET_COLUMNS] = {
	INT8OID,        TEXTOID,  TEXTOID, DATEOID, TIMESTAMPTZOID,
	TIMESTAMPTZOID, BYTEAOID, TEXTOID, TEXTOID,
};

/* Columns of _registry.rate_set_values. */
enum RateColumn
{
	RATE_SET = 1,
	RATE_CURRENCY,
	RATE_RATE,
	RATE_COLUMNS = RATE_RATE
};

static const Oid rate_types[RATE_COLUMNS] = {INT8OID, TEXTOID, NUMERICOID};

/* ------------------------------------------------------------------------
 * Scans
 * ------------------------------------------------------------------------
 */

typedef struct Scan
{
	Relation table;
	Relation index;
	Snapshot snapshot;
	SysScanDesc scan;
} Scan;

static void
begin_scan(Scan *scan, bool sets, const char *index, PgrTableView view,
		   int nkeys, ScanKeyData *keys)
{
	const char *table = sets ? "rate_sets" : "rate_set_values";
	Oid oid = pgr_tables_named(table);

	if (!OidIsValid(oid))
		pgr_tables_missing();
	scan->table = table_open(oid, AccessShareLock);
	pgr_tables_check_columns(scan->table, sets ? set_types : rate_types,
							 sets ? SET_COLUMNS : RATE_COLUMNS);
	oid = index ? pgr_tables_named(index) :
				  RelationGetPrimaryKeyIndex(scan->table);
	if (!OidIsValid(oid))
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("table \"%s.%s\" has lost an index", PGR_TABLE_SCHEMA,
						table)));
	scan->index = index_open(oid, AccessShareLock);
	scan->snapshot = pgr_tables_snapshot(view);
	scan->scan = systable_beginscan_ordered(scan->table, scan->index,
											scan->snapshot, nkeys, keys);
}

static HeapTuple
next_row(Scan *scan, ScanDirection direction)
{
	return systable_getnext_ordered(scan->scan, direction);
}

static void
end_scan(Scan *scan)
{
	systable_endscan_ordered(scan->scan);
	UnregisterSnapshot(scan->snapshot);
	index_close(scan->index, AccessShareLock);
	table_close(scan->table, AccessShareLock);
}

static Datum
column(HeapTuple tuple, TupleDesc desc, int number)
{
	bool isnull;
	Datum value = heap_getattr(tuple, number, desc, &isnull);

	if (isnull)
		elog(ERROR, "column %d of a rate set is null", number);
	return value;
}

/* ------------------------------------------------------------------------
 * Sets
 * ------------------------------------------------------------------------
 */

static PgrRateSetStatus
status_from_text(const char *name)
{
	if (strcmp(name, "published") == 0)
		return PGR_RATE_SET_PUBLISHED;
	return strcmp(name, "quarantined") == 0 ? PGR_RATE_SET_QUARANTINED :
											  PGR_RATE_SET_WITHDRAWN;
}

static void
read_hash(PgrRateSetRow *row, Datum datum)
{
	bytea *hash = DatumGetByteaPP(datum);

	memset(row->hash, 0, sizeof(row->hash));
	memcpy(row->hash, VARDATA_ANY(hash),
		   Min(VARSIZE_ANY_EXHDR(hash), sizeof(row->hash)));
}

static void
read_set(PgrRateSetRow *row, HeapTuple tuple, TupleDesc desc)
{
	PgrRateSet *set = &row->set;
	bool isnull;
	Datum at = heap_getattr(tuple, SET_PUBLISHED_AT, desc, &isnull);

	memset(row, 0, sizeof(*row));
	set->rate_set = DatumGetInt64(column(tuple, desc, SET_ID));
	set->source = TextDatumGetCString(column(tuple, desc, SET_SOURCE));
	strlcpy(set->base, TextDatumGetCString(column(tuple, desc, SET_BASE)),
			sizeof(set->base));
	set->value_date = DatumGetDateADT(column(tuple, desc, SET_VALUE_DATE));
	set->fetched_at = DatumGetTimestampTz(column(tuple, desc, SET_FETCHED_AT));
	set->published_at = isnull ? 0 : DatumGetTimestampTz(at);
	set->manual = strcmp(set->source, PGR_RATES_BY_HAND) == 0;
	row->status = status_from_text(
		TextDatumGetCString(column(tuple, desc, SET_STATUS)));
	read_hash(row, column(tuple, desc, SET_BODY_HASH));
	(void) heap_getattr(tuple, SET_REASON, desc, &isnull);
	row->was_held_back = !isnull;
}

/* The first row of the scan in that direction. */
static bool
first_set(const char *index, PgrTableView view, int nkeys, ScanKeyData *keys,
		  ScanDirection direction, PgrRateSetRow *row)
{
	Scan scan;
	HeapTuple tuple;

	begin_scan(&scan, true, index, view, nkeys, keys);
	tuple = next_row(&scan, direction);
	if (HeapTupleIsValid(tuple))
		read_set(row, tuple, RelationGetDescr(scan.table));
	end_scan(&scan);
	return HeapTupleIsValid(tuple);
}

bool
pgr_rate_sets_find(int64 id, PgrTableView view, PgrRateSetRow *row)
{
	ScanKeyData key;

	ScanKeyInit(&key, SET_ID, BTEqualStrategyNumber, F_INT8EQ,
				Int64GetDatum(id));
	return first_set(NULL, view, 1, &key, ForwardScanDirection, row);
}

bool
pgr_rate_sets_newest(PgrTableView view, PgrRateSetRow *row)
{
	return first_set("rate_sets_by_publication", view, 0, NULL,
					 BackwardScanDirection, row);
}

bool
pgr_rate_sets_last(PgrTableView view, PgrRateSetRow *row)
{
	return first_set(NULL, view, 0, NULL, BackwardScanDirection, row);
}

bool
pgr_rate_sets_on_date(DateADT date, PgrTableView view, PgrRateSetRow *row)
{
	ScanKeyData key;

	ScanKeyInit(&key, SET_VALUE_DATE, BTLessEqualStrategyNumber, F_DATE_LE,
				DateADTGetDatum(date));
	return first_set("rate_sets_by_date", view, 1, &key, BackwardScanDirection,
					 row);
}

bool
pgr_rate_sets_oldest(PgrTableView view, PgrRateSetRow *row)
{
	return first_set("rate_sets_by_date", view, 0, NULL, ForwardScanDirection,
					 row);
}

/* ------------------------------------------------------------------------
 * Rates
 * ------------------------------------------------------------------------
 */

static void
read_rate(PgrRate *rate, HeapTuple tuple, TupleDesc desc)
{
	strlcpy(rate->code,
			TextDatumGetCString(column(tuple, desc, RATE_CURRENCY)),
			sizeof(rate->code));
	rate->value = DatumGetNumericCopy(column(tuple, desc, RATE_RATE));
}

void
pgr_rate_sets_read_rates(PgrRateSet *set, PgrTableView view)
{
	int capacity = 64;
	Scan scan;
	ScanKeyData key;
	HeapTuple tuple;

	ScanKeyInit(&key, RATE_SET, BTEqualStrategyNumber, F_INT8EQ,
				Int64GetDatum(set->rate_set));
	set->nrates = 0;
	set->rates = palloc(capacity * sizeof(PgrRate));
	begin_scan(&scan, false, NULL, view, 1, &key);
	while (HeapTupleIsValid(tuple = next_row(&scan, ForwardScanDirection)))
	{
		CHECK_FOR_INTERRUPTS();
		if (set->nrates == capacity)
		{
			capacity *= 2;
			set->rates = repalloc(set->rates, capacity * sizeof(PgrRate));
		}
		read_rate(&set->rates[set->nrates++], tuple,
				  RelationGetDescr(scan.table));
	}
	end_scan(&scan);
}

/* ------------------------------------------------------------------------
 * For the image
 * ------------------------------------------------------------------------
 */

static bool
tables_exist(void)
{
	return OidIsValid(pgr_tables_named("rate_sets"));
}

/*
 * The newest published set, with its rates, and what must not come again.  Its
 * time of publication is the moment until which the database has judged what
 * was fetched.  False if there never was a set; without a base, if none of
 * them is published.
 */
static bool
read_newest(PgrTableView view, PgrRateSetRow *row)
{
	PgrRateSetRow last;

	if (!pgr_rate_sets_last(view, &last))
		return false;
	if (pgr_rate_sets_newest(view, row))
	{
		pgr_rate_sets_read_rates(&row->set, view);
		if (row->set.nrates == 0) /* a restore is at it */
			return false;
	}
	else
		memset(row, 0, sizeof(*row));
	row->set.published_at = Max(row->set.published_at, last.set.fetched_at);
	if (last.status == PGR_RATE_SET_WITHDRAWN)
	{
		pgr_rate_sets_read_rates(&last.set, view);
		row->set.refused = pgr_rates_identity(&last.set);
	}
	return true;
}

const PgrBlock *
pgr_rate_sets_block(PgrTableView view)
{
	PgrRateSetRow newest;

	if (!tables_exist() || !read_newest(view, &newest))
		return NULL;
	return pgr_rates_private_block(&newest.set, CurrentMemoryContext);
}

int64
pgr_rate_sets_row_of(const PgrRatesInfo *info, PgrTableView view)
{
	PgrRateSetRow newest;

	return tables_exist() && pgr_rate_sets_newest(view, &newest) &&
			newest.set.value_date == info->value_date &&
			newest.set.published_at >= info->fetched_at &&
			strcmp(newest.set.base, info->base) == 0 &&
			strcmp(newest.set.source, info->source) == 0 ?
		newest.set.rate_set :
		0;
}

static void
make_own(PgrRateSet *set)
{
	PgrDefinition definition;

	pgr_write_open_rates(&definition);
	pgr_rates_replace(&definition, set);
}

/* Was it fetched from where rates are fetched now, and found good? */
static bool
is_of_cluster(const PgrRateSetRow *row)
{
	char source[PGR_RATES_SOURCE_LEN];

	pgr_mask_url(source, sizeof(source), pgr_settings.rates_url);
	return row->set.base[0] != '\0' && !row->set.manual &&
		!row->was_held_back && strcmp(row->set.source, source) == 0;
}

/* The image gets what the table has. */
static void
load_stored(PgrRateSetRow *newest)
{
	if (is_of_cluster(newest))
		(void) pgr_rates_publish_stored(&newest->set);
	if (!pgr_rates_are_served(&newest->set))
		make_own(&newest->set);
}

/* The table gets what was fetched, unless it has withdrawn just that. */
static void
store_fetched(PgrRateSet *fetched, PgrRateSetRow *newest, bool any)
{
	if (any && pgr_rate_sets_was_withdrawn(fetched))
	{
		newest->set.published_at = GetCurrentTimestamp();
		make_own(&newest->set);
		return;
	}
	pgr_rate_sets_publish(fetched, NULL);
	if (pgr_rates_has_own())
		make_own(fetched);
}

static void
load_newest(void)
{
	PgrRateSetRow newest;
	PgrRateSet fetched;
	bool any = read_newest(PGR_VIEW_NEWEST, &newest);

	if (pgr_rates_copy_fetched(&fetched) &&
		(!any || newest.set.published_at < fetched.fetched_at))
		store_fetched(&fetched, &newest, any);
	else if (any)
		load_stored(&newest);
}

/*
 * A set that is too far from what the other databases have may be near to what
 * somebody has accepted or set in this one.
 */
static bool
is_near_to_own(const PgrRateSet *held)
{
	PgrRateSetRow newest;

	return read_newest(PGR_VIEW_NEWEST, &newest) &&
		newest.set.base[0] != '\0' && !is_of_cluster(&newest) &&
		!pgr_rates_are_far(&newest.set, held);
}

/* What was added or withdrawn since then makes it out of date. */
static void
store_quarantined(void)
{
	char message[PGR_RATES_MESSAGE_LEN];
	PgrRateSetRow last;
	PgrRateSet held;

	if (!pgr_rates_copy_quarantined(&held, message) ||
		(pgr_rate_sets_last(PGR_VIEW_NEWEST, &last) &&
		 last.set.fetched_at >= held.fetched_at))
		return;
	if (!is_near_to_own(&held))
	{
		pgr_rate_sets_quarantine(&held, message);
		return;
	}
	pgr_rate_sets_publish(&held, message);
	make_own(&held);
}

bool
pgr_rate_sets_load(bool wait)
{
	/* a standby reads its table until somebody publishes there */
	if (RecoveryInProgress() || !tables_exist())
		return true;
	if (!pgr_write_lock_rates(wait))
		return false;
	load_newest();
	store_quarantined();
	return true;
}
