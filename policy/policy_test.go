package policy_test

import (
	"testing"

	"github.com/scrimdb/scrim/catalog"
	"github.com/scrimdb/scrim/policy"
)

// TestFor: a column is masked exactly when a policy covers it and the role cannot read it raw.
func TestFor(t *testing.T) {
	snapshot := &catalog.Snapshot{Policies: map[uint32]*catalog.Policy{
		10: {Masked: []int16{2, 3}, View: catalog.View{OID: 90}},
		11: {Masked: []int16{1}, View: catalog.View{OID: 91}},
	}}
	raw := func(columns ...catalog.ColumnKey) map[catalog.ColumnKey]bool {
		m := map[catalog.ColumnKey]bool{}
		for _, c := range columns {
			m[c] = true
		}
		return m
	}
	for name, c := range map[string]struct {
		readable             map[catalog.ColumnKey]bool
		masked10, partial10  bool
		masked11, maskedElse bool
	}{
		"reads nothing raw":    {raw(), true, false, true, false},
		"reads one column raw": {raw(catalog.ColumnKey{Relation: 10, Num: 2}), true, true, true, false},
		"reads one table raw":  {raw(catalog.ColumnKey{Relation: 10, Num: 2}, catalog.ColumnKey{Relation: 10, Num: 3}), false, false, true, false},
		"reads everything raw": {raw(catalog.ColumnKey{Relation: 10, Num: 2}, catalog.ColumnKey{Relation: 10, Num: 3}, catalog.ColumnKey{Relation: 11, Num: 1}), false, false, false, false},
	} {
		masks := policy.For(snapshot, c.readable)
		mask, masked := masks.Of(10)
		_, masked11 := masks.Of(11)
		_, other := masks.Of(12)
		if masked != c.masked10 || mask.Partial != c.partial10 || masked11 != c.masked11 || other != c.maskedElse {
			t.Errorf("%s: %+v", name, masks)
		}
		if masks.Any() != (c.masked10 || c.masked11) || !masks.IsView(90) || masks.IsView(10) {
			t.Errorf("%s: Any %v, IsView wrong", name, masks.Any())
		}
	}
}
