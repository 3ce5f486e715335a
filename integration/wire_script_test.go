package integration_test

import (
	"bytes"
	"context"
	"encoding/binary"
	"fmt"
	"io"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/cockroachdb/datadriven"
	"github.com/jackc/pgx/v5"
)

// wireSQL is what the scripts find besides the template: nothing in it hangs on who created it.
const wireSQL = `
CREATE TABLE lines (n integer, note text);
CREATE TABLE refusing (n integer);
CREATE FUNCTION no() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RAISE EXCEPTION 'no'; END $$;
CREATE TRIGGER no BEFORE INSERT ON refusing FOR EACH STATEMENT EXECUTE FUNCTION no();
CREATE FUNCTION say(i integer) RETURNS integer LANGUAGE plpgsql AS $$ BEGIN RAISE NOTICE 'row %', i; RETURN i; END $$;
CREATE FUNCTION add(a integer, b integer) RETURNS integer LANGUAGE sql IMMUTABLE AS 'SELECT a + b';
GRANT ALL ON lines, refusing TO analyst, risk;
GRANT crew TO analyst, risk;
SET SESSION AUTHORIZATION olga;
SELECT scrim.create_masking_policy('p', 'customers', '{age,income,score}', '{risk}', 'enc');`

// twins is a database behind a proxy and its copy, with the same OIDs, on the bare server.
type twins struct {
	through *env
	bare    string // the copy's name
	printer printer
}

func newTwins(t *testing.T, w *world) *twins {
	t.Helper()
	watch(t)
	ctx := t.Context()
	base := fmt.Sprintf("wire_%d", w.made.Add(1))
	w.mu <- struct{}{}
	err := w.superuser(ctx, "postgres", `CREATE DATABASE `+base+` TEMPLATE template`,
		`DO $$ BEGIN CREATE ROLE crew; EXCEPTION WHEN duplicate_object THEN NULL; END $$`)
	<-w.mu
	if err != nil {
		t.Fatal(err)
	}
	run(t, w, base, wireSQL)
	tw := &twins{bare: base + "_bare", printer: printer{codes: map[string]string{}, relations: map[uint32]string{}}}
	names := []string{base + "_through", tw.bare}
	for _, name := range names {
		run(t, w, "postgres", `CREATE DATABASE `+name+` TEMPLATE `+base)
	}
	if tw.through, err = w.open(ctx, names[0], w.models); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		tw.through.close()
		for _, name := range append(names, base) {
			if err := w.superuser(context.Background(), "postgres", `DROP DATABASE `+name+` WITH (FORCE)`); err != nil {
				t.Error(err)
			}
		}
	})
	tw.learn(t)
	return tw
}

// run sends statements as one simple query of the superuser's, around the proxy.
func run(t testing.TB, w *world, database, statements string) {
	t.Helper()
	conn, err := pgx.Connect(t.Context(), w.server.DSN(w.server.Superuser(), w.server.Password(), database))
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = conn.Close(context.Background()) }()
	if _, err := conn.PgConn().Exec(t.Context(), statements).ReadAll(); err != nil {
		t.Fatalf("%s: %v", statements, explain(err))
	}
}

// learn asks for the codes of the first customers, in text and in binary, and for the relations' OIDs.
func (tw *twins) learn(t *testing.T) {
	t.Helper()
	for format, suffix := range []string{"", "-binary"} {
		conn := tw.through.connect(t, analyst)
		r := conn.PgConn().ExecParams(t.Context(), `SELECT id::text, age, income, score FROM customers WHERE id < 10`, nil, nil, nil, []int16{0, int16(format), int16(format), int16(format)})
		for r.NextRow() {
			v := r.Values()
			for i, column := range []string{"age", "income", "score"} {
				tw.printer.codes[string(v[i+1])] = fmt.Sprintf("%s(%s)%s", column, v[0], suffix)
			}
		}
		if _, err := r.Close(); err != nil {
			t.Fatal(explain(err))
		}
	}
	rows := strings.Fields(mustText(t, tw.through.admin(t), `SELECT oid, relname FROM pg_class WHERE relnamespace = 'public'::regnamespace`))
	for _, row := range rows {
		oid, name, _ := strings.Cut(row, "|")
		n, _ := strconv.Atoi(oid)
		tw.printer.relations[uint32(n)] = name
	}
}

