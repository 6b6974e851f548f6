-- When this fails, the public interface has changed: somebody's call, view or configuration file may break.
\set SHOW_CONTEXT never
CREATE EXTENSION pg_registry;
\pset format unaligned
\pset tuples_only on

-- 1. Functions: names, argument names, types and defaults, results; v = volatile, s = stable, i = immutable;
-- safe, restricted or unsafe in parallel plans; strict.
SELECT format('%s(%s) returns %s; %s, %s%s', proname,
              regexp_replace(pg_get_function_arguments(oid), ',? ?OUT .*$', ''),
              regexp_replace(pg_get_function_result(oid), '^(SETOF )?record$', '\1record: ')
                || coalesce(CASE WHEN proallargtypes IS NOT NULL THEN
                     (SELECT string_agg(n || ' ' || t::regtype, ', ' ORDER BY i)
                        FROM unnest(proargnames, proallargtypes, proargmodes) WITH ORDINALITY u(n, t, m, i) WHERE m = 'o') END, ''),
              CASE provolatile WHEN 'v' THEN 'volatile' WHEN 's' THEN 'stable' ELSE 'immutable' END,
              CASE proparallel WHEN 's' THEN 'safe' WHEN 'r' THEN 'restricted' ELSE 'unsafe' END,
              CASE WHEN proisstrict THEN ', strict' ELSE '' END)
  FROM pg_proc WHERE pronamespace = 'registry'::regnamespace
 ORDER BY proname COLLATE "C", pg_get_function_arguments(oid) COLLATE "C";

-- All that only read are STABLE (IMMUTABLE where they read nothing) and PARALLEL SAFE.
SELECT proname FROM pg_proc
 WHERE pronamespace = 'registry'::regnamespace AND (provolatile = 'v' OR proparallel <> 's')
   AND (proname ~ '^(get|rate|convert|quote|entries|entry_count|registry_exists|generation|minor_units|round_money)'
        OR proname IN ('list_registries', 'list_rates'));

-- Every input argument has a name. No function takes the name and a number of arguments of one that
-- pg_catalog has, but convert and log: the schema on somebody's search_path must change no other query.
SELECT proname, 'argument without a name' FROM pg_proc
 WHERE pronamespace = 'registry'::regnamespace AND pronargs > 0
   AND (proargnames IS NULL OR '' = ANY (proargnames[1:pronargs]));
SELECT DISTINCT ours.proname, n AS arguments
  FROM pg_proc ours, generate_series(ours.pronargs::int - ours.pronargdefaults, ours.pronargs) n
  JOIN pg_proc theirs ON theirs.pronamespace = 'pg_catalog'::regnamespace
   AND (n BETWEEN theirs.pronargs - theirs.pronargdefaults AND theirs.pronargs
        OR theirs.provariadic <> 0 AND n >= theirs.pronargs - 1)
 WHERE ours.pronamespace = 'registry'::regnamespace AND theirs.proname = ours.proname
 ORDER BY 1, 2;

-- 2. Views and composite types, with their columns.
SELECT format('%s %s(%s)', CASE relkind WHEN 'v' THEN 'view' WHEN 'c' THEN 'type' ELSE 'relation of kind ' || relkind::text END,
              CASE relnamespace WHEN '_registry'::regnamespace THEN '_registry.' ELSE '' END || relname,
              (SELECT string_agg(attname || ' ' || format_type(atttypid, atttypmod), ', ' ORDER BY attnum)
                 FROM pg_attribute WHERE attrelid = c.oid AND attnum > 0 AND NOT attisdropped))
  FROM pg_class c WHERE relnamespace IN ('registry'::regnamespace, '_registry'::regnamespace) ORDER BY relname COLLATE "C", relkind;
SELECT typname, typtype FROM pg_type
 WHERE typnamespace = 'registry'::regnamespace AND typelem = 0 AND typrelid = 0 ORDER BY 1;
SELECT count(*) AS others FROM pg_operator WHERE oprnamespace = 'registry'::regnamespace;

-- Everything in the schema is the extension's, and everything of the extension is in the schema.
SELECT pg_describe_object(classid, objid, 0) FROM (
	SELECT 'pg_proc'::regclass AS classid, oid AS objid FROM pg_proc WHERE pronamespace = 'registry'::regnamespace
	UNION ALL SELECT 'pg_class'::regclass, oid FROM pg_class
	 WHERE relnamespace IN ('registry'::regnamespace, '_registry'::regnamespace) AND relkind <> 'c') o
 WHERE NOT EXISTS (SELECT FROM pg_depend d WHERE d.classid = o.classid AND d.objid = o.objid AND d.deptype = 'e')
 ORDER BY 1;

