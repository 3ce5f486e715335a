package rewrite

import (
	"fmt"
	"slices"
	"strings"

	pg_query "github.com/pganalyze/pg_query_go/v6"

	"github.com/scrimdb/scrim/catalog"
	"github.com/scrimdb/scrim/policy"
)

type policyMask = policy.Mask

// Plan says what to send upstream in a statement's place, and what to fill on the way back.
type Plan struct {
	// SQL is the spliced text.
	SQL string
	// Outputs has an entry for each result column. Empty: the result is relayed as it is.
	Outputs []Output
	// Seals has an entry for each sealed input list that the result carries.
	Seals []Seal
	// Views maps the OID of a masked view in SQL to its policy, so that clients are told the table they asked for.
	Views map[uint32]*catalog.Policy

	edits []edit
}

// Seal is a result column that carries sealed inputs. Several masked columns of one row share it.
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

// edit replaces text[start:end] by with.
type edit struct {
	start, end int
	with       string
}

// plan makes the plan once the analysis has passed. out is the statement's result.
func (a *analysis) plan(out []outColumn) *Plan {
	p := &Plan{Views: map[uint32]*catalog.Policy{}}
	if a.modifies { // it could see the NULL in an unused slot's place
		refuse(codeFeatureNotSupported, -1, "Send the statements one after the other.", "masked columns are not supported together with a data-modifying WITH yet")
	}
	carried := map[carrier]bool{}
	for i, c := range out {
		if !c.isSlot() {
			p.Outputs = append(p.Outputs, Output{Seal: -1})
			continue
		}
		// Slots of the same row, in every branch, share the seal of the first of them.
		seal := slices.IndexFunc(p.Seals, func(s Seal) bool { return sameRows(out[s.Column], c) })
		first := c.sources[0]
		mask := first.row.inst.mask
		if seal < 0 {
			seal = len(p.Seals)
			p.Seals = append(p.Seals, Seal{Column: i, Policy: mask.Policy})
			for _, s := range c.sources {
				carried[carrier{s.row.inst, s.num}] = true
			}
		}
		o := Output{Seal: seal, Component: -1, Num: first.num}
		if mask.Policy.Present == catalog.Components {
			o.Component = slices.Index(mask.Policy.Masked, first.num)
		}
		p.Outputs = append(p.Outputs, o)
	}
	if len(p.Seals) == 0 {
		p.Outputs = nil
	}
	tokens := a.tokens()
	for _, inst := range a.instances {
		if !inst.used {
			continue
		}
		if inst.mask.Partial {
			refuse(codeInsufficientPrivilege, int(inst.rv.GetLocation()), "Grant SELECT on all of the policy's columns, or on none.",
				"this role may read some of the masked columns of %q but not all", inst.rv.GetRelname())
		}
		p.Views[inst.mask.Policy.View.OID] = inst.mask.Policy
		p.edits = append(p.edits, a.replace(inst, tokens, carried))
	}
	slices.SortFunc(p.edits, func(x, y edit) int { return x.start - y.start })
	p.SQL = splice(a.text, p.edits)
	if _, err := pg_query.Parse(p.SQL); err != nil {
		refuse(codeFeatureNotSupported, -1, "", "cannot rewrite this statement: %v", err)
	}
	return p
}

// carrier is a masked column of an instance that must bring a seal to the output.
type carrier struct {
	inst *instance
	num  int16
}

func sameRows(x, y outColumn) bool {
	return slices.EqualFunc(x.sources, y.sources, func(s, t source) bool { return s.row == t.row })
}

func (a *analysis) tokens() []*pg_query.ScanToken {
	scan, err := pg_query.Scan(a.text)
	if err != nil { // it parsed, so it scans
		refuse(codeFeatureNotSupported, -1, "", "cannot scan this statement: %v", err)
	}
	return slices.DeleteFunc(scan.GetTokens(), func(t *pg_query.ScanToken) bool {
		return t.GetToken() == pg_query.Token_SQL_COMMENT || t.GetToken() == pg_query.Token_C_COMMENT
	})
}

