/*
 * registry/value.h
 *	  The types that a registry can hold, between SQL and a block.
 *
 * A value is kept in its on-disk form: the varlena of text, numeric and jsonb
 * beside the slot, everything of fixed size inside it.  A numeric has a float8
 * twin in its slot, so that reading it as float8 converts nothing.
 */
#ifndef PGR_REGISTRY_VALUE_H
#define PGR_REGISTRY_VALUE_H

#include <math.h>

#include "fmgr.h"
#include "utils/jsonb.h"

#include "registry/block.h"

typedef enum PgrValueType
{
	PGR_TYPE_JSONB,
	PGR_TYPE_TEXT,
	PGR_TYPE_NUMERIC,
	PGR_LAST_VARLENA = PGR_TYPE_NUMERIC,
	PGR_TYPE_FLOAT8,
	PGR_TYPE_BIGINT,
	PGR_TYPE_BOOLEAN,
	PGR_TYPE_TIMESTAMPTZ,
	PGR_VALUE_TYPES
} PgrValueType;

/* Bytes of a text, without copying where it lies plain in the tuple. */
typedef struct PgrText
{
	const char *data;
	uint32 len;
} PgrText;

static inline PgrText
pgr_text(Datum datum)
{
	struct varlena *v = (struct varlena *) DatumGetPointer(datum);
	PgrText text;

	/* a pointer out of line looks like a short one but for its length of 0 */
	if (unlikely(VARATT_IS_1B(v) ? VARATT_IS_1B_E(v) : !VARATT_IS_4B_U(v)))
		v = pg_detoast_datum_packed(v);
	text.data = VARDATA_ANY(v);
	text.len = VARSIZE_ANY_EXHDR(v);
	return text;
}

/* A value in the caller's memory, ready to be copied into a block. */
typedef struct PgrValue
{
	PgrFixed fixed;
	uint32 len;       /* of "data"; 0 for types of fixed size */
	const void *data; /* plain, uncompressed varlena */
} PgrValue;

/* False if no registry can hold this type. */
extern bool pgr_value_type_from_oid(Oid type, PgrValueType *value_type);
extern const char *pgr_value_type_name(PgrValueType type);

/* Text as in a literal of INSERT: through the type's input function. */
extern void pgr_value_from_text(PgrValueType type, char *text,
								PgrValue *value);

/* A datum of any type, through its cast in assignment. */
extern void pgr_value_from_datum(PgrValueType type, Datum datum, Oid source,
								 PgrValue *value);

/* A member of put_many's object. */
extern void pgr_value_from_jsonb(PgrValueType type, JsonbValue *member,
								 PgrValue *value);

/*
 * As text that pgr_value_from_text() takes back exactly, whatever the settings
 * of either session: what the table of a durable registry holds.
 */
extern char *pgr_value_to_stored(PgrValueType type, const PgrValue *value);

/* False if no type of a registry has this name. */
extern bool pgr_value_type_from_name(const char *name,
									 PgrValueType *value_type);

/* A datum of the type itself. */
extern void pgr_value_encode(PgrValueType type, Datum datum, PgrValue *value);

/*
 * Readers: in the caller's memory, converting where a cast exists, otherwise
 * ERROR datatype_mismatch that names the function to use.
 */
extern Datum pgr_value_to_jsonb(PgrValueType type, const PgrValue *value);
extern Datum pgr_value_to_text(PgrValueType type, const PgrValue *value);
extern Datum pgr_value_to_numeric(PgrValueType type, const PgrValue *value);
extern float8 pgr_value_to_float8(PgrValueType type, const PgrValue *value);
extern int64 pgr_value_to_bigint(PgrValueType type, const PgrValue *value);
extern bool pgr_value_to_boolean(PgrValueType type, const PgrValue *value);
extern TimestampTz pgr_value_to_timestamptz(PgrValueType type,
											const PgrValue *value);

/* False if the numeric may be one that float8 cannot hold: ask the cast. */
static inline bool
pgr_value_twin_is_exact(double twin)
{
	return twin != 0 && !isinf(twin);
}

/* What an entry holds, without copying; the item only where it is needed. */
static inline void
pgr_value_of_entry(PgrValueType type, const PgrEntry *entry, PgrValue *value)
{
	value->fixed = entry->fixed;
	value->len = 0;
	value->data = NULL;
	if (type > PGR_LAST_VARLENA)
		return;
	value->len = entry->item->value_len;
	value->data = entry->item->data;
}

#endif /* PGR_REGISTRY_VALUE_H */
