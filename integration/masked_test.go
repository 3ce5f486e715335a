package integration_test

import (
	"errors"
	"fmt"
	"math"
	"os"
	"os/exec"
	"slices"
	"strings"
	"testing"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
)

func asError[T error](err error, target *T) bool { return errors.As(err, target) }

const firstRows = `SELECT * FROM customers WHERE region = 'EU' ORDER BY id LIMIT 5`

// TestThreeViews is the promise: codes for the analyst, raw values for the exempt, PostgreSQL's refusal around the proxy.
func TestThreeViews(t *testing.T) {
	onEachProtected(t, func(t *testing.T, e *env) {
		raw := mustText(t, e.admin(t), firstRows)
		if got := mustText(t, e.connect(t, risk), firstRows); got != raw {
			t.Errorf("exempt role sees\n%s\nnot\n%s", got, raw)
		}
		masked := mustText(t, e.connect(t, analyst), firstRows)
		rawLines, maskedLines := strings.Split(raw, "\n"), strings.Split(masked, "\n")
		if len(rawLines) != len(maskedLines) {
			t.Fatalf("analyst sees %d lines, not %d", len(maskedLines), len(rawLines))
		}
		for i := range len(rawLines) - 1 {
			r, m := strings.Split(rawLines[i], "|"), strings.Split(maskedLines[i], "|")
			for col := range r {
				if isMasked := col >= 2 && col <= 4; (r[col] == m[col]) == isMasked {
					t.Errorf("row %d column %d: raw %q, analyst sees %q", i, col, r[col], m[col])
				}
			}
		}
		for _, role := range []string{analyst, guest} {
			if _, err := text(t, e.directly(t, role), firstRows); code(err) != "42501" {
				t.Errorf("%s around the proxy got %v, not 42501", role, err)
			}
		}
		if _, err := text(t, e.connect(t, guest), firstRows); code(err) != "42501" {
			t.Errorf("guest through the proxy got %v, not 42501", err)
		}
	})
}

// maskOf reads id and the three components in binary by the extended protocol.
func maskOf(t *testing.T, conn *pgx.Conn, query string) map[int32][3]uint64 {
	t.Helper()
	rows, err := conn.Query(t.Context(), query, pgx.QueryResultFormats{1})
	if err != nil {
		t.Fatal(err)
	}
	codes := map[int32][3]uint64{}
	for rows.Next() {
		var id int32
		var age, income, score float64
		if err := rows.Scan(&id, &age, &income, &score); err != nil {
			t.Fatal(err)
		}
		codes[id] = [3]uint64{math.Float64bits(age), math.Float64bits(income), math.Float64bits(score)}
	}
	if rows.Err() != nil {
		t.Fatal(explain(rows.Err()))
	}
	return codes
}

// TestSameCode: a raw row has one code, bit for bit: alone, in a batch of a thousand, in text and in binary, in another
// process, and as the model gives it outside the proxy.
func TestSameCode(t *testing.T) {
	onEachProtected(t, func(t *testing.T, e *env) {
		conn := e.connect(t, analyst)
		many := maskOf(t, conn, `SELECT id, age, income, score FROM customers WHERE id <= 1000`)
		if len(many) != 1000 {
			t.Fatalf("%d rows", len(many))
		}
		for _, id := range []int32{1, 17, 23, 391, 999, 1000} {
			alone := maskOf(t, conn, fmt.Sprintf(`SELECT id, age, income, score FROM customers WHERE id = %d`, id))
			if alone[id] != many[id] {
				t.Errorf("customer %d: %x alone, %x among many", id, alone[id], many[id])
			}
		}
		for _, line := range strings.Split(strings.TrimSpace(mustText(t, conn, `SELECT id, age, income, score FROM customers WHERE id <= 1000`)), "\n") {
			var id int32
			var code [3]float64
			if _, err := fmt.Sscanf(strings.ReplaceAll(line, "|", " "), "%d %g %g %g", &id, &code[0], &code[1], &code[2]); err != nil {
				t.Fatal(err)
			}
			if got := [3]uint64{math.Float64bits(code[0]), math.Float64bits(code[1]), math.Float64bits(code[2])}; got != many[id] {
				t.Errorf("customer %d: %x in text, %x in binary", id, got, many[id])
			}
		}
		if distinct := countDistinct(many); distinct < 900 {
			t.Errorf("only %d distinct codes for 1000 customers: the encoder says nothing", distinct)
		}

		cmd := exec.Command(os.Args[0], "-test.run=^$") // this test binary, as a proxy of its own
		cmd.Env = append(os.Environ(), "SCRIM_TEST_PROXY="+strings.Join([]string{
			e.server.Addr(), e.server.DSN(e.server.Superuser(), e.server.Password(), e.database), e.models,
		}, " "))
		other := startOther(t, cmd)
		dsn := strings.Replace(e.dsn(analyst), e.addr, other, 1)
		if got := maskOf(t, dial(t, dsn), `SELECT id, age, income, score FROM customers WHERE id <= 1000`); !equalCodes(got, many) {
			t.Error("another process gives other codes")
		}
	})
}

