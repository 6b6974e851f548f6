/*
 * durable/store.c
 *	  See store.h.  Runs in backends, in a transaction that may write.
 *
 * Single entries are rows.c's.  What changes many rows at once, and the few
 * rows of definitions, are SQL statements: see statement.h.
 */
#include "postgres.h"

#include "access/xact.h"
#include "catalog/pg_type.h"
#include "miscadmin.h"
#include "utils/builtins.h"
#include "utils/fmgrprotos.h"
#include "utils/timestamp.h"

#include "base/compat.h"
#include "durable/changes.h"
#include "durable/grants.h"
#include "durable/guard.h"
#include "durable/rate_sets.h"
#include "durable/rows.h"
#include "durable/statement.h"
#include "durable/store.h"
#include "durable/tables.h"
#include "registry/directory.h"
#include "registry/pending.h"
#include "registry/stale.h"

int pgr_store_quiet_at = -1;

static PgrStatement delete_all = {
	"WITH gone AS (DELETE FROM _registry.stored_entries AS e"
	" WHERE e.registry OPERATOR(pg_catalog.=) $1 RETURNING e.expires_at)"
	" SELECT pg_catalog.count(*) FROM gone WHERE expires_at IS NULL"
	" OR expires_at OPERATOR(pg_catalog.>) $2",
	2,
	{TEXTOID, TIMESTAMPTZOID},
	NULL,
};

static PgrStatement rename_entries = {
	"UPDATE _registry.stored_entries AS e SET registry = $2"
	" WHERE e.registry OPERATOR(pg_catalog.=) $1",
	2,
	{TEXTOID, TEXTOID},
	NULL,
};

static PgrStatement insert_definition = {
	"INSERT INTO _registry.definitions (name, value_type, durable, max_age,"
	" on_stale, owner, owner_oid, created_at)"
	" VALUES ($1, $2, $3, $4, $5, $6, $7, $8)",
	8,
	{TEXTOID, TEXTOID, BOOLOID, INTERVALOID, TEXTOID, TEXTOID, OIDOID,
	 TIMESTAMPTZOID},
	NULL,
};

static PgrStatement update_definition = {
	"UPDATE _registry.definitions AS d SET name = $1, value_type = $2,"
	" durable = $3, max_age = $4, on_stale = $5, owner = coalesce($6, d.owner),"
	" owner_oid = coalesce($7, d.owner_oid),"
	" created_at = $8 WHERE d.name OPERATOR(pg_catalog.=) $9",
	9,
	{TEXTOID, TEXTOID, BOOLOID, INTERVALOID, TEXTOID, TEXTOID, OIDOID,
	 TIMESTAMPTZOID, TEXTOID},
	NULL,
};

static PgrStatement delete_definition = {
	"DELETE FROM _registry.definitions AS d"
	" WHERE d.name OPERATOR(pg_catalog.=) $1",
	1,
	{TEXTOID},
	NULL,
};

/* ------------------------------------------------------------------------
 * Running a statement
 * ------------------------------------------------------------------------
 */

/* Our triggers keep quiet, as the caller lists what it does himself. */
int64
pgr_store_run(PgrStatement *statement, Datum *values, const char *nulls)
{
	int outer = pgr_store_quiet_at;
	volatile int64 count = 0;

	PG_TRY();
	{
		pgr_store_quiet_at = DatumGetInt32(pg_trigger_depth(NULL));
		count = pgr_statement_run(statement, values, nulls);
	}
	PG_FINALLY();
	{
		pgr_store_quiet_at = outer;
	}
	PG_END_TRY();
	return count;
}

/* ------------------------------------------------------------------------
 * Entries
 * ------------------------------------------------------------------------
 */

static Datum
name_datum(const PgrDefinition *definition)
{
	return PointerGetDatum(
		cstring_to_text_with_len(definition->name, definition->name_len));
}

static Datum
now_datum(void)
{
	return TimestampTzGetDatum(GetCurrentTransactionStartTimestamp());
}

static PgrText
name_of(const PgrDefinition *definition)
{
	PgrText name = {definition->name, definition->name_len};

	return name;
}

/* One change of one entry, in the list that the commit publishes. */
static void
list_put(const PgrDefinition *definition, const PgrStorePut *put)
{
	pgr_pending_put(definition, put->key.data, put->key.len, &put->value,
					GetCurrentTransactionStartTimestamp(), put->expires_at);
}

/*
 * What the image does not know it need not be told: see trigger.c.  A standby
 * learns of what is listed when the list is committed.
 */
static bool
is_listed(const PgrDefinition *definition)
{
	if (definition->incarnation == 0)
	{
		pgr_pending_hidden();
		pgr_changes_note(name_of(definition));
	}
	return definition->incarnation != 0;
}

static void
put_row(PgrRows *rows, const PgrDefinition *definition, const PgrStorePut *put)
{
	char *stored = pgr_value_to_stored((PgrValueType) definition->value_type,
									   &put->value);

	pgr_rows_put(rows, put->key, stored, GetCurrentTransactionStartTimestamp(),
				 put->expires_at);
	pfree(stored);
}

void
pgr_store_put_many(const PgrDefinition *definition, const PgrStorePut *puts,
				   int n)
{
	PgrRows *rows = NULL;

	if (definition->durable)
		rows = pgr_rows_open(name_of(definition));
	for (int i = 0; i < n; i++)
	{
		CHECK_FOR_INTERRUPTS();
		if (rows != NULL)
			put_row(rows, definition, &puts[i]);
		if (is_listed(definition))
			list_put(definition, &puts[i]);
	}
	if (rows != NULL)
		pgr_rows_close(rows);
}

