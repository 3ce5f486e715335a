package rewrite

import (
	"fmt"
	"slices"
	"strings"

	"github.com/scrimdb/scrim/catalog"
)

// Stage is a list of codes that a statement needs before it can run: those of the rows of one mention of a protected
// relation, or of several with the same conditions.
type Stage struct {
	Policy *catalog.Policy
	// SQL lists the rows: ctid, xmin, and their sealed inputs.
	SQL string
	// Params has the numbers of the client's parameters that are $1, $2 and so on in SQL.
	Params []int
	// Components of the codes that the statement needs, from 0, in ascending order.
	Components []int
}

// Parts of a list: arrays of the rows' ctids (tid[], in ascending order), of their xmins (xid[]), and of their codes
// (real[]: the components of the first row, then those of the second, and so on).
const (
	PartIDs = iota
	PartVersions
	PartCodes
	Parts
)

// Staged tells whether codes are needed before the statement can run.
func (p *Plan) Staged() bool { return len(p.Stages) > 0 }

// WithCodes returns the plan with SQL that takes the code lists where spell says: it spells a part of a stage's list, as
// a parameter or a literal, which will be cast to its type.
func (p *Plan) WithCodes(spell func(stage, part int) string) *Plan {
	with := *p
	with.SQL, with.edits = splice(p.text, p.edits, func(h hole) string {
		if h.param > 0 {
			return asParameter(h)
		}
		return spell(h.stage, h.part)
	})
	return &with
}

// planStaged makes the plan of a statement that uses codes.
func (a *analysis) planStaged(p *Plan) {
	p.Reason = a.staged
	needed := map[*catalog.Policy][]int{}
	for _, inst := range a.instances {
		if inst.used {
			needed[inst.mask.Policy] = a.components(inst, needed[inst.mask.Policy])
		}
	}
	for _, inst := range a.instances {
		if inst.used {
			number, stage := a.stageOf(p, inst, needed[inst.mask.Policy])
			p.edits = append(p.edits, a.replace(inst, a.coded(inst, number, stage)))
		}
	}
}

// components adds those that a mention needs to a list.
func (a *analysis) components(inst *instance, list []int) []int {
	p := inst.mask.Policy
	for _, c := range p.Relation.Columns {
		at := slices.Index(p.Masked, c.Num)
		switch {
		case at < 0 || !a.lists(inst, c.Name):
		case p.Present == catalog.Components:
			list = append(list, at)
		default:
			for k := range p.Encoder.Dims {
				list = append(list, k)
			}
		}
	}
	slices.Sort(list)
	return slices.Compact(list)
}

// stageOf finds or makes the stage of a mention.
func (a *analysis) stageOf(p *Plan, inst *instance, components []int) (int, Stage) {
	s := Stage{Policy: inst.mask.Policy, Components: components}
	t := template{text: fmt.Sprintf("SELECT v.ctid, v.xmin, v.%s FROM %s WHERE %s", quote(s.Policy.View.Sealed), inst.view(), inst.means())}
	if s.Policy.View.SealsOnly { // no code of a row that the client does not see is listed
		t.text = fmt.Sprintf("SELECT t.ctid, t.xmin, %s FROM %s t WHERE %s", inst.sealOf("t"), nameOf(inst.rv).Quoted(), inst.means())
	}
	s.SQL = t.join(inst.conditions(s.Policy.View.SealsOnly)).fill(func(h hole) string {
		at := slices.Index(s.Params, h.param)
		if at < 0 {
			s.Params, at = append(s.Params, h.param), len(s.Params)
		}
		return fmt.Sprintf("$%d", at+1)
	})
	same := func(o Stage) bool { return o.SQL == s.SQL && slices.Equal(o.Params, s.Params) }
	at := slices.IndexFunc(p.Stages, same)
	if at < 0 {
		p.Stages, at = append(p.Stages, s), len(p.Stages)
	}
	return at, s
}

func (i *instance) view() string {
	return "scrim_runtime." + quote(i.mask.Policy.View.Name) + " v"
}

// sealOf spells the seal of a row of the table, by its place.
func (i *instance) sealOf(row string) string {
	return fmt.Sprintf("(SELECT v.%s FROM %s WHERE v.ctid OPERATOR(pg_catalog.=) %s.ctid)", quote(i.mask.Policy.View.Sealed), i.view(), row)
}

// means spells a condition that is evaluated once for each plan: it raises if the client's name, or the table, is not
// what the plan was made for.
func (i *instance) means() string {
	p := i.mask.Policy
	var names []string
	for _, c := range p.Relation.Columns {
		names = append(names, literal(c.Name))
	}
	return fmt.Sprintf("scrim_runtime.still_means(%s, %d, ARRAY[%s])", literal(nameOf(i.rv).Quoted()), p.Relation.OID, strings.Join(names, ", "))
}

