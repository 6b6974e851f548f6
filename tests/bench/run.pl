# Runs the cases of the benchmark on a prepared server and prints the tables of docs/benchmarks.md.
#
#   perl run.pl ROWS FEW ROUNDS		with psql's environment variables set
#
# Method.  Every round runs every case once, one after the other, so that what disturbs the machine disturbs
# all of them.  A statement's time is what psql's \timing says.  Costs come from the minimum over all rounds:
# noise only ever adds.  "Above base" is (minimum of the case - minimum of its base) / rows, and ratios are
# between such figures of one run, never between runs.
use strict;
use warnings;
use IPC::Open2;
use List::Util qw(min max);
use Time::HiRes qw(time);

my ($rows, $few, $rounds) = @ARGV;

# Statements in a row for the throughput of one and two clients, each over a fifth of the rows.
# Short, so that some of them meet no disturbance on any core, and so several times a round.
my $batch = 6;
my $batches = 3;

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
	['hash join', "SELECT sum(amount * rate8) FROM $table JOIN bench.rates USING (currency)"],
);

# What runs beside a writer: [name, statement, procedure of the writer].
my @beside = (
	['constant', total('0.9259'), 'put'],
	['no-op', total("bench.noop('fx', currency)"), 'put'],
	['get_float8', total("registry.get_float8('fx', currency)"), 'put'],
	['constant', total('0.9259'), 'set_rates'],
	['no-op', total("bench.noop('fx', currency)"), 'set_rates'],
	['rate_float8', total("registry.rate_float8(currency, 'EUR')"), 'set_rates'],
);

# ---------------------------------------------------------------------------
# Sessions: psql at the other end of two pipes
# ---------------------------------------------------------------------------

sub session
{
	my %s;

	$s{pid} = open2($s{out}, $s{in}, 'sh', '-c', 'exec psql -X -q -A -t 2>&1');
	send_to(\%s, '\timing on');
	finish(\%s);
	query(\%s, "SELECT set_config('fx.' || currency, rate::text, false) FROM bench.rates");
	$s{backend} = (query(\%s, 'SELECT pg_backend_pid()'))[0];
	return \%s;
}

sub send_to
{
	my ($s, @statements) = @_;

	print { $s->{in} } map { "$_\n" } @statements, '\echo =end';
	$s->{in}->flush;
	return;
}

# All that a session has answered since send_to: (output lines, times in ms).
sub finish
{
	my ($s) = @_;
	my (@lines, @times);

	while (defined(my $line = readline $s->{out}))
	{
		chomp $line;
		return (\@lines, \@times) if $line eq '=end';
		if ($line =~ /^Time: ([0-9.]+) ms/) { push @times, $1 }
		else { push @lines, $line }
	}
	die "a session ended early\n";
}

sub query
{
	my ($s, $statement) = @_;

	send_to($s, "$statement;");
	my ($lines) = finish($s);
	die "$statement: @$lines\n" if grep { /^ERROR|^FATAL/ } @$lines;
	return @$lines;
}

sub milliseconds
{
	my ($s, $statement) = @_;

	send_to($s, "$statement;");
	my ($lines, $times) = finish($s);
	die "$statement: @$lines\n" if @$lines != 1 || @$times != 1;
	return $times->[0];
}

# ---------------------------------------------------------------------------
# One round
# ---------------------------------------------------------------------------

my %taken;	# "group\tname" => [ms ...]
my (%alone, %together);	# name => [ms for the whole batch ...]
my (%without, %with, @publishes);	# "writer\tname" => [ms ...]

my $reader = session();
my $second = session();
my $writer = session();

sub run_groups
{
	for my $group (@groups)
	{
		my ($title, $n, @cases) = @$group;
		push @{ $taken{"$title\t$_->[0]"} }, milliseconds($reader, $_->[2]) for @cases;
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
		push @{ $alone{$name} }, batch_time($statement, $reader);
		push @{ $together{$name} }, batch_time($statement, $reader, $second);
	}
	return;
}

