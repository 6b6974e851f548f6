/* pg_registry--1.0.sql */

\echo Use "CREATE EXTENSION pg_registry" to load this file. \quit

-- Fails if a schema of this name exists: it would not be ours to fill.
CREATE SCHEMA registry;

-- ---------------------------------------------------------------------------
-- Tables: the truth that the image in shared memory is read for.
--
-- One row for each registry, durable or not, and one for each entry of a
-- durable one.  DML on them by their owner, COPY and logical replication reach
-- the image at commit, by triggers that fire ALWAYS.
-- ---------------------------------------------------------------------------

-- An owner is the role of that name, as long as it has that oid.
CREATE TABLE registry.definitions (
    name text COLLATE "C" NOT NULL PRIMARY KEY,
    value_type text NOT NULL,
    keys text NOT NULL DEFAULT 'unique',
    durable boolean NOT NULL DEFAULT true,
    max_age interval,
    on_stale text NOT NULL DEFAULT 'serve',
    notify boolean NOT NULL DEFAULT false,
    owner text NOT NULL DEFAULT current_user,
    owner_oid oid NOT NULL DEFAULT current_user::regrole::oid,
    created_at timestamptz NOT NULL DEFAULT now());

-- The value in the text form of the registry's value type.
CREATE TABLE registry.stored_entries (
    registry text COLLATE "C" NOT NULL,
    key text COLLATE "C" NOT NULL,
    value text NOT NULL,
    updated_at timestamptz NOT NULL DEFAULT now(),
    expires_at timestamptz,
    PRIMARY KEY (registry, key))
WITH (fillfactor = 90);

-- Who may do what besides the owner.  A grantee is the role of that name, as
-- long as it has that oid; "public", with 0, is everybody.
CREATE TABLE registry.grants (
    registry text COLLATE "C" NOT NULL,
    privilege text COLLATE "C" NOT NULL
        CHECK (privilege IN ('read', 'write', 'admin')),
    grantee text COLLATE "C" NOT NULL,
    grantee_oid oid NOT NULL,
    grantor text NOT NULL DEFAULT current_user,
    granted_at timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (registry, privilege, grantee));

CREATE FUNCTION registry.definitions_changed()
RETURNS trigger
AS 'MODULE_PATHNAME', 'pgr_sql_definitions_trigger'
LANGUAGE C;

CREATE FUNCTION registry.entries_changed()
RETURNS trigger
AS 'MODULE_PATHNAME', 'pgr_sql_entries_trigger'
LANGUAGE C;

CREATE FUNCTION registry.grants_changed()
RETURNS trigger
AS 'MODULE_PATHNAME', 'pgr_sql_grants_trigger'
LANGUAGE C;

CREATE TRIGGER changed AFTER INSERT OR UPDATE OR DELETE
    ON registry.definitions
    FOR EACH ROW EXECUTE FUNCTION registry.definitions_changed();
CREATE TRIGGER emptied BEFORE TRUNCATE
    ON registry.definitions
    FOR EACH STATEMENT EXECUTE FUNCTION registry.definitions_changed();
CREATE TRIGGER changes BEFORE INSERT OR UPDATE OR DELETE
    ON registry.stored_entries
    FOR EACH ROW EXECUTE FUNCTION registry.entries_changed();
CREATE TRIGGER changed AFTER INSERT OR UPDATE OR DELETE
    ON registry.stored_entries
    FOR EACH ROW EXECUTE FUNCTION registry.entries_changed();
CREATE TRIGGER empties BEFORE TRUNCATE
    ON registry.stored_entries
    FOR EACH STATEMENT EXECUTE FUNCTION registry.entries_changed();
CREATE TRIGGER emptied AFTER TRUNCATE
    ON registry.stored_entries
    FOR EACH STATEMENT EXECUTE FUNCTION registry.entries_changed();

CREATE TRIGGER changed AFTER INSERT OR UPDATE OR DELETE
    ON registry.grants
    FOR EACH ROW EXECUTE FUNCTION registry.grants_changed();
CREATE TRIGGER emptied AFTER TRUNCATE
    ON registry.grants
    FOR EACH STATEMENT EXECUTE FUNCTION registry.grants_changed();