void
pgr_store_put(const PgrDefinition *definition, PgrText key,
			  const PgrValue *value, TimestampTz expires_at)
{
	PgrStorePut put = {key, *value, expires_at};

	pgr_store_put_many(definition, &put, 1);
}

static bool
delete_row(const PgrDefinition *definition, PgrText key)
{
	TimestampTz now = GetCurrentTransactionStartTimestamp();
	PgrRows *rows = pgr_rows_open(name_of(definition));
	TimestampTz expires_at;
	bool found = pgr_rows_delete(rows, key, &expires_at);

	if (found && is_listed(definition))
		pgr_pending_delete(definition, key.data, key.len);
	pgr_rows_close(rows);
	return found && (expires_at == 0 || expires_at > now);
}

bool
pgr_store_delete(const PgrDefinition *definition, PgrText key)
{
	if (definition->durable)
		return delete_row(definition, key);
	if (!pgr_write_key_exists(definition, key))
		return false;
	pgr_pending_delete(definition, key.data, key.len);
	return true;
}

int64
pgr_store_clear(const PgrDefinition *definition)
{
	Datum values[2];
	int64 n;

	if (!definition->durable)
		n = pgr_pending_count_newest(definition);
	else
	{
		values[0] = name_datum(definition);
		values[1] = now_datum();
		n = pgr_store_run(&delete_all, values, NULL);
	}
	if (is_listed(definition))
		pgr_pending_clear(definition);
	return n;
}

/* ------------------------------------------------------------------------
 * Definitions: of all registries, durable or not
 * ------------------------------------------------------------------------
 */

static void
definition_values(const PgrDefinition *definition, Datum *values, char *nulls)
{
	Interval *max_age = pgr_max_age_to_interval(definition->max_age_us);
	/* too long for a role of ours: it stays what it is */
	bool no_owner = definition->owner_name[0] == '\0';

	values[0] = name_datum(definition);
	values[1] = CStringGetTextDatum(
		pgr_value_type_name((PgrValueType) definition->value_type));
	values[2] = BoolGetDatum(definition->durable);
	values[3] = IntervalPGetDatum(max_age);
	nulls[3] = max_age == NULL ? 'n' : ' ';
	values[4] = CStringGetTextDatum(pgr_on_stale_name(definition->on_stale));
	values[5] = CStringGetTextDatum(definition->owner_name);
	nulls[5] = nulls[6] = no_owner ? 'n' : ' ';
	values[6] = ObjectIdGetDatum(definition->owner);
	values[7] = TimestampTzGetDatum(definition->created_at);
}

/*
 * A row of stored_entries can be there before its definition is, in a restore;
 * then the image has to ask the table.  So it has while rows can change without
 * our triggers.
 */
static PgrResidency
residency_of_new(const PgrDefinition *definition)
{
	if (!definition->durable)
		return PGR_RESIDENT;
	if (!pgr_guard_lock())
		return PGR_FROM_TABLE;
	return pgr_tables_have_entries(name_of(definition), PGR_VIEW_NEWEST) ?
		PGR_FROM_TABLE :
		PGR_RESIDENT;
}

/*
 * The first registry of an extension that has just been created: there is
 * nothing to load, so the directory names all there is.  The caller holds its
 * lock.
 */
static bool
is_first(void)
{
	PgrRateSetRow row;

	return !pgr_directory_is_complete_now(MyDatabaseId,
										  pgr_directory_extension()) &&
		!pgr_tables_have_definitions(PGR_VIEW_NEWEST) &&
		!pgr_rate_sets_last(PGR_VIEW_NEWEST, &row);
}

void
pgr_store_create(PgrDefinition *definition)
{
	Datum values[8];
	char nulls[] = "        ";

	if (is_first())
		pgr_pending_complete(definition->extension);
	/* nobody's wish: a registry of this name has left them */
	pgr_grants_remove_all(definition);
	definition_values(definition, values, nulls);
	(void) pgr_store_run(&insert_definition, values, nulls);
	pgr_changes_note(name_of(definition));
	definition->residency = residency_of_new(definition);
	pgr_pending_create(definition);
}

void
pgr_store_drop(const PgrDefinition *definition)
{
	Datum values[2];

	values[0] = name_datum(definition);
	values[1] = now_datum();
	(void) pgr_store_run(&delete_definition, values, NULL);
	pgr_changes_note(name_of(definition));
	if (definition->durable)
		(void) pgr_store_run(&delete_all, values, NULL);
	pgr_grants_remove_all(definition);
	pgr_pending_drop(definition);
}

static void
rename_rows(const PgrDefinition *definition, const PgrDefinition *altered)
{
	Datum values[2];

	if (!definition->durable)
		return;
	if (pgr_tables_have_entries(name_of(altered), PGR_VIEW_NEWEST))
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("table \"%s.stored_entries\" has rows for a registry \"%s\" already",
						PGR_TABLE_SCHEMA, altered->name),
				 errhint("Delete them, or create that registry, which then has them.")));
	values[0] = name_datum(definition);
	values[1] = name_datum(altered);
	(void) pgr_store_run(&rename_entries, values, NULL);
}

void
pgr_store_alter(const PgrDefinition *definition, const PgrDefinition *altered)
{
	Datum values[9];
	char nulls[] = "         ";

	definition_values(altered, values, nulls);
	values[8] = name_datum(definition);
	(void) pgr_store_run(&update_definition, values, nulls);
	pgr_changes_note(name_of(definition));
	pgr_changes_note(name_of(altered));
	if (strcmp(definition->name, altered->name) != 0)
	{
		rename_rows(definition, altered);
		pgr_grants_rename(definition, altered);
	}
	pgr_pending_alter(definition, altered);
}