func equalCodes(a, b map[int32][3]uint64) bool {
	if len(a) != len(b) {
		return false
	}
	for id, c := range a {
		if b[id] != c {
			return false
		}
	}
	return true
}

func countDistinct(codes map[int32][3]uint64) int {
	seen := map[[3]uint64]bool{}
	for _, c := range codes {
		seen[c] = true
	}
	return len(seen)
}

// TestVector: one masked column shows the whole code as real[], in both formats, with the type that clients are told.
func TestVector(t *testing.T) {
	onEach(t, func(t *testing.T, e *env) {
		e.exec(t, e.connect(t, olga), `CREATE MASKING POLICY v ON customers (income) EXCEPT risk USING ENCODER enc`)
		conn := e.connect(t, analyst)
		rows, err := conn.Query(t.Context(), `SELECT income, id FROM customers WHERE id = $1`, 7)
		if err != nil {
			t.Fatal(err)
		}
		fields := slices.Clone(rows.FieldDescriptions())
		vector, err := pgx.CollectExactlyOneRow(rows, pgx.RowTo[[]float32])
		_ = vector
		if err == nil {
			t.Fatal("two columns scanned into one")
		}
		if fields[0].DataTypeOID != 1021 {
			t.Errorf("type OID %d, not real[]", fields[0].DataTypeOID)
		}
		var code []float32
		if err := conn.QueryRow(t.Context(), `SELECT income FROM customers WHERE id = $1`, 7).Scan(&code); err != nil {
			t.Fatal(explain(err))
		}
		if len(code) != 4 {
			t.Errorf("code has %d components, not 4", len(code))
		}
		printed := mustText(t, conn, `SELECT income FROM customers WHERE id = 7`)
		var parsed []float32
		if err := e.admin(t).QueryRow(t.Context(), `SELECT $1::real[]`, strings.TrimSpace(printed)).Scan(&parsed); err != nil {
			t.Fatal(err)
		}
		if !slices.Equal(parsed, code) {
			t.Errorf("text %v, binary %v", parsed, code)
		}
	})
}

// TestDescription: clients are told of the table they asked for, and of the types that come.
func TestDescription(t *testing.T) {
	onEachProtected(t, func(t *testing.T, e *env) {
		conn := e.connect(t, analyst)
		var table uint32
		if err := conn.QueryRow(t.Context(), `SELECT 'customers'::regclass::oid`).Scan(&table); err != nil {
			t.Fatal(err)
		}
		described, err := conn.Prepare(t.Context(), "d", `SELECT id, age, "Note" FROM customers WHERE id > $1`)
		if err != nil {
			t.Fatal(explain(err))
		}
		want := []pgconn.FieldDescription{
			{Name: "id", TableOID: table, TableAttributeNumber: 1, DataTypeOID: 23, DataTypeSize: 4, TypeModifier: -1},
			{Name: "age", TableOID: table, TableAttributeNumber: 3, DataTypeOID: 701, DataTypeSize: 8, TypeModifier: -1},
			{Name: "Note", TableOID: table, TableAttributeNumber: 7, DataTypeOID: 25, DataTypeSize: -1, TypeModifier: -1},
		}
		if !slices.Equal(described.Fields, want) {
			t.Errorf("described\n%+v, want\n%+v", described.Fields, want)
		}
		if !slices.Equal(described.ParamOIDs, []uint32{23}) {
			t.Errorf("parameters %v", described.ParamOIDs)
		}
	})
}

