// Package rewrite turns the text of a statement into a plan: what to send upstream, and which columns of the result the
// proxy has to fill. It is pure. It knows no connection and no model; where it needs to know what a name means, it says
// which names, and the session looks them up.
//
// The road of a statement:
//
//  1. [Inspect] tells Scrim's own statements (a [Command]) from PostgreSQL's, parses the latter with PostgreSQL's own
//     grammar, and lists the relation names that must be resolved. No names: the statement is relayed as it is.
//  2. The session resolves the names in the client's own session, where search_path and temporary tables mean what
//     PostgreSQL says they mean.
//  3. [Inspected.Plan] plans each statement of the text. It replaces each protected relation whose masked columns are
//     touched by a subselect over its masked view, by splicing text at the parser's byte offsets, and proves that every
//     masked column only travels to the output. Of PREPARE and DECLARE it plans the query inside.
//
// The proof is small and pessimistic. A masked column is a slot; a slot may be passed on as a bare column through
// subselects, CTEs, joins and UNION ALL, and nothing else. Whatever is not understood is refused ([Refusal]), with
// SQLSTATE, message and hint. Nothing here guards raw values: PostgreSQL's grants do, and a mistake in this package ends
// in "permission denied" or in ciphertext. It guards meaning: that no other value is shown in a mask's place.
//
// To debug: the goldens in testdata/goldens print [Plan.Format] for statements by clause; add the statement there.
package rewrite
