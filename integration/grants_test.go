package integration_test

import (
	"fmt"
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
)

// A layout is what has been granted on a table, and on its parts and views, before a policy is made. Its roles are made for it: ann, bob and cid,
// the groups team and club. olga owns the table, the analyst and risk may SELECT from customers, and risk is exempt.
type layout struct {
	name    string
	since   int      // PostgreSQL
	setup   []string // as superuser
	table   string   // customers, if empty
	except  string   // risk, if empty
	between []string // while the policy stands, as superuser
	gained  string   // after DROP, for what was done between: every line of what is new,
	lost    string   // and of what is gone
	drops   bool     // and the policy is dropped right after that
	closes  bool     // somebody could read a masked column who must not
}

var layouts = []layout{
	{name: "the analyst may read the table", closes: true},
	{name: "nobody has been granted anything, the acl is NULL", setup: asOlga(`CREATE TABLE bare AS SELECT * FROM customers`), table: "bare"},
	{name: "PUBLIC may read the table", setup: asOlga(`GRANT SELECT ON customers TO PUBLIC`), closes: true},
	{name: "PUBLIC may read columns, masked ones among them", setup: asOlga(`GRANT SELECT (id, income) ON customers TO PUBLIC`), closes: true},
	{
		name:  "PUBLIC may read the table, and roles besides it, its columns, and pass them on",
		setup: asOlga(`GRANT SELECT ON customers TO PUBLIC, ann`, `GRANT SELECT (id, age) ON customers TO bob WITH GRANT OPTION`), closes: true,
	},
	{name: "a group, whose member inherits", setup: append(asOlga(`GRANT SELECT ON customers TO team`), `GRANT team TO ann`), closes: true},
	{
		name:  "a group, whose member does not inherit",
		setup: append(asOlga(`GRANT SELECT ON customers TO team`, `GRANT SELECT (region, score) ON customers TO bob`), `ALTER ROLE bob NOINHERIT`, `GRANT team TO bob`), closes: true,
	},
	{
		name:  "a group in a group, each with grants of its own",
		setup: append(asOlga(`GRANT SELECT (id, age) ON customers TO team`, `GRANT SELECT ON customers TO club`), `GRANT club TO team`, `GRANT team TO ann, bob`), closes: true,
	},
	{name: "masked columns only", setup: asOlga(`GRANT SELECT (age, income) ON customers TO ann`), closes: true},
	{name: "unmasked columns only", setup: asOlga(`REVOKE SELECT ON customers FROM analyst`, `GRANT SELECT (id, region) ON customers TO ann`)},
	{name: "masked and unmasked columns", setup: asOlga(`GRANT SELECT (id, income), UPDATE (region), REFERENCES (id, age) ON customers TO ann`), closes: true},
	{name: "the table and columns of it too", setup: asOlga(`GRANT SELECT (id, income) ON customers TO analyst`, `GRANT SELECT (id) ON customers TO analyst WITH GRANT OPTION`), closes: true},
	{name: "system columns", setup: asOlga(`GRANT SELECT (ctid, id, age) ON customers TO ann`, `GRANT SELECT (xmin) ON customers TO bob`), closes: true},
	{
		name: "the table with grant option, passed on twice",
		setup: slices.Concat(asOlga(`GRANT SELECT ON customers TO ann WITH GRANT OPTION`), as("ann", `GRANT SELECT ON customers TO bob WITH GRANT OPTION`),
			as("bob", `GRANT SELECT ON customers TO cid`)), closes: true,
	},
	{
		name:  "the table with grant option, columns of it passed on", // facts.md: a REVOKE ... CASCADE can leave these
		setup: slices.Concat(asOlga(`GRANT SELECT ON customers TO ann WITH GRANT OPTION`), as("ann", `GRANT SELECT (income, id) ON customers TO bob, PUBLIC`)), closes: true,
	},
	{
		name: "columns with grant option, passed on twice",
		setup: slices.Concat(asOlga(`REVOKE SELECT ON customers FROM analyst`, `GRANT SELECT (id, age, income) ON customers TO ann WITH GRANT OPTION`),
			as("ann", `GRANT SELECT (id, age) ON customers TO bob WITH GRANT OPTION`), as("bob", `GRANT SELECT (age) ON customers TO cid`)), closes: true,
	},
	{
		name: "several grantors, to several roles, PUBLIC among them",
		setup: slices.Concat(asOlga(`GRANT SELECT ON customers TO ann, bob WITH GRANT OPTION`), as("ann", `GRANT SELECT ON customers TO cid`, `GRANT SELECT (id) ON customers TO PUBLIC`),
			as("bob", `GRANT SELECT ON customers TO team`, `GRANT SELECT (age) ON customers TO cid`)), closes: true,
	},
	{
		name: "the same privilege from three grantors, with grant option from one",
		setup: slices.Concat(asOlga(`GRANT SELECT ON customers TO ann, bob WITH GRANT OPTION`, `GRANT SELECT ON customers TO cid`), as("ann", `GRANT SELECT ON customers TO cid WITH GRANT OPTION`),
			as("bob", `GRANT SELECT ON customers TO cid`)), closes: true,
	},
	{
		name: "grantors the owner can become", // each grant comes back from its own
		setup: slices.Concat([]string{`GRANT ann, bob TO olga`}, asOlga(`GRANT SELECT ON customers TO ann WITH GRANT OPTION`), as("ann", `GRANT SELECT ON customers TO bob WITH GRANT OPTION`),
			as("bob", `GRANT SELECT ON customers TO cid`)), closes: true,
	},
	{name: "the superuser granted it, as the owner", setup: []string{`GRANT SELECT ON customers TO ann WITH GRANT OPTION`}, closes: true},
	{name: "the owner has revoked writing from himself", setup: asOlga(`REVOKE UPDATE, DELETE ON customers FROM olga`), closes: true},
	{name: "the owner has revoked everything from himself", setup: asOlga(`REVOKE ALL ON customers FROM olga`), closes: true},
	{name: "the owner has granted himself a column", setup: asOlga(`REVOKE SELECT ON customers FROM olga`, `GRANT SELECT (id, age) ON customers TO olga`), closes: true},
	{
		name: "REFERENCES and TRIGGER, without SELECT",
		setup: asOlga(`GRANT REFERENCES, TRIGGER ON customers TO ann WITH GRANT OPTION`, `GRANT REFERENCES (id, age) ON customers TO bob WITH GRANT OPTION`,
			`GRANT TRIGGER ON customers TO PUBLIC`), closes: true,
	},
	{name: "everything that PostgreSQL 17 has", setup: asOlga(`GRANT MAINTAIN ON customers TO ann`, `GRANT SELECT, MAINTAIN, TRIGGER, REFERENCES ON customers TO bob WITH GRANT OPTION`), since: 17, closes: true},
	{
		name:  "writing, as far as no mask can be probed by it",
		setup: asOlga(`GRANT SELECT, DELETE, TRUNCATE, INSERT (id, region), UPDATE (region, "Note") ON customers TO ann WITH GRANT OPTION`, `GRANT DELETE ON customers TO PUBLIC`), closes: true,
	},
	{
		name: "partitions with grants of their own", table: "parts",
		setup: slices.Concat(asOlga(
			`CREATE TABLE parts (LIKE customers) PARTITION BY RANGE (id)`, `CREATE TABLE low PARTITION OF parts FOR VALUES FROM (0) TO (1000)`,
			`CREATE TABLE high (LIKE customers)`, `ALTER TABLE high DROP COLUMN "Note"`, `ALTER TABLE high ADD COLUMN "Note" text`, // other numbers
			`ALTER TABLE parts ATTACH PARTITION high FOR VALUES FROM (1000) TO (9000)`, `CREATE TABLE deep PARTITION OF parts DEFAULT PARTITION BY LIST (region)`,
			`CREATE TABLE deepest PARTITION OF deep DEFAULT`,
			`GRANT SELECT ON parts TO analyst, risk`, `GRANT SELECT ON low TO PUBLIC`, `GRANT SELECT (id, income, "Note") ON high TO ann WITH GRANT OPTION`, `GRANT DELETE, SELECT ON deepest TO bob`,
			`GRANT SELECT (id) ON low TO risk`, `GRANT SELECT (id, age) ON deep TO PUBLIC`),
			as("ann", `GRANT SELECT (income, "Note") ON high TO cid`)), closes: true,
	},
	{
		name: "children with grants and columns of their own", table: "parents",
		setup: asOlga(`CREATE TABLE parents (LIKE customers)`, `CREATE TABLE child (extra text) INHERITS (parents)`, `CREATE TABLE grandchild () INHERITS (child)`,
			`GRANT SELECT ON parents, child TO analyst`, `GRANT SELECT (extra, age) ON child TO ann`, `GRANT SELECT, TRIGGER ON grandchild TO bob, risk`), closes: true,
	},
	{
		name: "views that are masked along",
		setup: slices.Concat(asOlga(`CREATE VIEW seen AS SELECT id, age, income, score, vip FROM customers`, `CREATE VIEW seen_again AS SELECT * FROM seen`,
			`CREATE MATERIALIZED VIEW kept AS SELECT id, age, income, score, vip FROM customers`,
			`GRANT SELECT ON seen TO analyst, PUBLIC`, `GRANT SELECT (id, age) ON seen_again TO ann WITH GRANT OPTION`, `GRANT SELECT ON kept TO bob, risk`),
			as("ann", `GRANT SELECT (age) ON seen_again TO cid`)), closes: true,
	},
	{
		name: "a policy on a view itself", table: "seen",
		setup: asOlga(`CREATE VIEW seen AS SELECT id, age, income, score, vip FROM customers`, `REVOKE SELECT ON customers FROM analyst, risk`, `GRANT SELECT, TRIGGER ON seen TO analyst, risk`), closes: true,
	},
	{
		name: "a policy on a materialized view", table: "kept",
		setup: asOlga(`CREATE MATERIALIZED VIEW kept AS SELECT id, age, income, score, vip FROM customers`, `REVOKE SELECT ON customers FROM analyst, risk`,
			`GRANT SELECT ON kept TO analyst, PUBLIC`, `GRANT SELECT (income) ON kept TO ann WITH GRANT OPTION`), closes: true,
	},
	{
		name: "row security", table: "secured",
		setup: append(asOlga(`CREATE TABLE secured AS SELECT * FROM customers`, `ALTER TABLE secured ENABLE ROW LEVEL SECURITY`, `CREATE POLICY europe ON secured USING (region = 'EU')`,
			`GRANT SELECT ON secured TO analyst, risk`, `GRANT SELECT (id, age), UPDATE (region) ON secured TO ann`), teamOwns("secured")...), closes: true,
	},
	{
		name: "a group owns the table", table: "theirs",
		setup: slices.Concat(asOlga(`CREATE TABLE theirs AS SELECT * FROM customers`), teamOwns("theirs"),
			asOlga(`GRANT SELECT ON theirs TO analyst WITH GRANT OPTION`, `GRANT SELECT (id, age) ON theirs TO bob`), as("analyst", `GRANT SELECT ON theirs TO cid`)), closes: true,
	},
	{name: "the exempt role may read columns", setup: asOlga(`REVOKE SELECT ON customers FROM risk`, `GRANT SELECT (id, income), REFERENCES (age) ON customers TO risk`), closes: true},
	{name: "the exempt role has no grant at all", setup: asOlga(`REVOKE SELECT ON customers FROM risk`), closes: true},
	{name: "the exempt role may read as everybody", setup: asOlga(`REVOKE SELECT ON customers FROM risk`, `GRANT SELECT ON customers TO PUBLIC`), closes: true},
	{
		name:  "the exempt role has passed it on",
		setup: append(asOlga(`GRANT SELECT, REFERENCES, TRIGGER ON customers TO risk WITH GRANT OPTION`), as("risk", `GRANT SELECT, TRIGGER ON customers TO ann`, `GRANT SELECT (score) ON customers TO PUBLIC`)...), closes: true,
	},
	{
		name:  "the exempt role has columns too, and has passed one on",
		setup: append(asOlga(`GRANT SELECT (id, age) ON customers TO risk WITH GRANT OPTION`), as("risk", `GRANT SELECT (id, age) ON customers TO ann`)...), closes: true,
	},
	{name: "the exempt role is a group, whose member has grants of its own", except: "team", setup: append(asOlga(`GRANT SELECT ON customers TO ann`, `GRANT SELECT (id) ON customers TO team`), `GRANT team TO ann`), closes: true},
	{
		name: "the exempt role is a group, whose member has passed it on", except: "team",
		setup: slices.Concat(asOlga(`GRANT SELECT ON customers TO ann WITH GRANT OPTION`), as("ann", `GRANT SELECT ON customers TO cid`), []string{`GRANT team TO ann`}), closes: true,
	},
	{name: "nobody is exempt", except: "-", setup: asOlga(`GRANT SELECT ON customers TO ann WITH GRANT OPTION`), closes: true},
	{name: "everybody who uses Scrim", setup: asOlga(`GRANT SELECT ON customers TO scrim_user`), closes: true},
	{
		name: "odd names",
		setup: slices.Concat(asOlga(`ALTER TABLE customers RENAME region TO "r ""e"" g"`, `GRANT SELECT, UPDATE ("Note") ON customers TO "Odd ""role""" WITH GRANT OPTION`),
			as(`"Odd ""role"""`, `GRANT SELECT, UPDATE ("Note") ON customers TO ann`, `GRANT SELECT ("r ""e"" g", age) ON customers TO bob`)), closes: true,
	},
	{
		name:  "the owner gave the table away after granting",
		setup: slices.Concat(asOlga(`CREATE TABLE given AS SELECT * FROM customers`, `GRANT SELECT ON given TO olga, ann WITH GRANT OPTION`), as("ann", `GRANT SELECT ON given TO bob`), teamOwns("given")),
		table: "given", closes: true,
	},

	// What happens while the policy stands.
	{
		name:    "a grantee is dropped meanwhile",
		setup:   asOlga(`GRANT SELECT ON customers TO bob WITH GRANT OPTION`, `GRANT SELECT (id, age) ON customers TO cid`),
		between: []string{`DROP OWNED BY bob, cid`, `DROP ROLE bob`, `DROP ROLE cid`}, lost: `\|(bob|cid)\|`, closes: true,
	},
	{
		name:    "a grantor is dropped meanwhile", // what he passed on goes with his grant option, as by REVOKE ... CASCADE
		setup:   slices.Concat(asOlga(`GRANT SELECT ON customers TO ann WITH GRANT OPTION`), as("ann", `GRANT SELECT ON customers TO bob`)),
		between: []string{`DROP OWNED BY ann CASCADE`, `DROP ROLE ann`}, lost: `\|ann\|`, closes: true,
	},
	{name: "unmasked columns are granted meanwhile", between: asOlga(`GRANT SELECT (id, region) ON customers TO ann`, `GRANT UPDATE ("Note") ON customers TO analyst`), // they stay
		gained: `^customers\|(ann\|(id|region|any)\|SELECT|analyst\|(Note|any)\|UPDATE)$`, closes: true},
	{name: "unmasked columns are granted to everybody meanwhile", between: asOlga(`GRANT SELECT (id) ON customers TO PUBLIC`), gained: `^customers\|[^|]*\|(id|any)\|SELECT$`, closes: true},
	{name: "everything of one grantee is revoked meanwhile", setup: asOlga(`GRANT SELECT ON customers TO ann`), between: asOlga(`REVOKE ALL ON customers FROM ann`), lost: `^customers\|ann\|`, closes: true},
	{ // they come back
		name: "some of what one grantee has is revoked meanwhile", setup: asOlga(`GRANT SELECT ON customers TO ann WITH GRANT OPTION`),
		between: asOlga(`REVOKE SELECT (id) ON customers FROM ann`, `REVOKE GRANT OPTION FOR SELECT (region) ON customers FROM ann`), closes: true,
	},
	{
		name: "what the exempt role had, and got, is revoked meanwhile", setup: asOlga(`REVOKE SELECT ON customers FROM risk`, `GRANT SELECT (id, age) ON customers TO risk`),
		between: asOlga(`REVOKE SELECT ON customers FROM risk`), lost: `^customers\|risk\|(id|age|any)\|SELECT$`, closes: true,
	},
	{
		name: "what the exempt role had is revoked meanwhile", between: asOlga(`REVOKE SELECT ON customers FROM risk`), lost: `^customers\|risk\|[^|]*\|SELECT$`, closes: true,
	},
	{
		name: "an unmasked column is passed on meanwhile", setup: asOlga(`GRANT SELECT ON customers TO ann WITH GRANT OPTION`),
		between: as("ann", `GRANT SELECT (id) ON customers TO cid`), gained: `^customers\|cid\|(id|any)\|SELECT$`, closes: true,
	},
	{
		name: "somebody is granted the table meanwhile", between: asOlga(`GRANT SELECT ON customers TO ann`), gained: `^customers\|ann\|[^|]*\|SELECT$`, closes: true,
	},
	{
		name: "a masked column is dropped meanwhile", setup: asOlga(`GRANT SELECT (id, age) ON customers TO ann WITH GRANT OPTION`), drops: true,
		between: asOlga(`SELECT scrim.suspend('customers')`, `ALTER TABLE customers DROP COLUMN age`), lost: `\|age\|`, closes: true,
	},
	{
		name: "a partition is detached meanwhile, and one is made", table: "parts",
		setup: asOlga(`CREATE TABLE parts (LIKE customers) PARTITION BY RANGE (id)`, `CREATE TABLE low PARTITION OF parts FOR VALUES FROM (0) TO (1000)`,
			`GRANT SELECT ON parts, low TO analyst`, `GRANT SELECT (id, income) ON low TO ann WITH GRANT OPTION`),
		between: asOlga(`ALTER TABLE parts DETACH PARTITION low`, `CREATE TABLE high PARTITION OF parts DEFAULT`), gained: `^high\|olga\|`, closes: true,
	},
	{
		name: "an unmasked column is dropped meanwhile", setup: asOlga(`GRANT SELECT (id, "Note") ON customers TO ann WITH GRANT OPTION`),
		between: asOlga(`SELECT scrim.suspend('customers')`, `ALTER TABLE customers DROP COLUMN "Note"`, `SELECT scrim.resume('customers')`), lost: `\|Note\|`, closes: true,
	},
	{
		name: "a column is added meanwhile, and granted to one role", setup: asOlga(`GRANT SELECT (id, age) ON customers TO ann`),
		between: asOlga(`ALTER TABLE customers ADD COLUMN added text`, `GRANT SELECT (added) ON customers TO ann`),
		gained:  `\|added\|`, closes: true, // who has the table back has it too
	},
	{
		name: "columns are renamed meanwhile", setup: asOlga(`GRANT SELECT (id, income) ON customers TO ann`, `ALTER TABLE customers RENAME "Note" TO remark`),
		between: asOlga(`ALTER TABLE customers RENAME remark TO "Note"`), lost: `\|remark\|`, gained: `\|Note\|`, closes: true,
	},
	{
		name: "the table changes hands meanwhile", table: "given",
		setup:   asOlga(`CREATE TABLE given AS SELECT * FROM customers`, `GRANT SELECT ON given TO analyst, risk`, `GRANT SELECT (id, age) ON given TO ann WITH GRANT OPTION`),
		between: teamOwns("given"), gained: `\|team\|`, closes: true, // olga is a member
	},
}

