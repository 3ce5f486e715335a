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
//  3. [Inspected.Plan] plans each statement of the text. First it puts the queries of views that run with the invoker's rights in
//     their places (view.go). Then it replaces each mention of a protected relation whose masked columns
//     are touched by a subselect, by splicing text at the parser's byte offsets; of feature views, which run with the invoker's
//     rights, every mention. Of PREPARE, DECLARE, COPY and the like it
//     plans the query inside.
//
// There are two kinds of plan. In a deferred one the subselect is over the masked view, masked columns are sealed values,
// and the session fills in codes on the way out. That needs a proof (analysis.go, from.go, scope.go, lookup.go), which is small and
// pessimistic: a masked column is a slot; a slot may be passed on as a bare column through subselects, CTEs, joins and
// UNION ALL, and nothing else. Any doubt makes the plan a staged one (stage.go): the subselect is over the table, and
// masked columns are looked up in a list of codes that the session makes before. There a masked column is a column like any other, so PostgreSQL
// gives it its meaning in every clause. What an SQL mask shows is that in both, and makes no statement staged. form.go says what
// a replacement reads. push.go finds the conditions that shorten the list, group.go and mend in plan.go
// repair what a subselect in a table's place breaks.
//
// What cannot be planned is refused ([Refusal]), with SQLSTATE, message and hint. Nothing here guards raw values:
// PostgreSQL's grants do, and a mistake in this package ends in "permission denied" or in ciphertext. It guards meaning:
// that no other value is shown in a mask's place.
//
// catalogs.go shows masked columns in the system catalogs as what they come back as.
//
// explain.go says all this of a statement to people (EXPLAIN MASKING): a plan has its reasons and mentions for that.
//
// To debug: the goldens in testdata/goldens print [Plan.Format] for statements by clause; add the statement there.
package rewrite
