package integration_test

import (
	"context"
	"fmt"
	"strings"
	"testing"

	"github.com/jackc/pgx/v5"

	"github.com/scrimdb/scrim/catalog"
)

// A hostile owner: alice owns tables, may even be a scrim_admin, and wants the key that seals values, or the raw columns of
// olga's customers, to which she has no right at all. Her code can be in many places of her tables. It runs in sessions of
// others then, which is PostgreSQL's way; but nothing that Scrim does may run it with more rights than theirs.

// hostile makes alice, her schema and her spy. Roles belong to the whole server, so each database has an alice of its own.
//
// The spy tries to read every key and olga's raw values. It tells by advisory locks, since those outlive rollbacks and can be
// taken in READ ONLY transactions: 4711 and the role that it ran as, 4712 and the same where it could read something.
func hostile(t *testing.T, e *env) (alice string) {
	t.Helper()
	alice = "alice_" + e.database
	admin := e.admin(t)
	e.exec(t, admin, `CREATE ROLE `+alice+` LOGIN PASSWORD '`+alice+`'`, `GRANT scrim_admin TO `+alice, `GRANT CREATE ON DATABASE `+e.database+` TO `+alice,
		`CREATE SCHEMA alice AUTHORIZATION `+alice, `GRANT USAGE ON SCHEMA alice TO PUBLIC`)
	theirs := "scrim_owner_" + strings.TrimSpace(mustText(t, admin, `SELECT '`+alice+`'::regrole::oid`))
	t.Cleanup(func() {
		err := e.superuser(context.Background(), e.database, `DROP OWNED BY `+alice+` CASCADE`, `DROP ROLE `+alice,
			`DO $$ BEGIN IF to_regrole('`+theirs+`') IS NOT NULL THEN DROP OWNED BY `+theirs+`; DROP ROLE `+theirs+`; END IF; END $$`)
		if err != nil {
			t.Error(err)
		}
	})
	conn := e.directly(t, alice)
	e.exec(t, conn, `CREATE FUNCTION alice.spy(x int) RETURNS int LANGUAGE plpgsql IMMUTABLE AS $$
		DECLARE me int := current_user::regrole::oid::bigint::int; relation regclass;
		BEGIN
			PERFORM pg_advisory_lock_shared(4711, me);
			FOR relation IN SELECT c.oid FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace WHERE n.nspname = 'scrim_state' AND c.relname LIKE 'key\_%' AND c.relkind = 'r' LOOP
				BEGIN
					EXECUTE format('SELECT 1 FROM %s WHERE key IS NOT NULL', relation);
					PERFORM pg_advisory_lock_shared(4712, me);
				EXCEPTION WHEN OTHERS THEN NULL; END;
			END LOOP;
			BEGIN
				EXECUTE 'SELECT max(income) FROM public.customers';
				PERFORM pg_advisory_lock_shared(4712, me);
			EXCEPTION WHEN OTHERS THEN NULL; END;
			RETURN x;
		END $$`,
		`CREATE FUNCTION alice.spy(x text) RETURNS text LANGUAGE sql IMMUTABLE AS 'SELECT CASE WHEN alice.spy(1) = 1 THEN x END'`,
		`CREATE FUNCTION alice.spy_trigger() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN PERFORM alice.spy(1); RETURN coalesce(NEW, OLD); END $$`)
	return alice
}

// spied lists where the spy ran in this database, as which role, and whether it could read something: "analyst as analyst", say.
func spied(t *testing.T, e *env) string {
	t.Helper()
	return mustText(t, e.admin(t), `SELECT DISTINCT a.usename || CASE a.application_name WHEN 'scrim catalog' THEN ' (catalog)' ELSE '' END || ' as ' || l.objid::regrole || CASE l.classid WHEN 4712 THEN ': it reads' ELSE '' END
		FROM pg_locks l JOIN pg_stat_activity a USING (pid) WHERE l.locktype = 'advisory' AND l.classid IN (4711, 4712) AND l.database = (SELECT oid FROM pg_database WHERE datname = current_database()) ORDER BY 1`)
}

// spiedTable makes a table of alice's with her spy wherever an owner can put code that PostgreSQL runs by itself.
func spiedTable(name string) []string {
	return []string{
		`CREATE TABLE alice.` + name + ` (id integer PRIMARY KEY, age integer, income numeric(12,2), score double precision, vip boolean, note text)`,
		`INSERT INTO alice.` + name + ` SELECT i, i % 60, i * 100, i / 3.0, i % 2 = 0, 'note ' || i FROM generate_series(1, 200) i`,
		`CREATE DOMAIN alice.` + name + `_domain AS integer DEFAULT alice.spy(2) CHECK (alice.spy(VALUE) > 0)`,
		`ALTER TABLE alice.` + name + ` ADD COLUMN watched alice.` + name + `_domain DEFAULT alice.spy(1), ADD COLUMN made text GENERATED ALWAYS AS (alice.spy(note)) STORED`,
		`ALTER TABLE alice.` + name + ` ADD CHECK (alice.spy(1) = 1), ALTER note SET DEFAULT alice.spy('x')`,
		`CREATE INDEX ON alice.` + name + ` (alice.spy(id))`,
		`CREATE INDEX ON alice.` + name + ` (id) WHERE alice.spy(1) = 1`,
		`CREATE STATISTICS alice.` + name + `_statistics ON (alice.spy(1) + id), id FROM alice.` + name,
		`CREATE TRIGGER spy BEFORE INSERT OR UPDATE OR DELETE ON alice.` + name + ` FOR EACH ROW EXECUTE FUNCTION alice.spy_trigger()`,
		`CREATE TRIGGER spy_truncate BEFORE TRUNCATE ON alice.` + name + ` FOR EACH STATEMENT EXECUTE FUNCTION alice.spy_trigger()`,
		`GRANT SELECT ON alice.` + name + ` TO analyst`,
	}
}

