-- When this fails, somebody reads or changes what is not his, or a monitoring role cannot see what it should.
--
-- Roles: nobody has no rights at all, monitor is a member of pg_monitor, alice owns the registry "secret",
-- friend is a member of alice, bob owns one of his own.
\set SHOW_CONTEXT never
CREATE EXTENSION pg_registry;
CREATE ROLE regress_registry_nobody;
CREATE ROLE regress_registry_monitor IN ROLE pg_monitor;
CREATE ROLE regress_registry_alice;
CREATE ROLE regress_registry_friend IN ROLE regress_registry_alice;
CREATE ROLE regress_registry_bob;

-- The value of a query, or its error: SQLSTATE, message, then detail and hint.
CREATE FUNCTION outcome(query text) RETURNS text LANGUAGE plpgsql AS $$
DECLARE result text; detail text; hint text;
BEGIN
	EXECUTE query INTO result;
	RETURN coalesce(result, 'null');
EXCEPTION WHEN OTHERS THEN
	GET STACKED DIAGNOSTICS detail = PG_EXCEPTION_DETAIL, hint = PG_EXCEPTION_HINT;
	RETURN concat_ws(E'\n', SQLSTATE || ': ' || SQLERRM,
	                 'DETAIL ' || nullif(detail, ''), 'HINT ' || nullif(hint, ''));
END $$;

