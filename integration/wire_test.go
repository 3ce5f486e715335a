package integration_test

import (
	"context"
	"crypto/tls"
	"encoding/binary"
	"fmt"
	"net"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgproto3"

	"github.com/scrimdb/scrim/proxy"
	"github.com/scrimdb/scrim/udf"
)

// TestRefusalAbortsTransaction: what Scrim refuses fails like any error: the transaction block is aborted, and COMMIT
// rolls back.
func TestRefusalAbortsTransaction(t *testing.T) {
	onEachProtected(t, func(t *testing.T, e *env) {
		e.exec(t, e.admin(t), `CREATE TABLE notes (t text)`, `GRANT ALL ON notes TO analyst`)
		conn := e.connect(t, analyst)
		for _, refused := range []string{`SELECT ctid, * FROM customers`, `SELECT * FROM scrim_runtime.x`, `CREATE MODEL m FROM 'x'`} {
			for _, ext := range []bool{false, true} {
				e.exec(t, conn, `BEGIN`, `INSERT INTO notes VALUES ('lost')`)
				var err error
				if ext {
					_, err = conn.Exec(t.Context(), refused, pgx.QueryExecModeDescribeExec)
				} else {
					_, err = text(t, conn, refused)
				}
				if code(err) == "" {
					t.Fatalf("%s was not refused", refused)
				}
				if status := conn.PgConn().TxStatus(); status != 'E' {
					t.Errorf("%s: transaction status %c after a refusal", refused, status)
				}
				if _, err := text(t, conn, `SELECT income FROM customers WHERE id = 1`); code(err) != "25P02" {
					t.Errorf("in an aborted transaction: %v, not 25P02", err)
				}
				e.exec(t, conn, `COMMIT`)
			}
		}
		if got := mustText(t, conn, `SELECT count(*) FROM notes`); got != "0\n" {
			t.Errorf("%s rows were committed after a refusal", strings.TrimSpace(got))
		}
	})
}

// TestErrorPositions: an error in a rewritten statement points into the text that the client sent.
func TestErrorPositions(t *testing.T) {
	onEachProtected(t, func(t *testing.T, e *env) {
		conn := e.connect(t, analyst)
		for query, at := range map[string]string{
			`SELECT 'ä', income, missing FROM customers WHERE id = 1`:            "missing",
			`SELECT income FROM customers c WHERE c.nothing = 1`:                 "c.nothing",
			`SELECT income FROM customers WHERE id = 1 AND wrong_function(id)`:   "wrong_function",
			`SELECT 'ä', ctid, * FROM customers`:                                 "customers",
			`CREATE MASKING POLICY p ON customers (income) USING nonsense enc`:   "nonsense",
			`SELECT age FROM customers JOIN orders ON orders.id = customers.idd`: "customers.idd",
		} {
			_, err := text(t, conn, query)
			var pgErr *pgconn.PgError
			if !asError(err, &pgErr) {
				t.Errorf("%s: %v", query, err)
				continue
			}
			runes := []rune(query)
			if p := int(pgErr.Position); p < 1 || p > len(runes) || !strings.HasPrefix(string(runes[p-1:]), at) {
				t.Errorf("%s\nposition %d of %s", query, p, explain(err))
			}
		}
	})
}

// TestModes reads masked columns in each of pgx's query modes, in text and binary, with parameters.
func TestModes(t *testing.T) {
	onEachProtected(t, func(t *testing.T, e *env) {
		want := ""
		for _, mode := range []pgx.QueryExecMode{
			pgx.QueryExecModeCacheStatement, pgx.QueryExecModeCacheDescribe, pgx.QueryExecModeDescribeExec, pgx.QueryExecModeExec, pgx.QueryExecModeSimpleProtocol,
		} {
			conn := e.connect(t, analyst)
			for range 3 {
				rows, err := conn.Query(t.Context(), `SELECT id, income, "Note" FROM customers WHERE region = $1 AND id < $2 ORDER BY id`, mode, "EU", 20)
				if err != nil {
					t.Fatal(err)
				}
				var got strings.Builder
				for rows.Next() {
					var id int
					var income float64
					var note string
					if err := rows.Scan(&id, &income, &note); err != nil {
						t.Fatal(err)
					}
					fmt.Fprintln(&got, id, income, note)
				}
				if rows.Err() != nil {
					t.Fatalf("%s: %v", mode, explain(rows.Err()))
				}
				if want == "" {
					want = got.String()
				}
				if got.String() != want || want == "" {
					t.Errorf("%s:\n%s\nwant\n%s", mode, got.String(), want)
				}
			}
		}
	})
}

