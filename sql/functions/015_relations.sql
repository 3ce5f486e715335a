-- Relations that share rows with a protected one: partitions and children, and what views read.

-- The relation and all its partitions and children, however deep.
CREATE FUNCTION scrim.family(relation oid) RETURNS SETOF oid
LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp AS $$
    WITH RECURSIVE member(oid) AS (
        SELECT relation UNION SELECT i.inhrelid FROM member m JOIN pg_inherits i ON i.inhparent = m.oid)
    SELECT m.oid FROM member m
$$;

-- The same columns in another member of the family: those of the same names, which need not have the same numbers.
CREATE FUNCTION scrim.same_columns(relation oid, nums smallint[], member oid) RETURNS smallint[]
LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp AS $$
    SELECT coalesce(array_agg(b.attnum ORDER BY n.ord), '{}')
      FROM unnest(nums) WITH ORDINALITY AS n(num, ord)
      JOIN pg_attribute a ON a.attrelid = relation AND a.attnum = n.num
      JOIN pg_attribute b ON b.attrelid = member AND b.attname = a.attname AND NOT b.attisdropped
$$;

-- Whether a view runs with the rights of whoever reads it.
CREATE FUNCTION scrim.runs_as_invoker(view oid) RETURNS boolean
LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp AS $$
    SELECT EXISTS (SELECT 1 FROM pg_class c, pg_options_to_table(c.reloptions) o
                    WHERE c.oid = view AND o.option_name = 'security_invoker' AND o.option_value::boolean)
$$;

