package integration_test

import (
	"os"
	"strings"
	"testing"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
)

// invokerViews are made over the protected table, and again over the table of codes: of all kinds that take a view's place
// differently. The last ones read no masked column.
var invokerViews = []string{
	`plainv AS SELECT * FROM customers`,
	`renamedv(k, r, a, i, "select", "Größe ""x""") AS SELECT id, region, age, income, score, "Note" FROM customers`,
	`filterv AS SELECT id, income, region FROM customers WHERE income > 0.1 AND region <> 'APAC'`,
	`topv AS SELECT id, income FROM customers ORDER BY income DESC NULLS LAST, id LIMIT 40`,
	`distinctv AS SELECT DISTINCT region, vip, income > 0 AS up FROM customers`,
	`onv AS SELECT DISTINCT ON (region) region, id, score FROM customers ORDER BY region, id`,
	`groupedv AS SELECT region, count(*) AS n, max(income) AS top, min(age) AS least FROM customers GROUP BY region HAVING max(score) > -50`,
	`keyedv AS SELECT c.id, c.region, c.income, count(o.id) AS orders FROM customers c LEFT JOIN orders o ON o.customer_id = c.id GROUP BY c.id`,
	`unionv AS SELECT id, income AS x FROM customers WHERE id < 50 UNION ALL SELECT id, score FROM customers WHERE id < 30`,
	`exceptv AS SELECT region, age FROM customers WHERE id < 90 EXCEPT SELECT region, age FROM customers WHERE id < 20`,
	`withv AS WITH w AS (SELECT id, age, income FROM customers WHERE id < 200), x(a, b) AS (SELECT id, income FROM w) SELECT w.id, w.age, x.b FROM w JOIN x ON x.a = w.id`,
	`recursivev AS WITH RECURSIVE r(id, income, depth) AS (SELECT id, income, 1 FROM customers WHERE id = 1 UNION ALL SELECT c.id, c.income, r.depth + 1 FROM r JOIN customers c ON c.id = r.id + 1 WHERE r.depth < 9) SELECT * FROM r`,
	`joinedv AS SELECT o.id AS order_id, c.id, c.income, o.amount FROM customers c JOIN orders o ON o.customer_id = c.id AND o.amount > c.income`,
	`usingv AS SELECT region, c.age, o.amount FROM customers c JOIN orders o USING (id, region)`,
	`outerv AS SELECT o.id, c.income FROM orders o LEFT JOIN customers c ON c.id = o.customer_id AND c.vip`,
	`lateralv AS SELECT o.id, k.income FROM orders o, LATERAL (SELECT c.income FROM customers c WHERE c.id = o.customer_id) k`,
	`sublinkv AS SELECT id, (SELECT max(d.income) FROM customers d WHERE d.id <= c.id AND d.id < 20) AS m FROM customers c WHERE EXISTS (SELECT 1 FROM customers e WHERE e.id = c.id AND e.age > 0)`,
	`windowv AS SELECT id, region, rank() OVER w AS place, lag(income) OVER w AS before FROM customers WINDOW w AS (PARTITION BY region ORDER BY income, id)`,
	`rowv AS SELECT id, ROW(age, income) < ROW(income, age) AS pair, ARRAY[age, income] AS list, to_json(c) AS whole FROM (SELECT id, age, income FROM customers) c`,
	`exprv AS SELECT id, income + age AS s, coalesce(income, 0) AS z, income::text AS t, CASE WHEN income > 0 THEN region ELSE 'x' END AS k, income IS NULL AS n FROM customers`,
	`valuesv AS VALUES (1, (SELECT max(income) FROM customers)), (2, (SELECT min(income) FROM customers))`,
	`collatedv AS SELECT id, region COLLATE "C" AS region, income FROM customers WHERE region COLLATE "C" < 'US' ORDER BY region COLLATE "C", id`,
	`datedv AS SELECT id, income, date '2020-02-01' + id AS day, timestamptz '2020-01-01 12:00+03' AS at, interval '-1 day 2 hours' AS i, 0.1::float8 + 0.2::float8 AS f, '\x00ff'::bytea AS b FROM customers`,
	`operatorv AS SELECT id, income OPERATOR(pg_catalog.*) 2 AS twice, id OPERATOR(shop.===) 7 AS seven, shop.half(income::float8) AS half, 'big'::shop.size AS size FROM customers`,
	`systemv AS SELECT ctid IS NOT NULL AS there, id, income FROM customers`,
	`sampledv AS SELECT id, income FROM customers TABLESAMPLE system (100)`,
	`stringsv AS SELECT id, income, 'it''s \ "a" $1 ; -- /*' AS s FROM customers`,
	`catalogv AS SELECT c.relname::text, (SELECT count(income) FROM customers) AS n FROM pg_class c WHERE c.relname = 'pg_class'`,
	`nestedv AS SELECT f.id, f.income, p.score FROM filterv f JOIN plainv p USING (id)`,
	`deepv AS SELECT id, income + score AS x FROM nestedv WHERE income < 5 ORDER BY id`,
	`mixedv AS SELECT p.id, p.income, q.region FROM plainv p JOIN openv q ON q.id = p.id`,
	`"Odd View; --" AS SELECT id, income AS "In Come" FROM customers`,
}

