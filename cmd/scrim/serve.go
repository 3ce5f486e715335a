//go:build cgo

package main

import (
	"context"
	"crypto/tls"
	"errors"
	"flag"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"sync"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/scrimdb/scrim/catalog"
	"github.com/scrimdb/scrim/native"
	"github.com/scrimdb/scrim/proxy"
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
	fmt.Fprintln(stdout, "GRANT scrim_admin to the roles that manage encoders and masking policies, scrim_user to those that may list them.")
	return nil
}

func runServe(ctx context.Context, args []string, stderr io.Writer) error {
	fs := newFlagSet("serve", stderr)
	upstream := fs.String("upstream", "", "HOST:PORT of the PostgreSQL server, or the path of its Unix socket")
	dsn := fs.String("catalog", "", "connection string of the role that ran scrim init")
	listen := fs.String("listen", "127.0.0.1:6432", "address to accept clients at")
	models := fs.String("models", "models", "folder of model files, made if it is not there; all proxies of a database share it")
	cfg := proxy.Config{}
	limitFlags(fs, &cfg)
	cert := fs.String("tls-cert", "", "certificate to offer TLS to clients with")
	key := fs.String("tls-key", "", "private key of the certificate")
	level := slog.LevelInfo
	fs.TextVar(&level, "log-level", slog.LevelInfo, "debug, info, warn or error")
	if err := parse(fs, args, "upstream", "catalog"); err != nil {
		return err
	}
	cfg.Upstream = *upstream
	cfg.Logger = slog.New(slog.NewTextHandler(stderr, &slog.HandlerOptions{Level: level}))
	if (*cert == "") != (*key == "") {
		return errors.New("serve: --tls-cert and --tls-key go together")
	}
	if *cert != "" {
		pair, err := tls.LoadX509KeyPair(*cert, *key)
		if err != nil {
			return fmt.Errorf("TLS: %w", err)
		}
		cfg.TLS = &tls.Config{Certificates: []tls.Certificate{pair}, MinVersion: tls.VersionTLS12}
	}
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
	cfg.Logger.InfoContext(ctx, "serving", "listen", listener.Addr(), "upstream", *upstream, "database", s.catalog.Database(), "models", *models)
	err = s.serve(ctx, listener)
	cfg.Logger.InfoContext(ctx, "stopped")
	return err
}

// limitFlags defines what bounds the proxy. The defaults are named here for --help; zero stands for them in cfg.
func limitFlags(fs *flag.FlagSet, cfg *proxy.Config) {
	fs.IntVar(&cfg.MaxConnections, "max-connections", 1000, "sessions at a time; one more gets SQLSTATE 53300")
	fs.IntVar(&cfg.MaxStarting, "max-starting", 1000, "connections that have not sent their startup packet; one more closes the oldest")
	fs.DurationVar(&cfg.StartupTimeout, "startup-timeout", 10*time.Second, "how long a client may take to send its startup packet")
	fs.DurationVar(&cfg.IdleTimeout, "idle-timeout", 0, "ends sessions that send nothing for so long outside of transactions (57P05); 0 for never")
	fs.DurationVar(&cfg.ShutdownTimeout, "shutdown-timeout", 30*time.Second, "how long transactions under way may take to end on SIGINT or SIGTERM; a second signal ends them at once")
	fs.IntVar(&cfg.Loops, "event-loops", 0, "threads that relay; 0 for one for every two CPUs")
}

// service is what `serve` and `demo` share: catalog, models and proxy wired together.
type service struct {
	catalog *catalog.Catalog
	runtime *udf.Runtime
	proxy   *proxy.Server
}

// openService opens everything that cfg lacks. The catalog must have been initialised.
func openService(ctx context.Context, cfg proxy.Config, dsn, models string, progress io.Writer) (*service, error) {
	library, err := native.ONNXRuntime(ctx, native.Config{Progress: progress})
	if err != nil {
		return nil, err
	}
	s := &service{}
	if s.runtime, err = udf.NewRuntime(library); err != nil {
		return nil, err
	}
	folder, err := filepath.Abs(models)
	if err != nil {
		return nil, errors.Join(err, s.runtime.Close())
	}
	store, err := udf.NewStore(folder)
	if err != nil {
		return nil, errors.Join(err, s.runtime.Close())
	}
	cfg.Library = udf.NewLibrary(s.runtime, store)
	forget := func(snapshot *catalog.Snapshot) {
		var used []udf.EncoderSpec
		for _, p := range snapshot.Policies {
			used = append(used, udf.EncoderSpec{Name: p.Encoder.Name, Version: p.Encoder.Version, SHA256: p.Encoder.SHA256})
		}
		cfg.Library.Retain(used)
	}
	if s.catalog, err = catalog.Open(ctx, catalog.Config{DSN: dsn, Logger: cfg.Logger, Loaded: forget}); err != nil {
		return nil, errors.Join(err, s.runtime.Close())
	}
	cfg.Catalog = s.catalog
	if s.proxy, err = proxy.NewServer(cfg); err != nil {
		s.close()
		return nil, err
	}
	return s, nil
}

// serve runs until ctx ends. The catalog is followed a little longer: sessions may end their transactions.
func (s *service) serve(ctx context.Context, listener net.Listener) error {
	following, stop := context.WithCancel(context.WithoutCancel(ctx))
	var followed sync.WaitGroup
	followed.Go(func() { _ = s.catalog.Run(following) }) // ends with its context only
	err := s.proxy.Serve(ctx, listener)
	stop()
	followed.Wait()
	return err
}

func (s *service) close() {
	s.catalog.Close()
	if err := s.runtime.Close(); err != nil {
		fmt.Fprintln(os.Stderr, "scrim:", err)
	}
}
