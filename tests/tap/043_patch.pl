# If this fails, a large registry whose entries are changed one by one shows somebody a mixture of two states, a
# value that he should not see yet or no longer, or loses an entry when it has to grow; or its memory is never
# given back.

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
$node->append_conf('postgresql.conf', "pg_registry.shared_memory = '16MB'");
$node->start;
$node->safe_psql(
	'postgres', q(
	CREATE EXTENSION pg_registry;
	SELECT registry.create_registry('accounts', 'bigint', durable => false);
	SELECT registry.put_many('accounts', jsonb_object_agg('account ' || g, 100)) FROM generate_series(1, 4000) g;
	SELECT registry.create_registry('notes', 'text', durable => false);
	SELECT registry.put_many('notes', jsonb_object_agg('n' || g, 'first ' || g)) FROM generate_series(1, 4000) g;

	-- Each transaction moves an amount, changes a note, adds an account and removes it again later.
	CREATE PROCEDURE move(n int, seed int) LANGUAGE plpgsql AS $$
		BEGIN
			FOR i IN 1 .. n
			LOOP
				PERFORM registry.put('accounts', 'account ' || seed, 100 - i % 50);
				PERFORM registry.put('accounts', 'account ' || seed + 1, 100 + i % 50);
				PERFORM registry.put('notes', 'n' || seed, repeat('x', i % 200));
				PERFORM registry.put('accounts', format('extra %s %s', seed, i % 3), 0);
				PERFORM registry.delete('accounts', format('extra %s %s', seed, (i + 1) % 3));
				COMMIT;
			END LOOP;
		END $$;

	-- The whole snapshot and single reads of one statement: true if they agree in everything.
	CREATE FUNCTION sound() RETURNS boolean LANGUAGE sql STABLE AS $$
		WITH e AS MATERIALIZED (SELECT key, value::bigint FROM registry.entries('accounts'))
		SELECT sum(value) = 400000
		   AND count(*) = registry.entry_count('accounts')
		   AND bool_and(value = registry.get_numeric('accounts', key))
		  FROM e
	$$;
));

my $old = RawProtocol->new($node, 'postgres');
my $cursor = RawProtocol->new($node, 'postgres');
my $writer = RawProtocol->new($node, 'postgres');
my $other = RawProtocol->new($node, 'postgres');

sub one { return $writer->one("SELECT $_[0]") }

sub bytes { return one("bytes FROM registry.memory WHERE part = '$_[0]'") }

# ---------------------------------------------------------------------------
# One change, seen from older and newer generations
# ---------------------------------------------------------------------------

my $generation = one('registry.generation()');

$old->query('BEGIN ISOLATION LEVEL REPEATABLE READ');
is($old->one("SELECT registry.get_numeric('accounts', 'account 7')"), 100, 'a transaction pins');
$cursor->query("BEGIN; DECLARE c CURSOR FOR SELECT registry.get_text('notes', 'n7') FROM generate_series(1, 3); FETCH c");

$writer->query("SELECT registry.put('accounts', 'account 7', 1)");
$writer->query("SELECT registry.put('notes', 'n7', 'second, and longer than what was there before')");
$writer->query("SELECT registry.delete('accounts', 'account 8')");
$writer->query("SELECT registry.put('accounts', 'account 4001', 199)");

is(one('registry.generation()') - $generation, 4, 'each of the changes is a generation');
is(one("registry.get_numeric('accounts', 'account 7')"), 1, 'a new statement reads the new value');
is(one("registry.get_text('notes', 'n7')"), 'second, and longer than what was there before', 'and the new text');
is(one("registry.get_numeric('accounts', 'account 8') IS NULL"), 't', 'not what was deleted');
is(one("registry.get_numeric('accounts', 'account 4001')"), 199, 'but what was added');
is(one("registry.entry_count('accounts')"), 4000, 'counted right');

