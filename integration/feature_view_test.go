package integration_test

import (
	"context"
	"fmt"
	"math"
	"os"
	"reflect"
	"slices"
	"strings"
	"testing"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"github.com/scrimdb/scrim/udf"
)

const (
	featureEncoder = `CREATE ENCODER fenc ON customers (age, income, score, vip) PASSTHROUGH (id, region)
		WITH (latent_dims = 3, epochs = 1, batch_size = 256, seed = 2, allow_identifiers = true) WAIT`
	featureView = `CREATE FEATURE VIEW traits FOR ENCODER fenc`
)

// withFeatureView is onEach with a feature view of customers, of which analyst may read id and region, and risk everything. No policy
// is in place.
func withFeatureView(t *testing.T, test func(t *testing.T, e *env)) {
	onEach(t, func(t *testing.T, e *env) {
		e.trains(t)
		e.exec(t, e.connect(t, olga), `REVOKE SELECT ON customers FROM analyst`, `GRANT SELECT (id, region) ON customers TO analyst`, featureEncoder, featureView)
		test(t, e)
	})
}

// described are the columns of a query's result.
func described(t *testing.T, conn *pgx.Conn, query string) []pgconn.FieldDescription {
	t.Helper()
	d, err := conn.Prepare(t.Context(), "", query)
	if err != nil {
		t.Fatalf("%s: %v", query, explain(err))
	}
	return d.Fields
}

// TestFeatureView: exempt roles see the raw features, everybody else codes, and all of them the same columns of the same types.
func TestFeatureView(t *testing.T) {
	withFeatureView(t, func(t *testing.T, e *env) {
		const all = `SELECT * FROM scrim_runtime.traits ORDER BY id`
		masked, exempt := e.connect(t, analyst), e.connect(t, risk)

		want := described(t, e.directly(t, risk), all)
		if len(want) != 3 || want[2].Name != "features" || want[2].DataTypeOID != 1021 || want[2].TableOID == 0 || want[2].TableAttributeNumber != 3 {
			t.Fatalf("PostgreSQL describes %+v", want)
		}
		for name, conn := range map[string]*pgx.Conn{"masked": masked, "exempt": exempt} {
			if got := described(t, conn, all); !slices.Equal(got, want) {
				t.Errorf("%s:\n%+v\nnot\n%+v", name, got, want)
			}
			const some = `SELECT region, id AS key, region || '' FROM scrim_runtime.traits`
			if got, want := described(t, conn, some), described(t, e.directly(t, risk), some); !slices.Equal(got, want) {
				t.Errorf("%s:\n%+v\nnot\n%+v", name, got, want)
			}
			const columns = `SELECT column_name, ordinal_position, data_type, udt_name FROM information_schema.columns WHERE table_name = 'traits' ORDER BY 2`
			if got := mustText(t, conn, columns); got != "id|1|integer|int4\nregion|2|text|text\nfeatures|3|ARRAY|_float4\n" {
				t.Errorf("%s: %s", name, got)
			}
		}

		raw := `2000|EU|{4.815162e+06,2.3421088e+06,16384.062,1}` + "\n"
		for name, conn := range map[string]*pgx.Conn{"exempt": exempt, "directly": e.directly(t, risk), "owner": e.connect(t, olga), "superuser": e.admin(t)} {
			if got := mustText(t, conn, `SELECT * FROM scrim_runtime.traits WHERE id = 2000`); got != raw {
				t.Errorf("%s: %s", name, got)
			}
		}
		if got := mustText(t, exempt, `SELECT features FROM scrim_runtime.traits WHERE id IN (17, 23, 391) ORDER BY id`); got != "{NULL,74623.25,827.5,0}\n{41,NULL,463.5,0}\n{NULL,NULL,321.5,0}\n" {
			t.Error(got)
		}

		// What the masked role sees is the model's, bit for bit, in both formats, deferred and staged, NULLs included.
		codes := modelCodes(t, e, 1)
		for _, query := range []string{
			all, `SELECT id, region, features FROM scrim_runtime.traits ORDER BY features, id`, `SELECT id, max(region), max(features) FROM scrim_runtime.traits GROUP BY id`,
			`SELECT id, region, features || '{}'::real[] FROM scrim_runtime.traits`,
		} {
			for _, format := range []int16{0, 1} {
				rows, err := masked.Query(t.Context(), query, pgx.QueryResultFormats{format})
				if err != nil {
					t.Fatal(err)
				}
				seen := 0
				for rows.Next() {
					var id int32
					var region string
					var code []float32
					if err := rows.Scan(&id, &region, &code); err != nil {
						t.Fatal(err)
					}
					seen++
					if !slices.EqualFunc(code, codes[id], func(a, b float32) bool { return math.Float32bits(a) == math.Float32bits(b) }) {
						t.Fatalf("%s: row %d: %v, by the model %v", query, id, code, codes[id])
					}
				}
				if rows.Err() != nil || seen != 2000 {
					t.Fatalf("%s: %d rows, %v", query, seen, explain(rows.Err()))
				}
			}
		}

		around, outside := e.directly(t, analyst), e.connect(t, guest)
		for _, query := range []string{all, `SELECT features FROM scrim_runtime.traits`, `SELECT count(*) FROM scrim_runtime.traits`, `SELECT id FROM scrim_runtime.traits`} {
			if _, err := text(t, around, query); code(err) != "42501" {
				t.Errorf("around: %s: %v", query, explain(err))
			}
			if _, err := text(t, outside, query); code(err) != "42501" {
				t.Errorf("a role without rights: %s: %v", query, explain(err))
			}
		}
		view := featureSeals(t, e)
		for _, conn := range []*pgx.Conn{e.directly(t, guest), outside} {
			for _, query := range []string{`SELECT id FROM ` + view, `EXPLAIN SELECT id FROM ` + view + ` WHERE region = 'EU'`} {
				if _, err := text(t, conn, query); code(err) != "42501" {
					t.Errorf("a role without rights: %s: %v", query, explain(err))
				}
			}
		}
		if got := mustText(t, e.connect(t, olga), `SHOW FEATURE VIEWS`); !strings.HasPrefix(got, "scrim_runtime.traits|fenc|customers|{age,income,score,vip}|olga|") {
			t.Error(got)
		}
		if got := mustText(t, e.connect(t, olga), `SHOW MASKING POLICIES`); got != "" {
			t.Error(got)
		}
		if got := mustText(t, masked, `EXPLAIN (COSTS OFF) SELECT * FROM scrim_runtime.traits WHERE id = 7`); !strings.Contains(got, "Index Cond: (id = 7)") || !strings.Contains(got, "code of encoder fenc") {
			t.Error(got)
		}
	})
}

