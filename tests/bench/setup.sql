-- Tables, registries and functions of the benchmark.  Variables: bench (path of the module), rows, few.
\set ON_ERROR_STOP on
CREATE EXTENSION pg_registry;
CREATE EXTENSION pg_prewarm;
CREATE SCHEMA bench;

CREATE FUNCTION bench.noop(text, text) RETURNS float8
AS :'bench', 'bench_noop_float8' LANGUAGE C STABLE STRICT PARALLEL SAFE;
CREATE FUNCTION bench.noop_numeric(text, text) RETURNS numeric
AS :'bench', 'bench_noop_numeric' LANGUAGE C STABLE STRICT PARALLEL SAFE;
CREATE FUNCTION bench.hash_key(text, text) RETURNS float8
AS :'bench', 'bench_hash_key' LANGUAGE C STABLE STRICT PARALLEL SAFE;
CREATE FUNCTION bench.hash_both(text, text) RETURNS float8
AS :'bench', 'bench_hash_both' LANGUAGE C STABLE STRICT PARALLEL SAFE;
CREATE FUNCTION bench.rate2(text, text) RETURNS numeric
AS 'pg_registry', 'pgr_sql_bench_rate2' LANGUAGE C STABLE PARALLEL SAFE;
CREATE FUNCTION bench.rivals_put(text, text, float8) RETURNS void
AS :'bench', 'bench_rivals_put' LANGUAGE C VOLATILE STRICT;
CREATE FUNCTION bench.dshash(text, text) RETURNS float8
AS :'bench', 'bench_dshash_get' LANGUAGE C STABLE STRICT;
CREATE FUNCTION bench.dynahash(text, text) RETURNS float8
AS :'bench', 'bench_dynahash_get' LANGUAGE C STABLE STRICT;
CREATE FUNCTION bench.publish(registry text, keys int, changed int, most bigint, ms int) RETURNS float8
AS 'pg_registry', 'pgr_sql_bench_publish' LANGUAGE C VOLATILE STRICT;
CREATE FUNCTION bench.load(registry text, keys int, shuffled boolean) RETURNS float8
AS 'pg_registry', 'pgr_sql_bench_load' LANGUAGE C VOLATILE STRICT;

-- 30 currencies, as many as the European Central Bank publishes, with rates of four decimals.
SELECT registry.set_rates('EUR', (
    SELECT jsonb_object_agg(code, CASE code WHEN 'EUR' THEN 1 ELSE round((0.5 + n * 1.3719)::numeric, 4) END)
      FROM unnest(string_to_array(
          'AUD BGN BRL CAD CHF CNY CZK DKK EUR GBP HKD HUF IDR ILS INR ISK JPY KRW MXN MYR NOK NZD PHP PLN RON SEK '
          'SGD THB TRY USD', ' ')) WITH ORDINALITY AS c(code, n)));

CREATE TABLE bench.rates AS
    SELECT currency::text COLLATE "C" AS currency, registry.rate(currency, 'EUR') AS rate, registry.rate_float8(currency, 'EUR') AS rate8
      FROM registry.rates ORDER BY currency;
ALTER TABLE bench.rates ADD PRIMARY KEY (currency);

-- The same numbers in registries of 30 keys, and 200 keys that are no currencies.
SELECT registry.create_registry('fx', 'float8', durable => false), registry.create_registry('fxn', 'numeric', durable => false),
       registry.create_registry('items', 'float8', durable => false);
SELECT registry.put_many('fx', (SELECT jsonb_object_agg(currency, rate8) FROM bench.rates)),
       registry.put_many('fxn', (SELECT jsonb_object_agg(currency, rate) FROM bench.rates)),
       registry.put_many('items', (SELECT jsonb_object_agg('I' || 1000 + n, n / 7.0) FROM generate_series(1, 200) AS n));

SELECT count(bench.rivals_put('fx', currency, rate8)) FROM bench.rates;

CREATE TABLE bench.orders (amount float8 NOT NULL, currency text COLLATE "C" NOT NULL, item text NOT NULL, price numeric NOT NULL);
SELECT setseed(0.5);
INSERT INTO bench.orders
    SELECT round((random() * 1000)::numeric, 2), codes[1 + floor(random() * 30)], 'I' || 1001 + floor(random() * 200),
           round((random() * 1000)::numeric, 2)
      FROM generate_series(1, :rows), (SELECT array_agg(currency) AS codes FROM bench.rates) AS c;
