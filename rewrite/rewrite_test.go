package rewrite_test

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/cockroachdb/datadriven"

	"github.com/scrimdb/scrim/catalog"
	"github.com/scrimdb/scrim/policy"
	"github.com/scrimdb/scrim/rewrite"
)

// The goldens' world: customers and accounts are protected, orders and regions are not.
//
//	customers(id, region, age*, income*, score*, "Note")   age, income and score are masked by components
//	accounts(id, owner, balance*)                          balance is masked by the whole code
//	tenants(id, region, income*)                           has row security
//	events(id, amount*)                                    is partitioned
//	people(id, name, income*)                              is a view; id is numeric(9), name of collation "C"
//	scrim_runtime.traits(id, region, features*)            is a feature view
//	orders(id, customer_id, amount, region)
//	regions(region, name)
//
// and views, below.
var (
	customers = &catalog.Policy{
		ID: 7, Name: "risk", Masked: []int16{3, 4, 5}, Components: []int{0, 1, 2}, Inputs: 3, Present: catalog.Components,
		Encoder: catalog.Encoder{Name: "enc", Version: 2, Inputs: 3, Dims: 3},
		Relation: catalog.Relation{OID: 100, Schema: "public", Name: "customers", Columns: []catalog.Column{
			{Num: 1, Name: "id"},
			{Num: 2, Name: "region"},
			{Num: 3, Name: "age"},
			{Num: 4, Name: "income"},
			{Num: 5, Name: "score"},
			{Num: 6, Name: "Note"},
			{Num: 7, Name: "added_later"},
		}},
		View: catalog.View{OID: 900, Name: "customers_100", Identity: catalog.Place, Sealed: "sealed_7", Open: []catalog.ViewColumn{
			{Num: 1, Name: "id", Base: 1}, {Num: 2, Name: "region", Base: 2}, {Num: 3, Name: "remark", Base: 6},
		}},
	}
	accounts = &catalog.Policy{
		ID: 8, Name: "balances", Masked: []int16{3}, Components: []int{0}, Inputs: 1, Present: catalog.Vector,
		Encoder: catalog.Encoder{Name: "bal", Version: 1, Inputs: 1, Dims: 2},
		Relation: catalog.Relation{OID: 101, Schema: "bank", Name: "accounts", Columns: []catalog.Column{
			{Num: 1, Name: "id"},
			{Num: 2, Name: "owner"},
			{Num: 3, Name: "balance"},
		}},
		View: catalog.View{OID: 901, Name: "accounts_101", Identity: catalog.Place, Sealed: "sealed_8", Open: []catalog.ViewColumn{
			{Num: 1, Name: "id", Base: 1}, {Num: 2, Name: "owner", Base: 2},
		}},
	}
	tenants = &catalog.Policy{
		ID: 9, Name: "rows", Masked: []int16{3}, Components: []int{0}, Inputs: 1, Present: catalog.Components,
		Encoder: catalog.Encoder{Name: "enc", Version: 2, Inputs: 3, Dims: 1},
		Relation: catalog.Relation{OID: 102, Schema: "public", Name: "tenants", Columns: []catalog.Column{
			{Num: 1, Name: "id"},
			{Num: 2, Name: "region"},
			{Num: 3, Name: "income"},
		}},
		View: catalog.View{OID: 902, Name: "tenants_102", Identity: catalog.Place, Sealed: "sealed_9", SealsOnly: true, Open: []catalog.ViewColumn{
			{Name: "id", Base: 1}, {Name: "region", Base: 2},
		}},
	}
	events = &catalog.Policy{
		ID: 10, Name: "parts", Masked: []int16{3}, Components: []int{1}, Inputs: 1, Present: catalog.Components,
		Encoder:  catalog.Encoder{Name: "enc", Version: 2, Inputs: 3, Dims: 2},
		Relation: catalog.Relation{OID: 103, Schema: "public", Name: "events", Columns: []catalog.Column{{Num: 1, Name: "id"}, {Num: 3, Name: "amount"}}},
		View: catalog.View{
			OID: 903, Name: "events_103", Identity: catalog.TableAndPlace, Sealed: "sealed_10",
			Open: []catalog.ViewColumn{{Num: 1, Name: "id", Base: 1}},
		},
	}
	people = &catalog.Policy{
		ID: 11, Name: "seen", Masked: []int16{3}, Components: []int{1}, Inputs: 3, Present: catalog.Components,
		Encoder: catalog.Encoder{Name: "enc", Version: 2, Inputs: 3, Dims: 3},
		Relation: catalog.Relation{OID: 104, Schema: "public", Name: "people", Columns: []catalog.Column{
			{Num: 1, Name: "id", Type: "numeric(9,0)"},
			{Num: 2, Name: "name", Type: "text", Collation: `pg_catalog."C"`},
			{Num: 3, Name: "income", Type: "integer"},
		}},
		View: catalog.View{
			OID: 904, Name: "people_104", Identity: catalog.Unknown, Sealed: "sealed_11",
			Open: []catalog.ViewColumn{{Num: 1, Name: "id", Base: 1}, {Num: 2, Name: "name", Base: 2}},
		},
	}
	traits = &catalog.Policy{
		ID: 12, Name: "traits", Masked: []int16{3}, Components: []int{0}, Inputs: 3, Present: catalog.Vector, FeatureView: true,
		Encoder: catalog.Encoder{Name: "enc", Version: 2, Inputs: 3, Dims: 2},
		Relation: catalog.Relation{OID: 105, Schema: "scrim_runtime", Name: "traits", Columns: []catalog.Column{
			{Num: 1, Name: "id", Type: "integer"},
			{Num: 2, Name: "region", Type: "text"},
			{Num: 3, Name: "features", Type: "real[]"},
		}},
		View: catalog.View{
			OID: 905, Name: "traits_105", Identity: catalog.Unknown, Sealed: "sealed_12",
			Open: []catalog.ViewColumn{{Num: 1, Name: "id", Base: 1}, {Num: 2, Name: "region", Base: 2}},
		},
	}
	// Views with the invoker's rights. spending reads masked columns, summary by way of it; renamed has no names of its own, odd
	// has a WITH and relations without a schema; regional reads no masked column; greedy and rows cannot be expanded; counted reads a
	// feature view.
	spending = rewrite.NewView(` SELECT customers.id,
    customers.income,
    customers.region
   FROM public.customers
  WHERE (customers.region IS NOT NULL);`, 11)
	summary  = rewrite.NewView(` SELECT s.region, max(s.income) AS top FROM public.spending s GROUP BY s.region;`, 12)
	renamed  = rewrite.NewView(` VALUES (1,2), ((SELECT accounts.id FROM bank.accounts WHERE accounts.balance IS NOT NULL LIMIT 1),3);`, 13)
	regional = rewrite.NewView(` SELECT customers.id, customers.region FROM public.customers;`, 14)
	odd      = rewrite.NewView(` WITH w AS (SELECT customers.id, customers.score FROM public.customers) SELECT w.id AS "select", w.score AS "ü""x" FROM w, pg_class, mine;`, 15)
	greedy   = rewrite.NewView(` SELECT v.ctid FROM scrim_runtime.customers_100 v, public.customers c WHERE c.income > 0;`, 16)
	rows     = rewrite.NewView(` SELECT c.id, c.*::public.customers AS c FROM public.customers c;`, 17)
	counted  = rewrite.NewView(` SELECT t.region, count(*) AS n FROM scrim_runtime.traits t GROUP BY t.region;`, 18)
	snapshot = &catalog.Snapshot{Policies: map[uint32]*catalog.Policy{100: customers, 101: accounts, 102: tenants, 103: events, 104: people, 105: traits}}
	key      = []string{"id"}
	world    = map[rewrite.Name]rewrite.Relation{
		{Relation: "customers"}:                                  {OID: 100, Columns: names(customers), Key: key},
		{Schema: "public", Relation: "customers"}:                {OID: 100, Columns: names(customers), Key: key},
		{Catalog: "db", Schema: "public", Relation: "customers"}: {OID: 100, Columns: names(customers), Key: key},
		{Schema: "bank", Relation: "accounts"}:                   {OID: 101, Columns: names(accounts)},
		{Relation: "accounts"}:                                   {OID: 101, Columns: names(accounts)},
		{Relation: "tenants"}:                                    {OID: 102, Columns: names(tenants)},
		{Relation: "events"}:                                     {OID: 103, Columns: names(events)},
		{Relation: "people"}:                                     {OID: 104, Columns: names(people)},
		{Schema: "scrim_runtime", Relation: "traits"}:            {OID: 105, Columns: names(traits)},
		{Relation: "traits"}:                                     {OID: 105, Columns: names(traits)},
		{Relation: "counted"}:                                    {OID: 307, Columns: []string{"region", "n"}, View: counted},
		{Relation: "spending"}:                                   {OID: 300, Columns: []string{"id", "income", "region"}, View: spending},
		{Schema: "public", Relation: "spending"}:                 {OID: 300, Columns: []string{"id", "income", "region"}, View: spending},
		{Relation: "summary"}:                                    {OID: 301, Columns: []string{"region", "top"}, View: summary},
		{Relation: "renamed"}:                                    {OID: 302, Columns: []string{"a", "b"}, View: renamed},
		{Relation: "regional"}:                                   {OID: 303, Columns: []string{"id", "region"}, View: regional},
		{Relation: "Odd"}:                                        {OID: 304, Columns: []string{"select", `ü"x`}, View: odd},
		{Relation: "greedy"}:                                     {OID: 305, Columns: []string{"ctid"}, View: greedy},
		{Relation: "rows"}:                                       {OID: 306, Columns: []string{"id", "c"}, View: rows},
		{Schema: "pg_catalog", Relation: "pg_class"}:             {OID: 1259, Columns: []string{"oid", "relname"}},
		{Schema: "pg_temp", Relation: "mine"}:                    {OID: 400, Columns: []string{"x"}},
		{Relation: "orders"}:                                     {OID: 200, Columns: []string{"id", "customer_id", "amount", "region"}},
		{Relation: "regions"}:                                    {OID: 201, Columns: []string{"region", "name"}},
		{Relation: "customers_100"}:                              {OID: 900, Columns: []string{"ctid", "xmin", "id"}},
	}
)