// modelCodes computes the codes of all customers with a version of fenc's model itself.
func modelCodes(t *testing.T, e *env, version int) map[int32][]float32 {
	t.Helper()
	var hash string
	admin := e.admin(t)
	if err := admin.QueryRow(t.Context(), `SELECT sha256 FROM scrim.encoder_versions WHERE encoder = 'fenc' AND version = $1`, version).Scan(&hash); err != nil {
		t.Fatal(err)
	}
	store, err := udf.NewStore(e.models)
	if err != nil {
		t.Fatal(err)
	}
	encoder, err := e.rt.LoadEncoder(udf.EncoderSpec{Name: "fenc", Version: version, Path: store.Path("fenc", version, hash), SHA256: hash, Inputs: 4, Dims: 3})
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = encoder.Close() }()
	rows, err := admin.Query(t.Context(), `SELECT id, coalesce(age::float8, 'NaN'), coalesce(income::float8, 'NaN'), coalesce(score, 'NaN'), coalesce(vip::int::float8, 'NaN') FROM customers`)
	if err != nil {
		t.Fatal(err)
	}
	codes := map[int32][]float32{}
	distinct := map[string]bool{}
	for rows.Next() {
		var id int32
		features := make([]float64, 4)
		if err := rows.Scan(&id, &features[0], &features[1], &features[2], &features[3]); err != nil {
			t.Fatal(err)
		}
		codes[id] = make([]float32, 3)
		if err := encoder.Encode(codes[id], features); err != nil {
			t.Fatal(err)
		}
		distinct[fmt.Sprint(codes[id])] = true
	}
	if rows.Err() != nil || len(distinct) < 1900 {
		t.Fatalf("%d codes, %v", len(distinct), rows.Err())
	}
	return codes
}

// featureSeals is the masked view of the feature view.
func featureSeals(t *testing.T, e *env) string {
	t.Helper()
	return strings.TrimSpace(mustText(t, e.admin(t), `SELECT masked_view::regclass FROM scrim_state.protections WHERE features_of IS NOT NULL`))
}

