/*
 * PATCH publishes: one slot of a block that is changed in place, its chain of
 * Versions, and their reclamation: V1..V5, U1..U3, L1..L7 of
 * src/registry/patch.h.  pin.pml is the other half; what it shows is repeated
 * here as far as it matters: R1..R4 and C1, C2 in full, and with BLOCKS=2 a
 * rebuild of the block, too, with R5.
 *
 * Several slots need no model: a reader asks for one key at a time, each key
 * is compared with what the pinned generation had, and what slots share is
 * the generation, the memory and the block's count of unlinks.  That memory
 * goes from one chain to another is no harder than that it comes back to a
 * newer place in the same chain, or is poison.
 *
 * Every publish changes the key (to its own generation as the value, or it
 * deletes it), so that each generation has another answer.
 *
 * Asserted: the value and the fixed field that a pinned reader reads are both
 * what its generation had (R-2, R-4); they do not come from memory that was
 * freed; a walk that ran into garbage always finds the unlinks changed (so
 * that who goes back to L4 does so because the writer freed something).
 *
 * The second reader only pins and releases, see pin.pml.  READERS=2 lets both
 * read.
 *
 *	INSERT		the key is not there at first, and can be deleted
 *	BLOCKS=2	the writer can also rebuild the block
 *	EARLY		u of L4 and the value may be loaded before the version of L3
 *	PLAIN_FILL	stores to new and to freed memory are not reordered (where
 *				another configuration has shown that they may be)
 *	PRUNE		the writer can leave what it unlinked to a later reclaim
 */
#ifndef GENERATIONS
#define GENERATIONS 4	/* the last one */
#endif
#ifndef VERSIONS
#define VERSIONS 2		/* memory for so many: it is used again */
#endif
#ifndef BLOCKS
#define BLOCKS 1
#endif
#ifndef READERS
#define READERS 1
#endif
#ifndef KEY
#define KEY 7			/* 0: the key is equal to what an unused slot holds */
#endif

#define GENERATION 0
#if BLOCKS > 1	/* PGR_RECENT is 1 */
#define RECENT_GENERATION 1
#define RECENT_ROOT 2
#define FIRST_SLOT 3
#else
#define FIRST_SLOT 1
#endif

/* The block: its slot, its unlinks, and the value that it was built with. */
#define SLOT(b, f) (FIRST_SLOT + (b) * SLOT_FIELDS + (f))
#define VERSION(b) SLOT(b, 0)
#define ITEM(b) SLOT(b, 1)
#define FIXED(b) SLOT(b, 2)
#define UNLINKS(b) SLOT(b, 3)
#define BASE_VALUE(b) SLOT(b, 4)
#ifdef INSERT
#define FLAGS(b) SLOT(b, 5)
#define KEY8(b) SLOT(b, 6)
#define TAG(b) SLOT(b, 7)
#define SLOT_FIELDS 8
#else
#define SLOT_FIELDS 5
#endif

/* A Version.  DELETED stands in the place of the value, BASE for all of base_*: what base_item refers to, 0 = none. */
#define CELL(c, f) (FIRST_SLOT + BLOCKS * SLOT_FIELDS + (c) * 5 + (f))
#define BIRTH(c) CELL(c, 0)
#define OLDER(c) CELL(c, 1)
#define BASE(c) CELL(c, 2)
#define VALUE(c) CELL(c, 3)
#define VALUE_FIXED(c) CELL(c, 4)
#define DELETED 98

/* slot.item and older: 0 = none, 1 = the value in the block, otherwise a Version. */
#define IN_BLOCK 1
#define REF(c) ((c) + 2)
#define IS_VERSION(ref) ((ref) >= 2)
#define CELL_OF(ref) ((ref) - 2)

#define NLOC (FIRST_SLOT + BLOCKS * SLOT_FIELDS + VERSIONS * 5)
#include "memory.inc"

/* What is true, for the assertions: the value of each generation (0: none), and what is in use. */
byte expected[GENERATIONS + 1];
bit live[VERSIONS];
bit block_live[BLOCKS];

