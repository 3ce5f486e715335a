package proxy

import (
	"bytes"
	"context"
	"encoding/binary"
	"io"
	"log/slog"
	"net"
	"reflect"
	"sync"
	"sync/atomic"
	"testing"
	"time"
	"unsafe"

	"github.com/jackc/pgx/v5/pgproto3"

	"github.com/scrimdb/scrim/catalog"
	"github.com/scrimdb/scrim/rewrite"
)

// The fuzzers of what a session reads once it is logged in. There is no PostgreSQL here: what is tested is that whatever
// comes, from either side and in whatever pieces, neither panics nor hangs nor goes on changed where nothing may change.
//
//	go test ./proxy -run '^$' -fuzz '^FuzzSession$' -fuzztime 60s

// panics is a log that fails the test when a session says that it panicked.
type panics struct {
	slog.Handler
	t *testing.T
}

func (p panics) Handle(_ context.Context, r slog.Record) error {
	if r.Message == "session panicked" {
		r.Attrs(func(a slog.Attr) bool { p.t.Log(a.Value); return true })
		p.t.Error(r.Message)
	}
	return nil
}

func (p panics) Enabled(context.Context, slog.Level) bool { return true }

// emptyCatalog knows no policy and is never out of date. Package catalog cannot make one without a server.
func emptyCatalog() *catalog.Catalog {
	c := &catalog.Catalog{}
	field := func(name string) unsafe.Pointer {
		return unsafe.Pointer(reflect.ValueOf(c).Elem().FieldByName(name).UnsafeAddr())
	}
	(*atomic.Pointer[catalog.Snapshot])(field("current")).Store(&catalog.Snapshot{})
	(*atomic.Int64)(field("contact")).Store(time.Now().Add(24 * time.Hour).UnixNano())
	return c
}

func fuzzServer(t *testing.T) *Server {
	return &Server{
		log: slog.New(panics{slog.DiscardHandler, t}), catalog: emptyCatalog(), cancels: cancels{sessions: map[cancelKey]*session{}},
		sessions: map[*session]struct{}{},
	}
}

// plant makes a session remember a planned statement "s" and a portal "p" of it, so that messages about them are decoded.
func plant(s *session) {
	plan := &rewrite.Plan{SQL: "SELECT 1, 2", Outputs: []rewrite.Output{{Seal: -1}, {Seal: -1}}}
	s.planner.version = planVersion{snapshot: s.srv.catalog.Snapshot(), grants: 1}
	st := &statement{Statement: rewrite.Statement{Text: "SELECT 1, 2"}, plan: plan, version: s.planner.version}
	s.statements.confirmed["s"] = st
	s.portals.confirmed["p"] = &portal{stmt: st, results: &results{plan: plan, formats: []int16{0, 0}}}
}

// FuzzSession sends any bytes of a client's and of a server's, in pieces of any size, to a session that is logged in.
func FuzzSession(f *testing.F) {
	bind := encodeAll(&pgproto3.Parse{Name: "x", Query: "SELECT $1"}, &pgproto3.Bind{PreparedStatement: "s", Parameters: [][]byte{{1}, nil}}, &pgproto3.Execute{}, &pgproto3.Sync{})
	f.Add(bind, []byte("1\x00\x00\x00\x042\x00\x00\x00\x04D\x00\x00\x00\x0b\x00\x01\x00\x00\x00\x011C\x00\x00\x00\x0dSELECT 1\x00Z\x00\x00\x00\x05I"), uint8(3))
	f.Add(encodeAll(&pgproto3.Query{String: "SELECT 1"}, &pgproto3.Terminate{}), []byte("E\x00\x00\x00\x10SERROR\x00Cx\x00\x00Z\x00\x00\x00\x05E"), uint8(0))
	f.Add(encodeAll(&pgproto3.Query{String: "COPY t FROM STDIN"}, &pgproto3.CopyData{Data: []byte("1\n")}, &pgproto3.CopyDone{}), []byte("G\x00\x00\x00\x07\x00\x00\x00"), uint8(200))
	f.Add([]byte("B\x00\x00\x00\x0d\x00s\x00\xff\xff\x00\x00\x00\x00"), []byte("S\x00\x00\x00\x08a\x00b\x00K\x00\x00\x00\x0c\x00\x00\x00\x01\x00\x00\x00\x02"), uint8(1))
	f.Add(encodeAll(&pgproto3.Query{String: "SHOW ENCODERS"}, &pgproto3.Query{String: "DROP ENCODER x"}), []byte("A\x00\x00\x00\x0c\x00\x00\x00\x01a\x00b\x00"), uint8(9))
	f.Fuzz(func(t *testing.T, fromClient, fromServer []byte, piece uint8) {
		client, clientEnd := net.Pipe()
		server, serverEnd := net.Pipe()
		s := fuzzServer(t).newSession(clientEnd, serverEnd, nil)
		s.release = func() {}
		plant(s)
		var peers sync.WaitGroup
		peers.Go(func() { _, _ = io.Copy(io.Discard, client) })
		peers.Go(func() { _, _ = io.Copy(io.Discard, server) })
		peers.Go(func() {
			_, _ = server.Write([]byte("R\x00\x00\x00\x08\x00\x00\x00\x00Z\x00\x00\x00\x05I"))
			dribble(server, fromServer, int(piece)+1)
			_ = server.SetDeadline(time.Now().Add(time.Second))
		})
		peers.Go(func() {
			dribble(client, fromClient, int(piece)+1)
			_ = client.Close()
		})
		ended := make(chan struct{})
		go func() { defer close(ended); s.inGoroutines(t.Context()) }()
		time.AfterFunc(100*time.Millisecond, func() { _ = server.Close() }) // a client that leaves waits for the server's last words
		select {
		case <-ended:
		case <-time.After(10 * time.Second):
			t.Error("the session hangs")
		}
		_, _ = client.Close(), server.Close()
		peers.Wait()
	})
}

