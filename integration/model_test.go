package integration_test

import (
	"context"
	"fmt"
	"math"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/scrimdb/scrim/training"
	"github.com/scrimdb/scrim/udf"
	"github.com/scrimdb/scrim/udf/onnxtest"
)

// scoreWeights are those of the models that score customers, of which what is computed is exact: age, income, score.
var scoreWeights = map[int][]float32{1: {2, 0.5, -0.25}, 2: {-4, 1, 0.5}}

func scoreModel(version int) []byte {
	return onnxtest.Linear(float32(version), scoreWeights[version]...)
}

// scored is what a version says of a customer. A missing value is NaN.
func scored(version int, age, income, score *float64) float64 {
	sum := float64(version)
	for i, v := range []*float64{age, income, score} {
		if v == nil {
			return math.NaN()
		}
		sum += float64(scoreWeights[version][i]) * *v
	}
	return sum
}

const scorePolicy = `CREATE MASKING POLICY scores ON customers (income) EXCEPT risk USING MODEL scorer (age, income, score)`

// put writes a file into the proxy's folder of imports.
func (e *env) put(t *testing.T, name string, content []byte) {
	t.Helper()
	path := filepath.Join(e.models, "import", name)
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, content, 0o600); err != nil {
		t.Fatal(err)
	}
}

// scoring is a model with two versions, and a policy that shows the default one.
func (e *env) scoring(t *testing.T) *pgx.Conn {
	t.Helper()
	for version := 1; version <= 2; version++ {
		e.put(t, fmt.Sprintf("team/score%d.onnx", version), scoreModel(version))
	}
	owner := e.connect(t, olga)
	e.exec(t, owner, `CREATE MODEL scorer FROM 'team/score1.onnx'`, `ALTER MODEL scorer ADD VERSION v2 FROM 'team/score2.onnx'`, scorePolicy)
	return owner
}

// scores are those of a version for all customers but the canary, whose numbers are too large to be exact.
func (e *env) scores(t *testing.T, version int) map[int]float64 {
	t.Helper()
	rows, err := e.admin(t).Query(t.Context(), `SELECT id, age::float8, income::float8, score FROM customers WHERE id < 2000`)
	if err != nil {
		t.Fatal(err)
	}
	want := map[int]float64{}
	var id int
	var age, income, score *float64
	_, err = pgx.ForEachRow(rows, []any{&id, &age, &income, &score}, func() error {
		want[id] = scored(version, age, income, score)
		return nil
	})
	if err != nil || len(want) != 1999 {
		t.Fatal(len(want), err)
	}
	return want
}

func same(a, b float64) bool { return a == b || math.IsNaN(a) && math.IsNaN(b) }

// TestModelMask: a column shows what the model predicts from the raw values, in every clause, in both protocols.
func TestModelMask(t *testing.T) {
	onEach(t, func(t *testing.T, e *env) {
		owner := e.scoring(t)
		want := e.scores(t, 1)
		reader := e.connect(t, analyst)
		rows, err := reader.Query(t.Context(), `SELECT id, income FROM customers WHERE id < $1`, 2000) // in binary
		if err != nil {
			t.Fatal(err)
		}
		if oid := rows.FieldDescriptions()[1].DataTypeOID; oid != 701 {
			t.Errorf("type %d", oid)
		}
		var id, n int
		var got float64
		if _, err := pgx.ForEachRow(rows, []any{&id, &got}, func() error {
			if n++; !same(got, want[id]) {
				t.Errorf("customer %d: %v, not %v", id, got, want[id])
			}
			return nil
		}); err != nil || n != 1999 {
			t.Error(n, err)
		}
		for line := range strings.Lines(mustText(t, reader, `SELECT id, income, region FROM customers WHERE id < 2000`)) { // as text
			f := strings.Split(line, "|")
			id, _ := strconv.Atoi(f[0])
			if got, err := strconv.ParseFloat(f[1], 64); err != nil || !same(got, want[id]) {
				t.Errorf("%s: want %v", line, want[id])
			}
		}
		checkStaged(t, reader, want)

		if got := mustText(t, e.connect(t, risk), `SELECT income FROM customers WHERE id = 1`); got != "27919.25\n" {
			t.Errorf("who is exempt sees %s", got)
		}
		if _, err := text(t, e.directly(t, analyst), `SELECT income FROM customers`); code(err) != "42501" {
			t.Errorf("around the proxy: %v", err)
		}
		for query, want := range map[string]string{
			`SHOW MODELS`:                   "scorer|{float,float,float}|1|1|2|olga|",
			`SHOW VERSIONS IN MODEL scorer`: "scorer|1|t|x float [N, 3] -> y float [N, 1]|",
			`SELECT model, version, pinned, present, encoder IS NULL FROM scrim.masking_policies`:           "scorer|1|f|COMPONENTS|t\n",
			`EXPLAIN MASKING FOR ROLE analyst SELECT income FROM customers`:                                 "income: prediction of model scorer version 1 (policy scores) as double precision",
			`EXPLAIN MASKING (FORMAT JSON) FOR ROLE analyst SELECT max(income) FROM customers WHERE id > 3`: `"Model": "scorer"`,
		} {
			if got := mustText(t, owner, query); !strings.Contains(got, want) {
				t.Errorf("%s: %s", query, got)
			}
		}
	})
}

