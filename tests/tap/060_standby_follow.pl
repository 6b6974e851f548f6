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
restart_after_crash = on
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
	INSERT INTO _registry.stored_entries SELECT 'large', n, n FROM generate_series(1, $large) n;
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
	FULL JOIN (SELECT key, value FROM _registry.stored_entries WHERE registry = '%1$s') t USING (key)
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
	[ 'DML', "INSERT INTO _registry.stored_entries VALUES ('r', 'e', '5')", "registry.get_text('r', 'e') = '5'" ],
	[ 'an update of a key', "UPDATE _registry.stored_entries SET key = 'f' WHERE registry = 'r' AND key = 'e'", "registry.get_text('r', 'f') = '5' AND registry.get_text('r', 'e') IS NULL" ],
	[ 'very many keys', "SELECT registry.put('r', n::text, 'n') FROM generate_series(1, 3000) n", "registry.entry_count('r') = 3001" ],
	[ 'a large key and value', "SELECT registry.put('r', repeat('k', 900), repeat('v', 20000))", "length(registry.get_text('r', repeat('k', 900))) = 20000" ],
	[ 'expiry', "SELECT registry.put('r', 'soon', 'x', ttl => '1 hour')", "registry.get_text('r', 'soon') = 'x'" ],
	[ 'another definition', q(SELECT registry.alter_registry('r', '{"max_age": "1 day"}')), "max_age = '1 day' FROM registry.registries WHERE name = 'r'" ],
	[ 'a new registry', "SELECT registry.create_registry('new', 'text', durable => true); SELECT registry.put('new', 'k', 'v')", "registry.get_text('new', 'k') = 'v' WHERE registry.registry_exists('new')" ],
	[ 'another name', q(SELECT registry.alter_registry('new', '{"name": "newer"}'); SELECT registry.put('newer', 'k', 'w')), "NOT registry.registry_exists('new') AND registry.get_text('newer', 'k') = 'w' WHERE registry.registry_exists('newer')" ],
	[ 'dropped and created again', "BEGIN; SELECT registry.drop_registry('newer'); SELECT registry.create_registry('newer', 'bigint', durable => true); SELECT registry.put('newer', 'n', '7'); COMMIT", "registry.get_bigint('newer', 'n') = 7 AND value_type = 'bigint' FROM registry.registries WHERE name = 'newer'" ],
	[ 'dropped', "SELECT registry.drop_registry('newer')", "NOT registry.registry_exists('newer')" ],
	[ 'a memory registry', "SELECT registry.create_registry('m2', 'text', durable => false)", "registry.registry_exists('m2')" ],
);

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

# One key of a million is read, and nothing else.
my %before = map { $_ => follow($_) } qw(keys reloads);
$p->query("SELECT registry.put('large', '777777', -1)");
wait_here("registry.get_bigint('large', 777777) = -1", 'a change of one key of a million');
is(follow('keys') - $before{keys}, 1, 'one key was read');
is(follow('reloads') - $before{reloads}, 0, 'and no registry as a whole');

# ---------------------------------------------------------------------------
# Transactions
# ---------------------------------------------------------------------------

$p->query($_)
  for 'BEGIN', "SELECT registry.put('r', 'kept', '1')", 'SAVEPOINT s', "SELECT registry.put('r', 'undone', '1')",
  "SELECT registry.clear('other')", 'ROLLBACK TO s', "SELECT registry.put('r', 'later', '1')", 'COMMIT';
wait_here("registry.get_text('r', 'later') = '1'", 'a transaction with savepoints');
is(here("registry.get_text('r', 'kept')"), 1, 'what it kept');
is(here("registry.get_text('r', 'undone') IS NULL"), 't', 'but not what it undid');

# Whoever wrote first commits last.
my $early = RawProtocol->new($primary, 'postgres');
$early->query('BEGIN');
$early->query("SELECT registry.put('r', 'early', 'x')");
$p->query('BEGIN');
$p->query("SELECT registry.put('r', 'late', 'x')");
$p->query("SELECT registry.put('other', 'late', 'x')");
$p->query('COMMIT');
wait_here("registry.get_text('r', 'late') = 'x' AND registry.get_text('other', 'late') = 'x'", 'the one that began later, and committed first');
is(here("registry.get_text('r', 'early') IS NULL"), 't', 'not yet the other one');
$p->query("SELECT registry.put('r', 'n', n::text) FROM generate_series(1, 100) n");
wait_here("registry.get_text('r', 'n') = '100'", 'others go on');
$early->query('COMMIT');
wait_here("registry.get_text('r', 'early') = 'x'", 'then the one that began first');

