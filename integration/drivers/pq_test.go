package drivers_test

import (
	"database/sql"
	"fmt"
	"strings"
	"testing"

	"github.com/lib/pq"
)

func TestLibPQ(t *testing.T) {
	t.Parallel()
	for _, binary := range []string{"no", "yes"} {
		t.Run("binary_parameters_"+binary, func(t *testing.T) {
			works(t, pqProgram("&binary_parameters="+binary),
				"codes prepared", "types", "codes rollback", "rollback", "error", "codes cursor", "copy", "stored", "notify", "cancel")
		})
	}
}

// pqSession is one run, on one connection of the pool.
type pqSession struct {
	*testing.T
	conn *sql.Conn
	out  strings.Builder
}

func pqProgram(options string) program {
	return func(t *testing.T, to login) string {
		t.Helper()
		db, err := sql.Open("postgres", to.dsn()+options)
		must(t, err)
		defer func() { _ = db.Close() }()
		conn, err := db.Conn(t.Context())
		must(t, err)
		defer func() { _ = conn.Close() }()
		s := &pqSession{T: t, conn: conn}
		s.selects()
		s.transaction()
		s.errors()
		s.cursor()
		s.copies()
		s.notify(to)
		s.cancel()
		return s.out.String()
	}
}

func (s *pqSession) exec(query string, args ...any) {
	s.Helper()
	_, err := s.conn.ExecContext(s.Context(), query, args...)
	must(s.T, err)
}

func (s *pqSession) query(query string, args ...any) {
	s.Helper()
	rows, err := s.conn.QueryContext(s.Context(), query, args...)
	must(s.T, err)
	s.print(rows)
}

func (s *pqSession) print(rows *sql.Rows) {
	s.Helper()
	columns, err := rows.Columns()
	must(s.T, err)
	values := make([]any, len(columns))
	targets := make([]any, len(columns))
	for i := range values {
		targets[i] = &values[i]
	}
	for rows.Next() {
		must(s.T, rows.Scan(targets...))
		printRow(&s.out, values)
	}
	must(s.T, rows.Err())
}

func (s *pqSession) selects() {
	heading(&s.out, "codes prepared")
	s.query(byRegion, "EU", 20)
	statement, err := s.conn.PrepareContext(s.Context(), byRegion)
	must(s.T, err)
	for _, most := range []int{10, 20, 40, 60} {
		rows, err := statement.QueryContext(s.Context(), "EU", most)
		must(s.T, err)
		s.print(rows)
	}
	must(s.T, statement.Close())
	heading(&s.out, "types")
	s.query(`SELECT * FROM kinds WHERE id = ANY($1) ORDER BY id`, pq.Array([]int32{1, 2}))
	s.query(`SELECT $1::int8, $2::text, $3::bytea, $4::date, $5::float8`, int64(9007199254740993), "it's", []byte{0, 255}, nil, 0.1)
}

func (s *pqSession) transaction() {
	s.exec(`CREATE TEMP TABLE t (a int, b text)`)
	heading(&s.out, "codes rollback")
	tx, err := s.conn.BeginTx(s.Context(), nil)
	must(s.T, err)
	_, err = tx.Exec(`INSERT INTO t VALUES ($1, $2)`, 1, "lost")
	must(s.T, err)
	rows, err := tx.Query(byRegion, "EU", 10)
	must(s.T, err)
	s.print(rows)
	must(s.T, tx.Rollback())
	heading(&s.out, "rollback")
	s.query(`SELECT count(*) FROM t`)
}

func (s *pqSession) errors() {
	heading(&s.out, "error")
	fails := func(query string, args ...any) {
		_, err := s.conn.ExecContext(s.Context(), query, args...)
		fmt.Fprintln(&s.out, sqlstate(err))
	}
	fails(`SELECT 1 / $1::int`, 0)
	s.exec(`BEGIN`)
	fails(`SELECT nothing FROM customers`)
	fails(`SELECT 1`)
	s.exec(`ROLLBACK`)
	s.query(`SELECT $1::text`, "recovered")
}

func (s *pqSession) cursor() {
	heading(&s.out, "codes cursor")
	s.exec(`BEGIN`)
	s.exec(`DECLARE c CURSOR FOR SELECT id, age, income, score FROM customers ORDER BY id`)
	for range 4 {
		s.query(`FETCH 500 FROM c`)
	}
	s.exec(`COMMIT`)
}

// copies: lib/pq has COPY FROM only.
func (s *pqSession) copies() {
	heading(&s.out, "copy")
	tx, err := s.conn.BeginTx(s.Context(), nil)
	must(s.T, err)
	statement, err := tx.Prepare(`COPY t (a, b) FROM STDIN`)
	must(s.T, err)
	for _, row := range [][]any{{1, "one\ttab"}, {2, nil}} {
		_, err = statement.Exec(row...)
		must(s.T, err)
	}
	_, err = statement.Exec()
	must(s.T, err)
	must(s.T, statement.Close())
	must(s.T, tx.Commit())
	s.query(`SELECT * FROM t ORDER BY a`)
	heading(&s.out, "stored")
	_, err = s.conn.ExecContext(s.Context(), `CREATE TEMP TABLE copied AS SELECT age FROM customers`)
	fmt.Fprintln(&s.out, sqlstate(err))
}

func (s *pqSession) notify(to login) {
	heading(&s.out, "notify")
	listener := pq.NewListener(to.dsn(), limit, limit, nil)
	defer func() { _ = listener.Close() }()
	name := channel()
	must(s.T, listener.Listen(name))
	s.exec(`SELECT pg_notify($1, $2)`, name, "hello")
	fmt.Fprintln(&s.out, (<-listener.Notify).Extra)
}

func (s *pqSession) cancel() {
	heading(&s.out, "cancel")
	ctx, cancel := soon(s.T)
	defer cancel()
	_, err := s.conn.ExecContext(ctx, sleepy)
	fmt.Fprintln(&s.out, sqlstate(err)) // lib/pq does not use the connection again
}
