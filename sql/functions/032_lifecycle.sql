-- What happens to a masking policy between CREATE and DROP. The fence, which is the table's grants, stands all the while.

-- Raises unless the session's role may change a policy, which was not made along with another; returns its id. No other change of policies
-- runs from here on.
CREATE FUNCTION scrim.require_policy(policy_name text, relation regclass) RETURNS integer
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    policy scrim_state.policies;
    first regclass;
BEGIN
    PERFORM scrim.require_policy_admin(relation);
    PERFORM scrim.fence_serialize();
    SELECT p.* INTO policy FROM scrim_state.policies p WHERE p.relation = require_policy.relation AND p.name = policy_name AND p.features_of IS NULL;
    IF NOT FOUND THEN
        RAISE EXCEPTION 'masking policy "%" on % does not exist', policy_name, relation USING ERRCODE = 'undefined_object', HINT = 'SHOW MASKING POLICIES lists them.';
    END IF;
    SELECT c.oid INTO first FROM scrim_state.policies f JOIN pg_class c ON c.oid = f.relation WHERE f.id = policy.along_with;
    IF FOUND THEN
        RAISE EXCEPTION 'masking policy "%" on % belongs to that on %', policy_name, relation, first
            USING ERRCODE = 'dependent_objects_still_exist', HINT = format('Change masking policy %I on %s: this one changes along with it.', policy_name, first);
    END IF;
    RETURN policy.id;
END $$;

-- Makes a policy's masked view show masks or refuse, as the policy now says. One that refuses reads nothing, so that the table below can be altered,
-- and has the same columns, so that statements which know it meet the refusal and no other error.
CREATE FUNCTION scrim.settle_masked_view(policy_id integer) RETURNS void
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    policy scrim_state.policies;
    g record;
    readers jsonb;
BEGIN
    SELECT p.* INTO STRICT policy FROM scrim_state.policies p WHERE p.id = policy_id;
    IF NOT EXISTS (SELECT 1 FROM pg_class c WHERE c.oid = policy.masked_view) THEN
        IF policy.enabled AND NOT policy.suspended THEN
            RAISE EXCEPTION 'the masked view of % was dropped', policy.relation::regclass USING ERRCODE = 'object_not_in_prerequisite_state',
                HINT = 'Drop the masking policy and make it again.';
        END IF;
        RETURN;
    END IF;
    IF NOT policy.enabled OR policy.suspended THEN
        EXECUTE format('CREATE OR REPLACE VIEW %s AS SELECT %s WHERE scrim_runtime.masks_closed(%L::text, %s::oid, %L::bool)', policy.masked_view::regclass,
            (SELECT string_agg(format('NULL::%s%s AS %I', format_type(a.atttypid, a.atttypmod),
                        (SELECT format(' COLLATE %I.%I', n.nspname, c.collname) FROM pg_collation c JOIN pg_namespace n ON n.oid = c.collnamespace WHERE c.oid = a.attcollation),
                        a.attname), ', ' ORDER BY a.attnum)
               FROM pg_attribute a WHERE a.attrelid = policy.masked_view AND a.attnum > 0 AND NOT a.attisdropped),
            policy.name, policy.relation, policy.suspended);
        RETURN;
    END IF;
    -- Anew, since columns may have other types and names by now, or be gone; with the grants that the view has.
    SELECT jsonb_agg(jsonb_build_object('grantee', x.grantee, 'whole', x.attnum = 0,
               'col', CASE WHEN policy.seals_only OR x.attnum > cardinality(policy.view_columns) THEN own.attname ELSE base.attname END)) INTO readers
      FROM scrim.relation_acl(policy.masked_view) x
      JOIN pg_class c ON c.oid = policy.masked_view AND c.relowner <> x.grantee
      LEFT JOIN pg_attribute own ON own.attrelid = c.oid AND own.attnum = x.attnum
      LEFT JOIN pg_attribute base ON base.attrelid = policy.relation AND base.attnum = policy.view_columns[x.attnum] AND NOT base.attisdropped
     WHERE x.privilege = 'SELECT';
    PERFORM scrim.drop_views(ARRAY[policy.masked_view]);
    UPDATE scrim_state.policies p
       SET view_columns = ARRAY(SELECT c.num FROM unnest(p.view_columns) WITH ORDINALITY AS c(num, ord)
                                  JOIN pg_attribute a ON a.attrelid = p.relation AND a.attnum = c.num AND NOT a.attisdropped ORDER BY c.ord)
     WHERE p.id = policy_id;
    PERFORM scrim.make_masked_view(policy_id);
    FOR g IN SELECT r.* FROM jsonb_to_recordset(readers) AS r(grantee oid, whole boolean, col text) WHERE r.whole OR r.col IS NOT NULL LOOP
        EXECUTE format('GRANT SELECT %s ON scrim_runtime.%I TO %s', CASE WHEN NOT g.whole THEN format('(%I)', g.col) END,
                       scrim.masked_view_name(policy.relation, policy_id), scrim.role_name(g.grantee));
    END LOOP;
