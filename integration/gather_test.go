package integration_test

import (
	"encoding/binary"
	"fmt"
	"strings"
	"testing"
	"time"
)

// TestAskedDuringLargeResult lets the frontend finish with a client's messages in the middle of a large masked result, which
// the backend lets gather. Whatever the two tell each other then, the session must go on.
func TestAskedDuringLargeResult(t *testing.T) {
	const large = `SELECT income FROM customers, generate_series(1, 50)`
	onEachProtected(t, func(t *testing.T, e *env) {
		c := e.wire(t, analyst)
		parse := func(name, text string) []byte {
			return frontendMessage('P', append(cstring(cstring(nil, name), text), 0, 0))
		}
		sent := parse("", large)
		sent = append(sent, frontendMessage('B', make([]byte, 8))...)
		sent = append(sent, frontendMessage('E', make([]byte, 5))...)
		sent = append(sent, frontendMessage('d', nil)...) // ignored by the server, but what came before it goes upstream at once
		for i := range 6 {                                // and what comes after it takes a while to parse
			sent = append(sent, parse(fmt.Sprint("s", i), `SELECT `+strings.Repeat("1,", 3900)+fmt.Sprint(i))...)
		}
		c.write(append(sent, frontendMessage('S', nil)...))
		if n, err := c.skip('Z'); err != nil {
			t.Fatalf("after %d messages of the result: %v", n, err)
		}
		c.write(simpleQuery(`SELECT 1`))
		if got, err := c.until([]string{"DataRow", "ReadyForQuery"}); err != nil {
			t.Fatalf("after the result: %d messages, then %v", len(got), err)
		}
	})
}

// skip reads up to a message of this type and returns how many came. It keeps none of them.
func (c *wireClient) skip(kind byte) (n int, err error) {
	for {
		_ = c.conn.SetReadDeadline(time.Now().Add(wirePatience))
		header, err := c.in.Peek(5)
		if err != nil {
			return n, ending(err)
		}
		last := header[0] == kind
		if _, err := c.in.Discard(1 + int(binary.BigEndian.Uint32(header[1:]))); err != nil || last {
			return n, err
		}
		n++
	}
}
