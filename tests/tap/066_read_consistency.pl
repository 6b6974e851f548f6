# If this fails, a statement under read_consistency = snapshot reads a registry as of one moment and a table as of another:
# a transaction that changed both is seen half.
#
# STATEMENTS=n for more than the usual number of statements beside a writer.

use strict;
use warnings;

use FindBin;
use lib "$FindBin::RealBin/lib";

use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use RawProtocol;
use Test::More;

my $statements = $ENV{PGR_STATEMENTS} || 100_000;

my $node = PostgreSQL::Test::Cluster->new('main');
$node->init(allows_streaming => 1);
$node->append_conf('postgresql.conf', "autovacuum = off\nmax_connections = 30");
$node->start;
$node->safe_psql(
	'postgres', q(
	CREATE EXTENSION pg_registry;
	SELECT registry.create_registry(name, 'bigint') FROM unnest('{one,many}'::text[]) AS name;
	SELECT registry.create_registry('memory', 'bigint', durable => false);
	CREATE TABLE one (v bigint);
	CREATE TABLE many (k text PRIMARY KEY, v bigint);
	CREATE TABLE there (v bigint);
	INSERT INTO one VALUES (0);
	INSERT INTO many SELECT 'k' || g, 0 FROM generate_series(1, 3000) AS g;
	SELECT registry.put('one', 'k', 0), registry.put('memory', 'k', 7), registry.put_many('many', (SELECT jsonb_object_agg(k, v) FROM many));

	CREATE FUNCTION change() RETURNS bigint LANGUAGE plpgsql AS $$
		DECLARE n bigint;
		BEGIN
			UPDATE one SET v = v + 1 RETURNING v INTO n;
			PERFORM registry.put('one', 'k', n);
			RETURN n;
		END $$;

	-- As fast as it can: one key; now and then by way of a savepoint, the whole of another registry, a registry that
	-- comes and goes.
	CREATE PROCEDURE writer() LANGUAGE plpgsql AS $$
		DECLARE n bigint;
		BEGIN
			LOOP
				n := change();
				IF n % 7 = 0 THEN
					BEGIN
						PERFORM change();
					EXCEPTION WHEN division_by_zero THEN NULL;
					END;
				END IF;
				IF n % 500 = 0 THEN
					UPDATE many SET v = n;
					PERFORM registry.put_many('many', (SELECT jsonb_object_agg(k, v) FROM many));
				END IF;
				IF n % 50 < 25 AND NOT EXISTS (SELECT FROM there) THEN
					INSERT INTO there VALUES (n);
					PERFORM registry.create_registry('there', 'bigint');
					PERFORM registry.put('there', 'k', n);
				ELSIF n % 50 >= 25 AND EXISTS (SELECT FROM there) THEN
					DELETE FROM there;
					PERFORM registry.drop_registry('there');
				END IF;
				COMMIT;
			END LOOP;
		END $$;

	-- How many of n statements see the two disagree.
	CREATE PROCEDURE compare(n int, INOUT differ int) LANGUAGE plpgsql AS $$
		DECLARE same boolean;
		BEGIN
			differ := 0;
			FOR i IN 1 .. n LOOP
				SELECT v = registry.get_bigint('one', 'k') INTO same FROM one;
				differ := differ + (NOT same)::int;
				IF i % 20 = 0 THEN
					SELECT registry.registry_exists('there') = EXISTS (SELECT FROM there) INTO same;
					differ := differ + (NOT same)::int;
				END IF;
				IF i % 3 > 0 THEN
					COMMIT; -- every third one is two statements of one transaction
				END IF;
			END LOOP;
		END $$;
	CREATE PROCEDURE compare_many(n int, INOUT differ int) LANGUAGE plpgsql AS $$
		DECLARE c bigint;
		BEGIN
			differ := 0;
			FOR i IN 1 .. n LOOP
				SELECT count(*) FILTER (WHERE v IS DISTINCT FROM registry.get_bigint('many', k)) INTO c FROM many;
				differ := differ + (c > 0)::int;
				COMMIT;
			END LOOP;
		END $$;
));

