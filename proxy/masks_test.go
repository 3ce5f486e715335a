package proxy

import (
	"fmt"
	"testing"

	"github.com/jackc/pgx/v5/pgproto3"

	"github.com/scrimdb/scrim/catalog"
	"github.com/scrimdb/scrim/policy"
	"github.com/scrimdb/scrim/rewrite"
)

// twoPolicies is a relation with an encoder's policy on column 2 and an SQL mask on column 3; the view has a mask of that as its second
// column.
func twoPolicies() *catalog.Protection {
	p := &catalog.Protection{
		Relation: catalog.Relation{OID: 10, Columns: []catalog.Column{{Num: 1}, {Num: 2}, {Num: 3}}},
		View: catalog.View{
			OID: 90, Identity: catalog.Place, Open: []catalog.ViewColumn{{Num: 1, Base: 1}}, Masks: []catalog.ViewColumn{{Num: 2, Base: 3}},
		},
		Keys: [][catalog.KeySize]byte{{1}},
	}
	p.Policies = []*catalog.Policy{
		{ID: 1, Name: "code", Protection: p, Masked: []int16{2}, Inputs: 1, Present: catalog.Vector, Encoder: catalog.Encoder{Name: "e", Version: 1}},
		{ID: 2, Name: "sql", Protection: p, Masked: []int16{3}, Expression: "NULL"},
	}
	return p
}

// TestDescribesMasks: what an SQL mask shows is described as the table's column, whether the server takes it for the masked view's or,
// looked up by a subquery, for nobody's.
func TestDescribesMasks(t *testing.T) {
	p := twoPolicies()
	field := func(table uint32, num uint16) pgproto3.FieldDescription {
		return pgproto3.FieldDescription{Name: []byte("c"), TableOID: table, TableAttributeNumber: num, DataTypeOID: 25}
	}
	plan := &rewrite.Plan{
		Views:   map[uint32]*catalog.Protection{90: p},
		Columns: []rewrite.ResultColumn{{}, {}, {Relation: 10, Num: 3}, {}, {}},
	}
	r := &results{plan: plan}
	msg := encode(&pgproto3.RowDescription{Fields: []pgproto3.FieldDescription{field(90, 1), field(90, 2), field(0, 0), field(90, 4), field(11, 1)}})
	out, refused := r.rowDescription(msg, false)
	if refused != nil {
		t.Fatal(refused)
	}
	var desc pgproto3.RowDescription
	if err := desc.Decode(out[headerSize:]); err != nil {
		t.Fatal(err)
	}
	for i, want := range []rewrite.ResultColumn{{Relation: 10, Num: 1}, {Relation: 10, Num: 3}, {Relation: 10, Num: 3}, {Relation: 10}, {Relation: 11, Num: 1}} {
		if f := desc.Fields[i]; f.TableOID != want.Relation || f.TableAttributeNumber != uint16(want.Num) || f.DataTypeOID != 25 {
			t.Errorf("column %d is described as %d.%d of type %d", i, f.TableOID, f.TableAttributeNumber, f.DataTypeOID)
		}
	}
}

// TestShowsTheSame: a prepared statement goes on when its policies were replaced by others that show the same types in the same columns.
func TestShowsTheSame(t *testing.T) {
	plan := func(change func(*catalog.Protection), readable ...int16) *rewrite.Plan {
		p := twoPolicies()
		change(p)
		raw := map[catalog.ColumnKey]bool{}
		for _, num := range readable {
			raw[catalog.ColumnKey{Relation: 10, Num: num}] = true
		}
		mask, _ := policy.For(&catalog.Snapshot{Protections: map[uint32]*catalog.Protection{10: p}}, raw).Of(10)
		return &rewrite.Plan{Views: map[uint32]*catalog.Protection{p.View.OID: p}, Mentions: []rewrite.Mention{{Mask: mask}, {Mask: mask}}}
	}
	was := plan(func(*catalog.Protection) {})
	for name, c := range map[string]struct {
		now  *rewrite.Plan
		same bool
	}{
		"another view":         {plan(func(p *catalog.Protection) { p.View.OID = 91 }), true},
		"another expression":   {plan(func(p *catalog.Protection) { p.Policies[1].Expression = "''" }), true},
		"another encoder":      {plan(func(p *catalog.Protection) { p.Policies[0].Encoder.Name = "f" }), true},
		"a component":          {plan(func(p *catalog.Protection) { p.Policies[0].Present = catalog.Components }), false},
		"codes by an SQL mask": {plan(func(p *catalog.Protection) { p.Policies[1].Masked = []int16{2, 3}; p.Policies = p.Policies[1:] }), false},
		"a mask that is gone":  {plan(func(p *catalog.Protection) { p.Policies = p.Policies[:1] }), false},
		"a mask more":          {plan(func(p *catalog.Protection) { p.Policies[1].Masked = []int16{1, 3} }), false},
		"a column that is raw": {plan(func(*catalog.Protection) {}, 3), false},
		"no mention of a view": {&rewrite.Plan{}, false},
		"staged where it wasn't": {func() *rewrite.Plan {
			p := plan(func(*catalog.Protection) {})
			p.Stages = make([]rewrite.Stage, 1)
			return p
		}(), false},
	} {
		if showsTheSame(c.now, was) != c.same || showsTheSame(was, c.now) != c.same {
			t.Errorf("%s: %v", name, !c.same)
		}
	}
}

