-- CREATE and DROP MASKING POLICY. The parts that change the table's own grants run with the rights of whoever calls
-- them. The parts that write Scrim's state and make the masked view are SECURITY DEFINER, take no expression of the
-- caller's, and check session_user again: they can be called alone, but only against one's own table.

CREATE FUNCTION scrim.require_policy_admin(relation regclass) RETURNS void
LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    owner oid := (SELECT c.relowner FROM pg_class c WHERE c.oid = relation);
BEGIN
    IF NOT pg_has_role(session_user, 'scrim_admin', 'USAGE') THEN
        RAISE EXCEPTION 'permission denied for masking policies' USING ERRCODE = 'insufficient_privilege',
            HINT = format('GRANT scrim_admin TO %I lets this role manage policies on tables it owns.', session_user);
    END IF;
    IF NOT pg_has_role(session_user, owner, 'USAGE') THEN
        RAISE EXCEPTION 'must be owner of table %', relation USING ERRCODE = 'insufficient_privilege';
    END IF;
END $$;

CREATE FUNCTION scrim.require_protectable(relation regclass) RETURNS void
LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    rel pg_class;
    member pg_class;
    reason text;
BEGIN
    SELECT c.* INTO STRICT rel FROM pg_class c WHERE c.oid = relation;
    reason := CASE
        WHEN rel.relkind NOT IN ('r', 'p', 'v', 'm', 'f') THEN 'not a table or view'
        WHEN rel.relpersistence = 't' THEN 'temporary'
        WHEN rel.relnamespace IN ('pg_catalog'::regnamespace, 'information_schema'::regnamespace, 'scrim_state'::regnamespace, 'scrim_runtime'::regnamespace)
            THEN 'a system table'
        WHEN scrim.runs_as_invoker(relation)
            THEN 'a view with security_invoker: mask the columns of the tables that it reads'
        WHEN rel.relkind = 'v' AND EXISTS (SELECT 1 FROM pg_attribute a WHERE a.attrelid = relation AND a.attname IN ('ctid', 'xmin', 'xmax', 'cmin', 'cmax', 'tableoid'))
            THEN 'a view with a column called like a system column' END;
    IF reason IS NOT NULL THEN
        RAISE EXCEPTION 'cannot mask columns of %: it is %', relation, reason USING ERRCODE = 'feature_not_supported';
    END IF;
    FOR member IN SELECT c.* FROM scrim.family(relation) f(oid) JOIN pg_class c ON c.oid = f.oid WHERE c.oid <> relation LOOP
        IF member.relkind NOT IN ('r', 'p') OR rel.relkind NOT IN ('r', 'p') THEN
            RAISE EXCEPTION 'cannot mask columns of %: its part % is a foreign table', relation, member.oid::regclass USING ERRCODE = 'feature_not_supported',
                HINT = 'Rows of a foreign table have no place by which their codes could be found.';
        ELSIF member.relowner <> rel.relowner THEN
            RAISE EXCEPTION 'cannot mask columns of %: its part % has another owner', relation, member.oid::regclass USING ERRCODE = 'object_not_in_prerequisite_state',
                HINT = format('ALTER TABLE %s OWNER TO %s.', member.oid::regclass, scrim.role_name(rel.relowner));
        ELSIF EXISTS (SELECT 1 FROM scrim.policies_on(member.oid)) THEN
            RAISE EXCEPTION 'cannot mask columns of %: its part % has a masking policy', relation, member.oid::regclass USING ERRCODE = 'object_not_in_prerequisite_state',
                HINT = 'Drop that policy: the parts of a table are masked along with it.';
        END IF;
    END LOOP;
END $$;

-- Raises unless the session's role may use an encoder: who made it may, and superusers.
CREATE FUNCTION scrim.require_encoder(encoder text) RETURNS void
LANGUAGE plpgsql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    creator oid;
BEGIN
    SELECT e.creator INTO creator FROM scrim_state.encoders e WHERE e.name = encoder;
    IF NOT FOUND THEN
        RAISE EXCEPTION 'encoder "%" does not exist', encoder USING ERRCODE = 'undefined_object',
            HINT = 'CREATE ENCODER makes one; SHOW ENCODERS lists them.';
    END IF;
    IF NOT coalesce((SELECT pg_has_role(session_user, r.oid, 'USAGE') FROM pg_roles r WHERE r.oid = creator), false)
       AND NOT (SELECT r.rolsuper FROM pg_roles r WHERE r.rolname = session_user) THEN
        RAISE EXCEPTION 'permission denied for encoder "%"', encoder USING ERRCODE = 'insufficient_privilege',
            HINT = 'On a table of one''s own an encoder tells the code of any value. Only its creator may use it.';
    END IF;
END $$;

-- Raises while an encoder has no version yet.
CREATE FUNCTION scrim.require_trained(encoder scrim_state.encoders) RETURNS void
LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    IF encoder.default_version IS NULL THEN
        RAISE EXCEPTION 'encoder "%" is not trained yet', encoder.name USING ERRCODE = 'object_not_in_prerequisite_state',
            HINT = 'SHOW TRAINING JOBS tells how far it is; CREATE ENCODER ... WAIT returns when it is trained.';
    END IF;
END $$;

-- One change of policies at a time. A table, not an advisory lock: anybody could hold one of those.
CREATE FUNCTION scrim.fence_serialize() RETURNS void
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    IF NOT pg_has_role(session_user, 'scrim_admin', 'USAGE') THEN
        RAISE EXCEPTION 'permission denied for masking policies' USING ERRCODE = 'insufficient_privilege';
    END IF;
    LOCK TABLE scrim_state.policies IN SHARE ROW EXCLUSIVE MODE;
    PERFORM scrim.forget_dropped();
END $$;