// TestPipeline: many statements in flight, masked and not, with an error in the middle.
func TestPipeline(t *testing.T) {
	onEachProtected(t, func(t *testing.T, e *env) {
		conn := e.connect(t, analyst)
		var want float64
		if err := conn.QueryRow(t.Context(), `SELECT income FROM customers WHERE id = 5`).Scan(&want); err != nil {
			t.Fatal(explain(err))
		}
		for range 3 {
			batch := &pgx.Batch{}
			for i := range 20 {
				batch.Queue(`SELECT $1::int`, i)
				batch.Queue(`SELECT income FROM customers WHERE id = $1`, 5)
			}
			results := conn.SendBatch(t.Context(), batch)
			for i := range 20 {
				var n int
				var income float64
				if err := results.QueryRow().Scan(&n); err != nil || n != i {
					t.Fatal(n, err)
				}
				if err := results.QueryRow().Scan(&income); err != nil || income != want {
					t.Fatal(income, explain(err))
				}
			}
			if err := results.Close(); err != nil {
				t.Fatal(err)
			}
			for _, bad := range []string{`SELECT 1/0`, `SELECT ctid, * FROM customers`, `SELECT missing FROM customers`} {
				p := conn.PgConn().StartPipeline(t.Context())
				p.SendQueryParams(`SELECT income FROM customers WHERE id = 5`, nil, nil, nil, nil)
				p.SendQueryParams(bad, nil, nil, nil, nil)
				p.SendQueryParams(`SELECT income FROM customers WHERE id = 6`, nil, nil, nil, nil)
				if err := p.Sync(); err != nil {
					t.Fatal(err)
				}
				p.SendQueryParams(`SELECT id, income FROM customers WHERE id = 5`, nil, nil, nil, []int16{1})
				if err := p.Sync(); err != nil {
					t.Fatal(err)
				}
				got := ""
				for {
					r, err := p.GetResults()
					if err != nil {
						got += " " + code(err)
						continue
					}
					if r == nil {
						break
					}
					switch r := r.(type) {
					case *pgconn.ResultReader:
						res := r.Read()
						got += fmt.Sprintf(" %d", len(res.Rows))
						if res.Err != nil {
							got += ":" + code(res.Err)
						}
					case *pgconn.PipelineSync:
						got += " S"
					}
				}
				if err := p.Close(); err != nil {
					t.Error(err)
				}
				wantEnd := map[string]string{`SELECT 1/0`: " 1 0:22012 S 1 S", `SELECT ctid, * FROM customers`: " 1 0A000 S 1 S", `SELECT missing FROM customers`: " 1 42703 S 1 S"}[bad]
				if got != wantEnd && got != strings.Replace(wantEnd, " 0:", " ", 1) {
					t.Errorf("%s: got%s, want%s", bad, got, wantEnd)
				}
			}
		}
	})
}

// TestPortals: a masked portal is read in pieces.
func TestPortals(t *testing.T) {
	onEachProtected(t, func(t *testing.T, e *env) {
		whole := mustText(t, e.connect(t, analyst), `SELECT id, income FROM customers ORDER BY id LIMIT 25`)
		conn := e.connect(t, analyst)
		hijacked, err := conn.PgConn().Hijack()
		if err != nil {
			t.Fatal(err)
		}
		defer func() { _ = hijacked.Conn.Close() }()
		f := hijacked.Frontend
		f.Send(&pgproto3.Parse{Name: "s", Query: `SELECT id, income FROM customers ORDER BY id LIMIT 25`})
		f.Send(&pgproto3.Bind{DestinationPortal: "p", PreparedStatement: "s"})
		f.Send(&pgproto3.Describe{ObjectType: 'P', Name: "p"})
		var got strings.Builder
		suspended := 0
		for range 3 {
			f.Send(&pgproto3.Execute{Portal: "p", MaxRows: 10})
		}
		f.Send(&pgproto3.Close{ObjectType: 'S', Name: "s"})
		f.Send(&pgproto3.Sync{})
		if err := f.Flush(); err != nil {
			t.Fatal(err)
		}
		for done := false; !done; {
			msg, err := f.Receive()
			if err != nil {
				t.Fatal(err)
			}
			switch msg := msg.(type) {
			case *pgproto3.DataRow:
				fmt.Fprintf(&got, "%s|%s\n", msg.Values[0], msg.Values[1])
			case *pgproto3.PortalSuspended:
				suspended++
			case *pgproto3.ErrorResponse:
				t.Fatal(msg.Message)
			case *pgproto3.ReadyForQuery:
				done = true
			}
		}
		if got.String() != whole || suspended != 2 {
			t.Errorf("suspended %d times, rows:\n%s\nwant:\n%s", suspended, got.String(), whole)
		}
	})
}

