-- SQL masks: expressions over the row that stand in the masked view, so PostgreSQL computes them in the session of whoever reads. The view reads with its owner's rights, and an error is printed to
-- the reader. So an expression may use only what cannot fail with a value in its message, does not depend on a setting (who could move TimeZone could find where a value crosses a
-- boundary), and calls nothing that the reader could put in the place of something else.

-- The library, as people write it. Masked views call the functions of the same names in scrim_runtime, which live on when this schema is made anew; keyed ones get the table owner's key there.
CREATE FUNCTION scrim.partial(value text, prefix integer, pad text, suffix integer) RETURNS text LANGUAGE sql IMMUTABLE PARALLEL SAFE RETURN scrim_runtime.partial(value, prefix, pad, suffix);
CREATE FUNCTION scrim.email(value text) RETURNS text LANGUAGE sql IMMUTABLE PARALLEL SAFE RETURN scrim_runtime.email(value);
CREATE FUNCTION scrim.bucket(value integer, width integer) RETURNS integer LANGUAGE sql IMMUTABLE PARALLEL SAFE RETURN scrim_runtime.bucket(value, width);
CREATE FUNCTION scrim.bucket(value bigint, width bigint) RETURNS bigint LANGUAGE sql IMMUTABLE PARALLEL SAFE RETURN scrim_runtime.bucket(value, width);
CREATE FUNCTION scrim.bucket(value numeric, width numeric) RETURNS numeric LANGUAGE sql IMMUTABLE PARALLEL SAFE RETURN scrim_runtime.bucket(value, width);
CREATE FUNCTION scrim.bucket(value double precision, width double precision) RETURNS double precision LANGUAGE sql IMMUTABLE PARALLEL SAFE RETURN scrim_runtime.bucket(value, width);
CREATE FUNCTION scrim.generalize(value date, unit text) RETURNS date LANGUAGE sql IMMUTABLE PARALLEL SAFE RETURN scrim_runtime.generalize(value, unit);
CREATE FUNCTION scrim.generalize(value timestamp, unit text) RETURNS timestamp LANGUAGE sql IMMUTABLE PARALLEL SAFE RETURN scrim_runtime.generalize(value, unit);
CREATE FUNCTION scrim.generalize(value timestamptz, unit text) RETURNS timestamptz LANGUAGE sql IMMUTABLE PARALLEL SAFE RETURN scrim_runtime.generalize(value, unit);

CREATE FUNCTION scrim.needs_key() RETURNS void
LANGUAGE plpgsql IMMUTABLE SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    RAISE EXCEPTION 'this function works in masking policies only' USING ERRCODE = 'feature_not_supported',
        HINT = 'It is keyed, and the key is read by masked views alone: CREATE MASKING POLICY ... USING (scrim.hash(email)).';
END $$;
CREATE FUNCTION scrim.hash(value text) RETURNS text LANGUAGE sql IMMUTABLE RETURN scrim.needs_key()::text;
CREATE FUNCTION scrim.hash(value bigint) RETURNS bigint LANGUAGE sql IMMUTABLE RETURN scrim.needs_key()::text::bigint;
CREATE FUNCTION scrim.hash(value integer) RETURNS integer LANGUAGE sql IMMUTABLE RETURN scrim.needs_key()::text::integer;
CREATE FUNCTION scrim.hash(value uuid) RETURNS uuid LANGUAGE sql IMMUTABLE RETURN scrim.needs_key()::text::uuid;
CREATE FUNCTION scrim.noise(value double precision, amplitude double precision, row_key text) RETURNS double precision LANGUAGE sql IMMUTABLE RETURN scrim.needs_key()::text::float8;
CREATE FUNCTION scrim.noise(value double precision, amplitude double precision, row_key bigint) RETURNS double precision LANGUAGE sql IMMUTABLE RETURN scrim.needs_key()::text::float8;
CREATE FUNCTION scrim.noise(value numeric, amplitude numeric, row_key text) RETURNS numeric LANGUAGE sql IMMUTABLE RETURN scrim.needs_key()::text::numeric;
CREATE FUNCTION scrim.noise(value numeric, amplitude numeric, row_key bigint) RETURNS numeric LANGUAGE sql IMMUTABLE RETURN scrim.needs_key()::text::numeric;
CREATE FUNCTION scrim.noise(value bigint, amplitude bigint, row_key text) RETURNS bigint LANGUAGE sql IMMUTABLE RETURN scrim.needs_key()::text::bigint;
CREATE FUNCTION scrim.noise(value bigint, amplitude bigint, row_key bigint) RETURNS bigint LANGUAGE sql IMMUTABLE RETURN scrim.needs_key()::text::bigint;
CREATE FUNCTION scrim.noise(value integer, amplitude integer, row_key text) RETURNS integer LANGUAGE sql IMMUTABLE RETURN scrim.needs_key()::text::integer;
CREATE FUNCTION scrim.noise(value integer, amplitude integer, row_key bigint) RETURNS integer LANGUAGE sql IMMUTABLE RETURN scrim.needs_key()::text::integer;

