package integration_test

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"math"
	"strconv"
	"strings"
	"sync"
	"testing"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgproto3"
)

// What a masked role can do with sealed values. It may read them, from the masked view around the proxy, and it can copy and
// edit them, since it can make a value of the sealed type of any bytes it likes (see forge). None of that may tell it
// anything, and the proxy may never open a seal that it did not ask for itself.

// maskedView returns the name of the masked view of customers, in scrim_runtime.
func maskedView(t *testing.T, e *env) string {
	t.Helper()
	return strings.TrimSpace(mustText(t, e.admin(t), `SELECT relname FROM pg_class WHERE oid = (SELECT masked_view FROM scrim_state.protections WHERE features_of IS NULL)`))
}

// seals reads a query's only column in binary.
func seals(t *testing.T, conn *pgx.Conn, query string) [][]byte {
	t.Helper()
	r := conn.PgConn().ExecParams(t.Context(), query, nil, nil, nil, []int16{1}).Read()
	if r.Err != nil {
		t.Fatalf("%s: %v", query, explain(r.Err))
	}
	var all [][]byte
	for _, row := range r.Rows {
		all = append(all, row[0])
	}
	return all
}

// TestSealsTellNothing: rows of equal values, the same row at another time, NULLs: seals have one length. Their first block
// is the number of the table's file, the second has the row's ctid besides, which its readers know; the third has xmin, and from
// there on no block comes twice. So whatever is compared, counted or remembered tells nothing.
func TestSealsTellNothing(t *testing.T) {
	onEach(t, func(t *testing.T, e *env) {
		admin := e.admin(t)
		e.exec(t, admin, asOlga(`GRANT INSERT (id, region), UPDATE (region), DELETE ON customers TO analyst`,
			`INSERT INTO customers SELECT 10000 + i, 'EU', 33, 44444, 555, true FROM generate_series(1, 200) i`)...) // all equal
		e.exec(t, e.connect(t, olga), testPolicy)
		conn, owner, view := e.directly(t, analyst), e.directly(t, olga), maskedView(t, e)
		all := `SELECT sealed_1 FROM scrim_runtime.` + view
		seen, firsts, seconds := map[string]string{}, map[string]string{}, map[string]string{} // blocks, and when they came, or where
		look := func(when, query string, rows int) {
			t.Helper()
			read := seals(t, conn, query)
			for i, at := range seals(t, conn, strings.Replace(query, "sealed_1", "ctid", 1)) {
				second := string(read[i][:32])
				if before, twice := seconds[second]; twice && before != string(at) {
					t.Fatalf("%s: one second block for two places", when)
				}
				seconds[second] = string(at)
			}
			if len(read) != rows {
				t.Fatalf("%s: %d seals, not %d", when, len(read), rows)
			}
			for _, s := range read {
				if len(s) != 144 { // 134 bytes of frame for four inputs, padded
					t.Fatalf("%s: a seal of %d bytes", when, len(s))
				}
				firsts[string(s[:16])] = when
				for i := 32; i < len(s); i += 16 {
					if before, twice := seen[string(s[i:i+16])]; twice {
						t.Fatalf("%s: block %d of a seal came before, %s", when, i/16, before)
					}
					seen[string(s[i:i+16])] = when
				}
			}
		}
		probe := all + ` WHERE id BETWEEN 20000 AND 20009`
		look("at first", all, 2200)
		e.exec(t, conn, `INSERT INTO customers (id, region) SELECT i, 'EU' FROM generate_series(20000, 20009) i`)
		look("probes of nothing but NULL", probe, 10)
		e.exec(t, conn, `UPDATE customers SET region = region WHERE id BETWEEN 20000 AND 20009`)
		look("the same, updated to what they were", probe, 10)
		e.exec(t, conn, `BEGIN`, `UPDATE customers SET region = region WHERE id BETWEEN 20000 AND 20009`)
		look("updated, not committed", probe, 10)
		e.exec(t, conn, `ROLLBACK`, `DELETE FROM customers WHERE id BETWEEN 20000 AND 20009`)
		if got := len(firsts); got != 1 {
			t.Errorf("%d first blocks in one file", got)
		}
		// Places are used again, for other rows or for the same.
		e.exec(t, owner, `VACUUM customers`)
		e.exec(t, conn, `INSERT INTO customers (id, region) SELECT i, 'EU' FROM generate_series(20000, 20009) i`)
		look("in places that were freed", probe, 10)
		for _, rewrite := range []string{`VACUUM FULL customers`, `CLUSTER customers USING customers_pkey`, `CLUSTER customers`} {
			e.exec(t, owner, rewrite)
			look("after "+rewrite, all, 2210)
		}
		e.exec(t, owner, `CREATE TEMP TABLE kept AS TABLE customers`, `TRUNCATE customers`, `INSERT INTO customers TABLE kept`)
		look("after TRUNCATE", all, 2210)
		e.exec(t, owner, `BEGIN`, `TRUNCATE customers`, `INSERT INTO customers TABLE kept`, `COMMIT`)
		look("after another", all, 2210)
		if len(firsts) != 6 {
			t.Errorf("%d first blocks in six files", len(firsts))
		}
	})
}