/* States of a Version. */
#define FREE 0
#define NEWEST 1
#define RETIRED 2
#define UNLINKED 3

#define IN(p, from, to) (p >= from && p < to)
#ifdef FREE_BY_NEWEST_PIN	/* a logic error: what is older than the newest pin */
#define PINNED(from, to) (p0 > p1 -> IN(p0, from, to) : IN(p1, from, to))
#else
#define PINNED(from, to) (IN(p0, from, to) || IN(p1, from, to))
#endif

/* Of memory that no reader should look at: V1, a new block, poison. */
#ifdef PLAIN_FILL
#define FILL(l, x) atomic { !(buffered & BIT(l)) -> m[l] = x }
#else
#define FILL(l, x) STORE(l, x)
#endif

#ifdef UNLINK_CUTS	/* a logic error: the rest of the chain is lost */
#define NEXT_OLDER(n) 0
#else
#define NEXT_OLDER(n) older[n]
#endif

#define UNLINK_STEP \
	do	/* U1 */ \
	:: d_step { i == VERSIONS -> i = 0 } break \
	:: atomic { i < VERSIONS && state[i] == RETIRED && !PINNED(birth[i], death[i]) -> \
			d_step { \
				n = 0; \
				do \
				:: older[n] == REF(i) -> break \
				:: else -> n++ \
				od; \
				older[n] = older[i]; older[i] = 0; \
				state[i] = UNLINKED; \
				counted[block_of[i]] = 1; \
				any = 1 } } \
		STORE(OLDER(n), NEXT_OLDER(n)); \
		d_step { n = 0; i++ } \
	:: atomic { i < VERSIONS && !(state[i] == RETIRED && !PINNED(birth[i], death[i])) -> i++ } \
	od

#define FREE_STEP \
	do	/* U3 */ \
	:: d_step { i == VERSIONS -> i = 0 } break \
	:: d_step { i < VERSIONS && state[i] == UNLINKED -> \
			state[i] = FREE; live[i] = 0; birth[i] = 0; death[i] = 0; block_of[i] = 0 } \
		FILL(BIRTH(i), 0); \
		FILL(OLDER(i), REF(i)); \
		FILL(VALUE(i), POISON); \
		i++ \
	:: atomic { i < VERSIONS && state[i] != UNLINKED -> i++ } \
	od

