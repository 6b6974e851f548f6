/*
 * base/iso4217.c
 *	  ISO 4217, list one (currency and fund codes in use), as of 2026.
 *
 * Codes are grouped by their minor units and sorted within a group.  BGN and
 * HRK are kept though their countries have adopted the euro: amounts in them
 * are still in people's tables.
 */
#ifndef PGR_STANDALONE
#include "postgres.h"
#endif

#include <string.h>

#include "base/iso4217.h"

static const char two[] =
	"AED AFN ALL AMD ANG AOA ARS AUD AWG AZN BAM BBD BDT BGN BMD BND BOB BOV BRL "
	"BSD BTN BWP BYN BZD CAD CDF CHE CHF CHW CNY COP COU CRC CUP CVE CZK DKK DOP "
	"DZD EGP ERN ETB EUR FJD FKP GBP GEL GHS GIP GMD GTQ GYD HKD HNL HRK HTG HUF "
	"IDR ILS INR IRR JMD KES KGS KHR KPW KYD KZT LAK LBP LKR LRD LSL MAD MDL MGA "
	"MKD MMK MNT MOP MRU MUR MVR MWK MXN MXV MYR MZN NAD NGN NIO NOK NPR NZD PAB "
	"PEN PGK PHP PKR PLN QAR RON RSD RUB SAR SBD SCR SDG SEK SGD SHP SLE SOS SRD "
	"SSP STN SVC SYP SZL THB TJS TMT TOP TRY TTD TWD TZS UAH USD USN UYU UZS VED "
	"VES WST XAD XCD XCG YER ZAR ZMW ZWG ";

static const char zero[] =
	"BIF CLP DJF GNF ISK JPY KMF KRW PYG RWF UGX UYI VND VUV XAF XOF XPF ";

static const char three[] = "BHD IQD JOD KWD LYD OMR TND ";

static const char four[] = "CLF UYW ";

static const char none[] =
	"XAG XAU XBA XBB XBC XBD XDR XPD XPT XSU XTS XUA XXX ";

static int
listed(const char *list, const char *code)
{
	for (; *list; list += 4)
		if (memcmp(list, code, 3) == 0)
			return 1;
	return 0;
}

int
pgr_iso4217_minor_units(const char *code)
{
	if (listed(two, code))
		return 2;
	if (listed(zero, code))
		return 0;
	if (listed(three, code))
		return 3;
	if (listed(four, code))
		return 4;
	if (listed(none, code))
		return PGR_MINOR_UNITS_NONE;
	return PGR_MINOR_UNITS_UNKNOWN;
}

bool
pgr_iso4217_upper(const char *text, size_t len,
				  char upper[PGR_ISO4217_LEN + 1])
{
	if (len != PGR_ISO4217_LEN)
		return false;
	for (int i = 0; i < PGR_ISO4217_LEN; i++)
	{
		upper[i] = text[i];
		if (upper[i] >= 'a' && upper[i] <= 'z')
			upper[i] += 'A' - 'a';
		if (upper[i] < 'A' || upper[i] > 'Z')
			return false;
	}
	upper[PGR_ISO4217_LEN] = '\0';
	return true;
}
