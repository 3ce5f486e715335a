package rewrite

import (
	"slices"

	pg_query "github.com/pganalyze/pg_query_go/v6"
)

// Read is what a statement reads of a relation through masks: for the audit.
type Read struct {
	Schema, Relation string
	OID              uint32
	Columns          []string // the masked ones that it reads
	Policies         []string
	Codes            bool // some are codes or predictions, not SQL masks
}

// readsOf are those of the mentions, each relation once.
func readsOf(mentions []Mention) []Read {
	var list []Read
	for _, m := range mentions {
		p := m.Mask.Protection
		if len(m.Columns) == 0 {
			continue
		}
		at := slices.IndexFunc(list, func(r Read) bool { return r.OID == p.Relation.OID })
		if at < 0 {
			at = len(list)
			list = append(list, Read{Schema: p.Relation.Schema, Relation: p.Relation.Name, OID: p.Relation.OID})
		}
		for _, num := range m.Columns {
			list[at].Columns = addTo(list[at].Columns, p.Column(num).Name)
			if policy := p.Policy(num); policy != nil {
				list[at].Policies = addTo(list[at].Policies, policy.Name)
				list[at].Codes = list[at].Codes || policy.Expression == ""
			}
		}
	}
	return list
}

func addTo(list []string, name string) []string {
	if slices.Contains(list, name) {
		return list
	}
	return append(list, name)
}

// Fingerprint tells statements apart by all but their literals and parameters, as pg_query does; empty for what is not read, and for all but those that read or
// write rows: others can have passwords, of which the fingerprint would be a hash.
func Fingerprint(text string) string {
	parsed, err := parse(text)
	if err != nil || len(parsed.GetStmts()) == 0 {
		return ""
	}
	for _, s := range parsed.GetStmts() {
		if !fingerprinted(s.GetStmt()) {
			return ""
		}
	}
	print, err := pg_query.Fingerprint(text)
	if err != nil {
		return ""
	}
	return print
}

func fingerprinted(node *pg_query.Node) bool {
	switch n := node.GetNode().(type) {
	case *pg_query.Node_SelectStmt, *pg_query.Node_InsertStmt, *pg_query.Node_UpdateStmt, *pg_query.Node_DeleteStmt, *pg_query.Node_MergeStmt,
		*pg_query.Node_LockStmt, *pg_query.Node_FetchStmt, *pg_query.Node_ExecuteStmt:
		return true
	case *pg_query.Node_CopyStmt: // a delimiter is a literal too
		return !slices.ContainsFunc(n.CopyStmt.GetOptions(), func(o *pg_query.Node) bool { return o.GetDefElem().GetDefname() != "format" })
	case *pg_query.Node_ExplainStmt:
		return fingerprinted(n.ExplainStmt.GetQuery())
	case *pg_query.Node_PrepareStmt:
		return fingerprinted(n.PrepareStmt.GetQuery())
	case *pg_query.Node_DeclareCursorStmt:
		return fingerprinted(n.DeclareCursorStmt.GetQuery())
	case *pg_query.Node_CreateTableAsStmt:
		return fingerprinted(n.CreateTableAsStmt.GetQuery())
	}
	return false
}
