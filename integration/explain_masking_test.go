package integration_test

import (
	"context"
	"encoding/json"
	"fmt"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
)

// masking is what EXPLAIN MASKING says in JSON, as far as the tests look.
type masking struct {
	Role, Masking string
	Refusal       struct {
		SQLSTATE, Message, Hint string
		Position                int32
	}
	Reasons []struct {
		Reason   string
		Position int
	}
	Relations []struct {
		Name    string `json:"Relation Name"`
		Reads   string
		Exempt  bool
		Columns []struct {
			Column, Type string
			Component    int
		}
		Conditions []string `json:"Listed Where"`
		Listed     bool
	}
}

func explained(t *testing.T, conn *pgx.Conn, query string) masking {
	t.Helper()
	var all []masking
	if err := json.Unmarshal([]byte(mustText(t, conn, `EXPLAIN MASKING (FORMAT JSON) `+query)), &all); err != nil || len(all) != 1 {
		t.Fatalf("%s: %v", query, err)
	}
	return all[0]
}

// told are statements and how they run for the analyst.
var told = []struct{ masking, query string }{
	{"deferred", `SELECT id, income FROM customers WHERE region = 'EU' ORDER BY id LIMIT 3`},
	{"deferred", `SELECT c.*, o.amount FROM customers c JOIN orders o ON o.customer_id = c.id WHERE o.id < 9`},
	{"deferred", `WITH w AS (SELECT score FROM customers WHERE id = 7) SELECT score AS s FROM w UNION ALL SELECT score FROM customers WHERE id = 8`},
	{"staged", `SELECT max(income) FROM customers WHERE region = 'EU' AND id < 500`},
	{"staged", `SELECT id FROM customers c WHERE income > 0 AND "Note" LIKE 'note 1%'`},
	{"staged", `SELECT id FROM customers WHERE id IN (1, 2, 3) ORDER BY score`},
	{"staged", `SELECT age::text FROM customers WHERE id BETWEEN 20 AND 30 OR vip IS NULL`},
	{"staged", `SELECT count(*) FROM customers GROUP BY age`},
	{"staged", `SELECT o.id FROM orders o LEFT JOIN customers c ON c.score = o.amount AND c.region = 'US'`},
	{"refused", `UPDATE orders SET region = (SELECT c.region FROM customers c WHERE c.income > 0 AND c.xmax IS NOT NULL AND c IS NOT NULL)`},
	{"refused", `SELECT income FROM scrim_runtime.customers_1`},
	{"relayed", `SELECT id, region FROM customers WHERE id < 5 ORDER BY id`},
	{"relayed", `SELECT count(*) FROM orders`},
}

// TestExplainMasking: what it says is what happens.
func TestExplainMasking(t *testing.T) {
	onEachProtected(t, func(t *testing.T, e *env) {
		conn, direct, admin := e.connect(t, analyst), e.directly(t, analyst), e.admin(t)
		for _, c := range told {
			says := explained(t, conn, c.query)
			if says.Role != analyst || says.Masking != c.masking {
				t.Errorf("%s: %+v, not %s", c.query, says, c.masking)
				continue
			}
			switch c.masking {
			case "refused":
				_, err := conn.PgConn().Exec(t.Context(), c.query).ReadAll()
				var refused *pgconn.PgError
				if !asError(err, &refused) || refused.Code != says.Refusal.SQLSTATE || refused.Message != says.Refusal.Message || refused.Hint != says.Refusal.Hint {
					t.Errorf("%s: %v, but EXPLAIN MASKING says %+v", c.query, explain(err), says.Refusal)
				} else if prefix := len(`EXPLAIN MASKING (FORMAT JSON) `); refused.Position > 0 && says.Refusal.Position != refused.Position+int32(prefix) {
					t.Errorf("%s: at %d, but EXPLAIN MASKING says %d", c.query, refused.Position, says.Refusal.Position)
				}
			case "relayed":
				if got, want := mustText(t, conn, c.query), mustText(t, direct, c.query); got != want {
					t.Errorf("%s: %s, not %s", c.query, got, want)
				}
			default:
				ran := mustText(t, conn, `EXPLAIN (ANALYZE, COSTS OFF, TIMING OFF) `+c.query)
				if deferred := strings.Contains(ran, "deferred: filled in"); deferred != (c.masking == "deferred") {
					t.Errorf("%s ran as\n%s", c.query, ran)
				}
				sameLists(t, admin, c.query, ran, says)
			}
		}
		// What the columns show.
		says := explained(t, conn, `SELECT income FROM customers`)
		if got := described(t, conn, `SELECT income FROM customers`)[0].DataTypeOID; got != 701 || len(says.Relations) != 1 || says.Relations[0].Columns[0].Type != "double precision" || says.Relations[0].Columns[0].Component != 2 {
			t.Errorf("type %d, explained %+v", got, says)
		}
	})
}

