package integration_test

import (
	"context"
	"fmt"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
)

// refusedAs checks that masked columns of customers are closed, on every road, and that through the proxy the reason is said.
func (e *env) refusedAs(t *testing.T, conns []*pgx.Conn, reason, hint string) {
	t.Helper()
	for _, query := range []string{`SELECT id, income FROM customers WHERE id < 5`, `SELECT max(income) FROM customers`, `SELECT age FROM customers c JOIN orders o USING (id) ORDER BY age`} {
		for _, conn := range conns {
			for _, extended := range []bool{false, true} {
				if got := answers(t, conn, query, extended); !strings.HasPrefix(got, "ERROR 42501: "+reason) && !strings.HasPrefix(got, "\nERROR 42501: "+reason) {
					t.Errorf("extended %v: %s: %s", extended, query, got)
				}
			}
			if _, err := text(t, conn, query); !strings.Contains(explain(err), hint) {
				t.Errorf("%s: %s", query, explain(err))
			}
		}
	}
	directly := e.directly(t, analyst)
	for view := range strings.FieldsSeq(`customers ` + mustText(t, e.admin(t), `SELECT masked_view::regclass FROM scrim_state.protections`)) {
		for _, query := range []string{`SELECT * FROM ` + view, `SELECT count(*) FROM ` + view + ` v WHERE v IS NULL`} {
			if got, err := text(t, directly, query); code(err) != "42501" {
				t.Errorf("directly: %s: %s %s", query, got, explain(err))
			}
		}
	}
	if got := mustText(t, conns[0], `SELECT count(id), min(region) FROM customers`); got != "2000|APAC\n" {
		t.Error(got)
	}
	if got := mustText(t, e.connect(t, risk), `SELECT income FROM customers WHERE id = 2000`); got != "2342108.75\n" {
		t.Error(got)
	}
}

// viewGrants are those on the masked views.
const viewGrants = `SELECT p.relation::regclass, a.attname, r.rolname FROM scrim_state.protections p
	JOIN pg_attribute a ON a.attrelid = p.masked_view AND a.attname NOT LIKE 'sealed%', pg_roles r
	WHERE NOT r.rolsuper AND r.rolname !~ 'test_[0-9]' AND has_column_privilege(r.oid, a.attrelid, a.attnum, 'SELECT') ORDER BY 1, 2, 3`

// TestDisable: a disabled policy shows nothing, the fence stands, and ENABLE brings back what there was.
func TestDisable(t *testing.T) {
	onEachProtected(t, func(t *testing.T, e *env) {
		const query = `SELECT id, age, income FROM customers WHERE id < 50 ORDER BY id`
		admin, owner, reader := e.admin(t), e.connect(t, olga), e.connect(t, analyst)
		e.exec(t, owner, `GRANT SELECT (id) ON customers TO guest`)
		want, privileges, grants := mustText(t, reader, query), mustText(t, admin, allPrivileges), mustText(t, admin, viewGrants)
		if _, err := reader.Prepare(t.Context(), "kept", query); err != nil {
			t.Fatal(err)
		}
		prepared := func() string {
			rows, err := reader.Query(t.Context(), "kept")
			if err == nil {
				_, err = pgx.CollectRows(rows, pgx.RowToMap)
			}
			return explain(err)
		}
		for range 2 {
			e.exec(t, owner, `ALTER MASKING POLICY p ON customers DISABLE`)
			e.refusedAs(t, []*pgx.Conn{reader, e.connect(t, analyst)}, `masking policy "p" on public.customers is disabled`, `ALTER MASKING POLICY p ON public.customers ENABLE.`)
			if got := prepared(); !strings.Contains(got, "is disabled") {
				t.Errorf("prepared before: %s", got)
			}
			e.exec(t, owner, `ALTER MASKING POLICY p ON customers DISABLE`)
			if got := mustText(t, owner, `SELECT enabled FROM scrim.masking_policies`); got != "f\n" {
				t.Error(got)
			}
			if got := mustText(t, admin, `SELECT severity, why, remedy FROM scrim.doctor() WHERE relation = 'public.customers'`); got != "note|it is disabled, so masked columns are closed|ALTER MASKING POLICY p ON public.customers ENABLE\n" {
				t.Errorf("the doctor of a disabled policy: %s", got)
			}
			if got := mustText(t, reader, `EXPLAIN MASKING SELECT income FROM customers`); !strings.Contains(got, `masking policy "p" on public.customers is disabled`) {
				t.Errorf("of a disabled policy: %s", got)
			}
			e.exec(t, owner, `ALTER MASKING POLICY p ON customers ENABLE`, `ALTER MASKING POLICY p ON customers ENABLE`)
			if got := mustText(t, reader, query); got != want {
				t.Error(difference(want, got))
			}
			if got := prepared(); got != "<nil>" {
				t.Errorf("prepared before: %s", got)
			}
			if got := mustText(t, admin, allPrivileges); got != privileges {
				t.Errorf("privileges:\n%s", difference(privileges, got))
			}
			if got := mustText(t, admin, viewGrants); got != grants {
				t.Errorf("grants on the view:\n%s", difference(grants, got))
			}
		}
		// Whatever else changes, the masks stay closed.
		e.exec(t, owner, `ALTER MASKING POLICY p ON customers DISABLE`, `ALTER MASKING POLICY p ON customers RENAME TO q`)
		e.refusedAs(t, []*pgx.Conn{reader}, `masking policy "q" on public.customers is disabled`, `ALTER MASKING POLICY q ON public.customers ENABLE.`)
		e.exec(t, owner, `ALTER MASKING POLICY q ON customers SET EXCEPT (risk, guest)`)
		e.refusedAs(t, []*pgx.Conn{reader}, `masking policy "q" on public.customers is disabled`, `ENABLE`)
		e.exec(t, owner, `ALTER MASKING POLICY q ON customers SET EXCEPT (risk)`, `ALTER MASKING POLICY q ON customers ENABLE`)
		if got := mustText(t, reader, query); got != want {
			t.Error(difference(want, got))
		}
		e.exec(t, owner, `ALTER MASKING POLICY q ON customers DISABLE`, `DROP MASKING POLICY q ON customers`)
		if got := mustText(t, admin, `SELECT has_table_privilege('analyst', 'customers', 'SELECT'), count(*) FROM pg_class WHERE relnamespace = 'scrim_runtime'::regnamespace AND relkind = 'v'`); got != "t|0\n" {
			t.Error(got)
		}
	})
}