// aliceMade has alice make two tables, one with row security, and an encoder. Her session is as hostile as the tables: its
// search_path and temporary objects shadow what Scrim's functions use.
func aliceMade(t *testing.T, e *env, alice string) *pgx.Conn {
	t.Helper()
	e.trains(t)
	conn := e.connect(t, alice)
	e.exec(t, conn, spiedTable("one")...)
	e.exec(t, conn, spiedTable("two")...)
	e.exec(t, conn, `CREATE POLICY spy ON alice.two USING (alice.spy(id) > 0)`, `CREATE POLICY spy_more ON alice.two USING (alice.spy(1) = 1 AND EXISTS (SELECT 1 FROM alice.one))`,
		`ALTER TABLE alice.two ENABLE ROW LEVEL SECURITY, FORCE ROW LEVEL SECURITY`,
		`CREATE ENCODER `+alice+` ON alice.one (age, income, score, vip) WITH (latent_dims = 4, epochs = 1, batch_size = 64) WAIT`)
	for _, function := range []string{`record_send(record)`, `pg_relation_filenode(regclass)`, `quote_ident(text)`, `format(text)`, `pg_has_role(name, oid, text)`, `unnest(smallint[])`, `to_regclass(text)`} {
		e.exec(t, conn, `CREATE FUNCTION alice.`+function+` RETURNS text LANGUAGE plpgsql AS 'BEGIN RETURN alice.spy(1)::text; END'`)
	}
	e.exec(t, conn, `CREATE FUNCTION alice.same(oid, oid) RETURNS boolean LANGUAGE sql AS 'SELECT alice.spy(1) = 1'`,
		`CREATE OPERATOR alice.= (LEFTARG = oid, RIGHTARG = oid, FUNCTION = alice.same)`,
		`CREATE TYPE alice.float8 AS (spy int)`, `CREATE TYPE alice.sealed AS (spy int)`,
		`CREATE TEMP TABLE key_10 (key bytea)`, `CREATE TEMP TABLE policies (LIKE alice.one)`, `CREATE TEMP VIEW pg_class AS SELECT alice.spy(1) AS spy, * FROM pg_catalog.pg_class`,
		`CREATE TEMP VIEW pg_roles AS SELECT alice.spy(1) AS spy, * FROM pg_catalog.pg_roles`, `CREATE TYPE pg_temp.int8 AS (spy int)`,
		`ALTER DEFAULT PRIVILEGES GRANT ALL ON TABLES TO PUBLIC`, `ALTER DEFAULT PRIVILEGES GRANT EXECUTE ON FUNCTIONS TO PUBLIC`)
	return conn
}

