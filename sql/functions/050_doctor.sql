-- The walk of CREATE MASKING POLICY, at any later time: what has been opened since. Also lists who was given SELECT on the
-- raw columns after the policy was made, unless the policy names the role in EXCEPT; and what has closed the masks.
CREATE FUNCTION scrim.masking_policy_openings(policy_name text, relation regclass)
RETURNS TABLE (kind text, object text, why text, remedy text, path text)
LANGUAGE plpgsql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    policy scrim_state.policies;
BEGIN
    PERFORM scrim.require_policy_admin(relation);
    SELECT p.* INTO policy FROM scrim_state.protections x JOIN scrim_state.policies p ON p.protection = x.id
     WHERE x.relation = masking_policy_openings.relation AND p.name = policy_name AND x.features_of IS NULL;
    IF NOT FOUND THEN
        RAISE EXCEPTION 'masking policy "%" on % does not exist', policy_name, relation USING ERRCODE = 'undefined_object', HINT = 'SHOW MASKING POLICIES lists them.';
    END IF;
    RETURN QUERY SELECT * FROM scrim.policy_openings(policy);
END $$;

-- The same for its callers, of a masking policy or a feature view; they have checked who asks.
CREATE FUNCTION scrim.policy_openings(policy scrim_state.policies)
RETURNS TABLE (kind text, object text, why text, remedy text, path text)
LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    x scrim_state.protections := (SELECT x FROM scrim_state.protections x WHERE x.id = policy.protection);
    source oid := coalesce(x.features_of, x.relation);
    rel pg_class;
    again text := CASE WHEN x.features_of IS NULL THEN 'drop the policy and make it again' ELSE 'drop the feature view and make it again' END;
BEGIN
    SELECT c.* INTO rel FROM pg_class c WHERE c.oid = source;
    RETURN QUERY  -- masked columns that nobody sees codes of any more
        SELECT 'masked view', f.what, f.why, again, NULL
          FROM (VALUES ('missing', 'it was dropped, so masked columns are closed', NOT EXISTS (SELECT 1 FROM pg_class c WHERE c.oid = x.masked_view)),
                       ('children', 'the table has children that it had not, so masked columns are closed',
                        x.identity = 'PLACE' AND EXISTS (SELECT 1 FROM pg_inherits i WHERE i.inhparent = source)),
                       ('owner', 'the table has another owner than when it was made: it seals with the former owner''s key', rel.relowner <> x.key_owner),
                       ('row security', 'it was switched on for the table, so masked columns are closed', NOT x.seals_only AND rel.relrowsecurity)) f(what, why, so)
         WHERE f.so;
    RETURN QUERY
        SELECT 'row security', rel.oid::regclass::text, 'it was switched off for the table: masked roles see codes of all rows',
               format('ALTER TABLE %s ENABLE ROW LEVEL SECURITY', rel.oid::regclass), NULL
         WHERE x.seals_only AND NOT rel.relrowsecurity;
    RETURN QUERY  -- changed around Scrim
        SELECT 'masked view', 'definition', format('it belongs to %s, with whose rights it reads', scrim.role_name(c.relowner)), again, NULL
          FROM pg_class c WHERE c.oid = x.masked_view AND c.relowner IS DISTINCT FROM scrim.view_owner(x.key_owner);
    IF policy.enabled AND NOT x.suspended AND EXISTS (SELECT 1 FROM pg_class c WHERE c.oid = x.masked_view) THEN
        BEGIN
            PERFORM scrim.check_masked_view(x.masked_view, source, x.key_owner);
        EXCEPTION WHEN feature_not_supported THEN
            kind := 'masked view'; object := 'definition'; why := 'it reads more than the table, its key and the seal'; remedy := again; path := NULL;
            RETURN NEXT;
        END;
    END IF;
    RETURN QUERY  -- the owner of a function that an SQL mask calls has changed it
        SELECT 'function', d.refobjid::regprocedure::text, 'an SQL mask calls it, and it could show raw values, or be bent by whoever reads it',
               'let it be the table owner''s, neither VOLATILE nor SECURITY DEFINER, with an SQL-standard body or SET search_path', NULL
          FROM pg_rewrite r JOIN pg_depend d ON d.classid = 'pg_rewrite'::regclass AND d.objid = r.oid AND d.refclassid = 'pg_proc'::regclass JOIN pg_proc f ON f.oid = d.refobjid
         WHERE r.ev_class = x.masked_view AND f.pronamespace <> 'scrim_runtime'::regnamespace AND NOT scrim.may_mask_with(f.oid, rel.relowner);
    IF x.features_of IS NULL THEN
        RETURN QUERY  -- what is masked for the same roles is looked at together
            SELECT DISTINCT o.* FROM scrim.masked_for(x.relation) m, scrim.openings(x.relation, m.columns, m.inputs, m.except_roles) o WHERE policy.columns <@ m.columns;
    ELSE
        RETURN QUERY SELECT * FROM scrim.feature_openings(x.features_of, policy.inputs);
    END IF;
