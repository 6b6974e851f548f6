# If this fails, an alert on "NOT ok" in registry.checks stays silent when something is wrong, or goes on when it is
# right again, or a check that somebody relies on has another name.

use strict;
use warnings;

use FindBin;
use lib "$FindBin::RealBin/lib";

use FaultServer;
use POSIX qw(strftime);
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use RawProtocol;
use Test::More;

# Name and severity, in this order, always.
my @checks = qw(preloaded:critical scheduler_running:critical scheduler_build:warning rates_fresh:critical
  rates_failing:warning rates_quarantine:warning memory_used:warning memory_held_by_pins:warning
  registries_resident:warning loads_failing:warning image_verified:warning grants_resolved:warning log_dropped:warning);

my $web = FaultServer->new(PostgreSQL::Test::Utils::tempdir);
my $node = PostgreSQL::Test::Cluster->new('main');
$node->init(allows_streaming => 1);
$node->append_conf(
	'postgresql.conf', q(
autovacuum = off
log_statement = none
pg_registry.shared_memory = 8MB
pg_registry.log_ring_slots = 16
pg_registry.log_min_level = log
));

sub today { return strftime('%Y-%m-%d', gmtime) }
sub rates { return { body => sprintf '{"amount":1.0,"base":"EUR","date":"%s","rates":{"USD":%s}}', today(), $_[0] } }
sub one { return $node->safe_psql('postgres', "SELECT $_[0]") }

# Sets the settings in the file, and waits until sessions have them.
sub set
{
	my (%settings) = @_;

	for my $name (sort keys %settings)
	{
		$node->append_conf('postgresql.conf', "$name = '$settings{$name}'");
		$node->reload;
		$node->poll_query_until('postgres', "SELECT setting = '$settings{$name}' FROM pg_settings WHERE name = '$name'") or die $name;
	}
	return;
}

sub all_there
{
	my ($server, $case) = @_;

	is($server->safe_psql('postgres', "SELECT string_agg(check_name || ':' || severity, ' ') FROM registry.checks"), "@checks", "$case: every check, once");
	is($server->safe_psql('postgres', "SELECT count(*) FROM registry.checks WHERE ok IS NULL OR coalesce(detail, '') = '' OR ok <> (hint IS NULL)"),
		0, "$case: each with a detail, and with a hint if it fails");
	return;
}

sub failing { return one("string_agg(check_name, ' ') FROM registry.checks WHERE NOT ok") }
sub column { return one("$_[1] FROM registry.checks WHERE check_name = '$_[0]'") }

# Becomes so, and its detail is like that.
sub wait_until
{
	my ($name, $ok, $detail, $case) = @_;

	ok($node->poll_query_until('postgres', "SELECT ok = $ok FROM registry.checks WHERE check_name = '$name'"), "$name: $case")
	  or diag(column($name, 'registry.checks'));
	like(column($name, 'detail'), $detail, "$name: it says so") if $detail;
	return;
}
sub fails { my ($name, $detail, $case) = @_; return wait_until($name, 'false', $detail, $case) }
sub recovers { my ($name, $detail, $case) = @_; return wait_until($name, 'true', $detail, $case) }

# ---------------------------------------------------------------------------
# preloaded
# ---------------------------------------------------------------------------

$node->append_conf('postgresql.conf', "shared_preload_libraries = ''");
$node->start;
$node->safe_psql('postgres', 'CREATE EXTENSION pg_registry');
all_there($node, 'not preloaded');
is(failing(), 'preloaded', 'not preloaded: that fails, and nothing else');
is(column('memory_used', 'detail'), 'Does not apply: the library is not preloaded.', 'the others say why');
like(column('preloaded', 'hint'), qr/shared_preload_libraries = 'pg_registry'/, 'what to do');
$node->append_conf('postgresql.conf', "shared_preload_libraries = 'pg_registry'");
$node->restart;
recovers('scheduler_running', qr/^The scheduler is process \d+\.$/, 'preloaded, it starts');
all_there($node, 'preloaded');
is(failing(), '', 'with nothing configured all are ok');
is(column('rates_fresh', 'detail'), 'Does not apply: pg_registry.rates_url is not set.', 'those of the rates say why');

# ---------------------------------------------------------------------------
# The scheduler
# ---------------------------------------------------------------------------

one('registry.restart_workers()');
fails('scheduler_running', qr/^There is no scheduler/, 'until the postmaster starts it again');
recovers('scheduler_running', qr/process/, 'it has');