// TestDisableUnderRowSecurity: there the masked view has seals only, and the client reads the table.
func TestDisableUnderRowSecurity(t *testing.T) {
	onEach(t, func(t *testing.T, e *env) {
		owner, reader := e.connect(t, olga), e.connect(t, analyst)
		e.exec(t, owner, `ALTER TABLE customers ENABLE ROW LEVEL SECURITY`, `CREATE POLICY most ON customers USING (id < 2001)`, testPolicy)
		const query = `SELECT id, age, income FROM customers WHERE id < 50 ORDER BY id`
		want := mustText(t, reader, query)
		e.exec(t, owner, `ALTER MASKING POLICY p ON customers DISABLE`)
		e.refusedAs(t, []*pgx.Conn{reader}, `masking policy "p" on public.customers is disabled`, `ENABLE`)
		e.exec(t, owner, `ALTER MASKING POLICY p ON customers ENABLE`)
		if got := mustText(t, reader, query); got != want {
			t.Error(difference(want, got))
		}
		e.exec(t, owner, `ALTER MASKING POLICY p ON customers SET EXCEPT (risk, guest)`)
		if got := mustText(t, reader, query); got != want {
			t.Error(difference(want, got))
		}
		e.call(t, owner, `SELECT scrim.suspend('customers')`, `ALTER TABLE customers ALTER COLUMN income TYPE float8`, `SELECT scrim.resume('customers')`)
		if got := mustText(t, reader, query); got != want {
			t.Error(difference(want, got))
		}
	})
}

