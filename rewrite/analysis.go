package rewrite

import (
	"slices"

	pg_query "github.com/pganalyze/pg_query_go/v6"
	"google.golang.org/protobuf/proto"

	"github.com/scrimdb/scrim/catalog"
	"github.com/scrimdb/scrim/policy"
)

// column of a protected relation, under the name that this package uses most.
type column = catalog.Column

// analysis is one walk over one statement.
type analysis struct {
	text      string
	resolved  map[Name]Relation
	masks     policy.Masks
	instances []*instance
	effort    int  // sources copied so far
	modifies  bool // there is a data-modifying WITH
}

// instance is one mention of a protected relation in a FROM clause.
type instance struct {
	mask policy.Mask
	rv   *pg_query.RangeVar
	used bool // some masked column of it is touched, so it must be replaced
}

// rowID tells rows apart: two columns with the same rowID come from the same row of the same mention. A CTE that is
// mentioned twice gives each mention row identities of its own.
type rowID struct{ inst *instance }

// source is one place a slot comes from: a masked column (its attribute number) of a row.
type source struct {
	row *rowID
	num int16
}

// outColumn is a column of a FROM item or of a query's result. A slot has a source for each branch of UNION ALL it went
// through; any other column has none. The name is empty where this package does not know it.
type outColumn struct {
	name    string
	sources []source
}

func (c outColumn) isSlot() bool { return len(c.sources) > 0 }

// maxEffort bounds what a statement may cost to analyse: stars over CTEs over UNION ALL multiply.
const maxEffort = 100_000

// spend counts the sources of columns that are copied.
func (a *analysis) spend(c columns) columns {
	for _, col := range c.cols {
		a.effort += 1 + len(col.sources)
	}
	if a.effort > maxEffort {
		refuse(codeTooComplex, -1, "", "statement is too complex to analyse next to masked columns")
	}
	return c
}

// columns of a relation. Open means that there are more than are listed.
type columns struct {
	cols []outColumn
	open bool
}

func (c columns) hasSlots() bool { return slices.ContainsFunc(c.cols, outColumn.isSlot) }

// item is a name that qualifies columns: an alias, or a table that has none.
type item struct {
	name, schema string // schema only when one was written and no alias hides it
	columns
}

// scope is what an expression can see: the items of its own FROM clause, then those of the query around it.
type scope struct {
	items  []*item
	all    columns // what a bare star stands for, in order
	parent *scope
}

// ctes is the stack of WITH names in sight.
type ctes struct {
	name string
	columns
	next *ctes
}

func (e *ctes) find(name string) *ctes {
	for ; e != nil; e = e.next {
		if e.name == name {
			return e
		}
	}
	return nil
}

func (a *analysis) anyUsed() bool {
	return slices.ContainsFunc(a.instances, func(i *instance) bool { return i.used })
}

const deferredHint = "In this version a masked column can be selected, through subqueries, CTEs, joins and UNION ALL, but not computed with."

// refuseUse refuses a slot in a place where it does not only travel.
func refuseUse(ref *pg_query.ColumnRef, name, where string) {
	refuse(codeFeatureNotSupported, int(ref.GetLocation()), deferredHint, "masked column %q cannot be used in %s yet", name, where)
}

// query analyses a SELECT of any form and returns the columns of its result.
func (a *analysis) query(sel *pg_query.SelectStmt, outer *scope, env *ctes) columns {
	if w := sel.GetWithClause(); w != nil {
		env = a.with(w, outer, env)
	}
	switch {
	case sel.GetOp() != pg_query.SetOperation_SETOP_NONE:
		return a.setOperation(sel, outer, env)
	case len(sel.GetValuesLists()) > 0:
		return a.values(sel, outer, env)
	}
	return a.plainSelect(sel, outer, env)
}

func (a *analysis) with(w *pg_query.WithClause, outer *scope, env *ctes) *ctes {
	if w.GetRecursive() { // each sees all the others, and itself; columns are not known yet
		for _, node := range w.GetCtes() {
			env = &ctes{name: node.GetCommonTableExpr().GetCtename(), columns: columns{open: true}, next: env}
		}
	}
	for _, node := range w.GetCtes() {
		cte := node.GetCommonTableExpr()
		sel := cte.GetCtequery().GetSelectStmt()
		if sel == nil { // INSERT, UPDATE, DELETE, MERGE ... RETURNING
			a.modifies = true
			env = &ctes{name: cte.GetCtename(), columns: columns{open: true}, next: env}
			continue
		}
		out := a.query(sel, outer, env)
		if w.GetRecursive() && out.hasSlots() {
			refuse(codeFeatureNotSupported, int(cte.GetLocation()), deferredHint, "masked columns cannot be used in WITH RECURSIVE yet")
		}
		out = out.renamed(cte.GetAliascolnames())
		if cte.GetSearchClause() != nil || cte.GetCycleClause() != nil {
			out.open = true
		}
		env = &ctes{name: cte.GetCtename(), columns: out, next: env}
	}
	return env
}

