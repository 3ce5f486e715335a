-- Made by TestUpgrade -rewrite, of schema version 9: what Scrim had made for upgradePolicies.
-- Schema scrim_runtime: run at every `scrim init`; never drops anything.
CREATE SCHEMA IF NOT EXISTS scrim_runtime;
GRANT USAGE ON SCHEMA scrim_runtime TO PUBLIC;

-- The two functions that follow look at catalogs and are declared IMMUTABLE all the same: with constant arguments the planner
-- calls them once for each plan, and a plan that is kept costs nothing. What they look at (columns, column privileges and row
-- security of the table, search_path) is what PostgreSQL itself throws kept plans away for, since the table is in them.
-- Roles that gain or lose a membership are checked by the view's own grants at each execution.

-- Called for each plan over a masked view, as the role that runs it. The view has grants of its own: whoever may read
-- a column of it must still have SELECT on the table's, or a REVOKE on the table would not revoke. Row security that was
-- switched on later would be judged by the view owner's rights, so it is refused. alone says that a row's place is all that its seal and
-- its code are known by: a table that has children by now has several rows in one place. Rows of foreign parts have none. Raises, or returns true.
CREATE OR REPLACE FUNCTION scrim_runtime.still_granted(relation oid, masked_view text, open_columns int2[], row_security boolean, alone boolean) RETURNS boolean
LANGUAGE plpgsql IMMUTABLE PARALLEL SAFE SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    IF NOT row_security AND (SELECT c.relrowsecurity FROM pg_class c WHERE c.oid = relation) THEN
        RAISE EXCEPTION 'masked columns of % cannot be read while it has row security', relation::regclass USING ERRCODE = 'feature_not_supported',
            HINT = 'Drop the masking policy and make it again.';
    END IF;
    IF alone AND EXISTS (SELECT 1 FROM pg_inherits i WHERE i.inhparent = relation) THEN
        RAISE EXCEPTION 'masked columns of % cannot be read: it has children that it had not when the masking policy was made', relation::regclass
            USING ERRCODE = 'feature_not_supported', HINT = 'Drop the masking policy and make it again.';
    END IF;
    IF NOT alone AND EXISTS (WITH RECURSIVE member(oid) AS (SELECT relation UNION SELECT i.inhrelid FROM member m JOIN pg_inherits i ON i.inhparent = m.oid)
                             SELECT 1 FROM member m JOIN pg_class c ON c.oid = m.oid WHERE c.relkind = 'f' AND c.oid <> relation) THEN
        RAISE EXCEPTION 'masked columns of % cannot be read: a foreign table is a part of it by now', relation::regclass
            USING ERRCODE = 'feature_not_supported', HINT = 'Detach it: its rows have no place by which their codes could be found.';
    END IF;
    IF NOT has_any_column_privilege(relation, 'SELECT') OR EXISTS (
        SELECT 1 FROM unnest(open_columns) WITH ORDINALITY AS o(num, ord)
         WHERE has_column_privilege(relation, o.num, 'SELECT') IS FALSE
           AND has_column_privilege('scrim_runtime.' || quote_ident(masked_view), o.ord::int2, 'SELECT')) THEN
        RAISE EXCEPTION 'permission denied for table %', relation::regclass USING ERRCODE = 'insufficient_privilege',
            HINT = 'A privilege was revoked after the masking policy was made.';
    END IF;
    RETURN true;
END $$;

-- The two that follow stand in the masked views of feature views. Those are everybody's to read, so that a feature view needs no grants of its
-- own: whoever may read, on the table itself, the columns that stand beside the codes sees codes. Each raises, or returns true. This one is
-- asked at each execution, since no kept plan is thrown away when a role loses a membership ...
CREATE OR REPLACE FUNCTION scrim_runtime.reads_columns(relation oid, columns int2[]) RETURNS boolean
LANGUAGE plpgsql STABLE PARALLEL SAFE SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    IF NOT has_any_column_privilege(relation, 'SELECT') OR EXISTS (
        SELECT 1 FROM unnest(columns) c(num) WHERE has_column_privilege(relation, c.num, 'SELECT') IS NOT TRUE) THEN
        RAISE EXCEPTION 'permission denied for table %', (SELECT c.relname FROM pg_class c WHERE c.oid = relation) USING ERRCODE = 'insufficient_privilege',
            HINT = 'A feature view shows codes to those who may read its other columns in the table.';
    END IF;
    RETURN true;
END $$;

-- ... and this one for each plan, before the planner looks at statistics of the columns: it would show them to operators of the client's.
CREATE OR REPLACE FUNCTION scrim_runtime.still_featured(relation oid, columns int2[]) RETURNS boolean
LANGUAGE plpgsql IMMUTABLE PARALLEL SAFE SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    IF (SELECT c.relrowsecurity FROM pg_class c WHERE c.oid = relation) THEN
        RAISE EXCEPTION 'a feature view of % cannot be read while that has row security', relation::regclass USING ERRCODE = 'feature_not_supported',
            HINT = 'A masking policy shows codes under row security.';
    END IF;
    RETURN scrim_runtime.reads_columns(relation, columns);
END $$;

-- Put by the proxy into every statement that it rewrites: the name that the client wrote must still mean the relation,
-- with the columns, that the plan was made for. search_path may have moved since, by ways no parser sees. It has no SET
-- search_path, since the caller's is what it asks about; everything in it is qualified. The words make drivers prepare anew.
CREATE OR REPLACE FUNCTION scrim_runtime.still_means(name text, relation oid, columns text[]) RETURNS boolean
LANGUAGE plpgsql IMMUTABLE PARALLEL SAFE AS $$
BEGIN
    IF pg_catalog.to_regclass(name)::pg_catalog.oid OPERATOR(pg_catalog.=) relation
       AND ARRAY(SELECT a.attname::pg_catalog.text FROM pg_catalog.pg_attribute a
                  WHERE a.attrelid OPERATOR(pg_catalog.=) relation AND a.attnum OPERATOR(pg_catalog.>) 0::pg_catalog.int2 AND NOT a.attisdropped
                  ORDER BY a.attnum) OPERATOR(pg_catalog.=) columns THEN
        RETURN true;
    END IF;
    RAISE EXCEPTION 'cached plan must not change result type' USING ERRCODE = 'feature_not_supported',
        DETAIL = pg_catalog.format('%s is no longer the table it was when the statement was planned.', name), HINT = 'Run the statement again.';
