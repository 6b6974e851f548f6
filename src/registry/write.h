/*
 * registry/write.h
 *	  Who may change a registry, and the locks that order changes (W-2).
 *
 * Row locks do not give commit order: a waiter goes on before the first
 * transaction's commit callback has published.  So each change holds a
 * heavyweight lock until its transaction ends, which PostgreSQL releases after
 * the commit callbacks: one of 64 stripes of the registry's keys, then a
 * shared lock on the registry; the whole registry for bulk changes and drops;
 * the database's directory for creating and dropping.  A transaction that has
 * locked many stripes goes on with whole registries.  They are in pg_locks as
 * "object" locks of class pg_extension, and the deadlock detector knows them.
 */
#ifndef PGR_REGISTRY_WRITE_H
#define PGR_REGISTRY_WRITE_H

#include "registry/reader.h"
#include "registry/table.h"

/* The checks every writer makes first; "what" names the function. */
extern void pgr_write_allowed_here(const char *what);

/*
 * The registry that a put or delete will change: checks that the role has the
 * privilege, takes the lock on the key (NULL: on the whole registry), then
 * looks again.  ERROR undefined_object as for readers; insufficient_privilege
 * for who may read it, and so knows that it exists.
 */
extern void pgr_write_open(const char *what, PgrText name, const PgrText *key,
						   PgrPrivilege privilege, PgrDefinition *definition);

/*
 * The registry whose grants will change: checks that the role may administer
 * it, takes the lock of the directory, then looks again.  Errors as above.
 */
extern void pgr_write_open_grants(const char *what, PgrText name,
								  PgrDefinition *definition);

/* A registry's grants, as of the newest commit and our own changes. */
extern PgrGrants pgr_write_newest_grants(const PgrDefinition *definition);

/*
 * Has the image these, if it has the registry: the last committed ones,
 * whether or not they are asked?
 */
extern bool pgr_write_image_has_grants(const PgrDefinition *definition,
									   const PgrGrant *list, int n);

/*
 * No role is checked and no lock taken.  False if the image does not know it,
 * as of the newest commit and our own changes.
 */
extern bool pgr_write_find_known(PgrText name, PgrDefinition *definition);

/*
 * The same for a row of the table that somebody changes: no role is checked,
 * as the table's privileges were.  False if there is no such registry.
 */
extern bool pgr_write_open_row(PgrText name, const PgrText *key,
							   PgrDefinition *definition);

/* Has the image this registry, as of the newest commit and our own changes? */
extern bool pgr_write_is_known(const PgrDefinition *definition);

/*
 * Encoding a value can run anybody's cast function.  ERROR 55000 if that has
 * dropped the registry or made another one of its name.
 */
extern void pgr_write_recheck(const PgrDefinition *definition);

/* Does the key exist, as of the newest commit and our own changes? */
extern bool pgr_write_key_exists(const PgrDefinition *definition, PgrText key);

/*
 * For creating and dropping: locks the directory (and the registry to be
 * dropped), then looks.  False if there is no such registry; or, for a drop,
 * none that this role may administer or read, and insufficient_privilege if it
 * may read it.  Then only the names in *definition are set.
 */
extern bool pgr_write_find_for_ddl(PgrText name, bool drop,
								   PgrDefinition *definition);

/*
 * This database's own rates, as a whole; they come into being with this
 * transaction if there are none.
 */
extern void pgr_write_open_rates(PgrDefinition *definition);

/*
 * The lock alone, on whatever rates this database reads.  False if it is not
 * to be had at once and the caller does not want to wait.
 */
extern bool pgr_write_lock_rates(bool wait);

/* The directory of this database, for DROP EXTENSION. */
extern void pgr_write_lock_directory(void);

/* Nobody creates or drops a registry until the end of the transaction. */
extern void pgr_write_keep_directory(void);

#endif /* PGR_REGISTRY_WRITE_H */