// TestSettingsChangeNothing: no setting of a session's changes a byte of a seal or of a code.
func TestSettingsChangeNothing(t *testing.T) {
	onEachProtected(t, func(t *testing.T, e *env) {
		conn, through, view := e.directly(t, analyst), e.connect(t, analyst), maskedView(t, e)
		all := `SELECT sealed_1 FROM scrim_runtime.` + view + ` WHERE id <= 300 ORDER BY id`
		first := bytes.Join(seals(t, conn, all), nil)
		deferred, staged := `SELECT income FROM customers WHERE id <= 300 ORDER BY id`, `SELECT income + 0 FROM customers WHERE id <= 300 ORDER BY id`
		codes := bytes.Join(seals(t, through, deferred), nil)
		for _, setting := range []string{
			`client_encoding = 'LATIN1'`, `client_encoding = 'SQL_ASCII'`, `client_encoding = 'SJIS'`, `client_encoding = 'GBK'`, `extra_float_digits = -15`,
			`bytea_output = 'escape'`, `IntervalStyle = 'sql_standard'`, `DateStyle = 'German'`, `lc_numeric = 'C'`, `TimeZone = 'Asia/Tokyo'`,
			`array_nulls = off`, `transform_null_equals = on`, `quote_all_identifiers = on`, `search_path = ''`, `row_security = off`, `xmloption = 'document'`,
			`backslash_quote = on`, `standard_conforming_strings = off`, `jit = on`, `enable_indexscan = off`, `default_transaction_read_only = on`,
		} {
			e.exec(t, conn, `SET `+setting)
			e.exec(t, through, `SET `+setting)
			if got := bytes.Join(seals(t, conn, all), nil); !bytes.Equal(got, first) {
				t.Errorf("%s: other seals", setting)
			}
			for _, query := range []string{deferred, staged} {
				query = strings.Replace(query, "FROM customers", "FROM public.customers", 1)
				if got := bytes.Join(seals(t, through, query), nil); !bytes.Equal(got, codes) {
					t.Errorf("%s: other codes by %s", setting, query)
				}
			}
			e.exec(t, conn, `RESET ALL`)
			e.exec(t, through, `RESET ALL`)
		}
	})
}

// code2000 is what customer 2000's income shows, as text and as its eight bytes.
func code2000(t *testing.T, e *env) [][]byte {
	t.Helper()
	printed := strings.TrimSpace(mustText(t, e.connect(t, analyst), `SELECT income FROM customers WHERE id = 2000`))
	v, err := strconv.ParseFloat(printed, 64)
	if err != nil {
		t.Fatal(err)
	}
	return [][]byte{[]byte(printed), binary.BigEndian.AppendUint64(nil, math.Float64bits(v))}
}

// forge makes a sealed value of any bytes, in SQL: what is decrypted by a key of one's own and then sealed by it, without
// padding, is what it was. decrypt is pgcrypto's.
func forge(bytes string) string {
	return `scrim_runtime.seal(decrypt(` + bytes + `, '\x00112233445566778899aabbccddeeff', 'aes-cbc/pad:none'), '\x00112233445566778899aabbccddeeff', 'aes-cbc/pad:none')`
}

