# If this fails, what one kind of server process says does not reach
# registry.log_tail, or the hook breaks that process: the postmaster and the
# logging collector, which nobody restarts, among them.

use strict;
use warnings;

use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;

my $node = PostgreSQL::Test::Cluster->new('main');
$node->init(allows_streaming => 1);
$node->append_conf(
	'postgresql.conf', q(
pg_registry.log_min_level = warning
log_statement = none
log_checkpoints = on
log_replication_commands = on
log_connections = on
log_disconnections = on
log_autovacuum_min_duration = 0
));
$node->start;
$node->safe_psql('postgres', 'CREATE EXTENSION pg_registry');

# Wait for a record that matches, and tell what there is instead if none comes.
sub appears
{
	my ($name, $condition) = @_;
	my $there = $node->poll_query_until('postgres',
		"SELECT count(*) > 0 FROM registry.log_tail(1000) WHERE $condition");
	ok($there, $name);
	diag($node->safe_psql('postgres',
			'SELECT backend_type, level, message FROM registry.log_tail(30)'))
	  unless $there;
}

# Each kind of process, with what makes it say something.
appears('postmaster at the start',
	"backend_type = 'postmaster' AND message ~ 'ready to accept connections'");
appears('startup process',
	"backend_type = 'startup' AND message ~ 'database system was shut down'");

$node->reload;
appears('postmaster on reload',
	"backend_type = 'postmaster' AND message ~ 'received SIGHUP' AND database IS NULL");

$node->safe_psql('postgres', 'CHECKPOINT');
appears('checkpointer',
	"backend_type = 'checkpointer' AND message ~ 'checkpoint complete'");

$node->psql('postgres', "DO \$\$ BEGIN RAISE EXCEPTION 'from a session'; END \$\$");
appears('client backend',
	"backend_type = 'client backend' AND message = 'from a session' AND database = 'postgres'");

$node->safe_psql(
	'postgres', q(
	CREATE FUNCTION in_worker() RETURNS int LANGUAGE plpgsql PARALLEL SAFE AS
		$$ BEGIN RAISE WARNING 'from a worker'; RETURN 1; END $$;
	SET force_parallel_mode = on;
	SELECT in_worker();));
my $user = $node->safe_psql('postgres', 'SELECT current_user');
appears('parallel worker, its names found by oid',
	"backend_type = 'parallel worker' AND message = 'from a worker' "
	  . "AND database = 'postgres' AND username = '$user'");

$node->command_ok(
	[ 'psql', '-X', '-d', $node->connstr . ' replication=1', '-c', 'IDENTIFY_SYSTEM' ],
	'replication connection');
appears('walsender',
	"backend_type = 'walsender' AND message ~ 'IDENTIFY_SYSTEM' AND username = '$user'");

$node->safe_psql('postgres', 'CREATE TABLE t AS SELECT 1; VACUUM t');
$node->append_conf('postgresql.conf', "autovacuum_naptime = 1s\nautovacuum_vacuum_threshold = 0\n");
$node->reload;
$node->safe_psql('postgres', 'DELETE FROM t');
appears('autovacuum worker',
	"backend_type = 'autovacuum worker' AND message ~ 'automatic vacuum' AND database = 'postgres'");

# Before a process has a PGPROC, and after it.
appears('connection received, before authentication',
	"message ~ '^connection received' AND database IS NULL AND pid > 0");
$node->psql('nowhere', 'SELECT 1');
appears('refused connection',
	"level = 'FATAL' AND sqlstate = '3D000' AND message ~ 'nowhere' AND database = 'nowhere'");
my $bye = $node->safe_psql('postgres', "SET application_name = 'leaving'; SELECT pg_backend_pid()");
appears('disconnection, after the PGPROC is gone',
	"pid = $bye AND message ~ '^disconnection: session time' AND database = 'postgres' "
	  . "AND application = 'leaving'");

