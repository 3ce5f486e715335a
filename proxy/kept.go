package proxy

import (
	"bytes"
	"slices"

	"github.com/scrimdb/scrim/rewrite"
)

// kept is what one execution leaves for the next. Most are of the statement that ran before and give a row or a few; to make
// a cipher and buffers anew, and to describe the rows once more, would cost more than the rows do.
type kept struct {
	plan  *rewrite.Plan // what the batch is for
	batch *batch

	described description
}

// description is how the rows of a plan were described.
type description struct {
	plan        *rewrite.Plan
	sealedType  uint32
	formats     []int16
	ofStatement bool
	server      []byte // the server's message
	client      []byte // what the client is told
}

// keptRows is how many rows a batch may have room for that an idle session keeps.
const keptRows = 32

// takeBatch gives r the batch that is kept, if that is for its plan.
func (k *kept) takeBatch(r *results) {
	if k.batch != nil && k.plan == r.plan {
		r.batch, k.batch = k.batch, nil
	}
}

// keepBatch takes the batch back when an execution has ended. What it points to in the read buffer is forgotten.
func (k *kept) keepBatch(r *results) {
	b := r.batch
	r.batch = nil
	if b == nil || len(b.rows) > 0 || cap(b.rows) > keptRows {
		return
	}
	clear(b.rows[:cap(b.rows)])
	clear(b.cells[:cap(b.cells)])
	k.plan, k.batch = r.plan, b
}

// rowDescription is r.rowDescription, which is only asked when anything it depends on is not as it was. The answer must not
// be changed.
func (k *kept) rowDescription(r *results, msg []byte, ofStatement bool) ([]byte, *Error) {
	d := &k.described
	if d.plan == r.plan && d.sealedType == r.sealedType && d.ofStatement == ofStatement && slices.Equal(d.formats, r.formats) && bytes.Equal(d.server, msg) {
		return d.client, nil
	}
	client, err := r.rowDescription(msg, ofStatement)
	if err == nil && len(msg)+len(client) <= keptBuffer {
		*d = description{r.plan, r.sealedType, slices.Clone(r.formats), ofStatement, bytes.Clone(msg), client}
	}
	return client, err
}
