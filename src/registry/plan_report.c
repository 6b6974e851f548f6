/*
 * registry/plan_report.c
 *	  What pgr_plan_reserve() could not have, told to people.
 *
 * Runs in backends, where it ends the transaction.
 */
#include "postgres.h"

#include "commands/dbcommands.h"
#include "miscadmin.h"
#include "storage/lwlock.h"
#include "utils/timestamp.h"

#include "base/compat.h"
#include "registry/line.h"
#include "registry/plan.h"
#include "registry/reader.h"
#include "settings.h"
#include "shm/area.h"

typedef struct Shortage
{
	uint64 total;
	uint64 used;
	uint64 pending;
	uint64 retired;
	uint64 largest_free;
	PgrDefinition largest;
	PgrGrants largest_grants;
	uint64 largest_bytes;
	PgrLinePin oldest;
} Shortage;

static void
find_largest(Shortage *shortage)
{
	const PgrSharedRoot *root = pgr_image_ptr(pgr_image, pgr_image->root);
	const PgrBlock *largest = NULL;

	for (uint32 slot = 0; slot < PGR_MAX_SLOTS; slot++)
	{
		const PgrBlock *block;

		if (pgr_image->slot_bitmap[slot / 64] == 0)
		{
			slot |= 63;
			continue;
		}
		block = pgr_root_block(pgr_image, root, slot);
		if (block == NULL || block->definition.kind < PGR_BLOCK_REGISTRY ||
			block->size + block->outside_bytes <= shortage->largest_bytes)
			continue;
		shortage->largest_bytes = block->size + block->outside_bytes;
		largest = block;
	}
	if (largest == NULL)
		return;
	shortage->largest = largest->definition;
	shortage->largest_grants = pgr_access_copy_nothrow(root, PGR_NEWEST,
													   largest);
}

/* The name of a registry that the current role may read. */
static char *
shown_name(const PgrDefinition *definition, const PgrGrants *grants)
{
	if (definition->kind != PGR_BLOCK_RATES &&
		(definition->kind != PGR_BLOCK_REGISTRY ||
		 definition->database != MyDatabaseId ||
		 !pgr_access_allowed(definition, grants, PGR_VIEW_NEWEST,
							 PGR_MAY_READ)))
		return "of another database or role";
	return psprintf("\"%.*s\"", definition->name_len, definition->name);
}

static void
pg_attribute_noreturn() refuse_registry(void)
{
	ereport(ERROR,
			(errcode(ERRCODE_PROGRAM_LIMIT_EXCEEDED),
			 errmsg("there are too many registries"),
			 errdetail("All databases of a server together can have %d registries and lists of registries.",
					   PGR_MAX_SLOTS - PGR_FIRST_FREE_SLOT)));
}

void
pgr_plan_out_of_memory(Size wanted)
{
	Shortage shortage;
	char pins[160];

	if (wanted == 0)
		refuse_registry();
	memset(&shortage, 0, sizeof(shortage));
	LWLockAcquire(pgr_area_lock(PGR_LOCK_WRITER), LW_SHARED);
	shortage.total = pgr_image_arena(pgr_image)->units * PGR_ARENA_UNIT;
	shortage.used = (pgr_image_arena(pgr_image)->units -
					 pgr_image_arena(pgr_image)->kind_units[PGR_MEMORY_FREE]) *
		PGR_ARENA_UNIT;
	shortage.pending =
		pgr_image_arena(pgr_image)->kind_units[PGR_MEMORY_PENDING] *
		PGR_ARENA_UNIT;
	shortage.retired = pgr_image->retired_bytes;
	shortage.largest_free = pgr_arena_largest_free(pgr_image_arena(pgr_image));
	find_largest(&shortage);
	(void) pgr_line_oldest(&shortage.oldest);
	LWLockRelease(pgr_area_lock(PGR_LOCK_WRITER));

	if (shortage.retired > 0 && shortage.oldest.pid != 0)
		snprintf(pins, sizeof(pins),
				 "process %d pins generation " UINT64_FORMAT " since %s",
				 shortage.oldest.pid, shortage.oldest.generation,
				 timestamptz_to_str(shortage.oldest.at));
	else
		strlcpy(pins, "no process pins an old version", sizeof(pins));
	ereport(ERROR,
			(errcode(ERRCODE_OUT_OF_MEMORY),
			 errmsg("out of shared memory for pg_registry: cannot reserve %zu bytes",
					wanted),
			 errdetail("Of " UINT64_FORMAT " bytes, " UINT64_FORMAT
					   " are used, " UINT64_FORMAT " of them by uncommitted changes and "
					   UINT64_FORMAT " by old versions that are pinned or not yet reclaimed; the largest free piece has " UINT64_FORMAT " bytes; the largest registry %s takes "
					   UINT64_FORMAT " bytes; %s.",
					   shortage.total, shortage.used, shortage.pending,
					   shortage.retired, shortage.largest_free,
					   shown_name(&shortage.largest, &shortage.largest_grants),
					   shortage.largest_bytes, pins),
			 errhint("Drop registries, end idle transactions, or increase pg_registry.shared_memory; see registry.memory and registry.readers.  A change of entries, a deletion too, can need room for a copy of its registry.")));
}

void
pgr_plan_over_quota(uint64 bytes)
{
	ereport(ERROR,
			(errcode(ERRCODE_CONFIGURATION_LIMIT_EXCEEDED),
			 errmsg("the registries of database \"%s\" would take more than pg_registry.max_bytes_per_database",
					get_database_name(MyDatabaseId)),
			 errdetail("They would take up to " UINT64_FORMAT
					   " bytes, with what other transactions have reserved; the limit is " UINT64_FORMAT ".",
					   bytes, (uint64) pgr_settings.max_kb_per_database * 1024),
			 errhint("Drop or clear registries, or ask a superuser for a higher limit.")));
}
