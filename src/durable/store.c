/*
 * durable/store.c
 *	  See store.h.  Runs in backends, in a transaction that may write.
 *
 * The statements are prepared once in a session and run with the rights of
 * the table's owner: whoever may change a registry need not be able to change
 * the table.  They name every operator with its schema, since they are parsed
 * with the caller's search_path.
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
#include "durable/grants.h"
#include "durable/store.h"
#include "durable/tables.h"
#include "registry/pending.h"
#include "registry/stale.h"

PgrStoreStatement *pgr_store_statement = NULL;

typedef PgrStatement Statement;

static Statement put_one = {
	"INSERT INTO registry.stored_entries AS e (registry, key, value, updated_at, expires_at)"
	" VALUES ($1, $2, $3, $4, $5)"
	" ON CONFLICT (registry, key) DO UPDATE SET value = excluded.value,"
	" updated_at = excluded.updated_at, expires_at = excluded.expires_at",
	5,
	{TEXTOID, TEXTOID, TEXTOID, TIMESTAMPTZOID, TIMESTAMPTZOID},
	NULL,
};

static Statement put_array = {
	"INSERT INTO registry.stored_entries AS e (registry, key, value, updated_at)"
	" SELECT $1, u.key, u.value, $4"
	" FROM ROWS FROM (pg_catalog.unnest($2::pg_catalog.text[]),"
	" pg_catalog.unnest($3::pg_catalog.text[])) AS u(key, value)"
	" ON CONFLICT (registry, key) DO UPDATE SET value = excluded.value,"
	" updated_at = excluded.updated_at, expires_at = NULL",
	4,
	{TEXTOID, TEXTARRAYOID, TEXTARRAYOID, TIMESTAMPTZOID},
	NULL,
};

static Statement delete_one = {
	"DELETE FROM registry.stored_entries AS e"
	" WHERE e.registry OPERATOR(pg_catalog.=) $1"
	" AND e.key OPERATOR(pg_catalog.=) $2"
	" RETURNING e.expires_at IS NULL OR e.expires_at OPERATOR(pg_catalog.>) $3",
	3,
	{TEXTOID, TEXTOID, TIMESTAMPTZOID},
	NULL,
};

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
		ereport(ERROR,
				(errcode(ERRCODE_UNDEFINED_TABLE),
				 errmsg("the tables of extension \"pg_registry\" are missing"),
				 errhint("If the extension was installed by an older version, run ALTER EXTENSION pg_registry UPDATE.")));
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

static uint64
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
	return SPI_processed;
}

static int64
result_of(Oid type)
{
	bool isnull;
	Datum value;

	if (SPI_processed == 0 || SPI_tuptable == NULL)
		return 0;
	value = SPI_getbinval(SPI_tuptable->vals[0], SPI_tuptable->tupdesc, 1,
						  &isnull);
	return type == BOOLOID ? DatumGetBool(value) : DatumGetInt64(value);
}

int64
pgr_store_run(PgrStatement *statement, Datum *values, const char *nulls,
			  PgrStoreStatement *about, Oid result)
{
	PgrStoreStatement *outer = pgr_store_statement;
	volatile int64 returned = 0;
	Oid user;
	int context;

	GetUserIdAndSecContext(&user, &context);
	if (SPI_connect() != SPI_OK_CONNECT)
		elog(ERROR, "SPI_connect failed");
	PG_TRY();
	{
		pgr_store_statement = about;
		SetUserIdAndSecContext(table_owner(),
							   context | SECURITY_LOCAL_USERID_CHANGE |
								   SECURITY_NOFORCE_RLS);
		(void) execute(statement, values, nulls);
		if (OidIsValid(result))
			returned = result_of(result);
	}
	PG_FINALLY();
	{
		SetUserIdAndSecContext(user, context);
		pgr_store_statement = outer;
	}
	PG_END_TRY();
	SPI_finish();
	return returned;
}

/* ------------------------------------------------------------------------
 * Entries
 * ------------------------------------------------------------------------
 */

static Datum
text_datum(PgrText text)
{
	return PointerGetDatum(cstring_to_text_with_len(text.data, text.len));
}

static Datum
name_datum(const PgrDefinition *definition)
{
	return PointerGetDatum(
		cstring_to_text_with_len(definition->name, definition->name_len));
}

static Datum
stored_datum(const PgrDefinition *definition, const PgrValue *value)
{
	return CStringGetTextDatum(
		pgr_value_to_stored((PgrValueType) definition->value_type, value));
}

static Datum
now_datum(void)
{
	return TimestampTzGetDatum(GetCurrentTransactionStartTimestamp());
}

void
pgr_store_put(const PgrDefinition *definition, PgrText key,
			  const PgrValue *value, TimestampTz expires_at)
{
	PgrStorePut put = {key, *value, expires_at};
	PgrStoreStatement about = {
		.definition = definition,
		.puts = &put,
		.n = 1,
	};
	Datum values[5];
	char nulls[] = "     ";

	if (!definition->durable)
	{
		pgr_pending_put(definition, key.data, key.len, value,
						GetCurrentTransactionStartTimestamp(), expires_at);
		return;
	}
	values[0] = name_datum(definition);
	values[1] = text_datum(key);
	values[2] = stored_datum(definition, value);
	values[3] = now_datum();
	values[4] = TimestampTzGetDatum(expires_at);
	if (expires_at == 0)
		nulls[4] = 'n';
	(void) pgr_store_run(&put_one, values, nulls, &about, InvalidOid);
}

static Datum
array_of(Datum *elements, int n)
{
	return PointerGetDatum(
		construct_array(elements, n, TEXTOID, -1, false, TYPALIGN_INT));
}

