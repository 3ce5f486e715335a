//go:build linux

package bench_test

import (
	"context"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/jackc/pgx/v5/pgconn"

	"github.com/scrimdb/scrim/integration/internal/pgbouncer"
)

// proxy is a program that can stand between client and server.
type proxy struct {
	name     string
	database string
	// command makes the program listen on a port. dir is a folder of its own.
	command func(dir string, port int) (*exec.Cmd, error)
}

// way is a road to the server.
type way struct {
	name     string
	database string
	port     int
	process  *process // nil if nothing is between
}

// launch starts a proxy and returns when a client can log in through it.
func (l *laboratory) launch(ctx context.Context, p proxy) (*way, error) {
	dir, err := os.MkdirTemp(l.dir, p.name+"-*")
	if err != nil {
		return nil, err
	}
	if err := os.Chmod(dir, 0o755); err != nil { // PgBouncer runs as another user
		return nil, err
	}
	port, err := freePort(ctx)
	if err != nil {
		return nil, err
	}
	cmd, err := p.command(dir, port)
	if err != nil {
		return nil, err
	}
	w := &way{name: p.name, database: p.database, port: port}
	if w.process, err = start(cmd, filepath.Join(dir, "log")); err != nil {
		return nil, fmt.Errorf("start %s: %w", p.name, err)
	}
	if err := l.awaitLogin(ctx, w); err != nil {
		w.process.stop()
		return nil, fmt.Errorf("start %s: %w", p.name, w.process.failure(err))
	}
	return w, nil
}

func freePort(ctx context.Context) (int, error) {
	listener, err := new(net.ListenConfig).Listen(ctx, "tcp", "127.0.0.1:0")
	if err != nil {
		return 0, err
	}
	return listener.Addr().(*net.TCPAddr).Port, listener.Close()
}

func (l *laboratory) awaitLogin(ctx context.Context, w *way) error {
	ctx, cancel := context.WithTimeout(ctx, 20*time.Second)
	defer cancel()
	for {
		conn, err := l.connect(ctx, w)
		if err == nil {
			return conn.Close(ctx)
		}
		select {
		case <-w.process.done:
			return fmt.Errorf("it ended at once: %w", err)
		case <-ctx.Done():
			return fmt.Errorf("no login: %w", err)
		case <-time.After(20 * time.Millisecond):
		}
	}
}

func (l *laboratory) connect(ctx context.Context, w *way) (*pgconn.PgConn, error) {
	return l.connectAs(ctx, w, role)
}

func (l *laboratory) connectAs(ctx context.Context, w *way, role string) (*pgconn.PgConn, error) {
	return pgconn.Connect(ctx, fmt.Sprintf("postgres://%s:%s@127.0.0.1:%d/%s?sslmode=disable", role, password, w.port, w.database))
}

// pgBouncer pools sessions and otherwise has its package's defaults, with limits raised.
func (l *laboratory) pgBouncer() (proxy, error) {
	path, err := pgbouncer.Path()
	if err != nil {
		return proxy{}, err
	}
	version, err := exec.Command(path, "--version").Output() //nolint:noctx // ends at once
	if err != nil {
		return proxy{}, fmt.Errorf("%s --version: %w", path, err)
	}
	l.bouncer, _, _ = strings.Cut(string(version), "\n")
	return proxy{name: "pgbouncer", database: database, command: func(dir string, port int) (*exec.Cmd, error) {
		return pgbouncer.Command(dir, pgbouncer.Config{
			Database: database, ServerPort: l.server.Port(), Port: port, PoolMode: "session", Role: role, Password: password,
			Extra: "max_client_conn = 5000\ndefault_pool_size = 5000\nignore_startup_parameters = extra_float_digits\n",
		})
	}}, nil
}

// scrim is one build of Scrim as a proxy for a database.
func (l *laboratory) scrim(c command, db string) proxy {
	return proxy{name: c.name, database: db, command: func(_ string, port int) (*exec.Cmd, error) {
		cmd := l.scrimCommand(c, db, "serve", "--upstream", l.server.Addr(), "--listen", fmt.Sprintf("127.0.0.1:%d", port),
			"--models", l.models(), "--max-connections", "5000", "--log-level", "warn")
		return cmd, nil
	}}
}

// models is the folder of model files, the same for all: a model is there for every proxy.
func (l *laboratory) models() string { return filepath.Join(l.dir, "models") }

func (l *laboratory) scrimCommand(c command, db string, args ...string) *exec.Cmd {
	argv := slices.Concat(c.argv, args)
	cmd := exec.Command(argv[0], argv[1:]...) //nolint:noctx // stopped by its way
	cmd.Env = append(os.Environ(), "SCRIM_CATALOG="+l.superuserDSN(db))
	return cmd
}
