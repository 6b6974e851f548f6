# If this fails, a dropped database or extension keeps its share of memory, a rolled-back drop loses somebody's
# registries, one database reads another's, or a server without the preload line answers with nonsense.

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
$node->append_conf('postgresql.conf', "pg_registry.shared_memory = '4MB'\nautovacuum = off");
$node->start;
$node->safe_psql('postgres', 'CREATE EXTENSION pg_registry');
my $admin = RawProtocol->new($node, 'postgres');

sub one { return $admin->one("SELECT $_[0]") }
sub part { return one("bytes FROM registry.memory WHERE part = '$_[0]'") }
sub memory { return join(', ', map { "$_->[0] $_->[1]" } $admin->query('SELECT * FROM registry.memory')) }

# What is free, or will be when the next batch of old versions is reclaimed.
sub available
{
	return one("sum(bytes) FROM registry.memory WHERE part IN ('free', 'old versions')");
}

my $fill = "SELECT registry.create_registry('r', 'text', durable => false);
	SELECT registry.create_registry('numbers', 'bigint', durable => false);
	SELECT registry.put('r', 'k' || g, current_database() || g) FROM generate_series(1, 100) g";
my $empty = "CREATE EXTENSION IF NOT EXISTS pg_registry; SELECT count(*) FROM registry.registries WHERE name <> 'rates'";

# ---------------------------------------------------------------------------
# Two databases
# ---------------------------------------------------------------------------

$node->safe_psql('postgres', 'CREATE DATABASE one');
$node->safe_psql('postgres', 'CREATE DATABASE two');
is($node->safe_psql($_, $empty), 0, "database $_ starts empty") for qw(one two);
$node->safe_psql('one', $fill);
is($node->safe_psql('two', 'SELECT registry.registry_exists(\'r\')'), 'f', "one database does not see another's registries");
$node->safe_psql('two', $fill);
is($node->safe_psql($_, "SELECT registry.get_text('r', 'k7')"), "${_}7", "$_ reads its own") for qw(one two);
$node->safe_psql('two', "SELECT registry.drop_registry('r')");
is($node->safe_psql('one', "SELECT registry.entry_count('r')"), 100, 'a registry of the same name elsewhere is untouched');
cmp_ok(part('registries of other databases'), '>', 0, 'registry.memory shows other databases as one row');
is(part('registries of database postgres'), 0, 'next to its own');

# So are rates by hand.
$node->safe_psql('one', "SELECT registry.set_rates('EUR', '{\"USD\": 2}')");
is(($node->psql('two', "SELECT registry.rate('EUR', 'USD', missing_ok => true)"))[0], 3, "nor one database another's rates");

# ---------------------------------------------------------------------------
# DROP and CREATE DATABASE
# ---------------------------------------------------------------------------

{
	my $guest = RawProtocol->new($node, 'one');
	is($admin->sqlstate('DROP DATABASE one'), '55006', 'DROP DATABASE fails while somebody is connected');
	is($guest->one("SELECT registry.entry_count('r')"), 100, 'and its registries are still there');
	$guest->close;
}
$node->poll_query_until('postgres', "SELECT count(*) = 0 FROM pg_stat_activity WHERE datname = 'one'");
$admin->query('CREATE DATABASE copy TEMPLATE one');
is($node->safe_psql('copy', "SELECT count(*), sum(entries), min(state) FROM registry.registries WHERE name <> 'rates'"), '2|0|lost at restart',
	'a copy of a database with memory registries has them, empty');
$node->safe_psql('copy', "SELECT registry.drop_registry(name) FROM registry.registries WHERE name <> 'rates'");
$node->safe_psql('copy', $fill);
is($node->safe_psql('copy', "SELECT registry.get_text('r', 'k7')"), 'copy7', 'and has its own');
is($node->safe_psql('one', "SELECT registry.get_text('r', 'k7')"), 'one7', 'next to those of its template');
$admin->query('DROP DATABASE copy');
is($node->safe_psql('one', "SELECT registry.get_text('r', 'k7')"), 'one7', 'which stay when it is dropped');
$admin->query('ALTER DATABASE one RENAME TO uno');
is($node->safe_psql('uno', "SELECT registry.get_text('r', 'k7')"), 'one7', 'a renamed database keeps its registries');
$admin->query('ALTER DATABASE uno RENAME TO one');

my $others = part('registries of other databases');
$admin->query('DROP DATABASE one');
cmp_ok(part('registries of other databases'), '<', $others, 'DROP DATABASE frees its registries');
$admin->query('DROP DATABASE two');
is(part('registries of other databases'), 0, 'all of them');
$admin->query('CREATE DATABASE one');
is($node->safe_psql('one', $empty), 0, 'a new database of the same name starts empty');
$admin->query('DROP DATABASE one WITH (FORCE)');

