# If this fails, a numeric that somebody still uses is overwritten in shared memory under him: he computes with
# garbage.  get_numeric() returns a pointer to where the value lies, as long as the statement's pin outlives it.
# Freed memory is overwritten in the builds that are tested here, so a value that outlived its pin shows.

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
$node->append_conf('postgresql.conf', "pg_registry.shared_memory = '1MB'\nshared_preload_libraries = 'pg_registry'");
$node->start;
$node->safe_psql(
	'postgres', q(
	CREATE EXTENSION pg_registry;
	CREATE EXTENSION dblink;
	SELECT registry.create_registry('r', 'numeric', durable => false);
	SELECT registry.put('r', 'k', 12345.678901234567890123456789);

	-- Replaces the registry often enough that what was there before is freed, in another session.
	CREATE PROCEDURE replace_often() LANGUAGE plpgsql AS $$
		BEGIN
			FOR i IN 1 .. 400 LOOP
				PERFORM registry.put('r', 'k', 12345.678901234567890123456789);
				COMMIT;
			END LOOP;
		END $$;
	CREATE FUNCTION elsewhere() RETURNS text LANGUAGE sql AS
		$$ SELECT dblink_exec(format('dbname=postgres host=%s port=%s', current_setting('unix_socket_directories'),
			current_setting('port')), 'CALL replace_often()') $$;

	-- What it gets stays what it was, whatever happens before it is returned.
	CREATE FUNCTION later(n numeric) RETURNS numeric LANGUAGE plpgsql AS
		$$ BEGIN PERFORM elsewhere(); RETURN n + 0; END $$;
	CREATE FUNCTION later_advanced(n numeric) RETURNS numeric LANGUAGE plpgsql AS
		$$ BEGIN PERFORM elsewhere(); PERFORM registry.advance(); PERFORM elsewhere(); RETURN n + 0; END $$;
	CREATE FUNCTION loop_lent() RETURNS numeric LANGUAGE plpgsql AS $$
		DECLARE n numeric;
		BEGIN
			FOR i IN 1 .. 3 LOOP
				n := registry.get_numeric('r', 'k');
			END LOOP;
			PERFORM elsewhere();
			PERFORM registry.advance();
			PERFORM elsewhere();
			RETURN n;
		END $$;
	CREATE FUNCTION loop_advanced() RETURNS numeric LANGUAGE plpgsql AS $$
		DECLARE n numeric;
		BEGIN
			FOR i IN 1 .. 30 LOOP
				n := later_advanced(registry.get_numeric('r', 'k'));
			END LOOP;
			RETURN n;
		END $$;
	CREATE FUNCTION failing(n numeric) RETURNS numeric LANGUAGE plpgsql AS $$
		BEGIN
			BEGIN
				PERFORM registry.get_numeric('r', 'k') / 0;
			EXCEPTION WHEN division_by_zero THEN
				PERFORM elsewhere();
			END;
			RETURN n + 0;
		END $$;
	CREATE FUNCTION two() RETURNS SETOF numeric LANGUAGE sql STABLE AS
		$$ SELECT registry.get_numeric('r', 'k') FROM generate_series(1, 2) $$;
	CREATE PROCEDURE over_commit(n numeric, INOUT result numeric) LANGUAGE plpgsql AS $$
		BEGIN
			COMMIT;
			PERFORM elsewhere();
			result := n + 0;
		END $$;
	CREATE PROCEDURE calls(INOUT result numeric) LANGUAGE plpgsql AS $$
		BEGIN
			CALL over_commit(registry.get_numeric('r', 'k'), result);
		END $$;
	CREATE TABLE results (n numeric);
	CREATE TABLE keys AS SELECT 'k' AS k, g FROM generate_series(1, 3) AS g;
));

my $value = '12345.678901234567890123456789';
my $session = RawProtocol->new($node, 'postgres');

# The first call of an expression takes another path than those that follow under the same pin, and a key that lies
# in a table another one than a constant.
my $three = "(SELECT registry.get_numeric('r', k) AS n, g FROM keys OFFSET 0) AS three";

