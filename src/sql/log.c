/*
 * sql/log.c
 *	  registry.log_tail: the newest records of the log ring.
 *
 * It reads, like any drain, without stopping anybody: a record that is
 * overwritten while the result is collected is left out.  Rights are
 * PostgreSQL's (EXECUTE, which nobody has by default); beyond that a caller
 * who is no superuser sees the records of his own database only.
 */
#include "postgres.h"

#include "commands/dbcommands.h"
#include "fmgr.h"
#include "funcapi.h"
#include "mb/pg_wchar.h"
#include "miscadmin.h"
#include "utils/builtins.h"
#include "utils/memutils.h"
#include "utils/timestamp.h"

#include "log/hook.h"
#include "log/record.h"
#include "log/text.h"
#include "shm/area.h"

#define LOG_TAIL_COLUMNS 14

typedef struct Found
{
	uint64 ticket;
	PgrLogRecord *record;
} Found;

static const char *
level_name(int elevel)
{
	switch (elevel)
	{
		case DEBUG5:
			return "DEBUG5";
		case DEBUG4:
			return "DEBUG4";
		case DEBUG3:
			return "DEBUG3";
		case DEBUG2:
			return "DEBUG2";
		case DEBUG1:
			return "DEBUG1";
		case LOG:
		case LOG_SERVER_ONLY:
			return "LOG";
		case INFO:
			return "INFO";
		case NOTICE:
			return "NOTICE";
		case WARNING:
			return "WARNING";
		case ERROR:
			return "ERROR";
		case FATAL:
			return "FATAL";
		case PANIC:
			return "PANIC";
		default:
			return "???";
	}
}

static PgrLogRecord *
copy_used(const PgrLogRecord *record)
{
	Size size = pgr_log_record_size(record);

	return memcpy(palloc(size), record, size);
}

/*
 * The newest records that the caller may see, at most n, newest first; how
 * many.  Tickets drawn after the start are not looked at.
 */
static int64
collect_newest(const PgrSharedRing *ring, int64 n, Found *found)
{
	bool all_databases = superuser();
	uint64 head = pgr_ring_head(ring);
	uint64 oldest = pgr_ring_oldest(ring, head);
	PgrLogRecord *copy = palloc(PGR_LOG_SLOT_BYTES);
	int64 count = 0;

	for (uint64 ticket = head; ticket > oldest && count < n; ticket--)
	{
		CHECK_FOR_INTERRUPTS();
		if (pgr_ring_read(ring, ticket - 1, copy) != PGR_RING_RECORD)
			continue;
		if (!all_databases && copy->database != MyDatabaseId)
			continue;
		found[count].ticket = ticket - 1;
		found[count].record = copy_used(copy);
		count++;
	}
	pfree(copy);
	return count;
}

/* A field as text of this database; NULL if the record has none. */
static char *
field_text(const PgrLogRecord *record, PgrLogField field)
{
	char *text;

	if (record->length[field] == 0)
		return NULL;
	text = pgr_log_text_readable(pgr_log_record_field(record, field),
								 record->length[field], record->encoding);
	if (record->truncated & (1U << field))
		text = psprintf("%s...", text);
	return text;
}

/* The name that an oid has today, in whose encoding nobody can tell. */
static char *
name_text_of(char *name)
{
	if (name == NULL)
		return NULL;
	return pgr_log_text_readable(name, (int) strlen(name), PG_SQL_ASCII);
}

static char *
database_text(const PgrLogRecord *record)
{
	if (record->length[PGR_LOG_DATABASE] > 0 || !OidIsValid(record->database))
		return field_text(record, PGR_LOG_DATABASE);
	return name_text_of(get_database_name(record->database));
}

static char *
username_text(const PgrLogRecord *record)
{
	if (record->length[PGR_LOG_USERNAME] > 0 || !OidIsValid(record->role))
		return field_text(record, PGR_LOG_USERNAME);
	return name_text_of(GetUserNameFromId(record->role, true));
}

static void
set_text(Datum *values, bool *nulls, int column, const char *text)
{
	nulls[column] = text == NULL;
	if (text != NULL)
		values[column] = CStringGetTextDatum(text);
}

static void
put_row(ReturnSetInfo *result, const Found *found)
{
	const PgrLogRecord *record = found->record;
	Datum values[LOG_TAIL_COLUMNS] = {0};
	bool nulls[LOG_TAIL_COLUMNS] = {0};

	values[0] = Int64GetDatum((int64) found->ticket);
	values[1] = TimestampTzGetDatum(record->time);
	values[2] = Int32GetDatum(record->pid);
	set_text(values, nulls, 3, field_text(record, PGR_LOG_BACKEND_TYPE));
	set_text(values, nulls, 4, database_text(record));
	set_text(values, nulls, 5, username_text(record));
	set_text(values, nulls, 6, field_text(record, PGR_LOG_APPLICATION));
	set_text(values, nulls, 7, level_name(record->elevel));
	set_text(values, nulls, 8, unpack_sql_state(record->sqlerrcode));
	set_text(values, nulls, 9, field_text(record, PGR_LOG_MESSAGE));
	set_text(values, nulls, 10, field_text(record, PGR_LOG_DETAIL));
	set_text(values, nulls, 11, field_text(record, PGR_LOG_HINT));
	set_text(values, nulls, 12, field_text(record, PGR_LOG_CONTEXT));
	set_text(values, nulls, 13, field_text(record, PGR_LOG_STATEMENT));
	tuplestore_putvalues(result->setResult, result->setDesc, values, nulls);
}

/* Newest last; what a row needed is freed before the next. */
static void
put_rows(ReturnSetInfo *result, const Found *found, int64 count)
{
	MemoryContext row = AllocSetContextCreate(CurrentMemoryContext,
											  "pg_registry log_tail row",
											  ALLOCSET_DEFAULT_SIZES);
	MemoryContext caller = MemoryContextSwitchTo(row);

	while (count-- > 0)
	{
		CHECK_FOR_INTERRUPTS();
		put_row(result, &found[count]);
		MemoryContextReset(row);
	}
	MemoryContextSwitchTo(caller);
	MemoryContextDelete(row);
}

static int64
checked_n(FunctionCallInfo fcinfo)
{
	int32 n;

	if (PG_ARGISNULL(0))
		ereport(ERROR,
				(errcode(ERRCODE_NULL_VALUE_NOT_ALLOWED),
				 errmsg("the number of records must not be null")));
	n = PG_GETARG_INT32(0);
	if (n < 0)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("the number of records must not be negative")));
	if (!PG_ARGISNULL(1))
		ereport(ERROR,
				(errcode(ERRCODE_FEATURE_NOT_SUPPORTED),
				 errmsg("log handlers are not supported yet"),
				 errhint("Leave out the argument \"handler\".")));
	return n;
}

PG_FUNCTION_INFO_V1(pgr_sql_log_tail);

/* log_tail(n int, handler text): not strict, newest last. */
Datum
pgr_sql_log_tail(PG_FUNCTION_ARGS)
{
	Found *found;
	int64 count;
	int64 n;

	pgr_area_require();
	n = checked_n(fcinfo);
	InitMaterializedSRF(fcinfo, 0);

	n = Min(n, (int64) pgr_log_ring->slots);
	found = palloc(sizeof(Found) * n);
	count = collect_newest(pgr_log_ring, n, found);
	put_rows((ReturnSetInfo *) fcinfo->resultinfo, found, count);
	return (Datum) 0;
}
