-- pg_dump and restore. Grants come back by themselves, so PostgreSQL refuses raw values at once, and the masked views that come along refuse too (scrim_runtime.still_here). Masks come back
-- by `scrim init`, which calls scrim.rebind: it finds out what the old numbers have become, takes new keys, and makes masked views as scrim.resume does.

-- Whether scrim_state is in the cluster that it was made in, or in a copy of that by file.
CREATE FUNCTION scrim.is_same_cluster() RETURNS boolean
LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp AS $$
    SELECT EXISTS (SELECT 1 FROM scrim_state.home h JOIN pg_control_system() c ON c.system_identifier = h.system_identifier)
$$;

-- Whether the numbers in scrim_state are another database's. In one that was copied by file (TEMPLATE, a base backup) they are right.
CREATE FUNCTION scrim.is_restored() RETURNS boolean
LANGUAGE sql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
    SELECT EXISTS (SELECT 1 FROM scrim_state.known_relations k WHERE k.oid <> k.relation)
        OR EXISTS (SELECT 1 FROM scrim_state.known_roles k WHERE k.oid <> k.role)
        -- A cluster does not give an OID twice; another one may have the same by chance. (pg_upgrade makes another, with the OIDs of the first.)
        OR NOT scrim.is_same_cluster()
        OR EXISTS (SELECT 1 FROM scrim_state.protections x JOIN pg_class c ON c.oid = x.relation WHERE NOT EXISTS (SELECT 1 FROM scrim_state.known_relations k WHERE k.oid = x.relation))
$$;

CREATE FUNCTION scrim.require_home() RETURNS void
LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    IF scrim.is_restored() THEN
        RAISE EXCEPTION 'this database was restored from a dump, or upgraded, and masking policies are not bound to it yet' USING ERRCODE = 'object_not_in_prerequisite_state',
            HINT = 'Run scrim init on it.';
    END IF;
END $$;

-- Notes names as they are by now, for the next dump: tables and columns are renamed without Scrim's knowing. Proxies call it; so should whoever dumps right after a change of names.
CREATE FUNCTION scrim.note_names() RETURNS void
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp SET lock_timeout = '100ms' AS $$
BEGIN
    IF scrim.is_restored() THEN
        RETURN;
    END IF;
    DELETE FROM scrim_state.known_relations k WHERE NOT EXISTS (SELECT 1 FROM pg_class c WHERE c.oid = k.oid);
    DELETE FROM scrim_state.known_roles k WHERE NOT EXISTS (SELECT 1 FROM pg_roles r WHERE r.oid = k.oid);
    UPDATE scrim_state.known_relations k SET name = k.oid::regclass::text, columns = scrim_state.column_names(k.oid)
     WHERE k.name <> k.oid::regclass::text OR k.columns <> scrim_state.column_names(k.oid);
    UPDATE scrim_state.known_roles k SET name = r.rolname FROM pg_roles r WHERE r.oid = k.oid AND k.name <> r.rolname;
END $$;

-- What numbers have become: {"relations": {"16384": 16500, ...}, "roles": ..., "columns": {"16384": {"3": 2, ...}, ...}}. What was dropped before the dump is in none of them.
CREATE FUNCTION scrim.moves() RETURNS jsonb
LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp AS $$
    SELECT jsonb_build_object(
        'relations', (SELECT coalesce(jsonb_object_agg(k.oid, k.relation::oid), '{}') FROM scrim_state.known_relations k JOIN pg_class c ON c.oid = k.relation
                       WHERE k.oid <> k.relation OR k.name = k.relation::regclass::text),
        'roles', (SELECT coalesce(jsonb_object_agg(k.oid, k.role::oid), '{}') FROM scrim_state.known_roles k JOIN pg_roles r ON r.oid = k.role
                   WHERE k.oid <> k.role OR k.name = r.rolname OR scrim.is_same_cluster()),
        'columns', (SELECT coalesce(jsonb_object_agg(k.oid, (
                            SELECT coalesce(jsonb_object_agg(o.num, a.attnum), '{}') FROM unnest(k.columns) WITH ORDINALITY AS o(name, num)
                              JOIN pg_attribute a ON a.attrelid = k.relation AND a.attname = o.name AND a.attnum > 0 AND NOT a.attisdropped)), '{}')
                      FROM scrim_state.known_relations k))
