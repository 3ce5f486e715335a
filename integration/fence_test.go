package integration_test

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"
)

// allPrivileges lists the privileges of every role on the table and on each of its columns: PUBLIC's, and what others have besides. Roles
// that have nothing of their own, or the name of another test's database in theirs, come and go.
const allPrivileges = `
	WITH roles(oid, name) AS (
		SELECT oid, rolname::text FROM pg_roles WHERE NOT rolsuper AND rolname !~ '^scrim_(owner|trainer)' AND (rolname !~ 'test_[0-9]' OR rolname ~ (current_database() || '($|_)'))
		UNION ALL SELECT 0, 'PUBLIC')
	SELECT r.name, a.attname, p.name || g.suffix
	FROM roles r, pg_attribute a, unnest(ARRAY['SELECT', 'INSERT', 'UPDATE', 'REFERENCES']) p(name), unnest(ARRAY['', ' WITH GRANT OPTION']) g(suffix)
	WHERE a.attrelid = 'customers'::regclass AND a.attnum > 0 AND (r.oid <> 0 OR g.suffix = '')
	  AND has_column_privilege(r.oid, a.attrelid, a.attnum, p.name || g.suffix)
	  AND (r.oid = 0 OR g.suffix <> '' OR NOT has_column_privilege(0::oid, a.attrelid, a.attnum, p.name))
	UNION ALL
	SELECT r.name, '-', p.name || g.suffix
	FROM roles r, unnest(ARRAY['SELECT', 'INSERT', 'UPDATE', 'DELETE', 'TRUNCATE', 'REFERENCES', 'TRIGGER']
			|| CASE WHEN current_setting('server_version_num')::int >= 170000 THEN ARRAY['MAINTAIN'] ELSE '{}' END) p(name),
		unnest(ARRAY['', ' WITH GRANT OPTION']) g(suffix)
	WHERE (r.oid <> 0 OR g.suffix = '') AND has_table_privilege(r.oid, 'customers'::regclass, p.name || g.suffix)
	  AND (r.oid = 0 OR g.suffix <> '' OR NOT has_table_privilege(0::oid, 'customers'::regclass, p.name))
	ORDER BY 1, 2, 3`

// asOlga runs statements as the table's owner, directly.
func asOlga(statements ...string) []string { return as(olga, statements...) }

// as runs statements as a role, directly.
func as(role string, statements ...string) []string {
	return slices.Concat([]string{"SET SESSION AUTHORIZATION " + role}, statements, []string{"RESET SESSION AUTHORIZATION"})
}

// difference lists lines that only one of two texts has.
func difference(before, after string) string {
	var b strings.Builder
	has := func(s string) map[string]bool {
		m := map[string]bool{}
		for _, line := range strings.Split(s, "\n") {
			m[line] = true
		}
		return m
	}
	was, is := has(before), has(after)
	for line := range was {
		if !is[line] {
			b.WriteString("- " + line + "\n")
		}
	}
	for line := range is {
		if !was[line] {
			b.WriteString("+ " + line + "\n")
		}
	}
	return b.String()
}

// TestRevokedMeanwhile: what the owner took from somebody while the policy stood does not come back with DROP.
func TestRevokedMeanwhile(t *testing.T) {
	onEachProtected(t, func(t *testing.T, e *env) {
		owner := e.connect(t, olga)
		e.exec(t, owner, `REVOKE SELECT (id, region, vip, "Note") ON customers FROM analyst`, `GRANT SELECT (id) ON customers TO guest`,
			`DROP MASKING POLICY p ON customers`)
		got := mustText(t, owner, `SELECT has_any_column_privilege('analyst', 'customers', 'SELECT'), has_table_privilege('risk', 'customers', 'SELECT'),
			has_column_privilege('guest', 'customers', 'id', 'SELECT')`)
		if got != "f|t|t\n" {
			t.Errorf("analyst, risk, guest: %s", got)
		}
	})
}

