/*
 * durable/session.c
 *	  See session.h.
 */
#include "postgres.h"

#include "access/xact.h"
#include "commands/dbcommands.h"
#include "miscadmin.h"
#include "utils/guc.h"
#include "utils/memutils.h"

#include "durable/session.h"

void
pgr_session_option(const char *name, const char *value)
{
	SetConfigOption(name, value, PGC_SUSET, PGC_S_OVERRIDE);
}

void
pgr_session_prepare(void)
{
	pgr_session_option("application_name", "pg_registry");
	pgr_session_option("synchronous_commit", "local");
	pgr_session_option("default_transaction_isolation", "read committed");
	pgr_session_option("default_transaction_read_only", "off");
	pgr_session_option("default_transaction_deferrable", "off");
	pgr_session_option("search_path", "pg_catalog, pg_temp");
	pgr_session_option("session_replication_role", "origin");
	pgr_session_option("statement_timeout", "0");
	pgr_session_option("idle_in_transaction_session_timeout", "0");
	pgr_session_option("lock_timeout", PGR_SESSION_LOCK_TIMEOUT);
}

char *
pgr_session_database_name(void)
{
	char *name;

	StartTransactionCommand();
	name = get_database_name(MyDatabaseId);
	name = MemoryContextStrdup(TopMemoryContext, name ? name : "?");
	CommitTransactionCommand();
	return name;
}

bool
pgr_session_is_about_database(const ErrorData *error)
{
	return error->elevel == FATAL &&
		(error->sqlerrcode == ERRCODE_UNDEFINED_DATABASE ||
		 error->sqlerrcode == ERRCODE_DATABASE_DROPPED ||
		 error->sqlerrcode == ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE);
}
