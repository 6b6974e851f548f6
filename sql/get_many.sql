-- When this fails, get_many() misses a key, invents one or gives it twice, or the planner guesses wildly at how many rows
-- get_many() and entries() return.
\set SHOW_CONTEXT never
\set VERBOSITY terse
CREATE EXTENSION pg_registry;
SET timezone = 'UTC';
SELECT registry.create_registry('r', 'bigint');

-- 1. A part of entries(): each key that is there, once, in the order of the array.
SELECT registry.put_many('r', '{"a": 1, "b": 2, "c": 3, "a key longer than eight bytes": 4, "a key longer than eight bites": 5}');
SELECT registry.put('r', 'old', 6, '1 microsecond');
SELECT * FROM registry.get_many('r', '{c,a}');
SELECT * FROM registry.get_many('r', ARRAY['c', 'no', NULL, 'a', '', 'c', 'a', 'old', repeat('k', 1025), 'a key longer than eight bytes']);
SELECT * FROM registry.get_many('r', '{}');
SELECT * FROM registry.get_many('r', '{NULL,NULL}');
SELECT * FROM registry.get_many('r', '{{b,a},{c,b}}');
SELECT * FROM registry.get_many('r', '[5:6]={b,a}');
SELECT * FROM registry.get_many(NULL, '{a}');
SELECT * FROM registry.get_many('r', NULL);
SELECT * FROM registry.get_many('no', '{a}');
SELECT * FROM registry.get_many('', '{}');
-- All in one go, unknown ones between them, and each twice; batches of any size.
SELECT registry.create_registry('large', 'bigint');
SELECT registry.put_many('large', jsonb_object_agg(repeat('k', n % 20) || n, n)) FROM generate_series(1, 5000) n;
SELECT count(*), count(DISTINCT key), sum(value::bigint), count(*) FILTER (WHERE key = repeat('k', value::int % 20) || value) AS right_key
  FROM registry.get_many('large', (SELECT array_agg(repeat('k', n % 20) || n ORDER BY n) FROM generate_series(-4999, 10000) n, generate_series(1, 2)));
SELECT n FROM generate_series(0, 70) n
 WHERE (SELECT coalesce(array_agg(value::int), '{}') FROM registry.get_many('large', ARRAY(SELECT repeat('k', i % 20) || i FROM generate_series(1, n) i)))
       IS DISTINCT FROM ARRAY(SELECT generate_series(1, n));
-- Every value type, as get() has them; and keys from a table's column, out of line or compressed.
SELECT registry.create_registry('t' || t, t::regtype) FROM unnest(ARRAY['jsonb', 'text', 'boolean', 'timestamptz', 'numeric', 'float8']) t;
SELECT registry.put('tjsonb', 'k', '{"a": [1]}'), registry.put('ttext', 'k', 'text'), registry.put('tboolean', 'k', 'true'),
       registry.put('ttimestamptz', 'k', '2025-01-31 00:00+00'), registry.put('tnumeric', 'k', '1.50'), registry.put('tfloat8', 'k', 'NaN');
SELECT t, key, value, value = registry.get('t' || t, 'k') AS as_get
  FROM unnest(ARRAY['jsonb', 'text', 'boolean', 'timestamptz', 'numeric', 'float8']) t, registry.get_many('t' || t, '{k}') ORDER BY 1;
CREATE TABLE lists (keys text[]);
ALTER TABLE lists ALTER keys SET STORAGE EXTERNAL;
INSERT INTO lists SELECT array_agg(n::text ORDER BY n) FROM generate_series(1, 3000) n;
INSERT INTO lists SELECT array_agg('k' || n ORDER BY n) FROM generate_series(1, 21) n;
SELECT array_length(keys, 1), (SELECT count(*) FROM registry.get_many('large', keys)) FROM lists;

-- 2. One's own changes, and one generation with the other reads.
BEGIN;
SELECT registry.put('r', 'new', 7), registry.delete('r', 'a'), registry.put('r', 'b', 20);
SELECT * FROM registry.get_many('r', '{a,b,c,new}');
SELECT registry.clear('r');
SELECT * FROM registry.get_many('r', '{a,b,c,new}');
ROLLBACK;
SELECT * FROM registry.get_many('r', '{a,b,c,new}');

-- 3. Rows that the planner expects.
CREATE FUNCTION rows(query text) RETURNS text LANGUAGE plpgsql AS $$
DECLARE plan json;
BEGIN
	EXECUTE 'EXPLAIN (FORMAT JSON) ' || query INTO plan;
	RETURN plan -> 0 -> 'Plan' ->> 'Plan Rows';
END $$;
SELECT query, rows('SELECT * FROM registry.' || query) FROM unnest(ARRAY['entries(''r'')', 'entries(''large'')', 'entries(''no'')', 'entries('''')', 'entries(NULL)',
	'entries(''lar'' || ''ge'')', 'get_many(''large'', ''{a,b,c}'')', 'get_many(''r'', ARRAY[1::text, 2::text, random()::text])',
	'get_many(''large'', (SELECT array_agg(n::text) FROM generate_series(1, 7) n))', 'get_many(''r'', (SELECT keys FROM lists LIMIT 1))',
	'get_many(''no'', ''{a,b}'')', 'get_many(''large'', ''{}'')']) query;
EXPLAIN (COSTS OFF) SELECT * FROM registry.entries('large') e JOIN registry.get_many('large', '{a,b,c}') m USING (key);
EXPLAIN SELECT * FROM registry.entries('large');
EXPLAIN SELECT * FROM registry.get_many('large', '{a,b,c}');
PREPARE p AS SELECT * FROM registry.entries($1);
SET plan_cache_mode = force_custom_plan;
SELECT rows('EXECUTE p(''large'')') AS custom;
SET plan_cache_mode = force_generic_plan;
SELECT rows('EXECUTE p(''large'')') AS generic;
RESET plan_cache_mode;
-- The number of entries is nobody's business who may not read them.
CREATE ROLE regress_registry_nobody;
SET ROLE regress_registry_nobody;
SELECT public.rows('SELECT * FROM registry.entries(''large'')') AS not_mine;
RESET ROLE;
DROP ROLE regress_registry_nobody;
-- Planning leaves no pin behind.
BEGIN ISOLATION LEVEL REPEATABLE READ;
EXPLAIN (COSTS OFF) SELECT * FROM registry.entries('large');
SELECT count(*) AS pins FROM registry.readers WHERE pid = pg_backend_pid();
ROLLBACK;

DROP EXTENSION pg_registry CASCADE;
DROP TABLE lists;
DROP FUNCTION rows;
