package rewrite_test

import (
	"testing"

	"github.com/scrimdb/scrim/rewrite"
)

// TestFingerprint: literals and parameters make no difference, names do, and what may have a password has none.
func TestFingerprint(t *testing.T) {
	for _, pair := range [][2]string{
		{`SELECT income FROM customers WHERE id = 1`, `SELECT income FROM customers WHERE id = 4815162`},
		{`SELECT income FROM customers WHERE id = 1`, `SELECT income FROM customers WHERE id = $1`},
		{`SELECT 'a', E'b', B'1', 1.5, $$c$$, U&'d', true, NULL`, `SELECT 'q', E'r', B'0', 2.5, $$s$$, U&'t', false, NULL`},
		{`SELECT date '2020-01-01', interval '1 day', '1'::int`, `SELECT date '1999-12-31', interval '9 days', '7'::int`},
		{`SELECT 1 FROM t WHERE a IN (1, 2) LIMIT 3 OFFSET 4`, `SELECT 1 FROM t WHERE a IN (7, 8, 9) LIMIT 30 OFFSET 40`},
		{`INSERT INTO t VALUES (1, 'a')`, `INSERT INTO t VALUES (2, 'b')`},
		{`UPDATE t SET a = 'x' WHERE b LIKE 'y%'`, `UPDATE t SET a = 'p' WHERE b LIKE 'q%'`},
		{`EXECUTE p(1, 'a')`, `EXECUTE p(2, 'b')`},
		{`DECLARE c CURSOR FOR SELECT 1`, `DECLARE c CURSOR FOR SELECT 2`},
		{`EXPLAIN ANALYZE SELECT 1`, `EXPLAIN ANALYZE SELECT 2`},
		{`SELECT * FROM t TABLESAMPLE system (10) REPEATABLE (1)`, `SELECT * FROM t TABLESAMPLE system (20) REPEATABLE (2)`},
		{`COPY (SELECT 'a') TO STDOUT`, `COPY (SELECT 'b') TO STDOUT`},
		{`SELECT xmlelement(name a, 'b'), JSON_VALUE('{"a":1}', '$.a')`, `SELECT xmlelement(name a, 'c'), JSON_VALUE('{"b":2}', '$.b')`},
	} {
		if a, b := rewrite.Fingerprint(pair[0]), rewrite.Fingerprint(pair[1]); a == "" || a != b {
			t.Errorf("%s: %q\n%s: %q", pair[0], a, pair[1], b)
		}
	}
	if rewrite.Fingerprint(`SELECT income FROM customers`) == rewrite.Fingerprint(`SELECT age FROM customers`) {
		t.Error("columns make no difference")
	}
	for _, text := range []string{
		``, `no SQL`, `ALTER ROLE analyst PASSWORD 'secret'`, `CREATE USER MAPPING FOR x SERVER s OPTIONS (password 'secret')`, `SET x = 'secret'`, `NOTIFY a, 'secret'`,
		`SELECT 1; ALTER ROLE analyst PASSWORD 'secret'`, `DO 'secret'`, `COPY t TO STDOUT (NULL 'secret')`, `EXPLAIN CREATE TABLE t AS EXECUTE p; SET x = 1`,
	} {
		if got := rewrite.Fingerprint(text); got != "" {
			t.Errorf("%s: %q", text, got)
		}
	}
}
