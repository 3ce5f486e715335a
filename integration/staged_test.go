package integration_test

import (
	"bytes"
	"context"
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/jackc/pgx/v5"

	"github.com/scrimdb/scrim/proxy"
)

// codesTwin makes the table of codes, and returns the masked role's connection and one to that table under the same name.
func codesTwin(t *testing.T, e *env) (masked, plain *pgx.Conn) {
	t.Helper()
	masked = e.connect(t, analyst)
	copyCodes(t, e, masked)
	plain = e.admin(t)
	e.exec(t, plain, `SET search_path = codes, public`)
	return masked, plain
}

// TestStagedParameters: conditions of the client's with parameters go into the list of codes, in either format.
func TestStagedParameters(t *testing.T) {
	onEachProtected(t, func(t *testing.T, e *env) {
		masked, plain := codesTwin(t, e)
		for _, c := range []struct {
			sql  string
			args []any
		}{
			{`SELECT id, income + 0 FROM customers WHERE id = $1`, []any{7}},
			{`SELECT id FROM customers WHERE region = $2 AND income > $1 ORDER BY id`, []any{0.3, "EU"}},
			{`SELECT count(*) FROM customers WHERE income > $1 AND id = ANY ($2)`, []any{0.1, []int32{1, 2, 3, 4, 5, 6}}},
			{`SELECT id FROM customers WHERE id BETWEEN $1 AND $1 + 5 AND income < $2 ORDER BY id`, []any{10, 10.5}},
			{`SELECT id FROM customers WHERE id = $1::bigint AND $2::text IS NULL AND income IS NOT NULL`, []any{9, nil}},
			{`SELECT id FROM customers WHERE vip = $1 AND "Note" LIKE $2 AND income > $3 ORDER BY id`, []any{true, "note 1%", -1.5}},
			{`SELECT $1::int, max(income) FROM customers WHERE region = $2`, []any{5, "US"}},
		} {
			for _, mode := range []pgx.QueryExecMode{pgx.QueryExecModeCacheStatement, pgx.QueryExecModeCacheDescribe, pgx.QueryExecModeDescribeExec, pgx.QueryExecModeExec, pgx.QueryExecModeSimpleProtocol} {
				for range 2 { // prepared, and prepared before
					got, want := queryAll(t, masked, mode, c.sql, c.args), queryAll(t, plain, mode, c.sql, c.args)
					if got != want || strings.Contains(got, "ERROR") {
						t.Errorf("%s %v, %s:\n%s\nnot\n%s", c.sql, c.args, mode, got, want)
					}
				}
			}
		}
		before := e.proxy.Metrics().RowsEncoded.Load()
		mustText(t, masked, `SELECT max(income) FROM customers WHERE id IN (3, 4, 5)`)
		queryAll(t, masked, pgx.QueryExecModeExec, `SELECT income * 2 FROM customers WHERE id = $1`, []any{3})
		if n := e.proxy.Metrics().RowsEncoded.Load() - before; n != 4 {
			t.Errorf("%d codes were computed for four rows", n)
		}
	})
}

func queryAll(t *testing.T, conn *pgx.Conn, mode pgx.QueryExecMode, sql string, args []any) string {
	t.Helper()
	rows, err := conn.Query(t.Context(), sql, append([]any{mode}, args...)...)
	if err != nil {
		return "ERROR " + err.Error()
	}
	var b strings.Builder
	for rows.Next() {
		values, err := rows.Values()
		if err != nil {
			return "ERROR " + err.Error()
		}
		fmt.Fprintln(&b, values...)
	}
	if rows.Err() != nil {
		return "ERROR " + explain(rows.Err())
	}
	return b.String()
}

