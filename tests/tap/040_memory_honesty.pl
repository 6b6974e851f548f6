# If this fails, registry.memory hides memory, a server that runs for months loses it, or a full memory takes away
# reads of a large registry and the way out.
#
# The test build walks all chunks of the arena whenever registry.memory is read, so each look at it is a check.

use strict;
use warnings;

use FindBin;
use lib "$FindBin::RealBin/lib";

use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use RawProtocol;
use Test::More;

my $size = 4 * 1024 * 1024;
my $node = PostgreSQL::Test::Cluster->new('main');
$node->init;
$node->append_conf('postgresql.conf', "pg_registry.shared_memory = '4MB'\nautovacuum = off");
$node->start;
$node->safe_psql('postgres', 'CREATE EXTENSION pg_registry');

my $admin = RawProtocol->new($node, 'postgres');
my $reader = RawProtocol->new($node, 'postgres');
my $other = RawProtocol->new($node, 'postgres');

sub one { return $admin->one("SELECT $_[0]") }
sub total { return one('sum(bytes) FROM registry.memory') }
sub memory { return join(', ', map { "$_->[0] $_->[1]" } $admin->query('SELECT * FROM registry.memory')) }

# What is free, or will be when the next batch of old versions is reclaimed.
sub available
{
	return one("sum(bytes) FROM registry.memory WHERE part IN ('free', 'old versions')");
}

# ---------------------------------------------------------------------------
# Every byte, at every step
# ---------------------------------------------------------------------------