// teamOwns gives a table to a group with olga in it.
func teamOwns(table string) []string {
	return []string{`GRANT team TO olga`, `GRANT CREATE ON SCHEMA public TO team`, `ALTER TABLE ` + table + ` OWNER TO team`}
}

// everyPrivilege lists the privileges of every role of a layout on every table and view, on each column, "-" for the whole, and "any" for any column.
const everyPrivilege = `
	WITH roles(oid, name) AS (
		SELECT oid, rolname::text FROM pg_roles
		WHERE rolname IN ('olga', 'analyst', 'risk', 'guest', 'ann', 'bob', 'cid', 'team', 'club', 'Odd "role"', 'scrim_admin', 'scrim_user')
		   OR rolname IN (SELECT 'scrim_owner_' || relowner FROM pg_class)
		UNION ALL SELECT 0, 'PUBLIC'),
	relations AS (SELECT oid, relname::text AS name FROM pg_class WHERE relnamespace = 'public'::regnamespace AND relkind IN ('r', 'p', 'v', 'm')),
	kinds(name) AS (
		SELECT p || g FROM unnest(ARRAY['SELECT', 'INSERT', 'UPDATE', 'REFERENCES']) p, unnest(ARRAY['', ' WITH GRANT OPTION']) g),
	more_kinds(name) AS (
		SELECT p || g FROM unnest(ARRAY['DELETE', 'TRUNCATE', 'TRIGGER'] || CASE WHEN current_setting('server_version_num')::int >= 170000 THEN ARRAY['MAINTAIN'] ELSE '{}' END) p,
			unnest(ARRAY['', ' WITH GRANT OPTION']) g)
	SELECT t.name, r.name, a.attname, k.name FROM roles r, relations t JOIN pg_attribute a ON a.attrelid = t.oid AND NOT a.attisdropped, kinds k
	WHERE has_column_privilege(r.oid, t.oid, a.attnum, k.name)
	UNION ALL
	SELECT t.name, r.name, 'any', k.name FROM roles r, relations t, kinds k WHERE has_any_column_privilege(r.oid, t.oid, k.name)
	UNION ALL
	SELECT t.name, r.name, '-', k.name FROM roles r, relations t, (SELECT * FROM kinds UNION ALL SELECT * FROM more_kinds) k WHERE has_table_privilege(r.oid, t.oid, k.name)
	ORDER BY 1, 2, 3, 4`

