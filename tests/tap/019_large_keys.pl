# If this fails, a text of a gigabyte where a key, a registry name or a currency belongs hurts the session or the
# server instead of being refused.

use strict;
use warnings;

use FindBin;
use lib "$FindBin::RealBin/lib";

use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use RawProtocol;
use Test::More;

# what is called with the text, and the SQLSTATE or the result; the first two with all of a gigabyte
my @calls = (
	[ "registry.put('r', %s, 'v')", '54000' ],
	[ "registry.get('r', %s)", undef ],
	[ "registry.get_float8('r', %s)", undef ],
	[ "registry.delete('r', %s)", 'f' ],
	[ "registry.get(%s, 'k')", '42704' ],
	[ "registry.create_registry(%s, durable => false)", '42622' ],
	[ "registry.registry_exists(%s)", 'f' ],
	[ "registry.rate('EUR', %s)", '22023' ],
	[ "registry.rate_float8(%s, 'EUR')", '22023' ],
	[ "registry.minor_units(%s)", '22023' ],
	[ "registry.put('r', 'k', %s)", '53200' ],);

my $node = PostgreSQL::Test::Cluster->new('main');
$node->init;
$node->start;
my $session = RawProtocol->new($node, 'postgres');
$session->query('CREATE EXTENSION pg_registry');
$session->query("SELECT registry.create_registry('r', 'text', durable => false)");

for my $i (0 .. $#calls)
{
	my ($expression, $expected) = @{ $calls[$i] };
	my $bytes = $i < 2 ? 1_000_000_000 : 100_000_000;
	$session->send('SELECT ' . sprintf($expression, "repeat('k', $bytes)"));
	my @rows = $session->finish;

	if (@rows)
	{
		is($rows[0][0], $expected, sprintf($expression, "$bytes bytes"));
	}
	else
	{
		is($session->{error}{C}, $expected, sprintf($expression, "$bytes bytes") . ' is refused');
		cmp_ok(length($session->{error}{M}), '<', 300, 'with a short message');
	}
}
is($session->one("SELECT registry.entry_count('r')"), '0', 'nothing was stored');

done_testing();
