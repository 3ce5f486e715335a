package integration_test

import (
	"context"
	"crypto/ed25519"
	"crypto/rand"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"encoding/base64"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5/pgproto3"

	"github.com/scrimdb/scrim/proxy"
)

const sslRequest = "\x00\x00\x00\x08\x04\xd2\x16\x2f"

func dialRaw(t *testing.T, addr string) net.Conn {
	t.Helper()
	conn, err := net.Dial("tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close() })
	_ = conn.SetDeadline(time.Now().Add(20 * time.Second))
	return conn
}

func send(t *testing.T, conn net.Conn, b string) {
	t.Helper()
	if _, err := conn.Write([]byte(b)); err != nil {
		t.Fatal(err)
	}
}

func readByte(t *testing.T, conn net.Conn) byte {
	t.Helper()
	b := make([]byte, 1)
	if _, err := io.ReadFull(conn, b); err != nil {
		t.Fatal(err)
	}
	return b[0]
}

// secured makes the TLS handshake after an SSLRequest.
func secured(t *testing.T, conn net.Conn) *tls.Conn {
	t.Helper()
	send(t, conn, sslRequest)
	if answer := readByte(t, conn); answer != 'S' {
		t.Fatalf("SSLRequest is answered with %c", answer)
	}
	over := tls.Client(conn, &tls.Config{InsecureSkipVerify: true}) // the test looks at the certificate
	if err := over.Handshake(); err != nil {
		t.Fatal(err)
	}
	return over
}

// login sends a startup packet over TLS, and reads the SASL mechanisms.
func login(t *testing.T, addr, role string) (*tls.Conn, *pgproto3.Frontend) {
	t.Helper()
	conn := secured(t, dialRaw(t, addr))
	f := pgproto3.NewFrontend(conn, conn)
	f.Send(&pgproto3.StartupMessage{ProtocolVersion: pgproto3.ProtocolVersion30, Parameters: map[string]string{"user": role, "database": "app"}})
	if err := f.Flush(); err != nil {
		t.Fatal(err)
	}
	if got := receive(t, f); got != "SASL [SCRAM-SHA-256-PLUS SCRAM-SHA-256]" {
		t.Fatal(got)
	}
	return conn, f
}

// receive returns the next message in words.
func receive(t *testing.T, f *pgproto3.Frontend) string {
	t.Helper()
	msg, err := f.Receive()
	if err != nil {
		return err.Error()
	}
	switch msg := msg.(type) {
	case *pgproto3.ErrorResponse:
		return fmt.Sprintf("%s %s: %s", msg.Severity, msg.Code, msg.Message)
	case *pgproto3.AuthenticationSASL:
		return fmt.Sprint("SASL ", msg.AuthMechanisms)
	case *pgproto3.AuthenticationSASLContinue:
		return string(msg.Data)
	}
	return fmt.Sprintf("%T", msg)
}

// firstAnswer is the answer to a client-first-message.
func (s *secure) firstAnswer(t *testing.T, addr, mechanism, first string) string {
	t.Helper()
	_, f := login(t, addr, "scrammer")
	f.Send(&pgproto3.SASLInitialResponse{AuthMechanism: mechanism, Data: []byte(first)})
	if err := f.Flush(); err != nil {
		t.Fatal(err)
	}
	return receive(t, f)
}

// finalAnswer is the answer to a client-final-message, in which NONCE and BINDING are put in.
func (s *secure) finalAnswer(t *testing.T, addr, final string) string {
	t.Helper()
	const gs2 = "p=tls-server-end-point,,"
	conn, f := login(t, addr, "scrammer")
	f.Send(&pgproto3.SASLInitialResponse{AuthMechanism: "SCRAM-SHA-256-PLUS", Data: []byte(gs2 + "n=,r=abc")})
	if err := f.Flush(); err != nil {
		t.Fatal(err)
	}
	nonce, ok := strings.CutPrefix(strings.Split(receive(t, f), ",")[0], "r=")
	if !ok || !strings.HasPrefix(nonce, "abc") || len(nonce) != 3+24 { // as long as PostgreSQL's
		t.Fatalf("nonce %q", nonce)
	}
	hash := sha256.Sum256(conn.ConnectionState().PeerCertificates[0].Raw)
	binding := base64.StdEncoding.EncodeToString(append([]byte(gs2), hash[:]...))
	f.Send(&pgproto3.SASLResponse{Data: []byte(strings.NewReplacer("NONCE", nonce, "BINDING", binding).Replace(final))})
	if err := f.Flush(); err != nil {
		t.Fatal(err)
	}
	return receive(t, f)
}

// testInjection: what comes in plain text behind an SSLRequest is not taken for something that came by TLS
// (CVE-2021-23214).
func (s *secure) testInjection(t *testing.T) {
	p := s.open(t, proxy.Config{TLS: s.withTLS(t)}, "")
	startup, err := (&pgproto3.StartupMessage{ProtocolVersion: pgproto3.ProtocolVersion30, Parameters: map[string]string{"user": "trusting", "database": "app"}}).Encode(nil)
	if err != nil {
		t.Fatal(err)
	}
	for _, split := range []bool{false, true} {
		conn := dialRaw(t, p.addr)
		if split {
			send(t, conn, sslRequest)
			time.Sleep(50 * time.Millisecond)
			send(t, conn, string(startup))
		} else {
			send(t, conn, sslRequest+string(startup))
		}
		if answer := readByte(t, conn); answer != 'S' {
			t.Fatalf("SSLRequest is answered with %c", answer)
		}
		over := tls.Client(conn, &tls.Config{InsecureSkipVerify: true}) // nothing is believed
		if err := over.Handshake(); err == nil {
			t.Error("the handshake went on behind plain text")
		}
	}
	eventually(t, func() bool { return strings.Contains(p.log.String(), "received unencrypted data after SSL request") })
}

// testDirectTLS: TLS without an SSLRequest, with ALPN only.
func (s *secure) testDirectTLS(t *testing.T) {
	negotiation := "postgres"
	if s.major >= 17 {
		negotiation = "direct"
	}
	p := s.open(t, proxy.Config{TLS: s.withTLS(t), UpstreamTLS: proxy.UpstreamTLS{SSLMode: "require", SSLNegotiation: negotiation}}, "")
	if got := attempt(t, s.dsn(p.addr, "scrammer", "secret", s.trusts("sslnegotiation=direct", "channel_binding=require")...)); got != "scrammer\n" {
		t.Error(got)
	}
	for _, protocols := range [][]string{nil, {"http/1.1"}} {
		conn, err := tls.Dial("tcp", p.addr, &tls.Config{InsecureSkipVerify: true, NextProtos: protocols}) // nothing is believed
		if err != nil {
			continue // no protocol in common
		}
		_ = conn.SetDeadline(time.Now().Add(20 * time.Second))
		if protocols != nil {
			t.Errorf("%v was agreed to", protocols)
		}
		if n, err := conn.Read(make([]byte, 1)); n > 0 || errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("without ALPN: %d bytes, %v", n, err)
		}
		_ = conn.Close()
	}
	eventually(t, func() bool { return strings.Contains(p.log.String(), "without ALPN protocol negotiation extension") })

	over, err := tls.Dial("tcp", p.addr, &tls.Config{InsecureSkipVerify: true, NextProtos: []string{"postgresql"}}) // nothing is believed
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = over.Close() }()
	send(t, over, sslRequest) // no TLS in TLS
	if answer := readByte(t, over); answer != 'N' {
		t.Errorf("SSLRequest in TLS is answered with %c", answer)
	}
	plain := s.open(t, proxy.Config{}, "")
	if got := attempt(t, s.dsn(plain.addr, "scrammer", "secret", s.trusts("sslnegotiation=direct")...)); !strings.Contains(got, "failed to connect") {
		t.Errorf("a proxy without a certificate: %s", got)
	}
}

