package native

import (
	"context"
	"errors"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"github.com/jackc/pgx/v5"
)

func start(t *testing.T, cfg ServerConfig) *Server {
	t.Helper()
	var err error
	if cfg.Binaries.Dir == "" {
		cfg.Binaries, err = EmbeddedPostgres(t.Context(), Config{})
		check(t, err)
	}
	cfg.Settings = fast
	s, err := StartServer(t.Context(), cfg)
	check(t, err)
	t.Cleanup(func() { check(t, s.Stop(context.Background())) })
	return s
}

func query(t *testing.T, dsn, sql string) string {
	t.Helper()
	conn, err := pgx.Connect(t.Context(), dsn)
	check(t, err)
	defer func() { _ = conn.Close(t.Context()) }()
	var got string
	check(t, conn.QueryRow(t.Context(), sql).Scan(&got))
	return got
}

func TestServer(t *testing.T) {
	s := start(t, ServerConfig{Superuser: "the boss", Password: "p@ss/w:rd %"})
	dsn := s.DSN(s.Superuser(), s.Password(), "postgres")
	if got := query(t, dsn, "SELECT version()"); !strings.HasPrefix(got, "PostgreSQL 18.") {
		t.Errorf("version is %s", got)
	}
	if got := query(t, dsn, "SHOW server_version_num"); got != strconv.Itoa(s.Version()) {
		t.Errorf("version is %d, not %s", s.Version(), got)
	}
	if got := query(t, dsn, "SHOW listen_addresses"); got != "127.0.0.1" {
		t.Errorf("listens on %s", got)
	}
	if got := query(t, dsn, "SHOW fsync"); got != "off" {
		t.Errorf("settings are not passed: fsync is %s", got)
	}
	// The libraries that need the links unpacking makes: ICU, OpenSSL.
	query(t, dsn, `SELECT upper('a' COLLATE "und-x-icu")`)
	if conn, err := pgx.Connect(t.Context(), dsn); err != nil {
		t.Error(err)
	} else {
		_, err = conn.Exec(t.Context(), "CREATE EXTENSION pgcrypto; SELECT digest('x', 'sha256')")
		check(t, errors.Join(err, conn.Close(t.Context())))
	}
	if _, err := os.Stat(filepath.Join(s.SocketDir(), ".s.PGSQL."+strconv.Itoa(s.Port()))); err != nil {
		t.Errorf("no socket: %v", err)
	}
	if _, err := pgx.Connect(t.Context(), s.DSN(s.Superuser(), "wrong", "postgres")); err == nil {
		t.Error("a wrong password is taken")
	}

	check(t, s.Stop(t.Context()))
	check(t, s.Stop(t.Context()))
	<-s.Done()
	if _, err := os.Stat(s.temporary); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("the temporary folder stays: %v", err)
	}
	if c, err := net.Dial("tcp", s.Addr()); err == nil {
		_ = c.Close()
		t.Error("it still listens")
	}
}

// The installed server, where there is one, must run too: its users, folders and settings are not ours.
func TestInstalledOrEmbeddedServer(t *testing.T) {
	b, err := Postgres(t.Context(), Config{})
	check(t, err)
	s := start(t, ServerConfig{Binaries: b})
	if s.Version()/10_000 != b.Major {
		t.Errorf("the server has version %d, its binaries %d", s.Version(), b.Major)
	}
}

// A data folder of one's own outlives a crash, a stop and an interrupted initdb, and keeps its password.
func TestServerKeepsItsData(t *testing.T) {
	dir := filepath.Join(openDir(t), "pg")
	check(t, os.MkdirAll(dir+".initdb-1/data", 0o700)) // what a killed initdb leaves
	first := start(t, ServerConfig{Dir: dir})
	conn, err := pgx.Connect(t.Context(), first.DSN("postgres", first.Password(), "postgres"))
	check(t, err)
	for _, sql := range []string{"CREATE TABLE kept AS SELECT 'x' AS v", "CHECKPOINT"} { // as commits are asynchronous
		_, err = conn.Exec(t.Context(), sql)
		check(t, err)
	}
	first.Kill()
	if err := conn.Ping(t.Context()); err == nil {
		t.Error("a session outlived Kill")
	}

	second := start(t, ServerConfig{Dir: dir, Port: first.Port()})
	if first.Password() != second.Password() || first.Addr() != second.Addr() {
		t.Error("password or address changed")
	}
	if got := query(t, second.DSN("postgres", second.Password(), "postgres"), "SELECT v FROM kept"); got != "x" {
		t.Errorf("got %q", got)
	}
	if got := entries(t, filepath.Dir(dir)); len(got) != 1 {
		t.Errorf("beside the data: %v", got)
	}

	for name, c := range map[string]struct {
		cfg  ServerConfig
		want string
	}{
		"taken port":     {ServerConfig{Port: second.Port()}, "the port is taken: 127.0.0.1:"},
		"folder in use":  {ServerConfig{Dir: dir}, `lock file "postmaster.pid" already exists`},
		"foreign folder": {ServerConfig{Dir: "/etc"}, "/etc is neither empty nor the data folder"},
	} {
		t.Run(name, func(t *testing.T) {
			c.cfg.Binaries = second.binaries
			s, err := StartServer(t.Context(), c.cfg)
			if err == nil {
				check(t, s.Stop(t.Context()))
			}
			wantError(t, err, c.want)
		})
	}
	check(t, second.Stop(t.Context()))
	t.Run("wrong password", func(t *testing.T) {
		_, err := StartServer(t.Context(), ServerConfig{Binaries: second.binaries, Dir: dir, Password: "wrong"})
		wantError(t, err, "was made with another superuser or password")
	})
}

func TestServerRefusesFolderItsUserCannotEnter(t *testing.T) {
	if os.Geteuid() != 0 {
		return // the server runs as us, who can
	}
	b, err := EmbeddedPostgres(t.Context(), Config{})
	check(t, err)
	_, err = StartServer(t.Context(), ServerConfig{Binaries: b, Dir: filepath.Join(t.TempDir(), "pg")})
	wantError(t, err, "who cannot enter")
}
