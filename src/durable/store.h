/*
 * durable/store.h
 *	  Changing registries: every SQL function that writes ends here.
 *
 * A registry that is not durable changes in the list of pending changes only.
 * A durable one changes in its table, by SQL as the table's owner, and the
 * trigger on that table (trigger.c) adds the same change to the list, as it
 * does for everybody else's DML.  So there is one way into the image, and a
 * rollback of the row is a rollback of the change.
 *
 * The caller has checked the role and holds the locks of registry/write.h.
 */
#ifndef PGR_DURABLE_STORE_H
#define PGR_DURABLE_STORE_H

#include "executor/spi.h"

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
 * What the statement that is running in this backend is about, for the
 * trigger: NULL if it is somebody's own DML.
 */
typedef struct PgrStoreStatement
{
	bool quiet; /* the list has it all already: say nothing */
	const PgrDefinition *definition;
	const PgrStorePut *puts; /* the rows, in this order */
	int n;
	int next;
} PgrStoreStatement;

extern PgrStoreStatement *pgr_store_statement;

#define PGR_STATEMENT_ARGUMENTS 10

typedef struct PgrStatement
{
	const char *text;
	int nargs;
	Oid types[PGR_STATEMENT_ARGUMENTS];
	SPIPlanPtr plan; /* kept for the session */
} PgrStatement;

/*
 * Run it as the owner of the tables; "about" is for the trigger.  Returns the
 * first column of its first row, of "result", if it is one that returns rows.
 */
extern int64 pgr_store_run(PgrStatement *statement, Datum *values,
						   const char *nulls, PgrStoreStatement *about,
						   Oid result);

#endif /* PGR_DURABLE_STORE_H */
