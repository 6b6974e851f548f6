-- When this fails, amounts are rounded to the wrong number of decimals, or a half cent goes the wrong way.
\set SHOW_CONTEXT never
CREATE EXTENSION pg_registry;

CREATE FUNCTION pg_temp.outcome(query text) RETURNS text LANGUAGE plpgsql AS $$
DECLARE result text; hint text;
BEGIN
	EXECUTE query INTO result;
	RETURN coalesce(result, 'null');
EXCEPTION WHEN OTHERS THEN
	GET STACKED DIAGNOSTICS hint = PG_EXCEPTION_HINT;
	RETURN SQLSTATE || ': ' || SQLERRM || coalesce(E'\n' || nullif(hint, ''), '');
END $$;

-- Every code of three letters: how many are known, and all that do not have two decimals.
CREATE TEMP TABLE codes AS
SELECT code, pg_temp.outcome(format('SELECT registry.minor_units(%L)', code)) AS units
  FROM (SELECT chr(a) || chr(b) || chr(c) AS code
          FROM generate_series(65, 90) a, generate_series(65, 90) b, generate_series(65, 90) c) letters;

SELECT CASE WHEN units LIKE '22023:%' THEN 'unknown' ELSE units END AS minor_units, count(*) AS codes
  FROM codes GROUP BY 1 ORDER BY 1;
SELECT units AS minor_units, string_agg(code, ' ' ORDER BY code) AS codes
  FROM codes WHERE units IN ('0', '3', '4', 'null') GROUP BY 1 ORDER BY 1;

-- Those that most amounts are in.
SELECT string_agg(code, ' ' ORDER BY code) AS codes FROM codes
 WHERE units = '2' AND code IN ('EUR', 'USD', 'GBP', 'CHF', 'CNY', 'INR', 'BRL', 'AUD', 'CAD', 'SEK',
                                'NOK', 'DKK', 'PLN', 'CZK', 'HUF', 'RON', 'MXN', 'ZAR', 'TRY', 'IDR');

-- What is no currency code.
SELECT code, pg_temp.outcome(format('SELECT registry.minor_units(%L)', code))
  FROM unnest(ARRAY['ABC', 'eur', 'EU', 'EURO', '', 'EU ', '€', NULL]) code;
SELECT length(pg_temp.outcome($$SELECT registry.minor_units(repeat('E', 1000000))$$)) < 200 AS short_message;

-- Each mode at ties, around ties, on both sides of zero, for 0, 2, 3 and 4 decimals.
SELECT currency, amount,
       registry.round_money(amount, currency) AS by_default,
       registry.round_money(amount, currency, 'half_up') AS half_up,
       registry.round_money(amount, currency, 'half_even') AS half_even,
       registry.round_money(amount, currency, 'up') AS up,
       registry.round_money(amount, currency, 'down') AS down
  FROM (VALUES
	('JPY', 0.5), ('JPY', 1.5), ('JPY', 2.5), ('JPY', -0.5), ('JPY', -1.5), ('JPY', -2.5),
	('JPY', 2.4999999999999999999999999), ('JPY', 2.5000000000000000000000001), ('JPY', 1234567),
	('EUR', 0.005), ('EUR', 0.015), ('EUR', 1.125), ('EUR', 1.135), ('EUR', -0.005), ('EUR', -1.125),
	('EUR', 1.1), ('EUR', 1.10), ('EUR', 1.109999), ('EUR', 1.110001), ('EUR', 0), ('EUR', -0.001),
	('EUR', 99999999999999999999999999.995), ('EUR', 0.00000000000000000000000001),
	('KWD', 1.0005), ('KWD', 1.0015), ('KWD', -1.0005),
	('CLF', 1.00005), ('CLF', 1.00015), ('CLF', -1.00025)) t(currency, amount);

SELECT registry.round_money('NaN', 'EUR') AS nan, registry.round_money('Infinity', 'JPY') AS infinity,
       registry.round_money('-Infinity', 'JPY', 'down') AS minus_infinity;

-- half_up is PostgreSQL's round(), down its trunc(), for any amount.
SELECT count(*) AS amounts,
       count(*) FILTER (WHERE registry.round_money(amount, 'EUR') = round(amount, 2)) AS half_up,
       count(*) FILTER (WHERE registry.round_money(amount, 'EUR', 'down') = trunc(amount, 2)) AS down,
       count(*) FILTER (WHERE registry.round_money(amount, 'EUR', 'up')
                            = sign(amount) * ceil(abs(amount) * 100) / 100) AS up,
       count(*) FILTER (WHERE abs(registry.round_money(amount, 'EUR', 'half_even') - amount) <= 0.005
                          AND (abs(amount * 1000) % 10 <> 5
                               OR registry.round_money(amount, 'EUR', 'half_even') * 100 % 2 = 0)) AS half_even
  FROM (SELECT i / 1000.0 AS amount FROM generate_series(-3000, 3000) i) a;

SELECT query, pg_temp.outcome('SELECT registry.round_money(' || query || ')')
  FROM unnest(ARRAY[$$1.5, 'EUR', 'ceiling'$$, $$1.5, 'EUR', ''$$, $$'NaN', 'EUR', 'ceiling'$$,
                    $$1.5, 'eur'$$, $$1.5, 'ABC'$$, $$1.5, 'XAU'$$,
                    $$NULL, 'EUR'$$, $$1.5, NULL$$, $$1.5, 'EUR', NULL$$]) query;

DROP EXTENSION pg_registry CASCADE;