// TestPushdown: a predicate on an unmasked column reaches its index, and only rows that are sent are encoded.
func TestPushdown(t *testing.T) {
	onEachProtected(t, func(t *testing.T, e *env) {
		e.exec(t, e.admin(t), `ANALYZE customers`)
		conn := e.connect(t, analyst)
		e.exec(t, conn, `SET enable_seqscan = off`) // the table is small
		plan := mustText(t, conn, `EXPLAIN SELECT id, income FROM customers WHERE region = 'EU' AND id > 1990 ORDER BY id LIMIT 10`)
		if !strings.Contains(plan, "Index Cond: (id > 1990)") && !strings.Contains(plan, "Index Cond: ((region = 'EU'::text) AND (id > 1990))") || strings.Contains(plan, "Sort") {
			t.Errorf("no index in the plan:\n%s", plan)
		}
		before := e.proxy.Metrics().RowsEncoded.Load()
		mustText(t, conn, `SELECT id, income FROM customers WHERE region = 'EU' ORDER BY id LIMIT 10`)
		if n := e.proxy.Metrics().RowsEncoded.Load() - before; n != 10 {
			t.Errorf("LIMIT 10 encoded %d rows", n)
		}
		before = e.proxy.Metrics().RowsEncoded.Load()
		mustText(t, conn, `SELECT id FROM customers`)
		mustText(t, conn, `SELECT id FROM (SELECT * FROM customers) c`)
		if n := e.proxy.Metrics().RowsEncoded.Load() - before; n != 0 {
			t.Errorf("queries without masked columns encoded %d rows", n)
		}
	})
}

// TestNulls: a NULL feature is part of the code; a row that an outer join made up shows NULL.
func TestNulls(t *testing.T) {
	onEachProtected(t, func(t *testing.T, e *env) {
		conn := e.connect(t, analyst)
		if got := mustText(t, conn, `SELECT count(*) FROM customers WHERE id = 17`); got != "1\n" {
			t.Fatal(got)
		}
		if got := mustText(t, conn, `SELECT age FROM customers WHERE id = 17`); strings.Contains(got, "∅") { // raw age is NULL
			t.Errorf("a NULL feature shows through: %s", got)
		}
		got := mustText(t, conn, `SELECT o.id, c.age, c.income FROM (VALUES (1), (-1)) o(id) LEFT JOIN customers c ON c.id = o.id ORDER BY 1`)
		if !strings.HasPrefix(got, "-1|∅|∅\n1|") || strings.Count(got, "∅") != 2 {
			t.Errorf("outer join shows\n%s", got)
		}
	})
}

