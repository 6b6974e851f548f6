-- When this fails, a typing error in the configuration takes effect, or a right setting is refused.
--
-- ALTER SYSTEM checks a value as a reload does. What it refuses is not written to the file.
\set SHOW_CONTEXT never
CREATE EXTENSION pg_registry;

-- What is in the file.
CREATE VIEW written AS
	SELECT name, setting FROM pg_file_settings WHERE name LIKE 'pg\_registry.%' AND sourcefile LIKE '%auto.conf';

-- 1. URLs. The error, which also goes to the server's log, does not repeat the value: it may hold a password or a key.
ALTER SYSTEM SET pg_registry.rates_url = 'api.frankfurter.dev/v1/latest';
ALTER SYSTEM SET pg_registry.rates_url = 'htps://example.com/rates?app_id=0123456789';
ALTER SYSTEM SET pg_registry.rates_url = 'ftp://example.com/rates';
ALTER SYSTEM SET pg_registry.rates_url = 'file:///etc/passwd';
ALTER SYSTEM SET pg_registry.rates_url = 'https:';
ALTER SYSTEM SET pg_registry.rates_url = 'https://';
ALTER SYSTEM SET pg_registry.rates_url = 'https:///latest';
ALTER SYSTEM SET pg_registry.rates_url = 'https://:8080/latest';
ALTER SYSTEM SET pg_registry.rates_url = 'https://[::1/latest';
ALTER SYSTEM SET pg_registry.rates_url = 'https://example.com/a b';
ALTER SYSTEM SET pg_registry.rates_url = ' https://example.com/';
ALTER SYSTEM SET pg_registry.rates_url = E'https://example.com/\nHost: other';
ALTER SYSTEM SET pg_registry.rates_url = 'https://exämple.com/';
ALTER SYSTEM SET pg_registry.rates_url = 'https://user:password@example.com/';
ALTER SYSTEM SET pg_registry.rates_url = 'https://user@example.com/';
ALTER SYSTEM SET pg_registry.rates_url = 'https://example.com\@example.org/';
-- Plain http goes to this machine only, however the address is dressed up.
ALTER SYSTEM SET pg_registry.rates_url = 'http://example.com/';
ALTER SYSTEM SET pg_registry.rates_url = 'http://10.0.0.1/';
ALTER SYSTEM SET pg_registry.rates_url = 'http://127.0.0.1.example.com/';
ALTER SYSTEM SET pg_registry.rates_url = 'http://localhost.example.com/';
ALTER SYSTEM SET pg_registry.rates_url = 'http://localhost@example.com/';
ALTER SYSTEM SET pg_registry.rates_url = 'http://[::2]/';
ALTER SYSTEM SET pg_registry.rates_url = 'http://0/';
ALTER SYSTEM SET pg_registry.rates_url = 'http://127./';
ALTER SYSTEM SET pg_registry.rates_url = 'http://[::1]example.com/';
ALTER SYSTEM SET pg_registry.rates_url = 'https://example.com:/';
ALTER SYSTEM SET pg_registry.rates_url = 'http://127.0.0.1:port/';
ALTER SYSTEM SET pg_registry.rates_url = 'https://example.com:99999/';
SELECT * FROM written;
-- These are fine. Nothing is fetched: the file is not read again before the next one is written.
ALTER SYSTEM SET pg_registry.rates_url = 'https://api.frankfurter.dev/v1/latest?base=EUR&symbols=USD,GBP';
ALTER SYSTEM SET pg_registry.rates_url = 'HTTPS://Example.com:8443/a/b#c';
ALTER SYSTEM SET pg_registry.rates_url = 'http://127.0.0.1:8080/rates';
ALTER SYSTEM SET pg_registry.rates_url = 'http://localhost/rates@home';
ALTER SYSTEM SET pg_registry.rates_url = 'http://[::1]:8080/';
ALTER SYSTEM SET pg_registry.rates_url = '';
SELECT * FROM written;
ALTER SYSTEM RESET pg_registry.rates_url;

-- 2. Currency lists.
ALTER SYSTEM SET pg_registry.rates_currencies = 'EUR;USD';
ALTER SYSTEM SET pg_registry.rates_currencies = 'EUR USD';
ALTER SYSTEM SET pg_registry.rates_currencies = 'EUR,,USD';
ALTER SYSTEM SET pg_registry.rates_currencies = ',EUR';
ALTER SYSTEM SET pg_registry.rates_currencies = 'EUR,';
ALTER SYSTEM SET pg_registry.rates_currencies = 'EUR,usd';
ALTER SYSTEM SET pg_registry.rates_currencies = 'EURO';
ALTER SYSTEM SET pg_registry.rates_currencies = 'EU';
ALTER SYSTEM SET pg_registry.rates_currencies = 'E1R';
ALTER SYSTEM SET pg_registry.rates_currencies = '*';
SELECT * FROM written;
ALTER SYSTEM SET pg_registry.rates_currencies = ' ';
ALTER SYSTEM SET pg_registry.rates_currencies = 'EUR';
ALTER SYSTEM SET pg_registry.rates_currencies = ' EUR , USD,GBP ';
SELECT * FROM written;
ALTER SYSTEM RESET pg_registry.rates_currencies;

