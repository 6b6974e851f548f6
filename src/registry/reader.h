/*
 * registry/reader.h
 *	  Reading one registry from an SQL function.
 *
 * A reader lives in the function call's fn_extra and remembers, for one pin,
 * which block the registry's name resolved to and that this role may read it.
 * While the pin's token is the current one, a read is: unpack the key, hash
 * it, one group of tags, one slot.
 */
#ifndef PGR_REGISTRY_READER_H
#define PGR_REGISTRY_READER_H

#include "fmgr.h"
#include "miscadmin.h"
#include "utils/builtins.h"

#include "registry/access.h"
#include "registry/pending.h"
#include "registry/pin.h"
#include "registry/value.h"

typedef struct PgrReader
{
	uint64 token;      /* pgr_pin_token that "block" belongs to;
								 * PGR_NO_TOKEN = resolve again */
	uint64 generation; /* of that pin */
	Oid user;          /* who was allowed */
	bool constant;     /* the name is a constant of the query */
	bool plain;        /* and the block cannot change, nor an entry
								 * expire: the shortest path */
	bool patched;      /* it can change, but no entry can expire */
	uint8 value_type;
	uint16 name_len;
	const PgrBlock *block;
	char name[PGR_NAME_LEN];
} PgrReader;

#define PGR_NO_TOKEN UINT64_MAX

/*
 * The word of a key as a tuple holds it, behind a one-byte header, and its
 * length; 0 if it is longer than a word or not of that form.  A toast pointer
 * looks like such a key of length -1.
 */
static pg_attribute_always_inline uint32
pgr_short_key(Datum datum, uint64 *word)
{
	const char *v = DatumGetPointer(datum);
	uint32 len;

	if (unlikely(!VARATT_IS_1B(v)))
		return 0;
	len = VARSIZE_1B(v) - VARHDRSZ_SHORT;
#ifndef WORDS_BIGENDIAN
	/* with its header just four bytes: currencies, most of all */
	if (likely(len == 3))
	{
		*word = pgr_load32(v) >> 8;
		return 3;
	}
#endif
	if (unlikely(len > sizeof(uint64)))
		return 0;
	*word = pgr_key_word(v + VARHDRSZ_SHORT, len);
	return len;
}

#define PGR_INT_KEY_BYTES (MAXINT8LEN + 1)

/* The key that an integer stands for: its decimal text, at "digits". */
static inline PgrText
pgr_int_key(int64 n, char digits[PGR_INT_KEY_BYTES])
{
	PgrText key = {digits, 0};

	key.len = (uint32) pg_lltoa(n, digits);
	return key;
}

/* The slot of a key that pgr_short_key() took from "datum". */
static pg_attribute_always_inline const PgrSlot *
pgr_block_find_short(const PgrBlock *block, Datum datum, uint32 len,
					 uint64 word)
{
	const char *key = DatumGetPointer(datum) + VARHDRSZ_SHORT;

	return pgr_block_find_hashed(block, key, len, word,
								 pgr_key_hash(key, len, word, block->seed));
}

/* Same pin, same role, the registry's name a constant, no expiry. */
static pg_attribute_always_inline bool
pgr_reader_is_plain(const PgrReader *reader)
{
	return likely(reader != NULL && reader->token == pgr_pin_token &&
				  reader->plain && reader->user == GetUserId());
}

/*
 * The shortest path of a read: a plain reader and a short key.  NULL: not
 * found, or ask pgr_reader_fast().
 */
static pg_attribute_always_inline const PgrSlot *
pgr_reader_slot(FunctionCallInfo fcinfo)
{
	const PgrReader *reader = fcinfo->flinfo->fn_extra;
	uint64 word;
	uint32 len;

	if (unlikely(!pgr_reader_is_plain(reader)))
		return NULL;
	len = pgr_short_key(PG_GETARG_DATUM(1), &word);
	if (unlikely(len == 0))
		return NULL;
	return pgr_block_find_short(reader->block, PG_GETARG_DATUM(1), len, word);
}

/*
 * The same for a registry that is changed in place: the entry, but for its key,
 * as of the statement's generation.  False: not found, or ask
 * pgr_reader_fast().
 */