END $$;

-- What stands beside openings and is none yet: copies, and grants that future parts of a table will have.
CREATE FUNCTION scrim.policy_notes(policy scrim_state.policies)
RETURNS TABLE (severity text, kind text, object text, why text, path text, remedy text)
LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    x scrim_state.protections := (SELECT x FROM scrim_state.protections x WHERE x.id = policy.protection);
    rel pg_class;
    outsiders oid[];
BEGIN
    SELECT c.* INTO rel FROM pg_class c WHERE c.oid = x.relation;
    outsiders := ARRAY(SELECT scrim.outsiders(rel.relowner, policy.except_roles));
    RETURN QUERY
        SELECT 'note', 'policy', quote_ident(policy.name), CASE WHEN x.suspended THEN 'it is suspended, so masked columns are closed' ELSE 'it is disabled, so masked columns are closed' END,
               NULL, CASE WHEN x.suspended THEN format('SELECT scrim.resume(%L)', rel.oid::regclass) ELSE format('ALTER MASKING POLICY %I ON %s ENABLE', policy.name, rel.oid::regclass) END
         WHERE x.suspended OR NOT policy.enabled;
    RETURN QUERY
        SELECT DISTINCT 'note', 'copy', c.oid::regclass::text, 'it holds masked columns as they were at its last refresh; no masked role may read it now',
               scrim.reading_path(x.relation, policy.columns, c.oid), NULL
          FROM scrim.dependent_rules(x.relation, policy.columns) d JOIN pg_class c ON c.oid = d.holder AND c.relkind = 'm'
         WHERE NOT EXISTS (SELECT 1 FROM scrim.policies_on(c.oid))
           AND NOT EXISTS (SELECT 1 FROM unnest(outsiders) o WHERE has_any_column_privilege(o, c.oid, 'SELECT'));
    RETURN QUERY
        SELECT 'warning', 'default privileges', scrim.role_name(g.grantee), 'a partition or child that is made later is readable by its own name',
               format('%s: SELECT by default on new tables of %s', scrim.role_name(g.grantee), scrim.role_name(d.defaclrole)),
               format('ALTER DEFAULT PRIVILEGES FOR ROLE %s%s REVOKE SELECT ON TABLES FROM %s', scrim.role_name(d.defaclrole),
                      CASE WHEN d.defaclnamespace <> 0 THEN ' IN SCHEMA ' || d.defaclnamespace::regnamespace ELSE '' END, scrim.role_name(g.grantee))
          FROM pg_default_acl d, aclexplode(d.defaclacl) g
         WHERE x.identity = 'TABLE AND PLACE' AND d.defaclrole = rel.relowner AND d.defaclobjtype = 'r'
           AND g.privilege_type = 'SELECT' AND g.grantee = ANY (outsiders);
END $$;