// featureCases are statements over the feature view, and over a table of codes.
var featureCases = []string{
	`SELECT * FROM scrim_runtime.traits ORDER BY id LIMIT 30`,
	`SELECT count(*), count(features), min(id) FROM scrim_runtime.traits`,
	`SELECT region FROM scrim_runtime.traits WHERE id < 9 ORDER BY id`,
	`SELECT EXISTS (SELECT FROM scrim_runtime.traits WHERE id = 5), (SELECT count(*) FROM scrim_runtime.traits)`,
	`SELECT id, features[1], features[2:3], array_length(features, 1) FROM scrim_runtime.traits WHERE id % 7 = 0 ORDER BY id LIMIT 20`,
	`SELECT id FROM scrim_runtime.traits WHERE features[1] > 0.1 AND region = 'EU' ORDER BY features[2] DESC, id LIMIT 20`,
	`SELECT id FROM scrim_runtime.traits WHERE features > '{0,0,0}' ORDER BY id LIMIT 40`,
	`SELECT region, count(*), max(features), min(features[3]) FROM scrim_runtime.traits GROUP BY region HAVING max(features[1]) > -9 ORDER BY region`,
	`SELECT DISTINCT region, features[1] > 0 FROM scrim_runtime.traits ORDER BY 1, 2`,
	`SELECT DISTINCT ON (region) region, features FROM scrim_runtime.traits ORDER BY region, id`,
	`SELECT id, rank() OVER (PARTITION BY region ORDER BY features, id) FROM scrim_runtime.traits WHERE id < 50 ORDER BY id`,
	`SELECT id, features::text, features::float8[] FROM scrim_runtime.traits WHERE id < 20 ORDER BY id`,
	`SELECT t FROM scrim_runtime.traits t WHERE id = 4`,
	`SELECT to_jsonb(t) FROM scrim_runtime.traits t WHERE id = 4`,
	`SELECT traits.region, scrim_runtime.traits.features FROM scrim_runtime.traits WHERE scrim_runtime.traits.id = 4`,
	`SELECT a.id, b.id FROM scrim_runtime.traits a JOIN scrim_runtime.traits b ON b.features = a.features AND b.id > a.id ORDER BY 1, 2 LIMIT 9`,
	`SELECT o.id, t.features FROM orders o LEFT JOIN scrim_runtime.traits t ON t.id = o.customer_id AND t.region = o.region ORDER BY o.id LIMIT 30`,
	`SELECT o.id, t.features[1] + o.amount FROM orders o JOIN scrim_runtime.traits t USING (id, region) ORDER BY o.id LIMIT 30`,
	`SELECT o.id, t.region FROM orders o NATURAL JOIN scrim_runtime.traits t ORDER BY o.id LIMIT 30`,
	`WITH w AS (SELECT * FROM scrim_runtime.traits WHERE id < 30), x(k, r, f) AS (TABLE w) SELECT x.k, x.f FROM x ORDER BY x.f, x.k`,
	`SELECT id, features FROM scrim_runtime.traits WHERE id < 5 UNION ALL SELECT id + 1000, features FROM scrim_runtime.traits WHERE id < 3 ORDER BY id`,
	`SELECT features FROM scrim_runtime.traits WHERE id < 50 EXCEPT SELECT features FROM scrim_runtime.traits WHERE id < 40 ORDER BY 1`,
	`SELECT * FROM scrim_runtime.traits AS f(a, b, c) WHERE a = 11`,
	`TABLE scrim_runtime.traits ORDER BY features, id LIMIT 4`,
	`SELECT l.f FROM orders o, LATERAL (SELECT features AS f FROM scrim_runtime.traits t WHERE t.id = o.id) l ORDER BY o.id LIMIT 7`,
	`SELECT nothing FROM scrim_runtime.traits`,
	`SELECT count(*) FROM ONLY scrim_runtime.traits`,
	`SELECT id, features FROM ONLY (scrim_runtime.traits) WHERE id = 3`,
	`CREATE TEMP TABLE kept (i integer, r text);; MERGE INTO kept USING (SELECT * FROM scrim_runtime.traits WHERE id < 9) t ON t.id = kept.i WHEN NOT MATCHED THEN INSERT VALUES (t.id, t.region);; DELETE FROM kept USING scrim_runtime.traits t WHERE t.id = kept.i AND t.region = 'EU';; SELECT * FROM kept ORDER BY i;; MERGE INTO kept USING scrim_runtime.traits t ON t.id = kept.i WHEN MATCHED AND t.features[1] > 0 THEN UPDATE SET r = t.features[2]::text;; SELECT * FROM kept ORDER BY i;; DROP TABLE kept`,
	`CREATE TEMP TABLE kept AS SELECT * FROM scrim_runtime.traits WHERE id < 30;; SELECT * FROM kept ORDER BY features;; DROP TABLE kept`,
	`CREATE TEMP TABLE kept AS SELECT id, region FROM scrim_runtime.traits WHERE id < 30;; SELECT * FROM kept ORDER BY id;; DROP TABLE kept`,
	`CREATE TEMP TABLE kept (i integer, f real[]);; INSERT INTO kept SELECT id, features FROM scrim_runtime.traits WHERE id < 9;; SELECT * FROM kept ORDER BY i;; UPDATE kept SET f = t.features FROM scrim_runtime.traits t WHERE t.id = kept.i + 1;; SELECT * FROM kept ORDER BY i;; DROP TABLE kept`,
	`PREPARE p(integer) AS SELECT features FROM scrim_runtime.traits WHERE id = $1;; EXECUTE p(3);; EXECUTE p(17);; DEALLOCATE p`,
	`PREPARE p(integer) AS SELECT region FROM scrim_runtime.traits WHERE id = $1;; EXECUTE p(3);; DEALLOCATE p`,
	`BEGIN;; DECLARE c CURSOR FOR SELECT id, features FROM scrim_runtime.traits WHERE id < 9 ORDER BY id;; FETCH 3 FROM c;; FETCH ALL FROM c;; COMMIT`,
	`BEGIN;; DECLARE c SCROLL CURSOR FOR SELECT id FROM scrim_runtime.traits WHERE id < 9 ORDER BY features;; FETCH 3 FROM c;; FETCH PRIOR FROM c;; COMMIT`,
	`BEGIN;; SELECT id, features FROM scrim_runtime.traits WHERE features[1] < 0 ORDER BY id LIMIT 3;; ROLLBACK`,
	`BEGIN;; SELECT o.id, t.region FROM scrim_runtime.traits t JOIN orders o ON o.id = t.id ORDER BY 1 LIMIT 5;; ROLLBACK`,
	`SELECT count(*) FROM scrim_runtime.traits; SELECT features FROM scrim_runtime.traits WHERE id = 8`,
}

