# If this fails, a busy server with a thousand sessions that read old states keeps every version that was ever
# published until its memory is full, or frees one that somebody still reads.

use strict;
use warnings;

use FindBin;
use lib "$FindBin::RealBin/lib";

use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use RawProtocol;
use Test::More;

my $sessions = 1000;

my $node = PostgreSQL::Test::Cluster->new('main');
$node->init;
$node->append_conf(
	'postgresql.conf', q(
max_connections = 1010
autovacuum = off
log_statement = none
shared_buffers = 16MB
pg_registry.shared_memory = '16MB'
));
$node->start;
$node->safe_psql(
	'postgres', q(
	CREATE EXTENSION pg_registry;
	SELECT registry.create_registry('r', 'text', durable => false);
	CREATE FUNCTION put(i bigint) RETURNS void LANGUAGE sql AS
		$$ SELECT registry.put('r', 'k', repeat(i || ' ', 100)) $$;
	SELECT put(0);
	CREATE PROCEDURE publish(n int) LANGUAGE plpgsql AS $$
		BEGIN
			FOR i IN 1 .. n LOOP
				PERFORM put(i);
				COMMIT;
			END LOOP;
		END $$;
));

my $watch = RawProtocol->new($node, 'postgres');
my $read = "SELECT registry.generation(), registry.get_text('r', 'k')";

sub one { return $watch->one("SELECT $_[0]") }
sub old_versions { return one("bytes FROM registry.memory WHERE part = 'old versions'") }

# The least that is held back while the next batches of old versions are reclaimed.  It is looked at every 20
# publishes, so the garbage of as many may be in it.
sub settled
{
	my $least = old_versions();
	for (1 .. 60)
	{
		$watch->query('CALL publish(20)');
		my $bytes = old_versions();
		$least = $bytes if $bytes < $least;
	}
	return $least;
}

my $floor = settled();
my $block = one("bytes FROM registry.registries WHERE name = 'r'");
# A publish replaces one block, one page and one root; chunks are cut in units of 64 bytes.
my $version = $block + 2 * 1024 + 4 * 64;

# ---------------------------------------------------------------------------
# As many different generations as sessions
# ---------------------------------------------------------------------------

my @readers;
my %state;
for my $i (1 .. $sessions)
{
	my $reader = RawProtocol->new($node, 'postgres');
	$reader->query('BEGIN ISOLATION LEVEL REPEATABLE READ');
	$watch->query("SELECT put($i)");
	my ($row) = $reader->query($read);
	$state{ $reader->{pid} } = "@$row";
	push @readers, $reader;
}
my %pinned = map { $_->{pid} => (split ' ', $state{ $_->{pid} })[0] } @readers;
is(scalar(keys %{ { reverse %pinned } }), $sessions, "$sessions sessions pin as many generations");
{
	my %rows = map { $_->[0] => $_->[1] } $watch->query('SELECT pid, generation FROM registry.readers');
	is_deeply(\%rows, \%pinned, 'registry.readers shows each');
}
is(one('oldest_pin_pid FROM registry.status()'), $readers[0]{pid}, 'registry.status() the oldest');

sub torn
{
	my $n = 0;
	for my $reader (@readers) { $n++ if "@{ ($reader->query($read))[0] }" ne $state{ $reader->{pid} } }
	return $n;
}

$watch->query('CALL publish(20000)');
my $held = settled();
note("a version has $version bytes, $sessions pins hold back $held bytes, without them it is $floor");
cmp_ok($held, '<=', $floor + ($sessions + 20) * $version, 'after 20,000 publishes they hold back one version each');
cmp_ok($held, '>=', $sessions * $block, 'and no less');
is(torn(), 0, 'which they still read');

# Every other one ends: half of it is free, wherever it stands.
$readers[$_]->query('COMMIT') for grep { $_ % 2 } 0 .. $#readers;
@readers = @readers[ grep { $_ % 2 == 0 } 0 .. $#readers ];
is(one('count(*) FROM registry.readers'), $sessions / 2, 'half of them end');
$held = settled();
cmp_ok($held, '<=', $floor + ($sessions / 2 + 20) * $version, 'half of the memory comes back');
cmp_ok($held, '>=', $sessions / 2 * $block, 'and no more');
is(torn(), 0, 'the others still read theirs');

# The rest leaves without a word.
$_->close for @readers;
$node->poll_query_until('postgres', 'SELECT count(*) = 0 FROM registry.readers') or die 'pins are left';
cmp_ok(settled(), '<=', $floor + 20 * $version, 'all of it comes back');
is(one("sum(bytes) FROM registry.memory"), 16 * 1024 * 1024, 'and every byte is accounted for');

$node->stop;
done_testing();
