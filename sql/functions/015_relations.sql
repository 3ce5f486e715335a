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

-- The stored query of a view, cut at its braces (PostgreSQL's outfuncs.c writes it). depth counts nested nodes, the query itself being
-- 1; field is the query's field in which a piece stands. A brace inside a name has a backslash before it.
CREATE FUNCTION scrim.stored_query(view oid)
RETURNS TABLE (ord int, depth int, field text, opens boolean, piece text)
LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    stored text := (SELECT replace(replace(r.ev_action::text, '{', E'\x01{'), '}', E'\x01}') FROM pg_rewrite r WHERE r.ev_class = view AND r.rulename = '_RETURN');
    part text;
BEGIN
    ord := 0;
    depth := 0;
    piece := '';
    FOR part IN SELECT s FROM string_to_table(stored || E'\x01', E'\x01') WITH ORDINALITY AS t(s, n) ORDER BY n LOOP
        IF right(piece, 1) = '\' THEN
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

-- What a view's columns are made of: a row for each column of a relation that goes into one. source is NULL where that cannot be told:
-- of a UNION, a subquery, a group.
CREATE FUNCTION scrim.view_columns(view oid)
RETURNS TABLE (attnum smallint, source oid, source_attnum smallint)
LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp AS $$
    WITH q AS MATERIALIZED (SELECT * FROM scrim.stored_query(view)),
    entry AS (  -- the target list; each entry's end tells its number, and what it is a copy of
        SELECT q.ord AS last, lag(q.ord, 1, 0) OVER (ORDER BY q.ord) AS before,
               m.found[1]::smallint AS num, nullif(m.found[2], '0')::oid AS origin, m.found[3]::smallint AS origin_num
          FROM q, regexp_match(q.piece, ':resno (\d+) .*:resorigtbl (\d+) :resorigcol (\d+) :resjunk false') m(found)
         WHERE q.depth = 2 AND q.field = 'targetList' AND NOT q.opens AND m.found IS NOT NULL),
    part AS (
        SELECT e.num, e.origin, e.origin_num, q.piece ~ '^\{QUERY ' AS nested,
               regexp_match(q.piece, '^\{VAR :varno (\d+) :varattno (-?\d+) ') AS var
          FROM entry e JOIN q ON q.ord > e.before AND q.ord <= e.last AND q.field = 'targetList' AND q.depth > 2)
    SELECT DISTINCT a.attnum, s.source, s.num
      FROM pg_attribute a
      JOIN (SELECT e.num, e.origin, e.origin_num FROM entry e WHERE e.origin IS NOT NULL
            UNION ALL
            SELECT p.num, t.relid, CASE WHEN t.relid IS NOT NULL THEN p.var[2]::smallint END
              FROM part p LEFT JOIN scrim.view_tables(view) t ON t.varno = p.var[1]::int
             WHERE p.origin IS NULL AND (p.nested OR p.var IS NOT NULL)
            UNION ALL
            SELECT u.attnum, NULL, NULL FROM pg_attribute u
             WHERE u.attrelid = view AND EXISTS (SELECT 1 FROM q WHERE q.depth = 1 AND q.piece ~ ':setOperations $')) s(made, source, num)
        ON s.made = a.attnum
     WHERE a.attrelid = view AND a.attnum > 0
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
      FROM (SELECT c.source, c.source_attnum FROM scrim.view_columns(view) c WHERE c.attnum = ANY (nums) AND c.source IS NOT NULL
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
