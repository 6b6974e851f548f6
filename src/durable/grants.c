/*
 * durable/grants.c
 *	  See grants.h.  Runs in backends, in a transaction that may write.
 */
#include "postgres.h"

#include "catalog/pg_type.h"
#include "miscadmin.h"
#include "utils/acl.h"
#include "utils/builtins.h"

#include "durable/grants.h"
#include "durable/statement.h"
#include "durable/store.h"
#include "durable/tables.h"

static PgrStatement insert_grant = {
	"INSERT INTO _registry.grants AS g"
	" (registry, privilege, grantee, grantee_oid, grantor)"
	" VALUES ($1, $2, $3, $4, $5)"
	" ON CONFLICT (registry, privilege, grantee) DO UPDATE"
	" SET grantee_oid = excluded.grantee_oid, grantor = excluded.grantor,"
	" granted_at = excluded.granted_at"
	" WHERE g.grantee_oid OPERATOR(pg_catalog.<>) excluded.grantee_oid",
	5,
	{TEXTOID, TEXTOID, TEXTOID, OIDOID, TEXTOID},
	NULL,
};

static PgrStatement delete_grant = {
	"DELETE FROM _registry.grants AS g"
	" WHERE g.registry OPERATOR(pg_catalog.=) $1"
	" AND g.privilege OPERATOR(pg_catalog.=) $2"
	" AND g.grantee OPERATOR(pg_catalog.=) $3 RETURNING 1::pg_catalog.int8",
	3,
	{TEXTOID, TEXTOID, TEXTOID},
	NULL,
};

static PgrStatement delete_grants = {
	"DELETE FROM _registry.grants AS g"
	" WHERE g.registry OPERATOR(pg_catalog.=) $1",
	1,
	{TEXTOID},
	NULL,
};

static PgrStatement rename_grants = {
	"UPDATE _registry.grants AS g SET registry = $2"
	" WHERE g.registry OPERATOR(pg_catalog.=) $1",
	2,
	{TEXTOID, TEXTOID},
	NULL,
};

static PgrStatement restore_grants = {
	"WITH restored AS (UPDATE _registry.grants AS g SET grantee_oid = r.oid"
	" FROM pg_catalog.pg_roles AS r"
	" WHERE r.rolname OPERATOR(pg_catalog.=) g.grantee"
	" AND r.oid OPERATOR(pg_catalog.<>) g.grantee_oid RETURNING true)"
	" SELECT pg_catalog.count(*) FROM restored",
	0,
	{0},
	NULL,
};

static PgrStatement restore_owners = {
	"WITH restored AS (UPDATE _registry.definitions AS d SET owner_oid = r.oid"
	" FROM pg_catalog.pg_roles AS r"
	" WHERE r.rolname OPERATOR(pg_catalog.=) d.owner"
	" AND r.oid OPERATOR(pg_catalog.<>) d.owner_oid RETURNING true)"
	" SELECT pg_catalog.count(*) FROM restored",
	0,
	{0},
	NULL,
};

/*
 * Of one name, as far as it means no role: to the role $2, of oid $3.  What that
 * one has been granted already need not come twice.
 */
static PgrStatement pass_grants_on = {
	"WITH orphans AS (DELETE FROM _registry.grants AS g"
	" WHERE g.grantee OPERATOR(pg_catalog.=) $1 AND NOT EXISTS"
	" (SELECT FROM pg_catalog.pg_roles AS r"
	" WHERE r.oid OPERATOR(pg_catalog.=) g.grantee_oid"
	" AND r.rolname OPERATOR(pg_catalog.=) $1) RETURNING g.registry, g.privilege),"
	" passed_on AS (INSERT INTO _registry.grants AS g"
	" (registry, privilege, grantee, grantee_oid, grantor)"
	" SELECT o.registry, o.privilege, $2, $3, $4 FROM orphans AS o"
	" ON CONFLICT (registry, privilege, grantee) DO UPDATE"
	" SET grantee_oid = excluded.grantee_oid"
	" WHERE g.grantee_oid OPERATOR(pg_catalog.<>) excluded.grantee_oid)"
	" SELECT pg_catalog.count(*) FROM orphans",
	4,
	{TEXTOID, TEXTOID, OIDOID, TEXTOID},
	NULL,
};

static PgrStatement pass_registries_on = {
	"WITH orphans AS (UPDATE _registry.definitions AS d"
	" SET owner = $2, owner_oid = $3"
	" WHERE d.owner OPERATOR(pg_catalog.=) $1 AND NOT EXISTS"
	" (SELECT FROM pg_catalog.pg_roles AS r"
	" WHERE r.oid OPERATOR(pg_catalog.=) d.owner_oid"
	" AND r.rolname OPERATOR(pg_catalog.=) $1) RETURNING true)"
	" SELECT pg_catalog.count(*) FROM orphans",
	3,
	{TEXTOID, TEXTOID, OIDOID},
	NULL,
};

static Datum
name_datum(const PgrDefinition *definition)
{
	return PointerGetDatum(
		cstring_to_text_with_len(definition->name, definition->name_len));
}

