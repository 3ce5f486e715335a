package integration_test

import (
	"bytes"
	"fmt"
	"io"
	"math"
	"os/exec"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgproto3"
)

// conversation is talk that returns everything, but for what cannot be equal: OIDs of tables, process numbers, places in
// the server's source.
func conversation(t *testing.T, h *pgconn.HijackedConn, ready int, messages ...pgproto3.FrontendMessage) string {
	t.Helper()
	return talk(t, h, ready, messages, showAll)
}

func showAll(w io.Writer, msg pgproto3.BackendMessage) {
	switch msg := msg.(type) {
	case *pgproto3.ErrorResponse:
		fmt.Fprintf(w, "%s %s at %d: %s\n", msg.Severity, msg.Code, msg.Position, msg.Message)
	case *pgproto3.NoticeResponse:
		fmt.Fprintf(w, "%s %s: %s\n", msg.Severity, msg.Code, msg.Message)
	case *pgproto3.RowDescription:
		for _, f := range msg.Fields {
			fmt.Fprintf(w, "%s (%d, column %d, format %d) ", f.Name, f.DataTypeOID, f.TableAttributeNumber, f.Format)
		}
		fmt.Fprintln(w)
	case *pgproto3.DataRow:
		for _, v := range msg.Values {
			if v == nil {
				fmt.Fprint(w, "∅ ")
			} else {
				fmt.Fprintf(w, "%q ", v)
			}
		}
		fmt.Fprintln(w)
	case *pgproto3.CommandComplete:
		fmt.Fprintf(w, "%s\n", msg.CommandTag)
	case *pgproto3.ReadyForQuery:
		fmt.Fprintf(w, "ready %c\n", msg.TxStatus)
	case *pgproto3.ParameterStatus:
	default:
		fmt.Fprintf(w, "%T\n", msg)
	}
}

// pair is the analyst behind the proxy and a role that reads a plain table of the same codes directly.
type pair struct{ masked, plain *pgconn.HijackedConn }

// twin makes a pair. Both are fresh sessions.
func twin(t *testing.T, e *env) pair {
	t.Helper()
	p := pair{rawConn(t, e.dsn(analyst)), rawConn(t, e.server.DSN(e.server.Superuser(), e.server.Password(), e.database))}
	for _, h := range []*pgconn.HijackedConn{p.masked, p.plain} {
		conversation(t, h, 1, &pgproto3.Query{String: `SET client_min_messages = warning`})
	}
	return p
}

// same holds the same conversation with both and compares.
func (p pair) same(t *testing.T, ready int, messages ...pgproto3.FrontendMessage) string {
	t.Helper()
	got, want := conversation(t, p.masked, ready, messages...), conversation(t, p.plain, ready, messages...)
	if got != want {
		t.Errorf("%s\nthrough the proxy:\n%.1500s\non a table of codes:\n%.1500s", spell(messages), got, want)
	}
	return got
}

func (p pair) queries(t *testing.T, texts ...string) {
	t.Helper()
	for _, text := range texts {
		p.same(t, 1, &pgproto3.Query{String: text})
	}
}

func spell(messages []pgproto3.FrontendMessage) string {
	var b strings.Builder
	for _, m := range messages {
		fmt.Fprintf(&b, "%T%+v ", m, m)
	}
	return b.String()
}

// onEachTwin is onEachProtected with codes.customers, which holds what the analyst sees, and a table to write to.
func onEachTwin(t *testing.T, test func(t *testing.T, e *env)) {
	onEachProtected(t, func(t *testing.T, e *env) {
		copyCodes(t, e, e.connect(t, analyst))
		e.exec(t, e.admin(t), `CREATE TABLE notes (n int, t text)`, `GRANT ALL ON notes TO PUBLIC`, `CREATE TABLE codes.notes (n int, t text)`,
			`CREATE TABLE once (n int PRIMARY KEY DEFERRABLE INITIALLY DEFERRED)`, `GRANT ALL ON once TO PUBLIC`,
			`CREATE TABLE codes.once (n int PRIMARY KEY DEFERRABLE INITIALLY DEFERRED)`,
			`ALTER ROLE `+e.server.Superuser()+` IN DATABASE `+e.database+` SET search_path = codes, public`) // also after DISCARD ALL
		test(t, e)
	})
}

