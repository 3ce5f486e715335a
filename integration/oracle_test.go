package integration_test

import (
	"strings"
	"testing"
)

func TestStagedSmoke(t *testing.T) {
	queries := `
SELECT id FROM customers WHERE income > 0 ORDER BY id
SELECT max(income), min(age), avg(score), count(*) FROM customers
SELECT region, count(*), sum(income) FROM customers GROUP BY region ORDER BY region
SELECT id, income FROM customers ORDER BY income LIMIT 10
SELECT DISTINCT income FROM customers ORDER BY 1 LIMIT 5
SELECT id, c FROM customers c WHERE id < 3 ORDER BY id
SELECT to_jsonb(c) FROM customers c WHERE id < 3 ORDER BY id
SELECT income(c) FROM customers c WHERE id < 3 ORDER BY id
SELECT public.customers.id, public.customers.income * 2 FROM public.customers WHERE public.customers.id = 5
SELECT id, income, count(*) FROM customers GROUP BY id ORDER BY id LIMIT 3
SELECT a.id, b.id FROM customers a JOIN customers b USING (income) WHERE a.id < 20 ORDER BY 1, 2
SELECT id, rank() OVER (ORDER BY income) FROM customers ORDER BY id LIMIT 20
SELECT o.id, c.income + 1 FROM orders o LEFT JOIN customers c ON c.id = o.customer_id AND c.region = 'EU' ORDER BY o.id
SELECT CASE WHEN income > 0 THEN 'pos' ELSE 'neg' END, count(*) FROM customers GROUP BY 1 ORDER BY 1
WITH RECURSIVE t AS (SELECT id, income FROM customers WHERE id = 1 UNION ALL SELECT c.id, c.income + t.income FROM t JOIN customers c ON c.id = t.id + 1 WHERE c.id < 10) SELECT * FROM t
SELECT ctid IS NULL, income::text FROM customers WHERE id = 3
EXPLAIN (COSTS OFF) SELECT id FROM customers WHERE income > 0`
	onEachProtected(t, func(t *testing.T, e *env) {
		conn := e.connect(t, analyst)
		copyCodes(t, e, conn)
		plain := e.admin(t)
		e.exec(t, plain, `SET search_path = codes, public`)
		for _, q := range strings.Split(strings.TrimSpace(queries), "\n") {
			want, err := text(t, plain, strings.ReplaceAll(q, "public.customers", "codes.customers"))
			got, err2 := text(t, conn, q)
			if code(err) != code(err2) || got != want {
				t.Errorf("%s\nthrough the proxy: %s\n%.600s\non a table of codes: %v\n%.600s", q, explain(err2), got, err, want)
			}
			if err != nil || err2 != nil {
				continue
			}
			if strings.HasPrefix(q, "EXPLAIN") { continue }
			if got, want := extended(t, conn, q), extended(t, plain, strings.ReplaceAll(q, "public.customers", "codes.customers")); got != want {
				t.Errorf("%s, extended protocol\nthrough the proxy:\n%.600s\non a table of codes:\n%.600s", q, got, want)
			}
		}
	})
}
