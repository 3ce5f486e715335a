package native

import (
	"os"
	"strconv"
	"strings"
	"syscall"
	"testing"
)

// Only Linux tells the server that we died.
func TestServerDiesWithItsOwner(t *testing.T) {
	tmp := openDir(t)
	cmd, out := helper(t, "server", "TMPDIR="+tmp)
	line, err := out.ReadString('\n')
	check(t, err)
	pid, err := strconv.Atoi(strings.TrimSpace(line))
	if err != nil {
		t.Fatalf("the helper says %s", line)
	}
	check(t, syscall.Kill(pid, 0))
	check(t, cmd.Process.Kill())
	_ = cmd.Wait() // says that it was killed
	eventually(t, "the server is gone", func() bool {
		// Nobody may reap it in a container without an init: a zombie is gone too.
		stat, err := os.ReadFile("/proc/" + strconv.Itoa(pid) + "/stat")
		return err != nil || strings.Contains(string(stat), ") Z ")
	})
}
