package integration_test

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"math"
	"strings"
	"testing"

	"github.com/cockroachdb/datadriven"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
)

// TestAttacks runs testdata/attacks as the masked role: directly, and through the proxy by the simple and the extended
// protocol. Nothing that comes back may hold a raw value, whatever the answers are; the golden says what they are. Each
// line of a case is a statement; the answers are those of the last. Run with -rewrite to write what comes out.
func TestAttacks(t *testing.T) {
	onServers(t, func(t *testing.T, w *world) {
		e := w.fresh(t)
		e.exec(t, e.admin(t), asOlga(
			`GRANT INSERT (id, region, "Note"), UPDATE (region, "Note"), DELETE ON customers TO analyst`,
			`CREATE VIEW invoked WITH (security_invoker) AS SELECT * FROM customers`, `GRANT SELECT ON invoked TO analyst`)...)
		e.exec(t, e.admin(t), `GRANT CREATE ON SCHEMA public TO analyst`)
		e.trains(t)
		e.exec(t, e.connect(t, olga), testPolicy, featureEncoder, featureView)
		e.exec(t, e.admin(t), asOlga(`CREATE VIEW over WITH (security_invoker) AS SELECT * FROM scrim_runtime.traits`, `GRANT SELECT ON over TO analyst`)...)
		waitForViews(t, e, "over")
		admin := auditsAll(t, e)
		view := maskedView(t, e)
		features := strings.TrimPrefix(featureSeals(t, e), "scrim_runtime.")
		count := 0
		datadriven.RunTest(t, "testdata/attacks", func(t *testing.T, d *datadriven.TestData) string {
			count++
			lines := strings.Split(strings.NewReplacer("$VIEW", view, "$FEATURES", features).Replace(d.Input), "\n")
			var b strings.Builder
			for _, way := range []struct{ name, dsn string }{
				{"direct", e.directDSN(analyst)}, {"proxy", e.dsn(analyst)}, {"proxy, binary", e.dsn(analyst)},
			} {
				fmt.Fprintf(&b, "%s: %s\n", way.name, attack(t, way.dsn, lines, way.name == "proxy, binary"))
			}
			if w != worlds[0] { // the golden is the first server's; what differs elsewhere is that nothing leaks
				return d.Expected
			}
			return b.String()
		})
		if count < 150 {
			t.Errorf("%d attacks", count)
		}
		e.close() // which writes what is left
		e.close = func() {}
		audit := mustText(t, admin, `SELECT a FROM scrim_state.audit a`)
		if strings.Count(audit, ",refused,") < 150 {
			t.Errorf("few refusals are audited:\n%s", audit)
		}
		checkCanaries(t, "the audit", []byte(audit))
	})
}

// attack runs lines on a connection of their own and says how the last one ended.
func attack(t *testing.T, dsn string, lines []string, extended bool) string {
	t.Helper()
	cfg, err := pgx.ParseConfig(dsn)
	if err != nil {
		t.Fatal(err)
	}
	var said bytes.Buffer
	cfg.OnNotice = func(_ *pgconn.PgConn, n *pgconn.Notice) {
		fmt.Fprintln(&said, n.Message, n.Detail, n.Hint, n.Where)
	}
	conn, err := pgx.ConnectConfig(t.Context(), cfg)
	if err != nil {
		return "no connection: " + code(err)
	}
	defer func() { _ = conn.Close(t.Context()) }()
	answer := ""
	for _, line := range lines {
		rows := 0
		var err error
		if extended {
			r := conn.PgConn().ExecParams(t.Context(), line, nil, nil, nil, []int16{1})
			for r.NextRow() {
				rows++
				for _, v := range r.Values() {
					said.Write(v)
					said.WriteByte('\n')
				}
			}
			_, err = r.Close()
		} else {
			var results []*pgconn.Result
			results, err = conn.PgConn().Exec(t.Context(), line).ReadAll()
			for _, r := range results {
				for _, row := range r.Rows {
					rows++
					said.Write(bytes.Join(row, []byte("\n")))
					said.WriteByte('\n')
				}
			}
		}
		var pgErr *pgconn.PgError
		switch {
		case err == nil:
			answer = fmt.Sprintf("%d rows", rows)
		case asError(err, &pgErr):
			answer = pgErr.Code
			fmt.Fprintf(&said, "%+v\n", *pgErr)
		default:
			answer = err.Error()
		}
	}
	checkCanaries(t, strings.Join(lines, "\n"), said.Bytes())
	return answer
}

// checkCanaries fails the test if output holds a raw value of customer 2000, in text or in binary.
func checkCanaries(t *testing.T, what string, output []byte) {
	t.Helper()
	needles := [][]byte{
		binary.BigEndian.AppendUint32([]byte{0, 0, 0, 4}, 4815162),
		binary.BigEndian.AppendUint64(nil, math.Float64bits(4815162)),
		binary.BigEndian.AppendUint64(nil, math.Float64bits(2342108.75)),
		binary.BigEndian.AppendUint64(nil, math.Float64bits(16384.0625)),
		{0, 234, 8, 60, 29, 76}, // 2342108.75 in numeric's base 10000: 234, 2108, 7500
	}
	for _, c := range canaries {
		needles = append(needles, []byte(c))
	}
	for _, n := range needles {
		if bytes.Contains(output, n) {
			t.Errorf("LEAK: %s\nshows %q", what, n)
		}
	}
}
