/*
 * registry/stale.h
 *	  max_age and on_stale: how old a registry may be, and what reads do then.
 *
 * A registry is stale if its last change of entries lies further back than its
 * max_age.  This transaction's own changes count, with the time that their
 * commit will record.  It is judged at the time of the statement's pin, so all
 * reads of a statement agree, in its parallel workers too.
 */
#ifndef PGR_REGISTRY_STALE_H
#define PGR_REGISTRY_STALE_H

#include "datatype/timestamp.h"

#include "registry/block.h"

/* ERROR if it is not positive, or has months, which have no fixed length. */
extern int64 pgr_max_age_from_interval(const Interval *max_age);

/* In the current memory context; NULL for none. */
extern Interval *pgr_max_age_to_interval(int64 max_age_us);

/* ERROR unless it is serve, null or error. */
extern uint8 pgr_on_stale_from_text(const char *name);
extern const char *pgr_on_stale_name(uint8 on_stale);

/* "block" as pgr_pending_resolve has it. */
extern bool pgr_stale(const PgrDefinition *definition, const PgrBlock *block);

/*
 * May a read answer with what is there?  False: as if the registry were empty
 * (on_stale null).  ERROR 55000 with on_stale error.
 */
extern bool pgr_stale_may_serve(const PgrDefinition *definition,
								const PgrBlock *block);

#endif /* PGR_REGISTRY_STALE_H */
