package rewrite

import (
	"slices"
	"strings"

	pg_query "github.com/pganalyze/pg_query_go/v6"
	"google.golang.org/protobuf/proto"
)

// grouping is what GROUP BY must list besides the primary key of a mention. PostgreSQL knows what the key of a table
// determines, but not what that of a subselect does.
type grouping struct {
	inst *instance
	at   int    // byte offset of a member of the clause
	with string // columns, to be put before it
}

// groupedBy looks for mentions whose primary key is grouped by. The columns that the query names of such a mention are
// grouped by too, which changes no group.
func (a *analysis) groupedBy(sel *pg_query.SelectStmt, s *scope) {
	for _, it := range s.items {
		if it.inst == nil || it.inst.target {
			continue
		}
		var listed []string
		at := -1
		for _, node := range sel.GetGroupClause() {
			if node.GetGroupingSet() != nil {
				return
			}
			if c := node.GetAConst(); c != nil {
				if n := int(c.GetIval().GetIval()); n >= 1 && n <= len(sel.GetTargetList()) {
					if name := it.named(sel.GetTargetList()[n-1].GetResTarget().GetVal().GetColumnRef(), s); name != "" {
						listed, at = append(listed, name), int(c.GetLocation())
					}
				}
				continue
			}
			if name := it.named(node.GetColumnRef(), s); name != "" {
				listed, at = append(listed, name), int(node.GetColumnRef().GetLocation())
			}
		}
		if !it.hasKey(a.resolved[nameOf(it.inst.rv)].Key, listed) {
			continue
		}
		var with strings.Builder
		for _, name := range it.mentioned(sel, s) {
			if !slices.Contains(listed, name) {
				with.WriteString(quote(it.name) + "." + quote(name) + ", ")
			}
		}
		if with.Len() > 0 {
			a.groups = append(a.groups, grouping{it.inst, at, with.String()})
		}
	}
}

// hasKey tells whether the names are all of a mention's primary key, which is given by the table's names.
func (it *item) hasKey(key, names []string) bool {
	if len(key) == 0 {
		return false
	}
	p := it.inst.mask.Protection
	for _, k := range key {
		has := slices.ContainsFunc(it.cols, func(c outColumn) bool {
			return slices.Contains(names, c.name) && slices.ContainsFunc(p.Relation.Columns, func(b column) bool { return b.Name == k && c.of.num == b.Num })
		})
		if !has {
			return false
		}
	}
	return true
}

// named returns the name of the item's column that a reference means, or "".
func (it *item) named(ref *pg_query.ColumnRef, s *scope) string {
	if ref == nil {
		return ""
	}
	fields := ref.GetFields()
	name := lastString(fields)
	c := it.find(name)
	switch {
	case c.name == "":
		return ""
	case len(fields) > 1 && fields[len(fields)-2].GetString_().GetSval() != it.name:
		return ""
	case len(fields) == 1 && len(s.items) > 1: // of another item, perhaps
		for _, other := range s.items {
			if other != it && (other.open || other.find(name).name != "") {
				return ""
			}
		}
	}
	return c.name
}

// mentioned lists the columns of the item that a query names outside of FROM, WHERE and GROUP BY.
func (it *item) mentioned(sel *pg_query.SelectStmt, s *scope) []string {
	var names []string
	add := func(name string) {
		if name != "" && !slices.Contains(names, name) {
			names = append(names, name)
		}
	}
	look := func(m proto.Message) bool {
		ref, ok := m.(*pg_query.ColumnRef)
		if !ok {
			return true
		}
		fields := ref.GetFields()
		if fields[len(fields)-1].GetAStar() == nil {
			add(it.named(ref, s))
			return false
		}
		if len(fields) == 1 || fields[len(fields)-2].GetString_().GetSval() == it.name {
			for _, c := range it.cols {
				add(c.name)
			}
		}
		return false
	}
	for _, list := range [][]*pg_query.Node{sel.GetTargetList(), {sel.GetHavingClause()}, sel.GetSortClause(), sel.GetWindowClause(), sel.GetDistinctClause()} {
		for _, node := range list {
			if node != nil {
				walk(node.ProtoReflect(), look)
			}
		}
	}
	return names
}
