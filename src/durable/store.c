/*
 * durable/store.c
 *	  See store.h.  Runs in backends, in a transaction that may write.
 *
 * Single entries are rows.c's.  What changes many rows at once, and the few
 * rows of definitions, are SQL statements, prepared once in a session and run
 * with the rights of the table's owner: whoever may change a registry need not
 * be able to change the table.  They name every operator with its schema,
 * since they are parsed with the caller's search_path.
 */
#include "postgres.h"

#include "access/xact.h"
#include "catalog/pg_class.h"
#include "catalog/pg_type.h"
#include "executor/spi.h"
#include "miscadmin.h"
#include "utils/array.h"
#include "utils/builtins.h"
#include "utils/syscache.h"
#include "utils/timestamp.h"

#include "base/compat.h"
#include "durable/changes.h"
#include "durable/rows.h"
#include "durable/store.h"
#include "durable/tables.h"
#include "registry/pending.h"
#include "registry/stale.h"

#define MOST_ARGUMENTS 10

bool pgr_store_quiet = false;

typedef struct Statement
{
	const char *text;
	int nargs;
	Oid types[MOST_ARGUMENTS];
	SPIPlanPtr plan; /* kept for the session */
} Statement;

static Statement delete_all = {
	"WITH gone AS (DELETE FROM registry.stored_entries AS e"
	" WHERE e.registry OPERATOR(pg_catalog.=) $1 RETURNING e.expires_at)"
	" SELECT pg_catalog.count(*) FROM gone WHERE expires_at IS NULL"
	" OR expires_at OPERATOR(pg_catalog.>) $2",
	2,
	{TEXTOID, TIMESTAMPTZOID},
	NULL,
};

static Statement rename_entries = {
	"UPDATE registry.stored_entries AS e SET registry = $2"
	" WHERE e.registry OPERATOR(pg_catalog.=) $1",
	2,
	{TEXTOID, TEXTOID},
	NULL,
};

static Statement insert_definition = {
	"INSERT INTO registry.definitions (name, value_type, durable, max_age,"
	" on_stale, owner, owner_oid, created_at)"
	" VALUES ($1, $2, $3, $4, $5, $6, $7, $8)",
	8,
	{TEXTOID, TEXTOID, BOOLOID, INTERVALOID, TEXTOID, TEXTOID, OIDOID,
	 TIMESTAMPTZOID},
	NULL,
};

static Statement update_definition = {
	"UPDATE registry.definitions AS d SET name = $1, value_type = $2,"
	" durable = $3, max_age = $4, on_stale = $5, owner = $6, owner_oid = $7,"
	" created_at = $8 WHERE d.name OPERATOR(pg_catalog.=) $9",
	9,
	{TEXTOID, TEXTOID, BOOLOID, INTERVALOID, TEXTOID, TEXTOID, OIDOID,
	 TIMESTAMPTZOID, TEXTOID},
	NULL,
};

static Statement delete_definition = {
	"DELETE FROM registry.definitions AS d"
	" WHERE d.name OPERATOR(pg_catalog.=) $1",
	1,
	{TEXTOID},
	NULL,
};

/* ------------------------------------------------------------------------
 * Running a statement
 * ------------------------------------------------------------------------
 */

static Oid
table_owner(void)
{
	Oid table = pgr_tables_entries();
	HeapTuple tuple = SearchSysCache1(RELOID, ObjectIdGetDatum(table));
	Oid owner;

	if (!HeapTupleIsValid(tuple))
		pgr_tables_missing();
	owner = ((Form_pg_class) GETSTRUCT(tuple))->relowner;
	ReleaseSysCache(tuple);
	return owner;
}

static void
prepare(Statement *statement)
{
	statement->plan = SPI_prepare(statement->text, statement->nargs,
								  statement->types);
	if (statement->plan == NULL || SPI_keepplan(statement->plan) != 0)
		elog(ERROR, "could not prepare a statement: %s",
			 SPI_result_code_string(SPI_result));
}