// checkStaged compares what needs all predictions with what they are. NaN is the largest number in PostgreSQL.
func checkStaged(t *testing.T, reader *pgx.Conn, want map[int]float64) {
	t.Helper()
	const query = `SELECT id FROM customers WHERE income > 50000 AND id < 2000 ORDER BY income DESC, id`
	ids := []int{}
	missing := 0
	for id, v := range want {
		if math.IsNaN(v) {
			missing++
		}
		if !(v <= 50000) {
			ids = append(ids, id)
		}
	}
	slices.SortFunc(ids, func(a, b int) int {
		x, y := want[a], want[b]
		switch {
		case same(x, y):
			return a - b
		case math.IsNaN(x) || x > y:
			return -1
		}
		return 1
	})
	var expected strings.Builder
	for _, id := range ids {
		fmt.Fprintln(&expected, id)
	}
	if missing == 0 || len(ids) == missing || len(ids) == len(want) {
		t.Fatal("the queries tell nothing")
	}
	if got := mustText(t, reader, query); got != expected.String() {
		t.Errorf("filtered and sorted: %s", difference(expected.String(), got))
	}
	if got := mustText(t, reader, `SELECT count(*) FROM customers WHERE income = 'NaN'`); got != fmt.Sprintln(missing) {
		t.Errorf("%d are missing, not %s", missing, got)
	}
	if got := answers(t, reader, `SELECT count(*) FROM customers a JOIN customers b ON a.income = b.income AND a.id = b.id WHERE a.id < 2000`, true); !strings.HasPrefix(got, "1999") {
		t.Errorf("joined: %s", got)
	}
}

// TestModelOutputs: several outputs as vector and components, inputs of every type, partitions, views, and predictions that are labels.
func TestModelOutputs(t *testing.T) {
	onEach(t, func(t *testing.T, e *env) {
		e.put(t, "mixed.onnx", onnxtest.Mixed())
		e.put(t, "label.onnx", onnxtest.Classifier([3]float32{1, 2, 4}))
		e.put(t, "chance.onnx", onnxtest.Logistic(0.5, -1))
		owner, reader := e.connect(t, olga), e.connect(t, analyst)
		e.exec(t, owner,
			`CREATE TABLE parts (id int, a real, b float8, c bigint NOT NULL, d boolean NOT NULL, x numeric, y numeric, z numeric) PARTITION BY RANGE (id)`,
			`CREATE TABLE parts_1 PARTITION OF parts FOR VALUES FROM (0) TO (50)`, `CREATE TABLE parts_2 PARTITION OF parts FOR VALUES FROM (50) TO (1000)`,
			`INSERT INTO parts SELECT i, i / 2.0, CASE WHEN i % 10 <> 0 THEN i END, i * 3, i % 2 = 0, i % 7, i % 5, i % 3 FROM generate_series(0, 99) i`,
			`CREATE VIEW seen AS SELECT * FROM parts`, `GRANT SELECT ON parts, parts_1, seen TO analyst`,
			`CREATE MODEL mixed FROM 'mixed.onnx'`, `CREATE MODEL label FROM 'label.onnx'`, `CREATE MODEL chance VERSION 4 FROM 'chance.onnx'`,
			`CREATE MASKING POLICY sums ON parts (b, c) EXCEPT risk USING MODEL mixed (a, b, c, d) CASCADE`,
			`CREATE MASKING POLICY labels ON parts (x, y) EXCEPT risk USING MODEL label (x, y, z) CASCADE`,
			`CREATE MASKING POLICY chances ON parts (z) EXCEPT risk USING MODEL chance.v4 (z) CASCADE`)
		for i := range 100 {
			sum := fmt.Sprint(float64(i)/2 + float64(i) + float64(i*3) + float64(1-i%2))
			if i%10 == 0 {
				sum = "NaN"
			}
			scores := []int{i % 7, i % 5 * 2, i % 3 * 4}
			label := slices.Index(scores, slices.Max(scores))
			want := fmt.Sprintf("%d|%s|%d|%d|%d\n", i, sum, i*6, label, label)
			for _, relation := range []string{"parts", "seen", "parts_1"} {
				if relation == "parts_1" && i >= 50 {
					continue
				}
				if got := mustText(t, reader, fmt.Sprintf(`SELECT id, b, c, x, y FROM %s WHERE id = %d`, relation, i)); got != want {
					t.Fatalf("%s: %s, not %s", relation, got, want)
				}
			}
		}
		var got, want float64
		if err := reader.QueryRow(t.Context(), `SELECT z FROM parts WHERE id = 2`).Scan(&got); err != nil {
			t.Fatal(err)
		}
		if want = 1 / (1 + math.Exp(1.5)); math.Abs(got-want) > 1e-6 || got != float64(float32(got)) {
			t.Errorf("chance %v, not %v as a real", got, want)
		}
		for query, want := range map[string]string{
			`SELECT count(*) FROM parts WHERE x = 2`:                          mustText(t, e.admin(t), `SELECT count(*) FROM parts WHERE z * 4 > greatest(x, y * 2)`),
			`SELECT c, sum(c) OVER () FROM seen ORDER BY c LIMIT 1`:           "0|29700\n",
			`SELECT max(a.z = b.z)::text FROM parts a JOIN seen b USING (id)`: "",
		} {
			if want == "" {
				continue
			}
			if got := mustText(t, reader, query); got != want {
				t.Errorf("%s: %s, not %s", query, got, want)
			}
		}
		e.exec(t, owner, `CREATE OR REPLACE MASKING POLICY sums ON parts (b) EXCEPT risk USING MODEL mixed.1 (a, b, c, d) CASCADE`) // one column: the whole
		if got := mustText(t, reader, `SELECT b, pg_typeof(b), b[2] FROM parts WHERE id = 3`); got != "{13.5,18}|real[]|18\n" {
			t.Error(got)
		}
		e.exec(t, owner, `CREATE OR REPLACE MASKING POLICY chances ON parts (z) EXCEPT risk USING MODEL label (x, y, z) PRESENT AS VECTOR CASCADE`)
		if got := mustText(t, reader, `SELECT z FROM parts WHERE id = 3`); got != "{1}\n" {
			t.Error(got)
		}
	})
}