// replace makes the edit that puts a subselect over the masked view in the place of one mention of its table.
func (a *analysis) replace(inst *instance, tokens []*pg_query.ScanToken, carried map[carrier]bool) edit {
	rv := inst.rv
	at := slices.IndexFunc(tokens, func(t *pg_query.ScanToken) bool { return t.GetStart() == rv.GetLocation() })
	if at < 0 || !rv.GetInh() {
		refuse(codeFeatureNotSupported, int(rv.GetLocation()), "", "ONLY is not supported on a protected table together with masked columns yet")
	}
	last := at
	for last+2 < len(tokens) && a.spell(tokens[last+1]) == "." {
		last += 2
	}
	if last+1 < len(tokens) && a.spell(tokens[last+1]) == "*" { // FROM t *: an old spelling of "and its children"
		last++
	}
	e := edit{start: int(tokens[at].GetStart()), end: int(tokens[last].GetEnd()), with: subselect(inst, carried)}
	if rv.GetAlias() == nil {
		e.with += " AS " + quote(rv.GetRelname())
	}
	if at > 0 && tokens[at-1].GetToken() == pg_query.Token_TABLE { // TABLE t is SELECT * FROM t
		e.start = int(tokens[at-1].GetStart())
		e.with = "SELECT * FROM " + e.with
	}
	return e
}

func (a *analysis) spell(t *pg_query.ScanToken) string { return a.text[t.GetStart():t.GetEnd()] }

// subselect spells what stands for the table. Its condition is evaluated once by each execution: it raises if the
// client's name, or the table, is not what the plan was made for. Masked columns that no output carries need not be sealed: a typed NULL
// keeps their place.
func subselect(inst *instance, carried map[carrier]bool) string {
	p := inst.mask.Policy
	var list []string
	for _, c := range p.Relation.Columns {
		switch {
		case carried[carrier{inst, c.Num}]:
			list = append(list, "v."+quote(p.View.Sealed)+" AS "+quote(c.Name))
		case slices.Contains(p.Masked, c.Num):
			list = append(list, "NULL::scrim_runtime.sealed AS "+quote(c.Name))
		default:
			if name := openColumn(p, c.Num); name != "" {
				list = append(list, "v."+quote(name)+" AS "+quote(c.Name))
			}
		}
	}
	var names []string
	for _, c := range p.Relation.Columns {
		names = append(names, literal(c.Name))
	}
	return fmt.Sprintf("(SELECT %s FROM scrim_runtime.%s v WHERE (SELECT scrim_runtime.still_means(%s, %d, ARRAY[%s])))",
		strings.Join(list, ", "), quote(p.View.Name), literal(nameOf(inst.rv).Quoted()), p.Relation.OID, strings.Join(names, ", "))
}

// openColumn returns the masked view's name for an unmasked column, or "" if the view does not have it.
func openColumn(p *catalog.Policy, num int16) string {
	for _, c := range p.View.Open {
		if c.Base == num {
			return c.Name
		}
	}
	return ""
}

func splice(text string, edits []edit) string {
	var b strings.Builder
	from := 0
	for _, e := range edits {
		b.WriteString(text[from:e.start])
		b.WriteString(e.with)
		from = e.end
	}
	b.WriteString(text[from:])
	return b.String()
}

// Original maps a byte offset in SQL to one in the text that the client sent.
func (p *Plan) Original(offset int) int {
	shift := 0
	for _, e := range p.edits {
		switch start := e.start + shift; {
		case offset < start:
			return offset - shift
		case offset < start+len(e.with):
			return e.start
		}
		shift += len(e.with) - (e.end - e.start)
	}
	return offset - shift
}

// Format prints the plan for people: goldens show it, and so will EXPLAIN MASKING.
func (p *Plan) Format() string {
	var b strings.Builder
	fmt.Fprintf(&b, "%s\n", p.SQL)
	for i, o := range p.Outputs {
		if o.Seal < 0 {
			continue
		}
		seal := p.Seals[o.Seal]
		shows := "code"
		if o.Component >= 0 {
			shows = fmt.Sprintf("component %d", o.Component+1)
		}
		fmt.Fprintf(&b, "column %d: deferred, %s of encoder %s version %d (policy %s), sealed in column %d\n",
			i+1, shows, seal.Policy.Encoder.Name, seal.Policy.Encoder.Version, seal.Policy.Name, seal.Column+1)
	}
	return b.String()
}