END $$;

-- The query of a view that runs with the invoker's rights; NULL for everything else, and for one too long to be planned. The proxy puts it in the place of the
-- view where a masked role reads it. It means the same wherever it is read: what is not in pg_catalog is qualified, but for
-- what is temporary, and values are printed so that no setting matters.
CREATE OR REPLACE FUNCTION scrim_runtime.view_query(view oid) RETURNS text
LANGUAGE sql STABLE PARALLEL SAFE SET search_path = pg_catalog, pg_temp SET DateStyle = 'ISO' SET IntervalStyle = 'postgres' SET TimeZone = 'UTC'
SET extra_float_digits = 3 SET bytea_output = 'hex' AS $$
    SELECT d.query FROM (
        SELECT pg_get_viewdef(c.oid) AS query FROM pg_class c
         WHERE c.oid = view AND c.relkind = 'v'
           AND EXISTS (SELECT FROM pg_options_to_table(c.reloptions) o WHERE o.option_name = 'security_invoker' AND o.option_value::boolean)
        OFFSET 0) d -- once
     WHERE octet_length(d.query) <= 1048576
$$;

-- Put by the proxy beside the query of a view: the name that the client wrote must still mean the view, the view the query, and
-- the role that runs the statement must have the privileges that PostgreSQL would want of it on the view itself. The query has
-- names of pg_catalog without their schema, so this must come first for them. IMMUTABLE as still_means is: since the view is an
-- argument of type regclass, PostgreSQL throws kept plans away when it is replaced, altered or dropped, or its grants change. (Of roles
-- that gain or lose a membership the privileges on the tables below are checked at each execution.)
CREATE OR REPLACE FUNCTION scrim_runtime.still_views(name text, view regclass, hash bigint, columns text[], locks boolean) RETURNS boolean
LANGUAGE plpgsql IMMUTABLE PARALLEL SAFE AS $$
BEGIN
    IF (SELECT s.schema FROM pg_catalog.unnest(pg_catalog.current_schemas(true)) WITH ORDINALITY AS s(schema, ord)
         WHERE s.schema OPERATOR(pg_catalog.!~~) 'pg\_temp\_%' ORDER BY s.ord LIMIT 1) OPERATOR(pg_catalog.<>) 'pg_catalog' THEN
        RAISE EXCEPTION 'view % reads masked columns, which is not supported while pg_catalog is not first in search_path', name
            USING ERRCODE = 'feature_not_supported', HINT = 'Leave pg_catalog out of search_path.';
    END IF;
    IF (pg_catalog.to_regclass(name)::pg_catalog.oid OPERATOR(pg_catalog.=) view::pg_catalog.oid
        AND pg_catalog.hashtextextended(scrim_runtime.view_query(view), 0) OPERATOR(pg_catalog.=) hash) IS NOT TRUE THEN
        RAISE EXCEPTION 'cached plan must not change result type' USING ERRCODE = 'feature_not_supported',
            DETAIL = pg_catalog.format('%s is no longer the view it was when the statement was planned.', name), HINT = 'Run the statement again.';
    END IF;
    IF NOT pg_catalog.has_any_column_privilege(view, 'SELECT') OR locks AND NOT pg_catalog.has_any_column_privilege(view, 'UPDATE')
       OR EXISTS (SELECT FROM pg_catalog.unnest(columns) AS c(name) WHERE pg_catalog.has_column_privilege(view, c.name, 'SELECT') IS NOT TRUE) THEN
        RAISE EXCEPTION 'permission denied for view %', (SELECT c.relname FROM pg_catalog.pg_class c WHERE c.oid OPERATOR(pg_catalog.=) view)
            USING ERRCODE = 'insufficient_privilege';
    END IF;
    RETURN true;
END $$;

-- In the place of a code that is missing: the row has changed since its code was listed, and the statement cannot tell.
-- The argument keeps the planner from evaluating it.
CREATE OR REPLACE FUNCTION scrim_runtime.no_code(row_id tid) RETURNS double precision
LANGUAGE plpgsql STABLE PARALLEL SAFE COST 1 AS $$
BEGIN
    RAISE EXCEPTION 'could not serialize access due to concurrent update' USING ERRCODE = 'serialization_failure',
        DETAIL = 'A row of a protected table changed while its codes were computed.', HINT = 'Run the transaction again.';
END $$;

CREATE OR REPLACE FUNCTION scrim_runtime.no_codes(row_id tid) RETURNS real[]
LANGUAGE plpgsql STABLE PARALLEL SAFE COST 1 AS $$
BEGIN
    PERFORM scrim_runtime.no_code(row_id);
END $$;

-- Put by the proxy before a list of rows that have no place, where the statement reads other relations too: in READ COMMITTED
-- those would be read at another moment than the list, and nothing could tell. Raises, or returns true. The list is planned anew each time, so
-- that IMMUTABLE asks each time too.
CREATE OR REPLACE FUNCTION scrim_runtime.one_snapshot(relation oid) RETURNS boolean
LANGUAGE plpgsql IMMUTABLE PARALLEL SAFE SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    IF current_setting('transaction_isolation') = 'read committed' THEN
        RAISE EXCEPTION 'masked columns of % cannot be computed with beside other relations in a transaction of READ COMMITTED', relation::regclass
            USING ERRCODE = 'feature_not_supported', HINT = 'BEGIN ISOLATION LEVEL REPEATABLE READ, or run the statement outside of a transaction block.';
    END IF;
    RETURN true;
END $$;

