# If this fails, a copy of a cluster or a database talks to the outside in the name of its original, or the
# original does not talk any more.
#
# What is sent is counted by the server that it is sent to: a request more or less at any point fails all that follows.

use strict;
use warnings;

use FindBin;
use lib "$FindBin::RealBin/lib";

use FaultServer;
use IO::Socket::INET;
use POSIX ();
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Sys::Hostname;
use Test::More;

my ($nginx) = grep { -x } map { "$_/nginx" } split(/:/, $ENV{PATH}), '/usr/sbin';
plan skip_all => 'nginx is not installed' unless $nginx;

my $folder = PostgreSQL::Test::Utils::tempdir;
my $port = PostgreSQL::Test::Cluster::get_free_port();
mkdir "$folder/$_" or die "$folder/$_: $!" for qw(www tmp);
PostgreSQL::Test::Utils::append_to_file("$folder/www/latest",
	'{"amount":1.0,"base":"EUR","date":"2025-04-04","rates":{"USD":1.1}}');
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
my $pid = fork // die $!;
if ($pid == 0)
{
	exec $nginx, '-p', $folder, '-e', "$folder/error.log", '-c', "$folder/nginx.conf" or POSIX::_exit(1);
}
END { local $?; if ($pid) { kill 'TERM', $pid; waitpid $pid, 0 } }

sub wait_until
{
	my ($condition) = @_;
	for (1 .. 10 * $PostgreSQL::Test::Utils::timeout_default)
	{
		return 1 if $condition->();
		select undef, undef, undef, 0.1;
	}
	return 0;
}
wait_until(sub { IO::Socket::INET->new(PeerAddr => '127.0.0.1', PeerPort => $port) }) or die 'nginx does not start';

# nginx writes its line after the answer, so one that is expected may still be on its way.
my $expected = 0;
sub requests { return -e "$folder/access.log" ? scalar(() = slurp_file("$folder/access.log") =~ /\n/g) : 0 }

sub sent
{
	my ($more, $name) = @_;
	$expected += $more;
	wait_until(sub { requests() >= $expected });
	is(requests(), $expected, "$name: " . ($more ? "$more sent" : 'nothing sent'));
	return;
}

my $url = "http://localhost:$port/latest";
my $with_key = "$url?app_id=0123456789abcdef";
my $conf = qq(
wal_retrieve_retry_interval = 100ms
pg_registry.rates_url = '$url'
pg_registry.rates_interval = '7d'
pg_registry.rates_max_value_age = 0
);

sub one { my ($node, $database, $sql) = @_; return $node->safe_psql($database, "SELECT $sql") }

sub wait_for_state
{
	my ($node, $state, $name) = @_;
	ok($node->poll_query_until('postgres', "SELECT scheduler_state = '$state' FROM registry.status()"), "$name: $state")
	  or diag(one($node, 'postgres', 'registry.status()'));
	return;
}