CREATE TABLE bench.few AS SELECT * FROM bench.orders LIMIT :few;
-- A table for each of two clients, as the headers of shared buffers do not scale and are not ours.
CREATE TABLE bench.mine AS SELECT * FROM bench.orders LIMIT :rows / 5;
CREATE TABLE bench.yours AS SELECT * FROM bench.mine;
VACUUM (FREEZE, ANALYZE) bench.orders, bench.few, bench.mine, bench.yours, bench.rates;
SELECT pg_prewarm('bench.' || t) FROM unnest('{orders,few,mine,yours,rates}'::text[]) AS t;

-- Registries of every size, beside tables of the same entries: kv_N, and random keys to ask for in reads_N, the first
-- few of them in few_N.  rN has float8 values, nN numeric ones, pN is for those who publish.
SELECT setseed(0.25);
SELECT format($$
    CREATE TABLE bench.kv_%1$s AS
        SELECT 'I' || 1000000 + n AS key, n / 7.0::float8 AS value, round(n / 7.0, 4) AS exact FROM generate_series(0, %1$s - 1) AS n;
    ALTER TABLE bench.kv_%1$s ADD PRIMARY KEY (key);
    CREATE TABLE bench.reads_%1$s AS
        SELECT 'I' || 1000000 + floor(random() * %1$s)::int AS key FROM generate_series(1, %2$s);
    CREATE TABLE bench.few_%1$s AS SELECT * FROM bench.reads_%1$s LIMIT %3$s;
    SELECT registry.create_registry('r%1$s', 'float8', durable => false), registry.create_registry('n%1$s', 'numeric', durable => false);
    SELECT count(bench.rivals_put('s%1$s', key, value)) FROM bench.kv_%1$s;
$$, keys, :rows, :few)
FROM unnest('{10,100,1000,10000,100000,1000000}'::int[]) AS keys \gexec
SELECT format('VACUUM (FREEZE, ANALYZE) bench.%I', relname) FROM pg_class
 WHERE relnamespace = 'bench'::regnamespace AND relname ~ '^(kv|reads|few)_' AND relkind = 'r' \gexec
SELECT pg_prewarm(oid) FROM pg_class
 WHERE relnamespace = 'bench'::regnamespace AND relname ~ '^(kv|reads|few)_' AND relkind IN ('r', 'i');
-- In one transaction, in objects of at most ten thousand members.
SELECT format($$
    SELECT sum(registry.put_many('r%1$s', o)), sum(registry.put_many('n%1$s', e))
      FROM (SELECT jsonb_object_agg(key, value) AS o, jsonb_object_agg(key, exact) AS e FROM bench.kv_%1$s GROUP BY left(key, 4)) AS s
$$, keys)
FROM unnest('{10,100,1000,10000,100000,1000000}'::int[]) AS keys \gexec
SELECT registry.create_registry('p30', 'float8', durable => false), registry.create_registry('p200', 'float8', durable => false);
SELECT registry.put_many('p30', (SELECT jsonb_object_agg(key, value) FROM (SELECT * FROM bench.kv_100 ORDER BY key LIMIT 30) AS s)),
       registry.put_many('p200', (SELECT jsonb_object_agg(key, value) FROM (SELECT * FROM bench.kv_1000 ORDER BY key LIMIT 200) AS s));

-- What people write instead.
CREATE FUNCTION bench.sql_rate(c text) RETURNS numeric LANGUAGE sql STABLE PARALLEL SAFE
    AS 'SELECT rate FROM bench.rates WHERE currency = c';
CREATE FUNCTION bench.sql_rate8(c text) RETURNS float8 LANGUAGE sql STABLE PARALLEL SAFE
    AS 'SELECT rate8 FROM bench.rates WHERE currency = c';
CREATE FUNCTION bench.plpgsql_rate(c text) RETURNS numeric LANGUAGE plpgsql STABLE PARALLEL SAFE
    AS 'BEGIN RETURN (SELECT rate FROM bench.rates WHERE currency = c); END';
CREATE FUNCTION bench.plpgsql_rate8(c text) RETURNS float8 LANGUAGE plpgsql STABLE PARALLEL SAFE
    AS 'BEGIN RETURN (SELECT rate8 FROM bench.rates WHERE currency = c); END';

-- Writers that never pause; they end when they are cancelled.
CREATE PROCEDURE bench.put_forever(name text) LANGUAGE plpgsql AS $$
DECLARE
    i bigint := 0;
BEGIN
    LOOP
        i := i + 1;
        PERFORM registry.put(name, 'USD', i::float8);
        COMMIT;
    END LOOP;
