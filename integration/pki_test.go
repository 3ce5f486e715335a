package integration_test

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"testing"
	"time"
)

// authority signs certificates for tests. What it makes lies in files, as servers and clients want it.
type authority struct {
	dir  string
	file string // its own certificate
	cert *x509.Certificate
	key  crypto.Signer
}

// certificate names the files of a certificate and its key.
type certificate struct{ cert, key string }

func newAuthority(t *testing.T, name string) *authority {
	t.Helper()
	a := &authority{dir: t.TempDir(), key: newKey(t)}
	a.cert = template(name)
	a.cert.IsCA, a.cert.KeyUsage, a.cert.BasicConstraintsValid = true, x509.KeyUsageCertSign|x509.KeyUsageCRLSign, true
	a.file = filepath.Join(a.dir, "ca.crt")
	writePEM(t, a.file, "CERTIFICATE", a.sign(t, a.cert, a.key.Public()))
	return a
}

func newKey(t *testing.T) crypto.Signer {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return key
}

func template(name string) *x509.Certificate {
	serial, _ := rand.Int(rand.Reader, big.NewInt(1<<62))
	return &x509.Certificate{
		SerialNumber: serial, Subject: pkix.Name{CommonName: name}, NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
	}
}

func (a *authority) sign(t *testing.T, cert *x509.Certificate, key crypto.PublicKey) []byte {
	t.Helper()
	der, err := x509.CreateCertificate(rand.Reader, cert, a.cert, key, a.key)
	if err != nil {
		t.Fatal(err)
	}
	return der
}

// issue makes a certificate with this common name, for clients, and for servers at localhost and 127.0.0.1.
func (a *authority) issue(t *testing.T, name string) certificate {
	t.Helper()
	return a.issueFor(t, name, []string{"localhost"}, net.IPv4(127, 0, 0, 1))
}

func (a *authority) issueFor(t *testing.T, name string, hosts []string, ips ...net.IP) certificate {
	t.Helper()
	cert, key := template(name), newKey(t)
	cert.DNSNames, cert.IPAddresses = hosts, ips
	cert.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth, x509.ExtKeyUsageServerAuth}
	pkcs8, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	base := filepath.Join(a.dir, cert.SerialNumber.String())
	files := certificate{cert: base + ".crt", key: base + ".key"}
	writePEM(t, files.cert, "CERTIFICATE", a.sign(t, cert, key.Public()))
	writePEM(t, files.key, "PRIVATE KEY", pkcs8)
	return files
}

// replace puts another certificate where this one is.
func (c certificate) replace(t *testing.T, with certificate) {
	t.Helper()
	for to, from := range map[string]string{c.cert: with.cert, c.key: with.key} {
		b, err := os.ReadFile(from)
		if err == nil {
			err = os.WriteFile(to, b, 0o600)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
}

func writePEM(t *testing.T, file, kind string, der []byte) {
	t.Helper()
	if err := os.WriteFile(file, pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der}), 0o600); err != nil {
		t.Fatal(err)
	}
}