my @steps = (
	[ 'nothing', $admin, 'SELECT 1' ],
	[ 'a small registry', $admin, "SELECT registry.create_registry('small', 'text', durable => false)" ],
	[ 'its entries', $admin, "SELECT registry.put('small', 'k' || g, repeat('x', g)) FROM generate_series(1, 50) g" ],
	[ 'a large one', $admin, "SELECT registry.create_registry('large', 'text', durable => false); SELECT registry.put_many('large', (SELECT jsonb_object_agg('key ' || g, 'value ' || g) FROM generate_series(1, 5000) g))" ],
	[ 'one change of it', $admin, "SELECT registry.put('large', 'key 7', 'changed')" ],
	[ 'a new key', $admin, "SELECT registry.put('large', 'new', 'here')" ],
	[ 'a reader pins', $reader, "BEGIN ISOLATION LEVEL REPEATABLE READ; SELECT registry.get_text('large', 'key 7')" ],
	[ 'changes under a pin', $admin, "SELECT registry.put('large', 'key ' || g, 'newer') FROM generate_series(1, 100) g" ],
	[ 'deletions under a pin', $admin, "SELECT registry.delete('large', 'key ' || g) FROM generate_series(1, 100) g" ],
	[ 'a cursor of another generation', $other, "BEGIN; DECLARE c CURSOR FOR SELECT registry.get_text('large', 'key 700') FROM generate_series(1, 3); FETCH c" ],
	[ 'a rebuild under both', $admin, "SELECT registry.put('large', 'key ' || g, 'other') FROM generate_series(1, 4000) g" ],
	[ 'uncommitted changes', $admin, "BEGIN; SELECT registry.put('large', 'key 1', repeat('y', 100000)); SELECT registry.put('small', 'k1', 'z')" ],
	[ 'a savepoint, rolled back', $admin, "SAVEPOINT s; SELECT registry.put('large', 'key 2', repeat('y', 100000)); ROLLBACK TO s" ],
	[ 'a registry of this transaction', $admin, "SELECT registry.create_registry('brief', 'bigint', durable => false); SELECT registry.put('brief', 'k', 1)" ],
	[ 'rolled back', $admin, 'ROLLBACK' ],
	[ 'too much', $admin, "SELECT registry.put('small', 'k', repeat('x', $size))", '53200' ],
	[ 'rates', $admin, q(SELECT registry.set_rates('EUR', '{"USD": 2, "GBP": 3}')) ],
	[ 'the large one dropped under both', $admin, "SELECT registry.drop_registry('large')" ],
	[ 'the reader leaves', $reader, 'COMMIT' ],
	[ 'the cursor leaves', $other, 'COMMIT' ],
	[ 'the small one dropped', $admin, "SELECT registry.drop_registry('small')" ],
);
for my $step (@steps)
{
	my ($name, $session, $sql, $state) = @$step;
	is($session->sqlstate($sql), $state // '', $name) or diag($session->{error}{M});
	is(total(), $size, "$name: every byte is accounted for") or diag(memory());
}

# ---------------------------------------------------------------------------
# Nothing leaks
# ---------------------------------------------------------------------------

$admin->query(
	q(CREATE PROCEDURE cycles(n int) LANGUAGE plpgsql AS $$
		DECLARE
			name text;
		BEGIN
			FOR i IN 1 .. n
			LOOP
				name := 'cycle ' || i % 11;
				PERFORM registry.create_registry(name, 'text', durable => false);
				PERFORM registry.put(name, 'k' || i, repeat('x', i % 2000));
				COMMIT;
				PERFORM registry.put(name, 'k' || i, repeat('y', i % 300));
				PERFORM registry.put(name, 'other', 'v');
				COMMIT;
				PERFORM registry.delete(name, 'other');
				IF i % 5 = 0 THEN ROLLBACK; ELSE COMMIT; END IF;
				PERFORM registry.drop_registry(name);
				COMMIT;
			END LOOP;
		END $$));
$admin->query(
	q(CREATE PROCEDURE patches(n int) LANGUAGE plpgsql AS $$
		BEGIN
			FOR i IN 1 .. n
			LOOP
				PERFORM registry.put('large', 'key ' || i % 5000, repeat('x', i % 200));
				PERFORM registry.delete('large', 'key ' || (i * 7) % 5000);
				IF i % 10 = 0 THEN PERFORM registry.put('large', 'new ' || i % 500, 'v'); END IF;
				IF i % 9 = 0 THEN ROLLBACK; ELSE COMMIT; END IF;
			END LOOP;
		END $$));

# A first round of each, so that what stays for good (rooms of the directory) is there.
my $fill = "SELECT registry.create_registry('large', 'text', durable => false); SELECT registry.put_many('large', (SELECT jsonb_object_agg('key ' || g, 'v') FROM generate_series(1, 5000) g))";
$admin->query($_) for 'CALL cycles(50)', $fill, 'CALL patches(50)', "SELECT registry.drop_registry('large')";

my $start = available();
for my $pinned (0, 1)
{
	my $when = $pinned ? 'with an idle pin' : 'without pins';

	$reader->query("BEGIN ISOLATION LEVEL REPEATABLE READ; SELECT registry.registry_exists('none')") if $pinned;
	is($admin->sqlstate('CALL cycles(10000)'), '', "10,000 times create, put, delete, drop $when") or diag($admin->{error}{M});
	is(total(), $size, "$when: every byte is accounted for");
	$admin->query($fill);
	is($admin->sqlstate('CALL patches(10000)'), '', "10,000 changes in a large registry $when") or diag($admin->{error}{M});
	is(total(), $size, "$when: every byte is accounted for");
	$admin->query("SELECT registry.drop_registry('large')");
	$reader->query('COMMIT') if $pinned;
	is(available(), $start, "$when: all memory comes back") or diag(memory());
	is(one("sum(bytes) FROM registry.memory WHERE part IN ('uncommitted changes', 'reserved by commits')"), 0, "$when: and no reservation stays");
}

# ---------------------------------------------------------------------------
# Full, by changes in place
# ---------------------------------------------------------------------------

$admin->query($fill);
$reader->query('BEGIN ISOLATION LEVEL REPEATABLE READ');
is($reader->one("SELECT string_agg(DISTINCT registry.get_text('large', 'key ' || g), ',') FROM generate_series(1, 5000) g"), 'v', 'a large registry, and a transaction that reads it');
my $n = 0;
$n++ while $n < 5000 && $admin->sqlstate("SELECT registry.put('large', 'key ' || $n + 1, repeat('x', 1500))") eq '';
is($admin->{error}{C}, '53200', "full after $n changes in place") or diag($admin->{error}{M});
cmp_ok($n, '>', 500, 'which is most of the memory');
is(total(), $size, 'full: every byte is accounted for');
is(one("count(*) FROM generate_series(1, 5000) g WHERE length(registry.get_text('large', 'key ' || g)) = 1500"), $n, 'full: what was changed is there, the refused change is not');
is($reader->one("SELECT string_agg(DISTINCT registry.get_text('large', 'key ' || g), ',') FROM generate_series(1, 5000) g"), 'v', 'full: the transaction reads what it read');
is($other->one("SELECT registry.get_text('large', 'key 5000')"), 'v', 'full: so do new readers');
is($admin->sqlstate("SELECT registry.delete('large', 'key 1')"), '', 'full: a deletion works') or diag($admin->{error}{M});
is($other->one("SELECT coalesce(registry.get_text('large', 'key 1'), 'gone')"), 'gone', 'and takes effect');
is($admin->sqlstate("SELECT registry.drop_registry('large')"), '', 'full: dropping works');
is($reader->one("SELECT string_agg(DISTINCT registry.get_text('large', 'key ' || g), ',') FROM generate_series(1, 5000) g"), 'v', 'under the transaction, which still reads it');
is(total(), $size, 'every byte is accounted for');
$reader->query('COMMIT');
is(available(), $start, 'and comes back') or diag(memory());

$node->stop;
done_testing();
