-- When this fails, a wrong call crashes, is accepted in silence, or is answered by an error that does not help.
\set SHOW_CONTEXT never
CREATE EXTENSION pg_registry;

-- The value of a query, or its error: SQLSTATE, message, then detail and hint. Long texts are cut.
CREATE FUNCTION outcome(query text) RETURNS text LANGUAGE plpgsql AS $$
DECLARE result text; detail text; hint text;
BEGIN
	EXECUTE query INTO result;
	RETURN left(coalesce(result, 'null'), 40);
EXCEPTION WHEN OTHERS THEN
	GET STACKED DIAGNOSTICS detail = PG_EXCEPTION_DETAIL, hint = PG_EXCEPTION_HINT;
	RETURN left(concat_ws(E'\n', SQLSTATE || ': ' || SQLERRM,
	                      'DETAIL ' || nullif(detail, ''), 'HINT ' || nullif(hint, '')), 250);
END $$;

SELECT registry.create_registry('j', durable => false), registry.create_registry('t', 'text', durable => false), registry.create_registry('n', 'numeric'),
       registry.create_registry('f', 'float8'), registry.create_registry('i', 'bigint'), registry.create_registry('b', 'boolean'),
       registry.create_registry('z', 'timestamptz');
SELECT registry.put('j', 'k', '1');

-- 1. Registries that do not exist, under names that could not: one message for each function.
SELECT call, outcome('SELECT registry.' || call)
  FROM unnest(ARRAY[$$get('J', 'k')$$, $$get('', 'k')$$, $$get(repeat('j', 64), 'k')$$, $$get('j ', 'k')$$, $$get('registry.j', 'k')$$,
                    $$get_text('no', 'k')$$, $$get_numeric('no', 'k')$$, $$get_float8('no', 'k')$$, $$entries('no')$$, $$entry_count('no')$$,
                    $$put('no', 'k', '1')$$, $$put('no', 'k', 1)$$, $$put('', 'k', '1')$$, $$put_many('no', '{"k": 1}')$$, $$delete('no', 'k')$$,
                    $$drop_registry('no')$$]) call;
-- A name of ten million bytes is cut in the message, between characters.
SELECT call, outcome('SELECT registry.' || call)
  FROM unnest(ARRAY[$$get(repeat('é', 5000000), 'k')$$, $$put(repeat('é', 5000000), 'k', '1')$$, $$entry_count(repeat('é', 5000000))$$,
                    $$registry_exists(repeat('é', 5000000))$$, $$drop_registry(repeat('é', 5000000))$$, $$create_registry(repeat('é', 5000000))$$,
                    $$drop_registry(repeat('é', 5000000), if_exists => true)$$]) call;

-- 2. Keys: 1 to 1,024 bytes. To a reader, a longer one is merely unknown.
SELECT call, outcome('SELECT registry.' || call)
  FROM unnest(ARRAY[$$put('j', '', '1')$$, $$put('j', '', 1)$$, $$put_many('j', '{"": 1}')$$, $$get('j', '')$$, $$delete('j', '')$$,
                    $$put('j', repeat('k', 1025), '1')$$, $$put('j', repeat('k', 1025), 1)$$, $$put('j', repeat('é', 512) || 'k', '1')$$,
                    $$put_many('j', jsonb_build_object(repeat('k', 1025), 1))$$, $$get('j', repeat('k', 1025))$$, $$delete('j', repeat('k', 1025))$$,
                    $$put('j', repeat('k', 10000000), '1')$$, $$put('j', repeat('k', 10000000), 1)$$,
                    $$put_many('j', jsonb_build_object(repeat('k', 10000000), 1))$$, $$delete('j', repeat('k', 10000000))$$,
                    $$get('j', repeat('k', 10000000))$$, $$get_text('j', repeat('k', 10000000))$$, $$get_numeric('j', repeat('k', 10000000))$$,
                    $$get_float8('j', repeat('k', 10000000))$$]) call;
