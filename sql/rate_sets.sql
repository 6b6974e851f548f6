-- When this fails, nobody can say with which rate an invoice of last month was made, or a set that was never
-- accepted is used.
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

-- 1. Nothing stored: no rate of any day, but one euro is one euro.
SELECT call, outcome('SELECT registry.' || call)
  FROM unnest(ARRAY[$$rate('EUR', 'USD', on_date => '2025-01-31')$$, $$convert(1, 'EUR', 'USD', on_date => '2025-01-31')$$,
                    $$quote('EUR', 'USD', on_date => '2025-01-31')$$, $$quote('EUR', 'EUR', on_date => '2025-01-31')$$,
                    $$rate('EUR', 'EUR', on_date => '2025-01-31')$$,
                    $$rate('EUR', 'USD', on_date => '2025-01-31', missing_ok => true)$$,
                    $$accept_rates(1)$$, $$withdraw_rates(1, 'wrong')$$]) call;

-- 2. set_rates writes a set and returns its id. What says the same as the newest one is not written again.
SELECT registry.set_rates('EUR', '{"USD": 1.1000, "GBP": 0.87}', '2025-01-06') AS first;
SELECT registry.set_rates('EUR', '{"GBP": 0.87, "USD": 1.1000}', '2025-01-06') AS same,
       registry.set_rates('EUR', '{"USD": "1.1000", "GBP": 0.87, "EUR": 1}', '2025-01-06') AS same_again;
SELECT registry.set_rates('EUR', '{"USD": 1.1, "GBP": 0.87}', '2025-01-06') AS other_digits;
SELECT registry.set_rates('EUR', '{"USD": 1.2, "GBP": 0.87}', '2025-01-08') AS next_date;
SELECT registry.set_rates('EUR', '{"USD": 1.1000, "GBP": 0.87}', '2025-01-06') AS not_the_newest;
SELECT registry.set_rates('USD', '{"EUR": 0.8}', '2025-01-08') AS other_base;
SELECT id, source, base, value_date, fetched_at <= published_at AS in_order, length(body_hash) AS hash, status, reason,
       role = current_user AS own_role FROM registry.rate_sets ORDER BY id;
SELECT count(DISTINCT published_at) AS times, bool_and(published_at >= before) AS as_ids
  FROM (SELECT published_at, lag(published_at, 1, published_at) OVER (ORDER BY id) AS before FROM registry.rate_sets) s;
SELECT rate_set, string_agg(currency || ' ' || rate, ', ' ORDER BY currency) FROM _registry.rate_set_values
 GROUP BY 1 ORDER BY 1;

-- Rolled back, nothing of it is left but a gap.
BEGIN;
SELECT registry.set_rates('EUR', '{"USD": 3}', '2025-01-09') > 0 AS written;
SAVEPOINT s;
SELECT registry.set_rates('EUR', '{"USD": 4}', '2025-01-09') > 0 AS written;
SELECT registry.rate('EUR', 'USD', on_date => '2025-01-09') AS fourth;
ROLLBACK TO s;
SELECT registry.rate('EUR', 'USD', on_date => '2025-01-09') AS third, registry.rate('EUR', 'USD') AS now;
ROLLBACK;
SELECT max(id) AS last FROM registry.rate_sets;

-- 3. Which set: of the last date at or before the one asked for; of two of that date, the one that came last.
SELECT d AS on_date, (q).rate, (q).base, (q).value_date, (q).rate_set, (q).stale, (q).source
  FROM unnest('{2025-01-06, 2025-01-07, 2025-01-08, 2025-01-13, 2025-01-15, 2025-01-16, 2100-01-01, infinity}'::date[]) d,
       registry.quote('EUR', 'USD', on_date => d) q;
