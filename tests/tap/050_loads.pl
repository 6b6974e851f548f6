# If this fails, registries stay slow after a restart because nobody loads them, or loading them gets in
# somebody's way: a DROP DATABASE that waits, a worker that is started again and again, a log full of lines.
#
# Test builds let ALTER DATABASE ... SET hold a database's loader at an advisory lock, and decide how it ends.
# That a worker was started is told by the postmaster, at DEBUG1.

use strict;
use warnings;

use FindBin;
use lib "$FindBin::RealBin/lib";

use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use RawProtocol;
use Test::More;

my $node = PostgreSQL::Test::Cluster->new('main');
$node->init(allows_streaming => 1);
$node->append_conf(
	'postgresql.conf', q(
restart_after_crash = on
autovacuum = off
log_min_messages = debug1
log_statement = none
max_worker_processes = 8
));
$node->start;
$node->safe_psql(
	'postgres', q(
	CREATE EXTENSION pg_registry;
	CREATE FUNCTION want() RETURNS void LANGUAGE C AS 'pg_registry', 'pgr_sql_test_load_want';
	CREATE FUNCTION state() RETURNS text LANGUAGE C AS 'pg_registry', 'pgr_sql_test_load_state';
));

my $offset;

sub log_since { return substr(slurp_file($node->logfile), $offset) }
sub mark { $offset = -s $node->logfile; return }
sub one { return $node->safe_psql('postgres', "SELECT $_[0]") }
sub state { return one("state()::json ->> '$_[0]'") }
sub wait_for { ok($node->poll_query_until('postgres', "SELECT $_[0]"), $_[1]) or diag(one('state()')); return }
sub wait_for_state { return wait_for("$_[0] FROM json_to_record(state()::json) AS s(wanted int, done int, attempts int,
	lister_pid int, rounds int, complete_rounds int, databases int, failed int, not_fitting int, failures int)", $_[1]) }
sub wait_until_done { return wait_for_state('wanted = done AND lister_pid = 0', $_[0]) }

# Names of the databases for which a loader was started, in the order of their names.
sub loaded
{
	my %name = map { split /\|/ } split /\n/, $node->safe_psql('postgres', 'SELECT oid, datname FROM pg_database');
	my $loader = qr/DEBUG:  registering background worker "pg_registry refresh worker for database (\d+)"/;

	return join ' ', sort map { $name{$_} // 'gone' } log_since() =~ /$loader/g;
}

# What an administrator sees by default, but for what PostgreSQL says of itself.
sub complaints
{
	return join "\n", grep { /(WARNING|ERROR|FATAL|PANIC):/ || /LOG: .*pg_registry/ } split /\n/, log_since();
}

# A session that holds the lock of the database's loader.
sub hold
{
	my ($database) = @_;
	my $session = RawProtocol->new($node, $database);

	$session->query('SELECT pg_advisory_lock(0, 7)');
	$node->safe_psql('postgres', "ALTER DATABASE $database SET pg_registry.test_load_lock = 7");
	return $session;
}

sub wait_for_held_loaders
{
	my (@databases) = @_;
	my $list = join ' ', sort @databases;

	return wait_for("string_agg(datname, ' ' ORDER BY datname) = '$list' FROM pg_stat_activity
		WHERE backend_type = 'pg_registry refresh worker' AND wait_event = 'advisory'", "at work: $list");
}

# ---------------------------------------------------------------------------
# At the start, and then no more
# ---------------------------------------------------------------------------

$node->safe_psql('postgres', $_)
  for 'CREATE DATABASE shop', 'CREATE DATABASE model IS_TEMPLATE true', 'CREATE DATABASE closed ALLOW_CONNECTIONS false',
  'ALTER DATABASE template0 ALLOW_CONNECTIONS true', 'CREATE DATABASE full_up CONNECTION LIMIT 0';
$node->safe_psql('shop', 'CREATE EXTENSION pg_registry');
$node->stop;
mark();
$node->start;
wait_until_done('a round at the start');
my $all = 'full_up model postgres shop template1';
is(loaded(), $all, 'each database that can be connected to has a loader, once');
is(complaints(), '', 'those without the extension are no reason for a line in the log');
is(scalar(() = log_since() =~ /DEBUG:  pg_registry/g), 1, 'nor are the others: one at DEBUG1');
like(log_since(), qr/pg_registry has looked at 5 of 5 databases: 0 failed, 0 registries did not fit/, 'which sums up');

# refresh() wakes the scheduler.
one("registry.refresh('rates')") for 1 .. 5;
is(state('rounds'), 1, 'a scheduler that wakes up for something else begins no round');

my $wanted = state('wanted');
one('count(want()) FROM generate_series(1, 100)');
is(state('wanted'), $wanted + 1, 'a hundred requests at a time are one');
wait_until_done('which is granted');
is(state('rounds'), 2, 'in one round');

# ---------------------------------------------------------------------------
# Failures
# ---------------------------------------------------------------------------

mark();
$node->safe_psql('postgres', 'ALTER DATABASE shop SET pg_registry.test_load_result = -1');
one('want()');
wait_for_state('attempts = 2 AND lister_pid = 0', 'a database that cannot be loaded is tried again');
is(state('last_error'), 'failure for a test', 'the error is kept');
is(scalar(() = loaded() =~ /shop/g), 2, 'two loaders in two rounds');
my $line = 'WARNING:  could not load the registries of database "shop": failure for a test';
like(complaints(), qr/\Q$line\E$/, 'the log says it');
is(scalar(() = complaints() =~ /\n/g), 0, 'once');
$node->safe_psql('postgres', 'ALTER DATABASE shop SET pg_registry.test_load_result = 3');
wait_for_state('attempts = 3 AND lister_pid = 0 AND not_fitting = 3', 'what does not fit is tried again as well');
is(scalar(() = complaints() =~ /\n/g), 0, 'and no news for the log');
$node->safe_psql('postgres', 'ALTER DATABASE shop RESET pg_registry.test_load_result');

# ---------------------------------------------------------------------------
# Crash
# ---------------------------------------------------------------------------

# The request is still open, and so is the next attempt; a crash makes all new.
mark();
kill 'KILL', one('scheduler_pid FROM registry.status()');
$node->wait_for_log(qr/database system is ready to accept connections/, $offset);
$node->poll_query_until('postgres', 'SELECT true') or die 'does not come back';
wait_until_done('kill -9 of the scheduler: a round after the restart');
is(loaded(), $all, 'with a loader for each database');
is(state('rounds'), 1, 'the first of this segment');

# ---------------------------------------------------------------------------
# Terminated in the middle
# ---------------------------------------------------------------------------

mark();
my $holder = hold('shop');
one('want()');
wait_for_held_loaders('shop');
is(one("count(*) FROM pg_stat_activity WHERE backend_type = 'pg_registry lister' AND datname IS NULL"), 1, 'the lister waits, in no database');
is(one("application_name FROM pg_stat_activity WHERE backend_type = 'pg_registry refresh worker'"), 'pg_registry', 'its application_name');
wait_for("count(*) = 1 FROM pg_stat_activity WHERE backend_type = 'pg_registry refresh worker'", 'other databases need not wait for this one');
is(loaded(), $all, 'each has had its loader');
one("pg_terminate_backend(pid) FROM pg_stat_activity WHERE backend_type = 'pg_registry refresh worker'");
wait_for_state('attempts = 1 AND lister_pid = 0 AND failures = 1', 'a terminated loader: the round ends');
is(loaded(), $all, 'and nobody starts it again, before the next round');
wait_for_held_loaders('shop');
is(state('rounds'), 3, 'which comes');

# The lister too; its loader goes on, and counts for nothing.
one("pg_terminate_backend(pid) FROM pg_stat_activity WHERE backend_type = 'pg_registry lister'");
wait_for_state('rounds = 4', 'a terminated lister: another round');
$holder->close;
wait_until_done('when the lock is free, it is complete');
is(state('failures'), 1, 'and nothing has failed');
like(complaints(), qr/^.*FATAL:  terminating background worker "pg_registry refresh worker".*\n.*background worker "pg_registry refresh worker" .* exited with exit code 1\n.*FATAL:  terminating background worker "pg_registry lister".*\n.*background worker "pg_registry lister".* exited with exit code 1$/,
	'the log has what PostgreSQL says of terminated workers');

# A scheduler that is started anew finds the lister of the one before.
$holder = hold('shop');
one('want()');
wait_for_held_loaders('shop');
my $rounds = state('rounds');
my $lister = state('lister_pid');
my $scheduler = one('scheduler_pid FROM registry.status()');
one('registry.restart_workers()');
wait_for("scheduler_pid <> $scheduler AND scheduler_state = 'not configured' FROM registry.status()", 'another scheduler');
one("registry.refresh('rates')");
is(state('lister_pid'), $lister, 'the same lister');
is(state('rounds'), $rounds, 'and no other one');
$holder->close;
wait_until_done('its round is enough');
is(state('rounds'), $rounds, 'for the new scheduler, too');

# ---------------------------------------------------------------------------
# DROP and CREATE DATABASE
# ---------------------------------------------------------------------------

# As a lock of the creating session shows, the statement has begun, and waits for the loader.
$holder = hold('shop');
one('want()');
wait_for_held_loaders('shop');
my $admin = RawProtocol->new($node, 'postgres');
$admin->send('CREATE DATABASE copy TEMPLATE shop');
wait_for("count(*) = 1 FROM pg_locks l JOIN pg_database d ON objid = d.oid
	WHERE datname = 'shop' AND classid = 'pg_database'::regclass AND mode = 'ShareLock' AND granted", 'CREATE DATABASE ... TEMPLATE has begun');
$holder->close;
$admin->finish;
is($admin->{error}{M}, undef, 'it waits for the loader, and works');
wait_until_done('so does the loader');

# The databases that are listed first keep both loaders busy, while the others change.
mark();
my @holders = map { hold($_) } qw(postgres shop);
one('want()');
wait_for_held_loaders(qw(postgres shop));
my $copy = one("oid FROM pg_database WHERE datname = 'copy'");
my $full_up = one("oid FROM pg_database WHERE datname = 'full_up'");
is($admin->sqlstate('DROP DATABASE copy'), '', 'a database that waits for its turn can be dropped');
is($admin->sqlstate('ALTER DATABASE full_up ALLOW_CONNECTIONS false'), '', 'or closed');
$_->close for @holders;
wait_until_done('the round ends');
like(log_since(), qr/DEBUG:  registering background worker "pg_registry refresh worker for database $_"/, "database $_ had its loader")
  for $copy, $full_up;
is(complaints(), '', 'which left without a word');
unlike(log_since(), qr/refresh worker.*exited with exit code 1/, 'and in peace');
is(state('failures'), 1, 'that is no failure');
$node->safe_psql('postgres', 'ALTER DATABASE postgres RESET pg_registry.test_load_lock');

$holder = hold('shop');
one('want()');
wait_for_held_loaders('shop');
is($admin->sqlstate('DROP DATABASE shop WITH (FORCE)'), '', 'DROP DATABASE ... WITH (FORCE) ends the loader');
wait_until_done('what is left is loaded');
is(state('failures'), 2, 'one round later');
$holder->close;

# A loader that has come to a registry waits there for a writer.
$holder = hold('postgres');

my $writer = RawProtocol->new($node, 'postgres');
$writer->query("SELECT registry.create_registry('r', 'text')");
$writer->query("ALTER TABLE _registry.stored_entries $_ TRIGGER changed") for 'DISABLE', 'ENABLE ALWAYS';
$writer->query("BEGIN; SELECT registry.put('r', 'k', 'v')");
$holder->close;
ok($node->poll_query_until('postgres', "SELECT state = 'loading' FROM registry.registries WHERE name = 'r'"), 'a registry says that it is being loaded');
is($node->safe_psql('postgres', "SELECT registry.get_text('r', 'k') IS NULL"), 't', 'which keeps nobody from reading it');
$writer->query('COMMIT');
ok($node->poll_query_until('postgres', "SELECT state = 'resident' FROM registry.registries WHERE name = 'r'"), 'and when it is resident');
$writer->query("SELECT registry.drop_registry('r')");
$node->safe_psql('postgres', 'ALTER DATABASE postgres RESET pg_registry.test_load_lock');
wait_until_done('all is loaded');
$admin->close;

# ---------------------------------------------------------------------------
# Standby
# ---------------------------------------------------------------------------

$node->backup('copy');
my $standby = PostgreSQL::Test::Cluster->new('standby');
$standby->init_from_backup($node, 'copy', has_streaming => 1);
$standby->append_conf('postgresql.conf', "default_transaction_isolation = 'serializable'");
$standby->start;
$ENV{PGOPTIONS} = "-c default_transaction_isolation=read\\ committed";
my $is_done = "SELECT wanted = done AND rounds = %d FROM json_to_record(state()::json) AS s(wanted int, done int, rounds int)";
ok($standby->poll_query_until('postgres', sprintf($is_done, 1)), 'a round on a standby');
is($standby->safe_psql('postgres', "SELECT state()::json ->> 'databases'"), 3, 'for all databases');
$standby->promote;
$standby->safe_psql('postgres', 'SELECT want()');
ok($standby->poll_query_until('postgres', sprintf($is_done, 2)), 'after promotion, another');
$standby->stop;
delete $ENV{PGOPTIONS};

# ---------------------------------------------------------------------------
# No slot for a worker
# ---------------------------------------------------------------------------

# One slot is the scheduler's, and one that of PostgreSQL's own launcher of logical replication.
my @slots = (
	[ 2, 'the lister', 'attempts = 2' ],
	[ 3, 'a loader', 'attempts = 2 AND databases = 0' ],
	[ 4, 'more than one loader', 'wanted = done' ],
);
for my $case (@slots)
{
	my ($slots, $for, $end) = @$case;
	my $logged = $slots < 4 ? 1 : 0;

	$node->append_conf('postgresql.conf', "max_worker_processes = $slots");
	$node->stop;
	mark();
	$node->start;
	wait_for_state("$end AND lister_pid = 0", "no slot for $for: it is tried again, or does not matter");
	is(scalar(() = complaints() =~ /LOG:  pg_registry cannot load registries: there is no free slot for a background worker$/mg),
		$logged, "lines about it: $logged");
	is(scalar(() = complaints() =~ /$/mg) - ($logged ? 0 : 1), $logged, 'and no other') or diag(complaints());
}

# A shutdown waits for nobody.
$holder = hold('postgres');
one('want()');
wait_for_held_loaders('postgres');
$node->stop('fast');
ok(1, 'a fast shutdown in the middle of a round');
done_testing();
