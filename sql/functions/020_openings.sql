-- Everything that lets somebody read or probe a masked column other than by SELECT on it. Only catalogs are read, so it
-- needs no rights and runs nobody's code.

-- Every grant on a relation and its columns; attnum 0 is the relation itself, grantee 0 is PUBLIC.
CREATE FUNCTION scrim.relation_acl(relation oid)
RETURNS TABLE (attnum smallint, grantor oid, grantee oid, privilege text, grantable boolean)
LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp AS $$
    SELECT 0::smallint, x.grantor, x.grantee, x.privilege_type, x.is_grantable
      FROM pg_class c, aclexplode(coalesce(c.relacl, acldefault('r', c.relowner))) x
     WHERE c.oid = relation
    UNION ALL
    SELECT a.attnum, x.grantor, x.grantee, x.privilege_type, x.is_grantable
      FROM pg_attribute a, aclexplode(a.attacl) x
     WHERE a.attrelid = relation AND NOT a.attisdropped
$$;

CREATE FUNCTION scrim.role_name(role oid) RETURNS text
LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp AS $$
    SELECT CASE WHEN role = 0 THEN 'PUBLIC' ELSE (SELECT quote_ident(r.rolname) FROM pg_roles r WHERE r.oid = role) END
$$;

-- What all policies on a relation mask; no row if there is none.
CREATE FUNCTION scrim.policies_on(relation oid) RETURNS TABLE (columns smallint[])
LANGUAGE sql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
    SELECT x.columns FROM (SELECT array_agg(c.num) AS columns FROM scrim_state.protections x JOIN scrim_state.policies p ON p.protection = x.id, unnest(p.columns) c(num)
                            WHERE x.relation = policies_on.relation) x WHERE x.columns IS NOT NULL
$$;

-- The same by who is exempt: what is masked for the same roles is looked at together.
CREATE FUNCTION scrim.masked_for(relation oid) RETURNS TABLE (columns smallint[], inputs smallint[], except_roles oid[])
LANGUAGE sql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
    SELECT array_agg(c.num) FILTER (WHERE c.num IS NOT NULL), coalesce(array_agg(DISTINCT c.input) FILTER (WHERE c.input IS NOT NULL), '{}'), p.except_roles
      FROM scrim_state.protections x
      JOIN (SELECT p.protection, p.columns, p.inputs, ARRAY(SELECT DISTINCT e FROM unnest(p.except_roles) e ORDER BY e) AS except_roles FROM scrim_state.policies p) p ON p.protection = x.id,
           unnest(p.columns, p.inputs) AS c(num, input)
     WHERE x.relation = masked_for.relation
     GROUP BY p.except_roles
$$;

-- Views, materialized views and rules that read a masked column of the relation, however deep: by reading below, of which columns are
-- masked, if it has a policy. A whole-row reference leaves no column dependency, so it is looked for in the stored tree.
CREATE FUNCTION scrim.dependent_rules(relation oid, masked smallint[])
RETURNS TABLE (rule oid, holder oid, below oid, columns smallint[])
LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp AS $$
    WITH RECURSIVE dep(rule, holder, below, columns) AS (
        SELECT r.oid, r.ev_class, relation, masked
          FROM pg_depend d JOIN pg_rewrite r ON d.classid = 'pg_rewrite'::regclass AND r.oid = d.objid
          JOIN pg_class c ON c.oid = r.ev_class
         WHERE d.refclassid = 'pg_class'::regclass AND d.refobjid = relation AND r.ev_class <> relation
           -- Masked views show nothing, and there can be many of policies that were replaced. Feature views are Scrim's too, but show columns.
           AND (c.relnamespace <> 'scrim_runtime'::regnamespace OR EXISTS (SELECT 1 FROM scrim.policies_on(c.oid)))
           AND (d.refobjsubid = ANY (masked) OR r.ev_action::text ~ ':varattno 0 ')
        UNION
        SELECT r.oid, r.ev_class, dep.holder, p.columns
          FROM dep
          LEFT JOIN LATERAL (
               -- What a view masks need not be all of it that is masked below: a feature view shows, beside codes, what its reader may read.
               SELECT m.columns || ARRAY(SELECT v.attnum FROM scrim.view_columns(dep.holder) v JOIN pg_class c ON c.oid = dep.holder AND c.relkind IN ('v', 'm')
                                          WHERE NOT v.attnum = ANY (m.columns)
                                            AND (v.source IS NULL OR v.source = dep.below AND (dep.columns IS NULL OR v.source_attnum = 0 OR v.source_attnum = ANY (dep.columns))))
                 FROM scrim.policies_on(dep.holder) m) p(columns) ON true
          JOIN pg_depend d ON d.refclassid = 'pg_class'::regclass AND d.refobjid = dep.holder AND d.classid = 'pg_rewrite'::regclass
          JOIN pg_rewrite r ON r.oid = d.objid AND r.ev_class <> dep.holder
         WHERE p.columns IS NULL OR d.refobjsubid = ANY (p.columns) OR r.ev_action::text ~ ':varattno 0 '
    )
    SELECT dep.rule, dep.holder, dep.below, dep.columns FROM dep
      JOIN pg_class c ON c.oid = dep.holder
     WHERE c.relnamespace <> 'scrim_runtime'::regnamespace
