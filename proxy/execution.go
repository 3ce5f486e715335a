package proxy

import (
	"context"
	"fmt"
	"strings"
	"unicode/utf8"

	"github.com/scrimdb/scrim/rewrite"
)

// execution is what one run of a statement gives back.
type execution struct {
	results *results // nil for what is simply the server's
	// formats to ask the server for, as in a Bind message.
	formats []int16
	// cursor is what FETCH will give, where the statement declares a cursor over masked columns.
	cursor *results
	// from is what an EXECUTE or FETCH takes its rows from.
	from origin
	// staged is the statement whose codes must be listed first: the one that runs, or that an EXECUTE runs.
	staged *statement
}

// execution works out what a run of a statement will give, when the client asks for formats: nil in the simple protocol,
// where text comes, or from a binary cursor binary.
func (f *frontend) execution(ctx context.Context, st *statement, formats []int16) (*execution, error) {
	if st.Effect.Uses() && f.s.underWay(st.Effect) {
		if err := f.settle(); err != nil {
			return nil, err
		}
	}
	x := &execution{formats: formats, from: f.origin(st)}
	if st.Stores != "" {
		if stored := f.s.lookup(st.Stores); stored != nil && stored.plan != nil && stored.plan.Masks() {
			return nil, errStores
		}
	}
	var err error
	switch st.Effect.Verb {
	case rewrite.Executes:
		err = f.executed(ctx, st, x)
	case rewrite.Analyzes:
		if made := x.from.stmt; made != nil && made.plan != nil && made.plan.Staged() {
			err = errAnalyzes
		}
	case rewrite.Fetches:
		err = x.fetched()
	case rewrite.Declares:
		switch {
		case st.plan == nil:
		case st.plan.Staged():
			x.staged = st
			if r := f.s.reading(st); r != nil { // what it gives is simply the server's, but is read
				x.cursor = &results{reading: r}
			}
		default:
			x.cursor, err = f.newResults(ctx, st, nil)
		}
	case rewrite.Plain:
		if st.plan != nil {
			x.results, err = f.newResults(ctx, st, formats)
			if st.plan.Staged() {
				x.staged = st
			}
		}
	}
	if x.results.fills() && x.results.formats != nil {
		x.formats = x.results.upstreamFormats()
	}
	return x, err
}

var errStores = &Error{
	Code: codeFeatureNotSupported, Message: "masked columns cannot be stored by CREATE TABLE AS EXECUTE yet",
	Hint: "Select the columns that are not masked.",
}

// errAnalyzes: the server would run the statement without its codes.
var errAnalyzes = &Error{
	Code: codeFeatureNotSupported, Message: "EXPLAIN ANALYZE cannot execute a prepared statement that computes with masked columns",
	Hint: "EXPLAIN ANALYZE the query itself.",
}

// errComputes: the server finds the prepared statement before it computes the arguments, and a function among them could
// exchange it.
var errComputes = &Error{
	Code: codeFeatureNotSupported, Message: "an EXECUTE that shows masked columns takes values only, no expressions",
	Hint: "Compute the value first.",
}

// settle waits until all that was sent is answered: a name that a message under way gives anew may stay what it was.
func (f *frontend) settle() error {
	ok, err := f.answered()
	if err == nil && !ok {
		return errSkipped
	}
	return err
}

// origin finds what an EXECUTE or FETCH would take its rows from now.
func (f *frontend) origin(st *statement) origin {
	switch st.Effect.Verb {
	case rewrite.Executes, rewrite.Analyzes:
		return origin{stmt: f.s.lookup(st.Effect.Name)}
	case rewrite.Fetches:
		return origin{portal: f.s.portal(st.Effect.Name)}
	}
	return origin{}
}

