/*
 * durable/changes.c
 *	  See changes.h.  Writing runs in backends; reading on standbys.
 */
#include "postgres.h"

#include "access/genam.h"
#include "access/heapam.h"
#include "access/htup_details.h"
#include "access/table.h"
#include "access/tableam.h"
#include "access/xact.h"
#include "access/xlog.h"
#include "catalog/index.h"
#include "catalog/pg_extension.h"
#include "catalog/pg_type.h"
#include "commands/trigger.h"
#include "fmgr.h"
#include "miscadmin.h"
#include "storage/lock.h"
#include "storage/proc.h"
#include "utils/builtins.h"
#include "utils/fmgroids.h"
#include "utils/rel.h"
#include "utils/snapmgr.h"
#include "utils/timestamp.h"
#include "utils/xid8.h"

#include "base/compat.h"
#include "durable/changes.h"
#include "durable/tables.h"
#include "registry/write.h"
#include "shm/follow_state.h"

/* With more keys than this it pays to read the registry as a whole. */
#define MAX_KEYS 1000

/* Old rows are looked for once in so many writes of a backend. */
#define PRUNE_EVERY 256
#define PRUNE_AT_ONCE 1024

PG_FUNCTION_INFO_V1(pgr_sql_changes_trigger);

/* Below the executor, where we write, no trigger fires. */
Datum
pgr_sql_changes_trigger(PG_FUNCTION_ARGS)
{
	if (!CALLED_AS_TRIGGER(fcinfo))
		ereport(ERROR,
				(errcode(ERRCODE_E_R_I_E_TRIGGER_PROTOCOL_VIOLATED),
				 errmsg("this function can be called as a trigger only")));
	return PointerGetDatum(NULL);
}

/* ------------------------------------------------------------------------
 * Writing
 * ------------------------------------------------------------------------
 */

static Datum
text_datum(PgrText text)
{
	return PointerGetDatum(
		cstring_to_text_with_len(text.data, (int) text.len));
}

static Datum
keys_datum(const PgrChange *changes, int n)
{
	Datum *keys = palloc(n * sizeof(Datum));

	for (int i = 0; i < n; i++)
	{
		PgrText key = {changes[i].key, changes[i].key_len};

		keys[i] = text_datum(key);
	}
	return PointerGetDatum(
		construct_array(keys, n, TEXTOID, -1, false, TYPALIGN_INT));
}

/* Whatever else somebody has made: that of written_by. */
static Relation
open_index(Relation relation, LOCKMODE mode)
{
	ListCell *cell;

	foreach (cell, RelationGetIndexList(relation))
	{
		Relation index = index_open(lfirst_oid(cell), mode);

		if (index->rd_index->indisvalid &&
			index->rd_index->indkey.values[0] == PGR_CHANGES_WRITTEN_BY)
			return index;
		index_close(index, mode);
	}
	ereport(ERROR,
			(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
			 errmsg("table \"%s.%s\" has lost its index", PGR_TABLE_SCHEMA,
					RelationGetRelationName(relation))));
}

/* There can be two of them for a while, when one is made anew. */
static void
insert_index_entry(Relation relation, Oid oid, HeapTuple tuple, Datum *values,
				   bool *nulls)
{
	Relation index = index_open(oid, RowExclusiveLock);
	IndexInfo *info = BuildIndexInfo(index);
	Datum index_values[INDEX_MAX_KEYS];
	bool index_nulls[INDEX_MAX_KEYS];

	if (info->ii_Expressions != NIL || info->ii_Predicate != NIL)
		ereport(ERROR,
				(errcode(ERRCODE_FEATURE_NOT_SUPPORTED),
				 errmsg("table \"%s.%s\" cannot have the index \"%s\"",
						PGR_TABLE_SCHEMA, RelationGetRelationName(relation),
						RelationGetRelationName(index))));
	for (int i = 0; i < info->ii_NumIndexAttrs; i++)
	{
		index_values[i] = values[info->ii_IndexAttrNumbers[i] - 1];
		index_nulls[i] = nulls[info->ii_IndexAttrNumbers[i] - 1];
	}
	if (info->ii_ReadyForInserts)
		(void) index_insert(index, index_values, index_nulls, &tuple->t_self,
							relation, UNIQUE_CHECK_NO, false, info);
	index_close(index, NoLock);
}

/*
 * As catalogs are written, below the executor: a put() of one key pays for
 * this.
 */
