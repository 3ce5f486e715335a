//go:build linux

package bench_test

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"math"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5/pgconn"

	"github.com/scrimdb/scrim/native"
	"github.com/scrimdb/scrim/udf"
)

// today is what people do without Scrim to get the same codes, with what it takes.
type today struct {
	l       *laboratory
	direct  *way
	scrim   *way
	network *network
	runtime *udf.Runtime
	encoder *udf.Encoder
}

// features are the encoder's inputs, and incomeCode which component a masked income is.
var features = []string{"age", "income", "score"}

const incomeCode = 1

const (
	scanPlain  = `SELECT id, region, code_plain(age, income, score) AS income FROM customers`
	scanNumpy  = `SELECT id, region, code_numpy(age, income, score) AS income FROM customers`
	scanJoined = `SELECT id, region, codes.income FROM customers JOIN codes USING (id)`
)

// timing is how long one way to the codes took, in seconds, round by round.
type timing struct {
	name    string
	seconds []float64
}

// BenchmarkToday reads all ids and regions with codes of income: masked by Scrim; by a PL/Python function that computes the
// same network row by row, with and without numpy; and by export, encoding, import and a join. raw are the
// incomes themselves. In `joined` the codes lie in a table already.
func BenchmarkToday(b *testing.B) {
	ctx := context.Background()
	t, err := lab.openToday(ctx)
	if err != nil {
		b.Fatal(err)
	}
	defer t.close()
	trials := t.trials(ctx)
	timings := make([]timing, len(trials))
	for b.Loop() {
		for round := range lab.rounds {
			for turn := range trials {
				i := (round + turn) % len(trials)
				took, err := trials[i].do()
				if err != nil {
					b.Fatalf("%s: %v", trials[i].name, err)
				}
				timings[i].name = trials[i].name
				timings[i].seconds = append(timings[i].seconds, took.Seconds())
			}
		}
	}
	b.ReportMetric(0, "ns/op")
	for i := range timings[1:] {
		c := &timings[1+i]
		b.ReportMetric(median(ratios(c.seconds, timings[0].seconds)), c.name+"/raw")
		if i > 0 {
			b.ReportMetric(median(ratios(c.seconds, timings[1].seconds)), c.name+"/masked")
		}
	}
	lab.summary.today = timings
}

// road is one way to the codes; do says how long it took.
type road struct {
	name string
	do   func() (time.Duration, error)
}

func (t *today) trials(ctx context.Context) []road {
	reads := func(w *way, role, query string) func() (time.Duration, error) {
		return func() (time.Duration, error) { return t.l.readAs(ctx, w, role, query, t.l.maskedRows()) }
	}
	return []road{
		{"raw", reads(t.direct, role, scanMasked)}, // whoever may read the column reads it by the same statement
		{"masked", reads(t.scrim, analyst, scanMasked)},
		{"plpython", reads(t.direct, role, scanPlain)},
		{"numpy", reads(t.direct, role, scanNumpy)},
		{"export", func() (time.Duration, error) { return t.exportAndJoin(ctx) }},
		{"joined", reads(t.direct, role, scanJoined)},
	}
}

// openToday makes the functions and the encoder, and looks that they give what Scrim does.
func (l *laboratory) openToday(ctx context.Context) (_ *today, err error) {
	proxies, err := l.openMasked(ctx)
	if err != nil {
		return nil, err
	}
	t := &today{l: l, direct: l.withoutProxy()}
	defer func() {
		if err != nil {
			t.close()
		}
	}()
	if t.scrim, err = l.launch(ctx, proxies[0]); err != nil {
		return nil, err
	}
	if err := t.load(ctx); err != nil {
		return nil, err
	}
	if err := t.makeFunctions(ctx); err != nil {
		return nil, err
	}
	if _, err := t.exportAndJoin(ctx); err != nil {
		return nil, err
	}
	return t, t.compareCodes(ctx)
}

func (t *today) close() {
	if t.scrim != nil {
		t.scrim.process.stop()
	}
	if t.encoder != nil {
		_ = t.encoder.Close()
	}
	if t.runtime != nil {
		_ = t.runtime.Close()
	}
}

// load opens the published model, as a network and as an encoder.
func (t *today) load(ctx context.Context) error {
	files, err := filepath.Glob(filepath.Join(t.l.models(), encoder, "*.onnx"))
	if err != nil || len(files) != 1 {
		return fmt.Errorf("one model file is expected, not %q (%w)", files, err)
	}
	model, err := os.ReadFile(files[0])
	if err != nil {
		return err
	}
	if t.network, err = readNetwork(model); err != nil {
		return err
	}
	library, err := native.ONNXRuntime(ctx, native.Config{})
	if err != nil {
		return err
	}
	if t.runtime, err = udf.NewRuntime(library); err != nil {
		return err
	}
	sum := sha256.Sum256(model)
	t.encoder, err = t.runtime.LoadEncoder(udf.EncoderSpec{
		Name: encoder, Version: 1, Path: files[0], SHA256: hex.EncodeToString(sum[:]), Inputs: len(features), Dims: len(features),
	})
	return err
}

