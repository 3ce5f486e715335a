package integration_test

import (
	"fmt"
	"slices"
	"strings"
	"testing"
)

// sqlMasks are masks of three columns of customers.
var sqlMasks = map[string]string{"age": `scrim.bucket(age, 10)`, "income": `round(income, -3)`, "score": `floor(score / 50) * 50`, `"Note"`: `scrim.partial("Note", 6, '**', 1)`}

func maskedBySQL(columns ...string) (list []string) {
	for _, c := range columns {
		list = append(list, fmt.Sprintf(`CREATE MASKING POLICY %s ON customers (%s) USING (%s)`, strings.ToLower("by_"+strings.Trim(c, `"`)), c, sqlMasks[c]))
	}
	return list
}

// TestOracleSQLMasks is TestOracleClauses where SQL masks stand in the place of codes, alone, beside codes, beside what the role
// reads raw, and on relations of all kinds. What they show the superuser computes with the same expressions.
func TestOracleSQLMasks(t *testing.T) {
	const codes = `CREATE MASKING POLICY codes ON customers (age, income) EXCEPT %s USING ENCODER enc`
	worlds := []struct {
		name     string
		relation int // in kinds; -1 for a table
		setup    []string
		policies []string
		types    string // of age, income and score, and what these show: c is the table, s what the analyst sees
		shown    string
	}{
		{"alone", -1, nil, maskedBySQL("age", "income", "score", `"Note"`), `age integer, income numeric(12,2), score float8`, `bucket(c.age, 10), round(c.income, -3), floor(c.score / 50) * 50`},
		{"beside codes", -1, nil, append(maskedBySQL("score", `"Note"`), fmt.Sprintf(codes, risk)), `age float8, income float8, score float8`, `s.age, s.income, floor(c.score / 50) * 50`},
		{"beside what is raw", -1, nil, append(maskedBySQL("score", `"Note"`), fmt.Sprintf(codes, analyst)), `age integer, income numeric(12,2), score float8`, `c.age, c.income, floor(c.score / 50) * 50`},
		{
			"row security", -1, asOlga(`ALTER TABLE customers ENABLE ROW LEVEL SECURITY, FORCE ROW LEVEL SECURITY`, `CREATE POLICY thirds ON customers FOR SELECT TO analyst USING (id % 3 <> 1)`, `CREATE POLICY rest ON customers TO olga, risk USING (true)`),
			append(maskedBySQL("score", `"Note"`), fmt.Sprintf(codes, risk)), `age float8, income float8, score float8`, `s.age, s.income, floor(c.score / 50) * 50`,
		},
		{"partitioned", 0, nil, append(maskedBySQL("score", `"Note"`), fmt.Sprintf(codes, risk)), `age float8, income float8, score float8`, `s.age, s.income, floor(c.score / 50) * 50`},
		{"view", 3, nil, maskedBySQL("age", "income", "score", `"Note"`), `age integer, income numeric(12,2), score float8`, `bucket(c.age, 10), round(c.income, -3), floor(c.score / 50) * 50`},
		{"materialized view", 2, nil, maskedBySQL("age", "income", "score", `"Note"`), `age integer, income numeric(12,2), score float8`, `bucket(c.age, 10), round(c.income, -3), floor(c.score / 50) * 50`},
	}
	all := slices.DeleteFunc(append(oracleCases(t), generated(60)...), func(c string) bool { return containsAny(c, []string{"EXPLAIN", "public.", "ctid", "xmin"}) })
	for n, w := range worlds {
		t.Run(w.name, func(t *testing.T) {
			cases := share(all[n:], 8)
			onEach(t, func(t *testing.T, e *env) {
				cases := cases
				if w.relation >= 0 {
					cases = slices.DeleteFunc(slices.Clone(cases), func(c string) bool { return containsAny(c, kinds[w.relation].without) })
					become(t, e, olga, kinds[w.relation].make, "public", "integer", "numeric(12,2)")
					e.exec(t, e.admin(t), `SET SESSION AUTHORIZATION olga`, `GRANT SELECT ON customers TO analyst, risk`, `DO $$ BEGIN REVOKE SELECT ON customers_was FROM analyst, risk; EXCEPTION WHEN undefined_table THEN NULL; END $$`)
				}
				e.exec(t, e.admin(t), w.setup...)
				e.exec(t, e.connect(t, olga), w.policies...)
				checkOracle(t, e, cases, func() {
					e.exec(t, e.admin(t), `SET search_path = scrim_runtime, public`, `ALTER TABLE codes.customers RENAME TO seen`, `ALTER INDEX codes.customers_pkey RENAME TO seen_pkey`,
						`CREATE TABLE codes.customers (id integer PRIMARY KEY, region text, `+w.types+`, vip boolean, "Note" text)`,
						`INSERT INTO codes.customers SELECT c.id, c.region, `+w.shown+`, c.vip, partial(c."Note", 6, '**', 1) FROM public.customers c JOIN codes.seen s USING (id)`,
						`CLUSTER codes.customers USING customers_pkey`, // the order that the table's rows lie in
						`DROP TABLE codes.seen`)
					if w.relation >= 0 {
						types := strings.Fields(strings.ReplaceAll(w.types, ",", " "))
						if types[3] == "numeric(12" { // its comma
							types[3] = "numeric(12,2)"
						}
						become(t, e, e.server.Superuser(), kinds[w.relation].make, "codes", types[1], types[3])
					}
				})
				for _, column := range []string{"score", `"Note"`} {
					if _, err := text(t, e.directly(t, analyst), `SELECT `+column+` FROM customers`); code(err) != "42501" {
						t.Errorf("around the proxy: %v", explain(err))
					}
				}
			})
		})
	}
}

