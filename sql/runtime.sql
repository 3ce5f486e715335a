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
    IF NOT (has_any_column_privilege(relation, 'SELECT') OR scrim_runtime.reads_places(relation)) OR EXISTS (
        SELECT 1 FROM unnest(open_columns) WITH ORDINALITY AS o(num, ord)
         WHERE has_column_privilege(relation, o.num, 'SELECT') IS FALSE
           AND has_column_privilege('scrim_runtime.' || quote_ident(masked_view), o.ord::int2, 'SELECT')) THEN
        RAISE EXCEPTION 'permission denied for table %', relation::regclass USING ERRCODE = 'insufficient_privilege',
            HINT = 'A privilege was revoked after the masking policy was made.';
    END IF;
    RETURN true;
END $$;

-- Called for each plan over any masked view. pg_dump and restore take such a view elsewhere, where the numbers that the functions beside this one are given mean other columns and
-- tables: relation is then what has its name, and another than number says, or the cluster is another. Raises, or returns true.
CREATE OR REPLACE FUNCTION scrim_runtime.still_here(relation regclass, number oid, cluster bigint) RETURNS boolean
LANGUAGE plpgsql IMMUTABLE PARALLEL SAFE SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    IF relation = number AND cluster = (SELECT c.system_identifier FROM pg_control_system() c) THEN
        RETURN true;
    END IF;
    RAISE EXCEPTION 'masked columns of % cannot be read: the database was restored from a dump, or upgraded', relation USING ERRCODE = 'object_not_in_prerequisite_state',
        HINT = 'Run scrim init on it: that binds masking policies to what is here, and makes new keys.';
END $$;

-- Whether the role may read system columns, which is all that is left of a table whose columns are all masked.
CREATE OR REPLACE FUNCTION scrim_runtime.reads_places(relation oid) RETURNS boolean
LANGUAGE sql STABLE PARALLEL SAFE SET search_path = pg_catalog, pg_temp AS $$
    SELECT EXISTS (SELECT 1 FROM pg_attribute a WHERE a.attrelid = relation AND a.attname = 'ctid' AND a.attnum < 0 AND has_column_privilege(relation, a.attnum, 'SELECT'))
$$;

-- Whether the role may see a row under the row security of its table. A masked view reads past that, so each SQL mask in one asks.
CREATE OR REPLACE FUNCTION scrim_runtime.sees_row(relation oid, part oid, place tid) RETURNS boolean
LANGUAGE plpgsql STABLE PARALLEL SAFE SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    sees boolean;
BEGIN
    EXECUTE format('SELECT true FROM %s t WHERE t.ctid = $1 AND t.tableoid = $2', relation::regclass) INTO sees USING place, part;
    RETURN sees;
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

