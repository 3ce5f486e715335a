package rewrite

import (
	"errors"
	"fmt"
	"slices"
	"strings"

	pg_query "github.com/pganalyze/pg_query_go/v6"
	"google.golang.org/protobuf/proto"

	"github.com/scrimdb/scrim/policy"
)

// A view that runs with the invoker's rights reads what it is over as the client does: a masked role may not read what it
// shows. So its query takes its place, before the statement is planned, and is planned as if the client had written it.
// PostgreSQL would expand any mention of the view, and check the client's rights on the tables below. So the text has none: a
// function asks instead whether the view still is what was put in its place, and whether the client may read it.

// View is the query of a view that runs with the invoker's rights.
type View struct {
	text  string // without the semicolon
	hash  int64
	query *pg_query.Node
	// names that it mentions. Those without a schema are of pg_catalog, or temporary.
	names []Name
	loose []*pg_query.RangeVar
	// rows are relations whose row types it has whole rows in.
	rows []Name
}

// NewView reads the definition of a view as pg_get_viewdef prints it when nothing but pg_catalog is in search_path. hash is
// what scrim_runtime.still_views compares. It returns nil for what it cannot read: such a view is PostgreSQL's alone.
func NewView(definition string, hash int64) *View {
	v := &View{text: strings.TrimSuffix(strings.TrimSpace(definition), ";"), hash: hash}
	parsed, err := parse(v.text)
	if err != nil || len(parsed.GetStmts()) != 1 || parsed.GetStmts()[0].GetStmt().GetSelectStmt() == nil {
		return nil
	}
	v.query = parsed.GetStmts()[0].GetStmt()
	withs := map[string]bool{}
	walk(v.query.ProtoReflect(), func(m proto.Message) bool {
		if cte, ok := m.(*pg_query.CommonTableExpr); ok {
			withs[cte.GetCtename()] = true
		}
		return true
	})
	walk(v.query.ProtoReflect(), func(m proto.Message) bool {
		if cast, ok := m.(*pg_query.TypeCast); ok && isStar(cast.GetArg()) {
			v.rows = append(v.rows, rowType(cast.GetTypeName()))
		}
		switch rv, ok := m.(*pg_query.RangeVar); {
		case !ok:
		case rv.GetSchemaname() != "":
			v.names = append(v.names, nameOf(rv))
		case !withs[rv.GetRelname()]: // PostgreSQL qualifies a relation that a WITH hides
			v.loose = append(v.loose, rv)
			v.names = append(v.names, inSchema("pg_catalog", rv), inSchema("pg_temp", rv))
		}
		return true
	})
	return v
}

// isStar tells whether an expression is t.*, which PostgreSQL prints for a whole row, with a cast to the type of the table's rows.
func isStar(node *pg_query.Node) bool {
	fields := node.GetColumnRef().GetFields()
	return len(fields) > 0 && fields[len(fields)-1].GetAStar() != nil
}

// rowType is the relation that a type is named after.
func rowType(t *pg_query.TypeName) Name {
	n := Name{Schema: "pg_temp", Relation: lastString(t.GetNames())}
	if len(t.GetNames()) > 1 {
		n.Schema = lastString(t.GetNames()[:len(t.GetNames())-1])
	}
	return n
}

func inSchema(schema string, rv *pg_query.RangeVar) Name {
	return Name{Schema: schema, Relation: rv.GetRelname()}
}

// MaxViewDepth is how deep views over views are looked into.
const MaxViewDepth = 32

// Beneath lists what the views among the relations mention and was not asked for yet. Such names have a schema, and mean the
// relation in that schema whether or not the client may look into it.
func Beneath(resolved map[Name]Relation, asked map[Name]bool) []Name {
	var names []Name
	for _, rel := range resolved {
		if rel.View == nil {
			continue
		}
		for _, n := range rel.View.names {
			if !asked[n] {
				names = append(names, n)
			}
		}
	}
	slices.SortFunc(names, compareNames)
	return slices.Compact(names)
}

// views knows which views must be expanded for a role.
type views struct {
	resolved map[Name]Relation
	masks    policy.Masks
	needed   map[uint32]bool // by OID; false while it is being found out
}

// needs tells whether a view reads masked columns, itself or by other views.
func (v *views) needs(rel Relation) bool {
	if _, masked := v.masks.Of(rel.OID); masked || rel.View == nil {
		return false
	}
	if needed, known := v.needed[rel.OID]; known {
		return needed
	}
	v.needed[rel.OID] = false
	own := map[Name]Relation{}
	needed := false
	for _, n := range rel.View.names {
		if beneath, ok := v.resolved[n]; ok {
			own[n] = beneath
			needed = v.needs(beneath) || needed
		}
	}
	a := &analysis{resolved: own, masks: v.masks}
	v.needed[rel.OID] = a.touchesMasked(rel.View.query) || needed
	return v.needed[rel.OID]
}

// any tells whether there is anything to expand.
func (v *views) any() (found bool, err error) {
	defer recovered(&err)
	for _, rel := range v.resolved {
		found = v.needs(rel) || found
	}
	return found, nil
}

