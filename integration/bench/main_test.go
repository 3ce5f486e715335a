//go:build linux

package bench_test

import (
	"cmp"
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"strings"
	"syscall"
	"testing"
)

// options size a run.
type options struct {
	seconds  int // that pgbench runs, a way and round; 0 for a run that only shows that it works
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
	fs.IntVar(&o.seconds, "seconds", 0, "seconds for each way in each round of a pgbench run; 0 only shows that it works")
	fs.IntVar(&o.rounds, "rounds", 1, "rounds; medians are over them")
	fs.IntVar(&o.scale, "scale", 0, "pgbench's scale; 0 for 10")
	fs.IntVar(&o.rows, "rows", 0, "rows read and loaded in bulk; 0 for a million")
	fs.IntVar(&o.sessions, "sessions", 0, "idle sessions; 0 for a thousand")
	fs.Func("scrim", "measure `NAME=COMMAND`, the path of a binary with settings before it if need be; repeat it, or "+
		"separate by commas, to compare several (default: what this tree builds)", o.addScrims)
}

// settle fills in what was not said: a tenth of everything where no figures are wanted.
func (o *options) settle() {
	part := 1
	if o.seconds == 0 {
		o.seconds, part = 1, 10
	}
	o.scale = cmp.Or(o.scale, 10/part)
	o.rows = cmp.Or(o.rows, 1_000_000/part)
	o.sessions = cmp.Or(o.sessions, 1000/part)
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
	o.settle()
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
	interrupted, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	lab, err = openLaboratory(interrupted, o)
	if err != nil {
		return 1, err
	}
	defer func() { err = errors.Join(err, lab.close()) }()
	goOn := context.AfterFunc(interrupted, func() { // benchmarks do not end before they have ended
		_ = lab.close()
		os.Exit(1)
	})
	defer goOn()
	conditions := lab.conditions() // before we make load ourselves
	code = m.Run()
	fmt.Print(conditions, lab.summary.markdown())
	return code, nil
}
