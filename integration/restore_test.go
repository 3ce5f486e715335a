package integration_test

import (
	"context"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/jackc/pgx/v5"

	"github.com/scrimdb/scrim/catalog"
	"github.com/scrimdb/scrim/native"
)

// dumper is a world whose server the installed pg_dump can dump.
func dumper(t *testing.T) *world {
	t.Helper()
	out, err := exec.CommandContext(t.Context(), "pg_dump", "--version").Output()
	if err != nil {
		t.Fatalf("pg_dump, psql and pg_restore must be on PATH: %v", err)
	}
	major, err := strconv.Atoi(regexp.MustCompile(`\d+`).FindString(string(out)))
	if err != nil {
		t.Fatal(err)
	}
	for _, w := range slices.Backward(worlds) {
		if w.binaries.Major <= major { // it refuses a server that is newer than itself
			return w
		}
	}
	t.Fatalf("pg_dump %d is older than every server here: install a server or a client of one version", major)
	return nil
}

// client runs one of PostgreSQL's programs as the superuser of a server.
func client(t *testing.T, server *native.Server, database, name string, args ...string) string {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), name, append([]string{"-d", server.DSN(server.Superuser(), server.Password(), database)}, args...)...)
	cmd.Env = append(os.Environ(), "PGOPTIONS=-c client_min_messages=warning")
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("%s: %v\n%s", name, err, out)
	}
	return string(out)
}

// restoredSQL makes, as olga, tables whose columns have other numbers after a restore.
const restoredSQL = `
ALTER TABLE customers DROP COLUMN region;
CREATE TABLE child (own integer) INHERITS (customers);
INSERT INTO child SELECT 5000 + i, 20 + i, 1000 * i, i, false, 'child', i FROM generate_series(1, 9) i;
GRANT SELECT ON child TO guest;
CREATE VIEW pay AS SELECT id, income, age, score, vip FROM customers;
GRANT SELECT ON pay TO analyst;
CREATE TABLE staff (gone text, id integer, salary integer, "gone too" text, name text, born date, email text);
ALTER TABLE staff DROP COLUMN gone, DROP COLUMN "gone too";
INSERT INTO staff SELECT i, 4000 + 317 * i, 'Person ' || i, date '1970-01-05' + 100 * i, 'p' || i || '@example.org' FROM generate_series(1, 20) i;
GRANT SELECT ON staff TO analyst, risk;
GRANT SELECT (id, name) ON staff TO guest;
CREATE TABLE accounts (gone integer, id integer, holder text, balance integer);
ALTER TABLE accounts DROP COLUMN gone, ENABLE ROW LEVEL SECURITY;
CREATE POLICY odd ON accounts USING (id % 2 = 1);
INSERT INTO accounts SELECT i, 'holder ' || i, 1000 * i FROM generate_series(1, 20) i;
GRANT SELECT ON accounts TO analyst`

// restoredQueries are asked by analyst, risk and guest.
var restoredQueries = []string{
	`SELECT id, age, income, score, "Note" FROM customers WHERE id < 20 OR id > 1995 ORDER BY id`,
	`SELECT max(income), min(score), count(*) FROM customers`,
	`SELECT id, income, own FROM child ORDER BY id`,
	`SELECT id, income FROM pay WHERE id < 10 ORDER BY id`,
	`SELECT * FROM staff ORDER BY id`,
	`SELECT id, full_name FROM staff ORDER BY id`,
	`SELECT count(*) FROM staff GROUP BY salary ORDER BY salary`,
	`SELECT * FROM accounts ORDER BY id`,
	`SELECT "Note", features FROM scrim_runtime.traits ORDER BY "Note", features LIMIT 20`,
}