// tap passes connections on, and keeps what clients said.
type tap struct {
	addr string
	said *lockedBuffer
}

func newTap(t *testing.T, to string) *tap {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = listener.Close() })
	p := &tap{addr: listener.Addr().String(), said: &lockedBuffer{}}
	go func() {
		for {
			from, err := listener.Accept()
			if err != nil {
				return
			}
			onward, err := net.Dial("tcp", to)
			if err != nil {
				_ = from.Close()
				continue
			}
			go func() { _, _ = io.Copy(io.MultiWriter(onward, p.said), from); _ = onward.Close() }()
			go func() { _, _ = io.Copy(from, onward); _ = from.Close() }()
		}
	}()
	return p
}

// testCancelOverTLS: a cancel request comes by TLS, in each way a client may ask for that, and goes on by TLS.
func (s *secure) testCancelOverTLS(t *testing.T) {
	between := newTap(t, s.server.Addr())
	p := s.open(t, proxy.Config{Upstream: between.addr, TLS: s.withTLS(t), UpstreamTLS: proxy.UpstreamTLS{SSLMode: "require"}}, "")
	conn := dial(t, s.dsn(p.addr, "scrammer", "secret", s.trusts()...))
	request := binary.BigEndian.AppendUint32(nil, uint32(12+len(conn.PgConn().SecretKey())))
	request = binary.BigEndian.AppendUint32(request, 80877102)
	request = append(binary.BigEndian.AppendUint32(request, conn.PgConn().PID()), conn.PgConn().SecretKey()...)
	for name, cancel := range map[string]func(){
		"pgx": func() {
			if err := conn.PgConn().CancelRequest(t.Context()); err != nil {
				t.Error(err)
			}
		},
		"GSSENCRequest, SSLRequest": func() {
			raw := dialRaw(t, p.addr)
			send(t, raw, "\x00\x00\x00\x08\x04\xd2\x16\x30")
			if answer := readByte(t, raw); answer != 'N' {
				t.Errorf("GSSENCRequest is answered with %c", answer)
			}
			send(t, secured(t, raw), string(request))
		},
		"direct": func() {
			over, err := tls.Dial("tcp", p.addr, &tls.Config{InsecureSkipVerify: true, NextProtos: []string{"postgresql"}}) // nothing is believed
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() { _ = over.Close() })
			send(t, over, string(request))
		},
		"plain": func() { send(t, dialRaw(t, p.addr), string(request)) },
	} {
		began := time.Now()
		timer := time.AfterFunc(200*time.Millisecond, cancel)
		_, err := text(t, conn, `SELECT pg_sleep(30)`)
		timer.Stop()
		if code(err) != "57014" || time.Since(began) > 20*time.Second {
			t.Errorf("%s: %v after %v", name, err, time.Since(began))
		}
	}
	if said := between.said.String(); strings.Contains(said, "\x04\xd2\x16\x2e") || strings.Contains(said, "scrammer") {
		t.Error("a cancel request or a startup packet went upstream in plain text")
	}
}

