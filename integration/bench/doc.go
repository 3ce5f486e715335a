// Package bench measures Scrim's relay against PgBouncer (session pooling) and against a connection without a proxy: the
// same server, the same client, one run. It also measures what masking takes of a proxy's memory, and masking against what
// people do without it: a function in PL/Python, and export and join. It has benchmarks only; they need Linux (/proc), and the
// Debian packages postgresql (with pgbench), pgbouncer, and for BenchmarkToday postgresql-plpython3-NN and python3-numpy.
//
//	go test ./integration/bench -run '^$' -bench . -benchtime 1x                                    # does it work? half a minute
//	go test ./integration/bench -run '^$' -bench . -benchtime 1x -timeout 1h -args -seconds 10 -rounds 5   # figures
//	go test ./integration/bench -run '^$' -bench Pgbench -benchtime 1x -timeout 1h -args -seconds 10 -rounds 5 \
//	    -scrim old=/tmp/old/scrim -scrim new=/tmp/new/scrim -scrim 'eager=env GOGC=400 /tmp/new/scrim'       # designs
//	go test ./integration/bench -run '^$' -bench 'Memory|Today' -benchtime 1x -timeout 1h -args -seconds 1 -rounds 5      # masking, a million rows
//
// Each benchmark lets the ways take turns within each round and gives medians, over the rounds, of the ratios within a
// round: what a shared machine does to one way it does to its neighbours too. At the end a summary in Markdown is printed
// with medians and ranges.
//
//   - tps ratios: more is better. Connecting is not counted, but for BenchmarkConnect.
//   - time ratios (BenchmarkBulk): less is better.
//   - CPU is what /proc/PID/stat says of the proxy's process, over what was done, connecting included.
//
// Every proxy is a process of its own: pgbouncer from its package, scrim as `go build ./cmd/scrim` makes it unless -scrim
// names other binaries. Clients log in by SCRAM through each way. The server has fsync off, so that the disk does not hide
// what proxies cost. PgBouncer keeps server connections when clients leave, so in BenchmarkConnect it is spared what
// connecting costs PostgreSQL.
//
// When a proxy does not start, the error shows the end of its log.
package bench
