# If this fails, a backup of a database with registries cannot be restored, or gives back other values.

use strict;
use warnings;

use FindBin;
use lib "$FindBin::RealBin/lib";

use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use RawProtocol;
use Test::More;

my $tmp = PostgreSQL::Test::Utils::tempdir;
my %node;
for my $name (qw(source other))
{
	$node{$name} = PostgreSQL::Test::Cluster->new($name);
	$node{$name}->init;
	$node{$name}->append_conf('postgresql.conf', 'autovacuum = off');
	$node{$name}->start;
}
my $source = $node{source};

# The other cluster has used other oids for the roles.
$node{other}->safe_psql('postgres', "CREATE ROLE somebody_$_") for 1 .. 5;
for my $node (values %node)
{
	$node->safe_psql('postgres', 'CREATE ROLE dba LOGIN; CREATE ROLE reader LOGIN IN ROLE pg_read_all_data; CREATE ROLE clerk; CREATE ROLE guest');
}

# ---------------------------------------------------------------------------
# A database with everything, and odd settings
# ---------------------------------------------------------------------------

my $odd = join(';', map { "ALTER DATABASE %s SET $_" } "datestyle = 'SQL, DMY'", "timezone = 'Asia/Kathmandu'", 'extra_float_digits = -10',
	"intervalstyle = 'sql_standard'", "bytea_output = 'escape'", 'default_text_search_config = simple', 'standard_conforming_strings = off', 'backslash_quote = on', 'escape_string_warning = off');