# Answered by the scheduler after a look at everything that decides.
sub refresh
{
	my ($node, $database) = @_;
	return one($node, $database // 'postgres', "concat_ws('|', ok, error) FROM registry.refresh('rates')");
}

sub set
{
	my ($node, %settings) = @_;
	$node->append_conf('postgresql.conf', "pg_registry.$_ = '$settings{$_}'") for sort keys %settings;
	return;
}

# A URL that nobody has asked, so that a request is due at once.
my $asked = 0;
sub unasked
{
	my ($like) = @_;
	return $like . ($like =~ /\?/ ? '&' : '?') . 'n=' . ++$asked;
}

# ---------------------------------------------------------------------------
# The original
# ---------------------------------------------------------------------------

my $main = PostgreSQL::Test::Cluster->new('main');
$main->init(allows_streaming => 'logical');
$main->append_conf('postgresql.conf', $conf);
$main->start;
$main->safe_psql('postgres', 'CREATE EXTENSION pg_registry; CREATE ROLE dba LOGIN; CREATE DATABASE app OWNER dba');
$main->safe_psql('app', "CREATE EXTENSION pg_registry; SELECT registry.create_registry('r', 'text'), registry.put('r', 'k', 'v')");
wait_for_state($main, 'idle', 'the original');
sent(1, 'the original');
my $armed = "concat_ws('|', armed, held) FROM registry.status()";
is(one($main, $_, $armed), 't', "CREATE EXTENSION arms $_") for qw(postgres app);
is(one($main, 'app', '(SELECT count(*) FROM _registry.stamps s, pg_control_system() c, pg_database d
	WHERE s.system_identifier = c.system_identifier AND s.database = d.oid AND d.datname = current_database() AND s.armed_by = current_user)'), 1, 'with a stamp of its own');
is(one($main, 'app', 'registry.arm()'), 'f', 'arm() has nothing to do');
is(refresh($main, 'app'), 't', 'any armed database may ask for a refresh');
sent(1, 'the original');
is(one($main, 'postgres', 'host FROM registry.status()'), hostname(), 'status() has the name of the host');

# ---------------------------------------------------------------------------
# A copy of the data directory: the configuration decides
# ---------------------------------------------------------------------------

ok($main->poll_query_until($_, 'SELECT count(*) = 1 FROM registry.rate_sets'), "the rates are stored in $_") for qw(postgres app);
$main->backup('online');
$main->stop;
$main->backup_fs_cold('cold');
$main->start;
wait_for_state($main, 'idle', 'the original, again');
sent(0, 'the original, again: its rates are young enough');

my $other_host = 'pg_registry.armed_hosts does not match the name of this host';
my $unnamed = 'the URL may hold a secret, and pg_registry.armed_hosts names no host that may send it';
my @clones = (
	# what a copy finds in its postgresql.conf; why it sends nothing
	[ 'a URL without a secret', {}, '' ],
	[ 'a URL with a key', { rates_url => $with_key }, "held: $unnamed" ],
	[ 'another host', { armed_hosts => 'db1.example.com, ' . hostname() . '?' }, "held: $other_host" ],
	[ 'a list of nobody', { armed_hosts => ' ' }, "held: $other_host" ],
	[ 'this host', { armed_hosts => 'db1.example.com, ' . uc(hostname()), rates_url => $with_key }, '' ],
	[ 'a pattern', { armed_hosts => substr(hostname(), 0, 1) . '*', rates_url => $with_key }, '' ],
	[ 'the switch', { outbound => 'off', armed_hosts => '*' }, 'pg_registry.outbound is off' ],
);
my %made;
for my $clone (@clones)
{
	my ($name, $settings, $why) = @$clone;
	for my $backup (qw(cold online))
	{
		my $copy = PostgreSQL::Test::Cluster->new("clone" . keys %made);
		my $here = "$backup copy, $name";
		$made{$copy->name} = $copy;
		$copy->init_from_backup($main, $backup);
		set($copy, %$settings, rates_url => unasked($settings->{rates_url} // $url));
		$copy->start;
		wait_for_state($copy, $why eq '' ? 'idle' : $why =~ /^held/ ? 'held' : 'outbound off', $here);
		sent($why eq '' ? 1 : 0, $here);
		is(refresh($copy, 'app'), $why eq '' ? 't' : "f|$why", "$here: refresh()");
		sent($why eq '' ? 1 : 0, "$here: refresh()");
		is(one($copy, 'app', $armed), 't', "$here: its databases are what they were");
		if ($why ne '')
		{
			like(slurp_file($copy->logfile), qr/LOG:  exchange rates are not fetched from http\S+: \Q$why\E/, "$here: the log says why");
			unlike(slurp_file($copy->logfile), qr/0123456789abcdef/, "$here: and no secret");
			like(one($copy, 'postgres', 'advice FROM registry.status()'), qr/armed_hosts|outbound/, "$here: status() says what to do");
			set($copy, outbound => 'on', armed_hosts => '*');
			$copy->reload;
			wait_for_state($copy, 'idle', "$here, armed");
			sent(1, "$here, armed");
		}
		$copy->stop('immediate');
	}
}

# On a machine of another name, by its original's configuration.
SKIP:
{
	my @elsewhere = ('unshare', '--user', '--map-current-user', '--keep-caps', '--uts', 'sh', '-c', 'hostname other.example.com && exec "$@"', 'sh');
	skip 'no namespace of our own here', 1 unless IPC::Run::run([ @elsewhere, 'true' ], '>&', \my $output);

	my $copy = PostgreSQL::Test::Cluster->new('elsewhere');
	$copy->init_from_backup($main, 'cold');
	set($copy, armed_hosts => hostname(), rates_url => unasked($url));
	command_ok([ @elsewhere, 'pg_ctl', '-w', '-D', $copy->data_dir, '-l', $copy->logfile, 'start' ], 'a copy on another machine');
	$copy->_update_pid(1);
	wait_for_state($copy, 'held', 'a copy on another machine');
	is(one($copy, 'postgres', 'host FROM registry.status()'), 'other.example.com', 'which has another name');
	is(refresh($copy), "f|held: $other_host", 'refresh() there');
	sent(0, 'a copy on another machine');
	set($copy, armed_hosts => hostname() . ', other.*');
	$copy->reload;
	wait_for_state($copy, 'idle', 'a copy on another machine, armed');
	sent(1, 'a copy on another machine, armed');
	$copy->stop;
}

# ---------------------------------------------------------------------------
# The switch stops what is under way
# ---------------------------------------------------------------------------

# Connections of anybody to nginx.
sub connections
{
	my $lines = join('', map { slurp_file($_) } grep { -r } '/proc/net/tcp', '/proc/net/tcp6');
	my $end = sprintf(':%04X', $port);
	return scalar(() = $lines =~ /^ *\d+: \S+ \S+$end 01 /gm);
}

is(refresh($main), 't', 'a connection that is kept');
sent(1, 'a connection that is kept');
cmp_ok(connections(), '>', 0, 'there it is');
$main->safe_psql('postgres', 'ALTER SYSTEM SET pg_registry.outbound = off');
$main->reload;
wait_for_state($main, 'outbound off', 'switched off');
is(connections(), 0, 'no connection is left');
is(refresh($main), 'f|pg_registry.outbound is off', 'refresh() says why nothing happens');
is(one($main, 'postgres', "hint FROM registry.list_checks() WHERE check_name = 'rates_fresh'"), '', 'rates that are there are fresh');
sent(0, 'switched off');
$main->safe_psql('postgres', 'ALTER SYSTEM RESET pg_registry.outbound');
$main->reload;
wait_for_state($main, 'idle', 'switched on');
is(refresh($main), 't', 'and in working order');
sent(1, 'switched on');

my $slow = FaultServer->new(PostgreSQL::Test::Utils::tempdir);
$slow->serve({ mode => 'hang' });
set($main, rates_url => $slow->url, rates_timeout => '300s');
$main->reload;
wait_for_state($main, 'fetching', 'a request that hangs');
my $waiting = $main->background_psql('postgres', on_error_stop => 0);
$waiting->query_until(qr/started/, "\\echo started\nSELECT ok, error FROM registry.refresh('rates', timeout => '1 h');\n");
ok($main->poll_query_until('postgres', "SELECT count(*) = 1 FROM pg_stat_activity WHERE wait_event_type = 'Extension' AND query LIKE 'SELECT ok, error%'"), 'somebody waits for it');
ok(wait_until(sub { (() = $slow->requests) == 1 }), 'it has been sent');
$main->safe_psql('postgres', 'ALTER SYSTEM SET pg_registry.outbound = off');
$main->reload;
like($waiting->query("SELECT 'still here'"), qr/f\|pg_registry.outbound is off\nstill here/, 'it is broken off, and who waits is told');
$waiting->quit;
wait_for_state($main, 'outbound off', 'a request that hung');
set($main, rates_url => $url, rates_timeout => '15s');
$main->safe_psql('postgres', 'ALTER SYSTEM RESET pg_registry.outbound');
$main->reload;
wait_for_state($main, 'idle', 'switched on again');
is(scalar(() = $slow->requests), 1, 'it was not sent again');
sent(1, 'switched on again');
$slow->stop;

# ---------------------------------------------------------------------------
# Copies of a database: the stamp decides
# ---------------------------------------------------------------------------

my $other = PostgreSQL::Test::Cluster->new('other');
$other->init(allows_streaming => 'logical');
$other->append_conf('postgresql.conf', $conf);
$other->start;
$other->safe_psql('postgres', 'CREATE EXTENSION pg_registry; CREATE ROLE dba LOGIN');
wait_for_state($other, 'idle', 'another cluster');
sent(1, 'another cluster');

my $elsewhere = 'It comes from another cluster: by a dump, by logical replication or by pg_upgrade.';
my $beside = 'It is a copy of another database of this cluster.';

# Held, and why; its cluster goes on; armed, it is like any other.
sub is_held
{
	my ($node, $database, $why, $name) = @_;
	is(one($node, $database, $armed), "f|$why", "$name: held");
	like(one($node, $database, 'advice FROM registry.status()'), qr/SELECT registry\.arm\(\);/, "$name: status() says what to do");
	for my $call ("refresh('rates')", "refresh('rates', wait => false)", "resume('rates')")
	{
		my ($function) = $call =~ /^(\w+)/;
		my (undef, undef, $error) = $node->psql($database, "\\set VERBOSITY verbose\nSELECT registry.$call");
		like($error, qr/ERROR:  55000: registry\.$function\(\) is refused: database "$database" is held and sends nothing\nDETAIL:  \Q$why\E\nHINT:  .*SELECT registry\.arm\(\);/, "$name: $call");
	}
	sent(0, $name);
	is(refresh($node), 't', "$name: other databases of its cluster are not");
	sent(1, "$name: another database");
	is($node->safe_psql($database, "SELECT registry.put('r', 'k', 'new'); SELECT registry.get_text('r', 'k')"), "\nnew", "$name: it reads and writes");
	is($node->safe_psql($database, "BEGIN; SELECT registry.set_rates('EUR', '{\"USD\": 1.2}') > 0; SELECT registry.rate('EUR', 'USD'); ROLLBACK"), "t\n1.2", "$name: rates, too");
	sent(0, $name);
	return;
}

sub arm
{
	my ($node, $database, $name) = @_;
	my ($role) = one($node, $database, 'current_user');
	is($node->safe_psql($database, "BEGIN; SELECT registry.arm(); SELECT armed FROM registry.status(); ROLLBACK; SELECT armed FROM registry.status()"), "t\nt\nf", "$name: arm(), rolled back");
	is(one($node, $database, 'registry.arm()'), 't', "$name: arm()");
	is(one($node, $database, $armed), 't', "$name: armed");
	is(one($node, $database, "concat_ws('|', count(*), min(armed_by), min(database) = (SELECT oid FROM pg_database WHERE datname = current_database())) FROM _registry.stamps"), "1|$role|t", "$name: one stamp, of its own");
	is(one($node, $database, 'registry.arm()'), 'f', "$name: once is enough");
	sent(0, "$name: nothing is due");
	is(refresh($node, $database), 't', "$name: it may ask for a refresh");
	sent(1, "$name, armed");
	return;
}

sub program
{
	my ($name, @command) = @_;
	my ($out, $err);
	my $ok = IPC::Run::run(\@command, '>', \$out, '2>', \$err);
	ok($ok && $err !~ /ERROR/, "$name: $command[0]") or diag(substr($err, 0, 3000));
	return;
}
sub at { my ($node) = @_; return ('-h', $node->host, '-p', $node->port) }

# A dump, made by the owner of the database, who is nobody else.  Without rates: the other cluster has its own.
my @dump = ('pg_dump', '--exclude-table-data=_registry.rate_set*');
program('dump', @dump, at($main), '-U', 'dba', '-Fc', '-f', "$folder/dump", 'app');
program('INSERTs', @dump, at($main), '-U', 'dba', '--column-inserts', '--on-conflict-do-nothing', '-f', "$folder/dump.sql", 'app');
my @restores = (
	[ 'a dump', [ 'pg_restore', '-e' ] ],
	[ 'a dump, in parallel', [ 'pg_restore', '-e', '-j2' ] ],
	[ 'its data, over an extension that is there', [ 'pg_restore', '-e', '--data-only' ], 'CREATE EXTENSION pg_registry' ],
	[ 'its sections', [ 'pg_restore', '-e', '--section=pre-data', '--section=data' ] ],
	[ 'INSERTs', [ 'psql', '-X', '-q', '-v', 'ON_ERROR_STOP=1', '-f', "$folder/dump.sql" ] ],
);
my $n = 0;
for my $restore (@restores)
{
	my ($name, $command, $before) = @$restore;
	for my $where ([ $other, $elsewhere ], [ $main, $beside ])
	{
		my ($node, $why) = @$where;
		my $database = 'restored' . ++$n;
		my $here = "$name, in " . $node->name;
		$node->safe_psql('postgres', "CREATE DATABASE $database OWNER dba");
		$node->safe_psql($database, $before) if $before;
		program($here, @$command, at($node), '-d', $database, $command->[0] eq 'psql' ? () : "$folder/dump");
		is_held($node, $database, $why, $here);
		arm($node, $database, $here);
	}
}
is(one($main, 'app', $armed), 't', 'its original is armed all the time');

# A restore in place is no copy, and a schema alone has nothing to send.
program('in place', 'pg_restore', '-e', '--clean', at($main), '-d', 'app', "$folder/dump");
is(one($main, 'app', $armed), 't', 'a dump that is restored where it was made: armed');
$other->safe_psql('postgres', 'CREATE DATABASE schema_only');
program('schema only', 'pg_restore', '-e', '--schema-only', at($other), '-d', 'schema_only', "$folder/dump");
is(one($other, 'schema_only', $armed), 't', 'a schema without data: armed');

# A dump of a copy: restored at home it is still a copy, until it is armed there.
$other->safe_psql('postgres', 'CREATE DATABASE away');
program('away', 'pg_restore', '-e', at($other), '-d', 'away', "$folder/dump");
program('dump of a copy', @dump, at($other), '-Fc', '-f', "$folder/dump2", 'away');
program('back', 'pg_restore', '-e', '--clean', at($main), '-d', 'app', "$folder/dump2");
is_held($main, 'app', $elsewhere, 'a dump of a copy');
arm($main, 'app', 'a dump of a copy');

# Copies inside the cluster; a new name makes none.
for my $strategy (qw(wal_log file_copy))
{
	my $name = "TEMPLATE, $strategy";
	$main->safe_psql('postgres', "CREATE DATABASE copy TEMPLATE app STRATEGY $strategy");
	is_held($main, 'copy', $beside, $name);
	is(one($main, 'app', $armed), 't', "$name: its template is armed");
	arm($main, 'copy', $name);
	is(one($main, 'app', $armed), 't', "$name: so is its template");
	$main->safe_psql('postgres', 'ALTER DATABASE copy RENAME TO renamed');
	is(one($main, 'renamed', $armed), 't', "$name: so is a renamed one");
	$main->safe_psql('postgres', 'DROP DATABASE renamed');
}

# Without any stamp nothing is sure.
$main->safe_psql('postgres', 'CREATE DATABASE bare');
$main->safe_psql('bare', "CREATE EXTENSION pg_registry; SELECT registry.create_registry('r', 'text'); TRUNCATE _registry.stamps");
is_held($main, 'bare', 'Nothing in _registry.stamps says where it belongs.', 'no stamp');
arm($main, 'bare', 'no stamp');

# ---------------------------------------------------------------------------
# A logical subscriber
# ---------------------------------------------------------------------------

# All that a subscriber can have: both clusters number rate sets of their own.
$main->safe_psql('app', 'CREATE PUBLICATION pub FOR TABLE _registry.definitions, _registry.stored_entries, _registry.stamps');
$other->safe_psql('postgres', 'CREATE DATABASE subscriber');
$other->safe_psql('subscriber', 'CREATE EXTENSION pg_registry');
is(one($other, 'subscriber', $armed), 't', 'a subscriber, before');
$other->safe_psql('subscriber', "CREATE SUBSCRIPTION sub CONNECTION '" . $main->connstr . " dbname=app' PUBLICATION pub");
$other->wait_for_subscription_sync($main, 'sub', 'subscriber');
is_held($other, 'subscriber', $elsewhere, 'a subscriber');
arm($other, 'subscriber', 'a subscriber');
is(one($main, 'app', 'registry.arm()'), 'f', 'its publisher was armed all the time');
$main->safe_psql('app', "SELECT registry.put('r', 'later', '1')");
$main->wait_for_catchup('sub');
is(one($other, 'subscriber', "armed FROM registry.status()"), 't', 'what is published later changes nothing');
$main->safe_psql('app', 'TRUNCATE _registry.stamps');
is(one($main, 'app', 'registry.arm()'), 't', 'its publisher is armed anew');
$main->wait_for_catchup('sub');
is_held($other, 'subscriber', $elsewhere, 'a subscriber, once more');
arm($other, 'subscriber', 'a subscriber, once more');
$other->safe_psql('subscriber', 'DROP SUBSCRIPTION sub');

# ---------------------------------------------------------------------------
# A standby is its primary
# ---------------------------------------------------------------------------

$main->backup('standby');
my $standby = PostgreSQL::Test::Cluster->new('standby');
$standby->init_from_backup($main, 'standby', has_streaming => 1);
set($standby, rates_url => unasked($url));
$standby->start;
wait_for_state($standby, 'standby', 'a standby');
is(one($standby, 'app', $armed), 't', 'a standby has the stamps of its primary');
sent(0, 'a standby');
my (undef, undef, $error) = $standby->psql('app', 'SELECT registry.arm()');
like($error, qr/cannot execute registry\.arm\(\) in a read-only transaction/, 'and cannot be given others');
$standby->promote;
wait_for_state($standby, 'idle', 'promoted');
sent(1, 'promoted');

sent(0, 'at the end');
$_->stop for $standby, $other, $main;
done_testing();
