-- When this fails, a change that was rolled back is visible, or one that was committed is lost or half visible.
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
-- All of a registry in one line.
CREATE FUNCTION contents(name text) RETURNS text LANGUAGE sql STABLE AS $$
	SELECT coalesce(string_agg(key || '=' || value, ' ' ORDER BY key COLLATE "C"), 'empty')
	       || CASE WHEN count(*) <> registry.entry_count(name) THEN ' BUT entry_count ' || registry.entry_count(name) ELSE '' END
	  FROM registry.entries(name)
$$;

SELECT registry.create_registry('r');
SELECT registry.put_many('r', '{"a": 1, "b": 2, "c": 3}');

-- 1. A rollback changes nothing, a commit everything.
BEGIN;
SELECT registry.put('r', 'a', 10), registry.put('r', 'new', 11);
SELECT registry.delete('r', 'b');
SELECT contents('r');
ROLLBACK;
SELECT contents('r');
BEGIN;
SELECT registry.put('r', 'a', 10), registry.put('r', 'new', 11);
SELECT registry.delete('r', 'b');
COMMIT;
SELECT contents('r');
-- An error is a rollback.
BEGIN;
SELECT registry.put('r', 'a', 12);
SELECT registry.put('r', 'a', 'no json');
COMMIT;
SELECT contents('r');
SELECT registry.put('r', 'a', 13), 1 / (registry.put('r', 'c', 13) IS NULL)::int;
SELECT contents('r');

-- 2. Savepoints: what is rolled back to one is gone, what is released stays.
BEGIN;
SELECT registry.put('r', 'a', 20);
SAVEPOINT one;
SELECT registry.put('r', 'a', 21), registry.put('r', 'one', 21);
SELECT registry.delete('r', 'c');
SAVEPOINT two;
SELECT registry.put('r', 'a', 22), registry.put('r', 'c', 22);
SELECT contents('r') AS in_two;
ROLLBACK TO two;
SELECT contents('r') AS after_two;
SELECT registry.put('r', 'two', 23);
RELEASE two;
SELECT contents('r') AS two_released;
ROLLBACK TO one;
SELECT contents('r') AS after_one;
SAVEPOINT three;
SELECT registry.put('r', 'three', 24);
RELEASE three;
COMMIT;
SELECT contents('r');
-- Released into one that is rolled back.
BEGIN;
SAVEPOINT outer_one;
SAVEPOINT inner_one;
SELECT registry.put('r', 'inner', 1);
RELEASE inner_one;
ROLLBACK TO outer_one;
SELECT contents('r');
COMMIT;
-- Many of them, some rolled back, and one key put in each.
BEGIN;
DO $$
BEGIN
	FOR i IN 1 .. 200 LOOP
		BEGIN
			PERFORM registry.put('r', 'loop', i), registry.put('r', 'key' || i, i);
			IF i % 3 = 0 THEN
				RAISE division_by_zero;
			END IF;
		EXCEPTION WHEN division_by_zero THEN
			NULL;
		END;
	END LOOP;
END $$;
SELECT registry.get('r', 'loop') AS loop, registry.get('r', 'key199') AS kept, registry.get('r', 'key198') AS rolled_back, registry.entry_count('r');
COMMIT;
SELECT registry.get('r', 'loop') AS loop, registry.get('r', 'key199') AS kept, registry.get('r', 'key198') AS rolled_back, registry.entry_count('r');
SELECT count(registry.delete('r', key)) FROM registry.entries('r') WHERE key LIKE 'key%' OR key = 'loop';

-- Exception blocks inside exception blocks.
DO $$
BEGIN
	PERFORM registry.put('r', 'a', 30);
	BEGIN
		PERFORM registry.put('r', 'a', 31), registry.put('r', 'x', 31);
		BEGIN
			PERFORM registry.put('r', 'a', 32), registry.delete('r', 'c');
			RAISE EXCEPTION 'inner';
		EXCEPTION WHEN raise_exception THEN
			RAISE NOTICE 'after the inner one: a = %, c = %, x = %', registry.get('r', 'a'), registry.get('r', 'c'), registry.get('r', 'x');
			PERFORM registry.put('r', 'x', 33);
		END;
		RAISE EXCEPTION 'outer';
	EXCEPTION WHEN raise_exception THEN
		RAISE NOTICE 'after the outer one: a = %, c = %, x = %', registry.get('r', 'a'), registry.get('r', 'c'), registry.get('r', 'x');
	END;
END $$;
SELECT contents('r');

-- 3. A command sees what earlier commands of its transaction changed, not what it changes itself, as with rows.
BEGIN;
SELECT registry.put('r', 'a', 40), registry.get('r', 'a') AS before;
SELECT registry.get('r', 'a') AS after;
SELECT i, registry.put('r', 'a', 40 + i), registry.get('r', 'a') FROM generate_series(1, 3) i;
SELECT registry.get('r', 'a');
-- delete() looks at what its own command has done so far.
SELECT registry.put('r', 'own', 1), registry.delete('r', 'own') AS own, registry.delete('r', 'own') AS again;
SELECT registry.get('r', 'own') AS own, registry.entry_count('r');
-- A volatile function is a sequence of commands; a STABLE one is part of the command that calls it.
CREATE FUNCTION put_and_get(value int) RETURNS text LANGUAGE plpgsql VOLATILE AS $$
BEGIN
	PERFORM registry.put('r', 'a', value);
	RETURN registry.get('r', 'a');
