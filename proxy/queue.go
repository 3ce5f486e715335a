package proxy

import "sync"

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
	// name is what a Parse or Bind names, or with closes, a Close.
	name   string
	closes bool
	// portal is what a Bind makes, when that is not simply the server's.
	portal *portal
	// syncs counts the messages up to this one that end in ReadyForQuery.
	syncs int
	// stmt is what a Parse or the Describe of a statement is about, when that is not simply the server's.
	stmt *statement
	// edited is the statement whose text was changed on its way upstream: positions in errors are mapped back.
	edited *statement
}

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
	entries  []*pending
	skipping bool       // the server ignores messages until the Sync that was not sent yet
	copyIn   bool       // the server takes CopyData and ignores Sync
	closed   bool       // the session ends
	syncs    int        // messages so far that ReadyForQuery answers
	settled  bool       // everything is answered, and the answers are written to the client
	changed  *sync.Cond // signalled when settled or closed was set, or room was made
	dropped  func(*pending)
}

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
	case p.kind == 'c' && (q.copyIn || len(q.entries) == 0):
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
	p.syncs = q.syncs
	q.entries = append(q.entries, p)
	q.settled = false
	return true
}

// maxPending bounds what one client can have unanswered.
const maxPending = 16 << 10

func (q *queue) crowded() bool {
	q.mu.Lock()
	defer q.mu.Unlock()
	return len(q.entries) >= maxPending
}

// waitForRoom waits until half of what is pending was answered. Everything pushed must have been sent.
func (q *queue) waitForRoom() {
	q.mu.Lock()
	defer q.mu.Unlock()
	for len(q.entries) >= maxPending/2 && !q.closed {
		q.changed.Wait()
	}
}

// idle tells whether nothing is unanswered.
func (q *queue) idle() bool {
	q.mu.Lock()
	defer q.mu.Unlock()
	return len(q.entries) == 0
}

func (q *queue) isSkipping() bool {
	q.mu.Lock()
	defer q.mu.Unlock()
	return q.skipping
}

// head returns the entry that the next answer belongs to, or nil.
func (q *queue) head() *pending {
	q.mu.Lock()
	defer q.mu.Unlock()
	if len(q.entries) == 0 {
		return nil
	}
	return q.entries[0]
}

// ready takes the head off on ReadyForQuery, which also ends skipping: in a COPY that failed the server can have met a
// Sync that beginCopyIn took out.
func (q *queue) ready() {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.skipping = false
	if len(q.entries) > 0 && !q.entries[0].endsInReady() {
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
	for i := 0; len(q.entries) > 0 && (i == 0 || q.entries[0].kind == 'c'); i++ {
		q.entries[0] = nil
		q.entries = q.entries[1:]
	}
	if len(q.entries) == maxPending/2-1 {
		q.changed.Broadcast()
	}
}

// fail drops the head and everything behind it up to the next Sync.
func (q *queue) fail() {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.copyIn = false
	for len(q.entries) > 0 && q.entries[0].kind != 'S' {
		q.dropped(q.entries[0])
		q.entries = q.entries[1:]
	}
	q.skipping = len(q.entries) == 0
	q.changed.Broadcast()
}

// sent counts the messages so far that a ReadyForQuery answers.
func (q *queue) sent() int {
	q.mu.Lock()
	defer q.mu.Unlock()
	return q.syncs
}

// settle is called when all that was read from the server has been written to the client.
func (q *queue) settle() {
	q.mu.Lock()
	defer q.mu.Unlock()
	if len(q.entries) == 0 {
		q.entries = nil
		q.settled = true
		q.changed.Broadcast()
	}
}

// beginCopyIn is called when the server answers an Execute by CopyInResponse. In that state it ignores Sync, and libpq
// sends one along with Execute: those between the head and the end of the data are not going to be answered.
// https://www.postgresql.org/docs/current/protocol-flow.html#PROTOCOL-COPY
func (q *queue) beginCopyIn() {
	q.mu.Lock()
	defer q.mu.Unlock()
	if len(q.entries) == 0 || q.entries[0].kind != 'E' && q.entries[0].kind != 'Q' {
		return
	}
	q.copyIn = true
	for len(q.entries) > 1 && q.copyIn && (q.entries[1].kind == 'S' || q.entries[1].kind == 'c') {
		q.copyIn = q.entries[1].kind == 'S'
		q.entries = append(q.entries[:1], q.entries[2:]...)
	}
}

// drain waits until everything is answered and written to the client, so that the caller may write to it. It returns
// false if the server is skipping, or the session ends.
func (q *queue) drain() bool {
	q.mu.Lock()
	defer q.mu.Unlock()
	for !q.settled && !q.closed {
		q.changed.Wait()
	}
	return !q.skipping && !q.closed
}

// close wakes everybody who waits; nothing will be answered any more.
func (q *queue) close() {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.closed = true
	for _, p := range q.entries {
		q.dropped(p)
	}
	q.entries = nil
	q.changed.Broadcast()
}
