package rewrite

import (
	"fmt"
	"slices"
	"strings"

	pg_query "github.com/pganalyze/pg_query_go/v6"

	"github.com/scrimdb/scrim/catalog"
)

// Plan says what to send upstream in a statement's place, and what to fill on the way back.
type Plan struct {
	// SQL is the spliced text.
	SQL string
	// Outputs has an entry for each result column. Empty: the result is relayed as it is.
	Outputs []Output
	// Seals has an entry for each sealed input list that the result carries.
	Seals []Seal
	// Views maps the OID of a masked view in SQL to what it is of, so that clients are told the table they asked for.
	Views map[uint32]*catalog.Protection
	// Stages are the code lists that must be made before the statement can run. SQL then has NULL in their places, which
	// serves to describe the statement; WithCodes has the lists. Without stages, codes are filled in on the way out.
	Stages []Stage
	// Reasons are why there are stages. Each of them would do.
	Reasons []Reason
	// Mentions are those of relations with masked columns.
	Mentions []Mention
	// Reads is what running the statement reads through masks.
	Reads []Read
	// Notes is what EXPLAIN says about the masks, besides what the server says: a line for each.
	Notes []string
	// Params is the highest number of a parameter in the text.
	Params int
	// Literals means that the statement takes no parameters: code lists must be spelled as literals.
	Literals bool

	// Columns has, for each result column that SQL does not tell the server to be one of a table or view, which it is to the client: a
	// column of a view that was expanded, or one with an SQL mask. Empty: nothing is known.
	Columns []ResultColumn

	text  string // the client's, with its views expanded
	edits []edit
	views expanded
}

// Masks tells whether the plan reads masked columns. Else it only says of catalogs what they show.
func (p *Plan) Masks() bool { return len(p.Views) > 0 }

// Seal is a result column that carries sealed inputs. The masked columns of one row that are of one policy share it.
type Seal struct {
	Column int // index in Outputs
	Policy *catalog.Policy
}

// Output is one column of the result.
type Output struct {
	// Seal is an index in Plan.Seals, or -1 for a column that is not masked.
	Seal int
	// Component is which component of the code the column shows, or -1 for the whole code. Meaningless when Seal is -1.
	Component int
	// Num is the attribute number of the masked column. Meaningless when Seal is -1.
	Num int16
}

// plan makes the plan once the analysis has passed. out is the statement's result.
func (a *analysis) plan(out []outColumn) *Plan {
	p := &Plan{Views: map[uint32]*catalog.Protection{}, Columns: described(out), text: a.text}
	for _, inst := range a.instances {
		if !inst.used {
			continue
		}
		protection := inst.mask.Protection
		if inst.mask.Mixed && protection.View.Identity == catalog.Unknown { // nothing tells which row of the relation one of the view is
			refuse(codeInsufficientPrivilege, int(inst.rv.GetLocation()), "Grant SELECT on all of the masked columns, or on none.",
				"this role may read some of the masked columns of %q but not all", inst.rv.GetRelname())
		}
		p.Views[protection.View.OID] = protection
	}
	if len(a.reasons) > 0 {
		a.planStaged(p)
	} else {
		a.planDeferred(p, out)
	}
	p.Mentions = a.mentioned()
	a.mend(p)
	p.SQL, p.edits = splice(a.text, p.edits, asParameter)
	if _, err := pg_query.Parse(p.SQL); err != nil {
		refuse(codeFeatureNotSupported, -1, "", "cannot rewrite this statement: %v", err)
	}
	return p
}

// planDeferred makes the plan of a statement whose slots only travel.
func (a *analysis) planDeferred(p *Plan, out []outColumn) {
	carried := map[carrier]bool{}
	for i, c := range out {
		if !c.isSlot() {
			p.Outputs = append(p.Outputs, Output{Seal: -1})
			continue
		}
		// Slots of the same row and policy, in every branch, share the seal of the first of them.
		policy := c.sources[0].policy()
		seal := slices.IndexFunc(p.Seals, func(s Seal) bool { return s.Policy == policy && sameRows(out[s.Column], c) })
		if seal < 0 {
			seal = len(p.Seals)
			p.Seals = append(p.Seals, Seal{Column: i, Policy: policy})
			for _, s := range c.sources {
				carried[carrier{s.row.inst, s.num}] = true
			}
		}
		num := c.sources[0].num
		p.Outputs = append(p.Outputs, Output{Seal: seal, Component: policy.Component(num), Num: num})
	}
	if len(p.Seals) == 0 {
		p.Outputs = nil
	}
	for _, inst := range a.instances {
		if inst.used {
			p.edits = append(p.edits, a.replace(inst, a.sealed(inst, carried)))
		}
	}
}

