/*
 * base/iso4217.h
 *	  The active currency codes of ISO 4217 and their minor units.
 */
#ifndef PGR_BASE_ISO4217_H
#define PGR_BASE_ISO4217_H

#include <stdbool.h>
#include <stddef.h>

#define PGR_MINOR_UNITS_UNKNOWN (-1) /* no such code */
#define PGR_MINOR_UNITS_NONE (-2)    /* the code has none: XAU, XDR, ... */

#define PGR_ISO4217_LEN 3

/*
 * The text in upper case, if that has the shape of a code: what somebody who
 * wrote 'eur' meant.
 */
extern bool pgr_iso4217_upper(const char *text, size_t len,
							  char upper[PGR_ISO4217_LEN + 1]);

/* Decimal places of a currency's amounts; "code" is three bytes. */
extern int pgr_iso4217_minor_units(const char *code);

#endif /* PGR_BASE_ISO4217_H */
