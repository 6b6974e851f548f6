/*
 * registry/rates.h
 *	  Sets of exchange rates and their publication in the reserved registries
 *	  "rates", of the cluster and of databases (F-1 to F-3).
 */
#ifndef PGR_REGISTRY_RATES_H
#define PGR_REGISTRY_RATES_H

#include "utils/date.h"
#include "utils/numeric.h"
#include "utils/timestamp.h"

#include "registry/block.h"

#define PGR_CURRENCY_LEN 3
#define PGR_RATES_SOURCE_LEN 256
#define PGR_RATES_BY_HAND "set_rates" /* the source of such sets */
#define PGR_RATES_MAX_CURRENCIES 1024

/* Rates are 1e-PGR_RATE_MAX_EXPONENT to 1ePGR_RATE_MAX_EXPONENT, with at most
 * PGR_RATE_MAX_SCALE decimal places: far beyond any currency, and far from
 * where a quotient of two could overflow. */
#define PGR_RATE_MAX_EXPONENT 30
#define PGR_RATE_MAX_SCALE 60

/* One currency's rate: units of "code" for one unit of the set's base. */
typedef struct PgrRate
{
	char code[PGR_CURRENCY_LEN + 1]; /* three upper-case letters */
	Numeric value;                   /* finite and > 0, digits as published */
} PgrRate;

/*
 * A set of rates as a provider (or set_rates) gave it, in the caller's
 * memory.  No code twice.  The base may be among the rates with value 1; it
 * is added when it is not.
 */
typedef struct PgrRateSet
{
	/* "": a database has withdrawn all it had */
	char base[PGR_CURRENCY_LEN + 1];
	DateADT value_date; /* what the provider says */
	TimestampTz fetched_at;
	TimestampTz checked_at;   /* 0 = fetched_at */
	TimestampTz published_at; /* 0 = fetched_at */
	const char *source;       /* shown in views: no secret, masked URL */
	int64 rate_set;           /* its row in this database's table; 0 = none */
	bool manual;              /* set_rates, accept_rates */
	uint64 refused;           /* identity of a set that was withdrawn */
	uint64 question;          /* that this is the answer to */
	bool accepted; /* from another URL than the last set, which somebody
					* configured: do not compare */
	int nrates;
	PgrRate *rates;
} PgrRateSet;

typedef enum PgrRatesOutcome
{
	PGR_RATES_CHANGED,     /* published, something differs */
	PGR_RATES_UNCHANGED,   /* all that is new is when that was said */
	PGR_RATES_QUARANTINED, /* not published: rates_max_change or base */
	PGR_RATES_NO_MEMORY    /* not published: arena full */
} PgrRatesOutcome;

#define PGR_RATES_MESSAGE_LEN 256

typedef enum PgrRateCheck
{
	PGR_RATE_OK,
	PGR_RATE_NOT_POSITIVE, /* zero, negative, NaN, infinite */
	PGR_RATE_OUT_OF_RANGE
} PgrRateCheck;

/* Can this be a rate?  Needs no transaction. */
extern PgrRateCheck pgr_rates_check(Numeric rate);

/*
 * Publish a fetched set: all of it or nothing (F-3).  For the scheduler: needs
 * no transaction and no database.  Does not throw except for palloc failure;
 * takes the writer lock.  Currencies of the published set that this one lacks
 * are kept and marked missing.  On QUARANTINED and NO_MEMORY "message" says
 * why, with both numbers.  *generation is the generation that shows the set.
 */
extern PgrRatesOutcome pgr_rates_publish(const PgrRateSet *set,
										 char message[PGR_RATES_MESSAGE_LEN],
										 uint64 *generation);

/*
 * The source says that nothing changed (304): advance checked_at.  False if
 * the published set is not a fetched one, and then nothing changes.
 */
extern bool pgr_rates_confirm(uint64 question, TimestampTz checked_at,
							  uint64 *generation);

/*
 * When the published set was last an answer to this question, to this server
 * or to the one before; 0 = never.
 */
extern TimestampTz pgr_rates_answered_at(uint64 question);

/*
 * Does the published set come from pgr_rates_publish with this source?  If
 * not, a conditional request makes no sense: fetch the whole body.
 */
extern bool pgr_rates_is_from(const char *source);

/* ------------------------------------------------------------------------
 * In backends
 * ------------------------------------------------------------------------
 */

/*
 * What the block of the rates says about the set as a whole: its "extra".
 * Starts with the base, which decides whether vanished currencies are kept.
 */
typedef struct PgrRatesInfo
{
	char base[PGR_CURRENCY_LEN + 1];
	DateADT value_date;
	TimestampTz fetched_at;
	TimestampTz checked_at; /* as of the publish: see pgr_rates_checked_at */
	bool manual;            /* set_rates, accept_rates */
	TimestampTz since;      /* the newest one since then; of a database: what
							 * was fetched until then it has judged */
	uint64 refused;         /* of a database: identity of what must not come
							 * again; 0 = none */
	uint64 identity;        /* pgr_rates_identity */
	int64 rate_set;         /* of a database: its row; 0 = none */
	char source[PGR_RATES_SOURCE_LEN];
	char message[PGR_RATES_MESSAGE_LEN]; /* why it is in quarantine */
} PgrRatesInfo;

