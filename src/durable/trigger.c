/*
 * durable/trigger.c
 *	  The trigger on the tables: whatever changes a row reaches the image with
 *	  the commit, be it put(), DML of the owner, COPY or a logical replication
 *	  apply worker (hence ENABLE ALWAYS).
 *
 * BEFORE takes the locks that order changes (W-2) and puts values of other
 * people's rows into the form in which put() stores them.  AFTER adds the
 * change to the list of pending changes, which knows subtransactions and
 * command ids as rows do; so what it lists is what the table will hold.
 *
 * Of a registry that the image does not know yet nothing is listed: whoever
 * loads it takes the lock on all of it first, and waits for us.
 */
#include "postgres.h"

#include "access/htup_details.h"
#include "access/xact.h"
#include "commands/trigger.h"
#include "executor/spi.h"
#include "fmgr.h"
#include "miscadmin.h"
#include "utils/builtins.h"
#include "utils/fmgrprotos.h"
#include "utils/rel.h"
#include "utils/timestamp.h"

#include "base/compat.h"
#include "durable/changes.h"
#include "durable/guard.h"
#include "durable/store.h"
#include "durable/tables.h"
#include "registry/pending.h"
#include "shm/area.h"

PG_FUNCTION_INFO_V1(pgr_sql_entries_trigger);
PG_FUNCTION_INFO_V1(pgr_sql_definitions_trigger);
PG_FUNCTION_INFO_V1(pgr_sql_grants_trigger);

/* Not in a trigger that somebody else's row fires during our statement. */
static bool
is_quiet(void)
{
	return pgr_store_quiet_at >= 0 &&
		DatumGetInt32(pg_trigger_depth(NULL)) == pgr_store_quiet_at + 1;
}

static bool
is_same_text(PgrText a, PgrText b)
{
	return a.len == b.len && memcmp(a.data, b.data, a.len) == 0;
}

/* ------------------------------------------------------------------------
 * Entries, before
 * ------------------------------------------------------------------------
 */

static void
refuse_memory_registry(const PgrDefinition *definition)
{
	if (!definition->durable)
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("registry \"%.*s\" is not durable",
						definition->name_len, definition->name),
				 errhint("Use registry.put(): its entries are in memory only.")));
}

static void
check_key(PgrText key)
{
	if (key.len == 0 || key.len > PGR_KEY_MAX_BYTES)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("a key of %u bytes is not possible", key.len),
				 errdetail("Keys have 1 to %d bytes.", PGR_KEY_MAX_BYTES)));
}

/* The row with its value as put() would have stored it. */
static HeapTuple
with_stored_value(HeapTuple tuple, TupleDesc desc,
				  const PgrDefinition *definition, const PgrTableRow *row)
{
	PgrValueType type = (PgrValueType) definition->value_type;
	int column = PGR_ENTRY_VALUE;
	bool isnull = false;
	PgrValue value;
	Datum datum;
	char *stored;

	pgr_value_from_text(type, row->value, &value);
	stored = pgr_value_to_stored(type, &value);
	if (strcmp(stored, row->value) == 0)
		return tuple;
	datum = CStringGetTextDatum(stored);
	return heap_modify_tuple_by_cols(tuple, desc, 1, &column, &datum, &isnull);
}

/*
 * Whoever is creating the registry does not see our row: let him commit, and
 * the next one wait until we have.
 */
static bool
open_or_wait(const PgrTableRow *row, PgrDefinition *definition)
{
	if (pgr_write_open_row(row->registry, &row->key, definition))
		return true;
	pgr_write_keep_directory();
	return pgr_write_open_row(row->registry, &row->key, definition);
}

static HeapTuple
lock_and_check(HeapTuple tuple, TupleDesc desc, bool writes)
{
	PgrDefinition definition;
	PgrTableRow row;

	/* NOT NULL has the better message, and its turn comes after this */
	for (int i = 1; i <= PGR_ENTRY_UPDATED_AT; i++)
		if (heap_attisnull(tuple, i, desc))
			return tuple;
	pgr_tables_read_entry(tuple, desc, &row);
	if (writes)
		check_key(row.key);
	if (!open_or_wait(&row, &definition))
		return tuple; /* of a registry that is yet to come */
	if (!writes)
		return tuple;
	refuse_memory_registry(&definition);
	return with_stored_value(tuple, desc, &definition, &row);
}

