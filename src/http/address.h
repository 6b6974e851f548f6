/*
 * http/address.h
 *	  Which network addresses a request may reach.
 */
#ifndef PGR_HTTP_ADDRESS_H
#define PGR_HTTP_ADDRESS_H

#include <sys/socket.h>

typedef enum PgrAddressPolicy
{
	PGR_ADDRESS_PUBLIC,  /* the URL names a host somewhere */
	PGR_ADDRESS_LOOPBACK /* the URL names this machine, literally */
} PgrAddressPolicy;

/*
 * NULL if the policy lets a connection to this address pass, else what kind
 * of address it is.  Called inside libcurl callbacks: allocates nothing.
 */
extern const char *pgr_address_refuse(const struct sockaddr *address,
									  PgrAddressPolicy policy);

/* The same for an address as text; an unreadable one is refused. */
extern const char *pgr_address_refuse_text(const char *address,
										   PgrAddressPolicy policy);

#endif /* PGR_HTTP_ADDRESS_H */