# Two registries of one transaction are seen together.
my $stop = 0;
my $torn = 0;
my $pairs = RawProtocol->new($primary, 'postgres');
$pairs->query("CREATE PROCEDURE pairs(n int) LANGUAGE plpgsql AS \$\$ BEGIN FOR i IN 1 .. n LOOP
	PERFORM registry.put('r', 'pair', i::text), registry.put('other', 'pair', i::text), registry.put('large', 'pair', i); COMMIT; END LOOP; END \$\$");
$pairs->send('CALL pairs(20000)');
for (1 .. 100_000)
{
	my ($row) = $s->query("SELECT registry.get_text('r', 'pair'), registry.get_text('other', 'pair'), registry.get_bigint('large', 'pair')");

	$torn++ if ($row->[0] // 0) != ($row->[1] // 0) || ($row->[0] // 0) != ($row->[2] // 0);
	last if ($row->[0] // 0) == 20000;
}
$pairs->finish;
is($torn, 0, 'three registries that change together are read together');
wait_here("registry.get_text('r', 'pair') = '20000'", 'up to the end');
is(state_of('large'), 'resident', 'from memory');

# ---------------------------------------------------------------------------
# States
# ---------------------------------------------------------------------------

# While replay is paused, nothing changes, however often it is looked at.
$s->query('SELECT pg_wal_replay_pause()');
wait_here("pg_get_wal_replay_pause_state() = 'paused'", 'replay is paused');
$p->query("SELECT registry.put('r', 'paused', 'x')");
my $polls = follow('polls') + 5;
wait_here("(follow_state()::json ->> 'polls')::int >= $polls", 'the follower looks');
is(here("registry.get_text('r', 'paused') IS NULL"), 't', 'and what has not been replayed is not there');
$s->query('SELECT pg_wal_replay_resume()');
wait_here("registry.get_text('r', 'paused') = 'x'", 'then it is');

my $old = RawProtocol->new($standby, 'postgres');
$old->query('BEGIN ISOLATION LEVEL REPEATABLE READ');
is($old->one("SELECT registry.get_text('r', 'rr') IS NULL"), 't', 'a transaction reads');
$p->query("SELECT registry.put('r', 'rr', 'x')");
wait_here("registry.get_text('r', 'rr') = 'x'", 'something is replayed');
is($old->one("SELECT registry.get_text('r', 'rr') IS NULL"), 't', 'it reads the same');
$old->query('COMMIT');
is($old->one("SELECT registry.get_text('r', 'rr')"), 'x', 'and the next one what is new');

# From the commit, and from replay, to what reads on the standby find.  The first is the figure of docs/benchmarks.md.
my (@from_commit, @from_replay);
for my $i (1 .. 50)
{
	my $lsn = $p->one("SELECT registry.put('r', 'timed', '$i')::text || pg_current_wal_insert_lsn()");
	my $committed = time;

	while (here("pg_last_wal_replay_lsn() >= '$lsn'") ne 't') { }
	my $replayed = time;
	while ((here("registry.get_text('r', 'timed')") // '') ne $i) { }
	push @from_commit, time - $committed;
	push @from_replay, time - $replayed;
}
for my $case ([ 'commit', \@from_commit ], [ 'replay', \@from_replay ])
{
	my ($name, $times) = @$case;
	my @sorted = sort { $a <=> $b } @$times;

	note(sprintf 'from %s to readable: %.0f ms, median of %d; %.0f ms at most', $name, 1000 * $sorted[@sorted / 2], scalar @sorted, 1000 * $sorted[-1]);
}
cmp_ok((sort { $a <=> $b } @from_replay)[-1], '<', 1, 'readable within a second of replay');

# ---------------------------------------------------------------------------
# Without a follower
# ---------------------------------------------------------------------------

# One that is stuck: reads notice, and use the table, until it goes on.
my $follower = follow('pid');
kill 'STOP', $follower;
$p->query("SELECT registry.put('r', 'stuck', 'x')");
wait_here("registry.get_text('r', 'stuck') = 'x'", 'the follower is stopped: a change is readable');
is(state_of('r'), 'from table', 'in the table');
is(here('max(registry.get_bigint(\'large\', n)) FROM generate_series(1, 10) n'), 10, 'a statement with many reads');

# Meanwhile the primary forgets what it has logged.
$primary->append_conf('postgresql.conf', "pg_registry.test_log_retention = '1ms'");
$primary->reload;
while ($p->one("SELECT current_setting('pg_registry.test_log_retention')") ne '1ms') { }
$p->query('CREATE PROCEDURE puts(n int) LANGUAGE plpgsql AS $$ BEGIN FOR i IN 1 .. n LOOP
	PERFORM registry.put(\'r\', \'p\' || i % 10, i::text); COMMIT; END LOOP; END $$');
$p->query('CALL puts(30000)');
cmp_ok($p->one('SELECT count(*) FROM _registry.changes'), '<', 10000, 'the log does not grow for ever');
is($p->one("SELECT count(*) > 0 FROM _registry.changes WHERE registry = ''"), 't', 'it says how far it reaches back');
$primary->append_conf('postgresql.conf', "pg_registry.test_log_retention = 0");
$primary->reload;
$before{reloads} = follow('reloads');
kill 'CONT', $follower;
wait_here("state = 'resident' FROM registry.registries WHERE name = 'r'", 'the follower goes on');
is(follow('pid'), $follower, 'the same');
cmp_ok(follow('reloads'), '>', $before{reloads}, 'what the log does not tell it reads as a whole');
wait_here("registry.get_text('r', 'p0') = '30000'", 'nothing is missed');
is_same($_, "$_ is the same as its table") for qw(r other);

# REINDEX CONCURRENTLY has a second index for a while.
$primary->safe_psql('postgres', 'REINDEX INDEX CONCURRENTLY _registry.changes_written_by');
$p->query("SELECT registry.put('r', 'reindexed', 'x')");
wait_here("registry.get_text('r', 'reindexed') = 'x'", 'the log has another index');

# What the trigger does not see is told by reload().
$p->query($_) for 'ALTER TABLE _registry.stored_entries DISABLE TRIGGER changed',
  "UPDATE _registry.stored_entries SET value = 'secretly' WHERE registry = 'r' AND key = 'reindexed'",
  'ALTER TABLE _registry.stored_entries ENABLE ALWAYS TRIGGER changed', "SELECT registry.reload('r')";
wait_here("registry.get_text('r', 'reindexed') = 'secretly'", 'reload() of the primary is one of its standbys');

# Nobody else writes the log.
$p->query("INSERT INTO _registry.changes VALUES ('1000000000', '', '{999999999}')");
is($p->one("SELECT count(*) FROM _registry.changes WHERE written_by >= '1000000000'"), 0, 'rows of others are dropped');

# One that is terminated has a successor.
here("pg_terminate_backend($follower)");
is(here("registry.get_text('r', 'p0')"), '30000', 'the follower is terminated: reads go on');
wait_here("(follow_state()::json ->> 'pid')::int NOT IN (0, $follower) AND state = 'resident' FROM registry.registries WHERE name = 'large'", 'another one');

# ---------------------------------------------------------------------------
# DROP DATABASE, DROP EXTENSION
# ---------------------------------------------------------------------------

my $database_sql = "CREATE EXTENSION pg_registry; SELECT registry.create_registry('s', 'text', durable => true); SELECT registry.put('s', 'k', 'v')";
$primary->safe_psql('postgres', 'CREATE DATABASE shop');
$primary->safe_psql('shop', $database_sql);
$primary->wait_for_catchup($standby);
my $state = "SELECT state FROM registry.registries WHERE name = 's' AND registry.get_text('s', 'k') = 'v'";
ok($standby->poll_query_until('shop', $state, 'resident'), 'another database has a follower when somebody reads');
my $offset = -s $standby->logfile;
$primary->safe_psql('postgres', 'DROP DATABASE shop');
$primary->wait_for_catchup($standby);
wait_here("count(*) = 1 FROM pg_stat_activity WHERE backend_type = 'pg_registry follower'", 'DROP DATABASE ends its follower');
unlike(substr(slurp_file($standby->logfile), $offset), qr/(FATAL|ERROR|WARNING|exited with exit code 1)/, 'without a word');
is(here("count(*) FROM registry.registries WHERE name = 's'"), 0, 'and nothing of it is here');

$primary->safe_psql('postgres', 'CREATE DATABASE shop');
$primary->safe_psql('shop', $database_sql);
$primary->wait_for_catchup($standby);
ok($standby->poll_query_until('shop', $state, 'resident'), 'a database of the same name');
# TRUNCATE there, so that the million stays.
$primary->safe_psql('shop', "BEGIN; SELECT registry.put('s', 'k', 'x'); TRUNCATE _registry.stored_entries; SELECT registry.put('s', 'l', 'y'); COMMIT");
$primary->wait_for_catchup($standby);
ok($standby->poll_query_until('shop', "SELECT state FROM registry.registries WHERE name = 's' AND entries = 1 AND registry.get_text('s', 'l') = 'y'", 'resident'),
	'TRUNCATE');
$primary->safe_psql('shop', "DROP EXTENSION pg_registry; $database_sql; SELECT registry.put('s', 'k', 'w')");
$primary->wait_for_catchup($standby);
ok($standby->poll_query_until('shop', "SELECT state FROM registry.registries WHERE name = 's' AND registry.get_text('s', 'k') = 'w'", 'resident'),
	'an extension that is dropped and created again');

# ---------------------------------------------------------------------------
# kill -9, and less memory
# ---------------------------------------------------------------------------

$offset = -s $standby->logfile;
kill 'KILL', here('pg_backend_pid()');
$standby->wait_for_log(qr/ready to accept read-only connections/, $offset);
$s = RawProtocol->new($standby, 'postgres');
is(here("registry.get_text('r', 'p0')"), '30000', 'kill -9 of a session: reads are right at once');
wait_here("state = 'resident' FROM registry.registries WHERE name = 'large'", 'and in memory again');

$standby->append_conf('postgresql.conf', "pg_registry.shared_memory = '16MB'");
$standby->restart;
$s = RawProtocol->new($standby, 'postgres');
wait_here("NOT (follow_state()::json ->> 'lags')::boolean", 'a standby with less memory');
is(state_of('r'), 'resident', 'what has room is in memory');
is(state_of('large'), 'from table', 'and what has none in the table');
$p->query("SELECT registry.put('large', '5', -5), registry.put('r', 'less', 'x')");
wait_here("registry.get_bigint('large', 5) = -5 AND registry.get_text('r', 'less') = 'x'", 'both are followed');
$standby->append_conf('postgresql.conf', "pg_registry.shared_memory = '384MB'\nshared_preload_libraries = ''");
$standby->restart;
my ($status, $out, $err) = $standby->psql('postgres', "SELECT registry.get_text('r', 'less'), registry.get_bigint('large', 5), registry.entry_count('large')");
is("$status $out", '0 x|-5|' . ($large + 1), 'a standby without preload reads the tables');
is(scalar(() = $err =~ /WARNING/g), 1, 'and says so once');
like($err, qr/shared_preload_libraries = 'pg_registry'/, 'with what to do');
$standby->append_conf('postgresql.conf', "shared_preload_libraries = 'pg_registry'");
$standby->restart;

# A primary that has not preloaded us can be changed by DML only.
$primary->append_conf('postgresql.conf', "shared_preload_libraries = ''");
$primary->restart;
$primary->safe_psql('postgres', "UPDATE _registry.stored_entries SET value = 'plain' WHERE registry = 'r' AND key = 'less';
	UPDATE _registry.definitions SET on_stale = 'error' WHERE name = 'other'");
$s = RawProtocol->new($standby, 'postgres');
wait_here("registry.get_text('r', 'less') = 'plain'", 'a primary without preload: DML is followed');
wait_here("state = 'resident' FROM registry.registries WHERE name = 'other'", 'in memory');
is(here("on_stale FROM registry.registries WHERE name = 'other'"), 'error', 'definitions, too');
$primary->append_conf('postgresql.conf', "shared_preload_libraries = 'pg_registry'");
$primary->restart;
$p = RawProtocol->new($primary, 'postgres');
$pairs = RawProtocol->new($primary, 'postgres');
$p->query("UPDATE _registry.definitions SET on_stale = 'serve' WHERE name = 'other'");

# ---------------------------------------------------------------------------
# Promotion
# ---------------------------------------------------------------------------

$standby->backup('cascade');
my $last = PostgreSQL::Test::Cluster->new('last');
$last->init_from_backup($standby, 'cascade', has_streaming => 1);
$last->start;
$s = RawProtocol->new($last, 'postgres');
wait_here("state = 'resident' FROM registry.registries WHERE name = 'large'", 'a standby of a standby');
$p->query("SELECT registry.put('r', 'cascade', 'x')");
wait_here("registry.get_text('r', 'cascade') = 'x'", 'follows, too');

my $verified = "SELECT count(*) FROM registry.registries r, registry.verify(r.name) WHERE r.name IN ('r', 'other', 'large')";

# The primary dies in the middle of changes; writers of the promoted server try from the first moment.
$s = RawProtocol->new($standby, 'postgres');
wait_here("state = 'resident' FROM registry.registries WHERE name = 'large'", 'before the promotion');
$pairs->send('CALL pairs(100000)');
wait_here("registry.get_text('r', 'pair') <> '20000'", 'changes are on their way');
$primary->stop('immediate');
my $writer = RawProtocol->new($standby, 'postgres');
is($writer->sqlstate("SELECT registry.put('r', 'w', '0')"), '25006', 'no writes yet');
here('pg_promote(false)');
my $wrong = 0;
for my $i (1 .. 2000)
{
	while ($writer->sqlstate("SELECT registry.put('r', 'w', '$i'), registry.put('memory', 'w', '$i')") eq '25006') { }
	$wrong++ if $writer->{error};
	$wrong++ if here("registry.get_text('r', 'w')") ne $i || here("registry.get_text('memory', 'w')") ne $i;
	$wrong++ if $writer->one("SELECT registry.get_text('r', 'w')") ne $i;
}
is($wrong, 0, 'each acknowledged change is readable at once');
wait_here("follow_state() IS NULL AND state = 'resident' FROM registry.registries WHERE name = 'large'", 'and then everything is in memory');
is($s->one($verified), 0, 'as it is in the tables');
is_same('r', 'reads too');
is(here("registry.get_text('r', 'pair') = registry.get_text('other', 'pair') AND registry.get_text('r', 'pair')::bigint = registry.get_bigint('large', 'pair')"),
	't', 'with the last whole transaction of the primary');

# The last one is promoted in peace: what it has in memory stays there.
$p = RawProtocol->new($standby, 'postgres');
$p->query("SELECT registry.put('r', 'timeline', '2')");
$s = RawProtocol->new($last, 'postgres');
wait_here("registry.get_text('r', 'timeline') = '2'", 'the standby of the promoted server follows it');
is(here("registry.get_text('r', 'w')"), '2000', 'all of it');
wait_here("state = 'resident' FROM registry.registries WHERE name = 'large'", 'from memory');
$p->query("SELECT registry.put('large', '1', -1), registry.put('r', 'final', 'x')");
$standby->wait_for_catchup($last);
$standby->stop('immediate');
$offset = -s $last->logfile;
$last->promote;
wait_here('NOT pg_is_in_recovery() AND follow_state() IS NULL', 'promoted, the follower ends');
is(state_of('large'), 'resident', 'what it has followed stays in memory');
is($s->one($verified), 0, 'as it is in the tables');
is(here("registry.get_bigint('large', 1)"), -1, 'with the last change');
is($s->sqlstate("SELECT registry.put('large', '1', 1)"), '', 'and is changed there');
is(here("registry.get_bigint('large', 1)"), 1, 'from now on');
is($s->one($verified), 0, 'as in the tables');
unlike(substr(slurp_file($last->logfile), $offset), qr/(WARNING|PANIC|exited with exit code 1.*follower)/, 'all that in peace');

$last->stop;
done_testing();
