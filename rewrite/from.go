package rewrite

import (
	"slices"

	pg_query "github.com/pganalyze/pg_query_go/v6"
)

// from analyses one member of a FROM clause. It returns the names it brings into sight and the columns that a star
// stands for. left is the scope so far, which LATERAL members and functions can see.
func (a *analysis) from(node *pg_query.Node, left *scope, env *ctes) ([]*item, columns) {
	switch n := node.GetNode().(type) {
	case *pg_query.Node_RangeVar:
		return a.fromRelation(n.RangeVar, env)
	case *pg_query.Node_RangeSubselect:
		sub := n.RangeSubselect
		around := left.parent
		if sub.GetLateral() {
			around = left
		}
		cols := a.query(sub.GetSubquery().GetSelectStmt(), around, env)
		return a.single(sub.GetAlias(), "", cols)
	case *pg_query.Node_JoinExpr:
		return a.fromJoin(n.JoinExpr, left, env)
	case *pg_query.Node_RangeTableSample:
		sample := n.RangeTableSample
		for _, arg := range sample.GetArgs() {
			a.expr(arg, left, env, "TABLESAMPLE")
		}
		a.expr(sample.GetRepeatable(), left, env, "TABLESAMPLE")
		before, mentions := len(a.instances), len(a.mentions)
		items, cols := a.from(sample.GetRelation(), left, env)
		a.mentions = a.mentions[:mentions] // a view cannot be sampled: PostgreSQL says so
		if len(a.instances) > before {
			a.sampled(a.instances[before])
		}
		return items, cols
	}
	// Functions, XMLTABLE, JSON_TABLE: their columns are not known here.
	a.expr(node, left, env, "FROM")
	alias := node.GetRangeFunction().GetAlias()
	if alias == nil {
		alias = node.GetRangeTableFunc().GetAlias()
	}
	if alias == nil {
		alias = node.GetJsonTable().GetAlias()
	}
	items, cols := a.single(alias, functionName(node), columns{open: true})
	items[0].nameless = items[0].name == ""
	return items, cols
}

// functionName is what a function in FROM goes by when it has no alias.
func functionName(node *pg_query.Node) string {
	switch {
	case node.GetRangeTableFunc() != nil:
		return "xmltable"
	case node.GetJsonTable() != nil:
		return "json_table"
	}
	for _, f := range node.GetRangeFunction().GetFunctions() {
		if items := f.GetList().GetItems(); len(items) > 0 {
			return lastString(items[0].GetFuncCall().GetFuncname())
		}
	}
	return "" // COALESCE(...), CAST(...) and the like
}

// single makes the one item that a relation under an alias is.
func (a *analysis) single(alias *pg_query.Alias, name string, cols columns) ([]*item, columns) {
	if alias != nil {
		name = alias.GetAliasname()
		cols = a.renamed(cols, alias.GetColnames())
	}
	return []*item{{name: name, columns: cols}}, cols
}

func (a *analysis) fromRelation(rv *pg_query.RangeVar, env *ctes) ([]*item, columns) {
	if rv.GetSchemaname() == "" {
		if cte := env.find(rv.GetRelname()); cte != nil {
			return a.single(rv.GetAlias(), rv.GetRelname(), a.spend(cte.columns).again(map[*rowID]*rowID{}).detached())
		}
	}
	rel, found := a.resolved[nameOf(rv)]
	mask, masked := a.masks.Of(rel.OID)
	var cols columns
	var inst *instance
	var view *mention
	switch {
	case masked:
		inst = &instance{mask: mask, rv: rv, used: mask.Protection.FeatureView}
		cols = a.maskedColumns(inst)
		if !rv.GetInh() {
			a.stage(int(rv.GetLocation()), "ONLY is said")
		}
	case a.views != nil && a.views.needs(rel):
		view = &mention{rv: rv, rel: rel, read: make([]bool, len(rel.Columns))}
		a.mentions = append(a.mentions, view)
		cols = view.columns()
	default:
		cols = unmasked(rel, found)
	}
	items, cols := a.single(rv.GetAlias(), rv.GetRelname(), cols)
	items[0].inst, items[0].mention = inst, view
	if rv.GetAlias() == nil {
		items[0].table = rv
	}
	return items, cols
}