// openings are ways around the mask: statements that plant one, and what the list of openings says of it.
var openings = []struct {
	plant []string
	want  string // in the list
}{
	{asOlga(`CREATE VIEW leak AS SELECT id, income FROM customers`, `GRANT SELECT ON leak TO analyst`), "view public.leak"},
	{asOlga(`CREATE VIEW leak AS SELECT c FROM customers c`, `GRANT SELECT ON leak TO PUBLIC`), "view public.leak"},
	{asOlga(`CREATE VIEW inner_leak AS SELECT * FROM customers`, `CREATE VIEW leak AS SELECT income + 1 AS x FROM inner_leak`, `GRANT SELECT ON leak TO analyst`), "view public.leak"},
	{asOlga(`CREATE MATERIALIZED VIEW leak AS SELECT income FROM customers`, `GRANT SELECT ON leak TO analyst`), "materialized view public.leak"},
	{asOlga(`CREATE FUNCTION leak() RETURNS numeric LANGUAGE sql SECURITY DEFINER AS 'SELECT max(income) FROM customers'`), "function public.leak()"},
	{asOlga(`CREATE FUNCTION leak() RETURNS numeric LANGUAGE sql SECURITY DEFINER BEGIN ATOMIC SELECT max(income) FROM customers; END`), "function public.leak()"},
	{asOlga(`CREATE FUNCTION leak(q text) RETURNS text LANGUAGE plpgsql SECURITY DEFINER AS $$ DECLARE r text; BEGIN EXECUTE q INTO r; RETURN r; END $$`), "function public.leak(text)"},
	{asOlga(`ALTER TABLE customers ADD COLUMN leak numeric GENERATED ALWAYS AS (income * 2) STORED`), "generated column leak"},
	{asOlga(`CREATE TABLE leak (id integer NOT NULL, income numeric(12,2))`, `ALTER TABLE customers INHERIT leak`), "inheritance public.leak"},
	{asOlga(`CREATE TABLE child () INHERITS (customers)`, `CREATE INDEX leak ON child (income, id)`), "index public.leak"},
	{asOlga(`CREATE INDEX leak ON customers (income) INCLUDE (id)`), "index public.leak"},
	{asOlga(`CREATE INDEX leak ON customers (income, id)`), "index public.leak"},
	{asOlga(`CREATE INDEX leak ON customers ((income * 2), id)`), "index public.leak"},
	{asOlga(`CREATE UNIQUE INDEX leak ON customers (income)`, `GRANT INSERT (id) ON customers TO analyst`), "index public.leak"},
	{asOlga(`ALTER TABLE customers ADD CONSTRAINT leak CHECK (income < 1e9)`, `GRANT UPDATE (id) ON customers TO analyst`), "constraint leak"},
	{asOlga(`DELETE FROM customers WHERE id > 500 OR score IS NULL`, `ALTER TABLE customers ADD CONSTRAINT leak UNIQUE (score)`, `CREATE TABLE other (s float8 REFERENCES customers (score))`), "foreign key"},
	{asOlga(`CREATE FUNCTION tell() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RAISE NOTICE '%', OLD.income; RETURN NEW; END $$`,
		`CREATE TRIGGER leak BEFORE UPDATE ON customers FOR EACH ROW EXECUTE FUNCTION tell()`, `GRANT UPDATE (id) ON customers TO analyst`), "trigger leak"},
	{asOlga(`CREATE FUNCTION tell() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RAISE NOTICE '%', OLD.income; RETURN OLD; END $$`,
		`CREATE TRIGGER leak BEFORE DELETE ON customers FOR EACH ROW EXECUTE FUNCTION tell()`, `GRANT DELETE ON customers TO analyst`), "trigger leak"},
	{asOlga(`ALTER TABLE customers ENABLE ROW LEVEL SECURITY`, `CREATE POLICY leak ON customers USING (income < 50000)`), "row security policy leak"},
	{asOlga(`GRANT INSERT ON customers TO analyst`), "analyst may INSERT column age"},
	{asOlga(`GRANT UPDATE (vip) ON customers TO analyst`), "analyst may UPDATE column vip"}, // an input, though not masked
	{append([]string{`SET check_function_bodies = off`}, asOlga(`CREATE FUNCTION front() RETURNS text LANGUAGE sql SECURITY DEFINER AS 'SELECT helper()'`)...), "function public.front()"},
	{asOlga(`CREATE TABLE ages (age integer PRIMARY KEY)`, `INSERT INTO ages SELECT DISTINCT age FROM customers WHERE age IS NOT NULL`,
		`ALTER TABLE customers ADD CONSTRAINT leak FOREIGN KEY (age) REFERENCES ages ON DELETE CASCADE`, `GRANT DELETE ON ages TO analyst`), "foreign key leak"},
	{append([]string{
		`GRANT CREATE ON SCHEMA public TO analyst`, `SET SESSION AUTHORIZATION analyst`,
		`CREATE FUNCTION theirs(numeric, numeric) RETURNS boolean IMMUTABLE LANGUAGE sql AS 'SELECT true'`,
		`CREATE OPERATOR ### (LEFTARG = numeric, RIGHTARG = numeric, FUNCTION = theirs)`, `RESET SESSION AUTHORIZATION`,
	},
		asOlga(`ALTER TABLE customers ADD CONSTRAINT leak CHECK (income ### 5)`)...), "function public.theirs(numeric,numeric)"},
	{append([]string{
		`GRANT CREATE ON SCHEMA public TO analyst`, `SET SESSION AUTHORIZATION analyst`,
		`CREATE FUNCTION theirs() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RETURN NEW; END $$`, `RESET SESSION AUTHORIZATION`,
	},
		asOlga(`CREATE TRIGGER leak BEFORE UPDATE ON customers FOR EACH ROW EXECUTE FUNCTION theirs()`)...), "trigger leak"},
	{append([]string{
		`GRANT CREATE ON SCHEMA public TO analyst`, `SET SESSION AUTHORIZATION analyst`,
		`CREATE FUNCTION theirs(numeric) RETURNS boolean IMMUTABLE LANGUAGE sql AS 'SELECT true'`, `RESET SESSION AUTHORIZATION`,
	},
		asOlga(`ALTER TABLE customers ADD CONSTRAINT leak CHECK (theirs(income))`)...), "function public.theirs(numeric)"},
	{asOlga(`CREATE TABLE other (i int)`, `CREATE RULE leak AS ON INSERT TO other DO ALSO SELECT income FROM customers`), "rule public.other"},
	{asOlga(`CREATE RULE leak AS ON DELETE TO customers DO ALSO NOTIFY x`), "rule leak"},
	{[]string{`CREATE PUBLICATION leak FOR TABLE customers`}, "publication leak"},
	{[]string{`CREATE PUBLICATION leak FOR ALL TABLES`}, "publication leak"},
}

