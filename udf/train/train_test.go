package train

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"math"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/scrimdb/scrim/udf"
	"github.com/scrimdb/scrim/udf/internal/udftest"
)

// sample makes rows whose features depend on two hidden causes, with a few
// missing values.
func sample(rows, features int, seed uint64) *Data {
	r := rand.New(rand.NewPCG(seed, 1))
	d := NewData(features)
	row := make([]float64, features)
	for range rows {
		a, b := r.NormFloat64(), r.NormFloat64()
		for j := range features {
			v := 50*float64(j) + 10*math.Sin(a+float64(j)) + 3*b*float64(j%3) + r.NormFloat64()
			if r.IntN(50) == 0 {
				v = math.NaN()
			}
			row[j] = v
		}
		if err := d.Append(row); err != nil {
			panic(err)
		}
	}
	return d
}

// values are all of them, row by row.
func values(d *Data) []float64 {
	var all []float64
	for i := range d.Rows() {
		all = append(all, d.Row(i)...)
	}
	return all
}

// rowsOf is Data of the given values, row by row.
func rowsOf(features int, values ...float64) *Data {
	d := NewData(features)
	for i := 0; i < len(values); i += features {
		if err := d.Append(values[i : i+features]); err != nil {
			panic(err)
		}
	}
	return d
}

func names(n int) []string {
	var s []string
	for i := range n {
		s = append(s, fmt.Sprintf("f%d", i))
	}
	return s
}

// small is a configuration that trains in a blink.
func small() Config {
	return Config{Features: names(3), LatentDims: 2, Epochs: 4, BatchSize: 64, Seed: 42}
}

func run(tb testing.TB, rt *udf.Runtime, cfg Config, data *Data) Result {
	tb.Helper()
	res, err := Run(context.Background(), rt, cfg, data, nil)
	if err != nil {
		tb.Fatal(err)
	}
	return res
}

// load writes a trained model to a file and loads it as the proxy does.
func load(tb testing.TB, rt *udf.Runtime, res Result) *udf.Encoder {
	tb.Helper()
	path := filepath.Join(tb.TempDir(), "1")
	if err := os.WriteFile(path, res.Model, 0o600); err != nil {
		tb.Fatal(err)
	}
	e, err := rt.LoadEncoder(udf.EncoderSpec{
		Name: "trained", Version: 1, Path: path, SHA256: res.SHA256,
		Inputs: res.Inputs, Dims: res.Dims,
	})
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() {
		if err := e.Close(); err != nil {
			tb.Error(err)
		}
	})
	return e
}

func TestRun(t *testing.T) {
	rt := udftest.Runtime(t)
	data := sample(3000, 3, 1)
	before := values(data)
	var losses []float64
	cfg := small()
	res, err := Run(context.Background(), rt, cfg, data, func(p Progress) {
		losses = append(losses, p.Loss)
		if p.Epoch != len(losses) || p.Epochs != cfg.Epochs || p.RowsPerSecond <= 0 || (p.ETA == 0) != (p.Epoch == p.Epochs) {
			t.Errorf("progress %+v", p)
		}
	})
	if err != nil {
		t.Fatal(err)
	}
	if len(losses) != 4 || losses[3] > losses[0]/2 || losses[3] != res.Loss {
		t.Errorf("losses %v, result %v", losses, res.Loss)
	}
	if res.Rows != 3000 || res.Inputs != 3 || res.Dims != 2 || len(res.Warnings) != 0 {
		t.Errorf("result %+v", res)
	}
	if !slices.Equal(losses, res.Losses) {
		t.Errorf("losses %v, result %v", losses, res.Losses)
	}
	nulls := make([]int, 3)
	for i, v := range values(data) {
		if math.IsNaN(v) {
			nulls[i%3]++
		}
		if math.Float64bits(v) != math.Float64bits(before[i]) {
			t.Fatal("Run changed the data")
		}
	}
	if !slices.Equal(res.Nulls, nulls) {
		t.Errorf("nulls %v, want %v", res.Nulls, nulls)
	}
	if sum := sha256.Sum256(res.Model); hex.EncodeToString(sum[:]) != res.SHA256 {
		t.Error("SHA256 is not the hash of the model")
	}
}

