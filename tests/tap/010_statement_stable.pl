# If this fails, one statement mixes old and new state: a report converts half of its orders at one rate and
# half at the next (R-2), or a later statement goes on with a state that has long been replaced.

use strict;
use warnings;

use FindBin;
use lib "$FindBin::RealBin/lib";

use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use RawProtocol;
use Test::More;

my $runs = 20;
my $million = 1_000_000;

my $node = PostgreSQL::Test::Cluster->new('main');
$node->init;
$node->append_conf(
	'postgresql.conf', q(
autovacuum = off
max_parallel_workers = 4
));
$node->start;
$node->safe_psql(
	'postgres', qq(
	CREATE EXTENSION pg_registry;
	SELECT registry.create_registry('r', 'float8', durable => false);
	SELECT registry.put('r', 'k', 0);

	-- publishes without pause until it is cancelled
	CREATE PROCEDURE publish() LANGUAGE plpgsql AS \$\$
		DECLARE i bigint := 0;
		BEGIN
			LOOP
				i := i + 1;
				PERFORM registry.put('r', 'k', i);
				COMMIT;
			END LOOP;
		END \$\$;

	CREATE FUNCTION v() RETURNS float8 LANGUAGE sql STABLE PARALLEL SAFE AS
		\$\$ SELECT registry.get_float8('r', 'k') \$\$;
	CREATE FUNCTION v_plpgsql() RETURNS float8 LANGUAGE plpgsql STABLE PARALLEL SAFE AS
		\$\$ DECLARE x float8; BEGIN SELECT registry.get_float8('r', 'k') INTO x; RETURN x; END \$\$;
	CREATE FUNCTION v_simple() RETURNS float8 LANGUAGE plpgsql VOLATILE AS
		\$\$ BEGIN RETURN registry.get_float8('r', 'k'); END \$\$;
	-- for index expressions, where it does not belong
	CREATE FUNCTION v_immutable(int) RETURNS float8 LANGUAGE plpgsql IMMUTABLE PARALLEL SAFE AS
		\$\$ BEGIN RETURN registry.get_float8('r', 'k'); END \$\$;
	CREATE FUNCTION who() RETURNS int LANGUAGE internal VOLATILE PARALLEL SAFE AS 'pg_backend_pid';

	-- returns when the writer has published three times more
	CREATE FUNCTION later() RETURNS text LANGUAGE plpgsql VOLATILE AS \$\$
		DECLARE start bigint;
		BEGIN
			SELECT generation INTO start FROM registry.status();
			LOOP
				EXIT WHEN (SELECT generation FROM registry.status()) > start + 2;
			END LOOP;
			RETURN NULL;
		END \$\$;

	-- a FOR loop over a query that reads too, with a publish between its rows
	CREATE FUNCTION f(int) RETURNS text LANGUAGE plpgsql AS \$\$
		DECLARE
			seen text := '';
			row record;
		BEGIN
			FOR row IN SELECT registry.get_float8('r', 'k') AS x FROM generate_series(1, 3)
			LOOP
				PERFORM later();
				seen := concat_ws(' ', seen, row.x, registry.get_float8('r', 'k'),
					(SELECT registry.get_float8('r', 'k')), v_plpgsql(), v_simple());
			END LOOP;
			RETURN seen;
		END \$\$;
	CREATE FUNCTION opened() RETURNS refcursor LANGUAGE plpgsql AS \$\$
		DECLARE
			c refcursor := 'c';
			x float8;
		BEGIN
			OPEN c FOR SELECT registry.get_float8('r', 'k') FROM generate_series(1, 4);
			FETCH c INTO x;
			RETURN c;
		END \$\$;
	CREATE FUNCTION several() RETURNS SETOF float8 LANGUAGE plpgsql AS \$\$
		BEGIN
			RETURN QUERY SELECT v() FROM generate_series(1, 3);
			PERFORM later();
			RETURN NEXT v();
			RETURN QUERY EXECUTE 'SELECT v() FROM generate_series(1, 3)';
		END \$\$;

	CREATE TABLE big AS SELECT g AS id FROM generate_series(1, $million) g;
	CREATE TABLE seen (at text, x float8);
	CREATE TABLE rows (id int, x float8 DEFAULT v_simple());
	CREATE FUNCTION note() RETURNS trigger LANGUAGE plpgsql AS \$\$
		BEGIN
			PERFORM later();
			INSERT INTO seen SELECT TG_NAME, registry.get_float8('r', 'k');
			INSERT INTO seen VALUES (TG_NAME, v_simple());
			RETURN NEW;
		END \$\$;
	CREATE TRIGGER before_row BEFORE INSERT ON rows FOR EACH ROW EXECUTE FUNCTION note();
	CREATE TRIGGER after_row AFTER INSERT ON rows FOR EACH ROW EXECUTE FUNCTION note();
	CREATE TRIGGER after_statement AFTER INSERT ON rows FOR EACH STATEMENT EXECUTE FUNCTION note();
	CREATE TABLE deferred (id int);
	CREATE CONSTRAINT TRIGGER at_commit AFTER INSERT ON deferred DEFERRABLE INITIALLY DEFERRED
		FOR EACH ROW EXECUTE FUNCTION note();
	CREATE TABLE indexed AS SELECT g AS id FROM generate_series(1, 20000) g;
	VACUUM ANALYZE big, indexed;

	-- what it read last: in a transaction of its own, and after COMMIT
	CREATE PROCEDURE in_steps() LANGUAGE plpgsql AS \$\$
		DECLARE
			a float8; b float8; c float8; d float8;
		BEGIN
			a := registry.get_float8('r', 'k');
			PERFORM later();
			SELECT registry.get_float8('r', 'k') INTO b;
			COMMIT;
			PERFORM later();
			c := registry.get_float8('r', 'k');
			PERFORM later();
			SELECT registry.get_float8('r', 'k') INTO d;
			INSERT INTO seen VALUES ('before', a), ('before', b), ('after', c), ('after', d);
			ROLLBACK;
			INSERT INTO seen VALUES ('before', a), ('before', b), ('after', c), ('after', d),
				('rolled back', v_simple());
		END \$\$;
));

