package integration_test

import (
	"fmt"
	"math"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgtype"

	"github.com/scrimdb/scrim/udf"
)

// What of a table becomes a number, and what training makes of bad data.

// eventsSQL has a column of each type that is not a number; 300 rows to train on, with a few NULLs.
const eventsSQL = `
CREATE TABLE events (id integer PRIMARY KEY, day date, at timestamp, seen timestamptz, took interval, fee numeric);
INSERT INTO events SELECT i, CASE WHEN i % 19 <> 0 THEN date '2021-03-14' + i * 5 END,
	CASE WHEN i % 23 <> 0 THEN timestamp '1999-12-31 23:59:59.999999' + i * interval '37 hours 11.000001 seconds' END,
	timestamptz '2019-10-27 00:30:00.25+00' + i * interval '101 minutes 0.125 seconds',
	make_interval(years => i % 3, months => i % 14, days => i % 40, secs => i * 61.000001), i * 1.25
	FROM generate_series(1, 300) i;
CREATE INDEX events_day ON events (day);
GRANT SELECT ON events TO analyst;
`

// laterSQL is what no row of the training had, and what PostgreSQL's own arithmetic raises on.
const laterSQL = `
INSERT INTO events VALUES (301, 'infinity', 'infinity', 'infinity', '178000000 years', 'Infinity'),
	(302, '-infinity', '-infinity', '-infinity', '-178000000 years', '-Infinity'),
	(303, '4713-01-01 BC', '4713-01-01 00:00:00 BC', '4713-01-01 00:00:00+00 BC', '-1 mons 1 day -00:00:00.000001', 'NaN'),
	(304, '5874897-12-31', '294276-12-31 23:59:59.999999', '294276-12-31 23:59:59.999999+00', '1 mons -1 day', 1e5000),
	(305, NULL, NULL, NULL, NULL, NULL),
	(306, '2000-01-01', '2000-01-01', '2000-01-01 00:00:00+00', '0', 1e-5000),
	(307, '2000-02-29', '2000-01-01 00:00:00.000001', '2000-01-01 00:00:00+01', '1 year', -1e5000)`

// makeEvents makes the table, an encoder of all its columns and a policy, and adds the rows that come later.
func makeEvents(t *testing.T, e *env) {
	t.Helper()
	e.trains(t)
	e.exec(t, e.directly(t, olga), eventsSQL)
	e.exec(t, e.connect(t, olga), `CREATE ENCODER events ON events (day, at, seen, took, fee) WITH (latent_dims = 5, epochs = 2, batch_size = 64) WAIT`,
		laterSQL, `CREATE MASKING POLICY p ON events (day, at, seen, took, fee) USING ENCODER events`)
}

const since1970 = 946684800 // 2000-01-01

