-- What happens to a masking policy between CREATE and DROP. The fence, which is the table's grants, stands all the while.

-- Raises unless the session's role may change a policy, which was not made along with another's; returns the protection that it is in. No other change of policies
-- runs from here on.
CREATE FUNCTION scrim.require_policy(policy_name text, relation regclass) RETURNS integer
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    x scrim_state.protections;
    first regclass;
BEGIN
    PERFORM scrim.require_policy_admin(relation);
    PERFORM scrim.fence_serialize();
    SELECT y.* INTO x FROM scrim_state.protections y JOIN scrim_state.policies p ON p.protection = y.id
     WHERE y.relation = require_policy.relation AND p.name = policy_name AND y.features_of IS NULL;
    IF NOT FOUND THEN
        RAISE EXCEPTION 'masking policy "%" on % does not exist', policy_name, relation USING ERRCODE = 'undefined_object', HINT = 'SHOW MASKING POLICIES lists them.';
    END IF;
    SELECT c.oid INTO first FROM scrim_state.protections f JOIN pg_class c ON c.oid = f.relation WHERE f.id = x.along_with;
    IF FOUND THEN
        RAISE EXCEPTION 'masking policy "%" on % belongs to that on %', policy_name, relation, first
            USING ERRCODE = 'dependent_objects_still_exist', HINT = format('Change masking policy %I on %s: this one changes along with it.', policy_name, first);
    END IF;
    RETURN x.id;
END $$;

-- Makes a masked view show masks or refuse, as its policies now say. One that refuses everything reads nothing, so that the table below can be altered,
-- and has the same columns, so that statements which know it meet the refusal and no other error.
CREATE FUNCTION scrim.settle_masked_view(protection_id integer) RETURNS void
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    x scrim_state.protections;
    readers jsonb;
    g record;
BEGIN
    SELECT p.* INTO STRICT x FROM scrim_state.protections p WHERE p.id = protection_id;
    IF NOT EXISTS (SELECT 1 FROM pg_class c WHERE c.oid = x.masked_view) THEN
        IF EXISTS (SELECT 1 FROM scrim_state.policies p WHERE p.protection = x.id AND p.enabled) AND NOT x.suspended THEN
            RAISE EXCEPTION 'the masked view of % was dropped', x.relation::regclass USING ERRCODE = 'object_not_in_prerequisite_state',
                HINT = 'Drop its masking policies and make them again.';
        END IF;
        RETURN;
    END IF;
    IF x.suspended OR NOT EXISTS (SELECT 1 FROM scrim_state.policies p WHERE p.protection = x.id AND p.enabled) THEN
        EXECUTE format('CREATE OR REPLACE VIEW %s AS SELECT %s WHERE scrim_runtime.masks_closed(%L::text, %s::oid, %L::bool)', x.masked_view::regclass,
            (SELECT string_agg(format('NULL::%s AS %I', scrim.column_type(a.attrelid, a.attnum), a.attname), ', ' ORDER BY a.attnum)
               FROM pg_attribute a WHERE a.attrelid = x.masked_view AND a.attnum > 0 AND NOT a.attisdropped),
            (SELECT p.name FROM scrim_state.policies p WHERE p.protection = x.id ORDER BY p.id LIMIT 1), x.relation, x.suspended);
        RETURN;
    END IF;
    -- Anew, since columns may have other types and names by now, or be gone; with the grants that the view has.
    SELECT jsonb_agg(jsonb_build_object('grantee', a.grantee, 'whole', a.attnum = 0, 'base', c.base, 'policy', c.policy, 'name', c.name)) INTO readers
      FROM scrim.relation_acl(x.masked_view) a JOIN pg_class v ON v.oid = x.masked_view AND v.relowner <> a.grantee
      LEFT JOIN scrim.masked_view_columns(protection_id) c ON c.num = a.attnum
     WHERE a.privilege = 'SELECT';
    PERFORM scrim.drop_views(ARRAY[x.masked_view]);
    UPDATE scrim_state.protections p
       SET view_columns = ARRAY(SELECT c.num FROM unnest(p.view_columns) WITH ORDINALITY AS c(num, ord)
                                  JOIN pg_attribute a ON a.attrelid = p.relation AND a.attnum = c.num AND NOT a.attisdropped ORDER BY c.ord)
     WHERE p.id = protection_id;
    PERFORM scrim.make_masked_view(protection_id);
    FOR g IN SELECT r.grantee, r.whole, c.name FROM jsonb_to_recordset(readers) AS r(grantee oid, whole boolean, base smallint, policy integer, name text)
               LEFT JOIN scrim.masked_view_columns(protection_id) c ON NOT r.whole AND c.base IS NOT DISTINCT FROM r.base AND c.policy IS NOT DISTINCT FROM r.policy
                    AND (r.base IS NOT NULL OR c.name = r.name)
              WHERE r.whole OR c.name IS NOT NULL LOOP
        EXECUTE format('GRANT SELECT %s ON scrim_runtime.%I TO %s', CASE WHEN NOT g.whole THEN format('(%I)', g.name) END,
                       scrim.masked_view_name(x.relation, protection_id), scrim.role_name(g.grantee));
    END LOOP;