func (a *analysis) setOperation(sel *pg_query.SelectStmt, outer *scope, env *ctes) columns {
	left, right := a.query(sel.GetLarg(), outer, env), a.query(sel.GetRarg(), outer, env)
	out := columns{open: left.open || right.open}
	if (left.hasSlots() || right.hasSlots()) && (sel.GetOp() != pg_query.SetOperation_SETOP_UNION || !sel.GetAll()) {
		refuse(codeFeatureNotSupported, -1, deferredHint, "masked columns cannot be compared by UNION, INTERSECT or EXCEPT yet")
	}
	if (left.hasSlots() || right.hasSlots()) && (out.open || len(left.cols) != len(right.cols)) {
		refuse(codeFeatureNotSupported, -1, "List the columns instead of using a star.", "cannot match the columns of UNION ALL around a masked column")
	}
	for i, l := range left.cols {
		if i < len(right.cols) {
			r := right.cols[i]
			if l.isSlot() != r.isSlot() || l.isSlot() && !sameMask(l, r) {
				refuse(codeFeatureNotSupported, -1, deferredHint, "UNION ALL would mix a masked column with other values in column %d", i+1)
			}
			if l.sources = slices.Concat(l.sources, r.sources); len(l.sources) > maxColumns {
				refuse(codeTooComplex, -1, "", "too many branches of UNION ALL around a masked column")
			}
		}
		out.cols = append(out.cols, l)
	}
	a.tail(sel, &scope{parent: outer}, out, env)
	return a.spend(out)
}

// sameMask tells whether two slots are of one masked column, so that one kind of value fills the place.
func sameMask(l, r outColumn) bool {
	x, y := l.sources[0], r.sources[0]
	return x.num == y.num && x.row.inst.mask.Policy == y.row.inst.mask.Policy
}

func (a *analysis) values(sel *pg_query.SelectStmt, outer *scope, env *ctes) columns {
	s := &scope{parent: outer}
	for _, list := range sel.GetValuesLists() {
		a.expr(list, s, env, "VALUES")
	}
	a.tail(sel, s, columns{}, env)
	return columns{open: true}
}

func (a *analysis) plainSelect(sel *pg_query.SelectStmt, outer *scope, env *ctes) columns {
	s := &scope{parent: outer}
	for _, node := range sel.GetFromClause() {
		items, cols := a.from(node, s, env)
		s.items = append(s.items, items...)
		s.all.cols = append(s.all.cols, cols.cols...)
		s.all.open = s.all.open || cols.open
	}
	if sel.GetIntoClause() != nil {
		refuse(codeFeatureNotSupported, -1, deferredHint, "masked columns cannot be stored by SELECT INTO yet")
	}
	a.expr(sel.GetWhereClause(), s, env, "WHERE")
	a.expr(sel.GetHavingClause(), s, env, "HAVING")
	out := a.targets(sel.GetTargetList(), s, env)
	for _, g := range sel.GetGroupClause() {
		a.sortKey(g, s, out, env, "GROUP BY")
	}
	if len(sel.GetGroupClause()) > 0 && out.hasSlots() {
		refuse(codeFeatureNotSupported, -1, deferredHint, "masked columns cannot be selected from a GROUP BY yet")
	}
	for _, w := range sel.GetWindowClause() {
		a.expr(w, s, env, "WINDOW")
	}
	for _, d := range sel.GetDistinctClause() {
		if d.GetNode() == nil { // plain DISTINCT
			if out.hasSlots() {
				refuse(codeFeatureNotSupported, -1, deferredHint, "masked columns cannot be compared by DISTINCT yet")
			}
			continue
		}
		a.sortKey(d, s, out, env, "DISTINCT ON")
	}
	a.tail(sel, s, out, env)
	return out
}

