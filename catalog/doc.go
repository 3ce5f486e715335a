// Package catalog is Scrim's memory: everything it knows stands in schema scrim_state of the upstream database, and this
// package reads it into an immutable, versioned [Snapshot].
//
// Life cycle: [Init] installs or migrates the schemas (`scrim init`). [Open] connects and loads the first snapshot;
// [Catalog.Run] then listens for change notices, polls the version as a safety net, and swaps in a new snapshot when it
// moved. Readers call [Catalog.Snapshot] once for each statement and keep what they got: a statement never sees two
// versions. A catalog that was not reached for longer than the lease is stale, and masked statements are refused.
//
// The pool of this package runs fixed SQL of ours only, on system catalogs and on scrim_state: never a client's text,
// never a query on a user's table, whose owner could have his code planned into it.
//
// [Doctor] says what is open, [Rights] what Scrim's roles may do (`scrim doctor`, `scrim init`).
//
// The audit of changes is the database's own; what proxies refuse and read [Catalog.WriteAudit] writes down.
//
// What the console shows is read on connections of its visitors: [ReadOverview], [ReadEncoderReport].
//
// To debug: `SELECT * FROM scrim_state.catalog_version` on the server against the version in the proxy's log.
package catalog
