/*
 * sql/arguments.h
 *	  Checks of arguments that several files make.
 */
#ifndef PGR_SQL_ARGUMENTS_H
#define PGR_SQL_ARGUMENTS_H

#include "fmgr.h"

#include "registry/reader.h"

static inline void
pgr_refuse_null(FunctionCallInfo fcinfo, int argument, const char *name)
{
	if (!PG_ARGISNULL(argument))
		return;
	ereport(ERROR,
			(errcode(ERRCODE_NULL_VALUE_NOT_ALLOWED),
			 errmsg("%s must not be null", name)));
}

static inline PgrText
pgr_name_argument(FunctionCallInfo fcinfo)
{
	pgr_refuse_null(fcinfo, 0, "the registry name");
	return pgr_text(PG_GETARG_DATUM(0));
}

#endif /* PGR_SQL_ARGUMENTS_H */