// TestSeveralStatements: several statements in one message answer as they do on a plain table, message for message.
func TestSeveralStatements(t *testing.T) {
	const masked = `SELECT id, income FROM customers WHERE id = 5`
	texts := []string{
		`SELECT 1; ` + masked, masked + `; SELECT 'ä', 2`, masked + `; ` + masked + `;`, `;;` + masked + `;;SELECT 1;`,
		`BEGIN; ` + masked + `; COMMIT`, masked + `; SELECT 1/0; SELECT 2`, `SELECT 'ä'; ` + masked + `; SELECT missing`,
		`SELECT 'ä', 1; SELECT 'ö', income, missing FROM customers`, `SELECT 1; SELECT id, wrong(id), income FROM customers`,
		`INSERT INTO notes VALUES (1, 'x'); ` + masked + `; SELECT 1/0`, `SELECT count(*) FROM notes`,
		`INSERT INTO notes VALUES (2, 'y') RETURNING n, t; ` + masked, `SELECT count(*) FROM notes; ` + masked,
		`BEGIN; SAVEPOINT a; ` + masked + `; RELEASE a`, `INSERT INTO notes VALUES (3, 'z'); SAVEPOINT b; ` + masked, `ROLLBACK TO b; ` + masked, `ROLLBACK`,
		`SAVEPOINT nowhere; ` + masked, `SELECT 1; VACUUM; ` + masked, `VACUUM; ` + masked, `COMMIT; ` + masked, `SELECT 1; COMMIT; ` + masked,
		`COPY orders (id) TO STDOUT; ` + masked, masked + `; COPY (SELECT 1) TO STDOUT`,
		`EXPLAIN (COSTS off) SELECT 1; ` + masked, `SHOW server_encoding; ` + masked, `SET datestyle = german; ` + masked + `; RESET datestyle`,
		`DO $$ BEGIN RAISE WARNING 'hello'; END $$; ` + masked, `SET TRANSACTION ISOLATION LEVEL REPEATABLE READ; ` + masked,
		`BEGIN ISOLATION LEVEL SERIALIZABLE; SET TRANSACTION READ ONLY; ` + masked + `; INSERT INTO notes VALUES (1)`, masked, `ROLLBACK; BEGIN`, masked + `; ` + masked, `END`,
		`LOCK TABLE notes; ` + masked, `CREATE TEMP TABLE x (n int); ` + masked + `; DROP TABLE x`, `SELECT income FROM customers WHERE false; ` + masked,
		`INSERT INTO once VALUES (1); INSERT INTO once VALUES (1); ` + masked, `SELECT count(*) FROM once; ` + masked,
		`WITH w AS (INSERT INTO notes VALUES (1/0) RETURNING n) SELECT * FROM w; ` + masked, `SELECT count(*) FROM notes`,
		masked + `; WITH w AS (INSERT INTO notes VALUES (9) RETURNING n) SELECT * FROM w`,
		`syntax error; ` + masked, masked + `; syntax error`,
	}
	onEachTwin(t, func(t *testing.T, e *env) {
		twin(t, e).queries(t, texts...)
		conn := rawConn(t, e.dsn(analyst))
		for _, c := range []struct{ text, want string }{
			{`SELECT 'ä'; SELECT ctid, * FROM customers; SELECT 1`, "ERROR 0A000 at 33: system column \"ctid\" of a protected table is not supported together with a star or a whole row\nready I\n"},
			{`SELECT 1; COPY notes FROM STDIN; ` + masked, "ERROR 0A000 at 11: COPY FROM STDIN is not supported in one message with a statement that reads masked columns\nready I\n"},
			{`SELECT 1; SHOW ENCODERS; ` + masked, ""},
		} {
			got := conversation(t, conn, 1, &pgproto3.Query{String: c.text})
			if c.want != "" && got != c.want || !strings.Contains(got, "ERROR") {
				t.Errorf("%s:\n%s", c.text, got)
			}
		}
		if got := conversation(t, conn, 1, &pgproto3.Query{String: `SELECT count(*) FROM customers; SELECT count(*) FROM notes`}); strings.Contains(got, "ERROR") {
			t.Error(got)
		}
	})
}

// TestNamesMoveInOneMessage: what a name means can change between the statements of one message; the answer is right or
// an error.
func TestNamesMoveInOneMessage(t *testing.T) {
	onEachTwin(t, func(t *testing.T, e *env) {
		e.exec(t, e.admin(t), `CREATE SCHEMA other`, `CREATE TABLE other.customers (id int, income text)`, `INSERT INTO other.customers VALUES (5, 'plain')`,
			`GRANT USAGE ON SCHEMA other TO PUBLIC`, `GRANT SELECT ON other.customers TO PUBLIC`)
		for _, move := range []string{`SET search_path = other`, `CREATE TEMP TABLE customers AS SELECT 5 AS id, 'plain'::text AS income`} {
			got := conversation(t, rawConn(t, e.dsn(analyst)), 1, &pgproto3.Query{String: move + `; SELECT income FROM customers WHERE id = 5`})
			if !strings.Contains(got, `"plain"`) && !strings.Contains(got, "ERROR 0A000") {
				t.Errorf("%s:\n%s", move, got)
			}
		}
	})
}

