# If this fails, a restart, a restore into another cluster or a standby gives a registry to somebody else, or takes it
# away from who has a right to it.

use strict;
use warnings;

use FindBin;
use lib "$FindBin::RealBin/lib";

use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use RawProtocol;
use Test::More;

my $refused = qr/does not exist or you may not read it/;

# What a role reads of both registries: the values, or "refused".
sub reads
{
	my ($node, $role) = @_;
	my @results;

	for my $registry ('kept', 'light')
	{
		my ($status, $out, $err) = $node->psql('postgres', "SET ROLE $role; SELECT 'exists', registry.get_text('$registry', 'k')");
		push @results, $status == 0 ? ($out =~ /exists\|(.*)/ ? $1 : $out) : $err =~ $refused ? 'refused' : $err;
	}
	return join(' ', @results);
}

sub wait_reads
{
	my ($node, $role, $expected, $name) = @_;
	my $end = time + $PostgreSQL::Test::Utils::timeout_default;
	my $result;

	do { $result = reads($node, $role) } while ($result ne $expected && time < $end);
	is($result, $expected, $name);
	return;
}

sub verify
{
	my ($node) = @_;

	return $node->safe_psql('postgres',
		q(SELECT problem FROM registry.verify('kept') UNION ALL SELECT problem FROM registry.verify('light')));
}

my $node = PostgreSQL::Test::Cluster->new('main');
$node->init(allows_streaming => 1);
$node->start;
$node->safe_psql(
	'postgres', q(
	CREATE EXTENSION pg_registry;
	CREATE ROLE alice;
	CREATE ROLE bob;
	CREATE ROLE carol;
	CREATE ROLE dave;
	GRANT EXECUTE ON ALL FUNCTIONS IN SCHEMA registry TO alice;
	SET ROLE alice;
	SELECT registry.create_registry('kept', 'text', durable => true), registry.create_registry('light', 'text', durable => false);
	SELECT registry.put('kept', 'k', 'v'), registry.put('light', 'k', 'v');
	SELECT registry.grant_access(r, 'read', 'bob'), registry.grant_access(r, 'write', 'carol'), registry.grant_access(r, 'read', 'pg_monitor')
	  FROM unnest(ARRAY['kept', 'light']) r;
));
is(reads($node, 'bob'), 'v v', 'a grantee reads');
is(reads($node, 'carol'), 'refused refused', 'who may write may not read');

# 1. After a restart and a crash the table tells who may read, before anything has been loaded.
for my $mode ('fast', 'immediate')
{
	$node->stop($mode);
	$node->start;
	is(reads($node, 'bob'), 'v ', "a grantee reads after stop -m $mode");
	is(reads($node, 'alice'), 'v ', 'so does the owner');
	is(reads($node, 'pg_monitor'), 'v ', 'and a predefined role');
	is(reads($node, 'carol'), 'refused refused', 'and nobody else');
	is($node->safe_psql('postgres', q(SET ROLE carol; SELECT registry.put('kept', 'k', 'v'), registry.put('light', 'x', 'y'))),
		'|', 'who may write does so');
	is($node->safe_psql('postgres', q(SET ROLE bob; SELECT string_agg(name, ' ' ORDER BY name) FROM registry.registries)),
		'kept light rates', 'the view shows what may be read');
	is($node->safe_psql('postgres', q(SET ROLE dave; SELECT string_agg(name, ' ' ORDER BY name) FROM registry.registries)),
		'rates', 'and nothing else');
	is(verify($node), '', 'verify finds nothing');
}

# A grant that is made before anything has been loaded.
$node->restart;
$node->safe_psql('postgres', q(SELECT registry.grant_access(r, 'read', 'dave'), registry.revoke_access(r, 'read', 'bob')
	FROM unnest(ARRAY['kept', 'light']) r));
is(reads($node, 'dave') . reads($node, 'bob'), 'v refused refused', 'a grant and a revoke right after a restart');
$node->safe_psql('postgres', q(SELECT registry.reload('kept')));
is(reads($node, 'dave') . reads($node, 'bob'), 'v refused refused', 'and once it is in memory');
$node->safe_psql('postgres', q(SELECT registry.grant_access(r, 'read', 'bob') FROM unnest(ARRAY['kept', 'light']) r));

# What a session has found out does not outlive its reason, within a transaction either.
$node->safe_psql('postgres', q(
	CREATE FUNCTION cached() RETURNS text LANGUAGE plpgsql AS 'BEGIN RETURN left(registry.generation()::text, 0) || registry.get_text(''kept'', ''k''); END';
	SELECT registry.grant_access('kept', 'read', 'pg_database_owner');
	CREATE ROLE erin));
