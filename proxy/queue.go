package proxy

import (
	"slices"
	"sync"
)

// pending is a message that was sent upstream and will be answered.
type pending struct {
	kind byte // the frontend message type: P B D E C S Q F; 0 for the startup packet; c marks the end of copied data
	// silent means that the client did not send it and must not see the answer.
	silent bool
	// results says how to change what comes back; nil to pass it on.
	results *results
	// call takes the answer of a question of our own.
	call *call
	// replace is sent in the place of the server's ErrorResponse.
	replace *Error
	// text is the statement's, where edited is not set, for the audit of a refusal.
	text string
	// changes is what the message does to the session's names: one, or for a Query one for each statement.
	changes []change
	// relies is what must have its name when the server runs the message, or the answer is not what was planned.
	relies []change
	// ofStatement says that a Describe is of a statement.
	ofStatement bool
	// held keeps back what the simple protocol says later than the extended one; gathers says that a Describe's answer
	// is to wait there, last that an Execute's end is. All are of statements of a Query.
	held          *held
	gathers, last bool
	// edited is the statement whose text or place was changed on its way upstream: positions in errors are mapped back.
	edited *statement
	// attempt is the try at a staged statement that the message is of.
	attempt *attempt
	// learn is the statement whose parameter types a Describe asks for.
	learn *statement
}

// held is what waits for the end of a statement that was sent by the extended protocol in the place of the simple one: the
// description of rows that the server gathers before it sends the first, and the tag of the last statement, which the
// simple protocol sends after the commit. Neither comes if there is an error before.
type held struct{ messages []byte }

func (h *held) waits() bool { return h != nil && len(h.messages) > 0 }

// take returns what waits, for once.
func (h *held) take() []byte {
	if !h.waits() {
		return nil
	}
	m := h.messages
	h.messages = nil
	return m
}

// plainRows tells whether rows are passed on as they come.
func (p *pending) plainRows() bool {
	return p.call == nil && p.attempt == nil && !p.results.fills() && !p.held.waits()
}

// relayed has the entries of messages about which there is nothing to know but their type. They are never changed.
var relayed = func() (entries [256]pending) {
	for _, kind := range []byte("PBDECSQFc") {
		entries[kind].kind = kind
	}
	return entries
}()

// endsInReady tells whether ReadyForQuery is the end of the message's answer. After an error in one of these the server
// goes on by itself; after one in any other it skips to the next Sync.
func (p *pending) endsInReady() bool {
	switch p.kind {
	case 'S', 'Q', 'F', 0:
		return true
	}
	return false
}

// queue holds what was sent and not yet answered, in order. After an error the server skips everything up to the next
// Sync, and so does the queue. Asynchronous messages never touch it.
type queue struct {
	mu       sync.Mutex
	entries  []queued // in a buffer that is used again: those before first are answered
	first    int
	skipping bool       // the server ignores messages until the Sync that was not sent yet
	copyIn   bool       // the server takes CopyData and ignores Sync
	gave     bool       // somebody gave up waiting, because of that
	closed   bool       // the session ends
	syncs    int        // messages so far that ReadyForQuery answers
	asked    int        // how many times the server asked for a password, or the like, less the answers
	settled  bool       // everything is answered, and the answers are written to the client
	changed  *sync.Cond // signalled when settled or closed was set, the server asked for something, or room was made
	dropped  func(*pending)
}

// queued is an entry with its place in the stream.
type queued struct {
	*pending
	syncs int // messages up to this one that end in ReadyForQuery
}

// open returns the entries that are not answered. q.mu is held.
func (q *queue) open() []queued { return q.entries[q.first:] }

func newQueue(dropped func(*pending)) *queue {
	q := &queue{dropped: dropped}
	q.changed = sync.NewCond(&q.mu)
	return q
}

// push adds an entry before its message is sent. It returns false if the server will skip the message.
func (q *queue) push(p *pending) bool {
	q.mu.Lock()
	defer q.mu.Unlock()
	switch {
	case p.kind == 'S' && q.copyIn:
		return true // ignored by the server; nothing will answer it
	case p.kind == 'c' && (q.copyIn || len(q.open()) == 0):
		q.copyIn = false
		return true
	}
	if q.skipping || q.closed {
		if p.kind != 'S' || q.closed {
			q.dropped(p)
			return false
		}
		q.skipping = false
	}
	if p.endsInReady() {
		q.syncs++
	}
	if q.first == len(q.entries) {
		q.entries, q.first = q.entries[:0], 0
	}
	q.entries = append(q.entries, queued{p, q.syncs})
	q.settled = false
	return true
}

// maxPending bounds what one client can have unanswered.
const maxPending = 16 << 10

func (q *queue) crowded() bool {
	q.mu.Lock()
	defer q.mu.Unlock()
	return len(q.open()) >= maxPending
}

// waitForRoom waits until half of what is pending was answered. Everything pushed must have been sent.
func (q *queue) waitForRoom() {
	q.mu.Lock()
	defer q.mu.Unlock()
	for len(q.open()) >= maxPending/2 && !q.closed && !q.copyIn {
		q.changed.Wait()
	}
	q.gave = q.copyIn
}

// idle tells whether nothing is unanswered.
func (q *queue) idle() bool {
	q.mu.Lock()
	defer q.mu.Unlock()
	return len(q.open()) == 0
}