// TestOracle compares answers through the proxy with the same query on a plain table that holds the codes.
func TestOracle(t *testing.T) {
	queries := []string{
		`SELECT * FROM customers ORDER BY id`,
		`SELECT c.* FROM customers c WHERE region = 'US' ORDER BY c.id DESC LIMIT 7 OFFSET 3`,
		`TABLE customers ORDER BY id LIMIT 3`,
		`SELECT income, id, age FROM customers WHERE id BETWEEN 10 AND 40 ORDER BY 2`,
		`SELECT income AS a, income AS b, score FROM customers ORDER BY id LIMIT 20`,
		`SELECT o.id, c.income, c.score FROM orders o JOIN customers c ON c.id = o.customer_id ORDER BY o.id`,
		`SELECT o.id, c.age FROM orders o LEFT JOIN customers c ON c.id = o.customer_id AND c.region = 'EU' ORDER BY o.id`,
		`SELECT o.id, c.age FROM customers c RIGHT JOIN orders o ON c.id = o.customer_id + 1950 ORDER BY o.id`,
		`SELECT * FROM orders JOIN customers USING (region) WHERE orders.id < 3 AND customers.id < 20 ORDER BY orders.id, customers.id`,
		`SELECT a.id, a.income, b.income FROM customers a JOIN customers b ON b.id = a.id + 1 WHERE a.id < 30 ORDER BY 1`,
		`WITH t AS (SELECT id, income FROM customers WHERE id < 50) SELECT income, id FROM t WHERE id > 10 ORDER BY id`,
		`WITH t AS MATERIALIZED (SELECT * FROM customers) SELECT a.id, a.income, b.age FROM t a JOIN t b ON a.id = b.id + 5 WHERE a.id < 30 ORDER BY 1`,
		`WITH t(x, y) AS (SELECT id, score FROM customers) SELECT y, x FROM t ORDER BY x LIMIT 9`,
		`SELECT s.income FROM (SELECT * FROM customers WHERE id < 30 ORDER BY id) s ORDER BY s.id`,
		`SELECT id, income FROM customers WHERE id < 5 UNION ALL SELECT id, income FROM customers WHERE id IN (7, 9) ORDER BY id`,
		`SELECT id, age, income FROM customers WHERE id = 3 UNION ALL (SELECT id, age, income FROM customers ORDER BY id DESC LIMIT 2) ORDER BY 1`,
		`SELECT DISTINCT ON (region) region, id, score FROM customers ORDER BY region, id`,
		`SELECT id, income FROM customers WHERE EXISTS (SELECT 1 FROM orders o WHERE o.customer_id = customers.id) ORDER BY id`,
		`SELECT id, income, row_number() OVER (PARTITION BY region ORDER BY id) FROM customers WHERE id < 40 ORDER BY id`,
		`SELECT id, s.x FROM customers c, LATERAL (SELECT c.income AS x) s WHERE id < 10 ORDER BY id`,
		`SELECT j.id, j.income FROM (customers c JOIN (SELECT customer_id FROM orders WHERE id < 20) o ON o.customer_id = c.id) AS j ORDER BY 1`,
		`SELECT upper(region) || '…', income FROM customers WHERE "Note" = 'note 12'`,
		`SELECT d, b FROM customers AS c(a, b, d) WHERE a < 6 ORDER BY a`,
		`SELECT count(*), max(id) FROM (SELECT * FROM customers) s WHERE region = 'EU'`,
		`SELECT income FROM customers WHERE false`,
		`SELECT g, c.age FROM generate_series(1, 3) g JOIN customers c ON c.id = g ORDER BY g`,
		`SELECT id, income FROM customers WHERE id = ANY ('{5,6,7}') ORDER BY id FETCH FIRST 2 ROWS ONLY`,
	}
	onEachProtected(t, func(t *testing.T, e *env) {
		conn := e.connect(t, analyst)
		copyCodes(t, e, conn)
		plain := e.admin(t)
		e.exec(t, plain, `SET search_path = codes, public`)
		for _, q := range queries {
			want := mustText(t, plain, q)
			if got := mustText(t, conn, q); got != want {
				t.Errorf("%s\nthrough the proxy:\n%.600s\non a table of codes:\n%.600s", q, got, want)
			}
			// The same by the extended protocol with every result in binary, if the client can.
			if got, want := extended(t, conn, q), extended(t, plain, q); got != want {
				t.Errorf("%s, extended protocol\nthrough the proxy:\n%.600s\non a table of codes:\n%.600s", q, got, want)
			}
		}
	})
}

// copyCodes makes codes.customers, which holds what the analyst sees.
func copyCodes(t *testing.T, e *env, conn *pgx.Conn) {
	t.Helper()
	rows, err := conn.Query(t.Context(), `SELECT id, region, age, income, score, vip, "Note" FROM customers`)
	if err != nil {
		t.Fatal(err)
	}
	var all [][]any
	for rows.Next() {
		v, err := rows.Values()
		if err != nil {
			t.Fatal(err)
		}
		all = append(all, v)
	}
	if rows.Err() != nil {
		t.Fatal(explain(rows.Err()))
	}
	admin := e.admin(t)
	e.exec(t, admin, `CREATE SCHEMA codes`, `CREATE TABLE codes.customers (id integer PRIMARY KEY, region text, age float8, income float8, score float8, vip boolean, "Note" text)`)
	n, err := admin.CopyFrom(t.Context(), pgx.Identifier{"codes", "customers"}, []string{"id", "region", "age", "income", "score", "vip", "Note"}, pgx.CopyFromRows(all))
	if err != nil || n != int64(len(all)) || n < 1000 {
		t.Fatalf("copied %d rows: %v", n, err)
	}
}

func extended(t *testing.T, conn *pgx.Conn, query string) string {
	t.Helper()
	rows, err := conn.Query(t.Context(), query)
	if err != nil {
		t.Fatalf("%s: %v", query, explain(err))
	}
	var b strings.Builder
	for rows.Next() {
		for _, v := range rows.RawValues() {
			fmt.Fprintf(&b, "%x|", v)
		}
		b.WriteByte('\n')
	}
	if rows.Err() != nil {
		t.Fatalf("%s: %v", query, explain(rows.Err()))
	}
	return b.String()
}