END $$;

-- ALTER MASKING POLICY ... ENABLE and DISABLE.
CREATE FUNCTION scrim.enable_masking_policy(policy_name text, relation regclass, enable boolean DEFAULT true) RETURNS void
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    first integer := scrim.require_policy(policy_name, relation);
    x record;
BEGIN
    FOR x IN SELECT y.id, y.relation FROM scrim_state.protections y JOIN pg_class c ON c.oid = y.relation JOIN scrim_state.policies p ON p.protection = y.id
              WHERE first IN (y.id, y.along_with) AND p.name = policy_name AND p.enabled <> enable ORDER BY y.id LOOP
        PERFORM scrim.drop_replaced(x.relation);
        UPDATE scrim_state.policies p SET enabled = enable WHERE p.protection = x.id AND p.name = policy_name;
        PERFORM scrim.settle_masked_view(x.id);
    END LOOP;
END $$;

-- Drops the views of protections that were replaced on a relation, of those that were replaced so long ago.
CREATE FUNCTION scrim.drop_replaced(relation oid, age interval DEFAULT '0') RETURNS void
LANGUAGE sql SET search_path = pg_catalog, pg_temp AS $$
    SELECT scrim.drop_views(ARRAY(SELECT v.view FROM scrim_state.replaced_views v WHERE v.relation = drop_replaced.relation AND v.replaced_at <= clock_timestamp() - age))
$$;

-- ALTER MASKING POLICY ... RENAME TO.
CREATE FUNCTION scrim.rename_masking_policy(policy_name text, relation regclass, new_name text) RETURNS void
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    first integer := scrim.require_policy(policy_name, relation);
BEGIN
    PERFORM scrim.check_policy_name(new_name);
    IF EXISTS (SELECT 1 FROM scrim_state.policies p WHERE p.protection = first AND p.name = new_name) THEN
        RAISE EXCEPTION 'masking policy "%" on % already exists', new_name, relation USING ERRCODE = 'duplicate_object';
    END IF;
    UPDATE scrim_state.policies p SET name = new_name FROM scrim_state.protections x WHERE x.id = p.protection AND first IN (x.id, x.along_with) AND p.name = policy_name;
    PERFORM scrim.settle_masked_view(x.id)  -- its refusal says the name
       FROM scrim_state.protections x JOIN pg_class c ON c.oid = x.relation JOIN scrim_state.policies p ON p.protection = x.id AND p.name = new_name
      WHERE first IN (x.id, x.along_with) AND NOT p.enabled;
END $$;

-- ALTER MASKING POLICY ... SET EXCEPT. NULL leaves something as it is.
CREATE FUNCTION scrim.remake_masking_policy(policy_name text, relation regclass, columns smallint[], except_roles text[]) RETURNS void
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    PERFORM scrim.require_policy(policy_name, relation);
    PERFORM scrim.require_resumed(policy_name, relation);
    PERFORM scrim.fence_apply(relation, (
        SELECT jsonb_agg(CASE WHEN p ->> 'name' <> policy_name THEN p
                              ELSE p || CASE WHEN except_roles IS NULL THEN '{}' ELSE jsonb_build_object('except', scrim.role_oids(except_roles)) END
                                     || CASE WHEN columns IS NULL THEN '{}' ELSE (
                                            SELECT jsonb_build_object('columns', columns, 'components', array_agg(coalesce((scrim.nums(p -> 'components'))[o.place], 1) ORDER BY c.ord),
                                                                      'places', array_agg((scrim.nums(p -> 'places'))[o.place] ORDER BY c.ord))
                                              FROM unnest(columns) WITH ORDINALITY AS c(num, ord), LATERAL (SELECT array_position(scrim.nums(p -> 'columns'), c.num) AS place) o) END END ORDER BY ord)
          FROM jsonb_array_elements(scrim.policy_definitions(relation)) WITH ORDINALITY AS l(p, ord)), false);
END $$;

CREATE FUNCTION scrim.set_masking_policy_except(policy_name text, relation regclass, except_roles text[]) RETURNS void
LANGUAGE sql SET search_path = pg_catalog, pg_temp AS $$
    SELECT scrim.remake_masking_policy(policy_name, relation, NULL, coalesce(except_roles, '{}'))
$$;

