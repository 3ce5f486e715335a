package integration_test

import (
	"fmt"
	"strings"
	"testing"
)

// TestAskedDuringLargeResult lets the frontend finish with a client's messages in the middle of a large masked result, which
// the backend lets gather. Whatever the two tell each other then, the session must go on.
func TestAskedDuringLargeResult(t *testing.T) {
	const large = `SELECT income FROM customers, generate_series(1, 100)`
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
		if got, err := c.until([]string{"ReadyForQuery"}); err != nil {
			t.Fatalf("after %d messages of the result: %v", len(got), err)
		}
		c.write(simpleQuery(`SELECT 1`))
		if got, err := c.until([]string{"DataRow", "ReadyForQuery"}); err != nil {
			t.Fatalf("after the result: %d messages, then %v", len(got), err)
		}
	})
}
