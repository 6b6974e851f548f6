/*
 * durable/rows.c
 *	  See rows.h.
 */
#include "postgres.h"

#include "access/genam.h"
#include "access/sysattr.h"
#include "access/table.h"
#include "access/tableam.h"
#include "access/xact.h"
#include "catalog/pg_collation.h"
#include "executor/executor.h"
#include "storage/lmgr.h"
#include "utils/builtins.h"
#include "utils/fmgroids.h"
#include "utils/rel.h"
#include "utils/snapmgr.h"

#include "base/compat.h"
#include "durable/rows.h"
#include "durable/tables.h"
#include "registry/pending.h"

struct PgrRows
{
	Relation table;
	Relation primary_key; /* one of the opened indexes */
	EState *estate;
	ResultRelInfo *result;
	TupleTableSlot *old;
	TupleTableSlot *new;
	Snapshot snapshot;
	Datum registry;
};

static int
index_column(Relation index, int i)
{
	return index->rd_index->indkey.values[i];
}

/* Of registry and key, in either order. */
static bool
is_key_of_entries(Relation index)
{
	return IndexRelationGetNumberOfKeyAttributes(index) == 2 &&
		index_column(index, 0) + index_column(index, 1) ==
		PGR_ENTRY_REGISTRY + PGR_ENTRY_KEY;
}

static Relation
find_primary_key(const PgrRows *rows)
{
	Oid oid = RelationGetPrimaryKeyIndex(rows->table);
	Relation *indexes = rows->result->ri_IndexRelationDescs;

	for (int i = 0; i < rows->result->ri_NumIndices; i++)
		if (RelationGetRelid(indexes[i]) == oid &&
			is_key_of_entries(indexes[i]))
			return indexes[i];
	ereport(ERROR,
			(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
			 errmsg("table \"%s.%s\" has lost its primary key", PGR_TABLE_SCHEMA,
					RelationGetRelationName(rows->table))));
}

static Datum
text_datum(PgrText text)
{
	return PointerGetDatum(cstring_to_text_with_len(text.data, text.len));
}

/*
 * For ExecInsertIndexTuples: which columns an update changes, so that an index
 * knows that its key is none of them and removes versions of one row first.
 */
static void
describe_update(PgrRows *rows)
{
	RangeTblEntry *entry = makeNode(RangeTblEntry);
	Bitmapset *columns = NULL;

	for (int i = PGR_ENTRY_VALUE; i <= PGR_ENTRY_COLUMNS; i++)
		columns = bms_add_member(columns,
								 i - FirstLowInvalidHeapAttributeNumber);
	entry->rtekind = RTE_RELATION;
	entry->relid = RelationGetRelid(rows->table);
	entry->relkind = rows->table->rd_rel->relkind;
	entry->rellockmode = RowExclusiveLock;
	pgr_init_range_table(rows->estate, entry, columns);
}

PgrRows *
pgr_rows_open(PgrText registry)
{
	PgrRows *rows = palloc0(sizeof(PgrRows));
	Oid table = pgr_tables_entries();

	if (!OidIsValid(table))
		pgr_tables_missing();
	pgr_pending_unlisted();
	rows->table = table_open(table, RowExclusiveLock);
	pgr_tables_check(rows->table, PGR_OF_ENTRIES);
	rows->estate = CreateExecutorState();
	rows->result = makeNode(ResultRelInfo);
	describe_update(rows);
	InitResultRelInfo(rows->result, rows->table, 1, NULL, 0);
	ExecOpenIndices(rows->result, false);
	rows->primary_key = find_primary_key(rows);
	rows->old = table_slot_create(rows->table, NULL);
	rows->new = MakeSingleTupleTableSlot(RelationGetDescr(rows->table),
										 &TTSOpsVirtual);
	rows->snapshot = RegisterSnapshot(GetLatestSnapshot());
	rows->registry = text_datum(registry);
	return rows;
}

/* The row of a key into rows->old. */
static bool
find_row(PgrRows *rows, Datum key)
{
	ScanKeyData keys[2];
	IndexScanDesc scan;
	bool found;

	for (int i = 0; i < 2; i++)
		ScanKeyEntryInitialize(&keys[i], 0, (AttrNumber) (i + 1),
							   BTEqualStrategyNumber, InvalidOid,
							   C_COLLATION_OID, F_TEXTEQ,
							   index_column(rows->primary_key, i) ==
									   PGR_ENTRY_REGISTRY ?
								   rows->registry :
								   key);
	scan = index_beginscan(rows->table, rows->primary_key, rows->snapshot, 2,
						   0);
	index_rescan(scan, keys, 2, NULL, 0);
	found = index_getnext_slot(scan, ForwardScanDirection, rows->old);
	index_endscan(scan);
	return found;
}

