/*
 * http/address.c
 *	  Address policy: checked on the address that is actually connected, so
 *	  that no spelling of a host name and no DNS answer gets around it.
 *
 * A server inside a private network must not be made to read its neighbours,
 * its own services or a cloud's metadata service.  Ranges: IANA's special
 * purpose registries, and the public address of one cloud's host agent.
 */
#include "postgres.h"

#include <arpa/inet.h>
#include <netinet/in.h>

#include "http/address.h"

typedef struct Range
{
	uint8 prefix[16];
	int bits;
	const char *kind;
} Range;

static const Range ranges_v4[] = {
	{{0}, 8, "not an address of a host"},
	{{10}, 8, "a private address"},
	{{100, 64}, 10, "a shared address of a provider's network"},
	{{127}, 8, "a loopback address"},
	{{169, 254}, 16, "a link-local or metadata address"},
	{{172, 16}, 12, "a private address"},
	{{192, 0, 0}, 24, "a reserved address"},
	{{192, 0, 2}, 24, "a reserved address"},
	{{192, 88, 99}, 24, "a reserved address"},
	{{192, 168}, 16, "a private address"},
	{{198, 18}, 15, "a reserved address"},
	{{198, 51, 100}, 24, "a reserved address"},
	{{203, 0, 113}, 24, "a reserved address"},
	{{224}, 4, "a multicast address"},
	{{240}, 4, "a reserved address"},
	{{168, 63, 129, 16}, 32, "a metadata address"},
};

static const Range ranges_v6[] = {
	{{0}, 128, "not an address of a host"},
	{{0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1},
	 128,
	 "a loopback address"},
	{{0x00, 0x64, 0xFF, 0x9B, 0x00, 0x01}, 48, "a private address"},
	{{0x01}, 64, "a reserved address"},
	{{0x20, 0x01}, 23, "a reserved address"},
	{{0x20, 0x01, 0x0D, 0xB8}, 32, "a reserved address"},
	{{0x3F, 0xFF}, 20, "a reserved address"},
	{{0x5F}, 16, "a reserved address"},
	{{0xFC}, 7, "a private address"},
	{{0xFE, 0x80}, 10, "a link-local or metadata address"},
	{{0xFE, 0xC0}, 10, "a private address"},
	{{0xFF}, 8, "a multicast address"},
};

/* IPv6 addresses that stand for an IPv4 address, and where it is in them. */
static const struct
{
	Range range;
	int offset;
} embeddings[] = {
	{{{0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xFF, 0xFF}, 96, "mapped"}, 12},
	{{{0}, 96, "compatible"}, 12},
	{{{0x00, 0x64, 0xFF, 0x9B}, 96, "NAT64"}, 12},
	{{{0x20, 0x02}, 16, "6to4"}, 2},
};

static bool
in_range(const uint8 *address, const Range *range)
{
	int bytes = range->bits / 8;
	int rest = range->bits % 8;

	if (memcmp(address, range->prefix, bytes) != 0)
		return false;
	return rest == 0 ||
		((address[bytes] ^ range->prefix[bytes]) >> (8 - rest)) == 0;
}

static const char *
find_range(const uint8 *address, const Range *ranges, int n)
{
	for (int i = 0; i < n; i++)
		if (in_range(address, &ranges[i]))
			return ranges[i].kind;
	return NULL;
}

static const char *
refuse_v4(const uint8 *address, PgrAddressPolicy policy)
{
	if (policy == PGR_ADDRESS_LOOPBACK)
		return address[0] == 127 ? NULL : "not a loopback address";
	return find_range(address, ranges_v4, lengthof(ranges_v4));
}

/*
 * ISATAP: the interface identifier is 0000:5EFE or 0200:5EFE and an IPv4
 * address, below any prefix.
 */
static bool
is_isatap(const uint8 *address)
{
	return (address[8] & ~0x02) == 0 && address[9] == 0 &&
		address[10] == 0x5E && address[11] == 0xFE;
}

static bool
is_mapped(const uint8 *address)
{
	static const uint8 prefix[12] = {[10] = 0xFF, [11] = 0xFF};

	return memcmp(address, prefix, sizeof(prefix)) == 0;
}

static const char *
refuse_v6(const uint8 *address, PgrAddressPolicy policy)
{
	static const uint8 loopback[16] = {[15] = 1};
	const char *kind;

	if (policy == PGR_ADDRESS_LOOPBACK && memcmp(address, loopback, 16) == 0)
		return NULL;
	kind = find_range(address, ranges_v6, lengthof(ranges_v6));
	if (kind != NULL)
		return kind;
	/* other spellings of 127.0.0.1 lead through a gateway, not here */
	if (policy == PGR_ADDRESS_LOOPBACK)
		return is_mapped(address) ? refuse_v4(address + 12, policy) :
									"not a loopback address";
	for (size_t i = 0; i < lengthof(embeddings); i++)
		if (in_range(address, &embeddings[i].range))
			return refuse_v4(address + embeddings[i].offset, policy);
	if (is_isatap(address))
		return refuse_v4(address + 12, policy);
	/* what is routed globally is in 2000::/3 */
	return (address[0] & 0xE0) == 0x20 ? NULL : "not a public address";
}

const char *
pgr_address_refuse(const struct sockaddr *address, PgrAddressPolicy policy)
{
	switch (address->sa_family)
	{
		case AF_INET:
			return refuse_v4((const uint8 *) &(
								 (const struct sockaddr_in *) address)
								 ->sin_addr,
							 policy);
		case AF_INET6:
			return refuse_v6((const uint8 *) &(
								 (const struct sockaddr_in6 *) address)
								 ->sin6_addr,
							 policy);
		default:
			return "not an internet address";
	}
}

const char *
pgr_address_refuse_text(const char *address, PgrAddressPolicy policy)
{
	struct sockaddr_in v4 = {.sin_family = AF_INET};
	struct sockaddr_in6 v6 = {.sin6_family = AF_INET6};
	char text[INET6_ADDRSTRLEN];

	/* A scope, as in fe80::1%eth0, is no part of the address. */
	strlcpy(text, address, sizeof(text));
	text[strcspn(text, "%")] = '\0';
	if (inet_pton(AF_INET, text, &v4.sin_addr) == 1)
		return pgr_address_refuse((const struct sockaddr *) &v4, policy);
	if (inet_pton(AF_INET6, text, &v6.sin6_addr) == 1)
		return pgr_address_refuse((const struct sockaddr *) &v6, policy);
	return "not readable";
}
