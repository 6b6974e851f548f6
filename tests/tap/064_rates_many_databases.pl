# If this fails, an answer of the provider that says nothing new costs each of a server's databases something, or the
# rates that one database has set by hand, accepted or withdrawn are read in another one.
#
# DATABASES=n for more than fifty databases.

use strict;
use warnings;

use FindBin;
use lib "$FindBin::RealBin/lib";

use FaultServer;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;

my $databases = $ENV{PGR_RATES_DATABASES} || 50;

my $web = FaultServer->new(PostgreSQL::Test::Utils::tempdir);
my $node = PostgreSQL::Test::Cluster->new('main');
$node->init;
# The log tells of each worker that is started.  Nothing but us writes WAL.
$node->append_conf('postgresql.conf', "autovacuum = off\nwal_level = minimal\nmax_wal_senders = 0\nmax_wal_size = '4GB'\ncheckpoint_timeout = '1h'\n"
	  . "log_statement = none\nlog_min_messages = debug1\npg_registry.rates_max_value_age = 0");
$node->start;
$node->safe_psql('postgres', 'CREATE DATABASE small');
$node->safe_psql('small', 'CREATE EXTENSION pg_registry');
# else the first look at a page of a catalog prunes it, which is WAL
$node->safe_psql('small', 'VACUUM');
$node->safe_psql('postgres', join(";\n", map { "CREATE DATABASE d$_ TEMPLATE small" } 1 .. $databases));

my @some = map { "d$_" } 1, int($databases / 2), $databases;

sub in { my ($database, $what) = @_; return $node->safe_psql($database, "SELECT $what") }
sub in_some { my ($what) = @_; return join(' ', map { in($_, $what) } @some) }
sub wait_in { my ($database, $what) = @_; return $node->poll_query_until($database, "SELECT $what") }
sub fetch { return in('small', "concat_ws('|', ok, http_status, changed) FROM registry.refresh('rates')") }

# ---------------------------------------------------------------------------
# One set for all of them
# ---------------------------------------------------------------------------

my $body = '{"amount":1.0,"base":"EUR","date":"2025-02-03","rates":{"GBP":0.84985,"USD":1.10}}';
$web->serve({ body => $body, headers => ['ETag: "a"'] });
$node->append_conf('postgresql.conf', "pg_registry.rates_interval = '1h'\npg_registry.rates_url = '@{[ $web->url ]}'");
$node->reload;
wait_in('small', 'rates_successes > 0 FROM registry.status()') or die;
is(in_some("registry.rate('EUR', 'USD')"), '1.10 1.10 1.10', 'one request');
is(scalar(() = $web->requests), 1, 'serves them all');
wait_in("d$_", 'count(*) = 1 FROM registry.rate_sets') or die for 1 .. $databases;
ok(1, "and is stored in each of $databases databases");

# Nobody reads a rate there: that would ask for it.
$node->safe_psql('postgres', "CREATE DATABASE $_") for 'late', 'later';
$node->safe_psql($_, 'CREATE EXTENSION pg_registry') for 'late', 'later';
$node->safe_psql('later', "SELECT registry.create_registry('first', 'text')");
ok(wait_in($_, 'count(*) = 1 FROM registry.rate_sets'), "it reaches the extension that came after it, too ($_)") for 'late', 'later';
$node->safe_psql('postgres', "DROP DATABASE $_") for 'late', 'later';

# The rounds of loads are over when for some seconds none begins: from then on one would as soon as it is asked for.
my $workers = "FROM pg_stat_activity WHERE backend_type LIKE 'pg_registry%'";
my $start;
do
{
	wait_in('small', "count(*) = 0 $workers") or die;
	$start = -s $node->logfile;
	my $over = in('small', 'clock_timestamp()');
	wait_in('small', "clock_timestamp() - '$over' > '3 s'") or die;
} while (slurp_file($node->logfile, $start) =~ /starting background worker process/);

my @answers = (
	[ 'equal after parsing', 200, { body => $body, headers => ['ETag: "b"'] } ],
	[ 'not modified', 304, { status => 304, headers => ['ETag: "b"'] } ]);
for my $answer (@answers)
{
	my ($what, $status, $response) = @$answer;
	my $generation = in('small', 'registry.generation()');
	my $checked = in('small', 'checked_at FROM registry.rates LIMIT 1');
	my $wal = in('small', 'pg_current_wal_insert_lsn()');

	$web->serve($response);
	is(fetch(), "t|$status|f", "$what") for 1 .. 3;
	is(in_some("checked_at > '$checked' FROM registry.rates LIMIT 1"), 't t t', 'each database has younger rates');
	my $end = in('small', 'pg_current_wal_insert_lsn()');
	is($end, $wal, 'without a byte of WAL') or diag(`pg_waldump -p @{[ $node->data_dir ]} -s $wal -e $end 2>&1`);
	is(in('small', 'registry.generation()'), $generation, 'without a generation');
}
unlike(slurp_file($node->logfile, $start), qr/starting background worker process/, 'and without a process');