-- Forgets the policies of tables and views that were dropped, and drops what is left of their masked views. For callers that have checked who asks.
CREATE FUNCTION scrim.forget_dropped() RETURNS void
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    gone integer[] := ARRAY(SELECT p.id FROM scrim_state.policies p WHERE p.features_of IS NULL AND NOT EXISTS (SELECT 1 FROM pg_class c WHERE c.oid = p.relation));
BEGIN
    IF gone = '{}' THEN
        RETURN;  -- a DELETE of nothing would change the version of the catalog too
    END IF;
    PERFORM scrim.drop_views(ARRAY(
        SELECT v.view FROM (SELECT p.masked_view, p.relation FROM scrim_state.policies p UNION ALL SELECT r.view, r.relation FROM scrim_state.replaced_views r) v(view, relation)
          JOIN pg_class c ON c.oid = v.view AND c.relnamespace = 'scrim_runtime'::regnamespace
         WHERE NOT EXISTS (SELECT 1 FROM pg_class t WHERE t.oid = v.relation)));
    DELETE FROM scrim_state.replaced_views r WHERE NOT EXISTS (SELECT 1 FROM pg_class c WHERE c.oid = r.view);
    DELETE FROM scrim_state.policies p WHERE p.id = ANY (gone);
END $$;

-- Locks a table against everybody else, with its partitions and children. Locking a view would lock what it reads, which may be others'.
CREATE FUNCTION scrim.fence_lock(relation regclass) RETURNS void
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    owner oid := (SELECT c.relowner FROM pg_class c WHERE c.oid = relation);
BEGIN
    IF (SELECT c.relkind NOT IN ('r', 'p') FROM pg_class c WHERE c.oid = relation) THEN
        RETURN;
    END IF;
    IF NOT has_table_privilege(relation, 'UPDATE, DELETE, TRUNCATE') THEN  -- its owner has revoked from himself what LOCK asks for
        EXECUTE format('GRANT TRUNCATE ON %s TO %s', relation, scrim.role_name(owner));
        EXECUTE format('LOCK TABLE %s IN ACCESS EXCLUSIVE MODE', relation);
        EXECUTE format('REVOKE TRUNCATE ON %s FROM %s', relation, scrim.role_name(owner));
    ELSE
        EXECUTE format('LOCK TABLE %s IN ACCESS EXCLUSIVE MODE', relation);
    END IF;
END $$;

-- Makes the role that owns the masked views of one table owner, and its key, if they do not exist. One role and one key
-- for each table owner: a view runs with its owner's rights, and a shared owner would hand people each other's tables.
CREATE FUNCTION scrim.fence_prepare(relation regclass) RETURNS text
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    owner oid := (SELECT c.relowner FROM pg_class c WHERE c.oid = relation);
    role text := 'scrim_owner_' || owner;
    key_table text := 'key_' || owner;
BEGIN
    PERFORM scrim.require_policy_admin(relation);
    IF scrim.view_owner(owner) IS NULL THEN
        IF NOT EXISTS (SELECT 1 FROM pg_roles r WHERE r.rolname = role) THEN
            BEGIN
                EXECUTE format('CREATE ROLE %I NOLOGIN', role);
            EXCEPTION WHEN duplicate_object OR unique_violation THEN
                RAISE EXCEPTION 'role "%" is being made by another database''s Scrim', role USING ERRCODE = 'serialization_failure', HINT = 'Try again.';
            END;
        ELSIF EXISTS (SELECT 1 FROM pg_roles r
                       WHERE r.rolname = role
                         AND (r.rolcanlogin OR r.rolsuper OR r.rolcreaterole OR r.rolreplication
                              OR EXISTS (SELECT 1 FROM pg_auth_members m JOIN pg_roles k ON k.oid = m.member
                                          WHERE m.member = r.oid OR (m.roleid = r.oid AND k.rolname <> current_user))
                              -- What it owns here, functions or tables with code in their indexes, would run with its rights.
                              OR EXISTS (SELECT 1 FROM pg_shdepend d WHERE d.refclassid = 'pg_authid'::regclass AND d.refobjid = r.oid AND d.deptype = 'o'
                                            AND d.dbid IN (0, (SELECT b.oid FROM pg_database b WHERE b.datname = current_database()))))) THEN
            RAISE EXCEPTION 'role "%" was not made by Scrim', role USING ERRCODE = 'object_not_in_prerequisite_state',
                HINT = 'It would own masked views and read raw values. Drop it and try again.';
        END IF;  -- else another database's Scrim made it
        DELETE FROM scrim_state.view_owners v WHERE v.table_owner = owner;
        INSERT INTO scrim_state.view_owners SELECT owner, r.oid FROM pg_roles r WHERE r.rolname = role;
    END IF;
    IF NOT (SELECT r.rolsuper FROM pg_roles r WHERE r.rolname = current_user) THEN
        EXECUTE format('GRANT %I TO %I', role, current_user);  -- so that it can give the view away
        EXECUTE format('GRANT CREATE ON SCHEMA scrim_runtime TO %I', role);
    END IF;
    IF (SELECT c.relrowsecurity FROM pg_class c WHERE c.oid = relation) THEN
        -- Its view shows seals only. Which rows a client sees the table's policies decide, when the client reads the table.
        IF NOT (SELECT r.rolsuper FROM pg_roles r WHERE r.rolname = current_user) THEN
            RAISE EXCEPTION 'cannot mask columns of %: it has row security', relation USING ERRCODE = 'feature_not_supported',
                HINT = 'Run scrim init as a superuser: the role that owns the masked view needs BYPASSRLS.';
        END IF;
        EXECUTE format('ALTER ROLE %I BYPASSRLS', role);
    END IF;
    IF to_regclass('scrim_state.' || key_table) IS NULL THEN
        EXECUTE format('CREATE TABLE scrim_state.%I (only_row boolean PRIMARY KEY DEFAULT true CHECK (only_row),
                            key bytea NOT NULL CHECK (octet_length(key) = 16))', key_table);
        EXECUTE format('INSERT INTO scrim_state.%I (key) VALUES (scrim.new_key())', key_table);
        EXECUTE format('REVOKE ALL ON scrim_state.%I FROM PUBLIC', key_table);
        EXECUTE format('GRANT SELECT ON scrim_state.%I TO %I', key_table, role);
        EXECUTE format('ANALYZE scrim_state.%I', key_table);  -- or the planner takes one row for hundreds
    END IF;
    RETURN role;
END $$;