for my $case (
	[ 'the owner of the database', 'ALTER DATABASE postgres OWNER TO erin', 'ALTER DATABASE postgres OWNER TO postgres' ],
	[ 'a member', 'GRANT bob TO erin', 'REVOKE bob FROM erin' ],
	[ 'a role of that name', 'ALTER ROLE erin RENAME TO frank; ALTER ROLE bob RENAME TO bobby; ALTER ROLE frank RENAME TO bob; SELECT registry.restore_grants()',
		'ALTER ROLE bob RENAME TO frank; ALTER ROLE bobby RENAME TO bob; ALTER ROLE frank RENAME TO erin; SELECT registry.restore_grants()' ])
{
	my ($name, $begin, $end) = @$case;
	my $session = RawProtocol->new($node, 'postgres');

	$node->safe_psql('postgres', $begin);
	$session->query('SET ROLE ' . ($name =~ /name/ ? 'bob' : 'erin'));
	$session->query('BEGIN ISOLATION LEVEL REPEATABLE READ');
	# the lock on a table is where a session hears of what others have changed
	my $read = 'SELECT cached() FROM pg_database WHERE datname = current_database()';
	is($session->one($read), 'v', "$name reads");
	$node->safe_psql('postgres', $end);
	is($session->sqlstate($read), '42704', 'and when he is it no more, he does not');
	$session->close;
}
$node->safe_psql('postgres', q(SELECT registry.revoke_access('kept', 'read', 'pg_database_owner')));

# 2. A restore into a cluster whose roles have other oids: where bob's oid is mallory's, and there is no dave.
my $oid = $node->safe_psql('postgres', q(SELECT oid FROM pg_roles WHERE rolname = 'bob'));
my $other = PostgreSQL::Test::Cluster->new('other');
$other->init;
$other->start;
$other->safe_psql('postgres', "CREATE ROLE r$_") for 1 .. 3;
$other->safe_psql('postgres', 'CREATE ROLE alice; CREATE ROLE bob; CREATE ROLE carol');
my $dump = $node->basedir . '/dump.sql';
$node->command_ok([ 'pg_dump', '-d', $node->connstr('postgres'), '-f', $dump ], 'pg_dump');
$other->command_ok([ 'psql', '-X', '-q', '-v', 'ON_ERROR_STOP=1', '-d', $other->connstr('postgres'), '-f', $dump ], 'restore');
$other->safe_psql('postgres', "UPDATE pg_authid SET oid = $oid WHERE rolname = 'r2'")
  if $other->safe_psql('postgres', "SELECT count(*) FROM pg_roles WHERE oid = $oid") eq '0';
my $mallory = $other->safe_psql('postgres', "SELECT rolname FROM pg_roles WHERE oid = $oid");
isnt($mallory, 'bob', "bob's oid is another role's");
$other->restart;

is(reads($other, $mallory), 'refused refused', 'the oid of a grantee gives no right');
is(reads($other, 'bob'), 'refused refused', 'nor does the name alone');
is(reads($other, 'alice'), 'refused refused', 'the same of the owner');
is(reads($other, 'pg_monitor'), 'v ', 'a predefined role is the same everywhere');
like(verify($other), qr/owner "alice": another role has this name now\n.*"bob": another role.*"dave": there is no such role/s,
	'verify names the orphans');
is($other->safe_psql('postgres', 'SELECT registry.restore_grants()'), 6, 'two owners and four grants come back');
is(reads($other, 'bob') . reads($other, 'alice'), 'v v ', 'by name');
is(reads($other, $mallory), 'refused refused', 'and to nobody else');
is($other->safe_psql('postgres', q(SET ROLE carol; SELECT registry.put('kept', 'k', 'w'))), '', 'who could write can write');
is(verify($other), join("\n", ('grant of read to "dave": there is no such role') x 2), 'who is missing stays an orphan');
$other->safe_psql('postgres', 'CREATE ROLE dave');
is(reads($other, 'dave'), 'refused refused', 'and a role of his name gets nothing by itself');
$other->restart;
is(reads($other, 'bob') . reads($other, 'alice') . reads($other, 'dave'), 'w w refused refused', 'all the same after a restart');

