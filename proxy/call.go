package proxy

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"strings"
	"sync"
	"unicode/utf8"

	"github.com/jackc/pgx/v5/pgproto3"

	"github.com/scrimdb/scrim/rewrite"
)

// call is a question of our own, asked on the client's connection between the client's messages.
type call struct {
	// row takes each row; its bytes are valid only during the call.
	row  func(cells []cell) error
	done chan struct{}
	once sync.Once

	// Set before done is closed.
	answered bool
	failure  []byte // the server's ErrorResponse, whole
	rowErr   error
}

// callName names the prepared statement and the portal of our questions. A client that uses the same name for a statement
// of its own loses it.
const callName = "_scrim"

// errSkipped means that the server is skipping to the next Sync: the client's earlier message failed.
var errSkipped = errors.New("skipped after an error")

// serverError is an ErrorResponse of the server's, to be passed on as it is.
type serverError struct{ message []byte }

func (e *serverError) Error() string {
	var r pgproto3.ErrorResponse
	if err := r.Decode(e.message[headerSize:]); err != nil {
		return "upstream error"
	}
	return r.Message + " (SQLSTATE " + r.Code + ")"
}

// elsewhere returns the error without its position, which is in a text of ours.
func (e *serverError) elsewhere() *serverError {
	var r pgproto3.ErrorResponse
	if err := r.Decode(e.message[headerSize:]); err != nil || r.Position == 0 {
		return e
	}
	r.Position = 0
	return &serverError{encode(&r)}
}

// inCommand returns the error as one of a statement of ours: as if there were no functions that run it. Where it is in an expression
// that the client wrote, it has the place in the client's text.
func (e *serverError) inCommand(text string, cmd rewrite.Command) *serverError {
	var r pgproto3.ErrorResponse
	if err := r.Decode(e.message[headerSize:]); err != nil || strings.HasPrefix(r.Code, "XX") { // for who mends it
		return e
	}
	query, at := r.InternalQuery, int(r.InternalPosition)
	r.Where, r.InternalQuery, r.InternalPosition, r.Position = "", "", 0, 0
	for _, x := range rewrite.Expressions(cmd) {
		from := strings.Index(query, "("+x.Text+"\n)") // as make_mask and probe_body put it there
		if x.Text == "" || from < 0 {
			continue
		}
		inside := at - 2 - utf8.RuneCountInString(query[:from])
		if inside < 0 || inside > utf8.RuneCountInString(x.Text) {
			continue
		}
		r.Position = int32(utf8.RuneCountInString(text[:x.Offset]) + inside + 1)
		switch r.Code {
		case codeUndefinedTable:
			r.Hint = "A mask is an expression over the row: columns stand in it without their table, and subqueries are not allowed."
		case codeUndefinedFunction, codeUndefinedObject, codeUndefinedSchema:
			r.Hint = "Masks look for names in pg_catalog and scrim only: write the schema of others, and cast arguments to the types of parameters."
		}
	}
	return &serverError{encode(&r)}
}

// finish ends the call. It is harmless to end one twice: an error answers it, and its last message is dropped.
func (c *call) finish(failure []byte) {
	c.once.Do(func() {
		c.failure = failure
		close(c.done)
	})
}

// question is a statement of ours with its parameters. Types and formats may be missing: results come in binary then.
type question struct {
	sql     string
	types   []uint32
	formats []int16
	values  [][]byte
	results []int16
}

// ask is inquire with text parameters.
func (s *session) ask(ctx context.Context, ownTx bool, sql string, params []string, row func([]cell) error) error {
	q := question{sql: sql}
	for _, p := range params {
		q.values = append(q.values, []byte(p))
	}
	return s.inquire(ctx, ownTx, q, row)
}

