/*
 * durable/changes.h
 *	  The log of changes: which keys a transaction has changed, for standbys.
 *
 * A standby replays rows, and no trigger fires there.  So each transaction
 * that changes durable registries leaves one row for each of them, with the
 * keys, or without any: then whoever follows reads all of it (clear, TRUNCATE,
 * a definition, very many keys, changes that no list has).  An empty list of
 * keys means grants, which are read with every row.  The row is written
 * by that transaction, so it becomes visible with the rows that it tells of,
 * and not at all after a rollback.
 *
 * Rows of transactions that ended long ago go; a row without a registry's name
 * then says below which transaction none is left.
 */
#ifndef PGR_DURABLE_CHANGES_H
#define PGR_DURABLE_CHANGES_H

#include "access/transam.h"
#include "utils/array.h"

#include "registry/table.h"

/*
 * In a transaction that has changed rows of the registry; changes NULL = all
 * of it.  May throw.  Nothing happens where no standby can be.
 */
extern void pgr_changes_write(PgrText registry, const PgrChange *changes,
							  int n);

/* The same without keys, for each row or statement: one row of the log. */
extern void pgr_changes_note(PgrText registry);

/* Its grants, and no key: a row whose list of keys is empty, not NULL. */
extern void pgr_changes_note_grants(PgrText registry);

/* A row: keys NULL = all.  Without a name: nothing below "pruned" is left. */
typedef struct PgrChangesRow
{
	uint64 written_by;
	PgrText registry;
	ArrayType *keys;
	uint64 pruned;
} PgrChangesRow;

/*
 * Rows that the active snapshot sees, of transactions from "from" on, below
 * "to".
 */
extern void pgr_changes_visit(uint64 from, uint64 to,
							  void (*visit)(const PgrChangesRow *row,
											void *arg),
							  void *arg);

/* An id of a snapshot of now, as one that does not wrap around. */
extern uint64 pgr_changes_widen(TransactionId xid);

#endif /* PGR_DURABLE_CHANGES_H */
