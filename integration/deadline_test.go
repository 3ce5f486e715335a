package integration_test

import (
	"context"
	"fmt"
	"os"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/scrimdb/scrim/native"
)

// testPatience bounds a test with all of its subtests: many times what the longest takes. The environment variables that ask
// for more of a test are let have it.
const testPatience = 3 * time.Minute

// watch ends the process, in the name of the test, if that is not done in time, and says what everybody waits for. A test
// that hangs would otherwise be known only by go test's own timeout, after all the others have waited for it.
func watch(t testing.TB, servers ...*native.Server) {
	t.Helper()
	for _, name := range []string{"SCRIM_FUZZ", "SCRIM_ORACLE", "SCRIM_STRESS"} {
		if os.Getenv(name) != "" {
			return
		}
	}
	for _, w := range worlds {
		servers = append(servers, w.server)
	}
	timer := time.AfterFunc(testPatience, func() {
		fmt.Fprintf(os.Stderr, "%s is not done after %s. Its goroutines:\n%s\n", t.Name(), testPatience, stacksOf("integration_test.", 30))
		fmt.Fprintf(os.Stderr, "\nThe proxy's:\n%s\n", stacksOf("scrim/proxy.", 30))
		for _, s := range servers {
			fmt.Fprintf(os.Stderr, "\nSessions of the server at %s:\n%s", s.Addr(), activity(s))
		}
		panic(t.Name() + " hangs: it is not done after " + testPatience.String())
	})
	t.Cleanup(func() { timer.Stop() })
}

// stacksOf returns the stacks of goroutines that are in a package.
func stacksOf(name string, most int) string {
	all := make([]byte, 4<<20)
	all = all[:runtime.Stack(all, true)]
	var kept []string
	for stack := range strings.SplitSeq(string(all), "\n\n") {
		if strings.Contains(stack, name) && len(kept) < most {
			kept = append(kept, stack)
		}
	}
	return strings.Join(kept, "\n\n")
}

// activity is what the sessions of a server do and wait for. "ClientRead" means that it is the proxy's turn, or the test's.
func activity(s *native.Server) string {
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	conn, err := pgx.Connect(ctx, s.DSN(s.Superuser(), s.Password(), "postgres"))
	if err != nil {
		return err.Error() + "\n"
	}
	defer func() { _ = conn.Close(ctx) }()
	var b strings.Builder
	rows, err := conn.Query(ctx, `SELECT concat_ws(' ', pid, datname, usename, application_name, state, date_trunc('second', now() - state_change), 'waits for',
		coalesce(wait_event_type || ' ' || wait_event, 'nothing'), 'behind ' || nullif(pg_blocking_pids(pid)::text, '{}'), left(query, 200))
		FROM pg_stat_activity WHERE backend_type = 'client backend' AND pid <> pg_backend_pid() ORDER BY datname, pid`)
	if err == nil {
		var line string
		_, err = pgx.ForEachRow(rows, []any{&line}, func() error { b.WriteString(line + "\n"); return nil })
	}
	if err != nil {
		b.WriteString(err.Error() + "\n")
	}
	return b.String()
}
