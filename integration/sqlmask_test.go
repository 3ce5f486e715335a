package integration_test

import (
	"context"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"github.com/scrimdb/scrim/catalog"
)

// say runs a statement by one of the protocols.
func say(t *testing.T, conn *pgx.Conn, statement string, extended bool) (tag string, err error) {
	t.Helper()
	if extended {
		result := conn.PgConn().ExecParams(t.Context(), statement, nil, nil, nil, nil).Read()
		return result.CommandTag.String(), result.Err
	}
	results, err := conn.PgConn().Exec(t.Context(), statement).ReadAll()
	if err != nil {
		return "", err
	}
	return results[len(results)-1].CommandTag.String(), nil
}

// TestSeveralPolicies: policies on one table live and end each by itself, beside each other.
func TestSeveralPolicies(t *testing.T) {
	for _, extended := range []bool{false, true} {
		t.Run(map[bool]string{false: "simple", true: "extended"}[extended], func(t *testing.T) {
			onEach(t, func(t *testing.T, e *env) { severalPolicies(t, e, extended) })
		})
	}
}

func severalPolicies(t *testing.T, e *env, extended bool) {
	admin, owner, reader, exempt := e.admin(t), e.connect(t, olga), e.connect(t, analyst), e.connect(t, risk)
	e.exec(t, admin, asOlga(`GRANT SELECT (id, "Note") ON customers TO guest`)...)
	before := mustText(t, admin, allPrivileges)
	do := func(want, statement string) {
		t.Helper()
		tag, err := say(t, owner, statement, extended)
		for n := 0; n < 100 && e.isOthers(err); n++ {
			tag, err = say(t, owner, statement, extended)
		}
		if err != nil || tag != want {
			t.Fatalf("%s: %s %v", statement, tag, explain(err))
		}
	}
	refused := func(want, naming, statement string) {
		t.Helper()
		if _, err := say(t, owner, statement, extended); code(err) != want || !strings.Contains(explain(err), naming) {
			t.Errorf("%s: %v", statement, explain(err))
		}
	}
	sees := func(who *pgx.Conn, query, want string) {
		t.Helper()
		if got, err := text(t, who, query); err != nil || got != want {
			t.Errorf("%s: %s%v\nwant %s", query, got, explain(err), want)
		}
	}
	const create, alter, drop = "CREATE MASKING POLICY", "ALTER MASKING POLICY", "DROP MASKING POLICY"
	do(create, `CREATE MASKING POLICY codes ON customers (age, income) EXCEPT risk USING ENCODER enc`)
	do(create, `CREATE MASKING POLICY "the note" ON customers ("Note") USING (scrim.partial("Note", 2, '***', 1) /* ) */ ) WHEN (region <> 'EU')`)
	afterTwo := mustText(t, admin, allPrivileges)
	do(create, `CREATE OR REPLACE MASKING POLICY scores ON customers (score) EXCEPT risk USING (scrim.bucket(score, 100)) CASCADE`)
	afterThree := mustText(t, admin, allPrivileges)
	do(create, `CREATE MASKING POLICY IF NOT EXISTS scores ON customers (score) USING (NULL)`)
	refused("42710", `"scores"`, `CREATE MASKING POLICY scores ON customers (vip) USING (NULL)`)
	refused("42710", `masked by policy "scores"`, `CREATE MASKING POLICY more ON customers (vip, score) USING (NULL)`)
	refused("42710", `masked by policy "codes"`, `CREATE OR REPLACE MASKING POLICY scores ON customers (income, score) USING (NULL)`)
	if after := mustText(t, admin, allPrivileges); after != afterThree {
		t.Errorf("refused statements changed privileges:\n%s", difference(afterThree, after))
	}

	const row = `SELECT age > 5, income > 5, score, "Note" FROM customers WHERE id IN (1, 3) ORDER BY id`
	sees(reader, row, "f|f|300|no***1\nf|f|300|note 3\n")
	sees(exempt, row, "t|t|331.5|no***1\nt|t|393.5|note 3\n") // two policies except it, one does not
	sees(owner, row, "t|t|331.5|note 1\nt|t|393.5|note 3\n")
	sees(e.connect(t, guest), `SELECT "Note" FROM customers WHERE id IN (1, 3) ORDER BY id`, "no***1\nnote 3\n")
	if _, err := text(t, e.connect(t, guest), `SELECT score FROM customers`); code(err) != "42501" {
		t.Errorf("a column that was not granted: %v", explain(err))
	}
	for role, columns := range map[string]string{analyst: `age|income|score|"Note"`, risk: `"Note"`, guest: `"Note"`} {
		for column := range strings.SplitSeq(columns, "|") {
			if _, err := text(t, e.directly(t, role), `SELECT `+column+` FROM customers`); code(err) != "42501" {
				t.Errorf("%s reads %s around the proxy: %v", role, column, explain(err))
			}
		}
	}
	if got := mustText(t, owner, `SELECT name, columns, encoder, mask, except_roles FROM scrim.masking_policies ORDER BY 1`); got !=
		"codes|{age,income}|enc|∅|{risk}\nscores|{score}|∅|scrim.bucket(score, 100)|{risk}\nthe note|{Note}|∅|scrim.partial(\"Note\", 2, '***', 1) WHEN (region <> 'EU')|{}\n" {
		t.Error(got)
	}

	// A disabled policy closes its own columns only.
	do(alter, `ALTER MASKING POLICY scores ON customers DISABLE`)
	for _, q := range []string{`SELECT score FROM customers`, `SELECT * FROM customers`, `SELECT count(*) FROM customers WHERE score > 5`} {
		if _, err := text(t, reader, q); code(err) != "42501" || !strings.Contains(explain(err), `"scores"`) {
			t.Errorf("%s: %v", q, explain(err))
		}
	}
	sees(reader, `SELECT age > 5, "Note" FROM customers WHERE id = 1`, "f|no***1\n")
	sees(exempt, row, "t|t|331.5|no***1\nt|t|393.5|note 3\n")
	do(alter, `ALTER MASKING POLICY codes ON customers DISABLE`)
	if _, err := text(t, reader, `SELECT age FROM customers`); code(err) != "42501" || !strings.Contains(explain(err), `"codes"`) {
		t.Errorf("of two that are disabled: %v", explain(err))
	}
	sees(reader, `SELECT "Note" FROM customers WHERE id = 1`, "no***1\n")
	do(alter, `ALTER MASKING POLICY "the note" ON customers RENAME TO notes`)
	do(alter, `ALTER MASKING POLICY codes ON customers ENABLE`)
	refused("42710", `"codes"`, `ALTER MASKING POLICY notes ON customers RENAME TO codes`)
	do(alter, `ALTER MASKING POLICY codes ON customers ROTATE KEY`)
	do(alter, `ALTER MASKING POLICY notes ON customers SET EXCEPT (guest)`)
	sees(e.connect(t, guest), `SELECT "Note" FROM customers WHERE id IN (1, 3) ORDER BY id`, "note 1\nnote 3\n")
	do("SELECT 1", `SELECT scrim.set_masking_policy_except('notes', 'customers', '{}')`)
	if _, err := text(t, reader, `SELECT score FROM customers`); code(err) != "42501" || !strings.Contains(explain(err), `"scores"`) {
		t.Errorf("disabled, after changes of others: %v", explain(err))
	}
	do(alter, `ALTER MASKING POLICY scores ON customers ENABLE`)
	sees(reader, row, "f|f|300|no***1\nf|f|300|note 3\n")

	// Nothing stays of what is rolled back.
	e.exec(t, owner, `BEGIN`)
	do(drop, `DROP MASKING POLICY codes ON customers`)
	do(create, `CREATE MASKING POLICY vips ON customers (vip) USING (NULL)`)
	e.exec(t, owner, `ROLLBACK`)
	sees(reader, row, "f|f|300|no***1\nf|f|300|note 3\n")
	sees(reader, `SELECT count(vip) FROM customers`, "2000\n")

	// Dropped, a policy gives back what it alone took.
	do(drop, `DROP MASKING POLICY scores ON customers`)
	if after := mustText(t, admin, allPrivileges); after != afterTwo {
		t.Errorf("without the third policy:\n%s", difference(afterTwo, after))
	}
	sees(reader, row, "f|f|331.5|no***1\nf|f|393.5|note 3\n")
	do(drop, `DROP MASKING POLICY IF EXISTS scores ON customers`)
	do(drop, `DROP MASKING POLICY codes ON customers`)
	do(drop, `DROP MASKING POLICY notes ON customers`)
	if after := mustText(t, admin, allPrivileges); after != before {
		t.Errorf("without policies:\n%s", difference(before, after))
	}
	sees(reader, row, "t|t|331.5|note 1\nt|t|393.5|note 3\n")
	if got := mustText(t, admin, `SELECT count(*) FROM scrim_state.sql_masks`); got != "0\n" {
		t.Errorf("%s masks are left", got)
	}
}

