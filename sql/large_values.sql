-- When this fails, a value of megabytes comes back cut, changed or not at all, or a NULL or malformed argument of a bulk function
-- does something else than say so.
\set SHOW_CONTEXT never
CREATE EXTENSION pg_registry;
CREATE FUNCTION outcome(expression text) RETURNS text LANGUAGE plpgsql AS $$
DECLARE result text; detail text; hint text;
BEGIN
	EXECUTE 'SELECT ' || expression INTO result;
	RETURN coalesce(result, 'null');
EXCEPTION WHEN OTHERS THEN
	GET STACKED DIAGNOSTICS detail = PG_EXCEPTION_DETAIL, hint = PG_EXCEPTION_HINT;
	RETURN concat_ws('; ', SQLSTATE || ': ' || SQLERRM, nullif(detail, ''), nullif(hint, ''));
END $$;
SELECT registry.create_registry('t', 'text'), registry.create_registry('j', 'jsonb'), registry.create_registry('n', 'numeric');

-- 1. Ten megabytes, by every way in and every way out.
CREATE TABLE large AS
	SELECT string_agg(md5(n::text), '') AS t, jsonb_build_object('é', jsonb_agg(md5(n::text))) AS j FROM generate_series(1, 320000) n;
SELECT length(t) AS text, pg_column_size(j || '{}') AS jsonb FROM large;
SELECT registry.put('t', 'k', t) FROM large;
SELECT registry.get_text('t', 'k') = t AS get_text, registry.get('t', 'k') = to_jsonb(t) AS get,
       (SELECT value = to_jsonb(t) FROM registry.entries('t')) AS entries, (SELECT value = to_jsonb(t) FROM registry.get_many('t', '{k,no}')) AS get_many FROM large;
SELECT registry.put_many('t', jsonb_build_object('k', 'short', 'l', reverse(t)), replace => true) FROM large;
SELECT registry.get_text('t', 'k') AS short, registry.get_text('t', 'l') = reverse(t) AS long, registry.entry_count('t') FROM large;
BEGIN;
SELECT registry.put('t', 'l', t) FROM large;
SELECT registry.get_text('t', 'l') = t AS own FROM large;
ROLLBACK;
SELECT registry.get_text('t', 'l') = reverse(t) AS untouched FROM large;
SELECT registry.clear('t');
SELECT registry.put('j', 'k', j) FROM large;
SELECT registry.get('j', 'k') = j AS get, registry.get_text('j', 'k') = j::text AS get_text,
       (SELECT value = j FROM registry.get_many('j', '{k}')) AS get_many FROM large;
SELECT registry.put_many('j', jsonb_build_object('k', j), replace => true) FROM large;
SELECT registry.get('j', 'k') = j AS get FROM large;
SELECT registry.put('j', 'k', j::text) FROM large;
SELECT registry.get('j', 'k') = j AS put_as_text FROM large;
SELECT registry.clear('j');
-- The longest numbers that there are.
SELECT registry.put('n', 'large', ('9' || repeat('7', 131071))::numeric), registry.put('n', 'small', ('-0.' || repeat('3', 16383))::numeric);
SELECT registry.get_numeric('n', 'large') = ('9' || repeat('7', 131071))::numeric AS large, registry.get_numeric('n', 'small') = ('-0.' || repeat('3', 16383))::numeric AS small,
       outcome('registry.get_float8(''n'', ''small'')') AS small_float8, outcome('registry.get_bigint(''n'', ''large'')') AS large_bigint,
       outcome('registry.get_bigint(''n'', ''small'')') AS small_bigint, left(outcome('registry.get_float8(''n'', ''large'')'), 5) AS large_float8;
-- Ten megabytes that are no value, or no key.
SELECT left(outcome(call), 100) AS outcome
  FROM unnest(ARRAY[$$registry.put('j', 'k', repeat('[', 10000000))$$, $$registry.put('j', 'k', repeat('x', 10000000))$$,
                    $$registry.put('n', 'k', repeat('x', 10000000))$$, $$registry.put_many('n', jsonb_build_object('k', repeat('x', 10000000)))$$,
                    $$registry.put_many('t', jsonb_build_object('k', 1, repeat('x', 10000000), 2))$$, $$registry.put_many('t', jsonb_build_object('k', 1, repeat('x', 10000000), 2), true)$$,
                    $$registry.alter_registry('t', jsonb_build_object('name', repeat('é', 5000000)))$$, $$registry.alter_registry('t', jsonb_build_object(repeat('é', 5000000), 1))$$,
                    $$registry.alter_registry('t', jsonb_build_object('on_stale', repeat('é', 5000000)))$$, $$registry.clear(repeat('é', 5000000))$$,
                    $$registry.alter_registry(repeat('é', 5000000), '{}')$$, $$count(*) FROM registry.get_many(repeat('é', 5000000), '{}')$$,
                    $$count(*) FROM registry.get_many('t', ARRAY[repeat('k', 10000000)])$$, $$registry.get_bigint(repeat('é', 5000000), 5)$$]) call;

-- 2. NULLs, empty and malformed arguments of the functions for many entries.
SELECT call, outcome(call)
  FROM unnest(ARRAY[$$registry.clear(NULL)$$, $$registry.clear('')$$, $$registry.clear('no')$$, $$registry.clear('rates')$$, $$registry.clear('t')$$,
                    $$registry.put_many(NULL, '{}', true)$$, $$registry.put_many('t', NULL, true)$$, $$registry.put_many('t', '{}', NULL)$$,
                    $$registry.put_many('t', '[]', true)$$, $$registry.put_many('t', 'null', true)$$, $$registry.put_many('t', '"k"', true)$$,
                    $$registry.put_many('t', '{"k": null}', true)$$, $$registry.put_many('t', '{"": "v"}', true)$$, $$registry.put_many('t', '{"k": "v"', true)$$,
                    $$registry.put_many('t', '{"k": "\u0000"}', true)$$, $$registry.put_many('t', '{"k": "\ud800"}', true)$$, $$registry.put_many('rates', '{}', true)$$,
                    $$registry.put_many('t', '{"k": "1", "k": "2"}', true)$$, $$registry.get_text('t', 'k')$$,
                    $$registry.put_many('j', '{"k": null}', true)$$, $$registry.get('j', 'k')$$,
                    $$registry.put_many('t', '{"k": [1, {"a": null}], "l": true, "m": 1.50}', true)$$,
                    $$string_agg(key || ' ' || value, ', ' ORDER BY key) FROM registry.entries('t')$$]) call;

DROP EXTENSION pg_registry CASCADE;
DROP TABLE large;
DROP FUNCTION outcome;