func names(p *catalog.Policy) []string {
	var list []string
	for _, c := range p.Relation.Columns {
		list = append(list, c.Name)
	}
	return list
}

func protectedName(n rewrite.Name) bool {
	if n.Schema == "scrim_runtime" {
		return n.Relation == "traits"
	}
	return rewrite.NamesColumns(n) || slices.Contains([]string{
		"customers", "accounts", "tenants", "events", "people", "customers_100", "spending", "summary", "renamed", "regional", "Odd", "greedy", "rows", "traits", "counted",
	}, n.Relation)
}

// TestGoldens plans each statement of testdata/goldens as a role that may read nothing raw. Run with -rewrite to write what
// comes out.
func TestGoldens(t *testing.T) {
	datadriven.Walk(t, "testdata/goldens", func(t *testing.T, path string) {
		datadriven.RunTest(t, path, func(t *testing.T, d *datadriven.TestData) string {
			readable := map[catalog.ColumnKey]bool{}
			for _, arg := range d.CmdArgs {
				if arg.Key == "readable" { // columns that the role may read raw
					for _, name := range arg.Vals {
						for _, c := range customers.Relation.Columns {
							if c.Name == name {
								readable[catalog.ColumnKey{Relation: 100, Num: c.Num}] = true
							}
						}
					}
				}
			}
			switch d.Cmd {
			case "plan":
				return plan(t, d.Input, policy.For(snapshot, readable))
			case "command":
				return command(d.Input)
			case "masking":
				return masking(t, d.Input, policy.For(snapshot, readable), map[uint32]bool{100: d.HasArg("exempt")})
			}
			t.Fatalf("unknown directive %s", d.Cmd)
			return ""
		})
	})
}

