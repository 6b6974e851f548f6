/*
 * durable/rate_sets_write.c
 *	  See rate_sets.h: the writing side.  Runs in a transaction that may write,
 *	  under the lock on the rates.
 */
#include "postgres.h"

#include "catalog/pg_type.h"
#include "common/cryptohash.h"
#include "lib/stringinfo.h"
#include "miscadmin.h"
#include "utils/array.h"
#include "utils/builtins.h"
#include "utils/fmgrprotos.h"
#include "utils/timestamp.h"

#include "base/compat.h"
#include "durable/rate_sets.h"
#include "durable/statement.h"

static PgrStatement insert_set = {
	"INSERT INTO _registry.rate_sets (source, base, value_date, fetched_at,"
	" published_at, body_hash, status, reason, role)"
	" VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9) RETURNING id",
	9,
	{TEXTOID, TEXTOID, DATEOID, TIMESTAMPTZOID, TIMESTAMPTZOID, BYTEAOID,
	 TEXTOID, TEXTOID, TEXTOID},
	NULL,
};

static PgrStatement insert_rates = {
	"INSERT INTO _registry.rate_set_values (rate_set, currency, rate)"
	" SELECT $1, u.currency, u.rate"
	" FROM ROWS FROM (pg_catalog.unnest($2::pg_catalog.text[]),"
	" pg_catalog.unnest($3::pg_catalog.numeric[])) AS u(currency, rate)",
	3,
	{INT8OID, TEXTARRAYOID, NUMERICARRAYOID},
	NULL,
};

static PgrStatement delete_rates = {
	"DELETE FROM _registry.rate_set_values AS v"
	" WHERE v.rate_set OPERATOR(pg_catalog.=) $1",
	1,
	{INT8OID},
	NULL,
};

static PgrStatement accept_set = {
	"UPDATE _registry.rate_sets AS s SET status = 'published',"
	" published_at = $2, role = $3 WHERE s.id OPERATOR(pg_catalog.=) $1"
	" RETURNING s.id",
	3,
	{INT8OID, TIMESTAMPTZOID, TEXTOID},
	NULL,
};

static PgrStatement withdraw_set = {
	"UPDATE _registry.rate_sets AS s SET status = 'withdrawn',"
	" reason = pg_catalog.concat_ws('; ', s.reason, $2), role = $3"
	" WHERE s.id OPERATOR(pg_catalog.=) $1"
	" RETURNING s.id",
	3,
	{INT8OID, TEXTOID, TEXTOID},
	NULL,
};

/* ------------------------------------------------------------------------
 * What a set says
 * ------------------------------------------------------------------------
 */

static int
compare_codes(const void *a, const void *b)
{
	return strcmp(((const PgrRate *) a)->code, ((const PgrRate *) b)->code);
}

/* In the order of codes, and with the base, as the tables have it. */
static PgrRateSet
complete_set(const PgrRateSet *set)
{
	PgrRateSet complete = *set;
	bool has_base = false;

	complete.rates = palloc((set->nrates + 1) * sizeof(PgrRate));
	memcpy(complete.rates, set->rates, set->nrates * sizeof(PgrRate));
	for (int i = 0; i < set->nrates; i++)
		has_base |= strcmp(set->rates[i].code, set->base) == 0;
	if (!has_base)
	{
		PgrRate *base = &complete.rates[complete.nrates++];

		strlcpy(base->code, set->base, sizeof(base->code));
		base->value = int64_to_numeric(1);
	}
	qsort(complete.rates, complete.nrates, sizeof(PgrRate), compare_codes);
	return complete;
}

static char *
as_text(Numeric rate)
{
	return DatumGetCString(
		DirectFunctionCall1(numeric_out, NumericGetDatum(rate)));
}

/* SHA-256 of its base, date, source and rates, digit for digit. */
static void
hash_set(const PgrRateSet *complete, uint8 hash[PGR_RATE_SET_HASH_BYTES])
{
	pg_cryptohash_ctx *context = pg_cryptohash_create(PG_SHA256);
	StringInfoData text;

	initStringInfo(&text);
	appendStringInfo(&text, "%s %d %s\n", complete->base, complete->value_date,
					 complete->source);
	for (int i = 0; i < complete->nrates; i++)
		appendStringInfo(&text, "%s %s\n", complete->rates[i].code,
						 as_text(complete->rates[i].value));
	if (pg_cryptohash_init(context) < 0 ||
		pg_cryptohash_update(context, (uint8 *) text.data, text.len) < 0 ||
		pg_cryptohash_final(context, hash, PGR_RATE_SET_HASH_BYTES) < 0)
		elog(ERROR, "could not compute a hash: %s",
			 pg_cryptohash_error(context));
	pg_cryptohash_free(context);
	pfree(text.data);
}

/* ------------------------------------------------------------------------
 * Adding
 * ------------------------------------------------------------------------
 */

static Datum
array_of(Datum *elements, int n, Oid type)
{
	return PointerGetDatum(
		construct_array(elements, n, type, -1, false, TYPALIGN_INT));
}

