/*
 * http_rules.c
 *	  If this fails, a request can reach an address that nobody meant, a server
 *	  can keep us away for ever or call us back at once, a secret of a URL gets
 *	  into a message, or a copy of a cluster uses it.
 *
 * Tables of facts against the pure functions of http/, fetch/ and base/.
 *
 * link: src/http/address.c src/http/headers.c src/http/url.c src/fetch/schedule.c src/base/mask.c src/base/outbound.c -lpgcommon -lpgport -lcurl
 */
#include "postgres.h"

#include <limits.h>

#include "base/mask.h"
#include "base/outbound.h"
#include "fetch/schedule.h"
#include "http/address.h"
#include "http/headers.h"
#include "http/url.h"

#undef printf

static int ntests = 0;
static int nfailed = 0;

static void
check(bool ok, const char *what, const char *input)
{
	ntests++;
	nfailed += !ok;
	printf("%sok %d - %s: %s\n", ok ? "" : "not ", ntests, what, input);
}

/* The first and the last address of every range that is refused. */
static const char *const refused[] =
	{"0.0.0.0", "0.255.255.255", "10.0.0.0", "10.255.255.255", "100.64.0.0",
	 "100.127.255.255", "127.0.0.0", "127.255.255.255", "169.254.0.0",
	 "169.254.255.255", "172.16.0.0", "172.31.255.255", "192.0.0.0",
	 "192.0.0.255", "192.0.2.0", "192.0.2.255", "192.88.99.0", "192.88.99.255",
	 "192.168.0.0", "192.168.255.255", "198.18.0.0", "198.19.255.255",
	 "198.51.100.0", "198.51.100.255", "203.0.113.0", "203.0.113.255",
	 "224.0.0.0", "239.255.255.255", "240.0.0.0", "255.255.255.255",
	 "168.63.129.16", "::", "::1",
	 "64:ff9b:1::", "64:ff9b:1:ffff:ffff:ffff:ffff:ffff",
	 "100::", "100::ffff:ffff:ffff:ffff",
	 "2001::", "2001:1ff:ffff:ffff:ffff:ffff:ffff:ffff",
	 "2001:db8::", "2001:db8:ffff:ffff:ffff:ffff:ffff:ffff",
	 "3fff::", "3fff:fff:ffff:ffff:ffff:ffff:ffff:ffff",
	 "5f00::", "5f00:ffff:ffff:ffff:ffff:ffff:ffff:ffff",
	 "fc00::", "fdff:ffff:ffff:ffff:ffff:ffff:ffff:ffff",
	 "fe80::", "fe80::1%eth0", "febf:ffff:ffff:ffff:ffff:ffff:ffff:ffff",
	 "fec0::", "feff:ffff:ffff:ffff:ffff:ffff:ffff:ffff",
	 "ff00::", "ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff",
	 /* an IPv4 address inside: mapped, compatible, NAT64, 6to4, ISATAP */
	 "::ffff:10.0.0.1", "::ffff:127.0.0.1", "::10.0.0.1", "64:ff9b::10.0.0.1",
	 "64:ff9b::169.254.169.254", "2002:a00:1::1",
	 "2002:7f00:1::", "2a00:1450::5efe:10.0.0.1",
	 "2a00:1450::200:5efe:192.168.0.1", "not an address", ""};

/* Their neighbours, and public servers. */
static const char *const allowed[] =
	{"1.0.0.0",          "9.255.255.255",   "11.0.0.0",
	 "100.63.255.255",   "100.128.0.0",     "126.255.255.255",
	 "128.0.0.0",        "169.253.255.255", "169.255.0.0",
	 "172.15.255.255",   "172.32.0.0",      "191.255.255.255",
	 "192.0.1.0",        "192.0.3.0",       "192.88.98.255",
	 "192.88.100.0",     "192.167.255.255", "192.169.0.0",
	 "198.17.255.255",   "198.20.0.0",      "198.51.99.255",
	 "198.51.101.0",     "203.0.112.255",   "203.0.114.0",
	 "223.255.255.255",  "168.63.129.15",   "168.63.129.17",
	 "8.8.8.8",          "2001:200::",      "2001:4860:4860::8888",
	 "2a00:1450::1",     "2600::",          "::ffff:8.8.8.8",
	 "64:ff9b::8.8.8.8", "2002:808:808::1", "2a00:1450::5efe:8.8.8.8"};

static const char *const loopback[] = {"127.0.0.1", "127.255.255.255", "::1",
									   "::ffff:127.0.0.1"};

