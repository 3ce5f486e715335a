package integration_test

import (
	"fmt"
	"os"
	"os/exec"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgproto3"
)

// changesSQL are the entries of changes, without what differs from run to run.
const changesSQL = `SELECT tag, role, object, coalesce(schema || '.' || relation, ''), array_to_string(columns, ',') FROM scrim_state.audit WHERE kind = 'change' AND id > %d ORDER BY id`

// audited waits until a query about the audit says what it shall: proxies write once a second.
func audited(t *testing.T, conn *pgx.Conn, query, want string) {
	t.Helper()
	got := ""
	for deadline := time.Now().Add(8 * time.Second); time.Now().Before(deadline); time.Sleep(50 * time.Millisecond) {
		if got = mustText(t, conn, query); got == want {
			return
		}
	}
	t.Errorf("%s:\n%s", query, difference(want, got))
}

// auditsAll has everything audited, and returns a connection to look.
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
			{`ALTER MASKING POLICY q ON customers ROTATE KEY`, "ROTATE KEY|olga|olga||∅\n", false},
			{`DROP MASKING POLICY q ON customers`, "DROP MASKING POLICY|olga|q|public.customers|age,income\n", false},
			{`DROP MASKING POLICY IF EXISTS q ON customers`, "", false},
			{`SELECT scrim.protect_column('customers', 'age', 'enc', '{risk}')`, "CREATE MASKING POLICY|olga|protected|public.customers|age\n", true},
			{`SELECT scrim.protect_column('customers', 'income', 'enc')`, "ALTER MASKING POLICY|olga|protected|public.customers|age,income\n", true},
			{`SELECT scrim.unprotect_column('customers', 'age')`, "ALTER MASKING POLICY|olga|protected|public.customers|income\n", true},
			{`SELECT scrim.unprotect_column('customers', 'income')`, "DROP MASKING POLICY|olga|protected|public.customers|income\n", true},
			{
				`CREATE ENCODER more ON customers (age, score) PASSTHROUGH (region) WITH (latent_dims = 2, epochs = 1, batch_size = 128) WAIT`,
				"CREATE ENCODER|olga|more||∅\nALTER ENCODER|" + keeper + "|more||∅\n", false,
			},
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
			if got := mustText(t, admin, fmt.Sprintf(changesSQL, last)); got != c.want {
				t.Errorf("%s:\n%s", c.statement, difference(c.want, got))
			}
		}
	})
}

func lastEntry(t *testing.T, admin *pgx.Conn) (id int) {
	t.Helper()
	if err := admin.QueryRow(t.Context(), `SELECT coalesce(max(id), 0) FROM scrim_state.audit`).Scan(&id); err != nil {
		t.Fatal(err)
	}
	return id
}

