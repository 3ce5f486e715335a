package rewrite

import (
	"errors"
	"slices"
	"strings"

	pg_query "github.com/pganalyze/pg_query_go/v6"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"

	"github.com/scrimdb/scrim/policy"
)

// Name is a relation as a statement names it. Empty parts were not written.
type Name struct{ Catalog, Schema, Relation string }

// Quoted returns the name as text that to_regclass takes.
func (n Name) Quoted() string {
	q := quote(n.Relation)
	if n.Schema != "" {
		q = quote(n.Schema) + "." + q
	}
	if n.Catalog != "" {
		q = quote(n.Catalog) + "." + q
	}
	return q
}

// Relation is what a name resolved to in the client's session.
type Relation struct {
	OID     uint32
	Columns []string // live columns in order, as the client could see them
	Key     []string // those of the primary key
	View    *View    // its query, of a view that runs with the invoker's rights
}

// Inspected is a statement that was read but not yet planned.
type Inspected struct {
	// Command is set for one of Scrim's own statements; the other fields are then empty.
	Command Command
	// Names must be resolved before Plan. Empty: the text is relayed as it is.
	Names []Name
	// MovesNames means that running the statement can change what names resolve to; plans kept for reuse must go. What an
	// EXECUTE runs is not known here.
	MovesNames bool
	// Views are unqualified names that running the text may give to views.
	Views []string
	// Statements of the text, in order. None: it is empty, or not PostgreSQL's grammar.
	Statements []Statement

	text  string
	nodes []*pg_query.Node // of Statements
}

// Text returns the whole text.
func (in *Inspected) Text() string { return in.text }

// Inspect reads the text of a Query or Parse message. protected tells whether a name can be a protected relation, a masked view, or a
// view that reads one; in scrim_runtime, whether it is a feature view. It is nil where the role is masked nowhere. Text that PostgreSQL's grammar does not take is relayed, so that the server says so itself.
// The only errors are Refusals.
func Inspect(text string, protected func(Name) bool) (*Inspected, error) {
	cmd, err := parseCommand(text)
	if c, ok := cmd.(ExplainMasking); ok {
		err = c.check()
	}
	if err != nil || cmd != nil {
		return &Inspected{Command: cmd, text: text}, err
	}
	in := &Inspected{text: text}
	parsed, err := parse(text)
	if err != nil {
		in.MovesNames = true // it may do anything
		return in, nil       //nolint:nilerr // the server reports it
	}
	in.Statements, in.nodes = statements(text, parsed.GetStmts())
	in.MovesNames = slices.ContainsFunc(in.nodes, movesNames)
	for _, node := range in.nodes {
		in.Views = append(in.Views, viewNames(node)...)
	}

	if protected == nil {
		return in, nil
	}
	found, touches, reads := []Name{}, false, false
	walk(parsed.ProtoReflect(), func(m proto.Message) bool {
		rv, ok := m.(*pg_query.RangeVar)
		if !ok {
			reads = reads || readsRows(m)
			return true
		}
		name := nameOf(rv)
		named := protected(name)
		if r := reserved(name.Schema, int(rv.GetLocation())); r != nil && !named {
			err = r
		}
		touches = touches || named
		found = append(found, name)
		return true
	})
	if err != nil {
		return nil, err
	}
	if touches && reads { // VACUUM and the like are the server's alone
		slices.SortFunc(found, compareNames)
		in.Names = slices.Compact(found)
	}
	return in, nil
}

// runtimeSchema has masked views and feature views.
const runtimeSchema = "scrim_runtime"

// reserved refuses relations in Scrim's own schemas.
func reserved(schema string, offset int) *Refusal {
	if schema != runtimeSchema && schema != "scrim_state" {
		return nil
	}
	return &Refusal{
		Code: codeInsufficientPrivilege, Offset: offset,
		Message: "permission denied for schema " + schema, Hint: "Query the protected table itself.",
	}
}

// maxTokens bounds what is parsed. PostgreSQL's parser, as a library, recurses on the thread's stack, and its overflow
// would end the process; a statement of 40,000 additions did. Longer statements are relayed unread: the grants answer.
const (
	maxTokens = 8000
	maxText   = 1 << 20
)

