/*
 * shm/answer_file.h
 *	  When the source of the rates was last heard of, beyond the end of the
 *	  server.
 *
 * A set of rates is in tables; that the source says the same again is not, as
 * that would cost every database WAL with each answer.  It is in a file of the
 * data directory, next to those in which PostgreSQL keeps its statistics:
 * ages count on over a restart, and a restart is no reason to ask again.
 *
 * The file says something about the source, not about this server, so it is
 * as true in a copy of the data directory.  Nothing depends on it: if it is
 * lost, unreadable or as old as a backup, rates are older than they could be,
 * and the source is asked at the start.
 */
#ifndef PGR_SHM_ANSWER_FILE_H
#define PGR_SHM_ANSWER_FILE_H

#include "shm/refresh_state.h"

typedef struct PgrKeptAnswer
{
	uint64 question; /* what was asked: URL, currencies, format */
	PgrRatesAnswer answer;
} PgrKeptAnswer;

/* False, and all zero, if there is none.  Logs what cannot be read. */
extern bool pgr_answer_file_read(PgrKeptAnswer *kept);

/*
 * For the scheduler.  Written now, or if that was done a moment ago and it is
 * not "urgent", with one of the next ones, at the latest when the process ends.
 * A failure is logged, once.
 */
extern void pgr_answer_file_keep(const PgrKeptAnswer *kept, bool urgent);

#endif /* PGR_SHM_ANSWER_FILE_H */