// unmasked are the columns of a relation that is not masked; all that is known of one that was not found is that it may have some.
func unmasked(rel Relation, found bool) columns {
	cols := columns{open: !found}
	for _, name := range rel.Columns {
		cols.cols = append(cols.cols, outColumn{name: name})
	}
	return cols
}

// again gives columns row identities of their own: for one more mention of a CTE, or because an outer join can put NULL
// in their place. fresh maps the old identities to the new.
func (c columns) again(fresh map[*rowID]*rowID) columns {
	out := columns{open: c.open}
	for _, c := range c.cols {
		sources := slices.Clone(c.sources)
		for i := range sources {
			old := sources[i].row
			if fresh[old] == nil {
				fresh[old] = &rowID{inst: old.inst}
			}
			sources[i].row = fresh[old]
		}
		out.cols = append(out.cols, outColumn{name: c.name, sources: sources, sqlMask: c.sqlMask, of: c.of, view: c.view})
	}
	return out
}

// maskedColumns lists the columns that the replacement of a protected relation has: those of the table, in its order,
// but for columns added since the policy was made, which masked roles cannot read.
func (a *analysis) maskedColumns(inst *instance) columns {
	a.instances = append(a.instances, inst)
	row := &rowID{inst: inst}
	var cols columns
	for _, c := range inst.mask.Protection.Relation.Columns {
		switch {
		case inst.encoder(c.Num) != nil:
			cols.cols = append(cols.cols, outColumn{name: c.Name, sources: []source{{row: row, num: c.Num}}})
		case inst.hasSQLMask(c.Num):
			cols.cols = append(cols.cols, outColumn{name: c.Name, sqlMask: origin{inst, c.Num}})
		case inst.isClear(c.Num):
			cols.cols = append(cols.cols, outColumn{name: c.Name, of: origin{inst, c.Num}})
		}
	}
	return cols
}

func (a *analysis) fromJoin(j *pg_query.JoinExpr, left *scope, env *ctes) ([]*item, columns) {
	before := len(a.instances)
	litems, lcols := a.from(j.GetLarg(), left, env)
	between := len(a.instances)
	// The right side, when LATERAL, sees the left side too.
	seen := &scope{parent: left.parent, items: slices.Concat(left.items, litems)}
	seen.all = columns{cols: slices.Concat(left.all.cols, lcols.cols), open: left.all.open || lcols.open}
	ritems, rcols := a.from(j.GetRarg(), seen, env)
	linst, rinst := a.instances[before:between], a.instances[between:]

	var filtered []*instance // those whose rows must meet the condition
	switch j.GetJointype() {
	case pg_query.JoinType_JOIN_INNER:
		filtered = slices.Concat(linst, rinst)
	case pg_query.JoinType_JOIN_LEFT:
		filtered = slices.Clone(rinst)
	case pg_query.JoinType_JOIN_RIGHT:
		filtered = slices.Clone(linst)
	}
	filtered = slices.DeleteFunc(filtered, func(i *instance) bool { return i.nullable })
	if j.GetJointype() == pg_query.JoinType_JOIN_RIGHT || j.GetJointype() == pg_query.JoinType_JOIN_FULL {
		litems, lcols = nullable(linst, litems, lcols)
	}
	if j.GetJointype() == pg_query.JoinType_JOIN_LEFT || j.GetJointype() == pg_query.JoinType_JOIN_FULL {
		ritems, rcols = nullable(rinst, ritems, rcols)
	}
	shared := a.usingNames(j, lcols, rcols)
	for _, name := range shared {
		reads(slices.Concat(litems, ritems), name)
		for _, side := range []columns{lcols, rcols} {
			a.consume(columns{cols: []outColumn{side.find(name)}}, "JOIN", -1)
		}
	}
	items := slices.Concat(litems, ritems)
	merged := columns{open: lcols.open || rcols.open}
	columns{cols: slices.Concat(lcols.cols, rcols.cols)}.bounded()
	for _, name := range shared {
		merged.cols = append(merged.cols, outColumn{name: name})
	}
	for _, c := range slices.Concat(lcols.cols, rcols.cols) {
		if !slices.Contains(shared, c.name) {
			merged.cols = append(merged.cols, c)
		}
	}
	if j.GetQuals() != nil {
		on := &scope{parent: left.parent, items: slices.Concat(left.items, items)}
		on.all = columns{cols: slices.Concat(left.all.cols, merged.cols), open: left.all.open || merged.open}
		a.filter(j.GetQuals(), on, func(i *instance) bool { return slices.Contains(filtered, i) })
		a.expr(j.GetQuals(), on, env, "JOIN")
	}
	if a := j.GetJoinUsingAlias(); a != nil { // USING (...) AS a: a name for the merged columns
		items = append(items, &item{name: a.GetAliasname(), columns: columns{cols: merged.cols[:len(shared)]}})
	}
	if j.GetAlias() != nil {
		readsAll(items) // what is read of them by the alias is not followed
		return a.single(j.GetAlias(), "", merged)
	}
	return items, merged
}

