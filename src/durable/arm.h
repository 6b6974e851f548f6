/*
 * durable/arm.h
 *	  Is this database armed, or a copy of another one?  (S-3)
 *
 * _registry.stamps names the cluster and the database in which CREATE EXTENSION
 * or registry.arm() was executed.  Its rows go wherever the data go: a restored
 * dump, a copy made with TEMPLATE, a subscriber, an upgraded cluster have the
 * stamp of where they come from, beside one of their own or alone.  So a
 * database is armed if it has a stamp and each is its own; else it is held:
 * whatever would make it send something asks here first.
 *
 * A physical copy of the cluster has the same identifier and the same oids.
 * There the configuration decides: see base/outbound.h.
 */
#ifndef PGR_DURABLE_ARM_H
#define PGR_DURABLE_ARM_H

#include "registry/table.h"

/* What anybody is told who meets a held database. */
#define PGR_ARM_HINT \
	"If this copy is meant to send anything: SELECT registry.arm();"

/*
 * Why the current database is held, a sentence; NULL if it is armed.  For any
 * process that can read tables; with PGR_VIEW_STATEMENT in parallel queries,
 * too.
 */
extern const char *pgr_arm_why_held(PgrTableView view);

/* ERROR 55000 if it is held: "what" would send something. */
extern void pgr_arm_require(const char *what);

/*
 * Give the database a stamp of its own, and no other, at the end of the
 * transaction, which may write.  False if it was armed already.
 */
extern bool pgr_arm(void);

#endif /* PGR_DURABLE_ARM_H */
