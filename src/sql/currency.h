/*
 * sql/currency.h
 *	  Checks of arguments that name currencies and sets of rates.
 */
#ifndef PGR_SQL_CURRENCY_H
#define PGR_SQL_CURRENCY_H

#include "registry/reader.h"

/* ERROR unless the text can be a currency code at all. */
extern void pgr_currency_check(PgrText code);

/* ERROR unless the text is the name of the one set of rates that exists. */
extern void pgr_currency_check_set_name(Datum name);

#endif /* PGR_SQL_CURRENCY_H */