-- Roles that no policy holds back, or that see more than their grants say.
CREATE FUNCTION scrim.doctor_roles()
RETURNS TABLE (severity text, kind text, object text, why text, path text, remedy text)
LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    keeper oid := (SELECT n.nspowner FROM pg_namespace n WHERE n.nspname = 'scrim_state');  -- the catalog role
BEGIN
    RETURN QUERY  -- the first superuser and the catalog role have to be
        SELECT CASE WHEN r.oid IN (10, keeper) THEN 'note' ELSE 'warning' END, 'superuser', quote_ident(r.rolname),
               'it may log in, and no mask holds for it; code of table owners runs with its rights when it reads their tables',
               (SELECT 'in use by ' || string_agg(DISTINCT format('%s from %s', coalesce(nullif(a.application_name, ''), 'an unnamed application'), coalesce(host(a.client_addr), 'a local socket')), ', ')
                  FROM pg_stat_activity a WHERE a.usesysid = r.oid AND a.pid <> pg_backend_pid() AND a.backend_type = 'client backend'),
               CASE WHEN r.oid NOT IN (10, keeper) THEN format('ALTER ROLE %I NOSUPERUSER', r.rolname) END
          FROM pg_roles r WHERE r.rolsuper AND r.rolcanlogin;
    RETURN QUERY
        SELECT 'warning', 'BYPASSRLS', quote_ident(r.rolname), 'it sees codes of rows that row security hides', NULL, format('ALTER ROLE %I NOBYPASSRLS', r.rolname)
          FROM pg_roles r WHERE r.rolbypassrls AND NOT r.rolsuper AND r.rolname !~ '^scrim_(owner|trainer)_\d';
    RETURN QUERY
        SELECT 'note', 'statistics', quote_ident(r.rolname), 'it sees the text of other people''s statements, and raw values where they write some',
               scrim.path_text(m.roles), scrim.expulsion(m.roles)
          FROM pg_roles r, LATERAL (SELECT scrim.membership_path(r.oid, 'pg_read_all_stats'::regrole, false)) m(roles)
         WHERE NOT r.rolsuper AND r.oid >= 16384 AND r.oid <> keeper AND m.roles IS NOT NULL;
    RETURN QUERY
        SELECT 'error', 'membership', quote_ident(r.rolname), 'it can become the catalog role, which reads the keys of all seals', scrim.path_text(m.roles), scrim.expulsion(m.roles)
          FROM pg_roles r, LATERAL (SELECT scrim.membership_path(r.oid, keeper, false)) m(roles)
         WHERE NOT r.rolsuper AND r.oid <> keeper AND m.roles IS NOT NULL;
END $$;

-- What Scrim made: its roles, its schemas, the keys, and slots that are held.
CREATE FUNCTION scrim.doctor_own()
RETURNS TABLE (severity text, kind text, object text, why text, path text, remedy text)
LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    keeper oid := (SELECT n.nspowner FROM pg_namespace n WHERE n.nspname = 'scrim_state');
    trains boolean := NOT scrim.slot_is_free();
    -- Those that were replaced stay until the next change of a policy, for statements that were planned before.
    views oid[] := ARRAY(SELECT p.masked_view FROM scrim_state.protections p UNION ALL SELECT p.relation FROM scrim_state.protections p WHERE p.features_of IS NOT NULL
                         UNION ALL SELECT r.view FROM scrim_state.replaced_views r);