sub run_beside_writer
{
	for my $procedure ('put', 'set_rates')
	{
		my @cases = grep { $_->[2] eq $procedure } @beside;
		my ($start, $before, $after);

		push @{ $without{"$procedure\t$_->[0]"} }, milliseconds($reader, $_->[1]) for @cases;
		($before) = query($reader, 'SELECT registry.generation()');
		send_to($writer, "CALL bench.${procedure}_forever();");
		do { ($after) = query($reader, 'SELECT registry.generation()') } until $after > $before;
		($start, $before) = (time, $after);
		push @{ $with{"$procedure\t$_->[0]"} }, milliseconds($reader, $_->[1]) for @cases;
		($after) = query($reader, 'SELECT registry.generation()');
		push @publishes, [$procedure, ($after - $before) / (time - $start)];
		query($reader, "SELECT pg_cancel_backend($writer->{backend})");
		my ($lines) = finish($writer);
		die "the writer ended: @$lines\n" if !grep { /canceling statement/ } @$lines;
	}
	return;
}

# ---------------------------------------------------------------------------
# The tables
# ---------------------------------------------------------------------------

sub median
{
	my @sorted = sort { $a <=> $b } @_;
	return ($sorted[$#sorted / 2] + $sorted[@sorted / 2]) / 2;
}

sub group_named { return (grep { $_->[0] =~ /^\Q$_[0]\E/ } @groups)[0] }

# Least time of a case in ms, and its cost above base in ns per row; the group by the start of its title.
sub least
{
	my ($title, $name) = @_;
	return min @{ $taken{ group_named($title)->[0] . "\t$name" } };
}

sub above
{
	my ($title, $name) = @_;
	my $group = group_named($title);
	my (undef, $n, @cases) = @$group;
	my ($case) = grep { $_->[0] eq $name } @cases;
	return (least($title, $name) - least($title, $case->[1])) * 1e6 / $n;
}

sub print_cases
{
	print "| statement over $rows rows | X | min ms | median ms | ns/row above base |\n|---|---|--:|--:|--:|\n";
	for my $group (@groups)
	{
		my ($title, undef, @cases) = @$group;
		for my $case (@cases)
		{
			my @ms = @{ $taken{"$title\t$case->[0]"} };
			printf "| %s | %s | %.1f | %.1f | %s |\n", $title, $case->[0], min(@ms), median(@ms),
				defined $case->[1] ? sprintf('%.1f', above($title, $case->[0])) : 'base';
		}
	}
	return;
}

sub print_pairs
{
	print "\n| $batch statements over ", $rows / 5, " rows per client | one client, min ms | two, min ms | throughput of two / one |\n";
	print "|---|--:|--:|--:|\n";
	printf "| %s | %.1f | %.1f | %.2fx |\n", $_->[0], min(@{ $alone{ $_->[0] } }), min(@{ $together{ $_->[0] } }),
		scaling($_->[0])
		for @pairs;
	return;
}

sub scaling { return 2 * min(@{ $alone{ $_[0] } }) / min(@{ $together{ $_[0] } }) }

sub print_writers
{
	print "\n| one statement beside a writer without pause | publishes/s | alone, min ms | beside, min ms | beside / alone |\n|---|--:|--:|--:|--:|\n";
	for my $case (@beside)
	{
		my ($name, undef, $procedure) = @$case;
		printf "| %s, %s | %.0f | %.1f | %.1f | %.2fx |\n", $name, $procedure,
			median(map { $_->[1] } grep { $_->[0] eq $procedure } @publishes),
			min(@{ $without{"$procedure\t$name"} }), min(@{ $with{"$procedure\t$name"} }), slowdown($procedure, $name);
	}
	return;
}

sub slowdown { return min(@{ $with{"$_[0]\t$_[1]"} }) / min(@{ $without{"$_[0]\t$_[1]"} }) }

# [what, value, "at most" or "at least", goal]
sub goals
{
	my ($call, $float8, $numeric) = ('count(X)', 'sum(amount * X), float8', 'sum(price * X), numeric');
	my ($noop, $hash) = ('no-op', 'no-op, unpack, hash key');
	my $get = above($call, 'get_float8, 30 keys');
	my $rate = above($call, 'rate_float8');
	my @goals = (
		['get_float8 / no-op, above the bare column', $get / above($call, $noop), 'at most', 4.0],
		['get_float8 of 200 keys / no-op, above the bare column',
			above($call, 'get_float8, 200 keys') / above($call, 'no-op (item)'), 'at most', 4.0],
		['rate_float8 / no-op, above the bare column', $rate / above($call, $noop), 'at most', 4.0],
		['get_float8 / no-op + unpack + hash', $get / above($call, $hash), 'at most', 1.6],
		['rate_float8 / no-op + unpack + hash', $rate / above($call, $hash), 'at most', 1.6],
		['hash join / rate_float8, whole query', least($float8, 'hash join') / least($float8, 'rate_float8'), 'at least', 1.9],
		['hash join / rate_float8, above base', above($float8, 'hash join') / above($float8, 'rate_float8'), 'at least', 5],
		['hash join / get_float8, above base', above($float8, 'hash join') / above($float8, 'get_float8'), 'at least', 5],
		['hash join / rate, whole query, numeric', least($numeric, 'hash join') / least($numeric, 'rate'), 'at least', 1.4],
		['hash join / rate, above base, numeric', above($numeric, 'hash join') / above($numeric, 'rate')],
		['current_setting()::numeric / rate, above base', above($numeric, 'current_setting()::numeric') / above($numeric, 'rate')],
		['rate / rate with two arguments, above base', above($numeric, 'rate') / above($numeric, 'rate, two arguments')],
	);

	for my $way ('scalar subselect', 'SQL function', 'plpgsql function')
	{
		push @goals, ["$way / rate_float8, above base", above("sum(amount * X), float8, $few", $way) / above($float8, 'rate_float8'),
			'at least', 50];
		push @goals, ["$way / get_numeric, above base, numeric",
			above("sum(price * X), numeric, $few", $way) / above($numeric, 'get_numeric'), 'at least', 50];
	}
	push @goals, ["two clients / one, $_", scaling($_), 'at least', 1.8] for 'get_float8', 'rate_float8';
	push @goals, ['beside a writer / alone, get_float8, put', slowdown('put', 'get_float8'), 'at most', 1.10];
	push @goals, ['beside a writer / alone, rate_float8, set_rates', slowdown('set_rates', 'rate_float8'), 'at most', 1.10];
	return @goals;
}

sub print_goals
{
	print "\n| ratio, by min | this run | goal | |\n|---|--:|--:|---|\n";
	for (goals())
	{
		my ($what, $value, $direction, $goal) = @$_;
		my $met = !defined $goal ? '' : ($direction eq 'at most' ? $value <= $goal : $value >= $goal) ? 'met' : 'NOT MET';

		# A cost below zero means that the two minima come from different moods of the machine.
		$met = 'too noisy, more rounds' if $value <= 0;
		printf "| %s | %.2fx | %s | %s |\n", $what, $value, defined $goal ? "$direction ${goal}x" : '', $met;
	}
	return;
}

# A plan other than the one that a case is named after would compare something else.
sub check_plans
{
	for my $group (@groups)
	{
		for my $case (@$group[2 .. $#$group])
		{
			next if $case->[0] ne 'hash join';
			die "not a hash join: $case->[2]\n" if !grep { /Hash Join/ } query($reader, "EXPLAIN $case->[2]");
		}
	}
	return;
}

check_plans();
for my $round (0 .. $rounds)
{
	print STDERR "\rround $round of $rounds";
	run_groups();
	run_pairs();
	run_beside_writer();
	# The first one only warms up.
	(%taken, %alone, %together, %without, %with, @publishes) = () if $round == 0;
}
print STDERR "\n";
print_cases();
print_pairs();
print_writers();
print_goals();