// TestMaskPositions: a syntax error in an expression is where it is in the client's text.
func TestMaskPositions(t *testing.T) {
	onEach(t, func(t *testing.T, e *env) {
		owner := e.connect(t, olga)
		for _, s := range []string{
			`CREATE MASKING POLICY p ON customers (vip) USING (vip AND§) WHEN (true)`,
			`CREATE MASKING POLICY p ON customers (vip) USING (vip AND§)`,
			`CREATE MASKING POLICY p ON customers (vip) USING (true§, false)`,
			`CREATE MASKING POLICY p ON customers (vip) USING (§SELECT true)`,
			`CREATE MASKING POLICY p ON customers (vip) USING (true) WHEN (§)`,
			`CREATE MASKING POLICY p ON customers (vip) USING (true) §ELSE`,
			`CREATE MASKING POLICY p AS (v boolean) RETURNS boolean -> v AND §AND`,
			`CREATE MASKING POLICY p AS (v §)  RETURNS boolean -> v`,
			`CREATE MASKING POLICY p AS (v boolean) RETURNS boolean -> v§; SELECT 1`,
			`ALTER TABLE customers ALTER COLUMN vip SET MASKING POLICY p USING (vip) §FORCED`,
		} {
			for _, extended := range []bool{false, true} {
				_, err := say(t, owner, strings.ReplaceAll(s, "§", ""), extended)
				var pgErr *pgconn.PgError
				if !asError(err, &pgErr) || pgErr.Code != "42601" || int(pgErr.Position) != strings.Index(s, "§")+1 {
					t.Errorf("%s\n%v", s, explain(err))
					if pgErr != nil {
						t.Error(pgErr.Position)
					}
				}
			}
		}
	})
}

