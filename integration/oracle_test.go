package integration_test

import (
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/jackc/pgx/v5"
)

// TestOracleClauses compares what the masked role gets with what the same statements give on a plain table that holds the
// codes: testdata/oracle has one case in a line, whose statements ;; parts. Every answer must be equal, errors included, or
// the statement refused; at most 3 % may be.
func TestOracleClauses(t *testing.T) {
	cases := append(oracleCases(t), generated(150)...)
	onEachProtected(t, func(t *testing.T, e *env) { checkOracle(t, e, cases, nil) })
}

// TestOracleRowSecurity is the same where the client sees some rows only. The table of codes holds those.
func TestOracleRowSecurity(t *testing.T) {
	all := append(oracleCases(t), generated(150)...)
	cases := slices.DeleteFunc(share(all, 7), func(c string) bool { return strings.Contains(c, "public.") || strings.Contains(c, "EXPLAIN") })
	onEach(t, func(t *testing.T, e *env) {
		e.exec(t, e.admin(t), asOlga(`ALTER TABLE customers ENABLE ROW LEVEL SECURITY, FORCE ROW LEVEL SECURITY`,
			`CREATE POLICY thirds ON customers FOR SELECT TO analyst USING (id % 3 <> 1 OR current_user <> 'analyst')`, `CREATE POLICY rest ON customers TO olga, risk USING (true)`)...)
		e.exec(t, e.connect(t, olga), testPolicy)
		if got := mustText(t, e.connect(t, analyst), `SELECT count(*) FROM customers`); got != "1333\n" {
			t.Fatalf("the analyst sees %s rows", got)
		}
		checkOracle(t, e, cases, nil)
		before := e.proxy.Metrics().RowsEncoded.Load()
		if got := mustText(t, e.connect(t, analyst), `SELECT count(*) FROM customers WHERE age IS NOT NULL AND id < 10`); got != "6\n" {
			t.Errorf("%s rows below 10", got)
		}
		if n := e.proxy.Metrics().RowsEncoded.Load() - before; n != 6 {
			t.Errorf("%d codes were computed for six rows that are seen", n)
		}
		if got := mustText(t, e.connect(t, risk), `SELECT count(*), count(age) FROM customers`); got != "2000|1883\n" {
			t.Errorf("the exempt role sees %s", got)
		}
	})
}

// checkOracle runs the cases through the proxy and on a table of the codes that the analyst sees. alike makes the table of codes
// the kind of relation that customers is, and made are statements that make more beside it.
func checkOracle(t *testing.T, e *env, cases []string, alike func(), made ...string) {
	t.Helper()
	conn := e.connect(t, analyst)
	copyCodes(t, e, conn)
	if alike != nil {
		alike()
	}
	admin := e.admin(t)
	e.exec(t, admin, `SET search_path = codes, public`)
	e.exec(t, admin, append(made, `GRANT USAGE ON SCHEMA codes TO guest`, `GRANT SELECT ON ALL TABLES IN SCHEMA codes TO guest`)...)
	plain := e.directly(t, guest)
	e.exec(t, plain, `SET search_path = codes, public`)
	runs, refused, failed := 0, 0, 0
	for i, c := range cases {
		for _, extended := range []bool{false, true} {
			if extended && strings.Contains(c, "; ") && !strings.Contains(c, ";;") {
				continue // several in one message
			}
			if len(worlds) > 1 && !exhaustive() && extended == ((i%2 == 0) == (e.world == worlds[0])) {
				continue // by this protocol on the other server
			}
			runs++
			want := answers(t, plain, strings.ReplaceAll(c, "public.", "codes."), extended)
			if strings.Contains(want, "ERROR") {
				failed++
			}
			switch got := answers(t, conn, c, extended); {
			case strings.Contains(got, "ERROR 0A000") && !strings.Contains(want, "ERROR 0A000"):
				refused++
				t.Logf("refused: %s\n%s", c, got)
			case got != want:
				t.Errorf("%s\nextended: %v\nthrough the proxy:\n%.800s\non a table of codes:\n%.800s", c, extended, got, want)
			}
		}
	}
	if 100*refused > 3*runs {
		t.Errorf("%d of %d runs were refused", refused, runs)
	}
	if 100*failed > 10*runs {
		t.Errorf("%d of %d runs fail on the table of codes: that compares nothing", failed, runs)
	}
	t.Logf("%d cases, %d runs, %d refused, %d fail on both sides", len(cases), runs, refused, failed)
}