// numbers are the features of all rows of events, computed here from what pgx reads.
func numbers(t *testing.T, conn *pgx.Conn) map[int32][]float64 {
	t.Helper()
	infinite := func(m pgtype.InfinityModifier, otherwise float64) float64 {
		if m != pgtype.Finite {
			return math.Inf(int(m))
		}
		return otherwise
	}
	seconds := func(at time.Time) float64 { // PostgreSQL has whole microseconds since 2000, of which the last are not an int64 since 1970
		micro := (at.Unix()-since1970)*1e6 + int64(at.Nanosecond()/1000)
		if micro > math.MaxInt64-since1970*1e6 {
			return (float64(micro)+since1970*1e6)/1e6 - since1970
		}
		return float64(micro+since1970*1e6)/1e6 - since1970
	}
	rows, err := conn.Query(t.Context(), `SELECT id, day, day - date '2000-01-01', at, seen, took, fee::text FROM events WHERE isfinite(day) OR day IS NULL
		UNION ALL SELECT id, day, NULL, at, seen, took, fee::text FROM events WHERE NOT isfinite(day)`)
	if err != nil {
		t.Fatal(err)
	}
	all := map[int32][]float64{}
	for rows.Next() {
		var (
			id   int32
			day  pgtype.Date
			days *int32
			at   pgtype.Timestamp
			seen pgtype.Timestamptz
			took pgtype.Interval
			fee  *string
		)
		if err := rows.Scan(&id, &day, &days, &at, &seen, &took, &fee); err != nil {
			t.Fatal(err)
		}
		row := make([]float64, 5)
		for i := range row {
			row[i] = math.NaN()
		}
		switch {
		case days != nil:
			row[0] = float64(*days) * 86400
		case day.Valid:
			row[0] = math.Inf(int(day.InfinityModifier))
		}
		if at.Valid {
			row[1] = infinite(at.InfinityModifier, seconds(at.Time))
		}
		if seen.Valid {
			row[2] = infinite(seen.InfinityModifier, seconds(seen.Time))
		}
		if took.Valid {
			row[3] = float64(took.Microseconds)/1e6 + 365.25*86400*float64(took.Months/12) + 30*86400*float64(took.Months%12) + 86400*float64(took.Days)
		}
		if fee != nil {
			switch v := *fee; {
			case len(v) > 5000 && v[0] == '-':
				row[4] = math.Inf(-1)
			case len(v) > 5000 && v[0] == '1':
				row[4] = math.Inf(1)
			case len(v) > 5000:
				row[4] = 0
			default:
				if _, err := fmt.Sscan(v, &row[4]); err != nil {
					t.Fatal(v, err)
				}
			}
		}
		all[id] = row
	}
	if rows.Err() != nil {
		t.Fatal(explain(rows.Err()))
	}
	if len(all) != 307 {
		t.Fatalf("%d rows", len(all))
	}
	return all
}

// TestFeaturesOfTime: training and the mask make the same numbers of dates, timestamps and intervals, those that the README says: what
// the analyst sees is what the model file says of them, whatever the settings, and nothing raises. NULL is not zero, though both are sealed
// in eight bytes.
func TestFeaturesOfTime(t *testing.T) {
	onEach(t, func(t *testing.T, e *env) {
		makeEvents(t, e)
		admin := e.admin(t)
		raw := numbers(t, admin)

		var hash string
		if err := admin.QueryRow(t.Context(), `SELECT sha256 FROM scrim.encoder_versions WHERE encoder = 'events'`).Scan(&hash); err != nil {
			t.Fatal(err)
		}
		store, err := udf.NewStore(e.models)
		if err != nil {
			t.Fatal(err)
		}
		encoder, err := e.rt.LoadEncoder(udf.EncoderSpec{Name: "events", Version: 1, Path: store.Path("events", 1, hash), SHA256: hash, Inputs: 5, Dims: 5})
		if err != nil {
			t.Fatal(err)
		}
		defer func() { _ = encoder.Close() }()
		want := map[int32][]float64{}
		distinct := map[string]bool{}
		for id, row := range raw {
			code := make([]float32, 5)
			if err := encoder.Encode(code, row); err != nil {
				t.Fatal(err)
			}
			for _, c := range code {
				want[id] = append(want[id], float64(c))
			}
			distinct[fmt.Sprint(code)] = true
		}
		if len(distinct) < 300 {
			t.Errorf("only %d codes of 307 rows", len(distinct))
		}

		conn := e.connect(t, analyst)
		for _, setting := range []string{
			`TimeZone = 'UTC'`, `TimeZone = 'Asia/Kathmandu'`, `TimeZone = 'America/St_Johns'`, `DateStyle = 'German, DMY'`, `DateStyle = 'SQL, MDY'`,
			`IntervalStyle = 'iso_8601'`, `IntervalStyle = 'sql_standard'`, `lc_time = 'C'`, `extra_float_digits = -10`,
		} {
			e.exec(t, conn, `SET `+setting)
			for _, query := range []string{`SELECT id, day, at, seen, took, fee FROM events`, `SELECT id, day + 0, at + 0, seen + 0, took + 0, fee + 0 FROM events`} {
				rows, err := conn.Query(t.Context(), query, pgx.QueryResultFormats{1})
				if err != nil {
					t.Fatal(err)
				}
				seen := 0
				for rows.Next() {
					var id int32
					code := make([]float64, 5)
					if err := rows.Scan(&id, &code[0], &code[1], &code[2], &code[3], &code[4]); err != nil {
						t.Fatal(err)
					}
					seen++
					if !slices.Equal(code, want[id]) {
						t.Errorf("%s: %s: row %d, features %v:\n%v through the mask\n%v by the model", setting, query, id, raw[id], code, want[id])
					}
				}
				if rows.Err() != nil || seen != 307 {
					t.Fatalf("%s: %s: %d rows, %s", setting, query, seen, explain(rows.Err()))
				}
			}
		}

		// The view is flattened: the key's index is used, and nothing stands between it and the limit.
		e.exec(t, conn, `SET enable_seqscan = off`, `SET enable_bitmapscan = off`)
		plan := mustText(t, conn, `EXPLAIN SELECT id, day, took FROM events WHERE id > 290 ORDER BY id LIMIT 3`)
		if !strings.Contains(plan, "Index Cond: (id > 290)") || strings.Contains(plan, "Sort") || strings.Contains(plan, "Subquery Scan") {
			t.Errorf("not flattened:\n%s", plan)
		}
		// Whatever is in it, a seal has one length.
		view := strings.TrimSpace(mustText(t, admin, `SELECT masked_view::regclass FROM scrim_state.protections`))
		lengths := map[int]bool{}
		for _, s := range seals(t, e.directly(t, analyst), `SELECT sealed_1 FROM `+view) {
			lengths[len(s)] = true
		}
		if len(lengths) != 1 {
			t.Errorf("seals of different lengths: %v", lengths)
		}
	})
}