var errTooLong = errors.New("statement has too many tokens")

func parse(text string) (*pg_query.ParseResult, error) {
	if len(text) > maxText { // a scan costs memory too
		return nil, errTooLong
	}
	if len(text) > maxTokens { // shorter text cannot have more
		scan, err := pg_query.Scan(text)
		if err != nil {
			return nil, err
		}
		if len(scan.GetTokens()) > maxTokens {
			return nil, errTooLong
		}
	}
	return pg_query.Parse(text)
}

// readsRows tells whether a node of a parse tree can hand rows of a relation on, or asks for the right to.
func readsRows(m proto.Message) bool {
	switch m.(type) {
	case *pg_query.SelectStmt, *pg_query.InsertStmt, *pg_query.UpdateStmt, *pg_query.DeleteStmt, *pg_query.MergeStmt, *pg_query.CopyStmt, *pg_query.LockStmt:
		return true
	}
	return false
}

func nameOf(rv *pg_query.RangeVar) Name {
	return Name{Catalog: rv.GetCatalogname(), Schema: rv.GetSchemaname(), Relation: rv.GetRelname()}
}

func compareNames(a, b Name) int {
	return slices.Compare([]string{a.Catalog, a.Schema, a.Relation}, []string{b.Catalog, b.Schema, b.Relation})
}

// movesNames is true for everything but plain reading and writing of rows and the ends of transactions: SET, DDL,
// DISCARD, and calls of set_config. (A ROLLBACK can bring a search_path or a temporary table back.)
func movesNames(stmt *pg_query.Node) bool {
	switch n := stmt.GetNode().(type) {
	case *pg_query.Node_SelectStmt:
		if n.SelectStmt.GetIntoClause() != nil {
			return true
		}
	case *pg_query.Node_InsertStmt, *pg_query.Node_UpdateStmt, *pg_query.Node_DeleteStmt, *pg_query.Node_MergeStmt,
		*pg_query.Node_CopyStmt, *pg_query.Node_VariableShowStmt, *pg_query.Node_DeclareCursorStmt, *pg_query.Node_FetchStmt,
		*pg_query.Node_PrepareStmt, *pg_query.Node_ExecuteStmt, *pg_query.Node_DeallocateStmt, *pg_query.Node_ClosePortalStmt:
	case *pg_query.Node_TransactionStmt:
		switch n.TransactionStmt.GetKind() {
		case pg_query.TransactionStmtKind_TRANS_STMT_ROLLBACK, pg_query.TransactionStmtKind_TRANS_STMT_ROLLBACK_TO,
			pg_query.TransactionStmtKind_TRANS_STMT_COMMIT: // COMMIT ends SET LOCAL
			return true
		}
		return false
	default:
		return true
	}
	moves := false
	walk(stmt.ProtoReflect(), func(m proto.Message) bool {
		if call, ok := m.(*pg_query.FuncCall); ok {
			moves = moves || lastString(call.GetFuncname()) == "set_config"
		}
		return !moves
	})
	return moves
}

// ErrOutdated means that a protected table has other columns now than the masks say: get newer ones.
var ErrOutdated = &Refusal{Code: codeFeatureNotSupported, Message: "a protected table was altered", Hint: "Try again.", Offset: -1}

// Plan decides how to run each of Statements, given what each of Names resolved to (names that resolve to nothing are left
// out) and the masks of the login role. A nil plan means: relay the statement as it is; no plans at all: the whole text.
// The only errors are Refusals.
func (in *Inspected) Plan(resolved map[Name]Relation, masks policy.Masks) ([]*Plan, error) {
	for _, rel := range resolved {
		if mask, ok := masks.Of(rel.OID); ok && !mask.Protection.Relation.SameColumns(rel.Columns) {
			return nil, ErrOutdated
		}
	}
	v := &views{resolved: resolved, masks: masks, needed: map[uint32]bool{}}
	expands, err := v.any()
	if err != nil {
		return nil, err
	}
	shows := catalogsAmong(resolved, masks)
	plans, planned := make([]*Plan, len(in.Statements)), false
	for i := range in.Statements {
		if plans[i], err = in.planShowing(i, v, expands, shows); err != nil {
			return nil, err
		}
		planned = planned || plans[i] != nil
	}
	if !planned {
		return nil, nil
	}
	for _, s := range in.Statements {
		switch masks := func(p *Plan) bool { return p != nil && p.Masks() }; {
		case !s.CopiesIn || len(in.Statements) == 1:
		case slices.ContainsFunc(plans, masks):
			return nil, s.RefuseCopyIn()
		default:
			return nil, nil
		}
	}
	return plans, nil
}