-- 1. Every function, view and type as a role without rights, and as a member of pg_monitor. An object that is
-- not in this table shows up with empty expectations.
CREATE TABLE expectations (object text, call text, for_nobody text, for_monitor text);
INSERT INTO expectations VALUES
	('create_registry', $$SELECT registry.create_registry('x')$$, '42501', '42501'),
	('alter_registry', $$SELECT registry.alter_registry('secret', '{}')$$, '42501', '42501'),
	('clear', $$SELECT registry.clear('secret')$$, '42501', '42501'),
	('grant_access', $$SELECT registry.grant_access('secret', 'read', 'public')$$, '42501', '42501'),
	('revoke_access', $$SELECT registry.revoke_access('secret', 'read', 'public')$$, '42501', '42501'),
	('restore_grants', $$SELECT registry.restore_grants()$$, '42501', '42501'),
	('drop_registry', $$SELECT registry.drop_registry('secret')$$, '42501', '42501'),
	('registry_exists', $$SELECT registry.registry_exists('secret')$$, 'allowed', 'allowed'),
	('put(text)', $$SELECT registry.put('secret', 'k', 'v')$$, '42704', '42704'),
	('put("any")', $$SELECT registry.put('secret', 'k', 1)$$, '42704', '42704'),
	('put_many', $$SELECT registry.put_many('secret', '{"k": 1}')$$, '42704', '42704'),
	('delete', $$SELECT registry.delete('secret', 'k')$$, '42704', '42704'),
	('get(text)', $$SELECT registry.get('secret', 'k')$$, '42704', '42704'),
	('get(bigint)', $$SELECT registry.get('secret', 5)$$, '42704', '42704'),
	('get_text(text)', $$SELECT registry.get_text('secret', 'k')$$, '42704', '42704'),
	('get_text(bigint)', $$SELECT registry.get_text('secret', 5)$$, '42704', '42704'),
	('get_numeric(text)', $$SELECT registry.get_numeric('secret', 'k')$$, '42704', '42704'),
	('get_numeric(bigint)', $$SELECT registry.get_numeric('secret', 5)$$, '42704', '42704'),
	('get_float8(text)', $$SELECT registry.get_float8('secret', 'k')$$, '42704', '42704'),
	('get_float8(bigint)', $$SELECT registry.get_float8('secret', 5)$$, '42704', '42704'),
	('get_bigint(text)', $$SELECT registry.get_bigint('secret', 'k')$$, '42704', '42704'),
	('get_bigint(bigint)', $$SELECT registry.get_bigint('secret', 5)$$, '42704', '42704'),
	('get_boolean(text)', $$SELECT registry.get_boolean('secret', 'k')$$, '42704', '42704'),
	('get_boolean(bigint)', $$SELECT registry.get_boolean('secret', 5)$$, '42704', '42704'),
	('get_timestamptz(text)', $$SELECT registry.get_timestamptz('secret', 'k')$$, '42704', '42704'),
	('get_timestamptz(bigint)', $$SELECT registry.get_timestamptz('secret', 5)$$, '42704', '42704'),
	('get_many', $$SELECT count(*) FROM registry.get_many('secret', '{k}')$$, '42704', '42704'),
	('entries', $$SELECT count(*) FROM registry.entries('secret')$$, '42704', '42704'),
	('entry_count', $$SELECT registry.entry_count('secret')$$, '42704', '42704'),
	('generation', $$SELECT registry.generation()$$, 'allowed', 'allowed'),
	('advance', $$SELECT registry.advance()$$, 'allowed', 'allowed'),
	('rate', $$SELECT registry.rate('EUR', 'USD')$$, 'allowed', 'allowed'),
	('rate_float8', $$SELECT registry.rate_float8('EUR', 'USD')$$, 'allowed', 'allowed'),
	('convert', $$SELECT registry.convert(1, 'EUR', 'USD')$$, 'allowed', 'allowed'),
	('quote', $$SELECT registry.quote('EUR', 'USD')$$, 'allowed', 'allowed'),
	('minor_units', $$SELECT registry.minor_units('EUR')$$, 'allowed', 'allowed'),
	('round_money', $$SELECT registry.round_money(1, 'EUR')$$, 'allowed', 'allowed'),
	('set_rates', $$SELECT registry.set_rates('EUR', '{"USD": 9}')$$, '42501', '42501'),
	('accept_rates', $$SELECT registry.accept_rates(1)$$, '42501', '42501'),
	('withdraw_rates', $$SELECT registry.withdraw_rates(1, 'no')$$, '42501', '42501'),
	('refresh', $$SELECT registry.refresh('rates', wait => false)$$, '42501', '42501'),
	('pause', $$SELECT registry.pause('rates')$$, '42501', '42501'),
	('resume', $$SELECT registry.resume('rates')$$, '42501', '42501'),
	('arm', $$SELECT registry.arm()$$, '42501', '42501'),
	('restart_workers', $$SELECT registry.restart_workers()$$, '42501', '42501'),
	('log_tail', $$SELECT count(*) FROM registry.log_tail()$$, '42501', '42501'),
	('status', $$SELECT registry.status()$$, '42501', 'allowed'),
	('list_registries', $$SELECT count(*) FROM registry.list_registries()$$, 'allowed', 'allowed'),
	('list_rates', $$SELECT count(*) FROM registry.list_rates()$$, 'allowed', 'allowed'),
	('list_readers', $$SELECT count(*) FROM registry.list_readers()$$, '42501', 'allowed'),
	('list_memory', $$SELECT count(*) FROM registry.list_memory()$$, '42501', 'allowed'),
	('list_checks', $$SELECT count(*) FROM registry.list_checks()$$, '42501', 'allowed'),
	('view registries', $$SELECT count(*) FROM registry.registries$$, 'allowed', 'allowed'),
	('view rates', $$SELECT count(*) FROM registry.rates$$, 'allowed', 'allowed'),
	('view readers', $$SELECT count(*) FROM registry.readers$$, '42501', 'allowed'),
	('view memory', $$SELECT count(*) FROM registry.memory$$, '42501', 'allowed'),
	('view checks', $$SELECT count(*) FROM registry.checks$$, '42501', 'allowed'),
	('view rate_sets', $$SELECT count(*) FROM registry.rate_sets$$, '42501', '42501'),
	('r rate_sets', $$SELECT count(*) FROM _registry.rate_sets$$, '42501', '42501'),
	('r rate_set_values', $$SELECT count(*) FROM _registry.rate_set_values$$, '42501', '42501'),
	('r stamps', $$SELECT count(*) FROM _registry.stamps$$, '42501', '42501'),
	('r changes', $$SELECT count(*) FROM _registry.changes$$, '42501', '42501'),
	('r definitions', $$SELECT count(*) FROM _registry.definitions$$, '42501', '42501'),
	('r stored_entries', $$SELECT count(*) FROM _registry.stored_entries$$, '42501', '42501'),
	('r grants', $$SELECT count(*) FROM _registry.grants$$, '42501', '42501'),
	('type rate_quote', $$SELECT NULL::registry.rate_quote$$, 'allowed', 'allowed');