func TestEncoderOfTrainedModel(t *testing.T) {
	rt := udftest.Runtime(t)
	data := sample(2000, 3, 2)
	res := run(t, rt, small(), data)
	e := load(t, rt, res)
	encode := func(rows ...float64) []float32 {
		codes := make([]float32, len(rows)/3*2)
		if err := e.Encode(codes, rows); err != nil {
			t.Fatal(err)
		}
		return codes
	}

	distinct := map[[2]float32]bool{}
	codes := encode(values(data)...)
	for i := range 2000 {
		distinct[[2]float32(codes[2*i:])] = true
	}
	if len(distinct) < 1990 {
		t.Errorf("2000 rows have only %d codes", len(distinct))
	}
	for _, c := range codes {
		if math.IsNaN(float64(c)) || math.IsInf(float64(c), 0) {
			t.Fatal("a code is not finite")
		}
	}

	prep, err := prepare(context.Background(), names(3), data)
	if err != nil {
		t.Fatal(err)
	}
	mean, std := prep.mean, prep.std
	missing := math.NaN()
	for name, pair := range map[string][2][]float32{
		"all missing":     {encode(missing, missing, missing), encode(mean...)},
		"one missing":     {encode(1, missing, 3), encode(1, mean[1], 3)},
		"infinite":        {encode(math.Inf(1), 2, math.Inf(-1)), encode(mean[0]+10.5*std[0], 2, mean[2]-10.5*std[2])},
		"beyond the clip": {encode(1e300, 2, 3), encode(mean[0]+11*std[0], 2, 3)},
	} {
		for i := range pair[0] {
			if math.Float32bits(pair[0][i]) != math.Float32bits(pair[1][i]) {
				t.Errorf("%s: %v and %v", name, pair[0], pair[1])
			}
		}
	}
}

// The exported encoder prepares its input as training did: with a linear network
// of known weights the codes are the standardised values themselves.
func TestExportStandardises(t *testing.T) {
	rt := udftest.Runtime(t)
	data := sample(500, 2, 3)
	prep, err := prepare(context.Background(), names(2), data)
	if err != nil {
		t.Fatal(err)
	}
	net := newNetwork(2, nil, 2)
	params := make([]float32, net.params())
	params[0], params[3] = 1, 1 // the first layer is the identity
	model, err := export(net, names(2), prep, params)
	if err != nil {
		t.Fatal(err)
	}
	if model, err = rt.AddTestVector(model, udf.CPU, 2, 2, testInputs(prep, newGenerator(1))); err != nil {
		t.Fatal(err)
	}
	sum := sha256.Sum256(model)
	e := load(t, rt, Result{Model: model, SHA256: hex.EncodeToString(sum[:]), Inputs: 2, Dims: 2})
	codes, want := make([]float32, 2), make([]float32, 2)
	for i := range data.Rows() {
		row := data.Row(i)
		if err := e.Encode(codes, row); err != nil {
			t.Fatal(err)
		}
		if prep.standardise(want, row); !slices.Equal(codes, want) {
			t.Fatalf("row %d: encoder %v, training %v", i, codes, want)
		}
	}
}

// The sample has each row at most once, and its codes are those of the exported encoder, bit for bit. Its errors are
// those that the last epoch's loss is about.
func TestSample(t *testing.T) {
	rt := udftest.Runtime(t)
	for _, rows := range []int{2, 3000, 12_000} {
		data := sample(rows, 3, 11)
		res := run(t, rt, small(), data)
		if want := min(rows, SampleRows); len(res.Sample) != want || len(res.Codes) != 2*want || len(res.Errors) != 3 {
			t.Fatalf("%d rows: %d are sampled, with %d codes and %d errors", rows, len(res.Sample), len(res.Codes), len(res.Errors))
		}
		seen := map[int32]bool{}
		var raw []float64
		for _, row := range res.Sample {
			if seen[row] || row < 0 || int(row) >= rows {
				t.Fatalf("row %d is sampled twice or is none", row)
			}
			seen[row] = true
			raw = append(raw, data.Row(int(row))...)
		}
		codes := make([]float32, len(res.Codes))
		if err := load(t, rt, res).Encode(codes, raw); err != nil {
			t.Fatal(err)
		}
		if !slices.Equal(codes, res.Codes) {
			t.Errorf("%d rows: the encoder has other codes than the sample", rows)
		}
		mean := (res.Errors[0] + res.Errors[1] + res.Errors[2]) / 3
		if rows > 2 && (mean < res.Loss/2 || mean > res.Loss*1.1) {
			t.Errorf("%d rows: errors %v after a last loss of %v", rows, res.Errors, res.Loss)
		}
	}
}

