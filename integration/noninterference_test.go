package integration_test

import (
	"bytes"
	"context"
	"crypto/sha256"
	"fmt"
	"math/rand/v2"
	"os"
	"regexp"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
)

// TestNonInterference: twins, two databases whose masks are equal and whose raw values are not, answer every statement of
// the masked role alike, byte for byte. The statements are generated (wishes_test.go); TestNonInterferenceSqlsmith has
// others. With SCRIM_FUZZ=20000 each of the two runs that many, on all servers together.
func TestNonInterference(t *testing.T) {
	onServers(t, func(t *testing.T, w *world) { w.compareTwins(t, wishes(fuzz(t, 100))) })
}

// fuzz is how many dialogues a test holds with each twin of a server: a share of SCRIM_FUZZ, or otherwise.
func fuzz(t *testing.T, otherwise int) int {
	t.Helper()
	if s := os.Getenv("SCRIM_FUZZ"); s != "" {
		n, err := strconv.Atoi(s)
		if err != nil {
			t.Fatal(err)
		}
		return n / len(worlds)
	}
	return otherwise
}

// dialogue is what one session says, message by message.
type dialogue struct {
	messages []string
	// args are the text parameters of each message of the extended protocol.
	args     []string
	extended bool
}

func (d dialogue) String() string {
	text := strings.Join(d.messages, ";\n")
	if d.extended {
		return fmt.Sprintf("%s\nby the extended protocol with %q", text, d.args)
	}
	return text
}

// An encoder clips what is ten deviations from the mean of what it was trained on, and takes what is missing for the
// mean. So there are three classes of raw values with one code each. The training data makes their borders exact.
const trainingSQL = `
CREATE TABLE people (id integer PRIMARY KEY, region text NOT NULL, age integer, income numeric(12,2), score double precision, vip boolean,
	note text, phone text, born date, paid integer) WITH (autovacuum_enabled = off);
ALTER TABLE people ALTER note SET STORAGE PLAIN;
INSERT INTO people SELECT i, 'EU', 40 + (i & 1) * 20 - 10, 50000 + (i & 2) * 10000 - 10000, 500 + (i & 4) * 50 - 100, i & 8 = 0 FROM generate_series(1, 256) i;
CREATE TABLE wages (id integer PRIMARY KEY, person integer, amount numeric, memo text) WITH (autovacuum_enabled = off);
ALTER TABLE wages ALTER memo SET STORAGE PLAIN;
INSERT INTO wages SELECT i, i, (i & 1) * 2000 - 1000 FROM generate_series(1, 256) i;
CREATE INDEX people_region ON people (region, id);
GRANT SELECT, DELETE, UPDATE (region, note) ON people TO analyst;
GRANT SELECT ON wages TO analyst, risk;
CREATE STATISTICS people_statistics ON age, income FROM people;
CREATE VIEW invoked WITH (security_invoker) AS SELECT * FROM people;
GRANT SELECT ON invoked TO analyst;
ALTER TABLE orders SET (autovacuum_enabled = off);
`

var trainingScrim = []string{
	`CREATE ENCODER people ON people (age, income, score, vip) PASSTHROUGH (id, region) WITH (latent_dims = 4, epochs = 2, batch_size = 64, seed = 1, allow_identifiers = true) WAIT`,
	`CREATE ENCODER wages ON wages (amount) WITH (latent_dims = 3, epochs = 2, batch_size = 64, seed = 1) WAIT`,
	`TRUNCATE people, wages`,
	`CREATE MASKING POLICY people ON people (age, income, score) EXCEPT risk USING ENCODER people`,
	`CREATE MASKING POLICY phones ON people (phone) USING (scrim.partial(phone, 2, '**', 1))`,
	`CREATE MASKING POLICY others ON people (born) EXCEPT risk USING (scrim.generalize(born, 'month'))`,
	`CREATE MASKING POLICY paid ON people (paid) USING (scrim.bucket(paid, 100))`,
	`CREATE MASKING POLICY wages ON wages (amount) EXCEPT risk USING ENCODER wages`,
	`CREATE FEATURE VIEW traits FOR ENCODER people`,
	`CREATE FEATURE VIEW paid FOR ENCODER wages`,
}

// class is a set of raw values, in SQL, that have the same code.
type class []string

