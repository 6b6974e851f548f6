# If this fails, somebody who leaves a transaction open stops everybody's writes, or fills the shared memory
# with old versions until writes fail.

use strict;
use warnings;

use FindBin;
use lib "$FindBin::RealBin/lib";

use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use RawProtocol;
use Test::More;

my $publishes = 100_000;

my $node = PostgreSQL::Test::Cluster->new('main');
$node->init;
# Small, so that memory that grows would be noticed by a failing write too.
$node->append_conf('postgresql.conf', "pg_registry.shared_memory = '2MB'");
$node->start;
$node->safe_psql(
	'postgres', q(
	CREATE EXTENSION pg_registry;
	SELECT registry.create_registry('r', 'text', durable => false);
	SELECT registry.put_many('r', jsonb_object_agg('k' || g, repeat('x', 100))) FROM generate_series(1, 100) g;
	SELECT registry.put('r', 'k1', 'first');
	CREATE PROCEDURE publish(n int) LANGUAGE plpgsql AS $$
		BEGIN
			FOR i IN 1 .. n
			LOOP
				PERFORM registry.put('r', 'k' || (1 + i % 100), 'value ' || i);
				COMMIT;
			END LOOP;
		END $$;
));

# The first registry of a database asks for a load of it, which publishes once.
$node->safe_psql('postgres', "CREATE FUNCTION loads() RETURNS text LANGUAGE C AS 'pg_registry', 'pgr_sql_test_load_state'");
$node->poll_query_until('postgres', 'SELECT s.wanted = s.done AND s.lister_pid = 0
	FROM json_to_record(loads()::json) AS s(wanted int, done int, lister_pid int)') or die 'the load does not end';

my $idle = RawProtocol->new($node, 'postgres');
my $cursor = RawProtocol->new($node, 'postgres');
my $writer = RawProtocol->new($node, 'postgres');

sub one { return $writer->one("SELECT $_[0]") }
sub used { return one('memory_used FROM registry.status()') }

# Versions are freed in batches: the least that is used while some more are published.
sub settled
{
	my $least;
	for (1 .. 150)
	{
		$writer->query('CALL publish(1)');
		my $used = used();
		$least = $used if !defined $least || $used < $least;
	}
	return $least;
}

# Every value has been changed once, so that the registry itself does not change its size any more.
$writer->query('CALL publish(100000)');
my $block = one("bytes FROM registry.registries WHERE name = 'r'");
my $start = settled();
note("the registry takes $block bytes, all in all $start are used");
$writer->query("SELECT registry.put('r', 'k1', 'first')");

$idle->query('BEGIN ISOLATION LEVEL REPEATABLE READ');
is($idle->one("SELECT registry.get_text('r', 'k1')"), 'first', 'a transaction pins');
$writer->query("SELECT registry.put('r', 'k1', 'second')");
$cursor->query("BEGIN; DECLARE c CURSOR FOR SELECT registry.get_text('r', 'k1') FROM generate_series(1, 3); FETCH c");

my $generation = one('generation FROM registry.status()');
my $before = used();
my $most = 0;
for (1 .. 10)
{
	$writer->query('CALL publish(' . $publishes / 10 . ')');
	my $used = used();
	$most = $used if $used > $most;
}
is(one('generation FROM registry.status()') - $generation, $publishes, "$publishes publishes meanwhile");
my $end = settled();
note("used: $before bytes before, $most at most, $end after");

# Each of the two pins holds one block, one page and one root: what a publish replaces.  Chunks are cut in units
# of 64 bytes, so some more.
my $version = $block + 2 * 1024 + 4 * 64;
cmp_ok($end - $start, '<=', 2 * $version, 'memory grew by no more than the two versions that are held');
cmp_ok($end - $start, '>', $block, 'and by at least one of them');
cmp_ok($most, '<', 1024 * 1024, 'nor without bound in between');

is(one("count(*) FROM registry.readers WHERE pid = $idle->{pid}"), 1, 'registry.readers shows the transaction');
is(one("count(*) FROM registry.readers WHERE pid = $cursor->{pid}"), 1, 'and the cursor');
is(one("oldest_pin_pid FROM registry.status()"), $idle->{pid}, 'registry.status() names the oldest');
ok(one("bytes > 0 FROM registry.memory WHERE part = 'old versions'"), 'registry.memory counts what they hold');
is($idle->one("SELECT registry.get_text('r', 'k1')"), 'first', 'the transaction still reads its version');
is(join(',', map { $_->[0] } $cursor->query('FETCH ALL FROM c')), 'second,second', 'the cursor its own');

$cursor->query('COMMIT');
$idle->query('COMMIT');
is(one("count(*) FROM registry.readers WHERE pid IN ($idle->{pid}, $cursor->{pid})"), 0, 'the pins end with the transactions');
cmp_ok(abs(settled() - $start), '<=', 2048, 'and the memory comes back');

# The same for READ COMMITTED, where an idle transaction needs to hold nothing.
$idle->query("BEGIN; SELECT registry.get_text('r', 'k1')");
is(one("count(*) FROM registry.readers WHERE pid = $idle->{pid}"), 0, 'READ COMMITTED: nothing is pinned between statements');
$idle->query('COMMIT');

$node->stop;
done_testing();
