package integration_test

import (
	"bytes"
	"encoding/binary"
	"errors"
	"io"
	"net"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/scrimdb/scrim/native"
)

// cutter is a relay between the proxy and the server. Once armed it lets so many more bytes of the server's through, then it
// ends both connections.
type cutter struct {
	listener net.Listener
	server   string
	left     atomic.Int64 // bytes to let through; negative: all of them
	passed   atomic.Int64 // bytes of all answers so far
	reset    atomic.Bool  // end by a reset, not by an orderly close
	running  sync.WaitGroup
}

func newCutter(t *testing.T, server string) *cutter {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	c := &cutter{listener: listener, server: server}
	c.left.Store(-1)
	c.running.Go(c.accept)
	t.Cleanup(func() {
		_ = listener.Close()
		c.running.Wait()
	})
	return c
}

func (c *cutter) accept() {
	for {
		near, err := c.listener.Accept()
		if err != nil {
			return
		}
		far, err := net.Dial("tcp", c.server)
		if err != nil {
			_ = near.Close()
			continue
		}
		c.running.Go(func() {
			_, _ = io.Copy(far, struct{ io.Reader }{near}) // not by splice, which keeps its pipes for later
			_ = far.Close()
		})
		c.running.Go(func() { c.answers(near, far) })
	}
}

func (c *cutter) answers(near, far net.Conn) {
	defer func() { _ = far.Close() }()
	buf := make([]byte, 4096)
	for {
		n, err := far.Read(buf)
		if err != nil {
			_ = near.Close()
			return
		}
		left := c.left.Load()
		if left >= 0 && int64(n) >= left {
			_, _ = near.Write(buf[:left])
			if c.reset.Load() {
				abort(near)
			}
			_ = near.Close()
			return
		}
		if left >= 0 {
			c.left.Add(-int64(n))
		}
		c.passed.Add(int64(n))
		_, _ = near.Write(buf[:n])
	}
}

// TestUpstreamCut: a server that is gone after n bytes of its answer, for every fifth n: the client gets a beginning of the
// answer that it would have got and the end of the connection, or between two messages a FATAL. Nothing comes after a part
// of a message, and of a row with seals no part comes at all.
func TestUpstreamCut(t *testing.T) {
	onEachAlone(t, func(t *testing.T, e *env) {
		c := newCutter(t, e.server.Addr())
		through, err := openProxy(t.Context(), c.listener.Addr().String(), e.server.DSN(e.server.Superuser(), e.server.Password(), e.database), e.models, e.rt)
		if err != nil {
			t.Fatal(err)
		}
		defer through.close()
		query := simpleQuery(`SELECT id, income, "Note" FROM customers WHERE id < 3 ORDER BY id`)
		e.leavesNothing(t, func() {
			for _, role := range []string{risk, analyst} {
				whole := cutAnswer(t, e, c, through.addr, role, query, -1)
				if len(whole) < 100 || whole[len(whole)-6] != 'Z' {
					t.Fatalf("%s: the whole answer is %q", role, whole)
				}
				size := int(c.passed.Load()) // of the server's answer, which has seals where the client's has codes
				for n := 0; n < size; n += 5 {
					c.reset.Store(n%2 == 1)
					got := cutAnswer(t, e, c, through.addr, role, query, n)
					if wrong := checkCut(whole, got); wrong != "" {
						t.Errorf("%s, cut after %d bytes: %s\n%q\nof\n%q", role, n, wrong, got, whole)
					}
				}
			}
		})
	})
}

// cutAnswer asks twice: the first time makes the plan, the second answer is cut.
func cutAnswer(t *testing.T, e *env, c *cutter, addr, role string, query []byte, n int) []byte {
	t.Helper()
	c.left.Store(-1)
	client := loggedIn(t, addr, role, role, e.database)
	defer func() { _ = client.conn.Close() }()
	client.write(query)
	if _, err := client.until([]string{"ReadyForQuery"}); err != nil {
		t.Fatal(err)
	}
	c.left.Store(int64(n))
	c.passed.Store(0)
	client.write(query)
	if n < 0 {
		got, err := client.until([]string{"ReadyForQuery"})
		if err != nil {
			t.Fatal(err)
		}
		return bytes.Join(got, nil)
	}
	_ = client.conn.SetReadDeadline(time.Now().Add(wirePatience))
	got, err := io.ReadAll(client.in)
	if err = ending(err); err != nil && err != io.EOF { //nolint:errorlint // ending returns this very one
		t.Errorf("%s, cut after %d bytes: the session goes on: %v", role, n, err)
	}
	return got
}

