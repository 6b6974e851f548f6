-- When this fails, an amount is converted with a wrong rate, or a missing, stale or impossible rate is not noticed.
--
-- Only the last part commits a set of rates: until then the server has never had one.
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

-- What the outcome is under one call of each function that reads rates.
CREATE FUNCTION outcomes(from_currency text, to_currency text, OUT call text, OUT outcome text)
RETURNS SETOF record LANGUAGE sql AS $$
	SELECT f, outcome(format('SELECT ' || f, from_currency, to_currency))
	  FROM unnest(ARRAY['registry.rate(%L, %L)', 'registry.rate_float8(%L, %L)',
	                    'registry.convert(1, %L, %L)', '(registry.quote(%L, %L)).rate']) f
$$;

-- r_to / r_from, rounded once to 18 significant digits, half away from zero: divides with 120 decimals, counts
-- the digits in front, then rounds.
CREATE FUNCTION rounded_quotient(r_to numeric, r_from numeric) RETURNS numeric LANGUAGE sql AS $$
	WITH exact AS (SELECT round(r_to, 120) / r_from AS q),
	     digits AS (SELECT q, trunc(q)::text AS whole, substr(q::text, strpos(q::text, '.') + 1) AS fraction FROM exact)
	SELECT trim_scale(round(q, 18 - CASE WHEN whole <> '0' THEN length(whole)
	                                     ELSE length(ltrim(fraction, '0')) - length(fraction) END)) FROM digits
$$;

-- 1. Nothing configured: no rate, but one euro is one euro.
SELECT * FROM outcomes('EUR', 'USD');
SELECT outcome($$SELECT registry.rate('EUR', 'USD', missing_ok => true)$$);
SELECT registry.rate('EUR', 'EUR'), registry.rate_float8('EUR', 'EUR'),
       registry.convert(12.5, 'JPY', 'JPY'), registry.convert(12.345, 'EUR', 'EUR', scale => 2) AS scaled,
       registry.rate('XAU', 'XAU') AS gold;
SELECT outcome($$SELECT registry.rate('ABC', 'ABC')$$) AS no_iso_code;
SELECT count(*) AS rates FROM registry.rates;
SELECT name, value_type, keys, durable, owner, state, entries, stale FROM registry.registries;

-- 2. Configured, but nothing has been fetched yet: another error. Nobody listens on that port.
ALTER SYSTEM SET pg_registry.rates_url = 'http://127.0.0.1:1/';
SELECT pg_reload_conf();
\c -
SELECT call, split_part(outcome, E'\n', 1) AS outcome FROM outcomes('EUR', 'USD');
SELECT registry.rate('EUR', 'EUR');
ALTER SYSTEM RESET pg_registry.rates_url;
SELECT pg_reload_conf();
\c -
SELECT outcome($$SELECT registry.rate('EUR', 'USD')$$) LIKE '55000: no exchange rates are configured%' AS not_configured_again;

-- 3. Out of the base: the published text, digit for digit.
BEGIN;
SELECT registry.set_rates('EUR', '{"USD": 1.1000, "JPY": 183.27, "IDR": 19227.64, "KWD": 0.35640, "BTC": 0.00000123,
	"GBP": "0.87150", "TRY": 100, "AAA": 1e20, "AAB": 1e-20, "AAC": 1.0, "AAD": 12345678901234567890.12345678901234567890}');
SELECT currency, rate, base, value_date = current_date AS today, stale, stale_reason, rate_set, source
  FROM registry.rates ORDER BY currency COLLATE "C";
SELECT currency FROM registry.rates WHERE registry.rate('EUR', currency)::text <> rate::text;
SELECT currency FROM registry.rates WHERE registry.rate_float8('EUR', currency) <> rate::float8;
SELECT registry.rate('EUR', 'USD') AS usd, registry.rate('EUR', 'GBP') AS gbp, registry.rate('EUR', 'BTC') AS btc,
       registry.rate('EUR', 'AAB') AS aab, registry.rate('EUR', 'EUR') AS eur, registry.rate('USD', 'USD') AS same;