// protected lists, for every table and view with columns that are to be masked, the roles that must not read them, with false, and exempt ones, with true.
const protected = `
	SELECT c.relname, r.name, r.oid <> 0 AND EXISTS (SELECT 1 FROM pg_roles x WHERE x.rolname = ANY (%[1]s) AND pg_has_role(r.oid, x.oid, 'USAGE'))
	FROM pg_class c, (SELECT oid, rolname::text FROM pg_roles WHERE NOT rolsuper AND rolname !~ '^scrim_owner' UNION ALL SELECT 0, 'PUBLIC') r(oid, name)
	WHERE c.relnamespace = 'public'::regnamespace AND c.relkind IN ('r', 'p', 'v', 'm') AND (c.oid = '%[2]s'::regclass
		OR c.relname IN ('low', 'high', 'deep', 'deepest', 'child', 'grandchild') OR '%[2]s' = 'customers' AND c.relname IN ('seen', 'seen_again', 'kept'))
	  AND (r.oid = 0 OR NOT pg_has_role(r.oid, c.relowner, 'USAGE'))`

// A cell is one line of everyPrivilege.
type cell struct{ relation, role, column, privilege string }

func (c cell) String() string {
	return c.relation + "|" + c.role + "|" + c.column + "|" + c.privilege
}