# As in 027_other_build.pl: the same library with another build id.
my $folder = PostgreSQL::Test::Utils::tempdir;
my $library = $ENV{PGR_STAGE} . `pg_config --pkglibdir`;
chomp $library;
my $bytes = slurp_file("$library/pg_registry_http.so");
is(scalar($bytes =~ s/\b[0-9a-f]{32}\0/'0' x 32 . "\0"/ge), 1, 'a library with another build id');
open my $out, '>:raw', "$folder/pg_registry_http.so" or die $!;
print {$out} $bytes;
close $out;
chmod 0755, "$folder/pg_registry_http.so";
$node->append_conf('postgresql.conf', "dynamic_library_path = '$folder:$library:\$libdir'");
$node->reload;
one('registry.restart_workers()');
fails('scheduler_build', qr/of another build/, 'the package was replaced');
unlink "$folder/pg_registry_http.so";
one('registry.restart_workers()');
recovers('scheduler_build', qr/no other build/, 'the right one is back');

# ---------------------------------------------------------------------------
# Rates
# ---------------------------------------------------------------------------

$web->serve({ status => 503 });
set('pg_registry.armed_hosts' => '*', 'pg_registry.rates_interval' => 1, 'pg_registry.rates_url' => $web->url('/latest?app_id=verysecret'));
fails('rates_fresh', qr/^There are no rates yet/, 'configured, and nothing is there');
fails('rates_failing', qr/^\d+ attempts in a row have failed; the last error: HTTP 503/, 'three failures in a row');
is(one("count(*) FROM registry.checks c WHERE c::text ~ 'verysecret'"), 0, 'no secret in any text');
is(column('rates_failing', 'value > 2 AND threshold = 2'), 't', 'with number and threshold');
$web->serve(rates('1.10'));
recovers('rates_failing', qr/went well/, 'the provider works again');
recovers('rates_fresh', qr/are fresh/, 'there are rates');

set('pg_registry.rates_max_age' => 1, 'pg_registry.rates_interval' => 3600);
fails('rates_fresh', qr/are stale \(check\)/, 'older than rates_max_age');
is(column('rates_fresh', 'value > 1 AND threshold = 1'), 't', 'by so many seconds');
one("registry.pause('rates')");
like(column('rates_fresh', 'hint'), qr/paused/, 'if somebody has paused it, it says so');
one("registry.resume('rates')");
set('pg_registry.rates_max_age' => 86400);
recovers('rates_fresh', qr/are fresh/, 'not any more');

$web->serve(rates('9.99'));
one("registry.refresh('rates')");
fails('rates_quarantine', qr/9\.99/, 'a wild rate is held back');
$web->serve(rates('1.11'));
one("registry.refresh('rates')");
recovers('rates_quarantine', qr/^No rates/, 'a plausible one came');
is(failing(), '', 'all are ok');
set('pg_registry.rates_url' => '');

# ---------------------------------------------------------------------------
# Memory
# ---------------------------------------------------------------------------

my $fill = "registry.put_many('large', (SELECT jsonb_object_agg('k' || g, repeat('x', 100)) FROM generate_series(1, 16000) g))";
my $reader = RawProtocol->new($node, 'postgres');
one("registry.create_registry('large', 'text', durable => false)");
one($fill);
$reader->query("BEGIN ISOLATION LEVEL REPEATABLE READ; SELECT registry.entry_count('large')");
my $pid = $reader->one('SELECT pg_backend_pid()');
one("registry.clear('large')");
fails('memory_held_by_pins', qr/^Old versions take \d{7} bytes; the oldest pin is that of process $pid, since /, 'an old version is read');
is(column('memory_held_by_pins', 'value > 0.25 AND value < 1 AND threshold = 0.25'), 't', 'a share of the memory');
$reader->query('COMMIT');
recovers('memory_held_by_pins', qr/^Old versions take \d{1,6} bytes\.$/, 'its reader is done');

my $n = 0;
while (failing() eq '' && $n < 100)
{
	$n++;
	one("registry.create_registry('part$n', 'text', durable => false)");
	one("registry.put_many('part$n', (SELECT jsonb_object_agg('k' || g, repeat('x', 100)) FROM generate_series(1, 1000) g))");
}
fails('memory_used', qr/^Of 8\d{6} bytes, 7\d{6} are used\.$/, 'nearly full');
one("count(registry.drop_registry(name)) FROM registry.registries WHERE name ~ '^part'");
recovers('memory_used', qr/are used/, 'registries are dropped');

# ---------------------------------------------------------------------------
# Durable registries
# ---------------------------------------------------------------------------

my $many = "registry.put_many('big', (SELECT jsonb_object_agg('k' || g, repeat('x', 100)) FROM generate_series(1, 60000) g))";
one("registry.create_registry('big', 'text', durable => true)");
is(one("fallback_reads FROM registry.registries WHERE name = 'big'"), 0, 'in memory, nothing is read from the table');
is(one("coalesce(fallback_reads::text, 'null') FROM registry.registries WHERE name = 'large'"), 'null', 'a registry without one has no count');
one($many);
fails('registries_resident', qr/^1 are read from their tables, for lack of memory\.$/, 'one does not fit');
is(column('registries_resident', 'value'), 1, 'one');
one("registry.get_text('big', 'k1'), registry.get_text('big', 'k2')");
one("registry.entry_count('big')");
is(one("fallback_reads FROM registry.registries WHERE name = 'big'"), 3, 'each read is counted');
one("registry.clear('big')");
recovers('registries_resident', qr/^All durable registries/, 'it fits again, and is loaded');
is(one("registry.get_text('big', 'k1') IS NULL AND fallback_reads >= 3 FROM registry.registries WHERE name = 'big'"), 't', 'and what was counted stays');

