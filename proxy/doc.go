// Package proxy is the front door and the session: it stands between a client and PostgreSQL, relays what it can, and
// fills masked columns on the way out.
//
// # A connection
//
// [Server.Serve] accepts; frontdoor.go reads the start (psql-wire's Handshake: TLS, GSSENC refusal, cancel requests) and
// dials the upstream as the client's own role. From there two goroutines share a session:
//
//   - frontend.go reads what the client sends. Each message that will be answered is put in a queue (queue.go) before it
//     is forwarded. Query and Parse are looked at: Scrim's own statements become actions (command.go), statements of a
//     masked role are planned (plan.go) by package rewrite; everything else goes on as it came.
//   - backend.go reads what the server sends, in large blocks. The head of the queue says what each answer belongs to.
//     Runs of messages that need nothing are written on as they lie in the buffer. Rows with sealed columns are opened,
//     encoded in one model call for a block, and written with their codes (fill.go, seal.go).
//
// Authentication is relayed: Scrim never sees more of a password than the wire does, and the server's own log and rights
// apply. Where both legs are TLS, SCRAM's channel binding makes it hold two exchanges and pass a key (auth.go, scram.go).
// TLS is in tls.go (clients) and upstream.go (server). Only the frontend goroutine writes upstream, only whole messages are
// written to the client by anyone but the backend goroutine, and then under a lock.
//
// # Questions of our own
//
// Where the session has to ask the server something (what a name means, to train an encoder, to create a policy), it asks
// on the client's own connection, between the client's messages, and the queue keeps the answers apart (call.go). So no
// statement runs with more rights than the client has, and what a statement does belongs to the client's transaction.
//
// # Errors
//
// A statement that Scrim refuses must also fail upstream, or a transaction block would go on as if nothing had happened:
// a text that cannot parse is sent in its place, and the server's complaint is replaced by the refusal. What goes wrong
// in the middle of a result (a seal that does not open, a model that fails) ends the session.
//
// To debug: log level debug says why each session ended. Statements are in the server's log, and libpq's PQtrace shows the
// messages; Scrim logs neither text nor values.
package proxy
