-- If this fails, one tenant can take the memory of all others, or a tenant who has reached the limit can no longer make
-- room.
CREATE EXTENSION pg_registry;
CREATE ROLE quota_tenant;
GRANT EXECUTE ON FUNCTION registry.create_registry(text, regtype, text, boolean, interval, text, boolean, boolean),
    registry.clear(text), registry.drop_registry(text, boolean, boolean) TO quota_tenant;
SET pg_registry.max_bytes_per_database = '300kB';
SET ROLE quota_tenant;

-- The limit is not the tenant's to change.
SET pg_registry.max_bytes_per_database = 0;

-- Up to it everything works.
SELECT registry.create_registry('a', 'text', durable => false);
SELECT registry.put_many('a', jsonb_object_agg('k' || g, repeat('x', 100))) > 0 FROM generate_series(1, 1000) AS g;
SELECT bytes < 300 * 1024 FROM registry.registries WHERE name = 'a';

\set VERBOSITY sqlstate
-- Beyond it nothing does: one large change, many small ones, another registry.
SELECT registry.put('a', 'large', repeat('x', 200000));
SELECT registry.create_registry('b', 'text', durable => false), registry.put_many('b', jsonb_object_agg('k' || g, repeat('x', 100)))
  FROM generate_series(1, 1000) AS g;
SELECT registry.create_registry('b', 'text', durable => false);
BEGIN;
SELECT registry.put_many('b', jsonb_object_agg('k' || g, repeat('x', 100))) FROM generate_series(1, 1000) AS g;
COMMIT;
\set VERBOSITY default
SELECT registry.entry_count('a'), registry.entry_count('b');

-- The changes of one transaction are bounded, too, before it commits.
\set VERBOSITY terse
SELECT count(registry.put('b', 'k' || g, repeat('x', 1000))) FROM generate_series(1, 1000) AS g;
\set VERBOSITY default

-- Replacing what is there by as much is no growth.
SELECT registry.put_many('a', jsonb_object_agg('k' || g, repeat('y', 100)), replace => true) FROM generate_series(1, 1000) AS g;

-- Making room works, and then there is room.
SELECT registry.delete('a', 'k1');
SELECT registry.clear('a');
SELECT registry.put_many('b', jsonb_object_agg('k' || g, repeat('x', 100))) FROM generate_series(1, 1000) AS g;
SELECT registry.drop_registry('b');
SELECT registry.put_many('a', jsonb_object_agg('k' || g, repeat('x', 100))) FROM generate_series(1, 1000) AS g;

-- What a rolled-back transaction has reserved is given back.
BEGIN;
SELECT registry.clear('a');
SELECT registry.put_many('a', jsonb_object_agg('k' || g, repeat('x', 100))) FROM generate_series(1, 1000) AS g;
ROLLBACK;
SELECT registry.drop_registry('a');

-- Changed in place, a registry takes more: up to the limit, and not beyond.
RESET ROLE;
SET pg_registry.max_bytes_per_database = '500kB';
SET ROLE quota_tenant;
\set VERBOSITY terse
SELECT registry.create_registry('a', 'bigint', durable => false);
SELECT registry.put_many('a', jsonb_object_agg('k' || g, 0)) FROM generate_series(1, 3000) AS g;
DO $$
DECLARE
    changed int := 0;
BEGIN
    FOR i IN 1 .. 3000
    LOOP
        PERFORM registry.put('a', 'k' || i, i);
        COMMIT;
        changed := i;
    END LOOP;
END $$;
\set VERBOSITY default
SELECT bytes BETWEEN 300 * 1024 AND 500 * 1024 FROM registry.registries WHERE name = 'a';
SELECT registry.clear('a');
SELECT registry.put('a', 'k', 1);

-- Without a limit all of it goes.
RESET ROLE;
RESET pg_registry.max_bytes_per_database;
SELECT registry.put_many('a', jsonb_object_agg('k' || g, 0)) FROM generate_series(1, 10000) AS g;
DROP EXTENSION pg_registry;
DROP ROLE quota_tenant;