// TestStagedCopy: COPY shows masks, of a table and of a query, in every format.
func TestStagedCopy(t *testing.T) {
	onEachProtected(t, func(t *testing.T, e *env) {
		masked, plain := codesTwin(t, e)
		for _, sql := range []string{
			`COPY customers TO STDOUT`,
			`COPY public.customers (id, income, "Note") TO STDOUT WITH (FORMAT csv, HEADER)`,
			`COPY customers(id,age) TO STDOUT (FORMAT binary)`,
			`COPY (SELECT id, income FROM customers WHERE income > 0.2 ORDER BY id) TO STDOUT CSV`,
			`COPY (SELECT region, max(income) FROM customers GROUP BY 1 ORDER BY 1) TO STDOUT (DELIMITER '|')`,
			`COPY (SELECT income FROM customers WHERE id < 0) TO STDOUT`,
			`COPY (TABLE customers) TO STDOUT (FORMAT csv, NULL 'none')`,
		} {
			var got, want bytes.Buffer
			if _, err := masked.PgConn().CopyTo(t.Context(), &got, sql); err != nil {
				t.Errorf("%s: %v", sql, explain(err))
				continue
			}
			if _, err := plain.PgConn().CopyTo(t.Context(), &want, strings.ReplaceAll(sql, "public.", "codes.")); err != nil {
				t.Fatal(err)
			}
			if !bytes.Equal(got.Bytes(), want.Bytes()) {
				t.Errorf("%s:\n%.300s\nnot\n%.300s", sql, got.String(), want.String())
			}
		}
	})
}

// TestStagedTransactions: a masked column is what it would be for the transaction that asks: with its own changes, at its
// snapshot, whatever a savepoint takes back.
func TestStagedTransactions(t *testing.T) {
	onEachProtected(t, func(t *testing.T, e *env) {
		e.exec(t, e.admin(t), `GRANT UPDATE (region), DELETE ON customers TO analyst`)
		conn, other := e.connect(t, analyst), e.connect(t, analyst)
		top := mustText(t, conn, `SELECT id, region FROM customers WHERE id < 100 ORDER BY income DESC LIMIT 1`)
		id, _, _ := strings.Cut(top, "|")
		find := `SELECT region, count(*) FROM customers WHERE income = (SELECT max(income) FROM customers WHERE id < 100) AND id < 100 GROUP BY 1`
		e.exec(t, conn, `BEGIN`, `UPDATE customers SET region = 'mine' WHERE id = `+id)
		if got := mustText(t, conn, find); got != "mine|1\n" {
			t.Errorf("its own change: %q", got)
		}
		if got := mustText(t, other, find); strings.HasPrefix(got, "mine") {
			t.Errorf("somebody else's change: %q", got)
		}
		e.exec(t, conn, `SAVEPOINT s`, `DELETE FROM customers WHERE id = `+id)
		if got := mustText(t, conn, find); strings.HasPrefix(got, "mine") {
			t.Errorf("deleted: %q", got)
		}
		e.exec(t, conn, `ROLLBACK TO s`)
		if got := mustText(t, conn, find); got != "mine|1\n" {
			t.Errorf("deletion taken back: %q", got)
		}
		e.exec(t, conn, `COMMIT`)
		if got := mustText(t, other, find); got != "mine|1\n" {
			t.Errorf("committed: %q", got)
		}

		// A snapshot stays what it was.
		e.exec(t, conn, `BEGIN ISOLATION LEVEL REPEATABLE READ`)
		before := mustText(t, conn, `SELECT count(*), max(income) FROM customers`)
		e.exec(t, other, `DELETE FROM customers WHERE id > 1000`)
		if got := mustText(t, conn, `SELECT count(*), max(income) FROM customers`); got != before {
			t.Errorf("%q at a snapshot, then %q", before, got)
		}
		e.exec(t, conn, `COMMIT`)
		if got := mustText(t, conn, `SELECT count(*) FROM customers WHERE income IS NOT NULL`); got != "1000\n" {
			t.Errorf("after it: %q", got)
		}

		// Locks are taken on the table's rows.
		e.exec(t, conn, `BEGIN`)
		mustText(t, conn, `SELECT id, income FROM customers WHERE id = 5 AND income IS NOT NULL FOR UPDATE`)
		if _, err := text(t, other, `SELECT id FROM customers WHERE id = 5 FOR UPDATE NOWAIT`); code(err) != "55P03" {
			t.Errorf("a locked row: %v", err)
		}
		if got := mustText(t, other, `SELECT id FROM customers WHERE id IN (5, 6) AND income IS NOT NULL FOR UPDATE SKIP LOCKED`); got != "6\n" {
			t.Errorf("SKIP LOCKED: %q", got)
		}
		e.exec(t, conn, `ROLLBACK`)

		// An error in a block of the client's aborts it, and the block is still the client's.
		e.exec(t, conn, `BEGIN`)
		if _, err := text(t, conn, `SELECT 1 / (income - income)::int FROM customers WHERE id = 1`); code(err) != "22012" {
			t.Errorf("division: %v", err)
		}
		if _, err := text(t, conn, `SELECT max(income) FROM customers`); code(err) != "25P02" {
			t.Errorf("in an aborted block: %v", err)
		}
		e.exec(t, conn, `ROLLBACK`)
		if status := conn.PgConn().TxStatus(); status != 'I' {
			t.Errorf("status %c", status)
		}
	})
}