// mention is one of a view that must be expanded.
type mention struct {
	rv     *pg_query.RangeVar
	rel    Relation
	read   []bool // by column: whether the statement names it
	locked bool   // FOR UPDATE and the like
}

// ResultColumn is the column of a table or view that a column of the result is, as a RowDescription says it; zero for none.
type ResultColumn struct {
	Relation uint32 // OID
	Num      int16
}

// columns are the columns of a mention.
func (m *mention) columns() columns {
	cols := unmasked(m.rel, true)
	for i := range cols.cols {
		cols.cols[i].view = ResultColumn{Relation: m.rel.OID, Num: int16(i + 1)}
	}
	return cols
}

// reads notes that a column of the items is named.
func reads(items []*item, name string) {
	for _, it := range items {
		for i, c := range it.cols {
			if it.mention != nil && c.name == name {
				it.mention.read[i] = true
			}
		}
	}
}

// readsAll notes that all columns of the items are.
func readsAll(items []*item) {
	for _, it := range items {
		for _, c := range it.cols {
			reads([]*item{it}, c.name)
		}
	}
}

// locks notes that FOR UPDATE and its like mean mentions of a FROM clause, and what is in the queries there.
func (a *analysis) locks(sel *pg_query.SelectStmt, s *scope, before int) {
	for _, node := range sel.GetLockingClause() {
		named := node.GetLockingClause().GetLockedRels()
		for _, m := range a.mentions[before:] {
			m.locked = m.locked || len(named) == 0
		}
		for _, n := range named {
			for _, it := range s.items {
				if it.mention != nil && it.name == n.GetRangeVar().GetRelname() {
					it.mention.locked = true
				}
			}
		}
	}
}

// expanded is a statement with the queries of views in the views' places.
type expanded struct {
	text  string
	node  *pg_query.Node
	steps [][]edit // each of the text that the one before gave
	// columns of the result that are a view's.
	columns []ResultColumn
}

var errGrown = &Refusal{
	Code: codeTooComplex, Offset: -1, Message: "the statement is too long with the queries of its views in their places",
	Hint: "Query the tables that the views are over.",
}

// expand puts the queries of views into a statement, and of the views in those, until none is left that needs it.
func (v *views) expand(text string, node *pg_query.Node, part bool) (x expanded, err error) {
	defer func() { err = x.mapped(err) }()
	defer recovered(&err)
	x = expanded{text: text, node: node}
	if part { // positions count from the beginning of the statement
		if x.node, err = reparsed(text); err != nil {
			return x, err
		}
	}
	for range MaxViewDepth {
		a := &analysis{text: x.text, resolved: v.resolved, masks: v.masks, views: v}
		columns := a.viewsIn(x.node)
		if len(a.mentions) == 0 {
			return x, nil
		}
		if x.steps == nil {
			x.columns = columns
		}
		edits, size := a.expansions(), len(x.text)
		for _, e := range edits {
			size += len(e.text)
		}
		if size > maxText {
			return x, errGrown
		}
		was := x.text
		x.text, edits = splice(was, edits, asParameter)
		if x.node, err = reparsed(x.text); err != nil {
			x.text = was
			return x, err
		}
		x.steps = append(x.steps, edits)
	}
	return x, errGrown
}

// reparsed parses one statement.
func reparsed(text string) (*pg_query.Node, error) {
	parsed, err := parse(text)
	switch {
	case errors.Is(err, errTooLong):
		return nil, errGrown
	case err != nil || len(parsed.GetStmts()) != 1:
		return nil, &Refusal{
			Code: codeFeatureNotSupported, Offset: -1, Hint: "Send each statement by itself.",
			Message: "cannot read this statement apart from those around it, or with its views expanded",
		}
	}
	return parsed.GetStmts()[0].GetStmt(), nil
}

// viewsIn finds the mentions of views that must be expanded. It returns which columns of the result are columns of those.
func (a *analysis) viewsIn(node *pg_query.Node) []ResultColumn {
	var out columns
	switch query := wrapped(node).query; {
	case query == nil: // COPY and LOCK of a view are PostgreSQL's
	case query.GetSelectStmt() != nil:
		out = a.query(query.GetSelectStmt(), nil, nil)
	default:
		a.modification(query, nil, nil)
	}
	var list []ResultColumn
	for _, c := range out.cols {
		list = append(list, c.view)
	}
	if out.open || node.GetExplainStmt() != nil {
		return nil
	}
	return list
}

// expansions are the edits of one step.
func (a *analysis) expansions() []edit {
	var edits []edit
	for _, m := range a.mentions {
		edits = append(edits, a.replace(&instance{rv: m.rv}, template{text: a.queryOf(m)}))
	}
	for _, ref := range a.viewRefs {
		edits = append(edits, a.unqualify(ref))
	}
	return edits
}

