/*
 * init.c
 *	  _PG_init: the one place that knows every part.
 *
 * In the postmaster (shared_preload_libraries) it defines the settings,
 * reserves shared memory, installs the hooks and registers the scheduler.  In
 * a backend of a server that did not preload us it does next to nothing:
 * durable registries are read from their tables, and all other SQL functions
 * say what to add to postgresql.conf.
 */
#include "postgres.h"

#include "catalog/objectaccess.h"
#include "catalog/pg_database.h"
#include "catalog/pg_extension.h"
#include "fmgr.h"
#include "miscadmin.h"
#include "postmaster/bgworker.h"

#include "base/compat.h"
#include "build_id.h"
#include "durable/guard.h"
#include "durable/tables.h"
#include "log/hook.h"
#include "registry/core_api.h"
#include "registry/directory.h"
#include "registry/pending.h"
#include "registry/pin.h"
#include "registry/publishers.h"
#include "registry/write.h"
#include "settings.h"
#include "shm/area.h"
#include "shm/fallbacks.h"
#include "shm/follow_state.h"
#include "shm/load_state.h"
#include "shm/refresh_state.h"

PG_MODULE_MAGIC;

void _PG_init(void);

extern const PgrCoreApi *pgr_core_api(void);

static object_access_hook_type prev_object_access = NULL;

/*
 * DROP DATABASE and DROP EXTENSION free their registries at commit, and not
 * after a rollback: one more change of the transaction (W-1).  So does what may
 * let rows of our tables change behind the image's back (D-1).
 */
static void
object_access(ObjectAccessType access, Oid class, Oid object, int part,
			  void *arg)
{
	if (prev_object_access)
		prev_object_access(access, class, object, part, arg);
	if (pgr_image == NULL)
		return;
	pgr_guard_object(access, class, object, arg);
	if (access != OAT_DROP)
		return;
	if (class == DatabaseRelationId)
		pgr_pending_drop_all(object, InvalidOid);
	else if (class == ExtensionRelationId &&
			 object == pgr_directory_extension())
	{
		pgr_write_lock_directory();
		pgr_pending_drop_all(MyDatabaseId, object);
	}
}

const PgrCoreApi *
pgr_core_api(void)
{
	static PgrCoreApi api;

	api.version = PGR_CORE_API_VERSION;
	strlcpy(api.build_id, PGR_BUILD_ID, sizeof(api.build_id));
	api.refresh_attach = pgr_refresh_attach;
	api.settings = &pgr_settings;
	api.header = pgr_area_header;
	api.refresh = pgr_refresh_state;
	api.lock = pgr_area_lock;
	api.load_state_read = pgr_load_state_read;
	api.load_attempt = pgr_load_attempt;
	api.load_no_slot = pgr_load_no_slot;
	api.keeps_currency = pgr_settings_keeps_currency;
	api.rates_publish = pgr_rates_publish;
	api.rates_confirm = pgr_rates_confirm;
	api.rates_answered_at = pgr_rates_answered_at;
	api.rates_check = pgr_rates_check;
	api.rates_is_from = pgr_rates_is_from;
	return &api;
}

/*
 * The scheduler: shared memory only, so that nothing ever waits for it, and
 * from consistent state on, so that it works on standbys.
 */
static void
register_scheduler(void)
{
	BackgroundWorker worker;

	memset(&worker, 0, sizeof(worker));
	worker.bgw_flags = BGWORKER_SHMEM_ACCESS;
	worker.bgw_start_time = BgWorkerStart_ConsistentState;
	worker.bgw_restart_time = 5;
	strlcpy(worker.bgw_library_name, "pg_registry_http", BGW_MAXLEN);
	strlcpy(worker.bgw_function_name, "pgr_scheduler_main", BGW_MAXLEN);
	strlcpy(worker.bgw_name, "pg_registry scheduler", BGW_MAXLEN);
	strlcpy(worker.bgw_type, "pg_registry scheduler", BGW_MAXLEN);
	RegisterBackgroundWorker(&worker);
}

void
_PG_init(void)
{
	pgr_table = &pgr_tables;
	if (!process_shared_preload_libraries_in_progress || IsBinaryUpgrade)
		return;

	pgr_settings_define();
	pgr_area_add_part(pgr_line_shared_size, pgr_line_shared_init,
					  (void **) &pgr_image);
	pgr_area_add_part(pgr_refresh_state_size, pgr_refresh_state_init,
					  (void **) &pgr_refresh_state);
	pgr_area_add_part(pgr_load_state_size, pgr_load_state_init,
					  (void **) &pgr_load_state);
	pgr_area_add_part(pgr_publishers_size, pgr_publishers_init,
					  (void **) &pgr_publishers);
	pgr_area_add_part(pgr_fallbacks_size, pgr_fallbacks_init,
					  (void **) &pgr_fallbacks);
	pgr_area_add_part(pgr_follow_state_size, pgr_follow_state_init,
					  (void **) &pgr_follow_state);
	pgr_area_add_part(pgr_log_ring_size, pgr_log_ring_init,
					  (void **) &pgr_log_ring);
	pgr_area_install();
	pgr_pin_install();
	pgr_pending_install();
	pgr_log_install_hook();
	prev_object_access = object_access_hook;
	object_access_hook = object_access;
	register_scheduler();
}