// TestFeatureExpression: the numbers themselves, to the last bit, by the expression alone; and the volatility of all it calls.
func TestFeatureExpression(t *testing.T) {
	onEach(t, func(t *testing.T, e *env) {
		admin := e.admin(t)
		e.exec(t, admin, `CREATE TABLE one (d date, ts timestamp, tz timestamptz, i interval, b bool, n numeric, m numeric(10,2), r real)`)
		inf, year := math.Inf(1), 365.25*86400
		cases := []struct {
			column, value string
			want          float64
		}{
			{"d", "2000-01-01", 0},
			{"d", "1999-12-31", -86400},
			{"d", "2024-02-29", 8825 * 86400},
			{"d", "infinity", inf},
			{"d", "-infinity", -inf},
			{"d", "4713-01-01 BC", -2451507 * 86400},
			{"d", "4714-11-24 BC", -2451545 * 86400},
			{"tz", "4714-11-24 00:00+00 BC", -2451545 * 86400},
			{"ts", "4714-11-24 BC", -2451545 * 86400},
			{"tz", "294276-12-31 23:59:59+00", 106751982*86400 + 86399},
			{"n", "Infinity", inf},
			{"n", "-Infinity", -inf},
			{"d", "5874897-12-31", 2145031948 * 86400},
			{"ts", "2000-01-01", 0},
			{"ts", "2000-01-01 00:00:00.5", 0.5},
			{"ts", "1970-01-01", -since1970},
			{"ts", "2024-02-29 12:00", 8825.5 * 86400},
			{"ts", "infinity", inf},
			{"ts", "-infinity", -inf},
			{"ts", "294276-12-31 23:59:59", 106751982*86400 + 86399},
			{"tz", "2000-01-01 00:00+00", 0},
			{"tz", "2000-01-01 00:00+05:30", -19800},
			{"tz", "infinity", inf},
			{"tz", "-infinity", -inf},
			{"i", "1 day", 86400},
			{"i", "1 month", 30 * 86400},
			{"i", "1 year", year},
			{"i", "-1 month 1 hour 0.25 seconds", -30*86400 + 3600.25},
			{"i", "178000000 years", 178000000 * year},
			{"b", "true", 1},
			{"b", "false", 0},
			{"n", "1e5000", inf},
			{"n", "-1e5000", -inf},
			{"n", "1e-5000", 0},
			{"n", "NaN", math.NaN()},
			{"n", "0.1", 0.1},
			{"m", "-12345678.91", -12345678.91},
			{"m", "NaN", math.NaN()},
			{"r", "0.1", float64(float32(0.1))},
		}
		if e.binaries.Major >= 17 {
			cases = append(cases, cases[0])
			last := &cases[len(cases)-1]
			last.column, last.value, last.want = "i", "infinity", inf
		}
		for _, zone := range []string{"UTC", "Asia/Tokyo"} {
			e.exec(t, admin, `SET TimeZone = '`+zone+`'`)
			for _, c := range cases {
				e.exec(t, admin, `TRUNCATE one`, fmt.Sprintf(`INSERT INTO one (%s) VALUES ('%s')`, c.column, c.value))
				for _, column := range []string{"d", "ts", "tz", "i", "b", "n", "m", "r"} {
					var query string
					if err := admin.QueryRow(t.Context(), `SELECT scrim.feature_query('one', ARRAY[$1])`, column).Scan(&query); err != nil {
						t.Fatal(explain(err))
					}
					var got *float64
					if err := admin.QueryRow(t.Context(), query).Scan(&got); err != nil {
						t.Fatalf("%s of %s: %s", query, c.value, explain(err))
					}
					if column != c.column {
						if got != nil {
							t.Errorf("%s: NULL is %v", column, *got)
						}
						continue
					}
					if got == nil {
						t.Errorf("%s %s is NULL", c.column, c.value)
					} else if *got != c.want && !(math.IsNaN(*got) && math.IsNaN(c.want)) {
						t.Errorf("%s %s is %v, not %v", c.column, c.value, *got, c.want)
					}
				}
			}
		}
		// An index takes immutable expressions only.
		for _, column := range []string{"d", "ts", "tz", "i", "b", "n", "m", "r"} {
			query := strings.TrimSpace(mustText(t, admin, `SELECT scrim.feature_query('one', ARRAY['`+column+`'])`))
			expression := strings.ReplaceAll(strings.TrimSuffix(strings.TrimPrefix(query, "SELECT "), " FROM public.one t"), "t."+column, column)
			e.exec(t, admin, `CREATE INDEX ON one ((`+expression+`))`)
		}
	})
}