// TestSnowflakeSpelling: a policy that is defined once and set on columns.
func TestSnowflakeSpelling(t *testing.T) {
	onEach(t, func(t *testing.T, e *env) {
		for _, extended := range []bool{false, true} {
			admin, owner, reader := e.admin(t), e.connect(t, olga), e.connect(t, analyst)
			before := mustText(t, admin, allPrivileges)
			do := func(want string, statements ...string) {
				t.Helper()
				for _, s := range statements {
					tag, err := say(t, owner, s, extended)
					for n := 0; n < 100 && e.isOthers(err); n++ {
						tag, err = say(t, owner, s, extended)
					}
					if err != nil || tag != want {
						t.Fatalf("%s: %s %v", s, tag, explain(err))
					}
				}
			}
			do("CREATE MASKING POLICY", `CREATE MASKING POLICY short AS (v text) RETURNS text -> CASE WHEN session_user = 'analyst' THEN scrim.partial(v, 2, '***', 1) ELSE v END`,
				`CREATE MASKING POLICY IF NOT EXISTS short AS (v text) RETURNS text -> v`,
				`CREATE MASKING POLICY near AS (v float8, region varchar, "T" integer) RETURNS double precision -> CASE region WHEN 'EU' THEN NULL ELSE scrim.bucket(v, 100) + "T" * 0 END`)
			for statement, want := range map[string]string{
				`CREATE MASKING POLICY short AS (v text) RETURNS text -> v`:                              "42710",
				`CREATE MASKING POLICY other AS (v text) RETURNS integer -> 1`:                           "42804",
				`CREATE MASKING POLICY other AS (v text) RETURNS text -> (SELECT v)`:                     "0A000",
				`CREATE MASKING POLICY other AS (v text) RETURNS text -> current_user`:                   "0A000",
				`CREATE MASKING POLICY other AS (v text) RETURNS text -> w`:                              "42703",
				`CREATE MASKING POLICY other AS (v nosuch) RETURNS nosuch -> v`:                          "42704",
				`ALTER TABLE customers ALTER COLUMN score SET MASKING POLICY short`:                      "42804",
				`ALTER TABLE customers ALTER COLUMN score SET MASKING POLICY near`:                       "42804",
				`ALTER TABLE customers ALTER COLUMN score SET MASKING POLICY near USING (score, id, id)`: "42804",
				`ALTER TABLE customers ALTER COLUMN "Note" SET MASKING POLICY nosuch`:                    "42704",
				`ALTER TABLE customers ALTER COLUMN nosuch SET MASKING POLICY short`:                     "42703",
				`ALTER TABLE nosuch ALTER COLUMN "Note" SET MASKING POLICY short`:                        "42P01",
				`ALTER TABLE customers ALTER COLUMN "Note" SET MASKING POLICY short USING (region)`:      "22023",
				`ALTER TABLE customers ALTER COLUMN "Note" UNSET MASKING POLICY`:                         "42704",
				`ALTER MASKING POLICY nosuch SET BODY -> v`:                                              "42704",
				`DROP MASKING POLICY nosuch`:                                                             "42704",
			} {
				if _, err := say(t, owner, statement, extended); code(err) != want {
					t.Errorf("%s: %v, want %s", statement, explain(err), want)
				}
			}
			e.exec(t, admin, `ALTER TABLE customers ADD COLUMN IF NOT EXISTS area varchar(20)`, `UPDATE customers SET area = region`)
			do("ALTER TABLE", `ALTER TABLE customers ALTER COLUMN "Note" SET MASKING POLICY short`,
				`ALTER TABLE IF EXISTS customers MODIFY COLUMN score SET MASKING POLICY near USING (score, area, id)`)
			const row = `SELECT score, "Note" FROM customers WHERE id IN (1, 3) ORDER BY id`
			shown := mustText(t, reader, row)
			if shown != "300|no***1\n∅|no***3\n" {
				t.Error(shown)
			}
			if got := mustText(t, owner, `SELECT name, columns, inputs FROM scrim.masking_policies ORDER BY 1`); got != "near|{score}|{id,score,area}\nshort|{Note}|{Note}\n" {
				t.Error(got)
			}
			if got := mustText(t, owner, `SELECT name, arguments, types FROM scrim.mask_definitions ORDER BY 1`); got != "near|{v,region,T}|{\"double precision\",\"character varying\",integer}\nshort|{v}|{text}\n" {
				t.Error(got)
			}
			for _, statement := range []string{`ALTER TABLE customers ALTER COLUMN score SET MASKING POLICY near USING (score, area, id)`, `CREATE MASKING POLICY q ON customers (score) USING (NULL)`} {
				if _, err := say(t, owner, statement, extended); code(err) != "42710" || !strings.Contains(explain(err), `"near"`) {
					t.Errorf("%s: %v", statement, explain(err))
				}
			}
			if _, err := say(t, owner, `DROP MASKING POLICY short`, extended); code(err) != "2BP01" || !strings.Contains(explain(err), "customers") {
				t.Errorf("dropped in use: %v", explain(err))
			}

			// The native spelling gives the same.
			do("ALTER TABLE", `ALTER TABLE customers ALTER score UNSET MASKING POLICY`, `ALTER TABLE customers ALTER COLUMN "Note" UNSET MASKING POLICY`)
			if after := mustText(t, admin, allPrivileges); after != strings.ReplaceAll(before, "\n\n", "\n") && !strings.Contains(after, "area") {
				t.Errorf("unset:\n%s", difference(before, after))
			}
			do("CREATE MASKING POLICY", `CREATE MASKING POLICY p ON customers ("Note") USING (CASE WHEN session_user = 'analyst' THEN scrim.partial("Note", 2, '***', 1) ELSE "Note" END)`,
				`CREATE MASKING POLICY q ON customers (score) USING (CASE area WHEN 'EU' THEN NULL ELSE scrim.bucket(score, 100) + id * 0 END)`)
			if got := mustText(t, reader, row); got != shown {
				t.Errorf("%s\nby the native spelling:\n%s", shown, got)
			}

			// FORCE takes a column from another policy; a new body is that of all columns.
			if _, err := say(t, owner, `ALTER TABLE customers ALTER COLUMN "Note" SET MASKING POLICY short`, extended); code(err) != "42710" {
				t.Errorf("without FORCE: %v", explain(err))
			}
			do("ALTER TABLE", `ALTER TABLE customers ALTER COLUMN "Note" SET MASKING POLICY short USING ("Note") FORCE`)
			do("ALTER MASKING POLICY", `ALTER MASKING POLICY short SET BODY -> 'body'`)
			if got := mustText(t, reader, row); got != "300|body\n∅|body\n" {
				t.Error(got)
			}
			do("CREATE MASKING POLICY", `CREATE OR REPLACE MASKING POLICY short AS (x text) RETURNS text -> upper(x)`)
			if got := mustText(t, reader, row); got != "300|NOTE 1\n∅|NOTE 3\n" {
				t.Error(got)
			}
			if _, err := say(t, owner, `CREATE OR REPLACE MASKING POLICY short AS (x varchar) RETURNS varchar -> upper(x)`, extended); code(err) != "2BP01" {
				t.Errorf("other types: %v", explain(err))
			}
			e.exec(t, owner, `BEGIN`, `ALTER MASKING POLICY short SET BODY -> 'gone'`, `ROLLBACK`)
			do("DROP MASKING POLICY", `DROP MASKING POLICY q ON customers`)
			do("ALTER TABLE", `ALTER TABLE customers ALTER COLUMN "Note" UNSET MASKING POLICY`)
			do("DROP MASKING POLICY", `DROP MASKING POLICY short`, `DROP MASKING POLICY near`, `DROP MASKING POLICY IF EXISTS near`)
			if got := mustText(t, reader, row); got != "331.5|note 1\n393.5|note 3\n" {
				t.Errorf("in the end: %s", got)
			}
		}
	})
}

