//go:build linux

package bench_test

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5/pgconn"
)

// The database of the masked benchmarks. It is one of its own, since policies cost roles without masks a little too: now
// and then the proxy looks what they may read.
const (
	maskedDatabase = "masked"
	analyst        = "analyst" // is masked; the owner of the table, role, is not
	encoder        = "enc"
)

const (
	scanMasked  = `SELECT id, region, income FROM customers`
	groupMasked = `SELECT age, count(*) FROM customers WHERE id <= 100000 GROUP BY age`
	grouped     = 100_000
	maxMasked   = `SELECT max(income) FROM customers`
)

// maskedRows is how many rows the table has.
func (l *laboratory) maskedRows() int { return max(l.rows, grouped) }

// openMasked makes the database, once, and returns how each build of Scrim is started for it.
func (l *laboratory) openMasked(ctx context.Context) ([]proxy, error) {
	if l.masked != nil {
		return l.masked, nil
	}
	if err := l.superuser(ctx, "postgres", fmt.Sprintf("CREATE ROLE %s LOGIN PASSWORD '%s'", analyst, password)); err != nil {
		return nil, err
	}
	if err := l.superuser(ctx, "postgres", fmt.Sprintf("CREATE DATABASE %s OWNER %s", maskedDatabase, role)); err != nil {
		return nil, err
	}
	if err := l.initScrim(maskedDatabase); err != nil {
		return nil, err
	}
	var proxies []proxy
	for _, c := range l.scrims {
		proxies = append(proxies, l.scrim(c, maskedDatabase))
	}
	if err := l.fillMasked(ctx, proxies[0]); err != nil {
		return nil, err
	}
	l.masked, l.summary.rows = proxies, l.maskedRows()
	return proxies, nil
}

// fillMasked makes the table, the encoder and the policy, by way of a proxy.
func (l *laboratory) fillMasked(ctx context.Context, p proxy) error {
	if err := l.superuser(ctx, maskedDatabase, "GRANT scrim_admin TO "+role); err != nil {
		return err
	}
	w, err := l.launch(ctx, p)
	if err != nil {
		return err
	}
	defer w.process.stop()
	conn, err := l.connect(ctx, w)
	if err != nil {
		return err
	}
	for _, statement := range []string{
		`CREATE TABLE customers (id integer PRIMARY KEY, region text NOT NULL, age integer, income numeric(12,2), score double precision)`,
		fmt.Sprintf(`INSERT INTO customers SELECT i, (ARRAY['EU','US','APAC'])[1 + i %% 3], CASE WHEN i %% 17 <> 0 THEN 18 + i %% 60 END,
			CASE WHEN i %% 23 <> 0 THEN 20000 + i %% 80000 + 0.25 END, 300 + i %% 550 + 0.5 FROM generate_series(1, %d) i`, l.maskedRows()),
		`GRANT SELECT ON customers TO ` + analyst,
		`CREATE ENCODER ` + encoder + ` ON customers (age, income, score) WITH (latent_dims = 3, epochs = 2, batch_size = 512, seed = 1) WAIT`,
		`CREATE MASKING POLICY p ON customers (age, income, score) USING ENCODER ` + encoder,
	} {
		if _, err := conn.Exec(ctx, statement).ReadAll(); err != nil {
			return errors.Join(fmt.Errorf("%s: %w", statement, w.failure(err)), conn.Close(ctx))
		}
	}
	return errors.Join(conn.Close(ctx), l.superuser(ctx, maskedDatabase, `VACUUM (FREEZE, ANALYZE) customers`))
}

// withoutProxy is the way to the database that leads around the proxies.
func (l *laboratory) withoutProxy() *way {
	return &way{name: "direct", database: maskedDatabase, port: l.server.Port()}
}

// readAs reads all that a query gives through a way, on a new connection. count is how many rows that must be. Connecting is
// not in the time.
func (l *laboratory) readAs(ctx context.Context, w *way, role, query string, count int) (time.Duration, error) {
	session, err := l.connectAs(ctx, w, role)
	if err != nil {
		return 0, err
	}
	started := time.Now()
	err = readAll(session, query, count)
	return time.Since(started), err
}

// readAll reads all that a query gives, and closes the connection. It costs next to nothing.
func readAll(session *pgconn.PgConn, query string, count int) error {
	hijacked, err := session.Hijack()
	if err != nil {
		return err
	}
	defer func() { _ = hijacked.Conn.Close() }()
	return read(hijacked.Conn, query, answerEnd(fmt.Sprintf("SELECT %d", count)))
}
