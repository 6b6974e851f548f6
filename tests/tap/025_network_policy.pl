# If this fails, the extension opens a door: a URL reaches what only this
# machine should reach, a proxy of the environment sees the requests, libcurl
# gets into every session, or something of ours listens on the network.

use strict;
use warnings;

use FindBin;
use lib "$FindBin::RealBin/lib";

use FaultServer;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;

my $rates = '{"amount":1.0,"base":"EUR","date":"2025-04-04","rates":{"USD":1.10}}';

# The TCP sockets that listen and belong to a process of this server.  (Others may start servers meanwhile.)
sub listeners
{
	my ($postmaster) = @_;
	my %owned;
	for my $stat (glob '/proc/[0-9]*/stat')
	{
		my $text = eval { slurp_file($stat) } // next;
		my ($pid, $parent) = $text =~ /^(\d+) \(.*\) \S (\d+)/s or next;
		next unless $pid == $postmaster || $parent == $postmaster;
		(readlink($_) // '') =~ /^socket:\[(\d+)\]$/ and $owned{$1} = 1 for glob "/proc/$pid/fd/*";
	}
	my @found;
	for my $file (grep { -r } qw(/proc/net/tcp /proc/net/tcp6))
	{
		for (split /\n/, slurp_file($file))
		{
			my (undef, $address, undef, $state, undef, undef, undef, undef, undef, $inode) = split;
			push @found, $address if $state eq '0A' && $owned{$inode};
		}
	}
	return join ' ', sort @found;
}

sub maps { return slurp_file("/proc/$_[0]/maps") }

# A proxy that everybody else would use.
my $proxy = FaultServer->new(PostgreSQL::Test::Utils::tempdir);
$proxy->serve({ body => $rates =~ s/1\.10/6.66/r });
$ENV{$_} = $proxy->url('/') for qw(http_proxy https_proxy HTTPS_PROXY all_proxy ALL_PROXY);
delete $ENV{no_proxy};

my $web = FaultServer->new(PostgreSQL::Test::Utils::tempdir);
$web->serve({ body => $rates });

my $node = PostgreSQL::Test::Cluster->new('main');
$node->init;
$node->append_conf('postgresql.conf', "pg_registry.rates_url = '@{[ $web->url ]}'");
$node->start;
$node->safe_psql('postgres', 'CREATE EXTENSION pg_registry');

sub one { return $node->safe_psql('postgres', "SELECT $_[0]") }

$node->poll_query_until('postgres', "SELECT scheduler_state = 'idle' FROM registry.status()") or die;
is(one("registry.rate('EUR', 'USD')"), '1.10', 'the rates come from where the URL says');
is(scalar(() = $proxy->requests), 0, 'and no proxy was asked');

# The server itself listens on a Unix socket only.
my $postmaster = (split /\n/, slurp_file($node->data_dir . '/postmaster.pid'))[0];
is(listeners($postmaster), '', 'nothing of ours listens');

# libcurl is in the scheduler and in nothing else.
my $session = $node->background_psql('postgres');
my $backend = $session->query("SELECT pg_backend_pid() FROM (SELECT registry.rate('EUR', 'USD')) AS used");
$session->query("SELECT * FROM registry.refresh('rates')");
my $scheduler = one('scheduler_pid FROM registry.status()');
like(maps($backend), qr/pg_registry\.so/, 'a backend has pg_registry');
unlike(maps($backend), qr/libcurl|pg_registry_http/, 'and no libcurl');
unlike(maps($postmaster), qr/libcurl|pg_registry_http/, 'nor has the postmaster');
like(maps($scheduler), qr/libcurl/, 'the scheduler has');
unlike(slurp_file("/proc/$scheduler/cmdline"), qr/http:|latest/, 'its title shows no URL');
$session->quit;

# No handler of PostgreSQL's may run in a thread of the resolver.
opendir my $threads, "/proc/$scheduler/task" or die $!;
is(scalar(grep { /^\d/ } readdir $threads), 1, 'no thread is left in it');

# Addresses that are not for us, however they are written.  None of them is ever connected.
my @refused = (
	[ 'https://10.0.0.1/', '10.0.0.1', 'a private address' ],
	[ 'https://172.31.255.255/', '172.31.255.255', 'a private address' ],
	[ 'https://192.168.1.1:8443/x', '192.168.1.1', 'a private address' ],
	[ 'https://100.100.100.200/', '100.100.100.200', "a shared address of a provider's network" ],
	[ 'https://169.254.169.254/latest/meta-data', '169.254.169.254', 'a link-local or metadata address' ],
	[ 'https://168.63.129.16/', '168.63.129.16', 'a metadata address' ],
	[ 'https://0.0.0.0/', '0.0.0.0', 'not an address of a host' ],
	[ 'https://0/', '0.0.0.0', 'not an address of a host' ],
	[ 'https://167772161/', '10.0.0.1', 'a private address' ],
	[ 'https://0x0a000001/', '10.0.0.1', 'a private address' ],
	[ 'https://012.1/', '10.0.0.1', 'a private address' ],
	[ 'https://255.255.255.255/', '255.255.255.255', 'a reserved address' ],
	[ 'https://224.0.0.1/', '224.0.0.1', 'a multicast address' ],
	[ 'https://[fd00:ec2::254]/', 'fd00:ec2::254', 'a private address' ],
	[ 'https://[fe80::1]/', 'fe80::1', 'a link-local or metadata address' ],
	[ 'https://[::ffff:10.0.0.1]/', '::ffff:10.0.0.1', 'a private address' ],
	[ 'https://[64:ff9b::a9fe:a9fe]/', '64:ff9b::a9fe:a9fe', 'a link-local or metadata address' ],
	[ 'https://[2002:a00:1::]/', '2002:a00:1::', 'a private address' ],
	[ 'https://[2001:db8::1]/', '2001:db8::1', 'a reserved address' ],
);
for my $case (@refused)
{
	my ($url, $address, $kind) = @$case;
	my $attempts = one('rates_attempts FROM registry.status()');
	$node->append_conf('postgresql.conf', "pg_registry.rates_url = '$url'");
	$node->reload;
	$node->poll_query_until('postgres',
		"SELECT rates_source = '$url' AND rates_attempts > $attempts AND scheduler_state <> 'fetching' "
		  . 'FROM registry.status()')
	  or die;
	my $error = one('rates_last_error FROM registry.status()');
	# A machine without IPv6 does not get as far as opening the socket.
	$url =~ /\[/ && $error =~ /Network is unreachable|Couldn't connect|Failed to connect|Address family/
	  ? pass("$url: $error")
	  : is($error, "connection to $address refused: it is $kind", "$url is refused");
}
is(scalar(() = $proxy->requests), 0, 'no proxy was asked for any of them');
is(one("registry.rate('EUR', 'USD')"), '1.10', 'the rates stay');

# A server that cannot prove who it is.
SKIP:
{
	my $folder = PostgreSQL::Test::Utils::tempdir;
	my ($openssl) = grep { -x } map { "$_/openssl" } split /:/, $ENV{PATH};
	skip 'openssl is not installed', 1 unless $openssl;
	my $port = PostgreSQL::Test::Cluster::get_free_port();
	PostgreSQL::Test::Utils::system_or_bail($openssl,
		qw(req -x509 -nodes -newkey rsa:2048 -days 2 -subj /CN=localhost),
		'-keyout', "$folder/key", '-out', "$folder/cert");
	my $pid = fork // die $!;
	if ($pid == 0)
	{
		open STDOUT, '>', '/dev/null';
		open STDERR, '>', '/dev/null';
		exec $openssl, 's_server', '-quiet', '-www', '-accept', "127.0.0.1:$port", '-key', "$folder/key",
			'-cert', "$folder/cert"
		  or POSIX::_exit(1);
	}
	my $attempts = one('rates_attempts FROM registry.status()');
	$node->append_conf('postgresql.conf', "pg_registry.rates_url = 'https://localhost:$port/latest'");
	$node->reload;
	$node->poll_query_until('postgres',
		"SELECT rates_last_error ~ 'certificate' FROM registry.status(), registry.refresh('rates')")
	  or diag(one('rates_last_error FROM registry.status()'));
	like(one('rates_last_error FROM registry.status()'), qr/self.signed certificate/,
		'a certificate that nobody signed is refused');
	kill 'KILL', $pid;
	waitpid $pid, 0;
}

$node->stop;
done_testing();
