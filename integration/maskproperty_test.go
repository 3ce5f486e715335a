package integration_test

import (
	"strings"
	"testing"
)

// hostileSQL makes a table whose columns, two of each type, have values that an error could print, and that are at the edges of
// the type. outcome evaluates an expression for each row: what it gives, as the bytes of its send function, or its error.
const hostileSQL = `
CREATE SCHEMA property;
SET search_path = property, pg_catalog;
CREATE TABLE kind (type text PRIMARY KEY, vals text[]);
INSERT INTO kind VALUES
	('text', ARRAY['4815162-canary', '', ' 4815162', E'4815162\n', '%4815162_', '(4815162', '[4815162', '\4815162', '4815162@ex.am', 'NaN', '48151623-4210-4815-1623-421048151623', repeat('4815162', 8), NULL]),
	('varchar', ARRAY['4815162-canary', '', '4815162 ', 'NaN', NULL]),
	('bpchar', ARRAY['4815162-canary', '', '4815162 ', NULL]),
	('name', ARRAY['4815162-canary', '', 'postgres', NULL]),
	('int2', ARRAY['4815', '-4815', '32767', '-32768', '0', NULL]),
	('int4', ARRAY['48150', '-48150', '2147483647', '-2147483648', '0', '3', NULL]),
	('int8', ARRAY['4815162342108', '-4815162342108', '9223372036854775807', '-9223372036854775808', '0', '3', NULL]),
	('numeric', ARRAY['4815162.342', '-4815162', '4815162e300', '-4815162e-300', 'NaN', 'Infinity', '-Infinity', '0', '4815162e320', '0.4815162', NULL]),
	('float8', ARRAY['4815162.342', '4815162e300', '-4815162e-305', 'NaN', 'Infinity', '-Infinity', '0', '-0', '0.4815162', NULL]),
	('float4', ARRAY['4815162', '4.815162e37', '-4.815162e-37', 'NaN', 'Infinity', '-Infinity', '0', NULL]),
	('bool', ARRAY['t', 'f', NULL]),
	('date', ARRAY['4815-10-06', 'infinity', '-infinity', '4713-01-01 BC', '4815162-01-01', '2020-03-29', NULL]),
	('time', ARRAY['16:23:42.4815', '00:00', '24:00', NULL]),
	('timestamp', ARRAY['4815-10-06 16:23:42', 'infinity', '-infinity', '294275-12-31 23:59', '4713-01-02 BC', '2020-03-29 01:30', NULL]),
	('timestamptz', ARRAY['4815-10-06 16:23:42Z', 'infinity', '-infinity', '294275-12-31 23:59Z', '4713-01-02Z BC', '2020-03-29 01:30Z', '2020-03-01 02:00Z', '2020-01-31 23:00Z', NULL]),
	('interval', ARRAY['48151 days', '4815 years', '0', '-4815:16:23', '1 month -1 day', NULL]),
	('bytea', ARRAY['\x4815162342', '', NULL]),
	('uuid', ARRAY['48151623-4210-4815-1623-421048151623', NULL]),
	('bit', ARRAY['1', '0', NULL]), ('varbit', ARRAY['0100100000010101', '', NULL]),
	('inet', ARRAY['48.15.16.23', '4815:1623::1/64', '0.0.0.0', '255.255.255.255', NULL]), ('cidr', ARRAY['48.15.0.0/16', NULL]),
	('macaddr', ARRAY['48:15:16:23:42:10', NULL]), ('macaddr8', ARRAY['48:15:16:23:42:10:48:15', NULL]),
	('json', ARRAY['{"4815162": "4815162-canary"}', '[1, "4815162"]', '"4815162"', '4815162', 'null', NULL]),
	('jsonb', ARRAY['{"4815162": "4815162-canary"}', '[1, "4815162"]', '"4815162"', '4815162', 'null', NULL]),
	('oid', ARRAY['4815162', '0', NULL]),
	('_int4', ARRAY['{48150,2}', '{}', '{{1,2},{48150,4}}', '{NULL}', NULL]),
	('_text', ARRAY['{4815162-canary,x}', '{}', '{NULL}', NULL]);
DO $$
DECLARE k kind;
BEGIN
	CREATE TABLE hostile (id int PRIMARY KEY);
	INSERT INTO hostile SELECT generate_series(0, 38);
	FOR k IN SELECT * FROM kind LOOP
		EXECUTE format('ALTER TABLE hostile ADD c_%1$s %1$I, ADD d_%1$s %1$I', k.type);
		EXECUTE format('UPDATE hostile SET c_%1$s = $1[1 + id %% $2]::%1$I, d_%1$s = $1[1 + (id * 7 + id / $2) %% $2]::%1$I', k.type) USING k.vals, cardinality(k.vals);
	END LOOP;
END $$;
CREATE TABLE settings AS SELECT * FROM (VALUES
	(1, 'UTC', 'Default', 'ISO, MDY', 'postgres', '3', 'hex', 'none'),
	(2, 'UTC5:13', 'Default', 'SQL, DMY', 'sql_standard', '-15', 'escape', 'none'),
	(3, '<EUROPE/BERLIN>-13:37', 'Australia', 'German', 'iso_8601', '0', 'hex', 'postgres')) s(n, zone, abbreviations, datestyle, intervalstyle, digits, bytea, role);
CREATE FUNCTION set_them(n int) RETURNS void LANGUAGE sql AS $$
	SELECT set_config('timezone', zone, true), set_config('timezone_abbreviations', abbreviations, true), set_config('datestyle', datestyle, true), set_config('intervalstyle', intervalstyle, true),
		set_config('extra_float_digits', digits, true), set_config('bytea_output', bytea, true) FROM property.settings s WHERE s.n = set_them.n
$$;
CREATE FUNCTION outcome(expression text, n int) RETURNS text LANGUAGE plpgsql AS $$
DECLARE
	each text := '';
	message text;
	detail text;
	hint text;
	one text;
BEGIN
	PERFORM property.set_them(n);
	BEGIN
		EXECUTE format('SELECT string_agg(encode(record_send(ROW(%s)), ''hex''), '','' ORDER BY id) FROM property.hostile', expression) INTO each;
		RETURN each;
	EXCEPTION WHEN OTHERS THEN NULL;
	END;
	FOR i IN 0..38 LOOP
		BEGIN
			EXECUTE format('SELECT encode(record_send(ROW(%s)), ''hex'') FROM property.hostile WHERE id = $1', expression) INTO one USING i;
		EXCEPTION WHEN OTHERS THEN
			GET STACKED DIAGNOSTICS message = MESSAGE_TEXT, detail = PG_EXCEPTION_DETAIL, hint = PG_EXCEPTION_HINT;
			one := concat_ws(' ', 'error', SQLSTATE, message, detail, hint);
		END;
		each := concat_ws(',', each, one);
	END LOOP;
	RETURN each;
END $$;
CREATE TABLE tried (expression text, faults text, wrong text);
CREATE FUNCTION try(expression text) RETURNS boolean LANGUAGE plpgsql SET client_min_messages = warning AS $$
DECLARE
	faults text;
	first text;
	wrong text;
BEGIN
	BEGIN
		EXECUTE format('CREATE OR REPLACE TEMP VIEW mask_%s AS SELECT %s AS mask FROM property.hostile t', md5(expression), expression);
	EXCEPTION WHEN OTHERS THEN RETURN NULL; -- there is no such thing
	END;
	faults := (SELECT string_agg(f, '; ') FROM scrim.mask_faults(('pg_temp.mask_' || md5(expression))::regclass, 0) f);
	EXECUTE 'DROP VIEW pg_temp.mask_' || md5(expression);
	IF faults IS NULL THEN
		first := property.outcome(expression, 1);
		wrong := CASE WHEN (SELECT bool_or(o ~ '^error' AND o ~ '48[.:]?15|4\.815') FROM string_to_table(first, ',') o) THEN 'prints: ' || (SELECT o FROM string_to_table(first, ',') o WHERE o ~ '^error' AND o ~ '48[.:]?15|4\.815' LIMIT 1)
			WHEN first IS DISTINCT FROM property.outcome(expression, 2) THEN 'differs with the settings: ' || left(first, 200) || E'\n' || left(property.outcome(expression, 2), 200)
			WHEN first IS DISTINCT FROM property.outcome(expression, 3) THEN 'differs with the settings: ' || left(first, 200) || E'\n' || left(property.outcome(expression, 3), 200) END;
	END IF;
	INSERT INTO property.tried VALUES (expression, faults, wrong);
	RETURN faults IS NULL;
END $$;
-- The type by which one of the kinds stands in the place of another.
CREATE FUNCTION stands(type oid) RETURNS text LANGUAGE sql AS $$
	SELECT CASE WHEN k.type IS NOT NULL THEN k.type WHEN t.typname IN ('anyelement', 'anynonarray', 'anycompatible', 'anycompatiblenonarray') THEN 'int4' WHEN t.typname IN ('anyarray', 'anycompatiblearray') THEN '_int4' END
	  FROM pg_type t LEFT JOIN property.kind k ON k.type = t.typname WHERE t.oid = $1
$$;
`

