/*
 * registry/restate.h
 *	  Publishing what tables say, where nobody changes registries but replay.
 *
 * During recovery the image of a database has one writer: its follower.  It
 * needs no list of pending changes and no heavyweight lock; what it has read of
 * the tables by one snapshot it publishes as one generation (W-1).
 *
 * Whoever calls this holds PGR_LOCK_FOLLOW, so that nobody else decides
 * meanwhile what the database's image is worth (durable/follow.h).
 */
#ifndef PGR_REGISTRY_RESTATE_H
#define PGR_REGISTRY_RESTATE_H

#include "registry/plan.h"

/* One registry, as the tables have it. */
typedef struct PgrRestated
{
	PgrDefinition definition; /* if it is gone: only the names */
	bool gone;
	bool all; /* "changes" are all that there is */
	PgrChange *changes;
	int nchanges;
	PgrGrant *grants;
	int ngrants;
	TimestampTz changed_at;
} PgrRestated;

typedef enum PgrRestateResult
{
	PGR_RESTATE_OK,
	PGR_RESTATE_HOLLOW, /* some of it had no room, and is in the table only */
	PGR_RESTATE_FAILED  /* nothing was published */
} PgrRestateResult;

/*
 * No name twice, all of this database.  "complete": from now on the directory
 * names all that there are.
 */
extern PgrRestateResult pgr_restate(Oid extension, PgrRestated *registries,
									int n, bool complete);

/*
 * Nothing of this database is in the image from now on.  False: there was no
 * memory even for that.
 */
extern bool pgr_restate_forget(Oid database);

/*
 * The first of a writer, on a server that may have been promoted: what was
 * made by following replay goes, and is loaded again.  Takes PGR_LOCK_FOLLOW
 * itself, if there is anything to do.
 */
extern void pgr_restate_end_following(void);

#endif /* PGR_REGISTRY_RESTATE_H */
