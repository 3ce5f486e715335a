package integration_test

import (
	"context"
	"fmt"
	"math"
	"os"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
)

// stressTime is how long TestStress takes: SCRIM_STRESS=60s for more.
func stressTime(t *testing.T) time.Duration {
	t.Helper()
	d, err := time.ParseDuration(os.Getenv("SCRIM_STRESS"))
	if err != nil {
		return 4 * time.Second
	}
	return d
}

// versions remembers the code of each raw value, by what is known of it: it must never have another.
type versions struct {
	mu    sync.Mutex
	codes map[int32]uint64
}

func (v *versions) see(version int32, code float64) bool {
	v.mu.Lock()
	defer v.mu.Unlock()
	bits := math.Float64bits(code)
	known, ok := v.codes[version%500]
	v.codes[version%500] = bits
	return !ok || known == bits
}

// TestStress reads masked columns, on the way out and in computations, while rows are updated, deleted and inserted, and
// the table is vacuumed, truncated, clustered and altered. The raw value follows from the version of the row, which an unmasked
// column tells: a code that belongs to another version than the one beside it is seen. Whatever does not succeed fails as PostgreSQL would let it.
func TestStress(t *testing.T) {
	onEach(t, func(t *testing.T, e *env) {
		admin := e.admin(t)
		e.trains(t)
		e.exec(t, admin, asOlga(
			`CREATE TABLE moving (id integer PRIMARY KEY, version integer NOT NULL, income double precision)`,
			`INSERT INTO moving SELECT i, i, i % 500 FROM generate_series(1, 500) i`, `GRANT SELECT ON moving TO analyst`)...)
		e.exec(t, e.connect(t, olga), `CREATE ENCODER moves ON moving (income) WITH (latent_dims = 2, epochs = 2, batch_size = 64) WAIT`,
			`CREATE MASKING POLICY moving ON moving (income) USING ENCODER moves PRESENT AS COMPONENTS`)
		ctx, stop := context.WithTimeout(t.Context(), stressTime(t))
		defer stop()
		// On a busy machine it takes longer until there are enough readings.
		var succeeded, failed atomic.Int64
		limit := time.Now().Add(time.Minute)
		goesOn := func() bool { return ctx.Err() == nil || succeeded.Load() < 50 && time.Now().Before(limit) }
		var all sync.WaitGroup
		var next atomic.Int32
		next.Store(1000)
		writer := func(pause time.Duration, statement func(n int) string) {
			conn := e.directly(t, olga)
			all.Go(func() {
				for n := 0; goesOn(); n++ {
					if _, err := conn.Exec(context.WithoutCancel(ctx), statement(n), pgx.QueryExecModeSimpleProtocol); err != nil && code(err) != "40P01" {
						t.Errorf("%s: %v", statement(n), err)
						return
					}
					time.Sleep(pause)
				}
			})
		}
		writer(2*time.Millisecond, func(n int) string {
			v := next.Add(1)
			return fmt.Sprintf(`UPDATE moving SET version = %d, income = %d WHERE id = %d`, v, v%500, 1+n*7%500)
		})
		writer(3*time.Millisecond, func(n int) string {
			v := next.Add(1)
			return fmt.Sprintf(`DELETE FROM moving WHERE id = %d; INSERT INTO moving VALUES (%d, %d, %d)`, 1+n*11%500, 1+n*11%500, v, v%500)
		})
		writer(150*time.Millisecond, func(n int) string {
			return []string{
				`VACUUM moving`, `VACUUM FULL moving`, `BEGIN; CREATE TEMP TABLE kept AS TABLE moving; TRUNCATE moving; INSERT INTO moving SELECT * FROM kept; DROP TABLE kept; COMMIT`,
				`CLUSTER moving USING moving_pkey`, fmt.Sprintf(`ALTER TABLE moving ALTER version SET STATISTICS %d`, 10+n%50), `ANALYZE moving`,
			}[n%6]
		})
		seen := &versions{codes: map[int32]uint64{}}
		reader := func(begin string, queries ...string) {
			conn := e.connect(t, analyst)
			all.Go(func() {
				for n := 0; goesOn(); n++ {
					err := readVersions(context.WithoutCancel(ctx), conn, begin, queries[n%len(queries)], func(version int32, code float64) {
						if !seen.see(version, code) {
							t.Errorf("version %d has another code in %s", version, queries[n%len(queries)])
						}
					})
					switch {
					case err == nil:
						succeeded.Add(1)
					case slices.Contains([]string{"40001", "40P01"}, code(err)), strings.Contains(err.Error(), "cached plan must not change"), strings.Contains(err.Error(), "was altered"):
						failed.Add(1)
					default:
						t.Errorf("%s %s: %v", begin, queries[n%len(queries)], explain(err))
						return
					}
				}
			})
		}
		deferred := `SELECT version, income FROM moving`
		staged := []string{
			`SELECT version, income FROM moving WHERE income IS NOT NULL`,
			`SELECT version, income FROM moving ORDER BY income`,
			`SELECT max(version), income FROM moving GROUP BY income`,
			`SELECT a.version, a.income FROM moving a JOIN moving b USING (income)`,
			`SELECT version, x FROM (SELECT version, income + 0 AS x FROM moving WHERE id < 100) s`,
		}
		reader("", deferred)
		reader("", staged...)
		reader("BEGIN", staged...)
		reader("BEGIN ISOLATION LEVEL REPEATABLE READ", append(staged, deferred)...)
		reader("BEGIN ISOLATION LEVEL SERIALIZABLE", staged[0])
		all.Wait()
		t.Logf("%d reads, %d refused by what happened meanwhile, %d versions", succeeded.Load(), failed.Load(), next.Load())
		if s, f := succeeded.Load(), failed.Load(); s < 50 || s < 2*f {
			t.Errorf("only %d reads succeeded, %d did not", s, f)
		}
		distinct := map[uint64]bool{}
		for _, c := range seen.codes {
			distinct[c] = true
		}
		if len(distinct) < len(seen.codes)*9/10 {
			t.Errorf("%d values have %d codes: they tell nothing", len(seen.codes), len(distinct))
		}
	})
}

// readVersions runs a query once, twice in a block, and passes on what it shows.
func readVersions(ctx context.Context, conn *pgx.Conn, begin, query string, see func(int32, float64)) error {
	once := func() error {
		rows, err := conn.Query(ctx, query)
		if err != nil {
			return err
		}
		var version int32
		var code float64
		_, err = pgx.ForEachRow(rows, []any{&version, &code}, func() error { see(version, code); return nil })
		return err
	}
	if begin == "" {
		return once()
	}
	if _, err := conn.Exec(ctx, begin); err != nil {
		return err
	}
	err := once()
	if err == nil {
		err = once()
	}
	if _, end := conn.Exec(ctx, "COMMIT"); err == nil && end != nil && !strings.Contains(end.Error(), "rollback") {
		err = end
	}
	return err
}