// TestSetExcept: who is exempt changes at once, to what CREATE would have made, with parts and views, and DROP gives back what there was before CREATE.
func TestSetExcept(t *testing.T) {
	layouts := map[string][]string{
		"table": nil,
		"children and views": asOlga(`CREATE TABLE child () INHERITS (customers)`, `GRANT SELECT ON child TO guest`,
			`CREATE VIEW pay AS SELECT id, income, age, score, vip FROM customers`, `GRANT SELECT ON pay TO analyst, guest`),
	}
	for name, setup := range layouts {
		t.Run(name, func(t *testing.T) {
			onEach(t, func(t *testing.T, e *env) {
				admin := e.admin(t)
				dan := "dan_" + e.database
				e.exec(t, admin, `CREATE ROLE `+dan+` LOGIN PASSWORD '`+dan+`'`)
				e.exec(t, admin, asOlga(`GRANT SELECT ON customers TO `+dan+` WITH GRANT OPTION`)...)
				e.exec(t, admin, `SET SESSION AUTHORIZATION `+dan, `GRANT SELECT (id, income) ON customers TO guest`, `RESET SESSION AUTHORIZATION`)
				e.exec(t, admin, setup...)
				privileges := func() string {
					all := mustText(t, admin, allPrivileges)
					if setup != nil {
						all += mustText(t, admin, strings.ReplaceAll(allPrivileges, "'customers'", "'child'")) + mustText(t, admin, strings.ReplaceAll(allPrivileges, "'customers'", "'pay'"))
					}
					return all
				}
				owner := e.connect(t, olga)
				before := privileges()
				lists := []string{"risk", dan, "analyst, guest", "risk, " + dan}
				made := make([]string, len(lists))
				for i, list := range lists {
					e.exec(t, owner, `CREATE MASKING POLICY p ON customers (age, income, score) EXCEPT `+list+` USING ENCODER enc CASCADE`)
					made[i] = privileges() + mustText(t, admin, viewGrants)
					e.exec(t, owner, `DROP MASKING POLICY p ON customers`)
					if got := privileges(); got != before {
						t.Fatalf("CREATE and DROP, EXCEPT %s:\n%s", list, difference(before, got))
					}
				}
				if got := privileges(); got != before {
					t.Fatalf("before anything was changed:\n%s", difference(before, got))
				}
				e.exec(t, owner, testPolicy+` CASCADE`)
				stays := e.connect(t, risk)
				for range 2 {
					for i, list := range lists {
						e.exec(t, owner, `ALTER MASKING POLICY p ON customers SET EXCEPT (`+list+`)`)
						if got := privileges() + mustText(t, admin, viewGrants); got != made[i] {
							t.Errorf("EXCEPT %s:\n%s", list, difference(made[i], got))
						}
						got := mustText(t, e.connect(t, analyst), `SELECT income FROM customers WHERE id = 2000`)
						if raw := got == "2342108.75\n"; raw != strings.Contains(list, "analyst") {
							t.Errorf("EXCEPT %s: analyst sees %s", list, got)
						}
						got = mustText(t, stays, `SELECT income FROM customers WHERE id = 2000`)
						if raw := got == "2342108.75\n"; raw != strings.Contains(list, "risk") {
							t.Errorf("EXCEPT %s: risk, connected all the while, sees %s", list, got)
						}
					}
				}
				// What cannot be changed leaves everything as it is.
				now := privileges()
				for statement, want := range map[string]string{
					`ALTER MASKING POLICY p ON customers SET EXCEPT (nobody_there)`: "42704",
					`ALTER MASKING POLICY q ON customers SET EXCEPT (risk)`:         "42704",
					`ALTER MASKING POLICY q ON customers ENABLE`:                    "42704",
					`ALTER MASKING POLICY p ON customers RENAME TO p`:               "42710",
				} {
					if _, err := text(t, owner, statement); code(err) != want {
						t.Errorf("%s: %s", statement, explain(err))
					}
				}
				for _, statement := range []string{`SET EXCEPT (analyst)`, `ENABLE`, `DISABLE`, `RENAME TO mine`} {
					if _, err := text(t, e.connect(t, analyst), `ALTER MASKING POLICY p ON customers `+statement); code(err) != "42501" {
						t.Errorf("analyst: %s: %s", statement, explain(err))
					}
				}
				if setup != nil {
					for _, statement := range []string{`SET EXCEPT (analyst)`, `ENABLE`, `DISABLE`, `RENAME TO mine`} {
						if _, err := text(t, owner, `ALTER MASKING POLICY p ON child `+statement); code(err) != "2BP01" {
							t.Errorf("of a part: %s: %s", statement, explain(err))
						}
					}
					e.exec(t, owner, `ALTER MASKING POLICY p ON customers DISABLE`)
					e.refusedAs(t, []*pgx.Conn{e.connect(t, analyst)}, `masking policy "p" on public.customers is disabled`, `ENABLE`)
					if _, err := text(t, e.connect(t, analyst), `SELECT income FROM pay`); code(err) != "42501" || !strings.Contains(explain(err), "disabled") {
						t.Errorf("a view: %s", explain(err))
					}
					e.exec(t, owner, `ALTER MASKING POLICY p ON customers ENABLE`)
				}
				if got := privileges(); got != now {
					t.Errorf("after errors:\n%s", difference(now, got))
				}
				e.exec(t, owner, `ALTER MASKING POLICY p ON customers RENAME TO "P 2"`, `DROP MASKING POLICY "P 2" ON customers`)
				if got := privileges(); got != before {
					t.Errorf("after DROP:\n%s", difference(before, got))
				}
				if got := mustText(t, admin, `SELECT count(*) FROM scrim_state.policies, scrim_state.replaced_views`); got != "0\n" {
					t.Error(got)
				}
			})
		})
	}
}

