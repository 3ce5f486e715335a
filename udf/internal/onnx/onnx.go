package onnx

import (
	"encoding/binary"
	"math"

	"google.golang.org/protobuf/encoding/protowire"
)

// IRVersion and Opset are old enough for every ONNX Runtime that Scrim can load
// and new enough for IsNaN, Clip and Where on doubles.
const (
	IRVersion = 8
	Opset     = 17
)

// Batch is the dimension whose size is only known at run time.
const Batch = -1

// Type is TensorProto.DataType.
type Type uint64

// The element types that Scrim's graphs, and those of its tests, use.
const (
	Float  Type = 1
	Int64  Type = 7
	String Type = 8
	Bool   Type = 9
	Double Type = 11
)

// Attr is an integer attribute of a node.
type Attr struct {
	Name  string
	Value int64
}

// Graph collects the parts of a model in the order in which they are added.
// The zero value is an empty graph.
type Graph struct {
	Name string

	nodes, initializers, inputs, outputs []byte
}

// Node adds an operator. Nodes must be added after those whose outputs they read.
func (g *Graph) Node(op string, inputs, outputs []string, attrs ...Attr) {
	var n []byte
	for _, in := range inputs {
		n = appendString(n, 1, in)
	}
	for _, out := range outputs {
		n = appendString(n, 2, out)
	}
	n = appendString(n, 3, outputs[0])
	n = appendString(n, 4, op)
	for _, a := range attrs {
		const typeInt = 2
		m := appendString(nil, 1, a.Name)
		m = appendVarint(m, 3, uint64(a.Value))
		m = appendVarint(m, 20, typeInt)
		n = appendBytes(n, 5, m)
	}
	g.nodes = appendBytes(g.nodes, 1, n)
}

// Input declares an input of the graph; Batch stands for a dynamic dimension.
func (g *Graph) Input(name string, t Type, dims ...int) {
	g.inputs = appendBytes(g.inputs, 11, valueInfo(name, t, dims))
}

// Output declares an output of the graph; some node must produce that name.
func (g *Graph) Output(name string, t Type, dims ...int) {
	g.outputs = appendBytes(g.outputs, 12, valueInfo(name, t, dims))
}

// Floats adds a constant.
func (g *Graph) Floats(name string, v []float32, dims ...int) {
	raw := make([]byte, 0, 4*len(v))
	for _, x := range v {
		raw = binary.LittleEndian.AppendUint32(raw, math.Float32bits(x))
	}
	g.constant(name, Float, raw, dims)
}

// Doubles adds a constant.
func (g *Graph) Doubles(name string, v []float64, dims ...int) {
	raw := make([]byte, 0, 8*len(v))
	for _, x := range v {
		raw = binary.LittleEndian.AppendUint64(raw, math.Float64bits(x))
	}
	g.constant(name, Double, raw, dims)
}

// Ints adds a one-dimensional constant: shapes, axes, split sizes.
func (g *Graph) Ints(name string, v ...int) {
	raw := make([]byte, 0, 8*len(v))
	for _, x := range v {
		raw = binary.LittleEndian.AppendUint64(raw, uint64(x))
	}
	g.constant(name, Int64, raw, []int{len(v)})
}

func (g *Graph) constant(name string, t Type, raw []byte, dims []int) {
	var m []byte
	for _, d := range dims {
		m = appendVarint(m, 1, uint64(d))
	}
	m = appendVarint(m, 2, uint64(t))
	m = appendString(m, 8, name)
	m = appendBytes(m, 9, raw)
	g.initializers = appendBytes(g.initializers, 5, m)
}

// Model returns the finished ONNX file.
func (g *Graph) Model() []byte {
	graph := append([]byte(nil), g.nodes...)
	graph = appendString(graph, 2, g.Name)
	graph = append(graph, g.initializers...)
	graph = append(graph, g.inputs...)
	graph = append(graph, g.outputs...)

	m := appendVarint(nil, 1, IRVersion)
	m = appendString(m, 2, "scrim")
	m = appendBytes(m, 7, graph)
	return appendBytes(m, 8, appendVarint(nil, 2, Opset))
}

// AppendMeta adds an entry to the metadata of a finished file. Protobuf lets a
// repeated field continue at the end of a message, so the file is not parsed.
func AppendMeta(model []byte, key, value string) []byte {
	return appendBytes(model, 14, appendString(appendString(nil, 1, key), 2, value))
}

func valueInfo(name string, t Type, dims []int) []byte {
	var shape []byte
	for _, d := range dims {
		var dim []byte
		if d == Batch {
			dim = appendString(nil, 2, "N")
		} else {
			dim = appendVarint(nil, 1, uint64(d))
		}
		shape = appendBytes(shape, 1, dim)
	}
	tensor := appendBytes(appendVarint(nil, 1, uint64(t)), 2, shape)
	return appendBytes(appendString(nil, 1, name), 2, appendBytes(nil, 1, tensor))
}

func appendVarint(b []byte, field protowire.Number, v uint64) []byte {
	return protowire.AppendVarint(protowire.AppendTag(b, field, protowire.VarintType), v)
}

func appendString(b []byte, field protowire.Number, s string) []byte {
	return protowire.AppendString(protowire.AppendTag(b, field, protowire.BytesType), s)
}

func appendBytes(b []byte, field protowire.Number, v []byte) []byte {
	return protowire.AppendBytes(protowire.AppendTag(b, field, protowire.BytesType), v)
}