# 3. A standby follows what is granted and revoked, in memory as in its tables; and a promotion changes nothing.
$node->backup('base');
my $standby = PostgreSQL::Test::Cluster->new('standby');
$standby->init_from_backup($node, 'base', has_streaming => 1);
$standby->start;
is(reads($standby, 'bob') . reads($standby, 'carol'), 'v refused refused', 'a standby that has loaded nothing');
my $resident = q(SELECT registry.get('kept', 'k') IS NOT NULL AND state = 'resident' FROM registry.registries WHERE name = 'kept');
my $follower = q(SELECT pid FROM pg_stat_activity WHERE backend_type = 'pg_registry follower');
ok($standby->poll_query_until('postgres', $resident), 'it follows');
is(reads($standby, $_->[0]), $_->[1], "$_->[0] reads as on the primary")
  for [ 'alice', 'v ' ], [ 'bob', 'v ' ], [ 'dave', 'v ' ], [ 'pg_monitor', 'v ' ], [ 'carol', 'refused refused' ];

sub grants
{
	my ($do, @roles) = @_;

	$node->safe_psql('postgres', "SELECT registry.${do}_access(r, 'read', '$_') FROM unnest(ARRAY['kept', 'light']) r") for @roles;
	return;
}
grants('grant', 'carol');
wait_reads($standby, 'carol', 'v ', 'a grant is followed');
grants('revoke', 'bob', 'carol', 'dave', 'pg_monitor');
wait_reads($standby, 'pg_monitor', 'refused refused', 'so are revokes');
is(reads($standby, $_), 'refused refused', "of all: $_") for qw(bob carol dave);
is($standby->safe_psql('postgres', $resident), 't', 'the registry is in memory all the time');
$node->safe_psql('postgres', "INSERT INTO _registry.grants VALUES ('kept', 'read', 'public', 0), ('light', 'read', 'public', 0)");
wait_reads($standby, 'dave', 'v ', 'a row of the table, to everybody');
$node->safe_psql('postgres', 'TRUNCATE _registry.grants');
wait_reads($standby, 'dave', 'refused refused', 'TRUNCATE');
$node->safe_psql('postgres', 'GRANT alice TO dave');
wait_reads($standby, 'dave', 'v ', 'a membership');
$node->safe_psql('postgres', 'REVOKE alice FROM dave');
wait_reads($standby, 'dave', 'refused refused', 'and its end');
$node->safe_psql('postgres', q(SELECT registry.alter_registry(r, '{"owner": "carol"}') FROM unnest(ARRAY['kept', 'light']) r));
wait_reads($standby, 'carol', 'v ', 'another owner');
is(reads($standby, 'alice'), 'refused refused', 'instead of the one before');
$node->safe_psql('postgres', q(SELECT registry.alter_registry(r, '{"owner": "alice"}') FROM unnest(ARRAY['kept', 'light']) r));
wait_reads($standby, 'alice', 'v ', 'who gets it back');

# Without a follower the tables tell, in parallel workers too.
my $pid = $standby->safe_psql('postgres', $follower);
kill 'STOP', $pid;
grants('grant', 'bob');
$node->wait_for_catchup($standby);
wait_reads($standby, 'bob', 'v ', 'the follower is stopped: a grant');
grants('revoke', 'bob');
grants('grant', 'dave');
$node->wait_for_catchup($standby);
{
	local $ENV{PGOPTIONS} = '-c force_parallel_mode=regress';

	is(reads($standby, 'bob') . reads($standby, 'dave'), 'refused refusedv ', 'from the table, in a parallel worker');
}
kill 'CONT', $pid;
ok($standby->poll_query_until('postgres', $resident), 'it goes on');
is(reads($standby, 'bob') . reads($standby, 'dave'), 'refused refusedv ', 'from memory');

# What a promoted server has in memory is what it has followed.
grants('grant', 'carol');
$node->wait_for_catchup($standby);
$node->stop('immediate');
$standby->promote;
is(reads($standby, 'bob') . reads($standby, 'dave') . reads($standby, 'carol'), 'refused refusedv v ', 'promoted');
ok($standby->poll_query_until('postgres', $resident), 'and once all is in memory');
is(reads($standby, 'bob') . reads($standby, 'dave') . reads($standby, 'carol'), 'refused refusedv v ', 'the same');
$node = $standby;
grants('revoke', 'dave');
grants('grant', 'bob');
is(reads($standby, 'bob') . reads($standby, 'dave'), 'v refused refused', 'grants go on from there');
is(verify($standby), '', 'verify finds nothing');

done_testing();
