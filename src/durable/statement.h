/*
 * durable/statement.h
 *	  SQL statements on the tables of the extension.
 *
 * They are prepared once in a session and run with the rights of the tables'
 * owner: whoever may call one of our functions need not be able to change a
 * table.  They name every operator, function and type with its schema, since
 * they are parsed with the caller's search_path.
 */
#ifndef PGR_DURABLE_STATEMENT_H
#define PGR_DURABLE_STATEMENT_H

#include "executor/spi.h"

#define PGR_STATEMENT_MOST_ARGUMENTS 11

typedef struct PgrStatement
{
	const char *text;
	int nargs;
	Oid types[PGR_STATEMENT_MOST_ARGUMENTS];
	SPIPlanPtr plan; /* kept for the session */
} PgrStatement;

/*
 * In a transaction that may write.  Returns the first column of the first row
 * that it returns, a bigint; 0 if there is none.  ERROR undefined_table if the
 * extension has no tables.
 */
extern int64 pgr_statement_run(PgrStatement *statement, Datum *values,
							   const char *nulls);

#endif /* PGR_DURABLE_STATEMENT_H */
