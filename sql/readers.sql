-- When this fails, a typed reader gives another value than the one that was put, converts what it should refuse,
-- or an integer as the key finds another entry than its text.
\set SHOW_CONTEXT never
CREATE EXTENSION pg_registry;
SET timezone = 'UTC';
SET datestyle = 'ISO';

-- The value of an expression, or its error: SQLSTATE, message, then hint.
CREATE FUNCTION outcome(expression text) RETURNS text LANGUAGE plpgsql AS $$
DECLARE result text; hint text;
BEGIN
	EXECUTE 'SELECT ' || expression INTO result;
	RETURN coalesce(result, 'null');
EXCEPTION WHEN OTHERS THEN
	GET STACKED DIAGNOSTICS hint = PG_EXCEPTION_HINT;
	RETURN concat_ws('; ', SQLSTATE || ': ' || SQLERRM, nullif(hint, ''));
END $$;

-- 1. Every reader of every type: converted where there is a cast, otherwise refused with the name of the right one.
CREATE TABLE samples (type text, value text);
INSERT INTO samples VALUES ('jsonb', '17'), ('jsonb', 'true'), ('jsonb', '"17"'), ('jsonb', 'null'), ('jsonb', '[1]'),
	('text', '17'), ('numeric', '17.50'), ('numeric', 'NaN'), ('numeric', '9223372036854775808'),
	('float8', '17.5'), ('float8', '-0.5'), ('float8', 'Infinity'), ('bigint', '9223372036854775807'), ('bigint', '0'),
	('boolean', 'true'), ('boolean', 'false'), ('timestamptz', '2025-01-31 12:00+01'), ('timestamptz', 'infinity');
SELECT count(registry.create_registry(type, type::regtype)) FROM (SELECT DISTINCT type FROM samples) s;
SELECT count(registry.put(type, value, value)) FROM samples;
SELECT type, value, f AS reader, outcome(format('registry.get_%s(%L, %L)', f, type, value)) AS outcome
  FROM samples, unnest(ARRAY['bigint', 'boolean', 'timestamptz', 'float8', 'numeric']) f
 ORDER BY type COLLATE "C", value COLLATE "C", f;
-- The same without a plan's constant, by key in a column, twice: the first read resolves the name, the second need not.
SELECT type, value, registry.get_bigint('bigint', value) AS "bigint", registry.get_boolean('boolean', value) AS "boolean",
       registry.get_timestamptz('timestamptz', value) AS "timestamptz",
       registry.get_text(type, value) = registry.get_text(type, value) AS same
  FROM samples WHERE type IN ('bigint', 'boolean', 'timestamptz') ORDER BY type, value COLLATE "C";
-- NULL in, NULL out; an unknown key is NULL; an unknown registry is an error.
SELECT registry.get_bigint(NULL, 'k') AS a, registry.get_boolean('boolean', NULL) AS b, registry.get_timestamptz('timestamptz', 'k') AS c,
       registry.get_bigint('bigint', NULL::bigint) AS d, registry.get_boolean('boolean', 'k') AS e, registry.get_bigint('bigint', 17) AS f,
       registry.get_bigint('bigint', '') AS g, registry.get_bigint('bigint', repeat('k', 1025)) AS h;
SELECT outcome('registry.' || f) FROM unnest(ARRAY['get_bigint(''no'', ''k'')', 'get_boolean(''no'', 5)', 'get_timestamptz('''', ''k'')']) f;

-- 2. An integer as the key is its decimal text, with every reader, of every length.
SELECT registry.create_registry('ids', 'bigint');
CREATE TABLE ids AS
	SELECT n::bigint FROM generate_series(-3, 3) n
	UNION SELECT s * trunc(10::numeric ^ e)::bigint + d FROM generate_series(1, 18) e, unnest(ARRAY[-1, 1]) s, unnest(ARRAY[-1, 0]) d
	UNION SELECT unnest(ARRAY[9223372036854775807, -9223372036854775808]);
SELECT count(*), min(n), max(n), min(length(n::text)), max(length(n::text)) FROM ids;
SELECT count(registry.put('ids', n::text, n)) FROM ids;
SELECT count(*) FILTER (WHERE registry.get_bigint('ids', n) = n) AS constant_name,
       count(*) FILTER (WHERE registry.get_bigint('ids' || left('', length(n::text)), n) = n) AS computed_name,
       count(registry.get_bigint('ids', n # 64)) AS others
  FROM ids;
SELECT count(*) FILTER (WHERE registry.get_bigint('ids', n) = registry.get_bigint('ids', n::text)) AS equal FROM ids;
SELECT registry.put('ids', '007', 7), registry.put('ids', '+8', 8);
SELECT registry.get_bigint('ids', 007) AS seven, registry.get_bigint('ids', '007') AS its_text, registry.get_bigint('ids', +8) AS eight;
SELECT registry.get('ids', 1) AS a, registry.get_text('ids', 1) AS b, registry.get_numeric('ids', 1) AS c, registry.get_float8('ids', 1) AS d,
       registry.get_bigint('ids', 1) AS e, outcome('registry.get_boolean(''ids'', 1)') AS f, outcome('registry.get_timestamptz(''ids'', 1)') AS g;
-- One's own changes too.
BEGIN;
SELECT registry.put('ids', '1', 100);
SELECT registry.get_bigint('ids', 1) AS own, registry.get_bigint('ids', '1') AS its_text;
ROLLBACK;

-- 3. Which of the two functions a call means: integers of any kind are integers, all else is text, as before.
CREATE DOMAIN id AS int;
CREATE DOMAIN label AS text;
CREATE TABLE columns (i2 int2, i4 int4, i8 int8, d id, t text, v varchar(5), l label, c char(1), n name);
INSERT INTO columns VALUES (1, 1, 1, 1, '1', '1', '1', '1', '1');
SELECT k AS key, left(outcome(format('registry.get_bigint(''ids'', %s) FROM columns', k)), 5) AS get_bigint,
       left(outcome(format('registry.get(''ids'', %s) FROM columns', k)), 5) AS get
  FROM unnest(ARRAY['1', '''1''', '1::smallint', '1::bigint', '''1''::text', '''1''::varchar', 'i2', 'i4', 'i8', 'd', 't', 'v', 'l', 'c', 'n',
                    'NULL', '1.0', '1::numeric', '1::float8', 'true', 'least(i4, i8)', '(SELECT i2 FROM columns)', 'key => 1']) k;
PREPARE untyped AS SELECT registry.get_bigint('ids', $1);
PREPARE typed(int) AS SELECT registry.get_bigint('ids', $1);
PREPARE both_untyped AS SELECT registry.get_bigint($1, $2);
EXECUTE untyped('1');
EXECUTE untyped(1);
EXECUTE typed(1);
EXECUTE both_untyped('ids', '1');
SELECT name, parameter_types FROM pg_prepared_statements ORDER BY 1;
DEALLOCATE ALL;
SELECT registry.get_bigint(registry => 'ids', key => 1) AS named, registry.get_bigint(key => '1', registry => 'ids') AS named_text;

DROP EXTENSION pg_registry CASCADE;
DROP TABLE samples, ids, columns;
DROP DOMAIN id, label;
DROP FUNCTION outcome;