// TestPlantedSeals: a masked role copies the seals of customer 2000 while it can read them, and makes some of its own. Then
// the row goes. Whatever the role does with its copies, by either protocol, the proxy does not open them: what 2000's
// code was does not come again. $VIEW is the masked view; schema mine has the copies.
func TestPlantedSeals(t *testing.T) {
	tricks := [][]string{
		{`SELECT income FROM mine.customers`},
		{`SET search_path = mine, public`, `SELECT income FROM customers`},
		{`SET search_path = mine`, `SELECT * FROM customers`, `SELECT income FROM public.customers c WHERE id = 3 UNION ALL SELECT income FROM customers`},
		{`SELECT income FROM customers WHERE id = 3 UNION ALL SELECT income FROM mine.customers`},
		{`SELECT income FROM mine.customers UNION ALL SELECT income FROM customers WHERE id = 3`},
		{`SELECT id, income FROM customers WHERE id = 3 UNION ALL (SELECT 1, income FROM mine.customers LIMIT 1) ORDER BY id`},
		{`SELECT income FROM customers WHERE id = 3 UNION ALL SELECT s FROM mine.own`},
		{`SELECT income FROM customers WHERE id = 3 UNION ALL SELECT (TABLE mine.own LIMIT 1)`},
		{`SELECT coalesce(m.income, c.income) FROM customers c, mine.customers m WHERE c.id = 3`},
		{`SELECT CASE WHEN true THEN m.income ELSE c.income END FROM customers c, mine.customers m WHERE c.id = 3`},
		{`SELECT (SELECT income FROM mine.customers LIMIT 1) AS income FROM customers WHERE id = 3`},
		{`SELECT (SELECT m.income FROM mine.customers m WHERE c.income IS NOT NULL) FROM customers c WHERE id = 3`},
		{`VALUES ((SELECT income FROM customers WHERE id = 3)), ((SELECT income FROM mine.customers))`},
		{`WITH customers AS (SELECT * FROM mine.customers) SELECT income FROM customers`},
		{`WITH c AS (SELECT income FROM customers WHERE id = 3), m AS (SELECT income FROM mine.customers) SELECT * FROM c UNION ALL SELECT * FROM m`},
		{`WITH RECURSIVE c AS (SELECT income FROM customers WHERE id = 3 UNION ALL SELECT m.income FROM mine.customers m, c LIMIT 5) SELECT * FROM c`},
		{`SELECT ARRAY[m.income] FROM mine.customers m, customers c WHERE c.id = 3 AND c.income > -9`},
		{`SELECT m FROM mine.customers m, customers c WHERE c.id = 3 AND c.age IS NOT NULL`},
		{`SELECT ROW(c.income, m.income) FROM mine.customers m, customers c WHERE c.id = 3`},
		{`SELECT c.income, m.income FROM mine.customers m, customers c WHERE c.id = 3`},
		{`SELECT m.income, c.income FROM customers c, mine.customers m WHERE c.id = 3`},
		{`SELECT customers.income FROM public.customers AS c, mine.customers AS customers WHERE c.id = 3`},
		{`SELECT income FROM (customers c JOIN mine.customers m ON c.id = 3) AS j(a, b, d, e, f, g, h, income)`},
		{`SELECT income FROM (SELECT id AS k, income FROM customers WHERE id = 3) c RIGHT JOIN (SELECT income AS other FROM mine.customers) m ON k = 5`},
		{`SELECT l.income FROM customers c, LATERAL (SELECT m.income FROM mine.customers m WHERE c.id = 3) l`},
		{`SELECT mine.give() FROM customers WHERE id = 3`},
		{`SELECT income, mine.give() FROM customers WHERE id = 3`},
		{`SELECT give AS income FROM customers c, mine.give() WHERE c.id = 3 AND c.income IS NOT NULL`},
		{`SELECT income FROM mine.rows()`},
		{`SELECT r.income FROM customers c, mine.rows() r WHERE c.id = 3`},
		{`SELECT income FROM ROWS FROM (mine.rows()) AS customers`},
		{`SELECT x FROM customers c, unnest(ARRAY(SELECT income FROM mine.customers)) x WHERE c.id = 3 AND c.score > 0`},
		{`SELECT (jsonb_populate_record(NULL::mine.customers, to_jsonb(c))).income FROM customers c WHERE c.id = 3`},
		{`SELECT first_value(m.income) OVER (ORDER BY c.income) FROM customers c, mine.customers m WHERE c.id = 3`},
		{`SELECT (array_agg(m.income))[1] AS income FROM customers c, mine.customers m WHERE c.id = 3 GROUP BY c.income`},
		{`SELECT sealed_1 FROM mine."$VIEW"`},
		{`SET search_path = mine, scrim_runtime, public`, `SELECT sealed_1 FROM "$VIEW"`, `SELECT v.sealed_1, c.income FROM mine."$VIEW" v, public.customers c WHERE c.id = 3`},
		{`SELECT income FROM mine.customers_view`},
		{`SET search_path = mine, public`, `CREATE TEMP VIEW customers AS SELECT income FROM mine.customers`, `SELECT income FROM customers`},
		{`PREPARE p AS SELECT income FROM customers WHERE id > 1999`, `CREATE TEMP TABLE customers AS SELECT 2000 AS id, income FROM mine.customers`, `EXECUTE p`, `SELECT income FROM customers`},
		{`PREPARE p AS SELECT income FROM customers WHERE id > 1999`, `SET search_path = mine, public`, `EXECUTE p`},
		{`PREPARE p AS SELECT income FROM mine.customers`, `EXECUTE p`},
		{`PREPARE p AS SELECT income FROM customers WHERE id = 3`, `DEALLOCATE p`, `PREPARE p AS SELECT income FROM mine.customers`, `EXECUTE p`},
		{`BEGIN`, `DECLARE k BINARY CURSOR FOR SELECT income FROM mine.customers`, `FETCH ALL FROM k`},
		{`BEGIN`, `DECLARE k BINARY CURSOR FOR SELECT income FROM customers WHERE id = 3`, `CLOSE k`, `DECLARE k BINARY CURSOR FOR SELECT income FROM mine.customers`, `FETCH ALL FROM k`},
		{
			`BEGIN`, `SAVEPOINT s`, `DECLARE k CURSOR FOR SELECT income FROM customers WHERE id = 3`, `ROLLBACK TO s`,
			`DO $$ BEGIN EXECUTE 'DECLARE k BINARY CURSOR FOR SELECT income FROM mine.customers'; END $$`, `FETCH ALL FROM k`,
		},
		{`CREATE TEMP TABLE t AS SELECT income FROM mine.customers`, `INSERT INTO t SELECT income FROM mine.customers RETURNING income`, `SELECT * FROM t`},
		{`CREATE TEMP TABLE t (income scrim_runtime.sealed)`, `INSERT INTO t SELECT income FROM customers WHERE id = 3`, `INSERT INTO t SELECT m.income FROM mine.customers m, customers c WHERE c.id = 3 AND c.income > -9 RETURNING income`},
		{`CREATE DOMAIN pg_temp.s AS scrim_runtime.sealed`, `SELECT m.income::pg_temp.s FROM mine.customers m, customers c WHERE c.id = 3`},
		{`COPY mine.customers TO STDOUT (FORMAT binary)`},
		{`COPY (SELECT c.income, m.income FROM customers c, mine.customers m WHERE c.id = 3) TO STDOUT (FORMAT binary)`},
		{`SELECT income FROM customers WHERE id = 3; SELECT income FROM mine.customers`},
		{`EXPLAIN (ANALYZE, VERBOSE) SELECT c.income, m.income FROM customers c, mine.customers m WHERE c.id = 3`},
		{`SELECT income FROM customers AS customers (income, b, c, id) WHERE income = 3 UNION ALL SELECT 1 FROM mine.customers`},
		{`CREATE OR REPLACE FUNCTION mine.income(mine.customers) RETURNS scrim_runtime.sealed LANGUAGE sql AS 'SELECT $1.income'`, `SELECT m.income FROM mine.customers m, customers c WHERE c.id = 3`},
	}
	onEachProtected(t, func(t *testing.T, e *env) {
		codes, view := code2000(t, e), maskedView(t, e)
		direct := e.directly(t, analyst)
		e.exec(t, e.admin(t), `CREATE SCHEMA mine AUTHORIZATION analyst`, `CREATE EXTENSION pgcrypto`)
		genuine := `(SELECT sealed_1 FROM scrim_runtime."` + view + `" WHERE id = 2000)`
		// A record as the policy's own, under a key of the role's: OIDs, widths and slot are right.
		minted := `scrim_runtime.seal(record_send(ROW(1::oid, '(0,1)'::tid, '77'::xid, 1::int4, 1::float8, 2::float8, 3::float8, 4::float8, 0::int8)), '\x00112233445566778899aabbccddeeff', 'aes-cbc/pad:pkcs')`
		e.exec(t, direct, `CREATE TABLE mine.customers AS SELECT `+genuine+` AS income`,
			`CREATE TABLE mine.own AS SELECT `+minted+` AS s UNION ALL SELECT `+forge(`substr(record_send(ROW(`+genuine+`)), 13)`),
			`CREATE VIEW mine.customers_view AS SELECT * FROM mine.customers`, `CREATE TABLE mine."`+view+`" AS SELECT income AS sealed_1 FROM mine.customers`,
			`CREATE FUNCTION mine.give() RETURNS scrim_runtime.sealed LANGUAGE sql AS 'SELECT income FROM mine.customers'`,
			`CREATE FUNCTION mine.rows() RETURNS SETOF mine.customers LANGUAGE sql AS 'SELECT * FROM mine.customers'`)
		if copies := seals(t, direct, `SELECT s FROM mine.own UNION ALL SELECT income FROM mine.customers`); !bytes.Equal(copies[1], copies[2]) || len(copies[0]) != len(copies[1]) {
			t.Fatal("the copy that was taken apart and forged is not what it was") // or the tests below would test nothing
		}
		e.exec(t, e.directly(t, olga), `DELETE FROM customers WHERE id = 2000`)
		for _, trick := range tricks {
			lines := strings.Split(strings.ReplaceAll(strings.Join(trick, "\n"), "$VIEW", view), "\n")
			for _, extended := range []bool{false, true} {
				said := overheard(t, e.dsn(analyst), lines, extended)
				for _, c := range codes {
					if bytes.Contains(said, c) {
						t.Errorf("extended %v: a planted seal was opened by\n%s", extended, strings.Join(lines, ";\n"))
					}
				}
				checkCanaries(t, strings.Join(lines, ";\n"), said)
			}
		}
		// Between Parse and Bind the name comes to mean the role's own table.
		h := rawConn(t, e.dsn(analyst))
		script(t, h, 1, &pgproto3.Parse{Name: "s", Query: `SELECT income FROM customers LIMIT 5`}, &pgproto3.Sync{})
		script(t, h, 1, &pgproto3.Query{String: `SET search_path = mine`})
		if got := script(t, h, 1, &pgproto3.Bind{PreparedStatement: "s", ResultFormatCodes: []int16{1}}, &pgproto3.Execute{}, &pgproto3.Sync{}); got != "E(0A000)ZI " {
			t.Errorf("after search_path moved: %s", got)
		}
	})
}