// TestPrepare: PREPARE and EXECUTE of masked queries, in SQL and with what the protocol prepared.
func TestPrepare(t *testing.T) {
	onEachTwin(t, func(t *testing.T, e *env) {
		twin(t, e).queries(t,
			`PREPARE p (int) AS SELECT id, income FROM customers WHERE id = $1`, `EXECUTE p(5)`, `EXECUTE p(6::int)`, `EXECUTE p`, `EXECUTE p('x')`, `EXECUTE p(-7)`, `EXECUTE p(NULL)`, `EXECUTE p(1, 2)`,
			`PREPARE p AS SELECT age FROM customers`, `EXECUTE p(7)`, // 42P05 leaves the old
			`BEGIN`, `EXECUTE p(5); SELECT 1`, `EXECUTE p(1.5::smallint)`, `EXECUTE p(12345678901)`, `EXECUTE p(5)`, `ROLLBACK`, `EXECUTE p(5)`,
			`PREPARE "Q q" AS SELECT age, id FROM customers WHERE id < 4 ORDER BY id; EXECUTE "Q q"; DEALLOCATE "Q q"; EXECUTE "Q q"`,
			`PREPARE r AS SELECT 1; EXECUTE r; EXECUTE p(5)`, `DEALLOCATE p; EXECUTE p(5)`, `DEALLOCATE p`, `EXECUTE p(5)`,
			`PREPARE p AS SELECT 'now plain'::text AS income`, `EXECUTE p`, `DEALLOCATE p; PREPARE p AS SELECT score FROM customers WHERE id = 9; EXECUTE p`, `EXECUTE p`,
			`BEGIN`, `DISCARD ALL`, `ROLLBACK`, `EXECUTE p`, // a DISCARD ALL that fails forgets nothing
			`DISCARD PLANS`, `EXECUTE p`, `DISCARD TEMP`, `EXECUTE p`, `SELECT 1; DISCARD ALL`, `EXECUTE p`, `DEALLOCATE PREPARE ALL`, `EXECUTE p`,
			`PREPARE p AS SELECT id, age FROM customers WHERE id = 8`, `EXECUTE p`, `DISCARD ALL`, `EXECUTE p`,
			`PREPARE a AS SELECT income FROM customers WHERE id = 1`, `PREPARE b AS SELECT id FROM customers WHERE id = 1`, `EXECUTE a; EXECUTE b; EXECUTE a`,
			`BEGIN; DEALLOCATE a; ROLLBACK`, `EXECUTE a`, // is not undone
			`PREPARE e AS SELECT id FROM (SELECT * FROM customers) s WHERE id = 3`, `EXECUTE e`, `EXECUTE e; EXECUTE e`,
			`PREPARE w AS SELECT income, 1/(id - 7) FROM customers WHERE id < 9 ORDER BY id`, `EXECUTE w`, `EXECUTE w; SELECT 1`,
		)
		p := twin(t, e)
		both := func(ready int, messages ...pgproto3.FrontendMessage) { t.Helper(); p.same(t, ready, messages...) }
		query := func(text string) pgproto3.FrontendMessage { return &pgproto3.Query{String: text} }
		for _, formats := range [][]int16{nil, {0}, {1}, {1, 0}, {0, 1}, {1, 1, 1}} {
			both(1, query(`PREPARE s (int) AS SELECT id, income FROM customers WHERE id = $1`))
			both(1, &pgproto3.Describe{ObjectType: 'S', Name: "s"}, &pgproto3.Bind{PreparedStatement: "s", Parameters: [][]byte{[]byte("6")}, ResultFormatCodes: formats},
				&pgproto3.Describe{ObjectType: 'P'}, &pgproto3.Execute{}, &pgproto3.Sync{})
			both(1, &pgproto3.Close{ObjectType: 'S', Name: "s"}, &pgproto3.Sync{})
			both(1, query(`EXECUTE s(6)`))
			both(1, &pgproto3.Parse{Name: "s", Query: `SELECT age, "Note" FROM customers WHERE id = 4`}, &pgproto3.Sync{})
			both(1, query(`EXECUTE s`))
			both(1, &pgproto3.Parse{Name: "x", Query: `EXECUTE s`}, &pgproto3.Describe{ObjectType: 'S', Name: "x"},
				&pgproto3.Bind{PreparedStatement: "x", ResultFormatCodes: formats}, &pgproto3.Describe{ObjectType: 'P'}, &pgproto3.Execute{}, &pgproto3.Sync{})
			both(1, query(`DEALLOCATE s`))
			both(1, query(`DEALLOCATE x`))
			both(1, &pgproto3.Bind{PreparedStatement: "s"}, &pgproto3.Execute{}, &pgproto3.Sync{})
			both(1, &pgproto3.Parse{Query: `PREPARE s AS SELECT score FROM customers WHERE id = 2`}, &pgproto3.Bind{}, &pgproto3.Describe{ObjectType: 'P'}, &pgproto3.Execute{},
				&pgproto3.Parse{Query: `EXECUTE s`}, &pgproto3.Bind{ResultFormatCodes: formats[:min(1, len(formats))]}, &pgproto3.Execute{}, &pgproto3.Sync{})
			both(1, &pgproto3.Parse{Query: `DEALLOCATE ALL`}, &pgproto3.Bind{}, &pgproto3.Execute{}, &pgproto3.Bind{PreparedStatement: "s"}, &pgproto3.Sync{})
		}
		// In one packet, with names that come and go, and an error in the middle.
		both(3, query(`PREPARE z AS SELECT income FROM customers WHERE id = 2`), query(`EXECUTE z`), query(`DEALLOCATE z; SELECT 1`))
		both(4, query(`PREPARE z AS SELECT age FROM customers WHERE id = 2`), query(`SELECT 1/0; DEALLOCATE z`), query(`SELECT 2`), query(`SELECT 3`))
		both(1, query(`EXECUTE z`))
		both(1, query(`DISCARD ALL`))
		both(1, query(`EXECUTE z`))
		long := strings.Repeat("n", 63)
		both(2, query(`PREPARE `+long+`xyz AS SELECT income FROM customers WHERE id = 2`), query(`EXECUTE `+long+`abc`))
		both(1, &pgproto3.Bind{PreparedStatement: long + "other"}, &pgproto3.Execute{}, &pgproto3.Sync{})

		conn := e.connect(t, analyst)
		e.exec(t, e.admin(t), `GRANT CREATE ON SCHEMA public TO analyst`)
		e.exec(t, conn, `PREPARE p AS SELECT income FROM customers`, `PREPARE q(int) AS SELECT income FROM customers WHERE id = $1`)
		for _, refused := range []string{`EXECUTE q(1 + 5)`, `EXECUTE q(abs(5))`, `EXECUTE q(5::public.mine)`, `EXECUTE q((SELECT 5))`, `CREATE TABLE t AS EXECUTE p`, `SELECT 1; CREATE TEMP TABLE t AS EXECUTE p`, `PREPARE m AS SELECT ctid, * FROM customers`} {
			if _, err := text(t, conn, refused); code(err) != "0A000" {
				t.Errorf("%s: %v", refused, explain(err))
			}
		}
		if got := mustText(t, conn, `EXPLAIN EXECUTE p`); !strings.Contains(got, "Scan on customers") {
			t.Error(got)
		}
	})
}