-- A table may keep names and keys compressed or out of line; they are the same names and keys.
CREATE TABLE keys (padding text, name text, k text);
ALTER TABLE keys ALTER padding SET STORAGE PLAIN, ALTER name SET STORAGE EXTERNAL, ALTER k SET STORAGE EXTERNAL;
INSERT INTO keys SELECT repeat('p', 3000), repeat('n', 63), repeat('k', n) FROM unnest(ARRAY[1, 100, 1024, 1025, 10000000]) n;
SELECT registry.create_registry(name) FROM keys LIMIT 1;
SELECT length(k) AS length,
       outcome('SELECT registry.put(name, k, length(k)) FROM keys WHERE length(k) = ' || length(k)) AS put FROM keys ORDER BY 1;
SELECT length(k) AS length, registry.get(name, k), registry.get(repeat('n', 63), repeat('k', length(k))) AS computed FROM keys ORDER BY 1;
SELECT length(key), key = repeat('k', length(key)) AS right_key, value FROM registry.entries(repeat('n', 63)) ORDER BY 1;
ALTER TABLE keys ALTER k SET STORAGE EXTENDED;
UPDATE keys SET k = k || '';
SELECT length(k) AS length, registry.get(name, k), registry.delete(name, k) FROM keys ORDER BY 1;
SELECT registry.entry_count(name), registry.registry_exists(name) FROM keys LIMIT 1;
SELECT registry.drop_registry(name) FROM keys LIMIT 1;
DROP TABLE keys;

-- 3. NULL in every place: an error where something is written, NULL where it is read.
SELECT call, outcome('SELECT registry.' || call)
  FROM unnest(ARRAY[$$put(NULL, 'k', '1')$$, $$put('j', NULL, '1')$$, $$put('j', 'k', NULL)$$, $$put('j', 'k', NULL::int)$$, $$put('j', 'k', NULL::text, '1 s')$$,
                    $$put_many(NULL, '{}')$$, $$put_many('j', NULL)$$, $$put_many('j', '{}', NULL)$$, $$delete(NULL, 'k')$$, $$delete('j', NULL)$$,
                    $$create_registry(NULL)$$, $$drop_registry(NULL)$$, $$drop_registry('j', NULL)$$, $$drop_registry('j', false, NULL)$$,
                    $$set_rates(NULL, '{"USD": 1}')$$, $$set_rates('EUR', NULL)$$, $$set_rates('EUR', '{"USD": 1}', NULL)$$,
                    $$set_rates('EUR', '{"USD": 1}', current_date, NULL)$$, $$refresh(NULL)$$, $$refresh('rates', NULL)$$,
                    $$refresh('rates', false, NULL)$$, $$refresh('rates', false, '1 s', NULL)$$, $$pause(NULL)$$, $$resume(NULL)$$, $$log_tail(NULL)$$]) call;
SELECT registry.get(NULL, 'k') AS a, registry.get('j', NULL) AS b, registry.get_text(NULL, NULL) AS c, registry.get_numeric('n', NULL) AS d,
       registry.get_float8(NULL, 'k') AS e, registry.entry_count(NULL) AS f, registry.registry_exists(NULL) AS g,
       registry.rate(NULL, NULL) AS h, registry.rate_float8(NULL, 'USD') AS i, registry.convert(NULL, NULL, NULL) AS j,
       registry.quote(NULL, NULL) AS k, registry.minor_units(NULL) AS l, registry.round_money(NULL, 'EUR') AS m,
       registry.rate('EUR', 'USD', rates => NULL) AS n, (SELECT count(*) FROM registry.entries(NULL)) AS entries;