// testUpstreamModes: sslmode means what it means to libpq.
func (s *secure) testUpstreamModes(t *testing.T) {
	other := newAuthority(t, "somebody else's authority")
	_, port, _ := net.SplitHostPort(s.server.Addr())
	onlyByName := s.ca.issueFor(t, "server", []string{"localhost"})
	s.encrypt(t, s.admin(t, "postgres"), onlyByName)
	const untrusted = "FATAL 08006: the upstream server's certificate is not trusted  "
	for _, c := range []struct {
		host string
		tls  proxy.UpstreamTLS
		want string
	}{
		{"localhost", proxy.UpstreamTLS{}, "t\n"},
		{"localhost", proxy.UpstreamTLS{SSLMode: "disable"}, "f\n"},
		{"localhost", proxy.UpstreamTLS{SSLMode: "prefer"}, "t\n"},
		{"127.0.0.1", proxy.UpstreamTLS{SSLMode: "require"}, "t\n"},
		{"127.0.0.1", proxy.UpstreamTLS{SSLMode: "require", SSLSNI: "0"}, "t\n"},
		{"127.0.0.1", proxy.UpstreamTLS{SSLMode: "require", SSLRootCert: other.file}, untrusted},
		{"127.0.0.1", proxy.UpstreamTLS{SSLMode: "verify-ca", SSLRootCert: s.ca.file}, "t\n"},
		{"127.0.0.1", proxy.UpstreamTLS{SSLMode: "verify-ca", SSLRootCert: other.file}, untrusted},
		{"127.0.0.1", proxy.UpstreamTLS{SSLMode: "verify-full", SSLRootCert: s.ca.file}, untrusted},
		{"localhost", proxy.UpstreamTLS{SSLMode: "verify-full", SSLRootCert: s.ca.file}, "t\n"},
		{"localhost", proxy.UpstreamTLS{SSLMode: "verify-full", SSLRootCert: other.file}, untrusted},
		{"localhost", proxy.UpstreamTLS{SSLRootCert: "system"}, untrusted},
	} {
		p := s.open(t, proxy.Config{Upstream: net.JoinHostPort(c.host, port), UpstreamTLS: c.tls}, "")
		if got := s.isEncrypted(t, p.addr); got != c.want {
			t.Errorf("%s %+v: %s, want %s", c.host, c.tls, got, c.want)
		}
	}
	socket := fmt.Sprintf("%s/.s.PGSQL.%d", s.server.SocketDir(), s.server.Port())
	if got := s.isEncrypted(t, s.open(t, proxy.Config{Upstream: socket, UpstreamTLS: proxy.UpstreamTLS{SSLMode: "require"}}, "").addr); got != "f\n" {
		t.Errorf("by a socket: %s", got)
	}
	without := worlds[0].server.Addr() // a server that does not offer TLS
	for mode, want := range map[string]string{
		"require": "FATAL 08006: the upstream server does not support TLS, but the proxy requires it  ",
		"prefer":  `FATAL 28P01: password authentication failed for user "scrammer"  `, // it got there
	} {
		p := s.open(t, proxy.Config{Upstream: without, UpstreamTLS: proxy.UpstreamTLS{SSLMode: mode}}, "")
		if got := attempt(t, s.dsn(p.addr, "scrammer", "secret", "sslmode=disable")); got != want {
			t.Errorf("sslmode=%s: %s, want %s", mode, got, want)
		}
	}
}

