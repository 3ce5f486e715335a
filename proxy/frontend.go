package proxy

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"

	"github.com/jackc/pgx/v5/pgproto3"

	"github.com/scrimdb/scrim/rewrite"
)

// frontend is the half of a session that reads the client. Its fields are its driver's alone.
type frontend struct {
	s   *session
	in  frames
	out []byte // messages on their way upstream
	// rest counts the bytes of a CopyData that was begun and has not come yet.
	rest int
	// authenticated means that the server has sent its first ReadyForQuery. Until then nothing of the client's is read but
	// passwords.
	authenticated bool
	// open means that extended messages were sent since the last Sync: the server has a transaction under way, or skips.
	// queried means that the last of them was a Query, which ends that, but for the skipping.
	open, queried bool
	// ran means that something was executed since the last Sync, so that a transaction may be under way.
	ran bool
	// ours means that the transaction is one of ours, which the next Sync ends.
	ours bool
	// trial is the staged statement that was bound last.
	trial *trial
	// planned means that statements of the session were planned: what they made may still be used, whatever the masks say.
	planned bool
	heard   heard
	// done means that the client will send no more.
	done bool
	// verbatim means that something came which is not the protocol. The server says so, in its words and its order, and
	// closes; it runs nothing that comes behind, so nothing of it is looked at any more.
	verbatim bool
}

// block handles all that one read brought.
func (f *frontend) block(ctx context.Context) error {
	for {
		switch {
		case f.verbatim:
			return f.passAll()
		case f.rest > 0:
			if err := f.copyData(); err != nil {
				return err
			}
		}
		kind, size, ok := f.in.header()
		if !ok {
			return f.flush()
		}
		if !f.authenticated && kind != 'p' && kind != 'X' {
			if err := f.login(); err != nil {
				return err
			}
		}
		switch {
		case f.verbatim, size < 0, size-1 > f.sizeLimit(kind):
			f.verbatim = true
			continue
		case kind == 'd':
			f.rest = size
			continue
		case !f.in.has(size) && f.s.onLoop && size > loopBuffer: // it takes time to gather, and to copy
			return errors.Join(f.flush(), errWaits)
		case !f.in.has(size):
			return f.flush()
		}
		switch err := f.message(ctx, kind, f.in.message(size)); {
		case errors.Is(err, errWaits):
			f.in.back(size)
			return err
		case err != nil:
			return err
		case f.s.queue.gaveUp(): // the server takes nothing but data now: it says so
			f.in.back(size)
			f.verbatim = true
			continue
		}
		if len(f.out) >= loopBuffer {
			if err := f.flush(); err != nil {
				return err
			}
		}
	}
}

// passAll passes on what is here.
func (f *frontend) passAll() error {
	f.s.leaving.Store(true) // it may close without a word
	err := f.flush()
	if err == nil && f.in.rest() > 0 {
		_, err = f.s.upstream.Write(f.in.message(f.in.rest()))
	}
	if err != nil {
		return errUpstreamGone
	}
	return nil
}

// copyData passes on the CopyData messages that lie here one after the other, and of the last what is here: they can be
// huge, and need nothing.
func (f *frontend) copyData() error {
	start := f.in.r
	for {
		n := min(f.rest, f.in.rest())
		f.in.r += n
		f.rest -= n
		kind, size, ok := f.in.header()
		if f.rest > 0 || !ok || kind != 'd' || size < 0 {
			break
		}
		f.rest = size
	}
	if err := f.flush(); err != nil {
		return err
	}
	if _, err := f.s.upstream.write(f.in.buf[start:f.in.r], f.rest > 0); err != nil {
		return errUpstreamGone
	}
	return nil
}

// maxPassword is PostgreSQL's PG_MAX_AUTH_TOKEN_LENGTH.
const maxPassword = 65535

// sizeLimit is how long PostgreSQL takes a message of this type to be, by its length field: PQ_SMALL_MESSAGE_LIMIT for
// those that carry a name or nothing, PQ_LARGE_MESSAGE_LIMIT for others (SocketBackend in postgres.c). Zero is for types
// that it does not know.
func (f *frontend) sizeLimit(kind byte) int {
	switch kind {
	case 'p':
		if !f.authenticated {
			return maxPassword
		}
	case 'C', 'D', 'E', 'H', 'S', 'X', 'c', 'f':
		return 10000
	case 'Q', 'P', 'B', 'F', 'd':
		return maxMessage - 1
	}
	return 0
}

