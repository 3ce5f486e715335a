package integration_test

import (
	"bytes"
	"crypto/rand"
	"crypto/tls"
	"encoding/binary"
	"errors"
	"io"
	"net"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/scrimdb/scrim/proxy"
)

// goodClient logs in and is answered.
func (e *env) goodClient(t testing.TB, addr string) {
	t.Helper()
	c := loggedIn(t, addr, analyst, analyst, e.database)
	defer func() { _ = c.conn.Close() }()
	c.write(simpleQuery(`SELECT income FROM customers WHERE id = 1`))
	if got, err := c.until([]string{"DataRow", "ReadyForQuery"}); err != nil {
		t.Errorf("a good client: %q, %v", bytes.Join(got, nil), err)
	}
}

var gssRequest = []byte{0, 0, 0, 8, 4, 210, 22, 48}

// TestSlowStartups: whoever has not sent a startup packet when StartupTimeout is over is cut off, however busy it looks.
func TestSlowStartups(t *testing.T) {
	const limit = time.Second
	drip := func(conn net.Conn, b []byte) {
		for i := range b {
			if _, err := conn.Write(b[i : i+1]); err != nil {
				return
			}
			time.Sleep(50 * time.Millisecond)
		}
	}
	startup := startupPacket(0x30000, "user", "analyst", "database", "nowhere", "application_name", "slow")
	onEachAlone(t, func(t *testing.T, e *env) {
		files := newAuthority(t, "authority").issue(t, "proxy")
		p, _ := e.serve(t, func(c *proxy.Config) {
			c.StartupTimeout, c.TLS = limit, proxy.ClientTLS{CertFile: files.cert, KeyFile: files.key}
		})
		addr := p.addr
		e.goodClient(t, addr)
		slow := map[string]func(conn net.Conn){
			"nothing":             func(net.Conn) {},
			"a byte at a time":    func(conn net.Conn) { drip(conn, startup) },
			"half a length":       func(conn net.Conn) { _, _ = conn.Write(startup[:2]) },
			"all but the last":    func(conn net.Conn) { _, _ = conn.Write(startup[:len(startup)-1]) },
			"TLS, then nothing":   func(conn net.Conn) { _, _ = io.WriteString(conn, sslRequest) },
			"half a ClientHello":  func(conn net.Conn) { _, _ = conn.Write([]byte(sslRequest+"\x16\x03\x01\x02\x00\x01\x00")) },
			"direct TLS, half":    func(conn net.Conn) { _, _ = conn.Write([]byte{0x16, 3, 1, 2, 0, 1, 0}) },
			"refused encryptions": func(conn net.Conn) { drip(conn, bytes.Repeat(gssRequest, 10)) },
			"TLS without startup": func(conn net.Conn) {
				_, _ = io.WriteString(conn, sslRequest)
				_, _ = conn.Read(make([]byte, 1))
				_ = tls.Client(conn, &tls.Config{InsecureSkipVerify: true}).Handshake() //nolint:gosec // the test is about what comes after
			},
		}
		e.leavesNothing(t, func() {
			var waiting sync.WaitGroup
			for name, begin := range slow {
				for range 3 {
					waiting.Go(func() { checkCutOff(t, addr, name, limit, begin) })
				}
			}
			waiting.Wait()
		})
		e.goodClient(t, addr)
	})
}

// checkCutOff connects, begins, and sees the connection end within the limit and a second.
func checkCutOff(t *testing.T, addr, name string, limit time.Duration, begin func(net.Conn)) {
	conn, err := net.Dial("tcp", addr)
	if err != nil {
		t.Error(err)
		return
	}
	defer func() { _ = conn.Close() }()
	started := time.Now()
	begin(conn)
	_ = conn.SetReadDeadline(started.Add(limit + 3*time.Second))
	_, err = io.Copy(io.Discard, conn)
	took := time.Since(started)
	if ended := ending(err); ended != nil && !errors.Is(ended, io.EOF) || took > limit+time.Second {
		t.Errorf("%s: the connection lives after %s: %v", name, took.Round(time.Millisecond), err)
	}
}