-- 4. Inverse and cross: r_to / r_from, rounded once to 18 significant digits, half away from zero.
SELECT rounded_quotient(1, 3) AS third, rounded_quotient(200, 3) AS two_thirds, rounded_quotient(1, 300) AS small,
       rounded_quotient(1e20, 1) AS large;
SELECT registry.rate('USD', 'EUR') AS inverse, registry.rate('USD', 'JPY') AS cross_rate,
       registry.rate('AAB', 'AAA') AS largest, registry.rate('AAA', 'AAB') AS smallest,
       registry.rate('TRY', 'EUR') AS exact_inverse, registry.rate('BTC', 'IDR') AS btc_idr;
SELECT count(*) AS pairs,
       count(*) FILTER (WHERE registry.rate(f.currency, t.currency)::text
                              = rounded_quotient(t.rate, f.rate)::text) AS digit_for_digit,
       count(*) FILTER (WHERE abs(registry.rate_float8(f.currency, t.currency)
                                  / (t.rate / f.rate::float8) - 1) < 1e-15) AS float8_near
  FROM registry.rates f, registry.rates t WHERE f.currency NOT IN ('EUR', t.currency);
ROLLBACK;

-- Ties, and what is just not one: the 19th digit decides, and the digits after it.
BEGIN;
SELECT registry.set_rates('EUR', '{"ONE": 1, "TIE": 1.000000000000000005, "LOW": 1.0000000000000000049999999999999999999,
	"HIG": 1.0000000000000000050000000000000000001, "NIN": 0.99999999999999999950, "NIL": 0.99999999999999999949999,
	"TEN": 9.99999999999999999500, "SML": 0.000123456789012345678500, "BIG": 123456789012345678500}');
SELECT currency, registry.rate('ONE', currency) FROM registry.rates ORDER BY currency COLLATE "C";
SELECT count(*) AS pairs,
       count(*) FILTER (WHERE registry.rate(f.currency, t.currency)::text
                              = rounded_quotient(t.rate, f.rate)::text) AS digit_for_digit
  FROM registry.rates f, registry.rates t WHERE f.currency NOT IN ('EUR', t.currency);
ROLLBACK;

-- Two hundred more, of every magnitude from 1e-20 to 1e20.
BEGIN;
SELECT registry.set_rates('EUR', jsonb_object_agg('X' || chr(65 + i / 26) || chr(65 + i % 26),
	(1 + (i * 7919 % 99991) / 99991.0) * ('1e' || i % 41 - 20)::numeric)) FROM generate_series(0, 199) i;
SELECT count(*) AS pairs,
       count(*) FILTER (WHERE registry.rate(f.currency, t.currency)::text
                              = rounded_quotient(t.rate, f.rate)::text) AS digit_for_digit
  FROM registry.rates f, registry.rates t WHERE f.currency NOT IN ('EUR', t.currency) AND t.currency < 'XBA';
ROLLBACK;

-- 5. convert() is the amount times the rate, exactly; with a scale, rounded half away from zero.
BEGIN;
SELECT registry.set_rates('EUR', '{"USD": 1.1000, "JPY": 183.27, "HLF": 0.5}', current_date - 1);
SELECT registry.convert(100, 'EUR', 'USD') AS out_of_base, registry.convert(100, 'USD', 'EUR') AS inverse,
       registry.convert(1e20, 'USD', 'JPY') AS cross_rate, registry.convert(0.001, 'EUR', 'JPY') AS small;
