package proxy

import (
	"encoding/binary"
	"fmt"
	"math"
	"strconv"
	"strings"

	"github.com/jackc/pgx/v5/pgproto3"

	"github.com/scrimdb/scrim/catalog"
	"github.com/scrimdb/scrim/proxy/internal/pgfloat"
	"github.com/scrimdb/scrim/rewrite"
	"github.com/scrimdb/scrim/udf"
)

const (
	oidFloat4      = 700
	oidFloat4Array = 1021
	formatText     = 0
	formatBinary   = 1
)

// results says what to do with the answers to one execution of a planned statement.
type results struct {
	plan *rewrite.Plan
	// formats the client asked for, one for each column.
	formats []int16
	// sealedType is the type OID that sealed columns must have.
	sealedType uint32
	// encoders for each of plan.Seals, of one version for the whole result.
	encoders []*udf.Encoder
	// tag replaces the command tag; rows are passed on. For SHOW.
	tag string
	// notes are lines of text to be added to the rows. For EXPLAIN.
	notes []string
	// portal says that a FETCH stands for an Execute of a cursor's portal, of so many rows at most (0 for all).
	portal  bool
	maxRows int
	// reading is what there is to audit; nil for nothing.
	reading *reading

	batch  *batch
	filled int // rows that were written so far
}

// planned tells whether the description of the rows must be changed.
func (r *results) planned() bool { return r != nil && r.plan != nil }

// fills tells whether rows must be changed.
func (r *results) fills() bool { return r.planned() && len(r.plan.Seals) > 0 }

// again returns what gives the same columns once more, in other formats.
func (r *results) again(formats []int16) (*results, error) {
	if !r.planned() {
		return &results{reading: r.reading}, nil
	}
	again := &results{plan: r.plan, sealedType: r.sealedType, encoders: r.encoders, reading: r.reading}
	return again, again.setFormats(formats)
}

// completion returns what stands for the server's CommandComplete; nil to pass that on.
func (r *results) completion(msg []byte) []byte {
	switch {
	case r == nil || !r.portal && r.tag == "" && len(r.notes) == 0:
		return nil
	case len(r.notes) > 0:
		var out []byte
		for _, note := range r.notes {
			out = append(out, encode(&pgproto3.DataRow{Values: [][]byte{[]byte(note)}})...)
		}
		return append(out, msg...)
	case !r.portal:
		return encode(&pgproto3.CommandComplete{CommandTag: []byte(r.tag)})
	}
	count := strings.TrimPrefix(cString(msg[headerSize:]), "FETCH ")
	if rows, err := strconv.Atoi(count); err == nil && rows == r.maxRows && rows > 0 {
		return encode(&pgproto3.PortalSuspended{})
	}
	return encode(&pgproto3.CommandComplete{CommandTag: []byte("SELECT " + count)})
}

// setFormats takes formats as they are in a Bind message: none for text, one for all, or one for each column.
func (r *results) setFormats(formats []int16) error {
	n := len(r.plan.Outputs)
	switch len(formats) {
	case 0:
		r.formats = make([]int16, n)
	case 1:
		r.formats = make([]int16, n)
		for i := range r.formats {
			r.formats[i] = formats[0]
		}
	case n:
		r.formats = formats
	default:
		r.formats = nil // the server will refuse the Bind
	}
	for _, code := range r.formats {
		if code != formatText && code != formatBinary {
			return &Error{Code: codeInvalidParameter, Message: fmt.Sprintf("unsupported format code: %d", code)}
		}
	}
	return nil
}

// upstreamFormats asks for sealed columns in binary and for the others as the client did.
func (r *results) upstreamFormats() []int16 {
	formats := make([]int16, len(r.formats))
	for i, o := range r.plan.Outputs {
		formats[i] = r.formats[i]
		if o.Seal >= 0 {
			formats[i] = formatBinary
		}
	}
	return formats
}

