-- Feature views: real views in scrim_runtime of an encoder's passthrough columns and features real[]. Such a view runs with the rights of whoever
-- reads it, so PostgreSQL itself decides who sees the raw features in it: whoever may read all of these columns of the table. For
-- everybody else the proxy reads a masked view of the table in its place. The masked column is the view's, and the inputs
-- of its codes are the table's: that is what features_of in scrim_state.protections says. No grant of the table changes.

CREATE VIEW scrim.feature_views AS
    SELECT c.oid::regclass AS view, e.name AS encoder, x.features_of::regclass AS source_table,
           (SELECT array_agg(a.attname::text ORDER BY i.ord) FROM unnest(p.inputs) WITH ORDINALITY AS i(num, ord)
              JOIN pg_attribute a ON a.attrelid = x.features_of AND a.attnum = i.num) AS features,
           p.created_by, p.created_at
      FROM scrim_state.protections x JOIN scrim_state.policies p ON p.protection = x.id JOIN scrim_state.encoders e ON e.id = p.encoder_id JOIN pg_class c ON c.oid = x.relation
     WHERE x.features_of IS NOT NULL;

-- Returns the table that an encoder was trained on, and raises unless the session's role may make a feature view of it.
CREATE FUNCTION scrim.require_feature_source(encoder text) RETURNS regclass
LANGUAGE plpgsql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    enc scrim_state.encoders;
    rel pg_class;
    reason text;
BEGIN
    IF NOT pg_has_role(session_user, 'scrim_admin', 'USAGE') THEN
        RAISE EXCEPTION 'permission denied for feature views' USING ERRCODE = 'insufficient_privilege',
            HINT = format('GRANT scrim_admin TO %I lets this role make feature views of tables it owns.', session_user);
    ELSIF current_setting('server_version_num')::int < 150000 THEN
        RAISE EXCEPTION 'feature views need PostgreSQL 15 or newer' USING ERRCODE = 'feature_not_supported', HINT = 'Older servers have no views that run with the rights of their readers.';
    END IF;
    PERFORM scrim.require_encoder(encoder);
    SELECT e.* INTO STRICT enc FROM scrim_state.encoders e WHERE e.name = encoder;
    PERFORM scrim.require_trained(enc);
    SELECT c.* INTO rel FROM pg_class c WHERE c.oid = enc.source;
    IF NOT FOUND THEN
        RAISE EXCEPTION 'table % of encoder "%" does not exist', enc.source_table, encoder USING ERRCODE = 'undefined_table',
            HINT = 'It was dropped since. Train an encoder on a table that there is.';
    END IF;
    PERFORM scrim.require_policy_admin(rel.oid);
    reason := CASE
        WHEN rel.relkind NOT IN ('r', 'p', 'm') THEN 'it is a view or a foreign table'
        WHEN rel.relpersistence = 't' THEN 'it is temporary'
        WHEN rel.relrowsecurity THEN 'it has row security'
        WHEN EXISTS (SELECT 1 FROM scrim.family(rel.oid) f JOIN pg_class c ON c.oid = f WHERE c.relkind = 'f') THEN 'a part of it is a foreign table'
        WHEN EXISTS (SELECT 1 FROM pg_attribute a WHERE a.attrelid = rel.oid AND a.attname = ANY (enc.feature_columns) AND a.attgenerated = 'v')
            THEN 'a feature is computed when it is read, and an error in that would show what it is computed from' END;
    IF reason IS NOT NULL THEN
        RAISE EXCEPTION 'cannot make a feature view of %: %', rel.oid::regclass, reason USING ERRCODE = 'feature_not_supported',
            HINT = CASE WHEN rel.relrowsecurity THEN 'CREATE MASKING POLICY works with row security.' ELSE 'Train an encoder on a table, or on a materialized view.' END;
    ELSIF 'features' = ANY (enc.passthrough) THEN
        RAISE EXCEPTION 'encoder "%" passes through a column called "features"', encoder USING ERRCODE = 'duplicate_column',
            HINT = 'That is what a feature view calls the codes. Rename the column and train an encoder on it.';
    END IF;
    RETURN rel.oid;
END $$;