// login waits, before anything but a password or a farewell is looked at, until it is known who the client is, or until
// the server has asked for something else.
func (f *frontend) login() error {
	if err := f.flush(); err != nil {
		return err
	}
	switch ready, asked := f.s.queue.awaitLogin(); {
	case asked:
		f.verbatim = true
	case ready:
		f.authenticated = true
	default:
		return errClientGone
	}
	return nil
}

func (f *frontend) flush() error {
	if len(f.out) == 0 {
		return nil
	}
	_, err := f.s.upstream.Write(f.out)
	f.out = f.out[:0]
	if cap(f.out) > keptBuffer {
		f.out = nil
	}
	if err != nil {
		return errUpstreamGone
	}
	return nil
}

// keptBuffer is how large a buffer for finished messages an idle session keeps.
const keptBuffer = 4 << 10

// relay sends a message about which there is nothing to know upstream as it is.
func (f *frontend) relay(msg []byte) error { return f.forward(msg, &relayed[msg[0]]) }

// forward sends a message upstream as it is, once p is in the queue. What the server will skip need not be sent.
func (f *frontend) forward(msg []byte, p *pending) error {
	if f.s.queue.push(p) {
		f.out = append(f.out, msg...)
	}
	return nil
}

// send encodes a message of ours and forwards it.
func (f *frontend) send(msg pgproto3.FrontendMessage, p *pending) error {
	b, err := msg.Encode(nil)
	if err != nil {
		return &Error{Code: codeProtocolViolation, Fatal: true, Message: "message is too large"}
	}
	return f.forward(b, p)
}

// makeRoom lets a client that sends without reading the answers wait.
func (f *frontend) makeRoom() error {
	if !f.s.queue.crowded() {
		return nil
	}
	if f.s.onLoop {
		return errWaits
	}
	if err := f.flush(); err != nil {
		return err
	}
	f.s.queue.waitForRoom()
	return nil
}

// isOpen is open, once it was seen what came of a Query.
func (f *frontend) isOpen() bool {
	if f.open && f.queried && f.s.queue.isSettled() && !f.s.queue.isSkipping() {
		f.open, f.queried = false, false
	}
	return f.open
}

// message handles one whole message of the client's. On an event loop it returns errWaits, before it has changed anything
// that matters, where it would have to wait.
func (f *frontend) message(ctx context.Context, kind byte, msg []byte) error {
	if err := f.makeRoom(); err != nil {
		return err
	}
	if f.trial != nil && kind != 'D' && kind != 'E' {
		if err := f.endTrial(); err != nil {
			return err
		}
	}
	switch kind {
	case 'P', 'B', 'D', 'E', 'C':
		f.open, f.queried = true, false
	}
	switch kind {
	case 'Q':
		return f.query(ctx, msg)
	case 'P':
		return f.parse(ctx, msg)
	case 'B':
		return f.bind(ctx, msg)
	case 'D':
		return f.describe(ctx, msg)
	case 'E':
		return f.execute(ctx, msg)
	case 'C':
		return f.close(msg)
	case 'S':
		f.open, f.queried, f.ran = false, false, false
		if f.ours {
			return f.endBlock(&held{})
		}
		return f.relay(msg)
	case 'F':
		return f.functionCall(ctx, msg)
	case 'c', 'f': // CopyDone, CopyFail
		f.s.queue.push(&relayed['c'])
		f.out = append(f.out, msg...)
	case 'X': // the server answers what came before, and closes
		f.s.leaving.Store(true)
		f.out = append(f.out, msg...)
	case 'p':
		f.s.queue.asks(-1)
		f.out = append(f.out, msg...)
	case 'H':
		f.out = append(f.out, msg...)
	}
	return nil
}

// refuse makes the server fail where the client's message would have run, so that its transaction is aborted as by any
// other error, and has the server's complaint replaced.
func (f *frontend) refuse(kind byte, err error, text string) error {
	e := clientError(err, text)
	const nonsense = "scrim refuses a statement" // parses in no version of PostgreSQL
	if kind == 'Q' {
		return f.send(&pgproto3.Query{String: nonsense}, &pending{kind: 'Q', replace: e, text: text})
	}
	return f.send(&pgproto3.Parse{Name: callName, Query: nonsense}, &pending{kind: 'P', replace: e, text: text})
}

