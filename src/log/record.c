/*
 * log/record.c
 *	  See record.h.
 *
 * Runs inside the log hook (L-1): nothing here may throw, allocate or call
 * what does.  pg_mblen and its relatives raise errors on bytes that they do
 * not like; pg_encoding_mblen looks up a length by the first byte and cannot.
 */
#include "postgres.h"

#include "mb/pg_wchar.h"

#include "log/record.h"

StaticAssertDecl(offsetof(PgrLogRecord, text) % sizeof(uint16) == 0,
				 "no hole before the text");
StaticAssertDecl(PGR_LOG_SLOT_BYTES % PGR_RING_LINE == 0,
				 "a slot is a whole number of cache lines");
StaticAssertDecl(PGR_LOG_TEXT_BYTES > PGR_LOG_FIELDS * PGR_LOG_NAME_BYTES,
				 "every field finds room");

/*
 * The longest piece of text that has at most "limit" bytes and does not end
 * inside a character.  "text" is longer than that.  Bytes that are invalid in
 * the encoding may make the last character end elsewhere, but never the piece
 * longer; readers check what they find.
 */
static Size
clip(int encoding, const char *text, Size limit)
{
	Size end = 0;

	if (pg_encoding_max_length(encoding) == 1)
		return limit;
	for (;;)
	{
		Size next = end + (Size) pg_encoding_mblen(encoding, text + end);

		if (next > limit)
			return end;
		end = next;
	}
}

/*
 * Lower each of the lengths of the long texts to its fair share of "room":
 * those below the average get all they want, and the rest share what they
 * leave.
 */
static void
share_room(Size *length, Size room)
{
	int open = PGR_LOG_FIELDS - PGR_LOG_FIRST_LONG;
	uint32 served = 0;
	bool more = true;

	while (more && open > 0)
	{
		Size share = room / open;

		more = false;
		for (int i = PGR_LOG_FIRST_LONG; i < PGR_LOG_FIELDS; i++)
		{
			if ((served & (1U << i)) || length[i] > share)
				continue;
			served |= 1U << i;
			room -= length[i];
			open--;
			more = true;
		}
	}
	for (int i = PGR_LOG_FIRST_LONG; i < PGR_LOG_FIELDS; i++)
	{
		if (!(served & (1U << i)))
			length[i] = room / open;
	}
}

void
pgr_log_record_pack(PgrLogRecord *record, int encoding,
					const char *const source[PGR_LOG_FIELDS])
{
	Size want[PGR_LOG_FIELDS];
	Size length[PGR_LOG_FIELDS];
	Size room = PGR_LOG_TEXT_BYTES;
	char *to = record->text;

	for (int i = 0; i < PGR_LOG_FIELDS; i++)
	{
		/* One byte more than could fit, to see that it does not. */
		want[i] = source[i] ? strnlen(source[i], PGR_LOG_TEXT_BYTES + 1) : 0;
		length[i] = want[i];
		if (i < PGR_LOG_FIRST_LONG)
		{
			length[i] = Min(want[i], PGR_LOG_NAME_BYTES);
			room -= length[i];
		}
	}
	share_room(length, room);

	record->encoding = (int16) encoding;
	record->truncated = 0;
	for (int i = 0; i < PGR_LOG_FIELDS; i++)
	{
		if (length[i] < want[i])
		{
			length[i] = clip(encoding, source[i], length[i]);
			record->truncated |= (uint16) (1U << i);
		}
		if (length[i] > 0)
			memcpy(to, source[i], length[i]);
		record->length[i] = (uint16) length[i];
		to += length[i];
	}
	Assert(to <= record->text + PGR_LOG_TEXT_BYTES);
}

const char *
pgr_log_record_field(const PgrLogRecord *record, PgrLogField field)
{
	const char *from = record->text;

	for (int i = 0; i < (int) field; i++)
		from += record->length[i];
	return from;
}

Size
pgr_log_record_size(const PgrLogRecord *record)
{
	return (Size) (pgr_log_record_field(record, PGR_LOG_FIELDS) -
				   (const char *) record);
}