SELECT call, outcome('SELECT registry.' || call)
  FROM unnest(ARRAY[$$rate('EUR', 'USD', on_date => '2025-01-05')$$, $$rate('EUR', 'USD', on_date => '-infinity')$$,
                    $$rate('EUR', 'USD', on_date => '2025-01-05', missing_ok => true)$$,
                    $$convert(1, 'EUR', 'USD', on_date => '0044-03-15 BC')$$, $$quote('EUR', 'USD', on_date => '2025-01-05')$$,
                    $$quote('EUR', 'EUR', on_date => '2025-01-05')$$, $$rate('EUR', 'EUR', on_date => '2025-01-05')$$,
                    $$rate('EUR', 'GBP', on_date => '2025-01-08')$$, $$rate('EUR', 'GBP', on_date => '2025-01-08', missing_ok => true)$$,
                    $$quote('EUR', 'GBP', on_date => '2025-01-08')$$,
                    $$rate('EUR', 'usd', on_date => '2025-01-08')$$, $$rate('EUR', 'usd', on_date => '2025-01-05', missing_ok => true)$$,
                    $$rate(NULL, 'USD', on_date => '2025-01-05')$$, $$convert(NULL, 'EUR', 'USD', on_date => '2025-01-05')$$,
                    $$rate('EUR', 'USD', on_date => '2025-01-06', max_age => '1 hour')$$,
                    $$rate('EUR', 'USD', on_date => '2025-01-06', rates => 'other')$$,
                    $$rate('EUR', 'USD', on_date => '2025-01-32')$$]) call;
SELECT rate_set, base, count(*) FROM registry.rates GROUP BY 1, 2;
SELECT (registry.quote('EUR', 'USD')).rate_set;

-- F-1 and F-2 hold for them too: digit for digit out of the base, r_to / r_from with 18 digits otherwise.
CREATE FUNCTION rounded_quotient(r_to numeric, r_from numeric) RETURNS numeric LANGUAGE sql AS $$
	WITH exact AS (SELECT round(r_to, 120) / r_from AS q),
	     digits AS (SELECT q, trunc(q)::text AS whole, substr(q::text, strpos(q::text, '.') + 1) AS fraction FROM exact)
	SELECT trim_scale(round(q, 18 - CASE WHEN whole <> '0' THEN length(whole)
	                                     ELSE length(ltrim(fraction, '0')) - length(fraction) END)) FROM digits
$$;
BEGIN;
SELECT registry.set_rates('EUR', jsonb_object_agg('X' || chr(65 + i / 26) || chr(65 + i % 26),
	(1 + (i * 7919 % 99991) / 99991.0) * ('1e' || i % 41 - 20)::numeric), '2024-02-29') > 0 AS many FROM generate_series(0, 99) i;
SELECT registry.set_rates('EUR', '{"ONE": 1, "TIE": 1.000000000000000005, "LOW": 1.0000000000000000049999999999999999999,
	"HIG": 1.0000000000000000050000000000000000001, "NIN": 0.99999999999999999950, "NIL": 0.99999999999999999949999,
	"TEN": 9.99999999999999999500, "SML": 0.000123456789012345678500, "BIG": 123456789012345678500}', '2024-03-01') > 0 AS ties;
SELECT registry.set_rates('EUR', '{"USD": 1.5}') > 0 AS current;
SELECT s.value_date, count(*) AS pairs,
       count(*) FILTER (WHERE f.currency = 'EUR' AND registry.rate('EUR', t.currency, on_date => value_date)::text = t.rate::text) AS as_published,
       count(*) FILTER (WHERE f.currency <> 'EUR' AND registry.rate(f.currency, t.currency, on_date => value_date)::text
                              = rounded_quotient(t.rate, f.rate)::text) AS digit_for_digit,
       count(*) FILTER (WHERE registry.convert(3.7, f.currency, t.currency, on_date => value_date)
                              = 3.7 * registry.rate(f.currency, t.currency, on_date => value_date)) AS exact
  FROM registry.rate_sets s JOIN _registry.rate_set_values f ON f.rate_set = s.id JOIN _registry.rate_set_values t ON t.rate_set = s.id
 WHERE s.value_date IN ('2024-02-29', '2024-03-01') AND t.currency <> f.currency GROUP BY 1 ORDER BY 1;
ROLLBACK;