func (f *frontend) parse(ctx context.Context, msg []byte) error {
	name, rest := cutString(msg[headerSize:])
	text, types := cutString(rest)
	list, err := f.plan(ctx, text, false)
	switch {
	case err != nil:
		return f.unplanned(err, text)
	case len(list) != 1: // of several the server says that they are too many
		f.heard = heard{statement: name, text: f.s.heard(text)}
		changes := f.s.send(f.s.hides(name))
		if changes == nil {
			return f.relayHeard(msg, f.heard.text)
		}
		return f.forward(msg, &pending{kind: 'P', changes: changes, text: f.heard.text})
	}
	st := list[0]
	learns := st.plan != nil && st.plan.Staged()
	if st.plan != nil { // the types are this Parse's alone
		own := *st
		own.types = bytes.Clone(types)
		st = &own
	}
	if st.plan != nil && len(st.plan.Seals) > 0 || st.Effect.Uses() {
		if err := f.sameReading(st.sent()); err != nil {
			return err
		}
	}
	p := &pending{kind: 'P', edited: st, changes: f.s.send(change{name: name, stmt: st})}
	sql := st.Text
	switch {
	case st.plan != nil:
		sql = st.plan.SQL
	case st.command != nil:
		sql, types = queryOf(st.command), []byte{0, 0} // our statements take no parameters
	}
	changed := append(append(append([]byte(name), 0), sql...), 0)
	if err := f.forward(frame('P', append(changed, types...)), p); err != nil || !learns {
		return err
	}
	return f.send(&pgproto3.Describe{ObjectType: 'S', Name: name}, &pending{kind: 'D', silent: true, learn: st})
}

// unplanned answers an extended message whose plan could not be made.
func (f *frontend) unplanned(err error, text string) error {
	var server *serverError
	switch {
	case errors.As(err, &server):
		return f.passError(server, text, nil) // the server is skipping already
	case errors.Is(err, errSkipped):
		return nil
	case errors.Is(err, errWaits):
		return err
	}
	return f.refuse('P', err, text)
}

// passError gives the client the error that a question of ours met in its place. command says that the statement is one of ours.
func (f *frontend) passError(e *serverError, text string, command rewrite.Command) error {
	f.s.noteAnswer(e, text, command)
	if err := f.flush(); err != nil {
		return err
	}
	f.s.queue.drain()
	if _, err := f.s.client.Write(e.message); err != nil {
		return errClientGone
	}
	return nil
}

func (f *frontend) bind(ctx context.Context, msg []byte) error {
	portalName, rest := cutString(msg[headerSize:])
	name, _ := cutString(rest)
	st := f.s.lookup(name)
	switch {
	case st == nil:
		heard := ""
		if f.heard.portal = portalName; f.heard.statement == name {
			heard = f.heard.text
		} else {
			f.heard.text = ""
		}
		changes := f.s.send(f.s.hidesPortal(portalName))
		if changes == nil {
			return f.relayHeard(msg, heard)
		}
		return f.forward(msg, &pending{kind: 'B', changes: changes, text: heard})
	case st.gone:
		return f.refuse('P', errNoUnnamed, "")
	case st.command != nil:
		if st.explains {
			if err := f.stillExplains(ctx, st); err != nil {
				return f.unplanned(err, "")
			}
		}
		p := &portal{stmt: st, results: &results{tag: tagOf(st.command)}}
		return f.forward(msg, &pending{kind: 'B', changes: f.s.send(change{name: portalName, portal: p})})
	}
	var b pgproto3.Bind
	if err := b.Decode(msg[headerSize:]); err != nil {
		return f.refuse('P', &Error{Code: codeProtocolViolation, Message: "malformed Bind message"}, "")
	}
	relies := []change{{name: name, stmt: st}}
	if st.plan != nil {
		fresh, err := f.planAgain(ctx, st)
		switch {
		case err != nil:
			return f.unplanned(err, "")
		case fresh.plan.SQL == st.plan.SQL:
		case st.types == nil: // SQL prepared it
			return f.refuse('P', errOutdatedPlan, "")
		default:
			if err := f.prepareAgain(name, fresh); err != nil {
				return err
			}
			relies[0].stmt = fresh
		}
		st = fresh
	}
	x, err := f.execution(ctx, st, append([]int16{}, b.ResultFormatCodes...)) // not nil: the client has its say
	if err != nil {
		return f.unplanned(err, "")
	}
	if st.InTransactions { // theirs shall not be part of ours
		if err := f.commitOurs(); err != nil {
			return err
		}
	}
	if name != "" && x.results.fills() {
		if err := f.sameStatement(name, st); err != nil {
			return err
		}
	}
	b.ResultFormatCodes = x.formats
	p := &portal{stmt: st, results: x.results, declares: x.cursor, from: x.from}
	bound := &bound{st: st, bind: &b, x: x, relies: relies, makes: change{name: portalName, portal: p}}
	if x.staged != nil {
		return f.bindStaged(ctx, bound)
	}
	return f.bindPlainly(bound)
}

