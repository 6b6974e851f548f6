/*
 * registry/rates.c
 *	  Publishing and judging sets of exchange rates; see rates.h.
 *
 * pgr_rates_publish() and its neighbours run in the scheduler, which has no
 * transaction and no database: they use nothing that needs a catalog.  They
 * know the cluster's rates only; those that a database has of its own, and
 * what it reads, are in own_rates.c.
 */
#include "postgres.h"

#include <math.h>

#include "access/xact.h"
#include "common/hashfn.h"
#include "miscadmin.h"
#include "utils/builtins.h"
#include "utils/fmgrprotos.h"
#include "utils/memutils.h"
#include "utils/snapmgr.h"

#include "base/compat.h"
#include "registry/directory.h"
#include "registry/pending.h"
#include "registry/pin.h"
#include "registry/plan.h"
#include "registry/rates.h"
#include "registry/table.h"
#include "registry/value.h"
#include "settings.h"
#include "shm/answer_file.h"
#include "shm/area.h"
#include "shm/load_state.h"
#include "shm/refresh_state.h"

#define SIGNIFICANT_DIGITS 18

/* A clock that was set back by less than this makes nothing stale. */
#define CLOCK_TOLERANCE_US (INT64CONST(60) * USECS_PER_SEC)

/* ------------------------------------------------------------------------
 * Staleness
 * ------------------------------------------------------------------------
 */

TimestampTz
pgr_rates_checked_at(const PgrRatesInfo *info)
{
	const PgrRatesAnswer *answer = &pgr_pin()->answer;

	return answer->rates == info->identity ?
		Max(answer->at, info->checked_at) :
		info->checked_at;
}

PgrStaleReason
pgr_rates_stale(const PgrRatesInfo *info, TimestampTz checked_at,
				TimestampTz now)
{
	TimestampTz value_at = (TimestampTz) info->value_date * USECS_PER_DAY;

	if (checked_at > now + CLOCK_TOLERANCE_US)
		return PGR_STALE_CLOCK;
	if (pgr_settings.rates_max_age_s > 0 &&
		now - checked_at > pgr_settings.rates_max_age_s * USECS_PER_SEC)
		return PGR_STALE_CHECK;
	if (pgr_settings.rates_max_value_age_s > 0 &&
		now - value_at > pgr_settings.rates_max_value_age_s * USECS_PER_SEC)
		return PGR_STALE_VALUE_DATE;
	return PGR_STALE_NO;
}

const char *
pgr_rates_stale_name(PgrStaleReason reason)
{
	switch (reason)
	{
		case PGR_STALE_CLOCK:
			return "clock";
		case PGR_STALE_CHECK:
			return "check";
		case PGR_STALE_VALUE_DATE:
			return "value_date";
		case PGR_STALE_MISSING:
			return "missing";
		case PGR_STALE_NO:
			break;
	}
	return NULL;
}

/* ------------------------------------------------------------------------
 * Arithmetic
 * ------------------------------------------------------------------------
 */

static Numeric
parse_scaled(const char *digits, int exponent)
{
	char *text = psprintf("%se%d", digits, exponent);

	return DatumGetNumeric(
		DirectFunctionCall3(numeric_in, CStringGetDatum(text),
							ObjectIdGetDatum(InvalidOid), Int32GetDatum(-1)));
}

static float8
as_float8(Numeric n)
{
	return DatumGetFloat8(
		DirectFunctionCall1(numeric_float8_no_overflow, NumericGetDatum(n)));
}

PgrRateCheck
pgr_rates_check(Numeric rate)
{
	float8 approximate;

	if (numeric_is_nan(rate) || numeric_is_inf(rate))
		return PGR_RATE_NOT_POSITIVE;
	if (DatumGetInt32(
			DirectFunctionCall2(numeric_cmp, NumericGetDatum(rate),
								NumericGetDatum(int64_to_numeric(0)))) <= 0)
		return PGR_RATE_NOT_POSITIVE;
	approximate = as_float8(rate);
	if (approximate < pow(10, -PGR_RATE_MAX_EXPONENT) ||
		approximate > pow(10, PGR_RATE_MAX_EXPONENT) ||
		DatumGetInt32(
			DirectFunctionCall1(numeric_scale, NumericGetDatum(rate))) >
			PGR_RATE_MAX_SCALE)
		return PGR_RATE_OUT_OF_RANGE;
	return PGR_RATE_OK;
}