// makeFunctions makes the functions in PL/Python. They may run in parallel workers, where the planner wants to.
func (t *today) makeFunctions(ctx context.Context) error {
	major := t.l.server.Version() / 10_000
	if err := t.l.superuser(ctx, maskedDatabase, `CREATE EXTENSION IF NOT EXISTS plpython3u`); err != nil {
		return fmt.Errorf("install the Debian package postgresql-plpython3-%d: %w", major, err)
	}
	if err := t.l.superuser(ctx, maskedDatabase, `DO LANGUAGE plpython3u 'import numpy'`); err != nil {
		return fmt.Errorf("install the Debian package python3-numpy: %w", err)
	}
	const function = `CREATE OR REPLACE FUNCTION %s(age float8, income float8, score float8) RETURNS float8
		LANGUAGE plpython3u IMMUTABLE PARALLEL SAFE AS $python$
%s$python$`
	return t.l.superuser(ctx, maskedDatabase, fmt.Sprintf(function, "code_plain", t.network.plainPython(features, incomeCode))+";"+
		fmt.Sprintf(function, "code_numpy", t.network.numpyPython(features, incomeCode)))
}

// exportAndJoin copies the features out, encodes them in batches, copies the codes into a table, and reads the join.
func (t *today) exportAndJoin(ctx context.Context) (time.Duration, error) {
	conn, err := t.l.connect(ctx, t.direct)
	if err != nil {
		return 0, err
	}
	started := time.Now()
	codes, err := t.export(ctx, conn)
	if err == nil {
		_, err = conn.Exec(ctx, `DROP TABLE IF EXISTS codes; CREATE TABLE codes (id integer, income double precision)`).ReadAll()
	}
	if err == nil {
		_, err = conn.CopyFrom(ctx, codes, `COPY codes FROM STDIN`)
	}
	if err != nil {
		return 0, errors.Join(err, conn.Close(ctx))
	}
	err = readAll(conn, scanJoined, t.l.maskedRows())
	return time.Since(started), err
}

// export returns the codes as COPY takes them.
func (t *today) export(ctx context.Context, conn *pgconn.PgConn) (*bytes.Buffer, error) {
	var raw, out bytes.Buffer
	if _, err := conn.CopyTo(ctx, &raw, `COPY (SELECT id, age, income, score FROM customers) TO STDOUT`); err != nil {
		return nil, err
	}
	const batch = 4096
	var ids [][]byte
	var inputs []float64
	codes := make([]float32, batch*t.encoder.Dims())
	for line := range bytes.Lines(raw.Bytes()) {
		id, values, _ := bytes.Cut(bytes.TrimSuffix(line, []byte("\n")), []byte("\t"))
		ids = append(ids, id)
		for value := range bytes.SplitSeq(values, []byte("\t")) {
			v := math.NaN() // of NULL
			if string(value) != `\N` {
				var err error
				if v, err = strconv.ParseFloat(string(value), 64); err != nil {
					return nil, err
				}
			}
			inputs = append(inputs, v)
		}
		if len(ids) == batch {
			if err := t.encodeTo(&out, ids, inputs, codes); err != nil {
				return nil, err
			}
			ids, inputs = ids[:0], inputs[:0]
		}
	}
	return &out, t.encodeTo(&out, ids, inputs, codes)
}

func (t *today) encodeTo(out *bytes.Buffer, ids [][]byte, inputs []float64, codes []float32) error {
	dims := t.encoder.Dims()
	if err := t.encoder.Encode(codes[:len(ids)*dims], inputs); err != nil {
		return err
	}
	for i, id := range ids {
		line := append(out.AvailableBuffer(), id...)
		line = strconv.AppendFloat(append(line, '\t'), float64(codes[i*dims+incomeCode]), 'g', -1, 64)
		out.Write(append(line, '\n'))
	}
	return nil
}

// compareCodes looks that it is the same work: masked, and joined, the same code; of the functions the same but for rounding.
func (t *today) compareCodes(ctx context.Context) error {
	const some = " WHERE id <= 1000 ORDER BY 1"
	masked, err := t.incomes(ctx, t.scrim, analyst, scanMasked+some)
	if err != nil {
		return err
	}
	for query, tolerance := range map[string]float64{scanPlain: 1e-5, scanNumpy: 1e-5, scanJoined: 0} {
		got, err := t.incomes(ctx, t.direct, role, query+some)
		if err != nil {
			return err
		}
		if len(got) != 1000 || len(masked) != 1000 {
			return fmt.Errorf("%s: %d rows, and %d masked", query, len(got), len(masked))
		}
		for i := range got {
			if d := math.Abs(got[i] - masked[i]); !(d <= tolerance) {
				return fmt.Errorf("%s: %v in row %d, where masked is %v", query, got[i], i+1, masked[i])
			}
		}
	}
	return nil
}

// incomes are the numbers in the third column.
func (t *today) incomes(ctx context.Context, w *way, role, query string) ([]float64, error) {
	conn, err := t.l.connectAs(ctx, w, role)
	if err != nil {
		return nil, err
	}
	results, err := conn.Exec(ctx, query).ReadAll()
	err = errors.Join(err, conn.Close(ctx))
	if err != nil {
		return nil, err
	}
	var list []float64
	for _, row := range results[0].Rows {
		v, err := strconv.ParseFloat(string(row[2]), 64)
		if err != nil {
			return nil, err
		}
		list = append(list, v)
	}
	return list, nil
}

// markdownToday has a row for each way.
func (s *summary) markdownToday(b *strings.Builder) {
	fmt.Fprintf(b, "\n| %d rows | time | × raw | × masked |\n|---|---|---|---|\n", s.rows)
	for i, c := range s.today {
		cells := []string{c.name, fmt.Sprintf("%.2f s", median(c.seconds)), "", ""}
		if i > 0 {
			cells[2] = spread(ratios(c.seconds, s.today[0].seconds))
		}
		if i > 1 {
			cells[3] = spread(ratios(c.seconds, s.today[1].seconds))
		}
		fmt.Fprintf(b, "| %s |\n", strings.Join(cells, " | "))
	}
}