// roleOpenings are the same of a role, whose name stands for %s.
var roleOpenings = []struct {
	open, want string
}{
	{`GRANT pg_read_all_data TO %s`, "privilege %s"},
	{`GRANT pg_read_server_files TO %s`, "role %s"},
	{`ALTER ROLE %s NOINHERIT; GRANT risk TO %[1]s`, "membership %s"},
	{`ALTER ROLE %s REPLICATION`, "role %s"},
	{`GRANT scrim_admin TO %s; GRANT SELECT ON customers TO %[1]s`, "%s is a scrim_admin"},
}

// TestOpenings plants one way around the mask at a time: CREATE MASKING POLICY must refuse and name it, and change nothing.
func TestOpenings(t *testing.T) {
	onEach(t, func(t *testing.T, e *env) {
		refused := func(t *testing.T, env *env, want string) {
			t.Helper()
			admin := env.admin(t)
			before := mustText(t, admin, allPrivileges)
			_, err := text(t, admin, `SELECT scrim.create_masking_policy('p', 'customers', '{age,income,score}', '{risk}', 'enc')`)
			if code(err) != "55000" || !strings.Contains(explain(err), want) {
				t.Errorf("got %v\nwant 55000 naming %q", explain(err), want)
			}
			if after := mustText(t, admin, allPrivileges); after != before {
				t.Errorf("a refused policy changed privileges:\n%s", difference(before, after))
			}
		}
		for _, o := range openings {
			t.Run(strings.Join(o.plant[:min(2, len(o.plant))], "; "), func(t *testing.T) {
				env := e.bare(t)
				env.exec(t, env.admin(t), o.plant...)
				refused(t, env, o.want)
			})
		}
		// Roles belong to the server: each planted role must be gone before another test makes its policy, so these
		// run in a transaction that is rolled back.
		ways := roleOpenings
		if e.server.Version() < 160000 { // there CREATEROLE can grant itself any role
			ways = append(ways[:len(ways):len(ways)], struct{ open, want string }{`ALTER ROLE %s CREATEROLE`, "role %s"})
		}
		for _, o := range ways {
			t.Run(o.open, func(t *testing.T) {
				env := e.bare(t)
				admin := env.admin(t)
				role := "planted_" + env.database
				e.exec(t, admin, `BEGIN`, `CREATE ROLE `+role+` LOGIN`, fmt.Sprintf(o.open, role))
				_, err := text(t, admin, `SELECT scrim.create_masking_policy('p', 'customers', '{age,income,score}', '{risk}', 'enc')`)
				if want := fmt.Sprintf(o.want, role); code(err) != "55000" || !strings.Contains(explain(err), want) {
					t.Errorf("got %v\nwant 55000 naming %q", explain(err), want)
				}
				e.exec(t, admin, `ROLLBACK`)
			})
		}
	})
}

