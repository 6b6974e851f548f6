/*
 * shm/ring.c
 *	  See ring.h for the protocol.
 *
 * The state word is a seqlock per slot.  Its four orderings, each named at the
 * place: the claim before the first store into the payload, the last store
 * before the release, the reader's first look before its copy, and the copy
 * before its second look.
 */
#ifndef PGR_STANDALONE
#include "postgres.h"
#endif

#include "shm/ring.h"

/*
 * The state word: ticket + 1, so that 0 is older than every ticket, and in the
 * lowest bit whether the slot is being written.  At a million records a second
 * it lasts for 290,000 years.
 */
#define WRITING_BIT 1
#define COMPLETE(ticket) (((ticket) + 1) << 1)
#define WRITING(ticket) (COMPLETE(ticket) | WRITING_BIT)

typedef struct Slot
{
	uint64 state;
	char payload[FLEXIBLE_ARRAY_MEMBER];
} Slot;

StaticAssertDecl(offsetof(Slot, payload) == PGR_RING_SLOT_HEAD,
				 "the payload starts behind the state word");
StaticAssertDecl(sizeof(PgrSharedRing) == 3 * PGR_RING_LINE,
				 "each group of fields has a line of its own");
StaticAssertDecl(__atomic_always_lock_free(sizeof(uint64), 0),
				 "a lock hidden in an atomic would make the log hook wait");

static inline Slot *
slot_of(const PgrSharedRing *ring, uint64 ticket)
{
	char *slots = (char *) ring + sizeof(PgrSharedRing);

	return (Slot *) (slots + (Size) (ticket % ring->slots) * ring->slot_bytes);
}

Size
pgr_ring_size(uint32 slots, uint32 slot_bytes)
{
	return sizeof(PgrSharedRing) + (Size) slots * slot_bytes;
}

void
pgr_ring_init(PgrSharedRing *ring, uint32 slots, uint32 slot_bytes)
{
	Assert(slots > 0);
	Assert(slot_bytes % PGR_RING_LINE == 0);
	Assert((uintptr_t) ring % PGR_RING_LINE == 0);

	memset(ring, 0, sizeof(*ring));
	ring->slots = slots;
	ring->slot_bytes = slot_bytes;
	ring->payload_bytes = slot_bytes - PGR_RING_SLOT_HEAD;

	/* Only the state words: payload pages are touched when they are used. */
	for (uint32 i = 0; i < slots; i++)
		slot_of(ring, i)->state = 0;
}

void *
pgr_ring_claim(PgrSharedRing *ring, uint64 *ticket)
{
	uint64 mine = __atomic_fetch_add(&ring->head, 1, __ATOMIC_RELAXED);
	Slot *slot = slot_of(ring, mine);
	uint64 found = __atomic_load_n(&slot->state, __ATOMIC_RELAXED);

	/*
	 * Acquire: pairs with the release store of the previous writer of this
	 * slot, whose stores must not land on top of ours.
	 */
	if ((found & WRITING_BIT) || found >= COMPLETE(mine) ||
		!__atomic_compare_exchange_n(&slot->state, &found, WRITING(mine),
									 false, __ATOMIC_ACQUIRE,
									 __ATOMIC_RELAXED))
	{
		pgr_ring_count(ring, PGR_RING_BUSY, 1);
		return NULL;
	}

	/*
	 * A reader that sees any of the stores that follow must not find the old
	 * state in its second look: pairs with the acquire fence in pgr_ring_read.
	 */
	__atomic_thread_fence(__ATOMIC_RELEASE);
	*ticket = mine;
	return slot->payload;
}

void
pgr_ring_release(PgrSharedRing *ring, uint64 ticket)
{
	Slot *slot = slot_of(ring, ticket);

	Assert(__atomic_load_n(&slot->state, __ATOMIC_RELAXED) == WRITING(ticket));

	/*
	 * Pairs with the acquire load in pgr_ring_read: who sees COMPLETE sees the
	 * payload.
	 */
	__atomic_store_n(&slot->state, COMPLETE(ticket), __ATOMIC_RELEASE);
	pgr_ring_count(ring, PGR_RING_ACCEPTED, 1);
}

void
pgr_ring_count(PgrSharedRing *ring, PgrRingCounter counter, uint64 add)
{
	__atomic_fetch_add(&ring->counters[counter], add, __ATOMIC_RELAXED);
}

uint64
pgr_ring_counter(const PgrSharedRing *ring, PgrRingCounter counter)
{
	return __atomic_load_n(&ring->counters[counter], __ATOMIC_RELAXED);
}

uint64
pgr_ring_head(const PgrSharedRing *ring)
{
	return __atomic_load_n(&ring->head, __ATOMIC_RELAXED);
}

uint64
pgr_ring_oldest(const PgrSharedRing *ring, uint64 head)
{
	return head > ring->slots ? head - ring->slots : 0;
}

PgrRingRead
pgr_ring_read(const PgrSharedRing *ring, uint64 ticket, void *copy)
{
	const Slot *slot = slot_of(ring, ticket);
	uint64 state;

	if (ticket >= pgr_ring_head(ring))
		return PGR_RING_END;

	/* Pairs with the release store in pgr_ring_release. */
	state = __atomic_load_n(&slot->state, __ATOMIC_ACQUIRE);
	if (state != COMPLETE(ticket))
		return state > WRITING(ticket) ? PGR_RING_OVERTAKEN : PGR_RING_PENDING;

	/*
	 * A writer may store into these bytes meanwhile.  Then the copy is a mix,
	 * which the second look finds out before anybody reads it.
	 */
	memcpy(copy, slot->payload, ring->payload_bytes);

	/* Pairs with the release fence in pgr_ring_claim. */
	__atomic_thread_fence(__ATOMIC_ACQUIRE);
	if (__atomic_load_n(&slot->state, __ATOMIC_RELAXED) != state)
		return PGR_RING_OVERTAKEN;
	return PGR_RING_RECORD;
}

PgrRingRead
pgr_ring_next(const PgrSharedRing *ring, PgrRingCursor *cursor, void *copy)
{
	uint64 oldest = pgr_ring_oldest(ring, pgr_ring_head(ring));
	PgrRingRead found;

	/* Lapped: what lies before the oldest is gone, all at once. */
	if (cursor->next < oldest)
	{
		cursor->overtaken += oldest - cursor->next;
		cursor->next = oldest;
		return PGR_RING_OVERTAKEN;
	}

	found = pgr_ring_read(ring, cursor->next, copy);
	if (found == PGR_RING_OVERTAKEN)
		cursor->overtaken++;
	if (found == PGR_RING_OVERTAKEN || found == PGR_RING_RECORD)
		cursor->next++;
	return found;
}

void
pgr_ring_skip(PgrRingCursor *cursor)
{
	cursor->skipped++;
	cursor->next++;
}