-- 4. Values that do not fit their type.
SELECT call, outcome('SELECT registry.put(' || call || ')')
  FROM unnest(ARRAY[$$'j', 'k', ''$$, $$'j', 'k', '{'$$, $$'j', 'k', '{"a": 1}}'$$, $$'j', 'k', '"\u0000"'$$, $$'j', 'k', '1,2'$$, $$'j', 'k', 'NaN'$$,
                    $$'n', 'k', ''$$, $$'n', 'k', '1,5'$$, $$'n', 'k', '1e200000'$$, $$'n', 'k', '{"a": 1}'$$,
                    $$'f', 'k', '1e400'$$, $$'f', 'k', 'one'$$, $$'i', 'k', '9223372036854775808'$$, $$'i', 'k', '1.5'$$, $$'i', 'k', 9223372036854775808$$,
                    $$'b', 'k', '2'$$, $$'b', 'k', ''$$, $$'z', 'k', '2025-02-30'$$, $$'z', 'k', 'someday'$$, $$'z', 'k', '300000-01-01'$$,
                    $$'n', 'k', '2025-01-31'::date$$, $$'b', 'k', 1.5$$, $$'z', 'k', true$$, $$'i', 'k', ROW(1, 2)$$]) call;
-- Types that no registry has.
SELECT type, outcome(format('SELECT registry.create_registry(''x'', %L)', type))
  FROM unnest(ARRAY['int', 'float4', 'json', 'date', 'timestamp', 'bytea', 'text[]', 'record', 'anyelement', 'nothing', '', '0', '-']) type;
CREATE DOMAIN posint AS bigint CHECK (VALUE > 0);
SELECT outcome($$SELECT registry.create_registry('x', 'posint')$$) AS domain, registry.registry_exists('x');
DROP DOMAIN posint;

-- 5. Large values: what fits in memory is stored whole, what does not leaves everything as it was.
SELECT registry.put('t', 'large', repeat('é', 5000000));
SELECT octet_length(v) AS bytes, v = repeat('é', 5000000) AS whole FROM registry.get_text('t', 'large') v;
SELECT registry.put('j', 'large', to_jsonb(repeat('x', 5000000)));
SELECT length(registry.get('j', 'large')::text) AS length, registry.get('j', 'k') AS other;
-- Twelve more of ten million bytes do not go into 64 MB.
CREATE FUNCTION fill(name text, n int) RETURNS text LANGUAGE plpgsql AS $$
DECLARE detail text; hint text;
BEGIN
	FOR i IN 1 .. n LOOP
		PERFORM registry.put(name, 'large' || i, repeat('x', 10000000));
	END LOOP;
	RETURN 'all stored';
EXCEPTION WHEN OTHERS THEN
	GET STACKED DIAGNOSTICS detail = PG_EXCEPTION_DETAIL, hint = PG_EXCEPTION_HINT;
	RETURN concat_ws(E'\n', SQLSTATE || ': ' || regexp_replace(SQLERRM, '\d+', 'N', 'g'), detail <> '' AND hint <> '');
END $$;
SELECT fill('t', 12);
SELECT registry.entry_count('t'), octet_length(registry.get_text('t', 'large')) AS bytes;
SELECT outcome($$SELECT registry.put('t', 'small', 'x')$$) AS still_writable;
-- The same where only the commit asks for too much: 25 MB are noted, 30 more for the new version are not there.
\set VERBOSITY sqlstate
SELECT registry.put('j', 'twice', to_jsonb(repeat('x', 25000000)));
\set VERBOSITY default
SELECT registry.entry_count('j') AS entries;
-- Deleting makes room.
SELECT registry.delete('t', 'large'), registry.delete('j', 'large');
SELECT registry.put('t', 'large', repeat('z', 10000000));
SELECT octet_length(registry.get_text('t', 'large')) AS bytes;
SELECT registry.drop_registry(name) FROM registry.registries WHERE name <> 'rates';
SELECT bytes AS left_over FROM registry.memory WHERE part = 'registries of database ' || current_database();
SELECT part, bytes FROM registry.memory WHERE part IN ('uncommitted changes', 'reserved by commits') ORDER BY part COLLATE "C";

-- 6. Sources and options that do not exist.
SELECT call, outcome('SELECT registry.' || call)
  FROM unnest(ARRAY[$$refresh('ecb')$$, $$refresh('')$$, $$pause('ecb')$$, $$resume('RATES')$$, $$refresh('rates', timeout => '-1 s')$$,
                    $$log_tail(-1)$$, $$log_tail(10, 'file')$$]) call;

DROP EXTENSION pg_registry CASCADE;
DROP FUNCTION outcome, fill;
