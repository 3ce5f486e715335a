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
//	tenants(id, region, income*, phone*)                   has row security; phone has an SQL mask
//	events(id, amount*, note*)                             is partitioned; note has an SQL mask
//	people(id, name, income*, mail*, wealth*)              is a view; id is numeric(9), name and mail of collation "C"; mail has an SQL
//	                                                       mask, wealth the code of another encoder
//	scrim_runtime.traits(id, region, features*)            is a feature view
//	users(id, region, email*, born*, age*, income*, wealth*)
//	                                                       email and born have SQL masks, age and income are masked by components, wealth by
//	                                                       the whole code of another encoder
//	loans(id, rate*, grade*, odds*)                        rate and grade are masked by the one output of a model, odds by all of another's
//	orders(id, customer_id, amount, region)
//	regions(region, name)
//
// and views, below.
var (
	customers = protection(catalog.Relation{OID: 100, Schema: "public", Name: "customers", Columns: []catalog.Column{
		{Num: 1, Name: "id"},
		{Num: 2, Name: "region"},
		{Num: 3, Name: "age"},
		{Num: 4, Name: "income"},
		{Num: 5, Name: "score"},
		{Num: 6, Name: "Note"},
		{Num: 7, Name: "added_later"},
	}}, catalog.View{OID: 900, Name: "customers_100", Identity: catalog.Place, Open: []catalog.ViewColumn{
		{Num: 1, Name: "id", Base: 1}, {Num: 2, Name: "region", Base: 2}, {Num: 3, Name: "remark", Base: 6},
	}}, &catalog.Policy{
		ID: 7, Name: "risk", Masked: []int16{3, 4, 5}, Components: []int{0, 1, 2}, Inputs: 3, Present: catalog.Components,
		Encoder: catalog.Encoder{Name: "enc", Version: 2, Inputs: 3, Dims: 3},
	})
	accounts = protection(catalog.Relation{OID: 101, Schema: "bank", Name: "accounts", Columns: []catalog.Column{
		{Num: 1, Name: "id"},
		{Num: 2, Name: "owner"},
		{Num: 3, Name: "balance"},
	}}, catalog.View{OID: 901, Name: "accounts_101", Identity: catalog.Place, Open: []catalog.ViewColumn{
		{Num: 1, Name: "id", Base: 1}, {Num: 2, Name: "owner", Base: 2},
	}}, &catalog.Policy{
		ID: 8, Name: "balances", Masked: []int16{3}, Components: []int{0}, Inputs: 1, Present: catalog.Vector,
		Encoder: catalog.Encoder{Name: "bal", Version: 1, Inputs: 1, Dims: 2},
	})
	tenants = protection(catalog.Relation{OID: 102, Schema: "public", Name: "tenants", Columns: []catalog.Column{
		{Num: 1, Name: "id"},
		{Num: 2, Name: "region"},
		{Num: 3, Name: "income"},
		{Num: 4, Name: "phone", Type: "text"},
	}}, catalog.View{OID: 902, Name: "tenants_102", Identity: catalog.Place, SealsOnly: true, Open: []catalog.ViewColumn{
		{Name: "id", Base: 1}, {Name: "region", Base: 2},
	}, Masks: []catalog.ViewColumn{{Num: 1, Name: "phone", Base: 4}}}, &catalog.Policy{
		ID: 9, Name: "rows", Masked: []int16{3}, Components: []int{0}, Inputs: 1, Present: catalog.Components,
		Encoder: catalog.Encoder{Name: "enc", Version: 2, Inputs: 3, Dims: 1},
	}, &catalog.Policy{ID: 19, Name: "phones", Masked: []int16{4}, Expression: "left(phone, 3)"})
	events = protection(catalog.Relation{OID: 103, Schema: "public", Name: "events", Columns: []catalog.Column{
		{Num: 1, Name: "id"},
		{Num: 3, Name: "amount"},
		{Num: 4, Name: "note", Type: "text"},
	}}, catalog.View{
		OID: 903, Name: "events_103", Identity: catalog.TableAndPlace,
		Open: []catalog.ViewColumn{{Num: 1, Name: "id", Base: 1}}, Masks: []catalog.ViewColumn{{Num: 2, Name: "note", Base: 4}},
	}, &catalog.Policy{ID: 20, Name: "notes", Masked: []int16{4}, Expression: "''"},
		&catalog.Policy{
			ID: 10, Name: "parts", Masked: []int16{3}, Components: []int{1}, Inputs: 1, Present: catalog.Components,
			Encoder: catalog.Encoder{Name: "enc", Version: 2, Inputs: 3, Dims: 2},
		})
	people = protection(catalog.Relation{OID: 104, Schema: "public", Name: "people", Columns: []catalog.Column{
		{Num: 1, Name: "id", Type: "numeric(9,0)"},
		{Num: 2, Name: "name", Type: "text", Collation: `pg_catalog."C"`},
		{Num: 3, Name: "income", Type: "integer"},
		{Num: 4, Name: "mail", Type: "text", Collation: `pg_catalog."C"`},
		{Num: 5, Name: "wealth", Type: "integer"},
	}}, catalog.View{
		OID: 904, Name: "people_104", Identity: catalog.Unknown,
		Open:  []catalog.ViewColumn{{Num: 1, Name: "id", Base: 1}, {Num: 2, Name: "name", Base: 2}},
		Masks: []catalog.ViewColumn{{Num: 3, Name: "mail", Base: 4}},
	}, &catalog.Policy{
		ID: 11, Name: "seen", Masked: []int16{3}, Components: []int{1}, Inputs: 3, Present: catalog.Components,
		Encoder: catalog.Encoder{Name: "enc", Version: 2, Inputs: 3, Dims: 3},
	}, &catalog.Policy{ID: 21, Name: "mails", Masked: []int16{4}, Expression: "'x'"}, &catalog.Policy{
		ID: 22, Name: "rich", Masked: []int16{5}, Components: []int{0}, Inputs: 3, Present: catalog.Vector,
		Encoder: catalog.Encoder{Name: "bal", Version: 1, Inputs: 3, Dims: 2},
	})
	traits = protection(catalog.Relation{OID: 105, Schema: "scrim_runtime", Name: "traits", Columns: []catalog.Column{
		{Num: 1, Name: "id", Type: "integer"},
		{Num: 2, Name: "region", Type: "text"},
		{Num: 3, Name: "features", Type: "real[]"},
	}}, catalog.View{OID: 905, Name: "traits_105", Identity: catalog.Unknown, Open: []catalog.ViewColumn{
		{Num: 1, Name: "id", Base: 1}, {Num: 2, Name: "region", Base: 2},
	}}, &catalog.Policy{
		ID: 12, Name: "traits", Masked: []int16{3}, Components: []int{0}, Inputs: 3, Present: catalog.Vector,
		Encoder: catalog.Encoder{Name: "enc", Version: 2, Inputs: 3, Dims: 2},
	})
	users = protection(catalog.Relation{OID: 106, Schema: "public", Name: "users", Columns: []catalog.Column{
		{Num: 1, Name: "id", Type: "integer"},
		{Num: 2, Name: "region", Type: "text"},
		{Num: 3, Name: "email", Type: "character varying(60)"},
		{Num: 4, Name: "born", Type: "date"},
		{Num: 5, Name: "age", Type: "integer"},
		{Num: 6, Name: "income", Type: "integer"},
		{Num: 7, Name: "wealth", Type: "numeric"},
	}}, catalog.View{OID: 906, Name: "users_106", Identity: catalog.Place, Open: []catalog.ViewColumn{
		{Num: 1, Name: "id", Base: 1}, {Num: 2, Name: "region", Base: 2},
	}, Masks: []catalog.ViewColumn{{Num: 3, Name: "mail", Base: 3}, {Num: 4, Name: "born", Base: 4}}},
		&catalog.Policy{ID: 13, Name: "mails", Masked: []int16{3}, Expression: "scrim.email(email)"},
		&catalog.Policy{
			ID: 14, Name: "money", Masked: []int16{5, 6}, Components: []int{0, 1}, Inputs: 2, Present: catalog.Components,
			Encoder: catalog.Encoder{Name: "enc", Version: 2, Inputs: 2, Dims: 2},
		},
		&catalog.Policy{ID: 15, Name: "births", Masked: []int16{4}, Expression: "date_trunc('year', born)"},
		&catalog.Policy{
			ID: 16, Name: "rich", Masked: []int16{7}, Components: []int{0}, Inputs: 1, Present: catalog.Vector,
			Encoder: catalog.Encoder{Name: "bal", Version: 1, Inputs: 1, Dims: 2},
		})
	loans = protection(catalog.Relation{OID: 107, Schema: "public", Name: "loans", Columns: []catalog.Column{
		{Num: 1, Name: "id", Type: "integer"},
		{Num: 2, Name: "rate", Type: "numeric"},
		{Num: 3, Name: "grade", Type: "integer"},
		{Num: 4, Name: "odds", Type: "numeric"},
	}}, catalog.View{OID: 907, Name: "loans_107", Identity: catalog.Place, Open: []catalog.ViewColumn{{Num: 1, Name: "id", Base: 1}}}, &catalog.Policy{
		ID: 17, Name: "rates", Masked: []int16{2, 3}, Components: []int{0, 0}, Inputs: 2, Present: catalog.Components,
		Encoder: catalog.Encoder{Name: "risk", Version: 3, Inputs: 2, Dims: 1, Model: true},
	}, &catalog.Policy{
		ID: 18, Name: "chances", Masked: []int16{4}, Components: []int{0}, Inputs: 2, Present: catalog.Vector,
		Encoder: catalog.Encoder{Name: "classes", Version: 1, Inputs: 2, Dims: 3, Model: true},
	})
	// Views with the invoker's rights. spending reads masked columns, summary by way of it; renamed has no names of its own, odd
	// has a WITH and relations without a schema; regional reads no masked column; greedy and rows cannot be expanded; mailing reads an
	// SQL mask, counted a feature view.
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
	mailing  = rewrite.NewView(` SELECT users.id, users.email, users.income FROM public.users WHERE ((users.email)::text ~~ 'a%'::text);`, 19)
	counted  = rewrite.NewView(` SELECT t.region, count(*) AS n FROM scrim_runtime.traits t GROUP BY t.region;`, 18)
	snapshot = &catalog.Snapshot{Protections: map[uint32]*catalog.Protection{100: customers, 101: accounts, 102: tenants, 103: events, 104: people, 105: traits, 106: users, 107: loans}}
	key      = []string{"id"}
	world    = map[rewrite.Name]rewrite.Relation{
		{Relation: "customers"}:                                  {OID: 100, Columns: names(customers), Key: key},
		{Schema: "public", Relation: "customers"}:                {OID: 100, Columns: names(customers), Key: key},
		{Catalog: "db", Schema: "public", Relation: "customers"}: {OID: 100, Columns: names(customers), Key: key},
		{Schema: "bank", Relation: "accounts"}:                   {OID: 101, Columns: names(accounts)},
		{Relation: "accounts"}:                                   {OID: 101, Columns: names(accounts)},
		{Relation: "tenants"}:                                    {OID: 102, Columns: names(tenants)},
		{Relation: "events"}:                                     {OID: 103, Columns: names(events)},
		{Relation: "mailing"}:                                    {OID: 308, Columns: []string{"id", "email", "income"}, View: mailing},
		{Schema: "public", Relation: "users"}:                    {OID: 106, Columns: names(users), Key: key},
		{Relation: "users"}:                                      {OID: 106, Columns: names(users), Key: key},
		{Relation: "loans"}:                                      {OID: 107, Columns: names(loans), Key: key},
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

// protection puts policies on a relation.
func protection(relation catalog.Relation, view catalog.View, policies ...*catalog.Policy) *catalog.Protection {
	p := &catalog.Protection{Relation: relation, View: view, Policies: policies, FeatureView: relation.Schema == "scrim_runtime"}
	for _, policy := range policies {
		policy.Protection = p
		if policy.Encodes() {
			policy.Sealed = fmt.Sprintf("sealed_%d", policy.ID)
		}
	}
	return p
}

func names(p *catalog.Protection) []string {
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
		"customers", "accounts", "tenants", "events", "people", "users", "loans", "customers_100", "spending", "summary", "renamed", "regional", "Odd", "greedy", "rows", "traits", "counted", "mailing",
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
						for oid, p := range snapshot.Protections {
							for _, c := range p.Relation.Columns {
								if p == customers && c.Name == name || p.Relation.Name+"."+c.Name == name {
									readable[catalog.ColumnKey{Relation: oid, Num: c.Num}] = true
								}
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
