-- When this fails, somebody reads, changes or administers a registry without the right to, is refused what was granted
-- to him, or learns that a registry exists which he may not read.
--
-- Everything is done twice: to "kept", which is durable, and to "light", which is not. owner has made both; reader,
-- writer and admin each have one privilege, member is a member of reader, noinherit a member that inherits nothing.
\set SHOW_CONTEXT never
CREATE EXTENSION pg_registry;
CREATE ROLE regress_access_owner;
CREATE ROLE regress_access_reader;
CREATE ROLE regress_access_writer;
CREATE ROLE regress_access_admin;
CREATE ROLE regress_access_nobody;
CREATE ROLE regress_access_member IN ROLE regress_access_reader;
CREATE ROLE regress_access_noinherit NOINHERIT IN ROLE regress_access_reader;
GRANT EXECUTE ON ALL FUNCTIONS IN SCHEMA registry TO PUBLIC;

-- The value of an expression as a role, or its error: SQLSTATE, message, then detail and hint.
CREATE FUNCTION as_role(role text, expression text) RETURNS text LANGUAGE plpgsql AS $$
DECLARE result text; detail text; hint text;
BEGIN
	PERFORM set_config('role', 'regress_access_' || role, true);
	EXECUTE 'SELECT ' || expression INTO result;
	RESET ROLE;
	RETURN coalesce(nullif(result, ''), 'done');
EXCEPTION WHEN OTHERS THEN
	GET STACKED DIAGNOSTICS detail = PG_EXCEPTION_DETAIL, hint = PG_EXCEPTION_HINT;
	RETURN concat_ws(E'\n', SQLSTATE || ': ' || SQLERRM, nullif(detail, ''), nullif(hint, ''));
END $$;
CREATE FUNCTION outcome(expression text) RETURNS text LANGUAGE sql AS $$ SELECT as_role('nobody', expression) $$;
-- Whether roles may read both registries: t, f, or "differ".
CREATE FUNCTION may_read(VARIADIC roles text[]) RETURNS text LANGUAGE plpgsql AS $$
DECLARE kept text; light text; result text := '';
BEGIN
	FOR i IN 1 .. array_length(roles, 1) LOOP
		kept := as_role(roles[i], $s$registry.get('kept', 'k')$s$);
		light := as_role(roles[i], $s$registry.get('light', 'k')$s$);
		result := result || roles[i] || ' ' || CASE WHEN replace(kept, 'kept', 'light') <> light THEN 'differ: ' || kept || ', ' || light
			WHEN kept = '"v"' THEN 'reads' WHEN kept ~ '^42704' THEN '-' ELSE kept END || '; ';
	END LOOP;
	RETURN result;
END $$;
-- Calls a function for both registries.
CREATE FUNCTION on_both(function text, privilege text, grantee text) RETURNS void LANGUAGE plpgsql AS $$
BEGIN
	EXECUTE format('SELECT registry.%I(r, $1, $2) FROM unnest(ARRAY[''kept'', ''light'']) r', function) USING privilege, grantee;
END $$;

SET ROLE regress_access_owner;
SELECT registry.create_registry('kept', durable => true), registry.create_registry('light', durable => false);
SELECT registry.put('kept', 'k', '"v"'), registry.put('light', 'k', '"v"');
SELECT on_both('grant_access', 'read', 'regress_access_reader');
SELECT on_both('grant_access', 'write', 'regress_access_writer');
SELECT on_both('grant_access', 'admin', 'regress_access_admin');
RESET ROLE;
SELECT registry, privilege, grantee, grantee_oid = grantee::regrole AS same, grantor, granted_at <= clock_timestamp() AS past
  FROM _registry.grants ORDER BY 1, 2, 3;

