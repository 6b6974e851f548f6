# If this fails, somebody who changes the tables of the extension by SQL reads something else than what he has
# stored, or a registry answers differently when the server has been restarted.

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
$node->append_conf('postgresql.conf', "autovacuum = off\nstatement_timeout = '30s'");
$node->start;

sub session { return RawProtocol->new($node, 'postgres') }
my $admin = session();
sub run { $admin->query($_) for @_; return }

# All rows of all statements, and the error that ended them.
sub answer
{
	my ($session, $sql) = @_;
	$session->send($sql);
	my @lines = map { join('|', map { $_ // 'NULL' } @$_) } $session->finish;
	push @lines, "ERROR $session->{error}{C} $session->{error}{M}" if $session->{error};
	return join("\n", @lines);
}

sub entries_of { return "SELECT key, value, owner_pid, updated_at, expires_at FROM registry.entries('$_[0]') ORDER BY key" }
sub problems
{
	return $admin->one("SELECT coalesce(string_agg(name || ': ' || key || ' ' || problem, ', '), '')
		FROM registry.registries, registry.verify(name) WHERE durable");
}

run('CREATE EXTENSION pg_registry', 'CREATE ROLE alice', 'CREATE ROLE bob', 'CREATE ROLE carol IN ROLE alice',
	'GRANT EXECUTE ON FUNCTION registry.create_registry, registry.verify TO alice, bob',
	'CREATE TABLE numbers AS SELECT g AS id FROM generate_series(1, 20000) g', 'ANALYZE numbers');

# ---------------------------------------------------------------------------
# The same answers from the image and from the table
# ---------------------------------------------------------------------------

my %values = (
	jsonb => [ '{"a": [1, 2.50, null, "\u00e4\ud83d\ude00"], "b": {"c": true}}', '"text"', '1e400', 'null', '[]' ],
	text => [ '', 'plain', "two\nlines\r\n\ttab", q{quotes ' " and \\ back\\slash \\.}, "\\N", 'x' x 300_000, "\x{c3}\x{a4}" ],
	numeric => [ '0', '-0.000', '1.10570', '9' x 300 . '.' . '7' x 300, 'NaN', 'Infinity', '-Infinity', '1e-1000' ],
	float8 => [ '0', '-0', '0.1', '1.7976931348623157e308', '4.9e-324', '2.2250738585072014e-308', 'NaN', 'Infinity', '-Infinity', '123456789.123456789' ],
	bigint => [ '0', '-9223372036854775808', '9223372036854775807' ],
	boolean => [ 't', 'f' ],
	timestamptz => [ '2024-02-29 12:34:56.789012+05:45', '4713-01-01 00:00:00+00 BC', '294276-12-31 23:59:59.999999+00', 'infinity', '-infinity', '2000-01-01 00:00:00+00' ],
);
my @keys = ('a', ' ', "new\nline", q{quote ' "}, 'back\\slash', "\x{c3}\x{a4}", 'k' x 1024, '42', '\\.', "\x01\x7f");

sub literal { return "E'" . ($_[0] =~ s/([\\'])/\\$1/gr) . "'" }

run('SET ROLE alice');
for my $type (sort keys %values)
{
	run("SELECT registry.create_registry('$type', '$type', durable => true)");
	my $n = 0;
	for my $value (@{ $values{$type} })
	{
		my $key = $keys[ $n % @keys ] . ($n >= @keys ? $n : '');
		run("SELECT registry.put('$type', " . literal($key) . ', ' . literal($value) . ')');
		$n++;
	}
}
run("SELECT registry.create_registry('ttl', 'text', durable => true)",
	"SELECT registry.put('ttl', 'gone', 'x', ttl => '1 microsecond')", "SELECT registry.put('ttl', 'hour', 'x', ttl => '1 hour')",
	"SELECT registry.put('ttl', 'never', 'x')",
	"SELECT registry.create_registry('empty', 'text', durable => true)",
	"SELECT registry.create_registry('memory', 'text')",
	"SELECT registry.create_registry('many', 'bigint', durable => true)",
	"SELECT registry.put_many('many', (SELECT jsonb_object_agg(g, g * g) FROM generate_series(1, 5000) g))",
	map { ("SELECT registry.create_registry('stale $_', 'text', durable => true, max_age => '1 microsecond', on_stale => '$_')",
		"SELECT registry.put('stale $_', 'a', 'old')") } qw(serve null error));
run("SELECT registry.create_registry('fresh error', 'text', durable => true, max_age => '1 day', on_stale => 'error')",
	"SELECT registry.put('fresh error', 'a', 'new')", 'RESET ROLE');

my $all = join('; ', map { entries_of($_) } sort(keys %values), 'ttl', 'empty');
my @reads;
push @reads, [ "entries of $_", entries_of($_) ] for sort(keys %values), 'ttl', 'empty', 'memory', 'stale serve', 'stale null', 'stale error', 'fresh error', 'nobody';
push @reads, [ "entry_count of $_", "SELECT registry.entry_count('$_')" ] for sort(keys %values), 'ttl', 'many', 'stale null', 'stale error', 'nobody';
for my $type (sort keys %values)
{
	push @reads, [ "get_$_ of $type", "SELECT n, registry.get_$_('$type', k)::text FROM unnest(ARRAY['a', ' ', 'no such key']) WITH ORDINALITY u(k, n)" ]
	  for qw(text numeric float8 bigint boolean timestamptz);
	push @reads, [ "get of $type", join('; ', map { "SELECT registry.get('$type', " . literal($_) . ')' } @keys, 'x' x 2000, '') ];
	push @reads, [ "get_text of $type", join('; ', map { "SELECT md5(registry.get_text('$type', " . literal($_) . '))' } @keys) ];
}
push @reads, [ "$_", "SELECT $_" ]
  for "registry.get_text('stale serve', 'a')", "registry.get_text('stale null', 'a')", "registry.get_text('stale error', 'a')",
  "registry.get_text('fresh error', 'a')", "registry.get_text('ttl', 'gone')", "registry.get_text('ttl', 'hour')", "registry.get_bigint('many', 42)",
  "registry.get_text('', 'a')", "registry.get_text(repeat('x', 100), 'a')", "registry.get_text('memory', 'a')", "registry.registry_exists('text')",
  "registry.registry_exists('nobody')", "registry.get_text(NULL, 'a') IS NULL",
  "count(*), sum(registry.get_bigint('many', id % 5000 + 1)) FROM numbers WHERE id <= 5000",
  "key, value FROM registry.get_many('many', ARRAY['1', '7', '7', '', 'x', '5000'])",
  "key FROM registry.get_many('text', ARRAY['a', NULL])", "count(*), sum(value::numeric) FROM registry.entries('many')",
  "name, value_type, keys, durable, owner, entries, last_change, stale, max_age, on_stale FROM registry.registries WHERE durable ORDER BY name";
push @reads, [ "as $_", "SET ROLE $_; SELECT name, entries FROM registry.registries WHERE name <> 'rates' ORDER BY name; SELECT registry.get_text('text', 'a'); RESET ROLE" ]
  for qw(alice carol);
push @reads, [ "bob: $_", "SET ROLE bob; SELECT $_" ]
  for "registry.get_text('text', 'a')", "registry.registry_exists('text')", "count(*) FROM registry.registries WHERE name <> 'rates'", "* FROM registry.entries('text')",
  "registry.put('text', 'a', 'b')", "registry.delete('text', 'a')", "registry.put_many('text', '{\"a\": \"b\"}')", "* FROM registry.verify('text')",
  "registry.create_registry('text', 'text', durable => true)", "count(*) FROM _registry.stored_entries", "count(*) FROM _registry.definitions";
push @reads, [ 'alice: the table', 'SET ROLE alice; SELECT count(*) FROM _registry.stored_entries' ];
push @reads, [ 'alice: DML', "SET ROLE alice; INSERT INTO _registry.stored_entries (registry, key, value) VALUES ('text', 'z', 'z')" ];
push @reads, [ 'a parallel query', 'BEGIN; SET LOCAL force_parallel_mode = on; SET LOCAL parallel_setup_cost = 0; SET LOCAL parallel_tuple_cost = 0; SET LOCAL min_parallel_table_scan_size = 0;
	SELECT count(*) FROM numbers WHERE registry.get_bigint(\'many\', id) > 100; SELECT count(*) FROM numbers n, registry.entries(\'numeric\') e; COMMIT' ];

# Own changes; each ends with a rollback, so that nothing is left of them.
my $look = entries_of('text') =~ s/updated_at, expires_at/expires_at/r . "; SELECT registry.get_text('text', 'own'), registry.get_text('text', 'a'), registry.entry_count('text')";
my %own = (
	'put' => "SELECT registry.put('text', 'own', 'v'), registry.get_text('text', 'own'); $look",
	'put over it' => "SELECT registry.put('text', 'a', 'v'); $look",
	'delete' => "SELECT registry.delete('text', 'a'), registry.delete('text', 'none'); $look",
	'clear' => "SELECT registry.clear('text'); $look; SELECT registry.put('text', 'own', 'v'); $look",
	'replace' => "SELECT registry.put_many('text', '{\"own\": \"w\"}', true); $look",
	'TTL' => "SELECT registry.put('ttl', 'own', 'v', '1 hour'), registry.put('ttl', 'hour', 'v', '1 microsecond'), registry.delete('ttl', 'gone'); SELECT key FROM registry.entries('ttl') ORDER BY 1; SELECT registry.clear('ttl')",
	'drop' => "SELECT registry.drop_registry('text'); $look",
	'drop and create' => "SELECT registry.drop_registry('text'); SELECT registry.create_registry('text', 'bigint', durable => true); SELECT registry.put('text', 'own', 5); SELECT registry.get('text', 'own'), registry.get_text('text', 'a')",
	'rename' => "SELECT registry.put('text', 'own', 'v'); SELECT registry.alter_registry('text', '{\"name\": \"other\"}'); SELECT registry.put('other', 'more', 'v'); " . entries_of('other') =~ s/updated_at, expires_at/expires_at/r . "; $look",
	'value_type' => "SELECT registry.alter_registry('text', '{\"value_type\": \"bigint\"}')",
	'value_type of an empty one' => "SELECT registry.alter_registry('empty', '{\"value_type\": \"bigint\"}'); SELECT registry.put('empty', 'k', 'x')",
	'stale' => "SELECT registry.put('stale error', 'b', 'v'); SELECT registry.get_text('stale error', 'a')",
	'savepoint' => "SAVEPOINT s; SELECT registry.put('text', 'own', '1'); SAVEPOINT t; SELECT registry.put('text', 'own', '2'); SELECT registry.delete('text', 'a'); $look; ROLLBACK TO t; $look; RELEASE s; $look",
	'exception block' => "DO \$\$ BEGIN PERFORM registry.put('text', 'own', '1'); BEGIN PERFORM registry.put('text', 'own', '2'); RAISE EXCEPTION 'x'; EXCEPTION WHEN raise_exception THEN NULL; END; END \$\$; $look",
	'a cursor' => "SELECT registry.put('text', 'own', '1'); DECLARE c CURSOR FOR SELECT registry.get_text('text', 'own') FROM generate_series(1, 2); FETCH c; SELECT registry.put('text', 'own', '2'); FETCH c; $look",
	'INSERT' => "INSERT INTO _registry.stored_entries (registry, key, value) VALUES ('text', 'own', 'v'), ('text', 'b', 'v'); $look",
	'ON CONFLICT' => "INSERT INTO _registry.stored_entries (registry, key, value) VALUES ('text', 'own', 'v'), ('text', 'a', 'w') ON CONFLICT (registry, key) DO UPDATE SET value = excluded.value || '!'; $look",
	'ON CONFLICT DO NOTHING' => "INSERT INTO _registry.stored_entries (registry, key, value) VALUES ('text', 'own', 'v'), ('text', 'a', 'w') ON CONFLICT DO NOTHING; $look",
	'UPDATE of a value' => "UPDATE _registry.stored_entries SET value = value || '!' WHERE registry = 'text' AND key <> 'back\\slash'; SELECT key, md5(value::text) FROM registry.entries('text') ORDER BY key",
	'UPDATE of a key' => "UPDATE _registry.stored_entries SET key = 'own' WHERE registry = 'text' AND key = 'a'; $look",
	'UPDATE of a registry' => "UPDATE _registry.stored_entries SET registry = 'empty' WHERE registry = 'text'; $look; SELECT registry.entry_count('empty')",
	'UPDATE to another type' => "UPDATE _registry.stored_entries SET registry = 'bigint' WHERE registry = 'text' AND key = 'a'",
	'UPDATE of expires_at' => "UPDATE _registry.stored_entries SET expires_at = '2000-01-01 00:00:00+00' WHERE registry = 'text' AND key = 'a'; $look",
	'DELETE' => "DELETE FROM _registry.stored_entries WHERE registry = 'text' AND key IN ('a', ' '); $look",
	'MERGE' => "MERGE INTO _registry.stored_entries e USING (VALUES ('a', 'w'), ('own', 'v'), (' ', NULL)) v(key, value) ON e.registry = 'text' AND e.key = v.key
		WHEN MATCHED AND v.value IS NULL THEN DELETE WHEN MATCHED THEN UPDATE SET value = v.value WHEN NOT MATCHED THEN INSERT (registry, key, value) VALUES ('text', v.key, v.value); $look",
	'CTEs' => "WITH d AS (DELETE FROM _registry.stored_entries WHERE registry = 'text' AND key = 'a' RETURNING *), i AS (INSERT INTO _registry.stored_entries (registry, key, value) SELECT 'text', 'own', value FROM d RETURNING registry.get_text('text', 'own') IS NULL AS none)
		SELECT none, registry.get_text('text', 'a') FROM i; $look",
	'FOR UPDATE' => "SELECT length(value) FROM _registry.stored_entries WHERE registry = 'text' ORDER BY key FOR UPDATE; UPDATE _registry.stored_entries SET value = 'v' WHERE registry = 'text' AND key = 'a'; $look",
	'TRUNCATE' => "TRUNCATE _registry.stored_entries; $look; SELECT registry.put('text', 'own', 'v'); $look; SELECT registry.entry_count('many')",
	'TRUNCATE and back' => "SAVEPOINT s; TRUNCATE _registry.stored_entries; $look; ROLLBACK TO s; $look",
	'TRUNCATE with others' => "CREATE TABLE t (); TRUNCATE t, _registry.stored_entries, _registry.definitions; SELECT count(*) FROM registry.registries WHERE name <> 'rates'; $look",
	'a registry in another form' => "INSERT INTO _registry.stored_entries (registry, key, value) VALUES ('float8', 'own', ' 1.50 '), ('jsonb', 'own', '{\"b\":1,  \"a\" : 2}'), ('boolean', 'own', 'yes'), ('timestamptz', 'own', '2024-01-01 00:00:00-08'), ('numeric', 'own', ' 01.10 ');
		SELECT registry, value FROM _registry.stored_entries WHERE key = 'own' ORDER BY 1; SELECT r, registry.get_text(r, 'own') FROM unnest('{float8,jsonb,boolean,numeric,timestamptz}'::text[]) r",
	'a bad value' => "INSERT INTO _registry.stored_entries (registry, key, value) VALUES ('float8', 'own', 'x')",
	'an empty key' => "INSERT INTO _registry.stored_entries (registry, key, value) VALUES ('text', '', 'x')",
	'a long key' => "INSERT INTO _registry.stored_entries (registry, key, value) VALUES ('text', repeat('x', 1025), 'x')",
	'a row of a memory registry' => "INSERT INTO _registry.stored_entries (registry, key, value) VALUES ('memory', 'own', 'x')",
	'a row of the rates' => "INSERT INTO _registry.stored_entries (registry, key, value) VALUES ('rates', 'own', '1')",
	'rows first, definition later' => "INSERT INTO _registry.stored_entries (registry, key, value) VALUES ('later', 'k', 'v'); SELECT registry.registry_exists('later'); SELECT registry.create_registry('later', 'text', durable => true); SELECT registry.get_text('later', 'k'); SELECT registry.put('later', 'l', 'v'); SELECT key, value FROM registry.entries('later') ORDER BY 1",
	'definitions: INSERT' => "INSERT INTO _registry.definitions (name, value_type) VALUES ('mine', 'text'); SELECT registry.put('mine', 'k', 'v'); SELECT registry.get_text('mine', 'k'); SELECT name, owner FROM registry.registries WHERE name = 'mine'",
	'definitions: DELETE' => "DELETE FROM _registry.definitions WHERE name = 'text'; $look",
	'definitions: another type' => "UPDATE _registry.definitions SET value_type = 'jsonb' WHERE name = 'text'; SELECT registry.get('text', 'a')",
	'definitions: another type that fits' => "UPDATE _registry.definitions SET value_type = 'text' WHERE name = 'jsonb'; SELECT registry.get_text('jsonb', 'a'); SELECT registry.put('jsonb', 'own', 'no json'); SELECT registry.get('jsonb', 'own')",
	'definitions: another name' => "UPDATE _registry.definitions SET name = 'other' WHERE name = 'text'; SELECT registry.entry_count('other'); UPDATE _registry.stored_entries SET registry = 'other' WHERE registry = 'text'; SELECT registry.get_text('other', 'a'); $look",
	'definitions: not durable' => "UPDATE _registry.definitions SET durable = false WHERE name = 'text'; SELECT registry.entry_count('text'); SELECT registry.put('text', 'own', 'v'); SELECT registry.get_text('text', 'own'); UPDATE _registry.definitions SET durable = true WHERE name = 'text'; SELECT registry.get_text('text', 'a'), registry.get_text('text', 'own')",
	'definitions: another owner' => "UPDATE _registry.definitions SET owner = 'bob', owner_oid = 'bob'::regrole WHERE name = 'text'; SET LOCAL ROLE bob; SELECT registry.get_text('text', 'a')",
	'definitions: no such owner' => "UPDATE _registry.definitions SET owner = 'nobody' WHERE name = 'text'; SELECT registry.get_text('text', ' '); SET LOCAL ROLE alice; SELECT registry.get_text('text', ' ')",
	(map { my ($what, $row) = @$_; ("definitions: $what" => "INSERT INTO _registry.definitions (name, value_type, keys, notify, max_age, on_stale) VALUES ($row)") }
		[ 'rates', "'rates', 'text', 'unique', false, NULL, 'serve'" ], [ 'a bad type', "'mine', 'money', 'unique', false, NULL, 'serve'" ],
		[ 'duplicate keys', "'mine', 'text', 'duplicate', false, NULL, 'serve'" ], [ 'notify', "'mine', 'text', 'unique', true, NULL, 'serve'" ],
		[ 'a bad max_age', "'mine', 'text', 'unique', false, '-1 s', 'serve'" ], [ 'a bad on_stale', "'mine', 'text', 'unique', false, NULL, 'x'" ],
		[ 'no name', "'', 'text', 'unique', false, NULL, 'serve'" ], [ 'a long name', "repeat('x', 64), 'text', 'unique', false, NULL, 'serve'" ]),
	'REPEATABLE READ' => "SET TRANSACTION ISOLATION LEVEL REPEATABLE READ; SELECT registry.get_text('text', 'a'); SELECT registry.put('text', 'own', 'v'); $look",
	'SERIALIZABLE' => "SET TRANSACTION ISOLATION LEVEL SERIALIZABLE; SELECT registry.get_text('text', 'a'); SELECT registry.put('text', 'own', 'v'); $look",
	'READ ONLY' => "SET TRANSACTION READ ONLY; SELECT registry.get_text('text', 'a'); SELECT registry.put('text', 'own', 'v')",
	'parallel, with own changes' => "SELECT registry.put('many', '1', 0), registry.delete('many', '2'); SET LOCAL force_parallel_mode = on; SELECT sum(registry.get_bigint('many', id)) FROM numbers WHERE id < 10; SELECT count(*) FROM registry.entries('many')",
	'PREPARE TRANSACTION' => "SELECT registry.put('text', 'own', 'v'); PREPARE TRANSACTION 'x'",
	'session_replication_role' => "SET LOCAL session_replication_role = replica; INSERT INTO _registry.stored_entries (registry, key, value) VALUES ('text', 'own', 'v'); SELECT registry.put('text', 'a', 'w'); $look",
	'evil search_path' => "CREATE SCHEMA evil; CREATE FUNCTION evil.no(text, text) RETURNS boolean LANGUAGE plpgsql AS 'BEGIN RAISE EXCEPTION ''evil''; END'; CREATE OPERATOR evil.= (LEFTARG = text, RIGHTARG = text, FUNCTION = evil.no);
		CREATE TABLE evil.stored_entries (); SET LOCAL search_path = evil, pg_catalog; SELECT registry.put('text', 'own', 'v'), registry.delete('text', ' '); SELECT registry.put_many('text', '{\"a\": \"w\"}'); $look; SELECT registry.clear('text'); SELECT registry.alter_registry('text', '{\"name\": \"o\"}'); SELECT registry.drop_registry('o')",
);
push @reads, [ "own: $_", "BEGIN; $own{$_}; ROLLBACK" ] for sort keys %own;

sub answers
{
	my %answer;
	for my $read (@reads)
	{
		my $session = session();
		$answer{ $read->[0] } = answer($session, $read->[1]);
		$session->close;
	}
	return \%answer;
}

sub compare
{
	my ($state, $expected) = @_;
	my $got = answers();
	for my $read (@reads)
	{
		my $name = $read->[0];
		ok($got->{$name} eq $expected->{$name}, "$state: $name") or diag(map { substr($_, 0, 1500) . "\n" } $read->[1], "-- expected:", $expected->{$name}, '-- got:', $got->{$name});
	}
	return;
}

is(problems(), '', 'what has been put is in the image and in the table');
my $resident = answers();
$resident->{'own: PREPARE TRANSACTION'} =~ /^ERROR 0A000/m or fail('PREPARE TRANSACTION is refused');
like($resident->{'own: put'}, qr/own/, 'own changes are seen');
is(problems(), '', 'after rollbacks they agree');

$node->restart;
$admin = session();
compare('restarted', $resident);
run("SELECT registry.alter_registry(name, '{}') FROM registry.registries WHERE durable");
is($admin->one("SELECT count(*) FROM registry.registries WHERE durable AND NOT registry.reload(name)"), 0, 'everything can be loaded');
is($admin->one("SELECT string_agg(DISTINCT state, ', ') FROM registry.registries WHERE durable"), 'resident', 'then all are resident');
is(problems(), '', 'they agree');
compare('reloaded', $resident);

# No room for anything: the list of changes has none, either.
$node->append_conf('postgresql.conf', "pg_registry.max_bytes_per_database = '1kB'");
$node->reload;
$node->poll_query_until('postgres', "SELECT current_setting('pg_registry.max_bytes_per_database') <> '0'") or die;
$admin = session();
run("BEGIN; UPDATE _registry.definitions SET durable = false WHERE durable AND name <> 'memory'; UPDATE _registry.definitions SET durable = true WHERE name <> 'memory'; COMMIT");
# empty ones have room, and may have been loaded by now
is($admin->one("SELECT string_agg(DISTINCT replace(state, 'loading', 'from table'), ', ') FROM registry.registries WHERE durable AND entries > 0"), 'from table', 'new definitions are read from the table');
# A registry that is not durable has no way out.
delete $resident->{$_} for 'own: definitions: not durable';
@reads = grep { $resident->{ $_->[0] } } @reads;
compare('no room', $resident);
$node->append_conf('postgresql.conf', 'pg_registry.max_bytes_per_database = 0');
$node->reload;
$node->poll_query_until('postgres', "SELECT current_setting('pg_registry.max_bytes_per_database') = '0'") or die;
$admin->close;
$admin = session();
is($admin->one("SELECT count(*) FROM registry.registries WHERE durable AND NOT registry.reload(name)"), 0, 'with room for it they are loaded');

# ---------------------------------------------------------------------------
# What commits
# ---------------------------------------------------------------------------

run("SELECT registry.create_registry('r', 'text', durable => true)");
sub contents { return $admin->one("SELECT coalesce(string_agg(key || '=' || registry.get_text('r', key), ' ' ORDER BY key COLLATE \"C\"), '') FROM registry.entries('r')") }

# After each of these the image, the table and the last column are the same.
my @commits = (
	[ 'INSERT', "INSERT INTO _registry.stored_entries (registry, key, value) VALUES ('r', 'a', '1'), ('r', 'b', '2')", 'a=1 b=2' ],
	[ 'UPDATE', "UPDATE _registry.stored_entries SET value = value || '!' WHERE registry = 'r'", 'a=1! b=2!' ],
	[ 'keys that change places', "BEGIN; UPDATE _registry.stored_entries SET key = 'x' WHERE registry = 'r' AND key = 'a'; UPDATE _registry.stored_entries SET key = 'a' WHERE registry = 'r' AND key = 'b'; UPDATE _registry.stored_entries SET key = 'b' WHERE registry = 'r' AND key = 'x'; COMMIT", 'a=2! b=1!' ],
	[ 'put, UPDATE, delete, INSERT', "BEGIN; SELECT registry.put('r', 'c', '3'); UPDATE _registry.stored_entries SET value = '4' WHERE registry = 'r' AND key = 'c'; SELECT registry.delete('r', 'c'); INSERT INTO _registry.stored_entries (registry, key, value) VALUES ('r', 'c', '5'); COMMIT", 'a=2! b=1! c=5' ],
	[ 'a rollback', "BEGIN; DELETE FROM _registry.stored_entries; ROLLBACK", 'a=2! b=1! c=5' ],
	[ 'a savepoint, rolled back', "BEGIN; SAVEPOINT s; TRUNCATE _registry.stored_entries; ROLLBACK TO s; DELETE FROM _registry.stored_entries WHERE key = 'c'; COMMIT", 'a=2! b=1!' ],
	[ 'exception blocks', "DO \$\$ BEGIN INSERT INTO _registry.stored_entries (registry, key, value) VALUES ('r', 'd', '1'); BEGIN DELETE FROM _registry.stored_entries WHERE registry = 'r'; PERFORM 1/0; EXCEPTION WHEN division_by_zero THEN PERFORM registry.put('r', 'e', '1'); END; END \$\$", 'a=2! b=1! d=1 e=1' ],
	[ 'COMMIT in a procedure', "DO \$\$ BEGIN FOR i IN 1..3 LOOP UPDATE _registry.stored_entries SET value = i WHERE registry = 'r' AND key = 'd'; PERFORM registry.put('r', 'e', i); IF i = 2 THEN ROLLBACK; ELSE COMMIT; END IF; END LOOP; END \$\$", 'a=2! b=1! d=3 e=3' ],
	[ 'CTEs', "WITH d AS (DELETE FROM _registry.stored_entries WHERE registry = 'r' AND key IN ('a', 'b') RETURNING *), i AS (INSERT INTO _registry.stored_entries (registry, key, value) SELECT 'r', 'f', string_agg(value, '+' ORDER BY key) FROM d) SELECT 1", 'd=3 e=3 f=2!+1!' ],
	[ 'an expired entry', "UPDATE _registry.stored_entries SET expires_at = '1999-01-01' WHERE registry = 'r' AND key = 'd'", 'e=3 f=2!+1!' ],
	[ 'that lives again', "UPDATE _registry.stored_entries SET expires_at = NULL WHERE registry = 'r' AND key = 'd'", 'd=3 e=3 f=2!+1!' ],
	[ 'a cursor', "BEGIN; DECLARE c CURSOR FOR SELECT * FROM _registry.stored_entries WHERE registry = 'r' AND key = 'd' FOR UPDATE; FETCH c; UPDATE _registry.stored_entries SET value = 'c' WHERE CURRENT OF c; COMMIT", 'd=c e=3 f=2!+1!' ],
	[ 'a trigger at commit', "CREATE TABLE log (id int); CREATE FUNCTION logged() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN PERFORM registry.put(''r'', ''log'', NEW.id); UPDATE _registry.stored_entries SET value = ''t'' WHERE registry = ''r'' AND key = ''d''; RETURN NULL; END';
		CREATE CONSTRAINT TRIGGER t AFTER INSERT ON log DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION logged(); INSERT INTO log VALUES (7)", 'd=t e=3 f=2!+1! log=7' ],
	[ 'put_many of many', "SELECT registry.put_many('r', (SELECT jsonb_object_agg('k' || g, 'v') FROM generate_series(1, 12000) g)); DELETE FROM _registry.stored_entries WHERE registry = 'r' AND key LIKE 'k%'", 'd=t e=3 f=2!+1! log=7' ],
	[ 'TRUNCATE', "TRUNCATE _registry.stored_entries", '' ],
	# what a superuser may do
	[ 'replica', "SET session_replication_role = replica; INSERT INTO _registry.stored_entries (registry, key, value) VALUES ('r', 'a', '1'); SELECT registry.put('r', 'b', '2'); RESET session_replication_role", 'a=1 b=2' ],
	[ 'a trigger that changes values', "CREATE FUNCTION louder() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN NEW.value := NEW.value || ''!''; RETURN NEW; END'; CREATE TRIGGER a BEFORE INSERT OR UPDATE ON _registry.stored_entries FOR EACH ROW EXECUTE FUNCTION louder();
		INSERT INTO _registry.stored_entries (registry, key, value) VALUES ('r', 'a', '1'), ('r', 'b', '2'), ('r', 'c', '3')
			ON CONFLICT (registry, key) DO UPDATE SET value = excluded.value", 'a=1!! b=2!! c=3!' ],
	[ 'a trigger that skips rows', "CREATE OR REPLACE FUNCTION louder() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN IF NEW.key = ''c'' THEN RETURN NULL; END IF; RETURN NEW; END';
		INSERT INTO _registry.stored_entries (registry, key, value) VALUES ('r', 'a', '0'), ('r', 'c', '0'), ('r', 'd', '0')
			ON CONFLICT (registry, key) DO UPDATE SET value = excluded.value", 'a=0 b=2!! c=3! d=0' ],
	[ 'a trigger that writes elsewhere', "SELECT registry.create_registry('audit', 'bigint', durable => true); CREATE OR REPLACE FUNCTION louder() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN IF NEW.registry = ''r'' THEN INSERT INTO _registry.stored_entries (registry, key, value) VALUES (''audit'', NEW.key, 007) ON CONFLICT DO NOTHING; PERFORM registry.put(''audit'', NEW.key || 2, 8); DELETE FROM _registry.stored_entries WHERE registry = ''r'' AND key = ''b''; END IF; RETURN NEW; END';
		UPDATE _registry.stored_entries SET value = '5' WHERE registry = 'r' AND key IN ('a', 'c'); DROP FUNCTION louder CASCADE", 'a=5 c=5 d=0' ],
	[ 'ALTER TABLE', "ALTER TABLE _registry.stored_entries ADD COLUMN note text DEFAULT 'n'; SELECT registry.put('r', 'a', '6'); ALTER TABLE _registry.stored_entries DROP COLUMN note; SELECT registry.put('r', 'd', '6')", 'a=6 c=5 d=6' ],
	[ 'no primary key', "ALTER TABLE _registry.stored_entries DROP CONSTRAINT stored_entries_pkey; DELETE FROM _registry.stored_entries WHERE registry = 'r' AND key IN ('c', 'd')", 'a=6' ],
	[ 'another one', "ALTER TABLE _registry.stored_entries ADD PRIMARY KEY (key, registry); SELECT registry.put('r', 'c', '7')", 'a=6 c=7' ],
	[ 'rewritten', "CLUSTER _registry.stored_entries USING stored_entries_pkey; VACUUM FULL _registry.stored_entries; REINDEX TABLE _registry.definitions; SELECT registry.put('r', 'd', '8')", 'a=6 c=7 d=8' ],
);
for my $commit (@commits)
{
	my ($name, $sql, $expected) = @$commit;
	my $session = session();
	my $answer = answer($session, $sql) if $name ne 'rewritten' && $name ne 'replica';
	$session->query($_) for $name eq 'rewritten' || $name eq 'replica' ? split(/; /, $sql) : ();
	unlike($answer // '', qr/ERROR/, "$name: no error");
	$session->close;
	is(contents(), $expected, $name);
	is(problems(), '', "$name: the table has the same");
}
is($admin->one("SELECT string_agg(key || '=' || registry.get_text('audit', key), ' ' ORDER BY key) FROM registry.entries('audit')"), 'a=7 a2=8 c=7 c2=8', 'rows of another registry went there');
run('ALTER TABLE _registry.stored_entries DROP CONSTRAINT stored_entries_pkey', 'ALTER TABLE _registry.stored_entries ADD PRIMARY KEY (registry, key)');

# COPY: all of it or nothing.
my $copy = "COPY _registry.stored_entries (registry, key, value) FROM stdin;";
for my $rows ([ "r\tz\tcopied\nr\ta\tcopied\n", qr/duplicate key value/, 'a duplicate' ], [ "r\ty\tcopied\naudit\ty\tno number\n", qr/invalid input syntax for type bigint: "no number"/, 'a bad value' ], [ "r\ty\tcopied\nr\tz\ttwo\\nlines\n", qr/^$/, 'good rows' ])
{
	my $before = contents();
	my ($status, undef, $error) = $node->psql('postgres', "$copy\n$rows->[0]\\.\n");
	like($error, $rows->[1], "COPY of $rows->[2]");
	is(contents(), $status == 0 ? "$before y=copied z=two\nlines" : $before, 'takes effect as a whole');
	is(problems(), '', 'in both');
}

run("DELETE FROM _registry.stored_entries WHERE registry = 'r' AND key = 'y'", "INSERT INTO _registry.stored_entries (registry, key, value) VALUES ('r', 'w', '1')");
$node->poll_query_until('postgres', "SELECT bool_and(state = 'resident') FROM registry.registries WHERE durable") or die 'not loaded';
sub reload { return $admin->one("SELECT bool_and(registry.reload(name)) FROM registry.registries WHERE durable") }

# Whoever changes the catalogue past ALTER TABLE is on his own: verify() says so, reload() repairs it.
sub fires { $node->safe_psql('postgres', "SET allow_system_table_mods = on; UPDATE pg_trigger SET tgenabled = '$_[0]' WHERE tgname = 'changed' AND tgrelid = '_registry.stored_entries'::regclass; ALTER TABLE _registry.stored_entries SET (fillfactor = 91)"); return }
fires('D');
run("DELETE FROM _registry.stored_entries WHERE registry = 'r' AND key = 'w'", "UPDATE _registry.stored_entries SET value = '10' WHERE registry = 'r' AND key = 'z'", "INSERT INTO _registry.stored_entries (registry, key, value) VALUES ('r', 'y', '1')");
fires('A');
is($admin->one("SELECT string_agg(key || ' ' || problem, ', ' ORDER BY key) FROM registry.verify('r')"), 'w not in the table, y not in memory, z differs in memory', 'verify() finds what went past the triggers');
is(reload(), 't', 'reload() loads it');
is(contents(), 'a=6 c=7 d=8 y=1 z=10', 'and has repaired it');
is(problems(), '', 'in both');

# ---------------------------------------------------------------------------
# Two writers of one key
# ---------------------------------------------------------------------------

my %write = (
	put => sub { "SELECT registry.put('r', 'a', '$_[0]')" },
	UPDATE => sub { "UPDATE _registry.stored_entries SET value = '$_[0]' WHERE registry = 'r' AND key = 'a'" },
	'ON CONFLICT' => sub { "INSERT INTO _registry.stored_entries (registry, key, value) VALUES ('r', 'a', '$_[0]') ON CONFLICT (registry, key) DO UPDATE SET value = excluded.value" },
	'put_many' => sub { "SELECT registry.put_many('r', '{\"a\": \"$_[0]\"}')" },
	'DELETE and INSERT' => sub { "DELETE FROM _registry.stored_entries WHERE registry = 'r' AND key = 'a'; INSERT INTO _registry.stored_entries (registry, key, value) VALUES ('r', 'a', '$_[0]')" },
);
for my $state ('resident', 'from table')
{
	if ($state eq 'from table')
	{
		run("UPDATE _registry.definitions SET value_type = 'jsonb' WHERE name = 'r'", "UPDATE _registry.definitions SET value_type = 'text' WHERE name = 'r'");
	}
	for my $a (sort keys %write)
	{
		for my $b (sort keys %write)
		{
			my ($one, $two) = (session(), session());
			$one->query("BEGIN");
			$one->query($write{$a}->('one'));
			$two->send($write{$b}->("two"));
			ok($two->waits($node), "$state: $b waits for $a");
			$one->query('COMMIT');
			$two->finish;
			# the row that it has waited for is not the one that is there
			my $lost = $a eq 'DELETE and INSERT' && $b =~ /^(UPDATE|DELETE and INSERT)$/;
			is($two->{error}{C} // '', $lost && $b ne 'UPDATE' ? '23505' : '', "$state: $b after $a") or diag($two->{error}{M});
			is(contents() =~ s/ .*//r, $lost ? 'a=one' : 'a=two', "$state: $a, $b: the last one stays");
			is(problems(), '', 'in both');
			$_->close for $one, $two;
		}
	}
	# isolation levels
	for my $level ('REPEATABLE READ', 'SERIALIZABLE')
	{
		my $one = session();
		$one->query("BEGIN ISOLATION LEVEL $level");
		$one->one("SELECT registry.get_text('r', 'a')");
		run("SELECT registry.put('r', 'a', 'new'), registry.put('r', 'b', 'new')");
		is($one->sqlstate("SELECT registry.put('r', 'a', 'mine')"), '40001', "$state: $level: somebody else has changed the key");
		$one->query('ROLLBACK');
		$one->close;
		is(problems(), '', 'nothing is left of it');
	}
}

# Rows of a registry that is just being created.
{
	my ($one, $two) = (session(), session());
	$one->query("BEGIN; INSERT INTO _registry.stored_entries (registry, key, value) VALUES ('soon', 'k', '07')");
	$two->send("SELECT registry.create_registry('soon', 'bigint', durable => true)");
	ok($two->waits($node), 'create_registry waits for rows of its registry');
	$one->query('COMMIT');
	$two->finish;
	is($two->one("SELECT registry.get_text('soon', 'k')"), '7', 'and has them');
	$one->query("BEGIN; SELECT registry.create_registry('sooner', 'bigint', durable => true)");
	$two->send("INSERT INTO _registry.stored_entries (registry, key, value) VALUES ('sooner', 'k', '07')");
	ok($two->waits($node), 'a row waits for its registry');
	$one->query('COMMIT');
	$two->finish;
	is($one->one("SELECT registry.get_text('sooner', 'k')"), '7', 'and is in it');
	$_->close for $one, $two;
	run("SELECT registry.reload('soon')");
	is(problems(), '', 'in both');
	is($admin->one("SELECT string_agg(value, ' ') FROM _registry.stored_entries WHERE registry = 'sooner'"), '7', 'in the form of its type');
}

is($admin->one('SELECT count(*) FROM pg_prepared_xacts'), 0, 'nothing is prepared');
$node->stop;
done_testing();