-- Asked by the proxy right before it uses a prepared statement or a cursor by name, and will open the seals that come: a
-- function of the client's can have given the name to another statement since, and the codes of any seals that the
-- client has would be shown, of rows that row security hides too. They raise if the text is not what the proxy sent, and
-- return false. A text with a backslash can be read in two ways (standard_conforming_strings), unless it came by the
-- protocol, which no function can send. Input of a domain runs functions of the client's, after this: it is refused.
CREATE OR REPLACE FUNCTION scrim_runtime.still_prepared(statement_name text, text_sent text) RETURNS boolean
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    there record;
BEGIN
    SELECT s.statement, s.from_sql, s.parameter_types::oid[] AS types INTO there FROM pg_prepared_statements s WHERE s.name = statement_name;
    -- A pooler gives names of its own. What a function has put under one of those was made by SQL.
    IF NOT FOUND AND EXISTS (SELECT 1 FROM pg_prepared_statements s WHERE s.from_sql)
       OR there.statement <> text_sent OR there.from_sql AND strpos(text_sent, E'\\') > 0 THEN
        RAISE EXCEPTION 'cached plan must not change result type' USING ERRCODE = 'feature_not_supported',
            DETAIL = format('Prepared statement "%s" is not what it was when it was planned.', statement_name), HINT = 'Prepare it again.';
    END IF;
    IF 16384 <= ANY (there.types) AND EXISTS (SELECT 1 FROM pg_type t LEFT JOIN pg_type e ON e.oid = t.typelem AND t.typcategory = 'A'
                                               WHERE t.oid = ANY (there.types) AND t.oid >= 16384 AND coalesce(e.typtype, t.typtype) NOT IN ('b', 'e')) THEN
        RAISE EXCEPTION 'a prepared statement that shows masked columns has a parameter of a domain, composite type or range'
            USING ERRCODE = 'feature_not_supported', HINT = 'Give the parameter a base type, or do not prepare the statement.';
    END IF;
    RETURN false;
END $$;

CREATE OR REPLACE FUNCTION scrim_runtime.still_declared(cursor_name text, text_sent text) RETURNS boolean
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    IF strpos(text_sent, E'\\') > 0 THEN
        RAISE EXCEPTION 'a portal with a name cannot show masked columns if its statement has a backslash' USING ERRCODE = 'feature_not_supported',
            HINT = 'Fetch all rows at once, declare a cursor, or write chr(92).';
    END IF;
    IF EXISTS (SELECT 1 FROM pg_cursors c WHERE c.name = cursor_name AND c.statement <> text_sent) THEN
        RAISE EXCEPTION 'cached plan must not change result type' USING ERRCODE = 'feature_not_supported',
            DETAIL = format('Cursor "%s" is not what it was when it was planned.', cursor_name), HINT = 'Declare it again.';
    END IF;
    RETURN false;
END $$;

-- Asked by the proxy right before it sends a text that gives seals, if the server could read it otherwise than the proxy did: one
-- with a backslash depends on standard_conforming_strings, one that is not ASCII on client_encoding too, and a function or a
-- message on its way can have changed these. Raises, or returns false.
CREATE OR REPLACE FUNCTION scrim_runtime.still_read(not_ascii boolean) RETURNS boolean
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    IF current_setting('standard_conforming_strings') <> 'on' OR not_ascii AND current_setting('client_encoding') <> 'UTF8' THEN
        RAISE EXCEPTION 'cached plan must not change result type' USING ERRCODE = 'feature_not_supported',
            DETAIL = 'client_encoding or standard_conforming_strings was changed while the statement was planned.', HINT = 'Run the statement again.';
    END IF;
    RETURN false;
END $$;

-- All that a masked view asks while its policy is disabled, or its table suspended. Raises, when a statement over it is planned.
CREATE OR REPLACE FUNCTION scrim_runtime.masks_closed(policy_name text, relation oid, suspended boolean) RETURNS boolean
LANGUAGE plpgsql IMMUTABLE PARALLEL SAFE SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    IF suspended THEN
        RAISE EXCEPTION 'masked columns of % cannot be read while they are suspended', relation::regclass USING ERRCODE = 'insufficient_privilege',
            HINT = format('The table is being changed. SELECT scrim.resume(%L) ends that.', relation::regclass);
    END IF;
    RAISE EXCEPTION 'masking policy "%" on % is disabled', policy_name, relation::regclass USING ERRCODE = 'insufficient_privilege',
        HINT = format('ALTER MASKING POLICY %I ON %s ENABLE.', policy_name, relation::regclass);
END $$;
-- The opaque sealed type: bytes without operators, casts or text output, so that every misuse is an error of
-- PostgreSQL's own (output raises; ask for binary). COST 100 makes the planner seal above a Sort, not below it.
-- CREATE TYPE and a C function need a superuser, once.
CREATE FUNCTION pg_temp.scrim_make_seal() RETURNS void LANGUAGE plpgsql AS $make$
BEGIN
    IF to_regtype('scrim_runtime.sealed') IS NULL THEN
        CREATE TYPE scrim_runtime.sealed;
        CREATE FUNCTION scrim_runtime.sealed_in(cstring) RETURNS scrim_runtime.sealed
            LANGUAGE internal IMMUTABLE STRICT PARALLEL SAFE AS 'anyelement_in';
        CREATE FUNCTION scrim_runtime.sealed_out(scrim_runtime.sealed) RETURNS cstring
            LANGUAGE internal IMMUTABLE STRICT PARALLEL SAFE AS 'anyelement_out';
        CREATE FUNCTION scrim_runtime.sealed_send(scrim_runtime.sealed) RETURNS bytea
            LANGUAGE internal IMMUTABLE STRICT PARALLEL SAFE AS 'byteasend';
        CREATE TYPE scrim_runtime.sealed (
            INPUT = scrim_runtime.sealed_in, OUTPUT = scrim_runtime.sealed_out,
            SEND = scrim_runtime.sealed_send, LIKE = bytea);
        -- The server calls these by itself; nobody else needs to.
        REVOKE EXECUTE ON FUNCTION scrim_runtime.sealed_in(cstring), scrim_runtime.sealed_out(scrim_runtime.sealed),
            scrim_runtime.sealed_send(scrim_runtime.sealed) FROM PUBLIC;
        COMMENT ON TYPE scrim_runtime.sealed IS 'Masked inputs, encrypted: only the Scrim proxy can open them.';
        -- Views check functions as the invoker, so masked roles must be able to call it. They can mint values under
        -- keys of their own; the proxy's proof of provenance and its key keep those out.
        CREATE FUNCTION scrim_runtime.seal(bytea, bytea, text) RETURNS scrim_runtime.sealed
            LANGUAGE c IMMUTABLE STRICT PARALLEL SAFE COST 100 AS '$libdir/pgcrypto', 'pg_encrypt';
    END IF;
    -- Random bytes for the seals of rows that have no place. Not VOLATILE, or the planner would not flatten the masked view.
    CREATE OR REPLACE FUNCTION scrim_runtime.nonce() RETURNS uuid LANGUAGE internal STABLE PARALLEL SAFE AS 'gen_random_uuid';
