# If this fails, rows that change behind the triggers' back (a restore with --disable-triggers, DISABLE TRIGGER, a
# dropped trigger) leave memory and table in disagreement: reads answer what nobody has stored.

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
$node->append_conf('postgresql.conf', "autovacuum = off\nlog_statement = none");
$node->start;
$node->safe_psql('postgres', q(
	CREATE EXTENSION pg_registry;
	SELECT registry.create_registry('r', 'text', durable => true), registry.create_registry('mem', 'text', durable => false);
	SELECT registry.put('r', 'a', '1'), registry.put('mem', 'a', 'only in memory')));
my $admin = RawProtocol->new($node, 'postgres');
my $reader = RawProtocol->new($node, 'postgres');

my $insert = "INSERT INTO _registry.stored_entries (registry, key, value) VALUES";

# A loader may be at it, and fail.
sub state { return $reader->one("SELECT replace(state, 'loading', 'from table') FROM registry.registries WHERE name = '" . ($_[0] // 'r') . "'") // 'none' }
sub get { return $reader->one("SELECT registry.get_text('r', '$_[0]')") // 'null' }
sub differences { return $reader->one("SELECT count(*) FROM registry.verify('r')") }
sub wait_for { ok($node->poll_query_until('postgres', "SELECT $_[0]"), $_[1]); return }

# In memory, and what is there is what the table has.
sub is_back
{
	my ($case, $registry) = @_;

	$registry //= 'r';
	wait_for("state = 'resident' FROM registry.registries WHERE name = '$registry'", "$case: $registry is loaded again");
	is($reader->one("SELECT count(*) FROM registry.verify('$registry')"), 0, "$case: verify() finds nothing");
	is($reader->one("SELECT registry.get_text('mem', 'a')"), 'only in memory', "$case: memory registries stay as they were");
	return;
}

sub triggers
{
	return $reader->one("SELECT string_agg(tgenabled::text, '' ORDER BY tgrelid, tgname) FROM pg_trigger
		WHERE tgrelid IN ('_registry.definitions'::regclass, '_registry.stored_entries'::regclass, '_registry.grants'::regclass)");
}

is(state(), 'resident', 'at first it is in memory');

# ---------------------------------------------------------------------------
# No bypass at all
# ---------------------------------------------------------------------------

my $generation = $reader->one('SELECT registry.generation()');
$admin->query($_)
  for 'ALTER TABLE _registry.stored_entries SET (fillfactor = 80)', 'VACUUM FULL _registry.stored_entries',
  'ANALYZE _registry.stored_entries', 'CREATE INDEX ON _registry.stored_entries (updated_at)',
  'BEGIN; ALTER TABLE _registry.stored_entries DISABLE TRIGGER ALL; ROLLBACK',
  'BEGIN; SAVEPOINT s; ALTER TABLE _registry.stored_entries DISABLE TRIGGER changed; ROLLBACK TO s; COMMIT',
  'BEGIN; DROP TRIGGER changed ON _registry.stored_entries; ROLLBACK',
  'CREATE TABLE other (i int PRIMARY KEY); ALTER TABLE other DISABLE TRIGGER ALL; DROP TABLE other';
is(state(), 'resident', 'what changes neither rows nor triggers, or is rolled back: it stays');
is($reader->one('SELECT registry.generation()'), $generation, 'and nothing is published');

$admin->query('SET session_replication_role = replica');
$admin->query("$insert ('r', 'replica', 'yes')");
$admin->query("UPDATE _registry.stored_entries SET value = '2' WHERE key = 'a'");
$admin->query('RESET session_replication_role');
is(get('replica') . get('a'), 'yes2', 'session_replication_role = replica: our triggers fire always');
is(state(), 'resident', 'it stays in memory');
is(differences(), 0, 'and agrees with the table');

# ---------------------------------------------------------------------------
# What a restore with --disable-triggers does, step by step
# ---------------------------------------------------------------------------

$admin->query('ALTER TABLE _registry.stored_entries DISABLE TRIGGER ALL');
is(state(), 'from table', 'triggers are off: it is read from its table');
is(get('a'), '2', 'with what it had');
$admin->query("$insert ('r', 'unseen', 'by triggers')");
is(get('unseen'), 'by triggers', 'what no trigger saw is read');
$admin->query("UPDATE _registry.stored_entries SET value = '3' WHERE key = 'a'");
$admin->query("DELETE FROM _registry.stored_entries WHERE key = 'replica'");
is(get('a') . get('replica'), '3null', 'changed and deleted, too');
$reader->query("SELECT registry.put('r', 'put', 'meanwhile')");
is(get('put'), 'meanwhile', 'put() works');
is($reader->sqlstate("SELECT registry.reload('r')"), '55000', 'reload() refuses');
like($reader->{error}{M}, qr/trigger "changes" on table _registry.stored_entries is disabled/, 'and says why');
like($reader->{error}{H}, qr/^Execute ALTER TABLE _registry.stored_entries ENABLE ALWAYS TRIGGER changes;/, 'and what to do');
$reader->query("SELECT registry.create_registry('new', 'text', durable => true)");
$reader->query("SELECT registry.create_registry('newmem', 'text', durable => false)");
is(state('new') . ', ' . state('newmem'), 'from table, resident', 'a new registry is not in memory either, unless it is nowhere else');
$admin->query("$insert ('new', 'k', 'v')");
is($reader->one("SELECT registry.get_text('new', 'k')"), 'v', 'nor does it miss anything');
my $warning = 'could not load the registries of database "postgres": registries cannot be kept in memory: trigger "changes" on table _registry.stored_entries is disabled';
$node->wait_for_log(qr/WARNING:  \Q$warning/);
is(state(), 'from table', 'loading it is tried, and refused');

# ENABLE TRIGGER, as pg_restore has it, leaves them without ALWAYS.
$admin->query('ALTER TABLE _registry.stored_entries ENABLE TRIGGER ALL');
is_back('ENABLE TRIGGER ALL');
is_back('ENABLE TRIGGER ALL', 'new');
is(triggers(), 'AAAAAAAA', 'and all triggers fire always, as before');
is(get('a') . get('unseen') . get('replica') . get('put'), '3by triggersnullmeanwhile', 'with all that the table has');
$reader->query("SELECT registry.put('r', 'a', '4')");
is(get('a'), '4', 'and it is written as before');
is(state(), 'resident', 'in memory');

# The same in a cluster that crashes in the middle.
$admin->query('ALTER TABLE _registry.stored_entries DISABLE TRIGGER changed');
$admin->query("$insert ('r', 'before the crash', 'yes')");
$_->close for $admin, $reader;
$node->stop('immediate');
$node->start;
$admin = RawProtocol->new($node, 'postgres');
$reader = RawProtocol->new($node, 'postgres');
is(get('before the crash'), 'yes', 'after a crash it is read from the table');
$node->wait_for_log(qr/could not load the registries of database "postgres": .*"changed"/);
is(state(), 'from table', 'and stays there');
$reader->query("SELECT registry.put('mem', 'a', 'only in memory')");
$admin->query('ALTER TABLE _registry.stored_entries ENABLE ALWAYS TRIGGER changed');
is_back('after a crash');

# ---------------------------------------------------------------------------
# All in one transaction
# ---------------------------------------------------------------------------

my $repeatable = RawProtocol->new($node, 'postgres');
$repeatable->query('BEGIN ISOLATION LEVEL REPEATABLE READ');
is($repeatable->one("SELECT registry.get_text('r', 'a')"), '4', 'somebody reads');
$admin->query("BEGIN; SELECT registry.put('r', 'mine', 'listed'); SELECT registry.create_registry('early', 'text', durable => true);
	SELECT registry.put('early', 'k', 'listed'); SELECT registry.create_registry('kept', 'text', durable => true)");
$admin->query('ALTER TABLE _registry.stored_entries DISABLE TRIGGER ALL');
is($admin->one("SELECT registry.get_text('r', 'mine') || registry.get_text('early', 'k')"), 'listedlisted', 'own changes of before are seen');
$admin->query("$insert ('r', 'one', 'transaction'), ('early', 'one', 'more'), ('kept', 'k', 'unseen'); UPDATE _registry.stored_entries SET value = '5' WHERE key = 'a'");
is($admin->one("SELECT registry.get_text('r', 'one') || registry.get_text('r', 'a') || registry.get_text('early', 'one')"), 'transaction5more', 'so are those that bypass triggers');
$admin->query("SAVEPOINT s; $insert ('r', 'two', 'taken back')");
is($admin->one("SELECT registry.get_text('r', 'two')"), 'taken back', 'in a subtransaction, too');
$admin->query('ROLLBACK TO s');
is($admin->one("SELECT registry.get_text('r', 'two')") // 'null', 'null', 'and gone with it');
is($admin->one("SELECT registry.entry_count('r')"), $admin->one("SELECT count(*) FROM _registry.stored_entries WHERE registry = 'r'"), 'counted');
$admin->query("SELECT registry.put('r', 'mine', 'again'), registry.alter_registry('early', '{\"name\": \"late\"}')");
is($admin->one("SELECT registry.get_text('r', 'mine') || registry.get_text('late', 'one')"), 'againmore', 'put() and alter_registry() go on');
is($admin->one("SELECT string_agg(name || ' ' || state, ', ' ORDER BY name) FROM registry.registries WHERE durable"),
	'kept from table, late from table, new from table, r from table', 'the transaction sees each of them once');
$admin->query("SELECT registry.drop_registry('late'), registry.create_registry('late', 'text', durable => true), registry.put('late', 'k', 'second')");
is($admin->one("SELECT string_agg(key || value, ' ') FROM registry.entries('late')"), 'k"second"', 'dropped and created again');
$admin->query('ALTER TABLE _registry.stored_entries ENABLE TRIGGER ALL');
$admin->query("$insert ('r', 'three', 'seen')");
is($admin->one("SELECT registry.get_text('r', 'three')"), 'seen', 'and what passes the triggers again');
is(get('a') . get('one') . state(), '4nullresident', 'nobody else sees anything of that');
$admin->query('COMMIT');
is(get('a') . get('one') . get('mine') . get('three'), '5transactionagainseen', 'until it commits');
is($reader->one("SELECT registry.get_text('kept', 'k')"), 'unseen', 'of a registry that the transaction had made before, too');
is($repeatable->one("SELECT registry.get_text('r', 'a')"), '4', 'REPEATABLE READ goes on with what it had');
$repeatable->query('COMMIT');
is_back('one transaction');
is_back('one transaction', $_) for 'late', 'kept';

# Parallel workers read as their leader does.
$admin->query('BEGIN; ALTER TABLE _registry.stored_entries DISABLE TRIGGER ALL');
$admin->query("UPDATE _registry.stored_entries SET value = '6' WHERE key = 'a'");
$admin->query('CREATE TABLE numbers AS SELECT generate_series(1, 10000) i; ANALYZE numbers');
$admin->query('SET LOCAL force_parallel_mode = on; SET LOCAL parallel_setup_cost = 0; SET LOCAL parallel_tuple_cost = 0; SET LOCAL min_parallel_table_scan_size = 0');
is($admin->one("SELECT string_agg(DISTINCT registry.get_text('r', CASE WHEN i > 0 THEN 'a' END), ',') FROM numbers"), '6', 'in parallel workers, too');
$admin->query('ROLLBACK');
is(state() . get('a'), 'resident5', 'rolled back: as before');

# ---------------------------------------------------------------------------
# Somebody else has uncommitted changes
# ---------------------------------------------------------------------------

my $other = RawProtocol->new($node, 'postgres');
my $waits = "count(*) = 1 FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND query LIKE 'ALTER TABLE%'";
$other->query("BEGIN; SELECT registry.put('r', 'other', 'listed')");
$admin->send('ALTER TABLE _registry.stored_entries DISABLE TRIGGER ALL');
wait_for($waits, 'DISABLE TRIGGER waits for them');
$other->query('COMMIT');
$admin->finish;
is(get('other') . state(), 'listedfrom table', 'then it is read from the table');
$other->query("BEGIN; $insert ('r', 'other2', 'unlisted')");
$admin->send('ALTER TABLE _registry.stored_entries ENABLE TRIGGER ALL');
wait_for($waits, 'ENABLE TRIGGER waits for what the triggers did not see');
is(state(), 'from table', 'and nothing is loaded before');
$other->query('COMMIT');
$admin->finish;
is_back('two sessions');
is(get('other2'), 'unlisted', 'with the change that nobody saw');

# Who makes a registry resident keeps the triggers as they are until he has done so.
for my $command ("registry.reload('r')", "registry.create_registry('made', 'text', durable => true)")
{
	$other->query("BEGIN; SELECT $command");
	$admin->send('ALTER TABLE _registry.stored_entries DISABLE TRIGGER ALL');
	wait_for($waits, "DISABLE TRIGGER waits for $command");
	$other->query('COMMIT');
	$admin->finish;
	is(state(), 'from table', 'then it is read from the table');
	$admin->query("$insert ('made', 'k', 'v')") if $command =~ /create/;
	$admin->query('ALTER TABLE _registry.stored_entries ENABLE TRIGGER ALL');
	is_back($command);
}
is_back('created while triggers were about to go', 'made');

# ---------------------------------------------------------------------------
# Triggers that are gone, or not what they were
# ---------------------------------------------------------------------------

my @cases = (
	[ 'DROP TRIGGER changed ON _registry.stored_entries', 'missing' ],
	[ 'ALTER TRIGGER changed ON _registry.stored_entries RENAME TO renamed', 'missing' ],
	[ "CREATE OR REPLACE TRIGGER changed AFTER INSERT OR UPDATE OR DELETE ON _registry.stored_entries
		FOR EACH ROW WHEN (pg_trigger_depth() > 99) EXECUTE FUNCTION registry.entries_changed()", 'missing' ],
	[ 'ALTER TABLE _registry.stored_entries ENABLE REPLICA TRIGGER changed', 'disabled' ],
);
for my $case (@cases)
{
	my ($command, $problem) = @$case;
	my $name = $command =~ s/ ON .*//sr;

	$admin->query($command);
	is(state(), 'from table', "$name: it is read from its table");
	$admin->query("$insert ('r', 'gone', 'unseen') ON CONFLICT (registry, key) DO UPDATE SET value = excluded.value || 'again'");
	like(get('gone'), qr/^unseen/, 'with all changes');
	$reader->sqlstate("SELECT registry.reload('r')");
	like($reader->{error}{M}, qr/: trigger "changed" on table _registry.stored_entries is $problem$/, 'reload() says what is wrong');
	$admin->query('DROP TRIGGER IF EXISTS renamed ON _registry.stored_entries');
	$admin->query($reader->{error}{H} =~ s/^Execute //r);
	is_back('the hint is executed');
}

# ---------------------------------------------------------------------------
# Definitions
# ---------------------------------------------------------------------------

$admin->query('ALTER TABLE _registry.definitions DISABLE TRIGGER ALL');
is(state(), 'from table', 'definitions can change: read from the table');
$admin->query("INSERT INTO _registry.definitions (name, value_type) VALUES ('restored', 'text')");
$admin->query("$insert ('restored', 'k', 'v')");
$admin->query("DELETE FROM _registry.definitions WHERE name = 'new'");
$admin->query("UPDATE _registry.definitions SET on_stale = 'null' WHERE name = 'r'");
is($reader->one("SELECT registry.get_text('restored', 'k')"), 'v', 'a registry that no trigger saw');
is($reader->sqlstate("SELECT registry.get_text('new', 'k')"), '42704', 'one that is gone');
$admin->query('ALTER TABLE _registry.definitions ENABLE TRIGGER ALL');
is_back('definitions');
is_back('definitions', 'restored');
is($reader->sqlstate("SELECT registry.get_text('new', 'k')"), '42704', 'the one that is gone stays so');
is($reader->one("SELECT on_stale FROM registry.registries WHERE name = 'r'"), 'null', 'and what was altered is so');
is(triggers(), 'AAAAAAAA', 'all triggers fire always');

# ---------------------------------------------------------------------------
# Grants
# ---------------------------------------------------------------------------

$admin->query('CREATE ROLE guest');
my $guest = RawProtocol->new($node, 'postgres');
$guest->query('SET ROLE guest');

# What the guest may read of a durable registry and of one in memory.
sub guest
{
	return join ', ', map { $guest->sqlstate("SELECT registry.get_text('$_', 'a')") || 'allowed' } qw(r mem);
}
my $grant = "INSERT INTO _registry.grants SELECT r, 'read', 'guest', 'guest'::regrole FROM unnest('{r,mem}'::text[]) r";
my $revoke = "DELETE FROM _registry.grants WHERE grantee = 'guest'";
is(guest(), '42704, 42704', 'nothing is granted');
$admin->query('BEGIN; ALTER TABLE _registry.grants DISABLE TRIGGER ALL');
$admin->query($grant);
is($admin->one("SELECT set_config('role', 'guest', true) || registry.get_text('r', 'a') || registry.get_text('mem', 'a')"), 'guest5only in memory',
	'triggers are off: the transaction reads by its own grants');
$admin->query('ROLLBACK');
is(guest(), '42704, 42704', 'rolled back: nobody does');
is(state(), 'resident', 'and all is in memory');

$admin->query('ALTER TABLE _registry.grants DISABLE TRIGGER ALL');
is(state(), 'from table', 'triggers are off: read from the table');
$admin->query($grant);
is(guest(), 'allowed, allowed', 'what no trigger saw holds');
$admin->query($revoke);
is(guest(), '42704, 42704', 'and is gone');
$admin->query($grant);
$admin->query('ALTER TABLE _registry.grants ENABLE TRIGGER ALL');
is(guest(), 'allowed, allowed', 'triggers are on: the same');
is_back('grants');
is(guest(), 'allowed, allowed', 'and from memory');
is($reader->one("SELECT count(*) FROM registry.verify('mem')"), 0, 'also of the memory registry');
is(triggers(), 'AAAAAAAA', 'all triggers fire always');
$admin->query($revoke);
is(guest(), '42704, 42704', 'a row that is deleted now');
$admin->query("SELECT registry.grant_access(r, 'read', 'guest') FROM unnest('{r,mem}'::text[]) r");
is(guest(), 'allowed, allowed', 'and a grant');

# ---------------------------------------------------------------------------
# A table that is not where it was
# ---------------------------------------------------------------------------

$admin->query('ALTER TABLE _registry.stored_entries RENAME TO elsewhere');
is($reader->sqlstate("SELECT registry.get_text('r', 'a')"), '42P01', 'without its table there is no answer, rather than a wrong one');
$admin->query("UPDATE _registry.elsewhere SET value = '7' WHERE key = 'a'");
$admin->query('ALTER TABLE _registry.elsewhere RENAME TO stored_entries');
is(get('a'), '7', 'what was changed under another name is read');
is_back('renamed and back');
is(get('a'), '7', 'from memory, too');

$admin->query('ALTER SCHEMA _registry RENAME TO hidden');
$admin->query("UPDATE hidden.stored_entries SET value = '8' WHERE key = 'a'");
$other->query("BEGIN; UPDATE hidden.stored_entries SET value = '9' WHERE key = 'a'");
$admin->send('ALTER SCHEMA hidden RENAME TO _registry');
wait_for($waits =~ s/ALTER TABLE/ALTER SCHEMA/r, 'a schema gets its name back: that waits for those who change tables');
$other->query('COMMIT');
$admin->finish;
is(get('a'), '9', 'what was changed meanwhile is read');
is_back('schema renamed and back');

# That of the functions, the triggers' among them: the tables are where they were.
$admin->query('ALTER SCHEMA registry RENAME TO hidden');
$admin->query("UPDATE _registry.stored_entries SET value = '10' WHERE key = 'a'");
is($reader->one("SELECT hidden.get_text('r', 'a')"), '10', 'what is changed while functions have another name is read');
$other->query("BEGIN; UPDATE _registry.stored_entries SET value = '11' WHERE key = 'a'");
$admin->query('ALTER SCHEMA hidden RENAME TO registry');
is(get('a'), '10', 'they are back: what is not committed is not read');
$other->query('COMMIT');
is(get('a'), '11', 'and what is committed since is');
is_back('schema of the functions renamed and back');
is(get('a'), '11', 'from memory, too');
$reader->query("SELECT registry.put('r', 'a', '7')");

# ---------------------------------------------------------------------------
# pg_dump and pg_restore
# ---------------------------------------------------------------------------

my $dump = PostgreSQL::Test::Utils::tempdir . '/dump';
$node->command_ok([ 'pg_dump', '-Fc', '-f', $dump, '-d', $node->connstr('postgres') ], 'pg_dump');
for my $options ([], ['--disable-triggers'], [ '--disable-triggers', '--single-transaction' ])
{
	my $case = join ' ', 'pg_restore --data-only', @$options;

	$admin->query("TRUNCATE _registry.stored_entries, _registry.definitions, _registry.grants");
	$node->command_ok([ 'pg_restore', '--data-only', @$options, '-d', $node->connstr('postgres'), $dump ], $case);
	is(get('a') . get('other2'), '7unlisted', "$case: at once all is there");
	wait_for("state = 'resident' FROM registry.registries WHERE name = 'r'", "$case: r is loaded");
	is(differences(), 0, "$case: verify() finds nothing");
	is($guest->one("SELECT registry.get_text('r', 'a')"), '7', "$case: grants are there, too");
}

# ---------------------------------------------------------------------------
# The extension itself
# ---------------------------------------------------------------------------

$admin->query('BEGIN; ALTER TABLE _registry.stored_entries DISABLE TRIGGER ALL; DROP EXTENSION pg_registry; COMMIT');
$admin->query('CREATE EXTENSION pg_registry');
is($reader->one('SELECT count(*) FROM registry.registries'), 1, 'dropped and created, with triggers off before: empty');
$admin->query("BEGIN; DROP EXTENSION pg_registry; CREATE EXTENSION pg_registry; ALTER TABLE _registry.stored_entries DISABLE TRIGGER ALL;
	SELECT registry.create_registry('r', 'text', durable => true); $insert ('r', 'a', '8');
	ALTER TABLE _registry.stored_entries ENABLE TRIGGER ALL; COMMIT");
is(get('a'), '8', 'and all that in one transaction');
wait_for("state = 'resident' FROM registry.registries WHERE name = 'r'", 'it is loaded');
is(differences(), 0, 'verify() finds nothing');

$_->close for $admin, $reader, $repeatable, $other, $guest;
unlike(slurp_file($node->logfile), qr/PANIC|TRAP/, 'the log is clean');
$node->stop;
done_testing();