// TestFeatureViewOracle: a masked role gets PostgreSQL's own answers for a table of codes.
func TestFeatureViewOracle(t *testing.T) {
	withFeatureView(t, func(t *testing.T, e *env) {
		masked, admin := e.connect(t, analyst), e.admin(t)
		var rows [][]any
		for id, code := range modelCodes(t, e, 1) {
			rows = append(rows, []any{id, []string{"EU", "US", "APAC"}[id%3], code})
		}
		rows[slices.IndexFunc(rows, func(r []any) bool { return r[0] == int32(2000) })][1] = "EU"
		e.exec(t, admin, `CREATE SCHEMA codes`, `CREATE TABLE codes.traits (id integer, region text, features real[])`, `CREATE TABLE codes.sorted (LIKE codes.traits)`)
		if _, err := admin.CopyFrom(t.Context(), pgx.Identifier{"codes", "sorted"}, []string{"id", "region", "features"}, pgx.CopyFromRows(rows)); err != nil {
			t.Fatal(err)
		}
		e.exec(t, admin, `INSERT INTO codes.traits TABLE codes.sorted ORDER BY id`, `GRANT USAGE ON SCHEMA codes TO guest`, `GRANT SELECT ON codes.traits TO guest`)
		plain := e.directly(t, guest)
		for _, c := range featureCases {
			for _, extended := range []bool{false, true} {
				if extended && strings.Contains(strings.ReplaceAll(c, ";;", ""), ";") {
					continue
				}
				want := answers(t, plain, strings.ReplaceAll(c, "scrim_runtime.", "codes."), extended)
				if got := answers(t, masked, c, extended); got != want {
					t.Errorf("%s\nextended: %v\nthrough the proxy:\n%.800s\non a table of codes:\n%.800s", c, extended, got, want)
				}
			}
		}
		for _, c := range []string{`SELECT region, id FROM scrim_runtime.traits WHERE id < $1 ORDER BY id`, `SELECT features FROM scrim_runtime.traits WHERE id < $1`, `SELECT id FROM scrim_runtime.traits WHERE features[2] > 0 AND id < $1 ORDER BY id`} {
			want, err := plain.Query(t.Context(), strings.ReplaceAll(c, "scrim_runtime.", "codes."), 40)
			if err != nil {
				t.Fatal(err)
			}
			wanted, err := pgx.CollectRows(want, pgx.RowToMap)
			if err != nil || len(wanted) < 5 {
				t.Fatal(len(wanted), explain(err))
			}
			got, err := masked.Query(t.Context(), c, 40)
			if err != nil {
				t.Fatal(err)
			}
			if shown, err := pgx.CollectRows(got, pgx.RowToMap); err != nil || !reflect.DeepEqual(shown, wanted) {
				t.Errorf("%s with a parameter:\n%v\nnot\n%v, %v", c, shown, wanted, explain(err))
			}
		}
		for _, c := range []string{`COPY scrim_runtime.traits TO STDOUT`, `COPY scrim_runtime.traits (region, id) TO STDOUT (FORMAT csv, HEADER)`, `COPY (SELECT * FROM scrim_runtime.traits WHERE id < 40 ORDER BY id) TO STDOUT`, `COPY (SELECT region FROM scrim_runtime.traits WHERE id < 40 ORDER BY id) TO STDOUT`} {
			if got, want := copied(t, masked, c), copied(t, plain, strings.ReplaceAll(c, "scrim_runtime.", "codes.")); got != want || want == "" {
				t.Errorf("%s:\n%s\nnot\n%s", c, got, want)
			}
		}
		for c, want := range map[string]string{
			`SELECT id FROM scrim_runtime.traits FOR UPDATE`:                    "0A000",
			`SELECT features FROM scrim_runtime.traits TABLESAMPLE system (10)`: "0A000",
			`SELECT ctid FROM scrim_runtime.traits`:                             "42703", // as of any view
			`UPDATE scrim_runtime.traits SET region = 'x'`:                      "42501",
			`CREATE VIEW public.v AS SELECT id FROM scrim_runtime.traits`:       "0A000",
			`CREATE TEMP VIEW v AS SELECT id FROM scrim_runtime.traits`:         "0A000",
		} {
			if _, err := text(t, masked, c); code(err) != want {
				t.Errorf("%s: %v", c, explain(err))
			}
		}
	})
}

// TestFeatureViewVersions: another default version of the encoder shows in the view as it is.
func TestFeatureViewVersions(t *testing.T) {
	withFeatureView(t, func(t *testing.T, e *env) {
		admin := e.admin(t)
		e.exec(t, e.connect(t, olga), strings.Replace(strings.Replace(featureEncoder, "fenc", "second", 1), "seed = 2", "seed = 3", 1))
		store, err := udf.NewStore(e.models)
		if err != nil {
			t.Fatal(err)
		}
		model, err := os.ReadFile(store.Path("second", 1, strings.TrimSpace(mustText(t, admin, `SELECT sha256 FROM scrim.encoder_versions WHERE encoder = 'second'`))))
		if err != nil {
			t.Fatal(err)
		}
		hash, err := store.Publish("fenc", 2, model)
		if err != nil {
			t.Fatal(err)
		}
		reader := e.connect(t, analyst)
		shows := func(version int) bool {
			var code, computed []float32
			if err := reader.QueryRow(t.Context(), `SELECT features FROM scrim_runtime.traits WHERE id = 7`).Scan(&code); err != nil {
				t.Fatal(explain(err))
			}
			if err := reader.QueryRow(t.Context(), `SELECT max(features) FROM scrim_runtime.traits WHERE id = 7`).Scan(&computed); err != nil {
				t.Fatal(explain(err))
			}
			want := modelCodes(t, e, version)[7]
			return slices.Equal(code, want) && slices.Equal(computed, want)
		}
		if !shows(1) {
			t.Error("version 1 is not what the view shows")
		}
		e.exec(t, admin, `INSERT INTO scrim_state.encoder_versions (encoder_id, version, sha256, trained_on, loss) SELECT id, 2, '`+hash+`', 2000, 1 FROM scrim_state.encoders WHERE name = 'fenc'`,
			`UPDATE scrim_state.encoders SET default_version = 2 WHERE name = 'fenc'`)
		if _, err := e.catalog.Reload(t.Context()); err != nil {
			t.Fatal(err)
		}
		if shows(1) || !shows(2) {
			t.Error("version 2 is not what the view shows")
		}
	})
}

