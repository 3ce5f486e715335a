package proxy

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"regexp"
	"strconv"
	"strings"
	"unicode/utf8"

	"github.com/jackc/pgx/v5/pgproto3"

	"github.com/scrimdb/scrim/catalog"
	"github.com/scrimdb/scrim/rewrite"
)

// backend is the half of a session that reads the server. Its fields are its driver's alone.
type backend struct {
	s        *session
	in       frames
	run      int    // in.buf[run:in.r] is to be written on as it is
	out      []byte // finished messages
	cells    []cell
	kept     kept       // by one execution for the next
	rest     int        // bytes of a passed-on message that have not come yet
	passed   int64      // rows that the head has given so far
	readings []*reading // of which rows were given, and no entry is written
	ended    bool       // the server has said why it will close the connection
}

// wants is how much to read next.
func (b *backend) wants() int {
	if head := b.s.queue.head(); b.in.full && head != nil && head.results.fills() && head.kind == 'E' {
		return fillBuffer // a large result: from here on, large batches
	}
	return baseBuffer
}

// fillsMuch tells whether a large result is being filled: its first rows are on their way to the client.
func (b *backend) fillsMuch() bool {
	head := b.s.queue.head()
	return head != nil && head.kind == 'E' && head.results.fills() && head.results.filled >= manyRows
}

// block handles all that one read brought.
func (b *backend) block(ctx context.Context) error {
	b.run = b.in.r
	head, known := (*pending)(nil), false
	for {
		if b.rest > 0 { // the tail of a large message: pass it on
			n := min(b.rest, b.in.rest())
			b.in.r += n
			b.rest -= n
		}
		kind, size, ok := b.in.header()
		if !ok {
			break
		}
		if size < 0 {
			return &Error{Code: codeProtocolViolation, Fatal: true, Message: "the upstream server sent a malformed message"}
		}
		if !known { // rows do not change it, and there are many of them
			head, known = b.s.queue.head(), true
		}
		whole := b.in.has(size)
		switch {
		case (kind == 'D' || kind == 'd') && (head == nil || head.plainRows()):
			if kind == 'D' {
				b.passed++
			}
			if !whole { // rows may be huge and need nothing: do not wait for the end
				b.rest = size
				continue
			}
			b.in.r += size
			continue
		case !whole && b.s.onLoop && size > fillBuffer:
			return errors.Join(b.endOfBlock(ctx), errWaits)
		case !whole:
			return b.endOfBlock(ctx)
		}
		known = false
		if err := b.message(ctx, kind, size, head); errors.Is(err, errWaits) {
			b.in.back(size)
			return errors.Join(b.endOfBlock(ctx), err)
		} else if err != nil {
			return err
		}
	}
	return b.endOfBlock(ctx)
}

func (b *backend) endOfBlock(ctx context.Context) error {
	if err := b.flush(ctx); err != nil {
		return err
	}
	b.s.goingHome.Store(b.s.queue.settle() && b.s.homeable && !b.s.onLoop)
	return nil
}

// flush writes everything that has gathered.
func (b *backend) flush(ctx context.Context) error {
	if len(b.out) == 0 && !b.filling() { // nothing was changed: no need to copy
		err := b.write(b.in.buf[b.run:b.in.r])
		b.run = b.in.r
		return err
	}
	if err := b.gather(ctx); err != nil {
		return err
	}
	return b.send()
}

// filling tells whether rows wait to be encoded.
func (b *backend) filling() bool {
	head := b.s.queue.head()
	return head != nil && head.results.fills() && head.results.batch != nil && len(head.results.batch.rows) > 0
}

// gather moves to b.out: first rows that were filled, then the run of untouched messages. One of them is always empty,
// since there is a gather at each change from one to the other.
func (b *backend) gather(ctx context.Context) error {
	if b.filling() {
		if err := b.encode(ctx, b.s.queue.head().results); err != nil {
			return err
		}
	}
	b.out = append(b.out, b.in.buf[b.run:b.in.r]...)
	b.run = b.in.r
	return nil
}

