package integration_test

import (
	"fmt"
	"net"
	"os"
	"runtime"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
)

// census counts what a session could leave behind in this process and in the server.
type census struct {
	goroutines, files, backends int
}

// within tells whether nothing is there that was not before.
func (c census) within(before census) bool {
	return c.goroutines <= before.goroutines && c.files <= before.files && c.backends <= before.backends
}

func takeCensus(t testing.TB, admin *pgx.Conn) census {
	t.Helper()
	files, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		t.Fatal("file descriptors are counted in /proc, so this test needs Linux:", err)
	}
	c := census{goroutines: runtime.NumGoroutine(), files: len(files)}
	// The catalog's connections are no session's: its pool may grow and shrink meanwhile.
	const sessions = `SELECT count(*) FILTER (WHERE usename <> current_user), count(*) FILTER (WHERE usename = current_user)
		FROM pg_stat_activity WHERE datname = current_database()`
	catalogs := 0
	if err := admin.QueryRow(t.Context(), sessions).Scan(&c.backends, &catalogs); err != nil {
		t.Fatal(err)
	}
	c.files -= catalogs
	return c
}

// leavesNothing runs something and waits until goroutines, file descriptors and upstream connections are as they were. No
// other test may run meanwhile.
func (e *env) leavesNothing(t *testing.T, do func()) {
	t.Helper()
	admin := e.admin(t)
	_ = mustText(t, e.connect(t, analyst), `SELECT income FROM customers WHERE id = 1`) // what is made once is made now
	before := takeCensus(t, admin)
	do()
	deadline := time.Now().Add(10 * time.Second)
	after := takeCensus(t, admin)
	for !after.within(before) && time.Now().Before(deadline) {
		time.Sleep(20 * time.Millisecond)
		after = takeCensus(t, admin)
	}
	if !after.within(before) {
		t.Errorf("before %+v, after %+v; goroutines:\n%s", before, after, stacksOf("scrim/proxy", 8))
	}
}

// onEachAlone is onEachProtected with nothing else running in the process.
func onEachAlone(t *testing.T, test func(t *testing.T, e *env)) {
	for _, w := range worlds {
		t.Run(w.name, func(t *testing.T) {
			e := w.fresh(t)
			e.exec(t, e.connect(t, olga), testPolicy)
			e.exec(t, e.admin(t), `CREATE TABLE lines (n int, note text)`, `GRANT ALL ON lines TO analyst, risk`)
			test(t, e)
		})
	}
}

// wire connects through the proxy and logs in.
func (e *env) wire(t testing.TB, role string) *wireClient {
	t.Helper()
	return loggedIn(t, e.addr, role, role, e.database)
}

// simpleQuery is a Query message.
func simpleQuery(format string, args ...any) []byte {
	return frontendMessage('Q', cstring(nil, fmt.Sprintf(format, args...)))
}

// halfClose says that nothing more will be sent; what comes can still be read.
func halfClose(conn net.Conn) {
	if half, ok := conn.(interface{ CloseWrite() error }); ok {
		_ = half.CloseWrite()
	}
}

// abort closes with a reset, as a client's kernel does for one that was killed with bytes unread.
func abort(conn net.Conn) {
	if tcp, ok := conn.(*net.TCPConn); ok {
		_ = tcp.SetLinger(0)
	}
	_ = conn.Close()
}
