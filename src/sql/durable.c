/*
 * sql/durable.c
 *	  verify() and reload(): the image against the table that it is made of.
 */
#include "postgres.h"

#include "fmgr.h"
#include "funcapi.h"
#include "utils/builtins.h"

#include "base/compat.h"
#include "durable/changes.h"
#include "durable/grants.h"
#include "durable/load.h"
#include "registry/pending.h"
#include "registry/write.h"
#include "sql/arguments.h"

PG_FUNCTION_INFO_V1(pgr_sql_verify);
PG_FUNCTION_INFO_V1(pgr_sql_reload);

/*
 * Nobody changes the registry, or its grants, from here to the end of the
 * transaction.
 */
static void
open_unchanged(const char *what, PgrText name, PgrDefinition *definition)
{
	pgr_write_open_grants(what, name, definition);
	pgr_write_open(what, name, NULL, PGR_MAY_ADMIN, definition);
	if (definition->durable &&
		(pgr_pending_has_hidden() ||
		 (pgr_pending_any() && pgr_pending_changes(definition))))
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("%s cannot be used on a registry that this transaction has changed",
						what)));
}

static void
put_problem(const char *key, uint32 key_len, const char *problem, void *arg)
{
	ReturnSetInfo *result = arg;
	Datum values[2];
	bool nulls[2] = {false, false};

	values[0] = PointerGetDatum(cstring_to_text_with_len(key, (int) key_len));
	values[1] = CStringGetTextDatum(problem);
	tuplestore_putvalues(result->setResult, result->setDesc, values, nulls);
}

static void
put_grant_problem(const char *problem, void *arg)
{
	ReturnSetInfo *result = arg;
	Datum values[2];
	bool nulls[2] = {true, false};

	values[0] = (Datum) 0;
	values[1] = CStringGetTextDatum(problem);
	tuplestore_putvalues(result->setResult, result->setDesc, values, nulls);
}

/* No row: they agree, and all grants are somebody's. */
Datum
pgr_sql_verify(PG_FUNCTION_ARGS)
{
	ReturnSetInfo *result = (ReturnSetInfo *) fcinfo->resultinfo;
	PgrDefinition definition;

	InitMaterializedSRF(fcinfo, 0);
	open_unchanged("registry.verify()", pgr_name_argument(fcinfo),
				   &definition);
	pgr_grants_check(&definition, put_grant_problem, result);
	if (definition.durable)
		pgr_load_compare(&definition, put_problem, result);
	return (Datum) 0;
}

Datum
pgr_sql_reload(PG_FUNCTION_ARGS)
{
	PgrDefinition definition;

	open_unchanged("registry.reload()", pgr_name_argument(fcinfo),
				   &definition);
	if (!definition.durable)
		ereport(ERROR,
				(errcode(ERRCODE_WRONG_OBJECT_TYPE),
				 errmsg("registry \"%.*s\" is not durable",
						definition.name_len, definition.name),
				 errdetail("There is no table to load it from.")));
	/* what calls for it may have passed by standbys, too */
	pgr_changes_note(pgr_name_argument(fcinfo));
	if (definition.incarnation != 0)
		pgr_pending_grants(&definition);
	PG_RETURN_BOOL(pgr_load_registry(&definition));
}
