package proxy

import (
	"context"
	"log/slog"
	"maps"
	"net"
	"sync"
	"sync/atomic"
	"time"

	"github.com/scrimdb/scrim/catalog"
	"github.com/scrimdb/scrim/rewrite"
)

// viewColumn is a column of a masked view.
type viewColumn = catalog.ViewColumn

// statement is a prepared statement that is not simply the server's: one that was planned, or is one of ours.
type statement struct {
	text    string // what the client sent
	plan    *rewrite.Plan
	command rewrite.Command
	version planVersion // what the plan was made under
	relayed bool        // nothing but a name: it hides what was prepared under that name before
}

func (st *statement) isRelayed() bool { return st.relayed }

// portal is a bound statement that is not simply the server's.
type portal struct {
	stmt    *statement
	results *results
	syncs   int  // how many Sync and Query messages were sent before its Bind
	relayed bool // nothing but a name: it hides what was bound under that name before
}

func (p *portal) isRelayed() bool { return p.relayed }

// session is one client connection and its upstream connection. lifecycle.go says who drives it.
type session struct {
	srv       *Server
	log       *slog.Logger
	role      string
	elsewhere bool // in a database that the catalog says nothing about
	client    leg
	upstream  leg
	queue     *queue
	front     frontend
	back      backend

	// onLoop means that an event loop drives the session, and nothing may wait. It changes only between drivers.
	onLoop bool
	// homeable means that both legs are plain sockets, which an event loop can own.
	homeable bool
	// release is called once, when the session has ended.
	release func()

	// The plans of this session; the frontend's alone.
	planner planner

	mu         sync.Mutex
	statements named[*statement]
	portals    named[*portal]
	status     byte // of the last ReadyForQuery: I, T or E
	params     map[string]string
	cancel     context.CancelCauseFunc // ends the action that runs now
	key        cancelKey

	// changedCatalog is set by an action and makes the next ReadyForQuery outside a transaction wait for the catalog.
	changedCatalog atomic.Bool
	// denied is set when the server refused a privilege, or a planned statement: grants or names may have changed.
	denied atomic.Bool
	// leaving is set when the client said that it goes: the server closing the connection is no loss then.
	leaving atomic.Bool
	// goingHome is set when nothing is left to wait for, and the goroutines shall end so that a loop takes over.
	goingHome atomic.Bool
}

// newSession returns a session that has sent the startup packet. early are bytes of the client's that came along with it.
func (srv *Server) newSession(client, upstream net.Conn, early []byte) *session {
	s := &session{
		srv: srv, log: srv.log, client: newLeg(client), upstream: newLeg(upstream),
		statements: newNamed[*statement](), portals: newNamed[*portal](), params: map[string]string{}, homeable: canLoop(client) && canLoop(upstream),
	}
	s.front = frontend{s: s, in: frames{buf: early, w: len(early)}}
	s.back = backend{s: s}
	s.queue = newQueue(s.dropped)
	s.queue.push(&pending{}) // the startup packet: authentication ends with a ReadyForQuery
	return s
}

// fatal tells the client why the session ends, if it still listens.
func (s *session) fatal(e *Error) { s.client.farewell(e.encode(), time.Second) }

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
	return s.txStatus() == 'I' && s.queue.isSettled() && !s.front.open && s.front.in.rest() == 0
}

func (s *session) cancelKey() cancelKey {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.key
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

// lookup finds the statement that a Bind or Describe by this name will meet.
func (s *session) lookup(name string) *statement {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.statements.find(name)
}

// portal finds the portal that an Execute or Describe by this name will meet.
func (s *session) portal(name string) *portal {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.portals.find(name)
}

// special tells whether any statement or portal needs more than relaying.
func (s *session) special() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return !s.statements.empty() || !s.portals.empty()
}

// sendParse notes that a Parse of this name is on its way.
func (s *session) sendParse(name string, st *statement) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.statements.sent[name] = st
}

// sendBind notes that a Bind of this portal is on its way.
func (s *session) sendBind(name string, p *portal) {
	p.syncs = s.queue.sent()
	s.mu.Lock()
	defer s.mu.Unlock()
	s.portals.sent[name] = p
}

// parsed is called on ParseComplete.
func (s *session) parsed(p *pending) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.statements.confirm(p.name, p.stmt)
}

// bound is called on BindComplete. (The portal of a Bind that was not noted belongs to a session that had nothing special.)
func (s *session) bound(p *pending) {
	if p.portal == nil {
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.portals.confirm(p.name, p.portal)
}

// dropped is called for every message that the server will not run.
func (s *session) dropped(p *pending) {
	if p.call != nil {
		p.call.finish(nil)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	switch {
	case p.kind == 'B' && p.portal != nil:
		s.portals.drop(p.name, p.portal)
	case p.kind == 'P' && p.stmt != nil:
		s.statements.drop(p.name, p.stmt)
	}
}

func (s *session) closed(name string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.statements.confirmed, name)
}

// forget drops what is known of prepared statements: others may take their names.
func (s *session) forget() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.statements.clear()
	s.portals.clear()
}

// ready notes a ReadyForQuery.
func (s *session) ready(status byte, syncs int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.status = status
	if status == 'I' {
		// They live in a transaction. Those bound after the Sync that is answered here are of the next one.
		maps.DeleteFunc(s.portals.confirmed, func(_ string, p *portal) bool { return p.syncs < syncs })
	}
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
