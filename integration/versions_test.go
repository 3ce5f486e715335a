package integration_test

import (
	"context"
	"fmt"
	"math/rand/v2"
	"os"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgproto3"

	"github.com/scrimdb/scrim/udf"
	"github.com/scrimdb/scrim/udf/train"
)

// versioned is a protected table whose encoder has two versions, in a models folder of its own.
type versioned struct {
	*env
	store  *udf.Store
	models string
	// keeper may alter the encoder, and sees codes.
	keeper string
	hashes [3]string // by version
}

// twoVersions makes the second version of enc. The proxy that it returns serves from the folder.
func twoVersions(t *testing.T, e *env) *versioned {
	t.Helper()
	v := &versioned{keeper: "keeper_" + e.database}
	admin := e.admin(t)
	e.exec(t, admin, `CREATE ROLE `+v.keeper+` LOGIN PASSWORD '`+v.keeper+`'`, `GRANT SELECT ON customers TO `+v.keeper)
	t.Cleanup(func() {
		if err := e.superuser(context.Background(), e.database, `DROP OWNED BY `+v.keeper, `DROP ROLE `+v.keeper); err != nil {
			t.Error(err)
		}
	})
	e.exec(t, e.connect(t, olga), testPolicy)
	e.exec(t, admin, `GRANT scrim_admin TO `+v.keeper) // an opening: the policy would not have been made
	v.models = t.TempDir()
	var err error
	if v.store, err = udf.NewStore(v.models); err != nil {
		t.Fatal(err)
	}
	shared, err := udf.NewStore(e.models)
	if err != nil {
		t.Fatal(err)
	}
	first, err := os.ReadFile(shared.Path("enc", 1, strings.TrimSpace(mustText(t, admin, `SELECT sha256 FROM scrim.encoder_versions WHERE encoder = 'enc'`))))
	if err != nil {
		t.Fatal(err)
	}
	if v.hashes[1], err = v.store.Publish("enc", 1, first); err != nil {
		t.Fatal(err)
	}
	if v.hashes[2], err = v.store.Publish("enc", 2, anotherModel(t, e.rt, 2)); err != nil {
		t.Fatal(err)
	}
	e.exec(t, admin,
		fmt.Sprintf(`INSERT INTO scrim_state.encoder_versions SELECT id, 2, '%s', 100, 0.5 FROM scrim_state.encoders WHERE name = 'enc'`, v.hashes[2]),
		`UPDATE scrim_state.encoders SET creator = (SELECT oid FROM pg_roles WHERE rolname = '`+v.keeper+`')`)
	v.env = v.another(t, e)
	return v
}

// another starts one more proxy.
func (v *versioned) another(t *testing.T, e *env) *env {
	t.Helper()
	p, err := openProxy(t.Context(), e.server.Addr(), e.server.DSN(e.server.Superuser(), e.server.Password(), e.database), v.models, e.rt)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(p.close)
	p.world, p.database = e.world, e.database
	return p
}

// anotherModel trains an encoder of enc's shape on rows of its own.
func anotherModel(t *testing.T, rt *udf.Runtime, seed int64) []byte {
	t.Helper()
	data := train.NewData(4)
	random := rand.New(rand.NewPCG(1, uint64(seed)))
	for range 300 {
		if err := data.Append([]float64{random.Float64() * 100, random.Float64() * 1e5, random.Float64() * 1000, float64(random.IntN(2))}); err != nil {
			t.Fatal(err)
		}
	}
	result, err := train.Run(t.Context(), rt, train.Config{Features: []string{"age", "income", "score", "vip"}, LatentDims: 4, Epochs: 2, Seed: seed}, data, nil)
	if err != nil {
		t.Fatal(err)
	}
	return result.Model
}

func (v *versioned) spec(version int) udf.EncoderSpec {
	return udf.EncoderSpec{Name: "enc", Version: version, SHA256: v.hashes[version]}
}

func setVersion(version int) string {
	return fmt.Sprintf(`ALTER ENCODER enc SET DEFAULT_VERSION = %d`, version)
}

