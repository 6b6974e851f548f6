/*
 * durable/follow.h
 *	  On a standby: an image that follows replay (D-2).
 *
 * A follower is a worker of one database.  It loads every registry, then looks
 * at the log of changes (changes.h) whenever something was replayed, reads what
 * it names, and publishes it.
 *
 * ARGUMENT.  A place of PgrSharedFollow stands for a database whose image was
 * made by a follower.
 *
 * 1. What a poll publishes.  Let S be the snapshot of the last complete poll
 *	  and S' that of this one.  A transaction's rows are in S' and not in S if
 *	  and only if it ended between the two, in whatever order: it is at or above
 *	  S's xmax, or was running in S, and S' sees its rows.  The whole of S is
 *	  kept, as sorted ids, so both kinds are found: those at or above xmax by a
 *	  range of the log, each other one that no longer runs by its id.  Rows of
 *	  the log bear the id of the top-level transaction, which a snapshot taken
 *	  in recovery always lists, however many subtransactions have overflowed.
 *	  All that these rows name is read by S' and published as one generation:
 *	  the image goes from the state of S to that of S' (W-1).  Reading a key
 *	  twice is harmless, as only its present row counts.
 *
 * 2. The first load takes S0, then each registry by a snapshot of its own, at
 *	  or after S0, and publishes it; then polls from S0.  Reads do not use what
 *	  is there until that poll has made one state of it (3).
 *
 * 3. Reads use the image of a database that has a place only while the last
 *	  complete poll began less than a second ago.  Else, and from the promotion
 *	  on, they read the tables.  The first read of a statement decides, and its
 *	  parallel workers do as it does.  It asks before it pins, so that
 *	  what was fresh, or released, is in what it pins; and again after it, since
 *	  a follower that begins to load says so before it publishes anything.
 *
 * 4. Promotion.  A writer of the promoted server, be it put() or a trigger,
 *	  looks for a place of its database before it lists a change, let alone
 *	  commits.  If there is one, it takes what the place stands for out of the
 *	  image and ends the place, under PGR_LOCK_FOLLOW; from there on the server
 *	  is like one that has just started, and loads.  A follower publishes under
 *	  that lock, after a look whether its place is still there.  When it finds
 *	  that recovery has ended, it polls once more: all has been replayed by
 *	  then, and what was under way on the old primary is aborted (nobody can
 *	  prepare a transaction that has changed a registry).  So if its place is
 *	  still there afterwards, no writer has committed, and S' is the state of
 *	  the tables.  It ends the place then, under the same lock, and the image is
 *	  as a load would have left it; a writer finds no place and lists its
 *	  changes for what is there.
 *	  No place appears after that: who claims one stores it, and then gives up
 *	  unless recovery still goes on; a writer asks for recovery first, and then
 *	  for the place.  One of the two sees the other.
 *
 * 5. A follower that fails, or is terminated, leaves its place.  What it has
 *	  published serves until it is a second old.  The next one loads anew.  If
 *	  its database or extension is dropped, image and place go.
 *
 * 6. What was away for longer than the log reaches back finds the row that
 *	  says below which transaction nothing is left: if that is above S's xmin,
 *	  everything is loaded again.
 */
#ifndef PGR_DURABLE_FOLLOW_H
#define PGR_DURABLE_FOLLOW_H

#include "nodes/pg_list.h"

#include "shm/follow_state.h"

typedef enum PgrFollowResult
{
	PGR_FOLLOW_ON,
	PGR_FOLLOW_OVER /* our place has ended, or has nothing to follow */
} PgrFollowResult;

/* In a database, outside a transaction: is there anything to follow? */
extern bool pgr_follow_has_registries(void);

/*
 * Outside a transaction: one look at the log, or, at the first time, the whole
 * load.  After an error call it again, once the transaction is aborted.
 */
extern PgrFollowResult pgr_follow_poll(PgrFollowPlace *place);

/* Databases that are none of these, and that nobody follows, are gone. */
extern void pgr_follow_forget_dropped(const List *databases);

/* The database or its extension is gone. */
extern void pgr_follow_forget(PgrFollowPlace *place);

#endif /* PGR_DURABLE_FOLLOW_H */