sub fallbacks
{
	return $node->safe_psql('postgres', "SELECT sum(fallback_reads) FROM registry.registries WHERE name IN ('one', 'many')");
}

sub session
{
	my (@settings) = @_;
	my $session = RawProtocol->new($node, 'postgres');

	$session->query("SET $_") for 'pg_registry.read_consistency = snapshot', @settings;
	return $session;
}

sub value_of
{
	my ($session, $sql) = @_;

	return ($session->query($sql))[0][0];
}

# ---------------------------------------------------------------------------
# One at a time
# ---------------------------------------------------------------------------

my $both = q(SELECT v, registry.get_bigint('one', 'k') FROM one);
my $writer = RawProtocol->new($node, 'postgres');
my $reader = session();
my $before;

is_deeply([ $reader->query($both) ], [ [ 0, 0 ] ], 'nothing under way: the two agree');
is(fallbacks(), 0, '... and the image answered');

# A snapshot that is older than the pin.
$reader->query('BEGIN ISOLATION LEVEL REPEATABLE READ');
$reader->query('SET LOCAL pg_registry.read_consistency = isolation');
$reader->query('SELECT v FROM one');
$writer->query('SELECT change()');
is_deeply([ $reader->query($both) ], [ [ 0, 1 ] ], 'isolation: the pin is newer than the snapshot, and so is what it shows');
$reader->query('SET LOCAL pg_registry.read_consistency = snapshot');
is_deeply([ $reader->query($both) ], [ [ 0, 0 ] ], 'snapshot: both as of the snapshot');
is(fallbacks(), 1, '... by a read of the table, which is counted');
is(value_of($reader, "SELECT registry.get_bigint('memory', 'k')"), 7, 'a memory registry has nothing but the image');
$writer->query("SELECT registry.create_registry('new', 'bigint')");
is($reader->sqlstate("SELECT registry.get_bigint('new', 'k')"), '42704', 'a registry that the snapshot does not see does not exist');
$reader->query('ROLLBACK');
is_deeply([ $reader->query($both) ], [ [ 1, 1 ] ], 'the next statement has the new values');
is(fallbacks(), 1, '... from the image');

# A snapshot that is newer than the pin: a later statement of a function.
$node->safe_psql(
	'postgres', q(
	CREATE FUNCTION twice(OUT first text, OUT second text) LANGUAGE plpgsql AS $$
		BEGIN
			SELECT v || ',' || registry.get_bigint('one', 'k') INTO first FROM one;
			PERFORM pg_advisory_lock(1);
			SELECT v || ',' || registry.get_bigint('one', 'k') INTO second FROM one;
			PERFORM pg_advisory_unlock(1);
		END $$));
my $waits = q(SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND objid = 1 AND NOT granted);
for my $case ([ 'isolation', '2,1' ], [ 'snapshot', '3,3' ])
{
	my ($mode, $expected) = @$case;
	my ($first) = split /,/, $expected;

	$writer->query('SELECT pg_advisory_lock(1)');
	$reader->query("SET pg_registry.read_consistency = $mode");
	$reader->send('SELECT * FROM twice()');
	$node->poll_query_until('postgres', "SELECT ($waits) = 1") or die 'the reader does not wait';
	$writer->query('SELECT change()');
	$writer->query('SELECT pg_advisory_unlock(1)');
	is(($reader->finish)[0][1], $expected, "$mode: a later statement of a function");
}

# The same where PL/pgSQL keeps what a function call has remembered from one statement to the next.
$node->safe_psql(
	'postgres', q(
	CREATE FUNCTION price() RETURNS bigint STABLE LANGUAGE plpgsql AS $$ BEGIN RETURN registry.get_bigint('one', 'k'); END $$;
	CREATE FUNCTION by_wrapper(OUT first text, OUT second text) LANGUAGE plpgsql AS $$
		BEGIN
			SELECT string_agg(v || ',' || price(), ' ') INTO first FROM one, generate_series(1, 3);
			PERFORM pg_advisory_lock(1);
			SELECT string_agg(v || ',' || price(), ' ') INTO second FROM one, generate_series(1, 3);
			PERFORM pg_advisory_unlock(1);
		END $$));
