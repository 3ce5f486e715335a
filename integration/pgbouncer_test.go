//go:build drivers && linux

package integration_test

import (
	"fmt"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/scrimdb/scrim/integration/internal/pgbouncer"
)

// TestBehindPgBouncer: PgBouncer between the proxy and the server, with sessions pooled and with transactions pooled. There
// the client has no prepared statements, as without Scrim.
func TestBehindPgBouncer(t *testing.T) {
	onEachProtected(t, func(t *testing.T, e *env) {
		_, plain := codesTwin(t, e)
		for mode, cases := range map[string][]string{
			"session": {`PREPARE p AS SELECT id FROM customers WHERE income > $1 ORDER BY id ;; EXECUTE p(0.5) ;; DEALLOCATE p`},
			"transaction": {
				`BEGIN ;; DECLARE c CURSOR FOR SELECT id, income + 1 FROM customers ORDER BY income ;; FETCH 3 FROM c ;; COMMIT`,
				`BEGIN ;; SELECT max(age) FROM customers ;; SAVEPOINT s ;; SELECT 1/0 ;; ROLLBACK TO s ;; SELECT min(age) FROM customers ;; COMMIT`,
			},
		} {
			p, err := openProxy(t.Context(), startPgBouncer(t, e, mode), e.server.DSN(e.server.Superuser(), e.server.Password(), e.database), e.models, e.rt)
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(p.close)
			p.world, p.database = e.world, e.database
			web := openConsole(t, p.catalog, p.proxy, nil)
			for range 3 {
				if a := visit(t, web, analyst, analyst); a.status != http.StatusForbidden || !strings.Contains(a.body, "GRANT scrim_admin") {
					t.Errorf("%s pooling: the console: %d %s", mode, a.status, a.body)
				}
			}
			if a := visit(t, web, analyst, "wrong"); a.status != http.StatusUnauthorized {
				t.Errorf("%s pooling: a wrong password at the console: %d %s", mode, a.status, a.body)
			}
			conn := p.connect(t, analyst)
			cases = append(cases, `SELECT id, income FROM customers ORDER BY id LIMIT 20`, `SELECT region, max(income), count(*) FROM customers WHERE age > 0 GROUP BY 1 ORDER BY 1`,
				`SELECT id FROM customers ORDER BY income LIMIT 5`, `CREATE TEMP TABLE t AS SELECT income FROM customers WHERE id < 5 ;; DROP TABLE t`)
			for range 3 {
				for _, sql := range cases {
					for _, extended := range []bool{false, true} {
						if got, want := answers(t, conn, sql, extended), answers(t, plain, sql, extended); got != want {
							t.Errorf("%s pooling, extended %v: %s\nthrough PgBouncer:\n%s\non a table of codes:\n%s", mode, extended, sql, got, want)
						}
					}
				}
			}
		}
	})
}

func startPgBouncer(t *testing.T, e *env, mode string) (addr string) {
	t.Helper()
	dir := t.TempDir()
	for d := dir; d != os.TempDir() && d != "/"; d = filepath.Dir(d) {
		if err := os.Chmod(d, 0o755); err != nil { // PgBouncer runs as another user
			t.Fatal(err)
		}
	}
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	port := listener.Addr().(*net.TCPAddr).Port
	_ = listener.Close()
	cmd, err := pgbouncer.Command(dir, pgbouncer.Config{
		Database: e.database, ServerPort: e.server.Port(), Port: port, PoolMode: mode, Role: analyst, Password: analyst,
	})
	if err != nil {
		t.Fatal(err)
	}
	cmd.Stderr = testLog()
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
	})
	addr = fmt.Sprintf("127.0.0.1:%d", port)
	eventually(t, func() bool {
		conn, err := net.Dial("tcp", addr)
		if err == nil {
			_ = conn.Close()
		}
		return err == nil
	})
	return addr
}
