-- The audit of changes. Whichever function, statement or superuser changes a policy, an encoder, a feature view, a key or the audit's settings: triggers on
-- the tables keep what an object was when the transaction first touched it (audit_row), and at the end compare that with what it is then
-- (audit_write). So there is one entry for each object that a transaction has changed, with what it came to, and none for one that is rolled back or comes
-- to nothing, like a policy that is replaced by the same. No function takes an entry from a caller, so there is nothing to forge one with.

CREATE VIEW scrim.audit AS
    SELECT a.id, a.at, a.kind, a.role, a.client, a.application, a.tag, a.object, a.schema, a.relation, a.relation_oid, a.columns, a.rows, a.fingerprint, a.sqlstate, a.details
      FROM scrim_state.audit a;

-- What there is to say of an object as it is now, in names; NULL if there is none. It looks at the one row that the transaction has locked by changing it, and at what
-- never changes, so that nothing of another transaction's is in the difference. Policies that were made along with another are part of that.
CREATE FUNCTION scrim.audit_image(kind text, relation oid, name text) RETURNS jsonb
LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp AS $$
    SELECT CASE kind
        WHEN 'masking policy' THEN (
            SELECT jsonb_strip_nulls(jsonb_build_object('columns', p.columns, 'inputs', p.inputs, 'encoder', p.encoder, 'model', p.model, 'version', CASE WHEN p.pinned THEN p.version END, 'present', p.present, 'mask', (
                            -- What it is, not what somebody says that he typed.
                            SELECT (SELECT string_agg(scrim.spell_mask(k.mask, x.relation, NULL, true), ', ' ORDER BY k.ord) FROM unnest(m.masks) WITH ORDINALITY AS k(mask, ord))
                                   || coalesce(' WHEN (' || scrim.spell_mask(m.condition, x.relation, NULL, true) || ')', '')
                              FROM scrim_state.protections x JOIN scrim_state.policies q ON q.protection = x.id JOIN scrim_state.sql_masks m ON m.id = q.sql_mask
                             WHERE x.relation = p.relation AND q.name = p.name), 'except', p.except_roles,
                                                        'enabled', p.enabled, 'suspended', p.suspended))
              FROM scrim.masking_policies p WHERE p.relation = audit_image.relation AND p.name = audit_image.name AND p.along_with IS NULL)
        WHEN 'mask' THEN (  -- defined to be attached to columns
            SELECT jsonb_build_object('arguments', d.arguments, 'types', d.types, 'mask', d.expression) FROM scrim_state.mask_definitions d WHERE d.name = audit_image.name)
        WHEN 'feature view' THEN (
            SELECT jsonb_build_object('encoder', e.name, 'table', x.features_of::regclass::text)
              FROM scrim_state.protections x JOIN scrim_state.policies p ON p.protection = x.id JOIN scrim_state.encoders e ON e.id = p.encoder_id
             WHERE x.relation = audit_image.relation AND p.name = audit_image.name AND x.features_of IS NOT NULL)
        WHEN 'encoder' THEN (
            SELECT jsonb_strip_nulls(jsonb_build_object(
                       'table', e.source_table, 'features', e.feature_columns, 'passthrough', e.passthrough, 'latent_dims', e.latent_dims, 'epochs', e.epochs,
                       'batch_size', e.batch_size, 'seed', e.seed, 'device', e.device, 'allow_identifiers', e.allow_identifiers, 'max_leakage', e.max_leakage, 'target', e.target,
                       'version', e.default_version, 'sha256', v.sha256))
              FROM scrim_state.encoders e LEFT JOIN scrim_state.encoder_versions v ON v.encoder_id = e.id AND v.version = e.default_version
             WHERE e.name = audit_image.name)
        WHEN 'model' THEN (
            SELECT jsonb_build_object('inputs', m.inputs, 'outputs', m.outputs, 'version', m.default_version,
                                      'versions', (SELECT coalesce(jsonb_object_agg(v.version, v.sha256), '{}') FROM scrim_state.model_versions v WHERE v.model_id = m.id))
              FROM scrim_state.models m WHERE m.name = audit_image.name)
        WHEN 'schedule' THEN (
            SELECT jsonb_strip_nulls(jsonb_build_object('schedule', s.schedule, 'row_growth', s.row_growth))
              FROM scrim_state.training_schedules s JOIN scrim_state.encoders e ON e.id = s.encoder_id WHERE e.name = audit_image.name)
        WHEN 'training job' THEN (
            SELECT jsonb_build_object('encoder', t.encoder, 'reason', t.reason, 'cancelled', t.cancel) FROM scrim_state.training_jobs t WHERE t.job = audit_image.name::bigint)
        WHEN 'key' THEN (
            SELECT jsonb_build_object('retired', max(k.id)) FROM scrim_state.retired_keys k JOIN pg_roles r ON r.oid = k.key_owner WHERE r.rolname = audit_image.name)
        WHEN 'audit' THEN (SELECT jsonb_build_object('level', s.level, 'retention', s.retention::text) FROM scrim_state.audit_settings s) END
$$;

