/*
 * fetch/json.h
 *	  JSON of strangers, with PostgreSQL's own parser.
 */
#ifndef PGR_FETCH_JSON_H
#define PGR_FETCH_JSON_H

#include "utils/jsonb.h"

/*
 * NULL, or why the text must not be given to jsonb_in: a number that is huge
 * when written out, or one object that names a currency twice, of which jsonb
 * would silently keep the last.
 */
extern const char *pgr_json_refuse(const char *text);

/* jsonb_in: throws if the text is no JSON. */
extern Jsonb *pgr_json_read(const char *text);

/* The member of an object, NULL if it has none of that name. */
extern JsonbValue *pgr_json_member(JsonbContainer *object, const char *name,
								   JsonbValue *value);

/* The same if it is a string, or an object; else NULL. */
extern JsonbValue *pgr_json_string(JsonbContainer *object, const char *name,
								   JsonbValue *value);
extern JsonbContainer *pgr_json_object(JsonbContainer *object,
									   const char *name);

/* For a message: what the value is. */
extern const char *pgr_json_show(const JsonbValue *value);

#endif /* PGR_FETCH_JSON_H */