CREATE VIEW objects AS
	SELECT CASE WHEN count(*) OVER (PARTITION BY proname) = 1 THEN proname
	            ELSE format('%s(%s)', proname, CASE WHEN '"any"'::regtype = ANY (proargtypes) THEN '"any"'
	                 WHEN 'bigint'::regtype = ANY (proargtypes) THEN 'bigint' ELSE 'text' END)
	       END AS object
	  FROM pg_proc WHERE pronamespace = 'registry'::regnamespace AND prorettype <> 'internal'::regtype
	UNION ALL
	SELECT CASE relkind WHEN 'v' THEN 'view ' WHEN 'c' THEN 'type ' ELSE relkind::text || ' ' END || relname
	  FROM pg_class WHERE relnamespace IN ('registry'::regnamespace, '_registry'::regnamespace);
GRANT SELECT ON expectations, objects TO PUBLIC;
GRANT USAGE ON SCHEMA public TO PUBLIC;

CREATE FUNCTION as_role(role name, call text) RETURNS text LANGUAGE plpgsql AS $$
BEGIN
	PERFORM set_config('role', role, true);
	EXECUTE call;
	RESET role;
	RETURN 'allowed';
EXCEPTION WHEN OTHERS THEN
	RETURN SQLSTATE;
END $$;

BEGIN;
SELECT registry.create_registry('secret', durable => false), registry.set_rates('EUR', '{"USD": 1.1}');
SELECT registry.put('secret', 'k', '1');
SELECT object, for_nobody, for_monitor, as_role('regress_registry_nobody', call) AS nobody,
       as_role('regress_registry_monitor', call) AS monitor
  FROM expectations FULL JOIN objects USING (object)
 ORDER BY object COLLATE "C";
SELECT object FROM expectations WHERE (for_nobody, for_monitor) IS DISTINCT FROM
       (as_role('regress_registry_nobody', call), as_role('regress_registry_monitor', call));
SELECT registry.get('secret', 'k') AS unchanged, registry.rate('EUR', 'USD') AS rate;
ROLLBACK;

-- The rights as PostgreSQL shows them.
SELECT p.proname, string_agg(CASE a.grantee WHEN 0 THEN 'public' ELSE a.grantee::regrole::text END, ' ')
                    FILTER (WHERE a.grantee <> p.proowner) AS granted_to,
       bool_or(a.is_grantable AND a.grantee <> p.proowner) AS grantable
  FROM pg_proc p, aclexplode(coalesce(p.proacl, acldefault('f', p.proowner))) a
 WHERE p.pronamespace = 'registry'::regnamespace GROUP BY p.oid, p.proname ORDER BY p.proname COLLATE "C", p.oid;
SELECT has_schema_privilege('regress_registry_nobody', 'registry', 'USAGE') AS usage,
       has_schema_privilege('regress_registry_nobody', 'registry', 'CREATE') AS "create",
       has_schema_privilege('regress_registry_monitor', 'registry', 'CREATE') AS monitor_create;
SELECT extrelocatable FROM pg_extension WHERE extname = 'pg_registry';
SELECT proname FROM pg_proc WHERE pronamespace = 'registry'::regnamespace AND (prosecdef OR prolang <> (SELECT oid FROM pg_language WHERE lanname = 'c'));

-- 2. create, drop and the rest are granted on demand. A registry is its creator's.
GRANT EXECUTE ON FUNCTION registry.create_registry, registry.drop_registry TO regress_registry_alice, regress_registry_bob;
SET ROLE regress_registry_alice;
SELECT registry.create_registry('secret', durable => false);
SELECT registry.put('secret', 'k', '"of alice"');
SELECT name, owner FROM registry.registries ORDER BY name COLLATE "C";
SET ROLE regress_registry_bob;
SELECT registry.create_registry('of bob', durable => false);
SELECT name, owner FROM registry.registries ORDER BY name COLLATE "C";
-- To bob it does not exist, in the same words as one that does not; only its name is taken.
SELECT call, outcome('SELECT registry.' || call)
  FROM unnest(ARRAY[$$get('secret', 'k')$$, $$get('no such', 'k')$$, $$get_text('secret', 'k')$$, $$get_numeric('secret', 'k')$$,
                    $$get_float8('secret', 'k')$$, $$entries('secret')$$, $$entry_count('secret')$$, $$registry_exists('secret')$$,
                    $$put('secret', 'k', '1')$$, $$put('no such', 'k', '1')$$, $$put('secret', 'k', 1)$$, $$put_many('secret', '{}')$$,
                    $$delete('secret', 'k')$$, $$drop_registry('secret')$$, $$drop_registry('no such')$$,
                    $$create_registry('secret', durable => false)$$, $$put('rates', 'USD', '1')$$]) call;
