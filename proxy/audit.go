package proxy

import (
	"context"
	"errors"
	"net"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/jackc/pgx/v5/pgproto3"

	"github.com/scrimdb/scrim/catalog"
	"github.com/scrimdb/scrim/rewrite"
)

// What a server's sessions refuse and read is audited, where the catalog says that all is. No session waits for that: entries lie in a queue until one
// goroutine (Server.keepAudit) writes them down, together. What the queue has no room for is counted, and an entry says how much it was.

// auditQueue is between the sessions and the goroutine that writes.
type auditQueue struct {
	mu      sync.Mutex
	entries []catalog.AuditEntry
	lost    int64         // that no entry tells of yet
	enough  chan struct{} // has one when there are enough for a statement
}

const (
	auditBatch = 1000            // entries of one COPY
	auditRoom  = 20 * auditBatch // entries that wait: some MB
	auditPause = time.Second     // the longest that an entry waits, if the catalog is there
)

func newAuditQueue() *auditQueue { return &auditQueue{enough: make(chan struct{}, 1)} }

// add takes an entry, or tells that there is no room.
func (q *auditQueue) add(e catalog.AuditEntry) bool {
	q.mu.Lock()
	defer q.mu.Unlock()
	if len(q.entries) >= auditRoom {
		q.lost++
		return false
	}
	q.entries = append(q.entries, e)
	if len(q.entries) >= auditBatch {
		select {
		case q.enough <- struct{}{}:
		default:
		}
	}
	return true
}

// next returns the oldest entries, which stay in the queue until done says that they are written.
func (q *auditQueue) next() []catalog.AuditEntry {
	q.mu.Lock()
	defer q.mu.Unlock()
	batch := q.entries[:min(len(q.entries), auditBatch):min(len(q.entries), auditBatch)]
	if q.lost > 0 && len(q.entries) < auditBatch { // where the gap was: behind what there was room for
		lost := q.lost
		batch = append(batch, catalog.AuditEntry{At: time.Now(), Kind: catalog.AuditLost, Rows: &lost})
	}
	return batch
}

// left is how many entries are not written.
func (q *auditQueue) left() int64 {
	q.mu.Lock()
	defer q.mu.Unlock()
	return int64(len(q.entries)) + q.lost
}

// done forgets what next returned. Where the server will never take them they count as lost.
func (q *auditQueue) done(batch []catalog.AuditEntry, written bool) {
	q.mu.Lock()
	defer q.mu.Unlock()
	n := len(batch)
	if last := batch[n-1]; last.Kind == catalog.AuditLost {
		n--
		if written {
			q.lost -= *last.Rows
		}
	}
	if !written {
		q.lost += int64(n)
	}
	q.entries = append(q.entries[:0:0], q.entries[n:]...)
}

// keepAudit writes the audit until ctx ends, and then what is left; and deletes what is old.
func (srv *Server) keepAudit(ctx context.Context) {
	every := time.NewTicker(auditPause)
	defer every.Stop()
	w := &auditWriter{srv: srv}
	for {
		select {
		case <-every.C:
		case <-srv.audit.enough:
		case <-ctx.Done():
			ending, cancel := context.WithTimeout(context.WithoutCancel(ctx), auditPatience)
			defer cancel()
			w.write(ending)
			if left := srv.audit.left(); left > 0 {
				srv.log.ErrorContext(ending, "entries of the audit could not be written before the end", "entries", left)
			}
			return
		}
		w.write(ctx)
		w.prune(ctx)
	}
}

const (
	// auditPatience bounds one statement, so that a server that does not answer is asked anew.
	auditPatience = 5 * time.Second
	prunePause    = time.Hour
	pruneBatch    = 10_000 // entries of one DELETE
)

// auditWriter is keepAudit's alone.
type auditWriter struct {
	srv    *Server
	failed bool      // since it worked last
	told   int64     // of lost entries
	pruned time.Time // when nothing old was left
}

