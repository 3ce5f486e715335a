-- How a role comes to a privilege, and the statement that takes it away: what the list of openings says of each. Catalogs only.

-- The shortest way by which a role is a member of another, both included; NULL if it is not. With inheriting, only by memberships
-- that hand privileges down.
CREATE FUNCTION scrim.membership_path(member oid, target oid, inheriting boolean) RETURNS oid[]
LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    seen oid[] := ARRAY[member];
    via int[] := '{0}';
    i int := 1;
    above oid;
    path oid[] := '{}';
BEGIN
    WHILE i <= cardinality(seen) LOOP
        IF seen[i] = target THEN
            WHILE i > 0 LOOP
                path := seen[i] || path;
                i := via[i];
            END LOOP;
            RETURN path;
        END IF;
        FOR above IN
            SELECT m.roleid FROM pg_auth_members m JOIN pg_roles r ON r.oid = m.member
             WHERE m.member = seen[i] AND NOT m.roleid = ANY (seen)
               AND (NOT inheriting OR coalesce((to_jsonb(m) ->> 'inherit_option')::boolean, r.rolinherit))  -- of the role itself before 16
             GROUP BY m.roleid ORDER BY m.roleid
        LOOP
            seen := seen || above;
            via := via || i;
        END LOOP;
        i := i + 1;
    END LOOP;
    RETURN NULL;
END $$;

-- A path of roles for people to read.
CREATE FUNCTION scrim.path_text(roles oid[]) RETURNS text
LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    RETURN (SELECT string_agg(scrim.role_name(r), ' → ' ORDER BY n) FROM unnest(roles) WITH ORDINALITY AS t(r, n));
END $$;

-- The statement that takes the last step of a path away. From PostgreSQL 16 on a membership can be several people's to give.
CREATE FUNCTION scrim.expulsion(roles oid[]) RETURNS text
LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    former oid := roles[cardinality(roles) - 1];
    target oid := roles[cardinality(roles)];
BEGIN
    RETURN (SELECT string_agg(DISTINCT format('REVOKE %s FROM %s', scrim.role_name(target), scrim.role_name(former))
                   || CASE WHEN current_setting('server_version_num')::int >= 160000 AND m.grantor <> 10 THEN ' GRANTED BY ' || scrim.role_name(m.grantor) ELSE '' END, '; ')
              FROM pg_auth_members m WHERE m.roleid = target AND m.member = former);
END $$;

-- Words that GRANT and REVOKE take for a relation, run as its owner: other people's grants are theirs to revoke.
CREATE FUNCTION scrim.as_grantor(relation oid, grantor oid, statement text) RETURNS text
LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    RETURN CASE WHEN grantor = (SELECT c.relowner FROM pg_class c WHERE c.oid = relation) THEN statement
                ELSE format('SET ROLE %s; %s; RESET ROLE', scrim.role_name(grantor), statement) END;
END $$;

-- REVOKE of what the roles have been granted on a relation and its columns; NULL if that is nothing.
CREATE FUNCTION scrim.revocation(relation oid, privileges text[], roles oid[]) RETURNS text
LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    RETURN (
        SELECT string_agg(scrim.as_grantor(relation, g.grantor, format('REVOKE %s ON %s FROM %s', g.privileges, relation::regclass, g.grantees) || g.cascades), '; ' ORDER BY g.grantor)
          FROM (SELECT x.grantor, string_agg(DISTINCT x.privilege, ', ') AS privileges, string_agg(DISTINCT scrim.role_name(x.grantee), ', ') AS grantees,
                       CASE WHEN bool_or(EXISTS (SELECT 1 FROM scrim.relation_acl(relation) y WHERE y.grantor = x.grantee AND y.privilege = x.privilege AND x.grantable))
                            THEN ' CASCADE' ELSE '' END AS cascades
                  FROM scrim.relation_acl(relation) x WHERE x.privilege = ANY (privileges) AND x.grantee = ANY (roles)
                 GROUP BY x.grantor) g);
