//go:build cgo

package main

import (
	"context"
	_ "embed"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"strings"
	"text/tabwriter"
	"time"
	"unicode/utf8"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"golang.org/x/term"

	"github.com/scrimdb/scrim/catalog"
	"github.com/scrimdb/scrim/native"
	"github.com/scrimdb/scrim/proxy"
)

//go:embed demo.sql
var demoSQL string

const (
	demoDatabase = "demo"
	demoEncoder  = `CREATE ENCODER customer_code ON customers (age, income, score) WITH (latent_dims = 3, epochs = 10, batch_size = 512) WAIT`
	demoPolicy   = `CREATE MASKING POLICY hide_finances ON customers (age, income, score) EXCEPT risk_officer USING ENCODER customer_code`
	demoQuery    = `SELECT * FROM customers WHERE region = 'EU' ORDER BY id LIMIT 5`
)

func runDemo(ctx context.Context, args []string, stdout, stderr io.Writer) (err error) {
	fs := newFlagSet("demo", stderr)
	once := fs.Bool("once", false, "exit after the side-by-side")
	keep := fs.String("keep", "", "folder to keep the data in; one that a demo was kept in goes on")
	listen := fs.String("listen", "127.0.0.1:6432", "address of the proxy; another port is taken when it is in use")
	console := fs.String("console", "127.0.0.1:6480", "address of the web page; another port is taken when it is in use; empty for none")
	if err := parse(fs, args); err != nil {
		return err
	}
	d := &demo{stdout: stdout, stderr: stderr}
	if err := d.folder(*keep); err != nil {
		return err
	}
	defer func() { err = errors.Join(err, d.cleanUp()) }()
	if err := d.startServer(ctx); err != nil {
		return err
	}
	if err := d.load(ctx); err != nil {
		return err
	}
	serving, stop := context.WithCancel(context.WithoutCancel(ctx))
	defer stop()
	ended, err := d.startProxy(serving, *listen, *console)
	if err != nil {
		return err
	}
	defer func() {
		stop()
		err = errors.Join(err, <-ended)
	}()
	if err := d.protect(ctx); err != nil {
		return err
	}
	if err := d.sideBySide(ctx); err != nil {
		return err
	}
	if *once {
		return nil
	}
	d.invite()
	select {
	case <-ctx.Done():
		fmt.Fprintln(stdout, "\nStopping.")
		return nil
	case <-d.server.Done():
		return errors.New("the demo's PostgreSQL server has stopped")
	}
}

// demo is one run: a server, a proxy before it, and a folder for both.
type demo struct {
	stdout, stderr io.Writer
	dir            string
	temporary      bool
	again          bool // all is there already
	server         *native.Server
	service        *service
	proxyAddr      string
}

func (d *demo) step(format string, args ...any) { fmt.Fprintf(d.stdout, "==> "+format+"\n", args...) }

// folder makes the demo's folder. The server may run as another user, who must be able to enter it.
func (d *demo) folder(keep string) error {
	var err error
	if keep == "" {
		d.temporary = true
		if d.dir, err = os.MkdirTemp("", "scrim-demo-*"); err != nil {
			return err
		}
		return os.Chmod(d.dir, 0o755)
	}
	if d.dir, err = filepath.Abs(keep); err != nil {
		return err
	}
	if err := os.MkdirAll(d.dir, 0o755); err != nil {
		return err
	}
	entries, err := os.ReadDir(d.dir)
	if err != nil || len(entries) == 0 {
		return err
	}
	if _, err := os.Stat(d.ready()); err != nil {
		return fmt.Errorf("demo: %s is not empty, and no demo was kept there", d.dir)
	}
	d.again = true
	return nil
}

// ready is a file that is there when all that a demo makes is.
func (d *demo) ready() string { return filepath.Join(d.dir, "ready") }

func (d *demo) cleanUp() error {
	var errs []error
	if d.service != nil {
		d.service.close()
	}
	if d.server != nil {
		ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
		defer cancel()
		errs = append(errs, d.server.Stop(ctx))
	}
	if d.temporary {
		errs = append(errs, os.RemoveAll(d.dir))
	} else {
		fmt.Fprintf(d.stdout, "The data is kept in %s.\n", d.dir)
	}
	return errors.Join(errs...)
}

func (d *demo) startServer(ctx context.Context) error {
	progress := native.Config{Progress: d.stderr}
	if _, err := native.ONNXRuntime(ctx, progress); err != nil { // what is missing is better said at once
		return err
	}
	binaries, err := native.Postgres(ctx, progress)
	if err != nil {
		return err
	}
	d.step("Starting PostgreSQL %d from %s", binaries.Major, binaries.Dir)
	d.server, err = native.StartServer(ctx, native.ServerConfig{Binaries: binaries, Dir: filepath.Join(d.dir, "data")})
	return err
}

