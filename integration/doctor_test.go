package integration_test

import (
	"fmt"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/jackc/pgx/v5"

	"github.com/scrimdb/scrim/catalog"
)

// later are openings besides those that CREATE MASKING POLICY is tested with: they come when the policy is there. %s is a role of the test's.
var later = []struct {
	plant []string
	want  string // kind and object
	words bool   // no statement closes it, and the remedy says so in words
	since int    // PostgreSQL
}{
	{plant: asOlga(`GRANT SELECT ON customers TO guest`), want: "error privilege guest"},
	{plant: asOlga(`GRANT SELECT ON customers TO PUBLIC`), want: "error privilege PUBLIC"},
	{plant: asOlga(`GRANT SELECT (income) ON customers TO analyst`), want: "error privilege analyst"},
	{plant: asOlga(`GRANT REFERENCES (income), TRIGGER ON customers TO analyst`), want: "error privilege analyst"},
	{plant: asOlga(`GRANT MAINTAIN ON customers TO analyst`), want: "error privilege analyst", since: 17},
	{plant: append(asOlga(`GRANT SELECT ON customers TO analyst WITH GRANT OPTION`), `SET SESSION AUTHORIZATION analyst`, `GRANT SELECT (income) ON customers TO guest`, `RESET SESSION AUTHORIZATION`), want: "error privilege guest"},
	{plant: []string{`CREATE ROLE team_%s`, `GRANT SELECT ON customers TO team_%[1]s`, `GRANT team_%[1]s TO %[1]s`}, want: "error privilege %s"},
	{plant: []string{`CREATE ROLE team_%s`, `GRANT pg_read_all_data TO team_%[1]s`, `GRANT team_%[1]s TO %[1]s`}, want: "error privilege team_%s"},
	{plant: []string{`CREATE ROLE team_%s`, `ALTER ROLE %[1]s NOINHERIT`, `GRANT olga TO team_%[1]s`, `GRANT team_%[1]s TO %[1]s`}, want: "error membership %s"},
	{plant: []string{`DO $$ BEGIN EXECUTE 'GRANT ' || (SELECT role::regrole FROM scrim_state.view_owners) || ' TO %s'; END $$`}, want: "error role of Scrim's scrim_owner"},
	{plant: []string{`GRANT pg_write_all_data TO %s`}, want: "error privilege %s"},
	{plant: []string{`ALTER ROLE scrim_user LOGIN CREATEDB`}, want: "error role of Scrim's scrim_user"},
	{plant: []string{`GRANT risk TO scrim_user`}, want: "error role of Scrim's scrim_user"},
	{plant: []string{`ALTER ROLE %s SUPERUSER`}, want: "warning superuser %s"},
	{plant: []string{`ALTER ROLE %s BYPASSRLS`}, want: "warning BYPASSRLS %s"},
	{plant: []string{`GRANT SELECT ON scrim_state.retired_keys TO analyst`}, want: "error state scrim_state.retired_keys"},
	{plant: []string{`GRANT USAGE ON SCHEMA scrim_state TO analyst`}, want: "error schema scrim_state"},
	{plant: []string{`GRANT CREATE ON SCHEMA scrim_runtime TO PUBLIC`}, want: "error schema scrim_runtime"},
	{plant: []string{`CREATE FUNCTION scrim_runtime.fake() RETURNS int LANGUAGE sql AS 'SELECT 1'`, `ALTER FUNCTION scrim_runtime.fake() OWNER TO %s`}, want: "error foreign object scrim_runtime.fake()"},
	{plant: []string{`CREATE VIEW scrim_runtime.fake AS SELECT income FROM customers`}, want: "error foreign object scrim_runtime.fake"},
	{plant: []string{`CREATE PUBLICATION leak FOR TABLE scrim_state.retired_keys`}, want: "error publication leak"},
	{plant: []string{`CREATE PUBLICATION leak FOR TABLES IN SCHEMA public`}, want: "error publication leak", since: 15},
	{plant: []string{`DO $$ BEGIN EXECUTE 'ALTER VIEW ' || (SELECT masked_view::regclass FROM scrim_state.protections) || ' OWNER TO olga'; END $$`}, want: "error masked view definition", words: true},
	{plant: []string{`DO $$ BEGIN EXECUTE 'DROP VIEW ' || (SELECT masked_view::regclass FROM scrim_state.protections); END $$`}, want: "warning masked view missing", words: true},
	{plant: []string{`ALTER TABLE customers OWNER TO risk`}, want: "warning masked view owner", words: true},
	{plant: asOlga(`ALTER TABLE customers ENABLE ROW LEVEL SECURITY`), want: "warning masked view row security", words: true},
	{plant: asOlga(`CREATE TABLE child () INHERITS (customers)`), want: "warning masked view children", words: true},
	{
		plant: asOlga(`CREATE TABLE secured AS SELECT * FROM customers`, `GRANT SELECT ON secured TO analyst`, `ALTER TABLE secured ENABLE ROW LEVEL SECURITY`,
			`SELECT scrim.create_masking_policy('q', 'secured', '{age}', '{risk}', 'enc')`, `ALTER TABLE secured DISABLE ROW LEVEL SECURITY`), want: "warning row security public.secured",
	},
	{
		plant: asOlga(`CREATE TABLE parts (LIKE customers) PARTITION BY RANGE (id)`, `CREATE TABLE part PARTITION OF parts DEFAULT`,
			`SELECT scrim.create_masking_policy('q', 'parts', '{age}', '{risk}', 'enc')`, `ALTER DEFAULT PRIVILEGES IN SCHEMA public GRANT SELECT ON TABLES TO analyst`), want: "warning default privileges analyst",
	},
	{
		plant: asOlga(`CREATE TABLE other AS SELECT * FROM customers`, `SELECT scrim.create_encoder('other', 'other', '{age,income,score,vip}', latent_dims => 4)`,
			`RESET SESSION AUTHORIZATION`, `INSERT INTO scrim_state.encoder_versions (encoder_id, version, sha256, trained_on, loss)
				SELECT (SELECT id FROM scrim_state.encoders WHERE name = 'other'), 1, sha256, 1, 0 FROM scrim_state.encoder_versions`,
			`UPDATE scrim_state.encoders SET default_version = 1`, `SET SESSION AUTHORIZATION olga`,
			`SELECT scrim.create_feature_view('seen', 'other')`, `GRANT INSERT (age, id) ON other TO analyst`), want: "error privilege analyst", since: 15,
	},
	{plant: []string{`INSERT INTO scrim_state.river_job (id, args, kind, max_attempts) VALUES (-1, '{}', 'x', 1)`, `UPDATE scrim_state.training_slot SET job = -1, encoder = 'enc', pid = 0, backend_start = now()`}, want: "warning training slot enc", words: true},
	{plant: append(asOlga(`CREATE TABLE parts (LIKE customers) PARTITION BY RANGE (id)`, `CREATE TABLE part PARTITION OF parts DEFAULT`,
		`SELECT scrim.create_masking_policy('q', 'parts', '{age}', '{risk}', 'enc')`), `CREATE PUBLICATION leak FOR TABLE parts`), want: "error publication leak"},
	{plant: asOlga(`CREATE TABLE above (LIKE customers) PARTITION BY RANGE (id)`, `ALTER TABLE above ATTACH PARTITION customers DEFAULT`), want: "error inheritance public.above"},
	{
		plant: asOlga(`CREATE VIEW v AS SELECT id, age, income, score, vip FROM customers`, `GRANT SELECT ON v TO analyst`,
			`SELECT scrim.create_masking_policy('q', 'v', '{age,income,score}', '{risk}', 'enc')`, `GRANT DELETE ON v TO analyst`), want: "error privilege analyst: analyst may DELETE on the view",
	},
	{
		plant: asOlga(`CREATE FUNCTION fired() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER AS 'BEGIN RETURN NEW; END'`, `REVOKE EXECUTE ON FUNCTION fired() FROM PUBLIC`,
			`CREATE TRIGGER fires BEFORE INSERT ON orders FOR EACH ROW EXECUTE FUNCTION fired()`, `GRANT INSERT ON orders TO analyst`), want: "error function public.fired()",
	},
	{plant: asOlga(`ALTER TABLE customers ENABLE ROW LEVEL SECURITY`, `CREATE POLICY leak ON customers AS RESTRICTIVE USING (income < 50000)`), want: "error row security policy leak", words: true},
	{plant: []string{`DO $$ BEGIN EXECUTE format('GRANT %%I TO %s', session_user); END $$`}, want: "error membership %s: it can become the catalog role"},
	{plant: []string{`ALTER EVENT TRIGGER scrim_ddl DISABLE`}, want: "note event trigger scrim_ddl: it is disabled"},
	{plant: []string{`DROP EVENT TRIGGER scrim_drop`}, want: "note event trigger scrim_drop: it is missing", words: true},
	{plant: []string{`GRANT pg_monitor TO %s`}, want: "note statistics %s"},
	{plant: asOlga(`CREATE MATERIALIZED VIEW copied AS SELECT income FROM customers`), want: "note copy public.copied", words: true},
}

