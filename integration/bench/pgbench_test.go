//go:build linux

package bench_test

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"
)

// BenchmarkPgbench reads one account by key in each transaction.
func BenchmarkPgbench(b *testing.B) {
	for _, mode := range []string{"simple", "prepared"} {
		for _, clients := range []int{1, 8} {
			b.Run(fmt.Sprintf("%s/%d", mode, clients), func(b *testing.B) {
				lab.comparePgbench(b, clients, "-S", "-M", mode)
			})
		}
	}
}

// BenchmarkPgbenchTPCB is pgbench's own transaction of seven messages each way.
func BenchmarkPgbenchTPCB(b *testing.B) { lab.comparePgbench(b, 8) }

// BenchmarkConnect logs in anew for each transaction.
func BenchmarkConnect(b *testing.B) { lab.comparePgbench(b, 1, "-S", "-C") }

func (l *laboratory) comparePgbench(b *testing.B, clients int, args ...string) {
	b.Helper()
	args = slices.Concat(args, []string{"-n", "-c", strconv.Itoa(clients), "-j", strconv.Itoa(min(clients, 2)), "-T", strconv.Itoa(l.seconds)})
	l.compare(b, comparison{unit: "tx"}, func(w *way) (float64, time.Duration, error) {
		var complaints strings.Builder
		cmd := l.pgbenchCommand(context.Background(), w, args...)
		cmd.Stderr = &complaints
		out, err := cmd.Output()
		if err != nil {
			return 0, 0, fmt.Errorf("pgbench: %w: %s", err, complaints.String())
		}
		return parsePgbench(string(out))
	})
}

func (l *laboratory) pgbenchCommand(ctx context.Context, w *way, args ...string) *exec.Cmd {
	args = slices.Concat([]string{"-h", "127.0.0.1", "-p", strconv.Itoa(w.port), "-U", role}, args, []string{database})
	cmd := exec.CommandContext(ctx, l.pgbench, args...)
	for _, v := range os.Environ() {
		if !strings.HasPrefix(v, "PG") {
			cmd.Env = append(cmd.Env, v)
		}
	}
	cmd.Env = append(cmd.Env, "PGPASSWORD="+password, "PGSSLMODE=disable")
	return cmd
}

var (
	pgbenchCount = regexp.MustCompile(`(?m)^number of transactions actually processed: (\d+)`)
	pgbenchTPS   = regexp.MustCompile(`(?m)^tps = ([0-9.]+) `)
)

// parsePgbench reads pgbench's report. The time is what its tps makes of the count: the first connecting is not in it.
func parsePgbench(out string) (transactions float64, took time.Duration, err error) {
	count, tps := pgbenchCount.FindStringSubmatch(out), pgbenchTPS.FindStringSubmatch(out)
	if count == nil || tps == nil {
		return 0, 0, fmt.Errorf("pgbench says %q", out)
	}
	if transactions, err = strconv.ParseFloat(count[1], 64); err != nil {
		return 0, 0, err
	}
	rate, err := strconv.ParseFloat(tps[1], 64)
	if err == nil && (rate == 0 || transactions == 0) {
		err = fmt.Errorf("pgbench did nothing: %q", out)
	}
	return transactions, time.Duration(transactions / rate * float64(time.Second)), err
}

func TestParsePgbench(t *testing.T) {
	n, took, err := parsePgbench("number of transactions actually processed: 500\nlatency average = 0.4 ms\ntps = 250.0 (without initial connection time)\n")
	if n != 500 || took != 2*time.Second || err != nil {
		t.Errorf("got %v, %v, %v", n, took, err)
	}
	for _, out := range []string{"", "number of transactions actually processed: 0\ntps = 0.0 (x)\n"} {
		if _, _, err := parsePgbench(out); err == nil {
			t.Errorf("%q is taken", out)
		}
	}
}