var listed = regexp.MustCompile(`Codes of \w+: .*\(rows=(\d+) `)

// sameLists compares how many codes were listed with how many rows meet the conditions that are told.
func sameLists(t *testing.T, admin *pgx.Conn, query, ran string, says masking) {
	t.Helper()
	lists := listed.FindAllStringSubmatch(ran, -1)
	for _, r := range says.Relations {
		if !r.Listed {
			continue
		}
		where := strings.Join(append(slices.Clone(r.Conditions), "true"), " AND ")
		if want := strings.TrimSpace(mustText(t, admin, `SELECT count(*) FROM `+r.Name+` WHERE `+where)); len(lists) == 0 || lists[0][1] != want {
			t.Errorf("%s: %s rows should be listed; it ran as\n%s", query, want, ran)
		} else {
			lists = lists[1:]
		}
	}
	if len(lists) > 0 {
		t.Errorf("%s: lists are not told of:\n%s", query, ran)
	}
}

// TestExplainMaskingProtocols: the answer is rows of PostgreSQL's EXPLAIN in both protocols, and follows grants.
func TestExplainMaskingProtocols(t *testing.T) {
	onEachProtected(t, func(t *testing.T, e *env) {
		conn := e.connect(t, olga)
		const query = `EXPLAIN MASKING FOR ROLE analyst SELECT income FROM customers AS "é"`
		const want = `Masking for role analyst: deferred: filled in as rows are sent
  ->  public.customers "é" (policy p): reads codes
        income: component 2 of encoder enc version 1 (policy p) as double precision
`
		if got := mustText(t, conn, query); got != want {
			t.Errorf("simple:\n%s", got)
		}
		got := ""
		for _, row := range conn.PgConn().ExecParams(t.Context(), query, nil, nil, nil, nil).Read().Rows {
			got += string(row[0]) + "\n"
		}
		if got != want {
			t.Errorf("extended:\n%s", got)
		}
		for query, oid := range map[string]uint32{query: 25, `EXPLAIN MASKING (FORMAT JSON) SELECT 1`: 114} {
			if f := described(t, conn, query); len(f) != 1 || f[0].Name != "QUERY PLAN" || f[0].DataTypeOID != oid {
				t.Errorf("%s: %+v", query, f)
			}
			results, err := conn.PgConn().Exec(t.Context(), query).ReadAll()
			if err != nil || results[0].CommandTag.String() != "EXPLAIN" || conn.PgConn().ExecParams(t.Context(), query, nil, nil, nil, nil).Read().CommandTag.String() != "EXPLAIN" {
				t.Errorf("%s: %v, %v", query, results, err)
			}
		}

		// A prepared one does not give an answer that has become wrong.
		if _, err := conn.PgConn().Prepare(t.Context(), "kept", query, nil); err != nil {
			t.Fatal(err)
		}
		again := func() error { return conn.PgConn().ExecPrepared(t.Context(), "kept", nil, nil, nil).Read().Err }
		if err := again(); err != nil {
			t.Error(explain(err))
		}
		e.exec(t, e.admin(t), `GRANT SELECT ON customers TO analyst`)
		if err := again(); code(err) != "0A000" || !strings.Contains(err.Error(), "cached plan must not change result type") {
			t.Error(explain(err))
		}
		if got := explained(t, conn, `SELECT income FROM customers`); got.Role != olga || got.Masking != "relayed" || got.Relations[0].Reads != "raw values" || got.Relations[0].Exempt {
			t.Errorf("olga's own: %+v", got)
		}

		// In a transaction it does nothing, and fails where everything does.
		e.exec(t, conn, `BEGIN`)
		if got := mustText(t, conn, `EXPLAIN MASKING INSERT INTO orders SELECT id FROM customers`); !strings.Contains(got, "relayed") {
			t.Error(got)
		}
		if _, err := text(t, conn, `EXPLAIN MASKING SELECT FROM nowhere WHERE`); code(err) != "42601" {
			t.Error(explain(err))
		}
		for _, run := range []func() error{
			func() error { _, err := text(t, conn, query); return err },
			func() error { return conn.PgConn().ExecParams(t.Context(), query, nil, nil, nil, nil).Read().Err },
		} {
			if err := run(); code(err) != "25P02" {
				t.Error(explain(err))
			}
		}
		e.exec(t, conn, `ROLLBACK`)
		if got := mustText(t, conn, `SELECT count(*) FROM orders`); got != "300\n" {
			t.Errorf("%s orders", got)
		}
	})
}