// isEncrypted asks the server whether its connection is.
func (s *secure) isEncrypted(t *testing.T, addr string) string {
	t.Helper()
	dsn := s.dsn(addr, "scrammer", "secret", "sslmode=disable")
	if got := attempt(t, dsn); got != "scrammer\n" {
		return got
	}
	return mustText(t, dial(t, dsn), `SELECT ssl FROM pg_stat_ssl WHERE pid = pg_backend_pid()`)
}

// testReload: a certificate is renewed without a restart, a bad one does no harm, and sessions go on.
func (s *secure) testReload(t *testing.T) {
	files := s.withTLS(t)
	p := s.open(t, proxy.Config{TLS: files}, "")
	session := dial(t, s.dsn(p.addr, "scrammer", "secret", s.trusts()...))
	subject := func() string {
		return secured(t, dialRaw(t, p.addr)).ConnectionState().PeerCertificates[0].Subject.CommonName
	}
	certificate{files.CertFile, files.KeyFile}.replace(t, s.ca.issue(t, "renewed"))
	if got := subject(); got != "proxy" {
		t.Errorf("without a word the certificate is %s", got)
	}
	if err := p.srv.ReloadTLS(t.Context()); err != nil {
		t.Fatal(err)
	}
	if got := subject(); got != "renewed" {
		t.Errorf("after a reload the certificate is %s", got)
	}
	if got := attempt(t, s.dsn(p.addr, "scrammer", "secret", s.trusts("channel_binding=require")...)); got != "scrammer\n" {
		t.Errorf("bound to the renewed certificate: %s", got)
	}
	certificate{files.CertFile, files.KeyFile}.replace(t, certificate{cert: s.ca.file, key: s.ca.issue(t, "x").key})
	if err := p.srv.ReloadTLS(t.Context()); err == nil {
		t.Error("a key of another certificate was taken")
	}
	if got := subject(); got != "renewed" {
		t.Errorf("after a bad reload the certificate is %s", got)
	}
	if got := mustText(t, session, `SELECT 1`); got != "1\n" {
		t.Error(got)
	}
}

