package drivers_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5/pgconn"
	"github.com/lib/pq"
)

// byRegion is the statement with parameters that every program runs.
const byRegion = `SELECT id, age, income, score FROM customers WHERE region = $1 AND id <= $2 ORDER BY id`

// sleepy is a masked read that somebody has to cancel.
const sleepy = `SELECT id, age, pg_sleep(30) FROM customers WHERE id = 1`

func heading(out io.Writer, name string) { fmt.Fprintln(out, "== "+name) }

func printRow(out io.Writer, values []any) {
	cells := make([]string, len(values))
	for i, v := range values {
		cells[i] = cell(v)
	}
	fmt.Fprintln(out, strings.Join(cells, "|"))
}

func cell(v any) string {
	switch v := v.(type) {
	case nil:
		return "NULL"
	case []byte:
		return string(v)
	case time.Time:
		return v.Format(time.RFC3339Nano)
	case *any:
		return cell(*v)
	}
	return fmt.Sprint(v)
}

// sqlstate is how the Go programs print an error.
func sqlstate(err error) string {
	var fromPgx *pgconn.PgError
	var fromPQ *pq.Error
	switch {
	case err == nil:
		return "no error"
	case errors.As(err, &fromPgx):
		return fromPgx.Code
	case errors.As(err, &fromPQ):
		return string(fromPQ.Code)
	}
	return err.Error()
}

// must ends a program that met an error it did not ask for.
func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatalf("%s (%v)", sqlstate(err), err)
	}
}

// soon is a context for a statement that will be cancelled.
func soon(t *testing.T) (context.Context, context.CancelFunc) {
	return context.WithTimeout(t.Context(), 500*time.Millisecond)
}