BEGIN
    RETURN QUERY
        SELECT 'error', 'role of Scrim''s', quote_ident(r.rolname), 'it has attributes that Scrim did not give it',
               concat_ws(' ', CASE WHEN r.rolsuper THEN 'SUPERUSER' END, CASE WHEN r.rolcreaterole THEN 'CREATEROLE' END, CASE WHEN r.rolcreatedb THEN 'CREATEDB' END,
                         CASE WHEN r.rolreplication THEN 'REPLICATION' END, CASE WHEN r.rolcanlogin THEN 'LOGIN' END),
               format('ALTER ROLE %I NOSUPERUSER NOCREATEROLE NOCREATEDB NOREPLICATION NOLOGIN', r.rolname)
          FROM pg_roles r
         WHERE (scrim.is_own_role(r.oid) OR r.rolname IN ('scrim_admin', 'scrim_user'))
           AND (r.rolsuper OR r.rolcreaterole OR r.rolcreatedb OR r.rolreplication OR r.rolcanlogin AND NOT EXISTS (SELECT 1 FROM scrim_state.trainers t WHERE t.role = r.oid));
    RETURN QUERY
        SELECT 'warning', 'role of Scrim''s', quote_ident(r.rolname), 'it reads rows for training and may log in, and no training is on', NULL,
               format('ALTER ROLE %I NOLOGIN PASSWORD NULL', r.rolname)
          FROM scrim_state.trainers t JOIN pg_roles r ON r.oid = t.role WHERE r.rolcanlogin AND NOT trains;
    RETURN QUERY
        SELECT 'error', 'role of Scrim''s', quote_ident(r.rolname), format('%s is a member of it, and it reads raw values', scrim.role_name(m.member)),
               scrim.path_text(ARRAY[m.member, m.roleid]), scrim.expulsion(ARRAY[m.member, m.roleid])
          FROM pg_auth_members m JOIN pg_roles r ON r.oid = m.roleid JOIN pg_roles k ON k.oid = m.member
         WHERE scrim.is_own_role(r.oid) AND k.oid <> keeper AND NOT k.rolsuper;
    RETURN QUERY
        SELECT CASE WHEN r.rolname = 'scrim_admin' THEN 'warning' ELSE 'error' END, 'role of Scrim''s', quote_ident(r.rolname), format('it is a member of %s', scrim.role_name(m.roleid)),
               scrim.path_text(ARRAY[m.member, m.roleid]), scrim.expulsion(ARRAY[m.member, m.roleid])
          FROM pg_auth_members m JOIN pg_roles r ON r.oid = m.member
         WHERE (scrim.is_own_role(r.oid) AND NOT (trains AND EXISTS (SELECT 1 FROM scrim_state.trainers t WHERE t.role = r.oid))
                OR r.rolname IN ('scrim_admin', 'scrim_user')) AND NOT (r.rolname = 'scrim_admin' AND m.roleid = 'scrim_user'::regrole);
    RETURN QUERY
        SELECT 'error', 'role of Scrim''s', scrim.role_name(d.refobjid), format('it owns %s, whose code would run with its rights', pg_describe_object(d.classid, d.objid, 0)), NULL,
               'give it to somebody else, or drop it'
          FROM pg_shdepend d
         WHERE d.refclassid = 'pg_authid'::regclass AND d.deptype = 'o' AND scrim.is_own_role(d.refobjid)
           AND d.dbid = (SELECT b.oid FROM pg_database b WHERE b.datname = current_database())
           AND NOT (d.classid = 'pg_class'::regclass AND d.objid = ANY (views));

    RETURN QUERY  -- in Scrim's schemas, and not made by it
        SELECT 'error', 'schema', n.nspname::text, format('it belongs to %s', scrim.role_name(n.nspowner)), NULL, format('ALTER SCHEMA %I OWNER TO %s', n.nspname, scrim.role_name(keeper))
          FROM pg_namespace n WHERE n.nspname IN ('scrim', 'scrim_runtime') AND n.nspowner <> keeper;
    RETURN QUERY
        SELECT 'error', 'foreign object', p.oid::regprocedure::text, format('%s made it in a schema of Scrim''s', scrim.role_name(p.proowner)), NULL, format('DROP ROUTINE %s', p.oid::regprocedure)
          FROM pg_proc p
         WHERE p.pronamespace IN ('scrim'::regnamespace, 'scrim_state'::regnamespace, 'scrim_runtime'::regnamespace) AND p.proowner <> keeper
           AND NOT EXISTS (SELECT 1 FROM pg_depend d WHERE d.classid = 'pg_proc'::regclass AND d.objid = p.oid AND d.deptype = 'e');
    RETURN QUERY
        SELECT 'error', 'foreign object', c.oid::regclass::text, format('%s has it in a schema of Scrim''s', scrim.role_name(c.relowner)), NULL,
               format('DROP %s %s', CASE c.relkind WHEN 'v' THEN 'VIEW' WHEN 'm' THEN 'MATERIALIZED VIEW' WHEN 'S' THEN 'SEQUENCE' WHEN 'f' THEN 'FOREIGN TABLE' WHEN 'c' THEN 'TYPE' ELSE 'TABLE' END, c.oid::regclass)
          FROM pg_class c
         WHERE c.relkind NOT IN ('i', 'I', 't')
           AND (c.relnamespace IN ('scrim'::regnamespace, 'scrim_state'::regnamespace) AND c.relowner <> keeper
                OR c.relnamespace = 'scrim_runtime'::regnamespace AND c.oid <> ALL (views));
    RETURN QUERY
        SELECT 'error', 'schema', n.nspname::text, format('%s may use %s on it', scrim.role_name(x.grantee), x.privilege_type), format('granted by %s', scrim.role_name(x.grantor)),
               format('REVOKE %s ON SCHEMA %I FROM %s', x.privilege_type, n.nspname, scrim.role_name(x.grantee))
          FROM pg_namespace n, aclexplode(n.nspacl) x
         WHERE n.nspname IN ('scrim', 'scrim_state', 'scrim_runtime') AND x.grantee <> n.nspowner
           AND (x.privilege_type = 'CREATE' AND NOT scrim.is_own_role(x.grantee) OR n.nspname = 'scrim_state');
    RETURN QUERY
        SELECT CASE WHEN c.relname ~ '^key_\d' OR c.relname = 'retired_keys' THEN 'error' ELSE 'warning' END, 'state', c.oid::regclass::text,
               format('%s may use it%s', scrim.role_name(x.grantee), CASE WHEN c.relname ~ '^key_\d' OR c.relname = 'retired_keys' THEN ', and it opens seals' ELSE '' END),
               scrim.grants_text(c.oid, ARRAY[x.privilege], ARRAY[x.grantee]), scrim.revocation(c.oid, ARRAY[x.privilege], ARRAY[x.grantee])
          FROM pg_class c, LATERAL scrim.relation_acl(c.oid) x
         WHERE c.relnamespace = 'scrim_state'::regnamespace AND c.relkind IN ('r', 'v', 'm', 'S') AND x.grantee <> c.relowner
           AND NOT (x.privilege = 'SELECT' AND EXISTS (SELECT 1 FROM scrim_state.view_owners v WHERE v.role = x.grantee AND c.relname IN ('key_' || v.table_owner, 'mask_key_' || v.table_owner)));
    RETURN QUERY
        SELECT 'error', 'publication', quote_ident(p.pubname), format('it replicates %I.%I, which opens seals', p.schemaname, p.tablename), NULL, scrim.unpublish(b.oid, c.oid)
          FROM pg_publication_tables p JOIN pg_publication b ON b.pubname = p.pubname
          JOIN pg_class c ON c.relnamespace = 'scrim_state'::regnamespace AND c.relname = p.tablename
         WHERE p.schemaname = 'scrim_state' AND (p.tablename ~ '^key_\d' OR p.tablename = 'retired_keys');

    RETURN QUERY
        SELECT CASE WHEN s.active THEN 'note' ELSE 'warning' END, 'replication slot', quote_ident(s.slot_name),
               CASE WHEN s.active THEN 'whoever reads from it has raw values' ELSE 'nobody reads from it: it keeps raw values in the write-ahead log, and keys that were rotated' END, s.plugin::text,
               CASE WHEN NOT s.active THEN format('SELECT pg_drop_replication_slot(%L)', s.slot_name) END
          FROM pg_replication_slots s WHERE s.database IS NULL OR s.database = current_database();
    RETURN QUERY
        SELECT 'note', 'audit', 'audit', 'it is off, so nobody will know who changed a policy', NULL, 'SELECT scrim.set_audit(''changes'')' FROM scrim_state.audit_settings a WHERE a.level = 'off';
    RETURN QUERY
        SELECT 'warning', 'training slot', s.encoder, 'the connection that held it is gone, and no worker gives it back', NULL, 'start scrim serve or scrim worker'
          FROM scrim_state.training_slot s WHERE s.job IS NOT NULL AND NOT trains;