// dropLater drops a role that a test made: roles are the whole server's.
func dropLater(t *testing.T, e *env, role string) {
	t.Cleanup(func() {
		if err := e.superuser(context.Background(), e.database, `DROP OWNED BY `+role, `DROP ROLE `+role); err != nil {
			t.Error(err)
		}
	})
}

// TestFeatureViewGrants: the table's grants decide, at any time.
func TestFeatureViewGrants(t *testing.T) {
	withFeatureView(t, func(t *testing.T, e *env) {
		const query = `SELECT features FROM scrim_runtime.traits WHERE id = 2000`
		owner := e.connect(t, olga)
		code3 := mustText(t, e.connect(t, analyst), query)
		if strings.Count(code3, ",") != 2 || containsAny(code3, canaries) {
			t.Fatal(code3)
		}
		// Some of the features are not all of them.
		e.exec(t, owner, `GRANT SELECT (age, income, score) ON customers TO analyst`)
		if got := mustText(t, e.connect(t, analyst), query); got != code3 {
			t.Errorf("with three of four features: %s", got)
		}
		if _, err := text(t, e.directly(t, analyst), query); code(err) != "42501" {
			t.Errorf("with three of four features, around: %v", explain(err))
		}
		// By a role, at once: in sessions that begin then, and in those that PostgreSQL refuses.
		e.exec(t, e.admin(t), `CREATE ROLE readers`, `GRANT readers TO analyst`)
		dropLater(t, e, "readers")
		e.exec(t, owner, `GRANT SELECT (vip) ON customers TO readers`)
		reader := e.connect(t, analyst)
		if got := mustText(t, reader, query); !strings.Contains(got, "4.815162e+06") {
			t.Errorf("with all features: %s", got)
		}
		e.exec(t, owner, `REVOKE SELECT (income) ON customers FROM analyst`)
		if _, err := text(t, reader, query); code(err) != "42501" {
			t.Errorf("in a session that read raw: %v", explain(err))
		}
		for name, conn := range map[string]*pgx.Conn{"the same session": reader, "a new one": e.connect(t, analyst)} {
			if got := mustText(t, conn, query); got != code3 {
				t.Errorf("without income, %s: %s", name, got)
			}
		}

		// Whoever may not read the other columns sees nothing, kept plans included.
		e.exec(t, owner, `REVOKE SELECT ON customers FROM analyst`, `REVOKE SELECT (id, region, age, income, score) ON customers FROM analyst`, `GRANT SELECT (id, region) ON customers TO readers`)
		around, through := e.directly(t, analyst), e.connect(t, analyst)
		kept := `PREPARE kept AS SELECT region FROM ` + featureSeals(t, e) + ` WHERE id = 7`
		e.exec(t, around, `SET plan_cache_mode = force_generic_plan`, kept, `EXECUTE kept`)
		e.exec(t, through, `SET plan_cache_mode = force_generic_plan`, `PREPARE kept AS `+query, `EXECUTE kept`)
		e.exec(t, e.admin(t), `REVOKE readers FROM analyst`)
		for name, conn := range map[string]*pgx.Conn{"around": around, "through": through} {
			if _, err := text(t, conn, `EXECUTE kept`); code(err) != "42501" {
				t.Errorf("%s, without the membership: %v", name, explain(err))
			}
		}
		e.exec(t, e.admin(t), `GRANT readers TO analyst`)
		e.exec(t, owner, `REVOKE SELECT (region) ON customers FROM readers`)
		if _, err := text(t, e.connect(t, analyst), query); code(err) != "42501" {
			t.Errorf("without region: %v", explain(err))
		}

		// Statistics of the columns are not shown to operators of a role that may not read them.
		e.exec(t, e.admin(t), `ANALYZE customers`, `GRANT CREATE ON SCHEMA public TO guest`)
		said := string(overheard(t, e.directDSN(guest), []string{
			`CREATE FUNCTION tells(text, text) RETURNS boolean LANGUAGE plpgsql IMMUTABLE AS 'BEGIN RAISE NOTICE ''%'', $1; RETURN true; END'`,
			`CREATE OPERATOR ### (LEFTARG = text, RIGHTARG = text, FUNCTION = tells, RESTRICT = eqsel)`,
			`EXPLAIN SELECT 1 FROM ` + featureSeals(t, e) + ` WHERE region ### 'a region'`,
		}, false))
		if !strings.HasPrefix(said, "ERROR 42501") || containsAny(said, []string{"EU", "US", "APAC"}) {
			t.Error(said)
		}
	})
}

