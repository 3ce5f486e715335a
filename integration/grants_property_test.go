package integration_test

import (
	"context"
	"fmt"
	"maps"
	"math/rand/v2"
	"os"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/jackc/pgx/v5"
)

// walkedGrants is a table whose policies are changed at random, with what they should be.
type walkedGrants struct {
	e            *env
	owner, admin *pgx.Conn
	random       *rand.Rand
	roles        []string                   // beside PUBLIC
	base         map[string]map[string]bool // role and column: what could be read before the first policy
	policies     map[string]walkedPolicy
}

type walkedPolicy struct{ columns, except []string }

var walkedColumns = []string{"id", "a", "b", "c", "d", "e"}

// TestGrantsAlongTheWay: after any sequence of CREATE, OR REPLACE, DROP, SET EXCEPT, DISABLE, UNSET and suspend, of several policies with other exempt roles each, every role
// reads what it should and nothing else: of a masked column those that its own policy exempts, of others those that read it before and those that any policy exempts. A masked
// view gives nobody a column that the table does not. (SCRIM_FUZZ=20000 for more steps; the seed is printed.)
func TestGrantsAlongTheWay(t *testing.T) {
	steps := 40
	if n, err := strconv.Atoi(os.Getenv("SCRIM_FUZZ")); err == nil {
		steps = n / 20
	}
	onEach(t, func(t *testing.T, e *env) {
		seed := rand.Uint64()
		t.Logf("seed %d", seed)
		w := &walkedGrants{e: e, owner: e.directly(t, olga), admin: e.admin(t), random: rand.New(rand.NewPCG(seed, 0)), policies: map[string]walkedPolicy{}}
		w.setUp(t)
		w.base = w.readable(t)
		var walked []string
		for range steps {
			statement, after := w.step()
			walked = append(walked, statement)
			w.take(t, statement, after)
			w.check(t)
			if t.Failed() {
				t.Fatalf("after:\n%s", strings.Join(walked, ";\n"))
			}
		}
		for name := range maps.Clone(w.policies) {
			w.take(t, `SELECT scrim.drop_masking_policy('`+name+`', 'walked')`, nil)
		}
		w.policies = map[string]walkedPolicy{}
		w.check(t)
	})
}

func (w *walkedGrants) setUp(t *testing.T) {
	t.Helper()
	w.e.exec(t, w.admin, asOlga(`CREATE TABLE walked (id integer PRIMARY KEY, a text, b text, c text, d text, e text)`)...)
	for _, name := range []string{"ann", "bob", "cid", "dot", "team"} {
		w.roles = append(w.roles, name+"_"+w.e.database)
		w.e.exec(t, w.admin, `CREATE ROLE `+w.roles[len(w.roles)-1])
	}
	t.Cleanup(func() {
		list := strings.Join(w.roles, ", ")
		if err := w.e.superuser(context.Background(), w.e.database, `DROP OWNED BY `+list, `DROP ROLE `+list); err != nil {
			t.Error(err)
		}
	})
	ann, bob, cid, team := w.roles[0], w.roles[1], w.roles[2], w.roles[4]
	w.e.exec(t, w.admin, `GRANT `+team+` TO `+bob)
	grants := []string{
		`GRANT SELECT ON walked TO ` + ann + ` WITH GRANT OPTION`, `GRANT SELECT (id, a, b) ON walked TO ` + cid, `GRANT SELECT ON walked TO ` + team, `GRANT SELECT (id, c) ON walked TO PUBLIC`,
		`GRANT SELECT (d) ON walked TO ` + bob + ` WITH GRANT OPTION`, `GRANT SELECT (ctid, e) ON walked TO ` + team,
	}
	for _, g := range grants {
		if w.random.IntN(3) > 0 {
			w.e.exec(t, w.admin, asOlga(g)...)
			if strings.Contains(g, "OPTION") && strings.Contains(g, ann) {
				w.e.exec(t, w.admin, as(ann, `GRANT SELECT (a, d) ON walked TO `+cid, `GRANT SELECT ON walked TO `+team)...)
			}
		}
	}
}

func (w *walkedGrants) some(of []string, least int) []string {
	list := slices.Clone(of)
	w.random.Shuffle(len(list), func(i, j int) { list[i], list[j] = list[j], list[i] })
	return list[:least+w.random.IntN(3)]
}

func (w *walkedGrants) name() string { return fmt.Sprintf("p%d", w.random.IntN(4)) }

func braced(list []string) string { return `'{` + strings.Join(list, ",") + `}'` }

