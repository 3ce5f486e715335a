package rewrite

import (
	"slices"

	pg_query "github.com/pganalyze/pg_query_go/v6"

	"github.com/scrimdb/scrim/catalog"
)

// modification analyses INSERT, UPDATE, DELETE or MERGE. Its rows are stored, so it is staged as soon as it reads a code.
// The relation that it changes stays in its place: the client's own rights are asked there.
func (a *analysis) modification(node *pg_query.Node, outer *scope, env *ctes) {
	switch n := node.GetNode().(type) {
	case *pg_query.Node_InsertStmt:
		a.insert(n.InsertStmt, outer, env)
	case *pg_query.Node_UpdateStmt:
		m := n.UpdateStmt
		a.change(m.GetWithClause(), m.GetRelation(), m.GetFromClause(), m.GetWhereClause(), outer, env, m.GetTargetList(), m.GetReturningList())
	case *pg_query.Node_DeleteStmt:
		m := n.DeleteStmt
		a.change(m.GetWithClause(), m.GetRelation(), m.GetUsingClause(), m.GetWhereClause(), outer, env, m.GetReturningList())
	case *pg_query.Node_MergeStmt:
		m := n.MergeStmt
		a.change(m.GetWithClause(), m.GetRelation(), []*pg_query.Node{m.GetSourceRelation()}, nil, outer, env,
			[]*pg_query.Node{m.GetJoinCondition()}, m.GetMergeWhenClauses(), m.GetReturningList())
	}
	a.stage(-1, "rows are stored or changed")
}

func (a *analysis) insert(m *pg_query.InsertStmt, outer *scope, env *ctes) {
	if m.GetWithClause() != nil {
		env = a.with(m.GetWithClause(), outer, env)
	}
	if sel := m.GetSelectStmt().GetSelectStmt(); sel != nil {
		a.consume(a.query(sel, outer, env), "INSERT", int(m.GetRelation().GetLocation()))
	}
	it := a.target(m.GetRelation())
	a.list(m.GetReturningList(), &scope{items: []*item{it}, all: it.columns, parent: outer}, env)
	if c := m.GetOnConflictClause(); c != nil {
		excluded := &item{name: "excluded", columns: columns{open: true}}
		s := &scope{items: []*item{it, excluded}, all: it.columns, parent: outer}
		a.exprs(c.ProtoReflect(), s, env, "ON CONFLICT")
	}
}

// change analyses a statement that changes rows of a relation, perhaps with others at its side. lists are its expressions.
func (a *analysis) change(w *pg_query.WithClause, rv *pg_query.RangeVar, from []*pg_query.Node, where *pg_query.Node, outer *scope, env *ctes, lists ...[]*pg_query.Node) {
	if w != nil {
		env = a.with(w, outer, env)
	}
	it := a.target(rv)
	s := &scope{items: []*item{it}, all: it.columns, parent: outer}
	before := len(a.instances)
	for _, node := range from {
		a.fromMember(node, s, env)
	}
	a.filter(where, s, a.within(before))
	a.expr(where, s, env, "WHERE")
	for _, list := range lists {
		a.list(list, s, env)
	}
}

func (a *analysis) list(nodes []*pg_query.Node, s *scope, env *ctes) {
	for _, node := range nodes {
		a.expr(node, s, env, "a changed or returned row")
	}
}

// target is the item of the relation that a statement changes.
func (a *analysis) target(rv *pg_query.RangeVar) *item {
	rel, found := a.resolved[nameOf(rv)]
	it := &item{name: rv.GetRelname(), table: rv}
	if alias := rv.GetAlias(); alias != nil {
		it.name, it.table = alias.GetAliasname(), nil
	}
	mask, masked := a.masks.Of(rel.OID)
	switch {
	case masked:
		it.inst = &instance{mask: mask, rv: rv, target: true}
		row := &rowID{inst: it.inst}
		for _, c := range mask.Protection.Relation.Columns {
			col := outColumn{name: c.Name}
			if mask.Hidden[c.Num] {
				col.sources = []source{{row: row, num: c.Num}}
			}
			it.cols = append(it.cols, col)
		}
	default:
		it.columns = unmasked(rel, found)
	}
	return it
}

// copyTable analyses COPY relation TO, which is COPY (SELECT columns FROM relation) TO.
func (a *analysis) copyTable(c *pg_query.CopyStmt) {
	mask, masked := a.masks.Of(a.resolved[nameOf(c.GetRelation())].OID)
	if !masked || c.GetIsFrom() {
		return
	}
	inst := &instance{mask: mask, rv: c.GetRelation(), used: true}
	cols := a.maskedColumns(inst)
	for _, n := range c.GetAttlist() {
		inst.copied = append(inst.copied, quote(n.GetString_().GetSval()))
	}
	if len(c.GetAttlist()) == 0 {
		inst.starred = true
		for _, col := range cols.cols {
			inst.copied = append(inst.copied, quote(col.name))
		}
	}
	for _, col := range cols.cols {
		if slices.Contains(inst.copied, quote(col.name)) {
			a.use(col)
		}
	}
}

// lock plans LOCK TABLE. To lock for reading PostgreSQL wants the right to read the whole table, which masked roles have
// of the masked view; locking that locks the table too.
func (a *analysis) lock(l *pg_query.LockStmt) *Plan {
	p := &Plan{Views: map[uint32]*catalog.Protection{}, text: a.text}
	for _, node := range l.GetRelations() {
		rv := node.GetRangeVar()
		mask, masked := a.masks.Of(a.resolved[nameOf(rv)].OID)
		if !masked || mask.Mixed || l.GetMode() != accessShareLock { // a mixed role may not read all of the masked view either
			continue
		}
		e := a.replace(&instance{mask: mask, rv: rv}, template{})
		e.text = "scrim_runtime." + quote(mask.Protection.View.Name)
		p.Views[mask.Protection.View.OID] = mask.Protection
		p.edits = append(p.edits, e)
	}
	if len(p.edits) == 0 {
		return nil
	}
	p.SQL, p.edits = splice(a.text, p.edits, asParameter)
	return p
}

// accessShareLock is PostgreSQL's (lockdefs.h).
const accessShareLock = 1