-- 1. Each function as each role, in a subtransaction that is rolled back: the SQLSTATE, or the result. To all who may
-- not read it the registry does not exist, whatever else they may do; who may read it is told what he lacks.
CREATE TABLE calls (seq serial, call text);
INSERT INTO calls (call) VALUES ($$get('R', 'k')$$), ($$get_text('R', 'k')$$), ($$get_many('R', '{k}')$$), ($$entries('R')$$),
	($$entry_count('R')$$), ($$registry_exists('R')$$), ($$put('R', 'k', '1')$$), ($$put('R', 'k', 1)$$),
	($$put_many('R', '{"a": 1}')$$), ($$put_many('R', '{"a": 1}', replace => true)$$), ($$delete('R', 'k')$$), ($$delete('R', 'none')$$),
	($$clear('R')$$), ($$alter_registry('R', '{"max_age": "1 day"}')$$), ($$alter_registry('R', '{"owner": "regress_access_admin"}')$$),
	($$drop_registry('R')$$), ($$drop_registry('R', if_exists => true)$$), ($$grant_access('R', 'read', 'public')$$),
	($$revoke_access('R', 'read', 'regress_access_reader')$$), ($$verify('R')$$), ($$reload('R')$$);
CREATE FUNCTION tried(role text, call text) RETURNS text LANGUAGE plpgsql AS $$
DECLARE result text;
BEGIN
	result := as_role(role, 'count(s) FROM (SELECT registry.' || call || ') s');
	RAISE EXCEPTION USING ERRCODE = 'RB000', MESSAGE = CASE WHEN result ~ '^[0-9A-Z]{5}: ' THEN left(result, 5) ELSE 'allowed' END;
EXCEPTION WHEN SQLSTATE 'RB000' THEN
	RETURN SQLERRM;
END $$;
SET client_min_messages = warning;
SELECT call, tried('owner', replace(call, 'R', r)) AS owner, tried('reader', replace(call, 'R', r)) AS reader,
       tried('writer', replace(call, 'R', r)) AS writer, tried('admin', replace(call, 'R', r)) AS admin,
       tried('nobody', replace(call, 'R', r)) AS nobody, r AS registry
  FROM calls, unnest(ARRAY['kept', 'light']) r ORDER BY r, seq;
-- The same words for a registry that is there and one that is not.
SELECT call, as_role('nobody', 'registry.' || replace(call, 'R', 'kept')) AS outcome FROM calls
 WHERE replace(as_role('nobody', 'registry.' || replace(call, 'R', 'kept')), 'kept', 'R')
       <> replace(as_role('nobody', 'registry.' || replace(call, 'R', 'no such')), 'no such', 'R');
RESET client_min_messages;
SELECT as_role('nobody', $$registry.get('kept', 'k')$$);
SELECT as_role('reader', $$registry.put('kept', 'k', '1')$$);
SELECT as_role('reader', $$registry.drop_registry('kept', if_exists => true)$$);
SELECT as_role('writer', $$registry.get('kept', 'k')$$);
SELECT as_role('writer', $$registry.clear('kept')$$);
SELECT as_role('admin', $$registry.alter_registry('kept', '{"owner": "regress_access_admin"}')$$);
SELECT as_role('reader', $$registry.get('no such', 'k')$$);
-- Nobody locks what he may not, and no plan shows how many entries there are.
BEGIN;
SELECT as_role('nobody', $$registry.put('kept', 'k', '1')$$);
SELECT count(*) AS locks FROM pg_locks WHERE pid = pg_backend_pid() AND classid = 'pg_extension'::regclass;
ROLLBACK;
SELECT registry.put_many('kept', (SELECT jsonb_object_agg(g, 1) FROM generate_series(1, 500) g));
SET ROLE regress_access_nobody;
EXPLAIN SELECT * FROM registry.entries('kept');
EXPLAIN SELECT * FROM registry.entries('no such');
SET ROLE regress_access_reader;
EXPLAIN SELECT * FROM registry.entries('kept');
RESET ROLE;
SELECT registry.put_many('kept', '{"k": "v"}', replace => true);
-- The view has only what may be read.
SELECT role, as_role(role, $$string_agg(name, ' ' ORDER BY name) FROM registry.registries$$) AS registries
  FROM unnest(ARRAY['owner', 'reader', 'member', 'noinherit', 'writer', 'admin', 'nobody']) role;