// privilegesOf lists the privileges on every table of restoredSQL, as far as all versions have them.
func privilegesOf(t *testing.T, admin *pgx.Conn) string {
	t.Helper()
	var lines []string
	for _, table := range []string{"customers", "child", "pay", "staff", "accounts"} {
		for line := range strings.Lines(mustText(t, admin, strings.ReplaceAll(allPrivileges, "'customers'", "'"+table+"'"))) {
			if !strings.Contains(line, "MAINTAIN") {
				lines = append(lines, table+"|"+strings.ReplaceAll(line, "|name|", "|full_name|"))
			}
		}
	}
	slices.Sort(lines)
	return strings.Join(lines, "")
}

// numbered are the names of masked views, which have OIDs in them.
var numbered = regexp.MustCompile(`_\d+_(\d+)\b`)

// seen are the answers that roles get through a proxy.
func (e *env) seen(t *testing.T) string {
	t.Helper()
	var b strings.Builder
	for _, role := range []string{analyst, risk, guest} {
		conn := e.connect(t, role)
		for _, query := range restoredQueries {
			b.WriteString(role + ": " + query + "\n" + answers(t, conn, query, false) + answers(t, conn, query, true))
		}
	}
	return numbered.ReplaceAllString(b.String(), "_n_$1")
}

// source is a protected database to be dumped, and what must be the same in what is restored from it.
type source struct {
	*env
	unprotected, protected, seen string
	openings, maskKey, key       string
	custom, plain, globals       string
	olga                         string // her OID
}

func newSource(t *testing.T, w *world) *source {
	t.Helper()
	s := &source{env: w.fresh(t)}
	s.trains(t)
	admin, owner := s.admin(t), s.connect(t, olga)
	s.exec(t, admin, asOlga(strings.Split(restoredSQL, ";")...)...)
	s.exec(t, owner, `CREATE ENCODER traits_code ON customers (age, score) PASSTHROUGH ("Note") WITH (latent_dims = 2, epochs = 1, batch_size = 128, seed = 1) WAIT`)
	s.unprotected = privilegesOf(t, admin)
	s.exec(t, owner, `CREATE FEATURE VIEW traits FOR ENCODER traits_code`,
		testPolicy+` CASCADE`,
		`CREATE MASKING POLICY names ON staff (name, email) EXCEPT risk USING (scrim.hash(name || coalesce(email, '')))`,
		`CREATE MASKING POLICY pay ON staff (salary) EXCEPT risk USING (scrim.bucket(salary, 1000)) WHEN (id <> 7)`,
		`CREATE MASKING POLICY whole_years AS (v date) RETURNS date -> scrim.generalize(v, 'year')`,
		`ALTER TABLE staff ALTER COLUMN born SET MASKING POLICY whole_years`,
		`CREATE MASKING POLICY balances ON accounts (balance) USING (scrim.noise(balance, 10, id))`,
		`ALTER TABLE staff RENAME COLUMN name TO full_name`)
	s.exec(t, admin, `SELECT scrim.note_names()`) // as proxies do by themselves every minute
	s.protected, s.seen = privilegesOf(t, admin), s.env.seen(t)
	s.openings = s.found(t, admin)
	s.key, s.maskKey = s.keys(t, admin)
	s.olga = strings.TrimSpace(mustText(t, admin, `SELECT 'olga'::regrole::oid`))
	dir := t.TempDir()
	s.custom, s.plain, s.globals = filepath.Join(dir, "custom"), filepath.Join(dir, "plain"), filepath.Join(dir, "globals")
	client(t, s.server, s.database, "pg_dump", "-Fc", "-f", s.custom)
	client(t, s.server, s.database, "pg_dump", "-f", s.plain)
	client(t, s.server, "postgres", "pg_dumpall", "--globals-only", "-f", s.globals)
	return s
}

func (e *env) found(t *testing.T, admin *pgx.Conn) string {
	t.Helper()
	return mustText(t, admin, `SELECT severity, kind, relation, object, why FROM scrim.doctor() WHERE relation <> ''`)
}