-- The sealed column of a masked view that reads source as t. What comes first makes every seal unique: file node, ctid and xmin, also across
-- a table rewrite; or, of rows without a place, random bytes. A NULL is a constant plus a bit, so that length tells nothing.
CREATE FUNCTION scrim.sealed_column(policy_id integer, source regclass, input_columns smallint[], identity text, key_owner oid) RETURNS text
LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp AS $$
    SELECT format('scrim_runtime.seal(record_send(ROW(%s, %s::int4, %s, (%s)::int8)), (SELECT k.key FROM scrim_state.%I k WHERE k.only_row), ''aes-cbc/pad:pkcs''::text) AS %I',
                  CASE identity WHEN 'PLACE' THEN format('(SELECT pg_relation_filenode(%s)), t.ctid, t.xmin', source::oid)
                                WHEN 'TABLE AND PLACE' THEN 'pg_relation_filenode(t.tableoid), t.tableoid, t.ctid, t.xmin'
                                ELSE 'scrim_runtime.nonce()' END,
                  policy_id,
                  string_agg(format('coalesce(%s, 0::float8)', scrim.feature_expression(source, i.num, 't')), ', ' ORDER BY i.ord),
                  string_agg(format('CASE WHEN t.%I IS NULL THEN %s::int8 ELSE 0::int8 END', a.attname, 1::bigint << (i.ord - 1)::int), ' + ' ORDER BY i.ord),
                  'key_' || key_owner, 'sealed_' || policy_id)
      FROM unnest(input_columns) WITH ORDINALITY AS i(num, ord)
      JOIN pg_attribute a ON a.attrelid = source AND a.attnum = i.num
$$;

-- Raises if the rule of a masked view leans on more than what it reads, the key and the seal: anything else would be somebody's code or
-- another table.
CREATE FUNCTION scrim.check_masked_view(masked_view oid, source regclass, key_owner oid) RETURNS void
LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    bad text;
BEGIN
    SELECT string_agg(pg_describe_object(d.refclassid, d.refobjid, d.refobjsubid), ', ') INTO bad
      FROM pg_rewrite r JOIN pg_depend d ON d.classid = 'pg_rewrite'::regclass AND d.objid = r.oid
     WHERE r.ev_class = masked_view
       AND NOT (d.refclassid = 'pg_class'::regclass AND d.refobjid IN (source, masked_view, format('scrim_state.%I', 'key_' || key_owner)::regclass))
       AND NOT (d.refclassid = 'pg_proc'::regclass AND d.refobjid IN ('scrim_runtime.seal(bytea,bytea,text)'::regprocedure,
                                                                      'scrim_runtime.still_granted(oid,text,int2[],bool,bool)'::regprocedure,
                                                                      'scrim_runtime.still_featured(oid,int2[])'::regprocedure,
                                                                      'scrim_runtime.reads_columns(oid,int2[])'::regprocedure,
                                                                      'scrim_runtime.nonce()'::regprocedure))
       AND NOT (d.refclassid = 'pg_type'::regclass AND d.refobjid = 'scrim_runtime.sealed'::regtype);
    IF bad IS NOT NULL THEN
        RAISE EXCEPTION 'the masked view of % would depend on %', source, bad USING ERRCODE = 'feature_not_supported';
    END IF;
END $$;

-- The name of the masked view that a policy has of a relation. That of the policy which replaces it has another.
CREATE FUNCTION scrim.masked_view_name(relation regclass, policy_id integer) RETURNS text
LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp AS $$
    SELECT concat_ws('_', CASE WHEN octet_length(c.relname) > 40 THEN 'masked' ELSE c.relname END, c.oid, policy_id) FROM pg_class c WHERE c.oid = relation
$$;

-- Makes the masked view of a policy, readable by nobody yet.
CREATE FUNCTION scrim.make_masked_view(policy_id integer) RETURNS void
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    policy scrim_state.policies;
    view_name text;
BEGIN
    SELECT p.* INTO STRICT policy FROM scrim_state.policies p WHERE p.id = policy_id;
    view_name := scrim.masked_view_name(policy.relation, policy_id);
    EXECUTE format('CREATE VIEW scrim_runtime.%I AS SELECT %s FROM %s t WHERE scrim_runtime.still_granted(%s, %L::text, %L::int2[], %L::bool, %L::bool)',
                   view_name,
                   concat_ws(', ', CASE WHEN NOT policy.seals_only THEN
                                 (SELECT string_agg(format('t.%I', a.attname), ', ' ORDER BY c.ord) FROM unnest(policy.view_columns) WITH ORDINALITY AS c(num, ord)
                                    JOIN pg_attribute a ON a.attrelid = policy.relation AND a.attnum = c.num) END,
                             scrim.sealed_column(policy_id, policy.relation, policy.inputs, policy.identity, policy.key_owner),
                             CASE policy.identity WHEN 'PLACE' THEN 't.ctid, t.xmin' WHEN 'TABLE AND PLACE' THEN 't.ctid, t.xmin, t.tableoid' END),
                   policy.relation::regclass, policy.relation, view_name, CASE WHEN policy.seals_only THEN '{}' ELSE policy.view_columns END, policy.seals_only,
                   policy.identity = 'PLACE');
    EXECUTE format('ALTER VIEW scrim_runtime.%I OWNER TO %s', view_name, scrim.role_name(scrim.view_owner(policy.key_owner)));
    EXECUTE format('REVOKE ALL ON scrim_runtime.%I FROM PUBLIC', view_name);
    UPDATE scrim_state.policies p SET masked_view = format('scrim_runtime.%I', view_name)::regclass WHERE p.id = policy_id RETURNING p.masked_view INTO policy.masked_view;
    PERFORM scrim.check_masked_view(policy.masked_view, policy.relation, policy.key_owner);
END $$;

-- Whether rows of a relation are sealed with the key of a table owner, for a policy on it or a feature view of it.
CREATE FUNCTION scrim.is_sealed(relation regclass, key_owner oid) RETURNS boolean
LANGUAGE sql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
    SELECT EXISTS (SELECT 1 FROM scrim_state.policies p WHERE coalesce(p.features_of, p.relation) = is_sealed.relation AND p.key_owner = is_sealed.key_owner)
$$;

-- Makes the masked view and writes the policy down. acl_before and acl_after are scrim.relation_acl as JSON, taken by
-- the caller around the conversion of the grants; who could read the table before may read the view now.
CREATE FUNCTION scrim.fence_publish(
    policy_name text, relation regclass, masked smallint[], components smallint[], input_columns smallint[], encoder text, presentation text,
    except_roles oid[], along_with integer, acl_before jsonb, acl_after jsonb) RETURNS integer
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    rel pg_class;
    enc scrim_state.encoders;
    policy scrim_state.policies;
    open_columns smallint[];
    identity text;
    g record;
