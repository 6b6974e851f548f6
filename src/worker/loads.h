/*
 * worker/loads.h
 *	  When registries are loaded from their tables.
 */
#ifndef PGR_WORKER_LOADS_H
#define PGR_WORKER_LOADS_H

#include "fetch/core.h"

typedef struct PgrLoads PgrLoads;

extern PgrLoads *pgr_loads_create(const PgrCoreApi *core);

/*
 * Do what is due, without waiting for anything.  Returns how many milliseconds
 * to wait at most.
 */
extern long pgr_loads_step(PgrLoads *loads);

#endif /* PGR_WORKER_LOADS_H */
