# If this fails, a provider that is down, slow, hacked or confused takes the
# last good exchange rates away, or hangs the scheduler, or nobody can tell
# from registry.status() what is wrong.

use strict;
use warnings;

use FindBin;
use lib "$FindBin::RealBin/lib";

use FaultServer;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;

my $rates = '{"amount":1.0,"base":"EUR","date":"2025-04-04","rates":{"GBP":0.84985,"USD":1.10570}}';
my $million = 1024 * 1024;

# Name, what the server does, what the error must say, HTTP status in status().
my @faults = (
	[ '404', { status => 404, reason => 'Not Found', body => '{"message":"not found"}' },
		qr/^HTTP 404 Not Found: the provider says "not found"$/, 404 ],
	[ '500', { status => 500, reason => 'Internal Server Error', body => '<html>oops</html>' },
		qr/^HTTP 500 Internal Server Error$/, 500 ],
	[ '500 with a body like rates', { status => 500, reason => 'Oops', body => $rates }, qr/^HTTP 500 Oops$/,
		500 ],
	[ '204', { status => 204, reason => 'No Content' }, qr/^HTTP 204 No Content$/, 204 ],
	[ '304 to an unconditional request', { status => 304 },
		qr/^HTTP 304 in answer to an unconditional request$/, 304 ],
	[ 'redirect', { status => 302, reason => 'Found',
		headers => ['Location: http://169.254.169.254/latest?token=abcdef'] },
		qr!^HTTP 302 Found: redirects are not followed; .* http://169\.254\.169\.254/latest\?\.\.\.$!, 302 ],
	[ 'no headers at all', { mode => 'raw', body => "hello\r\n\r\n" }, qr/HTTP\/0\.9/, 0 ],
	[ 'endless headers', { mode => 'raw', body => "HTTP/1.1 200 OK\r\n"
		. "X-Junk: aaaaaaaaaaaaaaaaaaaaaaaaaa\r\n" x 5000 },
		qr/^the answer is larger than/, 200 ],
	[ 'empty body', { body => '' }, qr/^the answer cannot be used: it is empty$/, 200 ],
	[ 'short body', { mode => 'short', body => $rates }, qr/^the answer is incomplete/, 200 ],
	[ 'missing last chunk', { mode => 'half_chunked', body => $rates }, qr/^the answer is incomplete|chunk/,
		200 ],
	[ 'truncated JSON', { body => substr($rates, 0, 60) },
		qr/^the answer cannot be used: invalid input syntax for type json/, 200 ],
	[ 'too large, declared', { mode => 'declared', length => $million + 1 },
		qr/^the answer is larger than $million bytes/, 200 ],
	[ 'five gigabytes, declared', { mode => 'declared', length => 5 * 1024 * $million },
		qr/^the answer is larger than $million bytes/, 200 ],
	[ 'too large, chunked', { mode => 'chunked', body => $rates . ' ' x $million },
		qr/^the answer is larger than $million bytes/, 200 ],
	[ 'chunks without end', { mode => 'endless' }, qr/^the answer is larger than $million bytes/, 200 ],
	[ 'reset', { mode => 'reset' }, qr/reset by peer/i, 0 ],
	[ 'closed', { mode => 'close' }, qr/empty reply/i, 0 ],
	[ 'hang', { mode => 'hang' }, qr/^timeout: /, 0 ],
	[ 'hang in the body', { mode => 'hang_in_body', body => $rates }, qr/^timeout: /, 200 ],
	[ 'byte by byte', { mode => 'trickle', body => $rates, delay => 0.1 }, qr/^timeout: /, 200 ],
	[ 'an error with HTTP 200',
		{ body => '{"success":false,"error":{"code":101,"info":"You have not supplied an API Access Key."}}' },
		qr/^the answer cannot be used: the provider reports an error: "You have not supplied an API Access Key\."$/, 200 ],
	[ 'unasked-for compression',
		{ headers => ['Content-Encoding: gzip'],
			body => "\x1f\x8b\x08\0\0\0\0\0\0\x03\xab\xae\x05\0\x43\xbf\xa6\xa3\x02\0\0\0" },
		qr/^the answer cannot be used: it is not text in UTF-8$/, 200 ],
);

my $web = FaultServer->new(PostgreSQL::Test::Utils::tempdir);
my $node = PostgreSQL::Test::Cluster->new('main');
$node->init;
$node->append_conf(
	'postgresql.conf', qq(
pg_registry.rates_url = '@{[ $web->url ]}'
pg_registry.rates_timeout = '700ms'
));
$web->serve({ body => $rates });
$node->start;
$node->safe_psql('postgres', 'CREATE EXTENSION pg_registry');

sub one { return $node->safe_psql('postgres', "SELECT $_[0]") }

# refresh() joins the run of the start-up, if that is under way still.
is(one("ok FROM registry.refresh('rates')"), 't', 'rates arrive');
my $all_rates =
  "string_agg(concat_ws(' ', currency, rate, base, value_date), ', ' ORDER BY currency) FROM registry.rates";
my $before = one($all_rates);
like($before, qr/GBP 0\.84985 EUR 2025-04-04.*USD 1\.10570 EUR 2025-04-04/, 'digit for digit');
my $checked = one('min(checked_at) FROM registry.rates');

for my $fault (@faults)
{
	my ($name, $answer, $error, $http_status) = @$fault;

	$web->serve($answer);
	my $result = one("concat_ws('|', ok, changed, coalesce(http_status, 0), generation, visible, error) "
		  . "FROM registry.refresh('rates')");
	my ($ok, $changed, $status, $text) = split /\|/, $result, 4;
	is("$ok $changed $status", "f f $http_status", "$name: refresh fails, HTTP status $http_status");
	like($text, $error, "$name: refresh says why");
	is( one("rates_last_error = \$e\$$text\$e\$ AND rates_last_error_at >= rates_last_attempt "
			  . "AND coalesce(rates_http_status, 0) = $http_status FROM registry.status()"),
		't',
		"$name: status() says the same");
}

is(one($all_rates), $before, 'the last good rates are served throughout');
is(one('min(checked_at) FROM registry.rates'), $checked, 'and their age counts from the last good answer');

is( one("concat_ws('|', rates_consecutive_failures, rates_failures, "
		  . "rates_failing_since > '$checked', rates_failing_since < now()) FROM registry.status()"),
	join('|', scalar @faults, scalar @faults, 't', 't'),
	'failures are counted');

# What it takes to be well again is one good answer.
$web->serve({ body => $rates =~ s/1\.10570/1.10580/r });
is(one("concat_ws('|', ok, changed, http_status, error) FROM registry.refresh('rates')"), 't|t|200',
	'recovery');
is(one("registry.rate('EUR', 'USD')"), '1.10580', 'the new rate is served');
is(one("concat_ws('|', rates_consecutive_failures, rates_failing_since, rates_changed) FROM registry.status()"), '0|2',
	'status() shows the recovery');
isnt(one('rates_last_error FROM registry.status()'), '', 'and still knows the last error');

# Whether the caller will see it: the generation says which one, the isolation level whether.
is( $node->safe_psql('postgres',
		"BEGIN; SELECT generation AS g, visible FROM registry.refresh('rates') \\gset\n"
		  . "SELECT :'visible', registry.generation() >= :g; COMMIT;"),
	't|t',
	'READ COMMITTED: the next statement sees it');
$web->serve({ body => $rates =~ s/1\.10570/1.10590/r });
is( $node->safe_psql('postgres',
		"BEGIN ISOLATION LEVEL REPEATABLE READ; SELECT registry.rate('EUR', 'USD') \\gset\n"
		  . "SELECT generation AS g, visible FROM registry.refresh('rates') \\gset\n"
		  . "SELECT :'visible', registry.generation() < :g; COMMIT;"),
	'f|t',
	'REPEATABLE READ: the transaction does not');

# The request says who asks, and takes nothing that would have to be unpacked.
my ($request) = $web->requests;
like($request, qr!^GET /latest HTTP/1\.1\n!, 'a plain GET');
like($request, qr!^User-Agent: pg_registry/1\.0$!m, 'with a user agent');
unlike($request, qr!^Accept-Encoding:!mi, 'and no compression');
is(scalar(grep { !m!^GET /latest ! } $web->requests), 0, 'nothing else was ever requested');

$node->stop;
done_testing();
