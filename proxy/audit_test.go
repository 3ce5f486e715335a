package proxy

import (
	"testing"

	"github.com/scrimdb/scrim/catalog"
)

// TestAuditQueue: entries are written in their order, once each; what there is no room for is counted, and told when there is room again.
func TestAuditQueue(t *testing.T) {
	q := newAuditQueue()
	if got := q.next(); len(got) != 0 {
		t.Fatal(got)
	}
	for i := range auditRoom + 7 {
		if took := q.add(catalog.AuditEntry{RelationOID: uint32(i)}); took != (i < auditRoom) {
			t.Fatalf("entry %d: %v", i, took)
		}
	}
	if q.left() != auditRoom+7 || len(q.enough) != 1 {
		t.Fatal(q.left(), len(q.enough))
	}
	first := q.next()
	if again := q.next(); len(again) != auditBatch || again[0].RelationOID != 0 {
		t.Fatal("what was not written is not there again")
	}
	q.done(first, false) // the server will never take these
	for want := uint32(auditBatch); want < auditRoom; {
		for _, e := range q.next() {
			if e.Kind == catalog.AuditLost {
				t.Fatal("the gap is told before what there was room for")
			}
			if e.RelationOID != want {
				t.Fatalf("entry %d, want %d", e.RelationOID, want)
			}
			want++
		}
		batch := q.next()
		q.add(catalog.AuditEntry{RelationOID: auditRoom}) // meanwhile
		q.done(batch, true)
	}
	var rows int64
	for batch := q.next(); len(batch) > 0; batch = q.next() {
		if last := batch[len(batch)-1]; last.Kind == catalog.AuditLost {
			rows += *last.Rows
			q.lost += 2 // meanwhile
			q.done(batch, true)
			if q.left() != 2 {
				t.Fatal(q.left())
			}
			q.lost = 0
			continue
		}
		q.done(batch, true)
	}
	if want := int64(auditBatch + 7); rows != want || q.left() != 0 {
		t.Errorf("%d entries are told to be lost, want %d; %d left", rows, want, q.left())
	}
}

// TestSplitTag: the number of rows, as it is in command tags.
func TestSplitTag(t *testing.T) {
	for tag, want := range map[string]struct {
		name string
		rows int64
	}{
		"SELECT 5": {"SELECT", 5}, "INSERT 0 12": {"INSERT", 12}, "UPDATE 0": {"UPDATE", 0}, "EXPLAIN": {"EXPLAIN", -1}, "CREATE TABLE AS": {"CREATE TABLE AS", -1},
		"DECLARE CURSOR": {"DECLARE CURSOR", -1}, "": {"", -1}, "COPY 3": {"COPY", 3},
	} {
		if name, rows := splitTag(tag); name != want.name || rows != want.rows {
			t.Errorf("%s: %s, %d", tag, name, rows)
		}
	}
}