// TestUntouched: an unmasked session gets byte for byte what a direct connection gets.
func TestUntouched(t *testing.T) {
	queries := []string{
		`SELECT * FROM customers ORDER BY id`, `SELECT 1; SELECT 2; SELECT 1/0; SELECT 3`, ``, `;`, `SELECT`, `syntax error`,
		`SHOW server_encoding`, `SET datestyle = german`, `SELECT now() - now(), date '2020-01-02'`, `BEGIN; SELECT 1; COMMIT`,
		`COPY customers TO STDOUT`, `COPY (SELECT * FROM customers WHERE id < 3) TO STDOUT (FORMAT csv, HEADER)`,
		`DO $$ BEGIN RAISE NOTICE 'hello'; END $$`, `LISTEN x; NOTIFY x, 'y'`, `EXPLAIN (COSTS off) SELECT * FROM customers WHERE id = 1`,
		`PREPARE s AS SELECT $1::int`, `EXECUTE s(3)`, `DEALLOCATE ALL`, `DISCARD ALL`, `SELECT repeat('x', 3000000)`,
		`SELECT i, repeat('y', i % 1000) FROM generate_series(1, 20000) i`,
	}
	onEachProtected(t, func(t *testing.T, e *env) {
		for _, role := range []string{risk, olga} {
			through, direct := rawConn(t, e.dsn(role)), rawConn(t, e.directDSN(role))
			for _, q := range queries {
				got, want := transcript(t, through, q), transcript(t, direct, q)
				if got != want {
					t.Errorf("%s: %s\nthrough the proxy %.400q\ndirectly %.400q", role, q, got, want)
				}
			}
		}
	})
}

// TestMaskedRelay: what names no masked column is as direct for a masked role too.
func TestMaskedRelay(t *testing.T) {
	queries := []string{
		`SELECT id, region FROM customers ORDER BY id LIMIT 9`, `SELECT count(*) FROM customers`, `SELECT 1; SELECT 2; SELECT 1/0`, ``, `syntax error`,
		`COPY customers (id, region) TO STDOUT`, `SELECT income FROM customers_missing`, `EXPLAIN (COSTS off) SELECT id FROM customers WHERE id = 1`,
		`BEGIN`, `SAVEPOINT a`, `SELECT id FROM customers WHERE id = 3`, `ROLLBACK TO a`, `COMMIT`, `DISCARD ALL`, `SET search_path = pg_temp`, `SELECT id FROM customers`,
	}
	onEachProtected(t, func(t *testing.T, e *env) {
		through, direct := rawConn(t, e.dsn(analyst)), rawConn(t, e.directDSN(analyst))
		for _, q := range queries {
			if got, want := transcript(t, through, q), transcript(t, direct, q); got != want {
				t.Errorf("%s\nthrough the proxy %.400q\ndirectly %.400q", q, got, want)
			}
		}
	})
}

func rawConn(t *testing.T, dsn string) *pgconn.HijackedConn {
	t.Helper()
	conn, err := pgconn.Connect(t.Context(), dsn)
	if err != nil {
		t.Fatal(err)
	}
	hijacked, err := conn.Hijack()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = hijacked.Conn.Close() })
	return hijacked
}

// transcript sends a simple query and returns every message of the answer as it is on the wire, but for
// notifications.
func transcript(t *testing.T, conn *pgconn.HijackedConn, query string) string {
	t.Helper()
	conn.Frontend.SendQuery(&pgproto3.Query{String: query})
	if err := conn.Frontend.Flush(); err != nil {
		t.Fatal(err)
	}
	var b strings.Builder
	for {
		msg, err := conn.Frontend.Receive()
		if err != nil {
			t.Fatalf("%s: %v after %q", query, err, b.String())
		}
		if _, ok := msg.(*pgproto3.NotificationResponse); ok {
			continue // comes when it comes
		}
		wire, err := msg.Encode(nil)
		if err != nil {
			t.Fatal(err)
		}
		b.Write(wire)
		if _, ok := msg.(*pgproto3.ReadyForQuery); ok {
			return b.String()
		}
	}
}

