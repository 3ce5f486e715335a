package integration_test

import (
	"encoding/binary"
	"encoding/hex"
	"fmt"
	"strconv"
	"strings"
	"time"
)

// The language of testdata/wire: one message a line, as in
//
//	Parse name="s" "SELECT $1::int" types=[23]
//	Bind portal="p" stmt="s" params=["1", NULL, x"00000001"] formats=[0,1,1] results=[1]
//	raw 51 00 00 00 08 "abc" 00
//
// Nothing here checks that a message makes sense: half of the scripts are about those that do not.

// term is a word, a "quoted" or x"hex" string, or NULL.
type term struct {
	text   string
	quoted bool
	null   bool
}

// line is a message: its name, what follows, and what follows by name.
type line struct {
	verb  string
	plain []term
	named map[string][]term
}

// parseLine reads one line of a script.
func parseLine(s string) (line, error) {
	l := line{named: map[string][]term{}}
	l.verb, s, _ = strings.Cut(strings.TrimSpace(s), " ")
	for s = strings.TrimSpace(s); s != ""; s = strings.TrimSpace(s) {
		if key, rest, ok := cutKey(s); ok {
			terms, after, err := cutValue(rest)
			if err != nil {
				return l, err
			}
			l.named[key], s = terms, after
			continue
		}
		t, after, err := cutTerm(s)
		if err != nil {
			return l, err
		}
		l.plain, s = append(l.plain, t), after
	}
	return l, nil
}

func cutKey(s string) (key, rest string, ok bool) {
	key, rest, ok = strings.Cut(s, "=")
	return key, rest, ok && !strings.ContainsAny(key, " \"[")
}

// cutValue splits off one term or a [list] of them.
func cutValue(s string) ([]term, string, error) {
	list, ok := strings.CutPrefix(s, "[")
	if !ok {
		t, rest, err := cutTerm(s)
		return []term{t}, rest, err
	}
	terms := []term{}
	for {
		list = strings.TrimLeft(list, " ,")
		if rest, ok := strings.CutPrefix(list, "]"); ok {
			return terms, rest, nil
		}
		t, rest, err := cutTerm(list)
		if err != nil {
			return nil, "", err
		}
		terms, list = append(terms, t), rest
	}
}

func cutTerm(s string) (term, string, error) {
	quoted := strings.TrimPrefix(s, "x")
	if strings.HasPrefix(quoted, `"`) {
		q, err := strconv.QuotedPrefix(quoted)
		if err != nil {
			return term{}, "", fmt.Errorf("%s: %w", s, err)
		}
		text, err := strconv.Unquote(q)
		if err == nil && quoted != s {
			var b []byte
			b, err = hex.DecodeString(text)
			text = string(b)
		}
		return term{text: text, quoted: true}, quoted[len(q):], err
	}
	end := strings.IndexAny(s, " ,]")
	switch end {
	case 0:
		return term{}, "", fmt.Errorf("%q: a value is missing", s)
	case -1:
		end = len(s)
	}
	return term{text: s[:end], null: s[:end] == "NULL"}, s[end:], nil
}

func (l line) text(key string) string {
	if v := l.named[key]; len(v) > 0 {
		return v[0].text
	}
	return ""
}

func (l line) number(key string) int {
	n, _ := strconv.Atoi(l.text(key))
	return n
}

func (l line) arg(i int) string {
	if i < len(l.plain) {
		return l.plain[i].text
	}
	return ""
}

// numbers appends a count and the int16s of a list.
func (l line) numbers(b []byte, key string) []byte {
	b = binary.BigEndian.AppendUint16(b, uint16(len(l.named[key])))
	for _, t := range l.named[key] {
		n, _ := strconv.Atoi(t.text)
		b = binary.BigEndian.AppendUint16(b, uint16(n))
	}
	return b
}

// values appends a count and the cells of a list.
func (l line) values(b []byte, key string) []byte {
	b = binary.BigEndian.AppendUint16(b, uint16(len(l.named[key])))
	for _, t := range l.named[key] {
		if t.null {
			b = binary.BigEndian.AppendUint32(b, 0xffffffff)
			continue
		}
		b = append(binary.BigEndian.AppendUint32(b, uint32(len(t.text))), t.text...)
	}
	return b
}