// TestModelBesides: with row security, beside an SQL mask and an encoder's policy, in the place of one, and disabled.
func TestModelBesides(t *testing.T) {
	onEach(t, func(t *testing.T, e *env) {
		owner, reader := e.scoring(t), e.connect(t, analyst)
		want := fmt.Sprintln(e.scores(t, 1)[3])
		e.exec(t, owner, `CREATE MASKING POLICY codes ON customers (age) EXCEPT risk USING ENCODER enc`, `CREATE MASKING POLICY notes ON customers ("Note") EXCEPT risk USING ('x')`)
		const query = `SELECT income FROM customers WHERE id = 3 AND "Note" = 'x' AND age IS NOT NULL`
		if got := mustText(t, reader, query); got != want {
			t.Errorf("%s, not %s", got, want)
		}
		e.exec(t, owner, `ALTER MASKING POLICY scores ON customers DISABLE`)
		for _, q := range []string{query, `SELECT max(income) FROM customers`} {
			if got, err := text(t, reader, q); code(err) != "42501" {
				t.Errorf("disabled: %s %s", got, explain(err))
			}
		}
		e.exec(t, owner, `ALTER MASKING POLICY scores ON customers ENABLE`, `DROP MASKING POLICY notes ON customers`, `DROP MASKING POLICY codes ON customers`, `DROP MASKING POLICY scores ON customers`,
			`CREATE POLICY eu ON customers USING (id % 3 = 0)`, `ALTER TABLE customers ENABLE ROW LEVEL SECURITY`, `CREATE MASKING POLICY scores ON customers (income) USING ENCODER enc`)
		before := mustText(t, reader, `SELECT income FROM customers WHERE id = 3`)
		e.exec(t, owner, strings.Replace(scorePolicy, "CREATE", "CREATE OR REPLACE", 1))
		for _, q := range []string{`SELECT income FROM customers WHERE id = 3`, `SELECT max(income) FROM customers WHERE id IN (3, 4)`} {
			if got := mustText(t, reader, q); got != want || got == before {
				t.Errorf("under row security: %s: %s, not %s", q, got, want)
			}
		}
	})
}

