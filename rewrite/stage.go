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
	// SQL lists the rows: a column for each part but the codes, in their order, then the sealed inputs.
	SQL string
	// Params has the numbers of the client's parameters that are $1, $2 and so on in SQL.
	Params []int
	// Components of the codes that the statement needs, from 0, in ascending order.
	Components []int
	// Parts are the arrays that the statement takes, the codes last. Rows that have a place are in ascending order of the first.
	Parts []Part
}

// Part is an array with an element for each row of a list; of codes one for each component: those of the first row, then those
// of the second, and so on.
type Part struct {
	name string // in the texts that lists takes
	// Type of the elements, of pg_catalog: tid, xid, oid, int8, or float4 for the codes. text: any other, as its output function
	// spells it, and there may be NULLs.
	Type string
}

// parts are those of a list by how rows are known.
var parts = map[catalog.Identity][]Part{
	catalog.Place:         {{"ids", "tid"}, {"versions", "xid"}},
	catalog.TableAndPlace: {{"hashes", "int8"}, {"ids", "tid"}, {"versions", "xid"}, {"tables", "oid"}},
}

var codes = Part{"codes", "float4"}

// HasPlaces tells whether the rows of the list can be found again by their places. If not, the list itself stands for the relation.
func (s *Stage) HasPlaces() bool { return s.Policy.Protection.View.Identity != catalog.Unknown }

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

// planStaged makes the plan of a statement that uses codes, or does what only a table's own rows can.
func (a *analysis) planStaged(p *Plan) {
	p.Reasons = a.reasons
	needed := map[*catalog.Policy][]int{}
	for _, inst := range a.instances {
		if !inst.used {
			continue
		}
		for _, policy := range a.encoders(inst) {
			needed[policy] = a.components(inst, policy, needed[policy])
		}
	}
	for _, inst := range a.instances {
		if !inst.used {
			continue
		}
		if inst.mask.Protection.View.Identity == catalog.Unknown {
			a.refusePlaceless(inst)
		}
		var codes []numbered
		for _, policy := range a.encoders(inst) {
			codes = append(codes, a.stageOf(p, inst, policy, needed[policy]))
		}
		p.edits = append(p.edits, a.replace(inst, a.coded(inst, codes)))
	}
}

// encoders are the policies whose codes a mention needs.
func (a *analysis) encoders(inst *instance) []*catalog.Policy {
	var list []*catalog.Policy
	for _, p := range inst.mask.Protection.Policies {
		if len(a.components(inst, p, nil)) > 0 {
			list = append(list, p)
		}
	}
	return list
}

// components adds those that a mention needs of a policy's codes to a list.
func (a *analysis) components(inst *instance, p *catalog.Policy, list []int) []int {
	for _, c := range p.Protection.Relation.Columns {
		switch k := p.Component(c.Num); {
		case inst.encoder(c.Num) != p || !a.lists(inst, c.Name):
		case k >= 0:
			list = append(list, k)
		default:
			for k := range p.Encoder.Dims {
				list = append(list, k)
			}
		}
	}
	slices.Sort(list)
	return slices.Compact(list)
}

// numbered is a stage of a plan.
type numbered struct {
	number int
	Stage
}

