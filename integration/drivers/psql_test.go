//go:build drivers

package drivers_test

import (
	"bytes"
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
		"codes rollback", "rollback", "error", "copy", "refused copy")
}

// TestPsqlCancel presses Ctrl-C while a statement runs, and while \watch repeats one.
func TestPsqlCancel(t *testing.T) {
	onEach(t, func(t *testing.T, w *world) {
		for _, role := range []string{risk, analyst} {
			out := interrupted(t, w.through(role), time.Second, sleepy)
			if !strings.Contains(out, "canceling statement due to user request") {
				t.Errorf("%s: psql printed %q", role, out)
			}
			out = interrupted(t, w.through(role), time.Second, `SELECT id, age FROM customers WHERE id = 1 \watch 0.1`)
			if strings.Count(out, "1|") < 2 || strings.Contains(out, "ERROR") {
				t.Errorf("%s: \\watch printed %q", role, out)
			}
		}
	})
}

// interrupted runs a statement in psql and sends SIGINT when it has run for a while.
func interrupted(t *testing.T, to login, after time.Duration, statement string) string {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), tool(t, "psql", postgresql), "-X", "-q", "-A", "-t")
	cmd.Env = append(os.Environ(), to.environ()...)
	cmd.Stdin = strings.NewReader(statement + ";\n")
	var out bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &out
	begin := time.Now()
	must(t, cmd.Start())
	interrupt := time.AfterFunc(after, func() { _ = cmd.Process.Signal(os.Interrupt) })
	defer interrupt.Stop()
	_ = cmd.Wait() // the status tells of the interrupt only
	if took := time.Since(begin); took < after || took > limit/2 {
		t.Errorf("psql ended after %s", took)
	}
	return out.String()
}