/*
 * Truncate the quotient to an integer with a few digits more than asked for,
 * then round once: the cut-off part is below the last digit kept, so it
 * cannot turn a "less than half" into a half.
 */
Numeric
pgr_rates_quotient(Numeric r_to, Numeric r_from)
{
	int exponent = (int) floor(log10(as_float8(r_to)) -
							   log10(as_float8(r_from)));
	int shift = SIGNIFICANT_DIGITS + 2 - exponent;
	Datum scaled =
		DirectFunctionCall2(numeric_mul, NumericGetDatum(r_to),
							NumericGetDatum(parse_scaled("1", shift)));
	char *digits = DatumGetCString(
		DirectFunctionCall1(numeric_out,
							DirectFunctionCall2(numeric_div_trunc, scaled,
												NumericGetDatum(r_from))));
	int scale = shift - ((int) strlen(digits) - SIGNIFICANT_DIGITS);

	return DatumGetNumeric(
		DirectFunctionCall1(numeric_trim_scale,
							DirectFunctionCall2(numeric_round,
												NumericGetDatum(
													parse_scaled(digits,
																 -shift)),
												Int32GetDatum(scale))));
}

/* ------------------------------------------------------------------------
 * Publishing, in the scheduler
 * ------------------------------------------------------------------------
 */

static uint64
hash_text(const char *text, uint64 seed)
{
	return hash_bytes_extended((const unsigned char *) text,
							   (int) strlen(text), seed);
}

/* Of base, date and rates, in whatever order they are. */
static uint64
hash_of_rates(const PgrRateSet *set)
{
	uint64 hash = hash_text(set->base, (uint32) set->value_date);

	for (int i = 0; i < set->nrates; i++)
	{
		const PgrRate *rate = &set->rates[i];
		char *digits;

		if (strcmp(rate->code, set->base) == 0)
			continue;
		digits = DatumGetCString(
			DirectFunctionCall1(numeric_out, NumericGetDatum(rate->value)));
		hash += hash_text(digits, hash_text(rate->code, 1));
		pfree(digits);
	}
	return hash;
}

uint64
pgr_rates_identity(const PgrRateSet *set)
{
	uint64 identity = hash_text(set->source, hash_of_rates(set));

	return identity == 0 ? 1 : identity;
}

/* The cluster's. */
static const PgrBlock *
newest(void)
{
	return pgr_root_block(pgr_image, pgr_pin_advance()->root, PGR_SLOT_RATES);
}

/* As after a restart with another URL. */
static bool
is_from_other_url(const PgrRatesInfo *info, const PgrRateSet *set)
{
	return !info->manual && strcmp(info->source, set->source) != 0;
}

/*
 * Is the new set too far from the published one?  Then "message" holds both
 * numbers.
 */
static bool
changed_too_much(const PgrBlock *block, const PgrRatesInfo *info,
				 const PgrRateSet *set, char *message)
{
	double limit = pgr_settings.rates_max_change_percent;

	if (info == NULL || limit == 0 || set->accepted ||
		is_from_other_url(info, set))
		return false;
	if (strcmp(info->base, set->base) != 0)
	{
		snprintf(message, PGR_RATES_MESSAGE_LEN,
				 "the base changed from %s to %s", info->base, set->base);
		return true;
	}
	for (int i = 0; i < set->nrates; i++)
	{
		const PgrRate *rate = &set->rates[i];
		const PgrSlot *slot = pgr_block_find(block, rate->code,
											 PGR_CURRENCY_LEN);
		double percent;

		/* one that comes back may have moved far in the meantime */
		if (slot == NULL || (slot->flags & PGR_SLOT_MISSING) != 0)
			continue;
		percent = fabs(as_float8(rate->value) / slot->fixed.f8 - 1) * 100;
		if (percent <= limit)
			continue;
		snprintf(
			message, PGR_RATES_MESSAGE_LEN,
			"the rate of %s changed from %s to %s, by %.4g %%, more than pg_registry.rates_max_change = %d %%",
			rate->code,
			numeric_normalize((Numeric) pgr_block_item(block, slot)->data),
			numeric_normalize(rate->value), percent,
			pgr_settings.rates_max_change_percent);
		return true;
	}
	return false;
}

