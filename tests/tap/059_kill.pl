# If this fails, a server that is killed forgets a commit that it had acknowledged, keeps half of a transaction, or its
# image and its tables tell different stories (D-1, W-1).
#
# Writers, a reader and loads, while a process of the cluster is killed by SIGKILL, again and again: a backend, the
# scheduler, a worker, a process of PostgreSQL's own, the postmaster.  KILLS=n for more than a hundred, SEED=n to repeat.

use strict;
use warnings;

use FindBin;
use lib "$FindBin::RealBin/lib";

use POSIX qw(_exit);
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use RawProtocol;
use Test::More;
use Time::HiRes qw(usleep);

my $kills = $ENV{PGR_KILLS} || 100;
my $seed = $ENV{PGR_SEED} || time;
my $writers = 3;
my $folder = PostgreSQL::Test::Utils::tempdir();

srand $seed;
note("SEED=$seed");

my $node = PostgreSQL::Test::Cluster->new('main');
$node->init;
$node->append_conf('postgresql.conf', "autovacuum = off\nlog_statement = none\nrestart_after_crash = on\nmax_wal_size = '64MB'");
$node->start;
$node->safe_psql('postgres', q(
	CREATE EXTENSION pg_registry;
	SELECT registry.create_registry(name, 'bigint', durable => true) FROM unnest('{a,b,many,list,large}'::text[]) AS name;
	SELECT registry.put_many('large', (SELECT jsonb_object_agg('k' || g, g) FROM generate_series(1, 20000) g))));

# ---------------------------------------------------------------------------
# Children: each ends when its connection does
# ---------------------------------------------------------------------------

# Transaction n of a writer: the same number in two registries, in five entries of a third, one more entry and one less
# in the last; what is rolled back would be seen.
sub transaction
{
	my ($w, $n) = @_;
	my $many = join(', ', map { qq("$w.$_": $n) } 1 .. 5);
	my ($new, $old) = ($n % 50, ($n - 25) % 50);

	return "BEGIN; SELECT registry.put('a', '$w', $n); SAVEPOINT s; SELECT registry.put('a', '$w', -1), registry.put('list', '$w', -1);"
	  . " ROLLBACK TO s; SELECT registry.put_many('many', '{$many}'); SELECT registry.put('list', '$w.$new', $n), registry.delete('list', '$w.$old');"
	  . " SELECT registry.put('b', '$w', $n); COMMIT";
}

sub child
{
	my ($code) = @_;
	my $pid = fork // die "fork: $!";

	return $pid if $pid;
	eval { $code->() };
	_exit(0);
}

# Writes down each number that was acknowledged.
sub writer
{
	my ($w, $from) = @_;
	open my $file, '>', "$folder/acknowledged.$w" or die;
	my $session = RawProtocol->new($node, 'postgres');
	syswrite($file, "pid $session->{pid}\n");
	for (my $n = $from;; $n++)
	{
		last if $session->sqlstate(transaction($w, $n)) ne '';
		syswrite($file, "$n\n");
	}
	return;
}

my $agree = join(' AND ', map { "registry.get_bigint('a', '$_') = registry.get_bigint('b', '$_')" } 1 .. $writers);

# Writes down whatever it sees that nobody committed.
sub reader
{
	open my $file, '>', "$folder/reader" or die;
	my $session = RawProtocol->new($node, 'postgres');
	syswrite($file, "pid $session->{pid}\n");
	while ($session->sqlstate("SELECT $agree") eq '')
	{
		my $same = $session->{rows}[0][0];
		syswrite($file, "disagree\n") if defined $same && $same ne 't';
	}
	return;
}

