# If this fails, one message with bytes from a database in another encoding
# makes registry.log_tail an error for everybody, or shows garbage.

use strict;
use warnings;

use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;

my @databases = ('UTF8', 'LATIN1', 'EUC_JP', 'SQL_ASCII');

my $node = PostgreSQL::Test::Cluster->new('main');
$node->init(extra => [ '--no-locale', '--encoding=UTF8' ]);
$node->append_conf(
	'postgresql.conf', q(
pg_registry.log_min_level = warning
pg_registry.log_capture_statement = on
pg_registry.log_capture_detail = on
log_statement = none
log_min_error_statement = warning
));
$node->start;
foreach my $database (@databases)
{
	$node->safe_psql('postgres',
		"CREATE DATABASE \"$database\" ENCODING '$database' TEMPLATE template0 LC_COLLATE 'C' LC_CTYPE 'C'");
	$node->safe_psql($database, 'CREATE EXTENSION pg_registry');
}

# Messages in the bytes of a database, written there, and what each database
# shows of them.  Bytes are given in hexadecimal, as a client in the database's
# own encoding would send them; what is shown is given in the reader's.
my @messages = (
	# written in, name, bytes, shown in UTF8, LATIN1, EUC_JP, SQL_ASCII
	[ 'UTF8', 'ascii', '6f6b', '6f6b', '6f6b', '6f6b', '6f6b' ],
	[ 'UTF8', 'cafe', '636166c3a9', '636166c3a9', '636166e9', '6361668fabb1', text('caf\xc3\xa9') ],
	[ 'UTF8', 'snowman', 'e2988321', 'e2988321', text('\xe2\x98\x83!'), text('\xe2\x98\x83!'), text('\xe2\x98\x83!') ],
	[ 'LATIN1', 'cafe in LATIN1', '636166e9', '636166c3a9', '636166e9', text('caf\xe9'), text('caf\xe9') ],
	[ 'EUC_JP', 'hiragana', 'a4a221', 'e3818221', text('\xa4\xa2!'), 'a4a221', text('\xa4\xa2!') ],
	[ 'SQL_ASCII', 'utf8 bytes', 'c3a921', 'c3a921', 'c3a921', undef, text('\xc3\xa9!') ],
	[ 'SQL_ASCII', 'broken bytes', '41ff42c343', text('A\xffB\xc3C'), '41ff42c343', text('A\xffB\xc3C'), text('A\xffB\xc3C') ],
	[ 'SQL_ASCII', 'half a character', '41e298', text('A\xe2\x98'), '41e298', undef, text('A\xe2\x98') ]);

sub text
{
	return unpack 'H*', $_[0];
}

# Messages pass through a file in the writer's encoding, as COPY would send them.
sub write_message
{
	my ($database, $tag, $hex) = @_;
	my $file = $node->basedir . '/message.sql';
	my $bytes = pack 'H*', $hex;
	open my $out, '>:raw', $file or die "$file: $!";
	print $out "DO \$\$ BEGIN RAISE WARNING '%', '$tag:$bytes' USING HINT = '$bytes', DETAIL = '$bytes'; END \$\$;\n";
	close $out;
	$node->command_ok(
		[ 'psql', '-X', '-q', '-v', 'ON_ERROR_STOP=1', '-d', $node->connstr($database),
			'-c', "SET client_encoding = '$database'", '-c', 'SET client_min_messages = error', '-f', $file ],
		"$tag is written");
}

# As hexadecimal digits of the reader's own encoding, so no client is in the way.
sub shown
{
	my ($database, $tag, $column) = @_;
	return $node->safe_psql($database,
		"SELECT encode(convert_to(replace($column, '$tag:', ''), getdatabaseencoding()), 'hex') "
		  . "FROM registry.log_tail(1000) WHERE message LIKE '$tag:%'");
}

foreach my $case (@messages)
{
	my ($writer, $tag, $bytes, @expected) = @$case;
	write_message($writer, $tag, $bytes);
	for my $i (0 .. $#databases)
	{
		next unless defined $expected[$i];
		is(shown($databases[$i], $tag, 'message'), $expected[$i], "$tag read in $databases[$i]");
		is(shown($databases[$i], $tag, 'hint'), $expected[$i], "$tag read in $databases[$i]: hint");
	}
}

# Statement, detail and context of all of them are valid text everywhere, and
# reach a client of the same encoding.
foreach my $database (@databases)
{
	is( $node->safe_psql($database,
			"SELECT count(*) FROM registry.log_tail(1000) r "
			  . "WHERE message ~ ':' AND length(r::text) > 0 AND statement ~ 'RAISE' AND detail IS NOT NULL"),
		scalar(@messages), "whole records in $database");
	my ($status, $out, $err) = $node->psql($database,
		"SET client_encoding = '$database'; SELECT * FROM registry.log_tail(1000)");
	is($status, 0, "sent to a client in $database");
}

# A client in UTF8 may read an SQL_ASCII database.
my ($status, $out, $err) = $node->psql('SQL_ASCII',
	"SET client_encoding = 'UTF8'; SELECT * FROM registry.log_tail(1000)");
is($status, 0, 'sent from SQL_ASCII to a client in UTF8');

# A text that is cut is cut between characters.
foreach my $case ([ 'UTF8', 'e29883' ], [ 'EUC_JP', 'a4a2' ], [ 'LATIN1', 'e9' ])
{
	my ($database, $character) = @$case;
	write_message($database, "x" x $_ . "cut in $database", $character x 3000) for 0 .. 2;
	is( $node->safe_psql('UTF8',
			"SELECT count(*) || ' ' || bool_and(message ~ '^x*cut in $database:(.)\\1{50,}[.]{3}\$') "
			  . "FROM registry.log_tail(3)"),
		'3 true', "long message of $database");
}

# Names have bytes too.
$node->safe_psql('UTF8', "CREATE ROLE \"caf\x{c3}\x{a9}\" LOGIN SUPERUSER");
$node->psql('UTF8', 'SELECT 1 / 0',
	extra_params => [ '-U', "caf\x{c3}\x{a9}" ]);
is($node->safe_psql('LATIN1',
		"SELECT encode(convert_to(username, 'LATIN1'), 'hex') FROM registry.log_tail(1000) "
		  . "WHERE message = 'division by zero'"),
	'636166e9', 'name of a role');

$node->stop;
done_testing();
