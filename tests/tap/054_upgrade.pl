# If this fails, durable registries are lost in an upgrade, a dropped or copied database leaves something behind, or a
# library beside the objects of another version takes the server down.

use strict;
use warnings;

use Cwd;
use FindBin;
use lib "$FindBin::RealBin/lib";

use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use RawProtocol;
use Test::More;

my $fill = q(CREATE EXTENSION pg_registry; CREATE ROLE clerk; GRANT EXECUTE ON FUNCTION registry.create_registry TO clerk; SET ROLE clerk;
	SELECT registry.create_registry('r', 'numeric', durable => true, max_age => '1 day'), registry.put('r', 'k', '1.10'), registry.put('r', 'ttl', '2', '1 hour');
	SELECT registry.create_registry('many', 'text', durable => true), registry.put_many('many', (SELECT jsonb_object_agg(g, md5(g::text)) FROM generate_series(1, 3000) g));
	SELECT registry.create_registry('memory', 'text');
	RESET ROLE; CREATE ROLE guest; SELECT registry.grant_access('r', 'read', 'guest'), registry.grant_access('memory', 'read', 'guest'));
my $everything = q(SELECT md5(string_agg(concat_ws(' ', r.name, r.value_type, r.durable, r.max_age, r.owner, e.key, e.value::text, e.updated_at, e.expires_at), E'\n' ORDER BY r.name COLLATE "C", e.key COLLATE "C"))
	FROM registry.registries r LEFT JOIN registry.entries(r.name) e ON r.durable WHERE r.name <> 'rates');
my $problems = 'SELECT count(*) FROM registry.registries r, registry.verify(r.name) WHERE r.durable';

# ---------------------------------------------------------------------------
# pg_upgrade
# ---------------------------------------------------------------------------

my ($old, $new) = map { PostgreSQL::Test::Cluster->new($_) } qw(old new);
$_->init for $old, $new;
$old->start;
$old->safe_psql('postgres', $fill);
my $expected = $old->safe_psql('postgres', $everything);
$old->safe_psql('postgres', 'CREATE DATABASE empty');
$old->safe_psql('empty', 'CREATE EXTENSION pg_registry');
$old->stop;

my $bindir = `pg_config --bindir`;
chomp $bindir;
my $back = getcwd();
chdir PostgreSQL::Test::Utils::tempdir_short();
command_ok([ 'pg_upgrade', '--no-sync', '-d', $old->data_dir, '-D', $new->data_dir, '-b', $bindir, '-B', $bindir, '-s', $new->host, '-p', $old->port, '-P', $new->port ],
	'pg_upgrade with the library preloaded');
chdir $back;
$new->start;
is($new->safe_psql('postgres', $everything), $expected, 'everything is there');
is($new->safe_psql('postgres', "SET ROLE clerk; SELECT registry.put('r', 'new', '7'); SELECT registry.get_numeric('r', 'new') + registry.get_numeric('r', 'k')"), "\n8.10", 'its owner goes on');
is($new->safe_psql('postgres', "SET ROLE guest; SELECT registry.get_numeric('r', 'k'), registry.registry_exists('memory'), registry.registry_exists('many')"), '1.10|t|f', 'so does who may read it');
is($new->safe_psql('empty', "SELECT registry.create_registry('r', durable => true), registry.put('r', 'k', '1'); SELECT registry.get('r', 'k')"), "|\n1", 'so does an empty database');
is($new->safe_psql('postgres', "SELECT string_agg(DISTINCT tgenabled::text, '') FROM pg_trigger WHERE tgrelid::regclass::text LIKE '\_registry.%' AND NOT tgisinternal"), 'A', 'triggers fire always');
is($new->safe_psql('postgres', 'SELECT count(*) FROM pg_extension e, unnest(extconfig)'), 7, 'the next dump has the tables too');

# The old cluster can still run: this one is a copy (S-3).
for my $database (qw(postgres empty))
{
	is($new->safe_psql($database, 'SELECT armed, held FROM registry.status()'), 'f|It comes from another cluster: by a dump, by logical replication or by pg_upgrade.', "$database is held");
	is($new->safe_psql($database, 'SELECT registry.arm(); SELECT armed FROM registry.status()'), "t\nt", 'until it is armed');
}

# ---------------------------------------------------------------------------
# DROP EXTENSION, databases
# ---------------------------------------------------------------------------

my $node = $new;
my $s = RawProtocol->new($node, 'postgres');
sub memory { return $s->one("SELECT sum(bytes) FROM registry.memory WHERE part NOT IN ('free', 'old versions')") }