// switchings are statements that are read while versions change. Each step is one result, and in a script with a cursor all are
// of one version, the one that the cursor was opened with.
var switchings = append([]string{
	`SELECT c.id, n, age, income, score FROM customers c, generate_series(1, 8) n ORDER BY c.id, n`,
	`SELECT id, income FROM customers WHERE id < 40 ORDER BY id; SELECT max(score) FROM customers; SELECT age FROM customers WHERE id < 40 ORDER BY id`,
	`BEGIN ;; DECLARE c CURSOR FOR SELECT id FROM customers ORDER BY income, id ;; FETCH 500 FROM c ;; FETCH 500 FROM c ;; CLOSE c ;; COMMIT`,
	`DECLARE c CURSOR WITH HOLD FOR SELECT id, score FROM customers ORDER BY id ;; FETCH 500 FROM c ;; FETCH ALL FROM c ;; CLOSE c`,
	`SELECT a.id, a.income, b.income FROM customers a JOIN customers b ON b.income > a.income AND b.id = a.id + 1 ORDER BY a.id`,
}, readings...)

// steps runs a script and returns what each step gave.
func steps(t *testing.T, conn *pgx.Conn, script string, extended bool) []string {
	t.Helper()
	var out []string
	for step := range strings.SplitSeq(script, ";;") {
		out = append(out, answers(t, conn, step, extended && !strings.Contains(step, "; ")))
	}
	return out
}

// portal reads a result in parts by one portal.
func portal(t *testing.T, conn *pgx.Conn) []string {
	t.Helper()
	f := conn.PgConn().Frontend()
	f.SendParse(&pgproto3.Parse{Query: `SELECT id, age, income FROM customers ORDER BY id`})
	f.SendBind(&pgproto3.Bind{})
	var all strings.Builder
	for {
		f.SendExecute(&pgproto3.Execute{MaxRows: 300})
		f.Send(&pgproto3.Flush{})
		if err := f.Flush(); err != nil {
			t.Error(err)
			return nil
		}
		for {
			msg, err := f.Receive()
			if err != nil {
				t.Error(err)
				return nil
			}
			switch msg := msg.(type) {
			case *pgproto3.DataRow:
				printRow(&all, msg.Values)
				continue
			case *pgproto3.ErrorResponse:
				t.Errorf("portal: %s: %s", msg.Code, msg.Message)
				return nil
			case *pgproto3.PortalSuspended:
				time.Sleep(10 * time.Millisecond)
			case *pgproto3.CommandComplete:
				f.SendSync(&pgproto3.Sync{})
				if err := f.Flush(); err != nil {
					t.Error(err)
					return nil
				}
				continue
			case *pgproto3.ReadyForQuery:
				return []string{all.String()}
			default:
				continue
			}
			break
		}
	}
}

// versionOf tells whose answers these are: want has those of each version. Steps that answer the same in both tell nothing.
func versionOf(want [3][]string, got []string, whole bool) string {
	if len(got) != len(want[1]) {
		return fmt.Sprintf("%d steps", len(got))
	}
	seen := 0
	for i, g := range got {
		one, two := g == want[1][i], g == want[2][i]
		switch {
		case !one && !two:
			return fmt.Sprintf("step %d is of neither version: %s", i, difference(want[1][i], g))
		case one && two:
		case one && whole && seen == 2, two && whole && seen == 1:
			return fmt.Sprintf("step %d is of another version than those before", i)
		case one:
			seen = 1
		default:
			seen = 2
		}
	}
	return ""
}

