-- Models that were made elsewhere: the registry, and policies that show their predictions. Files are the proxy's to read, check and publish.

CREATE VIEW scrim.models AS
    SELECT m.name, m.inputs, m.outputs, m.default_version AS version, (SELECT count(*) FROM scrim_state.model_versions v WHERE v.model_id = m.id) AS versions, m.created_by, m.created_at
      FROM scrim_state.models m;

CREATE VIEW scrim.model_versions AS
    SELECT m.name AS model, v.version, v.version = m.default_version AS active, v.signature, scrim.if_admin(v.sha256) AS sha256, v.created_by, v.created_at
      FROM scrim_state.model_versions v JOIN scrim_state.models m ON m.id = v.model_id;

-- Raises unless the session's role may register models.
CREATE FUNCTION scrim.require_model_admin() RETURNS void
LANGUAGE plpgsql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    IF NOT pg_has_role(session_user, 'scrim_admin', 'USAGE') THEN
        RAISE EXCEPTION 'permission denied for models' USING ERRCODE = 'insufficient_privilege',
            HINT = format('GRANT scrim_admin TO %I lets this role import models.', session_user);
    END IF;
    PERFORM scrim.require_home();
END $$;

-- Raises unless the session's role may use a model: who made it may, and superusers.
CREATE FUNCTION scrim.require_model(model text) RETURNS void
LANGUAGE plpgsql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    m scrim_state.models;
BEGIN
    PERFORM scrim.require_model_admin();
    SELECT x.* INTO m FROM scrim_state.models x WHERE x.name = model;
    IF NOT FOUND THEN
        RAISE EXCEPTION 'model "%" does not exist', model USING ERRCODE = 'undefined_object', HINT = 'CREATE MODEL makes one; SHOW MODELS lists them.';
    END IF;
    IF NOT coalesce((SELECT pg_has_role(session_user, r.oid, 'USAGE') FROM pg_roles r WHERE r.oid = m.creator), false)
       AND NOT (SELECT r.rolsuper FROM pg_roles r WHERE r.rolname = session_user) THEN
        RAISE EXCEPTION 'permission denied for model "%"', model USING ERRCODE = 'insufficient_privilege',
            HINT = format('%s made it. On a table of one''s own a model tells the mask of any value, so only its creator may use it.', m.created_by);
    END IF;
END $$;

-- The version of a model, of which it must be one; the default version for NULL.
CREATE FUNCTION scrim.require_model_version(model text, version integer) RETURNS scrim_state.model_versions
LANGUAGE plpgsql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    v scrim_state.model_versions;
BEGIN
    PERFORM scrim.require_model(model);
    SELECT x.* INTO v FROM scrim_state.models m JOIN scrim_state.model_versions x ON x.model_id = m.id AND x.version = coalesce(require_model_version.version, m.default_version) WHERE m.name = model;
    IF NOT FOUND THEN
        RAISE EXCEPTION 'model "%" has no version %', model, version USING ERRCODE = 'undefined_object',
            HINT = (SELECT 'Its versions are ' || string_agg(x.version::text, ', ' ORDER BY x.version) || '.' FROM scrim_state.models m JOIN scrim_state.model_versions x ON x.model_id = m.id WHERE m.name = model);
    END IF;
    RETURN v;
END $$;

-- Encoders and models have their files in folders of their names: one must not have another's.
CREATE FUNCTION scrim.check_one_name(name text) RETURNS void
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    IF EXISTS (SELECT 1 FROM scrim_state.encoders e JOIN scrim_state.models m ON m.name = e.name WHERE e.name = check_one_name.name) THEN
        RAISE EXCEPTION 'there is an encoder and a model "%"', name USING ERRCODE = 'duplicate_object', HINT = 'Encoders and models share their names: choose another.';
    END IF;
END $$;