$$;

-- NULL for what is gone; PUBLIC stays PUBLIC.
CREATE FUNCTION scrim.moved(number oid, by jsonb) RETURNS oid
LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp AS $$ SELECT CASE WHEN number = 0 THEN 0::oid ELSE (by ->> number::text)::oid END $$;

-- 0 for columns that are gone.
CREATE FUNCTION scrim.moved(nums smallint[], by jsonb) RETURNS smallint[]
LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp AS $$
    SELECT ARRAY(SELECT coalesce((by ->> n.num::text)::smallint, 0) FROM unnest(nums) WITH ORDINALITY AS n(num, ord) ORDER BY n.ord)
$$;

-- Binds what scrim_state has to the database that it was restored into. Returns a line for all that needs somebody's attention. Called by the catalog role.
CREATE FUNCTION scrim.rebind() RETURNS SETOF text
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    moves jsonb;
    same_cluster boolean := scrim.is_same_cluster();
    closed integer[];
    v record;
BEGIN
    IF NOT scrim.is_restored() THEN
        RETURN;
    END IF;
    LOCK TABLE scrim_state.policies IN SHARE ROW EXCLUSIVE MODE;
    moves := scrim.moves();
    RETURN QUERY SELECT * FROM scrim.rebind_policies(moves);
    PERFORM scrim.rebind_others(moves);
    UPDATE scrim_state.home h SET system_identifier = c.system_identifier FROM pg_control_system() c;
    INSERT INTO scrim_state.home (system_identifier) SELECT c.system_identifier FROM pg_control_system() c ON CONFLICT DO NOTHING;

    closed := ARRAY(SELECT x.id FROM scrim_state.protections x WHERE x.suspended);
    UPDATE scrim_state.protections x SET suspended = true WHERE x.features_of IS NULL;
    FOR v IN SELECT y.id, c.oid::regclass AS view, c.relname, scrim.masked_view_name(y.relation, y.id) AS name FROM scrim_state.protections y JOIN pg_class c ON c.oid = y.masked_view
              WHERE y.features_of IS NULL LOOP
        PERFORM scrim.settle_masked_view(v.id);  -- from here on it reads nothing, not even keys
        IF v.name <> v.relname THEN
            EXECUTE format('ALTER VIEW %s RENAME TO %I', v.view, v.name);
        END IF;
    END LOOP;
    PERFORM scrim.drop_views(ARRAY(SELECT c.oid FROM pg_class c WHERE c.relnamespace = 'scrim_runtime'::regnamespace AND c.relkind = 'v'
        AND NOT EXISTS (SELECT 1 FROM scrim_state.protections x WHERE c.oid IN (x.relation, x.masked_view) AND (x.features_of IS NULL OR c.oid = x.relation))));
    PERFORM scrim.rebind_keys(moves -> 'roles');
    RETURN QUERY SELECT * FROM scrim.rebind_view_owners(moves -> 'roles', same_cluster);
    RETURN QUERY SELECT * FROM scrim.rebind_masks(closed);
END $$;

-- The numbers of policies. Of those whose relation is not here nothing is left but the grants, which stay as closed as they were.
CREATE FUNCTION scrim.rebind_policies(moves jsonb) RETURNS SETOF text
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    relations jsonb := moves -> 'relations';
    roles jsonb := moves -> 'roles';
    places jsonb := moves -> 'columns';