// TestCopyIn: COPY FROM works through the proxy, in the extended protocol too, where libpq sends Sync along, and with a masked
// query right behind.
func TestCopyIn(t *testing.T) {
	onEachProtected(t, func(t *testing.T, e *env) {
		e.exec(t, e.admin(t), `CREATE TABLE lines (n int, t text)`, `GRANT ALL ON lines TO analyst`)
		conn := e.connect(t, analyst)
		var rows [][]any
		for i := range 5000 {
			rows = append(rows, []any{i, strings.Repeat("x", i%200)})
		}
		if n, err := conn.CopyFrom(t.Context(), pgx.Identifier{"lines"}, []string{"n", "t"}, pgx.CopyFromRows(rows)); n != 5000 || err != nil {
			t.Fatal(n, explain(err))
		}
		h := rawConn(t, e.dsn(analyst))
		got := script(t, h, 2, &pgproto3.Parse{Query: `COPY lines FROM STDIN`}, &pgproto3.Bind{}, &pgproto3.Execute{},
			&pgproto3.Sync{}, // ignored by the server: it is in copy mode by then
			&pgproto3.CopyData{Data: []byte("1\tone\n")}, &pgproto3.CopyDone{}, &pgproto3.Sync{},
			&pgproto3.Query{String: `SELECT income FROM customers WHERE id = 1`})
		if !strings.HasPrefix(got, "12GCZI TD(") || !strings.HasSuffix(got, ")CZI ") {
			t.Error(got)
		}
		got = script(t, h, 2, &pgproto3.Query{String: `COPY lines FROM STDIN`}, &pgproto3.CopyData{Data: []byte("1\tone\n")}, &pgproto3.CopyDone{},
			&pgproto3.Query{String: `SELECT income FROM customers WHERE id = 1`})
		if !strings.HasPrefix(got, "GCZI TD(") || !strings.HasSuffix(got, ")CZI ") {
			t.Error(got)
		}
	})
}

// TestAuthentication: a wrong password is PostgreSQL's to refuse, in its own words.
func TestAuthentication(t *testing.T) {
	onEach(t, func(t *testing.T, e *env) {
		for _, dsn := range []string{
			strings.Replace(e.dsn(analyst), "analyst:analyst", "analyst:wrong", 1),
			strings.Replace(e.dsn(analyst), "analyst:analyst", "nobody:wrong", 1),
			e.dsn(analyst) + "&database=missing",
		} {
			_, through := pgconn.Connect(t.Context(), dsn)
			_, direct := pgconn.Connect(t.Context(), strings.Replace(dsn, e.addr, e.server.Addr(), 1))
			var a, b *pgconn.PgError
			if !asError(through, &a) || !asError(direct, &b) || a.Code != b.Code || a.Message != b.Message {
				t.Errorf("%s:\nthrough %v\ndirect %v", dsn, through, direct)
			}
		}
	})
}

// TestCancel: a cancel request reaches a running query, and a training.
func TestCancel(t *testing.T) {
	onEachProtected(t, func(t *testing.T, e *env) {
		e.trains(t)
		for role, statement := range map[string]string{
			analyst: `SELECT id, income, pg_sleep(30) FROM customers`,
			olga:    `CREATE ENCODER slow ON customers (age, income, score) WITH (epochs = 10000, batch_size = 16) WAIT`,
		} {
			conn := e.connect(t, role)
			go func() {
				time.Sleep(time.Second)
				_ = conn.PgConn().CancelRequest(context.Background())
			}()
			started := time.Now()
			_, err := text(t, conn, statement)
			if code(err) != "57014" || time.Since(started) > 10*time.Second {
				t.Errorf("%s: %v after %s", statement, explain(err), time.Since(started))
			}
			if got := mustText(t, conn, `SELECT 1`); got != "1\n" {
				t.Errorf("after a cancel: %q", got)
			}
		}
		if got := mustText(t, e.connect(t, olga), `SELECT count(*) FROM scrim.encoders WHERE name = 'slow'`); got != "0\n" {
			t.Error("a cancelled training was registered")
		}
	})
}

