/*
 * durable/tables.c
 *	  See tables.h: the reading side.
 *
 * Scans of our own, with a snapshot that the caller's view names, and without
 * SPI: they run wherever a read of a registry does, below the executor, in
 * parallel workers and during recovery, as whatever role it is.
 */
#include "postgres.h"

#include "access/genam.h"
#include "access/htup_details.h"
#include "access/table.h"
#include "access/xact.h"
#include "catalog/namespace.h"
#include "catalog/pg_authid.h"
#include "catalog/pg_collation.h"
#include "catalog/pg_type.h"
#include "miscadmin.h"
#include "utils/builtins.h"
#include "utils/fmgroids.h"
#include "utils/lsyscache.h"
#include "utils/rel.h"
#include "utils/snapmgr.h"
#include "utils/syscache.h"
#include "utils/timestamp.h"

#include "base/compat.h"
#include "durable/changes.h"
#include "durable/rate_sets.h"
#include "durable/tables.h"
#include "registry/access.h"
#include "registry/directory.h"
#include "registry/stale.h"

/* ------------------------------------------------------------------------
 * Where they are
 * ------------------------------------------------------------------------
 */

Oid
pgr_tables_named(const char *name)
{
	Oid schema = get_namespace_oid(PGR_TABLE_SCHEMA, true);

	if (!OidIsValid(schema) || !OidIsValid(pgr_directory_extension()))
		return InvalidOid;
	return get_relname_relid(name, schema);
}

Oid
pgr_tables_definitions(void)
{
	return pgr_tables_named("definitions");
}

Oid
pgr_tables_entries(void)
{
	return pgr_tables_named("stored_entries");
}

Oid
pgr_tables_grants(void)
{
	return pgr_tables_named("grants");
}

Oid
pgr_tables_changes(void)
{
	return pgr_tables_named("changes");
}

void
pgr_tables_missing(void)
{
	ereport(ERROR,
			(errcode(ERRCODE_UNDEFINED_TABLE),
			 errmsg("the tables of extension \"pg_registry\" are missing"),
			 errhint("If the extension was installed by an older version, run ALTER EXTENSION pg_registry UPDATE.")));
}

/* The types of the columns that this library knows; there may be more. */
static const Oid definition_types[] = {
	TEXTOID, TEXTOID, TEXTOID, BOOLOID, INTERVALOID,
	TEXTOID, BOOLOID, TEXTOID, OIDOID,  TIMESTAMPTZOID,
};
static const Oid entry_types[] = {
	TEXTOID, TEXTOID, TEXTOID, TIMESTAMPTZOID, TIMESTAMPTZOID,
};

static const Oid grant_types[] = {TEXTOID, TEXTOID, TEXTOID, OIDOID};

static const struct
{
	const Oid *types;
	int n;
} columns_of[] = {
	[PGR_OF_DEFINITIONS] = {definition_types, lengthof(definition_types)},
	[PGR_OF_ENTRIES] = {entry_types, lengthof(entry_types)},
	[PGR_OF_GRANTS] = {grant_types, lengthof(grant_types)},
};

static bool
has_columns(TupleDesc desc, const Oid *types, int n)
{
	if (desc->natts < n)
		return false;
	for (int i = 0; i < n; i++)
		if (TupleDescAttr(desc, i)->atttypid != types[i])
			return false;
	return true;
}

void
pgr_tables_check(Relation relation, PgrRowKind kind)
{
	pgr_tables_check_columns(relation, columns_of[kind].types,
							 columns_of[kind].n);
}

void
pgr_tables_check_columns(Relation relation, const Oid *types, int n)
{
	if (relation->rd_rel->relkind == RELKIND_RELATION &&
		has_columns(RelationGetDescr(relation), types, n))
		return;
	ereport(ERROR,
			(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
			 errmsg("table \"%s.%s\" is not what this version of pg_registry expects",
					PGR_TABLE_SCHEMA, RelationGetRelationName(relation)),
			 errhint("Run ALTER EXTENSION pg_registry UPDATE, and restart the server if its library is the older one.")));
}

