package integration_test

import (
	"context"
	"fmt"
	"os"
	"slices"
	"strconv"
	"testing"
	"time"

	"github.com/jackc/pgx/v5/pgconn"
)

// Benchmarks give ratios of one run on one machine: absolute figures of a shared machine say little. BENCHMARKS.md holds
// what came out.

// benchRows is the size of the scanned table: SCRIM_BENCH_ROWS=1000000 for more.
func benchRows() int {
	if n, err := strconv.Atoi(os.Getenv("SCRIM_BENCH_ROWS")); err == nil {
		return max(n, 100_000)
	}
	return 200_000
}

func benchEnv(b *testing.B) *env {
	b.Helper()
	w := worlds[0]
	ctx := context.Background()
	name := fmt.Sprintf("bench_%d", w.made.Add(1))
	if err := w.superuser(ctx, "postgres", "CREATE DATABASE "+name+" TEMPLATE template"); err != nil {
		b.Fatal(err)
	}
	err := w.superuser(ctx, name, fmt.Sprintf(`INSERT INTO customers SELECT i, (ARRAY['EU','US','APAC'])[1 + i %% 3], 18 + i %% 60, 20000 + i %% 80000 + 0.25, 300 + i %% 550 + 0.5, i %% 5 = 0, 'note ' || i
		FROM generate_series(2001, %d) i`, benchRows()), `ANALYZE customers`,
		`SET SESSION AUTHORIZATION olga`, `SELECT scrim.create_masking_policy('p', 'customers', '{age,income,score}', '{risk}', 'enc')`)
	if err != nil {
		b.Fatal(err)
	}
	e, err := w.open(ctx, name, w.models)
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() {
		e.close()
		_ = w.superuser(context.Background(), "postgres", "DROP DATABASE "+name+" WITH (FORCE)")
	})
	return e
}

func benchConn(b *testing.B, dsn string) *pgconn.PgConn {
	b.Helper()
	conn, err := pgconn.Connect(context.Background(), dsn)
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() { _ = conn.Close(context.Background()) })
	return conn
}

// drain runs a prepared statement and throws the rows away.
func drain(b *testing.B, conn *pgconn.PgConn, name string, params [][]byte, formats []int16) int {
	b.Helper()
	r := conn.ExecPrepared(context.Background(), name, params, nil, formats)
	n := 0
	for r.NextRow() {
		n++
	}
	if _, err := r.Close(); err != nil {
		b.Fatal(err)
	}
	return n
}

// ways are the three roads to the same rows; the first is what the others are compared with.
func ways(e *env) []struct{ name, dsn string } {
	return []struct{ name, dsn string }{
		{"direct", e.directDSN(risk)}, {"relayed", e.dsn(risk)}, {"masked", e.dsn(analyst)},
	}
}

// timing is what one way took, in seconds, round by round.
type timing []float64

func (t *timing) add(d time.Duration) { *t = append(*t, d.Seconds()) }

// over is the median, over the rounds, of what t took over what another way did in the same round.
func (t timing) over(other timing) float64 {
	ratios := make([]float64, len(t))
	for i := range t {
		ratios[i] = t[i] / other[i]
	}
	return median(ratios)
}

func median(values []float64) float64 {
	sorted := slices.Sorted(slices.Values(values))
	n := len(sorted)
	return (sorted[(n-1)/2] + sorted[n/2]) / 2
}

// compare times one round of each way after the other, b.N times, and reports medians of the ratios within a round.
func compare(b *testing.B, e *env, query string, params [][]byte, format int16, rounds, rows int) {
	b.Helper()
	conns := map[string]*pgconn.PgConn{}
	spent := map[string]*timing{}
	for _, w := range ways(e) {
		conns[w.name], spent[w.name] = benchConn(b, w.dsn), &timing{}
		if _, err := conns[w.name].Prepare(context.Background(), "s", query, nil); err != nil {
			b.Fatal(err)
		}
		drain(b, conns[w.name], "s", params, []int16{format}) // warm
	}
	for b.Loop() {
		for _, w := range ways(e) {
			started := time.Now()
			for range rounds {
				if n := drain(b, conns[w.name], "s", params, []int16{format}); n != rows && rows > 0 {
					b.Fatalf("%s: %d rows", w.name, n)
				}
			}
			spent[w.name].add(time.Since(started))
		}
	}
	direct, relayed, masked := *spent["direct"], *spent["relayed"], *spent["masked"]
	b.ReportMetric(relayed.over(direct), "relayed/direct")
	b.ReportMetric(masked.over(direct), "masked/direct")
	b.ReportMetric(masked.over(relayed), "masked/relayed")
	if rows > 0 {
		b.ReportMetric(float64(rounds*rows)/median(masked), "masked-rows/s")
	}
}

// BenchmarkGroup groups 100,000 rows by a masked column, and takes its largest value: codes are listed first.
func BenchmarkGroup(b *testing.B) {
	e := benchEnv(b)
	for name, query := range map[string]string{
		"group": `SELECT age, count(*) FROM customers WHERE id <= 100000 GROUP BY age`,
		"max":   `SELECT max(income) FROM customers WHERE id <= 100000`,
	} {
		b.Run(name, func(b *testing.B) { compare(b, e, query, nil, 0, 1, 0) })
	}
}

// BenchmarkTop sorts all rows by a column that has no index and is not masked, and shows ten.
func BenchmarkTop(b *testing.B) {
	e := benchEnv(b)
	compare(b, e, `SELECT id, income FROM customers ORDER BY "Note" LIMIT 10`, nil, 0, 1, 10)
}

