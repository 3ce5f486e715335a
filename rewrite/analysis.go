package rewrite

import (
	"fmt"
	"slices"

	pg_query "github.com/pganalyze/pg_query_go/v6"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"

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
	effort    int      // sources copied so far
	reasons   []Reason // why codes are needed before the statement can run; none while slots only travel
	qualified []qualified
	groups    []grouping
	removed   []removal
	words     map[string]bool // names of columns that the statement mentions
	fixed     bool            // parameters have no values before the statement runs: PREPARE
	scanned   []*pg_query.ScanToken
	locked    bool // rows are locked
	alone     bool // one relation is read, once
	// While views are expanded: which need it, what mentions them, and columns of those that a schema stands before.
	views    *views
	mentions []*mention
	viewRefs []*pg_query.ColumnRef
}

func (a *analysis) anyUsed() bool {
	return slices.ContainsFunc(a.instances, func(i *instance) bool { return i.used })
}

// stage notes that a slot does not only travel, or may not: codes are needed before the statement runs. at is the byte offset
// that this is about, or -1.
func (a *analysis) stage(at int, format string, args ...any) {
	if len(a.reasons) == maxReasons {
		return
	}
	if r := (Reason{Text: fmt.Sprintf(format, args...), Offset: at}); !slices.Contains(a.reasons, r) {
		a.reasons = append(a.reasons, r)
	}
}

// compute notes that a slot is used in a place where it does not only travel.
func (a *analysis) compute(c outColumn, where string, at int) {
	a.use(c)
	a.stage(at, "%s is used in %s", c.name, where)
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
			a.modification(cte.GetCtequery(), outer, env)
			env = &ctes{name: cte.GetCtename(), columns: columns{open: true}, next: env}
			continue
		}
		out := a.query(sel, outer, env)
		if w.GetRecursive() {
			a.consume(out, "WITH RECURSIVE", int(cte.GetLocation()))
			out = out.plain()
		}
		out = a.renamed(out, cte.GetAliascolnames())
		if cte.GetSearchClause() != nil || cte.GetCycleClause() != nil {
			out.open = true
		}
		env = &ctes{name: cte.GetCtename(), columns: out, next: env}
	}
	return env
}

