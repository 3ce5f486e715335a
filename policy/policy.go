package policy

import (
	"iter"
	"maps"

	"github.com/scrimdb/scrim/catalog"
)

// Masks says which relations a role sees through masks. The zero value masks nothing.
type Masks struct {
	relations map[uint32]Mask
	views     map[uint32]bool
}

// Mask is one relation as a masked role sees it.
type Mask struct {
	Policy *catalog.Policy
	// Partial means that the role may read some of the masked columns raw, but not all.
	Partial bool
	// Hidden holds attribute numbers that the role cannot read raw. Never empty.
	Hidden map[int16]bool
}

// For returns the masks of a role that can read exactly the given masked columns raw.
func For(snapshot *catalog.Snapshot, readable map[catalog.ColumnKey]bool) Masks {
	m := Masks{relations: map[uint32]Mask{}, views: map[uint32]bool{}}
	for oid, p := range snapshot.Policies {
		m.views[p.View.OID] = true
		hidden := map[int16]bool{}
		for _, num := range p.Masked {
			if !readable[catalog.ColumnKey{Relation: oid, Num: num}] {
				hidden[num] = true
			}
		}
		if len(hidden) > 0 {
			m.relations[oid] = Mask{Policy: p, Partial: len(hidden) < len(p.Masked), Hidden: hidden}
		}
	}
	return m
}

// Any tells whether the role is masked anywhere. A session without masks is relayed untouched.
func (m Masks) Any() bool { return len(m.relations) > 0 }

// Of returns the mask on a relation.
func (m Masks) Of(relation uint32) (Mask, bool) {
	mask, ok := m.relations[relation]
	return mask, ok
}

// All are the masks by the OIDs of their relations, in no order.
func (m Masks) All() iter.Seq2[uint32, Mask] { return maps.All(m.relations) }

// IsView tells whether an OID is a masked view: no client may name one.
func (m Masks) IsView(oid uint32) bool {
	return m.views[oid]
}
