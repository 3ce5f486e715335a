package integration_test

import (
	"fmt"
	"strings"
	"testing"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
)

// mallory is a scrim_admin with tables of her own, after those of others. Her function says when it runs with other rights than its caller's.
func mallory(t *testing.T, e *env) (name string, conn *pgx.Conn) {
	t.Helper()
	name = extraRole(t, e, "scrim_admin")
	e.exec(t, e.admin(t), `CREATE SCHEMA mal AUTHORIZATION `+name, `GRANT USAGE ON SCHEMA mal TO PUBLIC`)
	conn = e.directly(t, name)
	e.exec(t, conn, `CREATE FUNCTION mal.evil(v text) RETURNS boolean LANGUAGE plpgsql AS $$ BEGIN
			IF current_user <> '`+name+`' THEN RAISE EXCEPTION 'evil runs as %', current_user; END IF;
			RETURN true;
		END $$`,
		`CREATE DOMAIN mal.checked AS text CHECK (mal.evil(VALUE))`, `CREATE TYPE mal.pair AS (x mal.checked)`, `CREATE TYPE mal.span AS RANGE (subtype = mal.checked)`, `CREATE TYPE mal.mood AS ENUM ('sad', 'happy')`,
		`CREATE TABLE mal.t (id integer PRIMARY KEY, a text, m mal.mood)`, `INSERT INTO mal.t VALUES (1, 'x', 'sad')`, `GRANT SELECT ON mal.t TO analyst`)
	return name, conn
}

// TestConstantsRunNothing: a constant is read when a view is made, and its type can have code of its owner's: a domain in an array, a composite type or a
// range. Masked views are made with the rights of the catalog role, and definitions are read with those of whoever attaches them.
func TestConstantsRunNothing(t *testing.T) {
	onEach(t, func(t *testing.T, e *env) {
		_, conn := mallory(t, e)
		for _, constant := range []string{`'{x}'::mal.checked[]`, `'(x)'::mal.pair`, `'{(x)}'::mal.pair[]`, `'[x,y]'::mal.span`} {
			mask := quoteLiteral(`CASE WHEN ` + constant + ` IS NULL THEN 'a' ELSE 'b' END`)
			for _, call := range []string{`create_sql_masking_policy('p', 'mal.t', '{a}', NULL, ` + mask + `)`, `define_masking_policy('d', '{v}', '{text}', 'text', ` + mask + `)`} {
				if _, err := text(t, conn, `SELECT scrim.`+call); code(err) != "0A000" || !strings.Contains(explain(err), "constant of type mal.") {
					t.Errorf("%s: %v", call, explain(err))
				}
			}
		}
		// The name of a type in a mask can become another's while the mask is suspended.
		e.exec(t, conn, `SELECT scrim.create_sql_masking_policy('p', 'mal.t', '{a}', NULL, $$CASE WHEN 'sad'::mal.mood IS NULL THEN 'x' ELSE 'y' END$$)`,
			`ALTER TABLE mal.t ADD b text`, `SELECT scrim.create_sql_masking_policy('q', 'mal.t', '{b}', NULL, 'NULL')`, `SELECT scrim.suspend('mal.t')`,
			`ALTER TABLE mal.t DROP m`, `DROP TYPE mal.mood CASCADE`, `CREATE TYPE mal.mood AS (x mal.checked)`)
		if _, err := text(t, conn, `SELECT scrim.drop_masking_policy('q', 'mal.t')`); code(err) != "0A000" {
			t.Errorf("with another type: %v", explain(err))
		}
		e.exec(t, conn, `BEGIN`, `SELECT scrim.drop_masking_policy('p', 'mal.t')`, `SELECT scrim.drop_masking_policy('q', 'mal.t')`, `COMMIT`)
	})
}

