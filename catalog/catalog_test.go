package catalog_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/riverqueue/river/riverdriver/riverpgxv5"
	"github.com/riverqueue/river/rivermigrate"

	"github.com/scrimdb/scrim/catalog"
	"github.com/scrimdb/scrim/native"
)

var server *native.Server

func TestMain(m *testing.M) {
	ctx := context.Background()
	binaries, err := native.EmbeddedPostgres(ctx, native.Config{Progress: os.Stderr})
	if err == nil {
		server, err = native.StartServer(ctx, native.ServerConfig{Binaries: binaries, Settings: map[string]string{"fsync": "off"}})
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "catalog:", err)
		os.Exit(1)
	}
	code := m.Run()
	_ = server.Stop(ctx)
	os.Exit(code)
}

func connect(t *testing.T, user, password, database string) *pgx.Conn {
	t.Helper()
	conn, err := pgx.Connect(t.Context(), server.DSN(user, password, database))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close(context.Background()) })
	return conn
}

func database(t *testing.T, name string) (dsn string, admin *pgx.Conn) {
	t.Helper()
	if _, err := connect(t, server.Superuser(), server.Password(), "postgres").Exec(t.Context(), "CREATE DATABASE "+name); err != nil {
		t.Fatal(err)
	}
	return server.DSN(server.Superuser(), server.Password(), name), connect(t, server.Superuser(), server.Password(), name)
}

// TestInit: init may run many times, at the same time, and refuses what is newer than it knows.
func TestInit(t *testing.T) {
	dsn, admin := database(t, "init")
	if _, err := catalog.Open(t.Context(), catalog.Config{DSN: dsn}); !errors.Is(err, catalog.ErrNotInitialised) {
		t.Errorf("open before init: %v", err)
	}
	var all sync.WaitGroup
	first := make(chan int, 4)
	for range 4 {
		conn := connect(t, server.Superuser(), server.Password(), "init")
		all.Go(func() {
			result, err := catalog.Init(t.Context(), conn)
			if err != nil || !result.Opaque || result.To < 1 {
				t.Error(result, err)
			}
			first <- result.From
		})
	}
	all.Wait()
	close(first)
	fresh := 0
	for from := range first {
		if from == 0 {
			fresh++
		}
	}
	if fresh != 1 {
		t.Errorf("%d of four inits say they were the first", fresh)
	}
	if _, err := admin.Exec(t.Context(), `INSERT INTO scrim_state.migrations (version, name) VALUES (9999, 'from the future')`); err != nil {
		t.Fatal(err)
	}
	if _, err := catalog.Init(t.Context(), admin); !errors.Is(err, catalog.ErrNewerSchema) {
		t.Errorf("init of a newer schema: %v", err)
	}
	if _, err := catalog.Open(t.Context(), catalog.Config{DSN: dsn}); !errors.Is(err, catalog.ErrNewerSchema) {
		t.Errorf("open of a newer schema: %v", err)
	}
}

// TestFollows: a snapshot follows changes by notice, and goes stale when the server is out of reach.
func TestFollows(t *testing.T) {
	dsn, admin := database(t, "follows")
	if _, err := catalog.Init(t.Context(), admin); err != nil {
		t.Fatal(err)
	}
	c, err := catalog.Open(t.Context(), catalog.Config{DSN: dsn, Lease: 2 * time.Second, PollInterval: time.Second})
	if err != nil {
		t.Fatal(err)
	}
	ctx, stop := context.WithCancel(t.Context())
	done := make(chan struct{})
	go func() { defer close(done); _ = c.Run(ctx) }()
	defer func() { stop(); <-done; c.Close() }()

	before := c.Snapshot()
	_, err = admin.Exec(t.Context(), `INSERT INTO scrim_state.encoders (name, source_table, feature_columns, latent_dims, epochs, batch_size, seed, created_by, creator)
		VALUES ('e', 't', '{a}', 1, 1, 1, 0, 'me', 10)`)
	if err != nil {
		t.Fatal(err)
	}
	wait(t, "a new snapshot", func() bool { return c.Snapshot().Version > before.Version })
	if before == c.Snapshot() {
		t.Error("a snapshot was changed in place")
	}
	if !c.Fresh() {
		t.Error("not fresh while the server is there")
	}
	other := connect(t, server.Superuser(), server.Password(), "postgres")
	if _, err := other.Exec(t.Context(), `ALTER DATABASE follows ALLOW_CONNECTIONS false`); err != nil {
		t.Fatal(err)
	}
	if _, err := other.Exec(t.Context(), `SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = 'follows'`); err != nil {
		t.Fatal(err)
	}
	wait(t, "staleness", func() bool { return !c.Fresh() })
	if _, err := other.Exec(t.Context(), `ALTER DATABASE follows ALLOW_CONNECTIONS true`); err != nil {
		t.Fatal(err)
	}
	wait(t, "freshness", c.Fresh)
}

