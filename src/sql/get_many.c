/*
 * sql/get_many.c
 *	  get_many, and what the planner is told about set-returning functions.
 */
#include "postgres.h"

#include "catalog/pg_type.h"
#include "fmgr.h"
#include "funcapi.h"
#include "miscadmin.h"
#include "nodes/nodeFuncs.h"
#include "nodes/supportnodes.h"
#include "optimizer/cost.h"
#include "optimizer/optimizer.h"
#include "utils/array.h"
#include "utils/builtins.h"
#include "utils/memutils.h"
#include "utils/selfuncs.h"

#include "base/compat.h"
#include "registry/reader.h"
#include "shm/area.h"

PG_FUNCTION_INFO_V1(pgr_sql_get_many);
PG_FUNCTION_INFO_V1(pgr_sql_entries_support);

typedef struct Rows
{
	ReturnSetInfo *result;
	MemoryContext context; /* of one row */
} Rows;

static void
put_row(const PgrBlock *block, const PgrEntry *entry, void *arg)
{
	Rows *rows = arg;
	MemoryContext caller = MemoryContextSwitchTo(rows->context);
	Datum values[2];
	bool nulls[2] = {false, false};
	PgrValue value;

	pgr_value_of_entry(block->definition.value_type, entry, &value);
	values[0] = PointerGetDatum(
		cstring_to_text_with_len(entry->key, entry->key_len));
	values[1] = pgr_value_to_jsonb(block->definition.value_type, &value);
	tuplestore_putvalues(rows->result->setResult, rows->result->setDesc,
						 values, nulls);
	MemoryContextSwitchTo(caller);
	MemoryContextReset(rows->context);
}

/* NULLs get no length: they are no keys. */
static PgrText *
keys_of(ArrayType *array, int *n)
{
	Datum *datums;
	bool *nulls;
	PgrText *keys;

	deconstruct_array(array, TEXTOID, -1, false, TYPALIGN_INT, &datums, &nulls,
					  n);
	keys = MemoryContextAllocHuge(CurrentMemoryContext,
								  Max(*n, 1) * sizeof(PgrText));
	for (int i = 0; i < *n; i++)
	{
		PgrText none = {"", 0};

		keys[i] = nulls[i] ? none : pgr_text(datums[i]);
		if (keys[i].len > PGR_KEY_MAX_BYTES)
			keys[i] = none;
	}
	return keys;
}

Datum
pgr_sql_get_many(PG_FUNCTION_ARGS)
{
	Rows rows = {.result = (ReturnSetInfo *) fcinfo->resultinfo};
	PgrText *keys;
	int n;

	InitMaterializedSRF(fcinfo, 0);
	keys = keys_of(PG_GETARG_ARRAYTYPE_P(1), &n);
	rows.context = AllocSetContextCreate(CurrentMemoryContext,
										 "pg_registry row",
										 ALLOCSET_SMALL_SIZES);
	pgr_reader_find_many(pgr_text(PG_GETARG_DATUM(0)), keys, n, put_row,
						 &rows);
	MemoryContextDelete(rows.context);
	return (Datum) 0;
}

/* ------------------------------------------------------------------------
 * Planner support
 * ------------------------------------------------------------------------
 */

/* What the planner assumes if it cannot know better; as in the script. */
#define DEFAULT_ROWS 100

/* Entries of the registry that the first argument names, if it is known. */
static bool
estimate_entries(PlannerInfo *root, List *args, double *entries)
{
	Node *name = estimate_expression_value(root, linitial(args));

	if (pgr_area_header == NULL || !IsA(name, Const) ||
		((Const *) name)->constisnull ||
		((Const *) name)->consttype != TEXTOID)
		return false;
	return pgr_reader_estimate(pgr_text(((Const *) name)->constvalue),
							   entries);
}

/* entries(registry) and get_many(registry, keys) */
static double
estimate_rows(PlannerInfo *root, List *args)
{
	double rows = DEFAULT_ROWS;
	bool known = estimate_entries(root, args, &rows);

	if (list_length(args) > 1)
	{
		double keys = estimate_array_length(
			estimate_expression_value(root, lsecond(args)));

		rows = known ? Min(rows, keys) : keys;
	}
	return clamp_row_est(rows);
}

Datum
pgr_sql_entries_support(PG_FUNCTION_ARGS)
{
	Node *request = (Node *) PG_GETARG_POINTER(0);

	if (IsA(request, SupportRequestRows))
	{
		SupportRequestRows *rows = (SupportRequestRows *) request;

		if (!is_funcclause(rows->node))
			PG_RETURN_POINTER(NULL);
		rows->rows = estimate_rows(rows->root,
								   ((FuncExpr *) rows->node)->args);
		PG_RETURN_POINTER(request);
	}
	if (IsA(request, SupportRequestCost))
	{
		SupportRequestCost *cost = (SupportRequestCost *) request;

		if (cost->root == NULL || cost->node == NULL ||
			!is_funcclause(cost->node))
			PG_RETURN_POINTER(NULL);
		/* each row is looked up, and its value made jsonb */
		cost->startup = 0;
		cost->per_tuple = cpu_operator_cost *
			(1 +
			 4 * estimate_rows(cost->root, ((FuncExpr *) cost->node)->args));
		PG_RETURN_POINTER(request);
	}
	PG_RETURN_POINTER(NULL);
}