func TestConcurrentRuns(t *testing.T) {
	rt := udftest.Runtime(t)
	data := sample(1000, 3, 5)
	hashes := make([]string, 4)
	var wg sync.WaitGroup
	for i := range hashes {
		wg.Go(func() {
			res, err := Run(context.Background(), rt, small(), data, nil)
			if err != nil {
				t.Error(err)
			}
			hashes[i] = res.SHA256
		})
	}
	wg.Wait()
	if len(slices.Compact(hashes)) != 1 {
		t.Errorf("hashes differ: %v", hashes)
	}
}

func TestRefusals(t *testing.T) {
	rt := udftest.Runtime(t)
	good := sample(100, 3, 6)
	with := func(i int, v float64) *Data {
		d := rowsOf(3, values(good)...)
		d.Row(i / 3)[i%3] = v
		return d
	}
	noSecond := rowsOf(3, values(good)...)
	for i := range 100 {
		noSecond.Row(i)[1] = math.NaN()
	}
	cases := map[string]struct {
		change func(*Config)
		data   *Data
		want   string
	}{
		"no rows":          {data: NewData(3), want: "no rows to train on (choose a table that has rows)"},
		"one row":          {data: rowsOf(3, 1, 2, 3), want: "one row is not enough to train on (an encoder learns how rows differ: choose a table that has more)"},
		"all constant":     {data: rowsOf(3, 1, 2, 3, 1, math.NaN(), 3), want: "every feature is constant (choose a column whose values differ)"},
		"all missing":      {data: noSecond, want: `feature "f1" is missing in every row (leave the column out)`},
		"infinite":         {data: with(5, math.Inf(-1)), want: `feature "f2" has infinite values`},
		"huge":             {data: with(3, 1e200), want: `feature "f0" has values beyond 1e140`},
		"no features":      {change: func(c *Config) { c.Features = nil }, want: "no features"},
		"63 features":      {change: func(c *Config) { c.Features = names(63) }, want: "63 features, at most 62 are possible (train on fewer columns)"},
		"unnamed feature":  {change: func(c *Config) { c.Features[1] = "" }, want: "feature 2 has no name"},
		"repeated feature": {change: func(c *Config) { c.Features[1] = "f0" }, want: `feature "f0" is listed twice`},
		"no latent dims":   {change: func(c *Config) { c.LatentDims = 0 }, want: "latent dimensions is 0 (choose 1 to 1024)"},
		"latent dims":      {change: func(c *Config) { c.LatentDims = 1025 }, want: "latent dimensions is 1025"},
		"epochs":           {change: func(c *Config) { c.Epochs = -1 }, want: "epochs is -1"},
		"batch size":       {change: func(c *Config) { c.BatchSize = 1 << 20 }, want: "batch size is 1048576"},
		"learning rate":    {change: func(c *Config) { c.LearningRate = math.NaN() }, want: "learning rate is NaN"},
		"hidden width":     {change: func(c *Config) { c.Hidden = []int{32, 0} }, want: "width of a hidden layer is 0"},
		"hidden layers":    {change: func(c *Config) { c.Hidden = make([]int, 5) }, want: "5 hidden layers"},
	}
	for name, c := range cases {
		t.Run(name, func(t *testing.T) {
			cfg, data := small(), good
			if c.change != nil {
				c.change(&cfg)
			} else {
				data = c.data
			}
			_, err := Run(context.Background(), rt, cfg, data, nil)
			var refusal *Error
			if !errors.As(err, &refusal) || !strings.Contains(err.Error(), c.want) || refusal.Hint == "" {
				t.Errorf("got %v, want %q", err, c.want)
			}
		})
	}
	if _, err := Run(context.Background(), rt, small(), sample(100, 2, 6), nil); err == nil {
		t.Error("rows of two values are accepted for three features")
	}
	if err := NewData(3).Append([]float64{1, 2}); err == nil {
		t.Error("a row of two values is taken for one of three")
	}
}