/* ------------------------------------------------------------------------
 * Rows
 * ------------------------------------------------------------------------
 */

static Datum
column(HeapTuple tuple, TupleDesc desc, int number)
{
	bool isnull;
	Datum value = heap_getattr(tuple, number, desc, &isnull);

	if (isnull)
		elog(ERROR, "column %d of a table of pg_registry is null", number);
	return value;
}

/* A longer name is no role's: the empty one is not, either. */
static void
set_role_name(char role[PGR_ROLE_LEN], const char *name)
{
	if (strlen(name) < PGR_ROLE_LEN)
		strlcpy(role, name, PGR_ROLE_LEN);
}

static void
set_name(PgrDefinition *definition, const char *name)
{
	Size len = strlen(name);

	if (len == 0 || len >= PGR_NAME_LEN)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_NAME),
				 errmsg("a registry name of %zu bytes is not possible", len),
				 errdetail("Names have 1 to %d bytes.", PGR_NAME_LEN - 1)));
	definition->name_len = (uint16) len;
	memcpy(definition->name, name, len);
}

static uint8
value_type(const char *name)
{
	PgrValueType type;

	if (!pgr_value_type_from_name(name, &type))
		ereport(ERROR,
				(errcode(ERRCODE_FEATURE_NOT_SUPPORTED),
				 errmsg("a registry cannot hold values of type %s", name)));
	return (uint8) type;
}

void
pgr_tables_read_definition(HeapTuple tuple, TupleDesc desc,
						   PgrDefinition *definition)
{
	bool no_max_age;
	Datum max_age = heap_getattr(tuple, PGR_DEF_MAX_AGE, desc, &no_max_age);

	memset(definition, 0, sizeof(*definition));
	definition->kind = PGR_BLOCK_REGISTRY;
	definition->database = MyDatabaseId;
	definition->extension = pgr_directory_extension();
	set_name(definition,
			 TextDatumGetCString(column(tuple, desc, PGR_DEF_NAME)));
	definition->value_type = value_type(
		TextDatumGetCString(column(tuple, desc, PGR_DEF_VALUE_TYPE)));
	definition->durable = DatumGetBool(column(tuple, desc, PGR_DEF_DURABLE));
	definition->residency = definition->durable ? PGR_FROM_TABLE : PGR_LOST;
	if (!no_max_age)
		definition->max_age_us = pgr_max_age_from_interval(
			DatumGetIntervalP(max_age));
	definition->on_stale = pgr_on_stale_from_text(
		TextDatumGetCString(column(tuple, desc, PGR_DEF_ON_STALE)));
	definition->owner = DatumGetObjectId(
		column(tuple, desc, PGR_DEF_OWNER_OID));
	set_role_name(definition->owner_name,
				  TextDatumGetCString(column(tuple, desc, PGR_DEF_OWNER)));
	definition->created_at = DatumGetTimestampTz(
		column(tuple, desc, PGR_DEF_CREATED_AT));
}

static PgrText
text_column(HeapTuple tuple, TupleDesc desc, int number)
{
	return pgr_text(column(tuple, desc, number));
}

/* 0 is midnight of 2000-01-01 in the table and never elsewhere. */
static TimestampTz
expiry(HeapTuple tuple, TupleDesc desc)
{
	bool isnull;
	Datum value = heap_getattr(tuple, PGR_ENTRY_EXPIRES_AT, desc, &isnull);
	TimestampTz at = isnull ? 0 : DatumGetTimestampTz(value);

	return !isnull && at == 0 ? -1 : at;
}

