/*
 * durable/arm.c
 *	  See arm.h.
 */
#include "postgres.h"

#include "access/genam.h"
#include "access/htup_details.h"
#include "access/table.h"
#include "access/xlog.h"
#include "catalog/pg_type.h"
#include "commands/dbcommands.h"
#include "miscadmin.h"
#include "storage/lmgr.h"
#include "utils/builtins.h"
#include "utils/rel.h"
#include "utils/snapmgr.h"

#include "base/compat.h"
#include "durable/arm.h"
#include "durable/statement.h"
#include "durable/tables.h"

/* Columns of _registry.stamps that we read. */
enum StampColumn
{
	STAMP_SYSTEM_IDENTIFIER = 1,
	STAMP_DATABASE,
	STAMP_COLUMNS = STAMP_DATABASE
};

static const Oid stamp_types[STAMP_COLUMNS] = {INT8OID, OIDOID};

/* Both at once, so that nobody ever sees the database without a stamp. */
static PgrStatement replace_stamps = {
	"WITH gone AS (DELETE FROM _registry.stamps)"
	" INSERT INTO _registry.stamps (system_identifier, database, armed_by)"
	" VALUES ($1, $2, $3)",
	3,
	{INT8OID, OIDOID, TEXTOID},
	NULL,
};

/* As pg_control_system() shows it: the upper half of them is negative. */
static int64
own_identifier(void)
{
	return (int64) GetSystemIdentifier();
}

static Datum
column(HeapTuple tuple, TupleDesc desc, int number)
{
	bool isnull;
	Datum value = heap_getattr(tuple, number, desc, &isnull);

	/* no oid and no identifier is 0 */
	return isnull ? (Datum) 0 : value;
}

/* What a stamp has against it; NULL if it is our own. */
static const char *
find_fault(HeapTuple tuple, TupleDesc desc)
{
	if (DatumGetInt64(column(tuple, desc, STAMP_SYSTEM_IDENTIFIER)) !=
		own_identifier())
		return "It comes from another cluster: by a dump, by logical replication or by pg_upgrade.";
	if (DatumGetObjectId(column(tuple, desc, STAMP_DATABASE)) != MyDatabaseId)
		return "It is a copy of another database of this cluster.";
	return NULL;
}

static const char *
why_held(Relation stamps, PgrTableView view)
{
	const char *why = "Nothing in _registry.stamps says where it belongs.";
	Snapshot snapshot = pgr_tables_snapshot(view);
	SysScanDesc scan = systable_beginscan(stamps, InvalidOid, false, snapshot,
										  0, NULL);
	HeapTuple tuple;

	while (HeapTupleIsValid(tuple = systable_getnext(scan)))
		if ((why = find_fault(tuple, RelationGetDescr(stamps))) != NULL)
			break;
	systable_endscan(scan);
	UnregisterSnapshot(snapshot);
	return why;
}

const char *
pgr_arm_why_held(PgrTableView view)
{
	Oid table = pgr_tables_named("stamps");
	Relation stamps;
	const char *why;

	if (!OidIsValid(table))
		return "The table _registry.stamps is missing.";
	stamps = table_open(table, AccessShareLock);
	pgr_tables_check_columns(stamps, stamp_types, STAMP_COLUMNS);
	why = why_held(stamps, view);
	table_close(stamps, AccessShareLock);
	return why;
}

void
pgr_arm_require(const char *what)
{
	const char *why = pgr_arm_why_held(PGR_VIEW_NEWEST);

	if (why == NULL)
		return;
	ereport(ERROR,
			(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
			 errmsg("%s is refused: database \"%s\" is held and sends nothing",
					what, get_database_name(MyDatabaseId)),
			 errdetail_internal("%s", why), errhint(PGR_ARM_HINT)));
}

bool
pgr_arm(void)
{
	Oid table = pgr_tables_named("stamps");
	Datum values[3];

	if (!OidIsValid(table))
		pgr_tables_missing();
	/* two at the same time leave one stamp */
	LockRelationOid(table, ShareRowExclusiveLock);
	if (pgr_arm_why_held(PGR_VIEW_NEWEST) == NULL)
		return false;
	values[0] = Int64GetDatum(own_identifier());
	values[1] = ObjectIdGetDatum(MyDatabaseId);
	values[2] = CStringGetTextDatum(GetUserNameFromId(GetUserId(), false));
	(void) pgr_statement_run(&replace_stamps, values, NULL);
	return true;
}