BEGIN
    PERFORM scrim.require_policy_admin(relation);
    PERFORM scrim.require_protectable(relation);
    PERFORM scrim.require_encoder(encoder);
    PERFORM scrim.check_features(relation, input_columns);
    SELECT c.* INTO STRICT rel FROM pg_class c WHERE c.oid = relation;
    SELECT e.* INTO STRICT enc FROM scrim_state.encoders e WHERE e.name = encoder;
    PERFORM scrim.require_trained(enc);
    -- create_masking_policy has said all this in better words; this is for those who call the function itself.
    IF (SELECT count(DISTINCT a.attnum) FROM pg_attribute a
         WHERE a.attrelid = relation AND a.attnum > 0 AND NOT a.attisdropped AND a.attnum = ANY (masked)) IS DISTINCT FROM cardinality(masked)::bigint
       OR (SELECT count(DISTINCT a.attnum) FROM pg_attribute a
            WHERE a.attrelid = relation AND a.attnum > 0 AND NOT a.attisdropped AND a.attnum = ANY (input_columns)) IS DISTINCT FROM cardinality(enc.feature_columns)::bigint
       OR cardinality(input_columns) IS DISTINCT FROM cardinality(enc.feature_columns)
       OR cardinality(components) IS DISTINCT FROM cardinality(masked)
       OR (presentation = 'COMPONENTS' AND (1 <= ALL (components) AND enc.latent_dims >= ALL (components)) IS NOT TRUE) THEN
        RAISE EXCEPTION 'inconsistent columns' USING ERRCODE = 'invalid_parameter_value';
    END IF;
    PERFORM scrim.require_policy_admin(p.relation) FROM scrim_state.policies p WHERE p.id = fence_publish.along_with;

    SELECT coalesce(array_agg(a.attnum ORDER BY a.attnum), '{}') INTO open_columns
      FROM pg_attribute a WHERE a.attrelid = relation AND a.attnum > 0 AND NOT a.attisdropped AND NOT a.attnum = ANY (masked);
    identity := CASE WHEN rel.relkind IN ('v', 'f') THEN 'NONE'
                     WHEN rel.relkind = 'p' OR EXISTS (SELECT 1 FROM pg_inherits i WHERE i.inhparent = relation) THEN 'TABLE AND PLACE'
                     ELSE 'PLACE' END;
    INSERT INTO scrim_state.policies (name, relation, columns, components, inputs, view_columns, seals_only, identity, along_with, encoder_id, present, except_roles, masked_view, key_owner, created_by)
    VALUES (policy_name, relation, masked, fence_publish.components, input_columns, open_columns, rel.relrowsecurity, identity, fence_publish.along_with, enc.id, presentation, fence_publish.except_roles, 0, rel.relowner, session_user)
    RETURNING * INTO policy;

    PERFORM scrim.make_masked_view(policy.id);

    INSERT INTO scrim_state.policy_grants (policy_id, change, attnum, grantor, grantee, privilege, grantable)
    SELECT policy.id, x.change, (x.entry ->> 'attnum')::smallint, (x.entry ->> 'grantor')::oid, (x.entry ->> 'grantee')::oid,
           x.entry ->> 'privilege', (x.entry ->> 'grantable')::boolean
      FROM (SELECT 'removed', b FROM jsonb_array_elements(acl_before) b WHERE NOT acl_after @> jsonb_build_array(b)
            UNION ALL
            SELECT 'added', a FROM jsonb_array_elements(acl_after) a WHERE NOT acl_before @> jsonb_build_array(a)) x(change, entry);

    FOR g IN
        SELECT (b ->> 'grantee')::oid AS grantee,
               CASE WHEN bool_or((b ->> 'attnum')::int = 0) THEN NULL  -- the whole view
                    ELSE ARRAY(SELECT DISTINCT c FROM unnest(array_agg(
                        CASE WHEN (b ->> 'attnum')::smallint = ANY (masked) THEN 'sealed_' || policy.id
                             WHEN NOT policy.seals_only THEN a.attname::text END)) c
                        UNION SELECT unnest(CASE identity WHEN 'PLACE' THEN ARRAY['ctid', 'xmin'] WHEN 'TABLE AND PLACE' THEN ARRAY['ctid', 'xmin', 'tableoid'] END)) END AS columns
          FROM jsonb_array_elements(acl_before) b
          LEFT JOIN pg_attribute a ON a.attrelid = relation AND a.attnum = (b ->> 'attnum')::smallint AND a.attnum > 0
         WHERE b ->> 'privilege' = 'SELECT' AND NOT (b ->> 'grantee')::oid = ANY (fence_publish.except_roles)
         GROUP BY 1
    LOOP
        EXECUTE format('GRANT SELECT %s ON scrim_runtime.%I TO %s',
                       (SELECT '(' || string_agg(quote_ident(c), ', ') || ')' FROM unnest(g.columns) c),
                       scrim.masked_view_name(relation, policy.id), scrim.role_name(g.grantee));
    END LOOP;
    RETURN policy.id;
END $$;

-- The grants that a policy rearranges: everybody's but the owner's and Scrim's own.
CREATE FUNCTION scrim.fence_acl(relation regclass) RETURNS jsonb
LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp AS $$
    SELECT coalesce(jsonb_agg(to_jsonb(x) ORDER BY x.attnum, x.grantor, x.grantee, x.privilege), '[]')
      FROM scrim.relation_acl(relation) x JOIN pg_class c ON c.oid = relation
     WHERE x.privilege IN ('SELECT', 'REFERENCES', 'TRIGGER', 'MAINTAIN') AND x.grantee <> c.relowner
       AND x.grantee IS DISTINCT FROM scrim.view_owner(c.relowner) AND x.grantee IS DISTINCT FROM scrim.trainer(c.relowner)
$$;

-- The column that a remembered entry is about, as GRANT spells it; NULL for the whole table, or a column that is gone.
CREATE FUNCTION scrim.fence_column(relation regclass, entry jsonb) RETURNS text
LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp AS $$
    SELECT format('(%I)', a.attname) FROM pg_attribute a
     WHERE a.attrelid = relation AND a.attnum = (entry ->> 'attnum')::smallint AND NOT a.attisdropped
$$;