// triedSQL tries what there is, in this order: operators, casts, functions with columns for all arguments, and functions with a column
// for one and constants for the others, where that was refused. Left out are some that take minutes with such values.
var triedSQL = []string{
	`SELECT count(property.try(format('%s OPERATOR(pg_catalog.%s) %s', 'c_' || property.stands(nullif(oprleft, 0)), oprname, 'd_' || property.stands(oprright)))) FROM pg_operator
		WHERE oprnamespace = 'pg_catalog'::regnamespace AND (oprleft = 0 OR property.stands(oprleft) IS NOT NULL) AND property.stands(oprright) IS NOT NULL`,
	`SELECT count(property.try(format('c_%s::%s', a.type, b.type))) FROM property.kind a,
		(SELECT type FROM property.kind UNION ALL SELECT unnest('{varchar(3),numeric(5,2),numeric(1000,990),"character(2)",timestamp(0),timestamptz(0),time(0),interval(0),bit(3),varbit(3),regclass,money,xml,"\"char\"",timetz}'::text[])) b(type)`,
	`SELECT count(property.try(format('pg_catalog.%I(%s)', p.proname, (SELECT string_agg(CASE n % 2 WHEN 1 THEN 'c_' ELSE 'd_' END || property.stands(a), ', ' ORDER BY n) FROM unnest(p.proargtypes) WITH ORDINALITY u(a, n)))))
		FROM pg_proc p WHERE p.pronamespace = 'pg_catalog'::regnamespace AND p.proname NOT IN ('repeat', 'lpad', 'rpad', 'power', 'log', 'exp') AND (scrim.is_discreet(p.oid, false) OR p.proname = 'pg_has_role') AND p.pronargs > 0
		 AND (SELECT bool_and(property.stands(a) IS NOT NULL) FROM unnest(p.proargtypes) a)`,
	`SELECT count(property.try(e)) FROM (SELECT DISTINCT format('pg_catalog.%I(%s)', p.proname, (
			SELECT string_agg(CASE WHEN n = k THEN 'd_' || property.stands(a) ELSE format('%L::%s', CASE property.stands(a) WHEN 'interval' THEN '1 hour' WHEN 'oid' THEN '10' WHEN 'int4' THEN '2' WHEN 'int8' THEN '2' WHEN 'bytea' THEN '\x' ELSE constant END, property.stands(a)) END, ', ' ORDER BY n)
			  FROM unnest(p.proargtypes) WITH ORDINALITY u(a, n))) AS e
		FROM pg_proc p, generate_series(1, p.pronargs) k, unnest('{day,timezone,UTC,hex,EST,Europe/Berlin,postgres}'::text[]) constant
		WHERE p.pronamespace = 'pg_catalog'::regnamespace AND p.proname IN ('age', 'date_trunc', 'date_part', 'extract', 'timezone', 'pg_has_role', 'encode', 'regexp_replace', 'regexp_like', 'regexp_substr', 'regexp_count', 'to_char', 'to_date', 'to_number', 'decode', 'convert_from', 'set_bit', 'get_byte', 'make_date', 'chr')
		 AND (SELECT bool_and(property.stands(a) IS NOT NULL) FROM unnest(p.proargtypes) a)) x`,
	`SELECT count(property.try(e)) FROM unnest(ARRAY['pg_has_role(session_user, ''postgres'', ''usage'')', 'now() > c_timestamptz', 'c_jsonb[c_text]', 'c__int4[c_int4]', 'greatest(c_numeric, d_numeric)', 'least(c_text, d_text)',
		'nullif(c_float8, d_float8)', 'c_text IS DISTINCT FROM d_text', 'c_int4 = ANY (c__int4)', 'c_text LIKE d_text', 'c_text SIMILAR TO d_text', 'substring(c_text FROM d_text)', 'c_text COLLATE "C" < d_text', 'CASE c_int4 WHEN d_int4 THEN c_text ELSE d_text END',
		'coalesce(c_date, d_date)', 'c_float8 * 0.5', 'c_float4 * 0.5', 'scrim.partial(c_text, c_int4, d_text, d_int4)', 'scrim.email(c_text)', 'scrim.bucket(c_int4, d_int4)', 'scrim.bucket(c_int8, d_int8)', 'scrim.bucket(c_numeric, d_numeric)',
		'scrim.bucket(c_float8, d_float8)', 'scrim.generalize(c_date, ''day'')', 'scrim.generalize(c_timestamp, ''month'')', 'scrim.generalize(c_timestamptz, ''day'')', 'scrim.generalize(c_timestamptz, ''century'')']) e`,
}

// TestMasksPrintNothing: whatever operator, function or cast of PostgreSQL's a mask may use, with values that are chosen to make it fail, prints no
// value in an error, and gives the same whatever settings the reader chooses.
func TestMasksPrintNothing(t *testing.T) {
	t.Parallel()
	onServers(t, func(t *testing.T, w *world) {
		e := w.bare(t)
		admin := e.admin(t)
		e.exec(t, admin, hostileSQL)
		for _, q := range triedSQL {
			mustText(t, admin, q)
		}
		if wrong := mustText(t, admin, `SELECT expression, wrong FROM property.tried WHERE wrong IS NOT NULL`); wrong != "" {
			t.Errorf("allowed in a mask:\n%s", wrong)
		}
		counts := mustText(t, admin, `SELECT count(*), count(*) FILTER (WHERE faults IS NULL) AS allowed FROM property.tried`)
		t.Logf("tried, allowed: %s", strings.TrimSpace(counts))
		if got := mustText(t, admin, `SELECT count(*) FILTER (WHERE faults IS NULL) > 500 AND count(*) > 1500 FROM property.tried`); got != "t\n" {
			t.Errorf("that tries too little: %s", counts)
		}
	})
}
