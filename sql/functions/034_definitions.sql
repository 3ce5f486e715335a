-- Snowflake's spelling of SQL masks: a policy is defined once, as a function of its first argument, and then attached to columns. Attached, it is a policy of the table like any other, of the same name.

CREATE VIEW scrim.mask_definitions AS
    SELECT d.name, d.arguments, d.types, d.body, d.expression, d.created_by, d.created_at FROM scrim_state.mask_definitions d;

-- CREATE MASKING POLICY name AS (argument type [, ...]) RETURNS type -> body.
CREATE FUNCTION scrim.define_masking_policy(policy_name text, arguments text[], types text[], returns text, body text, if_not_exists boolean DEFAULT false, or_replace boolean DEFAULT false) RETURNS void
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    spelled text[];
    unknown text;
BEGIN
    PERFORM scrim.require_definer();
    IF NOT or_replace AND EXISTS (SELECT 1 FROM scrim.mask_definitions d WHERE d.name = policy_name) THEN
        IF if_not_exists THEN
            RAISE NOTICE 'masking policy "%" already exists, skipping', policy_name;
            RETURN;
        END IF;
        RAISE EXCEPTION 'masking policy "%" already exists', policy_name USING ERRCODE = 'duplicate_object';
    END IF;
    SELECT t INTO unknown FROM unnest(types || returns) t WHERE to_regtype(t) IS NULL LIMIT 1;
    IF FOUND THEN
        RAISE EXCEPTION 'type % does not exist', unknown USING ERRCODE = 'undefined_object',
            HINT = 'Types are PostgreSQL''s: text for STRING, numeric for NUMBER, timestamp for TIMESTAMP_NTZ. Those of other schemas have their schema before them.';
    END IF;
    SELECT array_agg(format_type(t::regtype, NULL) ORDER BY ord) INTO spelled FROM unnest(types) WITH ORDINALITY AS u(t, ord);
    IF format_type(returns::regtype, NULL) <> spelled[1] THEN
        RAISE EXCEPTION 'masking policy "%" takes % and returns %', policy_name, spelled[1], format_type(returns::regtype, NULL) USING ERRCODE = 'datatype_mismatch',
            HINT = 'A masked column keeps its type: the first argument and the result are of one type.';
    END IF;
    PERFORM scrim.probe_body(arguments, spelled, body);
    PERFORM scrim.keep_definition(policy_name, 'pg_temp.scrim_mask_1', body);
    PERFORM scrim.drop_probe();
    PERFORM scrim.attach(t.relation, policy_name, scrim.attachments(t.relation, policy_name)) FROM scrim.attached_to(policy_name) t(relation);
END $$;

CREATE FUNCTION scrim.require_definer() RETURNS void
LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    IF NOT pg_has_role(session_user, 'scrim_admin', 'USAGE') THEN
        RAISE EXCEPTION 'permission denied for masking policies' USING ERRCODE = 'insufficient_privilege',
            HINT = format('GRANT scrim_admin TO %I lets this role manage policies on tables it owns.', session_user);
    END IF;
    PERFORM scrim.require_standard_strings();
    PERFORM scrim.require_home();
END $$;

-- Makes a view of a body, for keep_definition. Raises unless it is an expression over its arguments that masks may use.
CREATE FUNCTION scrim.probe_body(arguments text[], types text[], body text) RETURNS void
LANGUAGE plpgsql SET search_path = pg_catalog, scrim, pg_temp AS $$
BEGIN
    PERFORM scrim.drop_probe();
    EXECUTE format('CREATE TEMP TABLE scrim_probe (%s)', (SELECT string_agg(format('%I %s', a.name, a.type), ', ' ORDER BY a.ord) FROM unnest(arguments, types) WITH ORDINALITY AS a(name, type, ord)));
    EXECUTE format(E'CREATE TEMP VIEW scrim_mask_1 AS SELECT CASE WHEN true THEN (%s\n) ELSE NULL::%s END AS mask FROM pg_temp.scrim_probe t', body, types[1]);
    PERFORM scrim.refuse_mask('pg_temp.scrim_mask_1', (SELECT r.oid FROM pg_roles r WHERE r.rolname = session_user), 'the body');