// one plans the statement of this number.
func (in *Inspected) one(number int, v *views, expands bool, shows *catalogs) (plan *Plan, err error) {
	s := in.Statements[number]
	x, part := expanded{text: s.Text, node: in.nodes[number]}, len(in.nodes) > 1
	if expands {
		if x, err = v.expand(s.Text, x.node, part); err != nil {
			return nil, shifted(err, s.Offset)
		}
		part = false
	}
	shown := false
	if shows != nil {
		if shown, err = shows.show(&x, part); err != nil {
			return nil, err
		}
		part = part && !shown
	}
	a := &analysis{text: x.text, resolved: v.resolved, masks: v.masks}
	if plan, err = a.statement(x.node, part); err != nil {
		return nil, shifted(x.mapped(err), s.Offset)
	}
	if plan == nil && shows != nil && len(x.steps) > 0 {
		plan = &Plan{SQL: x.text, text: x.text, Params: highestParam(x.node)}
	}
	if plan != nil {
		plan.views, plan.Columns = expanded{steps: x.steps}, x.describes(plan.Columns)
	}
	return plan, nil
}

// shifted moves the position of a refusal from a statement's text to the whole.
func shifted(err error, offset int) error {
	var r *Refusal
	if errors.As(err, &r) && r.Offset >= 0 {
		moved := *r
		moved.Offset += offset
		return &moved
	}
	return err
}

