-- The tables of River, the job queue (github.com/riverqueue/river): what its migrations 1 to 8 of line main come to. Its later ones become
-- migrations here when River is upgraded; a test compares. River's own migrator is not used: it needs several transactions before
-- PostgreSQL 17 (a value that is added to an enum cannot be used in the same one), and `scrim init` is one.

CREATE TYPE scrim_state.river_job_state AS ENUM ('available', 'cancelled', 'completed', 'discarded', 'pending', 'retryable', 'running', 'scheduled');

CREATE TABLE scrim_state.river_migration (
    line       text NOT NULL CONSTRAINT line_length CHECK (char_length(line) > 0 AND char_length(line) < 128),
    version    bigint NOT NULL CONSTRAINT version_gte_1 CHECK (version >= 1),
    created_at timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (line, version)
);
INSERT INTO scrim_state.river_migration (line, version) SELECT 'main', v FROM generate_series(1, 8) v;

CREATE TABLE scrim_state.river_job (
    id            bigserial PRIMARY KEY,
    state         scrim_state.river_job_state NOT NULL DEFAULT 'available',
    attempt       smallint NOT NULL DEFAULT 0,
    max_attempts  smallint NOT NULL DEFAULT 25 CONSTRAINT max_attempts_is_positive CHECK (max_attempts > 0),
    attempted_at  timestamptz,
    created_at    timestamptz NOT NULL DEFAULT now(),
    finalized_at  timestamptz,
    scheduled_at  timestamptz NOT NULL DEFAULT now(),
    priority      smallint NOT NULL DEFAULT 1 CONSTRAINT priority_in_range CHECK (priority >= 1 AND priority <= 4),
    args          jsonb NOT NULL,
    attempted_by  text[],
    errors        jsonb[],
    kind          text NOT NULL CONSTRAINT kind_length CHECK (char_length(kind) > 0 AND char_length(kind) < 128),
    metadata      jsonb NOT NULL DEFAULT '{}',
    queue         text NOT NULL DEFAULT 'default' CONSTRAINT queue_length CHECK (char_length(queue) > 0 AND char_length(queue) < 128),
    tags          varchar(255)[] NOT NULL DEFAULT '{}',
    unique_key    bytea,
    unique_states bit(8),
    CONSTRAINT finalized_or_finalized_at_null CHECK (
        (finalized_at IS NULL AND state NOT IN ('cancelled', 'completed', 'discarded')) OR
        (finalized_at IS NOT NULL AND state IN ('cancelled', 'completed', 'discarded')))
);
CREATE INDEX river_job_kind ON scrim_state.river_job USING btree (kind);
CREATE INDEX river_job_state_and_finalized_at_index ON scrim_state.river_job USING btree (state, finalized_at) WHERE finalized_at IS NOT NULL;
CREATE INDEX river_job_prioritized_fetching_index ON scrim_state.river_job USING btree (state, queue, priority, scheduled_at, id);
CREATE INDEX river_job_args_index ON scrim_state.river_job USING gin (args);
CREATE INDEX river_job_metadata_index ON scrim_state.river_job USING gin (metadata);

CREATE FUNCTION scrim_state.river_job_state_in_bitmask(bitmask bit(8), state scrim_state.river_job_state) RETURNS boolean
LANGUAGE sql IMMUTABLE AS $$
    SELECT CASE state
        WHEN 'available' THEN get_bit(bitmask, 7)
        WHEN 'cancelled' THEN get_bit(bitmask, 6)
        WHEN 'completed' THEN get_bit(bitmask, 5)
        WHEN 'discarded' THEN get_bit(bitmask, 4)
        WHEN 'pending'   THEN get_bit(bitmask, 3)
        WHEN 'retryable' THEN get_bit(bitmask, 2)
        WHEN 'running'   THEN get_bit(bitmask, 1)
        WHEN 'scheduled' THEN get_bit(bitmask, 0)
        ELSE 0
    END = 1;
$$;
CREATE UNIQUE INDEX river_job_unique_idx ON scrim_state.river_job (unique_key)
    WHERE unique_key IS NOT NULL AND unique_states IS NOT NULL AND scrim_state.river_job_state_in_bitmask(unique_states, state);

CREATE UNLOGGED TABLE scrim_state.river_leader (
    elected_at timestamptz NOT NULL,
    expires_at timestamptz NOT NULL,
    leader_id  text NOT NULL CONSTRAINT leader_id_length CHECK (char_length(leader_id) > 0 AND char_length(leader_id) < 128),
    name       text PRIMARY KEY DEFAULT 'default' CONSTRAINT name_length CHECK (name = 'default')
);

CREATE TABLE scrim_state.river_queue (
    name       text PRIMARY KEY,
    created_at timestamptz NOT NULL DEFAULT now(),
    metadata   jsonb NOT NULL DEFAULT '{}',
    paused_at  timestamptz,
    updated_at timestamptz NOT NULL DEFAULT CURRENT_TIMESTAMP
);

CREATE TABLE scrim_state.river_notification (
    id         bigserial PRIMARY KEY,
    created_at timestamptz NOT NULL DEFAULT now(),
    payload    text NOT NULL,
    topic      text NOT NULL CONSTRAINT topic_length CHECK (length(topic) > 0 AND length(topic) < 128)
);
CREATE INDEX river_notification_created_at_idx ON scrim_state.river_notification (created_at);
CREATE INDEX river_notification_topic_id_idx ON scrim_state.river_notification (topic, id);
