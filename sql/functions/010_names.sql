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

-- The one rule of how a column becomes a feature: training and sealing must never differ in it. The expression has NULL for NULL and for
-- nothing else, never raises (an error would print the raw value), depends on no setting, and calls what is in pg_catalog only, each by its
-- full name. NaN counts as missing in the encoder. alias must be a quoted identifier.
-- (What a VIRTUAL generated column or a column of a view computes is its owner's, and can raise before this sees it.)
--
-- Dates and timestamps are seconds since 2000-01-01, in UTC where there is a time zone, so that one encoder can take a column of either
-- type; infinity stays infinity. An interval is seconds too, a month being 30 days and a year 365.25, as in extract(epoch).
CREATE FUNCTION scrim.feature_expression(relation regclass, num smallint, alias text) RETURNS text
LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    att pg_attribute;
    col text;
BEGIN
    SELECT a.* INTO STRICT att FROM pg_attribute a WHERE a.attrelid = relation AND a.attnum = num AND NOT a.attisdropped;
    col := format('%s.%I', alias, att.attname);
    RETURN CASE att.atttypid
        WHEN 'int2'::regtype THEN col || '::pg_catalog.float8'
        WHEN 'int4'::regtype THEN col || '::pg_catalog.float8'
        WHEN 'int8'::regtype THEN col || '::pg_catalog.float8'
        WHEN 'float4'::regtype THEN col || '::pg_catalog.float8'
        WHEN 'float8'::regtype THEN col
        WHEN 'bool'::regtype THEN col || '::pg_catalog.int4::pg_catalog.float8'
        -- The cast of a numeric beyond float8 raises.
        WHEN 'numeric'::regtype THEN CASE
            -- A declared precision of up to 300 digits always fits (the type modifier is precision << 16 | scale, plus 4).
            WHEN att.atttypmod >= 4 AND ((att.atttypmod - 4) >> 16) <= 300 AND ((att.atttypmod - 4) & 2047) <= 300 THEN col || '::pg_catalog.float8'
            ELSE format('CASE WHEN %1$s OPERATOR(pg_catalog.=) ''NaN''::pg_catalog.numeric THEN ''NaN''::pg_catalog.float8'
                ' WHEN %1$s OPERATOR(pg_catalog.>) 1e300 THEN ''Infinity''::pg_catalog.float8'
                ' WHEN %1$s OPERATOR(pg_catalog.<) -1e300 THEN ''-Infinity''::pg_catalog.float8'
                ' WHEN pg_catalog.abs(%1$s) OPERATOR(pg_catalog.<) 1e-300 THEN 0::pg_catalog.float8'
                ' ELSE %1$s::pg_catalog.float8 END', col) END
        -- The difference of an infinite date raises, and so does the cast of a late date to timestamp. Of days there are less than 2^23.
        WHEN 'date'::regtype THEN format('CASE WHEN pg_catalog.isfinite(%1$s)'
                ' THEN (%1$s OPERATOR(pg_catalog.-) ''2000-01-01''::pg_catalog.date)::pg_catalog.float8 OPERATOR(pg_catalog.*) 86400::pg_catalog.float8'
                ' WHEN %1$s OPERATOR(pg_catalog.=) ''infinity''::pg_catalog.date THEN ''Infinity''::pg_catalog.float8'
                ' WHEN %1$s OPERATOR(pg_catalog.=) ''-infinity''::pg_catalog.date THEN ''-Infinity''::pg_catalog.float8 END', col)
        -- date_part(epoch) is seconds since 1970, and infinite where its argument is; extract() would go by numeric, which can raise.
        WHEN 'timestamp'::regtype THEN format(
            'pg_catalog.date_part(''epoch''::pg_catalog.text, %s) OPERATOR(pg_catalog.-) 946684800::pg_catalog.float8', col)
        -- A zone given as an interval, since names of zones and date_part of a timestamptz go by settings.
        WHEN 'timestamptz'::regtype THEN format(
            'pg_catalog.date_part(''epoch''::pg_catalog.text, pg_catalog.timezone(''0''::pg_catalog.interval, %s)) OPERATOR(pg_catalog.-) 946684800::pg_catalog.float8', col)
        WHEN 'interval'::regtype THEN format('pg_catalog.date_part(''epoch''::pg_catalog.text, %s)', col)
        END;
END $$;

-- Raises when a column cannot be a feature.
CREATE FUNCTION scrim.check_features(relation regclass, nums smallint[]) RETURNS void
LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    bad record;
BEGIN
    FOR bad IN
        SELECT a.attname, format_type(a.atttypid, a.atttypmod) AS type, t.typcategory IN ('S', 'E') AS is_text
          FROM pg_attribute a JOIN pg_type t ON t.oid = a.atttypid
         WHERE a.attrelid = relation AND a.attnum = ANY (nums)
           AND scrim.feature_expression(relation, a.attnum, 't') IS NULL
         ORDER BY a.attnum
    LOOP
        RAISE EXCEPTION 'column "%" of type % cannot be a feature', bad.attname, bad.type
            USING ERRCODE = 'feature_not_supported',
                  HINT = 'Features are smallint, integer, bigint, real, double precision, numeric, boolean, date, timestamp or interval.'
                      || CASE WHEN bad.is_text THEN ' Say what matters of a text in numbers: in generated columns, like boolean GENERATED ALWAYS AS ('
                                                    || quote_ident(bad.attname) || ' = ''...'') STORED.' ELSE '' END;
    END LOOP;
END $$;

-- Raises when a column cannot be passed through beside the codes: one that is unknown, listed twice, a feature, or not the requester's to read.
-- And one that tells rows apart, having unique values, unless allow_identifiers: whoever knows it of a person knows whose code it is.
CREATE FUNCTION scrim.check_passthrough(requester oid, relation regclass, features text[], passthrough text[], allow_identifiers boolean) RETURNS void
LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    nums smallint[] := scrim.attnums(relation, coalesce(passthrough, '{}'));
    bad text;
    index regclass;
BEGIN
    SELECT p INTO bad FROM unnest(passthrough) WITH ORDINALITY AS t(p, ord) WHERE p = ANY (features) ORDER BY ord LIMIT 1;
    IF FOUND THEN
        RAISE EXCEPTION 'column "%" is a feature and cannot be passed through', bad USING ERRCODE = 'duplicate_column',
            HINT = 'Its raw values would stand beside the codes that hide them. Name it in one of the two lists.';
    END IF;
    SELECT p INTO bad FROM unnest(passthrough) WITH ORDINALITY AS t(p, ord)
     WHERE NOT has_column_privilege(requester, relation, p, 'SELECT') ORDER BY ord LIMIT 1;
    IF FOUND THEN
        RAISE EXCEPTION 'permission denied for column "%" of relation %', bad, relation USING ERRCODE = 'insufficient_privilege';
    END IF;
    IF allow_identifiers THEN
        RETURN;
    END IF;
    SELECT a.attname, i.oid::regclass INTO bad, index
      FROM unnest(nums) WITH ORDINALITY AS n(num, ord)
      JOIN pg_attribute a ON a.attrelid = relation AND a.attnum = n.num
      JOIN scrim.identifying(relation) i ON i.num = n.num
     ORDER BY n.ord, i.oid LIMIT 1;
    IF FOUND THEN
        RAISE EXCEPTION 'column "%" identifies rows: % is unique on it', bad, index USING ERRCODE = 'invalid_parameter_value',
            HINT = 'Leave it out, or say WITH (allow_identifiers = true).';
    END IF;
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
