# If this fails, a loader stays connected until all of its database is in memory, so that others wait for it (N-2); or a
# registry that takes several loaders loses what was changed between two of them (D-1, W-1).
#
# Test builds let ALTER DATABASE ... SET say how many entries one loader loads, and hold it at an advisory lock before it
# begins.

use strict;
use warnings;

use FindBin;
use lib "$FindBin::RealBin/lib";

use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use RawProtocol;
use Test::More;

my $node = PostgreSQL::Test::Cluster->new('main');
$node->init;
$node->append_conf('postgresql.conf', "restart_after_crash = on\nautovacuum = off\nlog_min_messages = debug1\nlog_statement = none");
$node->start;
$node->safe_psql('postgres', 'CREATE DATABASE many; CREATE DATABASE steps');

my $offset;

sub log_since { return substr(slurp_file($node->logfile), $offset) }
sub oid_of { return $node->safe_psql('postgres', "SELECT oid FROM pg_database WHERE datname = '$_[0]'") }
sub loaders { my $oid = oid_of($_[0]); return scalar(() = log_since() =~ /DEBUG:  registering background worker "pg_registry refresh worker for database $oid"/g) }
sub restart { $offset = -s $node->logfile; $node->restart; return }
sub wait_in { my ($database, $condition) = @_; return $node->poll_query_until($database, "SELECT $condition") || die $condition }
sub all_resident { return wait_in($_[0], "bool_and(state = 'resident') FROM registry.registries WHERE durable") }
sub differences { return $node->safe_psql($_[0], 'SELECT name, v.* FROM registry.registries, registry.verify(name) AS v WHERE durable') }

# ---------------------------------------------------------------------------
# Many registries, and one large one
# ---------------------------------------------------------------------------

$node->safe_psql(
	'many', q(
	CREATE EXTENSION pg_registry;
	SELECT registry.create_registry('r' || g, 'bigint') FROM generate_series(1, 40) g;
	SELECT sum(registry.put_many('r' || g, (SELECT jsonb_object_agg('k' || k, k) FROM generate_series(1, 100) k))) FROM generate_series(1, 40) g;
	SELECT registry.create_registry('large', 'text', max_age => '1 day');
	SELECT registry.put_many('large', (SELECT jsonb_object_agg('k' || k, 'value ' || k) FROM generate_series(1, 5000) k));
	SELECT registry.create_registry('late', 'bigint');
	SELECT registry.put('late', 'k', 1);
	ALTER DATABASE many SET pg_registry.test_load_entries = 500));
my $changed = $node->safe_psql('many', "SELECT last_change FROM registry.registries WHERE name = 'large'");
restart();
all_resident('many');
is(differences('many'), '', 'all is in memory as it is in the tables');
# 8 of five registries each, 10 for the large one and the rest; the first rounds may find no more to do
is(loaders('many') >= 18 && loaders('many') < 30, 1, 'by many loaders, of 500 entries each') or diag(loaders('many'));
is($node->safe_psql('many', "SELECT last_change FROM registry.registries WHERE name = 'large'"), $changed, 'the last change is what it was');
is($node->safe_psql('many', "SELECT count(*), count(value) FROM registry.get_many('large', ARRAY(SELECT 'k' || k FROM generate_series(0, 5001) k))"), '5000|5000', 'every key is found');
unlike(log_since(), qr/(WARNING|ERROR|FATAL|PANIC):/, 'without a word');

# CREATE DATABASE waits five seconds for others to leave the template.
$node->safe_psql('postgres', 'ALTER DATABASE many SET pg_registry.test_load_entries = 20');
restart();
$node->safe_psql('postgres', "CREATE DATABASE copy$_ TEMPLATE many") for 1 .. 3;
ok(1, 'a database is copied while it is loaded');
all_resident('many');
cmp_ok(loaders('many'), '>', 250, 'by hundreds of loaders');
is(differences('many'), '', '... and all is in memory');
$node->safe_psql('postgres', "DROP DATABASE copy$_") for 1 .. 3;

# ---------------------------------------------------------------------------
# Step by step
# ---------------------------------------------------------------------------