# [what, statement]: the only row's only column is the value
my @cases = (
	['an argument of a function', "SELECT later(registry.get_numeric('r', 'k'))"],
	['an argument of a function, by the shortest path', "SELECT max(CASE g WHEN 3 THEN later(n) ELSE n END) FROM $three"],
	['an argument of a function that advances', "SELECT max(CASE g WHEN 3 THEN later_advanced(n) ELSE n END) FROM $three"],
	['an argument of the second function that advances',
		"SELECT max(CASE g WHEN 1 THEN n ELSE later_advanced(n) END) FROM $three"],
	['a variable', 'SELECT loop_lent()'],
	['a loop that advances', 'SELECT loop_advanced()'],
	['an argument, across a subtransaction that fails', "SELECT max(CASE g WHEN 3 THEN failing(n) ELSE n END) FROM $three"],
	['the result of a set-returning function', 'SELECT max(n) FROM two() AS n, elsewhere()'],
	['an aggregate', "SELECT max(registry.get_numeric('r', 'k')) FROM generate_series(1, 3)"],
	['a window function',
		"SELECT max(n) FROM (SELECT first_value(registry.get_numeric('r', 'k')) OVER (ORDER BY g) AS n, elsewhere() FROM generate_series(1, 2) g) AS w"],
	['a materialized subquery',
		"WITH m AS MATERIALIZED (SELECT registry.get_numeric('r', 'k') AS n) SELECT max(later(n)) FROM m"],
	['a sort and a hash', "SELECT max(n) FROM (SELECT DISTINCT registry.get_numeric('r', 'k') AS n, g FROM generate_series(1, 9) g ORDER BY 1, 2) AS s, elsewhere()"],
	['a scalar subselect', "SELECT later((SELECT registry.get_numeric('r', 'k')))"],
	['an argument of a procedure that commits', "CALL over_commit(registry.get_numeric('r', 'k'), 0)"],
	['an argument of a procedure called by a procedure', 'CALL calls(0)'],
	['an inserted row', "INSERT INTO results SELECT registry.get_numeric('r', 'k') RETURNING later(n)"],
	['an updated row', "UPDATE results SET n = registry.get_numeric('r', 'k') FROM elsewhere() RETURNING n"],
	['the constant of a plan', "SELECT later(n) FROM results WHERE n = registry.get_numeric('r', 'k')"],
);

for my $case (@cases)
{
	my ($what, $statement) = @$case;
	is($session->one($statement), $value, $what);
}

# A cursor that keeps its pin between two FETCHes, another session replacing meanwhile; and one WITH HOLD.
$session->query("BEGIN; DECLARE c CURSOR FOR SELECT registry.get_numeric('r', 'k') FROM generate_series(1, 3)");
is($session->one('FETCH c'), $value, 'a cursor');
$session->query('SELECT elsewhere()');
is(join(',', map { $_->[0] } $session->query('FETCH ALL FROM c')), "$value,$value", 'the same cursor later');
$session->query("DECLARE h CURSOR WITH HOLD FOR SELECT registry.get_numeric('r', 'k') FROM generate_series(1, 3); FETCH h; COMMIT");
$session->query('SELECT elsewhere()');
is(join(',', map { $_->[0] } $session->query('FETCH ALL FROM h')), "$value,$value", 'a cursor WITH HOLD after its transaction');

# A prepared statement gets its parameter before it runs.
$session->query('PREPARE p(numeric) AS SELECT later($1)');
is($session->one("EXECUTE p(registry.get_numeric('r', 'k'))"), $value, 'a parameter of EXECUTE');

# Parallel workers hand on what they read through their leader's pin.
$session->query('SET parallel_setup_cost = 0; SET parallel_tuple_cost = 0; SET min_parallel_table_scan_size = 0;
	INSERT INTO results SELECT 1 FROM generate_series(1, 20000); ANALYZE results');
like(join("\n", map { $_->[0] } $session->query("EXPLAIN SELECT max(registry.get_numeric('r', 'k')) FROM results")),
	qr/Workers Planned/, 'a parallel plan');
is($session->one("SELECT max(registry.get_numeric('r', 'k')) FROM results"), $value, 'parallel workers');

is($session->one('SELECT count(*) FROM registry.readers'), 0, 'no pin is left');

$node->stop;
done_testing();
