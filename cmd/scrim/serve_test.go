//go:build cgo

package main

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"math/big"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/scrimdb/scrim/catalog"
	"github.com/scrimdb/scrim/native"
)

// serverLog is what `scrim serve` writes.
type serverLog struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (l *serverLog) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

func (l *serverLog) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}

// TestServeReloads runs `scrim serve` and renews its certificate by SIGHUP, as an operator would: with a good one, then
// with a bad one.
func TestServeReloads(t *testing.T) {
	ctx, stop := context.WithCancel(context.Background())
	defer stop()
	dir := t.TempDir()
	cert, key := filepath.Join(dir, "proxy.crt"), filepath.Join(dir, "proxy.key")
	writeCertificate(t, cert, key, "first")
	upstream, dsn := initialised(t)
	log, ended := &serverLog{}, make(chan error, 1)
	go func() {
		ended <- run(ctx, []string{
			"serve", "--upstream", upstream, "--catalog", dsn, "--listen", "127.0.0.1:0", "--models", filepath.Join(dir, "models"), "--tls-cert", cert, "--tls-key", key,
			"--upstream-sslmode", "prefer", "--console", "127.0.0.1:0",
		}, log, log)
	}()
	listening := regexp.MustCompile(`msg=serving listen=(\S+)`)
	await(t, log, "it serves", func() bool { return listening.MatchString(log.String()) })
	addr := listening.FindStringSubmatch(log.String())[1]
	if got := offered(t, addr); got != "first" {
		t.Fatalf("the certificate is %s", got)
	}
	health, err := http.Get(regexp.MustCompile(`msg=console url=(\S+)`).FindStringSubmatch(log.String())[1] + "healthz")
	if err != nil {
		t.Fatal(err)
	}
	_ = health.Body.Close()
	if health.StatusCode != http.StatusOK {
		t.Errorf("healthz: %s", health.Status)
	}
	http.DefaultClient.CloseIdleConnections()
	writeCertificate(t, cert, key, "second")
	hangUp(t)
	await(t, log, "the certificate is renewed", func() bool { return offered(t, addr) == "second" })
	if err := os.WriteFile(cert, []byte("nonsense"), 0o600); err != nil {
		t.Fatal(err)
	}
	hangUp(t)
	await(t, log, "it complains", func() bool { return strings.Contains(log.String(), "those read before stay in use") })
	if got := offered(t, addr); got != "second" {
		t.Errorf("after a bad reload the certificate is %s", got)
	}
	stop()
	if err := <-ended; err != nil {
		t.Error(err)
	}
}

// TestServeRefusesTLS: settings that could be misread end the start.
func TestServeRefusesTLS(t *testing.T) {
	upstream, dsn := initialised(t)
	for _, c := range []struct{ flags, want string }{
		{"--tls-cert x", "a certificate and its private key go together"},
		{"--tls-required", "need a certificate and private key"},
		{"--tls-cert x --tls-key y --tls-clientcert verify-full", "client certificates can only be checked"},
		{"--tls-cert x --tls-key y --tls-ca z --tls-clientcert full", "clientcert is verify-ca or verify-full"},
		{"--tls-cert x --tls-key y", "no such file"},
		{"--upstream-sslmode allow", "sslmode allow is not supported"},
		{"--upstream-sslmode secure", "sslmode is disable, prefer"},
		{"--upstream-sslmode verify-full", "needs sslrootcert"},
		{"--upstream-sslmode require --upstream-sslrootcert system", "weak sslmode"},
		{"--upstream-sslmode prefer --upstream-sslnegotiation direct", "weak sslmode"},
		{"--upstream-sslnegotiation fast", "sslnegotiation is postgres or direct"},
		{"--upstream-sslmode require --upstream-sslcert x", "sslkey"},
		{"--upstream-sslmode verify-ca --upstream-sslrootcert /nowhere", "unable to read CA file"},
		{"--console 0.0.0.0:0", "not a loopback address, so it takes passwords by HTTPS only: it needs the proxy's certificate"},
		{"--console 127.0.0.1", "console: "},
	} {
		log := &serverLog{}
		args := append([]string{"serve", "--upstream", upstream, "--catalog", dsn, "--listen", "127.0.0.1:0", "--models", t.TempDir()}, strings.Fields(c.flags)...)
		if err := run(t.Context(), args, log, log); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: %v", c.flags, err)
		}
	}
}