END $make$;
SET LOCAL client_min_messages = error;  -- "argument type is only a shell" is how a base type begins
SELECT pg_temp.scrim_make_seal();
RESET client_min_messages;
DROP FUNCTION pg_temp.scrim_make_seal();
-- next
CREATE ROLE scrim_owner_{role {owner}} NOLOGIN BYPASSRLS;
CREATE TABLE scrim_state.key_{role {owner}} (only_row boolean PRIMARY KEY DEFAULT true CHECK (only_row), key bytea NOT NULL CHECK (octet_length(key) = 16));
INSERT INTO scrim_state.key_{role {owner}} (key) VALUES ('\x000102030405060708090a0b0c0d0e0f');
REVOKE ALL ON scrim_state.key_{role {owner}} FROM PUBLIC;
GRANT SELECT ON scrim_state.key_{role {owner}} TO scrim_owner_{role {owner}};
-- next
CREATE VIEW scrim_runtime.high_{rel public.high}_3 AS  SELECT t.id,
    t.region,
    t.vip,
    t."Note",
    scrim_runtime.seal(record_send(ROW(( SELECT pg_relation_filenode(({rel public.high})::regclass) AS pg_relation_filenode), t.ctid, t.xmin, 3, COALESCE((t.age)::double precision, (0)::double precision), COALESCE((t.income)::double precision, (0)::double precision), COALESCE(t.score, (0)::double precision), COALESCE(((t.vip)::integer)::double precision, (0)::double precision), (((
        CASE
            WHEN (t.age IS NULL) THEN (1)::bigint
            ELSE (0)::bigint
        END +
        CASE
            WHEN (t.income IS NULL) THEN (2)::bigint
            ELSE (0)::bigint
        END) +
        CASE
            WHEN (t.score IS NULL) THEN (4)::bigint
            ELSE (0)::bigint
        END) +
        CASE
            WHEN (t.vip IS NULL) THEN (8)::bigint
            ELSE (0)::bigint
        END))), ( SELECT k.key
           FROM scrim_state.key_{role {owner}} k
          WHERE k.only_row), 'aes-cbc/pad:pkcs'::text) AS sealed_3,
    t.ctid,
    t.xmin
   FROM public.high t
  WHERE scrim_runtime.still_granted(({rel public.high})::oid, 'high_{rel public.high}_3'::text, '{1,2,6,7}'::smallint[], false, true);
ALTER VIEW scrim_runtime.high_{rel public.high}_3 OWNER TO scrim_owner_{role {owner}};
CREATE VIEW scrim_runtime.low_{rel public.low}_2 AS  SELECT t.id,
    t.region,
    t.vip,
    t."Note",
    scrim_runtime.seal(record_send(ROW(( SELECT pg_relation_filenode(({rel public.low})::regclass) AS pg_relation_filenode), t.ctid, t.xmin, 2, COALESCE((t.age)::double precision, (0)::double precision), COALESCE((t.income)::double precision, (0)::double precision), COALESCE(t.score, (0)::double precision), COALESCE(((t.vip)::integer)::double precision, (0)::double precision), (((
        CASE
            WHEN (t.age IS NULL) THEN (1)::bigint
            ELSE (0)::bigint
        END +
        CASE
            WHEN (t.income IS NULL) THEN (2)::bigint
            ELSE (0)::bigint
        END) +
        CASE
            WHEN (t.score IS NULL) THEN (4)::bigint
            ELSE (0)::bigint
        END) +
        CASE
            WHEN (t.vip IS NULL) THEN (8)::bigint
            ELSE (0)::bigint
        END))), ( SELECT k.key
           FROM scrim_state.key_{role {owner}} k
          WHERE k.only_row), 'aes-cbc/pad:pkcs'::text) AS sealed_2,
    t.ctid,
    t.xmin
   FROM public.low t
  WHERE scrim_runtime.still_granted(({rel public.low})::oid, 'low_{rel public.low}_2'::text, '{1,2,6,7}'::smallint[], false, true);
ALTER VIEW scrim_runtime.low_{rel public.low}_2 OWNER TO scrim_owner_{role {owner}};
CREATE VIEW scrim_runtime.parts_{rel public.parts}_1 AS  SELECT t.id,
    t.region,
    t.vip,
    t."Note",
    scrim_runtime.seal(record_send(ROW(pg_relation_filenode((t.tableoid)::regclass), t.tableoid, t.ctid, t.xmin, 1, COALESCE((t.age)::double precision, (0)::double precision), COALESCE((t.income)::double precision, (0)::double precision), COALESCE(t.score, (0)::double precision), COALESCE(((t.vip)::integer)::double precision, (0)::double precision), (((
        CASE
            WHEN (t.age IS NULL) THEN (1)::bigint
            ELSE (0)::bigint
        END +
        CASE
            WHEN (t.income IS NULL) THEN (2)::bigint
            ELSE (0)::bigint
        END) +
        CASE
            WHEN (t.score IS NULL) THEN (4)::bigint
            ELSE (0)::bigint
        END) +
        CASE
            WHEN (t.vip IS NULL) THEN (8)::bigint
            ELSE (0)::bigint
        END))), ( SELECT k.key
           FROM scrim_state.key_{role {owner}} k
          WHERE k.only_row), 'aes-cbc/pad:pkcs'::text) AS sealed_1,
    t.ctid,
    t.xmin,
    t.tableoid
   FROM public.parts t
  WHERE scrim_runtime.still_granted(({rel public.parts})::oid, 'parts_{rel public.parts}_1'::text, '{1,2,6,7}'::smallint[], false, false);