-- 3. Times, numbers and words.
ALTER SYSTEM SET pg_registry.rates_interval = '0';
ALTER SYSTEM SET pg_registry.rates_interval = '-1 h';
ALTER SYSTEM SET pg_registry.rates_interval = '1 month';
ALTER SYSTEM SET pg_registry.rates_interval = '1 hour';
ALTER SYSTEM SET pg_registry.rates_interval = 'hourly';
ALTER SYSTEM SET pg_registry.rates_interval = '8 d';
ALTER SYSTEM SET pg_registry.rates_interval = '100 ms';
ALTER SYSTEM SET pg_registry.rates_timeout = '1 ms';
ALTER SYSTEM SET pg_registry.rates_timeout = '1 h';
ALTER SYSTEM SET pg_registry.rates_max_change = '-1';
ALTER SYSTEM SET pg_registry.rates_max_change = '50 %';
ALTER SYSTEM SET pg_registry.rates_max_age = '-1';
ALTER SYSTEM SET pg_registry.rates_max_value_age = 'never';
ALTER SYSTEM SET pg_registry.rates_on_stale = 'ignore';
ALTER SYSTEM SET pg_registry.rates_format = 'csv';
ALTER SYSTEM SET pg_registry.refresh_on = 'standby';
ALTER SYSTEM SET pg_registry.rates_honor_cache = 'perhaps';
ALTER SYSTEM SET pg_registry.log_min_level = 'loud';
ALTER SYSTEM SET pg_registry.log_ring_slots = '1';
ALTER SYSTEM SET pg_registry.shared_memory = '100 kB';
SELECT * FROM written;
ALTER SYSTEM SET pg_registry.rates_interval = '1 s';
ALTER SYSTEM SET pg_registry.rates_interval = '90 min';
ALTER SYSTEM SET pg_registry.rates_max_change = 0;
ALTER SYSTEM SET pg_registry.rates_max_age = 0;
ALTER SYSTEM SET pg_registry.rates_max_value_age = '30 d';
SELECT * FROM written ORDER BY name COLLATE "C";
ALTER SYSTEM RESET pg_registry.rates_interval;
ALTER SYSTEM RESET pg_registry.rates_max_change;
ALTER SYSTEM RESET pg_registry.rates_max_age;
ALTER SYSTEM RESET pg_registry.rates_max_value_age;

-- What may be sent: the switch can be used from SQL, the list of hosts is in the files.
ALTER SYSTEM SET pg_registry.outbound = 'never';
ALTER SYSTEM SET pg_registry.armed_hosts = '*';
ALTER SYSTEM SET pg_registry.outbound = off;
SELECT * FROM written;
ALTER SYSTEM RESET pg_registry.outbound;

-- 4. No session and no ordinary role changes any of them.
SET pg_registry.rates_url = 'https://example.com/';
SET pg_registry.rates_on_stale = 'null';
SET pg_registry.outbound = on;
SET pg_registry.armed_hosts = '*';
SET pg_registry.shared_memory = '1 GB';
ALTER ROLE CURRENT_USER SET pg_registry.rates_max_age = '1 s';
CREATE ROLE regress_registry_nobody;
SET ROLE regress_registry_nobody;
ALTER SYSTEM SET pg_registry.rates_url = 'https://example.com/';
SHOW pg_registry.rates_url;
SHOW pg_registry.armed_hosts;
SHOW pg_registry.log_min_level;
SHOW pg_registry.rates_on_stale;
RESET ROLE;
DROP ROLE regress_registry_nobody;

-- 5. A reload takes over what is right; the value in force is seen by the next connection.
ALTER SYSTEM SET pg_registry.rates_max_value_age = '45 min';
SELECT pg_reload_conf();
\c -
SHOW pg_registry.rates_max_value_age;
ALTER SYSTEM RESET pg_registry.rates_max_value_age;
SELECT pg_reload_conf();
\c -
SHOW pg_registry.rates_max_value_age;
SELECT count(*) AS left_over FROM written;

DROP VIEW written;
DROP EXTENSION pg_registry CASCADE;
