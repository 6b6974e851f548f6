/*
 * durable/guard.c
 *	  See guard.h.  Runs in backends and in loaders, in a transaction.
 */
#include "postgres.h"

#include "access/genam.h"
#include "access/htup_details.h"
#include "access/relation.h"
#include "access/table.h"
#include "access/xact.h"
#include "catalog/dependency.h"
#include "catalog/namespace.h"
#include "catalog/pg_class.h"
#include "catalog/pg_namespace.h"
#include "catalog/pg_trigger.h"
#include "commands/extension.h"
#include "commands/trigger.h"
#include "executor/spi.h"
#include "lib/stringinfo.h"
#include "miscadmin.h"
#include "storage/lmgr.h"
#include "utils/fmgroids.h"
#include "utils/lsyscache.h"
#include "utils/rel.h"
#include "utils/reltrigger.h"
#include "utils/snapmgr.h"

#include "base/compat.h"
#include "durable/guard.h"
#include "durable/tables.h"
#include "registry/directory.h"
#include "registry/pending.h"
#include "shm/area.h"
#include "shm/load_state.h"

/* ------------------------------------------------------------------------
 * The triggers, as the install script makes them
 * ------------------------------------------------------------------------
 */

typedef struct OurTrigger
{
	const char *table;
	const char *name;
	int16 type;
	const char *when; /* as in CREATE TRIGGER */
	const char *function;
} OurTrigger;

#define ROW_CHANGES                                                 \
	(TRIGGER_TYPE_ROW | TRIGGER_TYPE_INSERT | TRIGGER_TYPE_UPDATE | \
	 TRIGGER_TYPE_DELETE)

static const OurTrigger ours[] = {
	{"definitions", "changed", ROW_CHANGES, "AFTER INSERT OR UPDATE OR DELETE",
	 "definitions_changed"},
	{"definitions", "emptied", TRIGGER_TYPE_BEFORE | TRIGGER_TYPE_TRUNCATE,
	 "BEFORE TRUNCATE", "definitions_changed"},
	{"stored_entries", "changes", TRIGGER_TYPE_BEFORE | ROW_CHANGES,
	 "BEFORE INSERT OR UPDATE OR DELETE", "entries_changed"},
	{"stored_entries", "changed", ROW_CHANGES,
	 "AFTER INSERT OR UPDATE OR DELETE", "entries_changed"},
	{"stored_entries", "empties", TRIGGER_TYPE_BEFORE | TRIGGER_TYPE_TRUNCATE,
	 "BEFORE TRUNCATE", "entries_changed"},
	{"stored_entries", "emptied", TRIGGER_TYPE_TRUNCATE, "AFTER TRUNCATE",
	 "entries_changed"},
	{"grants", "changed", ROW_CHANGES, "AFTER INSERT OR UPDATE OR DELETE",
	 "grants_changed"},
	{"grants", "emptied", TRIGGER_TYPE_TRUNCATE, "AFTER TRUNCATE",
	 "grants_changed"},
};

typedef enum TriggerState
{
	IN_FORCE,
	NOT_ALWAYS, /* but for ordinary sessions it is */
	DISABLED,
	MISSING
} TriggerState;

/* No condition, no list of columns, not deferred: it misses nothing. */
static bool
is_as_made(const Trigger *trigger, const OurTrigger *our)
{
	char *function = get_func_name(trigger->tgfoid);

	return trigger->tgtype == our->type && trigger->tgqual == NULL &&
		trigger->tgnattr == 0 && !trigger->tgdeferrable && function != NULL &&
		strcmp(function, our->function) == 0 &&
		get_func_namespace(trigger->tgfoid) ==
		get_namespace_oid(PGR_SCHEMA, true);
}

static TriggerState
state_in(const TriggerDesc *triggers, const OurTrigger *our)
{
	for (int i = 0; triggers != NULL && i < triggers->numtriggers; i++)
	{
		const Trigger *trigger = &triggers->triggers[i];

		if (strcmp(trigger->tgname, our->name) != 0 ||
			!is_as_made(trigger, our))
			continue;
		switch (trigger->tgenabled)
		{
			case TRIGGER_FIRES_ALWAYS:
				return IN_FORCE;
			case TRIGGER_FIRES_ON_ORIGIN:
				return NOT_ALWAYS;
			default:
				return DISABLED;
		}
	}
	return MISSING;
}