static void
add_rates(const PgrRateSet *complete, int64 id)
{
	Datum *codes = palloc(complete->nrates * sizeof(Datum));
	Datum *rates = palloc(complete->nrates * sizeof(Datum));
	Datum values[3];

	for (int i = 0; i < complete->nrates; i++)
	{
		codes[i] = CStringGetTextDatum(complete->rates[i].code);
		rates[i] = NumericGetDatum(complete->rates[i].value);
	}
	values[0] = Int64GetDatum(id);
	values[1] = array_of(codes, complete->nrates, TEXTOID);
	values[2] = array_of(rates, complete->nrates, NUMERICOID);
	/* no foreign key has kept away what a set of that id has left */
	(void) pgr_statement_run(&delete_rates, values, NULL);
	(void) pgr_statement_run(&insert_rates, values, NULL);
}

static Datum
role_datum(void)
{
	return CStringGetTextDatum(GetUserNameFromId(GetUserId(), false));
}

/* Later than all before, even if the clock was set back. */
static TimestampTz
time_of_publication(void)
{
	TimestampTz now = GetCurrentTimestamp();
	PgrRateSetRow newest;

	if (pgr_rate_sets_newest(PGR_VIEW_NEWEST, &newest) &&
		newest.set.published_at >= now)
		return newest.set.published_at + 1;
	return now;
}

/* published_at 0: it is quarantined. */
static int64
add_set(const PgrRateSet *complete, const uint8 *hash,
		TimestampTz published_at, const char *reason)
{
	bool published = published_at != 0;
	bytea *stored = palloc(VARHDRSZ + PGR_RATE_SET_HASH_BYTES);
	char nulls[] = "         ";
	Datum values[9];
	int64 id;

	SET_VARSIZE(stored, VARHDRSZ + PGR_RATE_SET_HASH_BYTES);
	memcpy(VARDATA(stored), hash, PGR_RATE_SET_HASH_BYTES);
	values[0] = CStringGetTextDatum(complete->source);
	values[1] = CStringGetTextDatum(complete->base);
	values[2] = DateADTGetDatum(complete->value_date);
	values[3] = TimestampTzGetDatum(complete->fetched_at);
	nulls[4] = published ? ' ' : 'n';
	values[4] = TimestampTzGetDatum(published_at);
	values[5] = PointerGetDatum(stored);
	values[6] = CStringGetTextDatum(published ? "published" : "quarantined");
	nulls[7] = reason ? ' ' : 'n';
	values[7] = reason ? CStringGetTextDatum(reason) : (Datum) 0;
	values[8] = role_datum();
	id = pgr_statement_run(&insert_set, values, nulls);
	add_rates(complete, id);
	return id;
}

void
pgr_rate_sets_publish(PgrRateSet *set, const char *reason)
{
	PgrRateSet complete = complete_set(set);
	uint8 hash[PGR_RATE_SET_HASH_BYTES];
	PgrRateSetRow newest;

	hash_set(&complete, hash);
	if (pgr_rate_sets_newest(PGR_VIEW_NEWEST, &newest) &&
		memcmp(newest.hash, hash, sizeof(hash)) == 0)
	{
		set->rate_set = newest.set.rate_set;
		set->fetched_at = newest.set.fetched_at;
		set->published_at = newest.set.published_at;
	}
	else
	{
		set->published_at = time_of_publication();
		set->rate_set = add_set(&complete, hash, set->published_at, reason);
	}
}

bool
pgr_rate_sets_was_withdrawn(const PgrRateSet *set)
{
	PgrRateSet complete = complete_set(set);
	uint8 hash[PGR_RATE_SET_HASH_BYTES];
	PgrRateSetRow last;

	hash_set(&complete, hash);
	return pgr_rate_sets_last(PGR_VIEW_NEWEST, &last) &&
		last.status == PGR_RATE_SET_WITHDRAWN &&
		memcmp(last.hash, hash, sizeof(hash)) == 0;
}

void
pgr_rate_sets_quarantine(const PgrRateSet *set, const char *reason)
{
	PgrRateSet complete = complete_set(set);
	uint8 hash[PGR_RATE_SET_HASH_BYTES];
	PgrRateSetRow last;

	hash_set(&complete, hash);
	if (!pgr_rate_sets_last(PGR_VIEW_NEWEST, &last) ||
		memcmp(last.hash, hash, sizeof(hash)) != 0)
		(void) add_set(&complete, hash, 0, reason);
}

/* ------------------------------------------------------------------------
 * Changing the status
 * ------------------------------------------------------------------------
 */

/* The row was there under the lock, so only an old snapshot can lack it. */
static void
change_set(PgrStatement *statement, Datum *values)
{
	if (pgr_statement_run(statement, values, NULL) == 0)
		ereport(ERROR,
				(errcode(ERRCODE_T_R_SERIALIZATION_FAILURE),
				 errmsg("could not serialize access due to concurrent update")));
}

void
pgr_rate_sets_accept(PgrRateSetRow *row)
{
	Datum values[3];

	row->set.published_at = time_of_publication();
	values[0] = Int64GetDatum(row->set.rate_set);
	values[1] = TimestampTzGetDatum(row->set.published_at);
	values[2] = role_datum();
	change_set(&accept_set, values);
}

void
pgr_rate_sets_withdraw(const PgrRateSetRow *row, const char *reason)
{
	Datum values[3];

	values[0] = Int64GetDatum(row->set.rate_set);
	values[1] = CStringGetTextDatum(reason);
	values[2] = role_datum();
	change_set(&withdraw_set, values);
}