// TestPrepares: a snapshot is made ready before it is the current one, and one that is never ready is taken all the same.
func TestPrepares(t *testing.T) {
	dsn, admin := database(t, "prepares")
	if _, err := catalog.Init(t.Context(), admin); err != nil {
		t.Fatal(err)
	}
	type call struct {
		prepare  bool
		snapshot *catalog.Snapshot
	}
	var calls []call
	var c *catalog.Catalog
	hangs := false
	c, err := catalog.Open(t.Context(), catalog.Config{
		DSN: dsn, PollInterval: 100 * time.Millisecond,
		Prepare: func(ctx context.Context, s *catalog.Snapshot) {
			calls = append(calls, call{true, s})
			if c != nil && c.Snapshot() == s {
				t.Error("it is the current one already")
			}
			if hangs {
				<-ctx.Done()
			}
		},
		Loaded: func(s *catalog.Snapshot) { calls = append(calls, call{false, s}) },
	})
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	var want []call
	for _, hangs = range []bool{false, false, true} {
		if _, err := c.Reload(t.Context()); err != nil {
			t.Fatal(err)
		}
		want = append(want, call{true, c.Snapshot()}, call{false, c.Snapshot()})
		if !slices.Equal(calls, want) { // and nothing where nothing is new
			t.Errorf("%v, not %v", calls, want)
		}
		if _, err := admin.Exec(t.Context(), `UPDATE scrim_state.catalog_version SET version = version + 1`); err != nil {
			t.Fatal(err)
		}
	}
}

// TestLostConnections: what a login asks the catalog is answered although the server has just ended all connections of the
// pool, as a restart does. They were used a moment ago, so that the pool takes them for good.
// TestWriteAudit: entries are written all or none, and one that the server will never take says so.
func TestWriteAudit(t *testing.T) {
	dsn, admin := database(t, "audited")
	if _, err := catalog.Init(t.Context(), admin); err != nil {
		t.Fatal(err)
	}
	c, err := catalog.Open(t.Context(), catalog.Config{DSN: dsn})
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if got := c.Snapshot().Audit; got != catalog.AuditChanges {
		t.Errorf("level %q", got)
	}
	three := int64(3)
	good := []catalog.AuditEntry{
		{
			At: time.Now().Add(-time.Hour), Kind: catalog.AuditRead, Role: "a\"b'c", Schema: "public", Relation: "T", RelationOID: 4_000_000_000, Columns: []string{"x", "y,\"z"}, Rows: &three,
			Fingerprint: "f", Tag: "SELECT", Details: map[string]string{"policy": "p"},
		},
		{At: time.Now(), Kind: catalog.AuditRefused, SQLState: "42501", Client: "::1", Application: "psql"},
		{At: time.Now(), Kind: catalog.AuditLost, Rows: &three},
	}
	if err := c.WriteAudit(t.Context(), good); err != nil {
		t.Fatal(err)
	}
	if err := c.WriteAudit(t.Context(), append(good[:2:2], catalog.AuditEntry{Kind: "nonsense"})); !errors.Is(err, catalog.ErrAuditEntry) {
		t.Error(err)
	}
	var got string
	err = admin.QueryRow(t.Context(), `SELECT string_agg(concat_ws('|', kind, role, client, application, tag, schema, relation, relation_oid, columns, rows, fingerprint, sqlstate, details,
		round(extract(epoch FROM now() - at) / 60)), E'\n' ORDER BY id) FROM scrim_state.audit`).Scan(&got)
	if want := `read|a"b'c|SELECT|public|T|4000000000|{x,"y,\"z"}|3|f|{"policy": "p"}|60
refused|::1|psql|42501|{}|0
lost|3|{}|0`; err != nil || got != want {
		t.Errorf("%v\n%s", err, got)
	}
}

