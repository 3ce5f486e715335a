package proxy

import (
	"context"
	"log/slog"
	"net"
	"sync"
	"sync/atomic"
	"time"

	"github.com/scrimdb/scrim/policy"
	"github.com/scrimdb/scrim/rewrite"
)

// statement is one of the client's that is not simply the server's: one that was planned, one that makes or uses what was,
// or one of ours. It never changes.
type statement struct {
	rewrite.Statement     // as the client sent it
	before            int // characters of the message before it
	plan              *rewrite.Plan
	command           rewrite.Command
	explains          bool        // the command is an answer of EXPLAIN MASKING, made of what was known then
	version           planVersion // what the plan was made under
	fingerprint       string      // for the audit
	relayed           bool        // nothing but a name: it hides what was prepared under that name before
	gone              bool        // nothing at all, where the server may have something
	params            []uint32    // types of a staged statement's parameters: those declared, and then those that the server inferred
	types             []byte      // what its Parse said of parameters' types; nil if SQL prepared it
}

func (st *statement) isRelayed() bool { return st.relayed }

// made is what a PREPARE prepares.
func (st *statement) made() *statement {
	made := *st
	made.Effect, made.types = rewrite.Effect{}, nil
	return &made
}

// lacksParameters tells whether a planned statement has parameters that the simple protocol cannot give it.
func (st *statement) lacksParameters() bool {
	return st.plan != nil && st.plan.Params > 0 && st.Effect.Verb != rewrite.Prepares
}

// sent is the text that went upstream.
func (st *statement) sent() string {
	if st.plan != nil {
		return st.plan.SQL
	}
	return st.Text
}

// position maps a character position in what was sent upstream to one in the client's message; 0 if it has no such place.
func (st *statement) position(at int32) int32 {
	if st.plan != nil {
		at = originalPosition(st, at)
	}
	if at == 0 {
		return 0
	}
	return at + int32(st.before)
}

// portal is a bound statement, or a cursor, that is not simply the server's.
type portal struct {
	stmt    *statement
	results *results // what it gives, or for a cursor, what FETCH gives; nil for what is simply the server's
	// declares is what the cursor will give that the statement declares.
	declares *results
	from     origin // of an EXECUTE or FETCH: what it was bound to
	syncs    int    // how many Sync and Query messages were sent before it
	relayed  bool   // nothing but a name: it hides what was bound under that name before

	// Of a cursor that SQL declared. hold and binary are as declared; held means that it has outlived its transaction.
	cursor, hold, held, binary bool
}

// origin is what an EXECUTE or FETCH takes its rows from.
type origin struct {
	stmt   *statement
	portal *portal
}

// reliance is what a run of a statement relies on.
func (o origin) reliance(st *statement) []change {
	if o == (origin{}) {
		return nil
	}
	return []change{{name: st.Effect.Name, stmt: o.stmt, portal: o.portal}}
}

func (p *portal) isRelayed() bool { return p.relayed }

// session is one client connection and its upstream connection. lifecycle.go says who drives it.
type session struct {
	srv       *Server
	log       *slog.Logger
	role      string
	address   string
	elsewhere bool // in a database that the catalog says nothing about
	// replicates means that the client asked for a replication connection, which the role has not been checked for yet.
	replicates bool
	client     leg
	upstream   leg
	queue      *queue
	front      frontend
	back       backend

	// onLoop means that an event loop drives the session, and nothing may wait. It changes only between drivers.
	onLoop bool
	// homeable means that both legs are plain sockets, which an event loop can own.
	homeable bool
	// release is called once, when the session has ended.
	release func()

	planner planner // the frontend's alone

	mu         sync.Mutex
	statements named[*statement]
	portals    named[*portal]
	status     byte // of the last ReadyForQuery: I, T or E
	failed     bool // there was an error since then
	params     map[string]string
	cancel     context.CancelCauseFunc // ends the action that runs now
	key        cancelKey

	// changedCatalog is set by an action and makes the next ReadyForQuery outside a transaction wait for the catalog.
	changedCatalog atomic.Bool
	// denied is set when the server refused a privilege, or a planned statement: grants or names may have changed.
	denied atomic.Bool
	// masked means that the role is masked anywhere, by what is known.
	masked atomic.Bool
	// leaving is set when the client said that it goes: the server closing the connection is no loss then.
	leaving atomic.Bool
	// active is when something last came from either side, in Unix nanoseconds.
	active atomic.Int64
	// goingHome is set when nothing is left to wait for, and the goroutines shall end so that a loop takes over.
	goingHome atomic.Bool
}