// TestAuditDetails: an entry has what was and what is, in names. Who has constraints checked at once gets an entry for each statement.
func TestAuditDetails(t *testing.T) {
	onEachProtected(t, func(t *testing.T, e *env) {
		admin, owner := e.admin(t), e.connect(t, olga)
		details := func(want ...string) {
			t.Helper()
			got := mustText(t, admin, fmt.Sprintf(`SELECT details FROM (SELECT * FROM scrim_state.audit ORDER BY id DESC LIMIT %d) a ORDER BY id`, len(want)))
			if got != strings.Join(want, "\n")+"\n" {
				t.Error(difference(strings.Join(want, "\n")+"\n", got))
			}
		}
		policy := func(except, encoder string) string {
			return `{"except": ` + except + `, "inputs": ["age", "income", "score", "vip"], "columns": ["age", "income", "score"], "enabled": true, "encoder": "` + encoder + `", "present": "COMPONENTS", "suspended": false}`
		}
		details(policy(`["risk"]`, "enc"))
		e.exec(t, owner, `ALTER MASKING POLICY p ON customers SET EXCEPT (guest, risk)`)
		details(`{"except": {"new": ["guest", "risk"], "old": ["risk"]}}`)
		e.exec(t, owner, `ALTER MASKING POLICY p ON customers RENAME TO q`)
		details(`{"name": {"new": "q", "old": "p"}}`)
		e.exec(t, owner, `BEGIN`, `ALTER MASKING POLICY q ON customers DISABLE`, `ALTER MASKING POLICY q ON customers SET EXCEPT (risk)`, `ALTER MASKING POLICY q ON customers ENABLE`, `COMMIT`)
		details(`{"except": {"new": ["risk"], "old": ["guest", "risk"]}}`)
		e.exec(t, owner, `BEGIN`, `SET CONSTRAINTS ALL IMMEDIATE`, `ALTER MASKING POLICY q ON customers DISABLE`, `ALTER MASKING POLICY q ON customers ENABLE`, `COMMIT`)
		details(`{"enabled": {"new": false, "old": true}}`, `{"enabled": {"new": true, "old": false}}`)
		e.exec(t, owner, `BEGIN`, `SAVEPOINT s`, `DROP MASKING POLICY q ON customers`, `ROLLBACK TO s`, `ALTER MASKING POLICY q ON customers RENAME TO p`, `COMMIT`)
		details(`{"name": {"new": "p", "old": "q"}}`)
		e.exec(t, admin, `UPDATE scrim_state.policies SET enabled = false`) // nobody's function
		details(`{"enabled": {"new": false, "old": true}}`)
		e.exec(t, owner, `DROP MASKING POLICY p ON customers`)
		details(strings.Replace(policy(`["risk"]`, "enc"), `"enabled": true`, `"enabled": false`, 1))
		if got := mustText(t, admin, `SELECT count(*) FROM scrim_state.audit_before`); got != "0\n" {
			t.Error(got)
		}
		e.exec(t, owner, `SELECT scrim.train_encoder('enc')`, `SELECT scrim.cancel_training_job(max(id)) FROM scrim.training_jobs`)
		if got := mustText(t, admin, `SELECT tag, object, role FROM scrim_state.audit ORDER BY id DESC LIMIT 2`); got != "CANCEL TRAINING JOB|enc|olga\nTRAIN ENCODER|enc|olga\n" {
			t.Error(got)
		}
		// What another transaction changes meanwhile is not in the difference.
		other := e.connect(t, olga)
		e.exec(t, owner, `BEGIN`, `ALTER ENCODER enc SET SCHEDULE '300 days'`)
		e.exec(t, other, testPolicy)
		e.exec(t, owner, `COMMIT`)
		details(policy(`["risk"]`, "enc"), `{"schedule": {"new": "300 days"}}`)
		e.exec(t, owner, `SELECT scrim.set_audit('off')`, `DROP MASKING POLICY p ON customers`, `SELECT scrim.set_audit('changes')`)
		details(`{"level": {"new": "off", "old": "changes"}}`, `{"level": {"new": "changes", "old": "off"}}`)
	})
}

// TestAuditIsAppendOnly: nobody changes, deletes, forges or reads entries but who may.
func TestAuditIsAppendOnly(t *testing.T) {
	onEachProtected(t, func(t *testing.T, e *env) {
		admin, owner := e.admin(t), e.connect(t, olga)
		for _, statement := range []string{`UPDATE scrim_state.audit SET role = 'analyst'`, `DELETE FROM scrim_state.audit`, `TRUNCATE scrim_state.audit`} {
			for _, conn := range []*pgx.Conn{admin, owner, e.directly(t, olga), e.directly(t, analyst)} {
				if _, err := text(t, conn, statement); code(err) != "42501" {
					t.Errorf("%s: %s", statement, explain(err))
				}
			}
			if _, err := text(t, admin, `SET session_replication_role = replica; `+statement); code(err) != "42501" {
				t.Errorf("%s as a replica: %s", statement, explain(err))
			}
			e.exec(t, admin, `RESET session_replication_role`)
		}
		for _, statement := range []string{
			`INSERT INTO scrim_state.audit (kind) VALUES ('change')`, `INSERT INTO scrim.audit (kind) VALUES ('change')`, `DELETE FROM scrim.audit`, `UPDATE scrim.audit SET role = 'x'`,
			`INSERT INTO scrim_state.audit_before (kind, relation, name) VALUES ('encoder', 0, 'x')`, `SELECT scrim.prune_audit(1)`,
			`SELECT scrim.audit_change(NULL, '{}', NULL)`, `SELECT scrim.audit_image('audit', 0, 'audit')`, `UPDATE scrim_state.audit_settings SET level = 'off'`,
		} {
			for _, conn := range []*pgx.Conn{owner, e.directly(t, olga), e.directly(t, analyst)} {
				if _, err := text(t, conn, statement); code(err) != "42501" {
					t.Errorf("%s: %s", statement, explain(err))
				}
			}
		}
		user := e.directly(t, extraRole(t, e, "scrim_user"))
		for _, statement := range []string{`SELECT * FROM scrim.audit`, `SELECT scrim.set_audit('off')`} {
			if _, err := text(t, user, statement); code(err) != "42501" {
				t.Errorf("%s: %s", statement, explain(err))
			}
		}
		if got := mustText(t, owner, `SELECT kind, tag, object, schema || '.' || relation FROM scrim.audit WHERE relation IS NOT NULL`); got != "change|CREATE MASKING POLICY|p|public.customers\n" {
			t.Error(got)
		}
		for statement, want := range map[string]string{`SELECT scrim.set_audit('some')`: "22023", `SELECT scrim.set_audit('all', '23 hours')`: "22023", `SELECT scrim.set_audit('off', '-1 day')`: "22023"} {
			if _, err := text(t, owner, statement); code(err) != want {
				t.Errorf("%s: %s", statement, explain(err))
			}
		}
	})
}

