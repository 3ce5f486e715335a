package proxy

import (
	"container/list"
	"net"
	"sync"
)

// starting are the connections that have not sent their startup packet yet, oldest first. There may be so many; one more
// closes the oldest. So a crowd of clients that connect and say nothing cannot keep out one that speaks.
type starting struct {
	limit int
	mu    sync.Mutex
	conns list.List
	done  bool
}

// enter puts a connection on the list. The function it returns takes it off.
func (st *starting) enter(conn net.Conn) func() {
	st.mu.Lock()
	defer st.mu.Unlock()
	if st.conns.Len() >= st.limit {
		oldest := st.conns.Front()
		_ = st.conns.Remove(oldest).(net.Conn).Close()
	}
	if st.done {
		_ = conn.Close()
	}
	at := st.conns.PushBack(conn)
	return func() {
		st.mu.Lock()
		defer st.mu.Unlock()
		st.conns.Remove(at) // nothing happens if it was taken off already
	}
}

// closeAll closes them all, and those that are still to come.
func (st *starting) closeAll() {
	st.mu.Lock()
	defer st.mu.Unlock()
	st.done = true
	for at := st.conns.Front(); at != nil; at = at.Next() {
		_ = at.Value.(net.Conn).Close()
	}
}
