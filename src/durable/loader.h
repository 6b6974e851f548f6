/*
 * durable/loader.h
 *	  How the lister starts a loader.
 */
#ifndef PGR_DURABLE_LOADER_H
#define PGR_DURABLE_LOADER_H

#include "postmaster/bgworker.h"

/*
 * Register a worker that loads the registries of a database in slots
 * above "after", as long as its time lasts, and counts for that round.  The caller is notified of its start and end.  NULL if there is
 * no free slot.
 */
extern BackgroundWorkerHandle *pgr_loader_start(Oid database, uint64 round,
												uint32 after);

#endif /* PGR_DURABLE_LOADER_H */
