-- What notices other people's DDL: event triggers, where `scrim init` ran as superuser. They run beside every DDL of the database, so they read
-- catalogs only, raise nothing but warnings, and end at once where nothing protected is touched. `scrim doctor` sees the same later.

-- The protected relations that the DDL of this event has to do with: as its object, or as what that object reads, indexes, replicates or inherits from.
-- GRANT and REVOKE do not say what they changed: there it is what was written by this transaction.
CREATE FUNCTION scrim.touched_relations() RETURNS SETOF oid
LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp AS $$  -- which keeps its plan, where SQL would plan it for each command
BEGIN
    RETURN QUERY
    WITH RECURSIVE command AS MATERIALIZED (
        SELECT c.classid, c.objid, c.object_type FROM pg_event_trigger_ddl_commands() c
         WHERE NOT c.in_extension AND c.command_tag NOT IN ('COMMENT', 'SECURITY LABEL', 'REFRESH MATERIALIZED VIEW', 'REINDEX')),
    guarded AS MATERIALIZED (SELECT coalesce(x.features_of, x.relation) AS oid, p.columns FROM scrim_state.protections x JOIN scrim_state.policies p ON p.protection = x.id),
    granted AS MATERIALIZED (
        SELECT c.oid FROM pg_class c
         WHERE EXISTS (SELECT 1 FROM command m WHERE m.objid IS NULL AND m.object_type = 'TABLE')
           AND (c.relkind IN ('v', 'm') OR c.oid IN (SELECT g.oid FROM guarded g))
           AND (age(c.xmin) <= 0 OR EXISTS (SELECT 1 FROM pg_attribute a WHERE a.attrelid = c.oid AND age(a.xmin) <= 0))),
    definer AS MATERIALIZED (
        SELECT f.proowner FROM pg_proc f
         WHERE f.prosecdef AND (f.oid IN (SELECT m.objid FROM command m WHERE m.classid = 'pg_proc'::regclass)
                                OR age(f.xmin) <= 0 AND EXISTS (SELECT 1 FROM command m WHERE m.objid IS NULL AND m.object_type IN ('FUNCTION', 'PROCEDURE', 'ROUTINE')))),
    below(classid, objid) AS (
        SELECT m.classid, m.objid FROM command m WHERE m.objid IS NOT NULL
        UNION
        SELECT 'pg_class'::regclass::oid, g.oid FROM granted g
        UNION
        SELECT n.classid, n.objid
          FROM below b CROSS JOIN LATERAL (
               SELECT d.refclassid, d.refobjid FROM pg_depend d
                WHERE d.classid = b.classid AND d.objid = b.objid AND d.refclassid IN ('pg_class'::regclass, 'pg_rewrite'::regclass, 'pg_proc'::regclass)
               UNION ALL
               SELECT 'pg_rewrite'::regclass, r.oid FROM pg_rewrite r WHERE b.classid = 'pg_class'::regclass AND r.ev_class = b.objid) n(classid, objid)
         WHERE NOT (b.classid = 'pg_class'::regclass AND b.objid IN (SELECT g.oid FROM guarded g)))
    SELECT g.oid FROM guarded g
     WHERE EXISTS (SELECT 1 FROM below b WHERE b.classid = 'pg_class'::regclass AND b.objid = g.oid)
        OR EXISTS (SELECT 1 FROM definer d, unnest(g.columns) c WHERE has_column_privilege(d.proowner, g.oid, c, 'SELECT'))
        OR EXISTS (SELECT 1 FROM command m JOIN pg_publication b ON m.classid = 'pg_publication'::regclass AND b.oid = m.objid
                     JOIN pg_publication_tables t ON t.pubname = b.pubname
                     JOIN pg_class c ON c.oid = g.oid AND c.relname = t.tablename AND c.relnamespace = quote_ident(t.schemaname)::regnamespace);
END $$;

-- Whether this transaction changes policies: Scrim's own DDL, in the midst of which nothing is as it will be.
CREATE FUNCTION scrim.is_serialized() RETURNS boolean
LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp AS $$
    SELECT EXISTS (SELECT 1 FROM pg_locks l WHERE l.pid = pg_backend_pid() AND l.relation = 'scrim_state.policies'::regclass AND l.mode = 'ShareRowExclusiveLock'
                      AND l.database = (SELECT d.oid FROM pg_database d WHERE d.datname = current_database()))
$$;