SELECT registry.convert(1.01, 'EUR', 'HLF') AS exact,
       registry.convert(1.01, 'EUR', 'HLF', 2) AS tie, registry.convert(-1.01, 'EUR', 'HLF', 2) AS negative_tie,
       registry.convert(1.03, 'EUR', 'HLF', scale => 2) AS odd_tie, registry.convert(1.009, 'EUR', 'HLF', 2) AS below,
       registry.convert(151, 'EUR', 'HLF', 0) AS no_decimals, registry.convert(1100, 'EUR', 'HLF', -2) AS hundreds,
       registry.convert(3, 'EUR', 'HLF', 4) AS padded, registry.convert(2.345, 'EUR', 'EUR', 2) AS same;
SELECT count(*) AS conversions,
       count(*) FILTER (WHERE registry.convert(a, f.currency, t.currency)
                              = a * registry.rate(f.currency, t.currency)) AS exact,
       count(*) FILTER (WHERE registry.convert(a, f.currency, t.currency, 2)
                              = round(a * registry.rate(f.currency, t.currency), 2)) AS rounded
  FROM registry.rates f, registry.rates t, (SELECT i * 0.37 AS a FROM generate_series(-50, 50) i) amounts;
SELECT registry.convert('NaN', 'EUR', 'USD') AS nan, registry.convert('-Infinity', 'USD', 'EUR') AS infinity;

-- NULL in, NULL out.
SELECT registry.rate(NULL, 'USD') AS a, registry.rate('EUR', NULL) AS b, registry.rate_float8(NULL, 'USD') AS c,
       registry.rate_float8('EUR', NULL) AS d, registry.convert(NULL, 'EUR', 'USD') AS e,
       registry.convert(1, NULL, 'USD') AS f, registry.convert(1, 'EUR', NULL) AS g, registry.quote(NULL, 'USD') AS h,
       registry.quote('EUR', NULL) AS i, registry.convert(NULL, 'EUR', 'no') AS j,
       registry.rate('EUR', 'USD', NULL, NULL, NULL) AS rate;

-- What is in an invoice.
SELECT (q).rate, (q).from_currency, (q).to_currency, (q).base, current_date - (q).value_date AS days, (q).source,
       (q).rate_set, (q).stale, (q).fetched_at BETWEEN now() AND clock_timestamp() AS just_now
  FROM registry.quote('USD', 'JPY') q;
SELECT currency, base, current_date - value_date AS days, fetched_at = checked_at AS one_time,
       fetched_at = (registry.quote('EUR', 'USD')).fetched_at AS as_quoted,
       age >= '0' AND age < '1 minute' AS new, stale, stale_reason, rate_set, source
  FROM registry.rates ORDER BY currency COLLATE "C";
SELECT entries, stale FROM registry.registries WHERE name = 'rates';

-- The registry "rates" can be read like any other.
SELECT registry.get_numeric('rates', 'USD') AS n, registry.get_float8('rates', 'USD') AS f, registry.get_text('rates', 'USD') AS t,
       registry.get('rates', 'USD') AS j, registry.get('rates', 'ABC') AS unknown, registry.entry_count('rates') AS entries,
       registry.registry_exists('rates');
SELECT key, value FROM registry.entries('rates') ORDER BY key COLLATE "C";

-- 6. Unknown and misspelt currencies, in each place.
SELECT * FROM outcomes('EUR', 'ABC');
SELECT * FROM outcomes('ABC', 'USD');
SELECT * FROM outcomes('eur', 'USD');
SELECT a AS "from", b AS "to", outcome(format('SELECT registry.rate(%L, %L)', a, b))
  FROM (VALUES ('EUR', 'usd'), ('Eur', 'USD'), ('EUR', 'US'), ('EUR', 'EURO'), ('', 'USD'), ('EUR', 'U D'), ('EUR', '€'),
               ('ABC', 'ABC'), ('GBP', 'GBP'), ('abc', 'abc')) t(a, b);
SELECT registry.rate('EUR', 'ABC', missing_ok => true) AS rate, registry.convert(1, 'ABC', 'EUR', missing_ok => true) AS convert,
       registry.rate('ABC', 'ABC', missing_ok => true) AS same;