$s->query($_) for "SELECT registry.alter_registry(name, '{}') FROM registry.registries WHERE durable", 'SELECT registry.reload(name) FROM registry.registries WHERE durable';
my $before = $s->one($everything);
$s->query($_) for 'BEGIN', 'DROP EXTENSION pg_registry';
is($s->sqlstate("SELECT registry.get('r', 'k')"), '3F000', 'after DROP EXTENSION there is nothing');
$s->query('ROLLBACK');
is($s->one($everything), $before, 'rolled back, everything is as it was');
$s->query($_) for 'BEGIN', 'SAVEPOINT s', 'DROP EXTENSION pg_registry', 'ROLLBACK TO s', "SELECT registry.put('r', 'k', '1.20')", 'COMMIT';
is($s->one("SELECT registry.get_numeric('r', 'k')"), '1.20', 'the same with a savepoint');
$s->query($_) for 'BEGIN', 'DROP EXTENSION pg_registry', 'CREATE EXTENSION pg_registry', "SELECT registry.create_registry('r', 'text', durable => true)", "SELECT registry.put('r', 'k', 'another')", 'ROLLBACK';
is($s->one("SELECT registry.get_numeric('r', 'k')"), '1.20', 'dropped and created again, rolled back');
is($s->one($problems), 0, 'memory and tables agree');
$s->query($_) for 'BEGIN', 'DROP EXTENSION pg_registry', 'CREATE EXTENSION pg_registry', "SELECT registry.create_registry('r', 'text', durable => true)", "SELECT registry.put('r', 'k', 'another')";
is($s->one("SELECT registry.get_text('r', 'k')"), 'another', 'dropped and created again');
$s->query('COMMIT');
is($s->one("SELECT string_agg(name || ' ' || registry.get_text('r', 'k'), ',') FROM registry.registries WHERE name <> 'rates'"), 'r another', 'committed');
is($s->one($problems), 0, 'memory and tables agree');

$s->query($_) for 'DROP EXTENSION pg_registry', 'DROP ROLE clerk, guest', split(/;\n/, $fill), 'RESET ROLE';
$s->query("SELECT registry.create_registry('many', 'text', durable => true)") unless $s->one("SELECT registry.registry_exists('many')") eq 't';
$s->query('CREATE DATABASE template_db');
{
	my $t = RawProtocol->new($node, 'template_db');
	$t->query($_) for 'CREATE EXTENSION pg_registry', "SELECT registry.create_registry('r', 'text', durable => true)", "SELECT registry.put('r', 'k', 'template')";
	$t->close;
}
$node->poll_query_until('postgres', "SELECT count(*) = 0 FROM pg_stat_activity WHERE datname = 'template_db'");
my $used = memory();
$s->query('CREATE DATABASE copy TEMPLATE template_db');
is($node->safe_psql('copy', "SELECT registry.get_text('r', 'k')"), 'template', 'a copy of a database has its registries');
$node->safe_psql('copy', "SELECT registry.put('r', 'k', 'copy'), registry.put('r', 'l', 'copy'); SELECT registry.create_registry('s', durable => true)");
is($node->safe_psql('template_db', "SELECT registry.get_text('r', 'k'), registry.entry_count('r'), registry.registry_exists('s')"), 'template|1|f', 'of its own');
$node->safe_psql('template_db', "SELECT registry.delete('r', 'k')");
is($node->safe_psql('copy', "SELECT registry.get_text('r', 'k'), registry.entry_count('r'), registry.registry_exists('s')"), 'copy|2|t', 'both ways');
$s->query('ALTER DATABASE copy RENAME TO renamed');
is($node->safe_psql('renamed', "SELECT registry.get_text('r', 'k'), registry.entry_count('r')"), 'copy|2', 'a database under another name');
is($node->safe_psql('renamed', $problems), 0, 'memory and tables agree');
$s->query('DROP DATABASE renamed');
cmp_ok(memory(), '<=', $used, 'DROP DATABASE frees what it had');
$s->query('CREATE DATABASE renamed');
is($node->safe_psql('renamed', 'CREATE EXTENSION pg_registry; SELECT count(*) FROM registry.registries'), 1, 'a new database of that name is empty');

# ---------------------------------------------------------------------------
# An old library beside new objects, a new one beside old objects
# ---------------------------------------------------------------------------

