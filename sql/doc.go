// Package sql holds the part of Scrim that lives inside PostgreSQL: migrations of its tables and the functions that
// build the fence.
//
// Three schemas, three lives:
//
//   - scrim_state holds tables (policies, encoders, keys, remembered grants). Its files in migrations/ are applied once,
//     in order, and never edited after a release.
//   - scrim_runtime holds what users' objects depend on: the sealed type, the seal function, the masked views, feature views. It is
//     never dropped, so runtime.sql is written to be run again.
//   - scrim holds functions and public views. It is dropped and made anew at every `scrim init`, so functions/ has
//     plain CREATE statements, run in file name order.
//
// Nothing here knows Go: package catalog applies the files under an advisory lock. To see what a function does, call it
// from psql as the role that would; every function of the fence works from a plain connection.
package sql
