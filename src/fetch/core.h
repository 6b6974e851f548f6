/*
 * fetch/core.h
 *	  The way from pg_registry_http into pg_registry.
 */
#ifndef PGR_FETCH_CORE_H
#define PGR_FETCH_CORE_H

#include "registry/core_api.h"

/*
 * Announce this process as the scheduler and return the core's functions, or
 * NULL if there is no core of our build: then touch nothing and stay idle.
 */
extern const PgrCoreApi *pgr_core_attach(void);

#endif /* PGR_FETCH_CORE_H */
