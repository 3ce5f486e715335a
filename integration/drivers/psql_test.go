//go:build drivers

package drivers_test

import (
	"context"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// postgresql is the Debian package with psql, pg_dump, pg_restore and pgbench.
const postgresql = "postgresql"

func TestPsql(t *testing.T) {
	works(t, func(t *testing.T, to login) string {
		t.Helper()
		out := command(t, to, nil, tool(t, "psql", postgresql), "-X", "-q", "-A", "-t", "-F", "|", "-P", "null=NULL",
			"-f", filepath.Join("testdata", "psql", "script.sql"))
		return strings.ReplaceAll(out, "\n\n", "\n") // \watch puts empty lines
	}, "codes prepared", "codes together", "codes FETCH_COUNT", "codes cursor", "codes watch", "codes gset", "described", "gdesc", "types", "catalog",
		"codes rollback", "rollback", "error", "copy", "copied codes")
}

// TestPsqlCancel presses Ctrl-C while a statement runs, and while \watch repeats one.
func TestPsqlCancel(t *testing.T) {
	onEach(t, func(t *testing.T, w *world) {
		for _, role := range []string{risk, analyst} {
			name := channel() // tells this psql from others
			asleep := func(string) bool {
				return one(t, w.admin(database), `SELECT count(*)::text FROM pg_stat_activity
					WHERE application_name = '`+name+`' AND wait_event = 'PgSleep'`) == "1"
			}
			out := interrupted(t, w.through(role), name, asleep, sleepy+";\n")
			if !strings.Contains(out, "canceling statement due to user request") {
				t.Errorf("%s: psql printed %q", role, out)
			}
			twice := func(out string) bool { return strings.Count(out, "1|") >= 2 }
			out = interrupted(t, w.through(role), name, twice, "SELECT id, age FROM customers WHERE id = 1 \\watch 0.1\n")
			if strings.Contains(out, "ERROR") {
				t.Errorf("%s: \\watch printed %q", role, out)
			}
		}
	})
}

// interrupted runs a statement in psql, sends SIGINT when the time has come, and returns what psql printed.
func interrupted(t *testing.T, to login, name string, ripe func(out string) bool, statement string) string {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), limit)
	defer cancel()
	cmd := exec.CommandContext(ctx, tool(t, "psql", postgresql), "-X", "-q", "-A", "-t")
	cmd.Env = append(append(os.Environ(), "PGAPPNAME="+name), to.environ()...)
	cmd.Stdin = strings.NewReader(statement)
	path := filepath.Join(t.TempDir(), "out")
	file, err := os.Create(path)
	must(t, err)
	defer func() { _ = file.Close() }()
	cmd.Stdout, cmd.Stderr = file, file
	must(t, cmd.Start())
	for !ripe(readFile(t, path)) {
		if ctx.Err() != nil {
			t.Fatalf("%s: psql printed %q", statement, readFile(t, path))
		}
		time.Sleep(20 * time.Millisecond)
	}
	must(t, cmd.Process.Signal(os.Interrupt))
	_ = cmd.Wait() // the status tells of the interrupt only
	if ctx.Err() != nil {
		t.Errorf("%s: psql did not heed SIGINT", statement)
	}
	return readFile(t, path)
}
