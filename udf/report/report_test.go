package report

import (
	"context"
	"encoding/json"
	"errors"
	"math"
	"math/rand/v2"
	"reflect"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/scrimdb/scrim/udf/internal/udftest"
	"github.com/scrimdb/scrim/udf/train"
)

// normal makes independent standard normal values.
func normal(rows, cols int, seed uint64) []float64 {
	r := rand.New(rand.NewPCG(seed, 7))
	v := make([]float64, rows*cols)
	for i := range v {
		v[i] = r.NormFloat64()
	}
	return v
}

func names(n int) []string { return strings.Split("abcdefghijklmnopqrstuvwxyz"[:n], "")[:n] }

// times multiplies rows by a square matrix.
func times(raw []float64, m [][]float64) []float32 {
	k := len(m)
	codes := make([]float32, len(raw))
	for i := range codes {
		for j := range k {
			codes[i] += float32(raw[i/k*k+j] * m[i%k][j])
		}
	}
	return codes
}

func measure(tb testing.TB, s Sample) Measures {
	tb.Helper()
	m, err := Measure(context.Background(), s)
	if err != nil {
		tb.Fatal(err)
	}
	return m
}

// An invertible linear map hides nothing from ridge regression, however oblique it is.
func TestInvertibleLeaksEverything(t *testing.T) {
	raw := normal(3000, 3, 1)
	for i := range raw { // units do not matter
		raw[i] = raw[i]*math.Pow(1000, float64(i%3)) + 1e5
	}
	m := measure(t, Sample{Features: names(3), Dims: 3, Raw: raw, Codes: times(raw, [][]float64{{1, 2e-3, 3e-6}, {0, 1e-3, 5e-6}, {1, 1e-3, 9e-6}})})
	for j, l := range m.Leakage {
		if l.Value < 0.999 || l.Value > 1 || l.Ridge != l.Value || l.Neighbours < 0.8 {
			t.Errorf("feature %d: %+v", j, l)
		}
	}
}

// A rotation keeps all distances, so the neighbours are the same.
func TestRotationKeepsNeighbours(t *testing.T) {
	raw := normal(3000, 2, 2)
	m := measure(t, Sample{Features: names(2), Dims: 2, Raw: raw, Codes: times(raw, [][]float64{{0.6, 0.8}, {-0.8, 0.6}})})
	if m.Overlap < 0.97 { // of the sample each feature is standardised by itself, which stretches it a little
		t.Errorf("overlap %v", m.Overlap)
	}
}

// Codes that have nothing to do with the rows: no leakage, never a negative one, and neighbours by chance.
func TestNoiseLeaksNothing(t *testing.T) {
	for seed := range uint64(5) {
		raw := normal(3000, 4, 10+seed)
		codes := make([]float32, 3000*3)
		for i, v := range normal(3000, 3, 20+seed) {
			codes[i] = float32(v)
		}
		m := measure(t, Sample{Features: names(4), Dims: 3, Raw: raw, Codes: codes})
		for j, l := range m.Leakage {
			if l.Value < 0 || l.Value > 0.05 {
				t.Errorf("seed %d, feature %d: %+v", seed, j, l)
			}
		}
		// Of 300 rows with 10 neighbours each, chance gives 3,000 * 10/2400 = 12.5 common ones, give or take 3.5.
		chance := float64(m.K) / float64(m.Fit)
		if m.K != 10 || m.Fit != 2400 || m.Held != 300 || math.Abs(m.Overlap-chance) > 4*3.5/3000 {
			t.Errorf("seed %d: overlap %v, by chance %v; %+v", seed, m.Overlap, chance, m)
		}
	}
}

// What is not linear is regained from neighbours.
func TestNeighboursRegainWhatRidgeCannot(t *testing.T) {
	raw, codes := normal(3000, 1, 3), make([]float32, 6000)
	for i, v := range raw {
		codes[2*i], codes[2*i+1] = float32(v*v), float32(math.Copysign(1, v))
	}
	l := measure(t, Sample{Features: names(1), Dims: 2, Raw: raw, Codes: codes}).Leakage[0]
	if l.Ridge > 0.8 || l.Neighbours < 0.99 || l.Value != l.Neighbours {
		t.Errorf("square and sign: %+v", l)
	}
}

