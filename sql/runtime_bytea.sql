-- Without a superuser there is no base type: sealed values are bytea, made by the pgcrypto extension (trusted, so its
-- installation needs CREATE on the database only). An existing opaque type stays.
CREATE FUNCTION pg_temp.scrim_make_seal() RETURNS void LANGUAGE plpgsql AS $make$
DECLARE
    extension_schema name;
BEGIN
    IF to_regprocedure('scrim_runtime.seal(bytea,bytea,text)') IS NOT NULL THEN
        RETURN;
    END IF;
    CREATE EXTENSION IF NOT EXISTS pgcrypto WITH SCHEMA scrim_runtime;
    SELECT n.nspname INTO extension_schema
      FROM pg_catalog.pg_extension e JOIN pg_catalog.pg_namespace n ON n.oid = e.extnamespace WHERE e.extname = 'pgcrypto';
    EXECUTE pg_catalog.format('CREATE FUNCTION scrim_runtime.seal(bytea, bytea, text) RETURNS bytea
        LANGUAGE sql IMMUTABLE STRICT PARALLEL SAFE COST 100 RETURN %I.encrypt($1, $2, $3)', extension_schema);
    EXECUTE 'CREATE DOMAIN scrim_runtime.sealed AS bytea';
    -- Random bytes for the seals of rows that have no place. Not VOLATILE, or the planner would not flatten the masked view.
    CREATE FUNCTION scrim_runtime.nonce() RETURNS uuid LANGUAGE sql STABLE PARALLEL SAFE AS 'SELECT pg_catalog.gen_random_uuid()';
END $make$;
SET LOCAL client_min_messages = error;
SELECT pg_temp.scrim_make_seal();
RESET client_min_messages;
DROP FUNCTION pg_temp.scrim_make_seal();