// TestReplaceUnderLoad: a policy is replaced while masked sessions read, by either protocol: each result is wholly of one policy, and none fails.
func TestReplaceUnderLoad(t *testing.T) {
	onEach(t, func(t *testing.T, e *env) {
		e.trains(t)
		owner, admin := e.connect(t, olga), e.admin(t)
		e.exec(t, owner, strings.Replace(strings.Replace(testEncoder, "ENCODER enc", "ENCODER other", 1), "seed = 1", "seed = 2", 1))
		// The types stay, so that what is prepared can go on: other codes, inputs in another order, other exempt roles.
		alike := []string{
			`CREATE OR REPLACE MASKING POLICY p ON customers (age, income, score) EXCEPT risk USING ENCODER enc`,
			`CREATE OR REPLACE MASKING POLICY p ON customers (age, income, score) USING ENCODER other`,
			`CREATE OR REPLACE MASKING POLICY p ON customers (age, income, score) EXCEPT risk USING ENCODER enc (score, age, income, vip)`,
		}
		// What is not prepared sees other types too.
		others := append([]string{
			`CREATE OR REPLACE MASKING POLICY p ON customers (age, income, score) EXCEPT risk USING ENCODER other PRESENT AS VECTOR`,
			`CREATE OR REPLACE MASKING POLICY p ON customers (age, income, score) EXCEPT risk USING (id % 7)`,
			`CREATE OR REPLACE MASKING POLICY p ON customers (age, income, score) USING (id % 5)`,
		}, alike...)
		queries := []string{
			`SELECT id, age, income, score FROM customers WHERE id < 40 ORDER BY id`,
			`SELECT max(income), min(score) FROM customers WHERE id < 300`,
			`SELECT a.income, b.score FROM customers a JOIN customers b ON b.id = a.id + 1 WHERE a.id < 20 ORDER BY a.id`,
		}
		before := mustText(t, admin, allPrivileges)
		e.exec(t, owner, others[0])
		reader := func() *pgx.Conn {
			conn := e.connect(t, analyst)
			for i, q := range queries {
				if _, err := conn.PgConn().Prepare(t.Context(), fmt.Sprint("q", i), q, nil); err != nil {
					t.Error(explain(err))
				}
			}
			return conn
		}
		read := func(conn *pgx.Conn, prepared bool, i int) string {
			if !prepared {
				return answers(t, conn, queries[i], false)
			}
			r := conn.PgConn().ExecPrepared(t.Context(), fmt.Sprint("q", i), nil, nil, nil)
			var b strings.Builder
			for r.NextRow() {
				printRow(&b, r.Values())
			}
			tag, err := r.Close()
			fmt.Fprintln(&b, tag)
			printFailure(&b, err)
			return b.String()
		}
		want := make([]map[string]int, len(queries))
		for n, policy := range others {
			e.exec(t, owner, policy)
			conn := reader()
			for i := range queries {
				if want[i] == nil {
					want[i] = map[string]int{}
				}
				want[i][read(conn, false, i)] = n
			}
		}
		for i := range queries {
			if len(want[i]) != len(others) {
				t.Fatalf("%s looks alike under two policies", queries[i])
			}
		}
		for _, c := range []struct {
			policies []string
			times    int
			prepared []bool
		}{{alike, 100, []bool{false, true}}, {others, 18, []bool{false}}} {
			ctx, stop := context.WithCancel(t.Context())
			defer stop()
			var all sync.WaitGroup
			seen := make([]atomic.Int64, len(others))
			for i := range queries {
				for _, prepared := range c.prepared {
					conn := reader()
					all.Go(func() {
						for tick := time.NewTicker(time.Millisecond); ctx.Err() == nil; <-tick.C {
							got := read(conn, prepared, i)
							n, ok := want[i][got]
							if !ok {
								t.Errorf("prepared %v: %s is of no policy:\n%s", prepared, queries[i], got)
								return
							}
							seen[n].Add(1)
						}
					})
				}
			}
			for n := range c.times {
				e.exec(t, owner, c.policies[n%len(c.policies)])
				time.Sleep(5 * time.Millisecond)
			}
			stop()
			all.Wait()
			for n := len(others) - len(c.policies); n < len(others); n++ {
				if seen[n].Load() == 0 {
					t.Errorf("nothing was read under %s", others[n])
				}
				t.Logf("%d results of policy %d", seen[n].Load(), n)
			}
		}
		// Of the views that were replaced those go, in time, that nobody uses.
		e.exec(t, admin, `UPDATE scrim_state.replaced_views SET replaced_at = replaced_at - interval '1 hour'`)
		e.exec(t, owner, alike[0])
		if got := mustText(t, admin, `SELECT count(*) FROM pg_class WHERE relnamespace = 'scrim_runtime'::regnamespace AND relkind = 'v'`); got != "2\n" {
			t.Errorf("%s views are left", got)
		}
		e.exec(t, owner, `DROP MASKING POLICY p ON customers`)
		if after := mustText(t, admin, allPrivileges); after != before {
			t.Errorf("privileges:\n%s", difference(before, after))
		}
		if got := mustText(t, admin, `SELECT count(*) FROM pg_class WHERE relnamespace = 'scrim_runtime'::regnamespace AND relkind = 'v'`); got != "0\n" {
			t.Errorf("%s views are left", got)
		}
	})
}