// TestAuditRetention: what is older than the retention goes, and nothing else; but not that the retention was changed.
func TestAuditRetention(t *testing.T) {
	onEach(t, func(t *testing.T, e *env) {
		admin, owner := e.admin(t), e.connect(t, olga)
		e.exec(t, owner, `SELECT scrim.set_audit('all', '10 days')`)
		e.exec(t, admin, `INSERT INTO scrim_state.audit (at, kind, tag) SELECT now() - '1 day'::interval * i, 'read', 'SELECT' FROM generate_series(1, 30) i, generate_series(1, 10) j`,
			`INSERT INTO scrim_state.audit (at, kind, tag) VALUES (now() - interval '100 days', 'change', 'SET AUDIT')`)
		if got := mustText(t, admin, `SELECT scrim.prune_audit(50), scrim.prune_audit(1000), scrim.prune_audit(1000)`); got != "50|160|0\n" {
			t.Error(got)
		}
		if got := mustText(t, admin, `SELECT kind, count(*), min(at) > now() - interval '10 days' FROM scrim_state.audit GROUP BY kind ORDER BY kind`); got != "change|4|f\nread|90|t\n" {
			t.Error(got)
		}
		e.exec(t, admin, `INSERT INTO scrim_state.audit (at, kind, tag) SELECT now() - interval '11 days', 'read', 'SELECT' FROM generate_series(1, 15000)`)
		again, err := e.open(t.Context(), e.database, e.models) // a proxy that starts looks at once
		if err != nil {
			t.Fatal(err)
		}
		defer again.close()
		audited(t, admin, `SELECT count(*) FROM scrim_state.audit WHERE kind = 'read'`, "90\n")
	})
}

// readsSQL are the entries of reads and refusals.
const readsSQL = `SELECT kind, role, tag, schema || '.' || relation, array_to_string(columns, ','), rows, sqlstate, fingerprint IS NOT NULL, details ->> 'masking' FROM scrim_state.audit
	WHERE kind <> 'change' AND id > %d ORDER BY id`