// errNoUnnamed is PostgreSQL's error for it.
var errNoUnnamed = &Error{Code: "26000", Message: "unnamed prepared statement does not exist"}

func (f *frontend) describe(ctx context.Context, msg []byte) error {
	body := msg[headerSize:]
	if len(body) < 2 {
		return f.relay(msg) // the server says what is wrong with it
	}
	name := cString(body[1:])
	switch body[0] {
	case 'S':
		st := f.s.lookup(name)
		switch {
		case st == nil || st.command != nil:
			return f.relay(msg)
		case st.gone:
			return f.refuse('P', errNoUnnamed, "")
		}
		x, err := f.execution(ctx, st, []int16{})
		if err != nil {
			return f.unplanned(err, "")
		}
		relies := append(x.from.reliance(st), change{name: name, stmt: st})
		return f.forward(msg, &pending{kind: 'D', ofStatement: true, results: x.results, relies: relies})
	case 'P':
		if portal := f.s.portal(name); portal != nil {
			return f.forward(msg, &pending{kind: 'D', results: portal.results, relies: []change{{name: name, portal: portal}}})
		}
	}
	return f.relay(msg)
}

func (f *frontend) execute(ctx context.Context, msg []byte) error {
	name, rest := cutString(msg[headerSize:])
	p := f.s.portal(name)
	ran := f.ran
	f.ran = true
	if f.trial != nil && (f.trial.bind.DestinationPortal != name || p == nil) {
		if err := f.endTrial(); err != nil {
			return err
		}
	}
	switch {
	case p == nil && f.heard.portal == name:
		return f.relayHeard(msg, f.heard.text)
	case p == nil:
		return f.relay(msg)
	case f.trial != nil:
		return f.executeStaged(ctx, msg, name, p)
	case p.stmt.command != nil && p.results.tag == "":
		f.ran = ran // what came before it is for it to know
		err := f.command(ctx, p.stmt, false)
		f.ran = ran || !errors.Is(err, errWaits)
		return err
	case p.cursor && p.results.fills() && len(rest) == 4:
		return f.executeCursor(name, p, binary.BigEndian.Uint32(rest))
	case p.cursor:
		return f.forward(msg, &pending{kind: 'E', results: p.results, relies: []change{{name: name, portal: p}}})
	case p.stmt.Effect.Uses() && f.origin(p.stmt) != p.from:
		return f.refuse('P', errOutdatedPlan, "") // the name that it uses has been given anew since
	}
	if p.results.fills() {
		if name != "" {
			if err := f.sameCursor(name, p); err != nil {
				return err
			}
		}
		if err := f.sameOrigin(p.stmt, p.from); err != nil {
			return err
		}
	}
	relies := append(p.from.reliance(p.stmt), change{name: name, portal: p})
	return f.forward(msg, &pending{
		kind: 'E', results: p.results, edited: p.stmt, relies: relies, changes: f.s.send(f.s.effect(p.stmt, p.declares)),
	})
}

// close relays a Close of a statement or portal.
func (f *frontend) close(msg []byte) error {
	var changes []change
	if body := msg[headerSize:]; len(body) > 1 && body[0] == 'S' {
		changes = f.s.send(f.s.hides(cString(body[1:])))
	} else if len(body) > 1 {
		changes = f.s.send(f.s.hidesPortal(cString(body[1:])))
	}
	if changes == nil {
		return f.relay(msg)
	}
	return f.forward(msg, &pending{kind: 'C', changes: changes})
}

// functionCall relays the old fast path for unmasked roles. Masked ones cannot use it: it has no text to plan.
func (f *frontend) functionCall(ctx context.Context, msg []byte) error {
	masks, err := f.s.planner.masks(ctx, f.s)
	if err != nil {
		return err
	}
	if masks.Any() {
		return f.refuse('Q', &Error{Code: codeFeatureNotSupported, Message: "function calls by the fast path are not supported for masked roles"}, "")
	}
	return f.relay(msg)
}

// frame puts the type and length in front of a message body.
func frame(kind byte, body []byte) []byte {
	msg := binary.BigEndian.AppendUint32([]byte{kind}, uint32(len(body)+4))
	return append(msg, body...)
}

// cutString splits a zero-terminated string off. A missing terminator gives all of it: the server will complain.
func cutString(b []byte) (string, []byte) {
	s, rest, _ := bytes.Cut(b, []byte{0})
	return string(s), rest
}

func cString(b []byte) string {
	s, _ := cutString(b)
	return s
}
