package integration_test

import (
	"fmt"
	"os"
	"strings"
	"testing"
)

// kinds make customers, which is a table, something else with the same columns and rows, and do the same to the table of codes.
// {} stands for the schema, of which olga or the superuser owns everything.
var kinds = []struct {
	name string
	make []string
	// without says which words of a case do not apply.
	without []string
}{
	{"partitioned", []string{
		`ALTER TABLE {}.customers RENAME TO customers_was`,
		`CREATE TABLE {}.customers (LIKE {}.customers_was, PRIMARY KEY (id)) PARTITION BY RANGE (id)`,
		`CREATE TABLE {}.customers_low PARTITION OF {}.customers FOR VALUES FROM (0) TO (700)`,
		`CREATE TABLE {}.customers_high PARTITION OF {}.customers FOR VALUES FROM (700) TO (100000) PARTITION BY RANGE (id)`,
		// other column numbers, and one that was dropped
		`CREATE TABLE {}.customers_mid (gone integer, LIKE {}.customers_was)`,
		`ALTER TABLE {}.customers_mid DROP COLUMN gone, DROP COLUMN age`,
		`ALTER TABLE {}.customers_mid ADD COLUMN age {age}, ALTER COLUMN id SET NOT NULL`,
		`ALTER TABLE {}.customers_high ATTACH PARTITION {}.customers_mid FOR VALUES FROM (700) TO (1500)`,
		`CREATE TABLE {}.customers_top PARTITION OF {}.customers_high DEFAULT`,
		`INSERT INTO {}.customers SELECT * FROM {}.customers_was`,
	}, []string{"ctid"}},
	{"inherited", []string{
		`CREATE TABLE {}.customers_more (extra text) INHERITS ({}.customers)`,
		`WITH moved AS (DELETE FROM ONLY {}.customers WHERE id % 3 = 0 RETURNING *) INSERT INTO {}.customers_more SELECT *, 'more' FROM moved`,
	}, []string{"ctid"}},
	{"materialized view", []string{
		`ALTER TABLE {}.customers RENAME TO customers_was`,
		`CREATE MATERIALIZED VIEW {}.customers AS SELECT * FROM {}.customers_was`,
	}, []string{"FOR ", "LOCK", "INSERT INTO customers", "UPDATE customers", "DELETE FROM customers", "MERGE", "EXPLAIN"}},
	{"view", []string{
		`ALTER TABLE {}.customers RENAME TO customers_was`,
		`CREATE VIEW {}.customers AS SELECT * FROM {}.customers_was`,
	}, withoutPlace},
	{"foreign table", []string{
		`ALTER TABLE {}.customers RENAME TO customers_was`,
		`CREATE FOREIGN TABLE {}.customers (id integer, region text, age {age}, income {income}, score float8, vip boolean, "Note" text) SERVER loopback OPTIONS (schema_name '{}', table_name 'customers_was')`,
	}, withoutPlace},
}

// withoutPlace are words of statements that a view, or a table elsewhere, does not take, or Scrim for them.
var withoutPlace = []string{"FOR ", "LOCK", "TABLESAMPLE", "ctid", "xmin", "tableoid", "INSERT INTO customers", "UPDATE customers", "DELETE FROM customers", "MERGE", "EXPLAIN"}

// become makes customers of a schema another kind of relation.
func become(t *testing.T, e *env, as string, statements []string, schema, age, income string) {
	t.Helper()
	admin := e.admin(t)
	e.exec(t, admin, `CREATE EXTENSION IF NOT EXISTS postgres_fdw`)
	if mustText(t, admin, `SELECT count(*) FROM pg_foreign_server`) == "0\n" {
		host, port, _ := strings.Cut(e.server.Addr(), ":")
		e.exec(t, admin, fmt.Sprintf(`CREATE SERVER loopback FOREIGN DATA WRAPPER postgres_fdw OPTIONS (host '%s', port '%s', dbname '%s')`, host, port, e.database),
			fmt.Sprintf(`CREATE USER MAPPING FOR PUBLIC SERVER loopback OPTIONS (user '%s', password '%s', password_required 'false')`, e.server.Superuser(), e.server.Password()),
			`GRANT USAGE ON FOREIGN SERVER loopback TO olga`)
	}
	e.exec(t, admin, `SET SESSION AUTHORIZATION `+as)
	for _, s := range statements {
		e.exec(t, admin, strings.NewReplacer("{}", schema, "{age}", age, "{income}", income).Replace(s))
	}
}

// TestOracleKinds: what TestOracleClauses shows for a table, for relations of the other kinds.
func TestOracleKinds(t *testing.T) {
	all, share := append(oracleCases(t), generated(60)...), 9
	if os.Getenv("SCRIM_ORACLE") == "all" { // some minutes
		share = 1
	}
	for n, kind := range kinds {
		var cases []string
		for i, c := range all {
			if (i+n)%share == 0 && !containsAny(c, kind.without) {
				cases = append(cases, c)
			}
		}
		t.Run(kind.name, func(t *testing.T) {
			t.Parallel()
			onEach(t, func(t *testing.T, e *env) {
				become(t, e, olga, kind.make, "public", "integer", "numeric(12,2)")
				e.exec(t, e.admin(t), `SET SESSION AUTHORIZATION olga`, `GRANT SELECT ON customers TO analyst, risk`, `DO $$ BEGIN REVOKE SELECT ON customers_was FROM analyst; EXCEPTION WHEN undefined_table THEN NULL; END $$`)
				e.exec(t, e.connect(t, olga), testPolicy)
				checkOracle(t, e, cases, func() { become(t, e, e.server.Superuser(), kind.make, "codes", "float8", "float8") })
				if got := mustText(t, e.connect(t, risk), `SELECT count(*), sum(age), sum(income) FROM customers`); got != "2000|4904167|117229070.00\n" {
					t.Errorf("the exempt role sees %s", got)
				}
				if _, err := text(t, e.directly(t, analyst), `SELECT income FROM customers`); code(err) != "42501" {
					t.Errorf("around the proxy: %v", explain(err))
				}
			})
		})
	}
}

func containsAny(s string, words []string) bool {
	for _, w := range words {
		if strings.Contains(s, w) {
			return true
		}
	}
	return false
}
