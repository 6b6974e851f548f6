# If this fails, rates stop being refreshed after the scheduler was killed, or a
# hanging provider blocks a shutdown, DROP DATABASE or a session that only
# wanted to wait for it.

use strict;
use warnings;

use FindBin;
use lib "$FindBin::RealBin/lib";

use FaultServer;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;
use Time::HiRes qw(time);

sub rates { return qq({"amount":1.0,"base":"EUR","date":"2025-04-04","rates":{"USD":$_[0]}}) }

my $web = FaultServer->new(PostgreSQL::Test::Utils::tempdir);
my $node = PostgreSQL::Test::Cluster->new('main');
$node->init;
$node->append_conf(
	'postgresql.conf', qq(
restart_after_crash = on
pg_registry.rates_url = '@{[ $web->url ]}'
pg_registry.rates_timeout = '300s'
));
$web->serve({ body => rates('1.10') });
$node->start;
$node->safe_psql('postgres', 'CREATE EXTENSION pg_registry');

sub one { return $node->safe_psql('postgres', "SELECT $_[0]") }
sub wait_for { ok($node->poll_query_until('postgres', "SELECT $_[0]"), $_[1]); return }
sub wait_for_status { return wait_for("$_[0] FROM registry.status()", $_[1]) }

# Let the next request hang, and return when it does.
sub hang
{
	my ($how) = @_;
	my $requests = () = $web->requests;
	$web->serve({ mode => $how // 'hang', body => rates('1') });
	one("registry.refresh('rates', wait => false)");
	wait_for_status("scheduler_state = 'fetching'", 'a request hangs');
	for (1 .. 1800)
	{
		last if $requests < (() = $web->requests);
		select undef, undef, undef, 0.1;
	}
	return;
}

wait_for_status("scheduler_state = 'idle'", 'the scheduler has fetched');
is(one("registry.rate('EUR', 'USD')"), '1.10', 'rates are there');

# A session that has begun to wait in a refresh() with these arguments; its result is what query('') returns.
sub start_waiting
{
	my ($arguments) = @_;
	my $session = $node->background_psql('postgres', on_error_stop => 0);
	$session->query_until(qr/started/, "\\echo started\nSELECT ok, error FROM registry.refresh('rates'$arguments);\n");
	return $session;
}

sub wait_for_waiters
{
	my ($n) = @_;
	return wait_for("count(*) = $n FROM pg_stat_activity WHERE wait_event_type = 'Extension' "
		  . "AND query ~ '^SELECT ok, error FROM registry.refresh'", "$n waiting");
}

# wait => false, and a timeout, return although the provider hangs.
hang();
is(one("concat_ws('|', ok, http_status, changed, generation, visible, error) IS NOT DISTINCT FROM '' "
	  . "FROM registry.refresh('rates', wait => false)"), 't', 'without waiting nothing is known');
is( one("concat_ws('|', ok, error) FROM registry.refresh('rates', timeout => '0.2 s')"),
	'f|timeout: no result within 200 ms; the refresh goes on',
	'with a timeout: what happened');
my (undef, undef, $error) =
  $node->psql('postgres', "\\set VERBOSITY verbose\nSELECT registry.refresh('rates', timeout => '0', raise => true)");
like($error, qr/ERROR:  08006: refresh of source "rates" failed.*DETAIL:  timeout: no result within 0 ms/s,
	'raise => true');

# A session that waits can be cancelled.
my $session = start_waiting(", timeout => '1 h'");
wait_for_waiters(1);
one("pg_cancel_backend(pid) FROM pg_stat_activity WHERE query ~ '^SELECT ok, error FROM registry.refresh'");
is($session->query("SELECT 'still here'"), 'still here', 'a waiting session can be cancelled, and goes on');
$session->quit;

# Databases can be dropped and copied meanwhile; nothing of ours is connected to them.
$node->safe_psql('postgres', 'CREATE DATABASE shop');
$node->safe_psql('shop', 'CREATE EXTENSION pg_registry');
my $start = time;
$node->safe_psql('postgres', 'CREATE DATABASE copy TEMPLATE shop');
$node->safe_psql('postgres', 'ALTER DATABASE copy RENAME TO copy2');
$node->safe_psql('postgres', 'DROP DATABASE copy2');
$node->safe_psql('postgres', 'DROP DATABASE shop WITH (FORCE)');
wait_for_status("scheduler_state = 'fetching'", 'the request hung all the time');

# Killed politely, it comes back by itself.
my $pid = one('scheduler_pid FROM registry.status()');
is($node->safe_psql('postgres', "SELECT count(*) FROM pg_stat_activity WHERE pid = $pid"), 0,
	'it is in no list of sessions');
kill 'TERM', $pid;
$web->serve({ body => rates('1.11') });
wait_for_status("scheduler_pid <> $pid", 'kill -TERM during a request: it is started again');
wait_for("rate = 1.11 FROM registry.rates WHERE currency = 'USD'", 'and fetches');
unlike(slurp_file($node->logfile), qr/terminated by signal|PANIC|server process.*was terminated/,
	'without a crash');

# The same from SQL, and whoever waits for the run is told.
hang('hang_in_body');
$pid = one('scheduler_pid FROM registry.status()');
$session = start_waiting(", timeout => '1 h'");
wait_for_waiters(1);
$web->serve({ body => rates('1.12') });
one('registry.restart_workers()');
is($session->query(''), 'f|the scheduler was stopped during the request',
	'restart_workers() during a request ends the run');
$session->quit;
wait_for_status("scheduler_pid <> $pid", 'it is started again');
wait_for("rate = 1.12 FROM registry.rates WHERE currency = 'USD'", 'and fetches');

# While it is away, refresh() asks the next one.
$pid = one('scheduler_pid FROM registry.status()');
one('registry.restart_workers()');
wait_for_status("scheduler_state = 'not running' AND scheduler_pid IS NULL",
	'status() shows that it is away');
is( one("concat_ws('|', ok, error) FROM registry.refresh('rates', timeout => '0.1 s')"),
	'f|timeout: the scheduler is not running',
	'refresh() says it, if the timeout is short');
is(one("ok FROM registry.refresh('rates', timeout => '60 s')"), 't',
	'and waits for the next one, if it is long');

# Ten sessions that refresh at a time cost one request.
hang();
my $before = () = $web->requests;
my @sessions = map { start_waiting(", timeout => '1 h'") } 1 .. 10;
wait_for_waiters(10);
is(scalar(() = $web->requests), $before, 'ten sessions join the request under way');
$web->serve({ body => rates('1.13') });
$node->append_conf('postgresql.conf', "pg_registry.rates_max_change = 60");
$node->reload;
is(join(' ', map { scalar $_->query('') } @sessions), 't| ' x 9 . 't|',
	'a changed setting starts it anew, and all ten get its result');
$_->quit for @sessions;
is(scalar(() = $web->requests), $before + 1, 'which was one more request');

# Killed hard, it takes the server's memory with it; after the restart of all, rates are back.
wait_for('count(*) = 1 FROM _registry.rate_set_values WHERE rate = 1.13', 'the rates are in a table');
hang();
$pid = one('scheduler_pid FROM registry.status()');
$web->serve({ body => rates('1.14') });
my $offset = -s $node->logfile;
kill 'KILL', $pid;
$node->wait_for_log(qr/database system is ready to accept connections/, $offset);
wait_for("rate = 1.13 FROM registry.rates WHERE currency = 'USD'", 'after kill -9 rates are back');
is(one("ok FROM registry.refresh('rates')"), 't', 'and are fetched again');
wait_for('count(*) = 1 FROM _registry.rate_set_values WHERE rate = 1.14', 'into the table');

# A backend that dies in the middle of its reads does the same.
$session = $node->background_psql('postgres', on_error_stop => 0);
$pid = $session->query('SELECT pg_backend_pid()');
$session->query_until(qr/started/,
	"\\echo started\nSELECT count(registry.rate('EUR', 'USD')) FROM generate_series(1, 1e12);\n");
$node->poll_query_until('postgres',
	"SELECT true FROM pg_stat_activity WHERE pid = $pid AND state = 'active' AND query ~ 'registry.rate'") or die;
$offset = -s $node->logfile;
kill 'KILL', $pid;
$node->wait_for_log(qr/database system is ready to accept connections/, $offset);
wait_for("rate = 1.14 FROM registry.rates WHERE currency = 'USD'",
	'after kill -9 of a reader rates are back');
$session->{run}->finish;

# Fast shutdown does not wait for the provider, nor does an immediate one.
for my $mode (qw(fast immediate))
{
	hang();
	$start = time;
	$node->stop($mode);
	cmp_ok(time - $start, '<', 2, "$mode shutdown during a request");
	$web->serve({ body => rates('1.15') });
	$node->start;
	is(one("ok FROM registry.refresh('rates')"), 't', 'the server works again');
	is(one("registry.rate('EUR', 'USD')"), '1.15', 'with new rates');
}

$node->stop;
done_testing();
