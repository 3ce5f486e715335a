//go:build linux

package bench_test

import (
	"encoding/binary"
	"fmt"
	"math"
	"slices"
	"strconv"
	"strings"
	"testing"

	"google.golang.org/protobuf/encoding/protowire"
)

// network is what an encoder's ONNX file says, as numbers: enough to compute with it in another language.
type network struct {
	mean, std []float64
	low, high float64 // what is beyond, in deviations, is taken for this
	layers    []layer // Tanh is between them
}

// layer has a row of weights for each of its outputs.
type layer struct {
	weights [][]float32
	bias    []float32
}

// Field numbers of onnx.proto3.
const (
	modelGraph       = 7
	graphNode        = 1
	graphInitializer = 5
	nodeOp           = 4
	tensorName       = 8
	tensorRaw        = 9
)

// readNetwork reads a file that udf/train has published. A graph of any other form is an error: it would be other work.
func readNetwork(model []byte) (*network, error) {
	var ops []string
	constants := map[string][]byte{}
	for _, graph := range all(model, modelGraph) {
		for _, node := range all(graph, graphNode) {
			ops = append(ops, string(one(node, nodeOp)))
		}
		for _, tensor := range all(graph, graphInitializer) {
			constants[string(one(tensor, tensorName))] = one(tensor, tensorRaw)
		}
	}
	n := &network{mean: doubles(constants["mean"]), std: doubles(constants["std"])}
	want := []string{"IsNaN", "Where", "Sub", "Div", "Clip", "Cast"}
	in := len(n.mean)
	for i := 0; ; i++ {
		bias := floats(constants["b"+strconv.Itoa(i)])
		weights := floats(constants["w"+strconv.Itoa(i)])
		if len(bias) == 0 {
			break
		}
		if i > 0 {
			want = append(want, "Tanh")
		}
		want = append(want, "Gemm")
		if len(weights) != in*len(bias) {
			return nil, fmt.Errorf("layer %d has %d weights for %d inputs and %d outputs", i, len(weights), in, len(bias))
		}
		l := layer{bias: bias, weights: make([][]float32, len(bias))}
		for j, w := range weights { // they are by input
			l.weights[j%len(bias)] = append(l.weights[j%len(bias)], w)
		}
		n.layers, in = append(n.layers, l), len(bias)
	}
	low, high := doubles(constants["low"]), doubles(constants["high"])
	if !slices.Equal(ops, want) || len(n.layers) == 0 || len(n.std) != len(n.mean) || len(low) != 1 || len(high) != 1 {
		return nil, fmt.Errorf("not an encoder's graph: %s", strings.Join(ops, " "))
	}
	n.low, n.high = low[0], high[0]
	return n, nil
}

// all returns the contents of each field of that number in a protobuf message; of what is none, nothing.
func all(msg []byte, number protowire.Number) (found [][]byte) {
	for len(msg) > 0 {
		num, typ, tag := protowire.ConsumeTag(msg)
		if tag < 0 {
			return nil
		}
		size := protowire.ConsumeFieldValue(num, typ, msg[tag:])
		if size < 0 {
			return nil
		}
		if num == number && typ == protowire.BytesType {
			value, _ := protowire.ConsumeBytes(msg[tag:])
			found = append(found, value)
		}
		msg = msg[tag+size:]
	}
	return found
}

func one(msg []byte, number protowire.Number) []byte {
	if found := all(msg, number); len(found) == 1 {
		return found[0]
	}
	return nil
}

func floats(raw []byte) []float32 {
	var out []float32
	for ; len(raw) >= 4; raw = raw[4:] {
		out = append(out, math.Float32frombits(binary.LittleEndian.Uint32(raw)))
	}
	return out
}

func doubles(raw []byte) []float64 {
	var out []float64
	for ; len(raw) >= 8; raw = raw[8:] {
		out = append(out, math.Float64frombits(binary.LittleEndian.Uint64(raw)))
	}
	return out
}

// plainPython is a PL/Python body that computes one component from arguments of these names, with nothing but Python. All
// numbers are constants of the compiled body.
func (n *network) plainPython(args []string, component int) string {
	var b strings.Builder
	fmt.Fprintf(&b, "from math import tanh\nx = [min(max(((m if v is None or v != v else v) - m) / s, %v), %v) for v, m, s in zip((%s), %s, %s)]\n",
		n.low, n.high, strings.Join(args, ", "), tuple(n.mean), tuple(n.std))
	for i, l := range n.layers {
		var neurons []string
		for j := range l.bias {
			neurons = append(neurons, fmt.Sprintf("(%s, %v)", tuple(l.weights[j]), l.bias[j]))
		}
		sum := "sum([a * c for a, c in zip(x, w)]) + b"
		if i < len(n.layers)-1 {
			sum = "tanh(" + sum + ")"
		}
		fmt.Fprintf(&b, "x = [%s for w, b in (%s)]\n", sum, strings.Join(neurons, ", "))
	}
	fmt.Fprintf(&b, "return x[%d]\n", component)
	return b.String()
}

// numpyPython is the same with numpy, whose arrays are made once a session.
func (n *network) numpyPython(args []string, component int) string {
	var layers []string
	for _, l := range n.layers {
		var rows []string
		for _, w := range l.weights {
			rows = append(rows, tuple(w))
		}
		layers = append(layers, fmt.Sprintf("(np.array((%s), np.float32), np.array(%s, np.float32))", strings.Join(rows, ", "), tuple(l.bias)))
	}
	return fmt.Sprintf(`if 'net' not in SD:
    import numpy as np
    SD['net'] = np, np.array(%s), np.array(%s), (%s)
np, mean, std, layers = SD['net']
x = np.array((%s), np.float64)
x = np.clip((np.where(np.isnan(x), mean, x) - mean) / std, %v, %v).astype(np.float32)
for w, b in layers[:-1]:
    x = np.tanh(w @ x + b)
w, b = layers[-1]
return float((w @ x + b)[%d])
`, tuple(n.mean), tuple(n.std), strings.Join(layers, ", "), strings.Join(args, ", "), n.low, n.high, component)
}

// tuple is a Python literal, with a comma at the end for tuples of one.
func tuple[F float32 | float64](values []F) string {
	var b strings.Builder
	b.WriteByte('(')
	for _, v := range values {
		fmt.Fprintf(&b, "%v, ", v)
	}
	return strings.TrimSuffix(b.String(), " ") + ")"
}

func TestReadNetworkRefuses(t *testing.T) {
	other := protowire.AppendBytes(protowire.AppendTag(nil, modelGraph, protowire.BytesType), nil)
	for _, model := range [][]byte{nil, {0xff}, other} {
		if _, err := readNetwork(model); err == nil {
			t.Errorf("%q is taken", model)
		}
	}
}