// executed works out what an EXECUTE gives.
func (f *frontend) executed(ctx context.Context, st *statement, x *execution) error {
	made := x.from.stmt
	if made == nil || made.plan == nil { // it may run anything
		clear(f.s.planner.plans)
		return nil
	}
	made, err := f.current(ctx, made)
	switch {
	case err != nil:
		return err
	case made.plan.Staged() && st.Effect.Arguments != made.plan.Params: // the server would count the lists among them
		return &Error{
			Code: codeSyntaxError, Message: fmt.Sprintf("wrong number of parameters for prepared statement %q", st.Effect.Name),
			Detail: fmt.Sprintf("Expected %d parameters but got %d.", made.plan.Params, st.Effect.Arguments),
		}
	case made.plan.Staged():
		x.staged = made
	case len(made.plan.Seals) > 0 && st.Effect.Computes:
		return errComputes
	}
	x.results, err = f.newResults(ctx, made, x.formats)
	return err
}

// fetched works out what a FETCH gives.
func (x *execution) fetched() error {
	cursor := x.from.portal
	if cursor == nil {
		return nil
	}
	if x.formats == nil && cursor.binary { // the simple protocol follows the cursor
		x.formats = []int16{formatBinary}
	}
	if cursor.results == nil {
		return nil
	}
	var err error
	x.results, err = cursor.results.again(x.formats)
	return err
}

// executeCursor runs the portal of a cursor that SQL declared. Its own format is text, so a FETCH that asks for binary
// stands for it.
func (f *frontend) executeCursor(name string, p *portal, maxRows uint32) error {
	r, err := p.results.again(nil)
	if err != nil {
		return err
	}
	r.portal, r.maxRows = true, int(int32(maxRows))
	count := "ALL"
	if r.maxRows > 0 {
		count = fmt.Sprint(r.maxRows)
	}
	if err := f.sameCursor(name, p); err != nil {
		return err
	}
	return f.underOurName("FETCH FORWARD "+count+" FROM "+rewrite.Quote(name), nil, r.upstreamFormats(),
		&pending{kind: 'E', results: r, relies: []change{{name: name, portal: p}}})
}

// What gives seals is what was planned, or seals that the client has got hold of would be opened for it. A function of the
// client's can give a name anew without our knowing. So right before a name is used the server looks what has it, and
// raises; nothing of the client's runs between. The unnamed statement and portal are out of reach of SQL.

// sameStatement is for a prepared statement.
func (f *frontend) sameStatement(name string, st *statement) error {
	return f.same("still_prepared", name, st.sent())
}

// sameCursor is for a cursor or portal. It may give text where it gave sealed values: Execute has no types.
func (f *frontend) sameCursor(name string, p *portal) error {
	return f.same("still_declared", name, p.stmt.sent())
}

// sameOrigin is for what an EXECUTE or FETCH uses.
func (f *frontend) sameOrigin(st *statement, from origin) error {
	switch {
	case from.stmt != nil:
		return f.sameStatement(st.Effect.Name, from.stmt)
	case from.portal != nil:
		return f.sameCursor(st.Effect.Name, from.portal)
	}
	return nil
}

// sameReading is for a text that gives seals, if it has a backslash or more than ASCII: the server could read it otherwise than
// we did, by what another setting of standard_conforming_strings or client_encoding makes of these. One that we have not
// heard of can be on its way.
func (f *frontend) sameReading(text string) error {
	notASCII := strings.IndexFunc(text, func(r rune) bool { return r >= utf8.RuneSelf }) >= 0
	if !notASCII && !strings.Contains(text, `\`) {
		return nil
	}
	return f.underOurName("SELECT WHERE scrim_runtime.still_read($1)", [][]byte{[]byte(boolean(notASCII))}, nil, &pending{kind: 'E', silent: true})
}

func (f *frontend) same(question, name, text string) error {
	return f.underOurName("SELECT WHERE scrim_runtime."+question+"($1, $2)", [][]byte{[]byte(nameKey(name)), []byte(text)}, nil, &pending{kind: 'E', silent: true})
}
