# If this fails, somebody reads log records that are none of his business:
# other databases' errors, with their keys and statements, or any at all.

use strict;
use warnings;

use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;

my $node = PostgreSQL::Test::Cluster->new('main');
$node->init;
$node->append_conf(
	'postgresql.conf', q(
pg_registry.log_min_level = warning
log_statement = none
));
$node->start;
foreach my $database ('one', 'two')
{
	$node->safe_psql('postgres', "CREATE DATABASE $database");
	$node->safe_psql($database, 'CREATE EXTENSION pg_registry');
}
$node->safe_psql(
	'one', q(
	CREATE ROLE nobody LOGIN;
	CREATE ROLE reader LOGIN;
	CREATE ROLE monitor LOGIN IN ROLE pg_monitor, pg_read_all_data;
	GRANT EXECUTE ON FUNCTION registry.log_tail TO reader;));

# Records: one of each database, and one of a process that has none.
$node->psql($_, "DO \$\$ BEGIN RAISE EXCEPTION 'about $_'; END \$\$") foreach 'one', 'two';
$node->reload;
$node->poll_query_until('one',
	"SELECT count(*) > 0 FROM registry.log_tail(1000) WHERE backend_type = 'postmaster' AND message ~ 'SIGHUP'")
  or die 'no record of the postmaster';

my $count = q(
	SELECT count(*) FILTER (WHERE message = 'about one'),
		count(*) FILTER (WHERE message = 'about two'),
		count(*) FILTER (WHERE database IS DISTINCT FROM 'one')
	FROM registry.log_tail(1000));

# Who, in which database, and what he sees or is told.
my @cases = (
	[ 'nobody',  'one', 'permission denied for function log_tail' ],
	[ 'monitor', 'one', 'permission denied for function log_tail' ],
	[ 'reader',  'two', 'permission denied for function log_tail' ],
	[ 'reader',  'one', qr/^1\|0\|0$/ ]);
foreach my $case (@cases)
{
	my ($role, $database, $expected) = @$case;
	my ($status, $out, $err) =
	  $node->psql($database, $count, extra_params => [ '-U', $role ]);
	if (ref $expected)
	{
		like($out, $expected, "$role in $database sees his database only");
	}
	else
	{
		like($err, qr/$expected/, "$role in $database is refused");
	}
}
like($node->safe_psql('one', $count), qr/^1\|1\|[1-9]/, 'a superuser sees all');

# A limit counts the records that one may see.
$node->psql('two', "DO \$\$ BEGIN RAISE EXCEPTION 'noise'; END \$\$") foreach 1 .. 5;
is( (   $node->psql('one', q(SELECT database FROM registry.log_tail(1)),
			extra_params => [ '-U', 'reader' ]))[1],
	'one', 'the newest record of the own database');

# A role that a superuser has put on sees what that role sees.
is($node->safe_psql('one', "SET ROLE reader; $count"), '1|0|0', 'SET ROLE');

$node->stop;
done_testing();