// mend adds what a subselect in a table's place needs besides.
func (a *analysis) mend(p *Plan) {
	for _, q := range a.qualified {
		if q.inst.used {
			p.edits = append(p.edits, a.unqualify(q.ref))
		}
	}
	for _, r := range a.removed {
		if r.inst.used {
			p.edits = append(p.edits, r.edit)
		}
	}
	for _, g := range a.groups {
		if g.inst.used {
			p.edits = append(p.edits, edit{start: g.at, end: g.at, template: template{text: g.with}})
		}
	}
}

// unqualify takes the schema off a column reference: a subselect has none.
func (a *analysis) unqualify(ref *pg_query.ColumnRef) edit {
	tokens := a.tokens()
	at := a.tokenAt(tokens, int(ref.GetLocation()))
	table := at + 2*(len(ref.GetFields())-2)
	if at < 0 || table >= len(tokens) {
		refuse(codeFeatureNotSupported, int(ref.GetLocation()), "Give the table an alias, and qualify columns by that.", "cannot rewrite this column reference")
	}
	return edit{start: int(tokens[at].GetStart()), end: int(tokens[table].GetStart())}
}

// carrier is a masked column of an instance that must bring a seal to the output.
type carrier struct {
	inst *instance
	num  int16
}

// described lists which columns of the result SQL masks show. In the table's form of a mention the server does not know.
func described(out []outColumn) []ResultColumn {
	if !slices.ContainsFunc(out, func(c outColumn) bool { return c.sqlMask.inst != nil }) {
		return nil
	}
	columns := make([]ResultColumn, len(out))
	for i, c := range out {
		if c.sqlMask.inst != nil {
			columns[i] = ResultColumn{c.sqlMask.inst.mask.Protection.Relation.OID, c.sqlMask.num}
		}
	}
	return columns
}

func sameRows(x, y outColumn) bool {
	return slices.EqualFunc(x.sources, y.sources, func(s, t source) bool { return s.row == t.row })
}

// tokens are those of the text, without comments.
func (a *analysis) tokens() []*pg_query.ScanToken {
	if a.scanned != nil {
		return a.scanned
	}
	scan, err := pg_query.Scan(a.text)
	if err != nil { // it parsed, so it scans
		refuse(codeFeatureNotSupported, -1, "", "cannot scan this statement: %v", err)
	}
	a.scanned = withoutComments(scan.GetTokens())
	return a.scanned
}

// tokenAt returns the index of the token at a byte offset, or -1.
func (a *analysis) tokenAt(tokens []*pg_query.ScanToken, offset int) int {
	return slices.IndexFunc(tokens, func(t *pg_query.ScanToken) bool { return int(t.GetStart()) == offset })
}

// replace makes the edit that puts a subselect in the place of one mention of a table.
func (a *analysis) replace(inst *instance, sub template) edit {
	rv, tokens := inst.rv, a.tokens()
	at := a.tokenAt(tokens, int(rv.GetLocation()))
	if at < 0 {
		refuse(codeFeatureNotSupported, int(rv.GetLocation()), "", "cannot rewrite this mention of %q", rv.GetRelname())
	}
	last := at
	for last+2 < len(tokens) && a.spell(tokens[last+1]) == "." {
		last += 2
	}
	if last+1 < len(tokens) && a.spell(tokens[last+1]) == "*" { // FROM t *: an old spelling of "and its children"
		last++
	}
	if inst.copied != nil && last+1 < len(tokens) && a.spell(tokens[last+1]) == "(" { // the list goes into the query
		last += 2*len(inst.copied) + 1
	}
	if !rv.GetInh() { // ONLY t, ONLY (t)
		if a.spell(tokens[at-1]) == "(" {
			at--
			last++
		}
		at--
	}
	e := edit{start: int(tokens[at].GetStart()), end: int(tokens[last].GetEnd()), template: sub}
	if rv.GetAlias() == nil {
		e.text += " AS " + quote(rv.GetRelname())
	}
	if inst.copied != nil {
		e.text = "(SELECT " + strings.Join(inst.copied, ", ") + " FROM " + e.text + ")"
	}
	if at > 0 && tokens[at-1].GetToken() == pg_query.Token_TABLE { // TABLE t is SELECT * FROM t
		e.start = int(tokens[at-1].GetStart())
		e.text = "SELECT * FROM " + e.text
	}
	return e
}

