/*
 * Pins, REPLACE publishes and reclamation: P1..P4, C1..C3, R1..R5 of
 * src/registry/image.h.  patch.pml is the other half.
 *
 * An object here is a root with its pages and blocks: they are reached by
 * addresses that come from the root, and live as long.  It has two fields,
 * which every publish that makes an object sets to its generation.
 *
 * A publish either makes a new object or, as a PATCH does, keeps the root and
 * only advances the generation.
 *
 * Asserted: each field that a pinned reader reads is what its generation had
 * (R-2, and as both fields are asserted, R-4), from an object that was not
 * freed.
 *
 * Readers affect each other only through the pins that reclaim reads, so by
 * symmetry it is enough to check what the first one reads; the second one
 * pins and releases as it likes.  READERS=2 lets both read.
 */
#ifndef GENERATIONS
#define GENERATIONS 4	/* the last one */
#endif
#ifndef RECENT
#define RECENT 1		/* PGR_RECENT */
#endif
#ifndef OBJECTS
#define OBJECTS 3		/* memory for so many: it is used again */
#endif
#ifndef READERS
#define READERS 1
#endif

#define GENERATION 0
#define RECENT_GENERATION(g) (1 + (g) % RECENT)
#define RECENT_ROOT(g) (1 + RECENT + (g) % RECENT)
#define FIELD_A(o) (1 + 2 * RECENT + (o))
#define FIELD_B(o) (1 + 2 * RECENT + OBJECTS + (o))
#define NLOC (1 + 2 * RECENT + 2 * OBJECTS)
#include "memory.inc"

/* What is true, for the assertions: the value of each generation, and which object is in use. */
byte expected[GENERATIONS + 1];
bit live[OBJECTS];

#define PINNED(p, o) (p >= birth[o] && p < death[o])