$$;

-- Which columns the relation's generated columns are made of.
CREATE FUNCTION scrim.generated_from(relation oid)
RETURNS TABLE (generated smallint, base smallint)
LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp AS $$
    SELECT a.attnum, d.refobjsubid::smallint
      FROM pg_attrdef ad
      JOIN pg_attribute a ON a.attrelid = ad.adrelid AND a.attnum = ad.adnum AND a.attgenerated <> ''
      JOIN pg_depend d ON d.refclassid = 'pg_class'::regclass AND d.refobjid = relation AND d.refobjsubid > 0
           AND ((d.classid = 'pg_attrdef'::regclass AND d.objid = ad.oid)
             OR (d.classid = 'pg_class'::regclass AND d.objid = relation AND d.objsubid = a.attnum))
     WHERE ad.adrelid = relation
$$;

-- The columns that decide the given ones: these, and what generated ones among them are made of.
CREATE FUNCTION scrim.fed_by(relation oid, nums smallint[]) RETURNS smallint[]
LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp AS $$
    SELECT nums || ARRAY(SELECT g.base FROM scrim.generated_from(relation) g WHERE g.generated = ANY (nums))
$$;

-- The role that owns the masked views of a table owner, or NULL. Its OID is remembered: anybody with CREATEROLE could
-- make a role of that name.
CREATE FUNCTION scrim.view_owner(table_owner oid) RETURNS oid
LANGUAGE sql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
    SELECT v.role FROM scrim_state.view_owners v JOIN pg_roles r ON r.oid = v.role WHERE v.table_owner = view_owner.table_owner
$$;

-- The name of the role that reads rows of a table owner's for training. Roles are the whole cluster's, and another database may train at the same time.
CREATE FUNCTION scrim.trainer_name(table_owner oid) RETURNS text
LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp AS $$
    SELECT format('scrim_trainer_%s_%s', d.oid, table_owner) FROM pg_database d WHERE d.datname = current_database()
$$;

-- That role, or NULL.
CREATE FUNCTION scrim.trainer(table_owner oid) RETURNS oid
LANGUAGE sql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
    SELECT t.role FROM scrim_state.trainers t JOIN pg_roles r ON r.oid = t.role AND r.rolname = scrim.trainer_name(t.table_owner)
     WHERE t.table_owner = trainer.table_owner
$$;

-- Who must not read the raw values of an owner's relation: every role that is neither superuser nor Scrim's own, and that has
-- the rights of neither the owner nor an exempt role; 0 stands for PUBLIC.
CREATE FUNCTION scrim.outsiders(owner oid, exempt oid[]) RETURNS SETOF oid
LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp AS $$
    SELECT r.oid FROM pg_roles r
     WHERE NOT r.rolsuper AND r.oid >= 16384
       AND r.oid IS DISTINCT FROM scrim.view_owner(owner) AND r.oid IS DISTINCT FROM scrim.trainer(owner) AND r.oid <> (SELECT n.nspowner FROM pg_namespace n WHERE n.nspname = 'scrim_state')
       AND NOT EXISTS (SELECT 1 FROM unnest(exempt || owner) t WHERE pg_has_role(r.oid, t, 'USAGE'))
    UNION ALL SELECT 0::oid
$$;

