package integration_test

import (
	"bytes"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/jackc/pgx/v5"
)

// accountsSQL is a table whose mask is the whole code, beside customers.
const accountsSQL = `CREATE TABLE accounts (id integer PRIMARY KEY, age integer, income numeric(12,2), score double precision, vip boolean DEFAULT true, note varchar(20) COLLATE "C");
	INSERT INTO accounts SELECT id, age, income, score, vip FROM customers; COMMENT ON COLUMN accounts.income IS 'a year''s';
	GRANT SELECT ON accounts TO analyst, risk`

// twin is a database whose tables have the types that masks show.
func (e *env) twin(t *testing.T) *env {
	t.Helper()
	other := e.bare(t)
	e.exec(t, other.directly(t, olga), accountsSQL,
		`ALTER TABLE customers ALTER age TYPE double precision, ALTER income TYPE double precision`,
		`ALTER TABLE accounts ALTER income TYPE real[] USING NULL`)
	return other
}

// asked are the queries of testdata/catalogs, by what stands before them.
func asked(t *testing.T) map[string]string {
	t.Helper()
	text, err := os.ReadFile(filepath.Join("testdata", "catalogs", "queries.sql"))
	if err != nil {
		t.Fatal(err)
	}
	queries := map[string]string{}
	for _, part := range strings.Split(string(text), "\n\n-- ")[1:] {
		name, query, _ := strings.Cut(part, "\n")
		queries[name] = query
	}
	return queries
}

// TestCatalogsAgree: what tools ask the catalogs is answered for a masked role as by a database whose columns have the types that it sees.
func TestCatalogsAgree(t *testing.T) {
	onEachProtected(t, func(t *testing.T, e *env) {
		owner := e.connect(t, olga)
		e.exec(t, owner, accountsSQL, `CREATE MASKING POLICY p ON accounts (income) EXCEPT risk USING ENCODER enc (age, income, score, vip)`)
		other := e.twin(t)
		masked, plain := e.connect(t, analyst), other.directly(t, analyst)
		normal := func(t *testing.T, e *env, conn *pgx.Conn, table, query string) string {
			oid := strings.TrimSpace(mustText(t, conn, `SELECT '`+table+`'::regclass::oid`))
			out := mustText(t, conn, strings.ReplaceAll(strings.ReplaceAll(query, ":oid", oid), "customers", table))
			return strings.ReplaceAll(out, e.database, "database")
		}
		described := func(t *testing.T, conn *pgx.Conn, query string) string {
			oid := strings.TrimSpace(mustText(t, conn, `SELECT 'customers'::regclass::oid`))
			result := conn.PgConn().ExecParams(t.Context(), strings.ReplaceAll(query, ":oid", oid), nil, nil, nil, nil).Read()
			if result.Err != nil {
				t.Errorf("%s: %s", query, explain(result.Err))
			}
			return fmt.Sprintln(result.FieldDescriptions) + result.CommandTag.String()
		}
		for name, query := range asked(t) {
			for _, table := range []string{"customers", "accounts"} {
				got, want := normal(t, e, masked, table, query), normal(t, other, plain, table, query)
				if got != want || want == "" {
					t.Errorf("%s of %s: masked:\n%s\nwith the shown types:\n%s", name, table, got, want)
				}
			}
			if strings.Count(query, ";") > 1 {
				continue
			}
			if got, want := described(t, masked, query), described(t, plain, query); got != want {
				t.Errorf("%s: masked:\n%s\nwith the shown types:\n%s", name, got, want)
			}
		}
		for _, role := range []string{olga, risk} {
			through, direct := e.connect(t, role), e.directly(t, role)
			for name, query := range asked(t) {
				if got, want := normal(t, e, through, "customers", query), normal(t, e, direct, "customers", query); got != want {
					t.Errorf("%s for %s, who is not masked:\n%s\ndirectly:\n%s", name, role, got, want)
				}
			}
		}
	})
}

// TestPsqlDescribes: psql's \d and \d+ say of masked columns what RowDescription says.
func TestPsqlDescribes(t *testing.T) {
	psql, err := exec.LookPath("psql")
	if err != nil {
		t.Fatal("psql is needed: install postgresql-client")
	}
	onEachProtected(t, func(t *testing.T, e *env) {
		other := e.twin(t)
		run := func(dsn string) string {
			out, err := exec.CommandContext(t.Context(), psql, "-X", "-c", `\d customers`, "-c", `\d+ customers`, "-c", `\gdesc`, dsn).CombinedOutput()
			if err != nil {
				t.Fatalf("%v: %s", err, out)
			}
			return string(out)
		}
		if got, want := run(e.dsn(analyst)), run(other.directDSN(analyst)); got != want || strings.Count(got, "double precision") != 6 {
			t.Errorf("masked:\n%s\nwith the shown types:\n%s", got, want)
		}
	})
}