SELECT registry.drop_registry('secret', if_exists => true);
-- A value that does not fit tells bob nothing either.
SELECT outcome($$SELECT registry.put('secret', 'k', 'no json')$$) AS value, outcome($$SELECT registry.put_many('secret', '[]')$$) AS entries;
RESET ROLE;
SELECT registry.get('secret', 'k') AS superuser_reads;
SELECT registry.put('secret', 'k', '"of the superuser"');
SELECT name, owner FROM registry.registries ORDER BY name COLLATE "C";
-- A member of the owner is the owner; what he creates is his own.
SET ROLE regress_registry_friend;
SELECT registry.get('secret', 'k') AS friend_reads, registry.delete('secret', 'k') AS deletes;
SELECT registry.create_registry('of friend');
SET ROLE regress_registry_alice;
SELECT outcome($$SELECT registry.entry_count('of friend')$$) AS not_the_other_way_round;
RESET ROLE;
SELECT name, owner FROM registry.registries ORDER BY name COLLATE "C";
SET ROLE regress_registry_alice;
SELECT registry.put('secret', 'k', '"of alice"');
RESET ROLE;

-- 3. Rates are PUBLIC's to read, and nobody's to write.
BEGIN;
SELECT registry.set_rates('EUR', '{"USD": 1.1}', current_date - 1);
SET ROLE regress_registry_nobody;
SELECT registry.rate('EUR', 'USD'), registry.rate_float8('EUR', 'USD'), registry.convert(2, 'EUR', 'USD'),
       (registry.quote('EUR', 'USD')).base, registry.get_numeric('rates', 'USD') AS get, registry.registry_exists('rates');
SELECT currency, rate FROM registry.rates ORDER BY currency COLLATE "C";
SELECT name, entries FROM registry.registries;
SELECT outcome($$SELECT registry.put('rates', 'USD', '9')$$), outcome($$SELECT registry.delete('rates', 'USD')$$) AS delete;
SAVEPOINT s;
SELECT registry.set_rates('EUR', '{"USD": 9}');
ROLLBACK;

-- 4. A cached plan asks again for each role. Constant and computed names take different paths.
PREPARE constant AS SELECT registry.get('secret', 'k');
PREPARE computed(text) AS SELECT registry.get($1, 'k');
PREPARE counted AS SELECT registry.entry_count('secret');
CREATE FUNCTION cached(name text) RETURNS jsonb LANGUAGE plpgsql AS $$ BEGIN RETURN registry.get(name, 'k'); END $$;
CREATE FUNCTION cached_constant() RETURNS jsonb LANGUAGE plpgsql AS $$ BEGIN RETURN registry.get('secret', 'k'); END $$;
CREATE FUNCTION inlined() RETURNS jsonb LANGUAGE sql STABLE AS $$ SELECT registry.get('secret', 'k') $$;
EXECUTE constant; EXECUTE computed('secret'); EXECUTE counted; SELECT cached('secret'), cached_constant(), inlined();
SET ROLE regress_registry_bob;
EXECUTE constant; EXECUTE computed('secret'); EXECUTE counted;
SELECT outcome($$SELECT cached('secret')$$) AS cached, outcome($$SELECT cached_constant()$$) AS cached_constant, outcome($$SELECT inlined()$$) AS inlined;
SET ROLE regress_registry_alice;
EXECUTE constant; EXECUTE computed('secret'); EXECUTE counted; SELECT cached('secret'), cached_constant(), inlined();
RESET ROLE;

-- Within one transaction, and with the pin of REPEATABLE READ.
BEGIN ISOLATION LEVEL REPEATABLE READ;
EXECUTE constant;
SELECT cached_constant();
SET LOCAL ROLE regress_registry_bob;
SAVEPOINT s;
EXECUTE constant;
ROLLBACK TO s;
SELECT cached_constant();
ROLLBACK;
-- Within one statement: a role that changes from row to row, in one call.
CREATE FUNCTION get_as(role name, name text) RETURNS text LANGUAGE plpgsql AS $$
DECLARE result text; ignored text;
BEGIN
	-- assignments, so that no other query runs between two calls
	ignored := set_config('role', role, true);
	result := registry.get(name, 'k');
	RETURN result;