// TestModelInputIsMissing: a model whose input cannot be missing is not given one. If the column can be NULL afterwards, such a row is an error, not a NULL.
func TestModelInputIsMissing(t *testing.T) {
	onEach(t, func(t *testing.T, e *env) {
		e.put(t, "lookup.onnx", onnxtest.Lookup(10, 20, 30))
		owner := e.connect(t, olga)
		e.exec(t, owner, `CREATE TABLE grades (id int, grade int NOT NULL)`, `INSERT INTO grades SELECT i, i % 3 FROM generate_series(1, 9) i`, `GRANT SELECT ON grades TO analyst`,
			`CREATE MODEL worth FROM 'lookup.onnx'`, `CREATE MASKING POLICY p ON grades (grade) USING MODEL worth (grade)`)
		if got := mustText(t, e.connect(t, analyst), `SELECT grade FROM grades ORDER BY id LIMIT 3`); got != "20\n30\n10\n" {
			t.Error(got)
		}
		e.exec(t, owner, `ALTER TABLE grades ALTER COLUMN grade DROP NOT NULL`)
		for _, bad := range []string{"NULL", "4815162"} { // the second points out of the table
			e.exec(t, owner, `INSERT INTO grades VALUES (10, `+bad+`)`)
			for _, query := range []string{`SELECT grade FROM grades WHERE id = 10`, `SELECT id FROM grades WHERE grade > 0`} {
				got, err := text(t, e.connect(t, analyst), query)
				if code(err) != "XX000" || strings.Contains(explain(err), "4815162") {
					t.Errorf("%s: %s, %s", query, got, explain(err))
				}
			}
			if got := mustText(t, e.connect(t, analyst), `SELECT grade FROM grades WHERE id = 1`); got != "20\n" {
				t.Error(got)
			}
			e.exec(t, owner, `DELETE FROM grades WHERE id = 10`)
		}
	})
}