// TestFeaturesUnderAnySearchPath: what is in front of pg_catalog in the trainer's search_path does not change what training reads.
func TestFeaturesUnderAnySearchPath(t *testing.T) {
	onEach(t, func(t *testing.T, e *env) {
		admin := e.admin(t)
		e.exec(t, e.directly(t, olga), eventsSQL)
		e.exec(t, admin, `CREATE SCHEMA evil AUTHORIZATION olga`)
		e.trains(t)
		owner := e.connect(t, olga)
		e.exec(t, owner, `CREATE FUNCTION evil.date_part(text, timestamp) RETURNS float8 IMMUTABLE LANGUAGE sql AS 'SELECT 1::float8'`,
			`CREATE FUNCTION evil.date_part(text, interval) RETURNS float8 IMMUTABLE LANGUAGE sql AS 'SELECT 1::float8'`,
			`CREATE FUNCTION evil.timezone(interval, timestamptz) RETURNS timestamp IMMUTABLE LANGUAGE sql AS 'SELECT ''2000-01-01''::timestamp'`,
			`CREATE FUNCTION evil.isfinite(date) RETURNS bool IMMUTABLE LANGUAGE sql AS 'SELECT false'`,
			`CREATE FUNCTION evil.no(numeric, numeric) RETURNS bool IMMUTABLE LANGUAGE sql AS 'SELECT true'`,
			`CREATE OPERATOR evil.= (LEFTARG = numeric, RIGHTARG = numeric, FUNCTION = evil.no)`,
			`CREATE DOMAIN evil.float8 AS float4`)
		hash := func(search string) string {
			e.exec(t, owner, `SET search_path = `+search, `CREATE ENCODER x ON public.events (day, at, seen, took, fee) WITH (latent_dims = 2, epochs = 1) WAIT`, `RESET search_path`)
			h := mustText(t, owner, `SELECT sha256 FROM scrim.encoder_versions WHERE encoder = 'x'`)
			e.exec(t, owner, `DROP ENCODER x`)
			return h
		}
		if plain, shadowed := hash("public"), hash("evil, pg_catalog, public"); plain != shadowed {
			t.Error("a search_path changed the encoder")
		}
	})
}