/* With "lock" held from now to the end of the transaction; NoLock: not held. */
static TriggerState
state_of(const OurTrigger *our, LOCKMODE lock)
{
	Oid table = pgr_tables_named(our->table);
	TriggerState state;
	Relation relation;

	if (!OidIsValid(table))
		return MISSING;
	relation = table_open(table, lock == NoLock ? AccessShareLock : lock);
	state = state_in(relation->trigdesc, our);
	table_close(relation, lock == NoLock ? AccessShareLock : NoLock);
	return state;
}

/* ------------------------------------------------------------------------
 * Asking
 * ------------------------------------------------------------------------
 */

bool
pgr_guard_lock(void)
{
	bool in_force = true;

	for (size_t i = 0; i < lengthof(ours); i++)
		in_force &= state_of(&ours[i], RowExclusiveLock) == IN_FORCE;
	return in_force;
}

static void
add_problem(StringInfo problem, const OurTrigger *our, TriggerState state)
{
	appendStringInfo(problem, "%strigger \"%s\" on table %s.%s %s",
					 problem->len > 0 ? ", " : "", our->name, PGR_TABLE_SCHEMA,
					 our->table,
					 state == MISSING      ? "is missing" :
						 state == DISABLED ? "is disabled" :
											 "does not fire always");
}

static void
add_remedy(StringInfo remedy, const OurTrigger *our, TriggerState state)
{
	if (state == MISSING)
		appendStringInfo(
			remedy,
			" DROP TRIGGER IF EXISTS %s ON %s.%s; CREATE TRIGGER %s %s ON %s.%s FOR EACH %s EXECUTE FUNCTION %s.%s();",
			our->name, PGR_TABLE_SCHEMA, our->table, our->name, our->when,
			PGR_TABLE_SCHEMA, our->table,
			TRIGGER_FOR_ROW(our->type) ? "ROW" : "STATEMENT", PGR_SCHEMA,
			our->function);
	appendStringInfo(remedy, " ALTER TABLE %s.%s ENABLE ALWAYS TRIGGER %s;",
					 PGR_TABLE_SCHEMA, our->table, our->name);
}

static void
describe(LOCKMODE lock, StringInfo problem, StringInfo remedy)
{
	for (size_t i = 0; i < lengthof(ours); i++)
	{
		TriggerState state = state_of(&ours[i], lock);

		if (state == IN_FORCE)
			continue;
		add_problem(problem, &ours[i], state);
		add_remedy(remedy, &ours[i], state);
	}
}

void
pgr_guard_describe(char **problem, char **remedy)
{
	StringInfoData problems;
	StringInfoData remedies;

	initStringInfo(&problems);
	initStringInfo(&remedies);
	describe(NoLock, &problems, &remedies);
	*problem = problems.len > 0 ? problems.data : NULL;
	*remedy = problems.len > 0 ? psprintf("Execute%s", remedies.data) : NULL;
}

void
pgr_guard_require(void)
{
	StringInfoData problem;
	StringInfoData remedy;

	initStringInfo(&problem);
	initStringInfo(&remedy);
	describe(RowExclusiveLock, &problem, &remedy);
	if (problem.len > 0)
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("registries cannot be kept in memory: %s",
						problem.data),
				 errdetail("Changes of the tables could bypass the memory, so the registries are read from their tables."),
				 errhint("Execute%s", remedy.data)));
	pfree(problem.data);
	pfree(remedy.data);
}

/* ------------------------------------------------------------------------
 * Repairing
 * ------------------------------------------------------------------------
 */

static void
fire_always(const OurTrigger *our)
{
	char *statement = psprintf("ALTER TABLE %s.%s ENABLE ALWAYS TRIGGER %s",
							   PGR_TABLE_SCHEMA, our->table, our->name);

	if (SPI_connect() != SPI_OK_CONNECT ||
		SPI_execute(statement, false, 0) != SPI_OK_UTILITY)
		elog(ERROR, "could not execute: %s", statement);
	SPI_finish();
	ereport(LOG,
			(errmsg("trigger \"%s\" on table %s.%s fires always again",
					our->name, PGR_TABLE_SCHEMA, our->table)));
}

void
pgr_guard_repair(void)
{
	for (size_t i = 0; i < lengthof(ours); i++)
		if (state_of(&ours[i], NoLock) == NOT_ALWAYS)
			fire_always(&ours[i]);
}

/* ------------------------------------------------------------------------
 * Noticing
 * ------------------------------------------------------------------------
 */