-- Grants one remembered entry. As its grantor where the caller can become that role, else as the owner.
CREATE FUNCTION scrim.fence_regrant(relation regclass, entry jsonb, as_grantor boolean) RETURNS void
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    col text := scrim.fence_column(relation, entry);
    previous text := current_setting('role');
BEGIN
    IF (entry ->> 'attnum')::int <> 0 AND col IS NULL THEN
        RETURN;  -- the column is gone
    END IF;
    IF as_grantor THEN
        EXECUTE format('SET LOCAL ROLE %s', scrim.role_name((entry ->> 'grantor')::oid));
    END IF;
    EXECUTE format('GRANT %s %s ON %s TO %s %s', entry ->> 'privilege', col, relation,
                   scrim.role_name((entry ->> 'grantee')::oid),
                   CASE WHEN (entry ->> 'grantable')::boolean THEN 'WITH GRANT OPTION' END);
    IF as_grantor THEN
        PERFORM set_config('role', previous, true);
    END IF;
END $$;

-- Turns table grants of masked roles into column grants on what stays readable. System columns stay readable too: a row's
-- code is found by its ctid and xmin. except_get says that exempt roles get SELECT, if they have not.
CREATE FUNCTION scrim.fence_convert(relation regclass, masked smallint[], exempt oid[], except_get boolean) RETURNS void
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    before jsonb := scrim.fence_acl(relation);
    readers oid[] := ARRAY(SELECT x FROM unnest(exempt) x WHERE except_get OR has_table_privilege(x, relation, 'SELECT'));
    -- What exempt roles can read of masked columns, by whatever grant.
    kept jsonb := (SELECT jsonb_agg(jsonb_build_object('attnum', m, 'grantee', x, 'privilege', 'SELECT', 'grantable', false))
                     FROM unnest(exempt) x, unnest(masked) m WHERE has_column_privilege(x, relation, m, 'SELECT'));
    is_view boolean := (SELECT c.relkind = 'v' FROM pg_class c WHERE c.oid = relation);
    open_columns text := (SELECT string_agg(quote_ident(a.attname), ', ' ORDER BY a.attnum) FROM pg_attribute a
                           WHERE a.attrelid = relation AND a.attnum > 0 AND NOT a.attisdropped AND NOT a.attnum = ANY (masked));
    e jsonb;
    g record;
BEGIN
    FOR g IN SELECT DISTINCT b ->> 'privilege' AS privilege, (b ->> 'grantee')::oid AS grantee FROM jsonb_array_elements(before) b LOOP
        EXECUTE format('REVOKE %s ON %s FROM %s CASCADE', g.privilege, relation, scrim.role_name(g.grantee));
    END LOOP;
    -- What other grantors gave can survive all that. Give the grantor the grant option anew and take it away with
    -- everything that hangs on it.
    FOR i IN 1..20 LOOP
        EXIT WHEN jsonb_array_length(scrim.fence_acl(relation)) = 0;
        FOR g IN
            SELECT DISTINCT x ->> 'privilege' AS privilege, (x ->> 'grantor')::oid AS grantor, (x ->> 'grantee')::oid AS grantee,
                   scrim.fence_column(relation, x) AS col
              FROM jsonb_array_elements(scrim.fence_acl(relation)) x
        LOOP
            IF g.grantor <> (SELECT c.relowner FROM pg_class c WHERE c.oid = relation) THEN
                EXECUTE format('GRANT %s %s ON %s TO %s WITH GRANT OPTION', g.privilege, g.col, relation, scrim.role_name(g.grantor));
                EXECUTE format('REVOKE %s %s ON %s FROM %s CASCADE', g.privilege, g.col, relation, scrim.role_name(g.grantor));
            ELSE
                EXECUTE format('REVOKE %s %s ON %s FROM %s CASCADE', g.privilege, g.col, relation, scrim.role_name(g.grantee));
            END IF;
        END LOOP;
    END LOOP;
    IF jsonb_array_length(scrim.fence_acl(relation)) > 0 THEN
        RAISE EXCEPTION 'could not revoke every grant on %', relation USING ERRCODE = 'insufficient_privilege',
            DETAIL = (SELECT string_agg(format('%s to %s by %s', x ->> 'privilege', scrim.role_name((x ->> 'grantee')::oid),
                                               scrim.role_name((x ->> 'grantor')::oid)), '; ')
                        FROM jsonb_array_elements(scrim.fence_acl(relation)) x);
    END IF;

    FOR e IN SELECT b FROM jsonb_array_elements(before) b LOOP
        IF (e ->> 'grantee')::oid = ANY (exempt) OR (
               (e ->> 'attnum')::int <> 0 AND NOT (e ->> 'attnum')::smallint = ANY (masked)) THEN
            PERFORM scrim.fence_regrant(relation, e, false);
        ELSIF (e ->> 'attnum')::int = 0 AND e ->> 'privilege' IN ('SELECT', 'REFERENCES') AND open_columns IS NOT NULL THEN
            EXECUTE format('GRANT %s (%s) ON %s TO %s %s', e ->> 'privilege',
                           open_columns || CASE WHEN e ->> 'privilege' = 'SELECT' AND NOT is_view THEN ', ctid, xmin, cmin, xmax, cmax, tableoid' ELSE '' END,
                           relation, scrim.role_name((e ->> 'grantee')::oid),
                           CASE WHEN (e ->> 'grantable')::boolean THEN 'WITH GRANT OPTION' END);
        ELSIF (e ->> 'attnum')::smallint = ANY (masked) AND e ->> 'privilege' = 'SELECT' AND NOT is_view THEN
            EXECUTE format('GRANT SELECT (ctid, xmin) ON %s TO %s', relation, scrim.role_name((e ->> 'grantee')::oid));
        END IF;
    END LOOP;
    FOR g IN SELECT x AS role FROM unnest(readers) x WHERE NOT has_table_privilege(x, relation, 'SELECT') LOOP
        EXECUTE format('GRANT SELECT ON %s TO %s', relation, scrim.role_name(g.role));
    END LOOP;
    FOR e IN SELECT k FROM jsonb_array_elements(kept) k WHERE NOT has_column_privilege((k ->> 'grantee')::oid, relation, (k ->> 'attnum')::smallint, 'SELECT') LOOP
        PERFORM scrim.fence_regrant(relation, e, false);
    END LOOP;
END $$;