$writer->query('SELECT pg_advisory_lock(1)');
$reader->send('SELECT * FROM by_wrapper()');
$node->poll_query_until('postgres', "SELECT ($waits) = 1") or die 'the reader does not wait';
$writer->query('SELECT change()');
$writer->query('SELECT pg_advisory_unlock(1)');
is(($reader->finish)[0][1], '4,4 4,4 4,4', 'a wrapper in PL/pgSQL, called for each row');
$reader->query('BEGIN ISOLATION LEVEL REPEATABLE READ');
$reader->query('SET LOCAL pg_registry.read_consistency = isolation');
$reader->query('SELECT v FROM one');
$writer->query('SELECT change()');
is_deeply([ $reader->query('SELECT v, price() FROM one') ], [ [ 4, 5 ] ], 'and after a change of the setting');
$reader->query('SET LOCAL pg_registry.read_consistency = snapshot');
is_deeply([ $reader->query('SELECT v, price() FROM one') ], [ [ 4, 4 ] ], '... it is asked again');

# registry.registries says what a read would find.
my $list = q(SELECT string_agg(concat_ws(' ', name, state, entries), ', ' ORDER BY name) FROM registry.registries WHERE name <> 'rates');
$writer->query("SELECT registry.create_registry('newer', 'text'), registry.create_registry('newer memory', 'text', durable => false), registry.put('one', 'more', 1)");
my $shown = 'many from table 3000, memory resident 1, new from table 0, one from table 1';
is(value_of($reader, $list), $shown, 'registry.registries is as of the snapshot');
$reader->query("SELECT registry.put('memory', 'own', 1)");
is(value_of($reader, $list), $shown =~ s/resident 1/resident 2/r, 'and has all of them beside own changes');
$reader->query('ROLLBACK');
$writer->query("SELECT registry.drop_registry('newer'), registry.drop_registry('newer memory'), registry.delete('one', 'more')");

# A name that was a memory registry's.
$writer->query("SELECT registry.create_registry('name', 'bigint', durable => false), registry.put('name', 'k', 1)");
$reader->query('BEGIN ISOLATION LEVEL REPEATABLE READ');
$reader->query('SET LOCAL pg_registry.read_consistency = isolation');
$reader->query('SELECT v FROM one');
$writer->query("SELECT registry.drop_registry('name')");
$writer->query("SELECT registry.create_registry('name', 'bigint')");
$writer->query("SELECT registry.put('name', 'k', 2)");
$reader->query('SET LOCAL pg_registry.read_consistency = snapshot');
is($reader->sqlstate("SELECT registry.get_bigint('name', 'k')"), '42704', 'a memory registry is not taken for its durable successor');
$reader->query('ROLLBACK');
$writer->query("SELECT registry.drop_registry('name')");

# A transaction that runs and runs, anywhere, does not send everybody to the tables.
my $runs = RawProtocol->new($node, 'template1');
$runs->query('BEGIN; SELECT pg_current_xact_id()');
$writer->query('DO $$ BEGIN FOR i IN 1 .. 600 LOOP PERFORM change(); COMMIT; END LOOP; END $$');
$before = fallbacks();
is(value_of($reader, 'SELECT v = registry.get_bigint(\'one\', \'k\') FROM one'), 't', '600 publishes beside an old transaction of another database');
$writer->query("SELECT registry.reload('one')");
is(value_of($reader, 'SELECT v = registry.get_bigint(\'one\', \'k\') FROM one'), 't', 'and a reload');
is(fallbacks(), $before, 'all from the image');
$runs->query('COMMIT');

