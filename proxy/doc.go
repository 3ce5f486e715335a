// Package proxy is the front door and the session: it stands between a client and PostgreSQL, relays what it can, and
// fills masked columns on the way out.
//
// # A connection
//
// [Server.Serve] accepts; frontdoor.go reads the start (psql-wire's Handshake: TLS, GSSENC refusal, cancel requests) and
// dials the upstream as the client's own role. From there a session has two halves:
//
//   - frontend.go handles what the client sends. Each message that will be answered is put in a queue (queue.go) before it
//     is forwarded. Query and Parse are looked at: Scrim's own statements become actions (command.go), statements of a
//     masked role are planned (plan.go) by package rewrite and sent (simple.go); everything else goes on as it came.
//   - backend.go handles what the server sends, in large blocks. The head of the queue says what each answer belongs to.
//     Runs of messages that need nothing are written on as they lie in the buffer. Rows with sealed columns are opened,
//     encoded in one model call for a block, and written with their codes (fill.go, seal.go; renewal.go where the key is new).
//
// # Who drives it
//
// At home a session is on an event loop (loop_linux.go): one goroutine that reads, handles and writes for many sessions,
// and never waits. Wake-ups are what a relay costs, and a loop has few. Where something has to wait (log-in, a statement
// to parse and resolve, a model to load, an action, a large result to encode) the session moves into two goroutines, one
// for each half, and back when all is answered (lifecycle.go). The halves do not know who drives them, but for one rule:
// with session.onLoop set, a handler that would wait returns errWaits before it has changed anything. Sessions with TLS
// stay in goroutines, as do all of them where there is no epoll.
//
// A leg (leg.go) is one of the two connections, under either driver. What is written while it is on a loop and the socket does
// not take it is kept, and nothing more is read for it until it is gone.
//
// The end: a client that says it is done (end of stream, Terminate) has that passed on, and gets what is still to come; the
// server closing is what ends a session. A lost server is told to the client, unless it happens inside a message.
// [Server.Serve] lets sessions end at rest: all answered, no transaction open.
//
// Authentication is relayed: Scrim never sees more of a password than the wire does, and the server's own log and rights
// apply. Where both legs are TLS, SCRAM's channel binding makes it hold two exchanges and pass a key (auth.go, scram.go).
// TLS is in tls.go (clients) and upstream.go (server). Only the frontend writes upstream, and only the backend writes parts
// of messages to the client.
//
// # Questions of our own
//
// Where the session has to ask the server something (what a name means, to train an encoder, to create a policy), it asks
// on the client's own connection, between the client's messages, and the queue keeps the answers apart (call.go). So no
// statement runs with more rights than the client has, and what a statement does belongs to the client's transaction.
//
// # Staged statements
//
// A statement that computes with masked columns is run in two steps (staged.go): its lists of codes are made by questions
// (codes.go), and then it is sent with the lists as parameters. Both see the same rows: in a transaction of ours, which the end of the
// client's message ends, or else from a savepoint, to which the session goes back and tries again when the server finds a row
// without a code. Until the first row has come, or the end, the frontend waits for the outcome (attempt).
//
// # EXPLAIN MASKING
//
// explain.go plans a statement with the masks of a role and throws the plan away. The answer is a query of constants that goes
// upstream in the statement's place.
//
// # Versions of encoders
//
// A statement takes its encoders from the snapshot it was planned under and holds them to its end; encoders.go says how a new
// version comes into use.
//
// # Names
//
// What a masked statement or cursor gives is known by its name, whether the protocol made it (Parse, Bind) or SQL (PREPARE,
// DECLARE): names.go. A change of a name is noted when its message is sent, done when the server says so, and undone when
// it fails. A message that relies on a name is checked against what is confirmed when its answer comes: messages may be
// on their way behind one that fails. execution.go works out what a run gives, simple.go sends a simple Query.
//
// # Errors
//
// A statement that Scrim refuses must also fail upstream, or a transaction block would go on as if nothing had happened:
// a text that cannot parse is sent in its place, and the server's complaint is replaced by the refusal. What goes wrong
// in the middle of a result (a seal that does not open, a model that fails) ends the session.
//
// # Audit
//
// Where all is audited, what a session refuses and reads is an entry (audit.go): of a read when its statement ends, or what is left of it when the
// transaction or the session does. Another goroutine writes.
//
// To debug: log level debug says why each session ended. Statements are in the server's log, and libpq's PQtrace shows the
// messages; Scrim logs neither text nor values.
package proxy