// TestMaskLibrary: what the library's functions show, compared with what is reckoned here.
func TestMaskLibrary(t *testing.T) {
	const table = `CREATE TABLE lib (id integer PRIMARY KEY, partial text, email varchar(60), htext text COLLATE "C", hint integer, hbig bigint, huuid uuid,
		bint integer, bbig bigint, bnum numeric(12,2), bfloat float8, gdate date, gts timestamp(0), gtz timestamptz, nfloat float8, nnum numeric, nint integer, nbig bigint, spare text)`
	const rows = `INSERT INTO lib VALUES
		(1, '4111-1111-1111-1234', 'jane.doe@example.co.uk', 'Grüße', 42, 4815162342108, '48151623-4210-4815-1623-421048151623', 1999999999, -7, -0.01, -0.5, '2024-05-17', '2024-05-17 23:59:59', '2024-05-17 23:59:59Z', 1.5, 12.25, 100, 4815162342108, 'a'),
		(2, 'abc', 'noat', '', -2147483648, -9223372036854775808, '00000000-0000-0000-0000-000000000000', 100000000, 9223372036854775807, 2.99, 'NaN', 'infinity', '-infinity', 'infinity', 'Infinity', 'NaN', -5, 0, 'b'),
		(3, '', '@x', E'a\\b''c', 0, 0, 'ffffffff-ffff-ffff-ffff-ffffffffffff', -1, -9223372036854775800, 9999999999.99, '-Infinity', '0044-03-15 BC', '1969-12-31 23:00', '1969-12-31 23:00Z', 'NaN', 0.1, 2147483647, -9223372036854775808, 'c'),
		(4, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL)`
	want := []string{
		`SELECT partial, email FROM lib ORDER BY id`, "4111****1234|j*****@e*****.uk\n****|*****\n****|*****\n∅|∅\n",
		`SELECT bint, bbig, bnum, bfloat FROM lib ORDER BY id`, "0|-10|-2.50|-1\n0|9223372036854775800|2.50|NaN\n-2000000000|-9223372036854775800|9999999997.50|-Infinity\n∅|∅|∅|∅\n",
		`SELECT gdate, gts, gtz AT TIME ZONE 'UTC' FROM lib ORDER BY id`, "2024-05-01|2024-05-17 00:00:00|2024-05-17 23:00:00\ninfinity|-infinity|infinity\n0044-03-01 BC|1969-12-31 00:00:00|1969-12-31 23:00:00\n∅|∅|∅\n",
		`SELECT attname, format_type(atttypid, atttypmod) FROM (SELECT 1) one, LATERAL (SELECT pg_typeof(email), pg_typeof(bnum), pg_typeof(gts) FROM lib LIMIT 1) x, pg_attribute WHERE false`, "",
	}
	onEach(t, func(t *testing.T, e *env) {
		admin, owner, reader := e.admin(t), e.connect(t, olga), e.connect(t, analyst)
		e.exec(t, admin, asOlga(table, rows, `GRANT SELECT ON lib TO analyst`)...)
		for column, mask := range map[string]string{
			"partial": `scrim.partial(partial, 4, '****', 4)`, "email": `scrim.email(email)`, "htext": `scrim.hash(htext)`, "hint": `scrim.hash(hint)`, "hbig": `scrim.hash(hbig)`, "huuid": `scrim.hash(huuid)`,
			"bint": `scrim.bucket(bint, 2000000000)`, "bbig": `scrim.bucket(bbig, 10)`, "bnum": `scrim.bucket(bnum, 2.5)`, "bfloat": `scrim.bucket(bfloat, 1)`,
			"gdate": `scrim.generalize(gdate, 'month')`, "gts": `scrim.generalize(gts, 'day')`, "gtz": `scrim.generalize(gtz, 'hour')`,
			"nfloat": `scrim.noise(nfloat, 10, id)`, "nnum": `scrim.noise(nnum, 5, spare)`, "nint": `scrim.noise(nint, 100, id)`, "nbig": `scrim.noise(nbig, 1000, 'k' || spare)`,
		} {
			e.exec(t, owner, fmt.Sprintf(`CREATE MASKING POLICY %[1]s ON lib (%[1]s) USING (%[2]s)`, column, mask))
		}
		for i := 0; i < len(want); i += 2 {
			if got := mustText(t, reader, want[i]); got != want[i+1] {
				t.Errorf("%s\n%s", want[i], got)
			}
		}
		checkHashes(t, e, admin, reader)
		checkNoise(t, admin, reader)
		checkDescription(t, owner, reader, `SELECT * FROM lib`)

		// Settings change nothing; the zone's name UTC means another zone in the second.
		const all = `SELECT encode(record_send(lib), 'hex') FROM lib ORDER BY id`
		first := mustText(t, reader, all)
		for _, set := range []string{`SET TimeZone = 'UTC5:13'`, `SET TimeZone = 'Asia/Kolkata'`, `SET extra_float_digits = -15`, `SET DateStyle = 'SQL, DMY'`, `SET timezone_abbreviations = 'Australia'`, `SET search_path = ''`} {
			e.exec(t, reader, set)
			if got := mustText(t, reader, strings.ReplaceAll(all, "lib ", "public.lib lib ")); got != first {
				t.Errorf("after %s:\n%s", set, difference(first, got))
			}
		}
		if readers := mustText(t, admin, `SELECT string_agg(r.rolname, ' ') FROM pg_roles r, pg_class c WHERE c.relname LIKE 'mask\_key\_%' AND has_table_privilege(r.oid, c.oid, 'SELECT') AND NOT r.rolsuper AND r.rolname !~ '^scrim_owner_\d+$'
			AND r.rolname NOT IN ('pg_read_all_data') AND NOT pg_has_role(r.oid, 'pg_read_all_data', 'USAGE')`); readers != "∅\n" {
			t.Errorf("the key of masks is read by %s", readers)
		}
		if _, err := text(t, reader, `SELECT scrim.hash('x'::text)`); code(err) != "0A000" && code(err) != "42501" {
			t.Errorf("hash outside of a mask: %v", explain(err))
		}
	})
}

// checkHashes compares masks with HMAC-SHA256 of the values, with the key that the superuser reads.
func checkHashes(t *testing.T, e *env, admin, reader *pgx.Conn) {
	t.Helper()
	var inner []byte
	if err := admin.QueryRow(t.Context(), `SELECT inner_key FROM scrim_state.mask_key_`+strings.TrimSpace(mustText(t, admin, `SELECT 'olga'::regrole::oid`))).Scan(&inner); err != nil {
		t.Fatal(err)
	}
	key := make([]byte, len(inner))
	for i, b := range inner {
		key[i] = b ^ 0x36
	}
	mac := func(value string) []byte {
		h := hmac.New(sha256.New, key)
		h.Write([]byte(value))
		return h.Sum(nil)
	}
	raw := strings.Split(mustText(t, admin, `SELECT htext, hint, hbig, huuid FROM lib WHERE id < 4 ORDER BY id`), "\n")
	shown := strings.Split(mustText(t, reader, `SELECT htext, hint, hbig, replace(huuid::text, '-', '') FROM lib WHERE id < 4 ORDER BY id`), "\n")
	for i := range 3 {
		v := strings.Split(raw[i], "|")
		want := fmt.Sprintf("%x|%d|%d|%s", mac(v[0]), int32(binary.BigEndian.Uint32(mac(v[1]))), int64(binary.BigEndian.Uint64(mac(v[2]))), hex.EncodeToString(mac(v[3])[:16]))
		if shown[i] != want {
			t.Errorf("%s: the hashes are\n%s, not\n%s", e.name, shown[i], want)
		}
	}
	if got := mustText(t, reader, `SELECT htext, hint, hbig, huuid FROM lib WHERE id = 4`); got != "∅|∅|∅|∅\n" {
		t.Error(got)
	}
}

func checkNoise(t *testing.T, admin, reader *pgx.Conn) {
	t.Helper()
	const noisy = `SELECT nfloat, nnum, nint, nbig FROM lib ORDER BY id`
	shown := mustText(t, reader, noisy)
	if again := mustText(t, reader, noisy); again != shown {
		t.Errorf("noise is not the same twice:\n%s", difference(shown, again))
	}
	if lines := strings.Split(shown, "\n"); !strings.HasPrefix(lines[1], "Infinity|NaN|") || !strings.HasPrefix(lines[2], "NaN|") || lines[3] != "∅|∅|∅|∅" {
		t.Errorf("noise: %s", shown)
	}
	if shown == mustText(t, admin, noisy) {
		t.Error("noise is none")
	}
	raw := strings.Split(mustText(t, admin, `SELECT nfloat, nnum, nint, nbig FROM lib WHERE id = 1`), "|")
	if got := mustText(t, reader, fmt.Sprintf(`SELECT abs(nfloat - %s) < 10 AND abs(nnum - %s) <= 5 AND scale(nnum) <= 2 AND abs(nint - %s) <= 100 AND abs(nbig - %s) <= 1000 FROM lib WHERE id = 1`, raw[0], raw[1], raw[2], strings.TrimSpace(raw[3]))); got != "t\n" {
		t.Errorf("noise beyond its amplitude: %s", shown)
	}
}

// checkDescription: the columns have the types that the table's have.
func checkDescription(t *testing.T, owner, reader *pgx.Conn, query string) {
	t.Helper()
	raw, err := owner.Prepare(t.Context(), "", query)
	if err != nil {
		t.Fatal(err)
	}
	masked, err := reader.Prepare(t.Context(), "", query)
	if err != nil {
		t.Fatal(err)
	}
	for i, f := range raw.Fields {
		if g := masked.Fields[i]; g.DataTypeOID != f.DataTypeOID || g.TypeModifier != f.TypeModifier || g.Name != f.Name {
			t.Errorf("column %s is described as %+v, not %+v", f.Name, g, f)
		}
	}
}

