//go:build cgo

// Command scrim is the proxy and its tools. `scrim help` lists the subcommands.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"runtime/debug"
	"strings"
	"syscall"

	"github.com/peterbourgon/ff/v3"
)

const usage = `scrim shows people who may not read a column its code instead of "permission denied".

  scrim demo    [--once] [--keep DIR] [--listen ADDR]    the whole thing on a PostgreSQL of its own, ready for psql
  scrim init    --catalog DSN                            install or migrate the scrim schemas
  scrim serve   --upstream HOST:PORT --catalog DSN       the proxy
  scrim worker  --catalog DSN                            training only, beside proxies
  scrim doctor  --catalog DSN [--models DIR] [--json]    every way a masked role could still read a raw value
  scrim version

Every flag also reads SCRIM_<FLAG>. scrim SUBCOMMAND --help lists its flags.
`

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	context.AfterFunc(ctx, stop) // the second signal does what signals do
	err := run(ctx, os.Args[1:], os.Stdout, os.Stderr)
	os.Exit(exitStatus(err, os.Stderr))
}

// exitStatus says what an error means to whoever called, and prints it if that has not been done.
func exitStatus(err error, stderr io.Writer) int {
	switch {
	case err == nil, errors.Is(err, flag.ErrHelp):
		return 0
	case errors.Is(err, errUsage):
		return 2
	case errors.Is(err, errFindings):
		return 1
	case errors.Is(err, errCannotRun):
		fmt.Fprintln(stderr, "scrim:", err)
		return 2
	}
	fmt.Fprintln(stderr, "scrim:", err)
	return 1
}

// errUsage means that usage was printed because the command line was wrong.
var errUsage = errors.New("usage")

func run(ctx context.Context, args []string, stdout, stderr io.Writer) error {
	if len(args) == 0 {
		fmt.Fprint(stderr, usage)
		return errUsage
	}
	switch args[0] {
	case "demo":
		return runDemo(ctx, args[1:], stdout, stderr)
	case "init":
		return runInit(ctx, args[1:], stdout, stderr)
	case "serve":
		return runServe(ctx, args[1:], stderr)
	case "worker":
		return runWorker(ctx, args[1:], stderr)
	case "doctor":
		return runDoctor(ctx, args[1:], stdout, stderr)
	case "version", "--version", "-version":
		fmt.Fprintln(stdout, version())
		return nil
	case "help", "-h", "--help":
		fmt.Fprint(stdout, usage)
		return nil
	}
	fmt.Fprintf(stderr, "scrim: there is no subcommand %q\n\n%s", args[0], usage)
	return errUsage
}

// parse reads flags, then SCRIM_ variables. Required flags are named.
func parse(fs *flag.FlagSet, args []string, required ...string) error {
	if err := fs.Parse(args); errors.Is(err, flag.ErrHelp) {
		return err
	} else if err != nil {
		return errUsage // package flag has said what is wrong
	}
	if err := ff.Parse(fs, args, ff.WithEnvVarPrefix("SCRIM")); err != nil {
		return err
	}
	if fs.NArg() > 0 {
		return fmt.Errorf("unexpected argument %q", fs.Arg(0))
	}
	for _, name := range required {
		if fs.Lookup(name).Value.String() == "" {
			return fmt.Errorf("--%s is required", name)
		}
	}
	return nil
}

func newFlagSet(name string, stderr io.Writer) *flag.FlagSet {
	fs := flag.NewFlagSet("scrim "+name, flag.ContinueOnError)
	fs.SetOutput(stderr)
	fs.Usage = func() {
		fmt.Fprintf(stderr, "Usage of %s:\n", fs.Name())
		fs.VisitAll(func(f *flag.Flag) {
			kind, what := flag.UnquoteUsage(f)
			fmt.Fprintf(stderr, "  --%s\n    \t%s", strings.TrimSpace(f.Name+" "+kind), what)
			if f.DefValue != "" && f.DefValue != "false" && f.DefValue != "0" && f.DefValue != "0s" {
				fmt.Fprintf(stderr, " (default %s)", f.DefValue)
			}
			fmt.Fprintln(stderr)
		})
	}
	return fs
}

func version() string {
	info, ok := debug.ReadBuildInfo()
	if !ok {
		return "scrim (unknown build)"
	}
	revision := ""
	for _, s := range info.Settings {
		if s.Key == "vcs.revision" {
			revision = " " + s.Value
		}
	}
	return fmt.Sprintf("scrim %s%s %s", info.Main.Version, revision, info.GoVersion)
}
