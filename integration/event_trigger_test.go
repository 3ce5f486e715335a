package integration_test

import (
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
)

// listening connects directly as a role, and returns what the server warned of since the last call.
func (e *env) listening(t *testing.T, dsn string) (conn *pgx.Conn, heard func() string) {
	t.Helper()
	cfg, err := pgx.ParseConfig(dsn)
	if err != nil {
		t.Fatal(err)
	}
	var said strings.Builder
	cfg.OnNotice = func(_ *pgconn.PgConn, n *pgconn.Notice) {
		said.WriteString(n.Severity + ": " + n.Message + "\n" + n.Detail + "\n")
	}
	conn, err = pgx.ConnectConfig(t.Context(), cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close(t.Context()) })
	return conn, func() string { defer said.Reset(); return said.String() }
}

// TestRenamed: a protected table, its columns and its schema may be renamed; proxies follow, with the event trigger at once, without it a little later.
func TestRenamed(t *testing.T) {
	onEachProtected(t, func(t *testing.T, e *env) {
		admin, owner, reader := e.admin(t), e.directly(t, olga), e.connect(t, analyst)
		want := mustText(t, reader, `SELECT id, income, age FROM customers WHERE id = 7`)
		e.exec(t, admin, `CREATE SCHEMA other AUTHORIZATION olga`, `GRANT USAGE ON SCHEMA other TO analyst`)
		for i, c := range []struct {
			rename, query string
			atOnce        bool // by a name that is known
		}{
			{`ALTER TABLE customers RENAME TO clients`, `SELECT id, income, age FROM clients WHERE id = 7`, false},
			{`ALTER TABLE clients RENAME income TO salary`, `SELECT id, salary, age FROM clients WHERE id = 7`, true},
			{`ALTER TABLE clients SET SCHEMA other`, `SELECT id, salary, age FROM other.clients WHERE id = 7`, true},
			{`ALTER TABLE other.clients RENAME TO customers`, `SELECT id, salary, age FROM other.customers WHERE id = 7`, true},
			{`ALTER EVENT TRIGGER scrim_ddl DISABLE`, `SELECT id, salary, age FROM other.customers WHERE id = 7`, true},
			{`ALTER TABLE other.customers RENAME TO people`, `SELECT id, salary, age FROM other.people WHERE id = 7`, false},
			{`ALTER TABLE other.people RENAME TO clients`, `SELECT id, salary, age FROM other.clients WHERE id = 7`, true},
		} {
			if strings.Contains(c.rename, "EVENT") {
				e.exec(t, admin, c.rename)
			} else {
				e.exec(t, owner, c.rename)
			}
			began := time.Now()
			got, err := text(t, reader, c.query)
			for ; !c.atOnce && code(err) == "42501" && time.Since(began) < 20*time.Second; got, err = text(t, reader, c.query) {
				time.Sleep(20 * time.Millisecond)
			}
			if got != want {
				t.Errorf("%d: %s: %s %s, want %s", i, c.query, got, explain(err), want)
			}
		}
	})
}

