# If this fails, a session with many open cursors reads a state that is gone, a statement that fails leaves
# memory held for ever, or registry.readers blames the wrong session for it.

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
# MaxBackends is 20 + 3 + 1 + 16, so there are 16 + 40 / 8 spare lines.
$node->append_conf(
	'postgresql.conf', q(
max_connections = 20
log_statement = none
max_wal_senders = 0
autovacuum = off
autovacuum_max_workers = 3
max_worker_processes = 16
superuser_reserved_connections = 0
client_connection_check_interval = 50
pg_registry.shared_memory = '16MB'
));
my ($line_pins, $spare_pins, $spares, $spares_of_one) = (6, 15, 21, 8);
$node->start;
$node->safe_psql(
	'postgres', q(
	CREATE EXTENSION pg_registry;
	SELECT registry.create_registry('r', 'text', durable => false);
	SELECT registry.create_registry('other', 'text', durable => false);
	CREATE TABLE big AS SELECT g AS id FROM generate_series(1, 100000) g;
	ANALYZE big;

	-- Freed memory is overwritten in test builds, and a long value shows it.
	CREATE FUNCTION put(i bigint) RETURNS void LANGUAGE sql AS
		$$ SELECT registry.put('r', 'k', repeat(i || ' ', 40)) $$;
	SELECT put(0);
	CREATE PROCEDURE publish(n int) LANGUAGE plpgsql AS $$
		BEGIN
			FOR i IN 1 .. n LOOP
				PERFORM put(i);
				COMMIT;
			END LOOP;
		END $$;

	-- the state that a statement reads: generation, value
	CREATE FUNCTION state() RETURNS text LANGUAGE sql STABLE PARALLEL SAFE AS
		$$ SELECT registry.generation() || ': ' || registry.get_text('r', 'k') $$;
	CREATE FUNCTION mine() RETURNS text LANGUAGE sql VOLATILE AS
		$$ SELECT coalesce(string_agg(generation::text, ' ' ORDER BY generation), '') FROM registry.readers
			WHERE pid = pg_backend_pid() $$;
));