func (e *env) keys(t *testing.T, admin *pgx.Conn) (seals, masks string) {
	t.Helper()
	owner := mustText(t, admin, `SELECT relowner FROM pg_class WHERE oid = 'customers'::regclass`)
	owner = strings.TrimSpace(owner)
	return mustText(t, admin, `SELECT key FROM scrim_state.key_`+owner), mustText(t, admin, `SELECT inner_key || outer_key FROM scrim_state.mask_key_`+owner)
}

// TestRestore: what pg_dump wrote of a protected database is closed wherever it is restored, and masked as before after scrim init.
func TestRestore(t *testing.T) {
	t.Parallel()
	s := newSource(t, dumper(t))
	t.Run("same cluster", func(t *testing.T) {
		s.restored(t, s.world, s.database+"_again", func(e *env) {
			client(t, e.server, e.database, "pg_restore", "--exit-on-error", s.custom)
		})
	})
	for _, w := range worlds {
		t.Run("other cluster "+w.name, func(t *testing.T) {
			server, err := native.StartServer(t.Context(), native.ServerConfig{Binaries: w.binaries, Password: s.server.Password(), Log: testLog(), Settings: map[string]string{"fsync": "off"}})
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() { _ = server.Stop(context.WithoutCancel(t.Context())) })
			other := &world{name: w.name, binaries: w.binaries, server: server, models: s.models, rt: s.rt, mu: make(chan struct{}, 1)}
			// Roles of the same OIDs, but not the same roles.
			if err := other.superuser(t.Context(), "postgres", `DO $$ BEGIN FOR i IN 1..40 LOOP EXECUTE format('CREATE ROLE other_%s', i); END LOOP; END $$`); err != nil {
				t.Fatal(err)
			}
			client(t, server, "postgres", "psql", "-q", "-f", s.globals) // all but the superuser, who is there
			if got := mustText(t, dial(t, server.DSN(server.Superuser(), server.Password(), "postgres")), `SELECT rolname ~ '^other_' FROM pg_roles WHERE oid = `+s.olga); got != "t\n" {
				t.Fatalf("olga's OID is not another's here: %s", got)
			}
			s.restored(t, other, "restored", func(e *env) {
				if w == s.world {
					client(t, e.server, e.database, "psql", "-q", "-v", "ON_ERROR_STOP=1", "-f", s.plain)
				} else {
					client(t, e.server, e.database, "pg_restore", "--exit-on-error", s.custom)
				}
			})
		})
	}
}

