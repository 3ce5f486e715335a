package integration_test

import (
	"slices"
	"strings"
	"testing"
)

// TestWalkOfViews: what a policy on a view does not cover, however the view is written, and what is fine.
func TestWalkOfViews(t *testing.T) {
	const cols = `SELECT c.id, c.income AS salary, c.age, c.score, c.vip, c.region`
	leak := asOlga(`CREATE FUNCTION leak(numeric) RETURNS numeric LANGUAGE plpgsql AS 'BEGIN RETURN abs($1); END'`)
	cases := []struct {
		before     []string
		view, want string
	}{
		// columns that show what a masked one shows
		{nil, cols + `, c AS w FROM customers c`, "column w"},
		{nil, cols + `, to_jsonb(c) AS w FROM customers c`, "column w"},
		{nil, cols + `, s.w FROM customers c, LATERAL (SELECT c.income + 1 AS w) s`, "column w"},
		{nil, cols + `, g.w FROM customers c, generate_series(1, c.age) g(w)`, "column w"},
		{nil, cols + `, c.income + (SELECT count(*) FROM orders) AS w FROM customers c`, "column w"},
		{nil, cols + `, income AS w FROM customers c UNION ALL ` + cols + `, id FROM customers c`, "column w"},
		{nil, `WITH c AS (SELECT *, income + 1 AS w FROM customers) ` + cols + `, w FROM c`, "column w"},
		{asOlga(`CREATE VIEW other AS SELECT id, income FROM customers`), cols + `, o.income AS w FROM customers c JOIN other o USING (id)`, "column w"},
		{nil, cols + ", c.income AS \"a\x01b\" FROM customers c", "column \"a\x01b\""},
		{nil, cols + `, c.income AS "}\" FROM customers c`, `column "}\"`},
		{nil, cols + `, c.income AS "{ :resorigtbl 5 :resorigcol 1 :resjunk false" FROM customers c`, `column "{`},
		// rows, or their order
		{nil, cols + ` FROM customers c WHERE c.income > 50000`, "view public.people"},
		{nil, cols + ` FROM customers c WHERE EXISTS (SELECT 1 FROM orders o WHERE o.amount > c.income)`, "view public.people"},
		{nil, cols + ` FROM customers c WHERE c.id IN (SELECT d.id FROM customers d WHERE d.income > 5)`, "view public.people"},
		{nil, cols + ` FROM customers c LIMIT (SELECT max(age) FROM customers)`, "view public.people"},
		{nil, cols + ` FROM customers c ORDER BY c.income`, "view public.people"},
		{nil, `SELECT DISTINCT ON (c.income) ` + strings.TrimPrefix(cols, "SELECT ") + ` FROM customers c`, "view public.people"},
		{nil, cols + `, rank() OVER (ORDER BY c.income) AS w FROM customers c`, "view public.people"},
		{nil, cols + ` FROM customers c, generate_series(1, c.age) g`, "view public.people"},
		{nil, cols + ` FROM customers c EXCEPT ` + cols + ` FROM customers c`, "view public.people"},
		// functions that run under the reader's search_path
		{
			slices.Concat(leak, asOlga(`CREATE FUNCTION body(numeric) RETURNS numeric LANGUAGE sql RETURN leak($1)`)),
			strings.Replace(cols, "c.income", "body(c.income)", 1) + ` FROM customers c`, "function public.leak",
		},
		{
			slices.Concat(leak, asOlga(`CREATE DOMAIN checked AS numeric CHECK (leak(VALUE) > -1)`)),
			strings.Replace(cols, "c.income", "c.income::checked::numeric", 1) + ` FROM customers c`, "function public.leak",
		},
		{
			asOlga(`CREATE FUNCTION leak(numeric, numeric) RETURNS numeric LANGUAGE plpgsql AS 'BEGIN RETURN $1 + $2; END'`, `CREATE AGGREGATE leaks(numeric) (sfunc = leak, stype = numeric)`),
			strings.Replace(cols, "c.income", "leaks(c.income)", 1) + ` FROM customers c GROUP BY c.id`, "function public.leak",
		},
		// fine
		{
			nil, cols + `, n.n, g, 5 AS five, c.id + 1 AS more, (SELECT count(*) FROM orders o WHERE o.customer_id = c.id) AS counted, rank() OVER (PARTITION BY c.region ORDER BY c.id)
			FROM customers c JOIN (SELECT region, count(*) AS n FROM orders GROUP BY region) n USING (region), generate_series(1, 2) g WHERE c.id < 100 ORDER BY c.id DESC LIMIT 50`, "",
		},
		{nil, cols + `, 1 AS w FROM customers c UNION ALL ` + cols + `, id FROM customers c WHERE id > 5`, ""},
		{nil, `SELECT c.region, count(*) AS n, max(c.income) AS salary, max(c.age) AS age, avg(c.score) AS score, bool_or(vip) AS vip FROM customers c GROUP BY c.region`, ""},
	}
	onEach(t, func(t *testing.T, e *env) {
		admin := e.admin(t)
		e.exec(t, admin, viewWorld...)
		for _, c := range cases {
			e.exec(t, admin, slices.Concat([]string{`BEGIN`}, c.before, asOlga(`DROP VIEW people`, `CREATE VIEW people AS `+c.view, `GRANT SELECT ON people TO analyst`))...)
			_, err := text(t, admin, `SELECT scrim.create_masking_policy('p', 'people', '{age,salary,score}', '{risk}', 'enc', '{age,salary,score,vip}')`)
			if c.want == "" && err != nil || c.want != "" && (code(err) != "55000" || !strings.Contains(explain(err), c.want)) {
				t.Errorf("%s\ngot %v\nwant %q", c.view, explain(err), c.want)
			}
			e.exec(t, admin, `ROLLBACK`)
		}
	})
}