// lists tells whether the replacement of a mention must have a column of this name.
func (a *analysis) lists(i *instance, name string) bool { return i.starred || a.words[name] }

// coded spells the subselect that stands for a mention, with its codes. It reads the table itself, by the client's name and
// under the client's rights. The conditions that shorten the list are repeated.
func (a *analysis) coded(inst *instance, number int, stage Stage) template {
	p := inst.mask.Policy
	var list []template
	for _, c := range p.Relation.Columns {
		at := slices.Index(p.Masked, c.Num)
		switch {
		case !a.lists(inst, c.Name):
		case at >= 0:
			list = append(list, inst.code(number, stage, at).join(template{text: " AS " + quote(c.Name)}))
		case openColumn(p, c.Num) != "":
			list = append(list, template{text: "t." + quote(c.Name)})
		}
	}
	for _, name := range inst.systemColumns("t.") {
		list = append(list, template{text: name})
	}
	t := template{text: "(SELECT "}
	for i, c := range list {
		if i > 0 {
			t.text += ", "
		}
		t = t.join(c)
	}
	only := map[bool]string{false: "ONLY "}[inst.rv.GetInh()]
	t.text += " FROM " + only + nameOf(inst.rv).Quoted() + " t" + inst.sample + " WHERE " + inst.means()
	t = t.join(inst.conditions(true))
	t.text += ")"
	return t
}

// conditions spells those that shorten a mention's list behind others: over the table, or over the masked view.
func (i *instance) conditions(table bool) template {
	var t template
	for _, f := range i.filters {
		text := f.text
		if table {
			text = f.table
		}
		t = t.join(template{text: " AND (" + text + ")", holes: f.holes})
	}
	return t
}

// code spells what the at-th masked column shows of a code. The row is looked up in the list by binary search; one that is
// not there in this very version raises: it has changed since the codes were listed. (A join would do the same in twice
// the time, and an inner join would leave the row out.)
func (i *instance) code(number int, stage Stage, at int) template {
	show, raises := "{codes}[{row} OPERATOR(pg_catalog.*) %d OPERATOR(pg_catalog.-) %d : {row} OPERATOR(pg_catalog.*) %[1]d]", "no_codes"
	width := len(stage.Components)
	first := width - 1 // how far before the end of a code that begins which is shown
	if stage.Policy.Present == catalog.Components {
		show, raises = "{codes}[{row} OPERATOR(pg_catalog.*) %d OPERATOR(pg_catalog.-) %d]::pg_catalog.float8", "no_code"
		first -= slices.Index(stage.Components, at)
	}
	listed := "CASE WHEN {ids}[{row}] OPERATOR(pg_catalog.=) t.ctid AND {versions}[{row}] OPERATOR(pg_catalog.=) t.xmin THEN "
	return lists(listed+fmt.Sprintf(show, width, first), number).join(i.orElse(raises))
}

// arrays are the names of a list's parts in the texts that lists takes, and their types.
var arrays = [Parts]struct{ name, of string }{PartIDs: {"ids", "tid"}, PartVersions: {"versions", "xid"}, PartCodes: {"codes", "float4"}}

// lists makes a template of a text that has the parts of a list by name, and {row} for a row's place in it. The parts are
// uncorrelated subselects, so that plans hold them once and EXPLAIN does not print them.
func lists(text string, number int) template {
	text = strings.ReplaceAll(text, "{row}", "pg_catalog.width_bucket(t.ctid, {ids})")
	t := template{}
	for text != "" {
		before, rest, _ := strings.Cut(text, "{")
		t.text += before
		name, after, _ := strings.Cut(rest, "}")
		for part, a := range arrays {
			if a.name == name {
				t.text += "(SELECT \x00::pg_catalog." + a.of + "[])"
				t.holes = append(t.holes, hole{stage: number, part: part})
			}
		}
		text = after
	}
	return t
}

// orElse spells what there is in the place of a code that is not listed. The planner may come to it before the conditions
// that shorten the list: a row that does not meet them will not be seen.
func (i *instance) orElse(raises string) template {
	t := template{text: " ELSE "}
	if len(i.filters) > 0 {
		conditions := i.conditions(true)
		conditions.text = strings.TrimPrefix(conditions.text, " AND ") + " THEN "
		t = template{text: " WHEN "}.join(conditions)
	}
	t.text += "scrim_runtime." + raises + "(t.ctid) END"
	return t
}

// systemColumns spells those that are named.
func (i *instance) systemColumns(of string) []string {
	var list []string
	for _, name := range i.system {
		if i.starred {
			refuse(codeFeatureNotSupported, int(i.rv.GetLocation()), "List the columns instead of using a star.",
				"system column %q of a protected table is not supported together with a star or a whole row", name)
		}
		list = append(list, of+name)
	}
	return list
}
