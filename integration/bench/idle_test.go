//go:build linux

package bench_test

import (
	"context"
	"errors"
	"fmt"
	"testing"
	"time"

	"github.com/jackc/pgx/v5/pgconn"
	"golang.org/x/sync/errgroup"
)

// dialers is how many sessions are opened at a time.
const dialers = 8

// BenchmarkIdle opens sessions that have run a prepared statement and now wait, on proxies started for it alone.
func BenchmarkIdle(b *testing.B) {
	var costs []idleCost
	for b.Loop() {
		costs = nil
		for _, p := range lab.proxies {
			cost, err := lab.idle(context.Background(), p)
			if err != nil {
				b.Fatalf("%s: %v", p.name, err)
			}
			costs = append(costs, cost)
		}
	}
	b.ReportMetric(0, "ns/op")
	for _, c := range costs {
		b.ReportMetric(float64(c.after)/(1<<20), c.way+"-MiB")
		b.ReportMetric(float64(c.perSession()), c.way+"-B/session")
	}
	lab.summary.idle = append(lab.summary.idle, costs...)
}

func (l *laboratory) idle(ctx context.Context, p proxy) (cost idleCost, err error) {
	w, err := l.launch(ctx, p) // which has logged in once
	if err != nil {
		return cost, err
	}
	defer w.process.stop()
	cost = idleCost{way: p.name, sessions: l.sessions}
	if cost.before, err = w.process.memory(residentNow); err != nil {
		return cost, err
	}
	conns, err := l.openIdle(ctx, w)
	if err == nil {
		time.Sleep(time.Second) // what is still being done for the last ones ends
		cost.after, err = w.process.memory(residentNow)
	}
	for _, conn := range conns {
		if conn != nil {
			err = errors.Join(err, conn.Close(ctx))
		}
	}
	w.process.stop() // and with it PgBouncer's server connections
	return cost, errors.Join(err, l.awaitAlone(ctx))
}

func (l *laboratory) openIdle(ctx context.Context, w *way) ([]*pgconn.PgConn, error) {
	conns := make([]*pgconn.PgConn, l.sessions)
	group, ctx := errgroup.WithContext(ctx)
	group.SetLimit(dialers)
	for i := range conns {
		group.Go(func() (err error) {
			if conns[i], err = l.connect(ctx, w); err != nil {
				return err
			}
			if _, err := conns[i].Prepare(ctx, "s", `SELECT abalance FROM pgbench_accounts WHERE aid = $1`, nil); err != nil {
				return err
			}
			return conns[i].ExecPrepared(ctx, "s", [][]byte{[]byte("7")}, nil, nil).Read().Err
		})
	}
	return conns, group.Wait()
}

// awaitAlone waits until the role's sessions are gone from the server, but for those that PgBouncer keeps for later.
func (l *laboratory) awaitAlone(ctx context.Context) error {
	const few = 50
	return l.superuser(ctx, database, fmt.Sprintf(`DO $$ BEGIN
		FOR i IN 1..1000 LOOP
			PERFORM pg_stat_clear_snapshot();
			IF (SELECT count(*) FROM pg_stat_activity WHERE usename = '%s') < %d THEN RETURN; END IF;
			PERFORM pg_sleep(0.02);
		END LOOP;
		RAISE 'sessions stay';
	END $$`, role, few))
}
