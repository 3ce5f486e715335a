package integration_test

import (
	"context"
	"crypto/hmac"
	"crypto/pbkdf2"
	"crypto/sha256"
	"encoding/base64"
	"flag"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"github.com/scrimdb/scrim/catalog"
	"github.com/scrimdb/scrim/native"
	"github.com/scrimdb/scrim/proxy"
	"github.com/scrimdb/scrim/training"
	"github.com/scrimdb/scrim/udf"
)

// The template's roles. The password of each is its name.
const (
	olga    = "olga"    // owns customers, is a scrim_admin
	analyst = "analyst" // may SELECT, is masked
	risk    = "risk"    // may SELECT, is exempt in the tests' policy
	guest   = "guest"   // may do nothing
)

const templateSQL = `
CREATE TABLE customers (
	id integer PRIMARY KEY, region text NOT NULL, age integer, income numeric(12,2), score double precision, vip boolean, "Note" text
);
INSERT INTO customers SELECT i, (ARRAY['EU','US','APAC'])[1 + i % 3], CASE WHEN i % 17 <> 0 THEN 18 + i % 60 END,
	CASE WHEN i % 23 <> 0 THEN 20000 + (i * 7919) % 80000 + 0.25 END, 300 + (i * 31) % 550 + 0.5, i % 5 = 0, 'note ' || i
	FROM generate_series(1, 1999) i;
INSERT INTO customers VALUES (2000, 'EU', 4815162, 2342108.75, 16384.0625, true, 'the canary');
CREATE INDEX customers_region ON customers (region, id);
CREATE TABLE orders (id integer PRIMARY KEY, customer_id integer, amount numeric, region text);
INSERT INTO orders SELECT i, i % 150, i * 1.5, (ARRAY['EU','US','APAC'])[1 + i % 3] FROM generate_series(1, 300) i;
GRANT SELECT ON customers TO analyst, risk;
GRANT SELECT ON orders TO PUBLIC;
`

// canaries are the raw values of customer 2000 as they could be printed. None may ever reach a masked role.
var canaries = []string{"4815162", "2342108.75", "16384.0625", "2342108", "2.34210875e+06", "16384"}

const (
	testEncoder = `CREATE ENCODER enc ON customers (age, income, score, vip) WITH (latent_dims = 4, epochs = 2, batch_size = 128, seed = 1) WAIT`
	testPolicy  = `CREATE MASKING POLICY p ON customers (age, income, score) EXCEPT risk USING ENCODER enc`
)

// world is one PostgreSQL server with the template database.
type world struct {
	name     string
	binaries native.Binaries
	server   *native.Server
	models   string
	rt       *udf.Runtime
	made     atomic.Int64
	mu       chan struct{} // held while the template is copied: CREATE DATABASE wants it alone
}

var worlds []*world

func TestMain(m *testing.M) {
	code, err := runAll(m)
	if err != nil {
		fmt.Fprintln(os.Stderr, "integration:", err)
		code = 1
	}
	os.Exit(code)
}

func testLog() io.Writer {
	if os.Getenv("SCRIM_TEST_LOG") != "" {
		return os.Stderr
	}
	return io.Discard
}

func logger() *slog.Logger {
	return slog.New(slog.NewTextHandler(testLog(), &slog.HandlerOptions{Level: slog.LevelDebug}))
}

func runAll(m *testing.M) (int, error) {
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Minute)
	defer cancel()
	if other, err := asOtherProcess(ctx); other {
		return 0, err
	}
	if other, err := asOtherWorker(ctx); other {
		return 0, err
	}
	cfg := native.Config{Progress: os.Stderr}
	rt, err := openRuntime(ctx, cfg)
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
		w, err := newWorld(ctx, binaries, rt)
		if err != nil {
			return 1, err
		}
		defer func() {
			_ = w.server.Stop(context.WithoutCancel(ctx))
			_ = os.RemoveAll(w.models)
		}()
		worlds = append(worlds, w)
	}
	_ = flag.Set("test.parallel", "4") // by default: tests wait as much as they compute
	return m.Run(), nil
}

