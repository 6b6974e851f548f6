/*
 * durable/grants.h
 *	  Changing grants: rows of _registry.grants, whose trigger (trigger.c) does
 *	  the rest.
 *
 * The caller has checked the role and holds the lock of the directory.
 */
#ifndef PGR_DURABLE_GRANTS_H
#define PGR_DURABLE_GRANTS_H

#include "registry/access.h"
#include "registry/write.h"

/* "grantee" is a role's name and oid, or PGR_PUBLIC and 0. */
extern void pgr_grants_add(const PgrDefinition *definition,
						   const char *privilege, const char *grantee,
						   Oid grantee_oid);

/* False if there was no such grant, to a role that exists or not. */
extern bool pgr_grants_remove(const PgrDefinition *definition,
							  const char *privilege, const char *grantee);

/* The registry is created (and must have none yet), dropped, or renamed. */
extern void pgr_grants_remove_all(const PgrDefinition *definition);
extern void pgr_grants_rename(const PgrDefinition *definition,
							  const PgrDefinition *altered);

/*
 * Give owners and grantees that are no role the oid of the role that has their
 * name now; how many rows that was.
 */
extern int64 pgr_grants_restore(void);

/*
 * The same for what is recorded for the name "from" and means no role: it
 * becomes the role's that "to" names.
 */
extern int64 pgr_grants_pass_on(const char *from, const char *to, Oid to_oid);

/* Owners and grantees of this database that are no role; on a standby, too. */
extern int pgr_grants_count_orphans(void);

/*
 * Of a registry that the image knows: its grants become those of the table
 * with this transaction, if they are others.
 */
extern void pgr_grants_refresh(const PgrDefinition *definition);

/* Visits what is wrong with the owner and the grants of a registry. */
extern void pgr_grants_check(const PgrDefinition *definition,
							 void (*visit)(const char *problem, void *arg),
							 void *arg);

#endif /* PGR_DURABLE_GRANTS_H */