# More publishes than are remembered, behind a pin that agreed, and before one that never was compared.
my $old = session();
my $older = session('pg_registry.read_consistency = isolation');
$_->query('BEGIN ISOLATION LEVEL REPEATABLE READ') for $old, $older;
my ($expected) = map { $_->[0] } $old->query($both);
$older->query('SELECT v FROM one');
$writer->query('DO $$ BEGIN FOR i IN 1 .. 600 LOOP PERFORM change(); COMMIT; END LOOP; END $$');
$before = fallbacks();
is_deeply([ $old->query($both) ], [ [ $expected, $expected ] ], '600 publishes later an old transaction reads what it read');
is(fallbacks(), $before, '... from the image, as it agreed once');
$older->query('SET pg_registry.read_consistency = snapshot');
is_deeply([ $older->query($both) ], [ [ $expected, $expected ] ], '... and one with a new pin what its snapshot shows');
is(fallbacks(), $before + 1, '... from the table');
$_->query('COMMIT') for $old, $older;

# Own changes, and a snapshot that came from another session.
$reader->query('BEGIN ISOLATION LEVEL REPEATABLE READ');
$reader->query($both);
my $id = value_of($reader, 'SELECT pg_export_snapshot()');
$writer->query('SELECT change()');
my $importer = session();
$importer->query('BEGIN ISOLATION LEVEL REPEATABLE READ');
$importer->query("SET TRANSACTION SNAPSHOT '$id'");
is_deeply([ $importer->query($both) ], [ [ $expected + 600, $expected + 600 ] ], 'an imported snapshot is what counts');
$importer->query('COMMIT');
$reader->query('COMMIT');
$reader->query('BEGIN');
$reader->query('SELECT change()');
is_deeply([ $reader->query($both) ], [ [ $expected + 602, $expected + 602 ] ], 'own changes are in both');
$reader->query('ROLLBACK');
is_deeply([ $reader->query($both) ], [ [ $expected + 601, $expected + 601 ] ], '... and gone from both');

# DML, and a reload behind it.
$reader->query('BEGIN ISOLATION LEVEL REPEATABLE READ');
$reader->query('SELECT v FROM many LIMIT 1');
$writer->query("BEGIN; UPDATE one SET v = -1; UPDATE _registry.stored_entries SET value = '-1' WHERE registry = 'one'; COMMIT");
$writer->query("SELECT registry.reload('one')");
is_deeply([ $reader->query($both) ], [ [ $expected + 601, $expected + 601 ] ], 'a reload is newer than the snapshot');
$reader->query('COMMIT');
is_deeply([ $reader->query($both) ], [ [ -1, -1 ] ], 'DML is seen as a put is');
$writer->query("SELECT change()");

# ---------------------------------------------------------------------------
# A load puts into memory what was committed without being published
# ---------------------------------------------------------------------------

my $holder = RawProtocol->new($node, 'postgres');
$holder->query('SELECT pg_advisory_lock(0, 7)');
$node->safe_psql('postgres', 'ALTER DATABASE postgres SET pg_registry.test_load_lock = 7');
# whoever alters our triggers takes all out of memory
$node->safe_psql('postgres', "ALTER TABLE _registry.stored_entries $_ TRIGGER changed") for 'DISABLE', 'ENABLE ALWAYS';
$older->query('BEGIN ISOLATION LEVEL REPEATABLE READ');
$older->query('SET LOCAL pg_registry.read_consistency = isolation');
($expected) = map { $_->[0] } $older->query('SELECT v FROM one');
$writer->query('SELECT change()');
is($node->safe_psql('postgres', "SELECT state FROM registry.registries WHERE name = 'one'"), 'from table', 'a registry is not in memory');
$holder->query('SELECT pg_advisory_unlock(0, 7)');
$node->poll_query_until('postgres', "SELECT state = 'resident' FROM registry.registries WHERE name = 'one'") or die 'it is not loaded';
$older->query('SET LOCAL pg_registry.read_consistency = snapshot');
is_deeply([ $older->query($both) ], [ [ $expected, $expected ] ], 'after it was loaded an older snapshot reads its table');
$older->query('COMMIT');