// TestNamesGivenInVain: a name that something is on its way to, in vain, keeps what it had. A message behind it is answered
// rightly or not at all.
func TestNamesGivenInVain(t *testing.T) {
	onEachProtected(t, func(t *testing.T, e *env) {
		query := func(text string) pgproto3.FrontendMessage { return &pgproto3.Query{String: text} }
		want := conversation(t, rawConn(t, e.dsn(analyst)), 1, query(`SELECT age FROM customers WHERE id = 2`))
		code := strings.Split(want, "\n")[1]
		for _, messages := range [][]pgproto3.FrontendMessage{
			{query(`PREPARE z AS SELECT income FROM customers WHERE id = 2`), query(`EXECUTE z`)},
			{query(`PREPARE z AS SELECT income FROM customers WHERE id = 2`), query(`SELECT 1; EXECUTE z`)},
			{
				&pgproto3.Parse{Name: "z", Query: `SELECT income FROM customers WHERE id = 2`}, &pgproto3.Sync{},
				&pgproto3.Bind{PreparedStatement: "z"}, &pgproto3.Execute{}, &pgproto3.Sync{},
			},
			{query(`SELECT 1/0; DEALLOCATE z`), query(`EXECUTE z`)},
		} {
			h := rawConn(t, e.dsn(analyst))
			conversation(t, h, 1, query(`PREPARE z AS SELECT age FROM customers WHERE id = 2`))
			got := conversation(t, h, 2, messages...)
			if rest, _ := strings.CutPrefix(got, "ERROR"); !strings.Contains(rest, code) && !strings.Contains(rest, "FATAL") && !strings.Contains(rest, "0A000") || strings.Contains(strings.ReplaceAll(got, code, ""), `"0.`) {
				t.Errorf("%s\n%s\nage is %s", spell(messages), got, code)
			}
		}
	})
}

// TestPrepareSurvivesPolicyChange: EXECUTE of an outdated plan is refused in PostgreSQL's words, as Bind is.
func TestPrepareSurvivesPolicyChange(t *testing.T) {
	onEachProtected(t, func(t *testing.T, e *env) {
		owner, conn := e.connect(t, olga), e.connect(t, analyst)
		e.exec(t, conn, `PREPARE p AS SELECT income FROM customers WHERE id = 2000`)
		masked := mustText(t, conn, `EXECUTE p`)
		e.exec(t, owner, `DROP MASKING POLICY p ON customers`)
		for _, run := range []string{`EXECUTE p`, `SELECT 1; EXECUTE p`} {
			if got, err := text(t, conn, run); code(err) != "0A000" {
				t.Errorf("%s, policy gone: %q, %v", run, got, explain(err))
			}
		}
		e.exec(t, owner, testPolicy)
		e.exec(t, conn, `DEALLOCATE p`, `PREPARE p AS SELECT income FROM customers WHERE id = 2000`)
		if got := mustText(t, conn, `EXECUTE p`); got != masked {
			t.Errorf("prepared anew: %q, want %q", got, masked)
		}
	})
}