-- Whether a function that is not PostgreSQL's may be called by masks of a table owner's: his own, or a superuser's, that whoever reads cannot bend by search_path or temporary objects. Types are looked for in pg_temp
-- first where it is not named, and what a body that PostgreSQL has parsed calls has to be as good as itself.
CREATE FUNCTION scrim.may_mask_with(function oid, owner oid) RETURNS boolean
LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp AS $$
    WITH RECURSIVE called(oid) AS (
        SELECT function
        UNION
        SELECT CASE WHEN d.refclassid = 'pg_operator'::regclass THEN (SELECT o.oprcode::oid FROM pg_operator o WHERE o.oid = d.refobjid) ELSE d.refobjid END
          FROM called c JOIN pg_proc p ON p.oid = c.oid AND p.prosqlbody IS NOT NULL AND p.pronamespace NOT IN ('scrim'::regnamespace, 'scrim_runtime'::regnamespace)
          JOIN pg_depend d ON d.classid = 'pg_proc'::regclass AND d.objid = p.oid AND d.refclassid IN ('pg_proc'::regclass, 'pg_operator'::regclass))
    SELECT bool_and(EXISTS (
        SELECT 1 FROM pg_proc p JOIN pg_roles r ON r.oid = p.proowner JOIN pg_language l ON l.oid = p.prolang
         WHERE p.oid = c.oid
           AND CASE WHEN p.pronamespace IN ('scrim'::regnamespace, 'scrim_runtime'::regnamespace)
                    THEN p.proname IN ('partial', 'email', 'hash', 'bucket', 'generalize', 'noise')
                    ELSE (p.proowner = owner OR r.rolsuper) AND p.provolatile <> 'v' AND NOT p.prosecdef AND NOT p.proretset
                         AND NOT EXISTS (SELECT 1 FROM pg_depend d JOIN pg_type t ON t.oid = d.refobjid AND t.typtype = 'd'
                                          WHERE d.classid = 'pg_proc'::regclass AND d.objid = p.oid AND d.refclassid = 'pg_type'::regclass)
                         AND (p.prosqlbody IS NOT NULL OR c.oid <> function AND r.rolsuper AND l.lanname IN ('c', 'internal')
                              OR EXISTS (SELECT 1 FROM unnest(p.proconfig) s WHERE s ~ '^search_path="?pg_catalog"?, ?"?pg_temp"?$')) END))
      FROM called c
$$;

-- Functions of PostgreSQL's whose errors print none of their arguments, or only such as have to be constants (mask_faults). Some that are declared IMMUTABLE go by a setting all the same: names of time
-- zones are looked for among the abbreviations of timezone_abbreviations and, from PostgreSQL 18 on, of TimeZone; age of timestamptz reckons in TimeZone. A numeric too large for a float is printed.
CREATE FUNCTION scrim.is_discreet(function oid, is_cast boolean) RETURNS boolean
LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp AS $$
    SELECT p.provolatile = 'i' AND p.prokind = 'f' AND NOT p.proretset AND CASE
               WHEN is_cast THEN p.proargtypes[0] = ANY (t.types) AND p.prorettype = ANY (t.types)
                                 AND NOT (p.proargtypes[0] = 'numeric'::regtype AND p.prorettype IN ('float4'::regtype, 'float8'::regtype))
               WHEN p.proname = 'age' THEN p.proargtypes[0] = 'timestamp'::regtype
               WHEN p.proname = 'timezone' THEN p.proargtypes[0] = 'interval'::regtype
               WHEN p.proname = 'date_trunc' THEN p.pronargs = 2
               ELSE p.proname IN ('left', 'right', 'substring', 'substr', 'upper', 'lower', 'initcap', 'btrim', 'ltrim', 'rtrim', 'replace', 'translate', 'repeat', 'lpad', 'rpad',
                                  'length', 'char_length', 'character_length', 'octet_length', 'bit_length', 'split_part', 'strpos', 'position', 'reverse', 'overlay', 'ascii', 'starts_with',
                                  'similar_to_escape', 'like_escape', 'regexp_replace', 'regexp_like', 'regexp_substr', 'regexp_count', 'md5', 'sha224', 'sha256', 'sha384', 'sha512', 'encode', 'to_hex',
                                  'floor', 'ceil', 'ceiling', 'round', 'trunc', 'abs', 'sign', 'mod', 'div', 'width_bucket', 'sqrt', 'cbrt', 'ln', 'log', 'exp', 'power', 'scale', 'trim_scale',
                                  'date_part', 'extract', 'isfinite', 'hashtext', 'hashint4', 'hashint8', 'array_length', 'cardinality') END
        OR p.proname = 'now' OR p.proname = 'pg_has_role' AND p.pronargs = 3
      FROM pg_proc p, LATERAL (SELECT '{int2,int4,int8,float4,float8,numeric,bool,date,time,timestamp,timestamptz,interval,text,varchar,bpchar,name,bit,varbit,bytea,uuid}'::regtype[]::oid[] AS types) t
     WHERE p.oid = function AND p.pronamespace = 'pg_catalog'::regnamespace
