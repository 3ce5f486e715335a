//go:build cgo

package main

import (
	"cmp"
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"os/signal"
	"path/filepath"
	"sync"
	"syscall"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/scrimdb/scrim/catalog"
	"github.com/scrimdb/scrim/console"
	"github.com/scrimdb/scrim/native"
	"github.com/scrimdb/scrim/proxy"
	"github.com/scrimdb/scrim/training"
	"github.com/scrimdb/scrim/udf"
)

func runInit(ctx context.Context, args []string, stdout, stderr io.Writer) error {
	fs := newFlagSet("init", stderr)
	dsn := fs.String("catalog", "", "connection string of the database to prepare, as a superuser where possible")
	if err := parse(fs, args, "catalog"); err != nil {
		return err
	}
	conn, err := pgx.Connect(ctx, *dsn)
	if err != nil {
		return fmt.Errorf("connect: %w", err)
	}
	defer func() { _ = conn.Close(context.WithoutCancel(ctx)) }()
	result, err := catalog.Init(ctx, conn)
	if err != nil {
		return err
	}
	fmt.Fprintf(stdout, "Schemas scrim, scrim_runtime and scrim_state are at version %d (were at %d).\n", result.To, result.From)
	if !result.Opaque {
		fmt.Fprintln(stdout, "Sealed values are bytea: run scrim init once as superuser on a new database to give them a type of their own.")
	}
	if result.Restored {
		fmt.Fprintln(stdout, "The database was restored or upgraded: masking policies are bound to it now, and seal with new keys.")
	}
	for _, closed := range result.Closed {
		fmt.Fprintln(stdout, closed)
	}
	rights, err := catalog.Rights(ctx, conn)
	if err != nil {
		return err
	}
	fmt.Fprintln(stdout, "What Scrim's roles may do in this database:")
	for _, r := range rights {
		fmt.Fprintf(stdout, "  %s: %s\n", r.Role, r.May)
	}
	fmt.Fprintln(stdout, "GRANT scrim_admin to the roles that manage encoders and masking policies, scrim_user to those that may list them.")
	return nil
}

func runServe(ctx context.Context, args []string, stderr io.Writer) error {
	fs := newFlagSet("serve", stderr)
	upstream := fs.String("upstream", "", "HOST:PORT of the PostgreSQL server, or the path of its Unix socket")
	dsn := fs.String("catalog", "", "connection string of the role that ran scrim init")
	listen := fs.String("listen", "127.0.0.1:6432", "address to accept clients at")
	models := fs.String("models", "models", "folder of model files, made if it is not there; all proxies of a database share it")
	consoleAddr := fs.String("console", "", "address of the web page, 127.0.0.1:6480 for example; one that is not loopback takes --tls-cert, and HTTPS")
	cfg := proxy.Config{}
	limitFlags(fs, &cfg)
	tlsFlags(fs, &cfg)
	level := slog.LevelInfo
	fs.TextVar(&level, "log-level", slog.LevelInfo, "debug, info, warn or error")
	if err := parse(fs, args, "upstream", "catalog"); err != nil {
		return err
	}
	cfg.Upstream = *upstream
	cfg.Logger = slog.New(slog.NewTextHandler(stderr, &slog.HandlerOptions{Level: level}))
	listener, err := net.Listen("tcp", *listen)
	if err != nil {
		return err
	}
	defer func() { _ = listener.Close() }()
	s, err := openService(ctx, cfg, *dsn, *models, stderr)
	if err != nil {
		return err
	}
	defer s.close()
	if *consoleAddr != "" {
		web, err := net.Listen("tcp", *consoleAddr)
		if err != nil {
			return fmt.Errorf("console: %w", err)
		}
		defer func() { _ = web.Close() }()
		if err := s.openConsole(web); err != nil {
			return err
		}
		cfg.Logger.InfoContext(ctx, "console", "url", s.console.URL())
	}
	defer s.reloadOnHangup(ctx, cfg.Logger)()
	cfg.Logger.InfoContext(ctx, "serving", "listen", listener.Addr(), "upstream", *upstream, "database", s.catalog.Database(), "models", *models)
	err = s.serve(ctx, listener)
	cfg.Logger.InfoContext(ctx, "stopped")
	return err
}