my $writer = RawProtocol->new($node, 'postgres');
my $reader = RawProtocol->new($node, 'postgres');
my $watch = RawProtocol->new($node, 'postgres');
my $get = "registry.get_float8('r', 'k')";
my $get_oid = $watch->one("SELECT 'registry.get_float8(text,text)'::regprocedure::oid");

$writer->send('CALL publish()');

sub generation { return $watch->one('SELECT generation FROM registry.status()') }
sub later { $watch->query('SELECT later()'); return }

# All columns of all rows, and words in them.
sub values_of
{
	return grep { defined && $_ ne '' } map { split / / } grep { defined } map { @$_ } @_;
}

sub distinct
{
	my %values = map { $_ => 1 } values_of(@_);
	return scalar keys %values;
}

# A case returns rows that must hold one value, or undef to be repeated.  So is a run during which nothing was
# published.
sub stable
{
	my ($name, $case) = @_;
	my $good = 0;
	my $seen = '';

	for my $run (1 .. $runs)
	{
		my @rows;
		for my $attempt (1 .. 50)
		{
			my $before = generation();
			@rows = $case->();
			last if generation() > $before + 2 && @rows && defined $rows[0];
			@rows = ();
		}
		if (distinct(@rows) == 1) { $good++ }
		else { $seen = join(' ', (values_of(@rows))[ 0 .. 20 ]) }
	}
	is($good, $runs, $name) or diag("seen: $seen");
	return;
}

# One statement.
sub statement
{
	my ($name, $sql) = @_;

	stable($name, sub { return $reader->query($sql) });
	return;
}

# ---------------------------------------------------------------------------
# A million rows
# ---------------------------------------------------------------------------

# "row count, smallest, largest" as one value that is only right if all rows saw the same.
sub one_of_million
{
	my ($rows, $low, $high, $count) = @_;

	return [ $low, $high, $count == $million ? () : 'rows missing' ];
}

stable('a million rows, serial', sub {
	my ($row) = $reader->query("SELECT min($get), max($get), count($get) FROM generate_series(1, $million)");
	return one_of_million(undef, @$row);
});
statement('a million rows, count(DISTINCT)', "SELECT count(DISTINCT $get) FROM generate_series(1, $million)");

my $parallel = 'SET parallel_setup_cost = 0; SET parallel_tuple_cost = 0; SET min_parallel_table_scan_size = 0;'
  . 'SET max_parallel_workers_per_gather = 2; SET force_parallel_mode = on';
my $by_process = "SELECT who(), min(%s), max(%s), count(*) FROM big %s GROUP BY 1";