$$;

-- The same for operators, by the types that they take. Of those on JSON some print what they were given.
CREATE FUNCTION scrim.is_discreet_operator(operator oid) RETURNS boolean
LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp AS $$
    SELECT o.oprnamespace = 'pg_catalog'::regnamespace AND p.provolatile = 'i'
           AND (o.oprleft = ANY (t.types || 0::oid) AND o.oprright = ANY (t.types)
                OR o.oprleft IN ('json'::regtype, 'jsonb'::regtype) AND o.oprname IN ('->', '->>', '#>', '#>>', '@>', '<@', '?', '?|', '?&', '=', '<>', '-', '||'))
      FROM pg_operator o JOIN pg_proc p ON p.oid = o.oprcode,
           LATERAL (SELECT '{bool,int2,int4,int8,float4,float8,numeric,oid,text,varchar,bpchar,name,bytea,bit,varbit,uuid,date,time,timestamp,timestamptz,interval,inet,cidr,macaddr,macaddr8,
                             anyarray,anyelement,anyenum,anynonarray,anycompatible,anycompatiblearray,anycompatiblenonarray}'::regtype[]::oid[] AS types) t
     WHERE o.oid = operator
$$;

-- What is wrong with the expression of a mask, which stands alone in a view: a line for each thing that it may not use.
CREATE FUNCTION scrim.mask_faults(view oid, owner oid) RETURNS SETOF text
LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp AS $$
    WITH q AS MATERIALIZED (
        SELECT s.ord, s.depth, s.piece, substring(s.piece FROM '^\{(\w+) ') AS node FROM scrim.stored_query(view) s WHERE s.field = 'targetList' AND s.opens),
    call AS MATERIALIZED (
        SELECT q.ord, q.depth, q.node, p.oid, p.proname, p.pronamespace = 'pg_catalog'::regnamespace AS builtin, substring(q.piece FROM ':funcformat (\d)') IN ('1', '2') AS is_cast,
               coalesce((SELECT min(n.ord) FROM q n WHERE n.ord > q.ord AND n.depth <= q.depth), 2147483647) AS ends
          FROM q JOIN pg_proc p ON q.node = 'FUNCEXPR' AND p.oid = substring(q.piece FROM ':funcid (\d+)')::oid),
    argument AS (  -- with its place among a call's arguments
        SELECT c.ord, a.node, row_number() OVER (PARTITION BY c.ord ORDER BY a.ord) AS place
          FROM call c JOIN q a ON a.ord > c.ord AND a.ord < c.ends AND a.depth = c.depth + 1)
    SELECT CASE q.node WHEN 'SUBLINK' THEN 'a subquery' WHEN 'AGGREF' THEN 'an aggregate' WHEN 'WINDOWFUNC' THEN 'a window function' WHEN 'ROWEXPR' THEN 'a row'
                       WHEN 'ARRAYCOERCEEXPR' THEN 'a cast of an array' WHEN 'COERCETODOMAIN' THEN 'a cast to a domain' ELSE lower(q.node) END || ' is not allowed in it'
      FROM q
     WHERE q.node NOT IN ('TARGETENTRY', 'VAR', 'CONST', 'FUNCEXPR', 'OPEXPR', 'SCALARARRAYOPEXPR', 'DISTINCTEXPR', 'NULLIFEXPR', 'BOOLEXPR', 'CASEEXPR', 'CASEWHEN', 'CASETESTEXPR', 'COALESCEEXPR',
                          'MINMAXEXPR', 'NULLTEST', 'BOOLEANTEST', 'RELABELTYPE', 'COERCEVIAIO', 'ARRAYEXPR', 'SUBSCRIPTINGREF', 'SQLVALUEFUNCTION', 'COLLATEEXPR')
       AND NOT (q.node = 'QUERY' AND q.depth = 1)
    UNION
    SELECT 'it depends on a setting, or on SET ROLE: only session_user and now() are allowed of their kind'
      FROM q WHERE q.node = 'SQLVALUEFUNCTION' AND q.piece !~ ':op 12 '
    UNION
    SELECT 'the whole row, or a system column, is not allowed in it' FROM q WHERE q.node = 'VAR' AND q.piece !~ ':varattno [1-9]'
    UNION
    SELECT format('operator %s is not PostgreSQL''s, may fail with a value in its error, or depends on a setting', o.oid::regoperator)
      FROM q JOIN pg_operator o ON q.node IN ('OPEXPR', 'SCALARARRAYOPEXPR', 'DISTINCTEXPR', 'NULLIFEXPR') AND o.oid = substring(q.piece FROM ':opno (\d+)')::oid
     WHERE scrim.is_discreet_operator(o.oid) IS NOT TRUE
    UNION
    SELECT CASE WHEN c.is_cast THEN format('the cast %s may fail with a value in its error, or depends on a setting', c.oid::regprocedure)
                ELSE format('function %s may fail with a value in its error, or depends on a setting', c.oid::regprocedure) END
      FROM call c JOIN pg_proc p ON p.oid = c.oid
     WHERE c.builtin AND scrim.is_discreet(c.oid, c.is_cast) IS NOT TRUE AND NOT (c.is_cast AND p.provolatile = 'i' AND (SELECT bool_and(a.node = 'CONST') FROM argument a WHERE a.ord = c.ord))
    UNION
    SELECT format('function %s must be the table owner''s, neither VOLATILE nor SECURITY DEFINER, with SET search_path = pg_catalog, pg_temp or an SQL-standard body that calls none but such', c.oid::regprocedure)
      FROM call c WHERE NOT c.builtin AND NOT scrim.may_mask_with(c.oid, owner)
    UNION  -- their errors print these arguments
    SELECT CASE c.proname WHEN 'pg_has_role' THEN 'pg_has_role takes session_user and constants' ELSE format('%s takes constants but for the value', c.proname) END
      FROM call c JOIN argument a ON a.ord = c.ord AND a.node <> 'CONST'
     WHERE CASE WHEN c.proname IN ('timezone', 'date_trunc', 'date_part', 'extract') AND c.builtin THEN a.place = 1
                WHEN c.proname IN ('encode', 'regexp_replace', 'regexp_like', 'regexp_substr', 'regexp_count') AND c.builtin OR c.proname = 'generalize' AND NOT c.builtin THEN a.place > 1
                WHEN c.proname = 'pg_has_role' AND c.builtin THEN a.place > 1 OR a.node <> 'SQLVALUEFUNCTION' END
    UNION  -- so that SET ROLE does not matter
    SELECT 'pg_has_role takes session_user and constants' FROM call c JOIN argument a ON a.ord = c.ord AND a.place = 1 AND a.node = 'CONST' WHERE c.proname = 'pg_has_role' AND c.builtin
    UNION  -- a cast by output and input functions: what is printed may go by a setting, what is read may fail
    SELECT format('the cast from %s to %s may fail with a value in its error, or depends on a setting', coalesce(nullif(f.source, 0)::regtype::text, 'it'), f.target::regtype)
      FROM q JOIN q a ON q.node = 'COERCEVIAIO' AND a.ord = (SELECT min(n.ord) FROM q n WHERE n.ord > q.ord),
           LATERAL (SELECT coalesce(substring(a.piece FROM ':(?:vartype|consttype|funcresulttype|opresulttype|casetype|coalescetype|minmaxtype) (\d+)')::oid, 0::oid) AS source,
                           (SELECT substring(e.piece FROM ':resulttype (\d+)')::oid FROM scrim.stored_query(view) e
                             WHERE e.ord > q.ord AND e.depth = q.depth AND NOT e.opens ORDER BY e.ord LIMIT 1) AS target) f
     WHERE (f.source = ANY ('{int2,int4,int8,numeric,bool,uuid,text,varchar,bpchar,name,inet,cidr,macaddr}'::regtype[]::oid[])
            AND f.target = ANY ('{text,varchar,bpchar}'::regtype[]::oid[])
            OR a.node = 'CONST' AND EXISTS (SELECT 1 FROM pg_type t LEFT JOIN pg_type e ON e.oid = t.typelem AND t.typcategory = 'A'  -- as scrim.spell_constants spells it
                                             WHERE t.oid = f.target AND t.typnamespace <> 'pg_catalog'::regnamespace AND coalesce(e.typtype, t.typtype) IN ('b', 'e'))) IS NOT TRUE
