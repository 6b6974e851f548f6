/*
 * durable/load.h
 *	  From the tables into the image.
 *
 * ARGUMENT (D-1, W-2).  Whoever changes an entry of a registry, through put()
 * or by DML on the table, holds a lock on the registry that conflicts with the
 * one that a load takes, from before the row changes until after the commit
 * callback has published.  So while a load holds its lock nobody is between
 * the two, a snapshot taken then sees all rows that any publish has shown, and
 * what the load publishes is what the image would hold had it been resident
 * all along.  It is committed data: the load need not wait for its own commit.
 *
 * A load that fails or is cut short leaves the registry as it was: read from
 * the table.
 *
 * BATCHES (N-2).  No loader stays connected for long.  When its time is over it
 * ends, and another one goes on with the registries that come after, in the
 * order of their slots.  A registry that takes longer is loaded in batches, in
 * the order of keys, and is PGR_PARTIAL in between: its block holds every
 * committed entry whose key is not above a bound, the last key of the last
 * batch (pgr_load_bound()), perhaps some above it, and none that is not
 * committed; nobody reads it.
 *	  A batch takes the lock as above, reads the rows behind the bound as of
 * then, adds them, and moves the bound before it lets go of the lock.  Between
 * two batches whoever commits a change publishes it as if the registry were
 * resident, wherever the key is.  So an entry that has changed since its batch
 * is as it was changed last; one that changes before its batch is in the rows
 * that the batch reads; and one that was deleted is in neither.  The last batch
 * makes the registry resident.
 *	  What makes a registry hollow, or changes its grants, may hold no lock on
 * it: a batch goes on only from the very block that it has looked at before it
 * read its rows (expected_birth).
 *	  If the bound is lost, the next batch is a first one, which keeps nothing.
 * If a batch fails or does not fit beside what is there, that is given up; if
 * it does not fit, all is
 * loaded at once, which needs room for one block only.
 */
#ifndef PGR_DURABLE_LOAD_H
#define PGR_DURABLE_LOAD_H

#include "registry/block.h"

/* What one loader does. */
typedef struct PgrLoadTurn
{
	int64 began_ms;  /* when it connected, by the clock of base/clock.h */
	uint32 after;    /* registries in higher slots; how far it came */
	bool more;       /* there are, and it is another loader's turn */
	int not_fitting; /* how many have no room */
} PgrLoadTurn;

/*
 * In a process connected to a database, outside a transaction: loads the
 * definitions, then durable registries that are not resident, each in a
 * transaction of its own.  Does nothing if the extension is not installed;
 * ERROR if a trigger of ours is off (guard.h).
 */
extern void pgr_load_database(PgrLoadTurn *turn);

/*
 * In a transaction that has not changed the registry: make it resident, with
 * what is committed.  Holds the lock on the whole registry until the
 * transaction ends.  False if there is no room; ERROR if a trigger of ours is
 * off.
 */
extern bool pgr_load_registry(PgrDefinition *definition);

/* Visits each key whose entry in the image is not what the table has. */
extern void pgr_load_compare(const PgrDefinition *definition,
							 void (*visit)(const char *key, uint32 key_len,
										   const char *problem, void *arg),
							 void *arg);

#endif /* PGR_DURABLE_LOAD_H */
