/*
 * fetch/answer.c
 *	  From an HTTP response to published rates, or to the reason why not.
 *
 * Every error text passes fail(), which takes out what the URL keeps secret:
 * providers like to repeat a key that they refuse.
 */
#include "postgres.h"

#include "utils/builtins.h"
#include "utils/timestamp.h"

#include "base/mask.h"
#include "fetch/answer.h"
#include "fetch/parse.h"

static void
fail(PgrRunOutcome *outcome, PgrRunKind kind, const PgrQuestion *question,
	 const char *error)
{
	char text[PGR_REFRESH_TEXT_LEN];

	strlcpy(text, error, sizeof(text));
	pgr_mask_secrets(text, question->url);
	pgr_mask_control(outcome->error, sizeof(outcome->error), text,
					 strlen(text));
	outcome->kind = kind;
}

void
pgr_answer_none(const PgrQuestion *question, const char *error,
				PgrRunOutcome *outcome)
{
	memset(outcome, 0, sizeof(*outcome));
	fail(outcome, PGR_RUN_FAILED, question, error);
}

/* "HTTP 404 Not Found", and what the provider says about it. */
static const char *
describe_status(const PgrHttpResponse *response)
{
	const PgrHttpHeaders *headers = &response->headers;
	const char *message;
	char status[PGR_HTTP_REASON_LEN + 16];

	snprintf(status, sizeof(status), "HTTP %d%s%s", response->status,
			 headers->reason[0] != '\0' ? " " : "", headers->reason);
	if (response->status >= 300 && response->status < 400)
	{
		char target[PGR_HTTP_VALIDATOR_LEN];

		pgr_mask_url(target, sizeof(target), headers->location);
		return psprintf(
			"%s: redirects are not followed; set pg_registry.rates_url to the final address%s%s",
			status, target[0] != '\0' ? ", " : "", target);
	}
	message = pgr_parse_provider_message(response->body, response->body_bytes);
	return message == NULL ?
		pstrdup(status) :
		psprintf("%s: the provider says %s", status, message);
}

static bool
take_not_modified(const PgrCoreApi *core, const PgrQuestion *question,
				  PgrRunOutcome *outcome)
{
	if (!question->conditional)
	{
		fail(outcome, PGR_RUN_FAILED, question,
			 "HTTP 304 in answer to an unconditional request");
		return true;
	}
	outcome->kind = PGR_RUN_NOT_MODIFIED;
	return core->rates_confirm(question->id, GetCurrentTimestamp(),
							   &outcome->generation);
}

static void
publish(const PgrCoreApi *core, const PgrQuestion *question,
		const PgrRateSet *set, PgrRunOutcome *outcome)
{
	char message[PGR_RATES_MESSAGE_LEN] = "";

	switch (core->rates_publish(set, message, &outcome->generation))
	{
		case PGR_RATES_CHANGED:
			outcome->kind = PGR_RUN_CHANGED;
			break;
		case PGR_RATES_UNCHANGED:
			outcome->kind = PGR_RUN_NOT_MODIFIED;
			break;
		case PGR_RATES_QUARANTINED:
			fail(outcome, PGR_RUN_QUARANTINED, question, message);
			break;
		case PGR_RATES_NO_MEMORY:
			fail(outcome, PGR_RUN_FAILED, question, message);
			break;
	}
}

static void
take_body(const PgrCoreApi *core, const PgrQuestion *question,
		  const PgrHttpResponse *response, PgrRunOutcome *outcome)
{
	const PgrSettings *settings = core->settings;
	PgrParseInput input = {
		.body = response->body,
		.len = response->body_bytes,
		.format = settings->rates_format,
		.currencies = settings->rates_currencies,
		.keeps_currency = core->keeps_currency,
		.check = core->rates_check,
	};
	PgrRateSet set = {
		.source = question->source,
		.fetched_at = GetCurrentTimestamp(),
		.question = question->id,
		.accepted = question->accepted,
	};
	const char *error = pgr_parse_rates(&input, &set);

	if (error == NULL)
		publish(core, question, &set, outcome);
	else
		fail(outcome, PGR_RUN_FAILED, question,
			 psprintf("the answer cannot be used: %s", error));
}

bool
pgr_answer_take(const PgrCoreApi *core, const PgrQuestion *question,
				const PgrHttpResponse *response, PgrRunOutcome *outcome)
{
	memset(outcome, 0, sizeof(*outcome));
	outcome->http_status = response->status;
	outcome->bytes = response->body_bytes;
	outcome->duration_us = response->duration_us;

	if (!response->complete)
		fail(outcome, PGR_RUN_FAILED, question, response->error);
	else if (response->status == 304)
		return take_not_modified(core, question, outcome);
	else if (response->status != 200)
		fail(outcome, PGR_RUN_FAILED, question, describe_status(response));
	else
		take_body(core, question, response, outcome);
	return true;
}