// restored checks a database that restore fills.
func (s *source) restored(t *testing.T, w *world, database string, restore func(*env)) {
	ctx := t.Context()
	if err := w.superuser(ctx, "postgres", `CREATE DATABASE `+database+` TEMPLATE template0`); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = w.superuser(context.Background(), "postgres", `DROP DATABASE `+database+` WITH (FORCE)`) })
	e := &env{world: w, database: database, models: t.TempDir(), catalogDSN: w.server.DSN(w.server.Superuser(), w.server.Password(), database)}
	if err := os.CopyFS(e.models, os.DirFS(s.models)); err != nil { // a database's own, as its versions will be
		t.Fatal(err)
	}
	if err := os.Remove(filepath.Join(e.models, ".scrim-database")); err != nil { // it says whose folder the first is
		t.Fatal(err)
	}
	restore(e)
	admin := e.admin(t)
	e.closedBefore(t, admin, s)

	result, err := catalog.Init(ctx, admin)
	if err != nil {
		t.Fatal(explain(err))
	}
	if !result.Restored || len(result.Closed) > 0 {
		t.Errorf("init: %v %q", result.Restored, result.Closed)
	}
	if got := privilegesOf(t, admin); got != s.protected {
		t.Errorf("privileges after init:\n%s", difference(s.protected, got))
	}
	key, maskKey := e.keys(t, admin)
	if key == s.key || maskKey != s.maskKey {
		t.Errorf("the key of seals is the dumped one: %v; that of hashes: %v", key == s.key, maskKey == s.maskKey)
	}
	if got := e.found(t, admin); got != s.openings {
		t.Errorf("the doctor:\n%s", difference(s.openings, got))
	}
	// The role whose name has the OID of another cluster's olga, which is another role's here, has nothing left.
	if got := mustText(t, admin, `SELECT count(*) FROM pg_shdepend d JOIN pg_roles r ON r.oid = d.refobjid JOIN pg_database b ON b.oid = d.dbid
			WHERE d.refclassid = 'pg_authid'::regclass AND r.rolname = 'scrim_owner_`+s.olga+`' AND r.rolname <> 'scrim_owner_' || 'olga'::regrole::oid AND b.datname = current_database()`); got != "0\n" {
		t.Errorf("scrim_owner_%s has still %s privileges", s.olga, got)
	}
	if again, err := catalog.Init(ctx, admin); err != nil || again.Restored {
		t.Errorf("a second init: %v %v", again, err)
	}
	through := e.opened(t)
	if got := through.seen(t); got != s.seen {
		t.Errorf("through the proxy:\n%s", difference(s.seen, got))
	}
	owner := through.connect(t, olga)
	e.exec(t, owner, `DROP MASKING POLICY p ON customers`, `DROP MASKING POLICY names ON staff`, `DROP MASKING POLICY pay ON staff`, `DROP MASKING POLICY whole_years ON staff`,
		`DROP MASKING POLICY balances ON accounts`, `DROP FEATURE VIEW traits`)
	if got := privilegesOf(t, admin); got != s.unprotected {
		t.Errorf("privileges after DROP:\n%s", difference(s.unprotected, got))
	}
	if got := mustText(t, admin, `SELECT count(*) FROM pg_class WHERE relnamespace = 'scrim_runtime'::regnamespace AND relkind = 'v'`); got != "0\n" {
		t.Errorf("%s views are left", got)
	}
	through.trains(t)
	e.exec(t, owner, testPolicy+` CASCADE`, `TRAIN ENCODER enc WAIT`)
}

// closedBefore checks a restored database that init has not seen.
func (e *env) closedBefore(t *testing.T, admin *pgx.Conn, s *source) {
	t.Helper()
	if got := privilegesOf(t, admin); got != s.protected {
		t.Errorf("privileges as restored:\n%s", difference(s.protected, got))
	}
	for _, role := range []string{analyst, guest} {
		directly := e.directly(t, role)
		for _, query := range []string{`SELECT income FROM customers`, `SELECT * FROM child`, `SELECT income FROM pay`, `SELECT salary FROM staff`, `SELECT balance FROM accounts`, `SELECT * FROM scrim_runtime.traits`} {
			if got, err := text(t, directly, query); code(err) != "42501" {
				t.Errorf("%s: %s: %s %s", role, query, got, explain(err))
			}
		}
		for column := range strings.Lines(mustText(t, admin, `SELECT format('SELECT %I FROM %s', a.attname, a.attrelid::regclass) FROM pg_attribute a JOIN pg_class c ON c.oid = a.attrelid
				WHERE c.relnamespace = 'scrim_runtime'::regnamespace AND c.relkind = 'v' AND c.relname <> 'traits' AND a.attnum > 0 AND has_column_privilege('`+role+`', a.attrelid, a.attnum, 'SELECT')`)) {
			if got, err := text(t, directly, column); code(err) != "55000" || !strings.Contains(explain(err), "scrim init") {
				t.Errorf("%s: %s: %s %s", role, column, got, explain(err))
			}
		}
	}
	if got := mustText(t, e.directly(t, risk), `SELECT income FROM customers WHERE id = 2000`); got != "2342108.75\n" {
		t.Error(got)
	}
	for _, statement := range []string{
		`SELECT scrim.drop_masking_policy('p', 'customers')`, `SELECT scrim.rotate_key('p', 'customers')`, `SELECT scrim.resume('staff')`, `SELECT scrim.train_encoder('enc')`,
		`SELECT scrim.drop_model('m', true)`, `SELECT scrim.drop_masking_policy_definition('whole_years')`, `SELECT scrim.set_masking_policy_body('whole_years', 'v')`,
	} {
		if _, err := text(t, e.directly(t, olga), statement); code(err) != "55000" || !strings.Contains(explain(err), "scrim init") {
			t.Errorf("%s: %s", statement, explain(err))
		}
	}
	if _, err := openProxy(t.Context(), e.server.Addr(), e.catalogDSN, e.models, s.rt); !errors.Is(err, catalog.ErrRestored) || !strings.Contains(err.Error(), "scrim init") {
		t.Errorf("a proxy without init: %v", err)
	}
}