// openRuntime loads ONNX Runtime, which is fetched if need be.
func openRuntime(ctx context.Context, cfg native.Config) (*udf.Runtime, error) {
	library, err := native.ONNXRuntime(ctx, cfg)
	if err != nil {
		return nil, err
	}
	return udf.NewRuntime(library)
}

func newWorld(ctx context.Context, binaries native.Binaries, rt *udf.Runtime) (*world, error) {
	models, err := os.MkdirTemp("", "scrim-models-*")
	if err != nil {
		return nil, err
	}
	server, err := native.StartServer(ctx, native.ServerConfig{Binaries: binaries, Log: testLog(), Settings: map[string]string{
		"fsync": "off", "synchronous_commit": "off", "full_page_writes": "off", "max_connections": "300", "log_statement": "none",
		"wal_level": "logical",
	}})
	if err != nil {
		return nil, err
	}
	w := &world{name: fmt.Sprintf("pg%d", binaries.Major), binaries: binaries, server: server, models: models, rt: rt, mu: make(chan struct{}, 1)}
	if err := w.makeTemplate(ctx); err != nil {
		return nil, err
	}
	// The first policy of olga's on the server makes a role, and of two at the same time one would have to try again.
	if err := w.superuser(ctx, "postgres", `CREATE DATABASE first TEMPLATE template`); err != nil {
		return nil, err
	}
	if err := w.superuser(ctx, "first", `SELECT scrim.create_masking_policy('p', 'customers', '{age,income,score}', '{risk}', 'enc')`); err != nil {
		return nil, err
	}
	return w, w.superuser(ctx, "postgres", `DROP DATABASE first`)
}

func (w *world) makeTemplate(ctx context.Context) error {
	statements := []string{`CREATE DATABASE template`, `ALTER ROLE ` + w.server.Superuser() + ` PASSWORD '` + cheapVerifier(w.server.Password()) + `'`}
	for _, role := range []string{olga, analyst, risk, guest} {
		statements = append(statements, `CREATE ROLE `+role+` LOGIN PASSWORD '`+cheapVerifier(role)+`'`)
	}
	err := w.superuser(ctx, "postgres", statements...)
	if err != nil {
		return err
	}
	conn, err := pgx.Connect(ctx, w.server.DSN(w.server.Superuser(), w.server.Password(), "template"))
	if err != nil {
		return err
	}
	_, err = catalog.Init(ctx, conn)
	if err == nil {
		_, err = conn.PgConn().Exec(ctx, `GRANT scrim_admin TO olga; GRANT CREATE ON SCHEMA public TO olga; SET SESSION AUTHORIZATION olga;`+templateSQL).ReadAll()
	}
	_ = conn.Close(ctx)
	if err != nil {
		return err
	}
	e, err := w.open(ctx, "template", w.models)
	if err != nil {
		return err
	}
	defer e.close()
	stop, err := startWorker(ctx, e, nil)
	if err != nil {
		return err
	}
	defer stop()
	client, err := pgx.Connect(ctx, e.dsn(olga))
	if err != nil {
		return err
	}
	_, err = client.Exec(ctx, testEncoder)
	_ = client.Close(ctx)
	return err
}

// cheapVerifier is what PostgreSQL stores of a password for SCRAM, with one iteration instead of 4096: the tests log in
// thousands of times. auth_test.go has what the server makes itself.
func cheapVerifier(password string) string {
	salt := []byte("of the tests")
	salted, _ := pbkdf2.Key(sha256.New, password, salt, 1, sha256.Size)
	mac := func(text string) []byte {
		h := hmac.New(sha256.New, salted)
		h.Write([]byte(text))
		return h.Sum(nil)
	}
	stored := sha256.Sum256(mac("Client Key"))
	encode := base64.StdEncoding.EncodeToString
	return "SCRAM-SHA-256$1:" + encode(salt) + "$" + encode(stored[:]) + ":" + encode(mac("Server Key"))
}