# ---------------------------------------------------------------------------
# One time for the whole statement, its parallel workers included (R-2)
# ---------------------------------------------------------------------------

$node->safe_psql('d1', 'CREATE TABLE many AS SELECT g FROM generate_series(1, 200000) g');
my $parallel = "SET min_parallel_table_scan_size = 0; SET parallel_setup_cost = 0; SET parallel_tuple_cost = 0; SET max_parallel_workers_per_gather = 2;\n"
  . 'SET parallel_leader_participation = off';
like($node->safe_psql('d1', "$parallel; EXPLAIN SELECT count(registry.rate('EUR', 'USD', max_age => '1 h')) FROM many"), qr/Parallel/, 'a parallel plan');

# A worker that pinned anew would find rates that were just checked; its leader, those of before.
my $session = $node->background_psql('d1');
$session->query_safe("$parallel; BEGIN ISOLATION LEVEL REPEATABLE READ");
my $seen = $session->query_safe('SELECT checked_at FROM registry.rates LIMIT 1');
is(fetch(), 't|304|f', 'an answer during a transaction');
my $now = in('d1', 'checked_at FROM registry.rates LIMIT 1');
isnt($now, $seen, 'others see it');
is($session->query_safe('SELECT checked_at FROM registry.rates LIMIT 1'), $seen, 'the transaction does not');
# the age, as of the pin, that lies between the two
my $between = $session->query_safe("SELECT age - '1 us'::interval FROM registry.rates LIMIT 1");
is( $session->query_safe("SELECT count(registry.rate('EUR', 'USD', max_age => '$between', missing_ok => true)) FROM many"),
	0,
	'nor do its parallel workers');
is($session->query_safe("SELECT count(registry.rate('EUR', 'USD', max_age => '$between'::interval + '1 us', missing_ok => true)) FROM many"),
	200000, 'to the microsecond');
$session->quit;

# ---------------------------------------------------------------------------
# Rates of one database
# ---------------------------------------------------------------------------

my $rate = "registry.rate('EUR', 'USD')";
sub rates { return join(' ', map { in($_, $rate) } qw(d1 d2 d3)) }
sub next_set
{
	my ($usd, $date) = @_;
	$web->serve({ body => qq({"amount":1.0,"base":"EUR","date":"$date","rates":{"GBP":0.84985,"USD":$usd}}) });
	return fetch();
}

$node->safe_psql('d1', "SELECT registry.set_rates('EUR', '{\"USD\": 1.11}', '2025-02-03')");
$node->safe_psql('d2', "SELECT registry.set_rates('EUR', '{\"USD\": 1.12}', '2025-02-03')");
is(rates(), '1.11 1.12 1.10', 'each database has what it has set');
is(in('d1', "registry.rate_float8('EUR', 'USD') || ' ' || registry.get_numeric('rates', 'USD') || ' ' || (registry.quote('EUR', 'USD')).source"),
	'1.11 1.11 set_rates', 'in every function');
is(in('d1', "string_agg(key || ' ' || value, ' ' ORDER BY key) FROM registry.entries('rates')"), 'EUR 1 GBP 0.84985 USD 1.11',
	'with what the set lacks');
is(in('d1', "string_agg(currency || stale, ' ' ORDER BY currency) FROM registry.rates"), 'EURfalse GBPtrue USDfalse', 'as stale');
is(in('d1', "count(*) FROM registry.registries WHERE name = 'rates'"), 1, 'one registry of that name');

# A transaction's own, in what order the commands are.
my $mine = $node->background_psql('d3');
$mine->query_safe('BEGIN');
is($mine->query_safe($_->[0]), $_->[1], $_->[2])
  for ([ "SELECT $rate", '1.10', 'before' ], [ "SELECT registry.set_rates('EUR', '{\"USD\": 1.2}') > 0", 't', 'a set' ],
	[ "SELECT $rate || ' ' || registry.rate('EUR', 'GBP')", '1.2 0.84985', 'its own' ],
	[ "SELECT registry.get_numeric('rates', 'USD')", '1.2', 'as a registry' ],
	[ "SAVEPOINT s; SELECT registry.set_rates('EUR', '{\"USD\": 1.3}') > 0", 't', 'another set' ], [ "SELECT $rate", '1.3', 'is read' ],
	[ "ROLLBACK TO s; SELECT $rate", '1.2', 'the one before' ]);