// step chooses what to do, and says what should come of it; nil if nothing does.
func (w *walkedGrants) step() (statement string, after map[string]walkedPolicy) {
	after = maps.Clone(w.policies)
	name := w.name()
	p, there := w.policies[name]
	switch choice := w.random.IntN(10); {
	case !there || choice < 3:
		p.except = w.some(w.roles, 0)
		p.columns = slices.DeleteFunc(w.some(walkedColumns, 1), func(c string) bool {
			return slices.ContainsFunc(slices.Collect(maps.Keys(w.policies)), func(n string) bool { return n != name && slices.Contains(w.policies[n].columns, c) })
		})
		if len(p.columns) == 0 {
			return `SELECT 1`, nil
		}
		after[name] = p
		return fmt.Sprintf(`SELECT scrim.create_sql_masking_policy('%s', 'walked', %s, %s, 'NULL', or_replace => true)`, name, braced(p.columns), braced(p.except)), after
	case choice < 5:
		delete(after, name)
		return `SELECT scrim.drop_masking_policy('` + name + `', 'walked')`, after
	case choice < 7:
		p.except = w.some(w.roles, 0)
		after[name] = p
		return `SELECT scrim.set_masking_policy_except('` + name + `', 'walked', ` + braced(p.except) + `)`, after
	case choice < 8:
		return fmt.Sprintf(`SELECT scrim.enable_masking_policy('%s', 'walked', %t)`, name, w.random.IntN(2) == 0), nil
	case choice < 9:
		column := p.columns[w.random.IntN(len(p.columns))]
		p.columns = slices.DeleteFunc(slices.Clone(p.columns), func(c string) bool { return c == column })
		if after[name] = p; len(p.columns) == 0 {
			delete(after, name)
		}
		return `SELECT scrim.unset_column_masking_policy('walked', '` + column + `')`, after
	}
	return `SELECT scrim.suspend('walked'); SELECT scrim.resume('walked')`, nil
}

// take does it, or does it and takes it back.
func (w *walkedGrants) take(t *testing.T, statement string, after map[string]walkedPolicy) {
	t.Helper()
	if w.random.IntN(6) == 0 && after != nil {
		w.e.exec(t, w.owner, statement+`; ROLLBACK`)
		return
	}
	w.e.exec(t, w.owner, statement)
	if after != nil {
		w.policies = after
	}
}

func (w *walkedGrants) readable(t *testing.T) map[string]map[string]bool {
	t.Helper()
	found := map[string]map[string]bool{}
	for line := range strings.Lines(mustText(t, w.admin, `SELECT coalesce(r.rolname, 'PUBLIC'), a.attname, has_column_privilege(x, a.attrelid, a.attnum, 'SELECT') FROM unnest(array_append(`+braced(w.roles)+`::regrole[]::oid[], 0::oid)) x
			LEFT JOIN pg_roles r ON r.oid = x, pg_attribute a WHERE a.attrelid = 'walked'::regclass AND a.attnum > 0`)) {
		f := strings.Split(strings.TrimSpace(line), "|")
		if found[f[0]] == nil {
			found[f[0]] = map[string]bool{}
		}
		found[f[0]][f[1]] = f[2] == "t"
	}
	return found
}

// exempts tells whether a policy excepts a role, or a group of its.
func (w *walkedGrants) exempts(p walkedPolicy, role string) bool {
	return slices.Contains(p.except, role) || role == w.roles[1] && slices.Contains(p.except, w.roles[4])
}

func (w *walkedGrants) check(t *testing.T) {
	t.Helper()
	now := w.readable(t)
	for role, columns := range now {
		for column, reads := range columns {
			want := w.base[role][column]
			for _, p := range w.policies {
				want = want || w.exempts(p, role)
			}
			for _, p := range w.policies {
				if slices.Contains(p.columns, column) {
					want = w.exempts(p, role)
				}
			}
			if reads != want {
				t.Errorf("%s reads %s: %t", role, column, reads)
			}
		}
	}
	// What a masked view shows: open columns are the table's, so the table must say so too; masks are those of columns that the role could read.
	for line := range strings.Lines(mustText(t, w.admin, `SELECT coalesce(r.rolname, 'PUBLIC'), v.attname FROM scrim_state.protections p JOIN pg_attribute v ON v.attrelid = p.masked_view AND v.attnum > 0,
			unnest(array_append(`+braced(w.roles)+`::regrole[]::oid[], 0::oid)) x LEFT JOIN pg_roles r ON r.oid = x WHERE p.relation = 'walked'::regclass AND has_column_privilege(x, v.attrelid, v.attnum, 'SELECT')`)) {
		role, column, _ := strings.Cut(strings.TrimSpace(line), "|")
		masked := slices.ContainsFunc(slices.Collect(maps.Values(w.policies)), func(p walkedPolicy) bool { return slices.Contains(p.columns, column) })
		if slices.Contains(walkedColumns, column) && (masked && !w.base[role][column] || !masked && !now[role][column]) {
			t.Errorf("%s reads %s in the masked view", role, column)
		}
	}
}