// TestCursors: DECLARE, FETCH in every direction, MOVE and CLOSE, in SQL and by the extended protocol.
func TestCursors(t *testing.T) {
	const declare = `CURSOR FOR SELECT id, income FROM customers WHERE id < 12 ORDER BY id`
	onEachTwin(t, func(t *testing.T, e *env) {
		twin(t, e).queries(t,
			`DECLARE c `+declare, `FETCH c`, `BEGIN`, `DECLARE c SCROLL `+declare,
			`FETCH c`, `FETCH NEXT FROM c`, `FETCH 2 IN c`, `FETCH PRIOR c`, `FETCH FIRST FROM c`, `FETCH LAST FROM c`, `FETCH ABSOLUTE 4 c`, `FETCH ABSOLUTE -2 c`,
			`FETCH RELATIVE -3 c`, `FETCH 0 c`, `FETCH FORWARD 3 c`, `FETCH BACKWARD 2 c`, `MOVE ABSOLUTE 0 c`, `FETCH FORWARD ALL c`, `FETCH BACKWARD ALL FROM c`, `MOVE 3 c`,
			`FETCH ALL c`, `FETCH c`, `FETCH missing`, `FETCH c`, `ROLLBACK`, `FETCH c`,
			`BEGIN; DECLARE c `+declare+`; FETCH 2 c; MOVE c; FETCH 2 c; CLOSE c; COMMIT`, `FETCH c`,
			`DECLARE c `+declare+`; FETCH 3 c`, `FETCH c`, `SELECT 1; DECLARE c `+declare+`; FETCH 3 c; SELECT 1/0`, `FETCH c`,
			`BEGIN`, `DECLARE c NO SCROLL `+declare, `FETCH 3 c`, `FETCH BACKWARD c`, `ROLLBACK`,
			`BEGIN`, `DECLARE b BINARY `+declare, `FETCH 2 b`, `SELECT 1; FETCH 1 b; MOVE b; FETCH b`, `COMMIT`,
			`BEGIN; DECLARE u BINARY CURSOR FOR SELECT 1 AS one; DECLARE c INSENSITIVE `+declare+`; FETCH u; FETCH c; COMMIT`,
			// WITH HOLD: outlives its transaction once that commits, and not before
			`DECLARE h CURSOR WITH HOLD FOR SELECT age FROM customers WHERE id < 6 ORDER BY id`, `FETCH 2 h`, `BEGIN`, `FETCH h`, `ROLLBACK`, `FETCH h`, `CLOSE h`, `FETCH h`,
			`BEGIN; DECLARE h CURSOR WITH HOLD FOR SELECT age FROM customers WHERE id < 6 ORDER BY id`, `FETCH h`, `COMMIT`, `FETCH 2 h`, `FETCH BACKWARD 2 h`,
			`BEGIN`, `CLOSE h`, `DECLARE h CURSOR WITH HOLD FOR SELECT score FROM customers`, `FETCH h`, `ROLLBACK`, `FETCH h`,
			`BEGIN; declare "SQL_CUR1" cursor with hold for SELECT id, age, "Note" FROM customers ORDER BY id;fetch 3 in "SQL_CUR1"`, `COMMIT`, `fetch 2 in "SQL_CUR1"`, `CLOSE ALL`, `fetch 2 in "SQL_CUR1"`,
			`DECLARE h CURSOR WITH HOLD FOR SELECT age FROM customers ORDER BY id`, `FETCH h`, `BEGIN`, `DISCARD ALL`, `ROLLBACK`, `FETCH h`, `DISCARD ALL`, `FETCH h`,
			// a name that is given anew; savepoints take cursors with them
			`BEGIN`, `DECLARE c `+declare, `SAVEPOINT s`, `DECLARE c `+declare, `ROLLBACK TO s`, `FETCH c`, `CLOSE c`, `DECLARE c CURSOR FOR SELECT 7 AS plain, 'x'::text AS y`, `FETCH c`, `ROLLBACK TO s`, `FETCH c`, `ROLLBACK`,
			`BEGIN`, `SAVEPOINT s`, `DECLARE c `+declare, `FETCH c`, `ROLLBACK TO s`, `DECLARE c CURSOR FOR SELECT income, id FROM customers ORDER BY id`, `FETCH 2 c`, `COMMIT`,
			`BEGIN; DECLARE c `+declare+`; ROLLBACK; BEGIN; DECLARE c CURSOR FOR SELECT 1; FETCH c; COMMIT`,
			`BEGIN; DECLARE c CURSOR FOR SELECT id, income, 1/(id - 3) FROM customers ORDER BY id`, `FETCH 5 c`, `COMMIT`,
			`BEGIN; DECLARE c `+declare, `UPDATE notes SET n = 1 WHERE CURRENT OF c`, `ROLLBACK`,
			`BEGIN; DECLARE c CURSOR FOR SELECT id FROM (SELECT * FROM customers) s ORDER BY id; FETCH 2 c; COMMIT`,
			`BEGIN; SAVEPOINT "_EXEC_SVP_1";SELECT income FROM customers WHERE id = 3;RELEASE "_EXEC_SVP_1"`, `COMMIT`,
		)
		p := twin(t, e)
		both := func(messages ...pgproto3.FrontendMessage) { t.Helper(); p.same(t, 1, messages...) }
		query := func(text string) pgproto3.FrontendMessage { return &pgproto3.Query{String: text} }
		for _, formats := range [][]int16{{}, {1}, {0, 1}, {1, 0}, {1, 1, 1}} {
			both(query(`BEGIN`))
			both(&pgproto3.Parse{Query: `DECLARE c SCROLL ` + declare}, &pgproto3.Describe{ObjectType: 'S'}, &pgproto3.Bind{ResultFormatCodes: formats[:min(1, len(formats))]},
				&pgproto3.Describe{ObjectType: 'P'}, &pgproto3.Execute{}, &pgproto3.Sync{})
			both(&pgproto3.Describe{ObjectType: 'P', Name: "c"}, &pgproto3.Sync{})
			both(&pgproto3.Parse{Name: "f", Query: `FETCH 3 FROM c`}, &pgproto3.Describe{ObjectType: 'S', Name: "f"}, &pgproto3.Sync{})
			both(&pgproto3.Bind{PreparedStatement: "f"}, &pgproto3.Describe{ObjectType: 'P'}, &pgproto3.Execute{MaxRows: 2}, &pgproto3.Execute{}, &pgproto3.Sync{})
			both(&pgproto3.Execute{Portal: "c", MaxRows: 2}, &pgproto3.Execute{Portal: "c", MaxRows: 1}, &pgproto3.Sync{})
			both(&pgproto3.Bind{PreparedStatement: "f", ResultFormatCodes: formats}, &pgproto3.Describe{ObjectType: 'P'}, &pgproto3.Execute{}, &pgproto3.Sync{})
			both(&pgproto3.Close{ObjectType: 'S', Name: "f"}, &pgproto3.Sync{})
			both(query(`ROLLBACK`))
			both(query(`BEGIN; DECLARE c ` + declare))
			both(&pgproto3.Execute{Portal: "c", MaxRows: 4}, &pgproto3.Execute{Portal: "c"}, &pgproto3.Close{ObjectType: 'P', Name: "c"}, &pgproto3.Sync{})
			both(query(`FETCH c`))
			both(query(`ROLLBACK`))
			// A portal that Bind made is a cursor to SQL.
			both(query(`BEGIN`))
			both(&pgproto3.Parse{Query: `SELECT id, income FROM customers ORDER BY id`}, &pgproto3.Bind{DestinationPortal: "P", ResultFormatCodes: formats}, &pgproto3.Execute{Portal: "P", MaxRows: 2}, &pgproto3.Sync{})
			both(query(`FETCH 2 FROM "P"`))
			both(query(`CLOSE "P"`))
			both(query(`ROLLBACK`))
		}
		// What a FETCH was bound to must be what it fetches from.
		m := rawConn(t, e.dsn(analyst))
		got := conversation(t, m, 2, query(`BEGIN; DECLARE c CURSOR FOR SELECT age FROM customers; DECLARE d CURSOR FOR SELECT 1`), &pgproto3.Parse{Query: `FETCH c`}, &pgproto3.Bind{DestinationPortal: "f"},
			&pgproto3.Parse{Query: `CLOSE c`}, &pgproto3.Bind{}, &pgproto3.Execute{}, &pgproto3.Parse{Query: `DECLARE c CURSOR FOR SELECT income FROM customers`}, &pgproto3.Bind{}, &pgproto3.Execute{},
			&pgproto3.Execute{Portal: "f"}, &pgproto3.Sync{})
		if !strings.HasSuffix(got, "CLOSE CURSOR\n*pgproto3.ParseComplete\n*pgproto3.BindComplete\nDECLARE CURSOR\nERROR 0A000 at 0: cached plan must not change result type\nready E\n") {
			t.Error(got)
		}
	})
}

