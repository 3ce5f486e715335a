package integration_test

import (
	"bufio"
	"bytes"
	"crypto/hmac"
	"crypto/pbkdf2"
	"crypto/sha256"
	"encoding/base64"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"
)

// wireClient is a client that speaks in bytes: no driver hides what comes.
type wireClient struct {
	conn net.Conn
	in   *bufio.Reader
	key  []byte // body of the BackendKeyData: process ID and secret
}

// wirePatience bounds every wait of a script: longer than anything that a healthy server takes.
const wirePatience = 15 * time.Second

func dialWire(t testing.TB, addr string) *wireClient {
	t.Helper()
	conn, err := net.Dial("tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close() })
	return &wireClient{conn: conn, in: bufio.NewReader(conn)}
}

// startupPacket has its length in front; version is 3.0 as 0x30000.
func startupPacket(version uint32, params ...string) []byte {
	body := binary.BigEndian.AppendUint32(nil, version)
	for _, p := range params {
		body = cstring(body, p)
	}
	body = append(body, 0)
	return append(binary.BigEndian.AppendUint32(nil, uint32(len(body)+4)), body...)
}

// loggedIn connects, logs in by SCRAM and reads to the first ReadyForQuery.
func loggedIn(t testing.TB, addr, user, password, database string) *wireClient {
	t.Helper()
	c := dialWire(t, addr)
	c.write(startupPacket(0x30000, "user", user, "database", database))
	if got, err := c.login(password); err != nil {
		t.Fatalf("login of %s: %v, after %q", user, err, bytes.Join(got, nil))
	}
	return c
}

// write sends; a server that has closed is seen when its answer is read.
func (c *wireClient) write(b []byte) { _, _ = c.conn.Write(b) }

func (c *wireClient) send(pieces []piece) {
	for _, p := range pieces {
		time.Sleep(p.pause)
		c.write(p.bytes)
	}
}

// receive reads one message.
func (c *wireClient) receive() ([]byte, error) {
	_ = c.conn.SetReadDeadline(time.Now().Add(wirePatience))
	msg := make([]byte, 5)
	if _, err := io.ReadFull(c.in, msg); err != nil {
		return nil, ending(err)
	}
	size := int(binary.BigEndian.Uint32(msg[1:]))
	if size < 4 {
		return nil, fmt.Errorf("message of length %d", size)
	}
	whole := bytes.NewBuffer(msg) // grows as bytes come: an answer without a header can seem to announce a gigabyte
	if n, err := io.CopyN(whole, c.in, int64(size-4)); err != nil {
		if n > 0 && errors.Is(err, io.EOF) {
			err = io.ErrUnexpectedEOF
		}
		return nil, fmt.Errorf("%d of %d bytes of a message of type %c, then %w", n+5, size+1, msg[0], ending(err))
	}
	msg = whole.Bytes()
	if msg[0] == 'K' {
		c.key = bytes.Clone(msg[5:])
	}
	return msg, nil
}

// errPatience is one text for what has another address in it each time.
var errPatience = errors.New("nothing came for " + wirePatience.String())

// ending makes one of the ways in which a connection can end: a reset is what the kernel makes of a close that leaves
// bytes unread, and whether there are any depends on timing.
func ending(err error) error {
	if timeout := net.Error(nil); errors.As(err, &timeout) && timeout.Timeout() {
		return errPatience
	}
	if errors.Is(err, syscall.ECONNRESET) || errors.Is(err, syscall.EPIPE) {
		return io.EOF
	}
	return err
}

// until reads up to the last of the message names, in their order, or to the end of the connection, which it returns as an
// error.
func (c *wireClient) until(names []string) (got [][]byte, err error) {
	for len(names) > 0 {
		msg, err := c.receive()
		if err != nil {
			return got, err
		}
		got = append(got, msg)
		if messageName(msg) == names[0] {
			names = names[1:]
		}
	}
	return got, nil
}

// silent tells whether nothing comes for a while.
func (c *wireClient) silent(d time.Duration) bool {
	_ = c.conn.SetReadDeadline(time.Now().Add(d))
	_, err := c.in.Peek(1)
	var timeout net.Error
	return errors.As(err, &timeout) && timeout.Timeout()
}

// login answers SCRAM-SHA-256 (RFC 5802, 7677) until the server is ready, or ends the connection, which it returns as an
// error.
func (c *wireClient) login(password string) (got [][]byte, err error) {
	const nonce, clientFirst = "c2NyaW0", "n=,r=c2NyaW0"
	var final string
	for {
		msg, err := c.receive()
		if err != nil {
			return got, err
		}
		got = append(got, msg)
		if msg[0] == 'Z' {
			return got, nil
		}
		if msg[0] != 'R' {
			continue
		}
		switch binary.BigEndian.Uint32(msg[5:]) {
		case 10: // AuthenticationSASL
			initial := cstring(nil, "SCRAM-SHA-256")
			initial = binary.BigEndian.AppendUint32(initial, uint32(len("n,,"+clientFirst)))
			c.write(frontendMessage('p', append(initial, "n,,"+clientFirst...)))
		case 11: // AuthenticationSASLContinue
			final = scramFinal(password, clientFirst, string(msg[9:]))
			c.write(frontendMessage('p', []byte(final)))
		}
	}
}

func frontendMessage(kind byte, body []byte) []byte {
	return append(binary.BigEndian.AppendUint32([]byte{kind}, uint32(len(body)+4)), body...)
}

func scramFinal(password, clientFirst, serverFirst string) string {
	parts := strings.SplitN(serverFirst, ",", 3)
	salt, _ := base64.StdEncoding.DecodeString(strings.TrimPrefix(parts[1], "s="))
	rounds, _ := strconv.Atoi(strings.TrimPrefix(parts[2], "i="))
	salted, _ := pbkdf2.Key(sha256.New, password, salt, rounds, sha256.Size)
	mac := func(key []byte, text string) []byte {
		h := hmac.New(sha256.New, key)
		h.Write([]byte(text))
		return h.Sum(nil)
	}
	withoutProof := "c=biws," + parts[0]
	proof := mac(salted, "Client Key")
	stored := sha256.Sum256(proof)
	for i, b := range mac(stored[:], clientFirst+","+serverFirst+","+withoutProof) {
		proof[i] ^= b
	}
	return withoutProof + ",p=" + base64.StdEncoding.EncodeToString(proof)
}

// pid is the backend's process ID.
func (c *wireClient) pid() uint32 { return binary.BigEndian.Uint32(c.key) }

// cancel sends a CancelRequest and waits until it was taken.
func (c *wireClient) cancel(t testing.TB, addr string) {
	t.Helper()
	conn, err := net.Dial("tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = conn.Close() }()
	msg := binary.BigEndian.AppendUint32(nil, uint32(8+len(c.key)))
	msg = binary.BigEndian.AppendUint32(msg, 80877102)
	_, _ = conn.Write(append(msg, c.key...))
	_ = conn.SetReadDeadline(time.Now().Add(wirePatience))
	_, _ = conn.Read(make([]byte, 1))
}
