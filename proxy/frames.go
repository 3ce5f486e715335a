package proxy

import (
	"encoding/binary"
	"io"
)

// headerSize is the type byte and the length of a protocol message.
const headerSize = 5

// maxMessage is PostgreSQL's own limit for one message: 1 GB less one byte (MaxAllocSize in memutils.h).
const maxMessage = 0x3fffffff

// frames finds protocol messages in a stream without copying them: they lie in buf[r:w].
type frames struct {
	buf  []byte
	r, w int
	full bool // the last read filled the buffer: there is more to come
	lent bool // buf belongs to an event loop
}

// header returns the type and whole size of the next message if its header is here. A bad length gives ok and size -1.
func (f *frames) header() (kind byte, size int, ok bool) {
	if f.w-f.r < headerSize {
		return 0, 0, false
	}
	n := binary.BigEndian.Uint32(f.buf[f.r+1:])
	if n < 4 || n > maxMessage {
		return f.buf[f.r], -1, true
	}
	return f.buf[f.r], int(n) + 1, true
}

// message returns the next message if all of it is here, and moves on.
func (f *frames) message(size int) []byte {
	m := f.buf[f.r : f.r+size : f.r+size]
	f.r += size
	return m
}

// back undoes message.
func (f *frames) back(size int) { f.r -= size }

func (f *frames) has(size int) bool { return f.w-f.r >= size }

// rest is what was read and not taken.
func (f *frames) rest() int { return f.w - f.r }

// room moves what is left to the front and returns the space behind it: of a buffer of at least want bytes, and at
// least as long as what is left. What message returned before is no longer valid. The buffer only grows as bytes
// come, so that a header alone, whatever it claims, costs nothing.
func (f *frames) room(want int) []byte {
	if f.r > 0 {
		copy(f.buf, f.buf[f.r:f.w])
		f.w -= f.r
		f.r = 0
	}
	if f.w == len(f.buf) || len(f.buf) < want {
		grown := make([]byte, max(2*f.w, want))
		copy(grown, f.buf[:f.w])
		f.buf = grown
	}
	return f.buf[f.w:]
}

// got notes that n bytes were read into what room or lend returned.
func (f *frames) got(n int) {
	f.w += n
	f.full = f.w == len(f.buf)
}

// read gets more bytes by one Read.
func (f *frames) read(src io.Reader, want int) error {
	n, err := src.Read(f.room(want))
	f.got(n)
	if n > 0 {
		return nil
	}
	if err == nil {
		err = io.ErrNoProgress
	}
	return err
}

// lend is room in a buffer of somebody else's, so that a session that has nothing to read has no buffer. A long rest
// stays where it is: copying it for every read would cost its square.
func (f *frames) lend(scratch []byte) []byte {
	if f.rest() > len(scratch)/2 {
		return f.room(0)
	}
	n := copy(scratch, f.buf[f.r:f.w])
	f.buf, f.r, f.w, f.lent = scratch, 0, n, true
	return f.buf[n:]
}

// giveBack ends a loan: what is left moves to memory of our own.
func (f *frames) giveBack() {
	if f.lent {
		f.buf, f.r, f.w, f.lent = append([]byte(nil), f.buf[f.r:f.w]...), 0, f.rest(), false
	}
}

// shrink gives back a large buffer that has been emptied.
func (f *frames) shrink() {
	if f.r == f.w && len(f.buf) > baseBuffer {
		f.buf, f.r, f.w = make([]byte, baseBuffer), 0, 0
	}
}

const (
	baseBuffer = 16 << 10  // of each direction of a session in goroutines
	loopBuffer = 128 << 10 // of each event loop
	fillBuffer = 256 << 10 // while rows are being filled: one read is one batch
)
