# If this fails, a crash of one session leaves a server that does not come back or comes back without rates, a
# dead session holds memory for ever, or a full memory takes away reads and the way out of it.

use strict;
use warnings;

use FindBin;
use lib "$FindBin::RealBin/lib";

use FaultServer;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use RawProtocol;
use Test::More;

my $web = FaultServer->new(PostgreSQL::Test::Utils::tempdir);
$web->serve({ body => '{"amount":1.0,"base":"EUR","date":"2025-04-04","rates":{"GBP":0.84985,"USD":1.10570}}' });

my $node = PostgreSQL::Test::Cluster->new('main');
$node->init;
$node->append_conf(
	'postgresql.conf', qq(
restart_after_crash = on
autovacuum = off
pg_registry.rates_url = '@{[ $web->url ]}'
pg_registry.rates_max_value_age = 0
));
$node->start;
$node->safe_psql('postgres', 'CREATE EXTENSION pg_registry');

sub session { return RawProtocol->new($node, 'postgres') }
sub rates_come
{
	my ($when) = @_;
	ok($node->poll_query_until('postgres', "SELECT registry.rate('EUR', 'USD', missing_ok => true) = 1.1057 FROM registry.status() WHERE rates_successes > 0"),
		"rates are there $when");
	return;
}

# ---------------------------------------------------------------------------
# kill -9, stop -m immediate
# ---------------------------------------------------------------------------

my $lost = "SELECT entries, state FROM registry.registries WHERE name = 'r'";
my $fill = "SELECT registry.create_registry('r', 'text', durable => false, if_not_exists => true); SELECT registry.put('r', 'k', 'v')";

rates_come('at the start');
for my $what ('in the middle of a read', 'in the middle of a commit', 'while it holds changes')
{
	$node->safe_psql('postgres', $fill);
	my $victim = session();
	my $other = session();
	is($other->one("SELECT registry.get_text('r', 'k')"), 'v', "before: a registry ($what)");

	$victim->query('SET pg_registry.test_commit_delay = 60000');
	if ($what =~ /read/)
	{
		$victim->send("SELECT count(registry.get_text('r', 'k')) FROM (SELECT generate_series(1, 1000000000)) s");
		$node->poll_query_until('postgres', "SELECT count(*) = 1 FROM registry.readers WHERE pid = $victim->{pid}")
		  or die 'does not read';
	}
	elsif ($what =~ /commit/)
	{
		$victim->send("SELECT registry.put('r', 'k', 'w')");
		$node->poll_query_until('postgres', "SELECT bytes > 0 FROM registry.memory WHERE part = 'reserved by commits'")
		  or die 'does not commit';
	}
	else
	{
		$victim->query("BEGIN; SELECT registry.put('r', 'k', 'w')");
	}
	$other->send('SELECT pg_sleep(180)');
	kill 'KILL', $victim->{pid};
	$other->finish;
	like($other->{error}{C}, qr/^(57P02|closed)$/, "kill -9 $what: the server restarts");
	$victim->close;
	$node->poll_query_until('postgres', 'SELECT true') or die 'does not come back';
	rates_come("after kill -9 $what");
	is($node->safe_psql('postgres', $lost), '0|lost at restart', 'memory registries are empty and say so');
	is($node->safe_psql('postgres', 'SELECT count(*) FROM registry.readers WHERE pid <> pg_backend_pid()'), 0, 'and all pins');
	is($node->safe_psql('postgres', "SELECT sum(bytes) FROM registry.memory WHERE part IN ('uncommitted changes', 'reserved by commits', 'old versions') AND bytes > 100000"), '', 'nothing is left over');
}