// TestUnknownCursors: where the session cannot know what has a name, the answer is the server's own or an error, and
// never a value in a mask's place.
func TestUnknownCursors(t *testing.T) {
	onEachTwin(t, func(t *testing.T, e *env) {
		e.exec(t, e.admin(t), `CREATE FUNCTION public.opens(name refcursor, query text) RETURNS refcursor LANGUAGE plpgsql AS $$ BEGIN OPEN name FOR EXECUTE query; RETURN name; END $$`,
			`CREATE FUNCTION public.closes(name refcursor) RETURNS void LANGUAGE plpgsql AS $$ BEGIN CLOSE name; END $$`)
		twin(t, e).queries(t, `BEGIN`, `SELECT opens('c', 'SELECT 1 AS one')`, `FETCH c`, `CLOSE c`, `DECLARE c CURSOR FOR SELECT age FROM customers ORDER BY id`, `FETCH 2 c`,
			`SELECT closes('c')`, `FETCH c`, `ROLLBACK`)
		// A function gives the name of a masked cursor to one that is not.
		h := rawConn(t, e.dsn(analyst))
		got := ""
		for _, q := range []string{`BEGIN`, `DECLARE c CURSOR FOR SELECT age FROM customers ORDER BY id`, `SELECT closes('c')`, `SELECT opens('c', 'SELECT 42.5::float8')`, `FETCH c`} {
			got = conversation(t, h, 1, &pgproto3.Query{String: q})
		}
		if !strings.Contains(got, "0A000") || strings.Contains(got, "42.5") {
			t.Error(got)
		}
		// A function cannot open one over masked columns.
		if got := conversation(t, rawConn(t, e.dsn(analyst)), 1, &pgproto3.Query{String: `SELECT opens('c', 'SELECT income FROM customers')`}); !strings.Contains(got, "42501") {
			t.Error(got)
		}
	})
}