void
pgr_tables_read_entry(HeapTuple tuple, TupleDesc desc, PgrTableRow *row)
{
	row->registry = text_column(tuple, desc, PGR_ENTRY_REGISTRY);
	row->key = text_column(tuple, desc, PGR_ENTRY_KEY);
	row->value = TextDatumGetCString(column(tuple, desc, PGR_ENTRY_VALUE));
	row->updated_at = DatumGetTimestampTz(
		column(tuple, desc, PGR_ENTRY_UPDATED_AT));
	row->expires_at = expiry(tuple, desc);
}

PgrText
pgr_tables_registry_of_grant(HeapTuple tuple, TupleDesc desc)
{
	return text_column(tuple, desc, PGR_GRANT_REGISTRY);
}

static void
read_grant(HeapTuple tuple, TupleDesc desc, PgrGrant *grant)
{
	PgrPrivilege privilege;

	memset(grant, 0, sizeof(*grant));
	grant->grantee = DatumGetObjectId(
		column(tuple, desc, PGR_GRANT_GRANTEE_OID));
	if (pgr_access_privilege_from_text(TextDatumGetCString(
										   column(tuple, desc,
												  PGR_GRANT_PRIVILEGE)),
									   &privilege))
		grant->privilege = privilege;
	set_role_name(grant->name,
				  TextDatumGetCString(column(tuple, desc, PGR_GRANT_GRANTEE)));
}

/* ------------------------------------------------------------------------
 * Scans
 * ------------------------------------------------------------------------
 */

Snapshot
pgr_tables_snapshot(PgrTableView view)
{
	Snapshot snapshot;

	if (view == PGR_VIEW_STATEMENT)
		return RegisterSnapshot(ActiveSnapshotSet() ?
									GetActiveSnapshot() :
									GetTransactionSnapshot());
	snapshot = RegisterSnapshot(GetLatestSnapshot());
	/* to one, everything of this transaction has yet to happen; to the other,
	 * what the current command does has happened, too */
	snapshot->curcid = view == PGR_VIEW_COMMITTED ?
		FirstCommandId :
		GetCurrentCommandId(false) + 1;
	return snapshot;
}

static void
key_is(ScanKeyData *key, int number, PgrText text)
{
	ScanKeyInit(key, (AttrNumber) number, BTEqualStrategyNumber, F_TEXTEQ,
				PointerGetDatum(
					cstring_to_text_with_len(text.data, text.len)));
	key->sk_collation = C_COLLATION_OID;
}

/* The primary key, if it has these columns first and in this order. */
static Oid
index_for(Relation relation, int nkeys, const ScanKeyData *keys)
{
	Oid oid = nkeys > 0 ? RelationGetPrimaryKeyIndex(relation) : InvalidOid;
	Relation index;

	if (!OidIsValid(oid))
		return InvalidOid;
	index = index_open(oid, AccessShareLock);
	for (int i = 0; i < nkeys; i++)
		if (i >= IndexRelationGetNumberOfKeyAttributes(index) ||
			index->rd_index->indkey.values[i] != keys[i].sk_attno)
			oid = InvalidOid;
	index_close(index, AccessShareLock);
	return oid;
}

/* Called for each tuple; false ends the scan. */
typedef bool (*VisitTuple)(HeapTuple tuple, TupleDesc desc, void *arg);

static void
scan_table(Oid table, PgrRowKind kind, PgrTableView view, int nkeys,
		   ScanKeyData *keys, VisitTuple visit, void *arg)
{
	Relation relation = table_open(table, AccessShareLock);
	Oid index = index_for(relation, nkeys, keys);
	Snapshot snapshot;
	SysScanDesc scan;
	HeapTuple tuple;

	pgr_tables_check(relation, kind);
	snapshot = pgr_tables_snapshot(view);
	scan = systable_beginscan(relation, index, OidIsValid(index), snapshot,
							  nkeys, keys);

	while (HeapTupleIsValid(tuple = systable_getnext(scan)))
		if (!visit(tuple, RelationGetDescr(relation), arg))
			break;
	systable_endscan(scan);
	UnregisterSnapshot(snapshot);
	table_close(relation, AccessShareLock);
}

