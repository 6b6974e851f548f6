/*
 * registry/directory.h
 *	  From names to slots of the root.
 *
 * The directories are blocks like any registry's and are published with them:
 * slot 0 maps (database, extension) to the slot of that database's directory,
 * which maps registry names to slots.  So a name resolves with two lookups,
 * under the statement's pin, and creating or dropping a registry is one more
 * change of the same publish.  Keyed by the extension's oid as well: an
 * extension that is dropped and created again starts empty.
 */
#ifndef PGR_REGISTRY_DIRECTORY_H
#define PGR_REGISTRY_DIRECTORY_H

#include "registry/image.h"

/*
 * The oid of the extension in this database; 0 if it is not (any more)
 * installed.  Cached until an invalidation of a schema arrives.
 */
extern Oid pgr_directory_extension(void);

/* Key of (database, extension) in slot 0: these bytes. */
typedef struct PgrDatabaseKey
{
	Oid database;
	Oid extension;
} PgrDatabaseKey;

/*
 * As of a generation that the caller has pinned, with its root; or, under the
 * writer lock, PGR_NEWEST.
 *
 * The directory's slot, PGR_NO_SLOT if that database has none yet.
 */
extern uint32 pgr_directory_slot(const PgrSharedRoot *root, uint64 generation,
								 Oid database, Oid extension);

/*
 * Does the directory name every registry of that database?  Not before the
 * image has been loaded: the table of definitions has the others.
 */
extern bool pgr_directory_is_complete(const PgrSharedRoot *root, uint32 slot);

/* The same of the newest generation, for who has pinned none. */
extern bool pgr_directory_is_complete_now(Oid database, Oid extension);

/*
 * Is every durable registry of that database in memory, in this generation?
 * "No" may be said of one in which all are, if one has left memory since.
 */
extern bool pgr_directory_is_whole(const PgrSharedRoot *root,
								   uint64 generation, uint32 slot);

/* A registry that this directory names, if it is one; NULL if there is none. */
extern const PgrBlock *pgr_directory_lookup(const PgrSharedRoot *root,
											uint64 generation,
											uint32 directory, const char *name,
											uint32 len, uint32 *slot);

/*
 * A registry of (database, extension); NULL if unknown, and *slot is then the
 * directory's.  The name "rates" is reserved everywhere: a database that has
 * none of its own has the cluster's.
 */
extern const PgrBlock *pgr_directory_find(const PgrSharedRoot *root,
										  uint64 generation, Oid database,
										  Oid extension, const char *name,
										  uint32 len, uint32 *slot);

#endif /* PGR_REGISTRY_DIRECTORY_H */