// testClientCertificates: clientcert means what it means in pg_hba.conf.
func (s *secure) testClientCertificates(t *testing.T) {
	other := newAuthority(t, "somebody else's authority")
	clients := map[string]certificate{"right": s.ca.issue(t, "scrammer"), "wrong name": s.ca.issue(t, "plain")}
	foreign := other.issue(t, "scrammer")
	const (
		in      = "scrammer\n"
		missing = "FATAL 28000: connection requires a valid client certificate  "
		named   = `FATAL 28000: certificate authentication failed for user "scrammer"  `
	)
	for mode, want := range map[string]map[string]string{
		"":            {"none": in, "right": in, "wrong name": in},
		"verify-ca":   {"none": missing, "right": in, "wrong name": in},
		"verify-full": {"none": missing, "right": in, "wrong name": named},
	} {
		cfg := s.withTLS(t)
		cfg.CAFile, cfg.ClientCert = s.ca.file, mode
		p := s.open(t, proxy.Config{TLS: cfg}, "")
		for client, want := range want {
			options := s.trusts()
			if c, ok := clients[client]; ok {
				options = append(options, "sslcert="+c.cert, "sslkey="+c.key)
			}
			got := attempt(t, s.dsn(p.addr, "scrammer", "secret", options...))
			if got != want {
				t.Errorf("clientcert=%s, %s: %s, want %s", mode, client, got, want)
			}
		}
		// pgx would not send what the proxy has not asked for.
		got := psql(t, s.dsn(p.addr, "scrammer", "secret", s.trusts("sslcert="+foreign.cert, "sslkey="+foreign.key)...))
		if !strings.Contains(got, "alert") {
			t.Errorf("clientcert=%s, wrong authority: %s", mode, got)
		}
		got = attempt(t, s.dsn(p.addr, "scrammer", "secret", "sslmode=disable"))
		if refused := strings.HasPrefix(got, "FATAL 28000: the proxy refuses connections without TLS"); refused == (mode == "") {
			t.Errorf("clientcert=%s, without TLS: %s", mode, got)
		}
	}
	cfg := s.withTLS(t)
	cfg.Required = true
	p := s.open(t, proxy.Config{TLS: cfg}, "")
	if got := attempt(t, s.dsn(p.addr, "scrammer", "secret", "sslmode=disable")); !strings.HasPrefix(got, "FATAL 28000: the proxy refuses connections without TLS") {
		t.Errorf("required, and without TLS: %s", got)
	}
	if got := attempt(t, s.dsn(p.addr, "scrammer", "secret", s.trusts()...)); got != in {
		t.Errorf("required, and there: %s", got)
	}
}

// testVerifierRights: where the catalog role may not read verifiers, channel binding is refused, not gone without.
func (s *secure) testVerifierRights(t *testing.T) {
	admin := s.admin(t, "app")
	for _, sql := range []string{
		`CREATE ROLE lowly LOGIN PASSWORD 'lowly'`, `GRANT USAGE ON SCHEMA scrim, scrim_state, scrim_runtime TO lowly`,
		`GRANT SELECT ON ALL TABLES IN SCHEMA scrim, scrim_state, scrim_runtime TO lowly`,
		`GRANT EXECUTE ON FUNCTION scrim.is_restored(), scrim.note_names() TO lowly`,
	} {
		if _, err := admin.Exec(t.Context(), sql); err != nil {
			t.Fatal(err)
		}
	}
	p := s.open(t, proxy.Config{TLS: s.withTLS(t), UpstreamTLS: proxy.UpstreamTLS{SSLMode: "require"}}, s.server.DSN("lowly", "lowly", "app"))
	const refused = "FATAL 28000: the proxy cannot authenticate with channel binding"
	for _, role := range []string{"scrammer", "nobody_here"} {
		if got := attempt(t, s.dsn(p.addr, role, "secret", s.trusts()...)); !strings.HasPrefix(got, refused) || !strings.Contains(got, "GRANT SELECT ON pg_authid") {
			t.Errorf("%s: %s", role, got)
		}
	}
	for _, options := range [][]string{{"sslmode=disable"}, s.trusts("channel_binding=disable")} { // no verifier is needed
		if got := attempt(t, s.dsn(p.addr, "scrammer", "secret", options...)); got != "scrammer\n" {
			t.Errorf("%v: %s", options, got)
		}
	}
	if _, err := admin.Exec(t.Context(), `GRANT SELECT ON pg_authid TO lowly`); err != nil {
		t.Fatal(err)
	}
	if got := attempt(t, s.dsn(p.addr, "scrammer", "secret", s.trusts("channel_binding=require")...)); got != "scrammer\n" {
		t.Errorf("with the right to: %s", got)
	}
}