static void
check_addresses(void)
{
	for (size_t i = 0; i < lengthof(refused); i++)
		check(pgr_address_refuse_text(refused[i], PGR_ADDRESS_PUBLIC) != NULL,
			  "refused", refused[i]);
	for (size_t i = 0; i < lengthof(allowed); i++)
	{
		check(pgr_address_refuse_text(allowed[i], PGR_ADDRESS_PUBLIC) == NULL,
			  "allowed", allowed[i]);
		check(pgr_address_refuse_text(allowed[i], PGR_ADDRESS_LOOPBACK) !=
				  NULL,
			  "no loopback address", allowed[i]);
	}
	for (size_t i = 0; i < lengthof(loopback); i++)
		check(pgr_address_refuse_text(loopback[i], PGR_ADDRESS_LOOPBACK) ==
				  NULL,
			  "loopback", loopback[i]);
}

enum
{
	REFUSED = -1
};

static const struct
{
	const char *url;
	int policy;
} urls[] = {
	{"https://example.com/latest", PGR_ADDRESS_PUBLIC},
	{"https://10.0.0.1/", PGR_ADDRESS_PUBLIC},
	{"https://localhost.example.com/", PGR_ADDRESS_PUBLIC},
	{"https://127.0.0.1.example.com/", PGR_ADDRESS_PUBLIC},
	{"https://localhost/", PGR_ADDRESS_LOOPBACK},
	{"http://LOCALHOST:8080/x", PGR_ADDRESS_LOOPBACK},
	{"http://127.0.0.1/", PGR_ADDRESS_LOOPBACK},
	{"http://127.9.9.9:1/", PGR_ADDRESS_LOOPBACK},
	{"http://[::1]:8080/", PGR_ADDRESS_LOOPBACK},
	{"http://example.com/", REFUSED},
	{"http://10.0.0.1/", REFUSED},
	{"http://localhost.example.com/", REFUSED},
	{"http://127.0.0.1@example.com/", REFUSED},
	{"https://user@example.com/", REFUSED},
	{"https://user:password@example.com/", REFUSED},
	{"ftp://127.0.0.1/", REFUSED},
	{"file:///etc/passwd", REFUSED},
	{"gopher://127.0.0.1/", REFUSED},
	{"https://", REFUSED},
	{"//example.com/", REFUSED},
	{"latest", REFUSED},
	{"", REFUSED},
};

static void
check_urls(void)
{
	for (size_t i = 0; i < lengthof(urls); i++)
	{
		PgrAddressPolicy policy = PGR_ADDRESS_PUBLIC;
		const char *why = pgr_url_refuse(urls[i].url, &policy);

		check(why != NULL ? urls[i].policy == REFUSED :
							urls[i].policy == (int) policy,
			  "URL", urls[i].url);
	}
}

/* 2026-11-22 15:00:00 UTC */
#define NOW 1795359600

typedef struct Seconds
{
	const char *value;
	long seconds;
} Seconds;

static const Seconds retry_after[] = {
	{"120", 120},
	{"0", 0},
	{"-5", 0},
	{"1.5", -1},
	{"", -1},
	{"Fri, 31 Dec 1999 23:59:59 GMT", 0},
	{"Sun, 22 Nov 2026 15:00:30 GMT", 30},
	{"Sunday, 22-Nov-26 15:00:30 GMT", 30},
	{"Sun Nov 22 15:00:30 2026", 30},
	{"99999999999999999999", -1},
	{"soon", -1},
	{"1 2", -1},
	{"- 5", -1},
};

static const Seconds max_age[] = {
	{"max-age=60", 60},
	{"public, max-age=86400", 86400},
	{"Max-Age=\"60\"", 60},
	{"private,max-age=5,must-revalidate", 5},
	{"s-maxage=60", -1},
	{"", -1},
	{"public", -1},
	{"max-age", -1},
	{"max-age=", -1},
	{"max-age=x", -1},
	{"xmax-age=5", -1},
	{"no-cache, max-age=60", 0},
	{"max-age=60, no-store", 0},
	{"no-cachet", -1},
	{"max-age=99999999999999999999", INT_MAX},
};

static void
check_headers(void)
{
	for (size_t i = 0; i < lengthof(retry_after); i++)
		check(pgr_headers_retry_after(retry_after[i].value, NOW) ==
				  retry_after[i].seconds,
			  "Retry-After", retry_after[i].value);
	for (size_t i = 0; i < lengthof(max_age); i++)
		check(pgr_headers_max_age(max_age[i].value) == max_age[i].seconds,
			  "Cache-Control", max_age[i].value);
}