// TestStagedExplain: EXPLAIN tells the plan, and for each mask how it is made.
func TestStagedExplain(t *testing.T) {
	onEachProtected(t, func(t *testing.T, e *env) {
		conn := e.connect(t, analyst)
		for sql, wants := range map[string][]string{
			`EXPLAIN SELECT id, income FROM customers`:                        {"Seq Scan", "Mask of column 2 (income): component 2 of encoder enc version 1 (policy p), deferred"},
			`EXPLAIN (COSTS OFF) SELECT max(age) FROM customers`:              {"Aggregate", "Codes of customers: encoder enc version 1 (policy p), staged: age is used in an expression (rows=2000 batches="},
			`EXPLAIN (ANALYZE, TIMING OFF) SELECT max(age) FROM customers`:    {"actual rows=2000", "rows=2000 batches="},
			`EXPLAIN (FORMAT json) SELECT max(age) FROM customers`:            {`"Plan"`},
			`EXPLAIN SELECT 1 FROM customers WHERE age > 0 AND region = 'EU'`: {"(rows=667 batches=1"},
		} {
			for _, extended := range []bool{false, true} {
				got := answers(t, conn, sql, extended)
				for _, want := range wants {
					if !strings.Contains(got, want) && !strings.Contains(strings.ReplaceAll(got, ".00", ""), want) {
						t.Errorf("%s (extended %v) does not say %q:\n%s", sql, extended, want, got)
					}
				}
				if strings.Contains(sql, "json") && strings.Contains(got, "Codes of") {
					t.Errorf("%s: %s", sql, got)
				}
			}
		}
	})
}

// TestStagedLimits: a list of codes may have so many rows.
func TestStagedLimits(t *testing.T) {
	onEachProtected(t, func(t *testing.T, e *env) {
		p, _ := e.serve(t, func(c *proxy.Config) { c.StagedRows = 100 })
		conn := p.connect(t, analyst)
		mustText(t, conn, `SELECT max(income) FROM customers WHERE id <= 100`)
		for _, begin := range []string{`SELECT 1`, `BEGIN`} {
			for _, extended := range []bool{false, true} {
				e.exec(t, conn, begin)
				if got := answers(t, conn, `SELECT max(income) FROM customers WHERE id <= 101`, extended); !strings.Contains(got, "54000") {
					t.Errorf("101 rows: %s", got)
				}
				e.exec(t, conn, `ROLLBACK`)
			}
			mustText(t, conn, `SELECT id, income FROM customers WHERE id <= 101`)
		}
	})
}