// tail analyses what comes after a SELECT or a set operation.
func (a *analysis) tail(sel *pg_query.SelectStmt, s *scope, out columns, env *ctes) {
	for _, node := range sel.GetSortClause() {
		a.sortKey(node.GetSortBy().GetNode(), s, out, env, "ORDER BY")
	}
	a.expr(sel.GetLimitCount(), s, env, "LIMIT")
	a.expr(sel.GetLimitOffset(), s, env, "OFFSET")
	if len(sel.GetLockingClause()) > 0 && (s.all.hasSlots() || slices.ContainsFunc(s.items, func(i *item) bool { return i.hasSlots() })) {
		refuse(codeFeatureNotSupported, -1, "Lock the rows in a query that names unmasked columns only.", "row locks on a protected table are not supported together with masked columns yet")
	}
}

// sortKey analyses a member of ORDER BY, GROUP BY or DISTINCT ON: a position, a name of the output, or an expression.
func (a *analysis) sortKey(node *pg_query.Node, s *scope, out columns, env *ctes, where string) {
	if c := node.GetAConst(); c != nil && c.GetIval() != nil {
		if n := int(c.GetIval().GetIval()); n >= 1 && n <= len(out.cols) && out.cols[n-1].isSlot() {
			refuse(codeFeatureNotSupported, int(c.GetLocation()), deferredHint, "masked column %q cannot be used in %s yet", out.cols[n-1].name, where)
		} else if out.open && out.hasSlots() {
			refuse(codeFeatureNotSupported, int(c.GetLocation()), "Name the column.", "cannot tell which column position %d is", n)
		}
		return
	}
	if ref := node.GetColumnRef(); ref != nil && len(ref.GetFields()) == 1 {
		name := ref.GetFields()[0].GetString_().GetSval()
		for _, c := range out.cols {
			if c.name == name && c.isSlot() {
				refuseUse(ref, name, where)
			}
		}
		if where == "ORDER BY" && slices.ContainsFunc(out.cols, func(c outColumn) bool { return c.name == name }) {
			return // in ORDER BY a name of the output comes first
		}
	}
	a.expr(node, s, env, where)
}

// targets analyses a select list.
func (a *analysis) targets(list []*pg_query.Node, s *scope, env *ctes) columns {
	var out columns
	for _, node := range list {
		target := node.GetResTarget()
		ref := target.GetVal().GetColumnRef()
		if ref == nil {
			a.expr(target.GetVal(), s, env, "an expression")
			out.cols = append(out.cols, outColumn{name: outputName(target)})
			continue
		}
		if star := ref.GetFields()[len(ref.GetFields())-1].GetAStar(); star != nil {
			cols := a.spend(a.star(ref, s))
			out.cols = append(out.cols, cols.cols...)
			out.open = out.open || cols.open
			out.bounded()
			continue
		}
		col := outColumn{name: outputName(target)}
		if found := a.lookup(ref, s); found.isSlot() {
			col.sources = found.sources
			a.use(col)
		}
		out.cols = append(out.cols, col)
	}
	return out
}

// outputName is the name PostgreSQL gives a result column, or "" where its rule is not worth knowing here.
func outputName(target *pg_query.ResTarget) string {
	if target.GetName() != "" {
		return target.GetName()
	}
	switch {
	case target.GetVal().GetColumnRef() != nil:
		return lastString(target.GetVal().GetColumnRef().GetFields())
	case target.GetVal().GetFuncCall() != nil:
		return lastString(target.GetVal().GetFuncCall().GetFuncname())
	}
	return ""
}

func (a *analysis) use(c outColumn) {
	for _, s := range c.sources {
		s.row.inst.used = true
	}
}

// star expands * or t.*.
func (a *analysis) star(ref *pg_query.ColumnRef, s *scope) columns {
	cols := s.all
	if qualifiers := ref.GetFields()[:len(ref.GetFields())-1]; len(qualifiers) > 0 {
		it := s.findItem(ref, qualifiers)
		if it == nil {
			return columns{open: true} // a composite column, or an error of PostgreSQL's
		}
		cols = it.columns
	}
	for _, c := range cols.cols {
		a.use(c)
	}
	return cols
}

// maxColumns is PostgreSQL's MaxTupleAttributeNumber: no query may have more columns. Checked early, since a star over a
// star over a star doubles them each time.
const maxColumns = 1664

func (c columns) bounded() columns {
	if len(c.cols) > maxColumns {
		refuse(codeTooManyColumns, -1, "", "target lists can have at most %d entries", maxColumns)
	}
	return c
}