END $$;

-- Each way by which a role has a privilege on a relation (nums being empty) or on one of the given columns, and the statement that closes
-- it and leaves the grantee what it has been granted on other columns.
CREATE FUNCTION scrim.privilege_ways(role oid, relation oid, nums smallint[], privilege text)
RETURNS TABLE (path text, remedy text)
LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    x record;
    roles oid[];
    columns text;
    kept text;
    cascades text;
    above text := CASE WHEN privilege = 'SELECT' THEN 'pg_read_all_data' WHEN privilege IN ('INSERT', 'UPDATE', 'DELETE') THEN 'pg_write_all_data'
                       WHEN privilege = 'MAINTAIN' THEN 'pg_maintain' END;
BEGIN
    FOR x IN
        SELECT a.grantor, a.grantee, bool_or(a.attnum = 0) AS whole, array_agg(a.attnum) AS given, bool_or(a.grantable) AS grantable
          FROM scrim.relation_acl(relation) a
         WHERE a.privilege = privilege_ways.privilege AND (a.attnum = 0 OR a.attnum = ANY (nums))
         GROUP BY a.grantor, a.grantee ORDER BY a.grantor, a.grantee
    LOOP
        roles := CASE WHEN x.grantee = 0 OR role = 0 THEN CASE WHEN x.grantee = 0 THEN '{0}'::oid[] END ELSE scrim.membership_path(role, x.grantee, true) END;
        CONTINUE WHEN roles IS NULL;
        columns := (SELECT ' (' || string_agg(quote_ident(c.attname), ', ' ORDER BY c.attnum) || ')' FROM pg_attribute c WHERE c.attrelid = relation AND c.attnum = ANY (x.given) AND c.attnum <> 0);
        kept := (SELECT format('; GRANT %s (%s) ON %s TO %s', privilege_ways.privilege, string_agg(quote_ident(c.attname), ', ' ORDER BY c.attnum), relation::regclass, scrim.role_name(x.grantee))
                        || CASE WHEN bool_and(a.grantable) THEN ' WITH GRANT OPTION' ELSE '' END
                   FROM scrim.relation_acl(relation) a JOIN pg_attribute c ON c.attrelid = relation AND c.attnum = a.attnum
                  WHERE x.whole AND a.privilege = privilege_ways.privilege AND a.grantee = x.grantee AND a.grantor = x.grantor AND a.attnum <> 0 AND NOT a.attnum = ANY (nums)
                 HAVING count(*) > 0);
        cascades := CASE WHEN x.grantable AND EXISTS (SELECT 1 FROM scrim.relation_acl(relation) a WHERE a.grantor = x.grantee AND a.privilege = privilege_ways.privilege) THEN ' CASCADE' END;
        path := format('%s: %s%s on %s, granted by %s', scrim.path_text(roles), privilege, CASE WHEN NOT x.whole THEN columns END, relation::regclass, scrim.role_name(x.grantor));
        -- Scrim's own roles keep what they read with: who is a member of one must not be.
        remedy := CASE WHEN cardinality(roles) > 1 AND scrim.is_own_role(x.grantee) THEN scrim.expulsion(roles)
                       -- A REVOKE ... CASCADE can leave a grant whose grantor has no right to it any more: nobody could revoke it as it is.
                       WHEN x.grantor <> (SELECT c.relowner FROM pg_class c WHERE c.oid = relation)
                            AND NOT EXISTS (SELECT 1 FROM scrim.relation_acl(relation) a WHERE a.grantee = x.grantor AND a.grantable AND a.privilege = privilege_ways.privilege
                                                                                           AND (a.attnum = 0 OR a.attnum = ANY (x.given)))
                       THEN format('GRANT %1$s%2$s ON %3$s TO %4$s WITH GRANT OPTION; REVOKE %1$s%2$s ON %3$s FROM %4$s CASCADE', privilege,
                                   CASE WHEN NOT x.whole THEN columns END, relation::regclass, scrim.role_name(x.grantor))
                       ELSE scrim.as_grantor(relation, x.grantor, concat(format('REVOKE %s%s ON %s FROM %s', privilege, CASE WHEN NOT x.whole THEN columns END, relation::regclass, scrim.role_name(x.grantee)),
                                                                         cascades, kept)) END;
        RETURN NEXT;
    END LOOP;
    roles := scrim.membership_path(role, to_regrole(above)::oid, true);
    IF roles IS NOT NULL THEN
        path := scrim.path_text(roles);
        remedy := scrim.expulsion(roles);
        RETURN NEXT;
    END IF;