// TestNotOpenings: things that look alike but let nobody around the mask do not stand in the way.
func TestNotOpenings(t *testing.T) {
	onEach(t, func(t *testing.T, e *env) {
		e.exec(t, e.admin(t), asOlga(
			`CREATE VIEW fine AS SELECT id, region FROM customers`, `GRANT SELECT ON fine TO PUBLIC`,
			`CREATE VIEW private AS SELECT * FROM customers`,
			`CREATE INDEX fine_index ON customers (income)`,
			`CREATE FUNCTION fine_function() RETURNS int LANGUAGE sql AS 'SELECT 1'`,
			`CREATE FUNCTION private_function() RETURNS numeric LANGUAGE sql SECURITY DEFINER AS 'SELECT max(income) FROM customers'`,
			`REVOKE EXECUTE ON FUNCTION private_function() FROM PUBLIC`,
			`ALTER TABLE customers ADD CONSTRAINT fine_check CHECK (income < 1e9)`,
			`GRANT DELETE ON customers TO analyst`,
		)...)
		e.exec(t, e.connect(t, olga), testPolicy)
	})
}

// TestWhoMayProtect: the creator must own the table and be a scrim_admin; what cannot be protected is refused by name.
func TestWhoMayProtect(t *testing.T) {
	onEach(t, func(t *testing.T, e *env) {
		admin := e.admin(t)
		e.exec(t, admin, `CREATE TABLE theirs (id int, income float8)`,
			`CREATE TABLE parts (id int, age int, income float8, score float8, vip bool) PARTITION BY RANGE (id)`, `ALTER TABLE parts OWNER TO olga`,
			`CREATE TABLE part PARTITION OF parts DEFAULT`,
			`CREATE TABLE texts (id int, income text)`, `ALTER TABLE texts OWNER TO olga`)
		cases := []struct{ role, statement, want string }{
			{analyst, testPolicy, "42501"},
			{olga, `CREATE MASKING POLICY p ON theirs (income) USING ENCODER enc`, "42501"},
			{olga, `CREATE MASKING POLICY p ON parts (income) USING ENCODER enc`, "55000"}, // a part is another's
			{olga, `CREATE MASKING POLICY p ON customers_pkey (id) USING ENCODER enc`, "0A000"},
			{olga, `CREATE MASKING POLICY p ON pg_class (reltuples) USING ENCODER enc`, "42501"},
			{olga, `CREATE MASKING POLICY p ON texts (income) USING ENCODER enc (income)`, "0A000"},
			{olga, `CREATE MASKING POLICY p ON missing (income) USING ENCODER enc`, "42P01"},
			{olga, `CREATE MASKING POLICY p ON customers (missing) USING ENCODER enc`, "42703"},
			{olga, `CREATE MASKING POLICY p ON customers (income, income) USING ENCODER enc`, "42701"},
			{olga, `CREATE MASKING POLICY p ON customers (income) USING ENCODER missing`, "42704"},
			{olga, `CREATE MASKING POLICY p ON customers (income) EXCEPT missing USING ENCODER enc`, "42704"},
			{olga, `CREATE MASKING POLICY p ON customers (income) USING ENCODER enc (age)`, "42804"},
			{olga, `CREATE MASKING POLICY p ON customers (id, age, income, score, vip) USING ENCODER enc`, "42804"},
			{olga, `DROP MASKING POLICY p ON customers`, "42704"},
			{olga, `DROP ENCODER missing`, "42704"},
			{analyst, `CREATE ENCODER mine ON orders (amount) WAIT`, "42501"},
			{analyst, `DROP ENCODER enc`, "42501"},
			{olga, `CREATE ENCODER "../escape" ON customers (age) WAIT`, "42602"},
			{olga, `CREATE ENCODER enc ON customers (age) WAIT`, "42710"},
			{olga, `CREATE ENCODER e2 ON customers ("Note") WAIT`, "0A000"},
			{olga, `CREATE ENCODER e2 ON theirs (income) WAIT`, "42501"},
			{olga, `CREATE ENCODER e2 ON customers (age`, "42601"},
		}
		for _, c := range cases {
			_, err := text(t, e.connect(t, c.role), c.statement)
			if code(err) != c.want {
				t.Errorf("%s: %s\ngot %v, want %s", c.role, c.statement, explain(err), c.want)
			}
		}
		e.exec(t, e.connect(t, olga), testPolicy, `DROP MASKING POLICY IF EXISTS nothing ON customers`,
			`CREATE MASKING POLICY IF NOT EXISTS p ON customers (age) USING ENCODER enc`, `CREATE ENCODER IF NOT EXISTS enc ON customers (age) WAIT`)
		if _, err := text(t, e.connect(t, olga), `DROP ENCODER enc`); code(err) != "2BP01" {
			t.Errorf("dropping an encoder in use: %v", err)
		}
	})
}