$node->safe_psql('postgres', $fill);
$node->stop('immediate');
$node->start;
rates_come('after stop -m immediate');
is($node->safe_psql('postgres', $lost), '0|lost at restart', 'memory registries are empty and say so');
$node->poll_query_until('postgres', 'SELECT count(*) > 0 FROM registry.rate_sets') or die 'not stored';
$web->serve({ status => 503 });
$node->stop('immediate');
$node->start;
my ($status, $rate, $error) = $node->psql('postgres', "SELECT registry.rate('EUR', 'USD')");
is("$status$rate", '01.10570', 'a source that is down after a crash: the rates of the tables') or diag($error);

# ---------------------------------------------------------------------------
# Sessions that end while they pin
# ---------------------------------------------------------------------------

$node->append_conf('postgresql.conf', "pg_registry.shared_memory = '1MB'\npg_registry.rates_url = ''");
$node->restart;
my $admin = session();

sub one { return $admin->one("SELECT $_[0]") }
sub memory { return join(', ', map { "$_->[0] $_->[1]" } $admin->query('SELECT * FROM registry.memory')) }
sub total { return one('sum(bytes) FROM registry.memory') }
sub old { return one("bytes FROM registry.memory WHERE part = 'old versions'") }

# What is free, or will be when the next batch of old versions is reclaimed.
sub available
{
	return one("sum(bytes) FROM registry.memory WHERE part IN ('free', 'old versions')");
}

# Publishes until that has happened, or long enough for it to happen.
sub reclaimed
{
	my ($limit) = @_;
	for (1 .. 400)
	{
		$admin->query("SELECT registry.put('tick', 'k', 'x')");
		return 1 if old() <= $limit;
	}
	return 0;
}

is(total(), 1024 * 1024, 'the parts of registry.memory are all of pg_registry.shared_memory');
$admin->query("SELECT registry.drop_registry('r')");
$admin->query("SELECT registry.create_registry('tick', 'text', durable => false)");
$admin->query("SELECT registry.create_registry('r', 'text', durable => false)");
$admin->query("SELECT registry.put_many('r', (SELECT jsonb_object_agg('k' || g, repeat('x', 100)) FROM generate_series(1, 300) g))");
my $before = available();
for my $how ('pg_terminate_backend', 'connection closed')
{
	my $reader = session();
	$reader->query('BEGIN ISOLATION LEVEL REPEATABLE READ');
	$reader->query("SELECT registry.get_text('r', 'k1')");
	$reader->query("DECLARE c$_ CURSOR FOR SELECT registry.get_text('r', 'k1'); FETCH c$_") for 1 .. 3;
	$admin->query("SELECT registry.put('r', 'k1', 'changed')");
	is(one("count(*) FROM registry.readers WHERE pid = $reader->{pid}"), 1, "an idle transaction pins ($how)");
	ok(!reclaimed(20_000), 'and holds memory');
	if ($how eq 'pg_terminate_backend')
	{
		$admin->query("SELECT pg_terminate_backend($reader->{pid})");
		$reader->read_to('Z');
		is($reader->{error}{C}, '57P01', 'it is told');
	}
	$reader->close;
	ok($node->poll_query_until('postgres', "SELECT count(*) = 0 FROM registry.readers WHERE pid = $reader->{pid}"), 'its pin is gone');
	ok(reclaimed(20_000), 'and what it held') or diag(memory());
}

# A session that ends with changes and with many cursors.
{
	my $reader = session();
	$reader->query("SELECT registry.create_registry('other', 'text', durable => false)");
	my $changes = available();
	$reader->query("BEGIN; SELECT registry.put('other', 'p' || g, repeat('y', 100)) FROM generate_series(1, 100) g");
	$reader->query("DECLARE c$_ CURSOR FOR SELECT registry.get_text('r', 'k1')") for 1 .. 40;
	for my $c (1 .. 40)
	{
		$admin->query("SELECT registry.put('tick', 'k', 'x')");
		$reader->query("FETCH c$c");
	}
	cmp_ok(one("count(*) FROM registry.readers WHERE pid = $reader->{pid}"), '>', 10, 'cursors of many generations');
	$admin->query("SELECT pg_terminate_backend($reader->{pid})");
	ok($node->poll_query_until('postgres', "SELECT count(*) = 0 FROM registry.readers WHERE pid = $reader->{pid}"), 'their pins are gone with the session');
	ok($node->poll_query_until('postgres', "SELECT bytes = 0 FROM registry.memory WHERE part = 'uncommitted changes'"), 'its changes too');
	ok(reclaimed(8192), 'and all that they held') or diag(memory());
	is(available(), $changes, 'to the last byte') or diag(memory());
	$admin->query("SELECT registry.drop_registry('other')");
}

