/*
 * sql/currency.c
 *	  See currency.h.
 */
#include "postgres.h"

#include "mb/pg_wchar.h"

#include "base/compat.h"
#include "base/iso4217.h"
#include "registry/rates.h"
#include "sql/currency.h"

static bool
is_code(PgrText code)
{
	if (code.len != PGR_CURRENCY_LEN)
		return false;
	for (int i = 0; i < PGR_CURRENCY_LEN; i++)
		if (code.data[i] < 'A' || code.data[i] > 'Z')
			return false;
	return true;
}

void
pgr_currency_check(PgrText code)
{
	char upper[PGR_ISO4217_LEN + 1];

	if (likely(is_code(code)))
		return;
	ereport(ERROR,
			(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
			 errmsg("\"%.*s\" is not a currency code",
					pg_mbcliplen(code.data, code.len, 32), code.data),
			 pgr_iso4217_upper(code.data, code.len, upper) ?
			 errhint("Did you mean \"%s\"?", upper) :
			 errdetail("Currency codes are three upper-case letters.")));
}

void
pgr_currency_check_set_name(Datum rates)
{
	PgrText name = pgr_text(rates);

	if (unlikely(name.len != strlen(PGR_RATES_NAME) ||
				 memcmp(name.data, PGR_RATES_NAME, name.len) != 0))
		ereport(ERROR,
				(errcode(ERRCODE_FEATURE_NOT_SUPPORTED),
				 errmsg("rates other than \"%s\" are not supported yet",
						PGR_RATES_NAME)));
}
