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
	Protection *catalog.Protection
	// Hidden holds attribute numbers of the masked columns that the role cannot read raw. Never empty.
	Hidden map[int16]bool
	// Mixed means that it can read others of the masked columns raw: as a policy excepts it, or by a GRANT.
	Mixed bool
}

// For returns the masks of a role that can read exactly the given masked columns raw.
func For(snapshot *catalog.Snapshot, readable map[catalog.ColumnKey]bool) Masks {
	m := Masks{relations: map[uint32]Mask{}, views: map[uint32]bool{}}
	for oid, p := range snapshot.Protections {
		m.views[p.View.OID] = true
		mask := Mask{Protection: p, Hidden: map[int16]bool{}}
		for _, policy := range p.Policies {
			for _, num := range policy.Masked {
				if p.Column(num).Num == 0 { // dropped
					continue
				}
				if readable[catalog.ColumnKey{Relation: oid, Num: num}] {
					mask.Mixed = true
				} else {
					mask.Hidden[num] = true
				}
			}
		}
		if len(mask.Hidden) > 0 {
			m.relations[oid] = mask
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
