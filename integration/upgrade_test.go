package integration_test

import (
	"context"
	"encoding/binary"
	"errors"
	"flag"
	"fmt"
	"math"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/scrimdb/scrim/catalog"
	"github.com/scrimdb/scrim/sql"
)

// What users have in a database that is upgraded. %s owns the tables: a role of the test's, since its masked views want BYPASSRLS.
const upgradeTables = `
	CREATE TABLE parts (LIKE customers) PARTITION BY RANGE (id);
	CREATE TABLE low PARTITION OF parts FOR VALUES FROM (0) TO (1000);
	CREATE TABLE high PARTITION OF parts DEFAULT;
	INSERT INTO parts SELECT * FROM customers;
	CREATE TABLE secured AS SELECT * FROM customers;
	ALTER TABLE secured ENABLE ROW LEVEL SECURITY;
	CREATE POLICY europe ON secured USING (region = 'EU');
	CREATE TABLE quiet AS SELECT * FROM customers;
	GRANT SELECT ON parts, secured, quiet TO analyst, risk;
	GRANT SELECT (id, income), REFERENCES (age), UPDATE (region) ON low TO guest WITH GRANT OPTION;
	GRANT SELECT ON secured TO guest WITH GRANT OPTION;
	ALTER TABLE parts OWNER TO %[1]s; ALTER TABLE low OWNER TO %[1]s; ALTER TABLE high OWNER TO %[1]s;
	ALTER TABLE secured OWNER TO %[1]s; ALTER TABLE quiet OWNER TO %[1]s`

var upgradePolicies = []string{
	`SELECT scrim.create_masking_policy('p', 'parts', '{age,income,score}', '{risk}', 'enc')`,
	`SELECT scrim.create_masking_policy('s', 'secured', '{income}', '{risk}', 'enc')`,
	`SELECT scrim.create_masking_policy('q', 'quiet', '{age}', '{risk}', 'enc')`,
	`SELECT scrim.enable_masking_policy('q', 'quiet', false)`,
}

// upgradeReads are what the analyst sees of them.
var upgradeReads = []string{
	`SELECT id, region, age, income, score FROM parts WHERE id IN (1, 7, 999, 1000, 2000) ORDER BY id`,
	`SELECT max(income), count(*) FROM parts WHERE id < 50`,
	`SELECT id, income FROM secured WHERE id < 20 OR id = 2000 ORDER BY id`,
	`SELECT id, age FROM quiet WHERE id < 20`,
	`SELECT count(*), max(region) FROM quiet`,
}

// TestUpgrade: `scrim init` on the state that an older release left, with policies in place. testdata/upgrade has such states, each by the version of schema scrim_state:
// what Scrim had made for upgradePolicies, but for the migrations, which never change. `go test ./integration -run TestUpgrade -rewrite` writes that of the version of today, once for
// a release; what this test does to upgradeTables and upgradePolicies would have to be done in all of them.
func TestUpgrade(t *testing.T) {
	t.Parallel()
	onServers(t, func(t *testing.T, w *world) {
		if flag.Lookup("rewrite").Value.String() == "true" {
			writeState(t, w)
		}
		files, _ := filepath.Glob("testdata/upgrade/*.sql")
		if len(files) == 0 {
			t.Fatal("no states")
		}
		for _, file := range files {
			t.Run(strings.TrimSuffix(filepath.Base(file), ".sql"), func(t *testing.T) { upgrade(t, w, file) })
		}
	})
}