SELECT outcome($$SELECT registry.rate('EUR', 'usd', missing_ok => true)$$) AS misspelt_is_not_missing;
SELECT length(outcome($$SELECT registry.rate_float8('EUR', repeat('x', 1000000))$$)) < 200 AS short_message;

-- 7. What comes later is refused, not ignored.
SELECT call, outcome('SELECT registry.' || call)
  FROM unnest(ARRAY[$$rate('EUR', 'USD', rates => 'other')$$, $$convert(1, 'EUR', 'USD', rates => 'other')$$,
                    $$quote('EUR', 'USD', rates => 'Rates')$$, $$set_rates('EUR', '{"USD": 1}', name => 'other')$$]) call;

-- 8. max_age: how old the last good answer may be, for this call.
SELECT registry.rate('EUR', 'USD', max_age => '1 hour') AS young, registry.convert(1, 'EUR', 'USD', max_age => '1 hour') AS young_too;
SELECT call, split_part(outcome('SELECT registry.' || call), E'\n', 1) AS outcome
  FROM unnest(ARRAY[$$rate('EUR', 'USD', max_age => '0')$$, $$convert(1, 'EUR', 'USD', max_age => '0')$$,
                    $$rate('EUR', 'USD', max_age => '0', missing_ok => true)$$,
                    $$convert(1, 'EUR', 'USD', max_age => '0', missing_ok => true)$$,
                    $$rate('EUR', 'EUR', max_age => '0')$$, $$rate('EUR', 'ABC', max_age => '0')$$,
                    $$rate('EUR', 'usd', max_age => '0', missing_ok => true)$$]) call;
ROLLBACK;

-- 9. A set replaces the one before. A currency that it lacks is kept and marked; with another base there is
-- nothing to keep, since the old numbers mean something else.
BEGIN;
SELECT registry.set_rates('EUR', '{"USD": 1.10, "GBP": 0.87, "JPY": 183}', current_date - 2);
SELECT registry.set_rates('EUR', '{"USD": 1.20, "JPY": 190}', current_date - 1);
SELECT currency, rate, stale, stale_reason FROM registry.rates ORDER BY currency COLLATE "C";
SELECT registry.rate('EUR', 'GBP') AS kept, (registry.quote('EUR', 'GBP')).stale AS kept_stale,
       (registry.quote('GBP', 'EUR')).stale AS from_stale, (registry.quote('EUR', 'USD')).stale AS fresh_stale;
SELECT registry.set_rates('EUR', '{"USD": 1.20, "GBP": 0.88, "JPY": 190}', current_date - 1);
SELECT currency, rate, stale, stale_reason FROM registry.rates ORDER BY currency COLLATE "C";
SELECT registry.set_rates('USD', '{"EUR": 0.80}', current_date - 1);
SELECT currency, rate, base, stale, stale_reason FROM registry.rates ORDER BY currency COLLATE "C";
SELECT registry.rate('USD', 'EUR') AS out_of_base, registry.rate('EUR', 'USD') AS inverse;
SELECT outcome($$SELECT registry.rate('USD', 'GBP')$$);
ROLLBACK;

-- The base may be in the set, as 1. One rate is a set; a date may lie far back, and then all of it is stale.
BEGIN;
SELECT registry.set_rates('CHF', '{"CHF": 1, "EUR": 1.05}', '2020-02-29');
SELECT currency, rate, base, value_date = '2020-02-29' AS leap_day, stale, stale_reason FROM registry.rates ORDER BY currency COLLATE "C";
SELECT (registry.quote('CHF', 'EUR')).stale, (registry.quote('CHF', 'CHF')).stale AS same,
       (SELECT stale FROM registry.registries WHERE name = 'rates') AS registry_stale;
ROLLBACK;

