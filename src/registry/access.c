/*
 * registry/access.c
 *	  See access.h.  Runs in backends and parallel workers, in a transaction.
 */
#include "postgres.h"

#include "miscadmin.h"
#include "utils/acl.h"
#include "utils/inval.h"
#include "utils/memutils.h"
#include "utils/syscache.h"

#include "registry/access.h"
#include "registry/directory.h"
#include "registry/pin.h"

StaticAssertDecl(PGR_ROLE_LEN >= NAMEDATALEN, "a role's name must fit");

static const struct
{
	const char *name;
	PgrPrivilege privilege;
} privileges[] = {
	{"read", PGR_MAY_READ},
	{"write", PGR_MAY_WRITE},
	{"admin", PGR_MAY_ADMIN},
};

bool
pgr_access_privilege_from_text(const char *name, PgrPrivilege *privilege)
{
	for (int i = 0; i < (int) lengthof(privileges); i++)
	{
		if (strcmp(name, privileges[i].name) != 0)
			continue;
		*privilege = privileges[i].privilege;
		return true;
	}
	return false;
}

const char *
pgr_access_privilege_name(uint32 privilege)
{
	for (int i = 0; i < (int) lengthof(privileges); i++)
		if (privileges[i].privilege == privilege)
			return privileges[i].name;
	return "nothing";
}

bool
pgr_access_is_role(Oid role, const char *name)
{
	char *now = OidIsValid(role) ? GetUserNameFromId(role, true) : NULL;
	bool same = now != NULL && strcmp(now, name) == 0;

	if (now != NULL)
		pfree(now);
	return same;
}

static PgrGrants
grants_in_block(const PgrBlock *block)
{
	PgrGrants grants = {0};

	if (block->definition.kind != PGR_BLOCK_REGISTRY)
		return grants;
	grants.list = (const PgrGrant *) ((const char *) block +
									  block->extra_offset);
	grants.n = (int) (block->extra_len / sizeof(PgrGrant));
	return grants;
}

bool
pgr_access_block_has(const PgrBlock *block, const PgrGrant *list, int n)
{
	PgrGrants grants = grants_in_block(block);

	return grants.n == n &&
		(grants.list == NULL ||
		 memcmp(grants.list, list, n * sizeof(*list)) == 0);
}

PgrGrants
pgr_access_of_block(const PgrSharedRoot *root, uint32 directory,
					const PgrBlock *block)
{
	if (block->definition.kind == PGR_BLOCK_REGISTRY &&
		!pgr_directory_is_complete(root, directory))
		return pgr_access_in_table();
	return grants_in_block(block);
}

PgrGrants
pgr_access_copy_nothrow(const PgrSharedRoot *root, uint64 generation,
						const PgrBlock *block)
{
	uint32 directory = pgr_directory_slot(root, generation,
										  block->definition.database,
										  block->definition.extension);
	PgrGrants grants = pgr_access_of_block(root, directory, block);
	Size bytes = (Size) grants.n * sizeof(PgrGrant);
	PgrGrant *copy;

	if (grants.n == 0)
		return grants;
	copy = MemoryContextAllocExtended(CurrentMemoryContext, bytes,
									  MCXT_ALLOC_HUGE | MCXT_ALLOC_NO_OOM);
	if (copy == NULL)
		return pgr_access_in_table();
	memcpy(copy, grants.list, bytes);
	grants.list = copy;
	return grants;
}

/*
 * Readers remember that they may read for as long as their pin's token lasts;
 * under REPEATABLE READ that can be a whole transaction.
 */
static void
roles_changed(Datum arg, int cache, uint32 hash)
{
	pgr_pin_renew_tokens();
}

static void
watch_roles(void)
{
	static bool watching = false;

	if (watching)
		return;
	CacheRegisterSyscacheCallback(AUTHOID, roles_changed, (Datum) 0);
	CacheRegisterSyscacheCallback(AUTHMEMROLEMEM, roles_changed, (Datum) 0);
	/* whose owner is a member of pg_database_owner */
	CacheRegisterSyscacheCallback(DATABASEOID, roles_changed, (Datum) 0);
	watching = true;
}

bool
pgr_access_is_owner(const PgrDefinition *definition)
{
	if (superuser())
		return true;
	return OidIsValid(definition->owner) &&
		has_privs_of_role(GetUserId(), definition->owner) &&
		pgr_access_is_role(definition->owner, definition->owner_name);
}

/* Does a grant to this grantee hold for the current role? */
static bool
is_granted(const PgrGrant *grant)
{
	if (!OidIsValid(grant->grantee))
		return strcmp(grant->name, PGR_PUBLIC) == 0;
	return has_privs_of_role(GetUserId(), grant->grantee) &&
		pgr_access_is_role(grant->grantee, grant->name);
}

bool
pgr_access_allowed(const PgrDefinition *definition, const PgrGrants *grants,
				   PgrTableView view, PgrPrivilege privilege)
{
	PgrText name = {definition->name, definition->name_len};
	PgrGrants known = *grants;

	watch_roles();
	if (definition->kind == PGR_BLOCK_RATES)
		return privilege == PGR_MAY_READ;
	if (pgr_access_is_owner(definition))
		return true;
	if (known.in_table)
		known.list = pgr_table->grants(name, view, &known.n);
	for (int i = 0; i < known.n; i++)
		if (known.list[i].privilege == (uint32) privilege &&
			is_granted(&known.list[i]))
			return true;
	return false;
}