ALTER TABLE registry.definitions ENABLE ALWAYS TRIGGER changed;
ALTER TABLE registry.definitions ENABLE ALWAYS TRIGGER emptied;
ALTER TABLE registry.stored_entries ENABLE ALWAYS TRIGGER changes;
ALTER TABLE registry.stored_entries ENABLE ALWAYS TRIGGER changed;
ALTER TABLE registry.stored_entries ENABLE ALWAYS TRIGGER empties;
ALTER TABLE registry.stored_entries ENABLE ALWAYS TRIGGER emptied;
ALTER TABLE registry.grants ENABLE ALWAYS TRIGGER changed;
ALTER TABLE registry.grants ENABLE ALWAYS TRIGGER emptied;

-- pg_dump has their rows, and whoever may dump the database may read them.
SELECT pg_catalog.pg_extension_config_dump('registry.definitions', '');
SELECT pg_catalog.pg_extension_config_dump('registry.stored_entries', '');
SELECT pg_catalog.pg_extension_config_dump('registry.grants', '');
GRANT SELECT ON registry.definitions, registry.stored_entries, registry.grants
    TO pg_database_owner;

-- ---------------------------------------------------------------------------
-- State
-- ---------------------------------------------------------------------------

CREATE FUNCTION registry.create_registry(
    name text,
    value_type regtype DEFAULT 'jsonb',
    keys text DEFAULT 'unique',
    durable boolean DEFAULT false,
    max_age interval DEFAULT NULL,
    on_stale text DEFAULT 'serve',
    notify boolean DEFAULT false,
    if_not_exists boolean DEFAULT false)
RETURNS void
AS 'MODULE_PATHNAME', 'pgr_sql_create_registry'
LANGUAGE C VOLATILE PARALLEL UNSAFE;

CREATE FUNCTION registry.drop_registry(
    name text,
    if_exists boolean DEFAULT false,
    cascade boolean DEFAULT false)
RETURNS void
AS 'MODULE_PATHNAME', 'pgr_sql_drop_registry'
LANGUAGE C VOLATILE PARALLEL UNSAFE;

CREATE FUNCTION registry.alter_registry(name text, options jsonb)
RETURNS void
AS 'MODULE_PATHNAME', 'pgr_sql_alter_registry'
LANGUAGE C VOLATILE PARALLEL UNSAFE;

-- Privileges: read, write, admin.  A grantee is a role's name, or 'public'.
CREATE FUNCTION registry.grant_access(
    registry text, privilege text, grantee text)
RETURNS void
AS 'MODULE_PATHNAME', 'pgr_sql_grant_access'
LANGUAGE C VOLATILE PARALLEL UNSAFE;

CREATE FUNCTION registry.revoke_access(
    registry text, privilege text, grantee text)
RETURNS void
AS 'MODULE_PATHNAME', 'pgr_sql_revoke_access'
LANGUAGE C VOLATILE PARALLEL UNSAFE;

-- After a restore: owners and grantees become the roles that have their names.
CREATE FUNCTION registry.restore_grants()
RETURNS bigint
AS 'MODULE_PATHNAME', 'pgr_sql_restore_grants'
LANGUAGE C VOLATILE PARALLEL UNSAFE;

-- The image of a registry against its tables; no row: they agree.  Without a
-- key: its owner, or a grantee, is no role of this cluster.
CREATE FUNCTION registry.verify(
    registry text, OUT key text, OUT problem text)
RETURNS SETOF record
AS 'MODULE_PATHNAME', 'pgr_sql_verify'
LANGUAGE C VOLATILE PARALLEL UNSAFE;

-- Loads a durable registry from its table; false: it does not fit into memory.
CREATE FUNCTION registry.reload(registry text)
RETURNS boolean
AS 'MODULE_PATHNAME', 'pgr_sql_reload'
LANGUAGE C VOLATILE PARALLEL UNSAFE;

CREATE FUNCTION registry.registry_exists(name text)
RETURNS boolean
AS 'MODULE_PATHNAME', 'pgr_sql_registry_exists'
LANGUAGE C STABLE STRICT PARALLEL SAFE;

-- Text goes through the input function of the registry's value type.
CREATE FUNCTION registry.put(
    registry text, key text, value text, ttl interval DEFAULT NULL)