// anotherTest tells a name of another test's database: roles belong to the whole server.
var anotherTest = regexp.MustCompile(`test_[0-9]+`)

// doctor is what scrim.doctor() says, without what it says of other tests' roles.
func (e *env) doctor(t *testing.T, conn *pgx.Conn) []catalog.Finding {
	t.Helper()
	checkup, err := catalog.Doctor(t.Context(), conn)
	if err != nil {
		t.Fatal(explain(err))
	}
	return slices.DeleteFunc(checkup.Findings, func(f catalog.Finding) bool {
		other := anotherTest.FindString(f.Object + f.Why)
		return strings.Contains(f.Object, "walker") || other != "" && other != e.database
	})
}

func describe(f catalog.Finding) string {
	return f.Severity + " " + f.Kind + " " + f.Object + ": " + f.Why
}

// TestDoctor plants one opening at a time under a policy that is there: doctor names it, what it tells one to do closes it, and on a
// clean set-up it has nothing to tell.
func TestDoctor(t *testing.T) {
	t.Parallel()
	onServers(t, func(t *testing.T, w *world) {
		e := w.bare(t)
		admin := e.admin(t)
		e.exec(t, admin, `SELECT scrim.create_masking_policy('p', 'customers', '{age,income,score}', '{risk}', 'enc')`)
		// The masked view of a policy that was replaced is still there.
		e.exec(t, admin, `SELECT scrim.create_masking_policy('p', 'customers', '{age,income,score}', '{risk}', 'enc', or_replace => true)`)
		before := e.doctor(t, admin)
		for _, f := range before {
			if f.Severity != catalog.SeverityNote {
				t.Errorf("on a clean set-up: %+v", f)
			}
		}
		role := "planted_" + e.database
		planted := 0
		try := func(plant []string, want string, words bool) {
			t.Helper()
			planted++
			e.exec(t, admin, `BEGIN`, `CREATE ROLE `+role+` LOGIN`)
			defer e.exec(t, admin, `ROLLBACK`)
			isNew := func(f catalog.Finding) bool { return !slices.Contains(before, f) }
			e.exec(t, admin, plant...)
			found := false
			for _, f := range e.doctor(t, admin) {
				found = found || isNew(f) && strings.Contains(describe(f), want)
				if f.Why == "" || f.Remedy == "" && f.Severity != catalog.SeverityNote {
					t.Errorf("%q: nothing is said of why, or what to do: %+v", plant, f)
				}
			}
			if !found {
				t.Errorf("%q: doctor does not find %q:\n%+v", plant, want, e.doctor(t, admin))
				return
			}
			// As one does who reads the report: the first thing, and look again.
			var done []string
			for {
				findings := slices.DeleteFunc(e.doctor(t, admin), func(f catalog.Finding) bool {
					return !isNew(f) || f.Severity != catalog.SeverityError && !strings.Contains(describe(f), want)
				})
				if words || len(findings) == 0 {
					return
				}
				remedy := findings[0].Remedy
				if slices.Contains(done, remedy) {
					t.Errorf("%q: after %q there is still %+v", plant, done, findings[0])
					return
				}
				done = append(done, remedy)
				if _, err := text(t, admin, remedy); err != nil {
					t.Errorf("%q: after %q, the remedy of %+v: %s", plant, done, findings[0], explain(err))
					return
				}
			}
		}
		for _, o := range openings {
			try(o.plant, o.want, false)
		}
		for _, o := range roleOpenings {
			try([]string{fmt.Sprintf(o.open, role)}, fmt.Sprintf(o.want, role), false)
		}
		for _, o := range later {
			if o.since*10000 > w.server.Version() {
				continue
			}
			plant := slices.Clone(o.plant)
			for i, s := range plant {
				if strings.Contains(s, "%") {
					plant[i] = fmt.Sprintf(s, role)
				}
			}
			want := o.want
			if strings.Contains(want, "%") {
				want = fmt.Sprintf(want, role)
			}
			try(plant, want, o.words)
		}
		t.Logf("%d openings", planted)
	})
}

