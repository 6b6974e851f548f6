# Runs the cases of the benchmark on a prepared server and writes the tables of docs/benchmarks.md.
#
#   perl run.pl ROWS FEW ROUNDS SECONDS FOLDER LMDB	with psql's environment variables set
#
# writes goals.md, details.md, read-cost.svg and how many rounds there were into FOLDER.  After SECONDS, but not
# before nine rounds, no other one begins.  LMDB is the folder for the program lmdb's files.
#
# Method.  Every round runs every case once, one after the other, so that what disturbs the machine disturbs
# all of them; the long ones are in every third round only.  A statement's time is what psql's \timing says.
# Costs come from the minimum over all rounds: noise only ever adds.  "Above base" is (minimum of the case -
# minimum of its base) / rows, and ratios are between such figures of one run, never between runs.
use strict;
use warnings;
use FindBin;
use lib "$FindBin::Bin/lib";
use Bench::Plot;
use Bench::Session;
use List::Util qw(max min);
use Time::HiRes qw(time);

my ($rows, $few, $rounds, $seconds, $folder, $lmdb_folder) = @ARGV;

# Statements in a row for the throughput of one and two clients, each over a fifth of the rows.
# Short, so that some of them meet no disturbance on any core, and so several times a round.
my $batch = 6;
my $batches = 4;

# Keys of the registries, tables and stores of every size.
my @sizes = (10, 100, 1000, 10_000, 100_000, 1_000_000);
my $large = $sizes[-1];

# No writer publishes that often in the time that it has.
my $forever = 1_000_000_000;

# ---------------------------------------------------------------------------
# The cases: [name, base, statement].  A base has no base of its own.
# ---------------------------------------------------------------------------

sub column { return "SELECT count($_[0]) FROM bench.orders" }
sub total { return "SELECT sum(amount * $_[0]) FROM bench.orders" }
sub exact { return "SELECT sum(price * $_[0]) FROM bench.orders" }
sub slowly { return "SELECT sum(amount * $_[0]) FROM bench.few" }
sub slowly_exact { return "SELECT sum(price * $_[0]) FROM bench.few" }

my @groups = (
	['count(X), the call alone', $rows,
		['currency', undef, column('currency')],
		['no-op', 'currency', column("bench.noop('fx', currency)")],
		['no-op, unpack, hash key', 'currency', column("bench.hash_key('fx', currency)")],
		['no-op, unpack, hash both', 'currency', column("bench.hash_both('fx', currency)")],
		['get_float8, 30 keys', 'currency', column("registry.get_float8('fx', currency)")],
		['rate_float8', 'currency', column("registry.rate_float8(currency, 'EUR')")],
		['item', undef, column('item')],
		['no-op (item)', 'item', column("bench.noop('items', item)")],
		['get_float8, 200 keys', 'item', column("registry.get_float8('items', item)")],
	],
	['sum(amount * X), float8', $rows,
		['constant', undef, total('0.9259')],
		['no-op', 'constant', total("bench.noop('fx', currency)")],
		['no-op, unpack, hash key', 'constant', total("bench.hash_key('fx', currency)")],
		['get_float8', 'constant', total("registry.get_float8('fx', currency)")],
		['rate_float8', 'constant', total("registry.rate_float8(currency, 'EUR')")],
		['dshash', 'constant', total("bench.dshash('fx', currency)")],
		['LWLock, dynahash', 'constant', total("bench.dynahash('fx', currency)")],
		['hash join', 'constant', 'SELECT sum(amount * rate8) FROM bench.orders JOIN bench.rates USING (currency)'],
	],
	['sum(price * X), numeric', $rows,
		['constant', undef, exact('0.925925925925925926')],
		['no-op', 'constant', exact("bench.noop_numeric('fx', currency)")],
		['get_numeric', 'constant', exact("registry.get_numeric('fxn', currency)")],
		['rate', 'constant', exact("registry.rate(currency, 'EUR')")],
		['rate, two arguments', 'constant', exact("bench.rate2(currency, 'EUR')")],
		['hash join', 'constant', 'SELECT sum(price * rate) FROM bench.orders JOIN bench.rates USING (currency)'],
		['sum(convert(price, ...))', 'constant', "SELECT sum(registry.convert(price, currency, 'EUR')) FROM bench.orders"],
		['current_setting()::numeric', 'constant', exact("current_setting('fx.' || currency)::numeric")],
	],
	["sum(amount * X), float8, $few rows", $few,
		['constant', undef, slowly('0.9259')],
		['scalar subselect', 'constant',
			slowly('(SELECT rate8 FROM bench.rates AS r WHERE r.currency = few.currency)')],
		['SQL function', 'constant', slowly('bench.sql_rate8(currency)')],
		['plpgsql function', 'constant', slowly('bench.plpgsql_rate8(currency)')],
	],
	["sum(price * X), numeric, $few rows", $few,
		['constant', undef, slowly_exact('0.925925925925925926')],
		['scalar subselect', 'constant',
			slowly_exact('(SELECT rate FROM bench.rates AS r WHERE r.currency = few.currency)')],
		['SQL function', 'constant', slowly_exact('bench.sql_rate(currency)')],
		['plpgsql function', 'constant', slowly_exact('bench.plpgsql_rate(currency)')],
	],
);