const openView = `openv AS SELECT id, region, vip FROM customers`

// invokerWorld makes what the views need besides the table.
const invokerWorld = `CREATE SCHEMA shop; GRANT USAGE ON SCHEMA shop TO PUBLIC; CREATE TYPE shop.size AS ENUM ('small', 'big');
	CREATE FUNCTION shop.same(integer, integer) RETURNS boolean LANGUAGE sql IMMUTABLE AS 'SELECT $1 = $2';
	CREATE OPERATOR shop.=== (FUNCTION = shop.same, LEFTARG = integer, RIGHTARG = integer);
	CREATE FUNCTION shop.half(float8) RETURNS float8 LANGUAGE sql IMMUTABLE AS 'SELECT $1 / 2'`

// TestOracleInvokerViews compares queries over views that run with the invoker's rights with the same over a table of codes.
func TestOracleInvokerViews(t *testing.T) {
	var cases []string
	for line := range strings.Lines(readFile(t, "testdata/invoker")) {
		if line = strings.TrimSpace(line); line != "" && !strings.HasPrefix(line, "#") {
			cases = append(cases, line)
		}
	}
	for _, v := range append([]string{openView}, invokerViews...) {
		name := viewName(v)
		cases = append(cases, "SELECT v::text FROM "+name+" v ORDER BY 1 LIMIT 50", "SELECT * FROM (SELECT * FROM "+name+") v ORDER BY v::text LIMIT 50", "SELECT count(*) FROM "+name)
	}
	for _, c := range share(oracleCases(t), 4) {
		if strings.Contains(c, "customers") && !strings.Contains(c, "public.") && !strings.Contains(c, "EXPLAIN") && !isAboutTable(c) {
			cases = append(cases, strings.ReplaceAll(c, "customers", "plainv"))
		}
	}
	onEachProtected(t, func(t *testing.T, e *env) {
		admin := e.admin(t)
		e.exec(t, admin, invokerWorld, `GRANT CREATE ON SCHEMA public TO olga`)
		e.exec(t, admin, asOlga(makeViews()...)...)
		waitForViews(t, e, "deepv")
		checkOracle(t, e, cases, nil, storedViews(t, e)...)
	})
}

// isAboutTable tells whether a case is one that a view answers in another way than a table.
func isAboutTable(c string) bool {
	for _, s := range []string{"ctid", "xmin", "tableoid", "TABLESAMPLE", "COPY customers", "LOCK", "FOR UPDATE", "FOR SHARE", "FOR NO KEY", "FOR KEY", "GROUP BY id", "GROUP BY c.id", "ROW(customers.*)::"} {
		if strings.Contains(c, s) {
			return true
		}
	}
	return false
}

