/*
 * sql/arm.c
 *	  registry.arm(): this copy is meant to send.
 */
#include "postgres.h"

#include "fmgr.h"

#include "durable/arm.h"
#include "registry/write.h"

PG_FUNCTION_INFO_V1(pgr_sql_arm);

Datum
pgr_sql_arm(PG_FUNCTION_ARGS)
{
	pgr_write_allowed_here("registry.arm()");
	PG_RETURN_BOOL(pgr_arm());
}