func (q *queue) isSkipping() bool {
	q.mu.Lock()
	defer q.mu.Unlock()
	return q.skipping
}

// isSettled tells whether everything is answered, and the answers are written to the client.
func (q *queue) isSettled() bool {
	q.mu.Lock()
	defer q.mu.Unlock()
	return q.settled && len(q.open()) == 0
}

// head returns the entry that the next answer belongs to, or nil.
func (q *queue) head() *pending {
	q.mu.Lock()
	defer q.mu.Unlock()
	if len(q.open()) == 0 {
		return nil
	}
	return q.entries[q.first].pending
}

// headSyncs returns how many messages up to the head end in ReadyForQuery; 0 without one.
func (q *queue) headSyncs() int {
	q.mu.Lock()
	defer q.mu.Unlock()
	if len(q.open()) == 0 {
		return 0
	}
	return q.entries[q.first].syncs
}

// ready takes the head off on ReadyForQuery, which also ends skipping: in a COPY that failed the server can have met a
// Sync that beginCopyIn took out.
func (q *queue) ready() {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.skipping = false
	if open := q.open(); len(open) > 0 && !open[0].endsInReady() {
		return // the answer to that Sync
	}
	q.take()
}

// pop takes the head off.
func (q *queue) pop() {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.take()
}

// take removes the head, and marks behind it. q.mu is held.
func (q *queue) take() {
	q.copyIn = false
	for i := 0; len(q.open()) > 0 && (i == 0 || q.entries[q.first].kind == 'c'); i++ {
		q.shift()
	}
	if len(q.open()) == maxPending/2-1 {
		q.changed.Broadcast()
	}
}

// shift forgets the head. q.mu is held.
func (q *queue) shift() {
	q.entries[q.first] = queued{}
	q.first++
	if q.first >= maxPending { // a client that never waits must not make the buffer grow without end
		q.entries, q.first = append(q.entries[:0], q.open()...), 0
	}
}

// fail drops the head and everything behind it up to the next Sync.
func (q *queue) fail() {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.copyIn = false
	for len(q.open()) > 0 && q.entries[q.first].kind != 'S' {
		q.dropped(q.entries[q.first].pending)
		q.shift()
	}
	q.skipping = len(q.open()) == 0
	q.changed.Broadcast()
}

// sent counts the messages so far that a ReadyForQuery answers.
func (q *queue) sent() int {
	q.mu.Lock()
	defer q.mu.Unlock()
	return q.syncs
}

// settle is called when all that was read from the server has been written to the client. It tells whether nothing is
// unanswered.
func (q *queue) settle() bool {
	q.mu.Lock()
	defer q.mu.Unlock()
	if len(q.open()) > 0 {
		return false
	}
	if cap(q.entries) > smallQueue {
		q.entries, q.first = nil, 0
	}
	q.settled = true
	q.changed.Broadcast()
	return true
}

// smallQueue is how many entries an idle session keeps room for.
const smallQueue = 32

// beginCopyIn is called when the server answers an Execute by CopyInResponse. In that state it ignores Sync, and libpq
// sends one along with Execute: those between the head and the end of the data are not going to be answered.
// https://www.postgresql.org/docs/current/protocol-flow.html#PROTOCOL-COPY
func (q *queue) beginCopyIn() {
	q.mu.Lock()
	defer q.mu.Unlock()
	open := q.open()
	if len(open) == 0 || open[0].kind != 'E' && open[0].kind != 'Q' {
		return
	}
	q.copyIn = true
	for len(open) > 1 && q.copyIn && (open[1].kind == 'S' || open[1].kind == 'c') {
		q.copyIn = open[1].kind == 'S'
		open = slices.Delete(open, 1, 2)
	}
	q.entries = q.entries[:q.first+len(open)]
	q.changed.Broadcast()
}

// gaveUp tells, once, whether somebody stopped waiting because the server waits for data itself.
func (q *queue) gaveUp() bool {
	q.mu.Lock()
	defer q.mu.Unlock()
	gave := q.gave
	q.gave = false
	return gave
}

// drain waits until everything is answered and written to the client, so that the caller may write to it. It returns
// false if the server is skipping or waits for data, or the session ends.
func (q *queue) drain() bool {
	q.mu.Lock()
	defer q.mu.Unlock()
	for !q.settled && !q.closed && !q.copyIn {
		q.changed.Wait()
	}
	q.gave = q.copyIn && !q.settled
	return !q.skipping && !q.closed && !q.gave
}

// asks counts that the server asked for a password, or the like, or with -1 that the client answered.
func (q *queue) asks(n int) {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.asked += n
	q.changed.Broadcast()
}

// letIn notes that the server has accepted the client: what it asked last, it did not wait for.
func (q *queue) letIn() {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.asked = 0
}

// awaitLogin waits until the server has let the client in, or asked it for something, or the session ends.
func (q *queue) awaitLogin() (ready, asked bool) {
	q.mu.Lock()
	defer q.mu.Unlock()
	for !q.settled && q.asked <= 0 && !q.closed {
		q.changed.Wait()
	}
	return q.settled, !q.settled && q.asked > 0
}

// close wakes everybody who waits; nothing will be answered any more.
func (q *queue) close() {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.closed = true
	for _, p := range q.open() {
		q.dropped(p.pending)
	}
	q.entries, q.first = nil, 0
	q.changed.Broadcast()
}
