package drivers_test

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/scrimdb/scrim/catalog"
	"github.com/scrimdb/scrim/native"
	"github.com/scrimdb/scrim/proxy"
	"github.com/scrimdb/scrim/training"
	"github.com/scrimdb/scrim/udf"
)

// The roles. The password of each is its name.
const (
	olga    = "olga"    // owns customers
	analyst = "analyst" // is masked
	risk    = "risk"    // is exempt, and has a schema of its own
)

const database = "drivers"

// schemaSQL ends with customer 2000, whose raw values are the canaries. numbers has every type that drivers like to
// treat in their own way.
const schemaSQL = `
CREATE TABLE customers (id integer PRIMARY KEY, region text NOT NULL, age integer, income numeric(12,2), score double precision);
INSERT INTO customers SELECT i, (ARRAY['EU','US','APAC'])[1 + i % 3], CASE WHEN i % 17 <> 0 THEN 18 + i % 60 END,
	CASE WHEN i % 23 <> 0 THEN 20000 + (i * 7919) % 80000 + 0.25 END, 300 + (i * 31) % 550 + 0.5 FROM generate_series(1, 1999) i;
INSERT INTO customers VALUES (2000, 'EU', 4815162, 2342108.75, 16384.0625);
CREATE TABLE kinds (id integer PRIMARY KEY, small smallint, big bigint, price numeric, real real, double double precision,
	yes boolean, name text, day date, at timestamp, tz timestamptz, id2 uuid, doc jsonb, raw bytea, list integer[], empty text);
INSERT INTO kinds VALUES
	(1, -7, 9007199254740993, 12345.6789, 1.5, 0.1, true, 'ä€𝄞|', '2024-02-29', '2024-02-29 12:34:56.789', '2024-02-29 12:34:56+00',
	'6ba7b810-9dad-11d1-80b4-00c04fd430c8', '{"a": [1, null]}', '\x00ff41', '{1,2,3}', ''),
	(2, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL);
GRANT SELECT ON customers, kinds TO analyst, risk;
`

// canaries are the raw values of customer 2000 as they could be printed. None may ever reach a masked role.
var canaries = []string{"4815162", "2342108", "2.34210875e+06", "2.34210875E", "16384.0625", "1.63840625"}

const (
	encoderSQL = `CREATE ENCODER enc ON customers (age, income, score) WITH (latent_dims = 3, epochs = 2, batch_size = 128, seed = 1) WAIT`
	policySQL  = `CREATE MASKING POLICY p ON customers (age, income, score) EXCEPT risk USING ENCODER enc`
)

// world is one PostgreSQL server, with customers protected, behind one proxy.
type world struct {
	name   string
	major  int
	server *native.Server
	proxy  string            // HOST:PORT
	codes  map[string]string // of customers, by id, as a masked role's plain SELECT shows them
	ends   []func()
}

var worlds []*world

func TestMain(m *testing.M) {
	code, err := runAll(m)
	if err != nil {
		fmt.Fprintln(os.Stderr, "integration/drivers:", err)
		code = 1
	}
	os.Exit(code)
}

func runAll(m *testing.M) (int, error) {
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Minute)
	defer cancel()
	cfg := native.Config{Progress: os.Stderr}
	library, err := native.ONNXRuntime(ctx, cfg)
	if err != nil {
		return 1, err
	}
	rt, err := udf.NewRuntime(library)
	if err != nil {
		return 1, err
	}
	embedded, err := native.EmbeddedPostgres(ctx, cfg)
	if err != nil {
		return 1, err
	}
	servers := []native.Binaries{embedded}
	if system, err := native.SystemPostgres(ctx); err == nil {
		servers = append(servers, system)
	}
	for _, binaries := range servers {
		w := &world{name: fmt.Sprintf("pg%d", binaries.Major), major: binaries.Major}
		defer w.close()
		if err := w.start(ctx, binaries, rt); err != nil {
			return 1, fmt.Errorf("%s: %w", w.name, err)
		}
		worlds = append(worlds, w)
	}
	return m.Run(), nil
}

// onEach runs a test on every server.
func onEach(t *testing.T, test func(t *testing.T, w *world)) {
	t.Parallel()
	for _, w := range worlds {
		t.Run(w.name, func(t *testing.T) {
			t.Parallel()
			test(t, w)
		})
	}
}

