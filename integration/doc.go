// Package integration holds the tests that need everything at once: real PostgreSQL servers, the real ONNX Runtime, the
// proxy, and real clients. It has no code of its own besides.
//
// TestMain starts the embedded PostgreSQL and, where one is installed, the system's. Each test runs on both, in a
// database of its own that is copied from a template (world_test.go says what is in it), behind a proxy of its own. Tests run
// beside each other (onEach), but for those that count what is left behind (onEachAlone). One that is not done in time ends them
// all and says what it waits for (deadline_test.go).
//
// What needs Debian's sqlsmith is behind the build tag drivers.
//
// To look at a failing test's database, set SCRIM_TEST_LOG=1: server and proxy then log to standard error.
package integration