// kind is the privilege, with grant option or without.
func (c cell) kind() string { return strings.TrimSuffix(c.privilege, " WITH GRANT OPTION") }

// closes tells whether the privilege reads or probes raw values.
func (c cell) closes() bool {
	switch c.column {
	case "age", "income", "score":
		return c.kind() == "SELECT" || c.kind() == "REFERENCES"
	case "-":
		return slices.Contains([]string{"SELECT", "REFERENCES", "TRIGGER", "MAINTAIN"}, c.kind())
	}
	return false
}

func cells(t *testing.T, conn *pgx.Conn) map[cell]bool {
	t.Helper()
	rows, _ := conn.Query(t.Context(), everyPrivilege)
	all := map[cell]bool{}
	var c cell
	if _, err := pgx.ForEachRow(rows, []any{&c.relation, &c.role, &c.column, &c.privilege}, func() error {
		all[c] = true
		return nil
	}); err != nil {
		t.Fatal(explain(err))
	}
	for c := range all { // what everybody may do Scrim's own roles may do from the moment they are made
		if strings.HasPrefix(c.role, "scrim_owner") && all[cell{c.relation, "PUBLIC", c.column, c.privilege}] {
			delete(all, c)
		}
	}
	return all
}

// missing are the lines of what is in the first and not in the second.
func missing(all, in map[cell]bool) []string {
	var lines []string
	for c := range all {
		if !in[c] {
			lines = append(lines, c.String())
		}
	}
	slices.Sort(lines)
	return lines
}