-- A query over many days, and the same in parallel workers.
BEGIN;
SELECT count(DISTINCT registry.set_rates('EUR', jsonb_build_object('USD', 1 + i / 1000.0), '2024-01-01'::date + i)) FROM generate_series(1, 300) i;
CREATE TEMP TABLE days AS SELECT '2024-01-01'::date + i AS day FROM generate_series(1, 300) i, generate_series(1, 5);
SELECT count(*), count(*) FILTER (WHERE registry.rate('EUR', 'USD', on_date => day) = 1 + (day - '2024-01-01') / 1000.0) AS right_rates FROM days;
COMMIT;
CREATE TABLE orders AS SELECT * FROM days;
SET parallel_setup_cost = 0; SET parallel_tuple_cost = 0; SET min_parallel_table_scan_size = 0; SET force_parallel_mode = on;
SELECT count(*) FILTER (WHERE registry.convert(1, 'EUR', 'USD', on_date => day) = 1 + (day - '2024-01-01') / 1000.0) AS right_rates FROM orders;
RESET parallel_setup_cost; RESET parallel_tuple_cost; RESET min_parallel_table_scan_size; RESET force_parallel_mode;
DROP TABLE orders;
WITH gone AS (DELETE FROM _registry.rate_sets WHERE value_date < '2025-01-01' RETURNING id)
DELETE FROM _registry.rate_set_values USING gone WHERE rate_set = id;
SELECT count(*) AS values_without_a_set FROM _registry.rate_set_values v WHERE NOT EXISTS (SELECT FROM registry.rate_sets WHERE id = v.rate_set);

-- Values without a set, as a restore may have for a moment and a DELETE leave for ever, are nobody's rates.
BEGIN;
CREATE TEMP TABLE before AS SELECT currency, rate, value_date, rate_set FROM registry.rates;
CREATE TEMP TABLE quotes AS SELECT d, registry.quote('EUR', 'USD', on_date => d::date) AS q FROM generate_series(timestamp '2025-01-06', timestamp '2025-02-01', '1 day') d;
INSERT INTO _registry.rate_set_values SELECT id, currency, 77 FROM unnest(ARRAY[-1, 0, (SELECT last_value + 1 FROM _registry.rate_sets_id_seq), 1000000]) id, unnest('{EUR,USD,XXX}'::text[]) currency;
SELECT count(*) AS other_rates FROM (TABLE before EXCEPT SELECT currency, rate, value_date, rate_set FROM registry.rates) r;
SELECT count(*) AS other_quotes FROM quotes WHERE registry.quote('EUR', 'USD', on_date => d::date) IS DISTINCT FROM q;
SELECT outcome('SELECT registry.rate(''EUR'', ''XXX'', on_date => ''2025-01-19'')') AS of_no_set;
SELECT outcome('SELECT registry.accept_rates(1000000)') AS accept, outcome('SELECT registry.withdraw_rates(1000000, ''no set'')') AS withdraw;
-- A set that gets such an id has its own values only.
SELECT registry.set_rates('EUR', '{"USD": 1.2345}', '2025-01-30') AS next_id \gset
SELECT currency, rate FROM _registry.rate_set_values WHERE rate_set = :next_id ORDER BY 1;
TRUNCATE _registry.rate_sets RESTART IDENTITY;
SELECT registry.set_rates('EUR', '{"USD": 2.3456}', '2025-01-31') AS first_id;
SELECT registry.rate('EUR', 'USD', on_date => '2025-01-31');
ROLLBACK;

-- What a transaction has set itself is read by its next command, from a call that has read before, too.
CREATE FUNCTION changing(OUT before numeric, OUT within numeric) LANGUAGE plpgsql AS $$
BEGIN
	FOR i IN 1 .. 2 LOOP
		within := registry.rate('EUR', 'USD', on_date => '2025-02-01');
		before := coalesce(before, within);
		PERFORM registry.set_rates('EUR', jsonb_build_object('USD', 7), '2025-02-01');
	END LOOP;
END $$;
BEGIN;
SELECT * FROM changing();
SELECT registry.rate('EUR', 'USD', on_date => '2025-02-01') AS after;
ROLLBACK;

-- 4. Quarantined: not read until somebody accepts it; then it is the newest, whatever its id.
INSERT INTO registry.rate_sets (source, base, value_date, fetched_at, body_hash, status, reason) VALUES
	('https://rates.example/', 'EUR', '2025-01-20', '2025-01-20 12:00+00', 'no hash', 'quarantined', 'the rate of USD changed from 1.2 to 2.4') RETURNING id \gset bad_
