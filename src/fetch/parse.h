/*
 * fetch/parse.h
 *	  The body of an answer to a set of rates.
 *
 * All in memory of the caller's context, which he resets when the set is
 * published.  Nothing here needs a database, and nothing may use one.
 */
#ifndef PGR_FETCH_PARSE_H
#define PGR_FETCH_PARSE_H

#include "registry/rates.h"
#include "settings.h"

typedef struct PgrParseInput
{
	const char *body; /* NUL-terminated; may hold anything */
	size_t len;
	PgrRatesFormat format;
	const char *currencies; /* to keep and to validate */
	bool (*keeps_currency)(const char *currencies, const char *code);
	PgrRateCheck (*check)(Numeric rate);
} PgrParseInput;

/*
 * Fill in base, value_date and rates of the set.  NULL, or why the body
 * cannot be used; then none of it is (F-3).  Does not throw.
 */
extern const char *pgr_parse_rates(const PgrParseInput *input,
								   PgrRateSet *set);

/*
 * What the provider says in the body of an error, in quotes, or NULL if it
 * says nothing that can be read.  Does not throw.
 */
extern const char *pgr_parse_provider_message(const char *body, size_t len);

#endif /* PGR_FETCH_PARSE_H */
