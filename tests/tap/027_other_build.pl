# If this fails, an upgrade of the package without a restart of the server lets
# a new scheduler work on the memory of the old library.

use strict;
use warnings;

use FindBin;
use lib "$FindBin::RealBin/lib";

use FaultServer;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;

# The build id is 32 hexadecimal digits in either library.  Give the second one another.
my $folder = PostgreSQL::Test::Utils::tempdir;
my $library = $ENV{PGR_STAGE} . `pg_config --pkglibdir`;
chomp $library;
my $bytes = slurp_file("$library/pg_registry_http.so");
my $ids = $bytes =~ s/\b[0-9a-f]{32}\0/'0' x 32 . "\0"/ge;
is($ids, 1, 'the library has one build id');
open my $out, '>:raw', "$folder/pg_registry_http.so" or die $!;
print {$out} $bytes;
close $out;
chmod 0755, "$folder/pg_registry_http.so";

my $web = FaultServer->new(PostgreSQL::Test::Utils::tempdir);
$web->serve({ body => '{"amount":1.0,"base":"EUR","date":"2025-04-04","rates":{"USD":1.10}}' });
my $node = PostgreSQL::Test::Cluster->new('main');
$node->init;
$node->append_conf(
	'postgresql.conf', qq(
dynamic_library_path = '$folder:$library:\$libdir'
pg_registry.rates_url = '@{[ $web->url ]}'
));
$node->start;
$node->safe_psql('postgres', 'CREATE EXTENSION pg_registry');

sub one { return $node->safe_psql('postgres', "SELECT $_[0]") }
sub wait_for_status { ok($node->poll_query_until('postgres', "SELECT $_[0] FROM registry.status()"),
	$_[1]); return }

sub warnings_logged
{
	return scalar(() = slurp_file($node->logfile) =~ /WARNING:  pg_registry does not refresh anything until/g);
}

wait_for_status("scheduler_state = 'other build'", 'the scheduler notices');
is(warnings_logged(), 1, 'and says so');
is(scalar(() = $web->requests), 0, 'it does nothing');
like(one("error FROM registry.refresh('rates', timeout => '0.1 s')"),
	qr/^the scheduler is idle until the server is restarted/,
	'refresh() says so too');
one("registry.set_rates('EUR', '{\"USD\": 1.25}')");
is(one("registry.rate('EUR', 'USD')"), '1.25', 'reads and writes go on');

# It can be ended, and the next one is told the same without saying it again.
my $pid = one('scheduler_pid FROM registry.status()');
one('registry.restart_workers()');
wait_for_status("scheduler_state = 'other build' AND scheduler_pid <> $pid", 'it is started again');
is(warnings_logged(), 1, 'one WARNING is enough');

# The right library is back: the next scheduler works.
unlink "$folder/pg_registry_http.so";
one('registry.restart_workers()');
wait_for_status("scheduler_state = 'idle'", 'with the right library it works');
is(one("registry.rate('EUR', 'USD')"), '1.10', 'and fetches');

$node->stop;
done_testing();