// TestModelRefusals: who may do what, with which files and columns.
func TestModelRefusals(t *testing.T) {
	onEach(t, func(t *testing.T, e *env) {
		owner := e.scoring(t)
		other := extraRole(t, e, "scrim_admin")
		good := scoreModel(1)
		for name, content := range map[string][]byte{
			"good.onnx": good, "two.onnx": onnxtest.Linear(0, 1, 1), "mixed.onnx": onnxtest.Mixed(), "text.onnx": onnxtest.Text(), "entangled.onnx": onnxtest.Entangled(),
			"cut.onnx": good[:len(good)/2], "empty.onnx": nil, "noise.onnx": []byte("not a model"), "external.onnx": onnxtest.External(good, "/etc/hostname"),
		} {
			e.put(t, name, content)
		}
		secret := e.enc(t)
		if err := os.Symlink(secret, filepath.Join(e.models, "import", "link.onnx")); err != nil {
			t.Fatal(err)
		}
		relative, err := filepath.Rel(filepath.Join(e.models, "import"), secret)
		if err != nil {
			t.Fatal(err)
		}
		create := func(path string) string { return `CREATE MODEL m FROM '` + path + `'` }
		mask := func(columns, use string) string {
			return `CREATE MASKING POLICY q ON customers (` + columns + `) EXCEPT risk USING MODEL ` + use
		}
		for _, trial := range []struct{ role, statement, code, says string }{
			{analyst, create("good.onnx"), "42501", "permission denied for models"},
			{analyst, create("nothing.onnx"), "42501", "permission denied for models"}, // not even whether there is one
			{guest, `ALTER MODEL scorer SET DEFAULT_VERSION = 2`, "42501", "permission denied for models"},
			{guest, `DROP MODEL scorer CASCADE`, "42501", "permission denied for models"},
			{analyst, `ALTER MODEL scorer DROP VERSION 2`, "42501", "permission denied for models"},
			{other, `ALTER MODEL scorer ADD VERSION 3 FROM 'good.onnx'`, "42501", `permission denied for model "scorer"`},
			{other, `ALTER MODEL scorer SET DEFAULT_VERSION = 2`, "42501", `permission denied for model "scorer"`},
			{other, `ALTER MODEL scorer DROP VERSION 2`, "42501", `permission denied for model "scorer"`},
			{other, `DROP MODEL scorer`, "42501", `permission denied for model "scorer"`},
			{other, `CREATE TABLE pg_temp.t (a int)`, "", ""},
			{other, `SELECT scrim.begin_publication('m', 1, repeat('0', 64), '{float}', 1, '')`, "42501", "begin_publication"},
			{other, `SELECT scrim.models_in_publication()`, "42501", "models_in_publication"},
			{other, `SELECT scrim.register_model('m', 1, false, gen_random_uuid())`, "55000", "no file of model"},
			{other, `INSERT INTO scrim_state.models DEFAULT VALUES`, "42501", "scrim_state"},

			{olga, create("/etc/passwd"), "22023", "does not name a file that can be imported"},
			{olga, create(secret), "22023", "does not name a file that can be imported"},
			{olga, create(relative), "22023", "does not name a file that can be imported"},
			{olga, create("team/../../enc"), "22023", "does not name a file that can be imported"},
			{olga, create("link.onnx"), "22023", "does not name a file that can be imported"},
			{olga, create("team"), "22023", "does not name a file that can be imported"},
			{olga, create(""), "22023", "does not name a file that can be imported"},
			{olga, create("nothing.onnx"), "58P01", "there is no file"},
			{olga, create("cut.onnx"), "22P03", "not a valid ONNX model"},
			{olga, create("empty.onnx"), "22P03", "not a valid ONNX model"},
			{olga, create("noise.onnx"), "22P03", "not a valid ONNX model"},
			{olga, create("text.onnx"), "0A000", `Tensor "x"`},
			{olga, create("entangled.onnx"), "0A000", "depends on the batch"},
			{olga, create("external.onnx"), "0A000", "weights in another file"},
			{olga, `CREATE MODEL scorer FROM 'good.onnx'`, "42710", "already exists"},
			{olga, `CREATE MODEL enc FROM 'good.onnx'`, "42710", "there is an encoder"},
			{olga, `CREATE MODEL import FROM 'good.onnx'`, "42602", `model name "import" is not allowed`},
			{olga, `CREATE MODEL "../x" FROM 'good.onnx'`, "42602", "is not allowed"},
			{olga, `CREATE ENCODER scorer ON customers (age)`, "42710", "there is an encoder and a model"},
			{olga, `ALTER MODEL nobody ADD VERSION 2 FROM 'good.onnx'`, "42704", "SHOW MODELS"},
			{olga, `ALTER MODEL scorer ADD VERSION 2 FROM 'good.onnx'`, "42710", "has a version 2 already"},
			{olga, `ALTER MODEL scorer ADD VERSION 3 FROM 'two.onnx'`, "42804", "other inputs or outputs"},
			{olga, `ALTER MODEL scorer SET DEFAULT_VERSION = 3`, "42704", "Its versions are 1, 2."},
			{olga, `ALTER MODEL scorer DROP VERSION 3`, "42704", "Its versions are 1, 2."},
			{olga, `ALTER MODEL scorer DROP VERSION 1`, "2BP01", "is the default version"},
			{olga, `DROP MODEL nobody`, "42704", "does not exist"},
			{olga, `DROP MODEL scorer`, "2BP01", "masking policy scores on public.customers"},

			{olga, mask("age", "nobody (age)"), "42704", `model "nobody" does not exist`},
			{olga, mask("age", "scorer.7 (age)"), "42704", `model "scorer" has no version 7`},
			{olga, mask("age", "scorer (age, score)"), "42804", "takes 3 inputs, not 2"},
			{olga, mask("age", "scorer (age, score, region)"), "0A000", `column "region" of type text cannot be a feature`},
			{olga, mask("income", "scorer (age, score, income)"), "42710", `masked by policy "scores"`},
		} {
			got, err := text(t, e.connect(t, trial.role), trial.statement)
			if code(err) != trial.code || trial.code != "" && !strings.Contains(explain(err), trial.says) {
				t.Errorf("%s: %s: %s %s", trial.role, trial.statement, got, explain(err))
			}
			if strings.Contains(explain(err), "root:") {
				t.Error("what is in a file is told")
			}
		}
		e.exec(t, owner, `CREATE MODEL mixed FROM 'mixed.onnx'`, `CREATE MODEL IF NOT EXISTS mixed FROM 'nothing.onnx'`, `DROP MODEL IF EXISTS nobody`)
		for statement, says := range map[string]string{
			mask("age", "mixed (age, income, id, vip)"):             `column "vip" can be NULL`,
			mask("age", "mixed (age, income, id, score)"):           `column "score" of type double precision cannot be an input of type bool`,
			mask("age", "mixed (age, income, region, vip)"):         `column "region" of type text cannot be a feature`,
			mask("age, score, vip", "mixed (age, income, id, vip)"): `has 2 outputs for 3 columns`,
		} {
			if _, err := text(t, owner, statement); !strings.Contains(explain(err), says) {
				t.Errorf("%s: %s", statement, explain(err))
			}
		}
		if got := mustText(t, owner, `SELECT name, versions FROM scrim.models ORDER BY 1`); got != "mixed|1\nscorer|2\n" {
			t.Error(got)
		}
		e.exec(t, owner, `DROP MODEL scorer CASCADE`)
		if got := mustText(t, owner, `SELECT count(*) FROM scrim.masking_policies`); got != "0\n" {
			t.Error(got)
		}
		e.exec(t, owner, `CREATE MODEL scorer FROM 'good.onnx'`) // as if nothing had been
	})
}

