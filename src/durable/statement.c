/*
 * durable/statement.c
 *	  See statement.h.
 */
#include "postgres.h"

#include "access/xact.h"
#include "catalog/pg_class.h"
#include "miscadmin.h"
#include "utils/snapmgr.h"
#include "utils/syscache.h"

#include "base/compat.h"
#include "durable/statement.h"
#include "durable/tables.h"

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
prepare(PgrStatement *statement)
{
	statement->plan = SPI_prepare(statement->text, statement->nargs,
								  statement->types);
	if (statement->plan == NULL || SPI_keepplan(statement->plan) != 0)
		elog(ERROR, "could not prepare a statement: %s",
			 SPI_result_code_string(SPI_result));
}

static void
execute(PgrStatement *statement, Datum *values, const char *nulls)
{
	Snapshot newest;
	int result;

	if (statement->plan == NULL)
		prepare(statement);
	/*
	 * What the locks give us is the newest state, and the image changes from
	 * that, whatever our isolation level.  As for foreign keys, a row that the
	 * transaction's snapshot does not see is an error 40001 then.
	 */
	CommandCounterIncrement();
	newest = RegisterSnapshot(GetLatestSnapshot());
	result = SPI_execute_snapshot(statement->plan, values, nulls, newest,
								  IsolationUsesXactSnapshot() ?
									  GetTransactionSnapshot() :
									  InvalidSnapshot,
								  false, true, 0);
	UnregisterSnapshot(newest);
	if (result < 0)
		elog(ERROR, "could not run a statement: %s",
			 SPI_result_code_string(result));
}

static int64
first_value(void)
{
	bool isnull;

	if (SPI_processed == 0 || SPI_tuptable == NULL)
		return 0;
	return DatumGetInt64(SPI_getbinval(SPI_tuptable->vals[0],
									   SPI_tuptable->tupdesc, 1, &isnull));
}

int64
pgr_statement_run(PgrStatement *statement, Datum *values, const char *nulls)
{
	volatile int64 value = 0;
	Oid user;
	int context;

	GetUserIdAndSecContext(&user, &context);
	if (SPI_connect() != SPI_OK_CONNECT)
		elog(ERROR, "SPI_connect failed");
	PG_TRY();
	{
		SetUserIdAndSecContext(table_owner(),
							   context | SECURITY_LOCAL_USERID_CHANGE |
								   SECURITY_NOFORCE_RLS);
		execute(statement, values, nulls);
		value = first_value();
	}
	PG_FINALLY();
	{
		SetUserIdAndSecContext(user, context);
	}
	PG_END_TRY();
	SPI_finish();
	return value;
}