// TestMaskTypes: columns of all kinds keep type, typmod and collation; a mask of another type is refused.
func TestMaskTypes(t *testing.T) {
	onEach(t, func(t *testing.T, e *env) {
		admin, owner, reader := e.admin(t), e.connect(t, olga), e.connect(t, analyst)
		e.exec(t, admin, asOlga(`CREATE TYPE mood AS ENUM ('sad', 'happy')`,
			`CREATE TABLE kinds (id integer PRIMARY KEY, num numeric(12,2), v varchar(5), c char(3), ctext text COLLATE "C", m mood, a text[], d timestamptz(0), j jsonb, f real, n name, b bit(3), u uuid)`,
			`INSERT INTO kinds VALUES (1, 12.345, 'abcde', 'ab', 'x', 'happy', '{a,b}', '2024-05-17 12:00:00.7Z', '{"ssn": 1, "x": 2}', 1.25, 'nm', B'101', gen_random_uuid())`,
			`GRANT SELECT ON kinds TO analyst`)...)
		for column, mask := range map[string]string{
			"num": "num * 10 / 3", "v": "scrim.hash(v)", "c": "'xyzzy'", "ctext": "upper(ctext)", "m": "'sad'", "a": "ARRAY['*']", "d": "scrim.generalize(d, 'year')", "j": "j - 'ssn'", "f": "floor(f)", "n": "'*'", "b": "B'000'", "u": "scrim.hash(u)",
		} {
			e.exec(t, owner, fmt.Sprintf(`CREATE MASKING POLICY %[1]s ON kinds (%[1]s) USING (%[2]s)`, column, mask))
		}
		checkDescription(t, owner, reader, `SELECT * FROM kinds`)
		if got := mustText(t, reader, `SELECT num, length(v), c, ctext, m, a, d AT TIME ZONE 'UTC', j, f, n, b, pg_collation_for(ctext) FROM kinds`); got !=
			`41.17|5|xyz|X|sad|{*}|2024-01-01 00:00:00|{"x": 2}|1|*|000|"C"`+"\n" {
			t.Error(got)
		}
		e.exec(t, owner, `CREATE OR REPLACE MASKING POLICY m ON kinds (m) USING (NULL)`)
		for column, mask := range map[string]string{"num": "'x'::text", "v": "5", "m": "'x'::text", "a": "'x'::text", "d": "1.5", "j": "'{}'::text", "u": "'x'::text", "b": "true"} {
			if _, err := text(t, owner, fmt.Sprintf(`CREATE OR REPLACE MASKING POLICY %[1]s ON kinds (%[1]s) USING (%[2]s)`, column, mask)); code(err) != "42804" {
				t.Errorf("%s masked by %s: %v", column, mask, explain(err))
			}
		}
		if _, err := text(t, owner, `CREATE OR REPLACE MASKING POLICY m ON kinds (m) USING ('angry')`); code(err) != "22P02" {
			t.Errorf("no value of an enum: %v", explain(err))
		}
		// A cast to the column's type is a part of the mask.
		for column, mask := range map[string]string{"f": "num", "d": "'2024-01-01'::date", "v": "d::text"} {
			if _, err := text(t, owner, fmt.Sprintf(`CREATE OR REPLACE MASKING POLICY %[1]s ON kinds (%[1]s) USING (%[2]s)`, column, mask)); code(err) != "0A000" || !strings.Contains(explain(err), "cast") {
				t.Errorf("%s masked by %s: %v", column, mask, explain(err))
			}
		}
	})
}