RETURNS void
AS 'MODULE_PATHNAME', 'pgr_sql_put'
LANGUAGE C VOLATILE PARALLEL UNSAFE;

-- Any other type goes through its cast.
CREATE FUNCTION registry.put(
    registry text, key text, value "any", ttl interval DEFAULT NULL)
RETURNS void
AS 'MODULE_PATHNAME', 'pgr_sql_put_any'
LANGUAGE C VOLATILE PARALLEL UNSAFE;

CREATE FUNCTION registry.put_many(
    registry text, entries jsonb, replace boolean DEFAULT false)
RETURNS bigint
AS 'MODULE_PATHNAME', 'pgr_sql_put_many'
LANGUAGE C VOLATILE PARALLEL UNSAFE;

CREATE FUNCTION registry.clear(registry text)
RETURNS bigint
AS 'MODULE_PATHNAME', 'pgr_sql_clear'
LANGUAGE C VOLATILE PARALLEL UNSAFE;

CREATE FUNCTION registry.delete(registry text, key text)
RETURNS boolean
AS 'MODULE_PATHNAME', 'pgr_sql_delete'
LANGUAGE C VOLATILE PARALLEL UNSAFE;

-- A bigint as the key stands for its decimal text.
CREATE FUNCTION registry.get(registry text, key text)
RETURNS jsonb
AS 'MODULE_PATHNAME', 'pgr_sql_get'
LANGUAGE C STABLE STRICT PARALLEL SAFE;

CREATE FUNCTION registry.get(registry text, key bigint)
RETURNS jsonb
AS 'MODULE_PATHNAME', 'pgr_sql_get_by_int'
LANGUAGE C STABLE STRICT PARALLEL SAFE;

CREATE FUNCTION registry.get_text(registry text, key text)
RETURNS text
AS 'MODULE_PATHNAME', 'pgr_sql_get_text'
LANGUAGE C STABLE STRICT PARALLEL SAFE;

CREATE FUNCTION registry.get_text(registry text, key bigint)
RETURNS text
AS 'MODULE_PATHNAME', 'pgr_sql_get_text_by_int'
LANGUAGE C STABLE STRICT PARALLEL SAFE;

CREATE FUNCTION registry.get_numeric(registry text, key text)
RETURNS numeric
AS 'MODULE_PATHNAME', 'pgr_sql_get_numeric'
LANGUAGE C STABLE STRICT PARALLEL SAFE;

CREATE FUNCTION registry.get_numeric(registry text, key bigint)
RETURNS numeric
AS 'MODULE_PATHNAME', 'pgr_sql_get_numeric_by_int'
LANGUAGE C STABLE STRICT PARALLEL SAFE;

CREATE FUNCTION registry.get_float8(registry text, key text)
RETURNS float8
AS 'MODULE_PATHNAME', 'pgr_sql_get_float8'
LANGUAGE C STABLE STRICT PARALLEL SAFE;

CREATE FUNCTION registry.get_float8(registry text, key bigint)
RETURNS float8
AS 'MODULE_PATHNAME', 'pgr_sql_get_float8_by_int'
LANGUAGE C STABLE STRICT PARALLEL SAFE;

CREATE FUNCTION registry.get_bigint(registry text, key text)
RETURNS bigint
AS 'MODULE_PATHNAME', 'pgr_sql_get_bigint'
LANGUAGE C STABLE STRICT PARALLEL SAFE;

CREATE FUNCTION registry.get_bigint(registry text, key bigint)
RETURNS bigint
AS 'MODULE_PATHNAME', 'pgr_sql_get_bigint_by_int'
LANGUAGE C STABLE STRICT PARALLEL SAFE;

CREATE FUNCTION registry.get_boolean(registry text, key text)
RETURNS boolean
AS 'MODULE_PATHNAME', 'pgr_sql_get_boolean'
LANGUAGE C STABLE STRICT PARALLEL SAFE;

CREATE FUNCTION registry.get_boolean(registry text, key bigint)
RETURNS boolean
AS 'MODULE_PATHNAME', 'pgr_sql_get_boolean_by_int'
LANGUAGE C STABLE STRICT PARALLEL SAFE;