// write writes what is in the queue.
func (w *auditWriter) write(ctx context.Context) {
	for batch := w.srv.audit.next(); len(batch) > 0; batch = w.srv.audit.next() {
		asking, cancel := context.WithTimeout(ctx, auditPatience)
		err := w.srv.catalog.WriteAudit(asking, batch)
		cancel()
		refused := errors.Is(err, catalog.ErrAuditEntry)
		if refused {
			w.srv.metrics.AuditLost.Add(int64(len(batch)))
		}
		if err == nil || refused {
			w.srv.audit.done(batch, err == nil)
		}
		if err != nil && !w.failed && ctx.Err() == nil {
			w.srv.log.WarnContext(ctx, "the audit cannot be written, trying again every second", "error", err)
		}
		w.failed = err != nil
		if w.failed {
			break
		}
	}
	if lost := w.srv.metrics.AuditLost.Load(); lost > w.told {
		w.srv.log.WarnContext(ctx, "entries of the audit were lost", "entries", lost-w.told)
		w.told = lost
	}
}

// prune deletes some of what is older than the retention, if that was not done within the hour: a little at a time, so that new entries do not wait.
func (w *auditWriter) prune(ctx context.Context) {
	if w.failed || time.Since(w.pruned) < prunePause {
		return
	}
	asking, cancel := context.WithTimeout(ctx, auditPatience)
	defer cancel()
	switch gone, err := w.srv.catalog.PruneAudit(asking, pruneBatch); {
	case err != nil && ctx.Err() == nil:
		w.srv.log.WarnContext(ctx, "old entries of the audit cannot be deleted, trying again in an hour", "error", err)
		w.pruned = time.Now()
	case gone < pruneBatch:
		w.pruned = time.Now()
	}
}

// audits tells whether what the session refuses and reads is audited.
func (s *session) audits() bool {
	return !s.elsewhere && s.srv.catalog.Snapshot().Audit == catalog.AuditAll
}

// note audits one entry of the session.
func (s *session) note(e catalog.AuditEntry) {
	e.At, e.Role, e.Client, e.Application = time.Now(), s.role, s.address, s.param("application_name")
	if !s.srv.audit.add(e) {
		s.srv.metrics.AuditLost.Add(1)
	}
}

// noteRefusal audits that a statement was refused. Its tag and its text may be missing.
func (s *session) noteRefusal(tag, sqlstate, text string) {
	if s.audits() {
		s.note(catalog.AuditEntry{Kind: catalog.AuditRefused, Tag: tag, SQLState: sqlstate, Fingerprint: fingerprint(text)})
	}
}

// noteAnswer audits an error that a question of ours met, if it is a refusal: of one of our statements each is.
func (s *session) noteAnswer(e *serverError, text string, command rewrite.Command) {
	var r pgproto3.ErrorResponse
	switch err := r.Decode(e.message[headerSize:]); {
	case err != nil:
	case command != nil:
		s.noteRefusal(command.Tag(), r.Code, "")
	case r.Code == codeInsufficientPrivilege && s.masked.Load():
		s.noteRefusal("", r.Code, text)
	}
}

// fingerprint is that of a text, if it takes no long time.
func fingerprint(text string) string {
	if text == "" || len(text) > maxPlanText {
		return ""
	}
	return rewrite.Fingerprint(text)
}

// heard is the text of a message for the audit of a refusal, for a role that is masked anywhere; else nothing.
func (s *session) heard(text string) string {
	if len(text) > maxPlanText || !s.masked.Load() || !s.audits() {
		return ""
	}
	return text
}

// heard is the last text of the extended protocol about which there is nothing to know but what it was, if the server refuses it.
type heard struct{ statement, portal, text string }

// relayHeard relays a message of a statement whose text is known, if a refusal of it is audited.
func (f *frontend) relayHeard(msg []byte, text string) error {
	if text == "" {
		return f.relay(msg)
	}
	return f.forward(msg, &pending{kind: msg[0], text: text})
}

// addressOf is a client's, without its port; empty for a Unix socket.
func addressOf(conn net.Conn) string {
	host, _, err := net.SplitHostPort(conn.RemoteAddr().String())
	if err != nil {
		return ""
	}
	return host
}