-- 3. Settings: name, context, type, default, unit, range or values.
SELECT concat_ws(' ', name, context, vartype, 'default', quote_nullable(boot_val), 'unit ' || unit,
                 'from ' || min_val || ' to ' || max_val, 'one of ' || array_to_string(enumvals, '|'))
  FROM pg_settings
 WHERE name LIKE 'pg\_registry.%' AND name NOT LIKE 'pg\_registry.test\_%' ORDER BY name COLLATE "C";
SELECT name FROM pg_settings WHERE name LIKE 'pg\_registry.%' AND short_desc !~ '^[A-Z].*\.$' ORDER BY 1;
-- Those that an ordinary role may see.
CREATE ROLE regress_registry_nobody;
SET ROLE regress_registry_nobody;
SELECT string_agg(name, ' ' ORDER BY name COLLATE "C") FROM pg_settings WHERE name LIKE 'pg\_registry.%' AND name NOT LIKE 'pg\_registry.test\_%';
RESET ROLE;
DROP ROLE regress_registry_nobody;
-- The prefix is reserved: a misspelt setting is an error.
SET pg_registry.rates_intervall = '1 h';

-- 4. Every function, called once with all of its arguments named. What this table lacks is listed at the end.
\pset tuples_only off
\pset format aligned
SELECT registry.create_registry('kept', durable => true);
CREATE TABLE calls (seq serial, function text, call text);
INSERT INTO calls (function, call) VALUES
	('create_registry', $$SELECT registry.create_registry(name => 'r', value_type => 'numeric', keys => 'unique', durable => true,
		max_age => NULL, on_stale => 'serve', notify => false, if_not_exists => false)$$),
	('alter_registry', $$SELECT registry.alter_registry(name => 'r', options => '{}')$$),
	('registry_exists', $$SELECT registry.registry_exists(name => 'r')$$),
	('put', $$SELECT registry.put(registry => 'r', key => 'text', value => '1.50', ttl => '1 hour')$$),
	('put', $$SELECT registry.put(registry => 'r', key => 'any', value => 2, ttl => NULL)$$),
	('put_many', $$SELECT registry.put_many(registry => 'r', entries => '{"a": 3, "b": 4, "5": 5}', replace => false)$$),
	('delete', $$SELECT registry.delete(registry => 'r', key => 'a')$$),
	('get', $$SELECT registry.get(registry => 'r', key => 'text')$$),
	('get', $$SELECT registry.get(registry => 'r', key => 5)$$),
	('get_text', $$SELECT registry.get_text(registry => 'r', key => 'text')$$),
	('get_text', $$SELECT registry.get_text(registry => 'r', key => 5)$$),
	('get_numeric', $$SELECT registry.get_numeric(registry => 'r', key => 'any')$$),
	('get_numeric', $$SELECT registry.get_numeric(registry => 'r', key => 5)$$),
	('get_float8', $$SELECT registry.get_float8(registry => 'r', key => 'b')$$),
	('get_float8', $$SELECT registry.get_float8(registry => 'r', key => 5)$$),
	('get_bigint', $$SELECT registry.get_bigint(registry => 'r', key => 'b')$$),
	('get_bigint', $$SELECT registry.get_bigint(registry => 'r', key => 5)$$),
	('get_boolean', $$SELECT registry.get_boolean(registry => 'r', key => 'none')$$),
	('get_boolean', $$SELECT registry.get_boolean(registry => 'r', key => 6)$$),
	('get_timestamptz', $$SELECT registry.get_timestamptz(registry => 'r', key => 'none')$$),
	('get_timestamptz', $$SELECT registry.get_timestamptz(registry => 'r', key => 6)$$),
	('get_many', $$SELECT string_agg(key || value, ' ') FROM registry.get_many(registry => 'r', keys => '{b,5,none}')$$),
	('entries', $$SELECT string_agg(key, ' ' ORDER BY key COLLATE "C") FROM registry.entries(registry => 'r')$$),
	('entry_count', $$SELECT registry.entry_count(registry => 'r')$$),
	('grant_access', $$SELECT registry.grant_access(registry => 'kept', privilege => 'read', grantee => 'public')$$),
	('revoke_access', $$SELECT registry.revoke_access(registry => 'kept', privilege => 'read', grantee => 'public')$$),
	('restore_grants', $$SELECT registry.restore_grants(from_role => 'none', to_role => current_user)$$),
	('reload', $$SELECT registry.reload(registry => 'kept')$$),
	('verify', $$SELECT count(*) FROM registry.verify(registry => 'kept')$$),
	('clear', $$SELECT registry.clear(registry => 'r')$$),
	('generation', $$SELECT registry.generation() > 0$$),
	('advance', $$SELECT registry.advance() > 0$$),
	('list_registries', $$SELECT count(*) FROM registry.list_registries()$$),
	('set_rates', $$SELECT registry.set_rates(base => 'EUR', rates => '{"USD": 1.10}', value_date => current_date, name => 'rates')$$),
	('withdraw_rates', $$SELECT registry.withdraw_rates(rate_set => max(id), reason => 'a test') FROM registry.rate_sets$$),
	('accept_rates', $$SELECT registry.accept_rates(rate_set => max(id)) FROM registry.rate_sets WHERE status = 'quarantined'$$),
	('rate', $$SELECT registry.rate(from_currency => 'EUR', to_currency => 'USD', on_date => NULL, missing_ok => false,
		max_age => '1 hour', rates => 'rates')$$),
	('rate_float8', $$SELECT registry.rate_float8(from_currency => 'EUR', to_currency => 'USD')$$),
	('convert', $$SELECT registry.convert(amount => 2, from_currency => 'EUR', to_currency => 'USD', scale => 1, on_date => NULL,
		missing_ok => false, max_age => '1 hour', rates => 'rates')$$),
	('quote', $$SELECT (registry.quote(from_currency => 'EUR', to_currency => 'USD', on_date => NULL, rates => 'rates')).rate$$),
	('list_rates', $$SELECT count(*) > 1 FROM registry.list_rates()$$),
	('minor_units', $$SELECT registry.minor_units(currency => 'EUR')$$),
	('round_money', $$SELECT registry.round_money(amount => 1.005, currency => 'EUR', mode => 'half_up')$$),
	('pause', $$SELECT registry.pause(name => 'rates')$$),
	('resume', $$SELECT registry.resume(name => 'rates')$$),
	('refresh', $$SELECT registry.refresh(source => 'rates', wait => false, timeout => '1 s', raise => false)$$),
	('arm', $$SELECT registry.arm()$$),
	('restart_workers', $$SELECT registry.restart_workers()$$),
	('log_tail', $$SELECT count(*) FROM registry.log_tail(n => 0, handler => NULL)$$),
	('status', $$SELECT (registry.status()).preloaded$$),
	('list_readers', $$SELECT count(*) > 0 FROM registry.list_readers()$$),
	('list_checks', $$SELECT count(*) FROM registry.list_checks()$$),
	('list_memory', $$SELECT sum(bytes) = pg_size_bytes(current_setting('pg_registry.shared_memory')) FROM registry.list_memory()$$),
	('drop_registry', $$SELECT registry.drop_registry(name => 'r', if_exists => false, cascade => false)$$);