$node->safe_psql('postgres', "CREATE FUNCTION want() RETURNS void LANGUAGE C AS 'pg_registry', 'pgr_sql_test_load_want'");
$node->safe_psql('postgres', 'CREATE DATABASE shop');
$node->safe_psql('postgres', 'ALTER DATABASE shop SET pg_registry.test_load_result = -1');
one('want()');
fails('loads_failing', qr/^Registries of 1 databases could not be loaded, most recently of "shop"\.$/, 'loading fails');
is(column('loads_failing', 'value'), 1, 'in one database');
$node->safe_psql('postgres', 'ALTER DATABASE shop RESET pg_registry.test_load_result');
recovers('loads_failing', qr/went well/, 'the next round is all right');

$node->safe_psql('postgres', 'ALTER TABLE _registry.stored_entries DISABLE TRIGGER changed');
fails('image_verified', qr/: trigger "changed" on table _registry\.stored_entries is disabled\.$/, 'a trigger is off');
recovers('registries_resident', qr/^1 are read from their tables: see image_verified\.$/, 'which is the reason, not memory');
is(column('image_verified', 'hint'), 'Execute ALTER TABLE _registry.stored_entries ENABLE ALWAYS TRIGGER changed;', 'what to do');
$node->safe_psql('postgres', column('image_verified', 'hint') =~ s/^Execute //r);
recovers('image_verified', qr/in force/, 'it is on');
ok($node->poll_query_until('postgres', "SELECT ok AND value = 0 FROM registry.checks WHERE check_name = 'registries_resident'"), 'and they are loaded');
recovers('loads_failing', qr/went well/, 'without failures');

$node->safe_psql('postgres', q(CREATE ROLE clerk; SELECT registry.grant_access('big', r, 'clerk') FROM unnest('{read,write}'::text[]) r; ALTER ROLE clerk RENAME TO accountant));
fails('grants_resolved', qr/^2 owners and grantees of registries of this database are no roles of this cluster\.$/, 'a role has another name');
is(one("registry.restore_grants('clerk', 'accountant')"), 2, 'what was his is given to him, as the hint says');
recovers('grants_resolved', qr/^All owners and grantees/, 'all is well');

# ---------------------------------------------------------------------------
# Log
# ---------------------------------------------------------------------------

# A writer that is stopped in the middle of a record holds one of 16 slots.
$node->safe_psql('postgres', q(
	CREATE FUNCTION claim() RETURNS bigint LANGUAGE C AS 'pg_registry', 'pgr_sql_test_log_claim';
	CREATE FUNCTION release(bigint) RETURNS void LANGUAGE C AS 'pg_registry', 'pgr_sql_test_log_release'));
my $ticket = one('claim()');
my $chatter = q(DO $$ BEGIN FOR i IN 1 .. %d LOOP RAISE LOG 'chatter'; END LOOP; END $$);
$node->safe_psql('postgres', sprintf $chatter, 160);
fails('log_dropped', qr/^Of \d+ log records since the start, \d+ were dropped\.$/, 'records are lost');
is(column('log_dropped', 'value > 0.01 AND value < 0.2'), 't', 'such a share');
one("release($ticket)");
$node->safe_psql('postgres', sprintf $chatter, 2000);
recovers('log_dropped', qr/dropped/, 'a small one');

# ---------------------------------------------------------------------------
# On a standby
# ---------------------------------------------------------------------------

is(failing(), '', 'all are ok');
set('pg_registry.rates_url' => $web->url);
$node->backup('backup');
my $standby = PostgreSQL::Test::Cluster->new('standby');
$standby->init_from_backup($node, 'backup', has_streaming => 1);
$standby->start;
ok($standby->poll_query_until('postgres', "SELECT scheduler_state = 'standby' FROM registry.status()"), 'a standby');
all_there($standby, 'standby');
is($standby->safe_psql('postgres', "SELECT string_agg(check_name, ' ') FROM registry.checks WHERE NOT ok"), '', 'all are ok');
is($standby->safe_psql('postgres', "SELECT detail FROM registry.checks WHERE check_name = 'rates_fresh'"),
	'Does not apply: nothing is fetched on this standby.', 'and say why');

# Members of pg_monitor see the same.
$node->safe_psql('postgres', 'CREATE ROLE watcher IN ROLE pg_monitor');
is($node->safe_psql('postgres', 'SET ROLE watcher; SELECT count(*) FROM registry.checks'), scalar @checks, 'pg_monitor');
is(failing(), '', 'at the end all are ok');

$reader->close;
$standby->stop;
$node->stop;
done_testing();