/* NULL if no set was ever published, or all that there were are withdrawn. */
static inline const PgrRatesInfo *
pgr_rates_info(const PgrBlock *block)
{
	const PgrRatesInfo *info = (const PgrRatesInfo *) ((const char *) block +
													   block->extra_offset);

	return block->extra_len < sizeof(PgrRatesInfo) || info->base[0] == '\0' ?
		NULL :
		info;
}

/*
 * The id of its row in this database's table; 0 = none.  A fetched set does
 * not know it, since each database has its own: then the table is asked.
 */
extern int64 pgr_rates_row(const PgrRatesInfo *info);

typedef enum PgrStaleReason
{
	PGR_STALE_NO,
	PGR_STALE_CLOCK,      /* checked_at lies in the future */
	PGR_STALE_CHECK,      /* no good answer for rates_max_age */
	PGR_STALE_VALUE_DATE, /* older than rates_max_value_age */
	PGR_STALE_MISSING     /* the provider stopped sending it */
} PgrStaleReason;

/*
 * When the source said last that these are its rates, as of the statement's
 * pin; of a set by hand, when it was set.
 */
extern TimestampTz pgr_rates_checked_at(const PgrRatesInfo *info);

/* Of the set, as of "now", which is the time of the pin. */
extern PgrStaleReason pgr_rates_stale(const PgrRatesInfo *info,
									  TimestampTz checked_at, TimestampTz now);
extern const char *pgr_rates_stale_name(PgrStaleReason reason);

/*
 * Which rates a database reads.  The cluster's are what was fetched last.  A
 * database has its own from the first time that it differs: after set_rates,
 * accept_rates or withdraw_rates, or if a load finds that it must.  Of the two
 * the newer ones are read: the cluster's if they were fetched after the moment
 * since which the database's own are its newest, unless they are what it has
 * withdrawn.  Its own are therefore never older than what it has judged.
 *
 * Without any, and as long as it is not known whether there will be some, the
 * table takes the place of a database's own: after a restart, and on a standby.
 */

/*
 * The rates as this statement sees them: in shared memory, or a block of our
 * own ("self" is 0), with the transaction's own set_rates or from the table.
 * Valid while the pin is; a block of our own, until the next call.
 */
extern const PgrBlock *pgr_rates_block(void);

/*
 * r_to / r_from rounded once, half away from zero, to 18 significant digits,
 * without trailing zeros (F-2).  Both are finite and > 0.
 */
extern Numeric pgr_rates_quotient(Numeric r_to, Numeric r_from);

/*
 * Writers, under the lock of pgr_write_open_rates, whose definition it is:
 * changes of this transaction.  As pgr_rates_publish, but nothing is compared.
 */
extern void pgr_rates_set(const PgrDefinition *definition, PgrRateSet *set);

/* Nothing of what was there before stays; without a base: there are no rates. */
extern void pgr_rates_replace(const PgrDefinition *definition,
							  PgrRateSet *set);

/*
 * The row of the set that others will read once this transaction has
 * committed, own changes included.
 */
extern int64 pgr_rates_newest_row(void);

/*
 * For loaders: is that this set, and is known what it refuses?  And has this
 * database rates of its own?
 */
extern bool pgr_rates_are_served(const PgrRateSet *set);
extern bool pgr_rates_has_own(void);

/*
 * A copy of the cluster's set, without what the provider stopped sending, in
 * the current memory context; "source" too.  False: there is none.
 */
extern bool pgr_rates_copy_fetched(PgrRateSet *set);

/*
 * The same of the set that the scheduler holds back, with its message, which
 * has PGR_RATES_MESSAGE_LEN bytes.
 */
extern bool pgr_rates_copy_quarantined(PgrRateSet *set, char *message);

/*
 * What was fetched once becomes the cluster's again, if that has nothing
 * newer.  Not part of the transaction, which has read it from a table.  False:
 * memory is lacking.
 */
extern bool pgr_rates_publish_stored(const PgrRateSet *set);

/* Would pgr_rates_publish hold "set" back after "old"? */
extern bool pgr_rates_are_far(const PgrRateSet *old, const PgrRateSet *set);

/* Of its source, base, date and rates, in whatever order; never 0. */
extern uint64 pgr_rates_identity(const PgrRateSet *set);

/* A set as a block of our own, in "context". */
extern const PgrBlock *pgr_rates_private_block(const PgrRateSet *set,
											   MemoryContext context);

/* What rates.c and own_rates.c share: a set as the parts of a block. */
extern void pgr_rates_fill_info(PgrRatesInfo *info, const PgrRateSet *set);
extern int pgr_rates_changes(const PgrRateSet *set, PgrChange **changes);

#endif /* PGR_REGISTRY_RATES_H */