// overheard is all that a connection hears while it sends statements, errors and notices included.
func overheard(t *testing.T, dsn string, statements []string, extended bool) []byte {
	t.Helper()
	cfg, err := pgx.ParseConfig(dsn)
	if err != nil {
		t.Fatal(err)
	}
	var said bytes.Buffer
	cfg.OnNotice = func(_ *pgconn.PgConn, n *pgconn.Notice) { fmt.Fprintf(&said, "%+v\n", *n) }
	conn, err := pgx.ConnectConfig(t.Context(), cfg)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = conn.Close(t.Context()) }()
	for _, s := range statements {
		var results []*pgconn.Result
		var err error
		switch {
		case strings.HasPrefix(s, "COPY"):
			_, err = conn.PgConn().CopyTo(t.Context(), &said, s)
		case extended:
			results = []*pgconn.Result{conn.PgConn().ExecParams(t.Context(), s, nil, nil, nil, []int16{1}).Read()}
			err = results[0].Err
		default:
			results, err = conn.PgConn().Exec(t.Context(), s).ReadAll()
		}
		for _, r := range results {
			for _, row := range r.Rows {
				said.Write(bytes.Join(row, []byte("\n")))
			}
		}
		if err != nil {
			fmt.Fprintln(&said, explain(err))
		}
	}
	return said.Bytes()
}

