package proxy

import (
	"net"
	"sync"
	"time"
)

// leg is one of the two connections of a session. In goroutines it is a [net.Conn] and its writes wait; on an event loop
// it is a bare file descriptor, and what the socket does not take at once is kept until it does.
//
// Whoever writes, writes under the leg's lock, so that two whole messages never mix.
type leg struct {
	mu   sync.Mutex
	conn net.Conn // nil on a loop
	// partial means that the last write ended inside a message: nothing but its rest may follow.
	partial bool
	// unsent[sent:] is what the socket would not take yet. It goes first.
	unsent []byte
	sent   int
	spare  *spare // where the memory of unsent comes from and goes to
	// closes means that the stream ends after unsent.
	closes bool
	// fd is -1 in goroutines. interest is what epoll was told of it. Both are the loop's alone.
	fd       int
	interest uint32
}

func newLeg(conn net.Conn) leg { return leg{conn: conn, fd: -1} }

// Write sends whole messages.
func (l *leg) Write(p []byte) (int, error) { return l.write(p, false) }

// write sends p, which ends inside a message if partial is true.
func (l *leg) write(p []byte, partial bool) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.partial = partial
	if l.conn == nil {
		return l.writeSome(p)
	}
	if err := l.push(); err != nil {
		return 0, err
	}
	if len(p) == 0 {
		return 0, nil
	}
	return l.conn.Write(p)
}

// push sends what a loop left unsent. l.mu is held.
func (l *leg) push() error {
	if len(l.unsent) == 0 {
		return nil
	}
	_, err := l.conn.Write(l.unsent[l.sent:])
	l.unsent, l.sent = nil, 0
	return err
}

// farewell sends the last message of a session, unless it would end up inside another one. A peer that does not read must
// not keep us: the deadline also ends a write that holds the lock.
func (l *leg) farewell(msg []byte, patience time.Duration) {
	if conn := l.goroutineConn(); conn != nil {
		_ = conn.SetWriteDeadline(time.Now().Add(patience))
	}
	l.mu.Lock()
	partial := l.partial
	l.mu.Unlock()
	if !partial {
		_, _ = l.Write(msg)
	}
}

// goroutineConn returns the connection while the leg is in goroutines, else nil. It does not take the lock, which a
// write may hold: conn only changes when nobody else has the session.
func (l *leg) goroutineConn() net.Conn { return l.conn }

// closeWrite tells the other side that no more will come, as a client's or server's own end of stream would.
func (l *leg) closeWrite() {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.conn == nil {
		l.shutdownWrite()
		return
	}
	_ = l.push()
	if c, ok := l.conn.(interface{ CloseWrite() error }); ok { // TCP, Unix and TLS connections can
		_ = c.CloseWrite()
		return
	}
	_ = l.conn.Close()
}

// close ends the connection, whoever uses it.
func (l *leg) close() {
	if l.conn != nil {
		_ = l.conn.Close()
	}
	if l.fd >= 0 {
		closeFD(l.fd)
		l.fd = -1
	}
}

// spare keeps buffers for what sockets do not take: a client or server that is slower than its peer needs one for every
// block that passes. It belongs to one event loop.
type spare struct{ buffers [][]byte }

// maxSpare is how many buffers are kept.
const maxSpare = 16

// take returns an empty buffer. A leg that no loop has taken in yet has a nil spare.
func (sp *spare) take() []byte {
	if sp == nil || len(sp.buffers) == 0 {
		return make([]byte, 0, loopBuffer)
	}
	n := len(sp.buffers)
	b := sp.buffers[n-1]
	sp.buffers = sp.buffers[:n-1]
	return b
}

func (sp *spare) give(b []byte) {
	if sp != nil && len(sp.buffers) < maxSpare && cap(b) == loopBuffer {
		sp.buffers = append(sp.buffers, b[:0])
	}
}