END $$;

-- Writes down what a view over pg_temp.scrim_probe shows, and what the columns of that are. Others attach it under their own rights, so nothing of it may be text of the caller's but what people read.
CREATE FUNCTION scrim.keep_definition(policy_name text, view regclass, body text) RETURNS void
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    printed text := scrim.probed(view);
    probe record;
BEGIN
    PERFORM scrim.require_definer();
    PERFORM scrim.fence_serialize();
    PERFORM scrim.check_policy_name(policy_name);
    PERFORM scrim.require_definition(policy_name, true);
    PERFORM scrim.require_policy_admin(t) FROM scrim.attached_to(policy_name) t;  -- at their next change of it, others would get what it has become
    SELECT array_agg(a.attname::text ORDER BY a.attnum) AS names, array_agg(format_type(a.atttypid, NULL) ORDER BY a.attnum) AS types INTO probe
      FROM pg_attribute a WHERE a.attrelid = to_regclass('pg_temp.scrim_probe') AND a.attnum > 0 AND NOT a.attisdropped;
    IF EXISTS (SELECT 1 FROM scrim.attached_to(policy_name)) AND NOT EXISTS (SELECT 1 FROM scrim_state.mask_definitions d WHERE d.name = policy_name AND d.types = probe.types) THEN
        RAISE EXCEPTION 'the arguments of masking policy "%" cannot change while columns use it', policy_name USING ERRCODE = 'dependent_objects_still_exist';
    END IF;
    INSERT INTO scrim_state.mask_definitions (name, arguments, types, body, expression, created_by, creator)
    SELECT policy_name, probe.names, probe.types, body, printed, session_user, r.oid FROM pg_roles r WHERE r.rolname = session_user
    ON CONFLICT (name) DO UPDATE SET arguments = excluded.arguments, types = excluded.types, body = excluded.body, expression = excluded.expression;
END $$;

-- Raises unless there is a definition, which the session's role made, or missing_ok.
CREATE FUNCTION scrim.require_definition(policy_name text, missing_ok boolean DEFAULT false) RETURNS void
LANGUAGE plpgsql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    definition scrim_state.mask_definitions;
BEGIN
    PERFORM scrim.require_definer();
    SELECT d.* INTO definition FROM scrim_state.mask_definitions d WHERE d.name = policy_name;
    IF NOT FOUND AND NOT missing_ok THEN
        RAISE EXCEPTION 'masking policy "%" does not exist', policy_name USING ERRCODE = 'undefined_object',
            HINT = coalesce((SELECT format('The one on %s is of that table alone, and is named with it: %I ON %1$s.', p.relation, p.name) FROM scrim.masking_policies p WHERE p.name = policy_name ORDER BY 1 LIMIT 1),
                            'CREATE MASKING POLICY ... AS (value type) RETURNS type -> expression makes one.');
    ELSIF FOUND AND NOT coalesce((SELECT pg_has_role(session_user, r.oid, 'USAGE') FROM pg_roles r WHERE r.oid = definition.creator), false)
          AND NOT (SELECT r.rolsuper FROM pg_roles r WHERE r.rolname = session_user) THEN
        RAISE EXCEPTION 'must be owner of masking policy "%"', policy_name USING ERRCODE = 'insufficient_privilege', HINT = format('%s made it.', definition.created_by);
    END IF;
END $$;

-- ALTER TABLE ... ALTER COLUMN ... SET MASKING POLICY. using_columns are what the arguments stand for, the column itself first; without them, it alone. With force, a policy that the column has is taken off it.
CREATE FUNCTION scrim.set_column_masking_policy(relation regclass, column_name text, policy_name text, using_columns text[] DEFAULT NULL, force boolean DEFAULT false) RETURNS void
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    num smallint;
    definition record;
    nums smallint[];
    wrong record;
    other text;