func plan(t *testing.T, text string, masks policy.Masks) string {
	in, err := rewrite.Inspect(text, protectedName)
	if err != nil {
		return refusal(err, text)
	}
	if len(in.Names) == 0 {
		return "relayed unseen\n"
	}
	plans, err := in.Plan(resolve(in.Names), masks)
	if err != nil {
		return refusal(err, text)
	}
	if plans == nil {
		return "relayed\n"
	}
	var b strings.Builder
	for i, p := range plans {
		if len(plans) > 1 {
			fmt.Fprintf(&b, "statement %d, at byte %d: ", i+1, in.Statements[i].Offset)
		}
		if p == nil {
			b.WriteString("relayed\n")
			continue
		}
		if !p.Masks() && len(p.Outputs) > 0 {
			t.Error("a plan without a masked view")
		}
		b.WriteString(p.Format())
	}
	return b.String()
}

// resolve looks names up in the world, with those that stand in views.
func resolve(names []rewrite.Name) map[rewrite.Name]rewrite.Relation {
	resolved, asked := map[rewrite.Name]rewrite.Relation{}, map[rewrite.Name]bool{}
	for ; len(names) > 0; names = rewrite.Beneath(resolved, asked) {
		for _, name := range names {
			asked[name] = true
			if rel, ok := world[name]; ok {
				resolved[name] = rel
			}
		}
	}
	return resolved
}

