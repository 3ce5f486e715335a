package integration_test

import (
	"bytes"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5/pgproto3"
)

// pipelines are messages that are sent at once. "@a q" is Parse of a statement a, "a<p" Bind of it to a portal p, "p!" Execute,
// "p!2" of two rows, ";" Sync, "?q" Query. The unnamed statement and portal have no name.
var pipelines = []string{
	`@a SELECT max(income) FROM customers | @ SELECT 7 | a<p | p! | < | ! | ; | ?SELECT 1`,
	`?BEGIN | @a SELECT max(income) FROM customers | @ SELECT 7 | a<p | p! | < | ! | ; | ?SELECT 1`,
	`?BEGIN | @a SELECT max(income) FROM customers | @ SELECT 7 | < | a<p | p! | ! | ; | ?SELECT 1`,
	`?PREPARE x AS SELECT max(income) FROM customers | @a EXECUTE x | @ SELECT 7 | a<p | p! | < | ! | ; | ?SELECT 1`,
	`@ BEGIN | < | ! | @ SELECT max(income) FROM customers | < | ! | @ ROLLBACK | < | ! | ; | ?SELECT 1`,
	`@ SELECT max(income) FROM customers | < | ! | @ BEGIN | < | ! | @ SELECT min(income) FROM customers | < | ! | @ ROLLBACK | < | ! | ; | ?SELECT 1`,
	`@ SELECT id FROM customers WHERE income > -99 ORDER BY income | < | !2 | !1 | flush | !1 | ; | ?SELECT 1`,
	`@ SELECT max(income) FROM customers | < | flush | ; | ?SELECT 1`,
	`@a SELECT max(income) FROM customers | a< | a<p | p! | ! | ; | ?SELECT 1`,
	`@a SELECT max(1/(id-id)) FROM customers WHERE income > -99 | a< | ! | @ SELECT 1 | < | ! | ; | ?SELECT 1 | ?SELECT max(income) FROM customers`,
	`@a SELECT max(income) FROM customers | @ DEALLOCATE ALL | < | ! | a< | ! | ; | ?SELECT 1`,
	`@a SELECT max(income) FROM customers | ; | @ DISCARD ALL | < | ! | a< | ! | ; | ?SELECT 1`,
	`@a SELECT max(income) FROM customers | ; | a< | ! | ; | a< | ! | a< | ! | ; | ?SELECT max(income) FROM customers | ?SELECT max(income) FROM customers`,
	`@ COPY (SELECT max(income) FROM customers) TO STDOUT | < | ! | @ SELECT min(income) FROM customers | < | ! | ; | ?SELECT 1`,
	`?BEGIN | ?SELECT 1/0 | @ SELECT max(income) FROM customers | < | ! | ; | ?ROLLBACK | ?SELECT 1`,
	`?BEGIN | @ DECLARE c CURSOR FOR SELECT income FROM customers WHERE income > 0 ORDER BY income, id | < | ! | @ FETCH 2 FROM c | < | ! | ; | ?COMMIT`,
}

// TestPipelines sends messages at once, and compares what comes with what PostgreSQL says of a table of the codes.
func TestPipelines(t *testing.T) {
	onEachProtected(t, func(t *testing.T, e *env) {
		copyCodes(t, e, e.connect(t, analyst))
		e.exec(t, e.admin(t), `GRANT USAGE ON SCHEMA codes TO guest`, `GRANT SELECT ON codes.customers TO guest`)
		for _, script := range pipelines {
			want := pipeline(t, e.directDSN(guest)+"&search_path=codes,public", script)
			if got := pipeline(t, e.dsn(analyst), script); got != want {
				t.Errorf("%s\nthrough the proxy: %s\non a table of codes: %s", script, got, want)
			}
		}
	})
}