# Keys k0001 to k5000, a thousand to a loader.
$node->safe_psql(
	'steps', q(
	CREATE EXTENSION pg_registry;
	CREATE FUNCTION key(n int) RETURNS text IMMUTABLE LANGUAGE sql AS $$ SELECT 'k' || to_char(n, 'FM0000') $$;
	CREATE PROCEDURE fill() LANGUAGE plpgsql AS $$
		BEGIN
			PERFORM registry.drop_registry(name) FROM registry.registries WHERE durable;
			PERFORM registry.create_registry('r', 'bigint');
			PERFORM registry.put_many('r', (SELECT jsonb_object_agg(key(n), n) FROM generate_series(1, 5000) n));
		END $$;
	ALTER DATABASE steps SET pg_registry.test_load_entries = 1000;
	ALTER DATABASE steps SET pg_registry.test_load_lock = 7));

my $holder;
my $waiting = q(FROM pg_locks l JOIN pg_database d ON d.oid = l.database WHERE d.datname = 'steps' AND locktype = 'advisory' AND objid = 7 AND NOT granted);
my $last_pid;

# A new loader waits: the one before has ended.
sub next_loader
{
	my $known = $last_pid // 0;

	wait_in('postgres', "count(*) = 1 $waiting AND pid <> $known");
	$last_pid = $node->safe_psql('postgres', "SELECT pid $waiting");
	return;
}

# Nothing is in memory, and the first loader waits.
sub begin
{
	$holder //= RawProtocol->new($node, 'steps');
	$holder->query('SELECT pg_advisory_lock(0, 7)');
	$node->safe_psql('steps', 'CALL fill()');
	# whoever alters our triggers takes all out of memory
	$node->safe_psql('steps', "BEGIN; ALTER TABLE _registry.stored_entries DISABLE TRIGGER changed; ALTER TABLE _registry.stored_entries ENABLE ALWAYS TRIGGER changed; COMMIT");
	$last_pid = undef;
	next_loader();
	return;
}

# Let one loader do its part.
sub step
{
	$holder->query('SELECT pg_advisory_unlock(0, 7)');
	$holder->query('SELECT pg_advisory_lock(0, 7)');
	next_loader();
	return;
}

sub end
{
	my ($name) = @_;

	$holder->query('SELECT pg_advisory_unlock(0, 7)');
	all_resident('steps');
	is(differences('steps'), '', "$name: memory is what the table is");
	return;
}

