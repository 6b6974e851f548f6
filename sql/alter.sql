-- When this fails, alter_registry() changes what it should not, a change made before or after it lands in another
-- registry, or somebody alters what is not his.
\set SHOW_CONTEXT never
CREATE EXTENSION pg_registry;
CREATE ROLE regress_registry_alice;
CREATE ROLE regress_registry_bob;
CREATE ROLE regress_registry_group;
GRANT regress_registry_group TO regress_registry_alice;

-- The value of an expression, or its error: SQLSTATE, message, then detail and hint.
CREATE FUNCTION outcome(expression text) RETURNS text LANGUAGE plpgsql AS $$
DECLARE result text; detail text; hint text;
BEGIN
	EXECUTE 'SELECT ' || expression INTO result;
	RETURN coalesce(result, 'null');
EXCEPTION WHEN OTHERS THEN
	GET STACKED DIAGNOSTICS detail = PG_EXCEPTION_DETAIL, hint = PG_EXCEPTION_HINT;
	RETURN concat_ws(E'\n', SQLSTATE || ': ' || SQLERRM, nullif(detail, ''), nullif(hint, ''));
END $$;
CREATE VIEW registries AS
	SELECT name, value_type AS type, owner, entries, stale, max_age, on_stale FROM registry.registries WHERE name <> 'rates' ORDER BY name COLLATE "C";

-- 1. Each option, and options that are none.
SELECT registry.create_registry('r', 'bigint');
SELECT outcome(format('registry.alter_registry(''r'', %L)', options)) AS outcome, options
  FROM unnest(ARRAY['{}', '{"max_age": "1 day 2 hours"}', '{"on_stale": "null"}', '{"notify": false}', '{"owner": "regress_registry_bob"}',
                    '{"name": "r"}', '{"value_type": "pg_catalog.int8"}',
                    '{"colour": "red"}', '{"Max_Age": "1 h"}', '{"durable": true}', '{"": 1}', '[]', '"max_age"', 'null',
                    '{"max_age": 5}', '{"max_age": "-1 s"}', '{"max_age": "0"}', '{"max_age": "1 month"}', '{"max_age": "soon"}', '{"max_age": "2147483647 days"}',
                    '{"on_stale": null}', '{"on_stale": "never"}', '{"on_stale": true}', '{"notify": true}', '{"notify": null}', '{"notify": "no"}',
                    '{"owner": null}', '{"owner": "regress_registry_nobody"}', '{"owner": 10}', '{"name": null}', '{"name": ""}', '{"name": "rates"}', '{"name": 1}',
                    '{"value_type": null}', '{"value_type": "int4"}', '{"value_type": "nothing"}', '{"value_type": 20}',
                    '{"max_age": "1 h", "on_stale": "sometimes"}', '{"name": "s"}']) options;