// TestReplaceNarrower: when a column is masked that was not, no statement that begins afterwards sees it, whatever was planned before: on its way one
// can be refused, as by any REVOKE or change of a type.
func TestReplaceNarrower(t *testing.T) {
	onEachProtected(t, func(t *testing.T, e *env) {
		const query = `SELECT id, age, score FROM customers WHERE id > 1990 ORDER BY id`
		owner, admin := e.connect(t, olga), e.admin(t)
		narrow, wide := strings.Replace(testPolicy, "CREATE", "CREATE OR REPLACE", 1), `CREATE OR REPLACE MASKING POLICY p ON customers (age, income) EXCEPT risk USING ENCODER enc`
		want := map[string]string{}
		for name, policy := range map[string]string{"narrow": narrow, "wide": wide} {
			e.exec(t, owner, policy)
			want[answers(t, e.connect(t, analyst), query, false)] = name
		}
		if len(want) != 2 {
			t.Fatal("both look alike")
		}
		ctx, stop := context.WithCancel(t.Context())
		defer stop()
		var all sync.WaitGroup
		var seen atomic.Int64
		for _, extended := range []bool{false, true} {
			conn := e.connect(t, analyst)
			all.Go(func() {
				for ctx.Err() == nil {
					got := answers(t, conn, query, extended)
					refused := strings.Contains(got, "ERROR 42501: permission denied for table ") || extended && strings.Contains(got, "ERROR 0A000: cached plan must not change result type")
					if want[got] == "" && !refused {
						t.Errorf("extended %v: %s", extended, got)
						return
					}
					seen.Add(1)
				}
			})
		}
		directly := e.directly(t, analyst)
		for range 10 {
			e.exec(t, owner, wide)
			view := mustText(t, admin, `SELECT masked_view::regclass FROM scrim_state.protections`)
			mustText(t, directly, `SELECT score FROM `+view)
			e.exec(t, owner, narrow)
			for _, from := range []string{view, "customers"} {
				if got, err := text(t, directly, `SELECT score FROM `+from); code(err) != "42501" {
					t.Errorf("%s: %s %v", from, got, explain(err))
				}
			}
			if got := answers(t, e.connect(t, analyst), query, false); want[got] != "narrow" {
				t.Error(got)
			}
		}
		stop()
		all.Wait()
		if seen.Load() < 20 {
			t.Errorf("%d results", seen.Load())
		}
		// What SQL has prepared has to be prepared anew.
		reader := e.connect(t, analyst)
		e.exec(t, reader, `PREPARE s AS `+query, `EXECUTE s`)
		e.exec(t, owner, narrow)
		if _, err := text(t, reader, `EXECUTE s`); code(err) != "0A000" {
			t.Error(explain(err))
		}
		e.exec(t, reader, `DEALLOCATE s`, `PREPARE s AS `+query, `EXECUTE s`)
	})
}

// call runs calls of functions, of which the proxy hears by a notice, and waits for that.
func (e *env) call(t *testing.T, conn *pgx.Conn, calls ...string) {
	t.Helper()
	e.exec(t, conn, calls...)
	if _, err := e.catalog.Reload(t.Context()); err != nil {
		t.Fatal(err)
	}
}

