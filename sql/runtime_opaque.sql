-- The opaque sealed type: bytes without operators, casts or text output, so that every misuse is an error of
-- PostgreSQL's own (output raises; ask for binary). COST 100 makes the planner seal above a Sort, not below it.
-- CREATE TYPE and a C function need a superuser, once.
CREATE FUNCTION pg_temp.scrim_make_seal() RETURNS void LANGUAGE plpgsql AS $make$
BEGIN
    IF to_regtype('scrim_runtime.sealed') IS NULL THEN
        CREATE TYPE scrim_runtime.sealed;
        CREATE FUNCTION scrim_runtime.sealed_in(cstring) RETURNS scrim_runtime.sealed
            LANGUAGE internal IMMUTABLE STRICT PARALLEL SAFE AS 'anyelement_in';
        CREATE FUNCTION scrim_runtime.sealed_out(scrim_runtime.sealed) RETURNS cstring
            LANGUAGE internal IMMUTABLE STRICT PARALLEL SAFE AS 'anyelement_out';
        CREATE FUNCTION scrim_runtime.sealed_send(scrim_runtime.sealed) RETURNS bytea
            LANGUAGE internal IMMUTABLE STRICT PARALLEL SAFE AS 'byteasend';
        CREATE TYPE scrim_runtime.sealed (
            INPUT = scrim_runtime.sealed_in, OUTPUT = scrim_runtime.sealed_out,
            SEND = scrim_runtime.sealed_send, LIKE = bytea);
        -- The server calls these by itself; nobody else needs to.
        REVOKE EXECUTE ON FUNCTION scrim_runtime.sealed_in(cstring), scrim_runtime.sealed_out(scrim_runtime.sealed),
            scrim_runtime.sealed_send(scrim_runtime.sealed) FROM PUBLIC;
        COMMENT ON TYPE scrim_runtime.sealed IS 'Masked inputs, encrypted: only the Scrim proxy can open them.';
        -- Views check functions as the invoker, so masked roles must be able to call it. They can mint values under
        -- keys of their own; the proxy's proof of provenance and its key keep those out.
        CREATE FUNCTION scrim_runtime.seal(bytea, bytea, text) RETURNS scrim_runtime.sealed
            LANGUAGE c IMMUTABLE STRICT PARALLEL SAFE COST 100 AS '$libdir/pgcrypto', 'pg_encrypt';
    END IF;
    -- Random bytes for the seals of rows that have no place. Not VOLATILE, or the planner would not flatten the masked view.
    CREATE OR REPLACE FUNCTION scrim_runtime.nonce() RETURNS uuid LANGUAGE internal STABLE PARALLEL SAFE AS 'gen_random_uuid';
END $make$;
SET LOCAL client_min_messages = error;  -- "argument type is only a shell" is how a base type begins
SELECT pg_temp.scrim_make_seal();
RESET client_min_messages;
DROP FUNCTION pg_temp.scrim_make_seal();