// nullable is a side of an outer join that may be missing.
func nullable(instances []*instance, items []*item, cols columns) ([]*item, columns) {
	for _, i := range instances {
		i.nullable = true
	}
	fresh := map[*rowID]*rowID{}
	out := make([]*item, len(items))
	for i, it := range items {
		made := *it
		made.columns = it.again(fresh).only(instances)
		out[i] = &made
	}
	return out, cols.again(fresh).only(instances)
}

// only forgets of unmasked columns that they are of mentions besides these: what a LATERAL member hands on from its left
// can be NULL where the mention is not.
func (c columns) only(instances []*instance) columns {
	for i, col := range c.cols {
		if !slices.Contains(instances, col.of.inst) {
			c.cols[i].of = origin{}
		}
	}
	return c
}

// usingNames returns the columns that USING or NATURAL merges, in the order they come out.
func (a *analysis) usingNames(j *pg_query.JoinExpr, l, r columns) []string {
	var names []string
	if j.GetIsNatural() {
		a.useAll(l)
		a.useAll(r)
		if l.open || r.open {
			a.consume(l, "NATURAL JOIN", -1)
			a.consume(r, "NATURAL JOIN", -1)
		}
		for _, c := range l.cols {
			if c.name != "" && r.find(c.name).name != "" {
				names = append(names, c.name)
			}
		}
		return names
	}
	for _, u := range j.GetUsingClause() {
		names = append(names, u.GetString_().GetSval())
	}
	return names
}

// sampled moves the TABLESAMPLE clause of a mention to where the table will be.
func (a *analysis) sampled(inst *instance) {
	a.stage(int(inst.rv.GetLocation()), "rows are sampled")
	tokens := a.tokens()
	at := a.tokenAt(tokens, int(inst.rv.GetLocation()))
	for at >= 0 && at < len(tokens) && tokens[at].GetToken() != pg_query.Token_TABLESAMPLE {
		at++
	}
	end := a.closing(tokens, at)
	if end >= 0 && end+1 < len(tokens) && tokens[end+1].GetToken() == pg_query.Token_REPEATABLE {
		end = a.closing(tokens, end+1)
	}
	if at < 0 || end < 0 {
		refuse(codeFeatureNotSupported, int(inst.rv.GetLocation()), "", "cannot rewrite this TABLESAMPLE")
	}
	from, to := int(tokens[at].GetStart()), int(tokens[end].GetEnd())
	inst.sample = " " + a.text[from:to]
	a.removed = append(a.removed, removal{inst, edit{start: from, end: to}})
}

// removal is text that is taken away if a mention is replaced.
type removal struct {
	inst *instance
	edit
}

// closing returns the index of the parenthesis that closes the first one from a token on, or -1.
func (a *analysis) closing(tokens []*pg_query.ScanToken, from int) int {
	depth := 0
	for i := max(from, 0); i < len(tokens); i++ {
		switch a.spell(tokens[i]) {
		case "(":
			depth++
		case ")":
			if depth--; depth == 0 {
				return i
			}
		}
	}
	return -1
}