// dumpInto restores a dump of a database into another one of the same cluster, by plain SQL.
func (e *env) dumpInto(t *testing.T, database string) *env {
	t.Helper()
	file := filepath.Join(t.TempDir(), "dump")
	client(t, e.server, e.database, "pg_dump", "-f", file)
	if err := e.superuser(t.Context(), "postgres", `DROP DATABASE IF EXISTS `+database+` WITH (FORCE)`, `CREATE DATABASE `+database+` TEMPLATE template0`); err != nil {
		t.Fatal(err)
	}
	if database != e.database {
		t.Cleanup(func() { _ = e.superuser(context.Background(), "postgres", `DROP DATABASE `+database+` WITH (FORCE)`) })
	}
	client(t, e.server, database, "psql", "-q", "-v", "ON_ERROR_STOP=1", "-f", file)
	return &env{world: e.world, database: database, models: e.models, catalogDSN: e.server.DSN(e.server.Superuser(), e.server.Password(), database)}
}

// opened is a proxy of a database.
func (e *env) opened(t *testing.T) *env {
	t.Helper()
	through, err := openProxy(t.Context(), e.server.Addr(), e.catalogDSN, e.models, e.rt)
	if err != nil {
		t.Fatal(err)
	}
	through.world, through.database = e.world, e.database
	t.Cleanup(through.close)
	return through
}

// TestRestoreReplaces: a proxy that runs while its database is dropped and restored under the same name notices, and serves again after scrim init.
func TestRestoreReplaces(t *testing.T) {
	t.Parallel()
	e := dumper(t).fresh(t)
	e.exec(t, e.connect(t, olga), testPolicy)
	const query = `SELECT id, income FROM customers WHERE id < 9 ORDER BY id`
	want := mustText(t, e.connect(t, analyst), query)
	e.dumpInto(t, e.database)
	eventually(t, func() bool {
		_, err := e.catalog.Reload(t.Context())
		return errors.Is(err, catalog.ErrRestored)
	})
	if got, err := text(t, e.connect(t, analyst), query); code(err) != "42501" {
		t.Errorf("before init: %s %s", got, explain(err))
	}
	if _, err := catalog.Init(t.Context(), e.admin(t)); err != nil {
		t.Fatal(explain(err))
	}
	eventually(t, func() bool {
		_, err := e.catalog.Reload(t.Context())
		return err == nil
	})
	if got := mustText(t, e.connect(t, analyst), query); got != want {
		t.Error(difference(want, got))
	}
}