// TestPlainConstants: constants of enums mean what they say, however they and their types are called, in masks and in definitions.
func TestPlainConstants(t *testing.T) {
	onEach(t, func(t *testing.T, e *env) {
		const level = `public."it's ::""level"" E"`
		e.exec(t, e.admin(t), asOlga(`CREATE TYPE `+level+` AS ENUM ('E', 'it''s', 'E''::"\', 'raw')`, `CREATE TYPE levels AS ENUM ('low', 'high')`,
			`CREATE TABLE graded (id integer PRIMARY KEY, l `+level+`, m `+level+`, ls levels[], s levels)`, `INSERT INTO graded VALUES (1, 'raw', 'raw', '{low}', 'low')`, `GRANT SELECT ON graded TO analyst`)...)
		owner := e.directly(t, olga)
		e.exec(t, owner, `SELECT scrim.create_sql_masking_policy('l', 'graded', '{l}', NULL, $q$CASE s WHEN 'low' THEN 'E''::"\'::`+level+` WHEN 'high' THEN 'it''s' ELSE 'E' END$q$)`,
			`SELECT scrim.create_sql_masking_policy('ls', 'graded', '{ls}', NULL, $q$CASE WHEN E'\\::public."it''s' = 'E'::text THEN NULL ELSE '{high,low}'::public.levels[] END$q$)`,
			`SELECT scrim.define_masking_policy('d', '{v}', ARRAY[$q$`+level+`$q$], $q$`+level+`$q$, $q$CASE v WHEN 'raw' THEN 'it''s'::`+level+` ELSE 'E' END$q$)`,
			`SELECT scrim.set_column_masking_policy('graded', 'm', 'd')`, `SELECT scrim.suspend('graded')`, `SELECT scrim.resume('graded')`)
		if got := mustText(t, e.connect(t, analyst), `SELECT l, m, ls FROM graded`); got != `E'::"\|it's|{high,low}`+"\n" {
			t.Error(got)
		}
	})
}

// TestDefinitionsOfOthers: who made a definition cannot change what it is to others who have attached it, nor tell them something else than it is.
func TestDefinitionsOfOthers(t *testing.T) {
	onEach(t, func(t *testing.T, e *env) {
		_, conn := mallory(t, e)
		if _, err := text(t, conn, `SELECT scrim.require_policy_admin(2147483647::regclass)`); code(err) != "42501" {
			t.Errorf("of a table that is not there: %v", explain(err))
		}
		e.exec(t, e.admin(t), asOlga(`CREATE TABLE hers (id integer PRIMARY KEY, a text, b text)`, `INSERT INTO hers VALUES (1, 'raw', 'raw')`, `GRANT SELECT ON hers TO analyst`)...)
		e.exec(t, conn, `SELECT scrim.define_masking_policy('d', '{v}', '{text}', 'text', 'left(v, 1)')`)
		owner := e.connect(t, olga)
		e.exec(t, owner, `SELECT scrim.set_column_masking_policy('hers', 'a', 'd')`)
		e.exec(t, conn, `CREATE TEMP TABLE scrim_probe (v text)`, `CREATE TEMP VIEW hostile AS SELECT v AS mask FROM pg_temp.scrim_probe t`)
		for _, call := range []string{`scrim.keep_definition('d', 'pg_temp.hostile', 'left(v, 1)')`, `scrim.define_masking_policy('d', '{v}', '{text}', 'text', 'v', false, true)`, `scrim.set_masking_policy_body('d', 'v')`} {
			if _, err := text(t, conn, `SELECT `+call); code(err) != "42501" {
				t.Errorf("%s: %v", call, explain(err))
			}
		}
		// The audit says what a definition is, not what is said of it.
		e.exec(t, conn, `SELECT scrim.keep_definition('lie', 'pg_temp.hostile', 'left(v, 1)')`)
		if got := mustText(t, e.admin(t), `SELECT details ->> 'mask' FROM scrim_state.audit WHERE object = 'lie'`); got != "v\n" && got != "t.v\n" {
			t.Error(got)
		}
		e.exec(t, owner, `ALTER TABLE hers ALTER b SET MASKING POLICY d`)
		if got := mustText(t, e.connect(t, analyst), `SELECT a, b FROM hers`); got != "r|r\n" {
			t.Error(got)
		}
	})
}