// TestExchangedNames: a function of the client's gives the name of a planned statement or cursor to one that reads seals
// of the client's choice, here those of rows that row security hides. The proxy hears nothing of it, but opens nothing.
func TestExchangedNames(t *testing.T) {
	onEach(t, func(t *testing.T, e *env) {
		e.exec(t, e.admin(t), asOlga(`ALTER TABLE customers ENABLE ROW LEVEL SECURITY`, `CREATE POLICY us ON customers TO analyst USING (region = 'US')`,
			`CREATE POLICY everything ON customers TO risk USING (true)`)...)
		e.exec(t, e.admin(t), `GRANT CREATE ON SCHEMA public TO analyst`)
		e.exec(t, e.connect(t, olga), testPolicy)
		planned, steal := `SELECT income FROM customers WHERE id < 5`, `SELECT sealed_1 FROM scrim_runtime.`+maskedView(t, e)
		query := func(text string) pgproto3.FrontendMessage { return &pgproto3.Query{String: text} }
		do := func(statements ...string) pgproto3.FrontendMessage {
			return query(`DO $do$ BEGIN EXECUTE $$` + strings.Join(statements, `$$; EXECUTE $$`) + `$$; END $do$`)
		}
		run := []pgproto3.FrontendMessage{&pgproto3.Bind{PreparedStatement: "s"}, &pgproto3.Execute{}, &pgproto3.Sync{}}
		for _, c := range []struct {
			name  string
			steps [][]pgproto3.FrontendMessage // each of one ReadyForQuery
			use   []pgproto3.FrontendMessage   // what shows planned rows before the exchange
			by    pgproto3.FrontendMessage     // the exchange
		}{
			{"a prepared statement", [][]pgproto3.FrontendMessage{{&pgproto3.Parse{Name: "s", Query: planned}, &pgproto3.Sync{}}}, run, do(`DEALLOCATE s`, `PREPARE s AS `+steal)},
			{"PREPARE and EXECUTE", [][]pgproto3.FrontendMessage{{query(`PREPARE s AS ` + planned)}}, []pgproto3.FrontendMessage{query(`EXECUTE s`)}, do(`DEALLOCATE s`, `PREPARE s AS `+steal)},
			{"PREPARE and Bind", [][]pgproto3.FrontendMessage{{query(`PREPARE s AS ` + planned)}}, run, do(`DEALLOCATE s`, `PREPARE s AS `+steal)},
			{"Parse of an EXECUTE", [][]pgproto3.FrontendMessage{{query(`PREPARE q AS ` + planned)}, {&pgproto3.Parse{Name: "s", Query: `EXECUTE q`}, &pgproto3.Sync{}}}, run, do(`DEALLOCATE q`, `PREPARE q AS `+steal)},
			{"that Parse itself", [][]pgproto3.FrontendMessage{{query(`PREPARE q AS ` + planned)}, {&pgproto3.Parse{Name: "s", Query: `EXECUTE q`}, &pgproto3.Sync{}}}, run, do(`DEALLOCATE s`, `PREPARE s AS `+steal)},
			{"a cursor", [][]pgproto3.FrontendMessage{{query(`BEGIN`)}, {query(`DECLARE c SCROLL CURSOR FOR ` + planned)}}, []pgproto3.FrontendMessage{query(`FETCH ABSOLUTE 0 FROM c; FETCH ALL FROM c`)}, do(`CLOSE c`, `DECLARE c SCROLL CURSOR FOR `+steal)},
			{"a cursor WITH HOLD", [][]pgproto3.FrontendMessage{{query(`DECLARE c SCROLL CURSOR WITH HOLD FOR ` + planned)}}, []pgproto3.FrontendMessage{query(`FETCH ABSOLUTE 0 FROM c; FETCH ALL FROM c`)}, do(`CLOSE c`, `DECLARE c SCROLL CURSOR WITH HOLD FOR `+steal)},
			{"the portal of a cursor", [][]pgproto3.FrontendMessage{{query(`BEGIN`)}, {query(`DECLARE c SCROLL CURSOR FOR ` + planned)}}, []pgproto3.FrontendMessage{&pgproto3.Execute{Portal: "c"}, &pgproto3.Sync{}}, do(`CLOSE c`, `DECLARE c BINARY CURSOR FOR `+steal)},
			{"a portal", [][]pgproto3.FrontendMessage{{query(`BEGIN`)}, {&pgproto3.Parse{Query: planned}, &pgproto3.Bind{DestinationPortal: "p"}, &pgproto3.Sync{}}}, []pgproto3.FrontendMessage{&pgproto3.Execute{Portal: "p"}, &pgproto3.Sync{}}, do(`CLOSE p`, `DECLARE p BINARY CURSOR FOR `+steal)},
			// Execute has no types: letters of LATIN1 are the bytes of a seal, if none is zero.
			{
				"a portal that gives text",
				[][]pgproto3.FrontendMessage{{query(`SET client_encoding = 'LATIN1'`)}, {query(`BEGIN`)}, {&pgproto3.Parse{Query: planned}, &pgproto3.Bind{DestinationPortal: "p"}, &pgproto3.Sync{}}},
				[]pgproto3.FrontendMessage{&pgproto3.Execute{Portal: "p"}, &pgproto3.Sync{}},
				do(`CLOSE p`, `DECLARE p CURSOR FOR SELECT convert_from(s, 'LATIN1') FROM (SELECT substr(record_send(ROW(sealed_1)), 13) FROM scrim_runtime.`+maskedView(t, e)+`) x(s) WHERE position('\x00'::bytea IN s) = 0`),
			},
		} {
			for _, exchanged := range []bool{false, true} {
				h := rawConn(t, e.dsn(analyst))
				for _, s := range c.steps {
					if got := script(t, h, 1, s...); strings.Contains(got, "E(") {
						t.Fatalf("%s: %s", c.name, got)
					}
				}
				if exchanged {
					if got := script(t, h, 1, c.by); strings.Contains(got, "E(") {
						t.Fatalf("%s: %s", c.name, got)
					}
				}
				got := script(t, h, 1, c.use...)
				if rows := strings.Count(got, "D("); exchanged && (rows > 0 || !strings.Contains(got, "E(0A000)")) || !exchanged && rows != 2 {
					t.Errorf("%s, exchanged %v: %.300s", c.name, exchanged, got)
				}
			}
		}
		// The server finds the statement before it computes the arguments: they could exchange it then.
		conn := e.connect(t, analyst)
		e.exec(t, conn, `CREATE FUNCTION exchange() RETURNS int LANGUAGE plpgsql AS $f$ BEGIN EXECUTE 'DEALLOCATE s'; EXECUTE 'PREPARE s(int) AS `+steal+`'; RETURN 1; END $f$`,
			`CREATE DOMAIN exchanging AS int CHECK (exchange() = VALUE)`, `PREPARE s(int) AS `+planned+` AND id <> $1`)
		for _, statement := range []string{`EXECUTE s(exchange())`, `EXECUTE s(1::exchanging)`, `EXECUTE s(CASE exchange() WHEN 1 THEN 1 END)`} {
			if got, err := text(t, conn, statement); code(err) != "0A000" {
				t.Errorf("%s: %s %v", statement, got, err)
			}
		}
		h := rawConn(t, e.dsn(analyst))
		script(t, h, 1, &pgproto3.Parse{Name: "s", Query: planned + ` AND id <> $1::exchanging`}, &pgproto3.Sync{})
		got := script(t, h, 1, &pgproto3.Bind{PreparedStatement: "s", Parameters: [][]byte{[]byte("1")}}, &pgproto3.Execute{}, &pgproto3.Sync{})
		if got != "E(0A000)ZI " {
			t.Errorf("a parameter of a domain: %.300s", got)
		}
		h = rawConn(t, e.dsn(analyst))
		script(t, h, 1, query(`BEGIN`))
		got = script(t, h, 1, &pgproto3.Parse{Query: planned + ` AND region <> '\'`}, &pgproto3.Bind{DestinationPortal: "p"}, &pgproto3.Execute{Portal: "p"}, &pgproto3.Sync{})
		if got != "12E(0A000)ZE " {
			t.Errorf("a named portal and a backslash: %.300s", got)
		}
		// The same text, prepared where a backslash means another thing: it is not deferred at all.
		if got := mustText(t, e.connect(t, analyst), `EXPLAIN `+planned+` AND region <> '\'`); strings.Contains(got, "staged") {
			t.Error(got)
		}
		e.exec(t, conn, `DISCARD ALL`, `PREPARE s AS `+planned+` AND region <> '\'`)
		if before := e.proxy.Metrics().RowsEncoded.Load(); strings.Count(mustText(t, conn, `EXECUTE s`), "\n") != 2 || e.proxy.Metrics().RowsEncoded.Load() == before {
			t.Error("a text with a backslash")
		}
	})
}

