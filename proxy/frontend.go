package proxy

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"

	"github.com/jackc/pgx/v5/pgproto3"
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
	// open means that extended messages were sent since the last Sync: the server has a transaction under way.
	open bool
	// done means that the client will send no more.
	done bool
}

// block handles all that one read brought.
func (f *frontend) block(ctx context.Context) error {
	for {
		if f.rest > 0 {
			n := min(f.rest, f.in.rest())
			f.out = append(f.out, f.in.message(n)...)
			f.rest -= n
		}
		kind, size, ok := f.in.header()
		if !ok {
			return f.flush()
		}
		if size < 0 || size > sizeLimit(kind) {
			return &Error{Code: codeProtocolViolation, Fatal: true, Message: "invalid message length"}
		}
		whole := f.in.has(size)
		switch {
		case (whole || size > maxPassword) && !f.authenticated && !f.authentication(kind):
			return errClientGone
		case !whole && kind != 'd':
			return f.flush()
		case !whole: // CopyData can be huge and needs nothing: pass on what is here, then the rest as it comes
			f.rest = size
			continue
		}
		if err := f.message(ctx, kind, f.in.message(size)); err != nil {
			if errors.Is(err, errWaits) {
				f.in.back(size)
			}
			return err
		}
		if len(f.out) >= loopBuffer {
			if err := f.flush(); err != nil {
				return err
			}
		}
	}
}

// maxPassword is PostgreSQL's PG_MAX_AUTH_TOKEN_LENGTH.
const maxPassword = 65535

// sizeLimit is how long a message of this type may be: PostgreSQL's PQ_SMALL_MESSAGE_LIMIT for those that carry a name or
// nothing, and PQ_LARGE_MESSAGE_LIMIT.
func sizeLimit(kind byte) int {
	switch kind {
	case 'p':
		return maxPassword
	case 'C', 'D', 'E', 'H', 'S', 'X', 'c':
		return 10000
	}
	return maxMessage
}

// authentication waits, before anything but a password or a farewell is looked at, until the server knows who the client
// is. It returns false if that does not come to pass.
func (f *frontend) authentication(kind byte) bool {
	if kind == 'p' || kind == 'X' {
		return true
	}
	if f.flush() != nil {
		return false
	}
	f.authenticated = f.s.queue.drain()
	return f.authenticated
}