// TestVersionsUnderLoad: the default version changes while sessions of two proxies read in every way. Each result is of one
// version, nothing fails, and whoever changed it sees the new one at once.
func TestVersionsUnderLoad(t *testing.T) {
	onEach(t, func(t *testing.T, e *env) {
		v := twoVersions(t, e)
		proxies := []*env{v.env, v.another(t, e)}
		keeper := v.connect(t, v.keeper)
		type kind struct {
			script   string
			extended bool
		}
		const byPortal = "portal"
		read := func(conn *pgx.Conn, k kind) []string {
			if k.script == byPortal {
				return portal(t, conn)
			}
			return steps(t, conn, k.script, k.extended)
		}
		kinds := []kind{{byPortal, true}}
		for _, s := range switchings {
			kinds = append(kinds, kind{s, false}, kind{s, true})
		}
		want := map[kind][3][]string{}
		for version := 1; version <= 2; version++ {
			e.exec(t, keeper, setVersion(version))
			for _, k := range kinds {
				w := want[k]
				w[version] = read(keeper, k)
				want[k] = w
			}
		}
		for _, k := range kinds {
			if strings.Join(want[k][1], "") == strings.Join(want[k][2], "") {
				t.Fatalf("%s does not tell versions apart", k.script)
			}
		}
		ctx, stop := context.WithCancel(t.Context())
		defer stop()
		var all sync.WaitGroup
		var count atomic.Int64
		for i, p := range proxies {
			for first := range 2 {
				conn := p.connect(t, analyst)
				all.Go(func() {
					for n := first * len(kinds) / 2; ctx.Err() == nil; n++ {
						k := kinds[n%len(kinds)]
						if wrong := versionOf(want[k], read(conn, k), strings.Contains(k.script, "DECLARE")); wrong != "" {
							t.Errorf("proxy %d, extended %v: %s\n%s", i, k.extended, k.script, wrong)
							return
						}
						count.Add(1)
					}
				})
			}
			for _, sql := range []string{ // prepared once, for all the switches
				`SELECT id::text, income::text FROM customers WHERE id < $1 ORDER BY id`, `SELECT region, max(income)::text FROM customers WHERE id < $1 GROUP BY region ORDER BY 1`,
				`SELECT region, income FROM customers WHERE id < $1 ORDER BY id`,
			} {
				conn := p.connect(t, analyst)
				all.Go(func() {
					seen := map[string]bool{}
					for ctx.Err() == nil {
						rows, err := conn.Query(context.WithoutCancel(ctx), sql, 100)
						var got []map[string]any
						if err == nil {
							got, err = pgx.CollectRows(rows, pgx.RowToMap)
						}
						if err != nil {
							t.Errorf("proxy %d, prepared: %v", i, explain(err))
							return
						}
						seen[fmt.Sprint(got)] = true
						count.Add(1)
					}
					if len(seen) != 2 {
						t.Errorf("%d different answers of two versions: %s", len(seen), sql)
					}
				})
			}
		}
		const query = `SELECT age, income FROM customers WHERE id < 30 ORDER BY id`
		shows := [3]string{}
		watcher := proxies[1].connect(t, analyst)
		slowest := time.Duration(0)
		for n := range 30 {
			version := 1 + n%2
			e.exec(t, keeper, setVersion(version))
			got := mustText(t, keeper, query)
			if shows[version] == "" {
				shows[version] = got
			}
			if got != shows[version] || shows[1] == shows[2] {
				t.Errorf("version %d is not seen at once", version)
			}
			switched := time.Now()
			eventually(t, func() bool { return mustText(t, watcher, query) == shows[version] })
			slowest = max(slowest, time.Since(switched))
			time.Sleep(100 * time.Millisecond)
		}
		stop()
		all.Wait()
		t.Logf("%d readings; the other proxy was %s behind at most", count.Load(), slowest)
		if count.Load() < 60 {
			t.Errorf("%d readings", count.Load())
		}
		for i, p := range proxies {
			if !p.library.Loaded(v.spec(2)) || p.library.Loaded(v.spec(1)) {
				t.Errorf("proxy %d holds what is not active, or lacks what is", i)
			}
		}
	})
}