sub last_of { return (grep { /^\d+$/ } split /\n/, slurp_file("$folder/acknowledged.$_[0]"))[-1] // 0 }
sub pid_in { return slurp_file("$folder/$_[0]") =~ /^pid (\d+)$/m ? $1 : 0 }

# ---------------------------------------------------------------------------
# Victims
# ---------------------------------------------------------------------------

my %victims = (
	'a writer' => sub { pid_in('acknowledged.' . (1 + int rand $writers)) },
	'the reader' => sub { pid_in('reader') },
	'the scheduler' => sub { ask('SELECT scheduler_pid FROM registry.status()') },
	'a worker' => sub { ask("SELECT pid FROM pg_stat_activity WHERE backend_type LIKE 'pg_registry%' LIMIT 1") },
	'the checkpointer' => sub { ask("SELECT pid FROM pg_stat_activity WHERE backend_type = 'checkpointer'") },
	'the WAL writer' => sub { ask("SELECT pid FROM pg_stat_activity WHERE backend_type = 'walwriter'") },
	'the postmaster' => sub { (split /\n/, slurp_file($node->data_dir . '/postmaster.pid'))[0] },
);
my @names = sort keys %victims;

sub ask
{
	my ($sql) = @_;
	my $session = RawProtocol->new($node, 'postgres');
	my $value = $session->one($sql);
	$session->close;
	return $value;
}

# One that is alive; there is not always a worker.
sub victim
{
	while (1)
	{
		my $name = $names[rand @names];
		my $pid = $victims{$name}->();
		return ($name, $pid) if $pid && kill 0, $pid;
	}
}

sub comes_back
{
	my ($name) = @_;

	if ($name eq 'the postmaster')
	{
		# it has to be gone, and its children, too
		for (1 .. 200)
		{
			$node->{_pid} = undef;
			last if $node->start(fail_ok => 1);
			usleep(50_000);
		}
	}
	for (1 .. 400)
	{
		return 1 if eval { ask('SELECT 1') };
		usleep(25_000);
	}
	return 0;
}

# ---------------------------------------------------------------------------

my @problems;
my %killed;

# What writer w has done: its last number, everywhere the same.
sub check_writer
{
	my ($session, $w, $acknowledged) = @_;
	my @row = @{ ($session->query("SELECT coalesce(registry.get_bigint('a', '$w'), 0), coalesce(registry.get_bigint('b', '$w'), 0),
		(SELECT coalesce(string_agg(DISTINCT value::text, ','), '0') FROM registry.entries('many') WHERE key LIKE '$w.%'),
		(SELECT coalesce(max(value::text::bigint), 0) FROM registry.entries('list') WHERE key LIKE '$w.%'),
		(SELECT count(*) FROM registry.entries('list') WHERE key = '$w')"))[0] };

	push @problems, "writer $w: acknowledged $acknowledged, found @row"
	  if $row[0] != $acknowledged && $row[0] != $acknowledged + 1
	  or $row[1] != $row[0] || $row[2] ne $row[0] || $row[3] != $row[0] || $row[4] != 0;
	return $row[0];
}

my @next = (1) x ($writers + 1);
for my $round (1 .. $kills)
{
	my @children = (child(\&reader), map { my $w = $_; child(sub { writer($w, $next[$w]) }) } 1 .. $writers);
	my $enough = 1 + int rand 20;
	for (1 .. 400)
	{
		last if -e "$folder/reader" && !grep { !-e "$folder/acknowledged.$_" || last_of($_) < $next[$_] + $enough } 1 .. $writers;
		usleep(5_000);
	}
	my ($name, $pid) = victim();
	note("round $round: $name");
	kill 'KILL', $pid;
	$killed{$name}++;
	waitpid $_, 0 for @children;
	comes_back($name) or die "the server does not come back after $name was killed";

	my $session = RawProtocol->new($node, 'postgres');
	for my $w (1 .. $writers)
	{
		my $acknowledged = last_of($w) || $next[$w] - 1;
		$next[$w] = 1 + check_writer($session, $w, $acknowledged);
	}
	push @problems, 'the reader saw half a transaction' if slurp_file("$folder/reader") =~ /disagree/;
	if ($round % 10 == 0 || $round == $kills)
	{
		$node->poll_query_until('postgres', "SELECT bool_and(state = 'resident') FROM registry.registries") or push @problems, 'not loaded';
		my $differ = $session->one("SELECT count(*) FROM registry.registries r, registry.verify(r.name) v WHERE r.durable");
		push @problems, "$differ entries differ from the table" if $differ > 0;
	}
	$session->close;
	unlink glob "$folder/*";
	last if @problems;
}
note(join ', ', map { "$_: $killed{$_}" } sort keys %killed);
is(join("\n", @problems), '', "killed $kills times: every acknowledged commit is there, and no half of another (SEED=$seed)");
cmp_ok($next[1], '>', $kills, 'there were commits');
cmp_ok(scalar keys %killed, '>=', 5, 'of several kinds') if $kills >= 50;
is(ask("SELECT registry.entry_count('large')"), 20_000, 'what nobody touched is as it was');

unlike(slurp_file($node->logfile), qr/PANIC|TRAP|pg_registry[^\n]*(?:WARNING|ERROR)/, 'nothing stray in the log');
$node->stop;
done_testing();