-- Whatever lets somebody who must not read a relation's raw values have values of their choice encoded, and so look codes up: by writing what
-- an input of the mask is fed by, or by an encoder of their own.
CREATE FUNCTION scrim.dictionaries(relation regclass, masked smallint[], fed smallint[], outsiders oid[])
RETURNS TABLE (kind text, object text, why text, remedy text, path text)
LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    RETURN QUERY  -- writing an input and reading its code is encoding values of one's choice: a dictionary
        SELECT 'privilege', scrim.role_name(o),
               format('%s may %s column %I, an input of the mask, and could look up codes of values of its choice', scrim.role_name(o), p.name, a.attname),
               (scrim.privilege_way(o, relation, fed, p.name)).remedy, (scrim.privilege_way(o, relation, fed, p.name)).path
          FROM unnest(outsiders) o, (SELECT DISTINCT unnest(fed)) f(i)
          JOIN pg_attribute a ON a.attrelid = relation AND a.attnum = f.i,
               unnest(ARRAY['INSERT', 'UPDATE']) p(name)
         WHERE has_column_privilege(o, relation, f.i, p.name);
    RETURN QUERY  -- the same through an updatable view, which writes with its owner's rights
        SELECT DISTINCT 'view', d.holder::regclass::text,
               format('%s may write the mask''s inputs through it, and could look up codes of values of its choice', scrim.role_name(o)),
               coalesce(scrim.revocation(d.holder, ARRAY['INSERT', 'UPDATE'], ARRAY[o]), (scrim.privilege_way(o, d.holder, '{}', 'UPDATE')).remedy),
               scrim.reading_path(relation, masked || fed, d.holder) || '; ' || scrim.grants_text(d.holder, ARRAY['INSERT', 'UPDATE'], ARRAY[o])
          FROM scrim.dependent_rules(relation, masked || fed) d, unnest(outsiders) o
         WHERE has_any_column_privilege(o, d.holder, 'INSERT') OR has_any_column_privilege(o, d.holder, 'UPDATE');
    RETURN QUERY
        SELECT 'role', scrim.role_name(o), format('%s is a scrim_admin: it may use encoders on values of its choice', scrim.role_name(o)),
               scrim.expulsion(m.roles), scrim.path_text(m.roles)
          FROM unnest(outsiders) o JOIN pg_roles r ON r.oid = o AND r.rolcanlogin,
               LATERAL (SELECT scrim.membership_path(o, 'scrim_admin'::regrole, true)) m(roles)
         WHERE pg_has_role(o, 'scrim_admin', 'USAGE') AND has_any_column_privilege(o, relation, 'SELECT');
    RETURN QUERY
        SELECT 'foreign key', quote_ident(k.conname),
               format('a masked column, or an input of the mask, references %s, where %s may DELETE or UPDATE: what happens to the rows tells their raw values',
                      k.confrelid::regclass, (SELECT string_agg(scrim.role_name(o), ', ') FROM unnest(outsiders) o
                        WHERE has_table_privilege(o, k.confrelid, 'DELETE') OR has_any_column_privilege(o, k.confrelid, 'UPDATE'))),
               coalesce(scrim.revocation(k.confrelid, ARRAY['DELETE', 'UPDATE'], outsiders), format('ALTER TABLE %s DROP CONSTRAINT %I', relation, k.conname)),
               scrim.grants_text(k.confrelid, ARRAY['DELETE', 'UPDATE'], outsiders)
          FROM pg_constraint k
         WHERE k.conrelid = relation AND k.contype = 'f'
           AND (k.conkey && masked OR (k.conkey && fed AND (k.confupdtype IN ('c', 'n', 'd') OR k.confdeltype IN ('c', 'n', 'd'))))
           AND EXISTS (SELECT 1 FROM unnest(outsiders) o
                        WHERE has_table_privilege(o, k.confrelid, 'DELETE') OR has_any_column_privilege(o, k.confrelid, 'UPDATE'));
END $$;

-- One row for each way around the mask, by one relation alone. masked and inputs: attnums; exempt: roles that are meant to read raw
-- values; covered: views over it that have been looked at.
CREATE FUNCTION scrim.openings_of(relation regclass, masked smallint[], inputs smallint[], exempt oid[], covered oid[])
RETURNS TABLE (kind text, object text, why text, remedy text, path text)
LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    rel pg_class;
    version int := current_setting('server_version_num')::int;
    readers oid[];      -- can read, one way or another
    outsiders oid[];    -- must not read: every other role, and PUBLIC
    writers oid[];      -- outsiders that may INSERT or UPDATE
    changers oid[];     -- those, and outsiders that may DELETE or TRUNCATE
    dependents oid[];   -- views over masked columns and inputs, however deep
    fed smallint[];     -- columns that decide an input: the inputs, and what generated ones are made of
    set_privilege text := CASE WHEN version >= 160000 THEN 'SET' ELSE 'MEMBER' END;