// TestColumnsListed: information_schema.columns lists a masked column for those who see the mask, and only for those; it agrees with
// RowDescription for every role.
func TestColumnsListed(t *testing.T) {
	onEachProtected(t, func(t *testing.T, e *env) {
		const query = `SELECT column_name, data_type, numeric_precision FROM information_schema.columns WHERE table_name = 'customers' ORDER BY ordinal_position`
		for role, want := range map[string]string{
			analyst: "id|integer|32 region|text|∅ age|double precision|53 income|double precision|53 score|double precision|53 vip|boolean|∅ Note|text|∅ ",
			risk:    "id|integer|32 region|text|∅ age|integer|32 income|numeric|12 score|double precision|53 vip|boolean|∅ Note|text|∅ ",
			olga:    "id|integer|32 region|text|∅ age|integer|32 income|numeric|12 score|double precision|53 vip|boolean|∅ Note|text|∅ ",
			guest:   "",
		} {
			conn := e.connect(t, role)
			if got := strings.ReplaceAll(mustText(t, conn, query), "\n", " "); got != want {
				t.Errorf("%s: %s", role, got)
			}
			for _, mode := range []pgx.QueryExecMode{pgx.QueryExecModeCacheStatement, pgx.QueryExecModeSimpleProtocol} {
				n := 0
				err := conn.QueryRow(t.Context(), `SELECT count(*) FROM information_schema.columns WHERE table_name = $1 AND data_type <> 'money'`, mode, "customers").Scan(&n)
				if err != nil || n != strings.Count(want, " ")-strings.Count(want, "double precision") {
					t.Errorf("%s: %d columns: %v", role, n, err)
				}
			}
			for path, shown := range map[string]string{"information_schema, public": want, "public, information_schema, pg_catalog": ""} {
				e.exec(t, conn, `SET search_path = `+path)
				got := strings.ReplaceAll(mustText(t, conn, strings.Replace(query, "information_schema.", "", 1)), "\n", " ")
				if got != want && (shown != "" || role != analyst || got != "id|integer|32 region|text|∅ vip|boolean|∅ Note|text|∅ ") {
					t.Errorf("%s, search_path %s: %s", role, path, got)
				}
			}
		}
	})
}

// TestCatalogsFollow: what was prepared tells of the masks of now, and is never refused.
func TestCatalogsFollow(t *testing.T) {
	onEachProtected(t, func(t *testing.T, e *env) {
		owner, conn := e.connect(t, olga), e.connect(t, analyst)
		const query = `SELECT data_type, format_type(atttypid, atttypmod) FROM information_schema.columns c
			JOIN pg_attribute a ON a.attname = c.column_name AND a.attrelid = 'customers'::regclass WHERE c.table_name = 'customers' AND c.column_name = $1`
		if _, err := conn.Prepare(t.Context(), "asks", query); err != nil {
			t.Fatal(err)
		}
		says := func(want string) {
			t.Helper()
			var columns, attribute string
			if err := conn.QueryRow(t.Context(), "asks", "income").Scan(&columns, &attribute); err != nil || columns+" "+attribute != want {
				t.Errorf("%s %s, not %s: %v", columns, attribute, want, err)
			}
		}
		says("double precision double precision")
		e.exec(t, owner, `CREATE OR REPLACE MASKING POLICY p ON customers (age, income, score) EXCEPT risk USING ENCODER enc PRESENT AS VECTOR`)
		eventually(t, func() bool {
			return mustText(t, conn, `SELECT 1 FROM pg_attribute WHERE attrelid = 'customers'::regclass AND attname = 'income' AND atttypid = 1021`) != ""
		})
		says("ARRAY real[]")
		e.exec(t, owner, `DROP MASKING POLICY p ON customers`)
		eventually(t, func() bool {
			return mustText(t, conn, `SELECT 1 FROM pg_attribute WHERE attrelid = 'customers'::regclass AND attname = 'income' AND atttypid = 1700`) != ""
		})
		says("numeric numeric(12,2)")
	})
}