// TestRestoreReports: what cannot be masked as it was stays closed, and init says so: a way that was opened, a column whose new name neither the event trigger nor a proxy has noted, a relation that is not there. Roles
// that were dropped before the dump are nobody's after it.
func TestRestoreReports(t *testing.T) {
	t.Parallel()
	e := dumper(t).fresh(t)
	admin, owner := e.admin(t), e.connect(t, olga)
	dropped := extraRole(t, e, guest)
	e.exec(t, admin, asOlga(strings.Split(restoredSQL, ";")...)...)
	e.exec(t, admin, asOlga(`CREATE TABLE moved (id integer, secret text)`, `CREATE TABLE lost (id integer, secret text)`, `GRANT SELECT ON moved, lost TO analyst`, `GRANT SELECT ON staff TO `+dropped)...)
	e.exec(t, owner, testPolicy+` CASCADE`, `CREATE MASKING POLICY pay ON staff (salary) EXCEPT risk, `+dropped+` USING (NULL)`, `CREATE MASKING POLICY m ON moved (secret) USING (NULL)`,
		`CREATE MASKING POLICY l ON lost (secret) USING (NULL)`, `CREATE MASKING POLICY a ON accounts (balance) USING (NULL)`, `SELECT scrim.suspend('accounts')`,
		`CREATE MASKING POLICY o ON orders (amount) USING (NULL)`, `ALTER MASKING POLICY o ON orders DISABLE`)
	e.exec(t, admin, `ALTER EVENT TRIGGER scrim_ddl DISABLE`, `ALTER TABLE moved RENAME COLUMN secret TO still_secret`, `DROP TABLE lost CASCADE`)
	e.exec(t, admin, `REVOKE ALL ON staff FROM `+dropped, `ALTER ROLE `+dropped+` RENAME TO gone_`+e.database)
	t.Cleanup(func() {
		_ = e.superuser(context.Background(), "postgres", `ALTER ROLE gone_`+e.database+` RENAME TO `+dropped)
	})
	again := e.dumpInto(t, e.database+"_again")
	restored := again.admin(t)
	e.exec(t, restored, asOlga(`CREATE VIEW peek AS SELECT income + 1 AS more FROM customers`, `GRANT SELECT ON peek TO guest`)...)
	result, err := catalog.Init(t.Context(), restored)
	if err != nil {
		t.Fatal(explain(err))
	}
	report := strings.Join(result.Closed, "\n")
	for _, want := range []string{
		`masks of public.customers stay suspended`, `view public.peek`, `SELECT scrim.resume('public.customers')`,
		`masks of public.moved stay suspended: a masked column of public.moved, or an input of its mask, was dropped`, `DROP MASKING POLICY m ON public.moved`,
	} {
		if !strings.Contains(report, want) {
			t.Errorf("init does not say %q:\n%s", want, report)
		}
	}
	if len(result.Closed) > 3 || strings.Contains(report, "staff") {
		t.Error(report)
	}
	through := again.opened(t)
	reader, owner := through.connect(t, analyst), through.connect(t, olga)
	for _, query := range []string{`SELECT income FROM customers`, `SELECT max(income) FROM child`, `SELECT income FROM pay`, `SELECT * FROM moved`} {
		if got, err := text(t, reader, query); code(err) != "42501" {
			t.Errorf("%s: %s %s", query, got, explain(err))
		}
	}
	if _, err := text(t, owner, `SELECT scrim.resume('moved')`); code(err) != "55000" {
		t.Errorf("resume without its column: %s", explain(err))
	}
	e.exec(t, restored, `DROP VIEW peek`)
	e.exec(t, owner, `SELECT scrim.resume('customers')`, `DROP MASKING POLICY m ON moved`, `CREATE MASKING POLICY m ON moved (still_secret) USING (NULL)`)
	for _, query := range []string{`SELECT max(income) FROM customers`, `SELECT count(income) FROM pay`, `SELECT count(still_secret) FROM moved`, `SELECT count(salary) FROM staff`} {
		mustText(t, reader, query)
	}
	// What was suspended or disabled before is so.
	for query, want := range map[string]string{`SELECT balance FROM accounts`: `while they are suspended`, `SELECT amount FROM orders`: `masking policy "o" on public.orders is disabled`} {
		if got, err := text(t, reader, query); code(err) != "42501" || !strings.Contains(explain(err), want) {
			t.Errorf("%s: %s %s", query, got, explain(err))
		}
	}
	e.exec(t, owner, `SELECT scrim.resume('accounts')`, `ALTER MASKING POLICY o ON orders ENABLE`)
	if _, err := through.catalog.Reload(t.Context()); err != nil {
		t.Fatal(err)
	}
	for _, query := range []string{`SELECT count(balance) FROM accounts`, `SELECT count(amount) FROM orders`} {
		if got := mustText(t, reader, query); got != "0\n" {
			t.Errorf("%s: %s", query, got)
		}
	}
	// A dump without the names has no policies, and says so.
	e.exec(t, restored, `DELETE FROM scrim_state.known_relations WHERE relation = 'orders'::regclass`)
	if result, err := catalog.Init(t.Context(), restored); err != nil || !result.Restored || !strings.Contains(strings.Join(result.Closed, "\n"), `policy o is forgotten`) {
		t.Errorf("without names: %v %v", result, err)
	}
	if got, err := text(t, again.directly(t, analyst), `SELECT amount FROM orders`); code(err) != "42501" {
		t.Errorf("of a forgotten policy: %s %s", got, explain(err))
	}
	if _, err := through.catalog.Reload(t.Context()); err != nil {
		t.Fatal(err)
	}
	e.exec(t, owner, `DROP MASKING POLICY m ON moved`)
	if got := mustText(t, restored, `SELECT has_table_privilege('analyst', 'moved', 'SELECT'), has_table_privilege('guest', 'moved', 'SELECT')`); got != "t|f\n" {
		t.Error(got)
	}
}

