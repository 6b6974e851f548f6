/*
 * shm/ring.h
 *	  A ring of fixed slots: any process writes, any process reads, nobody
 *	  waits.
 *
 * A writer draws a ticket, claims the slot that the ticket falls on, fills it
 * and releases it; it overwrites the oldest record.  A reader copies a slot
 * and then asks whether it was still the same record.  There is no lock, no
 * loop that depends on another process, no allocation and no error, so all of
 * this may run in a critical section, in the postmaster and without a PGPROC
 * (L-1).  What a record contains is the caller's business.
 *
 * The file owns no global and is built twice: into the extension, and with
 * PGR_STANDALONE into tests/stress.  Therefore atomic accesses are the
 * compiler's __atomic builtins on plain 64-bit words, which both builds have,
 * and not port/atomics.h, which needs PostgreSQL around it.  They are in
 * ring.c alone: a caller never touches a word of this struct himself.
 */
#ifndef PGR_SHM_RING_H
#define PGR_SHM_RING_H

#include "base/bits.h"

#define PGR_RING_LINE 64 /* bytes of a cache line */

/* A slot is its state word and the payload behind it. */
#define PGR_RING_SLOT_HEAD sizeof(uint64)

/*
 * What is counted where it happens.  Every ticket ends as accepted or as busy;
 * the other three are counted by the owner of the ring, with pgr_ring_count,
 * for records that never drew a ticket.
 */
typedef enum PgrRingCounter
{
	PGR_RING_ACCEPTED,  /* released, so readable for one lap */
	PGR_RING_BUSY,      /* dropped: slot held by another writer */
	PGR_RING_RECURSION, /* dropped: emitted while another is copied */
	PGR_RING_TOO_EARLY, /* dropped: no shared memory yet */
	PGR_RING_TRUNCATED, /* accepted, but not the whole text fitted */
	PGR_RING_COUNTERS
} PgrRingCounter;

/*
 * The ring, in shared memory; the slots follow it.
 *
 * Writers: every process, through pgr_ring_claim and pgr_ring_release.
 * Readers: every process.
 *
 * Protocol.  The ticket t falls on slot t % slots.  A slot's state word is
 * COMPLETE(t) or WRITING(t); between its tickets it only grows, and a slot
 * never used is COMPLETE(before all).  A writer moves it by compare-and-swap
 * from COMPLETE(older) to WRITING(t) and is then the only one who may store
 * into the payload, until it stores COMPLETE(t).  If it finds WRITING(other),
 * a newer ticket, or loses the swap, its record is dropped and counted busy:
 * it never waits and never tries another slot (L-2 counts it).
 *
 * Lifetime: the segment's.  A restart after a crash makes an empty ring whose
 * tickets begin at 0 again.
 *
 * Death midway.  A writer that is killed takes the server down with it, and
 * with it the ring.  A writer that is stopped leaves its one slot WRITING:
 * later tickets of that slot are counted busy, every other slot goes on, and
 * when the writer continues its old record becomes readable, and the slot free
 * for the next ticket.  What may not happen is a writer that exits without a
 * crash between claim and release; the caller keeps signals out meanwhile.
 */
typedef struct PgrSharedRing
{
	/* set once, before anybody else sees the ring */
	uint32 slots;
	uint32 slot_bytes; /* distance of two slots, a whole number of lines */
	uint32 payload_bytes;
	char pad0[PGR_RING_LINE - 3 * sizeof(uint32)];

	/* added to by every writer, in its own line */
	uint64 head; /* the next ticket */
	char pad1[PGR_RING_LINE - sizeof(uint64)];

	/* added to by every writer; they only grow */
	uint64 counters[PGR_RING_COUNTERS];
	char pad2[PGR_RING_LINE - PGR_RING_COUNTERS * sizeof(uint64)];
} PgrSharedRing;

/* What a look at one ticket found. */
typedef enum PgrRingRead
{
	PGR_RING_RECORD,    /* copied, whole */
	PGR_RING_END,       /* the ticket has not been drawn yet */
	PGR_RING_PENDING,   /* drawn, but not there: being written, or
								 * dropped as busy; nobody can tell */
	PGR_RING_OVERTAKEN, /* its slot holds a newer ticket */
} PgrRingRead;

/*
 * One drain's place in the ring, in that drain's own memory.  A ticket is
 * delivered, or counted in one of the other two.  A ticket that was dropped as
 * busy may be counted here as well, so the sum of both is an upper bound of
 * what was lost.
 */
typedef struct PgrRingCursor
{
	uint64 next;      /* ticket that is read next */
	uint64 overtaken; /* gone before this drain came by */
	uint64 skipped;   /* given up by pgr_ring_skip */
} PgrRingCursor;

/* Bytes of shared memory for a ring whose slots, state included, have
 * slot_bytes.  slot_bytes is a multiple of PGR_RING_LINE. */
extern Size pgr_ring_size(uint32 slots, uint32 slot_bytes);

/* Make an empty ring at "ring", which is aligned to a line. */
extern void pgr_ring_init(PgrSharedRing *ring, uint32 slots,
						  uint32 slot_bytes);

/*
 * Claim a slot: its payload, aligned to 8 bytes, and its ticket, or NULL, in
 * which case the record is dropped and has been counted.  The caller stores
 * into the payload and calls pgr_ring_release; it does nothing in between that
 * could throw, wait or end the process.
 */
extern void *pgr_ring_claim(PgrSharedRing *ring, uint64 *ticket);
extern void pgr_ring_release(PgrSharedRing *ring, uint64 ticket);

extern void pgr_ring_count(PgrSharedRing *ring, PgrRingCounter counter,
						   uint64 add);
extern uint64 pgr_ring_counter(const PgrSharedRing *ring,
							   PgrRingCounter counter);

/* The next ticket that will be drawn: the ring holds tickets below it only. */
extern uint64 pgr_ring_head(const PgrSharedRing *ring);

/* The oldest ticket that the ring may still hold when "head" comes next. */
extern uint64 pgr_ring_oldest(const PgrSharedRing *ring, uint64 head);

/*
 * Copy the payload of one ticket to "copy", which has room for payload_bytes.
 * Unless the result is PGR_RING_RECORD the copy is garbage.
 */
extern PgrRingRead pgr_ring_read(const PgrSharedRing *ring, uint64 ticket,
								 void *copy);

/*
 * Drain: copy the record at the cursor and move on.  PGR_RING_OVERTAKEN means
 * that what is gone has been counted and the cursor stands behind it; call
 * again.  At PGR_RING_PENDING the cursor stays: the caller comes back later,
 * and when it has waited long enough calls pgr_ring_skip.
 */
extern PgrRingRead pgr_ring_next(const PgrSharedRing *ring,
								 PgrRingCursor *cursor, void *copy);
extern void pgr_ring_skip(PgrRingCursor *cursor);

#endif /* PGR_SHM_RING_H */
