package rewrite

import (
	"errors"
	"slices"

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
}

// Inspected is a statement that was read but not yet planned.
type Inspected struct {
	// Command is set for one of Scrim's own statements; the other fields are then empty.
	Command Command
	// Names must be resolved before Plan. Empty: the text is relayed as it is.
	Names []Name
	// MovesNames means that running the statement can change what names resolve to; plans kept for reuse must go.
	MovesNames bool
	// Executes names the prepared statements that the text runs by EXECUTE.
	Executes []string
	// Forgets means that a prepared statement may go, or another take its name: DEALLOCATE, PREPARE, DISCARD.
	Forgets bool

	text  string
	stmts []*pg_query.RawStmt
}

// Inspect reads the text of a Query or Parse message. protected tells whether an unqualified name can be a protected
// relation or a masked view. Text that PostgreSQL's grammar does not take is relayed, so that the server says so itself.
// The only errors are Refusals.
func Inspect(text string, protected func(string) bool) (*Inspected, error) {
	cmd, err := parseCommand(text)
	if err != nil || cmd != nil {
		return &Inspected{Command: cmd, text: text}, err
	}
	in := &Inspected{text: text}
	parsed, err := parse(text)
	if err != nil {
		in.MovesNames = true // it may do anything
		return in, nil       //nolint:nilerr // the server reports it
	}
	in.stmts = parsed.GetStmts()
	for _, s := range in.stmts {
		in.Forgets = in.Forgets || s.GetStmt().GetDeallocateStmt() != nil || s.GetStmt().GetPrepareStmt() != nil || s.GetStmt().GetDiscardStmt() != nil
	}
	in.MovesNames = slices.ContainsFunc(in.stmts, func(s *pg_query.RawStmt) bool { return movesNames(s.GetStmt()) })

	found, touches, reads := []Name{}, false, false
	walk(parsed.ProtoReflect(), func(m proto.Message) bool {
		if execute, ok := m.(*pg_query.ExecuteStmt); ok {
			in.Executes = append(in.Executes, execute.GetName())
		}
		rv, ok := m.(*pg_query.RangeVar)
		if !ok {
			reads = reads || readsRows(m)
			return true
		}
		if rv.GetSchemaname() == "scrim_runtime" || rv.GetSchemaname() == "scrim_state" {
			err = &Refusal{
				Code: codeInsufficientPrivilege, Offset: int(rv.GetLocation()),
				Message: "permission denied for schema " + rv.GetSchemaname(), Hint: "Query the protected table itself.",
			}
		}
		touches = touches || protected(rv.GetRelname())
		found = append(found, nameOf(rv))
		return true
	})
	if err != nil {
		return nil, err
	}
	if touches && reads { // VACUUM, LOCK and the like are the server's alone
		slices.SortFunc(found, compareNames)
		in.Names = slices.Compact(found)
	}
	return in, nil
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

// readsRows tells whether a node of a parse tree can hand rows of a relation on.
func readsRows(m proto.Message) bool {
	switch m.(type) {
	case *pg_query.SelectStmt, *pg_query.InsertStmt, *pg_query.UpdateStmt, *pg_query.DeleteStmt, *pg_query.MergeStmt, *pg_query.CopyStmt:
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
// DISCARD, EXECUTE, and calls of set_config. (A ROLLBACK can bring a search_path or a temporary table back.)
func movesNames(stmt *pg_query.Node) bool {
	switch n := stmt.GetNode().(type) {
	case *pg_query.Node_SelectStmt:
		if n.SelectStmt.GetIntoClause() != nil {
			return true
		}
	case *pg_query.Node_InsertStmt, *pg_query.Node_UpdateStmt, *pg_query.Node_DeleteStmt, *pg_query.Node_MergeStmt,
		*pg_query.Node_CopyStmt, *pg_query.Node_VariableShowStmt, *pg_query.Node_DeclareCursorStmt, *pg_query.Node_FetchStmt:
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

// Plan decides how to run the statement, given what each of Names resolved to (names that resolve to nothing are left
// out) and the masks of the login role. A nil plan means: relay the text as it is. The only errors are Refusals.
func (in *Inspected) Plan(resolved map[Name]Relation, masks policy.Masks) (plan *Plan, err error) {
	defer recovered(&err)
	a := &analysis{text: in.text, resolved: resolved, masks: masks}
	for _, rel := range resolved {
		if mask, ok := masks.Of(rel.OID); ok && !mask.Policy.Relation.SameColumns(rel.Columns) {
			return nil, ErrOutdated
		}
	}
	if !a.touchesMasked(in.stmts) {
		return nil, nil
	}
	if len(in.stmts) != 1 {
		refuse(codeFeatureNotSupported, -1, "Send each statement by itself.",
			"several statements in one message, one of which reads masked columns, are not supported yet")
	}
	stmt := in.stmts[0].GetStmt()
	if explain := stmt.GetExplainStmt(); explain != nil {
		if sel := explain.GetQuery().GetSelectStmt(); sel != nil {
			if out := a.query(sel, nil, nil); a.anyUsed() {
				plan = a.plan(out.cols)
				plan.Outputs, plan.Seals = nil, nil // the result is text about the plan: nothing to fill
			}
			return plan, nil
		}
	}
	sel := stmt.GetSelectStmt()
	if sel == nil {
		refuse(codeFeatureNotSupported, -1, "A masked column can be read by a plain SELECT. Server-side cursors (DECLARE, FETCH_COUNT in psql, named cursors of drivers) are such statements too.",
			"masked columns are not supported in this kind of statement yet")
	}
	out := a.query(sel, nil, nil)
	if !a.anyUsed() {
		return nil, nil
	}
	if out.hasSlots() && out.open {
		refuse(codeFeatureNotSupported, -1, "List the columns instead of using a star.", "cannot tell which columns a star stands for next to masked columns")
	}
	return a.plan(out.cols), nil
}

// touchesMasked tells whether the statement can name a masked column at all: by name, star or whole row. It looks at
// names only, so a yes may be wrong and a no is not: columns that are renamed without being named count as named.
func (a *analysis) touchesMasked(stmts []*pg_query.RawStmt) bool {
	words := map[string]bool{}
	for name, rel := range a.resolved {
		mask, ok := a.masks.Of(rel.OID)
		if !ok {
			if a.masks.IsView(rel.OID) {
				refuse(codeInsufficientPrivilege, -1, "Query the protected table itself.", "permission denied for view %s", name.Relation)
			}
			continue
		}
		words[name.Relation] = true // a whole row by the table's name
		for _, c := range mask.Policy.Relation.Columns {
			if mask.Hidden[c.Num] {
				words[c.Name] = true
			}
		}
	}
	if len(words) == 0 {
		return false
	}
	touched := false
	for _, s := range stmts {
		walk(s.ProtoReflect(), func(m proto.Message) bool {
			switch m := m.(type) {
			case *pg_query.RangeVar:
				if words[m.GetRelname()] && m.GetAlias() != nil {
					words[m.GetAlias().GetAliasname()] = true // a whole row by its alias
					touched = touched || len(m.GetAlias().GetColnames()) > 0
				}
			case *pg_query.JoinExpr:
				touched = touched || m.GetIsNatural() || len(m.GetAlias().GetColnames()) > 0
				for _, u := range m.GetUsingClause() {
					touched = touched || words[u.GetString_().GetSval()]
				}
			case *pg_query.CopyStmt:
				touched = touched || a.copiesMasked(m)
			}
			return true
		})
	}
	for _, s := range stmts {
		walk(s.ProtoReflect(), func(m proto.Message) bool {
			ref, ok := m.(*pg_query.ColumnRef)
			if !ok {
				return !touched
			}
			fields := ref.GetFields()
			last := fields[len(fields)-1]
			touched = touched || last.GetAStar() != nil || words[last.GetString_().GetSval()]
			return false
		})
	}
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
		return slices.ContainsFunc(mask.Policy.Relation.Columns, func(col column) bool {
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