// TestDDLWarns: whoever opens a way around a mask by DDL, and may know of it, hears so from PostgreSQL at once.
func TestDDLWarns(t *testing.T) {
	t.Parallel()
	onServers(t, func(t *testing.T, w *world) {
		e := w.bare(t)
		e.exec(t, e.admin(t), `GRANT CREATE ON SCHEMA public TO risk, analyst`,
			`SELECT scrim.create_masking_policy('p', 'customers', '{age,income,score}', '{risk}', 'enc')`)
		cases := []struct {
			role       string
			statements []string
			want       string // in the warning of the last statement, "" for none
		}{
			{olga, []string{`GRANT SELECT ON customers TO guest`}, "privilege guest"},
			{olga, []string{`GRANT SELECT (income) ON customers TO analyst`}, "privilege analyst: analyst may still SELECT column income"},
			{olga, []string{`SAVEPOINT s`, `GRANT SELECT (income) ON customers TO analyst`}, "privilege analyst"},
			{olga, []string{`CREATE VIEW leak AS SELECT income FROM customers`, `CREATE VIEW above AS SELECT * FROM leak`, `GRANT SELECT ON above TO analyst`}, "view public.above"},
			{olga, []string{`CREATE VIEW leak AS SELECT id FROM customers`, `GRANT SELECT ON leak TO analyst`, `CREATE OR REPLACE VIEW leak AS SELECT id, income FROM customers`}, "view public.leak"},
			{olga, []string{`CREATE MATERIALIZED VIEW leak AS SELECT income FROM customers`, `GRANT SELECT (income) ON leak TO analyst`}, "materialized view public.leak"},
			{risk, []string{`CREATE VIEW leak AS SELECT income FROM customers`, `GRANT SELECT ON leak TO analyst`}, "view public.leak"},
			{olga, []string{`CREATE INDEX leak ON customers (income) INCLUDE (id)`}, "index public.leak"},
			{olga, []string{`CREATE FUNCTION leak() RETURNS numeric LANGUAGE sql SECURITY DEFINER AS 'SELECT max(income) FROM customers'`}, "function public.leak()"},
			{
				olga, []string{
					`CREATE FUNCTION leak() RETURNS numeric LANGUAGE sql SECURITY DEFINER AS 'SELECT max(income) FROM customers'`, `REVOKE EXECUTE ON FUNCTION leak() FROM PUBLIC`,
					`GRANT EXECUTE ON FUNCTION leak() TO analyst`,
				}, "function public.leak()",
			},
			{olga, []string{`CREATE FUNCTION tell() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NEW; END'`, `GRANT DELETE ON customers TO analyst`, `CREATE TRIGGER leak BEFORE DELETE ON customers FOR EACH ROW EXECUTE FUNCTION tell()`}, "trigger leak"},
			{olga, []string{`CREATE TABLE other (i int)`, `CREATE RULE leak AS ON INSERT TO other DO ALSO SELECT income FROM customers`}, "rule public.other"},
			{olga, []string{`ALTER TABLE customers ADD leak numeric GENERATED ALWAYS AS (income * 2) STORED`}, "generated column leak"},
			{olga, []string{`CREATE TABLE child () INHERITS (customers)`}, "masked view children"},
			{olga, []string{`ALTER TABLE customers ENABLE ROW LEVEL SECURITY`}, "masked view row security"},
			{olga, []string{`ALTER TABLE customers DROP COLUMN region CASCADE`}, "masked view missing"},
			{w.server.Superuser(), []string{`CREATE PUBLICATION leak FOR TABLE customers`}, "publication leak"},
			{w.server.Superuser(), []string{`CREATE PUBLICATION leak FOR ALL TABLES`}, "publication leak"},
			{w.server.Superuser(), []string{`CREATE PUBLICATION leak`, `ALTER PUBLICATION leak ADD TABLE customers`}, "publication leak"},
			{w.server.Superuser(), []string{`ALTER TABLE customers OWNER TO risk`}, "masked view owner"},
			// It is quiet where nothing is opened, while policies change, and before those who must not know.
			{olga, []string{`GRANT SELECT (id) ON customers TO guest`}, ""},
			{olga, []string{`GRANT SELECT ON orders TO guest`}, ""},
			{olga, []string{`REVOKE SELECT (id) ON customers FROM analyst`}, ""},
			{olga, []string{`CREATE VIEW fine AS SELECT id, region FROM customers`}, ""},
			{olga, []string{`CREATE VIEW unread AS SELECT * FROM customers`}, ""},
			{olga, []string{`CREATE TABLE fine (LIKE customers)`}, ""},
			{olga, []string{`ALTER TABLE customers ADD later text`}, ""},
			{olga, []string{`CREATE INDEX fine ON customers (income)`}, ""},
			{olga, []string{`SELECT scrim.set_masking_policy_except('p', 'customers', '{guest}')`}, ""},
			{olga, []string{`SELECT scrim.suspend('customers')`, `ALTER TABLE customers ENABLE ROW LEVEL SECURITY`}, ""},
			{olga, []string{`SELECT scrim.drop_masking_policy('p', 'customers')`, `GRANT SELECT ON customers TO guest`}, ""},
			{analyst, []string{`CREATE VIEW mine AS SELECT id FROM customers`}, ""},
		}
		for _, c := range cases {
			dsn := e.directDSN(c.role)
			if c.role == w.server.Superuser() {
				dsn = w.server.DSN(c.role, w.server.Password(), e.database)
			}
			conn, heard := e.listening(t, dsn)
			e.exec(t, conn, `BEGIN`)
			for _, s := range c.statements {
				heard()
				e.exec(t, conn, s)
			}
			got := e.aboutUs(heard())
			if !strings.Contains(got, c.want) || c.want == "" && got != "" || c.want != "" && !strings.Contains(got, `WARNING: masking policy "p" on public.customers does not hold`) {
				t.Errorf("as %s: %q: heard %q, want %q", c.role, c.statements, got, c.want)
			}
			e.exec(t, conn, `ROLLBACK`)
		}
		// A masked role hears nothing of a way that others opened.
		e.exec(t, e.directly(t, olga), `GRANT SELECT ON customers TO guest`)
		conn, heard := e.listening(t, e.directDSN(analyst))
		e.exec(t, conn, `CREATE VIEW mine AS SELECT id FROM customers`)
		if got := heard(); got != "" {
			t.Errorf("the analyst hears %s", got)
		}
	})
}