active proctype writer()
{
	byte state[VERSIONS];
	byte birth[VERSIONS];
	byte death[VERSIONS];
	byte older[VERSIONS];	/* as the writer wrote it */
	byte block_of[VERSIONS];
	byte item[BLOCKS];		/* of the slot */
	byte base[BLOCKS];		/* what the block was built with */
	byte unlinks[BLOCKS];
	bit counted[BLOCKS];
	byte generation = 1;
	byte i;
	byte n;
	byte p0;
	byte p1;
	byte value;
	bit any;
	byte block;
#if BLOCKS > 1
	byte block_birth[BLOCKS];
	byte block_death[BLOCKS];
#endif

	d_step {
		m[GENERATION] = 1;
		block_live[0] = 1;
#ifndef INSERT
		expected[1] = 1;
		base[0] = 1;
		item[0] = IN_BLOCK;
		m[ITEM(0)] = IN_BLOCK;
		m[FIXED(0)] = 1;
		m[BASE_VALUE(0)] = 1;
#endif
#if BLOCKS > 1
		block_birth[0] = 1;
		m[RECENT_GENERATION] = 1;
#endif
	}
	run reader(0);
#if READERS > 1
	run reader(1);
#else
	run holder(1);
#endif

end:
	do
	:: generation < GENERATIONS ->	/* PATCH */
		d_step {
			i = 0;
			do
			:: i < VERSIONS && state[i] != FREE -> i++
			:: else -> break
			od
		}
		if
		:: i == VERSIONS -> i = 0	/* no memory: the publish fails */
		:: else ->
			value = generation + 1;
#ifdef INSERT
			if
			:: true
			:: expected[generation] != 0 -> value = DELETED
			fi;
#endif
			d_step {
				generation++;
				expected[generation] = (value == DELETED -> 0 : value);
				state[i] = NEWEST;
				live[i] = 1;
				birth[i] = generation;
				block_of[i] = block;
				older[i] = (IS_VERSION(item[block]) -> item[block] : 0);
			}
#ifdef VERSION_LAST
#undef V2
#define V2
#else
#define V2 STORE(VERSION(block), generation)
#endif
			FILL(BIRTH(i), generation);	/* V1 */
			FILL(OLDER(i), older[i]);
			FILL(BASE(i), base[block]);
			FILL(VALUE(i), value);
			FILL(VALUE_FIXED(i), generation);
			V2;
#ifdef TAG_FIRST
			STORE(TAG(block), 1);
#endif
#ifndef NO_V3
			WRITE_BARRIER;	/* V3 */
#endif
#ifdef INSERT
			if
			:: item[block] == 0 -> STORE(KEY8(block), KEY)
			:: else
			fi;
#endif
			STORE(ITEM(block), REF(i));	/* V4a */
#ifndef NO_V4B
			WRITE_BARRIER;	/* V4b */
#endif
			STORE(FIXED(block), generation);
#ifdef INSERT
			STORE(FLAGS(block), (value == DELETED -> 1 : 0));
			if
			:: item[block] == 0 ->
#ifndef NO_V5
				WRITE_BARRIER;	/* V5 */
#endif
#ifndef TAG_FIRST
				STORE(TAG(block), 1)
#endif
			:: else
			fi;
#endif
#ifdef VERSION_LAST
			STORE(VERSION(block), generation);
#endif
#if BLOCKS > 1
			n = block;
publish:
			STORE(RECENT_GENERATION, 0);	/* P2 */
			WRITE_BARRIER;
			STORE(RECENT_ROOT, n);
			WRITE_BARRIER;
			STORE(RECENT_GENERATION, generation);
#endif
#ifndef NO_P3
			WRITE_BARRIER;	/* P3 */
#endif
			STORE(GENERATION, generation);
#if BLOCKS > 1
			if
			:: n != block ->
				d_step { block_death[block] = generation; block = n; i = 0; n = 0; value = 0 }
				goto next
			:: else -> n = 0
			fi;
#endif
			d_step {	/* the superseded Version */
				if
				:: IS_VERSION(item[block]) ->
					death[CELL_OF(item[block])] = generation;
					state[CELL_OF(item[block])] = RETIRED
				:: else
				fi;
				item[block] = REF(i);
				i = 0; value = 0;
			}
		fi;
#if BLOCKS > 1
next:	skip
	:: generation < GENERATIONS && !block_live[1 - block] ->	/* rebuild */
		d_step {
			n = 1 - block;
			generation++;
			expected[generation] = generation;
			block_live[n] = 1;
			block_birth[n] = generation;
			item[n] = IN_BLOCK;
			base[n] = generation;
			unlinks[n] = 0;
		}
		FILL(VERSION(n), 0);
		FILL(ITEM(n), IN_BLOCK);
		FILL(FIXED(n), generation);
		FILL(UNLINKS(n), 0);
		FILL(BASE_VALUE(n), generation);
		goto publish
#endif
	:: true ->	/* reclaim */
#ifndef NO_C1
		WRITE_BARRIER;	/* C1 */
#endif
		p0 = pin[0];	/* C2 */
		p1 = pin[1];
#ifdef FREE_FIRST	/* a logic error: the memory is used again before it is unlinked */
		do
		:: i == VERSIONS -> i = 0; break
		:: i < VERSIONS && state[i] == RETIRED && !PINNED(birth[i], death[i]) ->
			live[i] = 0;
			FILL(BIRTH(i), 0);
			FILL(OLDER(i), REF(i));
			FILL(VALUE(i), POISON);
			i++
		:: i < VERSIONS && !(state[i] == RETIRED && !PINNED(birth[i], death[i])) -> i++
		od;
#endif
		UNLINK_STEP;
#ifndef NO_U2A
		WRITE_BARRIER;	/* U2 */
#endif
		do
		:: i == BLOCKS -> i = 0; break
		:: i < BLOCKS && counted[i] ->
#ifndef NO_COUNT
			d_step { counted[i] = 0; unlinks[i]++ }
			STORE(UNLINKS(i), unlinks[i]);
#else
			counted[i] = 0;
#endif
			i++
		:: i < BLOCKS && !counted[i] -> i++
		od;
#ifndef NO_U2B
		WRITE_BARRIER;
#endif
#if BLOCKS > 1
		/* A block goes with all its Versions. */
		i = 1 - block;
		if
		:: block_live[i] && !PINNED(block_birth[i], block_death[i]) ->
			d_step {
				n = 0;
				do
				:: n < VERSIONS ->
					if
					:: state[n] != FREE && block_of[n] == i -> state[n] = UNLINKED; older[n] = 0
					:: else
					fi;
					n++
				:: else -> n = 0; break
				od;
				block_live[i] = 0; item[i] = 0; base[i] = 0; unlinks[i] = 0;
				block_birth[i] = 0; block_death[i] = 0;
			}
			FILL(BASE_VALUE(i), POISON);
			FILL(ITEM(i), POISON)
		:: else
		fi;
		i = 0;
#endif
		atomic { p0 = 0; p1 = 0 }
#ifdef PRUNE
		if
		:: true
		:: true -> goto pruned	/* U3 is left to a later reclaim */
		fi;
#endif
		FREE_STEP;
#ifdef PRUNE
pruned:	skip
#endif
	od
}

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

