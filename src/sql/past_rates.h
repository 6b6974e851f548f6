/*
 * sql/past_rates.h
 *	  Rates of past days, as one call of a query keeps them.
 *
 * A day's rates are those of the newest published set of that day or before
 * it, read from the tables with the statement's snapshot.  Sets are kept from
 * row to row, so that a query over orders of a year reads each set once; all
 * rows of a statement see the same sets.
 */
#ifndef PGR_SQL_PAST_RATES_H
#define PGR_SQL_PAST_RATES_H

#include "registry/rates.h"

typedef struct PgrPastRates PgrPastRates;

typedef struct PgrPastSet
{
	int64 rate_set;           /* key; 0 = there is none */
	const PgrBlock *block;    /* empty then */
	const PgrRatesInfo *info; /* NULL then */
} PgrPastSet;

/* Kept in "context". */
extern PgrPastRates *pgr_past_rates_create(MemoryContext context);

/* Valid until the next call. */
extern const PgrPastSet *pgr_past_rates_on(PgrPastRates *past, DateADT date);

/* Of the set, on that day. */
extern PgrStaleReason pgr_past_rates_stale(const PgrPastSet *set,
										   DateADT date);

/* No set is that old: an error that says which is the oldest. */
extern void pgr_past_rates_refuse(DateADT date) pg_attribute_noreturn();

/* Is there any set of any day? */
extern bool pgr_past_rates_exist(void);

#endif /* PGR_SQL_PAST_RATES_H */
