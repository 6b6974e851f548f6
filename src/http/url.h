/*
 * http/url.h
 *	  Which URLs may be requested at all.
 */
#ifndef PGR_HTTP_URL_H
#define PGR_HTTP_URL_H

#include "http/address.h"

/*
 * NULL if it may: https anywhere, http only to a host written as a loopback
 * address or as localhost, no user name.  Then *policy says which addresses
 * its host may have.  Else why not.
 */
extern const char *pgr_url_refuse(const char *url, PgrAddressPolicy *policy);

#endif /* PGR_HTTP_URL_H */