BEGIN
    PERFORM scrim.require_policy_admin(relation);
    PERFORM scrim.fence_serialize();
    PERFORM scrim.fence_lock(relation);
    num := (scrim.attnums(relation, ARRAY[column_name]))[1];
    SELECT d.* INTO definition FROM scrim.mask_definitions d WHERE d.name = policy_name;
    IF NOT FOUND THEN
        PERFORM scrim.require_definition(policy_name);
    END IF;
    nums := ARRAY(SELECT (scrim.attnums(relation, ARRAY[u.name]))[1] FROM unnest(coalesce(using_columns, ARRAY[column_name])) WITH ORDINALITY AS u(name, ord) ORDER BY u.ord);
    IF nums[1] <> num THEN
        RAISE EXCEPTION 'the first column of USING is the masked one' USING ERRCODE = 'invalid_parameter_value', HINT = format('USING (%I, ...).', column_name);
    ELSIF cardinality(nums) <> cardinality(definition.arguments) THEN
        RAISE EXCEPTION 'masking policy "%" takes % columns, not %', policy_name, cardinality(definition.arguments), cardinality(nums) USING ERRCODE = 'datatype_mismatch',
            HINT = format('USING (%I, ...) names a column for each argument.', column_name);
    END IF;
    SELECT a.name, a.type, t.attname, format_type(t.atttypid, NULL) AS of_column INTO wrong
      FROM unnest(definition.arguments, definition.types, nums) AS a(name, type, num) JOIN pg_attribute t ON t.attrelid = relation AND t.attnum = a.num
     WHERE format_type(t.atttypid, NULL) <> a.type LIMIT 1;
    IF FOUND THEN
        RAISE EXCEPTION 'argument "%" of masking policy "%" is of type %, but column "%" is of type %', wrong.name, policy_name, wrong.type, wrong.attname, wrong.of_column USING ERRCODE = 'datatype_mismatch',
            HINT = format('Define another policy for columns of type %s.', wrong.of_column);
    END IF;
    SELECT p.name INTO other FROM scrim.masking_policies p WHERE p.relation = set_column_masking_policy.relation AND column_name = ANY (p.columns);
    IF FOUND AND NOT force THEN
        RAISE EXCEPTION 'column "%" of % is masked by policy "%"', column_name, relation, other USING ERRCODE = 'duplicate_object', HINT = 'UNSET MASKING POLICY first, or SET MASKING POLICY ... FORCE.';
    END IF;
    PERFORM scrim.attach(relation, policy_name, scrim.attachments(relation, policy_name, num) || jsonb_build_array(nums), num);
END $$;

-- The columns of a relation that a defined policy is attached to: of each, what its arguments stand for, itself first. One may be left out.
CREATE FUNCTION scrim.attachments(relation regclass, policy_name text, but smallint DEFAULT NULL) RETURNS jsonb
LANGUAGE sql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
    SELECT coalesce(jsonb_agg(l.nums ORDER BY l.ord), '[]')
      FROM scrim_state.protections x JOIN scrim_state.policies p ON p.protection = x.id JOIN scrim_state.sql_masks m ON m.id = p.sql_mask,
           jsonb_array_elements(m.attached) WITH ORDINALITY AS l(nums, ord)
     WHERE x.relation = attachments.relation AND p.name = policy_name AND (scrim.nums(l.nums))[1] = ANY (p.columns) AND (scrim.nums(l.nums))[1] IS DISTINCT FROM but
$$;

-- Makes a defined policy that of these columns of a relation; takes a column out of whatever other policy it is in.
CREATE FUNCTION scrim.attach(relation regclass, policy_name text, attached jsonb, num smallint DEFAULT NULL) RETURNS void
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    d record;
    masked smallint[] := ARRAY(SELECT (scrim.nums(n))[1] FROM jsonb_array_elements(attached) WITH ORDINALITY AS l(n, ord) ORDER BY ord);
    policies jsonb := scrim.policy_definitions(relation);
    former jsonb := (SELECT p FROM jsonb_array_elements(policies) p WHERE p ->> 'name' = policy_name);