$$;

-- The expression that stands alone in a view over scrim_probe, as the server prints it: with everything in it qualified, it can stand in no other place than an expression.
CREATE FUNCTION scrim.probed(view regclass) RETURNS text
LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp SET quote_all_identifiers = off SET standard_conforming_strings = on
SET DateStyle = 'ISO' SET IntervalStyle = 'postgres' SET TimeZone = 'UTC' SET extra_float_digits = 3 SET bytea_output = 'hex' SET lc_monetary = 'C' AS $$
DECLARE
    printed text := pg_get_viewdef(view);
    head text := ' SELECT ';
    tail text := E' AS mask\n   FROM scrim_probe t;';
BEGIN
    IF (SELECT c.relkind = 'v' AND c.relnamespace = pg_my_temp_schema() FROM pg_class c WHERE c.oid = view) IS NOT TRUE
       OR (SELECT count(*) FROM pg_attribute a WHERE a.attrelid = view AND a.attnum > 0) <> 1
       OR (SELECT count(*) FROM scrim.stored_query(view) q WHERE q.piece ~ '^\{QUERY ') <> 1
       OR regexp_replace(left(printed, length(head)), '\s', ' ', 'g') <> head OR right(printed, length(tail)) <> tail OR strpos(printed, chr(1)) > 0 THEN
        RAISE EXCEPTION 'a mask is one expression over the row' USING ERRCODE = 'feature_not_supported';
    END IF;
    RETURN scrim.spell_constants(view, substr(printed, length(head) + 1, length(printed) - length(head) - length(tail)));
