package console

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"strings"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"github.com/scrimdb/scrim/proxy"
)

// maxLogins bounds the connections to the upstream server that the console has at a time: strangers cause them.
const maxLogins = 8

// door lets people in as PostgreSQL does.
type door struct {
	proxy    *proxy.Server
	nobody   *pgx.ConnConfig // lacks role and password
	log      *slog.Logger
	attempts attempts
	logins   chan struct{} // one for each connection
}

func newDoor(proxy *proxy.Server, database string, log *slog.Logger) (*door, error) {
	// What PG* variables and files of the user's could say is said here, or below. The address is never dialled.
	nobody, err := pgx.ParseConfig("host=127.0.0.1 port=1 user=nobody password=none passfile='' sslmode=disable target_session_attrs=any channel_binding=prefer")
	if err != nil {
		return nil, errors.New("console: a PG* variable of the environment is malformed") // the error could quote it
	}
	nobody.Database = database
	nobody.RuntimeParams = map[string]string{"application_name": "scrim console"}
	nobody.DefaultQueryExecMode = pgx.QueryExecModeExec // nothing is left prepared, which poolers between would mind
	nobody.StatementCacheCapacity, nobody.DescriptionCacheCapacity = 0, 0
	return &door{proxy: proxy, nobody: nobody, log: log, logins: make(chan struct{}, maxLogins)}, nil
}

// enter connects as who the request says, for as long as visit takes.
func (d *door) enter(r *http.Request, visit func(*pgx.Conn) error) error {
	role, password, ok := r.BasicAuth()
	if !ok || role == "" || password == "" || strings.ContainsRune(role+password, 0) { // a zero byte would begin another parameter
		return errNoLogin
	}
	// An attempt counts until it has turned out well, so that a hundred at the same time are a hundred.
	from := origin(r.RemoteAddr)
	if !d.attempts.begin(from) {
		return errTooMany
	}
	select {
	case d.logins <- struct{}{}:
		defer func() { <-d.logins }()
	case <-r.Context().Done():
		d.attempts.forgive(from)
		return errBusy
	}
	conn, err := d.connect(r.Context(), role, password)
	if f := (*failure)(nil); !errors.As(err, &f) || !f.guess {
		d.attempts.forgive(from)
	}
	if err != nil {
		return err
	}
	defer func() { _ = conn.Close(context.WithoutCancel(r.Context())) }()
	err = visit(conn)
	if code(err) == codeDenied {
		return denied(role)
	}
	return err
}

const (
	codeDenied     = "42501"
	codeNoDatabase = "3D000"
)

// connect logs in. Its errors are failures.
func (d *door) connect(ctx context.Context, role, password string) (*pgx.Conn, error) {
	cfg := d.nobody.Copy()
	cfg.User, cfg.Password = role, password
	var unreachable error
	cfg.DialFunc = func(ctx context.Context, _, _ string) (net.Conn, error) {
		conn, err := d.proxy.Dial(ctx)
		unreachable = err
		return conn, err
	}
	conn, err := pgx.ConnectConfig(ctx, cfg)
	switch sqlstate := code(err); {
	case err == nil:
		return conn, nil
	case ctx.Err() != nil:
		return nil, errSlow
	case unreachable != nil:
		d.log.WarnContext(ctx, "the console cannot reach the upstream server", "error", unreachable)
		return nil, errUnreachable
	case sqlstate == codeDenied: // authenticated, and without CONNECT
		return nil, denied(role)
	case strings.HasPrefix(sqlstate, "53"), strings.HasPrefix(sqlstate, "57"), sqlstate == codeNoDatabase:
		d.log.WarnContext(ctx, "the upstream server takes no login of the console's", "code", sqlstate)
		return nil, errUnreachable
	default:
		d.log.DebugContext(ctx, "a login at the console failed", "code", sqlstate)
		return nil, errNoLogin
	}
}

// code is the SQLSTATE of an error, "" if it is not PostgreSQL's.
func code(err error) string {
	var said *pgconn.PgError
	if errors.As(err, &said) {
		return said.Code
	}
	return ""
}

// failure is an error that is shown.
type failure struct {
	Status  int
	Message string
	Hint    string
	guess   bool // somebody may be trying passwords
}

func (f *failure) Error() string { return f.Message }

var (
	// errNoLogin is what everybody is told who cannot log in.
	errNoLogin     = &failure{http.StatusUnauthorized, "Log in with a PostgreSQL role and its password.", "The role needs to be a member of scrim_admin.", true}
	errTooMany     = &failure{http.StatusTooManyRequests, "There were too many logins from your address that failed.", "Wait a minute.", false}
	errBusy        = &failure{http.StatusServiceUnavailable, "Too many people are logging in.", "Try again.", false}
	errSlow        = &failure{http.StatusServiceUnavailable, "The upstream server takes too long.", "Try again.", true} // or the visitor did not wait for the answer
	errUnreachable = &failure{http.StatusServiceUnavailable, "The upstream server cannot be reached, or takes no more connections.", "Scrim's log says more.", false}
)

func denied(role string) error {
	return &failure{http.StatusForbidden, fmt.Sprintf("The role %q may not see the console.", role), "GRANT scrim_admin TO " + pgx.Identifier{role}.Sanitize() + "; lets it.", false}
}

// origin is what failed logins are counted by: an address, or the network that one host of IPv6 has to choose addresses from.
func origin(remote string) netip.Prefix {
	from, err := netip.ParseAddrPort(remote)
	if err != nil {
		return netip.Prefix{}
	}
	addr, bits := from.Addr().Unmap().WithZone(""), 32
	if addr.Is6() {
		bits = 64
	}
	network, _ := addr.Prefix(bits)
	return network
}
