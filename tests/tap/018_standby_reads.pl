# If this fails, a function that reads a registry breaks queries on a standby, a standby takes writes that
# nobody else sees, or a promotion leaves a server that cannot be written.

use strict;
use warnings;

use FindBin;
use lib "$FindBin::RealBin/lib";

use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use RawProtocol;
use Test::More;

my $primary = PostgreSQL::Test::Cluster->new('primary');
$primary->init(allows_streaming => 1);
$primary->append_conf('postgresql.conf', 'autovacuum = off');
$primary->start;
$primary->safe_psql('postgres', q(
	CREATE EXTENSION pg_registry;
	SELECT registry.create_registry('r', 'text', durable => false);
	SELECT registry.put('r', 'k', 'v');
	SELECT registry.set_rates('EUR', '{"USD": 2}')));
$primary->backup('base');

my $standby = PostgreSQL::Test::Cluster->new('standby');
$standby->init_from_backup($primary, 'base', has_streaming => 1);
$standby->start;
$primary->wait_for_catchup($standby);
my $session = RawProtocol->new($standby, 'postgres');

is($session->one('SELECT pg_is_in_recovery()'), 't', 'a standby');
is($session->one("SELECT registry.registry_exists('r')"), 't', 'a memory registry of the primary is there');
is($session->one("SELECT registry.get_text('r', 'k') IS NULL"), 't', 'but empty');
is($session->one("SELECT entries || state FROM registry.registries WHERE name = 'r'"), '0lost at restart', 'registry.registries says so');
is($session->one("SELECT registry.rate('EUR', 'USD')"), 2, 'its rates are read from the table');
is($session->one("SELECT string_agg(currency || rate_set, ' ' ORDER BY currency) FROM registry.rates"), 'EUR1 USD1', 'registry.rates too');
is($session->sqlstate("SELECT $_"), '', "$_ works there")
  for 'registry.generation()', 'registry.advance()', '* FROM registry.status()', '* FROM registry.readers', '* FROM registry.memory',
  "registry.minor_units('EUR')", "registry.entry_count('rates')", "count(*) FROM registry.entries('rates')";

for my $write ("put('r', 'k', 'w')", "put('r', 'k', 1)", "delete('r', 'k')", "put_many('r', '{}')", "create_registry('new', 'text', durable => false)",
	"drop_registry('r')", "drop_registry('r', if_exists => true)", "set_rates('EUR', '{\"USD\": 3}')")
{
	is($session->sqlstate("SELECT registry.$write"), '25006', "refused: $write");
}

# Statements and transactions there read one generation too.
$session->query('BEGIN ISOLATION LEVEL REPEATABLE READ');
my $generation = $session->one('SELECT registry.generation()');
$primary->safe_psql('postgres', 'CREATE TABLE t AS SELECT 1; DROP TABLE t');
$primary->wait_for_catchup($standby);
is($session->one('SELECT registry.generation()'), $generation, 'a transaction there keeps its generation');
$session->query('COMMIT');

# The primary's DDL arrives.
$primary->safe_psql('postgres', 'CREATE DATABASE other');
$primary->safe_psql('other', 'CREATE EXTENSION pg_registry');
$primary->wait_for_catchup($standby);
is($standby->safe_psql('other', 'SELECT count(*) FROM registry.registries'), 1,
	'an extension that is created on the primary works on the standby');
$primary->safe_psql('postgres', 'DROP DATABASE other');
$primary->safe_psql('postgres', 'DROP EXTENSION pg_registry');
$primary->wait_for_catchup($standby);
is($session->sqlstate("SELECT registry.get_text('r', 'k')"), '3F000', 'one that is dropped is gone there');
$primary->safe_psql('postgres', 'CREATE EXTENSION pg_registry');
$primary->wait_for_catchup($standby);
is($session->one("SELECT registry.registry_exists('r')"), 'f', 'and back when it is created again');

# Promotion, in a session that has been there all the time.
$standby->promote;
$standby->poll_query_until('postgres', 'SELECT NOT pg_is_in_recovery()') or die 'not promoted';
is($session->sqlstate("SELECT registry.create_registry('r', 'text', durable => false); SELECT registry.put('r', 'k', 'promoted')"), '', 'after the promotion it takes writes');
is($session->one("SELECT registry.get_text('r', 'k')"), 'promoted', 'and reads them');
is($session->sqlstate("SELECT registry.set_rates('EUR', '{\"USD\": 3}')"), '', 'rates too');
is($standby->safe_psql('postgres', "SELECT registry.rate('EUR', 'USD')"), 3, 'for everybody');
is($primary->safe_psql('postgres', "SELECT registry.registry_exists('r')"), 'f', 'what was the primary is a server of its own');

$standby->stop;
$primary->stop;
done_testing();