// TestTransactional: inside BEGIN a policy takes effect at COMMIT and disappears at ROLLBACK.
func TestTransactional(t *testing.T) {
	onEach(t, func(t *testing.T, e *env) {
		owner, reader := e.connect(t, olga), e.connect(t, analyst)
		raw := mustText(t, reader, `SELECT income FROM customers WHERE id = 2000`)
		e.exec(t, owner, `BEGIN`, testPolicy, `ROLLBACK`)
		if got := mustText(t, reader, `SELECT income FROM customers WHERE id = 2000`); got != raw {
			t.Errorf("after ROLLBACK the analyst sees %s", got)
		}
		e.exec(t, owner, `BEGIN`, testPolicy, `COMMIT`)
		if got := mustText(t, e.connect(t, analyst), `SELECT income FROM customers WHERE id = 2000`); got == raw {
			t.Errorf("after COMMIT the analyst sees %s", got)
		}
		// The session that was there before learns of it too.
		if got := mustText(t, reader, `SELECT income FROM customers WHERE id = 2000`); got == raw {
			t.Errorf("after COMMIT the analyst's old session sees %s", got)
		}
		e.exec(t, owner, `DROP MASKING POLICY p ON customers`)
		if got := mustText(t, e.connect(t, analyst), `SELECT income FROM customers WHERE id = 2000`); got != raw {
			t.Errorf("after DROP the analyst sees %s, not %s", got, raw)
		}
	})
}

// TestForeignOwnerRole: a role of the name that Scrim would take, made by somebody else, is refused.
func TestForeignOwnerRole(t *testing.T) {
	onEach(t, func(t *testing.T, e *env) {
		admin := e.admin(t)
		owner := "owner_" + e.database
		e.exec(t, admin, `BEGIN`, `CREATE ROLE `+owner, `ALTER TABLE customers OWNER TO `+owner)
		var role string
		if err := admin.QueryRow(t.Context(), `SELECT 'scrim_owner_' || relowner FROM pg_class WHERE oid = 'customers'::regclass`).Scan(&role); err != nil {
			t.Fatal(err)
		}
		e.exec(t, admin, `CREATE ROLE `+role, `GRANT `+role+` TO guest`)
		_, err := text(t, admin, `SELECT scrim.create_masking_policy('p', 'customers', '{age}', '{risk}', 'enc')`)
		if code(err) != "55000" || !strings.Contains(explain(err), "was not made by Scrim") {
			t.Error(explain(err))
		}
		e.exec(t, admin, `ROLLBACK`)
	})
}

// TestHostilePublish: the functions below the statements check what they are given.
func TestHostilePublish(t *testing.T) {
	onEach(t, func(t *testing.T, e *env) {
		owner := e.connect(t, olga)
		for args, want := range map[string]string{
			`'{2,NULL}', '{1,2}', '{3,4,5,6}', 'enc', 'VECTOR'`:              "22023",
			`'{3,3}', '{1,2}', '{3,4,5,6}', 'enc', 'VECTOR'`:                 "22023",
			`'{99}', '{1}', '{3,4,5,6}', 'enc', 'VECTOR'`:                    "22023",
			`'{1,2,3,4,5}', '{1,2,3,4,5}', '{3,4,5,6}', 'enc', 'COMPONENTS'`: "22023",
			`'{3}', '{5}', '{3,4,5,6}', 'enc', 'COMPONENTS'`:                 "22023",
			`'{3}', '{NULL}', '{3,4,5,6}', 'enc', 'COMPONENTS'`:              "22023",
			`'{3}', '{1,2}', '{3,4,5,6}', 'enc', 'VECTOR'`:                   "22023",
			`'{3}', '{1}', '{3,4}', 'enc', 'VECTOR'`:                         "22023",
			`'{3}', '{1}', '{3,4,5,6}', 'missing', 'VECTOR'`:                 "42704",
			`'{3}', '{1}', '{3,4,5,6}', 'enc', 'SOMETHING'`:                  "23514",
			`'{{3}}', '{1}', '{3,4,5,6}', 'enc', 'VECTOR'`:                   "22P02",
		} {
			_, err := text(t, owner, `SELECT scrim.fence_publish('customers', `+definition(args)+`, NULL, false, '[]', '[]')`)
			if code(err) != want {
				t.Errorf("%s: %s, want %s", args, explain(err), want)
			}
		}
	})
}

