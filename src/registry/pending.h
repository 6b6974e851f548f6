/*
 * registry/pending.h
 *	  What this transaction has changed and not committed.
 *
 * Changes lie in the arena from the first put (a full arena says so then), as
 * a list from the newest to the oldest whose head stands in this backend's
 * line, where its parallel workers find it.  Each carries the command and the
 * subtransaction that made it: like a row, it is visible to later commands of
 * the transaction, gone after a rollback to a savepoint, and everybody's after
 * the commit (W-1).
 *
 * At PRE_COMMIT the list is folded into one change for each key and the
 * memory for the publish is reserved; at COMMIT it is published; at ABORT,
 * which can also follow PRE_COMMIT, everything is given back.  Who may change
 * what, and the locks that give W-2, are the business of registry/write.c.
 */
#ifndef PGR_REGISTRY_PENDING_H
#define PGR_REGISTRY_PENDING_H

#include "registry/pin.h"
#include "registry/value.h"

/* Whose registry: (database, extension, name). */
typedef struct PgrRegistryName
{
	Oid database;
	Oid extension;
	const char *name;
	uint32 len;
} PgrRegistryName;

static inline PgrRegistryName
pgr_registry_name(const PgrDefinition *definition)
{
	PgrRegistryName name = {definition->database, definition->extension,
							definition->name, definition->name_len};

	return name;
}

/*
 * Writers.  ERROR 53200 if the arena is full.  "definition" is what the
 * caller checked and encoded the value for; the change is for that
 * incarnation of the registry and void for any other of the same name.
 */
extern void pgr_pending_put(const PgrDefinition *definition, const char *key,
							uint32 key_len, const PgrValue *value,
							TimestampTz updated_at, TimestampTz expires_at);
extern void pgr_pending_delete(const PgrDefinition *definition,
							   const char *key, uint32 key_len);
extern void pgr_pending_create(const PgrDefinition *definition);
extern void pgr_pending_drop(const PgrDefinition *definition);

/* All entries that are there now; those that are put later stay. */
extern void pgr_pending_clear(const PgrDefinition *definition);

/*
 * From "definition" to "altered", which may have another name.  The caller
 * has checked that nobody has that name.
 */
extern void pgr_pending_alter(const PgrDefinition *definition,
							  const PgrDefinition *altered);

/*
 * The registry's grants have changed, or will: from now on reads of this
 * transaction take them from the table, and so does its commit.
 */
extern void pgr_pending_grants(const PgrDefinition *definition);

/* A new set of rates: its puts follow.  "extra" starts with the base. */
extern void pgr_pending_rates(const PgrDefinition *definition,
							  const void *extra, uint32 extra_len,
							  uint32 base_len);

/* Has this transaction set rates of this definition, as visible now? */
extern bool pgr_pending_sees_rates(const PgrDefinition *definition);

/* The newest such "extra" of this transaction; false: there is none. */
extern bool pgr_pending_newest_rates(void *extra, uint32 extra_len);

/* The directory of this database names all that there are, from now on. */
extern void pgr_pending_complete(Oid extension);

/* All registries of an extension, or of a database (extension 0). */
extern void pgr_pending_drop_all(Oid database, Oid extension);

/*
 * This transaction has changed a row of the tables.  Of a registry that is not
 * in the image there is no change to list; it cannot be prepared all the same.
 */
extern void pgr_pending_unlisted(void);

/*
 * The same of a row whose change is not listed; and has this transaction done
 * that?
 */
extern void pgr_pending_hidden(void);
extern bool pgr_pending_has_hidden(void);

/*
 * The durable registries of this database may be other than the list of
 * changes tells: from this commit on the image does not know them, as after a
 * start of the server, and whatever else the list has of them is void.  Reads
 * of this transaction ask the table from now on.  The caller's lock keeps
 * others from creating, renaming and loading such registries until the commit.
 */
extern void pgr_pending_forget(Oid extension);

/* Has this transaction done that? */
extern bool pgr_pending_forgotten(Oid extension);

/*
 * Readers.  "all" sees the current command's changes too: writers ask so,
 * under the locks that they hold.
 */
static inline bool
pgr_pending_any(void)
{
	return pgr_pin_pending_head() != 0;
}

/* What this transaction has done to a name and to the registry that has it. */
typedef struct PgrPendingState
{
	bool gone;                    /* the name is nobody's: dropped, renamed */
	const PgrDefinition *created; /* in the arena; NULL = not by us */
	bool touched;                 /* the name, in whatever way */
	PgrRegistryName origin;       /* what the image and our changes call it */
	uint64 incarnation;           /* 0 = that of the origin's block */
	uint32 since;                 /* changes of keys count if they are newer;
								   * 0 = the block's entries do, too */
	bool from_table;              /* neither does: it is not resident */
	const PgrBlock *committed;    /* what the root has of it; NULL = nothing */
} PgrPendingState;

/* Of the name only. */
extern void pgr_pending_state(const PgrRegistryName *registry, bool all,
							  PgrPendingState *state);

/*
 * What a name means with our changes on top of "root", which is read as of
 * "generation": NULL if nothing.
 * *block is NULL if the root has no entries of it that count.
 */
extern const PgrDefinition *
pgr_pending_resolve(const PgrRegistryName *registry, bool all,
					const PgrSharedRoot *root, uint64 generation,
					const PgrBlock **block, PgrPendingState *state);

/* Are its grants in the table only?  "state" is of pgr_pending_resolve(). */
extern bool pgr_pending_changes_grants(const PgrPendingState *state);

typedef enum PgrPendingFound
{
	PGR_PENDING_NONE, /* look into the image */
	PGR_PENDING_VALUE,
	PGR_PENDING_DELETED
} PgrPendingFound;

/*
 * "definition" is the registry as the caller resolved it: changes to another
 * incarnation of the name do not count.
 */
extern PgrPendingFound pgr_pending_find(const PgrDefinition *definition,
										const PgrPendingState *state, bool all,
										const char *key, uint32 key_len,
										PgrValue *value,
										TimestampTz *expires_at);

/* Has this transaction changed the registry, other than its grants? */
extern bool pgr_pending_changes(const PgrDefinition *definition);

/*
 * Entries of the registry that have not expired, as of the newest commit and
 * our own changes.  The caller holds the lock on the whole registry.
 */
extern int64 pgr_pending_count_newest(const PgrDefinition *definition);

/* A block in the current memory context. */
extern PgrBlock *pgr_block_build_private(const PgrBlockBuild *build);

/*
 * A private block in the current memory context: "base" (NULL = empty) with
 * our visible changes.  For reads of a whole registry and for rates.
 */
extern PgrBlock *pgr_pending_overlay(const PgrDefinition *definition,
									 const PgrBlock *base, const PgrPin *pin);

/*
 * The same, kept for the calls that follow in this statement: valid until the
 * next one for another registry, or after a change.
 */
extern const PgrBlock *
pgr_pending_overlay_kept(const PgrDefinition *definition,
						 const PgrBlock *base);

/* Calls "visit" for every name that this transaction has given to a registry,
 * as visible now. */
extern void pgr_pending_named(void (*visit)(const PgrRegistryName *name,
											void *arg),
							  void *arg);

/* _PG_init: transaction callbacks. */
extern void pgr_pending_install(void);

#endif /* PGR_REGISTRY_PENDING_H */