// TestCommands: Scrim's statements give command tags and rows in both protocols.
func TestCommands(t *testing.T) {
	onEach(t, func(t *testing.T, e *env) {
		e.trains(t)
		for _, mode := range []pgx.QueryExecMode{pgx.QueryExecModeSimpleProtocol, pgx.QueryExecModeDescribeExec, pgx.QueryExecModeCacheStatement, pgx.QueryExecModeExec} {
			conn := e.connect(t, olga)
			for statement, want := range map[string]string{
				`CREATE ENCODER e2 ON customers (score, age) WITH (epochs = 1) WAIT`: "CREATE ENCODER",
				`SHOW ENCODERS`: "SHOW", `SHOW MASKING POLICIES`: "SHOW", `SHOW VERSIONS IN ENCODER enc`: "SHOW", `SHOW MODELS`: "SHOW", `SHOW VERSIONS IN MODEL m`: "SHOW",
			} {
				tag, err := conn.Exec(t.Context(), statement, mode)
				if err != nil || tag.String() != want {
					t.Errorf("%s %s: %q, %s", mode, statement, tag, explain(err))
				}
			}
			for _, statement := range []string{testPolicy, rotateKey, `DROP MASKING POLICY p ON customers`, `DROP ENCODER e2`} {
				tag, err := conn.Exec(t.Context(), statement, mode)
				if err != nil || !strings.HasPrefix(statement, tag.String()) {
					t.Errorf("%s %s: %q, %s", mode, statement, tag, explain(err))
				}
			}
			if got := mustText(t, conn, `SHOW ENCODERS`); !strings.HasPrefix(got, "enc|public.customers|{age,income,score,vip}|4|1|2000|") {
				t.Errorf("SHOW ENCODERS: %s", got)
			}
		}
	})
}

// TestRoads: clients may come by TLS, and the proxy may reach its server by a Unix socket.
func TestRoads(t *testing.T) {
	certificate := newAuthority(t, "roads").issue(t, "proxy")
	onEachProtected(t, func(t *testing.T, e *env) {
		store, err := udf.NewStore(e.models)
		if err != nil {
			t.Fatal(err)
		}
		srv, err := proxy.NewServer(proxy.Config{
			Upstream: fmt.Sprintf("%s/.s.PGSQL.%d", e.server.SocketDir(), e.server.Port()),
			Catalog:  e.catalog, Library: udf.NewLibrary(e.rt, store), Logger: logger(),
			TLS: proxy.ClientTLS{CertFile: certificate.cert, KeyFile: certificate.key},
		})
		if err != nil {
			t.Fatal(err)
		}
		listener, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		ctx, stop := context.WithCancel(t.Context())
		defer stop()
		served := make(chan error, 1)
		go func() { served <- srv.Serve(ctx, listener) }()
		want := mustText(t, e.connect(t, analyst), firstRows)
		for _, mode := range []string{"disable", "require"} {
			dsn := fmt.Sprintf("postgres://analyst:analyst@%s/%s?sslmode=%s", listener.Addr(), e.database, mode)
			conn := dial(t, dsn)
			if got := mustText(t, conn, firstRows); got != want {
				t.Errorf("sslmode=%s:\n%s\nwant\n%s", mode, got, want)
			}
			if _, secured := conn.PgConn().Conn().(*tls.Conn); secured != (mode == "require") {
				t.Errorf("sslmode=%s: TLS is %v", mode, secured)
			}
			if mode == "require" { // the end of the server is told to who is connected
				stop()
				if err := <-served; err != nil {
					t.Error(err)
				}
				if _, err := text(t, conn, `SELECT 1`); code(err) != "57P01" {
					t.Errorf("after the server stopped: %v", err)
				}
			}
		}
	})
}

// TestPreparedSurvivesPolicyChange: a statement prepared before a change is refused in words that make drivers prepare it
// again, or runs under the new policy; it never shows what it should not.
func TestPreparedSurvivesPolicyChange(t *testing.T) {
	onEach(t, func(t *testing.T, e *env) {
		owner, conn := e.connect(t, olga), e.connect(t, analyst)
		query := `SELECT income FROM customers WHERE id = 2000`
		prepare := func() {
			t.Helper()
			_ = conn.Deallocate(t.Context(), "s")
			if _, err := conn.Prepare(t.Context(), "s", query); err != nil {
				t.Fatal(explain(err))
			}
		}
		run := func() (string, error) {
			r := conn.PgConn().ExecPrepared(t.Context(), "s", nil, nil, nil).Read()
			if r.Err != nil {
				return "", r.Err
			}
			return string(r.Rows[0][0]), nil
		}
		prepare()
		raw, err := run()
		if err != nil || raw != "2342108.75" {
			t.Fatal(raw, err)
		}
		e.exec(t, owner, testPolicy)
		if got, err := run(); code(err) != "42501" {
			t.Errorf("prepared raw, now masked: %q, %v", got, err)
		}
		prepare()
		masked, err := run()
		if err != nil || masked == raw {
			t.Fatal(masked, explain(err))
		}
		e.exec(t, owner, `DROP MASKING POLICY p ON customers`)
		if got, err := run(); code(err) != "0A000" {
			t.Errorf("prepared masked, policy gone: %q, %v", got, err)
		}
		prepare()
		if got, err := run(); err != nil || got != raw {
			t.Errorf("prepared anew: %q, %v", got, err)
		}
	})
}