// TestGrantsComeBack: DROP gives back exactly what CREATE took, whatever the grants looked like; and while the policy stands every masked role may do
// what it could, but for reading and probing masked columns. Each layout is a transaction that is rolled back, so its roles are nobody else's.
func TestGrantsComeBack(t *testing.T) {
	t.Parallel()
	onServers(t, func(t *testing.T, w *world) {
		e := w.bare(t)
		admin := e.admin(t)
		for i, l := range layouts {
			all := os.Getenv("SCRIM_SERVERS") == "all"
			creator := olga
			// Where there are several grantors, the superuser, who can become each of them, makes the policy on one server, and the owner on the other. Other layouts take turns.
			if strings.Count(strings.Join(l.setup, "\n"), "SET SESSION AUTHORIZATION") > 1 {
				if (i%2 == 0) == (w == worlds[0]) {
					creator = w.server.Superuser()
				}
			} else if l.since == 0 && len(worlds) > 1 && !all && (i%2 == 0) == (w == worlds[0]) {
				continue
			}
			if l.since*10000 <= w.server.Version() {
				t.Run(l.name+", by "+creator, func(t *testing.T) { l.run(t, e, admin, creator) })
			}
		}
	})
}

func (l layout) run(t *testing.T, e *env, admin *pgx.Conn, creator string) {
	defer e.exec(t, admin, `ROLLBACK`)
	e.exec(t, admin, `BEGIN`, `CREATE ROLE ann`, `CREATE ROLE bob`, `CREATE ROLE cid`, `CREATE ROLE team`, `CREATE ROLE club`, `CREATE ROLE "Odd ""role"""`)
	e.exec(t, admin, l.setup...)
	table, except := l.table, l.except
	if table == "" {
		table = "customers"
	}
	switch except {
	case "":
		except = "{risk}"
	case "-":
		except = "{}"
	default:
		except = "{" + except + "}"
	}
	before := cells(t, admin)
	l.tries(t, e, admin, creator, fmt.Sprintf(`SELECT scrim.create_masking_policy('p', '%s', '{age,income,score}', '%s', 'enc', mend_views => true)`, table, except))
	if closed := l.whileMasked(t, admin, table, except, before, cells(t, admin)); closed > 0 != l.closes {
		t.Errorf("%d privileges of masked roles were closed", closed)
	}
	e.exec(t, admin, l.between...)
	if !l.drops { // whatever the policy becomes meanwhile
		l.tries(t, e, admin, creator, fmt.Sprintf(`SELECT scrim.set_masking_policy_except('p', '%s', '{analyst,guest}')`, table))
		if l.between == nil {
			l.whileMasked(t, admin, table, "{analyst,guest}", before, cells(t, admin))
		}
		l.tries(t, e, admin, creator, fmt.Sprintf(`SELECT scrim.enable_masking_policy('p', '%s', false)`, table))
		l.tries(t, e, admin, creator, fmt.Sprintf(`SELECT scrim.create_masking_policy('p', '%s', '{score,age}', '{guest}', 'enc', present => 'vector', or_replace => true, mend_views => true)`, table))
	}
	l.tries(t, e, admin, creator, fmt.Sprintf(`SELECT scrim.drop_masking_policy('p', '%s')`, table))

	after := cells(t, admin)
	expectLines(t, "lost", l.lost, missing(before, after))
	expectLines(t, "gained", l.gained, missing(after, before))
	if left := mustText(t, admin, `SELECT count(*) FROM scrim_state.policies, scrim_state.protection_grants`); left != "0\n" {
		t.Errorf("%s rows are left in scrim_state", left)
	}
}

