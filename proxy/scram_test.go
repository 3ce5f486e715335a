package proxy

import (
	"bytes"
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/pbkdf2"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/x509"
	"encoding/base64"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"io"
	"log/slog"
	"math/big"
	"net"
	"strings"
	"testing"
	"time"
)

// The example of RFC 7677 section 3: user "user", password "pencil".
const (
	exampleFirst     = "n,,n=user,r=rOprNGfwEbeRWgbNEkqO"
	exampleChallenge = "r=rOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0,s=W22ZaJ0SNY7soEsUEjb6gQ==,i=4096"
	exampleFinal     = "c=biws,r=rOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0,p=dHzbZapWIk4jUhN+Ute9ytag9zjfMHgsqmmiz7AndVQ="
	exampleSignature = "6rriTRBi23WpRR/wtup+mMhUZUn/dB5nLTJRsjl95G4="
)

// TestSCRAMExample: what is parsed and computed is what the RFC says, both ways.
func TestSCRAMExample(t *testing.T) {
	first, ok := parseClientFirst(exampleFirst, gs2Unbound)
	if !ok || first.nonce != "rOprNGfwEbeRWgbNEkqO" {
		t.Fatal(first, ok)
	}
	challenge, err := parseServerFirst(exampleChallenge, first.nonce)
	if err != nil || challenge.iterations != 4096 || challenge.String() != exampleChallenge {
		t.Fatal(challenge, err)
	}
	final, malformed := parseClientFinal(exampleFinal)
	if malformed != nil || final.nonce != challenge.nonce || final.binding != bindingAttribute(gs2Unbound, nil) {
		t.Fatal(final, malformed)
	}
	salt, _ := base64.StdEncoding.DecodeString(challenge.salt)
	salted, err := pbkdf2.Key(sha256.New, "pencil", salt, challenge.iterations, sha256.Size)
	if err != nil {
		t.Fatal(err)
	}
	clientKey, serverKey := sign(scramKey(salted), "Client Key"), sign(scramKey(salted), "Server Key")
	storedKey := scramKey(sha256.Sum256(clientKey[:]))
	message := authMessage(first.bare, exampleChallenge, final.withoutProof)
	if got, ok := recoverClientKey(storedKey, message, final.proof); !ok || got != clientKey {
		t.Error("the client key does not come out of its proof")
	}
	if got := sign(serverKey, message).base64(); got != exampleSignature {
		t.Errorf("server signature %s", got)
	}
	for bit := range 8 * len(final.proof) {
		wrong := final.proof
		wrong[bit/8] ^= 1 << (bit % 8)
		if _, ok := recoverClientKey(storedKey, message, wrong); ok {
			t.Errorf("the proof with bit %d changed is taken", bit)
		}
	}

	e := exchange{gs2: gs2Unbound, nonce: first.nonce, first: challenge} // and the other way: the proof for a server
	upstream := string(e.final(clientKey, storedKey, true)[headerSize:])
	made, malformed := parseClientFinal(upstream)
	if malformed != nil || made.withoutProof != final.withoutProof {
		t.Fatal(upstream, malformed)
	}
	if got, ok := recoverClientKey(storedKey, e.message(), made.proof); !ok || got != clientKey {
		t.Error("a server would not take the proof")
	}
	unproven, _ := parseClientFinal(string(e.final(clientKey, storedKey, false)[headerSize:]))
	if _, ok := recoverClientKey(storedKey, e.message(), unproven.proof); ok {
		t.Error("a server would take the proof of a client that proved nothing")
	}
}

// TestSCRAMRefuses: each part of a message is needed, and nothing else is taken for it.
func TestSCRAMRefuses(t *testing.T) {
	for _, msg := range []string{
		"", "n", "n,", "n,,", "y,,n=,r=x", "n,a=x,n=,r=x", "n,,r=x", "n,,n=", "n,,n=,r=", "n,,m=x,n=,r=x", "n,,n=,r=a b", "n,,n=,r=a\x00",
		"n,,n=,r=ä", "n,,n=,r=x,1=y", "n,,n=,r=x,", "p=tls-unique,,n=,r=x",
	} {
		if _, ok := parseClientFirst(msg, gs2Unbound); ok {
			t.Errorf("%q is taken for a first message", msg)
		}
	}
	proof := ",p=" + scramKey{}.base64()
	for _, msg := range []string{
		"", "c=", "c=biws", "c=biws,r=x", "r=x,c=biws" + proof, "c=biws" + proof, "c=biws,r=x" + proof + ",", "c=biws,r=x" + proof + proof,
		"c=biws,r=x,p=AAAA", "c=biws,r=x,p=*", "c=biws,r=x" + proof + "\x00", "c=biws,r=x,1=y" + proof, "c=biws,r=x,," + proof,
	} {
		if _, malformed := parseClientFinal(msg); malformed == nil {
			t.Errorf("%q is taken for a final message", msg)
		}
	}
	for _, msg := range []string{
		"", "r=abcx,s=AA==", "r=abcx,s=AA==,i=", "r=abcx,s=AA==,i=0", "r=abcx,s=AA==,i=-1", "r=abcx,s=AA==,i=+1", "r=abcx,s=AA==,i=4294967296", "r=abcx,s=,i=1",
		"r=abcx,s=*,i=1", "r=abc,s=AA==,i=1", "r=abdx,s=AA==,i=1", "r=abcx,s=AA==,i=1,x=y", "m=x,r=abcx,s=AA==,i=1", "r=abcx,s=AA==,i=01",
	} {
		if _, err := parseServerFirst(msg, "abc"); err == nil {
			t.Errorf("%q is taken for a challenge", msg)
		}
	}
}