# ---------------------------------------------------------------------------
# All at once
# ---------------------------------------------------------------------------

my $busy = RawProtocol->new($node, 'postgres');
my $loader = RawProtocol->new($node, 'postgres');
my $pid = value_of($busy, 'SELECT pg_backend_pid()');
my $control = RawProtocol->new($node, 'postgres');
$busy->send('CALL writer()');

my $mismatches = value_of(session('pg_registry.read_consistency = isolation'), "CALL compare($statements, 0)");
cmp_ok($mismatches, '>', 0, "isolation: $mismatches of $statements statements see the two disagree, so this test can tell");

for my $level ('read committed', 'repeatable read')
{
	$before = fallbacks();
	my $session = session("default_transaction_isolation = '$level'");
	is(value_of($session, "CALL compare($statements, 0)"), 0, "$level: no disagreement in $statements statements");
	note(sprintf '%s: %.2f %% of them read the table', $level, 100 * (fallbacks() - $before) / $statements);
}

# Loads between: each takes a registry's rows as they are then.
$loader->query(
	q(CREATE PROCEDURE reloads() LANGUAGE plpgsql AS $$
		BEGIN
			LOOP
				PERFORM registry.reload('one');
				COMMIT;
			END LOOP;
		END $$));
my $loader_pid = value_of($loader, 'SELECT pg_backend_pid()');
$loader->send('CALL reloads()');
is(value_of(session(), "CALL compare($statements / 10, 0)"), 0, 'no disagreement beside reloads');
$control->query("SELECT pg_cancel_backend($loader_pid)");
$loader->finish;

my @parallel = ('min_parallel_table_scan_size = 0', 'parallel_setup_cost = 0', 'parallel_tuple_cost = 0', 'max_parallel_workers_per_gather = 2');
my $many = session(@parallel);
like(join("\n", map { $_->[0] } $many->query(q(EXPLAIN SELECT count(*) FILTER (WHERE v IS DISTINCT FROM registry.get_bigint('many', k)) FROM many))),
	qr/Gather/, 'the next comparison is a parallel one');
$before = fallbacks();
is(value_of($many, 'CALL compare_many(200, 0)'), 0, 'no disagreement in parallel plans over 3,000 keys');
note('reads of tables: ' . (fallbacks() - $before) . ' of 600000');

$control->query("SELECT pg_cancel_backend($pid)");
$busy->finish;
is($busy->{error}{C}, '57014', 'the writer wrote until it was told to end');
note('it made ' . value_of($control, 'SELECT v FROM one') . ' changes');
is($node->safe_psql('postgres', "SELECT string_agg(problem, ',') FROM unnest('{one,many}'::text[]) AS name, registry.verify(name)"), '', 'image and tables are the same');

# ---------------------------------------------------------------------------
# A standby reads its tables
# ---------------------------------------------------------------------------

$node->backup('b');
my $standby = PostgreSQL::Test::Cluster->new('standby');
$standby->init_from_backup($node, 'b', has_streaming => 1);
$standby->start;
$node->wait_for_catchup($standby);
my $on_standby = RawProtocol->new($standby, 'postgres');
$on_standby->query('SET pg_registry.read_consistency = snapshot');
my ($there) = $on_standby->query($both);
is($there->[0], $there->[1], 'a standby agrees with its tables');
$on_standby->query('BEGIN ISOLATION LEVEL REPEATABLE READ');
my ($first) = $on_standby->query($both);
$standby->promote;
my $promoted = RawProtocol->new($standby, 'postgres');
$promoted->query('SELECT change()');
is_deeply([ $on_standby->query($both) ], [$first], 'a transaction that began before the promotion reads what it read');
$on_standby->query('COMMIT');
is_deeply([ $on_standby->query($both) ], [ [ $first->[0] + 1, $first->[0] + 1 ] ], 'the next one what came after');

done_testing();
