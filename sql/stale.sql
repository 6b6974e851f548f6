-- When this fails, an entry or a registry that has become too old is served or withheld at the wrong moment, or two reads of
-- one statement disagree about it.
\set SHOW_CONTEXT never
\set VERBOSITY terse
CREATE EXTENSION pg_registry;

CREATE FUNCTION outcome(expression text) RETURNS text LANGUAGE plpgsql AS $$
DECLARE result text;
BEGIN
	EXECUTE 'SELECT ' || expression INTO result;
	RETURN coalesce(result, 'null');
EXCEPTION WHEN OTHERS THEN
	RETURN regexp_replace(SQLSTATE || ': ' || SQLERRM, '[0-9a-f]{8}-[-0-9a-f]+', '...');
END $$;

-- 1. on_stale, in registries that have become stale by the next statement.
SELECT registry.create_registry('serve', 'bigint', max_age => '1 microsecond'),
       registry.create_registry('null', 'bigint', max_age => '1 microsecond', on_stale => 'null'),
       registry.create_registry('error', 'bigint', max_age => '1 microsecond', on_stale => 'error'),
       registry.create_registry('young', 'bigint', max_age => '1000 days', on_stale => 'error'),
       registry.create_registry('none', 'bigint', on_stale => 'error');
SELECT count(registry.put(r, k, 1)) FROM unnest(ARRAY['serve', 'null', 'error', 'young', 'none']) r, unnest(ARRAY['k', '5']) k;
CREATE FUNCTION reads(r text) RETURNS TABLE (read text, outcome text) LANGUAGE sql AS $_$
	SELECT read, outcome(replace(read, '$R', quote_literal(r)))
	  FROM unnest(ARRAY['registry.get($R, ''k'')', 'registry.get_text($R, ''k'')', 'registry.get_numeric($R, ''k'')', 'registry.get_float8($R, ''k'')',
	                    'registry.get_bigint($R, ''k'')', 'registry.get_bigint($R, 5)', 'registry.get_bigint($R, ''no'')', 'registry.get_bigint($R, '''')',
	                    'count(*) FROM registry.entries($R)', 'registry.entry_count($R)', 'count(*) FROM registry.get_many($R, ARRAY[''k'', ''5'', ''no''])',
	                    'registry.registry_exists($R)']) read
$_$;
SELECT read, a.outcome AS serve, b.outcome AS "null", d.outcome AS young, e.outcome AS "none"
  FROM reads('serve') a JOIN reads('null') b USING (read) JOIN reads('young') d USING (read) JOIN reads('none') e USING (read);
SELECT * FROM reads('error');
SELECT name, stale, entries, max_age, on_stale FROM registry.registries WHERE name <> 'rates' ORDER BY 1;
-- What the error says, but for the times in it.
DO $$
DECLARE detail text; hint text;
BEGIN
	PERFORM registry.get('error', 'k');
EXCEPTION WHEN OTHERS THEN
	GET STACKED DIAGNOSTICS detail = PG_EXCEPTION_DETAIL, hint = PG_EXCEPTION_HINT;
	RAISE NOTICE '% % % %', SQLSTATE, SQLERRM, regexp_replace(detail, '\d\d\d\d-.* is @.* old', '... is ... old'), hint;
END $$;
-- Each row of one statement, by a name that is no constant.
SELECT r, count(registry.get_bigint(r, 'k')), count(*) FROM unnest(ARRAY['serve', 'null', 'young', 'none']) r, generate_series(1, 3) GROUP BY 1 ORDER BY 1;

-- 2. Writers work on what is there; a change makes a registry young again, for the own transaction at once.
BEGIN;
SELECT registry.delete('null', '5') AS existed, registry.delete('error', 'no') AS no;
SELECT registry.get('null', 'k') AS k, registry.entry_count('null') AS entries, (SELECT count(*) FROM registry.entries('null')) AS rows,
       (SELECT stale FROM registry.registries WHERE name = 'null') AS "stale, by a microsecond"
  FROM (SELECT registry.alter_registry('null', '{"max_age": "1 h"}')) s;
SELECT registry.get('null', 'k') AS k, registry.entry_count('null') AS entries, (SELECT count(*) FROM registry.entries('null')) AS rows,
       (SELECT stale FROM registry.registries WHERE name = 'null') AS stale;
ROLLBACK;
SELECT registry.get('null', 'k') AS k;
-- A new max_age is no change of entries, but it is judged anew.
SELECT last_change AS before FROM registry.registries WHERE name = 'error' \gset
SELECT registry.alter_registry('error', '{"on_stale": "null"}');
SELECT last_change = :'before' AS same, stale FROM registry.registries WHERE name = 'error';
SELECT registry.get('error', 'k') AS withheld;
SELECT registry.alter_registry('error', '{"max_age": "1 h"}');
SELECT registry.get('error', 'k') AS served;
SELECT registry.alter_registry('error', '{"max_age": null, "on_stale": "error"}');
SELECT registry.get('error', 'k') AS served;
SELECT last_change = :'before' AS same, stale FROM registry.registries WHERE name = 'error';
SELECT registry.alter_registry('error', '{"max_age": "1 h"}'), registry.clear('error');
SELECT last_change > :'before' AS changed, stale FROM registry.registries WHERE name = 'error';

-- 3. ttl.
SELECT ttl, outcome(format('registry.put(''none'', ''ttl'', 1, %L)', ttl))
  FROM unnest(ARRAY['1 month', '1 year', '0', '-1 s', '1 day -24 h', '1 month -40 days', 'infinity', '200000 years', '178000000 years', '2147483647 days', NULL]) ttl;
SELECT expires_at FROM registry.entries('none') WHERE key = 'ttl';
SELECT registry.put('none', 'month', 1, '1 month');
SELECT expires_at = updated_at + interval '1 month' AS a_month FROM registry.entries('none') WHERE key = 'month';

-- 4. What ends while a statement runs stays until the statement's end: for loops, parallel workers and cursors.
CREATE TABLE deadline (ends timestamptz);
CREATE FUNCTION ended() RETURNS boolean LANGUAGE sql VOLATILE PARALLEL SAFE AS
	$$ SELECT clock_timestamp() > (SELECT ends FROM deadline) $$;
CREATE FUNCTION all_reads() RETURNS text LANGUAGE sql STABLE PARALLEL SAFE AS $$
	SELECT concat_ws(' ', registry.get('ttl', 'k'), registry.get_bigint('ttl', 5), registry.entry_count('ttl'), (SELECT count(*) FROM registry.entries('ttl')),
	                 (SELECT count(*) FROM registry.get_many('ttl', ARRAY['k', '5'])),
	                 registry.get('age', 'k'), registry.get_bigint('age', 5), registry.entry_count('age'), (SELECT count(*) FROM registry.entries('age')),
	                 (SELECT count(*) FROM registry.get_many('age', ARRAY['k', '5']))) $$;
CREATE FUNCTION before_and_after() RETURNS text LANGUAGE plpgsql STABLE PARALLEL SAFE AS $$
DECLARE before text := all_reads();
BEGIN
	LOOP
		EXIT WHEN ended();
	END LOOP;
	RETURN before || ', then ' || all_reads();
END $$;
CREATE FUNCTION who() RETURNS int LANGUAGE internal VOLATILE PARALLEL SAFE AS 'pg_backend_pid';
SELECT registry.create_registry('ttl', 'bigint'), registry.create_registry('age', 'bigint', max_age => '2 s', on_stale => 'null');
CREATE PROCEDURE fill() LANGUAGE plpgsql AS $$
BEGIN
	PERFORM registry.put('ttl', k, 1, '2 s'), registry.put('age', k, 1) FROM unnest(ARRAY['k', '5']) k;
	DELETE FROM deadline;
	INSERT INTO deadline VALUES (now() + interval '2.1 s');
END $$;
CALL fill();
BEGIN;
DECLARE c CURSOR FOR SELECT all_reads() FROM generate_series(1, 2);
FETCH 1 FROM c;
SELECT before_and_after();
FETCH 1 FROM c;
SELECT all_reads() AS a_new_statement;
COMMIT;
CALL fill();
SELECT pg_backend_pid() AS leader \gset
SET force_parallel_mode = on;
SELECT pid <> :leader AS in_a_worker, reads FROM (SELECT who() AS pid, before_and_after() AS reads) s;
SELECT pid <> :leader AS in_a_worker, reads FROM (SELECT who() AS pid, all_reads() AS reads) s;
RESET force_parallel_mode;
CALL fill();
BEGIN ISOLATION LEVEL REPEATABLE READ;
SELECT before_and_after();
SELECT all_reads() AS the_same_transaction;
COMMIT;
SELECT all_reads();
-- One's own: judged at the pin, too, which comes before what the statement itself puts.
SELECT registry.put('ttl', 'k', 2, '1 microsecond');
SELECT registry.get('ttl', 'k'), registry.entry_count('ttl');
SELECT registry.put('ttl', 'k', 3);
SELECT registry.get('ttl', 'k'), registry.entry_count('ttl');

DROP EXTENSION pg_registry CASCADE;
DROP FUNCTION outcome, reads, before_and_after, all_reads, ended, who;
DROP PROCEDURE fill;
DROP TABLE deadline;
