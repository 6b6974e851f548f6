# If this fails, a subscriber of the extension's tables answers with something else than its publisher has
# committed, or replication stops.

use strict;
use warnings;

use FindBin;
use lib "$FindBin::RealBin/lib";

use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use RawProtocol;
use Test::More;

my ($publisher, $subscriber) = map { PostgreSQL::Test::Cluster->new($_) } qw(publisher subscriber);
for my $node ($publisher, $subscriber)
{
	$node->init(allows_streaming => 'logical');
	# settings of the apply worker, which have no influence on what it stores
	$node->append_conf('postgresql.conf', "timezone = 'Asia/Kathmandu'\ndatestyle = 'SQL, DMY'\nextra_float_digits = -10") if $node == $subscriber;
	$node->append_conf('postgresql.conf', "autovacuum = off\nwal_retrieve_retry_interval = 100ms");
	$node->start;
	$node->safe_psql('postgres', 'CREATE EXTENSION pg_registry');
}
my $p = RawProtocol->new($publisher, 'postgres');
my $s;

sub read_subscriber
{
	$s = RawProtocol->new($subscriber, 'postgres');
	$s->query("SET timezone = 'UTC'; SET datestyle = iso; SET extra_float_digits = 1");
	return;
}
read_subscriber();
$p->query("SET timezone = 'UTC'");

# The name of each registry, its type, and its entries.
my $everything = q(SELECT coalesce(string_agg(concat_ws(' ', r.name, r.value_type, r.max_age, e.key, e.value::text), E'\n' ORDER BY r.name COLLATE "C", e.key COLLATE "C"), '')
	FROM registry.registries r LEFT JOIN registry.entries(r.name) e ON r.durable WHERE r.name <> 'rates');
my $problems = 'SELECT count(*) FROM registry.registries r, registry.verify(r.name) WHERE r.durable';

sub caught_up
{
	my ($name) = @_;
	$publisher->wait_for_catchup('sub');
	my $expected = $p->one($everything);
	my $got = $s->one($everything);
	ok($got eq $expected, "$name: the subscriber has the same") or diag(join("\n", (grep { index("$expected\n", "$_\n") < 0 } split(/\n/, $got)), '-- expected:', grep { index("$got\n", "$_\n") < 0 } split(/\n/, $expected)));
	is($s->one($problems), 0, "$name: memory and tables agree");
	return;
}

# ---------------------------------------------------------------------------
# The initial copy, by workers that copy both tables at the same time
# ---------------------------------------------------------------------------

$p->query($_) for "SELECT registry.create_registry('r', 'float8', durable => true)", "SELECT registry.put('r', k, v) FROM (VALUES ('a', '0.1'), ('nan', 'NaN'), ('-0', '-0')) x(k, v)",
  "SELECT registry.create_registry('many', 'text', durable => true)", "SELECT registry.put_many('many', (SELECT jsonb_object_agg(g, md5(g::text)) FROM generate_series(1, 3000) g))",
  "SELECT registry.create_registry('memory', 'text')";
$publisher->safe_psql('postgres', 'CREATE PUBLICATION pub FOR TABLE _registry.definitions, _registry.stored_entries');
$subscriber->safe_psql('postgres', "CREATE SUBSCRIPTION sub CONNECTION '" . $publisher->connstr . ' dbname=postgres' . "' PUBLICATION pub");
$subscriber->wait_for_subscription_sync($publisher, 'sub');
caught_up('initial copy');
is($s->one("SELECT string_agg(DISTINCT state, ', ') FROM registry.registries WHERE durable AND NOT registry.reload(name)"), undef, 'they can be loaded');
is($s->one("SELECT string_agg(DISTINCT state, ', ') FROM registry.registries WHERE durable"), 'resident', 'and are');
caught_up('in memory');

# ---------------------------------------------------------------------------
# Changes
# ---------------------------------------------------------------------------