func upgrade(t *testing.T, w *world, file string) {
	want := codesOfToday(t, w)
	e, admin, owner := withTables(t, w)
	granted := cells(t, admin)
	restoreState(t, e, admin, owner, file)
	masked := cells(t, admin)

	stop := readMeanwhile(t, e, admin)
	from, err := strconv.Atoi(strings.TrimSuffix(filepath.Base(file), ".sql"))
	if err != nil {
		t.Fatal(err)
	}
	for i := range 3 {
		result, err := catalog.Init(t.Context(), e.admin(t))
		if err != nil {
			t.Fatal(explain(err))
		}
		if i == 0 && result.From != from {
			t.Errorf("the state was of version %d", result.From)
		}
	}
	stop()

	if lost, gained := missing(masked, cells(t, admin)), missing(cells(t, admin), masked); len(lost)+len(gained) > 0 {
		t.Errorf("privileges lost: %s\ngained: %s", lost, gained)
	}
	opened, err := w.open(t.Context(), e.database, w.models)
	if err != nil {
		t.Fatal(err)
	}
	defer opened.close()
	reader := opened.connect(t, analyst)
	for i, query := range upgradeReads {
		if got := answers(t, reader, query, i%2 == 0); got != want[i] {
			t.Errorf("%s:\n%s", query, difference(want[i], got))
		}
	}
	if got := mustText(t, opened.connect(t, risk), `SELECT income FROM parts WHERE id = 2000`); got != "2342108.75\n" {
		t.Errorf("the exempt role sees %s", got)
	}
	for _, f := range e.doctor(t, admin) {
		if f.Severity != catalog.SeverityNote {
			t.Errorf("doctor: %+v", f)
		}
	}
	// They can be changed and dropped, and everything comes back.
	conn := opened.connect(t, owner)
	e.exec(t, conn, `ALTER MASKING POLICY q ON quiet ENABLE`, `ALTER MASKING POLICY p ON parts RENAME TO p2`, `ALTER MASKING POLICY p2 ON parts ROTATE KEY`)
	if got, want := answers(t, reader, upgradeReads[0], true), want[0]; got != want {
		t.Errorf("with a new key:\n%s", difference(want, got))
	}
	e.exec(t, conn, `DROP MASKING POLICY p2 ON parts`, `DROP MASKING POLICY s ON secured`, `DROP MASKING POLICY q ON quiet`)
	if lost, gained := missing(granted, cells(t, admin)), missing(cells(t, admin), granted); len(lost)+len(gained) > 0 {
		t.Errorf("after DROP privileges are lost: %s\nand gained: %s", lost, gained)
	}
	e.exec(t, e.admin(t), `SELECT scrim.create_masking_policy('p', 'parts', '{age}', '{risk}', 'enc')`)
}

// withTables is a database with the tables, and their owner.
func withTables(t *testing.T, w *world) (e *env, admin *pgx.Conn, owner string) {
	t.Helper()
	var roles []string
	t.Cleanup(func() { // after the database is gone
		for _, role := range roles {
			if err := w.superuser(context.Background(), "postgres", `DROP ROLE IF EXISTS `+role); err != nil {
				t.Error(err)
			}
		}
	})
	e = w.bare(t)
	admin, owner = e.admin(t), "owner_"+e.database
	e.exec(t, admin, `CREATE ROLE `+owner+` LOGIN PASSWORD '`+cheapVerifier(owner)+`' IN ROLE scrim_admin`, fmt.Sprintf(upgradeTables, owner))
	roles = []string{owner, strings.TrimSpace(mustText(t, admin, `SELECT 'scrim_owner_' || '`+owner+`'::regrole::oid`))}
	return e, admin, owner
}

// codesOfToday are the answers where the policies are made today.
func codesOfToday(t *testing.T, w *world) (answered []string) {
	t.Helper()
	e, admin, _ := withTables(t, w)
	e.exec(t, admin, upgradePolicies...)
	opened, err := w.open(t.Context(), e.database, w.models)
	if err != nil {
		t.Fatal(err)
	}
	defer opened.close()
	reader := opened.connect(t, analyst)
	for i, query := range upgradeReads {
		answered = append(answered, answers(t, reader, query, i%2 == 0))
	}
	if strings.Contains(strings.Join(answered, ""), "2342108.75") || !strings.Contains(answered[3], "is disabled") || !strings.Contains(answered[2], "2000") {
		t.Fatalf("the analyst sees %s", answered)
	}
	return answered
}

// readMeanwhile reads as the analyst, around the proxy, what a proxy of the older release reads for him, over and over, and the tables themselves. stop ends that,
// and checks that it met nothing but sealed values and refusals.
func readMeanwhile(t *testing.T, e *env, admin *pgx.Conn) (stop func()) {
	t.Helper()
	views := strings.Fields(mustText(t, admin, `SELECT c.oid::regclass || ',' || a.attname FROM pg_class c JOIN pg_attribute a ON a.attrelid = c.oid AND a.attname LIKE 'sealed%'
		WHERE c.relnamespace = 'scrim_runtime'::regnamespace AND c.relkind = 'v'`))
	raw := binary.BigEndian.AppendUint64(nil, math.Float64bits(2342108.75)) // the income of customer 2000, as it goes into a seal
	var wg sync.WaitGroup
	var ends atomic.Bool
	var sealed, refused atomic.Int64
	for _, view := range views {
		name, column, _ := strings.Cut(view, ",")
		queries := []string{`SELECT ` + column + ` FROM ` + name + ` ORDER BY ctid DESC LIMIT 50`, `SELECT income FROM parts`, `SELECT income FROM secured`, `SELECT age FROM quiet`}
		conn := e.directly(t, analyst)
		wg.Go(func() {
			for ; !ends.Load(); time.Sleep(2 * time.Millisecond) {
				for i, query := range queries {
					r := conn.PgConn().ExecParams(t.Context(), query, nil, nil, nil, []int16{1})
					for r.NextRow() {
						if i > 0 || strings.Contains(string(r.Values()[0]), string(raw)) {
							t.Errorf("%s shows raw values", query)
						}
						sealed.Add(1)
					}
					if _, err := r.Close(); err != nil {
						refused.Add(1)
						if c := code(err); i > 0 && c != "42501" {
							t.Errorf("%s: %s", query, explain(err))
						}
					}
				}
			}
		})
	}
	return func() {
		ends.Store(true)
		wg.Wait()
		if sealed.Load() == 0 || refused.Load() == 0 {
			t.Errorf("%d sealed values, %d refusals", sealed.Load(), refused.Load())
		}
	}
}

