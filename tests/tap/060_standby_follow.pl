# If this fails, reads on a standby are slow because they come from tables, or wrong: they miss a change that was
# replayed, show half of a transaction, or keep what is gone; or a promoted server starts from an image that lags.
#
# What a read uses is told by registry.registries: "resident" is memory, "from table" is not.  Test builds count
# what a follower reads key by key, and what as a whole.

use strict;
use warnings;

use FindBin;
use lib "$FindBin::RealBin/lib";

use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use RawProtocol;
use Test::More;
use Time::HiRes qw(time);

my $large = 1_000_000;

my $primary = PostgreSQL::Test::Cluster->new('primary');
$primary->init(allows_streaming => 1);
$primary->append_conf(
	'postgresql.conf', q(
log_statement = none
max_wal_size = 2GB
max_worker_processes = 12
wal_receiver_status_interval = 1
pg_registry.shared_memory = '384MB'
));
$primary->start;
$primary->safe_psql(
	'postgres', qq(
	CREATE EXTENSION pg_registry;
	CREATE FUNCTION follow_state() RETURNS text LANGUAGE C AS 'pg_registry', 'pgr_sql_test_follow_state';
	SELECT registry.create_registry('r', 'text', durable => true);
	SELECT registry.create_registry('other', 'text', durable => true);
	SELECT registry.create_registry('memory', 'text', durable => false);
	SELECT registry.create_registry('large', 'bigint', durable => true);
	SELECT registry.put('r', 'first', '1');
	SELECT registry.put('memory', 'k', 'v');
	INSERT INTO registry.stored_entries SELECT 'large', n, n FROM generate_series(1, $large) n;
));
$primary->backup('base');
my $standby = PostgreSQL::Test::Cluster->new('standby');
$standby->init_from_backup($primary, 'base', has_streaming => 1);
$standby->start;

my $p = RawProtocol->new($primary, 'postgres');
my $s = RawProtocol->new($standby, 'postgres');

sub here { return $s->one("SELECT $_[0]") }
sub state_of { return here("state FROM registry.registries WHERE name = '$_[0]'") // 'unknown' }
sub follow { return here("(follow_state()::json ->> '$_[0]')") // '' }

# Polls in the session, so that waiting takes no longer than it has to.
sub wait_here
{
	my ($condition, $name) = @_;
	my $end = time + $PostgreSQL::Test::Utils::timeout_default;
	my $result;

	do { $result = here($condition) // 'null' } while ($result ne 't' && time < $end);
	is($result, 't', $name) or diag(join ', ', here('follow_state()') // 'no place', map { @$_ } $s->query('SELECT name, state, entries FROM registry.registries'));
	return;
}

# What the table has, against what reads return: no row, no difference.
my $differences = q(
	SELECT coalesce(t.key, e.key) FROM registry.entries('%1$s') e
	FULL JOIN (SELECT key, value FROM registry.stored_entries WHERE registry = '%1$s') t USING (key)
	WHERE t.value IS DISTINCT FROM (e.value #>> '{}'));

sub is_same
{
	my ($name, $what) = @_;

	is(scalar($s->query(sprintf $differences, $name)), 0, $what);
	return;
}

# ---------------------------------------------------------------------------
# From the first moment, then from memory
# ---------------------------------------------------------------------------

is(here("registry.get_text('r', 'first')"), 1, 'readable at once');
wait_here("state = 'resident' FROM registry.registries WHERE name = 'large'", 'then everything is in memory');
is(state_of($_), 'resident', "$_ is in memory") for qw(r other);
is(here("registry.get_bigint('large', 777777)"), 777777, 'a read');
is(here("registry.get_text('memory', 'k') IS NULL"), 't', 'entries of memory registries are the primary\'s only');

# ---------------------------------------------------------------------------
# Changes of every kind: SQL on the primary, condition on the standby
# ---------------------------------------------------------------------------

my @changes = (
	[ 'put', "SELECT registry.put('r', 'a', 'x')", "registry.get_text('r', 'a') = 'x'" ],
	[ 'put again', "SELECT registry.put('r', 'a', 'y')", "registry.get_text('r', 'a') = 'y'" ],
	[ 'delete', "SELECT registry.delete('r', 'a')", "registry.get_text('r', 'a') IS NULL" ],
	[ 'put_many', q(SELECT registry.put_many('r', '{"b": "1", "c": "2"}')), "registry.get_text('r', 'c') = '2'" ],
	[ 'replace', q(SELECT registry.put_many('r', '{"d": "4"}', replace => true)), "registry.entry_count('r') = 1 AND registry.get_text('r', 'd') = '4'" ],
	[ 'clear', "SELECT registry.clear('r')", "registry.entry_count('r') = 0" ],
	[ 'DML', "INSERT INTO registry.stored_entries VALUES ('r', 'e', '5')", "registry.get_text('r', 'e') = '5'" ],
	[ 'an update of a key', "UPDATE registry.stored_entries SET key = 'f' WHERE registry = 'r' AND key = 'e'", "registry.get_text('r', 'f') = '5' AND registry.get_text('r', 'e') IS NULL" ],
	[ 'very many keys', "SELECT registry.put('r', n::text, 'n') FROM generate_series(1, 3000) n", "registry.entry_count('r') = 3001" ],
	[ 'a large key and value', "SELECT registry.put('r', repeat('k', 900), repeat('v', 20000))", "length(registry.get_text('r', repeat('k', 900))) = 20000" ],
	[ 'expiry', "SELECT registry.put('r', 'soon', 'x', ttl => '1 hour')", "registry.get_text('r', 'soon') = 'x'" ],
	[ 'another definition', q(SELECT registry.alter_registry('r', '{"max_age": "1 day"}')), "max_age = '1 day' FROM registry.registries WHERE name = 'r'" ],
	[ 'a new registry', "SELECT registry.create_registry('new', 'text', durable => true); SELECT registry.put('new', 'k', 'v')", "registry.get_text('new', 'k') = 'v' WHERE registry.registry_exists('new')" ],
	[ 'another name', q(SELECT registry.alter_registry('new', '{"name": "newer"}'); SELECT registry.put('newer', 'k', 'w')), "NOT registry.registry_exists('new') AND registry.get_text('newer', 'k') = 'w' WHERE registry.registry_exists('newer')" ],
	[ 'dropped and created again', "BEGIN; SELECT registry.drop_registry('newer'); SELECT registry.create_registry('newer', 'bigint', durable => true); SELECT registry.put('newer', 'n', '7'); COMMIT", "registry.get_bigint('newer', 'n') = 7 AND value_type = 'bigint' FROM registry.registries WHERE name = 'newer'" ],
	[ 'dropped', "SELECT registry.drop_registry('newer')", "NOT registry.registry_exists('newer')" ],
	[ 'a memory registry', "SELECT registry.create_registry('m2', 'text', durable => false)", "registry.registry_exists('m2')" ],
	[ 'TRUNCATE', "BEGIN; SELECT registry.put('other', 'k', 'v'); TRUNCATE registry.stored_entries; SELECT registry.put('other', 'l', 'v'); COMMIT", "registry.entry_count('r') = 0 AND registry.entry_count('large') = 0 AND registry.entry_count('other') = 1" ],
);
my $truncate = pop @changes;

sub check_change
{
	my ($name, $sql, $condition) = @{ $_[0] };

	$p->query($sql);
	wait_here($condition, "followed: $name");
	return;
}

check_change($_) for @changes;
is(state_of('r'), 'resident', 'all that in memory');
is_same('r', 'entries are those of the table');

done_testing();