static void
check_schedule(void)
{
	bool in_range = true;

	for (int step = 0; step < 100; step++)
	{
		double random = step / 100.0;
		int64 normal = pgr_schedule_after_success_ms(3600, -1, random);
		int64 cached = pgr_schedule_after_success_ms(3600, 86400, random);
		int64 forever = pgr_schedule_after_success_ms(3600, INT_MAX, random);

		in_range = in_range && normal >= 3420000 && normal <= 3780000 &&
			cached >= 86400000 && cached <= 95040000 && forever >= 86400000 &&
			forever <= 95040000;
	}
	check(in_range, "after success",
		  "about the interval, never before max-age, never beyond a day");

	in_range = true;
	for (int failures = 1; failures < 1000; failures++)
		for (int step = 0; step < 100; step++)
		{
			double random = step / 100.0;
			int64 hourly = pgr_schedule_after_failure_ms(failures, 3600, -1,
														 random);
			int64 often = pgr_schedule_after_failure_ms(failures, 1, -1,
														random);
			int64 told = pgr_schedule_after_failure_ms(failures, 3600, INT_MAX,
													   random);

			in_range = in_range && hourly >= 1000 &&
				hourly <= Max(1000, Min(900000, 1000L << Min(failures, 20))) &&
				often == 1000 && told >= 3600000 && told <= 3960000;
		}
	check(
		in_range, "after failure",
		"at least 1 s, doubling, up to 15 min or the interval; Retry-After up to 1 h");
}

static void
check_masks(void)
{
	static const struct
	{
		const char *url;
		const char *masked;
	} masked_urls[] = {
		{"https://a.example/b", "https://a.example/b"},
		{"https://a.example/b?key=secret&x=1", "https://a.example/b?..."},
		{"https://a.example?key=secret", "https://a.example?..."},
		{"https://me:secret@a.example/b", "https://a.example/b"},
		{"https://me:sec@ret@a.example/b@c", "https://a.example/b@c"},
		{"https://a.example/b#secret", "https://a.example/b"},
		{"https://a.example/v6/0123456789abcdef0123/latest/EUR",
		 "https://a.example/v6/.../latest/EUR"},
		{"https://a.example/stats/eurofxref-daily.xml",
		 "https://a.example/stats/eurofxref-daily.xml"},
		{"", ""},
	};
	const char *url =
		"https://a.example/b?app_id=0123456789&base=EUR&s=abcde#f";
	char text[256];

	for (size_t i = 0; i < lengthof(masked_urls); i++)
	{
		pgr_mask_url(text, sizeof(text), masked_urls[i].url);
		check(strcmp(text, masked_urls[i].masked) == 0, "masked",
			  masked_urls[i].url);
	}
	pgr_mask_url(text, 12, "https://a.example/b?key=secret");
	check(strcmp(text, "https://a.e") == 0, "masked and cut", text);

	strcpy(text, "0123456789 is not valid (0123456789), EUR, abcde");
	pgr_mask_secrets(text, url);
	check(strcmp(text, "... is not valid (...), EUR, ...") == 0, "secrets",
		  text);
	strcpy(text, "at /b?app_id=0123456789&base=EUR&s=abcde");
	pgr_mask_secrets(text, url);
	check(strcmp(text, "at /b?...") == 0, "whole query", text);
	strcpy(text, "cut: \"0123456789abcdefghij");
	pgr_mask_secrets(
		text, "https://a.example/b?key=0123456789abcdefghijklmnopqrstuvwxyz");
	check(strcmp(text, "cut: \"...") == 0, "beginning", text);
	strcpy(text, "the provider says my/secret+key");
	pgr_mask_secrets(text, "https://a.example/b?key=my%2Fsecret%2Bkey");
	check(strcmp(text, "the provider says ...") == 0, "decoded", text);
	strcpy(text, "no account 0123456789abcdef0123");
	pgr_mask_secrets(text, "https://a.example/v6/0123456789abcdef0123/EUR");
	check(strcmp(text, "no account ...") == 0, "in the path", text);
	strcpy(text, "nothing to hide");
	pgr_mask_secrets(text, "https://a.example/b?");
	check(strcmp(text, "nothing to hide") == 0, "no query", text);

	pgr_mask_control(text, sizeof(text), "a\n\033\177b\303\251", 7);
	check(strcmp(text, "a   b??") == 0, "printable", text);
	pgr_mask_control(text, 4, "abcdef", 6);
	check(strcmp(text, "abc") == 0, "cut", text);
}

