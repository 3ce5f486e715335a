-- Encoders and the views that SHOW reads. An encoder without a version is being trained for the first time.

-- What a version has of the rows that it was trained on, for those who may train only, and the catalog role: a masked role can be a scrim_user.
CREATE FUNCTION scrim.if_admin(value anyelement) RETURNS anyelement
LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp AS $$
    SELECT CASE WHEN pg_has_role(session_user, 'scrim_admin', 'USAGE')
                  OR EXISTS (SELECT 1 FROM pg_namespace n JOIN pg_roles r ON r.oid = n.nspowner WHERE n.nspname = 'scrim_state' AND r.rolname = session_user) THEN value END
$$;

CREATE VIEW scrim.encoders AS
    SELECT e.name, e.source_table, e.feature_columns, e.latent_dims, e.default_version AS version,
           scrim.if_admin(v.trained_on) AS trained_on, scrim.if_admin(v.loss) AS loss, e.epochs, e.batch_size, e.seed, e.created_by, e.created_at,
           e.passthrough, e.device, e.max_leakage, e.target, s.schedule, s.row_growth, s.next_at AS next_training
      FROM scrim_state.encoders e
      LEFT JOIN scrim_state.encoder_versions v ON v.encoder_id = e.id AND v.version = e.default_version
      LEFT JOIN scrim_state.training_schedules s ON s.encoder_id = e.id;

CREATE VIEW scrim.encoder_versions AS
    SELECT e.name AS encoder, v.version, v.version = e.default_version AS active, scrim.if_admin(v.sha256) AS sha256, scrim.if_admin(v.trained_on) AS trained_on, scrim.if_admin(v.loss) AS loss, v.created_at
      FROM scrim_state.encoder_versions v JOIN scrim_state.encoders e ON e.id = v.encoder_id;

-- mask is the expression of an SQL mask, as it was typed; the others have an encoder or a model, and present. version is what they show now, and pinned if the policy names it.
CREATE VIEW scrim.masking_policies AS
    SELECT p.name, x.relation::regclass AS relation,
           ARRAY(SELECT a.attname::text FROM unnest(p.columns) WITH ORDINALITY AS c(num, ord)
                   JOIN pg_attribute a ON a.attrelid = x.relation AND a.attnum = c.num AND NOT a.attisdropped ORDER BY c.ord) AS columns,
           ARRAY(SELECT a.attname::text FROM unnest(p.inputs) WITH ORDINALITY AS c(num, ord)
                   JOIN pg_attribute a ON a.attrelid = x.relation AND a.attnum = c.num AND NOT a.attisdropped ORDER BY c.ord) AS inputs,
           e.name AS encoder, o.name AS model, coalesce(p.model_version, o.default_version, e.default_version) AS version, p.model_version IS NOT NULL AS pinned, p.present, m.wording AS mask,
           ARRAY(SELECT r.rolname::text FROM pg_roles r WHERE r.oid = ANY (p.except_roles) ORDER BY 1) AS except_roles,
           (SELECT f.relation::regclass FROM scrim_state.protections f WHERE f.id = x.along_with) AS along_with,
           p.created_by, p.created_at, p.enabled, x.suspended
      FROM scrim_state.protections x JOIN scrim_state.policies p ON p.protection = x.id
      LEFT JOIN scrim_state.encoders e ON e.id = p.encoder_id LEFT JOIN scrim_state.models o ON o.id = p.model_id LEFT JOIN scrim_state.sql_masks m ON m.id = p.sql_mask
     WHERE EXISTS (SELECT 1 FROM pg_class c WHERE c.oid = x.relation) AND x.features_of IS NULL;

-- Raises unless the session's role may train.
CREATE FUNCTION scrim.require_trainer() RETURNS void
LANGUAGE plpgsql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    IF NOT pg_has_role(session_user, 'scrim_admin', 'USAGE') THEN
        RAISE EXCEPTION 'permission denied for encoders' USING ERRCODE = 'insufficient_privilege',
            HINT = format('GRANT scrim_admin TO %I lets this role train encoders on tables it can read.', session_user);
    END IF;
    PERFORM scrim.require_home();
END $$;

CREATE FUNCTION scrim.check_encoder_name(encoder text, what text DEFAULT 'encoder') RETURNS void
LANGUAGE plpgsql IMMUTABLE SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    IF (encoder ~ '^[A-Za-z_][A-Za-z0-9_$-]{0,62}$' AND encoder <> 'import') IS NOT TRUE THEN
        RAISE EXCEPTION '% name "%" is not allowed', what, encoder USING ERRCODE = 'invalid_name',
            HINT = 'It names a folder too: letters, digits, _, $ and -, at most 63, and not import.';
    END IF;
END $$;

-- What the codes of an encoder's default version give away, and what they are good for. A version that was registered
-- without a report has no rows.
CREATE FUNCTION scrim.encoder_report(name text)
RETURNS TABLE (kind text, feature text, measure text, value float8, note text)
LANGUAGE plpgsql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    IF NOT EXISTS (SELECT 1 FROM scrim_state.encoders e WHERE e.name = encoder_report.name) THEN
        RAISE EXCEPTION 'encoder "%" does not exist', encoder_report.name USING ERRCODE = 'undefined_object',
            HINT = 'SHOW ENCODERS lists them.';
    END IF;
    RETURN QUERY
        SELECT f.line->>'kind', f.line->>'feature', f.line->>'measure', (f.line->>'value')::float8, f.line->>'note'
          FROM scrim_state.encoders e
          JOIN scrim_state.encoder_reports r ON r.encoder_id = e.id AND r.version = e.default_version,
               jsonb_array_elements(r.report) WITH ORDINALITY AS f(line, n)
         WHERE e.name = encoder_report.name
         ORDER BY f.n;
END $$;

-- Called by drop_encoder when what uses the encoder is gone.
CREATE FUNCTION scrim.forget_encoder(encoder text, if_exists boolean) RETURNS void
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    users text;
BEGIN
    PERFORM scrim.require_trainer();
    DELETE FROM scrim_state.protections x WHERE NOT EXISTS (SELECT 1 FROM pg_class c WHERE c.oid = x.relation);  -- DROP TABLE ... CASCADE
    SELECT string_agg(format('%I on %s', p.name, x.relation::regclass), ', ') INTO users
      FROM scrim_state.protections x JOIN scrim_state.policies p ON p.protection = x.id JOIN scrim_state.encoders e ON e.id = p.encoder_id WHERE e.name = encoder;
    IF users IS NOT NULL THEN
        RAISE EXCEPTION 'cannot drop encoder "%" because masking policies use it', encoder
            USING ERRCODE = 'dependent_objects_still_exist', DETAIL = 'masking policy ' || users, HINT = 'DROP MASKING POLICY first, or DROP ENCODER ... CASCADE.';
    END IF;
    IF if_exists AND NOT EXISTS (SELECT 1 FROM scrim_state.encoders e WHERE e.name = encoder) THEN
        RAISE NOTICE 'encoder "%" does not exist, skipping', encoder;
        RETURN;
    END IF;
    PERFORM scrim.require_encoder(encoder);
    PERFORM scrim.stop_training(j.id) FROM scrim.training_jobs j WHERE j.encoder = forget_encoder.encoder AND j.state IN ('queued', 'running');
    DELETE FROM scrim_state.encoders e WHERE e.name = encoder;
END $$;