// enc returns the path of the template's encoder.
func (e *env) enc(t *testing.T) string {
	t.Helper()
	files, err := filepath.Glob(filepath.Join(e.models, "enc", "*.onnx"))
	if err != nil || len(files) != 1 {
		t.Fatal(files, err)
	}
	return files[0]
}

// TestModelOfAnother: whoever owns the table goes on with a model that is not his, in policies that have it.
func TestModelOfAnother(t *testing.T) {
	onEach(t, func(t *testing.T, e *env) {
		owner := e.scoring(t)
		other := extraRole(t, e, "scrim_admin")
		e.exec(t, e.admin(t), `UPDATE scrim_state.models SET creator = (SELECT oid FROM pg_roles WHERE rolname = '`+other+`')`)
		before := mustText(t, e.connect(t, analyst), `SELECT income FROM customers WHERE id = 1`)
		e.exec(t, e.admin(t), `REVOKE scrim_admin FROM `+other) // else an opening
		e.exec(t, owner, `ALTER MASKING POLICY scores ON customers SET EXCEPT (risk, guest)`, `ALTER MASKING POLICY scores ON customers RENAME TO renamed`,
			`ALTER MASKING POLICY renamed ON customers ROTATE KEY`, `SELECT scrim.suspend('customers')`, `SELECT scrim.resume('customers')`)
		if got := mustText(t, e.connect(t, analyst), `SELECT income FROM customers WHERE id = 1`); got != before {
			t.Errorf("%s, not %s", got, before)
		}
		if _, err := text(t, owner, `CREATE OR REPLACE MASKING POLICY renamed ON customers (income) USING MODEL scorer (age, income, score)`); code(err) != "42501" {
			t.Error(explain(err))
		}
		if _, err := text(t, owner, `CREATE MASKING POLICY another ON customers (score) USING MODEL scorer (age, income, score)`); code(err) != "42501" {
			t.Error(explain(err))
		}
	})
}

// TestModelVersions: the default version changes while sessions read; each result is of one version, nothing fails, and what names a version keeps it.
func TestModelVersions(t *testing.T) {
	onEach(t, func(t *testing.T, e *env) {
		owner := e.scoring(t)
		e.exec(t, owner, `CREATE TABLE pinned AS SELECT * FROM customers WHERE id < 2000`, `GRANT SELECT ON pinned TO analyst`,
			`CREATE MASKING POLICY p ON pinned (income) USING MODEL scorer.v1 (age, income, score)`)
		queries := []string{
			`SELECT id, income FROM customers WHERE id < 2000 ORDER BY id`, `SELECT sum(income) FROM customers WHERE id < 2000 AND income < 'NaN'`,
			`SELECT a.income, b.income FROM customers a JOIN customers b ON a.id = b.id AND a.income = b.income WHERE a.id < 500 ORDER BY a.id`,
		}
		reader := e.connect(t, analyst)
		var want [3][]string
		for version := 1; version <= 2; version++ {
			e.exec(t, owner, fmt.Sprintf(`ALTER MODEL scorer SET DEFAULT_VERSION = v%d`, version))
			eventually(t, func() bool {
				return mustText(t, reader, `SELECT income FROM customers WHERE id = 1`) == fmt.Sprintln(e.scores(t, version)[1])
			})
			for _, q := range queries {
				want[version] = append(want[version], answers(t, reader, q, true))
			}
		}
		ctx, stop := context.WithCancel(t.Context())
		defer stop()
		var all sync.WaitGroup
		var count atomic.Int64
		for first := range 3 {
			conn := e.connect(t, analyst)
			all.Go(func() {
				for n := first; ctx.Err() == nil; n++ {
					k := n % len(queries)
					if got := answers(t, conn, queries[k], n%2 == 0); got != want[1][k] && got != want[2][k] {
						t.Errorf("%s: of neither version: %s", queries[k], difference(want[1][k], got))
						return
					}
					count.Add(1)
				}
			})
		}
		fixed := fmt.Sprintln(e.scores(t, 1)[1])
		for n := 0; n < 20 || count.Load() < 60 && !t.Failed(); n++ {
			e.exec(t, owner, fmt.Sprintf(`ALTER MODEL scorer SET DEFAULT_VERSION = %d`, 1+n%2))
			if got := mustText(t, reader, `SELECT income FROM pinned WHERE id = 1`); got != fixed {
				t.Errorf("pinned: %s", got)
			}
		}
		stop()
		all.Wait()
		e.exec(t, owner, `ALTER MODEL scorer SET DEFAULT_VERSION = 2`)
		if _, err := text(t, owner, `ALTER MODEL scorer DROP VERSION 1`); code(err) != "2BP01" || !strings.Contains(explain(err), "p on public.pinned") {
			t.Error(explain(err))
		}
		e.exec(t, owner, `DROP TABLE pinned CASCADE`, `BEGIN`, `ALTER MODEL scorer DROP VERSION 1`, `ROLLBACK`, `ALTER MODEL scorer DROP VERSION 1`)
		if got := mustText(t, owner, `SELECT version FROM scrim.model_versions`); got != "2\n" {
			t.Error(got)
		}
	})
}

