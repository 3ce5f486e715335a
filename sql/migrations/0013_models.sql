-- Models that were made elsewhere. All versions of one take the same inputs and give as many outputs, so that policies can go on with any.
CREATE TABLE scrim_state.models (
    id              bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    name            text NOT NULL UNIQUE CHECK (name <> ''),
    inputs          text[] NOT NULL                 -- of each its kind
        CHECK (cardinality(inputs) BETWEEN 1 AND 62 AND inputs <@ ARRAY['float', 'int64', 'bool']),
    outputs         integer NOT NULL CHECK (outputs > 0),
    default_version integer NOT NULL,
    created_by      text NOT NULL,
    creator         oid NOT NULL,                   -- who may use it; the name can become another's
    created_at      timestamptz NOT NULL DEFAULT now()
);

CREATE TABLE scrim_state.model_versions (
    model_id   bigint NOT NULL REFERENCES scrim_state.models ON DELETE CASCADE,
    version    integer NOT NULL CHECK (version > 0),
    sha256     text NOT NULL CHECK (sha256 ~ '^[0-9a-f]{64}$'),
    signature  text NOT NULL,                       -- what goes in and comes out, for people
    created_by text NOT NULL,
    created_at timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (model_id, version)
);

-- Files that a proxy has checked and publishes, or has published, and that no committed version has yet. What a version is comes from here, where proxies write with
-- the rights of the role that ran init: nobody can register a file that was not checked, or is another's. A registration that is under way has its row locked.
CREATE TABLE scrim_state.publications (
    token     uuid PRIMARY KEY DEFAULT gen_random_uuid(),
    model     text NOT NULL,
    version   integer NOT NULL,
    sha256    text NOT NULL,
    inputs    text[] NOT NULL,
    outputs   integer NOT NULL,
    signature text NOT NULL,
    begun_at  timestamptz NOT NULL DEFAULT clock_timestamp()
);

-- A policy has an encoder, a model, or an SQL mask. model_version is NULL for whatever is the default.
ALTER TABLE scrim_state.policies
    ADD COLUMN model_id bigint REFERENCES scrim_state.models,
    ADD COLUMN model_version integer,
    ADD FOREIGN KEY (model_id, model_version) REFERENCES scrim_state.model_versions,
    DROP CONSTRAINT policies_check1,
    ADD CHECK (num_nonnulls(encoder_id, model_id, sql_mask) = 1 AND (sql_mask IS NULL) = (present IS NOT NULL) AND (model_version IS NULL OR model_id IS NOT NULL));

ALTER TABLE scrim_state.kept_uses
    DROP CONSTRAINT kept_uses_pkey,
    ADD COLUMN id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    ALTER COLUMN encoder_id DROP NOT NULL,
    ADD COLUMN model_id bigint REFERENCES scrim_state.models ON DELETE CASCADE,
    ADD CHECK (num_nonnulls(encoder_id, model_id) = 1);

CREATE TRIGGER bump AFTER INSERT OR UPDATE OR DELETE OR TRUNCATE ON scrim_state.models
    FOR EACH STATEMENT EXECUTE FUNCTION scrim_state.bump_catalog_version();
CREATE TRIGGER bump AFTER INSERT OR UPDATE OR DELETE OR TRUNCATE ON scrim_state.model_versions
    FOR EACH STATEMENT EXECUTE FUNCTION scrim_state.bump_catalog_version();
CREATE TRIGGER names AFTER INSERT OR UPDATE ON scrim_state.models FOR EACH ROW EXECUTE FUNCTION scrim_state.note_names('{}', '{creator}');