END $$;

-- ALTER MASKING POLICY ... ENABLE and DISABLE.
CREATE FUNCTION scrim.enable_masking_policy(policy_name text, relation regclass, enable boolean DEFAULT true) RETURNS void
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    first integer := scrim.require_policy(policy_name, relation);
    changed integer;
BEGIN
    FOR changed IN SELECT p.id FROM scrim_state.policies p JOIN pg_class c ON c.oid = p.relation
                    WHERE first IN (p.id, p.along_with) AND p.enabled <> enable ORDER BY p.id LOOP
        PERFORM scrim.drop_replaced(p.relation) FROM scrim_state.policies p WHERE p.id = changed;
        UPDATE scrim_state.policies p SET enabled = enable WHERE p.id = changed;
        PERFORM scrim.settle_masked_view(changed);
    END LOOP;
END $$;

-- Drops the views of policies that were replaced on a relation, of those that were replaced so long ago.
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
    IF coalesce(new_name, '') = '' OR octet_length(new_name) > 63 THEN
        RAISE EXCEPTION 'a masking policy has a name of 1 to 63 bytes' USING ERRCODE = 'invalid_name';
    ELSIF new_name = policy_name THEN
        RAISE EXCEPTION 'masking policy "%" on % already exists', new_name, relation USING ERRCODE = 'duplicate_object';
    END IF;
    UPDATE scrim_state.policies p SET name = new_name WHERE first IN (p.id, p.along_with);
    PERFORM scrim.settle_masked_view(p.id)  -- its refusal says the name
       FROM scrim_state.policies p JOIN pg_class c ON c.oid = p.relation WHERE first IN (p.id, p.along_with) AND NOT p.enabled;
END $$;

-- Replaces the policy of a relation by one that is the same but for its columns and exempt roles.
CREATE FUNCTION scrim.remake_masking_policy(policy_name text, relation regclass, columns text[], except_roles text[]) RETURNS void
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    policy record;
BEGIN
    PERFORM scrim.require_policy(policy_name, relation);
    SELECT p.* INTO STRICT policy FROM scrim.masking_policies p WHERE p.relation = remake_masking_policy.relation;
    PERFORM scrim.create_masking_policy(policy_name, relation, coalesce(columns, policy.columns), coalesce(except_roles, policy.except_roles), policy.encoder, policy.inputs, policy.present, false,
        EXISTS (SELECT 1 FROM scrim.masking_policies v JOIN pg_class c ON c.oid = v.relation WHERE v.along_with = remake_masking_policy.relation AND c.relkind IN ('v', 'm')), true);
END $$;

-- ALTER MASKING POLICY ... SET EXCEPT.
CREATE FUNCTION scrim.set_masking_policy_except(policy_name text, relation regclass, except_roles text[]) RETURNS void
LANGUAGE sql SET search_path = pg_catalog, pg_temp AS $$
    SELECT scrim.remake_masking_policy(policy_name, relation, NULL, coalesce(except_roles, '{}'))
$$;

