-- The audit: what was changed, refused and read through masks. It is append-only, and has no value of a row, no literal, no parameter and no key.
CREATE TABLE scrim_state.audit_settings (
    only_row  boolean PRIMARY KEY DEFAULT true CHECK (only_row),
    level     text NOT NULL DEFAULT 'changes' CHECK (level IN ('off', 'changes', 'all')),
    retention interval NOT NULL DEFAULT '90 days' CHECK (retention >= interval '1 day')
);
INSERT INTO scrim_state.audit_settings DEFAULT VALUES;
CREATE TRIGGER bump AFTER INSERT OR UPDATE OR DELETE OR TRUNCATE ON scrim_state.audit_settings
    FOR EACH STATEMENT EXECUTE FUNCTION scrim_state.bump_catalog_version();

CREATE TABLE scrim_state.audit (
    id           bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    at           timestamptz NOT NULL DEFAULT clock_timestamp(),
    kind         text NOT NULL CHECK (kind IN ('change', 'refused', 'read', 'lost')),
    role         text,                              -- session_user, as it was called then
    client       text,                              -- its address, if it has one: of a change as the server sees it
    application  text,
    tag          text,                              -- of the statement, or of what it came to
    object       text,                              -- the name of what was changed
    schema       text,
    relation     text,
    relation_oid oid,
    columns      text[],                            -- that are masked
    rows         bigint,                            -- sent or stored; of 'lost', entries
    fingerprint  text,                              -- of the statement without its literals
    sqlstate     text,
    details      jsonb NOT NULL DEFAULT '{}'
);
CREATE INDEX audit_at ON scrim_state.audit (at);

-- Nothing is changed, and deleted only what is older than the retention. A change of the audit's own settings stays for good, or a shorter
-- retention would hide itself. This also holds for the tables' owner and for superusers, until they drop or disable the triggers: who must not trust
-- them copies the entries to where they cannot reach.
CREATE FUNCTION scrim_state.audit_is_append_only() RETURNS trigger
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    IF TG_OP = 'DELETE' THEN
        IF OLD.at < clock_timestamp() - (SELECT s.retention FROM scrim_state.audit_settings s) AND OLD.tag IS DISTINCT FROM 'SET AUDIT' THEN
            RETURN OLD;
        END IF;
    END IF;
    RAISE EXCEPTION 'the audit is append-only' USING ERRCODE = 'insufficient_privilege', HINT = 'Entries go when they are older than the retention: scrim.set_audit changes it.';
END $$;
CREATE TRIGGER append_only BEFORE UPDATE OR DELETE ON scrim_state.audit FOR EACH ROW EXECUTE FUNCTION scrim_state.audit_is_append_only();
CREATE TRIGGER never_truncated BEFORE TRUNCATE ON scrim_state.audit FOR EACH STATEMENT EXECUTE FUNCTION scrim_state.audit_is_append_only();
ALTER TABLE scrim_state.audit ENABLE ALWAYS TRIGGER append_only, ENABLE ALWAYS TRIGGER never_truncated;

-- What a transaction is changing, as it was before. Empty for everybody else: it goes when the transaction is audited, at its commit.
CREATE UNLOGGED TABLE scrim_state.audit_before (
    transaction xid8 NOT NULL DEFAULT pg_current_xact_id(),
    kind        text NOT NULL,
    relation    oid NOT NULL,                       -- 0: of no relation
    name        text NOT NULL,
    was         jsonb,                              -- NULL: it was not there
    PRIMARY KEY (transaction, kind, relation, name)
);