// TestOwnersCode: wherever alice's code is, and whoever protects, looks, reads, initialises, it runs as nobody but those who
// read or write her table themselves, and reads nothing.
func TestOwnersCode(t *testing.T) {
	onEachProtected(t, func(t *testing.T, e *env) {
		alice := hostile(t, e)
		conn := aliceMade(t, e, alice)
		e.exec(t, conn, `SET search_path = alice, pg_temp, pg_catalog, public`)
		one := `CREATE MASKING POLICY mine ON alice.one (age, income, score) USING ENCODER ` + alice
		two := `SELECT scrim.create_masking_policy('mine', 'alice.two', '{age,income,score}', '{}', '` + alice + `')`
		e.exec(t, conn, one)
		admin := e.admin(t) // another admin protects, looks, and takes away, in a session that holds the rights to everything
		e.exec(t, admin, two, `SELECT * FROM scrim.masking_policy_openings('mine', 'alice.one')`, `SELECT * FROM scrim.masking_policy_openings('mine', 'alice.two')`,
			`SELECT * FROM scrim.masking_policies`, `SELECT * FROM scrim.doctor()`, `SELECT scrim.drop_masking_policy('mine', 'alice.one')`, `SELECT scrim.drop_masking_policy('mine', 'alice.two')`)
		if _, err := catalog.Init(t.Context(), admin); err != nil {
			t.Fatal(err)
		}
		e.exec(t, admin, two)
		e.exec(t, conn, one)
		if _, err := e.catalog.Reload(t.Context()); err != nil {
			t.Fatal(err)
		}
		if got, want := spied(t, e), alice+" as "+alice+"\n"; got != want {
			t.Errorf("the spy ran in sessions of\n%snot of\n%s", got, want)
		}
		// The analyst reads. What the owner's code can do then, it can do in any table that he reads, as he himself.
		reader := e.connect(t, analyst)
		for query, want := range map[string]string{
			`SELECT count(age), count(income) FROM (SELECT * FROM alice.one) x`: "200|200\n", `SELECT count(age), count(income) FROM (SELECT * FROM alice.two) x`: "200|200\n",
			`SELECT count(*) FROM alice.one WHERE alice.spy(id) = 7 AND income IS NOT NULL`: "1\n",
		} {
			if got := mustText(t, reader, query); got != want {
				t.Errorf("%s: %q", query, got)
			}
		}
		mustText(t, reader, `SELECT id, age, watched, made FROM alice.one WHERE id < 9`)
		mustText(t, reader, `SELECT id, age, watched, made FROM alice.two WHERE id < 9`)
		around := e.directly(t, analyst)
		for _, view := range strings.Fields(mustText(t, admin, `SELECT x.masked_view::regclass FROM scrim_state.protections x JOIN scrim_state.policies p ON p.protection = x.id WHERE p.name = 'mine'`)) {
			mustText(t, around, `SELECT count(ctid) FROM `+view)
			mustText(t, around, `EXPLAIN SELECT * FROM `+view)
		}
		if got, want := spied(t, e), alice+" as "+alice+"\nanalyst as analyst\n"; got != want {
			t.Errorf("the spy ran in sessions of\n%snot of\n%s", got, want)
		}
		if got := mustText(t, admin, `SELECT c.relname, x.grantee::regrole, x.privilege_type FROM pg_class c, aclexplode(c.relacl) x
			WHERE c.relnamespace IN ('scrim_runtime'::regnamespace, 'scrim_state'::regnamespace) AND x.grantee IN (0, '`+alice+`'::regrole)`); got != "" {
			t.Errorf("default privileges of alice's gave\n%s", got)
		}
	})
}

