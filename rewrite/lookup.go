package rewrite

import (
	"slices"

	pg_query "github.com/pganalyze/pg_query_go/v6"
)

// star expands * or t.*.
func (a *analysis) star(ref *pg_query.ColumnRef, s *scope) columns {
	cols := s.all
	if qualifiers := ref.GetFields()[:len(ref.GetFields())-1]; len(qualifiers) > 0 {
		it := a.findItem(s, ref, qualifiers)
		if it == nil {
			return columns{open: true} // a composite column, or an error of PostgreSQL's
		}
		cols = it.columns
		readsAll([]*item{it})
	} else {
		readsAll(s.items)
	}
	a.useAll(cols)
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
func (a *analysis) findItem(s *scope, ref *pg_query.ColumnRef, qualifiers []*pg_query.Node) *item {
	name := lastString(qualifiers)
	schema := lastString(qualifiers[:len(qualifiers)-1])
	hidden, unsure := false, false
	for ; s != nil; s = s.parent {
		for _, it := range s.items {
			unsure = unsure || it.nameless
			if it.name != name {
				continue
			}
			if schema != "" && !a.isOf(it, schema) {
				hidden = true
				continue
			}
			if unsure && it.hasSlots() {
				a.stage(int(ref.GetLocation()), "%s may be something else", name)
			}
			if schema != "" && (it.mention != nil || it.inst != nil && !it.inst.target) {
				if hidden {
					refuse(codeFeatureNotSupported, int(ref.GetLocation()), "Give each of them an alias, and qualify columns by that.",
						"%q with a schema is not supported where something else is called %q", name, name)
				}
				if it.mention != nil {
					a.viewRefs = append(a.viewRefs, ref)
					return it
				}
				a.qualified = append(a.qualified, qualified{ref, it.inst})
			}
			return it
		}
	}
	return nil
}

// isOf tells whether an item is the relation of its name in a schema. If the statement does not mention that, it can be
// nothing else.
func (a *analysis) isOf(it *item, schema string) bool {
	switch {
	case it.table == nil:
		return false
	case it.table.GetSchemaname() != "":
		return it.table.GetSchemaname() == schema
	}
	named, ok := a.resolved[Name{Schema: schema, Relation: it.name}]
	return !ok || named.OID == a.resolved[nameOf(it.table)].OID
}

// lookup finds the column that a reference means, and notes what else it may read: whatever is not surely something else
// counts as masked.
func (a *analysis) lookup(ref *pg_query.ColumnRef, s *scope) outColumn {
	fields := ref.GetFields()
	name := lastString(fields)
	if len(fields) > 1 {
		it := a.findItem(s, ref, fields[:len(fields)-1])
		if it == nil {
			a.wholeRow(fields[0].GetString_().GetSval(), s, int(ref.GetLocation())) // (c).f, or a composite column's field
			return outColumn{}
		}
		c := it.find(name)
		if reads([]*item{it}, name); c.name == "" {
			readsAll([]*item{it}) // t.f can be f(t)
		}
		if c.name == "" && it.inst != nil && a.systemColumn(it.inst, name, int(ref.GetLocation())) {
			return outColumn{}
		}
		if c.name == "" && it.hasMasked() { // t.f can be f(t)
			a.useAll(it.columns)
			if it.hasSlots() {
				a.stage(int(ref.GetLocation()), "%s.%s may be a function of the whole row", it.name, name)
			}
		}
		return c
	}
	unsure := false
	for around := s; around != nil; around = around.parent {
		if c := around.all.find(name); c.name != "" {
			reads(around.items, name)
			if c.isSlot() && unsure {
				a.compute(c, "a place that another column of the name may take", int(ref.GetLocation()))
			}
			return c
		}
		for _, it := range around.items {
			if it.inst != nil && a.systemColumn(it.inst, name, int(ref.GetLocation())) {
				return outColumn{}
			}
		}
		unsure = unsure || around.all.open || slices.ContainsFunc(around.all.cols, func(c outColumn) bool { return c.name == "" })
	}
	a.wholeRow(name, s, int(ref.GetLocation()))
	return outColumn{}
}

// wholeRow notes that a name may stand for all columns of an item.
func (a *analysis) wholeRow(name string, s *scope, at int) {
	for around := s; around != nil; around = around.parent {
		for _, it := range around.items {
			if it.name == name && it.mention != nil {
				readsAll([]*item{it})
			}
			if it.name == name && it.hasMasked() {
				a.useAll(it.columns)
				if it.hasSlots() {
					a.stage(at, "a whole row of %s is used", name)
				}
				return
			}
		}
	}
}

// systemColumns are those of every table; its masked view has the first two.
var systemColumns = []string{"ctid", "xmin", "tableoid", "xmax", "cmin", "cmax"}

// systemColumn notes that a system column of a mention is named, if that is one.
func (a *analysis) systemColumn(inst *instance, name string, at int) bool {
	k := slices.Index(systemColumns, name)
	if k < 0 || inst.target {
		return false
	}
	if k > 1 {
		a.stage(at, "%s is named", name)
	}
	if !slices.Contains(inst.system, name) {
		inst.system = append(inst.system, name)
	}
	return true
}

// find returns the column of that name: a slot if any of that name is one, or else a masked one.
func (c columns) find(name string) outColumn {
	var found outColumn
	for _, col := range c.cols {
		if col.name == name && (found.name == "" || col.isSlot() || col.isMasked() && !found.isSlot()) {
			found = col
		}
	}
	return found
}