// TestDebuggingMasks: a reader who has the server print its plans sees neither a key nor a value that the library's functions are given, be they inlined or not. (PostgreSQL 18
// plans the bodies of those that are not with the values of their arguments.)
func TestDebuggingMasks(t *testing.T) {
	onEach(t, func(t *testing.T, e *env) {
		_, conn := mallory(t, e)
		e.exec(t, conn, `CREATE FUNCTION mal.same(v text) RETURNS text LANGUAGE plpgsql IMMUTABLE SET search_path = pg_catalog, pg_temp AS $$ BEGIN RETURN v; END $$`,
			`CREATE FUNCTION mal.same(v numeric) RETURNS numeric LANGUAGE plpgsql IMMUTABLE SET search_path = pg_catalog, pg_temp AS $$ BEGIN RETURN v; END $$`,
			`CREATE TABLE mal.d (id integer PRIMARY KEY, partial text, email text, hash text, bucket numeric, noise numeric, small integer, date date, float float8)`,
			`INSERT INTO mal.d VALUES (1, 'canary@canary.com', 'canary@canary.com', 'canary@canary.com', 4815162, 4815162, 4815162, '2024-05-17', 4815162)`, `GRANT SELECT ON mal.d TO analyst`)
		for column, mask := range map[string]string{
			"partial": `scrim.partial(mal.same(partial), 1, '*', 1)`, "email": `scrim.email(mal.same(email))`, "hash": `scrim.hash(mal.same(hash))`, "bucket": `scrim.bucket(mal.same(bucket), 10)`,
			"noise": `scrim.noise(mal.same(noise), 10, mal.same(id::text))`, "small": `scrim.noise(scrim.bucket(small, 1), 10, mal.same(id::text))`, "date": `scrim.generalize(scrim.generalize(date, 'day'), 'month')`,
			"float": `scrim.noise(scrim.bucket(float, 1), 5, id)`,
		} {
			e.exec(t, conn, fmt.Sprintf(`SELECT scrim.create_sql_masking_policy('%[1]s', 'mal.d', '{%[1]s}', NULL, %[2]s)`, column, quoteLiteral(mask)))
		}
		said := printedPlans(t, e, mustText(t, e.admin(t), `SELECT format('SELECT * FROM %s', p.masked_view::regclass) FROM scrim_state.protections p WHERE relation = 'mal.d'::regclass`))
		if len(said) < 50000 {
			t.Error("no plans are printed")
		}
		owner := mustText(t, e.admin(t), `SELECT relowner FROM pg_class WHERE oid = 'mal.d'::regclass`)
		forbidden := map[string]string{
			"key":  mustText(t, e.admin(t), `SELECT string_agg((((get_byte(k.inner_key, n) + 128) & 255) - 128)::text, '' ORDER BY n) FROM scrim_state.mask_key_`+strings.TrimSpace(owner)+` k, generate_series(0, 15) n`),
			"text": "99 97 110 97 114 121 64 99", "integer": "[58 121 73 0 0 0 0 0]", "numeric": "-31 1 42 20]",
		}
		for what, bytes := range forbidden {
			if at := strings.Index(said, strings.Join(strings.Fields(bytes), "")); at >= 0 {
				t.Errorf("a %s is printed: %s", what, said[max(0, at-500):at+200])
			}
		}
		e.exec(t, conn, `BEGIN`, `DO $$ DECLARE p record; BEGIN FOR p IN SELECT name FROM scrim.masking_policies WHERE relation = 'mal.d'::regclass LOOP PERFORM scrim.drop_masking_policy(p.name, 'mal.d'); END LOOP; END $$`, `COMMIT`)
	})
}

