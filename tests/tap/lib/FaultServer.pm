# A web server on loopback that answers as badly as it is told to.
#
#   my $web = FaultServer->new($folder);          # starts listening on a free port
#   $web->serve({ body => '...', status => 404 });  # every request from now on
#   $web->serve($first, $second);                 # one after the other, the last for ever
#   $web->url('/path'); $web->requests; $web->stop;
#
# Keys of an answer: status, reason, headers (list of lines), body, delay (seconds before the first byte), and
# mode:
#   normal        with Content-Length                      (the default)
#   chunked       the same in chunks, without Content-Length
#   short         Content-Length promises 100 bytes more than come
#   half_chunked  chunks without the last one
#   declared      Content-Length as in "length", and no byte of the body
#   endless       chunks without end
#   hang          nothing at all, and the connection stays open
#   hang_in_body  headers and half the body, and the connection stays open
#   trickle       the body byte by byte, "delay" seconds between them
#   reset         the connection is reset
#   close         the connection is closed without an answer
#   raw           "body" is all that is sent
#
# The server is a process of its own, and so is each connection; they read what to do from a file in $folder,
# and write down what they were asked.
package FaultServer;

use strict;
use warnings;

use Fcntl qw(:flock SEEK_SET);
use IO::Socket::INET;
use POSIX ();
use Socket qw(SOL_SOCKET SO_LINGER);
use Storable qw(lock_retrieve lock_store);
use Time::HiRes qw(sleep);

sub new
{
	my ($class, $folder) = @_;
	my $listener = IO::Socket::INET->new(
		LocalAddr => '127.0.0.1',
		Listen => 64,
		ReuseAddr => 1) or die "cannot listen: $!";
	my $self = bless {
		folder => $folder,
		port => $listener->sockport,
		plan => "$folder/plan",
		log => "$folder/requests",
	}, $class;

	$self->serve({ status => 503 });
	$self->{pid} = fork // die "cannot fork: $!";
	if ($self->{pid} == 0)
	{
		POSIX::setpgid(0, 0);
		# Whatever happens, the END blocks of the test are not for this process.
		eval { $self->_listen($listener) };
		POSIX::_exit(0);
	}
	# Both sides set it, so that stop() finds the group whoever comes first.
	POSIX::setpgid($self->{pid}, $self->{pid});
	return $self;
}

sub port { return $_[0]{port} }

sub url
{
	my ($self, $path) = @_;
	return "http://127.0.0.1:$self->{port}" . ($path // '/latest');
}

sub serve
{
	my ($self, @answers) = @_;
	lock_store({ answers => \@answers, next => 0 }, $self->{plan} . '.new');
	rename $self->{plan} . '.new', $self->{plan} or die "$self->{plan}: $!";
	return;
}

# What was asked so far: the text of each request.
sub requests
{
	my ($self) = @_;
	open my $log, '<', $self->{log} or return;
	local $/ = "\n\n";
	my @requests = <$log>;
	return @requests;
}

sub stop
{
	my ($self) = @_;
	return unless $self->{pid};
	kill 'KILL', -$self->{pid};
	waitpid $self->{pid}, 0;
	$self->{pid} = 0;
	return;
}

sub DESTROY
{
	my ($self) = @_;
	local ($?, $!);
	$self->stop;
	return;
}

sub _listen
{
	my ($self, $listener) = @_;

	$SIG{CHLD} = 'IGNORE';
	$SIG{PIPE} = 'IGNORE';
	while (1)
	{
		my $client = $listener->accept or next;
		my $pid = fork;
		if (defined $pid && $pid == 0)
		{
			close $listener;
			eval { $self->_answer($client); 1 } or warn $@;
			POSIX::_exit(0);
		}
		close $client;
	}
	return;
}

# The next answer of the plan; a lock makes concurrent requests take turns.
sub _next_answer
{
	my ($self) = @_;
	open my $lock, '>>', "$self->{folder}/lock" or die "lock: $!";
	flock $lock, LOCK_EX;
	my $plan = lock_retrieve($self->{plan});
	my $n = $plan->{next}++;
	lock_store($plan, $self->{plan});
	my @answers = @{ $plan->{answers} };
	return $answers[ $n < @answers ? $n : -1 ];
}

sub _note
{
	my ($self, $request) = @_;
	$request =~ s/\r//g;
	open my $log, '>>', $self->{log} or die "$self->{log}: $!";
	flock $log, LOCK_EX;
	syswrite $log, $request;
	return;
}

sub _answer
{
	my ($self, $client) = @_;
	my $request = '';

	while ($request !~ /\r\n\r\n/)
	{
		sysread($client, $request, 4096, length $request) or return;
	}
	my $answer = $self->_next_answer;
	$self->_note($request);

	my $mode = $answer->{mode} // 'normal';
	my $body = $answer->{body} // '';
	my $send = sub { syswrite($client, join '', @_) // POSIX::_exit(0) };
	my $head = sub { $send->(_head($answer, @_)) };

	sleep $answer->{delay} if $answer->{delay} && $mode ne 'trickle';
	if ($mode eq 'normal')
	{
		$head->('Content-Length: ' . length $body);
		$send->($body);
	}
	elsif ($mode eq 'chunked' || $mode eq 'half_chunked')
	{
		$head->('Transfer-Encoding: chunked');
		$send->(_chunk($_)) for unpack '(a1000)*', $body;
		$send->("0\r\n\r\n") if $mode eq 'chunked';
	}
	elsif ($mode eq 'endless')
	{
		$head->('Transfer-Encoding: chunked');
		$send->(_chunk(' ' x 16384)) while 1;
	}
	elsif ($mode eq 'short')
	{
		$head->('Content-Length: ' . (100 + length $body));
		$send->($body);
	}
	elsif ($mode eq 'declared')
	{
		$head->("Content-Length: $answer->{length}");
		_wait_for_end($client);
	}
	elsif ($mode eq 'hang')
	{
		_wait_for_end($client);
	}
	elsif ($mode eq 'hang_in_body')
	{
		$head->('Content-Length: ' . length $body);
		$send->(substr $body, 0, length($body) / 2);
		_wait_for_end($client);
	}
	elsif ($mode eq 'trickle')
	{
		$head->('Content-Length: ' . length $body);
		for my $byte (split //, $body)
		{
			$send->($byte);
			sleep $answer->{delay};
		}
	}
	elsif ($mode eq 'reset')
	{
		setsockopt $client, SOL_SOCKET, SO_LINGER, pack 'ii', 1, 0;
	}
	elsif ($mode eq 'raw')
	{
		$send->($body);
	}
	elsif ($mode ne 'close')
	{
		die "unknown mode $mode";
	}
	close $client;
	return;
}

sub _head
{
	my ($answer, @more) = @_;
	my $status = $answer->{status} // 200;
	my $reason = $answer->{reason} // { 200 => 'OK', 304 => 'Not Modified' }->{$status} // 'Whatever';
	# Not modified has no body, and so no length.
	@more = () if $status == 304;
	return join "\r\n", "HTTP/1.1 $status $reason", 'Connection: close', @{ $answer->{headers} // [] }, @more, '',
	  '';
}

sub _chunk
{
	my ($bytes) = @_;
	return sprintf "%x\r\n%s\r\n", length $bytes, $bytes;
}

# Until the client gives up.
sub _wait_for_end
{
	my ($client) = @_;
	my $bytes;
	1 while sysread $client, $bytes, 4096;
	return;
}

1;