static pg_attribute_always_inline bool
pgr_reader_entry(FunctionCallInfo fcinfo, PgrEntry *entry)
{
	const PgrReader *reader = fcinfo->flinfo->fn_extra;
	const char *key = DatumGetPointer(PG_GETARG_DATUM(1)) + VARHDRSZ_SHORT;
	uint64 word;
	uint32 len;

	if (reader == NULL || reader->token != pgr_pin_token || !reader->patched ||
		reader->user != GetUserId())
		return false;
	len = pgr_short_key(PG_GETARG_DATUM(1), &word);
	return len != 0 &&
		pgr_block_lookup_hashed(reader->block, reader->generation, key, len,
								word,
								pgr_key_hash(key, len, word,
											 reader->block->seed),
								entry);
}

/* The same for a key that is an integer, of any length. */
static pg_attribute_always_inline const PgrSlot *
pgr_reader_slot_int(FunctionCallInfo fcinfo)
{
	const PgrReader *reader = fcinfo->flinfo->fn_extra;
	char digits[PGR_INT_KEY_BYTES];
	PgrText key;

	if (unlikely(!pgr_reader_is_plain(reader)))
		return NULL;
	key = pgr_int_key(PG_GETARG_INT64(1), digits);
	return pgr_block_find(reader->block, key.data, key.len);
}

/*
 * The block to read, if the fast path holds: same pin, same role, same name.
 * NULL: use pgr_reader_find().
 */
static inline const PgrBlock *
pgr_reader_fast(FunctionCallInfo fcinfo)
{
	const PgrReader *reader = fcinfo->flinfo->fn_extra;

	if (unlikely(reader == NULL || reader->token != pgr_pin_token ||
				 reader->user != GetUserId()))
		return NULL;
	if (!reader->constant)
	{
		PgrText name = pgr_text(PG_GETARG_DATUM(0));

		if (name.len != reader->name_len ||
			memcmp(name.data, reader->name, name.len) != 0)
			return NULL;
	}
	return reader->block;
}

/* Has the entry ended, as of the statement's pin? */
static inline bool
pgr_reader_expired(TimestampTz expires_at)
{
	return unlikely(expires_at != 0) && expires_at <= pgr_pin()->at;
}

/*
 * Slow path: resolve the name, check the role, look through this
 * transaction's own changes.  ERROR undefined_object if there is no such
 * registry for this role.  False: no such key.  The value lies in shared
 * memory and stays valid while the pin does.
 */
extern bool pgr_reader_find(FunctionCallInfo fcinfo, PgrText name, PgrText key,
							PgrValueType *type, PgrValue *value);

/*
 * The whole registry as this statement sees it: a block in shared memory, or
 * a private one.  NULL if it has no entries to show.
 */
extern const PgrBlock *pgr_reader_block(PgrText name);

typedef void (*PgrReaderVisit)(const PgrBlock *block, const PgrEntry *entry,
							   void *arg);

/*
 * Calls "visit" for each entry that one of the keys names, once, in the order
 * of the keys.  A key of no length names none.
 */
extern void pgr_reader_find_many(PgrText name, const PgrText *keys, int n,
								 PgrReaderVisit visit, void *arg);

/*
 * For the planner: how many entries the registry has, as of now; its pin ends
 * here, so that planning holds back no version.  False if this role may not read it.
 */
extern bool pgr_reader_estimate(PgrText name, double *entries);

/*
 * The definition and the committed block, if any, of a registry that this role
 * may read; otherwise NULL.
 */
extern const PgrDefinition *
pgr_reader_look(PgrText name, const PgrBlock **block, bool *from_table);

/*
 * How many reads of a durable registry of this name its table has answered
 * since the server started.
 */
extern uint64 pgr_reader_fallbacks(const PgrDefinition *definition);

/*
 * Are durable registries to be read from their tables in this statement, as
 * its pin shows another state than its snapshot, and that matters to it?  See
 * pgr_pin_compares().
 */
extern bool pgr_reader_disagrees(void);

/* Would pgr_reader_block succeed? */
extern bool pgr_reader_exists(PgrText name);

/* May the current role read the registry of this block, which is pinned? */
extern bool pgr_reader_may_read(const PgrBlock *block);

extern void pgr_reader_refuse(PgrText name) pg_attribute_noreturn();

#endif /* PGR_REGISTRY_READER_H */
