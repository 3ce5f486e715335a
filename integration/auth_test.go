package integration_test

import (
	"bytes"
	"context"
	"fmt"
	"log/slog"
	"net"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"github.com/scrimdb/scrim/catalog"
	"github.com/scrimdb/scrim/native"
	"github.com/scrimdb/scrim/proxy"
	"github.com/scrimdb/scrim/udf"
)

// authHBA has a role for each method. Roles that are not named, or do not exist, use SCRAM.
const authHBA = `
local all all scram-sha-256
host all trusting 127.0.0.1/32 trust
host all plain 127.0.0.1/32 password
host all hashed 127.0.0.1/32 md5
host all scram_by_md5 127.0.0.1/32 md5
hostnossl all rejected 127.0.0.1/32 reject
hostssl all rejected 127.0.0.1/32 reject
host all all 127.0.0.1/32 scram-sha-256
`

var authRoles = []string{
	`CREATE DATABASE app`,
	`CREATE ROLE trusting LOGIN`, `CREATE ROLE rejected LOGIN`, `CREATE ROLE nologin PASSWORD 'secret'`,
	`CREATE ROLE plain LOGIN PASSWORD 'secret'`, `CREATE ROLE scrammer LOGIN PASSWORD 'secret'`, `CREATE ROLE scram_by_md5 LOGIN PASSWORD 'secret'`,
	`CREATE ROLE expired LOGIN PASSWORD 'secret' VALID UNTIL '2020-01-01'`, `CREATE ROLE without LOGIN`, `CREATE ROLE "Ünïcode "" x" LOGIN PASSWORD 'sécret'`,
	`SET password_encryption = 'md5'`, `CREATE ROLE hashed LOGIN PASSWORD 'secret'`, `CREATE ROLE hashed_only LOGIN PASSWORD 'secret'`,
}

// secure is a server that offers TLS, with a role for each way to log in. The password is secret.
type secure struct {
	major  int
	server *native.Server
	log    *lockedBuffer // the server's
	ca     *authority
	models string
	rt     *udf.Runtime
}

// lockedBuffer is a log that a test reads while it is written.
type lockedBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (l *lockedBuffer) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

func (l *lockedBuffer) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}

func newSecure(t *testing.T, binaries native.Binaries) *secure {
	t.Helper()
	s := &secure{major: binaries.Major, log: &lockedBuffer{}, ca: newAuthority(t, "server's authority"), models: t.TempDir(), rt: worlds[0].rt}
	var err error
	s.server, err = native.StartServer(t.Context(), native.ServerConfig{Binaries: binaries, Log: s.log, Settings: map[string]string{"fsync": "off"}})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = s.server.Stop(context.Background()) })
	watch(t, s.server)
	admin := s.admin(t, "postgres")
	for _, sql := range authRoles {
		if _, err := admin.Exec(t.Context(), sql); err != nil {
			t.Fatal(sql, err)
		}
	}
	s.encrypt(t, admin, s.ca.issue(t, "server"))
	if _, err := catalog.Init(t.Context(), s.admin(t, "app")); err != nil {
		t.Fatal(err)
	}
	return s
}

func (s *secure) admin(t *testing.T, database string) *pgx.Conn {
	t.Helper()
	return dial(t, s.server.DSN(s.server.Superuser(), s.server.Password(), database))
}