// TestVersionIsWarm: a version that becomes the default is loaded before the first statement asks for it, on a proxy that only hears of it too.
func TestVersionIsWarm(t *testing.T) {
	onEach(t, func(t *testing.T, e *env) {
		v := twoVersions(t, e)
		other := v.another(t, e)
		if !other.library.Loaded(v.spec(1)) { // since it started
			t.Error("the default version is not loaded")
		}
		const query = `SELECT income FROM customers WHERE id = 1`
		reader := other.connect(t, analyst)
		first := mustText(t, reader, query)
		e.exec(t, v.connect(t, v.keeper), setVersion(2))
		switched := time.Now()
		eventually(t, func() bool { return mustText(t, reader, query) != first })
		if behind := time.Since(switched); behind > 4*time.Second { // it is told, or looks every two seconds, and may take as long to load
			t.Errorf("the other proxy was %s behind", behind)
		}
		for _, p := range []*env{v.env, other} {
			eventually(t, func() bool { return p.library.Loaded(v.spec(2)) && !p.library.Loaded(v.spec(1)) })
		}
	})
}

// TestVersionInTransaction: a version is the default from COMMIT on, and not at all after ROLLBACK.
func TestVersionInTransaction(t *testing.T) {
	onEach(t, func(t *testing.T, e *env) {
		const query, active = `SELECT income FROM customers WHERE id = 1`, `SELECT version FROM scrim.encoder_versions WHERE active`
		v := twoVersions(t, e)
		keeper := v.connect(t, v.keeper)
		first := mustText(t, keeper, query)
		e.exec(t, keeper, `BEGIN`, setVersion(2))
		if got := mustText(t, keeper, query); got != first {
			t.Error("another version before COMMIT")
		}
		e.exec(t, keeper, `ROLLBACK`)
		if got := mustText(t, keeper, query); got != first {
			t.Error("another version after ROLLBACK")
		}
		e.exec(t, keeper, `BEGIN`, setVersion(2), `COMMIT`)
		if got := mustText(t, keeper, query); got == first {
			t.Error("the same version after COMMIT")
		}
		e.exec(t, keeper, `SELECT * FROM scrim.set_default_version('enc', 1)`) // by the function: the proxy is told
		eventually(t, func() bool { return mustText(t, keeper, query) == first })
		if got := mustText(t, keeper, `SHOW VERSIONS IN ENCODER enc`); !strings.HasPrefix(got, "enc|1|t|"+v.hashes[1]) || !strings.Contains(got, "enc|2|f|"+v.hashes[2]) {
			t.Error(got)
		}
		if got := mustText(t, keeper, active); got != "1\n" {
			t.Error(got)
		}
	})
}

// TestVersionRights: who may not drop an encoder may not set its version either.
func TestVersionRights(t *testing.T) {
	onEach(t, func(t *testing.T, e *env) {
		v := twoVersions(t, e)
		for _, trial := range []struct{ role, statement, code, says string }{
			{analyst, setVersion(2), "42501", "permission denied for encoders"},
			{guest, `SELECT scrim.set_default_version('enc', 2)`, "42501", "permission denied for encoders"},
			{olga, setVersion(2), "42501", "permission denied for encoder \"enc\""}, // an admin, but not its creator
			{v.keeper, setVersion(3), "42704", "Its versions are 1, 2."},
			{v.keeper, `ALTER ENCODER nobody SET DEFAULT_VERSION = 1`, "42704", "SHOW ENCODERS"},
			{v.keeper, `SELECT scrim.set_default_version(NULL, 1)`, "42704", ""},
			{v.keeper, `SELECT scrim.set_default_version('enc', NULL)`, "42704", "Its versions are 1, 2."},
		} {
			conn := v.connect(t, trial.role)
			_, err := text(t, conn, trial.statement)
			if code(err) != trial.code || !strings.Contains(explain(err), trial.says) {
				t.Errorf("%s: %s: %s", trial.role, trial.statement, explain(err))
			}
		}
		if got := mustText(t, e.admin(t), `SELECT default_version FROM scrim_state.encoders`); got != "1\n" {
			t.Error(got)
		}
	})
}

