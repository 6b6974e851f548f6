# If this fails, registry.log_tail shows other records than the settings ask
# for: passwords out of statements that nobody wanted to keep, or nothing where
# an administrator looks for the error of last night.

use strict;
use warnings;

use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;

my $node = PostgreSQL::Test::Cluster->new('main');
$node->init;
$node->append_conf(
	'postgresql.conf', q(
pg_registry.log_ring_slots = 128
log_statement = none
log_replication_commands = off
));
$node->start;
$node->safe_psql('postgres', 'CREATE EXTENSION pg_registry');

# Change a setting for all sessions that start from now on.
sub set_for_all
{
	my ($name, $value) = @_;
	$node->append_conf('postgresql.conf', "$name = $value");
	$node->reload;
	$node->poll_query_until('postgres',
		"SELECT current_setting('$name') = '$value'")
	  or die "$name never became $value";
}

# One column of the newest record whose message matches.
sub newest
{
	my ($column, $pattern) = @_;
	return $node->safe_psql('postgres',
		"SELECT $column FROM registry.log_tail(1000) "
		  . "WHERE message ~ '$pattern' ORDER BY seq DESC LIMIT 1");
}

sub emit
{
	my ($sql) = @_;
	$node->psql('postgres', $sql);
}

# Off unless somebody asks for it.
emit("DO \$\$ BEGIN RAISE WARNING 'silent'; END \$\$");
is($node->safe_psql('postgres', 'SELECT count(*) FROM registry.log_tail()'),
	'0', 'off by default');

# The level means what it means for log_min_messages: LOG stands between ERROR
# and FATAL.
my @levels = (
	[ 'debug3',  'DEBUG1 LOG INFO NOTICE WARNING ERROR FATAL' ],
	[ 'info',    'LOG INFO NOTICE WARNING ERROR FATAL' ],
	[ 'warning', 'LOG WARNING ERROR FATAL' ],
	[ 'error',   'LOG ERROR FATAL' ],
	[ 'log',     'LOG FATAL' ],
	[ 'fatal',   'FATAL' ],
	[ 'panic',   '' ],
	[ 'off',     '' ]);
my @all = qw(DEBUG1 LOG INFO NOTICE WARNING ERROR FATAL);
foreach my $case (@levels)
{
	my ($level, $expected) = @$case;
	my $tag = "level_$level";
	set_for_all('pg_registry.log_min_level', $level);
	my $raise = join ' ', map { "RAISE $_ '$tag';" } qw(DEBUG LOG INFO NOTICE WARNING);
	emit("SET log_min_messages = debug1; DO \$\$ BEGIN $raise END \$\$; "
		  . "DO \$\$ BEGIN RAISE EXCEPTION '$tag'; END \$\$");
	$node->psql($tag, 'SELECT 1');    # FATAL: no such database
	my $seen = $node->safe_psql('postgres',
		"SELECT DISTINCT level FROM registry.log_tail(1000) WHERE message ~ '$tag\\M'");
	my %seen = map { $_ => 1 } split /\n/, $seen;
	is(join(' ', grep { $seen{$_} } @all), $expected, "log_min_level = $level");
}

# What a record of a session says, newest last.
set_for_all('pg_registry.log_min_level', 'error');
emit("SET application_name = 'shop'; DO \$\$ BEGIN RAISE EXCEPTION 'no such rate' "
	  . "USING ERRCODE = 'UE001', HINT = 'ask later', DETAIL = 'key 42'; END \$\$");
my $user = $node->safe_psql('postgres', 'SELECT current_user');
is(newest('level, sqlstate, message, hint, application, database, backend_type, username',
		'no such rate'),
	"ERROR|UE001|no such rate|ask later|shop|postgres|client backend|$user",
	'record of a session');
is(newest('now() - time < interval \'5 min\' AND time <= clock_timestamp()',
		'no such rate'),
	't', 'time of the record');
emit("SELECT '$_' / 1") foreach 'one', 'two';
is($node->safe_psql('postgres',
		"SELECT string_agg(substring(message from 'one|two'), ' ') FROM registry.log_tail(100)"),
	'one two', 'newest last');

