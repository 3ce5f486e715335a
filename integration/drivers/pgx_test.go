package drivers_test

import (
	"context"
	"fmt"
	"io"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgconn/ctxwatch"
)

func TestPgx(t *testing.T) {
	t.Parallel()
	sections := []string{
		"codes prepared", "types", "codes rollback", "rollback", "error", "codes batch", "codes cursor", "copy", "copied codes", "notify", "cancel",
	}
	for _, mode := range []pgx.QueryExecMode{
		pgx.QueryExecModeCacheStatement, pgx.QueryExecModeCacheDescribe, pgx.QueryExecModeDescribeExec,
		pgx.QueryExecModeExec, pgx.QueryExecModeSimpleProtocol,
	} {
		t.Run(strings.ReplaceAll(mode.String(), " ", "_"), func(t *testing.T) { works(t, pgxProgram(mode), sections...) })
	}
}

// pgxSession is one run.
type pgxSession struct {
	*testing.T
	conn  *pgx.Conn
	out   strings.Builder
	heard []string
}

func pgxProgram(mode pgx.QueryExecMode) program {
	return func(t *testing.T, to login) string {
		t.Helper()
		s := &pgxSession{T: t}
		cfg, err := pgx.ParseConfig(to.dsn())
		must(t, err)
		cfg.DefaultQueryExecMode = mode
		cfg.OnNotification = func(_ *pgconn.PgConn, n *pgconn.Notification) { s.heard = append(s.heard, n.Payload) }
		cfg.BuildContextWatcherHandler = func(c *pgconn.PgConn) ctxwatch.Handler {
			return &pgconn.CancelRequestContextWatcherHandler{Conn: c, DeadlineDelay: 10 * time.Second}
		}
		s.conn, err = pgx.ConnectConfig(t.Context(), cfg)
		must(t, err)
		defer func() { _ = s.conn.Close(context.WithoutCancel(t.Context())) }()
		s.selects()
		s.transaction()
		s.errors()
		s.many()
		s.copies()
		s.asynchronous()
		return s.out.String()
	}
}

func (s *pgxSession) exec(query string, args ...any) {
	s.Helper()
	_, err := s.conn.Exec(s.Context(), query, args...)
	must(s.T, err)
}

func (s *pgxSession) query(query string, args ...any) {
	s.Helper()
	rows, err := s.conn.Query(s.Context(), query, args...)
	must(s.T, err)
	s.print(rows)
}

func (s *pgxSession) print(rows pgx.Rows) {
	s.Helper()
	for rows.Next() {
		values, err := rows.Values()
		must(s.T, err)
		printRow(&s.out, values)
	}
	must(s.T, rows.Err())
}

func (s *pgxSession) selects() {
	heading(&s.out, "codes prepared")
	for _, most := range []int{10, 20, 40, 60} {
		s.query(byRegion, "EU", most)
	}
	heading(&s.out, "types")
	s.query(`SELECT * FROM kinds WHERE id = ANY($1) ORDER BY id`, []int32{1, 2})
	s.query(`SELECT $1::int8, $2::text, $3::bytea, $4::date, $5::float8`, int64(9007199254740993), "it's", []byte{0, 255}, nil, 0.1)
}

func (s *pgxSession) transaction() {
	s.exec(`CREATE TEMP TABLE t (a int, b text)`)
	heading(&s.out, "codes rollback")
	tx, err := s.conn.Begin(s.Context())
	must(s.T, err)
	_, err = tx.Exec(s.Context(), `INSERT INTO t VALUES ($1, $2)`, 1, "lost")
	must(s.T, err)
	s.query(byRegion, "EU", 10)
	must(s.T, tx.Rollback(s.Context()))
	heading(&s.out, "rollback")
	s.query(`SELECT count(*) FROM t`)
}

func (s *pgxSession) errors() {
	heading(&s.out, "error")
	fails := func(query string, args ...any) {
		_, err := s.conn.Exec(s.Context(), query, args...)
		fmt.Fprintln(&s.out, sqlstate(err))
	}
	fails(`SELECT 1 / $1::int`, 0)
	s.exec(`BEGIN`)
	fails(`SELECT nothing FROM customers`)
	fails(`SELECT 1`)
	s.exec(`ROLLBACK`)
	s.query(`SELECT $1::text`, "recovered")
}

// many sends a batch in one pipeline, and reads everything there is, in parts.
func (s *pgxSession) many() {
	heading(&s.out, "codes batch")
	var batch pgx.Batch
	for n := range 20 {
		batch.Queue(byRegion, "US", n+2).Query(func(rows pgx.Rows) error { s.print(rows); return nil })
		batch.Queue(`INSERT INTO t VALUES ($1, 'batch')`, n)
	}
	must(s.T, s.conn.SendBatch(s.Context(), &batch).Close())
	heading(&s.out, "codes cursor")
	s.exec(`BEGIN`)
	s.exec(`DECLARE c CURSOR FOR SELECT id, age, income, score FROM customers ORDER BY id`)
	for range 4 {
		s.query(`FETCH 500 FROM c`)
	}
	s.exec(`COMMIT`)
}

func (s *pgxSession) copies() {
	heading(&s.out, "copy")
	_, err := s.conn.CopyFrom(s.Context(), pgx.Identifier{"t"}, []string{"a", "b"}, pgx.CopyFromRows([][]any{{int32(100), "one"}, {int32(101), nil}}))
	must(s.T, err)
	_, err = s.conn.PgConn().CopyTo(s.Context(), &s.out, `COPY (SELECT * FROM t WHERE a >= 100 ORDER BY a) TO STDOUT`)
	must(s.T, err)
	_, err = s.conn.PgConn().CopyTo(s.Context(), &s.out, `COPY (SELECT id, region FROM customers ORDER BY id LIMIT 5) TO STDOUT`)
	must(s.T, err)
	heading(&s.out, "copied codes")
	if _, err = s.conn.PgConn().CopyTo(s.Context(), io.Writer(&s.out), `COPY customers (id, age) TO STDOUT`); err != nil {
		fmt.Fprintln(&s.out, sqlstate(err))
	}
}

func (s *pgxSession) asynchronous() {
	heading(&s.out, "notify")
	name := channel()
	s.exec(`LISTEN ` + name)
	s.exec(`SELECT pg_notify($1, $2)`, name, "hello")
	s.exec(`SELECT 1`) // the notification is here by now
	fmt.Fprintln(&s.out, strings.Join(s.heard, "\n"))
	heading(&s.out, "cancel")
	ctx, cancel := soon(s.T)
	defer cancel()
	_, err := s.conn.Exec(ctx, sleepy)
	fmt.Fprintln(&s.out, sqlstate(err))
	s.query(`SELECT 1`)
}