// TestWireScripts runs testdata/wire/unmasked, and testdata/wire/both as an exempt and as a masked role, against the proxy
// and against bare PostgreSQL, on every server. Every byte of every answer must match, but for what another session would not
// get either:
//
//   - the server's nonce, salt and signature in a SCRAM exchange, which are random;
//   - process ID and secret in BackendKeyData (their lengths must match), the process ID in NotificationResponse.
//
// The golden says in short what the answers were, on the first server; wordings differ between versions. Directives:
//
//	connect                           a new pair of connections: a failure before it does not hide what follows
//	startup [half-close]              the same, with the startup packet in the input; prints the answer
//	send [size=N]                     messages (wire_language_test.go), in writes of N bytes if it says so
//	until [but=NAME] NAME... | EOF    the answers, up to the last of these messages, or to the end of the connection
//	other                             SQL of a superuser's in both databases; $PID is the session's
//	cancel, half-close, silent        a CancelRequest; the end of what the client sends; nothing comes for 100 ms
//
// Run with -rewrite to write the answers.
func TestWireScripts(t *testing.T) {
	onServers(t, func(t *testing.T, w *world) {
		tw := newTwins(t, w)
		for _, of := range []struct{ folder, role string }{{"unmasked", risk}, {"both", risk}, {"both", analyst}} {
			t.Run(of.folder+"/"+of.role, func(t *testing.T) {
				datadriven.Walk(t, "testdata/wire/"+of.folder, func(t *testing.T, path string) {
					runWireScript(t, &wireScript{twins: tw, role: of.role, golden: w == worlds[0] && of.role == risk}, path)
				})
			})
		}
	})
}

// TestMaskedScripts runs testdata/wire/masked through the proxy alone: masked columns have no bare twin, the script says
// what must come.
func TestMaskedScripts(t *testing.T) {
	onServers(t, func(t *testing.T, w *world) {
		tw := newTwins(t, w)
		datadriven.Walk(t, "testdata/wire/masked", func(t *testing.T, path string) {
			runWireScript(t, &wireScript{twins: tw, role: analyst, golden: true, alone: true}, path)
		})
	})
}

func runWireScript(t *testing.T, s *wireScript, path string) {
	datadriven.RunTest(t, path, s.directive)
	for _, wrong := range s.wrong {
		t.Error(wrong)
	}
}

// wireScript is one file as it runs.
type wireScript struct {
	*twins
	role   string
	golden bool           // the answers are to be compared with those in the file
	alone  bool           // there is no bare twin
	sides  [2]*wireClient // through the proxy, and directly; nil for one that takes no part any more
	wrong  []string
}

func (s *wireScript) directive(t *testing.T, d *datadriven.TestData) string {
	out := s.run(t, d)
	if !s.golden {
		return d.Expected
	}
	return out
}

func (s *wireScript) run(t *testing.T, d *datadriven.TestData) string {
	switch d.Cmd {
	case "connect":
		s.connect(t, d, fmt.Sprintf("Startup user=%s database=$DB", s.role))
	case "startup":
		return s.connect(t, d, d.Input)
	case "send":
		size := 0
		d.MaybeScanArgs(t, "size", &size)
		pieces, err := encodeScript(d.Input, size)
		if err != nil {
			d.Fatalf(t, "%v", err)
		}
		s.both(func(_ int, c *wireClient) { c.send(pieces) })
	case "until":
		return s.until(d)
	case "other":
		s.other(t, d.Input)
	case "cancel":
		s.both(func(side int, c *wireClient) { c.cancel(t, s.addr(side)) })
	case "half-close":
		s.both(func(_ int, c *wireClient) { halfClose(c.conn) })
	case "silent":
		var silent [2]bool
		s.both(func(side int, c *wireClient) { silent[side] = c.silent(100 * time.Millisecond) })
		if s.sides[0] != nil && s.sides[1] != nil && silent[0] != silent[1] {
			s.differ(d, "silence: %v through the proxy, %v directly", silent[0], silent[1])
		}
		return fmt.Sprintln(silent[0] || silent[1])
	default:
		d.Fatalf(t, "no such directive")
	}
	return ""
}

func (s *wireScript) addr(side int) string {
	if side == 0 {
		return s.through.addr
	}
	return s.through.server.Addr()
}

func (s *wireScript) database(side int) string {
	if side == 0 {
		return s.through.database
	}
	return s.bare
}

// both does something on either side at the same time: an answer that does not come costs its time once.
func (s *wireScript) both(do func(side int, c *wireClient)) {
	var wait sync.WaitGroup
	for side, c := range s.sides {
		if c != nil {
			wait.Go(func() { do(side, c) })
		}
	}
	wait.Wait()
}

