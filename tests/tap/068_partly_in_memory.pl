# If this fails, a statement reads one durable registry from memory and another from its table, as it does while a
# database is loaded or when there is no room, and sees half of the transaction that changed both (R-2).
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
$node->append_conf('postgresql.conf', "autovacuum = off\npg_registry.shared_memory = '8MB'");
$node->start;
$node->safe_psql(
	'postgres', q(
	CREATE EXTENSION pg_registry;
	SELECT registry.create_registry('small', 'bigint'), registry.create_registry('big', 'text'), registry.create_registry('memory', 'bigint', durable => false);
	SELECT registry.put('small', 'k', 0), registry.put('big', 'k', '0'), registry.put('memory', 'k', 7);

	CREATE FUNCTION change() RETURNS void LANGUAGE plpgsql AS $$
		DECLARE n bigint := registry.get_bigint('small', 'k') + 1;
		BEGIN
			PERFORM registry.put('small', 'k', n), registry.put('big', 'k', n::text);
		END $$;
	CREATE PROCEDURE writer() LANGUAGE plpgsql AS $$
		BEGIN
			LOOP
				PERFORM change();
				COMMIT;
			END LOOP;
		END $$;
	-- How many of n statements see one of the two changes.  Either is read first.
	CREATE PROCEDURE compare(n int, INOUT differ int) LANGUAGE plpgsql AS $$
		DECLARE same boolean;
		BEGIN
			differ := 0;
			FOR i IN 1 .. n LOOP
				IF i % 2 = 0 THEN
					SELECT registry.get_bigint('small', 'k') = registry.get_text('big', 'k')::bigint INTO same;
				ELSE
					SELECT registry.get_text('big', 'k')::bigint = registry.get_bigint('small', 'k') INTO same;
				END IF;
				differ := differ + (NOT same)::int;
				IF i % 3 > 0 THEN
					COMMIT;
				END IF;
			END LOOP;
		END $$;
	CREATE TABLE rows AS SELECT g FROM generate_series(1, 3000) AS g;
	CREATE PROCEDURE compare_many(n int, INOUT differ int) LANGUAGE plpgsql AS $$
		DECLARE c bigint;
		BEGIN
			differ := 0;
			FOR i IN 1 .. n LOOP
				SELECT count(DISTINCT v) + count(DISTINCT w) - 2 + (min(v) <> min(w))::int INTO c
				  FROM (SELECT registry.get_bigint('small', left('k', g)) AS v, registry.get_text('big', left('k', g))::bigint AS w FROM rows) AS reads;
				differ := differ + (c > 0)::int;
				COMMIT;
			END LOOP;
		END $$;
));

my $both = q(SELECT registry.get_bigint('small', 'k'), registry.get_text('big', 'k')::bigint);
my $writer = RawProtocol->new($node, 'postgres');
my $reader = RawProtocol->new($node, 'postgres');

sub state { return $node->safe_psql('postgres', "SELECT replace(state, 'loading', 'from table') FROM registry.registries WHERE name = '$_[0]'") }
sub session
{
	my (@settings) = @_;
	my $session = RawProtocol->new($node, 'postgres');

	$session->query("SET $_") for @settings;
	return $session;
}

# ---------------------------------------------------------------------------
# One at a time
# ---------------------------------------------------------------------------

# A pin of before: it goes on with what it has, whatever becomes of the registry.
my $old = session("default_transaction_isolation = 'repeatable read'");
$old->query('BEGIN');
$old->query('SELECT 1 FROM rows LIMIT 1');
$writer->query('SELECT change()');
is_deeply([ $old->query($both) ], [ [ 1, 1 ] ], 'a pin that is newer than its snapshot');
my $unread = session("default_transaction_isolation = 'repeatable read'");
$unread->query('BEGIN');
$unread->query('SELECT 1 FROM rows LIMIT 1');

$writer->query("SELECT registry.put_many('big', (SELECT jsonb_object_agg('x' || g, repeat('x', 100) || g) FROM generate_series(1, 60000) AS g))");
is(state('big'), 'from table', 'one registry has no room');
is(state('small'), 'resident', 'the other has');
$writer->query('SELECT change()');
is_deeply([ $old->query($both) ], [ [ 1, 1 ] ], 'the old pin still has both');
$old->query('COMMIT');
is_deeply([ $unread->query($both) ], [ [ 1, 1 ] ], 'a snapshot of before that has read nothing yet: both as of the snapshot');
is($unread->one("SELECT registry.get_bigint('memory', 'k')"), 7, '... and a memory registry as of now');
$writer->query('SELECT change()');
is_deeply([ $unread->query($both) ], [ [ 1, 1 ] ], '... every time');
$unread->query('COMMIT');
is_deeply([ $reader->query($both) ], [ [ 3, 3 ] ], 'the next statement has the new values');