// checkCut says what is wrong with a part of an answer, or nothing.
func checkCut(whole, got []byte) string {
	same := 0
	for same < len(got) && same < len(whole) && got[same] == whole[same] {
		same++
	}
	rest := got[same:]
	if len(rest) == 0 {
		return ""
	}
	boundary := 0
	for boundary < same {
		boundary += 1 + int(binary.BigEndian.Uint32(whole[boundary+1:]))
	}
	switch {
	case boundary != same:
		return "bytes after a part of a message"
	case len(rest) < 5 || rest[0] != 'E' || len(rest) != 1+int(binary.BigEndian.Uint32(rest[1:])):
		return "what follows is no single error"
	case !strings.Contains(string(rest), "SFATAL\x00"):
		return "the error is not fatal"
	}
	return ""
}

// endless is a result that fills every buffer on the way, masked or not.
var endless = map[string][]byte{
	risk:    simpleQuery(`SELECT generate_series(1, 10000000), repeat('x', 1000)`),
	analyst: simpleQuery(`SELECT income, repeat('x', 1000) FROM customers, generate_series(1, 100000)`),
}

// TestClientFaults: however a client goes, its session goes with it.
func TestClientFaults(t *testing.T) {
	read := func(t *testing.T, c *wireClient, n int) {
		t.Helper()
		for range n {
			if _, err := c.receive(); err != nil {
				t.Error(err)
			}
		}
	}
	faults := []struct {
		name string
		die  func(t *testing.T, c *wireClient, role string)
	}{
		{"idle", func(_ *testing.T, c *wireClient, _ string) { _ = c.conn.Close() }},
		{"in a result", func(t *testing.T, c *wireClient, role string) {
			c.write(endless[role])
			read(t, c, 1000)
			_ = c.conn.Close()
		}},
		{"in a result, by a reset", func(t *testing.T, c *wireClient, role string) {
			c.write(endless[role])
			read(t, c, 10)
			abort(c.conn)
		}},
		{"never read", func(_ *testing.T, c *wireClient, role string) {
			c.write(endless[role])
			time.Sleep(300 * time.Millisecond)
			_ = c.conn.Close()
		}},
		{"before its answer", func(_ *testing.T, c *wireClient, _ string) {
			c.write(simpleQuery(`SELECT pg_sleep(0.2)`))
			_ = c.conn.Close()
		}},
		{"in a transaction", func(t *testing.T, c *wireClient, _ string) {
			c.write(simpleQuery(`BEGIN; LOCK TABLE lines IN SHARE MODE`))
			read(t, c, 3)
			_ = c.conn.Close()
		}},
		{"in COPY", func(t *testing.T, c *wireClient, _ string) {
			c.write(simpleQuery(`COPY lines FROM STDIN`))
			read(t, c, 1)
			c.write(frontendMessage('d', bytes.Repeat([]byte("1\tx\n"), 10000)))
			_ = c.conn.Close()
		}},
		{"in the middle of CopyData", func(t *testing.T, c *wireClient, _ string) {
			c.write(simpleQuery(`COPY lines FROM STDIN`))
			read(t, c, 1)
			c.write(frontendMessage('d', bytes.Repeat([]byte("1\tx\n"), 10000))[:20000])
			abort(c.conn)
		}},
		{"in the middle of a message", func(_ *testing.T, c *wireClient, _ string) {
			c.write(simpleQuery(`SELECT 1`)[:9])
			_ = c.conn.Close()
		}},
		{"in the middle of a pipeline", func(_ *testing.T, c *wireClient, _ string) {
			parse := frontendMessage('P', append(cstring(cstring(nil, ""), `SELECT income FROM customers`), 0, 0))
			c.write(append(parse, frontendMessage('B', make([]byte, 8))...))
			_ = c.conn.Close()
		}},
		{"its sending half", func(t *testing.T, c *wireClient, _ string) {
			halfClose(c.conn)
			if _, err := c.receive(); err != io.EOF { //nolint:errorlint // it must be this very one
				t.Errorf("after the end of the client's stream: %v", err)
			}
		}},
		{"its sending half, in a result", func(t *testing.T, c *wireClient, _ string) {
			c.write(simpleQuery(`SELECT repeat('x', 1000) FROM generate_series(1, 6000)`))
			halfClose(c.conn)
			if got, err := c.until([]string{"ReadyForQuery"}); err != nil {
				t.Errorf("%d messages, then %v", len(got), err)
			}
		}},
	}
	onEachAlone(t, func(t *testing.T, e *env) {
		for _, f := range faults {
			for _, role := range []string{risk, analyst} {
				t.Run(f.name+"/"+role, func(t *testing.T) {
					e.leavesNothing(t, func() {
						for range 5 {
							c := e.wire(t, role)
							f.die(t, c, role)
							_ = c.conn.Close()
						}
					})
				})
			}
		}
	})
}