// stageOf finds or makes the stage of a mention for the codes of one policy.
func (a *analysis) stageOf(p *Plan, inst *instance, policy *catalog.Policy, components []int) numbered {
	s := Stage{Policy: policy, Components: components}
	identity := inst.mask.Protection.View.Identity
	s.Parts = append(slices.Clone(parts[identity]), codes)
	f := inst.list()
	var list string
	switch identity {
	case catalog.Place:
		list = f.row + ".ctid, " + f.row + ".xmin"
	case catalog.TableAndPlace:
		list = hash(f.row) + ", " + f.row + ".ctid, " + f.row + ".xmin, " + f.row + ".tableoid"
	case catalog.Unknown:
		s.Parts, list = a.carried(inst)
	}
	t := template{text: fmt.Sprintf("SELECT %s, %s FROM %s WHERE %s", list, f.seal(policy), f.source(), inst.means())}
	if !s.HasPlaces() && !a.alone {
		t.text += fmt.Sprintf(" AND scrim_runtime.one_snapshot(%d)", inst.mask.Protection.Relation.OID)
	}
	s.SQL = t.join(f.conditions()).fill(func(h hole) string {
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
	return numbered{at, s}
}

// hash spells a number for a row's table and place: a table's rows are in the order of their ctids, but those of several tables are
// in no order that a type of PostgreSQL has. Two rows with one number are told from each other by what the lists have besides.
func hash(row string) string {
	return fmt.Sprintf("pg_catalog.hashtidextended(%s.ctid, %[1]s.tableoid::pg_catalog.int8)", row)
}

// carried are the parts of a list that stands for a relation whose rows have no place: its columns besides those with codes that the
// statement needs, or one that says nothing, so that the list has as many elements as rows.
func (a *analysis) carried(inst *instance) (list []Part, sql string) {
	var columns []string
	f := inst.list()
	for _, c := range a.uncoded(inst) {
		columns = append(columns, f.value(c))
	}
	if len(columns) == 0 {
		columns = []string{"1"}
	}
	for i := range columns {
		list = append(list, Part{fmt.Sprintf("column %d", i+1), "text"})
	}
	return append(list, codes), strings.Join(columns, ", ")
}

// uncoded are the columns without codes that the replacement of a mention must have.
func (a *analysis) uncoded(inst *instance) []column {
	var list []column
	for _, c := range inst.mask.Protection.Relation.Columns {
		if a.lists(inst, c.Name) && (inst.isClear(c.Num) || inst.hasSQLMask(c.Num)) {
			list = append(list, c)
		}
	}
	return list
}

// means spells a condition that is evaluated once for each plan: it raises if the client's name, or the table, is not
// what the plan was made for.
func (i *instance) means() string {
	p := i.mask.Protection
	var names []string
	for _, c := range p.Relation.Columns {
		names = append(names, c.Name)
	}
	return stillMeans(nameOf(i.rv), p.Relation.OID, names)
}

func stillMeans(name Name, oid uint32, columns []string) string {
	list := make([]string, len(columns))
	for i, c := range columns {
		list[i] = literal(c)
	}
	return fmt.Sprintf("scrim_runtime.still_means(%s, %d, ARRAY[%s])", literal(name.Quoted()), oid, strings.Join(list, ", "))
}

// lists tells whether the replacement of a mention must have a column of this name.
func (a *analysis) lists(i *instance, name string) bool { return i.starred || a.words[name] }

// coded spells what stands for a mention in a statement that takes lists of codes. It reads the table itself, by the client's name
// and under the client's rights, unless an SQL mask is read and nothing else asks for the table. The conditions that shorten the lists
// are repeated.
func (a *analysis) coded(inst *instance, codes []numbered) template {
	if len(codes) > 0 && !codes[0].HasPlaces() {
		return a.listed(inst, codes)
	}
	f := a.form(inst)
	masks := func(c column) bool { return inst.hasSQLMask(c.Num) }
	if len(codes) == 0 {
		return a.replacement(f, nil, template{})
	}
	if !slices.ContainsFunc(a.uncoded(inst), masks) {
		f.row = table
	}
	return a.replacement(f, func(c column) template {
		at := slices.IndexFunc(codes, func(s numbered) bool { return s.Policy == inst.encoder(c.Num) })
		return f.code(codes[at], c.Num)
	}, f.conditions())
}

// selecting begins a subselect.
func selecting(list []template) template { return template{text: "(SELECT "}.join(commas(list)) }

func commas(list []template) template {
	var t template
	for i, c := range list {
		if i > 0 {
			t.text += ", "
		}
		t = t.join(c)
	}
	return t
}

// listed spells the subselect that stands for a mention whose rows have no place: the list itself.
func (a *analysis) listed(inst *instance, codes []numbered) template {
	if len(codes) > 1 { // nothing tells which rows of two lists are one
		refuse(codeFeatureNotSupported, int(inst.rv.GetLocation()), "Name masked columns of one policy only.",
			"a statement cannot compute with masked columns of %q that two policies encode", inst.rv.GetRelname())
	}
	stage, number := codes[0].Stage, codes[0].number
	var list, arrays []template
	carried := a.uncoded(inst)
	for _, c := range inst.mask.Protection.Relation.Columns {
		i := slices.Index(carried, c)
		switch {
		case i >= 0:
			collation := ""
			if c.Collation != "" {
				collation = " COLLATE " + c.Collation
			}
			list = append(list, template{text: fmt.Sprintf("(u.c%d::%s)%s AS %s", i+1, c.Type, collation, quote(c.Name))})
		case a.lists(inst, c.Name) && inst.encoder(c.Num) != nil:
			shown := strings.ReplaceAll(shows(stage, c.Num), "{row}", "u.row")
			list = append(list, lists(shown, number, stage).join(template{text: " AS " + quote(c.Name)}))
		}
	}
	var names []string
	for part := range stage.Parts[:len(stage.Parts)-1] {
		names = append(names, fmt.Sprintf("c%d", part+1))
		arrays = append(arrays, template{text: "pg_catalog.unnest(\x00::pg_catalog.text[])", holes: []hole{{stage: number, part: part}}})
	}
	return selecting(list).join(template{text: " FROM ROWS FROM ("}).join(commas(arrays)).
		join(template{text: fmt.Sprintf(") WITH ORDINALITY AS u(%s, row) WHERE %s)", strings.Join(names, ", "), inst.means())})
}

// refusePlaceless refuses what only rows with a place have.
func (a *analysis) refusePlaceless(inst *instance) {
	at := int(inst.rv.GetLocation())
	switch {
	case a.locked:
		refuse(codeFeatureNotSupported, at, "Lock the rows of the tables beneath.", "rows of %q cannot be locked by a statement that computes with its masked columns", inst.rv.GetRelname())
	case inst.sample != "":
		refuse(codeFeatureNotSupported, at, "", "TABLESAMPLE is not supported for masked columns of %q", inst.rv.GetRelname())
	case len(inst.system) > 0:
		refuse(codeFeatureNotSupported, at, "", "system columns of %q are not supported together with masked ones", inst.rv.GetRelname())
	}
}

// code spells what a masked column shows of a code. The row is looked up in the list by binary search; one that is
// not there in this very version raises: it has changed since the codes were listed. (A join would do the same in twice
// the time, and an inner join would leave the row out.)
func (f form) code(of numbered, num int16) template {
	raises, row := "no_codes", "pg_catalog.width_bucket({of}.ctid, {ids})"
	if of.Policy.Component(num) >= 0 {
		raises = "no_code"
	}
	listed := "CASE WHEN {ids}[{row}] OPERATOR(pg_catalog.=) {of}.ctid AND {versions}[{row}] OPERATOR(pg_catalog.=) {of}.xmin"
	if f.mask.Protection.View.Identity == catalog.TableAndPlace {
		row = "pg_catalog.width_bucket(" + hash(f.row) + ", {hashes})"
		listed += " AND {tables}[{row}] OPERATOR(pg_catalog.=) {of}.tableoid"
	}
	text := strings.ReplaceAll(listed+" THEN "+shows(of.Stage, num), "{row}", row)
	return lists(strings.ReplaceAll(text, "{of}", f.row), of.number, of.Stage).join(f.orElse(raises))
}

// shows spells what a masked column shows of the code at {row}.
func shows(stage Stage, num int16) string {
	width := len(stage.Components)
	if k := stage.Policy.Component(num); k >= 0 { // how far before the end of its code it is
		return fmt.Sprintf("{codes}[{row} OPERATOR(pg_catalog.*) %d OPERATOR(pg_catalog.-) %d]::pg_catalog.float8", width, width-1-slices.Index(stage.Components, k))
	}
	return fmt.Sprintf("{codes}[{row} OPERATOR(pg_catalog.*) %d OPERATOR(pg_catalog.-) %d : {row} OPERATOR(pg_catalog.*) %[1]d]", width, width-1)
}

// lists makes a template of a text that has the parts of a list by name. The parts are uncorrelated subselects, so that plans hold
// them once and EXPLAIN does not print them.
func lists(text string, number int, stage Stage) template {
	t := template{}
	for text != "" {
		before, rest, _ := strings.Cut(text, "{")
		t.text += before
		name, after, _ := strings.Cut(rest, "}")
		for part, p := range stage.Parts {
			if p.name == name {
				t.text += "(SELECT \x00::pg_catalog." + p.Type + "[])"
				t.holes = append(t.holes, hole{stage: number, part: part})
			}
		}
		text = after
	}
	return t
}

// orElse spells what there is in the place of a code that is not listed. The planner may come to it before the conditions
// that shorten the list: a row that does not meet them will not be seen.
func (f form) orElse(raises string) template {
	t := template{text: " ELSE "}
	if len(f.filters) > 0 {
		conditions := f.conditions()
		conditions.text = strings.TrimPrefix(conditions.text, " AND ") + " THEN "
		t = template{text: " WHEN "}.join(conditions)
	}
	t.text += "scrim_runtime." + raises + "(" + f.row + ".ctid) END"
	return t
}