// TestTemplateCopy: a database that is copied by CREATE DATABASE ... TEMPLATE is masked as the first, by a proxy of its own, without scrim init.
func TestTemplateCopy(t *testing.T) {
	t.Parallel()
	onServers(t, func(t *testing.T, w *world) {
		e := w.fresh(t)
		e.exec(t, e.connect(t, olga), testPolicy, `CREATE MASKING POLICY note ON customers ("Note") USING (scrim.hash("Note"))`)
		const query = `SELECT id, income, "Note" FROM customers WHERE id < 9 OR id > 1995 ORDER BY id`
		want, privileges := mustText(t, e.connect(t, analyst), query), mustText(t, e.admin(t), allPrivileges)
		e.close()
		e.close = func() {}
		database := e.database + "_copy"
		if err := w.superuser(t.Context(), "postgres", `SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = '`+e.database+`'`, `CREATE DATABASE `+database+` TEMPLATE `+e.database); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = w.superuser(context.Background(), "postgres", `DROP DATABASE `+database+` WITH (FORCE)`) })
		through := (&env{world: w, database: database, models: e.models, catalogDSN: w.server.DSN(w.server.Superuser(), w.server.Password(), database)}).opened(t)
		if got := mustText(t, through.connect(t, analyst), query); got != want {
			t.Error(difference(want, got))
		}
		if got, err := text(t, through.directly(t, analyst), query); code(err) != "42501" {
			t.Errorf("directly: %s %s", got, explain(err))
		}
		admin := through.admin(t)
		if got := mustText(t, admin, allPrivileges); got != privileges {
			t.Error(difference(privileges, got))
		}
		if result, err := catalog.Init(t.Context(), admin); err != nil || result.Restored {
			t.Errorf("init of a copy: %v %v", result, err)
		}
		e.exec(t, through.connect(t, olga), `ALTER MASKING POLICY p ON customers ROTATE KEY`)
		if got := mustText(t, through.connect(t, analyst), query); got != want {
			t.Error(difference(want, got))
		}
		// pg_upgrade keeps OIDs, and makes another cluster.
		e.exec(t, admin, `UPDATE scrim_state.home SET system_identifier = 1`)
		if _, err := through.catalog.Reload(t.Context()); !errors.Is(err, catalog.ErrRestored) {
			t.Errorf("upgraded: %v", err)
		}
		if result, err := catalog.Init(t.Context(), admin); err != nil || !result.Restored || len(result.Closed) > 0 {
			t.Errorf("init of an upgraded database: %v %v", result, err)
		}
		if _, err := through.catalog.Reload(t.Context()); err != nil {
			t.Error(err)
		}
		if got := mustText(t, through.connect(t, analyst), query); got != want {
			t.Error(difference(want, got))
		}
	})
}