END $$;
CREATE FUNCTION stable_get() RETURNS text LANGUAGE plpgsql STABLE AS $$ BEGIN RETURN registry.get('r', 'a'); END $$;
SELECT put_and_get(50), registry.get('r', 'a') AS same_command, stable_get(), put_and_get(51);
SELECT registry.get('r', 'a'), stable_get();
-- An open cursor stays with what it saw.
DECLARE c CURSOR FOR SELECT i, registry.get('r', 'a') FROM generate_series(1, 4) i;
FETCH 2 FROM c;
SELECT registry.put('r', 'a', 60);
SELECT registry.get('r', 'a');
FETCH 2 FROM c;
ROLLBACK;
SELECT contents('r');

-- 4. Registries come and go with their transaction.
BEGIN;
SELECT registry.create_registry('made', 'numeric');
SELECT registry.put('made', 'k', 1.5);
SELECT registry.get('made', 'k'), registry.registry_exists('made'), contents('made');
SELECT name, value_type, entries FROM registry.registries WHERE name = 'made';
SELECT registry.drop_registry('made');
SELECT registry.registry_exists('made'), outcome($$SELECT registry.get('made', 'k')$$);
COMMIT;
SELECT registry.registry_exists('made');
BEGIN;
SELECT registry.create_registry('made');
SELECT registry.put('made', 'k', 1);
ROLLBACK;
SELECT registry.registry_exists('made'), outcome($$SELECT registry.put('made', 'k', 1)$$);
-- In the command that creates it, it is there to be written, and not yet to be read.
SELECT registry.create_registry('made'), registry.put('made', 'k', 1), registry.registry_exists('made');
SELECT contents('made');
-- Dropped, and the drop rolled back.
BEGIN;
SELECT registry.drop_registry('made');
SELECT registry.registry_exists('made'), (SELECT count(*) FROM registry.registries WHERE name = 'made') AS listed;
SAVEPOINT s;
SELECT registry.put('made', 'k', 2);
ROLLBACK TO s;
SELECT registry.drop_registry('made');
ROLLBACK;
SELECT contents('made');
-- Dropped and made anew with another type: nothing of the old one is left, before and after the commit.
BEGIN;
SELECT registry.put('made', 'old', 7);
SELECT registry.drop_registry('made');
SELECT registry.create_registry('made', 'text');
SELECT contents('made'), registry.get_text('made', 'k') AS k;
SELECT registry.put('made', 'k', 'new text');
SELECT registry.get_text('made', 'k') AS k, registry.get('made', 'old') AS old;
SAVEPOINT s;
SELECT registry.drop_registry('made');
SELECT registry.create_registry('made', 'boolean');
SELECT registry.put('made', 'k', true);
SELECT contents('made');
ROLLBACK TO s;
SELECT contents('made');
COMMIT;
SELECT contents('made'), registry.get_text('made', 'k') AS k;
SELECT value_type, entries FROM registry.registries WHERE name = 'made';
BEGIN;
SELECT registry.create_registry('made', 'text', if_not_exists => true);
ROLLBACK;

-- 5. generation() moves when a change is committed, by one, and not otherwise.
SELECT registry.generation() AS g \gset
SELECT registry.generation() - :g AS idle;
BEGIN;
SELECT registry.put('r', 'a', 70);
SELECT registry.put('r', 'b', 70);
SELECT registry.generation() - :g AS uncommitted;
COMMIT;
SELECT registry.generation() - :g AS committed;
BEGIN;
SELECT registry.put('r', 'a', 71);
ROLLBACK;
SELECT registry.generation() - :g AS rolled_back;
SELECT registry.delete('r', 'never');
SELECT registry.put_many('r', '{}');
SELECT registry.generation() - :g AS nothing_changed;
BEGIN;
SAVEPOINT s;
SELECT registry.put('r', 'a', 72);
ROLLBACK TO s;
COMMIT;
SELECT registry.generation() - :g AS savepoint_rolled_back;

-- 6. advance(): the newest generation from here on, where reads are not bound to one.
SELECT registry.advance() = registry.generation() AS same;
BEGIN ISOLATION LEVEL REPEATABLE READ;
SELECT registry.advance();
ROLLBACK;
BEGIN ISOLATION LEVEL SERIALIZABLE;
SELECT outcome($$SELECT registry.advance()$$);
SELECT registry.get('r', 'a');
ROLLBACK;
-- REPEATABLE READ sees its own changes too.
BEGIN ISOLATION LEVEL REPEATABLE READ;
SELECT registry.get('r', 'a') AS before, registry.generation() - :g AS generation;
SELECT registry.put('r', 'a', 80);
SELECT registry.get('r', 'a') AS own, registry.generation() - :g AS generation;
COMMIT;
SELECT registry.get('r', 'a') AS committed, registry.generation() - :g AS generation;

