/*
 * durable/session.h
 *	  What the workers that connect to a database have in common.
 */
#ifndef PGR_DURABLE_SESSION_H
#define PGR_DURABLE_SESSION_H

/* Nobody waits longer for us than we wait for a lock (N-2). */
#define PGR_SESSION_LOCK_TIMEOUT "2s"

extern void pgr_session_option(const char *name, const char *value);

/* Settings as we need them, whatever the database's settings say. */
extern void pgr_session_prepare(void);

/* The database's name for messages, while catalogs can be read. */
extern char *pgr_session_database_name(void);

/*
 * PostgreSQL refuses a connection, or ends it, because of the state of the
 * database.
 */
extern bool pgr_session_is_about_database(const ErrorData *error);

#endif /* PGR_DURABLE_SESSION_H */