// TestExplainMaskingForRole: an admin sees what the role itself is told, and who is neither sees nothing.
func TestExplainMaskingForRole(t *testing.T) {
	onEachProtected(t, func(t *testing.T, e *env) {
		role := "seen_" + e.database
		admin := e.admin(t)
		e.exec(t, admin, `CREATE ROLE `+role, `GRANT `+role+` TO guest`)
		t.Cleanup(func() {
			if err := e.superuser(context.Background(), "postgres", `DROP ROLE `+role); err != nil {
				t.Error(err)
			}
		})
		conns := map[string]*pgx.Conn{}
		for _, name := range []string{olga, analyst, risk, guest} {
			conns[name] = e.connect(t, name)
		}
		for _, c := range told {
			for _, name := range []string{analyst, risk, guest, olga} {
				for _, format := range []string{"TEXT", "JSON"} {
					own := mustText(t, conns[name], fmt.Sprintf(`EXPLAIN MASKING (FORMAT %s) %s`, format, c.query))
					said := mustText(t, conns[olga], fmt.Sprintf(`EXPLAIN MASKING (FORMAT %s) FOR ROLE %s %s`, format, name, c.query))
					positions := regexp.MustCompile(`character \d+|"Position": \d+`) // the texts differ in length
					if own, said := positions.ReplaceAllString(own, ""), positions.ReplaceAllString(said, ""); own != said || own == "" {
						t.Errorf("%s\n%s of itself:\n%solga of it:\n%s", c.query, name, own, said)
					}
				}
			}
		}
		const query = `SELECT income FROM customers`
		if got := explained(t, conns[risk], query); got.Masking != "relayed" || got.Relations[0].Reads != "raw values" || !got.Relations[0].Exempt {
			t.Errorf("exempt: %+v", got)
		}
		_, err := text(t, conns[guest], query)
		for _, whose := range []string{``, `FOR ROLE ` + role + ` `} { // they may not even read what is open
			got := explained(t, conns[guest], whose+query)
			if got.Masking != "refused" || got.Refusal.SQLSTATE != code(err) || !strings.Contains(explain(err), ": "+got.Refusal.Message+"\n") {
				t.Errorf("%s: %+v, but %v", whose, got, explain(err))
			}
		}
		for _, c := range []struct{ role, code, statement string }{
			{risk, "42501", `EXPLAIN MASKING FOR ROLE analyst ` + query},
			{analyst, "42501", `EXPLAIN MASKING (FORMAT JSON) FOR ROLE risk ` + query},
			{analyst, "", `EXPLAIN MASKING FOR ROLE analyst ` + query},
			{guest, "", `EXPLAIN MASKING FOR ROLE ` + role + ` ` + query},
			{olga, "42704", `EXPLAIN MASKING FOR ROLE "nobody's" ` + query},
			{analyst, "42704", `EXPLAIN MASKING FOR ROLE nobody ` + query},
		} {
			for _, run := range []func() error{
				func() error { _, err := text(t, conns[c.role], c.statement); return err },
				func() error {
					return conns[c.role].PgConn().ExecParams(t.Context(), c.statement, nil, nil, nil, nil).Read().Err
				},
			} {
				err := run()
				var pgErr *pgconn.PgError
				if code(err) != c.code || c.code == "42501" && (!asError(err, &pgErr) || pgErr.Hint == "") {
					t.Errorf("%s: %s: %v", c.role, c.statement, explain(err))
				}
			}
		}
	})
}

