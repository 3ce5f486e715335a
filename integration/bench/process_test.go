//go:build linux

package bench_test

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"runtime"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"
)

// clockTick is the unit of the times in /proc/PID/stat: USER_HZ, which is 100 on every Linux that Go runs on.
const clockTick = 10 * time.Millisecond

// process is a program that runs until it is stopped, and no longer than we do.
type process struct {
	cmd  *exec.Cmd
	log  string // path of what it wrote
	done chan struct{}
}

// start starts cmd with its output in the file log.
func start(cmd *exec.Cmd, log string) (*process, error) {
	out, err := os.Create(log)
	if err != nil {
		return nil, err
	}
	defer func() { _ = out.Close() }()
	cmd.Stdout, cmd.Stderr = out, out
	if cmd.SysProcAttr == nil {
		cmd.SysProcAttr = &syscall.SysProcAttr{}
	}
	cmd.SysProcAttr.Setpgid, cmd.SysProcAttr.Pdeathsig = true, syscall.SIGKILL
	p := &process{cmd: cmd, log: log, done: make(chan struct{})}
	started := make(chan error, 1)
	go func() {
		// The kernel tells the child of our death when this thread ends, so the goroutine keeps it.
		runtime.LockOSThread()
		defer runtime.UnlockOSThread()
		defer close(p.done)
		err := cmd.Start()
		started <- err
		if err == nil {
			_ = cmd.Wait() // why it ended is in its log
		}
	}()
	return p, <-started
}

// stop ends the process and waits for its end.
func (p *process) stop() {
	_ = p.cmd.Process.Signal(syscall.SIGTERM) // fails if it has ended
	select {
	case <-p.done:
	case <-time.After(5 * time.Second):
		_ = p.cmd.Process.Kill()
		<-p.done
	}
}

// failure adds the end of the process's log to err.
func (p *process) failure(err error) error {
	text, readErr := os.ReadFile(p.log)
	const kept = 2000
	return errors.Join(fmt.Errorf("%w; the end of its log:\n%s", err, text[max(0, len(text)-kept):]), readErr)
}

func (p *process) proc(file string) (string, error) {
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/%s", p.cmd.Process.Pid, file))
	return string(text), err
}

// cpu is the time that the process has spent in user and kernel mode.
func (p *process) cpu() (time.Duration, error) {
	stat, err := p.proc("stat")
	if err != nil {
		return 0, err
	}
	return parseCPU(stat)
}

// parseCPU reads fields 14 and 15, utime and stime, of proc(5)'s stat. The command, field 2, may hold anything but ends
// with the last parenthesis.
func parseCPU(stat string) (time.Duration, error) {
	fields := strings.Fields(stat[strings.LastIndexByte(stat, ')')+1:])
	if len(fields) < 13 {
		return 0, fmt.Errorf("no times in %q", stat)
	}
	user, err := strconv.Atoi(fields[11])
	if err != nil {
		return 0, err
	}
	system, err := strconv.Atoi(fields[12])
	return time.Duration(user+system) * clockTick, err
}

// Fields of proc(5)'s status.
const (
	residentNow  = "VmRSS"
	residentMost = "VmHWM" // since the process began, or since forgetMost
)

// memory is what the process has or had resident, in bytes: everything, libraries and what they allocate included.
func (p *process) memory(field string) (int64, error) {
	status, err := p.proc("status")
	if err != nil {
		return 0, err
	}
	return parseMemory(status, field)
}

// forgetMost lets residentMost begin anew.
func (p *process) forgetMost() error {
	const resetPeak = "5" // of proc(5)'s clear_refs
	return os.WriteFile(fmt.Sprintf("/proc/%d/clear_refs", p.cmd.Process.Pid), []byte(resetPeak), 0)
}

func parseMemory(status, field string) (int64, error) {
	_, after, found := strings.Cut(status, "\n"+field+":")
	line, _, _ := strings.Cut(after, "\n")
	number, unit, _ := strings.Cut(strings.TrimSpace(line), " ")
	if !found || unit != "kB" {
		return 0, fmt.Errorf("no %s in kB in %q", field, status)
	}
	kib, err := strconv.ParseInt(number, 10, 64)
	return kib << 10, err
}

func TestParseCPU(t *testing.T) {
	got, err := parseCPU("4242 (a) b (c)) S 1 4242 4242 0 -1 4194560 900 0 0 0 123 45 7 8 20 0 9 0 100 1 2")
	if err != nil || got != 1680*time.Millisecond {
		t.Errorf("got %v, %v", got, err)
	}
	if _, err := parseCPU("4242 (a) S 1"); err == nil {
		t.Error("a short line is taken")
	}
}

func TestParseMemory(t *testing.T) {
	got, err := parseMemory("Name:\ta\nVmHWM:\t    2048 kB\nVmRSS:\t    1024 kB\nRssAnon:\t 1 kB\n", residentMost)
	if err != nil || got != 2<<20 {
		t.Errorf("got %v, %v", got, err)
	}
	if _, err := parseMemory("Name:\ta\n", residentNow); err == nil {
		t.Error("a status without VmRSS is taken")
	}
}