// TestSlowReaders: clients that do not read cost the proxy a bounded amount of memory, whatever they asked for.
func TestSlowReaders(t *testing.T) {
	onEachAlone(t, func(t *testing.T, e *env) {
		e.leavesNothing(t, func() {
			const clients, bound = 20, 64 << 20
			peak := watchHeap()
			for i := range clients {
				role := []string{risk, analyst}[i%2]
				c := e.wire(t, role)
				c.write(endless[role])
				defer func() { _ = c.conn.Close() }()
			}
			time.Sleep(time.Second)
			if grown := peak(); grown > bound {
				t.Errorf("%d clients that do not read cost %d MB", clients, grown>>20)
			}
			c := e.wire(t, analyst)
			defer func() { _ = c.conn.Close() }()
			c.write(simpleQuery(`SELECT 1`))
			if got, err := c.until([]string{"ReadyForQuery"}); err != nil {
				t.Error(got, err)
			}
		})
	})
}

// TestBackendTerminated: a backend that an administrator ends, while idle or in a result, masked or not, ends its session in
// PostgreSQL's words. One that is ended while its socket takes no more says nothing and may leave half a message
// (ProcessClientWriteInterrupt in postgres.c): then its session ends there, or behind whole messages in words of the proxy's.
func TestBackendTerminated(t *testing.T) {
	onEachAlone(t, func(t *testing.T, e *env) {
		admin := e.admin(t)
		for _, role := range []string{risk, analyst} {
			for _, busy := range []bool{false, true} {
				e.leavesNothing(t, func() {
					c := e.wire(t, role)
					defer func() { _ = c.conn.Close() }()
					if busy {
						c.write(endless[role])
						for range 100 {
							if _, err := c.receive(); err != nil {
								t.Fatal(err)
							}
						}
					}
					if _, err := admin.Exec(t.Context(), `SELECT pg_terminate_backend($1)`, int(c.pid())); err != nil {
						t.Fatal(err)
					}
					last, err := c.lastMessage()
					told := func(code string) bool { return last[0] == 'E' && strings.Contains(string(last), "C"+code+"\x00") }
					switch {
					case err == io.EOF && told("57P01"): //nolint:errorlint // it must be this very one
					case busy && err == io.EOF && told("08006"): //nolint:errorlint // and this
					case busy && role == risk && last[0] == 'D' && errors.Is(err, io.ErrUnexpectedEOF): // half a row, and nothing behind it
					default:
						t.Errorf("%s, busy %v: %.200q, then %v", role, busy, last, err)
					}
				})
			}
		}
	})
}

// lastMessage reads to the end of the connection.
func (c *wireClient) lastMessage() (last []byte, err error) {
	for {
		msg, err := c.receive()
		if err != nil {
			return last, err
		}
		last = msg
	}
}

// TestBackendKilled: a backend that is killed takes its server down for a moment. Every session ends cleanly, and the proxy
// serves again as soon as the server does.
func TestBackendKilled(t *testing.T) {
	onEachAlone(t, func(t *testing.T, e *env) {
		victim, other := e.wire(t, analyst), e.wire(t, risk)
		victim.write(endless[analyst])
		other.write(endless[risk])
		for range 100 {
			if _, err := victim.receive(); err != nil {
				t.Fatal(err)
			}
		}
		if err := syscall.Kill(int(victim.pid()), syscall.SIGKILL); err != nil {
			t.Fatal("kill -9 of a backend needs the rights of the server's user or root:", err)
		}
		for name, c := range map[string]*wireClient{"the killed": victim, "another": other} {
			if last, err := c.lastMessage(); !errors.Is(err, io.EOF) && !errors.Is(err, io.ErrUnexpectedEOF) { // or in a message: the server was killed
				t.Errorf("%s session ends with %.200q, then %v", name, last, err)
			}
		}
		awaitServer(t, e.server, e.database)
		got := ""
		for deadline := time.Now().Add(20 * time.Second); got == "" && time.Now().Before(deadline); time.Sleep(50 * time.Millisecond) {
			conn, err := pgx.Connect(t.Context(), e.dsn(analyst))
			if err != nil {
				continue
			}
			got, _ = text(t, conn, `SELECT id, income FROM customers WHERE id = 1`) // refused until the catalog is back too
			_ = conn.Close(t.Context())
		}
		if !strings.HasPrefix(got, "1|") {
			t.Errorf("after the server is back: %q", got)
		}
		e.leavesNothing(t, func() {})
	})
}

// awaitServer waits until a server that crashed has recovered.
func awaitServer(t *testing.T, server *native.Server, database string) {
	t.Helper()
	for deadline := time.Now().Add(30 * time.Second); ; time.Sleep(50 * time.Millisecond) {
		conn, err := pgx.Connect(t.Context(), server.DSN(server.Superuser(), server.Password(), database))
		if err == nil {
			_ = conn.Close(t.Context())
			return
		}
		if time.Now().After(deadline) {
			t.Fatal("the server has not recovered:", err)
		}
	}
}