func dribble(conn net.Conn, b []byte, piece int) {
	for len(b) > 0 {
		n := min(piece, len(b))
		if _, err := conn.Write(b[:n]); err != nil {
			return
		}
		b = b[n:]
	}
}

func encodeAll(messages ...pgproto3.FrontendMessage) (b []byte) {
	for _, m := range messages {
		b, _ = m.Encode(b)
	}
	return b
}

// sink is a connection that keeps what is written to it, and is never read.
type sink struct {
	net.Conn
	got []byte
}

func (s *sink) Write(p []byte) (int, error) {
	s.got = append(s.got, p...)
	return len(p), nil
}
func (*sink) SetWriteDeadline(time.Time) error { return nil }

// fuzzedSession is one without peers, logged in and at rest.
func fuzzedSession(t *testing.T) (s *session, client, upstream *sink) {
	client, upstream = &sink{}, &sink{}
	s = fuzzServer(t).newSession(client, upstream, nil)
	s.queue.pop()
	s.queue.settle()
	s.front.authenticated = true
	return s, client, upstream
}

// FuzzClientMessage: one message of a client's. A session that knows nothing relays it as it came, or ends; one that planned
// a statement sends whole messages, and of a Bind to it nothing is changed but what formats its columns have upstream.
func FuzzClientMessage(f *testing.F) {
	for _, m := range []pgproto3.FrontendMessage{
		&pgproto3.Query{String: "SELECT 1"}, &pgproto3.Parse{Name: "s", Query: "SELECT $1", ParameterOIDs: []uint32{23}}, &pgproto3.Describe{ObjectType: 'S', Name: "s"},
		&pgproto3.Bind{PreparedStatement: "s", DestinationPortal: "p", ParameterFormatCodes: []int16{1}, Parameters: [][]byte{{0, 1}, nil}, ResultFormatCodes: []int16{1, 0}},
		&pgproto3.Describe{ObjectType: 'P', Name: "p"}, &pgproto3.Execute{Portal: "p", MaxRows: 3}, &pgproto3.Close{ObjectType: 'S', Name: "s"}, &pgproto3.Close{ObjectType: 'P', Name: "p"},
		&pgproto3.Sync{}, &pgproto3.Flush{}, &pgproto3.CopyData{Data: []byte("1\t2\n")}, &pgproto3.CopyDone{}, &pgproto3.CopyFail{Message: "no"},
		&pgproto3.FunctionCall{Function: 1397, ArgFormatCodes: []uint16{1}, Arguments: [][]byte{{0, 0, 0, 1}}}, &pgproto3.PasswordMessage{Password: "x"}, &pgproto3.Terminate{},
	} {
		b := encodeAll(m)
		f.Add(b[0], b[headerSize:])
	}
	f.Add(byte('B'), []byte("\x00s\x00\xff\xff\x00\x00\x00\x00"))
	f.Add(byte('B'), []byte("\x00s\x00\x00\x00\x00\x01\x7f\xff\xff\xff"))
	f.Fuzz(func(t *testing.T, kind byte, body []byte) {
		msg := frame(kind, body)
		for _, planted := range []bool{false, true} {
			s, _, upstream := fuzzedSession(t)
			if planted {
				plant(s)
			}
			if text, _ := cutString(body); kind == 'Q' && rewrite.MaybeCommand(text) {
				continue // one of ours waits for the server: FuzzSession has these
			}
			if _, rest := cutString(body); kind == 'P' && rewrite.MaybeCommand(cString(rest)) {
				continue
			}
			s.front.in = frames{buf: bytes.Clone(msg), w: len(msg)}
			err := s.front.block(t.Context())
			switch {
			case !planted && err == nil && !bytes.Equal(upstream.got, msg):
				t.Errorf("%q became %q", msg, upstream.got)
			case err == nil && !wholeMessages(upstream.got):
				t.Errorf("%q became %q, which is no row of messages", msg, upstream.got)
			case err == nil && kind == 'B':
				sameBind(t, msg, upstream.got)
			}
		}
	})
}

