package proxy

import (
	"errors"
	"net"
	"os"
	"unsafe"

	"golang.org/x/sys/unix"
)

// receive reads from a non-blocking socket. It is a raw system call: it never waits, so the scheduler need not be told.
func receive(fd int, p []byte) (int, error) {
	for {
		n, _, errno := unix.RawSyscall6(unix.SYS_RECVFROM, uintptr(fd), uintptr(unsafe.Pointer(&p[0])), uintptr(len(p)), 0, 0, 0)
		switch errno {
		case 0:
			return int(n), nil
		case unix.EINTR:
		default:
			return 0, errno
		}
	}
}

// setFDLowat makes a socket readable only when so many bytes are there (or its end). https://man7.org/linux/man-pages/man7/socket.7.html,
// SO_RCVLOWAT: epoll respects it for TCP.
func setFDLowat(fd, bytes int) error {
	return os.NewSyscallError("setsockopt", unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_RCVLOWAT, bytes))
}

// setLowat is setFDLowat for a connection of Go's poller. It tells whether it could be done.
func setLowat(conn net.Conn, bytes int) bool {
	tcp, ok := conn.(*net.TCPConn)
	if !ok {
		return false
	}
	raw, err := tcp.SyscallConn()
	if err != nil {
		return false
	}
	done := false
	err = raw.Control(func(fd uintptr) { done = setFDLowat(int(fd), bytes) == nil })
	return done && err == nil
}

// transmit writes to a non-blocking socket, as much as it takes.
func transmit(fd int, p []byte) (int, error) {
	for {
		n, _, errno := unix.RawSyscall6(unix.SYS_SENDTO, uintptr(fd), uintptr(unsafe.Pointer(&p[0])), uintptr(len(p)), unix.MSG_NOSIGNAL, 0, 0)
		switch errno {
		case 0:
			return int(n), nil
		case unix.EINTR:
		default:
			return 0, errno
		}
	}
}

// writeSome sends what the socket takes and keeps the rest. l.mu is held.
func (l *leg) writeSome(p []byte) (int, error) {
	if len(p) == 0 {
		return 0, nil
	}
	if len(l.unsent) > 0 {
		l.unsent = append(l.unsent, p...)
		return len(p), nil
	}
	n, err := transmit(l.fd, p)
	if err != nil && !errors.Is(err, unix.EAGAIN) {
		return 0, err
	}
	if n < len(p) {
		l.unsent, l.sent = append(l.spare.take(), p[n:]...), 0
	}
	return len(p), nil
}

// forget drops what is unsent.
func (l *leg) forget() {
	if l.unsent != nil {
		l.spare.give(l.unsent)
		l.unsent, l.sent = nil, 0
	}
}

// flush sends more of what the socket did not take. It returns false if the socket will not take anything more.
func (l *leg) flush() bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	n, err := 0, error(nil)
	if len(l.unsent) > 0 {
		n, err = transmit(l.fd, l.unsent[l.sent:])
	}
	l.sent += n
	if err != nil && !errors.Is(err, unix.EAGAIN) {
		l.forget()
		return false
	}
	if l.sent == len(l.unsent) {
		l.forget()
		if l.closes {
			l.shutdownWrite()
		}
	}
	return true
}

// shutdownWrite sends the end of the stream, once everything before it is gone. l.mu is held.
func (l *leg) shutdownWrite() {
	l.closes = true
	if len(l.unsent) == 0 {
		_ = unix.Shutdown(l.fd, unix.SHUT_WR)
	}
}

func closeFD(fd int) { _ = unix.Close(fd) }
