package rewrite

import (
	"cmp"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"

	pg_query "github.com/pganalyze/pg_query_go/v6"
	"google.golang.org/protobuf/proto"

	"github.com/scrimdb/scrim/catalog"
	"github.com/scrimdb/scrim/policy"
)

// Where a masked role asks the system catalogs for columns, it is told of masked ones as what they come back as. Two relations say it all:
// pg_attribute, in whose place a subselect has the types that are shown, and the view information_schema.columns, whose query takes
// its place, over that subselect, and lists masked columns although the role has no privilege on them.
//
// This is about what is shown, not about safety. So what cannot be done here is not refused: the statement is planned as if the
// catalogs were relations like others, and PostgreSQL tells of the columns as they are in the table.

// NamesColumns tells whether a name can be one of the two.
func NamesColumns(n Name) bool {
	switch n.Relation {
	case "pg_attribute":
		return n.Schema == "" || n.Schema == "pg_catalog"
	case "columns":
		return n.Schema == "" || n.Schema == "information_schema"
	}
	return false
}

const (
	attributeOID = 1249  // of pg_attribute, in every version
	firstUserOID = 16384 // FirstNormalObjectId: initdb makes nothing beyond
)

// shownType is a type in which masked columns come back, with what pg_attribute has of it.
type shownType struct {
	oid                               uint32
	length, byval, align, store, dims string
}

// These are told apart by address.
var (
	shownDouble = &shownType{oid: 701, length: "8", byval: "t", align: "d", store: "p", dims: "0"}
	shownVector = &shownType{oid: 1021, length: "-1", byval: "f", align: "i", store: "x", dims: "1"}
)

// shownAs is the type in which a hidden column comes back; nil for its own.
func shownAs(p *catalog.Policy, num int16) *shownType {
	switch {
	case !p.Encodes():
		return nil
	case p.Component(num) < 0:
		return shownVector
	}
	return shownDouble
}

// hiddenColumn is a masked column that a role cannot read raw. It sees the mask if it may read a column of the masked view.
type hiddenColumn struct {
	relation uint32
	num      int16
	as       *shownType
	view     uint32
	column   string
}

func hiddenColumns(masks policy.Masks) []hiddenColumn {
	var list []hiddenColumn
	for oid, mask := range masks.All() {
		for _, num := range slices.Sorted(maps.Keys(mask.Hidden)) {
			p := mask.Protection.Policy(num)
			column := p.Sealed
			if !p.Encodes() {
				column = viewName(mask.Protection.View.Masks, num)
			}
			list = append(list, hiddenColumn{relation: oid, num: num, as: shownAs(p, num), view: mask.Protection.View.OID, column: column})
		}
	}
	slices.SortStableFunc(list, func(x, y hiddenColumn) int { return cmp.Compare(x.relation, y.relation) })
	return list
}

// catalogs is what the names of a text mean where some are catalogs of columns.
type catalogs struct {
	hidden     []hiddenColumn
	resolved   map[Name]Relation // information_schema.columns has the query that lists hidden columns
	views      *views            // that are expanded: it is one
	attributes *views            // pg_attribute alone
}

// catalogsAmong returns nil where no name is a catalog of columns.
func catalogsAmong(resolved map[Name]Relation, masks policy.Masks) *catalogs {
	c := &catalogs{resolved: maps.Clone(resolved)}
	c.views = &views{resolved: c.resolved, masks: masks, needed: map[uint32]bool{}}
	c.attributes = &views{needed: map[uint32]bool{}}
	for name, rel := range resolved {
		c.attributes.needed[rel.OID] = rel.OID == attributeOID
		columns := name.Relation == "columns" && rel.View != nil && rel.OID < firstUserOID
		if !columns && rel.OID != attributeOID {
			continue
		}
		if c.hidden == nil {
			c.hidden = hiddenColumns(masks)
		}
		if columns {
			rel.View = rel.View.listing(c.hidden, resolved)
		} else {
			rel.View = &View{} // so that a mention of it is noted
		}
		c.views.needed[rel.OID] = columns
		c.resolved[name] = rel
	}
	if c.hidden == nil {
		return nil
	}
	return c
}