-- Raises if masks of a relation are suspended.
CREATE FUNCTION scrim.require_resumed(policy_name text, relation regclass) RETURNS void
LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    IF (SELECT s.suspended FROM scrim.fence_state(relation) s) THEN
        RAISE EXCEPTION 'masking policy "%" on % is suspended', policy_name, relation USING ERRCODE = 'object_not_in_prerequisite_state',
            HINT = format('SELECT scrim.resume(%L) first, or drop the policy.', relation::text);
    END IF;
END $$;

-- For tools that protect one column at a time: the first call makes a policy, and others with the same encoder add columns to it. Each shows the whole code. bypass_roles are
-- the whole policy's; NULL leaves them as they are.
CREATE FUNCTION scrim.protect_column(relation regclass, column_name text, encoder text, bypass_roles text[] DEFAULT NULL) RETURNS void
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    policy record;
    names text[] := ARRAY(SELECT p.name FROM scrim.masking_policies p WHERE p.relation = protect_column.relation);
BEGIN
    PERFORM scrim.require_policy_admin(relation);
    SELECT p.* INTO policy FROM scrim.masking_policies p WHERE p.relation = protect_column.relation AND p.encoder = protect_column.encoder AND p.present = 'VECTOR' ORDER BY p.name LIMIT 1;
    IF NOT FOUND THEN
        PERFORM scrim.create_masking_policy(CASE WHEN 'protected' = ANY (names) THEN 'protected_' || column_name ELSE 'protected' END, relation, ARRAY[column_name], bypass_roles, encoder, NULL, 'VECTOR');
    ELSIF column_name = ANY (policy.columns) THEN
        RAISE EXCEPTION 'column "%" of % is masked by policy "%" already', column_name, relation, policy.name USING ERRCODE = 'duplicate_object';
    ELSE
        PERFORM scrim.remake_masking_policy(policy.name, relation, scrim.attnums(relation, policy.columns || column_name), bypass_roles);
    END IF;
END $$;

-- Takes one column out of the policy that protects it; with the last, the policy goes.
CREATE FUNCTION scrim.unprotect_column(relation regclass, column_name text) RETURNS void
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    policy record;
BEGIN
    PERFORM scrim.require_policy_admin(relation);
    SELECT p.* INTO policy FROM scrim.masking_policies p WHERE p.relation = unprotect_column.relation AND column_name = ANY (p.columns);
    IF NOT FOUND THEN
        RAISE EXCEPTION 'column "%" of % is not masked', column_name, relation USING ERRCODE = 'undefined_object';
    ELSIF cardinality(policy.columns) = 1 THEN
        PERFORM scrim.drop_masking_policy(policy.name, relation);
    ELSIF policy.present = 'COMPONENTS' THEN
        RAISE EXCEPTION 'masking policy "%" on % shows a component in each column', policy.name, relation USING ERRCODE = 'object_not_in_prerequisite_state',
            HINT = 'CREATE OR REPLACE MASKING POLICY says which columns show which.';
    ELSE
        PERFORM scrim.remake_masking_policy(policy.name, relation, scrim.attnums(relation, array_remove(policy.columns, column_name)), NULL);
    END IF;
END $$;

-- The protection of a relation, which was not made along with another, and which the session's role may change.
CREATE FUNCTION scrim.require_policy_on(relation regclass) RETURNS integer
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    policy_name text;
BEGIN
    PERFORM scrim.require_policy_admin(relation);
    SELECT p.name INTO policy_name FROM scrim_state.protections x JOIN scrim_state.policies p ON p.protection = x.id
     WHERE x.relation = require_policy_on.relation AND x.features_of IS NULL ORDER BY p.id LIMIT 1;
    IF NOT FOUND THEN
        RAISE EXCEPTION '% has no masking policy', relation USING ERRCODE = 'undefined_object';
    END IF;
    RETURN scrim.require_policy(policy_name, relation);
END $$;

-- Before a migration of a table: until scrim.resume, masked reads are refused, and no masked view stands in the way of ALTER TABLE. The fence stands.
CREATE FUNCTION scrim.suspend(relation regclass) RETURNS void
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    first integer := scrim.require_policy_on(relation);
    x scrim_state.protections;
    feature_views text := (SELECT string_agg(c.relname::text, ', ') FROM scrim_state.protections p JOIN pg_class c ON c.oid = p.relation WHERE p.features_of IN (SELECT scrim.family(suspend.relation)));