-- Closes the columns of a relation and makes the policy: the conversion of grants, and fence_publish. Whether other ways to the
-- columns are open is for scrim.openings to say.
CREATE FUNCTION scrim.fence_mask(
    policy_name text, relation regclass, masked smallint[], components smallint[], input_columns smallint[], encoder text, presentation text,
    exempt oid[], along_with integer) RETURNS integer
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    acl_before jsonb := scrim.fence_acl(relation);
    view_role text := scrim.fence_prepare(relation);
BEGIN
    EXECUTE format('GRANT SELECT ON %s TO %I', relation, view_role);
    PERFORM scrim.fence_convert(relation, masked, exempt, along_with IS NULL);
    RETURN scrim.fence_publish(policy_name, relation, masked, components, input_columns, encoder, presentation, exempt, along_with,
                               acl_before, scrim.fence_acl(relation));
END $$;

-- Masks the copies of masked columns in the views over a relation, and in the views over those. Left out, for scrim.openings to
-- list, are views that do more with them than copy, views that lack a column that the encoder needs, and other people's.
CREATE FUNCTION scrim.fence_cascade(
    policy_name text, relation regclass, masked smallint[], components smallint[], input_columns smallint[], encoder text, presentation text,
    exempt oid[], along_with integer) RETURNS SETOF regclass
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    view regclass;
    copies smallint[];
    shown smallint[];
    inputs smallint[];
BEGIN
    FOR view IN
        SELECT DISTINCT r.ev_class
          FROM pg_depend d
          JOIN pg_rewrite r ON d.classid = 'pg_rewrite'::regclass AND r.oid = d.objid AND r.rulename = '_RETURN'
          JOIN pg_class c ON c.oid = r.ev_class AND c.relkind IN ('v', 'm') AND c.relnamespace <> 'scrim_runtime'::regnamespace
         WHERE d.refclassid = 'pg_class'::regclass AND d.refobjid = relation AND d.refobjsubid = ANY (masked) AND r.ev_class <> relation
           AND NOT scrim.runs_as_invoker(c.oid)
           AND NOT EXISTS (SELECT 1 FROM scrim.policies_on(c.oid))
         ORDER BY 1
    LOOP
        copies := scrim.plain_copies(view, relation, masked);
        inputs := scrim.copies(view, relation, input_columns);
        CONTINUE WHEN copies IS NULL OR inputs IS NULL;
        -- Which component each copy shows.
        shown := ARRAY(SELECT components[array_position(masked, v.source_attnum)]
                         FROM unnest(copies) WITH ORDINALITY AS c(num, ord) JOIN scrim.view_columns(view) v ON v.attnum = c.num AND v.source = relation ORDER BY c.ord);
        CONTINUE WHEN NOT pg_has_role(session_user, (SELECT c.relowner FROM pg_class c WHERE c.oid = view), 'USAGE');
        PERFORM scrim.require_protectable(view);
        PERFORM scrim.fence_mask(policy_name, view, copies, shown, inputs, encoder, presentation, exempt, along_with);
        RETURN NEXT view;
        RETURN QUERY SELECT * FROM scrim.fence_cascade(policy_name, view, copies, shown, inputs, encoder, presentation, exempt, along_with);
    END LOOP;
END $$;

CREATE FUNCTION scrim.create_masking_policy(
    policy_name text, relation regclass, columns text[], except_roles text[], encoder text,
    inputs text[] DEFAULT NULL, present text DEFAULT NULL, if_not_exists boolean DEFAULT false, mend_views boolean DEFAULT false,
    or_replace boolean DEFAULT false) RETURNS void
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    masked smallint[];
    input_columns smallint[];
    exempt oid[] := '{}';
    enc record;
    presentation text := coalesce(upper(present), CASE WHEN cardinality(columns) = 1 THEN 'VECTOR' ELSE 'COMPONENTS' END);
    role_text text;
    role_oid oid;
    components smallint[];
    policy_id integer;
    member oid;
    mended oid[] := '{}';
    ways text;
    was_enabled boolean := true;