# ---------------------------------------------------------------------------
# A full arena
# ---------------------------------------------------------------------------

$admin->query("SELECT registry.drop_registry('r')");
$admin->query("SELECT registry.create_registry('r', 'text', durable => false)");
$admin->query("SELECT registry.create_registry('small', 'text', durable => false)");
$admin->query("SELECT registry.put('small', 'k', 'v')");

$admin->query("SELECT registry.create_registry('tiny', 'text', durable => false)");
$admin->query("SELECT registry.put('tiny', 'k' || g, 'v') FROM generate_series(1, 20) g");
my $pinning = session();
$pinning->query("BEGIN ISOLATION LEVEL REPEATABLE READ; SELECT registry.get_text('small', 'k')");
my $n = 0;
while ($n < 10_000)
{
	my $state = $admin->sqlstate("SELECT registry.put('r', 'key ' || g, repeat('x', 200)) FROM generate_series($n + 1, $n + 50) g");
	last if $state ne '';
	$n += 50;
}
my %error = %{ $admin->{error} // {} };
is($error{C}, '53200', "the arena is full after $n entries");
like($error{M}, qr/^out of shared memory for pg_registry/, 'the message');
like($error{D}, qr/Of 10\d{5} bytes, \d+ are used/, 'DETAIL: usage');
like($error{D}, qr/largest registry "r" takes \d+ bytes/, 'DETAIL: the largest registry');
like($error{D}, qr/process $pinning->{pid} pins generation \d+ since /, 'DETAIL: who pins what');
like($error{H}, qr/registry\.memory and registry\.readers/, 'HINT: where to look');
is(one("registry.entry_count('r')"), $n, 'the previous state stays, whole');
is(one("count(*) FROM registry.entries('r') WHERE value = to_jsonb(repeat('x', 200))"), $n, 'and readable');
is($pinning->one("SELECT registry.get_text('small', 'k')"), 'v', 'reads go on');
is(one("bytes FROM registry.memory WHERE part = 'uncommitted changes'"), 0, 'nothing of the failed put is left');

# Fill it to the last byte, with puts that get smaller.
my $full = '';
for my $size (200, 50, 1, 1, 1)
{
	for (1 .. 5000)
	{
		$full = $admin->sqlstate("SELECT registry.put('small', 'filler ' || registry.entry_count('small'), repeat('x', $size))");
		last if $full ne '';
	}
}
is($full, '53200', 'not even one more entry fits');
{
	my @readers = map { session() } 1 .. 5;
	my $values = join(',', map { $_->query('BEGIN'); $_->one("SELECT registry.get_text('r', 'key 1') = repeat('x', 200)") } @readers);
	is($values, 't,t,t,t,t', 'new readers read in a full arena');
	$_->query("DECLARE c CURSOR FOR SELECT registry.get_text('r', 'key 1'); FETCH c") for @readers;
	$_->query('COMMIT') for @readers;
}
is($admin->sqlstate("SELECT registry.delete('tiny', 'k' || g) FROM generate_series(1, 5) g"), '', 'deleting works in a full arena');
is(one("registry.entry_count('tiny')"), 15, 'and takes effect');
is($admin->sqlstate("SELECT registry.drop_registry('r')"), '', 'so does dropping the largest registry');
is(one("registry.registry_exists('r')"), 'f', 'it is gone');
is($admin->sqlstate("SELECT registry.put('tiny', 'k', 'w')"), '', 'and puts work again, before the old versions are let go');
is($pinning->one("SELECT registry.get_text('tiny', 'k1') || coalesce(registry.get_text('small', 'filler 1'), ' and nothing new')"),
	'v and nothing new', 'who still reads those');
$pinning->query('COMMIT');
is($admin->sqlstate("SELECT registry.create_registry('r', 'text', durable => false); SELECT registry.put('r', 'k', repeat('x', 100000))"), '',
	'after that there is room');
is(one("length(registry.get_text('r', 'k'))"), 100000, 'for new entries');
$admin->query("SELECT registry.drop_registry('$_')") for qw(r small tiny);

# One transaction that does not fit, and its savepoints.
$admin->query("SELECT registry.create_registry('r', 'text', durable => false)");
$before = available();
$admin->query("BEGIN; SELECT registry.put('r', 'a', 'v'); SAVEPOINT s");
is($admin->sqlstate("SELECT registry.put('r', 'b' || g, repeat('x', 1000)) FROM generate_series(1, 2000) g"), '53200', 'too much for one transaction');
$admin->query('ROLLBACK TO s');
is($admin->sqlstate("SELECT registry.put('r', 'c', 'v'); COMMIT"), '', 'it goes on from its savepoint');
is(one("string_agg(key, ' ' ORDER BY key) FROM registry.entries('r')"), 'a c', 'and commits the rest');
# Fits while it is not committed; the copy that its commit needs does not.
$admin->query("SELECT registry.create_registry('filler', 'text', durable => false)");
$admin->query("SELECT registry.put('filler', 'k', repeat('x', 300000))");
$admin->query("BEGIN; SELECT registry.put('r', 'd' || g, repeat('x', 1000)) FROM generate_series(1, 400) g");
is($admin->sqlstate('COMMIT'), '53200', 'a commit that does not fit fails');
is(one("string_agg(key, ' ' ORDER BY key) FROM registry.entries('r')"), 'a c', 'and changes nothing');
$admin->query("SELECT registry.drop_registry('filler')");
$admin->query("SELECT registry.delete('r', k) FROM unnest('{a,c}'::text[]) k");
cmp_ok(abs(available() - $before), '<=', 256, 'nor does it leave anything behind') or diag(memory());
$admin->query("SELECT registry.drop_registry('r')");

# ---------------------------------------------------------------------------
# Nothing leaks
# ---------------------------------------------------------------------------

my $start = available();
note('at the start: ' . memory());
my $cycles = "DO \$\$
	BEGIN
		FOR i IN 1 .. %d
		LOOP
			PERFORM registry.create_registry('cycle ' || i % 7, 'jsonb', durable => false);
			PERFORM registry.put('cycle ' || i % 7, 'k' || j, to_jsonb(repeat('x', i % 300))) FROM generate_series(1, i % 20) j;
			%s
			PERFORM registry.drop_registry('cycle ' || i % 7);
			%s
		END LOOP;
	END \$\$";
my @patterns = (
	[ 'create and drop in one transaction', sprintf($cycles, 100, '', '') ],
	[ 'create, commit, drop, commit', sprintf($cycles, 1000, 'COMMIT;', 'COMMIT;') ],
	[ 'create and drop, rolled back', sprintf($cycles, 1000, '', 'ROLLBACK;') ],
	[
		'savepoints, rolled back', "DO \$\$
		BEGIN
			PERFORM registry.create_registry('s', 'bigint', durable => false);
			FOR i IN 1 .. 1000
			LOOP
				BEGIN
					PERFORM registry.put('s', 'k' || i % 50, i);
					BEGIN
						PERFORM registry.put('s', 'n' || i % 50, i);
						PERFORM registry.delete('s', 'k' || i % 50);
						IF i % 2 = 0 THEN RAISE EXCEPTION 'inner'; END IF;
					EXCEPTION WHEN raise_exception THEN NULL;
					END;
					IF i % 3 = 0 THEN RAISE EXCEPTION 'outer'; END IF;
				EXCEPTION WHEN raise_exception THEN NULL;
				END;
				IF i % 100 = 0 THEN COMMIT; END IF;
			END LOOP;
			PERFORM registry.drop_registry('s');
		END \$\$"
	],
	[
		'commits that fail', "DO \$\$
		BEGIN
			FOR i IN 1 .. 300
			LOOP
				BEGIN
					PERFORM registry.create_registry('failed', 'text', durable => false);
					PERFORM registry.put('failed', 'k', 'v');
					INSERT INTO unique_at_commit VALUES (1), (1);
					SET CONSTRAINTS ALL IMMEDIATE;
				EXCEPTION WHEN unique_violation THEN NULL;
				END;
			END LOOP;
		END \$\$"
	],
	[ 'rates, set and rolled back', "BEGIN; SELECT registry.set_rates('EUR', '{\"USD\": 2, \"GBP\": 3}'); ROLLBACK" ],
	[ 'drop and create again', "BEGIN; SELECT registry.create_registry('again', 'text', durable => false); SELECT registry.put('again', 'k', 'v'); COMMIT;
		BEGIN; SELECT registry.drop_registry('again'); SELECT registry.create_registry('again', 'bigint', durable => false); SELECT registry.put('again', 'k', 1);
		SELECT registry.drop_registry('again'); SELECT registry.create_registry('again', 'float8', durable => false); COMMIT;
		SELECT registry.drop_registry('again')" ],
);
$admin->query('CREATE TABLE unique_at_commit (id int UNIQUE DEFERRABLE INITIALLY DEFERRED)');
for my $pattern (@patterns)
{
	my ($name, $sql) = @$pattern;

	is($admin->sqlstate($sql), '', $name) or diag($admin->{error}{M});
	is(available(), $start, "$name: all memory comes back") or diag(memory());
	is(total(), 1024 * 1024, "$name: and all of it is accounted for");
}

# A commit that fails after our reservation, by a serialization failure that PostgreSQL finds in PRE_COMMIT, or by a
# deferred constraint before it.
for my $round (1 .. 50)
{
	$admin->query("BEGIN; SELECT registry.create_registry('failed', 'text', durable => false); SELECT registry.put('failed', 'k', 'v')");
	$admin->query('INSERT INTO unique_at_commit VALUES (1), (1)');
	die 'commits' if $admin->sqlstate('COMMIT') ne '23505';
}
$admin->query('CREATE TABLE t AS SELECT 1 AS x');
my $other = session();
my $failed = 0;
for my $round (1 .. 20)
{
	for my $s ($admin, $other)
	{
		$s->query('BEGIN ISOLATION LEVEL SERIALIZABLE');
		$s->query('SELECT sum(x) FROM t');
	}
	for my $s ($admin, $other)
	{
		$s->query('INSERT INTO t VALUES (2)');
		$s->query("SELECT registry.set_rates('EUR', '{\"USD\": 2}')") if $s == $other;
		$s->query("SELECT registry.create_registry('w', 'text', durable => false)") if $s == $admin;
	}
	for my $s ($admin, $other)
	{
		$failed++ if $s->sqlstate('COMMIT') eq '40001';
	}
	$admin->sqlstate("SELECT registry.drop_registry('w', if_exists => true)");
}
cmp_ok($failed, '>=', 20, 'serialization failures at commit');
$admin->query('TRUNCATE t');
is($admin->sqlstate("BEGIN; SELECT registry.set_rates('EUR', '{\"USD\": 2}'); ROLLBACK"), '', 'a last set of rates, rolled back');
cmp_ok($start - available(), '<', 4096, 'failed commits leave nothing behind, but the rates of those that succeeded') or diag(memory());
is(one("sum(bytes) FROM registry.memory WHERE part IN ('uncommitted changes', 'reserved by commits')"), 0, 'and no reservation');

$node->stop;
done_testing();
