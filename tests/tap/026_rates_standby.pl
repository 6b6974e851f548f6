# If this fails, every standby asks the provider as well although nobody wanted
# it, or a standby that was told to has no rates, or a promoted one does not
# take over.

use strict;
use warnings;

use FindBin;
use lib "$FindBin::RealBin/lib";

use FaultServer;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;

sub rates { return qq({"amount":1.0,"base":"EUR","date":"2025-04-04","rates":{"USD":$_[0]}}) }

my $web = FaultServer->new(PostgreSQL::Test::Utils::tempdir);
my $primary = PostgreSQL::Test::Cluster->new('primary');
$primary->init(allows_streaming => 1);
$primary->start;
$primary->safe_psql('postgres', 'CREATE EXTENSION pg_registry');
$primary->backup('copy');
my $standby = PostgreSQL::Test::Cluster->new('standby');
$standby->init_from_backup($primary, 'copy', has_streaming => 1);
$standby->append_conf('postgresql.conf', "pg_registry.rates_url = '@{[ $web->url ]}'");
$web->serve({ body => rates('1.10') });
$standby->start;

sub one { return $standby->safe_psql('postgres', "SELECT $_[0]") }
sub wait_for { ok($standby->poll_query_until('postgres', "SELECT $_[0]"), $_[1]); return }

# refresh_on = primary, the default.
wait_for("scheduler_state = 'standby' FROM registry.status()", 'the scheduler runs and fetches nothing');
is(one("concat_ws('|', ok, error) FROM registry.refresh('rates')"),
	'f|this server is a standby, and pg_registry.refresh_on is "primary"', 'refresh() says why');
is(scalar(() = $web->requests), 0, 'there was no request');

# It follows what is replayed, each database its own.
$primary->safe_psql('postgres', 'CREATE DATABASE shop');
$primary->safe_psql('shop', 'CREATE EXTENSION pg_registry');
sub on_primary
{
	my ($database, $call) = @_;
	$primary->safe_psql($database, "SELECT registry.$call");
	$primary->wait_for_catchup($standby);
	return;
}
sub both { return join(' ', map { $standby->safe_psql($_, "SELECT registry.rate('EUR', 'USD') || ' ' || registry.get_numeric('rates', 'USD')") } qw(postgres shop)) }
on_primary('postgres', "set_rates('EUR', '{\"USD\": 1.01}')");
on_primary('shop', "set_rates('EUR', '{\"USD\": 1.02}')");
is(both(), '1.01 1.01 1.02 1.02', 'rates by hand, in two databases');
on_primary('postgres', "set_rates('EUR', '{\"USD\": 1.03}')");
is(both(), '1.03 1.03 1.02 1.02', 'others, in one of them');
on_primary('postgres', "withdraw_rates(2, 'wrong')");
is(both(), '1.01 1.01 1.02 1.02', 'and withdrawn');

# refresh_on = both.
$standby->append_conf('postgresql.conf', 'pg_registry.refresh_on = both');
$standby->reload;
wait_for("rate = 1.10 FROM registry.rates WHERE currency = 'USD'", 'a standby fetches if it is told to');
is(one('pg_is_in_recovery()'), 't', 'in recovery');
$web->serve({ body => rates('1.11') });
is(one("ok FROM registry.refresh('rates')"), 't', 'refresh() works on a standby');
is(one("registry.rate('EUR', 'USD')"), '1.11', 'and publishes');
is(both(), '1.11 1.11 1.11 1.11', 'for all databases');
on_primary('shop', "set_rates('EUR', '{\"USD\": 1.04}')");
is(both(), '1.11 1.11 1.04 1.04', 'until one has newer ones by hand');
$web->serve({ body => rates('1.115') });
is(one("ok FROM registry.refresh('rates')"), 't', 'and the next answer');
is(both(), '1.115 1.115 1.115 1.115', 'is newer than those');

# Back, and promoted: nobody tells the scheduler, it finds out.
$standby->append_conf('postgresql.conf', "pg_registry.refresh_on = primary\npg_registry.rates_interval = 1s");
$standby->reload;
wait_for("scheduler_state = 'standby' FROM registry.status()", 'back to primary');
$web->serve({ body => rates('1.12') });
my $pid = one('scheduler_pid FROM registry.status()');
$standby->promote;
wait_for("rate = 1.12 FROM registry.rates WHERE currency = 'USD'", 'a promoted standby fetches');
is(one('scheduler_pid FROM registry.status()'), $pid, 'in the same process');

$standby->stop;
$primary->stop;
done_testing();