// TestFeatureViewAndPolicy: both on one table, each outlives the other, and the grants come back.
func TestFeatureViewAndPolicy(t *testing.T) {
	onEach(t, func(t *testing.T, e *env) {
		admin, owner := e.admin(t), e.connect(t, olga)
		e.trains(t)
		e.exec(t, owner, featureEncoder)
		before := mustText(t, admin, allPrivileges)
		both := func(codes, masks bool) {
			t.Helper()
			reader := e.connect(t, analyst)
			if masks {
				if got := mustText(t, reader, `SELECT count(*) FROM customers WHERE income < 1000`); got != "2000\n" {
					t.Errorf("the policy: %s", got)
				}
				if _, err := text(t, e.directly(t, analyst), `SELECT income FROM customers`); code(err) != "42501" {
					t.Errorf("the policy, around: %v", explain(err))
				}
			}
			if codes {
				for query, want := range map[string]string{
					`SELECT count(*) FROM scrim_runtime.traits WHERE features[1] < 1000`:                                                              "2000\n",
					`SELECT count(*) FROM scrim_runtime.traits t JOIN customers c USING (id, region)`:                                                 "2000\n",
					`SELECT count(*), count(t.features) FROM over t`:                                                                                  "2000|2000\n",
					`SELECT count(*) FROM scrim_runtime.traits t JOIN over o ON o.features = t.features AND o.id = t.id WHERE t.features[2] > -10000`: "2000\n",
				} {
					if got := mustText(t, reader, query); masks && got != want {
						t.Errorf("%s: %s", query, got)
					}
				}
				if got := mustText(t, e.connect(t, risk), `SELECT features FROM over WHERE id = 2000`); !strings.Contains(got, "4.815162e+06") {
					t.Errorf("the exempt role sees %s", got)
				}
				if _, err := text(t, e.directly(t, analyst), `SELECT features FROM over`); masks && code(err) != "42501" {
					t.Errorf("around: %v", explain(err))
				}
			}
		}
		over := asOlga(`CREATE VIEW over WITH (security_invoker) AS SELECT id, features FROM scrim_runtime.traits`, `GRANT SELECT ON over TO analyst, risk`)
		e.exec(t, owner, testPolicy, featureView)
		e.exec(t, admin, over...)
		waitForViews(t, e, "over")
		both(true, true)
		e.exec(t, owner, `DROP MASKING POLICY p ON customers`)
		both(true, false)
		e.exec(t, owner, testPolicy)
		both(true, true)
		e.exec(t, owner, `DROP FEATURE VIEW traits CASCADE`)
		both(false, true)
		e.exec(t, owner, `DROP MASKING POLICY p ON customers`)
		if after := mustText(t, admin, allPrivileges); after != before {
			t.Errorf("privileges:\n%s", difference(before, after))
		}

		// A feature view is no policy, but its key is one.
		e.exec(t, owner, featureView)
		for _, statement := range []string{`DROP MASKING POLICY traits ON scrim_runtime.traits`, `SELECT * FROM scrim.masking_policy_openings('traits', 'scrim_runtime.traits')`} {
			if _, err := text(t, owner, statement); code(err) == "" {
				t.Errorf("%s works", statement)
			}
		}
		key := mustText(t, admin, `SELECT count(*) FROM scrim_state.retired_keys`)
		e.exec(t, owner, `ALTER MASKING POLICY traits ON scrim_runtime.traits ROTATE KEY`)
		if got := mustText(t, admin, `SELECT count(*) FROM scrim_state.retired_keys`); got == key {
			t.Error("the key was not rotated")
		}
		e.exec(t, owner, `REVOKE SELECT ON customers FROM analyst`, `GRANT SELECT (id, region) ON customers TO analyst`)
		if got := mustText(t, e.connect(t, analyst), `SELECT count(*) FROM scrim_runtime.traits WHERE features IS NOT NULL`); got != "2000\n" {
			t.Error(got)
		}

		// A policy on a column beside the codes: whoever reads all features raw sees them beside its masks, others see nothing.
		e.exec(t, owner, `GRANT SELECT (age, income, score, vip) ON customers TO analyst`, `DROP INDEX customers_region`, `CREATE MASKING POLICY places ON customers (region) EXCEPT risk USING ENCODER enc`)
		waitForViews(t, e, "traits")
		want := mustText(t, e.connect(t, analyst), `SELECT id, region FROM customers WHERE id = 7`)
		if got := mustText(t, e.connect(t, analyst), `SELECT id, region, features FROM scrim_runtime.traits WHERE id = 7`); got != strings.TrimSpace(want)+"|{25,75433.25,517.5,0}\n" {
			t.Errorf("raw features beside %s: %s", want, got)
		}
		e.exec(t, owner, `REVOKE SELECT (vip) ON customers FROM analyst`)
		if _, err := text(t, e.connect(t, analyst), `SELECT * FROM scrim_runtime.traits`); code(err) != "42501" {
			t.Errorf("without the column beside: %v", explain(err))
		}
	})
}