// listing is the query of information_schema.columns as masked roles read it: where it asks for a privilege on a column, a hidden one that
// the role sees masked will do.
func (v *View) listing(hidden []hiddenColumn, resolved map[Name]Relation) *View {
	a, edits := &analysis{text: v.text}, []edit(nil)
	insert := func(at int32, text string) {
		edits = append(edits, edit{start: int(at), end: int(at), template: template{text: text}})
	}
	tokens := a.tokens()
	walk(v.query.ProtoReflect(), func(m proto.Message) bool {
		call, ok := m.(*pg_query.FuncCall)
		if !ok || lastString(call.GetFuncname()) != "has_column_privilege" || len(call.GetArgs()) < 2 {
			return true
		}
		if end := a.closing(tokens, a.tokenAt(tokens, int(call.GetLocation()))); end >= 0 {
			insert(call.GetLocation(), "(")
			insert(tokens[end].GetEnd(), fmt.Sprintf(" OR (%s, %s) IN (%s))", spelled(call.GetArgs()[0].GetColumnRef()), spelled(call.GetArgs()[1].GetColumnRef()), seen(hidden)))
		}
		return true
	})
	text, _ := splice(v.text, append(edits, v.qualifications(resolved)...), asParameter)
	return &View{text: text, hash: v.hash, query: v.query, names: v.names}
}

func spelled(ref *pg_query.ColumnRef) string {
	names := make([]string, len(ref.GetFields()))
	for i, f := range ref.GetFields() {
		names[i] = quote(f.GetString_().GetSval())
	}
	return strings.Join(names, ".")
}

// seen spells the query for those hidden columns whose masks the role may read.
func seen(hidden []hiddenColumn) string {
	return fmt.Sprintf(`SELECT h.relation, h.num FROM unnest(%s::pg_catalog.oid[], %s::pg_catalog.int2[], %s::pg_catalog.oid[], %s::pg_catalog.name[]) h(relation, num, view, col) `+
		`JOIN pg_catalog.pg_attribute v ON v.attrelid OPERATOR(pg_catalog.=) h.view AND v.attname OPERATOR(pg_catalog.=) h.col `+
		`WHERE pg_catalog.has_column_privilege(v.attrelid, v.attnum, 'SELECT')`,
		array(hidden, func(h hiddenColumn) any { return h.relation }), array(hidden, func(h hiddenColumn) any { return h.num }),
		array(hidden, func(h hiddenColumn) any { return h.view }), array(hidden, func(h hiddenColumn) any { return h.column }))
}

