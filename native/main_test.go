package native

import (
	"bufio"
	"context"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"testing"
	"time"
)

// helperEnv makes the test binary play another process: one that fetches, or one that runs a server.
const helperEnv = "SCRIM_NATIVE_TEST_HELPER"

func TestMain(m *testing.M) {
	switch os.Getenv(helperEnv) {
	case "":
		os.Exit(m.Run())
	case "fetch":
		b, err := EmbeddedPostgres(context.Background(), Config{})
		fmt.Println(b.Dir, err)
	case "fetch-small":
		p, err := smallPin()
		if err == nil {
			_, err = Config{}.ensure(context.Background(), p)
		}
		fmt.Println(err)
	case "server":
		b, err := EmbeddedPostgres(context.Background(), Config{})
		if err == nil {
			var s *Server
			if s, err = StartServer(context.Background(), ServerConfig{Binaries: b, Settings: fast}); err == nil {
				fmt.Println(s.proc.Pid)
				select {} // until we are killed
			}
		}
		fmt.Println(err)
	}
	os.Exit(1)
}

// fast leaves durability out, which no test here is about.
var fast = map[string]string{"fsync": "off", "synchronous_commit": "off", "full_page_writes": "off"}

// helper starts the test binary as another process and returns a reader of what it prints.
func helper(t *testing.T, role string, env ...string) (*exec.Cmd, *bufio.Reader) {
	t.Helper()
	self, err := os.Executable()
	check(t, err)
	cmd := exec.CommandContext(t.Context(), self)
	cmd.Env = append(append(os.Environ(), helperEnv+"="+role), env...)
	cmd.Stderr = os.Stderr
	out, err := cmd.StdoutPipe()
	check(t, err)
	check(t, cmd.Start())
	return cmd, bufio.NewReader(out)
}

// openDir is a temporary folder that, unlike t.TempDir, other users can enter.
func openDir(t *testing.T) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "scrim-native-test-")
	check(t, err)
	check(t, os.Chmod(dir, 0o755))
	t.Cleanup(func() { check(t, os.RemoveAll(dir)) })
	return dir
}

func check(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func wantError(t *testing.T, err error, part string) {
	t.Helper()
	if err == nil || !strings.Contains(err.Error(), part) {
		t.Errorf("error is %v, which should have: %s", err, part)
	}
}

// eventually waits up to 20 seconds for cond.
func eventually(t *testing.T, what string, cond func() bool) {
	t.Helper()
	for range 2000 {
		if cond() {
			return
		}
		time.Sleep(10 * time.Millisecond)
	}
	t.Fatalf("not within 20 s: %s", what)
}
