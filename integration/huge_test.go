package integration_test

import (
	"encoding/binary"
	"fmt"
	"io"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"
)

// watchHeap samples how much the heap grows, in bytes, until the function that it returns is called, which returns the
// most.
func watchHeap() func() uint64 {
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	before, most := m.HeapInuse, m.HeapInuse
	stop := make(chan struct{})
	var sampling sync.WaitGroup
	sampling.Go(func() {
		for {
			select {
			case <-stop:
				return
			case <-time.After(5 * time.Millisecond):
			}
			var m runtime.MemStats
			runtime.ReadMemStats(&m)
			most = max(most, m.HeapInuse)
		}
	})
	return func() uint64 {
		close(stop)
		sampling.Wait()
		return most - before
	}
}

// TestHugeValue: a value of hundreds of megabytes goes through an unmasked session as it comes, in memory that does not
// depend on its size.
func TestHugeValue(t *testing.T) {
	const size, bound = 256 << 20, 16 << 20
	onEachAlone(t, func(t *testing.T, e *env) {
		c := e.wire(t, risk)
		peak := watchHeap()
		c.write(simpleQuery(`SELECT income, repeat(repeat('x', 1024), %d) FROM customers WHERE id = 1`, size>>10))
		if got, err := c.until([]string{"RowDescription"}); err != nil {
			t.Fatal(got, err)
		}
		_ = c.conn.SetReadDeadline(time.Now().Add(2 * time.Minute))
		header := make([]byte, 5)
		if _, err := io.ReadFull(c.in, header); err != nil || header[0] != 'D' {
			t.Fatalf("%q %v", header, err)
		}
		n := int64(binary.BigEndian.Uint32(header[1:])) - 4
		if n < size {
			t.Fatalf("a row of %d bytes", n)
		}
		if _, err := io.CopyN(io.Discard, c.in, n); err != nil {
			t.Fatal(err)
		}
		if got, err := c.until([]string{"CommandComplete", "ReadyForQuery"}); err != nil {
			t.Fatal(got, err)
		}
		if grown := peak(); grown > bound {
			t.Errorf("a value of %d MB cost the proxy %d MB", size>>20, grown>>20)
		}
	})
}

// TestHugeBesideMasked: 24 MB in an unmasked column beside a masked one, and as a parameter.
func TestHugeBesideMasked(t *testing.T) {
	const size = 24 << 20
	onEachAlone(t, func(t *testing.T, e *env) {
		conn := e.connect(t, analyst)
		code := strings.TrimSpace(mustText(t, conn, `SELECT income FROM customers WHERE id = 1`))
		var income string
		var length, echoed int
		var value []byte
		err := conn.QueryRow(t.Context(), `SELECT income::text, length(v), v FROM repeat(repeat('x', 1024), $1) v, (SELECT 'none' AS income) y`, size>>10).Scan(&income, &length, &value)
		if err != nil || length != size || len(value) != size {
			t.Fatalf("unmasked: %d, %d, %v", length, len(value), err)
		}
		got := mustText(t, conn, `SELECT income, repeat(repeat('x', 1024), 24576), age IS NULL FROM (SELECT id, income, NULL AS age FROM customers) c WHERE id = 1`)
		if !strings.HasPrefix(got, code+"|xxxx") || !strings.HasSuffix(got, "xxxx|t\n") || len(got) != len(code)+1+size+3 {
			t.Errorf("%d bytes, %.60s", len(got), got)
		}
		if err := conn.QueryRow(t.Context(), `SELECT length($1::text) FROM customers WHERE id = 1`, strings.Repeat("y", size)).Scan(&echoed); err != nil || echoed != size {
			t.Errorf("a parameter of %d bytes: %d, %v", size, echoed, err)
		}
	})
}

// TestHugeStatement: a statement of megabytes passes, whatever pieces it comes in.
func TestHugeStatement(t *testing.T) {
	onEachProtected(t, func(t *testing.T, e *env) {
		for _, role := range []string{risk, analyst} {
			conn := e.connect(t, role)
			value := strings.Repeat("y", 20<<20)
			if got := mustText(t, conn, `SELECT length('`+value+`')`); got != fmt.Sprintln(len(value)) {
				t.Errorf("%s: %s", role, got)
			}
			r := conn.PgConn().ExecParams(t.Context(), `SELECT length($1)`, [][]byte{[]byte(value)}, nil, nil, nil).Read()
			if r.Err != nil || string(r.Rows[0][0]) != fmt.Sprint(len(value)) {
				t.Errorf("%s: %v", role, r.Err)
			}
			var sent strings.Builder
			for range 200_000 {
				sent.WriteString("some row of text\n")
			}
			if _, err := conn.PgConn().Exec(t.Context(), `CREATE TEMP TABLE lines (t text)`).ReadAll(); err != nil {
				t.Fatal(explain(err))
			}
			tag, err := conn.PgConn().CopyFrom(t.Context(), strings.NewReader(sent.String()), `COPY lines FROM STDIN`)
			if err != nil || tag.RowsAffected() != 200_000 {
				t.Errorf("%s: %v, %v", role, tag, explain(err))
			}
			if _, err := conn.PgConn().CopyTo(t.Context(), io.Discard, `COPY lines TO STDOUT`); err != nil {
				t.Errorf("%s: %v", role, explain(err))
			}
		}
	})
}