func (f *frontend) flush() error {
	if len(f.out) == 0 {
		return nil
	}
	_, err := f.s.upstream.write(f.out, f.rest > 0)
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

// message handles one whole message of the client's. On an event loop it returns errWaits, before it has changed anything
// that matters, where it would have to wait.
func (f *frontend) message(ctx context.Context, kind byte, msg []byte) error {
	if err := f.makeRoom(); err != nil {
		return err
	}
	switch kind {
	case 'P', 'B', 'D', 'E', 'C':
		f.open = true
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
		if body := msg[headerSize:]; len(body) > 1 && body[0] == 'S' {
			return f.forward(msg, &pending{kind: 'C', closes: true, name: cString(body[1:])})
		}
		return f.relay(msg)
	case 'S':
		f.open = false
		return f.relay(msg)
	case 'F':
		return f.functionCall(ctx, msg)
	case 'c', 'f': // CopyDone, CopyFail
		f.s.queue.push(&relayed['c'])
		f.out = append(f.out, msg...)
	case 'X': // the server answers what came before, and closes
		f.s.leaving.Store(true)
		f.out = append(f.out, msg...)
	case 'd', 'H', 'p':
		f.out = append(f.out, msg...)
	default:
		return &Error{Code: codeProtocolViolation, Fatal: true, Message: "invalid frontend message type"}
	}
	return nil
}

// refuse makes the server fail where the client's message would have run, so that its transaction is aborted as by any
// other error, and has the server's complaint replaced.
func (f *frontend) refuse(kind byte, err error, text string) error {
	e := clientError(err, text)
	const nonsense = "scrim refuses a statement" // parses in no version of PostgreSQL
	if kind == 'Q' {
		return f.send(&pgproto3.Query{String: nonsense}, &pending{kind: 'Q', replace: e})
	}
	return f.send(&pgproto3.Parse{Name: callName, Query: nonsense}, &pending{kind: 'P', name: callName, replace: e})
}

func (f *frontend) query(ctx context.Context, msg []byte) error {
	text := cString(msg[headerSize:])
	st, err := f.plan(ctx, text, !f.open)
	if errors.Is(err, errWaits) {
		return err
	}
	f.open = false // a Query ends with a transaction's end, or in one that was begun
	var server *serverError
	switch {
	case errors.As(err, &server): // what we asked failed, and so would the statement: in the same words
		if err := f.passError(server); err != nil {
			return err
		}
		return f.send(&pgproto3.Sync{}, &pending{kind: 'S'})
	case errors.Is(err, errSkipped): // the server ignores a Query too until the next Sync
		return nil
	case err != nil:
		return f.refuse('Q', err, text)
	case st == nil:
		return f.relay(msg)
	case st.command != nil:
		return f.command(ctx, st, true)
	case len(st.plan.Seals) == 0:
		return f.send(&pgproto3.Query{String: st.plan.SQL}, &pending{kind: 'Q', edited: st, results: &results{plan: st.plan}})
	}
	r, err := f.newResults(ctx, st, nil)
	if errors.Is(err, errWaits) {
		return err
	}
	if err != nil {
		return f.refuse('Q', err, text)
	}
	// Sealed columns come in binary, which the simple protocol cannot ask for.
	out := []pgproto3.FrontendMessage{
		&pgproto3.Parse{Query: st.plan.SQL},
		&pgproto3.Bind{ResultFormatCodes: r.upstreamFormats()},
		&pgproto3.Describe{ObjectType: 'P'},
		&pgproto3.Execute{},
		&pgproto3.Close{ObjectType: 'S'}, // a simple query leaves no unnamed statement behind
		&pgproto3.Sync{},
	}
	entries := []*pending{
		{kind: 'P', silent: true, edited: st},
		{kind: 'B', silent: true, edited: st},
		{kind: 'D', results: r},
		{kind: 'E', results: r, edited: st},
		{kind: 'C', silent: true, closes: true},
		{kind: 'S'},
	}
	if f.s.queue.isSkipping() {
		return nil // our Sync must not end what the client's has to
	}
	for i, m := range out {
		if err := f.send(m, entries[i]); err != nil {
			return err
		}
	}
	return nil
}

func (f *frontend) parse(ctx context.Context, msg []byte) error {
	name, rest := cutString(msg[headerSize:])
	text, types := cutString(rest)
	st, err := f.plan(ctx, text, false)
	switch {
	case err != nil:
		return f.unplanned(err, text)
	case st == nil:
		p := &pending{kind: 'P', name: name}
		if f.s.lookup(name) != nil {
			p.stmt = &statement{relayed: true}
			f.s.sendParse(name, p.stmt)
		}
		return f.forward(msg, p)
	}
	p := &pending{kind: 'P', name: name, stmt: st, edited: st}
	sql := ""
	switch {
	case st.plan != nil:
		sql = st.plan.SQL
	case tagOf(st.command) != "":
		sql = showQuery(st.command)
	}
	var changed []byte
	changed = append(append(changed, name...), 0)
	changed = append(append(changed, sql...), 0)
	if st.plan == nil {
		types = []byte{0, 0} // our statements take no parameters
	}
	changed = append(changed, types...)
	f.s.sendParse(name, st)
	return f.forward(frame('P', changed), p)
}

// unplanned answers an extended message whose plan could not be made.
func (f *frontend) unplanned(err error, text string) error {
	var server *serverError
	switch {
	case errors.As(err, &server):
		return f.passError(server) // the server is skipping already
	case errors.Is(err, errSkipped):
		return nil
	case errors.Is(err, errWaits):
		return err
	}
	return f.refuse('P', err, text)
}

// passError gives the client the error that a question of ours met in its place.
func (f *frontend) passError(e *serverError) error {
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
	if st == nil && !f.s.special() {
		return f.relay(msg)
	}
	if st == nil {
		p := &pending{kind: 'B', name: portalName, portal: &portal{relayed: true}}
		f.s.sendBind(portalName, p.portal)
		return f.forward(msg, p)
	}
	if st.command != nil {
		p := &portal{stmt: st, results: &results{tag: tagOf(st.command)}}
		f.s.sendBind(portalName, p)
		return f.forward(msg, &pending{kind: 'B', name: portalName, portal: p})
	}
	st, err := f.current(ctx, st)
	if err != nil {
		return f.unplanned(err, "")
	}
	var b pgproto3.Bind
	if err := b.Decode(msg[headerSize:]); err != nil {
		return &Error{Code: codeProtocolViolation, Fatal: true, Message: "malformed Bind message"}
	}
	r, err := f.newResults(ctx, st, b.ResultFormatCodes)
	if err != nil {
		return f.unplanned(err, "")
	}
	if len(st.plan.Seals) > 0 && r.formats != nil {
		b.ResultFormatCodes = r.upstreamFormats()
	}
	p := &portal{stmt: st, results: r}
	f.s.sendBind(portalName, p)
	return f.send(&b, &pending{kind: 'B', name: portalName, portal: p, edited: st})
}

func (f *frontend) describe(ctx context.Context, msg []byte) error {
	body := msg[headerSize:]
	if len(body) < 2 {
		return &Error{Code: codeProtocolViolation, Fatal: true, Message: "malformed Describe message"}
	}
	p := &pending{kind: 'D'}
	switch name := cString(body[1:]); body[0] {
	case 'S':
		if st := f.s.lookup(name); st != nil && st.plan != nil {
			r, err := f.newResults(ctx, st, nil)
			if err != nil {
				return f.unplanned(err, "")
			}
			p.stmt, p.results = st, r
		}
	case 'P':
		if portal := f.s.portal(name); portal != nil {
			p.results = portal.results
		}
	}
	return f.forward(msg, p)
}

func (f *frontend) execute(ctx context.Context, msg []byte) error {
	name, _ := cutString(msg[headerSize:])
	p := f.s.portal(name)
	switch {
	case p == nil:
		return f.relay(msg)
	case p.stmt.command != nil && p.results.tag == "":
		return f.command(ctx, p.stmt, false)
	}
	return f.forward(msg, &pending{kind: 'E', results: p.results, edited: p.stmt})
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

// upstreamFormats asks for sealed columns in binary and for the others as the client did.
func (r *results) upstreamFormats() []int16 {
	formats := make([]int16, len(r.formats))
	for i, o := range r.plan.Outputs {
		formats[i] = r.formats[i]
		if o.Seal >= 0 {
			formats[i] = formatBinary
		}
	}
	return formats
}