// Above the mean by at least ten deviations, below it, at the mean or missing.
var (
	ages = []class{
		{"140", "141", "99999", "2147483647"}, {"-60", "-61", "-70000", "-2147483648"}, {"NULL", "40"},
	}
	incomes = []class{
		{"150000", "150000.01", "9999999999.99", "7777777"}, {"-50000", "-50000.01", "-9999999999.99", "-123456"}, {"NULL", "50000", "'NaN'"},
	}
	scores = []class{
		{"1500", "1500.0625", "1e308", "'Infinity'"}, {"-500", "-1e9", "-1e308", "'-Infinity'"}, {"NULL", "500", "'NaN'"},
	}
	amounts = []class{
		{"10000", "1e5", "1e400", "'Infinity'"}, {"-10000", "-1e5", "-1e400", "'-Infinity'"}, {"NULL", "0", "0.000", "'NaN'", "1e-400"},
	}
)

// fill makes the rows of one of the twins. What both have comes from shared, what they do not from own. Between the rows
// are others, deleted in the end, that are too wide for two to share a page. So each row is at the same ctid in both,
// however wide it is, and with it the planner's estimates and the order in which rows are met are the same. They are
// excepted from the promise, and would drown what is not.
func fill(shared, own *rand.Rand) string {
	of := func(classes []class, alike string) string {
		if shared.IntN(6) == 0 {
			return alike
		}
		c := classes[shared.IntN(len(classes))]
		return c[own.IntN(len(c))]
	}
	var b strings.Builder
	for i := 1; i <= 60; i++ {
		age, income, score := strconv.Itoa(shared.IntN(100)), strconv.Itoa(shared.IntN(90000)), strconv.Itoa(shared.IntN(900))
		fmt.Fprintf(&b, "INSERT INTO people VALUES (%d, '%s', %s, %s, %s, %t, 'note %d', %s);\n", i, []string{"EU", "US", "APAC"}[shared.IntN(3)],
			of(ages, age), of(incomes, income), of(scores, score), shared.IntN(2) == 0, shared.IntN(100), underSQLMasks(shared, own))
		if i%2 == 0 {
			fmt.Fprintf(&b, "INSERT INTO wages VALUES (%d, %d, %s);\n", i, shared.IntN(80), of(amounts, strconv.Itoa(shared.IntN(9000))))
		}
		fmt.Fprintf(&b, "INSERT INTO people (id, region, note) VALUES (-%d, '', repeat('x', 5000));\nINSERT INTO wages (id, memo) VALUES (-%d, repeat('x', 5000));\n", i, i)
	}
	return b.String() + "DELETE FROM people WHERE id < 0;\nDELETE FROM wages WHERE id < 0;"
}

// underSQLMasks makes a phone number, a day of birth and a sum, of which the masks leave some digits, the month and the hundreds.
func underSQLMasks(shared, own *rand.Rand) string {
	if shared.IntN(9) == 0 {
		return "NULL, NULL, NULL"
	}
	return fmt.Sprintf("'%d%06d%d', '2020-%02d-%02d', %d", 10+shared.IntN(20), own.IntN(1000000), shared.IntN(3), 1+shared.IntN(12), 1+own.IntN(28), (shared.IntN(8)-3)*100+own.IntN(100))
}

