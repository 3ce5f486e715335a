package report

import (
	"context"
	"math"
)

// lambdas is the grid of ridge regression, in units of the components' variance.
var lambdas = []float64{1e-6, 1e-4, 1e-2, 1}

// factors returns for each lambda the lower triangle L with LLᵀ = XᵀX/n + λI.
func factors(ctx context.Context, x matrix) ([][]float64, error) {
	d := x.cols
	gram := make([]float64, d*d)
	for r := range x.rows {
		if r%64 == 0 && ctx.Err() != nil {
			return nil, ctx.Err()
		}
		row := x.row(r)
		for i, v := range row {
			axpy(gram[i*d:i*d+i+1], v, row[:i+1])
		}
	}
	var out [][]float64
	for _, lambda := range lambdas {
		if ctx.Err() != nil {
			return nil, ctx.Err()
		}
		l := make([]float64, d*d)
		for i, v := range gram {
			l[i] = v / float64(x.rows)
		}
		for i := range d {
			l[i*d+i] += lambda
		}
		cholesky(l, d)
		out = append(out, l)
	}
	return out, nil
}

// ridge returns for each lambda the weights that predict y from x: d for each of y's columns, one column after the other.
// Columns of both have mean 0. factors are those of x.
func ridge(factors [][]float64, x, y matrix) [][]float64 {
	d, m := x.cols, y.cols
	cross := make([]float64, d*m)
	for r := range x.rows {
		for j, v := range y.row(r) {
			axpy(cross[j*d:(j+1)*d], v, x.row(r))
		}
	}
	var solutions [][]float64
	for _, l := range factors {
		w := make([]float64, d*m)
		for i, v := range cross {
			w[i] = v / float64(x.rows)
		}
		for j := range m {
			solve(l, d, w[j*d:(j+1)*d])
		}
		solutions = append(solutions, w)
	}
	return solutions
}

// cholesky replaces the lower triangle of a, symmetric and positive definite, by L with LLᵀ = a.
func cholesky(a []float64, d int) {
	for i := range d {
		for j := range i + 1 {
			s := a[i*d+j] - dot(a[i*d:i*d+j], a[j*d:j*d+j])
			if i == j {
				a[i*d+i] = math.Sqrt(max(s, 1e-12)) // rounding can take a little more than lambda has added
			} else {
				a[i*d+j] = s / a[j*d+j]
			}
		}
	}
}

// solve replaces b by the solution of LLᵀx = b.
func solve(l []float64, d int, b []float64) {
	for i := range d {
		b[i] = (b[i] - dot(l[i*d:i*d+i], b[:i])) / l[i*d+i]
	}
	for i := d - 1; i >= 0; i-- {
		b[i] /= l[i*d+i]
		axpy(b[:i], -b[i], l[i*d:i*d+i])
	}
}

// dot has four sums, so that one addition need not wait for the other. The conversions forbid fused multiply-adds, which
// some processors have and some have not.
func dot(a, b []float64) float64 {
	b = b[:len(a)]
	var s0, s1, s2, s3 float64
	i := 0
	for ; i+4 <= len(a); i += 4 {
		s0 += float64(a[i] * b[i])
		s1 += float64(a[i+1] * b[i+1])
		s2 += float64(a[i+2] * b[i+2])
		s3 += float64(a[i+3] * b[i+3])
	}
	for ; i < len(a); i++ {
		s0 += float64(a[i] * b[i])
	}
	return (s0 + s1) + (s2 + s3)
}

// axpy adds f times x to y.
func axpy(y []float64, f float64, x []float64) {
	x = x[:len(y)]
	for i := range y {
		y[i] += float64(f * x[i])
	}
}
