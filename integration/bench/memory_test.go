//go:build linux

package bench_test

import (
	"context"
	"fmt"
	"strings"
	"testing"

	"golang.org/x/sync/errgroup"
)

// together is how many clients scan at a time.
const together = 4

// memoryPeaks is the most that a proxy had resident, in bytes, while it did each of phases.
type memoryPeaks struct {
	way   string
	peaks []int64
}

// phases are what BenchmarkMemory has a proxy do, one after the other.
func (l *laboratory) phases(ctx context.Context, w *way) []phase {
	reads := func(query string, count int) func() error {
		return func() error {
			_, err := l.readAs(ctx, w, analyst, query, count)
			return err
		}
	}
	scan := reads(scanMasked, l.maskedRows())
	return []phase{
		{"scan", scan},
		{fmt.Sprintf("%d-scans", together), func() error {
			var group errgroup.Group
			for range together {
				group.Go(scan)
			}
			return group.Wait()
		}},
		{"group", func() error {
			session, err := l.connectAs(ctx, w, analyst)
			if err != nil {
				return err
			}
			result, err := session.Exec(ctx, groupMasked).ReadAll()
			if err == nil && len(result[0].Rows) < grouped/2 { // raw there are sixty
				err = fmt.Errorf("%d groups", len(result[0].Rows))
			}
			_ = session.Close(ctx)
			return err
		}},
		{"max", reads(maxMasked, 1)},
	}
}

type phase struct {
	name string
	do   func() error
}

// BenchmarkMemory says how much memory a proxy takes at most while it encodes: a whole table for one client, for several
// at a time, and for statements whose codes it must list first, a part of the table's and all. Each is on a proxy that was started for this alone.
func BenchmarkMemory(b *testing.B) {
	ctx := context.Background()
	proxies, err := lab.openMasked(ctx)
	if err != nil {
		b.Fatal(err)
	}
	for b.Loop() {
		for _, p := range proxies {
			peaks, err := lab.measureMemory(ctx, p)
			if err != nil {
				b.Fatalf("%s: %v", p.name, err)
			}
			for i, ph := range lab.phases(ctx, nil) {
				b.ReportMetric(float64(peaks.peaks[i])/(1<<20), fmt.Sprintf("%s-%s-MiB", p.name, ph.name))
			}
			lab.summary.memory = append(lab.summary.memory, peaks)
		}
	}
	b.ReportMetric(0, "ns/op")
}

func (l *laboratory) measureMemory(ctx context.Context, p proxy) (peaks memoryPeaks, err error) {
	peaks.way = p.name
	w, err := l.launch(ctx, p)
	if err != nil {
		return peaks, err
	}
	defer w.process.stop()
	for _, ph := range l.phases(ctx, w) {
		if err := w.process.forgetMost(); err != nil {
			return peaks, err
		}
		if err := ph.do(); err != nil {
			return peaks, fmt.Errorf("%s: %w", ph.name, w.failure(err))
		}
		most, err := w.process.memory(residentMost)
		if err != nil {
			return peaks, err
		}
		peaks.peaks = append(peaks.peaks, most)
	}
	return peaks, nil
}

// markdownMemory has a row for each proxy.
func (s *summary) markdownMemory(b *strings.Builder) {
	fmt.Fprintf(b, "\n| resident at most, %d rows | a scan | %d scans at a time | GROUP BY, %d rows | max, all rows |\n|---|---|---|---|---|\n", s.rows, together, grouped)
	for _, m := range s.memory {
		fmt.Fprintf(b, "| %s |", m.way)
		for _, peak := range m.peaks {
			fmt.Fprintf(b, " %.1f MiB |", float64(peak)/(1<<20))
		}
		b.WriteByte('\n')
	}
}