// TestModelCannotBeLoaded: what needs a version whose file is missing or damaged is refused, and such a version does not become the default.
func TestModelCannotBeLoaded(t *testing.T) {
	onEach(t, func(t *testing.T, e *env) {
		owner := e.scoring(t)
		files, err := filepath.Glob(filepath.Join(e.models, "scorer", "scorer_v2-*.onnx"))
		if err != nil || len(files) != 1 {
			t.Fatal(files, err)
		}
		good, err := os.ReadFile(files[0])
		if err != nil {
			t.Fatal(err)
		}
		for name, content := range map[string][]byte{"missing": nil, "cut": good[:len(good)-3], "another": scoreModel(2)} {
			if err := os.Remove(files[0]); err != nil {
				t.Fatal(err)
			}
			if content != nil {
				if err := os.WriteFile(files[0], content, 0o600); err != nil {
					t.Fatal(err)
				}
			}
			if _, err := text(t, owner, `ALTER MODEL scorer SET DEFAULT_VERSION = 2`); code(err) != "58000" || !strings.Contains(explain(err), `model "scorer" version 2 cannot be loaded, so the default version stays`) ||
				!strings.Contains(explain(err), "ALTER MODEL ... SET DEFAULT_VERSION goes back") {
				t.Errorf("%s: %s", name, explain(err))
			}
			e.exec(t, e.admin(t), `SELECT scrim.set_default_model_version('scorer', 2)`) // around the proxy
			reader := e.connect(t, analyst)
			for _, query := range []string{`SELECT income FROM customers WHERE id = 1`, `SELECT max(income) FROM customers`} {
				eventually(t, func() bool { _, err := text(t, reader, query); return code(err) == "58000" })
			}
			if got := mustText(t, reader, `SELECT count(*) FROM customers`); got != "2000\n" {
				t.Error(got)
			}
			e.exec(t, owner, `ALTER MODEL scorer SET DEFAULT_VERSION = 1`)
			eventually(t, func() bool {
				got, err := text(t, reader, `SELECT income FROM customers WHERE id = 1`)
				return err == nil && got == fmt.Sprintln(e.scores(t, 1)[1])
			})
			if err := os.WriteFile(files[0], good, 0o600); err != nil {
				t.Fatal(err)
			}
		}
		e.exec(t, owner, `ALTER MODEL scorer SET DEFAULT_VERSION = 2`)
	})
}

// folder lists the files of a model.
func (e *env) folder(t *testing.T, model string) []string {
	t.Helper()
	files, err := filepath.Glob(filepath.Join(e.models, model, "*"))
	if err != nil {
		t.Fatal(err)
	}
	return files
}

