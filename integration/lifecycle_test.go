package integration_test

import (
	"context"
	"encoding/binary"
	"fmt"
	"net"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgproto3"

	"github.com/scrimdb/scrim/proxy"
	"github.com/scrimdb/scrim/udf"
)

// serve starts another proxy of the same database, as change makes it. stop ends it and waits until it has ended.
func (e *env) serve(t testing.TB, change func(*proxy.Config)) (other *env, stop func()) {
	t.Helper()
	store, err := udf.NewStore(e.models)
	if err != nil {
		t.Fatal(err)
	}
	cfg := proxy.Config{Upstream: e.server.Addr(), Catalog: e.catalog, Library: udf.NewLibrary(e.rt, store), Logger: logger()}
	change(&cfg)
	srv, err := proxy.NewServer(cfg)
	if err != nil {
		t.Fatal(err)
	}
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	served := make(chan error, 1)
	go func() { served <- srv.Serve(ctx, listener) }()
	stop = sync.OnceFunc(func() {
		cancel()
		if err := <-served; err != nil {
			t.Error(err)
		}
	})
	t.Cleanup(stop)
	return &env{world: e.world, database: e.database, catalog: e.catalog, proxy: srv, addr: listener.Addr().String()}, stop
}

// eventually waits until done, or fails after ten seconds.
func eventually(t *testing.T, done func() bool) {
	t.Helper()
	for deadline := time.Now().Add(time.Minute); !done(); time.Sleep(10 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatal("it has not come to pass in a minute")
		}
	}
}

// TestShutdown: a session at rest is told at once, a transaction may end, one that does not is told when the time is up.
func TestShutdown(t *testing.T) {
	onEach(t, func(t *testing.T, e *env) {
		p, stop := e.serve(t, func(c *proxy.Config) { c.ShutdownTimeout = 2 * time.Second })
		e.exec(t, e.admin(t), `CREATE TABLE notes (t text)`, `GRANT ALL ON notes TO risk`)
		resting, working, stuck := p.connect(t, risk), p.connect(t, risk), p.connect(t, risk)
		e.exec(t, working, `BEGIN`, `INSERT INTO notes VALUES ('kept')`)
		e.exec(t, stuck, `BEGIN`, `INSERT INTO notes VALUES ('lost')`)
		started := time.Now()
		ended := make(chan time.Duration, 1)
		go func() { stop(); ended <- time.Since(started) }()
		var told error
		eventually(t, func() bool { _, told = text(t, resting, `SELECT 1`); return told != nil })
		if code(told) != "57P01" {
			t.Errorf("a session at rest: %v", told)
		}
		if _, err := pgconn.Connect(t.Context(), p.dsn(risk)); err == nil {
			t.Error("a connection was taken in during shutdown")
		}
		e.exec(t, working, `INSERT INTO notes VALUES ('kept too')`, `COMMIT`)
		if took := <-ended; took < 1900*time.Millisecond || took > 10*time.Second {
			t.Errorf("shutdown took %s", took)
		}
		for name, conn := range map[string]interface{ PgConn() *pgconn.PgConn }{"after its commit": working, "stuck": stuck} {
			if _, err := conn.PgConn().Exec(t.Context(), `SELECT 1`).ReadAll(); code(err) != "57P01" {
				t.Errorf("%s: %v", name, err)
			}
		}
		if got := mustText(t, e.connect(t, risk), `SELECT t FROM notes ORDER BY t`); got != "kept\nkept too\n" {
			t.Errorf("committed: %q", got)
		}
	})
}

// TestShutdownWithDeafClient: a client that does not read what it asked for does not keep the server from ending.
func TestShutdownWithDeafClient(t *testing.T) {
	onEachAlone(t, func(t *testing.T, e *env) {
		e.leavesNothing(t, func() {
			p, stop := e.serve(t, func(c *proxy.Config) { c.ShutdownTimeout = 100 * time.Millisecond })
			deaf := p.wire(t, risk)
			deaf.write(simpleQuery(`SELECT repeat('x', 10000) FROM generate_series(1, 20000)`))
			time.Sleep(300 * time.Millisecond) // until every buffer on the way is full
			ended := make(chan struct{})
			go func() { defer close(ended); stop() }()
			select {
			case <-ended:
			case <-time.After(10 * time.Second):
				t.Error("the server does not end")
			}
			_ = deaf.conn.Close()
			<-ended
		})
	})
}

