# If this fails, a transaction does not read what it has just written (or reads what it has rolled back), or its
# parallel workers answer from another state than the session itself (W-1).

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
$node->append_conf('postgresql.conf', 'autovacuum = off');
$node->start;
$node->safe_psql(
	'postgres', q(
	CREATE EXTENSION pg_registry;
	SELECT registry.create_registry('r', 'bigint', durable => false);
	SELECT registry.put('r', 'k', 1);
	SELECT registry.put('r', 'gone', 1);
	SELECT registry.set_rates('EUR', '{"USD": 2}');
	CREATE FUNCTION who() RETURNS int LANGUAGE internal VOLATILE PARALLEL SAFE AS 'pg_backend_pid';
	CREATE FUNCTION nested(key text) RETURNS jsonb LANGUAGE plpgsql STABLE PARALLEL SAFE AS
		$$ DECLARE x jsonb; BEGIN SELECT registry.get('r', key) INTO x; RETURN x; END $$;
	CREATE TABLE big AS SELECT g AS id FROM generate_series(1, 20000) g;
	ALTER TABLE big SET (parallel_workers = 2);
	ANALYZE big;
));

my $session = RawProtocol->new($node, 'postgres');
my $other = RawProtocol->new($node, 'postgres');
$session->query('SET parallel_setup_cost = 0; SET parallel_tuple_cost = 0; SET min_parallel_table_scan_size = 0;
	SET max_parallel_workers_per_gather = 2; SET force_parallel_mode = on; SET parallel_leader_participation = off');

# What parallel workers read: one value, or a list of different ones; and that workers read, not the leader.
sub in_workers
{
	my ($expression, $rows) = @_;
	$rows //= 20_000;
	my @rows = $session->query(
		"SELECT who(), min(v), max(v), count(*) FROM (SELECT coalesce(($expression)::text, 'null') AS v FROM big WHERE id <= $rows) s GROUP BY 1");
	my %values = map { $_->[1] => 1, $_->[2] => 1 } @rows;

	return 'the leader itself' if grep { $_->[0] == $session->{pid} } @rows;
	return join(' and ', sort keys %values);
}

# Each step, and what the session and its workers then read: k, gone, new, entry_count, a rate.
my @reads = (
	[ 'k', "registry.get('r', 'k')" ],
	[ 'gone', "nested('gone')" ],
	[ 'new', "registry.get('r', left('new' || id, 3))", "registry.get('r', 'new')" ],
	[ 'count', "registry.entry_count('r')" ],
	[ 'rate', "registry.rate('EUR', 'USD')" ],
	[ 'exists', "registry.registry_exists('mine')" ],
);
my @steps = (
	[ 'BEGIN', '1 1 null 2 2 false' ],
	[ "SELECT registry.put('r', 'k', 2)", '2 1 null 2 2 false' ],
	[ "SELECT registry.delete('r', 'gone')", '2 null null 1 2 false' ],
	[ "SELECT registry.put('r', 'new', 7)", '2 null 7 2 2 false' ],
	[ 'SAVEPOINT a', '2 null 7 2 2 false' ],
	[ "SELECT registry.put('r', 'k', 3), registry.put('r', 'gone', 4), registry.delete('r', 'new')", '3 4 null 2 2 false' ],
	[ "SELECT registry.set_rates('EUR', '{\"USD\": 3}')", '3 4 null 2 3 false' ],
	[ "SELECT registry.create_registry('mine', 'text', durable => false)", '3 4 null 2 3 true' ],
	[ 'SAVEPOINT b', '3 4 null 2 3 true' ],
	[ "SELECT registry.drop_registry('mine'); SELECT registry.put('r', 'k', 9)", '9 4 null 2 3 false' ],
	[ 'ROLLBACK TO b', '3 4 null 2 3 true' ],
	[ 'RELEASE a', '3 4 null 2 3 true' ],
	[ 'SAVEPOINT c', '3 4 null 2 3 true' ],
	[ "SELECT registry.put('r', 'many ' || g, g) FROM generate_series(1, 5000) g", '3 4 null 5002 3 true' ],
	[ "SELECT registry.put('r', 'k', g) FROM generate_series(1, 50) g", '50 4 null 5002 3 true' ],
	[ 'ROLLBACK TO c', '3 4 null 2 3 true' ],
	[ "SELECT registry.delete('r', 'many 1'), registry.put('r', 'k', 5)", '5 4 null 2 3 true' ],
	[ 'ROLLBACK', '1 1 null 2 2 false' ],
);
for my $step (@steps)
{
	my ($sql, $expected) = @$step;

	$session->query($sql);
	my @own;
	my @workers;
	for my $read (@reads)
	{
		my ($name, $expression, $serial) = @$read;
		# A count of a registry with many changes of one's own is slow.
		push @workers, in_workers($expression, $name eq 'count' ? 20 : 2000);
		push @own, $session->one("SELECT coalesce((" . ($serial // $expression) . ")::text, 'null')");
	}
	is("@own", $expected, "$sql: the session");
	is("@workers", $expected, "$sql: its parallel workers");
}

# Many puts, each of them found by workers.
$session->query("BEGIN; SELECT registry.put('r', 'n' || id, id) FROM big");
is(in_workers("registry.get('r', 'n' || id) = to_jsonb(id)"), 'true', 'workers find each of 20,000 uncommitted puts');
$session->query('SAVEPOINT s');
$session->query("SELECT registry.put('r', 'n' || id, -id) FROM big WHERE id % 2 = 0");
is(in_workers("registry.get('r', 'n' || id) = to_jsonb(CASE WHEN id % 2 = 0 THEN -id ELSE id END)"), 'true', 'and the newer half');
$session->query('ROLLBACK TO s');
is(in_workers("registry.get('r', 'n' || id) = to_jsonb(id)"), 'true', 'and the older ones again after a rollback');
is($other->one("SELECT registry.entry_count('r')"), 2, 'nobody else sees any of them');
$session->query('COMMIT');
is(in_workers("registry.get('r', 'n' || id) = to_jsonb(id)"), 'true', 'workers find them committed');
is($other->one("SELECT registry.entry_count('r')"), 20002, 'as everybody does');
$session->query("SELECT registry.delete('r', 'n' || id) FROM big");
is($other->one("SELECT registry.entry_count('r')"), 2, 'deleted again');

# Commands: a change is seen by later commands, not by its own.
$session->query('RESET ALL');
is(join(' ', map { $_->[0] // 'null' } $session->query("SELECT registry.get('r', 'c') FROM (SELECT registry.put('r', 'c', g) FROM generate_series(1, 3) g OFFSET 0) s")),
	'null null null', 'the command that puts does not see it');
is($session->one("SELECT registry.get('r', 'c')"), '3', 'the next one does, and the last of them wins');
$session->query("BEGIN; DECLARE c CURSOR FOR SELECT registry.get('r', 'c') FROM generate_series(1, 2); FETCH c");
$session->query("SELECT registry.put('r', 'c', 4)");
is($session->one('FETCH c'), '3', 'a cursor does not see a later put of its transaction');
is($session->one("SELECT registry.get('r', 'c')"), '4', 'a new command does');
$session->query('ROLLBACK');

# Exception blocks in each other.
$session->query(q(
	DO $$
	DECLARE seen text := '';
	BEGIN
		PERFORM registry.put('r', 'e', 1);
		BEGIN
			PERFORM registry.put('r', 'e', 2);
			BEGIN
				PERFORM registry.put('r', 'e', 3);
				PERFORM registry.put('r', 'f', 3);
				seen := concat_ws(' ', seen, registry.get('r', 'e'));
				RAISE EXCEPTION 'inner';
			EXCEPTION WHEN raise_exception THEN
				seen := concat_ws(' ', seen, registry.get('r', 'e'), coalesce(registry.get('r', 'f'), 'null'));
				PERFORM registry.put('r', 'g', 4);
			END;
			BEGIN
				PERFORM registry.put('r', 'e', 5);
			EXCEPTION WHEN raise_exception THEN NULL;
			END;
			seen := concat_ws(' ', seen, registry.get('r', 'e'), registry.get('r', 'g'));
			PERFORM 1 / (registry.get('r', 'e')::text::int - 5);
		EXCEPTION WHEN division_by_zero THEN
			seen := concat_ws(' ', seen, registry.get('r', 'e'), coalesce(registry.get('r', 'g'), 'null'));
		END;
		PERFORM registry.put('r', 'seen', length(seen));
		IF seen <> '3 2 null 5 4 1 null' AND seen <> ' 3 2 null 5 4 1 null' THEN
			RAISE EXCEPTION 'seen: %', seen;
		END IF;
	END $$));
is(join(' ', map { $_ // 'null' } @{ ($session->query("SELECT registry.get('r', 'e'), registry.get('r', 'f'), registry.get('r', 'g')"))[0] }), '1 null null',
	'exception blocks: what was rolled back is not committed');

# Many subtransactions, one in three rolled back.
$session->query(q(
	DO $$
	BEGIN
		FOR i IN 1 .. 3000
		LOOP
			BEGIN
				PERFORM registry.put('r', 's' || i, i);
				PERFORM registry.put('r', 'last', i);
				IF i % 3 = 0 THEN RAISE EXCEPTION 'no'; END IF;
			EXCEPTION WHEN raise_exception THEN NULL;
			END;
		END LOOP;
	END $$));
is($session->one("SELECT count(*) FROM registry.entries('r') WHERE key ~ '^s\\d'"), 2000, '3,000 subtransactions, a third rolled back');
is($session->one("SELECT registry.get('r', 'last')"), 2999, 'the last that was not');

# Who must not write.
for my $write ("SELECT registry.put('r', 'k', 8)", "SELECT registry.put('r', 'k', 'x'::text)", "SELECT registry.delete('r', 'k')", "SELECT registry.put_many('r', '{\"k\": 8}')",
	"SELECT registry.create_registry('no', 'text', durable => false)", "SELECT registry.drop_registry('r')", "SELECT registry.set_rates('EUR', '{\"USD\": 9}')")
{
	$session->query('BEGIN READ ONLY');
	is($session->sqlstate($write), '25006', "read-only transaction: $write");
	$session->query('ROLLBACK');
	$session->query('SET default_transaction_read_only = on');
	is($session->sqlstate($write), '25006', 'and by default');
	$session->query('RESET default_transaction_read_only');
	$session->query('BEGIN');
	my $good = $write =~ s/'x'::text/'8'::text/r;
	is($session->sqlstate($good), '', 'before PREPARE TRANSACTION');
	is($session->sqlstate("PREPARE TRANSACTION 'x'"), '0A000', 'which is refused');
	is($session->sqlstate('ROLLBACK'), '', 'and nothing is left of it');
}
is($session->one("SELECT registry.get('r', 'k')"), '1', 'nothing has changed');
is($session->one("SELECT registry.rate('EUR', 'USD')"), '2', 'nor have the rates');
is($session->sqlstate("BEGIN; SELECT registry.get('r', 'k'); SAVEPOINT a; SELECT registry.put('r', 'k', 5); ROLLBACK TO a; PREPARE TRANSACTION 'x'"),
	'', 'PREPARE TRANSACTION after reads, and after a put that is rolled back');
is($session->sqlstate("COMMIT PREPARED 'x'"), '', 'and its end');
is($other->sqlstate("SELECT registry.put('r', 'k', 1)"), '', 'which leaves nobody locked out');

# A function that lies about itself.
$session->query("CREATE FUNCTION puts(int) RETURNS void LANGUAGE sql PARALLEL SAFE AS \$\$ SELECT registry.put('r', 'k', 99) \$\$");
$session->query("CREATE FUNCTION puts_too(int) RETURNS int LANGUAGE plpgsql PARALLEL SAFE AS \$\$ BEGIN PERFORM registry.put('r', 'k', 99); RETURN 1; END \$\$");
$session->query('SET parallel_setup_cost = 0; SET parallel_tuple_cost = 0; SET min_parallel_table_scan_size = 0; SET force_parallel_mode = on');
is($session->sqlstate('SELECT count(puts_too(id)) FROM big'), '25000', 'a put in a parallel worker is refused');
like($session->{error}{M}, qr/parallel/, 'with the reason');
is($session->one("SELECT registry.get('r', 'k')"), '1', 'and has no effect');

# Sessions that end in the middle of it.
is($other->one("SELECT sum(bytes) FROM registry.memory WHERE part IN ('uncommitted changes', 'reserved by commits')"), 0, 'no uncommitted change is left over');

$node->stop;
done_testing();
