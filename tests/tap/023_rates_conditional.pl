# If this fails, every poll of a real web server costs the whole body, or "not
# modified" vouches for rates that this server did not send.

use strict;
use warnings;

use IO::Socket::INET;
use POSIX ();
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;

my ($nginx) = grep { -x } map { "$_/nginx" } split(/:/, $ENV{PATH}), '/usr/sbin';
plan skip_all => 'nginx is not installed' unless $nginx;

my $folder = PostgreSQL::Test::Utils::tempdir;
my $port = PostgreSQL::Test::Cluster::get_free_port();
mkdir "$folder/$_" or die "$folder/$_: $!" for qw(www tmp);
PostgreSQL::Test::Utils::append_to_file("$folder/nginx.conf", <<"EOT");
daemon off;
worker_processes 1;
pid $folder/pid;
error_log $folder/error.log;
events {}
http {
	access_log $folder/access.log;
	default_type application/json;
	client_body_temp_path $folder/tmp/body;
	proxy_temp_path $folder/tmp/proxy;
	fastcgi_temp_path $folder/tmp/fastcgi;
	uwsgi_temp_path $folder/tmp/uwsgi;
	scgi_temp_path $folder/tmp/scgi;
	server {
		listen 127.0.0.1:$port;
		root $folder/www;
		location /no-etag/ { etag off; alias $folder/www/; }
	}
}
EOT

# A real file, replaced as one does.  nginx makes the ETag of its size and its time in seconds, so each rate
# below has another length.
sub publish
{
	my ($usd) = @_;
	my $new = "$folder/www/new";
	PostgreSQL::Test::Utils::append_to_file($new,
		qq({"amount":1.0,"base":"EUR","date":"2025-04-04","rates":{"USD":$usd}}));
	rename $new, "$folder/www/latest" or die $!;
	return;
}

my $pid;

sub start_nginx
{
	$pid = fork // die $!;
	if ($pid == 0)
	{
		exec $nginx, '-p', $folder, '-e', "$folder/error.log", '-c', "$folder/nginx.conf" or POSIX::_exit(1);
	}
	for (1 .. 600)
	{
		return if IO::Socket::INET->new(PeerAddr => '127.0.0.1', PeerPort => $port);
		select undef, undef, undef, 0.1;
	}
	die 'nginx does not start';
}

sub stop_nginx
{
	kill 'TERM', $pid;
	waitpid $pid, 0;
	$pid = 0;
	return;
}

END { local $?; stop_nginx() if $pid }

my $node = PostgreSQL::Test::Cluster->new('main');
$node->init;
$node->append_conf(
	'postgresql.conf', qq(
pg_registry.rates_url = 'http://localhost:$port/latest'
pg_registry.rates_max_value_age = 0
));
publish('1.100');
start_nginx();
$node->start;
$node->safe_psql('postgres', 'CREATE EXTENSION pg_registry');

sub one { return $node->safe_psql('postgres', "SELECT $_[0]") }
sub fetch { return one("concat_ws('|', ok, http_status, changed, error) FROM registry.refresh('rates')") }
sub requests { return scalar(() = slurp_file("$folder/access.log") =~ /\n/g) }
sub rate { return one("registry.rate('EUR', 'USD')") }

$node->poll_query_until('postgres', "SELECT scheduler_state = 'idle' FROM registry.status()") or die;
is(rate(), '1.100', 'fetched from nginx');

my ($fetched, $checked) = split /\|/,
  one("concat_ws('|', fetched_at, checked_at) FROM registry.rates WHERE currency = 'USD'");
my $not_modified = one('rates_not_modified FROM registry.status()');
is(fetch(), 't|304|f', 'the second time nothing is sent');
is(one("fetched_at = '$fetched' AND checked_at > '$checked' FROM registry.rates WHERE currency = 'USD'"),
	't', 'the rates were checked, not fetched');
is(one("rates_not_modified - $not_modified FROM registry.status()"), 1, 'and counted');
is(one("rates_bytes FROM registry.status()"), 0, 'no body');

publish('1.1010');
is(fetch(), 't|200|t', 'a changed file is sent');
is(rate(), '1.1010', 'and served');

# Rates that somebody has set stay until the provider says something new; that it says the same is no news, and no word
# about them.
one("registry.set_rates('EUR', '{\"USD\": 1.2}')");
is(rate(), '1.2', 'set_rates');
my $by_hand = one("concat_ws('|', checked_at, source) FROM registry.rates WHERE currency = 'USD'");
my $requests = requests();
is(fetch(), 't|304|f', 'the server has nothing new');
is(requests(), $requests + 1, 'in one request');
is(one("concat_ws('|', checked_at, source) FROM registry.rates WHERE currency = 'USD'"), $by_hand, 'which says nothing about rates by hand');
publish('1.10101');
is(fetch(), 't|200|t', 'a changed file');
is(rate(), '1.10101', 'replaces them');

# A set that was refused must not become "not modified".
publish('9.99');
is(one("ok FROM registry.refresh('rates')"), 'f', 'a jump is refused');
is(one("concat_ws('|', ok, http_status) FROM registry.refresh('rates')"), 'f|200',
	'and refused again, in full');
is(rate(), '1.10101', 'the old rate stays');

# nginx dies and comes back.
stop_nginx();
like(fetch(), qr/^f\|f\|/, 'no server');
is(rate(), '1.10101', 'the old rate stays');
is(one("age > '0' AND NOT stale FROM registry.rates WHERE currency = 'USD'"), 't', 'with its age');
publish('1.1020304');
start_nginx();
is(fetch(), 't|200|t', 'it is back');

# Without an ETag, the time of the last change does the same.
$node->append_conf('postgresql.conf', "pg_registry.rates_url = 'http://localhost:$port/no-etag/latest'");
$node->reload;
$node->poll_query_until('postgres',
	"SELECT rates_source LIKE '%no-etag%' AND scheduler_state = 'idle' FROM registry.status()") or die;
is(fetch(), 't|304|f', 'If-Modified-Since');

$node->stop;
done_testing();