// TestExplainMaskingNames: names mean what they mean to who asks, and syntax errors are PostgreSQL's.
func TestExplainMaskingNames(t *testing.T) {
	onEachProtected(t, func(t *testing.T, e *env) {
		conn := e.connect(t, analyst)
		e.exec(t, e.admin(t), `CREATE SCHEMA inner_circle AUTHORIZATION olga`)
		e.exec(t, e.connect(t, olga), `CREATE VIEW inner_circle.v WITH (security_invoker) AS SELECT id, income FROM customers WHERE region = 'EU'`,
			`GRANT USAGE ON SCHEMA inner_circle TO analyst`, `GRANT SELECT ON inner_circle.v TO analyst`)
		eventually(t, func() bool {
			return explained(t, conn, `SELECT max(income) FROM inner_circle.v`).Masking == "staged"
		})
		says := explained(t, conn, `SELECT max(income) FROM inner_circle.v WHERE id < 9`)
		if len(says.Relations) != 1 || says.Relations[0].Name != "customers" || len(says.Relations[0].Conditions) != 2 {
			t.Errorf("%+v", says)
		}
		e.exec(t, conn, `CREATE TEMP TABLE customers (income integer)`)
		if got := explained(t, conn, `SELECT income FROM customers`); got.Masking != "relayed" || len(got.Relations) != 0 {
			t.Errorf("%+v", got)
		}
		e.exec(t, conn, `DROP TABLE customers`)
		if got := explained(t, conn, `SELECT income FROM customers`); got.Masking != "deferred" {
			t.Errorf("%+v", got)
		}

		direct := e.directly(t, analyst)
		for _, query := range []string{`SELECT 'é' FROM WHERE x`, `SELECT id, FROM customers`, `SELECT 'é`, `SELEC 1`, `SELECT 1 ORDER`} {
			const before = `EXPLAIN MASKING FOR ROLE analyst `
			var own, ours *pgconn.PgError
			_, err := text(t, direct, query)
			_, err2 := text(t, conn, before+query)
			if !asError(err, &own) || !asError(err2, &ours) {
				t.Fatalf("%s: %v, %v", query, err, err2)
			}
			if ours.Code != own.Code || ours.Message != own.Message || ours.Position != own.Position+int32(len(before)) {
				t.Errorf("%s: PostgreSQL says %+v, EXPLAIN MASKING %+v", query, own, ours)
			}
		}
	})
}

// TestExplainMaskingOfFeatureView: everybody but who may read the features is shown the code.
func TestExplainMaskingOfFeatureView(t *testing.T) {
	withFeatureView(t, func(t *testing.T, e *env) {
		conn := e.connect(t, olga)
		for _, c := range []struct{ role, masking, reads, query string }{
			{analyst, "deferred", "codes", `SELECT features FROM scrim_runtime.traits`},
			{analyst, "staged", "codes", `SELECT features[1] FROM scrim_runtime.traits`},
			{analyst, "none", "no masked column", `SELECT id FROM scrim_runtime.traits`},
			{risk, "relayed", "raw values", `SELECT features FROM scrim_runtime.traits`},
		} {
			got := explained(t, conn, `FOR ROLE `+c.role+` `+c.query)
			if got.Masking != c.masking || len(got.Relations) != 1 || got.Relations[0].Reads != c.reads || got.Relations[0].Name != "traits" {
				t.Errorf("%s: %s: %+v", c.role, c.query, got)
			}
			if c.reads == "codes" && got.Relations[0].Columns[0].Type != "real[]" {
				t.Errorf("%s: %+v", c.query, got)
			}
		}
	})
}