EXCEPTION WHEN undefined_object THEN
	RETURN SQLERRM;
END $$;
BEGIN;
SELECT role, get_as(role, 'secret'), (SELECT count(*) FROM registry.registries WHERE owner = 'regress_registry_alice') AS rows_for_superuser
  FROM unnest(ARRAY['regress_registry_alice', 'regress_registry_bob', 'regress_registry_friend', 'regress_registry_nobody']) role;
ROLLBACK;

-- 5. A SECURITY DEFINER function reads and writes as its owner, and only inside.
CREATE FUNCTION lent() RETURNS jsonb LANGUAGE plpgsql SECURITY DEFINER AS $$ BEGIN RETURN registry.get('secret', 'k'); END $$;
CREATE FUNCTION lent_sql() RETURNS jsonb LANGUAGE sql STABLE SECURITY DEFINER AS $$ SELECT registry.get('secret', 'k') $$;
CREATE FUNCTION lent_put(value jsonb) RETURNS void LANGUAGE sql SECURITY DEFINER AS $$ SELECT registry.put('secret', 'k', value) $$;
CREATE FUNCTION lent_cached() RETURNS jsonb LANGUAGE plpgsql SECURITY DEFINER AS $$ BEGIN RETURN cached('secret'); END $$;
ALTER FUNCTION lent_cached OWNER TO regress_registry_alice;
ALTER FUNCTION lent OWNER TO regress_registry_alice;
ALTER FUNCTION lent_sql OWNER TO regress_registry_alice;
ALTER FUNCTION lent_put OWNER TO regress_registry_alice;
CREATE VIEW lent_view AS SELECT registry.get('secret', 'k');
ALTER VIEW lent_view OWNER TO regress_registry_alice;
GRANT SELECT ON lent_view TO PUBLIC;
SET ROLE regress_registry_bob;
SELECT lent(), lent_sql();
SELECT lent_put('"lent"');
SELECT lent(), lent_sql();
SELECT outcome($$SELECT lent() || registry.get('secret', 'k')$$) AS not_outside, outcome($$SELECT registry.get('secret', 'k') || lent()$$) AS nor_before;
-- The same expression of one function, run as alice and then as bob, in one statement.
SELECT outcome($$SELECT lent_cached() || cached('secret')$$) AS cached;
-- As with every function, a view lends its owner's right to its tables, not to what its functions read.
SELECT outcome($$SELECT * FROM lent_view$$) AS view;
RESET ROLE;

-- 6. Who runs out of memory is told which registry is the largest only if he may read it.
SET ROLE regress_registry_alice;
SELECT registry.put('secret', 'large', to_jsonb(repeat('x', 15000000)));
SET ROLE regress_registry_bob;
SELECT left(outcome, 5) AS sqlstate, substring(outcome FROM 'the largest registry (.*) takes') AS largest
  FROM outcome($$SELECT registry.put('of bob', 'large', to_jsonb(repeat('x', 60000000)))$$);
SET ROLE regress_registry_alice;
SELECT left(outcome, 5) AS sqlstate, substring(outcome FROM 'the largest registry (.*) takes') AS largest
  FROM outcome($$SELECT registry.put('secret', 'larger', to_jsonb(repeat('x', 60000000)))$$);
SELECT registry.delete('secret', 'large');
RESET ROLE;

-- 7. A role that is gone leaves its registries to the superuser.
SET ROLE regress_registry_bob;
SELECT registry.put('of bob', 'k', '1');
RESET ROLE;
REVOKE ALL ON FUNCTION registry.create_registry, registry.drop_registry FROM regress_registry_bob;
DROP ROLE regress_registry_bob;
SELECT name, owner, entries FROM registry.registries WHERE name = 'of bob';
SELECT registry.get('of bob', 'k');
SET ROLE regress_registry_alice;
SELECT outcome($$SELECT registry.get('of bob', 'k')$$);
RESET ROLE;
SELECT registry.drop_registry('of bob');

DROP VIEW lent_view, objects;
DROP EXTENSION pg_registry CASCADE;
DROP FUNCTION outcome, as_role, get_as, cached, cached_constant, inlined, lent, lent_cached, lent_sql, lent_put;
DROP TABLE expectations;
DROP ROLE regress_registry_nobody, regress_registry_monitor, regress_registry_alice, regress_registry_friend;