SELECT outcome(format('registry.alter_registry(''s'', %L)', jsonb_build_object('name', repeat('n', 64)))) AS long_name,
       outcome('registry.alter_registry(NULL, ''{}'')') AS null_name, outcome('registry.alter_registry(''s'', NULL)') AS null_options,
       outcome('registry.alter_registry(''no'', ''{}'')') AS unknown, outcome('registry.alter_registry('''', ''{}'')') AS empty,
       outcome('registry.alter_registry(''rates'', ''{}'')') AS rates;
SELECT * FROM registries;
-- Some at once; max_age null is none. Errors have changed nothing.
SELECT registry.drop_registry(name) FROM registries;
SELECT registry.create_registry('r', 'bigint', max_age => '1 day');
SELECT registry.alter_registry('r', '{"max_age": null, "on_stale": "error", "value_type": "text", "name": "many"}');
SELECT * FROM registries;
SELECT registry.put('many', 'k', 'a text');

-- 2. A value type only while it is empty; an entry that has expired is none.
SELECT outcome('registry.alter_registry(''many'', ''{"value_type": "bigint"}'')');
SELECT registry.alter_registry('many', '{"value_type": "text"}') AS the_same;
SELECT registry.clear('many'), registry.put('many', 'old', 'text', '1 microsecond');
SELECT registry.alter_registry('many', '{"value_type": "float8"}');
SELECT registry.put('many', 'k', 0.5), registry.put('many', 'old2', 0.25);
SELECT key, value FROM registry.entries('many') ORDER BY 1;
BEGIN;
SELECT outcome('registry.alter_registry(''many'', ''{"value_type": "bigint"}'')');
SELECT registry.delete('many', 'k'), registry.delete('many', 'old2');
SELECT registry.alter_registry('many', '{"value_type": "boolean"}');
SELECT registry.put('many', 'k', true);
SELECT registry.get_boolean('many', 'k');
SAVEPOINT s;
SELECT registry.clear('many'), registry.alter_registry('many', '{"value_type": "numeric"}');
SELECT registry.put('many', 'k', 1.50);
SELECT registry.get('many', 'k'), registry.entry_count('many');
ROLLBACK TO s;
SELECT registry.get('many', 'k'), registry.entry_count('many');
COMMIT;
SELECT registry.get('many', 'k'), registry.get('many', 'old2') AS gone, registry.entry_count('many');

-- 3. A new name, and changes around it in one transaction: what is put under either name is one registry's.
SELECT registry.drop_registry('many');
SELECT registry.create_registry('a', 'bigint'), registry.create_registry('b', 'bigint');
SELECT registry.put('a', 'was', 1), registry.put('b', 'was', 2);
SELECT outcome('registry.alter_registry(''a'', ''{"name": "b"}'')') AS taken;
CREATE VIEW contents AS
	SELECT name, (SELECT string_agg(key || '=' || value, ' ' ORDER BY key COLLATE "C") FROM registry.entries(name)) AS entries,
	       registry.get_bigint(name, 'was') AS was, registry.get_bigint(name, 'new') AS new, registry.entry_count(name)
	  FROM registry.registries WHERE name <> 'rates' ORDER BY name COLLATE "C";
BEGIN;
SELECT registry.put('a', 'before', 3);
SELECT registry.alter_registry('a', '{"name": "c"}'), registry.registry_exists('a') AS same_command;
SELECT registry.put('c', 'after', 4);
SELECT outcome('registry.put(''a'', ''k'', 1)') AS old_name, registry.delete('c', 'before') AS before, registry.delete('c', 'was') AS was, registry.delete('c', 'no') AS no;
SELECT * FROM contents;
-- Names change places.
SELECT registry.alter_registry('b', '{"name": "a"}');
SELECT registry.put('a', 'new', 5);
SELECT registry.alter_registry('c', '{"name": "b"}');
SELECT registry.put('b', 'new', 6);
SELECT * FROM contents;
SAVEPOINT s;
-- A third one of the same name, created here, takes part.
SELECT registry.drop_registry('b');
SELECT registry.create_registry('b', 'bigint');
SELECT registry.put('b', 'new', 7);
SELECT registry.alter_registry('b', '{"name": "d"}');
SELECT registry.put('d', 'was', 8);
SELECT registry.create_registry('b', 'bigint');
SELECT registry.put('b', 'new', 9);
SELECT * FROM contents;
ROLLBACK TO s;
SELECT * FROM contents;
COMMIT;
SELECT * FROM contents;
-- The usual exchange: a new registry takes the place of the old one.
BEGIN;
SELECT registry.create_registry('a_new', 'bigint');
SELECT registry.put_many('a_new', '{"new": 10}');
SELECT registry.drop_registry('a');
SELECT registry.alter_registry('a_new', '{"name": "a"}');
SELECT * FROM contents;
COMMIT;
SELECT * FROM contents;
BEGIN;
SELECT registry.alter_registry('a', '{"name": "x"}');
SELECT registry.alter_registry('x', '{"name": "a"}');
SELECT registry.put('a', 'was', 11);
SELECT registry.alter_registry('a', '{"name": "y"}');
SELECT * FROM contents;
SELECT registry.drop_registry('y');
SELECT * FROM contents;
ROLLBACK;
SELECT * FROM contents;
-- Parallel workers of the transaction see the new name, too.
CREATE TABLE big AS SELECT g FROM generate_series(1, 100) g;
BEGIN;
SELECT registry.put('a', 'was', 12);
SELECT registry.alter_registry('a', '{"name": "x", "max_age": "1 h"}');
SET LOCAL force_parallel_mode = on;
SELECT count(registry.get_bigint('x', 'was' || left('', g))) AS was, count(registry.get_bigint('x', 'new' || left('', g))) AS new,
       bool_or(registry.registry_exists('a' || left('', g))) AS a FROM big;
ROLLBACK;
-- Many registries in one transaction.
SELECT count(registry.create_registry('t' || n, 'bigint')) FROM generate_series(1, 40) n;
BEGIN;
SELECT count(registry.put('t' || n, 'k', n)) FROM generate_series(1, 40) n;
SELECT count(registry.alter_registry('t' || n, jsonb_build_object('name', 'u' || n))) FROM generate_series(1, 40) n;
SELECT count(registry.put('u' || n, 'l', n)) FROM generate_series(1, 40) n;
SELECT count(*) FILTER (WHERE registry.get_bigint('u' || n, 'k') = n AND registry.get_bigint('u' || n, 'l') = n) FROM generate_series(1, 40) n;
COMMIT;
SELECT count(*) FILTER (WHERE registry.get_bigint('u' || n, 'k') = n AND registry.get_bigint('u' || n, 'l') = n) AS new_names,
       count(*) FILTER (WHERE registry.registry_exists('t' || n)) AS old_names FROM generate_series(1, 40) n;
SELECT count(registry.drop_registry('u' || n)) FROM generate_series(1, 40) n;

-- 4. Whose: only the owner and superusers may; the owner may give it to a role that he is a member of.
GRANT EXECUTE ON FUNCTION registry.alter_registry, registry.create_registry, registry.clear TO regress_registry_alice, regress_registry_bob;
SET ROLE regress_registry_alice;
SELECT registry.create_registry('hers', 'bigint');
SELECT registry.alter_registry('hers', '{"owner": "regress_registry_bob"}');
SELECT registry.alter_registry('hers', '{"owner": "regress_registry_group"}');
SELECT registry.put('hers', 'k', 1);
RESET ROLE;
SELECT * FROM registries WHERE name = 'hers';
SET ROLE regress_registry_bob;
SELECT outcome('registry.alter_registry(''hers'', ''{"owner": "regress_registry_bob"}'')') AS theirs, outcome('registry.clear(''hers'')') AS cleared,
       outcome('registry.alter_registry(''no'', ''{}'')') AS nobodys;
RESET ROLE;
BEGIN;
SELECT registry.alter_registry('hers', '{"owner": "regress_registry_bob"}');
SET LOCAL ROLE regress_registry_bob;
SELECT registry.get('hers', 'k') AS his_now;
SET LOCAL ROLE regress_registry_alice;
SELECT outcome('registry.get(''hers'', ''k'')') AS hers_no_more;
COMMIT;
SELECT * FROM registries WHERE name = 'hers';

-- 5. if_not_exists takes an equal definition only, and names the difference.
SELECT registry.create_registry('defined', 'text', max_age => '2 days', on_stale => 'null');
SELECT outcome('registry.create_registry(''defined'', ''text'', ' || options || 'if_not_exists => true)') AS outcome, options
  FROM unnest(ARRAY['max_age => ''48 h'', on_stale => ''null'', ', 'max_age => ''1 day'', on_stale => ''null'', ', 'on_stale => ''null'', ', 'max_age => ''2 days'', ']) options;
SELECT outcome('registry.create_registry(''x'', ' || options || ')') AS outcome, options
  FROM unnest(ARRAY['max_age => ''-1 s''', 'max_age => ''0''', 'max_age => ''1 mon''', 'max_age => ''1 year -12 mons 1 s''', 'max_age => ''2147483647 days''']) options;

DROP VIEW contents, registries;
DROP EXTENSION pg_registry CASCADE;
DROP TABLE big;
DROP FUNCTION outcome;
DROP ROLE regress_registry_alice, regress_registry_bob, regress_registry_group;