func (b *backend) encode(ctx context.Context, r *results) error {
	out, encoded, err := r.encode(b.out)
	b.out = out
	if err != nil {
		b.s.log.ErrorContext(ctx, "encoding failed", "error", err)
		return &Error{Code: codeInternal, Fatal: true, Message: "a masked column could not be encoded"}
	}
	if encoded > 0 {
		b.s.srv.metrics.RowsEncoded.Add(int64(encoded))
		b.s.srv.metrics.Batches.Add(1)
	}
	return nil
}

func (b *backend) send() error {
	err := b.write(b.out)
	b.out = b.out[:0]
	if cap(b.out) > keptBuffer && !b.filling() && b.wants() == baseBuffer {
		b.out = nil
	}
	return err
}

func (b *backend) write(p []byte) error {
	if len(p) == 0 {
		return nil
	}
	if _, err := b.s.client.write(p, b.rest > 0); err != nil {
		return errClientGone
	}
	return nil
}

// instead writes messages, or nothing, in the place of the message that was just taken.
func (b *backend) instead(ctx context.Context, size int, msgs ...[]byte) error {
	b.in.r -= size
	err := b.gather(ctx)
	b.in.r += size
	b.run = b.in.r
	if err != nil {
		return err
	}
	for _, msg := range msgs {
		b.out = append(b.out, msg...)
	}
	if len(b.out) >= fillBuffer {
		return b.send()
	}
	return nil
}

// requests says which request an answer belongs to, where only one can have it (besides Query).
var requests = [256]byte{'1': 'P', '2': 'B', '3': 'C', 'C': 'E', 'I': 'E', 's': 'E'}

// message handles one whole message. The protocol's answers by request:
// https://www.postgresql.org/docs/current/protocol-flow.html
func (b *backend) message(ctx context.Context, kind byte, size int, head *pending) error {
	msg := b.in.message(size)
	switch kind {
	case 'N', 'A': // NoticeResponse, NotificationResponse: at any time, of no request
		return nil
	case 'S':
		b.parameter(msg)
		return nil
	case 'R':
		switch body := msg[headerSize:]; {
		case awaitsAnswer(body):
			b.s.queue.asks(1)
		case len(body) == 4 && binary.BigEndian.Uint32(body) == pgproto3.AuthTypeOk:
			b.s.queue.letIn()
		}
		return nil
	case 'K':
		b.s.srv.cancels.add(b.s, cancelKey(msg[headerSize:]))
		return nil
	case 'Z':
		return b.readyForQuery(ctx, msg)
	case 'E':
		return b.errorResponse(ctx, msg, head)
	}
	if head == nil {
		return nil
	}
	if head.call != nil {
		return b.callMessage(ctx, kind, msg, head)
	}
	if want := requests[kind]; want != 0 && head.kind != want && head.kind != 'Q' {
		return &Error{Code: codeProtocolViolation, Fatal: true, Message: "the upstream server's answers are out of step"}
	}
	if head.relies != nil && !b.s.reliable(head) {
		return shapeError()
	}
	if head.attempt != nil && head.kind == 'E' && kind != 'T' {
		head.attempt.settle(false)
		head.attempt = nil
	}
	switch kind {
	case '1', '2', '3':
		b.s.done(head, nil)
		b.s.queue.pop()
	case 'T':
		return b.rowDescription(ctx, msg, head)
	case 'n':
		if head.kind == 'D' {
			b.s.queue.pop()
		}
		if head.held != nil || head.learn != nil { // the client has not asked
			return b.instead(ctx, len(msg))
		}
	case 'D':
		return b.dataRow(ctx, msg, head)
	case 'C', 'I', 's':
		return b.executed(ctx, kind, msg, head)
	case 't':
		if head.learn != nil {
			head.learn.params = parameterTypes(msg[headerSize:])
		}
	case 'G', 'W':
		b.s.queue.beginCopyIn()
		return nil
	default: // CopyOut and its end, authentication, negotiation, ...
		return nil
	}
	if head.silent {
		return b.instead(ctx, len(msg))
	}
	return nil
}