my $with_rates = available();
for my $round (1 .. 3)
{
	$admin->query('CREATE DATABASE cycle');
	$node->safe_psql('cycle', "CREATE EXTENSION pg_registry; $fill");
	$admin->query('DROP DATABASE cycle');
}
is(available(), $with_rates, 'nothing leaks') or diag(memory());

# ---------------------------------------------------------------------------
# DROP EXTENSION
# ---------------------------------------------------------------------------

$admin->query('CREATE DATABASE app');
$node->safe_psql('app', 'CREATE EXTENSION pg_registry');
my $free = available();
$node->safe_psql('app', $fill);
my $app = RawProtocol->new($node, 'app');
my $second = RawProtocol->new($node, 'app');

$app->query('BEGIN; DROP EXTENSION pg_registry');
is($second->one("SELECT registry.get_text('r', 'k7')"), 'app7', 'DROP EXTENSION in an open transaction: others still read');
$app->query('ROLLBACK');
is($app->one("SELECT registry.get_text('r', 'k7')"), 'app7', 'rolled back: the registries are still there');
is($app->sqlstate("SELECT registry.put('r', 'k7', 'app7')"), '', 'and can be written');
$app->query('BEGIN; SAVEPOINT s; DROP EXTENSION pg_registry; ROLLBACK TO s; COMMIT');
is($second->one("SELECT registry.entry_count('r')"), 100, 'the same with a savepoint');
$app->query("BEGIN; SELECT registry.put('r', 'k1', 'mine'); DROP EXTENSION pg_registry; COMMIT");
is($second->sqlstate("SELECT registry.get_text('r', 'k7')"), '3F000', 'committed: all is gone');
is(available(), $free, 'and its memory is free') or diag(memory());

$app->query('CREATE EXTENSION pg_registry');
is($second->one("SELECT count(*) FROM registry.registries WHERE name <> 'rates'"), 0, 'a new extension starts empty');
$app->query('BEGIN');
$app->query("SELECT registry.create_registry('old', 'text', durable => false)");
$app->query('DROP EXTENSION pg_registry');
$app->query('CREATE EXTENSION pg_registry');
$app->query("SELECT registry.create_registry('new', 'text', durable => false)");
$app->query("SELECT registry.put('new', 'k', 'v')");
is($app->one("SELECT registry.get_text('new', 'k') || registry.registry_exists('old')"), 'vfalse', 'dropped and created again in one transaction: before its end');
$app->query('COMMIT');
is($second->one("SELECT string_agg(name, ' ') FROM registry.registries WHERE name <> 'rates'"), 'new', 'and after it');
$app->query("SELECT registry.drop_registry('new')");
$app->query('BEGIN');
$app->query("CREATE SCHEMA other; DROP EXTENSION pg_registry; CREATE EXTENSION pg_registry");
$app->query('ROLLBACK');
$app->query($fill);
is($second->one("SELECT registry.get_text('r', 'k7')"), 'app7', 'a replacement that is rolled back');

# With somebody else's changes under way: they are void, and nobody waits for ever, crashes or leaks.
$second->query("BEGIN; SELECT registry.put('r', 'k1', 'open')");
$second->query("SELECT registry.put('numbers', 'k', '1')");
$app->query('DROP EXTENSION pg_registry');
is($second->sqlstate('COMMIT'), '', 'an open put commits after the DROP EXTENSION');
is(available(), $free, 'and leaves nothing behind') or diag(memory());

$app->query('CREATE EXTENSION pg_registry');
$app->query($fill);
$second->query("BEGIN; SELECT registry.put('r', 'k1', 'open')");
$app->query('BEGIN; DROP EXTENSION pg_registry; CREATE EXTENSION pg_registry');
$app->query("SELECT registry.create_registry('r', 'text', durable => false)");
$app->query('COMMIT');
is($second->sqlstate('COMMIT'), '', 'an open put commits after the extension has been replaced');
is($app->one("SELECT registry.entry_count('r')"), 0, "and does not reach the new one's registry of that name");
is($second->one("SELECT registry.entry_count('r')"), 0, 'for anybody');

