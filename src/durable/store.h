/*
 * durable/store.h
 *	  Changing registries: every SQL function that writes ends here.
 *
 * A registry that is not durable changes in the list of pending changes only.
 * A durable one changes in its table and in that list, by the same function
 * and in the same subtransaction, so that a rollback of the row is a rollback
 * of the change.  The trigger (trigger.c) does the same for everybody else's
 * DML on the table.
 *
 * The caller has checked the role and holds the locks of registry/write.h.
 */
#ifndef PGR_DURABLE_STORE_H
#define PGR_DURABLE_STORE_H

#include "durable/statement.h"
#include "registry/write.h"

typedef struct PgrStorePut
{
	PgrText key;
	PgrValue value;
	TimestampTz expires_at; /* 0 = never */
} PgrStorePut;

extern void pgr_store_put(const PgrDefinition *definition, PgrText key,
						  const PgrValue *value, TimestampTz expires_at);

/* No key twice. */
extern void pgr_store_put_many(const PgrDefinition *definition,
							   const PgrStorePut *puts, int n);

/* Was it there, and had it not expired? */
extern bool pgr_store_delete(const PgrDefinition *definition, PgrText key);

/* How many entries that had not expired. */
extern int64 pgr_store_clear(const PgrDefinition *definition);

extern void pgr_store_create(PgrDefinition *definition);
extern void pgr_store_drop(const PgrDefinition *definition);
extern void pgr_store_alter(const PgrDefinition *definition,
							const PgrDefinition *altered);

/*
 * The depth of triggers at which a statement of ours runs, which its caller
 * lists; -1 if there is none.
 */
extern int pgr_store_quiet_at;

/*
 * pgr_statement_run(), and our triggers keep quiet: the caller lists what it
 * does.
 */
extern int64 pgr_store_run(PgrStatement *statement, Datum *values,
						   const char *nulls);

#endif /* PGR_DURABLE_STORE_H */