# What one and two clients run: [name, statement], where TABLE stands for a table of the client's own.
my $table = 'bench.TABLE';
my @pairs = (
	['constant', "SELECT sum(amount * 0.9259) FROM $table"],
	['no-op', "SELECT sum(amount * bench.noop('fx', currency)) FROM $table"],
	['get_float8', "SELECT sum(amount * registry.get_float8('fx', currency)) FROM $table"],
	['rate_float8', "SELECT sum(amount * registry.rate_float8(currency, 'EUR')) FROM $table"],
	['dshash', "SELECT sum(amount * bench.dshash('fx', currency)) FROM $table"],
	['LWLock, dynahash', "SELECT sum(amount * bench.dynahash('fx', currency)) FROM $table"],
	['hash join', "SELECT sum(amount * rate8) FROM $table JOIN bench.rates USING (currency)"],
);

# What a read costs by the number of keys, random ones: [name, statement for # keys, rows].  The first is the base, and
# of_few the base of those that read few rows.
my @reads = (
	['base', 'SELECT count(key) FROM bench.reads_#', $rows],
	['get_float8', "SELECT count(registry.get_float8('r#', key)) FROM bench.reads_#", $rows],
	['get_numeric', "SELECT count(registry.get_numeric('n#', key)) FROM bench.reads_#", $rows],
	['dshash', "SELECT count(bench.dshash('s#', key)) FROM bench.reads_#", $rows],
	['LWLock, dynahash', "SELECT count(bench.dynahash('s#', key)) FROM bench.reads_#", $rows],
	['hash join', 'SELECT count(value) FROM bench.reads_# JOIN bench.kv_# USING (key)', $rows],
	['of few', 'SELECT count(key) FROM bench.few_#', $few],
	['primary key subselect',
		'SELECT count((SELECT value FROM bench.kv_# AS kv WHERE kv.key = few.key)) FROM bench.few_# AS few', $few],
);

# What runs beside a writer: [name, statement].  Writers: [name, statement that never ends, every n rounds, cases].
my @with_fx = (
	['constant', total('0.9259')],
	['no-op', total("bench.noop('fx', currency)")],
	['get_float8', total("registry.get_float8('fx', currency)")],
);
my @with_large = (
	['bare column', "SELECT count(key) FROM bench.reads_$large"],
	['get_float8', "SELECT count(registry.get_float8('r$large', key)) FROM bench.reads_$large"],
);
my @writers = (
	['put of 1 of 30 keys', "CALL bench.put_forever('fx')", 1, @with_fx],
	['set_rates', 'CALL bench.set_rates_forever()', 1, @with_fx[0, 1], ['rate_float8', total("registry.rate_float8(currency, 'EUR')")]],
	['1 of 30 keys, in C', "SELECT bench.publish('p30', 30, 1, $forever, $forever)", 1,
		['bare column', column('item')],
		['get_float8', column("registry.get_float8('p30', 'I1000007' || left(item, 0))")]],
	['put of 1 of 1M keys', "CALL bench.puts('r$large', $large, $forever, $forever, NULL)", 3, @with_large],
	['1 of 1M keys, in C', "SELECT bench.publish('r$large', $large, 1, $forever, $forever)", 3, @with_large],
);

# ---------------------------------------------------------------------------
# Measurements by name; the least of them counts
# ---------------------------------------------------------------------------

my %samples;

sub record
{
	my ($name, @values) = @_;
	push @{ $samples{$name} }, @values;
	return;
}

sub all_of
{
	my ($name) = @_;
	return @{ $samples{$name} or die "nothing was measured as \"$name\"\n" };
}

sub best { return min all_of($_[0]) }

