/*
 * registry/reader.c
 *	  See reader.h.  Runs in backends and parallel workers, in a transaction.
 */
#include "postgres.h"

#include "access/xact.h"
#include "mb/pg_wchar.h"
#include "nodes/primnodes.h"
#include "utils/acl.h"
#include "utils/memutils.h"

#include "base/compat.h"
#include "registry/directory.h"
#include "registry/line.h"
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
	const PgrPin *pin;
	uint32 slot;

	pgr_area_require();
	memset(state, 0, sizeof(*state));
	*block = NULL;
	if (name.len == 0 || name.len >= PGR_NAME_LEN)
		return NULL;
	pin = pgr_pin();
	if (pgr_pending_any())
	{
		PgrRegistryName registry = registry_name(name);

		return pgr_pending_resolve(&registry, false, pin->root,
								   pin->generation, block, state);
	}
	*block = pgr_directory_find(pin->root, pin->generation, MyDatabaseId,
								pgr_directory_extension(), name.data, name.len,
								&slot);
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
	reader->generation = pgr_pin()->generation;
	reader->plain = reader->constant && block->expiring == 0 &&
		!block->patchable;
	reader->patched = reader->constant && block->expiring == 0 &&
		block->patchable;
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
	PgrEntry entry;

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
	if (!pgr_block_lookup(block, pgr_pin()->generation, key.data, key.len,
						  &entry) ||
		pgr_reader_expired(entry.expires_at))
		return false;
	pgr_value_of_entry(*type, &entry, value);
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

/* ------------------------------------------------------------------------
 * Many keys
 * ------------------------------------------------------------------------
 */

#define BATCH 16 /* as many lines as a core can wait for at a time */

/* The entries that have been visited: open addressing, at most half full. */
typedef struct Visited
{
	const PgrItem **items;
	uint32 mask;
} Visited;

static void
start_visits(Visited *visited, int n)
{
	uint32 size = 16;

	while (size < (uint32) n * 2)
		size *= 2;
	visited->mask = size - 1;
	visited->items = MemoryContextAllocExtended(CurrentMemoryContext,
												size * sizeof(PgrItem *),
												MCXT_ALLOC_HUGE |
													MCXT_ALLOC_ZERO);
}

static bool
is_first_visit(Visited *visited, const PgrItem *item)
{
	uint32 i = (uint32) pgr_mix((uintptr_t) item,
								UINT64_C(0x9E3779B97F4A7C15)) &
		visited->mask;

	for (; visited->items[i] != NULL; i = (i + 1) & visited->mask)
		if (visited->items[i] == item)
			return false;
	visited->items[i] = item;
	return true;
}

/* Each step asks for what the next one reads, for all keys of the batch. */
static void
find_batch(const PgrBlock *block, const PgrText *keys, int n,
		   uint64 generation, PgrEntry *found)
{
	uint64 words[BATCH];
	uint64 hashes[BATCH];

	for (int i = 0; i < n; i++)
	{
		words[i] = pgr_key_word(keys[i].data, keys[i].len);
		hashes[i] = pgr_key_hash(keys[i].data, keys[i].len, words[i],
								 block->seed);
		pgr_block_prefetch_home(block, hashes[i]);
	}
	for (int i = 0; i < n; i++)
		pgr_block_prefetch_slot(block, hashes[i]);
	for (int i = 0; i < n; i++)
		pgr_block_prefetch_item(block, words[i], hashes[i]);
	for (int i = 0; i < n; i++)
	{
		if (!pgr_block_lookup_hashed(block, generation, keys[i].data,
									 keys[i].len, words[i], hashes[i],
									 &found[i]))
			found[i].item = NULL;
		else
			pgr_entry_complete(&found[i], keys[i].len);
	}
}

void
pgr_reader_find_many(PgrText name, const PgrText *keys, int n,
					 PgrReaderVisit visit, void *arg)
{
	const PgrBlock *block = pgr_reader_block(name);
	PgrEntry found[BATCH];
	Visited visited;
	uint64 generation;

	if (block == NULL)
		return;
	generation = pgr_pin()->generation;
	start_visits(&visited, n);
	for (int start = 0; start < n; start += BATCH)
	{
		int batch = Min(BATCH, n - start);

		CHECK_FOR_INTERRUPTS();
		find_batch(block, keys + start, batch, generation, found);
		for (int i = 0; i < batch; i++)
			if (found[i].item != NULL && keys[start + i].len > 0 &&
				!pgr_reader_expired(found[i].expires_at) &&
				is_first_visit(&visited, found[i].item))
				visit(block, &found[i], arg);
	}
	pfree(visited.items);
}

bool
pgr_reader_estimate(PgrText name, double *entries)
{
	Oid extension = pgr_directory_extension();
	const PgrSharedRoot *root;
	const PgrBlock *block;
	PgrDefinition definition;
	uint64 generation;
	double count = 0;
	uint32 slot;
	int cell;

	if (name.len == 0 || name.len >= PGR_NAME_LEN)
		return false;
	cell = pgr_line_pin(GetCurrentStatementStartTimestamp(), &generation,
						&root);
	block = pgr_directory_find(root, generation, MyDatabaseId, extension,
							   name.data, name.len, &slot);
	if (block != NULL)
	{
		definition = block->definition;
		count = (double) pgr_block_entries(block, generation);
	}
	if (cell >= 0)
		pgr_line_unpin(cell);
	if (block == NULL || !pgr_reader_allowed(&definition))
		return false;
	*entries = count;
	return true;
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
