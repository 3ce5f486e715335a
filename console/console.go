package console

import (
	"cmp"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"strings"
	"sync/atomic"
	"time"

	"github.com/scrimdb/scrim/catalog"
	"github.com/scrimdb/scrim/proxy"
)

// Config of a Server. All but Logger is required.
type Config struct {
	// Listener decides between HTTP and HTTPS: HTTP is for loopback addresses only.
	Listener net.Listener
	Catalog  *catalog.Catalog
	// Proxy has the way to the upstream server, and the certificate.
	Proxy *proxy.Server
	// Logger defaults to slog.Default().
	Logger *slog.Logger
}

// Server answers browsers.
type Server struct {
	listener net.Listener
	catalog  *catalog.Catalog
	log      *slog.Logger
	door     *door
	tls      *tls.Config // nil on a loopback address
}

const (
	// maxConnections and maxHeader bound what people without a login can make us hold.
	maxConnections = 100
	maxHeader      = 16 << 10
	// requestTime is how long a page may take, the login included.
	requestTime = 20 * time.Second
)

// New refuses an address that is not loopback without a certificate.
func New(cfg Config) (*Server, error) {
	if cfg.Listener == nil || cfg.Catalog == nil || cfg.Proxy == nil {
		return nil, errors.New("console: Listener, Catalog and Proxy are required")
	}
	s := &Server{listener: cfg.Listener, catalog: cfg.Catalog, log: cmp.Or(cfg.Logger, slog.Default())}
	var err error
	if s.door, err = newDoor(cfg.Proxy, cfg.Catalog.Database(), s.log); err != nil {
		return nil, err
	}
	if addr, ok := cfg.Listener.Addr().(*net.TCPAddr); !ok || !addr.IP.IsLoopback() {
		if s.tls, err = cfg.Proxy.HTTPS(); err != nil {
			return nil, fmt.Errorf("the console's address %s is not a loopback address, so it takes passwords by HTTPS only: %w", cfg.Listener.Addr(), err)
		}
	}
	return s, nil
}

// URL is where the console is.
func (s *Server) URL() string {
	scheme := "http"
	if s.tls != nil {
		scheme = "https"
	}
	return scheme + "://" + s.listener.Addr().String() + "/"
}

// Serve answers until ctx ends. Then it closes the listener, lets answers under way come to their end, and returns nil. It may be called once.
func (s *Server) Serve(ctx context.Context) error {
	var open atomic.Int64
	web := &http.Server{
		Handler: s.guard(s.routes()), MaxHeaderBytes: maxHeader, TLSConfig: s.tls,
		ReadHeaderTimeout: 5 * time.Second, ReadTimeout: 10 * time.Second, WriteTimeout: requestTime + 10*time.Second, IdleTimeout: time.Minute,
		ErrorLog:  slog.NewLogLogger(s.log.Handler(), slog.LevelDebug), // handshakes that strangers break off
		Protocols: new(http.Protocols),
		ConnState: func(conn net.Conn, state http.ConnState) {
			switch {
			case state == http.StateClosed:
				open.Add(-1)
			case state == http.StateNew && open.Add(1) > maxConnections:
				_ = conn.Close()
			}
		},
	}
	web.Protocols.SetHTTP1(true)
	down := make(chan struct{})
	stop := context.AfterFunc(ctx, func() {
		defer close(down)
		patience, cancel := context.WithTimeout(context.WithoutCancel(ctx), requestTime)
		defer cancel()
		if web.Shutdown(patience) != nil {
			_ = web.Close()
		}
	})
	var err error
	if s.tls != nil {
		err = web.ServeTLS(s.listener, "", "")
	} else {
		err = web.Serve(s.listener)
	}
	if !stop() {
		<-down
		return nil
	}
	return err
}

func (s *Server) routes() http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /{$}", s.overview)
	mux.HandleFunc("GET /encoders/{name}", s.encoder)
	mux.HandleFunc("GET /healthz", s.healthz)
	mux.HandleFunc("GET /style.css", styleSheet)
	return mux
}

// guard is before every page: what browsers may do with it, and whether they are where they think they are.
func (s *Server) guard(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		h := w.Header()
		h.Set("Content-Security-Policy", "default-src 'none'; style-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'")
		h.Set("X-Content-Type-Options", "nosniff")
		h.Set("Referrer-Policy", "no-referrer")
		h.Set("Cross-Origin-Resource-Policy", "same-origin")
		h.Set("Cache-Control", "no-store")
		if s.tls == nil && !isLoopbackName(r.Host) {
			http.Error(w, "This console is called localhost.", http.StatusMisdirectedRequest)
			return
		}
		ctx, cancel := context.WithTimeout(r.Context(), requestTime)
		defer cancel()
		next.ServeHTTP(w, r.WithContext(ctx))
	})
}

// isLoopbackName tells whether a Host header is one that only somebody on this machine, or with a tunnel to it, has use for.
func isLoopbackName(host string) bool {
	if name, _, err := net.SplitHostPort(host); err == nil {
		host = name
	}
	addr, err := netip.ParseAddr(strings.Trim(host, "[]"))
	return strings.EqualFold(host, "localhost") || err == nil && addr.IsLoopback()
}

// healthz is for load balancers: whether masked statements are answered.
func (s *Server) healthz(w http.ResponseWriter, _ *http.Request) {
	w.Header().Set("Content-Type", "text/plain; charset=utf-8")
	word := "ok"
	if !s.catalog.Fresh() {
		word = "stale" // the catalog's server has not answered for its lease
		w.WriteHeader(http.StatusServiceUnavailable)
	}
	_, _ = fmt.Fprintln(w, word)
}