my $share = $ENV{PGR_STAGE} . `pg_config --sharedir`;
chomp $share;
my $script = slurp_file("$share/extension/pg_registry--1.0.sql");
$script =~ s/^\\echo.*\n//m;
$script =~ s/MODULE_PATHNAME/pg_registry/g;

# Objects that were made without CREATE EXTENSION are nobody's.
$s->query('CREATE DATABASE loose');
$node->safe_psql('loose', $script =~ s/^SELECT pg_catalog.pg_extension_config_dump.*?;\n//gmr);
for my $call ("create_registry('r', durable => true)", "put('r', 'k', '1')", "get('r', 'k')", "verify('r')")
{
	my (undef, undef, $error) = $node->psql('loose', "SELECT registry.$call");
	like($error, qr/extension "pg_registry" is not installed|registry "r" does not exist/, "without the extension: $call");
}

# With the extension, and tables that are not there or are others.
$s->query('CREATE DATABASE old_objects');
my $o = RawProtocol->new($node, 'old_objects');
$o->query($_) for 'CREATE EXTENSION pg_registry', 'ALTER EXTENSION pg_registry DROP TABLE _registry.stored_entries', 'ALTER EXTENSION pg_registry DROP TABLE _registry.definitions', 'DROP TABLE _registry.stored_entries, _registry.definitions';
my @calls = ("SELECT registry.create_registry('r', durable => true)", "SELECT registry.create_registry('m')", "SELECT registry.put('r', 'k', '1')", "SELECT registry.get('r', 'k')", 'SELECT * FROM registry.registries', "SELECT * FROM registry.verify('r')",
	"SELECT registry.reload('r')", "SELECT registry.drop_registry('r')", "SELECT registry.alter_registry('r', '{}')", "SELECT registry.clear('r')", "SELECT registry.put_many('r', '{\"k\": 1}')", "SELECT registry.delete('r', 'k')", "SELECT * FROM registry.entries('r')");
my %others = (
	'no tables' => [ '', '' ],
	'a table without columns' => [ 'CREATE TABLE _registry.definitions (); CREATE TABLE _registry.stored_entries ()', 'DROP TABLE _registry.definitions, _registry.stored_entries' ],
	'other columns' => [ 'CREATE TABLE _registry.definitions (id int PRIMARY KEY, name text); INSERT INTO _registry.definitions VALUES (1, \'r\'); CREATE TABLE _registry.stored_entries (key int, value float8); INSERT INTO _registry.stored_entries VALUES (1, 2)', 'DROP TABLE _registry.definitions, _registry.stored_entries' ],
	'other types' => [ "CREATE TABLE _registry.definitions (name int, value_type int, keys int, durable int, max_age int, on_stale int, notify int, owner int, owner_oid int, created_at int); INSERT INTO _registry.definitions VALUES (1, 1, 1, 1, 1, 1, 1, 1, 1, 1);
		CREATE TABLE _registry.stored_entries (registry int, key int, value int, updated_at int, expires_at int); INSERT INTO _registry.stored_entries VALUES (1, 1, 1, 1, 1)", 'DROP TABLE _registry.definitions, _registry.stored_entries' ],
	'views' => [ "CREATE VIEW _registry.definitions AS SELECT 'r'::text AS name; CREATE VIEW _registry.stored_entries AS SELECT 1 AS x", 'DROP VIEW _registry.definitions, _registry.stored_entries' ],
	'partitioned tables' => [ 'CREATE TABLE _registry.definitions (name text) PARTITION BY LIST (name); CREATE TABLE _registry.stored_entries (registry text) PARTITION BY LIST (registry)', 'DROP TABLE _registry.definitions, _registry.stored_entries' ],
);
for my $what (sort keys %others)
{
	$o->query($others{$what}[0]) if $others{$what}[0];
	for my $call (@calls)
	{
		my $state = $o->sqlstate($call);
		ok($state eq '' || $state =~ /^(42|55)/, "$what: $call: no crash, no internal error") or diag("$state $o->{error}{M}");
	}
	$o->query($others{$what}[1]) if $others{$what}[1];
}
is($o->sqlstate('DROP EXTENSION pg_registry'), '', 'such an extension can be dropped');
is($o->sqlstate("CREATE EXTENSION pg_registry; SELECT registry.create_registry('r', durable => true); SELECT registry.put('r', 'k', '1')"), '', 'and created again');
$o->close;

is($s->one("SELECT count(*) FROM registry.registries"), 4, 'all the time the server has been up');
unlike(slurp_file($node->logfile), qr/PANIC|TRAP|was terminated by signal/, 'nothing has crashed');
$node->stop;
done_testing();
