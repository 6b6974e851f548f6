/*
 * sql/access.c
 *	  Granting and revoking the privileges of registries.
 *
 * None is STRICT: a NULL is an error.
 */
#include "postgres.h"

#include "fmgr.h"
#include "mb/pg_wchar.h"
#include "miscadmin.h"
#include "utils/acl.h"
#include "utils/builtins.h"

#include "base/compat.h"
#include "durable/grants.h"
#include "sql/arguments.h"

PG_FUNCTION_INFO_V1(pgr_sql_grant_access);
PG_FUNCTION_INFO_V1(pgr_sql_revoke_access);
PG_FUNCTION_INFO_V1(pgr_sql_restore_grants);

typedef struct Arguments
{
	PgrText registry;
	char *privilege;
	char *grantee;
} Arguments;

static void
refuse_rates(PgrText name, const char *what)
{
	if (name.len == strlen(PGR_RATES_NAME) &&
		memcmp(name.data, PGR_RATES_NAME, name.len) == 0)
		ereport(ERROR,
				(errcode(ERRCODE_RESERVED_NAME),
				 errmsg("%s cannot change the registry \"%s\"", what, PGR_RATES_NAME),
				 errdetail("Everybody may read it."),
				 errhint("GRANT EXECUTE ON FUNCTION registry.set_rates lets a role change it.")));
}

/* What can be told without a look at any registry. */
static void
get_arguments(FunctionCallInfo fcinfo, const char *what, Arguments *arguments)
{
	PgrPrivilege privilege;

	pgr_write_allowed_here(what);
	arguments->registry = pgr_name_argument(fcinfo);
	pgr_refuse_null(fcinfo, 1, "the privilege");
	pgr_refuse_null(fcinfo, 2, "the grantee");
	arguments->privilege = text_to_cstring(PG_GETARG_TEXT_PP(1));
	arguments->grantee = text_to_cstring(PG_GETARG_TEXT_PP(2));
	if (!pgr_access_privilege_from_text(arguments->privilege, &privilege))
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("unrecognized privilege \"%.*s\"",
						pg_mbcliplen(arguments->privilege, (int) strlen(arguments->privilege), 63),
						arguments->privilege),
				 errhint("Privileges are read, write and admin.")));
	refuse_rates(arguments->registry, what);
}

static void
pg_attribute_noreturn() refuse_grantee(const char *grantee)
{
	ereport(ERROR,
			(errcode(ERRCODE_UNDEFINED_OBJECT),
			 errmsg("role \"%.*s\" does not exist",
					pg_mbcliplen(grantee, (int) strlen(grantee), NAMEDATALEN - 1),
					grantee),
			 pg_strcasecmp(grantee, PGR_PUBLIC) == 0 &&
				 strcmp(grantee, PGR_PUBLIC) != 0 ?
			 errhint("For everybody, write \"%s\" in lower case.", PGR_PUBLIC) :
			 0));
}

/* 0 is everybody. */
static Oid
grantee_oid(const char *grantee)
{
	Oid role;

	if (strcmp(grantee, PGR_PUBLIC) == 0)
		return InvalidOid;
	/* syscaches cut longer names */
	role = strlen(grantee) < NAMEDATALEN ? get_role_oid(grantee, true) :
										   InvalidOid;
	if (!OidIsValid(role))
		refuse_grantee(grantee);
	return role;
}

Datum
pgr_sql_grant_access(PG_FUNCTION_ARGS)
{
	PgrDefinition definition;
	Arguments arguments;

	get_arguments(fcinfo, "registry.grant_access()", &arguments);
	pgr_write_open_grants("registry.grant_access()", arguments.registry,
						  &definition);
	pgr_grants_add(&definition, arguments.privilege, arguments.grantee,
				   grantee_oid(arguments.grantee));
	PG_RETURN_VOID();
}

/*
 * Of a role that is gone, too.  What was not granted is no error, as with
 * REVOKE, unless nobody can have it.
 */
Datum
pgr_sql_revoke_access(PG_FUNCTION_ARGS)
{
	PgrDefinition definition;
	Arguments arguments;

	get_arguments(fcinfo, "registry.revoke_access()", &arguments);
	pgr_write_open_grants("registry.revoke_access()", arguments.registry,
						  &definition);
	if (!pgr_grants_remove(&definition, arguments.privilege,
						   arguments.grantee))
		(void) grantee_oid(arguments.grantee);
	PG_RETURN_VOID();
}

/*
 * Names decide whose rights come back, so nobody may do this by default.  Both
 * or none: what was "from_role" is "to_role" now.
 */
Datum
pgr_sql_restore_grants(PG_FUNCTION_ARGS)
{
	char *to;

	pgr_write_allowed_here("registry.restore_grants()");
	if (PG_ARGISNULL(0) && PG_ARGISNULL(1))
	{
		pgr_write_lock_directory();
		PG_RETURN_INT64(pgr_grants_restore());
	}
	pgr_refuse_null(fcinfo, 0, "from_role");
	pgr_refuse_null(fcinfo, 1, "to_role");
	to = text_to_cstring(PG_GETARG_TEXT_PP(1));
	if (strcmp(to, PGR_PUBLIC) == 0)
		refuse_grantee(to);
	pgr_write_lock_directory();
	PG_RETURN_INT64(pgr_grants_pass_on(text_to_cstring(PG_GETARG_TEXT_PP(0)),
									   to, grantee_oid(to)));
}