// TestOwnersStatements: what alice can say about the objects, roles and functions of Scrim's, and about olga's table, is
// refused, or changes nothing that matters. Before and after all of it she may read nothing.
func TestOwnersStatements(t *testing.T) {
	onEachProtected(t, func(t *testing.T, e *env) {
		alice := hostile(t, e)
		conn := aliceMade(t, e, alice)
		e.exec(t, conn, `CREATE MASKING POLICY mine ON alice.one (age, income, score) USING ENCODER `+alice)
		admin := e.admin(t)
		value := func(query string) string { return strings.TrimSpace(mustText(t, admin, query)) }
		names := strings.NewReplacer(
			"$VIEW", value(`SELECT x.masked_view::regclass FROM scrim_state.protections x JOIN scrim_state.policies p ON p.protection = x.id WHERE p.name = 'mine'`), "$OLGAVIEW", value(`SELECT x.masked_view::regclass FROM scrim_state.protections x JOIN scrim_state.policies p ON p.protection = x.id WHERE p.name = 'p'`),
			"$ROLE", value(`SELECT 'scrim_owner_' || key_owner FROM scrim_state.protections x JOIN scrim_state.policies p ON p.protection = x.id WHERE p.name = 'mine'`), "$OLGAROLE", value(`SELECT 'scrim_owner_' || key_owner FROM scrim_state.protections x JOIN scrim_state.policies p ON p.protection = x.id WHERE p.name = 'p'`),
			"$KEY", value(`SELECT 'scrim_state.key_' || key_owner FROM scrim_state.protections x JOIN scrim_state.policies p ON p.protection = x.id WHERE p.name = 'mine'`), "$OLGAKEY", value(`SELECT 'scrim_state.key_' || key_owner FROM scrim_state.protections x JOIN scrim_state.policies p ON p.protection = x.id WHERE p.name = 'p'`),
			"$ALICE", alice)
		entry := `jsonb_build_object('attnum', 0, 'grantor', 'olga'::regrole::oid, 'grantee', '$ALICE'::regrole::oid, 'privilege', 'SELECT', 'grantable', false)`
		for _, c := range []struct{ want, statement string }{ // each in a transaction of its own, which is rolled back
			// the keys
			{"42501", `SELECT key FROM $KEY`},
			{"42501", `SELECT key FROM $OLGAKEY`},
			{"42501", `CREATE VIEW alice.peek AS SELECT key FROM $KEY`},
			{"42501", `CREATE POLICY peek ON alice.one USING (EXISTS (SELECT 1 FROM $KEY))`},
			{"42501", `CREATE FUNCTION alice.peek() RETURNS bytea LANGUAGE sql AS 'SELECT key FROM $KEY'`},
			{"42501", `CREATE RULE peek AS ON UPDATE TO alice.one DO ALSO SELECT key FROM $KEY`},
			{"42501", `ALTER TABLE $KEY OWNER TO $ALICE`},
			{"42501", `CREATE TABLE alice.kid () INHERITS ($KEY)`},
			{"42501", `CREATE TRIGGER peek BEFORE UPDATE ON $KEY FOR EACH ROW EXECUTE FUNCTION alice.spy_trigger()`},
			// the masked views, her own and olga's
			{"42501", `ALTER VIEW $VIEW OWNER TO $ALICE`},
			{"42501", `ALTER VIEW $VIEW SET SCHEMA alice`},
			{"42501", `ALTER VIEW $VIEW SET (security_invoker = true)`},
			{"42501", `ALTER VIEW $VIEW RENAME COLUMN id TO x`},
			{"42501", `ALTER VIEW $OLGAVIEW ALTER COLUMN id SET DEFAULT alice.spy(1)`},
			{"42501", `CREATE OR REPLACE VIEW $VIEW AS SELECT 1`},
			{"42501", `CREATE VIEW scrim_runtime.customers AS SELECT 1`},
			{"42501", `DROP VIEW $OLGAVIEW`},
			{"42501", `CREATE RULE peek AS ON INSERT TO $VIEW DO INSTEAD SELECT 1`},
			{"42501", `CREATE TRIGGER peek INSTEAD OF UPDATE ON $VIEW FOR EACH ROW EXECUTE FUNCTION alice.spy_trigger()`},
			{"42501", `GRANT SELECT ON $VIEW TO $ALICE`},
			{"42501", `GRANT SELECT ON $OLGAVIEW TO $ALICE`},
			{"42501", `SELECT sealed_1 FROM $OLGAVIEW`},
			{"42501", `INSERT INTO $VIEW (id) VALUES (1)`},
			{"42501", `CREATE OR REPLACE FUNCTION scrim_runtime.still_granted(oid, text, int2[]) RETURNS boolean LANGUAGE sql AS 'SELECT true'`},
			{"42501", `DROP FUNCTION scrim_runtime.still_means(text, oid, text[])`},
			{"42501", `ALTER TYPE scrim_runtime.sealed OWNER TO $ALICE`},
			{"42501", `CREATE CAST (scrim_runtime.sealed AS text) WITH INOUT AS IMPLICIT`},
			{"42501", `CREATE FUNCTION alice.seal(bytea, bytea, text) RETURNS scrim_runtime.sealed LANGUAGE c AS '$libdir/pgcrypto', 'pg_decrypt'`},
			// the roles that own them
			{"42501", `SET ROLE $ROLE`},
			{"42501", `SET SESSION AUTHORIZATION $ROLE`},
			{"42501", `GRANT $ROLE TO $ALICE`},
			{"42501", `GRANT $OLGAROLE TO $ALICE WITH ADMIN OPTION`},
			{"42501", `GRANT $ALICE TO $ROLE`}, // it would inherit nothing that matters, but is not hers to say
			{"42501", `ALTER ROLE $ROLE LOGIN PASSWORD 'x'`},
			{"42501", `ALTER ROLE $ROLE SET search_path = alice`},
			{"42501", `ALTER ROLE $ROLE RENAME TO x`},
			{"42501", `DROP ROLE $ROLE`},
			{"42501", `REASSIGN OWNED BY $ROLE TO $ALICE`},
			{"42501", `REASSIGN OWNED BY $ALICE TO $OLGAROLE`},
			{"42501", `DROP OWNED BY $OLGAROLE`},
			{"42501", `ALTER DEFAULT PRIVILEGES FOR ROLE $ROLE GRANT SELECT ON TABLES TO $ALICE`},
			{"42501", `ALTER TABLE alice.one OWNER TO $ROLE`},
			{"42501", `ALTER TABLE alice.one OWNER TO $OLGAROLE`},
			{"42501", `ALTER TABLE alice.one OWNER TO olga`},
			{"42501", `ALTER FUNCTION alice.spy(int) OWNER TO $OLGAROLE`},
			{"42501", `ALTER FUNCTION alice.spy(int) OWNER TO olga`},
			{"42501", `CREATE SCHEMA theirs AUTHORIZATION $OLGAROLE`},
			{"42501", `CREATE ROLE scrim_owner_1`},
			// olga's table
			{"42501", `SELECT income FROM public.customers`},
			{"42501", `ALTER TABLE alice.one INHERIT public.customers`},
			{"42501", `CREATE TABLE alice.kid () INHERITS (public.customers)`},
			{"42501", `CREATE TABLE alice.kid (LIKE public.customers INCLUDING ALL)`},
			{"42501", `CREATE TABLE alice.kid (age integer REFERENCES public.customers)`},
			{"42501", `CREATE TABLE alice.parts (LIKE alice.one) PARTITION BY RANGE (id); ALTER TABLE alice.parts ATTACH PARTITION public.customers DEFAULT`},
			{"42501", `CREATE STATISTICS alice.peek ON age, income FROM public.customers`},
			{"42501", `CREATE INDEX ON public.customers (alice.spy(age))`},
			{"42501", `CREATE POLICY peek ON public.customers USING (alice.spy(age) > 0)`},
			{"42501", `CREATE RULE peek AS ON SELECT TO public.customers DO INSTEAD SELECT 1`},
			{"42501", `COMMENT ON TABLE public.customers IS 'mine'`},
			{"42501", `CREATE PUBLICATION peek FOR TABLE public.customers`},
			{"42501", `ALTER TABLE public.customers OWNER TO $ALICE`},
			{"42501", `CREATE EVENT TRIGGER peek ON ddl_command_end EXECUTE FUNCTION alice.spy_trigger()`},
			{"22023", `SECURITY LABEL FOR selinux ON TABLE public.customers IS 'x'`},
			{"42501", `CREATE TRANSFORM FOR numeric LANGUAGE sql (FROM SQL WITH FUNCTION alice.spy(int))`},
			{"42501", `CREATE CAST (integer AS double precision) WITH FUNCTION alice.spy(int)`},
			{"42501", `CREATE OPERATOR CLASS alice.ints DEFAULT FOR TYPE integer USING btree AS FUNCTION 1 btint4cmp(integer, integer)`},
			{"42501", `CREATE TYPE alice.t; CREATE FUNCTION alice.t_in(cstring) RETURNS alice.t LANGUAGE internal IMMUTABLE STRICT AS 'int4in'; CREATE FUNCTION alice.t_out(alice.t) RETURNS cstring LANGUAGE internal IMMUTABLE STRICT AS 'int4out'`},
			// Scrim's functions
			{"42501", `SELECT scrim.create_masking_policy('x', 'public.customers', '{age}', '{}', '$ALICE')`},
			{"42501", `SELECT scrim.drop_masking_policy('p', 'public.customers')`},
			{"42501", `SELECT scrim.fence_withdraw('public.customers', false)`},
			{"42501", `SELECT scrim.fence_prepare('public.customers')`},
			{"42501", `SELECT scrim.fence_publish('public.customers', ` + definition(`'{3}', '{1}', '{3,4,5,6}', '$ALICE', 'VECTOR'`) + `, NULL, false, '[]', '[]')`},
			{"42501", `SELECT scrim.fence_publish('alice.two', ` + definition(`'{2}', '{1}', '{2,3,4,5}', 'enc', 'VECTOR'`) + `, NULL, false, '[]', '[]')`}, // olga's encoder
			{"42501", `SELECT scrim.create_masking_policy('x', 'alice.two', '{age}', '{}', 'enc')`},
			{"42501", `SELECT scrim.masking_policy_openings('p', 'public.customers')`},
			{"42501", `SELECT scrim.fence_regrant('public.customers', ` + entry + `, false)`},
			{"42501", `SELECT scrim.fence_regrant('public.customers', ` + entry + `, true)`},
			{"42501", `SELECT scrim.fence_regrant('$VIEW', ` + entry + `, false)`},
			{"42501", `SELECT scrim.fence_convert('public.customers', ` + definition(`'{3}', '{1}', '{3,4,5,6}', 'enc', 'VECTOR'`) + `, true)`},
			{"2BP01", `SELECT scrim.drop_encoder('enc')`},
			{"42710", `SELECT scrim.create_encoder('enc', 'alice.one', '{age}')`},
			{"42501", `SELECT scrim.create_encoder('enc', 'alice.one', '{age}', or_replace => true)`},
			{"42501", `SELECT scrim.create_encoder('other', 'public.customers', '{age}')`},
			{"42501", `SELECT scrim.train_encoder('enc')`},
			{"42501", `SELECT scrim.schedule_training('enc', '1 hour')`},
			{"42501", `SELECT scrim.begin_training(1, 1, 'x')`},
			{"42501", `SELECT scrim.publish_version(1, 1, repeat('0', 64), 1, 1, '[]', '[]')`},
			{"42501", `SELECT scrim.close_trainers()`},
			{"42501", `SELECT scrim.prepare_trainer('risk'::regrole)`},
			{"42501", `SELECT scrim.enqueue_training(1, '$ALICE'::regrole, 'statement')`},
			{"42501", `SELECT scrim.run_schedule(1, '1 day', now(), now())`},
			{"42501", `SELECT scrim.rescue_training()`},
			{"42501", `SELECT scrim.create_masking_policy('x', '$VIEW', '{id}', '{}', '$ALICE')`},
			// her own table, after the policy
			{"0A000", `ALTER TABLE alice.one ALTER COLUMN age TYPE bigint`},
			{"2BP01", `ALTER TABLE alice.one DROP COLUMN age`},
			{"2BP01", `DROP TABLE alice.one`},
			{"42710", `SELECT scrim.create_masking_policy('again', 'alice.one', '{age}', '{}', '$ALICE')`},
		} {
			e.exec(t, conn, `BEGIN`)
			if _, err := text(t, conn, names.Replace(c.statement)); code(err) != c.want {
				t.Errorf("%s\ngot %s, want %s", names.Replace(c.statement), explain(err), c.want)
			}
			e.exec(t, conn, `ROLLBACK`)
		}
		reads := fmt.Sprintf(`SELECT c.oid::regclass FROM pg_class c WHERE c.relnamespace IN ('scrim_state'::regnamespace, 'scrim_runtime'::regnamespace) AND c.relkind IN ('r', 'v')
			AND has_any_column_privilege('%s', c.oid, 'SELECT') UNION ALL SELECT 'public.customers' WHERE has_any_column_privilege('%[1]s', 'public.customers', 'SELECT')`, alice)
		if got := mustText(t, admin, reads); got != "" {
			t.Errorf("alice may read\n%s", got)
		}
	})
}