// rowDescription checks the server's description against the plan and tells the client of the columns it asked for.
func (r *results) rowDescription(msg []byte, describesStatement bool) ([]byte, *Error) {
	var desc pgproto3.RowDescription
	if err := desc.Decode(msg[5:]); err != nil {
		return nil, shapeError()
	}
	if len(r.plan.Outputs) > 0 && len(desc.Fields) != len(r.plan.Outputs) {
		return nil, shapeError()
	}
	for i := range desc.Fields {
		f := &desc.Fields[i]
		if p := r.plan.Views[f.TableOID]; p != nil {
			f.TableOID, f.TableAttributeNumber = p.Relation.OID, uint16(p.View.Base(int16(f.TableAttributeNumber)))
		}
		if i >= len(r.plan.Outputs) {
			continue
		}
		o := r.plan.Outputs[i]
		if (o.Seal >= 0) != (f.DataTypeOID == r.sealedType) && (o.Seal >= 0 || r.sealedType != oidBytea) {
			return nil, shapeError()
		}
		if o.Seal < 0 {
			continue
		}
		f.TableOID, f.TableAttributeNumber = r.plan.Seals[o.Seal].Policy.Protection.Relation.OID, uint16(o.Num)
		f.DataTypeOID, f.DataTypeSize, f.TypeModifier = oidFloat8, 8, -1
		if o.Component < 0 {
			f.DataTypeOID, f.DataTypeSize = oidFloat4Array, -1
		}
		f.Format = formatText
		if !describesStatement && i < len(r.formats) {
			f.Format = r.formats[i]
		}
	}
	for i, c := range r.plan.Columns {
		if c.Relation != 0 && len(r.plan.Columns) == len(desc.Fields) {
			desc.Fields[i].TableOID, desc.Fields[i].TableAttributeNumber = c.Relation, uint16(c.Num)
		}
	}
	return encode(&desc), nil
}

const oidBytea = 17

// shapeError: the server's result is not what was proved about the statement. Nothing of it may be shown.
func shapeError() *Error {
	return &Error{
		Code: codeFeatureNotSupported, Fatal: true,
		Message: "the result of a masked query does not have the planned columns",
		Hint:    "A table may have changed since the statement was prepared; connect and try again.",
	}
}

// batch gathers rows with sealed columns until they are encoded together. Its memory is kept for the next batch.
type batch struct {
	seals []sealBatch
	rows  [][]byte // DataRow bodies, in the read buffer
	cells []cell
}

// sealBatch is one sealed column over the rows of a batch.
type sealBatch struct {
	opener *opener
	distinct
	codes []float32
	index []int32 // for each row, which of the distinct ones; -1 for NULL
}

// add opens one seal.
func (s *sealBatch) add(sealed []byte) error {
	var err error
	if s.inputs, err = s.opener.open(s.inputs, sealed); err != nil {
		return err
	}
	s.index = append(s.index, s.last())
	return nil
}

// encode computes the codes of the distinct inputs. It returns how many there are.
func (s *sealBatch) encode(enc *udf.Encoder) (int, error) {
	n := s.rows()
	if need := n * enc.Dims(); cap(s.codes) < need {
		s.codes = make([]float32, need)
	}
	s.codes = s.codes[:n*enc.Dims()]
	if n == 0 {
		return 0, nil
	}
	return n, enc.Encode(s.codes, s.inputs)
}

// reset makes room for the next batch.
func (s *sealBatch) reset() {
	s.distinct.reset()
	s.index = s.index[:0]
}

// cell is a column value of a row: its bytes, or nil for NULL.
type cell []byte

func newBatch(r *results) *batch {
	b := &batch{seals: make([]sealBatch, len(r.plan.Seals))}
	for i, s := range r.plan.Seals {
		b.seals[i] = newSealBatch(s.Policy)
	}
	return b
}

func newSealBatch(p *catalog.Policy) sealBatch {
	o := newOpener(p)
	return sealBatch{opener: o, distinct: distinct{width: o.inputs}}
}

// learn takes keys of a snapshot, and tells whether there is a new one among them.
func (b *batch) learn(s *catalog.Snapshot) bool {
	learned := false
	for i := range b.seals {
		learned = b.seals[i].opener.learn(s) || learned
	}
	return learned
}