-- The query of a view that runs with the invoker's rights, or of information_schema.columns; NULL for everything else, and for one too long to be planned.
-- The proxy puts it in the place of the view where a masked role reads it. It means the same wherever it is read: what is not in pg_catalog is qualified, but for
-- what is temporary, and values are printed so that no setting matters.
CREATE OR REPLACE FUNCTION scrim_runtime.view_query(view oid) RETURNS text
LANGUAGE sql STABLE PARALLEL SAFE SET search_path = pg_catalog, pg_temp SET DateStyle = 'ISO' SET IntervalStyle = 'postgres' SET TimeZone = 'UTC'
SET extra_float_digits = 3 SET bytea_output = 'hex' AS $$
    SELECT d.query FROM (
        SELECT pg_get_viewdef(c.oid) AS query FROM pg_class c
         WHERE c.oid = view AND c.relkind = 'v'
           AND (c.oid = to_regclass('information_schema.columns')
                OR EXISTS (SELECT FROM pg_options_to_table(c.reloptions) o WHERE o.option_name = 'security_invoker' AND o.option_value::boolean))
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

-- The functions that SQL masks are made of, as masked views call them; schema scrim has them as people write them. Bodies that PostgreSQL parses when they are made
-- mean the same in whatever session they run, can be inlined, and their errors print no argument.
CREATE OR REPLACE FUNCTION scrim_runtime.partial(value text, prefix integer, pad text, suffix integer) RETURNS text
LANGUAGE sql IMMUTABLE PARALLEL SAFE
RETURN CASE WHEN value IS NULL THEN NULL
            WHEN length(value) > greatest(prefix, 0) + greatest(suffix, 0) THEN left(value, greatest(prefix, 0)) || pad || right(value, greatest(suffix, 0))
            ELSE pad END;

CREATE OR REPLACE FUNCTION scrim_runtime.email(value text) RETURNS text
LANGUAGE sql IMMUTABLE PARALLEL SAFE
RETURN CASE WHEN value IS NULL THEN NULL
            WHEN strpos(value, '@') > 1 THEN left(value, 1) || '*****@' || left(split_part(value, '@', 2), 1) || '*****' || coalesce(substring(value FROM '\.[^.@]*$'), '')
            ELSE '*****' END;

-- HMAC-SHA256 (RFC 2104). inner_key and outer_key are the key with its two pads. A function that takes them, or is not IMMUTABLE, uses each of its arguments once, so that it is always inlined: from PostgreSQL 18 on
-- the body of one that is not is planned with the values of its arguments, and whoever reads the mask can have plans printed (debug_print_plan). Of an IMMUTABLE one that plan has the result only.
CREATE OR REPLACE FUNCTION scrim_runtime.keyed_digest(inner_key bytea, outer_key bytea, value text) RETURNS bytea
LANGUAGE sql STABLE PARALLEL SAFE
RETURN sha256(outer_key || sha256(inner_key || convert_to(value, getdatabaseencoding())));

CREATE OR REPLACE FUNCTION scrim_runtime.hash(inner_key bytea, outer_key bytea, value text) RETURNS text
LANGUAGE sql STABLE PARALLEL SAFE RETURN encode(scrim_runtime.keyed_digest(inner_key, outer_key, value), 'hex');
CREATE OR REPLACE FUNCTION scrim_runtime.hash(inner_key bytea, outer_key bytea, value bigint) RETURNS bigint
LANGUAGE sql STABLE PARALLEL SAFE RETURN ('x' || encode(substring(scrim_runtime.keyed_digest(inner_key, outer_key, value::text) FOR 8), 'hex'))::bit(64)::bigint;
CREATE OR REPLACE FUNCTION scrim_runtime.hash(inner_key bytea, outer_key bytea, value integer) RETURNS integer
LANGUAGE sql STABLE PARALLEL SAFE RETURN ('x' || encode(substring(scrim_runtime.keyed_digest(inner_key, outer_key, value::text) FOR 4), 'hex'))::bit(32)::integer;
CREATE OR REPLACE FUNCTION scrim_runtime.hash(inner_key bytea, outer_key bytea, value uuid) RETURNS uuid
LANGUAGE sql STABLE PARALLEL SAFE RETURN encode(substring(scrim_runtime.keyed_digest(inner_key, outer_key, value::text) FOR 16), 'hex')::uuid;

-- The lower bound of the multiple of width that a value is in. What is no number, or infinite, is itself.
CREATE OR REPLACE FUNCTION scrim_runtime.bucket(value integer, width integer) RETURNS integer
LANGUAGE sql IMMUTABLE PARALLEL SAFE RETURN value - mod(value, width) - CASE WHEN mod(value, width) <> 0 AND (mod(value, width) < 0) <> (width < 0) THEN width ELSE 0 END;
CREATE OR REPLACE FUNCTION scrim_runtime.bucket(value bigint, width bigint) RETURNS bigint
LANGUAGE sql IMMUTABLE PARALLEL SAFE RETURN value - mod(value, width) - CASE WHEN mod(value, width) <> 0 AND (mod(value, width) < 0) <> (width < 0) THEN width ELSE 0 END;
CREATE OR REPLACE FUNCTION scrim_runtime.bucket(value numeric, width numeric) RETURNS numeric
LANGUAGE sql IMMUTABLE PARALLEL SAFE
RETURN CASE WHEN value IN ('NaN', 'Infinity', '-Infinity') THEN value
            ELSE trim_scale(value - mod(value, width) - CASE WHEN mod(value, width) <> 0 AND (mod(value, width) < 0) <> (width < 0) THEN width ELSE 0 END) END;
CREATE OR REPLACE FUNCTION scrim_runtime.bucket(value double precision, width double precision) RETURNS double precision
LANGUAGE sql IMMUTABLE PARALLEL SAFE RETURN floor(value / width) * width;

-- In UTC: whoever could move the time zone could find the value by where it crosses a boundary. Not by that name, which TimeZone can give a meaning of its own from PostgreSQL 18 on.
CREATE OR REPLACE FUNCTION scrim_runtime.generalize(value date, unit text) RETURNS date
LANGUAGE sql IMMUTABLE PARALLEL SAFE RETURN date_trunc(unit, value::timestamp)::date;
CREATE OR REPLACE FUNCTION scrim_runtime.generalize(value timestamp, unit text) RETURNS timestamp
LANGUAGE sql IMMUTABLE PARALLEL SAFE RETURN date_trunc(unit, value);
CREATE OR REPLACE FUNCTION scrim_runtime.generalize(value timestamptz, unit text) RETURNS timestamptz
LANGUAGE sql IMMUTABLE PARALLEL SAFE RETURN timezone(interval '0', date_trunc(unit, timezone(interval '0', value)));

-- A number from -1 to 1 that a row's key decides.
CREATE OR REPLACE FUNCTION scrim_runtime.draw(inner_key bytea, outer_key bytea, row_key text) RETURNS double precision
LANGUAGE sql STABLE PARALLEL SAFE
RETURN ('x' || encode(substring(scrim_runtime.keyed_digest(inner_key, outer_key, 'noise ' || row_key) FOR 6), 'hex'))::bit(48)::bigint::float8 / 140737488355328::float8 - 1::float8;

-- A value that is moved by so much, with its own digits.
CREATE OR REPLACE FUNCTION scrim_runtime.moved(value numeric, shift numeric) RETURNS numeric
LANGUAGE sql IMMUTABLE PARALLEL SAFE RETURN value + trim_scale(round(shift, coalesce(scale(value), 0)));

-- The same of integers, within those that the type has: an error would tell that a value is near their end.
CREATE OR REPLACE FUNCTION scrim_runtime.within(value numeric, low numeric, high numeric) RETURNS numeric
LANGUAGE sql IMMUTABLE PARALLEL SAFE RETURN CASE WHEN value < low THEN low WHEN value > high THEN high ELSE value END;
CREATE OR REPLACE FUNCTION scrim_runtime.moved(value bigint, shift double precision) RETURNS bigint
LANGUAGE sql IMMUTABLE PARALLEL SAFE RETURN scrim_runtime.within(value::numeric + round(shift)::numeric, -9223372036854775808, 9223372036854775807)::bigint;
CREATE OR REPLACE FUNCTION scrim_runtime.moved(value integer, shift double precision) RETURNS integer
LANGUAGE sql IMMUTABLE PARALLEL SAFE RETURN scrim_runtime.within(value::numeric + round(shift)::numeric, -2147483648, 2147483647)::integer;

CREATE OR REPLACE FUNCTION scrim_runtime.noise(inner_key bytea, outer_key bytea, value double precision, amplitude double precision, row_key text) RETURNS double precision
LANGUAGE sql STABLE PARALLEL SAFE RETURN value + amplitude * scrim_runtime.draw(inner_key, outer_key, row_key);
CREATE OR REPLACE FUNCTION scrim_runtime.noise(inner_key bytea, outer_key bytea, value double precision, amplitude double precision, row_key bigint) RETURNS double precision
LANGUAGE sql STABLE PARALLEL SAFE RETURN value + amplitude * scrim_runtime.draw(inner_key, outer_key, row_key::text);
CREATE OR REPLACE FUNCTION scrim_runtime.noise(inner_key bytea, outer_key bytea, value numeric, amplitude numeric, row_key text) RETURNS numeric
LANGUAGE sql STABLE PARALLEL SAFE RETURN scrim_runtime.moved(value, amplitude * scrim_runtime.draw(inner_key, outer_key, row_key)::numeric);
CREATE OR REPLACE FUNCTION scrim_runtime.noise(inner_key bytea, outer_key bytea, value numeric, amplitude numeric, row_key bigint) RETURNS numeric
LANGUAGE sql STABLE PARALLEL SAFE RETURN scrim_runtime.noise(inner_key, outer_key, value, amplitude, row_key::text);
CREATE OR REPLACE FUNCTION scrim_runtime.noise(inner_key bytea, outer_key bytea, value bigint, amplitude bigint, row_key text) RETURNS bigint
LANGUAGE sql STABLE PARALLEL SAFE RETURN scrim_runtime.moved(value, amplitude::float8 * scrim_runtime.draw(inner_key, outer_key, row_key));
CREATE OR REPLACE FUNCTION scrim_runtime.noise(inner_key bytea, outer_key bytea, value bigint, amplitude bigint, row_key bigint) RETURNS bigint
LANGUAGE sql STABLE PARALLEL SAFE RETURN scrim_runtime.noise(inner_key, outer_key, value, amplitude, row_key::text);
CREATE OR REPLACE FUNCTION scrim_runtime.noise(inner_key bytea, outer_key bytea, value integer, amplitude integer, row_key text) RETURNS integer
LANGUAGE sql STABLE PARALLEL SAFE RETURN scrim_runtime.moved(value, amplitude::float8 * scrim_runtime.draw(inner_key, outer_key, row_key));
CREATE OR REPLACE FUNCTION scrim_runtime.noise(inner_key bytea, outer_key bytea, value integer, amplitude integer, row_key bigint) RETURNS integer
LANGUAGE sql STABLE PARALLEL SAFE RETURN scrim_runtime.noise(inner_key, outer_key, value, amplitude, row_key::text);