// TestCancelFlood: cancel requests come from anybody, and each takes a connection upstream: not more than so many at a time.
func TestCancelFlood(t *testing.T) {
	upstream, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = upstream.Close() })
	var dialled atomic.Int64
	go func() {
		for {
			conn, err := upstream.Accept()
			if err != nil {
				return
			}
			t.Cleanup(func() { _ = conn.Close() }) // and says nothing
			dialled.Add(1)
		}
	}()
	e := worlds[0].fresh(t)
	p, _ := e.serve(t, func(c *proxy.Config) { c.Upstream, c.StartupTimeout = upstream.Addr().String(), 2*time.Second })
	for range 300 {
		c := dialWire(t, p.addr)
		c.write(binary.BigEndian.AppendUint64([]byte{0, 0, 0, 16, 0x04, 0xd2, 0x16, 0x2e}, 42))
	}
	eventually(t, func() bool { return dialled.Load() >= 64 })
	time.Sleep(200 * time.Millisecond)
	if n := dialled.Load(); n > 64 {
		t.Errorf("%d connections upstream", n)
	}
}

// TestReplication: nobody hears more before authentication than from the server, and masked roles may not replicate.
func TestReplication(t *testing.T) {
	onEachAlone(t, func(t *testing.T, e *env) {
		admin := e.admin(t)
		e.exec(t, admin, `CREATE ROLE walker LOGIN REPLICATION PASSWORD 'walker'`)
		defer e.exec(t, admin, `DROP ROLE walker`)
		for _, role := range []string{risk, analyst, "walker", "nobody"} {
			c := dialWire(t, e.addr)
			c.write(startupPacket(0x30000, "user", role, "database", e.database, "replication", "database"))
			first, err := c.receive()
			if err != nil || first[0] != 'R' {
				t.Errorf("%s: %q %v, not a request to authenticate", role, first, err)
			}
		}
		dsn := e.dsn("walker") + "&replication=database"
		if _, err := pgconn.Connect(t.Context(), dsn); code(err) != "0A000" {
			t.Errorf("a masked role that may replicate: %v", err)
		}
		e.exec(t, admin, `ALTER ROLE walker SUPERUSER`)
		conn, err := pgconn.Connect(t.Context(), dsn)
		if err != nil {
			t.Fatal(err)
		}
		defer func() { _ = conn.Close(t.Context()) }()
		if _, err := conn.Exec(t.Context(), `IDENTIFY_SYSTEM`).ReadAll(); err != nil {
			t.Errorf("an unmasked role that may replicate: %v", err)
		}
	})
}

// TestIdleTimeout ends who says nothing, and leaves who works or has a transaction open.
func TestIdleTimeout(t *testing.T) {
	onEach(t, func(t *testing.T, e *env) {
		p, _ := e.serve(t, func(c *proxy.Config) { c.IdleTimeout = 700 * time.Millisecond })
		idle, inTransaction, busy := p.connect(t, risk), p.connect(t, risk), p.connect(t, risk)
		e.exec(t, inTransaction, `BEGIN`)
		e.exec(t, busy, `SELECT pg_sleep(3)`)
		if _, err := text(t, idle, `SELECT 1`); code(err) != "57P05" {
			t.Errorf("idle: %v", err)
		}
		e.exec(t, inTransaction, `COMMIT`)
		e.exec(t, busy, `SELECT 1`)
	})
}

