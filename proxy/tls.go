package proxy

import (
	"context"
	"crypto/sha256"
	"crypto/sha512"
	"crypto/tls"
	"crypto/x509"
	"encoding/asn1"
	"errors"
	"fmt"
	"net"
	"os"
	"sync/atomic"
)

// alpn is the protocol name that PostgreSQL registered, and requires where TLS begins without an SSLRequest.
const alpn = "postgresql"

// ClientTLS says how clients may encrypt. It names files, so that [Server.ReloadTLS] can read them again.
type ClientTLS struct {
	// CertFile and KeyFile are the server certificate (with its chain) and its key, in PEM. Without them there is no TLS.
	CertFile, KeyFile string
	// CAFile holds the authorities, in PEM, that may have signed the certificate of a client. Without it none is asked for.
	CAFile string
	// ClientCert means what clientcert means in pg_hba.conf. Empty: a certificate may be shown and must then be valid.
	// "verify-ca": it must be shown. "verify-full": its common name must also be the role's name. The last two imply Required.
	ClientCert string
	// Required refuses sessions without TLS, as hostssl does.
	Required bool
}

// clientTLS is a ClientTLS whose files were read.
type clientTLS struct {
	config *tls.Config
	// binding is the channel binding of the certificate (tls-server-end-point); nil if its signature algorithm has none.
	binding []byte
}

// loadClientTLS reads the files. It returns nil without an error where there shall be no TLS.
func loadClientTLS(cfg ClientTLS) (*clientTLS, error) {
	switch {
	case (cfg.CertFile == "") != (cfg.KeyFile == ""):
		return nil, errors.New("a certificate and its private key go together")
	case cfg.CertFile == "" && (cfg.CAFile != "" || cfg.ClientCert != "" || cfg.Required):
		return nil, errors.New("client certificates, and requiring TLS, need a certificate and private key for the proxy itself")
	case cfg.ClientCert != "" && cfg.ClientCert != "verify-ca" && cfg.ClientCert != "verify-full":
		return nil, fmt.Errorf("clientcert is verify-ca or verify-full, not %q", cfg.ClientCert)
	case cfg.ClientCert != "" && cfg.CAFile == "":
		return nil, errors.New("client certificates can only be checked if a root certificate store is available: name its file")
	case cfg.CertFile == "":
		return nil, nil // no TLS is a choice
	}
	pair, err := tls.LoadX509KeyPair(cfg.CertFile, cfg.KeyFile)
	if err != nil {
		return nil, err
	}
	config := &tls.Config{
		MinVersion: tls.VersionTLS12, Certificates: []tls.Certificate{pair}, NextProtos: []string{alpn},
		SessionTicketsDisabled: true, // as PostgreSQL: what a client has proved once does not count for another connection
	}
	if cfg.CAFile != "" {
		if config.ClientCAs, err = readCertificates(cfg.CAFile); err != nil {
			return nil, err
		}
		config.ClientAuth = tls.VerifyClientCertIfGiven // whether it must be given is decided where an error can be told
	}
	return &clientTLS{config: config, binding: endPointBinding(pair.Leaf)}, nil
}

func readCertificates(file string) (*x509.CertPool, error) {
	pem, err := os.ReadFile(file)
	if err != nil {
		return nil, err
	}
	pool := x509.NewCertPool()
	if !pool.AppendCertsFromPEM(pem) {
		return nil, fmt.Errorf("%s holds no certificate", file)
	}
	return pool, nil
}

// endPointBinding is the channel binding tls-server-end-point of a certificate: its hash by the hash function of its own
// signature, SHA-256 in the place of MD5 and SHA-1. nil if that is not defined, for Ed25519 for example.
// RFC 5929 section 4.1, be_tls_get_certificate_hash in PostgreSQL's be-secure-openssl.c
func endPointBinding(cert *x509.Certificate) []byte {
	switch cert.SignatureAlgorithm {
	case x509.MD5WithRSA, x509.SHA1WithRSA, x509.ECDSAWithSHA1, x509.SHA256WithRSA, x509.SHA256WithRSAPSS, x509.ECDSAWithSHA256:
		sum := sha256.Sum256(cert.Raw)
		return sum[:]
	case x509.SHA384WithRSA, x509.SHA384WithRSAPSS, x509.ECDSAWithSHA384:
		sum := sha512.Sum384(cert.Raw)
		return sum[:]
	case x509.SHA512WithRSA, x509.SHA512WithRSAPSS, x509.ECDSAWithSHA512:
		sum := sha512.Sum512(cert.Raw)
		return sum[:]
	}
	return nil
}