// array spells an array. It is one token, however long.
func array(hidden []hiddenColumn, of func(hiddenColumn) any) string {
	list, escape := make([]string, len(hidden)), strings.NewReplacer(`\`, `\\`, `"`, `\"`)
	for i, h := range hidden {
		switch v := of(h).(type) {
		case string:
			list[i] = `"` + escape.Replace(v) + `"`
		default:
			list[i] = fmt.Sprint(v)
		}
	}
	return literal("{" + strings.Join(list, ",") + "}")
}

// planShowing plans a statement with catalogs that show masks, and if that cannot be done, without.
func (in *Inspected) planShowing(number int, v *views, expands bool, shows *catalogs) (*Plan, error) {
	if shows != nil {
		if plan, err := in.one(number, shows.views, true, shows); err == nil {
			return plan, nil
		}
	}
	return in.one(number, v, expands, nil)
}

// errNotShown means that a statement uses pg_attribute as no subselect can be used.
var errNotShown = errors.New("pg_attribute stays what it is")

// show puts subselects in the places of the mentions of pg_attribute that say something of types. It tells whether there were any.
func (c *catalogs) show(x *expanded, part bool) (found bool, err error) {
	defer recovered(&err)
	text, node := x.text, x.node
	if part { // positions count from the beginning of the statement
		if node, err = reparsed(text); err != nil {
			return false, err
		}
	}
	a := &analysis{text: text, resolved: c.resolved, views: c.attributes}
	columns := a.viewsIn(node)
	a.mentions = slices.DeleteFunc(a.mentions, func(m *mention) bool { return !m.saysTypes() })
	if len(a.mentions) == 0 {
		return false, nil
	}
	u := usesOf(node, a.mentions)
	if !u.fit {
		return false, errNotShown
	}
	edits, size := a.casts(u.rows), len(text)
	for _, m := range a.mentions {
		e := a.replace(&instance{rv: m.rv}, template{text: c.subselect(m, u.system)})
		if size += len(e.text); size > maxText {
			return false, errNotShown
		}
		edits = append(edits, e)
	}
	for _, ref := range a.viewRefs {
		edits = append(edits, a.unqualify(ref))
	}
	x.joins(columns)
	x.text, edits = splice(text, edits, asParameter)
	x.steps = append(x.steps, edits)
	x.node, err = reparsed(x.text)
	return true, err
}

// joins adds columns of the result that are the catalog's to those of views.
func (x *expanded) joins(columns []ResultColumn) {
	if len(x.steps) == 0 {
		x.columns = columns
	}
	for i, c := range x.columns {
		if c.Relation == 0 && len(columns) == len(x.columns) {
			x.columns[i] = columns[i]
		}
	}
}

// typeColumns are those of pg_attribute that depend on the type, with how a shown one is spelled: as a literal that takes the column's
// type, which is not the same in all versions.
var typeColumns = map[string]func(*shownType) string{
	"atttypid":       func(t *shownType) string { return fmt.Sprint(t.oid) },
	"atttypmod":      func(*shownType) string { return "-1" },
	"attlen":         func(t *shownType) string { return t.length },
	"attbyval":       func(t *shownType) string { return t.byval },
	"attalign":       func(t *shownType) string { return t.align },
	"attstorage":     func(t *shownType) string { return t.store },
	"attndims":       func(t *shownType) string { return t.dims },
	"attcompression": func(*shownType) string { return "" },
	"attcollation":   func(*shownType) string { return "0" },
}

func (m *mention) saysTypes() bool {
	for i, name := range m.rel.Columns {
		if typeColumns[name] != nil && m.read[i] {
			return true
		}
	}
	return false
}

// subselect spells what stands for pg_attribute. The planner flattens it, and finds rows by its indexes.
func (c *catalogs) subselect(m *mention, system []string) string {
	changed := slices.DeleteFunc(slices.Clone(c.hidden), func(h hiddenColumn) bool { return h.as == nil })
	var types []*shownType
	for _, h := range changed {
		if !slices.Contains(types, h.as) {
			types = append(types, h.as)
		}
	}
	var list []string
	for _, name := range m.rel.Columns {
		column := "a." + quote(name)
		if spell := typeColumns[name]; spell != nil && len(types) > 0 {
			column = "CASE " + whenShown(types, spell) + " ELSE " + column + " END AS " + quote(name)
		}
		list = append(list, column)
	}
	for _, name := range system {
		list = append(list, "a."+name)
	}
	where := ""
	if name := nameOf(m.rv); name.Schema == "" {
		where = " WHERE " + stillMeans(name, m.rel.OID, m.rel.Columns)
	}
	return fmt.Sprintf("(SELECT %s FROM pg_catalog.pg_attribute a LEFT JOIN unnest(%s::pg_catalog.oid[], %s::pg_catalog.int2[], %s::pg_catalog.oid[]) m(relation, num, type) "+
		"ON a.attrelid OPERATOR(pg_catalog.=) m.relation AND a.attnum OPERATOR(pg_catalog.=) m.num%s)", strings.Join(list, ", "),
		array(changed, func(h hiddenColumn) any { return h.relation }), array(changed, func(h hiddenColumn) any { return h.num }),
		array(changed, func(h hiddenColumn) any { return h.as.oid }), where)
}

// whenShown spells what a column of pg_attribute has for each of the types.
func whenShown(types []*shownType, spell func(*shownType) string) string {
	when := make([]string, len(types))
	for i, t := range types {
		when[i] = fmt.Sprintf("WHEN m.type OPERATOR(pg_catalog.=) %d THEN %s", t.oid, literal(spell(t)))
	}
	return strings.Join(when, " ")
}

// uses is how a statement uses mentions of pg_attribute, besides naming columns.
type uses struct {
	names  map[string]bool          // of their rows
	system []string                 // system columns
	rows   []*pg_query.ColumnRef    // whole rows that functions of information_schema get
	stars  bool                     // all columns of something are listed
	fit    bool                     // subselects can stand for them
	has    func(column string) bool // of pg_attribute
}

// usesOf looks whether subselects can stand for mentions: they have no row type of their own and no primary key, their rows cannot be
// locked, and system columns are columns like others.
func usesOf(node *pg_query.Node, mentions []*mention) *uses {
	u := &uses{names: map[string]bool{}, fit: true, has: func(column string) bool { return slices.Contains(mentions[0].rel.Columns, column) }}
	for _, m := range mentions {
		name := m.rv.GetRelname()
		if m.rv.GetAlias() != nil {
			name = m.rv.GetAlias().GetAliasname()
		}
		u.names[name] = true
		u.fit = u.fit && !m.locked
	}
	walk(node.ProtoReflect(), func(m proto.Message) bool {
		switch m := m.(type) {
		case *pg_query.ResTarget:
			u.stars = u.stars || isStar(m.GetVal())
			return !isStar(m.GetVal())
		case *pg_query.JoinExpr:
			u.stars = u.stars || m.GetIsNatural()
		case *pg_query.FuncCall:
			for _, arg := range m.GetArgs() {
				if isStar(arg) && strings.HasPrefix(lastString(m.GetFuncname()), "_pg_truetyp") {
					u.rows = append(u.rows, arg.GetColumnRef())
				}
			}
		case *pg_query.SelectStmt:
			u.fit = u.fit && !groupsByKey(m)
		case *pg_query.ColumnRef:
			if !slices.Contains(u.rows, m) {
				u.column(m)
			}
		}
		return u.fit
	})
	u.fit = u.fit && (len(u.system) == 0 || !u.stars)
	u.rows = slices.DeleteFunc(u.rows, func(ref *pg_query.ColumnRef) bool {
		return !u.names[lastString(ref.GetFields()[:len(ref.GetFields())-1])]
	})
	return u
}

// column notes what a reference may mean of a mention.
func (u *uses) column(ref *pg_query.ColumnRef) {
	fields := ref.GetFields()
	name, of := lastString(fields), lastString(fields[:len(fields)-1])
	switch {
	case of != "" && !u.names[of]:
		u.fit = u.fit && (len(fields) == 2 || !u.names[fields[0].GetString_().GetSval()])
	case slices.Contains(systemColumns, name):
		if !slices.Contains(u.system, name) {
			u.system = append(u.system, name)
		}
	case of != "": // a column, or a function of the row
		u.fit = u.fit && u.has(name)
	default: // the row itself, or in an expression all of it
		u.fit = u.fit && !u.names[name] && name != ""
	}
}

// casts makes rows of the type again that the catalog's have.
func (a *analysis) casts(rows []*pg_query.ColumnRef) (edits []edit) {
	tokens := a.tokens()
	for _, ref := range rows {
		at := a.tokenAt(tokens, int(ref.GetLocation()))
		end := at + 2*(len(ref.GetFields())-1)
		if at < 0 || end >= len(tokens) {
			refuse(codeFeatureNotSupported, -1, "", "cannot rewrite this column reference")
		}
		offset := int(tokens[end].GetEnd())
		edits = append(edits, edit{start: offset, end: offset, template: template{text: "::pg_catalog.pg_attribute"}})
	}
	return edits
}

// groupsByKey tells whether a query may rely on the primary key of pg_attribute.
func groupsByKey(sel *pg_query.SelectStmt) bool {
	names := map[string]bool{}
	for _, node := range sel.GetGroupClause() {
		names[lastString(node.GetColumnRef().GetFields())] = true
		for i, target := range sel.GetTargetList() { // by its place or name in the result
			t := target.GetResTarget()
			if int(node.GetAConst().GetIval().GetIval()) == i+1 || t.GetName() != "" && t.GetName() == lastString(node.GetColumnRef().GetFields()) {
				names[lastString(t.GetVal().GetColumnRef().GetFields())] = true
			}
		}
	}
	return names["attrelid"] && names["attnum"]
}
