# If this fails, an answer that should not be believed becomes an exchange
# rate, or a good one of a supported format does not, or its digits change on
# the way.

use strict;
use warnings;

use FindBin;
use lib "$FindBin::RealBin/lib";

use FaultServer;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;

sub frankfurter { return qq({"amount":1.0,"base":"EUR","date":"2025-04-04","rates":{$_[0]}}) }

# Rows of date, base, quote and rate.
sub v2
{
	my @rows = map { qq({"date":"$_->[0]","base":"$_->[1]","quote":"$_->[2]","rate":$_->[3]}) } @_;
	return '[' . join(',', @rows) . ']';
}

sub ecb
{
	my ($cubes, $before) = @_;
	return ($before // qq(<?xml version="1.0" encoding="UTF-8"?>\n))
	  . '<gesmes:Envelope xmlns:gesmes="http://www.gesmes.org/xml/2002-08-01" '
	  . 'xmlns="http://www.ecb.int/vocabulary/2002-08-01/eurofxref"><gesmes:subject>Reference rates</gesmes:subject>'
	  . "<Cube><Cube time='2025-04-04'>$cubes</Cube></Cube></gesmes:Envelope>";
}

# Name, body, rates as served afterwards (without the base).
my @good = (
	[ 'frankfurter', frankfurter('"GBP":0.84985,"IDR":18751,"USD":1.10570'),
		'GBP 0.84985, IDR 18751, USD 1.10570' ],
	[ 'an exponent', frankfurter('"BTC":1.0E-4,"USD":1.1'), 'BTC 0.00010, USD 1.1' ],
	[ 'white space and a byte order mark', "\xEF\xBB\xBF \n" . frankfurter(' "USD" : 1.11 '), 'USD 1.11' ],
	[ 'the base among the rates', frankfurter('"EUR":1.0,"USD":1.12'), 'USD 1.12' ],
	[ 'names that are no currency', frankfurter('"USD":1.13,"usd":0,"gold":-1,"X":null'), 'USD 1.13' ],
	[ 'unknown members', '{"note":{"a":[1]},' . substr(frankfurter('"USD":1.14'), 1), 'USD 1.14' ],
	[ 'a name with an escape', '{"a\/b":1,' . substr(frankfurter('"USD":1.145'), 1), 'USD 1.145' ],
	[ 'no amount', '{"base":"EUR","date":"2025-04-04","rates":{"USD":1.15}}', 'USD 1.15' ],
	[   'frankfurter_v2: dates differ, identity row',
		v2([ '2025-04-03', 'EUR', 'GBP', '0.850' ], [ '2025-04-04', 'EUR', 'USD', '1.16' ],
			[ '2025-04-04', 'EUR', 'EUR', 1 ]),
		'GBP 0.850, USD 1.16' ],
	[ 'ecb_xml, single quotes', ecb("<Cube currency='USD' rate='1.17'/><Cube currency='GBP' rate='0.86830'/>"), 'GBP 0.86830, USD 1.17' ],
	[ 'ecb_xml, double quotes', ecb('<Cube currency="USD" rate="1.1800" />'), 'USD 1.1800' ],
	[ 'ecb_xml, byte order mark', "\xEF\xBB\xBF" . ecb('<Cube rate="1.19" currency="USD"></Cube>'),
		'USD 1.19' ],
	[ 'ecb_xml, another encoding declared',
		ecb('<Cube currency="USD" rate="1.20"/>', qq(<?xml version='1.0' encoding='ISO-8859-1'?>)),
		'USD 1.20' ],
);

# Name, body, why it is refused.
my @bad = (
	[ 'blanks', " \r\n\t", 'it is empty' ],
	[ 'plain text', 'Service temporarily unavailable',
		'it is neither JSON nor XML: "Service temporarily unavailable"' ],
	[ 'a NUL', frankfurter("\"USD\":1.1\0"), 'it is not text in UTF-8' ],
	[ 'LATIN1', frankfurter("\"USD\":1.1,\"\xE9\":1"), 'it is not text in UTF-8' ],
	[ 'UTF-16', "\xFF\xFE\x7B\0\x7D\0", 'it is not text in UTF-8' ],
	[ 'a web page', "<!DOCTYPE html>\n<html><body>Log in</body></html>", 'it is a web page' ],
	[ 'XHTML', '<html><body>Log in</body></html>', 'it looks like a web page, not like ecb_xml' ],
	[ 'no object', '42', 'it is neither JSON nor XML: "42"' ],
	[ 'an empty object', '{}', 'it is JSON of a shape that no supported format has' ],
	[ 'an empty array', '[]', 'there are no rates' ],
	[ 'an array of numbers', '[1.1, 1.2]', 'it is a JSON array, but not of objects' ],
	[ 'deep nesting', '[' x 100000, 'stack depth limit exceeded' ],
	[ 'two values', frankfurter('"USD":1.1') . '{}', qr/^invalid input syntax for type json/ ],

	[ 'no rates', frankfurter(''), 'there are no rates' ],
	[ 'rates of no currency', frankfurter('"usd":1.1'), 'there are no rates' ],
	[ 'zero', frankfurter('"GBP":0.8,"USD":0.000'),
		'the rate of USD is 0.000, which is not a positive number' ],
	[ 'negative', frankfurter('"USD":-1.1'), 'the rate of USD is -1.1, which is not a positive number' ],
	[ 'NaN as a word', frankfurter('"USD":NaN'),
		'invalid input syntax for type json: Token "NaN" is invalid.' ],
	[ 'NaN as a string', frankfurter('"USD":"NaN"'),
		'the rate of USD is "NaN", which is not a positive number' ],
	[ 'a string', frankfurter('"USD":"1.1"'), 'the rate of USD is "1.1", which is not a positive number' ],
	[ 'null', frankfurter('"USD":null'), 'the rate of USD is null, which is not a positive number' ],
	[ 'true', frankfurter('"USD":true'), 'the rate of USD is true, which is not a positive number' ],
	[ 'an object', frankfurter('"USD":{"mid":1.1}'),
		'the rate of USD is no single value, which is not a positive number' ],
	[ 'a currency twice', frankfurter('"USD":1.1,"GBP":0.8,"USD":1.2'), 'USD occurs more than once' ],
	[ 'a currency twice around an object', frankfurter('"USD":1.1,"x":{},"USD":1.2'), 'USD occurs more than once' ],
	[ 'a currency twice, once with an escape', frankfurter('"USD":1.1,"\\u0055SD":1.2'),
		'it holds a member name with a \u escape' ],
	[ 'deep nesting', '{"a":' x 100 . '1' . '}' x 100, 'it is nested too deeply' ],
	[ 'a day far ahead', '{"base":"EUR","date":"9999-12-31","rates":{"USD":1.1}}',
		'the date "9999-12-31" lies in the future' ],
	[ 'a huge number', frankfurter('"USD":1e131071'),
		'it holds a number of more than 64 digits, or with an exponent beyond 64' ],
	[ 'a long number', frankfurter('"USD":1.' . '3' x 100000),
		'it holds a number of more than 64 digits, or with an exponent beyond 64' ],
	[ 'a base that is not 1', frankfurter('"EUR":2,"USD":1.1'),
		'the rate of the base EUR is 2 instead of 1' ],
	[ 'a lower-case base', '{"base":"eur","date":"2025-04-04","rates":{"USD":1.1}}',
		'the base "eur" is not a currency code' ],
	[ 'an amount', '{"amount":100,"base":"EUR","date":"2025-04-04","rates":{"USD":110}}',
		'the amount is 100 instead of 1' ],
	[ 'no date', '{"amount":1.0,"base":"EUR","rates":{"USD":1.1}}', 'there is no date' ],
	[ 'no such day', '{"base":"EUR","date":"2025-02-29","rates":{"USD":1.1}}',
		'the date "2025-02-29" is not of the form YYYY-MM-DD' ],
	[ 'another date format', '{"base":"EUR","date":"04/04/2025","rates":{"USD":1.1}}',
		'the date "04/04/2025" is not of the form YYYY-MM-DD' ],
	[ 'an error', '{"message":"bad currency pair"}', 'the provider reports an error: "bad currency pair"' ],
	[ 'an error with control characters', '{"error":"a\u001bb\nc"}',
		'the provider reports an error: "a b c"' ],
	[ 'an error beside rates', '{"success":false,' . substr(frankfurter('"USD":1.1'), 1),
		'the provider reports an error: no reason' ],

	[ 'v2: two bases', v2([ '2025-04-04', 'EUR', 'USD', 1.1 ], [ '2025-04-04', 'GBP', 'CHF', 1.1 ]),
		'the rates have different bases: EUR and GBP' ],
	[ 'v2: a currency twice', v2([ '2025-04-04', 'EUR', 'USD', 1.1 ], [ '2025-04-04', 'EUR', 'USD', 1.2 ]),
		'USD occurs more than once' ],
	[ 'v2: no rate', '[{"date":"2025-04-04","base":"EUR","quote":"USD"}]', 'the row of USD has no rate' ],
	[ 'v2: no date', '[{"base":"EUR","quote":"USD","rate":1.1}]', 'the row of USD has no date' ],

	[ 'XML cut off', substr(ecb('<Cube currency="USD" rate="1.1"/>'), 0, -10),
		qr/^it is not well-formed XML: "line \d+: / ],
	[ 'XML of another kind', '<rss><channel/></rss>', 'it looks like "rss", not like ecb_xml' ],
	[ 'XML without a date', '<Envelope/>', 'there is no date: it does not look like ecb_xml' ],
	[ 'XML with a DOCTYPE', ecb('<Cube currency="USD" rate="1.1"/>',
		'<!DOCTYPE e [<!ENTITY x SYSTEM "file:///etc/passwd">]>'),
		'it has a DOCTYPE or entities, which rates never have' ],
	[ 'XML with an entity', ecb('<Cube currency="USD" rate="&x;"/>'),
		qr/^it is not well-formed XML: .*Entity 'x' not defined/ ],
	[ 'deep XML', '<Envelope>' . '<Cube>' x 1000, 'its elements are nested more than 8 deep' ],
	[ 'XML: zero', ecb('<Cube currency="USD" rate="0.0"/>'),
		'the rate of USD is 0.0, which is not a positive number' ],
	[ 'XML: negative', ecb('<Cube currency="USD" rate="-1.1"/>'),
		'the rate of USD is "-1.1", which is not a positive number' ],
	[ 'XML: NaN', ecb('<Cube currency="USD" rate="NaN"/>'),
		'the rate of USD is "NaN", which is not a positive number' ],
	[ 'XML: N/A', ecb('<Cube currency="USD" rate="N/A"/>'),
		'the rate of USD is "N/A", which is not a positive number' ],
	[ 'XML: no rate', ecb('<Cube currency="USD"/>'),
		'the rate of USD is not given, which is not a positive number' ],
	[ 'XML: no currency', ecb(''), 'there are no rates' ],
	[ 'XML: history', ecb("<Cube currency='USD' rate='1.1'/></Cube><Cube time='2025-04-03'>"),
		"it holds several days: the ECB's history is not supported yet" ],
);

# Samples of formats that are known, but not read yet: file, what it looks like.
my @unsupported = (
	[ '{"disclaimer":"d","license":"l","timestamp":1414008044,"base":"USD","rates":{"AED":3.67304}}',
		'open_exchange_rates' ],
	[ '{"success":true,"timestamp":1778354527,"source":"USD","quotes":{"USDEUR":0.84804}}',
		'exchangerate_host' ],
	[ '{"result":"success","time_next_update_unix":1773879151,"base_code":"USD","rates":{"AUD":1.417826}}',
		'open_er_api' ],
	[ '{"result":"success","base_code":"USD","conversion_rates":{"AUD":1.417826}}', 'exchangerate-api v6' ],
	[ '{"success":true,"timestamp":1,"base":"EUR","date":"2025-04-04","rates":{"USD":1.1}}', 'fixer' ],
	[ '{"AUD":"Australian Dollar","PLN":"Polish Z\u0142oty"}', 'the currency list of frankfurter' ],
	[ '{"amount":1.0,"base":"EUR","start_date":"2026-03-16","end_date":"2026-03-18","rates":{"2026-03-16":{"GBP":0.86408}}}', 'a time series of frankfurter' ],
	[ '{"date":"2025-04-04","base":"EUR","quote":"USD","rate":1.1}', 'a single rate of frankfurter_v2' ],
	[ "date,base,quote,rate\n2026-03-18,EUR,AUD,1.6305\n", 'the CSV form of frankfurter_v2' ],
);

my $web = FaultServer->new(PostgreSQL::Test::Utils::tempdir);
my $node = PostgreSQL::Test::Cluster->new('main');
$node->init;
$node->append_conf(
	'postgresql.conf', qq(
pg_registry.rates_url = '@{[ $web->url ]}'
pg_registry.rates_max_change = 0
));
$node->start;
$node->safe_psql('postgres', 'CREATE EXTENSION pg_registry');

sub one { return $node->safe_psql('postgres', "SELECT $_[0]") }
sub fetch { return one("concat_ws('|', ok, error) FROM registry.refresh('rates')") }

sub served
{
	return one("string_agg(currency || ' ' || rate, ', ' ORDER BY currency) FROM registry.rates "
		  . "WHERE currency <> base AND stale_reason IS DISTINCT FROM 'missing'");
}

# A change takes effect when the scheduler has read the file as well; it then fetches by itself.
sub set_and_fetch
{
	my (%settings) = @_;
	my $attempts = one('rates_attempts FROM registry.status()');
	$node->append_conf('postgresql.conf', "$_ = '$settings{$_}'") for keys %settings;
	$node->reload;
	$node->poll_query_until('postgres',
		"SELECT rates_attempts > $attempts AND scheduler_state <> 'fetching' FROM registry.status()")
	  or die 'no fetch after a change of the settings';
	return;
}

for my $case (@good)
{
	my ($name, $body, $expected) = @$case;
	$web->serve({ body => $body });
	is(fetch(), 't', "$name: accepted");
	is(served(), $expected, "$name: the digits that were sent");
}
is(one("string_agg(DISTINCT base || value_date, ',') FROM registry.rates WHERE currency = 'USD'"),
	'EUR2025-04-04', 'base and date of the XML');

my $before = served();
for my $case (@bad, map { [ "looks like $_->[1]", $_->[0],
	"it looks like $_->[1], which is not supported yet" ] } @unsupported)
{
	my ($name, $body, $expected) = @$case;
	my $text = ref $expected ? $expected : qr/^\Q$expected\E$/;
	$web->serve({ body => $body });
	my ($ok, $error) = split /\|/, fetch(), 2;
	is($ok, 'f', "$name: refused");
	my $found = $error =~ s/^the answer cannot be used: //r;
	like($found, $text, "$name: and why");
}
is(served(), $before, 'not one of them changed a rate');

# rates_format names one format; the others are refused by what they look like.
my %body = (
	frankfurter => frankfurter('"USD":1.21'),
	frankfurter_v2 => v2([ '2025-04-04', 'EUR', 'USD', '1.22' ]),
	ecb_xml => ecb('<Cube currency="USD" rate="1.23"/>'));
my %looks_like = (
	'frankfurter frankfurter_v2' => 'it looks like frankfurter_v2',
	'frankfurter ecb_xml' => 'it looks like XML',
	'frankfurter_v2 frankfurter' => 'it looks like frankfurter',
	'frankfurter_v2 ecb_xml' => 'it looks like XML',
	'ecb_xml frankfurter' => 'it is not XML',
	'ecb_xml frankfurter_v2' => 'it is not XML');
for my $format (sort keys %body)
{
	set_and_fetch('pg_registry.rates_format' => $format);
	for my $sent (sort keys %body)
	{
		$web->serve({ body => $body{$sent} });
		is( fetch(),
			$sent eq $format ? 't' : "f|the answer cannot be used: $looks_like{\"$format $sent\"}",
			"rates_format $format, $sent sent");
	}
}

# One bad exotic currency must not freeze the rest, and a kept one that is not sent is no error.
$web->serve({ body => frankfurter('"USD":1.24,"GBP":0.85,"VEF":0,"XAU":"n/a"') });
set_and_fetch('pg_registry.rates_format' => 'auto', 'pg_registry.rates_currencies' => 'USD, CHF');
is(fetch(), 't', 'bad rates of currencies that are not kept do no harm');
is(one("registry.rate('EUR', 'USD')"), '1.24', 'the kept one is served');
$web->serve({ body => frankfurter('"GBP":0.85') });
is(fetch(), 'f|the answer cannot be used: there is no rate of any currency of pg_registry.rates_currencies',
	'an answer without any kept currency is refused');

# Rates and reasons are readable in databases of other encodings.
$web->serve({ body => '{"message":"caf\u00e9 \u0142"}' });
fetch();
for my $encoding (qw(latin1 sql_ascii))
{
	$node->safe_psql('postgres', "CREATE DATABASE $encoding ENCODING '$encoding' LOCALE 'C' TEMPLATE template0");
	$node->safe_psql($encoding, 'CREATE EXTENSION pg_registry');
	is($node->safe_psql($encoding, "SELECT registry.rate('EUR', 'USD')"), '1.24', "$encoding: rates");
	like($node->safe_psql($encoding, 'SELECT rates_last_error FROM registry.status()'),
		qr/"caf\?\? \?\?"$/, "$encoding: last error");
	like($node->safe_psql($encoding, "SELECT error FROM registry.refresh('rates')"),
		qr/"caf\?\? \?\?"$/, "$encoding: refresh");
}

$node->stop;
done_testing();