// TestOtherReading: a text that means another thing by another client_encoding or another standard_conforming_strings, of which the
// proxy has not heard when it reads the text: then it reads a harmless string where the server finds seals of the client's.
func TestOtherReading(t *testing.T) {
	onEachProtected(t, func(t *testing.T, e *env) {
		e.exec(t, e.admin(t), `CREATE SCHEMA mine AUTHORIZATION analyst`)
		e.exec(t, e.directly(t, analyst), `CREATE TABLE mine.customers AS SELECT sealed_1 AS income FROM scrim_runtime.`+maskedView(t, e)+` WHERE id > 1990`,
			`CREATE FUNCTION mine.switch(name text, value text) RETURNS text LANGUAGE plpgsql AS $$ BEGIN RETURN set_config(name, value, false); END $$`)
		query := func(text string) pgproto3.FrontendMessage { return &pgproto3.Query{String: text} }
		for _, c := range []struct{ text, name, value string }{
			// In SJIS the last byte of the letter and the backslash are one letter, so that the quote ends the string.
			{`SELECT c.income FROM customers c WHERE c.id = 3 OR 'x' = E'ぁ\' UNION ALL SELECT m.income FROM mine.customers m --'`, "client_encoding", "SJIS"},
			{`SELECT c.income + 0 FROM customers c WHERE c.id = 3 AND c."Note" <> E'ぁ\') UNION ALL SELECT c.ctid, c.xmin, m.income FROM mine.customers m, customers c --'`, "client_encoding", "SJIS"},
			{`SELECT c.income FROM customers c WHERE c.id = 3 OR 'x' = '\' || ' UNION ALL SELECT m.income FROM mine.customers m --'`, "standard_conforming_strings", "off"},
			{`SELECT c.income + 0 FROM customers c WHERE c.id = 3 AND c."Note" <> '\' || ') UNION ALL SELECT c.ctid, c.xmin, m.income FROM mine.customers m, customers c --'`, "standard_conforming_strings", "off"},
		} {
			set, call := query(`SET `+c.name+` = '`+c.value+`'`), query(`SELECT mine.switch('`+c.name+`', '`+c.value+`')`)
			parsed := []pgproto3.FrontendMessage{&pgproto3.Parse{Query: c.text}, &pgproto3.Bind{}, &pgproto3.Execute{}, &pgproto3.Sync{}}
			named := []pgproto3.FrontendMessage{&pgproto3.Parse{Name: "s", Query: c.text}, &pgproto3.Bind{PreparedStatement: "s"}, &pgproto3.Execute{}, &pgproto3.Sync{}}
			for name, ways := range map[string][][]pgproto3.FrontendMessage{
				"a message after the other":           {{call}, {query(c.text)}},
				"in one packet":                       {{set, query(c.text)}},
				"in one packet, by a function":        {{call, query(c.text)}},
				"in one packet, prepared":             {append([]pgproto3.FrontendMessage{call}, parsed...)},
				"in one packet, prepared with a name": {append([]pgproto3.FrontendMessage{call}, named...)},
			} {
				for _, before := range []bool{false, true} {
					h := rawConn(t, e.dsn(analyst))
					if before { // the plan is kept
						if got := script(t, h, 1, query(c.text)); strings.Count(got, "D(") != 1 || strings.Contains(got, "E(") {
							t.Errorf("read as it is: %.200s", got)
						}
					}
					got := ""
					for _, messages := range ways {
						ready := 1
						if len(messages) > 1 {
							ready = 2
						}
						got = script(t, h, ready, messages...)
					}
					if rows := strings.Count(got, "D(") - strings.Count(got, "D(SJIS)") - strings.Count(got, "D(off)"); rows > 0 || !strings.Contains(got, "E(") {
						t.Errorf("%s, %s, known before %v: %.300s", c.text, name, before, got)
					}
				}
			}
		}
	})
}