func TestWarnings(t *testing.T) {
	rt := udftest.Runtime(t)
	data := sample(200, 3, 7)
	for i := range data.Rows() {
		data.Row(i)[0] = 0.1 // its mean rounds to something else
		if i < 101 {
			data.Row(i)[2] = math.NaN()
		}
	}
	cfg := small()
	cfg.BatchSize = 201
	res := run(t, rt, cfg, data)
	want := []string{
		`feature "f0" is constant: it adds nothing to the codes`,
		`feature "f2" is missing in more than half of the rows`,
		"a batch of 201 rows is more than the 200 rows that there are: each step trains on all of them",
	}
	if !slices.Equal(res.Warnings, want) {
		t.Errorf("warnings %q", res.Warnings)
	}
	e := load(t, rt, res)
	codes := make([]float32, 8)
	if err := e.Encode(codes, []float64{0.1, 2, 3, 0.7, 2, 3, math.NaN(), 2, 3, math.Inf(1), 2, 3}); err != nil {
		t.Fatal(err)
	}
	for i := range 6 {
		if codes[i] != codes[i+2] {
			t.Errorf("a feature that was constant in training changes the code: %v", codes)
		}
	}

	half := sample(200, 3, 7)
	for i := range half.Rows() {
		for j := range 3 {
			half.Row(i)[j] = float64(i)
		}
		if i < 100 {
			half.Row(i)[2] = math.NaN()
		}
	}
	cfg.BatchSize = 200
	if res := run(t, rt, cfg, half); len(res.Warnings) != 0 {
		t.Errorf("half is not more than half, and a batch may be all rows: %q", res.Warnings)
	}
}

// Rows in several chunks are what was put in, and train like any others.
func TestChunks(t *testing.T) {
	const n = 2*chunkRows + 1
	d := NewData(2)
	for i := range n {
		if err := d.Append([]float64{float64(i), -float64(i)}); err != nil {
			t.Fatal(err)
		}
	}
	if d.Rows() != n {
		t.Fatalf("%d rows", d.Rows())
	}
	for i := range n {
		if !slices.Equal(d.Row(i), []float64{float64(i), -float64(i)}) {
			t.Fatalf("row %d is %v", i, d.Row(i))
		}
	}
	p, err := prepare(context.Background(), names(2), d)
	if err != nil {
		t.Fatal(err)
	}
	if p.mean[0] != chunkRows || p.z[0] != -p.z[1] || p.z[0] >= p.z[2] || p.z[2*n-2] != -p.z[0] {
		t.Errorf("mean %v, z %v ... %v", p.mean, p.z[:3], p.z[2*n-2:])
	}
}

// Shapes at the edges of what is allowed train, export and load.
func TestOddShapes(t *testing.T) {
	rt := udftest.Runtime(t)
	for name, c := range map[string]struct {
		cfg  Config
		rows int
	}{
		"two rows":           {Config{Features: names(2), LatentDims: 1}, 2},
		"fewer than a batch": {Config{Features: names(2), LatentDims: 1}, 100},
		"one of everything":  {Config{Features: names(1), LatentDims: 1, Hidden: []int{1}, BatchSize: 1}, 3},
		"linear":             {Config{Features: names(4), LatentDims: 2, Hidden: []int{}}, 600},
		"wide":               {Config{Features: names(62), LatentDims: 1024, Epochs: 1}, 600},
		"deep":               {Config{Features: names(5), LatentDims: 3, Hidden: []int{9, 8, 7, 6}, Epochs: 2}, 600},
	} {
		t.Run(name, func(t *testing.T) {
			load(t, rt, run(t, rt, c.cfg, sample(c.rows, len(c.cfg.Features), 8)))
		})
	}
}

func TestCancel(t *testing.T) {
	rt := udftest.Runtime(t)
	cfg := Config{Features: names(62), LatentDims: 512, Hidden: []int{1024, 1024}, BatchSize: 4096, Epochs: 1000}
	data := sample(4096, 62, 9)
	for name, wait := range map[string]time.Duration{"before": 0, "in a step": 500 * time.Millisecond} {
		t.Run(name, func(t *testing.T) {
			ctx, cancel := context.WithTimeout(context.Background(), wait)
			defer cancel()
			start := time.Now()
			_, err := Run(ctx, rt, cfg, data, nil)
			if !errors.Is(err, context.DeadlineExceeded) {
				t.Errorf("got %v", err)
			}
			if late := time.Since(start) - wait; late > time.Second {
				t.Errorf("ended %v after the cancellation", late)
			}
		})
	}
}

