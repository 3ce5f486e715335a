//go:build linux

package bench_test

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"
)

// trial does something through a way: so many operations, in so much time.
type trial func(w *way) (operations float64, took time.Duration, err error)

// series is what one way gave, one value a round.
type series struct {
	way     string
	seconds []float64 // an operation
	cpu     []float64 // seconds of the proxy an operation; empty for direct
}

// comparison is one benchmark's outcome. The first of ways is direct, the second PgBouncer.
type comparison struct {
	benchmark string
	unit      string // what an operation is
	byTime    bool   // ratios are of time, and not of operations a second
	ways      []series
}

// compare lets the ways take turns at a trial, and reports and keeps the outcome. Each round begins with another way.
func (l *laboratory) compare(b *testing.B, c comparison, try trial) {
	b.Helper()
	c.benchmark = strings.TrimPrefix(b.Name(), "Benchmark")
	for _, w := range l.ways {
		c.ways = append(c.ways, series{way: w.name})
	}
	for b.Loop() {
		for round := range l.rounds {
			for turn := range l.ways {
				i := (round + turn) % len(l.ways)
				if err := c.ways[i].add(l.ways[i], try); err != nil {
					b.Fatalf("%s: %v", l.ways[i].name, l.ways[i].failure(err))
				}
			}
		}
	}
	c.report(b)
	l.summary.comparisons = append(l.summary.comparisons, c)
}

func (s *series) add(w *way, try trial) error {
	before, err := w.cpu()
	if err != nil {
		return err
	}
	operations, took, err := try(w)
	if err != nil {
		return err
	}
	after, err := w.cpu()
	if err != nil {
		return err
	}
	s.seconds = append(s.seconds, took.Seconds()/operations)
	if w.process != nil {
		s.cpu = append(s.cpu, (after-before).Seconds()/operations)
	}
	return nil
}

// failure adds to err what the proxy, if there is one, had to say.
func (w *way) failure(err error) error {
	if w.process == nil {
		return err
	}
	return w.process.failure(err)
}

func (w *way) cpu() (time.Duration, error) {
	if w.process == nil {
		return 0, nil
	}
	return w.process.cpu()
}

func (c *comparison) report(b *testing.B) {
	b.ReportMetric(0, "ns/op") // of the rounds together: no figure
	bouncer := &c.ways[1]
	for i := range c.ways[1:] {
		s := &c.ways[1+i]
		b.ReportMetric(median(c.speed(s, &c.ways[0])), fmt.Sprintf("%s/direct-%s", s.way, c.measure()))
		b.ReportMetric(median(s.cpu)*1e6, fmt.Sprintf("%s-cpu-µs/%s", s.way, c.unit))
		if s != bouncer {
			b.ReportMetric(median(c.speed(s, bouncer)), fmt.Sprintf("%s/pgbouncer-%s", s.way, c.measure()))
			b.ReportMetric(median(ratios(s.cpu, bouncer.cpu)), fmt.Sprintf("%s/pgbouncer-cpu", s.way))
		}
	}
}

func (c *comparison) measure() string {
	if c.byTime {
		return "time"
	}
	return "tps"
}

// speed is a compared with b, round by round, in the comparison's measure.
func (c *comparison) speed(a, b *series) []float64 {
	if c.byTime {
		return ratios(a.seconds, b.seconds)
	}
	return ratios(b.seconds, a.seconds)
}

// ratios leaves out the rounds where b has nothing to compare with: a short one may take less CPU than a clock tick.
func ratios(a, b []float64) []float64 {
	var out []float64
	for i := range min(len(a), len(b)) {
		if b[i] > 0 {
			out = append(out, a[i]/b[i])
		}
	}
	return out
}

// median of nothing is 0.
func median(values []float64) float64 {
	if len(values) == 0 {
		return 0
	}
	sorted := slices.Sorted(slices.Values(values))
	middle := len(sorted) / 2
	if len(sorted)%2 == 1 {
		return sorted[middle]
	}
	return (sorted[middle-1] + sorted[middle]) / 2
}

func TestMedianOfRatios(t *testing.T) {
	if got := median(ratios([]float64{3, 1, 10, 4}, []float64{1, 1, 0, 2})); got != 2 {
		t.Errorf("got %v", got)
	}
	if got := median([]float64{4, 1, 3, 2}); got != 2.5 {
		t.Errorf("got %v", got)
	}
}