// TestEndPointBinding: the hash is that of the certificate's own signature.
func TestEndPointBinding(t *testing.T) {
	_, edwards, _ := ed25519.GenerateKey(rand.Reader)
	curve, _ := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	classic, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		algorithm x509.SignatureAlgorithm
		key       crypto.Signer
		size      int // bytes of the binding
	}{
		{x509.ECDSAWithSHA256, curve, 32},
		{x509.ECDSAWithSHA384, curve, 48},
		{x509.ECDSAWithSHA512, curve, 64},
		{x509.SHA256WithRSA, classic, 32},
		{x509.SHA384WithRSA, classic, 48},
		{x509.SHA512WithRSAPSS, classic, 64},
		{x509.PureEd25519, edwards, 0},
	} {
		self := &x509.Certificate{SerialNumber: big.NewInt(1), SignatureAlgorithm: c.algorithm}
		der, err := x509.CreateCertificate(rand.Reader, self, self, c.key.Public(), c.key)
		if err != nil {
			t.Fatal(c.algorithm, err)
		}
		cert, err := x509.ParseCertificate(der)
		if err != nil {
			t.Fatal(err)
		}
		if got := endPointBinding(cert); len(got) != c.size {
			t.Errorf("%v: %s", c.algorithm, hex.EncodeToString(got))
		}
	}
}

func FuzzClientFirst(f *testing.F) {
	for _, seed := range []string{exampleFirst, "n,,n=,r=abc,x=y", "n,,m=1,n=,r=abc", "n,a=x,n=,r=abc", gs2Bound + "n=,r=abc"} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, msg string) {
		first, ok := parseClientFirst(msg, gs2Unbound)
		if ok && (gs2Unbound+first.bare != msg || !strings.Contains(msg, "r="+first.nonce) || !isNonce(first.nonce)) {
			t.Errorf("%q: %+v", msg, first)
		}
	})
}

func FuzzClientFinal(f *testing.F) {
	for _, seed := range []string{exampleFinal, "c=biws,r=x,e=1,p=" + scramKey{}.base64(), "c=biws,r=x,p=AAAA", "c=,r=,p="} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, msg string) {
		final, malformed := parseClientFinal(msg)
		switch {
		case malformed != nil:
			if !malformed.Fatal || malformed.Code != codeProtocolViolation {
				t.Error(malformed)
			}
		case !strings.HasPrefix(msg, final.withoutProof+",p=") || !strings.HasPrefix(final.withoutProof, "c="+final.binding+",r="+final.nonce):
			t.Errorf("%q: %+v", msg, final)
		}
	})
}

func FuzzServerFirst(f *testing.F) {
	for _, seed := range []string{exampleChallenge, "r=rOprNGfwEbeRWgbNEkqOx,s=AA==,i=1", "r=,s=,i="} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, msg string) {
		const nonce = "rOprNGfwEbeRWgbNEkqO"
		first, err := parseServerFirst(msg, nonce)
		if err == nil && (first.String() != msg || len(first.nonce) <= len(nonce) || first.iterations < 1) {
			t.Errorf("%q: %+v", msg, first)
		}
	})
}

// scripted is a connection whose other side has said all that it will.
type scripted struct {
	net.Conn
	said io.Reader
	got  bytes.Buffer
}

func (s *scripted) Read(p []byte) (int, error)  { return s.said.Read(p) }
func (s *scripted) Write(p []byte) (int, error) { return s.got.Write(p) }