-- And in a transaction that has changes of its own.
BEGIN;
SELECT as_role('nobody', $$registry.create_registry('own')$$);
SELECT role, as_role(role, $$string_agg(name, ' ' ORDER BY name) FROM registry.registries$$) AS registries
  FROM unnest(ARRAY['owner', 'reader', 'writer', 'nobody']) role;
ROLLBACK;

-- 2. Membership as PostgreSQL has it: inherited, by SET ROLE, by SECURITY DEFINER.
SELECT may_read('reader', 'member', 'noinherit', 'nobody');
SET SESSION AUTHORIZATION regress_access_noinherit;
SELECT registry.registry_exists('kept');
SET ROLE regress_access_reader;
SELECT registry.get('kept', 'k');
RESET SESSION AUTHORIZATION;
CREATE FUNCTION lent() RETURNS jsonb LANGUAGE plpgsql SECURITY DEFINER AS $$ BEGIN RETURN registry.get('kept', 'k'); END $$;
ALTER FUNCTION lent OWNER TO regress_access_member;
SELECT as_role('nobody', 'lent()') AS inside, as_role('nobody', $$lent() || registry.get('kept', 'k')$$) AS outside;
-- Every privilege of another role comes with it.
GRANT regress_access_writer, regress_access_admin TO regress_access_reader;
SELECT as_role('member', $$registry.put('light', 'x', '1')$$) AS put, as_role('member', $$registry.clear('light')$$) AS clear;
REVOKE regress_access_writer, regress_access_admin FROM regress_access_reader;
SELECT as_role('member', $$registry.put('light', 'x', '1')$$) AS put;
SELECT registry.put('light', 'k', '"v"');

-- 3. Decisions in a session hold no longer than what they rest on: prepared statements, expressions of PL/pgSQL.
PREPARE prepared AS SELECT registry.get('kept', 'k'), registry.get('light', 'k');
CREATE FUNCTION cached() RETURNS text LANGUAGE plpgsql AS $$
BEGIN
	RETURN left(registry.generation()::text, 0) || registry.get_text('kept', 'k') || registry.get_text('light', 'k');
EXCEPTION WHEN undefined_object THEN
	RETURN 'refused';
END $$;
SET ROLE regress_access_member;
EXECUTE prepared; SELECT cached();
RESET ROLE;
SELECT on_both('revoke_access', 'read', 'regress_access_reader');
SET ROLE regress_access_member;
EXECUTE prepared; SELECT cached();
RESET ROLE;
SELECT on_both('grant_access', 'read', 'regress_access_reader');
SET ROLE regress_access_member;
EXECUTE prepared; SELECT cached();
RESET ROLE;
REVOKE regress_access_reader FROM regress_access_member;
SET ROLE regress_access_member;
EXECUTE prepared; SELECT cached();
RESET ROLE;
GRANT regress_access_reader TO regress_access_member;
SET ROLE regress_access_member;
EXECUTE prepared; SELECT cached();
RESET ROLE;
-- The same within one transaction, whose pin is the same all along; generation() has resolved it before the first get.
BEGIN ISOLATION LEVEL REPEATABLE READ;
SET LOCAL ROLE regress_access_member;
SELECT cached();
RESET ROLE;
REVOKE regress_access_reader FROM regress_access_member;
SET LOCAL ROLE regress_access_member;
SELECT cached();
RESET ROLE;
GRANT regress_access_reader TO regress_access_member;
SET LOCAL ROLE regress_access_member;
SELECT cached();
ROLLBACK;

