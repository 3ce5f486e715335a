package proxy

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"runtime/debug"
	"sync"
	"time"
)

// The two goroutines of a session: how they begin, end, and make way for an event loop. doc.go says who drives when.

// What ends a driver.
var (
	errClientGone   = errors.New("client closed the connection")
	errClientDone   = errors.New("client has sent all that it will") // its answers are still to come
	errUpstreamGone = errors.New("upstream closed the connection")
	errGoesHome     = errors.New("the session goes on on an event loop")
	errWaits        = errors.New("the session has to leave its event loop")
)

// inGoroutines drives the session until it ends or a loop takes it.
func (s *session) inGoroutines(ctx context.Context) {
	s.onLoop = false
	err := s.run(ctx)
	if errors.Is(err, errGoesHome) {
		s.goingHome.Store(false)
		if err = s.srv.loops.adopt(s); err == nil {
			return
		}
		s.fatal(errFarewell)
	}
	s.closeLegs()
	s.ended(ctx, err)
}

func (s *session) closeLegs() {
	s.client.close()
	s.upstream.close()
}

// ended takes the session off the books.
func (s *session) ended(ctx context.Context, reason error) {
	s.queue.close()
	s.back.endReadings()
	s.srv.cancels.remove(s.cancelKey())
	s.log.DebugContext(ctx, "session ended", "role", s.role, "reason", reason)
	s.release()
}

// run relays in two goroutines until either side ends, or both have nothing to do but to read: then it returns
// errGoesHome. In any other case it has closed both connections.
func (s *session) run(ctx context.Context) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	// Whoever ends first ends the other: closing the connections wakes a goroutine that reads or writes.
	stop := context.AfterFunc(ctx, func() {
		s.queue.close()
		if errors.Is(context.Cause(ctx), errShutdown) {
			s.fatal(errFarewell)
		}
		s.closeLegs()
	})

	var both sync.WaitGroup
	both.Go(func() {
		switch err := s.contain(ctx, s.frontendLoop); {
		case errors.Is(err, errGoesHome):
			interrupt(s.upstream.conn)
		case errors.Is(err, errClientDone):
			s.leaving.Store(true)
			s.upstream.closeWrite()
		case errors.Is(err, errUpstreamGone): // its last words may still be there to read
		default:
			cancel(err)
		}
	})
	both.Go(func() {
		if err := s.contain(ctx, s.backendLoop); !errors.Is(err, errGoesHome) {
			cancel(err)
		}
	})
	both.Wait()
	if !stop() { // the connections are being closed
		return context.Cause(ctx)
	}
	return errGoesHome
}

// contain turns a panic of ours into the end of this session, so that it is not the end of everybody's.
func (s *session) contain(ctx context.Context, drive func(context.Context) error) (err error) {
	defer func() {
		if p := recover(); p != nil {
			s.log.ErrorContext(ctx, "session panicked", "type", fmt.Sprintf("%T", p), "stack", string(debug.Stack()))
			s.fatal(&Error{Code: codeInternal, Fatal: true, Message: "internal error"})
			err = errors.New("panic")
		}
	}()
	return drive(ctx)
}

// frontendLoop relays from the client to the server.
func (s *session) frontendLoop(ctx context.Context) error {
	f := &s.front
	if _, err := s.upstream.write(nil, f.rest > 0); err != nil {
		return errUpstreamGone
	}
	for {
		if err := f.block(ctx); err != nil {
			return s.explain(err)
		}
		if f.done {
			return errClientDone
		}
		f.in.shrink()
		if err := s.readClient(ctx); err != nil {
			return s.explain(err)
		}
	}
}

// backendLoop relays from the server to the client.
func (s *session) backendLoop(ctx context.Context) error {
	b := &s.back
	if _, err := s.client.write(nil, b.rest > 0); err != nil {
		return errClientGone
	}
	for {
		if err := b.block(ctx); err != nil {
			return s.explain(err)
		}
		if s.goingHome.Load() || s.srv.draining.Load() {
			interrupt(s.client.conn) // readClient decides
		}
		want := b.wants()
		if want == baseBuffer {
			b.in.shrink()
		}
		switch err := s.readServer(want); {
		case err == nil:
			s.active.Store(time.Now().UnixNano())
		case errors.Is(err, os.ErrDeadlineExceeded):
			return errGoesHome
		default:
			s.upstreamLost()
			return errUpstreamGone
		}
	}
}

// readServer reads what the server sends. A large result that has to be filled may gather first (see gatherBytes).
func (s *session) readServer(want int) error {
	b, conn := &s.back, s.upstream.conn
	if !b.fillsMuch() || !setLowat(conn, gatherBytes) {
		return b.in.read(conn, want)
	}
	// The deadline goes before anything else is done: nobody interrupts this read meanwhile, since the frontend of a session that
	// is in the middle of a result does not go home.
	_ = conn.SetReadDeadline(time.Now().Add(gatherPause))
	err := b.in.read(conn, want)
	_ = conn.SetReadDeadline(time.Time{})
	setLowat(conn, 1)
	if errors.Is(err, os.ErrDeadlineExceeded) {
		return b.in.read(conn, want)
	}
	return err
}

const (
	// gatherBytes of a large masked result are let gather before they are read, but for no longer than gatherPause: a server
	// that seals is slower than we are, and each of its 8 KiB writes would be a wake-up and a model call of its own.
	gatherBytes = 96 << 10
	gatherPause = 3 * time.Millisecond
)

// explain tells the client of an error that ends the session.
func (s *session) explain(err error) error {
	var fatal *Error
	if errors.As(err, &fatal) {
		s.fatal(fatal)
	}
	return err
}

// upstreamLost tells the client that the server is gone, unless it asked for that or was told by the server.
func (s *session) upstreamLost() {
	if !s.back.ended && !s.leaving.Load() {
		s.fatal(&Error{Code: codeConnectionFailure, Fatal: true, Message: "the connection to the upstream server was lost"})
	}
}

// interrupt makes a Read that waits, or the next one, return os.ErrDeadlineExceeded.
func interrupt(conn net.Conn) { _ = conn.SetReadDeadline(time.Unix(1, 0)) }

// readClient waits for bytes of the client's, or for a reason to end.
func (s *session) readClient(ctx context.Context) error {
	for {
		// The deadline first, then the reasons to interrupt: one that comes in between is not lost.
		deadline := time.Time{}
		if s.srv.idle > 0 {
			deadline = time.Now().Add(s.srv.idle)
		}
		if err := s.client.conn.SetReadDeadline(deadline); err != nil {
			return errClientGone
		}
		switch {
		case s.srv.draining.Load() && (s.atRest() || s.txStatus() == 0): // or not even logged in
			return errFarewell
		case s.idleFor(s.srv.idle, time.Now()):
			return errIdle
		case s.goingHome.Load() && s.queue.isSettled(): // nothing was sent since
			return errGoesHome
		}
		switch err := s.front.in.read(s.client.conn, baseBuffer); {
		case err == nil:
			s.active.Store(time.Now().UnixNano())
			return nil
		case ctx.Err() != nil:
			return context.Cause(ctx)
		case errors.Is(err, os.ErrDeadlineExceeded):
		case errors.Is(err, io.EOF):
			return errClientDone
		default:
			return errClientGone
		}
	}
}