BEGIN
    IF feature_views IS NOT NULL THEN
        RAISE EXCEPTION 'cannot suspend masks of %: feature views read it', relation USING ERRCODE = 'object_not_in_prerequisite_state',
            DETAIL = 'feature view ' || feature_views, HINT = 'DROP FEATURE VIEW first, and make them again after scrim.resume.';
    END IF;
    FOR x IN SELECT p.* FROM scrim_state.protections p JOIN pg_class c ON c.oid = p.relation WHERE first IN (p.id, p.along_with) AND NOT p.suspended ORDER BY p.id LOOP
        PERFORM scrim.drop_replaced(x.relation);
        UPDATE scrim_state.protections p SET suspended = true WHERE p.id = x.id;
        PERFORM scrim.settle_masked_view(x.id);
    END LOOP;
END $$;

-- After a migration. The walk is made anew, with the table as it is now, and what it finds is refused. Columns that were dropped are taken out of their policies.
CREATE FUNCTION scrim.resume(relation regclass) RETURNS void
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    PERFORM scrim.require_policy_admin(relation);
    PERFORM scrim.fence_serialize();
    PERFORM scrim.fence_lock(relation);
    IF scrim.fence_outdated(relation) THEN
        PERFORM scrim.fence_apply(relation, scrim.policy_definitions(relation), false);
    ELSE
        PERFORM scrim.fence_resume(relation);
    END IF;
END $$;

-- Whether policies of a relation have columns that were dropped, or a masked view has gone with one (CASCADE). If so they have to be made anew, and are not suspended any more.
CREATE FUNCTION scrim.fence_outdated(relation regclass) RETURNS boolean
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    first integer := scrim.require_policy_on(relation);
BEGIN
    IF NOT EXISTS (SELECT 1 FROM scrim_state.protections x JOIN pg_class c ON c.oid = x.relation JOIN scrim_state.policies p ON p.protection = x.id
                    WHERE first IN (x.id, x.along_with)
                      AND (NOT EXISTS (SELECT 1 FROM pg_class v WHERE v.oid = x.masked_view)
                           OR EXISTS (SELECT 1 FROM pg_attribute a WHERE a.attrelid = x.relation AND a.attnum = ANY (p.columns) AND a.attisdropped))) THEN
        RETURN false;
    END IF;
    UPDATE scrim_state.protections x SET suspended = false WHERE first IN (x.id, x.along_with) AND x.suspended;
    RETURN true;
END $$;

CREATE FUNCTION scrim.fence_resume(relation regclass) RETURNS void
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    first integer := scrim.require_policy_on(relation);
    x scrim_state.protections;
    p record;
    ways text;
BEGIN
    FOR x IN SELECT y.* FROM scrim_state.protections y JOIN pg_class c ON c.oid = y.relation WHERE first IN (y.id, y.along_with) AND y.suspended ORDER BY y.id LOOP
        FOR p IN SELECT q.* FROM scrim_state.policies q WHERE q.protection = x.id LOOP
            IF EXISTS (SELECT 1 FROM unnest(p.columns || p.inputs || x.view_columns) n(num) LEFT JOIN pg_attribute a ON a.attrelid = x.relation AND a.attnum = n.num
                        WHERE a.attnum IS NULL OR a.attisdropped AND n.num = ANY (p.columns || p.inputs)) THEN
                RAISE EXCEPTION 'a masked column of %, or an input of its mask, was dropped', x.relation::regclass USING ERRCODE = 'object_not_in_prerequisite_state',
                    HINT = format('DROP MASKING POLICY %I ON %s, and make it again in the same transaction.', p.name, relation);
            END IF;
            IF p.encoder_id IS NOT NULL THEN
                PERFORM scrim.check_features(x.relation, p.inputs);
            ELSIF p.model_id IS NOT NULL THEN
                PERFORM scrim.check_model_inputs(x.relation, p.inputs, m.inputs, x.along_with IS NOT NULL) FROM scrim_state.models m WHERE m.id = p.model_id;
            END IF;
        END LOOP;
        UPDATE scrim_state.protections y SET suspended = false WHERE y.id = x.id;
        PERFORM scrim.settle_masked_view(x.id);
    END LOOP;
    -- Of the relation's parts the walk looks at by itself.
    SELECT string_agg(DISTINCT format('%s %s: %s. Close it: %s.', o.kind, o.object, o.why, o.remedy), E'\n') INTO ways
      FROM scrim_state.protections y JOIN pg_class c ON c.oid = y.relation, scrim.masked_for(y.relation) m, scrim.openings(y.relation, m.columns, m.inputs, m.except_roles) o
     WHERE y.id = first OR y.along_with = first AND c.relkind IN ('v', 'm');
    IF ways IS NOT NULL THEN
        RAISE EXCEPTION 'cannot resume masks of %: raw values could be read or probed another way', relation
            USING ERRCODE = 'object_not_in_prerequisite_state', DETAIL = ways, HINT = 'Close each of these and try again. Until then masked columns stay closed.';
    END IF;
END $$;