// TestRevokeRevokes: a privilege that is revoked after the policy was made is gone on every road, and row security that is
// switched on later closes the masked columns.
func TestRevokeRevokes(t *testing.T) {
	onEachProtected(t, func(t *testing.T, e *env) {
		conn, owner := e.connect(t, analyst), e.connect(t, olga)
		query := `SELECT id, region, age FROM customers WHERE id = 1`
		mustText(t, conn, query)
		e.exec(t, owner, `REVOKE SELECT (region) ON customers FROM analyst`)
		if _, err := text(t, conn, query); code(err) != "42501" {
			t.Errorf("after REVOKE (region): %v", err)
		}
		e.exec(t, owner, `GRANT SELECT (region) ON customers TO analyst`)
		mustText(t, conn, query)
		e.exec(t, owner, `ALTER TABLE customers ENABLE ROW LEVEL SECURITY`, `CREATE POLICY everybody ON customers USING (true)`)
		if _, err := text(t, conn, query); code(err) != "0A000" {
			t.Errorf("with row security: %v", err)
		}
		e.exec(t, owner, `ALTER TABLE customers DISABLE ROW LEVEL SECURITY`, `REVOKE ALL ON customers FROM analyst`)
		for _, c := range []string{`SELECT id FROM customers`, query} {
			if _, err := text(t, conn, c); code(err) != "42501" {
				t.Errorf("after REVOKE ALL, %s: %v", c, err)
			}
		}
		var view string
		if err := e.admin(t).QueryRow(t.Context(), `SELECT masked_view::regclass::text FROM scrim_state.protections`).Scan(&view); err != nil {
			t.Fatal(err)
		}
		if _, err := text(t, e.directly(t, analyst), `SELECT region FROM `+view); code(err) != "42501" {
			t.Errorf("the masked view itself: %v", err)
		}
	})
}

// TestForeignType: a masked column whose type is a masked role's could show its values to whoever changes the type.
func TestForeignType(t *testing.T) {
	onEach(t, func(t *testing.T, e *env) {
		admin := e.admin(t)
		e.exec(t, admin, append([]string{`GRANT CREATE ON SCHEMA public TO analyst`, `SET SESSION AUTHORIZATION analyst`, `CREATE DOMAIN theirs AS text`, `RESET SESSION AUTHORIZATION`},
			asOlga(`ALTER TABLE customers ALTER COLUMN "Note" TYPE theirs[] USING ARRAY["Note"]::theirs[]`)...)...)
		_, err := text(t, admin, `SELECT scrim.create_masking_policy('p', 'customers', '{age,Note}', '{risk}', 'enc')`)
		if code(err) != "55000" || !strings.Contains(explain(err), "theirs[]") {
			t.Error(explain(err))
		}
	})
}

// TestOthersEncoder: an encoder is its creator's: on a table of one's own it would tell the code of any value.
func TestOthersEncoder(t *testing.T) {
	onEach(t, func(t *testing.T, e *env) {
		admin, dana := e.admin(t), "dana_"+e.database
		e.exec(t, admin, `CREATE ROLE `+dana, `GRANT scrim_admin TO `+dana, `CREATE TABLE dict AS SELECT g id, g age, g income, g score, true vip FROM generate_series(18, 78) g`,
			`ALTER TABLE dict OWNER TO `+dana, `SET SESSION AUTHORIZATION `+dana)
		_, err := text(t, admin, `SELECT scrim.create_masking_policy('p', 'dict', '{age}', '{}', 'enc')`)
		if code(err) != "42501" {
			t.Error(explain(err))
		}
		e.exec(t, admin, `RESET SESSION AUTHORIZATION`, `DROP OWNED BY `+dana, `REVOKE scrim_admin FROM `+dana, `DROP ROLE `+dana)
	})
}

