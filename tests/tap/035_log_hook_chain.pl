# If this fails, another extension that looks at the log (an auditor, a
# shipper) goes blind beside pg_registry, or the two send each other round in
# circles.

use strict;
use warnings;

use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;

# Another extension with an emit_log_hook.  It counts the records of its
# process, logs one of its own for each that says "probe", and keeps those that
# say "hush" out of the server log.
my $probe_source = <<'C';
#include "postgres.h"
#include "fmgr.h"
#include "utils/elog.h"

PG_MODULE_MAGIC;

void _PG_init(void);
static emit_log_hook_type previous = NULL;
static int seen = 0;
static bool inside = false;

static void
probe(ErrorData *edata)
{
	if (previous)
		previous(edata);
	if (edata->message == NULL || inside)
		return;
	if (strstr(edata->message, "probe"))
	{
		seen++;
		inside = true;
		ereport(LOG, errmsg("echo"));
		inside = false;
	}
	if (strstr(edata->message, "hush"))
		edata->output_to_server = false;
}

void
_PG_init(void)
{
	previous = emit_log_hook;
	emit_log_hook = probe;
}

PG_FUNCTION_INFO_V1(probe_seen);

Datum
probe_seen(PG_FUNCTION_ARGS)
{
	PG_RETURN_INT32(seen);
}
C

my $node = PostgreSQL::Test::Cluster->new('main');
my $probe = $node->basedir . '/pgr_log_probe';
append_to_file("$probe.c", $probe_source);
chomp(my $include = `pg_config --includedir-server`);
system_or_bail('cc', '-shared', '-fPIC', '-I', $include, '-o', "$probe.so", "$probe.c");

$node->init;
$node->append_conf(
	'postgresql.conf', q(
pg_registry.log_min_level = warning
log_statement = none
));

# Whichever is loaded first, each hook sees each record once.
foreach my $order ("$probe.so,pg_registry", "pg_registry,$probe.so")
{
	my $name = $order =~ /^pg_registry/ ? 'probe last' : 'probe first';
	$node->append_conf('postgresql.conf', "shared_preload_libraries = '$order'");
	$node->start;
	$node->safe_psql(
		'postgres', qq(
		CREATE EXTENSION IF NOT EXISTS pg_registry;
		CREATE OR REPLACE FUNCTION probe_seen() RETURNS int LANGUAGE C AS '$probe', 'probe_seen';));
	my $log_size = -s $node->logfile;

	is( $node->safe_psql(
			'postgres', q(
			DO $$ BEGIN FOR i IN 1..10 LOOP RAISE WARNING 'probe %', i; END LOOP; END $$;
			SELECT probe_seen();)),
		'10', "$name: the other hook sees each record once");
	is( $node->safe_psql(
			'postgres', q(
			SELECT count(*), count(DISTINCT message) FROM registry.log_tail(1000) WHERE message LIKE 'probe %';
			SELECT count(*) FROM registry.log_tail(1000) WHERE message = 'echo';)),
		"10|10\n10", "$name: so does ours, what the other one logs included");

	$node->safe_psql('postgres', 'DO $$ BEGIN RAISE WARNING \'hush\'; END $$');
	is($node->safe_psql('postgres',
			q(SELECT count(*) FROM registry.log_tail(1000) WHERE message = 'hush')),
		'1', "$name: a record kept out of the server log is there");
	my $log = slurp_file($node->logfile, $log_size);
	unlike($log, qr/WARNING:  hush/, "$name: and stays out of the server log");
	is(scalar(() = $log =~ /WARNING:  probe \d/g), 10, "$name: the server log has the rest");
	is($node->safe_psql('postgres', 'SELECT log_dropped_recursion FROM registry.status()'),
		'0', "$name: nothing was dropped");
	$node->stop;
}

done_testing();
