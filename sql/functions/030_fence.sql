-- CREATE and DROP MASKING POLICY. The parts that change the table's own grants run with the rights of whoever calls
-- them. The parts that write Scrim's state and make the masked view are SECURITY DEFINER, take no expression of the
-- caller's, and check session_user again: they can be called alone, but only against one's own table.

-- With standard_conforming_strings off, the text of our own functions and what they print of constants would be read another way.
CREATE FUNCTION scrim.require_standard_strings() RETURNS void
LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    IF current_setting('standard_conforming_strings') <> 'on' THEN
        RAISE EXCEPTION 'masking policies cannot be changed with standard_conforming_strings off' USING ERRCODE = 'feature_not_supported', HINT = 'SET standard_conforming_strings = on.';
    END IF;
END $$;

CREATE FUNCTION scrim.require_policy_admin(relation regclass) RETURNS void
LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    owner oid := (SELECT c.relowner FROM pg_class c WHERE c.oid = relation);
BEGIN
    IF NOT pg_has_role(session_user, 'scrim_admin', 'USAGE') THEN
        RAISE EXCEPTION 'permission denied for masking policies' USING ERRCODE = 'insufficient_privilege',
            HINT = format('GRANT scrim_admin TO %I lets this role manage policies on tables it owns.', session_user);
    END IF;
    IF pg_has_role(session_user, owner, 'USAGE') IS NOT TRUE THEN  -- NULL: there is no such table
        RAISE EXCEPTION 'must be owner of table %', relation USING ERRCODE = 'insufficient_privilege';
    END IF;
    PERFORM scrim.require_standard_strings();
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
    PERFORM scrim.require_home();
    PERFORM scrim.forget_dropped();
END $$;

-- Forgets the policies of tables and views that were dropped, and drops what is left of their masked views. For callers that have checked who asks.
CREATE FUNCTION scrim.forget_dropped() RETURNS void
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    gone integer[] := ARRAY(SELECT x.id FROM scrim_state.protections x WHERE x.features_of IS NULL AND NOT EXISTS (SELECT 1 FROM pg_class c WHERE c.oid = x.relation));
BEGIN
    IF gone = '{}' OR scrim.is_restored() THEN  -- a DELETE of nothing would change the version of the catalog too; where all OIDs are another database's, nothing is known to be gone
        RETURN;
    END IF;
    PERFORM scrim.drop_views(ARRAY(
        SELECT v.view FROM (SELECT x.masked_view, x.relation FROM scrim_state.protections x UNION ALL SELECT r.view, r.relation FROM scrim_state.replaced_views r) v(view, relation)
          JOIN pg_class c ON c.oid = v.view AND c.relnamespace = 'scrim_runtime'::regnamespace
         WHERE NOT EXISTS (SELECT 1 FROM pg_class t WHERE t.oid = v.relation)));
    DELETE FROM scrim_state.replaced_views r WHERE NOT EXISTS (SELECT 1 FROM pg_class c WHERE c.oid = r.view);
    DELETE FROM scrim_state.protections x WHERE x.id = ANY (gone);
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
    role text;
BEGIN
    PERFORM scrim.require_policy_admin(relation);
    role := scrim.prepare_view_owner(owner);
    IF (SELECT c.relrowsecurity FROM pg_class c WHERE c.oid = relation) THEN
        -- Its view shows seals only. Which rows a client sees the table's policies decide, when the client reads the table.
        IF NOT (SELECT r.rolsuper FROM pg_roles r WHERE r.rolname = current_user) THEN
            RAISE EXCEPTION 'cannot mask columns of %: it has row security', relation USING ERRCODE = 'feature_not_supported',
                HINT = 'Run scrim init as a superuser: the role that owns the masked view needs BYPASSRLS.';
        END IF;
        EXECUTE format('ALTER ROLE %I BYPASSRLS', role);
    END IF;
    RETURN role;
END $$;

-- The role and the keys of one owner of tables.
CREATE FUNCTION scrim.prepare_view_owner(owner oid) RETURNS text
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    role text := 'scrim_owner_' || owner;
    key_table text := 'key_' || owner;
BEGIN
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
    IF to_regclass('scrim_state.' || key_table) IS NULL THEN
        EXECUTE format('CREATE TABLE scrim_state.%I (only_row boolean PRIMARY KEY DEFAULT true CHECK (only_row),
                            key bytea NOT NULL CHECK (octet_length(key) = 16))', key_table);
        EXECUTE format('INSERT INTO scrim_state.%I (key) VALUES (scrim.new_key())', key_table);
        EXECUTE format('REVOKE ALL ON scrim_state.%I FROM PUBLIC', key_table);
        EXECUTE format('GRANT SELECT ON scrim_state.%I TO %I', key_table, role);
        EXECUTE format('ANALYZE scrim_state.%I', key_table);  -- or the planner takes one row for hundreds
    END IF;
    PERFORM scrim.prepare_mask_key(owner, role);
    RETURN role;
END $$;

-- The key of hash and noise in a table owner's SQL masks. It is never changed: what a hash is joined with was made with it. Kept as HMAC uses it, with the two pads.
CREATE FUNCTION scrim.prepare_mask_key(owner oid, role text) RETURNS void
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    key_table text := 'mask_key_' || owner;
    key bytea := scrim.new_key() || scrim.new_key();
    inner_key bytea := decode(repeat('36', 64), 'hex');
    outer_key bytea := decode(repeat('5c', 64), 'hex');
