package integration_test

import (
	"context"
	"fmt"
	"testing"
	"time"

	"github.com/jackc/pgx/v5/pgconn"
)

// Benchmarks give ratios of one run on one machine: absolute figures of a shared machine say little. BENCHMARKS.md holds
// what came out.

// benchRows is the size of the scanned table.
const benchRows = 200_000

func benchEnv(b *testing.B) *env {
	b.Helper()
	w := worlds[0]
	ctx := context.Background()
	name := fmt.Sprintf("bench_%d", w.made.Add(1))
	if err := w.superuser(ctx, "postgres", "CREATE DATABASE "+name+" TEMPLATE template"); err != nil {
		b.Fatal(err)
	}
	err := w.superuser(ctx, name, fmt.Sprintf(`INSERT INTO customers SELECT i, (ARRAY['EU','US','APAC'])[1 + i %% 3], 18 + i %% 60, 20000 + i %% 80000 + 0.25, 300 + i %% 550 + 0.5, i %% 5 = 0, 'note ' || i
		FROM generate_series(2001, %d) i`, benchRows), `ANALYZE customers`,
		`SET SESSION AUTHORIZATION olga`, `SELECT scrim.create_masking_policy('p', 'customers', '{age,income,score}', '{risk}', 'enc')`)
	if err != nil {
		b.Fatal(err)
	}
	e, err := w.open(ctx, name)
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

// compare times one round of each way after the other, b.N times, and reports medians' ratios to the first.
func compare(b *testing.B, e *env, query string, params [][]byte, format int16, rounds, rows int) {
	b.Helper()
	conns := map[string]*pgconn.PgConn{}
	spent := map[string]time.Duration{}
	for _, w := range ways(e) {
		conns[w.name] = benchConn(b, w.dsn)
		if _, err := conns[w.name].Prepare(context.Background(), "s", query, nil); err != nil {
			b.Fatal(err)
		}
		drain(b, conns[w.name], "s", params, []int16{format}) // warm
	}
	for b.Loop() {
		for _, w := range ways(e) {
			started := time.Now()
			for range rounds {
				if n := drain(b, conns[w.name], "s", params, []int16{format}); n != rows {
					b.Fatalf("%s: %d rows", w.name, n)
				}
			}
			spent[w.name] += time.Since(started)
		}
	}
	direct := spent["direct"].Seconds()
	b.ReportMetric(spent["relayed"].Seconds()/direct, "relayed/direct")
	b.ReportMetric(spent["masked"].Seconds()/direct, "masked/direct")
	b.ReportMetric(float64(rounds*rows*b.N)/spent["masked"].Seconds(), "masked-rows/s")
}

// BenchmarkScan reads all customers: raw around the proxy, raw through it, and masked.
func BenchmarkScan(b *testing.B) {
	e := benchEnv(b)
	for name, format := range map[string]int16{"text": 0, "binary": 1} {
		b.Run(name, func(b *testing.B) {
			compare(b, e, `SELECT id, region, age, income, score FROM customers`, nil, format, 1, benchRows)
		})
	}
}

// BenchmarkPoint reads one customer by key, a hundred times.
func BenchmarkPoint(b *testing.B) {
	e := benchEnv(b)
	compare(b, e, `SELECT id, region, age, income, score FROM customers WHERE id = $1`, [][]byte{[]byte("1234")}, 0, 100, 1)
}