sub median
{
	my @sorted = sort { $a <=> $b } @_;
	return ($sorted[$#sorted / 2] + $sorted[@sorted / 2]) / 2;
}

# ---------------------------------------------------------------------------
# One round
# ---------------------------------------------------------------------------

my $reader = session();
my $second = session();
my $writer = session();
my $lmdb = program("$FindBin::Bin/lmdb", $lmdb_folder);

query($reader, "SELECT set_config('fx.' || currency, rate::text, false) FROM bench.rates");

# The first two again and again: a few nanoseconds are what is compared in them, least of all rounds.
sub run_groups
{
	for my $group (@groups, (@groups[0, 1]) x 3)
	{
		my ($title, $n, @cases) = @$group;
		record("$title\t$_->[0]", milliseconds($reader, $_->[2])) for @cases;
	}
	return;
}

# All start at once; the time is that of the slowest.
sub batch_time
{
	my ($statement, @sessions) = @_;
	my $start = time;
	my @tables = ('mine', 'yours');

	for my $s (@sessions)
	{
		my $table = shift @tables;
		send_to($s, ($statement =~ s/TABLE/$table/r . ';') x $batch);
	}
	finish($_) for @sessions;
	return (time - $start) * 1000;
}

sub run_pairs
{
	for my $pair ((@pairs) x $batches)
	{
		my ($name, $statement) = @$pair;
		record("alone\t$name", batch_time($statement, $reader));
		record("together\t$name", batch_time($statement, $reader, $second));
	}
	return;
}

sub generation { return value($reader, 'SELECT registry.generation()') }

# Runs some code while a writer publishes; returns publishes in a second.
sub beside
{
	my ($statement, $code) = @_;
	my $before = generation();
	my ($start, $after);

	send_to($writer, "$statement;");
	1 until ($after = generation()) > $before;
	($start, $before) = (time, $after);
	$code->();
	my $rate = (generation() - $before) / (time - $start);
	query($reader, "SELECT pg_cancel_backend($writer->{backend})");
	my ($lines) = finish($writer);
	die "the writer ended: @$lines\n" if !grep { /canceling statement/ } @$lines;
	return $rate;
}

sub run_beside_writer
{
	my ($round) = @_;

	for my $case (grep { $round % $_->[2] == 0 } @writers)
	{
		my ($name, $statement, undef, @cases) = @$case;
		record("without $name\t$_->[0]", milliseconds($reader, $_->[1])) for @cases;
		record("publishes\t$name", beside($statement, sub {
			record("with $name\t$_->[0]", milliseconds($reader, $_->[1])) for @cases;
		}));
	}
	return;
}

sub run_reads
{
	for my $n (@sizes)
	{
		record("read $n\t$_->[0]", milliseconds($reader, $_->[1] =~ s/#/$n/gr)) for @reads;
		record("read $n\tLMDB", ask($lmdb, "get $n $rows"));
	}
	return;
}

# What a publish costs, on both sides.
sub run_publishes
{
	record('publish 200', value($reader, "SELECT bench.publish('p200', 200, 200, 2000, 50)"));
	record('publish 1 of 200', value($reader, "SELECT bench.publish('p200', 200, 1, 5000, 50)"));
	record('put 1 of 200', value($reader, "CALL bench.puts('p200', 200, 5000, 50, NULL)"));
	record('LMDB change 1 of 200', ask($lmdb, 'change 200 20000'));
	return;
}

sub run_large_publishes
{
	for (1 .. 3)
	{
		record('publish 1 of 1M', value($reader, "SELECT bench.publish('r$large', $large, 1, 200000, 200)"));
		record('LMDB change 1 of 1M', ask($lmdb, "change $large 100000"));
	}
	record('put 1 of 1M', value($reader, "CALL bench.puts('r$large', $large, 100000, 200, NULL)"));
	for my $order ('sorted', 'shuffled')
	{
		query($reader, "SELECT registry.create_registry('loaded', 'float8')");
		record("load $order", value($reader, "SELECT bench.load('loaded', $large, @{[$order eq 'sorted' ? 'false' : 'true']})"));
		query($reader, "SELECT registry.drop_registry('loaded')");
		record("LMDB load $order", ask($lmdb, "load $large $order"));
	}
	return;
}

# Registry and its keys.
my @durable = ([ 'd30', 30 ], [ 'd1000', 1000 ], [ 'd1000000', 1_000_000 ]);

# The same change of a durable registry and of a plain table, in turn.
sub run_durable
{
	for (@durable)
	{
		my ($registry, $keys) = @$_;
		record("durable put\t$keys", value($reader, "CALL bench.puts('$registry', $keys, 5000, 50, NULL)"));
		record("plain upsert\t$keys", value($reader, "CALL bench.upserts('$registry', $keys, 5000, 50, NULL)"));
	}
	record('durable put of 1000', value($reader, "CALL bench.thousands('d1000', 10, NULL)"));
	record('plain upsert of 1000', value($reader, 'CALL bench.thousands(NULL, 10, NULL)'));
	return;
}

sub run_reload
{
	record('reload 1M', milliseconds($reader, "SELECT registry.reload('d1000000')"));
	return;
}

# The whole way: rows of a table to jsonb objects to a registry, in one transaction.
sub run_load_through_sql
{
	query($reader, "SELECT registry.create_registry('loaded', 'float8')");
	record('load through SQL', milliseconds($reader, "SELECT sum(registry.put_many('loaded', o)) FROM "
		. "(SELECT jsonb_object_agg(key, value) AS o FROM bench.kv_$large GROUP BY left(key, 4)) AS s"));
	query($reader, "SELECT registry.drop_registry('loaded')");
	return;
}

# ---------------------------------------------------------------------------
# Versions in one statement, and what pins cost a writer
# ---------------------------------------------------------------------------

# One key, read by every row, while a writer changes it as fast as it can: [name, registry, its keys that change].
my @watched = (['30 keys', 'p30', 30], ['1M keys, 30 of which change', "r$large", 30]);
my %versions;	# name => [statements, of them with several versions, publishes meanwhile]

sub watch
{
	my ($name, $registry) = @_;
	my $get = "registry.get_float8('$registry', 'I1000007')";

	for my $parallel (0, 2)
	{
		query($reader, "SET max_parallel_workers_per_gather = $parallel");
		my ($before, $same) = (generation(), value($reader, "SELECT min($get) = max($get) FROM bench.orders"));
		$versions{"$name, " . ($parallel ? 'parallel' : 'serial')}[0]++;
		$versions{"$name, " . ($parallel ? 'parallel' : 'serial')}[1] += $same ne 't';
		$versions{"$name, " . ($parallel ? 'parallel' : 'serial')}[2] += generation() - $before;
	}
	query($reader, 'SET max_parallel_workers_per_gather = 0');
	return;
}

sub run_versions
{
	query($reader, 'SET min_parallel_table_scan_size = 0; SET parallel_setup_cost = 0; SET parallel_tuple_cost = 0');
	for (@watched)
	{
		my ($name, $registry, $keys) = @$_;
		beside("SELECT bench.publish('$registry', $keys, 1, $forever, $forever)", sub { watch($name, $registry) for 1 .. 3 });
	}
	return;
}

sub memory_used { return value($reader, 'SELECT memory_used FROM registry.status()') }

# A transaction that sits idle with a pin, and writers that go on: [name, registry, keys, changed, publishes].
my @idle = (
	['200 of 200 keys', 'p200', 200, 200, 20_000],
	['1 of 30 keys', 'p30', 30, 1, 200_000],
	['1 of 1M keys', "r$large", $large, 1, 200_000],
);
my %idle;	# name => [ns without, ns with, publishes, bytes before, bytes after, same value]

sub run_idle_pin
{
	for (@idle)
	{
		my ($name, $registry, $keys, $changed, $most) = @$_;
		my $publish = "SELECT bench.publish('$registry', $keys, $changed, $most, 1000)";
		my $without = value($reader, $publish);

		query($second, 'BEGIN');
		query($second, "DECLARE c CURSOR FOR SELECT registry.get_float8('$registry', 'I1000007') FROM bench.few");
		my $first = value($second, 'FETCH 1 FROM c');
		my ($before, $generation) = (memory_used(), generation());
		my $with = value($reader, $publish);
		$idle{$name} = [$without, $with, generation() - $generation, $before, memory_used(), $first == value($second, 'FETCH 1 FROM c')];
		query($second, 'COMMIT');
	}
	return;
}

# Connections that hold a pin each, every one of another generation.
sub pin_all
{
	for (@_)
	{
		say_to($_, "BEGIN; DECLARE c CURSOR FOR SELECT registry.get_float8('p30', 'I1000007') FROM bench.few; FETCH 1 FROM c");
		query($reader, "SELECT registry.put('p30', 'I1000007', random())");
	}
	return;
}

sub measure_commit
{
	my ($what) = @_;

	record("pins, in C\t$what", value($reader, "SELECT bench.publish('p30', 30, 1, 5000, 50)"));
	record("pins, put\t$what", value($reader, "CALL bench.puts('p30', 30, 5000, 50, NULL)"));
	return;
}

my @pin_counts = (0, 10, 1000);

sub run_pins
{
	measure_commit('a few connections, no pin') for 1 .. 5;
	my @connections = map { connection() } 1 .. $pin_counts[-1];
	for (1 .. 3)
	{
		for my $n (@pin_counts)
		{
			pin_all(@connections[0 .. $n - 1]);
			measure_commit("1000 connections, $n pins");
			say_to($_, 'ROLLBACK') for @connections[0 .. $n - 1];
		}
	}
	return;
}

# ---------------------------------------------------------------------------
# The tables
# ---------------------------------------------------------------------------

sub group_named { return (grep { $_->[0] =~ /^\Q$_[0]\E/ } @groups)[0] }

# Least time of a case in ms, and its cost above base in ns per row; the group by the start of its title.
sub least
{
	my ($title, $name) = @_;
	return best(group_named($title)->[0] . "\t$name");
}

sub above
{
	my ($title, $name) = @_;
	my $group = group_named($title);
	my (undef, $n, @cases) = @$group;
	my ($case) = grep { $_->[0] eq $name } @cases;
	return (least($title, $name) - least($title, $case->[1])) * 1e6 / $n;
}

# What a read of a registry, table or store of N keys costs, in ns.
sub read_cost
{
	my ($n, $name) = @_;
	return best("read $n\tLMDB") if $name eq 'LMDB';
	my ($case) = grep { $_->[0] eq $name } @reads;
	return (best("read $n\t$name") - best("read $n\t" . ($case->[2] == $few ? 'of few' : 'base'))) * 1e6 / $case->[2];
}

sub scaling { return 2 * best("alone\t$_[0]") / best("together\t$_[0]") }

sub slowdown { return best("with $_[0]\t$_[1]") / best("without $_[0]\t$_[1]") }

sub number
{
	my ($ns) = @_;
	return $ns >= 1e6 ? sprintf('%.1f ms', $ns / 1e6) : $ns >= 1e4 ? sprintf('%.1f us', $ns / 1e3) : sprintf('%.0f ns', $ns);
}

sub cases_table
{
	my $table = "| statement over $rows rows | X | min ms | median ms | ns/row above base |\n|---|---|--:|--:|--:|\n";
	for my $group (@groups)
	{
		my ($title, undef, @cases) = @$group;
		for my $case (@cases)
		{
			my @ms = all_of("$title\t$case->[0]");
			$table .= sprintf "| %s | %s | %.1f | %.1f | %s |\n", $title, $case->[0], min(@ms), median(@ms),
				defined $case->[1] ? sprintf('%.1f', above($title, $case->[0])) : 'base';
		}
	}
	return $table;
}

sub reads_table
{
	my @names = ((grep { !/^(base|of few)$/ } map { $_->[0] } @reads), 'LMDB');
	my $table = '| keys | ' . join(' | ', @names) . " |\n|--:|" . '--:|' x @names . "\n";

	for my $n (@sizes)
	{
		$table .= join(' | ', "| $n", map { sprintf '%.1f', read_cost($n, $_) } @names) . " |\n";
	}
	return $table;
}

sub pairs_table
{
	my $table = "| $batch statements over " . $rows / 5 . " rows per client | one client, min ms | two, min ms | throughput of two / one |\n"
		. "|---|--:|--:|--:|\n";
	$table .= sprintf "| %s | %.1f | %.1f | %.2fx |\n", $_->[0], best("alone\t$_->[0]"), best("together\t$_->[0]"), scaling($_->[0])
		for @pairs;
	return $table;
}

sub writers_table
{
	my $table = "| beside a writer without pause | publishes/s | read by | alone, min ms | beside, min ms | beside / alone |\n|---|--:|---|--:|--:|--:|\n";
	for my $writer (@writers)
	{
		my ($name, undef, undef, @cases) = @$writer;
		$table .= sprintf "| %s | %.0f | %s | %.1f | %.1f | %.2fx |\n", $name, median(all_of("publishes\t$name")), $_->[0],
			best("without $name\t$_->[0]"), best("with $name\t$_->[0]"), slowdown($name, $_->[0])
			for @cases;
	}
	return $table;
}

sub publishes_table
{
	my $table = "| one transaction | in C | through SQL | LMDB |\n|---|--:|--:|--:|\n";
	$table .= sprintf "| change 1 of 200 keys | %s | %s | %s |\n", map { number(best($_)) } 'publish 1 of 200', 'put 1 of 200', 'LMDB change 1 of 200';
	$table .= sprintf "| change 200 of 200 keys | %s | | |\n", number(best('publish 200'));
	$table .= sprintf "| change 1 of 1M keys | %s | %s | %s |\n", map { number(best($_)) } 'publish 1 of 1M', 'put 1 of 1M', 'LMDB change 1 of 1M';
	$table .= sprintf "| load 1M keys, sorted | %.0f ms | | %.0f ms |\n", best('load sorted'), best('LMDB load sorted');
	$table .= sprintf "| load 1M keys, shuffled | %.0f ms | | %.0f ms |\n", best('load shuffled'), best('LMDB load shuffled');
	$table .= sprintf "| load 1M keys from a table | | %.0f ms | |\n", best('load through SQL');
	return $table;
}

sub durable_table
{
	my $table = "| one transaction, through SQL | durable registry | plain table | |\n|---|--:|--:|--:|\n";
	$table .= sprintf "| put 1 of %d keys | %s | %s | %.2fx |\n", $_->[1], number(best("durable put\t$_->[1]")),
		number(best("plain upsert\t$_->[1]")), ratio(best("durable put\t$_->[1]"), best("plain upsert\t$_->[1]"))
		for @durable;
	$table .= sprintf "| put 1000 of 1000 keys | %s | %s | %.2fx |\n", number(best('durable put of 1000')),
		number(best('plain upsert of 1000')), ratio(best('durable put of 1000'), best('plain upsert of 1000'));
	$table .= sprintf "| load of 1M entries from the table | %.0f ms | | |\n", best('reload 1M');
	return $table;
}

sub versions_table
{
	my $table = "| one statement beside a writer in C | statements | publishes meanwhile | statements that saw two versions |\n|---|--:|--:|--:|\n";
	$table .= sprintf "| %s | %d | %d | %d |\n", $_, $versions{$_}[0], $versions{$_}[2], $versions{$_}[1] for sort keys %versions;
	return $table;
}

sub idle_table
{
	my $table = "| beside an idle transaction with a pin | publishes | ns each, without it | with it | memory used before, KiB | after, KiB |\n|---|--:|--:|--:|--:|--:|\n";
	for (@idle)
	{
		my ($without, $with, $publishes, $before, $after) = @{ $idle{ $_->[0] } };
		$table .= sprintf "| %s | %d | %s | %s | %.0f | %.0f |\n", $_->[0], $publishes, number($without), number($with), $before / 1024, $after / 1024;
	}
	return $table;
}

sub pins_table
{
	my $table = "| change of 1 of 30 keys | in C | put and COMMIT |\n|---|--:|--:|\n";
	$table .= sprintf "| %s | %s | %s |\n", $_, number(best("pins, in C\t$_")), number(best("pins, put\t$_"))
		for 'a few connections, no pin', map { "1000 connections, $_ pins" } @pin_counts;
	return $table;
}

# ---------------------------------------------------------------------------
# The goals: [what, measured, goal, is it met (undef: no goal)]
# ---------------------------------------------------------------------------

# A cost of nothing or less means that two minima come from different moods of the machine.
sub ratio
{
	my ($above, $below) = @_;
	return $above > 0 && $below > 0 ? $above / $below : undef;
}

sub judge
{
	my ($what, $value, $direction, $goal) = @_;
	my $wanted = defined $goal ? "$direction ${goal}x" : '';

	return [$what, 'too noisy: more rounds', $wanted, undef] if !defined $value;
	return [$what, sprintf('%.2fx', $value), $wanted,
		!defined $goal ? undef : $direction eq 'at most' ? $value <= $goal : $value >= $goal];
}

sub reading_goals
{
	my ($call, $float8, $numeric) = ('count(X)', 'sum(amount * X), float8', 'sum(price * X), numeric');
	my ($noop, $hash) = ('no-op', 'no-op, unpack, hash key');
	my $get = above($call, 'get_float8, 30 keys');
	my $rate = above($call, 'rate_float8');
	my @goals = (
		['get_float8 / no-op, above the bare column', ratio($get, above($call, $noop)), 'at most', 4.0],
		['get_float8 of 200 keys / no-op, above the bare column',
			ratio(above($call, 'get_float8, 200 keys'), above($call, 'no-op (item)')), 'at most', 4.0],
		['rate_float8 / no-op, above the bare column', ratio($rate, above($call, $noop)), 'at most', 4.0],
		['get_float8 / no-op + unpack + hash', ratio($get, above($call, $hash)), 'at most', 1.6],
		['rate_float8 / no-op + unpack + hash', ratio($rate, above($call, $hash)), 'at most', 1.6],
		['hash join / rate_float8, whole query', ratio(least($float8, 'hash join'), least($float8, 'rate_float8')), 'at least', 1.9],
		['hash join / rate_float8, above base', ratio(above($float8, 'hash join'), above($float8, 'rate_float8')), 'at least', 5],
		['hash join / get_float8, above base', ratio(above($float8, 'hash join'), above($float8, 'get_float8')), 'at least', 5],
		['hash join / rate, whole query, numeric', ratio(least($numeric, 'hash join'), least($numeric, 'rate')), 'at least', 1.4],
		['hash join / rate, above base, numeric', ratio(above($numeric, 'hash join'), above($numeric, 'rate'))],
		['dshash / get_float8, above base', ratio(above($float8, 'dshash'), above($float8, 'get_float8'))],
		['LWLock, dynahash / get_float8, above base', ratio(above($float8, 'LWLock, dynahash'), above($float8, 'get_float8'))],
		['current_setting()::numeric / rate, above base', ratio(above($numeric, 'current_setting()::numeric'), above($numeric, 'rate'))],
		['rate / rate with two arguments, above base', ratio(above($numeric, 'rate'), above($numeric, 'rate, two arguments'))],
	);

	for my $way ('scalar subselect', 'SQL function', 'plpgsql function')
	{
		push @goals, ["$way / rate_float8, above base", ratio(above("sum(amount * X), float8, $few", $way), above($float8, 'rate_float8')),
			'at least', 50];
		push @goals, ["$way / get_numeric, above base, numeric",
			ratio(above("sum(price * X), numeric, $few", $way), above($numeric, 'get_numeric')), 'at least', 50];
	}
	push @goals, ["two clients / one, $_", scaling($_), 'at least', 1.8] for 'get_float8', 'rate_float8';
	push @goals, ["two clients / one, $_", scaling($_)] for 'dshash', 'LWLock, dynahash';
	return map { judge(@$_) } @goals;
}

sub writing_goals
{
	my @goals = (
		['beside a writer / alone, get_float8, put', slowdown('put of 1 of 30 keys', 'get_float8'), 'at most', '1.10'],
		['beside a writer / alone, rate_float8, set_rates', slowdown('set_rates', 'rate_float8'), 'at most', '1.10'],
		['beside a writer / alone, get_float8, 1 of 30 keys in C', slowdown('1 of 30 keys, in C', 'get_float8'), 'at most', '1.10'],
		['beside a writer / alone, get_float8, put of 1 of 1M keys', slowdown('put of 1 of 1M keys', 'get_float8'), 'at most', 1.35],
		['beside a writer / alone, get_float8, 1 of 1M keys in C', slowdown('1 of 1M keys, in C', 'get_float8'), 'at most', 1.35],
		['1M random keys: get_float8 / hash join', ratio(read_cost($large, 'get_float8'), read_cost($large, 'hash join')), 'at most', '0.20'],
		['1M random keys: get_float8 / mdb_get of LMDB', ratio(read_cost($large, 'get_float8'), read_cost($large, 'LMDB')), 'at most', 0.35],
		['1M random keys: get_float8 / primary key subselect', ratio(read_cost($large, 'get_float8'), read_cost($large, 'primary key subselect'))],
		['1M random keys: get_float8 / dshash', ratio(read_cost($large, 'get_float8'), read_cost($large, 'dshash'))],
		['change 1 of 1M keys and publish / LMDB', ratio(best('publish 1 of 1M'), best('LMDB change 1 of 1M')), 'at most', '0.50'],
		['load 1M keys, sorted / LMDB', ratio(best('load sorted'), best('LMDB load sorted')), 'at most', '1.20'],
		['load 1M keys, shuffled / LMDB', ratio(best('load shuffled'), best('LMDB load shuffled'))],
		map({ ["durable, put 1 of $_->[1] keys / plain upsert", ratio(best("durable put\t$_->[1]"), best("plain upsert\t$_->[1]")), 'at most', '1.50'] }
			@durable),
		['durable, put 1000 keys / plain upsert', ratio(best('durable put of 1000'), best('plain upsert of 1000')), 'at most', '1.50'],
	);
	my $publish = best('publish 200') / 1000;

	return (map({ judge(@$_) } @goals),
		['publish 200 changed values, parsed', sprintf('%.1f us', $publish), 'at most 10 us', $publish <= 10]);
}

# A statement proves nothing unless something was published while it ran.
sub promise_goals
{
	my $statements = 0;
	my $torn = 0;

	for (grep { $_->[2] >= $_->[0] } values %versions)
	{
		$statements += $_->[0];
		$torn += $_->[1];
	}
	my @small = grep { $_->[2] > 0 } map { $idle{ $_->[0] } } @idle;
	my $slower = max map { $_->[1] / $_->[0] } @small;
	my $grown = max map { $_->[4] - $_->[3] } @small;
	# A pin can hold back a version of it, while the writer builds another one.
	my $biggest = value($reader, 'SELECT max(bytes) FROM registry.registries');
	my $publishes = 0;
	$publishes += $_->[2] for @small;
	return (
		['versions in one statement, serial and parallel', sprintf('1 in %d of %d', $statements - $torn, $statements), 'exactly 1',
			$statements > 0 && $torn == 0],
		['a writer beside an idle pin', sprintf('%d publishes, at most %.2fx the time', $publishes, $slower), 'never blocked',
			@small == @idle && !grep { !$_->[5] } @small],
		['memory taken meanwhile, of the largest registry', sprintf('%.3fx', $grown / $biggest), 'bounded: at most 2x', $grown <= 2 * $biggest],
	);
}

sub goals_table
{
	my $table = "| by min | measured | goal | |\n|---|--:|---|---|\n";
	for (reading_goals(), writing_goals(), promise_goals())
	{
		my ($what, $measured, $goal, $met) = @$_;
		$table .= sprintf "| %s | %s | %s | %s |\n", $what, $measured, $goal, defined $met ? ($met ? 'met' : 'NOT MET') : $goal ? 'not shown' : '';
	}
	return $table;
}

sub read_plot
{
	# A cost below 1 ns is noise: better no point than a wrong one.
	my $curve = sub { my ($name) = @_; return [grep { $_->[1] >= 1 } map { [$_, read_cost($_, $name)] } @sizes] };

	return plot('What a read costs', "ns for one random key, above the bare column; $rows reads in one statement, least of all rounds",
		'keys in the registry, table or store', 'ns per read',
		['get_float8', '#2f81f7', 'circle', 'thick', $curve->('get_float8')],
		['get_numeric', '#2f81f7', 'circle', 'dashed', $curve->('get_numeric')],
		['dshash, its lock', '#d4761f', 'square', 'plain', $curve->('dshash')],
		['hash join', '#a371f7', 'diamond', 'plain', $curve->('hash join')],
		['LMDB, in C', '#2da44e', 'triangle', 'plain', $curve->('LMDB')]);
}

# A plan other than the one that a case is named after would compare something else.
sub check_plan
{
	my ($statement) = @_;
	die "not a hash join: $statement\n" if !grep { /Hash Join/ } query($reader, "EXPLAIN $statement");
	return;
}

sub check_plans
{
	for my $group (@groups)
	{
		check_plan($_->[2]) for grep { $_->[0] eq 'hash join' } @$group[2 .. $#$group];
	}
	for my $n (@sizes)
	{
		check_plan($_->[1] =~ s/#/$n/gr) for grep { $_->[0] eq 'hash join' } @reads;
	}
	return;
}

sub write_file
{
	my ($name, @content) = @_;
	open my $file, '>', "$folder/$name" or die "$folder/$name: $!\n";
	print $file @content;
	close $file or die "$folder/$name: $!\n";
	return;
}

sub run_round
{
	my ($round) = @_;

	run_groups();
	run_pairs();
	run_publishes();
	run_durable();
	run_beside_writer($round);
	return if $round % 3 != 0;
	run_reload();
	run_reads();
	run_large_publishes();
	run_versions();
	run_load_through_sql() if $round % 9 == 0;
	return;
}

check_plans();
my $started = time;
my $done = 0;
while ($done <= min($rounds, 9) || ($done <= $rounds && time - $started < $seconds))
{
	print STDERR "\rround $done of $rounds";
	run_round($done);
	# The first one only warms up, unless there is too little without it.
	%samples = %versions = () if $done == 0 && $rounds >= 9;
	$done++;
}
print STDERR "\nwriters and pins\n";
run_idle_pin();
run_pins();
write_file('rounds', $done - 1);
write_file('goals.md', goals_table());
write_file('details.md', join "\n", cases_table(), reads_table(), pairs_table(), writers_table(), publishes_table(), durable_table(), pins_table(),
	idle_table(), versions_table());
write_file('read-cost.svg', read_plot());