// reading is one run of a statement that reads through masks, or one cursor's life in a transaction: what there is an entry for.
type reading struct {
	st     *statement
	tag    string
	rows   int64
	cursor bool // FETCH is not the end of it
	begun  bool // rows were given that there is no entry for
}

// reading is for a run of a planned statement; nil where there is nothing to audit.
func (s *session) reading(st *statement) *reading {
	if st.plan == nil || len(st.plan.Reads) == 0 || !s.audits() {
		return nil
	}
	return &reading{st: st, cursor: st.Effect.Verb == rewrite.Declares}
}

// gave counts what an Execute, or a Query, of a reading has given, as its last message says. Rows that were passed on count where no tag says how many.
func (b *backend) gave(r *reading, kind byte, msg []byte) {
	passed := b.passed
	b.passed = 0
	if r == nil {
		return
	}
	switch tag, rows := splitTag(cString(msg[headerSize:])); {
	case kind != 'C' && passed == 0, kind == 'C' && tag == "MOVE":
		return
	case kind != 'C':
	case tag == "EXPLAIN":
		r.tag, passed = tag, 0
	case rows >= 0:
		r.tag, passed = tag, rows
	default:
		r.tag = tag
	}
	r.rows += passed
	if !r.begun {
		r.begun = true
		b.readings = append(b.readings, r)
	}
	if kind == 'C' && !r.cursor {
		b.endReading(r)
	}
}

// read is what there is to audit of the results.
func (r *results) read() *reading {
	if r == nil {
		return nil
	}
	return r.reading
}

// splitTag takes the count of rows off a command tag; -1 if it has none.
func splitTag(tag string) (string, int64) {
	name, count, found := cutLast(tag)
	rows, err := strconv.ParseInt(count, 10, 64)
	if !found || err != nil {
		return tag, -1
	}
	return strings.TrimSuffix(name, " 0"), rows // INSERT 0 5
}

func cutLast(tag string) (before, after string, found bool) {
	at := strings.LastIndexByte(tag, ' ')
	if at < 0 {
		return tag, "", false
	}
	return tag[:at], tag[at+1:], true
}

// endReading writes the entries of a reading that has come to its end.
func (b *backend) endReading(r *reading) {
	for i, other := range b.readings {
		if other == r {
			b.readings = append(b.readings[:i], b.readings[i+1:]...)
			break
		}
	}
	rows := r.rows
	r.rows, r.begun = 0, false
	for _, read := range r.st.plan.Reads {
		masking := "sql" // these are EXPLAIN MASKING's words
		switch {
		case read.Codes && r.st.plan.Staged():
			masking = "staged"
		case read.Codes:
			masking = "deferred"
		}
		b.s.note(catalog.AuditEntry{
			Kind: catalog.AuditRead, Tag: r.tag, Schema: read.Schema, Relation: read.Relation, RelationOID: read.OID, Columns: read.Columns, Rows: &rows, Fingerprint: r.st.fingerprint,
			Details: map[string]string{"policy": strings.Join(read.Policies, ", "), "masking": masking},
		})
	}
}

// endReadings ends those that are not at their end: portals that were not read to it, cursors, and what failed in the middle.
func (b *backend) endReadings() {
	for len(b.readings) > 0 {
		r := b.readings[0]
		if r.tag == "" {
			r.tag = "SELECT"
		}
		b.endReading(r)
	}
}

// noteError audits an error of the server's that is a refusal: one of ours that stands in its place, or that a masked role lacks a privilege.
func (b *backend) noteError(code string, head *pending) {
	text := ""
	if head != nil {
		text = head.text
		if head.edited != nil {
			text = head.edited.Text
		}
	}
	switch {
	case head != nil && head.call != nil: // for the frontend to judge
	case head != nil && head.replace != nil:
		b.s.noteRefusal("", head.replace.Code, text)
	case code == codeInsufficientPrivilege && b.s.masked.Load():
		b.s.noteRefusal("", code, text)
	}
}