CREATE FUNCTION registry.get_timestamptz(registry text, key text)
RETURNS timestamptz
AS 'MODULE_PATHNAME', 'pgr_sql_get_timestamptz'
LANGUAGE C STABLE STRICT PARALLEL SAFE;

CREATE FUNCTION registry.get_timestamptz(registry text, key bigint)
RETURNS timestamptz
AS 'MODULE_PATHNAME', 'pgr_sql_get_timestamptz_by_int'
LANGUAGE C STABLE STRICT PARALLEL SAFE;

-- Tells the planner how many rows to expect.
CREATE FUNCTION registry.entries_support(request internal)
RETURNS internal
AS 'MODULE_PATHNAME', 'pgr_sql_entries_support'
LANGUAGE C STABLE STRICT PARALLEL SAFE;

-- A part of entries(): each key that is there, once, in the order of the array.
CREATE FUNCTION registry.get_many(registry text, keys text[])
RETURNS TABLE (key text, value jsonb)
AS 'MODULE_PATHNAME', 'pgr_sql_get_many'
LANGUAGE C STABLE STRICT PARALLEL SAFE ROWS 100
SUPPORT registry.entries_support;

CREATE FUNCTION registry.entries(
    registry text,
    OUT key text,
    OUT value jsonb,
    OUT owner_pid int,
    OUT updated_at timestamptz,
    OUT expires_at timestamptz)
RETURNS SETOF record
AS 'MODULE_PATHNAME', 'pgr_sql_entries'
LANGUAGE C STABLE STRICT PARALLEL SAFE ROWS 100
SUPPORT registry.entries_support;

CREATE FUNCTION registry.entry_count(registry text)
RETURNS bigint
AS 'MODULE_PATHNAME', 'pgr_sql_entry_count'
LANGUAGE C STABLE STRICT PARALLEL SAFE;

CREATE FUNCTION registry.generation()
RETURNS bigint
AS 'MODULE_PATHNAME', 'pgr_sql_generation'
LANGUAGE C STABLE PARALLEL SAFE;

CREATE FUNCTION registry.advance()
RETURNS bigint
AS 'MODULE_PATHNAME', 'pgr_sql_advance'
LANGUAGE C VOLATILE PARALLEL RESTRICTED;

-- ---------------------------------------------------------------------------
-- Exchange rates
-- ---------------------------------------------------------------------------

CREATE TYPE registry.rate_quote AS (
    rate numeric,
    from_currency text,
    to_currency text,
    base text,
    value_date date,
    fetched_at timestamptz,
    source text,
    rate_set bigint,
    stale boolean);

CREATE FUNCTION registry.rate(
    from_currency text,
    to_currency text,
    on_date date DEFAULT NULL,
    missing_ok boolean DEFAULT false,
    max_age interval DEFAULT NULL,
    rates text DEFAULT 'rates')
RETURNS numeric
AS 'MODULE_PATHNAME', 'pgr_sql_rate'
LANGUAGE C STABLE PARALLEL SAFE;

CREATE FUNCTION registry.rate_float8(from_currency text, to_currency text)
RETURNS float8
AS 'MODULE_PATHNAME', 'pgr_sql_rate_float8'
LANGUAGE C STABLE STRICT PARALLEL SAFE;

CREATE FUNCTION registry.convert(
    amount numeric,
    from_currency text,
    to_currency text,
    scale int DEFAULT NULL,
    on_date date DEFAULT NULL,
    missing_ok boolean DEFAULT false,
    max_age interval DEFAULT NULL,
    rates text DEFAULT 'rates')
RETURNS numeric
AS 'MODULE_PATHNAME', 'pgr_sql_convert'
LANGUAGE C STABLE PARALLEL SAFE;

CREATE FUNCTION registry.quote(
    from_currency text,
    to_currency text,
    on_date date DEFAULT NULL,
    rates text DEFAULT 'rates')
RETURNS registry.rate_quote
AS 'MODULE_PATHNAME', 'pgr_sql_quote'
LANGUAGE C STABLE PARALLEL SAFE;

CREATE FUNCTION registry.set_rates(
    base text,
    rates jsonb,
    value_date date DEFAULT current_date,
    name text DEFAULT 'rates')
RETURNS bigint
AS 'MODULE_PATHNAME', 'pgr_sql_set_rates'
LANGUAGE C VOLATILE PARALLEL UNSAFE;