// statement plans one statement. A part of a longer text is parsed once more, so that positions count from its beginning.
func (a *analysis) statement(node *pg_query.Node, part bool) (plan *Plan, err error) {
	defer recovered(&err)
	if node.GetLockStmt() == nil && !a.touchesMasked(node) {
		return nil, nil
	}
	if part {
		parsed, err := pg_query.Parse(a.text)
		if err != nil || len(parsed.GetStmts()) != 1 {
			refuse(codeFeatureNotSupported, -1, "Send each statement by itself.", "cannot read this statement apart from those around it")
		}
		node = parsed.GetStmts()[0].GetStmt()
	}
	if lock := node.GetLockStmt(); lock != nil {
		return a.lock(lock), nil
	}
	if createsInvokerView(node) {
		return nil, nil
	}
	w := wrapped(node)
	a.words, a.fixed, a.alone = mentioned(node), node.GetPrepareStmt() != nil, mentions(node) == 1
	if (node.GetPrepareStmt() != nil || node.GetDeclareCursorStmt() != nil) && strings.Contains(a.text, `\`) {
		a.stage(-1, "a backslash can be read in two ways") // see scrim_runtime.still_prepared
	}
	var out columns
	switch {
	case w.copies != nil:
		a.copyTable(w.copies)
	case w.query == nil:
		refuse(codeFeatureNotSupported, -1, "A masked column can be read by SELECT, alone or inside INSERT, UPDATE, DELETE, MERGE, CREATE TABLE AS, COPY, PREPARE, DECLARE, EXPLAIN and CREATE VIEW ... WITH (security_invoker = true).",
			"masked columns are not supported in this kind of statement")
	case w.query.GetSelectStmt() != nil:
		out = a.query(w.query.GetSelectStmt(), nil, nil)
	default:
		a.modification(w.query, nil, nil)
	}
	if !a.anyUsed() {
		return nil, nil
	}
	if w.stores != "" {
		a.stage(-1, "%s", w.stores)
	}
	if out.open && out.hasSlots() {
		a.consume(out, "a result of unknown columns", -1)
	}
	plan = a.plan(out.cols)
	if out.open { // their places are not known
		plan.Columns = nil
	}
	plan.Literals, plan.Params = w.literals, max(highestParam(node), len(node.GetPrepareStmt().GetArgtypes()))
	if !w.explained || w.analyzed {
		plan.Reads = readsOf(plan.Mentions)
	}
	if w.explained { // the result is text about the plan: nothing to fill
		if w.text {
			plan.Notes = plan.notes(out.cols)
		}
		plan.Outputs, plan.Seals, plan.Columns = nil, nil, nil
	}
	return plan, nil
}

// mentioned returns the names by which a statement can mean columns.
func mentioned(node *pg_query.Node) map[string]bool {
	words := map[string]bool{}
	walk(node.ProtoReflect(), func(m proto.Message) bool {
		switch m := m.(type) {
		case *pg_query.ColumnRef:
			words[lastString(m.GetFields())] = true
		case *pg_query.JoinExpr:
			for _, u := range m.GetUsingClause() {
				words[u.GetString_().GetSval()] = true
			}
		case *pg_query.CopyStmt:
			for _, n := range m.GetAttlist() {
				words[n.GetString_().GetSval()] = true
			}
		}
		return true
	})
	return words
}

// mentions counts the relations that a statement reads: each mention counts.
func mentions(node *pg_query.Node) int {
	n := 0
	walk(node.ProtoReflect(), func(m proto.Message) bool {
		switch m.(type) {
		case *pg_query.RangeVar:
			n++
		case *pg_query.InsertStmt, *pg_query.IntoClause: // where rows go to
			n--
		}
		return true
	})
	return n
}

// wrapper is a statement that hands a query's rows on, now or later.
type wrapper struct {
	query     *pg_query.Node
	explained bool
	analyzed  bool               // and run
	text      bool               // the explanation is to be text
	stores    string             // what it does with the rows, if not to return them
	literals  bool               // it takes no parameters
	copies    *pg_query.CopyStmt // COPY of a relation stands for a query
}

func wrapped(node *pg_query.Node) wrapper {
	switch n := node.GetNode().(type) {
	case *pg_query.Node_ExplainStmt:
		w := wrapped(n.ExplainStmt.GetQuery())
		w.explained, w.text = true, true
		for _, o := range n.ExplainStmt.GetOptions() {
			switch e := o.GetDefElem(); e.GetDefname() {
			case "format":
				w.text = e.GetArg().GetString_().GetSval() == "text"
			case "analyze":
				w.analyzed = true // whatever it says
			}
		}
		return w
	case *pg_query.Node_PrepareStmt:
		return wrapped(n.PrepareStmt.GetQuery())
	case *pg_query.Node_DeclareCursorStmt:
		return wrapped(n.DeclareCursorStmt.GetQuery())
	case *pg_query.Node_CreateTableAsStmt:
		if n.CreateTableAsStmt.GetObjtype() == pg_query.ObjectType_OBJECT_TABLE {
			w := wrapped(n.CreateTableAsStmt.GetQuery())
			w.stores = "CREATE TABLE AS stores"
			return w
		}
	case *pg_query.Node_CopyStmt:
		w := wrapper{copies: n.CopyStmt}
		if n.CopyStmt.GetQuery() != nil {
			w = wrapped(n.CopyStmt.GetQuery())
		}
		w.stores, w.literals = "COPY sends", true
		return w
	case *pg_query.Node_SelectStmt, *pg_query.Node_InsertStmt, *pg_query.Node_UpdateStmt, *pg_query.Node_DeleteStmt, *pg_query.Node_MergeStmt:
		return wrapper{query: node}
	}
	return wrapper{}
}

// highestParam is the highest number of a parameter in a statement.
func highestParam(node *pg_query.Node) int {
	highest := 0
	walk(node.ProtoReflect(), func(m proto.Message) bool {
		if p, ok := m.(*pg_query.ParamRef); ok {
			highest = max(highest, int(p.GetNumber()))
		}
		return true
	})
	return highest
}

// touchesMasked tells whether the statement can name a masked column at all: by name, star or whole row. It looks at
// names only, so a yes may be wrong and a no is not: columns that are renamed without being named count as named, and so does
// everything of a feature view.
func (a *analysis) touchesMasked(stmt *pg_query.Node) bool {
	words, open, whole := map[string]bool{}, map[string]bool{}, map[Name]bool{}
	for _, name := range systemColumns {
		open[name] = true
	}
	for name, rel := range a.resolved {
		mask, ok := a.masks.Of(rel.OID)
		if !ok {
			if a.masks.IsView(rel.OID) {
				refuse(codeInsufficientPrivilege, -1, "Query the protected table itself.", "permission denied for view %s", name.Relation)
			}
			continue
		}
		whole[name] = mask.Protection.FeatureView
		words[name.Relation] = true // a whole row by the table's name
		for _, c := range mask.Protection.Relation.Columns {
			if mask.Hidden[c.Num] {
				words[c.Name] = true
			} else {
				open[c.Name] = true
			}
		}
	}
	if len(words) == 0 {
		return false
	}
	touched := false
	walk(stmt.ProtoReflect(), func(m proto.Message) bool {
		switch m := m.(type) {
		case *pg_query.RangeVar:
			touched = touched || whole[nameOf(m)]
			if words[m.GetRelname()] && m.GetAlias() != nil {
				words[m.GetAlias().GetAliasname()] = true // a whole row by its alias
				touched = touched || len(m.GetAlias().GetColnames()) > 0
			}
		case *pg_query.JoinExpr:
			words[m.GetAlias().GetAliasname()] = m.GetAlias() != nil // a whole row of all that is joined
			touched = touched || m.GetIsNatural() || len(m.GetAlias().GetColnames()) > 0
			for _, u := range m.GetUsingClause() {
				touched = touched || words[u.GetString_().GetSval()]
			}
		case *pg_query.CopyStmt:
			touched = touched || a.copiesMasked(m)
		}
		return true
	})
	walk(stmt.ProtoReflect(), func(m proto.Message) bool {
		ref, ok := m.(*pg_query.ColumnRef)
		if !ok {
			return !touched
		}
		fields := ref.GetFields()
		last := fields[len(fields)-1]
		touched = touched || last.GetAStar() != nil || words[last.GetString_().GetSval()]
		if n := len(fields); n > 1 && !open[last.GetString_().GetSval()] { // t.f can be f(t)
			touched = touched || words[fields[n-2].GetString_().GetSval()]
		}
		return false
	})
	return touched
}

// copiesMasked tells whether COPY table TO names masked columns. (COPY FROM needs INSERT, which PostgreSQL judges.)
func (a *analysis) copiesMasked(c *pg_query.CopyStmt) bool {
	if c.GetRelation() == nil || c.GetIsFrom() {
		return false
	}
	mask, ok := a.masks.Of(a.resolved[nameOf(c.GetRelation())].OID)
	if !ok {
		return false
	}
	if len(c.GetAttlist()) == 0 {
		return true
	}
	return slices.ContainsFunc(c.GetAttlist(), func(n *pg_query.Node) bool {
		return slices.ContainsFunc(mask.Protection.Relation.Columns, func(col column) bool {
			return col.Name == n.GetString_().GetSval() && mask.Hidden[col.Num]
		})
	})
}

// walk visits every message of a parse tree, parents first. visit says whether to go below.
func walk(m protoreflect.Message, visit func(proto.Message) bool) {
	if !visit(m.Interface()) {
		return
	}
	m.Range(func(fd protoreflect.FieldDescriptor, v protoreflect.Value) bool {
		switch {
		case fd.Message() == nil:
		case fd.IsList():
			for i := range v.List().Len() {
				walk(v.List().Get(i).Message(), visit)
			}
		default:
			walk(v.Message(), visit)
		}
		return true
	})
}

func lastString(nodes []*pg_query.Node) string {
	if len(nodes) == 0 {
		return ""
	}
	return nodes[len(nodes)-1].GetString_().GetSval()
}
