package proxy

import (
	"encoding/binary"
	"fmt"

	"github.com/jackc/pgx/v5/pgproto3"

	"github.com/scrimdb/scrim/rewrite"
)

// bound is a staged statement with the client's parameters.
type bound struct {
	st   *statement
	bind *pgproto3.Bind
	x    *execution
	// relies and makes are those of the client's Bind.
	relies []change
	makes  change
}

// format is that of a parameter. https://www.postgresql.org/docs/current/protocol-message-formats.html, Bind
func (b *bound) format(i int) int16 {
	switch codes := b.bind.ParameterFormatCodes; {
	case len(codes) == 1:
		return codes[0]
	case i < len(codes):
		return codes[i]
	}
	return formatText
}

func (b *bound) typeOf(i int) uint32 {
	if i < len(b.st.params) {
		return b.st.params[i]
	}
	return 0
}

// executes tells whether an EXECUTE brings the statement that is staged.
func (b *bound) executes() bool { return b.x.staged != b.st }

// withCodes returns the statement as it is sent, with lists as parameters behind the client's, or as literals.
func (b *bound) withCodes(lists []*codeList) *statement {
	run := *b.st
	next, firsts := len(b.bind.Parameters)+1, make([]int, len(lists))
	for i, l := range lists {
		firsts[i] = next
		next += len(l.arrays)
	}
	run.plan = b.st.plan.WithCodes(func(stage, part int) string {
		if b.st.plan.Literals {
			return lists[stage].literal(part)
		}
		return fmt.Sprintf("$%d", firsts[stage]+part)
	})
	return &run
}

// runName names the prepared statement that takes the lists. What the client prepared has NULL in their places: it serves to
// describe the statement, and its parameters are the client's alone.
const runName = "_scrim_run"

// explain adds to the lines of an EXPLAIN what listing the codes took.
func (b *bound) explain(lists []*codeList) {
	if b.executes() || len(b.st.plan.Notes) != len(lists) {
		return
	}
	b.x.results.notes = nil
	for i, l := range lists {
		b.x.results.notes = append(b.x.results.notes, fmt.Sprintf("%s (rows=%d batches=%d time=%.3f ms)", b.st.plan.Notes[i], l.rows, l.batches, float64(l.took.Microseconds())/1000))
	}
}

// executeName names what is prepared for an EXECUTE of a staged statement: the same with the lists as parameters.
const executeName = "_scrim_execute"

// withArguments prepares what an EXECUTE runs, and returns the EXECUTE of that.
func (f *frontend) withArguments(b *bound, lists []*codeList) (*statement, error) {
	next := b.x.staged.plan.Params
	number, arguments := map[[2]int]int{}, []string(nil)
	for i, l := range lists {
		for part := range l.arrays {
			next++
			number[[2]int{i, part}] = next
			arguments = append(arguments, l.literal(part))
		}
	}
	prepare := b.x.staged.plan.WithCodes(func(stage, part int) string { return fmt.Sprintf("$%d", number[[2]int{stage, part}]) })
	sql, err := rewrite.Renamed(prepare.SQL, executeName, nil)
	if err != nil {
		return nil, err
	}
	if err := f.send(&pgproto3.Close{ObjectType: 'S', Name: executeName}, &pending{kind: 'C', silent: true, changes: f.s.send(f.s.takes(executeName))}); err != nil {
		return nil, err
	}
	if err := f.silently(sql); err != nil {
		return nil, err
	}
	run := *b.st
	run.plan = &rewrite.Plan{}
	run.plan.SQL, err = rewrite.Renamed(b.st.Text, executeName, arguments)
	return &run, err
}

// parseRun sends the Parse of a staged statement with its lists. It returns the statement as it was sent.
func (f *frontend) parseRun(b *bound, lists []*codeList) (*statement, error) {
	var run *statement
	var err error
	if b.executes() {
		run, err = f.withArguments(b, lists)
	} else {
		run = b.withCodes(lists)
	}
	if err != nil {
		return nil, err
	}
	types := make([]uint32, 0, len(b.bind.Parameters))
	for i := range b.bind.Parameters {
		types = append(types, b.typeOf(i))
	}
	if err := f.send(&pgproto3.Close{ObjectType: 'S', Name: runName}, &pending{kind: 'C', silent: true, changes: f.s.send(f.s.takes(runName))}); err != nil {
		return nil, err
	}
	return run, f.send(&pgproto3.Parse{Name: runName, Query: run.plan.SQL, ParameterOIDs: types}, &pending{kind: 'P', silent: true, edited: run})
}

// bindRun sends the Bind, whose lists may be large: they are not copied.
func (f *frontend) bindRun(b *bound, lists []*codeList, p *pending) error {
	if b.executes() || b.st.plan.Literals {
		lists = nil
	}
	var head []byte
	head = append(append(head, b.bind.DestinationPortal...), 0)
	head = append(append(head, runName...), 0)
	params := len(b.bind.Parameters)
	for _, l := range lists {
		params += len(l.arrays)
	}
	head = binary.BigEndian.AppendUint16(head, uint16(params))
	for i := range b.bind.Parameters {
		head = binary.BigEndian.AppendUint16(head, uint16(b.format(i)))
	}
	for _, l := range lists {
		for part := range l.parts {
			format := uint16(formatText)
			if l.binary(part) {
				format = formatBinary
			}
			head = binary.BigEndian.AppendUint16(head, format)
		}
	}
	head = binary.BigEndian.AppendUint16(head, uint16(params))
	for _, v := range b.bind.Parameters {
		head = appendCell(head, v)
	}
	var tail []byte
	tail = binary.BigEndian.AppendUint16(tail, uint16(len(b.x.formats)))
	for _, format := range b.x.formats {
		tail = binary.BigEndian.AppendUint16(tail, uint16(format))
	}
	size := len(head) + len(tail)
	pieces := [][]byte{head}
	for _, l := range lists {
		for part := range l.parts {
			value := l.value(part)
			length := 0
			for _, piece := range value {
				length += len(piece)
			}
			size += 4 + length
			pieces = append(append(pieces, binary.BigEndian.AppendUint32(nil, uint32(length))), value...)
		}
	}
	if size > maxMessage-8 {
		return &Error{Code: codeProgramLimit, Message: "the codes that the statement needs do not fit into one message"}
	}
	if !f.s.queue.push(p) {
		return nil
	}
	f.out = binary.BigEndian.AppendUint32(append(f.out, 'B'), uint32(size+4))
	for _, piece := range append(pieces, tail) {
		if len(piece) < keptBuffer {
			f.out = append(f.out, piece...)
			continue
		}
		if err := f.flush(); err != nil {
			return err
		}
		if _, err := f.s.upstream.Write(piece); err != nil {
			return errUpstreamGone
		}
	}
	return nil
}