// generated makes queries by a small grammar, the same at every run. The output is ordered by all of its columns, and
// nothing in it hangs on the order in which rows are added up.
func generated(n int) []string {
	r := rand.New(rand.NewPCG(1, 2))
	one := func(of ...string) string { return of[r.IntN(len(of))] }
	expr := func() string {
		return one("c.income", "c.age", "c.score", "c.income + c.age", "abs(c.score)", "c.income::text", "c.id", "c.region", "length(c.region)",
			"coalesce(c.income, 0)", "CASE WHEN c.age > 0.4 THEN c.region ELSE 'other' END", "c.income > c.score", "round(c.age::numeric, 2)",
			"(SELECT max(k.income) FROM customers k WHERE k.id < c.id AND k.id < 9)", "c.id % 7", "greatest(c.age, c.income)")
	}
	var pred func(depth int) string
	pred = func(depth int) string {
		if depth > 0 && r.IntN(2) == 0 {
			switch r.IntN(3) {
			case 0:
				return "(" + pred(depth-1) + " AND " + pred(depth-1) + ")"
			case 1:
				return "(" + pred(depth-1) + " OR " + pred(depth-1) + ")"
			}
			return "NOT (" + pred(depth-1) + ")"
		}
		return one("c.income > 0.1", "c.age <= 0.5", "c.id < 300", "c.region = 'EU'", "c.vip", "c.score BETWEEN -0.3 AND 0.3", "c.id % 3 = 1",
			"c.id IN (SELECT customer_id FROM orders)", "c.income IN (SELECT k.income FROM customers k WHERE k.id < 20)", `c."Note" LIKE 'note 1%'`,
			"EXISTS (SELECT 1 FROM orders x WHERE x.customer_id = c.id AND x.amount > c.income)", "c.region IN ('EU', 'US')", "c.id IS NOT NULL",
			"c.income IS NOT DISTINCT FROM c.income", "lower(c.region) <> 'us'")
	}
	from := func() string {
		return one("customers c", "customers c", "customers AS c JOIN orders o ON o.customer_id = c.id", "orders o LEFT JOIN customers c ON c.id = o.customer_id AND "+pred(1),
			"(SELECT * FROM customers c WHERE "+pred(1)+") c", "customers c JOIN customers d ON d.id = c.id + 1 AND d.income > c.income",
			"orders o, LATERAL (SELECT k.* FROM customers k WHERE k.id = o.customer_id) c", "(SELECT id, region, vip, \"Note\", age, income, score FROM customers WHERE id < 500 ORDER BY income LIMIT 50) c")
	}
	var list []string
	for range n {
		with := ""
		source := from()
		if r.IntN(5) == 0 {
			with, source = "WITH w AS (SELECT c.* FROM "+source+" WHERE "+pred(1)+") ", "w c"
		}
		switch r.IntN(4) {
		case 0:
			key := one("c.region", "c.vip", "c.income > 0.2", "round(c.age::numeric, 1)", "c.id % 4")
			list = append(list, fmt.Sprintf("%sSELECT %s, count(*), max(c.income), min(c.age), count(DISTINCT c.score) FROM %s WHERE %s GROUP BY 1 HAVING max(c.score) > -50 ORDER BY 1, 2, 3, 4, 5",
				with, key, source, pred(2)))
		case 1:
			list = append(list, fmt.Sprintf("%sSELECT DISTINCT %s, %s FROM %s WHERE %s ORDER BY 1, 2 LIMIT 40", with, expr(), expr(), source, pred(2)))
		case 2:
			list = append(list, fmt.Sprintf("%sSELECT c.id, %s, rank() OVER (PARTITION BY c.region ORDER BY c.income, c.id) FROM %s WHERE %s ORDER BY 1, 2, 3 LIMIT 40", with, expr(), source, pred(2)))
		default:
			list = append(list, fmt.Sprintf("%sSELECT %s, %s, c.id FROM %s WHERE %s ORDER BY 1, 2, 3 LIMIT 40 OFFSET %d", with, expr(), expr(), source, pred(2), r.IntN(3)))
		}
	}
	return list
}

// exhaustive is asked for by SCRIM_ORACLE=all, which takes some minutes: all cases, by both protocols on each server.
func exhaustive() bool { return os.Getenv("SCRIM_ORACLE") == "all" }

// share is one of n cases.
func share(cases []string, n int) []string {
	if exhaustive() {
		n = 1
	}
	var list []string
	for i := 0; i < len(cases); i += n {
		list = append(list, cases[i])
	}
	return list
}

func oracleCases(t *testing.T) []string {
	t.Helper()
	files, err := filepath.Glob("testdata/oracle/*")
	if err != nil || len(files) == 0 {
		t.Fatal(files, err)
	}
	var cases []string
	for _, name := range files {
		b, err := os.ReadFile(name)
		if err != nil {
			t.Fatal(err)
		}
		for line := range strings.Lines(string(b)) {
			if line = strings.TrimSpace(line); line != "" && !strings.HasPrefix(line, "#") {
				cases = append(cases, line)
			}
		}
	}
	return cases
}

// answers runs the statements of a case and prints what came: rows, tags and errors.
func answers(t *testing.T, conn *pgx.Conn, statements string, extended bool) string {
	t.Helper()
	var b strings.Builder
	for s := range strings.SplitSeq(statements, ";;") {
		s = strings.TrimSpace(s)
		if extended {
			r := conn.PgConn().ExecParams(t.Context(), s, nil, nil, nil, nil)
			for r.NextRow() {
				printRow(&b, r.Values())
			}
			tag, err := r.Close()
			fmt.Fprintln(&b, tag)
			printFailure(&b, err)
			continue
		}
		results, err := conn.PgConn().Exec(t.Context(), s).ReadAll()
		for _, r := range results {
			for _, row := range r.Rows {
				printRow(&b, row)
			}
			fmt.Fprintln(&b, r.CommandTag)
		}
		printFailure(&b, err)
	}
	return b.String()
}

func printRow(b *strings.Builder, row [][]byte) {
	for _, v := range row {
		if v == nil {
			b.WriteString("∅")
		}
		b.Write(v)
		b.WriteByte('|')
	}
	b.WriteByte('\n')
}

func printFailure(b *strings.Builder, err error) {
	if err == nil {
		return
	}
	text := explain(err)
	if first, _, ok := strings.Cut(text, "\n"); ok {
		text = first
	}
	fmt.Fprintln(b, text)
}