// TestEditedSeals: whatever is wrong with a seal that the proxy does open, there is one error, without a word more. Only
// somebody who may change the masked view can put one there.
func TestEditedSeals(t *testing.T) {
	onEach(t, func(t *testing.T, e *env) {
		admin := e.admin(t)
		e.exec(t, admin, `CREATE EXTENSION pgcrypto`, `CREATE TABLE theirs AS SELECT * FROM customers WHERE id < 3`)
		e.exec(t, e.connect(t, olga), testPolicy)
		view := maskedView(t, e)
		e.exec(t, admin, `SELECT scrim.create_masking_policy('t', 'theirs', '{age}', '{}', 'enc')`) // another owner's key
		other := strings.TrimSpace(mustText(t, admin, `SELECT masked_view::regclass FROM scrim_state.protections WHERE id = 2`))
		e.exec(t, admin, `CREATE TABLE genuine AS SELECT 'one' AS name, substr(record_send(ROW(sealed_1)), 13) AS s FROM scrim_runtime.`+view+` WHERE id = 1
			UNION ALL SELECT 'two', substr(record_send(ROW(sealed_1)), 13) FROM scrim_runtime.`+view+` WHERE id = 2
			UNION ALL SELECT 'theirs', substr(record_send(ROW(sealed_2)), 13) FROM `+other+` WHERE id = 1`)
		bytesOf := func(name string) string { return `(SELECT s FROM genuine WHERE name = '` + name + `')` }
		one, two, theirs := bytesOf("one"), bytesOf("two"), bytesOf("theirs")
		forgeries := map[string]string{
			"another owner's": theirs, "a block less": `substr(` + one + `, 1, 128)`, "a block more": one + ` || substr(` + one + `, 1, 16)`,
			"spliced in the middle": `substr(` + one + `, 1, 64) || substr(` + two + `, 65)`, "spliced at the end": `substr(` + one + `, 1, 128) || substr(` + two + `, 129)`,
			"another owner's end": `substr(` + one + `, 1, 128) || substr(` + theirs + `, 129)`, "blocks exchanged": `substr(` + one + `, 17, 16) || substr(` + one + `, 1, 16) || substr(` + one + `, 33)`,
			"zeros": `decode(repeat('00', 144), 'hex')`, "a kilobyte": `decode(repeat('ab', 1024), 'hex')`,
		}
		for _, at := range []int{0, 70, 143} { // the others: TestOpenEveryByte
			forgeries[fmt.Sprintf("byte %d changed", at)] = fmt.Sprintf(`set_byte(%s, %d, get_byte(%[1]s, %[2]d) # 1)`, one, at)
		}
		definition := strings.TrimSuffix(strings.TrimSpace(mustText(t, admin, `SELECT pg_get_viewdef('scrim_runtime.`+view+`'::regclass)`)), ";")
		head, tail, ok := strings.Cut(definition, "scrim_runtime.seal(")
		if !ok || !strings.Contains(tail, ") AS sealed_1") {
			t.Fatal(definition)
		}
		_, tail, _ = strings.Cut(tail, ") AS sealed_1")
		e.exec(t, admin, `CREATE TABLE forged (s scrim_runtime.sealed)`, `GRANT SELECT ON forged TO PUBLIC`, `INSERT INTO forged SELECT `+forge(one),
			`CREATE OR REPLACE VIEW scrim_runtime.`+view+` AS `+head+`(SELECT s FROM public.forged) AS sealed_1`+tail)
		same := seals(t, e.connect(t, analyst), `SELECT income FROM customers WHERE id < 3`) // the forger can forge
		if len(same) != 2 || !bytes.Equal(same[0], same[1]) {
			t.Fatal("the view does not show what is planted")
		}
		for name, forgery := range forgeries {
			e.exec(t, admin, `DELETE FROM forged`, `INSERT INTO forged SELECT `+forge(forgery))
			var waiting sync.WaitGroup // each waits for the catalog to know no newer key, together they wait once
			for query, severity := range map[string]string{`SELECT income FROM customers WHERE id = 1`: "FATAL", `SELECT income + 0 FROM customers WHERE id = 1`: "ERROR"} {
				conn := e.connect(t, analyst)
				waiting.Go(func() {
					_, err := text(t, conn, query)
					var pgErr *pgconn.PgError
					if !asError(err, &pgErr) || *pgErr != (pgconn.PgError{Severity: severity, SeverityUnlocalized: severity, Code: "XX001", Message: "a sealed value failed its integrity check"}) {
						t.Errorf("%s, %s: %+v", name, query, err)
					}
				})
			}
			waiting.Wait()
		}
	})
}
