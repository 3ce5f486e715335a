package train

import (
	"context"
	"errors"
	"math"
	"slices"
	"testing"

	"github.com/scrimdb/scrim/udf"
	"github.com/scrimdb/scrim/udf/internal/udftest"
)

// referenceLoss is the network in plain Go and double precision.
func referenceLoss(n network, params []float64, x []float32) float64 {
	width := n.widths[0]
	var sum float64
	for row := range len(x) / width {
		a := make([]float64, width)
		for j := range a {
			a[j] = float64(x[row*width+j])
		}
		p := params
		for l := range n.layers() {
			a, p = referenceLayer(a, p, n.widths[l+1], !n.linear(l))
		}
		for j := range a {
			d := a[j] - float64(x[row*width+j])
			sum += d * d
		}
	}
	return sum / float64(len(x))
}

func referenceLayer(a, p []float64, out int, tanh bool) (next, rest []float64) {
	next = slices.Clone(p[len(a)*out : len(a)*out+out])
	for i, v := range a {
		for o := range next {
			next[o] += v * p[i*out+o]
		}
	}
	for o := range next {
		if tanh {
			next[o] = math.Tanh(next[o])
		}
	}
	return next, p[len(a)*out+out:]
}

func referenceGradient(n network, params []float64, x []float32) []float64 {
	const h = 1e-5
	g := make([]float64, len(params))
	for i, v := range params {
		params[i] = v + h
		above := referenceLoss(n, params, x)
		params[i] = v - h
		g[i] = (above - referenceLoss(n, params, x)) / (2 * h)
		params[i] = v
	}
	return g
}

// Three steps of the graph against finite differences and a textbook Adam.
func TestStepAgainstReference(t *testing.T) {
	rt := udftest.Runtime(t)
	for _, c := range []struct {
		hidden []int
		ones   bool
	}{{[]int{}, false}, {[]int{5}, false}, {[]int{6, 4}, false}, {[]int{}, true}, {[]int{6, 4}, true}} {
		const batch, learning = 7, 0.01
		n := newNetwork(3, c.hidden, 2)
		n.ones = c.ones
		m, err := newMachine(context.Background(), rt, udf.CPU, n, batch, learning)
		if err != nil {
			t.Fatal(err)
		}
		r := newGenerator(5)
		for i := range m.params() { // biases too, or their gradients would be tested at zero only
			m.params()[i] = float32(r.uniform(0.7))
		}
		params := widen(m.params())
		m1, m2 := make([]float64, len(params)), make([]float64, len(params))
		for step := 1; step <= 3; step++ {
			x := m.x.GetData()
			for i := range x {
				x[i] = float32(r.uniform(2))
			}
			loss := referenceLoss(n, params, x)
			g := referenceGradient(n, params, x)
			for i := range params {
				m1[i] = beta1*m1[i] + (1-beta1)*g[i]
				m2[i] = beta2*m2[i] + (1-beta2)*g[i]*g[i]
				mHat := m1[i] / (1 - math.Pow(beta1, float64(step)))
				vHat := m2[i] / (1 - math.Pow(beta2, float64(step)))
				params[i] -= learning * mHat / (math.Sqrt(vHat) + epsilon)
			}
			if err := m.step(); err != nil {
				t.Fatal(err)
			}
			near(t, "loss", []float64{float64(m.loss.GetData()[0])}, []float64{loss}, 1e-5)
			near(t, "first moment", widen(m.state[m.turn].m.GetData()), m1, 1e-5)
			near(t, "second moment", widen(m.state[m.turn].v.GetData()), m2, 1e-5)
			near(t, "parameters", widen(m.params()), params, 1e-4)
		}
		if err := m.close(); err != nil {
			t.Error(err)
		}
	}
}

func widen(v []float32) []float64 {
	w := make([]float64, len(v))
	for i, f := range v {
		w[i] = float64(f)
	}
	return w
}

func near(t *testing.T, what string, got, want []float64, tolerance float64) {
	t.Helper()
	for i := range want {
		if !(math.Abs(got[i]-want[i]) <= tolerance*max(1, math.Abs(want[i]))) {
			t.Fatalf("%s %d: graph says %v, reference %v", what, i, got[i], want[i])
		}
	}
}

func TestStepDoesNotAllocate(t *testing.T) {
	rt := udftest.Runtime(t)
	m, err := newMachine(context.Background(), rt, udf.CPU, newNetwork(3, []int{8}, 2), 16, 0.01)
	if err != nil {
		t.Fatal(err)
	}
	allocs := testing.AllocsPerRun(50, func() { err = errors.Join(err, m.step()) })
	if err := errors.Join(err, m.close()); err != nil {
		t.Fatal(err)
	}
	if allocs != 0 {
		t.Errorf("%v allocations a step", allocs)
	}
}

func TestShuffleIsPermutation(t *testing.T) {
	order := []int32{0, 1, 2, 3, 4, 5, 6, 7, 8, 9}
	newGenerator(1).shuffle(order)
	// A golden value: another order would change the hash of every encoder.
	if want := []int32{0, 2, 7, 5, 3, 6, 8, 9, 4, 1}; !slices.Equal(order, want) {
		t.Errorf("got %v, want %v", order, want)
	}
}