// superuser runs statements directly on the server.
func (w *world) superuser(ctx context.Context, database string, statements ...string) error {
	conn, err := pgx.Connect(ctx, w.server.DSN(w.server.Superuser(), w.server.Password(), database))
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

// env is one database behind one proxy.
type env struct {
	*world
	database   string
	models     string // a folder of its own
	catalogDSN string
	catalog    *catalog.Catalog
	library    *udf.Library
	proxy      *proxy.Server
	addr       string
	close      func()
}

// oneServer are tests that take long, and in which no version of the server does what another does not: each runs on one of the servers, in turn. SCRIM_SERVERS=all runs them
// on all.
var oneServer = []string{
	"TestReplaceUnderLoad", "TestVersionsUnderLoad", "TestKilledWorker", "TestSchedules", "TestCascade", "TestSecureLogin", "TestOwnersTable", "TestRulesOfTrainingData", "TestEditedSeals",
	"TestOracleInvokerViews", "TestScheduleOfAnother", "TestStoppedWorker", "TestReplaceNarrower", "TestClientFaults", "TestWalkOfViews", "TestDropped", "TestModelOutputs", "TestPublishWaits",
	"TestInvokerViews", "TestOthersTrainings", "TestTrainingJobs", "TestMaskLibrary", "TestColumnDropped", "TestStress", "TestSnowflakeSpelling", "TestLostSlot", "TestRotateUnderLoad",
	"TestSQLMaskCascade", "TestCancelInTransaction", "TestCancelTraining", "TestAuditOfKilledProxy", "TestDropFeatureView", "TestSlowCatalog", "TestBadSealsAreSlow", "TestOneTrainingAtATime",
	"TestQueueIsNotEverybodys", "TestPlantedSeals", "TestPassthrough", "TestCancelOurs", "TestIdleTimeout", "TestFeatureViewAndPolicy", "TestWaiting", "TestTableThatBecomesAView", "TestAuditSurvives",
	"TestFetchCount", "TestTableOfAnotherNow", "TestRotateUnderSnapshots", "TestHugeStatement", "TestFeatureViewOracle", "TestRotateUntold", "TestModelVersions",
	"TestCancel", "TestFeatureViewRefusals", "TestDisableUnderRowSecurity", "TestConsole", "TestModelRefusals", "TestModelBesides", "TestServerCursorOfDriver",
	"TestPolicyWhileTraining", "TestShutdown", "TestEncoderReport", "TestAuditPortals", "TestUpstreamCut", "TestTrainingOnMaskedViews", "TestRotateForgets",
	"TestModelProxyDies", "TestVersionCannotBeLoaded", "TestFeatureViewVersions", "TestModelOfAnother", "TestSweep", "TestManyRows", "TestMaxLeakage",
	"TestSlowReader", "TestSlowReaders", "TestModelFiles", "TestShutdownWithDeafClient", "TestSlowStartups", "TestMovingHome", "TestModelInputIsMissing",
	"TestAuditDetails",
}

// onServers runs a test on every server, side by side; not while goldens are written, or one would write what the other reads.
func onServers(t *testing.T, test func(t *testing.T, w *world)) {
	rewriting := flag.Lookup("rewrite").Value.String() == "true"
	for i, w := range worlds {
		if at := slices.Index(oneServer, t.Name()); at >= 0 && at%len(worlds) != i && os.Getenv("SCRIM_SERVERS") != "all" {
			continue
		}
		t.Run(w.name, func(t *testing.T) {
			if !rewriting {
				t.Parallel()
			}
			test(t, w)
		})
	}
}

// onEach is onServers in a database of its own, beside other tests: roles belong to the whole server.
func onEach(t *testing.T, test func(t *testing.T, e *env)) {
	t.Parallel()
	onServers(t, func(t *testing.T, w *world) { test(t, w.fresh(t)) })
}

// onEachProtected is onEach with the tests' policy in place.
func onEachProtected(t *testing.T, test func(t *testing.T, e *env)) {
	onEach(t, func(t *testing.T, e *env) {
		e.exec(t, e.connect(t, olga), testPolicy)
		test(t, e)
	})
}

// fresh is a database of its own behind a proxy of its own.
func (w *world) fresh(t *testing.T) *env {
	t.Helper()
	name := w.copied(t)
	models := t.TempDir() // workers remove what they do not know
	if err := os.CopyFS(filepath.Join(models, "enc"), os.DirFS(filepath.Join(w.models, "enc"))); err != nil {
		t.Fatal(err)
	}
	e, err := w.open(t.Context(), name, models)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(e.close)
	return e
}

// bare is a database of its own without a proxy, which takes most of the time.
func (w *world) bare(t *testing.T) *env {
	t.Helper()
	return &env{world: w, database: w.copied(t), models: w.models}
}

// copied makes a copy of the template.
func (w *world) copied(t *testing.T) (name string) {
	t.Helper()
	watch(t)
	name = fmt.Sprintf("test_%d", w.made.Add(1))
	w.mu <- struct{}{}
	err := w.superuser(t.Context(), "postgres", "CREATE DATABASE "+name+" TEMPLATE template STRATEGY file_copy")
	<-w.mu
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := w.superuser(context.Background(), "postgres", "DROP DATABASE "+name+" WITH (FORCE)"); err != nil {
			t.Error(err)
		}
	})
	return name
}