/* As this command has it: it may have made the trigger. */
static Oid
table_of_trigger(Oid trigger)
{
	Relation relation = table_open(TriggerRelationId, AccessShareLock);
	Oid table = InvalidOid;
	ScanKeyData key;
	SysScanDesc scan;
	HeapTuple tuple;

	ScanKeyInit(&key, Anum_pg_trigger_oid, BTEqualStrategyNumber, F_OIDEQ,
				ObjectIdGetDatum(trigger));
	scan = systable_beginscan(relation, TriggerOidIndexId, true, SnapshotSelf,
							  1, &key);
	tuple = systable_getnext(scan);
	if (HeapTupleIsValid(tuple))
		table = ((Form_pg_trigger) GETSTRUCT(tuple))->tgrelid;
	systable_endscan(scan);
	table_close(relation, AccessShareLock);
	return table;
}

/* By its name, or as the extension's: it may have had another name. */
static bool
is_our_table(Oid table)
{
	Oid extension = pgr_directory_extension();

	if (!OidIsValid(table) || !OidIsValid(extension))
		return false;
	return table == pgr_tables_definitions() ||
		table == pgr_tables_entries() || table == pgr_tables_grants() ||
		getExtensionOfObject(RelationRelationId, table) == extension;
}

/* Commands that take less leave rows and triggers as they are. */
static bool
is_locked_to_alter(Oid table)
{
	Relation relation = try_relation_open(table, AccessShareLock);
	bool locked;

	if (relation == NULL)
		return false;
	locked = CheckRelationLockedByMe(relation, ShareRowExclusiveLock, true);
	relation_close(relation, AccessShareLock);
	return locked;
}

/* CREATE EXTENSION makes its own tables, and nothing of it is in memory. */
static bool
is_being_created(void)
{
	const PgrSharedRoot *root;
	uint32 slot;

	if (!creating_extension ||
		CurrentExtensionObject != pgr_directory_extension())
		return false;
	LWLockAcquire(pgr_area_lock(PGR_LOCK_WRITER), LW_SHARED);
	root = pgr_image_ptr(pgr_image, pgr_image->root);
	slot = pgr_directory_slot(root, PGR_NEWEST, MyDatabaseId,
							  CurrentExtensionObject);
	LWLockRelease(pgr_area_lock(PGR_LOCK_WRITER));
	return slot == PGR_NO_SLOT;
}

/* What PostgreSQL does for its own ends changes neither rows nor triggers. */
static bool
is_of_interest(ObjectAccessType access, Oid class, const void *arg)
{
	switch (access)
	{
		case OAT_POST_CREATE:
			return class == TriggerRelationId &&
				!((const ObjectAccessPostCreate *) arg)->is_internal;
		case OAT_POST_ALTER:
			return (class == TriggerRelationId ||
					class == RelationRelationId ||
					class == NamespaceRelationId) &&
				!((const ObjectAccessPostAlter *) arg)->is_internal;
		case OAT_DROP:
			return class == TriggerRelationId;
		default:
			return false;
	}
}

/*
 * Our triggers do not know the tables while the schema has another name.  Who
 * gives it one has not locked them.
 */
static void
note_schema(Oid schema)
{
	static const char *const tables[] = {"definitions", "stored_entries",
										 "grants"};
	Oid extension = pgr_directory_extension();

	if (!OidIsValid(extension) ||
		getExtensionOfObject(NamespaceRelationId, schema) != extension)
		return;
	for (size_t i = 0; i < lengthof(tables); i++)
	{
		Oid table = get_relname_relid(tables[i], schema);

		if (OidIsValid(table))
			LockRelationOid(table, ShareRowExclusiveLock);
	}
	pgr_pending_forget(extension);
}

static bool extension_created = false; /* by this transaction, maybe */

/* There are no registries to load, but rates that were fetched before. */
static void
created_callback(XactEvent event, void *arg)
{
	if (event == XACT_EVENT_COMMIT && extension_created)
		pgr_load_want();
	if (event == XACT_EVENT_COMMIT || event == XACT_EVENT_ABORT)
		extension_created = false;
}

static void
note_extension(void)
{
	static bool registered = false;

	if (!registered)
		RegisterXactCallback(created_callback, NULL);
	registered = true;
	extension_created = true;
}

static void
note_table(ObjectAccessType access, Oid table)
{
	/* who drops a trigger locks its table after he has told us */
	if (!is_our_table(table) ||
		(access != OAT_DROP && !is_locked_to_alter(table)))
		return;
	if (is_being_created())
		note_extension();
	else
		pgr_pending_forget(pgr_directory_extension());
}

void
pgr_guard_object(ObjectAccessType access, Oid class, Oid object,
				 const void *arg)
{
	if (!OidIsValid(MyDatabaseId) || !is_of_interest(access, class, arg))
		return;
	if (class == NamespaceRelationId)
		note_schema(object);
	else
		note_table(access,
				   class == TriggerRelationId ? table_of_trigger(object) :
												object);
}