// printedPlans is all that the server prints of a query to the analyst who asks for plans, without white space.
func printedPlans(t *testing.T, e *env, query string) string {
	t.Helper()
	var said strings.Builder
	cfg, err := pgx.ParseConfig(e.directDSN(analyst))
	if err != nil {
		t.Fatal(err)
	}
	cfg.OnNotice = func(_ *pgconn.PgConn, n *pgconn.Notice) { said.WriteString(n.Message + n.Detail + n.Where) }
	reader, err := pgx.ConnectConfig(t.Context(), cfg)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = reader.Close(t.Context()) }()
	e.exec(t, reader, `SET debug_print_plan = on`, `SET debug_print_rewritten = on`, `SET debug_print_parse = on`, `SET client_min_messages = debug5`, `SET plan_cache_mode = force_custom_plan`)
	mustText(t, reader, query)
	return strings.Join(strings.Fields(said.String()), "")
}

// TestMasksOfOtherTypes: a mask was judged by the types of its columns. date_trunc of a timestamp depends on no setting; of a timestamptz, which the column has become while masks were closed, it does.
func TestMasksOfOtherTypes(t *testing.T) {
	onEach(t, func(t *testing.T, e *env) {
		e.exec(t, e.admin(t), asOlga(`CREATE TABLE typed (id integer PRIMARY KEY, at timestamp, a text, n numeric(5,2))`, `GRANT SELECT ON typed TO analyst`, `INSERT INTO typed VALUES (1, '2024-05-17 23:00', 'x', 1)`)...)
		owner, reader := e.connect(t, olga), e.connect(t, analyst)
		e.exec(t, owner, `CREATE MASKING POLICY p ON typed (at) USING (date_trunc('day', at))`, `CREATE MASKING POLICY q ON typed (n) USING (n * 2) WHEN (a <> 'y')`)
		for _, ways := range [][]string{
			{`SELECT scrim.suspend('typed')`, `SELECT scrim.resume('typed')`},
			{`ALTER MASKING POLICY p ON typed DISABLE; ALTER MASKING POLICY q ON typed DISABLE`, `ALTER MASKING POLICY p ON typed ENABLE`},
			{`SELECT scrim.suspend('typed')`, `DROP MASKING POLICY q ON typed`},
		} {
			for _, s := range strings.Split(ways[0], ";") {
				e.exec(t, owner, s)
			}
			e.exec(t, owner, `ALTER TABLE typed ALTER at TYPE timestamptz`)
			if _, err := text(t, owner, ways[1]); code(err) != "55000" || !strings.Contains(explain(err), `column "at"`) {
				t.Errorf("%s: %v", ways[1], explain(err))
			}
			e.exec(t, owner, `ALTER TABLE typed ALTER at TYPE timestamp`, `ALTER TABLE typed ALTER n TYPE numeric(6,1)`, `SELECT scrim.resume('typed')`,
				`ALTER MASKING POLICY p ON typed ENABLE`, `ALTER MASKING POLICY q ON typed ENABLE`)
			if got := mustText(t, reader, `SELECT at, n FROM typed`); got != "2024-05-17 00:00:00|2.0\n" {
				t.Errorf("after %s: %s", ways[1], got)
			}
		}
		// Made anew, it is judged anew.
		e.exec(t, owner, `SELECT scrim.suspend('typed')`, `ALTER TABLE typed ALTER at TYPE timestamptz`, `BEGIN`, `DROP MASKING POLICY p ON typed`, `SELECT scrim.resume('typed')`)
		if _, err := text(t, owner, `CREATE MASKING POLICY p ON typed (at) USING (date_trunc('day', at))`); code(err) != "0A000" {
			t.Error(explain(err))
		}
		e.exec(t, owner, `ROLLBACK`, `BEGIN`, `DROP MASKING POLICY p ON typed`, `SELECT scrim.resume('typed')`, `CREATE MASKING POLICY p ON typed (at) USING (scrim.generalize(at, 'day'))`, `COMMIT`)
		if got := mustText(t, reader, `SELECT at AT TIME ZONE interval '0', n FROM typed`); !strings.HasSuffix(got, "00:00:00|2.0\n") {
			t.Error(got)
		}
		if got := mustText(t, e.admin(t), `SELECT details ->> 'mask' FROM scrim_state.audit WHERE tag = 'CREATE MASKING POLICY' AND object = 'q'`); !strings.Contains(got, "(n * (2)::numeric)") {
			t.Error(got)
		}
	})
}
