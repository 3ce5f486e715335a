-- Tables of Scrim. Nobody but the role that ran `scrim init` reads them; everybody else goes through schema scrim.

-- One row that changes with every change of a policy or an encoder. Proxies compare it, and are told by NOTIFY.
CREATE TABLE scrim_state.catalog_version (
    only_row boolean PRIMARY KEY DEFAULT true CHECK (only_row),
    version  bigint NOT NULL
);
INSERT INTO scrim_state.catalog_version (version) VALUES (1);

CREATE FUNCTION scrim_state.bump_catalog_version() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    UPDATE scrim_state.catalog_version SET version = version + 1;
    PERFORM pg_notify('scrim_catalog', (SELECT v.version::text FROM scrim_state.catalog_version v));
    RETURN NULL;
END $$;
REVOKE ALL ON FUNCTION scrim_state.bump_catalog_version() FROM PUBLIC;

CREATE TABLE scrim_state.encoders (
    id              bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    name            text NOT NULL UNIQUE CHECK (name <> ''),
    source_table    text NOT NULL,                  -- as typed and resolved: schema.table, for people to read
    feature_columns text[] NOT NULL,                -- in the order of the encoder's inputs
    passthrough     text[] NOT NULL DEFAULT '{}',
    latent_dims     integer NOT NULL CHECK (latent_dims > 0),
    epochs          integer NOT NULL CHECK (epochs > 0),
    batch_size      integer NOT NULL CHECK (batch_size > 0),
    seed            bigint NOT NULL,
    default_version integer NOT NULL DEFAULT 1,
    created_by      text NOT NULL,
    creator         oid NOT NULL,                   -- who may use it; the name can become another's
    created_at      timestamptz NOT NULL DEFAULT now()
);

-- The file lies at <models>/<encoder>/<version>; one with another hash is refused at load.
CREATE TABLE scrim_state.encoder_versions (
    encoder_id bigint NOT NULL REFERENCES scrim_state.encoders ON DELETE CASCADE,
    version    integer NOT NULL CHECK (version > 0),
    sha256     text NOT NULL CHECK (sha256 ~ '^[0-9a-f]{64}$'),
    trained_on bigint NOT NULL,                     -- rows
    loss       double precision NOT NULL,           -- mean squared error on standardised features, last epoch
    created_at timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (encoder_id, version)
);

CREATE TABLE scrim_state.policies (
    id           integer GENERATED ALWAYS AS IDENTITY PRIMARY KEY,  -- also the slot number inside every seal
    name         text NOT NULL CHECK (name <> ''),
    relation     oid NOT NULL,
    columns      smallint[] NOT NULL                -- masked attnums; attnum survives a rename
        CHECK (array_ndims(columns) = 1 AND array_position(columns, NULL) IS NULL),
    inputs       smallint[] NOT NULL                -- attnums that go into the seal, in the encoder's order
        CHECK (array_ndims(inputs) = 1 AND array_position(inputs, NULL) IS NULL AND cardinality(inputs) <= 62),
    view_columns smallint[] NOT NULL,               -- attnums behind the masked view's columns 3 and up, in its order
    encoder_id   bigint NOT NULL REFERENCES scrim_state.encoders,
    present      text NOT NULL CHECK (present IN ('VECTOR', 'COMPONENTS')),
    except_roles oid[] NOT NULL,
    masked_view  oid NOT NULL,
    key_owner    oid NOT NULL,                      -- table owner whose key seals: scrim_state.key_<oid>
    created_by   text NOT NULL,
    created_at   timestamptz NOT NULL DEFAULT now(),
    UNIQUE (relation)                               -- one policy for a table, in this version
);

-- The roles that own masked views, by OID: a role of the right name that we did not make, or did not check, is not one.
CREATE TABLE scrim_state.view_owners (
    table_owner oid PRIMARY KEY,
    role        oid NOT NULL UNIQUE
);

-- What CREATE MASKING POLICY took away and what it gave instead, so that DROP can undo exactly that.
CREATE TABLE scrim_state.policy_grants (
    policy_id integer NOT NULL REFERENCES scrim_state.policies ON DELETE CASCADE,
    change    text NOT NULL CHECK (change IN ('removed', 'added')),
    attnum    smallint NOT NULL,                    -- 0: the whole table
    grantor   oid NOT NULL,
    grantee   oid NOT NULL,                         -- 0: PUBLIC
    -- DROP spells it into GRANT and REVOKE, with the rights of whoever drops: nothing else may ever stand here.
    privilege text NOT NULL CHECK (privilege IN ('SELECT', 'REFERENCES', 'TRIGGER', 'MAINTAIN')),
    grantable boolean NOT NULL,
    UNIQUE (policy_id, change, attnum, grantor, grantee, privilege)
);

CREATE TRIGGER bump AFTER INSERT OR UPDATE OR DELETE OR TRUNCATE ON scrim_state.encoders
    FOR EACH STATEMENT EXECUTE FUNCTION scrim_state.bump_catalog_version();
CREATE TRIGGER bump AFTER INSERT OR UPDATE OR DELETE OR TRUNCATE ON scrim_state.encoder_versions
    FOR EACH STATEMENT EXECUTE FUNCTION scrim_state.bump_catalog_version();
CREATE TRIGGER bump AFTER INSERT OR UPDATE OR DELETE OR TRUNCATE ON scrim_state.policies
    FOR EACH STATEMENT EXECUTE FUNCTION scrim_state.bump_catalog_version();