// findItem finds the item that qualifiers name, in this scope or around it.
func (s *scope) findItem(ref *pg_query.ColumnRef, qualifiers []*pg_query.Node) *item {
	name := lastString(qualifiers)
	schema := lastString(qualifiers[:len(qualifiers)-1])
	for ; s != nil; s = s.parent {
		for _, it := range s.items {
			if it.name != name || schema != "" && it.schema != "" && it.schema != schema {
				continue
			}
			if schema != "" && it.hasSlots() {
				refuse(codeFeatureNotSupported, int(ref.GetLocation()), "Give the table an alias, and qualify columns by that.",
					"columns of the protected table %q cannot be qualified by schema yet", name)
			}
			return it
		}
	}
	return nil
}

// lookup finds the column that a reference means. Whatever is not surely another column, and could be a slot, is one. A
// whole row of slots is refused.
func (a *analysis) lookup(ref *pg_query.ColumnRef, s *scope) outColumn {
	fields := ref.GetFields()
	name := lastString(fields)
	if len(fields) > 1 {
		it := s.findItem(ref, fields[:len(fields)-1])
		if it == nil {
			return outColumn{}
		}
		c := it.find(name)
		if c.name == "" && it.hasSlots() && !it.open {
			// Not left to PostgreSQL: it might know a function of that name, and give it the whole row.
			refuse(codeUndefinedColumn, int(ref.GetLocation()), "", "column %s.%s does not exist", it.name, name)
		}
		return c
	}
	unsure := false
	for around := s; around != nil; around = around.parent {
		if c := around.all.find(name); c.name != "" {
			if c.isSlot() && unsure {
				refuse(codeFeatureNotSupported, int(ref.GetLocation()), "Qualify the column by its table.", "cannot tell whether column %q is masked", name)
			}
			return c
		}
		unsure = unsure || around.all.open || slices.ContainsFunc(around.all.cols, func(c outColumn) bool { return c.name == "" })
	}
	for around := s; around != nil; around = around.parent {
		for _, it := range around.items {
			if it.name == name && it.hasSlots() {
				refuse(codeFeatureNotSupported, int(ref.GetLocation()), deferredHint, "whole rows of %q cannot be used while it has masked columns yet", name)
			}
		}
	}
	return outColumn{}
}

// find returns the column of that name: a slot if any of that name is one.
func (c columns) find(name string) outColumn {
	var found outColumn
	for _, col := range c.cols {
		if col.name == name && (found.name == "" || col.isSlot()) {
			found = col
		}
	}
	return found
}

// expr refuses every slot in an expression, and analyses the queries inside it.
func (a *analysis) expr(node *pg_query.Node, s *scope, env *ctes, where string) {
	if node == nil {
		return
	}
	walk(node.ProtoReflect(), func(m proto.Message) bool {
		switch m := m.(type) {
		case *pg_query.ColumnRef:
			a.exprColumn(m, s, where)
			return false
		case *pg_query.SubLink:
			a.expr(m.GetTestexpr(), s, env, where)
			out := a.query(m.GetSubselect().GetSelectStmt(), s, env)
			if out.hasSlots() && m.GetSubLinkType() != pg_query.SubLinkType_EXISTS_SUBLINK {
				refuse(codeFeatureNotSupported, int(m.GetLocation()), deferredHint, "a subquery in %s cannot return a masked column yet", where)
			}
			return false
		case *pg_query.SelectStmt: // JSON_ARRAY(SELECT ...)
			if a.query(m, s, env).hasSlots() {
				refuse(codeFeatureNotSupported, -1, deferredHint, "a subquery in %s cannot return a masked column yet", where)
			}
			return false
		}
		return true
	})
}

func (a *analysis) exprColumn(ref *pg_query.ColumnRef, s *scope, where string) {
	fields := ref.GetFields()
	if fields[len(fields)-1].GetAStar() != nil {
		if a.star(ref, s).hasSlots() {
			refuse(codeFeatureNotSupported, int(ref.GetLocation()), deferredHint, "whole rows with masked columns cannot be used in %s yet", where)
		}
		return
	}
	if c := a.lookup(ref, s); c.isSlot() {
		refuseUse(ref, c.name, where)
	}
}

// renamed gives the first columns new names: t AS c(a, b).
func (c columns) renamed(names []*pg_query.Node) columns {
	if len(names) == 0 {
		return c
	}
	if c.open && c.hasSlots() {
		refuse(codeFeatureNotSupported, -1, "List the columns instead of using a star.", "cannot tell which columns an alias list renames next to masked columns")
	}
	cols := slices.Clone(c.cols)
	for i, n := range names {
		if i < len(cols) {
			cols[i].name = n.GetString_().GetSval()
		}
	}
	return columns{cols: cols, open: c.open}
}
