package proxy

import (
	"cmp"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/scrimdb/scrim/catalog"
	"github.com/scrimdb/scrim/udf"
)

// Config of a Server. Upstream, Catalog and Library are required.
type Config struct {
	// Upstream is HOST:PORT of the PostgreSQL server, or the path of its Unix socket.
	Upstream string
	Catalog  *catalog.Catalog
	Library  *udf.Library
	// TLS is offered to clients when it names a certificate.
	TLS ClientTLS
	// UpstreamTLS is how the way to the server is encrypted.
	UpstreamTLS UpstreamTLS
	// StartupTimeout bounds the time until a client has sent its startup packet. Default 10 s.
	StartupTimeout time.Duration
	// MaxConnections bounds the sessions at a time; the next one gets 53300. Default 1,000.
	MaxConnections int
	// MaxStarting bounds the connections that have not sent their startup packet. Where one more comes, the oldest of them
	// is closed: an honest client takes milliseconds. Default 1,000.
	MaxStarting int
	// StagedRows is how many rows a statement that computes with masked columns may take the codes of, for each mention of a
	// protected table. Default 1,000,000.
	StagedRows int
	// IdleTimeout ends sessions that have sent nothing for so long, outside of transactions, with 57P05, like PostgreSQL's
	// idle_session_timeout. Default 0: never.
	IdleTimeout time.Duration
	// ShutdownTimeout is how long Serve waits at its end for transactions under way. Default 0: not at all.
	ShutdownTimeout time.Duration
	// Loops is the number of event loops that drive plain sessions. Default: one for every two CPUs.
	Loops int
	// Logger defaults to slog.Default().
	Logger *slog.Logger
}

// Metrics counts what a server did. All counters only grow.
type Metrics struct {
	Sessions    atomic.Int64 // connections that reached the upstream
	RowsEncoded atomic.Int64 // rows whose sealed inputs went through a model
	Batches     atomic.Int64 // blocks of rows that were encoded together
	Repeats     atomic.Int64 // times that a staged statement was tried again, since rows had changed
	AuditLost   atomic.Int64 // entries of the audit that there was no room for
}

// Server accepts clients and runs their sessions.
type Server struct {
	upstream string
	catalog  *catalog.Catalog
	library  *udf.Library
	tls      legs
	startup  time.Duration
	idle     time.Duration
	patience time.Duration // for transactions under way when Serve ends
	log      *slog.Logger
	metrics  Metrics
	cancels  cancels
	slots    chan struct{} // one for each session
	// cancelling has one for each cancel request that is on its way.
	cancelling chan struct{}
	starting   starting
	loops      loops
	renewal    renewal
	audit      *auditQueue
	// stagedRows is how many rows one list of codes may have.
	stagedRows int
	// savepoint is a name that no client gives: it would hide the client's own.
	savepoint string
	draining  atomic.Bool // no new sessions, and those that are at rest end

	mu       sync.Mutex
	sessions map[*session]struct{}
	alive    sync.WaitGroup // connections and sessions
}

// errShutdown ends sessions when the server stops.
var errShutdown = errors.New("server is shutting down")

// What PostgreSQL says when it ends a session for these reasons.
var (
	errFarewell = &Error{Code: codeAdminShutdown, Fatal: true, Message: "terminating connection due to administrator command"}
	errIdle     = &Error{Code: codeIdleSessionTimeout, Fatal: true, Message: "terminating connection due to idle-session timeout"}
)

// NewServer checks the configuration.
func NewServer(cfg Config) (*Server, error) {
	if cfg.Upstream == "" || cfg.Catalog == nil || cfg.Library == nil {
		return nil, errors.New("proxy: Upstream, Catalog and Library are required")
	}
	if !strings.HasPrefix(cfg.Upstream, "/") {
		if _, _, err := net.SplitHostPort(cfg.Upstream); err != nil {
			return nil, fmt.Errorf("upstream %q is neither HOST:PORT nor the path of a Unix socket (.../.s.PGSQL.5432)", cfg.Upstream)
		}
	}
	if cfg.MaxConnections < 0 || cfg.MaxStarting < 0 || cfg.StartupTimeout < 0 || cfg.IdleTimeout < 0 || cfg.ShutdownTimeout < 0 || cfg.Loops < 0 || cfg.StagedRows < 0 {
		return nil, errors.New("proxy: limits and timeouts must not be negative")
	}
	cfg.StartupTimeout = cmp.Or(cfg.StartupTimeout, 10*time.Second)
	cfg.MaxConnections = cmp.Or(cfg.MaxConnections, 1000)
	cfg.StagedRows = cmp.Or(cfg.StagedRows, 1_000_000)
	cfg.MaxStarting = cmp.Or(cfg.MaxStarting, 1000)
	cfg.Logger = cmp.Or(cfg.Logger, slog.Default())
	srv := &Server{
		upstream: cfg.Upstream, catalog: cfg.Catalog, library: cfg.Library, startup: cfg.StartupTimeout,
		idle: cfg.IdleTimeout, patience: cfg.ShutdownTimeout, log: cfg.Logger,
		cancels: cancels{sessions: map[cancelKey]*session{}}, slots: make(chan struct{}, cfg.MaxConnections),
		cancelling: make(chan struct{}, maxCancelling),
		starting:   starting{limit: cfg.MaxStarting}, stagedRows: cfg.StagedRows,
		audit:     newAuditQueue(),
		savepoint: "scrim_" + strings.ToLower(rand.Text()),
		loops:     loops{count: cmp.Or(cfg.Loops, max(1, runtime.GOMAXPROCS(0)/2))},
		sessions:  map[*session]struct{}{},
		tls:       legs{clientConfig: cfg.TLS, upstreamConfig: cfg.UpstreamTLS, upstreamAddr: cfg.Upstream},
	}
	if err := srv.tls.load(); err != nil {
		return nil, err
	}
	return srv, nil
}