func (a *analysis) spell(t *pg_query.ScanToken) string { return a.text[t.GetStart():t.GetEnd()] }

// sealed spells what stands for a mention where slots only travel. Those that no output carries need not be sealed: a typed NULL
// keeps their place.
func (a *analysis) sealed(inst *instance, carried map[carrier]bool) template {
	f := a.form(inst)
	return a.replacement(f, func(c column) template {
		if carried[carrier{inst, c.Num}] {
			return template{text: f.seal(inst.encoder(c.Num))}
		}
		return template{text: "NULL::scrim_runtime.sealed"}
	}, template{})
}

// openColumn returns the masked view's name for an unmasked column, or "" if the view does not have it.
func openColumn(p *catalog.Protection, num int16) string { return viewName(p.View.Open, num) }

func viewName(columns []catalog.ViewColumn, base int16) string {
	for _, c := range columns {
		if c.Base == base {
			return c.Name
		}
	}
	return ""
}

// notes describes each masked column of the result, or each list of codes.
func (p *Plan) notes(out []outColumn) []string {
	var lines []string
	for i, o := range p.Outputs {
		if o.Seal >= 0 {
			lines = append(lines, fmt.Sprintf("Mask of column %d (%s): %s, deferred: filled in as rows are sent", i+1, out[i].name, p.shows(o)))
		}
	}
	for _, s := range p.Stages {
		lines = append(lines, fmt.Sprintf("Codes of %s: %s (policy %s), staged: %s", s.Policy.Protection.Relation.Name, s.Policy.Encoder, s.Policy.Name, p.Reasons[0].Text))
	}
	return lines
}

// shows says what an output shows.
func (p *Plan) shows(o Output) string {
	return showsOf(p.Seals[o.Seal].Policy, o.Component)
}

// showsOf says what a masked column shows: of an encoder's or model's policy a component of a code, or with -1 the whole code.
func showsOf(policy *catalog.Policy, component int) string {
	if !policy.Encodes() {
		return fmt.Sprintf("SQL mask %s (policy %s)", policy.Expression, policy.Name)
	}
	shows := "code"
	switch {
	case policy.Encoder.Model && (component < 0 || policy.Encoder.Dims == 1):
		shows = "prediction"
	case policy.Encoder.Model:
		shows = fmt.Sprintf("output %d", component+1)
	case component >= 0:
		shows = fmt.Sprintf("component %d", component+1)
	}
	return fmt.Sprintf("%s of %s (policy %s)", shows, policy.Encoder, policy.Name)
}

// Format prints the plan with all its texts, for goldens. What EXPLAIN MASKING says is in explain.go.
func (p *Plan) Format() string {
	var b strings.Builder
	fmt.Fprintf(&b, "%s\n", p.SQL)
	if p.Staged() {
		fmt.Fprintf(&b, "staged: %s\n", p.Reasons[0].Text)
	}
	for i, s := range p.Stages {
		fmt.Fprintf(&b, "list %d: codes of %s (policy %s) for\n  %s", i+1, s.Policy.Encoder, s.Policy.Name, s.SQL)
		for at, number := range s.Params {
			fmt.Fprintf(&b, "; $%d is the client's $%d", at+1, number)
		}
		b.WriteString("\n")
	}
	for i, o := range p.Outputs {
		if o.Seal < 0 {
			continue
		}
		fmt.Fprintf(&b, "column %d: deferred, %s, sealed in column %d\n", i+1, p.shows(o), p.Seals[o.Seal].Column+1)
	}
	for _, m := range p.Mentions {
		for _, num := range m.Columns {
			if policy := m.Mask.Protection.Policy(num); !policy.Encodes() {
				fmt.Fprintf(&b, "column %s of %s: %s\n", m.Mask.Protection.Column(num).Name, m.Mask.Protection.Relation.Name, showsOf(policy, -1))
			}
		}
	}
	for _, note := range p.Notes {
		fmt.Fprintf(&b, "explained: %s\n", note)
	}
	return b.String()
}