// A state is SQL in which {oid of x} stands for the OID of a relation or role, and {hash} for that of the encoder's file. The lines between its parts
// say that names in what follows can be of what was made before.
const nextPart = "-- next\n"

var oidOf = regexp.MustCompile(`\{(rel|role) ([^{}]*)\}`)

// restoreState puts the state of a file in the place of Scrim's schemas.
func restoreState(t *testing.T, e *env, admin *pgx.Conn, owner, file string) {
	t.Helper()
	text, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	version, _ := strconv.Atoi(strings.TrimSuffix(filepath.Base(file), ".sql"))
	hash := strings.TrimSpace(mustText(t, admin, `SELECT sha256 FROM scrim.encoder_versions WHERE encoder = 'enc'`))
	e.exec(t, admin, `DROP SCHEMA scrim CASCADE`, `DROP SCHEMA scrim_state CASCADE`, `DROP SCHEMA scrim_runtime CASCADE`)
	parts := strings.Split(string(text), nextPart)
	migrations, err := sql.Migrations()
	if err != nil {
		t.Fatal(err)
	}
	e.exec(t, admin, `SET search_path = pg_catalog, pg_temp`, parts[0], `CREATE SCHEMA scrim_state; CREATE TABLE scrim_state.migrations (
		version integer PRIMARY KEY, name text NOT NULL, applied_at timestamptz NOT NULL DEFAULT now())`)
	for _, m := range migrations[:version] {
		e.exec(t, admin, m.SQL, fmt.Sprintf(`INSERT INTO scrim_state.migrations (version, name) VALUES (%d, '%s')`, m.Version, m.Name))
	}
	for _, part := range parts[1:] {
		part = strings.NewReplacer("{hash}", hash, "{owner}", owner).Replace(part)
		for oidOf.MatchString(part) { // they can be nested
			part = oidOf.ReplaceAllStringFunc(part, func(token string) string {
				m := oidOf.FindStringSubmatch(token)
				return strings.TrimSpace(mustText(t, admin, fmt.Sprintf(`SELECT '%s'::reg%s::oid`, m[2], map[string]string{"rel": "class", "role": "role"}[m[1]])))
			})
		}
		e.exec(t, admin, part)
	}
	// What schema scrim had then is gone at once, but it leans on the tables that are migrated.
	e.exec(t, admin, `RESET search_path`, `CREATE SCHEMA scrim`, `CREATE VIEW scrim.masking_policies AS SELECT * FROM scrim_state.policies`)
}

// writeState writes the state of today's version.
func writeState(t *testing.T, w *world) {
	t.Helper()
	migrations, err := sql.Migrations()
	if err != nil {
		t.Fatal(err)
	}
	runtime, err := sql.Runtime(true)
	if err != nil {
		t.Fatal(err)
	}
	e, admin, owner := withTables(t, w)
	e.exec(t, admin, upgradePolicies...)
	e.exec(t, admin, `SET search_path = pg_catalog, pg_temp`)
	parts := []string{
		fmt.Sprintf("-- Made by TestUpgrade -rewrite, of schema version %d: what Scrim had made for upgradePolicies.\n", len(migrations)) + runtime,
		`CREATE ROLE scrim_owner_{role {owner}} NOLOGIN BYPASSRLS;
CREATE TABLE scrim_state.key_{role {owner}} (only_row boolean PRIMARY KEY DEFAULT true CHECK (only_row), key bytea NOT NULL CHECK (octet_length(key) = 16));
INSERT INTO scrim_state.key_{role {owner}} (key) VALUES ('\x000102030405060708090a0b0c0d0e0f');
REVOKE ALL ON scrim_state.key_{role {owner}} FROM PUBLIC;
GRANT SELECT ON scrim_state.key_{role {owner}} TO scrim_owner_{role {owner}};
`,
		withoutOIDs(t, admin, owner, mustText(t, admin, stateViews)), withoutOIDs(t, admin, owner, mustText(t, admin, stateGrants)),
	}
	rows := ""
	for table := range strings.FieldsSeq(mustText(t, admin, `SELECT c.relname FROM pg_class c WHERE c.relnamespace = 'scrim_state'::regnamespace AND c.relkind = 'r'
		AND c.relname !~ '^(river|key_)|^(migrations|catalog_version|training_.*|trainers|encoder_reports)$' ORDER BY c.oid`)) {
		rows += mustText(t, admin, fmt.Sprintf(stateRows, table))
	}
	parts = append(parts, withoutOIDs(t, admin, owner, rows+`SELECT setval(pg_get_serial_sequence('scrim_state.encoders', 'id'), 100), setval(pg_get_serial_sequence('scrim_state.policies', 'id'), 100);`+"\n"))
	path := fmt.Sprintf("testdata/upgrade/%04d.sql", len(migrations))
	if err := errors.Join(os.MkdirAll(filepath.Dir(path), 0o755), os.WriteFile(path, []byte(strings.Join(parts, nextPart)), 0o644)); err != nil {
		t.Fatal(err)
	}
}