is(rates(), '1.11 1.12 1.10', 'others do not see it');
# nobody waits for another database's writer
is($node->safe_psql('d2', "SET lock_timeout = '10 s'; SELECT registry.set_rates('EUR', '{\"USD\": 1.13}', '2025-02-03') > 0"), 't', 'another database can be written to');
$mine->query_safe('ROLLBACK');
$mine->quit;
is(rates(), '1.11 1.13 1.10', 'after the rollback');

is(next_set('1.14', '2025-02-04'), 't|200|t', 'what is fetched next');
is(rates(), '1.14 1.14 1.14', 'reaches all of them');
is(in('d1', "registry.get_numeric('rates', 'USD')"), '1.14', 'as a registry, too');
wait_in($_, "count(*) = 1 FROM registry.rate_sets WHERE value_date = '2025-02-04'") or die for qw(d1 d2 d3);
is(in($_, "(registry.quote('EUR', 'USD')).rate_set = max(id) FROM registry.rate_sets"), 't', "$_ names its own row") for qw(d1 d3);

$node->safe_psql('d1', "SELECT registry.withdraw_rates((registry.quote('EUR', 'USD')).rate_set, 'wrong')");
is(rates(), '1.11 1.14 1.14', 'withdrawn in one database: the others keep it');
# d3 has only that one, and takes it back as well
$node->safe_psql('d3', "SELECT registry.withdraw_rates(id, 'wrong') FROM registry.rate_sets WHERE status = 'published' ORDER BY id DESC");
like(($node->psql('d3', "SELECT $rate"))[2], qr/exchange rates have not been fetched yet/, 'withdrawn, all that there are');
$node->safe_psql('d2', "SELECT registry.set_rates('EUR', '{\"USD\": 1.15}', '2025-02-04')");

# Before a database is loaded, reads ask its table, as soon as the server lets anybody in.
$web->serve({ status => 503 });
for my $mode (qw(fast immediate))
{
	$node->stop($mode);
	$node->start;
	is(in('d1', "$rate || ' ' || registry.get_numeric('rates', 'USD') || ' ' || string_agg(key || ' ' || value, ' ' ORDER BY key) FROM registry.entries('rates')"),
		'1.11 1.11 EUR 1 USD 1.11', "after a restart ($mode): what is withdrawn does not come back");
	is(in('d2', $rate), '1.15', 'rates by hand are there');
	isnt(($node->psql('d3', "SELECT $rate"))[0], 0, 'and no rates where all were withdrawn');
	wait_in($_, "state = 'resident' FROM registry.registries WHERE name = 'rates'") or die for qw(d1 d2);
	wait_in('small', "count(*) = 0 $workers") or die;
	is(in('d1', $rate) . ' ' . in('d2', $rate) . ' ' . in('d4', $rate), '1.11 1.15 1.14', 'from memory, the same');
	isnt(($node->psql('d3', "SELECT $rate"))[0], 0, 'and none');
}

# The others are loaded, these two never: their own rates are in their tables.
$node->safe_psql('postgres', "ALTER DATABASE $_ SET pg_registry.test_load_result = -1") for qw(d1 d3);
$node->restart;
my $state = "state FROM registry.registries WHERE name = 'rates'";
wait_in('d4', "'resident' = (SELECT $state)") or die;
is(in('d4', $rate), '1.14', 'a database that is loaded');
is(in('d1', $rate) . ' ' . in('d1', $state), '1.11 from table', 'and one that is not: no rates of the others');
isnt(($node->psql('d3', "SELECT $rate"))[0], 0, 'nor if all were withdrawn');
$node->safe_psql('postgres', "ALTER DATABASE $_ RESET pg_registry.test_load_result") for qw(d1 d3);
wait_in('d1', "'resident' = (SELECT $state)") or die;
is(in('d1', $rate), '1.11', 'loaded at last');
is(next_set('1.14', '2025-02-04'), 't|200|f', 'the provider still says so');
is(rates_of(qw(d1 d2 d4)), '1.11 1.15 1.14', 'which changes nothing');
is(next_set('1.16', '2025-02-05'), 't|200|t', 'something new');
is(rates(), '1.16 1.16 1.16', 'is read everywhere');
wait_in($_, "count(*) = 1 FROM registry.rate_sets WHERE value_date = '2025-02-05'") or die for qw(d1 d2 d3);
is(rates(), '1.16 1.16 1.16', 'also when it is stored');

sub rates_of { return join(' ', map { in($_, $rate) } @_) }

$node->stop;
done_testing();