// TestOwnersTable: what alice does to a protected table afterwards shows its readers no more than before, and herself
// nothing of olga's: her code has the rights of those who read, and of the role that owns the masked view, which reads her
// tables and no others. $TRY is what the analyst reads then, through the proxy.
func TestOwnersTable(t *testing.T) {
	onEachProtected(t, func(t *testing.T, e *env) {
		alice := hostile(t, e)
		conn, admin := aliceMade(t, e, alice), e.admin(t)
		e.exec(t, conn, `CREATE MASKING POLICY mine ON alice.one (age, income, score) USING ENCODER `+alice)
		view := strings.TrimSpace(mustText(t, admin, `SELECT x.masked_view::regclass FROM scrim_state.protections x JOIN scrim_state.policies p ON p.protection = x.id WHERE p.name = 'mine'`))
		honest := mustText(t, e.connect(t, analyst), `SELECT id, age FROM alice.one WHERE id = 7`)
		for _, c := range []struct {
			name       string
			statements []string
			want       string // what the analyst's read gives: the honest rows, or an SQLSTATE
			undo       []string
		}{
			{
				"row security that reads olga's table",
				[]string{`CREATE POLICY p ON alice.one USING (EXISTS (SELECT 1 FROM public.customers WHERE income > 2000000))`, `ALTER TABLE alice.one ENABLE ROW LEVEL SECURITY`},
				"0A000",
				[]string{`ALTER TABLE alice.one DISABLE ROW LEVEL SECURITY`, `DROP POLICY p ON alice.one`},
			},
			{
				"row security that spies",
				[]string{`CREATE POLICY p ON alice.one USING (alice.spy(1) = 1)`, `ALTER TABLE alice.one ENABLE ROW LEVEL SECURITY, FORCE ROW LEVEL SECURITY`},
				"0A000",
				[]string{`ALTER TABLE alice.one DISABLE ROW LEVEL SECURITY, NO FORCE ROW LEVEL SECURITY`, `DROP POLICY p ON alice.one`},
			},
			{
				"columns that exchange their names",
				[]string{`ALTER TABLE alice.one RENAME age TO x`, `ALTER TABLE alice.one RENAME vip TO age`, `ALTER TABLE alice.one RENAME x TO vip`},
				"7|f\n",
				[]string{`ALTER TABLE alice.one RENAME vip TO x`, `ALTER TABLE alice.one RENAME age TO vip`, `ALTER TABLE alice.one RENAME x TO age`},
			},
			{
				"another table in its place",
				[]string{`ALTER TABLE alice.one RENAME TO gone`, `CREATE VIEW alice.one AS SELECT id, income AS age FROM public.customers`, `GRANT SELECT ON alice.one TO analyst`},
				"42501",
				[]string{`DROP VIEW alice.one`, `ALTER TABLE alice.gone RENAME TO one`},
			},
			{
				"a view of her own over the masked view",
				[]string{`ALTER TABLE alice.one RENAME TO gone`, `CREATE VIEW alice.one AS SELECT id, sealed_2 AS age FROM ` + view, `GRANT SELECT ON alice.one TO analyst`},
				"42501",
				[]string{`DROP VIEW alice.one`, `ALTER TABLE alice.gone RENAME TO one`},
			},
			{"a table of the masked view's name", []string{`CREATE TABLE alice."` + strings.TrimPrefix(view, "scrim_runtime.") + `" AS SELECT 1 AS id`}, honest, nil},
			{"a rule", []string{`CREATE RULE r AS ON UPDATE TO alice.one DO INSTEAD SELECT alice.spy(1)`}, honest, []string{`DROP RULE r ON alice.one`}},
			{"a child", []string{`CREATE TABLE alice.kid () INHERITS (alice.one)`, `INSERT INTO alice.kid (id, age, watched) VALUES (7, 1, 1)`}, "", []string{`DROP TABLE alice.kid`}},
		} {
			for _, s := range c.statements {
				e.exec(t, e.directly(t, alice), s)
			}
			got, err := text(t, e.connect(t, analyst), `SELECT id, age FROM alice.one WHERE id = 7`)
			if err != nil {
				got = code(err)
			}
			if got != c.want && c.want != "" {
				t.Errorf("%s: %q, want %q", c.name, got, c.want)
			}
			for _, way := range []string{e.dsn(analyst), e.directDSN(analyst)} {
				said := overheard(t, way, []string{`SELECT * FROM ` + view + ` LIMIT 1`, `EXPLAIN (VERBOSE) SELECT * FROM alice.one`, `UPDATE alice.one SET note = note`, `TABLE alice.one`}, false)
				checkCanaries(t, c.name, said)
			}
			for _, s := range c.undo {
				e.exec(t, e.directly(t, alice), s)
			}
			if got := mustText(t, e.connect(t, analyst), `SELECT id, age FROM alice.one WHERE id = 7`); got != honest {
				t.Errorf("after %s: %q", c.name, got)
			}
		}
		if got := spied(t, e); strings.Contains(got, "it reads") {
			t.Error(got)
		}
	})
}

