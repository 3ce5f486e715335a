package integration_test

import (
	"context"
	"fmt"
	"io"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgproto3"
)

// talk sends messages, waits for so many ReadyForQuery, and returns what came, as show writes it, or why it ended before.
func talk(t *testing.T, h *pgconn.HijackedConn, ready int, messages []pgproto3.FrontendMessage, show func(io.Writer, pgproto3.BackendMessage)) string {
	t.Helper()
	for _, m := range messages {
		h.Frontend.Send(m)
	}
	if err := h.Frontend.Flush(); err != nil {
		t.Fatal(err)
	}
	_ = h.Conn.SetReadDeadline(time.Now().Add(20 * time.Second))
	var b strings.Builder
	for ready > 0 {
		msg, err := h.Frontend.Receive()
		if err != nil {
			return b.String() + err.Error()
		}
		show(&b, msg)
		if _, ok := msg.(*pgproto3.ReadyForQuery); ok {
			ready--
		}
	}
	return b.String()
}

// script is talk that returns message types, error codes and values.
func script(t *testing.T, h *pgconn.HijackedConn, ready int, messages ...pgproto3.FrontendMessage) string {
	t.Helper()
	return talk(t, h, ready, messages, showTypes)
}

func showTypes(w io.Writer, msg pgproto3.BackendMessage) {
	switch msg := msg.(type) {
	case *pgproto3.ErrorResponse:
		fmt.Fprintf(w, "E(%s)", msg.Code)
		if msg.Severity == "FATAL" {
			fmt.Fprint(w, "!")
		}
	case *pgproto3.DataRow:
		fmt.Fprint(w, "D")
		for _, v := range msg.Values {
			fmt.Fprintf(w, "(%.20s)", v)
		}
	case *pgproto3.ReadyForQuery:
		fmt.Fprintf(w, "Z%c ", msg.TxStatus)
	case *pgproto3.NoticeResponse, *pgproto3.NotificationResponse, *pgproto3.ParameterStatus:
	default:
		wire, _ := msg.Encode(nil)
		fmt.Fprintf(w, "%c", wire[0])
	}
}

func unnamed(sql string) []pgproto3.FrontendMessage {
	return []pgproto3.FrontendMessage{
		&pgproto3.Parse{Query: sql}, &pgproto3.Bind{}, &pgproto3.Describe{ObjectType: 'P'}, &pgproto3.Execute{}, &pgproto3.Sync{},
	}
}

// TestUnnamedStatements: each unnamed statement is itself, whatever was prepared without a name before.
func TestUnnamedStatements(t *testing.T) {
	onEachProtected(t, func(t *testing.T, e *env) {
		h := rawConn(t, e.dsn(analyst))
		masked := script(t, h, 1, unnamed(`SELECT id, income FROM customers WHERE id = 1`)...)
		if !strings.HasPrefix(masked, "12TD(1)(") {
			t.Fatal(masked)
		}
		for _, c := range []struct{ sql, want string }{
			{`SELECT 1, 2, 3`, "12TD(1)(2)(3)CZI "},
			{`SELECT 1, 2.5`, "12TD(1)(2.5)CZI "},
			{`SELECT id, income FROM customers WHERE id = 1`, masked},
			{`SELECT 1 WHERE false`, "12TCZI "},
			{``, "12nIZI "},
			{`SELECT ctid, * FROM customers`, "E(0A000)ZI "},
			{`SELECT 7, 8`, "12TD(7)(8)CZI "},
		} {
			if got := script(t, h, 1, unnamed(c.sql)...); got != c.want {
				t.Errorf("%q: %s, want %s", c.sql, got, c.want)
			}
		}
		both := append(unnamed(`SELECT id, income FROM customers WHERE id = 1`), unnamed(`SELECT 1, 2.5`)...)
		if got := script(t, h, 2, both...); got != masked+"12TD(1)(2.5)CZI " {
			t.Errorf("in one packet: %s", got)
		}
	})
}