// TestNamesMean what PostgreSQL says they mean: search_path and temporary tables.
func TestNamesMean(t *testing.T) {
	onEachProtected(t, func(t *testing.T, e *env) {
		e.exec(t, e.admin(t), `CREATE SCHEMA other`, `CREATE TABLE other.customers (id int, income text)`, `INSERT INTO other.customers VALUES (1, 'plain')`,
			`GRANT USAGE ON SCHEMA other TO PUBLIC`, `GRANT SELECT ON other.customers TO PUBLIC`, `ALTER DATABASE `+e.database+` SET search_path = public`)
		conn := e.connect(t, analyst)
		query := `SELECT income FROM customers WHERE id = 1`
		masked := mustText(t, conn, query)
		check := func(want string) {
			t.Helper()
			if got := mustText(t, conn, query); got != want {
				t.Errorf("%q, want %q", got, want)
			}
		}
		e.exec(t, conn, `SET search_path = other`)
		check("plain\n")
		e.exec(t, conn, `RESET search_path`)
		check(masked)
		e.exec(t, conn, `SELECT set_config('search_path', 'other', false)`)
		check("plain\n")
		e.exec(t, conn, `SET search_path = public`, `BEGIN`, `SET LOCAL search_path = other`)
		check("plain\n")
		e.exec(t, conn, `COMMIT`)
		check(masked)
		// A move that no parser sees: the statement is refused once, then planned anew.
		e.exec(t, conn, `CREATE FUNCTION pg_temp.move(s text) RETURNS text LANGUAGE sql AS $$ SELECT set_config('search_path', s, false) $$`)
		check(masked)
		e.exec(t, conn, `SELECT pg_temp.move('other')`)
		if _, err := text(t, conn, query); code(err) != "0A000" {
			t.Errorf("after an unseen move: %v", err)
		}
		check("plain\n")
		e.exec(t, conn, `RESET search_path`)
		check(masked)
		e.exec(t, conn, `CREATE TEMP TABLE customers AS SELECT 1 AS id, 'temporary'::text AS income`)
		check("temporary\n")
		e.exec(t, conn, `DISCARD ALL`)
		check(masked)
	})
}

// TestBrokenModel: a model file that is gone or was changed refuses to be used, and nothing else suffers.
func TestBrokenModel(t *testing.T) {
	onEachProtected(t, func(t *testing.T, e *env) {
		e.exec(t, e.connect(t, olga), `DROP MASKING POLICY p ON customers`)
		e.exec(t, e.admin(t), `UPDATE scrim_state.encoder_versions SET sha256 = repeat('0', 64)`)
		e.exec(t, e.connect(t, olga), testPolicy)
		conn := e.connect(t, analyst)
		_, err := text(t, conn, `SELECT income FROM customers`)
		if code(err) != "58000" {
			t.Errorf("%v, not 58000", explain(err))
		}
		if got := mustText(t, conn, `SELECT count(*) FROM customers`); got != "2000\n" {
			t.Error(got)
		}
	})
}

// TestForgedSeals: sealed values that the policy's own view did not make for this policy end the session.
func TestForgedSeals(t *testing.T) {
	onEachProtected(t, func(t *testing.T, e *env) {
		// Nobody but a superuser can do this: change the key under the view's feet, so that seals do not open.
		var table string
		if err := e.admin(t).QueryRow(t.Context(), `SELECT 'scrim_state.key_' || key_owner FROM scrim_state.protections`).Scan(&table); err != nil {
			t.Fatal(err)
		}
		conn := e.connect(t, analyst)
		mustText(t, conn, `SELECT income FROM customers WHERE id = 1`)
		e.exec(t, e.admin(t), `UPDATE `+table+` SET key = '\x00112233445566778899aabbccddeeff'`)
		_, err := text(t, conn, `SELECT income FROM customers WHERE id = 1`)
		if code(err) != "XX001" {
			t.Errorf("%v, not XX001", explain(err))
		}
		if _, err := text(t, conn, `SELECT 1`); err == nil {
			t.Error("the session goes on")
		}
	})
}

