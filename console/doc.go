// Package console is Scrim's web page: what encoders, training jobs and policies there are, and what the codes of an encoder give
// away. It has no state, changes nothing, and works without JavaScript.
//
// # Who sees what
//
// PostgreSQL decides. Whoever looks logs in by HTTP Basic with a role and its password; each request opens a connection to the upstream
// server as that role, reads the public views of schema scrim in one transaction (package catalog holds the queries), and
// closes it. So it takes scrim_admin, and whatever pg_hba.conf asks for. Connections are made by the proxy's own way to the
// server ([proxy.Server.Dial]), which is encrypted as the proxy's is, and not through its listener: nothing that is read here is
// ever masked, and a session of the proxy's would add a leg without adding a check. Nothing of a login is kept or logged, role names
// included (people type passwords there).
//
// # Who gets in
//
// On a loopback address it speaks HTTP, and only to who calls it localhost or by a loopback address: a page of another site whose
// name was made to mean 127.0.0.1 gets nothing. On every other address it speaks HTTPS with the proxy's certificate, or does not
// start. Failed logins are counted by address ([attempts]), logins at a time and connections are bounded. /healthz and the
// style sheet need no login.
//
// # Life cycle
//
// [New] checks the configuration, [Server.Serve] answers until its context ends.
//
// To debug: log level debug has the SQLSTATE of each login that failed.
package console