// TestRoleAndSession: masking follows the login role, in each kind of statement.
func TestRoleAndSession(t *testing.T) {
	onEachProtected(t, func(t *testing.T, e *env) {
		e.exec(t, e.admin(t), `CREATE ROLE analysts_`+e.database, `GRANT SELECT ON orders TO analysts_`+e.database, `GRANT analysts_`+e.database+` TO analyst`)
		conn := e.connect(t, analyst)
		want := mustText(t, conn, `SELECT income FROM customers WHERE id = 2000`)
		e.exec(t, conn, `PREPARE p AS SELECT income FROM customers WHERE id = 2000`, `DECLARE h CURSOR WITH HOLD FOR SELECT income FROM customers WHERE id = 2000`,
			`SET ROLE analysts_`+e.database)
		for _, q := range []string{`EXECUTE p`, `SELECT income FROM customers WHERE id = 2000`, `SELECT 1; SELECT income FROM customers WHERE id = 2000`} {
			if got, err := text(t, conn, q); code(err) != "42501" {
				t.Errorf("%s as a role without rights: %q %v", q, got, explain(err))
			}
		}
		if got := mustText(t, conn, `FETCH h`); got != want {
			t.Errorf("a held cursor gives %q, want %q", got, want)
		}
		e.exec(t, conn, `RESET ROLE`)
		for _, q := range []string{`EXECUTE p`, `SET SESSION AUTHORIZATION DEFAULT; EXECUTE p`, `SET ROLE analyst; EXECUTE p`, `SET SESSION AUTHORIZATION analyst; SELECT income FROM customers WHERE id = 2000`} {
			got, err := text(t, conn, q)
			if code(err) != "" || got != want {
				t.Errorf("%s: %q, %v", q, got, explain(err))
			}
		}
		e.exec(t, conn, `DISCARD ALL`, `RESET ROLE`)
		if _, err := text(t, conn, `SET SESSION AUTHORIZATION risk; SELECT income FROM customers WHERE id = 2000`); code(err) != "42501" {
			t.Error(explain(err))
		}
		e.exec(t, e.admin(t), `DROP OWNED BY analysts_`+e.database, `DROP ROLE analysts_`+e.database)
	})
}

// TestQueryWithoutSync: a simple Query behind an error that no Sync has ended is skipped, as by PostgreSQL.
func TestQueryWithoutSync(t *testing.T) {
	onEachTwin(t, func(t *testing.T, e *env) {
		const masked = `SELECT id, income FROM customers WHERE id = 5`
		p := twin(t, e)
		p.queries(t, masked, masked+`; SELECT 1`)
		for range 5 {
			for _, q := range []string{masked, masked + `; SELECT 1`, `SELECT 1; SELECT 2`} {
				p.same(t, 2, &pgproto3.Parse{Query: `SELECT 1/0`}, &pgproto3.Bind{}, &pgproto3.Execute{}, &pgproto3.Query{String: q}, &pgproto3.Sync{}, &pgproto3.Query{String: `SELECT 7`})
			}
		}
	})
}

// TestUnnamedAfterScript: several statements leave no unnamed statement behind, also where one of them fails.
func TestUnnamedAfterScript(t *testing.T) {
	onEachTwin(t, func(t *testing.T, e *env) {
		p := twin(t, e)
		for _, q := range []string{`SELECT income FROM customers WHERE id = 1; SELECT 1`, `SELECT 1; SELECT income, 1/(id - 1) FROM customers WHERE id = 1`, `SELECT income FROM customers WHERE id = 1`} {
			p.same(t, 1, &pgproto3.Parse{Query: `SELECT age FROM customers WHERE id = 1`}, &pgproto3.Sync{})
			p.queries(t, q)
			p.same(t, 1, &pgproto3.Bind{}, &pgproto3.Execute{}, &pgproto3.Sync{})
			p.same(t, 1, &pgproto3.Describe{ObjectType: 'S'}, &pgproto3.Sync{})
			p.same(t, 1, &pgproto3.Parse{Query: `SELECT 2`}, &pgproto3.Bind{}, &pgproto3.Execute{}, &pgproto3.Sync{})
		}
	})
}

// TestManyRows: a FETCH and an EXECUTE of many rows between others in one message.
func TestManyRows(t *testing.T) {
	onEachTwin(t, func(t *testing.T, e *env) {
		twin(t, e).queries(t, `BEGIN; DECLARE c CURSOR FOR SELECT * FROM customers ORDER BY id; SELECT repeat('x', 300000), i FROM generate_series(1, 5) i; FETCH 1500 c; FETCH 100 c; COMMIT`,
			`PREPARE p AS SELECT * FROM customers ORDER BY id; EXECUTE p; SELECT * FROM customers ORDER BY id; EXECUTE p`)
	})
}