-- Who could look up codes of values of their choice in a feature view of the columns. Who may read all of them needs no codes.
CREATE FUNCTION scrim.feature_openings(source regclass, features smallint[])
RETURNS TABLE (kind text, object text, why text, remedy text, path text)
LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp AS $$
    SELECT DISTINCT d.kind, d.object, d.why, d.remedy, d.path
      FROM scrim.family(source) member(oid) CROSS JOIN LATERAL (
           SELECT ARRAY(SELECT o FROM scrim.outsiders((SELECT c.relowner FROM pg_class c WHERE c.oid = source), '{}') o
                         WHERE EXISTS (SELECT 1 FROM unnest(features) f WHERE NOT has_column_privilege(o, source, f, 'SELECT')))) masked(roles),
           scrim.dictionaries(member.oid, '{}', scrim.fed_by(member.oid, scrim.same_columns(source, features, member.oid)), masked.roles) d
$$;

-- The same of a feature view that there is, at any later time; and what has closed it.
CREATE FUNCTION scrim.feature_view_openings(name text)
RETURNS TABLE (kind text, object text, why text, remedy text, path text)
LANGUAGE plpgsql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    policy scrim_state.policies;
BEGIN
    SELECT p.* INTO policy FROM scrim_state.protections x JOIN scrim_state.policies p ON p.protection = x.id JOIN pg_class c ON c.oid = x.relation
     WHERE p.name = feature_view_openings.name AND x.features_of IS NOT NULL;
    IF NOT FOUND THEN
        RAISE EXCEPTION 'feature view "%" does not exist', name USING ERRCODE = 'undefined_object', HINT = 'SHOW FEATURE VIEWS lists them.';
    END IF;
    PERFORM scrim.require_policy_admin(x.features_of) FROM scrim_state.protections x WHERE x.id = policy.protection;
    RETURN QUERY SELECT * FROM scrim.policy_openings(policy);
END $$;

-- CREATE FEATURE VIEW. The sealing role reads the table by a grant of whoever owns it; the rest is Scrim's to do.
CREATE FUNCTION scrim.create_feature_view(name text, encoder text, if_not_exists boolean DEFAULT false) RETURNS void
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    source regclass := scrim.require_feature_source(encoder);
BEGIN
    PERFORM scrim.fence_serialize();
    IF if_not_exists AND EXISTS (SELECT 1 FROM scrim.feature_views v WHERE v.view = to_regclass(format('scrim_runtime.%I', name))) THEN
        RAISE NOTICE 'feature view "%" already exists, skipping', name;
        RETURN;
    END IF;
    EXECUTE format('GRANT SELECT ON %s TO %I', source, scrim.fence_prepare(source));
    PERFORM scrim.feature_publish(name, encoder);
END $$;

CREATE FUNCTION scrim.feature_publish(name text, encoder text) RETURNS void
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    source regclass := scrim.require_feature_source(encoder);
    enc scrim_state.encoders;
    owner oid := (SELECT c.relowner FROM pg_class c WHERE c.oid = source);
    features smallint[];
    beside smallint[];
    beside_list text;
    ways text;
    view regclass;
    protection_id integer;