BEGIN
    IF to_regclass('scrim_state.' || key_table) IS NOT NULL THEN
        RETURN;
    END IF;
    FOR i IN 0..octet_length(key) - 1 LOOP
        inner_key := set_byte(inner_key, i, get_byte(inner_key, i) # get_byte(key, i));
        outer_key := set_byte(outer_key, i, get_byte(outer_key, i) # get_byte(key, i));
    END LOOP;
    EXECUTE format('CREATE TABLE scrim_state.%I (only_row boolean PRIMARY KEY DEFAULT true CHECK (only_row),
                        inner_key bytea NOT NULL CHECK (octet_length(inner_key) = 64), outer_key bytea NOT NULL CHECK (octet_length(outer_key) = 64))', key_table);
    EXECUTE format('INSERT INTO scrim_state.%I (inner_key, outer_key) VALUES ($1, $2)', key_table) USING inner_key, outer_key;
    EXECUTE format('REVOKE ALL ON scrim_state.%I FROM PUBLIC', key_table);
    EXECUTE format('GRANT SELECT ON scrim_state.%I TO %I', key_table, role);
    EXECUTE format('ANALYZE scrim_state.%I', key_table);
END $$;

-- The sealed column of a masked view that reads source as t. What comes first makes every seal unique: file node, ctid and xmin, also across
-- a table rewrite; or, of rows without a place, random bytes. A NULL is a constant plus a bit, so that length tells nothing.
CREATE FUNCTION scrim.sealed_column(policy_id integer, source regclass, input_columns smallint[], identity text, key_owner oid) RETURNS text
LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp AS $$
    SELECT format('scrim_runtime.seal(record_send(ROW(%s, %s::int4, %s, (%s)::int8)), (SELECT k.key FROM scrim_state.%I k WHERE k.only_row), ''aes-cbc/pad:pkcs''::text)',
                  CASE identity WHEN 'PLACE' THEN format('(SELECT pg_relation_filenode(%s)), t.ctid, t.xmin', source::oid)
                                WHEN 'TABLE AND PLACE' THEN 'pg_relation_filenode(t.tableoid), t.tableoid, t.ctid, t.xmin'
                                ELSE 'scrim_runtime.nonce()' END,
                  policy_id,
                  string_agg(format('coalesce(%s, 0::float8)', scrim.feature_expression(source, i.num, 't')), ', ' ORDER BY i.ord),
                  string_agg(format('CASE WHEN t.%I IS NULL THEN %s::int8 ELSE 0::int8 END', a.attname, 1::bigint << (i.ord - 1)::int), ' + ' ORDER BY i.ord),
                  'key_' || key_owner)
      FROM unnest(input_columns) WITH ORDINALITY AS i(num, ord)
      JOIN pg_attribute a ON a.attrelid = source AND a.attnum = i.num
$$;

-- Raises if the rule of a masked view leans on more than what it reads, the keys, the seal and what SQL masks may call: anything else would be somebody's code or
-- another table.
CREATE FUNCTION scrim.check_masked_view(masked_view oid, source regclass, key_owner oid) RETURNS void
LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    bad text;
BEGIN
    SELECT string_agg(pg_describe_object(d.refclassid, d.refobjid, d.refobjsubid), ', ') INTO bad
      FROM pg_rewrite r JOIN pg_depend d ON d.classid = 'pg_rewrite'::regclass AND d.objid = r.oid
     WHERE r.ev_class = masked_view
       AND NOT (d.refclassid = 'pg_class'::regclass AND d.refobjid IN (source, masked_view, format('scrim_state.%I', 'key_' || key_owner)::regclass, to_regclass(format('scrim_state.%I', 'mask_key_' || key_owner))))
       AND NOT (d.refclassid = 'pg_proc'::regclass AND d.refobjid IN ('scrim_runtime.seal(bytea,bytea,text)'::regprocedure,
                                                                      'scrim_runtime.still_granted(oid,text,int2[],bool,bool)'::regprocedure,
                                                                      'scrim_runtime.still_featured(oid,int2[])'::regprocedure, 'scrim_runtime.still_here(regclass,oid,bigint)'::regprocedure,
                                                                      'scrim_runtime.reads_columns(oid,int2[])'::regprocedure,
                                                                      'scrim_runtime.masks_closed(text,oid,bool)'::regprocedure, 'scrim_runtime.sees_row(oid,oid,tid)'::regprocedure,
                                                                      'scrim_runtime.nonce()'::regprocedure))
       AND NOT (d.refclassid = 'pg_proc'::regclass AND scrim.may_mask_with(d.refobjid, (SELECT c.relowner FROM pg_class c WHERE c.oid = source)))
       AND NOT (d.refclassid IN ('pg_type'::regclass, 'pg_collation'::regclass) AND EXISTS (
                SELECT 1 FROM pg_attribute a WHERE a.attrelid = source AND d.refobjid IN (a.atttypid, a.attcollation)))
       AND NOT (d.refclassid = 'pg_type'::regclass AND d.refobjid = 'scrim_runtime.sealed'::regtype);
    IF bad IS NOT NULL THEN
        RAISE EXCEPTION 'the masked view of % would depend on %', source, bad USING ERRCODE = 'feature_not_supported';
    END IF;
END $$;

-- The name of the masked view that a protection has of a relation. That of the protection which replaces it has another.
CREATE FUNCTION scrim.masked_view_name(relation regclass, protection_id integer) RETURNS text
LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp AS $$
    SELECT concat_ws('_', CASE WHEN octet_length(c.relname) > 40 THEN 'masked' ELSE c.relname END, c.oid, protection_id) FROM pg_class c WHERE c.oid = relation
$$;

-- The type of a relation's column as SQL spells it, with its collation if that is not the type's own.
CREATE FUNCTION scrim.column_type(relation oid, num smallint) RETURNS text
LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp AS $$
    SELECT format_type(a.atttypid, a.atttypmod)
           || coalesce((SELECT format(' COLLATE %I.%I', n.nspname, c.collname) FROM pg_collation c JOIN pg_namespace n ON n.oid = c.collnamespace JOIN pg_type t ON t.oid = a.atttypid
                         WHERE c.oid = a.attcollation AND c.oid <> t.typcollation), '')
      FROM pg_attribute a WHERE a.attrelid = relation AND a.attnum = num
$$;

-- The columns of a protection's masked view, in order: what is open, SQL masks by policy, seals by policy, and what a row is known by. base is the column that one
-- stands for; of what a disabled policy masks, the expression raises when a statement uses it.
CREATE FUNCTION scrim.masked_view_columns(protection_id integer)
RETURNS TABLE (num smallint, name text, base smallint, policy integer, expression text)
LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp AS $$
    WITH x AS MATERIALIZED (SELECT x.* FROM scrim_state.protections x WHERE x.id = protection_id),
    col AS (
        SELECT 1 AS part, NULL::integer AS policy, c.ord, c.num AS base, a.attname::text AS name, format('t.%I', a.attname) AS expression
          FROM x CROSS JOIN LATERAL unnest(x.view_columns) WITH ORDINALITY AS c(num, ord) JOIN pg_attribute a ON a.attrelid = x.relation AND a.attnum = c.num
         WHERE NOT x.seals_only
        UNION ALL
        SELECT 2, p.id, c.ord, c.num, a.attname::text,
               CASE WHEN NOT p.enabled THEN format('(SELECT NULL::%s WHERE scrim_runtime.masks_closed(%L::text, %s::oid, false))', scrim.column_type(x.relation, c.num), p.name, x.relation)
                    ELSE format(CASE WHEN x.seals_only THEN 'CASE WHEN scrim_runtime.sees_row(%5$s::oid, t.tableoid, t.ctid) THEN ' ELSE '' END
                                || CASE WHEN m.condition IS NOT NULL THEN 'CASE WHEN (%3$s) IS FALSE THEN t.%4$I ELSE (%1$s)::%2$s END' ELSE '(%1$s)::%2$s' END
                                || CASE WHEN x.seals_only THEN ' END' ELSE '' END,
                                scrim.spell_mask(m.masks[c.ord], x.relation, x.key_owner), scrim.column_type(x.relation, c.num), scrim.spell_mask(m.condition, x.relation, x.key_owner), a.attname, x.relation) END
          FROM x JOIN scrim_state.policies p ON p.protection = x.id JOIN scrim_state.sql_masks m ON m.id = p.sql_mask
               CROSS JOIN LATERAL unnest(p.columns) WITH ORDINALITY AS c(num, ord) JOIN pg_attribute a ON a.attrelid = x.relation AND a.attnum = c.num
        UNION ALL
        SELECT 3, p.id, 1, NULL, 'sealed_' || p.id,
               CASE WHEN p.enabled THEN scrim.sealed_column(p.id, x.relation, p.inputs, x.identity, x.key_owner)
                    ELSE format('(SELECT NULL::scrim_runtime.sealed WHERE scrim_runtime.masks_closed(%L::text, %s::oid, false))', p.name, x.relation) END
          FROM x JOIN scrim_state.policies p ON p.protection = x.id WHERE p.sql_mask IS NULL
        UNION ALL
        SELECT 4, NULL, s.ord, NULL, s.name, 't.' || s.name
          FROM x, unnest(CASE x.identity WHEN 'PLACE' THEN ARRAY['ctid', 'xmin'] WHEN 'TABLE AND PLACE' THEN ARRAY['ctid', 'xmin', 'tableoid'] END) WITH ORDINALITY AS s(name, ord))
    SELECT row_number() OVER (ORDER BY c.part, c.policy, c.ord)::smallint, c.name, c.base, c.policy, c.expression FROM col c ORDER BY 1
$$;

-- The first condition of a masked view: that it has not been taken elsewhere.
CREATE FUNCTION scrim.still_here(source regclass) RETURNS text
LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp AS $$
    SELECT format('scrim_runtime.still_here(%L::regclass, %s::oid, %s::bigint)', source, source::oid, c.system_identifier) FROM pg_control_system() c
$$;

-- Makes the masked view of a protection, readable by nobody yet.
CREATE FUNCTION scrim.make_masked_view(protection_id integer) RETURNS void
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp SET standard_conforming_strings = on SET IntervalStyle = 'postgres' SET DateStyle = 'ISO' SET lc_monetary = 'C' AS $$
DECLARE
    x scrim_state.protections;
    view_name text;
BEGIN
    PERFORM scrim.require_mask_types(protection_id);
    SELECT p.* INTO STRICT x FROM scrim_state.protections p WHERE p.id = protection_id;
    view_name := scrim.masked_view_name(x.relation, protection_id);
    EXECUTE format('CREATE VIEW scrim_runtime.%I AS SELECT %s FROM %s t WHERE %s AND scrim_runtime.still_granted(%s, %L::text, %L::int2[], %L::bool, %L::bool)',
                   view_name, (SELECT string_agg(format('%s AS %I', c.expression, c.name), ', ' ORDER BY c.num) FROM scrim.masked_view_columns(protection_id) c),
                   x.relation::regclass, scrim.still_here(x.relation), x.relation, view_name, CASE WHEN x.seals_only THEN '{}' ELSE x.view_columns END, x.seals_only, x.identity = 'PLACE');
    EXECUTE format('ALTER VIEW scrim_runtime.%I OWNER TO %s', view_name, scrim.role_name(scrim.view_owner(x.key_owner)));
    EXECUTE format('REVOKE ALL ON scrim_runtime.%I FROM PUBLIC', view_name);
    UPDATE scrim_state.protections p SET masked_view = format('scrim_runtime.%I', view_name)::regclass WHERE p.id = protection_id RETURNING p.masked_view INTO x.masked_view;
    PERFORM scrim.check_masked_view(x.masked_view, x.relation, x.key_owner);
END $$;

-- Whether rows of a relation are sealed with the key of a table owner, for a policy on it or a feature view of it.
CREATE FUNCTION scrim.is_sealed(relation regclass, key_owner oid) RETURNS boolean
LANGUAGE sql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
    SELECT EXISTS (SELECT 1 FROM scrim_state.protections p WHERE coalesce(p.features_of, p.relation) = is_sealed.relation AND p.key_owner = is_sealed.key_owner)
$$;

CREATE FUNCTION scrim.nums(list jsonb) RETURNS smallint[]
LANGUAGE sql IMMUTABLE SET search_path = pg_catalog, pg_temp AS $$
    SELECT ARRAY(SELECT e.num::smallint FROM jsonb_array_elements_text(list) WITH ORDINALITY AS e(num, ord) ORDER BY e.ord)
$$;

-- The policies on a relation, as the functions below hand them on: name, columns, components, inputs, encoder or model and version, present, mask (a row of sql_masks), except (OIDs as texts), enabled. Columns that were
-- dropped are left out, and policies that have none left.
CREATE FUNCTION scrim.policy_definitions(relation regclass) RETURNS jsonb
LANGUAGE sql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
    SELECT coalesce(jsonb_agg(jsonb_build_object('name', p.name, 'columns', live.columns, 'components', live.components, 'inputs', p.inputs, 'encoder', e.name, 'model', m.name, 'version', p.model_version,
                                                 'present', p.present, 'mask', p.sql_mask,
                                                 'places', live.places, 'except', p.except_roles::text[], 'enabled', p.enabled) ORDER BY p.id), '[]')
      FROM scrim_state.protections x JOIN scrim_state.policies p ON p.protection = x.id LEFT JOIN scrim_state.encoders e ON e.id = p.encoder_id LEFT JOIN scrim_state.models m ON m.id = p.model_id,
           LATERAL (SELECT array_agg(c.num ORDER BY c.ord) AS columns, array_agg(c.component ORDER BY c.ord) AS components, array_agg(c.ord ORDER BY c.ord) AS places
                      FROM unnest(p.columns, p.components) WITH ORDINALITY AS c(num, component, ord)
                      JOIN pg_attribute a ON a.attrelid = policy_definitions.relation AND a.attnum = c.num AND NOT a.attisdropped) live
     WHERE x.relation = policy_definitions.relation AND x.features_of IS NULL AND live.columns IS NOT NULL
$$;

-- The columns that policies hide from a role that grants name.
CREATE FUNCTION scrim.hidden_from(role oid, policies jsonb) RETURNS smallint[]
LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp AS $$
    SELECT coalesce(array_agg(c.num::smallint), '{}') FROM jsonb_array_elements(policies) p, jsonb_array_elements_text(p -> 'columns') c(num) WHERE NOT p -> 'except' ? role::text
$$;

-- Raises unless the session's role may have a policy with this encoder or model on a relation, of these inputs; returns how many inputs and outputs it has. Of what the relation's
-- policies had before this change nobody is asked.
CREATE FUNCTION scrim.check_use(relation regclass, encoder text, model text, version integer, nums smallint[], OUT inputs integer, OUT dims integer)
LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    enc scrim_state.encoders;
    mod scrim_state.models;
BEGIN
    SELECT e.* INTO enc FROM scrim_state.encoders e WHERE e.name = encoder;
    SELECT m.* INTO mod FROM scrim_state.models m WHERE m.name = model;
    IF NOT EXISTS (SELECT 1 FROM scrim_state.kept_uses u WHERE u.relation = check_use.relation AND (u.encoder_id = enc.id OR u.model_id = mod.id) AND u.xact = pg_current_xact_id_if_assigned()) THEN
        PERFORM scrim.require_encoder(encoder) WHERE encoder IS NOT NULL;
        PERFORM scrim.require_model_version(model, version) WHERE model IS NOT NULL;
    END IF;
    IF encoder IS NOT NULL AND model IS NULL THEN
        PERFORM scrim.check_features(relation, nums);
        PERFORM scrim.require_trained(enc);
        inputs := cardinality(enc.feature_columns);
        dims := enc.latent_dims;
    ELSIF encoder IS NULL THEN
        PERFORM scrim.check_model_inputs(relation, nums, mod.inputs, true);
        inputs := cardinality(mod.inputs);
        dims := mod.outputs;
    END IF;
END $$;

-- Raises unless policies that fence_publish is given are what the functions above make: it can be called alone.
CREATE FUNCTION scrim.check_definitions(relation regclass, policies jsonb) RETURNS void
LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    p record;
    used record;
    all_masked smallint[] := '{}';
BEGIN
    FOR p IN SELECT d ->> 'name' AS name, scrim.nums(d -> 'columns') AS columns, scrim.nums(d -> 'components') AS components, scrim.nums(d -> 'inputs') AS inputs,
                    d ->> 'encoder' AS encoder, d ->> 'model' AS model, (d ->> 'version')::int AS version, d ->> 'present' AS present, (d ->> 'mask')::bigint AS mask
               FROM jsonb_array_elements(policies) d LOOP
        IF (SELECT count(DISTINCT a.attnum) FROM pg_attribute a WHERE a.attrelid = relation AND a.attnum > 0 AND NOT a.attisdropped AND a.attnum = ANY (p.inputs)) IS DISTINCT FROM cardinality(p.inputs)::bigint THEN
            RAISE EXCEPTION 'a column that the mask of policy "%" on % is made of was dropped', p.name, relation USING ERRCODE = 'object_not_in_prerequisite_state',
                HINT = format('DROP MASKING POLICY %I ON %s, and make it again in the same transaction.', p.name, relation);
        END IF;
        IF p.encoder IS NULL AND p.model IS NULL THEN
            IF NOT EXISTS (SELECT 1 FROM scrim_state.sql_masks m WHERE m.id = p.mask AND m.relation = check_definitions.relation AND cardinality(m.masks) = cardinality(p.columns) AND m.inputs <@ p.inputs AND p.inputs <@ m.inputs) THEN
                RAISE EXCEPTION 'inconsistent mask' USING ERRCODE = 'invalid_parameter_value';
            END IF;
        ELSE
            SELECT * INTO used FROM scrim.check_use(relation, p.encoder, p.model, p.version, p.inputs);
            IF cardinality(p.inputs) IS DISTINCT FROM used.inputs OR cardinality(p.components) IS DISTINCT FROM cardinality(p.columns)
               OR (p.present = 'COMPONENTS' AND (1 <= ALL (p.components) AND used.dims >= ALL (p.components)) IS NOT TRUE) THEN
                RAISE EXCEPTION 'inconsistent columns' USING ERRCODE = 'invalid_parameter_value';
            END IF;
        END IF;
        all_masked := all_masked || p.columns;
    END LOOP;
    IF (SELECT count(DISTINCT a.attnum) FROM pg_attribute a WHERE a.attrelid = relation AND a.attnum > 0 AND NOT a.attisdropped AND a.attnum = ANY (all_masked)) IS DISTINCT FROM cardinality(all_masked)::bigint
       OR cardinality(all_masked) = 0 THEN
        RAISE EXCEPTION 'inconsistent columns' USING ERRCODE = 'invalid_parameter_value';
    END IF;
END $$;

-- Makes the masked view and writes the policies down. acl_before and acl_after are scrim.relation_acl as JSON, taken by
-- the caller around the conversion of the grants; who could read the table before may read the view now.
CREATE FUNCTION scrim.fence_publish(relation regclass, policies jsonb, along_with integer, suspended boolean, acl_before jsonb, acl_after jsonb) RETURNS integer
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    rel pg_class;
    x scrim_state.protections;
    open_columns smallint[];
BEGIN
    PERFORM scrim.require_policy_admin(relation);
    PERFORM scrim.require_protectable(relation);
    PERFORM scrim.check_definitions(relation, policies);
    PERFORM scrim.require_policy_admin(p.relation) FROM scrim_state.protections p WHERE p.id = fence_publish.along_with;
    SELECT c.* INTO STRICT rel FROM pg_class c WHERE c.oid = relation;
    SELECT coalesce(array_agg(a.attnum ORDER BY a.attnum), '{}') INTO open_columns
      FROM pg_attribute a WHERE a.attrelid = relation AND a.attnum > 0 AND NOT a.attisdropped AND NOT a.attnum = ANY (scrim.hidden_from(0, policies));
    INSERT INTO scrim_state.protections (relation, view_columns, seals_only, identity, along_with, masked_view, key_owner)
    VALUES (relation, open_columns, rel.relrowsecurity,
            CASE WHEN rel.relkind IN ('v', 'f') THEN 'NONE'
                 WHEN rel.relkind = 'p' OR EXISTS (SELECT 1 FROM pg_inherits i WHERE i.inhparent = relation) THEN 'TABLE AND PLACE'
                 ELSE 'PLACE' END,
            fence_publish.along_with, 0, rel.relowner)
    RETURNING * INTO x;
    INSERT INTO scrim_state.policies (protection, name, columns, components, inputs, encoder_id, model_id, model_version, present, sql_mask, except_roles, enabled, created_by)
    SELECT x.id, d ->> 'name', scrim.nums(d -> 'columns'), scrim.nums(d -> 'components'), scrim.nums(d -> 'inputs'), e.id, m.id, (d ->> 'version')::int, d ->> 'present', (d ->> 'mask')::bigint,
           ARRAY(SELECT r::oid FROM jsonb_array_elements_text(d -> 'except') r), true, session_user
      FROM jsonb_array_elements(policies) WITH ORDINALITY AS l(d, ord) LEFT JOIN scrim_state.encoders e ON e.name = d ->> 'encoder' LEFT JOIN scrim_state.models m ON m.name = d ->> 'model' ORDER BY l.ord;
    UPDATE scrim_state.sql_masks m SET types = (SELECT jsonb_object_agg(a.attnum, a.atttypid::regtype) FROM pg_attribute a WHERE a.attrelid = x.relation AND a.attnum = ANY (p.columns || p.inputs))
      FROM scrim_state.policies p WHERE p.protection = x.id AND p.sql_mask = m.id AND m.types IS NULL;
    PERFORM scrim.make_masked_view(x.id);
    INSERT INTO scrim_state.protection_grants (protection, change, attnum, grantor, grantee, privilege, grantable)
    SELECT x.id, c.change, (c.entry ->> 'attnum')::smallint, (c.entry ->> 'grantor')::oid, (c.entry ->> 'grantee')::oid,
           c.entry ->> 'privilege', (c.entry ->> 'grantable')::boolean
      FROM (SELECT 'removed', b FROM jsonb_array_elements(acl_before) b WHERE NOT acl_after @> jsonb_build_array(b)
            UNION ALL
            SELECT 'added', a FROM jsonb_array_elements(acl_after) a WHERE NOT acl_before @> jsonb_build_array(a)) c(change, entry);
    PERFORM scrim.fence_show(x.id, policies, acl_before);
    UPDATE scrim_state.policies p SET enabled = (d ->> 'enabled')::boolean FROM jsonb_array_elements(policies) d
     WHERE p.protection = x.id AND p.name = d ->> 'name' AND NOT (d ->> 'enabled')::boolean;
    IF FOUND OR fence_publish.suspended THEN
        UPDATE scrim_state.protections p SET suspended = fence_publish.suspended WHERE p.id = x.id;
        PERFORM scrim.settle_masked_view(x.id);
    END IF;
    RETURN x.id;
END $$;

-- Grants a masked view's columns to those who could read the relation's: the column itself, or its mask where it is hidden from them.
CREATE FUNCTION scrim.fence_show(protection_id integer, policies jsonb, acl_before jsonb) RETURNS void
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    x scrim_state.protections;
    g record;
BEGIN
    SELECT p.* INTO STRICT x FROM scrim_state.protections p WHERE p.id = protection_id;
    FOR g IN
        SELECT r.grantee, CASE WHEN NOT r.whole THEN ARRAY(  -- else the whole view
                   SELECT c.name FROM scrim.masked_view_columns(protection_id) c
                    WHERE c.base = ANY (r.nums) AND (c.policy IS NULL OR c.base = ANY (r.hidden)) OR c.base IS NULL AND c.policy IS NULL
                       OR c.base IS NULL AND EXISTS (SELECT 1 FROM scrim_state.policies p, unnest(p.columns) n WHERE p.id = c.policy AND n = ANY (r.nums) AND n = ANY (r.hidden))) END AS columns
          FROM (SELECT (b ->> 'grantee')::oid AS grantee, bool_or((b ->> 'attnum')::int = 0) AS whole, array_agg((b ->> 'attnum')::smallint) AS nums,
                       scrim.hidden_from((b ->> 'grantee')::oid, policies) AS hidden
                  FROM jsonb_array_elements(acl_before) b WHERE b ->> 'privilege' = 'SELECT' GROUP BY 1) r
         WHERE r.hidden <> '{}'
    LOOP
        CONTINUE WHEN g.columns = '{}';
        EXECUTE format('GRANT SELECT %s ON %s TO %s', (SELECT '(' || string_agg(quote_ident(c), ', ') || ')' FROM unnest(g.columns) c), x.masked_view::regclass, scrim.role_name(g.grantee));
    END LOOP;
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
CREATE FUNCTION scrim.fence_convert(relation regclass, policies jsonb, except_get boolean) RETURNS void
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    before jsonb := scrim.fence_acl(relation);
    readers oid[] := ARRAY(SELECT DISTINCT x::oid FROM jsonb_array_elements(policies) p, jsonb_array_elements_text(p -> 'except') x
                            WHERE except_get OR has_table_privilege(x::oid, relation, 'SELECT'));
    -- What exempt roles can read of the columns that they are exempt from, by whatever grant.
    kept jsonb := (SELECT jsonb_agg(jsonb_build_object('attnum', m::smallint, 'grantee', x::oid, 'privilege', 'SELECT', 'grantable', false))
                     FROM jsonb_array_elements(policies) p, jsonb_array_elements_text(p -> 'except') x, jsonb_array_elements_text(p -> 'columns') m
                    WHERE has_column_privilege(x::oid, relation, m::smallint, 'SELECT'));
    hidden smallint[];
    open_columns text;
    e jsonb;
    g record;
BEGIN
    PERFORM scrim.fence_revoke(relation);
    FOR e IN SELECT b FROM jsonb_array_elements(before) b LOOP
        hidden := scrim.hidden_from((e ->> 'grantee')::oid, policies);
        open_columns := scrim.open_columns(relation, hidden, e ->> 'privilege');
        IF hidden = '{}' OR (e ->> 'attnum')::int <> 0 AND NOT (e ->> 'attnum')::smallint = ANY (hidden) THEN
            PERFORM scrim.fence_regrant(relation, e, false);
        ELSIF (e ->> 'attnum')::int = 0 AND open_columns IS NOT NULL THEN
            EXECUTE format('GRANT %s (%s) ON %s TO %s %s', e ->> 'privilege', open_columns, relation, scrim.role_name((e ->> 'grantee')::oid),
                           CASE WHEN (e ->> 'grantable')::boolean THEN 'WITH GRANT OPTION' END);
        ELSIF (e ->> 'attnum')::smallint = ANY (hidden) AND e ->> 'privilege' = 'SELECT' AND (SELECT c.relkind <> 'v' FROM pg_class c WHERE c.oid = relation) THEN
            EXECUTE format('GRANT SELECT (ctid, xmin, tableoid) ON %s TO %s', relation, scrim.role_name((e ->> 'grantee')::oid));
        END IF;
    END LOOP;
    FOR g IN SELECT x AS role, scrim.hidden_from(x, policies) AS hidden FROM unnest(readers) x WHERE NOT has_table_privilege(x, relation, 'SELECT') LOOP
        EXECUTE format('GRANT SELECT %s ON %s TO %s', CASE WHEN g.hidden <> '{}' THEN '(' || scrim.open_columns(relation, g.hidden, 'SELECT') || ')' END, relation, scrim.role_name(g.role));
    END LOOP;
    FOR e IN SELECT k FROM jsonb_array_elements(kept) k WHERE NOT has_column_privilege((k ->> 'grantee')::oid, relation, (k ->> 'attnum')::smallint, 'SELECT') LOOP
        PERFORM scrim.fence_regrant(relation, e, false);
    END LOOP;
END $$;

-- The columns that a table grant becomes where some are hidden, as GRANT lists them; NULL if a privilege is not one of columns, or none is left. System columns stay.
CREATE FUNCTION scrim.open_columns(relation regclass, hidden smallint[], privilege text) RETURNS text
LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp AS $$
    SELECT nullif(concat_ws(', ', (SELECT string_agg(quote_ident(a.attname), ', ' ORDER BY a.attnum) FROM pg_attribute a
                                    WHERE a.attrelid = relation AND a.attnum > 0 AND NOT a.attisdropped AND NOT a.attnum = ANY (hidden)),
                            CASE WHEN privilege = 'SELECT' AND c.relkind <> 'v' THEN 'ctid, xmin, cmin, xmax, cmax, tableoid' END), '')
      FROM pg_class c WHERE c.oid = relation AND privilege IN ('SELECT', 'REFERENCES')
$$;

-- Revokes every grant on a relation that a policy rearranges.
CREATE FUNCTION scrim.fence_revoke(relation regclass) RETURNS void
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    g record;
BEGIN
    FOR g IN SELECT DISTINCT b ->> 'privilege' AS privilege, (b ->> 'grantee')::oid AS grantee FROM jsonb_array_elements(scrim.fence_acl(relation)) b LOOP
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
END $$;

-- Closes the columns of a relation and makes its policies: the conversion of grants, and fence_publish. Whether other ways to the
-- columns are open is for scrim.openings to say.
CREATE FUNCTION scrim.fence_mask(relation regclass, policies jsonb, along_with integer, suspended boolean) RETURNS integer
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    acl_before jsonb := scrim.fence_acl(relation);
    view_role text := scrim.fence_prepare(relation);
BEGIN
    EXECUTE format('GRANT SELECT ON %s TO %I', relation, view_role);
    PERFORM scrim.fence_convert(relation, policies, along_with IS NULL);
    RETURN scrim.fence_publish(relation, policies, along_with, suspended, acl_before, scrim.fence_acl(relation));
END $$;

-- Policies of a relation as those of another that has its columns: a part of it.
CREATE FUNCTION scrim.policies_for_part(relation regclass, policies jsonb, part regclass) RETURNS jsonb
LANGUAGE sql SET search_path = pg_catalog, pg_temp AS $$
    SELECT jsonb_agg(p || jsonb_build_object('columns', scrim.same_columns(relation, scrim.nums(p -> 'columns'), part), 'inputs', i.to_nums,
                     'mask', CASE WHEN p ->> 'mask' IS NOT NULL THEN scrim.keep_mask_of((p ->> 'mask')::bigint, part, ARRAY(SELECT generate_series(1, jsonb_array_length(p -> 'columns'))), i.from_nums, i.to_nums) END)
                     ORDER BY ord)
      FROM jsonb_array_elements(policies) WITH ORDINALITY AS l(p, ord),
           LATERAL (SELECT scrim.nums(p -> 'inputs') AS from_nums, scrim.same_columns(relation, scrim.nums(p -> 'inputs'), part) AS to_nums) i
$$;

-- Policies of a relation as those of a view over it, as far as the view has nothing but copies of what they mask, and of what the masks are made of. NULL if none is left.
CREATE FUNCTION scrim.policies_for_view(relation regclass, policies jsonb, view regclass) RETURNS jsonb
LANGUAGE sql SET search_path = pg_catalog, pg_temp AS $$
    SELECT jsonb_agg(p || jsonb_build_object('columns', v.copies, 'inputs', v.inputs, 'components', s.components,
                     'mask', CASE WHEN p ->> 'mask' IS NOT NULL THEN scrim.keep_mask_of((p ->> 'mask')::bigint, view, s.places, scrim.nums(p -> 'inputs'), v.inputs) END) ORDER BY l.ord)
      FROM jsonb_array_elements(policies) WITH ORDINALITY AS l(p, ord),
           LATERAL (SELECT scrim.plain_copies(view, relation, scrim.nums(p -> 'columns')) AS copies, scrim.copies(view, relation, scrim.nums(p -> 'inputs')) AS inputs OFFSET 0) v,
           LATERAL (SELECT array_agg(o.place ORDER BY c.ord) AS places, array_agg((scrim.nums(p -> 'components'))[o.place] ORDER BY c.ord) AS components  -- of what each is a copy
                      FROM unnest(v.copies) WITH ORDINALITY AS c(num, ord) JOIN scrim.view_columns(view) w ON w.attnum = c.num AND w.source = relation,
                           LATERAL (SELECT array_position(scrim.nums(p -> 'columns'), w.source_attnum) AS place) o) s
     WHERE v.copies IS NOT NULL AND v.inputs IS NOT NULL
$$;

-- Masks the copies of masked columns in the views over a relation, and in the views over those. Left out, for scrim.openings to
-- list, are views that do more with them than copy, views that lack a column that the mask needs, and other people's.
CREATE FUNCTION scrim.fence_cascade(relation regclass, policies jsonb, along_with integer, suspended boolean) RETURNS SETOF regclass
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    view regclass;
    copied jsonb;
BEGIN
    FOR view IN
        SELECT DISTINCT r.ev_class
          FROM pg_depend d
          JOIN pg_rewrite r ON d.classid = 'pg_rewrite'::regclass AND r.oid = d.objid AND r.rulename = '_RETURN'
          JOIN pg_class c ON c.oid = r.ev_class AND c.relkind IN ('v', 'm') AND c.relnamespace <> 'scrim_runtime'::regnamespace
         WHERE d.refclassid = 'pg_class'::regclass AND d.refobjid = relation AND d.refobjsubid = ANY (scrim.hidden_from(0, policies)) AND r.ev_class <> relation
           AND NOT scrim.runs_as_invoker(c.oid)
           AND NOT EXISTS (SELECT 1 FROM scrim.policies_on(c.oid))
         ORDER BY 1
    LOOP
        CONTINUE WHEN NOT pg_has_role(session_user, (SELECT c.relowner FROM pg_class c WHERE c.oid = view), 'USAGE');
        copied := scrim.policies_for_view(relation, policies, view);
        CONTINUE WHEN copied IS NULL;
        PERFORM scrim.require_protectable(view);
        PERFORM scrim.fence_mask(view, copied, along_with, suspended);
        RETURN NEXT view;
        RETURN QUERY SELECT * FROM scrim.fence_cascade(view, copied, along_with, suspended);
    END LOOP;
END $$;

-- Gives a relation these policies in the place of those that it has, in one step: the table is locked, and the grants are this transaction's until it commits.
CREATE FUNCTION scrim.fence_apply(relation regclass, policies jsonb, mend_views boolean) RETURNS void
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    was record;
    first integer;
    member oid;
    masked oid[] := ARRAY[relation::oid];
    ways text;
BEGIN
    PERFORM scrim.require_policy_admin(relation);
    PERFORM scrim.fence_serialize();
    PERFORM scrim.fence_lock(relation);
    SELECT * INTO was FROM scrim.fence_state(relation);
    mend_views := mend_views OR coalesce(was.views_along, false);
    PERFORM scrim.fence_lift(relation, jsonb_array_length(policies) > 0);
    policies := scrim.with_masks_of(relation, policies);
    IF jsonb_array_length(policies) = 0 THEN
        PERFORM scrim.fence_settled(relation);
        RETURN;
    END IF;
    PERFORM scrim.require_protectable(relation);
    first := scrim.fence_mask(relation, policies, NULL, coalesce(was.suspended, false));
    FOR member IN SELECT m FROM scrim.family(relation) m WHERE m <> relation LOOP
        PERFORM scrim.fence_mask(member, scrim.policies_for_part(relation, policies, member), first, coalesce(was.suspended, false));
    END LOOP;
    FOR member IN SELECT m FROM scrim.family(relation) m WHERE mend_views LOOP
        masked := masked || ARRAY(SELECT v::oid FROM scrim.fence_cascade(member, CASE WHEN member = relation THEN policies ELSE scrim.policies_for_part(relation, policies, member) END, first, coalesce(was.suspended, false)) v);
    END LOOP;
    PERFORM scrim.fence_settled(relation);
    IF was.suspended THEN
        RETURN;  -- resume makes the walk
    END IF;
    SELECT string_agg(DISTINCT format('%s %s: %s. Close it: %s.', o.kind, o.object, o.why, o.remedy), E'\n')
      INTO ways
      FROM unnest(masked) r(oid), scrim.masked_for(r.oid) p, scrim.openings(r.oid, p.columns, p.inputs, p.except_roles) o;
    IF ways IS NOT NULL THEN
        RAISE EXCEPTION 'cannot mask %: raw values could still be read or probed another way', relation
            USING ERRCODE = 'object_not_in_prerequisite_state', DETAIL = ways,
                  HINT = 'Close each of these, or name the roles in EXCEPT, and try again. '
                      || CASE WHEN mend_views THEN 'CASCADE has left the views that do more than copy masked columns, or lack an input of the mask. '
                              ELSE 'CASCADE masks the copies in views. ' END || 'Nothing was changed.';
    END IF;
    IF EXISTS (SELECT 1 FROM pg_index i WHERE i.indrelid = relation AND i.indisclustered AND i.indkey::smallint[] && scrim.hidden_from(0, policies)) THEN
        RAISE WARNING 'rows of % lie in the order of a masked column', relation
            USING HINT = 'CLUSTER the table on another index: physical order shows which raw value is larger.';
    END IF;
END $$;

-- Policies that have fewer columns than they had, with masks of what is left.
CREATE FUNCTION scrim.with_masks_of(relation regclass, policies jsonb) RETURNS jsonb
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    p jsonb;
    mask bigint;
    kept jsonb := '[]';
BEGIN
    FOR p IN SELECT l.p FROM jsonb_array_elements(policies) WITH ORDINALITY AS l(p, ord) ORDER BY l.ord LOOP
        IF p ->> 'mask' IS NOT NULL AND p -> 'places' IS NOT NULL THEN
            mask := scrim.keep_mask_of((p ->> 'mask')::bigint, relation, scrim.nums(p -> 'places')::int[], scrim.nums(p -> 'inputs'), scrim.nums(p -> 'inputs'));
            p := p || jsonb_build_object('mask', mask, 'inputs', scrim.mask_inputs(mask));
        END IF;
        kept := kept || jsonb_build_array(p);
    END LOOP;
    RETURN kept;
END $$;

-- What a change of a relation's policies has to know of the protection that it has; no row if it has none.
CREATE FUNCTION scrim.fence_state(relation regclass, OUT suspended boolean, OUT views_along boolean) RETURNS SETOF record
LANGUAGE sql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
    SELECT x.suspended, EXISTS (SELECT 1 FROM scrim_state.protections a JOIN pg_class c ON c.oid = a.relation AND c.relkind IN ('v', 'm') WHERE a.along_with = x.id)
      FROM scrim_state.protections x WHERE x.relation = fence_state.relation AND x.features_of IS NULL
$$;

-- Forgets what only the change of policies had to know, and masked views of what is not masked any more.
CREATE FUNCTION scrim.fence_settled(relation regclass) RETURNS void
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    PERFORM scrim.require_policy_admin(relation);
    DELETE FROM scrim_state.kept_uses;  -- nobody else's: changes are one at a time
    DELETE FROM scrim_state.sql_masks m WHERE NOT EXISTS (SELECT 1 FROM scrim_state.policies p WHERE p.sql_mask = m.id);
    PERFORM scrim.drop_views(ARRAY(SELECT v.view FROM scrim_state.replaced_views v WHERE NOT EXISTS (SELECT 1 FROM scrim_state.protections x WHERE x.relation = v.relation)));
END $$;

-- Adds a policy to those of a relation, or puts it in the place of the one with its name. It keeps who is exempt if the definition says so.
CREATE FUNCTION scrim.add_policy(relation regclass, definition jsonb, except_roles text[], mend_views boolean, policies jsonb) RETURNS void
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    former jsonb := (SELECT p FROM jsonb_array_elements(policies) p WHERE p ->> 'name' = definition ->> 'name');
    taken record;
BEGIN
    IF former IS NOT NULL THEN
        PERFORM scrim.require_policy(definition ->> 'name', relation);
    ELSIF policies <> '[]' THEN
        PERFORM scrim.require_policy(policies -> 0 ->> 'name', relation);
    END IF;
    PERFORM scrim.require_resumed(coalesce(former, policies -> 0) ->> 'name', relation);
    SELECT a.attname, p ->> 'name' AS policy INTO taken
      FROM jsonb_array_elements(policies) p, unnest(scrim.nums(p -> 'columns')) c(num) JOIN pg_attribute a ON a.attrelid = relation AND a.attnum = c.num
     WHERE p ->> 'name' <> definition ->> 'name' AND c.num = ANY (scrim.nums(definition -> 'columns')) LIMIT 1;
    IF FOUND THEN
        RAISE EXCEPTION 'column "%" of % is masked by policy "%"', taken.attname, relation, taken.policy USING ERRCODE = 'duplicate_object',
            HINT = 'A column takes one policy: drop that one, or replace it by one without the column.';
    END IF;
    definition := jsonb_build_object('except', scrim.role_oids(except_roles)) || definition || jsonb_build_object('enabled', coalesce(former -> 'enabled', 'true'));
    PERFORM scrim.fence_apply(relation, (SELECT coalesce(jsonb_agg(p ORDER BY ord), '[]') FROM jsonb_array_elements(policies) WITH ORDINALITY AS l(p, ord) WHERE p ->> 'name' <> definition ->> 'name') || definition, mend_views);
END $$;

CREATE FUNCTION scrim.check_policy_name(policy_name text) RETURNS void
LANGUAGE plpgsql IMMUTABLE SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    IF coalesce(policy_name, '') = '' OR octet_length(policy_name) > 63 THEN
        RAISE EXCEPTION 'a masking policy has a name of 1 to 63 bytes' USING ERRCODE = 'invalid_name';
    END IF;
END $$;

-- Raises if a policy cannot be made, and returns whether it is there and shall be left alone. What comes after has the relation to itself.
CREATE FUNCTION scrim.skips_policy(policy_name text, relation regclass, columns text[], if_not_exists boolean, or_replace boolean) RETURNS boolean
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    PERFORM scrim.fence_serialize();
    PERFORM scrim.fence_lock(relation);
    IF EXISTS (SELECT 1 FROM scrim.masking_policies p WHERE p.relation = skips_policy.relation AND p.name = policy_name) AND NOT or_replace THEN
        IF if_not_exists THEN
            RAISE NOTICE 'masking policy "%" on % already exists, skipping', policy_name, relation;
            RETURN true;
        END IF;
        RAISE EXCEPTION 'masking policy "%" on % already exists', policy_name, relation USING ERRCODE = 'duplicate_object';
    END IF;
    IF NOT EXISTS (SELECT 1 FROM scrim.masking_policies p WHERE p.relation = skips_policy.relation) THEN
        PERFORM scrim.require_protectable(relation);
    END IF;
    PERFORM scrim.check_policy_name(policy_name);
    IF coalesce(cardinality(columns), 0) = 0 THEN
        RAISE EXCEPTION 'a masking policy needs at least one column' USING ERRCODE = 'syntax_error';
    END IF;
    RETURN false;
END $$;

CREATE FUNCTION scrim.role_oids(names text[]) RETURNS jsonb
LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    role_text text;
    role_oid oid;
    found_oids text[] := '{}';
BEGIN
    FOREACH role_text IN ARRAY coalesce(names, '{}') LOOP
        SELECT r.oid INTO role_oid FROM pg_roles r WHERE r.rolname = role_text;
        IF NOT FOUND THEN
            RAISE EXCEPTION 'role "%" does not exist', role_text USING ERRCODE = 'undefined_object';
        END IF;
        found_oids := found_oids || role_oid::text;
    END LOOP;
    RETURN to_jsonb(found_oids);
END $$;

CREATE FUNCTION scrim.create_masking_policy(
    policy_name text, relation regclass, columns text[], except_roles text[], encoder text,
    inputs text[] DEFAULT NULL, present text DEFAULT NULL, if_not_exists boolean DEFAULT false, mend_views boolean DEFAULT false,
    or_replace boolean DEFAULT false) RETURNS void
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    masked smallint[];
    input_columns smallint[];
    enc record;
    presentation text := coalesce(upper(present), CASE WHEN cardinality(columns) = 1 THEN 'VECTOR' ELSE 'COMPONENTS' END);
BEGIN
    PERFORM scrim.require_policy_admin(relation);
    IF scrim.skips_policy(policy_name, relation, columns, if_not_exists, or_replace) THEN
        RETURN;
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
    PERFORM scrim.add_policy(relation, jsonb_build_object('name', policy_name, 'columns', masked, 'components', ARRAY(SELECT generate_series(1, cardinality(masked))), 'inputs', input_columns,
        'encoder', encoder, 'present', presentation, 'mask', NULL), except_roles, mend_views, scrim.policy_definitions(relation));
END $$;

-- CREATE MASKING POLICY ... USING (expression) [WHEN (condition)].
CREATE FUNCTION scrim.create_sql_masking_policy(
    policy_name text, relation regclass, columns text[], except_roles text[], expression text, condition text DEFAULT NULL,
    if_not_exists boolean DEFAULT false, mend_views boolean DEFAULT false, or_replace boolean DEFAULT false) RETURNS void
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    row_columns record;
BEGIN
    PERFORM scrim.require_policy_admin(relation);
    IF scrim.skips_policy(policy_name, relation, columns, if_not_exists, or_replace) THEN
        RETURN;
    END IF;
    SELECT array_agg(a.attname::text ORDER BY a.attnum) AS names, array_agg(scrim.column_type(relation, a.attnum) ORDER BY a.attnum) AS types INTO row_columns
      FROM pg_attribute a WHERE a.attrelid = relation AND a.attnum > 0 AND NOT a.attisdropped;
    PERFORM scrim.add_policy(relation, scrim.sql_policy(policy_name, relation, scrim.attnums(relation, columns),
            scrim.make_mask(relation, scrim.attnums(relation, columns), row_columns.names, row_columns.types, NULL, expression, condition, concat(expression, ' WHEN (' || condition || ')'))),
        except_roles, mend_views, scrim.policy_definitions(relation));
END $$;

-- (Not STABLE: it looks for what the statement that calls it has just written.)
CREATE FUNCTION scrim.sql_policy(policy_name text, relation regclass, masked smallint[], mask bigint) RETURNS jsonb
LANGUAGE sql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
    SELECT jsonb_build_object('name', policy_name, 'columns', masked, 'components', ARRAY(SELECT 1 FROM unnest(masked)), 'inputs', m.inputs, 'encoder', NULL, 'present', NULL, 'mask', mask)
      FROM scrim_state.sql_masks m WHERE m.id = mask AND m.relation = sql_policy.relation
$$;

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

-- Takes a relation's protection away, with its policies; returns what it had remembered: {"grants": [...], "key_owner": oid}. Of one that is replaced the masked view stays, for
-- statements that were planned before: they go on with the old masks, and are refused (still_granted) if a column is masked now that was not.
CREATE FUNCTION scrim.fence_withdraw(relation regclass, is_replaced boolean) RETURNS jsonb
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    x scrim_state.protections;
    remembered jsonb;
BEGIN
    PERFORM scrim.require_policy_admin(relation);
    PERFORM scrim.fence_serialize();
    SELECT p.* INTO x FROM scrim_state.protections p WHERE p.relation = fence_withdraw.relation AND p.features_of IS NULL;
    IF NOT FOUND THEN
        RETURN NULL;
    END IF;
    SELECT coalesce(jsonb_agg(to_jsonb(g)), '[]') INTO remembered FROM scrim_state.protection_grants g WHERE g.protection = x.id;
    IF is_replaced THEN
        PERFORM scrim.drop_replaced(x.relation, '1 minute');
        INSERT INTO scrim_state.replaced_views (view, relation) SELECT c.oid, x.relation FROM pg_class c WHERE c.oid = x.masked_view;
    ELSE
        PERFORM scrim.drop_views(x.masked_view || ARRAY(SELECT v.view FROM scrim_state.replaced_views v WHERE v.relation = x.relation));
    END IF;
    INSERT INTO scrim_state.kept_uses (relation, encoder_id, model_id) SELECT DISTINCT x.relation, p.encoder_id, p.model_id FROM scrim_state.policies p WHERE p.protection = x.id AND p.sql_mask IS NULL;
    DELETE FROM scrim_state.protections p WHERE p.id = x.id;
    RETURN jsonb_build_object('grants', remembered, 'key_owner', x.key_owner);
END $$;

-- The relations whose protections were made along with a relation's, and the relation whose protection a relation's was made along with.
CREATE FUNCTION scrim.made_along(relation regclass, OUT others oid[], OUT first oid)
LANGUAGE sql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
    SELECT ARRAY(SELECT o.relation FROM scrim_state.protections o JOIN pg_class c ON c.oid = o.relation WHERE o.along_with = p.id ORDER BY o.id),
           (SELECT f.relation FROM scrim_state.protections f WHERE f.id = p.along_with)
      FROM scrim_state.protections p WHERE p.relation = made_along.relation
$$;

CREATE FUNCTION scrim.drop_masking_policy(policy_name text, relation regclass, if_exists boolean DEFAULT false) RETURNS void
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    policies jsonb;
    along record;
BEGIN
    PERFORM scrim.require_policy_admin(relation);
    PERFORM scrim.fence_serialize();
    PERFORM scrim.fence_lock(relation);
    SELECT * INTO along FROM scrim.made_along(relation);
    IF relation IN (SELECT scrim.family(along.first)) OR (SELECT c.relkind IN ('v', 'm') FROM pg_class c WHERE c.oid = relation AND along.first IS NOT NULL) THEN
        RAISE EXCEPTION 'masking policy "%" on % belongs to that on %', policy_name, relation, along.first::regclass
            USING ERRCODE = 'dependent_objects_still_exist', HINT = format('DROP MASKING POLICY %I ON %s.', policy_name, along.first::regclass);
    END IF;
    IF NOT EXISTS (SELECT 1 FROM scrim.masking_policies p WHERE p.relation = drop_masking_policy.relation AND p.name = policy_name) THEN
        IF if_exists THEN
            RAISE NOTICE 'masking policy "%" on % does not exist, skipping', policy_name, relation;
            RETURN;
        END IF;
        RAISE EXCEPTION 'masking policy "%" on % does not exist', policy_name, relation USING ERRCODE = 'undefined_object', HINT = 'SHOW MASKING POLICIES lists them.';
    END IF;
    policies := (SELECT coalesce(jsonb_agg(p ORDER BY ord), '[]') FROM jsonb_array_elements(scrim.policy_definitions(relation)) WITH ORDINALITY AS l(p, ord) WHERE p ->> 'name' <> policy_name);
    PERFORM scrim.fence_apply(relation, policies, false);
END $$;

-- Takes the protection of a relation away, and those that were made along with it, and gives back the grants that there were before.
CREATE FUNCTION scrim.fence_lift(relation regclass, is_replaced boolean) RETURNS void
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    withdrawn jsonb;
    others oid[] := (SELECT m.others FROM scrim.made_along(relation) m);
    other oid;
    former oid;
    owner oid := (SELECT c.relowner FROM pg_class c WHERE c.oid = relation);
BEGIN
    withdrawn := scrim.fence_withdraw(relation, is_replaced);
    IF withdrawn IS NULL THEN
        RETURN;
    END IF;
    former := (withdrawn ->> 'key_owner')::oid;
    IF NOT scrim.is_sealed(relation, former) THEN  -- else for a feature view
        EXECUTE format('REVOKE SELECT ON %s FROM %s', relation, scrim.role_name(scrim.view_owner(former)));
    END IF;
    -- Where the table changed hands, so did the grants that its owner had made.
    PERFORM scrim.fence_restore(relation, (
        SELECT jsonb_agg(CASE WHEN (r ->> 'grantor')::oid = former THEN jsonb_set(r, '{grantor}', to_jsonb(owner)) ELSE r END)
          FROM jsonb_array_elements(withdrawn -> 'grants') r WHERE (r ->> 'grantee')::oid <> owner));
    FOREACH other IN ARRAY coalesce(others, '{}') LOOP
        PERFORM scrim.fence_lift(other, is_replaced);
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
                                 ON n @> (a - ARRAY['protection', 'change', 'grantable'])
                               WHERE a ->> 'change' = 'added' AND (a ->> 'attnum')::int >= 0 AND a -> 'grantee' = r -> 'grantee' AND a -> 'privilege' = r -> 'privilege')));

    -- First what was removed, grantors before those who depend on them; then what had been given instead goes.
    FOR pass IN 1..20 LOOP
        missing := (SELECT coalesce(jsonb_agg(r), '[]') FROM jsonb_array_elements(remembered) r
                     WHERE r ->> 'change' = 'removed' AND NOT acl @> jsonb_build_array(r - ARRAY['protection', 'change']));
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
              WHERE r ->> 'change' = 'removed' AND NOT acl @> jsonb_build_array(r - ARRAY['protection', 'change'])
             UNION ALL
             SELECT n FROM jsonb_array_elements(now_there) n
              WHERE (n ->> 'attnum')::int <> 0 AND NOT acl @> jsonb_build_array(n)
                AND NOT EXISTS (SELECT 1 FROM jsonb_array_elements(remembered) a WHERE a ->> 'change' = 'added' AND n = a - ARRAY['protection', 'change'])
    LOOP
        PERFORM scrim.fence_regrant(relation, e, false);
    END LOOP;
END $$;