// TestRoleMadeBefore: somebody with CREATEROLE makes the role that will own masked views before Scrim does, has it own code or
// tables that run with its rights by themselves, and leaves no membership behind that would show. It is refused.
func TestRoleMadeBefore(t *testing.T) {
	onEach(t, func(t *testing.T, e *env) {
		admin := e.admin(t)
		for _, owned := range []string{
			`CREATE FUNCTION mine.peek() RETURNS numeric LANGUAGE sql SECURITY DEFINER AS 'SELECT max(income) FROM public.customers'; REVOKE EXECUTE ON FUNCTION mine.peek() FROM PUBLIC`,
			`CREATE FUNCTION mine.tell(x int) RETURNS int IMMUTABLE LANGUAGE plpgsql AS $$ BEGIN INSERT INTO mine.told SELECT income FROM public.customers; RETURN x; END $$;
				CREATE TABLE mine.told (x numeric); GRANT SELECT ON mine.told TO PUBLIC; CREATE TABLE mine.analyzed (x int); CREATE INDEX ON mine.analyzed (mine.tell(x))`,
			`CREATE VIEW mine.peek AS SELECT income FROM public.customers`,
			`ALTER DEFAULT PRIVILEGES GRANT SELECT ON TABLES TO guest`,
		} {
			owner := "owner_" + e.database
			e.exec(t, admin, `BEGIN`, `CREATE ROLE `+owner, `ALTER TABLE customers OWNER TO `+owner)
			role := strings.TrimSpace(mustText(t, admin, `SELECT 'scrim_owner_' || relowner FROM pg_class WHERE oid = 'customers'::regclass`))
			e.exec(t, admin, `CREATE ROLE `+role, `CREATE SCHEMA mine AUTHORIZATION `+role, `SET LOCAL ROLE `+role, owned, `RESET ROLE`, `ALTER SCHEMA mine OWNER TO guest`)
			_, err := text(t, admin, `SELECT scrim.create_masking_policy('p', 'customers', '{age}', '{risk}', 'enc')`)
			if code(err) != "55000" || !strings.Contains(explain(err), "was not made by Scrim") {
				t.Errorf("%s\n%s", owned, explain(err))
			}
			e.exec(t, admin, `ROLLBACK`)
		}
	})
}

