package integration_test

import (
	"context"
	"fmt"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"github.com/scrimdb/scrim/catalog"
	"github.com/scrimdb/scrim/proxy"
)

const rotateKey = `ALTER MASKING POLICY p ON customers ROTATE KEY`

// untold starts a proxy that nobody tells of changes: it listens to no notices and looks at no version by itself.
func (e *env) untold(t *testing.T) *env {
	t.Helper()
	c, err := catalog.Open(t.Context(), catalog.Config{
		DSN: e.server.DSN(e.server.Superuser(), e.server.Password(), e.database), Lease: time.Hour, Logger: logger(),
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(c.Close) // after the proxy that serve has started
	other, _ := e.serve(t, func(cfg *proxy.Config) { cfg.Catalog = c })
	other.catalog = c
	return other
}

// keyTable names the table of the policies' key.
func (e *env) keyTable(t *testing.T) string {
	t.Helper()
	return strings.TrimSpace(mustText(t, e.admin(t), `SELECT 'scrim_state.key_' || key_owner FROM scrim_state.protections LIMIT 1`))
}

// forgotten rotates until a key is swept, as it would be after an hour.
func (e *env) forgotten(t *testing.T, owner *pgx.Conn, key string) {
	t.Helper()
	admin := e.admin(t)
	eventually(t, func() bool { // other tests' transactions are on the same server
		e.exec(t, admin, `UPDATE scrim_state.retired_keys SET retired_at = retired_at - interval '1 hour'`)
		e.exec(t, owner, rotateKey)
		return mustText(t, admin, `SELECT count(*) FROM scrim_state.retired_keys WHERE key = '`+key+`'`) == "0\n"
	})
}

// readings are masked statements of all kinds, each as one or more parts.
var readings = []string{
	`SELECT id, age, income, score FROM customers ORDER BY id`,
	`SELECT a.id, a.age, b.income FROM customers a LEFT JOIN customers b ON b.id = a.id + 1 WHERE a.region = 'EU' ORDER BY a.id`,
	`SELECT id, score FROM customers WHERE income IS NOT NULL AND id < 1000 ORDER BY income, id`,
	`SELECT region, max(income), count(DISTINCT age) FROM customers GROUP BY region ORDER BY region`,
	`BEGIN ;; SELECT income FROM customers WHERE id < 50 ORDER BY id ;; SELECT sum(age) FROM customers WHERE id < 50 ;; COMMIT`,
	`BEGIN ISOLATION LEVEL REPEATABLE READ ;; SELECT income FROM customers WHERE id < 50 ORDER BY id ;; SELECT id FROM customers ORDER BY age, id LIMIT 20 ;; COMMIT`,
	`BEGIN ;; DECLARE c CURSOR FOR SELECT id, income FROM customers ORDER BY id ;; FETCH 500 FROM c ;; FETCH 500 FROM c ;; CLOSE c ;; COMMIT`,
	`PREPARE s AS SELECT id, income FROM customers WHERE id < $1 ORDER BY id ;; EXECUTE s (20) ;; EXECUTE s (30) ;; DEALLOCATE s`,
}

// TestRotateUnderLoad: keys change while sessions of two proxies read in every way, and every answer is what it was before.
func TestRotateUnderLoad(t *testing.T) {
	onEachProtected(t, func(t *testing.T, e *env) {
		proxies := []*env{e, e.untold(t)}
		owner, admin, table := e.connect(t, olga), e.admin(t), e.keyTable(t)
		want := map[bool][]string{}
		for _, extended := range []bool{false, true} {
			for _, reading := range readings {
				want[extended] = append(want[extended], answers(t, e.connect(t, analyst), reading, extended))
			}
		}
		ctx, stop := context.WithCancel(t.Context())
		defer stop()
		var all sync.WaitGroup
		var read atomic.Int64
		for i, p := range proxies {
			for _, extended := range []bool{false, true} {
				for first := range 2 {
					conn := p.connect(t, analyst)
					all.Go(func() {
						for n := first * len(readings) / 2; ctx.Err() == nil; n++ {
							k := n % len(readings)
							if got := answers(t, conn, readings[k], extended); got != want[extended][k] {
								t.Errorf("proxy %d, extended %v: %s\n%s", i, extended, readings[k], difference(want[extended][k], got))
								return
							}
							read.Add(1)
						}
					})
				}
			}
			conn := p.connect(t, analyst) // prepared once, for all the rotations
			all.Go(func() {
				for ctx.Err() == nil {
					rows, err := conn.Query(context.WithoutCancel(ctx), `SELECT income IS NULL, income FROM customers WHERE id < $1 ORDER BY id`, 100)
					if err == nil {
						_, err = pgx.CollectRows(rows, pgx.RowToMap)
					}
					if err != nil {
						t.Errorf("proxy %d, prepared: %v", i, explain(err))
						return
					}
					read.Add(1)
				}
			})
		}
		before := ""
		for range 20 {
			time.Sleep(50 * time.Millisecond)
			e.exec(t, owner, rotateKey)
			key := mustText(t, admin, `SELECT key FROM `+table)
			if key == before {
				t.Error("the key is the same")
			}
			before = key
		}
		time.Sleep(time.Second)
		stop()
		all.Wait()
		t.Logf("%d readings", read.Load())
		if read.Load() < 40 {
			t.Errorf("%d readings", read.Load())
		}
		// The key is still one row that is looked up once.
		plan := mustText(t, e.connect(t, analyst), `EXPLAIN SELECT income FROM customers`)
		if !strings.Contains(plan, "InitPlan") || strings.Contains(plan, "SubPlan") || !strings.Contains(mustText(t, admin, `EXPLAIN SELECT key FROM `+table), "rows=1 ") {
			t.Error(plan)
		}
	})
}

// TestRotateUnderSnapshots: what sees the database as it was before goes on, however often the key is rotated: it is sealed with
// the old key, which stays until nobody can use it any more.
func TestRotateUnderSnapshots(t *testing.T) {
	onEachProtected(t, func(t *testing.T, e *env) {
		const query = `SELECT id, age, income FROM customers WHERE id <= 300 ORDER BY id`
		owner, admin := e.connect(t, olga), e.admin(t)
		want := mustText(t, e.connect(t, analyst), query)
		lines := strings.SplitAfter(want, "\n")
		part := func(from, to int) string { return strings.Join(lines[from:to], "") }
		key := strings.TrimSpace(mustText(t, admin, `SELECT key FROM `+e.keyTable(t)))
		retired := `SELECT count(*) FROM scrim_state.retired_keys WHERE key = '` + key + `'`

		type reader struct {
			name string
			*pgx.Conn
		}
		var repeatable, cursors, holds []reader
		for _, p := range []struct {
			name string
			*env
		}{{"told", e}, {"untold", e.untold(t)}} {
			conn := p.connect(t, analyst)
			e.exec(t, conn, `BEGIN ISOLATION LEVEL REPEATABLE READ`)
			if got := mustText(t, conn, query); got != want {
				t.Error(difference(want, got))
			}
			repeatable = append(repeatable, reader{p.name, conn})
			conn = p.connect(t, analyst)
			e.exec(t, conn, `BEGIN`, `DECLARE c CURSOR FOR `+query, `DECLARE s CURSOR FOR `+strings.Replace(query, "id <= 300", "id <= 300 AND age IS DISTINCT FROM 1", 1))
			if got := mustText(t, conn, `FETCH 10 FROM c`); got != part(0, 10) {
				t.Error(difference(part(0, 10), got))
			}
			cursors = append(cursors, reader{p.name, conn})
			conn = p.connect(t, analyst)
			e.exec(t, conn, `DECLARE h CURSOR WITH HOLD FOR `+query)
			if got := mustText(t, conn, `FETCH 10 FROM h`); got != part(0, 10) {
				t.Error(difference(part(0, 10), got))
			}
			holds = append(holds, reader{p.name, conn})
		}
		check := func(conn reader, query, want string) {
			t.Helper()
			if got, err := text(t, conn.Conn, query); err != nil || got != want {
				t.Errorf("%s: %s: %v\n%s", conn.name, query, explain(err), difference(want, got))
			}
		}
		for n := 1; n <= 3; n++ {
			e.exec(t, admin, `UPDATE scrim_state.retired_keys SET retired_at = retired_at - interval '1 day'`)
			e.exec(t, owner, rotateKey)
			if got := mustText(t, admin, retired); got != "1\n" {
				t.Fatalf("after %d rotations the key that snapshots seal with is there %s times", n, got)
			}
			for _, conn := range repeatable {
				check(conn, query, want)
				check(conn, strings.Replace(query, "id <= 300", "id <= 300 AND income IS DISTINCT FROM 7", 1), want)
			}
			for _, conn := range cursors {
				check(conn, `FETCH 10 FROM c`, part(10*n, 10*n+10))
				check(conn, `FETCH 10 FROM s`, part(10*n-10, 10*n))
				check(conn, query, want) // READ COMMITTED: with the new key
			}
			for _, conn := range holds {
				check(conn, `FETCH 10 FROM h`, part(10*n, 10*n+10))
				check(conn, query, want)
			}
		}
		for _, conn := range append(repeatable, cursors...) {
			e.exec(t, conn.Conn, `COMMIT`)
		}
		e.forgotten(t, owner, key)
		for _, conn := range holds { // its rows were sealed long ago
			check(conn, `FETCH 260 FROM h`, part(40, 300))
		}
	})
}

// TestRotateUntold: a proxy that nobody told of a rotation serves at once, in every way, also where the session is on an event loop,
// and a row has seals of more than one table.
func TestRotateUntold(t *testing.T) {
	onEachProtected(t, func(t *testing.T, e *env) {
		owner := e.connect(t, olga)
		for _, extended := range []bool{false, true} {
			for _, reading := range readings {
				other := e.untold(t)
				conn := other.connect(t, analyst)
				want := answers(t, conn, reading, extended)
				e.exec(t, owner, rotateKey)
				known := other.catalog.Snapshot().Version
				if got := answers(t, conn, reading, extended); got != want {
					t.Errorf("extended %v: %s\n%s", extended, reading, difference(want, got))
				}
				if other.catalog.Snapshot().Version == known {
					t.Errorf("extended %v: %s was answered without the new key", extended, reading)
				}
			}
		}
	})
}

// TestRotateForgets: a key opens until it is swept, by a rotation that finds nobody left who could seal with it, and not after.
func TestRotateForgets(t *testing.T) {
	onEachProtected(t, func(t *testing.T, e *env) {
		const query = `SELECT income FROM customers WHERE id = 1`
		owner, admin, table := e.connect(t, olga), e.admin(t), e.keyTable(t)
		key := func() string { return strings.TrimSpace(mustText(t, admin, `SELECT key FROM `+table)) }
		set := func(key string) { e.exec(t, admin, `UPDATE `+table+` SET key = '`+key+`'`) } // as nobody but a superuser can
		want, first := mustText(t, e.connect(t, analyst), query), key()
		e.exec(t, owner, rotateKey)
		second := key()
		set(first)
		if got, err := text(t, e.connect(t, analyst), query); got != want {
			t.Errorf("a seal of the retired key: %q %v", got, explain(err))
		}
		set(second)
		e.exec(t, owner, rotateKey)
		if got := mustText(t, admin, `SELECT count(*) FROM scrim_state.retired_keys`); got != "2\n" {
			t.Errorf("within an hour %s keys are known", got)
		}
		e.forgotten(t, owner, first)
		last := key()
		set(first)
		for _, query := range []string{query, `SELECT max(income) FROM customers`} {
			if got, err := text(t, e.connect(t, analyst), query); code(err) != "XX001" {
				t.Errorf("a seal of a swept key: %q %v", got, explain(err))
			}
		}
		set(last)
		if got := mustText(t, e.connect(t, analyst), query); got != want {
			t.Error(got)
		}
	})
}

// TestBadSealsAreSlow: seals that do not open make the proxy look at the catalog once a second, however many there are, and each ends
// in the same error.
func TestBadSealsAreSlow(t *testing.T) {
	onEachProtected(t, func(t *testing.T, e *env) {
		conn, other := e.connect(t, analyst), e.untold(t)
		mustText(t, conn, `SELECT max(income) FROM customers`)
		e.exec(t, e.admin(t), `UPDATE `+e.keyTable(t)+` SET key = '\x00112233445566778899aabbccddeeff'`)
		started := time.Now()
		for range 4 {
			if _, err := text(t, conn, `SELECT max(income) FROM customers`); code(err) != "XX001" {
				t.Errorf("%v, not XX001", explain(err))
			}
		}
		if took := time.Since(started); took < 2900*time.Millisecond {
			t.Errorf("four bad seals took %s", took)
		}
		var all sync.WaitGroup
		said := make([]string, 20)
		started = time.Now()
		for i := range said {
			conn := other.connect(t, analyst)
			all.Go(func() {
				_, err := text(t, conn, []string{`SELECT income FROM customers`, `SELECT max(income) FROM customers`}[i%2])
				var pgErr *pgconn.PgError
				if asError(err, &pgErr) {
					said[i] = fmt.Sprint(pgErr.Code, pgErr.Message, pgErr.Detail, pgErr.Hint)
				}
			})
		}
		all.Wait()
		if took := time.Since(started); took > 10*time.Second { // they wait together
			t.Errorf("20 sessions with bad seals took %s", took)
		}
		for _, s := range said {
			if s != said[0] || !strings.HasPrefix(s, "XX001") {
				t.Errorf("%q and %q", s, said[0])
			}
		}
	})
}

// TestRotateRights: who may rotate, what is said to others, and that nothing is left of a rotation that was taken back.
func TestRotateRights(t *testing.T) {
	onEachProtected(t, func(t *testing.T, e *env) {
		admin, owner := e.admin(t), e.connect(t, olga)
		state := `SELECT (SELECT key FROM ` + e.keyTable(t) + `), (SELECT count(*) FROM scrim_state.retired_keys), (SELECT version FROM scrim_state.catalog_version)`
		before := mustText(t, admin, state)
		for _, dsn := range []func(string) string{e.dsn, e.directDSN} {
			for _, role := range []string{analyst, risk, guest} {
				conn := dial(t, dsn(role))
				for _, sql := range []string{`SELECT scrim.rotate_key('p', 'customers')`, `SELECT scrim.rotate_key('p', NULL)`, `SELECT scrim.rotate_key('nothing', 'customers')`} {
					if _, err := text(t, conn, sql); code(err) != "42501" {
						t.Errorf("%s: %s: %v", role, sql, explain(err))
					}
				}
			}
		}
		for _, refused := range []struct{ role, sql, code string }{
			{analyst, rotateKey, "42501"},
			{risk, rotateKey, "42501"},
			{olga, `ALTER MASKING POLICY nothing ON customers ROTATE KEY`, "42704"},
			{olga, `ALTER MASKING POLICY p ON orders ROTATE KEY`, "42704"},
			{olga, `ALTER MASKING POLICY p ON nothing ROTATE KEY`, "42P01"},
			{olga, rotateKey + ` NOW`, "42601"},
		} {
			conn := e.connect(t, refused.role)
			for _, mode := range []pgx.QueryExecMode{pgx.QueryExecModeSimpleProtocol, pgx.QueryExecModeDescribeExec} {
				if _, err := conn.Exec(t.Context(), refused.sql, mode); code(err) != refused.code {
					t.Errorf("%s: %s: %v, not %s", refused.role, refused.sql, explain(err), refused.code)
				}
			}
		}
		e.exec(t, owner, `BEGIN`, rotateKey, rotateKey, `ROLLBACK`, `BEGIN`, `SAVEPOINT s`, rotateKey, `ROLLBACK TO s`, `COMMIT`)
		if _, err := text(t, owner, `BEGIN READ ONLY; `+rotateKey); code(err) == "" {
			t.Error("among other statements in one message")
		}
		e.exec(t, owner, `ROLLBACK`, `BEGIN READ ONLY`)
		if _, err := text(t, owner, rotateKey); code(err) != "25006" {
			t.Errorf("in a transaction that only reads: %v", explain(err))
		}
		e.exec(t, owner, `ROLLBACK`)
		if got := mustText(t, admin, state); got != before {
			t.Errorf("%q became %q", before, got)
		}
		want := mustText(t, e.connect(t, analyst), firstRows)

		// Two at a time: the second waits, and where it has seen the old key it fails.
		second := e.connect(t, olga)
		e.exec(t, second, `BEGIN ISOLATION LEVEL REPEATABLE READ`, `SELECT 1`)
		e.exec(t, owner, rotateKey)
		if _, err := text(t, second, rotateKey); code(err) != "40001" {
			t.Errorf("a second rotation: %v", explain(err))
		}
		e.exec(t, second, `ROLLBACK`)

		// Policies of one owner share the key; others are told of.
		var notices []string
		cfg, err := pgx.ParseConfig(e.dsn(olga))
		if err != nil {
			t.Fatal(err)
		}
		cfg.OnNotice = func(_ *pgconn.PgConn, n *pgconn.Notice) { notices = append(notices, n.Message) }
		owner, err = pgx.ConnectConfig(t.Context(), cfg)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = owner.Close(context.Background()) })
		e.exec(t, owner, rotateKey)
		if len(notices) > 0 {
			t.Errorf("for one policy: %q", notices)
		}
		e.trains(t)
		e.exec(t, owner, `CREATE ENCODER amounts ON orders (amount) WITH (latent_dims = 1, epochs = 1) WAIT`, `CREATE MASKING POLICY "Q" ON orders (amount) USING ENCODER amounts`)
		conn := e.connect(t, analyst)
		both := mustText(t, conn, `SELECT c.income, o.amount FROM customers c JOIN orders o ON o.customer_id = c.id ORDER BY o.id`)
		notices = nil
		e.exec(t, owner, rotateKey)
		if len(notices) != 1 || notices[0] != `the new key is also that of "Q" on public.orders` {
			t.Errorf("for two policies: %q", notices)
		}
		if got := mustText(t, conn, `SELECT c.income, o.amount FROM customers c JOIN orders o ON o.customer_id = c.id ORDER BY o.id`); got != both {
			t.Error(difference(both, got))
		}
		if got := mustText(t, conn, firstRows); got != want {
			t.Error(difference(want, got))
		}
		e.exec(t, admin, `SELECT scrim.rotate_key('p', 'customers')`) // a superuser, around the proxy
		e.exec(t, owner, `DROP MASKING POLICY p ON customers`, testPolicy)
		if got := mustText(t, e.connect(t, analyst), firstRows); got != want {
			t.Errorf("of a policy that was made after a rotation: %s", difference(want, got))
		}
		e.exec(t, admin, `ALTER TABLE customers OWNER TO `+pgx.Identifier{e.server.Superuser()}.Sanitize())
		if _, err := text(t, owner, rotateKey); code(err) != "42501" {
			t.Errorf("who owns the table no more: %v", explain(err))
		}
		e.exec(t, admin, `SELECT scrim.rotate_key('p', 'customers')`)
		if got := mustText(t, conn, firstRows); got != want {
			t.Error(difference(want, got))
		}
	})
}
