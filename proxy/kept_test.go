package proxy

import (
	"bytes"
	"testing"

	"github.com/jackc/pgx/v5/pgproto3"

	"github.com/scrimdb/scrim/rewrite"
)

func plannedResults(plan *rewrite.Plan, formats ...int16) *results {
	return &results{plan: plan, formats: formats, sealedType: 777}
}

func sealedPlan() *rewrite.Plan {
	return &rewrite.Plan{
		Outputs: []rewrite.Output{{Seal: -1}, {Seal: 0, Component: 0}},
		Seals:   []rewrite.Seal{{Column: 1, Policy: testPolicy()}},
	}
}

// addRow adds a row to r with the batch that k keeps.
func addRow(t *testing.T, k *kept, r *results) {
	t.Helper()
	p := testPolicy()
	row := encode(&pgproto3.DataRow{Values: [][]byte{{'1'}, seal(p.Protection.Keys[0][:], 9, []float64{1, 2, 3}, 0)}})
	if r.batch == nil {
		k.takeBatch(r)
	}
	if err := r.add(row[headerSize:]); err != nil {
		t.Fatal(err)
	}
}

// TestKeptBatch: the next execution of a plan gets the batch of the last one, and no other does.
func TestKeptBatch(t *testing.T) {
	var k kept
	plan := sealedPlan()
	first := plannedResults(plan, 0, 0)
	addRow(t, &k, first)
	was := first.batch
	k.keepBatch(first)
	if first.batch != nil || k.batch != nil {
		t.Fatal("a batch is kept whose rows were not encoded")
	}
	first.batch, was.rows = was, was.rows[:0]
	k.keepBatch(first)
	if k.batch != was || was.rows[:1][0] != nil || was.cells[:1][0] != nil {
		t.Fatal("the batch is not kept, or points to the read buffer")
	}
	other := plannedResults(sealedPlan(), 0, 0)
	if k.takeBatch(other); other.batch != nil {
		t.Fatal("another plan got the batch")
	}
	second := plannedResults(plan, 0, 0)
	if k.takeBatch(second); second.batch != was || k.batch != nil {
		t.Fatal("the next execution did not get the batch")
	}
	for range keptRows + 1 {
		addRow(t, &k, second)
	}
	second.batch.rows = second.batch.rows[:0]
	if k.keepBatch(second); k.batch != nil {
		t.Error("a large batch is kept")
	}
}

// TestKeptDescription: what is kept is what rowDescription says, and whatever differs is described anew.
func TestKeptDescription(t *testing.T) {
	server := func(name string) []byte {
		return encode(&pgproto3.RowDescription{Fields: []pgproto3.FieldDescription{{Name: []byte("id"), DataTypeOID: 23}, {Name: []byte(name), DataTypeOID: 777, Format: 1}}})
	}
	var k kept
	plan, other := sealedPlan(), sealedPlan()
	other.Outputs[1].Component = -1
	for _, c := range []struct {
		r           *results
		msg         []byte
		ofStatement bool
	}{
		{plannedResults(plan, 0, 0), server("age"), false},
		{plannedResults(plan, 0, 1), server("age"), false},
		{plannedResults(plan, 0, 1), server("age"), true},
		{plannedResults(plan, 0, 1), server("years"), true},
		{plannedResults(other, 0, 1), server("years"), true},
	} {
		want, _ := c.r.rowDescription(c.msg, c.ofStatement)
		for range 2 {
			got, err := k.rowDescription(c.r, c.msg, c.ofStatement)
			if err != nil || !bytes.Equal(got, want) {
				t.Fatalf("%q, %v; not %q", got, err, want)
			}
		}
	}
	r, msg := plannedResults(other, 0, 1), server("years")
	if n := testing.AllocsPerRun(10, func() { _, _ = k.rowDescription(r, msg, true) }); n > 0 {
		t.Errorf("%v allocations for what is kept", n)
	}
	r.sealedType = 778
	if _, err := k.rowDescription(r, msg, true); err == nil {
		t.Error("a description with another sealed type is taken")
	}
}