// TestFetchCount: psql with FETCH_COUNT reads by cursor, and prints what it prints without.
func TestFetchCount(t *testing.T) {
	psql, err := exec.LookPath("psql")
	if err != nil {
		t.Fatal("psql is not installed (Debian: apt-get install postgresql-client)")
	}
	onEachProtected(t, func(t *testing.T, e *env) {
		run := func(commands ...string) string {
			args := []string{"-X", "-A", "-t", "-v", "ON_ERROR_STOP=1", e.dsn(analyst)}
			for _, c := range commands {
				args = append(args, "-c", c)
			}
			out, err := exec.Command(psql, args...).CombinedOutput()
			if err != nil {
				t.Fatalf("%v: %s", err, out)
			}
			return string(out)
		}
		const query = `SELECT * FROM customers ORDER BY id LIMIT 250`
		want := run(query)
		if got := run(`\set FETCH_COUNT 40`, query); got != want || bytes.Count([]byte(got), []byte("\n")) != 250 {
			t.Errorf("with FETCH_COUNT:\n%.300s\nwithout:\n%.300s", got, want)
		}
		if got := run(`\set FETCH_COUNT 40`, `BEGIN`, query, `COMMIT`); got != "BEGIN\n"+want+"COMMIT\n" {
			t.Errorf("in a transaction:\n%.300s", got)
		}
	})
}

func bits(v [3]float64) [3]uint64 {
	return [3]uint64{math.Float64bits(v[0]), math.Float64bits(v[1]), math.Float64bits(v[2])}
}

// TestServerCursorOfDriver: what psycopg's named cursors and JDBC's refcursors send, by pgx.
func TestServerCursorOfDriver(t *testing.T) {
	onEachProtected(t, func(t *testing.T, e *env) {
		conn := e.connect(t, analyst)
		want := maskOf(t, conn, `SELECT id, age, income, score FROM customers WHERE id <= 30`)
		for _, mode := range []pgx.QueryExecMode{pgx.QueryExecModeSimpleProtocol, pgx.QueryExecModeExec, pgx.QueryExecModeDescribeExec, pgx.QueryExecModeCacheStatement} {
			e.exec(t, conn, `BEGIN`)
			if _, err := conn.Exec(t.Context(), `DECLARE "named" CURSOR FOR SELECT id, age, income, score FROM customers WHERE id <= 30`, mode); err != nil {
				t.Fatal(explain(err))
			}
			got := map[int32][3]uint64{}
			for range 4 {
				rows, err := conn.Query(t.Context(), `FETCH FORWARD 10 FROM "named"`, mode)
				if err != nil {
					t.Fatal(explain(err))
				}
				for rows.Next() {
					var id int32
					var v [3]float64
					if err := rows.Scan(&id, &v[0], &v[1], &v[2]); err != nil {
						t.Fatal(err)
					}
					got[id] = bits(v)
				}
				if rows.Err() != nil {
					t.Fatalf("%s: %v", mode, explain(rows.Err()))
				}
			}
			e.exec(t, conn, `COMMIT`)
			if !equalCodes(got, want) {
				t.Errorf("%s: %d rows of other codes", mode, len(got))
			}
		}
	})
}

// BenchmarkSimplePoint reads one customer by key in the simple protocol, a hundred times.
func BenchmarkSimplePoint(b *testing.B) {
	e := benchEnv(b)
	conns, spent, cpu := map[string]*pgconn.PgConn{}, map[string]time.Duration{}, map[string]time.Duration{}
	for _, w := range ways(e) {
		conns[w.name] = benchConn(b, w.dsn)
	}
	for b.Loop() {
		for _, w := range ways(e) {
			started, used := time.Now(), cpuTime(b)
			for range 100 {
				results, err := conns[w.name].Exec(b.Context(), `SELECT id, region, age, income, score FROM customers WHERE id = 1234`).ReadAll()
				if err != nil || len(results[0].Rows) != 1 {
					b.Fatal(err)
				}
			}
			spent[w.name] += time.Since(started)
			cpu[w.name] += cpuTime(b) - used
		}
	}
	for _, w := range ways(e) { // of client and proxy together: says more than time on a machine that others use too
		b.ReportMetric(cpu[w.name].Seconds()*1e6/float64(100*b.N), w.name+"-cpu-µs")
	}
	b.ReportMetric(spent["relayed"].Seconds()/spent["direct"].Seconds(), "relayed/direct")
	b.ReportMetric(spent["masked"].Seconds()/spent["direct"].Seconds(), "masked/direct")
}

// cpuTime is what this process has used.
func cpuTime(b *testing.B) time.Duration {
	b.Helper()
	var used syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &used); err != nil {
		b.Fatal(err)
	}
	return time.Duration(used.Utime.Nano() + used.Stime.Nano())
}