// queryOf spells what stands for a mention of a view.
func (a *analysis) queryOf(m *mention) string {
	v := m.rel.View
	for _, n := range v.names {
		rel, found := a.resolved[n]
		featureView := n.Schema == runtimeSchema && found && !a.masks.IsView(rel.OID)
		if err := reserved(n.Schema, int(m.rv.GetLocation())); err != nil && !featureView {
			panic(err)
		}
	}
	for _, n := range v.rows {
		rel := a.resolved[n]
		if _, masked := a.masks.Of(rel.OID); masked || a.views.needs(rel) {
			refuse(codeFeatureNotSupported, int(m.rv.GetLocation()), "List the columns in the view.",
				"view %q has whole rows of %q, and codes are not of its columns' types", m.rv.GetRelname(), n.Relation)
		}
	}
	var columns, read []string
	for i, name := range m.rel.Columns {
		columns = append(columns, quote(name))
		if m.read[i] {
			read = append(read, literal(name))
		}
	}
	list := strings.Join(columns, ", ")
	as := "v(" + list + ")"
	if slices.Equal(outputNames(v.query.GetSelectStmt()), m.rel.Columns) { // a list of names would say that all are read
		as = "v"
	}
	name := nameOf(m.rv)
	return fmt.Sprintf("(SELECT %s FROM (%s) %s WHERE scrim_runtime.still_views(%s, '%d', '%d', ARRAY[%s]::pg_catalog.text[], %t))",
		list, v.qualified(a.resolved), as, literal(name.Quoted()), m.rel.OID, v.hash, strings.Join(read, ", "), m.locked)
}

// qualified is the view's query with a schema before every relation.
func (v *View) qualified(resolved map[Name]Relation) string {
	text, _ := splice(v.text, v.qualifications(resolved), asParameter)
	return text
}

func (v *View) qualifications(resolved map[Name]Relation) (edits []edit) {
	for _, rv := range v.loose {
		schema := "pg_catalog"
		if _, ok := resolved[inSchema(schema, rv)]; !ok {
			schema = "pg_temp"
		}
		at := int(rv.GetLocation())
		edits = append(edits, edit{start: at, end: at, template: template{text: schema + "."}})
	}
	return edits
}

// outputNames are those of a query's result; nil where this package does not know them.
func outputNames(sel *pg_query.SelectStmt) []string {
	for sel.GetLarg() != nil {
		sel = sel.GetLarg()
	}
	var names []string
	for _, target := range sel.GetTargetList() {
		names = append(names, outputName(target.GetResTarget()))
	}
	return names
}

// describes says which columns the result has of views, and for the others what the plan says.
func (x *expanded) describes(planned []ResultColumn) []ResultColumn {
	if len(planned) == 0 {
		return x.columns
	}
	columns := slices.Clone(planned)
	for i, c := range x.columns {
		if i < len(columns) && c.Relation != 0 {
			columns[i] = c
		}
	}
	return columns
}

// mapped moves the position of a refusal to the text before the expansion.
func (x *expanded) mapped(err error) error {
	var r *Refusal
	if len(x.steps) == 0 || !errors.As(err, &r) {
		return err
	}
	moved := *r
	moved.Offset = x.original(r.Offset)
	return &moved
}

// original maps a byte offset in the expanded text to one in the text before; -1 where that has nothing.
func (x *expanded) original(offset int) int {
	for _, edits := range slices.Backward(x.steps) {
		at, inside := original(edits, offset)
		if inside || offset < 0 {
			return -1
		}
		offset = at
	}
	return offset
}

// createsInvokerView is true for CREATE VIEW ... WITH (security_invoker). Such a view stores no rights: whoever reads it sees
// what they may see.
func createsInvokerView(node *pg_query.Node) bool {
	for _, o := range node.GetViewStmt().GetOptions() {
		e := o.GetDefElem()
		if e.GetDefname() != "security_invoker" {
			continue
		}
		switch value := e.GetArg(); {
		case value == nil:
			return true
		case value.GetBoolean() != nil:
			return value.GetBoolean().GetBoolval()
		case value.GetInteger() != nil:
			return value.GetInteger().GetIval() == 1
		default:
			return slices.Contains([]string{"true", "on", "yes"}, strings.ToLower(value.GetString_().GetSval()))
		}
	}
	return false
}

// viewNames are names that a statement may give to views, or to what may be one already.
func viewNames(node *pg_query.Node) []string {
	switch n := node.GetNode().(type) {
	case *pg_query.Node_ViewStmt:
		return []string{n.ViewStmt.GetView().GetRelname()}
	case *pg_query.Node_RenameStmt:
		return []string{n.RenameStmt.GetNewname()}
	case *pg_query.Node_AlterTableStmt:
		return []string{n.AlterTableStmt.GetRelation().GetRelname()}
	case *pg_query.Node_AlterObjectSchemaStmt:
		return []string{n.AlterObjectSchemaStmt.GetRelation().GetRelname()}
	case *pg_query.Node_CreateSchemaStmt:
		var names []string
		for _, inner := range n.CreateSchemaStmt.GetSchemaElts() {
			names = append(names, viewNames(inner)...)
		}
		return names
	}
	return nil
}
