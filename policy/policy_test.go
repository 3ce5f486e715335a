package policy_test

import (
	"testing"

	"github.com/scrimdb/scrim/catalog"
	"github.com/scrimdb/scrim/policy"
)

// TestFor: a column is masked exactly when a policy covers it and the role cannot read it raw.
func TestFor(t *testing.T) {
	snapshot := &catalog.Snapshot{Protections: map[uint32]*catalog.Protection{
		10: {
			View: catalog.View{OID: 90}, Relation: catalog.Relation{Columns: []catalog.Column{{Num: 1}, {Num: 2}, {Num: 3}}},
			Policies: []*catalog.Policy{{Masked: []int16{2, 9}}, {Masked: []int16{3}, Expression: "NULL"}}, // 9 was dropped
		},
		11: {
			View: catalog.View{OID: 91}, Relation: catalog.Relation{Columns: []catalog.Column{{Num: 1}}},
			Policies: []*catalog.Policy{{Masked: []int16{1}}},
		},
	}}
	raw := func(columns ...catalog.ColumnKey) map[catalog.ColumnKey]bool {
		m := map[catalog.ColumnKey]bool{{Relation: 10, Num: 9}: true}
		for _, c := range columns {
			m[c] = true
		}
		return m
	}
	for name, c := range map[string]struct {
		readable             map[catalog.ColumnKey]bool
		masked10, mixed10    bool
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
		if masked != c.masked10 || mask.Mixed != c.mixed10 || masked11 != c.masked11 || other != c.maskedElse {
			t.Errorf("%s: %+v", name, masks)
		}
		for num := int16(1); num < 5; num++ {
			masks := num == 2 || num == 3
			if hidden := masks && !c.readable[catalog.ColumnKey{Relation: 10, Num: num}]; mask.Hidden[num] != hidden {
				t.Errorf("%s: column %d hidden %v", name, num, mask.Hidden[num])
			}
		}
		if masks.Any() != (c.masked10 || c.masked11) || !masks.IsView(90) || masks.IsView(10) {
			t.Errorf("%s: Any %v, IsView wrong", name, masks.Any())
		}
	}
}