is($old->one("SELECT registry.get_numeric('accounts', 'account 7')"), 100, 'the transaction its own');
is($old->one("SELECT registry.get_numeric('accounts', 'account 8')"), 100, 'with what was deleted since');
is($old->one("SELECT registry.get_numeric('accounts', 'account 4001') IS NULL"), 't', 'without what was added since');
is($old->one("SELECT sound()"), 't', 'and all of it agrees');
is(join(',', map { $_->[0] } $cursor->query('FETCH ALL FROM c')), 'first 7,first 7', 'the cursor, too, its own');

$writer->query("SELECT registry.put('accounts', 'account 8', 100)");
$writer->query("SELECT registry.delete('accounts', 'account 4001')");
$writer->query("SELECT registry.put('accounts', 'account 7', 100)");
is(one('sound()'), 't', 'what was deleted can be put again');

# ---------------------------------------------------------------------------
# Two writers, readers of old and new generations, growth in between
# ---------------------------------------------------------------------------

my $block = one("bytes FROM registry.registries WHERE name = 'accounts'");
my $wrong = 0;

$writer->send('CALL move(20000, 11)');
$other->send('CALL move(20000, 21)');
my $reader = RawProtocol->new($node, 'postgres');
for my $i (1 .. 150)
{
	$wrong++ if $reader->one('SELECT sound()') ne 't';
	$wrong++ if $i % 10 == 0 && $old->one('SELECT sound()') ne 't';
}
$writer->finish;
$other->finish;
is($wrong, 0, 'no statement saw a mixture beside two writers');
is($old->one('SELECT sound()'), 't', 'nor did the transaction that is 80,000 changes behind');
is($old->one("SELECT count(*) FROM registry.entries('notes') WHERE value::text LIKE '%first%'"), 4000,
	'which still reads the old notes');
is(one("count(*) FROM registry.entries('accounts')"), one("registry.entry_count('accounts')"), 'the count is right');
cmp_ok(bytes('old versions'), '<', 512 * 1024, 'the versions that it holds back are few');
$old->query('COMMIT');
$cursor->query('COMMIT');
$writer->query('CALL move(200, 31)');
cmp_ok(bytes('old versions'), '<', 64 * 1024, 'and go with it');

# New keys take the slots that are left, and then the block is built anew: twice here, under a reader.
$old->query('BEGIN ISOLATION LEVEL REPEATABLE READ');
is($old->one('SELECT sound()'), 't', 'another old transaction');
$writer->query(q(DO $$ BEGIN FOR i IN 1 .. 20000 LOOP PERFORM registry.put('accounts', 'new ' || i, 0); COMMIT; END LOOP; END $$));
is(one('sound()'), 't', 'after growing fivefold');
is(one("count(*) FROM registry.entries('accounts') WHERE key LIKE 'new %'"), 20000, 'every new key is there');
is($old->one("SELECT sound() AND count(*) = 0 FROM registry.entries('accounts') WHERE key LIKE 'new %'"), 't',
	'none of them for the old transaction');
$old->query('COMMIT');
$writer->query(q(DO $$ BEGIN FOR i IN 1 .. 20000 LOOP PERFORM registry.delete('accounts', 'new ' || i); COMMIT; END LOOP; END $$));
is(one('sound()'), 't', 'after deleting them again');

# ---------------------------------------------------------------------------
# A patch that was reserved before the block was built anew
# ---------------------------------------------------------------------------

$writer->query(q(
	SELECT registry.create_registry('grows', 'bigint', durable => false);
	SELECT registry.put_many('grows', jsonb_object_agg(g, 0)) FROM generate_series(1, 2100) g;
	SET lock_timeout = 1));
$other->query("SET pg_registry.test_commit_delay = '5s'");
$other->send("SELECT registry.put('grows', 'late', 1)");
$node->poll_query_until('postgres', "SELECT bytes > 0 FROM registry.memory WHERE part = 'reserved by commits'")
  or die 'the late writer has not reserved';