-- Whether the file of a version is to be looked at; raises if it cannot be registered whatever it is. Of a model that is new adds is false.
CREATE FUNCTION scrim.prepare_model(model text, version integer, adds boolean, if_not_exists boolean DEFAULT false) RETURNS boolean
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    is_there boolean := EXISTS (SELECT 1 FROM scrim_state.models m WHERE m.name = model);
BEGIN
    PERFORM scrim.require_model_admin();
    IF NOT adds THEN
        PERFORM scrim.check_encoder_name(model, 'model');
        IF is_there AND if_not_exists THEN
            RAISE NOTICE 'model "%" already exists, skipping', model;
            RETURN false;
        ELSIF is_there THEN
            RAISE EXCEPTION 'model "%" already exists', model USING ERRCODE = 'duplicate_object',
                HINT = format('ALTER MODEL %I ADD VERSION makes a new version of it; DROP MODEL removes it.', model);
        ELSIF EXISTS (SELECT 1 FROM scrim_state.encoders e WHERE e.name = model) THEN
            RAISE EXCEPTION 'there is an encoder "%"', model USING ERRCODE = 'duplicate_object', HINT = 'Encoders and models share their names: choose another.';
        END IF;
        RETURN true;
    END IF;
    PERFORM scrim.require_model(model);
    IF EXISTS (SELECT 1 FROM scrim_state.models m JOIN scrim_state.model_versions v ON v.model_id = m.id WHERE m.name = model AND v.version = prepare_model.version) THEN
        RAISE EXCEPTION 'model "%" has a version % already', model, version USING ERRCODE = 'duplicate_object',
            HINT = format('SHOW VERSIONS IN MODEL %I lists them.', model);
    END IF;
    RETURN true;
END $$;

-- A proxy's: notes that the file of a version is about to be published. No sweep is under way then, and each that begins later keeps it.
CREATE FUNCTION scrim.begin_publication(model text, version integer, sha256 text, inputs text[], outputs integer, signature text) RETURNS uuid
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    new_token uuid;
BEGIN
    PERFORM 1 FROM scrim_state.training_slot FOR KEY SHARE;
    INSERT INTO scrim_state.publications (model, version, sha256, inputs, outputs, signature)
    VALUES (model, version, sha256, inputs, outputs, signature) RETURNING token INTO new_token;
    RETURN new_token;
END $$;

-- A sweep's: the models of which files are being published. Forgets those that nobody can be about to register any more: their transactions were rolled back, or their proxies
-- have died.
CREATE FUNCTION scrim.models_in_publication() RETURNS SETOF text
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    DELETE FROM scrim_state.publications p
     WHERE p.token IN (SELECT o.token FROM scrim_state.publications o WHERE o.begun_at < clock_timestamp() - interval '10 minutes' FOR UPDATE SKIP LOCKED);
    RETURN QUERY SELECT DISTINCT p.model FROM scrim_state.publications p;
END $$;

-- Registers a published file as a version, the first of a new model or one more, as prepare_model has found possible.
CREATE FUNCTION scrim.register_model(model text, version integer, adds boolean, token uuid) RETURNS void
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    p scrim_state.publications;
    m scrim_state.models;
BEGIN
    SELECT x.* INTO m FROM scrim_state.models x WHERE x.name = model FOR NO KEY UPDATE;  -- of two who add the same version one waits, and is told
    PERFORM scrim.prepare_model(model, version, adds);
    DELETE FROM scrim_state.publications x WHERE x.token = register_model.token AND x.model = register_model.model AND x.version = register_model.version RETURNING * INTO p;
    IF NOT FOUND THEN
        RAISE EXCEPTION 'no file of model "%" version % was published', model, version USING ERRCODE = 'object_not_in_prerequisite_state',
            HINT = 'CREATE MODEL and ALTER MODEL ... ADD VERSION through the proxy do it. If they have met this, try again.';
    END IF;
    IF adds THEN
        IF m.inputs <> p.inputs OR m.outputs <> p.outputs THEN
            RAISE EXCEPTION 'version % of model "%" would have other inputs or outputs', version, model USING ERRCODE = 'datatype_mismatch',
                DETAIL = format('It has %s; the model takes %s and gives %s.', p.signature, array_to_string(m.inputs, ', '), m.outputs), HINT = 'Make another model of it.';
        END IF;
    ELSE
        INSERT INTO scrim_state.models (name, inputs, outputs, default_version, created_by, creator)
        SELECT model, p.inputs, p.outputs, version, session_user, r.oid FROM pg_roles r WHERE r.rolname = session_user
        RETURNING * INTO m;
        PERFORM scrim.check_one_name(model);  -- now that whoever makes an encoder waits
    END IF;
    INSERT INTO scrim_state.model_versions (model_id, version, sha256, signature, created_by) VALUES (m.id, version, p.sha256, p.signature, session_user);
END $$;

-- ALTER MODEL ... SET DEFAULT_VERSION. It says what the version is, as set_default_version does of an encoder's.
CREATE FUNCTION scrim.set_default_model_version(model text, version integer, OUT sha256 text, OUT inputs integer, OUT dims integer)
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    PERFORM scrim.require_model(model);
    PERFORM 1 FROM scrim_state.models m WHERE m.name = model FOR NO KEY UPDATE;
    sha256 := (scrim.require_model_version(model, version)).sha256;
    UPDATE scrim_state.models m SET default_version = version WHERE m.name = model RETURNING cardinality(m.inputs), m.outputs INTO inputs, dims;