# Somebody waits to create a registry of an extension that is being dropped.
$app->query('DROP EXTENSION pg_registry; CREATE EXTENSION pg_registry');
$free = available();
$app->query('BEGIN; DROP EXTENSION pg_registry');
$second->send("SELECT registry.create_registry('late', 'text', durable => false)");
ok($second->waits($node), 'create_registry waits for the DROP EXTENSION');
$app->query('COMMIT');
$second->finish;
isnt($second->{error}, undef, 'and fails when that has committed') or diag('it was created');
is(available(), $free, 'it leaves nothing behind') or diag(memory());
$second->run('ROLLBACK');
$app->query('CREATE EXTENSION pg_registry');
$app->query('BEGIN; DROP EXTENSION pg_registry');
$second->send("SELECT registry.create_registry('late', 'text', durable => false)");
ok($second->waits($node), 'the same once more');
$app->query('ROLLBACK');
$second->finish;
is($second->{error}, undef, 'it succeeds when the drop is rolled back');
is($app->one("SELECT registry.registry_exists('late')"), 't', 'and the registry is there');

# The other way round.
$second->query("BEGIN; SELECT registry.create_registry('open', 'text', durable => false)");
$app->send('DROP EXTENSION pg_registry');
ok($app->waits($node), 'DROP EXTENSION waits for an open create_registry');
$second->query('COMMIT');
$app->finish;
is($app->{error}, undef, 'and goes through');
is(available(), $free, 'with that registry too') or diag(memory());

$_->close for $app, $second;
$node->poll_query_until('postgres', "SELECT count(*) = 0 FROM pg_stat_activity WHERE datname = 'app'");
$admin->query('DROP DATABASE app');
is(available(), $with_rates, 'nothing of that database is left') or diag(memory());

# DROP OWNED and DROP ROLE are no way to lose track of a registry.
$admin->query('CREATE ROLE alice; CREATE ROLE bob');
$admin->query("GRANT EXECUTE ON FUNCTION registry.create_registry TO alice; SET ROLE alice; SELECT registry.create_registry('hers', 'text', durable => false); RESET ROLE");
is($admin->one("SELECT owner FROM registry.registries WHERE name = 'hers'"), 'alice', 'a registry has an owner');
$admin->query('DROP OWNED BY alice; DROP ROLE alice');
is($admin->sqlstate("SELECT * FROM registry.registries"), '', 'registry.registries works after its owner is gone');
is($admin->sqlstate("SELECT registry.drop_registry('hers')"), '', 'and the superuser can drop it');
$admin->query('DROP ROLE bob');

# A schema of that name that is somebody else's.
$node->safe_psql('template1', 'SELECT 1');
$admin->query('CREATE DATABASE taken');
for my $schema (qw(registry _registry))
{
	my ($status, undef, $error) = $node->psql('taken', "CREATE SCHEMA $schema; CREATE EXTENSION pg_registry");
	like($error, qr/schema "$schema" already exists/, "CREATE EXTENSION does not take over somebody's schema $schema");
	is($node->safe_psql('taken', "DROP SCHEMA $schema; SELECT count(*) FROM pg_namespace WHERE nspname ~ 'registry'"), 0, 'and leaves none behind');
}

# ---------------------------------------------------------------------------
# Encodings
# ---------------------------------------------------------------------------

$admin->query("CREATE DATABASE latin ENCODING 'LATIN1' LC_COLLATE 'C' LC_CTYPE 'C' TEMPLATE template0");
$admin->query("CREATE DATABASE ascii ENCODING 'SQL_ASCII' LC_COLLATE 'C' LC_CTYPE 'C' TEMPLATE template0");
for my $database (qw(latin ascii))
{
	my $session = RawProtocol->new($node, $database, client_encoding => 'UTF8');
	my $name = "caf\xc3\xa9";
	$session->query('CREATE EXTENSION pg_registry');
	$session->query("SELECT registry.create_registry('$name', 'text', durable => false)");
	$session->query("SELECT registry.put('$name', 'k\xc3\xbc', '\xc3\xb1')");
	is($session->one("SELECT registry.get_text('$name', 'k\xc3\xbc')"), "\xc3\xb1", "$database: names, keys and values outside ASCII");
	is($session->one("SELECT key || value FROM registry.entries('$name')"), "k\xc3\xbc\"\xc3\xb1\"", "$database: entries");
	is($session->one("SELECT key || value FROM registry.get_many('$name', ARRAY['k\xc3\xbc'])"), "k\xc3\xbc\"\xc3\xb1\"", "$database: get_many");
	my $renamed = "SELECT registry.alter_registry('$name', '{\"name\": \"\xc3\xb1$name\"}'); SELECT registry.put('\xc3\xb1$name', 'k\xc3\xbc', '\xc3\xbc')";
	is($session->sqlstate("BEGIN; $renamed; SELECT registry.put_many('\xc3\xb1$name', '{\"\xc3\xbc\": \"\xc3\xa9\"}', true); COMMIT"), '', "$database: another name");
	is($session->one("SELECT key || value FROM registry.entries('\xc3\xb1$name')"), "\xc3\xbc\"\xc3\xa9\"", "$database: its entries, replaced");
	$session->query("SELECT registry.alter_registry('\xc3\xb1$name', '{\"name\": \"$name\"}'); SELECT registry.put_many('$name', '{\"k\xc3\xbc\": \"\xc3\xb1\"}', true)");
	is($session->one("SELECT name FROM registry.registries WHERE name <> 'rates'"), $name, "$database: registry.registries");
	is($session->one("SELECT registry.get('$name', 'k\xc3\xbc')"), "\"\xc3\xb1\"", "$database: as jsonb");
	is($session->sqlstate("SELECT registry.get_text('\xc3\xa9' || repeat('x', 100), 'k')"), '42704', "$database: a long unknown name");
	$session->close;
	is($admin->sqlstate('SELECT * FROM registry.memory; SELECT * FROM registry.readers'), '', "$database: others can look at memory");
}
# A byte that is no text in UTF-8 stays where it is: it is in no other database's messages.
my $raw = RawProtocol->new($node, 'ascii');
$raw->query("SET client_encoding = 'SQL_ASCII'; SELECT registry.create_registry(E'\\xff\\xfe', 'text', durable => false); SELECT registry.put(E'\\xff\\xfe', E'\\xff', repeat(E'\\xff', 500000))");
is($admin->sqlstate("SELECT registry.create_registry('mine', 'text', durable => false)"), '', 'a database with other bytes next to it');
is($admin->sqlstate("SELECT registry.put('mine', 'k' || g, repeat('x', 100000)) FROM generate_series(1, 50) g"), '53200', 'no memory');
unlike($admin->{error}{D} . $admin->{error}{M}, qr/\xff/, "names of another database's registries are not told");
$raw->close;