// connect sends a startup packet, `Startup version=3.2 user=a database=$DB ...` or raw bytes, and logs in.
func (s *wireScript) connect(t *testing.T, d *datadriven.TestData, packet string) string {
	for side, c := range s.sides {
		if c != nil {
			_ = c.conn.Close()
		}
		s.sides[side] = dialWire(t, s.addr(side))
		if s.alone {
			break
		}
	}
	l, err := parseLine(packet)
	if err != nil {
		d.Fatalf(t, "%v", err)
	}
	var got [2][][]byte
	var ends [2]error
	s.both(func(side int, c *wireClient) {
		c.write(l.startup(s.database(side)))
		if d.HasArg("half-close") {
			halfClose(c.conn)
		}
		got[side], ends[side] = c.login(s.password(l.text("user")))
	})
	return s.compare(d, got, ends, "")
}

func (s *wireScript) password(user string) string {
	if user == s.through.server.Superuser() {
		return s.through.server.Password()
	}
	return user
}

func (l line) startup(database string) []byte {
	if l.verb == "raw" {
		b, _ := l.raw()
		return b
	}
	major, minor := 3, 0
	_, _ = fmt.Sscanf(l.text("version"), "%d.%d", &major, &minor)
	var params []string
	for _, name := range []string{"user", "database"} {
		if v, ok := l.named[name]; ok {
			params = append(params, name, strings.ReplaceAll(v[0].text, "$DB", database))
		}
	}
	for _, t := range l.plain { // "name" "value" ...
		params = append(params, t.text)
	}
	return startupPacket(uint32(major<<16|minor), params...)
}

func (s *wireScript) until(d *datadriven.TestData) string {
	var names []string
	but := ""
	for _, a := range d.CmdArgs {
		if a.Key == "but" {
			but = a.Vals[0]
			continue
		}
		names = append(names, a.Key)
	}
	var got [2][][]byte
	var ends [2]error
	s.both(func(side int, c *wireClient) { got[side], ends[side] = c.until(names) })
	return s.compare(d, got, ends, but)
}

// compare returns the answer as text, and notes if the twins' are not the same. Messages named but are
// neither printed nor compared: the script says why.
func (s *wireScript) compare(d *datadriven.TestData, got [2][][]byte, ends [2]error, but string) string {
	var texts [2]string
	var raw [2][]byte
	for side := range s.sides {
		got[side] = slices.DeleteFunc(got[side], func(msg []byte) bool { return messageName(msg) == but })
		for _, msg := range got[side] {
			raw[side] = append(raw[side], normalise(msg)...)
		}
		texts[side] = s.transcript(got[side], ends[side])
	}
	if s.alone {
		return texts[0]
	}
	if s.sides[0] != nil && (!bytes.Equal(raw[0], raw[1]) || texts[0] != texts[1]) {
		s.differ(d, "through the proxy:\n%s\ndirectly:\n%s\nbytes:\n%.600q\n%.600q", texts[0], texts[1], raw[0], raw[1])
	}
	return texts[1]
}

// differ notes that the twins went different ways. The bare one goes on alone: its answers are the golden.
func (s *wireScript) differ(d *datadriven.TestData, format string, args ...any) {
	s.wrong = append(s.wrong, fmt.Sprintf("%s: %s\n%s", d.Pos, d.FullCmd(), fmt.Sprintf(format, args...)))
	_ = s.sides[0].conn.Close()
	s.sides[0] = nil
}

func (s *wireScript) transcript(got [][]byte, end error) string {
	var b strings.Builder
	for i, msg := range got {
		if text := s.printer.print(msg); !longRun(got, i) {
			b.WriteString(text + "\n")
		}
	}
	if end == io.EOF { //nolint:errorlint // one that is wrapped came in the middle of a message
		b.WriteString("EOF\n")
	} else if end != nil {
		fmt.Fprintln(&b, "then", end)
	}
	return b.String()
}

// longRun leaves out all but the ends of a long row of messages of one type.
func longRun(got [][]byte, i int) bool {
	const shown = 4
	if i < shown || i+shown >= len(got) {
		return false
	}
	for _, msg := range got[i-shown : i+shown+1] {
		if msg[0] != got[i][0] {
			return false
		}
	}
	return true
}

// normalise takes out what is another in each session. TestWireScripts says why each.
func normalise(msg []byte) []byte {
	msg = bytes.Clone(msg)
	switch {
	case msg[0] == 'R' && binary.BigEndian.Uint32(msg[5:]) > 10:
		clear(msg[9:])
	case msg[0] == 'K':
		clear(msg[5:])
	case msg[0] == 'A':
		clear(msg[5:9])
	}
	return msg
}

// other runs SQL beside the session, in its database.
func (s *wireScript) other(t *testing.T, sql string) {
	s.both(func(side int, c *wireClient) {
		run(t, s.through.world, s.database(side), strings.ReplaceAll(sql, "$PID", fmt.Sprint(c.pid())))
	})
}