// TestMaskRefusals: what a mask may not be made of. Each names what is wrong.
func TestMaskRefusals(t *testing.T) {
	onEach(t, func(t *testing.T, e *env) {
		admin, owner := e.admin(t), e.connect(t, olga)
		other := extraRole(t, e, "scrim_user")
		t.Cleanup(func() { _ = e.superuser(context.Background(), e.database, `DROP FUNCTION pinned_of_others CASCADE`) })
		e.exec(t, admin, `GRANT CREATE ON SCHEMA public TO `+other, `CREATE FUNCTION pinned_of_others(text) RETURNS text LANGUAGE sql IMMUTABLE SET search_path = pg_catalog, pg_temp AS 'SELECT $1'`, `ALTER FUNCTION pinned_of_others OWNER TO `+other,
			`CREATE FUNCTION super(text) RETURNS text LANGUAGE sql IMMUTABLE RETURN upper($1)`)
		e.exec(t, admin, asOlga(
			`CREATE TABLE r (id integer PRIMARY KEY, txt text, num numeric, f float8, d date, ts timestamp, tz timestamptz, i integer, by bytea, j jsonb, iv interval, dbl real, spare text, "scrim.hash(" text, "it's ""odd""" text)`,
			`GRANT SELECT ON r TO analyst`,
			`CREATE FUNCTION unpinned(text) RETURNS text LANGUAGE sql IMMUTABLE AS 'SELECT $1'`,
			`CREATE FUNCTION wide(text) RETURNS text LANGUAGE sql IMMUTABLE SET search_path = public AS 'SELECT $1'`,
			`CREATE FUNCTION users_first(text) RETURNS text LANGUAGE sql IMMUTABLE SET search_path = "$user", pg_catalog, pg_temp AS 'SELECT $1'`,
			`CREATE FUNCTION no_temp(text) RETURNS text LANGUAGE sql IMMUTABLE SET search_path = pg_catalog AS 'SELECT $1'`,
			`CREATE FUNCTION pinned(text) RETURNS text LANGUAGE plpgsql IMMUTABLE SET search_path = pg_catalog, pg_temp AS 'BEGIN RETURN left($1, 1); END'`,
			`CREATE FUNCTION body(v text) RETURNS text LANGUAGE sql STABLE RETURN pinned(v) || '.'`,
			`CREATE FUNCTION body_of_unpinned(text) RETURNS text LANGUAGE sql IMMUTABLE RETURN upper(unpinned($1))`,
			`CREATE FUNCTION body_twice(text) RETURNS text LANGUAGE sql IMMUTABLE RETURN upper(body_of_unpinned($1))`,
			`CREATE FUNCTION body_of_others(text) RETURNS text LANGUAGE sql IMMUTABLE RETURN upper(pinned_of_others($1))`,
			`CREATE FUNCTION moody(text) RETURNS text LANGUAGE sql VOLATILE SET search_path = pg_catalog, pg_temp AS 'SELECT $1'`,
			`CREATE FUNCTION definer(text) RETURNS text LANGUAGE sql IMMUTABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS 'SELECT $1'`,
			`REVOKE EXECUTE ON FUNCTION definer FROM PUBLIC`,
			`CREATE FUNCTION several(text) RETURNS SETOF text LANGUAGE sql IMMUTABLE SET search_path = pg_catalog, pg_temp AS 'SELECT $1'`,
			`CREATE OPERATOR public.=== (LEFTARG = text, RIGHTARG = text, FUNCTION = texteq)`,
			`CREATE DOMAIN short AS text CHECK (value <> 'x')`)...)
		refusals := map[string][]string{ // by what they name
			"a subquery":           {"txt|(SELECT txt)", "txt|(SELECT rolpassword FROM pg_authid LIMIT 1)", "i|CASE WHEN EXISTS (SELECT 1) THEN 1 END"},
			"it depends on a":      {"txt|current_user", "txt|user::text", "txt|current_role", "d|current_date", "txt|current_schema", "txt|current_catalog", "tz|CURRENT_TIMESTAMP", "ts|localtimestamp", "i|CASE WHEN current_user = 'analyst' THEN i END"},
			"the whole row":        {"txt|CASE WHEN t IS NULL THEN 'x' END", "i|CASE WHEN t.ctid = '(0,1)' THEN 1 END", "i|CASE WHEN xmin IS NULL THEN 1 END"},
			"the cast":             {"d|tz::date", "txt|f::text", "txt|d::text", "txt|tz::text", "txt|by::text", "txt|iv::text", "i|txt::int", "num|txt::numeric", "d|txt::date", "j|txt::jsonb", "dbl|num::real", "f|num::float8", "dbl|num", "f|num * 2", "tz|ts", "ts|tz", "txt|j::text", "i|length(txt::json::text)", "i|j::int"},
			"function":             {"num|to_number(txt, '999')", "d|to_date(txt, 'YYYY')", "txt|chr(i)", "d|make_date(i, 1, 1)", "txt|format('%s', txt)", "txt|set_config('scrim.x', txt, false)", "txt|current_setting(txt)", "txt|to_char(d, 'Mon')", "txt|to_char(i, '999')", "txt|convert_from(by, 'UTF8')", "by|decode(txt, 'hex')", "by|convert_to(txt, 'UTF8')", "tz|age(tz, tz) + tz", "iv|age(tz, tz)", "tz|timezone('UTC', ts)", "ts|tz AT TIME ZONE 'UTC'", "tz|date_trunc('day', tz)", "i|date_part('day', tz)::int", "txt|concat(d, f)", "txt|quote_literal(txt)", "txt|pg_read_file(txt)", "f|random()", "i|nextval(txt)", "txt|query_to_xml(txt, true, true, '')::text", "j|to_jsonb(d)", "j|jsonb_build_object('a', txt)", "txt|pg_describe_object(i, i, i)", "txt|pg_get_expr(txt::pg_node_tree, 1)", "txt|lo_get(i::oid)::text"},
			"takes constants":      {"ts|date_trunc(txt, ts)", "f|date_part(txt, ts)", "txt|encode(by, txt)", "txt|regexp_replace(txt, 'a', 'b', spare)", "d|scrim.generalize(d, txt)", "ts|timezone(iv, tz)"},
			"pg_has_role takes":    {"i|CASE WHEN pg_has_role(txt::name, 'olga', 'usage') THEN i END", "i|CASE WHEN pg_has_role('analyst', 'olga', 'usage') THEN i END", "i|CASE WHEN pg_has_role(session_user, txt::name, 'usage') THEN i END"},
			"must be the table":    {"txt|public.unpinned(txt)", "txt|public.wide(txt)", "txt|public.users_first(txt)", "txt|public.no_temp(txt)", "txt|public.pinned_of_others(txt)", "txt|public.body_of_unpinned(txt)", "txt|public.body_twice(txt)", "txt|public.body_of_others(txt)", "txt|public.moody(txt)", "txt|public.definer(txt)", "txt|scrim.needs_key()::text"},
			"operator":             {"i|CASE WHEN txt OPERATOR(public.===) txt THEN 1 END", "tz|tz + iv", "j|j #- ARRAY[txt]", "txt|txt || d", "i|CASE WHEN d < tz THEN i END", "i|CASE WHEN j @? '$.a' THEN i END", "i|CASE WHEN txt @@ 'x' THEN i END"},
			"a cast to a domain":   {"txt|txt::public.short"},
			"a constant in a mask": {"txt|'scrim.hash('", "txt|left('scrim.x', i)"},
			"is one expression":    {"txt|E'\\001'", "txt|txt) ELSE NULL END AS mask FROM pg_temp.scrim_probe t UNION ALL SELECT CASE WHEN true THEN (txt"},
			"character of code 1":  {"txt|'\x01'"},
		}
		for naming, list := range refusals {
			for n, c := range list {
				column, expression, _ := strings.Cut(c, "|")
				statements := []string{fmt.Sprintf(`SELECT scrim.create_sql_masking_policy('p', 'r', ARRAY[%s], NULL, %s)`, quoteLiteral(column), quoteLiteral(expression))}
				if n == 0 && naming != "is one expression" {
					statements = append(statements, fmt.Sprintf(`SELECT scrim.create_sql_masking_policy('p', 'r', '{spare}', NULL, 'NULL', %s)`, quoteLiteral("("+expression+") IS NULL")))
				}
				for _, statement := range statements {
					if _, err := text(t, owner, statement); err == nil || code(err) == "0A000" && !strings.Contains(explain(err), naming) {
						t.Errorf("%s: %v, want %q", statement, explain(err), naming)
						e.exec(t, owner, `SELECT scrim.drop_masking_policy('p', 'r', true)`)
					} else if code(err) != "0A000" {
						t.Logf("%s: %v", statement, explain(err))
					}
				}
			}
		}
		for expression, want := range map[string]string{
			"max(txt)": "0A000", "(row_number() OVER ())::text": "0A000", "unnest(ARRAY[txt])": "0A000", "public.several(txt)": "0A000", "generate_series(1, i)::text": "0A000", "ROW(txt)": "42804", "txt) ELSE NULL END AS mask, CASE WHEN true THEN (txt": "42701", "$1": "42P02", "nosuch": "42703", "nosuch(txt)": "42883", "txt +": "42601",
		} {
			if _, err := text(t, owner, fmt.Sprintf(`SELECT scrim.create_sql_masking_policy('p', 'r', '{txt}', NULL, %s)`, quoteLiteral(expression))); code(err) != want {
				t.Errorf("%s: %v, want %s", expression, explain(err), want)
			}
		}
		// Through the proxy the text must be one expression before it goes anywhere.
		for _, using := range []string{`txt), (SELECT 1`, `1) FROM pg_authid --`, `txt)) ELSE ((txt`, `txt; SELECT 1`, `txt /*`, `SELECT 1`, `txt AS a`, `txt FROM r`, `$$a$$ $$b$$`, `WITH x AS (SELECT 1) SELECT 1`, ``} {
			for _, statement := range []string{`CREATE MASKING POLICY p ON r (txt) USING (` + using + `)`, `CREATE MASKING POLICY p ON r (txt) USING (NULL) WHEN (` + using + `)`, `CREATE MASKING POLICY p AS (txt text) RETURNS text -> (` + using + `)`} {
				if _, err := text(t, owner, statement); code(err) != "42601" && code(err) != "42804" {
					t.Errorf("%s: %v", statement, explain(err))
				}
			}
		}
		// What is allowed.
		reader := e.connect(t, analyst)
		for _, c := range []string{
			"txt|public.pinned(txt)", "txt|public.body(txt)", "txt|public.super(txt)", "txt|$$a'$$ || txt -- ) comment", `txt|"scrim.hash(" || scrim.hash("scrim.hash(")`, `txt|"it's ""odd""" || '\1'`, "tz|now()", "txt|session_user", "i|CASE WHEN pg_has_role(session_user, 'analyst', 'member') THEN NULL ELSE i END",
			"ts|timezone(interval '0', tz)", "ts|tz AT TIME ZONE interval '2 hours'", "f|f * 0.9 + 1", "num|round(num, -3)", "num|f::numeric", "j|j - 'ssn'", "txt|regexp_replace(txt, '\\d', 'x', 'g')", "txt|t.txt", "d|d - i", "txt|E'\\t'", "i|CASE WHEN tz > now() THEN i END", "dbl|1.5",
		} {
			column, expression, _ := strings.Cut(c, "|")
			if _, err := text(t, owner, fmt.Sprintf(`CREATE MASKING POLICY p ON r (%s) USING (%s%s)`, column, expression, "\n")); err != nil {
				t.Errorf("%s: %v", expression, explain(err))
				continue
			}
			if _, err := text(t, reader, `SELECT * FROM r`); err != nil {
				t.Errorf("%s: %v", expression, explain(err))
			}
			e.exec(t, owner, `DROP MASKING POLICY p ON r`)
		}
	})
}