// TestAuditReads: each statement that reads through masks is one entry for each relation, with the rows that it gave, whatever the road; others are none.
func TestAuditReads(t *testing.T) {
	onEachProtected(t, func(t *testing.T, e *env) {
		admin := auditsAll(t, e)
		e.exec(t, admin, `CREATE TABLE mine (id integer, income float8)`, `GRANT ALL ON mine TO analyst`,
			`CREATE TABLE notes (note text)`, `INSERT INTO notes VALUES ('x')`, `ALTER TABLE notes OWNER TO olga`, `GRANT SELECT ON notes TO analyst`)
		e.exec(t, e.connect(t, olga), `CREATE MASKING POLICY q ON notes (note) USING (NULL)`)
		reader, last, want := e.connect(t, analyst), lastEntry(t, admin), ""
		for _, c := range []struct{ statements, want string }{
			{`SELECT id, region FROM customers`, ``},
			{`SELECT count(*) FROM customers`, ``},
			{`SELECT income FROM customers WHERE id < 51`, `SELECT|public.customers|income|50|deferred`},
			{`SELECT * FROM customers WHERE id < 0`, `SELECT|public.customers|age,income,score|0|deferred`},
			{`SELECT id, age, score FROM customers ORDER BY id LIMIT 7`, `SELECT|public.customers|age,score|7|deferred`},
			{`SELECT c.age, d.score FROM customers c JOIN customers d USING (id) WHERE id < 4`, `SELECT|public.customers|age,score|3|deferred`},
			{`SELECT max(income) FROM customers`, `SELECT|public.customers|income|1|staged`},
			{`SELECT max(note) FROM notes`, `SELECT|public.notes|note|1|sql`},
			{`SELECT id FROM customers WHERE age > -1000000 AND id < 10`, `SELECT|public.customers|age|9|staged`},
			{`COPY (SELECT income FROM customers WHERE id < 6) TO STDOUT`, `COPY|public.customers|income|5|staged`},
			{`DELETE FROM mine;;INSERT INTO mine SELECT id, income FROM customers WHERE id < 21`, `INSERT|public.customers|income|20|staged`},
			{`CREATE TEMPORARY TABLE copied AS SELECT income FROM customers WHERE id < 12;;DROP TABLE copied`, `SELECT|public.customers|income|11|staged`},
			{`DELETE FROM mine;;INSERT INTO mine VALUES (1), (2);;UPDATE mine SET income = c.income FROM customers c WHERE c.id = mine.id AND c.id < 3`, `UPDATE|public.customers|income|2|staged`},
			{`EXPLAIN SELECT max(income) FROM customers`, ``},
			{`EXPLAIN ANALYZE SELECT max(income) FROM customers`, `EXPLAIN|public.customers|income|0|staged`},
			{`EXPLAIN MASKING SELECT max(income) FROM customers`, ``},
			{`PREPARE p (int) AS SELECT income FROM customers WHERE id < $1;;EXECUTE p (31);;DEALLOCATE p`, `SELECT|public.customers|income|30|deferred`},
			{`PREPARE p (int) AS SELECT max(income) FROM customers WHERE id < $1;;EXECUTE p (31);;DEALLOCATE p`, `SELECT|public.customers|income|1|staged`},
			{
				`BEGIN;;DECLARE c CURSOR FOR SELECT income FROM customers ORDER BY id;;FETCH 10 FROM c;;FETCH 15 FROM c;;MOVE 5 FROM c;;FETCH 5 FROM c;;COMMIT`,
				`FETCH|public.customers|income|30|deferred`,
			},
			{`BEGIN;;DECLARE c CURSOR FOR SELECT income * 2 FROM customers ORDER BY id;;FETCH 10 FROM c;;FETCH 15 FROM c;;ROLLBACK`, `FETCH|public.customers|income|25|staged`},
			{`SELECT set_config('search_path', '', false)`, ``},
			{`SELECT income FROM public.customers WHERE id = 1 OR id = 2000`, `SELECT|public.customers|income|2|deferred`},
		} {
			for _, extended := range []bool{false, true} {
				got := answers(t, reader, c.statements, extended)
				if strings.Contains(got, "ERROR") {
					t.Errorf("%s: %s", c.statements, got)
				}
				if f := strings.Split(c.want, "|"); c.want != "" {
					want += "read|analyst|" + strings.Join(f[:4], "|") + "|∅|t|" + f[4] + "\n"
				}
			}
		}
		e.exec(t, e.connect(t, risk), `SELECT income FROM customers`)
		e.exec(t, e.connect(t, olga), `SELECT income FROM customers`)
		answers(t, reader, `SELECT age FROM public.customers WHERE id = 77`, false) // to know that all is written
		audited(t, admin, fmt.Sprintf(readsSQL, last), want+"read|analyst|SELECT|public.customers|age|1|∅|t|deferred\n")
		if got := mustText(t, admin, `SELECT DISTINCT client, application FROM scrim_state.audit WHERE kind = 'read'`); got != "127.0.0.1|∅\n" {
			t.Error(got)
		}
	})
}