CREATE FUNCTION registry.minor_units(currency text)
RETURNS int
AS 'MODULE_PATHNAME', 'pgr_sql_minor_units'
LANGUAGE C IMMUTABLE STRICT PARALLEL SAFE;

CREATE FUNCTION registry.round_money(
    amount numeric, currency text, mode text DEFAULT 'half_up')
RETURNS numeric
AS 'MODULE_PATHNAME', 'pgr_sql_round_money'
LANGUAGE C IMMUTABLE STRICT PARALLEL SAFE;

-- ---------------------------------------------------------------------------
-- Refresh
-- ---------------------------------------------------------------------------

CREATE FUNCTION registry.refresh(
    source text,
    wait boolean DEFAULT true,
    timeout interval DEFAULT '30 s',
    raise boolean DEFAULT false,
    OUT ok boolean,
    OUT http_status int,
    OUT changed boolean,
    OUT generation bigint,
    OUT visible boolean,
    OUT error text)
AS 'MODULE_PATHNAME', 'pgr_sql_refresh'
LANGUAGE C VOLATILE PARALLEL UNSAFE;

CREATE FUNCTION registry.pause(name text)
RETURNS void
AS 'MODULE_PATHNAME', 'pgr_sql_pause'
LANGUAGE C VOLATILE PARALLEL UNSAFE;

CREATE FUNCTION registry.resume(name text)
RETURNS void
AS 'MODULE_PATHNAME', 'pgr_sql_resume'
LANGUAGE C VOLATILE PARALLEL UNSAFE;

CREATE FUNCTION registry.restart_workers()
RETURNS void
AS 'MODULE_PATHNAME', 'pgr_sql_restart_workers'
LANGUAGE C VOLATILE PARALLEL UNSAFE;

-- ---------------------------------------------------------------------------
-- Log
-- ---------------------------------------------------------------------------

CREATE FUNCTION registry.log_tail(
    n int DEFAULT 100,
    handler text DEFAULT NULL,
    OUT seq bigint,
    OUT "time" timestamptz,
    OUT pid int,
    OUT backend_type text,
    OUT database text,
    OUT username text,
    OUT application text,
    OUT level text,
    OUT sqlstate text,
    OUT message text,
    OUT detail text,
    OUT hint text,
    OUT context text,
    OUT statement text)
RETURNS SETOF record
AS 'MODULE_PATHNAME', 'pgr_sql_log_tail'
LANGUAGE C VOLATILE PARALLEL RESTRICTED ROWS 100;

-- ---------------------------------------------------------------------------
-- Status and views
-- ---------------------------------------------------------------------------

CREATE FUNCTION registry.status(
    OUT preloaded boolean,
    OUT advice text,
    OUT scheduler_pid int,
    OUT scheduler_state text,
    OUT scheduler_started_at timestamptz,
    OUT rates_source text,
    OUT rates_paused boolean,
    OUT rates_attempts bigint,
    OUT rates_successes bigint,
    OUT rates_not_modified bigint,
    OUT rates_changed bigint,
    OUT rates_failures bigint,
    OUT rates_consecutive_failures int,
    OUT rates_failing_since timestamptz,
    OUT rates_last_attempt timestamptz,
    OUT rates_last_success timestamptz,
    OUT rates_last_error text,
    OUT rates_last_error_at timestamptz,
    OUT rates_http_status int,
    OUT rates_bytes bigint,
    OUT rates_duration interval,
    OUT rates_next_refresh timestamptz,
    OUT rates_quarantine text,
    OUT rates_quarantined_at timestamptz,
    OUT generation bigint,
    OUT oldest_pin bigint,
    OUT oldest_pin_pid int,
    OUT memory_total bigint,
    OUT memory_used bigint,
    OUT log_accepted bigint,
    OUT log_truncated bigint,
    OUT log_dropped_busy bigint,
    OUT log_dropped_recursion bigint,
    OUT log_dropped_too_early bigint)
AS 'MODULE_PATHNAME', 'pgr_sql_status'
LANGUAGE C VOLATILE PARALLEL RESTRICTED;

