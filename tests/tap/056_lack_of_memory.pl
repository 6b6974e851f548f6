# If this fails, a durable registry that outgrows the shared memory loses changes, makes transactions fail or gives
# other answers than one that fits; or it never comes back into memory.

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
$node->append_conf('postgresql.conf', "pg_registry.shared_memory = '8MB'");
$node->start;
$node->safe_psql('postgres', q(
	CREATE EXTENSION pg_registry;
	SELECT registry.create_registry('big', 'text', durable => true), registry.create_registry('small', 'bigint', durable => true),
	       registry.create_registry('memory', 'text', durable => false);
	SELECT registry.put('small', 'k', 1), registry.put('big', 'first', 'one')));
my $writer = RawProtocol->new($node, 'postgres');
my $reader = RawProtocol->new($node, 'postgres');

# A loader may be at it, and fail.
sub state { return $reader->one("SELECT replace(state, 'loading', 'from table') FROM registry.registries WHERE name = '$_[0]'") }
sub rows { return $reader->one("SELECT count(*) FROM _registry.stored_entries WHERE registry = '$_[0]'") }

is(state('big'), 'resident', 'at first it fits');

# ---------------------------------------------------------------------------
# One transaction too large for the list of changes
# ---------------------------------------------------------------------------

my $many = "SELECT registry.put_many('big', (SELECT jsonb_object_agg('k' || g, repeat('x', 100) || g) FROM generate_series(1, 60000) g))";
$writer->query('BEGIN');
is($writer->one($many), 60_000, 'more changes than there is memory');
is($writer->one("SELECT registry.get_text('big', 'k777')"), 'x' x 100 . '777', 'the transaction sees them');
is($writer->one("SELECT registry.entry_count('big')"), 60_001, 'all of them');
is($reader->one("SELECT registry.get_text('big', 'k777') IS NULL"), 't', 'nobody else does');
is(state('big'), 'resident', 'and to others it is in memory');
$writer->query('SAVEPOINT s');
is($writer->one("SELECT registry.delete('big', 'k777')"), 't', 'a deletion after that');
is($writer->one("SELECT registry.get_text('big', 'k777') IS NULL"), 't', 'is seen');
$writer->query('ROLLBACK TO s');
is($writer->one("SELECT registry.get_text('big', 'k777')"), 'x' x 100 . '777', 'and taken back with its savepoint');
$writer->query('ROLLBACK');
is($reader->one("SELECT registry.entry_count('big')"), 1, 'rolled back: as before');
is(state('big'), 'resident', 'in memory');

# The same in a subtransaction that is rolled back: what follows is listed again.
$writer->query('BEGIN; SAVEPOINT s');
$writer->query($many);
$writer->query('ROLLBACK TO s');
$writer->query("SELECT registry.put('big', 'second', 'two')");
$writer->query('COMMIT');
is(state('big'), 'resident', 'a subtransaction that was too large and is gone leaves it in memory');
is($reader->one("SELECT registry.get_text('big', 'second')"), 'two', 'with what came after');

my $repeatable = RawProtocol->new($node, 'postgres');
$repeatable->query('BEGIN ISOLATION LEVEL REPEATABLE READ');
is($repeatable->one("SELECT registry.entry_count('big')"), 2, 'a transaction that has read it');

$writer->query($many);
is($writer->{error}{C} // '', '', 'committed');
is(state('big'), 'from table', 'it is read from its table');
is($reader->one("SELECT registry.get_text('big', 'k777')"), 'x' x 100 . '777', 'with all that was put');
is($reader->one("SELECT registry.entry_count('big')"), 60_002, 'and nothing else');
is($repeatable->one("SELECT registry.entry_count('big')"), 2, 'REPEATABLE READ goes on with what it had');
$repeatable->query('COMMIT');

# ---------------------------------------------------------------------------
# Written while it does not fit
# ---------------------------------------------------------------------------

is($reader->one("SELECT registry.reload('big')"), 'f', 'it cannot be loaded');
is(state('big'), 'from table', 'and stays where it is');
$writer->query("SELECT registry.put('big', 'k1', 'new'), registry.delete('big', 'k2')");
is($reader->one("SELECT registry.get_text('big', 'k1') || (registry.get_text('big', 'k2') IS NULL)"), 'newtrue', 'it can be changed');
$writer->query("BEGIN; SELECT registry.put('big', 'k3', 'mine')");
is($writer->one("SELECT registry.get_text('big', 'k3')"), 'mine', 'own changes are seen');
is($reader->one("SELECT left(registry.get_text('big', 'k3'), 1)"), 'x', 'by nobody else');
$writer->query('ROLLBACK');
is($reader->one("SELECT string_agg(key, ',' ORDER BY key) FROM registry.get_many('big', '{k1,first,none}')"), 'first,k1', 'get_many');
is($reader->one("SELECT count(*) FROM registry.entries('big')"), 60_001, 'entries');
is($reader->one("SELECT count(*) FROM registry.verify('big')"), 0, 'verify() finds nothing');

# A memory registry has no table to fall back to.
is($writer->sqlstate("SELECT registry.put_many('memory', (SELECT jsonb_object_agg('k' || g, repeat('x', 100)) FROM generate_series(1, 60000) g))"),
	'53200', 'a memory registry: no memory');
is($reader->one("SELECT registry.get_bigint('small', 'k')"), 1, 'others are as they were');

# ---------------------------------------------------------------------------
# Many small commits fill the memory
# ---------------------------------------------------------------------------

$writer->query("SELECT registry.create_registry('growing', 'text', durable => true)");
my $n = 0;
while (state('growing') eq 'resident' && $n < 400)
{
	$n++;
	$writer->query("SELECT registry.put_many('growing', (SELECT jsonb_object_agg('k$n.' || g, repeat('y', 200)) FROM generate_series(1, 200) g))");
	is($writer->{error}{C} // '', '', "commit $n") if $writer->{error}{C};
}
cmp_ok($n, '>', 10, 'a registry grows');
is(state('growing'), 'from table', 'until there is no room for it');
is($reader->one("SELECT registry.entry_count('growing')"), $n * 200, 'and nothing is missing');
is(rows('growing'), $n * 200, 'in the table either');

# ---------------------------------------------------------------------------
# And back
# ---------------------------------------------------------------------------

$writer->query("SELECT registry.drop_registry('big')");
$writer->query("DELETE FROM _registry.stored_entries WHERE registry = 'growing' AND key !~ '^k1[.]'");
is($reader->one("SELECT registry.reload('growing')"), 't', 'smaller, it can be loaded again');
is(state('growing'), 'resident', 'it is in memory');
is($reader->one("SELECT registry.entry_count('growing')"), 200, 'with what the table has');
is($reader->one("SELECT count(*) FROM registry.verify('growing')"), 0, 'verify() agrees');
$writer->query("SELECT registry.put('growing', 'more', 'z')");
is($reader->one("SELECT registry.get_text('growing', 'more')"), 'z', 'and it is written as before');

$_->close for $writer, $reader, $repeatable;
unlike(slurp_file($node->logfile), qr/PANIC|TRAP|FATAL/, 'the log is clean');
$node->stop;
done_testing();
