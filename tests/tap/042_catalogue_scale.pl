# If this fails, the registries of others are paid for by everybody: with ten thousand of them, or a thousand
# databases, each read and each create_registry gets slower and slower.
#
# Nothing here measures time.  Test builds count the groups of tags that lookups search and the entries that builds
# of blocks copy.

use strict;
use warnings;

use FindBin;
use lib "$FindBin::RealBin/lib";

use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use RawProtocol;
use Test::More;

my $registries = 10_000;
my $databases = $ENV{PGR_DATABASES} // 30;

my $node = PostgreSQL::Test::Cluster->new('main');
$node->init;
# Copies of databases go through the log, which is quicker here than the checkpoints of the other strategy.
$node->append_conf(
	'postgresql.conf', q(
autovacuum = off
log_statement = none
max_locks_per_transaction = 256
wal_level = minimal
max_wal_senders = 0
max_wal_size = 256MB
pg_registry.shared_memory = '192MB'
));
$node->start;
my $setup = q(
	CREATE EXTENSION pg_registry;
	CREATE FUNCTION searched() RETURNS bigint LANGUAGE C VOLATILE AS 'pg_registry', 'pgr_sql_test_groups_searched';
	CREATE FUNCTION copied() RETURNS bigint LANGUAGE C VOLATILE AS 'pg_registry', 'pgr_sql_test_entries_copied';
);
$node->safe_psql('postgres', $setup);

my $s = RawProtocol->new($node, 'postgres');

sub one { return $s->one("SELECT $_[0]") }
sub available { return one("sum(bytes) FROM registry.memory WHERE part IN ('free', 'old versions')") }

# What a counter of the session's process grows by, while something is done.
sub counted
{
	my ($session, $counter, $sql) = @_;
	my $before = $session->one("SELECT $counter()");

	$session->query($sql) if $sql ne '';
	return $session->one("SELECT $counter()") - $before;
}

# In transactions of their own.
sub each_alone
{
	my ($what, $from, $to) = @_;
	return "DO \$\$ BEGIN FOR i IN $from .. $to LOOP PERFORM registry.$what; COMMIT; END LOOP; END \$\$";
}

my $create = "create_registry('r' || i, 'text', durable => false)";
my $drop = "drop_registry('r' || i)";

# Groups that one operation searches, on average, among so many registries.
sub searched_for_each
{
	my ($among, $sql) = @_;
	my $n = 1000;
	return counted($s, 'searched', sprintf($sql, "(SELECT 'r' || 1 + i % $among AS name, i FROM generate_series(1, $n) i) x")) / $n;
}

# name, statement, lookups that it takes
my @operations = (
	[ 'a read', "SELECT count(registry.get_text(name, 'k')) FROM %s", 3 ],
	[ 'a read of a registry that there is not', "SELECT count(registry.registry_exists(name || ' not')) FROM %s", 2 ],
	[ 'the number of entries', 'SELECT count(registry.entry_count(name)) FROM %s', 2 ],
);

my $empty = available();
my $made = 0;
for my $among (10, $registries)
{
	my $all = counted($s, 'copied', "SELECT count(registry.create_registry('r' || i, 'text', durable => false)) FROM generate_series($made + 1, $among) i");
	cmp_ok($all, '<=', $made, "creating many in one transaction copies what was there once, up to $among");
	$made = $among;
	if ($among == $registries)
	{
		my $bytes = ($empty - available()) / $among;
		note("an empty registry takes $bytes bytes");
		cmp_ok($bytes, '<', 1280, 'an empty registry takes about a kilobyte');
	}
	$s->query("SELECT registry.put('r' || i, 'k', 'v') FROM generate_series(1, 10) i");
	for my $operation (@operations)
	{
		my ($name, $sql, $lookups) = @$operation;
		my $each = searched_for_each($among, $sql);

		# Groups are at most half full, so a lookup rarely needs a second one.
		note("$name among $among: $each");
		cmp_ok($each, '>=', $lookups * 0.99, "$name among $among registries is counted");
		cmp_ok($each, '<=', $lookups * 1.2, 'and finds what it looks for at once');
	}
	my $each = counted($s, 'searched', each_alone("put('r' || i % 10 + 1, 'k', 'w')", 1, 500)) / 500;
	note("put among $among: $each");
	cmp_ok($each, '<=', 30, "a put among $among looks up what it needs");
}
is(one("count(*) FROM registry.registries WHERE name <> 'rates'"), $registries, "$registries registries are listed");
is(one("count(*) FROM registry.registries WHERE entries = 1"), 10, 'with what they hold');

# One more, or one less, copies no list of all: the directory is built anew once in a while, when it has grown.
for my $what ([ 'create_registry', $create ], [ 'drop_registry', $drop ])
{
	my ($name, $call) = @$what;
	my $copied = counted($s, 'copied', each_alone($call, $registries + 1, $registries + 1000));

	note("$name, 1000 times: $copied entries copied");
	cmp_ok($copied, '<', 3 * $registries, "a thousand times $name beside $registries others: next to nothing is copied");
	my $each = counted($s, 'searched', each_alone($call =~ s/'r'/'s'/r, 1, 500)) / 500;
	note("$name: $each groups searched");
	cmp_ok($each, '<=', 60, "$name looks up what it needs");
}
is(one("count(*) FROM registry.registries WHERE name <> 'rates'"), $registries, 'all that was created is dropped');

