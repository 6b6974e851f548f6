-- When this fails, a value that was put comes back changed, under another key or not at all, or an option that
-- does nothing yet is silently accepted.
\set SHOW_CONTEXT never
CREATE EXTENSION pg_registry;

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

-- 1. Creating.
SELECT registry.create_registry('flags');
SELECT registry.create_registry('prices', 'numeric');
SELECT registry.create_registry(name => 'motd', value_type => 'text', if_not_exists => true);
SELECT name, value_type, keys, durable, owner = current_user AS mine, state, entries, bytes > 0 AS bytes,
       last_change <= now() AS changed, stale
  FROM registry.registries WHERE name <> 'rates' ORDER BY name COLLATE "C";
SELECT registry.create_registry('flags', if_not_exists => true);
SELECT call, outcome('SELECT registry.' || call)
  FROM unnest(ARRAY[$$create_registry('flags')$$, $$create_registry('flags', 'text')$$,
                    $$create_registry('flags', 'text', if_not_exists => true)$$, $$create_registry('rates')$$,
                    $$create_registry('rates', 'numeric', if_not_exists => true)$$, $$create_registry('')$$,
                    $$create_registry(repeat('n', 64))$$, $$create_registry(NULL)$$, $$create_registry('x', NULL)$$,
                    $$create_registry('x', 'int')$$, $$create_registry('x', 'varchar')$$, $$create_registry('x', 'no_type')$$,
                    $$create_registry('x', keys => 'duplicate')$$, $$create_registry('x', keys => 'both')$$,
                    $$create_registry('x', keys => NULL)$$,
                    $$create_registry('x', durable => NULL)$$,
                    $$create_registry('x', on_stale => 'never')$$, $$create_registry('x', on_stale => NULL)$$,
                    $$create_registry('x', notify => true)$$, $$create_registry('x', notify => NULL)$$,
                    $$create_registry('x', if_not_exists => NULL)$$]) call;
SELECT registry.registry_exists('x') AS none_of_them, registry.registry_exists('flags') AS flags;