END $$;

-- Constants are read when a statement is parsed, and reading one can run code of its type's owner: the checks of a domain that an array, a composite type or a range is made of. What is printed of a mask is
-- parsed with other people's rights, and a name can have become another type's by then. So constants of types that are not PostgreSQL's become casts, which only whoever reads the mask evaluates.
CREATE FUNCTION scrim.spell_constants(view regclass, printed text) RETURNS text
LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    each record;
    cast_to text;
    spelled text;
BEGIN
    FOR each IN
        SELECT c.type, count(*) AS uses, t.typtype IN ('b', 'e') AND (t.typcategory <> 'A' OR e.typtype IN ('b', 'e')) AS is_plain
          FROM scrim.stored_query(view) q, LATERAL (SELECT substring(q.piece FROM '^\{CONST :consttype (\d+) .*:constisnull false')::oid AS type) c
          JOIN pg_type t ON t.oid = c.type AND t.typnamespace <> 'pg_catalog'::regnamespace LEFT JOIN pg_type e ON e.oid = t.typelem
         GROUP BY 1, 3 LOOP
        cast_to := '::' || format_type(each.type, NULL);
        -- Identifiers and strings are looked at whole, so that neither can look like a part of the other.
        spelled := (SELECT string_agg(CASE WHEN m.token[3] IS NULL THEN concat(m.token[1], m.token[2], m.token[4]) ELSE format('(%s::text)%s', m.token[2], cast_to) END, '' ORDER BY m.n)
                      FROM regexp_matches(printed, format('("(?:[^"]|"")*")|(E?''(?:[^'']|'''')*'')(%s(?![[:alnum:]_$".[]))?|((?:[^"''E]|E(?!''))+)', regexp_replace(cast_to, '(\W)', '\\\1', 'g')), 'g') WITH ORDINALITY AS m(token, n));
        IF NOT each.is_plain OR length(spelled) - length(printed) <> each.uses * length('(::text)') THEN
            RAISE EXCEPTION 'a mask has a constant of type %', each.type::regtype USING ERRCODE = 'feature_not_supported', HINT = 'Constants are of PostgreSQL''s types, enums and base types, since reading others can run code.';
        END IF;
        printed := spelled;
    END LOOP;
    RETURN printed;
END $$;

-- Writes the masks of columns down: what the views over pg_temp.scrim_probe show. stand_for has, for each view, the relation's columns that those of scrim_probe stand for, where they are called
-- marker1_, marker2_ and so on. Text never comes from the caller, only what the server prints of views that were made under the caller's own rights. Names are put in the places of
-- the markers later, so none may be inside of quotes: the server prints constants in single ones, and names in double ones, each doubled inside.
CREATE FUNCTION scrim.keep_mask(relation regclass, views regclass[], condition regclass, marker text, stand_for jsonb, attached boolean, wording text) RETURNS bigint
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp SET standard_conforming_strings = on AS $$
DECLARE
    masks text[] := '{}';
    printed text;
    nums smallint[];
    read smallint[] := '{}';
    kept bigint;
BEGIN
    PERFORM scrim.require_policy_admin(relation);
    IF (marker ~ '^scrim_[0-9a-f]{32}_$') IS NOT TRUE
       OR EXISTS (SELECT 1 FROM pg_attribute a WHERE a.attrelid = to_regclass('pg_temp.scrim_probe') AND a.attnum > 0 AND NOT a.attisdropped AND a.attname <> marker || a.attnum || '_') THEN
        RAISE EXCEPTION 'inconsistent mask' USING ERRCODE = 'invalid_parameter_value';
    END IF;
    FOR v IN 1..cardinality(views) + num_nonnulls(condition) LOOP
        printed := scrim.probed(coalesce(views[v], condition));
        nums := scrim.nums(stand_for -> (least(v, cardinality(views)) - 1));
        -- The library's names are replaced in the text, too.
        IF EXISTS (SELECT 1 FROM regexp_matches(printed, '''(?:[^'']|'''')*''|"(?:[^"]|"")*"', 'g') AS quoted(parts) WHERE quoted.parts[1] ~ ('\mscrim\.|' || marker)) THEN
            RAISE EXCEPTION 'a constant in a mask, or a quoted name, has "scrim." in it' USING ERRCODE = 'feature_not_supported';
        END IF;
        FOR i IN REVERSE cardinality(nums)..1 LOOP
            IF strpos(printed, marker || i || '_') > 0 THEN
                read := read || nums[i];
                printed := regexp_replace(printed, '(t\.)?' || marker || i || '_', chr(1) || nums[i] || chr(1), 'g');
            END IF;
        END LOOP;
        masks := masks || printed;
    END LOOP;
    INSERT INTO scrim_state.sql_masks (relation, attached, masks, condition, inputs, wording)
    VALUES (relation, CASE WHEN attached THEN stand_for END, masks[:cardinality(views)], CASE WHEN condition IS NOT NULL THEN masks[cardinality(views) + 1] END, ARRAY(SELECT DISTINCT r FROM unnest(read) r ORDER BY r), wording)
    RETURNING id INTO kept;
    RETURN kept;
END $$;

-- The same mask of another relation, which has the same columns: a part of the first, or a view over it. places are which of the mask's columns it has, from 1.
CREATE FUNCTION scrim.keep_mask_of(mask bigint, relation regclass, places int[], from_nums smallint[], to_nums smallint[]) RETURNS bigint
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    kept bigint;
BEGIN
    PERFORM scrim.require_policy_admin(relation);
    PERFORM scrim.require_policy_admin(m.relation) FROM scrim_state.sql_masks m WHERE m.id = mask;
    INSERT INTO scrim_state.sql_masks (relation, types, attached, masks, condition, inputs, wording)
    SELECT keep_mask_of.relation, CASE WHEN m.relation = keep_mask_of.relation THEN m.types END, CASE WHEN m.relation = keep_mask_of.relation AND m.attached IS NOT NULL THEN (SELECT jsonb_agg(m.attached -> p.place - 1 ORDER BY p.ord) FROM unnest(places) WITH ORDINALITY AS p(place, ord)) END,
           ARRAY(SELECT scrim.renumber(m.masks[p.place], from_nums, to_nums) FROM unnest(places) WITH ORDINALITY AS p(place, ord) ORDER BY p.ord),
           scrim.renumber(m.condition, from_nums, to_nums), '{}', m.wording
      FROM scrim_state.sql_masks m WHERE m.id = mask
    RETURNING id INTO STRICT kept;
    UPDATE scrim_state.sql_masks m SET inputs = scrim.columns_in(m.masks || m.condition) WHERE m.id = kept;  -- fewer masks may read fewer columns
    RETURN kept;
END $$;

-- The columns that masks read.
CREATE FUNCTION scrim.columns_in(templates text[]) RETURNS smallint[]
LANGUAGE sql IMMUTABLE SET search_path = pg_catalog, pg_temp AS $$
    SELECT ARRAY(SELECT DISTINCT s.part::smallint FROM unnest(templates) t, string_to_table(t, chr(1)) WITH ORDINALITY AS s(part, n) WHERE s.n % 2 = 0 ORDER BY 1)
$$;

-- What a mask reads.
CREATE FUNCTION scrim.mask_inputs(mask bigint) RETURNS smallint[]
LANGUAGE sql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$ SELECT m.inputs FROM scrim_state.sql_masks m WHERE m.id = mask $$;

-- Raises if a column that a mask of a protection masks or reads has another type than when the mask was made: an operator in it could be another's by now, that prints values or goes by a setting, and
-- so could the cast to the column's type.
CREATE FUNCTION scrim.require_mask_types(protection_id integer) RETURNS void
LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    changed record;
BEGIN
    SELECT p.name, a.attname, a.attrelid::regclass AS relation INTO changed
      FROM scrim_state.protections x JOIN scrim_state.policies p ON p.protection = x.id JOIN scrim_state.sql_masks m ON m.id = p.sql_mask CROSS JOIN LATERAL jsonb_each_text(m.types) t
      JOIN pg_attribute a ON a.attnum = t.key::smallint AND a.attnum = ANY (p.columns || p.inputs) WHERE x.id = protection_id AND a.attrelid = x.relation AND NOT a.attisdropped AND a.atttypid::regtype::text <> t.value LIMIT 1;
    IF FOUND THEN
        RAISE EXCEPTION 'column "%" of % has another type than when the mask of policy "%" was made', changed.attname, changed.relation, changed.name USING ERRCODE = 'object_not_in_prerequisite_state',
            HINT = format('DROP MASKING POLICY %I ON %s, and make it again in the same transaction.', changed.name, changed.relation);
    END IF;
END $$;

-- Puts numbers in the place of others, where a mask has columns.
CREATE FUNCTION scrim.renumber(template text, from_nums smallint[], to_nums smallint[]) RETURNS text
LANGUAGE sql IMMUTABLE STRICT SET search_path = pg_catalog, pg_temp AS $$
    SELECT string_agg(CASE WHEN s.n % 2 = 1 THEN s.part ELSE chr(1) || coalesce(to_nums[array_position(from_nums, s.part::smallint)], 0) || chr(1) END, '' ORDER BY s.n)
      FROM string_to_table(template, chr(1)) WITH ORDINALITY AS s(part, n)
$$;

-- A mask as it stands in a masked view that reads relation as t, or with the columns' bare names, for people. Names of the library's functions are replaced first: a column may be called like one.
CREATE FUNCTION scrim.spell_mask(template text, relation oid, key_owner oid, legible boolean DEFAULT false) RETURNS text
LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp SET standard_conforming_strings = on AS $$
    SELECT string_agg(CASE WHEN s.n % 2 = 1 THEN s.part ELSE CASE WHEN legible THEN quote_ident(coalesce(a.attname, '?')) ELSE format('t.%I', a.attname) END END, '' ORDER BY s.n)
      FROM string_to_table(CASE WHEN legible THEN template ELSE
               regexp_replace(regexp_replace(template, '\mscrim\.(hash|noise)\(', format('scrim_runtime.\1((SELECT k.inner_key FROM scrim_state.%1$I k WHERE k.only_row), (SELECT k.outer_key FROM scrim_state.%1$I k WHERE k.only_row), ',
                                                                                         'mask_key_' || key_owner), 'g'), '\mscrim\.', 'scrim_runtime.', 'g') END, chr(1)) WITH ORDINALITY AS s(part, n)
      LEFT JOIN pg_attribute a ON s.n % 2 = 0 AND a.attrelid = relation AND a.attnum = CASE WHEN s.n % 2 = 0 THEN s.part::smallint END
$$;

-- Makes the mask of columns of a relation by an expression over arguments, and returns its number. attached has, for each of the columns, the relation's columns that the arguments stand for; NULL: all
-- of the row, in order. The expression is read with pg_catalog and scrim in search_path.
CREATE FUNCTION scrim.make_mask(relation regclass, masked smallint[], arguments text[], types text[], attached jsonb, expression text, condition text, wording text) RETURNS bigint
LANGUAGE plpgsql SET search_path = pg_catalog, scrim, pg_temp SET client_min_messages = warning AS $$
DECLARE
    views regclass[] := '{}';
    condition_view regclass;
    att record;
    shown record;
    kept bigint;
    marker text := format('scrim_%s_', replace(gen_random_uuid()::text, '-', ''));
    owner oid := (SELECT c.relowner FROM pg_class c WHERE c.oid = relation);
BEGIN
    IF strpos(concat(expression, condition), chr(1)) > 0 THEN
        RAISE EXCEPTION 'a mask has a character of code 1' USING ERRCODE = 'feature_not_supported';
    END IF;
    PERFORM scrim.drop_probe();
    EXECUTE format('CREATE TEMP TABLE scrim_probe (%s)', (SELECT string_agg(format('%I %s', a.name, a.type), ', ' ORDER BY a.ord) FROM unnest(arguments, types) WITH ORDINALITY AS a(name, type, ord)));
    FOR att IN SELECT a.attname, a.atttypid, format_type(a.atttypid, NULL) AS type, scrim.column_type(relation, a.attnum) AS whole, c.ord
                 FROM unnest(masked) WITH ORDINALITY AS c(num, ord) JOIN pg_attribute a ON a.attrelid = relation AND a.attnum = c.num ORDER BY c.ord LOOP
        -- NULL and constants take the column's type, as in a CASE.
        BEGIN
            EXECUTE format(E'CREATE TEMP VIEW %I AS SELECT CASE WHEN true THEN (%s\n) ELSE NULL::%s END AS mask FROM pg_temp.scrim_probe t', 'scrim_mask_' || att.ord, expression, att.type);
        EXCEPTION WHEN datatype_mismatch OR cannot_coerce THEN
            RAISE EXCEPTION 'the mask of column "%" is not of type %', att.attname, att.type USING ERRCODE = 'datatype_mismatch', DETAIL = SQLERRM, HINT = 'A masked column keeps its type: cast the mask, or show NULL.';
        END;
        views := views || format('pg_temp.%I', 'scrim_mask_' || att.ord)::regclass;
        SELECT a.atttypid, format_type(a.atttypid, NULL) AS type INTO shown FROM pg_attribute a WHERE a.attrelid = views[att.ord] AND a.attnum = 1;
        IF shown.atttypid <> att.atttypid
           AND NOT EXISTS (SELECT 1 FROM pg_cast c WHERE c.castsource = shown.atttypid AND c.casttarget = att.atttypid AND c.castcontext IN ('i', 'a') AND c.castmethod IN ('f', 'b')) THEN
            RAISE EXCEPTION 'the mask of column "%" is not of type %', att.attname, att.type USING ERRCODE = 'datatype_mismatch', DETAIL = format('It is of type %s.', shown.type),
                HINT = 'A masked column keeps its type: cast the mask, or show NULL.';
        END IF;
        PERFORM scrim.refuse_mask(views[att.ord], owner, format('the mask of column "%s"', att.attname));
        EXECUTE format('CREATE TEMP VIEW scrim_cast AS SELECT t.mask::%s AS mask FROM %s t', att.whole, views[att.ord]);
        PERFORM scrim.refuse_mask('pg_temp.scrim_cast', owner, format('the mask of column "%s", cast to the type of that,', att.attname));
        DROP VIEW pg_temp.scrim_cast;
    END LOOP;
    IF condition IS NOT NULL THEN
        EXECUTE format(E'CREATE TEMP VIEW scrim_condition AS SELECT CASE WHEN true THEN (%s\n) ELSE NULL::boolean END AS mask FROM pg_temp.scrim_probe t', condition);
        condition_view := 'pg_temp.scrim_condition'::regclass;
        PERFORM scrim.refuse_mask(condition_view, owner, 'the condition of WHEN');
    END IF;
    -- Names that nothing else in the masks has. Here, since the table is the caller's.
    FOR att IN SELECT a.attname, a.attnum FROM pg_attribute a WHERE a.attrelid = 'pg_temp.scrim_probe'::regclass AND a.attnum > 0 AND NOT a.attisdropped LOOP
        EXECUTE format('ALTER TABLE pg_temp.scrim_probe RENAME COLUMN %I TO %I', att.attname, marker || att.attnum || '_');
    END LOOP;
    kept := scrim.keep_mask(relation, views, condition_view, marker,
        coalesce(attached, (SELECT jsonb_agg((SELECT jsonb_agg(a.attnum ORDER BY a.attnum) FROM pg_attribute a WHERE a.attrelid = relation AND a.attnum > 0 AND NOT a.attisdropped)) FROM unnest(masked))), attached IS NOT NULL, wording);
    PERFORM scrim.drop_probe();
    RETURN kept;
END $$;

-- Drops what masks are read in.
CREATE FUNCTION scrim.drop_probe() RETURNS void
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp SET client_min_messages = warning AS $$
BEGIN
    DROP TABLE IF EXISTS pg_temp.scrim_probe CASCADE;
END $$;

-- Raises if a mask may not be what it is.
CREATE FUNCTION scrim.refuse_mask(view regclass, owner oid, what text) RETURNS void
LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    faults text := (SELECT string_agg(f, E'\n' ORDER BY f) FROM scrim.mask_faults(view, owner) f);
BEGIN
    IF faults IS NOT NULL THEN
        RAISE EXCEPTION '% could show raw values, or be bent by whoever reads it', what USING ERRCODE = 'feature_not_supported', DETAIL = faults,
            HINT = 'Masks are made of columns, constants, PostgreSQL''s operators, functions that cannot print their arguments, and scrim.partial, email, hash, bucket, generalize and noise.';
    END IF;
END $$;