BEGIN
    PERFORM scrim.require_policy_admin(relation);
    PERFORM scrim.fence_serialize();
    PERFORM scrim.fence_lock(relation);
    -- Nobody sees that the policy is gone for a moment: the table is locked, and the grants are this transaction's until it commits.
    IF or_replace AND EXISTS (SELECT 1 FROM scrim.masking_policies p WHERE p.relation = create_masking_policy.relation AND p.name = policy_name) THEN
        was_enabled := scrim.fence_retire(policy_name, relation);
        PERFORM scrim.drop_masking_policy(policy_name, relation);
    END IF;
    PERFORM scrim.require_protectable(relation);

    IF EXISTS (SELECT 1 FROM scrim.masking_policies p WHERE p.relation = create_masking_policy.relation AND p.name = policy_name) THEN
        IF if_not_exists THEN
            RAISE NOTICE 'masking policy "%" on % already exists, skipping', policy_name, relation;
            RETURN;
        END IF;
        RAISE EXCEPTION 'masking policy "%" on % already exists', policy_name, relation USING ERRCODE = 'duplicate_object';
    END IF;
    IF EXISTS (SELECT 1 FROM scrim.masking_policies p WHERE p.relation = create_masking_policy.relation) THEN
        RAISE EXCEPTION '% already has a masking policy', relation USING ERRCODE = 'feature_not_supported',
            HINT = 'A table takes one policy in this version: list all columns in it.';
    END IF;

    IF coalesce(cardinality(columns), 0) = 0 THEN
        RAISE EXCEPTION 'a masking policy needs at least one column' USING ERRCODE = 'syntax_error';
    END IF;
    IF presentation NOT IN ('VECTOR', 'COMPONENTS') THEN
        RAISE EXCEPTION 'a mask is presented as VECTOR or COMPONENTS, not %', present USING ERRCODE = 'syntax_error';
    END IF;
    masked := scrim.attnums(relation, columns);
    PERFORM scrim.require_encoder(encoder);
    SELECT e.* INTO STRICT enc FROM scrim.encoders e WHERE e.name = encoder;
    input_columns := scrim.attnums(relation, coalesce(inputs, enc.feature_columns));
    PERFORM scrim.check_features(relation, input_columns);
    IF cardinality(input_columns) <> cardinality(enc.feature_columns) THEN
        RAISE EXCEPTION 'encoder "%" takes % inputs, not %', encoder, cardinality(enc.feature_columns), cardinality(input_columns)
            USING ERRCODE = 'datatype_mismatch', HINT = format('Its features are %s.', array_to_string(enc.feature_columns, ', '));
    END IF;
    IF presentation = 'COMPONENTS' AND cardinality(masked) > enc.latent_dims THEN
        RAISE EXCEPTION 'encoder "%" has % components for % columns', encoder, enc.latent_dims, cardinality(masked)
            USING ERRCODE = 'datatype_mismatch', HINT = 'PRESENT AS VECTOR shows the whole code in each column.';
    END IF;

    FOREACH role_text IN ARRAY coalesce(except_roles, '{}') LOOP
        SELECT r.oid INTO role_oid FROM pg_roles r WHERE r.rolname = role_text;
        IF NOT FOUND THEN
            RAISE EXCEPTION 'role "%" does not exist', role_text USING ERRCODE = 'undefined_object';
        END IF;
        exempt := exempt || role_oid;
    END LOOP;

    components := ARRAY(SELECT generate_series(1, cardinality(masked)));
    policy_id := scrim.fence_mask(policy_name, relation, masked, components, input_columns, encoder, presentation, exempt, NULL);
    FOR member IN SELECT m FROM scrim.family(relation) m WHERE m <> relation LOOP
        PERFORM scrim.fence_mask(policy_name, member, scrim.same_columns(relation, masked, member), components,
                                 scrim.same_columns(relation, input_columns, member), encoder, presentation, exempt, policy_id);
    END LOOP;
    FOR member IN SELECT m FROM scrim.family(relation) m WHERE mend_views LOOP
        mended := mended || ARRAY(
            SELECT v::oid FROM scrim.fence_cascade(policy_name, member, scrim.same_columns(relation, masked, member), components,
                                                   scrim.same_columns(relation, input_columns, member), encoder, presentation, exempt, policy_id) v);
    END LOOP;

    SELECT string_agg(DISTINCT format('%s %s: %s. Close it: %s.', o.kind, o.object, o.why, o.remedy), E'\n')
      INTO ways
      FROM (SELECT relation::oid UNION ALL SELECT unnest(mended)) r(oid), scrim.policies_on(r.oid) p, scrim.openings(r.oid, p.columns, p.inputs, exempt) o;
    IF ways IS NOT NULL THEN
        RAISE EXCEPTION 'cannot mask %: raw values could still be read or probed another way', relation
            USING ERRCODE = 'object_not_in_prerequisite_state', DETAIL = ways,
                  HINT = 'Close each of these, or name the roles in EXCEPT, and try again. '
                      || CASE WHEN mend_views THEN 'CASCADE has left the views that do more than copy masked columns, or lack an input of the encoder. '
                              ELSE 'CASCADE masks the copies in views. ' END || 'Nothing was changed.';
    END IF;
    IF EXISTS (SELECT 1 FROM pg_index i WHERE i.indrelid = relation AND i.indisclustered AND i.indkey::smallint[] && masked) THEN
        RAISE WARNING 'rows of % lie in the order of a masked column', relation
            USING HINT = 'CLUSTER the table on another index: physical order shows which raw value is larger.';
    END IF;
    IF NOT was_enabled THEN
        PERFORM scrim.enable_masking_policy(policy_name, relation, false);
    END IF;
END $$;

-- Drops masked views, as far as they are there.
CREATE FUNCTION scrim.drop_views(views oid[]) RETURNS void
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    view regclass;
BEGIN
    FOR view IN SELECT c.oid FROM pg_class c WHERE c.oid = ANY (views) ORDER BY 1 LOOP
        EXECUTE format('DROP VIEW %s', view);
    END LOOP;
    DELETE FROM scrim_state.replaced_views v WHERE v.view = ANY (views);
END $$;

-- Takes the masked view and the policy away; returns what it had remembered: {"grants": [...], "key_owner": oid}.
CREATE FUNCTION scrim.fence_withdraw(policy_name text, relation regclass) RETURNS jsonb
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    policy scrim_state.policies;
    remembered jsonb;
BEGIN
    PERFORM scrim.require_policy_admin(relation);
    SELECT p.* INTO policy FROM scrim_state.policies p WHERE p.relation = fence_withdraw.relation AND p.name = policy_name AND p.features_of IS NULL;
    IF NOT FOUND THEN
        RETURN NULL;
    END IF;
    PERFORM scrim.fence_serialize();
    SELECT coalesce(jsonb_agg(to_jsonb(g)), '[]') INTO remembered FROM scrim_state.policy_grants g WHERE g.policy_id = policy.id;
    IF policy.masked_view <> 0 THEN  -- else the policy is being replaced: what was planned before goes on
        PERFORM scrim.drop_views(policy.masked_view || ARRAY(SELECT v.view FROM scrim_state.replaced_views v WHERE v.relation = policy.relation));
    END IF;
    DELETE FROM scrim_state.policies p WHERE p.id = policy.id;
    RETURN jsonb_build_object('grants', remembered, 'key_owner', policy.key_owner);
END $$;

-- The relations whose policies were made along with a relation's, and the relation whose policy a relation's was made along with.
CREATE FUNCTION scrim.made_along(policy_name text, relation regclass, OUT others oid[], OUT first oid)
LANGUAGE sql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
    SELECT ARRAY(SELECT o.relation FROM scrim_state.policies o JOIN pg_class c ON c.oid = o.relation WHERE o.along_with = p.id ORDER BY o.id),
           (SELECT f.relation FROM scrim_state.policies f WHERE f.id = p.along_with)
      FROM scrim_state.policies p WHERE p.relation = made_along.relation AND p.name = policy_name
$$;

CREATE FUNCTION scrim.drop_masking_policy(policy_name text, relation regclass, if_exists boolean DEFAULT false) RETURNS void
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    withdrawn jsonb;
    along record;
    other oid;
    former oid;
    owner oid := (SELECT c.relowner FROM pg_class c WHERE c.oid = relation);