// TestDropFeatureView: it goes by itself, with its encoder, and with its table; what is over it goes with CASCADE.
func TestDropFeatureView(t *testing.T) {
	withFeatureView(t, func(t *testing.T, e *env) {
		admin, owner := e.admin(t), e.connect(t, olga)
		gone := func() {
			t.Helper()
			const left = `SELECT (SELECT count(*) FROM pg_class WHERE relnamespace = 'scrim_runtime'::regnamespace AND relkind = 'v'), (SELECT count(*) FROM scrim_state.policies),
				has_table_privilege((SELECT role FROM scrim_state.view_owners), 'customers', 'SELECT')`
			if got := mustText(t, admin, left); got != "0|0|f\n" {
				t.Errorf("left: %s", got)
			}
			if _, err := text(t, e.connect(t, analyst), `SELECT * FROM scrim_runtime.traits`); code(err) != "42501" && code(err) != "42P01" {
				t.Errorf("it is still there: %v", explain(err))
			}
		}
		for statement, want := range map[string]string{
			`CREATE FEATURE VIEW traits FOR ENCODER fenc`:                          "42P07",
			`CREATE FEATURE VIEW traits FOR ENCODER none`:                          "42704",
			`DROP FEATURE VIEW none`:                                               "42704",
			`CREATE FEATURE VIEW traits2 FOR ENCODER fenc, enc`:                    "42601",
			`CREATE FEATURE VIEW ` + strings.Repeat("x", 64) + ` FOR ENCODER fenc`: "42622",
		} {
			if _, err := text(t, owner, statement); code(err) != want {
				t.Errorf("%s: %v", statement, explain(err))
			}
		}
		e.exec(t, owner, `CREATE FEATURE VIEW IF NOT EXISTS traits FOR ENCODER fenc`, `DROP FEATURE VIEW IF EXISTS none`, `BEGIN`, `DROP FEATURE VIEW traits`, `ROLLBACK`)
		mustText(t, e.connect(t, analyst), `SELECT * FROM scrim_runtime.traits`)
		e.exec(t, owner, `DROP FEATURE VIEW scrim_runtime.traits`)
		gone()

		e.exec(t, owner, featureView, `CREATE VIEW over WITH (security_invoker) AS SELECT * FROM scrim_runtime.traits`)
		for _, statement := range []string{`DROP FEATURE VIEW traits`, `DROP ENCODER fenc`} {
			if _, err := text(t, owner, statement); code(err) != "2BP01" || !strings.Contains(explain(err), "cannot drop view scrim_runtime.traits because") {
				t.Errorf("%s: %v", statement, explain(err))
			}
		}
		e.exec(t, owner, `DROP FEATURE VIEW traits CASCADE`)
		gone()

		// With its encoder.
		e.exec(t, owner, featureView, `CREATE FEATURE VIEW "O'th""er; -- $1 ✓" FOR ENCODER fenc`)
		if got := mustText(t, e.connect(t, analyst), `SELECT count(*) FROM scrim_runtime."O'th""er; -- $1 ✓" o JOIN scrim_runtime.traits USING (id, region, features)`); got != "2000\n" {
			t.Error(got)
		}
		e.exec(t, owner, `DROP ENCODER fenc`)
		gone()
		e.exec(t, owner, featureEncoder, featureView, `CREATE MASKING POLICY p ON customers (age, income, score) EXCEPT risk USING ENCODER fenc`)
		if _, err := text(t, owner, `DROP ENCODER fenc`); code(err) != "2BP01" || strings.Contains(explain(err), "traits") {
			t.Errorf("while a policy uses it: %v", explain(err))
		}
		mustText(t, e.connect(t, analyst), `SELECT * FROM scrim_runtime.traits`)
		e.exec(t, owner, `DROP ENCODER fenc CASCADE`)
		gone()
		if got := mustText(t, owner, `SELECT count(*) FROM scrim.encoders WHERE name = 'fenc'`); got != "0\n" {
			t.Error(got)
		}

		// With a column, and with the table. What is left in scrim_state is nobody's to stumble over.
		e.exec(t, owner, featureEncoder, featureView)
		if _, err := text(t, owner, `ALTER TABLE customers DROP COLUMN vip`); code(err) != "2BP01" {
			t.Errorf("dropping a column: %v", explain(err))
		}
		e.exec(t, owner, `ALTER TABLE customers RENAME COLUMN score TO points`, `ALTER TABLE customers RENAME COLUMN points TO score`)
		e.exec(t, owner, `BEGIN`, `ALTER TABLE customers DROP COLUMN vip CASCADE`, `ROLLBACK`)
		e.exec(t, owner, `ALTER TABLE customers RENAME TO clients`)
		if got := mustText(t, e.connect(t, analyst), `SELECT count(*) FROM scrim_runtime.traits WHERE features[1] IS NOT NULL`); got != "2000\n" {
			t.Errorf("of a renamed table: %s", got)
		}
		e.exec(t, owner, `CREATE FEATURE VIEW more FOR ENCODER fenc`, `DROP FEATURE VIEW more`) // it is the same table
		e.exec(t, owner, `CREATE TABLE customers AS TABLE clients`, `DROP TABLE clients CASCADE`)
		if _, err := text(t, owner, featureView); code(err) != "42P01" {
			t.Errorf("of a table that was dropped: %v", explain(err))
		}
		e.exec(t, owner, strings.Replace(featureEncoder, "CREATE", "CREATE OR REPLACE", 1), featureView, `GRANT SELECT (id, region) ON customers TO analyst`)
		if got := mustText(t, e.connect(t, analyst), `SELECT count(*) FROM scrim_runtime.traits WHERE features[1] IS NOT NULL`); got != "2000\n" {
			t.Errorf("made again: %s", got)
		}
		if got := mustText(t, admin, `SELECT count(*) FROM scrim_state.policies`); got != "1\n" {
			t.Errorf("%s policies", got)
		}
		e.exec(t, owner, `DROP TABLE customers CASCADE`, `DROP ENCODER fenc`)
	})
}