// TestDoctorKeepsCodes: the statement that takes a grant on the whole table back leaves the role the codes that it had.
func TestDoctorKeepsCodes(t *testing.T) {
	onEachProtected(t, func(t *testing.T, e *env) {
		const query = `SELECT id, region, income FROM customers WHERE id = 2000`
		codes := mustText(t, e.connect(t, analyst), query)
		owner := e.directly(t, olga)
		e.exec(t, owner, `GRANT SELECT ON customers TO analyst`)
		if raw := mustText(t, e.connect(t, analyst), query); !strings.Contains(raw, "2342108.75") {
			t.Fatalf("with SELECT on the table the analyst sees %s", raw)
		}
		for _, f := range e.doctor(t, owner) {
			if f.Severity == catalog.SeverityError && f.Object == analyst {
				e.exec(t, owner, f.Remedy)
				break // there is one for each masked column
			}
		}
		if got := mustText(t, e.connect(t, analyst), query); got != codes {
			t.Errorf("afterwards the analyst sees %s, not %s", got, codes)
		}
	})
}

// TestWhoMayAskDoctor: masked roles may not, and a scrim_admin hears of policies on its own tables only.
func TestWhoMayAskDoctor(t *testing.T) {
	onEachProtected(t, func(t *testing.T, e *env) {
		alice := hostile(t, e)
		e.exec(t, e.admin(t), `GRANT SELECT ON customers TO guest`)
		for role, want := range map[string]string{analyst: "42501", guest: "42501", alice: "", olga: ""} {
			if _, err := text(t, e.directly(t, role), `SELECT * FROM scrim.doctor()`); code(err) != want {
				t.Errorf("%s: %v", role, err)
			}
		}
		about := func(role string) int {
			return len(slices.DeleteFunc(e.doctor(t, e.directly(t, role)), func(f catalog.Finding) bool { return f.Relation == "" }))
		}
		if own, others := about(olga), about(alice); own == 0 || others != 0 {
			t.Errorf("olga hears %d things of her table, alice %d", own, others)
		}
	})
}

// TestDoctorOfSlots: a replication slot keeps raw values for whoever comes, also when nobody does.
func TestDoctorOfSlots(t *testing.T) {
	t.Parallel()
	onServers(t, func(t *testing.T, w *world) {
		e := w.bare(t)
		admin := e.admin(t)
		slot := "slot_" + e.database
		e.exec(t, admin, `SELECT pg_create_logical_replication_slot('`+slot+`', 'pgoutput')`)
		at := func(f catalog.Finding) bool { return f.Object == slot }
		findings := e.doctor(t, admin)
		i := slices.IndexFunc(findings, at)
		if i < 0 || findings[i].Severity != catalog.SeverityWarning {
			t.Fatalf("%+v", findings)
		}
		e.exec(t, admin, findings[i].Remedy)
		if slices.ContainsFunc(e.doctor(t, admin), at) {
			t.Error("it is there still")
		}
	})
}