// load makes the database and its table, and installs Scrim.
func (d *demo) load(ctx context.Context) error {
	superuser := func(db string, work func(*pgx.Conn) error) error {
		conn, err := pgx.Connect(ctx, d.server.DSN(d.server.Superuser(), d.server.Password(), db))
		if err != nil {
			return err
		}
		defer func() { _ = conn.Close(context.WithoutCancel(ctx)) }()
		return work(conn)
	}
	if d.again {
		d.step("Going on with what was kept in %s", d.dir)
		return superuser(demoDatabase, func(conn *pgx.Conn) error {
			_, err := catalog.Init(ctx, conn)
			return err
		})
	}
	d.step("Loading 100,000 customers")
	err := superuser("postgres", func(conn *pgx.Conn) error {
		_, err := conn.Exec(ctx, "CREATE DATABASE "+demoDatabase)
		return err
	})
	if err != nil {
		return err
	}
	return superuser(demoDatabase, func(conn *pgx.Conn) error {
		if _, err := catalog.Init(ctx, conn); err != nil {
			return err
		}
		_, err := conn.PgConn().Exec(ctx, demoSQL).ReadAll()
		return err
	})
}

func (d *demo) startProxy(ctx context.Context, listen, console string) (<-chan error, error) {
	listener, err := d.listen(listen)
	if err != nil {
		return nil, err
	}
	d.proxyAddr = listener.Addr().String()
	d.step("Starting the proxy on %s", d.proxyAddr)
	cfg := proxy.Config{Upstream: d.server.Addr(), Logger: slog.New(slog.NewTextHandler(d.stderr, &slog.HandlerOptions{Level: slog.LevelWarn}))}
	dsn := d.server.DSN(d.server.Superuser(), d.server.Password(), demoDatabase)
	if d.service, err = openService(ctx, cfg, dsn, filepath.Join(d.dir, "models"), d.stderr); err != nil {
		return nil, errors.Join(err, listener.Close())
	}
	if console != "" {
		if err := d.startConsole(console); err != nil {
			return nil, errors.Join(err, listener.Close())
		}
	}
	ended := make(chan error, 1)
	go func() { ended <- d.service.serve(ctx, listener) }()
	return ended, nil
}

func (d *demo) startConsole(addr string) error {
	listener, err := d.listen(addr)
	if err != nil {
		return err
	}
	if err := d.service.openConsole(listener); err != nil {
		return errors.Join(err, listener.Close())
	}
	d.step("Starting the console on %s", d.service.console.URL())
	return nil
}

// listen takes another port when the one of addr is in use.
func (d *demo) listen(addr string) (net.Listener, error) {
	listener, err := net.Listen("tcp", addr)
	if err == nil {
		return listener, nil
	}
	host, _, splitErr := net.SplitHostPort(addr)
	if splitErr != nil {
		return nil, err
	}
	d.step("%v: taking another port", err)
	return net.Listen("tcp", net.JoinHostPort(host, "0"))
}

// connect connects as a role of the demo: through the proxy, or to the server itself.
func (d *demo) connect(ctx context.Context, addr, role string, notice func(string)) (*pgx.Conn, error) {
	cfg, err := pgx.ParseConfig(d.dsn(addr, role))
	if err != nil {
		return nil, err
	}
	cfg.OnNotice = func(_ *pgconn.PgConn, n *pgconn.Notice) {
		if notice != nil {
			notice(n.Message)
		}
	}
	return pgx.ConnectConfig(ctx, cfg)
}

func (d *demo) dsn(addr, role string) string {
	return fmt.Sprintf("postgres://%s:%s@%s/%s", role, role, addr, demoDatabase)
}

