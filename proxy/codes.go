package proxy

import (
	"cmp"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"math"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/scrimdb/scrim/proxy/internal/pgfloat"
	"github.com/scrimdb/scrim/rewrite"
	"github.com/scrimdb/scrim/udf"
)

// codeList is what a stage gave: the codes of its rows, as the arrays that the statement takes.
type codeList struct {
	batch   sealBatch
	encoder *udf.Encoder
	rows    int
	most    int // rows allowed
	batches int // calls of the model
	took    time.Duration
	// components of the codes that the statement needs.
	components []int
	parts      []rewrite.Part
	// arrays are the elements of the parts: as array_recv takes them, each with its length before it, or, of type text, as
	// array_in does, with commas between them.
	arrays [][]byte
	// last is the place of the last row, and unordered that one came out of order.
	last      uint64
	unordered bool
}

// elements are the types of the parts' elements and their sizes in bytes.
var elements = map[string]struct{ oid, size uint32 }{
	"tid": {oidTid, 6}, "xid": {oidXid, 4}, "oid": {oidOid, 4}, "int8": {oidInt8, 8}, "float4": {oidFloat4, 4},
}

func newCodeList(stage rewrite.Stage, encoder *udf.Encoder, most int) *codeList {
	return &codeList{
		batch: newSealBatch(stage.Policy), encoder: encoder, most: most,
		components: stage.Components, parts: stage.Parts, arrays: make([][]byte, len(stage.Parts)),
	}
}

// binary tells whether a part is sent as array_recv takes it.
func (l *codeList) binary(part int) bool { return l.parts[part].Type != "text" }

// codes is the part that is computed here: the last.
func (l *codeList) codes() int { return len(l.parts) - 1 }

// place is a ctid, or an int8, as a number that orders as it does.
func place(of cell) uint64 {
	if len(of) == 8 {
		return binary.BigEndian.Uint64(of) ^ 1<<63
	}
	return uint64(binary.BigEndian.Uint32(of))<<16 | uint64(binary.BigEndian.Uint16(of[4:]))
}

// take adds a row, whatever key of its policy's it is sealed with. It runs in the backend's goroutine.
func (l *codeList) take(ctx context.Context, s *session, cells []cell) error {
	err := l.add(cells)
	if errors.Is(err, errSeal) {
		err = s.reopen(ctx, l.batch.opener.learn, func() error { return l.add(cells) })
	}
	return err
}

// add adds a row, or nothing if its seal does not open.
func (l *codeList) add(cells []cell) error {
	if len(cells) != len(l.parts) {
		return errSeal
	}
	for part, c := range cells[:l.codes()] {
		if l.binary(part) && len(c) != int(elements[l.parts[part].Type].size) {
			return errSeal
		}
	}
	if l.rows == l.most {
		return &Error{
			Code: codeProgramLimit, Message: fmt.Sprintf("the statement computes with masked columns of more than %d rows", l.most),
			Hint: "Add conditions on columns that are not masked, store the codes in a table, or raise --max-staged-rows.",
		}
	}
	if err := l.batch.add(cells[l.codes()]); err != nil {
		return err
	}
	if l.binary(0) {
		at := place(cells[0])
		l.unordered = l.unordered || l.rows > 0 && at < l.last
		l.last = at
	}
	for part, c := range cells[:l.codes()] {
		if l.binary(part) {
			l.arrays[part] = append(binary.BigEndian.AppendUint32(l.arrays[part], uint32(len(c))), c...)
		} else {
			l.arrays[part] = appendElement(l.arrays[part], c)
		}
	}
	l.rows++
	if l.rows%maxBatch == 0 {
		return l.encode()
	}
	return nil
}

// encode computes the codes of the rows that were added since the last time.
func (l *codeList) encode() error {
	if n, err := l.batch.encode(l.encoder); n == 0 || err != nil {
		return err
	}
	l.batches++
	dims := l.encoder.Dims()
	codes := l.arrays[l.codes()]
	for _, at := range l.batch.index {
		for _, k := range l.components {
			codes = binary.BigEndian.AppendUint32(codes, 4)
			codes = binary.BigEndian.AppendUint32(codes, math.Float32bits(l.batch.codes[int(at)*dims+k]))
		}
	}
	l.arrays[l.codes()] = codes
	l.batch.reset()
	return nil
}