INSERT INTO _registry.rate_set_values VALUES (:bad_id, 'EUR', 1), (:bad_id, 'USD', 2.40), (:bad_id, 'GBP', 0.9);
SELECT registry.set_rates('EUR', '{"USD": 1.25, "CHF": 0.95}', '2025-01-19') AS good_id \gset
SELECT registry.rate('EUR', 'USD', on_date => '2025-01-20') AS not_read, registry.rate('EUR', 'USD') AS now;
SELECT registry.accept_rates(:bad_id);
SELECT registry.rate('EUR', 'USD', on_date => '2025-01-20') AS accepted, registry.rate('EUR', 'USD') AS now,
       (registry.quote('EUR', 'USD')).rate_set = :bad_id AS its_id, (registry.quote('EUR', 'CHF')).stale AS missing_there;
SELECT currency, rate, fetched_at = '2025-01-20 12:00+00' AS of_that_set, checked_at = '2025-01-20 12:00+00' AS checked, stale_reason, rate_set = :bad_id AS its_id, source FROM registry.rates ORDER BY 1;
SELECT status, published_at = (SELECT max(published_at) FROM registry.rate_sets) AS newest, reason FROM registry.rate_sets WHERE id = :bad_id;
SELECT outcome(format('SELECT registry.accept_rates(%s)', :bad_id)) LIKE '55000: rate set % is published already' AS twice;

-- 5. Withdrawn: the one before is read again, now and for that day, and nothing of the other is left.
SELECT registry.withdraw_rates(:bad_id, 'a typing error');
SELECT registry.rate('EUR', 'USD', on_date => '2025-01-20') AS on_date, registry.rate('EUR', 'USD') AS now,
       (registry.quote('EUR', 'USD')).rate_set = :good_id AS its_id;
SELECT currency, rate, stale_reason, source FROM registry.rates ORDER BY 1;
SELECT status, reason FROM registry.rate_sets WHERE id = :bad_id;
SELECT replace(outcome(format('SELECT registry.withdraw_rates(%s, %L)', :bad_id, 'again')), :bad_id::text, 'n') AS twice,
       replace(outcome(format('SELECT registry.accept_rates(%s)', :bad_id)), :bad_id::text, 'n') AS accepted;
-- One that is not the newest: only its day changes.
SELECT registry.withdraw_rates(id, 'old') FROM registry.rate_sets WHERE value_date = '2025-01-08' AND base = 'USD';
SELECT registry.rate('EUR', 'USD') AS now, registry.rate('EUR', 'USD', on_date => '2025-01-08') AS on_date;
-- In one transaction, and rolled back.
BEGIN;
SELECT registry.withdraw_rates(:good_id, 'for a moment');
SELECT registry.rate('EUR', 'USD') AS before;
SELECT registry.withdraw_rates(max(id), 'for a moment') FROM registry.rate_sets WHERE status = 'published' AND published_at =
	(SELECT max(published_at) FROM registry.rate_sets WHERE status = 'published');
SELECT registry.rate('EUR', 'USD') AS before_that;
ROLLBACK;
SELECT registry.rate('EUR', 'USD') AS now;
-- The last one of all: then there are no rates.
BEGIN;
SELECT count(registry.withdraw_rates(id, 'all')) FROM (SELECT id FROM registry.rate_sets WHERE status = 'published' ORDER BY published_at DESC) s;
SELECT count(*) AS rates FROM registry.rates;
SELECT split_part(outcome($$SELECT registry.rate('EUR', 'USD')$$), E'\n', 1) AS now,
       split_part(outcome($$SELECT registry.rate('EUR', 'USD', on_date => '2025-01-20')$$), E'\n', 1) AS on_date;
SELECT registry.set_rates('EUR', '{"USD": 1.25, "CHF": 0.95}', '2025-01-19') > :good_id AS written_again;
SELECT registry.rate('EUR', 'USD') AS now;
ROLLBACK;

-- 6. Silly input.
SELECT call, outcome('SELECT registry.' || call)
  FROM unnest(ARRAY['accept_rates(NULL)', 'accept_rates(0)', 'accept_rates(-1)', 'accept_rates(9223372036854775807)',
                    $$withdraw_rates(NULL, 'x')$$, 'withdraw_rates(1, NULL)', $$withdraw_rates(1, '')$$, $$withdraw_rates(1, '  ')$$,
                    $$withdraw_rates(0, 'x')$$, $$set_rates(NULL, '{"USD": 1}')$$, $$set_rates('EUR', NULL)$$]) call;