BEGIN
    RETURN QUERY
        SELECT format('masking policy %I is forgotten: its relation, %s, is not here', p.name, coalesce(k.name, 'of which no name is known'))
          FROM scrim_state.protections x JOIN scrim_state.policies p ON p.protection = x.id LEFT JOIN scrim_state.known_relations k ON k.oid = x.relation
         WHERE scrim.moved(coalesce(x.features_of, x.relation), relations) IS NULL OR scrim.moved(x.relation, relations) IS NULL ORDER BY p.id;
    DELETE FROM scrim_state.protections x WHERE scrim.moved(x.relation, relations) IS NULL OR scrim.moved(coalesce(x.features_of, 0), relations) IS NULL;
    DELETE FROM scrim_state.sql_masks m WHERE NOT EXISTS (SELECT 1 FROM scrim_state.policies p WHERE p.sql_mask = m.id);
    DELETE FROM scrim_state.protection_grants g USING scrim_state.protections x
     WHERE x.id = g.protection AND (scrim.moved(g.grantor, roles) IS NULL OR scrim.moved(g.grantee, roles) IS NULL
                                    OR g.attnum > 0 AND places -> x.relation::text ->> g.attnum::text IS NULL);
    DELETE FROM scrim_state.known_relations;  -- from here on they are noted anew
    DELETE FROM scrim_state.known_roles;

    UPDATE scrim_state.protection_grants g
       SET grantor = scrim.moved(g.grantor, roles), grantee = scrim.moved(g.grantee, roles),
           attnum = CASE WHEN g.attnum > 0 THEN (places -> x.relation::text ->> g.attnum::text)::smallint ELSE g.attnum END
      FROM scrim_state.protections x WHERE x.id = g.protection;
    UPDATE scrim_state.policies p
       SET columns = scrim.moved(p.columns, places -> x.relation::text), inputs = scrim.moved(p.inputs, places -> coalesce(x.features_of, x.relation)::text),
           except_roles = ARRAY(SELECT scrim.moved(e.role, roles) FROM unnest(p.except_roles) WITH ORDINALITY AS e(role, ord) WHERE scrim.moved(e.role, roles) IS NOT NULL ORDER BY e.ord)
      FROM scrim_state.protections x WHERE x.id = p.protection;
    UPDATE scrim_state.sql_masks m
       SET relation = scrim.moved(m.relation, relations), inputs = scrim.moved(m.inputs, c.by),
           types = (SELECT jsonb_object_agg(c.by ->> t.key, t.value) FROM jsonb_each(m.types) t WHERE c.by ? t.key),
           attached = (SELECT jsonb_agg(to_jsonb(scrim.moved(scrim.nums(l.nums), c.by)) ORDER BY l.ord) FROM jsonb_array_elements(m.attached) WITH ORDINALITY AS l(nums, ord)),
           masks = ARRAY(SELECT scrim.renumber(k.mask, c.olds, c.news) FROM unnest(m.masks) WITH ORDINALITY AS k(mask, ord) ORDER BY k.ord), condition = scrim.renumber(m.condition, c.olds, c.news)
      FROM (SELECT b.key, b.value AS by, array_agg(n.key::smallint) AS olds, array_agg(n.value::smallint) AS news FROM jsonb_each(places) b, jsonb_each_text(b.value) n GROUP BY b.key, b.value) c
     WHERE c.key = m.relation::text;
    UPDATE scrim_state.protections x
       SET relation = scrim.moved(x.relation, relations), features_of = scrim.moved(x.features_of, relations), masked_view = coalesce(scrim.moved(x.masked_view, relations), 0),
           key_owner = coalesce(scrim.moved(x.key_owner, roles), (SELECT c.relowner FROM pg_class c WHERE c.oid = scrim.moved(coalesce(x.features_of, x.relation), relations))),
           view_columns = scrim.moved(x.view_columns, places -> x.relation::text);
END $$;