static bool
take_definition(HeapTuple tuple, TupleDesc desc, void *arg)
{
	PgrDefinition *definition = arg;

	pgr_tables_read_definition(tuple, desc, definition);
	return false;
}

static bool
find_definition(PgrText name, PgrTableView view, PgrDefinition *definition)
{
	Oid table = pgr_tables_definitions();
	ScanKeyData key;

	definition->name_len = 0;
	if (!OidIsValid(table))
		return false;
	key_is(&key, PGR_DEF_NAME, name);
	scan_table(table, PGR_OF_DEFINITIONS, view, 1, &key, take_definition,
			   definition);
	return definition->name_len > 0;
}

bool
pgr_tables_have_definitions(PgrTableView view)
{
	Oid table = pgr_tables_definitions();
	PgrDefinition any = {.name_len = 0};

	if (OidIsValid(table))
		scan_table(table, PGR_OF_DEFINITIONS, view, 0, NULL, take_definition,
				   &any);
	return any.name_len > 0;
}

typedef struct DefinitionVisit
{
	void (*visit)(const PgrDefinition *definition, void *arg);
	void *arg;
} DefinitionVisit;

static bool
visit_definition(HeapTuple tuple, TupleDesc desc, void *arg)
{
	DefinitionVisit *visit = arg;
	PgrDefinition definition;

	CHECK_FOR_INTERRUPTS();
	pgr_tables_read_definition(tuple, desc, &definition);
	visit->visit(&definition, visit->arg);
	return true;
}

static void
each_definition(PgrTableView view,
				void (*visit)(const PgrDefinition *definition, void *arg),
				void *arg)
{
	Oid table = pgr_tables_definitions();
	DefinitionVisit each = {visit, arg};

	if (OidIsValid(table))
		scan_table(table, PGR_OF_DEFINITIONS, view, 0, NULL, visit_definition,
				   &each);
}

typedef struct EntryFound
{
	PgrTableRow *row;
	bool found;
} EntryFound;

static bool
take_entry(HeapTuple tuple, TupleDesc desc, void *arg)
{
	EntryFound *found = arg;

	/* the value is a copy; nobody needs the key that he has asked for */
	pgr_tables_read_entry(tuple, desc, found->row);
	found->row->key.len = found->row->registry.len = 0;
	found->found = true;
	return false;
}

static bool
find_entry(PgrText registry, PgrText key, PgrTableView view, PgrTableRow *row)
{
	Oid table = pgr_tables_entries();
	EntryFound found = {row, false};
	ScanKeyData keys[2];

	/* renamed, perhaps; that is no answer */
	if (!OidIsValid(table))
		pgr_tables_missing();
	if (key.len == 0)
		return false;
	key_is(&keys[0], PGR_ENTRY_REGISTRY, registry);
	key_is(&keys[1], PGR_ENTRY_KEY, key);
	scan_table(table, PGR_OF_ENTRIES, view, 2, keys, take_entry, &found);
	return found.found;
}

typedef struct EntryVisit
{
	void (*visit)(const PgrTableRow *row, void *arg);
	void *arg;
} EntryVisit;

static bool
visit_entry(HeapTuple tuple, TupleDesc desc, void *arg)
{
	EntryVisit *visit = arg;
	PgrTableRow row;

	CHECK_FOR_INTERRUPTS();
	pgr_tables_read_entry(tuple, desc, &row);
	visit->visit(&row, visit->arg);
	pfree(row.value);
	return true;
}

static void
scan_entries(PgrText registry, PgrTableView view,
			 void (*visit)(const PgrTableRow *row, void *arg), void *arg)
{
	Oid table = pgr_tables_entries();
	EntryVisit each = {visit, arg};
	ScanKeyData key;

	if (!OidIsValid(table))
		pgr_tables_missing();
	key_is(&key, PGR_ENTRY_REGISTRY, registry);
	scan_table(table, PGR_OF_ENTRIES, view, 1, &key, visit_entry, &each);
}