-- Notes what the object of a row is before the row changes.
CREATE FUNCTION scrim.audit_row() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    INSERT INTO scrim_state.audit_before (kind, relation, name, was)
    SELECT DISTINCT ON (o.kind, o.relation, o.name) o.kind, o.relation, o.name, scrim.audit_image(o.kind, o.relation, o.name)
      FROM unnest(ARRAY[to_jsonb(OLD), to_jsonb(NEW)]) touched(r), LATERAL (
            -- Of a protection that goes, policies go with it, and find it no more.
            SELECT CASE WHEN x.features_of IS NULL THEN 'masking policy' ELSE 'feature view' END, x.relation, coalesce(p.name, r ->> 'name')
              FROM scrim_state.protections x LEFT JOIN scrim_state.policies p ON TG_TABLE_NAME = 'protections' AND p.protection = x.id
             WHERE x.along_with IS NULL AND x.id = CASE TG_TABLE_NAME WHEN 'policies' THEN (r ->> 'protection')::int WHEN 'protections' THEN (r ->> 'id')::int END
               AND (p.name IS NOT NULL OR TG_TABLE_NAME = 'policies')
            UNION ALL
            SELECT 'mask', 0, r ->> 'name' WHERE TG_TABLE_NAME = 'mask_definitions'
            UNION ALL
            SELECT 'encoder', 0, r ->> 'name' WHERE TG_TABLE_NAME = 'encoders'
            UNION ALL
            SELECT 'model', 0, m.name FROM scrim_state.models m WHERE m.id = CASE TG_TABLE_NAME WHEN 'model_versions' THEN (r ->> 'model_id')::bigint END
            UNION ALL
            SELECT 'model', 0, r ->> 'name' WHERE TG_TABLE_NAME = 'models'
            UNION ALL
            SELECT 'schedule', 0, e.name FROM scrim_state.encoders e WHERE TG_TABLE_NAME = 'training_schedules' AND e.id = (r ->> 'encoder_id')::bigint
            UNION ALL
            SELECT 'training job', 0, r ->> 'job' WHERE TG_TABLE_NAME = 'training_jobs'
            UNION ALL
            SELECT 'key', 0, k.rolname FROM pg_roles k WHERE TG_TABLE_NAME = 'retired_keys' AND k.oid = (r ->> 'key_owner')::oid
            UNION ALL
            SELECT 'audit', 0, 'audit' WHERE TG_TABLE_NAME = 'audit_settings') o(kind, relation, name)
     WHERE r IS NOT NULL AND NOT EXISTS (SELECT 1 FROM scrim_state.audit_before b
                                          WHERE b.transaction = pg_current_xact_id() AND b.kind = o.kind AND b.relation = o.relation AND b.name = o.name);
    RETURN CASE WHEN TG_OP = 'DELETE' THEN OLD ELSE NEW END;
END $$;

-- Writes an entry for each object that the transaction has changed, when it ends; where somebody has SET CONSTRAINTS IMMEDIATE, when a statement does.
CREATE FUNCTION scrim.audit_write() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    before scrim_state.audit_before;
    image jsonb;
    renamed text;
    encoders text[] := '{}';  -- that there is an entry of
BEGIN
    LOOP
        -- What was there comes before what was not, so the old name of a policy before its new one.
        DELETE FROM scrim_state.audit_before b
         WHERE b.ctid = (SELECT o.ctid FROM scrim_state.audit_before o WHERE o.transaction = pg_current_xact_id() ORDER BY o.kind = 'training job', o.was IS NULL, o.ctid LIMIT 1)
        RETURNING b.* INTO before;
        EXIT WHEN NOT FOUND;
        image := scrim.audit_image(before.kind, before.relation, before.name);
        CONTINUE WHEN image IS NOT DISTINCT FROM before.was OR before.kind <> 'audit' AND (SELECT s.level = 'off' FROM scrim_state.audit_settings s);
        renamed := NULL;
        IF image IS NULL THEN  -- it is gone, or it is there by another name
            DELETE FROM scrim_state.audit_before b
             WHERE b.transaction = pg_current_xact_id() AND b.kind = before.kind AND b.relation = before.relation AND b.was IS NULL
               AND scrim.audit_image(b.kind, b.relation, b.name) = before.was
            RETURNING b.name INTO renamed;
        END IF;
        IF before.kind = 'encoder' THEN
            encoders := encoders || before.name;
        END IF;
        CONTINUE WHEN before.kind = 'training job' AND coalesce(image, before.was) ->> 'encoder' = ANY (encoders);  -- it is part of that
        PERFORM scrim.audit_change(before, image, renamed);
    END LOOP;
    RETURN NULL;
END $$;

-- Writes one entry.
CREATE FUNCTION scrim.audit_change(before scrim_state.audit_before, image jsonb, renamed text) RETURNS void
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    changed jsonb := (SELECT coalesce(jsonb_object_agg(key, jsonb_strip_nulls(jsonb_build_object('old', o.value, 'new', n.value))), '{}')
                        FROM jsonb_each(before.was) o FULL JOIN jsonb_each(image) n USING (key) WHERE o.value IS DISTINCT FROM n.value);
    action text := CASE WHEN before.was IS NULL THEN 'CREATE ' WHEN image IS NULL AND renamed IS NULL THEN 'DROP ' ELSE 'ALTER ' END;
