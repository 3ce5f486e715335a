package drivers_test

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/scrimdb/scrim/native"
)

// limit bounds one run of a foreign program.
const limit = 60 * time.Second

// command runs a program that must end well, and returns its standard output.
func command(t *testing.T, to login, env []string, name string, args ...string) string {
	t.Helper()
	out, err := try(t, to, env, name, args...)
	if err != nil {
		t.Fatalf("%s: %v\n%s", filepath.Base(name), err, shorten(out))
	}
	return out
}

// try returns the standard output of a program; the error holds its standard error.
func try(t *testing.T, to login, env []string, name string, args ...string) (string, error) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), limit)
	defer cancel()
	cmd := exec.CommandContext(ctx, name, args...)
	cmd.Env = slices.Concat(os.Environ(), []string{"LC_ALL=C.UTF-8", "TZ=UTC", "CHANNEL=" + channel()}, to.environ(), env)
	cmd.WaitDelay = time.Second
	var stdout, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	if err := cmd.Run(); err != nil {
		return stdout.String(), fmt.Errorf("%w: %s", err, strings.TrimSpace(shorten(stderr.String())))
	}
	return stdout.String(), nil
}

// tool finds a program, or fails with what to install.
func tool(t *testing.T, name, install string) string {
	t.Helper()
	path, err := exec.LookPath(name)
	if err != nil {
		t.Fatalf("%s is missing: install %s", name, install)
	}
	return path
}

// installing makes tests of one process wait for each other: two of them share npm's packages, four a venv.
var installing sync.Mutex

// installed returns a folder of the cache that install has filled. The name of the folder tells its content, so another pin makes
// another folder. A neighbour is filled and renamed: what stands there is complete, whichever process made it.
func installed(t *testing.T, name, content string, install func(dir string)) string {
	t.Helper()
	installing.Lock()
	defer installing.Unlock()
	cache, err := native.CacheDir()
	if err != nil {
		t.Fatal(err)
	}
	sum := sha256.Sum256([]byte(content))
	dest := filepath.Join(cache, "drivers-"+name+"-"+hex.EncodeToString(sum[:6]))
	if _, err := os.Stat(dest); err == nil {
		return dest
	}
	if err := os.MkdirAll(cache, 0o755); err != nil {
		t.Fatal(err)
	}
	tmp, err := os.MkdirTemp(cache, "drivers-"+name+".tmp-")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = os.RemoveAll(tmp) }()
	install(tmp)
	if err := os.Rename(tmp, dest); err != nil {
		if _, there := os.Stat(dest); there != nil { // no other process was faster
			t.Fatal(err)
		}
	}
	return dest
}

// fetch runs a package manager in dir.
func fetch(t *testing.T, dir, name string, args ...string) {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), name, args...)
	cmd.Dir = dir
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("%s %s: %v (check the network)\n%s", filepath.Base(name), args[0], err, shorten(string(out)))
	}
}

func readFile(t *testing.T, path string) string {
	t.Helper()
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}