-- 10. A set that is wrong anywhere is refused as a whole, and the one before stays.
BEGIN;
SELECT registry.set_rates('EUR', '{"USD": 1.10}');
SELECT base, rates, outcome(format('SELECT registry.set_rates(%L, %L)', base, rates)) FROM (VALUES
	('EUR', '{"GBP": 1, "USD": 0}'), ('EUR', '{"GBP": 1, "USD": -1.1}'), ('EUR', '{"GBP": 1, "USD": "NaN"}'),
	('EUR', '{"GBP": 1, "USD": "Infinity"}'), ('EUR', '{"GBP": 1, "USD": "abc"}'), ('EUR', '{"GBP": 1, "USD": ""}'),
	('EUR', '{"GBP": 1, "USD": null}'), ('EUR', '{"GBP": 1, "USD": true}'), ('EUR', '{"GBP": 1, "USD": {}}'),
	('EUR', '{"GBP": 1, "USD": [1.1]}'), ('EUR', '{}'), ('EUR', '[]'), ('EUR', '[{"USD": 1.1}]'), ('EUR', '1.1'),
	('EUR', 'null'), ('EUR', '{"EUR": 1.1, "USD": 1.1}'), ('EUR', '{"usd": 1.1}'), ('EUR', '{"US": 1.1}'),
	('EUR', '{"": 1.1}'), ('EUR', '{"USDT": 1.1}'), ('eur', '{"USD": 1.1}'), ('', '{"USD": 1.1}'),
	('EURO', '{"USD": 1.1}'), (NULL, '{"USD": 1.1}'), ('EUR', NULL),
	('EUR', '{"GBP": 1, "USD": 1e-400}'), ('EUR', '{"GBP": 1, "USD": 1e400}')) t(base, rates);
SELECT call, outcome('SELECT registry.' || call)
  FROM unnest(ARRAY[$$set_rates('EUR', '{"USD": 1}', NULL)$$, $$set_rates('EUR', '{"USD": 1}', 'infinity')$$,
                    $$set_rates('EUR', '{"USD": 1}', '5874897-12-31')$$, $$set_rates('EUR', '{"USD": 1}', name => NULL)$$]) call;
SELECT outcome($$SELECT registry.set_rates('EUR', jsonb_object_agg(chr(65 + i / 676) || chr(65 + i / 26 % 26) || chr(65 + i % 26), 1.1))
                   FROM generate_series(0, 1024) i$$) AS too_many;
SELECT currency, rate FROM registry.rates ORDER BY currency COLLATE "C";
ROLLBACK;

-- 11. Setting rates is transactional: a test sets its own and rolls back.
BEGIN;
SELECT registry.set_rates('EUR', '{"USD": 1.10}');
SELECT registry.rate('EUR', 'USD') AS first;
SAVEPOINT s;
SELECT registry.set_rates('EUR', '{"USD": 1.20}');
SELECT registry.rate('EUR', 'USD') AS second;
ROLLBACK TO s;
SELECT registry.rate('EUR', 'USD') AS first_again;
ROLLBACK;
SELECT split_part(outcome($$SELECT registry.rate('EUR', 'USD')$$), E'\n', 1) AS none;
BEGIN READ ONLY;
SELECT registry.set_rates('EUR', '{"USD": 1.10}');
ROLLBACK;

-- 12. pg_registry.rates_on_stale: what a stale rate gives. Same answers for a whole stale set and for one
-- missing currency.
ALTER SYSTEM SET pg_registry.rates_on_stale = 'null';
SELECT pg_reload_conf();
\c -
BEGIN;
SELECT registry.set_rates('EUR', '{"USD": 1.10, "GBP": 0.87}', '2020-02-29');
SELECT * FROM outcomes('EUR', 'USD');
SELECT registry.rate('GBP', 'USD') IS NULL AS cross_rate, registry.rate('EUR', 'EUR') AS same, registry.rate('JPY', 'JPY') AS iso,
       registry.rate_float8('USD', 'USD') AS float8;