# A standby: startup process and walreceiver, reading included.
$node->backup('b');
my $standby = PostgreSQL::Test::Cluster->new('standby');
$standby->init_from_backup($node, 'b', has_streaming => 1);
$standby->start;
$node->wait_for_catchup($standby);
foreach my $type ('startup', 'walreceiver')
{
	ok( $standby->poll_query_until('postgres',
			"SELECT count(*) > 0 FROM registry.log_tail(1000) WHERE backend_type = '$type'"),
		"$type of a standby");
}
$standby->stop;

# A crash: the postmaster detaches from the ring, goes on talking, and makes a
# new one that knows how much it missed.
my $shut_down = () = slurp_file($node->logfile) =~ /database system is shut down/g;
$node->append_conf(
	'postgresql.conf', q(
restart_after_crash = on
log_min_messages = debug3
pg_registry.log_min_level = debug3
));
$node->restart;
is(scalar(() = slurp_file($node->logfile) =~ /database system is shut down/g),
	$shut_down + 1, 'the postmaster ends with its last words');
my $started = $node->safe_psql('postgres', 'SELECT pg_postmaster_start_time()');
$node->psql('postgres', 'SELECT pg_backend_pid() \\gset'
	  . "\n\\setenv victim :pg_backend_pid\n\\! kill -9 \$victim\nSELECT 1");
ok( $node->poll_query_until('postgres',
		"SELECT pg_postmaster_start_time() = '$started' AND log_dropped_too_early > 0 FROM registry.status()"),
	'the same postmaster has a new ring and counts what it missed');
appears('startup process after a crash',
	"backend_type = 'startup' AND message ~ 'was interrupted'");
$node->append_conf('postgresql.conf',
	"log_min_messages = warning\npg_registry.log_min_level = warning\n");

# The logging collector has no shared memory: the hook stays out of it, and it
# stays alive when it has something to say itself.
$node->append_conf('postgresql.conf', "logging_collector = on\nlog_directory = 'logs'\n");
$node->restart;
my $collector = slurp_file($node->data_dir . '/postmaster.pid') =~ /^(\d+)/ ? $1 : 0;
$collector = find_collector($collector);
isnt($collector, 0, 'logging collector runs');
$node->append_conf('postgresql.conf', "log_directory = '/dev/null/nowhere'\n");
$node->reload;
ok( $node->poll_query_until('postgres',
		q(SELECT pg_read_file(pg_current_logfile()) ~ 'could not open log file "/dev/null/nowhere')),
	'the collector logs a failure of its own');
$node->append_conf('postgresql.conf', "log_directory = 'logs'\n");
$node->reload;
$node->psql('postgres', "DO \$\$ BEGIN RAISE EXCEPTION 'under a collector'; END \$\$");
appears('session with a logging collector', "message = 'under a collector'");
is($node->safe_psql('postgres',
		"SELECT count(*) FROM registry.log_tail(1000) WHERE pid = $collector"),
	'0', 'the collector writes nothing into the ring');
ok(kill(0, $collector), 'the collector is still the same process');

# A single-user server has a ring of its own, and leaves it in peace.
$node->stop;
my ($out, $err) = ('', '');
IPC::Run::run(
	[ 'postgres', '--single', '-D', $node->data_dir, '-c', 'logging_collector=off', 'postgres' ],
	'<', \"SELECT 1/0;\nSELECT message, backend_type FROM registry.log_tail() WHERE level = 'ERROR';\n",
	'>', \$out, '2>', \$err);
like($out, qr/message = "division by zero".*backend_type = "standalone backend"/s,
	'single-user server');
is($?, 0, 'single-user server ends well');

# The process whose title says so, among the children of the postmaster.
sub find_collector
{
	my ($postmaster) = @_;
	foreach my $stat (glob('/proc/[0-9]*/stat'))
	{
		my ($pid) = $stat =~ m,/(\d+)/,;
		my $parent = eval { slurp_file($stat) =~ /\) \S (\d+) / ? $1 : 0 } // 0;
		next if $parent != $postmaster;
		my $title = eval { slurp_file("/proc/$pid/cmdline") } // '';
		return $pid if $title =~ /logger/;
	}
	return 0;
}

done_testing();
