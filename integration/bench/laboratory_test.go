//go:build linux

package bench_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"time"

	"github.com/jackc/pgx/v5/pgconn"

	"github.com/scrimdb/scrim/native"
)

// Who logs in, and where. The cluster is thrown away.
const (
	role     = "bench"
	password = "bench"
	database = "bench"
)

// laboratory is a server with the ways that lead to it.
type laboratory struct {
	options
	dir     string
	pgbench string // path of the program
	bouncer string // PgBouncer's name and version
	server  *native.Server
	proxies []proxy // how each is started: BenchmarkIdle starts them anew
	ways    []*way  // direct, then one for each of proxies
	masked  []proxy // how each build is started for the masked database; nil until there is one
	summary summary
}

func openLaboratory(ctx context.Context, o options) (_ *laboratory, err error) {
	l := &laboratory{options: o}
	defer func() {
		if err != nil {
			err = errors.Join(err, l.close())
		}
	}()
	if l.dir, err = os.MkdirTemp("", "scrim-bench-*"); err != nil {
		return nil, err
	}
	if err := os.Chmod(l.dir, 0o755); err != nil { // PgBouncer runs as another user
		return nil, err
	}
	if err := l.chooseProxies(ctx); err != nil {
		return nil, err
	}
	if err := l.startServer(ctx); err != nil {
		return nil, err
	}
	if err := l.prepareDatabase(ctx); err != nil {
		return nil, err
	}
	return l, l.openWays(ctx)
}

func (l *laboratory) chooseProxies(ctx context.Context) error {
	bouncer, err := l.pgBouncer()
	if err != nil {
		return err
	}
	l.proxies = []proxy{bouncer}
	if len(l.scrims) == 0 {
		binary := filepath.Join(l.dir, "scrim")
		build := exec.CommandContext(ctx, "go", "build", "-o", binary, "github.com/scrimdb/scrim/cmd/scrim")
		if out, err := build.CombinedOutput(); err != nil {
			return fmt.Errorf("go build: %w\n%s", err, out)
		}
		l.scrims = []command{{name: "scrim", argv: []string{binary}}}
	}
	for _, c := range l.scrims {
		l.proxies = append(l.proxies, l.scrim(c, database))
	}
	return nil
}

func (l *laboratory) startServer(ctx context.Context) error {
	binaries, err := native.SystemPostgres(ctx)
	if err != nil {
		return fmt.Errorf("install the Debian package postgresql: %w", err)
	}
	if l.pgbench, err = exec.LookPath(filepath.Join(binaries.Dir, "pgbench")); err != nil {
		return fmt.Errorf("pgbench is missing: install the Debian package postgresql: %w", err)
	}
	l.server, err = native.StartServer(ctx, native.ServerConfig{Binaries: binaries, Settings: map[string]string{
		"fsync": "off", "synchronous_commit": "off", "full_page_writes": "off", "autovacuum": "off",
		"shared_buffers": "512MB", "max_wal_size": "8GB", "checkpoint_timeout": "1h",
		"max_connections": strconv.Itoa(l.sessions + 100),
	}})
	return err
}

// prepareDatabase makes the role, its database, pgbench's tables and Scrim's schemas.
func (l *laboratory) prepareDatabase(ctx context.Context) error {
	if err := l.superuser(ctx, "postgres", fmt.Sprintf("CREATE ROLE %s LOGIN PASSWORD '%s'", role, password)); err != nil {
		return err
	}
	if err := l.superuser(ctx, "postgres", fmt.Sprintf("CREATE DATABASE %s OWNER %s", database, role)); err != nil {
		return err
	}
	direct := &way{name: "direct", database: database, port: l.server.Port()}
	l.ways = []*way{direct}
	if out, err := l.pgbenchCommand(ctx, direct, "-i", "-q", "-s", strconv.Itoa(l.scale)).CombinedOutput(); err != nil {
		return fmt.Errorf("pgbench -i: %w\n%s", err, out)
	}
	return l.initScrim(database)
}

// initScrim makes Scrim's schemas in a database, as each build has them.
func (l *laboratory) initScrim(db string) error {
	for _, c := range l.scrims {
		if out, err := l.scrimCommand(c, db, "init").CombinedOutput(); err != nil {
			return fmt.Errorf("%s init: %w\n%s", c.name, err, out)
		}
	}
	return nil
}

func (l *laboratory) openWays(ctx context.Context) error {
	for _, p := range l.proxies {
		w, err := l.launch(ctx, p)
		if err != nil {
			return err
		}
		l.ways = append(l.ways, w)
	}
	return nil
}

// close ends everything. It may be called on what was opened in part.
func (l *laboratory) close() error {
	for _, w := range l.ways {
		if w.process != nil {
			w.process.stop()
		}
	}
	var errs []error
	if l.server != nil {
		ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
		defer cancel()
		errs = append(errs, l.server.Stop(ctx))
	}
	return errors.Join(append(errs, os.RemoveAll(l.dir))...)
}

// conditions says in a line what the figures were made on.
func (l *laboratory) conditions() string {
	load, err := os.ReadFile("/proc/loadavg")
	if err != nil {
		load = []byte(err.Error())
	}
	major, minor := l.server.Version()/10_000, l.server.Version()%10_000
	return fmt.Sprintf("\n%s: %d CPUs, load average before the run %s, PostgreSQL %d.%d, %s, %s.\n",
		time.Now().Format(time.DateOnly), runtime.NumCPU(), bytes.TrimSpace(load), major, minor, l.bouncer, runtime.Version())
}

func (l *laboratory) superuserDSN(db string) string {
	return l.server.DSN(l.server.Superuser(), l.server.Password(), db)
}

// superuser runs statements, as one simple query, directly on the server.
func (l *laboratory) superuser(ctx context.Context, db, statements string) error {
	conn, err := pgconn.Connect(ctx, l.superuserDSN(db))
	if err != nil {
		return err
	}
	_, err = conn.Exec(ctx, statements).ReadAll()
	return errors.Join(err, conn.Close(ctx))
}