static void
refuse_concurrent_change(void)
{
	ereport(ERROR,
			(errcode(ERRCODE_T_R_SERIALIZATION_FAILURE),
			 errmsg("could not serialize access due to concurrent update")));
}

/* As UPDATE does: a row that our snapshot cannot see was changed since. */
static void
refuse_if_newer(const PgrRows *rows)
{
	if (IsolationUsesXactSnapshot() &&
		!table_tuple_satisfies_snapshot(rows->table, rows->old,
										GetTransactionSnapshot()))
		refuse_concurrent_change();
}

/* Under the key's lock only DML that bypasses our trigger gets in between. */
static void
check_result(TM_Result result)
{
	if (result != TM_Ok)
		refuse_concurrent_change();
}

static void
fill_row(PgrRows *rows, Datum key, const char *value, TimestampTz updated_at,
		 TimestampTz expires_at)
{
	TupleTableSlot *slot = rows->new;

	ExecClearTuple(slot);
	/* columns that somebody has added are null */
	memset(slot->tts_isnull, true,
		   (Size) slot->tts_tupleDescriptor->natts * sizeof(bool));
	memset(slot->tts_isnull, false, PGR_ENTRY_COLUMNS * sizeof(bool));
	slot->tts_values[PGR_ENTRY_REGISTRY - 1] = rows->registry;
	slot->tts_values[PGR_ENTRY_KEY - 1] = key;
	slot->tts_values[PGR_ENTRY_VALUE - 1] = CStringGetTextDatum(value);
	slot->tts_values[PGR_ENTRY_UPDATED_AT - 1] = TimestampTzGetDatum(
		updated_at);
	slot->tts_values[PGR_ENTRY_EXPIRES_AT - 1] = TimestampTzGetDatum(
		expires_at);
	slot->tts_isnull[PGR_ENTRY_EXPIRES_AT - 1] = expires_at == 0;
	ExecStoreVirtualTuple(slot);
}

/*
 * The same of a row that has gone since: our snapshot would see it beside the
 * one that we are about to insert.
 */
static void
refuse_if_gone(PgrRows *rows, Datum key)
{
	Snapshot newest = rows->snapshot;
	bool found;

	if (!IsolationUsesXactSnapshot())
		return;
	rows->snapshot = GetTransactionSnapshot();
	found = find_row(rows, key);
	rows->snapshot = newest;
	if (found)
		refuse_concurrent_change();
}

static void
insert_row(PgrRows *rows)
{
	table_tuple_insert(rows->table, rows->new, GetCurrentCommandId(true), 0,
					   NULL);
	pgr_insert_index_tuples(rows->result, rows->new, rows->estate, false);
}

static void
update_row(PgrRows *rows)
{
	LockTupleMode mode;
	PgrUpdateIndexes indexes;
	TM_FailureData failure;

	refuse_if_newer(rows);
	check_result(table_tuple_update(rows->table, &rows->old->tts_tid,
									rows->new, GetCurrentCommandId(true),
									rows->snapshot, InvalidSnapshot, true,
									&failure, &mode, &indexes));
	if (indexes)
		pgr_insert_index_tuples(rows->result, rows->new, rows->estate, true);
}

void
pgr_rows_put(PgrRows *rows, PgrText key, const char *value,
			 TimestampTz updated_at, TimestampTz expires_at)
{
	MemoryContext caller = MemoryContextSwitchTo(
		GetPerTupleMemoryContext(rows->estate));
	Datum key_datum = text_datum(key);

	fill_row(rows, key_datum, value, updated_at, expires_at);
	if (find_row(rows, key_datum))
		update_row(rows);
	else
	{
		refuse_if_gone(rows, key_datum);
		insert_row(rows);
	}
	MemoryContextSwitchTo(caller);
	ResetPerTupleExprContext(rows->estate);
}

bool
pgr_rows_delete(PgrRows *rows, PgrText key, TimestampTz *expires_at)
{
	TM_FailureData failure;
	bool never;
	Datum at;

	if (!find_row(rows, text_datum(key)))
		return false;
	refuse_if_newer(rows);
	at = slot_getattr(rows->old, PGR_ENTRY_EXPIRES_AT, &never);
	*expires_at = never ? 0 : DatumGetTimestampTz(at);
	check_result(table_tuple_delete(rows->table, &rows->old->tts_tid,
									GetCurrentCommandId(true), rows->snapshot,
									InvalidSnapshot, true, &failure, false));
	return true;
}

void
pgr_rows_close(PgrRows *rows)
{
	UnregisterSnapshot(rows->snapshot);
	ExecDropSingleTupleTableSlot(rows->old);
	ExecDropSingleTupleTableSlot(rows->new);
	ExecCloseIndices(rows->result);
	FreeExecutorState(rows->estate);
	table_close(rows->table, NoLock);
	pfree(rows);
	CommandCounterIncrement();
}
