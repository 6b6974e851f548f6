/*
 * durable/rows.h
 *	  Rows of stored_entries, one by one, below the executor.
 *
 * An INSERT ... ON CONFLICT through SPI costs more than all the rest of a
 * put().  Here the caller holds the lock on the key (registry/write.h), so the
 * newest committed row of it is the newest there will be: it is found through
 * the primary key with a snapshot taken under that lock and updated, or there
 * is none and one is inserted.  As logical replication's apply does, but
 * without triggers: whoever calls this lists the change himself.
 *
 * Nobody's privileges are asked: those of the registry were.
 */
#ifndef PGR_DURABLE_ROWS_H
#define PGR_DURABLE_ROWS_H

#include "registry/table.h"

typedef struct PgrRows PgrRows;

/*
 * In a transaction that may write, under the locks.  Between open and close a
 * key may be named once.  ERROR undefined_table if there is no such table.
 */
extern PgrRows *pgr_rows_open(PgrText registry);

/* "value" as pgr_value_to_stored() makes it; expires_at 0 = never. */
extern void pgr_rows_put(PgrRows *rows, PgrText key, const char *value,
						 TimestampTz updated_at, TimestampTz expires_at);

/* False if there is none; else *expires_at is what it had. */
extern bool pgr_rows_delete(PgrRows *rows, PgrText key,
							TimestampTz *expires_at);

/* The rows are visible to the commands that follow. */
extern void pgr_rows_close(PgrRows *rows);

#endif /* PGR_DURABLE_ROWS_H */
