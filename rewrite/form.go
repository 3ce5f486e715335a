package rewrite

import (
	"fmt"
	"slices"

	"github.com/scrimdb/scrim/catalog"
)

// form is what the replacement of a mention reads: the masked view, or the table itself, by the client's name and under the client's
// own rights. What those do not let it read of the table it looks up in the masked view, by the row's place.
type form struct {
	*instance
	row string // masked or table
}

// The rows that a form reads.
const (
	masked = "v"
	table  = "t"
)

// list is the form in which the codes of a mention are listed. Of a row that the client does not see no code is.
func (i *instance) list() form {
	if i.mask.Protection.View.SealsOnly || i.mask.Mixed {
		return form{i, table}
	}
	return form{i, masked}
}

// form is the one that a mention needs. Only a table's own rows can be locked and sampled, and have all system columns; only there
// can a role read a masked column raw.
func (a *analysis) form(i *instance) form {
	if i.mask.Protection.View.Identity == catalog.Unknown {
		return form{i, masked}
	}
	beyond := func(name string) bool { return slices.Index(systemColumns, name) > 1 }
	if a.locked || i.sample != "" || !i.rv.GetInh() || slices.ContainsFunc(i.system, beyond) {
		return form{i, table}
	}
	return i.list()
}

// replacement spells the subselect that stands for a mention. slot spells a column that has codes.
func (a *analysis) replacement(f form, slot func(column) template, conditions template) template {
	var list []template
	for _, c := range f.mask.Protection.Relation.Columns {
		as := template{text: " AS " + quote(c.Name)}
		switch {
		case !a.lists(f.instance, c.Name):
		case f.encoder(c.Num) != nil:
			list = append(list, slot(c).join(as))
		case f.row == table && f.isClear(c.Num):
			list = append(list, template{text: f.value(c)})
		case f.isClear(c.Num) || f.hasSQLMask(c.Num):
			list = append(list, template{text: f.value(c)}.join(as))
		}
	}
	for _, name := range f.systemColumns() {
		list = append(list, template{text: name})
	}
	source := f.source()
	if f.row == table {
		source = map[bool]string{false: "ONLY "}[f.rv.GetInh()] + source + f.sample
	}
	return selecting(list).join(template{text: " FROM " + source + " WHERE " + f.means()}).join(conditions).join(template{text: ")"})
}

func (f form) source() string {
	if f.row == table {
		return nameOf(f.rv).Quoted() + " t"
	}
	return f.view()
}

func (i *instance) view() string {
	return "scrim_runtime." + quote(i.mask.Protection.View.Name) + " v"
}

// value spells a column that has no codes.
func (f form) value(c column) string {
	p := f.mask.Protection
	switch {
	case f.hasSQLMask(c.Num) && f.row == table:
		return f.lookUp(viewName(p.View.Masks, c.Num))
	case f.hasSQLMask(c.Num):
		return "v." + quote(viewName(p.View.Masks, c.Num))
	case f.row == table:
		return "t." + quote(c.Name)
	}
	return "v." + quote(openColumn(p, c.Num))
}

// seal spells the sealed inputs of a row.
func (f form) seal(p *catalog.Policy) string {
	if f.row == table {
		return fmt.Sprintf("(SELECT v.%s FROM %s WHERE %s)", quote(p.Sealed), f.view(), f.samePlace())
	}
	return "v." + quote(p.Sealed)
}

// lookUp spells what an SQL mask shows of a row of the table. A row that the statement's snapshot does not show raises: it has been
// locked in a version that came later.
func (f form) lookUp(name string) string {
	return fmt.Sprintf("(SELECT v.%s FROM (SELECT) AS one LEFT JOIN %s ON %s WHERE v.ctid IS NOT NULL OR scrim_runtime.no_code(t.ctid) IS NULL)",
		quote(name), f.view(), f.samePlace())
}

func (f form) samePlace() string {
	same := "v.ctid OPERATOR(pg_catalog.=) t.ctid"
	if f.mask.Protection.View.Identity == catalog.TableAndPlace {
		same += " AND v.tableoid OPERATOR(pg_catalog.=) t.tableoid"
	}
	return same
}

// conditions spells those that shorten a mention's list behind others.
func (f form) conditions() template {
	var t template
	for _, p := range f.filters {
		text := p.text
		if f.row == table {
			text = p.table
		}
		t = t.join(template{text: " AND (" + text + ")", holes: p.holes})
	}
	return t
}

// systemColumns spells those that are named.
func (f form) systemColumns() []string {
	var list []string
	for _, name := range f.system {
		if f.starred {
			refuse(codeFeatureNotSupported, int(f.rv.GetLocation()), "List the columns instead of using a star.",
				"system column %q of a protected table is not supported together with a star or a whole row", name)
		}
		list = append(list, f.row+"."+name)
	}
	return list
}
