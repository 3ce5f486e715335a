package integration_test

import (
	"bufio"
	"context"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"testing"

	"github.com/scrimdb/scrim/native"
)

// asOtherProcess is what the test binary does when it was started to be a proxy: it serves until standard input ends.
func asOtherProcess(ctx context.Context) (bool, error) {
	args := strings.Fields(os.Getenv("SCRIM_TEST_PROXY"))
	if len(args) < 3 {
		return false, nil
	}
	rt, err := openRuntime(ctx, native.Config{})
	if err != nil {
		return true, err
	}
	e, err := openProxy(ctx, args[0], args[1], args[2], rt)
	if err != nil {
		return true, err
	}
	defer e.close()
	e.library.Store().AtStep = func(step string) {
		if len(args) > 3 && step == args[3] {
			_ = syscall.Kill(os.Getpid(), syscall.SIGKILL)
		}
	}
	fmt.Println("listening", e.addr)
	_, _ = bufio.NewReader(os.Stdin).ReadString('\n')
	return true, nil
}

// asOtherWorker is what the test binary does when it was started to be a worker: it trains until it kills itself before a step of a
// job, or is killed, or tells of each step in a file.
func asOtherWorker(ctx context.Context) (bool, error) {
	args := strings.Fields(os.Getenv("SCRIM_TEST_WORKER"))
	if len(args) != 3 {
		return false, nil
	}
	rt, err := openRuntime(ctx, native.Config{})
	if err != nil {
		return true, err
	}
	atStep := func(step string) {
		if step == args[2] {
			_ = syscall.Kill(os.Getpid(), syscall.SIGKILL)
		}
	}
	if file, ok := strings.CutPrefix(args[2], "tell="); ok {
		told, err := os.OpenFile(file, os.O_APPEND|os.O_WRONLY, 0)
		if err != nil {
			return true, err
		}
		atStep = func(step string) { _, _ = fmt.Fprintln(told, step, os.Getpid()) }
	}
	stop, err := startWorker(ctx, &env{world: &world{rt: rt}, models: args[1], catalogDSN: args[0]}, atStep)
	if err != nil {
		return true, err
	}
	defer stop()
	_, _ = bufio.NewReader(os.Stdin).ReadString('\n')
	return true, nil
}

// startOther starts cmd and returns the address it listens at.
func startOther(t *testing.T, cmd *exec.Cmd) string {
	t.Helper()
	stdin, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	stdout, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	cmd.Stderr = os.Stderr
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = stdin.Close()
		_ = cmd.Wait()
	})
	line, err := bufio.NewReader(stdout).ReadString('\n')
	if err != nil {
		t.Fatal(err)
	}
	return strings.TrimSpace(strings.TrimPrefix(line, "listening"))
}