// TestSuspend: between suspend and resume the table can be altered, nobody who is masked sees anything, and what is open then is refused.
func TestSuspend(t *testing.T) {
	onEachProtected(t, func(t *testing.T, e *env) {
		admin, owner, reader := e.admin(t), e.connect(t, olga), e.connect(t, analyst)
		const query = `SELECT id, age, income, score FROM customers WHERE id < 50 ORDER BY id`
		e.exec(t, owner, strings.Replace(testPolicy, "CREATE", "CREATE OR REPLACE", 1)) // the view that was replaced is in the way as well
		want, grants := mustText(t, reader, query), mustText(t, admin, viewGrants)
		alter := `ALTER TABLE customers ALTER COLUMN income TYPE float8, ALTER COLUMN "Note" TYPE varchar(100)`
		for statement, code := range map[string]string{alter: "0A000", `ALTER TABLE customers DROP COLUMN score`: "2BP01", `DROP TABLE customers`: "2BP01"} {
			_, err := text(t, owner, statement)
			var pgErr *pgconn.PgError
			if !asError(err, &pgErr) || pgErr.Code != code || pgErr.Hint != `Masking policy "p" reads it. Put SELECT scrim.suspend('public.customers') and scrim.resume('public.customers') around ALTER TABLE, or DROP MASKING POLICY.` {
				t.Errorf("%s: %s", statement, explain(err))
			}
		}
		for _, statement := range []string{`SELECT scrim.suspend('customers')`, `SELECT scrim.resume('customers')`, `SELECT scrim.fence_resume('customers')`} {
			if _, err := text(t, reader, statement); code(err) != "42501" {
				t.Errorf("analyst: %s: %s", statement, explain(err))
			}
		}
		e.call(t, owner, `SELECT scrim.suspend('customers')`)
		e.refusedAs(t, []*pgx.Conn{reader}, `masked columns of public.customers cannot be read while they are suspended`, `SELECT scrim.resume('public.customers')`)
		for _, statement := range []string{strings.Replace(testPolicy, "CREATE", "CREATE OR REPLACE", 1), `ALTER MASKING POLICY p ON customers SET EXCEPT (analyst)`} {
			if _, err := text(t, owner, statement); code(err) != "55000" {
				t.Errorf("%s: %s", statement, explain(err))
			}
		}
		e.exec(t, owner, alter, `ALTER TABLE customers RENAME COLUMN region TO area`, `ALTER TABLE customers RENAME COLUMN area TO region`, `ALTER TABLE customers ADD COLUMN later integer`)
		e.exec(t, owner, `CREATE VIEW leak AS SELECT income FROM customers`, `GRANT SELECT ON leak TO analyst`)
		if _, err := text(t, owner, `SELECT scrim.resume('customers')`); code(err) != "55000" || !strings.Contains(explain(err), "view public.leak") {
			t.Error(explain(err))
		}
		if _, err := text(t, reader, query); code(err) != "42501" {
			t.Error(explain(err))
		}
		e.exec(t, owner, `DROP VIEW leak`, `ALTER TABLE customers ALTER COLUMN vip TYPE text`)
		if _, err := text(t, owner, `SELECT scrim.resume('customers')`); code(err) != "0A000" || !strings.Contains(explain(err), "cannot be a feature") {
			t.Error(explain(err))
		}
		e.call(t, owner, `ALTER TABLE customers ALTER COLUMN vip TYPE boolean USING vip::boolean`, `SELECT scrim.resume('customers')`, `SELECT scrim.resume('customers')`)
		if got := mustText(t, reader, query); got != want {
			t.Error(difference(want, got))
		}
		if got := mustText(t, admin, viewGrants); got != grants {
			t.Error(difference(grants, got))
		}
		if got := mustText(t, reader, `SELECT max(length("Note")) FROM customers WHERE income IS NOT NULL`); got != "10\n" {
			t.Error(got)
		}
		// A feature view shows columns to others than the masked, who would be refused too.
		e.exec(t, owner, `CREATE FEATURE VIEW shown FOR ENCODER enc`)
		if _, err := text(t, owner, `SELECT scrim.suspend('customers')`); code(err) != "55000" || !strings.Contains(explain(err), "feature view shown") {
			t.Error(explain(err))
		}
		e.exec(t, owner, `DROP FEATURE VIEW shown`)
		// A policy that is disabled stays so, and one whose column is gone cannot go on.
		e.call(t, owner, `ALTER MASKING POLICY p ON customers DISABLE`, `SELECT scrim.suspend('customers')`, `SELECT scrim.resume('customers')`)
		e.refusedAs(t, []*pgx.Conn{reader}, `masking policy "p" on public.customers is disabled`, "ENABLE")
		e.call(t, owner, `SELECT scrim.suspend('customers')`, `ALTER TABLE customers DROP COLUMN score`)
		if _, err := text(t, owner, `SELECT scrim.resume('customers')`); code(err) != "55000" || !strings.Contains(explain(err), "was dropped") {
			t.Error(explain(err))
		}
		e.exec(t, owner, `DROP MASKING POLICY p ON customers`)
		if got := mustText(t, admin, `SELECT has_table_privilege('analyst', 'customers', 'SELECT')`); got != "t\n" {
			t.Error(got)
		}
	})
}