CREATE FUNCTION result(call text) RETURNS text LANGUAGE plpgsql AS $$
DECLARE result text;
BEGIN
	EXECUTE call INTO result;
	RETURN coalesce(result, 'null');
END $$;
BEGIN;
WITH quarantined AS (INSERT INTO registry.rate_sets (source, base, value_date, fetched_at, body_hash, status)
	VALUES ('test', 'EUR', current_date, now(), '', 'quarantined') RETURNING id)
INSERT INTO _registry.rate_set_values SELECT id, currency, 1.1 FROM quarantined, unnest('{USD,GBP}'::text[]) currency;
SELECT function, result(call) FROM calls ORDER BY seq;
ROLLBACK;
SELECT oid::regprocedure AS not_called FROM pg_proc p WHERE pronamespace = 'registry'::regnamespace AND prorettype NOT IN ('internal'::regtype, 'trigger'::regtype)
   AND (SELECT count(*) FROM calls WHERE function = p.proname)
       <> (SELECT count(*) FROM pg_proc q WHERE q.pronamespace = p.pronamespace AND q.proname = p.proname);

-- 5. Nothing in the way: a schema of either name is not taken over.
DROP TABLE calls;
DROP FUNCTION result;
DROP EXTENSION pg_registry CASCADE;
SELECT count(*) FROM pg_namespace WHERE nspname ~ 'registry';
CREATE SCHEMA registry;
CREATE EXTENSION pg_registry;
CREATE EXTENSION pg_registry SCHEMA registry;
DROP SCHEMA registry;
CREATE SCHEMA _registry;
CREATE EXTENSION pg_registry;
DROP SCHEMA _registry;
CREATE EXTENSION pg_registry;
CREATE SCHEMA elsewhere;
ALTER EXTENSION pg_registry SET SCHEMA elsewhere;
DROP SCHEMA elsewhere;
DROP EXTENSION pg_registry CASCADE;
