package integration_test

import (
	"strings"
	"testing"

	"github.com/jackc/pgx/v5"
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
