package proxy

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
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
	// Logger defaults to slog.Default().
	Logger *slog.Logger
}

// Metrics counts what a server did. All counters only grow.
type Metrics struct {
	Sessions    atomic.Int64 // connections that reached the upstream
	RowsEncoded atomic.Int64 // rows whose sealed inputs went through a model
	Batches     atomic.Int64 // blocks of rows that were encoded together
}

// Server accepts clients and runs their sessions.
type Server struct {
	upstream string
	catalog  *catalog.Catalog
	library  *udf.Library
	tls      legs
	startup  time.Duration
	log      *slog.Logger
	metrics  Metrics
	cancels  cancels
	slots    chan struct{} // one for each session
}

// errShutdown ends sessions when the server stops.
var errShutdown = errors.New("server is shutting down")

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
	if cfg.MaxConnections < 0 || cfg.StartupTimeout < 0 {
		return nil, errors.New("proxy: MaxConnections and StartupTimeout must not be negative")
	}
	if cfg.StartupTimeout == 0 {
		cfg.StartupTimeout = 10 * time.Second
	}
	if cfg.MaxConnections == 0 {
		cfg.MaxConnections = 1000
	}
	if cfg.Logger == nil {
		cfg.Logger = slog.Default()
	}
	srv := &Server{
		upstream: cfg.Upstream, catalog: cfg.Catalog, library: cfg.Library, startup: cfg.StartupTimeout,
		log: cfg.Logger, cancels: cancels{sessions: map[cancelKey]*session{}}, slots: make(chan struct{}, cfg.MaxConnections),
		tls: legs{clientConfig: cfg.TLS, upstreamConfig: cfg.UpstreamTLS, upstreamAddr: cfg.Upstream},
	}
	if err := srv.tls.load(); err != nil {
		return nil, err
	}
	return srv, nil
}

// Metrics returns the server's counters.
func (srv *Server) Metrics() *Metrics { return &srv.metrics }

// Serve accepts connections until ctx ends, then ends all sessions with 57P01 and returns nil. It closes the listener.
func (srv *Server) Serve(ctx context.Context, listener net.Listener) error {
	stop := context.AfterFunc(ctx, func() { _ = listener.Close() })
	defer stop()
	// Sessions outlive ctx by the moment it takes to tell them why they end.
	serving, end := context.WithCancelCause(context.WithoutCancel(ctx))
	var sessions sync.WaitGroup
	defer sessions.Wait()
	defer end(errShutdown)
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
		sessions.Go(func() {
			defer func() { _ = conn.Close() }()
			if err := srv.serveConn(serving, conn); err != nil {
				srv.log.DebugContext(ctx, "session ended", "client", conn.RemoteAddr(), "reason", err)
			}
		})
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
