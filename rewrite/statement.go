package rewrite

import (
	"slices"

	pg_query "github.com/pganalyze/pg_query_go/v6"
)

// Statement is one statement of a text.
type Statement struct {
	Text   string // its part of the text
	Offset int    // where that begins, in bytes
	Effect Effect
	// Stores names the prepared statement whose rows CREATE TABLE AS ... EXECUTE would store; empty for none.
	Stores string
	// CopiesIn is true for COPY FROM STDIN: the client sends data before the next statement may be sent.
	CopiesIn bool
	// WantsBlock is true for what runs differently alone than among others in one message, which are a transaction block
	// to PostgreSQL: DECLARE and LOCK need one, VACUUM and CALL mind it.
	WantsBlock bool
	// InTransactions is true for BEGIN, COMMIT, SAVEPOINT and their like.
	InTransactions bool
	// Gathers is true for what computes all its rows before the first is sent: everything but a SELECT that only reads.
	Gathers bool
}

// Effect is what a statement does to the prepared statements and cursors of its session.
type Effect struct {
	Verb Verb
	// Name as PostgreSQL folds and cuts it. Empty for Deallocates and Closes that name ALL.
	Name string
	// Binary and Hold are options of the cursor that a statement Declares.
	Binary, Hold bool
	// Arguments is with how many a statement Executes; Computes means that some are more than values.
	Arguments int
	Computes  bool
}

// Verb is a kind of Effect.
type Verb byte

// The verbs. A DISCARD of anything but ALL leaves names alone, and MOVE gives nothing back: both are Plain.
const (
	Plain       Verb = iota
	Prepares         // PREPARE name
	Executes         // EXECUTE name
	Deallocates      // DEALLOCATE name, or ALL
	Declares         // DECLARE name CURSOR
	Fetches          // FETCH FROM name
	Closes           // CLOSE name, or ALL
	Discards         // DISCARD ALL
	Ends             // COMMIT, ROLLBACK, PREPARE TRANSACTION
	Begins           // BEGIN, START TRANSACTION
	Analyzes         // EXPLAIN ANALYZE EXECUTE name
)

// Uses tells whether the rows of the statement are those of something made before.
func (e Effect) Uses() bool { return e.Verb == Executes || e.Verb == Fetches || e.Verb == Analyzes }

// statements cuts a text at the parser's offsets. White space before a statement is left out, comments are not.
func statements(text string, raws []*pg_query.RawStmt) ([]Statement, []*pg_query.Node) {
	list, nodes := make([]Statement, len(raws)), make([]*pg_query.Node, len(raws))
	for i, raw := range raws {
		start, end := int(raw.GetStmtLocation()), len(text)
		if raw.GetStmtLen() > 0 {
			end = start + int(raw.GetStmtLen())
		}
		if len(raws) == 1 { // as it came, so that a kept plan is found again
			start, end = 0, len(text)
		}
		for len(raws) > 1 && start < end && isSpace(text[start]) {
			start++
		}
		list[i], nodes[i] = statement(text[start:end], start, raw.GetStmt()), raw.GetStmt()
	}
	return list, nodes
}

// isSpace is PostgreSQL's scanner_isspace.
func isSpace(c byte) bool { return c == ' ' || '\t' <= c && c <= '\r' }

func statement(text string, offset int, node *pg_query.Node) Statement {
	s := Statement{
		Text: text, Offset: offset, Effect: effect(node), WantsBlock: wantsBlock(node), Gathers: gathers(node),
		InTransactions: node.GetTransactionStmt() != nil,
	}
	if c := node.GetCopyStmt(); c != nil {
		s.CopiesIn = c.GetIsFrom() && !c.GetIsProgram() && c.GetFilename() == ""
	}
	if c := node.GetCreateTableAsStmt(); c != nil {
		s.Stores = c.GetQuery().GetExecuteStmt().GetName()
	}
	return s
}

// Bits of DeclareCursorStmt.options in PostgreSQL's parsenodes.h.
const (
	cursorBinary = 0x0001
	cursorHold   = 0x0020
)