// TestPortalOfNextTransaction: a portal bound while an earlier Sync is unanswered stays a masked one.
func TestPortalOfNextTransaction(t *testing.T) {
	onEachProtected(t, func(t *testing.T, e *env) {
		h := rawConn(t, e.dsn(analyst))
		sql := `SELECT id, income FROM customers WHERE id = 1`
		want := script(t, h, 1, unnamed(sql)...)
		script(t, h, 1, &pgproto3.Parse{Name: "m", Query: sql}, &pgproto3.Parse{Name: "s", Query: `SELECT pg_sleep(0.3)`}, &pgproto3.Sync{})
		h.Frontend.Send(&pgproto3.Bind{PreparedStatement: "s"})
		h.Frontend.Send(&pgproto3.Execute{})
		h.Frontend.Send(&pgproto3.Sync{})
		h.Frontend.Send(&pgproto3.Bind{PreparedStatement: "m"})
		if err := h.Frontend.Flush(); err != nil {
			t.Fatal(err)
		}
		time.Sleep(600 * time.Millisecond)
		got := script(t, h, 2, &pgproto3.Describe{ObjectType: 'P'}, &pgproto3.Execute{}, &pgproto3.Sync{})
		if got != "2D()CZI "+want[1:] {
			t.Errorf("%s, want %s", got, want)
		}
	})
}

// TestCopyErrors: a COPY FROM STDIN that fails early, and a Sync in the middle of one, leave the session in step.
func TestCopyErrors(t *testing.T) {
	onEachProtected(t, func(t *testing.T, e *env) {
		e.exec(t, e.admin(t), `CREATE TABLE lines (n int)`, `GRANT ALL ON lines TO analyst, risk`,
			`CREATE FUNCTION no() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RAISE EXCEPTION 'no'; END $$`,
			`CREATE TABLE refusing (n int)`, `GRANT ALL ON refusing TO analyst, risk`,
			`CREATE TRIGGER no BEFORE INSERT ON refusing FOR EACH STATEMENT EXECUTE FUNCTION no()`)
		copyIn := func(table string) []pgproto3.FrontendMessage {
			return []pgproto3.FrontendMessage{&pgproto3.Parse{Query: `COPY ` + table + ` FROM STDIN`}, &pgproto3.Bind{}, &pgproto3.Execute{}, &pgproto3.Sync{}}
		}
		data := []pgproto3.FrontendMessage{&pgproto3.CopyData{Data: []byte("1\n")}, &pgproto3.CopyDone{}}
		bad := []pgproto3.FrontendMessage{&pgproto3.CopyData{Data: []byte("x\n")}, &pgproto3.CopyDone{}, &pgproto3.Sync{}}
		for _, role := range []string{analyst, risk} {
			scripts := []struct {
				ready    int
				messages []pgproto3.FrontendMessage
			}{
				{1, copyIn("refusing")},
				{1, append(copyIn("lines"), bad...)},
				{1, append(append(copyIn("lines"), data...), &pgproto3.Sync{})},
				{1, append([]pgproto3.FrontendMessage{&pgproto3.Query{String: `COPY lines FROM STDIN`}, &pgproto3.Sync{}}, data...)},
				{1, append([]pgproto3.FrontendMessage{&pgproto3.Query{String: `COPY lines FROM STDIN`}}, &pgproto3.CopyFail{Message: "changed my mind"})},
			}
			for i, s := range scripts {
				through, direct := rawConn(t, e.dsn(role)), rawConn(t, e.directDSN(role))
				got, want := script(t, through, s.ready, s.messages...), script(t, direct, s.ready, s.messages...)
				got += script(t, through, 1, &pgproto3.Query{String: `SELECT 1`})
				want += script(t, direct, 1, &pgproto3.Query{String: `SELECT 1`})
				if got != want {
					t.Errorf("%s, script %d:\nthrough %s\ndirect  %s", role, i, got, want)
				}
			}
		}
	})
}

// TestCancelOurs: a cancel request ends a statement of Scrim's that waits for a lock.
func TestCancelOurs(t *testing.T) {
	onEach(t, func(t *testing.T, e *env) {
		e.trains(t)
		holder, owner := e.admin(t), e.connect(t, olga)
		e.exec(t, holder, `BEGIN`, `LOCK TABLE customers`)
		for _, statement := range []string{testPolicy, `CREATE ENCODER e2 ON customers (age) WAIT`} {
			go func() {
				time.Sleep(time.Second)
				_ = owner.PgConn().CancelRequest(context.Background())
			}()
			if _, err := text(t, owner, statement); code(err) != "57014" {
				t.Errorf("%s: %v", statement, explain(err))
			}
		}
		e.exec(t, holder, `ROLLBACK`)
		e.exec(t, owner, testPolicy)
	})
}

// TestOneFarewell: when the server ends a session the client hears it once, in the server's words.
func TestOneFarewell(t *testing.T) {
	onEach(t, func(t *testing.T, e *env) {
		h := rawConn(t, e.dsn(analyst))
		pid := strings.Trim(strings.Split(script(t, h, 1, &pgproto3.Query{String: `SELECT pg_backend_pid()`}), "D")[1], "()CZI ")
		e.exec(t, e.admin(t), `SELECT pg_terminate_backend(`+pid+`)`)
		if got := script(t, h, 1, &pgproto3.Sync{}); strings.Count(got, "E(") != 1 || !strings.HasPrefix(got, "E(57P01)!") {
			t.Error(got)
		}
	})
}