/* May a copy of the cluster use them, without being asked? */
static const char *const with_secret[] =
	{"https://me@a.example/b",
	 "https://me:secret@a.example/b",
	 "https://a.example/v6/0123456789abcdef0123/latest/EUR",
	 "https://a.example/bot1234567:ABC-DEF1234ghIkl/b",
	 "https://a.example/eyJhbGciOiJIUzI1NiJ9.e30.x/b",
	 "https://a.example/b?app_id=1",
	 "https://a.example/b?base=EUR&APIKEY=a",
	 "https://a.example/b?access_token=",
	 "https://a.example/b?u=me&Password=a",
	 "https://a.example/b?X-Signature=a",
	 "https://a.example/b?0123456789abcdef",
	 "https://a.example/b?apikey",
	 "https://a.example/b?q=0123456789a",
	 "https://a.example/b?symbols=EUR,0123456789a",
	 "https://a.example/b?q=a%2Fb",
	 "https://a.example/b?q=a+b",
	 "https://a.example?q=0123456789abcdef",
	 "https://a.example/b?x=1&&q=0123456789abcdef#c"};
static const char *const without_secret[] =
	{"https://a.example",
	 "https://a.example/",
	 "https://a.example/v1/latest",
	 "https://a.example/v2/rates?base=EUR&quotes=USD,GBP&providers=ECB",
	 "https://a.example/b?symbols=USD%2CGBP%2cCHF|JPY&amount=1.00",
	 "https://a.example/b?from=2025-04-04&at=1743760800&format=json&x&=",
	 "https://a.example/b?#0123456789abcdef0123",
	 "https://a.example/stats/eurofxref/eurofxref-daily.xml",
	 "https://a.example/npm/@fawazahmed0/currency-api@latest/v1/eur.json",
	 "http://127.0.0.1:8080/rates@home",
	 ""};

static const struct
{
	const char *patterns;
	const char *host;
	bool matches;
} hosts[] = {
	{"db1", "db1", true},
	{"DB1", "db1", true},
	{"db1", "db10", false},
	{"db1", "db1.example.com", false},
	{"db1*", "db1.example.com", true},
	{"db?", "db1", true},
	{"db?", "db", false},
	{"*", "db1", true},
	{"**", "d", true},
	{"*.example.com", "db1.example.com", true},
	{"*.example.com", "db1.example.com.test", false},
	{"*1*2", "db1112", true},
	{"*1*3", "db1112", false},
	{"db2, db1", "db1", true},
	{" db2 ,\tdb1 ", "db1", true},
	{"db2 db1", "db1", true},
	{"db2;db1", "db1", false},
	{"db", "db1", false},
	{",", "db1", false},
	{"*", "", false},
	{"", "", false},
};

static const struct
{
	bool outbound;
	const char *armed_hosts;
	const char *url;
	PgrOutbound result;
} bans[] = {
	{true, "", "https://a.example/b", PGR_OUTBOUND_ALLOWED},
	{true, "", "https://a.example/b?key=a", PGR_OUTBOUND_UNNAMED},
	{true, "here", "https://a.example/b?key=a", PGR_OUTBOUND_ALLOWED},
	{true, "there", "https://a.example/b", PGR_OUTBOUND_OTHER_HOST},
	{true, " ", "https://a.example/b", PGR_OUTBOUND_OTHER_HOST},
	{false, "", "https://a.example/b", PGR_OUTBOUND_OFF},
	{false, "*", "https://a.example/b", PGR_OUTBOUND_OFF},
};

static void
check_outbound(void)
{
	for (size_t i = 0; i < lengthof(with_secret); i++)
		check(pgr_mask_url_has_secret(with_secret[i]), "a secret",
			  with_secret[i]);
	for (size_t i = 0; i < lengthof(without_secret); i++)
		check(!pgr_mask_url_has_secret(without_secret[i]), "no secret",
			  without_secret[i]);
	for (size_t i = 0; i < lengthof(hosts); i++)
		check(pgr_outbound_host_matches(hosts[i].patterns, hosts[i].host) ==
				  hosts[i].matches,
			  hosts[i].host, hosts[i].patterns);
	for (size_t i = 0; i < lengthof(bans); i++)
		check(pgr_outbound_check(bans[i].outbound, bans[i].armed_hosts, "here",
								 bans[i].url) == bans[i].result,
			  bans[i].armed_hosts, bans[i].url);
}

int
main(void)
{
	check_addresses();
	check_urls();
	check_headers();
	check_schedule();
	check_masks();
	check_outbound();
	printf("1..%d\n", ntests);
	return nfailed > 0;
}