-- 4. A grant is a change of its transaction: seen by the next command, undone by a rollback.
BEGIN;
SELECT on_both('revoke_access', 'read', 'regress_access_reader');
SELECT may_read('reader', 'member');
SAVEPOINT s;
SELECT on_both('grant_access', 'read', 'public');
SELECT may_read('reader', 'nobody');
ROLLBACK TO s;
SELECT may_read('reader', 'nobody');
SAVEPOINT s;
SELECT on_both('grant_access', 'read', 'regress_access_nobody');
RELEASE s;
SELECT may_read('reader', 'nobody');
ROLLBACK;
SELECT may_read('reader', 'nobody');
BEGIN;
SELECT on_both('revoke_access', 'read', 'regress_access_reader');
SAVEPOINT s;
SELECT on_both('grant_access', 'read', 'regress_access_nobody');
ROLLBACK TO s;
SELECT on_both('grant_access', 'read', 'public');
SELECT on_both('revoke_access', 'read', 'public');
COMMIT;
SELECT may_read('reader', 'nobody');
SELECT on_both('grant_access', 'read', 'regress_access_reader');
-- With changes of entries, in one transaction: neither loses the other.
BEGIN;
SELECT registry.put('kept', 'two', '2'), registry.put('light', 'two', '2');
SELECT on_both('grant_access', 'read', 'regress_access_nobody');
SELECT registry.put('kept', 'three', '3'), registry.put('light', 'three', '3');
SELECT as_role('nobody', $$registry.entry_count('kept') || ' ' || registry.entry_count('light')$$);
COMMIT;
SELECT as_role('nobody', $$registry.entry_count('kept') || ' ' || registry.entry_count('light')$$);
-- Grants stay when entries are put, deleted and replaced, all of them, and when options change.
SELECT registry.put_many(r, '{"k": "v"}', replace => true), registry.clear(r), registry.put(r, 'k', '"v"'), registry.delete(r, 'none'),
       registry.alter_registry(r, '{"max_age": "1 day"}')
  FROM unnest(ARRAY['kept', 'light']) r;
SELECT registry.put_many(r, (SELECT jsonb_object_agg(g, 1) FROM generate_series(1, 3000) g)) FROM unnest(ARRAY['kept', 'light']) r;
SELECT may_read('reader', 'nobody'), registry.reload('kept');
SELECT registry.put_many(r, '{"k": "v"}', replace => true) FROM unnest(ARRAY['kept', 'light']) r;
SELECT on_both('revoke_access', 'read', 'regress_access_nobody');
SELECT may_read('reader', 'nobody');
SELECT last_change = (SELECT last_change FROM registry.registries WHERE name = 'kept') AS a_grant_changes_no_entry
  FROM registry.registries, registry.grant_access('kept', 'write', 'public') WHERE name = 'kept';
SELECT registry.revoke_access('kept', 'write', 'public');

-- 5. A registry of the same transaction; its name given away; dropped, and another one of its name.
BEGIN;
SELECT registry.create_registry('new kept', durable => true), registry.create_registry('new light', durable => false);
SELECT registry.grant_access('new kept', 'read', 'regress_access_nobody'), registry.grant_access('new light', 'read', 'regress_access_nobody');
SELECT as_role('nobody', $$registry.registry_exists('new kept')$$), as_role('nobody', $$registry.registry_exists('new light')$$);
SELECT as_role('reader', $$registry.registry_exists('new kept')$$), as_role('reader', $$registry.registry_exists('new light')$$);
SELECT registry.alter_registry('new kept', '{"name": "newer kept"}');
SELECT as_role('nobody', $$registry.registry_exists('newer kept')$$), as_role('nobody', $$registry.registry_exists('new kept')$$);
COMMIT;
SELECT as_role('nobody', $$registry.registry_exists('newer kept')$$), as_role('nobody', $$registry.registry_exists('new light')$$);
SELECT registry.alter_registry('new light', '{"name": "newer light"}');
SELECT as_role('nobody', $$registry.registry_exists('new light')$$), as_role('nobody', $$registry.registry_exists('newer light')$$);
SELECT registry, grantee FROM _registry.grants WHERE registry ~ 'new' ORDER BY 1;
BEGIN;
SELECT registry.alter_registry('newer kept', '{"name": "new kept"}');
SELECT registry.grant_access('new kept', 'read', 'regress_access_reader'), registry.revoke_access('new kept', 'read', 'regress_access_nobody');
COMMIT;
SELECT as_role('reader', $$registry.registry_exists('new kept')$$), as_role('nobody', $$registry.registry_exists('new kept')$$);
SELECT registry.drop_registry('new kept'), registry.drop_registry('newer light');
SELECT count(*) FROM _registry.grants WHERE registry ~ 'new';
-- Grants that somebody left in the table are not those of the next registry of that name.
INSERT INTO _registry.grants VALUES ('new kept', 'read', 'public', 0), ('newer light', 'read', 'public', 0);
SELECT registry.create_registry('new kept', durable => true), registry.create_registry('newer light', durable => false);
SELECT as_role('nobody', $$registry.registry_exists('new kept')$$), as_role('nobody', $$registry.registry_exists('newer light')$$);
SELECT registry.drop_registry('new kept'), registry.drop_registry('newer light');

