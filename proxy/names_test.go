package proxy

import (
	"testing"

	"github.com/scrimdb/scrim/rewrite"
)

// namesSession is a session that knows names and nothing else.
func namesSession() *session {
	s := &session{statements: newNamed[*statement](unnamedStays), portals: newNamed[*portal](noneStays)}
	s.queue = newQueue(s.dropped)
	return s
}

// prepared is a PREPARE of a masked query.
func prepared(name string) *statement {
	return &statement{Statement: rewrite.Statement{Effect: rewrite.Effect{Verb: rewrite.Prepares, Name: name}}, plan: &rewrite.Plan{}}
}

// sends notes what a statement does, as an entry that waits for its answer.
func (s *session) sends(e rewrite.Effect) *pending {
	return &pending{changes: s.send(s.effect(&statement{Statement: rewrite.Statement{Effect: e}}, nil))}
}

// TestNames: a name means what was sent last, until that fails; what is confirmed goes when the server says so.
func TestNames(t *testing.T) {
	s := namesSession()
	first := &pending{changes: s.send(s.effect(prepared("p"), nil))}
	made := s.lookup("p")
	s.done(first, nil)
	if made == nil || s.lookup("p") != made {
		t.Fatal("a prepared statement is not known")
	}
	second := &pending{changes: s.send(s.effect(prepared("p"), nil))}
	if s.lookup("p") == made {
		t.Error("a statement behind another PREPARE meets the old one")
	}
	relies := &pending{relies: []change{{name: "p", stmt: s.lookup("p")}}}
	s.undone(second)
	if s.lookup("p") != made || s.reliable(relies) {
		t.Error("a PREPARE that failed did not leave the old one")
	}
	for _, e := range []rewrite.Effect{{Verb: rewrite.Deallocates, Name: "p"}, {Verb: rewrite.Deallocates}, {Verb: rewrite.Discards}} {
		p := s.sends(e)
		if s.lookup("p") != nil {
			t.Errorf("%+v does not hide the name", e)
		}
		s.undone(p)
		if s.lookup("p") != made {
			t.Errorf("%+v that failed forgot the name", e)
		}
	}
	all := s.sends(rewrite.Effect{Verb: rewrite.Deallocates})
	again := &pending{changes: s.send(s.effect(prepared("p"), nil))}
	s.done(all, nil)
	s.undone(again)
	if s.lookup("p") != nil {
		t.Error("DEALLOCATE ALL left a statement, since a PREPARE behind it failed")
	}
}

// TestNamesOfCursors: a cursor ends with its transaction, unless WITH HOLD and committed.
func TestNamesOfCursors(t *testing.T) {
	declare := func(s *session, hold bool) {
		s.done(s.sends(rewrite.Effect{Verb: rewrite.Declares, Name: "c", Binary: true, Hold: hold}), nil)
	}
	for _, c := range []struct {
		hold   bool
		end    func(s *session)
		stands bool
	}{
		{false, func(s *session) { s.ready('T', 1) }, true},
		{false, func(s *session) { s.ready('I', 1) }, false},
		{true, func(s *session) { s.ready('I', 1) }, true},
		{true, func(s *session) { s.fail(); s.ready('I', 1) }, false},
		{true, func(s *session) { s.fail(); s.ready('E', 1); s.ready('I', 2) }, false},
		{true, func(s *session) { s.fail(); s.ready('E', 1); s.ready('T', 2); s.ready('I', 3) }, true}, // ROLLBACK TO
		{true, func(s *session) { s.done(s.sends(rewrite.Effect{Verb: rewrite.Ends}), []byte("ROLLBACK\x00")) }, false},
		{true, func(s *session) {
			s.done(s.sends(rewrite.Effect{Verb: rewrite.Ends}), []byte("COMMIT\x00"))
			s.fail()
			s.ready('I', 2)
		}, true},
		{true, func(s *session) { s.ready('I', 1); s.done(s.sends(rewrite.Effect{Verb: rewrite.Closes}), nil) }, false},
	} {
		s := namesSession()
		declare(s, c.hold)
		c.end(s)
		if stands := s.portal("c") != nil; stands != c.stands {
			t.Errorf("%+v: the cursor stands: %v", c, stands)
		}
	}
}