-- For tools that protect one column at a time: the first call makes a policy, and others add columns to it. Each shows the whole code. bypass_roles are
-- the whole policy's; NULL leaves them as they are.
CREATE FUNCTION scrim.protect_column(relation regclass, column_name text, encoder text, bypass_roles text[] DEFAULT NULL) RETURNS void
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    policy record;
BEGIN
    PERFORM scrim.require_policy_admin(relation);
    SELECT p.* INTO policy FROM scrim.masking_policies p WHERE p.relation = protect_column.relation;
    IF NOT FOUND THEN
        PERFORM scrim.create_masking_policy('protected', relation, ARRAY[column_name], bypass_roles, encoder, NULL, 'VECTOR');
    ELSIF policy.encoder <> encoder OR policy.present <> 'VECTOR' THEN
        RAISE EXCEPTION 'masking policy "%" on % shows codes in another way', policy.name, relation USING ERRCODE = 'object_not_in_prerequisite_state',
            DETAIL = format('It uses encoder "%s", presented as %s.', policy.encoder, policy.present), HINT = 'CREATE OR REPLACE MASKING POLICY changes it: a table takes one policy in this version.';
    ELSE
        PERFORM scrim.remake_masking_policy(policy.name, relation, policy.columns || column_name, bypass_roles);
    END IF;
END $$;

-- Takes one column out of the policy that protects it; with the last, the policy goes.
CREATE FUNCTION scrim.unprotect_column(relation regclass, column_name text) RETURNS void
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    policy record;
BEGIN
    PERFORM scrim.require_policy_admin(relation);
    SELECT p.* INTO policy FROM scrim.masking_policies p WHERE p.relation = unprotect_column.relation;
    IF policy.columns IS NULL OR NOT column_name = ANY (policy.columns) THEN
        RAISE EXCEPTION 'column "%" of % is not masked', column_name, relation USING ERRCODE = 'undefined_object';
    ELSIF cardinality(policy.columns) = 1 THEN
        PERFORM scrim.drop_masking_policy(policy.name, relation);
    ELSIF policy.present <> 'VECTOR' THEN
        RAISE EXCEPTION 'masking policy "%" on % shows a component in each column', policy.name, relation USING ERRCODE = 'object_not_in_prerequisite_state',
            HINT = 'CREATE OR REPLACE MASKING POLICY says which columns show which.';
    ELSE
        PERFORM scrim.remake_masking_policy(policy.name, relation, array_remove(policy.columns, column_name), NULL);
    END IF;
END $$;

-- The policy on a relation, which was not made along with another, and which the session's role may change.
CREATE FUNCTION scrim.require_policy_on(relation regclass) RETURNS integer
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    policy scrim_state.policies;
BEGIN
    PERFORM scrim.require_policy_admin(relation);
    SELECT p.* INTO policy FROM scrim_state.policies p WHERE p.relation = require_policy_on.relation AND p.features_of IS NULL;
    IF NOT FOUND THEN
        RAISE EXCEPTION '% has no masking policy', relation USING ERRCODE = 'undefined_object';
    END IF;
    RETURN scrim.require_policy(policy.name, relation);
END $$;

-- Before a migration of a table: until scrim.resume, masked reads are refused, and no masked view stands in the way of ALTER TABLE. The fence stands.
CREATE FUNCTION scrim.suspend(relation regclass) RETURNS void
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    first integer := scrim.require_policy_on(relation);
    policy scrim_state.policies;
    feature_views text := (SELECT string_agg(quote_ident(p.name), ', ') FROM scrim_state.policies p WHERE p.features_of IN (SELECT scrim.family(suspend.relation)));
BEGIN
    IF feature_views IS NOT NULL THEN
        RAISE EXCEPTION 'cannot suspend masks of %: feature views read it', relation USING ERRCODE = 'object_not_in_prerequisite_state',
            DETAIL = 'feature view ' || feature_views, HINT = 'DROP FEATURE VIEW first, and make them again after scrim.resume.';
    END IF;
    FOR policy IN SELECT p.* FROM scrim_state.policies p JOIN pg_class c ON c.oid = p.relation WHERE first IN (p.id, p.along_with) AND NOT p.suspended ORDER BY p.id LOOP
        PERFORM scrim.drop_replaced(policy.relation);
        UPDATE scrim_state.policies p SET suspended = true WHERE p.id = policy.id;
        PERFORM scrim.settle_masked_view(policy.id);
    END LOOP;