// TestRestoreWithoutSuperuser: where the catalog role is no superuser, init binds policies, and owners of tables open their masks.
func TestRestoreWithoutSuperuser(t *testing.T) {
	t.Parallel()
	binaries := dumper(t).binaries
	server, err := native.StartServer(t.Context(), native.ServerConfig{Binaries: binaries, Log: testLog(), Settings: map[string]string{"fsync": "off"}})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = server.Stop(context.WithoutCancel(t.Context())) })
	w := &world{name: "other", binaries: binaries, server: server, models: t.TempDir(), rt: worlds[0].rt}
	const keeper, database = "keeper", "kept"
	statements := []string{`CREATE ROLE keeper LOGIN CREATEROLE PASSWORD 'keeper'`, `CREATE DATABASE kept OWNER keeper`, `CREATE DATABASE kept2 TEMPLATE template0 OWNER keeper`}
	for _, role := range []string{olga, analyst} {
		statements = append(statements, `CREATE ROLE `+role+` LOGIN PASSWORD '`+role+`'`)
	}
	if err := w.superuser(t.Context(), "postgres", statements...); err != nil {
		t.Fatal(err)
	}
	initAs := func(database string) catalog.InitResult {
		result, err := catalog.Init(t.Context(), dial(t, w.server.DSN(keeper, keeper, database)))
		if err != nil {
			t.Fatal(explain(err))
		}
		return result
	}
	initAs(database)
	made := &env{world: w, database: database, models: w.models}
	made.exec(t, made.admin(t), asOlga(`RESET SESSION AUTHORIZATION`, `GRANT scrim_admin TO olga`, `GRANT CREATE ON SCHEMA public TO olga`, `SET SESSION AUTHORIZATION olga`, `CREATE TABLE staff (gone text, id integer, email text, born date)`, `ALTER TABLE staff DROP COLUMN gone`,
		`INSERT INTO staff SELECT i, 'p' || i, date '1970-05-05' + i FROM generate_series(1, 5) i`, `GRANT SELECT ON staff TO analyst`,
		`SELECT scrim.create_sql_masking_policy('p', 'staff', '{email}', '{}', 'scrim.hash(email)')`,
		`SELECT scrim.define_masking_policy('years', '{v}', '{date}', 'date', $$scrim.generalize(v, 'year')$$)`, `SELECT scrim.set_column_masking_policy('staff', 'born', 'years')`)...)
	file := filepath.Join(t.TempDir(), "dump")
	client(t, w.server, database, "pg_dump", "-f", file)
	want := strings.TrimSpace(mustText(t, made.directly(t, analyst), `SELECT email FROM scrim_runtime.`+strings.TrimSpace(mustText(t, made.admin(t), `SELECT c.relname FROM pg_class c, scrim_state.protections x WHERE c.oid = x.masked_view`))+` LIMIT 1`))

	again := &env{world: w, database: database + "2", models: w.models, catalogDSN: w.server.DSN(keeper, keeper, database+"2")}
	client(t, w.server, again.database, "psql", "-q", "-v", "ON_ERROR_STOP=1", "-f", file)
	result := initAs(again.database)
	if !result.Restored || len(result.Closed) != 1 || !strings.Contains(result.Closed[0], `SELECT scrim.resume('public.staff')`) {
		t.Errorf("init: %v %q", result.Restored, result.Closed)
	}
	through := again.opened(t)
	if got, err := text(t, through.connect(t, analyst), `SELECT email FROM staff`); code(err) != "42501" {
		t.Errorf("before resume: %s %s", got, explain(err))
	}
	made.exec(t, through.connect(t, olga), `SELECT scrim.resume('staff')`)
	if _, err := through.catalog.Reload(t.Context()); err != nil {
		t.Fatal(err)
	}
	if got := strings.TrimSpace(mustText(t, through.connect(t, analyst), `SELECT email FROM staff WHERE id = 1`)); got != want {
		t.Errorf("%s was %s", got, want)
	}
	if got := mustText(t, through.connect(t, analyst), `SELECT born FROM staff WHERE id = 1`); got != "1970-01-01\n" {
		t.Error(got)
	}
}
