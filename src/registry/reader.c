/*
 * registry/reader.c
 *	  See reader.h.  Runs in backends and parallel workers, in a transaction.
 */
#include "postgres.h"

#include "mb/pg_wchar.h"
#include "nodes/primnodes.h"
#include "utils/acl.h"
#include "utils/memutils.h"

#include "base/compat.h"
#include "registry/directory.h"
#include "registry/reader.h"
#include "registry/stale.h"
#include "shm/area.h"

bool
pgr_reader_allowed(const PgrDefinition *definition)
{
	if (definition->kind == PGR_BLOCK_RATES)
		return true;
	return OidIsValid(definition->owner) ?
		has_privs_of_role(GetUserId(), definition->owner) :
		superuser();
}

void
pgr_reader_refuse(PgrText name)
{
	int len = pg_mbcliplen(name.data, name.len, PGR_NAME_LEN - 1);

	ereport(ERROR,
			(errcode(ERRCODE_UNDEFINED_OBJECT),
			 errmsg("registry \"%.*s\" does not exist or you may not read it",
					len, name.data)));
}

static PgrRegistryName
registry_name(PgrText name)
{
	PgrRegistryName registry = {MyDatabaseId, pgr_directory_extension(),
								name.data, name.len};

	if (name.len == strlen(PGR_RATES_NAME) &&
		memcmp(name.data, PGR_RATES_NAME, name.len) == 0)
		registry.database = registry.extension = InvalidOid;
	return registry;
}

/*
 * Resolve a name under the statement's pin.  With changes of our own, "state"
 * says what they do to the registry; *block is NULL if it exists only in them.
 */
static const PgrDefinition *
resolve(PgrText name, const PgrBlock **block, PgrPendingState *state)
{
	const PgrSharedRoot *root;
	uint32 slot;

	pgr_area_require();
	memset(state, 0, sizeof(*state));
	*block = NULL;
	if (name.len == 0 || name.len >= PGR_NAME_LEN)
		return NULL;
	root = pgr_pin()->root;
	if (pgr_pending_any())
	{
		PgrRegistryName registry = registry_name(name);

		return pgr_pending_resolve(&registry, false, root, block, state);
	}
	*block = pgr_directory_find(root, MyDatabaseId, pgr_directory_extension(),
								name.data, name.len, &slot);
	return *block ? &(*block)->definition : NULL;
}

static const PgrDefinition *
resolve_allowed(PgrText name, const PgrBlock **block, PgrPendingState *state)
{
	const PgrDefinition *definition = resolve(name, block, state);

	if (definition == NULL || !pgr_reader_allowed(definition))
		pgr_reader_refuse(name);
	return definition;
}

/* Is argument 0 of the call a constant of the query? */
static bool
name_is_constant(FmgrInfo *flinfo)
{
	Node *expression = flinfo->fn_expr;
	List *args = NIL;

	if (expression != NULL && IsA(expression, FuncExpr))
		args = ((FuncExpr *) expression)->args;
	return args != NIL && IsA(linitial(args), Const);
}

static void
remember(FunctionCallInfo fcinfo, PgrText name, const PgrBlock *block)
{
	PgrReader *reader = fcinfo->flinfo->fn_extra;

	if (reader == NULL)
	{
		reader = MemoryContextAllocZero(fcinfo->flinfo->fn_mcxt,
										sizeof(PgrReader));
		reader->constant = name_is_constant(fcinfo->flinfo);
		fcinfo->flinfo->fn_extra = reader;
	}
	/* 0: this transaction must look through its own changes each time */
	reader->token = pgr_pin_token == 0 ? PGR_NO_TOKEN : pgr_pin_token;
	reader->user = GetUserId();
	reader->block = block;
	reader->plain = reader->constant && block->expiring == 0;
	reader->value_type = block->definition.value_type;
	reader->name_len = (uint16) name.len;
	memcpy(reader->name, name.data, name.len);
}

bool
pgr_reader_find(FunctionCallInfo fcinfo, PgrText name, PgrText key,
				PgrValueType *type, PgrValue *value)
{
	const PgrBlock *block;
	PgrPendingState state;
	const PgrDefinition *definition = resolve_allowed(name, &block, &state);
	const PgrSlot *slot;

	*type = (PgrValueType) definition->value_type;
	if (!pgr_stale_may_serve(definition, block))
		return false;
	if (key.len == 0 || key.len > PGR_KEY_MAX_BYTES)
		return false;
	if (pgr_pending_any())
	{
		TimestampTz expires_at;

		switch (pgr_pending_find(definition, &state, false, key.data, key.len,
								 value, &expires_at))
		{
			case PGR_PENDING_VALUE:
				return !pgr_reader_expired(expires_at);
			case PGR_PENDING_DELETED:
				return false;
			case PGR_PENDING_NONE:
				break;
		}
	}
	if (block == NULL)
		return false;
	if (!pgr_pending_any())
		remember(fcinfo, name, block);
	slot = pgr_block_find(block, key.data, key.len);
	if (slot == NULL || pgr_reader_expired(slot->expires_at))
		return false;
	pgr_value_of_slot(block, slot, value);
	return true;
}

const PgrBlock *
pgr_reader_block(PgrText name)
{
	const PgrBlock *block;
	PgrPendingState state;
	const PgrDefinition *definition = resolve_allowed(name, &block, &state);

	if (!pgr_stale_may_serve(definition, block))
		return NULL;
	if (!pgr_pending_any())
		return block;
	return pgr_pending_overlay_kept(definition, block);
}

const PgrDefinition *
pgr_reader_look(PgrText name, const PgrBlock **block)
{
	PgrPendingState state;
	const PgrDefinition *definition = resolve(name, block, &state);

	return definition != NULL && pgr_reader_allowed(definition) ? definition :
																  NULL;
}

bool
pgr_reader_exists(PgrText name)
{
	const PgrBlock *block;

	return pgr_reader_look(name, &block) != NULL;
}
