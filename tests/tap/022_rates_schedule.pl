# If this fails, a provider is asked too often (and blocks us) or not any more
# (and rates grow old), the log fills with one line for each attempt or stays
# silent, or a wild new rate is believed.

use strict;
use warnings;

use FindBin;
use lib "$FindBin::RealBin/lib";

use FaultServer;
use POSIX qw(strftime);
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;

sub rates { return qq({"amount":1.0,"base":"EUR","date":"2025-04-04","rates":{"USD":$_[0]}}) }

my $web = FaultServer->new(PostgreSQL::Test::Utils::tempdir);
my $node = PostgreSQL::Test::Cluster->new('main');
$node->init;
$node->append_conf(
	'postgresql.conf', qq(
log_statement = none
pg_registry.rates_url = '@{[ $web->url('/latest?app_id=verysecret') ]}'
pg_registry.armed_hosts = '*'
pg_registry.rates_interval = 1s
));
$web->serve({ body => rates('1.10') });
$node->start;
$node->safe_psql('postgres', 'CREATE EXTENSION pg_registry');

sub one { return $node->safe_psql('postgres', "SELECT $_[0]") }

sub wait_for
{
	my ($condition, $from, $test) = @_;
	ok($node->poll_query_until('postgres', "SELECT $condition FROM $from"), $test);
	return;
}
sub wait_for_status { return wait_for($_[0], 'registry.status()', $_[1]) }

sub set
{
	my (%settings) = @_;
	$node->append_conf('postgresql.conf', "$_ = '$settings{$_}'") for sort keys %settings;
	$node->reload;
	return;
}

# Number of lines in the server log that match.
sub logged { return scalar(() = slurp_file($node->logfile) =~ /$_[0]/g) }

# The interval passes and the new rate is there, without any action.
wait_for("rate = '1.10'", "registry.rates WHERE currency = 'USD'", 'the first fetch comes at once');
$web->serve({ body => rates('1.11') });
wait_for("rate = '1.11'", "registry.rates WHERE currency = 'USD'", 'the next after the interval');
is(one("count(*) FROM registry.rates WHERE now() - checked_at < '10 s'"), 2, 'checked_at follows');

# A failure is retried, and the log hears of it once.
$web->serve({ status => 503, reason => 'Sorry, verysecret' });
wait_for_status('rates_consecutive_failures >= 5', 'failures are retried by themselves');
is(logged(qr/WARNING:  exchange rates could not be refreshed 3 times in a row/), 1,
	'one WARNING at the third');
is(logged(qr/WARNING/), 1, 'and none but that');
is(logged(qr/the last error: HTTP 503/), 1, 'it says why');
is(one('scheduler_state FROM registry.status()'), 'waiting', 'status() shows that it backs off')
  or diag(one('registry.status()'));
$web->serve({ body => rates('1.12') });
wait_for('rate = 1.12', "registry.rates WHERE currency = 'USD'", 'recovery by itself');
is(logged(qr/LOG:  exchange rates are refreshed again, after \d+ failed attempts in \d+ s/), 1,
	'one LOG at recovery');
is(logged(qr/exchange rates/), 2, 'and nothing else');

# A source that comes and goes does not fill the log either.
for (1 .. 2)
{
	$web->serve({ status => 503, reason => 'Sorry, verysecret' });
	is(one("ok FROM registry.refresh('rates')"), 'f', 'it fails again') for 1 .. 3;
	$web->serve({ body => rates('1.12') });
	is(one("ok FROM registry.refresh('rates')"), 't', 'and works again');
}
is(logged(qr/exchange rates/), 2, 'of which the log says nothing more for now');

# What is secret in the URL is shown nowhere, not even if the provider repeats it.
is(one('rates_source FROM registry.status()'), $web->url('/latest?...'), 'the query is masked in status()');
is(one("source FROM registry.rates WHERE currency = 'USD'"), $web->url('/latest?...'), 'and in the view');
unlike(one('registry.status()'), qr/verysecret/, 'no secret in status()');
is(logged(qr/verysecret/), 0, 'nor in the log');
like(($web->requests)[0], qr/\?app_id=verysecret/, 'although it was sent');