// TestWalkPastPolicies: a policy on the way does not hide who can read raw values past it.
func TestWalkPastPolicies(t *testing.T) {
	const (
		view    = `CREATE VIEW v AS SELECT id, age, income, score, vip FROM customers`
		onView  = `SELECT scrim.create_masking_policy('q', 'v', '{age,income,score}', '{risk}', 'enc')`
		onTable = `SELECT scrim.create_masking_policy('p', 'customers', '{age,income,score}', '{}', 'enc')`
	)
	cases := []struct {
		steps []string
		last  string
		want  string
	}{
		{[]string{view, `GRANT SELECT ON v TO analyst, risk`, onView}, onTable, "view public.v"}, // risk is exempt there, and not here
		{[]string{view, `GRANT SELECT ON v TO analyst`, onView, `CREATE VIEW second AS SELECT income FROM v`, `GRANT SELECT ON second TO analyst`}, onTable, "view public.second"},
		{[]string{view, `GRANT SELECT ON v TO analyst`, strings.Replace(onView, "{risk}", "{}", 1), `CREATE VIEW second AS SELECT id FROM v`, `GRANT SELECT ON second TO analyst`}, onTable, ""},
		{
			[]string{view, `GRANT SELECT ON v TO analyst`, strings.Replace(onTable, "'enc'", "'enc', mend_views => true", 1), `GRANT SELECT ON v TO analyst`},
			`SELECT * FROM scrim.masking_policy_openings('p', 'customers')`, "view|public.v",
		},
		// another owner's view: fine with a policy, and not mended, since CASCADE changes one's own only
		{
			[]string{view, `GRANT SELECT ON v TO analyst`, `RESET SESSION AUTHORIZATION`, `ALTER VIEW v OWNER TO risk`, `GRANT SELECT ON customers TO risk`, strings.Replace(onView, "{risk}", "{}", 1)},
			strings.Replace(onTable, "{}", "{risk}", 1), "",
		},
		{
			[]string{view, `GRANT SELECT ON v TO analyst`, `RESET SESSION AUTHORIZATION`, `ALTER VIEW v OWNER TO risk`, `GRANT SELECT ON customers TO risk`, `SET LOCAL SESSION AUTHORIZATION olga`},
			strings.Replace(onTable, "'{}', 'enc'", "'{risk}', 'enc', mend_views => true", 1), "view public.v",
		},
		// another parent, whose policy masks less
		{
			[]string{
				`CREATE TABLE one (age int, income numeric, score float8, vip bool)`, `CREATE TABLE two (LIKE one)`, `CREATE TABLE kid () INHERITS (one)`, `GRANT SELECT ON two TO analyst`,
				strings.Replace(onTable, "customers", "one", 1), `SELECT scrim.create_masking_policy('q', 'two', '{age}', '{}', 'enc')`, `ALTER TABLE kid INHERIT two`,
			},
			`SELECT * FROM scrim.masking_policy_openings('p', 'one')`, "inheritance|public.two",
		},
	}
	onEach(t, func(t *testing.T, e *env) {
		admin := e.admin(t)
		for _, c := range cases {
			e.exec(t, admin, slices.Concat([]string{`BEGIN`, `SET LOCAL SESSION AUTHORIZATION olga`, `REVOKE SELECT ON customers FROM risk, analyst`}, c.steps)...)
			out, err := text(t, admin, c.last)
			if err != nil {
				out = explain(err)
			}
			if !strings.Contains(out, c.want) || c.want == "" && err != nil {
				t.Errorf("%s\ngot %s\nwant %q", strings.Join(c.steps, "; "), out, c.want)
			}
			e.exec(t, admin, `ROLLBACK`)
		}
	})
}