func command(text string) string {
	in, err := rewrite.Inspect(text, protectedName)
	if err != nil {
		return refusal(err, text)
	}
	if in.Command == nil {
		return "not ours\n"
	}
	return fmt.Sprintf("%s\n%+v\n", in.Command.Tag(), in.Command)
}

// masking answers EXPLAIN MASKING: with its lines, or in JSON with the query that the answer is.
func masking(t *testing.T, text string, masks policy.Masks, exempt map[uint32]bool) string {
	in, err := rewrite.Inspect(text, protectedName)
	if err != nil {
		return refusal(err, text)
	}
	c, ok := in.Command.(rewrite.ExplainMasking)
	if !ok {
		return "not EXPLAIN MASKING\n"
	}
	var plan *rewrite.Plan
	var resolved map[rewrite.Name]rewrite.Relation
	if in, err = rewrite.Inspect(c.Query, protectedName); err == nil && len(in.Names) > 0 {
		resolved = resolve(in.Names)
		var plans []*rewrite.Plan
		if plans, err = in.Plan(resolved, masks); len(plans) > 0 {
			plan = plans[0]
		}
	}
	var refused *rewrite.Refusal
	if err != nil && !errors.As(err, &refused) {
		t.Fatal(err)
	}
	e := c.Explain(text, rewrite.Viewer{Role: "analyst", Snapshot: snapshot, Masks: masks, Exempt: exempt}, resolved, plan, refused)
	if !c.JSON {
		return strings.Join(e.Text(), "\n") + "\n"
	}
	answer, err := c.Answer(e)
	if err != nil {
		t.Fatal(err)
	}
	return answer.SQL + "\n"
}

func refusal(err error, text string) string {
	var r *rewrite.Refusal
	if !errors.As(err, &r) {
		return fmt.Sprintf("not a refusal: %v\n", err)
	}
	var b strings.Builder
	fmt.Fprintf(&b, "%s: %s\n", r.Code, r.Message)
	if r.Offset >= 0 {
		fmt.Fprintf(&b, "at: %.20q\n", text[r.Offset:])
	}
	if r.Hint != "" {
		fmt.Fprintf(&b, "hint: %s\n", r.Hint)
	}
	return b.String()
}