// listener connects through the proxy and collects what it is told, but for how training goes.
func listener(t *testing.T, e *env, role string) (conn *pgx.Conn, heard *[]string) {
	t.Helper()
	cfg, err := pgx.ParseConfig(e.dsn(role))
	if err != nil {
		t.Fatal(err)
	}
	heard = &[]string{}
	cfg.OnNotice = func(_ *pgconn.PgConn, n *pgconn.Notice) {
		if !strings.HasPrefix(n.Message, "training [") && !strings.HasPrefix(n.Message, "trained on ") {
			*heard = append(*heard, n.Severity+" "+n.Code+": "+n.Message)
		}
	}
	conn, err = pgx.ConnectConfig(t.Context(), cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close(t.Context()) })
	return conn, heard
}

// trial is CREATE ENCODER with what comes of it: notices, or an error.
type trial struct {
	on      string // behind ON
	heard   []string
	refusal string // SQLSTATE: message
	hint    string
}

// tryAll makes the encoder of each trial by both protocols. What is refused leaves no row, no file, and a session that works.
func tryAll(t *testing.T, e *env, trials []trial) {
	t.Helper()
	e.trains(t)
	conn, heard := listener(t, e, olga)
	for _, mode := range []pgx.QueryExecMode{pgx.QueryExecModeSimpleProtocol, pgx.QueryExecModeDescribeExec} {
		for _, c := range trials {
			*heard = nil
			name := "made"
			if c.refusal != "" {
				name = "refused"
			}
			statement := `CREATE ENCODER ` + name + ` ON ` + c.on + ` WAIT`
			_, err := conn.Exec(t.Context(), statement, mode)
			var refusal, hint string
			if pgErr := (*pgconn.PgError)(nil); asError(err, &pgErr) {
				refusal, hint = pgErr.Code+": "+pgErr.Message, pgErr.Hint
			} else if err != nil {
				t.Fatal(err)
			}
			if refusal != c.refusal || hint != c.hint {
				t.Errorf("%s by %s:\n%s\n%s\nnot\n%s\n%s", statement, mode, refusal, hint, c.refusal, c.hint)
			}
			if !slices.Equal(*heard, c.heard) {
				t.Errorf("%s by %s: heard %q, not %q", statement, mode, *heard, c.heard)
			}
			if got := mustText(t, conn, `SELECT count(*) FROM scrim.encoders WHERE name = '`+name+`'`); (got == "1\n") != (err == nil) {
				t.Errorf("%s: %s encoders", statement, got)
			}
			if err == nil {
				e.exec(t, conn, `DROP ENCODER `+name)
			}
		}
	}
	if files, err := filepath.Glob(filepath.Join(e.models, "refused*")); err != nil || len(files) > 0 {
		t.Errorf("refused encoders left %v %v", files, err)
	}
}

const featureTypes = "Features are smallint, integer, bigint, real, double precision, numeric, boolean, date, timestamp or interval."