// aboutUs leaves out what is said of roles of other tests.
func (e *env) aboutUs(heard string) string {
	var kept []string
	for line := range strings.Lines(heard) {
		if role := rolesOfTests.FindString(line); role == "" || strings.HasSuffix(role, e.database) {
			kept = append(kept, line)
		}
	}
	if len(kept) < 2 || len(kept) == 2 && strings.TrimSpace(kept[1]) == "" { // the headline
		return ""
	}
	return strings.Join(kept, "")
}

// TestDDLGoesOn: nothing that is wrong with Scrim makes anybody's DDL fail, or wait for long.
func TestDDLGoesOn(t *testing.T) {
	onEach(t, func(t *testing.T, e *env) {
		admin := e.admin(t)
		e.exec(t, admin, append(asOlga(`CREATE TABLE other AS SELECT * FROM customers`, `SELECT scrim.create_masking_policy('q', 'other', '{age}', '{risk}', 'enc')`),
			`SELECT scrim.create_masking_policy('p', 'customers', '{age,income,score}', '{risk}', 'enc')`)...)
		conn, heard := e.listening(t, e.directDSN(olga))

		// Somebody changes policies, and does not end his transaction.
		began := time.Now()
		e.exec(t, admin, `BEGIN`, `SELECT scrim.rename_masking_policy('p', 'customers', 'p2')`)
		e.exec(t, conn, `ALTER TABLE other ADD later text`, `DROP TABLE other CASCADE`)
		if took := time.Since(began); took > 20*time.Second {
			t.Errorf("it waited for %v", took)
		}
		e.exec(t, admin, `COMMIT`)
		if got := mustText(t, admin, `SELECT count(*) FROM scrim_state.policies`); got != "2\n" {
			t.Errorf("%s policies: the change was not in the way", got)
		}
		e.exec(t, conn, `SELECT scrim.rename_masking_policy('p2', 'customers', 'p')`) // which tidies up
		if got := mustText(t, admin, `SELECT name FROM scrim_state.policies`); got != "p\n" {
			t.Errorf("policies: %s", got)
		}

		e.exec(t, admin, `ALTER FUNCTION scrim.outsiders(oid, oid[]) RENAME TO insiders`)
		heard()
		e.exec(t, conn, `ALTER TABLE customers ADD later text`)
		if got := heard(); !strings.Contains(got, "could not look at what this statement changed (42883)") {
			t.Errorf("heard %q", got)
		}
	})
}

// TestDropped: with its table a policy goes, and what is left of its masked view.
func TestDropped(t *testing.T) {
	onEach(t, func(t *testing.T, e *env) {
		admin := e.admin(t)
		const left = `SELECT (SELECT count(*) FROM scrim_state.policies), (SELECT count(*) FROM scrim_state.protection_grants), (SELECT count(*) FROM scrim_state.replaced_views),
			(SELECT count(*) FROM pg_class WHERE relnamespace = 'scrim_runtime'::regnamespace AND relkind = 'v')`
		setup := append([]string{`CREATE SCHEMA shop AUTHORIZATION olga`, `GRANT USAGE ON SCHEMA shop TO olga`}, asOlga(
			`CREATE TABLE shop.parts (LIKE customers) PARTITION BY RANGE (id)`, `CREATE TABLE shop.part PARTITION OF shop.parts DEFAULT`, `GRANT SELECT ON shop.parts TO analyst`,
			`CREATE VIEW shop.seen AS SELECT id, age, income, score, vip FROM shop.parts`, `GRANT SELECT ON shop.seen TO analyst`,
			`SELECT scrim.create_masking_policy('p', 'shop.parts', '{age}', '{risk}', 'enc', mend_views => true)`,
			`SELECT scrim.set_masking_policy_except('p', 'shop.parts', '{}')`)...)
		for _, state := range []string{`SELECT 1`, `SELECT scrim.enable_masking_policy('p', 'shop.parts', false)`, `SELECT scrim.suspend('shop.parts')`} {
			for _, drop := range []string{`DROP TABLE shop.parts CASCADE`, `DROP SCHEMA shop CASCADE`} {
				e.exec(t, admin, setup...)
				e.exec(t, admin, asOlga(state)...)
				before := mustText(t, admin, left)
				e.exec(t, admin, `BEGIN`, drop)
				if got := mustText(t, admin, left); got != "0|0|0|0\n" {
					t.Errorf("after %s and %s there are policies, grants, replaced and masked views: %s (before: %s)", state, drop, got, before)
				}
				e.exec(t, admin, `ROLLBACK`)
				if got := mustText(t, admin, left); got != before {
					t.Errorf("after ROLLBACK: %s", got)
				}
				e.exec(t, admin, drop, `DROP SCHEMA IF EXISTS shop CASCADE`)
				if got := mustText(t, admin, left); got != "0|0|0|0\n" {
					t.Errorf("after %s and %s there are policies, grants, replaced and masked views: %s", state, drop, got)
				}
			}
		}
	})
}