// TestAuditPortals: a portal that is not read to its end counts what it gave, when its transaction ends or the client goes.
func TestAuditPortals(t *testing.T) {
	onEachProtected(t, func(t *testing.T, e *env) {
		admin := auditsAll(t, e)
		for _, sql := range []string{`SELECT income FROM customers WHERE id <= 100`, `SELECT income + 1 FROM customers WHERE id <= 100`} {
			h := rawConn(t, e.dsn(analyst))
			last := lastEntry(t, admin)
			masking := map[bool]string{true: "staged", false: "deferred"}[strings.Contains(sql, "+")]
			bound := []pgproto3.FrontendMessage{&pgproto3.Parse{Query: sql}, &pgproto3.Bind{}}
			some, rest := &pgproto3.Execute{MaxRows: 30}, &pgproto3.Execute{}
			script(t, h, 1, append(bound, some, some, &pgproto3.Sync{})...)
			script(t, h, 1, append(bound, some, some, rest, &pgproto3.Sync{})...)
			if got := script(t, h, 1, &pgproto3.Query{String: `BEGIN`}); got != "CZT " {
				t.Fatal(got)
			}
			script(t, h, 1, append(bound, some, &pgproto3.Sync{})...)
			if err := h.Conn.Close(); err != nil {
				t.Fatal(err)
			}
			want := ""
			for _, rows := range []int{60, 100, 30} {
				want += fmt.Sprintf("read|analyst|SELECT|public.customers|income|%d|∅|t|%s\n", rows, masking)
			}
			audited(t, admin, fmt.Sprintf(readsSQL, last), want)
		}
	})
}

// TestAuditRefusals: what Scrim refuses, and what PostgreSQL refuses to a masked role, is an entry with its SQLSTATE.
func TestAuditRefusals(t *testing.T) {
	onEachProtected(t, func(t *testing.T, e *env) {
		admin := auditsAll(t, e)
		e.exec(t, admin, `CREATE TABLE secret (a int)`)
		last, want := lastEntry(t, admin), ""
		for _, c := range []struct {
			role, statement, want string
		}{
			{analyst, `SELECT ctid, * FROM customers`, `0A000|t`},
			{analyst, `SELECT * FROM scrim_runtime.customers`, `42501|t`},
			{analyst, `SELECT * FROM secret`, `42501|t`},
			{analyst, `DELETE FROM secret`, `42501|t`},
			{analyst, `ALTER ROLE risk PASSWORD 'x'`, `42501|f`},
			{analyst, `DROP MASKING POLICY p ON customers`, `42501|f`},
			{analyst, `SELECT 1 / 0`, ``},
			{analyst, `SELECT nonsense`, ``},
			{guest, `DROP MASKING POLICY p ON customers`, `42501|f`},
			{risk, `SELECT * FROM secret`, ``},
			{olga, `DROP MASKING POLICY nothing ON customers`, `42704|f`},
			{olga, `DROP MASKING POLICY p customers`, `42601|f`},
		} {
			for _, extended := range []bool{false, true} {
				if got := answers(t, e.connect(t, c.role), c.statement, extended); !strings.Contains(got, "ERROR") {
					t.Errorf("%s: %s", c.statement, got)
				}
				if c.want != "" {
					want += c.role + "|" + c.want + "\n"
				}
			}
		}
		e.exec(t, e.connect(t, olga), `ALTER MASKING POLICY p ON customers DISABLE`)
		answers(t, e.connect(t, analyst), `SELECT income FROM customers`, false)
		audited(t, admin, fmt.Sprintf(`SELECT role, sqlstate, fingerprint IS NOT NULL FROM scrim_state.audit WHERE kind = 'refused' AND id > %d ORDER BY id`, last), want+"analyst|42501|t\n")
	})
}