// expectLines compares lines with a pattern that all of them must have, and one at least; "" for none.
func expectLines(t *testing.T, what, pattern string, lines []string) {
	t.Helper()
	var wrong []string
	for _, line := range lines {
		if pattern == "" || !regexp.MustCompile(pattern).MatchString(line) {
			wrong = append(wrong, line)
		}
	}
	if len(wrong) > 0 {
		t.Errorf("%s:\n%s", what, strings.Join(wrong, "\n"))
	}
	if pattern != "" && len(lines) == 0 {
		t.Errorf("nothing is %s", what)
	}
}

// tries runs a statement as the creator, until no role of another test's is in the way.
func (l layout) tries(t *testing.T, e *env, admin *pgx.Conn, creator, statement string) {
	t.Helper()
	for deadline := time.Now().Add(time.Minute); ; time.Sleep(100 * time.Millisecond) {
		e.exec(t, admin, `SAVEPOINT before_it`, `SET SESSION AUTHORIZATION `+creator)
		_, err := text(t, admin, statement)
		if err == nil {
			e.exec(t, admin, `RESET SESSION AUTHORIZATION`)
			return
		}
		e.exec(t, admin, `ROLLBACK TO before_it`)
		if !e.isOthers(err) || time.Now().After(deadline) {
			t.Fatalf("%s: %s", statement, explain(err))
		}
	}
}