// compareTwins sends dialogues to both twins and compares what they answer.
//
// The twins are copies of one database, so that their OIDs are equal, and have the same name, one after the other. Nothing
// is analyzed before the last statements: statistics of raw values may make another plan, which is excepted.
func (w *world) compareTwins(t *testing.T, dialogues []dialogue) {
	base := w.fresh(t)
	owner := base.connect(t, olga)
	base.exec(t, owner, trainingSQL)
	stop, err := startWorker(t.Context(), base, nil)
	if err != nil {
		t.Fatal(err)
	}
	base.exec(t, owner, trainingScrim...)
	stop()
	_ = owner.Close(t.Context()) // a template must have no sessions
	base.close()
	name := fmt.Sprintf("twin_%d", w.made.Add(1))
	var twins [2]*sibling
	for i := range twins {
		twins[i] = w.runSibling(t, base, name, uint64(i), dialogues)
	}
	a, b := twins[0], twins[1]
	if a.layout != b.layout || a.codes != b.codes {
		t.Fatal("the twins' masks or layouts are not equal")
	}
	if n := strings.Count(a.codes, "\n"); n != 90 {
		t.Fatalf("%d rows", n)
	}
	for col := range a.raw {
		if equal := countEqual(a.raw[col], b.raw[col]); 3*equal > 2*len(a.raw[col]) {
			t.Fatalf("%d of %d raw values in masked column %d are equal", equal, len(a.raw[col]), col)
		}
	}
	succeeded, slow, differ := 0, 0, 0
	dialogues = append(dialogues, afterAnalyze()...)
	for i, d := range dialogues {
		switch x, y := a.answers[i], b.answers[i]; {
		case x.slow || y.slow:
			slow++
		case x.text != y.text:
			differ++
			t.Errorf("the twins differ in\n%s\n%s", d, parting(x.text, y.text))
		case !x.failed:
			succeeded++
		}
	}
	t.Logf("%d dialogues: %d succeeded, %d ran into statement_timeout, %d differ", len(dialogues), succeeded, slow, differ)
	if 3*succeeded < len(dialogues) {
		t.Error("less than a third succeeded: that compares too little")
	}
}

func countEqual(a, b []string) int {
	n := 0
	for i := range a {
		if a[i] == b[i] {
			n++
		}
	}
	return n
}

// parting shows two answers from a little before where they part.
func parting(a, b string) string {
	n := 0
	for n < min(len(a), len(b)) && a[n] == b[n] {
		n++
	}
	n = max(0, n-200)
	return fmt.Sprintf("one from byte %d on:\n%.1000s\nthe other:\n%.1000s", n, a[n:], b[n:])
}

// sibling is what is known of one.
type sibling struct {
	layout  string      // seen by the superuser
	codes   string      // seen by the masked role
	raw     [7][]string // of each masked column
	answers []answer
}

type answer struct {
	text         string
	failed, slow bool
}

func (w *world) runSibling(t *testing.T, base *env, name string, seed uint64, dialogues []dialogue) *sibling {
	w.mu <- struct{}{}
	err := w.superuser(t.Context(), "postgres", "CREATE DATABASE "+name+" TEMPLATE "+base.database)
	<-w.mu
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := w.superuser(context.Background(), "postgres", "DROP DATABASE "+name+" WITH (FORCE)"); err != nil {
			t.Error(err)
		}
	}()
	e, err := w.open(t.Context(), name, base.models)
	if err != nil {
		t.Fatal(err)
	}
	defer e.close()
	admin := e.admin(t)
	// Each INSERT is a transaction: rows have an xmin of their own.
	e.exec(t, admin, strings.SplitAfter(fill(rand.New(rand.NewPCG(1, 1)), rand.New(rand.NewPCG(2, seed))), ";\n")...)
	tw := &sibling{
		layout: mustText(t, admin, `SELECT ctid, id FROM people`) + mustText(t, admin, `SELECT ctid, id FROM wages`) + mustText(t, admin, `SELECT relpages, reltuples, oid FROM pg_class WHERE oid > 16383 ORDER BY oid`),
	}
	for i, q := range []string{`SELECT age FROM people`, `SELECT income FROM people`, `SELECT score FROM people`, `SELECT amount FROM wages`, `SELECT phone FROM people`, `SELECT born FROM people`, `SELECT paid FROM people`} {
		tw.raw[i] = strings.Split(mustText(t, admin, q), "\n")
	}
	s := &speaker{e: e}
	if err := admin.QueryRow(t.Context(), `SELECT max(oid) FROM pg_class`).Scan(&s.newest); err != nil {
		t.Fatal(err)
	}
	s.dial(t)
	tw.codes = mustText(t, s.conn, `SELECT * FROM people`) + mustText(t, s.conn, `SELECT * FROM wages`)
	for _, d := range dialogues {
		tw.answers = append(tw.answers, s.run(t, d))
	}
	e.exec(t, admin, `ANALYZE people, wages`)
	for _, d := range afterAnalyze() {
		tw.answers = append(tw.answers, s.run(t, d))
	}
	return tw
}

// noise is what differs between any two sessions: the schema of their temporary tables, and numbers of transactions, which
// EXPLAIN (VERBOSE) of a staged statement shows.
var noise = regexp.MustCompile(`\bpg_temp_\d+|'\{[\d,]*\}'::xid\[\]|\btime=[\d.]+ ms`)