// TestPoliciesOfOneRelation: only encoders are loaded, and a key is learned for each policy that is still there.
func TestPoliciesOfOneRelation(t *testing.T) {
	p := twoPolicies()
	s := &catalog.Snapshot{Protections: map[uint32]*catalog.Protection{10: p}}
	if specs := Encoders(s); len(specs) != 1 || specs[0].Name != "e" {
		t.Errorf("encoders %v", specs)
	}
	o := newOpener(p.Policies[0])
	p.Keys = append(p.Keys, [catalog.KeySize]byte{2})
	p.Policies[0], p.Policies[1] = p.Policies[1], p.Policies[0]
	if !o.learn(s) || o.learn(s) {
		t.Error("a new key is learned once")
	}
	p.Keys, p.Policies = append(p.Keys, [catalog.KeySize]byte{3}), p.Policies[:1]
	if o.learn(s) {
		t.Error("the key of a policy that is gone was learned")
	}
}

// TestNamesPoliciesOfView: an ALTER that a masked view is in the way of hears of all the policies, also where it is a view that was replaced.
func TestNamesPoliciesOfView(t *testing.T) {
	const hint = `Masking policies "code", "sql" read it. Put SELECT scrim.suspend('%s') and scrim.resume('%[1]s') around ALTER TABLE, or DROP MASKING POLICY.`
	for _, test := range []struct{ relation, detail, want string }{
		{"t", `view scrim_runtime.t_10_4 depends on column a`, "public.t"},
		{"t", `rule _RETURN on view scrim_runtime.t_10_3 depends on column "a"`, "public.t"},
		{"it's", `view scrim_runtime."it's_10_4" depends on column a`, `public."it''s"`},
		{"t", `view scrim_runtime.t_110_4 depends on column a`, ""},
		{"t", `view scrim_runtime.t_10_ depends on column a`, ""},
	} {
		p := twoPolicies()
		p.Relation.Schema, p.Relation.Name = "public", test.relation
		e := &pgproto3.ErrorResponse{Code: codeDependentObjects, Detail: test.detail}
		found := namesMaskedView(&catalog.Snapshot{Protections: map[uint32]*catalog.Protection{10: p}}, e)
		want := fmt.Sprintf(hint, test.want)
		if test.want == "" {
			want = ""
		}
		if found != (want != "") || e.Hint != want {
			t.Errorf("%s: %v %q", test.detail, found, e.Hint)
		}
	}
}

// TestClosed: EXPLAIN MASKING says that a policy is disabled where its columns are read.
func TestClosed(t *testing.T) {
	p := twoPolicies()
	m := rewrite.Mention{Mask: policy.Mask{Protection: p}, Columns: []int16{3}}
	p.Policies[0].Closed = "disabled"
	if said := closed(m); said != "" {
		t.Error(said)
	}
	p.Policies[1].Closed = "disabled"
	if said := closed(m); said != `masking policy "sql" on . is disabled` {
		t.Error(said)
	}
	p.Policies[0].Closed = "suspended"
	if said := closed(m); said != "masked columns of . cannot be read while they are suspended" {
		t.Error(said)
	}
}
