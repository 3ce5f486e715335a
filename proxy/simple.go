package proxy

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"github.com/jackc/pgx/v5/pgproto3"

	"github.com/scrimdb/scrim/rewrite"
)

// A simple Query of a masked role. What gives no sealed columns goes upstream as a Query. Sealed columns come in binary,
// which the simple protocol cannot ask for, so where one statement gives some, all of the message go as Parse, Bind,
// Describe and Execute of the unnamed statement with one Sync at the end. That is one implicit transaction too. What the
// simple protocol would not show is kept from the client, and what it shows later is held back (see held).

func (f *frontend) query(ctx context.Context, msg []byte) error {
	if err := f.commitOurs(); err != nil {
		return err
	}
	err := f.simple(ctx, msg)
	if !errors.Is(err, errWaits) {
		f.queried, f.ran = true, false
	}
	return err
}

func (f *frontend) simple(ctx context.Context, msg []byte) error {
	text := cString(msg[headerSize:])
	list, err := f.plan(ctx, text, !f.isOpen())
	switch {
	case errors.Is(err, errWaits):
		return err
	case err != nil:
		return f.refused(err, text)
	case list == nil:
		return f.relayHeard(msg, f.s.heard(text))
	case list[0].command != nil:
		return f.command(ctx, list[0], true)
	case len(list) == 1:
		return f.one(ctx, msg, list[0])
	case slices.ContainsFunc(list, f.takesPart):
		return f.script(ctx, list)
	}
	return f.relayAll(msg, list)
}

// takesPart tells whether a statement of several makes, gives or would store masked columns.
func (f *frontend) takesPart(st *statement) bool {
	from := f.origin(st)
	if st.Stores != "" {
		from.stmt = f.s.lookup(st.Stores)
	}
	return st.plan != nil || from.stmt != nil && from.stmt.plan != nil || from.portal != nil && from.portal.results.planned()
}

// relayAll sends statements as they came, and notes what they do.
func (f *frontend) relayAll(msg []byte, list []*statement) error {
	changes, known := make([]change, len(list)), false
	for i, st := range list {
		changes[i] = f.s.effect(st, nil)
		known = f.s.send(changes[i]) != nil || known
		if st.Effect.Verb == rewrite.Executes { // it may run anything
			clear(f.s.planner.plans)
		}
	}
	text := f.s.heard(cString(msg[headerSize:]))
	if !known {
		return f.relayHeard(msg, text)
	}
	return f.forward(msg, &pending{kind: 'Q', changes: changes, text: text})
}

// one sends the only statement of a message.
func (f *frontend) one(ctx context.Context, msg []byte, st *statement) error {
	x, err := f.execution(ctx, st, nil)
	switch {
	case errors.Is(err, errWaits):
		return err
	case err != nil:
		return f.refused(err, st.Text)
	case x.staged != nil && f.s.onLoop: // listing codes waits
		return errWaits
	case st.lacksParameters(): // the server says so, before it runs anything
	case x.results.fills(), x.staged != nil && !f.lacksBlock(st):
		return f.converted(ctx, []*statement{st}, x)
	case st.plan == nil && x.results == nil:
		return f.relayAll(msg, []*statement{st})
	}
	return f.send(&pgproto3.Query{String: st.sent()}, &pending{kind: 'Q', edited: st, results: x.results, changes: f.s.send(f.s.effect(st, x.cursor))})
}

// refused answers a simple Query that cannot be run.
func (f *frontend) refused(err error, text string) error {
	var server *serverError
	switch {
	case errors.As(err, &server): // what we asked failed, and so would the statement: in the same words
		if err := f.passError(server, text, nil); err != nil {
			return err
		}
		return f.send(&pgproto3.Sync{}, &pending{kind: 'S'})
	case errors.Is(err, errSkipped): // the server ignores a Query too until the next Sync
		return nil
	}
	return f.refuse('Q', err, text)
}

// script sends several statements.
func (f *frontend) script(ctx context.Context, list []*statement) error {
	if f.s.onLoop { // it may have to ask or to wait, and must not begin twice
		return errWaits
	}
	for _, st := range list {
		if st.CopiesIn {
			refusal := *clientError(st.RefuseCopyIn(), "")
			refusal.Position = int32(st.before) + 1
			return f.refuse('Q', &refusal, "")
		}
		if st.lacksParameters() {
			return f.refuse('Q', &Error{Code: codeUndefinedParameter, Message: fmt.Sprintf("there is no parameter $%d", st.plan.Params), Position: int32(st.before) + 1}, "")
		}
	}
	return f.converted(ctx, list, nil)
}