// FuzzAuthentication: whatever both sides say, the exchange ends, and a client that has proved nothing never gets a
// SASLFinal, nor a server that does not go on from our nonce a proof.
func FuzzAuthentication(f *testing.F) {
	offer := string(frame('R', []byte("\x00\x00\x00\x0a"+scramSHA256Plus+"\x00"+scramSHA256+"\x00\x00")))
	initial := string(frame('p', []byte(scramSHA256Plus+"\x00\x00\x00\x00\x20"+gs2Bound+"n=,r=abc")))
	f.Add(offer+string(frame('R', []byte("\x00\x00\x00\x0br=abcd,s=AA==,i=1"))), initial, true)
	f.Add(offer, string(frame('p', []byte(scramSHA256+"\x00\x00\x00\x00\x0bn,,n=,r=abc"))), true)
	f.Add(offer, "X\x00\x00\x00\x04", true)
	f.Add(offer, "", false)
	f.Add("v\x00\x00\x00\x0c\x00\x03\x00\x00\x00\x00\x00\x00"+offer, initial, true)
	f.Add("E\x00\x00\x00\x05\x00", "", true)
	f.Add(string(frame('R', []byte("\x00\x00\x00\x00"))), "", true)
	srv := &Server{log: slog.New(slog.DiscardHandler)}
	f.Fuzz(func(t *testing.T, server, sent string, secured bool) {
		client, upstream := &scripted{said: strings.NewReader(sent)}, &scripted{said: strings.NewReader(server)}
		a := &authentication{srv: srv, client: client, in: client, upstream: upstream, secured: secured}
		if secured {
			a.binding = []byte("certificate")
		}
		err := a.run(context.Background())
		if own := (*Error)(nil); err != nil && !errors.As(err, &own) && !errors.Is(err, errRefused) && !errors.Is(err, errClientGone) {
			t.Error(err)
		}
		for _, p := range messages(client.got.Bytes()) {
			if p.kind == 'R' && binary.BigEndian.Uint32(append(p.body, 0, 0, 0, 0)) == 12 && !strings.Contains(server, string(p.body)) {
				t.Errorf("the client got %q", p.body)
			}
		}
		for _, p := range messages(upstream.got.Bytes()) {
			if strings.Contains(string(p.body), ",p=") && !strings.Contains(sent, string(p.body)) {
				t.Errorf("the server got %q", p.body)
			}
		}
	})
}

type message struct {
	kind byte
	body []byte
}

func messages(stream []byte) (all []message) {
	for r := bytes.NewReader(stream); ; {
		m, err := readMessage(r)
		if err != nil {
			return all
		}
		all = append(all, message{m[0], m[headerSize:]})
	}
}

// FuzzStartupConn: a reader that asks for more than a packet gets one packet, and all bytes in order.
func FuzzStartupConn(f *testing.F) {
	f.Add([]byte("\x00\x00\x00\x08\x04\xd2\x16\x2f\x00\x00\x00\x08\x04\xd2\x16\x30\x00\x00\x00\x09\x00\x03\x00\x00\x00Q"), 3)
	f.Add([]byte("\x16\x03\x01\x00\x01x"), 1)
	f.Add([]byte("\x00\x00\x00\x04\x00\x00\x00\x00\xff\xff\xff\xff"), 9)
	f.Fuzz(func(t *testing.T, stream []byte, cut int) {
		conn := &startupConn{Conn: &scripted{said: &choppy{stream, max(cut, 1)}}}
		direct, err := conn.startsTLS()
		if err != nil {
			return
		}
		var got []byte
		p := make([]byte, 10000)
		for {
			n, err := conn.Read(p)
			got = append(got, p[:n]...)
			if err != nil {
				break
			}
		}
		if !bytes.HasPrefix(stream, got) || direct && len(got) != len(stream) {
			t.Errorf("%x became %x", stream, got)
		}
		if conn.packets > maxStartupPackets+1 || !direct && len(got) > 0 && conn.packets == 0 {
			t.Errorf("%d packets", conn.packets)
		}
	})
}

// TestStartupPackets: a client may ask for encryption twice, and not for ever.
func TestStartupPackets(t *testing.T) {
	client, server := net.Pipe()
	defer func() { _ = client.Close() }()
	go func() { _, _ = io.Copy(io.Discard, client) }()
	go func() {
		for range 10 {
			if _, err := client.Write([]byte("\x00\x00\x00\x08\x04\xd2\x16\x30")); err != nil {
				return
			}
		}
	}()
	_ = server.SetDeadline(time.Now().Add(5 * time.Second))
	srv := &Server{log: slog.New(slog.DiscardHandler)}
	if _, err := srv.greet(server); !errors.Is(err, errTooManyRequests) {
		t.Error(err)
	}
}