func effect(node *pg_query.Node) Effect {
	switch n := node.GetNode().(type) {
	case *pg_query.Node_PrepareStmt:
		return Effect{Verb: Prepares, Name: n.PrepareStmt.GetName()}
	case *pg_query.Node_ExecuteStmt:
		return Effect{Verb: Executes, Name: n.ExecuteStmt.GetName(), Arguments: len(n.ExecuteStmt.GetParams()), Computes: slices.ContainsFunc(n.ExecuteStmt.GetParams(), mayCall)}
	case *pg_query.Node_ExplainStmt:
		if made := n.ExplainStmt.GetQuery().GetExecuteStmt(); made != nil && slices.ContainsFunc(n.ExplainStmt.GetOptions(), isAnalyze) {
			return Effect{Verb: Analyzes, Name: made.GetName()}
		}
	case *pg_query.Node_DeallocateStmt:
		return Effect{Verb: Deallocates, Name: n.DeallocateStmt.GetName()}
	case *pg_query.Node_DeclareCursorStmt:
		options := n.DeclareCursorStmt.GetOptions()
		return Effect{Verb: Declares, Name: n.DeclareCursorStmt.GetPortalname(), Binary: options&cursorBinary != 0, Hold: options&cursorHold != 0}
	case *pg_query.Node_FetchStmt:
		if !n.FetchStmt.GetIsmove() {
			return Effect{Verb: Fetches, Name: n.FetchStmt.GetPortalname()}
		}
	case *pg_query.Node_ClosePortalStmt:
		return Effect{Verb: Closes, Name: n.ClosePortalStmt.GetPortalname()}
	case *pg_query.Node_DiscardStmt:
		if n.DiscardStmt.GetTarget() == pg_query.DiscardMode_DISCARD_ALL {
			return Effect{Verb: Discards}
		}
	case *pg_query.Node_TransactionStmt:
		switch n.TransactionStmt.GetKind() {
		case pg_query.TransactionStmtKind_TRANS_STMT_COMMIT, pg_query.TransactionStmtKind_TRANS_STMT_ROLLBACK,
			pg_query.TransactionStmtKind_TRANS_STMT_PREPARE:
			return Effect{Verb: Ends}
		case pg_query.TransactionStmtKind_TRANS_STMT_BEGIN, pg_query.TransactionStmtKind_TRANS_STMT_START:
			return Effect{Verb: Begins}
		}
	}
	return Effect{}
}

// isAnalyze tells whether an option of EXPLAIN is ANALYZE, which runs the statement. One that is switched off counts too.
func isAnalyze(option *pg_query.Node) bool { return option.GetDefElem().GetDefname() == "analyze" }

// mayCall is true for what may run a function of a user's: everything but a constant, one with a cast to a type that the
// grammar itself names, and a parameter.
func mayCall(node *pg_query.Node) bool {
	cast := node.GetTypeCast()
	if cast == nil {
		return node.GetAConst() == nil && node.GetParamRef() == nil
	}
	names := cast.GetTypeName().GetNames()
	return mayCall(cast.GetArg()) || len(names) != 2 || names[0].GetString_().GetSval() != "pg_catalog"
}

// wantsBlock is true for everything but what reads and writes rows, or looks at names.
func wantsBlock(node *pg_query.Node) bool {
	switch n := node.GetNode().(type) {
	case *pg_query.Node_SelectStmt, *pg_query.Node_InsertStmt, *pg_query.Node_UpdateStmt, *pg_query.Node_DeleteStmt, *pg_query.Node_MergeStmt,
		*pg_query.Node_CopyStmt, *pg_query.Node_ExplainStmt, *pg_query.Node_PrepareStmt, *pg_query.Node_ExecuteStmt, *pg_query.Node_DeallocateStmt,
		*pg_query.Node_FetchStmt, *pg_query.Node_ClosePortalStmt, *pg_query.Node_VariableShowStmt, *pg_query.Node_TransactionStmt:
		return false
	case *pg_query.Node_VariableSetStmt: // SET LOCAL, SET TRANSACTION
		return n.VariableSetStmt.GetIsLocal() || n.VariableSetStmt.GetKind() == pg_query.VariableSetKind_VAR_SET_MULTI
	}
	return true
}

// gathers looks for a query that PostgreSQL runs to its end first: the portal strategies other than PORTAL_ONE_SELECT.
func gathers(node *pg_query.Node) bool {
	sel := node.GetSelectStmt()
	if sel == nil {
		return true
	}
	for _, cte := range sel.GetWithClause().GetCtes() {
		if cte.GetCommonTableExpr().GetCtequery().GetSelectStmt() == nil {
			return true
		}
	}
	return false
}

// RefuseCopyIn says why a COPY FROM STDIN cannot stand next to a statement that needs the extended protocol: while the
// server waits for the data it ignores the messages that the statements after it are sent by.
func (s Statement) RefuseCopyIn() *Refusal {
	return &Refusal{
		Code: codeFeatureNotSupported, Offset: s.Offset, Hint: "Send COPY FROM STDIN by itself.",
		Message: "COPY FROM STDIN is not supported in one message with a statement that reads masked columns",
	}
}
