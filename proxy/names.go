package proxy

import (
	"maps"
	"math"

	"github.com/scrimdb/scrim/rewrite"
)

// change is what the server does to the names of a session when it runs a message. SQL and the protocol share one
// namespace of prepared statements and one of portals, so PREPARE and Parse, DECLARE and Bind, DEALLOCATE or CLOSE and
// Close are the same kinds of change. It is noted when the message is sent, and done when the server says so, not before:
// a PREPARE that fails leaves the old, a DISCARD ALL that fails forgets nothing.
//
// What is known can become stale where no message says so: a cursor that ROLLBACK TO takes away, a name that a function
// or a text that was not read gives anew. Then the server says that there is no such name, or, where seals would be opened,
// that the name has another text (sameStatement).
type change struct {
	name   string
	stmt   *statement // has the name from then on
	portal *portal    // has the name from then on
	all    bool       // every name
	ends   bool       // a transaction: portals go
}

// nothing tells whether there is nothing to note.
func (c change) nothing() bool { return c.stmt == nil && c.portal == nil && !c.ends }

// goneStatement is the unnamed statement after a simple Query, which leaves none. It is never changed.
var goneStatement = &statement{gone: true}

// hides is the change by which something that is simply the server's takes the name of a statement, if one is known.
func (s *session) hides(name string) change {
	if s.lookup(name) == nil {
		return change{}
	}
	return change{name: name, stmt: &statement{relayed: true}}
}

// usesUnnamed is the change by which a simple Query takes the unnamed statement away, if the client could still bind it.
func (s *session) usesUnnamed() change {
	if s.lookup("") == goneStatement {
		return change{}
	}
	return change{stmt: goneStatement}
}

// hidesPortal is hides for portals.
func (s *session) hidesPortal(name string) change {
	if s.portal(name) == nil {
		return change{}
	}
	return change{name: name, portal: &portal{relayed: true}}
}

// takes is the change by which a statement or portal of ours takes a name that is known as the client's: what it meant may
// not be filled in for what ours gives.
func (s *session) takes(name string) change {
	c := s.hides(name)
	if p := s.hidesPortal(name); !p.nothing() {
		c.name, c.portal = name, p.portal
	}
	return c
}

// effect is the change that a statement makes. cursor is what FETCH will give, where it declares a cursor.
func (s *session) effect(st *statement, cursor *results) change {
	e := st.Effect
	switch e.Verb {
	case rewrite.Prepares:
		if st.plan == nil {
			return s.hides(e.Name)
		}
		return change{name: e.Name, stmt: st.made()}
	case rewrite.Declares:
		if cursor == nil && !e.Binary {
			return s.hidesPortal(e.Name)
		}
		return change{name: e.Name, portal: &portal{stmt: st, results: cursor, cursor: true, binary: e.Binary, hold: e.Hold}}
	}
	if !s.special() {
		return change{}
	}
	switch e.Verb {
	case rewrite.Deallocates:
		if e.Name == "" {
			return change{all: true, stmt: &statement{relayed: true}}
		}
		return s.hides(e.Name)
	case rewrite.Closes:
		if e.Name == "" {
			return change{all: true, portal: &portal{relayed: true}}
		}
		return s.hidesPortal(e.Name)
	case rewrite.Discards:
		return change{all: true, stmt: &statement{relayed: true}, portal: &portal{relayed: true}}
	case rewrite.Ends:
		return change{ends: true}
	}
	return change{}
}

// send notes a change that is on its way, and returns it for the message's entry in the queue.
func (s *session) send(c change) []change {
	if c.nothing() {
		return nil
	}
	syncs := s.queue.sent()
	s.mu.Lock()
	defer s.mu.Unlock()
	switch {
	case c.all && c.stmt != nil:
		s.statements.sendAll(c.stmt)
	case c.stmt != nil:
		s.statements.send(c.name, c.stmt)
	}
	switch {
	case c.all && c.portal != nil:
		s.portals.sendAll(c.portal)
	case c.portal != nil:
		c.portal.syncs = syncs
		s.portals.send(c.name, c.portal)
	}
	return []change{c}
}

// done is called when the server has run the message of an entry, or one statement of a Query. tag is the command tag
// as it is on the wire.
func (s *session) done(p *pending, tag []byte) {
	if len(p.changes) == 0 {
		return
	}
	c := p.changes[0]
	p.changes = p.changes[1:]
	s.mu.Lock()
	defer s.mu.Unlock()
	switch {
	case c.all && c.stmt != nil:
		s.statements.confirmAll(c.stmt)
	case c.stmt != nil:
		s.statements.confirm(c.name, c.stmt)
	}
	switch {
	case c.all && c.portal != nil:
		s.portals.confirmAll(c.portal)
	case c.portal != nil:
		s.portals.confirm(c.name, c.portal)
	}
	if c.ends {
		s.endTransaction(string(tag) == "COMMIT\x00", math.MaxInt)
	}
}

// undone is called when the server will not run the message of an entry, or what is left of it.
func (s *session) undone(p *pending) {
	if len(p.changes) == 0 {
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, c := range p.changes {
		switch {
		case c.all && c.stmt != nil:
			s.statements.dropAll(c.stmt)
		case c.stmt != nil:
			s.statements.drop(c.name, c.stmt)
		}
		switch {
		case c.all && c.portal != nil:
			s.portals.dropAll(c.portal)
		case c.portal != nil:
			s.portals.drop(c.name, c.portal)
		}
	}
	p.changes = nil
}

// dropped is called for every message that the server will not run.
func (s *session) dropped(p *pending) {
	if p.call != nil {
		p.call.finish(nil)
	}
	p.attempt.settle(false)
	s.undone(p)
}

// endTransaction forgets the portals of a transaction, of those that were made before so many messages that end in
// ReadyForQuery. Cursors WITH HOLD stay once they were committed. s.mu is held.
func (s *session) endTransaction(committed bool, syncs int) {
	maps.DeleteFunc(s.portals.confirmed, func(_ string, p *portal) bool {
		p.held = p.held || p.hold && committed
		return !p.held && p.syncs < syncs
	})
}

// fail notes that the transaction that is under way will not be committed.
func (s *session) fail() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.failed = true
}

// ready notes a ReadyForQuery.
func (s *session) ready(status byte, syncs int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.status = status
	if status == 'I' { // those bound after the Sync that is answered here are of the next transaction
		s.endTransaction(!s.failed, syncs)
	}
	s.failed = status == 'E'
}

// reliable tells, once for an entry, whether the names that it relies on have what was planned with. A name that something
// was on its way to when the message was sent can have another: the message that would have given it anew failed.
// Answers come in order, so what is confirmed now is what the server had when it ran the message.
func (s *session) reliable(p *pending) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, c := range p.relies {
		if c.stmt != nil && s.statements.confirmed[nameKey(c.name)] != c.stmt || c.portal != nil && s.portals.confirmed[nameKey(c.name)] != c.portal {
			return false
		}
	}
	p.relies = nil
	return true
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

// underWay tells whether a message that has not been answered changes what an EXECUTE or FETCH uses.
func (s *session) underWay(e rewrite.Effect) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if e.Verb != rewrite.Fetches {
		return s.statements.isSent(e.Name)
	}
	return s.portals.isSent(e.Name)
}

// special tells whether any statement or portal needs more than relaying.
func (s *session) special() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return !s.statements.empty() || !s.portals.empty()
}
