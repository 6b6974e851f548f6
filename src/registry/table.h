/*
 * registry/table.h
 *	  What reads and commits ask of the tables, where durable registries live.
 *
 * The tables belong to durable/, which this layer may not know: init.c puts
 * its functions here.  All of them read by index or sequential scans of their
 * own, without SPI, without privileges and without a change of role, in any
 * process that has a database: in parallel workers and on a standby, too.
 *
 * A durable registry that is not resident is read through this, and so is one
 * of a database whose image has not been loaded yet (D-1, D-2, R-3).
 */
#ifndef PGR_REGISTRY_TABLE_H
#define PGR_REGISTRY_TABLE_H

#include "registry/rates.h"
#include "registry/value.h"

/* As of what? */
typedef enum PgrTableView
{
	PGR_VIEW_STATEMENT, /* the active snapshot, own earlier commands included */
	PGR_VIEW_NEWEST,    /* all that is committed now, and all of our own */
	PGR_VIEW_COMMITTED  /* all that is committed now, and nothing else */
} PgrTableView;

/* A row of stored_entries, in memory that the callee keeps until it returns. */
typedef struct PgrTableRow
{
	PgrText registry;
	PgrText key;
	char *value; /* as text */
	TimestampTz updated_at;
	TimestampTz expires_at; /* 0 = never */
} PgrTableRow;

typedef struct PgrTable
{
	/* False if there is no registry of this name; incarnation is 0. */
	bool (*definition)(PgrText name, PgrTableView view,
					   PgrDefinition *definition);
	void (*each_definition)(PgrTableView view,
							void (*visit)(const PgrDefinition *definition,
										  void *arg),
							void *arg);
	/* False if there is no such key; the row lies in the current context. */
	bool (*find)(PgrText registry, PgrText key, PgrTableView view,
				 PgrTableRow *row);
	/*
	 * The newest published set of rates, as this database's own would be in
	 * memory, in the current context; NULL if there never was a set.
	 */
	const PgrBlock *(*rates)(PgrTableView view);
	/* The row of this set, if it is the newest published one; else 0. */
	int64 (*rate_set)(const PgrRatesInfo *info, PgrTableView view);
	/* In the order of keys; the row is valid during the visit. */
	void (*scan)(PgrText registry, PgrTableView view,
				 void (*visit)(const PgrTableRow *row, void *arg), void *arg);
	/*
	 * The same, from behind that key on (NULL: from the first), until "visit"
	 * returns false.  False, with nothing visited, if there is no index in the
	 * order of keys.
	 */
	bool (*scan_after)(PgrText registry, const PgrText *after,
					   PgrTableView view,
					   bool (*visit)(const PgrTableRow *row, void *arg),
					   void *arg);
	/* For standbys: this transaction changes these keys; NULL = whatever. */
	void (*log_changes)(PgrText registry, const PgrChange *changes, int n);
	/* *n of them, in the current context. */
	PgrGrant *(*grants)(PgrText registry, PgrTableView view, int *n);
} PgrTable;

/* Set before anybody can read. */
extern const PgrTable *pgr_table;

/*
 * The whole registry as a block of our own, in the current memory context;
 * its last change is that of its newest entry.
 */
extern PgrBlock *pgr_table_block(const PgrDefinition *definition,
								 PgrTableView view);

/* All rows as changes, in the current context; *n of them. */
extern PgrChange *pgr_table_changes(const PgrDefinition *definition,
									PgrTableView view, int *n);

/*
 * Those behind that key (NULL: all), in the order of keys, until "enough" says
 * so of their number; *end = there are no more.  NULL: the table has no index
 * in that order.
 */
extern PgrChange *pgr_table_changes_after(const PgrDefinition *definition,
										  const PgrText *after,
										  PgrTableView view,
										  bool (*enough)(int n), int *n,
										  bool *end);

/*
 * How many entries have not expired at "now", and when the last one changed;
 * without looking at any value.
 */
extern int64 pgr_table_count(const PgrDefinition *definition,
							 PgrTableView view, TimestampTz now,
							 TimestampTz *last_change);

/* An empty block of a definition, whose last change was then. */
extern PgrBlock *pgr_table_empty_block(const PgrDefinition *definition,
									   TimestampTz last_change);

/* One entry; its value in the current context.  False: no such key. */
extern bool pgr_table_find(const PgrDefinition *definition, PgrText key,
						   PgrTableView view, PgrValue *value,
						   TimestampTz *expires_at);

#endif /* PGR_REGISTRY_TABLE_H */