BEGIN
    SELECT c.* INTO STRICT rel FROM pg_class c WHERE c.oid = relation;
    outsiders := ARRAY(SELECT scrim.outsiders(rel.relowner, exempt));
    readers := ARRAY(
        SELECT r.oid FROM pg_roles r
         WHERE r.rolsuper OR EXISTS (SELECT 1 FROM unnest(masked) m WHERE has_column_privilege(r.oid, relation, m, 'SELECT')));
    dependents := ARRAY(SELECT DISTINCT d.holder FROM scrim.dependent_rules(relation, masked || inputs) d);
    writers := ARRAY(
        SELECT o FROM unnest(outsiders) o
         WHERE has_any_column_privilege(o, relation, 'INSERT') OR has_any_column_privilege(o, relation, 'UPDATE')
            OR EXISTS (SELECT 1 FROM unnest(dependents) d  -- through an updatable view
                        WHERE has_any_column_privilege(o, d, 'INSERT') OR has_any_column_privilege(o, d, 'UPDATE')));
    fed := scrim.fed_by(relation, inputs);
    changers := ARRAY(
        SELECT o FROM unnest(outsiders) o
         WHERE o = ANY (writers) OR has_table_privilege(o, relation, 'DELETE') OR has_table_privilege(o, relation, 'TRUNCATE'));

    RETURN QUERY SELECT * FROM scrim.dictionaries(relation, masked, fed, outsiders);

    RETURN QUERY  -- privileges that read, or probe, the column itself
        SELECT 'privilege', scrim.role_name(o),
               format('%s may still %s column %I', scrim.role_name(o), p.name, a.attname),
               (scrim.privilege_way(o, relation, masked, p.name)).remedy, (scrim.privilege_way(o, relation, masked, p.name)).path
          FROM unnest(outsiders) o, unnest(masked) m
          JOIN pg_attribute a ON a.attrelid = relation AND a.attnum = m,
               unnest(ARRAY['SELECT', 'REFERENCES']) p(name)
         WHERE has_column_privilege(o, relation, m, p.name);
    RETURN QUERY
        SELECT 'privilege', scrim.role_name(o),
               format('%s may still use %s on the table', scrim.role_name(o), p.name),
               (scrim.privilege_way(o, relation, '{}', p.name)).remedy, (scrim.privilege_way(o, relation, '{}', p.name)).path
          FROM unnest(outsiders) o,
               unnest(CASE WHEN version >= 170000 THEN ARRAY['TRIGGER', 'MAINTAIN'] ELSE ARRAY['TRIGGER'] END) p(name)
         WHERE has_table_privilege(o, relation, p.name);

    RETURN QUERY  -- membership that can be SET ROLE'd to, or handed to oneself
        SELECT 'membership', scrim.role_name(o),
               format('%s can become or grant itself %s, which reads the column', scrim.role_name(o), scrim.role_name(x)),
               scrim.expulsion(m.roles), scrim.path_text(m.roles)
          FROM unnest(outsiders) o, unnest(readers) x, LATERAL (SELECT scrim.membership_path(o, x, false)) m(roles)
         WHERE o <> 0 AND o <> x AND NOT o = ANY (readers)
           AND (pg_has_role(o, x, set_privilege) OR pg_has_role(o, x, 'MEMBER WITH ADMIN OPTION'));
    RETURN QUERY  -- roles that read past privileges
        SELECT 'role', scrim.role_name(o),
               format('%s is a member of %s', scrim.role_name(o), p.rolname),
               scrim.expulsion(m.roles), scrim.path_text(m.roles)
          FROM unnest(outsiders) o, pg_roles p, LATERAL (SELECT scrim.membership_path(o, p.oid, false)) m(roles)
         WHERE o <> 0 AND p.rolname IN ('pg_read_all_data', 'pg_read_server_files', 'pg_write_server_files',
                                        'pg_execute_server_program', 'pg_maintain')
           AND pg_has_role(o, p.oid, 'MEMBER') AND NOT (p.rolname = 'pg_read_all_data' AND o = ANY (readers));
    RETURN QUERY
        SELECT 'role', quote_ident(r.rolname),
               CASE WHEN r.rolreplication THEN r.rolname || ' has REPLICATION and can copy the whole cluster'
                    ELSE r.rolname || ' has CREATEROLE and, before PostgreSQL 16, can grant itself any role' END,
               format('ALTER ROLE %I %s', r.rolname, CASE WHEN r.rolreplication THEN 'NOREPLICATION' ELSE 'NOCREATEROLE' END),
               NULL
          FROM pg_roles r
         WHERE r.oid = ANY (outsiders) AND (r.rolreplication OR (r.rolcreaterole AND version < 160000));

    RETURN QUERY  -- views and materialized views that run with their owner's rights; rules on other tables
        WITH dependent AS MATERIALIZED (  -- or all views would be read
            SELECT d.holder, d.below, d.columns, string_agg(DISTINCT format('DROP RULE %I ON %s', r.rulename, d.holder::regclass), '; ') AS drop_rules
              FROM scrim.dependent_rules(relation, masked) d JOIN pg_rewrite r ON r.oid = d.rule GROUP BY d.holder, d.below, d.columns)
        SELECT CASE c.relkind WHEN 'm' THEN 'materialized view' WHEN 'v' THEN 'view' ELSE 'rule' END,
               c.oid::regclass::text,
               format('%s reads a masked column with its owner''s rights', c.oid::regclass),
               CASE WHEN c.relkind IN ('v', 'm') THEN coalesce(scrim.revocation(c.oid, ARRAY['SELECT'], outsiders), format('DROP %s %s', CASE c.relkind WHEN 'm' THEN 'MATERIALIZED VIEW' ELSE 'VIEW' END, c.oid::regclass))
                    ELSE d.drop_rules END,
               concat_ws('; ', scrim.reading_path(relation, masked, c.oid), scrim.grants_text(c.oid, ARRAY['SELECT'], outsiders))
          FROM dependent d JOIN pg_class c ON c.oid = d.holder
         WHERE (c.relkind NOT IN ('v', 'm')
                OR (EXISTS (SELECT 1 FROM unnest(outsiders) o WHERE has_any_column_privilege(o, c.oid, 'SELECT'))
                    AND NOT scrim.runs_as_invoker(c.oid)))
           AND NOT d.holder = ANY (covered)
           AND (SELECT copies <@ p.columns  -- masked itself, from all who must not read here
                       AND NOT EXISTS (SELECT 1 FROM unnest(outsiders) o, unnest(copies) m
                                        WHERE o <> c.relowner AND o IS DISTINCT FROM scrim.view_owner(c.relowner) AND has_column_privilege(o, c.oid, m, 'SELECT'))
                  FROM scrim.policies_on(d.holder) p, scrim.plain_copies(d.holder, d.below, d.columns) copies) IS NOT TRUE;
    RETURN QUERY
        SELECT 'rule', format('%I on %s', r.rulename, relation), 'rules of the table rewrite other people''s statements',
               format('DROP RULE %I ON %s', r.rulename, relation), NULL
          FROM pg_rewrite r WHERE r.ev_class = relation AND r.rulename <> '_RETURN';

    RETURN QUERY  -- SECURITY DEFINER functions: what their bodies read, by themselves or through others, cannot be known
        SELECT 'function', p.oid::regprocedure::text,
               'SECURITY DEFINER, and its owner ' || scrim.role_name(p.proowner) || ' may read the column',
               CASE WHEN callers.given <> '' AND p.prorettype <> 'trigger'::regtype THEN format('REVOKE EXECUTE ON ROUTINE %s FROM %s', p.oid::regprocedure, callers.given)
                    ELSE format('ALTER ROUTINE %s SECURITY INVOKER', p.oid::regprocedure) END,
               concat_ws(', ', nullif(callers.given, ''), (SELECT 'whoever fires ' || string_agg(format('trigger %I on %s', t.tgname, t.tgrelid::regclass), ', ') FROM pg_trigger t WHERE t.tgfoid = p.oid AND NOT t.tgisinternal))
                   || ' → ' || p.oid::regprocedure || ', which runs as ' || scrim.role_name(p.proowner)
          FROM pg_proc p,
               LATERAL (SELECT string_agg(DISTINCT scrim.role_name(x.grantee), ', ') FROM aclexplode(coalesce(p.proacl, acldefault('f', p.proowner))) x
                         WHERE x.privilege_type = 'EXECUTE' AND x.grantee = ANY (outsiders)) callers(given)
         WHERE p.prosecdef AND p.proowner = ANY (readers)
           AND p.pronamespace NOT IN ('pg_catalog'::regnamespace, 'scrim'::regnamespace, 'scrim_state'::regnamespace, 'scrim_runtime'::regnamespace)
           AND EXISTS (
               SELECT 1 FROM unnest(outsiders) o
                WHERE has_function_privilege(o, p.oid, 'EXECUTE')
                   OR EXISTS (SELECT 1 FROM pg_trigger t  -- firing a trigger needs no EXECUTE
                               WHERE t.tgfoid = p.oid AND NOT t.tgisinternal
                                 AND (has_any_column_privilege(o, t.tgrelid, 'INSERT') OR has_any_column_privilege(o, t.tgrelid, 'UPDATE')
                                   OR has_table_privilege(o, t.tgrelid, 'DELETE') OR has_table_privilege(o, t.tgrelid, 'TRUNCATE'))))
           AND NOT EXISTS (SELECT 1 FROM pg_depend d WHERE d.classid = 'pg_proc'::regclass AND d.objid = p.oid AND d.deptype = 'e');

    RETURN QUERY  -- copies inside the row
        SELECT 'generated column', quote_ident(a.attname),
               format('column %I is computed from a masked column', a.attname),
               format('ALTER TABLE %s DROP COLUMN %I', relation, a.attname), NULL
          FROM pg_attribute a
         WHERE a.attrelid = relation AND NOT a.attnum = ANY (masked)
           AND EXISTS (SELECT 1 FROM scrim.generated_from(relation) g WHERE g.generated = a.attnum AND g.base = ANY (masked));
    RETURN QUERY  -- other people's code that is handed the row
        SELECT 'trigger', quote_ident(t.tgname),
               CASE WHEN p.proowner <> rel.relowner AND NOT f.rolsuper
                    THEN format('its function %s belongs to %s and sees raw rows', p.oid::regprocedure, scrim.role_name(p.proowner))
                    ELSE 'it runs on raw rows when masked roles write: ' || (SELECT string_agg(scrim.role_name(o), ', ') FROM unnest(changers) o) END,
               CASE WHEN NOT (p.proowner <> rel.relowner AND NOT f.rolsuper)
                    THEN coalesce(scrim.revocation(relation, ARRAY['INSERT', 'UPDATE', 'DELETE', 'TRUNCATE'], changers), format('DROP TRIGGER %I ON %s', t.tgname, relation))
                    ELSE format('DROP TRIGGER %I ON %s', t.tgname, relation) END,
               scrim.grants_text(relation, ARRAY['INSERT', 'UPDATE', 'DELETE', 'TRUNCATE'], changers)
          FROM pg_trigger t JOIN pg_proc p ON p.oid = t.tgfoid JOIN pg_roles f ON f.oid = p.proowner
         WHERE t.tgrelid = relation AND NOT t.tgisinternal
           AND ((p.proowner <> rel.relowner AND NOT f.rolsuper) OR cardinality(changers) > 0);
    RETURN QUERY  -- ... in its constraints, indexes, defaults and statistics
        SELECT DISTINCT 'function', p.oid::regprocedure::text,
               format('%s owns it, and the table calls it in an index, constraint, default, statistics or row security policy', scrim.role_name(p.proowner)),
               concat_ws('; ', CASE WHEN p.proowner = ANY (outsiders) THEN format('ALTER FUNCTION %s OWNER TO %s', p.oid::regprocedure, scrim.role_name(rel.relowner)) END,
                         CASE WHEN op.oprowner = ANY (outsiders) THEN format('ALTER OPERATOR %s OWNER TO %s', op.oid::regoperator, scrim.role_name(rel.relowner)) END,
                         CASE WHEN oc.opcowner = ANY (outsiders) THEN format('ALTER OPERATOR CLASS %I.%I USING %I OWNER TO %s', oc.opcnamespace::regnamespace::text, oc.opcname,
                                                                             (SELECT am.amname FROM pg_am am WHERE am.oid = oc.opcmethod), scrim.role_name(rel.relowner)) END), NULL
          FROM pg_depend d
          LEFT JOIN pg_operator op ON d.refclassid = 'pg_operator'::regclass AND op.oid = d.refobjid
          LEFT JOIN pg_opclass oc ON d.refclassid = 'pg_opclass'::regclass AND oc.oid = d.refobjid
          LEFT JOIN pg_amproc ap ON ap.amprocfamily = oc.opcfamily
          LEFT JOIN pg_amop ao ON ao.amopfamily = oc.opcfamily
          LEFT JOIN pg_operator aop ON aop.oid = ao.amopopr
          JOIN pg_proc p ON p.oid IN (CASE WHEN d.refclassid = 'pg_proc'::regclass THEN d.refobjid END, op.oprcode::oid, ap.amproc::oid, aop.oprcode::oid)
         WHERE (p.proowner = ANY (outsiders) OR op.oprowner = ANY (outsiders) OR oc.opcowner = ANY (outsiders))
           AND ((d.classid = 'pg_class'::regclass AND d.objid IN (SELECT i.indexrelid FROM pg_index i WHERE i.indrelid = relation))
             OR (d.classid = 'pg_constraint'::regclass AND d.objid IN (SELECT k.oid FROM pg_constraint k WHERE k.conrelid = relation))
             OR (d.classid = 'pg_policy'::regclass AND d.objid IN (SELECT l.oid FROM pg_policy l WHERE l.polrelid = relation))
             OR (d.classid = 'pg_attrdef'::regclass AND d.objid IN (SELECT ad.oid FROM pg_attrdef ad WHERE ad.adrelid = relation))
             OR (d.classid = 'pg_statistic_ext'::regclass AND d.objid IN (SELECT s.oid FROM pg_statistic_ext s WHERE s.stxrelid = relation)));

    RETURN QUERY  -- ... and in its types: a constraint added to a domain is checked on every row that has it
        SELECT 'type', format_type(a.atttypid, NULL), format('column %I is of it, and its checks could be changed to show values', a.attname),
               'use a built-in type for the column', NULL
          FROM pg_attribute a
          JOIN pg_type t ON t.oid = a.atttypid
          LEFT JOIN pg_type e ON e.oid = t.typelem AND t.typcategory = 'A'
          JOIN pg_roles tr ON tr.oid = t.typowner
          LEFT JOIN pg_roles er ON er.oid = e.typowner
         WHERE a.attrelid = relation AND a.attnum = ANY (masked || inputs)
           AND NOT (t.typtype IN ('b', 'e') AND (tr.rolsuper OR t.typowner = rel.relowner)
                    AND (e.oid IS NULL OR e.typtype IN ('b', 'e') AND (er.rolsuper OR e.typowner = rel.relowner)));

    RETURN QUERY  -- oracles: acceptance of a write, order of an index-only scan
        SELECT 'constraint', quote_ident(k.conname),
               format('%s on a masked column, and %s may write: acceptance tells about raw values',
                      CASE k.contype WHEN 'c' THEN 'CHECK' WHEN 'f' THEN 'FOREIGN KEY' WHEN 'x' THEN 'EXCLUDE' WHEN 'p' THEN 'PRIMARY KEY' ELSE 'UNIQUE' END,
                      (SELECT string_agg(scrim.role_name(o), ', ') FROM unnest(writers) o)),
               coalesce(scrim.revocation(relation, ARRAY['INSERT', 'UPDATE'], writers), format('ALTER TABLE %s DROP CONSTRAINT %I', relation, k.conname)),
               scrim.grants_text(relation, ARRAY['INSERT', 'UPDATE'], writers)
          FROM pg_constraint k
         WHERE k.conrelid = relation AND k.contype IN ('c', 'u', 'p', 'x', 'f') AND k.conkey && masked AND cardinality(writers) > 0;
    RETURN QUERY
        SELECT 'foreign key', format('%I on %s', k.conname, k.conrelid::regclass),
               'it references a masked column: writing to the other table probes raw values',
               format('ALTER TABLE %s DROP CONSTRAINT %I', k.conrelid::regclass, k.conname), NULL
          FROM pg_constraint k WHERE k.confrelid = relation AND k.contype = 'f' AND k.confkey && masked;
    RETURN QUERY
        WITH touched AS (
            SELECT i.indexrelid, i.indisunique, k.attnum
              FROM pg_index i, unnest(i.indkey::smallint[]) k(attnum) WHERE i.indrelid = relation AND k.attnum > 0
            UNION
            SELECT i.indexrelid, i.indisunique, d.refobjsubid::smallint
              FROM pg_index i JOIN pg_depend d ON d.classid = 'pg_class'::regclass AND d.objid = i.indexrelid
             WHERE i.indrelid = relation AND d.refclassid = 'pg_class'::regclass AND d.refobjid = relation AND d.refobjsubid > 0)
        SELECT 'index', t.indexrelid::regclass::text,
               CASE WHEN bool_or(NOT t.attnum = ANY (masked)) THEN 'it covers a masked and an unmasked column: an index-only scan shows the raw order'
                    ELSE 'it is unique on a masked column and masked roles may write: acceptance tells about raw values' END,
               coalesce((SELECT format('ALTER TABLE %s DROP CONSTRAINT %I', relation, k.conname) FROM pg_constraint k WHERE k.conindid = t.indexrelid AND k.conrelid = relation AND k.contype IN ('p', 'u', 'x')),
                        format('DROP INDEX %s', t.indexrelid::regclass)), NULL
          FROM touched t
         GROUP BY t.indexrelid, t.indisunique
        HAVING bool_or(t.attnum = ANY (masked))
           AND (bool_or(NOT t.attnum = ANY (masked)) OR (t.indisunique AND cardinality(writers) > 0));

    RETURN QUERY
        SELECT 'row security policy', quote_ident(l.polname), 'it reads a masked column: which rows are seen tells about raw values',
               CASE WHEN l.polpermissive THEN format('DROP POLICY %I ON %s', l.polname, relation) ELSE 'let it read other columns only' END, NULL
          FROM pg_policy l
         WHERE l.polrelid = relation AND EXISTS (
               SELECT 1 FROM pg_depend d WHERE d.classid = 'pg_policy'::regclass AND d.objid = l.oid
                  AND d.refclassid = 'pg_class'::regclass AND d.refobjid = relation AND d.refobjsubid = ANY (masked));

    RETURN QUERY  -- copies that leave the database
        SELECT 'publication', quote_ident(p.pubname), 'it replicates a masked column',
               scrim.unpublish(b.oid, relation), NULL
          FROM pg_publication_tables p JOIN pg_publication b ON b.pubname = p.pubname
         WHERE format('%I.%I', p.schemaname, p.tablename)::regclass = relation
           AND (to_jsonb(p) -> 'attnames' IS NULL OR EXISTS (
                SELECT 1 FROM pg_attribute a WHERE a.attrelid = relation AND a.attnum = ANY (masked)
                   AND to_jsonb(p) -> 'attnames' ? a.attname::text));
