# A session that speaks the wire protocol itself, for what psql cannot do: several sessions with statements
# under way, Execute with a row limit, the fast path.
#
#   my $s = RawProtocol->new($node, 'postgres');
#   my @rows = $s->query('SELECT 1, 2');         # ([1, 2]); dies on an error
#   my $state = $s->sqlstate('SELECT 1/0');      # '22012', '' if there was none; the rest in $s->{error}
#   $s->send($sql); ... @rows = $s->finish;      # the same in two steps; finish does not die
#   $s->parse($sql); $s->bind; @rows = $s->execute($limit); ... $s->sync;
#   my $value = $s->call($function_oid, @texts);   # fast path
#
# A row is a reference to a list, of text or undef; COPY data are rows of one column.
package RawProtocol;

use strict;
use warnings;

use IO::Select;
use IO::Socket::UNIX;
use PostgreSQL::Test::Utils;

sub new
{
	my ($class, $node, $database, %options) = @_;
	my $path = $node->host . '/.s.PGSQL.' . $node->port;
	my $socket = IO::Socket::UNIX->new(Peer => $path) or die "cannot connect to $path: $!";
	my $self = bless { socket => $socket, error => undef, rows => [] }, $class;
	my %startup = (user => scalar getpwuid($<), database => $database, %options);
	my $body = pack('N', 196608) . join('', map { "$_\0$startup{$_}\0" } sort keys %startup) . "\0";

	syswrite($socket, pack('N', 4 + length $body) . $body);
	$self->finish;
	die "cannot connect: $self->{error}{M}" if $self->{error};
	return $self;
}

sub message
{
	my ($self, $type, $body) = @_;
	my $packet = $type . pack('N', 4 + length $body) . $body;

	local $SIG{PIPE} = 'IGNORE';
	(syswrite($self->{socket}, $packet) // -1) == length $packet or die "cannot send: $!";
	return $self;
}

sub bytes
{
	my ($self, $n) = @_;
	my $data = '';

	while (length $data < $n)
	{
		die 'no answer in time' unless IO::Select->new($self->{socket})->can_read($PostgreSQL::Test::Utils::timeout_default);
		sysread($self->{socket}, $data, $n - length $data, length $data) or return;
	}
	return $data;
}

# Read until one of these message types; rows and the error are collected.  A closed connection is an error.
sub read_to
{
	my ($self, $types) = @_;

	$self->{error} = undef;
	$self->{rows} = [];
	$self->{notices} = [];
	while (1)
	{
		my $head = $self->bytes(5);
		my ($type, $length) = $head ? unpack('aN', $head) : ('', 4);
		my $body = $length > 4 ? $self->bytes($length - 4) : '';

		if ($type eq '') { $self->{error} //= { C => 'closed', M => 'connection closed' }; last }
		elsif ($type eq 'D')
		{
			my ($columns, $rest) = unpack('na*', $body);
			my @row;
			for (1 .. $columns)
			{
				(my $size, $rest) = unpack('Na*', $rest);
				push @row, $size == 0xFFFFFFFF ? undef : substr($rest, 0, $size, '');
			}
			push @{ $self->{rows} }, \@row;
		}
		elsif ($type eq 'd') { push @{ $self->{rows} }, [ $body =~ s/\n\z//r ] }
		elsif ($type eq 'E' || $type eq 'N')
		{
			my %fields = map { substr($_, 0, 1) => substr($_, 1) } grep { $_ ne '' } split /\0/, $body;
			if ($type eq 'E') { $self->{error} //= \%fields }
			else { push @{ $self->{notices} }, $fields{M} }
		}
		elsif ($type eq 'K') { $self->{pid} = unpack('N', $body) }
		elsif ($type eq 'V')
		{
			my $size = unpack('N', $body);
			push @{ $self->{rows} }, [ $size == 0xFFFFFFFF ? undef : substr($body, 4) ];
		}
		last if index($types, $type) >= 0;
	}
	return @{ $self->{rows} };
}

sub finish { return $_[0]->read_to('Z') }
sub send { return $_[0]->message('Q', "$_[1]\0") }

sub run
{
	my ($self, $sql) = @_;

	$self->send($sql);
	return $self->finish;
}

sub query
{
	my ($self, $sql) = @_;
	my @rows = $self->run($sql);

	die "$self->{error}{C}: $self->{error}{M} in: $sql" if $self->{error};
	return @rows;
}

# The first column of the first row.
sub one
{
	my @rows = query(@_);
	return $rows[0][0];
}

sub sqlstate
{
	my ($self, $sql) = @_;

	$self->run($sql);
	return $self->{error} ? $self->{error}{C} : '';
}

sub parse { return $_[0]->message('P', "\0$_[1]\0" . pack('n', 0)) }
sub bind { return $_[0]->message('B', "\0\0" . pack('nnn', 0, 0, 0)) }
sub sync { $_[0]->message('S', ''); return $_[0]->finish }

# At most "limit" rows of the bound statement; the portal stays open.
sub execute
{
	my ($self, $limit) = @_;

	$self->message('E', "\0" . pack('N', $limit))->message('H', '');
	return $self->read_to('sCE');
}

sub call
{
	my ($self, $function, @arguments) = @_;

	$self->message('F',
		pack('Nnn', $function, 0, scalar @arguments) . join('', map { pack('N', length) . $_ } @arguments) . pack('n', 0));
	my @rows = $self->finish;
	die "$self->{error}{C}: $self->{error}{M}" if $self->{error};
	return $rows[0][0];
}

# Is a send() of this session waiting for a heavyweight lock?
sub waits
{
	my ($self, $node) = @_;

	return $node->poll_query_until('postgres',
		"SELECT count(*) > 0 FROM pg_locks WHERE NOT granted AND pid = $self->{pid}");
}

sub close { my ($self) = @_; eval { $self->message('X', '') }; CORE::close($self->{socket}); return }

1;