// parameterTypes reads a ParameterDescription.
func parameterTypes(body []byte) []uint32 {
	var d pgproto3.ParameterDescription
	if err := d.Decode(body); err != nil {
		return nil
	}
	return d.ParameterOIDs
}

// awaitsAnswer tells whether a server that sends this Authentication message waits for the client to answer.
func awaitsAnswer(body []byte) bool {
	if len(body) < 4 {
		return false
	}
	switch binary.BigEndian.Uint32(body) {
	case pgproto3.AuthTypeCleartextPassword, pgproto3.AuthTypeMD5Password, pgproto3.AuthTypeGSS, pgproto3.AuthTypeGSSCont,
		pgproto3.AuthTypeSSPI, pgproto3.AuthTypeSASL, pgproto3.AuthTypeSASLContinue:
		return true
	}
	return false
}

// callMessage gives a message to a question of our own.
func (b *backend) callMessage(ctx context.Context, kind byte, msg []byte, head *pending) error {
	b.cells = head.call.answer(msg, b.cells)
	switch kind {
	case '1', '2', '3', 'n', 'C', 'I', 's':
		b.s.done(head, nil)
		b.s.queue.pop()
		if next := b.s.queue.head(); next == nil || next.call != head.call {
			head.call.finish(nil)
		}
	}
	return b.instead(ctx, len(msg))
}

func (b *backend) parameter(msg []byte) {
	name, rest, ok := bytes.Cut(msg[headerSize:], []byte{0})
	value, _, ok2 := bytes.Cut(rest, []byte{0})
	if ok && ok2 {
		b.s.setParam(string(name), string(value))
	}
}

func (b *backend) readyForQuery(ctx context.Context, msg []byte) error {
	head := b.s.queue.head()
	if len(msg) != headerSize+1 {
		return &Error{Code: codeProtocolViolation, Fatal: true, Message: "the upstream server sent a malformed message"}
	}
	status := msg[headerSize]
	if b.s.replicates {
		if err := b.s.mayReplicate(ctx); err != nil {
			return err
		}
	}
	if status == 'I' && b.s.onLoop && b.s.changedCatalog.Load() {
		return errWaits
	}
	b.s.ready(status, b.s.queue.headSyncs())
	if status == 'I' && b.s.changedCatalog.Swap(false) {
		// Who changed a policy sees it at once: the answer waits for the new snapshot.
		ctx, cancel := context.WithTimeout(ctx, catalogPatience)
		err := b.s.srv.refresh(ctx)
		cancel()
		if err != nil {
			b.s.log.WarnContext(ctx, "catalog reload after a change failed", "error", err)
		}
	}
	if status == 'I' {
		b.endReadings()
	}
	if head != nil && head.silent {
		if err := b.instead(ctx, len(msg)); err != nil {
			return err
		}
	}
	if head != nil && head.held.waits() {
		if err := b.instead(ctx, len(msg), head.held.take(), msg); err != nil {
			return err
		}
	}
	b.s.queue.ready()
	if head != nil && head.call != nil {
		head.call.finish(nil)
	}
	return nil
}

// errorResponse passes an error on, or the refusal that it stands for, and skips what the server skips.
func (b *backend) errorResponse(ctx context.Context, msg []byte, head *pending) error {
	var response pgproto3.ErrorResponse
	if err := response.Decode(msg[headerSize:]); err != nil {
		return &Error{Code: codeProtocolViolation, Fatal: true, Message: "the upstream server sent a malformed message"}
	}
	b.ended = response.SeverityUnlocalized == "FATAL" || response.SeverityUnlocalized == "PANIC"
	if response.Code == "42501" || head != nil && (head.edited != nil && head.edited.plan != nil || head.results.planned()) {
		b.s.denied.Store(true)
	}
	b.s.fail()
	b.noteError(response.Code, head)
	if head != nil {
		b.gave(head.results.read(), 'E', msg)
	}
	var instead []byte
	swallow := false
	switch {
	case head == nil:
	case head.call != nil:
		swallow = true
		head.call.finish(bytes.Clone(msg))
	case head.attempt != nil && !head.attempt.last && response.Code == codeSerializationFailure:
		swallow = true
		head.attempt.settle(true)
	case head.replace != nil:
		instead = head.replace.encode()
	case head.edited != nil && response.Position > 0:
		if at := head.edited.position(response.Position); at != response.Position {
			response.Position = at
			instead = encode(&response)
		}
	}
	if instead == nil && !swallow && (namesMaskedView(b.s.srv.catalog.Snapshot(), &response) || b.mayNotShow(head, &response)) {
		instead = encode(&response)
	}
	if head != nil {
		head.held.take()
		head.attempt.settle(false)
		b.s.undone(head)
	}
	if swallow || instead != nil || b.filling() {
		if instead == nil && !swallow {
			instead = bytes.Clone(msg)
		}
		if err := b.instead(ctx, len(msg), instead); err != nil {
			return err
		}
	}
	if head != nil && !head.endsInReady() {
		b.s.queue.fail()
	}
	return nil
}