static void
insert_row(Relation relation, PgrText registry, Datum keys)
{
	Datum values[PGR_CHANGES_COLUMNS];
	bool nulls[PGR_CHANGES_COLUMNS] = {false};
	HeapTuple tuple;
	ListCell *cell;

	values[PGR_CHANGES_WRITTEN_BY - 1] = FullTransactionIdGetDatum(
		GetTopFullTransactionId());
	values[PGR_CHANGES_REGISTRY - 1] = text_datum(registry);
	values[PGR_CHANGES_KEYS - 1] = keys;
	nulls[PGR_CHANGES_KEYS - 1] = keys == (Datum) 0;
	tuple = heap_form_tuple(RelationGetDescr(relation), values, nulls);
	simple_heap_insert(relation, tuple);
	foreach (cell, RelationGetIndexList(relation))
	{
		insert_index_entry(relation, lfirst_oid(cell), tuple, values, nulls);
	}
}

/* ------------------------------------------------------------------------
 * Pruning
 * ------------------------------------------------------------------------
 */

uint64
pgr_changes_widen(TransactionId xid)
{
	FullTransactionId next = ReadNextFullTransactionId();
	uint64 wide = ((uint64) EpochFromFullTransactionId(next) << 32) | xid;

	return xid > XidFromFullTransactionId(next) ?
		wide - (UINT64CONST(1) << 32) :
		wide;
}

static uint64
oldest_running(void)
{
	return pgr_changes_widen(GetLatestSnapshot()->xmin);
}

static bool
lock_log(void)
{
	LOCKTAG tag;

	/* 67: after what registry/write.c locks */
	SET_LOCKTAG_OBJECT(tag, MyDatabaseId, ExtensionRelationId, 0, 67);
	return LockAcquire(&tag, ExclusiveLock, false, true) !=
		LOCKACQUIRE_NOT_AVAIL;
}

static uint64
written_by(HeapTuple tuple, TupleDesc desc)
{
	bool isnull;

	return U64FromFullTransactionId(DatumGetFullTransactionId(
		heap_getattr(tuple, PGR_CHANGES_WRITTEN_BY, desc, &isnull)));
}

static void
bound(ScanKeyData *key, bool lower, uint64 xid)
{
	ScanKeyInit(key, PGR_CHANGES_WRITTEN_BY,
				lower ? BTGreaterEqualStrategyNumber : BTLessStrategyNumber,
				lower ? F_XID8GE : F_XID8LT,
				FullTransactionIdGetDatum(FullTransactionIdFromU64(xid)));
}

/* Deletes the oldest rows; returns below what none is left, 0 = no change. */
static uint64
delete_below(Relation relation, uint64 horizon)
{
	Relation index = open_index(relation, AccessShareLock);
	Snapshot snapshot = RegisterSnapshot(GetLatestSnapshot());
	TM_FailureData failure;
	uint64 last = 0;
	int n = 0;
	ScanKeyData key;
	SysScanDesc scan;
	HeapTuple tuple;

	bound(&key, false, horizon);
	scan = systable_beginscan_ordered(relation, index, snapshot, 1, &key);
	while (n < PRUNE_AT_ONCE &&
		   HeapTupleIsValid(
			   tuple = systable_getnext_ordered(scan, ForwardScanDirection)))
	{
		last = written_by(tuple, RelationGetDescr(relation));
		/* whoever else deletes it may have it */
		(void) table_tuple_delete(relation, &tuple->t_self,
								  GetCurrentCommandId(true), snapshot,
								  InvalidSnapshot, false, &failure, false);
		n++;
	}
	systable_endscan_ordered(scan);
	UnregisterSnapshot(snapshot);
	index_close(index, AccessShareLock);
	/* other rows of the last transaction may be left */
	return n == PRUNE_AT_ONCE ? last + 1 : n > 0 ? horizon : 0;
}

/* The row that says so is one of the log: followers cannot miss it. */
static void
write_horizon(Relation relation, uint64 horizon)
{
	PgrText nobody = {"", 0};
	char text[32];
	PgrChange number = {.key = text};

	number.key_len = (uint32) snprintf(text, sizeof(text), UINT64_FORMAT,
									   horizon);
	insert_row(relation, nobody, keys_datum(&number, 1));
}

/*
 * In whatever transaction writes, since there is no other process of ours that
 * would connect for it.  Not in serializable ones, whose conflicts would be
 * with everybody who writes the log.
 */
