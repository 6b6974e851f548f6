/*
 * registry/stale.c
 *	  See stale.h.  Runs in backends and parallel workers, in a transaction.
 */
#include "postgres.h"

#include "common/int.h"
#include "mb/pg_wchar.h"
#include "utils/fmgrprotos.h"
#include "utils/timestamp.h"

#include "base/compat.h"
#include "registry/pending.h"
#include "registry/pin.h"
#include "registry/stale.h"
#include "settings.h"

static const char *const on_stale_names[] = {
	[PGR_ON_STALE_SERVE] = "serve",
	[PGR_ON_STALE_NULL] = "null",
	[PGR_ON_STALE_ERROR] = "error",
};

int64
pgr_max_age_from_interval(const Interval *max_age)
{
	int64 us;

	if (max_age->month != 0)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("max_age must not have months or years"),
				 errhint("Use days, of 24 hours.")));
	if (pg_mul_s64_overflow(max_age->day, USECS_PER_DAY, &us) ||
		pg_add_s64_overflow(us, max_age->time, &us))
		ereport(ERROR,
				(errcode(ERRCODE_DATETIME_VALUE_OUT_OF_RANGE),
				 errmsg("max_age is out of range")));
	if (us <= 0)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("max_age must be positive"),
				 errhint("NULL means that a registry never becomes stale.")));
	return us;
}

Interval *
pgr_max_age_to_interval(int64 max_age_us)
{
	Interval *interval;

	if (max_age_us == 0)
		return NULL;
	interval = palloc0(sizeof(Interval));
	interval->day = (int32) (max_age_us / USECS_PER_DAY);
	interval->time = max_age_us % USECS_PER_DAY;
	return interval;
}

uint8
pgr_on_stale_from_text(const char *name)
{
	for (int i = 0; i < (int) lengthof(on_stale_names); i++)
		if (strcmp(name, on_stale_names[i]) == 0)
			return (uint8) i;
	ereport(ERROR,
			(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
			 errmsg("on_stale must be 'serve', 'null' or 'error', not \"%.*s\"",
					pg_mbcliplen(name, (int) strlen(name), 63), name)));
}

const char *
pgr_on_stale_name(uint8 on_stale)
{
	return on_stale_names[on_stale];
}

static bool
is_too_old(const PgrDefinition *definition, const PgrBlock *block)
{
	return pgr_pin()->at - pgr_block_changed_at(block, pgr_pin()->generation) >
		definition->max_age_us;
}

/* As of the block, or as of our own changes of it. */
static const PgrBlock *
judged_block(const PgrDefinition *definition, const PgrBlock *block)
{
	if (!pgr_pending_any() ||
		(block != NULL && !is_too_old(definition, block)))
		return block;
	return pgr_pending_overlay_kept(definition, block);
}

bool
pgr_stale(const PgrDefinition *definition, const PgrBlock *block)
{
	return definition->max_age_us != 0 &&
		is_too_old(definition, judged_block(definition, block));
}

static char *
interval_text(int64 us)
{
	return DatumGetCString(
		DirectFunctionCall1(interval_out,
							IntervalPGetDatum(pgr_max_age_to_interval(us))));
}

bool
pgr_stale_may_serve(const PgrDefinition *definition, const PgrBlock *block)
{
	TimestampTz changed_at;

	if (likely(definition->max_age_us == 0) ||
		definition->on_stale == PGR_ON_STALE_SERVE ||
		!pgr_stale(definition, block))
		return true;
	if (definition->on_stale == PGR_ON_STALE_NULL)
		return false;
	changed_at = pgr_block_changed_at(judged_block(definition, block),
									  pgr_pin()->generation);
	ereport(ERROR,
			(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
			 errmsg("registry \"%.*s\" is stale", definition->name_len,
					definition->name),
			 errdetail("Its last change, at %s, is %s old; its max_age is %s and its on_stale is \"error\".",
					   timestamptz_to_str(changed_at),
					   interval_text(pgr_pin()->at - changed_at),
					   interval_text(definition->max_age_us)),
			 errhint("Put its entries again, or change max_age or on_stale with registry.alter_registry().")));
}