void
pgr_grants_add(const PgrDefinition *definition, const char *privilege,
			   const char *grantee, Oid grantee_oid)
{
	Datum values[5];

	values[0] = name_datum(definition);
	values[1] = CStringGetTextDatum(privilege);
	values[2] = CStringGetTextDatum(grantee);
	values[3] = ObjectIdGetDatum(grantee_oid);
	values[4] = CStringGetTextDatum(GetUserNameFromId(GetUserId(), false));
	(void) pgr_statement_run(&insert_grant, values, NULL);
}

bool
pgr_grants_remove(const PgrDefinition *definition, const char *privilege,
				  const char *grantee)
{
	Datum values[3];

	values[0] = name_datum(definition);
	values[1] = CStringGetTextDatum(privilege);
	values[2] = CStringGetTextDatum(grantee);
	return pgr_statement_run(&delete_grant, values, NULL) != 0;
}

void
pgr_grants_remove_all(const PgrDefinition *definition)
{
	Datum value = name_datum(definition);

	(void) pgr_store_run(&delete_grants, &value, NULL);
}

void
pgr_grants_rename(const PgrDefinition *definition,
				  const PgrDefinition *altered)
{
	Datum values[2];

	/* what a registry of that name has left is nobody's wish */
	pgr_grants_remove_all(altered);
	values[0] = name_datum(definition);
	values[1] = name_datum(altered);
	(void) pgr_store_run(&rename_grants, values, NULL);
}

int64
pgr_grants_restore(void)
{
	return pgr_statement_run(&restore_grants, NULL, NULL) +
		pgr_statement_run(&restore_owners, NULL, NULL);
}

int64
pgr_grants_pass_on(const char *from, const char *to, Oid to_oid)
{
	Datum values[4];

	values[0] = CStringGetTextDatum(from);
	values[1] = CStringGetTextDatum(to);
	values[2] = ObjectIdGetDatum(to_oid);
	values[3] = CStringGetTextDatum(GetUserNameFromId(GetUserId(), false));
	return pgr_statement_run(&pass_grants_on, values, NULL) +
		pgr_statement_run(&pass_registries_on, values, NULL);
}

/* ------------------------------------------------------------------------
 * Checking
 * ------------------------------------------------------------------------
 */

/*
 * Why a name and an oid mean no role; NULL if they do mean one.  A role of that
 * oid has got another name; or it is another one, and the oid another cluster's.
 */
static const char *
why_no_role(Oid role, const char *name)
{
	char *named = GetUserNameFromId(role, true);

	if (pgr_access_is_role(role, name))
		return NULL;
	if (OidIsValid(get_role_oid(name, true)))
		return "another role has this name now";
	return named ?
		psprintf("there is no such role, but \"%s\" has its oid", named) :
		"there is no such role";
}

static bool
is_orphan(const PgrGrant *grant)
{
	if (!OidIsValid(grant->grantee) && strcmp(grant->name, PGR_PUBLIC) == 0)
		return false;
	return !pgr_access_is_role(grant->grantee, grant->name);
}

static void
count_orphans(const PgrDefinition *definition, void *arg)
{
	PgrText name = {definition->name, definition->name_len};
	int *orphans = arg;
	PgrGrant *list;
	int n;

	*orphans += !pgr_access_is_role(definition->owner, definition->owner_name);
	list = pgr_table->grants(name, PGR_VIEW_STATEMENT, &n);
	for (int i = 0; i < n; i++)
		*orphans += is_orphan(&list[i]);
	pfree(list);
}

int
pgr_grants_count_orphans(void)
{
	int orphans = 0;

	pgr_table->each_definition(PGR_VIEW_STATEMENT, count_orphans, &orphans);
	return orphans;
}

static void
check_grant(const PgrGrant *grant, void (*visit)(const char *, void *),
			void *arg)
{
	if (is_orphan(grant))
		visit(psprintf("grant of %s to \"%s\": %s",
					   pgr_access_privilege_name(grant->privilege),
					   grant->name, why_no_role(grant->grantee, grant->name)),
			  arg);
}

/* Has the image, if it is asked, the grants that the table has? */
static bool
is_image_current(const PgrDefinition *definition, const PgrGrant *list, int n)
{
	return pgr_write_newest_grants(definition).in_table ||
		pgr_write_image_has_grants(definition, list, n);
}

void
pgr_grants_refresh(const PgrDefinition *definition)
{
	PgrText name = {definition->name, definition->name_len};
	PgrGrant *list;
	int n;

	list = pgr_table->grants(name, PGR_VIEW_COMMITTED, &n);
	if (!pgr_write_image_has_grants(definition, list, n))
		pgr_pending_grants(definition);
	pfree(list);
}

void
pgr_grants_check(const PgrDefinition *definition,
				 void (*visit)(const char *problem, void *arg), void *arg)
{
	PgrText name = {definition->name, definition->name_len};
	const char *why = why_no_role(definition->owner, definition->owner_name);
	PgrGrant *list;
	int n;

	if (why != NULL)
		visit(psprintf("owner \"%s\": %s", definition->owner_name, why), arg);
	list = pgr_table->grants(name, PGR_VIEW_COMMITTED, &n);
	for (int i = 0; i < n; i++)
		check_grant(&list[i], visit, arg);
	if (!is_image_current(definition, list, n))
		visit("the grants in memory are not those of the table", arg);
}
