/*
 * registry/access.h
 *	  Who may read, write and administer a registry.
 *
 * A registry's owner and superusers may do all.  Everybody else needs a grant:
 * a row of _registry.grants, of which the image keeps a copy in the "extra" part
 * of the registry's block, where it is read under the statement's pin and
 * stays when entries change.  So a right is as old as the entries that it lets
 * somebody see.  Writers decide on what is newest.
 *
 * Both owner and grantee are a name and an oid, and mean a role only as long
 * as the role of that oid has that name: the rights of a role that was dropped,
 * or that lived in another cluster, pass to nobody.
 *
 * The three privileges do not imply each other.
 */
#ifndef PGR_REGISTRY_ACCESS_H
#define PGR_REGISTRY_ACCESS_H

#include "registry/image.h"
#include "registry/table.h"

/* The name of the grantee that is everybody; no role can have it. */
#define PGR_PUBLIC "public"

/* False if there is none of this name. */
extern bool pgr_access_privilege_from_text(const char *name,
										   PgrPrivilege *privilege);

extern const char *pgr_access_privilege_name(uint32 privilege);

/* Has the role of this oid this name? */
extern bool pgr_access_is_role(Oid role, const char *name);

/*
 * The grants of one registry.  Either they are in "list", or the table is to
 * be asked: for a registry that the image does not know, for one whose grants
 * this transaction has changed, and as long as those in the image may be old.
 */
typedef struct PgrGrants
{
	const PgrGrant *list;
	int n;
	bool in_table;
} PgrGrants;

static inline PgrGrants
pgr_access_in_table(void)
{
	PgrGrants grants = {.in_table = true};

	return grants;
}

/*
 * Those of a block of this root, which the caller has pinned, or has the writer
 * lock.  While the directory, in this slot, does not name all registries of
 * the database, after a start or when somebody has altered our triggers, the
 * table has them, even of a registry that stays in memory.
 */
extern PgrGrants pgr_access_of_block(const PgrSharedRoot *root,
									 uint32 directory, const PgrBlock *block);

/*
 * The same as a copy in the current memory context.  Never throws, so that it
 * can be used under a lock and with a pin: without memory the table has them.
 */
extern PgrGrants pgr_access_copy_nothrow(const PgrSharedRoot *root,
										 uint64 generation,
										 const PgrBlock *block);

/* Has the block these grants, whoever is to be asked? */
extern bool pgr_access_block_has(const PgrBlock *block, const PgrGrant *list,
								 int n);

/* Is the current role the owner, as a member or superuser? */
extern bool pgr_access_is_owner(const PgrDefinition *definition);

/* May the current role do that?  "view" is for grants that are in the table. */
extern bool pgr_access_allowed(const PgrDefinition *definition,
							   const PgrGrants *grants, PgrTableView view,
							   PgrPrivilege privilege);

#endif /* PGR_REGISTRY_ACCESS_H */
