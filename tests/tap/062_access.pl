# If this fails, a restart or a restore into another cluster gives a registry to somebody else, or takes it away from
# who has a right to it.

use strict;
use warnings;

use FindBin;
use lib "$FindBin::RealBin/lib";

use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
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

sub verify
{
	my ($node) = @_;

	return $node->safe_psql('postgres',
		q(SELECT problem FROM registry.verify('kept') UNION ALL SELECT problem FROM registry.verify('light')));
}

my $node = PostgreSQL::Test::Cluster->new('main');
$node->init;
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

done_testing();