-- 6. DML on the table by its owner, COPY and TRUNCATE.
INSERT INTO _registry.grants SELECT r, 'read', 'regress_access_nobody', 'regress_access_nobody'::regrole FROM unnest(ARRAY['kept', 'light']) r;
SELECT may_read('reader', 'nobody', 'writer');
UPDATE _registry.grants SET grantee = 'regress_access_writer', grantee_oid = 'regress_access_writer'::regrole WHERE grantee = 'regress_access_nobody';
SELECT may_read('reader', 'nobody', 'writer');
BEGIN;
DELETE FROM _registry.grants WHERE grantee = 'regress_access_reader';
SELECT may_read('reader', 'nobody', 'writer');
ROLLBACK;
SELECT may_read('reader', 'nobody', 'writer');
UPDATE _registry.grants SET registry = 'elsewhere' WHERE grantee = 'regress_access_writer' AND privilege = 'read' AND registry = 'kept';
SELECT as_role('writer', $$registry.registry_exists('kept')$$), as_role('writer', $$registry.registry_exists('light')$$);
DELETE FROM _registry.grants WHERE registry = 'elsewhere' OR grantee = 'regress_access_writer' AND privilege = 'read';
COPY _registry.grants FROM stdin;
kept	read	public	0	x	2026-01-01
light	read	public	0	x	2026-01-01
\.
SELECT may_read('nobody');
\set VERBOSITY terse
INSERT INTO _registry.grants VALUES ('kept', 'own', 'public', 0);
\set VERBOSITY default
BEGIN;
TRUNCATE _registry.grants;
SELECT may_read('reader', 'nobody', 'owner');
ROLLBACK;
SELECT may_read('reader', 'nobody', 'owner');
DELETE FROM _registry.grants WHERE grantee = 'public';
-- Rows for the rates, or for a registry that is not there, mean nothing.
INSERT INTO _registry.grants SELECT r, 'write', 'public', 0 FROM unnest(ARRAY['rates', 'no such', '', repeat('x', 100)]) r;
SELECT outcome($$registry.put('rates', 'USD', '1')$$), outcome($$registry.rate('EUR', 'USD', missing_ok => true)$$);
DELETE FROM _registry.grants WHERE registry <> ALL (ARRAY['kept', 'light']);
-- Public is a name and an oid, too.
INSERT INTO _registry.grants SELECT r, 'read', 'Public', 0 FROM unnest(ARRAY['kept', 'light']) r;
INSERT INTO _registry.grants SELECT r, 'read', 'public', 'regress_access_nobody'::regrole FROM unnest(ARRAY['kept', 'light']) r;
SELECT may_read('nobody');
SELECT * FROM registry.verify('kept');
DELETE FROM _registry.grants WHERE lower(grantee) = 'public';