$node->stop;

# ---------------------------------------------------------------------------
# Not preloaded
# ---------------------------------------------------------------------------

my $plain = PostgreSQL::Test::Cluster->new('plain');
$plain->init;
$plain->append_conf('postgresql.conf', "shared_preload_libraries = ''");
$plain->start;
is(($plain->psql('postgres', 'CREATE EXTENSION pg_registry'))[0], 0, 'CREATE EXTENSION works without the library preloaded');
is($plain->safe_psql('postgres', 'SELECT preloaded FROM registry.status()'), 'f', 'status() works');
like($plain->safe_psql('postgres', 'SELECT advice FROM registry.status()'),
	qr/shared_preload_libraries = 'pg_registry'/, 'and names the line to add');

# Every function of ours, but those that need no memory.
my $session = RawProtocol->new($plain, 'postgres');
my @functions = $session->query(q(
	SELECT p.oid::regprocedure::text,
		format('SELECT registry.%I(%s)', p.proname,
			(SELECT string_agg(coalesce(v.value, 'NULL') || CASE WHEN t.type = '"any"'::regtype THEN '::int' ELSE '::' || t.type::regtype::text END, ', ' ORDER BY t.n)
			 FROM unnest(p.proargtypes::oid[]) WITH ORDINALITY t(type, n)
			 LEFT JOIN (VALUES ('text', '''rates'''), ('numeric', '1'), ('jsonb', '''{}'''), ('boolean', 'false'), ('integer', '1'),
				('"any"', '1'), ('regtype', '''text'''), ('bigint', '1'), ('interval', '''1 s'''), ('text[]', '''{k}''')) v(type, value)
				ON v.type::regtype = t.type))
	FROM pg_proc p WHERE p.pronamespace = 'registry'::regnamespace AND p.prorettype NOT IN ('internal'::regtype, 'trigger'::regtype) ORDER BY 1));
cmp_ok(scalar @functions, '>', 20, 'there are functions');
for my $function (@functions)
{
	my ($name, $call) = @$function;
	next if $name =~ /^registry\.(status|list_checks|minor_units|round_money)\(/;
	my $state = $session->sqlstate($call);
	is($state, '55000', "not preloaded: $name") or diag("$call: " . ($session->{error}{M} // 'no error'));
	like($session->{error}{H} // '', qr/shared_preload_libraries = 'pg_registry'/, 'and its hint names the line to add') if $state eq '55000';
}
is($session->sqlstate('DROP EXTENSION pg_registry'), '', 'DROP EXTENSION works too');
is($session->sqlstate('CREATE DATABASE d'), '', 'CREATE DATABASE');
is($session->sqlstate('DROP DATABASE d'), '', 'and DROP DATABASE');
is($session->one("SELECT count(*) FROM pg_settings WHERE name LIKE 'pg_registry.%'"), 0, 'no setting of ours exists');

$plain->stop;
done_testing();
