package train

import (
	"fmt"
	"slices"
	"strconv"

	"github.com/scrimdb/scrim/udf/internal/onnx"
)

// Adam's constants.
const (
	beta1   = 0.9
	beta2   = 0.999
	epsilon = 1e-8
)

// network is the autoencoder's shape: layer l maps widths[l] to widths[l+1].
// Hidden layers end in Tanh, the latent and the last layer are linear.
type network struct {
	widths []int
	latent int // the layer whose output is the code

	// ones has rows summed up by a product with a row of ones, as CUDA needs it: its ReduceSum adds in whatever order
	// its blocks end, and then no two trainings are the same.
	ones bool
}

func newNetwork(features int, hidden []int, latentDims int) network {
	widths := append([]int{features}, hidden...)
	widths = append(widths, latentDims)
	mirror := slices.Clone(hidden)
	slices.Reverse(mirror)
	widths = append(append(widths, mirror...), features)
	return network{widths: widths, latent: len(hidden)}
}

func (n network) layers() int { return len(n.widths) - 1 }

func (n network) linear(layer int) bool { return layer == n.latent || layer == n.layers()-1 }

// sizes lists the lengths of weights and bias of each layer, in the order in
// which they lie in the parameter vector.
func (n network) sizes() []int {
	var sizes []int
	for l := range n.layers() {
		sizes = append(sizes, n.widths[l]*n.widths[l+1], n.widths[l+1])
	}
	return sizes
}

func (n network) params() int {
	total := 0
	for _, s := range n.sizes() {
		total += s
	}
	return total
}

// ignore makes the code independent of features that were constant in training:
// their weights are as random as they were at first, and would let a later value
// through.
func (n network) ignore(features []bool, params []float32) {
	for j, ignored := range features {
		if ignored {
			clear(params[j*n.widths[1] : (j+1)*n.widths[1]])
		}
	}
}

// stepGraph adds names to the plain ONNX writer: every node makes one value.
type stepGraph struct{ onnx.Graph }

func (g *stepGraph) op(op, output string, inputs ...string) string {
	g.Node(op, inputs, []string{output})
	return output
}

func (g *stepGraph) gemm(output string, transA, transB bool, inputs ...string) string {
	var attrs []onnx.Attr
	if transA {
		attrs = append(attrs, onnx.Attr{Name: "transA", Value: 1})
	}
	if transB {
		attrs = append(attrs, onnx.Attr{Name: "transB", Value: 1})
	}
	g.Node("Gemm", inputs, []string{output}, attrs...)
	return output
}

func (n network) sumRows(g *stepGraph, output, input string) string {
	if n.ones {
		g.gemm("row_"+output, false, false, "ones", input)
		return g.op("Reshape", output, "row_"+output, "flat")
	}
	g.Node("ReduceSum", []string{input, "axis0"}, []string{output}, onnx.Attr{Name: "keepdims", Value: 0})
	return output
}

// step returns the graph of one training step on a batch of fixed size:
//
//	x [batch, features], p, m, v [params], rate [1]  →  p', m', v', loss [1]
//
// rate is the learning rate with Adam's bias corrections multiplied in.
func (n network) step(batch int) []byte {
	g := &stepGraph{onnx.Graph{Name: "step"}}
	g.Input("x", onnx.Float, batch, n.widths[0])
	for _, name := range []string{"p", "m", "v"} {
		g.Input(name, onnx.Float, n.params())
		g.Output(name+"'", onnx.Float, n.params())
	}
	g.Input("rate", onnx.Float, 1)
	g.Output("loss", onnx.Float, 1)
	g.Ints("axis0", 0)
	g.Ints("flat", -1)

	if n.ones {
		g.Floats("ones", slices.Repeat([]float32{1}, batch), 1, batch)
	}

	n.unpack(g)
	activations := n.forward(g)
	n.loss(g, activations[n.layers()], batch)
	n.backward(g, activations)
	adam(g)
	return g.Model()
}