END $$;

-- Everything at once: of each policy and feature view whose table the session's role owns, and of the server. Superusers and the catalog role
-- see all. Only catalogs are read: planning on a user's table would run its owner's code in this session.
CREATE FUNCTION scrim.doctor_rows()
RETURNS TABLE (severity text, kind text, relation text, object text, why text, path text, remedy text)
LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp SET jit = off AS $$
DECLARE
    sees_all boolean := EXISTS (SELECT 1 FROM pg_roles r WHERE r.rolname = session_user
                                   AND (r.rolsuper OR r.oid = (SELECT n.nspowner FROM pg_namespace n WHERE n.nspname = 'scrim_state')));
    each record;
    named text;
BEGIN
    IF NOT sees_all AND NOT pg_has_role(session_user, 'scrim_admin', 'USAGE') THEN
        RAISE EXCEPTION 'permission denied for scrim.doctor' USING ERRCODE = 'insufficient_privilege',
            HINT = format('GRANT scrim_admin TO %I lets this role look at policies on tables it owns.', session_user);
    END IF;
    FOR each IN
        SELECT p AS policy, x.relation, x.features_of FROM scrim_state.protections x JOIN scrim_state.policies p ON p.protection = x.id
          JOIN pg_class c ON c.oid = coalesce(x.features_of, x.relation) JOIN pg_class v ON v.oid = x.relation
         WHERE sees_all OR pg_has_role(session_user, c.relowner, 'USAGE') ORDER BY p.id
    LOOP
        named := each.relation::regclass;
        -- What is a role's by its attributes and memberships is so for all relations. What PUBLIC may do everybody may: that is said once.
        RETURN QUERY
            WITH o AS MATERIALIZED (SELECT f.*, substr(f.why, length(f.object) + 1) AS what FROM scrim.policy_openings(each.policy) f),
            everybody AS MATERIALIZED (SELECT DISTINCT e.what, e.remedy FROM o e WHERE e.kind = 'privilege' AND e.object = 'PUBLIC')
            SELECT CASE WHEN o.kind = 'row security' OR o.kind = 'masked view' AND o.object <> 'definition' THEN 'warning' ELSE 'error' END,
                   o.kind, CASE WHEN o.kind <> 'role' THEN named END, o.object, o.why, o.path, o.remedy
              FROM o WHERE o.kind <> 'privilege' OR o.object = 'PUBLIC' OR (o.what, coalesce(o.remedy, '')) NOT IN (SELECT e.what, coalesce(e.remedy, '') FROM everybody e);
        RETURN QUERY SELECT n.severity, n.kind, named, n.object, n.why, n.path, n.remedy FROM scrim.policy_notes(each.policy) n WHERE each.features_of IS NULL;
    END LOOP;
    RETURN QUERY SELECT r.severity, r.kind, NULL, r.object, r.why, r.path, r.remedy FROM scrim.doctor_roles() r;
    RETURN QUERY SELECT o.severity, o.kind, NULL, o.object, o.why, o.path, o.remedy FROM scrim.doctor_own() o;
    RETURN QUERY SELECT e.severity, e.kind, NULL, e.object, e.why, e.path, e.remedy FROM scrim.doctor_event_triggers() e;