// BenchmarkSealed compares a masked scan with the time in which the server alone delivers the sealed rows, and with the raw
// ones.
func BenchmarkSealed(b *testing.B) {
	e := benchEnv(b)
	sealed, masked, direct := benchConn(b, e.directDSN(analyst)), benchConn(b, e.dsn(analyst)), benchConn(b, e.directDSN(risk))
	view, err := sealed.Exec(context.Background(), `SELECT format('SELECT id, region, %I FROM %s', attname, attrelid::regclass) FROM pg_attribute
		WHERE attname LIKE 'sealed\_%' AND attrelid IN (SELECT oid FROM pg_class WHERE relnamespace = 'scrim_runtime'::regnamespace AND relkind = 'v')`).ReadAll()
	if err != nil {
		b.Fatal(err)
	}
	const query = `SELECT id, region, income FROM customers`
	conns := []*pgconn.PgConn{sealed, masked, direct}
	for i, q := range []string{string(view[0].Rows[0][0]), query, query} {
		if _, err := conns[i].Prepare(context.Background(), "s", q, nil); err != nil {
			b.Fatal(err)
		}
		drain(b, conns[i], "s", nil, []int16{1}) // warm
	}
	var spent [3]timing
	for b.Loop() {
		for i, conn := range conns {
			started := time.Now()
			if n := drain(b, conn, "s", nil, []int16{1}); n != benchRows() {
				b.Fatalf("%d rows", n)
			}
			spent[i].add(time.Since(started))
		}
	}
	b.ReportMetric(spent[1].over(spent[0]), "masked/sealed")
	b.ReportMetric(spent[1].over(spent[2]), "masked/direct")
	b.ReportMetric(spent[0].over(spent[2]), "sealed/direct")
}

// BenchmarkSQLMask scans an SQL mask, and what a role that is exempt gets by the same expression through the proxy too.
func BenchmarkSQLMask(b *testing.B) {
	e := benchEnv(b)
	if err := e.superuser(context.Background(), e.database, `SET SESSION AUTHORIZATION olga`,
		`SELECT scrim.create_sql_masking_policy('note', 'customers', '{Note}', '{risk}', 'scrim.partial("Note", 6, ''**'', 1)')`); err != nil {
		b.Fatal(err)
	}
	if _, err := e.catalog.Reload(context.Background()); err != nil {
		b.Fatal(err)
	}
	const rows = 100_000
	masked, plain := benchConn(b, e.dsn(analyst)), benchConn(b, e.dsn(risk))
	conns := []*pgconn.PgConn{masked, plain}
	for i, column := range []string{`"Note"`, `scrim_runtime.partial("Note", 6, '**', 1)`} {
		if _, err := conns[i].Prepare(context.Background(), "s", fmt.Sprintf(`SELECT id, region, %s FROM customers WHERE id <= %d`, column, rows), nil); err != nil {
			b.Fatal(err)
		}
		drain(b, conns[i], "s", nil, []int16{0}) // warm
	}
	var spent [2]timing
	for b.Loop() {
		for i, conn := range conns {
			started := time.Now()
			if n := drain(b, conn, "s", nil, []int16{0}); n != rows {
				b.Fatalf("%d rows", n)
			}
			spent[i].add(time.Since(started))
		}
	}
	b.ReportMetric(spent[0].over(spent[1]), "masked/expression")
}

// BenchmarkScan reads all customers: raw around the proxy, raw through it, and masked.
func BenchmarkScan(b *testing.B) {
	e := benchEnv(b)
	for name, format := range map[string]int16{"text": 0, "binary": 1} {
		b.Run(name, func(b *testing.B) {
			compare(b, e, `SELECT id, region, age, income, score FROM customers`, nil, format, 1, benchRows())
		})
	}
}

// BenchmarkPoint reads one customer by key, a hundred times.
func BenchmarkPoint(b *testing.B) {
	e := benchEnv(b)
	for name, columns := range map[string]string{"five": "id, region, age, income, score", "three": "id, region, income"} {
		b.Run(name, func(b *testing.B) {
			compare(b, e, `SELECT `+columns+` FROM customers WHERE id = $1`, [][]byte{[]byte("1234")}, 0, 100, 1)
		})
	}
}

// BenchmarkAudit compares masked reads that are audited with the same without an audit: a scan, and a customer by key, a thousand times.
func BenchmarkAudit(b *testing.B) {
	e := benchEnv(b)
	for _, c := range []struct {
		name, query string
		params      [][]byte
		rounds      int
	}{
		{"scan", `SELECT id, region, age, income, score FROM customers`, nil, 1},
		{"point", `SELECT id, region, income FROM customers WHERE id = $1`, [][]byte{[]byte("1234")}, 1000},
	} {
		b.Run(c.name, func(b *testing.B) {
			conn := benchConn(b, e.dsn(analyst))
			if _, err := conn.Prepare(context.Background(), "s", c.query, nil); err != nil {
				b.Fatal(err)
			}
			spent := map[string]*timing{"off": {}, "all": {}}
			for b.Loop() {
				for level, t := range spent {
					if err := e.superuser(context.Background(), e.database, `SELECT scrim.set_audit('`+level+`')`); err != nil {
						b.Fatal(err)
					}
					if _, err := e.catalog.Reload(context.Background()); err != nil {
						b.Fatal(err)
					}
					drain(b, conn, "s", c.params, nil) // planned anew
					started := time.Now()
					for range c.rounds {
						drain(b, conn, "s", c.params, nil)
					}
					t.add(time.Since(started))
				}
			}
			b.ReportMetric(spent["all"].over(*spent["off"]), "all/off")
			b.ReportMetric(median(*spent["all"])*1e6/float64(c.rounds), "us/statement")
		})
	}
}
