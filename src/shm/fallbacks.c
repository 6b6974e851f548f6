/*
 * shm/fallbacks.c
 *	  See fallbacks.h.
 */
#include "postgres.h"

#include "shm/fallbacks.h"

#define MOST_PROBES 32

PgrSharedFallbacks *pgr_fallbacks = NULL;

Size
pgr_fallbacks_size(void)
{
	return sizeof(PgrSharedFallbacks);
}

void
pgr_fallbacks_init(void *part, Size size)
{
	PgrSharedFallbacks *fallbacks = part;

	for (int i = 0; i < PGR_FALLBACK_SLOTS; i++)
	{
		pg_atomic_init_u64(&fallbacks->slots[i].key, 0);
		pg_atomic_init_u64(&fallbacks->slots[i].reads, 0);
	}
}

static bool
take_slot(PgrFallbackSlot *slot, uint64 key)
{
	uint64 free_key = 0;

	return pg_atomic_compare_exchange_u64(&slot->key, &free_key, key) ||
		free_key == key;
}

/* The slot of a key; NULL: it has none, and gets none. */
static PgrFallbackSlot *
find_slot(uint64 key, bool take)
{
	for (int i = 0; pgr_fallbacks != NULL && i < MOST_PROBES; i++)
	{
		PgrFallbackSlot *slot =
			&pgr_fallbacks->slots[(key + i) & (PGR_FALLBACK_SLOTS - 1)];
		uint64 found = pg_atomic_read_u64(&slot->key);

		if (found == key || (found == 0 && take && take_slot(slot, key)))
			return slot;
		if (found == 0 && !take)
			return NULL;
	}
	return NULL;
}

void
pgr_fallback_count(uint64 key)
{
	PgrFallbackSlot *slot = find_slot(key, true);

	if (slot != NULL)
		pg_atomic_fetch_add_u64(&slot->reads, 1);
}

uint64
pgr_fallback_reads(uint64 key)
{
	PgrFallbackSlot *slot = find_slot(key, false);

	return slot ? pg_atomic_read_u64(&slot->reads) : 0;
}
