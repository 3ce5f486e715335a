package proxy

import (
	"cmp"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"strings"
	"time"

	"github.com/jackc/pgx/v5/pgconn"
)

// UpstreamTLS says how the way to the server is encrypted. The fields mean what libpq's parameters of these names mean;
// nothing is taken from PG* variables or ~/.postgresql. A Unix socket is never encrypted.
// https://www.postgresql.org/docs/current/libpq-connect.html#LIBPQ-CONNECT-SSLMODE
type UpstreamTLS struct {
	// SSLMode is disable, prefer, require, verify-ca or verify-full. Default: prefer; verify-full if SSLRootCert is system;
	// require if SSLNegotiation is direct. prefer falls back to plain text if the server does not offer TLS, or the
	// handshake fails. There is no allow: who does not care says prefer, who trusts the network says disable.
	SSLMode string
	// SSLRootCert names a file of authorities, or is system. verify-ca and verify-full need it; require with it is verify-ca.
	SSLRootCert string
	// SSLCert and SSLKey are the certificate that the proxy shows to the server.
	SSLCert, SSLKey string
	// SSLNegotiation is postgres (the default) or direct, which PostgreSQL 17 understands and which saves a round trip.
	SSLNegotiation string
	// SSLSNI 0 keeps the server's name out of the handshake, but for verify-full, which needs it there. Default 1.
	SSLSNI string
}

// upstreamTLS is an UpstreamTLS whose files were read.
type upstreamTLS struct {
	config   *tls.Config
	optional bool // sslmode=prefer
	direct   bool
}