// acceptDirect makes the TLS handshake of a client that began with it. Without ALPN it could be a request of another
// protocol that somebody was made to send here, so PostgreSQL refuses, and so do we.
func (c *clientTLS) acceptDirect(conn net.Conn) (*tls.Conn, error) {
	secured := tls.Server(conn, c.config)
	if err := secured.Handshake(); err != nil {
		return nil, err
	}
	if secured.ConnectionState().NegotiatedProtocol != alpn {
		return nil, errors.New("received direct SSL connection request without ALPN protocol negotiation extension")
	}
	return secured, nil
}

// checkClient refuses a client whose connection is not as secure as it must be, or that is not who it says.
func (cfg ClientTLS) checkClient(conn net.Conn, role string) error {
	secured, ok := conn.(*tls.Conn)
	switch {
	case !ok && (cfg.Required || cfg.ClientCert != ""):
		return &Error{Code: codeInvalidAuthorization, Fatal: true, Message: "the proxy refuses connections without TLS", Hint: "Connect with sslmode=require or stronger."}
	case cfg.ClientCert == "":
		return nil
	}
	certs := secured.ConnectionState().PeerCertificates
	if len(certs) == 0 {
		return &Error{Code: codeInvalidAuthorization, Fatal: true, Message: "connection requires a valid client certificate"}
	}
	if cfg.ClientCert == "verify-full" && (role == "" || commonName(certs[0]) != role) {
		return &Error{Code: codeInvalidAuthorization, Fatal: true, Message: fmt.Sprintf("certificate authentication failed for user %q", role)}
	}
	return nil
}

// commonName returns the subject's common name if it has exactly one: of several, readers of certificates take different
// ones.
func commonName(cert *x509.Certificate) string {
	found, name := 0, ""
	for _, attribute := range cert.Subject.Names {
		if attribute.Type.Equal(asn1.ObjectIdentifier{2, 5, 4, 3}) {
			found++
			name, _ = attribute.Value.(string)
		}
	}
	if found != 1 {
		return ""
	}
	return name
}

// legs is the TLS of both sides, as configured and as last read.
type legs struct {
	clientConfig   ClientTLS
	upstreamConfig UpstreamTLS
	upstreamAddr   string
	client         atomic.Pointer[clientTLS]   // nil: no TLS
	upstream       atomic.Pointer[upstreamTLS] // nil: no TLS
}

// load reads the files of both sides. Each side keeps what it has if its files are bad.
func (l *legs) load() error {
	client, clientErr := loadClientTLS(l.clientConfig)
	if clientErr != nil {
		clientErr = fmt.Errorf("TLS for clients: %w", clientErr)
	} else {
		l.client.Store(client)
	}
	upstream, upstreamErr := loadUpstreamTLS(l.upstreamConfig, l.upstreamAddr)
	if upstreamErr != nil {
		upstreamErr = fmt.Errorf("TLS to the upstream server: %w", upstreamErr)
	} else {
		l.upstream.Store(upstream)
	}
	return errors.Join(clientErr, upstreamErr)
}

// ReloadTLS reads certificates, keys and authorities again, for connections from now on. Files that are missing or bad
// give an error, and what was read before stays in use.
func (srv *Server) ReloadTLS(ctx context.Context) error {
	err := srv.tls.load()
	if err == nil {
		srv.log.InfoContext(ctx, "TLS files read again")
	}
	return err
}

// HTTPS is the TLS of a web server beside the proxy: it shows the proxy's certificate, as last read. It fails where there is none,
// and where clients must show one of theirs: a browser's would have to be checked against the role, too.
func (srv *Server) HTTPS() (*tls.Config, error) {
	switch {
	case srv.tls.client.Load() == nil:
		return nil, errors.New("it needs the proxy's certificate and private key (--tls-cert, --tls-key)")
	case srv.tls.clientConfig.ClientCert != "":
		return nil, errors.New("it cannot ask for client certificates (--tls-clientcert)")
	}
	return &tls.Config{MinVersion: tls.VersionTLS12, GetCertificate: func(*tls.ClientHelloInfo) (*tls.Certificate, error) {
		return &srv.tls.client.Load().config.Certificates[0], nil
	}}, nil
}