// initialised returns the address of a server, and the catalog's DSN on it.
func initialised(t *testing.T) (addr, dsn string) {
	t.Helper()
	binaries, err := native.Postgres(t.Context(), native.Config{})
	if err != nil {
		t.Fatal(err)
	}
	server, err := native.StartServer(t.Context(), native.ServerConfig{Binaries: binaries, Settings: map[string]string{"fsync": "off"}})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = server.Stop(context.Background()) })
	dsn = server.DSN(server.Superuser(), server.Password(), "postgres")
	conn, err := pgx.Connect(t.Context(), dsn)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = conn.Close(t.Context()) }()
	if _, err := catalog.Init(t.Context(), conn); err != nil {
		t.Fatal(err)
	}
	return server.Addr(), dsn
}

func hangUp(t *testing.T) {
	t.Helper()
	if err := syscall.Kill(os.Getpid(), syscall.SIGHUP); err != nil {
		t.Fatal(err)
	}
}

func await(t *testing.T, log *serverLog, what string, is func() bool) {
	t.Helper()
	for deadline := time.Now().Add(time.Minute); !is(); time.Sleep(20 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("it did not come about that %s:\n%s", what, log)
		}
	}
}

// offered is the common name of the certificate that a proxy shows.
func offered(t *testing.T, addr string) string {
	t.Helper()
	conn, err := tls.DialWithDialer(&net.Dialer{Timeout: 10 * time.Second}, "tcp", addr, &tls.Config{InsecureSkipVerify: true, NextProtos: []string{"postgresql"}}) // the test looks at the certificate
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = conn.Close() }()
	return conn.ConnectionState().PeerCertificates[0].Subject.CommonName
}

func writeCertificate(t *testing.T, certFile, keyFile, name string) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	self := &x509.Certificate{SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: name}, NotAfter: time.Now().Add(time.Hour)}
	der, err := x509.CreateCertificate(rand.Reader, self, self, &key.PublicKey, key)
	if err != nil {
		t.Fatal(err)
	}
	pkcs8, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	for file, block := range map[string]*pem.Block{certFile: {Type: "CERTIFICATE", Bytes: der}, keyFile: {Type: "PRIVATE KEY", Bytes: pkcs8}} {
		if err := os.WriteFile(file, pem.EncodeToMemory(block), 0o600); err != nil {
			t.Fatal(err)
		}
	}
}

// TestWorker runs `scrim worker`, which does what is asked for in SQL around any proxy.
func TestWorker(t *testing.T) {
	ctx, stop := context.WithCancel(context.Background())
	defer stop()
	_, dsn := initialised(t)
	models := filepath.Join(t.TempDir(), "models")
	log, ended := &serverLog{}, make(chan error, 1)
	go func() { ended <- run(ctx, []string{"worker", "--catalog", dsn, "--models", models}, log, log) }()
	conn, err := pgx.Connect(ctx, dsn)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = conn.Close(context.Background()) }()
	if _, err := conn.Exec(ctx, `CREATE TABLE numbers AS SELECT i::float8 AS a, sin(i) AS b FROM generate_series(1, 1000) i`); err != nil {
		t.Fatal(err)
	}
	if _, err := conn.Exec(ctx, `SELECT scrim.train_encoder('numbers', 'numbers', '{a,b}', latent_dims => 2, epochs => 3)`); err != nil {
		t.Fatal(err)
	}
	await(t, log, "the job is done", func() bool {
		var state string
		return conn.QueryRow(ctx, `SELECT state FROM scrim.training_jobs`).Scan(&state) == nil && state == "completed"
	})
	if files, err := filepath.Glob(filepath.Join(models, "numbers", "numbers_v1-*.onnx")); err != nil || len(files) != 1 {
		t.Errorf("files: %v %v", files, err)
	}
	stop()
	if err := <-ended; err != nil {
		t.Error(err)
	}
	at := strings.LastIndex(dsn, "/postgres")
	elsewhere := dsn[:at] + "/template1" + dsn[at+len("/postgres"):]
	for _, c := range []struct{ args, want string }{
		{"--models " + models, "--catalog is required"}, {"--models " + models + " --catalog " + elsewhere, "this database has no scrim schemas"},
	} {
		if err := run(t.Context(), append([]string{"worker"}, strings.Fields(c.args)...), log, log); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("worker %s: %v", c.args, err)
		}
	}
}