static void
execute(Statement *statement, Datum *values, const char *nulls)
{
	int result;

	if (statement->plan == NULL)
		prepare(statement);
	/* read-write: it sees what this statement has done so far */
	result = SPI_execute_plan(statement->plan, values, nulls, false, 0);
	if (result < 0)
		elog(ERROR, "could not run a statement: %s",
			 SPI_result_code_string(result));
}

/*
 * Run it as the table's owner; our triggers keep quiet, as the caller lists
 * what it does himself.  Returns the count, if it is one that counts.
 */
static int64
run(Statement *statement, Datum *values, const char *nulls)
{
	bool outer = pgr_store_quiet;
	volatile int64 count = 0;
	bool isnull;
	Oid user;
	int context;

	GetUserIdAndSecContext(&user, &context);
	if (SPI_connect() != SPI_OK_CONNECT)
		elog(ERROR, "SPI_connect failed");
	PG_TRY();
	{
		pgr_store_quiet = true;
		SetUserIdAndSecContext(table_owner(),
							   context | SECURITY_LOCAL_USERID_CHANGE |
								   SECURITY_NOFORCE_RLS);
		execute(statement, values, nulls);
		if (statement == &delete_all)
			count = DatumGetInt64(SPI_getbinval(SPI_tuptable->vals[0],
												SPI_tuptable->tupdesc, 1,
												&isnull));
	}
	PG_FINALLY();
	{
		SetUserIdAndSecContext(user, context);
		pgr_store_quiet = outer;
	}
	PG_END_TRY();
	SPI_finish();
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
	if (definition->incarnation != 0)
		return true;
	pgr_pending_unlisted();
	pgr_changes_note(name_of(definition));
	return false;
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
		n = run(&delete_all, values, NULL);
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
	char *owner = GetUserNameFromId(definition->owner, true);

	values[0] = name_datum(definition);
	values[1] = CStringGetTextDatum(
		pgr_value_type_name((PgrValueType) definition->value_type));
	values[2] = BoolGetDatum(definition->durable);
	values[3] = IntervalPGetDatum(max_age);
	nulls[3] = max_age == NULL ? 'n' : ' ';
	values[4] = CStringGetTextDatum(pgr_on_stale_name(definition->on_stale));
	values[5] = CStringGetTextDatum(owner ? owner : "");
	values[6] = ObjectIdGetDatum(definition->owner);
	values[7] = TimestampTzGetDatum(definition->created_at);
}

/*
 * A row of stored_entries can be there before its definition is, in a restore;
 * then the image has to ask the table.
 */
void
pgr_store_create(PgrDefinition *definition)
{
	PgrText name = {definition->name, definition->name_len};
	Datum values[8];
	char nulls[] = "        ";

	definition_values(definition, values, nulls);
	(void) run(&insert_definition, values, nulls);
	pgr_changes_note(name);
	definition->residency = definition->durable &&
			pgr_tables_have_entries(name, PGR_VIEW_NEWEST) ?
		PGR_FROM_TABLE :
		PGR_RESIDENT;
	pgr_pending_create(definition);
}

void
pgr_store_drop(const PgrDefinition *definition)
{
	Datum values[2];

	values[0] = name_datum(definition);
	values[1] = now_datum();
	(void) run(&delete_definition, values, NULL);
	pgr_changes_note(name_of(definition));
	if (definition->durable)
		(void) run(&delete_all, values, NULL);
	pgr_pending_drop(definition);
}

void
pgr_store_alter(const PgrDefinition *definition, const PgrDefinition *altered)
{
	Datum values[9];
	char nulls[] = "         ";

	definition_values(altered, values, nulls);
	values[8] = name_datum(definition);
	(void) run(&update_definition, values, nulls);
	pgr_changes_note(name_of(definition));
	pgr_changes_note(name_of(altered));
	if (definition->durable && strcmp(definition->name, altered->name) != 0)
	{
		values[0] = name_datum(definition);
		values[1] = name_datum(altered);
		(void) run(&rename_entries, values, NULL);
	}
	pgr_pending_alter(definition, altered);
}