// TestGarbage: what is no beginning of a session is answered or cut off at once, and leaves nothing.
func TestGarbage(t *testing.T) {
	cancelRequest := func(key ...byte) []byte {
		b := binary.BigEndian.AppendUint32(nil, uint32(8+len(key)))
		return append(binary.BigEndian.AppendUint32(b, 80877102), key...)
	}
	noise := make([]byte, 100_000)
	_, _ = rand.Read(noise)
	oversize := startupPacket(0x30000, "user", "analyst", "application_name", string(bytes.Repeat([]byte("x"), 20_000)))
	onEachAlone(t, func(t *testing.T, e *env) {
		e.leavesNothing(t, func() {
			for name, sent := range map[string][]byte{
				"noise":                          noise,
				"zeros":                          make([]byte, 1000),
				"an oversize startup packet":     oversize,
				"TLS asked for many times":       []byte(strings.Repeat(sslRequest, 100)),
				"GSS asked for many times":       bytes.Repeat(gssRequest, 100),
				"both in turn":                   bytes.Repeat(append(bytes.Clone(sslRequest), gssRequest...), 50),
				"a cancel request, wrong key":    cancelRequest(0, 0, 0, 1, 0, 0, 0, 2),
				"a cancel request, a long key":   cancelRequest(bytes.Repeat([]byte{1}, 200)...),
				"a cancel request, too long":     cancelRequest(bytes.Repeat([]byte{1}, 2000)...),
				"a cancel request, no key":       cancelRequest(),
				"a cancel request after refusal": append(bytes.Clone(sslRequest), cancelRequest(0, 0, 0, 1, 0, 0, 0, 2)...),
				"a query":                        simpleQuery(`SELECT 1`),
				"a startup and a query":          append(startupPacket(0x30000, "user", "analyst", "database", e.database), simpleQuery(`SELECT 1`)...),
				"a startup and an unknown type":  append(startupPacket(0x30000, "user", "analyst", "database", e.database), 'z', 0, 0, 0, 4),
				"a startup and a huge password":  append(startupPacket(0x30000, "user", "analyst", "database", e.database), 'p', 0x3f, 0xff, 0xff, 0xff),
			} {
				checkGarbage(t, e.addr, name, sent)
			}
		})
		e.goodClient(t, e.addr)
	})
}

func checkGarbage(t *testing.T, addr, name string, sent []byte) {
	t.Helper()
	conn, err := net.Dial("tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = conn.Close() }()
	_, _ = conn.Write(sent)
	halfClose(conn)
	_ = conn.SetReadDeadline(time.Now().Add(5 * time.Second))
	if _, err := io.Copy(io.Discard, conn); err != nil && !errors.Is(ending(err), io.EOF) {
		t.Errorf("%s: neither answered nor closed: %v", name, err)
	}
}

// TestManyConnects: thousands of connections as fast as they can be made, some of which begin a session, are each answered
// or closed, while a good client is served.
func TestManyConnects(t *testing.T) {
	const workers = 32
	onEachAlone(t, func(t *testing.T, e *env) {
		connects := int64(2_000)
		if e.world == worlds[0] {
			connects = 10_000 // what the server may meet in a minute, in a few seconds; once is enough
		}
		e.leavesNothing(t, func() {
			var next, unanswered atomic.Int64
			var working sync.WaitGroup
			started := time.Now()
			for range workers {
				working.Go(func() {
					for n := next.Add(1); n <= connects; n = next.Add(1) {
						if !connectOnce(e, n) {
							unanswered.Add(1)
						}
					}
				})
			}
			e.goodClient(t, e.addr)
			working.Wait()
			t.Logf("%d connects in %s", connects, time.Since(started).Round(time.Millisecond))
			if n := unanswered.Load(); n > 0 {
				t.Errorf("%d connections were neither answered nor closed", n)
			}
		})
		e.goodClient(t, e.addr)
	})
}

// connectOnce is one of many: most go at once, some say something, one in twenty begins a session.
func connectOnce(e *env, n int64) bool {
	conn, err := net.Dial("tcp", e.addr)
	if err != nil {
		return false
	}
	defer func() { _ = conn.Close() }()
	switch {
	case n%20 == 0:
		_, _ = conn.Write(startupPacket(0x30000, "user", "guest", "database", e.database))
	case n%4 == 1:
		_, _ = io.WriteString(conn, sslRequest)
	default:
		return true
	}
	_ = conn.SetReadDeadline(time.Now().Add(wirePatience))
	_, err = conn.Read(make([]byte, 1))
	return err == nil || errors.Is(ending(err), io.EOF)
}
