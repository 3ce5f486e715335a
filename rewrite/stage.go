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
}

// Parts is how many arrays hold a stage's list, all of one length: tid[], xid[], and a real[] for each component of the
// codes.
func (s Stage) Parts() int { return 2 + s.Policy.Encoder.Dims }

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

// staged makes the plan of a statement that uses codes.
func (a *analysis) planStaged(p *Plan) {
	p.Reason = a.staged
	for _, inst := range a.instances {
		if inst.used {
			p.edits = append(p.edits, a.replace(inst, a.joined(inst, a.stageOf(p, inst))))
		}
	}
}

// stageOf finds or makes the stage of a mention.
func (a *analysis) stageOf(p *Plan, inst *instance) int {
	s := Stage{Policy: inst.mask.Policy}
	t := template{text: fmt.Sprintf("SELECT v.ctid, v.xmin, v.%s FROM %s WHERE %s", quote(s.Policy.View.Sealed), inst.view(), inst.means())}
	if s.Policy.View.SealsOnly { // no code of a row that the client does not see is listed
		t.text = fmt.Sprintf("SELECT t.ctid, t.xmin, %s FROM %s t WHERE %s", inst.sealOf("t"), nameOf(inst.rv).Quoted(), inst.means())
	}
	for _, f := range inst.filters {
		if s.Policy.View.SealsOnly {
			f.text = f.table
		}
		t.text += " AND (" + f.text + ")"
		t.holes = append(t.holes, f.holes...)
	}
	s.SQL = t.fill(func(h hole) string {
		at := slices.Index(s.Params, h.param)
		if at < 0 {
			s.Params, at = append(s.Params, h.param), len(s.Params)
		}
		return fmt.Sprintf("$%d", at+1)
	})
	same := func(o Stage) bool { return o.SQL == s.SQL && slices.Equal(o.Params, s.Params) }
	if at := slices.IndexFunc(p.Stages, same); at >= 0 {
		return at
	}
	p.Stages = append(p.Stages, s)
	return len(p.Stages) - 1
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

// joined spells the subselect that stands for a mention, with its codes joined in. It reads the table itself, by the
// client's name and under the client's rights. A row without a code raises: it has changed since they were listed. (An
// inner join would leave it out.) The conditions are repeated, so that rows which the list leaves out cannot meet another
// condition first.
func (a *analysis) joined(inst *instance, stage int) template {
	p := inst.mask.Policy
	var columns []string
	for _, c := range p.Relation.Columns {
		if !a.lists(inst, c.Name) {
			continue
		}
		if at := slices.Index(p.Masked, c.Num); at >= 0 {
			columns = append(columns, code(p, at)+" AS "+quote(c.Name))
		} else if openColumn(p, c.Num) != "" {
			columns = append(columns, "t."+quote(c.Name))
		}
	}
	t := template{}
	names := []string{"row_id", "row_version"}
	arrays := []string{"pg_catalog.unnest(\x00::pg_catalog.tid[])", "pg_catalog.unnest(\x00::pg_catalog.xid[])"}
	for k := range p.Encoder.Dims {
		names = append(names, fmt.Sprintf("c%d", k+1))
		arrays = append(arrays, "pg_catalog.unnest(\x00::pg_catalog.float4[])")
	}
	for part := range arrays {
		t.holes = append(t.holes, hole{stage: stage, part: part})
	}
	only := map[bool]string{false: "ONLY "}[inst.rv.GetInh()]
	t.text = fmt.Sprintf("(SELECT %s FROM %s%s t%s LEFT JOIN ROWS FROM (%s) s(%s) ON s.row_id OPERATOR(pg_catalog.=) t.ctid AND s.row_version OPERATOR(pg_catalog.=) t.xmin WHERE %s",
		strings.Join(append(columns, inst.systemColumns("t.")...), ", "), only, nameOf(inst.rv).Quoted(), inst.sample,
		strings.Join(arrays, ", "), strings.Join(names, ", "), inst.means())
	for _, f := range inst.filters {
		t.text += " AND (" + f.table + ")"
		t.holes = append(t.holes, f.holes...)
	}
	t.text += ")"
	return t
}

// code spells what the at-th masked column shows of a code.
func code(p *catalog.Policy, at int) string {
	if p.Present == catalog.Components {
		return fmt.Sprintf("CASE WHEN s.row_id IS NULL THEN scrim_runtime.no_code(t.ctid) ELSE s.c%d::pg_catalog.float8 END", at+1)
	}
	var all []string
	for k := range p.Encoder.Dims {
		all = append(all, fmt.Sprintf("s.c%d", k+1))
	}
	return fmt.Sprintf("CASE WHEN s.row_id IS NULL THEN scrim_runtime.no_codes(t.ctid) ELSE ARRAY[%s] END", strings.Join(all, ", "))
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