ALTER VIEW scrim_runtime.parts_{rel public.parts}_1 OWNER TO scrim_owner_{role {owner}};
CREATE VIEW scrim_runtime.quiet_{rel public.quiet}_5 AS  SELECT NULL::integer AS id,
    (NULL::text COLLATE "default") AS region,
    NULL::numeric(12,2) AS income,
    NULL::double precision AS score,
    NULL::boolean AS vip,
    (NULL::text COLLATE "default") AS "Note",
    NULL::scrim_runtime.sealed AS sealed_5,
    NULL::tid AS ctid,
    NULL::xid AS xmin
  WHERE scrim_runtime.masks_closed('q'::text, ({rel public.quiet})::oid, false);
ALTER VIEW scrim_runtime.quiet_{rel public.quiet}_5 OWNER TO scrim_owner_{role {owner}};
CREATE VIEW scrim_runtime.secured_{rel public.secured}_4 AS  SELECT scrim_runtime.seal(record_send(ROW(( SELECT pg_relation_filenode(({rel public.secured})::regclass) AS pg_relation_filenode), t.ctid, t.xmin, 4, COALESCE((t.age)::double precision, (0)::double precision), COALESCE((t.income)::double precision, (0)::double precision), COALESCE(t.score, (0)::double precision), COALESCE(((t.vip)::integer)::double precision, (0)::double precision), (((
        CASE
            WHEN (t.age IS NULL) THEN (1)::bigint
            ELSE (0)::bigint
        END +
        CASE
            WHEN (t.income IS NULL) THEN (2)::bigint
            ELSE (0)::bigint
        END) +
        CASE
            WHEN (t.score IS NULL) THEN (4)::bigint
            ELSE (0)::bigint
        END) +
        CASE
            WHEN (t.vip IS NULL) THEN (8)::bigint
            ELSE (0)::bigint
        END))), ( SELECT k.key
           FROM scrim_state.key_{role {owner}} k
          WHERE k.only_row), 'aes-cbc/pad:pkcs'::text) AS sealed_4,
    t.ctid,
    t.xmin
   FROM public.secured t
  WHERE scrim_runtime.still_granted(({rel public.secured})::oid, 'secured_{rel public.secured}_4'::text, '{}'::smallint[], true, true);
