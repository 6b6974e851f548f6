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
 */
#ifndef PGR_DURABLE_LOAD_H
#define PGR_DURABLE_LOAD_H

#include "registry/block.h"

/*
 * In a process connected to a database, outside a transaction: loads the
 * definitions, then every durable registry that is not resident, each in a
 * transaction of its own.  Returns how many have no room.  Does nothing if the
 * extension is not installed; ERROR if a trigger of ours is off (guard.h).
 */
extern int pgr_load_database(void);

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