# There is an end to it: 65,536 slots, one each for the list of databases, for the rates, for rates in quarantine and for this database's list.
my $limit = 65_536 - 4;
is($s->sqlstate("SELECT registry.create_registry('r' || i, 'text', durable => false) FROM generate_series($registries + 1, $limit) i"), '', 'as many as there can be');
is($s->sqlstate("SELECT registry.create_registry('one more', 'text', durable => false)"), '54000', 'and not one more');
like($s->{error}{M}, qr/^there are too many registries/, 'which the message says');
is($s->sqlstate(each_alone($drop, $registries + 1, $limit)), '', 'those are dropped');

# All of them in one transaction; the locks of so many need room.
is($s->sqlstate("SELECT registry.put('r' || i, 'k', 'all') FROM generate_series(1, $registries) i"), '', 'one transaction changes them all');
is(one("count(*) FROM registry.registries WHERE entries = 1"), $registries, 'all have changed');
is($s->sqlstate("BEGIN; SELECT registry.drop_registry('r' || i) FROM generate_series(1, $registries) i; ROLLBACK"), '', 'another drops them, and is rolled back');

# The lot goes at once.
is($s->sqlstate('BEGIN; DROP EXTENSION pg_registry CASCADE; ROLLBACK'), '', 'DROP EXTENSION, rolled back');
is(one("registry.get_text('r5', 'k')"), 'all', 'they are still there');
is($s->sqlstate('DROP EXTENSION pg_registry'), '', 'DROP EXTENSION with ten thousand registries');
$s->query('CREATE EXTENSION pg_registry');
is(one("count(*) FROM registry.registries WHERE name <> 'rates'"), 0, 'a new extension starts empty');
# What was dropped is free when as much has come after it, or when it is needed.
$s->query("SELECT registry.create_registry('tick', 'text', durable => false)");
$s->query(each_alone("put('tick', 'k', i::text)", 1, 2 * $registries));
$s->query("SELECT registry.drop_registry('tick')");
# Pages of the root stay, of 256 registries each, and the new extension's empty list.
cmp_ok(available(), '>=', $empty - 258 * 1152 - 2048, 'all memory is free');
is(one('sum(bytes) FROM registry.memory'), 192 * 1024 * 1024, 'and accounted for');

# ---------------------------------------------------------------------------
# Many databases with a registry each
# ---------------------------------------------------------------------------

my $template = 'template0 STRATEGY wal_log';
my $before = available();
$s->query("CREATE DATABASE model TEMPLATE $template");
$node->safe_psql('model', $setup);
my @names = map { "d$_" } 1 .. $databases;
my ($copied, $searched) = (0, 0);
for my $name (@names)
{
	$s->query("CREATE DATABASE $name TEMPLATE model STRATEGY wal_log");
	my $guest = RawProtocol->new($node, $name);
	$copied += counted($guest, 'copied', "SELECT registry.create_registry('r', 'text', durable => false); SELECT registry.put('r', 'k', '$name')");
	$searched += counted($guest, 'searched', "SELECT registry.get_text('r', k) FROM unnest('{k,k,k,k,k,k,k,k,k,k}'::text[]) k");
	$guest->close;
}
note("$databases databases: $copied entries copied, $searched groups searched for ten reads in each");
# The list of databases is copied with each new one until it is long enough to be changed in place.
cmp_ok($copied, '<=', $databases * ($databases + 3), 'a first registry copies no more than the list of databases');
# three lookups for the first read, one for each of the others
cmp_ok($searched, '<=', $databases * 12 * 1.2, 'a read finds its database and its registry at once');
my $wrong = 0;
for my $name (@names[ grep { $_ % 10 == 0 } 0 .. $#names ])
{
	my $guest = RawProtocol->new($node, $name);
	$wrong++ if $guest->one("SELECT registry.get_text('r', 'k')") ne $name;
	$wrong++ if $guest->one("SELECT count(*) FROM registry.registries") != 2;
	$guest->close;
}
is($wrong, 0, 'each reads its own');
my $others = one("bytes FROM registry.memory WHERE part = 'registries of other databases'");
note("registries of other databases: $others bytes");
my $gone = int($databases / 3);
$s->query("DROP DATABASE $_ WITH (FORCE)") for @names[ 0 .. $gone - 1 ];
is(one("bytes FROM registry.memory WHERE part = 'registries of other databases'") * $databases, $others * ($databases - $gone), 'dropped databases give back their part');
is(RawProtocol->new($node, $names[-1])->one("SELECT registry.get_text('r', 'k')"), $names[-1], 'the others still read theirs');

$node->stop;
done_testing();