/* What a reader has done, in any order that the barriers allow. */
#define D_TAG 1
#define D_KEY 2
#define D_ITEM 4
#define D_FIXED 8
#define D_FLAGS 16
#define D_VERSION 32
#define D_UNLINKS 64
#define D_VALUE 128
#ifdef INSERT
#define L1 (D_TAG | D_KEY | D_ITEM | D_FIXED | D_FLAGS)
#else
#define L1 (D_ITEM | D_FIXED)
#endif
#define LOOKED (L1 | D_VERSION)
/* The slot's address comes from the tags. */
#if !defined(INSERT) || defined(NO_TAG_DEPENDENCY)
#define BEFORE_L1 0
#else
#define BEFORE_L1 D_TAG
#endif
#ifdef NO_L2
#define BEFORE_VERSION BEFORE_L1
#else
#define BEFORE_VERSION L1
#endif
#ifdef EARLY
#define BEFORE_VALUE L1
#else
#define BEFORE_VALUE LOOKED
#endif
#define CAN(what, before) (!(done & (what)) && (done & (before)) == (before))
#define HAVE(what) ((done & (what)) == (what))

/* In a walk, and after it. */
#define D_BIRTH 1
#define D_OLDER 2
#define D_BASE 4
#define D_FOUND 8
#define D_FOUND_FIXED 16
#define D_AGAIN 32

#if BLOCKS > 1
#define B block
#else
#define B 0
#endif

#define IS_ABSENT atomic { assert(expected[g] == 0); goto read_done }
#define IS_VALUE \
	atomic { \
		assert(!bad); \
		assert(value == (expected[g] == 0 -> DELETED : expected[g])); \
		assert(value == DELETED || fixed == expected[g]); \
		goto read_done }