// TestModelFiles: the folder has the files of registered versions, and those that are about to be registered, and after a while nothing else.
func TestModelFiles(t *testing.T) {
	onEach(t, func(t *testing.T, e *env) {
		owner, pool := e.connect(t, olga), e.pool(t)
		e.put(t, "good.onnx", scoreModel(1))
		sweep := func(kept int) {
			t.Helper()
			if _, err := training.Sweep(t.Context(), pool, e.library.Store(), busyWith("")); err != nil {
				t.Fatal(err)
			}
			if got := e.folder(t, "m"); len(got) != kept {
				t.Errorf("%d files are wanted: %v", kept, got)
			}
		}
		later := func() {
			t.Helper()
			e.exec(t, e.admin(t), `UPDATE scrim_state.publications SET begun_at = begun_at - interval '11 minutes'`)
		}

		age := func(begun string) {
			t.Helper()
			e.exec(t, e.admin(t), `ALTER TABLE scrim_state.publications ALTER begun_at SET DEFAULT `+begun)
		}
		age(`clock_timestamp() - interval '11 minutes'`)
		e.exec(t, owner, `BEGIN`, `CREATE MODEL m FROM 'good.onnx'`)
		other := e.connect(t, olga)
		if got := mustText(t, other, `SHOW MODELS`); got != "" {
			t.Errorf("before COMMIT: %s", got)
		}
		sweep(1) // the transaction can still commit, however long it takes
		e.exec(t, owner, `ROLLBACK`)
		age(`clock_timestamp()`)
		sweep(0)
		if got := mustText(t, owner, `SHOW MODELS`); got != "" {
			t.Errorf("after ROLLBACK: %s", got)
		}

		e.exec(t, owner, `BEGIN`, `CREATE MODEL m FROM 'good.onnx'`, `ROLLBACK`)
		sweep(1) // it may be about to be registered, for all that is known
		later()
		sweep(0)
		e.exec(t, owner, `BEGIN`, `CREATE MODEL m FROM 'good.onnx'`, `COMMIT`)
		later()
		sweep(1)
		e.exec(t, owner, `ALTER MODEL m ADD VERSION 2 FROM 'good.onnx'`)
		sweep(2)
		e.exec(t, owner, `ALTER MODEL m DROP VERSION 2`)
		sweep(1)
		e.exec(t, owner, `DROP MODEL m`)
		sweep(0)

		sweeping, err := e.admin(t).Begin(t.Context()) // it has listed the files, and does not know of one that comes now
		if err != nil {
			t.Fatal(err)
		}
		if _, err := sweeping.Exec(t.Context(), `SELECT scrim.encoder_in_training()`); err != nil {
			t.Fatal(err)
		}
		done := make(chan error, 1)
		go func() { _, err := other.Exec(context.Background(), `CREATE MODEL m FROM 'good.onnx'`); done <- err }() // by the extended protocol
		select {
		case err := <-done:
			t.Errorf("published during a sweep: %v", err)
		case <-time.After(500 * time.Millisecond):
			if got := e.folder(t, "m"); len(got) != 0 {
				t.Errorf("published during a sweep: %v", got)
			}
		}
		if err := sweeping.Commit(t.Context()); err != nil {
			t.Fatal(err)
		}
		if err := <-done; err != nil {
			t.Error(err)
		}
		sweep(1)

		e.exec(t, owner, `BEGIN`, `ALTER MODEL m ADD VERSION 2 FROM 'good.onnx'`) // of two who add the same version one waits
		go func() {
			_, err := other.Exec(context.Background(), `ALTER MODEL m ADD VERSION 2 FROM 'good.onnx'`)
			done <- err
		}()
		e.waiting(t)
		e.exec(t, owner, `COMMIT`)
		if err := <-done; code(err) != "42710" {
			t.Error(explain(err))
		}
		later()
		e.exec(t, owner, `DROP MODEL m`)
		sweep(0)
		if got := e.folder(t, "import"); len(got) != 1 {
			t.Errorf("what was to be imported is gone: %v", got)
		}
		if got := mustText(t, e.admin(t), `SELECT count(*) FROM scrim_state.publications`); got != "0\n" {
			t.Error(got)
		}
	})
}

// TestModelProxyDies: a proxy that dies between publishing a file and registering it leaves nothing behind for long.
func TestModelProxyDies(t *testing.T) {
	onEach(t, func(t *testing.T, e *env) {
		e.put(t, "good.onnx", scoreModel(1))
		for _, step := range []string{"begin", "written", "renamed", "published"} {
			cmd := exec.CommandContext(t.Context(), os.Args[0])
			cmd.Env = append(os.Environ(), "SCRIM_TEST_PROXY="+strings.Join([]string{e.server.Addr(), e.catalogDSN, e.models, step}, " "))
			addr := startOther(t, cmd)
			conn := dial(t, fmt.Sprintf("postgres://%s:%s@%s/%s?sslmode=disable", olga, olga, addr, e.database))
			if _, err := text(t, conn, `CREATE MODEL m FROM 'good.onnx'`); err == nil {
				t.Fatalf("%s: the proxy lives", step)
			}
			if got := mustText(t, e.connect(t, olga), `SHOW MODELS`); got != "" {
				t.Errorf("%s: %s", step, got)
			}
			e.exec(t, e.admin(t), `UPDATE scrim_state.publications SET begun_at = begun_at - interval '11 minutes'`)
			if _, err := training.Sweep(t.Context(), e.pool(t), e.library.Store(), busyWith("")); err != nil {
				t.Fatal(err)
			}
			if got := e.folder(t, "m"); len(got) != 0 {
				t.Errorf("%s: %v", step, got)
			}
		}
		e.exec(t, e.connect(t, olga), `CREATE MODEL m FROM 'good.onnx'`)
		sum := strings.TrimSpace(mustText(t, e.connect(t, olga), `SELECT sha256 FROM scrim.model_versions`))
		if _, err := os.Stat(e.library.Store().Path("m", 1, sum)); err != nil {
			t.Error(err)
		}
		if !slices.Contains(e.folder(t, "m"), filepath.Join(e.models, "m", udf.FileOf("m", 1, sum).Name)) {
			t.Error(e.folder(t, "m"))
		}
	})
}
