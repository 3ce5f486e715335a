//go:build linux

package bench_test

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"strings"
	"testing"
)

// options size a run. The defaults are for seeing that it works.
type options struct {
	seconds  int // that pgbench runs, a way and round
	rounds   int
	scale    int // pgbench's; a hundred thousand accounts each
	rows     int // of BenchmarkBulk
	sessions int // of BenchmarkIdle
	scrims   []command
}

// command is how one build of scrim is run.
type command struct {
	name string
	argv []string // a binary, with what goes before it, such as env and its settings
}

func (o *options) register(fs *flag.FlagSet) {
	fs.IntVar(&o.seconds, "seconds", 1, "seconds for each way in each round of a pgbench run")
	fs.IntVar(&o.rounds, "rounds", 1, "rounds; medians are over them")
	fs.IntVar(&o.scale, "scale", 10, "pgbench's scale")
	fs.IntVar(&o.rows, "rows", 1_000_000, "rows read and loaded in bulk")
	fs.IntVar(&o.sessions, "sessions", 1000, "idle sessions")
	fs.Func("scrim", "measure `NAME=COMMAND`, the path of a binary with settings before it if need be; repeat it, or "+
		"separate by commas, to compare several (default: what this tree builds)", o.addScrims)
}

func (o *options) addScrims(list string) error {
	for _, one := range strings.Split(list, ",") {
		name, line, named := strings.Cut(one, "=")
		if !named || strings.ContainsAny(name, "/ ") {
			name, line = "scrim", one
		}
		c := command{name: name, argv: strings.Fields(line)}
		if len(c.argv) == 0 {
			return fmt.Errorf("%q names no binary", one)
		}
		o.scrims = append(o.scrims, c)
	}
	return nil
}

// lab is what all benchmarks run in. It is there if a benchmark is.
var lab *laboratory

func TestMain(m *testing.M) {
	var o options
	o.register(flag.CommandLine)
	flag.Parse()
	if flag.Lookup("test.bench").Value.String() == "" {
		os.Exit(m.Run())
	}
	code, err := runBenchmarks(m, o)
	if err != nil {
		fmt.Fprintln(os.Stderr, "integration/bench:", err)
		code = 1
	}
	os.Exit(code)
}

func runBenchmarks(m *testing.M, o options) (code int, err error) {
	lab, err = openLaboratory(context.Background(), o)
	if err != nil {
		return 1, err
	}
	defer func() { err = errors.Join(err, lab.close()) }()
	code = m.Run()
	fmt.Print(lab.summary.markdown())
	return code, nil
}