// Metrics returns the server's counters.
func (srv *Server) Metrics() *Metrics { return &srv.metrics }

// Serve accepts connections until ctx ends. Then it closes the listener, tells sessions that are at rest that they end
// (57P01), lets transactions under way come to their end for the shutdown timeout, tells the rest, and returns nil. It may
// be called once.
func (srv *Server) Serve(ctx context.Context, listener net.Listener) error {
	stop := context.AfterFunc(ctx, func() { _ = listener.Close() })
	defer stop()
	// Sessions outlive ctx.
	serving, end := context.WithCancelCause(context.WithoutCancel(ctx))
	if err := srv.loops.start(serving, srv); err != nil {
		end(nil)
		return err
	}
	writing, wrote := context.WithCancel(context.WithoutCancel(ctx)) // to the end of the last session
	var audited sync.WaitGroup
	audited.Go(func() { srv.keepAudit(writing) })
	err := srv.accept(ctx, serving, listener)
	srv.drain()
	end(errShutdown)
	srv.alive.Wait()
	srv.loops.wait()
	wrote()
	audited.Wait()
	return err
}

// accept takes in connections until ctx ends.
func (srv *Server) accept(ctx, serving context.Context, listener net.Listener) error {
	for {
		conn, err := listener.Accept()
		switch {
		case ctx.Err() != nil:
			if err == nil {
				_ = conn.Close()
			}
			return nil
		case err != nil:
			var temporary interface{ Temporary() bool }
			if !errors.As(err, &temporary) || !temporary.Temporary() { // out of file descriptors, say
				return err
			}
			srv.log.WarnContext(ctx, "accept failed, trying again", "error", err)
			time.Sleep(10 * time.Millisecond)
			continue
		}
		srv.alive.Go(func() { srv.serveConn(serving, conn) })
	}
}

// register puts a session on the books. It comes off them when it has ended.
func (srv *Server) register(s *session) {
	srv.metrics.Sessions.Add(1)
	srv.alive.Add(1)
	srv.mu.Lock()
	defer srv.mu.Unlock()
	srv.sessions[s] = struct{}{}
	s.release = func() {
		srv.mu.Lock()
		delete(srv.sessions, s)
		srv.mu.Unlock()
		<-srv.slots
		srv.alive.Done()
	}
}

// drain ends sessions that are at rest, and waits for the others as long as it may.
func (srv *Server) drain() {
	srv.draining.Store(true)
	srv.starting.closeAll()
	srv.loops.wakeUp()
	for deadline := time.Now().Add(srv.patience); time.Now().Before(deadline); time.Sleep(20 * time.Millisecond) {
		srv.mu.Lock()
		left := len(srv.sessions)
		for s := range srv.sessions {
			s.nudge()
		}
		srv.mu.Unlock()
		if left == 0 {
			return
		}
	}
}

// refresh brings the catalog up to date.
func (srv *Server) refresh(ctx context.Context) error {
	_, err := srv.catalog.Reload(ctx)
	return err
}

// cancelKey is what follows the length and type of a BackendKeyData, or the code of a CancelRequest: process ID and
// secret. Since protocol 3.2 the secret may be up to 256 bytes long.
type cancelKey string

// cancels finds sessions by their cancel keys. The keys are the server's own, so a request for a session of another
// proxy's still reaches the server.
type cancels struct {
	mu       sync.Mutex
	sessions map[cancelKey]*session
}

func (c *cancels) add(s *session, key cancelKey) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.sessions[key] = s
	s.mu.Lock()
	defer s.mu.Unlock()
	s.key = key
}

func (c *cancels) remove(key cancelKey) {
	c.mu.Lock()
	defer c.mu.Unlock()
	delete(c.sessions, key)
}

func (c *cancels) find(key cancelKey) *session {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.sessions[key]
}