-- The numbers of all else.
CREATE FUNCTION scrim.rebind_others(moves jsonb) RETURNS void
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    roles jsonb := moves -> 'roles';
BEGIN
    UPDATE scrim_state.encoders e SET source = coalesce(scrim.moved(e.source, moves -> 'relations'), 0), creator = coalesce(scrim.moved(e.creator, roles), 0);
    UPDATE scrim_state.models m SET creator = coalesce(scrim.moved(m.creator, roles), 0);
    UPDATE scrim_state.mask_definitions d SET creator = coalesce(scrim.moved(d.creator, roles), 0);
    UPDATE scrim_state.training_schedules s SET requester = coalesce(scrim.moved(s.requester, roles), 0);
    UPDATE scrim_state.training_jobs j SET requester = coalesce(scrim.moved(j.requester, roles), 0);
    INSERT INTO scrim_state.known_roles (oid, role, name) SELECT r.oid, r.oid::regrole, r.rolname FROM pg_roles r JOIN scrim_state.training_jobs j ON j.requester = r.oid ON CONFLICT DO NOTHING;
    UPDATE scrim_state.training_slot SET pid = NULL, backend_start = NULL;  -- a connection to the other database
    DELETE FROM scrim_state.trainers t  -- the other database's; pg_upgrade keeps numbers
     WHERE (scrim.moved(t.table_owner, roles) = t.table_owner AND scrim.moved(t.role, roles) = t.role AND scrim.role_name(t.role) = scrim.trainer_name(t.table_owner)) IS NOT TRUE;
    UPDATE scrim_state.trainers SET role = role;
    DELETE FROM scrim_state.replaced_views;
    DELETE FROM scrim_state.kept_uses;
    DELETE FROM scrim_state.publications;
END $$;

-- Keys of masks go with their owners, since hashes are joined with what was hashed before. Those that seal are new: a dump has the old ones.
CREATE FUNCTION scrim.rebind_keys(roles jsonb) RETURNS void
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    t record;
BEGIN
    FOR t IN SELECT c.relname, k.part[1] AS kind, scrim.moved(k.part[2]::oid, roles) AS owner FROM pg_class c, regexp_match(c.relname, '^(key_|mask_key_)(\d+)$') k(part)
              WHERE c.relnamespace = 'scrim_state'::regnamespace AND c.relkind = 'r' AND k.part IS NOT NULL LOOP
        IF t.owner IS NULL THEN
            EXECUTE format('DROP TABLE scrim_state.%I', t.relname);
        ELSE
            EXECUTE format('ALTER TABLE scrim_state.%I RENAME TO %I', t.relname, 'moving_' || t.kind || t.owner);  -- the number may be another's yet
        END IF;
    END LOOP;
    FOR t IN SELECT c.relname, substr(c.relname, 8) AS name FROM pg_class c WHERE c.relnamespace = 'scrim_state'::regnamespace AND c.relname LIKE 'moving\_%' AND c.relkind = 'r' LOOP
        EXECUTE format('ALTER TABLE scrim_state.%I RENAME TO %I', t.relname, t.name);
        IF t.name LIKE 'key%' THEN
            EXECUTE format('UPDATE scrim_state.%I SET key = scrim.new_key()', t.name);
        END IF;
        EXECUTE format('ANALYZE scrim_state.%I', t.name);
    END LOOP;
    DELETE FROM scrim_state.retired_keys;
END $$;

-- The roles that own masked views, which have the OID of a table owner in their names. In another cluster that is another role's: such a role loses what it has here, and the owner gets one of his own.
CREATE FUNCTION scrim.rebind_view_owners(roles jsonb, same_cluster boolean) RETURNS SETOF text
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    v record;
    view regclass;
    view_role text;
BEGIN
    FOR v IN SELECT o.table_owner, r.oid, r.rolname FROM scrim_state.view_owners o LEFT JOIN pg_roles r ON r.oid = scrim.moved(o.role, roles) AND r.rolname ~ '^scrim_owner_\d+$'
              WHERE (same_cluster AND scrim.moved(o.table_owner, roles) = o.table_owner AND r.oid = o.role) IS NOT TRUE LOOP
        DELETE FROM scrim_state.view_owners o WHERE o.table_owner = v.table_owner;
        FOR view IN SELECT c.oid FROM pg_class c WHERE c.relnamespace = 'scrim_runtime'::regnamespace AND c.relkind = 'v' AND c.relowner = v.oid LOOP
            EXECUTE format('ALTER VIEW %s OWNER TO %I', view, current_user);
        END LOOP;
        IF v.oid IS NOT NULL THEN
            EXECUTE format('DROP OWNED BY %I', v.rolname);  -- it owns nothing any more: this revokes
        END IF;
    END LOOP;
    UPDATE scrim_state.view_owners SET role = role;  -- for the names to be noted
    FOR v IN SELECT x.key_owner, bool_or(x.seals_only) AS row_security FROM scrim_state.protections x WHERE scrim.view_owner(x.key_owner) IS NULL GROUP BY x.key_owner LOOP
        view_role := scrim.prepare_view_owner(v.key_owner);
        EXECUTE format('GRANT SELECT ON scrim_state.%I, scrim_state.%I TO %I', 'key_' || v.key_owner, 'mask_key_' || v.key_owner, view_role);
        IF v.row_security AND (SELECT r.rolsuper FROM pg_roles r WHERE r.rolname = current_user) THEN
            EXECUTE format('ALTER ROLE %I BYPASSRLS', view_role);
        END IF;
        RETURN QUERY SELECT * FROM scrim.regrant_source(v.key_owner, view_role);
    END LOOP;
    FOR v IN SELECT x.relation, x.key_owner FROM scrim_state.protections x WHERE x.features_of IS NOT NULL LOOP
        EXECUTE format('ALTER VIEW %s OWNER TO %s', v.relation::regclass, scrim.role_name(scrim.view_owner(v.key_owner)));
    END LOOP;