END $$;

-- One row for each way around the mask: by the relation, by its partitions and children, and by what a view is made of. Call it after
-- the grants are converted: who is masked is judged by what has_column_privilege says.
CREATE FUNCTION scrim.openings(relation regclass, masked smallint[], inputs smallint[], exempt oid[], covered oid[] DEFAULT '{}')
RETURNS TABLE (kind text, object text, why text, remedy text, path text)
LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp SET jit = off AS $$  -- compiling the queries takes longer than they do
DECLARE
    rel pg_class;
    member oid;
    below record;
BEGIN
    SELECT c.* INTO STRICT rel FROM pg_class c WHERE c.oid = relation;
    FOR member IN SELECT scrim.family(relation) LOOP
        RETURN QUERY SELECT * FROM scrim.openings_of(member, scrim.same_columns(relation, masked, member),
                                                     scrim.same_columns(relation, inputs, member), exempt, covered);
        RETURN QUERY
            SELECT 'inheritance', i.inhparent::regclass::text, format('%s shows the rows of %s under its own privileges', i.inhparent::regclass, member::regclass),
                   CASE WHEN c.relispartition THEN format('ALTER TABLE %s DETACH PARTITION %s', i.inhparent::regclass, member::regclass)
                        ELSE format('ALTER TABLE %s NO INHERIT %s', member::regclass, i.inhparent::regclass) END,
                   format('%s → %s', member::regclass, i.inhparent::regclass)
              FROM pg_inherits i JOIN pg_class c ON c.oid = i.inhrelid
             WHERE i.inhrelid = member
               AND NOT EXISTS (SELECT 1 FROM scrim.policies_on(i.inhparent) p WHERE scrim.same_columns(relation, masked, i.inhparent) <@ p.columns);
    END LOOP;

    IF rel.relkind = 'v' THEN
        RETURN QUERY  -- a view is computed in the session of whoever reads it
            SELECT DISTINCT 'column', quote_ident(a.attname), 'a cast or function in it, or in the view''s FROM and WHERE, could fail, and the error print what it is computed from',
                   'mask columns that are copies, or those of a materialized view', NULL
              FROM scrim.may_print(relation) m JOIN pg_attribute a ON a.attrelid = relation AND a.attnum = ANY (masked) AND m IN (0, a.attnum);
    END IF;
    RETURN QUERY
        SELECT 'generated column', quote_ident(a.attname), 'it is computed when it is read: an error in that would show what it is computed from', 'make it STORED', NULL
          FROM pg_attribute a
         WHERE a.attrelid = relation AND a.attnum = ANY (masked || inputs) AND a.attgenerated = 'v';
    IF rel.relkind IN ('v', 'm') THEN
        RETURN QUERY
            WITH made AS MATERIALIZED (SELECT * FROM scrim.view_roots(relation))
            SELECT DISTINCT 'column', quote_ident(a.attname),
                   CASE WHEN c.source = m.source THEN format('column %I is made of a column that a masked one is made of', a.attname)
                        ELSE format('column %I may be made of a column that a masked one is made of', a.attname) END,
                   format('mask %I too, or leave it out of the view, or out of its subqueries', a.attname), NULL
              FROM made c
              JOIN pg_attribute a ON a.attrelid = relation AND a.attnum = c.attnum
              JOIN made m ON m.attnum = ANY (masked)
                   AND (c.source IS NULL OR m.source IS NULL OR m.source = c.source AND (m.source_attnum = c.source_attnum OR 0 IN (m.source_attnum, c.source_attnum)))
             WHERE NOT c.attnum = ANY (masked);
        RETURN QUERY
            SELECT 'view', relation::text, 'which rows it has, or their order, hangs on what a masked column is made of, and tells about raw values',
                   'let it filter, join, sort and group by other columns only', NULL
             WHERE scrim.view_judges(relation, masked);
        FOR below IN
            SELECT s.source, s.columns, c.relowner,
                   ARRAY(SELECT DISTINCT i.source_attnum FROM scrim.view_columns(relation) i WHERE i.attnum = ANY (inputs) AND i.source = s.source) AS inputs
              FROM scrim.view_sources(relation, masked) s JOIN pg_class c ON c.oid = s.source
        LOOP
            RETURN QUERY SELECT * FROM scrim.openings(below.source, below.columns, below.inputs, exempt || rel.relowner, covered || relation::oid);
        END LOOP;
    END IF;
    IF rel.relkind = 'v' THEN
        RETURN QUERY  -- functions in a view see its raw values, and run under the reader's search_path: what they call may be the reader's
            WITH RECURSIVE used(classid, objid) AS (  -- what it calls by itself, in operators, aggregates, domains and SQL bodies
                SELECT 'pg_rewrite'::regclass::oid, r.oid FROM pg_rewrite r WHERE r.ev_class = relation
                UNION
                SELECT n.classid, n.objid
                  FROM used u JOIN pg_depend d ON d.classid = u.classid AND d.objid = u.objid,
                       LATERAL (SELECT d.refclassid, d.refobjid
                                 WHERE d.refclassid IN ('pg_proc'::regclass, 'pg_operator'::regclass, 'pg_type'::regclass)
                                UNION ALL
                                SELECT 'pg_constraint'::regclass, k.oid FROM pg_constraint k
                                 WHERE d.refclassid = 'pg_type'::regclass AND k.contypid = d.refobjid) n(classid, objid))
            SELECT DISTINCT 'function', p.oid::regprocedure::text, format('%s calls it, and it calls what it finds in the search_path of whoever reads the view', relation),
                   format('ALTER FUNCTION %s SET search_path = pg_catalog, pg_temp', p.oid::regprocedure), NULL
              FROM used u
              JOIN pg_proc p ON u.classid = 'pg_proc'::regclass AND p.oid = u.objid
              JOIN pg_language l ON l.oid = p.prolang AND l.lanname NOT IN ('internal', 'c')
             WHERE p.prosqlbody IS NULL
               AND p.pronamespace NOT IN ('pg_catalog'::regnamespace, 'scrim_runtime'::regnamespace)
               AND NOT EXISTS (SELECT 1 FROM unnest(p.proconfig) c WHERE c LIKE 'search_path=%');
        RETURN QUERY  -- what the tables below accept, and what their triggers do, tells about raw values
            SELECT 'privilege', scrim.role_name(o.oid), format('%s may %s on the view', scrim.role_name(o.oid), p.name),
                   coalesce(scrim.revocation(relation, ARRAY[p.name], ARRAY[o.oid]), (scrim.privilege_way(o.oid, relation, '{}', p.name)).remedy), (scrim.privilege_way(o.oid, relation, '{}', p.name)).path
              FROM scrim.outsiders(rel.relowner, exempt) o(oid), unnest(ARRAY['INSERT', 'UPDATE', 'DELETE']) p(name)
             WHERE has_table_privilege(o.oid, relation, p.name)
                OR CASE WHEN p.name <> 'DELETE' THEN has_any_column_privilege(o.oid, relation, p.name) END;
    END IF;
    IF rel.relkind = 'f' THEN
        RETURN QUERY  -- who may make foreign tables there reads the remote table through one of its own
            SELECT 'server', s.srvname::text, format('%s may use the foreign server, and could read the remote table through a foreign table of its own', scrim.role_name(o.oid)),
                   format('REVOKE USAGE ON FOREIGN SERVER %I FROM %s', s.srvname, scrim.role_name(o.oid)), NULL
              FROM pg_foreign_table f JOIN pg_foreign_server s ON s.oid = f.ftserver, scrim.outsiders(rel.relowner, exempt) o(oid)
             WHERE f.ftrelid = relation AND has_server_privilege(o.oid, s.oid, 'USAGE');
    END IF;
END $$;
