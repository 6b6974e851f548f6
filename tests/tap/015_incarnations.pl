# If this fails, a registry that is dropped and created again with another type while somebody has changed it
# makes the server read text as jsonb: wrong values, or a crash of everybody's sessions.

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
$node->append_conf('postgresql.conf', 'max_locks_per_transaction = 64');
$node->start;
$node->safe_psql('postgres', 'CREATE EXTENSION pg_registry');

my $changer = RawProtocol->new($node, 'postgres');
my $dropper = RawProtocol->new($node, 'postgres');

# Pinned with one type, changed with the next: the reader keeps the registry that it pinned.
$changer->query("SELECT registry.create_registry('r', 'jsonb', durable => false); SELECT registry.put('r', 'a', 1)");
$changer->query('BEGIN ISOLATION LEVEL REPEATABLE READ');
is($changer->one("SELECT registry.get('r', 'a')"), '1', 'a jsonb registry is pinned');
$dropper->query("SELECT registry.drop_registry('r')");
$dropper->query("SELECT registry.create_registry('r', 'text', durable => false)");
$changer->query("SELECT registry.put('r', 'b', repeat('A', 4000))");
is($changer->one("SELECT registry.get('r', 'b')"), undef, 'what was put into the new one is not in the old one');
is($changer->one("SELECT registry.get('r', 'a')"), '1', 'which still answers');
is($changer->one("SELECT count(*) FROM registry.entries('r')"), '1', 'as a whole too');
$changer->query('COMMIT');
is($changer->one("SELECT length(registry.get_text('r', 'b'))"), '4000', 'the new one has it after the commit');

# An open change survives neither a drop of the extension nor turns up in the one that comes after.
$changer->query("BEGIN; SELECT registry.put('r', 'b', repeat('A', 4000))");
$dropper->query('DROP EXTENSION pg_registry');
$dropper->query('CREATE EXTENSION pg_registry');
$dropper->query("SELECT registry.create_registry('r', 'jsonb', durable => false)");
$changer->query('CREATE TEMPORARY TABLE some_invalidations (a int); COMMIT');
is($dropper->one("SELECT registry.get('r', 'b')"), undef, 'a change of a dropped extension is void');
is($dropper->one("SELECT registry.entry_count('r')"), '0', 'and nothing else came through');

# A cast is anybody's function: here it replaces the registry that the value is being converted for.
$dropper->query(
	q(
	SELECT registry.create_registry('c', 'jsonb', durable => false);
	CREATE TYPE pair AS (a int);
	CREATE FUNCTION pair_to_jsonb(pair) RETURNS jsonb LANGUAGE plpgsql AS $$
		BEGIN
			PERFORM registry.drop_registry('c');
			PERFORM registry.create_registry('c', 'text', durable => false);
			RETURN '{"a": 1}';
		END $$;
	CREATE CAST (pair AS jsonb) WITH FUNCTION pair_to_jsonb(pair) AS ASSIGNMENT;
));
is($dropper->sqlstate("SELECT registry.put('c', 'k', ROW(1)::pair)"), '55000', 'the put notices');
is($dropper->one("SELECT value_type FROM registry.registries WHERE name = 'c'"), 'jsonb', 'and all of it is rolled back');

# Somebody who waited for DROP EXTENSION creates his registry in the extension that came after it, or not at all.
$dropper->query('BEGIN; DROP EXTENSION pg_registry; CREATE EXTENSION pg_registry');
my $waiter = RawProtocol->new($node, 'postgres');
$waiter->send("SELECT registry.create_registry('late', 'text', durable => false)");
$node->poll_query_until('postgres', "SELECT count(*) = 1 FROM pg_locks WHERE NOT granted AND locktype = 'object'")
	or die 'create_registry does not wait';
$dropper->query('COMMIT');
$waiter->finish;
my $used = $dropper->one("SELECT bytes FROM registry.memory WHERE part LIKE 'registries of database %'");
my $seen = $dropper->one("SELECT count(*) FROM registry.registries WHERE name = 'late'");
ok($seen eq '1' || $used eq '0', "it exists or takes no memory ($seen, $used bytes)");

# Many keys of many registries do not fill the lock table.
$dropper->query("SELECT registry.create_registry('m' || i, 'text', durable => false) FROM generate_series(1, 100) i");
$dropper->query('BEGIN');
$dropper->query("SELECT registry.put('m' || (1 + i % 100), 'k' || i, 'v') FROM generate_series(1, 20000) i");
cmp_ok($dropper->one('SELECT count(*) FROM pg_locks WHERE pid = pg_backend_pid()'),
	'<', 500, 'twenty thousand puts hold a few hundred locks');
$dropper->query('COMMIT');
is($dropper->one("SELECT sum(entries) FROM registry.registries WHERE name LIKE 'm%'"), '20000', 'and are all there');

done_testing();