// order puts the rows in the order of their ctids, which is most often theirs already.
func (l *codeList) order() {
	if !l.unordered {
		return
	}
	at := make([]int, l.rows)
	for i := range at {
		at[i] = i
	}
	id := 4 + int(elements[l.parts[0].Type].size)
	first := l.arrays[0]
	slices.SortFunc(at, func(a, b int) int { return cmp.Compare(place(first[a*id+4:(a+1)*id]), place(first[b*id+4:(b+1)*id])) })
	for part, array := range l.arrays {
		size := len(array) / l.rows
		sorted := make([]byte, 0, len(array))
		for _, i := range at {
			sorted = append(sorted, array[i*size:(i+1)*size]...)
		}
		l.arrays[part] = sorted
	}
}

// appendElement writes one more element of a text array. https://www.postgresql.org/docs/current/arrays.html, array_in
func appendElement(out []byte, c cell) []byte {
	if len(out) > 0 {
		out = append(out, ',')
	}
	if c == nil {
		return append(out, "NULL"...)
	}
	out = append(out, '"')
	for _, b := range c {
		if b == '"' || b == '\\' {
			out = append(out, '\\')
		}
		out = append(out, b)
	}
	return append(out, '"')
}

// length is how many elements a part has that is sent in binary.
func (l *codeList) length(part int) int {
	return len(l.arrays[part]) / int(4+elements[l.parts[part].Type].size)
}

// value is a part as Bind sends it, in pieces.
func (l *codeList) value(part int) [][]byte {
	if l.binary(part) {
		return [][]byte{l.header(part), l.arrays[part]}
	}
	return [][]byte{[]byte("{"), l.arrays[part], []byte("}")}
}

// header is what array_recv expects before the elements: dimensions, whether there are NULLs, the element type, and size
// and lower bound of the dimension. https://www.postgresql.org/docs/current/arrays.html
func (l *codeList) header(part int) []byte {
	h := make([]byte, 0, 20)
	dims := uint32(min(1, l.length(part)))
	h = binary.BigEndian.AppendUint32(h, dims)
	h = binary.BigEndian.AppendUint32(h, 0)
	h = binary.BigEndian.AppendUint32(h, elements[l.parts[part].Type].oid)
	if dims == 0 {
		return h
	}
	h = binary.BigEndian.AppendUint32(h, uint32(l.length(part)))
	return binary.BigEndian.AppendUint32(h, 1)
}