// unpack cuts the parameter vector into w0, b0, w1, b1, ...
func (n network) unpack(g *stepGraph) {
	var names []string
	for l := range n.layers() {
		names = append(names, fmt.Sprintf("flat_w%d", l), fmt.Sprintf("b%d", l))
	}
	g.Ints("sizes", n.sizes()...)
	g.Node("Split", []string{"p", "sizes"}, names)
	for l := range n.layers() {
		shape := fmt.Sprintf("shape%d", l)
		g.Ints(shape, n.widths[l], n.widths[l+1])
		g.op("Reshape", fmt.Sprintf("w%d", l), names[2*l], shape)
	}
}

// forward returns the input of each layer and, last, the output of the network.
func (n network) forward(g *stepGraph) []string {
	activations := []string{"x"}
	for l := range n.layers() {
		i := strconv.Itoa(l)
		out := g.gemm("z"+i, false, false, activations[l], "w"+i, "b"+i)
		if !n.linear(l) {
			out = g.op("Tanh", "a"+i, out)
		}
		activations = append(activations, out)
	}
	return activations
}

// loss makes "loss", the mean squared error, and "dz", its gradient by the
// network's output.
func (n network) loss(g *stepGraph, output string, batch int) {
	cells := batch * n.widths[0]
	g.Floats("per_cell", []float32{1 / float32(cells)}, 1)
	g.Floats("two_per_cell", []float32{2 / float32(cells)}, 1)
	g.op("Sub", "error", output, "x")
	g.op("Reshape", "flat_error", "error", "flat")
	g.op("Mul", "square", "flat_error", "flat_error")
	g.Node("ReduceSum", []string{"square", "axis0"}, []string{"sum"})
	g.op("Mul", "loss", "sum", "per_cell")
	g.op("Mul", "dz", "error", "two_per_cell")
}

// backward makes "g", the gradient by the parameter vector.
func (n network) backward(g *stepGraph, activations []string) {
	g.Floats("one", []float32{1}, 1)
	grads := make([]string, 2*n.layers())
	dz := "dz"
	for l := n.layers() - 1; l >= 0; l-- {
		i := strconv.Itoa(l)
		input := activations[l]
		g.gemm("dw"+i, true, false, input, dz)
		grads[2*l] = g.op("Reshape", "flat_dw"+i, "dw"+i, "flat")
		grads[2*l+1] = n.sumRows(g, "db"+i, dz)
		if l == 0 {
			break
		}
		dz = g.gemm("da"+i, false, true, dz, "w"+i)
		if !n.linear(l - 1) { // Tanh' = 1 - Tanh²
			g.op("Mul", "a²"+i, input, input)
			g.op("Sub", "slope"+i, "one", "a²"+i)
			dz = g.op("Mul", "dz"+i, dz, "slope"+i)
		}
	}
	g.Node("Concat", grads, []string{"g"}, onnx.Attr{Name: "axis", Value: 0})
}

func adam(g *stepGraph) {
	g.Floats("beta1", []float32{beta1}, 1)
	g.Floats("beta2", []float32{beta2}, 1)
	g.Floats("1-beta1", []float32{1 - beta1}, 1)
	g.Floats("1-beta2", []float32{1 - beta2}, 1)
	g.Floats("epsilon", []float32{epsilon}, 1)

	g.op("Mul", "m_old", "m", "beta1")
	g.op("Mul", "m_new", "g", "1-beta1")
	g.op("Add", "m'", "m_old", "m_new")

	g.op("Mul", "g²", "g", "g")
	g.op("Mul", "v_old", "v", "beta2")
	g.op("Mul", "v_new", "g²", "1-beta2")
	g.op("Add", "v'", "v_old", "v_new")

	g.op("Sqrt", "root", "v'")
	g.op("Add", "denominator", "root", "epsilon")
	g.op("Div", "direction", "m'", "denominator")
	g.op("Mul", "update", "direction", "rate")
	g.op("Sub", "p'", "p", "update")
}