BEGIN
    INSERT INTO scrim_state.audit (kind, role, client, application, tag, object, schema, relation, relation_oid, columns, details)
    VALUES ('change', session_user, host(inet_client_addr()), current_setting('application_name'),
            CASE before.kind WHEN 'key' THEN 'ROTATE KEY' WHEN 'audit' THEN 'SET AUDIT' WHEN 'schedule' THEN 'ALTER ENCODER'
                             WHEN 'training job' THEN CASE WHEN (image ->> 'cancelled')::boolean THEN 'CANCEL TRAINING JOB' ELSE 'TRAIN ENCODER' END
                             WHEN 'mask' THEN action || 'MASKING POLICY' ELSE action || upper(before.kind) END,
            CASE before.kind WHEN 'training job' THEN coalesce(image, before.was) ->> 'encoder' ELSE before.name END,
            (SELECT n.nspname FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace WHERE c.oid = before.relation),
            (SELECT c.relname FROM pg_class c WHERE c.oid = before.relation), nullif(before.relation, 0),
            (SELECT array_agg(c ORDER BY n) FROM jsonb_array_elements_text(coalesce(image, before.was) -> 'columns') WITH ORDINALITY AS t(c, n)),
            CASE WHEN before.kind = 'key' THEN '{}'
                 WHEN before.kind = 'training job' THEN jsonb_build_object('job', before.name::bigint, 'reason', image -> 'reason')
                 WHEN renamed IS NOT NULL THEN jsonb_build_object('name', jsonb_build_object('old', before.name, 'new', renamed))
                 WHEN action <> 'ALTER ' AND before.kind <> 'schedule' THEN coalesce(image, before.was)
                 ELSE changed END);
END $$;

DO $$
DECLARE
    t record;
BEGIN
    FOR t IN SELECT * FROM (VALUES ('policies', 'INSERT OR UPDATE OR DELETE'), ('protections', 'UPDATE OF suspended OR DELETE'), ('mask_definitions', 'INSERT OR UPDATE OR DELETE'), ('encoders', 'INSERT OR UPDATE OR DELETE'), ('models', 'INSERT OR UPDATE OR DELETE'), ('model_versions', 'INSERT OR UPDATE OR DELETE'),
                                   ('training_schedules', 'INSERT OR UPDATE OF schedule, row_growth OR DELETE'), ('training_jobs', 'INSERT OR UPDATE OF cancel'),
                                   ('retired_keys', 'INSERT'), ('audit_settings', 'INSERT OR UPDATE OR DELETE')) AS v(name, events) LOOP
        EXECUTE format('CREATE TRIGGER audit_row BEFORE %s ON scrim_state.%I FOR EACH ROW EXECUTE FUNCTION scrim.audit_row()', t.events, t.name);
        EXECUTE format('CREATE CONSTRAINT TRIGGER audit_write AFTER %s ON scrim_state.%I DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION scrim.audit_write()', t.events, t.name);
    END LOOP;
END $$;

-- What is audited, off, changes or all, and for how long entries stay. NULL leaves either as it is.
CREATE FUNCTION scrim.set_audit(level text DEFAULT NULL, retention interval DEFAULT NULL) RETURNS void
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    IF NOT pg_has_role(session_user, 'scrim_admin', 'USAGE') THEN
        RAISE EXCEPTION 'permission denied for the audit' USING ERRCODE = 'insufficient_privilege', HINT = format('GRANT scrim_admin TO %I lets this role set it.', session_user);
    ELSIF NOT level IN ('off', 'changes', 'all') THEN
        RAISE EXCEPTION 'unrecognized level "%"', level USING ERRCODE = 'invalid_parameter_value', HINT = 'Levels are off, changes and all.';
    ELSIF retention < interval '1 day' THEN
        RAISE EXCEPTION 'a retention of % is too short', retention USING ERRCODE = 'invalid_parameter_value', HINT = 'Entries stay for a day at least.';
    END IF;
    UPDATE scrim_state.audit_settings s SET level = coalesce(set_audit.level, s.level), retention = coalesce(set_audit.retention, s.retention);
END $$;

-- Deletes entries that are older than the retention, so many at most, and says how many there were. Proxies call it.
CREATE FUNCTION scrim.prune_audit(most integer) RETURNS bigint
LANGUAGE sql SET search_path = pg_catalog, pg_temp AS $$
    WITH old AS (
        SELECT a.id FROM scrim_state.audit a
         WHERE a.at < clock_timestamp() - (SELECT s.retention FROM scrim_state.audit_settings s) AND a.tag IS DISTINCT FROM 'SET AUDIT'
         ORDER BY a.at LIMIT most FOR UPDATE SKIP LOCKED),
    gone AS (DELETE FROM scrim_state.audit a USING old WHERE a.id = old.id RETURNING a.id)
    SELECT count(*) FROM gone
$$;