BEGIN
    IF former IS NOT NULL AND scrim.attachments(relation, policy_name) = '[]' THEN
        RAISE EXCEPTION 'masking policy "%" on % already exists', policy_name, relation USING ERRCODE = 'duplicate_object',
            HINT = 'It was made with ON, and is another than the defined one. Rename it.';
    END IF;
    SELECT m.* INTO STRICT d FROM scrim.mask_definitions m WHERE m.name = policy_name;
    PERFORM scrim.add_policy(relation, scrim.sql_policy(policy_name, relation, masked, scrim.make_mask(relation, masked, d.arguments, d.types, attached, d.expression, NULL, d.body)) || jsonb_build_object('except', coalesce(former -> 'except', '[]')),
                             NULL, false, CASE WHEN num IS NULL THEN policies ELSE scrim.without_column(policies, policy_name, num) END);
END $$;

-- Policies without a column, which the one of that name shall have.
CREATE FUNCTION scrim.without_column(policies jsonb, policy_name text, num smallint) RETURNS jsonb
LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp AS $$
    SELECT coalesce(jsonb_agg(CASE WHEN p ->> 'name' = policy_name OR c.place IS NULL THEN p
                                   ELSE p || jsonb_build_object('columns', (p -> 'columns') - c.place, 'components', (p -> 'components') - c.place, 'places', (p -> 'places') - c.place) END ORDER BY ord), '[]')
      FROM jsonb_array_elements(policies) WITH ORDINALITY AS l(p, ord), LATERAL (SELECT array_position(scrim.nums(p -> 'columns'), num) - 1 AS place) c
     WHERE p ->> 'name' = policy_name OR c.place IS NULL OR jsonb_array_length(p -> 'columns') > 1
$$;

-- ALTER TABLE ... ALTER COLUMN ... UNSET MASKING POLICY.
CREATE FUNCTION scrim.unset_column_masking_policy(relation regclass, column_name text) RETURNS void
LANGUAGE sql SET search_path = pg_catalog, pg_temp AS $$ SELECT scrim.unprotect_column(relation, column_name) $$;

-- ALTER MASKING POLICY ... SET BODY -> body.
CREATE FUNCTION scrim.set_masking_policy_body(policy_name text, body text) RETURNS void
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    d record;
BEGIN
    PERFORM scrim.require_definer();
    PERFORM scrim.require_definition(policy_name);
    SELECT m.* INTO STRICT d FROM scrim.mask_definitions m WHERE m.name = policy_name;
    PERFORM scrim.define_masking_policy(policy_name, d.arguments, d.types, d.types[1], body, false, true);
END $$;

-- The relations that a defined policy is attached to.
CREATE FUNCTION scrim.attached_to(policy_name text) RETURNS SETOF regclass
LANGUAGE sql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
    SELECT x.relation::regclass FROM scrim_state.protections x JOIN scrim_state.policies p ON p.protection = x.id JOIN scrim_state.sql_masks m ON m.id = p.sql_mask AND m.attached IS NOT NULL
      JOIN pg_class c ON c.oid = x.relation
     WHERE p.name = policy_name AND x.along_with IS NULL ORDER BY x.id
$$;

-- DROP MASKING POLICY without ON.
CREATE FUNCTION scrim.drop_masking_policy_definition(policy_name text, if_exists boolean DEFAULT false) RETURNS void
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    users text;
BEGIN
    PERFORM scrim.require_definer();
    users := (SELECT string_agg(t::text, ', ') FROM scrim.attached_to(policy_name) t);
    IF if_exists AND NOT EXISTS (SELECT 1 FROM scrim_state.mask_definitions d WHERE d.name = policy_name) THEN
        RAISE NOTICE 'masking policy "%" does not exist, skipping', policy_name;
        RETURN;
    END IF;
    PERFORM scrim.require_definition(policy_name);
    IF users IS NOT NULL THEN
        RAISE EXCEPTION 'cannot drop masking policy "%" because columns use it', policy_name USING ERRCODE = 'dependent_objects_still_exist', DETAIL = 'table ' || users,
            HINT = format('ALTER TABLE ... ALTER COLUMN ... UNSET MASKING POLICY, or DROP MASKING POLICY %I ON ..., first.', policy_name);
    END IF;
    DELETE FROM scrim_state.mask_definitions d WHERE d.name = policy_name;
END $$;