// mayNotShow gives the refusal of a SHOW a hint.
func (b *backend) mayNotShow(head *pending, e *pgproto3.ErrorResponse) bool {
	if e.Code != codeInsufficientPrivilege || head == nil || head.results == nil || head.results.tag != "SHOW" {
		return false
	}
	e.Hint = "GRANT scrim_user TO " + regclassName(b.s.role) + " lets this role list what is there, scrim_admin also training jobs."
	return true
}

// namesMaskedView gives an error of ALTER or DROP a hint where a masked view is in the way: PostgreSQL's own would be to drop it. Where a
// privilege on one is lacking, it names the table instead.
func namesMaskedView(s *catalog.Snapshot, e *pgproto3.ErrorResponse) bool {
	if e.Code == codeInsufficientPrivilege {
		name := maskedViewDenied.FindStringSubmatch(e.Message)
		if name == nil {
			return false
		}
		oid, _ := strconv.ParseUint(name[1], 10, 32)
		p := s.Protections[uint32(oid)]
		if p == nil {
			return false
		}
		e.Message = deniedOn(p)
		return true
	}
	if e.Code != codeFeatureNotSupported && e.Code != codeDependentObjects || e.Detail == "" {
		return false
	}
	for oid, p := range s.Protections {
		_, after, found := strings.Cut(e.Detail, fmt.Sprintf("_%d_", oid)) // views that were replaced are in the way too
		switch {
		case !found || after == "" || after[0] < '0' || after[0] > '9':
			continue
		case p.FeatureView:
			e.Hint = fmt.Sprintf("Feature view %s reads it. DROP FEATURE VIEW first.", p.Policies[0].Name)
		default:
			table := regclassName(p.Relation.Schema) + "." + regclassName(p.Relation.Name)
			e.Hint = fmt.Sprintf("%s it. Put SELECT scrim.suspend('%s') and scrim.resume('%[2]s') around ALTER TABLE, or DROP MASKING POLICY.",
				read(p.Policies), strings.ReplaceAll(table, "'", "''"))
		}
		return true
	}
	return false
}

// regclassName is a name as regclass reads it, where no keyword is in the way.
func regclassName(s string) string {
	if plainName.MatchString(s) {
		return s
	}
	return rewrite.Quote(s)
}

// deniedOn is PostgreSQL's refusal of a relation. Its masked view is nobody's concern.
func deniedOn(p *catalog.Protection) string {
	if p.FeatureView {
		return "permission denied for view " + p.Relation.Name
	}
	return "permission denied for table " + p.Relation.Name
}

// maskedViewDenied is PostgreSQL's message about a masked view, with the OID of the relation.
var maskedViewDenied = regexp.MustCompile(`^permission denied for view .*_(\d+)_\d+$`)

var plainName = regexp.MustCompile(`^[a-z_][a-z0-9_]*$`)

// read says that policies do read something.
func read(policies []*catalog.Policy) string {
	names := make([]string, len(policies))
	for i, p := range policies {
		names[i] = strconv.Quote(p.Name)
	}
	if len(names) == 1 {
		return "Masking policy " + names[0] + " reads"
	}
	return "Masking policies " + strings.Join(names, ", ") + " read"
}