// TestSQLMasksAround: a masked view that is read around the proxy shows masks, of rows that the reader sees, and no more.
func TestSQLMasksAround(t *testing.T) {
	onEach(t, func(t *testing.T, e *env) {
		admin, owner := e.admin(t), e.connect(t, olga)
		e.exec(t, admin, asOlga(`ALTER TABLE customers ENABLE ROW LEVEL SECURITY`, `CREATE POLICY ten ON customers FOR SELECT TO analyst USING (id <= 10)`, `GRANT SELECT (id, "Note") ON customers TO guest`)...)
		e.exec(t, owner, append(maskedBySQL("score", `"Note"`), `CREATE VIEW mine WITH (security_invoker) AS SELECT id, score, "Note" FROM customers`, `GRANT SELECT ON mine TO analyst`)...)
		view := strings.TrimSpace(mustText(t, admin, `SELECT masked_view::regclass FROM scrim_state.protections`))
		around := e.directly(t, analyst)
		if got := mustText(t, around, `SELECT count(score), count("Note"), min(score), max(length("Note")) FROM `+view); got != "10|10|300|2\n" {
			t.Errorf("around the proxy the masked view shows %s", got)
		}
		if got := mustText(t, e.directly(t, guest), `SELECT count("Note") FROM `+view); got != "0\n" {
			t.Errorf("a role that sees no row sees %s masks", got)
		}
		e.exec(t, admin, asOlga(`CREATE POLICY two ON customers FOR SELECT TO guest USING (id <= 2)`)...)
		if got := mustText(t, e.connect(t, guest), `SELECT id, "Note" FROM customers ORDER BY id`); got != "1|**\n2|**\n" {
			t.Errorf("a role with grants of columns sees %s", got)
		}
		if _, err := text(t, e.directly(t, guest), `SELECT score FROM `+view); code(err) != "42501" {
			t.Errorf("a column that was not granted: %v", explain(err))
		}
		for _, set := range []string{`SET row_security = off`, `SET SESSION CHARACTERISTICS AS TRANSACTION READ ONLY`} {
			e.exec(t, around, set)
			if out, err := text(t, around, `SELECT max(score) FROM `+view+` WHERE ctid >= '(1,1)'`); err == nil && out != "∅\n" {
				t.Errorf("after %s: %s", set, out)
			}
		}
		if err := e.catalog.LookForViews(t.Context()); err != nil {
			t.Fatal(err)
		}
		if got := mustText(t, e.connect(t, analyst), `SELECT count(*), count(score), max(length("Note")) FROM mine`); got != "10|10|2\n" {
			t.Errorf("through a view: %s", got)
		}
		if _, err := text(t, around, `SELECT score FROM mine`); code(err) != "42501" {
			t.Errorf("the view around the proxy: %v", explain(err))
		}
	})
}

// TestSQLMasksLocked: a row that is locked in a version of after the statement began gives a serialization failure, or that version's mask.
func TestSQLMasksLocked(t *testing.T) {
	onEach(t, func(t *testing.T, e *env) {
		admin, owner := e.admin(t), e.connect(t, olga)
		e.exec(t, admin, asOlga(`GRANT UPDATE (region) ON customers TO analyst`)...)
		e.exec(t, owner, maskedBySQL("score", `"Note"`)...)
		for _, query := range []string{`SELECT id, score, "Note" FROM customers WHERE id = 5 FOR UPDATE`, `SELECT id, score, "Note" FROM customers WHERE id = 5 AND score >= 0 FOR SHARE`} {
			reader := e.connect(t, analyst)
			e.exec(t, admin, `BEGIN`, `UPDATE customers SET score = score + 1000, "Note" = 'replaced' WHERE id = 5`)
			done := make(chan string, 1)
			go func() {
				results, err := reader.PgConn().Exec(t.Context(), query).ReadAll()
				out := code(err)
				for _, r := range results {
					for _, row := range r.Rows {
						out += fmt.Sprintf("%s|%s|%s", row[0], row[1], row[2])
					}
				}
				done <- out
			}()
			e.waiting(t)
			e.exec(t, admin, `COMMIT`)
			want := mustText(t, owner, `SELECT 5, floor(score / 50) * 50, 'replac**d' FROM customers WHERE id = 5`)
			if got := <-done; got != "40001" && got+"\n" != want {
				t.Errorf("%s: %s, neither 40001 nor %s", query, got, want)
			}
		}
	})
}

// waiting waits until somebody waits for a lock in this database.
func (e *env) waiting(t *testing.T) {
	t.Helper()
	admin := e.admin(t)
	eventually(t, func() bool {
		return mustText(t, admin, `SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'`) != "0\n"
	})
}