static HeapTuple
before_row(const TriggerData *trigger)
{
	TupleDesc desc = RelationGetDescr(trigger->tg_relation);

	if (TRIGGER_FIRED_BY_DELETE(trigger->tg_event))
		return lock_and_check(trigger->tg_trigtuple, desc, false);
	if (TRIGGER_FIRED_BY_INSERT(trigger->tg_event))
		return lock_and_check(trigger->tg_trigtuple, desc, true);
	(void) lock_and_check(trigger->tg_trigtuple, desc, false);
	return lock_and_check(trigger->tg_newtuple, desc, true);
}

/* ------------------------------------------------------------------------
 * Entries, after
 * ------------------------------------------------------------------------
 */

/*
 * The registry of a row, if it is one whose changes are listed.  Of others a
 * standby is told here.
 */
static bool
is_listed(const PgrTableRow *row, PgrDefinition *definition)
{
	if (pgr_write_open_row(row->registry, &row->key, definition) &&
		definition->incarnation != 0)
		return true;
	pgr_pending_hidden();
	pgr_changes_note(row->registry);
	return false;
}

/*
 * List what the table holds for the key of a row by now: another trigger, or a
 * function that the statement calls, may have changed it since.
 */
static void
record_key(HeapTuple tuple, TupleDesc desc)
{
	PgrDefinition definition;
	PgrTableRow row;
	PgrTableRow now;
	PgrValue value;

	pgr_tables_read_entry(tuple, desc, &row);
	if (!is_listed(&row, &definition))
		return;
	if (!pgr_table->find(row.registry, row.key, PGR_VIEW_NEWEST, &now))
	{
		pgr_pending_delete(&definition, row.key.data, row.key.len);
		return;
	}
	pgr_value_from_text((PgrValueType) definition.value_type, now.value,
						&value);
	pgr_pending_put(&definition, row.key.data, row.key.len, &value,
					now.updated_at, now.expires_at);
}

static bool
has_other_key(HeapTuple before, HeapTuple after, TupleDesc desc)
{
	PgrTableRow a;
	PgrTableRow b;

	pgr_tables_read_entry(before, desc, &a);
	pgr_tables_read_entry(after, desc, &b);
	return !is_same_text(a.registry, b.registry) ||
		!is_same_text(a.key, b.key);
}

static void
after_row(const TriggerData *trigger)
{
	TupleDesc desc = RelationGetDescr(trigger->tg_relation);

	record_key(trigger->tg_trigtuple, desc);
	if (TRIGGER_FIRED_BY_UPDATE(trigger->tg_event) &&
		has_other_key(trigger->tg_trigtuple, trigger->tg_newtuple, desc))
		record_key(trigger->tg_newtuple, desc);
}

/* ------------------------------------------------------------------------
 * TRUNCATE
 * ------------------------------------------------------------------------
 */

static void
lock_durable(const PgrDefinition *definition, void *arg)
{
	PgrText name = {definition->name, definition->name_len};
	PgrDefinition now;

	if (definition->durable)
		(void) pgr_write_open_row(name, NULL, &now);
}

static void
clear_durable(const PgrDefinition *definition, void *arg)
{
	PgrText name = {definition->name, definition->name_len};
	PgrDefinition now;

	if (!definition->durable || !pgr_write_open_row(name, NULL, &now))
		return;
	if (now.incarnation != 0)
	{
		pgr_pending_clear(&now);
		return;
	}
	pgr_pending_unlisted();
	pgr_changes_note(name);
}

static bool
is_trigger_call(FunctionCallInfo fcinfo)
{
	if (!CALLED_AS_TRIGGER(fcinfo))
		ereport(ERROR,
				(errcode(ERRCODE_E_R_I_E_TRIGGER_PROTOCOL_VIOLATED),
				 errmsg("this function can be called as a trigger only")));
	pgr_pending_unlisted();
	return pgr_area_header != NULL;
}

static HeapTuple
unchanged_row(const TriggerData *trigger)
{
	return TRIGGER_FIRED_BY_UPDATE(trigger->tg_event) ? trigger->tg_newtuple :
														trigger->tg_trigtuple;
}

static void
note_definition(const PgrDefinition *definition, void *arg)
{
	PgrText name = {definition->name, definition->name_len};

	pgr_changes_note(name);
}

static void
note_tuple(HeapTuple tuple, TupleDesc desc)
{
	PgrTableRow row;

	if (tuple == NULL)
		return;
	pgr_tables_read_entry(tuple, desc, &row);
	pgr_changes_note(row.registry);
}

/* All that a server does that has not preloaded us. */
static void
note_for_standbys(const TriggerData *trigger)
{
	TupleDesc desc = RelationGetDescr(trigger->tg_relation);

	if (RelationGetRelid(trigger->tg_relation) != pgr_tables_entries() ||
		TRIGGER_FIRED_BEFORE(trigger->tg_event))
		return;
	if (TRIGGER_FIRED_FOR_STATEMENT(trigger->tg_event))
		pgr_tables.each_definition(PGR_VIEW_NEWEST, note_definition, NULL);
	else
	{
		note_tuple(trigger->tg_trigtuple, desc);
		note_tuple(trigger->tg_newtuple, desc);
	}
}