-- 7. COMMIT and ROLLBACK in a procedure: each part for itself, and the next read sees what is committed.
CREATE PROCEDURE parts() LANGUAGE plpgsql AS $$
BEGIN
	PERFORM registry.put('r', 'a', 90);
	COMMIT;
	PERFORM registry.put('r', 'a', 91);
	RAISE NOTICE 'own: %', registry.get('r', 'a');
	ROLLBACK;
	RAISE NOTICE 'after the rollback: %', registry.get('r', 'a');
	FOR i IN 1 .. 3 LOOP
		PERFORM registry.put('r', 'b', i);
		COMMIT;
		RAISE NOTICE 'committed: %', registry.get('r', 'b');
	END LOOP;
	PERFORM registry.put('r', 'a', 92);
END $$;
CALL parts();
SELECT contents('r');
DO $$
BEGIN
	PERFORM registry.put('r', 'a', 93);
	COMMIT;
	PERFORM registry.put('r', 'a', 94);
	ROLLBACK;
END $$;
SELECT contents('r');

-- 8. Where a put is refused, it changes nothing.
BEGIN READ ONLY;
SELECT call, outcome('SELECT registry.' || call)
  FROM unnest(ARRAY[$$put('r', 'a', '1')$$, $$put('r', 'a', 1)$$, $$put_many('r', '{}')$$, $$delete('r', 'a')$$, $$create_registry('x')$$,
                    $$drop_registry('r')$$, $$drop_registry('no such', if_exists => true)$$, $$set_rates('EUR', '{"USD": 1}')$$]) call;
SELECT registry.get('r', 'a') AS "reading is allowed", registry.advance() > 0 AS "so is advance";
COMMIT;
BEGIN;
SELECT registry.put('r', 'a', 100);
SET TRANSACTION READ ONLY;
SELECT registry.get('r', 'a') AS own;
SELECT outcome($$SELECT registry.put('r', 'a', 101)$$);
COMMIT;
SELECT registry.get('r', 'a');
BEGIN;
SELECT registry.put('r', 'a', 102);
PREPARE TRANSACTION 'regress_registry';
SELECT registry.get('r', 'a') AS rolled_back;
SELECT count(*) AS prepared FROM pg_prepared_xacts;
BEGIN;
SELECT registry.create_registry('x');
PREPARE TRANSACTION 'regress_registry';
SELECT registry.registry_exists('x');
-- One that only read can be prepared; so can one whose changes were rolled back.
BEGIN;
SELECT registry.get('r', 'a');
SAVEPOINT s;
SELECT registry.put('r', 'a', 103);
ROLLBACK TO s;
PREPARE TRANSACTION 'regress_registry';
COMMIT PREPARED 'regress_registry';
SELECT registry.get('r', 'a');
-- No parallel worker and no leader in parallel mode writes; a parallel plan reads what its leader changed.
SET force_parallel_mode = on;
SELECT registry.get('r', 'a') AS committed, registry.entry_count('r');
BEGIN;
SELECT registry.put('r', 'a', 104);
SELECT registry.get('r', 'a') AS own, contents('r');
CREATE FUNCTION hidden_put() RETURNS void LANGUAGE plpgsql STABLE PARALLEL SAFE AS $$ BEGIN PERFORM registry.put('r', 'a', 105); END $$;
SELECT hidden_put();
ROLLBACK;
RESET force_parallel_mode;
SELECT contents('r');

-- 9. Writes in triggers, deferred ones included, belong to the transaction of the row.
CREATE TABLE t (k text PRIMARY KEY, v int);
CREATE FUNCTION mirror() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
	PERFORM registry.put('r', new.k, new.v);
	RETURN NULL;
END $$;
CREATE TRIGGER mirror AFTER INSERT OR UPDATE ON t FOR EACH ROW EXECUTE FUNCTION mirror();
CREATE FUNCTION check_mirror() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
	IF registry.get('r', new.k)::int > 1000 THEN
		RAISE 'too large';
	END IF;
	PERFORM registry.put('r', 'last', new.v);
	RETURN NULL;
END $$;
CREATE CONSTRAINT TRIGGER check_mirror AFTER INSERT OR UPDATE ON t DEFERRABLE INITIALLY DEFERRED
	FOR EACH ROW EXECUTE FUNCTION check_mirror();
INSERT INTO t VALUES ('t1', 1), ('t2', 2);
SELECT contents('r');
BEGIN;
INSERT INTO t VALUES ('t3', 1001);
SELECT registry.get('r', 't3');
COMMIT;
SELECT contents('r');

-- 10. The extension goes with its registries, and comes back with them if that is rolled back.
BEGIN;
DROP EXTENSION pg_registry CASCADE;
ROLLBACK;
SELECT contents('r');

DROP EXTENSION pg_registry CASCADE;
DROP TABLE t;
DROP FUNCTION outcome, contents, mirror, check_mirror;
DROP PROCEDURE parts;