func (w *world) open(ctx context.Context, database, models string) (*env, error) {
	e, err := openProxy(ctx, w.server.Addr(), w.server.DSN(w.server.Superuser(), w.server.Password(), database), models, w.rt)
	if err != nil {
		return nil, err
	}
	e.world, e.database = w, database
	return e, nil
}

func openProxy(ctx context.Context, upstream, dsn, models string, rt *udf.Runtime) (*env, error) {
	e := &env{catalogDSN: dsn, models: models}
	store, err := udf.NewStore(models)
	if err != nil {
		return nil, err
	}
	e.library = udf.NewLibrary(rt, store)
	e.catalog, err = catalog.Open(ctx, catalog.Config{
		DSN: dsn, Logger: logger(),
		Prepare: func(ctx context.Context, s *catalog.Snapshot) { _ = e.library.Prepare(ctx, proxy.Encoders(s)) }, // statements say what failed
		Loaded:  func(s *catalog.Snapshot) { e.library.Retain(proxy.Encoders(s)) },
	})
	if err != nil {
		return nil, err
	}
	e.proxy, err = proxy.NewServer(proxy.Config{Upstream: upstream, Catalog: e.catalog, Library: e.library, Logger: logger()})
	if err != nil {
		return nil, err
	}
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, err
	}
	e.addr = listener.Addr().String()
	running, stop := context.WithCancel(context.WithoutCancel(ctx))
	served, listened := make(chan struct{}), make(chan struct{})
	go func() { defer close(served); _ = e.proxy.Serve(running, listener) }()
	go func() { defer close(listened); _ = e.catalog.Run(running) }()
	e.close = func() {
		stop()
		<-served
		<-listened
		e.catalog.Close()
	}
	return e, nil
}

// trains starts a worker for the time of the test.
func (e *env) trains(t *testing.T) {
	t.Helper()
	stop, err := startWorker(t.Context(), e, nil)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(stop)
}

// startWorker starts a worker with a library of its own. atStep, which may be nil, is called at the steps of jobs, and with file-
// before them at those of publishing a file.
func startWorker(ctx context.Context, e *env, atStep func(string)) (stop func(), err error) {
	store, err := udf.NewStore(e.models)
	if err != nil {
		return nil, err
	}
	if atStep != nil {
		store.AtStep = func(step string) { atStep("file-" + step) }
	}
	w, err := training.Open(ctx, training.Config{DSN: e.catalogDSN, Library: udf.NewLibrary(e.rt, store), Logger: logger(), AtStep: atStep})
	if err != nil {
		return nil, err
	}
	running, cancel := context.WithCancel(context.WithoutCancel(ctx))
	done := make(chan struct{})
	go func() { defer close(done); _ = w.Run(running) }()
	return func() { cancel(); <-done }, nil
}

