//go:build drivers

package drivers_test

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/jackc/pgx/v5"
)

var pgbenchModes = []string{"simple", "extended", "prepared"}

// TestPgbench runs pgbench's own scripts and a pipeline in every mode. Then the books must balance.
func TestPgbench(t *testing.T) {
	onEach(t, func(t *testing.T, w *world) {
		to := w.through(risk)
		pgbench(t, to, "-i", "-q", "-s", "1", "--foreign-keys")
		pipeline := script(t, "\\startpipeline\nSELECT :client_id;\nSELECT 1;\n\\endpipeline\n")
		for _, mode := range pgbenchModes {
			for _, builtin := range []string{"tpcb-like", "simple-update", "select-only"} {
				transactions(t, to, 100, "-M", mode, "-b", builtin, "-c", "4", "-j", "2", "-t", "25")
			}
			transactions(t, to, 20, "-M", mode, "-b", "select-only", "-C", "-c", "2", "-t", "10")
		}
		transactions(t, to, 40, "-M", "extended", "-f", pipeline, "-c", "2", "-t", "20")
		transactions(t, to, 40, "-M", "prepared", "-f", pipeline, "-c", "2", "-t", "20")
		balance := one(t, to, `SELECT concat_ws(' ', (SELECT count(*) FROM pgbench_history), (SELECT sum(delta) FROM pgbench_history)
			= ALL (VALUES ((SELECT sum(abalance) FROM pgbench_accounts)), ((SELECT sum(delta) FROM pgbench_history))))`)
		if balance != "600 t" { // two scripts of 100 transactions in three modes write history
			t.Errorf("balance is %s", balance)
		}
	})
}

// TestPgbenchMasked: pgbench reads masked columns in every mode and writes down what it got.
func TestPgbenchMasked(t *testing.T) {
	onEach(t, func(t *testing.T, w *world) {
		must(t, run(t.Context(), w.admin(database).dsn(), `CREATE SCHEMA AUTHORIZATION analyst`,
			`CREATE TABLE analyst.seen (id int, age float8, income float8, score float8)`, `ALTER TABLE analyst.seen OWNER TO analyst`))
		file := script(t, "\\set id random(1, 2000)\nSELECT age, income, score FROM customers WHERE id = :id \\gset\n"+
			"INSERT INTO seen VALUES (:id, :age, :income, :score);\n")
		for _, mode := range pgbenchModes {
			transactions(t, w.through(analyst), 100, "-M", mode, "-f", file, "-c", "4", "-j", "2", "-t", "25")
		}
		seen := one(t, w.directly(analyst), `SELECT string_agg(concat_ws('|', id, age, income, score), E'\n') FROM seen`)
		noneRaw(t, seen)
		rows := strings.Split(seen, "\n")
		if len(rows) != 300 {
			t.Errorf("%d rows, not 300", len(rows))
		}
		for _, row := range rows {
			w.checkCodes(t, "seen", row, row)
		}
	})
}

func pgbench(t *testing.T, to login, args ...string) string {
	t.Helper()
	return command(t, to, nil, tool(t, "pgbench", postgresql), args...)
}

// transactions runs pgbench, which must do all of them, without a failure.
func transactions(t *testing.T, to login, n int, args ...string) {
	t.Helper()
	out := pgbench(t, to, append([]string{"-n"}, args...)...)
	if !strings.Contains(out, fmt.Sprintf("actually processed: %d/%d\n", n, n)) {
		t.Errorf("pgbench %s:\n%s", strings.Join(args, " "), out)
	}
}

func script(t *testing.T, text string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "script")
	must(t, os.WriteFile(path, []byte(text), 0o644))
	return path
}

// one is the single value that a query returns.
func one(t *testing.T, to login, query string) (value string) {
	t.Helper()
	conn, err := pgx.Connect(t.Context(), to.dsn())
	must(t, err)
	defer func() { _ = conn.Close(t.Context()) }()
	must(t, conn.QueryRow(t.Context(), query).Scan(&value))
	return value
}