// TestCatalogsPlan: \d of a masked role finds its rows by the catalog's index, and what does not ask for types is not touched.
func TestCatalogsPlan(t *testing.T) {
	onEachProtected(t, func(t *testing.T, e *env) {
		conn := e.connect(t, analyst)
		oid := strings.TrimSpace(mustText(t, conn, `SELECT 'customers'::regclass::oid`))
		for name, query := range asked(t) {
			if !strings.HasPrefix(name, "psql") && !strings.HasPrefix(name, "DBeaver") {
				continue
			}
			plan := mustText(t, conn, `EXPLAIN `+strings.ReplaceAll(query, ":oid", oid))
			if !regexp.MustCompile(`Index (Only )?Scan using pg_attribute_relid_att(num|nam)_index on pg_attribute`).MatchString(plan) || strings.Contains(plan, "Seq Scan on pg_attribute") {
				t.Errorf("%s:\n%s", name, plan)
			}
		}
		var copied bytes.Buffer
		if _, err := conn.PgConn().CopyTo(t.Context(), &copied, `COPY (SELECT format_type(atttypid, atttypmod) FROM pg_attribute WHERE attrelid = `+oid+` AND attname = 'income') TO STDOUT`); err != nil || copied.String() != "double precision\n" {
			t.Errorf("COPY: %q %v", copied.String(), err)
		}
		names := `SELECT attname FROM pg_attribute WHERE attrelid = ` + oid
		if got, want := mustText(t, conn, `EXPLAIN `+names), mustText(t, e.directly(t, analyst), `EXPLAIN `+names); got != want {
			t.Errorf("names alone:\n%s\ndirectly:\n%s", got, want)
		}
		described, err := conn.Prepare(t.Context(), "described", `SELECT attname, atttypid, attlen, data_type FROM pg_attribute, information_schema.columns`)
		if err != nil {
			t.Fatal(err)
		}
		direct, err := e.directly(t, analyst).Prepare(t.Context(), "described", described.SQL)
		if err != nil {
			t.Fatal(err)
		}
		if got, want := fmt.Sprint(described.Fields), fmt.Sprint(direct.Fields); got != want {
			t.Errorf("RowDescription %s, directly %s", got, want)
		}
	})
}

// TestCatalogsOfKinds: for relations of every kind the catalogs tell the types that RowDescription has.
func TestCatalogsOfKinds(t *testing.T) {
	onEach(t, func(t *testing.T, e *env) {
		e.exec(t, e.connect(t, olga), `ALTER TABLE customers ENABLE ROW LEVEL SECURITY`, `CREATE POLICY few ON customers USING (region = 'EU')`, testPolicy)
		e.describesAll(t, "customers", "r")
	})
	for _, kind := range kinds {
		t.Run(kind.name, func(t *testing.T) {
			onEach(t, func(t *testing.T, e *env) {
				become(t, e, olga, kind.make, "public", "integer", "numeric(12,2)")
				e.exec(t, e.admin(t), `SET SESSION AUTHORIZATION olga`, `GRANT SELECT ON customers TO analyst`, `DO $$ BEGIN REVOKE SELECT ON customers_was FROM analyst; EXCEPTION WHEN undefined_table THEN NULL; END $$`)
				e.exec(t, e.connect(t, olga), testPolicy)
				e.describesAll(t, "customers", strings.TrimSpace(mustText(t, e.admin(t), `SELECT relkind FROM pg_class WHERE oid = 'customers'::regclass`)))
			})
		})
	}
}

// describesAll compares what a masked role hears of a relation's columns.
func (e *env) describesAll(t *testing.T, relation, kind string) {
	t.Helper()
	conn := e.connect(t, analyst)
	row, err := conn.Prepare(t.Context(), "row", `SELECT * FROM `+relation)
	if err != nil {
		t.Fatal(explain(err))
	}
	attributes, columns := "", ""
	for _, f := range row.Fields {
		name := mustText(t, conn, fmt.Sprintf(`SELECT typname, format_type(%d, %d) FROM pg_type WHERE oid = %[1]d`, f.DataTypeOID, f.TypeModifier))
		typname, formatted, _ := strings.Cut(name, "|")
		attributes += f.Name + "|" + formatted
		columns += f.Name + "|" + typname + "\n"
	}
	if strings.Count(attributes, "double precision") != 3 {
		t.Errorf("%s", attributes)
	}
	if got := mustText(t, conn, `SELECT attname, format_type(atttypid, atttypmod) FROM pg_attribute WHERE attrelid = '`+relation+`'::regclass AND attnum > 0 AND NOT attisdropped ORDER BY attnum`); got != attributes {
		t.Errorf("pg_attribute:\n%s\nRowDescription:\n%s", got, attributes)
	}
	if got := mustText(t, conn, `SELECT column_name, udt_name FROM information_schema.columns WHERE table_name = '`+relation+`' ORDER BY ordinal_position`); got != columns && kind != "m" {
		t.Errorf("information_schema.columns:\n%s\nRowDescription:\n%s", got, columns)
	}
}