SELECT registry.set_rates('EUR', '{"USD": 1.20}', current_date - 1);
SELECT registry.rate('EUR', 'USD') AS fresh, registry.rate('EUR', 'GBP') IS NULL AS missing, registry.rate_float8('GBP', 'USD') IS NULL AS from_missing;
ROLLBACK;
ALTER SYSTEM SET pg_registry.rates_on_stale = 'error';
SELECT pg_reload_conf();
\c -
BEGIN;
SELECT registry.set_rates('EUR', '{"USD": 1.10, "GBP": 0.87}', '2020-02-29');
SELECT * FROM outcomes('EUR', 'USD');
SELECT outcome($$SELECT registry.rate('EUR', 'ABC')$$) AS unknown;
SELECT outcome($$SELECT registry.rate('EUR', 'EUR')$$) AS same, outcome($$SELECT registry.rate('JPY', 'JPY')$$) AS iso,
       outcome($$SELECT registry.rate_float8('EUR', 'EUR')$$) AS float8;
SELECT registry.set_rates('EUR', '{"USD": 1.20}', current_date - 1);
SELECT registry.rate('EUR', 'USD') AS fresh;
SELECT * FROM outcomes('GBP', 'USD');
SELECT outcome($$SELECT registry.rate('USD', 'GBP')$$);
ROLLBACK;
ALTER SYSTEM RESET pg_registry.rates_on_stale;
SELECT pg_reload_conf();
\c -

-- 13. Committed rates: the same answers, now from shared memory, for every row of a query.
SELECT registry.set_rates('EUR', '{"USD": 1.1000, "JPY": 183.27, "GBP": 0.87}', current_date - 1);
SELECT currency, rate, base, current_date - value_date AS days, stale, stale_reason, source FROM registry.rates ORDER BY currency COLLATE "C";
SELECT registry.rate('EUR', 'USD') AS usd, registry.rate('USD', 'EUR') AS inverse, registry.rate_float8('USD', 'JPY') AS cross_rate,
       registry.convert(100, 'EUR', 'JPY', 0) AS yen;
SELECT sum(registry.convert(1, f.currency, t.currency) - registry.rate(f.currency, t.currency)) AS difference,
       count(*) FILTER (WHERE registry.rate(f.currency, t.currency)
                              = CASE WHEN f.currency = t.currency THEN 1 WHEN f.currency = 'EUR' THEN t.rate
                                     ELSE rounded_quotient(t.rate, f.rate) END) AS right_rates
  FROM registry.rates f, registry.rates t, generate_series(1, 100);
SELECT currency, sum(amount) AS amount, sum(registry.convert(amount, currency, 'EUR', 2)) AS eur
  FROM (SELECT (ARRAY['EUR', 'USD', 'GBP'])[1 + i % 3] AS currency, i AS amount FROM generate_series(1, 300) i) orders
 GROUP BY currency ORDER BY currency COLLATE "C";

-- A change in a transaction is its own until it commits; rolled back, the committed ones are there again.
BEGIN;
SELECT registry.set_rates('EUR', '{"USD": 1.5}', current_date - 1);
SELECT registry.rate('EUR', 'USD') AS mine, (registry.quote('EUR', 'JPY')).stale AS missing;
ROLLBACK;
SELECT registry.rate('EUR', 'USD') AS committed, (registry.quote('EUR', 'JPY')).stale;
SELECT registry.set_rates('EUR', '{"USD": 1.25}', current_date - 1);
SELECT registry.rate('EUR', 'USD') AS usd, registry.rate('EUR', 'JPY') AS jpy, (registry.quote('EUR', 'JPY')).stale AS missing;

-- They belong to the extension: a re-created one has none.
DROP EXTENSION pg_registry CASCADE;
CREATE EXTENSION pg_registry;
SELECT count(*) AS rates FROM registry.rates;

DROP FUNCTION outcome, outcomes, rounded_quotient;
DROP EXTENSION pg_registry CASCADE;