// TestVersionCannotBeLoaded: a version whose file is missing or damaged does not become the default by ALTER; where it is the default
// all the same, what needs it is refused, nothing else is, and going back mends it at once.
func TestVersionCannotBeLoaded(t *testing.T) {
	onEach(t, func(t *testing.T, e *env) {
		v := twoVersions(t, e)
		const query = `SELECT id, income FROM customers WHERE id < 30 ORDER BY id`
		staged := `SELECT count(*) FROM customers WHERE income > 0`
		keeper, reader, admin := v.connect(t, v.keeper), v.connect(t, analyst), e.admin(t)
		first, counted := mustText(t, reader, query), mustText(t, reader, staged)
		path := v.store.Path("enc", 2, v.hashes[2])
		good, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		for name, spoil := range map[string]func() error{
			"missing": func() error { return os.Remove(path) },
			"empty":   func() error { return os.WriteFile(path, nil, 0o600) },
			"another": func() error { return os.WriteFile(path, anotherModel(t, e.rt, 3), 0o600) },
			"cut":     func() error { return os.WriteFile(path, good[:len(good)/2], 0o600) },
		} {
			if err := spoil(); err != nil {
				t.Fatal(err)
			}
			check := func(conn *pgx.Conn, statement, says string) {
				t.Helper()
				if _, err := text(t, conn, statement); code(err) != "58000" || !strings.Contains(explain(err), says) || !strings.Contains(explain(err), "SET DEFAULT_VERSION goes back") {
					t.Errorf("%s: %s: %s", name, statement, explain(err))
				}
			}
			check(keeper, setVersion(2), `version 2 cannot be loaded, so the default version stays`)
			e.exec(t, keeper, `BEGIN`)
			check(keeper, setVersion(2), `version 2 cannot be loaded, so the default version stays`)
			if _, err := text(t, keeper, `SELECT 1`); code(err) != "25P02" {
				t.Errorf("%s: the transaction goes on: %v", name, err)
			}
			e.exec(t, keeper, `ROLLBACK`)
			if got := mustText(t, reader, query); got != first {
				t.Errorf("%s: %s", name, difference(first, got))
			}

			e.exec(t, reader, `BEGIN`, `DECLARE c CURSOR FOR `+query)
			e.exec(t, admin, `SELECT scrim.set_default_version('enc', 2)`) // around the proxy
			eventually(t, func() bool { return !v.library.Loaded(v.spec(1)) })
			if got := mustText(t, reader, `FETCH ALL FROM c`); got != first { // it holds the version it began with
				t.Errorf("%s: %s", name, difference(first, got))
			}
			e.exec(t, reader, `COMMIT`)
			for _, statement := range []string{query, staged, `BEGIN; ` + query, `COPY (` + query + `) TO STDOUT`} {
				check(reader, statement, `encoder "enc" version 2 cannot be loaded, so its masks cannot be computed`)
				if reader.PgConn().TxStatus() != 'I' {
					e.exec(t, reader, `ROLLBACK`)
				}
			}
			if got := mustText(t, reader, `SELECT count(*) FROM customers WHERE region = 'EU'`); got != "667\n" {
				t.Errorf("%s: %s", name, got)
			}
			if got := mustText(t, v.connect(t, risk), `SELECT count(income) FROM customers`); got == "0\n" {
				t.Errorf("%s: %s", name, got)
			}
			e.exec(t, keeper, setVersion(1))
			if got := mustText(t, keeper, query); got != first {
				t.Errorf("%s: %s", name, difference(first, got))
			}
			eventually(t, func() bool { got, err := text(t, reader, query); return err == nil && got == first })
			if got := mustText(t, reader, staged); got != counted {
				t.Errorf("%s: %s", name, got)
			}
		}
		if err := os.WriteFile(path, good, 0o600); err != nil { // it was put back
			t.Fatal(err)
		}
		e.exec(t, keeper, setVersion(2))
		if got := mustText(t, keeper, query); got == first {
			t.Error("version 2 shows what version 1 does")
		}
	})
}
