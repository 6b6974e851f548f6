# The three kinds of peers that the benchmark drives: psql, which times statements; bare connections, of which
# there can be a thousand; and a program that answers each line with one number.
package Bench::Session;
use strict;
use warnings;
use Exporter 'import';
use IO::Socket::UNIX;
use IPC::Open2;

our @EXPORT = qw(session send_to finish query value milliseconds program ask connection say_to);

# psql at the other end of two pipes.
sub session
{
	my %s;

	$s{pid} = open2($s{out}, $s{in}, 'sh', '-c', 'exec psql -X -q -A -t 2>&1');
	send_to(\%s, '\timing on');
	finish(\%s);
	$s{backend} = value(\%s, 'SELECT pg_backend_pid()');
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
	die "$statement: @$lines\n" if grep { /ERROR:|FATAL:/ } @$lines;
	return @$lines;
}

sub value { return (query(@_))[0] }

sub milliseconds
{
	my ($s, $statement) = @_;

	send_to($s, "$statement;");
	my ($lines, $times) = finish($s);
	die "$statement: @$lines\n" if @$lines != 1 || @$times != 1;
	return $times->[0];
}

sub program
{
	my (@command) = @_;
	my %s;

	$s{pid} = open2($s{out}, $s{in}, @command);
	return \%s;
}

sub ask
{
	my ($s, $line) = @_;

	print { $s->{in} } "$line\n";
	$s->{in}->flush;
	my $answer = readline $s->{out};
	die "no answer to \"$line\"\n" if !defined $answer;
	chomp $answer;
	return $answer;
}

# PostgreSQL's protocol, as much of it as "trust" and statements without interesting results need.
sub connection
{
	my $socket = IO::Socket::UNIX->new(Peer => "$ENV{PGHOST}/.s.PGSQL.$ENV{PGPORT}") or die "cannot connect: $!\n";
	my $start = pack 'N (Z*)4 x', 196608, 'user', $ENV{PGUSER}, 'database', $ENV{PGDATABASE};

	$socket->syswrite(pack('N', 4 + length $start) . $start);
	await_ready($socket);
	return $socket;
}

sub say_to
{
	my ($socket, $statements) = @_;

	$socket->syswrite(pack 'a N Z*', 'Q', 5 + length $statements, $statements);
	await_ready($socket);
	return;
}

sub await_ready
{
	my ($socket) = @_;

	for (;;)
	{
		read($socket, my $head, 5) == 5 or die "a connection ended early\n";
		my ($type, $length) = unpack 'a N', $head;
		my $body = '';
		read($socket, $body, $length - 4) if $length > 4;
		die "a connection was told: $body\n" if $type eq 'E';
		return if $type eq 'Z';
	}
}

1;