// TestTableChangesHands, or goes: its policy can be dropped, the grants come back, and nothing is stuck.
func TestTableChangesHands(t *testing.T) {
	onEachProtected(t, func(t *testing.T, e *env) {
		admin := e.admin(t)
		e.exec(t, admin, `ALTER TABLE customers OWNER TO postgres`, `SELECT scrim.drop_masking_policy('p', 'customers')`)
		if got := mustText(t, admin, `SELECT has_table_privilege('analyst', 'customers', 'SELECT'), has_table_privilege('risk', 'customers', 'SELECT')`); got != "t|t\n" {
			t.Errorf("after a change of owner: %s", got)
		}
		e.exec(t, admin, `SELECT scrim.create_masking_policy('p', 'customers', '{age}', '{risk}', 'enc')`, `DROP TABLE customers CASCADE`)
		if got := mustText(t, admin, `SELECT count(*) FROM scrim.masking_policies`); got != "0\n" {
			t.Errorf("%s policies without a table", got)
		}
		e.exec(t, e.connect(t, olga), `DROP ENCODER enc`)
	})
}

// TestSlowCatalog: a catalog that does not answer holds nobody up whom it does not concern.
func TestSlowCatalog(t *testing.T) {
	onEachProtected(t, func(t *testing.T, e *env) {
		holder := e.admin(t)
		e.exec(t, holder, `BEGIN`, `LOCK TABLE scrim_state.policies`)
		started := time.Now()
		if got := mustText(t, e.connect(t, risk), `SELECT income FROM customers WHERE id = 2000`); got != "2342108.75\n" || time.Since(started) > 8*time.Second {
			t.Errorf("%s after %s", got, time.Since(started))
		}
		if _, err := text(t, e.connect(t, analyst), `SELECT income FROM customers`); code(err) != "42501" {
			t.Errorf("a role that cannot be looked up got %v", explain(err))
		}
		e.exec(t, holder, `ROLLBACK`)
	})
}

// TestPortalThatFailed: a Bind that fails leaves an older portal of that name what it was.
func TestPortalThatFailed(t *testing.T) {
	onEachProtected(t, func(t *testing.T, e *env) {
		h := rawConn(t, e.dsn(analyst))
		want := script(t, h, 1, unnamed(`SELECT age FROM customers WHERE id = 5`)...)
		script(t, h, 1, &pgproto3.Parse{Name: "a", Query: `SELECT age FROM customers WHERE id = 5`}, &pgproto3.Parse{Name: "i", Query: `SELECT income FROM customers WHERE id = 5`}, &pgproto3.Sync{})
		script(t, h, 1, &pgproto3.Query{String: `BEGIN`})
		script(t, h, 1, &pgproto3.Bind{DestinationPortal: "p", PreparedStatement: "a"}, &pgproto3.Sync{})
		script(t, h, 1, &pgproto3.Query{String: `SAVEPOINT s`})
		if got := script(t, h, 1, &pgproto3.Bind{DestinationPortal: "p", PreparedStatement: "i"}, &pgproto3.Sync{}); got != "E(42P03)ZE " {
			t.Fatal(got)
		}
		script(t, h, 1, &pgproto3.Query{String: `ROLLBACK TO s`})
		got := script(t, h, 1, &pgproto3.Describe{ObjectType: 'P', Name: "p"}, &pgproto3.Execute{Portal: "p"}, &pgproto3.Sync{})
		if got != strings.Replace(strings.TrimPrefix(want, "12"), "ZI", "ZT", 1) {
			t.Errorf("%s, want %s", got, want)
		}
	})
}

// TestNoUnnamedLeft: a simple query leaves no unnamed statement behind that could be bound.
func TestNoUnnamedLeft(t *testing.T) {
	onEachProtected(t, func(t *testing.T, e *env) {
		h := rawConn(t, e.dsn(analyst))
		script(t, h, 1, &pgproto3.Parse{Query: `SELECT income FROM customers`}, &pgproto3.Sync{})
		script(t, h, 1, &pgproto3.Query{String: `SELECT income FROM customers WHERE id = 1`})
		if got := script(t, h, 1, &pgproto3.Bind{ResultFormatCodes: []int16{1}}, &pgproto3.Execute{}, &pgproto3.Sync{}); got != "E(26000)ZI " {
			t.Error(got)
		}
	})
}