// TestRudeClients: nonsense is answered or cut off, and the server stays up.
func TestRudeClients(t *testing.T) {
	onEachProtected(t, func(t *testing.T, e *env) {
		startup := func(params ...string) []byte {
			body := binary.BigEndian.AppendUint32(nil, 196608)
			for _, p := range params {
				body = append(append(body, p...), 0)
			}
			body = append(body, 0)
			return append(binary.BigEndian.AppendUint32(nil, uint32(len(body)+4)), body...)
		}
		for name, packet := range map[string][]byte{
			"empty":                 {},
			"too short":             {0, 0, 0, 3},
			"huge":                  {0x7f, 0xff, 0xff, 0xff, 0, 3, 0, 0},
			"HTTP":                  []byte("GET / HTTP/1.1\r\n\r\n"),
			"protocol 2":            {0, 0, 0, 8, 0, 2, 0, 0},
			"no user":               startup("database", e.database),
			"no terminator":         startup("user")[:12],
			"odd parameters":        startup("user", "analyst", "x"),
			"half a cancel request": {0, 0, 0, 16, 4, 210, 22, 46, 0, 0},
			"replication":           startup("user", "analyst", "database", e.database, "replication", "database"),
		} {
			conn, err := net.Dial("tcp", e.addr)
			if err != nil {
				t.Fatal(err)
			}
			_, _ = conn.Write(packet)
			_ = conn.(*net.TCPConn).CloseWrite()
			_ = conn.SetReadDeadline(time.Now().Add(5 * time.Second))
			buf := make([]byte, 1024)
			for err == nil {
				_, err = conn.Read(buf)
			}
			if netErr := net.Error(nil); asError(err, &netErr) && netErr.Timeout() {
				t.Errorf("%s: neither answered nor closed", name)
			}
			_ = conn.Close()
		}
		h := rawConn(t, e.dsn(analyst))
		_, _ = h.Conn.Write([]byte{'Q', 0xff, 0xff, 0xff, 0xff})
		if msg, err := h.Frontend.Receive(); err == nil { // PostgreSQL closes without a word
			t.Errorf("a bad length got %T %+v", msg, msg)
		}
		if got := mustText(t, e.connect(t, analyst), `SELECT 1`); got != "1\n" {
			t.Error(got)
		}
	})
}

// TestUpstreamDies: a backend that is terminated in the middle of a masked result ends the client's session cleanly.
func TestUpstreamDies(t *testing.T) {
	onEachProtected(t, func(t *testing.T, e *env) {
		conn := e.connect(t, analyst)
		pid := strings.TrimSpace(mustText(t, conn, `SELECT pg_backend_pid()`))
		go func() {
			time.Sleep(200 * time.Millisecond)
			_ = e.superuser(context.Background(), e.database, `SELECT pg_terminate_backend(`+pid+`)`)
		}()
		_, err := text(t, conn, `SELECT id, income, pg_sleep(0.01) FROM customers`)
		if code(err) != "57P01" {
			t.Errorf("%v, not 57P01", err)
		}
	})
}

// TestBigRows: rows larger than any buffer, masked columns among them.
func TestBigRows(t *testing.T) {
	onEachProtected(t, func(t *testing.T, e *env) {
		conn := e.connect(t, analyst)
		got := mustText(t, conn, `SELECT income, repeat('x', 5000000), id FROM customers WHERE id < 4 ORDER BY id`)
		if len(got) < 15_000_000 || !strings.HasSuffix(got, "x|3\n") {
			t.Errorf("%d bytes", len(got))
		}
		want := strings.SplitN(mustText(t, conn, `SELECT income FROM customers WHERE id = 1`), "\n", 2)[0]
		if !strings.HasPrefix(got, want+"|xxx") {
			t.Errorf("%.40s, want %s", got, want)
		}
	})
}

// TestAltered: a protected table that its owner alters goes on meaning what it says.
func TestAltered(t *testing.T) {
	onEachProtected(t, func(t *testing.T, e *env) {
		conn, owner := e.connect(t, analyst), e.connect(t, olga)
		masked := mustText(t, conn, `SELECT age FROM customers WHERE id = 1`)
		e.exec(t, owner, `ALTER TABLE customers RENAME region TO r`, `ALTER TABLE customers RENAME age TO region`, `ALTER TABLE customers RENAME r TO age`)
		again := func(query string) string {
			t.Helper()
			for range 2 { // refused once if a plan was kept
				if out, err := text(t, conn, query); err == nil {
					return out
				}
			}
			return mustText(t, conn, query)
		}
		if got, want := again(`SELECT age, region FROM customers WHERE id = 1`), "US|"+masked; got != want {
			t.Errorf("after names were swapped: %q, want %q", got, want)
		}
		e.exec(t, owner, `ALTER TABLE customers ADD COLUMN added text`)
		if got, want := again(`SELECT * FROM customers WHERE id = 1`), again(`SELECT id, age, region, income, score, vip, "Note" FROM customers WHERE id = 1`); got != want {
			t.Errorf("after a column was added: %q, want %q", got, want)
		}
	})
}