const (
	stateViews = `SELECT format(E'CREATE VIEW %1$s AS %2$s\nALTER VIEW %1$s OWNER TO %3$s;', c.oid::regclass, pg_get_viewdef(c.oid), c.relowner::regrole)
		FROM pg_class c WHERE c.relnamespace = 'scrim_runtime'::regnamespace AND c.relkind = 'v' ORDER BY c.relname`
	stateGrants = `WITH mine AS (SELECT c.oid, c.relowner, c.relacl FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
			WHERE c.relkind IN ('r', 'p', 'v') AND (n.nspname = 'scrim_runtime' OR c.relname IN ('parts', 'low', 'high', 'secured', 'quiet')))
		SELECT s FROM (
			SELECT 1, format('REVOKE ALL ON %s FROM PUBLIC, analyst, risk, guest;', m.oid::regclass) FROM mine m
			UNION ALL
			SELECT 2, format('GRANT %s %s ON %s TO %s%s;', x.privilege_type, '(' || quote_ident(x.attname) || ')', x.oid::regclass,
				CASE x.grantee WHEN 0 THEN 'PUBLIC' ELSE x.grantee::regrole::text END, CASE WHEN x.is_grantable THEN ' WITH GRANT OPTION' END)
			FROM (SELECT m.oid, NULL::name AS attname, m.relowner, a.* FROM mine m, aclexplode(m.relacl) a
				UNION ALL SELECT m.oid, t.attname, m.relowner, a.* FROM mine m JOIN pg_attribute t ON t.attrelid = m.oid, aclexplode(t.attacl) a) x
			WHERE x.grantee <> x.relowner) o(pass, s)
		ORDER BY pass, s COLLATE "C"`
	// Rows as JSON, since what columns a later version has is not to be known here.
	stateRows = `SELECT format('INSERT INTO scrim_state.%[1]s OVERRIDING SYSTEM VALUE SELECT * FROM jsonb_populate_recordset(NULL::scrim_state.%[1]s, %%L);',
			E'[\n' || string_agg(to_jsonb(t)::text, E',\n' ORDER BY to_jsonb(t)) || E'\n]')
		FROM scrim_state.%[1]s t HAVING count(*) > 0`
)

// withoutOIDs puts tokens in the places of OIDs, of the owner's name and of the encoder's hash.
func withoutOIDs(t *testing.T, admin *pgx.Conn, owner, text string) string {
	t.Helper()
	tokens := map[string]string{}
	number := regexp.MustCompile(`\d+`)
	put := func(text string) string {
		return number.ReplaceAllStringFunc(text, func(n string) string {
			if token, ok := tokens[n]; ok {
				return token
			}
			return n
		})
	}
	for line := range strings.Lines(mustText(t, admin, `SELECT oid, '{role ' || replace(rolname, '`+owner+`', '{owner}') || '}' FROM pg_roles WHERE rolname IN ('`+owner+`', 'olga', 'analyst', 'risk', 'guest')
		UNION ALL SELECT c.oid, '{rel ' || c.oid::regclass || '}' FROM pg_class c WHERE c.relnamespace = 'public'::regnamespace AND c.relkind IN ('r', 'p')
		UNION ALL SELECT oid, '{role ' || rolname || '}' FROM pg_roles WHERE rolname ~ '^scrim_owner_'
		UNION ALL SELECT c.oid, '{rel ' || c.oid::regclass || '}' FROM pg_class c WHERE c.relnamespace = 'scrim_runtime'::regnamespace AND c.relkind = 'v'`)) {
		oid, token, _ := strings.Cut(strings.TrimSpace(line), "|")
		tokens[oid] = put(token) // whose name can have others in it
	}
	hash := strings.TrimSpace(mustText(t, admin, `SELECT sha256 FROM scrim.encoder_versions WHERE encoder = 'enc'`))
	return put(strings.NewReplacer(owner, "{owner}", hash, "{hash}").Replace(text))
}