# Statement, detail and context hold passwords and keys: only when asked for.
my $secret = "CREATE ROLE fred PASSWORD 'hunter2' NO SUCH OPTION";
my $failing = "DO \$\$ BEGIN RAISE EXCEPTION 'noisy' USING DETAIL = 'key 42'; END \$\$";
my @capture = (
	[ 'off', 'off', '||' ],
	[ 'on',  'off', '||statement' ],
	[ 'off', 'on',  'detail|context|' ],
	[ 'on',  'on',  'detail|context|statement' ]);
foreach my $case (@capture)
{
	my ($statement, $detail, $expected) = @$case;
	set_for_all('pg_registry.log_capture_statement', $statement);
	set_for_all('pg_registry.log_capture_detail', $detail);
	emit($failing);
	is( newest(
			"CASE WHEN detail = 'key 42' THEN 'detail' END, "
			  . "CASE WHEN context ~ 'PL/pgSQL' THEN 'context' END, "
			  . "CASE WHEN statement ~ 'RAISE EXCEPTION' THEN 'statement' END",
			'noisy'),
		$expected,
		"capture statement $statement, detail $detail");
}
set_for_all('pg_registry.log_capture_statement', 'off');
set_for_all('pg_registry.log_capture_detail', 'off');
emit("SET log_statement = 'all'; SET log_min_duration_statement = 0; $secret");
emit("SET log_statement = 'all'; SELECT 'hunter2'");
is($node->safe_psql('postgres',
		"SELECT count(*) FROM registry.log_tail(1000) r WHERE r::text ~ 'hunter2'"),
	'0', 'no statement in a message either, unless asked for');
is(newest('message', '^statement'), 'statement: %s', 'its pattern instead');
set_for_all('pg_registry.log_capture_statement', 'on');
emit("SET log_statement = 'all'; SELECT 'hunter2'");
is(newest('message', '^statement: SELECT'), "statement: SELECT 'hunter2'",
	'the whole message when asked for');

# The session decides as for the server log which statements are shown.
emit("SET log_min_error_statement = 'panic'; SELECT 'three' / 1");
is(newest('statement IS NULL', 'three'), 't', 'log_min_error_statement holds');

# A text that does not fit is cut, and one text does not push out another.
emit("DO \$\$ BEGIN RAISE EXCEPTION '%', 'long' || repeat('m', 100000) "
	  . "USING HINT = repeat('h', 100000); END \$\$");
is(newest("length(message) > 300, right(message, 4), length(hint) > 300, "
		  . "right(hint, 4), length(statement) > 50", '^long'),
	't|m...|t|h...|t', 'long texts share the record and end in dots');
emit("DO \$\$ BEGIN RAISE EXCEPTION '%', 'alone' || repeat('m', 1000); END \$\$");
is(newest('length(message)', '^alone'), '1005', 'a text may use what others leave');

# The number of records, and the ring's length.
is($node->safe_psql('postgres', 'SELECT count(*) FROM registry.log_tail(0)'), '0',
	'log_tail(0)');
emit('DO $$ BEGIN FOR i IN 1..300 LOOP RAISE LOG \'lap %\', i; END LOOP; END $$');
is( $node->safe_psql('postgres',
		"SELECT count(*), max(seq) - min(seq), count(*) FILTER (WHERE message LIKE 'lap %') > 100, "
		  . "bool_or(message = 'lap 300'), bool_or(message = 'lap 100') FROM registry.log_tail(1000)"),
	'128|127|t|t|f', 'the oldest are overwritten');
is($node->safe_psql('postgres',
		"SELECT count(*), max(seq) - min(seq), bool_or(message = 'lap 300') FROM registry.log_tail(n => 3)"),
	'3|2|t', 'log_tail(3)');

my @bad = (
	[ 'NULL',          '22004: the number of records must not be null' ],
	[ '-1',            '22023: the number of records must not be negative' ],
	[ "10, 'default'", '0A000: log handlers are not supported yet' ]);
foreach my $case (@bad)
{
	my ($arguments, $expected) = @$case;
	my ($status, $out, $err) = $node->psql('postgres',
		"\\set VERBOSITY verbose\nSELECT * FROM registry.log_tail($arguments)");
	like($err, qr/ERROR:  \Q$expected\E/, "log_tail($arguments)");
}

# Nothing is lost without being counted.
ok( $node->poll_query_until('postgres',
		"SELECT log_accepted + log_dropped_busy + log_dropped_recursion - 1 = "
		  . "(SELECT max(seq) FROM registry.log_tail(1)) FROM registry.status()"),
	'every record accepted or counted as dropped');

$node->stop;
done_testing();