SELECT split_part(outcome(format('INSERT INTO registry.rate_sets (source, base, value_date, fetched_at, body_hash, status) VALUES (%L, %L, now(), now(), %L, %L)',
                      'x', base, '', status)), E'\n', 1) AS outcome FROM (VALUES ('eur', 'withdrawn'), ('EUR', 'new'), ('EUR', 'published'), (NULL, 'withdrawn')) v(base, status);
SELECT split_part(outcome(format('INSERT INTO _registry.rate_set_values VALUES (%s, %L, %L)', :good_id, currency, rate)), E'\n', 1) AS outcome
  FROM (VALUES ('GBP', '0'), ('GBP', '-1'), ('GBP', 'NaN'), ('GBP', 'Infinity'), ('gbp', '1'), ('USD', '1'), ('GBP', NULL)) v(currency, rate);
BEGIN READ ONLY;
SELECT registry.accept_rates(:bad_id);
ROLLBACK;
BEGIN READ ONLY;
SELECT registry.withdraw_rates(:good_id, 'no');
ROLLBACK;
SELECT registry.rate('EUR', 'USD') AS now, count(*) FILTER (WHERE status = 'published') AS published FROM registry.rate_sets;

-- 7. rates_on_stale and days without rates: a set of the 19th is not fresh for the 27th.
ALTER SYSTEM SET pg_registry.rates_on_stale = 'error';
SELECT pg_reload_conf();
\c -
SELECT outcome($$SELECT registry.rate('EUR', 'USD', on_date => '2025-01-26')$$) AS seven_days, outcome($$SELECT registry.rate('EUR', 'USD', on_date => '2025-01-27')$$) AS eight_days;
ALTER SYSTEM RESET pg_registry.rates_on_stale;
SELECT pg_reload_conf();
\c -

-- 8. The sets are the extension's: a new one has none, and what is published says so. Whoever may not read the tables
-- can read the rates; a hostile search_path changes nothing.
CREATE ROLE regress_registry_rates;
SET ROLE regress_registry_rates;
SELECT outcome('SELECT count(*) FROM registry.rate_sets') AS sets, registry.rate('EUR', 'USD', on_date => '2025-01-19') AS rate;
RESET ROLE;
GRANT EXECUTE ON FUNCTION registry.set_rates, registry.accept_rates, registry.withdraw_rates TO regress_registry_rates;
CREATE SCHEMA hostile;
GRANT USAGE, CREATE ON SCHEMA hostile TO regress_registry_rates;
SET ROLE regress_registry_rates;
CREATE FUNCTION hostile.equal(bigint, bigint) RETURNS boolean LANGUAGE plpgsql AS $$ BEGIN RAISE EXCEPTION 'called'; END $$;
CREATE OPERATOR hostile.= (LEFTARG = bigint, RIGHTARG = bigint, FUNCTION = hostile.equal);
CREATE FUNCTION hostile.unnest(text[]) RETURNS SETOF text LANGUAGE plpgsql AS $$ BEGIN RAISE EXCEPTION 'called'; END $$;
CREATE FUNCTION hostile.concat_ws(text, text, text) RETURNS text LANGUAGE plpgsql AS $$ BEGIN RAISE EXCEPTION 'called'; END $$;
SET search_path = hostile, pg_catalog;
SELECT registry.set_rates('EUR', '{"USD": 1.3}', '2025-01-21') AS own_id \gset
SELECT registry.withdraw_rates(:own_id, 'by its author');
SELECT registry.rate('EUR', 'USD');
RESET search_path;
RESET ROLE;
SELECT status, role, reason FROM registry.rate_sets WHERE id OPERATOR(pg_catalog.=) :own_id;
DROP SCHEMA hostile CASCADE;
DROP OWNED BY regress_registry_rates;
DROP ROLE regress_registry_rates;
DROP EXTENSION pg_registry CASCADE;
CREATE EXTENSION pg_registry;
SELECT outcome($$SELECT registry.rate('EUR', 'USD')$$) AS without_rates,
       split_part(outcome($$SELECT registry.rate('EUR', 'USD', on_date => '2025-01-19')$$), E'\n', 2) AS hint;
SELECT registry.set_rates('EUR', '{"USD": 1}', '2025-01-19') AS first;

DROP FUNCTION outcome, rounded_quotient, changing;
DROP EXTENSION pg_registry CASCADE;