BEGIN
    PERFORM scrim.require_policy_admin(relation);
    PERFORM scrim.fence_serialize();
    PERFORM scrim.fence_lock(relation);
    SELECT * INTO along FROM scrim.made_along(policy_name, relation);
    IF relation IN (SELECT scrim.family(along.first)) OR (SELECT c.relkind IN ('v', 'm') FROM pg_class c WHERE c.oid = relation AND along.first IS NOT NULL) THEN
        RAISE EXCEPTION 'masking policy "%" on % belongs to that on %', policy_name, relation, along.first::regclass
            USING ERRCODE = 'dependent_objects_still_exist', HINT = format('DROP MASKING POLICY %I ON %s.', policy_name, along.first::regclass);
    END IF;
    withdrawn := scrim.fence_withdraw(policy_name, relation);
    IF withdrawn IS NULL THEN
        IF if_exists THEN
            RAISE NOTICE 'masking policy "%" on % does not exist, skipping', policy_name, relation;
            RETURN;
        END IF;
        RAISE EXCEPTION 'masking policy "%" on % does not exist', policy_name, relation USING ERRCODE = 'undefined_object';
    END IF;
    former := (withdrawn ->> 'key_owner')::oid;
    IF NOT scrim.is_sealed(relation, former) THEN  -- else for a feature view
        EXECUTE format('REVOKE SELECT ON %s FROM %s', relation, scrim.role_name(scrim.view_owner(former)));
    END IF;
    -- Where the table changed hands, so did the grants that its owner had made.
    PERFORM scrim.fence_restore(relation, (
        SELECT jsonb_agg(CASE WHEN (r ->> 'grantor')::oid = former THEN jsonb_set(r, '{grantor}', to_jsonb(owner)) ELSE r END)
          FROM jsonb_array_elements(withdrawn -> 'grants') r WHERE (r ->> 'grantee')::oid <> owner));
    FOREACH other IN ARRAY coalesce(along.others, '{}') LOOP
        PERFORM scrim.drop_masking_policy(policy_name, other);
    END LOOP;
END $$;

-- Gives a table the grants back that were remembered of it, and takes away what had been given instead.
CREATE FUNCTION scrim.fence_restore(relation regclass, remembered jsonb) RETURNS void
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    now_there jsonb := scrim.fence_acl(relation);
    acl jsonb := now_there;
    missing jsonb;
    before jsonb;  -- what was missing a pass earlier
    last boolean := false;
    owner oid := (SELECT c.relowner FROM pg_class c WHERE c.oid = relation);
    can_be_grantor boolean;
    e jsonb;
BEGIN
    -- A grantee whose converted grants were all revoked meanwhile stays without. (System columns do not count: nobody thinks of them.)
    remembered := (SELECT coalesce(jsonb_agg(r), '[]') FROM jsonb_array_elements(remembered) r
        WHERE EXISTS (SELECT 1 FROM pg_roles x WHERE x.oid = (r ->> 'grantee')::oid OR (r ->> 'grantee')::oid = 0)
          AND (r ->> 'change' = 'added'
               OR NOT EXISTS (SELECT 1 FROM jsonb_array_elements(remembered) a
                               WHERE a ->> 'change' = 'added' AND (a ->> 'attnum')::int >= 0 AND a -> 'grantee' = r -> 'grantee' AND a -> 'privilege' = r -> 'privilege')
               OR EXISTS (SELECT 1 FROM jsonb_array_elements(remembered) a JOIN jsonb_array_elements(now_there) n
                                 ON n @> (a - ARRAY['policy_id', 'change', 'grantable'])
                               WHERE a ->> 'change' = 'added' AND (a ->> 'attnum')::int >= 0 AND a -> 'grantee' = r -> 'grantee' AND a -> 'privilege' = r -> 'privilege')));

    -- First what was removed, grantors before those who depend on them; then what had been given instead goes.
    FOR pass IN 1..20 LOOP
        missing := (SELECT coalesce(jsonb_agg(r), '[]') FROM jsonb_array_elements(remembered) r
                     WHERE r ->> 'change' = 'removed' AND NOT acl @> jsonb_build_array(r - ARRAY['policy_id', 'change']));
        EXIT WHEN missing = '[]' OR last;
        last := missing = before OR pass = 19;  -- the grantors of the rest are out of reach: the owner stands in for them
        FOR e IN SELECT r FROM jsonb_array_elements(missing) r LOOP
            can_be_grantor := (e ->> 'grantor')::oid <> owner AND pg_has_role((e ->> 'grantor')::oid, 'MEMBER')
                AND EXISTS (SELECT 1 FROM scrim.relation_acl(relation) x
                             WHERE x.grantee = (e ->> 'grantor')::oid AND x.privilege = e ->> 'privilege' AND x.grantable
                               AND x.attnum IN (0, (e ->> 'attnum')::smallint));
            IF can_be_grantor OR (e ->> 'grantor')::oid = owner OR last THEN
                PERFORM scrim.fence_regrant(relation, e, can_be_grantor);
            END IF;
        END LOOP;
        before := missing;
        acl := scrim.fence_acl(relation);
    END LOOP;
    FOR e IN SELECT r FROM jsonb_array_elements(remembered) r
              WHERE r ->> 'change' = 'added' AND ((r ->> 'attnum')::int = 0 OR scrim.fence_column(relation, r) IS NOT NULL)
    LOOP
        BEGIN
            EXECUTE format('REVOKE %s %s ON %s FROM %s', e ->> 'privilege',
                scrim.fence_column(relation, e), relation, scrim.role_name((e ->> 'grantee')::oid));
        EXCEPTION WHEN dependent_objects_still_exist THEN
            NULL;  -- its holder passed it on meanwhile; the restored table grant covers it
        END;
    END LOOP;
    -- A table-wide REVOKE takes column grants along: put back what it should not have touched, as an exempt role's own grants of columns.
    acl := scrim.fence_acl(relation);
    FOR e IN SELECT r FROM jsonb_array_elements(remembered) r
              WHERE r ->> 'change' = 'removed' AND NOT acl @> jsonb_build_array(r - ARRAY['policy_id', 'change'])
             UNION ALL
             SELECT n FROM jsonb_array_elements(now_there) n
              WHERE (n ->> 'attnum')::int <> 0 AND NOT acl @> jsonb_build_array(n)
                AND NOT EXISTS (SELECT 1 FROM jsonb_array_elements(remembered) a WHERE a ->> 'change' = 'added' AND n = a - ARRAY['policy_id', 'change'])
    LOOP
        PERFORM scrim.fence_regrant(relation, e, false);
    END LOOP;
END $$;