END $$;

-- ALTER MODEL ... DROP VERSION.
CREATE FUNCTION scrim.drop_model_version(model text, version integer) RETURNS void
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    v scrim_state.model_versions;
    users text;
BEGIN
    PERFORM scrim.require_model(model);
    PERFORM 1 FROM scrim_state.models m WHERE m.name = model FOR NO KEY UPDATE;
    v := scrim.require_model_version(model, version);
    IF EXISTS (SELECT 1 FROM scrim_state.models m WHERE m.id = v.model_id AND m.default_version = version) THEN
        RAISE EXCEPTION 'version % is the default version of model "%"', version, model USING ERRCODE = 'dependent_objects_still_exist',
            HINT = format('ALTER MODEL %I SET DEFAULT_VERSION first, or DROP MODEL.', model);
    END IF;
    users := scrim.model_policies(v.model_id, version);
    IF users IS NOT NULL THEN
        RAISE EXCEPTION 'cannot drop version % of model "%" because masking policies use it', version, model USING ERRCODE = 'dependent_objects_still_exist',
            DETAIL = 'masking policy ' || users, HINT = 'CREATE OR REPLACE MASKING POLICY with another version first.';
    END IF;
    DELETE FROM scrim_state.model_versions x WHERE x.model_id = v.model_id AND x.version = v.version;
END $$;

-- The policies that use a model, or have named a version of it; NULL for none. Those of relations that were dropped go.
CREATE FUNCTION scrim.model_policies(model_id bigint, version integer DEFAULT NULL) RETURNS text
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    DELETE FROM scrim_state.protections x WHERE NOT EXISTS (SELECT 1 FROM pg_class c WHERE c.oid = x.relation);
    RETURN (SELECT string_agg(format('%I on %s', p.name, x.relation::regclass), ', ' ORDER BY p.id) FROM scrim_state.protections x JOIN scrim_state.policies p ON p.protection = x.id
             WHERE p.model_id = model_policies.model_id AND (version IS NULL OR p.model_version = version));
END $$;

-- What stands on a model: policies that were not made along with others.
CREATE FUNCTION scrim.model_users(model text) RETURNS TABLE (name text, relation regclass)
LANGUAGE sql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
    SELECT p.name, x.relation::regclass FROM scrim_state.protections x JOIN scrim_state.policies p ON p.protection = x.id JOIN scrim_state.models m ON m.id = p.model_id JOIN pg_class c ON c.oid = x.relation
     WHERE m.name = model AND x.along_with IS NULL ORDER BY p.id
$$;

-- DROP MODEL. With cascades, masking policies that use it go, too.
CREATE FUNCTION scrim.drop_model(model text, if_exists boolean DEFAULT false, cascades boolean DEFAULT false) RETURNS void
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    PERFORM scrim.require_model_admin();
    IF cascades THEN
        PERFORM scrim.drop_masking_policy(u.name, u.relation) FROM scrim.model_users(model) u;
    END IF;
    PERFORM scrim.forget_model(model, if_exists);
END $$;

CREATE FUNCTION scrim.forget_model(model text, if_exists boolean) RETURNS void
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    doomed bigint := (SELECT m.id FROM scrim_state.models m WHERE m.name = model);
    users text;
BEGIN
    PERFORM scrim.require_model_admin();
    IF doomed IS NULL AND if_exists THEN
        RAISE NOTICE 'model "%" does not exist, skipping', model;
        RETURN;
    END IF;
    PERFORM scrim.require_model(model);
    users := scrim.model_policies(doomed);
    IF users IS NOT NULL THEN
        RAISE EXCEPTION 'cannot drop model "%" because masking policies use it', model
            USING ERRCODE = 'dependent_objects_still_exist', DETAIL = 'masking policy ' || users, HINT = 'DROP MASKING POLICY first, or DROP MODEL ... CASCADE.';
    END IF;
    DELETE FROM scrim_state.models m WHERE m.id = doomed;
END $$;