// TestAuditHoldsNoValues: whatever statements are run and refused, no literal, parameter or raw value is in any table of Scrim's.
func TestAuditHoldsNoValues(t *testing.T) {
	onEachProtected(t, func(t *testing.T, e *env) {
		admin := auditsAll(t, e)
		const secret, number = "xyzzysecret", "918273645"
		for _, role := range []string{analyst, olga, guest} {
			conn := e.connect(t, role)
			for _, statement := range []string{
				`SELECT income FROM customers WHERE region <> 'xyzzysecret' AND id <> 918273645 LIMIT 3`, `SELECT income, 'xyzzysecret' AS a FROM customers WHERE id = 2000`,
				`SELECT max(income) FROM customers WHERE "Note" <> 'xyzzysecret' AND id < 918273645`, `SELECT ctid, *, 'xyzzysecret' FROM customers`,
				`SELECT * FROM scrim_runtime.customers WHERE 'xyzzysecret' = 918273645::text`, `DELETE FROM customers WHERE "Note" = 'xyzzysecret'`, `SELECT 'xyzzysecret'::int, income FROM customers`,
				`SELECT income / (id - id), 'xyzzysecret' FROM customers`, `ALTER ROLE risk PASSWORD 'xyzzysecret'`, `CREATE MASKING POLICY p ON customers (age) USING ENCODER 'xyzzysecret'`,
				`DROP MASKING POLICY p ON customers 'xyzzysecret'`, `PREPARE p (text, int) AS SELECT income FROM customers WHERE region <> $1 AND id < $2 LIMIT 2`, `EXECUTE p ('xyzzysecret', 918273645)`,
				`EXECUTE p (lower('xyzzysecret'), 918273645)`, `COPY (SELECT income FROM customers WHERE region <> 'xyzzysecret' LIMIT 1) TO STDOUT (DELIMITER 'x', NULL 'xyzzysecret')`, `SET x.y = 'xyzzysecret'`,
				`DO $$ BEGIN RAISE 'xyzzysecret %', (SELECT income FROM customers LIMIT 1); END $$`, `SELECT scrim.train_encoder('xyzzysecret')`, `SELECT income FROM customers; SELECT 'xyzzysecret' FROM nowhere`,
				`not SQL 'xyzzysecret' 918273645`,
			} {
				for _, extended := range []bool{false, true} {
					answers(t, conn, statement, extended)
				}
			}
			for _, query := range []string{
				`SELECT income FROM customers WHERE region <> $1 LIMIT 1`, `SELECT max(income) FROM customers WHERE region <> $1`, `SELECT ctid, * FROM customers WHERE region <> $1`,
				`SELECT $1::text::int, income FROM customers`, `DELETE FROM customers WHERE region = $1`,
			} {
				_ = conn.PgConn().ExecParams(t.Context(), query, [][]byte{[]byte(secret)}, nil, nil, nil).Read()
			}
		}
		e.close() // which writes what is left
		e.close = func() {}
		lines := mustText(t, admin, `SELECT a::text FROM scrim_state.audit a UNION ALL SELECT t.args::text FROM scrim_state.river_job t`)
		if kinds := mustText(t, admin, `SELECT kind, count(*) > 9 FROM scrim_state.audit WHERE role = 'analyst' GROUP BY kind ORDER BY kind`); kinds != "read|t\nrefused|t\n" {
			t.Errorf("%s\n%s", kinds, lines)
		}
		for _, s := range append([]string{secret, number}, canaries...) {
			if strings.Contains(lines, s) {
				t.Errorf("%s is in the audit:\n%s", s, lines)
			}
		}
	})
}

// TestAuditRelations: what is read through partitions, views with the reader's rights and feature views, and of several relations at a time.
func TestAuditRelations(t *testing.T) {
	onEach(t, func(t *testing.T, e *env) {
		e.trains(t)
		admin := auditsAll(t, e)
		e.exec(t, admin, asOlga(`CREATE TABLE parted (LIKE customers) PARTITION BY LIST (region)`, `CREATE TABLE parted_eu PARTITION OF parted FOR VALUES IN ('EU')`,
			`CREATE TABLE parted_rest PARTITION OF parted DEFAULT`, `INSERT INTO parted SELECT * FROM customers`, `GRANT SELECT ON parted, parted_eu TO analyst`,
			`CREATE VIEW invoked WITH (security_invoker) AS SELECT id, income FROM customers`, `GRANT SELECT ON invoked TO analyst`)...)
		e.exec(t, e.connect(t, olga), testPolicy, strings.ReplaceAll(testPolicy, "customers", "parted"), featureEncoder, featureView)
		waitForViews(t, e, "invoked")
		reader, last := e.connect(t, analyst), lastEntry(t, admin)
		for _, statement := range []string{
			`SELECT income FROM parted WHERE id < 10`, `SELECT max(age) FROM parted_eu`, `SELECT * FROM invoked WHERE id < 5`, `SELECT features FROM scrim_runtime.traits LIMIT 2`,
			`SELECT c.age, p.income FROM customers c JOIN parted p USING (id) WHERE id < 4`,
		} {
			if got := answers(t, reader, statement, false); strings.Contains(got, "ERROR") {
				t.Errorf("%s: %s", statement, got)
			}
		}
		audited(t, admin, fmt.Sprintf(`SELECT schema || '.' || relation, array_to_string(columns, ','), rows, details ->> 'policy' FROM scrim_state.audit WHERE kind = 'read' AND id > %d ORDER BY id`, last),
			"public.parted|income|9|p\npublic.parted_eu|age|1|p\npublic.customers|income|4|p\nscrim_runtime.traits|features|2|traits\npublic.customers|age|3|p\npublic.parted|income|3|p\n")
	})
}

