/*
 * fetch/builder.c
 *	  A set of rates while a format's reader fills it.
 */
#include "postgres.h"

#include "utils/builtins.h"
#include "utils/datetime.h"
#include "utils/fmgrprotos.h"

#include "base/mask.h"
#include "fetch/builder.h"

#define QUOTE_LEN 200
/* Days that a value date may lie ahead of our clock. */
#define MAX_DAYS_AHEAD 2

#define MIN_YEAR 1900
#define DATE_LEN 10 /* YYYY-MM-DD */

bool
pgr_code_is_valid(const char *code, size_t len)
{
	if (len != PGR_CURRENCY_LEN)
		return false;
	for (size_t i = 0; i < len; i++)
		if (code[i] < 'A' || code[i] > 'Z')
			return false;
	return true;
}

bool
pgr_code_set_add(PgrCodeSet *codes, const char *code)
{
	int n = ((code[0] - 'A') * 26 + code[1] - 'A') * 26 + code[2] - 'A';
	uint8 bit = (uint8) (1 << n % 8);
	bool added = (codes->bits[n / 8] & bit) == 0;

	codes->bits[n / 8] |= bit;
	return added;
}

char *
pgr_builder_quote(const char *text, size_t len)
{
	char clean[QUOTE_LEN];

	pgr_mask_control(clean, sizeof(clean), text, len);
	return psprintf("\"%s%s\"", clean, len >= sizeof(clean) ? "..." : "");
}

void
pgr_builder_init(PgrBuilder *builder, const PgrParseInput *input,
				 PgrRateSet *set)
{
	memset(builder, 0, sizeof(*builder));
	builder->input = input;
	builder->set = set;
	set->base[0] = '\0';
	set->nrates = 0;
	set->rates = NULL;
}

const char *
pgr_builder_base(PgrBuilder *builder, const char *code, size_t len)
{
	PgrRateSet *set = builder->set;

	if (!pgr_code_is_valid(code, len))
		return psprintf("the base %s is not a currency code",
						pgr_builder_quote(code, len));
	if (set->base[0] != '\0' && strncmp(set->base, code, len) != 0)
		return psprintf("the rates have different bases: %s and %.*s",
						set->base, (int) len, code);
	memcpy(set->base, code, len);
	set->base[len] = '\0';
	return NULL;
}

/* n digits as a number, -1 if there is anything else. */
static int
read_digits(const char *text, int n)
{
	int value = 0;

	for (int i = 0; i < n; i++)
	{
		if (text[i] < '0' || text[i] > '9')
			return -1;
		value = value * 10 + text[i] - '0';
	}
	return value;
}

static bool
read_date(const char *text, size_t len, DateADT *date)
{
	int year;
	int month;
	int day;

	if (len != DATE_LEN || text[4] != '-' || text[7] != '-')
		return false;
	year = read_digits(text, 4);
	month = read_digits(text + 5, 2);
	day = read_digits(text + 8, 2);
	if (year < MIN_YEAR || month < 1 || month > MONTHS_PER_YEAR || day < 1 ||
		day > day_tab[isleap(year)][month - 1])
		return false;
	*date = date2j(year, month, day) - POSTGRES_EPOCH_JDATE;
	return true;
}

static DateADT
latest_date(void)
{
	return (DateADT) (GetCurrentTimestamp() / USECS_PER_DAY) + MAX_DAYS_AHEAD;
}

const char *
pgr_builder_date(PgrBuilder *builder, const char *text, size_t len)
{
	DateADT date;

	if (!read_date(text, len, &date))
		return psprintf("the date %s is not of the form YYYY-MM-DD",
						pgr_builder_quote(text, len));
	/* a provider's day can begin before ours */
	if (date > latest_date())
		return psprintf("the date %s lies in the future",
						pgr_builder_quote(text, len));
	if (!builder->has_date || date > builder->set->value_date)
		builder->set->value_date = date;
	builder->has_date = true;
	return NULL;
}

bool
pgr_builder_wants(PgrBuilder *builder, const char *code, size_t len)
{
	char text[PGR_CURRENCY_LEN + 1];

	if (!pgr_code_is_valid(code, len))
		return false;
	memcpy(text, code, len);
	text[len] = '\0';
	return builder->input->keeps_currency(builder->input->currencies, text);
}

const char *
pgr_builder_refuse(const char *code, const char *shown)
{
	return psprintf("the rate of %.3s is %s, which is not a positive number",
					code, shown);
}

static bool
is_one(Numeric value)
{
	return DatumGetBool(
		DirectFunctionCall2(numeric_eq, NumericGetDatum(value),
							NumericGetDatum(int64_to_numeric(1))));
}

static char *
numeric_text(Numeric value)
{
	return DatumGetCString(
		DirectFunctionCall1(numeric_out, NumericGetDatum(value)));
}

static void
append(PgrBuilder *builder, const char *code, Numeric value)
{
	PgrRateSet *set = builder->set;
	PgrRate *rate;

	if (set->nrates == builder->allocated)
	{
		builder->allocated = builder->allocated == 0 ? 64 :
													   2 * builder->allocated;
		set->rates = set->rates == NULL ?
			palloc(builder->allocated * sizeof(PgrRate)) :
			repalloc(set->rates, builder->allocated * sizeof(PgrRate));
	}
	rate = &set->rates[set->nrates++];
	memcpy(rate->code, code, PGR_CURRENCY_LEN);
	rate->code[PGR_CURRENCY_LEN] = '\0';
	rate->value = value;
}

const char *
pgr_builder_rate(PgrBuilder *builder, const char *code, Numeric value)
{
	PgrRateSet *set = builder->set;

	switch (builder->input->check(value))
	{
		case PGR_RATE_OK:
			break;
		case PGR_RATE_NOT_POSITIVE:
			return pgr_builder_refuse(code, numeric_text(value));
		case PGR_RATE_OUT_OF_RANGE:
			return psprintf("the rate of %.3s is out of range", code);
	}
	if (!pgr_code_set_add(&builder->seen, code))
		return psprintf("%.3s occurs more than once", code);
	if (strncmp(code, set->base, PGR_CURRENCY_LEN) == 0)
	{
		/* Some providers send this row; the publisher knows it anyway. */
		if (!is_one(value))
			return psprintf("the rate of the base %s is %s instead of 1",
							set->base, numeric_text(value));
		return NULL;
	}
	if (set->nrates == PGR_RATES_MAX_CURRENCIES)
		return psprintf("there are more than %d currencies",
						PGR_RATES_MAX_CURRENCIES);
	append(builder, code, value);
	return NULL;
}

const char *
pgr_builder_finish(PgrBuilder *builder)
{
	if (builder->set->nrates > 0)
	{
		Assert(builder->has_date && builder->set->base[0] != '\0');
		return NULL;
	}
	if (builder->input->currencies[0] != '\0')
		return "there is no rate of any currency of pg_registry.rates_currencies";
	return "there are no rates";
}
