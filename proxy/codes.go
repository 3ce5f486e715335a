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
	"time"

	"github.com/scrimdb/scrim/catalog"
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
	// arrays are the elements of its parts, as array_recv takes them: each with its length before it.
	arrays [rewrite.Parts][]byte
	// last is the place of the last row, and unordered that one came out of order.
	last      uint64
	unordered bool
}

// elements are the types of the parts' elements and their sizes in bytes.
var elements = [rewrite.Parts]struct{ oid, size uint32 }{
	rewrite.PartIDs: {oidTid, 6}, rewrite.PartVersions: {oidXid, 4}, rewrite.PartCodes: {oidFloat4, 4},
}

// place is a ctid as a number that orders as it does.
func place(ctid []byte) uint64 {
	return uint64(binary.BigEndian.Uint32(ctid))<<16 | uint64(binary.BigEndian.Uint16(ctid[4:]))
}

func (l *codeList) add(cells []cell) error {
	if len(cells) != 3 || len(cells[0]) != 6 || len(cells[1]) != 4 {
		return errSeal
	}
	if l.rows == l.most {
		return &Error{
			Code: codeProgramLimit, Message: fmt.Sprintf("the statement computes with masked columns of more than %d rows", l.most),
			Hint: "Add conditions on columns that are not masked, store the codes in a table, or raise --max-staged-rows.",
		}
	}
	if err := l.batch.add(cells[2]); err != nil {
		return err
	}
	at := place(cells[0])
	l.unordered = l.unordered || l.rows > 0 && at < l.last
	l.last = at
	for part, c := range cells[:2] {
		l.arrays[part] = append(binary.BigEndian.AppendUint32(l.arrays[part], uint32(len(c))), c...)
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
	codes := l.arrays[rewrite.PartCodes]
	for _, at := range l.batch.index {
		for _, k := range l.components {
			codes = binary.BigEndian.AppendUint32(codes, 4)
			codes = binary.BigEndian.AppendUint32(codes, math.Float32bits(l.batch.codes[int(at)*dims+k]))
		}
	}
	l.arrays[rewrite.PartCodes] = codes
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
	const id = 4 + 6
	ids := l.arrays[rewrite.PartIDs]
	slices.SortFunc(at, func(a, b int) int { return cmp.Compare(place(ids[a*id+4:]), place(ids[b*id+4:])) })
	for part, array := range l.arrays {
		size := len(array) / l.rows
		sorted := make([]byte, 0, len(array))
		for _, i := range at {
			sorted = append(sorted, array[i*size:(i+1)*size]...)
		}
		l.arrays[part] = sorted
	}
}

// length is how many elements a part has.
func (l *codeList) length(part int) int {
	return len(l.arrays[part]) / int(4+elements[part].size)
}

// header is what array_recv expects before the elements: dimensions, whether there are NULLs, the element type, and size
// and lower bound of the dimension. https://www.postgresql.org/docs/current/arrays.html
func (l *codeList) header(part int) []byte {
	h := make([]byte, 0, 20)
	dims := uint32(min(1, l.length(part)))
	h = binary.BigEndian.AppendUint32(h, dims)
	h = binary.BigEndian.AppendUint32(h, 0)
	h = binary.BigEndian.AppendUint32(h, elements[part].oid)
	if dims == 0 {
		return h
	}
	h = binary.BigEndian.AppendUint32(h, uint32(l.length(part)))
	return binary.BigEndian.AppendUint32(h, 1)
}

// literal spells an array, where a statement takes no parameters.
func (l *codeList) literal(part int) string {
	out := make([]byte, 0, 4+len(l.arrays[part])*2)
	out = append(out, `'{`...)
	size := int(4 + elements[part].size)
	for i := range l.length(part) {
		if i > 0 {
			out = append(out, ',')
		}
		e := l.arrays[part][i*size+4:]
		switch part {
		case rewrite.PartIDs:
			out = append(out, `"(`...)
			out = strconv.AppendUint(out, uint64(binary.BigEndian.Uint32(e)), 10)
			out = append(out, ',')
			out = strconv.AppendUint(out, uint64(binary.BigEndian.Uint16(e[4:])), 10)
			out = append(out, `)"`...)
		case rewrite.PartVersions:
			out = strconv.AppendUint(out, uint64(binary.BigEndian.Uint32(e)), 10)
		default:
			out = pgfloat.AppendFloat4(out, math.Float32frombits(binary.BigEndian.Uint32(e)))
		}
	}
	return string(append(out, `}'`...))
}

// listCodes asks for the rows of a statement's stages and encodes them. Parameters are those that the client bound.
func (f *frontend) listCodes(ctx context.Context, b *bound) ([]*codeList, error) {
	if !f.s.planner.noViews {
		return f.lists(ctx, b)
	}
	name := f.s.srv.savepoint
	for _, sql := range []string{"SAVEPOINT " + name, "SET LOCAL restrict_nonsystem_relation_kind = ''"} {
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

func (f *frontend) lists(ctx context.Context, b *bound) ([]*codeList, error) {
	var lists []*codeList
	for _, stage := range b.x.staged.plan.Stages {
		enc, err := f.encoder(ctx, stage.Policy)
		if err != nil {
			return nil, err
		}
		batch, err := newSealBatch(stage.Policy)
		if err != nil {
			return nil, err
		}
		l := &codeList{batch: batch, encoder: enc, most: f.s.srv.stagedRows, components: stage.Components}
		if err := f.sameReading(stage.SQL); err != nil {
			return nil, err
		}
		if err := f.flush(); err != nil {
			return nil, err
		}
		began := time.Now()
		q := b.question(stage)
		q.sql += fmt.Sprintf(" LIMIT %d", l.most+1)
		if err := f.s.inquire(ctx, false, q, l.add); err != nil {
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

// encoder gets the model of a policy.
func (f *frontend) encoder(ctx context.Context, p *catalog.Policy) (*udf.Encoder, error) {
	e := p.Encoder
	spec := udf.EncoderSpec{Name: e.Name, Version: e.Version, SHA256: e.SHA256, Inputs: e.Inputs, Dims: e.Dims}
	if f.s.onLoop && !f.s.srv.library.Loaded(spec) {
		return nil, errWaits
	}
	enc, err := f.s.srv.library.Encoder(spec)
	if err != nil {
		f.s.log.ErrorContext(ctx, "encoder cannot be loaded", "encoder", e.Name, "version", e.Version, "error", err)
		return nil, &Error{
			Code: codeSystemError, Message: fmt.Sprintf("encoder %q version %d cannot be loaded, so its masks cannot be computed", e.Name, e.Version),
			Hint: "The proxy's log says why. Its --models folder must be the one that the encoder was published in.",
		}
	}
	return enc, nil
}

// question is a stage's, with the parameters that the client bound.
func (b *bound) question(stage rewrite.Stage) question {
	q := question{sql: stage.SQL}
	for _, n := range stage.Params {
		q.values = append(q.values, b.bind.Parameters[n-1])
		q.formats = append(q.formats, b.format(n-1))
		q.types = append(q.types, b.typeOf(n-1))
	}
	return q
}