Datum
pgr_sql_entries_trigger(PG_FUNCTION_ARGS)
{
	const TriggerData *trigger = (const TriggerData *) fcinfo->context;
	bool before;

	/* without shared memory there is no image to keep, but perhaps a standby */
	if (!is_trigger_call(fcinfo) ||
		RelationGetRelid(trigger->tg_relation) != pgr_tables_entries())
	{
		note_for_standbys(trigger);
		return PointerGetDatum(TRIGGER_FIRED_FOR_ROW(trigger->tg_event) ?
								   unchanged_row(trigger) :
								   NULL);
	}
	pgr_tables_check(trigger->tg_relation, PGR_OF_ENTRIES);
	before = TRIGGER_FIRED_BEFORE(trigger->tg_event);
	if (TRIGGER_FIRED_FOR_STATEMENT(trigger->tg_event))
	{
		pgr_tables.each_definition(PGR_VIEW_NEWEST,
								   before ? lock_durable : clear_durable,
								   NULL);
		return PointerGetDatum(NULL);
	}
	if (is_quiet())
		return PointerGetDatum(unchanged_row(trigger));
	if (before)
		return PointerGetDatum(before_row(trigger));
	after_row(trigger);
	return PointerGetDatum(unchanged_row(trigger));
}

/* ------------------------------------------------------------------------
 * Definitions
 * ------------------------------------------------------------------------
 */

/* The registry that the image has for this name, under the directory's lock. */
static bool
known(const PgrDefinition *row, PgrDefinition *definition)
{
	PgrText name = {row->name, row->name_len};

	/* a registry that gets another name: see pgr_pending_forget() */
	(void) pgr_guard_lock();
	pgr_write_lock_directory();
	return pgr_write_open_row(name, NULL, definition) &&
		definition->incarnation != 0;
}

/*
 * Somebody else's row, of a restore or of a publisher.  Its entries may have
 * come before it, so the registry is read from the table until it is loaded;
 * nobody needs to wait for those who write them.
 */
static void
record_create(const PgrDefinition *row)
{
	pgr_write_lock_directory();
	if (!pgr_write_is_known(row))
		pgr_pending_create(row);
}

static void
record_drop(const PgrDefinition *row)
{
	PgrDefinition definition;

	if (known(row, &definition))
		pgr_pending_drop(&definition);
}

/*
 * Entries are in the table in the form of their type, under their name: a row
 * of a durable registry that gets another one means other entries.
 */
static bool
keeps_entries(const PgrDefinition *row, const PgrDefinition *altered)
{
	return row->value_type == altered->value_type &&
		row->durable == altered->durable &&
		(!row->durable || strcmp(row->name, altered->name) == 0);
}

static void
record_alter(const PgrDefinition *row, const PgrDefinition *altered)
{
	PgrDefinition definition;
	PgrDefinition now;

	if (!keeps_entries(row, altered))
	{
		record_drop(row);
		record_create(altered);
		return;
	}
	if (!known(row, &definition))
		return;
	now = *altered;
	now.incarnation = definition.incarnation;
	now.residency = definition.residency;
	pgr_pending_alter(&definition, &now);
	pgr_pending_grants(&now); /* those of the new name */
}

/* What create_registry() would not have taken. */
static void
check_definition(HeapTuple tuple, TupleDesc desc,
				 const PgrDefinition *definition)
{
	bool isnull;
	char *keys = TextDatumGetCString(
		heap_getattr(tuple, PGR_DEF_KEYS, desc, &isnull));

	if (strcmp(definition->name, PGR_RATES_NAME) == 0)
		ereport(ERROR,
				(errcode(ERRCODE_RESERVED_NAME),
				 errmsg("the registry name \"%s\" is reserved for exchange rates",
						PGR_RATES_NAME)));
	if (strcmp(keys, "unique") != 0 ||
		DatumGetBool(heap_getattr(tuple, PGR_DEF_NOTIFY, desc, &isnull)))
		ereport(ERROR,
				(errcode(ERRCODE_FEATURE_NOT_SUPPORTED),
				 errmsg("registry \"%s\" is defined by a newer version of pg_registry",
						definition->name),
				 errdetail("This one supports keys = 'unique' and notify = false.")));
}

static void
read_new_definition(HeapTuple tuple, TupleDesc desc, PgrDefinition *definition)
{
	pgr_tables_read_definition(tuple, desc, definition);
	check_definition(tuple, desc, definition);
}