END $$;

-- Both in one row.
CREATE FUNCTION scrim.privilege_way(role oid, relation oid, nums smallint[], privilege text, OUT path text, OUT remedy text)
LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    SELECT string_agg(DISTINCT w.path, '; '), string_agg(DISTINCT w.remedy, '; ') INTO path, remedy FROM scrim.privilege_ways(role, relation, nums, privilege) w;
    remedy := coalesce(remedy, format('REVOKE %s ON %s FROM %s', privilege, relation::regclass, scrim.role_name(role)));
END $$;

-- Who may read a view or call a function, as grants say it.
CREATE FUNCTION scrim.grants_text(relation oid, privileges text[], roles oid[]) RETURNS text
LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    RETURN (SELECT string_agg(DISTINCT format('%s: %s on %s, granted by %s', scrim.role_name(x.grantee), x.privilege, relation::regclass, scrim.role_name(x.grantor)), '; ')
              FROM scrim.relation_acl(relation) x WHERE x.privilege = ANY (privileges) AND x.grantee = ANY (roles));
END $$;

-- From a protected relation to a view, or a rule's table, that reads it: by which views.
CREATE FUNCTION scrim.reading_path(relation oid, masked smallint[], holder oid) RETURNS text
LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    path text := holder::regclass;
    at oid := holder;
    steps jsonb := (SELECT jsonb_object_agg(d.holder, d.below) FROM scrim.dependent_rules(relation, masked) d);
BEGIN
    FOR step IN 1..50 LOOP
        at := (steps ->> at::text)::oid;
        EXIT WHEN at IS NULL;
        path := at::regclass || ' → ' || path;
        EXIT WHEN at = relation;
    END LOOP;
    RETURN path;
END $$;

-- Whether Scrim has made a role to read tables by: one that owns masked views, or a trainer.
CREATE FUNCTION scrim.is_own_role(role oid) RETURNS boolean
LANGUAGE sql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
    SELECT EXISTS (SELECT 1 FROM scrim_state.view_owners v WHERE v.role = is_own_role.role)
        OR EXISTS (SELECT 1 FROM scrim_state.trainers t WHERE t.role = is_own_role.role)
$$;

-- The statement that takes a relation out of a publication: by its name, that of a partitioned table it is a part of, its schema, or with everything.
CREATE FUNCTION scrim.unpublish(publication oid, relation oid) RETURNS text
LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    pub pg_publication;
    listed oid;
BEGIN
    SELECT p.* INTO STRICT pub FROM pg_publication p WHERE p.oid = publication;
    IF pub.puballtables THEN
        RETURN format('DROP PUBLICATION %I', pub.pubname);
    END IF;
    SELECT r.prrelid INTO listed FROM pg_publication_rel r
     WHERE r.prpubid = publication AND r.prrelid IN (SELECT relation UNION SELECT pg_partition_ancestors(relation)) LIMIT 1;
    RETURN CASE WHEN FOUND THEN format('ALTER PUBLICATION %I DROP TABLE %s', pub.pubname, listed::regclass)
                ELSE format('ALTER PUBLICATION %I DROP TABLES IN SCHEMA %s', pub.pubname, (SELECT c.relnamespace::regnamespace FROM pg_class c WHERE c.oid = relation)) END;
END $$;