// TestNamesOfOurs lets the client keep a seal, and run what Scrim has prepared under a name that the client has for a
// statement whose seals are opened: a row must not be shown with another's code.
func TestNamesOfOurs(t *testing.T) {
	onEachProtected(t, func(t *testing.T, e *env) {
		var view string
		if err := e.admin(t).QueryRow(t.Context(), `SELECT masked_view::regclass::text FROM scrim_state.protections`).Scan(&view); err != nil {
			t.Fatal(err)
		}
		e.exec(t, e.admin(t), `GRANT CREATE ON SCHEMA public TO analyst`)
		e.exec(t, e.directly(t, analyst), fmt.Sprintf(`CREATE TABLE stash AS SELECT id, sealed_1 AS seal FROM %s`, view))
		code := strings.TrimSpace(mustText(t, e.connect(t, analyst), `SELECT income FROM customers WHERE id = 2000`))
		const seals = `SELECT s.seal AS income FROM stash s WHERE s.id = 2000 AND (SELECT count(income) FROM customers WHERE id = -1) > -1`
		for _, script := range []string{
			`@_scrim_run SELECT income FROM customers WHERE id = 3 | ; | @ ` + seals + ` | <1 | ! | ; | _scrim_run<{} | ! | ; | ?SELECT 1`,
			`@_scrim_execute SELECT income FROM customers WHERE id = 3 | ; | ?PREPARE x AS ` + seals + ` | @ EXECUTE x | <1 | ! | ; | _scrim_execute<{} | ! | ; | ?SELECT 1`,
		} {
			if got := pipeline(t, e.dsn(analyst), script); strings.Contains(got, code) || !strings.HasSuffix(got, "D(1) SELECT 1 ready:I") {
				t.Errorf("%s\n%s", script, got)
			}
		}
	})
}

// pipeline sends the messages of a script on a connection of their own and prints the answers.
func pipeline(t *testing.T, dsn, script string) string {
	t.Helper()
	h, err := dial(t, dsn).PgConn().Hijack()
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = h.Conn.Close() }()
	if err := h.Conn.SetDeadline(time.Now().Add(20 * time.Second)); err != nil {
		t.Fatal(err)
	}
	readies := 0
	for part := range strings.SplitSeq(script, " | ") {
		m := scripted(part)
		switch m.(type) {
		case *pgproto3.Sync, *pgproto3.Query:
			readies++
		}
		h.Frontend.Send(m)
	}
	if err := h.Frontend.Flush(); err != nil {
		t.Fatal(err)
	}
	var said []string
	for readies > 0 {
		m, err := h.Frontend.Receive()
		if err != nil {
			return strings.Join(append(said, err.Error()), " ")
		}
		switch m := m.(type) {
		case *pgproto3.ReadyForQuery:
			readies--
			said = append(said, "ready:"+string(m.TxStatus))
		case *pgproto3.ErrorResponse:
			said = append(said, m.Code)
		case *pgproto3.DataRow:
			said = append(said, fmt.Sprintf("D(%s)", bytes.Join(m.Values, []byte(","))))
		case *pgproto3.CopyData:
			said = append(said, fmt.Sprintf("d(%s)", bytes.TrimSpace(m.Data)))
		case *pgproto3.CommandComplete:
			said = append(said, string(m.CommandTag))
		case *pgproto3.ParameterStatus, *pgproto3.NoticeResponse, *pgproto3.RowDescription:
		default:
			said = append(said, strings.TrimPrefix(fmt.Sprintf("%T", m), "*pgproto3."))
		}
	}
	return strings.Join(said, " ")
}

func scripted(part string) pgproto3.FrontendMessage {
	part = strings.TrimSpace(part)
	if name, query, ok := strings.Cut(part, " "); ok && strings.HasPrefix(name, "@") {
		return &pgproto3.Parse{Name: name[1:], Query: query}
	}
	if query, ok := strings.CutPrefix(part, "?"); ok {
		return &pgproto3.Query{String: query}
	}
	if name, portal, ok := strings.Cut(part, "<"); ok {
		switch portal {
		case "1": // all in binary
			return &pgproto3.Bind{PreparedStatement: name, ResultFormatCodes: []int16{1}}
		case "{}": // with empty lists of codes
			return &pgproto3.Bind{PreparedStatement: name, Parameters: slices.Repeat([][]byte{[]byte("{}")}, 6)}
		}
		return &pgproto3.Bind{PreparedStatement: name, DestinationPortal: portal}
	}
	if name, rows, ok := strings.Cut(part, "!"); ok {
		m := &pgproto3.Execute{Portal: name}
		_, _ = fmt.Sscan(rows, &m.MaxRows)
		return m
	}
	if part == "flush" {
		return &pgproto3.Flush{}
	}
	return &pgproto3.Sync{}
}