static void
prune(Relation relation)
{
	static uint32 writes = 0;
	uint64 horizon;

	if (writes++ % PRUNE_EVERY != 0 || pgr_follow_state == NULL ||
		IsolationIsSerializable())
		return;
	horizon = pgr_follow_horizon(GetCurrentTransactionStartTimestamp(),
								 oldest_running);
	if (horizon == 0 || !lock_log())
		return;
	horizon = delete_below(relation, horizon);
	if (horizon != 0)
		write_horizon(relation, horizon);
}

/* May a standby replay this? */
static bool
is_needed(void)
{
	return XLogStandbyInfoActive() && !RecoveryInProgress();
}

void
pgr_changes_write(PgrText registry, const PgrChange *changes, int n)
{
	Oid table = is_needed() ? pgr_tables_changes() : InvalidOid;
	bool all = changes == NULL || n > MAX_KEYS;
	Relation relation;

	if (!OidIsValid(table))
		return;
	relation = table_open(table, RowExclusiveLock);
	insert_row(relation, registry, all ? (Datum) 0 : keys_datum(changes, n));
	prune(relation);
	table_close(relation, NoLock);
}

/* What this subtransaction has noted last need not be noted again. */
static void
note(PgrText registry, bool all)
{
	static const PgrChange none = {0};
	static LocalTransactionId transaction = InvalidLocalTransactionId;
	static SubTransactionId subtransaction = InvalidSubTransactionId;
	static char name[PGR_NAME_LEN];
	static uint32 len = 0;
	static bool was_all = false;

	if (registry.len == 0 || registry.len >= PGR_NAME_LEN || !is_needed())
		return;
	if (transaction == PgrLocalTransactionId() &&
		subtransaction == GetCurrentSubTransactionId() && was_all >= all &&
		len == registry.len && memcmp(name, registry.data, len) == 0)
		return;
	pgr_changes_write(registry, all ? NULL : &none, 0);
	transaction = PgrLocalTransactionId();
	subtransaction = GetCurrentSubTransactionId();
	len = registry.len;
	memcpy(name, registry.data, len);
	was_all = all;
}

void
pgr_changes_note(PgrText registry)
{
	note(registry, true);
}

void
pgr_changes_note_grants(PgrText registry)
{
	note(registry, false);
}

/* ------------------------------------------------------------------------
 * Reading
 * ------------------------------------------------------------------------
 */

static void
read_row(HeapTuple tuple, TupleDesc desc, PgrChangesRow *row)
{
	bool isnull;
	Datum keys;

	row->written_by = written_by(tuple, desc);
	row->registry = pgr_text(
		heap_getattr(tuple, PGR_CHANGES_REGISTRY, desc, &isnull));
	keys = heap_getattr(tuple, PGR_CHANGES_KEYS, desc, &isnull);
	row->keys = isnull ? NULL : DatumGetArrayTypeP(keys);
	row->pruned = 0;
	if (row->registry.len == 0 && !isnull)
	{
		Datum *number;
		int n;

		deconstruct_array(row->keys, TEXTOID, -1, false, TYPALIGN_INT, &number,
						  NULL, &n);
		if (n > 0)
			row->pruned = strtoull(TextDatumGetCString(number[0]), NULL, 10);
	}
}

void
pgr_changes_visit(uint64 from, uint64 to,
				  void (*visit)(const PgrChangesRow *row, void *arg),
				  void *arg)
{
	Oid table = pgr_tables_changes();
	Relation relation;
	Relation index;
	ScanKeyData keys[2];
	SysScanDesc scan;
	HeapTuple tuple;

	if (!OidIsValid(table))
		pgr_tables_missing();
	relation = table_open(table, AccessShareLock);
	index = open_index(relation, AccessShareLock);
	bound(&keys[0], true, from);
	bound(&keys[1], false, to);
	scan = systable_beginscan_ordered(relation, index, GetActiveSnapshot(), 2,
									  keys);
	while (HeapTupleIsValid(
		tuple = systable_getnext_ordered(scan, ForwardScanDirection)))
	{
		PgrChangesRow row;

		CHECK_FOR_INTERRUPTS();
		read_row(tuple, RelationGetDescr(relation), &row);
		visit(&row, arg);
	}
	systable_endscan_ordered(scan);
	index_close(index, AccessShareLock);
	table_close(relation, AccessShareLock);
}