my %values = (
	jsonb => [ '{"a": [1, 2.50, null, "\u00e4\ud83d\ude00\u2028"], "b": {"c\t": true}}', '"\\\\n"', '1e400', 'null', '{}' ],
	text => [ '', "two\nlines\r\n\ttab", q{quotes ' " and \\ back\\slash \\.}, '\\N', '\\.', "\x{c3}\x{a4}\x{f0}\x{9f}\x{98}\x{80}" ],
	numeric => [ '-0.000', '1.10570', '9' x 500 . '.' . '7' x 500, 'NaN', 'Infinity', '-Infinity', '1e-1000' ],
	float8 => [ '-0', '0.1', '0.30000000000000004', '1.7976931348623157e308', '4.9e-324', '2.2250738585072014e-308', 'NaN', 'Infinity', '-Infinity', '123456789.12345679' ],
	bigint => [ '0', '-9223372036854775808', '9223372036854775807' ],
	boolean => [ 't', 'f' ],
	timestamptz => [ '2024-02-29 12:34:56.789012+05:45', '0044-03-15 00:00:00+00 BC', '4713-01-01 00:00:00+00 BC', '294276-12-31 23:59:59.999999+00', '1850-06-01 00:00:00+00', 'infinity', '-infinity', '2000-01-01 00:00:00+00' ],
);
my @keys = ('a', ' ', "new\nline\r", q{quote ' "}, 'back\\slash', "\x{c3}\x{a4}", 'k' x 1024, '\\.', '\\N', "\x01\x7f");

sub literal { return "E'" . ($_[0] =~ s/([\\'])/\\$1/gr) . "'" }

sub fill
{
	my ($database) = @_;
	$source->safe_psql('postgres', "CREATE DATABASE $database OWNER dba; " . sprintf($odd =~ s/%s/$database/gr));
	my $s = RawProtocol->new($source, $database);
	$s->query($_) for 'CREATE EXTENSION pg_registry', 'GRANT EXECUTE ON FUNCTION registry.create_registry TO clerk', 'SET ROLE clerk';
	for my $type (sort keys %values)
	{
		$s->query("SELECT registry.create_registry('$type', '$type', durable => true)");
		my $n = 0;
		$s->query("SELECT registry.put('$type', " . literal($keys[ $n++ ]) . ', ' . literal($_) . ')') for @{ $values{$type} };
	}
	$s->query($_) for "SELECT registry.put('text', 'MB', string_agg(md5(g::text), '')) FROM generate_series(1, 35000) g",
	  "SELECT registry.put('jsonb', 'MB', to_jsonb(array_agg(g::text))) FROM generate_series(1, 100000) g",
	  "SELECT registry.create_registry(E'odd \\' \" \\\\ \\n name', 'text', durable => true, max_age => '1000 days 01:02:03.000004', on_stale => 'error')",
	  "SELECT registry.put(E'odd \\' \" \\\\ \\n name', 'k', 'v')",
	  "SELECT registry.create_registry('ttl', 'text', durable => true)", "SELECT registry.put('ttl', 'hour', 'x', ttl => '10 hours'), registry.put('ttl', 'gone', 'x', ttl => '1 microsecond'), registry.put('ttl', 'never', 'x')",
	  "SELECT registry.create_registry('empty', 'text', durable => true)", "SELECT registry.create_registry('memory', 'text')",
	  'RESET ROLE',
	  "SELECT registry.grant_access(r, 'read', 'guest'), registry.grant_access(r, 'write', 'public') FROM unnest('{text,memory}'::text[]) r",
	  # what depends on it: after all data, in every order and in parallel
	  "CREATE MATERIALIZED VIEW from_registry AS SELECT registry.get_text('text', E'new\\nline\\r') AS one, count(*) AS n FROM registry.entries('float8')",
	  "CREATE MATERIALIZED VIEW a_view AS SELECT * FROM from_registry, registry.get_many('text', ARRAY['a'])",
	  "CREATE TABLE orders (id int, what text)", "ALTER TABLE orders ADD CHECK (registry.get_text('text', what) IS NOT NULL) NOT VALID",
	  "CREATE FUNCTION is_known() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN IF registry.get_text(''text'', NEW.what) IS NULL THEN RAISE EXCEPTION ''unknown''; END IF; RETURN NEW; END'",
	  "CREATE TRIGGER known BEFORE INSERT ON orders FOR EACH ROW EXECUTE FUNCTION is_known()",
	  "INSERT INTO orders SELECT g, ' ' FROM generate_series(1, 100) g";
	is($s->sqlstate("INSERT INTO orders VALUES (0, 'no such key')"), 'P0001', 'a constraint at work');
	$s->close;
	return;
}

# Everything, in settings of our own.
sub contents
{
	my ($node, $database) = @_;
	my $s = RawProtocol->new($node, $database);
	my @lines;
	$s->query($_) for "SET datestyle = iso", "SET timezone = 'UTC'", 'SET extra_float_digits = 3', 'SET intervalstyle = postgres';
	for my $sql ("SELECT name, value_type, keys, durable, max_age, on_stale, entries FROM registry.registries WHERE name <> 'rates' ORDER BY name COLLATE \"C\"",
		"SELECT r.name, e.key, md5(e.value::text), length(e.value::text), e.updated_at, e.expires_at FROM registry.registries r, registry.entries(r.name) e WHERE r.durable ORDER BY r.name COLLATE \"C\", e.key COLLATE \"C\"",
		(map { "SELECT key, registry.get_$_('$_', key) FROM registry.entries('$_') WHERE key <> 'MB' ORDER BY key COLLATE \"C\"" } qw(text numeric float8 bigint boolean timestamptz)),
		'SELECT registry, privilege, grantee, grantee_oid, grantor, granted_at FROM _registry.grants ORDER BY 1, 2, 3',
		'SELECT * FROM from_registry', 'SELECT * FROM a_view', 'SELECT count(*), min(what) FROM orders', "SELECT count(*) FROM pg_constraint WHERE conrelid = 'orders'::regclass")
	{
		push @lines, map { join('|', map { $_ // 'NULL' } @$_) } $s->query($sql);
	}
	$s->close;
	return join("\n", @lines);
}

sub same
{
	my ($node, $database, $expected, $name) = @_;
	my $got = contents($node, $database);
	ok($got eq $expected, "$name: the same") or diag(join("\n", map { substr($_, 0, 200) } grep { index("$expected\n", "$_\n") < 0 } split(/\n/, $got)), "\n-- expected:\n", join("\n", map { substr($_, 0, 200) } grep { index("$got\n", "$_\n") < 0 } split(/\n/, $expected)));
	# after pg_restore --disable-triggers they stay where they are, until a load has made the triggers fire ALWAYS again
	$node->poll_query_until($database, "SELECT bool_and(tgenabled = 'A') FROM pg_trigger
		WHERE tgrelid IN ('_registry.definitions'::regclass, '_registry.stored_entries'::regclass, '_registry.grants'::regclass) AND NOT tgisinternal")
	  or die "$name: the triggers are not back" if $name =~ /^schema, then data/;
	# so that the image knows them, if nothing has told it
	$node->safe_psql($database, "SELECT registry.alter_registry(name, '{}') FROM registry.registries WHERE durable");
	is($node->safe_psql($database, "SELECT string_agg(name, ', ') FROM registry.registries WHERE durable AND NOT registry.reload(name)"), '', "$name: it can be loaded");
	is($node->safe_psql($database, "SELECT name, v.* FROM registry.registries, registry.verify(name) v WHERE durable AND problem !~ '\"(clerk|guest)\": '"), '', "$name: memory and tables agree");
	$got = contents($node, $database);
	ok($got eq $expected, "$name: the same from memory");
	return;
}

fill('app');
my $expected = contents($source, 'app');
like($expected, qr/^ttl\|hour\|/m, 'there is something to compare');
is($source->safe_psql('app', 'SELECT name, v.* FROM registry.registries, registry.verify(name) v WHERE durable'), '', 'odd settings change no stored value');

# ---------------------------------------------------------------------------
# Ways to dump and to restore
# ---------------------------------------------------------------------------

sub program
{
	my ($name, @command) = @_;
	my ($out, $err);
	my $ok = IPC::Run::run(\@command, '>', \$out, '2>', \$err);
	ok($ok && $err !~ /ERROR/, "$name: $command[0]") or diag(substr($err, 0, 3000));
	return;
}
sub at { my ($node, $user) = @_; return ('-h', $node->host, '-p', $node->port, $user ? ('-U', $user) : ()) }

my %dump = (
	plain => [ [ 'pg_dump', '-Fp', '-f', "$tmp/plain.sql" ], '' ],
	custom => [ [ 'pg_dump', '-Fc', '-f', "$tmp/custom" ], '' ],
	directory => [ [ 'pg_dump', '-Fd', '-j2', '-f', "$tmp/directory" ], '' ],
	owner => [ [ 'pg_dump', '-Fc', '-f', "$tmp/owner" ], 'dba' ],
	reader => [ [ 'pg_dump', '-Fc', '-f', "$tmp/reader" ], 'reader' ],
	inserts => [ [ 'pg_dump', '-Fp', '--rows-per-insert=7', '-f', "$tmp/inserts.sql" ], '' ],
	columns => [ [ 'pg_dump', '-Fp', '--column-inserts', '--on-conflict-do-nothing', '-f', "$tmp/columns.sql" ], '' ],
	schema => [ [ 'pg_dump', '-Fc', '--schema-only', '-f', "$tmp/schema" ], '' ],
	data => [ [ 'pg_dump', '-Fc', '--data-only', '-f', "$tmp/data" ], '' ],
);
# The owner of a database may have tables in it that he cannot read; here he can.
$source->safe_psql('app', 'GRANT SELECT ON ALL TABLES IN SCHEMA public TO dba');
program("dump $_", @{ $dump{$_}[0] }, at($source, $dump{$_}[1]), 'app') for sort keys %dump;

my @psql = ('psql', '-X', '-q', '-v', 'ON_ERROR_STOP=1');
my @restores = (
	[ 'plain', [ @psql, '-f', "$tmp/plain.sql" ] ],
	[ 'plain, in one transaction', [ @psql, '-1', '-f', "$tmp/plain.sql" ] ],
	[ 'custom', [ 'pg_restore', '-e', "$tmp/custom" ] ],
	[ 'custom, in one transaction', [ 'pg_restore', '-e', '-1', "$tmp/custom" ] ],
	[ 'custom, in parallel', [ 'pg_restore', '-e', '-j4', "$tmp/custom" ] ],
	[ 'directory, in parallel', [ 'pg_restore', '-e', '-j2', "$tmp/directory" ] ],
	[ 'by the owner of the database', [ 'pg_restore', '-e', "$tmp/owner" ] ],
	[ 'by a member of pg_read_all_data', [ 'pg_restore', '-e', "$tmp/reader" ] ],
	[ 'INSERTs', [ @psql, '-f', "$tmp/inserts.sql" ] ],
	[ 'INSERTs with columns', [ @psql, '-f', "$tmp/columns.sql" ] ],
	[ 'schema, then data', [ 'pg_restore', '-e', "$tmp/schema" ], (map { [ 'pg_restore', '-e', '--data-only', '--disable-triggers', '-n', $_, "$tmp/data" ] } qw(_registry public)), [ @psql, '-c', 'REFRESH MATERIALIZED VIEW from_registry', '-c', 'REFRESH MATERIALIZED VIEW a_view' ] ],
	[ 'sections', map { [ 'pg_restore', '-e', "--section=$_", "$tmp/custom" ] } qw(pre-data data post-data) ],
	[ 'over it', [ 'pg_restore', '-e', "$tmp/custom" ], [ 'pg_restore', '-e', '--clean', '--if-exists', "$tmp/custom" ] ],
	[ 'over it, in one transaction', [ 'pg_restore', '-e', "$tmp/custom" ], [ 'pg_restore', '-e', '-1', '--clean', '--if-exists', "$tmp/custom" ] ],
);
my $n = 0;
for my $restore (@restores)
{
	my ($name, @commands) = @$restore;
	for my $node ($node{other}, $source)
	{
		my $database = 'restored' . ++$n;
		my $where = "$name, to " . $node->name;
		$node->safe_psql('postgres', "CREATE DATABASE $database OWNER dba;" . sprintf($n % 3 ? $odd =~ s/%s/$database/gr : ''));
		program($where, @$_, at($node), '-d', $database) for @commands;
		same($node, $database, $expected, $where);
		is($node->safe_psql($database, 'SELECT string_agg(DISTINCT tgenabled::text, \'\') FROM pg_trigger WHERE tgrelid IN (\'_registry.definitions\'::regclass, \'_registry.stored_entries\'::regclass, \'_registry.grants\'::regclass)'), 'A', "$where: triggers fire always");
		$node->safe_psql('postgres', "DROP DATABASE $database");
	}
}

program('pg_dumpall', 'pg_dumpall', at($source), '-f', "$tmp/all.sql");
my $third = PostgreSQL::Test::Cluster->new('third');
$third->init;
$third->start;
IPC::Run::run([ 'psql', '-X', '-q', at($third), '-d', 'postgres', '-f', "$tmp/all.sql" ], '>', \my $out, '2>', \my $err);
unlike($err =~ s/^.*role "\S+" already exists\n//mr, qr/ERROR/, 'pg_dumpall: restored');
same($third, 'app', $expected, 'pg_dumpall');

# ---------------------------------------------------------------------------
# Owners and grants
# ---------------------------------------------------------------------------

# Who may read the registry "text", and who, in addition, write to it.
sub rights
{
	my ($node, $database) = @_;
	my @rights;

	for my $role (qw(clerk guest somebody))
	{
		my ($status) = $node->psql($database, "SET ROLE $role; SELECT registry.get_text('text', ' ')");
		my ($written) = $node->psql($database, "SET ROLE $role; BEGIN; SELECT registry.put('text', 'by somebody', 'x'); ROLLBACK", on_error_stop => 1);

		push @rights, $role . ($status == 0 ? ' reads' : '') . ($written == 0 ? ' writes' : '');
	}
	return join ', ', @rights;
}
$_->safe_psql('postgres', 'CREATE ROLE somebody') for values %node;

# In this cluster the owner is who he was; in another one he is until his oid is another.
$source->safe_psql('postgres', 'CREATE DATABASE owned');
program('for owners', 'pg_restore', '-e', "$tmp/custom", at($source), '-d', 'owned');
is($source->safe_psql('owned', "SET ROLE clerk; SELECT registry.get_text('text', ' ') IS NOT NULL"), 't', 'the owner reads his registry after a restore in his cluster');
$node{other}->safe_psql('postgres', 'CREATE DATABASE owned');
program('for owners', 'pg_restore', '-e', "$tmp/custom", at($node{other}), '-d', 'owned');
my (undef, undef, $refused) = $node{other}->psql('owned', "SET ROLE clerk; SELECT registry.get_text('text', ' ')");
like($refused, qr/does not exist or you may not read it/, 'a role of that name in another cluster does not own it');
is(rights($source, 'owned'), 'clerk reads writes, guest reads writes, somebody writes', 'grants hold after a restore in their cluster');
is(rights($node{other}, 'owned'), 'clerk writes, guest writes, somebody writes', 'in another one only those to everybody do');
is($node{other}->safe_psql('owned', 'SELECT ok FROM registry.checks WHERE check_name = \'grants_resolved\''), 'f', 'registry.checks says so');
my $registries = $node{other}->safe_psql('owned', 'SELECT count(*) FROM _registry.definitions');
is($node{other}->safe_psql('owned', 'SELECT registry.restore_grants()'), $registries + 2, 'restore_grants() gives them back, by name');
is(rights($node{other}, 'owned'), rights($source, 'owned'), 'then all of them hold');
is($node{other}->safe_psql('owned', 'SELECT ok FROM registry.checks WHERE check_name = \'grants_resolved\''), 't', 'and nothing is left to do');

# A copy of a database has the same grants, and those of its own from then on.
$source->safe_psql('postgres', 'CREATE DATABASE copied TEMPLATE owned');
is(rights($source, 'copied'), rights($source, 'owned'), 'a copy has the same grants');
$source->safe_psql('copied', "SELECT registry.revoke_access('text', 'write', 'public'), registry.revoke_access('text', 'read', 'guest')");
is(rights($source, 'copied'), 'clerk reads writes, guest, somebody', 'they can be revoked');
is(rights($source, 'owned'), 'clerk reads writes, guest reads writes, somebody writes', 'in the copy only');

for my $role (qw(dba reader clerk))
{
	(undef, undef, $refused) = $source->psql('app', "SET ROLE $role; SELECT count(*) FROM _registry.stored_entries");
	$role eq 'clerk' ? like($refused, qr/permission denied/, "$role cannot read the tables") : is($refused, '', "$role can read the tables");
	(undef, undef, $refused) = $source->psql('app', "SET ROLE $role; DELETE FROM _registry.stored_entries");
	like($refused, qr/permission denied/, "$role cannot change them");
}

# ---------------------------------------------------------------------------
# A constraint that is checked while data are copied (docs/operations.md)
# ---------------------------------------------------------------------------

# The rates are constants of the table, so that what has been fetched meanwhile does not matter.
$source->safe_psql('postgres', 'CREATE DATABASE checked');
my @schemas = ('public', 'a', 'zoo', '"UPPER"');
$source->safe_psql('checked', "CREATE EXTENSION pg_registry; SELECT registry.create_registry('s', 'text'); SELECT registry.put('s', 'k', 'v');
	SELECT registry.set_rates('EUR', '{\"USD\": 1.25}', '2025-02-03'), registry.set_rates('EUR', '{\"USD\": 1.5}', '2025-02-04')");
$source->safe_psql('checked', "CREATE SCHEMA IF NOT EXISTS $_;
	CREATE TABLE $_.checked (k text CHECK (registry.get_text('s', k) IS NOT NULL), usd numeric CHECK (usd = registry.rate('EUR', 'USD', on_date => '2025-02-03')));
	INSERT INTO $_.checked VALUES ('k', 1.25)") for @schemas;
sub count_checked { my ($database, @in) = @_; return $source->safe_psql($database, 'SELECT ' . join(' + ', map { "(SELECT count(*) FROM $_.checked)" } @in)) }

# As it is, but for a schema whose name sorts before ours.
program('checked', 'pg_dump', @$_, '-N', '"UPPER"', at($source), 'checked') for [ '-Fc', '-f', "$tmp/checked" ], [ '-Fp', '-f', "$tmp/checked.sql" ];
for my $case ([ 'pg_restore', '-e', "$tmp/checked" ], [ @psql, '-f', "$tmp/checked.sql" ])
{
	$source->safe_psql('postgres', 'CREATE DATABASE early');
	program('tables with constraints', @$case, at($source), '-d', 'early');
	is(count_checked('early', 'public', 'a', 'zoo'), 3, 'our tables come before those with constraints');
	$source->safe_psql('postgres', 'DROP DATABASE early');
}

# Step by step, in any order and in parallel.
program('checked', 'pg_dump', '-Fd', '-f', "$tmp/checked.d", at($source), 'checked');
$source->safe_psql('postgres', 'CREATE DATABASE late');
program('ours first', @$_, at($source), '-d', 'late', "$tmp/checked.d")
  for [ 'pg_restore', '-e', '--section=pre-data' ], [ 'pg_restore', '-e', '-j2', '--section=data', '-n', '_registry' ];
IPC::Run::run([ 'sh', '-c', "pg_restore -l $tmp/checked.d | grep -v 'TABLE DATA _registry ' >$tmp/list" ]);
program('the rest', @$_, at($source), '-d', 'late', '-L', "$tmp/list", "$tmp/checked.d")
  for [ 'pg_restore', '-e', '-j2', '--section=data' ], [ 'pg_restore', '-e', '--section=post-data' ];
is(count_checked('late', @schemas), 4, 'our tables first, then all others');

# Sets of rates and their values: two tables that are copied in any order.
my ($archive_list) = IPC::Run::run([ 'pg_restore', '-l', "$tmp/checked.d" ], '>', \$out) ? $out : die;
for my $order ('rate_sets', 'rate_set_values')
{
	my @lines = grep { /TABLE DATA _registry/ } split /\n/, $archive_list;
	my $database = "first_$order";

	PostgreSQL::Test::Utils::append_to_file("$tmp/list.$order", join("\n", (grep { / $order / } @lines), (grep { !/ $order / } @lines), ''));
	$source->safe_psql('postgres', "CREATE DATABASE $database");
	program("$order first", @$_, at($source), '-d', $database, "$tmp/checked.d")
	  for [ 'pg_restore', '-e', '--section=pre-data' ], [ 'pg_restore', '-e', '-L', "$tmp/list.$order" ];
	is($source->safe_psql($database, "SELECT string_agg(registry.rate('EUR', 'USD', on_date => d)::text, ' ') FROM unnest('{2025-02-03,2025-02-04,2025-02-05}'::date[]) d"),
		'1.25 1.5 1.5', "$order first: rates of past days");
	is($source->safe_psql($database, "SELECT registry.rate('EUR', 'USD')"), '1.5', '... and the last ones');
}

# Both at a time, which went wrong in one run of two when the values had a foreign key.
program('rates alone', 'pg_dump', '-Fd', '-T', '*.checked', '-f', "$tmp/rates.d", at($source), 'checked');
for my $run (1 .. 6)
{
	$source->safe_psql('postgres', 'CREATE DATABASE parallel');
	program("two jobs, run $run", 'pg_restore', '-e', '-j2', at($source), '-d', 'parallel', "$tmp/rates.d");
	is($source->safe_psql('parallel', "SELECT string_agg(registry.rate('EUR', 'USD', on_date => d)::text, ' ') FROM unnest('{2025-02-03,2025-02-04}'::date[]) d"),
		'1.25 1.5', "two jobs, run $run: rates of past days");
	is($source->safe_psql('parallel', "SELECT registry.set_rates('EUR', '{\"USD\": 1.75}', '2025-02-05')"), 3, 'and the next set has the next id');
	$source->safe_psql('postgres', 'DROP DATABASE parallel');
}

$_->stop for values %node, $third;
done_testing();