// TestStagedMiss: a row that changes between the listing and the statement makes it be tried again, where the statement sees
// the change; the client gets the new row, never a wrong code. The listing waits for a lock in an operator of the client's, so
// that the row changes behind its snapshot.
func TestStagedMiss(t *testing.T) {
	onEachProtected(t, func(t *testing.T, e *env) {
		admin := e.admin(t)
		e.exec(t, admin, `CREATE FUNCTION public.waits(a integer, b integer) RETURNS boolean LANGUAGE plpgsql AS $$ BEGIN PERFORM pg_advisory_lock_shared(1); PERFORM pg_advisory_unlock_shared(1); RETURN a = b; END $$`,
			`CREATE OPERATOR public.=== (FUNCTION = public.waits, LEFTARG = integer, RIGHTARG = integer)`)
		for _, c := range []struct {
			begin   string
			region  string // of the row, as the statement sees it
			repeats int64
		}{{"", "before", 0}, {"BEGIN", "after", 1}, {"BEGIN ISOLATION LEVEL REPEATABLE READ", "before", 0}} {
			for _, extended := range []bool{false, true} {
				conn := e.connect(t, analyst)
				e.exec(t, admin, `UPDATE customers SET region = 'before' WHERE id = 7`, `SELECT pg_advisory_lock(1)`)
				want := mustText(t, conn, `SELECT income FROM customers WHERE id = 7`)
				if c.begin != "" {
					e.exec(t, conn, c.begin)
				}
				repeats := e.proxy.Metrics().Repeats.Load()
				answered := make(chan string, 1)
				go func() {
					answered <- answers(t, conn, `SELECT region, max(income) FROM customers WHERE id === 7 AND id = 7 GROUP BY 1`, extended)
				}()
				eventually(t, func() bool {
					return mustText(t, admin, `SELECT count(*) FROM pg_stat_activity WHERE wait_event = 'advisory' AND datname = current_database()`) == "1\n"
				})
				e.exec(t, admin, `UPDATE customers SET region = 'after' WHERE id = 7`, `SELECT pg_advisory_unlock(1)`)
				if got, want := <-answered, c.region+"|"+strings.TrimSpace(want)+"|\nSELECT 1\n"; got != want {
					t.Errorf("%q, extended %v: %q, want %q", c.begin, extended, got, want)
				}
				if n := e.proxy.Metrics().Repeats.Load() - repeats; n != c.repeats {
					t.Errorf("%q, extended %v: repeated %d times, not %d", c.begin, extended, n, c.repeats)
				}
				if c.begin != "" {
					e.exec(t, conn, "COMMIT")
				}
			}
		}
	})
}

// TestStagedCancel: a statement that is cancelled while its codes are listed, or while it runs, leaves the session in order.
func TestStagedCancel(t *testing.T) {
	onEachProtected(t, func(t *testing.T, e *env) {
		conn := e.connect(t, analyst)
		for _, sql := range []string{
			`SELECT max(a.income + b.income + c.income) FROM customers a, customers b, customers c`,
			`SELECT pg_sleep(60), max(income) FROM customers`,
		} {
			ctx, cancel := context.WithCancel(t.Context())
			failed := make(chan error, 1)
			go func() {
				_, err := conn.PgConn().Exec(context.WithoutCancel(ctx), sql).ReadAll()
				failed <- err
			}()
			eventually(t, func() bool {
				return mustText(t, e.admin(t), `SELECT count(*) FROM pg_stat_activity WHERE usename = 'analyst' AND state = 'active' AND query LIKE '%no_code%' AND datname = current_database()`) == "1\n"
			})
			if err := conn.PgConn().CancelRequest(t.Context()); err != nil {
				t.Fatal(err)
			}
			if err := <-failed; code(err) != "57014" {
				t.Errorf("%s: %v", sql, err)
			}
			cancel()
			if got := mustText(t, conn, `SELECT count(*) FROM customers WHERE income IS NOT NULL`); got != "2000\n" || conn.PgConn().TxStatus() != 'I' {
				t.Errorf("afterwards: %q, %c", got, conn.PgConn().TxStatus())
			}
		}
	})
}