// loadUpstreamTLS returns nil without an error where the way is not encrypted.
func loadUpstreamTLS(cfg UpstreamTLS, addr string) (*upstreamTLS, error) {
	mode, err := cfg.mode()
	if err != nil {
		return nil, err
	}
	if mode == "disable" || strings.HasPrefix(addr, "/") {
		return nil, nil // no TLS is a choice
	}
	host, port, err := net.SplitHostPort(addr)
	if err != nil {
		return nil, err
	}
	// Everything that has a default elsewhere is set, so that neither PG* variables nor files of the user's count.
	var dsn strings.Builder
	for _, setting := range [][2]string{
		{"host", host},
		{"port", port},
		{"user", "scrim"},
		{"password", "none"},
		{"passfile", ""},
		{"target_session_attrs", "any"},
		{"sslmode", mode},
		{"sslrootcert", cfg.SSLRootCert},
		{"sslcert", cfg.SSLCert},
		{"sslkey", cfg.SSLKey},
		{"sslpassword", ""},
		{"sslnegotiation", cmp.Or(cfg.SSLNegotiation, "postgres")},
		{"sslsni", cmp.Or(cfg.SSLSNI, "1")},
		{"sslcertmode", "allow"},
	} {
		fmt.Fprintf(&dsn, "%s='%s' ", setting[0], strings.NewReplacer(`\`, `\\`, `'`, `\'`).Replace(setting[1]))
	}
	parsed, err := pgconn.ParseConfig(dsn.String())
	if err != nil {
		return nil, err
	}
	config := parsed.TLSConfig
	config.MinVersion = tls.VersionTLS12
	config.NextProtos = []string{alpn} // older servers ignore it
	return &upstreamTLS{config: config, optional: mode == "prefer", direct: cfg.SSLNegotiation == "direct"}, nil
}

// mode is the sslmode that counts. It refuses what libpq refuses: a weak mode where more was asked for.
func (cfg UpstreamTLS) mode() (string, error) {
	mode := cfg.SSLMode
	switch {
	case cfg.SSLRootCert == "system":
		mode = cmp.Or(mode, "verify-full")
	case cfg.SSLNegotiation == "direct":
		mode = cmp.Or(mode, "require")
	}
	mode = cmp.Or(mode, "prefer")
	verify := mode == "verify-ca" || mode == "verify-full"
	switch {
	case mode == "allow":
		return "", errors.New("sslmode allow is not supported: use prefer or disable")
	case mode != "disable" && mode != "prefer" && mode != "require" && !verify:
		return "", fmt.Errorf("sslmode is disable, prefer, require, verify-ca or verify-full, not %q", mode)
	case cfg.SSLNegotiation != "" && cfg.SSLNegotiation != "postgres" && cfg.SSLNegotiation != "direct":
		return "", fmt.Errorf("sslnegotiation is postgres or direct, not %q", cfg.SSLNegotiation)
	case cfg.SSLSNI != "" && cfg.SSLSNI != "0" && cfg.SSLSNI != "1":
		return "", fmt.Errorf("sslsni is 0 or 1, not %q", cfg.SSLSNI)
	case cfg.SSLRootCert == "system" && mode != "verify-full":
		return "", fmt.Errorf("weak sslmode %q may not be used with sslrootcert=system (use verify-full)", mode)
	case cfg.SSLNegotiation == "direct" && (mode == "disable" || mode == "prefer"):
		return "", fmt.Errorf("weak sslmode %q may not be used with sslnegotiation=direct (use require, verify-ca or verify-full)", mode)
	case verify && cfg.SSLRootCert == "":
		return "", fmt.Errorf("sslmode %s needs sslrootcert: a file of authorities, or system", mode)
	}
	return mode, nil
}

// errNoTLS is libpq's complaint. The server answered the SSLRequest with N.
var errNoTLS = errors.New("server does not support SSL, but SSL was required")

// Dial connects to the server, encrypted as configured, for whoever speaks PostgreSQL's protocol there: from the startup packet on.
func (srv *Server) Dial(ctx context.Context) (net.Conn, error) { return srv.dial(ctx) }

// dial connects to the server, encrypted as configured.
func (srv *Server) dial(ctx context.Context) (net.Conn, error) {
	ctx, cancel := context.WithTimeout(ctx, srv.startup)
	defer cancel()
	conn, err := srv.dialPlain(ctx)
	leg := srv.tls.upstream.Load()
	if err != nil || leg == nil {
		return conn, err
	}
	secured, err := leg.secure(ctx, conn)
	if err == nil {
		return secured, nil
	}
	_ = conn.Close()
	if leg.optional && ctx.Err() == nil {
		srv.log.DebugContext(ctx, "no TLS with the upstream server, going on without", "reason", err)
		return srv.dialPlain(ctx)
	}
	return nil, fmt.Errorf("TLS: %w", err)
}

func (srv *Server) dialPlain(ctx context.Context) (net.Conn, error) {
	network := "tcp"
	if strings.HasPrefix(srv.upstream, "/") {
		network = "unix"
	}
	return new(net.Dialer).DialContext(ctx, network, srv.upstream)
}

// secure makes the TLS handshake, after an SSLRequest unless it is a direct one. If the server does not offer TLS and need
// not, it returns conn itself.
func (l *upstreamTLS) secure(ctx context.Context, conn net.Conn) (net.Conn, error) {
	if !l.direct {
		offered, err := requestTLS(ctx, conn)
		switch {
		case err != nil:
			return nil, err
		case !offered && l.optional:
			return conn, nil
		case !offered:
			return nil, errNoTLS
		}
	}
	secured := tls.Client(conn, l.config)
	if err := secured.HandshakeContext(ctx); err != nil {
		return nil, err
	}
	if l.direct && secured.ConnectionState().NegotiatedProtocol != alpn {
		return nil, errors.New("direct SSL connection was established without ALPN protocol negotiation extension")
	}
	return secured, nil
}

// sslRequestCode is the version number of an SSLRequest: 1234.5679.
const sslRequestCode = 80877103

// requestTLS sends an SSLRequest. It reads one byte and not more: what follows in plain text is nobody's.
// https://www.postgresql.org/docs/current/protocol-flow.html#PROTOCOL-FLOW-SSL
func requestTLS(ctx context.Context, conn net.Conn) (offered bool, err error) {
	deadline, _ := ctx.Deadline()
	if err := conn.SetDeadline(deadline); err != nil {
		return false, err
	}
	defer func() { err = errors.Join(err, conn.SetDeadline(time.Time{})) }()
	request := binary.BigEndian.AppendUint32(nil, 8)
	if _, err := conn.Write(binary.BigEndian.AppendUint32(request, sslRequestCode)); err != nil {
		return false, err
	}
	answer := make([]byte, 1)
	if _, err := io.ReadFull(conn, answer); err != nil {
		return false, err
	}
	switch answer[0] {
	case 'S':
		return true, nil
	case 'N':
		return false, nil
	}
	// An E may begin an error of a server from before TLS; nothing that is said in plain text is shown to anybody
	// (CVE-2024-10977).
	return false, fmt.Errorf("the server answers an SSLRequest with %q", answer)
}

// unreachable is what a client is told when dial has failed. The details are for the log: they name hosts.
func unreachable(err error) *Error {
	e := &Error{Code: codeConnectionFailure, Fatal: true, Message: "the upstream server cannot be reached"}
	switch {
	case errors.Is(err, errNoTLS):
		e.Message = "the upstream server does not support TLS, but the proxy requires it"
	case isCertificateError(err):
		e.Message = "the upstream server's certificate is not trusted"
	}
	return e
}

func isCertificateError(err error) bool {
	var (
		authority x509.UnknownAuthorityError
		invalid   x509.CertificateInvalidError
		hostname  x509.HostnameError
	)
	return errors.As(err, &authority) || errors.As(err, &invalid) || errors.As(err, &hostname)
}
