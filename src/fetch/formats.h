/*
 * fetch/formats.h
 *	  One reader for each format; for fetch/parse.c only.
 *
 * Each fills the builder and returns NULL, or why the whole set is refused.
 * They may throw (out of memory, libxml2 excepted); parse.c catches it.
 */
#ifndef PGR_FETCH_FORMATS_H
#define PGR_FETCH_FORMATS_H

#include "fetch/builder.h"
#include "fetch/json.h"

extern const char *pgr_format_frankfurter(PgrBuilder *builder,
										  JsonbContainer *root);
extern const char *pgr_format_frankfurter_v2(PgrBuilder *builder,
											 JsonbContainer *root);
extern const char *pgr_format_ecb_xml(PgrBuilder *builder, const char *body,
									  size_t len);

/*
 * What an object is that is no set of rates in a format we read: an error of
 * the provider, another format, or unknown.  Always a text.
 */
extern const char *pgr_shape_explain(JsonbContainer *root);

/* Like pgr_shape_explain, but NULL if we read that format. */
extern const char *pgr_shape_refuse(JsonbContainer *root);

/* What a provider's error says, in quotes; NULL if it is not one. */
extern const char *pgr_shape_provider_message(JsonbContainer *root);

#endif /* PGR_FETCH_FORMATS_H */