func TestRunAfterClose(t *testing.T) {
	rt, err := udf.NewRuntime(udftest.Library(t))
	if err != nil {
		t.Fatal(err)
	}
	if err := rt.Close(); err != nil {
		t.Fatal(err)
	}
	if _, err := Run(context.Background(), rt, small(), sample(100, 3, 1), nil); !errors.Is(err, udf.ErrClosed) {
		t.Errorf("got %v", err)
	}
}

// BenchmarkRun compares all that Run does with the steps alone: the same graph as often, without rows to fill in.
func BenchmarkRun(b *testing.B) {
	rt := udftest.Runtime(b)
	for _, bench := range []struct {
		name string
		cfg  Config
	}{
		{"16-64-64-8", Config{Features: names(16), LatentDims: 8, Hidden: []int{64, 64}}},
		{"3-32-2", Config{Features: names(3), LatentDims: 2}},
	} {
		b.Run(bench.name, func(b *testing.B) {
			data := sample(100_000, len(bench.cfg.Features), 1)
			var whole, bare time.Duration
			for b.Loop() {
				start := time.Now()
				res := run(b, rt, bench.cfg, data)
				whole += time.Since(start)
				bare += steps(b, rt, bench.cfg.withDefaults(), data.Rows())
				b.ReportMetric(res.Loss, "loss")
			}
			ratio := whole.Seconds() / bare.Seconds()
			b.ReportMetric(whole.Seconds()/float64(b.N), "s/Run")
			b.ReportMetric(bare.Seconds()/float64(b.N), "s/steps")
			b.ReportMetric(ratio, "ratio")
			if ratio > 2 {
				b.Errorf("Run takes %.2f times as long as its steps, at most 2 are promised", ratio)
			}
		})
	}
}

// steps runs as many steps as a training of so many rows has, and returns the time.
func steps(b *testing.B, rt *udf.Runtime, cfg Config, rows int) time.Duration {
	b.Helper()
	net := newNetwork(len(cfg.Features), cfg.Hidden, cfg.LatentDims)
	m, err := newMachine(context.Background(), rt, cfg.Device, net, cfg.batch(rows), cfg.LearningRate)
	if err != nil {
		b.Fatal(err)
	}
	random := newGenerator(cfg.Seed)
	random.glorot(net, m.params())
	for i := range m.x.GetData() {
		m.x.GetData()[i] = float32(random.uniform(2))
	}
	start := time.Now()
	for range cfg.Epochs * (rows / cfg.batch(rows)) {
		err = errors.Join(err, m.step())
	}
	elapsed := time.Since(start)
	if err := errors.Join(err, m.close()); err != nil {
		b.Fatal(err)
	}
	return elapsed
}

// BenchmarkMemory trains on a million rows of 16 features in a process of its own, whose peak is what the rows take (12 bytes
// for each value, as the README says) and what any process with ONNX Runtime does.
func BenchmarkMemory(b *testing.B) {
	const child, rows, features = "SCRIM_BENCH_MEMORY_CHILD", 1_000_000, 16
	if os.Getenv(child) != "" {
		for b.Loop() {
			run(b, udftest.Runtime(b), Config{Features: names(features), LatentDims: 8, Epochs: 1}, sample(rows, features, 1))
		}
		return
	}
	for b.Loop() {
		cmd := exec.CommandContext(b.Context(), os.Args[0], "-test.run=^$", "-test.bench=^"+b.Name()+"$", "-test.benchtime=1x")
		cmd.Env = append(os.Environ(), child+"=1")
		if out, err := cmd.CombinedOutput(); err != nil {
			b.Fatalf("%v\n%s", err, out)
		}
		peak := float64(cmd.ProcessState.SysUsage().(*syscall.Rusage).Maxrss) * 1024
		b.ReportMetric(peak/1e6, "MB")
		if most := 12.0*rows*features + 100e6; peak > most {
			b.Errorf("the peak is %.0f MB, more than %.0f", peak/1e6, most/1e6)
		}
	}
}
