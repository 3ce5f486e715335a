//go:build cgo

package main

import (
	"bytes"
	"context"
	"errors"
	"flag"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// TestDemo runs the newcomer's first command to its end: it must show the three views and leave nothing behind.
func TestDemo(t *testing.T) {
	temp := t.TempDir()
	for dir := temp; dir != filepath.Dir(os.TempDir()) && len(dir) > 1; dir = filepath.Dir(dir) {
		_ = os.Chmod(dir, 0o755) // the server may run as another user, who must be able to enter
		if dir == os.TempDir() {
			_ = os.Chmod(dir, os.ModeSticky|0o777)
		}
	}
	t.Setenv("TMPDIR", temp)
	var out, errs bytes.Buffer
	if err := run(context.Background(), []string{"demo", "--once", "--listen", "127.0.0.1:0", "--console", "127.0.0.1:0"}, &out, &errs); err != nil {
		t.Fatalf("%v\n%s\n%s", err, out.String(), errs.String())
	}
	views := strings.Split(out.String(), "SELECT * FROM customers WHERE region = 'EU' ORDER BY id LIMIT 5;")
	if len(views) != 4 {
		t.Fatalf("no three views in:\n%s", out.String())
	}
	const rawRow = "| 49  | 61299.77 | 568.6" // what demo.sql makes of customer 1, on any PostgreSQL
	for i, want := range []bool{false, true, false} {
		if strings.Contains(views[i+1], rawRow) != want {
			t.Errorf("view %d, want the raw row in it: %v:\n%s", i, want, views[i+1])
		}
	}
	if !strings.Contains(views[3], "permission denied for table customers") {
		t.Errorf("around the proxy:\n%s", views[3])
	}
	if !strings.Contains(out.String(), "Starting the console on http://127.0.0.1:") {
		t.Errorf("no console in:\n%s", out.String())
	}
	if left, _ := os.ReadDir(temp); len(left) > 0 {
		t.Errorf("left behind: %v", left)
	}
}

// TestDemoGoesOn: a demo that was kept goes on with its data, and no other folder is taken for one.
func TestDemoGoesOn(t *testing.T) {
	kept := filepath.Join(t.TempDir(), "kept")
	for dir := filepath.Dir(kept); dir != filepath.Dir(os.TempDir()) && len(dir) > 1; dir = filepath.Dir(dir) {
		if dir != os.TempDir() {
			_ = os.Chmod(dir, 0o755) // as above
		}
	}
	args := []string{"demo", "--once", "--keep", kept, "--listen", "127.0.0.1:0", "--console", ""}
	for i, want := range []string{"Loading 100,000 customers", "Going on with what was kept"} {
		var out, errs bytes.Buffer
		if err := run(context.Background(), args, &out, &errs); err != nil {
			t.Fatalf("%v\n%s\n%s", err, out.String(), errs.String())
		}
		if !strings.Contains(out.String(), want) || strings.Count(out.String(), "0.05460241809487343") != 1 {
			t.Errorf("run %d: no %q, or no codes:\n%s", i, want, out.String())
		}
	}
	if err := os.Remove(filepath.Join(kept, "ready")); err != nil {
		t.Fatal(err)
	}
	var out bytes.Buffer
	if err := run(context.Background(), args, &out, &out); err == nil || !strings.Contains(err.Error(), "is not empty, and no demo was kept there") {
		t.Errorf("%v\n%s", err, out.String())
	}
}

// TestUsage: a wrong command line is said so.
func TestUsage(t *testing.T) {
	for _, c := range []struct {
		args []string
		want string
	}{
		{nil, "scrim demo"},
		{[]string{"nonsense"}, `no subcommand "nonsense"`},
		{[]string{"serve"}, "--upstream is required"},
		{[]string{"init", "--catalog", "x", "y"}, `unexpected argument "y"`},
		{[]string{"demo", "--nonsense"}, "not defined"},
		{[]string{"doctor", "--nonsense"}, "  --catalog string\n"},
	} {
		var out, errs bytes.Buffer
		err := run(context.Background(), c.args, &out, &errs)
		if err == nil || errors.Is(err, flag.ErrHelp) || !strings.Contains(errs.String()+err.Error(), c.want) {
			t.Errorf("%v: %v\n%s", c.args, err, errs.String())
		}
	}
	var out bytes.Buffer
	if err := run(context.Background(), []string{"version"}, &out, &out); err != nil || !strings.HasPrefix(out.String(), "scrim ") {
		t.Error(err, out.String())
	}
}
