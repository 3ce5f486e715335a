-- Schema scrim: functions and public views, made anew at every `scrim init`.
CREATE SCHEMA scrim;
GRANT USAGE ON SCHEMA scrim TO PUBLIC;

-- Attribute numbers of columns, in the order given. Unknown columns raise 42703.
CREATE FUNCTION scrim.attnums(relation regclass, columns text[]) RETURNS smallint[]
LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    result smallint[] := '{}';
    col text;
    num smallint;
BEGIN
    FOREACH col IN ARRAY columns LOOP
        SELECT a.attnum INTO num FROM pg_attribute a
         WHERE a.attrelid = relation AND a.attname = col AND a.attnum > 0 AND NOT a.attisdropped;
        IF num IS NULL THEN
            RAISE EXCEPTION 'column "%" of relation % does not exist', col, relation USING ERRCODE = 'undefined_column';
        END IF;
        IF num = ANY (result) THEN
            RAISE EXCEPTION 'column "%" is listed twice', col USING ERRCODE = 'duplicate_column';
        END IF;
        result := result || num;
    END LOOP;
    RETURN result;
END $$;

-- The one rule of how a column becomes a feature: training and sealing must never differ in it. NULL stays NULL; NaN
-- counts as missing in the encoder. Casting a numeric can raise, and its error would print the raw value, so numerics
-- beyond float8 are clamped first. alias must be a quoted identifier.
CREATE FUNCTION scrim.feature_expression(relation regclass, num smallint, alias text) RETURNS text
LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    att pg_attribute;
    col text;
BEGIN
    SELECT a.* INTO STRICT att FROM pg_attribute a WHERE a.attrelid = relation AND a.attnum = num AND NOT a.attisdropped;
    col := format('%s.%I', alias, att.attname);
    RETURN CASE att.atttypid
        WHEN 'int2'::regtype THEN col || '::float8'
        WHEN 'int4'::regtype THEN col || '::float8'
        WHEN 'int8'::regtype THEN col || '::float8'
        WHEN 'float4'::regtype THEN col || '::float8'
        WHEN 'float8'::regtype THEN col
        WHEN 'bool'::regtype THEN col || '::int4::float8'
        WHEN 'numeric'::regtype THEN CASE
            -- A declared precision of up to 300 digits always fits (the type modifier is precision << 16 | scale, plus 4).
            WHEN att.atttypmod >= 4 AND ((att.atttypmod - 4) >> 16) <= 300 AND ((att.atttypmod - 4) & 2047) <= 300 THEN col || '::float8'
            ELSE format('CASE WHEN %1$s = ''NaN'' THEN ''NaN''::float8 WHEN %1$s > 1e300 THEN ''Infinity''::float8'
                ' WHEN %1$s < -1e300 THEN ''-Infinity''::float8 WHEN abs(%1$s) < 1e-300 THEN 0::float8'
                ' ELSE %1$s::float8 END', col) END
        END;
END $$;

-- Raises when a column cannot be a feature.
CREATE FUNCTION scrim.check_features(relation regclass, nums smallint[]) RETURNS void
LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    bad record;
BEGIN
    FOR bad IN
        SELECT a.attname, format_type(a.atttypid, a.atttypmod) AS type
          FROM pg_attribute a
         WHERE a.attrelid = relation AND a.attnum = ANY (nums)
           AND scrim.feature_expression(relation, a.attnum, 't') IS NULL
         ORDER BY a.attnum
    LOOP
        RAISE EXCEPTION 'column "%" of type % cannot be a feature', bad.attname, bad.type
            USING ERRCODE = 'feature_not_supported',
                  HINT = 'Features are smallint, integer, bigint, real, double precision, numeric or boolean.';
    END LOOP;
END $$;

-- A column whose prediction from codes is compared: quantities as features are, texts and enums as numbers that are equal
-- when the texts are. The caller runs it under his own rights, once, so nothing has to be hidden from errors or last.
CREATE FUNCTION scrim.target_expression(relation regclass, target text, alias text) RETURNS text
LANGUAGE plpgsql STABLE STRICT SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    num smallint := (scrim.attnums(relation, ARRAY[target]))[1];
BEGIN
    IF scrim.is_label(relation, target) THEN
        RETURN format('(pg_catalog.hashtextextended(%s.%I::pg_catalog.text COLLATE pg_catalog."C", 0) OPERATOR(pg_catalog.>>) 11)::pg_catalog.float8',
                      alias, target);
    END IF;
    IF scrim.feature_expression(relation, num, alias) IS NULL THEN
        RAISE EXCEPTION 'column "%" of type % cannot be a target', target,
                (SELECT format_type(a.atttypid, a.atttypmod) FROM pg_attribute a WHERE a.attrelid = relation AND a.attnum = num)
            USING ERRCODE = 'feature_not_supported', HINT = 'Targets are numbers, booleans, texts and enums.';
    END IF;
    RETURN scrim.feature_expression(relation, num, alias);
END $$;

-- Whether a target's values are names.
CREATE FUNCTION scrim.is_label(relation regclass, target text) RETURNS boolean
LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp AS $$
    SELECT t.typcategory IN ('S', 'E', 'B') FROM pg_attribute a JOIN pg_type t ON t.oid = a.atttypid
     WHERE a.attrelid = relation AND a.attname = target AND a.attnum > 0
$$;

-- The SELECT that reads training rows, and a target last if there is one; the caller runs it under his own rights.
CREATE FUNCTION scrim.feature_query(relation regclass, columns text[], target text DEFAULT NULL) RETURNS text
LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    nums smallint[] := scrim.attnums(relation, columns);
BEGIN
    PERFORM scrim.check_features(relation, nums);
    RETURN (SELECT format('SELECT %s%s FROM %s t', string_agg(scrim.feature_expression(relation, n.num, 't'), ', ' ORDER BY n.ord),
                          ', ' || scrim.target_expression(relation, target, 't'), relation)
              FROM unnest(nums) WITH ORDINALITY AS n(num, ord));
END $$;