BEGIN
    PERFORM scrim.fence_serialize();
    SELECT e.* INTO STRICT enc FROM scrim_state.encoders e WHERE e.name = encoder;
    features := scrim.attnums(source, enc.feature_columns);
    beside := scrim.attnums(source, enc.passthrough);
    PERFORM scrim.check_features(source, features);
    IF octet_length(name) > 63 OR name = '' THEN
        RAISE EXCEPTION 'feature view name "%" is too long', name USING ERRCODE = 'name_too_long', HINT = 'A name has 63 bytes at most.';
    END IF;
    SELECT string_agg(format('%s %s: %s. Close it: %s.', o.kind, o.object, o.why, o.remedy), E'\n') INTO ways FROM scrim.feature_openings(source, features) o;
    IF ways IS NOT NULL THEN
        RAISE EXCEPTION 'cannot make a feature view of %: codes of chosen values could be looked up in it', source
            USING ERRCODE = 'object_not_in_prerequisite_state', DETAIL = ways,
                  HINT = 'Close each of these, or grant the roles SELECT on all feature columns, and try again. Nothing was changed.';
    END IF;

    beside_list := (SELECT string_agg(format('t.%I', a.attname), ', ' ORDER BY b.ord)
                      FROM unnest(beside) WITH ORDINALITY AS b(num, ord) JOIN pg_attribute a ON a.attrelid = source AND a.attnum = b.num);
    EXECUTE format('CREATE VIEW scrim_runtime.%I WITH (security_invoker = true) AS SELECT %s FROM %s t', name,
                   concat_ws(', ', beside_list, (SELECT format('ARRAY[%s] AS features', string_agg(format('(%s)::float4', scrim.feature_expression(source, f.num, 't')), ', ' ORDER BY f.ord))
                                                   FROM unnest(features) WITH ORDINALITY AS f(num, ord))),
                   source);
    view := format('scrim_runtime.%I', name)::regclass;
    -- Nobody's but Scrim's to alter: without security_invoker it would show everybody what its owner reads.
    EXECUTE format('ALTER VIEW %s OWNER TO %s', view, scrim.role_name(scrim.view_owner(owner)));
    EXECUTE format('REVOKE ALL ON %s FROM PUBLIC', view);
    EXECUTE format('GRANT SELECT ON %s TO PUBLIC', view);

    DELETE FROM scrim_state.protections x WHERE x.features_of IS NOT NULL AND NOT EXISTS (SELECT 1 FROM pg_class c WHERE c.oid = x.relation);  -- DROP TABLE ... CASCADE
    INSERT INTO scrim_state.protections (relation, view_columns, seals_only, identity, features_of, masked_view, key_owner)
    VALUES (view, ARRAY(SELECT generate_series(1, cardinality(beside))), false, 'NONE', source, 0, owner) RETURNING id INTO protection_id;
    INSERT INTO scrim_state.policies (protection, name, columns, components, inputs, encoder_id, present, except_roles, created_by)
    VALUES (protection_id, name, ARRAY[cardinality(beside) + 1], '{1}', features, enc.id, 'VECTOR', '{}', session_user);
    PERFORM scrim.make_feature_mask(protection_id);
END $$;

-- Makes the masked view of a feature view.
CREATE FUNCTION scrim.make_feature_mask(protection_id integer) RETURNS void
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    x scrim_state.protections;
    p scrim_state.policies;
    beside smallint[];
    masked regclass;
BEGIN
    SELECT y.* INTO STRICT x FROM scrim_state.protections y WHERE y.id = protection_id;
    SELECT q.* INTO STRICT p FROM scrim_state.policies q WHERE q.protection = protection_id;
    SELECT coalesce(array_agg(v.source_attnum ORDER BY v.attnum), '{}') INTO beside FROM scrim.view_columns(x.relation) v WHERE v.attnum = ANY (x.view_columns);
    EXECUTE format('CREATE VIEW scrim_runtime.%I AS SELECT %s FROM %s t WHERE %s AND scrim_runtime.still_featured(%s, %L::int2[]) AND scrim_runtime.reads_columns(%5$s, %6$L::int2[])',
                   scrim.masked_view_name(x.relation, x.id),
                   concat_ws(', ', (SELECT string_agg(format('t.%I', a.attname), ', ' ORDER BY b.ord) FROM unnest(beside) WITH ORDINALITY AS b(num, ord) JOIN pg_attribute a ON a.attrelid = x.features_of AND a.attnum = b.num),
                             format('%s AS %I', scrim.sealed_column(p.id, x.features_of, p.inputs, 'NONE', x.key_owner), 'sealed_' || p.id)),
                   x.features_of::regclass, scrim.still_here(x.features_of), x.features_of, beside);
    masked := format('scrim_runtime.%I', scrim.masked_view_name(x.relation, x.id))::regclass;
    EXECUTE format('ALTER VIEW %s OWNER TO %s', masked, scrim.role_name(scrim.view_owner(x.key_owner)));
    EXECUTE format('REVOKE ALL ON %s FROM PUBLIC', masked);
    EXECUTE format('GRANT SELECT ON %s TO PUBLIC', masked);
    UPDATE scrim_state.protections y SET masked_view = masked WHERE y.id = protection_id;
    PERFORM scrim.check_masked_view(masked, x.features_of, x.key_owner);
END $$;

-- Takes a feature view away, and what is left of one that went with its table. It returns whether there was one, and, if no more rows of that
-- table are sealed, the table and the role that read it.
CREATE FUNCTION scrim.feature_withdraw(name text, cascades boolean, OUT existed boolean, OUT source oid, OUT sealing oid)
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    x scrim_state.protections;
    view regclass;