END $$;
CREATE PROCEDURE bench.set_rates_forever() LANGUAGE plpgsql AS $$
DECLARE
    rates jsonb := (SELECT jsonb_object_agg(r.currency, r.rate) FROM registry.rates AS r);
    other jsonb := rates || '{"USD": 1.2345}';
BEGIN
    LOOP
        PERFORM registry.set_rates('EUR', rates);
        COMMIT;
        PERFORM registry.set_rates('EUR', other);
        COMMIT;
    END LOOP;
END $$;

-- ns for each transaction that puts one random key, at most "most" of them; as bench.publish, it looks at the clock after
-- 1, 3, 7, ... and stops once "ms" have passed.
CREATE PROCEDURE bench.puts(name text, keys int, most int, ms int, OUT ns float8) LANGUAGE plpgsql AS $$
DECLARE
    start timestamptz := clock_timestamp();
    done int := 0;
BEGIN
    WHILE done < most LOOP
        PERFORM registry.put(name, 'I' || 1000000 + floor(random() * keys)::int, done::float8);
        COMMIT;
        done := done + 1;
        EXIT WHEN done & (done + 1) = 0 AND clock_timestamp() > start + ms * interval '1 ms';
    END LOOP;
    ns := extract(epoch FROM clock_timestamp() - start) * 1e9 / done;
END $$;

-- Durable registries, of 30, 1,000 and a million keys, beside plain tables that hold the same and nothing else.
SELECT registry.create_registry('d30', 'float8', durable => true), registry.create_registry('d1000', 'float8', durable => true),
       registry.create_registry('d1000000', 'float8', durable => true);
SELECT registry.put_many('d30', (SELECT jsonb_object_agg('I' || 1000000 + n, n) FROM generate_series(0, 29) AS n)),
       registry.put_many('d1000', (SELECT jsonb_object_agg('I' || 1000000 + n, n) FROM generate_series(0, 999) AS n));
SELECT sum(registry.put_many('d1000000', o))
  FROM (SELECT jsonb_object_agg(key, value) AS o FROM bench.kv_1000000 GROUP BY left(key, 4)) AS s;
CREATE TABLE bench.plain (
    registry text COLLATE "C", key text COLLATE "C", value text NOT NULL, updated_at timestamptz NOT NULL DEFAULT now(),
    expires_at timestamptz, PRIMARY KEY (registry, key)) WITH (fillfactor = 90);
INSERT INTO bench.plain SELECT registry, key, value FROM _registry.stored_entries;
VACUUM (ANALYZE) bench.plain, _registry.stored_entries;

-- As bench.puts, into the plain table.
CREATE PROCEDURE bench.upserts(name text, keys int, most int, ms int, OUT ns float8) LANGUAGE plpgsql AS $$
DECLARE
    start timestamptz := clock_timestamp();
    done int := 0;
BEGIN
    WHILE done < most LOOP
        INSERT INTO bench.plain VALUES (name, 'I' || 1000000 + floor(random() * keys)::int, done::float8)
            ON CONFLICT (registry, key) DO UPDATE SET value = excluded.value, updated_at = excluded.updated_at;
        COMMIT;
        done := done + 1;
        EXIT WHEN done & (done + 1) = 0 AND clock_timestamp() > start + ms * interval '1 ms';
    END LOOP;
    ns := extract(epoch FROM clock_timestamp() - start) * 1e9 / done;
END $$;

-- ns for each transaction that puts the 1,000 entries of a JSON object; without "registry", that upserts them.
CREATE PROCEDURE bench.thousands(registry text, most int, OUT ns float8) LANGUAGE plpgsql AS $$
DECLARE
    odd jsonb := (SELECT jsonb_object_agg('I' || 1000000 + n, n) FROM generate_series(0, 999) AS n);
    even jsonb := (SELECT jsonb_object_agg('I' || 1000000 + n, n + 1) FROM generate_series(0, 999) AS n);
    start timestamptz := clock_timestamp();
BEGIN
    FOR i IN 1 .. most LOOP
        IF registry IS NULL THEN
            INSERT INTO bench.plain SELECT 'd1000', key, value FROM jsonb_each_text(CASE WHEN i % 2 = 0 THEN even ELSE odd END)
                ON CONFLICT ON CONSTRAINT plain_pkey DO UPDATE SET value = excluded.value, updated_at = excluded.updated_at;
        ELSE
            PERFORM registry.put_many(registry, CASE WHEN i % 2 = 0 THEN even ELSE odd END);
        END IF;
        COMMIT;
    END LOOP;
    ns := extract(epoch FROM clock_timestamp() - start) * 1e9 / most;
END $$;