func (w *world) start(ctx context.Context, binaries native.Binaries, rt *udf.Runtime) (err error) {
	w.server, err = native.StartServer(ctx, native.ServerConfig{Binaries: binaries, Log: testLog(), Settings: map[string]string{
		"fsync": "off", "synchronous_commit": "off", "full_page_writes": "off", "max_connections": "200",
		"timezone": "UTC", "lc_messages": "C",
	}})
	if err != nil {
		return err
	}
	w.ends = append(w.ends, func() { _ = w.server.Stop(context.WithoutCancel(ctx)) })
	err = run(ctx, w.admin("postgres").dsn(), `CREATE DATABASE `+database+` TEMPLATE template0 ENCODING 'UTF8' LOCALE 'C'`,
		`CREATE ROLE olga LOGIN PASSWORD 'olga'`, `CREATE ROLE analyst LOGIN PASSWORD 'analyst'`, `CREATE ROLE risk LOGIN PASSWORD 'risk'`)
	if err != nil {
		return err
	}
	if err := w.fill(ctx); err != nil {
		return err
	}
	if err := w.serve(ctx, rt); err != nil {
		return err
	}
	if err := run(ctx, w.through(olga).dsn(), encoderSQL, policySQL); err != nil {
		return err
	}
	w.codes, err = reference(ctx, w.through(analyst).dsn())
	return err
}

// fill makes the schema.
func (w *world) fill(ctx context.Context) error {
	conn, err := pgx.Connect(ctx, w.admin(database).dsn())
	if err != nil {
		return err
	}
	defer func() { _ = conn.Close(ctx) }()
	if _, err := catalog.Init(ctx, conn); err != nil {
		return err
	}
	_, err = conn.PgConn().Exec(ctx, `GRANT scrim_admin TO olga; GRANT CREATE ON SCHEMA public TO olga; CREATE SCHEMA AUTHORIZATION risk;`+
		`SET SESSION AUTHORIZATION olga;`+schemaSQL).ReadAll()
	return err
}

// serve starts the proxy.
func (w *world) serve(ctx context.Context, rt *udf.Runtime) error {
	models, err := os.MkdirTemp("", "scrim-models-*")
	if err != nil {
		return err
	}
	w.ends = append(w.ends, func() { _ = os.RemoveAll(models) })
	store, err := udf.NewStore(models)
	if err != nil {
		return err
	}
	log := slog.New(slog.NewTextHandler(testLog(), &slog.HandlerOptions{Level: slog.LevelDebug}))
	c, err := catalog.Open(ctx, catalog.Config{DSN: w.admin(database).dsn(), Logger: log})
	if err != nil {
		return err
	}
	w.ends = append(w.ends, c.Close)
	s, err := proxy.NewServer(proxy.Config{Upstream: w.server.Addr(), Catalog: c, Library: udf.NewLibrary(rt, store), Logger: log})
	if err != nil {
		return err
	}
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return err
	}
	w.proxy = listener.Addr().String()
	running, stop := context.WithCancel(context.WithoutCancel(ctx))
	served, listened := make(chan struct{}), make(chan struct{})
	go func() { defer close(served); _ = s.Serve(running, listener) }()
	go func() { defer close(listened); _ = c.Run(running) }()
	worker, err := training.Open(ctx, training.Config{DSN: w.admin(database).dsn(), Library: udf.NewLibrary(rt, store), Logger: log})
	if err != nil {
		stop()
		return err
	}
	trained := make(chan struct{})
	go func() { defer close(trained); _ = worker.Run(running) }()
	w.ends = append(w.ends, func() { stop(); <-served; <-listened; <-trained })
	return nil
}

// close undoes what start did, last first.
func (w *world) close() {
	for i := len(w.ends) - 1; i >= 0; i-- {
		w.ends[i]()
	}
}

// reference reads every customer by the simple protocol, in text.
func reference(ctx context.Context, dsn string) (map[string]string, error) {
	conn, err := pgx.Connect(ctx, dsn)
	if err != nil {
		return nil, err
	}
	defer func() { _ = conn.Close(ctx) }()
	results, err := conn.PgConn().Exec(ctx, `SELECT id, age, income, score FROM customers`).ReadAll()
	if err != nil {
		return nil, err
	}
	codes := map[string]string{}
	for _, row := range results[0].Rows {
		codes[string(row[0])] = fmt.Sprintf("%s|%s|%s", row[1], row[2], row[3])
	}
	return codes, nil
}

// run executes statements that must succeed.
func run(ctx context.Context, dsn string, statements ...string) error {
	conn, err := pgx.Connect(ctx, dsn)
	if err != nil {
		return err
	}
	defer func() { _ = conn.Close(ctx) }()
	for _, s := range statements {
		if _, err := conn.Exec(ctx, s); err != nil {
			return fmt.Errorf("%s: %w", s, err)
		}
	}
	return nil
}

func testLog() io.Writer {
	if os.Getenv("SCRIM_TEST_LOG") != "" {
		return os.Stderr
	}
	return io.Discard
}
