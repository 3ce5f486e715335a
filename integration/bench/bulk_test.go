//go:build linux

package bench_test

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"testing"
	"testing/iotest"
	"time"

	"github.com/jackc/pgx/v5/pgproto3"
)

const (
	selectRows = `SELECT id, region, age, income, score FROM bulk`
	copyOut    = `COPY bulk TO STDOUT`
	copyIn     = `COPY bulk_in FROM STDIN`
)

// copyChunk is the size of psql's CopyData messages.
const copyChunk = 8192

// ready is a ReadyForQuery outside a transaction block, which ends the answer to a simple query.
var ready = []byte{'Z', 0, 0, 0, 5, 'I'}

// BenchmarkBulk reads and loads a table, with a client that costs next to nothing.
func BenchmarkBulk(b *testing.B) {
	if err := lab.makeBulk(context.Background()); err != nil {
		b.Fatal(err)
	}
	selected := answerEnd(fmt.Sprintf("SELECT %d", lab.rows))
	copied := answerEnd(fmt.Sprintf("COPY %d", lab.rows))
	data := copyData(lab.rows)
	b.Run("select", func(b *testing.B) {
		lab.compareBulk(b, func(conn net.Conn) error { return read(conn, selectRows, selected) })
	})
	b.Run("copy-out", func(b *testing.B) {
		lab.compareBulk(b, func(conn net.Conn) error { return read(conn, copyOut, copied) })
	})
	b.Run("copy-in", func(b *testing.B) {
		lab.compareBulk(b, func(conn net.Conn) error { return load(conn, data, copied) })
	})
}

// makeBulk makes the table to read and the one to load. The latter is unlogged, so that it is the wire that is measured.
func (l *laboratory) makeBulk(ctx context.Context) error {
	err := l.superuser(ctx, database, fmt.Sprintf(`
		DROP TABLE IF EXISTS bulk, bulk_in;
		CREATE TABLE bulk (id integer, region text, age integer, income numeric(12,2), score double precision);
		INSERT INTO bulk SELECT i, (ARRAY['EU','US','APAC'])[1 + i %% 3], 18 + i %% 60, 20000 + i %% 80000 + 0.25, 300 + i %% 550 + 0.5
			FROM generate_series(1, %d) i;
		CREATE UNLOGGED TABLE bulk_in (LIKE bulk);
		GRANT SELECT ON bulk TO %s;
		GRANT INSERT ON bulk_in TO %[2]s`, l.rows, role))
	if err != nil {
		return err
	}
	return l.superuser(ctx, database, `VACUUM (FREEZE, ANALYZE) bulk`)
}

// compareBulk times what is done on a new connection that is ready for a query. An operation is a thousand rows.
func (l *laboratory) compareBulk(b *testing.B, do func(net.Conn) error) {
	b.Helper()
	try := func(w *way) (float64, time.Duration, error) {
		ctx := context.Background()
		if err := l.superuser(ctx, database, `TRUNCATE bulk_in`); err != nil {
			return 0, 0, err
		}
		session, err := l.connect(ctx, w)
		if err != nil {
			return 0, 0, err
		}
		hijacked, err := session.Hijack()
		if err != nil {
			return 0, 0, err
		}
		defer func() { _ = hijacked.Conn.Close() }()
		started := time.Now()
		err = do(hijacked.Conn)
		return float64(l.rows) / 1000, time.Since(started), err
	}
	if _, _, err := try(l.ways[0]); err != nil { // the first finds nothing in the server's memory
		b.Fatal(err)
	}
	l.compare(b, comparison{unit: "krow", byTime: true}, try)
}

// answerEnd is how the answer to a simple query ends that did what tag says.
func answerEnd(tag string) []byte {
	end, err := (&pgproto3.CommandComplete{CommandTag: []byte(tag)}).Encode(nil)
	if err != nil {
		panic(err) // of a tag of gigabytes
	}
	return append(end, ready...)
}

func send(conn net.Conn, query string) error {
	message, err := (&pgproto3.Query{String: query}).Encode(nil)
	if err == nil {
		_, err = conn.Write(message)
	}
	return err
}

// read sends a query and reads to the end of the answer.
func read(conn net.Conn, query string, end []byte) error {
	if err := send(conn, query); err != nil {
		return err
	}
	return drain(conn, end)
}

// drain reads until the server is ready and checks that the answer ended so. It looks at nothing but the end of each
// read: rows of bulk do not look like ReadyForQuery.
func drain(conn io.Reader, end []byte) error {
	buf := make([]byte, 256<<10)
	var tail []byte
	for !bytes.HasSuffix(tail, ready) {
		n, err := conn.Read(buf)
		if err != nil {
			return err
		}
		tail = append(tail, buf[max(0, n-len(end)):n]...)
		tail = tail[max(0, len(tail)-len(end)):]
	}
	if !bytes.Equal(tail, end) {
		return fmt.Errorf("the answer ended with %q, not %q", tail, end)
	}
	return nil
}

// load copies data, whole CopyData messages, into bulk_in.
func load(conn net.Conn, data, end []byte) error {
	if err := send(conn, copyIn); err != nil {
		return err
	}
	var answer [5]byte // CopyInResponse's type and length, then its formats
	if _, err := io.ReadFull(conn, answer[:]); err != nil {
		return err
	}
	if answer[0] != 'G' {
		return errors.New("the server does not take COPY data")
	}
	if _, err := conn.Write(data); err != nil {
		return err
	}
	done, err := (&pgproto3.CopyDone{}).Encode(nil)
	if err != nil {
		return err
	}
	if _, err := conn.Write(done); err != nil {
		return err
	}
	return drain(conn, end)
}

// copyData is rows of bulk in COPY's text format, in messages of psql's size.
func copyData(rows int) []byte {
	var messages, chunk []byte
	for i := range rows {
		chunk = fmt.Appendf(chunk, "%d\tEU\t%d\t%d.25\t%d.5\n", i, 18+i%60, 20000+i%80000, 300+i%550)
		if len(chunk) >= copyChunk || i == rows-1 {
			messages = append(messages, 'd')
			messages = binary.BigEndian.AppendUint32(messages, uint32(4+len(chunk)))
			messages = append(messages, chunk...)
			chunk = chunk[:0]
		}
	}
	return messages
}

func TestDrain(t *testing.T) {
	end := answerEnd("SELECT 1")
	answer := append([]byte("Ddata"), end...)
	if err := drain(iotest.OneByteReader(bytes.NewReader(answer)), end); err != nil {
		t.Error(err)
	}
	if err := drain(bytes.NewReader(answer), answerEnd("SELECT 2")); err == nil {
		t.Error("another end is taken")
	}
	if err := drain(bytes.NewReader(answer[:len(answer)-1]), end); err == nil {
		t.Error("a cut end is taken")
	}
}