END $$;

CREATE FUNCTION scrim.doctor()
RETURNS TABLE (severity text, kind text, relation text, object text, why text, path text, remedy text)
LANGUAGE sql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
    SELECT * FROM (SELECT DISTINCT d.severity, d.kind, coalesce(d.relation, '') AS relation, d.object, d.why, coalesce(d.path, '') AS path, coalesce(d.remedy, '') AS remedy FROM scrim.doctor_rows() d) f
     ORDER BY f.relation, array_position(ARRAY['error', 'warning', 'note'], f.severity), f.kind, f.object, f.why
$$;

-- What each role of Scrim's may do, as the catalogs say it: for `scrim init` to print, and for the documentation to be compared with.
CREATE FUNCTION scrim.rights() RETURNS TABLE (role text, may text)
LANGUAGE plpgsql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    schema record;
BEGIN
    RETURN QUERY
        SELECT scrim.role_name(m.member), 'member of ' || scrim.role_name(m.roleid) FROM pg_auth_members m
         WHERE m.member IN ('scrim_admin'::regrole, 'scrim_user'::regrole) GROUP BY m.member, m.roleid ORDER BY 1, 2;
    RETURN QUERY
        SELECT scrim.role_name(x.grantee), format('%s on schema %s', x.privilege_type, string_agg(n.nspname, ', ' ORDER BY n.nspname))
          FROM pg_namespace n, aclexplode(n.nspacl) x
         WHERE n.nspname IN ('scrim', 'scrim_runtime', 'scrim_state') AND x.grantee <> n.nspowner GROUP BY x.grantee, x.privilege_type ORDER BY 1, 2;
    FOR schema IN SELECT n.oid, n.nspname FROM pg_namespace n WHERE n.nspname IN ('scrim', 'scrim_runtime', 'scrim_state') ORDER BY n.nspname LOOP
        RETURN QUERY
            SELECT scrim.role_name(x.grantee), format('%s on %s of schema %s', x.privilege_type, string_agg(c.relname, ', ' ORDER BY c.relname), schema.nspname)
              FROM pg_class c, aclexplode(c.relacl) x
             WHERE c.relnamespace = schema.oid AND x.grantee <> c.relowner AND schema.nspname <> 'scrim_runtime' AND NOT scrim.is_own_role(x.grantee)
             GROUP BY x.grantee, x.privilege_type ORDER BY 1, 2;
        RETURN QUERY  -- the shorter list of names
            SELECT scrim.role_name(g.grantee), format(CASE WHEN g.without IS NULL THEN 'EXECUTE on all functions of schema %1$s'
                                                           WHEN cardinality(g.without) < cardinality(g.names) THEN 'EXECUTE on all functions of schema %1$s but %3$s'
                                                           ELSE 'EXECUTE on %2$s of schema %1$s' END,
                                                      schema.nspname, array_to_string(g.names, ', '), array_to_string(g.without, ', '))
              FROM (SELECT r.grantee, array_agg(DISTINCT p.proname ORDER BY p.proname) FILTER (WHERE h.has) AS names,
                           array_agg(DISTINCT p.proname ORDER BY p.proname) FILTER (WHERE NOT h.has) AS without
                      FROM (VALUES (0::oid), ('scrim_user'::regrole::oid), ('scrim_admin'::regrole::oid)) r(grantee), pg_proc p,
                           LATERAL (SELECT EXISTS (SELECT 1 FROM aclexplode(coalesce(p.proacl, acldefault('f', p.proowner))) x
                                                    WHERE x.grantee = r.grantee AND x.privilege_type = 'EXECUTE')) h(has)
                     WHERE p.pronamespace = schema.oid AND NOT EXISTS (SELECT 1 FROM pg_depend d WHERE d.classid = 'pg_proc'::regclass AND d.objid = p.oid AND d.deptype = 'e')
                     GROUP BY r.grantee) g
             WHERE g.names IS NOT NULL ORDER BY 1, 2;
    END LOOP;
    RETURN QUERY  -- these of the roles that read tables
        SELECT scrim.role_name(g.grantee), format('%s on %s', g.privilege_type, string_agg(DISTINCT g.name, ', ' ORDER BY g.name))
          FROM (SELECT x.grantee, x.privilege_type, c.oid::regclass::text AS name FROM pg_class c, aclexplode(c.relacl) x WHERE x.grantee <> c.relowner
                UNION ALL
                SELECT x.grantee, x.privilege_type, format('%s (%I)', a.attrelid::regclass, a.attname) FROM pg_attribute a, aclexplode(a.attacl) x) g
         WHERE scrim.is_own_role(g.grantee) GROUP BY g.grantee, g.privilege_type ORDER BY 1, 2;
END $$;