my @changes = (
	[ 'put', "SELECT registry.put('r', 'b', '2'), registry.put('r', 'a', '3')" ],
	[ 'delete', "SELECT registry.delete('r', 'nan')" ],
	[ 'put with a TTL', "SELECT registry.put('r', 'hour', '1', '1 hour'), registry.put('r', 'gone', '1', '1 microsecond')" ],
	[ 'put_many', "SELECT registry.put_many('many', '{\"1\": \"one\", \"new\": \"two\\nlines\"}')" ],
	[ 'replace', "SELECT registry.put_many('r', '{\"c\": 1e-300, \"d\": 0.30000000000000004}', true)" ],
	[ 'a savepoint', "BEGIN; SELECT registry.put('r', 'e', '1'); SAVEPOINT s; SELECT registry.put('r', 'f', '1'); ROLLBACK TO s; SELECT registry.put('r', 'g', '1'); COMMIT" ],
	[ 'a rollback', "BEGIN; SELECT registry.put('r', 'h', '1'); ROLLBACK" ],
	[ 'DML', "UPDATE _registry.stored_entries SET key = key || '!' WHERE registry = 'r'" ],
	[ 'one key, often', "DO \$\$ BEGIN FOR i IN 1..200 LOOP PERFORM registry.put('r', 'often', i); COMMIT; END LOOP; END \$\$" ],
	[ 'create and put', "BEGIN; SELECT registry.create_registry('new', 'jsonb', durable => true, max_age => '1 day'); SELECT registry.put('new', 'k', '{\"b\": 1, \"a\": [1.50]}'::jsonb); COMMIT; SELECT registry.put('new', 'l', 'null')" ],
	[ 'alter', "SELECT registry.alter_registry('new', '{\"max_age\": \"2 days\"}')" ],
	[ 'rename', "SELECT registry.alter_registry('new', '{\"name\": \"newer\"}'); SELECT registry.put('newer', 'm', '1')" ],
	[ 'rename and put in one transaction', "BEGIN; SELECT registry.put('newer', 'n', '1'); SELECT registry.alter_registry('newer', '{\"name\": \"newest\"}'); SELECT registry.put('newest', 'o', '1'); SELECT registry.delete('newest', 'm'); COMMIT" ],
	[ 'clear and another type', "SELECT registry.clear('newest'); SELECT registry.alter_registry('newest', '{\"value_type\": \"timestamptz\"}'); SELECT registry.put('newest', 'k', '0044-03-15 BC')" ],
	[ 'drop', "SELECT registry.drop_registry('newest')" ],
	[ 'drop and create', "BEGIN; SELECT registry.drop_registry('r'); SELECT registry.create_registry('r', 'boolean', durable => true); SELECT registry.put('r', 'yes', true); COMMIT" ],
	[ 'drop a memory registry', "SELECT registry.drop_registry('memory')" ],
	[ 'TRUNCATE', "TRUNCATE _registry.stored_entries" ],
	[ 'put after it', "SELECT registry.put('r', 'no', false), registry.put('many', 'k', 'v')" ],
	[ 'TRUNCATE of both', "TRUNCATE _registry.stored_entries, _registry.definitions" ],
	[ 'all anew', "SELECT registry.create_registry('r', 'numeric', durable => true); SELECT registry.put_many('r', (SELECT jsonb_object_agg(g, g) FROM generate_series(1, 5000) g))" ],
	[ 'one of many', "SELECT registry.put('r', '77', 1.10), registry.delete('r', '78')" ],
);
for my $state ('as they come', 'loaded after each')
{
	for my $change (@changes)
	{
		my ($name, $sql) = @$change;
		$p->query($_) for $name eq 'TRUNCATE' || $name =~ /^TRUNCATE|one key/ ? $sql : split(/; (?!.*END \$\$)/, $sql);
		caught_up("$name, $state");
		$s->query('SELECT registry.reload(name) FROM registry.registries WHERE durable') if $state ne 'as they come';
	}
	$p->query($_) for "TRUNCATE _registry.stored_entries, _registry.definitions", "SELECT registry.create_registry('r', 'float8', durable => true)", "SELECT registry.put('r', 'nan', 'NaN')",
	  "SELECT registry.create_registry('many', 'text', durable => true)", "SELECT registry.create_registry('memory', 'text')";
	caught_up("$state: once more");
}

# The subscriber has room for nothing: it answers from the table.
$subscriber->append_conf('postgresql.conf', "pg_registry.max_bytes_per_database = '1kB'");
$subscriber->reload;
$p->query("SELECT registry.put_many('many', (SELECT jsonb_object_agg(g, md5(g::text)) FROM generate_series(1, 3000) g))");
caught_up('no room');

# A restart in between.
$subscriber->restart;
read_subscriber();
$p->query("SELECT registry.put('many', 'k', 'v'), registry.put('r', 'k', '1')");
caught_up('restarted');
is($s->one('SELECT count(*) FROM pg_stat_subscription WHERE pid IS NOT NULL'), 1, 'the apply worker runs');

$_->stop for $subscriber, $publisher;
unlike(slurp_file($subscriber->logfile), qr/ERROR|PANIC|TRAP/, 'no error on the subscriber');
done_testing();
