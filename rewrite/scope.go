package rewrite

import (
	"slices"

	pg_query "github.com/pganalyze/pg_query_go/v6"

	"github.com/scrimdb/scrim/catalog"
	"github.com/scrimdb/scrim/policy"
)

// instance is one mention of a protected relation.
type instance struct {
	mask policy.Mask
	rv   *pg_query.RangeVar
	used bool    // some masked column of it is touched, so it must be replaced
	read []int16 // its masked columns that are
	// target means that the statement changes the relation: it stays, and its masked columns cannot be read.
	target bool
	// starred means that all its columns are listed somewhere: no further one may be added.
	starred bool
	// system columns that are named.
	system []string
	// nullable means that an outer join may put NULL in its place.
	nullable bool
	// sample is the TABLESAMPLE clause of a mention, as it was written.
	sample string
	// copied lists the columns of a mention that COPY makes.
	copied []string
	// filters are conditions that every row of it meets that the statement takes a code of.
	filters []predicate
}

// hides returns the policy by which the role sees something else in a column's place, or nil.
func (i *instance) hides(num int16) *catalog.Policy {
	if i.mask.Hidden[num] {
		return i.mask.Protection.Policy(num)
	}
	return nil
}

// encoder returns the policy whose codes stand in a column's place, or nil.
func (i *instance) encoder(num int16) *catalog.Policy {
	if p := i.hides(num); p != nil && p.Encodes() {
		return p
	}
	return nil
}

// hasSQLMask tells whether an SQL mask stands in a column's place.
func (i *instance) hasSQLMask(num int16) bool {
	p := i.hides(num)
	return p != nil && !p.Encodes()
}

// isClear tells whether the role sees a column as it is. It does not see those that came after the masked view.
func (i *instance) isClear(num int16) bool {
	p := i.mask.Protection
	return openColumn(p, num) != "" || p.Policy(num) != nil && !i.mask.Hidden[num]
}

// reads notes that a masked column is read.
func (i *instance) reads(num int16) {
	i.used = true
	if !slices.Contains(i.read, num) {
		i.read = append(i.read, num)
	}
}

// qualified is a column reference that names the schema of a mention.
type qualified struct {
	ref  *pg_query.ColumnRef
	inst *instance
}

// rowID tells rows apart: two columns with the same rowID come from the same row of the same mention. A CTE that is
// mentioned twice gives each mention row identities of its own.
type rowID struct{ inst *instance }

// source is one place a slot comes from: a masked column (its attribute number) of a row.
type source struct {
	row *rowID
	num int16
}

// policy is the one that masks it.
func (s source) policy() *catalog.Policy { return s.row.inst.mask.Protection.Policy(s.num) }

// outColumn is a column of a FROM item or of a query's result. A slot has a source for each branch of UNION ALL it went
// through; any other column has none. The name is empty where this package does not know it.
type outColumn struct {
	name    string
	sources []source
	// sqlMask is the column of a mention that an SQL mask shows here; zero for anything else. It is a column like any other to all
	// that reads it, so it is enough to know that the mention is.
	sqlMask origin
	// of is the unmasked column of a mention that this is, for the conditions on it; zero for anything else.
	of origin
	// view is the column of a view that it is.
	view ResultColumn
}

// origin is a column of a mention.
type origin struct {
	inst *instance
	num  int16
}

func (c outColumn) isSlot() bool { return len(c.sources) > 0 }

func (c outColumn) isMasked() bool { return c.isSlot() || c.sqlMask.inst != nil }

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

// hasMasked tells whether a column is a slot, or what an SQL mask shows.
func (c columns) hasMasked() bool { return slices.ContainsFunc(c.cols, outColumn.isMasked) }

// item is a name that qualifies columns: an alias, or a table that has none.
type item struct {
	name  string
	table *pg_query.RangeVar // the relation that it is, if no alias hides that: a schema may stand before its name
	columns
	inst    *instance // the mention that it is, if it is one
	mention *mention  // of a view
	// nameless means that PostgreSQL gives it a name that is not known here.
	nameless bool
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