active proctype writer()
{
	byte birth[OBJECTS];
	byte death[OBJECTS];	/* 0: not retired */
	byte generation = 1;
	byte root = 0;
	byte i;
	byte p0;
	byte p1;

	d_step {
		birth[0] = 1;
		live[0] = 1;
		expected[1] = 1;
		m[FIELD_A(0)] = 1;
		m[FIELD_B(0)] = 1;
		m[RECENT_GENERATION(1)] = 1;
		m[RECENT_ROOT(1)] = 0;
		m[GENERATION] = 1;
	}
	run reader(0);
#if READERS > 1
	run reader(1);
#else
	run holder(1);
#endif

end:
	do
	:: generation < GENERATIONS ->	/* PATCH: the same root */
		d_step { i = root; generation++; expected[generation] = expected[generation - 1]; }
		goto publish
	:: generation < GENERATIONS ->	/* REPLACE */
		d_step {
			i = 0;
			do
			:: i < OBJECTS && live[i] -> i++
			:: else -> break
			od
		}
		if
		:: i == OBJECTS -> i = 0	/* no memory: the publish fails */
		:: else ->
			d_step {
				generation++;
				live[i] = 1;
				birth[i] = generation;
				expected[generation] = generation;
			}
			STORE(FIELD_A(i), generation);	/* P1 */
			STORE(FIELD_B(i), generation);
publish:
			STORE(RECENT_GENERATION(generation), 0);	/* P2 */
#ifndef NO_P2A
			WRITE_BARRIER;
#endif
			STORE(RECENT_ROOT(generation), i);
#ifndef NO_P2B
			WRITE_BARRIER;
#endif
			STORE(RECENT_GENERATION(generation), generation);
#ifndef NO_P3
			WRITE_BARRIER;
#endif
			STORE(GENERATION, generation);	/* P3 */
			d_step {	/* P4 */
				if
				:: root != i -> death[root] = generation
				:: else
				fi;
				root = i;
				i = 0;
			}
		fi
	:: true ->	/* reclaim */
#ifndef NO_C1
		WRITE_BARRIER;	/* C1 */
#endif
		p0 = pin[0];	/* C2 */
		p1 = pin[1];
		do	/* C3 */
		:: i == OBJECTS -> d_step { i = 0; p0 = 0; p1 = 0; } break
#ifdef FREE_BY_NEWEST_PIN	/* a logic error: what is older than the newest pin */
		:: atomic { i < OBJECTS && death[i] && !(p0 > p1 -> PINNED(p0, i) : PINNED(p1, i)) ->
#else
		:: atomic { i < OBJECTS && death[i] && !PINNED(p0, i) && !PINNED(p1, i) ->
#endif
				live[i] = 0; death[i] = 0; birth[i] = 0; }
			STORE(FIELD_A(i), POISON);
			STORE(FIELD_B(i), POISON);
			i++
		:: atomic { i < OBJECTS && (!death[i] || PINNED(p0, i) || PINNED(p1, i)) -> i++ }
		od
	od
}

/* What a reader has done since R3, in any order that the barriers allow. */
#define D_R4 1
#define D_R5A 2		/* recent's generation */
#define D_R5B 4		/* recent's root */
#define D_R5C 8		/* recent's generation again */
#define D_A 16
#define D_B 32
#define VALID (D_R4 | D_R5A | D_R5B | D_R5C)
#define ALL (VALID | D_A | D_B)

/* What must come before what: the barriers after R4, and the two of R5. */
#ifdef NO_R4_BARRIER
#define BEFORE_R5A 0
#else
#define BEFORE_R5A D_R4
#endif
#ifdef NO_R5A_BARRIER
#define BEFORE_R5B BEFORE_R5A
#else
#define BEFORE_R5B (BEFORE_R5A | D_R5A)
#endif
#ifdef NO_R5B_BARRIER
#define BEFORE_R5C (BEFORE_R5B | D_R5A)
#define BEFORE_FIELD (BEFORE_R5B | D_R5B)
#else
#define BEFORE_R5C (BEFORE_R5B | D_R5A | D_R5B)
#define BEFORE_FIELD BEFORE_R5C
#endif
#define CAN(what, before) (!(done & what) && (done & (before)) == (before))

#define LOAD_FIELD(bit, field, into) \
	:: d_step { CAN(bit, BEFORE_FIELD); into = m[field(root)]; \
			bad = bad || !live[root]; done = done | bit }

/* The second reader: see above. */
proctype holder(bit me)
{
	byte g;

end:
	do
	:: g = m[GENERATION] ->
		PIN_STORE(me, g);
		g = 0
	:: PIN_STORE(me, 0)
	od
}

proctype reader(bit me)
{
	byte g;
	byte done;
	byte root;
	byte a;
	byte b;
	bit wrong;	/* R4 or R5 says: start over */
	bit bad;	/* read what had been freed */

pin_again:
	atomic { done = 0; root = 0; a = 0; b = 0; wrong = 0; bad = 0; g = m[GENERATION]; }	/* R1 */
	PIN_STORE(me, g);	/* R2 */
#ifndef NO_R3
	FULL_BARRIER(me);	/* R3 */
#endif
	do
#ifdef NO_R4_CHECK
	:: d_step { CAN(D_R4, 0); done = done | D_R4 }
#else
	:: d_step { CAN(D_R4, 0); wrong = wrong || m[GENERATION] != g; done = done | D_R4 }
#endif
	:: d_step { CAN(D_R5A, BEFORE_R5A); wrong = wrong || m[RECENT_GENERATION(g)] != g; done = done | D_R5A }
	:: d_step { CAN(D_R5B, BEFORE_R5B); root = m[RECENT_ROOT(g)]; done = done | D_R5B }
	:: d_step { CAN(D_R5C, BEFORE_R5C);
#ifndef NO_R5_RECHECK
			wrong = wrong || m[RECENT_GENERATION(g)] != g;
#endif
			done = done | D_R5C }
	LOAD_FIELD(D_A, FIELD_A, a)
	LOAD_FIELD(D_B, FIELD_B, b)
	:: wrong -> goto pin_again
	:: d_step { done == ALL && !wrong ->
			assert(!bad);
			assert(a == expected[g]);
			assert(b == expected[g]);
			/* read again, or not */
			a = 0; b = 0; done = VALID }
		if
		:: true
		:: true -> break
		fi
#ifdef NO_UNPIN_BARRIER	/* the pin goes while the loads of the last read are on their way */
	:: (done & VALID) == VALID && !wrong ->
		PIN_STORE(me, 0);
		do
		LOAD_FIELD(D_A, FIELD_A, a)
		LOAD_FIELD(D_B, FIELD_B, b)
		:: d_step { done == ALL ->
				assert(!bad);
				assert(a == expected[g]);
				assert(b == expected[g]) }
			break
		od;
		goto pin_again
#endif
	od;
	PIN_STORE(me, 0);	/* after the barrier of the release */
	goto pin_again
}
