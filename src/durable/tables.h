/*
 * durable/tables.h
 *	  The tables of the extension: where they are, and how their rows look.
 *
 *		_registry.definitions	one row for each registry
 *		_registry.stored_entries	one row for each entry of a durable registry
 *		_registry.grants			one row for each privilege of each grantee
 *		_registry.changes	what standbys are to read anew (changes.h)
 *
 * and, read and written by rate_sets.h,
 *
 *		_registry.rate_sets			one row for each set of exchange rates
 *		_registry.rate_set_values	one row for each rate of a set
 *
 * They are ordinary tables: WAL, crash recovery, dumps and replication are
 * PostgreSQL's own (D-1, D-2).  They are found by name, as a dump finds them.
 */
#ifndef PGR_DURABLE_TABLES_H
#define PGR_DURABLE_TABLES_H

#include "access/htup.h"
#include "access/tupdesc.h"
#include "utils/snapshot.h"
#include "utils/relcache.h"

#include "registry/table.h"

#define PGR_SCHEMA "registry"        /* of functions */
#define PGR_TABLE_SCHEMA "_registry" /* of tables, which a dump has first */

/* Columns of _registry.definitions. */
enum PgrDefinitionColumn
{
	PGR_DEF_NAME = 1,
	PGR_DEF_VALUE_TYPE,
	PGR_DEF_KEYS,
	PGR_DEF_DURABLE,
	PGR_DEF_MAX_AGE,
	PGR_DEF_ON_STALE,
	PGR_DEF_NOTIFY,
	PGR_DEF_OWNER,
	PGR_DEF_OWNER_OID,
	PGR_DEF_CREATED_AT,
	PGR_DEF_COLUMNS = PGR_DEF_CREATED_AT
};

/* Columns of _registry.stored_entries. */
enum PgrEntryColumn
{
	PGR_ENTRY_REGISTRY = 1,
	PGR_ENTRY_KEY,
	PGR_ENTRY_VALUE,
	PGR_ENTRY_UPDATED_AT,
	PGR_ENTRY_EXPIRES_AT,
	PGR_ENTRY_COLUMNS = PGR_ENTRY_EXPIRES_AT
};

/* Columns of _registry.changes. */
enum PgrChangesColumn
{
	PGR_CHANGES_WRITTEN_BY = 1,
	PGR_CHANGES_REGISTRY,
	PGR_CHANGES_KEYS,
	PGR_CHANGES_COLUMNS = PGR_CHANGES_KEYS
};

/* Columns of _registry.grants that we read. */
enum PgrGrantColumn
{
	PGR_GRANT_REGISTRY = 1,
	PGR_GRANT_PRIVILEGE,
	PGR_GRANT_GRANTEE,
	PGR_GRANT_GRANTEE_OID
};

/* 0 if the extension is not installed here. */
extern Oid pgr_tables_named(const char *name); /* or an index */
extern Oid pgr_tables_definitions(void);
extern Oid pgr_tables_entries(void);
extern Oid pgr_tables_grants(void);
extern Oid pgr_tables_changes(void);

/* ERROR undefined_table, with what to do. */
extern void pgr_tables_missing(void) pg_attribute_noreturn();

/* A registered copy: of the statement's snapshot, or of one taken now. */
extern Snapshot pgr_tables_snapshot(PgrTableView view);

typedef enum PgrRowKind
{
	PGR_OF_DEFINITIONS,
	PGR_OF_ENTRIES,
	PGR_OF_GRANTS
} PgrRowKind;

/*
 * ERROR 55000 if it has not the columns that we read, since it was made by
 * another version.
 */
extern void pgr_tables_check(Relation relation, PgrRowKind kind);
extern void pgr_tables_check_columns(Relation relation, const Oid *types,
									 int n);

/* A row as the image knows it. */
extern void pgr_tables_read_definition(HeapTuple tuple, TupleDesc desc,
									   PgrDefinition *definition);
extern void pgr_tables_read_entry(HeapTuple tuple, TupleDesc desc,
								  PgrTableRow *row);

/* The registry of a row of grants. */
extern PgrText pgr_tables_registry_of_grant(HeapTuple tuple, TupleDesc desc);

/* Is there any registry? */
extern bool pgr_tables_have_definitions(PgrTableView view);

/* Is there any entry for a registry of this name? */
extern bool pgr_tables_have_entries(PgrText name, PgrTableView view);

/* What init.c gives to registry/table.h. */
extern const PgrTable pgr_tables;

#endif /* PGR_DURABLE_TABLES_H */
