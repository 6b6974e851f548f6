/*
 * fetch/builder.h
 *	  A set of rates while a format's reader fills it, with the rules that do
 *	  not depend on the format.
 *
 * Functions that return text return NULL if all is well, else why the whole
 * set must be refused.
 */
#ifndef PGR_FETCH_BUILDER_H
#define PGR_FETCH_BUILDER_H

#include "fetch/parse.h"

#define PGR_CODES (26 * 26 * 26)

/* One bit for each three-letter code. */
typedef struct PgrCodeSet
{
	uint8 bits[(PGR_CODES + 7) / 8];
} PgrCodeSet;

typedef struct PgrBuilder
{
	const PgrParseInput *input;
	PgrRateSet *set;
	PgrCodeSet seen;
	int allocated;
	bool has_date;
} PgrBuilder;

/* Three upper-case letters?  Everything else is no currency. */
extern bool pgr_code_is_valid(const char *code, size_t len);

/* Add a valid code; false if it was there. */
extern bool pgr_code_set_add(PgrCodeSet *codes, const char *code);

extern void pgr_builder_init(PgrBuilder *builder, const PgrParseInput *input,
							 PgrRateSet *set);

/* The base, once or again; the same each time. */
extern const char *pgr_builder_base(PgrBuilder *builder, const char *code,
									size_t len);

/* YYYY-MM-DD; the newest of all that are given counts. */
extern const char *pgr_builder_date(PgrBuilder *builder, const char *date,
									size_t len);

/*
 * Is this the name of a currency that is kept?  Rates of others are not
 * looked at, so that a bad exotic one cannot freeze the rest.
 */
extern bool pgr_builder_wants(PgrBuilder *builder, const char *code,
							  size_t len);

/* A rate of a wanted currency; it must not be freed before the set. */
extern const char *pgr_builder_rate(PgrBuilder *builder, const char *code,
									Numeric value);

/* The same for a rate that is not even a number; "shown" says what it is. */
extern const char *pgr_builder_refuse(const char *code, const char *shown);

/* Is the set complete? */
extern const char *pgr_builder_finish(PgrBuilder *builder);

/* Text of the provider's for a message: printable, short, in quotes. */
extern char *pgr_builder_quote(const char *text, size_t len);

#endif /* PGR_FETCH_BUILDER_H */