func (a *analysis) setOperation(sel *pg_query.SelectStmt, outer *scope, env *ctes) columns {
	left, right := a.query(sel.GetLarg(), outer, env), a.query(sel.GetRarg(), outer, env)
	out, both := columns{open: left.open || right.open}, columns{cols: slices.Concat(left.cols, right.cols)}
	unites := sel.GetOp() == pg_query.SetOperation_SETOP_UNION && sel.GetAll()
	if !unites {
		a.consume(both, "UNION, INTERSECT or EXCEPT", -1)
	}
	if (left.hasSlots() || right.hasSlots()) && (out.open || len(left.cols) != len(right.cols)) {
		a.consume(both, "UNION ALL of unknown columns", -1)
		left, right = left.plain(), right.plain()
	}
	for i, l := range left.cols {
		l.of, l.sqlMask, l.view = origin{}, origin{}, ResultColumn{}
		if i < len(right.cols) {
			r := right.cols[i]
			if unites && (l.isSlot() != r.isSlot() || l.isSlot() && !sameMask(l, r)) {
				a.stage(-1, "UNION ALL mixes a masked column with other values")
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
	return x.num == y.num && x.policy() == y.policy()
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
	before, mentions := len(a.instances), len(a.mentions)
	for _, node := range sel.GetFromClause() {
		a.fromMember(node, s, env)
	}
	a.locks(sel, s, mentions)
	if sel.GetIntoClause() != nil {
		a.stage(int(sel.GetIntoClause().GetRel().GetLocation()), "SELECT INTO stores")
	}
	a.filter(sel.GetWhereClause(), s, a.within(before))
	a.expr(sel.GetWhereClause(), s, env, "WHERE")
	a.expr(sel.GetHavingClause(), s, env, "HAVING")
	out := a.targets(sel.GetTargetList(), s, env)
	for _, g := range sel.GetGroupClause() {
		a.sortKey(g, s, out, env, "GROUP BY")
	}
	if len(sel.GetGroupClause()) > 0 {
		a.consume(out, "a grouped query", -1)
		a.groupedBy(sel, s)
	}
	for _, w := range sel.GetWindowClause() {
		a.expr(w, s, env, "WINDOW")
	}
	for _, d := range sel.GetDistinctClause() {
		if d.GetNode() == nil { // plain DISTINCT
			a.consume(out, "DISTINCT", -1)
			continue
		}
		a.sortKey(d, s, out, env, "DISTINCT ON")
	}
	a.tail(sel, s, out, env)
	if !isSimple(sel) { // a condition on its result is none on its rows
		out = out.detached()
	}
	return out
}

// within allows conditions on the mentions since then that no outer join makes up rows for.
func (a *analysis) within(since int) func(*instance) bool {
	own := a.instances[since:len(a.instances):len(a.instances)]
	return func(i *instance) bool { return !i.nullable && slices.Contains(own, i) }
}

// fromMember adds a member of a FROM clause to the scope.
func (a *analysis) fromMember(node *pg_query.Node, s *scope, env *ctes) {
	items, cols := a.from(node, s, env)
	s.items = append(s.items, items...)
	s.all.cols = append(s.all.cols, cols.cols...)
	s.all.open = s.all.open || cols.open
}

// isSimple tells whether a condition on a column of a SELECT's result can as well be one on the rows it comes from.
func isSimple(sel *pg_query.SelectStmt) bool {
	return len(sel.GetGroupClause()) == 0 && sel.GetHavingClause() == nil && len(sel.GetDistinctClause()) == 0 &&
		sel.GetLimitCount() == nil && sel.GetLimitOffset() == nil && len(sel.GetWindowClause()) == 0 && len(sel.GetLockingClause()) == 0 &&
		!slices.ContainsFunc(sel.GetTargetList(), computes)
}

// computes tells whether an output may be an aggregate, a window function or a set of rows: whether it calls anything.
func computes(target *pg_query.Node) bool {
	found := false
	walk(target.ProtoReflect(), func(m proto.Message) bool {
		switch m.(type) {
		case *pg_query.FuncCall, *pg_query.JsonAggConstructor:
			found = true
		}
		return !found
	})
	return found
}

// detached returns the columns with nothing known of where unmasked ones come from.
func (c columns) detached() columns {
	out := columns{cols: slices.Clone(c.cols), open: c.open}
	for i := range out.cols {
		out.cols[i].of = origin{}
	}
	return out
}

// plain returns the columns as if none were masked.
func (c columns) plain() columns {
	out := c.detached()
	for i := range out.cols {
		out.cols[i].sources, out.cols[i].sqlMask = nil, origin{}
	}
	return out
}

// consume notes that masked columns are used where slots do not only travel.
func (a *analysis) consume(c columns, where string, at int) {
	for _, col := range c.cols {
		if col.isSlot() {
			a.compute(col, where, at)
		} else {
			a.use(col)
		}
	}
}

// tail analyses what comes after a SELECT or a set operation.
func (a *analysis) tail(sel *pg_query.SelectStmt, s *scope, out columns, env *ctes) {
	for _, node := range sel.GetSortClause() {
		a.sortKey(node.GetSortBy().GetNode(), s, out, env, "ORDER BY")
	}
	a.expr(sel.GetLimitCount(), s, env, "LIMIT")
	a.expr(sel.GetLimitOffset(), s, env, "OFFSET")
	if len(sel.GetLockingClause()) > 0 { // the masked view cannot be locked
		a.locked = true
		a.stage(-1, "rows are locked")
	}
}

// sortKey analyses a member of ORDER BY, GROUP BY or DISTINCT ON: a position, a name of the output, or an expression.
func (a *analysis) sortKey(node *pg_query.Node, s *scope, out columns, env *ctes, where string) {
	if c := node.GetAConst(); c != nil && c.GetIval() != nil {
		if n := int(c.GetIval().GetIval()); n >= 1 && n <= len(out.cols) && !out.open {
			a.consume(columns{cols: out.cols[n-1 : n]}, where, int(c.GetLocation()))
		} else if out.open {
			a.consume(out, where, int(c.GetLocation()))
		}
		return
	}
	if ref := node.GetColumnRef(); ref != nil && len(ref.GetFields()) == 1 {
		name := ref.GetFields()[0].GetString_().GetSval()
		named := false
		for _, c := range out.cols {
			if c.name == name {
				named = true
				a.consume(columns{cols: []outColumn{c}}, where, int(ref.GetLocation()))
			}
		}
		if where == "ORDER BY" && named {
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
		found := a.lookup(ref, s)
		a.use(found)
		out.cols = append(out.cols, outColumn{name: outputName(target), sources: found.sources, sqlMask: found.sqlMask, of: found.of, view: found.view})
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
		if s.row.inst.target {
			refuse(codeFeatureNotSupported, -1, "Read it in a subquery, as in WHERE id IN (SELECT id FROM ...).",
				"masked column %q cannot be read from the table that the statement changes", c.name)
		}
		s.row.inst.reads(s.num)
	}
	if c.sqlMask.inst != nil {
		c.sqlMask.inst.reads(c.sqlMask.num)
	}
}

// useAll notes that all columns of an item are used.
func (a *analysis) useAll(c columns) {
	for _, col := range c.cols {
		a.use(col)
		col.starred()
	}
}

// starred notes that a column was listed by a star, or counted: the mention must have all of its columns, in order.
func (c outColumn) starred() {
	for _, s := range c.sources {
		s.row.inst.starred = true
	}
	for _, of := range []origin{c.of, c.sqlMask} {
		if of.inst != nil {
			of.inst.starred = true
		}
	}
}

// expr notes every slot in an expression as used, and analyses the queries inside it.
func (a *analysis) expr(node *pg_query.Node, s *scope, env *ctes, where string) {
	if node == nil {
		return
	}
	a.exprs(node.ProtoReflect(), s, env, where)
}

func (a *analysis) exprs(node protoreflect.Message, s *scope, env *ctes, where string) {
	walk(node, func(m proto.Message) bool {
		switch m := m.(type) {
		case *pg_query.ColumnRef:
			a.exprColumn(m, s, where)
			return false
		case *pg_query.SubLink:
			a.expr(m.GetTestexpr(), s, env, where)
			out := a.query(m.GetSubselect().GetSelectStmt(), s, env)
			if m.GetSubLinkType() != pg_query.SubLinkType_EXISTS_SUBLINK {
				a.consume(out, "a subquery in "+where, int(m.GetLocation()))
			}
			return false
		case *pg_query.SelectStmt: // JSON_ARRAY(SELECT ...)
			a.consume(a.query(m, s, env), "a subquery in "+where, -1)
			return false
		}
		return true
	})
}

func (a *analysis) exprColumn(ref *pg_query.ColumnRef, s *scope, where string) {
	fields := ref.GetFields()
	if fields[len(fields)-1].GetAStar() != nil {
		a.consume(a.star(ref, s), where, int(ref.GetLocation()))
		return
	}
	a.consume(columns{cols: []outColumn{a.lookup(ref, s)}}, where, int(ref.GetLocation()))
}

// renamed gives the first columns new names: t AS c(a, b).
func (a *analysis) renamed(c columns, names []*pg_query.Node) columns {
	if len(names) == 0 {
		return c
	}
	for _, col := range c.cols { // their places count
		col.starred()
	}
	if c.open && c.hasMasked() {
		a.consume(c, "an alias list over unknown columns", -1)
		return columns{open: true}
	}
	cols := slices.Clone(c.cols)
	for i, n := range names {
		if i < len(cols) {
			cols[i].name = n.GetString_().GetSval()
		}
	}
	return columns{cols: cols, open: c.open}
}