// TestLongStatements: text that would overflow the parser's stack neither ends the proxy nor shows anything; before
// authentication nothing is parsed at all.
func TestLongStatements(t *testing.T) {
	onEachProtected(t, func(t *testing.T, e *env) {
		for _, q := range []string{
			`SELECT income` + strings.Repeat(`+1`, 100_000) + ` FROM customers`,
			`SELECT income` + strings.Repeat(`::int`, 50_000) + ` FROM customers`,
			strings.Repeat(`(`, 50_000), `SELECT ` + strings.Repeat(`- `, 30_000) + `income FROM customers`,
		} {
			if _, err := text(t, e.connect(t, analyst), q); err == nil {
				t.Errorf("%.20s... was answered", q)
			}
		}
		conn, err := net.Dial("tcp", e.addr)
		if err != nil {
			t.Fatal(err)
		}
		defer func() { _ = conn.Close() }()
		startup, _ := (&pgproto3.StartupMessage{ProtocolVersion: 196608, Parameters: map[string]string{"user": "analyst", "database": e.database}}).Encode(nil)
		query, _ := (&pgproto3.Query{String: `SELECT 1` + strings.Repeat(`+1`, 300_000)}).Encode(nil)
		_, _ = conn.Write(append(startup, query...))
		_ = conn.SetReadDeadline(time.Now().Add(300 * time.Millisecond))
		for err == nil { // the server asks for a password and waits for it, as long as its authentication_timeout says
			_, err = conn.Read(make([]byte, 4096))
		}
		mustText(t, e.connect(t, analyst), `SELECT 1`)
	})
}

// TestStarOverStar: doubling columns ends where PostgreSQL's own limit does.
func TestStarOverStar(t *testing.T) {
	onEachProtected(t, func(t *testing.T, e *env) {
		q := `WITH a0 AS (SELECT income FROM customers WHERE false)`
		for i := 1; i < 40; i++ {
			q += fmt.Sprintf(`, a%d AS (SELECT x.*, y.* FROM a%d x, a%[2]d y)`, i, i-1)
		}
		if _, err := text(t, e.connect(t, analyst), q+` SELECT * FROM a39`); code(err) != "54011" && code(err) != "54001" {
			t.Error(err)
		}
		q = `WITH a0 AS (SELECT income FROM customers WHERE false)`
		for i := 1; i < 40; i++ {
			q += fmt.Sprintf(`, a%d AS (SELECT * FROM a%d UNION ALL SELECT * FROM a%[2]d)`, i, i-1)
		}
		if _, err := text(t, e.connect(t, analyst), q+` SELECT * FROM a39`); code(err) != "54001" {
			t.Error(err)
		}
	})
}

// TestNoticesBetweenRows: what PostgreSQL says between masked rows arrives.
func TestNoticesBetweenRows(t *testing.T) {
	onEachProtected(t, func(t *testing.T, e *env) {
		e.exec(t, e.admin(t), `CREATE FUNCTION say(i int) RETURNS int LANGUAGE plpgsql AS $$ BEGIN RAISE NOTICE 'row %', i; RETURN i; END $$`)
		cfg, err := pgx.ParseConfig(e.dsn(analyst))
		if err != nil {
			t.Fatal(err)
		}
		said := 0
		cfg.OnNotice = func(*pgconn.PgConn, *pgconn.Notice) { said++ }
		conn, err := pgx.ConnectConfig(t.Context(), cfg)
		if err != nil {
			t.Fatal(err)
		}
		defer func() { _ = conn.Close(t.Context()) }()
		got := mustText(t, conn, `SELECT say(id), income FROM customers WHERE id < 50`)
		if rows := strings.Count(got, "\n"); rows != 49 || said != 49 {
			t.Errorf("%d rows, %d notices", rows, said)
		}
	})
}

// TestUnsyncedWork: a refused simple query rolls back extended work that was not synced, as an error directly would.
func TestUnsyncedWork(t *testing.T) {
	onEachProtected(t, func(t *testing.T, e *env) {
		e.exec(t, e.admin(t), `CREATE TABLE notes (t text)`, `GRANT ALL ON notes TO analyst`)
		got := script(t, rawConn(t, e.dsn(analyst)), 1, &pgproto3.Parse{Query: `INSERT INTO notes VALUES ('lost')`}, &pgproto3.Bind{}, &pgproto3.Execute{},
			&pgproto3.Query{String: `SELECT ctid, * FROM customers`})
		if got != "12CE(0A000)ZI " {
			t.Error(got)
		}
		if got := mustText(t, e.connect(t, analyst), `SELECT count(*) FROM notes`); got != "0\n" {
			t.Errorf("%s rows were committed", got)
		}
	})
}
