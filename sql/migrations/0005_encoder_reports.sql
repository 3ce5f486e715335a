-- What is known about each version of an encoder: see udf/report/doc.go. No row of a table is in it.
CREATE TABLE scrim_state.encoder_reports (
    encoder_id bigint NOT NULL,
    version    integer NOT NULL,
    report     jsonb NOT NULL CHECK (jsonb_typeof(report) = 'array'),  -- of objects: kind, feature, measure, value, note
    made_at    timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (encoder_id, version),
    FOREIGN KEY (encoder_id, version) REFERENCES scrim_state.encoder_versions ON DELETE CASCADE
);
