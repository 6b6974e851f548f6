/*
 * log/record.h
 *	  One log record as it lies in a slot of the ring.
 *
 * A slot has a fixed size, so a record has too: a few numbers and one text
 * area in which the texts follow each other without a gap.  The four names get
 * up to PGR_LOG_NAME_BYTES each; what is left is shared fairly by the five
 * long texts, so a message alone may fill the slot, and a message beside a
 * long statement still gets its part.  A text that does not fit is cut at the
 * end of a character and marked in "truncated".
 *
 * Bytes are kept as they are: conversion needs catalogs, which the process
 * that logs may not have.
 */
#ifndef PGR_LOG_RECORD_H
#define PGR_LOG_RECORD_H

#include "shm/ring.h"

/* Bytes of a slot: the state word and a PgrLogRecord. */
#define PGR_LOG_SLOT_BYTES 2048
#define PGR_LOG_NAME_BYTES 63 /* NAMEDATALEN - 1 */

typedef enum PgrLogField
{
	/* names */
	PGR_LOG_BACKEND_TYPE,
	PGR_LOG_DATABASE,
	PGR_LOG_USERNAME,
	PGR_LOG_APPLICATION,
	/* long texts */
	PGR_LOG_MESSAGE,
	PGR_LOG_DETAIL,
	PGR_LOG_HINT,
	PGR_LOG_CONTEXT,
	PGR_LOG_STATEMENT,
	PGR_LOG_FIELDS
} PgrLogField;

#define PGR_LOG_FIRST_LONG PGR_LOG_MESSAGE

/*
 * Payload of a slot.  Written by the process that logs, between claim and
 * release; everybody else reads a copy (shm/ring.h).  A field of length 0 is
 * one that the record does not have.
 */
typedef struct PgrLogRecord
{
	TimestampTz time; /* the writer's clock, taken in the hook */
	int32 pid;
	Oid database;     /* InvalidOid: connected to none */
	Oid role;         /* of the session; InvalidOid: not known */
	int32 sqlerrcode; /* as MAKE_SQLSTATE packs it */
	int16 elevel;
	int16 encoding;   /* pg_enc of the bytes, as far as it is known */
	uint16 truncated; /* bit 1 << PgrLogField */
	uint16 length[PGR_LOG_FIELDS];
	char text[FLEXIBLE_ARRAY_MEMBER];
} PgrLogRecord;

#define PGR_LOG_TEXT_BYTES \
	(PGR_LOG_SLOT_BYTES - PGR_RING_SLOT_HEAD - offsetof(PgrLogRecord, text))

/*
 * Fill length, truncated, encoding and text from C strings, NULL for what
 * there is none of.  They may be of any length and hold any bytes.  Throws
 * nothing, allocates nothing, and looks at no more of a text than fits.
 */
extern void pgr_log_record_pack(PgrLogRecord *record, int encoding,
								const char *const source[PGR_LOG_FIELDS]);

/* Where a field lies in a record; its length is record->length[field]. */
extern const char *pgr_log_record_field(const PgrLogRecord *record,
										PgrLogField field);

/* Bytes of the record that are in use. */
extern Size pgr_log_record_size(const PgrLogRecord *record);

#endif /* PGR_LOG_RECORD_H */