func makeViews() []string {
	var list []string
	for _, v := range append([]string{openView}, invokerViews...) {
		name, query, _ := strings.Cut(v, " AS ")
		list = append(list, "CREATE VIEW "+name+" WITH (security_invoker) AS "+query, "GRANT SELECT ON "+viewName(v)+" TO analyst")
	}
	return list
}

// storedViews makes the views once more as PostgreSQL has stored them: with the casts that it added for the raw columns' types.
func storedViews(t *testing.T, e *env) []string {
	t.Helper()
	rows, err := e.admin(t).Query(t.Context(), `SELECT format('CREATE VIEW %I (%s) WITH (security_invoker) AS %s', relname,
			(SELECT string_agg(quote_ident(attname), ', ' ORDER BY attnum) FROM pg_attribute WHERE attrelid = c.oid), pg_get_viewdef(oid))
		FROM pg_class c WHERE relkind = 'v' AND relnamespace = 'public'::regnamespace ORDER BY oid`)
	if err != nil {
		t.Fatal(err)
	}
	list, err := pgx.CollectRows(rows, pgx.RowTo[string])
	if err != nil || len(list) != len(invokerViews)+1 {
		t.Fatal(len(list), err)
	}
	return list
}

// viewName is the name at the beginning of a view's definition.
func viewName(v string) string {
	name, _, _ := strings.Cut(v, " AS ")
	name, _, _ = strings.Cut(name, "(")
	return name
}