// inquire runs one statement with binary results under the client's rights, in its transaction. With ownTx
// it is a transaction of its own where the client has none open; without, it joins what the client has under way.
// Errors are errSkipped, *serverError, or what row returned.
func (s *session) inquire(ctx context.Context, ownTx bool, q question, row func([]cell) error) error {
	c := &call{row: row, done: make(chan struct{})}
	bind := &pgproto3.Bind{
		DestinationPortal: callName, PreparedStatement: callName, ParameterFormatCodes: q.formats, Parameters: q.values,
		ResultFormatCodes: q.results,
	}
	if len(q.results) == 0 {
		bind.ResultFormatCodes = []int16{formatBinary}
	}
	// Closing first makes it certain that the names are free: an earlier call may have been cut short by an error.
	messages := []pgproto3.FrontendMessage{
		&pgproto3.Close{ObjectType: 'P', Name: callName},
		&pgproto3.Close{ObjectType: 'S', Name: callName},
		&pgproto3.Parse{Name: callName, Query: q.sql, ParameterOIDs: q.types},
		bind,
		&pgproto3.Execute{Portal: callName},
		&pgproto3.Close{ObjectType: 'S', Name: callName},
	}
	kinds := "CCPBEC"
	if ownTx {
		messages = append(messages, &pgproto3.Sync{})
		kinds += "S"
	} else {
		messages = append(messages, &pgproto3.Flush{})
	}
	var out []byte
	var err error
	for _, m := range messages {
		if out, err = m.Encode(out); err != nil {
			return fmt.Errorf("encode question: %w", err)
		}
	}
	changes := s.send(s.takes(callName))
	for i, k := range []byte(kinds) {
		entry := &pending{kind: k, silent: true, call: c}
		if i == 0 {
			entry.changes = changes
		}
		if !s.queue.push(entry) {
			return errSkipped
		}
	}
	if _, err := s.upstream.Write(out); err != nil {
		return errUpstreamGone
	}
	// The last of the answers ends the wait: that is what keeps the next question behind this one.
	if ownTx {
		s.queue.drain()
	}
	// Whoever cancels ctx has the server cancel too, or closes the session: either ends the call. Leaving before that
	// would leave the answers, and the row callback, to nobody.
	<-c.done
	switch {
	case c.failure != nil:
		return &serverError{c.failure}
	case ctx.Err() != nil:
		return context.Cause(ctx)
	case c.rowErr != nil:
		return c.rowErr
	case !c.answered:
		return errSkipped
	}
	return nil
}

// answer takes one message of the answer. The backend calls it.
func (c *call) answer(msg []byte, cells []cell) []cell {
	switch msg[0] {
	case 'D':
		var ok bool
		cells, ok = split(cells[:0], msg[headerSize:])
		if c.rowErr != nil || c.row == nil {
			return cells
		}
		if !ok {
			c.rowErr = errors.New("malformed row")
			return cells
		}
		c.rowErr = c.row(cells)
	case 'C', 'I', 's':
		c.answered = true
	}
	return cells
}

// cellUint32 reads an oid or int4 in binary.
func cellUint32(c cell) uint32 {
	if len(c) != 4 {
		return 0
	}
	return binary.BigEndian.Uint32(c)
}

// cellTexts reads a text[] in binary form. https://www.postgresql.org/docs/current/arrays.html, array_send
func cellTexts(c cell) ([]string, error) {
	errArray := errors.New("malformed text array")
	if len(c) < 12 {
		return nil, errArray
	}
	dims := binary.BigEndian.Uint32(c)
	if dims == 0 {
		return nil, nil
	}
	if dims != 1 || len(c) < 20 {
		return nil, errArray
	}
	n := binary.BigEndian.Uint32(c[12:])
	c = c[20:]
	var out []string
	for range n {
		if len(c) < 4 {
			return nil, errArray
		}
		size := int(int32(binary.BigEndian.Uint32(c)))
		c = c[4:]
		if size < 0 || size > len(c) {
			return nil, errArray
		}
		out = append(out, string(c[:size]))
		c = c[size:]
	}
	return out, nil
}