END $$;

-- After a migration. The walk is made anew, with the table as it is now, and what it finds is refused.
CREATE FUNCTION scrim.resume(relation regclass) RETURNS void
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    PERFORM scrim.require_policy_admin(relation);
    PERFORM scrim.fence_serialize();
    PERFORM scrim.fence_lock(relation);
    PERFORM scrim.fence_resume(relation);
END $$;

CREATE FUNCTION scrim.fence_resume(relation regclass) RETURNS void
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    first integer := scrim.require_policy_on(relation);
    policy scrim_state.policies;
    ways text;
BEGIN
    FOR policy IN SELECT p.* FROM scrim_state.policies p JOIN pg_class c ON c.oid = p.relation WHERE first IN (p.id, p.along_with) AND p.suspended ORDER BY p.id LOOP
        IF EXISTS (SELECT 1 FROM unnest(policy.columns || policy.inputs) n(num) JOIN pg_attribute a ON a.attrelid = policy.relation AND a.attnum = n.num WHERE a.attisdropped) THEN
            RAISE EXCEPTION 'a masked column of %, or an input of its mask, was dropped', policy.relation::regclass USING ERRCODE = 'object_not_in_prerequisite_state',
                HINT = format('DROP MASKING POLICY %I ON %s, and make it again in the same transaction.', policy.name, relation);
        END IF;
        PERFORM scrim.check_features(policy.relation, policy.inputs);
        UPDATE scrim_state.policies p SET suspended = false WHERE p.id = policy.id;
        PERFORM scrim.settle_masked_view(policy.id);
    END LOOP;
    -- Of the relation's parts the walk looks at by itself.
    SELECT string_agg(DISTINCT format('%s %s: %s. Close it: %s.', o.kind, o.object, o.why, o.remedy), E'\n') INTO ways
      FROM scrim_state.policies p JOIN pg_class c ON c.oid = p.relation, scrim.openings(p.relation, p.columns, p.inputs, p.except_roles) o
     WHERE p.id = first OR p.along_with = first AND c.relkind IN ('v', 'm');
    IF ways IS NOT NULL THEN
        RAISE EXCEPTION 'cannot resume masks of %: raw values could be read or probed another way', relation
            USING ERRCODE = 'object_not_in_prerequisite_state', DETAIL = ways, HINT = 'Close each of these and try again. Until then masked columns stay closed.';
    END IF;
END $$;

-- Takes a policy away that is about to be made anew. Its masked views stay, for statements that were planned before: they go on with the old masks,
-- and are refused (still_granted) if a column is masked now that was not. Returns whether the policy was enabled.
CREATE FUNCTION scrim.fence_retire(policy_name text, relation regclass) RETURNS boolean
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    first integer := scrim.require_policy(policy_name, relation);
    policy scrim_state.policies;
    was_enabled boolean;
BEGIN
    FOR policy IN SELECT p.* FROM scrim_state.policies p WHERE first IN (p.id, p.along_with) ORDER BY p.id LOOP
        IF policy.suspended THEN
            RAISE EXCEPTION 'masking policy "%" on % is suspended', policy.name, policy.relation::regclass USING ERRCODE = 'object_not_in_prerequisite_state',
                HINT = format('SELECT scrim.resume(%L) first, or drop the policy.', relation::text);
        END IF;
        PERFORM scrim.drop_replaced(policy.relation, '1 minute');
        INSERT INTO scrim_state.replaced_views (view, relation) SELECT c.oid, policy.relation FROM pg_class c WHERE c.oid = policy.masked_view;
        UPDATE scrim_state.policies p SET masked_view = 0 WHERE p.id = policy.id;
        was_enabled := coalesce(was_enabled, policy.enabled);
    END LOOP;
    RETURN was_enabled;
END $$;
