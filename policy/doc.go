// Package policy decides which mask a login role gets for a column. It is pure: the catalog says what policies there are
// and what the role may read, this package draws the conclusion.
//
// GRANT SELECT decides who sees raw values; a policy decides what everybody else sees. So a column is masked for a role
// exactly when a policy covers it and the role has no SELECT on it. A stale answer is harmless either way: too strict
// shows a mask, too lax ends in PostgreSQL's own "permission denied".
package policy
