/*
 * fetch/core.c
 *	  The way from pg_registry_http into pg_registry.
 *
 * The copy that counts is the one that the postmaster preloaded: it has our
 * settings and the addresses of shared memory, both inherited by fork.
 * load_external_function() would look along dynamic_library_path, which may
 * lead to another file by now; the dynamic linker knows the loaded one.
 */
#include "postgres.h"

#include <dlfcn.h>

#include "build_id.h"
#include "fetch/core.h"

const PgrCoreApi *
pgr_core_attach(void)
{
	PgrCoreApiFunction get_api;
	const PgrCoreApi *api;

	*(void **) &get_api = dlsym(RTLD_DEFAULT, PGR_CORE_API_SYMBOL);
	if (get_api == NULL)
	{
		ereport(WARNING,
				(errmsg("pg_registry_http finds no pg_registry in the server"),
				 errhint("Add \"shared_preload_libraries = 'pg_registry'\" to postgresql.conf and restart the server.")));
		return NULL;
	}
	api = get_api();
	if (!api->refresh_attach(PGR_BUILD_ID) ||
		api->version != PGR_CORE_API_VERSION)
		return NULL;
	return api;
}