func quoteLiteral(s string) string {
	return "E'" + strings.NewReplacer("'", "''", `\`, `\\`).Replace(s) + "'"
}

// TestHostileMasks: the functions that write masks down can be called alone, by whoever may make policies, with what statements never give them.
// Nothing of it is run with more rights than the caller's.
func TestHostileMasks(t *testing.T) {
	onEach(t, func(t *testing.T, e *env) {
		admin, owner := e.admin(t), e.directly(t, olga)
		e.exec(t, admin, asOlga(`CREATE TABLE odd (id integer PRIMARY KEY, a text, "x'||pg_catalog.version()||'" text)`, `GRANT SELECT ON odd TO analyst`)...)
		probe := func(columns, expression string) {
			t.Helper()
			e.exec(t, owner, `DROP TABLE IF EXISTS pg_temp.scrim_probe CASCADE`, `CREATE TEMP TABLE scrim_probe (`+columns+`)`, `CREATE TEMP VIEW hostile AS SELECT `+expression+` AS mask FROM pg_temp.scrim_probe t`)
		}
		// No constant, and nothing else in quotes, is taken for a column, whose name would be put there.
		const marker, columns = `scrim_00000000000000000000000000000000_`, `scrim_00000000000000000000000000000000_1_ text, scrim_00000000000000000000000000000000_2_ text`
		e.exec(t, owner, `CREATE FUNCTION "f'"(text) RETURNS text LANGUAGE sql IMMUTABLE RETURN $1`, `CREATE FUNCTION "f"" ' ("(text) RETURNS text LANGUAGE sql IMMUTABLE RETURN $1`,
			`CREATE FUNCTION "F `+marker+`2_"(text) RETURNS text LANGUAGE sql IMMUTABLE RETURN $1`)
		for expression, want := range map[string]string{
			`lower(` + marker + `1_)`: "", `"f'"(` + marker + `1_) || 'x' || "f"" ' ("(` + marker + `2_)`: "", `'` + marker + `2_'::text`: "0A000", `'x''' || ` + marker + `1_ || '` + marker + `2_'`: "0A000",
			`"f'"(` + marker + `1_) || '` + marker + `2_'`: "0A000", `"f"" ' ("(` + marker + `1_) || ''' ` + marker + `2_'`: "0A000", `"f'"('"') || '` + marker + `2_' || '"'`: "0A000", `'\' || '` + marker + `2_'`: "0A000",
			`"F ` + marker + `2_"('x')`: "0A000",
		} {
			probe(columns, expression)
			if got, err := text(t, owner, `SELECT scrim.keep_mask('odd', ARRAY['pg_temp.hostile'::regclass], NULL, '`+marker+`', '[[2,3]]', false, 'x')`); code(err) != want {
				t.Errorf("%s: %s %v", expression, got, explain(err))
			}
		}
		if got := mustText(t, admin, `SELECT string_agg(regexp_replace(masks[1], E'[^\x01]', '', 'g'), '|' ORDER BY id) FROM scrim_state.sql_masks`); strings.Count(got, "\x01") != 6 {
			t.Errorf("%q", got)
		}
		for _, c := range []struct{ columns, expression, call, want string }{
			{columns, `(SELECT ` + marker + `1_)`, `scrim.keep_mask('odd', ARRAY['pg_temp.hostile'::regclass], NULL, '` + marker + `', '[[2]]', false, 'x')`, "0A000"},
			{columns, marker + `1_`, `scrim.keep_mask('odd', ARRAY['pg_temp.hostile'::regclass], NULL, '` + marker + `', '[[2]]', false, '')`, "23514"},
			{columns, marker + `1_`, `scrim.keep_mask('odd', ARRAY['pg_catalog.pg_roles'::regclass], NULL, '` + marker + `', '[[2]]', false, 'x')`, "0A000"},
			{columns, marker + `1_`, `scrim.keep_mask('scrim_state.policies', ARRAY['pg_temp.hostile'::regclass], NULL, '` + marker + `', '[[2]]', false, 'x')`, "42501"},
			{`a text`, `a`, `scrim.keep_mask('odd', ARRAY['pg_temp.hostile'::regclass], NULL, '` + marker + `', '[[2]]', false, 'x')`, "22023"},
			{`a text`, `a`, `scrim.keep_mask('odd', ARRAY['pg_temp.hostile'::regclass], NULL, 'a', '[[2]]', false, 'x')`, "22023"},
			{`a text`, `a`, `scrim.keep_definition('d', 'pg_catalog.pg_roles', 'x')`, "0A000"},
		} {
			probe(c.columns, c.expression)
			if _, err := text(t, owner, `SELECT `+c.call); code(err) != c.want {
				t.Errorf("%s: %v, want %s", c.call, explain(err), c.want)
			}
		}

		// Whoever attaches another's definition runs what the server has printed of it.
		for _, body := range []string{`v) ELSE NULL END AS mask FROM pg_temp.scrim_probe t; CREATE ROLE evil; SELECT (NULL`, `v)::text ELSE NULL END AS mask FROM pg_temp.scrim_probe t; SET ROLE olga; SELECT (NULL`} {
			_, err := text(t, owner, `SELECT scrim.define_masking_policy('trojan', '{v}', '{text}', 'text', `+quoteLiteral(body)+`)`)
			e.exec(t, admin, `CREATE TABLE supers (id integer PRIMARY KEY, s text)`)
			if err == nil {
				_, err = text(t, admin, `SELECT scrim.set_column_masking_policy('supers', 's', 'trojan')`)
			}
			if got := mustText(t, admin, `SELECT count(*) FROM pg_roles WHERE rolname = 'evil'`); got != "0\n" {
				t.Errorf("another's text was run: %v", explain(err))
			}
			e.exec(t, admin, `DROP TABLE supers`)
		}
		probe(`v text`, `upper(v)`)
		mustText(t, owner, `SELECT scrim.keep_definition('kept', 'pg_temp.hostile', 'lower(v); DROP TABLE odd')`)
		if got := mustText(t, admin, `SELECT arguments, types, expression FROM scrim_state.mask_definitions WHERE name = 'kept'`); got != "{v}|{text}|upper(v)\n" && got != "{v}|{text}|upper(t.v)\n" {
			t.Error(got)
		}

		// Constants are printed so that they mean the same in another session; without that strings of the standard's kind, nothing is made.
		e.exec(t, admin, asOlga(`CREATE TABLE dated (id integer PRIMARY KEY, d date, f float8, iv interval, b bytea, tz timestamptz)`, `GRANT SELECT ON dated TO analyst`, `INSERT INTO dated VALUES (1, now(), 1, '1 day', '', now())`)...)
		e.exec(t, owner, `SET DateStyle = 'SQL, DMY'`, `SET IntervalStyle = 'sql_standard'`, `SET extra_float_digits = -15`, `SET bytea_output = 'escape'`, `SET TimeZone = 'UTC5:13'`)
		for column, mask := range map[string]string{"d": `DATE '2024-03-02'`, "f": `0.1234567890123::float8`, "iv": `INTERVAL '-1 day -02:00'`, "b": `'\x5c00ff'::bytea`, "tz": `TIMESTAMPTZ '2024-03-02 01:00Z'`} {
			e.exec(t, owner, fmt.Sprintf(`SELECT scrim.create_sql_masking_policy('%[1]s', 'dated', '{%[1]s}', NULL, %[2]s)`, column, quoteLiteral(mask)))
		}
		e.exec(t, owner, `SET DateStyle = 'SQL, MDY'`, `SELECT scrim.suspend('dated')`, `SELECT scrim.resume('dated')`)
		if got := mustText(t, e.connect(t, analyst), `SELECT d, f, iv, b, tz AT TIME ZONE interval '0' FROM dated`); got != `2024-03-02|0.1234567890123|-1 days -02:00:00|\x5c00ff|2024-03-02 01:00:00`+"\n" {
			t.Error(got)
		}
		e.exec(t, owner, `SET standard_conforming_strings = off`)
		for _, call := range []string{`scrim.create_sql_masking_policy('p', 'odd', '{a}', NULL, 'NULL')`, `scrim.define_masking_policy('p', '{v}', '{text}', 'text', 'v')`, `scrim.suspend('dated')`, `scrim.drop_masking_policy('d', 'dated')`} {
			if _, err := text(t, owner, `SELECT `+call); code(err) != "0A000" {
				t.Errorf("with standard_conforming_strings off: %s: %v", call, explain(err))
			}
		}
	})
}

// TestSQLMaskIndex: conditions on unmasked columns reach their indexes through an SQL mask, and the mask is all that is computed.
func TestSQLMaskIndex(t *testing.T) {
	onEach(t, func(t *testing.T, e *env) {
		e.exec(t, e.connect(t, olga), `CREATE MASKING POLICY p ON customers ("Note") USING (scrim.partial("Note", 6, '**', 1))`)
		reader := e.connect(t, analyst)
		for _, q := range []string{`SELECT "Note" FROM customers WHERE id = 7`, `SELECT max("Note") FROM customers WHERE id < 5 AND "Note" LIKE 'n%'`, `SELECT "Note" FROM customers ORDER BY id LIMIT 3`} {
			if plan := mustText(t, reader, `EXPLAIN (COSTS OFF) `+q); !strings.Contains(plan, "customers_pkey") || strings.Contains(plan, "Subquery Scan") {
				t.Errorf("%s:\n%s", q, plan)
			}
		}
		// The mask itself can be indexed, by the expression that the masked view has.
		e.exec(t, e.connect(t, olga), `CREATE INDEX by_mask ON customers (scrim_runtime.partial("Note", 6, '**', 1))`)
		e.exec(t, reader, `SET enable_seqscan = off`)
		if plan := mustText(t, reader, `EXPLAIN (COSTS OFF) SELECT id FROM customers WHERE "Note" = 'note 1**7'`); !strings.Contains(plan, "by_mask") {
			t.Errorf("an index of the mask is not used:\n%s", plan)
		}
		if findings := e.doctor(t, e.connect(t, olga)); slices.ContainsFunc(findings, func(f catalog.Finding) bool { return f.Severity == catalog.SeverityError }) {
			t.Errorf("doctor: %+v", findings)
		}
	})
}

// TestSQLMaskCascade: copies in views are masked along, by the same expression over the view's own columns, and go with it.
func TestSQLMaskCascade(t *testing.T) {
	onEach(t, func(t *testing.T, e *env) {
		admin, owner, reader := e.admin(t), e.connect(t, olga), e.connect(t, analyst)
		e.exec(t, admin, asOlga(`CREATE VIEW copies AS SELECT region AS area, "Note" AS remark, id AS number, score FROM customers`, `CREATE VIEW again AS SELECT number, remark, area AS "Note" FROM copies`,
			`CREATE VIEW lacking AS SELECT id, "Note" FROM customers`, `CREATE MATERIALIZED VIEW stored AS SELECT id, region, "Note" FROM customers`, `GRANT SELECT ON copies, again, stored TO analyst`)...)
		const policy = `CREATE MASKING POLICY p ON customers ("Note") EXCEPT risk USING (region || scrim.partial("Note", 6, '**', 1)) WHEN (region <> 'EU')`
		if _, err := text(t, owner, policy); code(err) != "55000" || !strings.Contains(explain(err), "copies") {
			t.Errorf("without CASCADE: %v", explain(err))
		}
		e.exec(t, owner, policy+` CASCADE`, `CREATE MASKING POLICY q ON customers (score) USING (scrim.bucket(score, 100)) CASCADE`)
		for query, want := range map[string]string{
			`SELECT remark, area, score FROM copies WHERE number = 10`:                  "US**|US|600\n",
			`SELECT remark, "Note" FROM again WHERE number IN (10, 15) ORDER BY number`: "US**|US\nnote 15|EU\n",
			`SELECT "Note" FROM stored WHERE id IN (10, 15) ORDER BY id`:                "US**\nnote 15\n",
			`SELECT "Note" FROM customers WHERE id IN (10, 15) ORDER BY id`:             "US**\nnote 15\n",
		} {
			if got := mustText(t, reader, query); got != want {
				t.Errorf("%s: %s, not %s", query, got, want)
			}
		}
		for _, q := range []string{`SELECT remark FROM copies`, `SELECT remark FROM again`, `SELECT "Note" FROM stored`, `SELECT score FROM copies`} {
			if _, err := text(t, e.directly(t, analyst), q); code(err) != "42501" {
				t.Errorf("around the proxy: %s: %v", q, explain(err))
			}
		}
		e.exec(t, owner, `ALTER MASKING POLICY p ON customers DISABLE`)
		if _, err := text(t, reader, `SELECT remark FROM again`); code(err) != "42501" {
			t.Errorf("disabled: %v", explain(err))
		}
		if got := mustText(t, reader, `SELECT score FROM copies WHERE number = 10`); got != "600\n" {
			t.Error(got)
		}
		e.exec(t, owner, `DROP MASKING POLICY p ON customers`)
		if got := mustText(t, reader, `SELECT remark, score FROM copies WHERE number = 10`); got != "note 10|600\n" {
			t.Error(got)
		}
		e.exec(t, owner, `DROP MASKING POLICY q ON customers`)
		if got := mustText(t, e.directly(t, analyst), `SELECT remark, score FROM copies WHERE number = 10`); got != "note 10|610.5\n" {
			t.Error(got)
		}
	})
}