BEGIN
    PERFORM scrim.fence_serialize();
    SELECT y.* INTO x FROM scrim_state.protections y JOIN scrim_state.policies p ON p.protection = y.id WHERE p.name = feature_withdraw.name AND y.features_of IS NOT NULL;
    existed := FOUND;
    IF NOT existed THEN
        RETURN;
    END IF;
    -- Whoever owns the table, and whoever may use the encoder.
    IF NOT coalesce((SELECT pg_has_role(session_user, c.relowner, 'USAGE') FROM pg_class c WHERE c.oid = x.features_of), false) THEN
        PERFORM scrim.require_encoder(e.name) FROM scrim_state.encoders e JOIN scrim_state.policies p ON p.encoder_id = e.id WHERE p.protection = x.id;
    END IF;
    FOR view IN  -- else they went with the table
        SELECT c.oid FROM unnest(ARRAY[x.relation, x.masked_view]) WITH ORDINALITY AS v(oid, ord) JOIN pg_class c USING (oid) ORDER BY v.ord
    LOOP
        EXECUTE format('DROP VIEW %s %s', view, CASE WHEN cascades THEN 'CASCADE' END);
    END LOOP;
    DELETE FROM scrim_state.protections y WHERE y.id = x.id;
    IF NOT scrim.is_sealed(x.features_of, x.key_owner) THEN
        source := (SELECT c.oid FROM pg_class c WHERE c.oid = x.features_of);
        sealing := scrim.view_owner(x.key_owner);
    END IF;
END $$;

-- DROP FEATURE VIEW. With cascades, views over it go too.
CREATE FUNCTION scrim.drop_feature_view(name text, if_exists boolean DEFAULT false, cascades boolean DEFAULT false) RETURNS void
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    withdrawn record;
BEGIN
    IF NOT pg_has_role(session_user, 'scrim_admin', 'USAGE') THEN
        RAISE EXCEPTION 'permission denied for feature views' USING ERRCODE = 'insufficient_privilege';
    END IF;
    SELECT * INTO withdrawn FROM scrim.feature_withdraw(name, cascades);
    IF NOT withdrawn.existed AND if_exists THEN
        RAISE NOTICE 'feature view "%" does not exist, skipping', name;
    ELSIF NOT withdrawn.existed THEN
        RAISE EXCEPTION 'feature view "%" does not exist', name USING ERRCODE = 'undefined_object', HINT = 'SHOW FEATURE VIEWS lists them.';
    ELSIF pg_has_role((SELECT c.relowner FROM pg_class c WHERE c.oid = withdrawn.source), 'USAGE') AND withdrawn.sealing IS NOT NULL THEN
        -- (An encoder's creator who does not own the table leaves the grant behind. Nobody can log in as that role.)
        EXECUTE format('REVOKE SELECT ON %s FROM %s', withdrawn.source::regclass, scrim.role_name(withdrawn.sealing));
    END IF;
END $$;

-- What stands on an encoder: its feature views, and policies that were not made along with others.
CREATE FUNCTION scrim.encoder_users(encoder text) RETURNS TABLE (name text, relation regclass, is_feature_view boolean)
LANGUAGE sql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
    SELECT p.name, x.relation::regclass, x.features_of IS NOT NULL
      FROM scrim_state.protections x JOIN scrim_state.policies p ON p.protection = x.id JOIN scrim_state.encoders e ON e.id = p.encoder_id LEFT JOIN pg_class c ON c.oid = x.relation
     WHERE e.name = encoder AND x.along_with IS NULL AND (c.oid IS NOT NULL OR x.features_of IS NOT NULL)
     ORDER BY p.id
$$;

-- DROP ENCODER. Its feature views go with it; with cascades, so do views over those, and masking policies that use it.
CREATE FUNCTION scrim.drop_encoder(encoder text, if_exists boolean DEFAULT false, cascades boolean DEFAULT false) RETURNS void
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    u record;
BEGIN
    PERFORM scrim.require_trainer();
    FOR u IN SELECT * FROM scrim.encoder_users(encoder) LOOP
        IF u.is_feature_view THEN
            PERFORM scrim.drop_feature_view(u.name, false, cascades);
        ELSIF cascades THEN
            PERFORM scrim.drop_masking_policy(u.name, u.relation);
        END IF;
    END LOOP;
    PERFORM scrim.forget_encoder(encoder, if_exists);
END $$;

-- The same for migration tools.
CREATE FUNCTION scrim.delete_encoder(name text) RETURNS void
LANGUAGE sql SET search_path = pg_catalog, pg_temp AS $$ SELECT scrim.drop_encoder(name) $$;