# A later statement of a function has a later snapshot, as it has for tables.
$node->safe_psql(
	'postgres', q(
	CREATE FUNCTION twice(OUT first text, OUT second text) LANGUAGE plpgsql AS $$
		BEGIN
			SELECT registry.get_bigint('small', 'k') || ',' || registry.get_text('big', 'k') INTO first;
			PERFORM pg_advisory_lock(1);
			SELECT registry.get_bigint('small', 'k') || ',' || registry.get_text('big', 'k') INTO second;
			PERFORM pg_advisory_unlock(1);
		END $$));
$writer->query('SELECT pg_advisory_lock(1)');
$reader->send('SELECT * FROM twice()');
$node->poll_query_until('postgres', q(SELECT count(*) = 1 FROM pg_locks WHERE locktype = 'advisory' AND objid = 1 AND NOT granted)) or die 'the reader does not wait';
$writer->query('SELECT change()');
$writer->query('SELECT pg_advisory_unlock(1)');
is_deeply([ $reader->finish ], [ [ '3,3', '4,4' ] ], 'a later statement of a function');

# ---------------------------------------------------------------------------
# All at once
# ---------------------------------------------------------------------------

my $busy = RawProtocol->new($node, 'postgres');
my $pid = $busy->one('SELECT pg_backend_pid()');
$busy->send('CALL writer()');
for my $level ('read committed', 'repeatable read')
{
	my $before = $reader->one("SELECT sum(fallback_reads) FROM registry.registries WHERE name = 'small'");
	is(session("default_transaction_isolation = '$level'")->one("CALL compare($statements, 0)"), 0, "$level: no disagreement in $statements statements");
	note(sprintf '%s: %.2f %% of them read the small one from its table', $level,
		100 * ($reader->one("SELECT sum(fallback_reads) FROM registry.registries WHERE name = 'small'") - $before) / $statements);
}
my $many = session('min_parallel_table_scan_size = 0', 'parallel_setup_cost = 0', 'parallel_tuple_cost = 0', 'max_parallel_workers_per_gather = 2');
is($many->one('CALL compare_many(100, 0)'), 0, 'no disagreement in parallel plans');

# What comes and goes beside that: one registry into memory and out of it.
my $control = RawProtocol->new($node, 'postgres');
my $other = session();
$other->query(
	q(CREATE PROCEDURE comes_and_goes() LANGUAGE plpgsql AS $$
		BEGIN
			LOOP
				PERFORM registry.delete('big', 'x' || g) FROM generate_series(1, 60000) AS g;
				COMMIT;
				PERFORM registry.reload('big');
				COMMIT;
				PERFORM registry.put_many('big', (SELECT jsonb_object_agg('x' || g, repeat('x', 100) || g) FROM generate_series(1, 60000) AS g));
				COMMIT;
			END LOOP;
		END $$));
my $other_pid = $other->one('SELECT pg_backend_pid()');
$other->send('CALL comes_and_goes()');
is($reader->one("CALL compare($statements, 0)"), 0, 'no disagreement while one comes into memory and goes');
for my $victim ($other_pid, $pid)
{
	$control->query("SELECT pg_cancel_backend($victim)");
}
$other->finish;
$busy->finish;
is($other->{error}{C}, '57014', 'it came and went until it was told to end');
is($busy->{error}{C}, '57014', 'and the writer wrote');
is($reader->one("SELECT count(*) FROM unnest('{small,big}'::text[]) AS name, registry.verify(name)"), 0, 'image and tables are the same');

# All in memory again: nothing is compared any more, so a pin may be newer than its snapshot again.
$writer->query("DO \$\$ BEGIN PERFORM registry.delete('big', 'x' || g) FROM generate_series(1, 60000) AS g; END \$\$");
$writer->query("SELECT registry.reload('big')");
is(state('big'), 'resident', 'there is room for both');
my $expected = $reader->one("SELECT registry.get_bigint('small', 'k')");
$old->query('BEGIN');
$old->query('SELECT 1 FROM rows LIMIT 1');
$writer->query('SELECT change()');
is_deeply([ $old->query($both) ], [ [ $expected + 1, $expected + 1 ] ], 'the pin is what counts again');
$old->query('COMMIT');

done_testing();
