package integration_test

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/jackc/pgx/v5"
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
	all := append(oracleCases(t), generated(60)...)
	for n, kind := range kinds {
		cases := slices.DeleteFunc(share(all[n:], 9), func(c string) bool { return containsAny(c, kind.without) })
		t.Run(kind.name, func(t *testing.T) {
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

// TestPartitions: partitions keep their own grants on what is not masked, whatever is attached or detached later; a DROP gives
// everything back.
func TestPartitions(t *testing.T) {
	onEach(t, func(t *testing.T, e *env) {
		become(t, e, olga, kinds[0].make, "public", "integer", "numeric(12,2)")
		admin, owner, reader := e.admin(t), e.connect(t, olga), e.connect(t, analyst)
		e.exec(t, admin, asOlga(`DROP TABLE customers_was`, `GRANT SELECT ON customers, customers_mid TO analyst`, `GRANT SELECT ON customers TO risk`)...)
		privileges := strings.ReplaceAll(allPrivileges, "'customers'", "'customers_mid'")
		before, partBefore := mustText(t, admin, allPrivileges), mustText(t, admin, privileges)
		e.exec(t, owner, testPolicy)

		if got := mustText(t, reader, `SELECT count(*), count(DISTINCT tableoid), max(id) FROM customers WHERE income IS NOT NULL`); got != "2000|3|2000\n" {
			t.Error(got)
		}
		if got := mustText(t, reader, `SELECT count(*) FROM customers_mid WHERE id < 800`); got != "100\n" {
			t.Error(got)
		}
		// A part by its own name shows the codes to whom it shows anything.
		if got := mustText(t, reader, `SELECT count(*) FROM customers c JOIN customers_mid m ON (m.id, m.age, m.income, m.score) = (c.id, c.age, c.income, c.score)`); got != "800\n" {
			t.Error(got)
		}
		for _, q := range []string{`SELECT income FROM customers_mid`, `SELECT m FROM customers_mid m`, `SELECT age FROM customers_low`} {
			if _, err := text(t, e.directly(t, analyst), q); code(err) != "42501" {
				t.Errorf("around: %s: %v", q, explain(err))
			}
		}
		if _, err := text(t, reader, `SELECT age FROM customers_low`); code(err) != "42501" {
			t.Errorf("of a part that the role may not read: %v", explain(err))
		}
		if _, err := text(t, owner, `DROP MASKING POLICY p ON customers_low`); code(err) != "2BP01" {
			t.Errorf("dropping a part's: %v", explain(err))
		}
		if _, err := text(t, owner, `CREATE MASKING POLICY q ON customers_low (age) USING ENCODER enc`); code(err) != "2BP01" {
			t.Errorf("a second policy on a part: %v", explain(err))
		}

		// What comes later is masked too; what it shows by itself, its own grants decide, which the walk looks at.
		e.exec(t, admin, asOlga(`CREATE TABLE customers_far (LIKE customers INCLUDING ALL)`, `INSERT INTO customers_far SELECT id + 200000, region, age, income, score, vip, "Note" FROM customers WHERE id < 10`,
			`GRANT SELECT ON customers_far TO analyst`, `ALTER TABLE customers ATTACH PARTITION customers_far FOR VALUES FROM (200000) TO (300000)`)...)
		same := `SELECT count(*) FROM customers a JOIN customers b ON b.id = a.id + 200000 AND (a.age, a.income, a.score) = (b.age, b.income, b.score)`
		if got := mustText(t, reader, same); got != "9\n" {
			t.Errorf("%s rows of the new partition have the codes of their likes", got)
		}
		if got := mustText(t, admin, `SELECT count(*) FROM scrim.masking_policy_openings('p', 'customers') WHERE why LIKE 'analyst may still SELECT column%'`); got != "3\n" {
			t.Errorf("%s openings by the new partition's grant", got)
		}
		e.exec(t, admin, asOlga(`ALTER TABLE customers DETACH PARTITION customers_far`, `DROP TABLE customers_far`)...)

		e.exec(t, admin, asOlga(`ALTER TABLE customers DROP CONSTRAINT customers_pkey1`, `CREATE FOREIGN TABLE customers_far PARTITION OF customers FOR VALUES FROM (200000) TO (300000) SERVER loopback`)...)
		if _, err := text(t, reader, `SELECT income FROM customers WHERE id = 1`); code(err) != "0A000" || !strings.Contains(explain(err), "foreign") {
			t.Errorf("with a foreign partition: %v", explain(err))
		}
		e.exec(t, admin, asOlga(`DROP FOREIGN TABLE customers_far`)...)

		e.exec(t, admin, asOlga(`ALTER TABLE customers_high DETACH PARTITION customers_mid`)...)
		if got := mustText(t, reader, `SELECT count(DISTINCT income) FROM customers_mid`); got != "800\n" {
			t.Errorf("detached: %s", got)
		}
		e.exec(t, owner, `DROP MASKING POLICY p ON customers`)
		if after := mustText(t, admin, privileges); after != partBefore {
			t.Errorf("the partition's privileges:\n%s", difference(partBefore, after))
		}
		if after := mustText(t, admin, allPrivileges); after != before {
			t.Errorf("the table's privileges:\n%s", difference(before, after))
		}
	})
}

// TestLaterChild: rows of a table's first child cannot be told from its own by their places, so masked columns are closed
// until the policy is made again.
func TestLaterChild(t *testing.T) {
	onEachProtected(t, func(t *testing.T, e *env) {
		reader := e.connect(t, analyst)
		mustText(t, reader, `SELECT income FROM customers WHERE id = 1`)
		e.exec(t, e.admin(t), asOlga(`CREATE TABLE kids () INHERITS (customers)`, `INSERT INTO kids SELECT * FROM customers WHERE id < 5`)...)
		for _, q := range []string{`SELECT income FROM customers WHERE id = 1`, `SELECT max(income) FROM customers`} {
			if _, err := text(t, reader, q); code(err) != "0A000" || !strings.Contains(explain(err), "children") {
				t.Errorf("%s: %v", q, explain(err))
			}
		}
		if got := mustText(t, e.connect(t, olga), `SELECT object FROM scrim.masking_policy_openings('p', 'customers')`); got != "children\n" {
			t.Errorf("the walk lists %s", got)
		}
		e.exec(t, e.connect(t, olga), `DROP MASKING POLICY p ON customers`, testPolicy)
		if got := mustText(t, reader, `SELECT count(*), count(DISTINCT income) FROM customers WHERE id < 5`); got != "8|4\n" {
			t.Error(got)
		}
	})
}

// viewWorld has views over customers, of which nobody but olga may read.
var viewWorld = asOlga(
	`REVOKE SELECT ON customers FROM analyst, risk`,
	`CREATE VIEW people AS SELECT c.id, c.income AS salary, c.age, c.score, c.vip, o.amount, c.region FROM customers c LEFT JOIN orders o ON o.id = c.id`,
	`GRANT SELECT ON people TO analyst`,
)

// TestProtectedView: the ways around a mask on a view, through the view and beneath it.
func TestProtectedView(t *testing.T) {
	const policy = `CREATE MASKING POLICY p ON people (age, salary, score) EXCEPT risk USING ENCODER enc (age, salary, score, vip)`
	openings := []struct {
		plant []string
		want  string
	}{
		{asOlga(`GRANT SELECT ON customers TO analyst`), "privilege analyst: analyst may still SELECT column income"},
		{asOlga(`GRANT SELECT (score) ON customers TO guest`), "privilege guest: guest may still SELECT column score"},
		{asOlga(`CREATE OR REPLACE VIEW people AS SELECT c.id, c.income AS salary, c.age, c.score, c.vip, o.amount, c.region, c.income AS again FROM customers c LEFT JOIN orders o ON o.id = c.id`), "column again"},
		{asOlga(`CREATE OR REPLACE VIEW people AS SELECT c.id, c.income AS salary, c.age, c.score, c.vip, o.amount, c.region, c.income > 5 AS rich FROM customers c LEFT JOIN orders o ON o.id = c.id`), "column rich"},
		{asOlga(`CREATE OR REPLACE VIEW people AS SELECT c.id, c.income AS salary, c.age, c.score, c.vip, o.amount, c.region FROM customers c LEFT JOIN orders o ON o.id = c.id WHERE c.score > 500`), "view public.people"},
		{asOlga(`CREATE OR REPLACE VIEW people AS SELECT c.id, c.income AS salary, substr(c."Note", 6)::int AS age, c.score, c.vip, o.amount, c.region FROM customers c LEFT JOIN orders o ON o.id = c.id`), "column age"},
		{asOlga(`CREATE VIEW second AS SELECT income FROM customers`, `GRANT SELECT ON second TO analyst`), "view public.second"},
		{asOlga(`CREATE VIEW second AS SELECT id, salary + 0 AS s FROM people`, `GRANT SELECT ON second TO analyst`), "view public.second"},
		{asOlga(`CREATE INDEX leak ON customers (income) INCLUDE (id)`), "index public.leak"},
		{asOlga(`GRANT DELETE ON people TO analyst`), "privilege analyst: analyst may DELETE on the view"},
		{asOlga(`GRANT UPDATE (region) ON people TO analyst`), "privilege analyst: analyst may UPDATE on the view"},
		{asOlga(`CREATE FUNCTION leak(numeric) RETURNS numeric LANGUAGE plpgsql AS 'BEGIN RETURN abs($1); END'`,
			`CREATE OR REPLACE VIEW people AS SELECT c.id, leak(c.income)::numeric(12,2) AS salary, c.age, c.score, c.vip, o.amount, c.region FROM customers c LEFT JOIN orders o ON o.id = c.id`), "function public.leak(numeric)"},
		{asOlga(`CREATE RULE leak AS ON INSERT TO people DO INSTEAD NOTIFY x`), "rule leak"},
		// of a UNION it is not known which columns are whose
		{asOlga(`DROP VIEW people`, `CREATE VIEW people AS SELECT id, income AS salary, age, score, vip FROM customers UNION ALL SELECT id, income, age, score, vip FROM customers`,
			`GRANT SELECT (income) ON customers TO analyst`), "privilege analyst: analyst may still SELECT column income"},
	}
	onEach(t, func(t *testing.T, e *env) {
		admin := e.admin(t)
		e.exec(t, admin, viewWorld...)
		for _, o := range openings {
			e.exec(t, admin, slices.Concat([]string{`BEGIN`}, o.plant)...)
			_, err := text(t, admin, `SELECT scrim.create_masking_policy('p', 'people', '{age,salary,score}', '{risk}', 'enc', '{age,salary,score,vip}')`)
			if code(err) != "55000" || !strings.Contains(explain(err), o.want) {
				t.Errorf("%s\ngot %v\nwant 55000 naming %q", o.plant[1], explain(err), o.want)
			}
			e.exec(t, admin, `ROLLBACK`)
		}
		for statement, want := range map[string]string{
			`ALTER VIEW people SET (security_invoker = true)`: "security_invoker",
			`CREATE VIEW people2 AS SELECT id AS ctid, income AS salary, age, score, vip FROM customers; ALTER VIEW people RENAME TO was; ALTER VIEW people2 RENAME TO people`: "like a system column",
		} {
			e.exec(t, admin, `BEGIN`, statement)
			_, err := text(t, admin, `SELECT scrim.create_masking_policy('p', 'people', '{age}', '{}', 'enc', '{age,salary,score,vip}')`)
			if code(err) != "0A000" || !strings.Contains(explain(err), want) {
				t.Errorf("%s: %v", statement, explain(err))
			}
			e.exec(t, admin, `ROLLBACK`)
		}

		before := mustText(t, e.admin(t), strings.ReplaceAll(allPrivileges, "'customers'", "'people'"))
		e.exec(t, e.connect(t, olga), policy)
		reader := e.connect(t, analyst)
		if got := mustText(t, reader, `SELECT count(*), count(DISTINCT salary), count(amount) FROM people`); got != "2000|2000|300\n" {
			t.Error(got)
		}
		if got := mustText(t, e.connect(t, risk), `SELECT salary FROM people WHERE id = 2000`); got != "2342108.75\n" {
			t.Errorf("the exempt role sees %s", got)
		}
		// A row that is read twice has two seals.
		view := strings.TrimSpace(mustText(t, e.admin(t), `SELECT masked_view::regclass FROM scrim_state.protections WHERE relation = 'people'::regclass`))
		sealed := strings.TrimSpace(mustText(t, e.admin(t), `SELECT attname FROM pg_attribute WHERE attrelid = '`+view+`'::regclass AND attname LIKE 'sealed%'`))
		rows := map[string]bool{}
		for range 5 {
			r := e.directly(t, analyst).PgConn().ExecParams(t.Context(), `SELECT `+sealed+` FROM `+view+` WHERE id = 7`, nil, nil, nil, []int16{1}).Read()
			if r.Err != nil {
				t.Fatal(explain(r.Err))
			}
			rows[string(r.Rows[0][0])] = true
		}
		if len(rows) != 5 {
			t.Errorf("%d seals for five reads of a row", len(rows))
		}
		e.exec(t, e.connect(t, olga), `DROP MASKING POLICY p ON people`)
		if after := mustText(t, e.admin(t), strings.ReplaceAll(allPrivileges, "'customers'", "'people'")); after != before {
			t.Errorf("the view's privileges:\n%s", difference(before, after))
		}
	})
}

// TestListsOfViews: rows of a view have no place, so a staged statement reads the list in its stead. Every type must come
// through that, whatever the client's settings; and the list and the rest of the statement are of one snapshot.
func TestListsOfViews(t *testing.T) {
	onEach(t, func(t *testing.T, e *env) {
		e.exec(t, e.admin(t), `CREATE TYPE public.mood AS ENUM ('sad "', 'it''s, \ ok')`, `CREATE DOMAIN public.small AS integer CHECK (VALUE < 100)`, `CREATE TYPE public.pair AS (a integer, "B c" text)`)
		e.exec(t, e.admin(t), asOlga(`CREATE VIEW odd AS SELECT c.id, c.age, c.income, c.score, c.vip,
			(ARRAY['it''s', E'back\\slash', 'quo"te', E'new\nline\ttab', '', NULL, 'NULL', '{1,2}', 'größe ✓'])[1 + c.id % 9] AS words,
			c.id / 7.0::float8 AS f8, (c.id / 3.0)::real AS f4, (c.id * 1.005)::numeric(9,2) AS num, c.id::char(7) AS padded, ('v' || c.id)::varchar(5) AS short,
			decode(lpad(to_hex(c.id), 4, '0'), 'hex') AS bytes, ARRAY[c.id, NULL, 2] AS ints, ARRAY[['a"b', 'c'], [NULL, 'd,e']] AS texts,
			timestamptz '2021-03-28 01:30:00.123456+00' + c.id * interval '1 hour' AS at, date '0044-03-15 BC' + c.id AS day, time '13:14:15.5' AS clock,
			-c.id * interval '1 mon 2 days 03:04:05.6' AS span, jsonb_build_object('k', c.id, 'q', '"') AS js, (ARRAY['sad "', E'it''s, \\ ok'])[1 + c.id % 2]::mood AS feels,
			(c.id % 100)::small AS dom, ROW(c.id, 'x "y", z')::pair AS two, int4range(c.id, c.id + 5) AS span4, 'DEADBEEF-0000-4000-8000-000000000001'::uuid AS u,
			CASE WHEN c.id % 2 = 0 THEN '192.168.0.1/24'::inet END AS net, c.region COLLATE "C" AS sorted, '1'::xml AS x, c.id::bit(9) AS bits, 12.5::money AS cash
			FROM customers c WHERE c.id <= 60`, `GRANT SELECT ON odd TO analyst, risk`, `REVOKE SELECT ON customers FROM analyst`)...)
		e.exec(t, e.connect(t, olga), `CREATE MASKING POLICY p ON odd (age, income, score) EXCEPT risk USING ENCODER enc`)
		reader, exempt := e.connect(t, analyst), e.directly(t, risk)
		columns := mustText(t, e.admin(t), `SELECT string_agg(attname, ', ' ORDER BY attnum) FROM pg_attribute WHERE attrelid = 'odd'::regclass AND attnum > 5`)
		for _, settings := range [][]string{
			nil,
			{`SET extra_float_digits = -5`, `SET datestyle = 'SQL, DMY'`, `SET intervalstyle = 'sql_standard'`, `SET bytea_output = 'escape'`, `SET timezone = 'Asia/Kolkata'`},
			{`SET datestyle = 'German'`, `SET intervalstyle = 'iso_8601'`, `SET timezone = 'America/St_Johns'`},
		} {
			for _, conn := range []*pgx.Conn{reader, exempt} {
				e.exec(t, conn, settings...)
			}
			for _, q := range []string{
				`SELECT id, ` + columns + ` FROM odd WHERE income IS NOT NULL ORDER BY id`,
				`SELECT id, pg_typeof(num), num + 0.005, f8 * 3, at + interval '1 day', upper(span4), two, ints[1], length(padded), sorted < 'b', dom + 1, feels::text FROM odd WHERE income IS NOT NULL ORDER BY sorted, id`,
				`COPY (SELECT id, ` + columns + ` FROM odd WHERE income IS NOT NULL ORDER BY id) TO STDOUT`,
			} {
				want := copied(t, exempt, strings.ReplaceAll(q, "income IS NOT NULL", "true"))
				if got := copied(t, reader, q); got != want {
					t.Errorf("%s\n%v\n%s", q, settings, difference(want, got))
				}
			}
		}

		// One snapshot.
		join := `SELECT count(*) FROM odd d JOIN orders o ON o.id = d.id WHERE d.income IS NOT NULL`
		e.exec(t, e.admin(t), `CREATE SCHEMA mine AUTHORIZATION analyst`)
		e.exec(t, reader, `RESET ALL`, `CREATE DOMAIN mine.date AS text`, `SET search_path = mine, pg_catalog, public`)
		if got := mustText(t, reader, `SELECT pg_typeof(day) = 'pg_catalog.date'::regtype FROM odd WHERE income IS NOT NULL LIMIT 1`); got != "t\n" {
			t.Error("a type of the client's stands for PostgreSQL's")
		}
		e.exec(t, reader, `RESET ALL`)
		if got := mustText(t, reader, join); got != "60\n" {
			t.Error(got)
		}
		e.exec(t, reader, `BEGIN ISOLATION LEVEL REPEATABLE READ`)
		if got := mustText(t, reader, join); got != "60\n" {
			t.Error(got)
		}
		e.exec(t, reader, `COMMIT`, `BEGIN`)
		if got := mustText(t, reader, `SELECT count(*) FROM odd WHERE income IS NOT NULL`); got != "60\n" {
			t.Error(got)
		}
		if _, err := text(t, reader, join); code(err) != "0A000" || !strings.Contains(explain(err), "REPEATABLE READ") {
			t.Errorf("beside other relations in READ COMMITTED: %v", explain(err))
		}
		e.exec(t, reader, `ROLLBACK`)
	})
}

// copied runs a statement by the simple protocol and returns its rows, or what it copies.
func copied(t *testing.T, conn *pgx.Conn, query string) string {
	t.Helper()
	if !strings.HasPrefix(query, "COPY") {
		return mustText(t, conn, query)
	}
	var b strings.Builder
	if _, err := conn.PgConn().CopyTo(t.Context(), &b, query); err != nil {
		t.Fatalf("%s: %v", query, explain(err))
	}
	return b.String()
}

// TestCascade: CASCADE masks the copies of masked columns in views, and in views over those; what a view does besides stays an opening.
func TestCascade(t *testing.T) {
	const cascade = testPolicy + ` CASCADE`
	onEach(t, func(t *testing.T, e *env) {
		admin, owner := e.admin(t), e.connect(t, olga)
		e.exec(t, admin, asOlga(
			`CREATE VIEW pay AS SELECT o.amount, c.income AS pay, c.vip, c.score, c.id, c.age FROM customers c JOIN orders o ON o.id = c.id WHERE c.region = 'EU'`,
			`CREATE VIEW few AS SELECT id, pay, score, vip, age FROM pay WHERE id < 100`,
			`CREATE MATERIALIZED VIEW kept AS SELECT c.id, c.vip, c.age, c.income, c.score FROM customers c`,
			`CREATE VIEW private AS SELECT income * 2 AS twice FROM customers`,
			`GRANT SELECT ON pay, few, kept TO analyst`)...)
		privileges := func() string {
			var b strings.Builder
			for _, name := range []string{"customers", "pay", "few", "kept"} {
				b.WriteString(mustText(t, admin, strings.ReplaceAll(allPrivileges, "'customers'", "'"+name+"'")))
			}
			return b.String()
		}
		before := privileges()
		if _, err := text(t, owner, testPolicy); code(err) != "55000" || !strings.Contains(explain(err), "view public.few") {
			t.Errorf("without CASCADE: %v", explain(err))
		}
		for plant, want := range map[string]string{
			`CREATE VIEW bad AS SELECT id, vip, score, income, age FROM customers WHERE income > 5`:                                "view public.bad",
			`CREATE VIEW bad AS SELECT id, vip, score, income, age FROM customers ORDER BY income`:                                 "view public.bad",
			`CREATE VIEW bad AS SELECT id, vip, score, income, age, income + 1 AS more FROM customers`:                             "view public.bad",
			`CREATE VIEW bad AS SELECT id, income FROM customers`:                                                                  "view public.bad", // nothing to compute the code from
			`CREATE VIEW bad AS SELECT DISTINCT vip, score, income, age FROM customers`:                                            "view public.bad",
			`CREATE VIEW bad AS SELECT c.vip, c.score, c.income, c.age FROM customers c JOIN orders o ON o.amount = c.income`:      "view public.bad",
			`CREATE VIEW bad AS SELECT c.vip, c.score, c.income, c.age, c FROM customers c`:                                        "view public.bad",
			`CREATE VIEW bad AS SELECT j.vip, j.score, j.income, j.age FROM (customers c CROSS JOIN regions) j WHERE j.income > 3`: "view public.bad",
			`CREATE VIEW bad AS SELECT vip, score, income, age FROM (SELECT * FROM customers) s`:                                   "view public.bad",
			`CREATE VIEW bad AS SELECT vip, score, income, age FROM customers UNION ALL SELECT true, 1, 2, 3`:                      "view public.bad",
			`CREATE VIEW bad AS SELECT c.vip, c.score, c.income, c.age FROM customers c, generate_series(1, c.age) g`:              "view public.bad",
			`CREATE VIEW bad AS SELECT c.vip, c.score, d.income, c.age FROM customers c JOIN customers d ON d.id = c.id + 1`:       "view public.bad", // codes of mixed rows
			`CREATE VIEW bad AS SELECT id, 1 AS one FROM few WHERE pay > 5`:                                                        "view public.bad",
		} {
			e.exec(t, admin, `BEGIN`, `SET LOCAL SESSION AUTHORIZATION olga`, `CREATE TABLE regions (name text)`, plant, `GRANT SELECT ON bad TO analyst`)
			_, err := text(t, admin, `SELECT scrim.create_masking_policy('p', 'customers', '{age,income,score}', '{risk}', 'enc', mend_views => true)`)
			if code(err) != "55000" || !strings.Contains(explain(err), want) || strings.Contains(explain(err), "public.pay") {
				t.Errorf("%s: %v", plant, explain(err))
			}
			e.exec(t, admin, `ROLLBACK`)
		}
		e.exec(t, owner, cascade)
		reader := e.connect(t, analyst)
		if got := mustText(t, reader, `SELECT count(*), bool_and((c.age, c.income, c.score) = (p.age, p.pay, p.score)) FROM pay p JOIN customers c USING (id)`); got != "100|t\n" {
			t.Errorf("pay: %s", got)
		}
		if got := mustText(t, reader, `SELECT count(*), bool_and((c.age, c.income, c.score) = (f.age, f.pay, f.score)) FROM few f JOIN customers c USING (id)`); got != "33|t\n" {
			t.Errorf("few: %s", got)
		}
		if got := mustText(t, reader, `SELECT count(*), bool_and((c.age, c.income, c.score) = (k.age, k.income, k.score)) FROM kept k JOIN customers c USING (id)`); got != "2000|t\n" {
			t.Errorf("kept: %s", got)
		}
		if got := mustText(t, e.admin(t), `SELECT count(*) FROM scrim.masking_policy_openings('p', 'customers')`); got != "0\n" {
			t.Errorf("%s openings", got)
		}
		for _, q := range []string{`SELECT pay FROM pay`, `SELECT score FROM few`, `SELECT age FROM kept`} {
			if _, err := text(t, e.directly(t, analyst), q); code(err) != "42501" {
				t.Errorf("around: %s: %v", q, explain(err))
			}
		}
		e.exec(t, owner, `DROP MASKING POLICY p ON customers`)
		if after := privileges(); after != before {
			t.Errorf("privileges:\n%s", difference(before, after))
		}
		if got := mustText(t, admin, `SELECT count(*) FROM scrim.masking_policies`); got != "0\n" {
			t.Errorf("%s policies are left", got)
		}
	})
}

// TestForeignTable: who may use the foreign server reads the remote table by a foreign table of its own.
func TestForeignTable(t *testing.T) {
	onEach(t, func(t *testing.T, e *env) {
		become(t, e, olga, kinds[4].make, "public", "integer", "numeric(12,2)")
		e.exec(t, e.admin(t), asOlga(`GRANT SELECT ON customers TO analyst`, `REVOKE SELECT ON customers_was FROM analyst`)...)
		e.exec(t, e.admin(t), `GRANT USAGE ON FOREIGN SERVER loopback TO analyst`)
		_, err := text(t, e.connect(t, olga), testPolicy)
		if code(err) != "55000" || !strings.Contains(explain(err), "analyst may use the foreign server") {
			t.Error(explain(err))
		}
	})
}

// TestGeneratedColumns: a generated column is masked as any other, and an input of a mask; what is made of a masked one has to be
// masked along with it.
func TestGeneratedColumns(t *testing.T) {
	onEach(t, func(t *testing.T, e *env) {
		kinds := []string{"STORED"}
		if e.server.Version() >= 180000 {
			kinds = append(kinds, "VIRTUAL")
		}
		for _, kind := range kinds {
			e := e.fresh(t)
			e.exec(t, e.admin(t), asOlga(`ALTER TABLE customers ADD COLUMN monthly numeric GENERATED ALWAYS AS (round(income / 12, 2)) `+kind)...)
			owner, reader := e.connect(t, olga), e.connect(t, analyst)
			if _, err := text(t, owner, testPolicy); code(err) != "55000" || !strings.Contains(explain(err), "generated column monthly") {
				t.Errorf("%s: %v", kind, explain(err))
			}
			const policy = `CREATE MASKING POLICY p ON customers (age, income, score, monthly) EXCEPT risk USING ENCODER enc (age, monthly, score, vip)`
			if kind == "VIRTUAL" { // it is computed in the session of whoever reads it, and an error of it would print raw values
				if _, err := text(t, owner, policy); code(err) != "55000" || !strings.Contains(explain(err), "make it STORED") {
					t.Errorf("%s: %v", kind, explain(err))
				}
				continue
			}
			e.exec(t, owner, policy)
			for _, q := range []string{`SELECT count(DISTINCT monthly), count(DISTINCT income) FROM customers`, `SELECT count(DISTINCT monthly), count(DISTINCT income) FROM (SELECT monthly, income FROM customers WHERE monthly + income > -1e9) c`} {
				if got := mustText(t, reader, q); got != "2000|2000\n" {
					t.Errorf("%s: %s: %s", kind, q, got)
				}
			}
			if _, err := text(t, e.directly(t, analyst), `SELECT monthly FROM customers`); code(err) != "42501" {
				t.Errorf("%s: around the proxy: %v", kind, explain(err))
			}
			if got := mustText(t, e.connect(t, risk), `SELECT monthly FROM customers WHERE id = 2000`); got != "195175.73\n" {
				t.Errorf("%s: the exempt role sees %s", kind, got)
			}
		}
	})
}

// TestNames: names that need quoting, of relations, schemas, columns and roles.
func TestNames(t *testing.T) {
	onEach(t, func(t *testing.T, e *env) {
		e.exec(t, e.admin(t), `CREATE SCHEMA "Größe ✓; DROP" AUTHORIZATION olga`, `GRANT USAGE ON SCHEMA "Größe ✓; DROP" TO analyst`)
		e.exec(t, e.admin(t), asOlga(
			`CREATE TABLE "Größe ✓; DROP"."ta""ble.select" AS SELECT id, age AS "Ünï ""col""", income AS "select", score AS "$1", vip, region AS "it's" FROM customers`,
			`GRANT SELECT ON "Größe ✓; DROP"."ta""ble.select" TO analyst`)...)
		e.exec(t, e.connect(t, olga), `CREATE MASKING POLICY "the "" policy" ON "Größe ✓; DROP"."ta""ble.select" ("Ünï ""col""", "select", "$1") USING ENCODER enc ("Ünï ""col""", "select", "$1", vip)`)
		e.exec(t, e.connect(t, olga), testPolicy)
		reader := e.connect(t, analyst)
		e.exec(t, reader, `SET search_path = "Größe ✓; DROP", public`)
		for _, q := range []string{
			`SELECT count(*) FROM customers c JOIN "Größe ✓; DROP"."ta""ble.select" t USING (id) WHERE (c.age, c.income, c.score) = (t."Ünï ""col""", t."select", t."$1")`,
			`SELECT count(*) FROM customers c NATURAL JOIN (SELECT id, "Größe ✓; DROP"."ta""ble.select"."select" AS income FROM "Größe ✓; DROP"."ta""ble.select") t`,
			`SELECT count("ta""ble.select") FROM U&"ta\0022ble.select"`,
		} {
			if got := mustText(t, reader, q); got != "2000\n" {
				t.Errorf("%s: %s", q, got)
			}
		}
		want := mustText(t, reader, `SELECT age, income, score FROM customers WHERE id = 77`)
		if got := mustText(t, reader, `SELECT "Ünï ""col""", "select", "$1" FROM "ta""ble.select" AS "Größe" WHERE "Größe".id = 77`); got != want {
			t.Errorf("%s, not %s", got, want)
		}
		if got := mustText(t, reader, `SELECT t.c FROM "ta""ble.select" t(a, b, c) WHERE a = 77`); got != strings.Split(want, "|")[1]+"\n" {
			t.Errorf("%s of %s", got, want)
		}
		e.exec(t, e.connect(t, olga), `DROP MASKING POLICY "the "" policy" ON "Größe ✓; DROP"."ta""ble.select"`)
	})
}
