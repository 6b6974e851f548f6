/*
 * log/text.h
 *	  Texts of a record in the encoding of the database that reads them.
 *
 * For readers only: it needs a transaction and memory, and the log hook has
 * neither.
 */
#ifndef PGR_LOG_TEXT_H
#define PGR_LOG_TEXT_H

/*
 * A palloc'd copy of "length" bytes, valid in the encoding of this database.
 * "encoding" is what the writer believed them to be in.  Whatever they are,
 * this raises no error on account of them:
 *
 *	- ASCII stays as it is, always.
 *	- Bytes in this database's encoding, or in an unknown one (SQL_ASCII), are
 *	  kept where they are valid here.
 *	- Bytes in another encoding are converted where PostgreSQL has a conversion
 *	  for the two.
 *	- Each byte that is left (invalid, without equivalent, no conversion) is
 *	  written as \xNN.  In an SQL_ASCII database, whose clients would be sent
 *	  the bytes unchecked, that is every byte which is not ASCII.
 *
 * A backslash of the text itself is not doubled: it is for people to read.
 */
extern char *pgr_log_text_readable(const char *bytes, int length,
								   int encoding);

#endif /* PGR_LOG_TEXT_H */