// literal spells an array, where a statement takes no parameters.
func (l *codeList) literal(part int) string {
	kind := l.parts[part].Type
	if kind == "text" { // E'...' means the same whatever standard_conforming_strings and backslash_quote are
		return "E'{" + strings.NewReplacer(`\`, `\\`, `'`, `''`).Replace(string(l.arrays[part])) + "}'"
	}
	out := make([]byte, 0, 4+len(l.arrays[part])*2)
	out = append(out, `'{`...)
	size := int(4 + elements[kind].size)
	for i := range l.length(part) {
		if i > 0 {
			out = append(out, ',')
		}
		e := l.arrays[part][i*size+4:]
		switch kind {
		case "tid":
			out = append(out, `"(`...)
			out = strconv.AppendUint(out, uint64(binary.BigEndian.Uint32(e)), 10)
			out = append(out, ',')
			out = strconv.AppendUint(out, uint64(binary.BigEndian.Uint16(e[4:])), 10)
			out = append(out, `)"`...)
		case "int8":
			out = strconv.AppendInt(out, int64(binary.BigEndian.Uint64(e)), 10)
		case "float4":
			out = pgfloat.AppendFloat4(out, math.Float32frombits(binary.BigEndian.Uint32(e)))
		default: // xid, oid
			out = strconv.AppendUint(out, uint64(binary.BigEndian.Uint32(e)), 10)
		}
	}
	return string(append(out, `}'`...))
}

// listCodes asks for the rows of a statement's stages and encodes them. Parameters are those that the client bound.
func (f *frontend) listCodes(ctx context.Context, b *bound) ([]*codeList, error) {
	settings := f.settings(b)
	if len(settings) == 0 {
		return f.lists(ctx, b)
	}
	name := f.s.srv.savepoint
	for _, sql := range slices.Concat([]string{"SAVEPOINT " + name}, settings) {
		if err := f.silently(sql); err != nil {
			return nil, err
		}
	}
	lists, err := f.lists(ctx, b)
	if err != nil {
		return nil, err
	}
	for _, sql := range []string{"ROLLBACK TO SAVEPOINT " + name, "RELEASE SAVEPOINT " + name} {
		if err := f.silently(sql); err != nil {
			return nil, err
		}
	}
	return lists, nil
}

// settings are those that must be changed while the codes are listed.
func (f *frontend) settings(b *bound) []string {
	var list []string
	if f.s.planner.noViews {
		list = append(list, "SET LOCAL restrict_nonsystem_relation_kind = ''")
	}
	if slices.ContainsFunc(b.x.staged.plan.Stages, func(s rewrite.Stage) bool { return !s.HasPlaces() }) {
		// The list has values as text, which must mean the same when they are read again, under the client's settings.
		list = append(list, "SET LOCAL extra_float_digits = 1", "SET LOCAL datestyle = 'ISO'", "SET LOCAL intervalstyle = 'postgres'")
	}
	return list
}

func (f *frontend) lists(ctx context.Context, b *bound) ([]*codeList, error) {
	var lists []*codeList
	for _, stage := range b.x.staged.plan.Stages {
		enc, err := f.encoder(ctx, stage.Policy)
		if err != nil {
			return nil, err
		}
		if !stage.HasPlaces() && slices.Contains(notASCII, f.s.param("client_encoding")) {
			return nil, &Error{
				Code: codeFeatureNotSupported, Message: fmt.Sprintf("masked columns of %q cannot be computed with in this client encoding", stage.Policy.Protection.Relation.Name),
				Hint: "SET client_encoding = 'UTF8'.",
			}
		}
		l := newCodeList(stage, enc, f.s.srv.stagedRows)
		if err := f.sameReading(stage.SQL); err != nil {
			return nil, err
		}
		if err := f.flush(); err != nil {
			return nil, err
		}
		began := time.Now()
		q := b.question(stage)
		q.sql += fmt.Sprintf(" LIMIT %d", l.most+1)
		if err := f.s.inquire(ctx, false, q, func(cells []cell) error { return l.take(ctx, f.s, cells) }); err != nil {
			return nil, f.listError(ctx, err)
		}
		if err := l.encode(); err != nil {
			return nil, f.listError(ctx, err)
		}
		l.order()
		f.s.srv.metrics.RowsEncoded.Add(int64(l.rows))
		f.s.srv.metrics.Batches.Add(int64(l.batches))
		l.took = time.Since(began)
		lists = append(lists, l)
	}
	return lists, nil
}

// listError says to the client what may be said.
func (f *frontend) listError(ctx context.Context, err error) error {
	var ours *Error
	var server *serverError
	switch {
	case errors.As(err, &ours), errors.Is(err, errSkipped), errors.Is(err, errUpstreamGone), ctx.Err() != nil:
		return err
	case errors.As(err, &server):
		return server.elsewhere()
	case errors.Is(err, errSeal):
		f.s.log.ErrorContext(ctx, "sealed value refused", "role", f.s.role)
		return &Error{Code: codeDataCorrupted, Message: errSeal.Error()}
	}
	f.s.log.ErrorContext(ctx, "encoding failed", "error", err)
	return &Error{Code: codeInternal, Message: "a masked column could not be encoded"}
}

// notASCII are the encodings in which a byte of a longer character can look like a quote or a backslash; the values of a list are
// quoted as they come. https://www.postgresql.org/docs/current/multibyte.html: those that a server cannot have
var notASCII = []string{"BIG5", "GB18030", "GBK", "JOHAB", "SHIFT_JIS_2004", "SJIS", "UHC"}

// question is a stage's, with the parameters that the client bound.
func (b *bound) question(stage rewrite.Stage) question {
	q := question{sql: stage.SQL}
	for _, part := range stage.Parts {
		format := int16(formatBinary)
		if part.Type == "text" {
			format = formatText
		}
		q.results = append(q.results, format) // the place of the codes is that of the seal, which comes in binary too
	}
	for _, n := range stage.Params {
		q.values = append(q.values, b.bind.Parameters[n-1])
		q.formats = append(q.formats, b.format(n-1))
		q.types = append(q.types, b.typeOf(n-1))
	}
	return q
}