for my $leader (qw(on off))
{
	$reader->query("$parallel; SET parallel_leader_participation = $leader");
	for my $reads ([ $get, '' ], [ 'v_plpgsql()', 'WHERE id % 50 = 0' ])
	{
		my ($expression, $where) = @$reads;
		my $wanted = $leader eq 'on' ? 3 : 2;

		stable("parallel, leader participates: $leader, each row reads $expression", sub {
			my @rows = $reader->query(sprintf $by_process, $expression, $expression, $where);
			return undef if @rows != $wanted;
			return map { [ $_->[1], $_->[2] ] } @rows;
		});
	}
}
# A function that runs a parallel query of its own, twice, inside a statement that reads too.
$node->safe_psql('postgres', "CREATE FUNCTION by_workers() RETURNS text LANGUAGE plpgsql AS \$\$
	BEGIN RETURN (SELECT concat_ws(' ', min(x), max(x)) FROM (SELECT $get AS x FROM big WHERE id % 10 = 0) s); END \$\$");
statement('parallel queries inside a statement', "SELECT $get, by_workers(), later(), by_workers(), $get");
$reader->query('BEGIN ISOLATION LEVEL REPEATABLE READ');
my $pinned = $reader->one("SELECT $get");
stable('parallel queries of one REPEATABLE READ transaction', sub {
	later();
	return ([$pinned], $reader->query('SELECT by_workers()'));
});
$reader->query('COMMIT; RESET ALL');

# ---------------------------------------------------------------------------
# One statement, with publishes inside
# ---------------------------------------------------------------------------

statement('several reads', "SELECT $get, later(), $get, later(), (SELECT $get), v(), v_simple()");
statement('f(g) with a FOR loop, next to get()', "SELECT f(g), $get FROM generate_series(1, 3) g");
statement('get() before f(g)', "SELECT $get, f(g), v_plpgsql() FROM generate_series(1, 3) g");
statement('lateral, CTE and subselects',
	"WITH a AS MATERIALIZED (SELECT $get AS x, later())
	 SELECT a.x, b.x, (SELECT v_plpgsql()) FROM a, LATERAL (SELECT later(), $get AS x OFFSET 0) b, generate_series(1, 3)");
statement('RETURN QUERY', 'SELECT *, later(), v() FROM several()');
statement('the views', "SELECT e.value::text, later(), $get FROM registry.entries('r') e, generate_series(1, 3)");
statement('COPY (SELECT) TO', "COPY (SELECT $get, later() FROM generate_series(1, 3)) TO STDOUT WITH (NULL '')");
statement('EXPLAIN ANALYZE does not disturb',
	"SELECT $get, (SELECT count(*) > 0 FROM (SELECT later()) s)::text::bool::int * 0 + v(), v_simple()");

stable('the generation itself', sub { return $reader->query('SELECT registry.generation(), later(), registry.generation()') });
stable('CREATE TABLE AS', sub {
	$reader->query("CREATE TEMP TABLE t AS SELECT $get AS x, later() FROM generate_series(1, 3) UNION ALL SELECT v_simple(), NULL");
	my @rows = $reader->query('SELECT x FROM t');
	$reader->query('DROP TABLE t');
	return @rows;
});
$reader->query("PREPARE p(int) AS SELECT $get, later(), v_simple() FROM generate_series(1, \$1)");
statement('EXECUTE of a prepared statement', 'EXECUTE p(3)');
stable('DO block', sub {
	$reader->query("DO \$\$
		DECLARE x float8;
		BEGIN
			TRUNCATE seen;
			x := $get;
			INSERT INTO seen VALUES ('do', x);
			PERFORM later();
			INSERT INTO seen SELECT 'do', $get;
			BEGIN
				PERFORM later();
				INSERT INTO seen VALUES ('do', v_simple());
				PERFORM 1 / 0 FROM (SELECT $get) s;
			EXCEPTION WHEN division_by_zero THEN
				INSERT INTO seen VALUES ('do', v_simple());
			END;
			EXECUTE 'INSERT INTO seen SELECT ''do'', v()';
		END \$\$");
	return $reader->query('SELECT x FROM seen');
});

# ---------------------------------------------------------------------------
# Triggers and defaults
# ---------------------------------------------------------------------------

stable('triggers and defaults during INSERT', sub {
	$reader->query("TRUNCATE seen, rows; INSERT INTO rows SELECT g FROM generate_series(1, 2) g WHERE $get IS NOT NULL RETURNING x");
	return $reader->query('SELECT x FROM seen UNION ALL SELECT x FROM rows');
});
stable('triggers and defaults during COPY FROM', sub {
	$reader->query('TRUNCATE seen, rows');
	$reader->send('COPY rows (id) FROM STDIN');
	$reader->read_to('G');
	$reader->message('d', "1\n2\n")->message('c', '');
	$reader->finish;
	return $reader->query('SELECT x FROM seen UNION ALL SELECT x FROM rows');
});
stable('deferred triggers at commit', sub {
	$reader->query('TRUNCATE seen; BEGIN; INSERT INTO deferred SELECT generate_series(1, 3)');
	$reader->query('COMMIT');
	return $reader->query("SELECT x FROM seen WHERE at = 'at_commit'");
});
stable('deferred triggers of a single statement', sub {
	$reader->query('TRUNCATE seen');
	$reader->query('INSERT INTO deferred SELECT generate_series(1, 3)');
	return $reader->query("SELECT x FROM seen WHERE at = 'at_commit'");
});

# A trigger at commit sees nothing older than the statements before it.
{
	my $backwards = 0;
	for (1 .. $runs)
	{
		$reader->query("TRUNCATE seen");
		$reader->query("BEGIN");
		$reader->query("SELECT 1 FROM big WHERE id = $get");
		later();
		$reader->query("INSERT INTO seen SELECT 'statement', $get");
		$reader->query('INSERT INTO deferred VALUES (1)');
		$reader->query('COMMIT');
		$backwards += $reader->one("SELECT min(x) FILTER (WHERE at = 'at_commit') < min(x) FILTER (WHERE at = 'statement') FROM seen") eq 't';
	}
	is($backwards, 0, 'a deferred trigger does not see older state than an earlier statement of its transaction');
}

# ---------------------------------------------------------------------------
# Cursors and portals
# ---------------------------------------------------------------------------

stable('a cursor fetched in two messages', sub {
	$reader->query("BEGIN; DECLARE c CURSOR FOR SELECT $get FROM generate_series(1, 10)");
	my @rows = $reader->query('FETCH 3 FROM c');
	later();
	push @rows, $reader->query('FETCH ALL FROM c');
	$reader->query('COMMIT');
	return @rows;
});
stable('two cursors, interleaved, each', sub {
	my @rows;
	my %seen;
	$reader->query("BEGIN; DECLARE a CURSOR FOR SELECT v() FROM generate_series(1, 10); FETCH FROM a");
	later();
	$reader->query("DECLARE b CURSOR FOR SELECT v() FROM generate_series(1, 10)");
	for my $step (1 .. 4)
	{
		for my $cursor (qw(b a))
		{
			push @{ $seen{$cursor} }, $reader->query("FETCH 2 FROM $cursor");
			later();
		}
	}
	$reader->query('COMMIT');
	my ($a, $b) = map { [ values_of(@{ $seen{$_} }) ] } qw(a b);
	# A cursor opened after a publish is not older than the one before it.
	return [ 'b is', 'not newer' ] if $b->[0] <= $a->[0];
	return distinct($a) == 1 && distinct($b) == 1 ? ['each'] : [ "a @$a", "b @$b" ];
});
stable('a refcursor returned from a function', sub {
	$reader->query('BEGIN; SELECT opened()');
	later();
	my @rows = $reader->query('FETCH 1 FROM c');
	later();
	push @rows, $reader->query('FETCH ALL FROM c');
	$reader->query('COMMIT');
	return @rows;
});
stable('a cursor WITH HOLD', sub {
	$reader->query("BEGIN; DECLARE h CURSOR WITH HOLD FOR SELECT $get FROM generate_series(1, 4)");
	my @rows = $reader->query('FETCH 2 FROM h');
	later();
	$reader->query('COMMIT');
	later();
	push @rows, $reader->query('FETCH ALL FROM h');
	$reader->query('CLOSE h');
	return @rows;
});
stable('a prepared statement executed in portions', sub {
	$reader->parse("SELECT $get FROM generate_series(1, 10)")->bind;
	my @rows = $reader->execute(3);
	later();
	push @rows, $reader->execute(3);
	later();
	push @rows, $reader->execute(0);
	$reader->sync;
	return @rows == 10 ? @rows : (['rows'], ['missing']);
});
stable('portions of two portals, and a rescan of each', sub {
	$reader->query('BEGIN');
	$reader->query("DECLARE s SCROLL CURSOR FOR SELECT $get FROM generate_series(1, 5)");
	my @rows = $reader->query('FETCH ALL FROM s');
	later();
	$reader->query('MOVE ABSOLUTE 0 FROM s');
	push @rows, $reader->query('FETCH ALL FROM s');
	$reader->query('COMMIT');
	return @rows;
});

# More open cursors than there is room for pins of their own: still no mixture, and no failure.
{
	my $cursors = 200;
	my %first;
	my $mixed = 0;

	$reader->query('BEGIN');
	for my $c (1 .. $cursors)
	{
		$reader->query("DECLARE c$c CURSOR FOR SELECT $get FROM generate_series(1, 4)");
		$first{$c} = $reader->one("FETCH FROM c$c");
		later();
	}
	for my $c (reverse 1 .. $cursors)
	{
		$mixed += distinct([ $first{$c} ], $reader->query("FETCH ALL FROM c$c")) != 1;
	}
	is($mixed, 0, "$cursors open cursors: none reads two states");
	cmp_ok($first{$cursors}, '>', $first{1}, 'and they do not all read the oldest');
	$reader->query('COMMIT');
	is($watch->one("SELECT count(*) FROM registry.readers WHERE pid = $reader->{pid}"), 0, 'their pins end with the transaction');
}

# ---------------------------------------------------------------------------
# Without a portal
# ---------------------------------------------------------------------------

stable('fast-path calls of one transaction', sub {
	$reader->query('BEGIN');
	my @rows = [ $reader->call($get_oid, 'r', 'k') ];
	later();
	push @rows, [ $reader->call($get_oid, 'r', 'k') ];
	$reader->query('COMMIT');
	# binary or text: compare bytes only
	return map { [ unpack('H*', $_->[0]) ] } @rows;
});
{
	my @values = map { my $value = $reader->call($get_oid, 'r', 'k'); later(); $value } 1 .. 3;
	isnt($values[0], $values[2], 'fast-path calls of different transactions read anew');
}

$reader->query('CREATE INDEX indexed_v ON indexed (v_immutable(id))');
stable('ANALYZE with an index expression', sub {
	$reader->query('ANALYZE indexed');
	return $reader->query("SELECT n_distinct FROM pg_stats WHERE tablename = 'indexed_v'");
});
is($reader->one("SELECT n_distinct FROM pg_stats WHERE tablename = 'indexed_v'"), '1', 'one value in its sample');
stable('planning does not leave its state to the statement', sub {
	return $reader->query("SELECT $get, later(), x FROM (SELECT v_simple() AS x) s WHERE x = v_plpgsql() OR $get IS NOT NULL");
});

# Partitions are chosen when a statement starts, before its first row, and by the same state: a transaction that
# has planned before must not choose by what it saw then.
$node->safe_psql(
	'postgres', q(
	SELECT registry.create_registry('which', 'text', durable => false);
	SELECT registry.put('which', 'part', 'a');
	CREATE TABLE parted (part text, x int) PARTITION BY LIST (part);
	CREATE TABLE parted_a PARTITION OF parted FOR VALUES IN ('a');
	CREATE TABLE parted_b PARTITION OF parted FOR VALUES IN ('b');
	INSERT INTO parted VALUES ('a', 1), ('b', 2);
	ANALYZE parted;
));
for my $run (1 .. 2)
{
	my $query = "SELECT part FROM parted WHERE part = registry.get_text('which', 'part')";
	$watch->query("SELECT registry.put('which', 'part', 'a')");
	$reader->query('BEGIN');
	is($reader->one($query), 'a', 'the partition that the registry names');
	$reader->query("DECLARE c CURSOR FOR $query");
	$watch->query("SELECT registry.put('which', 'part', 'b')");
	is($reader->one($query), 'b', 'and the one that it names in the next statement');
	my $row = $reader->one('FETCH c');
	ok(defined $row, 'a cursor opened before and first read now returns its row');
	$reader->query('COMMIT');
}

# ---------------------------------------------------------------------------
# From one statement to the next
# ---------------------------------------------------------------------------

stable('REPEATABLE READ: one value across statements', sub {
	$reader->query('BEGIN ISOLATION LEVEL REPEATABLE READ');
	my @rows = $reader->query("SELECT $get");
	later();
	push @rows, $reader->query("SELECT f(1), $get");
	$reader->query("DECLARE c CURSOR FOR SELECT $get");
	later();
	push @rows, $reader->query('FETCH c');
	push @rows, $reader->query("SELECT $get");
	push @rows, [ $reader->one("DO \$\$ BEGIN PERFORM later(); END \$\$; SELECT v_simple()") ];
	$reader->query('COMMIT');
	return @rows;
});
is($reader->sqlstate('BEGIN ISOLATION LEVEL REPEATABLE READ; SELECT registry.advance()'), '25000', 'advance() there is refused');
$reader->query('ROLLBACK');

{
	my $newer = 0;
	my $advanced = 0;
	my $steps = 0;
	for (1 .. $runs)
	{
		$reader->query('BEGIN');
		my $first = $reader->one("SELECT $get");
		later();
		my $second = $reader->one("SELECT $get");
		$reader->query('COMMIT');
		later();
		$newer++ if $first < $second && $second < $reader->one("SELECT $get");

		my ($row) = $reader->query("SELECT $get, later(), registry.advance() > 0, v_simple()");
		$advanced++ if $row->[0] < $row->[3];

		$reader->query('TRUNCATE seen');
		$reader->query('CALL in_steps()');
		my %seen;
		$seen{ $_->[0] }{ $_->[1] } = 1 for $reader->query('SELECT at, x FROM seen');
		my ($before, $after, $rolled_back) = map { [ keys %{ $seen{$_} } ] } 'before', 'after', 'rolled back';
		$steps++ if @$before == 1 && @$after == 1 && $before->[0] < $after->[0] && $after->[0] < $rolled_back->[0];
	}
	is($newer, $runs, 'READ COMMITTED: the next statement sees newer state');
	is($advanced, $runs, 'advance(): the next read of the statement does');
	is($steps, $runs, 'a procedure sees newer state after its COMMIT and after its ROLLBACK, and one before');
}

# ---------------------------------------------------------------------------
# Commands of several transactions
# ---------------------------------------------------------------------------

$reader->query('SET max_parallel_maintenance_workers = 2; SET min_parallel_table_scan_size = 0');
for my $command (
	'VACUUM indexed',
	'VACUUM (ANALYZE) indexed',
	'VACUUM (FULL, ANALYZE) indexed',
	'CREATE INDEX CONCURRENTLY other ON indexed (v_immutable(id)) WHERE v_immutable(id) > 0',
	'REINDEX TABLE CONCURRENTLY indexed',
	'CLUSTER indexed USING indexed_v',
	'DROP INDEX CONCURRENTLY other',
	'CREATE INDEX ON indexed (v_immutable(id))')
{
	is($reader->sqlstate($command), '', $command);
}
is($watch->one("SELECT count(*) FROM registry.readers WHERE pid = $reader->{pid}"), 0, 'no pin is left behind');

$watch->query("SELECT pg_cancel_backend($writer->{pid})");
$writer->finish;
is($writer->{error}{C}, '57014', 'the writer has published until now');

# The workers of a parallel CREATE INDEX are not those of a query: what a failed query has pinned for its own
# workers is not for them.
$reader->query('RESET ALL');
$reader->query($parallel);
$reader->query("SET max_parallel_maintenance_workers = 2; SET maintenance_work_mem = '128MB'");
$watch->query("SELECT registry.put('r', 'k', -1)");
$reader->query('BEGIN');
$reader->query('SAVEPOINT s');
is($reader->sqlstate("SELECT count(1 / (id - $million / 2)) FROM big WHERE registry.get_float8('r', left('k' || id, 1)) = -1"),
	'22012', 'a parallel query fails');
$reader->query('ROLLBACK TO s');
is($watch->one("SELECT count(*) FROM registry.readers WHERE pid = $reader->{pid}"), 0, 'its pin ends with its savepoint');
$watch->query("SELECT registry.put('r', 'k', -2)");
$reader->query('CREATE INDEX big_v ON big (v_immutable(id)) WHERE id % 4 = 0');
$reader->query('SET enable_seqscan = off; SET max_parallel_workers_per_gather = 0; SET enable_bitmapscan = off');
my $by_index = 'SELECT count(*) FROM big WHERE id % 4 = 0 AND v_immutable(id) = %s::float8';
like(join("\n", map { $_->[0] } $reader->query('EXPLAIN ' . sprintf $by_index, -2)), qr/using big_v/, 'counted by the index');
is($reader->one(sprintf $by_index, -2), $million / 4, 'a parallel CREATE INDEX after a parallel query that failed');
$reader->query('ROLLBACK');

$node->stop;
done_testing();