-- The views' own functions: what they return depends on the caller.
CREATE FUNCTION registry.list_registries(
    OUT name text,
    OUT value_type text,
    OUT keys text,
    OUT durable boolean,
    OUT owner name,
    OUT state text,
    OUT entries bigint,
    OUT bytes bigint,
    OUT last_change timestamptz,
    OUT stale boolean,
    OUT max_age interval,
    OUT on_stale text)
RETURNS SETOF record
AS 'MODULE_PATHNAME', 'pgr_sql_list_registries'
LANGUAGE C STABLE PARALLEL SAFE ROWS 100;

CREATE FUNCTION registry.list_rates(
    OUT currency text,
    OUT rate numeric,
    OUT base text,
    OUT value_date date,
    OUT fetched_at timestamptz,
    OUT checked_at timestamptz,
    OUT age interval,
    OUT stale boolean,
    OUT stale_reason text,
    OUT rate_set bigint,
    OUT source text)
RETURNS SETOF record
AS 'MODULE_PATHNAME', 'pgr_sql_list_rates'
LANGUAGE C STABLE PARALLEL SAFE ROWS 40;

CREATE FUNCTION registry.list_readers(
    OUT pid int,
    OUT generation bigint,
    OUT pinned_at timestamptz,
    OUT query_start timestamptz)
RETURNS SETOF record
AS 'MODULE_PATHNAME', 'pgr_sql_list_readers'
LANGUAGE C VOLATILE PARALLEL RESTRICTED ROWS 100;

CREATE FUNCTION registry.list_memory(OUT part text, OUT bytes bigint)
RETURNS SETOF record
AS 'MODULE_PATHNAME', 'pgr_sql_list_memory'
LANGUAGE C VOLATILE PARALLEL RESTRICTED ROWS 10;

CREATE VIEW registry.registries AS
    SELECT name, value_type, keys, durable, owner, state, entries, bytes,
           last_change, stale, max_age, on_stale
      FROM registry.list_registries();

CREATE VIEW registry.rates AS
    SELECT currency, rate, base, value_date, fetched_at, checked_at, age,
           stale, stale_reason, rate_set, source
      FROM registry.list_rates();

CREATE VIEW registry.readers AS
    SELECT pid, generation, pinned_at, query_start
      FROM registry.list_readers();

CREATE VIEW registry.memory AS
    SELECT part, bytes FROM registry.list_memory();

-- ---------------------------------------------------------------------------
-- Privileges: PostgreSQL grants EXECUTE to PUBLIC by itself
-- ---------------------------------------------------------------------------

REVOKE ALL ON ALL FUNCTIONS IN SCHEMA registry FROM PUBLIC;
GRANT USAGE ON SCHEMA registry TO PUBLIC;

-- These check the registry's own rights.
GRANT EXECUTE ON FUNCTION
    registry.get(text, text),
    registry.get(text, bigint),
    registry.get_text(text, text),
    registry.get_text(text, bigint),
    registry.get_numeric(text, text),
    registry.get_numeric(text, bigint),
    registry.get_float8(text, text),
    registry.get_float8(text, bigint),
    registry.get_bigint(text, text),
    registry.get_bigint(text, bigint),
    registry.get_boolean(text, text),
    registry.get_boolean(text, bigint),
    registry.get_timestamptz(text, text),
    registry.get_timestamptz(text, bigint),
    registry.get_many(text, text[]),
    registry.entries(text),
    registry.entry_count(text),
    registry.registry_exists(text),
    registry.generation(),
    registry.advance(),
    registry.rate(text, text, date, boolean, interval, text),
    registry.rate_float8(text, text),
    registry.convert(numeric, text, text, int, date, boolean, interval, text),
    registry.quote(text, text, date, text),
    registry.round_money(numeric, text, text),
    registry.minor_units(text),
    registry.put(text, text, text, interval),
    registry.put(text, text, "any", interval),
    registry.put_many(text, jsonb, boolean),
    registry.delete(text, text),
    registry.list_registries(),
    registry.list_rates()
TO PUBLIC;
GRANT SELECT ON registry.rates, registry.registries TO PUBLIC;

GRANT EXECUTE ON FUNCTION
    registry.status(), registry.list_readers(), registry.list_memory()
TO pg_monitor;
GRANT SELECT ON registry.readers, registry.memory TO pg_monitor;
