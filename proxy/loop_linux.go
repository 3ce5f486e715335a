package proxy

import (
	"context"
	"errors"
	"log/slog"
	"net"
	"os"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// loop drives many sessions from one goroutine: it waits for any of their sockets with epoll, reads what is there into
// one buffer that all share, and runs the session's handlers on it. An idle session costs no goroutine and no buffer, a
// message costs one recv, one send and a share of an epoll_wait.
//
// Everything but adopt and wakeUp belongs to the loop's goroutine.
type loop struct {
	log     *slog.Logger
	idle    time.Duration
	poll    int // epoll
	wake    int // eventfd
	scratch []byte
	spare   spare
	now     time.Time // when the last epoll_wait returned

	byFD     []end // whose socket a file descriptor is
	sessions map[*session]*home
	gathers  map[*session]time.Time // sessions that let a large result gather before they read on, and until when
	lingers  int                    // sessions that linger
	closing  []int                  // descriptors to close when no event of this round can name them any more
	drain    bool

	mu      sync.Mutex
	arrived []*session
	stopped bool
}

// end is one end of a session on a loop.
type end struct {
	s      *session
	client bool
}

// home is what a loop keeps of a session.
type home struct {
	clientDone bool      // it will send no more
	lingers    time.Time // the server is gone; until then the client may still take what it said
}

const (
	loopEvents = 256
	// linger bounds how long a client may take to read the last words of a session.
	linger = 10 * time.Second
	// sweepEvery is how often a loop looks for sessions whose time is up.
	sweepEvery = time.Second
)

func newLoop(log *slog.Logger, idle time.Duration) (*loop, error) {
	poll, err := unix.EpollCreate1(unix.EPOLL_CLOEXEC)
	if err != nil {
		return nil, os.NewSyscallError("epoll_create1", err)
	}
	wake, err := unix.Eventfd(0, unix.EFD_CLOEXEC|unix.EFD_NONBLOCK)
	if err != nil {
		_ = unix.Close(poll)
		return nil, os.NewSyscallError("eventfd", err)
	}
	lp := &loop{log: log, idle: idle, poll: poll, wake: wake, scratch: make([]byte, loopBuffer), sessions: map[*session]*home{}, gathers: map[*session]time.Time{}}
	if err := unix.EpollCtl(poll, unix.EPOLL_CTL_ADD, wake, &unix.EpollEvent{Events: unix.EPOLLIN, Fd: int32(wake)}); err != nil {
		lp.close()
		return nil, os.NewSyscallError("epoll_ctl", err)
	}
	return lp, nil
}

// close gives back what newLoop took.
func (lp *loop) close() {
	_ = unix.Close(lp.poll)
	_ = unix.Close(lp.wake)
}

// adopt takes over a session whose goroutines have ended.
func (lp *loop) adopt(s *session) error {
	for _, l := range []*leg{&s.client, &s.upstream} {
		if err := s.detach(l); err != nil {
			return err
		}
	}
	s.onLoop = true
	lp.mu.Lock()
	defer lp.mu.Unlock()
	if lp.stopped {
		return errShutdown
	}
	lp.arrived = append(lp.arrived, s)
	lp.signal()
	return nil
}

// wakeUp makes epoll_wait return. A loop that has stopped has closed its descriptors: their numbers may be others' by now.
func (lp *loop) wakeUp() {
	lp.mu.Lock()
	defer lp.mu.Unlock()
	if !lp.stopped {
		lp.signal()
	}
}

// signal makes epoll_wait return. lp.mu is held.
func (lp *loop) signal() {
	_, _ = unix.Write(lp.wake, []byte{1, 0, 0, 0, 0, 0, 0, 0}) // it can only fail when it is full, and then it wakes
}

// run drives sessions until ctx ends, and then ends those that are left.
func (lp *loop) run(ctx context.Context, srv *Server) {
	stop := context.AfterFunc(ctx, lp.wakeUp)
	defer stop()
	events := make([]unix.EpollEvent, loopEvents)
	swept := time.Now()
	for ctx.Err() == nil {
		n, err := unix.EpollWait(lp.poll, events, lp.patience())
		if err != nil && !errors.Is(err, unix.EINTR) {
			lp.log.ErrorContext(ctx, "epoll_wait failed", "error", err)
			break
		}
		lp.now = time.Now()
		for _, ev := range events[:max(n, 0)] {
			if int(ev.Fd) == lp.wake {
				_, _ = unix.Read(lp.wake, make([]byte, 8))
				continue
			}
			if e := lp.byFD[ev.Fd]; e.s != nil {
				lp.ready(ctx, e, ev.Events)
			}
		}
		lp.readGathered(ctx)
		lp.receive(ctx)
		if started := !lp.drain && srv.draining.Load(); started || lp.now.Sub(swept) >= sweepEvery {
			lp.drain = lp.drain || started
			lp.sweep(ctx)
			swept = lp.now
		}
		lp.closeAll()
	}
	lp.stop(ctx)
}

// patience is the timeout of epoll_wait in milliseconds.
func (lp *loop) patience() int {
	if len(lp.gathers) > 0 {
		return int(gatherPause.Milliseconds())
	}
	if lp.idle > 0 && len(lp.sessions) > 0 || lp.lingers > 0 {
		return int(sweepEvery.Milliseconds())
	}
	return -1
}

// stop ends all sessions: the server's time is up.
func (lp *loop) stop(ctx context.Context) {
	lp.mu.Lock()
	lp.stopped = true
	lp.mu.Unlock()
	lp.receive(ctx)
	for s := range lp.sessions {
		s.fatal(errFarewell)
		lp.forget(ctx, s, errShutdown) // whoever has not read what came before cannot be waited for any more
	}
	lp.closeAll()
	lp.close()
}

// receive takes in the sessions that arrived.
func (lp *loop) receive(ctx context.Context) {
	lp.mu.Lock()
	arrived := lp.arrived
	lp.arrived = nil
	lp.mu.Unlock()
	for _, s := range arrived {
		s.front.authenticated = true // it would not have come here before
		lp.sessions[s] = &home{}
		s.client.spare, s.upstream.spare = &lp.spare, &lp.spare
		lp.own(end{s, true})
		lp.own(end{s, false})
		lp.watch(s)
		if lp.drain && s.atRest() {
			s.fatal(errFarewell)
			lp.end(ctx, s, errShutdown)
		}
	}
}

func (lp *loop) own(e end) {
	fd := e.leg().fd
	for fd >= len(lp.byFD) {
		lp.byFD = append(lp.byFD, make([]end, len(lp.byFD)+64)...)
	}
	lp.byFD[fd] = e
}

func (e end) leg() *leg {
	if e.client {
		return &e.s.client
	}
	return &e.s.upstream
}

// sweep ends sessions whose time is up.
func (lp *loop) sweep(ctx context.Context) {
	for s, h := range lp.sessions {
		switch {
		case !h.lingers.IsZero():
			if lp.now.After(h.lingers) {
				lp.forget(ctx, s, errClientGone)
			}
		case lp.drain && s.atRest():
			s.fatal(errFarewell)
			lp.end(ctx, s, errShutdown)
		case s.idleFor(lp.idle, lp.now):
			s.fatal(errIdle)
			lp.end(ctx, s, errIdle)
		}
	}
}

// ready handles what epoll said of one socket. A panic of ours ends this session only.
func (lp *loop) ready(ctx context.Context, e end, events uint32) {
	s := e.s
	s.active.Store(lp.now.UnixNano())
	err := s.contain(ctx, func(ctx context.Context) error {
		if events&unix.EPOLLOUT != 0 && !e.leg().flush() && e.client {
			return errClientGone
		}
		if events&^unix.EPOLLOUT == 0 {
			return nil
		}
		if e.client {
			return lp.fromClient(ctx, s)
		}
		return lp.fromServer(ctx, s)
	})
	s.front.in.giveBack()
	s.back.in.giveBack()
	switch h := lp.sessions[s]; {
	case errors.Is(err, errWaits):
		lp.leave(ctx, s)
	case err != nil:
		lp.end(ctx, s, s.explain(err))
	case !h.lingers.IsZero() && len(s.client.unsent) == 0:
		lp.forget(ctx, s, errUpstreamGone)
	case lp.drain && h.lingers.IsZero() && s.atRest():
		s.fatal(errFarewell)
		lp.end(ctx, s, errShutdown)
	default:
		lp.watch(s)
	}
}

func (lp *loop) fromClient(ctx context.Context, s *session) error {
	f, h := &s.front, lp.sessions[s]
	if h.clientDone {
		return nil
	}
	n, err := receive(s.client.fd, f.in.lend(lp.scratch))
	switch {
	case errors.Is(err, unix.EAGAIN):
		return nil
	case err != nil:
		return errClientGone
	case n == 0:
		h.clientDone = true
		s.leaving.Store(true)
		s.upstream.closeWrite()
		return nil
	}
	f.in.got(n)
	if err = f.block(ctx); errors.Is(err, errUpstreamGone) {
		h.clientDone = true // the server's last words may still be there to read
		s.upstream.forget()
		return nil
	}
	return err
}

func (lp *loop) fromServer(ctx context.Context, s *session) error {
	b := &s.back
	n, err := receive(s.upstream.fd, b.in.lend(lp.scratch))
	switch {
	case errors.Is(err, unix.EAGAIN): // a server that has nothing to say is waited for as ever
		lp.gather(s, false)
		return nil
	case err != nil || n == 0:
		s.upstreamLost()
		return errUpstreamGone
	}
	b.in.got(n)
	if err := b.block(ctx); err != nil {
		return err
	}
	if b.wants() > baseBuffer { // a large result to encode: others shall not wait for that
		return errWaits
	}
	lp.gather(s, b.fillsMuch())
	return nil
}

// gather says whether epoll is to wait for more than a byte of the server's.
func (lp *loop) gather(s *session, much bool) {
	_, gathers := lp.gathers[s]
	if much != gathers && s.upstream.fd >= 0 {
		lowat := 1
		if much {
			lowat = gatherBytes
		}
		much = setFDLowat(s.upstream.fd, lowat) == nil && much
	}
	if much {
		lp.gathers[s] = lp.now.Add(gatherPause)
	} else {
		delete(lp.gathers, s)
	}
}

// readGathered reads what has gathered for long enough.
func (lp *loop) readGathered(ctx context.Context) {
	for s, until := range lp.gathers {
		if !lp.now.Before(until) && s.upstream.interest&unix.EPOLLIN != 0 {
			lp.ready(ctx, end{s: s}, unix.EPOLLIN)
		}
	}
}

// watch tells epoll what the session waits for: to read from a socket if the other one takes what we write, and to write
// what a socket did not take.
func (lp *loop) watch(s *session) {
	h := lp.sessions[s]
	lp.want(&s.client, !h.clientDone && len(s.upstream.unsent) == 0)
	reads := h.lingers.IsZero() && len(s.client.unsent) == 0
	if !reads {
		lp.gather(s, false)
	}
	lp.want(&s.upstream, reads)
}

func (lp *loop) want(l *leg, read bool) {
	interest := uint32(0)
	if read {
		interest |= unix.EPOLLIN
	}
	if len(l.unsent) > 0 {
		interest |= unix.EPOLLOUT
	}
	if interest == l.interest || l.fd < 0 {
		return
	}
	op := unix.EPOLL_CTL_MOD
	switch {
	case l.interest == 0:
		op = unix.EPOLL_CTL_ADD
	case interest == 0: // with no interest epoll would still say that the peer hung up, over and over
		op = unix.EPOLL_CTL_DEL
	}
	l.interest = interest
	if err := unix.EpollCtl(lp.poll, op, l.fd, &unix.EpollEvent{Events: interest, Fd: int32(l.fd)}); err != nil {
		lp.log.Error("epoll_ctl failed", "error", err) //nolint:sloglint // no context: the loop's own
	}
}

// leave moves the session into goroutines, where its handlers may wait.
func (lp *loop) leave(ctx context.Context, s *session) {
	done := lp.sessions[s].clientDone
	lp.disown(s)
	for _, l := range []*leg{&s.client, &s.upstream} {
		if err := s.attach(l); err != nil {
			lp.log.WarnContext(ctx, "session cannot leave its event loop", "error", err)
			s.closeLegs()
			s.ended(ctx, err)
			return
		}
	}
	s.front.done = done
	go s.inGoroutines(ctx)
}

// end closes the session, but lets the client read what it was told last.
func (lp *loop) end(ctx context.Context, s *session, reason error) {
	h := lp.sessions[s]
	if len(s.client.unsent) == 0 || !h.lingers.IsZero() || errors.Is(reason, errClientGone) {
		lp.forget(ctx, s, reason)
		return
	}
	h.clientDone, h.lingers = true, lp.now.Add(linger)
	lp.lingers++
	s.upstream.forget()
	lp.gather(s, false)
	lp.want(&s.upstream, false)
	lp.byFD[s.upstream.fd] = end{}
	lp.closing = append(lp.closing, s.upstream.fd)
	s.upstream.fd = -1
	lp.watch(s)
}

func (lp *loop) forget(ctx context.Context, s *session, reason error) {
	lp.disown(s)
	lp.shut(s)
	s.ended(ctx, reason)
}

// disown takes the session's sockets out of epoll.
func (lp *loop) disown(s *session) {
	lp.gather(s, false)
	for _, l := range []*leg{&s.client, &s.upstream} {
		if l.fd < 0 {
			continue
		}
		if l.interest != 0 {
			_ = unix.EpollCtl(lp.poll, unix.EPOLL_CTL_DEL, l.fd, nil)
			l.interest = 0
		}
		lp.byFD[l.fd] = end{}
	}
	if h := lp.sessions[s]; h != nil && !h.lingers.IsZero() {
		lp.lingers--
	}
	delete(lp.sessions, s)
}

// shut closes what is open of the session.
func (lp *loop) shut(s *session) {
	for _, l := range []*leg{&s.client, &s.upstream} {
		if l.fd >= 0 {
			lp.closing = append(lp.closing, l.fd)
			l.fd = -1
		}
		l.forget()
	}
}

func (lp *loop) closeAll() {
	for _, fd := range lp.closing {
		_ = unix.Close(fd)
	}
	lp.closing = lp.closing[:0]
}

// canLoop tells whether a loop can own this connection: a plain socket.
func canLoop(conn net.Conn) bool {
	switch conn.(type) {
	case *net.TCPConn, *net.UnixConn:
		return true
	}
	return false
}

// detach turns a leg's connection into a bare descriptor that Go's poller does not know: it would wake a thread for every
// message.
func (s *session) detach(l *leg) error {
	raw, err := l.conn.(syscall.Conn).SyscallConn()
	if err != nil {
		return err
	}
	fd := -1
	if controlErr := raw.Control(func(of uintptr) { fd, err = unix.FcntlInt(of, unix.F_DUPFD_CLOEXEC, 0) }); err == nil {
		err = controlErr
	}
	if err != nil {
		return err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	_ = l.conn.Close() // the duplicate stays, non-blocking as it was
	l.conn, l.fd, l.interest = nil, fd, 0
	return nil
}

// attach makes a connection of a leg's descriptor again.
func (s *session) attach(l *leg) error {
	f := os.NewFile(uintptr(l.fd), "")
	l.fd = -1
	conn, err := net.FileConn(f) // of a duplicate
	_ = f.Close()
	if err != nil {
		return err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	l.conn = conn
	return nil
}