// sameBind fails the test if a Bind that pgproto3 understands means something else upstream.
func sameBind(t *testing.T, sent, got []byte) {
	t.Helper()
	var a, b pgproto3.Bind
	if a.Decode(sent[headerSize:]) != nil {
		return
	}
	if len(got) < headerSize || got[0] != 'B' {
		return // refused: a Parse that fails is sent in its place
	}
	if err := b.Decode(got[headerSize:]); err != nil || a.DestinationPortal != b.DestinationPortal || a.PreparedStatement != b.PreparedStatement ||
		!reflect.DeepEqual(a.Parameters, b.Parameters) || !reflect.DeepEqual(a.ParameterFormatCodes, b.ParameterFormatCodes) {
		t.Errorf("%+v became %+v: %v", a, b, err)
	}
}

func wholeMessages(b []byte) bool {
	for len(b) > 0 {
		if len(b) < headerSize {
			return false
		}
		n := 1 + int64(binary.BigEndian.Uint32(b[1:]))
		if n < headerSize || n > int64(len(b)) {
			return false
		}
		b = b[n:]
	}
	return true
}

// FuzzServerMessage: one message of a server's, in answer to any request. Where the request needs nothing done it comes out
// as it went in, or the session ends; the answer to a question of ours is not seen by the client at all.
func FuzzServerMessage(f *testing.F) {
	for _, m := range []pgproto3.BackendMessage{
		&pgproto3.ErrorResponse{Severity: "ERROR", SeverityUnlocalized: "ERROR", Code: "42601", Message: "m", Position: 3}, &pgproto3.NoticeResponse{Severity: "NOTICE"},
		&pgproto3.RowDescription{Fields: []pgproto3.FieldDescription{{Name: []byte("a"), DataTypeOID: 23}, {Name: []byte("b"), DataTypeOID: 25}}},
		&pgproto3.DataRow{Values: [][]byte{{1}, nil}}, &pgproto3.ParameterStatus{Name: "TimeZone", Value: "UTC"}, &pgproto3.ReadyForQuery{TxStatus: 'T'},
		&pgproto3.BackendKeyData{ProcessID: 1, SecretKey: []byte{0, 0, 0, 2}}, &pgproto3.CommandComplete{CommandTag: []byte("SELECT 1")}, &pgproto3.ParseComplete{},
		&pgproto3.BindComplete{}, &pgproto3.CloseComplete{}, &pgproto3.NoData{}, &pgproto3.PortalSuspended{}, &pgproto3.EmptyQueryResponse{},
		&pgproto3.CopyInResponse{ColumnFormatCodes: []uint16{0}}, &pgproto3.CopyOutResponse{ColumnFormatCodes: []uint16{0}}, &pgproto3.CopyData{Data: []byte("x")}, &pgproto3.CopyDone{},
		&pgproto3.ParameterDescription{ParameterOIDs: []uint32{23}}, &pgproto3.NotificationResponse{PID: 1, Channel: "c"}, &pgproto3.FunctionCallResponse{Result: []byte{1}},
		&pgproto3.AuthenticationOk{}, &pgproto3.NegotiateProtocolVersion{NewestMinorProtocol: 2},
	} {
		b := encode(m)
		for request := range byte(9) {
			f.Add(b[0], b[headerSize:], request, uint8(0))
		}
		f.Add(b[0], b[headerSize:], byte(4), uint8(1))
		f.Add(b[0], b[headerSize:], byte(3), uint8(2))
	}
	f.Fuzz(func(t *testing.T, kind byte, body []byte, request byte, way uint8) {
		s, client, _ := fuzzedSession(t)
		const requests = "QPBDECSF\x00" // what waits for an answer of its own
		p := &pending{kind: requests[int(request)%len(requests)]}
		switch way % 3 {
		case 1:
			p.call = &call{done: make(chan struct{}), row: func([]cell) error { return nil }}
		case 2:
			plant(s)
			p.edited, p.results, p.replace = s.lookup("s"), &results{plan: s.lookup("s").plan}, &Error{Code: "0A000"}
		}
		s.queue.push(p)
		msg := frame(kind, body)
		s.back.in = frames{buf: bytes.Clone(msg), w: len(msg)}
		err := s.back.block(t.Context())
		switch {
		case err == nil && p.call == nil && p.results == nil && !bytes.Equal(client.got, msg):
			t.Errorf("%q became %q", msg, client.got)
		case err == nil && p.call != nil && bytes.IndexByte([]byte("1233DCInsTE"), kind) >= 0 && len(client.got) > 0:
			t.Errorf("the client sees %q", client.got)
		case err == nil && !wholeMessages(client.got):
			t.Errorf("%q became %q, which is no row of messages", msg, client.got)
		}
	})
}