// TestStagedPipeline: staged statements among others, in one batch.
func TestStagedPipeline(t *testing.T) {
	onEachProtected(t, func(t *testing.T, e *env) {
		masked, plain := codesTwin(t, e)
		run := func(conn *pgx.Conn, statements ...string) []string {
			batch := &pgx.Batch{}
			for _, s := range statements {
				batch.Queue(s)
			}
			results := conn.SendBatch(t.Context(), batch)
			defer func() { _ = results.Close() }()
			var out []string
			for range statements {
				rows, err := results.Query()
				if err == nil {
					var all [][]any
					all, err = pgx.CollectRows(rows, func(row pgx.CollectableRow) ([]any, error) { return row.Values() })
					out = append(out, fmt.Sprint(all))
				}
				if err != nil {
					out = append(out, code(err))
				}
			}
			return out
		}
		for _, statements := range [][]string{
			{`SELECT max(income) FROM customers`, `SELECT 1`, `SELECT min(age) FROM customers WHERE id < 10`, `SELECT id, income FROM customers WHERE id = 3`},
			{`SELECT 1`, `CREATE TEMP TABLE t (x float8)`, `INSERT INTO t SELECT income FROM customers WHERE id < 4`, `SELECT x FROM t ORDER BY x`, `DROP TABLE t`},
			{`SELECT max(income) FROM customers`, `SELECT 1/0`, `SELECT min(age) FROM customers`},
			{`SELECT max(income) / 0 FROM customers`, `SELECT min(age) FROM customers`},
			{`SELECT max(income) FROM customers`, `BEGIN`, `SELECT min(age) FROM customers`, `ROLLBACK`, `SELECT max(age) FROM customers`},
		} {
			if got, want := run(masked, statements...), run(plain, statements...); !slices.Equal(got, want) {
				t.Errorf("%q:\n%q\nnot\n%q", statements, got, want)
			}
			if a, b := masked.PgConn().TxStatus(), plain.PgConn().TxStatus(); a != b {
				t.Errorf("%q: status %c, not %c", statements, a, b)
			}
		}
	})
}

// TestWrongParameters: parameters that are not there, or too many, are refused as PostgreSQL does it; the lists of codes do not count.
func TestWrongParameters(t *testing.T) {
	onEachProtected(t, func(t *testing.T, e *env) {
		conn, plain := e.connect(t, analyst), e.directly(t, risk)
		e.exec(t, conn, `PREPARE y(int) AS SELECT max(income) FROM customers WHERE id < $1`)
		e.exec(t, plain, `PREPARE y(int) AS SELECT max(income) FROM customers WHERE id < $1`)
		for _, q := range []string{
			`SELECT $3::int, max(income) FROM customers`, `SELECT income FROM customers WHERE id = $1`, `SELECT max(income) FROM customers WHERE income > $1`,
			`SELECT income FROM customers WHERE id = 1; SELECT max(income) FROM customers WHERE id = $1`, `EXECUTE y(7, 8)`, `EXECUTE y`,
		} {
			_, got := text(t, conn, q)
			_, want := text(t, plain, q)
			if code(want) == "" || code(got) != code(want) || strings.SplitN(explain(got), "\n", 2)[0] != strings.SplitN(explain(want), "\n", 2)[0] {
				t.Errorf("%s\n%s\n%s", q, explain(got), explain(want))
			}
		}
		if _, err := text(t, conn, `EXPLAIN (ANALYZE) EXECUTE y(7)`); code(err) != "0A000" {
			t.Error(explain(err))
		}
		mustText(t, conn, `EXPLAIN EXECUTE y(7)`)
		mustText(t, conn, `EXECUTE y(7)`)
		mustText(t, conn, `SELECT max(income) FROM customers`)
		if got := mustText(t, conn, `SELECT string_agg(name, ',') FROM pg_prepared_statements`); got != "y\n" {
			t.Errorf("left behind: %s", got)
		}
	})
}
