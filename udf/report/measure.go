package report

import (
	"context"
	"math"
)

// MinRows is the least number of rows about which something can be said.
const MinRows = 100

const (
	maxWork    = 3e8 // multiplications for distances
	maxRows    = 10_000
	maxClasses = 20 // a quantity of so few different values is taken as a class
	overlapK   = 10
)

// counts is the grid of nearest neighbours.
var counts = []int{1, 3, 10, 25, 50}

// Sample is rows and their codes, in random order.
type Sample struct {
	Features []string
	Dims     int
	Raw      []float64 // len(Features) for each row, NaN for a missing value
	Codes    []float32 // Dims for each row
	Target   []float64 // one for each row, NaN for a missing one; nil for no target
	Labels   bool      // Target is names of classes, not quantities
}

// Leakage is what attackers regain of a feature: R² of ridge regression and of nearest neighbours, NaN where the sample
// cannot tell, and the better one between 0 and 1.
type Leakage struct{ Ridge, Neighbours, Value float64 }

// Utility is what codes are good for, next to features. Codes and Raw are accuracies if Classes, else R²; NaN where the
// sample cannot tell.
type Utility struct {
	Codes, Raw float64
	Classes    bool
}

// Measures is what a sample tells. Rows are used in all, Fit of them are the attacker's and Held are held out; K is of the overlap.
type Measures struct {
	Rows, Fit, Held int
	K               int
	Leakage         []Leakage // of each feature
	Overlap         float64
	Target          *Utility
}

// matrix is rows of cols values each.
type matrix struct {
	rows, cols int
	v          []float64
}

func (m matrix) row(i int) []float64 { return m.v[i*m.cols : (i+1)*m.cols] }

// part is the rows from start up to end.
func (m matrix) part(start, end int) matrix {
	return matrix{end - start, m.cols, m.v[start*m.cols : end*m.cols]}
}

// split is where the parts of a sample begin: [0, tune) is the attacker's, [tune, held) is for choosing what to do with it, the rest judges.
type split struct{ tune, held, rows int }

func splitOf(rows, features, dims int) split {
	perPair := 0.24*float64(dims) + 0.08*float64(features) // of rows², from the shares below
	rows = min(rows, maxRows, int(math.Sqrt(maxWork/perPair)))
	judges := max(rows/10, min(rows/4, 250))
	return split{rows - 2*judges, rows - judges, rows}
}

// Measure says what a sample of at least MinRows rows tells. It fails only if ctx ends.
func Measure(ctx context.Context, s Sample) (Measures, error) {
	k := len(s.Features)
	at := splitOf(len(s.Raw)/k, k, s.Dims)
	known := matrix{at.rows, k, s.Raw[:at.rows*k]}
	raw := known.standardise(at.tune)
	plain := matrix{at.rows, s.Dims, make([]float64, at.rows*s.Dims)}
	for i := range plain.v {
		plain.v[i] = float64(s.Codes[i])
	}
	codes := plain.standardise(at.tune)

	m := Measures{Rows: at.rows, Fit: at.tune, Held: at.rows - at.held, K: min(overlapK, at.tune/5)}
	byCode, err := newAttacker(ctx, at, codes)
	if err != nil {
		return Measures{}, err
	}
	for _, r := range byCode.regain(raw, known) {
		m.Leakage = append(m.Leakage, Leakage{r.ridge, r.neighbours, min(max(r.best(), 0), 1)})
	}
	var near [][]int32 // by features, of the rows that judge
	if s.Target == nil {
		near, err = nearest(ctx, raw.part(at.held, at.rows), raw.part(0, at.tune), m.K)
	} else {
		var byRaw *attacker
		if byRaw, err = newAttacker(ctx, at, raw); err == nil {
			near = byRaw.found[at.held-at.tune:]
			m.Target = utility(byCode, byRaw, matrix{at.rows, 1, finite(s.Target[:at.rows])}, s.Labels)
		}
	}
	if err != nil {
		return Measures{}, err
	}
	m.Overlap, err = overlap(ctx, at, near, plain, m.K)
	return m, err
}

// standardise gives the first n rows mean 0 and deviation 1, and does the same to the others. What is missing becomes the mean.
func (m matrix) standardise(n int) matrix {
	out := matrix{m.rows, m.cols, make([]float64, len(m.v))}
	for j := range m.cols {
		mean, std := describe(m.part(0, n), j)
		for i := range m.rows {
			v := m.v[i*m.cols+j]
			if math.IsNaN(v) || std == 0 {
				continue
			}
			out.v[i*m.cols+j] = min(max((v-mean)/std, -10), 10)
		}
		mean, _ = describe(out.part(0, n), j) // what was cut off has moved it
		for i := range m.rows {
			out.v[i*m.cols+j] -= mean
		}
	}
	return out
}

func describe(m matrix, j int) (mean, std float64) {
	var sum, n float64
	low, high := math.Inf(1), math.Inf(-1)
	for i := range m.rows {
		if v := m.v[i*m.cols+j]; !math.IsNaN(v) {
			sum += v
			n++
			low, high = min(low, v), max(high, v)
		}
	}
	if n == 0 || low == high {
		return 0, 0
	}
	mean = sum / n
	var squares float64
	for i := range m.rows {
		if v := m.v[i*m.cols+j]; !math.IsNaN(v) {
			d := v - mean
			squares += float64(d * d)
		}
	}
	return mean, math.Sqrt(squares / n)
}

// attacker has x, standardised, of all rows, and has prepared what does not depend on what he is to predict: the factors of
// his own rows, and of the others the neighbours among his own.
type attacker struct {
	at      split
	x       matrix
	factors [][]float64
	found   [][]int32
}