-- 7. A role that was dropped leaves its rights to nobody, not even to another one of its name or of its oid.
SELECT on_both('grant_access', 'read', 'regress_access_nobody');
SELECT may_read('nobody');
ALTER ROLE regress_access_nobody RENAME TO regress_access_renamed;
SELECT may_read('renamed');
SELECT * FROM registry.verify('kept'); SELECT * FROM registry.verify('light');
ALTER ROLE regress_access_renamed RENAME TO regress_access_nobody;
SELECT may_read('nobody');
DROP ROLE regress_access_nobody;
CREATE ROLE regress_access_nobody;
SELECT may_read('nobody');
SELECT * FROM registry.verify('kept'); SELECT * FROM registry.verify('light');
-- An oid that is another role's: as after a restore into another cluster.
UPDATE _registry.grants SET grantee_oid = 'regress_access_admin'::regrole WHERE grantee = 'regress_access_nobody';
SELECT may_read('nobody', 'admin');
-- By name, on demand.
SELECT registry.restore_grants() AS restored, registry.restore_grants() AS again;
SELECT may_read('nobody', 'admin');
SELECT * FROM registry.verify('kept');
BEGIN;
UPDATE _registry.grants SET grantee_oid = 1 WHERE grantee = 'regress_access_nobody';
SELECT registry.restore_grants();
SELECT may_read('nobody');
ROLLBACK;
SELECT may_read('nobody');
-- So are owners.
UPDATE _registry.definitions SET owner_oid = 'regress_access_nobody'::regrole WHERE name IN ('kept', 'light');
SELECT may_read('owner', 'nobody');
SELECT as_role('nobody', $$registry.clear('kept')$$), as_role('owner', $$registry.clear('light')$$);
SELECT * FROM registry.verify('kept'); SELECT * FROM registry.verify('light');
SELECT name, owner FROM registry.registries WHERE name <> 'rates' ORDER BY 1;
SELECT registry.alter_registry('kept', '{"max_age": null}');
SELECT registry.restore_grants();
SELECT may_read('owner', 'nobody');
ALTER ROLE regress_access_owner RENAME TO regress_access_renamed;
SELECT may_read('renamed');
SELECT * FROM registry.verify('kept');
SELECT ok, value, detail, hint FROM registry.checks WHERE check_name = 'grants_resolved';
-- What was recorded for the old name is given to the new one; but nothing that is somebody's.
SELECT call, outcome(call) FROM unnest(ARRAY[$$registry.restore_grants('regress_access_owner', 'regress_access_none')$$,
	$$registry.restore_grants('regress_access_owner', 'public')$$, $$registry.restore_grants('regress_access_owner')$$,
	$$registry.restore_grants(to_role => 'regress_access_owner')$$]) call;
SELECT registry.restore_grants('regress_access_owner', 'regress_access_renamed') AS passed_on, registry.restore_grants('regress_access_owner', 'regress_access_renamed') AS again;
SELECT may_read('renamed');
SELECT ok, value, detail, hint FROM registry.checks WHERE check_name = 'grants_resolved';
CREATE ROLE regress_access_owner;
SELECT registry.restore_grants(), registry.restore_grants('regress_access_renamed', 'regress_access_owner') AS not_his;
SELECT may_read('owner', 'renamed');
DROP ROLE regress_access_owner;
ALTER ROLE regress_access_renamed RENAME TO regress_access_owner;
SELECT registry.restore_grants('regress_access_renamed', 'regress_access_owner');
-- The same of a grantee, who has been given some of it already.
ALTER ROLE regress_access_nobody RENAME TO regress_access_renamed;
SELECT registry.grant_access('kept', 'read', 'regress_access_renamed');
SELECT registry.restore_grants('regress_access_nobody', 'regress_access_renamed');
SELECT may_read('renamed');
SELECT registry, privilege, grantee FROM _registry.grants WHERE grantee ~ 'renamed|nobody' ORDER BY 1, 2, 3;
ALTER ROLE regress_access_renamed RENAME TO regress_access_nobody;
SELECT registry.restore_grants('regress_access_renamed', 'regress_access_nobody');
UPDATE _registry.grants SET grantee_oid = 1 WHERE grantee = 'regress_access_nobody';
SELECT registry.restore_grants('regress_access_nobody', 'regress_access_nobody') AS of_one_name;
SELECT may_read('owner', 'nobody');
SELECT count(*) FROM registry.verify('kept'); SELECT count(*) FROM registry.verify('light');
-- Revoking works for who is gone.
DROP ROLE regress_access_nobody;
SELECT on_both('revoke_access', 'read', 'regress_access_nobody');
CREATE ROLE regress_access_nobody;
SELECT * FROM registry.verify('kept');