func readFile(t *testing.T, name string) string {
	t.Helper()
	b, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

// waitForViews waits until the proxy has seen a view that another session has made.
func waitForViews(t *testing.T, e *env, name string) {
	t.Helper()
	eventually(t, func() bool { return e.catalog.Views().Named(name) })
}

// TestInvokerViews follows views while they are made, granted, replaced and dropped.
func TestInvokerViews(t *testing.T) {
	onEachProtected(t, func(t *testing.T, e *env) {
		owner, conn := e.connect(t, olga), e.connect(t, analyst)
		e.exec(t, owner, `CREATE VIEW v WITH (security_invoker) AS SELECT id, income, region, round(id * 1.0, 1) AS r FROM customers`, `GRANT SELECT ON v TO analyst, risk`)
		want := mustText(t, conn, `SELECT id, income FROM customers WHERE id < 5 ORDER BY id`)
		const query = `SELECT id, income FROM v WHERE id < 5 ORDER BY id`
		if _, err := text(t, conn, query); err != nil && code(err) != "42501" {
			t.Error(explain(err))
		}
		if got := mustText(t, conn, query); got != want { // the refusal, if it was one, made the proxy look
			t.Errorf("%s\nwant %s", got, want)
		}
		around := e.directly(t, analyst)
		if _, err := text(t, around, query); code(err) != "42501" {
			t.Error("around the proxy:", err)
		}
		fails := func(query, sqlstate string) {
			t.Helper()
			if got, err := text(t, conn, query); code(err) != sqlstate {
				t.Errorf("%s: %v, not %s\n%s", query, explain(err), sqlstate, got)
			}
		}
		works := func(query, want string) {
			t.Helper()
			if got := mustText(t, conn, query); got != want {
				t.Errorf("%s:\n%s\nnot\n%s", query, got, want)
			}
		}

		// Kept plans go when grants, or the view, change.
		prepared := func() string {
			t.Helper()
			r := conn.PgConn().ExecPrepared(t.Context(), "kept", nil, nil, nil).Read()
			if r.Err != nil {
				return code(r.Err)
			}
			return string(r.Rows[0][1])
		}
		first := strings.TrimSuffix(strings.TrimPrefix(mustText(t, conn, `SELECT id, income FROM v WHERE id = 1`), "1|"), "\n")
		prepare := func() {
			t.Helper()
			if _, err := conn.PgConn().Prepare(t.Context(), "kept", `SELECT id, income FROM v WHERE id = 1`, nil); err != nil {
				t.Fatal(explain(err))
			}
		}
		prepare()
		e.exec(t, conn, `PREPARE named AS SELECT id, income FROM v WHERE id = 1`)
		for _, change := range []struct{ sql, prepared, execute string }{
			{`SELECT`, first, "1|" + first + "\n"},
			{`REVOKE SELECT ON v FROM analyst`, "42501", "42501"},
			{`GRANT SELECT (id, region) ON v TO analyst`, "42501", "42501"},
			{`GRANT SELECT (income) ON v TO analyst`, first, "1|" + first + "\n"},
			{`CREATE OR REPLACE VIEW v WITH (security_invoker) AS SELECT id, income, region, round(id * 2.0, 1) AS r FROM customers`, "0A000", "0A000"},
		} {
			e.exec(t, owner, change.sql)
			if got := prepared(); got != change.prepared {
				t.Errorf("%s: prepared statement gives %s", change.sql, got)
			}
			got, err := text(t, conn, `EXECUTE named`)
			if err != nil {
				got = code(err)
			}
			if got != change.execute {
				t.Errorf("%s: EXECUTE gives %s", change.sql, got)
			}
		}
		e.exec(t, conn, `DEALLOCATE ALL`)
		prepare()
		if got := prepared(); got != first {
			t.Errorf("prepared anew: %s", got)
		}

		// Grants on columns of the view.
		works(`SELECT count(*), count(income) FROM v WHERE region = 'EU' AND id < 10`, "3|3\n")
		fails(`SELECT r FROM v`, "42501")
		fails(`SELECT * FROM v`, "42501")
		fails(`SELECT v FROM v`, "42501")
		fails(`SELECT (SELECT j.r) FROM (v JOIN orders o USING (id)) AS j`, "42501")
		fails(`SELECT id, income FROM v WHERE id < 3 FOR UPDATE`, "42501")
		e.exec(t, owner, `GRANT UPDATE (region) ON customers TO analyst`)
		fails(`SELECT id, income FROM v WHERE id < 3 FOR UPDATE`, "42501")
		e.exec(t, owner, `GRANT SELECT, UPDATE ON v TO analyst`)
		works(`SELECT id, income FROM v WHERE id = 1 FOR UPDATE`, "1|"+first+"\n")
		fails(`UPDATE v SET region = 'x' WHERE income > 0`, "42501")

		// Parameters go into the list of codes.
		e.exec(t, owner, `CREATE VIEW plain WITH (security_invoker) AS SELECT id, income FROM customers`, `GRANT SELECT ON plain TO analyst`)
		waitForViews(t, e, "plain")
		before := e.proxy.Metrics().RowsEncoded.Load()
		r := conn.PgConn().ExecParams(t.Context(), `SELECT count(*) FROM plain WHERE id < $1 AND income > $2`, [][]byte{[]byte("10"), []byte("-1000")}, nil, nil, nil).Read()
		if n := e.proxy.Metrics().RowsEncoded.Load() - before; r.Err != nil || string(r.Rows[0][0]) != "9" || n != 9 {
			t.Errorf("%v: %d codes were computed", r.Err, n)
		}

		// What PostgreSQL says of columns and places.
		exempt := e.directly(t, risk)
		const described = `SELECT s.id, s.income, s.income + 1, o.amount, x.i FROM v AS s(id, income), orders o, (SELECT income AS i FROM v) x LIMIT 1`
		theirs, ours := fields(t, exempt, described), fields(t, conn, described)
		if len(theirs) != 5 || theirs[0].TableOID == 0 {
			t.Fatal(theirs)
		}
		for i := range theirs {
			if theirs[i].TableOID != ours[i].TableOID || theirs[i].TableAttributeNumber != ours[i].TableAttributeNumber {
				t.Errorf("column %d is %+v, not %+v", i+1, ours[i], theirs[i])
			}
		}
		for query, want := range map[string]int32{`SELECT income, nothere FROM v`: 16, `SELECT 1 AS "ä", income FROM v ORDER BY nothere`: 41} {
			_, err := text(t, conn, query)
			if pgErr := (*pgconn.PgError)(nil); !asError(err, &pgErr) || pgErr.Position != want {
				t.Errorf("%s: %+v", query, err)
			}
		}
		e.exec(t, owner, `CREATE VIEW typed WITH (security_invoker) AS SELECT round(income, 1) AS r FROM customers`, `GRANT SELECT ON typed TO analyst`)
		waitForViews(t, e, "typed")
		_, err := text(t, conn, `SELECT r FROM typed`) // for there is no such function of a code
		if pgErr := (*pgconn.PgError)(nil); !asError(err, &pgErr) || pgErr.Code != "42883" || pgErr.Position != 0 {
			t.Errorf("%+v", err)
		}
		e.exec(t, owner, `CREATE VIEW rows WITH (security_invoker) AS SELECT c FROM customers c`, `GRANT SELECT ON rows TO analyst`)
		waitForViews(t, e, "rows")
		fails(`SELECT c FROM rows`, "0A000") // nor is there a row of the table's type with codes in it
		if plan := mustText(t, conn, `EXPLAIN SELECT income FROM v WHERE id = 7`); !strings.Contains(plan, "customers_pkey") || !strings.Contains(plan, "Mask of column 1 (income)") {
			t.Error(plan)
		}

		// Views that only this session can see.
		e.exec(t, conn, `CREATE TEMP TABLE mine AS SELECT 3 AS id`, `CREATE TEMP VIEW t WITH (security_invoker) AS SELECT c.income FROM customers c JOIN mine USING (id)`)
		works(`SELECT count(income) FROM t`, "1\n")
		works(`SELECT income FROM t`, mustText(t, conn, `SELECT income FROM customers WHERE id = 3`))
		e.exec(t, conn, `CREATE TEMP TABLE customers (id int, income int)`) // the view means what it meant
		works(`SELECT count(income) FROM t`, "1\n")
		works(`SELECT count(income) FROM v WHERE id < 4`, "3\n")
		e.exec(t, conn, `CREATE TEMP TABLE v (income int)`)
		works(`SELECT count(income) FROM v`, "0\n")
		works(`SELECT count(income) FROM public.v WHERE id < 4`, "3\n")
		e.exec(t, conn, `DROP TABLE pg_temp.v, pg_temp.customers`, `BEGIN`, `CREATE TEMP VIEW u WITH (security_invoker) AS SELECT id AS k, income AS i FROM v`)
		works(`SELECT k, i FROM u WHERE k < 5 ORDER BY k`, want)
		e.exec(t, conn, `ALTER VIEW u RENAME TO w`)
		works(`SELECT k, i FROM w WHERE k < 5 ORDER BY k`, want)
		e.exec(t, conn, `ROLLBACK`)
		fails(`SELECT k, i FROM w`, "42P01")

		// Settings that change how PostgreSQL prints and reads queries.
		e.exec(t, owner, `CREATE VIEW printed WITH (security_invoker) AS SELECT id, income, 0.1::float8 + 0.2::float8 AS f, 1.0000000000000002::float8 AS g, date '2020-02-01' AS d FROM customers`, `GRANT SELECT ON printed TO analyst`)
		waitForViews(t, e, "printed")
		e.exec(t, conn, `SET extra_float_digits = -15`, `SET DateStyle = 'SQL, DMY'`)
		works(`SELECT f = 0.1::float8 + 0.2::float8, g = 1.0000000000000002::float8, d = make_date(2020, 2, 1), income IS NULL FROM printed WHERE id = 1`, "t|t|t|f\n")
		e.exec(t, conn, `RESET ALL`, `SET search_path = public, pg_catalog`)
		fails(`SELECT income FROM v`, "0A000")
		e.exec(t, conn, `SET search_path = pg_temp, pg_catalog, public`)
		works(query, want)
		e.exec(t, conn, `RESET search_path`)

		// A schema that the client may not look into: as if it had written the query.
		e.exec(t, e.admin(t), `CREATE SCHEMA hidden AUTHORIZATION olga`)
		e.exec(t, owner, `CREATE TABLE hidden.t (id int)`, `GRANT SELECT ON hidden.t TO analyst`, `CREATE VIEW h WITH (security_invoker) AS SELECT id FROM hidden.t`,
			`CREATE VIEW hc WITH (security_invoker) AS SELECT c.income FROM customers c JOIN hidden.t USING (id)`, `GRANT SELECT ON h, hc TO analyst`)
		waitForViews(t, e, "hc")
		works(`SELECT count(c.income) FROM customers c JOIN h USING (id)`, "0\n")
		fails(`SELECT income FROM hc`, "42501")

		// Views that double the text each time.
		e.exec(t, owner, `CREATE VIEW d0 WITH (security_invoker) AS SELECT income FROM customers`, `DO $$ BEGIN FOR i IN 1..14 LOOP
			EXECUTE format('CREATE VIEW d%s WITH (security_invoker) AS SELECT income FROM d%s UNION ALL SELECT income FROM d%2$s', i, i - 1); END LOOP; END $$`,
			`GRANT SELECT ON ALL TABLES IN SCHEMA public TO risk`, `DO $$ BEGIN FOR i IN 0..14 LOOP EXECUTE format('GRANT SELECT ON d%s TO analyst', i); END LOOP; END $$`)
		waitForViews(t, e, "d14")
		works(`SELECT count(income) FROM d4`, mustText(t, conn, `SELECT 16 * count(income) FROM customers`))
		fails(`SELECT income FROM d14`, "54001")
		e.exec(t, owner, `CREATE VIEW ownerv AS SELECT id FROM customers`, `CREATE VIEW overv WITH (security_invoker) AS SELECT id FROM ownerv`,
			`CREATE TEMP VIEW tempv WITH (security_invoker) AS SELECT id FROM customers`, `CREATE VIEW lastv WITH (security_invoker = on) AS SELECT income FROM d0`)
		waitForViews(t, e, "lastv")
		for _, name := range []string{"ownerv", "overv", "tempv"} {
			if e.catalog.Views().Named(name) {
				t.Errorf("%s counts as a view that reads the table with the invoker's rights", name)
			}
		}
		e.exec(t, owner, `DROP VIEW v CASCADE`)
		fails(`SELECT income FROM v`, "42P01")
	})
}

func fields(t *testing.T, conn *pgx.Conn, query string) []pgconn.FieldDescription {
	t.Helper()
	st, err := conn.PgConn().Prepare(t.Context(), "", query, nil)
	if err != nil {
		t.Fatal(explain(err))
	}
	return st.Fields
}

// TestInvokerViewsRowSecurity is over a table with row security.
func TestInvokerViewsRowSecurity(t *testing.T) {
	onEach(t, func(t *testing.T, e *env) {
		e.exec(t, e.admin(t), asOlga(`ALTER TABLE customers ENABLE ROW LEVEL SECURITY, FORCE ROW LEVEL SECURITY`,
			`CREATE POLICY thirds ON customers FOR SELECT TO analyst USING (id % 3 <> 1)`, `CREATE POLICY rest ON customers TO olga, risk USING (true)`,
			`CREATE VIEW v WITH (security_invoker) AS SELECT id, income FROM customers WHERE id < 100`, `GRANT SELECT ON v TO analyst`)...)
		e.exec(t, e.connect(t, olga), testPolicy)
		waitForViews(t, e, "v")
		conn := e.connect(t, analyst)
		want := mustText(t, conn, `SELECT id, income FROM customers WHERE id < 100 ORDER BY id`)
		if got := mustText(t, conn, `SELECT * FROM v ORDER BY id`); got != want || strings.Count(got, "\n") != 66 {
			t.Error(got)
		}
		if got := mustText(t, conn, `SELECT count(*), count(income) FROM v WHERE income > -1000`); got != mustText(t, conn, `SELECT count(*), count(income) FROM customers WHERE id < 100 AND income > -1000`) {
			t.Error(got)
		}
	})
}