# The first registry of a database asks for a load of it, which publishes once.
$node->safe_psql('postgres', "CREATE FUNCTION loads() RETURNS text LANGUAGE C AS 'pg_registry', 'pgr_sql_test_load_state'");
$node->poll_query_until('postgres', 'SELECT s.wanted = s.done AND s.lister_pid = 0
	FROM json_to_record(loads()::json) AS s(wanted int, done int, lister_pid int)') or die 'the load does not end';

sub session { return RawProtocol->new($node, 'postgres') }

my $watch = session();
my $published = 0;

sub publish { $watch->query('SELECT put(' . ++$published . ')'); return }
sub newest { return $watch->one('SELECT generation FROM registry.status()') }
sub distinct { my %seen = map { $_ => 1 } @_; my @sorted = sort { $a <=> $b } keys %seen; return @sorted }
sub generation_of { return $_[0] =~ /^(\d+): / ? $1 : die "not a state: $_[0]" }

# What registry.readers says of a session: its generations.
sub pins
{
	my ($session) = @_;
	my @rows = $watch->query("SELECT generation FROM registry.readers WHERE pid = $session->{pid} ORDER BY generation");
	return join ' ', map { $_->[0] } @rows;
}

sub held
{
	my ($session, $name, @generations) = @_;
	is(pins($session), join(' ', distinct(@generations)), "$name: registry.readers");
	return;
}

sub no_pins_of
{
	my ($session, $name) = @_;
	ok($node->poll_query_until('postgres', "SELECT count(*) = 0 FROM registry.readers WHERE pid = $session->{pid}"), "$name: no pin is left");
	return;
}

# Opens a cursor and reads its first row, in a transaction.
sub open_cursor
{
	my ($session, $name, $query) = @_;
	$session->query("DECLARE $name CURSOR FOR " . ($query // 'SELECT state() FROM generate_series(1, 5)'));
	return $session->one("FETCH $name");
}

# ---------------------------------------------------------------------------
# More open cursors than all lines hold
# ---------------------------------------------------------------------------

my $places = 4 * $line_pins + $spares * $spare_pins;
for my $round (1 .. 2)
{
	my @sessions = map { session() } 1 .. 4;
	my %first;
	my %pinned = map { $_->{pid} => [] } @sessions;
	my ($own, $shared, $other) = (0, 0, 0);
	my $start = $watch->one('SELECT clock_timestamp()');

	$_->query('BEGIN') for @sessions;
	for my $c (1 .. 130)
	{
		for my $session (@sessions)
		{
			publish();
			my $state = $first{ $session->{pid} }{$c} = open_cursor($session, "c$c");
			my $g = generation_of($state);
			my $before = $pinned{ $session->{pid} };
			if ($g == newest()) { $own++ }
			elsif ($g == $before->[-1]) { $shared++ }
			else { $other++ }
			push @$before, $g;
		}
	}
	is("$own $other", "$places 0", "each place holds a generation of its own, all others the newest of their session, round $round");
	is($own + $shared, 4 * 130, 'no cursor failed');
	held($_, 'many cursors', @{ $pinned{ $_->{pid} } }) for @sessions;
	is($watch->one('SELECT count(*) FROM registry.readers'), $places, 'registry.readers shows all places');
	is($watch->one("SELECT count(*) FROM registry.readers WHERE pinned_at BETWEEN '$start' AND clock_timestamp()"), $places, 'with their times');
	is($watch->one('SELECT count(*) FROM registry.readers r JOIN pg_stat_activity a USING (pid) WHERE r.query_start = a.query_start'), $places, 'and queries');
	is($watch->one("SELECT string_agg(pid::text, ' ') FROM (SELECT pid FROM registry.readers ORDER BY generation LIMIT 1) r"), $sessions[0]{pid}, 'the oldest');
	is($watch->one('SELECT oldest_pin_pid FROM registry.status()'), $sessions[0]{pid}, 'registry.status() knows it too');

	my $kept = $pinned{ $sessions[3]{pid} }[-1];
	publish();
	is(generation_of($sessions[3]->one('SELECT state()')), $kept, 'another statement shares the newest that its session pins');
	$watch->query('CALL publish(2000)');
	my $mixed = 0;
	for my $session (@sessions)
	{
		for my $c (1 .. 130)
		{
			my @rows = map { $_->[0] } $session->query("FETCH 2 FROM c$c");
			$mixed++ if grep { $_ ne $first{ $session->{pid} }{$c} } @rows;
		}
	}
	is($mixed, 0, 'after two thousand publishes each cursor reads its own state');

	# The oldest in a spare line: its session's line is free.
	my $last = $sessions[0];
	$_->query('COMMIT') for @sessions[ 1 .. 3 ];
	$last->query("CLOSE c$_") for 1 .. $line_pins;
	my @left = @{ $pinned{ $last->{pid} } }[ $line_pins .. 129 ];
	is($watch->one('SELECT oldest_pin FROM registry.status()'), $left[0], 'the oldest pin may lie in a spare line');
	my $wrong = 0;
	for my $c (reverse $line_pins + 1 .. 130)
	{
		$wrong++ if pins($last) ne join ' ', distinct(@left);
		$last->query("CLOSE c$c");
		pop @left;
	}
	is($wrong, 0, 'closing them one by one: registry.readers at each step');
	is(pins($last), '', 'and none in the end');
	open_cursor($last, 'again');
	isnt(pins($last), '', 'a transaction that goes on pins again');
	# The second round needs every spare line; one way to end is to commit, the other to go.
	$round == 1 ? $last->query('COMMIT') : $last->close;
	no_pins_of($last, 'its end');
	$_->close for @sessions;
}

{
	my $alone = session();
	my @generations;
	my $most = $line_pins + $spares_of_one * $spare_pins;
	$alone->query('BEGIN');
	for my $c (1 .. $most + 10)
	{
		publish();
		push @generations, generation_of(open_cursor($alone, "c$c"));
	}
	is(scalar(distinct(@generations)), $most, 'one session alone takes no more than its share');
	held($alone, 'alone', @generations);
	is($generations[-1], $generations[ $most - 1 ], 'and shares the newest after that');
	$alone->query('ROLLBACK');
	held($alone, 'after ROLLBACK');
	$alone->close;
}

# ---------------------------------------------------------------------------
# Statements that fail
# ---------------------------------------------------------------------------

my $s = session();

sub state_now { return $s->one('SELECT state()') }
sub fails
{
	my ($sql, $wanted, $name) = @_;
	is($s->sqlstate($sql), $wanted, $name);
	return;
}

$s->query('BEGIN; SAVEPOINT a');
fails("SELECT state(), 1 / (1 - g) FROM generate_series(1, 2) g", '22012', 'a plain read fails');
held($s, 'in the failed transaction');
$s->query('ROLLBACK TO a');
held($s, 'after ROLLBACK TO');
publish();
is(generation_of(state_now()), newest(), 'the next statement reads the newest state');
$s->query('COMMIT');

$s->query('BEGIN');
publish();
my $outer = open_cursor($s, 'outer_cursor');
publish();
$s->query('SAVEPOINT a');
my $inner = open_cursor($s, 'inner_cursor');
held($s, 'two cursors', map { generation_of($_) } $outer, $inner);
publish();
fails("SELECT state() / 0", '42883', 'an error while planning');
held($s, 'the one of the failed subtransaction is gone', generation_of($outer));
$s->query('ROLLBACK TO a');
held($s, 'and stays so', generation_of($outer));
is($s->one('FETCH outer_cursor'), $outer, 'the other cursor goes on');
fails('FETCH inner_cursor', '34000', 'there is no cursor of a rolled-back subtransaction');
$s->query('ROLLBACK TO a');
$inner = open_cursor($s, 'inner_cursor');
$s->query('RELEASE a; SAVEPOINT b');
fails('SELECT 1 / 0', '22012', 'a later error');
$s->query('ROLLBACK TO b');
held($s, 'a cursor outlives its released savepoint', map { generation_of($_) } $outer, $inner);
is($s->one('FETCH inner_cursor'), $inner, 'and goes on');

# A cursor that fails cannot read any more, though it stays open.
publish();
my $failing = open_cursor($s, 'failing', 'SELECT state(), 1 / (2 - g) FROM generate_series(1, 5) g');
held($s, 'three cursors', map { generation_of($_) } $outer, $inner, $failing);
$s->query('SAVEPOINT c');
fails('FETCH failing', '22012', 'an error in the middle of a FETCH');
held($s, 'the failed cursor pins nothing', map { generation_of($_) } $outer, $inner);
$s->query('ROLLBACK TO c');
fails('FETCH failing', '55000', 'it cannot be run again');
$s->query('ROLLBACK TO c; CLOSE failing; CLOSE outer_cursor');
held($s, 'one cursor is left', generation_of($inner));
$s->query('ROLLBACK');
held($s, 'ROLLBACK');

# While changes are pending.
$s->query("BEGIN; SELECT put(-1)");
my $cursor = open_cursor($s, 'c');
like($cursor, qr/: -1 -1 /, 'a cursor reads the changes of its transaction');
$watch->query("SELECT registry.put('other', 'k', 'x')");
$s->query("SAVEPOINT a; SELECT put(-2)");
like(state_now(), qr/: -2 -2 /, 'a statement in a subtransaction too');
fails("SELECT put(-3), registry.put('r', 'k', NULL)", '22004', 'an error while changes are pending');
held($s, 'changes pending', generation_of($cursor));
$s->query('ROLLBACK TO a');
like(state_now(), qr/: -1 -1 /, 'what it changed before');
is($s->one('FETCH c'), $cursor, 'the cursor');
$s->query('COMMIT');
held($s, 'after the commit');
is($watch->one("SELECT left(registry.get_text('r', 'k'), 3)"), '-1 ', 'it has published');

# Blocks of PL/pgSQL, while somebody publishes without pause.
$node->safe_psql(
	'postgres', q(
	CREATE FUNCTION later() RETURNS void LANGUAGE plpgsql VOLATILE AS $$
		DECLARE start bigint := (SELECT generation FROM registry.status());
		BEGIN
			WHILE (SELECT generation FROM registry.status()) <= start + 2 LOOP
			END LOOP;
		END $$;
	CREATE FUNCTION nested(depth int) RETURNS SETOF text LANGUAGE plpgsql VOLATILE AS $$
		DECLARE
			c refcursor;
			d refcursor;
			x text;
		BEGIN
			OPEN c FOR SELECT state() FROM generate_series(1, 3);
			FETCH c INTO x; RETURN NEXT x;
			BEGIN
				PERFORM later();
				OPEN d FOR SELECT state(), 1 / (2 - g) FROM generate_series(1, 3) g;
				FETCH d INTO x; RETURN NEXT x;
				IF depth > 0 THEN
					RETURN QUERY SELECT * FROM nested(depth - 1);
				END IF;
				FETCH d INTO x;
			EXCEPTION WHEN division_by_zero THEN
				x := state(); RETURN NEXT x;
				BEGIN
					PERFORM count(1 / (id - 50000)) FROM big WHERE state() IS NOT NULL;
				EXCEPTION WHEN division_by_zero THEN
					PERFORM later();
					RETURN QUERY SELECT state();
				END;
			END;
			FETCH c INTO x; RETURN NEXT x;
			CLOSE c;
			RETURN QUERY SELECT min(x2) FROM (SELECT state() AS x2 FROM big WHERE id % 1000 = 0) q;
			RETURN NEXT mine();
		END $$;
	CREATE PROCEDURE forever() LANGUAGE plpgsql AS $$
		BEGIN
			FOR i IN 1 .. 1000000000 LOOP
				PERFORM put(i);
				COMMIT;
			END LOOP;
		END $$;

	-- what a procedure sees: the rows of a loop that began before, and its own reads
	CREATE TABLE seen (at text, step int, state text);
	CREATE PROCEDURE steps() LANGUAGE plpgsql AS $$
		DECLARE
			row record;
			other CURSOR FOR SELECT state() AS s FROM generate_series(1, 3);
		BEGIN
			FOR row IN SELECT g, state() AS s FROM generate_series(1, 3) g LOOP
				INSERT INTO seen VALUES ('loop', row.g, row.s), ('own', row.g, state()), ('pins', row.g, mine());
				PERFORM later();
				INSERT INTO seen VALUES ('own', row.g, state());
				FOR row2 IN other LOOP
					INSERT INTO seen VALUES ('own', row.g, row2.s);
				END LOOP;
				COMMIT;
				INSERT INTO seen VALUES ('nothing', row.g, mine());
				ROLLBACK AND CHAIN;
				INSERT INTO seen VALUES ('nothing', row.g, mine());
			END LOOP;
		END $$;
));
my $writer = session();
my $parallel = 'SET parallel_setup_cost = 0; SET parallel_tuple_cost = 0; SET min_parallel_table_scan_size = 0;'
  . 'SET max_parallel_workers_per_gather = 2; SET force_parallel_mode = on';

$writer->send('CALL forever()');
for my $settings ('', $parallel)
{
	my $name = $settings ? ', with parallel workers' : '';

	$s->query($settings) if $settings;
	for my $run (1 .. 3)
	{
		my @rows = map { $_->[0] } $s->query('SELECT * FROM nested(3)');
		my @own = grep { /^[\d ]+$/ } @rows;
		my @states = grep { /:/ } @rows;
		is(scalar(@states), 4 * 6, "every block of every depth has read$name, run $run") or diag(join "\n", @rows);
		is(scalar(keys %{ { map { $_ => 1 } @states } }), 1, 'one state');
		is(join(',', distinct(@own)), generation_of($states[0]), 'and one pin');
		is(pins($s), '', 'which is gone');
	}
}

$s->query('BEGIN');
my $survivor = open_cursor($s, 'c');
$s->query('SAVEPOINT a');
fails('SELECT count(1 / (id - 50000)) FROM big WHERE state() IS NOT NULL', '22012', 'a parallel query fails next to a cursor');
held($s, 'the cursor', generation_of($survivor));
$s->query('ROLLBACK TO a');
is($s->one('SELECT count(DISTINCT state()) FROM big WHERE id % 100 = 0'), 1, 'the next parallel query reads one state');
is($s->one('FETCH c'), $survivor, 'and the cursor its own');
held($s, 'the cursor still', generation_of($survivor));
$s->query('ROLLBACK; RESET ALL');

for my $run (1 .. 3)
{
	$s->query('TRUNCATE seen');
	$s->query('CALL steps()');
	is($s->one("SELECT count(DISTINCT state) FROM seen WHERE at = 'loop'"), 1, 'a loop that commits: its rows are of one state');
	is($s->one("SELECT string_agg(n::text, ' ') FROM (SELECT count(DISTINCT state) AS n FROM seen WHERE at = 'own' GROUP BY step) x"), '1 1 1', 'each of its transactions reads one');
	is($s->one("SELECT count(DISTINCT state) FROM seen WHERE at = 'own'"), 3, 'and each another');
	is($s->one("SELECT count(*) FROM seen WHERE at = 'nothing' AND state <> ''"), 0, 'nothing is pinned between them');
	is($s->one("SELECT count(*) FROM seen p JOIN seen o USING (step) WHERE p.at = 'pins' AND o.at = 'own' AND o.state LIKE p.state || ': %'"), 3 * 5, 'registry.readers inside');
}
$watch->query("SELECT pg_cancel_backend($writer->{pid})");
$writer->finish;
is($writer->{error}{C}, '57014', 'the writer has published until now');

# WITH HOLD: what is read later is what its transaction has read.
$s->query('BEGIN; DECLARE h CURSOR WITH HOLD FOR SELECT state() FROM generate_series(1, 4)');
my $hold = $s->one('FETCH h');
publish();
$s->query('SAVEPOINT a');
fails('SELECT 1 / 0', '22012', 'an error next to a cursor WITH HOLD');
$s->query('ROLLBACK TO a');
held($s, 'WITH HOLD', generation_of($hold));
$s->query('COMMIT');
held($s, 'WITH HOLD, after the commit');
publish();
is(join('|', map { $_->[0] } $s->query('FETCH ALL FROM h')), join('|', ($hold) x 3), 'its rows are of the state that it pinned');
held($s, 'WITH HOLD, read');
$s->query('CLOSE h; BEGIN');
$s->query('DECLARE h CURSOR WITH HOLD FOR SELECT state(), 1 / (3 - g) FROM generate_series(1, 4) g');
$s->one('FETCH h');
fails('COMMIT', '22012', 'a cursor WITH HOLD that fails at commit');
held($s, 'WITH HOLD, failed at commit');

# ---------------------------------------------------------------------------
# Anything in any order
# ---------------------------------------------------------------------------

# A model of what is open, compared with registry.readers after each step.
{
	my $seed = $ENV{PGR_SEED} // time;
	my $name = 0;
	my @levels = ({});    # cursors by savepoint: name => [first state, fetches left]
	my ($wrong, $torn, %steps) = (0, 0);

	srand $seed;
	note("PGR_SEED=$seed");
	$s->query('BEGIN');
	my $all = sub { return map { my $level = $_; map { [ $_, $level->{$_} ] } sort keys %$level } @levels };
	my $roll_back_to = sub {
		my ($to) = @_;
		$s->query("ROLLBACK TO s$to");
		$#levels = $to;
		$levels[$to] = {};
	};
	my %moves = (
		publish => sub { publish() },
		declare => sub { $name++; $levels[-1]{"n$name"} = [ open_cursor($s, "n$name", 'SELECT state(), 1 / (20 - g) FROM generate_series(1, 30) g'), 18 ] },
		read => sub { $torn++ if generation_of(state_now()) != newest() },
		fetch => sub {
			my @open = grep { $_->[1][1] > 0 } $all->() or return;
			my ($cursor, $known) = @{ $open[ rand @open ] };
			$known->[1]--;
			$torn++ if $s->one("FETCH $cursor") ne $known->[0];
		},
		close => sub {
			my @open = $all->() or return;
			my $cursor = $open[ rand @open ][0];
			$s->query("CLOSE $cursor");
			delete $_->{$cursor} for @levels;
		},
		savepoint => sub { $s->query('SAVEPOINT s' . scalar @levels); push @levels, {} },
		release => sub {
			return if @levels < 2;
			my $to = 1 + int rand @levels - 1;
			$s->query("RELEASE s$to");
			$levels[ $to - 1 ] = { map { %$_ } @levels[ $to - 1 .. $#levels ] };
			$#levels = $to - 1;
		},
		roll_back => sub { $roll_back_to->(1 + int rand @levels - 1) if @levels > 1 },
		fail => sub {
			return if @levels < 2;
			my @open = $all->();
			my $cursor = @open ? $open[ rand @open ][0] : undef;
			my $sql = $cursor && rand() < 0.5 ? "FETCH ALL FROM $cursor" : "SELECT state(), 1 / 0";

			$torn++ if $s->sqlstate($sql) ne '22012';
			# the innermost subtransaction has ended, and the cursor that failed
			$levels[-1] = {};
			if ($sql =~ /^FETCH/) { delete $_->{$cursor} for @levels }
			$wrong++ if pins($s) ne join ' ', distinct(map { generation_of($_->[1][0]) } $all->());
			$roll_back_to->(1 + int rand @levels - 1);
		},
		change => sub { $s->query("SELECT registry.put('other', 'k', '$name')") },
		end => sub {
			return if rand() < 0.8;
			$s->query(rand() < 0.5 ? 'COMMIT' : 'ROLLBACK');
			@levels = ({});
			$wrong++ if pins($s) ne '';
			$s->query('BEGIN');
		},
	);
	my @weighted = (('publish', 'declare', 'fetch') x 3, ('savepoint') x 2, sort keys %moves);
	for my $step (1 .. 1200)
	{
		my $move = $weighted[ rand @weighted ];
		$steps{$move}++;
		$moves{$move}->();
		next if pins($s) eq join ' ', distinct(map { generation_of($_->[1][0]) } $all->());
		$wrong++;
		diag("step $step, after $move: ", pins($s)) if $wrong < 5;
	}
	note(join ', ', map { "$_ $steps{$_}" } sort keys %steps);
	is($wrong, 0, "registry.readers after each of 1,200 steps (PGR_SEED=$seed)");
	is($torn, 0, 'every read was of the state it had to be of');
	$s->query('ROLLBACK');
	held($s, 'at the end');
}

# ---------------------------------------------------------------------------
# Sessions that end while they pin
# ---------------------------------------------------------------------------

# With more cursors than their line holds, so that spare lines must come back too.
for my $how ('terminated, idle', 'terminated, in a statement', 'disconnects, idle', 'disconnects, in a statement', 'idle_in_transaction_session_timeout')
{
	my $victim = session();
	my @generations;

	$victim->query('BEGIN');
	for my $c (1 .. 40)
	{
		publish();
		push @generations, generation_of(open_cursor($victim, "c$c"));
	}
	publish();
	if ($how =~ /in a statement/)
	{
		$victim->send('SELECT count(state()) FROM (SELECT generate_series(1, 1000000000)) s');
		my $g = newest();
		ok($node->poll_query_until('postgres', "SELECT count(*) = 1 FROM registry.readers WHERE pid = $victim->{pid} AND generation = $g"), "$how: it reads");
		push @generations, $g;
	}
	held($victim, $how, @generations);
	if ($how =~ /^terminated/) { $watch->query("SELECT pg_terminate_backend($victim->{pid})") }
	elsif ($how =~ /^disconnects/) { close $victim->{socket} }
	else { $victim->query("SET idle_in_transaction_session_timeout = 1") }
	no_pins_of($victim, $how);
	if ($how !~ /^disconnects/)
	{
		$victim->read_to('Z');
		like($victim->{error}{C}, qr/^(57P01|25P03|closed)$/, "$how: it is told");
	}
}

# statement_timeout is an error like any other.
{
	my @generations;
	$s->query('BEGIN');
	for my $c (1 .. 20)
	{
		publish();
		push @generations, generation_of(open_cursor($s, "c$c"));
	}
	$s->query("SAVEPOINT a; SET LOCAL statement_timeout = 20");
	fails('SELECT count(state()) FROM (SELECT generate_series(1, 1000000000)) s', '57014', 'statement_timeout in a subtransaction');
	held($s, 'the cursors outside of it', @generations);
	$s->query('ROLLBACK TO a; SET LOCAL statement_timeout = 20');
	$s->sqlstate('SELECT count(state()) FROM (SELECT generate_series(1, 1000000000)) s');
	$s->query('ROLLBACK TO a');
	is(generation_of($s->one("FETCH c$_")), $generations[ $_ - 1 ], "cursor $_ goes on") for 1, 20;
	$s->query('RELEASE a; SET LOCAL statement_timeout = 20');
	fails('SELECT count(state()) FROM (SELECT generate_series(1, 1000000000)) s', '57014', 'statement_timeout');
	held($s, 'statement_timeout ends them all');
	$s->query('ROLLBACK');
}

# Nobody has kept a place.
{
	my @sessions = map { session() } 1 .. 4;
	$_->query('BEGIN') for @sessions;
	for my $c (1 .. 130)
	{
		for my $session (@sessions) { publish(); open_cursor($session, "c$c") }
	}
	is($watch->one('SELECT count(*) FROM registry.readers'), $places, 'all places can still be used');
	$_->query('COMMIT') for @sessions;
}
is($watch->one('SELECT count(*) FROM registry.readers'), 0, 'no pin is left');
# The next batch of old versions is reclaimed, all of it.
my $old = "bytes < 100000 FROM registry.memory WHERE part = 'old versions'";
for (1 .. 200) { publish(); last if $watch->one("SELECT $old") eq 't' }
is($watch->one("SELECT $old"), 't', 'nor an old version');

$node->stop;
done_testing();
