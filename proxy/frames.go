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
	src  io.Reader
	buf  []byte
	r, w int
	full bool // the last read filled the buffer: there is more to come
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

func (f *frames) has(size int) bool { return f.w-f.r >= size }

// read gets more bytes: it moves what is left to the front, grows the buffer to want if there is no room, and reads
// once. What message returned before is no longer valid. The buffer only grows as bytes come, so that a header alone,
// whatever it claims, costs nothing.
func (f *frames) read(want int) error {
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
	n, err := f.src.Read(f.buf[f.w:])
	f.w += n
	f.full = f.w == len(f.buf)
	if n > 0 {
		return nil
	}
	if err == nil {
		err = io.ErrNoProgress
	}
	return err
}

// shrink gives back a large buffer that has been emptied.
func (f *frames) shrink() {
	if f.r == f.w && len(f.buf) > baseBuffer {
		f.buf, f.r, f.w = make([]byte, baseBuffer), 0, 0
	}
}

const (
	baseBuffer = 16 << 10  // of each direction of a session
	fillBuffer = 256 << 10 // while rows are being filled: one read is one batch
)