// TestSuspendParts: partitions and views are suspended along.
func TestSuspendParts(t *testing.T) {
	onEach(t, func(t *testing.T, e *env) {
		admin, owner, reader := e.admin(t), e.connect(t, olga), e.connect(t, analyst)
		e.exec(t, admin, asOlga(`CREATE TABLE child () INHERITS (customers)`, `INSERT INTO child SELECT * FROM customers WHERE id = 7`, `GRANT SELECT ON child TO analyst`,
			`CREATE VIEW pay AS SELECT id, income, age, score, vip FROM customers`, `GRANT SELECT ON pay TO analyst`)...)
		e.exec(t, owner, testPolicy+` CASCADE`)
		queries := []string{`SELECT age, income FROM customers WHERE id = 7`, `SELECT age, income FROM child`, `SELECT age, income FROM pay WHERE id = 7`}
		want := make([]string, len(queries))
		for i, q := range queries {
			want[i] = mustText(t, reader, q)
		}
		e.call(t, owner, `SELECT scrim.suspend('customers')`)
		for _, q := range queries {
			if _, err := text(t, reader, q); code(err) != "42501" || !strings.Contains(explain(err), "suspended") {
				t.Errorf("%s: %s", q, explain(err))
			}
		}
		e.call(t, owner, `BEGIN; DROP VIEW pay; ALTER TABLE customers ALTER COLUMN age TYPE bigint; COMMIT`, `SELECT scrim.resume('customers')`)
		for i, q := range queries[:2] {
			if got := mustText(t, reader, q); got != want[i] {
				t.Errorf("%s: %s", q, got)
			}
		}
	})
}

// TestProtectColumn: columns come and go one by one.
func TestProtectColumn(t *testing.T) {
	onEach(t, func(t *testing.T, e *env) {
		admin, owner, reader := e.admin(t), e.connect(t, olga), e.connect(t, analyst)
		before := mustText(t, admin, allPrivileges)
		e.call(t, owner, `SELECT scrim.protect_column('customers', 'income', 'enc', '{risk}')`)
		const types = `SELECT pg_typeof(age), pg_typeof(income), age = income FROM customers WHERE id = 1`
		code1 := mustText(t, reader, `SELECT income FROM customers WHERE id = 1`)
		e.call(t, owner, `SELECT scrim.protect_column('customers', 'age', 'enc')`)
		if got := mustText(t, reader, `SELECT income FROM customers WHERE id = 1`); got != code1 || !strings.HasPrefix(got, "{") {
			t.Errorf("%s, and before %s", got, code1)
		}
		if got := mustText(t, reader, `SELECT age = income, score FROM customers WHERE id = 1`); got != "t|331.5\n" {
			t.Error(got)
		}
		if got := mustText(t, e.connect(t, risk), types); got != "integer|numeric|f\n" {
			t.Error(got)
		}
		for statement, want := range map[string]string{
			`SELECT scrim.protect_column('customers', 'age', 'enc')`:       "42710",
			`SELECT scrim.protect_column('customers', 'score', 'another')`: "42704",
			`SELECT scrim.unprotect_column('customers', 'score')`:          "42704",
		} {
			if _, err := text(t, owner, statement); code(err) != want {
				t.Errorf("%s: %s", statement, explain(err))
			}
		}
		e.call(t, owner, `SELECT scrim.unprotect_column('customers', 'income')`)
		if got := mustText(t, reader, `SELECT income FROM customers WHERE id = 2000`); got != "2342108.75\n" {
			t.Error(got)
		}
		if _, err := text(t, e.directly(t, analyst), `SELECT age FROM customers`); code(err) != "42501" {
			t.Error(explain(err))
		}
		e.call(t, owner, `SELECT scrim.unprotect_column('customers', 'age')`)
		if got := mustText(t, admin, allPrivileges); got != before {
			t.Error(difference(before, got))
		}
	})
}