// converted sends statements by the extended protocol. first is what is known of the first; nil to find out.
func (f *frontend) converted(ctx context.Context, list []*statement, first *execution) error {
	if ok, err := f.caughtUp(); !ok {
		return err
	}
	t, block := f.blockFor(list)
	if t == inOwn { // a question of ours may have begun a transaction, which is of another isolation level
		if err := f.afresh(); err != nil {
			return err
		}
	}
	if block != "" {
		if err := f.silently(block); err != nil {
			return err
		}
	}
	h := &held{}
	if err := f.parts(ctx, list, first, h, t); err != nil {
		return err
	}
	// A simple query leaves no unnamed statement behind.
	if err := f.send(&pgproto3.Close{ObjectType: 'S'}, &pending{kind: 'C', silent: true}); err != nil {
		return err
	}
	if block == "" {
		return f.send(&pgproto3.Sync{}, &pending{kind: 'S', held: h})
	}
	return f.endBlock(h)
}

func (f *frontend) parts(ctx context.Context, list []*statement, first *execution, h *held, t tactic) error {
	for i, st := range list {
		x := first
		if i > 0 || x == nil {
			var err error
			if x, err = f.execution(ctx, st, nil); err != nil {
				return f.unplanned(err, st.Text) // the server skips to our Sync
			}
		}
		last := i == len(list)-1
		if x.staged != nil {
			if err := f.stagedPart(ctx, st, x, h, last, t); err != nil {
				return err
			}
			continue
		}
		if err := f.part(st, x, h, last); err != nil {
			return err
		}
	}
	return nil
}

// blockFor returns the statement that begins a block of ours around statements, and how staged ones among them are run.
// The simple protocol makes an implicit block around several, and the extended, before PostgreSQL 18, does not: an
// explicit one stands for it, but not where they end one themselves.
func (f *frontend) blockFor(list []*statement) (tactic, string) {
	staged := slices.ContainsFunc(list, f.stages)
	if !staged && (len(list) == 1 || !slices.ContainsFunc(list, func(st *statement) bool { return st.WantsBlock })) ||
		slices.ContainsFunc(list, func(st *statement) bool { return st.InTransactions }) || f.flush() != nil || !f.s.queue.drain() {
		return once, ""
	}
	switch {
	case f.s.txStatus() == 'T':
		return f.inTheirs(), ""
	case f.s.txStatus() != 'I':
		return once, ""
	case len(list) == 1 && !f.isOpen():
		return inOwn, f.beginOwn()
	}
	return f.inTheirs(), "BEGIN" // also where the client has not ended what it sent before by a Sync: that is of the same transaction
}

// caughtUp tells whether a Sync of ours would end what we sent and nothing else: after an error in messages that the
// client has not ended by a Sync, the server skips a simple Query too, and waits for the client's.
func (f *frontend) caughtUp() (bool, error) {
	if !f.isOpen() {
		return !f.s.queue.isSkipping(), nil
	}
	return f.answered()
}

// answered waits until all that was sent is answered. It tells whether the server will take more: it may be skipping.
func (f *frontend) answered() (bool, error) {
	if f.s.onLoop {
		return false, errWaits
	}
	f.out = append(f.out, frame('H', nil)...)
	if err := f.flush(); err != nil {
		return false, err
	}
	return f.s.queue.drain(), nil
}

// silently sends a statement that the client hears nothing of, unless it fails.
func (f *frontend) silently(sql string) error {
	return f.underOurName(sql, nil, nil, &pending{kind: 'E', silent: true})
}

// underOurName sends a statement of ours, whose Execute has the given entry. It has names of ours: the client may still use
// its unnamed ones.
func (f *frontend) underOurName(sql string, values [][]byte, formats []int16, execute *pending) error {
	messages := []pgproto3.FrontendMessage{
		&pgproto3.Close{ObjectType: 'P', Name: callName}, &pgproto3.Close{ObjectType: 'S', Name: callName},
		&pgproto3.Parse{Name: callName, Query: sql},
		&pgproto3.Bind{DestinationPortal: callName, PreparedStatement: callName, Parameters: values, ResultFormatCodes: formats},
		&pgproto3.Execute{Portal: callName},
	}
	for i, m := range messages {
		entry := execute
		if i < 4 {
			entry = &pending{kind: "CCPB"[i], silent: true}
		}
		if i == 0 {
			entry.changes = f.s.send(f.s.takes(callName))
		}
		if err := f.send(m, entry); err != nil {
			return err
		}
	}
	return nil
}

// part sends one statement of a Query by the extended protocol.
func (f *frontend) part(st *statement, x *execution, h *held, last bool) error {
	if x.results.fills() {
		if err := f.sameReading(st.sent()); err != nil {
			return err
		}
		if err := f.sameOrigin(st, x.from); err != nil {
			return err
		}
	}
	if err := f.send(&pgproto3.Parse{Query: st.sent()}, &pending{kind: 'P', silent: true, edited: st, changes: f.s.send(f.s.usesUnnamed())}); err != nil {
		return err
	}
	err := f.send(&pgproto3.Bind{ResultFormatCodes: x.formats}, &pending{kind: 'B', silent: true, edited: st, changes: f.s.send(f.s.hidesPortal(""))})
	if err != nil {
		return err
	}
	return f.described(st, x, h, last, nil)
}