// testPasswordChange: a new password counts at the next login.
func (s *secure) testPasswordChange(t *testing.T) {
	p := s.open(t, proxy.Config{TLS: s.withTLS(t), UpstreamTLS: proxy.UpstreamTLS{SSLMode: "require"}}, "")
	admin := s.admin(t, "app")
	if _, err := admin.Exec(t.Context(), `CREATE ROLE changing LOGIN`); err != nil {
		t.Fatal(err)
	}
	old := ""
	for _, password := range []string{"first", "second", "third"} {
		if _, err := admin.Exec(t.Context(), `SET password_encryption = 'scram-sha-256'`); err != nil {
			t.Fatal(err)
		}
		if _, err := admin.Exec(t.Context(), `ALTER ROLE changing PASSWORD '`+password+`'`); err != nil {
			t.Fatal(err)
		}
		if got := attempt(t, s.dsn(p.addr, "changing", password, s.trusts("channel_binding=require")...)); got != "changing\n" {
			t.Errorf("%s: %s", password, got)
		}
		if got := attempt(t, s.dsn(p.addr, "changing", old, s.trusts()...)); !strings.HasPrefix(got, "FATAL 28P01") {
			t.Errorf("the old password: %s", got)
		}
		old = password
	}
}

// testUnboundCertificate: nothing can be bound to an Ed25519 certificate (RFC 5929 has no hash for it), so channel binding
// is not offered with it, and clients that know it get in without.
func (s *secure) testUnboundCertificate(t *testing.T) {
	_, key, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	self := template("ed25519")
	self.DNSNames, self.IPAddresses = []string{"localhost"}, []net.IP{net.IPv4(127, 0, 0, 1)}
	der, err := x509.CreateCertificate(rand.Reader, self, self, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	pkcs8, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	files := proxy.ClientTLS{CertFile: t.TempDir() + "/ed.crt", KeyFile: t.TempDir() + "/ed.key"}
	writePEM(t, files.CertFile, "CERTIFICATE", der)
	writePEM(t, files.KeyFile, "PRIVATE KEY", pkcs8)
	p := s.open(t, proxy.Config{TLS: files, UpstreamTLS: proxy.UpstreamTLS{SSLMode: "require"}}, "")
	for password, want := range map[string]string{"secret": "scrammer\n", "wrong": `FATAL 28P01: password authentication failed for user "scrammer"  `} {
		dsn := s.dsn(p.addr, "scrammer", password, "sslmode=require")
		if got := attempt(t, dsn); got != want {
			t.Errorf("pgx with %s: %s, want %s", password, got, want)
		}
		if got := psql(t, dsn); !strings.Contains(want, strings.TrimSpace(got)) && !strings.Contains(got, `password authentication failed for user "scrammer"`) {
			t.Errorf("libpq with %s: %s", password, got)
		}
	}
	if got := attempt(t, s.dsn(p.addr, "scrammer", "secret", "sslmode=require", "channel_binding=require")); !strings.Contains(got, "channel binding required") {
		t.Errorf("channel_binding=require: %s", got)
	}
}