-- Warns of what is open, or closed by mistake, on protected relations that a DDL command had to do with, whoever may know: owners and exempt roles. Tables of many parts are
-- left to scrim doctor, and so are roles, whose DDL fires no event. Proxies are told at once of new names.
CREATE FUNCTION scrim.on_ddl() RETURNS event_trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp SET jit = off SET lock_timeout = '1s' AS $$
DECLARE
    each record;
    touched oid[];
    ways text;
BEGIN
    IF NOT EXISTS (SELECT 1 FROM scrim_state.policies) OR scrim.is_serialized() THEN
        RETURN;
    END IF;
    touched := ARRAY(SELECT scrim.touched_relations());
    IF touched = '{}' OR scrim.is_restored() THEN
        RETURN;
    END IF;
    PERFORM scrim.note_names();
    IF current_setting('max_prepared_transactions')::int = 0 THEN  -- who has sent a notice cannot PREPARE TRANSACTION
        PERFORM pg_notify('scrim_catalog', '');
    END IF;
    FOR each IN  -- the walk looks at what is masked for the same roles together
        SELECT DISTINCT ON (x.id, p.except_roles) p AS policy, p.name, x.relation
          FROM scrim_state.protections x JOIN scrim_state.policies p ON p.protection = x.id JOIN pg_class c ON c.oid = coalesce(x.features_of, x.relation)
         WHERE c.oid = ANY (touched) AND NOT x.suspended
           AND NOT EXISTS (SELECT 1 FROM scrim.outsiders(c.relowner, p.except_roles) o JOIN pg_roles r ON r.oid = o WHERE r.rolname = session_user)
           AND (SELECT count(*) FROM scrim.family(c.oid)) <= 20
         ORDER BY x.id, p.except_roles, p.id LIMIT 20
    LOOP
        SELECT string_agg(DISTINCT format('%s %s: %s. Mend it: %s.', o.kind, o.object, o.why, o.remedy), E'\n') INTO ways FROM scrim.policy_openings(each.policy) o;
        IF ways IS NOT NULL THEN
            RAISE WARNING 'masking policy "%" on % does not hold', each.name, each.relation::regclass USING DETAIL = ways, HINT = 'SELECT * FROM scrim.doctor() tells more.';
        END IF;
    END LOOP;
EXCEPTION WHEN OTHERS THEN
    RAISE WARNING 'Scrim could not look at what this statement changed (%)', SQLSTATE USING HINT = 'SELECT * FROM scrim.doctor() tells what is open.';
END $$;

-- Forgets the policies of tables that were dropped. Another transaction that is in the way leaves it to the next change of a policy.
CREATE FUNCTION scrim.on_drop() RETURNS event_trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp SET lock_timeout = '1s' AS $$
BEGIN
    IF current_setting('max_prepared_transactions')::int = 0
       AND EXISTS (SELECT 1 FROM pg_event_trigger_dropped_objects() d JOIN scrim_state.protections x ON d.classid = 'pg_class'::regclass AND d.objsubid = 0 AND d.objid = x.relation)
       AND NOT scrim.is_serialized() THEN
        PERFORM scrim.forget_dropped();
    END IF;
EXCEPTION WHEN OTHERS THEN
    RAISE DEBUG 'Scrim could not forget the policies of what was dropped (%)', SQLSTATE;
END $$;

-- For doctor: the event triggers that are not there, or switched off.
CREATE FUNCTION scrim.doctor_event_triggers()
RETURNS TABLE (severity text, kind text, object text, why text, path text, remedy text)
LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp AS $$
    SELECT 'note', 'event trigger', w.name,
           CASE WHEN e.oid IS NULL THEN 'it is missing' ELSE 'it is disabled' END || ', so ' || w.so, NULL,
           CASE WHEN e.oid IS NULL THEN 'run scrim init again, as a superuser' ELSE format('ALTER EVENT TRIGGER %I ENABLE', w.name) END
      FROM (VALUES ('scrim_ddl', 'scrim.on_ddl()', 'nobody is warned when a DDL statement opens a way around a mask'),
                   ('scrim_drop', 'scrim.on_drop()', 'policies of dropped tables are forgotten at the next change of a policy only')) w(name, function, so)
      LEFT JOIN pg_event_trigger e ON e.evtname = w.name AND e.evtfoid = to_regprocedure(w.function)
     WHERE e.oid IS NULL OR e.evtenabled NOT IN ('O', 'A')
$$;