func TestLostConnections(t *testing.T) {
	dsn, admin := database(t, "lost")
	if _, err := catalog.Init(t.Context(), admin); err != nil {
		t.Fatal(err)
	}
	c, err := catalog.Open(t.Context(), catalog.Config{DSN: dsn})
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	questions := map[string]func() error{
		"Readable": func() error { _, err := c.Readable(t.Context(), "nobody"); return err },
		"Verifier": func() error { _, err := c.Verifier(t.Context(), "nobody"); return err },
	}
	for name, ask := range questions {
		var all sync.WaitGroup
		for range 4 { // as many as the pool holds
			all.Go(func() {
				if err := ask(); err != nil {
					t.Error(name, err)
				}
			})
		}
		all.Wait()
		const end = `SELECT count(pg_terminate_backend(pid, 5000)) FROM pg_stat_activity WHERE application_name = 'scrim catalog' AND datname = 'lost'`
		ended := 0
		if err := admin.QueryRow(t.Context(), end).Scan(&ended); err != nil || ended == 0 {
			t.Fatalf("%d connections ended, %v", ended, err)
		}
		if err := ask(); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func wait(t *testing.T, what string, is func() bool) {
	t.Helper()
	for range 200 {
		if is() {
			return
		}
		time.Sleep(50 * time.Millisecond)
	}
	t.Fatalf("no %s within ten seconds", what)
}

// TestWithoutSuperuser: a role with CREATEROLE that owns the database can run init; sealed values are bytea then.
func TestWithoutSuperuser(t *testing.T) {
	_, admin := database(t, "plain")
	for _, s := range []string{`CREATE ROLE keeper LOGIN CREATEROLE PASSWORD 'keeper'`, `ALTER DATABASE plain OWNER TO keeper`} {
		if _, err := admin.Exec(t.Context(), s); err != nil {
			t.Fatal(err)
		}
	}
	conn := connect(t, "keeper", "keeper", "plain")
	result, err := catalog.Init(t.Context(), conn)
	if err != nil || result.Opaque {
		t.Fatal(result, err)
	}
	if _, err := admin.Exec(t.Context(), `GRANT scrim_admin TO keeper`); err != nil { // the role may be another database's
		t.Fatal(err)
	}
	for _, s := range []string{
		`CREATE TABLE secrets (id int PRIMARY KEY, x float8)`, `INSERT INTO secrets VALUES (1, 2.5)`,
		`CREATE ROLE reader LOGIN PASSWORD 'reader'`, `GRANT SELECT ON secrets TO reader`,
		`SELECT scrim.create_encoder('e', 'secrets', '{x}', latent_dims => 1)`,
		`INSERT INTO scrim_state.encoder_versions (encoder_id, version, sha256, trained_on, loss) SELECT id, 1, repeat('0', 64), 1, 0 FROM scrim_state.encoders`,
		`UPDATE scrim_state.encoders SET default_version = 1`,
		`SELECT scrim.create_masking_policy('p', 'secrets', '{x}', '{}', 'e')`,
	} {
		if _, err := conn.Exec(t.Context(), s); err != nil {
			t.Fatalf("%s: %v", s, err)
		}
	}
	checkup, err := catalog.Doctor(t.Context(), conn)
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range checkup.Findings {
		if f.Severity != catalog.SeverityNote && f.Kind != "superuser" { // those are the server's
			t.Errorf("%+v", f)
		}
	}
	var sealed []byte
	reader := connect(t, "reader", "reader", "plain")
	if err := reader.QueryRow(t.Context(), `SELECT x FROM secrets`).Scan(nil); err == nil {
		t.Error("the reader can read the raw column")
	}
	var view string
	if err := conn.QueryRow(t.Context(), `SELECT masked_view::regclass::text FROM scrim_state.protections`).Scan(&view); err != nil {
		t.Fatal(err)
	}
	if err := reader.QueryRow(t.Context(), `SELECT sealed_1 FROM `+view).Scan(&sealed); err != nil || len(sealed) != 96 {
		t.Errorf("sealed %x, %v", sealed, err)
	}
	rotate(t, conn, admin)
	for _, c := range []struct {
		changes string
		open    bool
	}{
		{`SELECT scrim.enable_masking_policy('p', 'secrets', false)`, false},
		{`SELECT scrim.enable_masking_policy('p', 'secrets')`, true},
		{`SELECT scrim.suspend('secrets'); ALTER TABLE secrets ALTER COLUMN x TYPE real`, false},
		{`SELECT scrim.resume('secrets')`, true},
		{`SELECT scrim.set_masking_policy_except('p', 'secrets', '{keeper}')`, true}, // the view that is replaced stays for a while
	} {
		if _, err := conn.PgConn().Exec(t.Context(), c.changes).ReadAll(); err != nil {
			t.Fatalf("%s: %v", c.changes, err)
		}
		if err := reader.QueryRow(t.Context(), `SELECT sealed_1 FROM `+view).Scan(&sealed); c.open != (err == nil) {
			t.Errorf("after %s: %v", c.changes, err)
		}
	}
	for _, s := range []string{
		`SELECT scrim.drop_masking_policy('p', 'secrets')`, `REVOKE SELECT ON secrets FROM reader`, `GRANT SELECT (id) ON secrets TO reader`,
		`SELECT scrim.create_encoder('f', 'secrets', '{x}', '{id}', latent_dims => 1, allow_identifiers => true)`,
		`INSERT INTO scrim_state.encoder_versions (encoder_id, version, sha256, trained_on, loss) SELECT id, 1, repeat('0', 64), 1, 0 FROM scrim_state.encoders WHERE name = 'f'`,
		`UPDATE scrim_state.encoders SET default_version = 1 WHERE name = 'f'`, `SELECT scrim.create_feature_view('traits', 'f')`,
	} {
		if _, err := conn.Exec(t.Context(), s); err != nil {
			t.Fatalf("%s: %v", s, err)
		}
	}
	if err := conn.QueryRow(t.Context(), `SELECT masked_view::regclass::text FROM scrim_state.protections`).Scan(&view); err != nil {
		t.Fatal(err)
	}
	if err := reader.QueryRow(t.Context(), `SELECT sealed_3 FROM `+view).Scan(&sealed); err != nil || len(sealed) != 80 {
		t.Errorf("sealed %x, %v", sealed, err)
	}
	if err := reader.QueryRow(t.Context(), `SELECT id FROM scrim_runtime.traits`).Scan(nil); err == nil {
		t.Error("the reader can read the feature view")
	}
	if _, err := conn.Exec(t.Context(), `SELECT scrim.drop_encoder('f')`); err != nil {
		t.Error(err)
	}
}

// rotate rotates the key of policy p on secrets: a snapshot has the keys, newest first, and those that another role's transaction could
// seal with stay.
func rotate(t *testing.T, conn, admin *pgx.Conn) {
	t.Helper()
	c, err := catalog.Open(t.Context(), catalog.Config{DSN: conn.Config().ConnString()})
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	known := func() [][catalog.KeySize]byte {
		t.Helper()
		s, err := c.Reload(t.Context())
		if err != nil || len(s.Protections) != 1 {
			t.Fatal(s, err)
		}
		for _, p := range s.Protections {
			return p.Keys
		}
		return nil
	}
	exec := func(conn *pgx.Conn, statements ...string) {
		t.Helper()
		for _, s := range statements {
			if _, err := conn.Exec(t.Context(), s); err != nil {
				t.Fatalf("%s: %v", s, err)
			}
		}
	}
	keys := known() // all that there ever were, newest first
	if len(keys) != 1 {
		t.Fatalf("a new policy has %d keys", len(keys))
	}
	again := func(want int) {
		t.Helper()
		exec(conn, `UPDATE scrim_state.retired_keys SET retired_at = retired_at - interval '2 hours'`, `SELECT scrim.rotate_key('p', 'secrets')`)
		got := known()
		if slices.Contains(keys, got[0]) {
			t.Error("the new key is an old one")
		}
		keys = slices.Insert(keys, 0, got[0])
		if !slices.Equal(got, keys[:want]) {
			t.Errorf("keys %x, not %x", got, keys[:want])
		}
	}
	again(2)
	again(2)
	exec(admin, `BEGIN ISOLATION LEVEL REPEATABLE READ`, `SELECT 1`)
	again(2) // the one before is of no use to it
	again(3)
	again(4)
	exec(admin, `COMMIT`)
	again(2)
}

// TestQueueIsRivers: the tables that our migration makes for River are those that River's own migrations make. If this fails after an
// upgrade of River, its new migration becomes one of ours.
func TestQueueIsRivers(t *testing.T) {
	_, ours := database(t, "queue_ours")
	dsn, theirs := database(t, "queue_theirs")
	if _, err := catalog.Init(t.Context(), ours); err != nil {
		t.Fatal(err)
	}
	pool, err := pgxpool.New(t.Context(), dsn)
	if err != nil {
		t.Fatal(err)
	}
	defer pool.Close()
	if _, err := theirs.Exec(t.Context(), `CREATE SCHEMA scrim_state`); err != nil {
		t.Fatal(err)
	}
	migrator, err := rivermigrate.New(riverpgxv5.New(pool), &rivermigrate.Config{Schema: "scrim_state"})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := migrator.Migrate(t.Context(), rivermigrate.DirectionUp, nil); err != nil {
		t.Fatal(err)
	}
	const described = `
		SELECT format('column %s.%s %s %s %s', c.relname, a.attname, format_type(a.atttypid, a.atttypmod), a.attnotnull, pg_get_expr(d.adbin, d.adrelid))
		  FROM pg_class c JOIN pg_attribute a ON a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped LEFT JOIN pg_attrdef d ON d.adrelid = c.oid AND d.adnum = a.attnum
		 WHERE c.relnamespace = 'scrim_state'::regnamespace AND c.relname LIKE 'river%' AND c.relkind = 'r'
		UNION ALL SELECT format('table %s %s', c.relname, c.relpersistence) FROM pg_class c WHERE c.relnamespace = 'scrim_state'::regnamespace AND c.relname LIKE 'river%' AND c.relkind = 'r'
		UNION ALL SELECT format('constraint %s %s %s', c.conrelid::regclass, CASE WHEN c.contype NOT IN ('n', 'p') THEN c.conname END, pg_get_constraintdef(c.oid)) FROM pg_constraint c JOIN pg_class r ON r.oid = c.conrelid
		 WHERE c.connamespace = 'scrim_state'::regnamespace AND r.relname LIKE 'river%'
		UNION ALL SELECT replace(i.indexdef, 'pkey1', 'pkey') FROM pg_indexes i WHERE i.schemaname = 'scrim_state' AND i.tablename LIKE 'river%'
		UNION ALL SELECT format('value %s %s', e.enumlabel, rank() OVER (ORDER BY e.enumsortorder)) FROM pg_enum e WHERE e.enumtypid = 'scrim_state.river_job_state'::regtype
		UNION ALL SELECT format('function %s %s %s', p.oid::regprocedure, p.provolatile, regexp_replace(p.prosrc, '\s+', ' ', 'g')) FROM pg_proc p WHERE p.pronamespace = 'scrim_state'::regnamespace AND p.proname LIKE 'river%'
		UNION ALL SELECT format('version %s %s', m.line, m.version) FROM scrim_state.river_migration m
		ORDER BY 1`
	list := func(conn *pgx.Conn) []string {
		rows, err := conn.Query(t.Context(), described)
		if err != nil {
			t.Fatal(err)
		}
		lines, err := pgx.CollectRows(rows, pgx.RowTo[string])
		if err != nil {
			t.Fatal(err)
		}
		return lines
	}
	a, b := list(ours), list(theirs)
	for _, line := range a {
		if !slices.Contains(b, line) {
			t.Errorf("only ours: %s", line)
		}
	}
	for _, line := range b {
		if !slices.Contains(a, line) {
			t.Errorf("only River's: %s", line)
		}
	}
	if len(a) < 50 {
		t.Errorf("%d lines compared", len(a))
	}
}
