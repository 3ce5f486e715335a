package integration_test

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
)

// changesSQL are the entries of changes, without what differs from run to run.
const changesSQL = `SELECT tag, role, object, coalesce(relation, ''), array_to_string(columns, ',') FROM scrim_state.audit WHERE kind = 'change' AND id > %d ORDER BY id`

// audited returns what a query says of the audit, once it says something else than what it was told not to be, or time is up: proxies write once a second.
func audited(t *testing.T, conn *pgx.Conn, query, want string) {
	t.Helper()
	got := ""
	for deadline := time.Now().Add(15 * time.Second); time.Now().Before(deadline); time.Sleep(50 * time.Millisecond) {
		if got = mustText(t, conn, query); got == want {
			return
		}
	}
	t.Errorf("%s:\n%s", query, difference(want, got))
}

// auditsAll is onEachProtected with everything audited.
func auditsAll(t *testing.T, e *env) *pgx.Conn {
	t.Helper()
	admin := e.admin(t)
	e.exec(t, e.connect(t, olga), `SELECT scrim.set_audit('all')`)
	if _, err := e.catalog.Reload(t.Context()); err != nil {
		t.Fatal(err)
	}
	return admin
}

// TestAuditChanges: each change of each kind is one entry, of who made it, through the proxy or not, and none if it is rolled back or comes to nothing.
func TestAuditChanges(t *testing.T) {
	onEach(t, func(t *testing.T, e *env) {
		e.trains(t)
		admin := e.admin(t)
		keeper := e.server.Superuser()
		through, directly := e.connect(t, olga), e.directly(t, olga)
		for _, c := range []struct {
			statement, want string
			around          bool // also when made around the proxy
		}{
			{testPolicy, "CREATE MASKING POLICY|olga|p|public.customers|age,income,score\n", false},
			{`ALTER MASKING POLICY p ON customers DISABLE`, "ALTER MASKING POLICY|olga|p|public.customers|age,income,score\n", false},
			{`SELECT scrim.enable_masking_policy('p', 'customers')`, "ALTER MASKING POLICY|olga|p|public.customers|age,income,score\n", true},
			{`ALTER MASKING POLICY p ON customers RENAME TO q`, "ALTER MASKING POLICY|olga|p|public.customers|age,income,score\n", false},
			{`ALTER MASKING POLICY q ON customers SET EXCEPT (risk, guest)`, "ALTER MASKING POLICY|olga|q|public.customers|age,income,score\n", false},
			{`CREATE OR REPLACE MASKING POLICY q ON customers (age, income) EXCEPT risk USING ENCODER enc`, "ALTER MASKING POLICY|olga|q|public.customers|age,income\n", false},
			{`CREATE OR REPLACE MASKING POLICY q ON customers (age, income) EXCEPT risk USING ENCODER enc`, "", false},
			{`ALTER MASKING POLICY q ON customers ENABLE`, "", false},
			{`SELECT scrim.suspend('customers')`, "ALTER MASKING POLICY|olga|q|public.customers|age,income\n", true},
			{`SELECT scrim.resume('customers')`, "ALTER MASKING POLICY|olga|q|public.customers|age,income\n", true},
			{`ALTER MASKING POLICY q ON customers ROTATE KEY`, "ROTATE KEY|olga|scrim_owner_of_olga||∅\n", false},
			{`DROP MASKING POLICY q ON customers`, "DROP MASKING POLICY|olga|q|public.customers|age,income\n", false},
			{`DROP MASKING POLICY IF EXISTS q ON customers`, "", false},
			{`SELECT scrim.protect_column('customers', 'age', 'enc', '{risk}')`, "CREATE MASKING POLICY|olga|protected|public.customers|age\n", true},
			{`SELECT scrim.protect_column('customers', 'income', 'enc')`, "ALTER MASKING POLICY|olga|protected|public.customers|age,income\n", true},
			{`SELECT scrim.unprotect_column('customers', 'age')`, "ALTER MASKING POLICY|olga|protected|public.customers|income\n", true},
			{`SELECT scrim.unprotect_column('customers', 'income')`, "DROP MASKING POLICY|olga|protected|public.customers|income\n", true},
			{`CREATE ENCODER more ON customers (age, score) PASSTHROUGH (region) WITH (latent_dims = 2, epochs = 1, batch_size = 128) WAIT`,
				"CREATE ENCODER|olga|more||∅\nALTER ENCODER|" + keeper + "|more||∅\n", false},
			{`TRAIN ENCODER more WAIT`, "TRAIN ENCODER|olga|more||∅\nALTER ENCODER|" + keeper + "|more||∅\n", false},
			{`ALTER ENCODER more SET DEFAULT_VERSION = 1`, "ALTER ENCODER|olga|more||∅\n", false},
			{`ALTER ENCODER more SET DEFAULT_VERSION = 1`, "", false},
			{`ALTER ENCODER more SET SCHEDULE '300 days' ROW GROWTH 1000000`, "ALTER ENCODER|olga|more||∅\n", false},
			{`ALTER ENCODER more UNSET SCHEDULE`, "ALTER ENCODER|olga|more||∅\n", false},
			{`CREATE FEATURE VIEW traits FOR ENCODER more`, "CREATE FEATURE VIEW|olga|traits|scrim_runtime.traits|∅\n", false},
			{`DROP FEATURE VIEW traits`, "DROP FEATURE VIEW|olga|traits||∅\n", false},
			{`DROP ENCODER more`, "DROP ENCODER|olga|more||∅\n", false},
			{`SELECT scrim.set_audit('all', '30 days')`, "SET AUDIT|olga|audit||∅\n", true},
			{`SELECT scrim.set_audit('changes')`, "SET AUDIT|olga|audit||∅\n", true},
		} {
			want := strings.ReplaceAll(c.want, "scrim_owner_of_olga", keyName(t, admin))
			last := lastEntry(t, admin)
			conns := []*pgx.Conn{through}
			if c.around {
				conns[0] = directly
			}
			if !strings.HasSuffix(c.statement, "WAIT") {
				e.exec(t, conns[0], `BEGIN`, c.statement, `ROLLBACK`)
				if got := mustText(t, admin, fmt.Sprintf(changesSQL, last)); got != "" {
					t.Errorf("%s, rolled back:\n%s", c.statement, got)
				}
			}
			e.exec(t, conns[0], c.statement)
			if got := mustText(t, admin, fmt.Sprintf(changesSQL, last)); got != want {
				t.Errorf("%s:\n%s", c.statement, difference(want, got))
			}
		}
	})
}

// keyName is what the audit calls olga's key.
func keyName(t *testing.T, admin *pgx.Conn) string {
	t.Helper()
	return strings.TrimSpace(mustText(t, admin, `SELECT 'olga'`))
}

func lastEntry(t *testing.T, admin *pgx.Conn) (id int) {
	t.Helper()
	if err := admin.QueryRow(t.Context(), `SELECT coalesce(max(id), 0) FROM scrim_state.audit`).Scan(&id); err != nil {
		t.Fatal(err)
	}
	return id
}
