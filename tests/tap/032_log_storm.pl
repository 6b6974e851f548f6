# If this fails, a burst of errors, or a session that is killed in the middle of
# one, hangs or damages the log records of the whole server.
#
# The server log itself is off: a few seconds of this would fill gigabytes.

use strict;
use warnings;

use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;

use constant SESSIONS => 8;

my $node = PostgreSQL::Test::Cluster->new('main');
$node->init;
$node->append_conf(
	'postgresql.conf', q(
pg_registry.log_min_level = warning
pg_registry.log_ring_slots = 64
restart_after_crash = on
log_destination = ''
log_statement = none
));
$node->start;
$node->safe_psql('postgres', 'CREATE EXTENSION pg_registry');

# Each message tells how it must look, so that a torn record shows.
my $storm = q(
	SET client_min_messages = error;
	DO $$
	DECLARE
		tag text := 'storm ' || pg_backend_pid() || ' ';
	BEGIN
		LOOP
			FOR i IN 0..1500 BY 50 LOOP
				RAISE WARNING '%', tag || i || ' ' || repeat(chr(65 + i / 50 % 26), i);
			END LOOP;
		END LOOP;
	END $$);
my $is_storm = q(message LIKE 'storm %');
my $is_whole = q(
	message ~ format('^storm %s \d+ (.)\1*$|^storm %s 0 $', pid, pid)
	AND length(split_part(message, ' ', 4)) = split_part(message, ' ', 3)::int
	AND level = 'WARNING' AND sqlstate = '01000' AND database = 'postgres'
	AND backend_type = 'client backend' AND abs(extract(epoch FROM clock_timestamp() - time)) < 600);

my $storm_sessions = q(pg_stat_activity
	WHERE state = 'active' AND query LIKE '%storm%' AND pid <> pg_backend_pid());

sub start_session
{
	my ($out, $err) = ('', '');
	return IPC::Run::start(
		[ 'psql', '-X', '-q', '-d', $node->connstr('postgres'), '-c', $storm ],
		'<', \undef, '>', \$out, '2>', \$err);
}

sub wait_until
{
	my ($name, $query) = @_;
	ok($node->poll_query_until('postgres', $query), $name);
}

sub accepted
{
	return $node->safe_psql('postgres', 'SELECT log_accepted FROM registry.status()');
}

sub storm_pids
{
	return split /\n/, $node->safe_psql('postgres',
		"SELECT pid FROM $storm_sessions");
}

foreach my $round (1 .. 3)
{
	my @sessions = map { start_session() } 1 .. SESSIONS;
	wait_until("round $round: all sessions run",
		'SELECT count(*) = ' . SESSIONS . " FROM $storm_sessions");
	wait_until("round $round: thousands of records",
		'SELECT log_accepted > 5000 FROM registry.status()');

	# Read while they write: many laps pass under the reader.
	my $read = $node->safe_psql('postgres',
		"SELECT count(*) || '|' || count(*) FILTER (WHERE NOT ($is_whole)) "
		  . "FROM generate_series(1, 200) n, LATERAL registry.log_tail(64 + 0 * n) "
		  . "WHERE $is_storm");
	like($read, qr/^[1-9]\d{2,}\|0$/, "round $round: whole records only");

	# One stopped session holds up nobody.
	my @pids = storm_pids();
	is(scalar(@pids), SESSIONS, "round $round: all sessions are there");
	kill 'STOP', $pids[0];
	my $before = accepted();
	wait_until("round $round: the others go on beside a stopped one",
		"SELECT log_accepted > $before + 1000 FROM registry.status()");
	kill 'CONT', $pids[0];

	# A killed one takes the server through a restart, and the ring with it.
	my $started = $node->safe_psql('postgres', 'SELECT pg_postmaster_start_time()');
	kill 'KILL', $pids[1];
	$_->finish foreach @sessions;
	wait_until("round $round: the server is back", 'SELECT 1 = 1 AS t');
	is($node->safe_psql('postgres', 'SELECT pg_postmaster_start_time()'),
		$started, "round $round: the postmaster survived");
	is($node->safe_psql('postgres',
			"SELECT count(*) FROM registry.log_tail(1000) WHERE $is_storm"),
		'0', "round $round: the ring is new");
	wait_until("round $round: it has the startup process's records",
		q(SELECT count(*) > 0 FROM registry.log_tail(1000)
		  WHERE backend_type = 'startup' AND message ~ 'interrupted'));
	$node->psql('postgres', 'SELECT 1 / 0');
	is($node->safe_psql('postgres',
			q(SELECT count(*) FROM registry.log_tail(1000) WHERE message = 'division by zero')),
		'1', "round $round: and takes new ones");
	is($node->safe_psql('postgres',
			'SELECT log_dropped_busy + log_dropped_recursion FROM registry.status()'),
		'0', "round $round: and counts from the start");
}

# Sessions that are terminated from outside in the middle of it leave no slot
# behind: a full lap is accepted afterwards.
my @sessions = map { start_session() } 1 .. SESSIONS;
wait_until('all sessions are there',
	'SELECT count(*) = ' . SESSIONS . " FROM $storm_sessions");
wait_until('and write', 'SELECT log_accepted > 5000 FROM registry.status()');
$node->safe_psql('postgres',
	"SELECT pg_terminate_backend(pid, 10000) FROM $storm_sessions");
$_->finish foreach @sessions;
my $dropped = $node->safe_psql('postgres', 'SELECT log_dropped_busy FROM registry.status()');
$node->safe_psql('postgres',
	'DO $$ BEGIN FOR i IN 1..64 LOOP RAISE LOG \'after\'; END LOOP; END $$');
is($node->safe_psql('postgres',
		"SELECT log_dropped_busy - $dropped FROM registry.status()"),
	'0', 'no slot was left behind by terminated sessions');
is($node->safe_psql('postgres',
		"SELECT count(*) FROM registry.log_tail(64) WHERE message = 'after'"),
	'64', 'a full lap is readable');

$node->stop;
done_testing();
