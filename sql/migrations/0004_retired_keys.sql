-- Keys that sealed before, of each table owner. Proxies open with them too: a statement that sees the database as it was before the
-- rotation still seals with the old one. The next rotation deletes those that no statement can use any more.
CREATE TABLE scrim_state.retired_keys (
    id         bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,  -- the newest is the highest
    key_owner  oid NOT NULL,
    key        bytea NOT NULL CHECK (octet_length(key) = 16),
    retired_by xid8 NOT NULL DEFAULT pg_current_xact_id(),       -- who does not see this transaction seals with the key
    retired_at timestamptz NOT NULL DEFAULT clock_timestamp()
);
CREATE TRIGGER bump AFTER INSERT OR UPDATE OR DELETE OR TRUNCATE ON scrim_state.retired_keys
    FOR EACH STATEMENT EXECUTE FUNCTION scrim_state.bump_catalog_version();