-- The stored query of a view, cut at its braces (PostgreSQL's outfuncs.c writes it). depth counts nested nodes, the query itself being
-- 1; field is the query's field in which a piece stands. A brace or a backslash inside a name has a backslash before it.
CREATE FUNCTION scrim.stored_query(view oid)
RETURNS TABLE (ord int, depth int, field text, opens boolean, piece text)
LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    stored text := (SELECT replace(replace(replace(r.ev_action::text, E'\x01', '?'), '{', E'\x01{'), '}', E'\x01}')
                      FROM pg_rewrite r WHERE r.ev_class = view AND r.rulename = '_RETURN');
    part text;
BEGIN
    ord := 0;
    depth := 0;
    piece := '';
    FOR part IN SELECT s FROM string_to_table(stored || E'\x01', E'\x01') WITH ORDINALITY AS t(s, n) ORDER BY n LOOP
        IF right(piece, 1) = '\' AND (length(piece) - length(rtrim(piece, '\'))) % 2 = 1 THEN
            piece := piece || part;
            CONTINUE;
        END IF;
        IF piece <> '' THEN
            ord := ord + 1;
            opens := left(piece, 1) = '{';
            depth := depth + CASE left(piece, 1) WHEN '{' THEN 1 WHEN '}' THEN -1 ELSE 0 END;
            IF depth = 1 THEN
                field := coalesce(substring(piece FROM '.*:(\w+)'), field);
            END IF;
            RETURN NEXT;
        END IF;
        piece := part;
    END LOOP;
END $$;

-- The relations in the FROM clauses of a view's query itself, by their numbers in it; relid is NULL for what is not a relation.
CREATE FUNCTION scrim.view_tables(view oid) RETURNS TABLE (varno int, relid oid)
LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp AS $$
    WITH q AS MATERIALIZED (SELECT * FROM scrim.stored_query(view)),
    entry AS (SELECT q.ord, lead(q.ord) OVER (ORDER BY q.ord) AS next FROM q WHERE q.depth = 2 AND q.opens AND q.field = 'rtable')
    SELECT row_number() OVER (ORDER BY e.ord)::int,
           (SELECT max(substring(p.piece FROM ':rtekind 0 :relid (\d+)'))::oid FROM q p
             WHERE p.depth = 2 AND p.field = 'rtable' AND p.ord >= e.ord AND p.ord < coalesce(e.next, 2147483647))
      FROM entry e
$$;

-- What a view's columns are made of: a row for each column of a relation that goes into one. source_attnum is 0 where any column of source
-- may, and source is NULL where nothing can be told: of a CTE, a join's alias.
CREATE FUNCTION scrim.view_columns(view oid)
RETURNS TABLE (attnum smallint, source oid, source_attnum smallint)
LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp AS $$
    WITH q AS MATERIALIZED (SELECT * FROM scrim.stored_query(view)),
    combines AS MATERIALIZED (SELECT EXISTS (SELECT 1 FROM q WHERE q.depth = 1 AND q.piece ~ ':setOperations $') AS sets),
    -- The target list, or those of the branches of a UNION; each entry's end tells its number, and what it is a copy of.
    entry AS (
        SELECT q.ord AS last, lag(q.ord, 1, 0) OVER (ORDER BY q.ord) AS before,
               m.found[1]::smallint AS num, nullif(m.found[2], '0')::oid AS origin, m.found[3]::smallint AS origin_num, m.found[4] = 'true' AS junk
          FROM combines CROSS JOIN q CROSS JOIN regexp_match(q.piece, ':resno (\d+) .*:resorigtbl (\d+) :resorigcol (\d+) :resjunk (\w+)') m(found)
         WHERE NOT q.opens AND m.found IS NOT NULL
           AND CASE WHEN combines.sets THEN q.depth = 4 AND q.field = 'rtable' ELSE q.depth = 2 AND q.field = 'targetList' END),
    part AS (
        SELECT e.num, q.ord, q.depth, e.last, q.piece ~ '^\{QUERY ' AS nested, substring(q.piece FROM ':rtekind 0 :relid (\d+)')::oid AS relid,
               regexp_match(q.piece, '^\{VAR :varno (\d+) :varattno (-?\d+) .*:varlevelsup (\d+)') AS var
          FROM entry e JOIN q ON q.ord > e.before AND q.ord <= e.last AND q.depth > 2
         WHERE e.origin IS NULL AND NOT e.junk AND NOT (SELECT c.sets FROM combines c)),
    nested AS MATERIALIZED (  -- the subqueries in them, whose own columns come from their own FROM
        SELECT p.num, p.ord, (SELECT min(x.ord) FROM q x WHERE x.ord > p.ord AND x.depth < p.depth) AS ends FROM part p WHERE p.nested),
    -- What else there is in FROM: functions, subqueries, in PostgreSQL 18 the grouped expressions. Something there may read all that it has.
    other AS MATERIALIZED (
        SELECT n.varno, substring(q.piece FROM ':rtekind 0 :relid (\d+)')::oid AS relid, q.piece ~ ':rtekind (2|6) ' AS opaque, m.found AS var
          FROM (SELECT row_number() OVER (ORDER BY r.ord) AS varno, r.ord, lead(r.ord) OVER (ORDER BY r.ord) AS next FROM q r
                 WHERE r.depth = 2 AND r.opens AND r.field = 'rtable') n
          JOIN q ON q.ord >= n.ord AND q.ord < coalesce(n.next, 2147483647) AND q.field = 'rtable'
          LEFT JOIN LATERAL regexp_match(q.piece, '^\{VAR :varno (\d+) :varattno (-?\d+) .*:varlevelsup (\d+)') m(found)
            ON m.found[3] <> '0' OR NOT EXISTS (SELECT 1 FROM q s WHERE s.ord > n.ord AND s.ord < q.ord AND s.depth < q.depth AND s.piece ~ '^\{QUERY ')
         WHERE NOT (SELECT c.sets FROM combines c)),
    relation AS MATERIALIZED (SELECT * FROM scrim.view_tables(view)),
    made AS (
        SELECT e.num, e.origin AS source, e.origin_num AS source_num FROM entry e WHERE e.origin IS NOT NULL AND NOT e.junk
        UNION ALL  -- computed in a branch
        SELECT e.num, NULL, NULL FROM entry e JOIN q ON q.ord > e.before AND q.ord <= e.last AND q.depth > 4 AND q.piece ~ '^\{(VAR|QUERY) '
         WHERE e.origin IS NULL AND NOT e.junk AND (SELECT c.sets FROM combines c)
        UNION ALL
        SELECT p.num, coalesce(p.relid, t.relid), CASE WHEN p.relid IS NULL THEN p.var[2]::smallint ELSE 0::smallint END
          FROM part p LEFT JOIN relation t ON t.varno = p.var[1]::int
         WHERE p.relid IS NOT NULL
            OR t.relid IS NOT NULL AND (p.var[3] <> '0' OR NOT EXISTS (SELECT 1 FROM nested n WHERE n.num = p.num AND p.ord > n.ord AND p.ord < n.ends))
        UNION ALL
        SELECT p.num, coalesce(o.relid, t.relid), CASE WHEN o.relid IS NOT NULL THEN 0::smallint WHEN t.relid IS NOT NULL THEN o.var[2]::smallint END
          FROM part p JOIN relation f ON f.varno = p.var[1]::int AND f.relid IS NULL
          JOIN other o ON o.varno = f.varno AND (o.relid IS NOT NULL OR o.var IS NOT NULL OR o.opaque)
          LEFT JOIN relation t ON t.varno = o.var[1]::int
        UNION ALL  -- not found at all
        SELECT u.attnum, NULL, NULL FROM pg_attribute u WHERE u.attrelid = view AND u.attnum NOT IN (SELECT e.num FROM entry e))
    SELECT DISTINCT a.attnum, m.source, CASE WHEN m.source IS NOT NULL THEN greatest(m.source_num, 0::smallint) END
      FROM pg_attribute a JOIN made m ON m.num = a.attnum
     WHERE a.attrelid = view AND a.attnum > 0
$$;

-- The same, down to what is no view. (The sources of a materialized view count: it holds copies.)
CREATE FUNCTION scrim.view_roots(view oid)
RETURNS TABLE (attnum smallint, source oid, source_attnum smallint)
LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp AS $$
    WITH RECURSIVE made(attnum, source, num) AS (
        SELECT * FROM scrim.view_columns(view)
        UNION
        SELECT m.attnum, b.source, b.source_attnum
          FROM made m JOIN pg_class c ON c.oid = m.source AND c.relkind IN ('v', 'm'), scrim.view_columns(m.source) b
         WHERE m.num IN (0, b.attnum))
    SELECT m.attnum, m.source, m.num FROM made m LEFT JOIN pg_class c ON c.oid = m.source WHERE c.relkind IS NULL OR c.relkind NOT IN ('v', 'm')
$$;

-- Whether which rows a view has, or their order, or what a window shows, hangs on the columns that its given columns are made of: a condition, a
-- sort, a group, a function in FROM. What subqueries in FROM and the branches of a UNION do by themselves it does not see.
CREATE FUNCTION scrim.view_judges(view oid, nums smallint[]) RETURNS boolean
LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp AS $$
    WITH q AS MATERIALIZED (SELECT * FROM scrim.stored_query(view)),
    made AS MATERIALIZED (SELECT DISTINCT c.source, c.source_attnum AS num FROM scrim.view_columns(view) c WHERE c.attnum = ANY (nums) AND c.source IS NOT NULL),
    entry AS (
        SELECT q.ord AS last, lag(q.ord, 1, 0) OVER (ORDER BY q.ord) AS before,
               m.found[1]::smallint AS num, m.found[2] <> '0' AS sorts, m.found[3] = 'true' AS junk
          FROM q, regexp_match(q.piece, ':resno (\d+) .*:ressortgroupref (\d+) .*:resjunk (\w+)') m(found)
         WHERE NOT q.opens AND m.found IS NOT NULL AND q.depth = 2 AND q.field = 'targetList'),
    part AS (
        SELECT r.ord, lead(r.ord) OVER (ORDER BY r.ord) AS next, (SELECT max(substring(k.piece FROM ':rtekind (\d+) ')) FROM q k
                 WHERE k.depth = 2 AND k.ord >= r.ord AND k.ord < coalesce((SELECT min(n.ord) FROM q n WHERE n.ord > r.ord AND n.depth = 2 AND n.opens), 2147483647)) AS kind
          FROM q r WHERE r.depth = 2 AND r.opens AND r.field = 'rtable'),
    var AS (
        SELECT q.ord, q.field, t.relid, m.found[2]::smallint AS num
          FROM q CROSS JOIN regexp_match(q.piece, '^\{VAR :varno (\d+) :varattno (-?\d+) .*:varlevelsup (\d+)') m(found)
          JOIN scrim.view_tables(view) t ON t.varno = m.found[1]::int
         WHERE m.found IS NOT NULL
           AND (m.found[3] <> '0' OR NOT EXISTS (  -- not a column of a nested query's own
                SELECT 1 FROM q s WHERE s.piece ~ '^\{QUERY ' AND s.depth > 1 AND s.ord < q.ord
                   AND NOT EXISTS (SELECT 1 FROM q x WHERE x.ord > s.ord AND x.ord < q.ord AND x.depth < s.depth))))
    SELECT EXISTS (SELECT 1 FROM entry e WHERE e.sorts AND e.num = ANY (nums))
        OR EXISTS (SELECT 1 FROM q WHERE q.piece ~ '^\{SETOPERATIONSTMT ' AND q.piece !~ '^\{SETOPERATIONSTMT :op 1 :all true ')
        OR EXISTS (SELECT 1 FROM q JOIN made m ON m.source::text = substring(q.piece FROM ':rtekind 0 :relid (\d+)') WHERE q.field NOT IN ('targetList', 'rtable'))
        OR EXISTS (SELECT 1 FROM var v JOIN made m ON m.source = v.relid AND (m.num = v.num OR 0 IN (m.num, v.num))
                    WHERE v.field NOT IN ('targetList', 'rtable')
                       OR EXISTS (SELECT 1 FROM entry e WHERE e.junk AND v.field = 'targetList' AND v.ord > e.before AND v.ord <= e.last)
                       OR EXISTS (SELECT 1 FROM part p WHERE p.kind <> '2' AND v.field = 'rtable' AND v.ord > p.ord AND v.ord < coalesce(p.next, 2147483647)))
$$;

-- The first column of a view that is a copy of each of a relation's columns; NULL if one has no copy.
CREATE FUNCTION scrim.copies(view oid, relation oid, nums smallint[]) RETURNS smallint[]
LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp AS $$
    WITH copy AS (
        SELECT m.found[1]::smallint AS num, m.found[2]::smallint AS of
          FROM scrim.stored_query(view) q,
               regexp_match(q.piece, format(':resno (\d+) .*:resorigtbl %s :resorigcol (\d+) :resjunk false', relation)) m(found)
         WHERE q.depth = 2 AND q.field = 'targetList' AND NOT q.opens AND m.found IS NOT NULL)
    SELECT CASE WHEN NOT 0 = ANY (list) THEN list END
      FROM (SELECT array_agg(coalesce((SELECT min(c.num) FROM copy c WHERE c.of = n.num), 0::smallint) ORDER BY n.ord)
              FROM unnest(nums) WITH ORDINALITY AS n(num, ord)) l(list)
$$;

-- The columns of the relations below a view that its given columns are made of; where that cannot be told, everything it reads.
CREATE FUNCTION scrim.view_sources(view oid, nums smallint[])
RETURNS TABLE (source oid, columns smallint[])
LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp AS $$
    SELECT s.source, array_agg(DISTINCT s.num)
      FROM (SELECT c.source, a.attnum FROM scrim.view_columns(view) c
              JOIN pg_attribute a ON a.attrelid = c.source AND NOT a.attisdropped AND a.attnum > 0 AND c.source_attnum IN (0, a.attnum)
             WHERE c.attnum = ANY (nums)
            UNION ALL
            SELECT d.refobjid, d.refobjsubid::smallint
              FROM pg_rewrite r JOIN pg_depend d ON d.classid = 'pg_rewrite'::regclass AND d.objid = r.oid
             WHERE r.ev_class = view AND d.refclassid = 'pg_class'::regclass AND d.refobjid <> view AND d.refobjsubid > 0
               AND EXISTS (SELECT 1 FROM scrim.view_columns(view) c WHERE c.attnum = ANY (nums) AND c.source IS NULL)) s(source, num)
     GROUP BY s.source
$$;

-- The columns of a view that are copies of a relation's given columns, in their order, if such copies are all that the view makes of them: it
-- does not filter, join, sort or compute by one. Only then does a mask on the copies say everything about them. NULL if it is not so.
CREATE FUNCTION scrim.plain_copies(view oid, relation oid, nums smallint[]) RETURNS smallint[]
LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp AS $$
    WITH q AS MATERIALIZED (SELECT * FROM scrim.stored_query(view)),
    var AS (
        SELECT q.ord, q.depth, q.field, t.relid, v.found[2]::smallint AS num
          FROM q CROSS JOIN regexp_match(q.piece, '^\{VAR :varno (\d+) :varattno (-?\d+) ') v(found)
          LEFT JOIN scrim.view_tables(view) t ON t.varno = v.found[1]::int
         WHERE v.found IS NOT NULL AND q.field <> 'rtable'),
    copy AS (
        SELECT v.ord, v.num, substring(e.piece FROM ':resno (\d+) ')::smallint AS copy
          FROM var v JOIN q e ON e.ord = v.ord + 1  -- what follows the column's node is the end of the target entry
         WHERE v.depth = 3 AND v.field = 'targetList' AND v.relid = relation AND v.num = ANY (nums)
           AND e.depth = 2 AND e.piece ~ ':ressortgroupref 0 .*:resjunk false')
    SELECT (SELECT array_agg(c.copy ORDER BY array_position(nums, c.num), c.copy) FROM copy c)
     WHERE (SELECT count(*) FROM q WHERE q.piece ~ '^\{QUERY ') = 1
       -- A function in FROM can make rows of a column, and what else there is there hides what it reads.
       AND NOT EXISTS (SELECT 1 FROM q WHERE q.depth = 2 AND q.field = 'rtable' AND q.piece ~ ':rtekind [^02] ')
       AND (SELECT count(*) FROM scrim.view_tables(view) t WHERE t.relid = relation) = 1  -- or a row would have values of two
       AND NOT EXISTS (SELECT 1 FROM var v WHERE v.relid IS NULL)
       AND NOT EXISTS (SELECT 1 FROM var v WHERE v.relid = relation AND (v.num = 0 OR v.num = ANY (nums)) AND NOT EXISTS (SELECT 1 FROM copy c WHERE c.ord = v.ord))
$$;

-- The columns of a relation that have unique values by themselves, each with the index that says so: the key of a unique index that has
-- no other (a partial one too, and one on an expression of that column alone). Of a view, the columns that are made of such a one.
CREATE FUNCTION scrim.identifying(relation oid) RETURNS TABLE (num smallint, oid oid)
LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    RETURN QUERY
        SELECT i.indkey[0], i.indexrelid FROM pg_index i
         WHERE i.indrelid = relation AND i.indisunique AND i.indnkeyatts = 1 AND i.indkey[0] > 0;
    RETURN QUERY  -- what an expression reads; a condition of the index would be among it
        SELECT d.refobjsubid::smallint, i.indexrelid
          FROM pg_index i JOIN pg_depend d ON d.classid = 'pg_class'::regclass AND d.objid = i.indexrelid
         WHERE i.indrelid = relation AND i.indisunique AND i.indnkeyatts = 1 AND i.indkey[0] = 0 AND i.indpred IS NULL
           AND d.refclassid = 'pg_class'::regclass AND d.refobjid = relation AND d.refobjsubid > 0
           AND NOT d.refobjsubid = ANY (i.indkey::smallint[])
           AND 1 = (SELECT count(DISTINCT o.refobjsubid) FROM pg_depend o
                     WHERE o.classid = 'pg_class'::regclass AND o.objid = i.indexrelid AND o.refclassid = 'pg_class'::regclass AND o.refobjid = relation
                       AND o.refobjsubid > 0 AND NOT o.refobjsubid = ANY (i.indkey::smallint[]));
    IF (SELECT c.relkind IN ('v', 'm') FROM pg_class c WHERE c.oid = relation) THEN
        RETURN QUERY
            SELECT v.attnum, below.oid
              FROM scrim.view_columns(relation) v, scrim.identifying(v.source) below
             WHERE below.num = v.source_attnum;
    END IF;
END $$;

-- The columns of a view whose expressions have a cast or a function: these can raise an error that prints their argument. 0 if there is a
-- cast by input and output functions in its FROM, WHERE or subqueries.
CREATE FUNCTION scrim.may_print(view oid) RETURNS SETOF smallint
LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp AS $$
    WITH q AS MATERIALIZED (SELECT * FROM scrim.stored_query(view)),
    entry AS (
        SELECT q.ord AS last, lag(q.ord, 1, 0) OVER (ORDER BY q.ord) AS before, m.found[1]::smallint AS num
          FROM q, regexp_match(q.piece, ':resno (\d+) ') m(found)
         WHERE q.depth = 2 AND q.field = 'targetList' AND NOT q.opens AND m.found IS NOT NULL)
    SELECT e.num FROM entry e WHERE EXISTS (
        SELECT 1 FROM q WHERE q.ord > e.before AND q.ord < e.last AND q.field = 'targetList' AND q.piece ~ '^\{(COERCEVIAIO|ARRAYCOERCEEXPR|FUNCEXPR) ')
    UNION
    SELECT 0::smallint FROM q WHERE q.field <> 'targetList' AND q.piece ~ '^\{COERCEVIAIO '
$$;