// add takes a DataRow body. It must stay valid until encode. One with a seal that does not open is not in the batch.
func (r *results) add(body []byte) error {
	b := r.batch
	if b == nil {
		b = newBatch(r)
		r.batch = b
	}
	cells, ok := split(b.cells[:0], body)
	b.cells = cells
	if !ok || len(cells) != len(r.plan.Outputs) {
		return shapeError()
	}
	for i := range b.seals {
		s := &b.seals[i]
		sealed := cells[r.plan.Seals[i].Column]
		if sealed == nil { // the row of an outer join that has no partner
			s.index = append(s.index, -1)
			continue
		}
		if err := s.add(sealed); err != nil {
			for j := range b.seals[:i] {
				b.seals[j].index = b.seals[j].index[:len(b.rows)]
			}
			return err
		}
	}
	b.rows = append(b.rows, body)
	return nil
}

// split finds the columns of a DataRow body.
func split(dst []cell, body []byte) ([]cell, bool) {
	if len(body) < 2 {
		return dst, false
	}
	n := int(binary.BigEndian.Uint16(body))
	body = body[2:]
	for range n {
		if len(body) < 4 {
			return dst, false
		}
		size := int32(binary.BigEndian.Uint32(body))
		body = body[4:]
		if size < 0 {
			dst = append(dst, nil)
			continue
		}
		if int64(size) > int64(len(body)) {
			return dst, false
		}
		dst = append(dst, body[:size:size])
		body = body[size:]
	}
	return dst, len(body) == 0
}

// encode runs the models on the rows gathered, appends the finished DataRow messages to out, and empties the batch. It
// returns how many rows were encoded.
func (r *results) encode(out []byte) (_ []byte, encoded int, err error) {
	b := r.batch
	if b == nil || len(b.rows) == 0 {
		return out, 0, nil
	}
	for i := range b.seals {
		n, err := b.seals[i].encode(r.encoders[i])
		if err != nil {
			return out, encoded, err
		}
		encoded += n
	}
	for row, body := range b.rows {
		out = r.appendRow(out, row, body)
	}
	r.filled += len(b.rows)
	b.rows = b.rows[:0]
	for i := range b.seals {
		b.seals[i].reset()
	}
	return out, encoded, nil
}

// appendRow writes one DataRow with its codes in place of its seals.
func (r *results) appendRow(out []byte, row int, body []byte) []byte {
	b := r.batch
	b.cells, _ = split(b.cells[:0], body) // it was split before
	start := len(out)
	out = append(out, 'D', 0, 0, 0, 0)
	out = append(out, body[:2]...)
	for i, c := range b.cells {
		o := r.plan.Outputs[i]
		if o.Seal < 0 {
			out = appendCell(out, c)
			continue
		}
		s := &b.seals[o.Seal]
		at := int(s.index[row])
		if at < 0 {
			out = appendCell(out, nil)
			continue
		}
		dims := r.encoders[o.Seal].Dims()
		code := s.codes[at*dims : (at+1)*dims]
		size := len(out)
		out = appendCode(append(out, 0, 0, 0, 0), code, o.Component, r.formats[i])
		binary.BigEndian.PutUint32(out[size:], uint32(len(out)-size-4))
	}
	binary.BigEndian.PutUint32(out[start+1:], uint32(len(out)-start-1))
	return out
}

func appendCell(out []byte, c cell) []byte {
	if c == nil {
		return append(out, 0xff, 0xff, 0xff, 0xff)
	}
	return append(binary.BigEndian.AppendUint32(out, uint32(len(c))), c...)
}

// appendCode writes a component as double precision, or with component -1 the whole code as real[].
func appendCode(out []byte, code []float32, component int, format int16) []byte {
	switch {
	case component < 0 && format == formatBinary:
		return pgfloat.AppendFloat4ArrayBinary(out, code)
	case component < 0:
		return pgfloat.AppendFloat4Array(out, code)
	case format == formatBinary:
		return binary.BigEndian.AppendUint64(out, math.Float64bits(float64(code[component])))
	}
	return pgfloat.AppendFloat8(out, float64(code[component]))
}
