-- Training in the background: jobs of River's with what Scrim knows of them.

ALTER TABLE scrim_state.encoders
    ALTER COLUMN default_version DROP NOT NULL,
    ALTER COLUMN default_version DROP DEFAULT,      -- none until the first training has ended
    ADD COLUMN source oid NOT NULL DEFAULT 0,       -- where its rows come from; the name in source_table can become another's
    ADD COLUMN device text NOT NULL DEFAULT 'cpu',
    ADD COLUMN allow_identifiers boolean NOT NULL DEFAULT false,
    ADD COLUMN max_leakage double precision,        -- NULL: whatever it is
    ADD COLUMN target text;                         -- a passthrough column whose prediction is compared; NULL for none
UPDATE scrim_state.encoders SET source = coalesce(to_regclass(source_table)::oid, 0);

CREATE TABLE scrim_state.training_jobs (
    job             bigint PRIMARY KEY REFERENCES scrim_state.river_job ON DELETE CASCADE,
    encoder         text NOT NULL,
    encoder_id      bigint NOT NULL,                -- no reference: a job outlives its encoder
    requester       oid NOT NULL,                   -- whose right to SELECT counts
    reason          text NOT NULL CHECK (reason IN ('statement', 'schedule', 'row growth')),
    cancel          boolean NOT NULL DEFAULT false,
    step            text,                           -- reading, training, reporting, publishing
    ended_at        timestamptz,                    -- when the last attempt that came to nothing gave the slot back
    epoch           integer,
    epochs          integer,
    loss            double precision,
    rows_per_second double precision,
    eta             interval,
    notices         jsonb NOT NULL DEFAULT '[]',    -- of objects: warning (boolean), message
    version         integer,                        -- what came of it
    code            text,                           -- of the last error
    error           text,
    hint            text
);

-- One training at a time, over all encoders and all processes. A row that names a connection which is no more is free.
CREATE TABLE scrim_state.training_slot (
    only_row      boolean PRIMARY KEY DEFAULT true CHECK (only_row),
    job           bigint,
    encoder       text,
    pid           integer,
    backend_start timestamptz
);
INSERT INTO scrim_state.training_slot DEFAULT VALUES;

-- The roles that read rows for training, by OID as in view_owners: one for each owner of tables.
CREATE TABLE scrim_state.trainers (
    table_owner oid PRIMARY KEY,
    role        oid NOT NULL UNIQUE
);

CREATE TABLE scrim_state.training_schedules (
    encoder_id bigint PRIMARY KEY REFERENCES scrim_state.encoders ON DELETE CASCADE,
    requester  oid NOT NULL,
    schedule   text,                                -- NULL: by growth only
    is_cron    boolean,                             -- else it is an interval
    row_growth bigint CHECK (row_growth > 0),
    grown_to   bigint,                              -- rows when growth last started a training
    next_at    timestamptz                          -- NULL: not worked out yet
);