# More than the block has slots for.  Keys that share the late one's lock have to wait, and are left out.
$writer->query(q(
	DO $$ BEGIN
		FOR i IN 1 .. 6000
		LOOP
			BEGIN
				PERFORM registry.put('grows', 'new ' || i, 0);
			EXCEPTION WHEN lock_not_available THEN
			END;
			COMMIT;
		END LOOP;
	END $$));
is(one("registry.get_numeric('grows', 'late') IS NULL"), 't', 'the patch has not been published yet');
cmp_ok(one("registry.entry_count('grows')"), '>', 7500, 'while the block has grown beyond its slots');
$other->finish;
is(one("registry.get_numeric('grows', 'late')"), 1, 'it went into the block that was built meanwhile');
is(one("count(*) FROM registry.entries('grows')"), one("registry.entry_count('grows')"), 'which has all that is in it');
$writer->query('RESET lock_timeout');
$other->query('RESET pg_registry.test_commit_delay');

# ---------------------------------------------------------------------------
# Nothing is left behind
# ---------------------------------------------------------------------------

$writer->query("BEGIN; SELECT registry.put('accounts', 'account 1', 5); SAVEPOINT s;
	SELECT registry.put('accounts', 'account 2', 5); ROLLBACK TO s; ROLLBACK");
is(bytes('reserved by commits') + bytes('uncommitted changes'), 0, 'a rollback leaves nothing');
$writer->query("SELECT registry.drop_registry(name) FROM registry.registries WHERE name <> 'rates'");
$writer->query(q(SELECT registry.create_registry('small', 'text', durable => false)));
$writer->query(q(DO $$ BEGIN FOR i IN 1 .. 200 LOOP PERFORM registry.put('small', 'k', 'v'); COMMIT; END LOOP; END $$));
cmp_ok(one("sum(bytes) FROM registry.memory WHERE part <> 'free'"), '<', 200 * 1024, 'a drop gives all of it back');

# ---------------------------------------------------------------------------
# No memory: a patch needs little, and fails whole when there is none
# ---------------------------------------------------------------------------

$writer->query(q(SELECT registry.create_registry('full', 'text', durable => false)));
$writer->query(q(SELECT registry.put_many('full', jsonb_object_agg('k' || g, repeat('x', 1500))) FROM generate_series(1, 4509) g));
my ($free, $size) = map { bytes($_) } 'free', 'registries of database postgres';
cmp_ok($free, '>', 0, "the registry takes $size bytes, $free are free");
$writer->query(q(SELECT registry.put('full', 'k1', 'short')));
is(one("registry.get_text('full', 'k1')"), 'short', 'one entry can be changed');
$old->query('BEGIN ISOLATION LEVEL REPEATABLE READ');
is($old->one("SELECT registry.get_text('full', 'k1')"), 'short', 'somebody pins');
my $failed = 0;
for my $i (1 .. 40)
{
	my (undef, $stderr);
	my $keys = sprintf('generate_series(%d, %d) g', 110 * $i, 110 * $i + 109);
	$node->psql('postgres', "SELECT count(registry.put('full', 'k' || g, repeat('y', 2600))) FROM $keys", stderr => \$stderr);
	$failed++ if $stderr =~ /out of shared memory for pg_registry/;
}
cmp_ok($failed, '>', 0, 'while he does, memory ends some time');
is(one("bool_and(n = 1) FROM (SELECT count(DISTINCT registry.get('full', 'k' || g)) AS n FROM generate_series(110, 4509) g GROUP BY g / 110) AS groups"),
	't', 'every transaction changed all or nothing');
is($old->one("SELECT count(*) FROM registry.entries('full') WHERE value::text LIKE '\"xxx%'"), 4508, 'the old transaction still reads');
$old->query('COMMIT');
$writer->query(q(SELECT registry.put('full', 'k2', 'after')));
is(one("registry.get_text('full', 'k2')"), 'after', 'with its end there is room again');
is(one('sum(bytes) FROM registry.memory'), 16 * 1024 * 1024, 'and every byte is accounted for');

$node->stop;
done_testing();