// encrypt gives the server a certificate and its pg_hba.conf.
func (s *secure) encrypt(t *testing.T, admin *pgx.Conn, c certificate) {
	t.Helper()
	var data, hba string
	if err := admin.QueryRow(t.Context(), `SELECT current_setting('data_directory'), current_setting('hba_file')`).Scan(&data, &hba); err != nil {
		t.Fatal(err)
	}
	own, err := os.Stat(data)
	if err != nil {
		t.Fatal(err)
	}
	in := certificate{cert: filepath.Join(data, "server.crt"), key: filepath.Join(data, "server.key")}
	in.replace(t, c)
	for _, file := range []string{in.cert, in.key} {
		st := own.Sys().(*syscall.Stat_t)
		if err := os.Chown(file, int(st.Uid), int(st.Gid)); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.WriteFile(hba, []byte(authHBA), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, sql := range []string{`ALTER SYSTEM SET ssl = on`, `SELECT pg_reload_conf()`} {
		if _, err := admin.Exec(t.Context(), sql); err != nil {
			t.Fatal(err)
		}
	}
	eventually(t, func() bool {
		conn, err := pgx.Connect(t.Context(), s.dsn(s.server.Addr(), "scrammer", "secret", "sslmode=require"))
		if err == nil {
			_ = conn.Close(t.Context())
		}
		return err == nil
	})
}

// proxied is a proxy before a secure server.
type proxied struct {
	addr    string
	srv     *proxy.Server
	catalog *catalog.Catalog
	log     *lockedBuffer
}

// open starts a proxy. What cfg lacks is filled in; dsn is the catalog's, the superuser's if empty.
func (s *secure) open(t *testing.T, cfg proxy.Config, dsn string) *proxied {
	t.Helper()
	p := &proxied{log: &lockedBuffer{}}
	cfg.Logger = slog.New(slog.NewTextHandler(p.log, &slog.HandlerOptions{Level: slog.LevelDebug}))
	store, err := udf.NewStore(s.models)
	if err != nil {
		t.Fatal(err)
	}
	if dsn == "" {
		dsn = s.server.DSN(s.server.Superuser(), s.server.Password(), "app")
	}
	c, err := catalog.Open(t.Context(), catalog.Config{DSN: dsn, Logger: cfg.Logger})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(c.Close)
	p.catalog = c
	cfg.Catalog, cfg.Library = c, udf.NewLibrary(s.rt, store)
	if cfg.Upstream == "" {
		cfg.Upstream = s.server.Addr()
	}
	if p.srv, err = proxy.NewServer(cfg); err != nil {
		t.Fatal(err)
	}
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	p.addr = listener.Addr().String()
	ctx, stop := context.WithCancel(context.WithoutCancel(t.Context()))
	served := make(chan struct{})
	go func() { defer close(served); _ = p.srv.Serve(ctx, listener) }()
	t.Cleanup(func() { stop(); <-served })
	return p
}

// withTLS is what a proxy offers to clients.
func (s *secure) withTLS(t *testing.T) proxy.ClientTLS {
	t.Helper()
	c := s.ca.issue(t, "proxy")
	return proxy.ClientTLS{CertFile: c.cert, KeyFile: c.key}
}

// dsn is a URL for pgx; libpq reads it too.
func (s *secure) dsn(addr, role, password string, options ...string) string {
	u := url.URL{Scheme: "postgres", User: url.UserPassword(role, password), Host: addr, Path: "/app", RawQuery: strings.Join(options, "&")}
	return u.String()
}

// trusts are the options of a client that checks the server's certificate.
func (s *secure) trusts(options ...string) []string {
	return append(options, "sslmode=verify-full", "sslrootcert="+s.ca.file)
}

// attempt logs in and returns what became of it: the role, or the error as the server said it.
func attempt(t *testing.T, dsn string) string {
	t.Helper()
	conn, err := pgx.Connect(t.Context(), dsn)
	if err != nil {
		var pgErr *pgconn.PgError
		if asError(err, &pgErr) {
			return fmt.Sprintf("%s %s: %s %s %s", pgErr.Severity, pgErr.Code, pgErr.Message, pgErr.Detail, pgErr.Hint)
		}
		return err.Error()
	}
	defer func() { _ = conn.Close(context.Background()) }()
	return mustText(t, conn, `SELECT session_user`)
}

// TestSecureLogin has a server of its own for each version: TLS and pg_hba.conf are the whole server's.
func TestSecureLogin(t *testing.T) {
	t.Parallel()
	onServers(t, func(t *testing.T, w *world) {
		s := newSecure(t, w.binaries)
		t.Run("methods", s.testMethods)
		t.Run("libpq", s.testLibpq)
		t.Run("channel binding", s.testChannelBinding)
		t.Run("console", s.testConsole)
		t.Run("nothing to bind to", s.testUnboundCertificate)
		t.Run("rights", s.testVerifierRights)
		t.Run("password change", s.testPasswordChange)
		t.Run("client certificates", s.testClientCertificates)
		t.Run("direct", s.testDirectTLS)
		t.Run("sslmode", s.testUpstreamModes)
		t.Run("cancel", s.testCancelOverTLS)
		t.Run("reload", s.testReload)
		t.Run("injection", s.testInjection)
	})
}

// logins are roles and passwords, good and bad.
var logins = []struct{ role, password string }{
	{"trusting", "anything"},
	{"rejected", "secret"},
	{"plain", "wrong"},
	{"hashed", "wrong"},
	{"scrammer", ""},
	{"scram_by_md5", "secret"},
	{"scram_by_md5", "wrong"},
	{"without", "secret"},
	{"expired", "wrong"},
	{"hashed_only", "secret"},
	{`Ünïcode " x`, "wrong"},
	// These are enough where each costs a process.
	{"plain", "secret"},
	{"hashed", "secret"},
	{"scrammer", "secret"},
	{"scrammer", "wrong"},
	{"nobody_here", "secret"},
	{"expired", "secret"},
	{"nologin", "secret"},
	{`Ünïcode " x`, "sécret"},
}

// testMethods: through the proxy, over any combination of TLS, each login ends as directly, in the same words.
func (s *secure) testMethods(t *testing.T) {
	for _, upstream := range []string{"disable", "require"} {
		p := s.open(t, proxy.Config{TLS: s.withTLS(t), UpstreamTLS: proxy.UpstreamTLS{SSLMode: upstream}}, "")
		for _, client := range []string{"disable", "require"} {
			for _, l := range logins {
				want := attempt(t, s.dsn(s.server.Addr(), l.role, l.password, "sslmode="+upstream))
				got := attempt(t, s.dsn(p.addr, l.role, l.password, "sslmode="+client))
				if local := strings.ReplaceAll(got, p.addr, s.server.Addr()); local != want {
					t.Errorf("client %s, upstream %s, %s with %q:\n%s\ndirectly\n%s", client, upstream, l.role, l.password, got, want)
				}
			}
		}
		if log := p.log.String(); strings.Contains(log, "secret") || strings.Contains(log, "SCRAM-SHA-256$") {
			t.Error("a password or a verifier is in the proxy's log")
		}
	}
	s.isLogged(t, `password authentication failed for user "scrammer"`)
	s.isLogged(t, `Role "nobody_here" does not exist`)
	s.isLogged(t, `User "without" has no password assigned`)
	s.isLogged(t, `User "expired" has an expired password`)
}

// isLogged: failures are the server's own, so they are in its log with the reason that a client is not told.
func (s *secure) isLogged(t *testing.T, what string) {
	t.Helper()
	if !strings.Contains(strings.ToLower(s.log.String()), strings.ToLower(what)) {
		t.Errorf("the server's log has no %q", what)
	}
}

// psql runs one statement and returns what it prints, errors included.
func psql(t *testing.T, dsn string) string {
	t.Helper()
	path, err := exec.LookPath("psql")
	if err != nil {
		t.Fatal("psql is needed: install postgresql-client")
	}
	cmd := exec.CommandContext(t.Context(), path, "-XAtc", "SELECT session_user", dsn)
	cmd.Env = append(os.Environ(), "LC_ALL=C", "HOME="+t.TempDir())
	out, _ := cmd.CombinedOutput() // the error is in what it prints
	return string(out)
}

// testLibpq: libpq is stricter than pgx about what a server may offer, and about channel binding.
func (s *secure) testLibpq(t *testing.T) {
	local := func(out, addr string) string {
		_, port, _ := net.SplitHostPort(addr)
		return strings.ReplaceAll(out, "port "+port, "port N")
	}
	directly := map[string]string{}
	for _, upstream := range []string{"disable", "verify-full"} {
		p := s.open(t, proxy.Config{TLS: s.withTLS(t), UpstreamTLS: proxy.UpstreamTLS{SSLMode: upstream, SSLRootCert: s.ca.file}}, "")
		for _, options := range [][]string{{"sslmode=disable"}, {"sslmode=prefer"}, s.trusts(), s.trusts("channel_binding=disable"), s.trusts("channel_binding=require")} {
			if upstream == "disable" && options[0] == "channel_binding=require" {
				continue // the server, which does not see TLS, cannot offer it: see README
			}
			for _, l := range logins[len(logins)-8:] {
				got := local(psql(t, s.dsn(p.addr, l.role, l.password, options...)), p.addr)
				dsn := s.dsn(s.server.Addr(), l.role, l.password, options...)
				want, ok := directly[dsn]
				if !ok {
					want = local(psql(t, dsn), s.server.Addr())
					directly[dsn] = want
				}
				if got != want {
					t.Errorf("%v, upstream %s, %s with %q:\n%s\ndirectly\n%s", options, upstream, l.role, l.password, got, want)
				}
			}
		}
	}
}

// testChannelBinding: clients that insist on channel binding get it, and one that is talked out of it is refused.
func (s *secure) testChannelBinding(t *testing.T) {
	p := s.open(t, proxy.Config{TLS: s.withTLS(t), UpstreamTLS: proxy.UpstreamTLS{SSLMode: "require"}}, "")
	for _, binding := range []string{"require", "prefer", "disable"} {
		if got := attempt(t, s.dsn(p.addr, "scrammer", "secret", s.trusts("channel_binding="+binding)...)); got != "scrammer\n" {
			t.Errorf("channel_binding=%s: %s", binding, got)
		}
	}
	for name, c := range map[string]struct{ mechanism, first, want string }{
		"downgraded":         {"SCRAM-SHA-256", "y,,n=,r=abc", "28000: SCRAM channel binding negotiation error"},
		"bound but not PLUS": {"SCRAM-SHA-256", "p=tls-server-end-point,,n=,r=abc", "08P01: malformed SCRAM message"},
		"PLUS but not bound": {"SCRAM-SHA-256-PLUS", "n,,n=,r=abc", "08P01: malformed SCRAM message"},
		"another binding":    {"SCRAM-SHA-256-PLUS", "p=tls-unique,,n=,r=abc", `08P01: unsupported SCRAM channel-binding type "tls-unique"`},
		"no nonce":           {"SCRAM-SHA-256-PLUS", "p=tls-server-end-point,,n=", "08P01: malformed SCRAM message"},
		"another mechanism":  {"SCRAM-SHA-1", "n,,n=,r=abc", "08P01: client selected an invalid SASL authentication mechanism"},
	} {
		if got := s.firstAnswer(t, p.addr, c.mechanism, c.first); got != "FATAL "+c.want {
			t.Errorf("%s: %s, want %s", name, got, c.want)
		}
	}
	for name, c := range map[string]struct{ final, want string }{
		"another binding": {"c=YmFk,r=NONCE,p=" + strings.Repeat("A", 43) + "=", "28000: SCRAM channel binding check failed"},
		"another nonce":   {"c=BINDING,r=other,p=" + strings.Repeat("A", 43) + "=", "08P01: invalid SCRAM response"},
		"no proof":        {"c=BINDING,r=NONCE", "08P01: malformed SCRAM message"},
		"short proof":     {"c=BINDING,r=NONCE,p=AAAA", "08P01: malformed SCRAM message"},
		"wrong proof":     {"c=BINDING,r=NONCE,p=" + strings.Repeat("A", 43) + "=", `28P01: password authentication failed for user "scrammer"`},
	} {
		if got := s.finalAnswer(t, p.addr, c.final); got != "FATAL "+c.want {
			t.Errorf("%s: %s, want %s", name, got, c.want)
		}
	}
}