func TestMissingAndConstant(t *testing.T) {
	raw := normal(2000, 3, 4)
	codes := times(raw, [][]float64{{1, 0, 0}, {0, 1, 0}, {0, 0, 0}})
	for i := range 2000 {
		if i%3 == 0 { // the encoder sees the mean in the place of what is missing
			raw[3*i], codes[3*i] = math.NaN(), 0
		}
		raw[3*i+2] = 5
	}
	m := measure(t, Sample{Features: names(3), Dims: 3, Raw: raw, Codes: codes})
	if m.Leakage[0].Value < 0.99 || m.Leakage[1].Value < 0.99 || !math.IsNaN(m.Leakage[2].Value) {
		t.Errorf("leakage %+v", m.Leakage)
	}
}

// The class is the sign of the first feature, the quantity twice the second: codes that keep only the first tell all of
// one and nothing of the other.
func TestTarget(t *testing.T) {
	raw := normal(3000, 2, 5)
	codes, class, quantity := make([]float32, 3000), make([]float64, 3000), make([]float64, 3000)
	for i := range codes {
		codes[i], class[i], quantity[i] = float32(raw[2*i]), math.Copysign(1, raw[2*i]), 2*raw[2*i+1]
	}
	class[5], quantity[7], quantity[8] = math.NaN(), math.Inf(1), math.NaN()
	s := Sample{Features: names(2), Dims: 1, Raw: raw, Codes: codes, Target: class}
	if u := measure(t, s).Target; !u.Classes || u.Codes < 0.99 || u.Raw < 0.97 {
		t.Errorf("class: %+v", u)
	}
	s.Target = quantity
	if u := measure(t, s).Target; u.Classes || u.Codes > 0.05 || u.Raw < 0.999 {
		t.Errorf("quantity: %+v", u)
	}
	s.Labels = true // each value is a class of its own now, which no neighbour has
	if u := measure(t, s).Target; !u.Classes || u.Codes != 0 || u.Raw != 0 {
		t.Errorf("3,000 classes: %+v", u)
	}
}

func TestSameBitsWhateverTheProcessors(t *testing.T) {
	raw := normal(2000, 5, 6)
	s := Sample{Features: names(5), Dims: 5, Raw: raw, Codes: times(raw, [][]float64{
		{1, 0, 2, 0, 1}, {0, 1, 0, 1, 1}, {3, 0, 1, 0, 0}, {0, 1, 0, 2, 0}, {1, 1, 1, 1, 0},
	}), Target: normal(2000, 1, 8)}
	want := measure(t, s)
	for _, procs := range []int{1, 5} {
		old := runtime.GOMAXPROCS(procs)
		got := measure(t, s)
		runtime.GOMAXPROCS(old)
		if !reflect.DeepEqual(got, want) {
			t.Errorf("GOMAXPROCS %d: %+v, want %+v", procs, got, want)
		}
	}
}

func TestCancel(t *testing.T) {
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Millisecond)
	defer cancel()
	raw := normal(10_000, 16, 9)
	start := time.Now()
	_, err := Measure(ctx, Sample{Features: names(16), Dims: 16, Raw: raw, Codes: make([]float32, len(raw))})
	if !errors.Is(err, context.DeadlineExceeded) || time.Since(start) > time.Second {
		t.Errorf("%v after %v", err, time.Since(start))
	}
}