-- Raises unless columns can be the inputs of a model. ONNX has no NULL: where an input is a float it is NaN, which models know as missing. Integers and booleans have
-- nothing of the kind. To show NULL in the mask's place would tell of an input that it is missing, and be no prediction, so such columns must be NOT NULL; if one is
-- not any more, rows with NULL in it are an error. Whether the copies in a view can be NULL is not known, so of those only the types are looked at.
CREATE FUNCTION scrim.check_model_inputs(relation regclass, nums smallint[], kinds text[], are_copies boolean) RETURNS void
LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    bad record;
BEGIN
    PERFORM scrim.check_features(relation, nums);
    FOR bad IN
        SELECT a.attname, i.kind, format_type(a.atttypid, a.atttypmod) AS type, t.right AS right_type
          FROM unnest(nums, kinds) WITH ORDINALITY AS i(num, kind, ord) JOIN pg_attribute a ON a.attrelid = relation AND a.attnum = i.num,
               LATERAL (SELECT a.atttypid = 'bool'::regtype OR i.kind = 'int64' AND a.atttypid IN ('int2'::regtype, 'int4'::regtype, 'int8'::regtype) AS right) t
         WHERE i.kind <> 'float' AND NOT (t.right AND (a.attnotnull OR are_copies)) ORDER BY i.ord
    LOOP
        IF NOT bad.right_type THEN
            RAISE EXCEPTION 'column "%" of type % cannot be an input of type %', bad.attname, bad.type, bad.kind USING ERRCODE = 'datatype_mismatch',
                HINT = CASE bad.kind WHEN 'bool' THEN 'It takes boolean.' ELSE 'It takes smallint, integer, bigint and boolean.' END;
        END IF;
        RAISE EXCEPTION 'column "%" can be NULL and cannot be an input of type %', bad.attname, bad.kind USING ERRCODE = 'feature_not_supported',
            HINT = format('Only inputs of type float know missing values, as NaN. %s the model with a float input.',
                CASE WHEN (SELECT c.relkind IN ('r', 'p') FROM pg_class c WHERE c.oid = relation) THEN format('ALTER TABLE %s ALTER COLUMN %I SET NOT NULL, or export', relation, bad.attname) ELSE 'Export' END);
    END LOOP;
END $$;

-- CREATE MASKING POLICY ... USING MODEL. version is NULL for whatever is the default.
CREATE FUNCTION scrim.create_model_masking_policy(
    policy_name text, relation regclass, columns text[], except_roles text[], model text, version integer, inputs text[],
    present text DEFAULT NULL, if_not_exists boolean DEFAULT false, mend_views boolean DEFAULT false, or_replace boolean DEFAULT false) RETURNS void
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    masked smallint[];
    input_columns smallint[];
    m record;
    presentation text;
BEGIN
    PERFORM scrim.require_policy_admin(relation);
    IF scrim.skips_policy(policy_name, relation, columns, if_not_exists, or_replace) THEN
        RETURN;
    END IF;
    masked := scrim.attnums(relation, columns);
    PERFORM scrim.require_model_version(model, version);
    SELECT x.* INTO STRICT m FROM scrim.models x WHERE x.name = model;
    presentation := coalesce(upper(present), CASE WHEN cardinality(masked) = 1 AND m.outputs > 1 THEN 'VECTOR' ELSE 'COMPONENTS' END);
    IF presentation NOT IN ('VECTOR', 'COMPONENTS') THEN
        RAISE EXCEPTION 'a mask is presented as VECTOR or COMPONENTS, not %', present USING ERRCODE = 'syntax_error';
    END IF;
    input_columns := scrim.attnums(relation, inputs);
    IF coalesce(cardinality(input_columns), 0) <> cardinality(m.inputs) THEN
        RAISE EXCEPTION 'model "%" takes % inputs, not %', model, cardinality(m.inputs), coalesce(cardinality(input_columns), 0) USING ERRCODE = 'datatype_mismatch',
            HINT = (SELECT format('It is %s.', v.signature) FROM scrim.model_versions v WHERE v.model = m.name AND v.version = coalesce(create_model_masking_policy.version, m.version));
    ELSIF presentation = 'COMPONENTS' AND m.outputs > 1 AND cardinality(masked) > m.outputs THEN
        RAISE EXCEPTION 'model "%" has % outputs for % columns', model, m.outputs, cardinality(masked) USING ERRCODE = 'datatype_mismatch',
            HINT = 'PRESENT AS VECTOR shows all outputs in each column.';
    END IF;
    PERFORM scrim.check_model_inputs(relation, input_columns, m.inputs, false);
    PERFORM scrim.add_policy(relation, jsonb_build_object('name', policy_name, 'columns', masked,
        'components', ARRAY(SELECT least(k, m.outputs) FROM generate_series(1, cardinality(masked)) k),  -- a single output is shown in each column
        'inputs', input_columns, 'encoder', NULL, 'model', model, 'version', version, 'present', presentation, 'mask', NULL), except_roles, mend_views, scrim.policy_definitions(relation));
END $$;