proctype reader(bit me)
{
	byte g;
	byte done;
	byte item;
	byte fixed;
	byte version;
	byte value;
	byte unlinks;
	byte birth;
	byte older;
	byte steps;
	bit bad;		/* read what had been freed */
	bit released;
#ifdef INSERT
	bit tag;
	bit flags;
	byte key;
#else
#define flags 0
#endif
#if BLOCKS > 1
	byte block;
#endif

pin_again:
	g = m[GENERATION];	/* R1 */
	PIN_STORE(me, g);	/* R2 */
#ifndef NO_R3
	FULL_BARRIER(me);	/* R3 */
#endif
#ifndef NO_R4_CHECK
	atomic {
		if
		:: m[GENERATION] != g -> g = 0; goto pin_again	/* R4 */
		:: else
		fi
	}
#endif
#if BLOCKS > 1
	atomic {
		if
		:: m[RECENT_GENERATION] != g -> g = 0; goto pin_again	/* R5 */
		:: else
		fi
	}
	block = m[RECENT_ROOT];
	atomic {
		if
		:: m[RECENT_GENERATION] != g -> g = 0; block = 0; goto pin_again
		:: else
		fi
	}
#endif

lookup:
	do
#ifdef INSERT
	:: d_step { CAN(D_TAG, 0); tag = m[TAG(B)]; done = done | D_TAG }
	:: d_step { CAN(D_KEY, BEFORE_L1); key = m[KEY8(B)]; done = done | D_KEY }
	:: d_step { CAN(D_FLAGS, BEFORE_L1); flags = m[FLAGS(B)]; done = done | D_FLAGS }
#endif
	:: d_step { CAN(D_ITEM, BEFORE_L1); item = m[ITEM(B)]; done = done | D_ITEM }	/* L1 */
	:: d_step { CAN(D_FIXED, BEFORE_L1); fixed = m[FIXED(B)]; done = done | D_FIXED }
	:: d_step { CAN(D_VERSION, BEFORE_VERSION); version = m[VERSION(B)]; done = done | D_VERSION }	/* L2, L3 */
#ifdef EARLY	/* no barrier stands between L3 and these */
	:: d_step { CAN(D_UNLINKS, L1); unlinks = m[UNLINKS(B)]; done = done | D_UNLINKS }
#endif
	:: d_step { CAN(D_VALUE, BEFORE_VALUE) && item != 0 && item != POISON ->
			if
			:: item == IN_BLOCK -> value = m[BASE_VALUE(B)]; bad = !block_live[B]
			:: else -> value = m[VALUE(CELL_OF(item))]; bad = !live[CELL_OF(item)]
			fi;
			done = done | D_VALUE }
#ifdef INSERT
	:: HAVE(D_TAG) && !tag -> IS_ABSENT
	:: HAVE(LOOKED) && tag && key != KEY -> IS_ABSENT
	:: HAVE(LOOKED) && tag && key == KEY && version <= g && flags -> IS_ABSENT
	:: HAVE(LOOKED) && tag && key == KEY && version > g -> break
#ifdef ZERO_IS_ABSENT
	:: HAVE(LOOKED) && tag && key == KEY && version <= g && !flags && item == 0 -> IS_ABSENT
#else
	:: d_step { HAVE(LOOKED) && tag && key == KEY && version <= g && !flags -> assert(item != 0) }
#endif
	:: HAVE(LOOKED | D_VALUE) && tag && key == KEY && version <= g && !flags -> IS_VALUE
#else
	:: HAVE(LOOKED) && version > g -> break
	:: HAVE(LOOKED | D_VALUE) && version <= g -> IS_VALUE
#endif
#ifdef NO_UNPIN_BARRIER	/* the pin goes while the last load is on its way */
	:: HAVE(LOOKED) && version <= g && !HAVE(D_VALUE) && !released ->
		PIN_STORE(me, 0);
		released = 1
#endif
	od;

	atomic { version = 0; value = 0; bad = 0; item = 0; done = done & D_UNLINKS }
newer:
	if	/* L4 */
	:: done != 0
	:: done == 0 -> unlinks = m[UNLINKS(B)]
#ifdef NO_L4	/* read as late as L6 lets it */
	:: true -> unlinks = 77
#endif
	fi;
	done = 0;
#ifdef NO_L5A
	if
	:: item = m[ITEM(B)]
	:: true
	fi;
#endif
#ifndef REUSE_L1
	do	/* L5a */
	:: d_step { CAN(D_FIXED, 0); fixed = m[FIXED(B)]; done = done | D_FIXED }
#ifdef INSERT
	:: d_step { CAN(D_FLAGS, 0); flags = m[FLAGS(B)]; done = done | D_FLAGS }
	:: HAVE(D_FIXED | D_FLAGS) -> break
#else
	:: HAVE(D_FIXED) -> break
#endif
	od;
#endif
	atomic {
		done = 0;
		if
		:: item == 0 -> item = m[ITEM(B)]
		:: else
		fi
	}
	if
	:: item == 0 -> IS_ABSENT
	:: item == IN_BLOCK ->
		d_step { value = m[BASE_VALUE(B)]; bad = !block_live[B] }
		IS_VALUE
	:: else
	fi;

walk:
	assert(IS_VERSION(item) && CELL_OF(item) < VERSIONS);
	do	/* L5b */
	:: d_step { CAN(D_BIRTH, 0); birth = m[BIRTH(CELL_OF(item))]; done = done | D_BIRTH }
	:: d_step { CAN(D_OLDER, 0); older = m[OLDER(CELL_OF(item))]; done = done | D_OLDER }
	:: d_step { CAN(D_BASE, 0); value = m[BASE(CELL_OF(item))]; done = done | D_BASE }
	:: atomic { HAVE(D_BIRTH) && birth <= g -> goto found }
	:: atomic { HAVE(D_BIRTH | D_OLDER) && birth > g && IS_VERSION(older) ->
			item = older; older = 0; birth = 0; done = 0; value = 0;
			steps++;
			if
			:: steps > VERSIONS -> goto garbage
			:: else -> goto walk
			fi }
	:: atomic { HAVE(D_BIRTH | D_OLDER | D_BASE) && birth > g && !IS_VERSION(older) -> goto none_found }
	od;

#ifdef NO_L6_CHECK
#define UNCHANGED true
#else
#define UNCHANGED (unlinks == m[UNLINKS(B)] || unlinks == 77)
#endif
#ifdef NO_L6	/* read as early as L4 lets it: as good as not at all */
#define AGAIN_EARLY(what) :: atomic { true -> what }
#else
#define AGAIN_EARLY(what)
#endif

none_found:	/* the base_* of the last one */
	atomic {
		if	/* L6 */
		:: UNCHANGED ->
			assert(value == expected[g]);
			goto read_done
		AGAIN_EARLY(assert(value == expected[g]); goto read_done)
		:: !UNCHANGED -> goto again
		fi
	}

garbage:
	atomic {
		if
		:: UNCHANGED -> assert(false)
		:: !UNCHANGED -> goto again
		fi
	}

found:
	atomic { done = 0; birth = 0; older = 0; value = 0; steps = 0; fixed = 0; }
	do	/* L6 and L7: the loads of L7 may be early, what they read is used late */
	:: atomic { CAN(D_AGAIN, 0) ->
			if
			:: UNCHANGED -> done = done | D_AGAIN
			AGAIN_EARLY(done = done | D_AGAIN)
			:: !UNCHANGED -> goto again
			fi }
	:: d_step { CAN(D_FOUND, 0); value = m[VALUE(CELL_OF(item))];
			bad = bad || !live[CELL_OF(item)]; done = done | D_FOUND }
	:: d_step { CAN(D_FOUND_FIXED, 0); fixed = m[VALUE_FIXED(CELL_OF(item))];
			bad = bad || !live[CELL_OF(item)]; done = done | D_FOUND_FIXED }
	:: HAVE(D_AGAIN | D_FOUND | D_FOUND_FIXED) -> IS_VALUE
#ifdef NO_UNPIN_BARRIER
	:: HAVE(D_AGAIN) && !HAVE(D_FOUND) && !released ->
		PIN_STORE(me, 0);
		released = 1
#endif
	od;

again:
	atomic { done = 0; item = 0; fixed = 0; value = 0; birth = 0; older = 0; steps = 0; bad = 0; unlinks = 0;
		goto newer }

read_done:
	atomic { done = 0; item = 0; fixed = 0; value = 0; birth = 0; older = 0; steps = 0; bad = 0; unlinks = 0; version = 0;
#ifdef INSERT
		tag = 0; flags = 0; key = 0;
#endif
	}
	if
	:: !released -> goto lookup	/* another read */
	:: !released -> PIN_STORE(me, 0)	/* after the barrier of the release */
	:: released -> released = 0
	fi;
	atomic { g = 0;
#if BLOCKS > 1
		block = 0;
#endif
		goto pin_again }
}