-- 8. Public, and arguments that make no sense.
SELECT on_both('grant_access', 'read', 'public');
SELECT may_read('nobody', 'noinherit', 'writer'), as_role('nobody', $$registry.put('kept', 'k', '1')$$) AS put;
SELECT on_both('grant_access', 'read', 'public');
SELECT on_both('revoke_access', 'read', 'public');
SELECT may_read('nobody', 'noinherit', 'writer');
SELECT on_both('revoke_access', 'read', 'public');
CREATE ROLE "PUBLIC";
SELECT on_both('grant_access', 'read', 'PUBLIC');
SELECT may_read('nobody');
SELECT on_both('revoke_access', 'read', 'PUBLIC');
DROP ROLE "PUBLIC";
CREATE ROLE "public";
SELECT call, as_role('owner', 'registry.' || call) AS outcome
  FROM unnest(ARRAY[$$grant_access(NULL, 'read', 'public')$$, $$grant_access('kept', NULL, 'public')$$, $$grant_access('kept', 'read', NULL)$$,
                    $$revoke_access(NULL, 'read', 'public')$$, $$revoke_access('kept', NULL, 'public')$$, $$revoke_access('kept', 'read', NULL)$$,
                    $$grant_access('', 'read', 'public')$$, $$grant_access(repeat('r', 100), 'read', 'public')$$, $$grant_access('rates', 'read', 'public')$$,
                    $$revoke_access('rates', 'read', 'public')$$, $$grant_access('kept', '', 'public')$$, $$grant_access('kept', 'READ', 'public')$$,
                    $$grant_access('kept', 'read, write', 'public')$$, $$grant_access('kept', 'own', 'public')$$, $$grant_access('kept', 'all', 'public')$$,
                    $$grant_access('kept', 'read', '')$$, $$grant_access('kept', 'read', 'PUBLIC')$$, $$grant_access('kept', 'read', 'regress_access_none')$$,
                    $$revoke_access('kept', 'read', 'regress_access_none')$$, $$grant_access('kept', 'read', repeat('x', 100))$$,
                    $$grant_access('kept', 'read', '10')$$, $$grant_access('kept', repeat('p', 100), 'public')$$, $$grant_access('no such', 'read', 'public')$$,
                    $$grant_access('no such', 'read', 'regress_access_none')$$, $$revoke_access('no such', 'read', 'public')$$]) call;
SELECT outcome($$registry.grant_access('kept', 'read', 'regress_access_none')$$), outcome($$registry.restore_grants()$$) AS restore;
BEGIN READ ONLY;
SELECT registry.grant_access('kept', 'read', 'public');
ROLLBACK;
-- A role whose name is as long as names can be, and one more.
CREATE ROLE regress_access_longest_name_that_can_be_with_all_of_63_bytes_in;
SELECT on_both('grant_access', 'read', 'regress_access_longest_name_that_can_be_with_all_of_63_bytes_in');
SELECT may_read('longest_name_that_can_be_with_all_of_63_bytes_in');
SELECT as_role('owner', $$registry.grant_access('kept', 'read', 'regress_access_longest_name_that_can_be_with_all_of_63_bytes_in1')$$);
DROP ROLE regress_access_longest_name_that_can_be_with_all_of_63_bytes_in;

-- 9. Admins pass on what they administer, and many grants are as good as few.
SELECT as_role('admin', $$on_both('grant_access', 'read', 'regress_access_admin')$$), may_read('admin');
SELECT as_role('admin', $$on_both('revoke_access', 'admin', 'regress_access_admin')$$), as_role('admin', $$on_both('grant_access', 'write', 'public')$$);
DO $$ BEGIN FOR i IN 1 .. 150 LOOP EXECUTE 'CREATE ROLE regress_access_' || i; END LOOP; END $$;
SELECT count(on_both('grant_access', 'read', 'regress_access_' || i)) FROM generate_series(1, 150) i;
SELECT may_read('1', '77', '150', 'nobody');
SELECT as_role('77', $$registry.put('kept', 'k', '1')$$);
-- Parallel workers decide like their leader.
CREATE TABLE numbers AS SELECT generate_series(1, 1000) AS n;
GRANT SELECT ON numbers TO PUBLIC;
SET parallel_setup_cost = 0; SET parallel_tuple_cost = 0; SET min_parallel_table_scan_size = 0;
SET force_parallel_mode = on;
SELECT as_role(role, $$count(registry.get('kept', 'k' || n % 2)) || ' ' || count(registry.get('light', left('k' || n, 1))) FROM numbers$$)
  FROM unnest(ARRAY['77', 'nobody', 'reader']) role;