// TestTableOfAnotherNow: olga's table becomes bob's. Its masked view stays the view of the role that was made for olga, which
// may so read one table of bob's; nothing of olga's runs with that right.
func TestTableOfAnotherNow(t *testing.T) {
	onEachProtected(t, func(t *testing.T, e *env) {
		admin, owner, bob := e.admin(t), e.connect(t, olga), "bob_"+e.database
		e.exec(t, owner, `CREATE TABLE other AS SELECT * FROM customers WHERE id <= 10`, `CREATE TABLE rows AS SELECT * FROM customers WHERE id <= 10`,
			`GRANT SELECT ON other, rows TO analyst`, `ALTER TABLE rows ENABLE ROW LEVEL SECURITY`, `CREATE POLICY theirs ON rows USING (true)`,
			`CREATE MASKING POLICY o ON other (age, income, score) USING ENCODER enc`, `CREATE MASKING POLICY r ON rows (age, income, score) USING ENCODER enc`)
		before := mustText(t, e.connect(t, analyst), `SELECT id, age FROM customers WHERE id = 2000`)
		e.exec(t, admin, `CREATE ROLE `+bob, `ALTER TABLE customers OWNER TO `+bob)
		t.Cleanup(func() {
			if err := e.superuser(context.Background(), e.database, `DROP OWNED BY `+bob+` CASCADE`, `DROP ROLE `+bob); err != nil {
				t.Error(err)
			}
		})
		if got := mustText(t, e.connect(t, analyst), `SELECT id, age FROM customers WHERE id = 2000`); got != before {
			t.Errorf("the analyst sees %q, not %q", got, before)
		}
		if _, err := text(t, e.connect(t, olga), `SELECT income FROM customers`); code(err) != "42501" {
			t.Errorf("olga, who owns it no more: %v", err)
		}
		// Row security is judged by the right of the view's owner, where it is judged: it would read bob's table for olga.
		tells := `EXISTS (SELECT 1 FROM public.customers c WHERE c.id = 2000 AND c.income = 2342108.75)`
		e.exec(t, e.directly(t, olga), `CREATE POLICY tells ON other AS RESTRICTIVE USING (`+tells+`)`, `CREATE POLICY every ON other USING (true)`, `ALTER TABLE other ENABLE ROW LEVEL SECURITY`,
			`CREATE POLICY tells ON rows AS RESTRICTIVE USING (`+tells+`)`)
		for name, want := range map[string]string{"o": "0A000", "r": ""} {
			view := strings.TrimSpace(mustText(t, admin, `SELECT x.masked_view::regclass FROM scrim_state.protections x JOIN scrim_state.policies p ON p.protection = x.id WHERE p.name = '`+name+`'`))
			if got, err := text(t, e.directly(t, analyst), `SELECT count(ctid) FROM `+view); code(err) != want || want == "" && got != "10\n" { // of seals alone: no policy is applied
				t.Errorf("%s around the proxy: %q %v", view, got, err)
			}
		}
		for _, table := range []string{"other", "rows"} {
			for _, query := range []string{`SELECT id, age FROM ` + table, `SELECT id, age + 0 FROM ` + table, `SELECT id FROM ` + table} {
				if got, err := text(t, e.connect(t, analyst), query); code(err) != "42501" && code(err) != "0A000" {
					t.Errorf("%s: %q %v", query, got, err)
				}
			}
		}
	})
}

