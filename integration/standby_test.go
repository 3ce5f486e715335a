package integration_test

import (
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/scrimdb/scrim/native"
)

// TestHotStandby: masked columns are read from a standby, computed with too; the catalog stays on the primary.
func TestHotStandby(t *testing.T) {
	t.Parallel()
	onServers(t, func(t *testing.T, w *world) {
		watch(t)
		ctx := t.Context()
		dir, err := os.MkdirTemp("", "scrim-standby-*")
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = os.RemoveAll(dir) })
		if err := os.Chmod(dir, 0o777); err != nil { // the server runs as another user than root
			t.Fatal(err)
		}
		start := func(name string, settings map[string]string) *native.Server {
			server, err := native.StartServer(ctx, native.ServerConfig{Binaries: w.binaries, Dir: filepath.Join(dir, name), Log: testLog(), Settings: settings})
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() { _ = server.Stop(ctx) })
			return server
		}
		first := start("primary", map[string]string{"fsync": "off"})
		made := &world{name: w.name, server: first, models: t.TempDir(), rt: w.rt, mu: make(chan struct{}, 1)}
		if err := made.makeTemplate(ctx); err != nil {
			t.Fatal(err)
		}
		if err := first.Stop(ctx); err != nil {
			t.Fatal(err)
		}
		if out, err := exec.CommandContext(ctx, "cp", "-a", filepath.Join(dir, "primary"), filepath.Join(dir, "standby")).CombinedOutput(); err != nil {
			t.Fatal(string(out))
		}
		primary := start("primary", map[string]string{"fsync": "off", "wal_level": "replica"})
		signal := filepath.Join(dir, "standby", "standby.signal")
		if err := os.WriteFile(signal, nil, 0o644); err != nil {
			t.Fatal(err)
		}
		standby := start("standby", map[string]string{"fsync": "off", "primary_conninfo": strings.ReplaceAll(primary.DSN(primary.Superuser(), primary.Password(), "postgres"), "'", "")})
		made.server = primary
		e, err := openProxy(ctx, standby.Addr(), primary.DSN(primary.Superuser(), primary.Password(), "template"), made.models, w.rt)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(e.close)
		e.world, e.database = made, "template"
		e.exec(t, dial(t, e.directDSN(olga)), `SELECT scrim.create_masking_policy('p', 'customers', '{age,income,score}', '{risk}', 'enc')`)
		if _, err := e.catalog.Reload(ctx); err != nil {
			t.Fatal(err)
		}
		through, err := made.open(ctx, "template", made.models)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(through.close)
		conn, want := e.connect(t, analyst), through.connect(t, analyst)
		eventually(t, func() bool { // until the policy has come to the standby
			_, err := text(t, e.connect(t, analyst), `SELECT income FROM customers WHERE id = 1`)
			return err == nil
		})
		for _, sql := range []string{
			`SELECT * FROM customers ORDER BY id LIMIT 20`, `SELECT region, max(income), count(*) FROM customers WHERE age > 0 GROUP BY 1 ORDER BY 1`,
			`SELECT id FROM customers ORDER BY income LIMIT 5`, `BEGIN ;; SELECT max(age) FROM customers ;; COMMIT`, `PREPARE p AS SELECT id FROM customers WHERE income > $1 ORDER BY id ;; EXECUTE p(0.5)`,
			`BEGIN ISOLATION LEVEL REPEATABLE READ ;; DECLARE c CURSOR FOR SELECT id, income + 1 FROM customers ORDER BY income ;; FETCH 3 FROM c ;; COMMIT`,
		} {
			for _, extended := range []bool{false, true} {
				if got, want := answers(t, conn, sql, extended), answers(t, want, sql, extended); got != want {
					t.Errorf("%s\non the standby:\n%s\non the primary:\n%s", sql, got, want)
				}
				_, _ = conn.Exec(ctx, `DEALLOCATE ALL`)
				_, _ = want.Exec(ctx, `DEALLOCATE ALL`)
			}
		}
		if a := visit(t, openConsole(t, e.catalog, e.proxy, nil)+"encoders/enc", olga, olga); a.status != http.StatusOK || !strings.Contains(a.body, "neighbourhood overlap") {
			t.Errorf("the console: %d %s", a.status, a.body)
		}
		// The standby seals with the old key until it hears of the new one.
		const masked = `SELECT id, income FROM customers ORDER BY id ;; SELECT max(income) FROM customers`
		before := answers(t, conn, masked, false)
		bare := dial(t, standby.DSN(standby.Superuser(), standby.Password(), "template"))
		e.exec(t, bare, `SELECT pg_wal_replay_pause()`)
		owner := dial(t, e.directDSN(olga))
		for range 3 {
			e.exec(t, owner, `SELECT scrim.rotate_key('p', 'customers')`)
			if got := answers(t, conn, masked, false); got != before {
				t.Errorf("before the standby has the key: %s", difference(before, got))
			}
		}
		e.exec(t, bare, `SELECT pg_wal_replay_resume()`)
		for range 20 {
			if got := answers(t, conn, masked, false); got != before {
				t.Errorf("while the standby gets the key: %s", difference(before, got))
			}
		}
		if got := answers(t, conn, `CREATE TEMP TABLE t AS SELECT income FROM customers`, false); !strings.Contains(got, "25006") {
			t.Errorf("a write: %s", got)
		}
	})
}
