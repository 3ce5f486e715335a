// Package onnxtest makes small model files for tests: real ones, of each shape that models come in. All that they compute is
// exact for small numbers, so that a test can work out by itself what comes out.
package onnxtest

import (
	"github.com/scrimdb/scrim/udf/internal/onnx"
)

// Linear takes a float tensor of as many inputs as there are weights, and gives their weighted sum.
func Linear(bias float32, weights ...float32) []byte {
	g := &onnx.Graph{Name: "linear"}
	g.Input("x", onnx.Float, onnx.Batch, len(weights))
	g.Floats("w", weights, len(weights), 1)
	g.Floats("b", []float32{bias}, 1)
	g.Node("Gemm", []string{"x", "w", "b"}, []string{"y"})
	g.Output("y", onnx.Float, onnx.Batch, 1)
	return g.Model()
}

// Logistic is the logistic function of Linear, as a flat tensor, of inputs that are doubles.
func Logistic(bias float32, weights ...float32) []byte {
	g := &onnx.Graph{Name: "logistic"}
	g.Input("x", onnx.Double, onnx.Batch, len(weights))
	g.Floats("w", weights, len(weights), 1)
	g.Floats("b", []float32{bias}, 1)
	g.Ints("axis", 1)
	cast(g, "x", "f", onnx.Float)
	g.Node("Gemm", []string{"f", "w", "b"}, []string{"z"})
	g.Node("Sigmoid", []string{"z"}, []string{"p"})
	g.Node("Squeeze", []string{"p", "axis"}, []string{"y"})
	g.Output("y", onnx.Float, onnx.Batch)
	return g.Model()
}

// Mixed takes four tensors a, b, c and d of four types, two of them flat, and gives two outputs: their sum, and c times two.
func Mixed() []byte {
	g := &onnx.Graph{Name: "mixed"}
	g.Input("a", onnx.Float, onnx.Batch, 1)
	g.Input("b", onnx.Double, onnx.Batch)
	g.Input("c", onnx.Int64, onnx.Batch)
	g.Input("d", onnx.Bool, onnx.Batch, 1)
	g.Ints("axis", 1)
	g.Doubles("two", []float64{2})
	node := func(op, out string, in ...string) { g.Node(op, in, []string{out}) }
	cast(g, "a", "a1", onnx.Double)
	node("Unsqueeze", "b1", "b", "axis")
	cast(g, "c", "c0", onnx.Double)
	node("Unsqueeze", "c1", "c0", "axis")
	cast(g, "d", "d1", onnx.Double)
	node("Add", "ab", "a1", "b1")
	node("Add", "cd", "c1", "d1")
	node("Add", "sum", "ab", "cd")
	node("Mul", "double", "c1", "two")
	g.Node("Concat", []string{"sum", "double"}, []string{"y"}, onnx.Attr{Name: "axis", Value: 1})
	g.Output("y", onnx.Double, onnx.Batch, 2)
	return g.Model()
}

// Classifier gives the number of the largest of three weighted inputs as its first output, a label, and then the three.
func Classifier(weights [3]float32) []byte {
	g := &onnx.Graph{Name: "classifier"}
	g.Input("x", onnx.Float, onnx.Batch, 3)
	g.Floats("w", weights[:], 1, 3)
	g.Node("Mul", []string{"x", "w"}, []string{"scores"})
	g.Node("ArgMax", []string{"scores"}, []string{"label"}, onnx.Attr{Name: "axis", Value: 1}, onnx.Attr{Name: "keepdims", Value: 0})
	g.Output("label", onnx.Int64, onnx.Batch)
	g.Output("scores", onnx.Float, onnx.Batch, 3)
	return g.Model()
}

// Lookup gives the number of a table that its input points to, and fails where it points elsewhere.
func Lookup(table ...float32) []byte {
	g := &onnx.Graph{Name: "lookup"}
	g.Input("i", onnx.Int64, onnx.Batch)
	g.Floats("table", table, len(table))
	g.Node("Gather", []string{"table", "i"}, []string{"y"})
	g.Output("y", onnx.Float, onnx.Batch)
	return g.Model()
}

// Identity gives back what it takes: one tensor of a type of ONNX's, which may be one that no model may take.
func Identity(kind onnx.Type, dims ...int) []byte {
	g := &onnx.Graph{Name: "identity"}
	g.Input("x", kind, dims...)
	g.Node("Identity", []string{"x"}, []string{"y"})
	g.Output("y", kind, dims...)
	return g.Model()
}

// Text takes a text.
func Text() []byte { return Identity(onnx.String, onnx.Batch, 1) }

// Entangled gives the sum over the batch: what no model may do.
func Entangled() []byte {
	g := &onnx.Graph{Name: "entangled"}
	g.Input("x", onnx.Float, onnx.Batch, 1)
	g.Ints("axis", 0)
	g.Floats("zero", []float32{0}, 1)
	g.Node("ReduceSum", []string{"x", "axis"}, []string{"sum"})
	g.Node("Mul", []string{"x", "zero"}, []string{"zeros"})
	g.Node("Add", []string{"zeros", "sum"}, []string{"y"})
	g.Output("y", onnx.Float, onnx.Batch, 1)
	return g.Model()
}

// External adds a weight to a model that lies in another file.
func External(model []byte, file string) []byte {
	message := func(field byte, content []byte) []byte {
		return append([]byte{field<<3 | 2, byte(len(content))}, content...)
	}
	entry := append(message(1, []byte("location")), message(2, []byte(file))...)
	tensor := append([]byte{1 << 3, 1, 2 << 3, 1, 14 << 3, 1}, append(message(8, []byte("t")), message(13, entry)...)...)
	return append(model[:len(model):len(model)], message(7, message(5, tensor))...)
}

func cast(g *onnx.Graph, in, out string, to onnx.Type) {
	g.Node("Cast", []string{in}, []string{out}, onnx.Attr{Name: "to", Value: int64(to)})
}