// TestRulesOfTrainingData: each rule for bad data, with what it says.
func TestRulesOfTrainingData(t *testing.T) {
	onEach(t, func(t *testing.T, e *env) {
		var columns, many []string
		for i := range 63 {
			columns = append(columns, fmt.Sprintf("f%d int", i))
			many = append(many, fmt.Sprintf("f%d", i))
		}
		e.exec(t, e.directly(t, olga), `CREATE TABLE rows AS SELECT i::float8 AS a, i % 7 AS b,
				CASE WHEN i > 7 THEN i END AS a_few, CASE WHEN i > 10 THEN i ELSE 'NaN'::float8 END AS nan, CASE WHEN i > 200 THEN i END AS half,
				CASE WHEN i > 201 THEN i END AS most, NULL::int AS none, 'NaN'::float8 AS all_nan, 5 AS same, CASE WHEN i > 300 THEN true END AS same_or_null,
				CASE WHEN i = 3 THEN 'Infinity'::float8 ELSE i END AS infinite, CASE WHEN i = 3 THEN '-infinity' ELSE date '2020-01-01' + i END AS long_ago,
				CASE WHEN i = 3 THEN 1e141::float8 ELSE i END AS big, CASE WHEN i = 3 THEN 1e140::float8 ELSE i END AS not_too_big, CASE WHEN i = 3 THEN 1e400 ELSE i END AS huge
			FROM generate_series(1, 400) i`,
			`CREATE TABLE empty (a float8)`, `CREATE TABLE single AS SELECT 1::float8 AS a, 2 AS b`, `CREATE TABLE wide (`+strings.Join(columns, ", ")+`)`,
			`CREATE TYPE mood AS ENUM ('sad', 'ok')`, `CREATE DOMAIN years AS integer`,
			`CREATE TABLE odd ("A text" text, v varchar(9), c char(3), m mood, cash money, u uuid, t time, j jsonb, l int[], y years)`)
		const batch = " WITH (epochs = 1, batch_size = 100)"
		tryAll(t, e, []trial{
			{on: `rows (a, b)` + batch},
			{on: `rows (a, a_few)` + batch, heard: []string{`NOTICE 00000: column "a_few": 7 of 400 values are missing and were taken as the mean`}},
			{on: `rows (nan, a)` + batch, heard: []string{`NOTICE 00000: column "nan": 10 of 400 values are missing and were taken as the mean`}},
			{on: `rows (a, half)` + batch, heard: []string{`NOTICE 00000: column "half": 200 of 400 values are missing and were taken as the mean`}},
			{on: `rows (a, most)` + batch, heard: []string{
				`NOTICE 00000: column "most": 201 of 400 values are missing and were taken as the mean`,
				`WARNING 01000: feature "most" is missing in more than half of the rows`,
			}},
			{on: `rows (a, none)` + batch, refusal: `22023: feature "none" is missing in every row`, hint: "leave the column out"},
			{on: `rows (all_nan, a)` + batch, refusal: `22023: feature "all_nan" is missing in every row`, hint: "leave the column out"},
			{on: `rows (a, same)` + batch, heard: []string{`WARNING 01000: feature "same" is constant: it adds nothing to the codes`}},
			{on: `rows (same_or_null, a)` + batch, heard: []string{
				`NOTICE 00000: column "same_or_null": 300 of 400 values are missing and were taken as the mean`,
				`WARNING 01000: feature "same_or_null" is missing in more than half of the rows`,
				`WARNING 01000: feature "same_or_null" is constant: it adds nothing to the codes`,
			}},
			{on: `rows (same, same_or_null)` + batch, refusal: `22023: every feature is constant`, hint: "choose a column whose values differ"},
			{on: `rows (a) WITH (epochs = 1, batch_size = 400)`},
			{on: `rows (a) WITH (epochs = 1, batch_size = 401)`, heard: []string{
				`WARNING 01000: a batch of 401 rows is more than the 400 rows that there are: each step trains on all of them`,
			}},
			{on: `rows (a, infinite)` + batch, refusal: `22023: feature "infinite" has infinite values`, hint: "filter those rows out or replace the values"},
			{on: `rows (a, long_ago)` + batch, refusal: `22023: feature "long_ago" has infinite values`, hint: "filter those rows out or replace the values"},
			{on: `rows (a, huge)` + batch, refusal: `22023: feature "huge" has infinite values`, hint: "filter those rows out or replace the values"},
			{on: `rows (a, big)` + batch, refusal: `22023: feature "big" has values beyond 1e140`, hint: "scale the column down"},
			{on: `rows (a, not_too_big)` + batch},
			{on: `empty (a)` + batch, refusal: "22023: no rows to train on", hint: "choose a table that has rows"},
			{on: `single (a, b)` + batch, refusal: "22023: one row is not enough to train on", hint: "an encoder learns how rows differ: choose a table that has more"},
			{on: `wide (` + strings.Join(many, ", ") + `)` + batch, refusal: "22023: 63 features, at most 62 are possible", hint: "Train on fewer columns."},
			{on: `wide (` + strings.Join(many[:62], ", ") + `)` + batch, refusal: "22023: no rows to train on", hint: "choose a table that has rows"},
			{on: `rows (a, a)` + batch, refusal: `42701: column "a" is listed twice`},
			{on: `rows (a, missing)` + batch, refusal: `42703: column "missing" of relation public.rows does not exist`},
			{
				on: `odd ("A text")` + batch, refusal: `0A000: column "A text" of type text cannot be a feature`,
				hint: featureTypes + ` Say what matters of a text in numbers: in generated columns, like boolean GENERATED ALWAYS AS ("A text" = '...') STORED.`,
			},
			{
				on: `odd (v)` + batch, refusal: `0A000: column "v" of type character varying(9) cannot be a feature`,
				hint: featureTypes + ` Say what matters of a text in numbers: in generated columns, like boolean GENERATED ALWAYS AS (v = '...') STORED.`,
			},
			{
				on: `odd (c)` + batch, refusal: `0A000: column "c" of type character(3) cannot be a feature`,
				hint: featureTypes + ` Say what matters of a text in numbers: in generated columns, like boolean GENERATED ALWAYS AS (c = '...') STORED.`,
			},
			{
				on: `odd (m)` + batch, refusal: `0A000: column "m" of type public.mood cannot be a feature`,
				hint: featureTypes + ` Say what matters of a text in numbers: in generated columns, like boolean GENERATED ALWAYS AS (m = '...') STORED.`,
			},
			{on: `odd (cash)` + batch, refusal: `0A000: column "cash" of type money cannot be a feature`, hint: featureTypes},
			{on: `odd (u)` + batch, refusal: `0A000: column "u" of type uuid cannot be a feature`, hint: featureTypes},
			{on: `odd (t)` + batch, refusal: `0A000: column "t" of type time without time zone cannot be a feature`, hint: featureTypes},
			{on: `odd (j)` + batch, refusal: `0A000: column "j" of type jsonb cannot be a feature`, hint: featureTypes},
			{on: `odd (l)` + batch, refusal: `0A000: column "l" of type integer[] cannot be a feature`, hint: featureTypes},
			{on: `odd (y)` + batch, refusal: `0A000: column "y" of type public.years cannot be a feature`, hint: featureTypes},
		})
	})
}