ALTER VIEW scrim_runtime.secured_{rel public.secured}_4 OWNER TO scrim_owner_{role {owner}};
-- next
REVOKE ALL ON public.high FROM PUBLIC, analyst, risk, guest;
REVOKE ALL ON public.low FROM PUBLIC, analyst, risk, guest;
REVOKE ALL ON public.parts FROM PUBLIC, analyst, risk, guest;
REVOKE ALL ON public.quiet FROM PUBLIC, analyst, risk, guest;
REVOKE ALL ON public.secured FROM PUBLIC, analyst, risk, guest;
REVOKE ALL ON scrim_runtime.high_{rel public.high}_3 FROM PUBLIC, analyst, risk, guest;
REVOKE ALL ON scrim_runtime.low_{rel public.low}_2 FROM PUBLIC, analyst, risk, guest;
REVOKE ALL ON scrim_runtime.parts_{rel public.parts}_1 FROM PUBLIC, analyst, risk, guest;
REVOKE ALL ON scrim_runtime.quiet_{rel public.quiet}_5 FROM PUBLIC, analyst, risk, guest;
REVOKE ALL ON scrim_runtime.secured_{rel public.secured}_4 FROM PUBLIC, analyst, risk, guest;
GRANT SELECT  ON public.high TO scrim_owner_{role {owner}};
GRANT SELECT  ON public.low TO scrim_owner_{role {owner}};
GRANT SELECT  ON public.parts TO risk;
GRANT SELECT  ON public.parts TO scrim_owner_{role {owner}};
GRANT SELECT  ON public.quiet TO risk;
GRANT SELECT  ON public.quiet TO scrim_owner_{role {owner}};
GRANT SELECT  ON public.secured TO risk;
GRANT SELECT  ON public.secured TO scrim_owner_{role {owner}};
GRANT SELECT  ON scrim_runtime.parts_{rel public.parts}_1 TO analyst;
GRANT SELECT  ON scrim_runtime.quiet_{rel public.quiet}_5 TO analyst;
GRANT SELECT  ON scrim_runtime.secured_{rel public.secured}_4 TO analyst;
GRANT SELECT  ON scrim_runtime.secured_{rel public.secured}_4 TO guest;
GRANT SELECT ("Note") ON public.parts TO analyst;
GRANT SELECT ("Note") ON public.quiet TO analyst;
GRANT SELECT ("Note") ON public.secured TO analyst;
GRANT SELECT ("Note") ON public.secured TO guest WITH GRANT OPTION;
GRANT SELECT (age) ON public.secured TO analyst;
GRANT SELECT (age) ON public.secured TO guest WITH GRANT OPTION;
GRANT SELECT (cmax) ON public.parts TO analyst;
GRANT SELECT (cmax) ON public.quiet TO analyst;
GRANT SELECT (cmax) ON public.secured TO analyst;
GRANT SELECT (cmax) ON public.secured TO guest WITH GRANT OPTION;
GRANT SELECT (cmin) ON public.parts TO analyst;
GRANT SELECT (cmin) ON public.quiet TO analyst;
GRANT SELECT (cmin) ON public.secured TO analyst;
GRANT SELECT (cmin) ON public.secured TO guest WITH GRANT OPTION;
GRANT SELECT (ctid) ON public.low TO guest;
GRANT SELECT (ctid) ON public.parts TO analyst;
GRANT SELECT (ctid) ON public.quiet TO analyst;
GRANT SELECT (ctid) ON public.secured TO analyst;
GRANT SELECT (ctid) ON public.secured TO guest WITH GRANT OPTION;
GRANT SELECT (ctid) ON scrim_runtime.low_{rel public.low}_2 TO guest;
GRANT SELECT (id) ON public.low TO guest WITH GRANT OPTION;
GRANT SELECT (id) ON public.parts TO analyst;
GRANT SELECT (id) ON public.quiet TO analyst;
GRANT SELECT (id) ON public.secured TO analyst;
GRANT SELECT (id) ON public.secured TO guest WITH GRANT OPTION;
GRANT SELECT (id) ON scrim_runtime.low_{rel public.low}_2 TO guest;
GRANT SELECT (income) ON public.quiet TO analyst;
GRANT SELECT (region) ON public.parts TO analyst;
GRANT SELECT (region) ON public.quiet TO analyst;
GRANT SELECT (region) ON public.secured TO analyst;
GRANT SELECT (region) ON public.secured TO guest WITH GRANT OPTION;
GRANT SELECT (score) ON public.quiet TO analyst;
GRANT SELECT (score) ON public.secured TO analyst;
GRANT SELECT (score) ON public.secured TO guest WITH GRANT OPTION;
GRANT SELECT (sealed_2) ON scrim_runtime.low_{rel public.low}_2 TO guest;
GRANT SELECT (tableoid) ON public.parts TO analyst;
GRANT SELECT (tableoid) ON public.quiet TO analyst;
GRANT SELECT (tableoid) ON public.secured TO analyst;
GRANT SELECT (tableoid) ON public.secured TO guest WITH GRANT OPTION;
GRANT SELECT (vip) ON public.parts TO analyst;
GRANT SELECT (vip) ON public.quiet TO analyst;
GRANT SELECT (vip) ON public.secured TO analyst;
GRANT SELECT (vip) ON public.secured TO guest WITH GRANT OPTION;
GRANT SELECT (xmax) ON public.parts TO analyst;
GRANT SELECT (xmax) ON public.quiet TO analyst;
GRANT SELECT (xmax) ON public.secured TO analyst;
GRANT SELECT (xmax) ON public.secured TO guest WITH GRANT OPTION;
GRANT SELECT (xmin) ON public.low TO guest;
GRANT SELECT (xmin) ON public.parts TO analyst;
GRANT SELECT (xmin) ON public.quiet TO analyst;
GRANT SELECT (xmin) ON public.secured TO analyst;
GRANT SELECT (xmin) ON public.secured TO guest WITH GRANT OPTION;
GRANT SELECT (xmin) ON scrim_runtime.low_{rel public.low}_2 TO guest;
GRANT UPDATE (region) ON public.low TO guest WITH GRANT OPTION;
-- next
INSERT INTO scrim_state.encoders OVERRIDING SYSTEM VALUE SELECT * FROM jsonb_populate_recordset(NULL::scrim_state.encoders, '[
{"id": 1, "name": "enc", "seed": 1, "device": "cpu", "epochs": 2, "source": "{rel public.customers}", "target": null, "creator": "{role olga}", "batch_size": 128, "created_at": "2026-11-28T07:55:07.186669+00:00", "created_by": "olga", "latent_dims": 4, "max_leakage": null, "passthrough": [], "source_table": "public.customers", "default_version": 1, "feature_columns": ["age", "income", "score", "vip"], "allow_identifiers": false}
]');
INSERT INTO scrim_state.encoder_versions OVERRIDING SYSTEM VALUE SELECT * FROM jsonb_populate_recordset(NULL::scrim_state.encoder_versions, '[
{"loss": 0.05540073265631994, "sha256": "{hash}", "version": 1, "created_at": "2026-11-28T07:55:07.527353+00:00", "encoder_id": 1, "trained_on": 2000}
]');
INSERT INTO scrim_state.policies OVERRIDING SYSTEM VALUE SELECT * FROM jsonb_populate_recordset(NULL::scrim_state.policies, '[
{"id": 1, "name": "p", "inputs": [3, 4, 5, 6], "columns": [3, 4, 5], "enabled": true, "present": "COMPONENTS", "identity": "TABLE AND PLACE", "relation": "{rel public.parts}", "key_owner": "{role {owner}}", "suspended": false, "along_with": null, "components": [1, 2, 3], "created_at": "2026-11-28T07:55:26.98287+00:00", "created_by": "postgres", "encoder_id": 1, "seals_only": false, "features_of": null, "masked_view": "{rel scrim_runtime.parts_{rel public.parts}_1}", "except_roles": ["{role risk}"], "view_columns": [1, 2, 6, 7]},
{"id": 2, "name": "p", "inputs": [3, 4, 5, 6], "columns": [3, 4, 5], "enabled": true, "present": "COMPONENTS", "identity": "PLACE", "relation": "{rel public.low}", "key_owner": "{role {owner}}", "suspended": false, "along_with": 1, "components": [1, 2, 3], "created_at": "2026-11-28T07:55:26.98287+00:00", "created_by": "postgres", "encoder_id": 1, "seals_only": false, "features_of": null, "masked_view": "{rel scrim_runtime.low_{rel public.low}_2}", "except_roles": ["{role risk}"], "view_columns": [1, 2, 6, 7]},
{"id": 3, "name": "p", "inputs": [3, 4, 5, 6], "columns": [3, 4, 5], "enabled": true, "present": "COMPONENTS", "identity": "PLACE", "relation": "{rel public.high}", "key_owner": "{role {owner}}", "suspended": false, "along_with": 1, "components": [1, 2, 3], "created_at": "2026-11-28T07:55:26.98287+00:00", "created_by": "postgres", "encoder_id": 1, "seals_only": false, "features_of": null, "masked_view": "{rel scrim_runtime.high_{rel public.high}_3}", "except_roles": ["{role risk}"], "view_columns": [1, 2, 6, 7]},
{"id": 4, "name": "s", "inputs": [3, 4, 5, 6], "columns": [4], "enabled": true, "present": "VECTOR", "identity": "PLACE", "relation": "{rel public.secured}", "key_owner": "{role {owner}}", "suspended": false, "along_with": null, "components": [1], "created_at": "2026-11-28T07:55:27.263292+00:00", "created_by": "postgres", "encoder_id": 1, "seals_only": true, "features_of": null, "masked_view": "{rel scrim_runtime.secured_{rel public.secured}_4}", "except_roles": ["{role risk}"], "view_columns": [1, 2, 3, 5, 6, 7]},
{"id": 5, "name": "q", "inputs": [3, 4, 5, 6], "columns": [3], "enabled": false, "present": "VECTOR", "identity": "PLACE", "relation": "{rel public.quiet}", "key_owner": "{role {owner}}", "suspended": false, "along_with": null, "components": [1], "created_at": "2026-11-28T07:55:27.347259+00:00", "created_by": "postgres", "encoder_id": 1, "seals_only": false, "features_of": null, "masked_view": "{rel scrim_runtime.quiet_{rel public.quiet}_5}", "except_roles": ["{role risk}"], "view_columns": [1, 2, 4, 5, 6, 7]}
]');
INSERT INTO scrim_state.view_owners OVERRIDING SYSTEM VALUE SELECT * FROM jsonb_populate_recordset(NULL::scrim_state.view_owners, '[
{"role": "{role scrim_owner_{role {owner}}}", "table_owner": "{role {owner}}"}
]');
INSERT INTO scrim_state.policy_grants OVERRIDING SYSTEM VALUE SELECT * FROM jsonb_populate_recordset(NULL::scrim_state.policy_grants, '[
{"attnum": -6, "change": "added", "grantee": "{role analyst}", "grantor": "{role {owner}}", "grantable": false, "policy_id": 1, "privilege": "SELECT"},
{"attnum": -6, "change": "added", "grantee": "{role analyst}", "grantor": "{role {owner}}", "grantable": false, "policy_id": 4, "privilege": "SELECT"},
{"attnum": -6, "change": "added", "grantee": "{role analyst}", "grantor": "{role {owner}}", "grantable": false, "policy_id": 5, "privilege": "SELECT"},
{"attnum": -6, "change": "added", "grantee": "{role guest}", "grantor": "{role {owner}}", "grantable": true, "policy_id": 4, "privilege": "SELECT"},
{"attnum": -5, "change": "added", "grantee": "{role analyst}", "grantor": "{role {owner}}", "grantable": false, "policy_id": 1, "privilege": "SELECT"},
{"attnum": -5, "change": "added", "grantee": "{role analyst}", "grantor": "{role {owner}}", "grantable": false, "policy_id": 4, "privilege": "SELECT"},
{"attnum": -5, "change": "added", "grantee": "{role analyst}", "grantor": "{role {owner}}", "grantable": false, "policy_id": 5, "privilege": "SELECT"},
{"attnum": -5, "change": "added", "grantee": "{role guest}", "grantor": "{role {owner}}", "grantable": true, "policy_id": 4, "privilege": "SELECT"},
{"attnum": -4, "change": "added", "grantee": "{role analyst}", "grantor": "{role {owner}}", "grantable": false, "policy_id": 1, "privilege": "SELECT"},
{"attnum": -4, "change": "added", "grantee": "{role analyst}", "grantor": "{role {owner}}", "grantable": false, "policy_id": 4, "privilege": "SELECT"},
{"attnum": -4, "change": "added", "grantee": "{role analyst}", "grantor": "{role {owner}}", "grantable": false, "policy_id": 5, "privilege": "SELECT"},
{"attnum": -4, "change": "added", "grantee": "{role guest}", "grantor": "{role {owner}}", "grantable": true, "policy_id": 4, "privilege": "SELECT"},
{"attnum": -3, "change": "added", "grantee": "{role analyst}", "grantor": "{role {owner}}", "grantable": false, "policy_id": 1, "privilege": "SELECT"},
{"attnum": -3, "change": "added", "grantee": "{role analyst}", "grantor": "{role {owner}}", "grantable": false, "policy_id": 4, "privilege": "SELECT"},
{"attnum": -3, "change": "added", "grantee": "{role analyst}", "grantor": "{role {owner}}", "grantable": false, "policy_id": 5, "privilege": "SELECT"},
{"attnum": -3, "change": "added", "grantee": "{role guest}", "grantor": "{role {owner}}", "grantable": true, "policy_id": 4, "privilege": "SELECT"},
{"attnum": -2, "change": "added", "grantee": "{role analyst}", "grantor": "{role {owner}}", "grantable": false, "policy_id": 1, "privilege": "SELECT"},
{"attnum": -2, "change": "added", "grantee": "{role analyst}", "grantor": "{role {owner}}", "grantable": false, "policy_id": 4, "privilege": "SELECT"},
{"attnum": -2, "change": "added", "grantee": "{role analyst}", "grantor": "{role {owner}}", "grantable": false, "policy_id": 5, "privilege": "SELECT"},
{"attnum": -2, "change": "added", "grantee": "{role guest}", "grantor": "{role {owner}}", "grantable": false, "policy_id": 2, "privilege": "SELECT"},
{"attnum": -2, "change": "added", "grantee": "{role guest}", "grantor": "{role {owner}}", "grantable": true, "policy_id": 4, "privilege": "SELECT"},
{"attnum": -1, "change": "added", "grantee": "{role analyst}", "grantor": "{role {owner}}", "grantable": false, "policy_id": 1, "privilege": "SELECT"},
{"attnum": -1, "change": "added", "grantee": "{role analyst}", "grantor": "{role {owner}}", "grantable": false, "policy_id": 4, "privilege": "SELECT"},
{"attnum": -1, "change": "added", "grantee": "{role analyst}", "grantor": "{role {owner}}", "grantable": false, "policy_id": 5, "privilege": "SELECT"},
{"attnum": -1, "change": "added", "grantee": "{role guest}", "grantor": "{role {owner}}", "grantable": false, "policy_id": 2, "privilege": "SELECT"},
{"attnum": -1, "change": "added", "grantee": "{role guest}", "grantor": "{role {owner}}", "grantable": true, "policy_id": 4, "privilege": "SELECT"},
{"attnum": 0, "change": "removed", "grantee": "{role analyst}", "grantor": "{role {owner}}", "grantable": false, "policy_id": 1, "privilege": "SELECT"},
{"attnum": 0, "change": "removed", "grantee": "{role analyst}", "grantor": "{role {owner}}", "grantable": false, "policy_id": 4, "privilege": "SELECT"},
{"attnum": 0, "change": "removed", "grantee": "{role analyst}", "grantor": "{role {owner}}", "grantable": false, "policy_id": 5, "privilege": "SELECT"},
{"attnum": 0, "change": "removed", "grantee": "{role guest}", "grantor": "{role {owner}}", "grantable": true, "policy_id": 4, "privilege": "SELECT"},
{"attnum": 1, "change": "added", "grantee": "{role analyst}", "grantor": "{role {owner}}", "grantable": false, "policy_id": 1, "privilege": "SELECT"},
{"attnum": 1, "change": "added", "grantee": "{role analyst}", "grantor": "{role {owner}}", "grantable": false, "policy_id": 4, "privilege": "SELECT"},
{"attnum": 1, "change": "added", "grantee": "{role analyst}", "grantor": "{role {owner}}", "grantable": false, "policy_id": 5, "privilege": "SELECT"},
{"attnum": 1, "change": "added", "grantee": "{role guest}", "grantor": "{role {owner}}", "grantable": true, "policy_id": 4, "privilege": "SELECT"},
{"attnum": 2, "change": "added", "grantee": "{role analyst}", "grantor": "{role {owner}}", "grantable": false, "policy_id": 1, "privilege": "SELECT"},
{"attnum": 2, "change": "added", "grantee": "{role analyst}", "grantor": "{role {owner}}", "grantable": false, "policy_id": 4, "privilege": "SELECT"},
{"attnum": 2, "change": "added", "grantee": "{role analyst}", "grantor": "{role {owner}}", "grantable": false, "policy_id": 5, "privilege": "SELECT"},
{"attnum": 2, "change": "added", "grantee": "{role guest}", "grantor": "{role {owner}}", "grantable": true, "policy_id": 4, "privilege": "SELECT"},
{"attnum": 3, "change": "added", "grantee": "{role analyst}", "grantor": "{role {owner}}", "grantable": false, "policy_id": 4, "privilege": "SELECT"},
{"attnum": 3, "change": "added", "grantee": "{role guest}", "grantor": "{role {owner}}", "grantable": true, "policy_id": 4, "privilege": "SELECT"},
{"attnum": 3, "change": "removed", "grantee": "{role guest}", "grantor": "{role {owner}}", "grantable": true, "policy_id": 2, "privilege": "REFERENCES"},
{"attnum": 4, "change": "added", "grantee": "{role analyst}", "grantor": "{role {owner}}", "grantable": false, "policy_id": 5, "privilege": "SELECT"},
{"attnum": 4, "change": "removed", "grantee": "{role guest}", "grantor": "{role {owner}}", "grantable": true, "policy_id": 2, "privilege": "SELECT"},
{"attnum": 5, "change": "added", "grantee": "{role analyst}", "grantor": "{role {owner}}", "grantable": false, "policy_id": 4, "privilege": "SELECT"},
{"attnum": 5, "change": "added", "grantee": "{role analyst}", "grantor": "{role {owner}}", "grantable": false, "policy_id": 5, "privilege": "SELECT"},
{"attnum": 5, "change": "added", "grantee": "{role guest}", "grantor": "{role {owner}}", "grantable": true, "policy_id": 4, "privilege": "SELECT"},
{"attnum": 6, "change": "added", "grantee": "{role analyst}", "grantor": "{role {owner}}", "grantable": false, "policy_id": 1, "privilege": "SELECT"},
{"attnum": 6, "change": "added", "grantee": "{role analyst}", "grantor": "{role {owner}}", "grantable": false, "policy_id": 4, "privilege": "SELECT"},
{"attnum": 6, "change": "added", "grantee": "{role analyst}", "grantor": "{role {owner}}", "grantable": false, "policy_id": 5, "privilege": "SELECT"},
{"attnum": 6, "change": "added", "grantee": "{role guest}", "grantor": "{role {owner}}", "grantable": true, "policy_id": 4, "privilege": "SELECT"},
{"attnum": 7, "change": "added", "grantee": "{role analyst}", "grantor": "{role {owner}}", "grantable": false, "policy_id": 1, "privilege": "SELECT"},
{"attnum": 7, "change": "added", "grantee": "{role analyst}", "grantor": "{role {owner}}", "grantable": false, "policy_id": 4, "privilege": "SELECT"},
{"attnum": 7, "change": "added", "grantee": "{role analyst}", "grantor": "{role {owner}}", "grantable": false, "policy_id": 5, "privilege": "SELECT"},
{"attnum": 7, "change": "added", "grantee": "{role guest}", "grantor": "{role {owner}}", "grantable": true, "policy_id": 4, "privilege": "SELECT"}
]');
SELECT setval(pg_get_serial_sequence('scrim_state.encoders', 'id'), 100), setval(pg_get_serial_sequence('scrim_state.policies', 'id'), 100);