BEGIN;
SELECT on_both('revoke_access', 'read', 'regress_access_77');
SELECT as_role('77', $$count(registry.get('light', left('k' || n, 1))) FROM numbers$$);
SELECT as_role('78', $$count(registry.get('light', left('k' || n, 1))) FROM numbers$$);
COMMIT;
SELECT as_role('77', $$count(registry.get('light', left('k' || n, 1))) FROM numbers$$);
RESET force_parallel_mode;
DO $$ BEGIN FOR i IN 1 .. 150 LOOP EXECUTE 'DROP ROLE regress_access_' || i; END LOOP; END $$;
SELECT count(*) FROM registry.verify('kept'); SELECT count(*) FROM registry.verify('light');

-- 10. A registry that is read from its table: rows that a restore has brought, in whatever order.
INSERT INTO _registry.grants VALUES ('early', 'read', 'regress_access_reader', 'regress_access_reader'::regrole);
INSERT INTO _registry.stored_entries VALUES ('early', 'k', '"v"');
INSERT INTO _registry.definitions (name, value_type, owner, owner_oid) VALUES ('early', 'jsonb', 'regress_access_owner', 'regress_access_owner'::regrole);
SELECT name, owner, state FROM registry.registries WHERE name = 'early';
SELECT role, as_role(role, $$registry.get('early', 'k')$$), as_role(role, $$registry.put('early', 'x', '1')$$) AS put
  FROM unnest(ARRAY['owner', 'reader', 'member', 'noinherit', 'nobody']) role;
SELECT registry.grant_access('early', 'write', 'regress_access_nobody'), registry.revoke_access('early', 'read', 'regress_access_reader');
SELECT role, as_role(role, $$registry.get('early', 'k')$$), as_role(role, $$registry.put('early', 'x', '1')$$) AS put
  FROM unnest(ARRAY['owner', 'reader', 'nobody']) role;
SELECT state FROM registry.registries WHERE name = 'early';
SELECT registry.reload('early');
SELECT role, as_role(role, $$registry.get('early', 'k')$$), as_role(role, $$registry.put('early', 'x', '1')$$) AS put
  FROM unnest(ARRAY['owner', 'reader', 'nobody']) role;
-- What bypasses the trigger holds all the same, in memory registries once it is in force again.
ALTER TABLE _registry.grants DISABLE TRIGGER changed;
INSERT INTO _registry.grants VALUES ('early', 'read', 'regress_access_reader', 'regress_access_reader'::regrole);
SELECT as_role('reader', $$registry.get('early', 'k')$$), (SELECT count(*) FROM registry.verify('early')) AS problems;
ALTER TABLE _registry.grants ENABLE ALWAYS TRIGGER changed;
SELECT as_role('reader', $$registry.get('early', 'k')$$), (SELECT count(*) FROM registry.verify('early')) AS problems;

-- 11. The tables are the extension's owner's and, to read, the database owner's.
SELECT relname, grantee::regrole, string_agg(privilege_type, ' ') FROM pg_class, aclexplode(relacl)
 WHERE relnamespace IN ('registry'::regnamespace, '_registry'::regnamespace) AND (relkind = 'r' OR relname = 'rate_sets') AND grantee <> relowner GROUP BY relnamespace, 1, 2 ORDER BY 1, relnamespace;
SELECT as_role('owner', 'count(*) FROM _registry.grants'), as_role('admin', 'count(*) FROM _registry.stored_entries');

DROP EXTENSION pg_registry CASCADE;
DROP TABLE numbers, calls;
DROP FUNCTION as_role, outcome, may_read, on_both, tried, lent, cached;
DROP ROLE regress_access_owner, regress_access_reader, regress_access_writer, regress_access_admin, regress_access_nobody,
	regress_access_member, regress_access_noinherit;