static bool
same_value(const PgrBlock *block, const PgrSlot *slot, Numeric value)
{
	const PgrItem *item = pgr_block_item(block, slot);

	return item->value_len == VARSIZE(value) &&
		memcmp(item->data, value, item->value_len) == 0;
}

/* Would publishing the set change anything but checked_at? */
static bool
same_set(const PgrBlock *block, const PgrRatesInfo *info,
		 const PgrRateSet *set)
{
	int matched = 0;
	bool has_base = false;
	const PgrSlot *slot;
	uint64 position = 0;
	int fresh = 0;

	if (info == NULL || strcmp(info->base, set->base) != 0 ||
		info->value_date != set->value_date ||
		strcmp(info->source, set->source) != 0)
		return false;
	for (int i = 0; i < set->nrates; i++)
	{
		slot = pgr_block_find(block, set->rates[i].code, PGR_CURRENCY_LEN);
		if (slot == NULL || (slot->flags & PGR_SLOT_MISSING) != 0)
			return false;
		has_base |= strcmp(set->rates[i].code, set->base) == 0;
		if (!same_value(block, slot, set->rates[i].value))
			return false;
		matched++;
	}
	while ((slot = pgr_block_next(block, &position)) != NULL)
		fresh += (slot->flags & PGR_SLOT_MISSING) == 0;
	return fresh == matched + (has_base ? 0 : 1);
}

void
pgr_rates_fill_info(PgrRatesInfo *info, const PgrRateSet *set)
{
	memset(info, 0, sizeof(*info));
	strlcpy(info->base, set->base, sizeof(info->base));
	info->value_date = set->value_date;
	info->fetched_at = set->fetched_at;
	info->checked_at = set->checked_at ? set->checked_at : set->fetched_at;
	info->manual = set->manual;
	info->since = set->published_at ? set->published_at : set->fetched_at;
	info->refused = set->refused;
	info->rate_set = set->rate_set;
	if (set->base[0] == '\0')
		return;
	info->identity = pgr_rates_identity(set);
	strlcpy(info->source, set->source, sizeof(info->source));
}

typedef enum Published
{
	PUBLISHED,
	NO_MEMORY,
	OVERTAKEN /* a set_rates was committed since "block" was looked at */
} Published;

/* Publish one change of the rates' block, if it is still "block". */
static Published
publish(uint32 slot, const PgrBlock *block, PgrChange *changes, int nchanges,
		const PgrRatesInfo *info, Size *wanted, uint64 *generation)
{
	PgrRef page;
	PgrPlanRegistry registry = {
		.action = PGR_PLAN_CHANGE,
		.slot = slot,
		.definition = block->definition,
		.changes = changes,
		.nchanges = nchanges,
		.mark_missing = nchanges > 0,
		.extra = info,
		.extra_len = sizeof(*info),
		.extra_prefix = sizeof(info->base),
		.expected_birth = block->object.birth,
	};
	PgrPlan plan = {
		.registries = &registry,
		.nregistries = 1,
		.pages = &page,
		.now = info->checked_at,
	};

	if (!pgr_plan_reserve(&plan, wanted))
		return NO_MEMORY;
	*generation = pgr_plan_commit(&plan);
	return plan.some_void ? OVERTAKEN : PUBLISHED;
}

static Numeric
one(void)
{
	return int64_to_numeric(1);
}

static void
rate_change(PgrChange *change, const char *code, Numeric value, TimestampTz at)
{
	PgrValue encoded;

	pgr_value_encode(PGR_TYPE_NUMERIC, NumericGetDatum(value), &encoded);
	memset(change, 0, sizeof(*change));
	change->key = code;
	change->key_len = PGR_CURRENCY_LEN;
	change->value = encoded.data;
	change->value_len = encoded.len;
	change->fixed = encoded.fixed;
	change->updated_at = at;
}