// tlsFlags are those of both legs. Those of the upstream leg have libpq's names.
func tlsFlags(fs *flag.FlagSet, cfg *proxy.Config) {
	client, upstream := &cfg.TLS, &cfg.UpstreamTLS
	fs.StringVar(&client.CertFile, "tls-cert", "", "certificate to offer TLS to clients with; SIGHUP reads all TLS files again")
	fs.StringVar(&client.KeyFile, "tls-key", "", "private key of the certificate")
	fs.StringVar(&client.CAFile, "tls-ca", "", "authorities whose client certificates are valid")
	fs.StringVar(&client.ClientCert, "tls-clientcert", "", "as clientcert in pg_hba.conf: verify-ca, or verify-full for one with the role as common name")
	fs.BoolVar(&client.Required, "tls-required", false, "refuse clients without TLS")
	fs.StringVar(&upstream.SSLMode, "upstream-sslmode", "", "TLS to the server: disable, prefer, require, verify-ca or verify-full (default prefer)")
	fs.StringVar(&upstream.SSLRootCert, "upstream-sslrootcert", "", "authorities whose server certificates are valid, or system")
	fs.StringVar(&upstream.SSLCert, "upstream-sslcert", "", "certificate to show to the server")
	fs.StringVar(&upstream.SSLKey, "upstream-sslkey", "", "private key of that certificate")
	fs.StringVar(&upstream.SSLNegotiation, "upstream-sslnegotiation", "", "postgres, or direct for servers from 17 on (default postgres)")
	fs.StringVar(&upstream.SSLSNI, "upstream-sslsni", "", "0 not to name the server in the TLS handshake (default 1)")
}

// limitFlags defines what bounds the proxy. The defaults are named here for --help; zero stands for them in cfg.
func limitFlags(fs *flag.FlagSet, cfg *proxy.Config) {
	fs.IntVar(&cfg.MaxConnections, "max-connections", 1000, "sessions at a time; one more gets SQLSTATE 53300")
	fs.IntVar(&cfg.MaxStarting, "max-starting", 1000, "connections that have not sent their startup packet; one more closes the oldest")
	fs.DurationVar(&cfg.StartupTimeout, "startup-timeout", 10*time.Second, "how long a client may take to send its startup packet")
	fs.DurationVar(&cfg.IdleTimeout, "idle-timeout", 0, "ends sessions that send nothing for so long outside of transactions (57P05); 0 for never")
	fs.DurationVar(&cfg.ShutdownTimeout, "shutdown-timeout", 30*time.Second, "how long transactions under way may take to end on SIGINT or SIGTERM; a second signal ends them at once")
	fs.IntVar(&cfg.StagedRows, "max-staged-rows", 1_000_000, "rows whose codes a statement that computes with masked columns may need, for each mention of a table (54000)")
	fs.IntVar(&cfg.Loops, "event-loops", 0, "threads that relay; 0 for one for every two CPUs")
}

// runWorker trains only: a machine for that, beside proxies that have workers of their own.
func runWorker(ctx context.Context, args []string, stderr io.Writer) error {
	fs := newFlagSet("worker", stderr)
	dsn := fs.String("catalog", "", "connection string of the role that ran scrim init")
	models := fs.String("models", "models", "folder of model files, made if it is not there; the proxies of the database share it")
	level := slog.LevelInfo
	fs.TextVar(&level, "log-level", slog.LevelInfo, "debug, info, warn or error")
	if err := parse(fs, args, "catalog"); err != nil {
		return err
	}
	log := slog.New(slog.NewTextHandler(stderr, &slog.HandlerOptions{Level: level}))
	library, err := openLibrary(ctx, *models, stderr)
	if err != nil {
		return err
	}
	defer func() { _ = library.Runtime().Close() }()
	known, err := catalog.Open(ctx, catalog.Config{DSN: *dsn, Logger: log}) // says what is wrong with the database, if anything is
	if err != nil {
		return err
	}
	database := known.Database()
	known.Close()
	worker, err := training.Open(ctx, training.Config{DSN: *dsn, Library: library, Logger: log})
	if err != nil {
		return err
	}
	log.InfoContext(ctx, "training what is asked for", "database", database, "models", *models)
	if err := worker.Run(ctx); err != nil && ctx.Err() == nil {
		return err
	}
	log.InfoContext(ctx, "stopped")
	return nil
}