END $$;

-- Lets the role that owns masked views read the tables below, as far as whoever runs this may.
CREATE FUNCTION scrim.regrant_source(key_owner oid, role text) RETURNS SETOF text
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    source record;
BEGIN
    FOR source IN SELECT DISTINCT c.oid::regclass AS name, c.relowner FROM scrim_state.protections x JOIN pg_class c ON c.oid = coalesce(x.features_of, x.relation)
                   WHERE x.key_owner = regrant_source.key_owner LOOP
        IF pg_has_role(current_user, source.relowner, 'USAGE') THEN
            EXECUTE format('GRANT SELECT ON %s TO %I', source.name, role);
        ELSE
            RETURN NEXT format('masked columns of %s stay closed until its owner has said: GRANT SELECT ON %1$s TO %I', source.name, role);
        END IF;
    END LOOP;
END $$;

-- Makes masked views, and the walk. What is open closes the masks of the table, and is reported.
CREATE FUNCTION scrim.rebind_masks(closed integer[]) RETURNS SETOF text
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    x scrim_state.protections;
    detail text;
    hint text;
BEGIN
    FOR x IN SELECT y.* FROM scrim_state.protections y WHERE y.features_of IS NULL AND y.along_with IS NULL AND NOT y.id = ANY (closed) ORDER BY y.id LOOP
        BEGIN
            PERFORM scrim.fence_resume(x.relation);
        EXCEPTION WHEN OTHERS THEN
            GET STACKED DIAGNOSTICS detail = PG_EXCEPTION_DETAIL, hint = PG_EXCEPTION_HINT;
            RETURN NEXT concat_ws(E'\n', format('masks of %s stay suspended: %s', x.relation::regclass, SQLERRM), nullif(detail, ''), nullif(hint, ''),
                CASE WHEN hint NOT LIKE 'DROP %' THEN format('Then: SELECT scrim.resume(%L)', x.relation::regclass) END);
        END;
    END LOOP;
    FOR x IN SELECT y.* FROM scrim_state.protections y WHERE y.features_of IS NOT NULL ORDER BY y.id LOOP
        BEGIN
            PERFORM scrim.make_feature_mask(x.id);
            detail := (SELECT string_agg(format('%s %s: %s. Close it: %s.', o.kind, o.object, o.why, o.remedy), E'\n')
                         FROM scrim_state.policies p, scrim.feature_openings(x.features_of, p.inputs) o WHERE p.protection = x.id);
            IF detail IS NOT NULL THEN
                RAISE EXCEPTION 'codes of chosen values could be looked up in it' USING DETAIL = detail, HINT = 'Close each of these, drop the feature view and make it again.';
            END IF;
        EXCEPTION WHEN OTHERS THEN
            GET STACKED DIAGNOSTICS detail = PG_EXCEPTION_DETAIL, hint = PG_EXCEPTION_HINT;
            RETURN NEXT concat_ws(E'\n', format('feature view %s shows no codes: %s', x.relation::regclass, SQLERRM), nullif(detail, ''), nullif(hint, ''));
        END;
    END LOOP;
END $$;