// TestTableThatBecomesAView: before PostgreSQL 16 a rule can make a view of an empty table, which reads something else then.
func TestTableThatBecomesAView(t *testing.T) {
	onEachProtected(t, func(t *testing.T, e *env) {
		alice := hostile(t, e)
		conn := aliceMade(t, e, alice)
		e.exec(t, conn, `CREATE TABLE alice.empty (id int, age int, income numeric, score float8, vip bool)`, `REVOKE ALL ON alice.empty FROM PUBLIC`, `GRANT SELECT ON alice.empty TO analyst`,
			`CREATE MASKING POLICY mine ON alice.empty (age, income, score) USING ENCODER `+alice)
		_, err := text(t, e.directly(t, alice), `CREATE RULE "_RETURN" AS ON SELECT TO alice.empty DO INSTEAD SELECT id, age, income, score, vip FROM public.customers`)
		if code(err) != "42809" && code(err) != "" {
			t.Error(explain(err))
		}
		view := strings.TrimSpace(mustText(t, e.admin(t), `SELECT x.masked_view::regclass FROM scrim_state.protections x JOIN scrim_state.policies p ON p.protection = x.id WHERE p.name = 'mine'`))
		for _, query := range []string{`SELECT id, age FROM alice.empty`, `SELECT age + 0 FROM alice.empty`, `SELECT id FROM alice.empty`, `SELECT id FROM ` + view, `SELECT ctid FROM ` + view} {
			for _, dsn := range []string{e.dsn(analyst), e.directDSN(analyst)} {
				if got, err := text(t, dial(t, dsn), query); got != "" {
					t.Errorf("%s: %q, %v", query, got, err)
				}
			}
		}
	})
}

// TestHostileNames: names of schemas, tables, columns and policies are spelled into statements that a superuser runs. They stay
// names, whatever is in them.
func TestHostileNames(t *testing.T) {
	onEach(t, func(t *testing.T, e *env) {
		alice := hostile(t, e)
		conn, admin := e.directly(t, alice), e.admin(t)
		hostile := func(s string) string { return `"` + s + `'""); DROP TABLE public.orders; --%I%1$s\$$"` }
		table := hostile("s") + "." + hostile("t")
		e.exec(t, conn, `CREATE SCHEMA `+hostile("s"), `GRANT USAGE ON SCHEMA `+hostile("s")+` TO analyst`,
			`CREATE TABLE `+table+` (`+hostile("id")+` int, `+hostile("age")+` int, `+hostile("income")+` numeric, `+hostile("score")+` float8, `+hostile("vip")+` bool)`,
			`INSERT INTO `+table+` SELECT i, i % 60, i * 100, i / 3.0, i % 2 = 0 FROM generate_series(1, 50) i`, `GRANT SELECT ON `+table+` TO analyst`,
			`CREATE INDEX `+hostile("i")+` ON `+table+` (`+hostile("id")+`)`)
		literal := func(s string) string { return `'` + strings.ReplaceAll(s, `'`, `''`) + `'` }
		columns := func(names ...string) string {
			for i, n := range names {
				names[i] = literal(strings.ReplaceAll(strings.Trim(hostile(n), `"`), `""`, `"`))
			}
			return `ARRAY[` + strings.Join(names, ", ") + `]`
		}
		policy := literal(hostile("p")) + `, ` + literal(table)
		e.exec(t, admin, `SELECT scrim.create_masking_policy(`+policy+`, `+columns("age", "income", "score")+`, '{}', 'enc', `+columns("age", "income", "score", "vip")+`)`)
		if _, err := e.catalog.Reload(t.Context()); err != nil {
			t.Fatal(err)
		}
		for _, query := range []string{
			`SELECT ` + hostile("id") + `, ` + hostile("age") + ` FROM ` + table + ` WHERE ` + hostile("id") + ` = 7`,
			`SELECT ` + hostile("id") + `, ` + hostile("age") + ` + 0 FROM ` + table + ` x WHERE x.` + hostile("id") + ` = 7`,
		} {
			if got := mustText(t, e.connect(t, analyst), query); !strings.HasPrefix(got, "7|") || got == "7|7\n" {
				t.Errorf("%s: %q", query, got)
			}
		}
		e.exec(t, admin, `SELECT * FROM scrim.masking_policy_openings(`+policy+`)`, `SELECT * FROM scrim.masking_policies`, `SELECT scrim.drop_masking_policy(`+policy+`)`)
		if got := mustText(t, e.directly(t, analyst), `SELECT `+hostile("age")+` FROM `+table+` WHERE `+hostile("id")+` = 7`); got != "7\n" {
			t.Errorf("after DROP: %q", got)
		}
		if got := mustText(t, admin, `SELECT count(*) FROM public.orders`); got != "300\n" {
			t.Error(got)
		}
	})
}
