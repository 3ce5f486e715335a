package training

import (
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"syscall"
	"testing"

	"github.com/scrimdb/scrim/udf"
)

// TestFileErrors: what the folder of models refuses has the SQLSTATE that it would have of PostgreSQL, and may be gone at the next attempt.
func TestFileErrors(t *testing.T) {
	dir := t.TempDir()
	store, err := udf.NewStore(dir)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, "blocked"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	_, blocked := store.Publish("blocked", 1, []byte("x"))
	full := fmt.Errorf("publish model: %w", &fs.PathError{Op: "write", Path: "x", Err: syscall.ENOSPC})
	for want, err := range map[string]error{"58030": blocked, "53100": full} {
		if code, _, hint := described(err); *code != want || *hint == "" || !passing(err) {
			t.Errorf("%v: %s %q, passing %t", err, *code, *hint, passing(err))
		}
	}
}