// nearest agrees with the plain definition, ties included: the values are few.
func TestNearest(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 1))
	for _, cols := range []int{1, 3, 4, 9} {
		points, queries := matrix{50, cols, nil}, matrix{20, cols, nil}
		for range 50 * cols {
			points.v = append(points.v, float64(r.IntN(3)))
		}
		queries.v = points.v[:20*cols]
		found, err := nearest(context.Background(), queries, points, 7)
		if err != nil {
			t.Fatal(err)
		}
		for q, list := range found {
			square := func(p int) (sum float64) {
				for j, v := range points.row(p) {
					sum += (v - queries.row(q)[j]) * (v - queries.row(q)[j])
				}
				return sum
			}
			for i, p := range list {
				closer := 0
				for other := range 50 {
					if d := square(other); d < square(int(p)) || d == square(int(p)) && other < int(p) {
						closer++
					}
				}
				if closer != i {
					t.Errorf("%d columns, query %d: point %d is number %d, and %d are closer", cols, q, p, i, closer)
				}
			}
		}
	}
}

func trained(t *testing.T, cfg train.Config, data *train.Data, target *Target) *Report {
	t.Helper()
	result, err := train.Run(context.Background(), udftest.Runtime(t), cfg, data, nil)
	if err != nil {
		t.Fatal(err)
	}
	r, err := Of(context.Background(), cfg.Features, data, result, target)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

// value returns a figure, which must be there once.
func value(t *testing.T, r *Report, feature, measure string) float64 {
	t.Helper()
	var found []Row
	for _, row := range r.Rows() {
		if row.Feature == feature && row.Measure == measure {
			found = append(found, row)
		}
	}
	if len(found) != 1 || found[0].Value == nil {
		t.Fatalf("%s of %s: %+v", measure, feature, found)
	}
	return *found[0].Value
}

// Two latent dimensions of a, b and c = a + b + noise of variance 1/2, with a and b independent and of variance 1. The
// variance of c is 2.5 and its correlation with each of the others p = 1/√2.5. The correlation matrix
//
//	1 0 p
//	0 1 p
//	p p 1
//
// has the eigenvalues 1 and 1 ± p√2. Two dimensions keep the two large ones, so what is left, summed over the features,
// is the smallest at best: 1 - √(2/2.5) = 0.1056 (Eckart and Young 1936, Baldi and Hornik 1989, see doc.go). Its eigenvector is (1, 1, -√2)/2,
// whose squares share it out: a quarter to a, a quarter to b, half to c. The trained network reaches the sum within 10 percent, and the shares
// within 15; a linear one does not beat it by more than the sample differs from the population (2 percent, being 20,000 rows).
func TestReconstructionReachesItsBound(t *testing.T) {
	v := normal(20_000, 3, 12)
	for i := 0; i < len(v); i += 3 {
		v[i+2] = v[i] + v[i+1] + v[i+2]*math.Sqrt(0.5)
	}
	bound := 1 - math.Sqrt(2/2.5)
	for name, hidden := range map[string][]int{"default": nil, "linear": {}} {
		r := trained(t, train.Config{Features: names(3), LatentDims: 2, Epochs: 30, BatchSize: 128, LearningRate: 0.002, Hidden: hidden}, rowsOf(t, 20_000, v), nil)
		var sum float64
		for _, f := range names(3) {
			got := value(t, r, f, "reconstruction_error")
			if share := bound * map[string]float64{"a": 0.25, "b": 0.25, "c": 0.5}[f]; math.Abs(got-share) > 0.15*share {
				t.Errorf("%s: the error of %s is %.4f, its share of the bound %.4f", name, f, got, share)
			}
			sum += got
		}
		t.Logf("%s: %.4f, bound %.4f", name, sum, bound)
		if sum > 1.1*bound || hidden != nil && sum < 0.96*bound {
			t.Errorf("%s: the errors sum to %.4f, the bound is %.4f", name, sum, bound)
		}
	}
}

// b follows a, c is on its own: one latent dimension keeps the former two and loses c.
func TestCompressingLeaksLess(t *testing.T) {
	v := normal(5000, 3, 13)
	target := &Target{Name: "t"}
	for i := 0; i < len(v); i += 3 {
		v[i+1] = 0.95*v[i] + 0.3*v[i+1]
		target.Values = append(target.Values, math.Copysign(1, v[i+2]))
	}
	cfg := train.Config{Features: names(3), LatentDims: 3, Epochs: 20}
	data := rowsOf(t, 5000, v)
	whole := trained(t, cfg, data, target)
	cfg.LatentDims = 1
	one := trained(t, cfg, data, target)
	for _, f := range names(3) {
		w, o := value(t, whole, f, "leakage"), value(t, one, f, "leakage")
		t.Logf("%s: %.3f with three dimensions, %.3f with one", f, w, o)
		if w < 0.97 || f == "c" && o > 0.2 || f != "c" && o < 0.8 {
			t.Errorf("leakage of %s: %v with three dimensions, %v with one", f, w, o)
		}
	}
	if w, o := value(t, whole, "t", "accuracy_from_codes"), value(t, one, "t", "accuracy_from_codes"); w < 0.9 || o > 0.65 {
		t.Errorf("accuracy from codes: %v with three dimensions, %v with one", w, o)
	}
	if raw := value(t, one, "t", "accuracy_from_features"); raw < 0.9 {
		t.Errorf("accuracy from features: %v", raw)
	}
	var refusal *train.Error
	if err := whole.Check(0.9); !errors.As(err, &refusal) || !strings.HasPrefix(refusal.Message, `the leakage of column "a" is 0.9`) ||
		!strings.HasSuffix(refusal.Message, `, more than max_leakage 0.9`) || refusal.Hint == "" {
		t.Errorf("check: %v", err)
	}
	if err := one.Check(1); err != nil {
		t.Error(err)
	}
}

// Eight independent features of variance 1: all eigenvalues of the correlation matrix are 1. So two dimensions leave a
// linear network 8 - 2 = 6 of the errors at best, and nobody who regains features from codes linearly gets R² that sum
// to more than 2 (a projection's trace is its rank). A network that bends can do better, not much: what eight features
// are is not in two numbers. Eight dimensions leave nothing, and give everything away.
func TestEightFeaturesInTwoDimensions(t *testing.T) {
	data := rowsOf(t, 10_000, normal(10_000, 8, 17))
	sums := func(dims int, hidden []int) (errors, ridge, leakage, least, most float64) {
		r := trained(t, train.Config{Features: names(8), LatentDims: dims, Epochs: 20, BatchSize: 128, Hidden: hidden}, data, nil)
		least = 1
		for _, f := range names(8) {
			l := value(t, r, f, "leakage")
			errors += value(t, r, f, "reconstruction_error")
			ridge += value(t, r, f, "leakage_ridge")
			leakage += l
			least, most = min(least, l), max(most, l)
		}
		t.Logf("%d dimensions, hidden %v: errors %.3f, ridge %.3f, leakage %.3f (%.3f to %.3f)", dims, hidden, errors, ridge, leakage, least, most)
		return
	}
	if errors, _, _, least, _ := sums(8, nil); errors > 0.2 || least < 0.95 {
		t.Errorf("eight dimensions: errors sum to %.3f, the least leakage is %.3f", errors, least)
	}
	// The held-out rows are a tenth of the sample, so each R² is known to about 0.02.
	if errors, ridge, leakage, _, _ := sums(2, []int{}); errors < 0.98*6 || errors > 1.02*6 || ridge > 2.2 || leakage > 2.3 {
		t.Errorf("two dimensions, linear: errors sum to %.3f, R² to %.3f, leakage to %.3f", errors, ridge, leakage)
	}
	if errors, ridge, leakage, _, most := sums(2, nil); errors > 1.02*6 || ridge > 2.2 || leakage > 3 || most > 0.8 {
		t.Errorf("two dimensions: errors sum to %.3f, R² to %.3f, leakage to %.3f, at most %.3f", errors, ridge, leakage, most)
	}
}

func TestRowsOfReport(t *testing.T) {
	v := normal(150, 2, 14)
	for i := range 150 {
		v[2*i+1] = 7
	}
	cfg := train.Config{Features: names(2), LatentDims: 1, Epochs: 450}
	r := trained(t, cfg, rowsOf(t, 150, v), nil)
	text, err := r.JSON()
	if err != nil {
		t.Fatal(err)
	}
	var rows []Row
	if err := json.Unmarshal([]byte(text), &rows); err != nil || !reflect.DeepEqual(rows, r.Rows()) {
		t.Errorf("%v\n%s", err, text)
	}
	var losses []Row
	for _, row := range rows {
		if row.Kind == "training" {
			losses = append(losses, row)
		}
		if row.Feature == "b" && row.Measure == "leakage" && (row.Value != nil || row.Note != "the column has one value only") {
			t.Errorf("a constant: %+v", row)
		}
	}
	if len(losses) > maxLosses+1 || losses[0].Note != "after epoch 1" || losses[len(losses)-1].Note != "after epoch 450" {
		t.Errorf("%d losses, from %+v", len(losses), losses[0])
	}
	if err := r.Check(1); err != nil {
		t.Errorf("a constant is no leak: %v", err)
	}
	few := trained(t, cfg, rowsOf(t, 99, v[:198]), &Target{Name: "t", Values: make([]float64, 99)})
	var refusal *train.Error
	if err := few.Check(1); !errors.As(err, &refusal) || refusal.Message != `the leakage of column "a" cannot be measured` {
		t.Errorf("99 rows: %v", err)
	}
	for _, row := range few.Rows() {
		if (row.Measure == "neighbourhood_overlap" || row.Kind == "target") && (row.Value != nil || row.Note != fewRows) {
			t.Errorf("99 rows: %+v", row)
		}
	}
}

// The order in which a table gives its rows leaves no trace in the report, nor does the number of processors.
func TestSameRowsSameReport(t *testing.T) {
	v := normal(12_000, 3, 15)
	v[7] = math.NaN()
	cfg := train.Config{Features: names(3), LatentDims: 2, Epochs: 3, Seed: 5}
	target := &Target{Name: "t", Values: normal(12_000, 1, 16)}
	json := func(data []float64, target *Target) string {
		text, err := trained(t, cfg, rowsOf(t, 12_000, data), target).JSON()
		if err != nil {
			t.Fatal(err)
		}
		return text
	}
	want := json(v, target)
	var shuffled []float64
	other := &Target{Name: "t"}
	for _, row := range rand.New(rand.NewPCG(1, 2)).Perm(12_000) {
		shuffled = append(shuffled, v[3*row:3*row+3]...)
		other.Values = append(other.Values, target.Values[row])
	}
	old := runtime.GOMAXPROCS(5)
	got := json(shuffled, other)
	runtime.GOMAXPROCS(old)
	if got != want {
		t.Errorf("another order, another report:\n%s\n%s", got, want)
	}
	cfg.Seed++
	if json(v, target) == want {
		t.Error("the seed makes no difference")
	}
}

func BenchmarkMeasure(b *testing.B) {
	for name, c := range map[string]struct{ features, dims int }{"16-8": {16, 8}, "16-16": {16, 16}, "26-1024": {26, 1024}, "3-2": {3, 2}} {
		b.Run(name, func(b *testing.B) {
			codes := make([]float32, 10_000*c.dims)
			for i, v := range normal(10_000, c.dims, 2) {
				codes[i] = float32(v)
			}
			s := Sample{Features: names(c.features), Dims: c.dims, Raw: normal(10_000, c.features, 1), Codes: codes, Target: normal(10_000, 1, 3)}
			for b.Loop() {
				measure(b, s)
			}
		})
	}
}

// rowsOf makes data of n rows whose values lie one after the other.
func rowsOf(tb testing.TB, n int, values []float64) *train.Data {
	tb.Helper()
	k := len(values) / n
	data := train.NewData(k)
	for i := range n {
		if err := data.Append(values[i*k : (i+1)*k]); err != nil {
			tb.Fatal(err)
		}
	}
	return data
}
