// Package pgbouncer runs PgBouncer for tests and benchmarks.
package pgbouncer