// whileMasked compares what roles may do with what they could before, and returns how many privileges of masked roles were closed.
func (l layout) whileMasked(t *testing.T, admin *pgx.Conn, table, except string, before, during map[cell]bool) (closed int) {
	t.Helper()
	rows, _ := admin.Query(t.Context(), fmt.Sprintf(protected, "'"+except+"'", table))
	exempt := map[[2]string]bool{} // relation and role; only those that are masked or exempt
	var relation, role string
	var is bool
	if _, err := pgx.ForEachRow(rows, []any{&relation, &role, &is}, func() error {
		exempt[[2]string{relation, role}] = is
		return nil
	}); err != nil {
		t.Fatal(explain(err))
	}
	masked := func(c cell) bool {
		is, known := exempt[[2]string{c.relation, c.role}]
		return known && !is
	}
	system := regexp.MustCompile(`^(ctid|xmin|xmax|cmin|cmax|tableoid)$`)
	for c := range before {
		is, known := exempt[[2]string{c.relation, c.role}]
		switch {
		case masked(c) && c.closes():
			closed++
		case during[c], masked(c) && c.column == "any": // of masked columns only
		case system.MatchString(c.column) && c.kind() == "REFERENCES": // nothing can reference them
		case known && is && c.privilege != "SELECT" && (before[cell{c.relation, "PUBLIC", c.column, c.privilege}] || !strings.Contains(except, c.role)):
			// Of what others were granted an exempt role keeps SELECT, and a member of it reads as that.
		default:
			t.Errorf("%s is gone", c)
		}
	}
	for c := range during {
		is, known := exempt[[2]string{c.relation, c.role}]
		switch {
		case masked(c) && c.closes():
			t.Errorf("%s is open", c)
		case before[c], strings.HasPrefix(c.role, "scrim_owner"), is && c.privilege == "SELECT":
		case known && (system.MatchString(c.column) || c.column == "any") && c.kind() == "SELECT": // by which codes are found
		default:
			t.Errorf("%s is new", c)
		}
	}
	for key, is := range exempt {
		if is && !during[cell{key[0], key[1], "-", "SELECT"}] && key[0] == table {
			t.Errorf("%s is exempt and cannot read %s", key[1], key[0])
		}
	}
	return closed
}