// speaker runs dialogues as the masked role and writes down all that comes back.
type speaker struct {
	e      *env
	newest uint32 // the last relation that both twins have
	conn   *pgx.Conn
	heard  bytes.Buffer
	answer answer
}

func (s *speaker) dial(t *testing.T) {
	t.Helper()
	cfg, err := pgx.ParseConfig(s.e.dsn(analyst))
	if err != nil {
		t.Fatal(err)
	}
	// Left out: what is stopped by time, and plans whose rows come in the order of a race. JIT would only take time.
	for name, value := range map[string]string{"statement_timeout": "1s", "max_parallel_workers_per_gather": "0", "jit": "off", "timezone": "UTC"} {
		cfg.RuntimeParams[name] = value
	}
	cfg.OnNotification = func(_ *pgconn.PgConn, n *pgconn.Notification) { fmt.Fprintln(&s.heard, n.Channel, n.Payload) }
	cfg.OnNotice = func(_ *pgconn.PgConn, n *pgconn.Notice) { fmt.Fprintf(&s.heard, "%+v\n", *n) }
	if s.conn, err = pgx.ConnectConfig(t.Context(), cfg); err != nil {
		t.Fatal(explain(err))
	}
	t.Cleanup(func() { _ = s.conn.Close(context.Background()) })
}

func (s *speaker) run(t *testing.T, d dialogue) answer {
	t.Helper()
	s.heard.Reset()
	s.answer = answer{}
	for _, m := range d.messages {
		s.say(t, m, d)
		if s.conn.IsClosed() {
			t.Errorf("the connection ended at\n%s\n%s", d, s.heard.String())
			s.dial(t)
			return s.answer
		}
	}
	s.answer.text = noise.ReplaceAllString(s.heard.String(), "…")
	if n := 4096; len(s.answer.text) > n {
		s.answer.text = fmt.Sprintf("%s\n%x", s.answer.text[:n], sha256.Sum256([]byte(s.answer.text)))
	}
	if s.conn.PgConn().TxStatus() != 'I' {
		s.e.exec(t, s.conn, `ROLLBACK`)
	}
	if len(d.messages) > 1 {
		s.e.exec(t, s.conn, `DISCARD ALL`)
	}
	return s.answer
}

func (s *speaker) say(t *testing.T, message string, d dialogue) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second) // far more than statement_timeout: for what hangs
	defer cancel()
	conn := s.conn.PgConn()
	switch {
	case strings.HasPrefix(message, "COPY"):
		tag, err := conn.CopyTo(ctx, &s.heard, message)
		s.ended(tag, err)
	case d.extended:
		var args [][]byte
		for _, a := range d.args {
			args = append(args, []byte(a))
		}
		s.ended(s.result(conn.ExecParams(ctx, message, args, nil, nil, []int16{1})))
	default:
		all := conn.Exec(ctx, message)
		for all.NextResult() {
			s.ended(s.result(all.ResultReader()))
		}
		if err := all.Close(); err != nil {
			s.ended(pgconn.CommandTag{}, err)
		}
	}
}

func (s *speaker) result(r *pgconn.ResultReader) (pgconn.CommandTag, error) {
	for i, f := range r.FieldDescriptions() {
		if i == 0 {
			s.heard.WriteString("description:")
		}
		if f.TableOID > s.newest { // a temporary table's
			f.TableOID = 0
		}
		fmt.Fprintf(&s.heard, " %+v", f)
	}
	for r.NextRow() {
		s.heard.WriteByte('\n')
		for _, v := range r.Values() {
			if v == nil {
				s.heard.WriteString("∅")
			}
			fmt.Fprintf(&s.heard, "%q|", v)
		}
	}
	return r.Close()
}

func (s *speaker) ended(tag pgconn.CommandTag, err error) {
	fmt.Fprintf(&s.heard, "\n%s\n", tag)
	if err == nil {
		return
	}
	s.answer.failed = true
	s.answer.slow = s.answer.slow || code(err) == "57014"
	var pgErr *pgconn.PgError
	if asError(err, &pgErr) {
		fmt.Fprintf(&s.heard, "%+v\n", *pgErr)
	} else {
		fmt.Fprintln(&s.heard, err)
	}
}
