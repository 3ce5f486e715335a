package pgfloat

import (
	"bytes"
	"context"
	"encoding/binary"
	"math"
	"math/rand/v2"
	"strconv"
	"strings"
	"testing"

	"github.com/jackc/pgx/v5/pgconn"

	"github.com/scrimdb/scrim/native"
)

const (
	serverValues = 200_000 // random values of each type, besides the cases
	serverBatch  = 20_000  // values to a statement
)

// connect starts a server for the test. Without one the test fails.
func connect(t *testing.T) *pgconn.PgConn {
	t.Helper()
	bin, err := native.Postgres(t.Context(), native.Config{})
	if err != nil {
		t.Fatal(err)
	}
	srv, err := native.StartServer(t.Context(), native.ServerConfig{Binaries: bin})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := srv.Stop(context.Background()); err != nil {
			t.Error(err)
		}
	})
	conn, err := pgconn.Connect(t.Context(), srv.DSN(srv.Superuser(), srv.Password(), "postgres"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close(context.Background()) })
	t.Logf("PostgreSQL %d", srv.Version())
	return conn
}

// TestServer compares with a real server, which is what all the rest is for.
func TestServer(t *testing.T) {
	conn := connect(t)
	t.Run("float4", func(t *testing.T) { testServer4(t, conn) })
	t.Run("float8", func(t *testing.T) { testServer8(t, conn) })
	t.Run("empty", func(t *testing.T) {
		got := query(t, conn, "SELECT $1::real[]", AppendFloat4ArrayBinary(nil, nil), 0, 1)
		if want := AppendFloat4Array(nil, nil); !bytes.Equal(got[0], want) {
			t.Errorf("text: got %s, server %s", want, got[0])
		}
		if want := AppendFloat4ArrayBinary(nil, nil); !bytes.Equal(got[1], want) {
			t.Errorf("binary: got %q, server %q", want, got[1])
		}
	})
}

func testServer4(t *testing.T, conn *pgconn.PgConn) {
	vals := cases4()
	r := rand.New(rand.NewPCG(21, rand.Uint64()))
	for range serverValues {
		vals = append(vals, r.Uint32())
	}
	// Random bits are seldom near 1, where the layout is decided.
	for range serverValues {
		vals = append(vals, r.Uint32()&(1<<31|1<<23-1)|(100+r.Uint32N(64))<<23)
	}
	unlike := 0
	for n := 0; len(vals) > 0; vals = vals[n:] {
		n = min(serverBatch, len(vals))
		batch := make([]float32, n)
		for i, b := range vals[:n] {
			batch[i] = math.Float32frombits(b)
		}
		param := AppendFloat4ArrayBinary(nil, batch)
		got := query(t, conn, "SELECT $1::real[]", param, 0, 1)
		if !bytes.Equal(got[1], param) {
			t.Fatal("the server's binary array is not ours")
		}
		if text := AppendFloat4Array(nil, batch); !bytes.Equal(got[0], text) {
			t.Error("the server's array text is not ours")
		}
		got = query(t, conn, "SELECT array(SELECT x::text FROM unnest($1::real[]) WITH ORDINALITY AS u (x, i) ORDER BY i)", param, 0)
		for i, server := range elements(t, got[0], n) {
			if ours := text4(batch[i]); ours != server {
				t.Fatalf("%#08x: got %s, server %s", vals[i], ours, server)
			}
			if !alike(server, float64(batch[i]), 32) {
				unlike++
			}
		}
	}
	t.Logf("the digits of strconv differ in %d", unlike)
}

func testServer8(t *testing.T, conn *pgconn.PgConn) {
	vals := cases8()
	r := rand.New(rand.NewPCG(22, rand.Uint64()))
	for range serverValues {
		vals = append(vals, r.Uint64())
	}
	for range serverValues {
		vals = append(vals, r.Uint64()&(1<<63|1<<52-1)|(960+r.Uint64N(192))<<52)
	}
	unlike := 0
	for n := 0; len(vals) > 0; vals = vals[n:] {
		n = min(serverBatch, len(vals))
		var param []byte
		for _, x := range []uint32{1, 0, 701, uint32(n), 1} {
			param = binary.BigEndian.AppendUint32(param, x)
		}
		for _, b := range vals[:n] {
			param = binary.BigEndian.AppendUint64(binary.BigEndian.AppendUint32(param, 8), b)
		}
		got := query(t, conn, "SELECT array(SELECT x::text FROM unnest($1::float8[]) WITH ORDINALITY AS u (x, i) ORDER BY i)", param, 0)
		for i, server := range elements(t, got[0], n) {
			v := math.Float64frombits(vals[i])
			if ours := text8(v); ours != server {
				t.Fatalf("%#016x: got %s, server %s", vals[i], ours, server)
			}
			if !alike(server, v, 64) {
				unlike++
			}
		}
	}
	t.Logf("the digits of strconv differ in %d", unlike)
}

// alike reports whether strconv finds the same decimal, in whatever layout.
func alike(server string, v float64, size int) bool {
	if math.IsNaN(v) || math.IsInf(v, 0) {
		return true
	}
	digits := func(s string) string {
		s, _, _ = strings.Cut(strings.TrimPrefix(s, "-"), "e")
		return strings.Trim(strings.Replace(s, ".", "", 1), "0")
	}
	return digits(server) == digits(strconv.FormatFloat(v, 'e', -1, size))
}

// elements splits the text of an array of n numbers.
func elements(t *testing.T, array []byte, n int) []string {
	t.Helper()
	s := strings.Split(strings.Trim(string(array), "{}"), ",")
	if len(s) != n {
		t.Fatalf("%d elements, want %d", len(s), n)
	}
	return s
}

// query runs a statement with one binary parameter, once for each wanted
// format of its one result, and returns the results.
func query(t *testing.T, conn *pgconn.PgConn, sql string, param []byte, formats ...int16) [][]byte {
	t.Helper()
	var out [][]byte
	for _, f := range formats {
		r := conn.ExecParams(t.Context(), sql, [][]byte{param}, nil, []int16{1}, []int16{f}).Read()
		if r.Err != nil {
			t.Fatal(r.Err)
		}
		out = append(out, r.Rows[0][0])
	}
	return out
}