func newAttacker(ctx context.Context, at split, x matrix) (*attacker, error) {
	factors, err := factors(ctx, x.part(0, at.tune))
	if err != nil {
		return nil, err
	}
	k := min(counts[len(counts)-1], at.tune)
	found, err := nearest(ctx, x.part(at.tune, at.rows), x.part(0, at.tune), k)
	return &attacker{at, x, factors, found}, err
}

// regained is the held-out R² of both methods.
type regained struct{ ridge, neighbours float64 }

func (r regained) best() float64 {
	if math.IsNaN(r.ridge) { // then both are
		return r.ridge
	}
	return max(r.ridge, r.neighbours)
}

// regain predicts each column of y, standardised, from x. Only rows where known is not NaN are judged.
func (a *attacker) regain(y, known matrix) []regained {
	d, m := a.x.cols, y.cols
	solutions := ridge(a.factors, a.x.part(0, a.at.tune), y.part(0, a.at.tune))
	out := make([]regained, m)
	for j := range m {
		linear := func(choice int) func(row int) float64 {
			w := solutions[choice][j*d : (j+1)*d]
			return func(row int) float64 { return dot(w, a.x.row(row)) }
		}
		near := func(choice int) func(row int) float64 {
			return func(row int) float64 {
				list := a.near(row, choice)
				var sum float64
				for _, p := range list {
					sum += y.v[int(p)*m+j]
				}
				return sum / float64(len(list))
			}
		}
		out[j] = regained{a.tuned(len(lambdas), y, known, j, linear), a.tuned(len(counts), y, known, j, near)}
	}
	return out
}

// near is the neighbours of a row that does not belong to the attacker, as many as a choice says.
func (a *attacker) near(row, choice int) []int32 {
	list := a.found[row-a.at.tune]
	return list[:min(counts[choice], len(list))]
}

// tuned is the R² on held-out rows of the choice that is best on those for tuning.
func (a *attacker) tuned(choices int, y, known matrix, j int, predict func(choice int) func(row int) float64) float64 {
	best, bestR2 := 0, math.Inf(-1)
	for c := range choices {
		if r2 := rSquared(y, known, j, a.at.tune, a.at.held, predict(c)); r2 > bestR2 {
			best, bestR2 = c, r2
		}
	}
	return rSquared(y, known, j, a.at.held, a.at.rows, predict(best))
}

// rSquared is NaN when the rows from start up to end have not two different values.
func rSquared(y, known matrix, j, start, end int, predict func(row int) float64) float64 {
	var values []float64
	var left float64
	for i := start; i < end; i++ {
		at := i*y.cols + j
		if !math.IsNaN(known.v[at]) {
			values = append(values, y.v[at])
			e := y.v[at] - predict(i)
			left += float64(e * e)
		}
	}
	_, std := describe(matrix{len(values), 1, values}, 0)
	if std == 0 {
		return math.NaN()
	}
	return 1 - left/float64(std*std)/float64(len(values))
}

// overlap is the share of the k nearest by features, of which near has at least k, that are among the k nearest by code.
func overlap(ctx context.Context, at split, near [][]int32, codes matrix, k int) (float64, error) {
	byCode, err := nearest(ctx, codes.part(at.held, at.rows), codes.part(0, at.tune), k)
	if err != nil {
		return 0, err
	}
	shared := 0
	for q := range near {
		for _, p := range near[q][:k] {
			for _, other := range byCode[q] {
				if p == other {
					shared++
				}
			}
		}
	}
	return float64(shared) / float64(k*len(near)), nil
}

// utility compares what codes and features tell of a target.
func utility(byCode, byRaw *attacker, target matrix, labels bool) *Utility {
	if labels || distinct(target.v, maxClasses) <= maxClasses {
		return &Utility{byCode.accuracy(target.v), byRaw.accuracy(target.v), true}
	}
	y := target.standardise(byCode.at.tune)
	return &Utility{byCode.regain(y, target)[0].best(), byRaw.regain(y, target)[0].best(), false}
}

// finite takes what cannot be squared as missing.
func finite(values []float64) []float64 {
	out := append([]float64(nil), values...)
	for i, v := range out {
		if math.Abs(v) > 1e140 {
			out[i] = math.NaN()
		}
	}
	return out
}

// distinct counts the different values, up to one more than most.
func distinct(values []float64, most int) int {
	seen := map[float64]bool{}
	for _, v := range values {
		if !math.IsNaN(v) {
			if seen[v] = true; len(seen) > most {
				break
			}
		}
	}
	return len(seen)
}

// accuracy is the share of the held-out rows that the majority of their neighbours are right about.
func (a *attacker) accuracy(target []float64) float64 {
	share := func(choice, start, end int) float64 {
		right, all := 0, 0
		for i := start; i < end; i++ {
			if math.IsNaN(target[i]) {
				continue
			}
			all++
			if majority(target, a.near(i, choice)) == target[i] {
				right++
			}
		}
		return float64(right) / float64(all)
	}
	best, most := 0, -1.0
	for c := range counts {
		if s := share(c, a.at.tune, a.at.held); s > most {
			best, most = c, s
		}
	}
	return share(best, a.at.held, a.at.rows)
}

// majority is the most frequent class, of equally frequent ones that of the nearest row. Missing ones have no vote.
func majority(target []float64, list []int32) float64 {
	votes, best := map[float64]int{}, math.NaN()
	for _, p := range list {
		if v := target[p]; !math.IsNaN(v) {
			votes[v]++
		}
	}
	for _, p := range list { // the nearest first
		if v := target[p]; !math.IsNaN(v) && (math.IsNaN(best) || votes[v] > votes[best]) {
			best = v
		}
	}
	return best
}