typedef struct EntryVisitUntil
{
	bool (*visit)(const PgrTableRow *row, void *arg);
	void *arg;
} EntryVisitUntil;

static bool
visit_entry_until(HeapTuple tuple, TupleDesc desc, void *arg)
{
	EntryVisitUntil *visit = arg;
	PgrTableRow row;
	bool more;

	CHECK_FOR_INTERRUPTS();
	pgr_tables_read_entry(tuple, desc, &row);
	more = visit->visit(&row, visit->arg);
	pfree(row.value);
	return more;
}

static bool
has_index_for(Oid table, int nkeys, const ScanKeyData *keys)
{
	Relation relation = table_open(table, AccessShareLock);
	Oid index = index_for(relation, nkeys, keys);

	table_close(relation, AccessShareLock);
	return OidIsValid(index);
}

static bool
scan_entries_after(PgrText registry, const PgrText *after, PgrTableView view,
				   bool (*visit)(const PgrTableRow *row, void *arg), void *arg)
{
	Oid table = pgr_tables_entries();
	EntryVisitUntil each = {visit, arg};
	PgrText anything = {"", 0};
	ScanKeyData keys[2];

	if (!OidIsValid(table))
		pgr_tables_missing();
	key_is(&keys[0], PGR_ENTRY_REGISTRY, registry);
	key_is(&keys[1], PGR_ENTRY_KEY, after ? *after : anything);
	keys[1].sk_strategy = BTGreaterStrategyNumber;
	fmgr_info(F_TEXT_GT, &keys[1].sk_func);
	if (!has_index_for(table, 2, keys))
		return false;
	scan_table(table, PGR_OF_ENTRIES, view, after ? 2 : 1, keys,
			   visit_entry_until, &each);
	return true;
}

bool
pgr_tables_have_entries(PgrText name, PgrTableView view)
{
	Oid table = pgr_tables_entries();
	PgrTableRow row;
	EntryFound found = {&row, false};
	ScanKeyData key;

	if (!OidIsValid(table))
		return false;
	key_is(&key, PGR_ENTRY_REGISTRY, name);
	scan_table(table, PGR_OF_ENTRIES, view, 1, &key, take_entry, &found);
	return found.found;
}

typedef struct GrantList
{
	PgrGrant *list;
	int n;
	int capacity;
} GrantList;

static bool
collect_grant(HeapTuple tuple, TupleDesc desc, void *arg)
{
	GrantList *grants = arg;

	if (grants->n == grants->capacity)
	{
		grants->capacity *= 2;
		grants->list = repalloc_huge(grants->list,
									 grants->capacity * sizeof(PgrGrant));
	}
	read_grant(tuple, desc, &grants->list[grants->n++]);
	return true;
}

/* In the order of the primary key. */
static PgrGrant *
list_grants(PgrText registry, PgrTableView view, int *n)
{
	Oid table = pgr_tables_grants();
	GrantList grants = {.capacity = 8};
	ScanKeyData key;

	grants.list = palloc(grants.capacity * sizeof(PgrGrant));
	key_is(&key, PGR_GRANT_REGISTRY, registry);
	if (OidIsValid(table))
		scan_table(table, PGR_OF_GRANTS, view, 1, &key, collect_grant,
				   &grants);
	*n = grants.n;
	return grants.list;
}

const PgrTable pgr_tables = {
	.definition = find_definition,
	.each_definition = each_definition,
	.find = find_entry,
	.scan = scan_entries,
	.scan_after = scan_entries_after,
	.grants = list_grants,
	.rates = pgr_rate_sets_block,
	.rate_set = pgr_rate_sets_row_of,
	.log_changes = pgr_changes_write,
};