-- Names are exact: any characters, 63 bytes.
SELECT registry.create_registry(repeat('é', 31) || 'x');
SELECT registry.create_registry('Flags');
SELECT registry.create_registry('a "b" ''c''
d');
SELECT registry.put('Flags', 'k', '1'), registry.put(repeat('é', 31) || 'x', 'k', '2'), registry.put('a "b" ''c''
d', 'k', '3');
SELECT registry.get('Flags', 'k'), registry.get('flags', 'k') AS other, registry.get(repeat('é', 31) || 'x', 'k') AS long,
       registry.get('a "b" ''c''
d', 'k') AS quoted;
SELECT registry.drop_registry(name) FROM registry.registries WHERE name NOT IN ('rates', 'flags', 'prices', 'motd');

-- 2. Putting: text goes through the value type's input function, like a literal in INSERT.
SELECT registry.put('motd', 'k', 'hello');
SELECT registry.put('flags', 'number', '5'), registry.put('flags', 'string', '"hello"'), registry.put('flags', 'null', 'null'),
       registry.put('flags', 'object', '{"a": [1, 2]}'), registry.put('flags', 'text', '"typed"'::text);
SELECT registry.put('prices', 'tea', '3.50'), registry.put('prices', 'nan', 'NaN');
SELECT registry.get('flags', 'number') AS number, registry.get('flags', 'string') AS string, registry.get('flags', 'null') AS "null",
       registry.get('flags', 'object') AS object, registry.get('flags', 'text') AS text, registry.get('motd', 'k') AS motd,
       registry.get('prices', 'tea') AS tea, registry.get('prices', 'nan') AS nan;

-- Any other type goes through its cast, and into jsonb as to_jsonb() has it.
CREATE DOMAIN percent AS int CHECK (VALUE BETWEEN 0 AND 100);
CREATE DOMAIN label AS text;
CREATE TYPE mood AS ENUM ('calm', 'busy');
CREATE TYPE pair AS (a int, b text);
SELECT registry.create_registry('jsonb', 'jsonb'), registry.create_registry('text', 'text'), registry.create_registry('numeric', 'numeric'),
       registry.create_registry('float8', 'float8'), registry.create_registry('bigint', 'bigint'),
       registry.create_registry('boolean', 'boolean'), registry.create_registry('timestamptz', 'timestamptz');
SET timezone = 'UTC';
SET datestyle = 'ISO';

-- What comes back, as text, after an expression was put; or the SQLSTATE of the refusal.
CREATE FUNCTION stored(registry text, source text) RETURNS text LANGUAGE plpgsql AS $$
BEGIN
	EXECUTE format('SELECT registry.put(%L, ''k'', %s)', registry, source);
	RETURN registry.get_text(registry, 'k');
EXCEPTION WHEN OTHERS THEN
	RETURN 'error ' || SQLSTATE;
END $$;
SELECT source, stored('jsonb', source) AS jsonb, stored('text', source) AS text, stored('numeric', source) AS numeric,
       stored('float8', source) AS float8
  FROM unnest(ARRAY['''5''', '''5''::text', '''5''::varchar', '''5''::label', '''5''::char(3)', '5', '5::smallint', '50::percent',
                    '1.50', '1e30', '''1.5e3''::float8', '''NaN''::float8', 'true', '''true''', '''5''::jsonb', '''{"a":1}''::json',
                    '''"s"''::jsonb', '''plain''', '''busy''::mood', 'ARRAY[1,2]', 'ROW(1, ''x'')::pair', '''2025-01-31''::date',
                    '''2025-01-31 12:00+01''::timestamptz', '''\x00ff''::bytea', 'NULL', 'NULL::int']) source;
SELECT source, stored('bigint', source) AS bigint, stored('boolean', source) AS boolean, stored('timestamptz', source) AS timestamptz
  FROM unnest(ARRAY['''5''', '5', '2.5', '''2.5''', '1e30', '''1.5e3''::float8', '50::percent', '''7''::jsonb', 'true', '''yes''', '''maybe''',
                    '''true''::jsonb', '''2025-01-31''', '''2025-01-31''::date', '''2025-01-31 12:00''::timestamp',
                    '''2025-01-31 12:00+01''::timestamptz', '''infinity''', '''294277-01-01''', '''busy''::mood', 'NULL']) source;
SELECT call, outcome('SELECT registry.put(' || call || ')')
  FROM unnest(ARRAY[$$'jsonb', 'k', 'no json'$$, $$'numeric', 'k', 'abc'$$, $$'numeric', 'k', true$$, $$'boolean', 'k', 1$$,
                    $$'bigint', 'k', 1e30$$, $$'bigint', 'k', '2.5'$$, $$'timestamptz', 'k', 5$$, $$'numeric', 'k', ARRAY[1,2]$$,
                    $$'numeric', 'k', '5'::jsonb$$, $$'jsonb', 'k', NULL$$, $$'jsonb', 'k', NULL::int$$,
                    $$'jsonb', NULL, '1'$$, $$NULL, 'k', '1'$$, $$NULL, 'k', 1$$, $$'jsonb', NULL, 1$$]) call;

-- A parameter without a type is text, one with a type is cast.
PREPARE untyped AS SELECT registry.put('numeric', 'untyped', $1);
PREPARE typed(int) AS SELECT registry.put('numeric', 'typed', $1);
PREPARE any_of(jsonb) AS SELECT registry.put('jsonb', 'typed', $1);
EXECUTE untyped('1.250');
EXECUTE typed(7);
EXECUTE any_of('{"b": 1, "a": 2}');
EXECUTE untyped('1.250 euro');
SELECT registry.get_numeric('numeric', 'untyped') AS untyped, registry.get_numeric('numeric', 'typed') AS typed,
       registry.get('jsonb', 'typed') AS jsonb;
SELECT registry.put('numeric', 'row', n) FROM (VALUES (1.5), (2.5)) v(n);
SELECT registry.put('text', t, t) FROM unnest(ARRAY['a', 'b']) t;
SELECT registry.get('numeric', 'row') AS last_row, registry.get('text', 'a') AS a, registry.get('text', 'b') AS b;

-- 3. Reading: each type with each reader, converted where a cast exists.
SELECT registry.put('jsonb', 'v', '12.50'), registry.put('jsonb', 's', '"12.50"'), registry.put('text', 'v', '12.50'),
       registry.put('numeric', 'v', '12.50'), registry.put('float8', 'v', '12.5'), registry.put('bigint', 'v', '12'),
       registry.put('boolean', 'v', 'on'), registry.put('timestamptz', 'v', '2025-01-31 12:00+01');
SELECT r AS value_type, outcome(format('SELECT registry.get(%L, ''v'')', r)) AS get,
       outcome(format('SELECT registry.get_text(%L, ''v'')', r)) AS get_text
  FROM unnest(ARRAY['jsonb', 'text', 'numeric', 'float8', 'bigint', 'boolean', 'timestamptz']) r;
SELECT r AS value_type, outcome(format('SELECT registry.get_numeric(%L, ''v'')', r)) AS get_numeric
  FROM unnest(ARRAY['jsonb', 'text', 'numeric', 'float8', 'bigint', 'boolean', 'timestamptz']) r;
SELECT r AS value_type, outcome(format('SELECT registry.get_float8(%L, ''v'')', r)) AS get_float8
  FROM unnest(ARRAY['jsonb', 'text', 'numeric', 'float8', 'bigint', 'boolean', 'timestamptz']) r;
SELECT outcome($$SELECT registry.get_numeric('jsonb', 's')$$) AS string, outcome($$SELECT registry.get_float8('jsonb', 's')$$) AS string_too,
       registry.get('jsonb', 's') AS json, registry.get_text('jsonb', 's') AS text;

-- Numbers that are none, or that float8 cannot hold.
SELECT registry.put('numeric', 'nan', 'NaN'), registry.put('numeric', 'huge', 1e400), registry.put('numeric', 'tiny', 1e-400),
       registry.put('float8', 'nan', 'NaN'), registry.put('float8', 'infinity', '-Infinity');
SELECT registry.get('numeric', 'nan') AS nan, registry.get_float8('numeric', 'nan') AS nan_float8, registry.get('float8', 'nan') AS float8_nan,
       registry.get('float8', 'infinity') AS infinity, registry.get_numeric('float8', 'infinity') AS numeric_infinity;
SELECT registry.get_numeric('numeric', 'huge') = 1e400 AS huge, registry.get_numeric('numeric', 'tiny') = 1e-400 AS tiny;
SELECT query, left(outcome('SELECT ' || query), 16) AS outcome
  FROM unnest(ARRAY[$$1e400::numeric::float8$$, $$registry.get_float8('numeric', 'huge')$$, $$1e-400::numeric::float8$$,
                    $$registry.get_float8('numeric', 'tiny')$$, $$registry.put('float8', 'huge', 1e400)$$]) query;

-- In the session's time zone and format, whichever it was put under.
SET timezone = 'Asia/Kathmandu';
SELECT registry.get_text('timestamptz', 'v') AS text, registry.get('timestamptz', 'v') AS json;
RESET timezone;
RESET datestyle;

-- An unknown key is NULL in each; so is a key that no put accepts, and a NULL.
SELECT registry.get('jsonb', 'x') AS get, registry.get_text('jsonb', 'x') AS get_text, registry.get_numeric('jsonb', 'x') AS get_numeric,
       registry.get_float8('jsonb', 'x') AS get_float8, registry.get('jsonb', '') AS empty, registry.get('jsonb', repeat('k', 1025)) AS long,
       registry.get(NULL, 'k') AS no_registry, registry.get('jsonb', NULL) AS no_key, registry.get_float8('float8', NULL) AS no_float8_key;
-- Also where the type has another reader: there is no value to refuse.
SELECT registry.get_numeric('boolean', 'x') AS nothing, registry.get_float8('text', 'x') AS nothing_either;

-- Keys are exact.
SELECT registry.put('text', 'Key', '1'), registry.put('text', 'key', '2'), registry.put('text', 'key ', '3'), registry.put('text', 'clé', '4'),
       registry.put('text', repeat('k', 1024), '5'), registry.put('text', e'\n', '6');
SELECT registry.get_text('text', 'Key') AS "Key", registry.get_text('text', 'key') AS key, registry.get_text('text', 'key ') AS "key ",
       registry.get_text('text', 'clé') AS "clé", registry.get_text('text', repeat('k', 1024)) AS longest, registry.get_text('text', e'\n') AS newline;

-- 4. Many at once: in order, so that of a key given twice the last wins, as in jsonb.
SELECT registry.create_registry('many'), registry.create_registry('many_numbers', 'numeric'), registry.create_registry('many_texts', 'text');
SELECT registry.put_many('many', '{"a": 1, "b": {"c": [1, {"d": null}]}, "e": null, "f": "x", "a": 2}') AS changed;
SELECT registry.put_many('many_numbers', '{"a": 1.50, "b": "2.50", "c": 1e3}') AS changed;
SELECT registry.put_many('many_texts', '{"a": 1.50, "b": "x", "c": true, "d": {"e": [1]}, "f": ""}') AS changed;
SELECT key, value FROM registry.entries('many') ORDER BY key COLLATE "C";
SELECT key, value FROM registry.entries('many_numbers') ORDER BY key COLLATE "C";
SELECT key, value FROM registry.entries('many_texts') ORDER BY key COLLATE "C";
SELECT registry.put_many('many', '{}') AS none;
SELECT registry.put_many('many', jsonb_object_agg('k' || i, i)) AS thousand FROM generate_series(1, 1000) i;
SELECT registry.entry_count('many'), count(*), sum(value::int) FILTER (WHERE key LIKE 'k%') FROM registry.entries('many');
SELECT call, outcome('SELECT registry.put_many(' || call || ')')
  FROM unnest(ARRAY[$$'many', '[1, 2]'$$, $$'many', '"x"'$$, $$'many', '5'$$, $$'many', 'null'$$, $$'many', NULL$$, $$NULL, '{}'$$,
                    $$'many', '{"a": 9, "": 1}'$$, $$'many_numbers', '{"a": 9, "b": "x"}'$$, $$'many_numbers', '{"a": 9, "b": null}'$$,
                    $$'many_numbers', '{"a": 9, "b": [1]}'$$, $$'many_numbers', '{"a": 9, "b": true}'$$, $$'many', '{}', NULL$$,
                    $$'many', '{"a": 9}', replace => true$$, $$'nowhere', '{"a": 9}'$$, $$'rates', '{"USD": 9}'$$]) call;
SELECT registry.get('many', 'a') AS a, registry.get('many_numbers', 'a') AS number_unchanged;

-- 5. Deleting says whether there was one.
SELECT registry.delete('many', 'a') AS a, registry.delete('many', 'never') AS never, registry.delete('many', '') AS empty,
       registry.delete('many', repeat('k', 1025)) AS long;
SELECT registry.delete('many', 'a') AS again, registry.get('many', 'a') AS value, registry.entry_count('many');
SELECT call, outcome('SELECT registry.delete(' || call || ')')
  FROM unnest(ARRAY[$$NULL, 'k'$$, $$'many', NULL$$, $$'nowhere', 'k'$$, $$'rates', 'USD'$$]) call;

-- 6. Time to live. The end is the transaction's time plus the interval.
BEGIN;
SELECT registry.put('prices', 'soon', 1, ttl => '1 day'), registry.put('prices', 'later', '2', ttl => '200000 years'),
       registry.put('prices', 'forever', 3, ttl => NULL);
SELECT key, value, owner_pid, updated_at = now() AS just_now, expires_at = now() + '1 day' AS in_a_day, expires_at IS NOT NULL AS ends
  FROM registry.entries('prices') WHERE key IN ('soon', 'later', 'forever') ORDER BY key COLLATE "C";
COMMIT;
SELECT key, value, expires_at > now() AS ends_later FROM registry.entries('prices') WHERE key IN ('soon', 'later', 'forever') ORDER BY key COLLATE "C";
-- A put without it removes it.
SELECT registry.put('prices', 'soon', 1);
SELECT expires_at FROM registry.entries('prices') WHERE key = 'soon';
SELECT ttl, outcome(format('SELECT registry.put(''prices'', ''soon'', 1, ttl => %L)', ttl))
  FROM unnest(ARRAY['0', '-1 second', '-4000 years', '1 month -31 days', '300000 years', 'never']) ttl;
-- An entry that has ended is gone for every reader, and can be put again.
SELECT registry.create_registry('ends');
SELECT registry.put('ends', 'a', 1, ttl => '1 millisecond'), registry.put('ends', 'b', '2');
DO $$ BEGIN PERFORM pg_sleep_until(expires_at) FROM registry.entries('ends') WHERE expires_at IS NOT NULL; END $$;
SELECT registry.get('ends', 'a') AS a, registry.entry_count('ends'), (SELECT string_agg(key, ' ') FROM registry.entries('ends')) AS entries;
SELECT entries FROM registry.registries WHERE name = 'ends';
SELECT registry.delete('ends', 'a') AS existed;
SELECT registry.put('ends', 'a', 3);
SELECT registry.get('ends', 'a') AS a, registry.entry_count('ends');

-- 7. Dropping.
SELECT registry.drop_registry('ends');
SELECT registry.registry_exists('ends'), outcome($$SELECT registry.get('ends', 'a')$$);
SELECT registry.drop_registry('ends', if_exists => true);
SELECT registry.drop_registry('many', cascade => true);
SELECT call, outcome('SELECT registry.drop_registry(' || call || ')')
  FROM unnest(ARRAY[$$'ends'$$, $$'rates'$$, $$'rates', if_exists => true$$, $$''$$, $$repeat('n', 100)$$, $$NULL$$,
                    $$'motd', if_exists => NULL$$, $$'motd', cascade => NULL$$]) call;
SELECT registry.create_registry('ends', 'text');
SELECT registry.entry_count('ends') AS empty, registry.get_text('ends', 'a') AS a;
SELECT call, outcome('SELECT registry.' || call)
  FROM unnest(ARRAY[$$put('nowhere', 'k', '1')$$, $$put('nowhere', 'k', 1)$$, $$get('nowhere', 'k')$$, $$get_text('nowhere', 'k')$$,
                    $$get_numeric('nowhere', 'k')$$, $$get_float8('nowhere', 'k')$$, $$entry_count('nowhere')$$,
                    $$registry_exists('nowhere')$$, $$put('rates', 'USD', '1')$$, $$put('rates', 'USD', 1)$$,
                    $$get('', 'k')$$, $$registry_exists('')$$, $$registry_exists(repeat('n', 100))$$]) call;
SELECT outcome($$SELECT * FROM registry.entries('nowhere')$$) AS entries;

-- 8. The extension takes its registries with it.
DROP EXTENSION pg_registry CASCADE;
CREATE EXTENSION pg_registry;
SELECT name FROM registry.registries;
SELECT outcome($$SELECT registry.get('motd', 'k')$$);

DROP EXTENSION pg_registry CASCADE;
DROP FUNCTION outcome, stored;
DROP TYPE mood, pair, percent, label;
