/*
 * registry/core_api.h
 *	  What pg_registry_http may call in pg_registry.
 *
 * The linker hides the symbols of both libraries; the one exported function
 * pgr_core_api() returns this struct.  "version" and "build_id" are compared
 * before anything else is touched: a new pg_registry_http beside the
 * pg_registry that the running postmaster loaded must do nothing.
 */
#ifndef PGR_REGISTRY_CORE_API_H
#define PGR_REGISTRY_CORE_API_H

#include "registry/rates.h"
#include "settings.h"
#include "shm/area.h"
#include "shm/load_state.h"
#include "shm/refresh_state.h"

#define PGR_CORE_API_VERSION 3

typedef struct PgrCoreApi
{
	/* these three never move */
	uint32 version;
	char build_id[PGR_BUILD_ID_LEN];
	bool (*refresh_attach)(const char *build_id);

	const PgrSettings *settings;
	const PgrSharedHeader *header; /* NULL = not preloaded */
	PgrSharedRefresh *refresh;

	LWLock *(*lock)(PgrLockId id);

	void (*load_state_read)(PgrLoadReport *report);
	void (*load_attempt)(void);
	void (*load_no_slot)(void);

	bool (*keeps_currency)(const char *currencies, const char *code);

	PgrRatesOutcome (*rates_publish)(const PgrRateSet *set,
									 char message[PGR_RATES_MESSAGE_LEN],
									 uint64 *generation);
	bool (*rates_confirm)(uint64 question, TimestampTz checked_at,
						  uint64 *generation);
	TimestampTz (*rates_answered_at)(uint64 question);
	PgrRateCheck (*rates_check)(Numeric rate);
	bool (*rates_is_from)(const char *source);
} PgrCoreApi;

/* Name and type of the exported function. */
#define PGR_CORE_API_SYMBOL "pgr_core_api"
typedef const PgrCoreApi *(*PgrCoreApiFunction)(void);

#endif /* PGR_REGISTRY_CORE_API_H */