// TestFeatureViewRefusals: whose table it is, what it is, and who could look up codes of chosen values.
func TestFeatureViewRefusals(t *testing.T) {
	onEach(t, func(t *testing.T, e *env) {
		admin := e.admin(t)
		e.trains(t)
		e.exec(t, e.connect(t, olga), featureEncoder)
		e.exec(t, admin, `CREATE ROLE trainer`, `GRANT scrim_admin TO trainer`)
		dropLater(t, e, "trainer")
		onlyColumns := []string{`REVOKE SELECT ON customers FROM analyst`, `GRANT SELECT (id, region) ON customers TO analyst`}
		cases := []struct {
			plant []string
			as    string
			want  string // SQLSTATE and something of the message
		}{
			{nil, guest, "42501 permission denied for feature views"},
			{nil, "trainer", `42501 permission denied for encoder "fenc"`},
			{[]string{`UPDATE scrim_state.encoders SET creator = 'trainer'::regrole`}, "trainer", "42501 must be owner of table public.customers"},
			{[]string{`ALTER TABLE customers ENABLE ROW LEVEL SECURITY`}, olga, "0A000 it has row security"},
			{[]string{`CREATE VIEW seen AS TABLE customers`, `ALTER VIEW seen OWNER TO olga`, `UPDATE scrim_state.encoders SET source = 'seen'::regclass`}, olga, "0A000 it is a view or a foreign table"},
			{[]string{`UPDATE scrim_state.encoders SET default_version = NULL`}, olga, `55000 encoder "fenc" is not trained yet`},
			{[]string{`ALTER TABLE customers RENAME COLUMN income TO salary`}, olga, `42703 column "income"`},
			{[]string{`ALTER TABLE customers ALTER COLUMN vip TYPE text`}, olga, "0A000 cannot be a feature"},
			{[]string{`UPDATE scrim_state.encoders SET passthrough = '{id,features}'`}, olga, `42701 called "features"`},
			{append([]string{`GRANT INSERT ON customers TO analyst`}, onlyColumns...), olga, "55000 analyst may INSERT column income"},
			{append([]string{`GRANT UPDATE (vip) ON customers TO PUBLIC`}, onlyColumns...), olga, "55000 PUBLIC may UPDATE column vip"},
			{append([]string{`CREATE VIEW writes AS SELECT id, income FROM customers`, `GRANT INSERT ON writes TO analyst`}, onlyColumns...), olga, "55000 analyst may write the mask's inputs through it"},
			{[]string{`GRANT INSERT ON customers TO risk`, `GRANT INSERT (id, region) ON customers TO analyst`}, olga, ""},
		}
		for _, c := range cases {
			e.exec(t, admin, `BEGIN`)
			e.exec(t, admin, c.plant...)
			e.exec(t, admin, `SET LOCAL SESSION AUTHORIZATION `+c.as)
			_, err := text(t, admin, `SELECT scrim.create_feature_view('traits', 'fenc')`)
			sqlstate, words, _ := strings.Cut(c.want, " ")
			if code(err) != sqlstate || !strings.Contains(explain(err), words) && err != nil {
				t.Errorf("%v as %s: %v", c.plant, c.as, explain(err))
			}
			e.exec(t, admin, `ROLLBACK`)
		}

		// Row security that comes later closes it.
		owner := e.connect(t, olga)
		e.exec(t, owner, featureView)
		e.exec(t, owner, onlyColumns...)
		const openings = `SELECT kind, object FROM scrim.feature_view_openings('traits') ORDER BY 1, 2`
		if got := mustText(t, owner, openings); got != "" {
			t.Errorf("openings: %s", got)
		}
		e.exec(t, owner, `GRANT UPDATE (age) ON customers TO analyst, risk`, `ALTER TABLE customers ENABLE ROW LEVEL SECURITY`)
		if got := mustText(t, owner, openings); got != "masked view|row security\nprivilege|analyst\n" {
			t.Errorf("openings: %s", got)
		}
		if _, err := text(t, e.connect(t, analyst), `SELECT * FROM scrim_runtime.traits`); code(err) != "0A000" || !strings.Contains(explain(err), "row security") {
			t.Errorf("with row security: %v", explain(err))
		}
	})
}

// TestFeatureViewKinds: of partitioned tables and materialized views.
func TestFeatureViewKinds(t *testing.T) {
	for _, kind := range kinds[:3] {
		t.Run(kind.name, func(t *testing.T) {
			onEach(t, func(t *testing.T, e *env) {
				become(t, e, olga, kind.make, "public", "integer", "numeric(12,2)")
				owner := e.connect(t, olga)
				e.trains(t)
				e.exec(t, owner, `REVOKE SELECT ON customers FROM analyst`, `GRANT SELECT ON customers TO risk`, `GRANT SELECT (id, region) ON customers TO analyst`, featureEncoder, featureView)
				codes, seen := modelCodes(t, e, 1), 0
				rows, err := e.connect(t, analyst).Query(t.Context(), `SELECT id, features FROM scrim_runtime.traits WHERE features[1] > -10000`)
				if err != nil {
					t.Fatal(err)
				}
				for rows.Next() {
					var id int32
					var code []float32
					if err := rows.Scan(&id, &code); err != nil {
						t.Fatal(err)
					}
					if seen++; !slices.Equal(code, codes[id]) {
						t.Fatalf("row %d: %v, by the model %v", id, code, codes[id])
					}
				}
				if rows.Err() != nil || seen != 2000 {
					t.Fatalf("%d rows, %v", seen, explain(rows.Err()))
				}
				if got := mustText(t, e.connect(t, risk), `SELECT features FROM scrim_runtime.traits WHERE id = 2000`); !strings.Contains(got, "4.815162e+06") {
					t.Error(got)
				}
				if _, err := text(t, e.directly(t, analyst), `SELECT id FROM scrim_runtime.traits`); code(err) != "42501" {
					t.Errorf("around: %v", explain(err))
				}
			})
		})
	}
}
