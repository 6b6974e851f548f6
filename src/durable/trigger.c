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
#include "utils/rel.h"
#include "utils/timestamp.h"

#include "base/compat.h"
#include "durable/store.h"
#include "durable/tables.h"
#include "registry/pending.h"
#include "shm/area.h"

PG_FUNCTION_INFO_V1(pgr_sql_entries_trigger);
PG_FUNCTION_INFO_V1(pgr_sql_definitions_trigger);
PG_FUNCTION_INFO_V1(pgr_sql_grants_trigger);

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

static HeapTuple
lock_and_check(HeapTuple tuple, TupleDesc desc, bool writes)
{
	PgrDefinition definition;
	PgrTableRow row;

	pgr_tables_read_entry(tuple, desc, &row);
	if (writes)
		check_key(row.key);
	if (!pgr_write_open_row(row.registry, &row.key, &definition))
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

/* The put that this row comes from, if it is the next one that we expect. */
static const PgrStorePut *
expected_put(const PgrTableRow *row)
{
	PgrStoreStatement *statement = pgr_store_statement;
	const PgrStorePut *put;

	if (statement == NULL || statement->next >= statement->n)
		return NULL;
	put = &statement->puts[statement->next];
	if (put->key.len != row->key.len ||
		memcmp(put->key.data, row->key.data, row->key.len) != 0)
		return NULL;
	statement->next++;
	return put;
}

static bool
newest(const PgrTableRow *row, PgrDefinition *definition)
{
	const PgrStoreStatement *statement = pgr_store_statement;

	if (statement != NULL && statement->definition != NULL)
	{
		*definition = *statement->definition;
		return definition->incarnation != 0;
	}
	return pgr_write_open_row(row->registry, &row->key, definition) &&
		definition->incarnation != 0;
}

static void
record_put(HeapTuple tuple, TupleDesc desc)
{
	const PgrStorePut *put;
	PgrDefinition definition;
	PgrTableRow row;
	PgrValue value;

	pgr_tables_read_entry(tuple, desc, &row);
	put = expected_put(&row);
	if (!newest(&row, &definition))
		return;
	if (put != NULL)
		value = put->value;
	else
		pgr_value_from_text((PgrValueType) definition.value_type, row.value,
							&value);
	pgr_pending_put(&definition, row.key.data, row.key.len, &value,
					row.updated_at, row.expires_at);
}

static void
record_delete(HeapTuple tuple, TupleDesc desc)
{
	PgrDefinition definition;
	PgrTableRow row;

	pgr_tables_read_entry(tuple, desc, &row);
	if (newest(&row, &definition))
		pgr_pending_delete(&definition, row.key.data, row.key.len);
}

static bool
is_same_text(PgrText a, PgrText b)
{
	return a.len == b.len && memcmp(a.data, b.data, a.len) == 0;
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
	HeapTuple before = trigger->tg_trigtuple;

	if (TRIGGER_FIRED_BY_INSERT(trigger->tg_event))
		record_put(before, desc);
	else if (TRIGGER_FIRED_BY_DELETE(trigger->tg_event))
		record_delete(before, desc);
	else
	{
		if (pgr_store_statement == NULL &&
			has_other_key(before, trigger->tg_newtuple, desc))
			record_delete(before, desc);
		record_put(trigger->tg_newtuple, desc);
	}
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

	if (definition->durable && pgr_write_open_row(name, NULL, &now) &&
		now.incarnation != 0)
		pgr_pending_clear(&now);
}

static bool
is_trigger_call(FunctionCallInfo fcinfo)
{
	if (!CALLED_AS_TRIGGER(fcinfo))
		ereport(ERROR,
				(errcode(ERRCODE_E_R_I_E_TRIGGER_PROTOCOL_VIOLATED),
				 errmsg("this function can be called as a trigger only")));
	return pgr_area_header != NULL;
}

static HeapTuple
unchanged_row(const TriggerData *trigger)
{
	return TRIGGER_FIRED_BY_UPDATE(trigger->tg_event) ? trigger->tg_newtuple :
														trigger->tg_trigtuple;
}

Datum
pgr_sql_entries_trigger(PG_FUNCTION_ARGS)
{
	const TriggerData *trigger = (const TriggerData *) fcinfo->context;
	bool before;

	/* without shared memory there is no image to keep */
	if (!is_trigger_call(fcinfo) ||
		RelationGetRelid(trigger->tg_relation) != pgr_tables_entries())
		return PointerGetDatum(TRIGGER_FIRED_FOR_ROW(trigger->tg_event) ?
								   unchanged_row(trigger) :
								   NULL);
	before = TRIGGER_FIRED_BEFORE(trigger->tg_event);
	if (TRIGGER_FIRED_FOR_STATEMENT(trigger->tg_event))
	{
		pgr_tables.each_definition(PGR_VIEW_NEWEST,
								   before ? lock_durable : clear_durable,
								   NULL);
		return PointerGetDatum(NULL);
	}
	if (before && pgr_store_statement == NULL)
		return PointerGetDatum(before_row(trigger));
	if (!before &&
		(pgr_store_statement == NULL || !pgr_store_statement->quiet))
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
record_alter(const PgrDefinition *row, const PgrDefinition *altered)
{
	PgrDefinition definition;
	PgrDefinition now;

	if (!known(row, &definition))
		return;
	now = *altered;
	now.incarnation = definition.incarnation;
	now.residency = definition.residency;
	pgr_pending_alter(&definition, &now);
	pgr_pending_grants(&now); /* those of the new name */
}

static void
record_drop(const PgrDefinition *row)
{
	PgrDefinition definition;

	if (known(row, &definition))
		pgr_pending_drop(&definition);
}

static void
after_definition(const TriggerData *trigger)
{
	TupleDesc desc = RelationGetDescr(trigger->tg_relation);
	PgrDefinition before;
	PgrDefinition after;

	pgr_tables_read_definition(trigger->tg_trigtuple, desc, &before);
	if (TRIGGER_FIRED_BY_INSERT(trigger->tg_event))
		record_create(&before);
	else if (TRIGGER_FIRED_BY_DELETE(trigger->tg_event))
		record_drop(&before);
	else
	{
		pgr_tables_read_definition(trigger->tg_newtuple, desc, &after);
		record_alter(&before, &after);
	}
}

static void
drop_definition(const PgrDefinition *definition, void *arg)
{
	record_drop(definition);
}

Datum
pgr_sql_definitions_trigger(PG_FUNCTION_ARGS)
{
	const TriggerData *trigger = (const TriggerData *) fcinfo->context;

	if (!is_trigger_call(fcinfo) ||
		RelationGetRelid(trigger->tg_relation) != pgr_tables_definitions() ||
		(pgr_store_statement != NULL && pgr_store_statement->quiet))
		return PointerGetDatum(NULL);
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

/* The commit reads them from the table, under this lock. */
static void
record_grants(PgrText registry)
{
	PgrDefinition definition;

	pgr_write_lock_directory();
	if (pgr_write_find_known(registry, &definition))
		pgr_pending_grants(&definition);
}

static void
empty_grants(const PgrDefinition *definition, void *arg)
{
	PgrText name = {definition->name, definition->name_len};

	record_grants(name);
}

Datum
pgr_sql_grants_trigger(PG_FUNCTION_ARGS)
{
	const TriggerData *trigger = (const TriggerData *) fcinfo->context;
	TupleDesc desc;

	if (!is_trigger_call(fcinfo) ||
		RelationGetRelid(trigger->tg_relation) != pgr_tables_grants() ||
		(pgr_store_statement != NULL && pgr_store_statement->quiet))
		return PointerGetDatum(NULL);
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