int
pgr_rates_changes(const PgrRateSet *set, PgrChange **changes)
{
	bool has_base = set->base[0] == '\0';
	int n = 0;

	*changes = palloc((set->nrates + 1) * sizeof(PgrChange));
	for (int i = 0; i < set->nrates; i++)
	{
		rate_change(&(*changes)[n++], set->rates[i].code, set->rates[i].value,
					set->fetched_at);
		has_base |= strcmp(set->rates[i].code, set->base) == 0;
	}
	if (!has_base)
		rate_change(&(*changes)[n++], set->base, one(), set->fetched_at);
	return n;
}

/*
 * The set in quarantine, NULL = there is none any more, for loaders to store.
 * If there is no memory for it, its message is all that is kept.
 */
static void
hold_back(const PgrRateSet *set, const char *message)
{
	const PgrBlock *block = pgr_root_block(pgr_image, pgr_pin_advance()->root,
										   PGR_SLOT_QUARANTINE);
	const PgrRatesInfo *held = pgr_rates_info(block);
	PgrRatesInfo info = {0};
	PgrChange *changes = NULL;
	int n = 0;
	Size wanted;
	uint64 generation;

	if (set != NULL)
	{
		pgr_rates_fill_info(&info, set);
		strlcpy(info.message, message, sizeof(info.message));
		n = pgr_rates_changes(set, &changes);
	}
	if (info.identity == (held ? held->identity : 0))
		return;
	if (publish(PGR_SLOT_QUARANTINE, block, changes, n, &info, &wanted,
				&generation) == PUBLISHED &&
		set != NULL)
		pgr_load_want();
}

static void
keep_answer(uint64 question, uint64 rates, TimestampTz at, bool urgent)
{
	PgrKeptAnswer kept = {question, {rates, at}};

	pgr_answer_file_keep(&kept, urgent);
}

/*
 * The source says what is published.  That is noted beside it, and published
 * only if the clock has been set back, since the later time counts.
 */
static Published
confirm(const PgrBlock *block, uint64 question, TimestampTz at, Size *wanted,
		uint64 *generation)
{
	PgrRatesInfo info = *pgr_rates_info(block);

	keep_answer(question, info.identity, at, false);
	*generation = pg_atomic_read_u64(&pgr_image->generation);
	pgr_refresh_note_answer(info.identity, at);
	if (at >= info.checked_at)
		return PUBLISHED;
	info.checked_at = at;
	return publish(PGR_SLOT_RATES, block, NULL, 0, &info, wanted, generation);
}

PgrRatesOutcome
pgr_rates_publish(const PgrRateSet *set, char message[PGR_RATES_MESSAGE_LEN],
				  uint64 *generation)
{
	PgrRatesOutcome outcome;
	Published published = PUBLISHED;
	PgrChange *changes;
	int nchanges = pgr_rates_changes(set, &changes);
	Size wanted = 0;

	message[0] = '\0';
	do
	{
		const PgrBlock *block = newest();
		const PgrRatesInfo *old = pgr_rates_info(block);
		PgrRatesInfo info;

		outcome = PGR_RATES_QUARANTINED;
		if (changed_too_much(block, old, set, message))
			break;
		if (same_set(block, old, set))
		{
			outcome = PGR_RATES_UNCHANGED;
			published = confirm(block, set->question, set->fetched_at, &wanted,
								generation);
			continue;
		}
		outcome = PGR_RATES_CHANGED;
		pgr_rates_fill_info(&info, set);
		published = publish(PGR_SLOT_RATES, block, changes, nchanges, &info,
							&wanted, generation);
	} while (published == OVERTAKEN);

	if (published == NO_MEMORY)
	{
		outcome = PGR_RATES_NO_MEMORY;
		snprintf(
			message, PGR_RATES_MESSAGE_LEN,
			"out of shared memory for pg_registry: cannot reserve %zu bytes",
			wanted);
	}
	if (outcome != PGR_RATES_NO_MEMORY)
		hold_back(outcome == PGR_RATES_QUARANTINED ? set : NULL, message);
	pgr_pin_end_transaction();
	if (outcome == PGR_RATES_CHANGED)
	{
		keep_answer(set->question, pgr_rates_identity(set), set->fetched_at,
					true);
		pgr_load_want(); /* every database stores it */
	}
	return outcome;
}