// FuzzSealedRow: a row description and a row of a result with seals: whatever they are they are refused, unless they have
// the planned shape, and then no cell goes to another place.
func FuzzSealedRow(f *testing.F) {
	p := testPolicy()
	desc := encode(&pgproto3.RowDescription{Fields: []pgproto3.FieldDescription{{Name: []byte("id"), DataTypeOID: 23}, {Name: []byte("age"), DataTypeOID: 777, Format: 1}}})
	row := encode(&pgproto3.DataRow{Values: [][]byte{{'1'}, seal(p.Protection.Keys[0][:], 9, []float64{1, 2, 3}, 0)}})
	f.Add(desc[headerSize:], row[headerSize:], false)
	f.Add(desc[headerSize:], []byte{0, 2, 0, 0, 0, 0, 0xff, 0xff, 0xff, 0xff}, true)
	f.Add([]byte{0, 1}, []byte{0xff, 0xff}, true)
	f.Fuzz(func(t *testing.T, desc, row []byte, statement bool) {
		r := &results{
			plan:    &rewrite.Plan{Outputs: []rewrite.Output{{Seal: -1}, {Seal: 0, Component: 0}}, Seals: []rewrite.Seal{{Column: 1, Policy: p}}},
			formats: []int16{0, 1}, sealedType: 777,
		}
		if changed, err := r.rowDescription(frame('T', desc), statement); err == nil {
			var m pgproto3.RowDescription
			if err := m.Decode(changed[headerSize:]); err != nil || len(m.Fields) != 2 || m.Fields[1].DataTypeOID != oidFloat8 {
				t.Errorf("%x became %x: %v", desc, changed, err)
			}
		}
		if err := r.add(row); err != nil {
			return
		}
		if len(r.batch.rows) != 1 || len(r.batch.cells) != 2 || len(r.batch.seals[0].index) != 1 {
			t.Errorf("%x: %d cells", row, len(r.batch.cells))
		}
	})
}

// FuzzCellTexts: any bytes are a text[] or an error.
func FuzzCellTexts(f *testing.F) {
	f.Add([]byte("\x00\x00\x00\x01\x00\x00\x00\x00\x00\x00\x00\x19\x00\x00\x00\x02\x00\x00\x00\x01\x00\x00\x00\x01a\x00\x00\x00\x02bc"))
	f.Add([]byte("\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x19"))
	f.Add([]byte("\x00\x00\x00\x01\x00\x00\x00\x00\x00\x00\x00\x19\xff\xff\xff\xff\x00\x00\x00\x01"))
	f.Fuzz(func(t *testing.T, b []byte) {
		texts, err := cellTexts(b)
		total := 0
		for _, s := range texts {
			total += 4 + len(s)
		}
		if err == nil && total > len(b) {
			t.Errorf("%x gave %d bytes of text", b, total)
		}
	})
}