func cstring(b []byte, s string) []byte { return append(append(b, s...), 0) }

// frontendTypes are the messages that a script can name. https://www.postgresql.org/docs/current/protocol-message-formats.html
var frontendTypes = map[string]byte{
	"Query": 'Q', "Parse": 'P', "Bind": 'B', "Describe": 'D', "Execute": 'E', "Close": 'C', "Sync": 'S', "Flush": 'H', "Terminate": 'X',
	"CopyData": 'd', "CopyDone": 'c', "CopyFail": 'f', "FunctionCall": 'F', "Password": 'p',
}

// encode returns the bytes of a message; times=N repeats it.
func (l line) encode() ([]byte, error) {
	if l.verb == "raw" {
		return l.raw()
	}
	kind, ok := frontendTypes[l.verb]
	if !ok {
		return nil, fmt.Errorf("%q is no message", l.verb)
	}
	body := l.body()
	msg := binary.BigEndian.AppendUint32([]byte{kind}, uint32(len(body)+4))
	msg = append(msg, body...)
	out := msg
	for range l.number("times") - 1 {
		out = append(out, msg...)
	}
	return out, nil
}

func (l line) body() (b []byte) {
	switch l.verb {
	case "Query", "CopyFail", "Password":
		return cstring(nil, l.arg(0))
	case "CopyData":
		return []byte(l.arg(0))
	case "Describe", "Close":
		return cstring([]byte(l.arg(0)), l.arg(1))
	case "Execute":
		return binary.BigEndian.AppendUint32(cstring(nil, l.arg(0)), uint32(l.number("max")))
	case "Parse":
		b = cstring(cstring(nil, l.text("name")), l.arg(0))
		b = binary.BigEndian.AppendUint16(b, uint16(len(l.named["types"])))
		for _, t := range l.named["types"] {
			oid, _ := strconv.Atoi(t.text)
			b = binary.BigEndian.AppendUint32(b, uint32(oid))
		}
	case "Bind":
		b = cstring(cstring(nil, l.text("portal")), l.text("stmt"))
		b = l.numbers(l.values(l.numbers(b, "formats"), "params"), "results")
	case "FunctionCall":
		b = binary.BigEndian.AppendUint32(nil, uint32(l.number("oid")))
		b = binary.BigEndian.AppendUint16(l.values(l.numbers(b, "formats"), "args"), uint16(l.number("result")))
	}
	return b
}

// raw returns bytes given in hex, and strings as they are.
func (l line) raw() ([]byte, error) {
	var out []byte
	for _, t := range l.plain {
		if t.quoted {
			out = append(out, t.text...)
			continue
		}
		b, err := hex.DecodeString(t.text)
		if err != nil {
			return nil, fmt.Errorf("raw %s: %w", t.text, err)
		}
		out = append(out, b...)
	}
	return out, nil
}

// piece is what one TCP write sends, after a pause.
type piece struct {
	pause time.Duration
	bytes []byte
}

// encodeScript turns lines into writes: one for all of it, unless a `wait 50ms` or a `split` comes between, or size says
// how many bytes a write has.
func encodeScript(script string, size int) ([]piece, error) {
	pieces := []piece{{}}
	for s := range strings.Lines(script) {
		l, err := parseLine(s)
		if err != nil {
			return nil, err
		}
		if l.verb == "wait" || l.verb == "split" {
			pause := time.Millisecond // enough for the first part to go out on its own
			if l.verb == "wait" {
				if pause, err = time.ParseDuration(l.arg(0)); err != nil {
					return nil, err
				}
			}
			pieces = append(pieces, piece{pause: pause})
			continue
		}
		b, err := l.encode()
		if err != nil {
			return nil, err
		}
		last := &pieces[len(pieces)-1]
		last.bytes = append(last.bytes, b...)
	}
	return cutPieces(pieces, size), nil
}

func cutPieces(pieces []piece, size int) []piece {
	if size == 0 {
		return pieces
	}
	var cut []piece
	for _, p := range pieces {
		for len(p.bytes) > size {
			cut = append(cut, piece{pause: p.pause, bytes: p.bytes[:size]})
			p = piece{bytes: p.bytes[size:]}
		}
		cut = append(cut, p)
	}
	return cut
}
