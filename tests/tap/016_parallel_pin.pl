# If this fails, a function that asks for the newest state in the middle of a parallel query takes the state
# away from under its workers, and the server crashes.

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
# Freed blocks are overwritten in test builds, so a reader of one would see rubbish at once.
$node->append_conf('postgresql.conf', "pg_registry.shared_memory = '2MB'");
$node->start;
$node->safe_psql(
	'postgres', q(
	CREATE EXTENSION pg_registry;
	SELECT registry.create_registry('p', 'text', durable => false);
	SELECT registry.put('p', 'k', 'v');
	CREATE TABLE big AS SELECT i FROM generate_series(1, 400000) i;
	ALTER TABLE big SET (parallel_workers = 2);
	ANALYZE big;
	CREATE PROCEDURE publish(n int) LANGUAGE plpgsql AS $$
		BEGIN
			FOR i IN 1 .. n LOOP PERFORM registry.put('p', 'k', 'v' || i); COMMIT; END LOOP;
		END $$;
	-- runs in the leader, reads with a parallel plan of its own
	CREATE FUNCTION inner_query(advances boolean) RETURNS text LANGUAGE plpgsql PARALLEL RESTRICTED AS $$
		DECLARE
			seen text;
		BEGIN
			IF advances THEN
				PERFORM registry.advance();
			END IF;
			SELECT min(registry.get_text('p', left('k' || i, 1))) INTO seen FROM big;
			RETURN seen;
		END $$;
));

my $reader = RawProtocol->new($node, 'postgres');
my $writer = RawProtocol->new($node, 'postgres');

$reader->query(
	q(
	SET parallel_setup_cost = 0; SET parallel_tuple_cost = 0; SET min_parallel_table_scan_size = 0;
	SET max_parallel_workers_per_gather = 2; SET parallel_leader_participation = off;
));

# The outer plan is parallel, and the function runs above its Gather.
sub outer
{
	return "SELECT count(DISTINCT v), count(DISTINCT n) FROM (SELECT registry.get_text('p', left('k' || i, 1)) AS v, "
	  . "CASE WHEN i % 100000 = 0 THEN inner_query($_[0]) END AS n FROM big OFFSET 0) s";
}
like(join("\n", map { $_->[0] } $reader->query('EXPLAIN ' . outer('false'))), qr/Gather/, 'the outer plan is parallel');

for my $run (1 .. 5)
{
	$writer->send('CALL publish(60000)');
	my ($row) = $reader->query(outer('false'));
	is("@$row", '1 1', "one value in the workers, one in the inner query, run $run");
	is($reader->sqlstate(outer('true')), '55000', "advance() under a parallel query is refused, run $run");
	$writer->finish;
}
is($reader->one('SELECT count(*) FROM registry.readers'), '0', 'no pin is left');

done_testing();
