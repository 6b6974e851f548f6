# If this fails, two sessions change one entry and the registry keeps the value of the one that committed first,
# while the tables keep the other's: the two disagree until somebody writes again (W-2).

use strict;
use warnings;

use FindBin;
use lib "$FindBin::RealBin/lib";

use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use RawProtocol;
use Test::More;

my $rounds = 1000;

my $node = PostgreSQL::Test::Cluster->new('main');
$node->init;
$node->append_conf('postgresql.conf', 'autovacuum = off');
$node->start;
$node->safe_psql(
	'postgres', q(
	CREATE EXTENSION pg_registry;
	SELECT registry.create_registry('r', 'bigint', durable => false);
	CREATE TABLE last (id int PRIMARY KEY, value bigint) WITH (fillfactor = 10);
	INSERT INTO last VALUES (1, 0);

	-- The row says whose commit was the later one: only its holder can have seen the other's value.
	CREATE PROCEDURE change(mine bigint, row_first boolean) LANGUAGE plpgsql AS $$
		BEGIN
			IF row_first THEN
				UPDATE last SET value = mine WHERE id = 1;
			END IF;
			PERFORM registry.put('r', 'k', mine);
			IF NOT row_first THEN
				UPDATE last SET value = mine WHERE id = 1;
			END IF;
		END $$;
));

my $control = RawProtocol->new($node, 'postgres');
my $slow = RawProtocol->new($node, 'postgres');
my $fast = RawProtocol->new($node, 'postgres');
$slow->query('SET pg_registry.test_commit_delay = 1');

# One session stays in its commit callback while the other, which waited for its row lock, goes on: PostgreSQL
# lets it go on before the callback runs.  The row is locked first in both, or put first in both (the other
# order of the two would be a deadlock).
for my $row_first (qw(true false))
{
	my ($agree, $slow_last, $fast_last) = (0, 0, 0);

	for my $round (1 .. $rounds / 2)
	{
		my ($a, $b) = (2 * $round, 2 * $round + 1);
		# Each of them begins half of the rounds.
		my @order = $round % 2 ? ([ $slow, $a ], [ $fast, $b ]) : ([ $fast, $b ], [ $slow, $a ]);
		$_->[0]->send("CALL change($_->[1], $row_first)") for @order;
		for my $session ($slow, $fast)
		{
			$session->finish;
			die $session->{error}{M} if $session->{error};
		}
		my ($row) = $control->query("SELECT value, registry.get('r', 'k') FROM last");
		$agree++ if $row->[0] == $row->[1];
		$row->[1] == $a ? $slow_last++ : $fast_last++;
	}
	is($agree, $rounds / 2, "the later commit's value stays (row first: $row_first)");
	note("the slow session was the later one in $slow_last rounds, the fast one in $fast_last");
	cmp_ok($fast_last, '>', 0, 'a session committed while another was held back in its callback');
}

# As fast as they can, without a pause between rounds; the counter in the row and the one in the registry are
# changed together, so they end equal.
my @loops = map { RawProtocol->new($node, 'postgres') } 1 .. 2;
$node->safe_psql(
	'postgres', q(
	CREATE PROCEDURE race(n int) LANGUAGE plpgsql AS $$
		DECLARE x bigint;
		BEGIN
			FOR i IN 1 .. n
			LOOP
				UPDATE last SET value = value + 1 WHERE id = 1 RETURNING value INTO x;
				PERFORM registry.put('r', 'k', x);
				COMMIT;
			END LOOP;
		END $$;
	UPDATE last SET value = 0;
));
$loops[0]->query('SET pg_registry.test_commit_delay = 1');
$loops[0]->send('CALL race(500)');
$loops[1]->send('CALL race(500)');
for my $session (@loops)
{
	$session->finish;
	is($session->{error}, undef, 'a session of the race ends');
}
my ($row) = $control->query("SELECT value, registry.get('r', 'k') FROM last");
is("@$row", '1000 1000', 'after 1,000 changes by two sessions both hold the last value');

# Held back for long: who comes later waits for the publish, not only for the row.
$slow->query("SET pg_registry.test_commit_delay = '300ms'");
$slow->send('CALL change(7, true)');
$node->poll_query_until('postgres', 'SELECT value = 7 FROM last') or die 'no commit';
is($control->one("SELECT registry.get('r', 'k')"), '1000', 'committed and not yet published: the old value');
$fast->query('CALL change(8, true)');
is($control->one("SELECT registry.get('r', 'k')"), '8', 'the later value is published after it');
$slow->finish;
is($control->one("SELECT registry.get('r', 'k')"), '8', 'and stays');

# The same for rates, whose writers are serialized as a whole.
$slow->query("SET pg_registry.test_commit_delay = '1ms'");
my $agree = 0;
for my $round (1 .. 100)
{
	my ($a, $b) = (1000 + 2 * $round, 1001 + 2 * $round);
	$slow->send("WITH u AS (UPDATE last SET value = $a RETURNING 1) SELECT registry.set_rates('EUR', '{\"USD\": $a}') FROM u");
	$fast->send("WITH u AS (UPDATE last SET value = $b RETURNING 1) SELECT registry.set_rates('EUR', '{\"USD\": $b}') FROM u");
	$_->finish for $slow, $fast;
	$agree += $control->one("SELECT value = registry.rate('EUR', 'USD') FROM last") eq 't';
}
is($agree, 100, 'set_rates: the later set stays');

$node->stop;
done_testing();
