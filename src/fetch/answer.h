/*
 * fetch/answer.h
 *	  From an HTTP response to published rates, or to the reason why not.
 */
#ifndef PGR_FETCH_ANSWER_H
#define PGR_FETCH_ANSWER_H

#include "fetch/run.h"
#include "http/http.h"

typedef struct PgrQuestion
{
	const char *url;    /* holds secrets */
	const char *source; /* the same, masked */
	uint64 id;          /* of all that the answer depends on */
	bool conditional;   /* validators were sent */
	bool accepted;      /* another URL: any difference will do */
} PgrQuestion;

/*
 * Judge, parse and publish.  False if the answer was "not modified", but what
 * it was compared with is not what is published any more: ask again, without
 * validators.  May throw only for lack of memory, before anything is
 * published; leaves garbage in the current context.
 */
extern bool pgr_answer_take(const PgrCoreApi *core,
							const PgrQuestion *question,
							const PgrHttpResponse *response,
							PgrRunOutcome *outcome);

/* A failure without any answer. */
extern void pgr_answer_none(const PgrQuestion *question, const char *error,
							PgrRunOutcome *outcome);

#endif /* PGR_FETCH_ANSWER_H */