// dsn connects through the proxy.
func (e *env) dsn(role string) string {
	return fmt.Sprintf("postgres://%s:%s@%s/%s?sslmode=disable", role, role, e.addr, e.database)
}

// directDSN connects around the proxy.
func (e *env) directDSN(role string) string {
	return fmt.Sprintf("postgres://%s:%s@%s/%s?sslmode=disable", role, role, e.server.Addr(), e.database)
}

func (e *env) connect(t *testing.T, role string) *pgx.Conn { t.Helper(); return dial(t, e.dsn(role)) }

func (e *env) directly(t *testing.T, role string) *pgx.Conn {
	t.Helper()
	return dial(t, e.directDSN(role))
}

// admin connects directly as the superuser.
func (e *env) admin(t *testing.T) *pgx.Conn {
	t.Helper()
	return dial(t, e.server.DSN(e.server.Superuser(), e.server.Password(), e.database))
}

func dial(t *testing.T, dsn string) *pgx.Conn {
	t.Helper()
	conn, err := pgx.Connect(t.Context(), dsn)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close(context.Background()) })
	return conn
}

// exec runs statements that must succeed, by the simple protocol. A policy that is refused for want of a role of another test's, which
// are the whole cluster's, is tried again until that is gone.
func (e *env) exec(t *testing.T, conn *pgx.Conn, statements ...string) {
	t.Helper()
	for _, s := range statements {
		_, err := conn.PgConn().Exec(t.Context(), s).ReadAll()
		for deadline := time.Now().Add(time.Minute); e.isOthers(err) && time.Now().Before(deadline); {
			time.Sleep(100 * time.Millisecond)
			_, err = conn.PgConn().Exec(t.Context(), s).ReadAll()
		}
		if err != nil {
			t.Fatalf("%s: %v", s, explain(err))
		}
	}
}

var rolesOfTests = regexp.MustCompile(`\b(walker|\w*test_\d+)\b`)

// isOthers tells whether an error is about roles of other tests only.
func (e *env) isOthers(err error) bool {
	var refused *pgconn.PgError
	if !asError(err, &refused) || refused.Code != "55000" {
		return false
	}
	roles := rolesOfTests.FindAllString(refused.Detail, -1)
	return len(roles) > 0 && !slices.ContainsFunc(roles, func(role string) bool { return strings.HasSuffix(role, e.database) })
}

// text runs one statement by the simple protocol and returns it as psql -At would print it.
func text(t *testing.T, conn *pgx.Conn, query string) (string, error) {
	t.Helper()
	results, err := conn.PgConn().Exec(t.Context(), query).ReadAll()
	if err != nil {
		return "", err
	}
	var b strings.Builder
	for _, r := range results {
		for _, row := range r.Rows {
			for i, v := range row {
				if i > 0 {
					b.WriteByte('|')
				}
				if v == nil {
					b.WriteString("∅")
				}
				b.Write(v)
			}
			b.WriteByte('\n')
		}
	}
	return b.String(), nil
}

func mustText(t *testing.T, conn *pgx.Conn, query string) string {
	t.Helper()
	out, err := text(t, conn, query)
	if err != nil {
		t.Fatalf("%s: %v", query, explain(err))
	}
	return out
}

// explain spells out a server error.
func explain(err error) string {
	var pgErr *pgconn.PgError
	if !asError(err, &pgErr) {
		return fmt.Sprint(err)
	}
	return fmt.Sprintf("%s %s: %s\n%s\n%s", pgErr.Severity, pgErr.Code, pgErr.Message, pgErr.Detail, pgErr.Hint)
}

// code returns the SQLSTATE of an error, "" for none.
func code(err error) string {
	var pgErr *pgconn.PgError
	if asError(err, &pgErr) {
		return pgErr.Code
	}
	if err != nil {
		return err.Error()
	}
	return ""
}