// protect trains the encoder and attaches the policy, as a data engineer would in psql.
func (d *demo) protect(ctx context.Context) error {
	if d.again {
		return nil
	}
	terminal := false
	if f, ok := d.stdout.(*os.File); ok {
		terminal = term.IsTerminal(int(f.Fd()))
	}
	conn, err := d.connect(ctx, d.proxyAddr, "data_engineer", func(message string) {
		bar := strings.HasPrefix(message, "training [")
		switch {
		case bar && !terminal:
		case bar:
			fmt.Fprintf(d.stdout, "\r\x1b[K    %s", message)
		case terminal:
			fmt.Fprintf(d.stdout, "\r\x1b[K    %s\n", message)
		default:
			fmt.Fprintf(d.stdout, "    %s\n", message)
		}
	})
	if err != nil {
		return err
	}
	defer func() { _ = conn.Close(context.WithoutCancel(ctx)) }()
	for _, statement := range []string{demoEncoder, demoPolicy} {
		fmt.Fprintf(d.stdout, "\ndata_engineer=> %s;\n", statement)
		tag, err := conn.Exec(ctx, statement)
		if err != nil {
			return err
		}
		fmt.Fprintln(d.stdout, tag)
	}
	return os.WriteFile(d.ready(), nil, 0o644)
}

// sideBySide shows one query three ways.
func (d *demo) sideBySide(ctx context.Context) error {
	views := []struct{ title, addr, role string }{
		{"The analyst, through Scrim, sees codes:", d.proxyAddr, "analyst"},
		{"The risk officer, through Scrim, sees the table:", d.proxyAddr, "risk_officer"},
		{"The analyst, around Scrim, hears from PostgreSQL itself:", d.server.Addr(), "analyst"},
	}
	for _, v := range views {
		fmt.Fprintf(d.stdout, "\n%s\n\n%s=> %s;\n", v.title, v.role, demoQuery)
		conn, err := d.connect(ctx, v.addr, v.role, nil)
		if err != nil {
			return err
		}
		err = d.show(ctx, conn)
		_ = conn.Close(ctx)
		if err != nil {
			return err
		}
	}
	return nil
}

// show runs the query as psql would and prints what comes, a refusal included.
func (d *demo) show(ctx context.Context, conn *pgx.Conn) error {
	results, err := conn.PgConn().Exec(ctx, demoQuery).ReadAll()
	if pgErr := (*pgconn.PgError)(nil); errors.As(err, &pgErr) {
		fmt.Fprintf(d.stdout, "%s:  %s\n", pgErr.Severity, pgErr.Message)
		return nil
	}
	if err != nil {
		return err
	}
	for _, r := range results {
		rows := [][]string{nil}
		for _, f := range r.FieldDescriptions {
			rows[0] = append(rows[0], f.Name)
		}
		for _, row := range r.Rows {
			var cells []string
			for _, v := range row {
				cells = append(cells, string(v))
			}
			rows = append(rows, cells)
		}
		d.table(rows)
	}
	return nil
}

// table prints rows, of which the first has the names, as psql does.
func (d *demo) table(rows [][]string) {
	widths := make([]int, len(rows[0]))
	for _, row := range rows {
		for i, cell := range row {
			widths[i] = max(widths[i], utf8.RuneCountInString(cell))
		}
	}
	var rules []string
	for _, w := range widths {
		rules = append(rules, strings.Repeat("-", w+2))
	}
	for i, row := range rows {
		var cells []string
		for j, cell := range row {
			cells = append(cells, fmt.Sprintf(" %-*s ", widths[j], cell))
		}
		fmt.Fprintln(d.stdout, strings.TrimRight(strings.Join(cells, "|"), " "))
		if i == 0 {
			fmt.Fprintln(d.stdout, strings.Join(rules, "+"))
		}
	}
}

func (d *demo) invite() {
	fmt.Fprint(d.stdout, "\nTry it yourself:\n")
	ways := tabwriter.NewWriter(d.stdout, 0, 0, 2, ' ', 0)
	for _, way := range [][2]string{
		{"psql " + d.dsn(d.proxyAddr, "analyst"), "the analyst, through Scrim"},
		{"psql " + d.dsn(d.proxyAddr, "risk_officer"), "the risk officer, through Scrim"},
		{"psql " + d.dsn(d.proxyAddr, "data_engineer"), "the data engineer: SHOW MASKING POLICIES"},
		{"psql " + d.dsn(d.server.Addr(), "analyst"), "the analyst, around Scrim"},
		{d.server.DSN(d.server.Superuser(), d.server.Password(), demoDatabase), "the superuser, for psql, pg_dump and scrim doctor --catalog"},
	} {
		fmt.Fprintf(ways, "  %s\t# %s\n", way[0], way[1])
	}
	if d.service.console != nil {
		fmt.Fprintf(ways, "  %s\t# the console: log in as data_engineer, password data_engineer\n", d.service.console.URL())
	}
	_ = ways.Flush() // fails as Fprint does: nobody reads
	fmt.Fprintf(d.stdout, "Ctrl-C stops everything%s.\n", map[bool]string{true: " and leaves nothing behind", false: ""}[d.temporary])
}