// TestAuditSurvives: while the catalog is out of reach entries wait, and each is written once when it is back; a proxy that ends writes what is left; the level
// counts as soon as it is changed.
func TestAuditSurvives(t *testing.T) {
	onEachProtected(t, func(t *testing.T, e *env) {
		auditsAll(t, e)
		reader := e.connect(t, analyst)
		read := func(id int) { mustText(t, reader, fmt.Sprintf(`SELECT income FROM customers WHERE id <= %d`, id)) }
		read(1)
		outage := func(allowed bool, more ...string) {
			t.Helper()
			if err := e.superuser(t.Context(), "postgres", append([]string{fmt.Sprintf(`ALTER DATABASE %s ALLOW_CONNECTIONS %v`, e.database, allowed)}, more...)...); err != nil {
				t.Fatal(err)
			}
		}
		outage(false, `SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = 'scrim catalog' AND datname = '`+e.database+`'`)
		for id := 2; id < 8; id++ {
			read(id)
			time.Sleep(300 * time.Millisecond)
		}
		outage(true)
		admin := e.admin(t)
		const rows = `SELECT array_agg(rows ORDER BY id) FROM scrim_state.audit WHERE kind = 'read'`
		audited(t, admin, rows, "{1,2,3,4,5,6,7}\n")
		e.exec(t, admin, `SELECT scrim.set_audit('changes')`)
		if _, err := e.catalog.Reload(t.Context()); err != nil {
			t.Fatal(err)
		}
		read(8)
		e.exec(t, admin, `SELECT scrim.set_audit('all')`)
		if _, err := e.catalog.Reload(t.Context()); err != nil {
			t.Fatal(err)
		}
		read(9)
		e.close()
		e.close = func() {}
		if got := mustText(t, admin, rows); got != "{1,2,3,4,5,6,7,9}\n" {
			t.Error(got)
		}
	})
}

// TestAuditOfKilledProxy: a proxy that is killed loses what it has heard in about the last second, and nothing before.
func TestAuditOfKilledProxy(t *testing.T) {
	onEachProtected(t, func(t *testing.T, e *env) {
		admin := auditsAll(t, e)
		cmd := exec.Command(os.Args[0])
		cmd.Env = append(os.Environ(), fmt.Sprintf("SCRIM_TEST_PROXY=%s %s %s", e.server.Addr(), e.catalogDSN, e.models))
		addr := startOther(t, cmd)
		reader := dial(t, strings.Replace(e.dsn(analyst), e.addr, addr, 1))
		var times []time.Time
		for begun := time.Now(); time.Since(begun) < 4*time.Second; {
			mustText(t, reader, `SELECT income FROM customers WHERE id = 1`)
			times = append(times, time.Now())
		}
		killed := time.Now()
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
		safe := 0
		for _, at := range times {
			if killed.Sub(at) > 3*time.Second { // a busy machine writes late
				safe++
			}
		}
		var written int
		if err := admin.QueryRow(t.Context(), `SELECT count(*) FROM scrim_state.audit WHERE kind = 'read'`).Scan(&written); err != nil {
			t.Fatal(err)
		}
		if written < safe || written > len(times) || safe == 0 {
			t.Errorf("%d entries of %d reads, %d of them more than three seconds before the end", written, len(times), safe)
		}
	})
}