// TestLimits: one session too many is told so; connections that say nothing make room for those that speak.
func TestLimits(t *testing.T) {
	onEach(t, func(t *testing.T, e *env) {
		p, _ := e.serve(t, func(c *proxy.Config) { c.MaxConnections, c.MaxStarting, c.StartupTimeout = 2, 20, time.Minute })
		first := p.connect(t, risk)
		_ = p.connect(t, risk)
		if _, err := pgconn.Connect(t.Context(), p.dsn(risk)); code(err) != "53300" {
			t.Errorf("the third of two: %v", err)
		}
		_ = first.Close(t.Context())
		connects := func() bool {
			conn, err := pgconn.Connect(t.Context(), p.dsn(risk))
			return err == nil && conn.Close(t.Context()) == nil
		}
		eventually(t, connects) // a session takes a moment to end
		var silent []net.Conn
		for range 50 {
			conn, err := net.Dial("tcp", p.addr)
			if err != nil {
				t.Fatal(err)
			}
			defer func() { _ = conn.Close() }()
			silent = append(silent, conn)
		}
		eventually(t, connects)
		_ = silent[0].SetReadDeadline(time.Now().Add(5 * time.Second))
		if _, err := silent[0].Read(make([]byte, 1)); err == nil || strings.Contains(err.Error(), "timeout") {
			t.Errorf("the oldest silent connection is still open: %v", err)
		}
	})
}

// TestHalfClosed: a client that has said all gets all of its answers.
func TestHalfClosed(t *testing.T) {
	onEachProtected(t, func(t *testing.T, e *env) {
		for _, role := range []string{risk, analyst} {
			h := rawConn(t, e.dsn(role))
			want := script(t, rawConn(t, e.dsn(role)), 1, &pgproto3.Query{String: `SELECT id, income FROM customers WHERE id < 30`})
			h.Frontend.SendQuery(&pgproto3.Query{String: `SELECT pg_sleep(0.2)`})
			h.Frontend.SendQuery(&pgproto3.Query{String: `SELECT id, income FROM customers WHERE id < 30`})
			if err := h.Frontend.Flush(); err != nil {
				t.Fatal(err)
			}
			if err := h.Conn.(*net.TCPConn).CloseWrite(); err != nil {
				t.Fatal(err)
			}
			if got := script(t, h, 2); got != "TD()CZI "+want {
				t.Errorf("%s: %.300s", role, got)
			}
			if _, err := h.Frontend.Receive(); err == nil {
				t.Error("the connection is still open")
			}
		}
	})
}

// TestSlowReader: a client that reads slowly gets everything, and others do not wait for it. TestSlowReaders has what that
// costs.
func TestSlowReader(t *testing.T) {
	onEachProtected(t, func(t *testing.T, e *env) {
		for _, role := range []string{risk, analyst} {
			slow := rawConn(t, e.dsn(role))
			_ = slow.Conn.(*net.TCPConn).SetReadBuffer(64 << 10)
			query := `SELECT c.id, c.income, repeat('x', 10000) FROM customers c ORDER BY c.id`
			slow.Frontend.SendQuery(&pgproto3.Query{String: query})
			if err := slow.Frontend.Flush(); err != nil {
				t.Fatal(err)
			}
			time.Sleep(300 * time.Millisecond)
			e.exec(t, e.connect(t, role), `SELECT 1`)
			rows := 0
			for done := false; !done; {
				msg, err := slow.Frontend.Receive()
				if err != nil {
					t.Fatal(err)
				}
				switch msg := msg.(type) {
				case *pgproto3.DataRow:
					rows++
					if len(msg.Values[2]) != 10000 || string(msg.Values[0]) != fmt.Sprint(rows) {
						t.Fatalf("%s: row %d is %.20s", role, rows, msg.Values[0])
					}
				case *pgproto3.ReadyForQuery:
					done = true
				}
			}
			if rows != 2000 {
				t.Errorf("%s: %d rows", role, rows)
			}
		}
	})
}

// TestMovingHome: sessions move between event loops and goroutines all the time, with statements under way, and every
// answer is right.
func TestMovingHome(t *testing.T) {
	onEachProtected(t, func(t *testing.T, e *env) {
		want := mustText(t, e.connect(t, analyst), `SELECT id, income FROM customers WHERE id = 77`)
		var all sync.WaitGroup
		for i := range 8 {
			conn := e.connect(t, analyst)
			all.Go(func() {
				for j := range 60 {
					// A text never seen before has to be parsed and resolved; the second is known by then.
					for range 2 {
						query := fmt.Sprintf(`SELECT id, income FROM customers WHERE id = 77 AND %d < %d`, i, 100+j)
						if got, err := text(t, conn, query); got != want || err != nil {
							t.Errorf("%s: %q, %v", query, got, err)
							return
						}
					}
				}
			})
		}
		all.Wait()
	})
}