# PostgreSQL logs a changed setting with its value; of this one we log what may be seen.
# The name is logged as it was typed.
set('pg_registry.log_min_level' => 'log', 'PG_Registry.Rates_URL' => $web->url('/latest?app_id=othersecret'));
wait_for_status("rates_last_success > '" . one('now()') . "'", 'the new URL is used');
like(($web->requests)[-1], qr/\?app_id=othersecret/, 'with its key');
is(logged(qr/othersecret/), 0, 'a reload does not log the key');
is(one("count(*) FROM registry.log_tail(1000) WHERE log_tail::text LIKE '%othersecret%'"), 0, 'nor keeps it');
is(logged(qr{LOG:  exchange rates are fetched from http://\S+/latest\?\.\.\.$}m), 1, 'but says where rates come from now');

# Pause and resume.
one("registry.pause('rates')");
wait_for_status("scheduler_state = 'paused' AND rates_paused", 'paused');
my $requests = $web->requests;
is(one("concat_ws('|', ok, error) FROM registry.refresh('rates')"), 'f|source "rates" is paused',
	'a refresh is refused');
is(scalar $web->requests, $requests, 'without a request');
my $last = one('rates_last_success FROM registry.status()');
one("registry.resume('rates')");
wait_for_status("rates_last_success > '$last' AND NOT rates_paused", 'resumed');

# A rate that jumps is not believed, and stays unbelieved without filling the log.
$web->serve({ body => rates('9.99') });
wait_for_status("rates_quarantine <> ''", 'a rate that jumps goes into quarantine');
my $quarantine = one('rates_quarantine FROM registry.status()');
like($quarantine, qr/USD.*1\.12.*9\.99/, 'status() has both numbers');
is(one("registry.rate('EUR', 'USD')"), '1.12', 'the old rate is served');
is(one("concat_ws('|', ok, error) FROM registry.refresh('rates')"), "f|$quarantine", 'refresh() says so');
is(one('scheduler_state FROM registry.status()'), 'idle', 'it is no failure of the source');
is(logged(qr/WARNING:  new exchange rates were not published/), 1, 'one WARNING');

# A lower limit is no acceptance.
set('pg_registry.rates_max_change' => 5);
my $before_lower = one('rates_attempts FROM registry.status()');
wait_for_status("rates_attempts > $before_lower AND scheduler_state = 'idle'", 'another look with a lower limit');
is(one("registry.rate('EUR', 'USD')"), '1.12', 'which the set does not pass either');
like(slurp_file($node->logfile), qr/DETAIL:  Source \S+: \Q$quarantine\E/, 'with both numbers');
set('pg_registry.rates_max_change' => 0);
wait_for_status("coalesce(rates_quarantine, '') = ''", 'a changed setting ends it');
is(one("registry.rate('EUR', 'USD')"), '9.99', 'and the rate is published');

# Settings that make no sense: the old ones stay, and so does the server.
for my $bad ([ rates_url => 'ftp://127.0.0.1/' ], [ rates_url => 'http://example.com/' ],
	[ rates_url => 'https://user:pass@example.com/' ], [ rates_url => 'not a url' ],
	[ rates_currencies => 'USD,eur' ], [ rates_currencies => 'USD;EUR' ],
	[ rates_interval => '0' ], [ rates_interval => 'soon' ], [ rates_format => 'csv' ])
{
	my ($name, $value) = @$bad;
	my $old = one("current_setting('pg_registry.$name')");
	my $conf = slurp_file($node->data_dir . '/postgresql.conf');
	my $logged = -s $node->logfile;
	set("pg_registry.$name" => $value);
	$node->wait_for_log(qr/pg_registry\.$name".*configuration file .* contains errors/s, $logged);
	is(one("current_setting('pg_registry.$name')"), $old, "$name = '$value' is refused at reload");
	truncate $node->data_dir . '/postgresql.conf', length $conf;
	$node->reload;
}
$web->serve({ body => rates('9.98') });
wait_for('rate = 9.98', "registry.rates WHERE currency = 'USD'", 'the refreshes go on');

# The provider says when to come back.  Far from every other delay: seconds until the next refresh.
sub next_in
{
	return one('round(extract(epoch FROM rates_next_refresh - rates_last_attempt)) FROM registry.status()');
}
my $soon = strftime('%a, %d %b %Y %H:%M:%S GMT', gmtime(time + 120));
my $soon_850 = strftime('%A, %d-%b-%y %H:%M:%S GMT', gmtime(time + 120));
my $soon_asctime = strftime('%a %b %e %H:%M:%S %Y', gmtime(time + 120));
for my $case ([ '120', 118, 140 ], [ $soon, 100, 140 ], [ $soon_850, 100, 140 ], [ $soon_asctime, 100, 140 ],
	[ '999999999', 3600, 3970 ], [ '99999999999999999999', 0, 5 ], [ '-5', 0, 5 ], [ '1.5', 0, 5 ],
		[ '', 0, 5 ],
	[ 'soon', 0, 5 ], [ 'Fri, 31 Dec 1999 23:59:59 GMT', 0, 5 ])
{
	my ($value, $least, $most) = @$case;
	$web->serve({ status => 429, reason => 'Too Many Requests', headers => ["Retry-After: $value"] });
	one("registry.refresh('rates')");
	cmp_ok(next_in(), '>=', $least, "Retry-After: '$value': not before $least s");
	cmp_ok(next_in(), '<=', $most, "Retry-After: '$value': not after $most s");
}
for my $case ([ ['Cache-Control: public, max-age=600'], 599, 661 ],
	[ [ 'Cache-Control: max-age=600', 'Age: 400' ], 199, 221 ],
	[ [ 'Cache-Control: max-age=600', 'Age: 700' ], 0, 5 ], [ ['Cache-Control: s-maxage=600'], 0, 5 ],
	[ ['Cache-Control: no-cache, max-age=600'], 0, 5 ], [ ['Cache-Control: max-age=99999999'], 86399, 95041 ])
{
	my ($headers, $least, $most) = @$case;
	$web->serve({ body => rates('9.97'), headers => $headers });
	one("registry.refresh('rates')");
	cmp_ok(next_in(), '>=', $least, "@$headers: not before $least s");
	cmp_ok(next_in(), '<=', $most, "@$headers: not after $most s");
}
# The interval can overrule it.
set('pg_registry.rates_honor_cache' => 'off');
$web->serve({ body => rates('9.96'), headers => ['Cache-Control: max-age=86400'] });
wait_for('rate = 9.96', "registry.rates WHERE currency = 'USD'", 'rates_honor_cache = off');

# Nothing configured.
set('pg_registry.rates_url' => '');
wait_for_status("scheduler_state = 'not configured' AND rates_source IS NULL",
	'without a URL nothing is fetched');
is(one("concat_ws('|', ok, error) FROM registry.refresh('rates')"), 'f|pg_registry.rates_url is not set',
	'and refresh() says so');

$node->stop;
done_testing();