my $s;
sub do_it { my ($sql) = @_; is($s->sqlstate($sql), '', substr($sql, 0, 70)); return }
# Reads against the table, whatever is in memory.
sub reads
{
	my ($name) = @_;
	is($s->one(q(SELECT count(*) FROM registry.entries('r') e FULL JOIN (SELECT key, value FROM _registry.stored_entries WHERE registry = 'r' AND (expires_at IS NULL OR expires_at > now())) t USING (key)
		WHERE t.value IS DISTINCT FROM e.value #>> '{}')), 0, "$name: reads find what the table has");
	return;
}
sub get { return $s->one("SELECT registry.get_bigint('r', '$_[0]')") }
sub start { begin(); $s = RawProtocol->new($node, 'steps'); return }

# Every kind of change below the bound and above it, after each batch.
my @changes = (
	q(SELECT registry.put('r', key(%1$d + 10), -1), registry.put('r', key(%1$d + 1010), -1), registry.put('r', key(4990), %1$d)),
	q(SELECT registry.put('r', key(%1$d + 20) || 'new', -2), registry.put('r', key(%1$d + 1020) || 'new', -2)),
	q(SELECT registry.delete('r', key(%1$d + 30)), registry.delete('r', key(%1$d + 1030))),
	q(BEGIN; SAVEPOINT s; SELECT registry.put('r', key(%1$d + 40), -3), registry.put('r', key(%1$d + 1040), -3); ROLLBACK TO s; SELECT registry.put('r', key(%1$d + 41), -3); COMMIT),
	q(BEGIN; SELECT registry.put('r', key(%1$d + 50), -4), registry.put('r', key(%1$d + 1050), -4); ROLLBACK),
	q(SELECT registry.put_many('r', jsonb_build_object(key(%1$d + 60), -5, key(%1$d + 1060), -5, 'a first', %1$d, 'z last', %1$d))),
	q(UPDATE _registry.stored_entries SET value = '-6' WHERE registry = 'r' AND key IN (key(%1$d + 70), key(%1$d + 1070))),
	q(DELETE FROM _registry.stored_entries WHERE registry = 'r' AND key IN (key(%1$d + 80), key(%1$d + 1080))),
	q(INSERT INTO _registry.stored_entries (registry, key, value) SELECT 'r', key(n) || ' row %1$d', '-7' FROM unnest(ARRAY[%1$d + 90, %1$d + 1090]) n),
	q(SELECT registry.put('r', key(%1$d + 95), -8, ttl => '1 hour'), registry.put('r', key(%1$d + 1095), -8, ttl => '1 microsecond')),
	# about the bound itself
	q(SELECT registry.put('r', key(%1$d + 1000), -9), registry.put('r', key(%1$d + 999), -9), registry.put('r', key(%1$d + 1001), -9)),
	q(SELECT registry.delete('r', key(%1$d + 1000)), registry.delete('r', key(%1$d + 1000) || 'x'), registry.put('r', key(%1$d + 1000) || '0', -10)),
	q(SELECT registry.put('r', key(%1$d + 1000), -11)));
start();
for my $n (0 .. 3)
{
	step();
	is($s->one("SELECT state FROM registry.registries WHERE name = 'r'"), 'from table', ($n + 1) . ',000 entries are loaded');
	do_it(sprintf $_, $n * 1000) for @changes;
	reads("with $n,000 and more");
}
end('changes between batches');
reads('in the end');
is(get('k0010'), -1, 'a change of the part that was loaded');
is(get('k4010'), -1, 'a change of the part that was not');
is(get('k1050'), 1050, 'what was rolled back is not there');
do_it(sprintf $_, 500) for @changes;
is(differences('steps'), '', 'and changes from then on are published');

# What concerns the whole of it, in the middle.
my %whole = (
	'clear' => [ "SELECT registry.clear('r')", "SELECT registry.put('r', key(500), 1), registry.put('r', key(3500), 2)" ],
	'TRUNCATE' => [ 'TRUNCATE _registry.stored_entries', "SELECT registry.put('r', key(500), 1), registry.put('r', key(3500), 2)" ],
	'replace' => [ "SELECT registry.put_many('r', jsonb_build_object(key(500), 1, key(3500), 2), replace => true)", "SELECT registry.delete('r', key(500)), registry.delete('r', key(3500))" ],
	'rename' => [ q(SELECT registry.alter_registry('r', '{"name": "other"}')), "SELECT registry.put('other', key(500), 1), registry.put('other', key(3500), 2)", q(SELECT registry.alter_registry('other', '{"name": "r"}')) ],
	'alter' => [ q(SELECT registry.alter_registry('r', '{"max_age": "1 day"}')), "SELECT registry.put('r', key(500), 1), registry.put('r', key(3500), 2)" ],
	'grant' => [ "SELECT registry.grant_access('r', 'read', 'public')", "SELECT registry.put('r', key(500), 1), registry.put('r', key(3500), 2)" ],
	'reload' => [ "SELECT registry.reload('r')", "SELECT registry.put('r', key(500), 1), registry.put('r', key(3500), 2)" ],
	'drop and create' => [ "SELECT registry.drop_registry('r'), registry.create_registry('r', 'bigint')", "SELECT registry.put('r', key(500), 1), registry.put('r', key(3500), 2)" ],
	'a trigger altered' => [ 'ALTER TABLE _registry.stored_entries DISABLE TRIGGER changed', 'ALTER TABLE _registry.stored_entries ENABLE ALWAYS TRIGGER changed', "SELECT registry.put('r', key(500), 1), registry.put('r', key(3500), 2)" ],
);
for my $name (sort keys %whole)
{
	start();
	step() for 1 .. 2;
	do_it($_) for @{ $whole{$name} };
	reads($name);
	end($name);
	reads("$name, then");
}

# A transaction that was open when a batch began: the loader waits for it, and so no half of it is loaded.
start();
step();
$s->query('BEGIN');
$s->query("SELECT registry.put('r', key(500), -1), registry.put('r', key(1500), -1)");
$holder->query('SELECT pg_advisory_unlock(0, 7)');
wait_in('postgres', q(count(*) = 1 FROM pg_locks WHERE locktype = 'object' AND classid = 'pg_extension'::regclass AND objsubid = 65 AND NOT granted));
$s->query('COMMIT');
end('a transaction during a batch');
is(get('k0500') . get('k1500'), '-1-1', 'all of it is there');

# Who changes grants has no lock on the registry, and takes it out of memory if there is no room: while a batch has read
# its rows.  And one whose rows cannot be read leaves nothing in memory.
my $other = RawProtocol->new($node, 'steps');
$other->query('SELECT pg_advisory_lock(0, 8)');
start();
step();
$node->safe_psql('postgres', 'ALTER DATABASE steps SET pg_registry.test_batch_lock = 8');
step();
$holder->query('SELECT pg_advisory_unlock(0, 7)');
wait_in('postgres', q(count(*) = 1 FROM pg_locks WHERE locktype = 'advisory' AND objid = 8 AND NOT granted));
do_it("SET pg_registry.max_bytes_per_database = '64kB'");
do_it("SELECT registry.grant_access('r', 'read', 'public')");
$node->safe_psql('postgres', 'ALTER DATABASE steps RESET pg_registry.test_batch_lock');
$other->query('SELECT pg_advisory_unlock(0, 8)');
end('grants without room during a batch');
is(get('k0001') . get('k4999'), '14999', 'all of it is there');

start();
step();
do_it("ALTER TABLE _registry.stored_entries DISABLE TRIGGER ALL; UPDATE _registry.stored_entries SET value = 'no number' WHERE registry = 'r' AND key = key(1500); ALTER TABLE _registry.stored_entries ENABLE TRIGGER ALL; "
	. join('; ', map { "ALTER TABLE _registry.stored_entries ENABLE ALWAYS TRIGGER $_" } qw(changes changed empties emptied)));
$holder->query('SELECT pg_advisory_unlock(0, 7)');
wait_in('steps', "detail ~ 'read from their tables' FROM registry.checks WHERE check_name = 'registries_resident'");
is($s->one("SELECT coalesce(bytes, 0) < 1000 FROM registry.registries WHERE name = 'r'"), 't', 'a value that cannot be read: nothing stays in memory');
is(get('k0500'), 500, 'and the rest is read from the table');
do_it("UPDATE _registry.stored_entries SET value = '1500' WHERE registry = 'r' AND key = key(1500)");
end('then it is repaired');

# ---------------------------------------------------------------------------
# Crashes, and lack of memory
# ---------------------------------------------------------------------------

start();
step() for 1 .. 2;
kill 'KILL', $last_pid;
$node->poll_query_until('steps', 'SELECT true') or die;
$holder = RawProtocol->new($node, 'steps');
$holder->query('SELECT pg_advisory_lock(0, 7)');
$s = RawProtocol->new($node, 'steps');
do_it("SELECT registry.put('r', key(500), 1), registry.put('r', key(3500), 2)");
end('kill -9 between two batches');

# One that does not fit beside its own first half: it is loaded at once.  One that fits nowhere leaves nothing behind.
$node->append_conf('postgresql.conf', "pg_registry.shared_memory = '8MB'");
$node->safe_psql('steps', "ALTER DATABASE steps SET pg_registry.test_load_entries = 20000; ALTER DATABASE steps RESET pg_registry.test_load_lock; SELECT registry.drop_registry('r')");
$holder->close;
$s->close;
$node->safe_psql('postgres', 'DROP DATABASE many');
for my $case ([ 35_000, 'resident' ], [ 90_000, 'from table' ])
{
	my ($n, $state) = @$case;

	$node->safe_psql('steps', "SELECT registry.create_registry('r', 'bigint'); INSERT INTO _registry.stored_entries (registry, key, value) SELECT 'r', 'k' || g, g FROM generate_series(1, $n) g");
	restart();
	wait_in('steps', "detail IS NOT NULL FROM registry.checks WHERE check_name = 'registries_resident'") if $state eq 'from table';
	wait_in('steps', "state = '$state' FROM registry.registries WHERE name = 'r'");
	is($node->safe_psql('steps', "SELECT registry.get_bigint('r', 'k34444')"), 34444, "$n entries: $state");
	is(differences('steps'), '', '... and right');
	$node->safe_psql('steps', "SELECT registry.drop_registry('r')");
}

$node->stop;
done_testing();