static void
put_rows(const PgrDefinition *definition, const PgrStorePut *puts, int n)
{
	PgrStoreStatement about = {
		.definition = definition,
		.puts = puts,
		.n = n,
	};
	Datum *keys = MemoryContextAllocHuge(CurrentMemoryContext,
										 (Size) n * sizeof(Datum));
	Datum *stored = MemoryContextAllocHuge(CurrentMemoryContext,
										   (Size) n * sizeof(Datum));
	Datum values[4];

	for (int i = 0; i < n; i++)
	{
		keys[i] = text_datum(puts[i].key);
		stored[i] = stored_datum(definition, &puts[i].value);
	}
	values[0] = name_datum(definition);
	values[1] = array_of(keys, n);
	values[2] = array_of(stored, n);
	values[3] = now_datum();
	(void) pgr_store_run(&put_array, values, NULL, &about, InvalidOid);
}

/* So many rows go into one array, which must stay below 1 GB. */
#define ROWS_OF_STATEMENT 10000
#define BYTES_OF_STATEMENT (64 * 1024 * 1024)

static int
rows_that_fit(const PgrStorePut *puts, int n)
{
	Size bytes = 0;
	int i;

	for (i = 0; i < Min(n, ROWS_OF_STATEMENT); i++)
	{
		bytes += puts[i].key.len + puts[i].value.len;
		if (i > 0 && bytes > BYTES_OF_STATEMENT)
			break;
	}
	return i;
}

void
pgr_store_put_many(const PgrDefinition *definition, const PgrStorePut *puts,
				   int n)
{
	if (!definition->durable)
	{
		for (int i = 0; i < n; i++)
			pgr_store_put(definition, puts[i].key, &puts[i].value,
						  puts[i].expires_at);
		return;
	}
	while (n > 0)
	{
		int rows = rows_that_fit(puts, n);

		put_rows(definition, puts, rows);
		puts += rows;
		n -= rows;
	}
}

bool
pgr_store_delete(const PgrDefinition *definition, PgrText key)
{
	PgrStoreStatement about = {.definition = definition};
	Datum values[3];

	if (!definition->durable)
	{
		if (!pgr_write_key_exists(definition, key))
			return false;
		pgr_pending_delete(definition, key.data, key.len);
		return true;
	}
	values[0] = name_datum(definition);
	values[1] = text_datum(key);
	values[2] = now_datum();
	return pgr_store_run(&delete_one, values, NULL, &about, BOOLOID) != 0;
}

int64
pgr_store_clear(const PgrDefinition *definition)
{
	PgrStoreStatement about = {.quiet = true};
	Datum values[2];
	int64 n;

	if (!definition->durable)
		n = pgr_pending_count_newest(definition);
	else
	{
		values[0] = name_datum(definition);
		values[1] = now_datum();
		n = pgr_store_run(&delete_all, values, NULL, &about, INT8OID);
	}
	if (definition->incarnation != 0)
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

	values[0] = name_datum(definition);
	values[1] = CStringGetTextDatum(
		pgr_value_type_name((PgrValueType) definition->value_type));
	values[2] = BoolGetDatum(definition->durable);
	values[3] = IntervalPGetDatum(max_age);
	nulls[3] = max_age == NULL ? 'n' : ' ';
	values[4] = CStringGetTextDatum(pgr_on_stale_name(definition->on_stale));
	values[5] = CStringGetTextDatum(definition->owner_name);
	values[6] = ObjectIdGetDatum(definition->owner);
	values[7] = TimestampTzGetDatum(definition->created_at);
}

/*
 * A row of stored_entries can be there before its definition is, in a restore;
 * then the image has to ask the table.  Grants that are there are nobody's
 * wish: they were left by a registry of this name.
 */
void
pgr_store_create(PgrDefinition *definition)
{
	PgrStoreStatement about = {.quiet = true};
	PgrText name = {definition->name, definition->name_len};
	Datum values[8];
	char nulls[] = "        ";

	pgr_grants_remove_all(definition);
	definition_values(definition, values, nulls);
	(void) pgr_store_run(&insert_definition, values, nulls, &about,
						 InvalidOid);
	definition->residency = definition->durable &&
			pgr_tables_have_entries(name, PGR_VIEW_NEWEST) ?
		PGR_FROM_TABLE :
		PGR_RESIDENT;
	pgr_pending_create(definition);
}

void
pgr_store_drop(const PgrDefinition *definition)
{
	PgrStoreStatement about = {.quiet = true};
	Datum values[2];

	values[0] = name_datum(definition);
	values[1] = now_datum();
	(void) pgr_store_run(&delete_definition, values, NULL, &about, InvalidOid);
	if (definition->durable)
		(void) pgr_store_run(&delete_all, values, NULL, &about, INT8OID);
	pgr_grants_remove_all(definition);
	pgr_pending_drop(definition);
}

void
pgr_store_alter(const PgrDefinition *definition, const PgrDefinition *altered)
{
	PgrStoreStatement about = {.quiet = true};
	Datum values[9];
	char nulls[] = "         ";

	definition_values(altered, values, nulls);
	values[8] = name_datum(definition);
	(void) pgr_store_run(&update_definition, values, nulls, &about,
						 InvalidOid);
	if (strcmp(definition->name, altered->name) != 0)
		pgr_grants_rename(definition, altered);
	if (definition->durable && strcmp(definition->name, altered->name) != 0)
	{
		values[0] = name_datum(definition);
		values[1] = name_datum(altered);
		(void) pgr_store_run(&rename_entries, values, NULL, &about,
							 InvalidOid);
	}
	pgr_pending_alter(definition, altered);
}
