/*
 * durable/guard.h
 *	  Whatever changes a row of our tables must pass our triggers.
 *
 * A trigger that is off, or gone, lets rows change behind the image's back:
 * DISABLE TRIGGER, a restore with --disable-triggers, DROP TRIGGER by a
 * superuser.  session_replication_role does not, as they fire ALWAYS.
 *
 * ARGUMENT (D-1).  A transaction that alters our tables so that it could
 * matter forgets the durable registries of its database with its commit
 * (pgr_pending_forget): from then on they are read from the table, as after a
 * start of the server, until a load has found all triggers in force.  It holds
 * ShareRowExclusiveLock, or a stronger one, on the table until after its
 * commit callback; whoever changes a row, creates or renames a registry, or
 * loads one, holds RowExclusiveLock on it until after his.  The two conflict.
 *
 *		So when triggers go off, nobody else has uncommitted changes; all that
 *		he wrote was listed, and is void if the registry is forgotten before
 *		he could publish it.
 *		While they are off nothing is made resident: loads and creations look
 *		at the triggers under their lock.
 *		When they are in force again, nobody has uncommitted changes that were
 *		not listed: a load that begins then sees all rows of before, and every
 *		later change is listed.
 *
 * Grants of a memory registry, which is not forgotten, are read from the table
 * while the directory is not complete; the load that makes it so brings them
 * up to date, under the same locks.
 *
 * A rolled back ALTER TABLE has changed nothing, and nothing is forgotten.
 * What the transaction itself reads after its ALTER TABLE is the table.
 */
#ifndef PGR_DURABLE_GUARD_H
#define PGR_DURABLE_GUARD_H

#include "catalog/objectaccess.h"

/*
 * Until the end of the transaction the triggers stay as they are.  True if all
 * are in force.
 */
extern bool pgr_guard_lock(void);

/* The same; ERROR, with what is to be done, if one is not. */
extern void pgr_guard_require(void);

/*
 * What is wrong with our triggers, and what to do; both NULL if nothing.  In
 * the current memory context, without a lock that lasts.
 */
extern void pgr_guard_describe(char **problem, char **remedy);

/*
 * For a loader: ENABLE TRIGGER, which ends a restore with --disable-triggers
 * too, leaves triggers that do not fire ALWAYS.  Who did that wants them to
 * fire: let them.
 */
extern void pgr_guard_repair(void);

/* From object_access_hook, for every object that is created, altered, dropped. */
extern void pgr_guard_object(ObjectAccessType access, Oid class, Oid object,
							 const void *arg);

#endif /* PGR_DURABLE_GUARD_H */
