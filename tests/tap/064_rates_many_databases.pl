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

# The round of loads is over, and for a second: another one would begin as soon as it is asked for.
my $workers = "FROM pg_stat_activity WHERE backend_type LIKE 'pg_registry%'";
wait_in('small', "count(*) = 0 $workers") or die;
my $over = in('small', 'clock_timestamp()');
wait_in('small', "clock_timestamp() - '$over' > '1.1 s'") or die;
my $start = -s $node->logfile;

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

$node->stop;
done_testing();