// openLibrary opens ONNX Runtime, which is fetched if need be, and the folder of models.
func openLibrary(ctx context.Context, models string, progress io.Writer) (*udf.Library, error) {
	file, err := native.ONNXRuntime(ctx, native.Config{Progress: progress})
	if err != nil {
		return nil, err
	}
	folder, err := filepath.Abs(models)
	if err != nil {
		return nil, err
	}
	store, err := udf.NewStore(folder)
	if err != nil {
		return nil, err
	}
	rt, err := udf.NewRuntime(file)
	if err != nil {
		return nil, err
	}
	return udf.NewLibrary(rt, store), nil
}

// service is what `serve` and `demo` share: catalog, models, proxy and worker wired together.
type service struct {
	catalog *catalog.Catalog
	library *udf.Library
	proxy   *proxy.Server
	worker  *training.Worker
	console *console.Server // nil for none
	log     *slog.Logger
}

// openService opens everything that cfg lacks. The catalog must have been initialised.
func openService(ctx context.Context, cfg proxy.Config, dsn, models string, progress io.Writer) (*service, error) {
	library, err := openLibrary(ctx, models, progress)
	if err != nil {
		return nil, err
	}
	s := &service{library: library, log: cmp.Or(cfg.Logger, slog.Default())}
	cfg.Library = library
	prepare := func(ctx context.Context, snapshot *catalog.Snapshot) {
		if err := cfg.Library.Prepare(ctx, proxy.Encoders(snapshot)); err != nil {
			s.log.WarnContext(ctx, "not all encoders are loaded, statements will try again", "error", err)
		}
	}
	retain := func(snapshot *catalog.Snapshot) { cfg.Library.Retain(proxy.Encoders(snapshot)) }
	if s.catalog, err = catalog.Open(ctx, catalog.Config{DSN: dsn, Logger: cfg.Logger, Prepare: prepare, Loaded: retain}); err != nil {
		return nil, errors.Join(err, library.Runtime().Close())
	}
	cfg.Catalog = s.catalog
	if s.proxy, err = proxy.NewServer(cfg); err == nil {
		s.worker, err = training.Open(ctx, training.Config{DSN: dsn, Library: library, Logger: cfg.Logger})
	}
	if err != nil {
		s.close()
		return nil, err
	}
	return s, nil
}

// openConsole adds the console. It must be called before serve.
func (s *service) openConsole(listener net.Listener) (err error) {
	s.console, err = console.New(console.Config{Listener: listener, Catalog: s.catalog, Proxy: s.proxy, Logger: s.log})
	return err
}

// serve runs until ctx ends. The catalog is followed a little longer: sessions may end their transactions.
func (s *service) serve(ctx context.Context, listener net.Listener) error {
	following, stop := context.WithCancel(context.WithoutCancel(ctx))
	var followed sync.WaitGroup
	followed.Go(func() { _ = s.catalog.Run(following) }) // ends with its context only
	followed.Go(func() { _ = s.worker.Run(ctx) })
	if s.console != nil {
		followed.Go(func() {
			if err := s.console.Serve(ctx); err != nil {
				s.log.ErrorContext(ctx, "the console has stopped", "error", err)
			}
		})
	}
	err := s.proxy.Serve(ctx, listener)
	stop()
	followed.Wait()
	return err
}

// reloadOnHangup reads the TLS files again at each SIGHUP, as PostgreSQL does, until the function that it returns is called.
func (s *service) reloadOnHangup(ctx context.Context, log *slog.Logger) (stop func()) {
	hangup := make(chan os.Signal, 1)
	signal.Notify(hangup, syscall.SIGHUP)
	done := make(chan struct{})
	go func() {
		defer close(done)
		for range hangup {
			if err := s.proxy.ReloadTLS(ctx); err != nil {
				log.ErrorContext(ctx, "TLS files cannot be read, those read before stay in use", "error", err)
			}
		}
	}()
	return func() {
		signal.Stop(hangup)
		close(hangup)
		<-done
	}
}

func (s *service) close() {
	s.catalog.Close()
	if err := s.library.Runtime().Close(); err != nil {
		fmt.Fprintln(os.Stderr, "scrim:", err)
	}
}