// TestLaterOpenings: the walk can be made again, and finds what was opened since.
func TestLaterOpenings(t *testing.T) {
	onEachProtected(t, func(t *testing.T, e *env) {
		owner := e.connect(t, olga)
		walk := `SELECT kind, object FROM scrim.masking_policy_openings('p', 'customers')`
		if got := mustText(t, owner, walk); got != "" {
			t.Errorf("right after the policy was made:\n%s", got)
		}
		e.exec(t, owner, `CREATE VIEW leak AS SELECT income FROM customers`, `GRANT SELECT ON leak TO analyst`, `GRANT SELECT ON customers TO guest`)
		if got := mustText(t, owner, walk); !strings.Contains(got, "view|public.leak\n") || !strings.Contains(got, "privilege|guest\n") {
			t.Errorf("after a view and a grant:\n%s", got)
		}
		if _, err := text(t, e.connect(t, analyst), walk); code(err) != "42501" {
			t.Errorf("analyst: %v", err)
		}
	})
}

// definition spells the policies that scrim.fence_publish takes: one with these columns, components, inputs, encoder and presentation.
func definition(args string) string {
	return `(SELECT jsonb_build_array(jsonb_build_object('name', 'p', 'columns', i.columns, 'components', i.components, 'inputs', i.inputs, 'encoder', encoder, 'present', present,
		'mask', NULL, 'except', '{}'::text[], 'enabled', true)) FROM (SELECT ` + args + `) d(columns, components, inputs, encoder, present),
		LATERAL (SELECT d.columns::int[], d.components::int[], d.inputs::int[]) i(columns, components, inputs))`
}

// TestNoInjection: what is remembered of grants is spelled into statements later, so nothing but a privilege gets in.
func TestNoInjection(t *testing.T) {
	onEach(t, func(t *testing.T, e *env) {
		owner := e.connect(t, olga)
		e.exec(t, owner, `SELECT scrim.fence_prepare('customers')`)
		_, err := text(t, owner, `SELECT scrim.fence_publish('customers', `+definition(`'{3}', '{1}', '{3,4,5,6}', 'enc', 'VECTOR'`)+`, NULL, false, jsonb_build_array(jsonb_build_object(
			'attnum', 0, 'grantor', 'olga'::regrole::oid, 'grantee', 'analyst'::regrole::oid, 'privilege', 'SELECT ON customers TO analyst; ALTER ROLE olga SUPERUSER; GRANT SELECT', 'grantable', false)), '[]')`)
		if code(err) != "23514" {
			t.Error(explain(err))
		}
	})
}

// TestStolenHash: an encoder that would be registered under another's hash has no file of that name.
func TestStolenHash(t *testing.T) {
	onEachProtected(t, func(t *testing.T, e *env) {
		mustText(t, e.connect(t, analyst), `SELECT income FROM customers WHERE id = 1`) // it is loaded
		e.exec(t, e.admin(t), `CREATE TABLE dict AS SELECT g id, g age, g income, g score, true vip FROM generate_series(18, 78) g`, `GRANT SELECT ON dict TO analyst`,
			`SELECT scrim.create_encoder('stolen', 'dict', '{age,income,score,vip}', latent_dims => 4)`,
			`INSERT INTO scrim_state.encoder_versions (encoder_id, version, sha256, trained_on, loss)
				SELECT (SELECT id FROM scrim_state.encoders WHERE name = 'stolen'), 1, sha256, 1, 0 FROM scrim_state.encoder_versions`,
			`UPDATE scrim_state.encoders SET default_version = 1`,
			`SELECT scrim.create_masking_policy('d', 'dict', '{age}', '{}', 'stolen')`)
		// The policy was made around the proxy, which learns of it by a notice; until then it relays, and PostgreSQL refuses.
		var out string
		var err error
		for range 100 {
			if out, err = text(t, e.connect(t, analyst), `SELECT age FROM dict`); code(err) != "42501" {
				break
			}
			time.Sleep(50 * time.Millisecond)
		}
		if code(err) != "58000" {
			t.Errorf("%s %v", out, err)
		}
	})
}