// DEALLOCATE ALL leaves the unnamed statement, CLOSE ALL leaves no portal.
const (
	unnamedStays = ""
	noneStays    = "\x00" // in no name
)

// newSession returns a session that has sent the startup packet. early are bytes of the client's that came along with it.
func (srv *Server) newSession(client, upstream net.Conn, early []byte) *session {
	s := &session{
		srv: srv, log: srv.log, client: newLeg(client), upstream: newLeg(upstream),
		statements: newNamed[*statement](unnamedStays), portals: newNamed[*portal](noneStays), params: map[string]string{}, homeable: canLoop(client) && canLoop(upstream),
	}
	s.front = frontend{s: s, in: frames{buf: early, w: len(early)}}
	s.back = backend{s: s}
	s.queue = newQueue(s.dropped)
	s.queue.push(&pending{}) // the startup packet: authentication ends with a ReadyForQuery
	return s
}

// mayReplicate refuses replication to masked roles: it shows whole tables. It is asked when the server has authenticated
// the client, and says nothing to others.
func (s *session) mayReplicate(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, catalogPatience)
	defer cancel()
	readable, err := s.srv.catalog.Readable(ctx, s.role)
	if err != nil || policy.For(s.srv.catalog.Snapshot(), readable).Any() {
		s.noteRefusal("", codeFeatureNotSupported, "")
		return &Error{Code: codeFeatureNotSupported, Fatal: true, Message: "replication is not available to masked roles"}
	}
	s.replicates = false
	return nil
}

// fatal tells the client why the session ends, if it still listens.
func (s *session) fatal(e *Error) { s.client.farewell(e.encode(), time.Second) }

// idleFor tells whether nothing has happened for so long; zero stands for never.
func (s *session) idleFor(d time.Duration, now time.Time) bool {
	return d > 0 && now.Sub(time.Unix(0, s.active.Load())) >= d && s.atRest()
}

// nudge makes a session in goroutines look whether it shall end.
func (s *session) nudge() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.client.conn != nil {
		interrupt(s.client.conn)
	}
}

// atRest tells whether the session could end now and nothing would be lost: all is answered, and no transaction is open.
func (s *session) atRest() bool {
	return s.txStatus() == 'I' && s.queue.isSettled() && !s.front.isOpen() && s.front.in.rest() == 0
}

func (s *session) cancelKey() cancelKey {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.key
}

// cancellable returns a context that a cancel request of the client's ends, until done is called.
func (s *session) cancellable(ctx context.Context) (_ context.Context, done func()) {
	ctx, cancel := context.WithCancelCause(ctx)
	s.mu.Lock()
	s.cancel = cancel
	s.mu.Unlock()
	return ctx, func() {
		s.mu.Lock()
		s.cancel = nil
		s.mu.Unlock()
		cancel(nil)
	}
}

// action returns what cancels the action that runs now; it does nothing if none does.
func (s *session) action() context.CancelCauseFunc {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.cancel == nil {
		return func(error) {}
	}
	return s.cancel
}

func (s *session) txStatus() byte {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.status
}

func (s *session) setParam(name, value string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.params[name] = value
}

func (s *session) param(name string) string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.params[name]
}