static PgrText
name_of(const PgrDefinition *definition)
{
	PgrText name = {definition->name, definition->name_len};

	return name;
}

static void
after_definition(const TriggerData *trigger)
{
	TupleDesc desc = RelationGetDescr(trigger->tg_relation);
	PgrDefinition before;
	PgrDefinition after;

	if (TRIGGER_FIRED_BY_INSERT(trigger->tg_event))
	{
		read_new_definition(trigger->tg_trigtuple, desc, &after);
		pgr_changes_note(name_of(&after));
		record_create(&after);
		return;
	}
	pgr_tables_read_definition(trigger->tg_trigtuple, desc, &before);
	pgr_changes_note(name_of(&before));
	if (TRIGGER_FIRED_BY_DELETE(trigger->tg_event))
	{
		record_drop(&before);
		return;
	}
	read_new_definition(trigger->tg_newtuple, desc, &after);
	pgr_changes_note(name_of(&after));
	record_alter(&before, &after);
}

/* As note_for_standbys(). */
static void
note_definitions(const TriggerData *trigger)
{
	TupleDesc desc = RelationGetDescr(trigger->tg_relation);
	HeapTuple tuples[] = {trigger->tg_trigtuple, trigger->tg_newtuple};
	PgrDefinition definition;

	if (RelationGetRelid(trigger->tg_relation) != pgr_tables_definitions())
		return;
	if (TRIGGER_FIRED_FOR_STATEMENT(trigger->tg_event))
		pgr_tables.each_definition(PGR_VIEW_NEWEST, note_definition, NULL);
	for (int i = 0; i < 2; i++)
	{
		if (TRIGGER_FIRED_FOR_STATEMENT(trigger->tg_event) ||
			tuples[i] == NULL)
			continue;
		pgr_tables_read_definition(tuples[i], desc, &definition);
		note_definition(&definition, NULL);
	}
}

static void
drop_definition(const PgrDefinition *definition, void *arg)
{
	pgr_changes_note(name_of(definition));
	record_drop(definition);
}

Datum
pgr_sql_definitions_trigger(PG_FUNCTION_ARGS)
{
	const TriggerData *trigger = (const TriggerData *) fcinfo->context;

	if (!is_trigger_call(fcinfo))
		note_definitions(trigger);
	if (pgr_area_header == NULL ||
		RelationGetRelid(trigger->tg_relation) != pgr_tables_definitions() ||
		is_quiet())
		return PointerGetDatum(NULL);
	pgr_tables_check(trigger->tg_relation, PGR_OF_DEFINITIONS);
	if (TRIGGER_FIRED_FOR_STATEMENT(trigger->tg_event))
		pgr_tables.each_definition(PGR_VIEW_NEWEST, drop_definition, NULL);
	else
		after_definition(trigger);
	return PointerGetDatum(NULL);
}

/* ------------------------------------------------------------------------
 * Grants
 * ------------------------------------------------------------------------
 */

/*
 * The commit reads them from the table, under this lock.  A server that has
 * not preloaded us only tells standbys.
 */
static void
record_grants(PgrText registry)
{
	PgrDefinition definition;

	pgr_changes_note_grants(registry);
	if (pgr_area_header == NULL)
		return;
	pgr_write_lock_directory();
	if (pgr_write_find_known(registry, &definition))
		pgr_pending_grants(&definition);
}

static void
empty_grants(const PgrDefinition *definition, void *arg)
{
	record_grants(name_of(definition));
}

Datum
pgr_sql_grants_trigger(PG_FUNCTION_ARGS)
{
	const TriggerData *trigger = (const TriggerData *) fcinfo->context;
	TupleDesc desc;

	(void) is_trigger_call(fcinfo);
	if (RelationGetRelid(trigger->tg_relation) != pgr_tables_grants() ||
		is_quiet())
		return PointerGetDatum(NULL);
	pgr_tables_check(trigger->tg_relation, PGR_OF_GRANTS);
	if (TRIGGER_FIRED_FOR_STATEMENT(trigger->tg_event))
	{
		pgr_tables.each_definition(PGR_VIEW_NEWEST, empty_grants, NULL);
		return PointerGetDatum(NULL);
	}
	desc = RelationGetDescr(trigger->tg_relation);
	record_grants(pgr_tables_registry_of_grant(trigger->tg_trigtuple, desc));
	if (TRIGGER_FIRED_BY_UPDATE(trigger->tg_event))
		record_grants(
			pgr_tables_registry_of_grant(trigger->tg_newtuple, desc));
	return PointerGetDatum(NULL);
}
