//go:build linux

package bench_test

import (
	"fmt"
	"slices"
	"strings"
	"testing"
)

// summary is what BENCHMARKS.md shows of a run.
type summary struct {
	comparisons []comparison
	idle        []idleCost
	memory      []memoryPeaks
	today       []timing
	rows        int // that memory and today are of
}

// idleCost is what idle sessions cost a proxy, in bytes of resident memory.
type idleCost struct {
	way           string
	sessions      int
	before, after int64
}

func (c idleCost) perSession() int64 { return (c.after - c.before) / int64(c.sessions) }

func (s *summary) markdown() string {
	var b strings.Builder
	b.WriteString("\nMedians (least to greatest) of ratios within a round.\n\n")
	b.WriteString("| benchmark | way | rate | × direct | × pgbouncer | CPU | CPU × pgbouncer |\n|---|---|---|---|---|---|---|\n")
	for i := range s.comparisons {
		s.comparisons[i].rows(&b)
	}
	if len(s.idle) > 0 {
		b.WriteString("\n| idle sessions | way | before | after | a session |\n|---|---|---|---|---|\n")
	}
	for _, c := range s.idle {
		fmt.Fprintf(&b, "| %d | %s | %.1f MiB | %.1f MiB | %.1f KiB |\n", c.sessions, c.way,
			float64(c.before)/(1<<20), float64(c.after)/(1<<20), float64(c.perSession())/(1<<10))
	}
	if len(s.memory) > 0 {
		s.markdownMemory(&b)
	}
	if len(s.today) > 0 {
		s.markdownToday(&b)
	}
	return b.String()
}

func (c *comparison) rows(b *strings.Builder) {
	direct, bouncer := &c.ways[0], &c.ways[1]
	for i := range c.ways {
		s := &c.ways[i]
		cells := []string{"", s.way, fmt.Sprintf("%.0f %s/s", 1/median(s.seconds), c.unit), "", "", "", ""}
		if i == 0 {
			cells[0] = c.benchmark
		} else {
			cells[3] = spread(c.speed(s, direct)) + " " + c.measure()
			cells[5] = fmt.Sprintf("%.1f µs/%s", median(s.cpu)*1e6, c.unit)
		}
		if i > 1 {
			cells[4] = spread(c.speed(s, bouncer))
			cells[6] = spread(ratios(s.cpu, bouncer.cpu))
		}
		fmt.Fprintf(b, "| %s |\n", strings.Join(cells, " | "))
	}
}

func spread(values []float64) string {
	switch len(values) {
	case 0:
		return "–"
	case 1:
		return fmt.Sprintf("%.2f", values[0])
	}
	return fmt.Sprintf("%.2f (%.2f–%.2f)", median(values), slices.Min(values), slices.Max(values))
}

func TestMarkdown(t *testing.T) {
	s := summary{
		comparisons: []comparison{{benchmark: "Bulk", unit: "krow", byTime: true, ways: []series{
			{way: "direct", seconds: []float64{1, 2, 4}},
			{way: "pgbouncer", seconds: []float64{2, 2, 4}, cpu: []float64{1, 1, 1}},
			{way: "scrim", seconds: []float64{1, 4, 4}, cpu: []float64{.5, 1, 2}},
		}}},
		idle:   []idleCost{{way: "scrim", sessions: 10, before: 1 << 20, after: 2 << 20}},
		memory: []memoryPeaks{{way: "scrim", peaks: []int64{1 << 20, 2 << 20, 3 << 20, 4 << 20}}},
		today: []timing{
			{name: "raw", seconds: []float64{1, 2, 4}}, {name: "masked", seconds: []float64{2, 4, 8}}, {name: "numpy", seconds: []float64{20, 40, 80}},
		},
	}
	got := s.markdown()
	for _, row := range []string{
		"| Bulk | direct | 0 krow/s |  |  |  |  |\n",
		"|  | scrim | 0 krow/s | 1.00 (1.00–2.00) time | 1.00 (0.50–2.00) | 1000000.0 µs/krow | 1.00 (0.50–2.00) |\n",
		"| 10 | scrim | 1.0 MiB | 2.0 MiB | 102.4 KiB |\n",
		"| scrim | 1.0 MiB | 2.0 MiB | 3.0 MiB | 4.0 MiB |\n",
		"| masked | 4.00 s | 2.00 (2.00–2.00) |  |\n",
		"| numpy | 40.00 s | 20.00 (20.00–20.00) | 10.00 (10.00–10.00) |\n",
	} {
		if !strings.Contains(got, row) {
			t.Errorf("no %q in:\n%s", row, got)
		}
	}
}