// TestEncoderOfAnother: what a policy shows already its table's owner keeps through changes, whoever made the encoder; a new use of it needs who did.
func TestEncoderOfAnother(t *testing.T) {
	onEachProtected(t, func(t *testing.T, e *env) {
		e.exec(t, e.admin(t), `UPDATE scrim_state.encoders SET creator = 'risk'::regrole`)
		owner, reader := e.connect(t, olga), e.connect(t, analyst)
		const query = `SELECT income FROM customers WHERE id = 2000`
		want := mustText(t, reader, query)
		e.exec(t, owner, `ALTER MASKING POLICY p ON customers SET EXCEPT (risk, guest)`, `CREATE MASKING POLICY notes ON customers ("Note") USING (NULL)`,
			`ALTER MASKING POLICY p ON customers DISABLE`, `ALTER MASKING POLICY p ON customers ENABLE`)
		if got := mustText(t, reader, query); got != want {
			t.Errorf("%s was %s", got, want)
		}
		for _, statement := range []string{
			strings.Replace(testPolicy, "CREATE", "CREATE OR REPLACE", 1), `CREATE MASKING POLICY q ON customers (vip) USING ENCODER enc`, `SELECT scrim.protect_column('customers', 'vip', 'enc')`,
		} {
			if _, err := text(t, owner, statement); code(err) != "42501" || !strings.Contains(explain(err), `encoder "enc"`) {
				t.Errorf("%s: %s", statement, explain(err))
			}
		}
		e.exec(t, owner, `DROP MASKING POLICY notes ON customers`)
		if got := mustText(t, reader, query); got != want {
			t.Errorf("%s was %s", got, want)
		}
	})
}

// TestColumnDropped: DROP COLUMN ... CASCADE takes the masked view along, which closes all masked columns of the table; scrim.resume, or the next change of its policies, opens those that are left.
func TestColumnDropped(t *testing.T) {
	onEachProtected(t, func(t *testing.T, e *env) {
		owner, reader := e.connect(t, olga), e.connect(t, analyst)
		const query = `SELECT age FROM customers WHERE id = 2000`
		want := mustText(t, reader, query)
		for _, next := range []string{`SELECT scrim.resume('customers')`, `DROP MASKING POLICY notes ON customers`, `CREATE OR REPLACE MASKING POLICY notes ON customers (region) USING (NULL)`, `ALTER MASKING POLICY p ON customers SET EXCEPT (risk, guest)`} {
			e.exec(t, owner, `DROP INDEX IF EXISTS customers_region`, `CREATE MASKING POLICY notes ON customers ("Note") USING (scrim.partial("Note", 2, '*', 1) || region)`, `ALTER TABLE customers DROP COLUMN "Note" CASCADE`)
			if got, err := text(t, reader, query); code(err) != "42501" {
				t.Errorf("after DROP COLUMN: %s %s", got, explain(err))
			}
			if got := mustText(t, owner, `SELECT name, columns, inputs FROM scrim.masking_policies ORDER BY name`); got != "notes|{}|{region}\np|{age,income,score}|{age,income,score,vip}\n" {
				t.Errorf("policies: %s", got)
			}
			e.call(t, owner, next)
			if got, err := text(t, reader, query); got != want {
				t.Errorf("after %s: %s %s", next, got, explain(err))
			}
			e.exec(t, owner, `DROP MASKING POLICY IF EXISTS notes ON customers`, `ALTER TABLE customers ADD COLUMN "Note" text`)
		}
		// Of a policy of several columns the others stay, and what the dropped one's mask alone has read may go too.
		for _, drop := range []string{`ALTER TABLE customers DROP COLUMN "Note" CASCADE`, `SELECT scrim.suspend('customers')`} {
			e.call(t, owner, `CREATE MASKING POLICY notes AS (v text) RETURNS text -> scrim.partial(v, 1, '*', 1)`, `ALTER TABLE customers ALTER "Note" SET MASKING POLICY notes`,
				`ALTER TABLE customers ALTER region SET MASKING POLICY notes`, drop, `ALTER TABLE customers DROP COLUMN IF EXISTS "Note"`, `SELECT scrim.resume('customers')`)
			if got := mustText(t, owner, `SELECT name, columns, inputs, suspended FROM scrim.masking_policies ORDER BY name`); got != "notes|{region}|{region}|f\np|{age,income,score}|{age,income,score,vip}|f\n" {
				t.Errorf("after %s: %s", drop, got)
			}
			if got := mustText(t, reader, `SELECT region FROM customers WHERE id = 2000`); got != "*\n" {
				t.Errorf("after %s: %s", drop, got)
			}
			e.exec(t, owner, `DROP MASKING POLICY notes ON customers`, `DROP MASKING POLICY notes`, `ALTER TABLE customers ADD COLUMN "Note" text`)
		}
	})
}
