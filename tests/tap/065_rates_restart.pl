# If this fails, each restart of a server costs the provider a request, or rates look younger, or older, than they are.

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
	}
}
EOT

# nginx makes the ETag of a file's size and its time in seconds, so each rate below has another length.
sub publish
{
	my ($usd) = @_;
	PostgreSQL::Test::Utils::append_to_file("$folder/www/new",
		qq({"amount":1.0,"base":"EUR","date":"2025-04-04","rates":{"USD":$usd,"GBP":0.8}}));
	rename "$folder/www/new", "$folder/www/latest" or die $!;
	return;
}

my $pid = fork // die $!;
if ($pid == 0)
{
	exec $nginx, '-p', $folder, '-e', "$folder/error.log", '-c', "$folder/nginx.conf" or POSIX::_exit(1);
}
END { local $?; if ($pid) { kill 'TERM', $pid; waitpid $pid, 0 } }
for (1 .. 600)
{
	last if IO::Socket::INET->new(PeerAddr => '127.0.0.1', PeerPort => $port);
	select undef, undef, undef, 0.1;
}
sub requests { return -e "$folder/access.log" ? scalar(() = slurp_file("$folder/access.log") =~ /\n/g) : 0 }

publish('1.10');
my $node = PostgreSQL::Test::Cluster->new('main');
$node->init(allows_streaming => 1);
$node->append_conf('postgresql.conf', "restart_after_crash = on\nautovacuum = off\npg_registry.rates_max_value_age = 0\n"
	  . "pg_registry.rates_url = 'http://localhost:$port/latest'\npg_registry.rates_interval = '1h'");
$node->start;
$node->safe_psql('postgres', 'CREATE EXTENSION pg_registry');

sub one { return $node->safe_psql('postgres', "SELECT $_[0]") }
sub wait_for { return $node->poll_query_until('postgres', "SELECT $_[0]") }
sub fetch { return one("concat_ws('|', ok, http_status, changed) FROM registry.refresh('rates')") }
sub checked { return one("checked_at FROM registry.rates WHERE currency = 'USD'") }
my $idle = "scheduler_state = 'idle' FROM registry.status()";

# The scheduler has made up its mind.  A request that it made would be in the log of nginx by then.
sub is_asked
{
	my ($n, $what) = @_;
	my $before = $_[2] // requests();

	wait_for($idle) or die;
	is(requests() - $before, $n, $what);
	return;
}

wait_for($idle) or die;
wait_for('count(*) = 1 FROM registry.rate_sets') or die;
is(requests(), 1, 'one request');

# ---------------------------------------------------------------------------
# While rates are younger than the interval, nobody asks
# ---------------------------------------------------------------------------

# how, and whether the time of the last answer is in memory only
my @restarts = (
	[ 'a restart', sub { $node->restart } ],
	[ 'an immediate shutdown', sub { $node->stop('immediate'); $node->start } ],
	[ 'kill -9 of the scheduler', sub {
			my $offset = -s $node->logfile;
			kill 'KILL', one('scheduler_pid FROM registry.status()');
			$node->wait_for_log(qr/database system is ready to accept connections/, $offset);
		} ],
	[ 'a restart of the scheduler', sub {
			my $scheduler = one('scheduler_pid FROM registry.status()');
			one('registry.restart_workers()');
			wait_for("scheduler_pid <> $scheduler FROM registry.status()") or die;
		} ]);

for my $restart (@restarts)
{
	my ($what, $code) = @$restart;
	my ($before, $checked) = (requests(), checked());

	$code->();
	is_asked(0, "$what: no request", $before);
	is(one("registry.rate('EUR', 'USD')"), '1.10', 'the rates are there');
	is(checked(), $checked, 'as old as they were');
	like(one("extract(epoch FROM next_refresh - '$checked') / 60 FROM (SELECT rates_next_refresh AS next_refresh FROM registry.status()) s"),
		qr/^(5[6-9]|6[0-3])/, 'the next request is due as if nothing had happened');
}

# The time of an answer without news is not in a table, and yet is not forgotten.
my $fetched = one('max(fetched_at) FROM registry.rate_sets');
is(fetch(), 't|200|f', 'an equal answer');
is(fetch(), 't|304|f', 'and one without a body');
my $checked = checked();
is(one("'$checked' > '$fetched'::timestamptz"), 't', 'make rates younger');
is(one('count(*) FROM registry.rate_sets'), 1, 'without a row');
$node->restart;
is(checked(), $checked, 'the first read after a restart knows it');
is_asked(0, 'and nobody asks');

# ---------------------------------------------------------------------------
# Older ones, and other questions
# ---------------------------------------------------------------------------

my $before = requests();
$node->append_conf('postgresql.conf', "pg_registry.rates_interval = '1s'");
$node->stop;
wait_until_older(2);
$node->start;
wait_for('rates_not_modified > 0 FROM registry.status()');
cmp_ok(requests(), '>', $before, 'rates that are older than the interval: a request');
$node->append_conf('postgresql.conf', "pg_registry.rates_interval = '1h'");
$node->restart;

$before = requests();
$node->append_conf('postgresql.conf', "pg_registry.rates_currencies = 'USD'");
$node->restart;
is_asked(1, 'other currencies are wanted: a request', $before);
is(one("string_agg(currency, ' ' ORDER BY currency) FROM registry.rates WHERE NOT stale"), 'EUR USD', 'for them');

$before = requests();
unlink $node->data_dir . '/pg_stat/pg_registry.answer' or die $!;
$node->restart;
is_asked(1, 'without the file: a request', $before);
wait_for("count(*) = 2 FROM registry.rate_sets") or die;

$before = requests();
$node->stop;
PostgreSQL::Test::Utils::append_to_file($node->data_dir . '/pg_stat/pg_registry.answer.new', 'x' x 56);
rename $node->data_dir . '/pg_stat/pg_registry.answer.new', $node->data_dir . '/pg_stat/pg_registry.answer' or die $!;
$node->start;
is_asked(1, 'with a file that is not ours: a request', $before);
like(slurp_file($node->logfile), qr/ignoring invalid data in file "pg_stat\/pg_registry\.answer"/, 'and the log says so');

# Until the file's time is that many seconds ago.
sub wait_until_older
{
	my ($seconds) = @_;
	my $at = (stat $node->data_dir . '/pg_stat/pg_registry.answer')[9];

	select undef, undef, undef, 0.1 while time - $at <= $seconds;
	return;
}

$node->stop;
done_testing();