// TestTextAsGeneratedColumns: what the hint for text says works, and the masks of both.
func TestTextAsGeneratedColumns(t *testing.T) {
	onEach(t, func(t *testing.T, e *env) {
		e.trains(t)
		owner := e.connect(t, olga)
		e.exec(t, owner, `CREATE TABLE people (id int, city text, in_rome boolean GENERATED ALWAYS AS (city = 'Rome') STORED, long boolean GENERATED ALWAYS AS (length(city) > 5) STORED)`,
			`INSERT INTO people SELECT i, (ARRAY['Rome', 'Paris', 'London', 'Rome'])[1 + i % 4] FROM generate_series(1, 200) i`, `GRANT SELECT ON people TO analyst`,
			`CREATE ENCODER people ON people (in_rome, long) WITH (latent_dims = 3, epochs = 2, batch_size = 50) WAIT`,
			`CREATE MASKING POLICY p ON people (city, in_rome, long) USING ENCODER people`)
		got := mustText(t, e.connect(t, analyst), `SELECT count(DISTINCT city), count(DISTINCT in_rome) FROM people`)
		if got != "3|3\n" {
			t.Errorf("three cities have %s", got)
		}
	})
}

// TestPassthrough: what may stand beside the codes, and what identifies a row may not unless one says so.
func TestPassthrough(t *testing.T) {
	onEach(t, func(t *testing.T, e *env) {
		e.exec(t, e.directly(t, olga), `CREATE TABLE people (id int PRIMARY KEY, badge int UNIQUE, email text, nick text, phone text, a int, b int, region text, x float8, y float8, UNIQUE (a, b))`,
			`CREATE UNIQUE INDEX by_email ON people (lower(email)) INCLUDE (region)`, `CREATE UNIQUE INDEX by_nick ON people (nick) WHERE region <> 'EU'`,
			`CREATE UNIQUE INDEX by_sum ON people ((a + b))`, `CREATE INDEX by_phone ON people (phone)`, `CREATE UNIQUE INDEX by_x ON people (x)`,
			`CREATE VIEW seen AS SELECT region, id AS number, 'no ' || badge AS text, x, y FROM people`, `CREATE VIEW seen_again AS SELECT number AS n, region AS r, x, y FROM seen`,
			`INSERT INTO people SELECT i, i, 'e' || i, 'n' || i, 'p', i, i, 'EU', i, i FROM generate_series(1, 100) i`)
		e.exec(t, e.admin(t), `CREATE TABLE lent (id int, secret text, x float8)`, `INSERT INTO lent SELECT i, 's', i FROM generate_series(1, 100) i`, `GRANT SELECT (id, x) ON lent TO olga`)
		const (
			with   = ` WITH (epochs = 1, batch_size = 50)`
			anyway = ` WITH (epochs = 1, batch_size = 50, allow_identifiers = true)`
			hint   = "Leave it out, or say WITH (allow_identifiers = true)."
		)
		tryAll(t, e, []trial{
			{on: `people (y) PASSTHROUGH (region, phone, a, b)` + with},
			{on: `people (y) PASSTHROUGH (region, id)` + with, refusal: `22023: column "id" identifies rows: public.people_pkey is unique on it`, hint: hint},
			{on: `people (y) PASSTHROUGH (region, id)` + ` WITH (epochs = 1, batch_size = 50, allow_identifiers = false)`, refusal: `22023: column "id" identifies rows: public.people_pkey is unique on it`, hint: hint},
			{on: `people (y) PASSTHROUGH (badge, id)` + with, refusal: `22023: column "badge" identifies rows: public.people_badge_key is unique on it`, hint: hint},
			{on: `people (y) PASSTHROUGH (email)` + with, refusal: `22023: column "email" identifies rows: public.by_email is unique on it`, hint: hint},
			{on: `people (y) PASSTHROUGH (nick)` + with, refusal: `22023: column "nick" identifies rows: public.by_nick is unique on it`, hint: hint},
			{on: `people (y) PASSTHROUGH (id, badge, email, nick)` + anyway},
			{on: `people (x) PASSTHROUGH (region)` + with}, // a feature may be unique
			{on: `seen (y) PASSTHROUGH (region)` + with},
			{on: `seen (y) PASSTHROUGH (number)` + with, refusal: `22023: column "number" identifies rows: public.people_pkey is unique on it`, hint: hint},
			{on: `seen (y) PASSTHROUGH (text)` + with, refusal: `22023: column "text" identifies rows: public.people_badge_key is unique on it`, hint: hint},
			{on: `seen_again (y) PASSTHROUGH (r, n)` + with, refusal: `22023: column "n" identifies rows: public.people_pkey is unique on it`, hint: hint},
			{on: `people (y) PASSTHROUGH (missing)` + anyway, refusal: `42703: column "missing" of relation public.people does not exist`},
			{on: `people (y) PASSTHROUGH (ctid)` + anyway, refusal: `42703: column "ctid" of relation public.people does not exist`},
			{on: `people (y) PASSTHROUGH (region, region)` + anyway, refusal: `42701: column "region" is listed twice`},
			{
				on: `people (x, y) PASSTHROUGH (region, y)` + anyway, refusal: `42701: column "y" is a feature and cannot be passed through`,
				hint: "Its raw values would stand beside the codes that hide them. Name it in one of the two lists.",
			},
			{on: `lent (x) PASSTHROUGH (id)` + with},
			{on: `lent (x) PASSTHROUGH (id, secret)` + with, refusal: `42501: permission denied for column "secret" of relation public.lent`},
		})
	})
}