// originalPosition maps a character position in the spliced text to one in the client's; 0 for none.
func originalPosition(st *statement, position int32) int32 {
	offset := len(st.plan.SQL)
	n := int32(0)
	for i := range st.plan.SQL {
		n++
		if n == position {
			offset = i
			break
		}
	}
	original := st.plan.Original(offset)
	if original < 0 {
		return 0
	}
	original = min(original, len(st.Text))
	return int32(utf8.RuneCountInString(st.Text[:original])) + 1
}

func (b *backend) rowDescription(ctx context.Context, msg []byte, head *pending) error {
	changed := msg
	if head.results.planned() {
		var shape *Error
		if changed, shape = b.kept.rowDescription(head.results, msg, head.ofStatement); shape != nil {
			return shape
		}
	}
	var err error
	switch {
	case head.gathers:
		head.held.messages = bytes.Clone(changed)
		err = b.instead(ctx, len(msg))
	case head.results.planned():
		err = b.instead(ctx, len(msg), changed)
	}
	if head.kind == 'D' {
		b.s.queue.pop()
	}
	if head.learn != nil {
		err = b.instead(ctx, len(msg))
	}
	return err
}

// maxBatch bounds the rows of one model call.
const maxBatch = 4096

// manyRows of a result are sent as soon as they come; what follows may gather into larger batches.
const manyRows = 1024

func (b *backend) dataRow(ctx context.Context, msg []byte, head *pending) error {
	r := head.results
	switch waited := head.held.take(); {
	case waited != nil && !r.fills():
		b.passed++
		return b.instead(ctx, len(msg), waited, msg)
	case waited != nil:
		if err := b.instead(ctx, len(msg), waited); err != nil {
			return err
		}
	case !r.fills():
		b.passed++
		return nil
	}
	if r.batch == nil {
		b.kept.takeBatch(r)
	}
	if b.in.r-b.run > len(msg) { // what came before goes first: the row description, or a notice between rows
		if err := b.instead(ctx, len(msg)); err != nil {
			return err
		}
	}
	err := r.add(msg[headerSize:])
	if errors.Is(err, errSeal) {
		err = b.s.reopen(ctx, r.batch.learn, func() error { return r.add(msg[headerSize:]) })
	}
	switch {
	case errors.Is(err, errWaits):
		b.run = b.in.r - len(msg) // the row is still to be taken; what came before it is in b.out
		return err
	case err != nil:
		var shape *Error
		if errors.As(err, &shape) {
			return shape
		}
		b.s.log.ErrorContext(ctx, "sealed value refused", "role", b.s.role)
		b.s.noteRefusal("", codeDataCorrupted, "")
		return &Error{Code: codeDataCorrupted, Fatal: true, Message: errSeal.Error()}
	}
	b.run = b.in.r
	b.passed++
	if len(r.batch.rows) >= maxBatch {
		return b.encode(ctx, r)
	}
	return nil
}

// executed handles the end of an Execute: CommandComplete, EmptyQueryResponse or PortalSuspended.
func (b *backend) executed(ctx context.Context, kind byte, msg []byte, head *pending) error {
	answer, changed := msg, head.results.fills()
	b.gave(head.results.read(), kind, msg)
	if kind == 'C' {
		b.s.done(head, msg[headerSize:])
		if ours := head.results.completion(msg); ours != nil {
			answer, changed = ours, true
		}
	}
	if head.silent || head.kind == 'Q' && head.held != nil {
		answer, changed = nil, true
	}
	waited := head.held.take()
	if head.last {
		head.held.messages, answer, changed = bytes.Clone(answer), nil, true
	}
	if len(waited) > 0 || changed {
		if err := b.instead(ctx, len(msg), waited, answer); err != nil {
			return err
		}
	}
	if head.results != nil {
		b.kept.keepBatch(head.results)
	}
	if head.kind == 'E' {
		b.s.queue.pop()
	}
	return nil
}

// tagOf returns the tag of a SHOW, or nothing.
func tagOf(cmd rewrite.Command) string {
	if _, ok := cmd.(rewrite.Query); ok {
		return cmd.Tag()
	}
	return ""
}
