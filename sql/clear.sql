-- When this fails, clear() or a replacing put_many() leaves an entry behind, takes one too many, or shows its work to
-- the wrong statement.
\set SHOW_CONTEXT never
CREATE EXTENSION pg_registry;
SELECT registry.create_registry('r', 'bigint');
SELECT registry.create_registry('other', 'bigint');
SELECT registry.put('other', 'k', 1);

-- The entries as a later command of this transaction sees them.
CREATE VIEW seen AS SELECT string_agg(key || '=' || value, ' ' ORDER BY key COLLATE "C") AS entries, count(*) AS n, registry.entry_count('r') AS entry_count
  FROM registry.entries('r');

-- 1. How many entries were changed: all that were put, and those that went.
SELECT registry.put_many('r', '{"a": 1, "b": 2, "a": 3}') AS "2, the last a wins";
SELECT registry.put_many('r', '{"b": 4, "c": 5}', replace => true) AS "b and c put, a gone";
SELECT * FROM seen;
SELECT registry.put_many('r', '{}') AS nothing, registry.put_many('r', '{}', replace => true) AS both_gone;
SELECT * FROM seen;
SELECT registry.clear('r') AS of_nothing, registry.put_many('r', '{"d": 6}', true) AS one;
SELECT registry.clear('r') AS one, registry.clear('r') AS again_in_the_same_statement;
SELECT registry.put('r', 'old', 1, '1 microsecond'), registry.put('r', 'k', 2);
SELECT registry.clear('r') AS one_has_not_expired;

-- 2. In its own transaction: later commands see it, and what is put after it; rollbacks take it back.
SELECT registry.put_many('r', '{"a": 1, "b": 2}');
BEGIN;
SELECT registry.put('r', 'c', 3);
SELECT registry.clear('r') AS three, (SELECT n FROM seen) AS seen_by_the_same_command;
SELECT *, registry.get('r', 'a') AS a, registry.get_bigint('r', 'c') AS c FROM seen;
SELECT registry.put('r', 'b', 20), registry.delete('r', 'a') AS a_existed;
SELECT * FROM seen;
SAVEPOINT s;
SELECT registry.put_many('r', '{"x": 9}', true) AS "x put, b gone";
SELECT * FROM seen;
SELECT name, entries FROM registry.registries WHERE name <> 'rates' ORDER BY 1;
ROLLBACK TO s;
SELECT * FROM seen;
SAVEPOINT s;
SELECT registry.clear('r');
RELEASE s;
SELECT * FROM seen;
ROLLBACK;
SELECT * FROM seen;
BEGIN;
SELECT registry.clear('r');
SELECT registry.put('r', 'b', 30);
COMMIT;
SELECT *, registry.get('other', 'k') AS other FROM seen;
-- A registry that the transaction itself has created, or drops.
BEGIN;
SELECT registry.create_registry('own'), registry.put('other', 'k2', 2);
SELECT registry.put_many('own', '{"a": 1, "b": 2}'), registry.clear('other');
SELECT registry.put_many('own', '{"b": 3}', true) AS "b put, a gone";
SELECT registry.entry_count('own'), registry.get('own', 'b'), registry.entry_count('other');
SELECT registry.drop_registry('other');
COMMIT;
SELECT registry.entry_count('own'), registry.get('own', 'b'), registry.registry_exists('other');

-- 3. A failed replacement changes nothing.
SELECT registry.put_many('r', '{"y": 1, "z": "one"}', replace => true);
SELECT registry.put_many('r', '{"y": 1, "": 2}', replace => true);
SELECT registry.put_many('r', '[1]', replace => true);
SELECT * FROM seen;

-- 4. Parallel workers of the transaction read through it.
CREATE TABLE big AS SELECT g FROM generate_series(1, 1000) g;
CREATE FUNCTION who() RETURNS int LANGUAGE internal VOLATILE PARALLEL SAFE AS 'pg_backend_pid';
ANALYZE big;
SELECT pg_backend_pid() AS leader \gset
SET force_parallel_mode = on; SET parallel_leader_participation = off;
BEGIN;
SELECT registry.clear('r');
SELECT registry.put('r', 'new', 7);
SELECT pid <> :leader AS in_a_worker, min(new) AS new, count(b) AS b, max(n) AS entry_count
  FROM (SELECT who() AS pid, registry.get_bigint('r', 'new' || left('', g)) AS new, registry.get_bigint('r', 'b' || left('', g)) AS b,
               registry.entry_count('r') AS n FROM big) s GROUP BY pid;
ROLLBACK;
RESET force_parallel_mode;

-- 5. Half of the memory in one registry: there is no room for a copy, but emptying needs none.
SELECT registry.drop_registry('own'), registry.create_registry('large', 'text', durable => false);
\set VERBOSITY sqlstate
DO $$
DECLARE n int := 0;
BEGIN
	LOOP
		n := n + 1;
		PERFORM registry.put('large', n::text, repeat('x', 1000000));
		COMMIT;
	END LOOP;
END $$;
SELECT entries > 10 AS many, bytes > 10000000 AS much FROM registry.registries WHERE name = 'large';
SELECT registry.clear('large') > 10 AS cleared;
SELECT entries, bytes < 10000 AS little FROM registry.registries WHERE name = 'large';
SELECT registry.put('large', 'x', repeat('x', 5000000));

DROP EXTENSION pg_registry CASCADE;
DROP TABLE big;
DROP FUNCTION who;
