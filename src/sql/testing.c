/*
 * sql/testing.c
 *	  Functions that only tests call, in builds with PGR_TESTING.
 *
 * The install script does not know them: a test creates what it needs.
 */
#include "postgres.h"

#include "fmgr.h"

#include "registry/block.h"

#ifdef PGR_TESTING

PG_FUNCTION_INFO_V1(pgr_sql_test_groups_searched);
PG_FUNCTION_INFO_V1(pgr_sql_test_entries_copied);

Datum
pgr_sql_test_groups_searched(PG_FUNCTION_ARGS)
{
	PG_RETURN_INT64((int64) pgr_block_groups_searched);
}

Datum
pgr_sql_test_entries_copied(PG_FUNCTION_ARGS)
{
	PG_RETURN_INT64((int64) pgr_block_entries_copied);
}

#endif
