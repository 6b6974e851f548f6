# If this fails, a crash, a dump or a bad answer takes away the history of rates, or brings back a set that somebody
# has withdrawn; or each answer of the provider, changed or not, costs every database something.

use strict;
use warnings;

use FindBin;
use lib "$FindBin::RealBin/lib";

use FaultServer;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use RawProtocol;
use Test::More;

my $node = PostgreSQL::Test::Cluster->new('main');
$node->init;
$node->append_conf('postgresql.conf', "restart_after_crash = on\nautovacuum = off\nwal_level = minimal\nmax_wal_senders = 0\npg_registry.rates_max_value_age = 0");
$node->start;
$node->safe_psql('postgres', 'CREATE EXTENSION pg_registry');

sub sql { return $node->safe_psql('postgres', "SELECT $_[0]") }
sub wait_for { return $node->poll_query_until($_[1] // 'postgres', "SELECT $_[0]") }
my $quote = "(q).rate || ' ' || (q).value_date || ' ' || (q).source || ' ' || coalesce((q).rate_set, 0) FROM registry.quote('EUR', 'USD') q";
my $resident = "registry.entry_count('rates') > 0";

# ---------------------------------------------------------------------------
# kill -9 right after the commit; restart without any source
# ---------------------------------------------------------------------------

my $id;
for my $round (1 .. 3)
{
	my $session = RawProtocol->new($node, 'postgres');
	my $other = RawProtocol->new($node, 'postgres');
	$id = $session->one("SELECT registry.set_rates('EUR', '{\"USD\": 1.$round}', '2025-01-0$round')");
	$other->send('SELECT pg_sleep(180)');
	kill 'KILL', $session->{pid};
	$other->finish;
	$_->close for $session, $other;
	$node->poll_query_until('postgres', 'SELECT true') or die 'does not come back';
	is(sql($quote), "1.$round 2025-01-0$round set_rates $id", "kill -9 after the commit: the set is there (round $round)");
}
is(sql("string_agg(status || value_date, ' ' ORDER BY id) FROM registry.rate_sets"), 'published2025-01-01 published2025-01-02 published2025-01-03',
	'and those before it');
ok(wait_for($resident), 'it comes back into memory');
is(sql($quote), "1.3 2025-01-03 set_rates $id", 'as it was');
is(sql("registry.rate('EUR', 'USD', on_date => '2025-01-02')"), '1.2', 'with its history');

{
	my $session = RawProtocol->new($node, 'postgres');
	$session->query("BEGIN; SELECT registry.set_rates('EUR', '{\"USD\": 9}', '2025-01-09')");
	$node->stop('immediate');
	$session->close;
	$node->start;
	is(sql('max(id) FROM registry.rate_sets'), $id, 'what was not committed is not there');
	is(sql($quote), "1.3 2025-01-03 set_rates $id", 'nor read');
}

# ---------------------------------------------------------------------------
# Fetched sets: into every database, once
# ---------------------------------------------------------------------------

my $web = FaultServer->new(PostgreSQL::Test::Utils::tempdir);
sub serve
{
	my ($usd, $date) = @_;
	$web->serve({ body => qq({"amount":1.0,"base":"EUR","date":"$date","rates":{"GBP":0.84985,"USD":$usd}}) });
	return;
}
sub fetch { return $node->safe_psql('postgres', "SELECT ok || ' ' || changed FROM registry.refresh('rates')") }
my $stored = 'count(*) FROM registry.rate_sets WHERE source LIKE \'http%\'';

$node->safe_psql('postgres', 'CREATE DATABASE other');
$node->safe_psql('other', 'CREATE EXTENSION pg_registry');
serve('1.10', '2025-02-03');
$node->append_conf('postgresql.conf', "pg_registry.rates_interval = '1h'\npg_registry.rates_url = '@{[ $web->url ]}'");
$node->reload;
ok(wait_for('rates_successes > 0 FROM registry.status()'), 'fetched');
ok(wait_for("(SELECT $stored) = 1", $_), "stored in $_") for 'postgres', 'other';
like(sql($quote), qr{^1\.10 2025-02-03 http://\S+ [1-9]\d*$}, 'quote() names its row');
is($node->safe_psql('other', "SELECT (registry.quote('EUR', 'USD')).rate_set"), 1, 'which each database counts for itself');
is($node->safe_psql('other', "SELECT string_agg(DISTINCT rate_set::text, ' ') FROM registry.rates"), 1, 'registry.rates too');

# What does not differ is not stored, and nobody is started for it.
is(fetch(), 'true false', 'an equal answer');
my $before = sql('pg_current_wal_insert_lsn()');
is(fetch(), 'true false', 'an equal answer') for 1 .. 3;
my $after = sql('pg_current_wal_insert_lsn()');
is($after, $before, 'writes nothing, not a byte') or diag(`pg_waldump -p @{[ $node->data_dir ]} -s $before -e $after 2>&1`);
serve('1.20', '2025-02-04');
is(fetch(), 'true true', 'another answer');
ok(wait_for("(SELECT $stored) = 2", $_), "is stored in $_") for 'postgres', 'other';
is($node->safe_psql('other', "SELECT registry.rate('EUR', 'USD', on_date => '2025-02-03') || ' ' || registry.rate('EUR', 'USD', on_date => '2025-02-04')"),
	'1.10 1.20', 'and both can be read by date');

# ---------------------------------------------------------------------------
# Withdrawn, and the provider still says so
# ---------------------------------------------------------------------------

$node->safe_psql('postgres', "SELECT registry.withdraw_rates((registry.quote('EUR', 'USD')).rate_set, 'wrong')");
is(sql("registry.rate('EUR', 'USD')"), '1.10', 'a fetched set that is withdrawn: the one before');
is(fetch(), 'true false', 'the same answer again');
is(sql("registry.rate('EUR', 'USD')"), '1.10', 'does not bring it back');
is($node->safe_psql('other', "SELECT registry.rate('EUR', 'USD')"), '1.20', 'the other database has not withdrawn it');
$node->safe_psql('postgres', "SELECT registry.set_rates('EUR', '{\"USD\": 1.12}', '2025-02-04')");
is(fetch(), 'true false', 'nor after a set by hand');
is(sql("registry.rate('EUR', 'USD')"), '1.12', 'which stays');
serve('1.15', '2025-02-04');
is(fetch(), 'true true', 'a corrected answer');
is(sql("registry.rate('EUR', 'USD')"), '1.15', 'is read');
ok(wait_for("registry.rate('EUR', 'USD', on_date => '2025-02-04') = 1.15"), 'and stored');

# ---------------------------------------------------------------------------
# Quarantine
# ---------------------------------------------------------------------------

my $held = "FROM registry.rate_sets WHERE status = 'quarantined'";
serve('9.99', '2025-02-05');
is(fetch(), 'false false', 'a set that differs too much');
is(sql("registry.rate('EUR', 'USD')"), '1.15', 'is not read');
ok(wait_for("count(*) = 1 $held", $_), "but kept in $_") for 'postgres', 'other';
like(sql("reason $held"), qr/the rate of USD changed from 1\.15 to 9\.99, by 768\.7 %/, 'with both numbers');
is(fetch(), 'false false', 'the same again');
is(sql("registry.rate('EUR', 'USD', on_date => '2025-02-05')"), '1.15', 'nor is it read by its date');
$node->safe_psql('postgres', "SELECT registry.accept_rates(id) $held");
is(sql("registry.rate('EUR', 'USD')"), '9.99', 'accepted');
is(sql("registry.rate('EUR', 'USD', on_date => '2025-02-05')"), '9.99', 'for its date, too');
is(fetch(), 'false false', 'for the others it is still held back');
is(sql("count(*) $held"), 0, 'here nothing is in quarantine');
is($node->safe_psql('other', "SELECT registry.rate('EUR', 'USD') || ' ' || (SELECT count(*) $held)"), '1.15 1', 'in the other database it is as it was');
serve('9.5', '2025-02-06');
is(fetch(), 'false false', 'the next set');
ok(wait_for("registry.rate('EUR', 'USD') = 9.5"), 'is near to what was accepted, and read here');
ok(wait_for("registry.rate('EUR', 'USD', on_date => '2025-02-06') = 9.5"), 'for its date, too');
ok(wait_for("count(*) = 2 $held", 'other'), 'and held back in the other database');
is(fetch(), 'false false', 'once more');
is($node->safe_psql('other', "SELECT registry.rate('EUR', 'USD') || ' ' || (SELECT count(*) $held)"), '1.15 2', 'is not held back once more');

# ---------------------------------------------------------------------------
# The source is down at the start
# ---------------------------------------------------------------------------

$web->serve({ status => 503 });
$node->stop('immediate');
$node->start;
like(sql($quote), qr{^9\.5 2025-02-06 http://\S+ \d+$}, 'a source that is down: the last rates of the tables');
ok(wait_for($resident), 'in memory, soon');
is($node->safe_psql('other', "SELECT registry.rate('EUR', 'USD')"), '1.15', 'and in the other database its own');
is(sql('age > \'0\' AND checked_at = fetched_at FROM registry.rates LIMIT 1'), 't', 'their age counts from when they were fetched');

# ---------------------------------------------------------------------------
# pg_dump
# ---------------------------------------------------------------------------

my $rows = "md5(string_agg(s::text || v::text, '|' ORDER BY id, currency)) FROM registry.rate_sets s JOIN _registry.rate_set_values v ON v.rate_set = s.id";
my $file = $node->basedir . '/dump';
$node->command_ok([ 'pg_dump', '-Fc', '-f', $file, $node->connstr('postgres') ], 'pg_dump');
$node->safe_psql('postgres', 'CREATE DATABASE copy');
$node->command_ok([ 'pg_restore', '-d', $node->connstr('copy'), $file ], 'pg_restore');
is($node->safe_psql('copy', "SELECT $rows"), sql($rows), 'every set, with its id');
is($node->safe_psql('copy', "SELECT registry.rate('EUR', 'USD', on_date => '2025-01-02')"), '1.2', 'and its rates');
my $last = sql('max(id) FROM registry.rate_sets');
cmp_ok($node->safe_psql('copy', "SELECT registry.set_rates('EUR', '{\"USD\": 5}', '2025-03-01')"), '>', $last, 'the next one is the newest there');

$node->stop;
done_testing();