bool
pgr_rates_confirm(uint64 question, TimestampTz checked_at, uint64 *generation)
{
	const PgrBlock *block = newest();
	const PgrRatesInfo *old = pgr_rates_info(block);
	bool confirmed = false;
	Size wanted;

	if (old != NULL)
		confirmed = confirm(block, question, checked_at, &wanted,
							generation) == PUBLISHED;
	pgr_pin_end_transaction();
	return confirmed;
}

TimestampTz
pgr_rates_answered_at(uint64 question)
{
	const PgrRatesInfo *info = pgr_rates_info(newest());
	TimestampTz at = 0;
	PgrKeptAnswer kept;

	if (info != NULL && pgr_answer_file_read(&kept) &&
		kept.question == question && kept.answer.rates == info->identity)
		at = Max(kept.answer.at, pgr_rates_checked_at(info));
	pgr_pin_end_transaction();
	return at;
}

bool
pgr_rates_is_from(const char *source)
{
	const PgrRatesInfo *info = pgr_rates_info(newest());
	bool same = info != NULL && strcmp(info->source, source) == 0;

	pgr_pin_end_transaction();
	return same;
}

/* ------------------------------------------------------------------------
 * For loaders
 * ------------------------------------------------------------------------
 */

bool
pgr_rates_publish_stored(const PgrRateSet *set)
{
	PgrChange *changes;
	int nchanges = pgr_rates_changes(set, &changes);
	Published published;
	PgrRatesInfo info;
	Size wanted;
	uint64 generation;

	pgr_rates_fill_info(&info, set);
	info.rate_set = 0; /* other databases have other rows */
	info.checked_at = info.since = info.fetched_at;
	info.refused = 0;
	do
	{
		const PgrBlock *block = newest();
		const PgrRatesInfo *old = pgr_rates_info(block);

		if (old != NULL && old->fetched_at >= set->fetched_at)
			return true;
		published = publish(PGR_SLOT_RATES, block, changes, nchanges, &info,
							&wanted, &generation);
	} while (published == OVERTAKEN);
	return published == PUBLISHED;
}

bool
pgr_rates_are_far(const PgrRateSet *old, const PgrRateSet *set)
{
	const PgrBlock *block = pgr_rates_private_block(old, CurrentMemoryContext);
	char message[PGR_RATES_MESSAGE_LEN];

	return changed_too_much(block, pgr_rates_info(block), set, message);
}

static void
copy_rate(PgrRate *rate, const PgrBlock *block, const PgrSlot *slot)
{
	memcpy(rate->code, pgr_block_key(block, slot), PGR_CURRENCY_LEN);
	rate->code[PGR_CURRENCY_LEN] = '\0';
	rate->value = DatumGetNumericCopy(
		PointerGetDatum(pgr_block_item(block, slot)->data));
}

static void
copy_block(PgrRateSet *set, const PgrBlock *block, const PgrRatesInfo *info)
{
	const PgrSlot *slot;
	uint64 position = 0;

	*set = (PgrRateSet){
		.value_date = info->value_date,
		.fetched_at = info->fetched_at,
		.source = pstrdup(info->source),
		.rates = palloc(pgr_block_entries(block, PGR_NEWEST) *
						sizeof(PgrRate)),
	};
	strlcpy(set->base, info->base, sizeof(set->base));
	while ((slot = pgr_block_next(block, &position)) != NULL)
		if ((slot->flags & PGR_SLOT_MISSING) == 0)
			copy_rate(&set->rates[set->nrates++], block, slot);
}

bool
pgr_rates_copy_fetched(PgrRateSet *set)
{
	const PgrBlock *block = newest();
	const PgrRatesInfo *info = pgr_rates_info(block);

	if (info != NULL)
		copy_block(set, block, info);
	return info != NULL;
}

bool
pgr_rates_copy_quarantined(PgrRateSet *set, char *message)
{
	const PgrBlock *block = pgr_root_block(pgr_image, pgr_pin_advance()->root,
										   PGR_SLOT_QUARANTINE);
	const PgrRatesInfo *info = pgr_rates_info(block);

	if (info == NULL)
		return false;
	copy_block(set, block, info);
	strlcpy(message, info->message, PGR_RATES_MESSAGE_LEN);
	return true;
}
