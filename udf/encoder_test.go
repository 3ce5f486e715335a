package udf_test

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/scrimdb/scrim/udf"
	"github.com/scrimdb/scrim/udf/internal/onnx"
	"github.com/scrimdb/scrim/udf/internal/udftest"
)

// network writes an encoder of the shape that train exports, with random
// weights and without test vector.
func network(inputs, hidden, dims int) []byte {
	r := rand.New(rand.NewPCG(7, uint64(inputs*1000+dims)))
	weights := func(n int) []float32 {
		w := make([]float32, n)
		for i := range w {
			w[i] = float32(r.NormFloat64())
		}
		return w
	}
	g := &onnx.Graph{Name: "encoder"}
	g.Input(udf.InputName, onnx.Double, onnx.Batch, inputs)
	g.Output(udf.OutputName, onnx.Float, onnx.Batch, dims)
	g.Doubles("mean", make([]float64, inputs), inputs)
	g.Doubles("std", []float64{1.5})
	g.Doubles("low", []float64{-10})
	g.Doubles("high", []float64{10})
	g.Floats("w0", weights(inputs*hidden), inputs, hidden)
	g.Floats("b0", weights(hidden), hidden)
	g.Floats("w1", weights(hidden*dims), hidden, dims)
	g.Floats("b1", weights(dims), dims)
	node := func(op, out string, in ...string) { g.Node(op, in, []string{out}) }
	node("IsNaN", "missing", udf.InputName)
	node("Where", "imputed", "missing", "mean", udf.InputName)
	node("Sub", "centred", "imputed", "mean")
	node("Div", "scaled", "centred", "std")
	node("Clip", "clipped", "scaled", "low", "high")
	g.Node("Cast", []string{"clipped"}, []string{"x"}, onnx.Attr{Name: "to", Value: int64(onnx.Float)})
	node("Gemm", "z", "x", "w0", "b0")
	node("Tanh", "a", "z")
	node("Gemm", udf.OutputName, "a", "w1", "b1")
	return g.Model()
}

// columnSums writes a model that mixes the rows of a batch, as no encoder may:
// each row gets the sum over the batch. It makes padding visible.
func columnSums() []byte {
	g := &onnx.Graph{Name: "sums"}
	g.Input(udf.InputName, onnx.Double, onnx.Batch, 1)
	g.Output(udf.OutputName, onnx.Float, onnx.Batch, 1)
	g.Ints("axis", 0)
	g.Doubles("zero", []float64{0})
	node := func(op, out string, in ...string) { g.Node(op, in, []string{out}) }
	node("ReduceSum", "sum", udf.InputName, "axis")
	node("Mul", "zeros", udf.InputName, "zero")
	node("Add", "wide", "zeros", "sum")
	g.Node("Cast", []string{"wide"}, []string{udf.OutputName}, onnx.Attr{Name: "to", Value: int64(onnx.Float)})
	return g.Model()
}

// write stores a model file and returns the spec that loads it.
func write(tb testing.TB, model []byte, inputs, dims int) udf.EncoderSpec {
	tb.Helper()
	path := filepath.Join(tb.TempDir(), "model.onnx")
	if err := os.WriteFile(path, model, 0o600); err != nil {
		tb.Fatal(err)
	}
	sum := sha256.Sum256(model)
	return udf.EncoderSpec{
		Name: "test", Version: 3, Path: path, SHA256: hex.EncodeToString(sum[:]),
		Inputs: inputs, Dims: dims,
	}
}

func withVector(tb testing.TB, rt *udf.Runtime, model []byte, inputs, dims int) []byte {
	tb.Helper()
	rows := values(5 * inputs)
	model, err := rt.AddTestVector(model, udf.CPU, inputs, dims, rows)
	if err != nil {
		tb.Fatal(err)
	}
	return model
}

func load(tb testing.TB, rt *udf.Runtime, model []byte, inputs, dims int) *udf.Encoder {
	tb.Helper()
	e, err := rt.LoadEncoder(write(tb, withVector(tb, rt, model, inputs, dims), inputs, dims))
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

// values returns the same n numbers at every call.
func values(n int) []float64 {
	r := rand.New(rand.NewPCG(1, 2))
	v := make([]float64, n)
	for i := range v {
		v[i] = 2 * r.NormFloat64()
	}
	return v
}

func TestLoadEncoder(t *testing.T) {
	rt := udftest.Runtime(t)
	spec := write(t, withVector(t, rt, network(3, 8, 2), 3, 2), 3, 2)
	spec.SHA256 = strings.ToUpper(spec.SHA256)
	e, err := rt.LoadEncoder(spec)
	if err != nil {
		t.Fatal(err)
	}
	if e.Inputs() != 3 || e.Dims() != 2 || e.Spec() != spec {
		t.Errorf("encoder describes itself as %d, %d, %+v", e.Inputs(), e.Dims(), e.Spec())
	}
	if e.RowsEncoded() != 0 || e.Batches() != 0 {
		t.Error("loading counts as encoding")
	}
	if err := e.Encode(make([]float32, 1025*2), make([]float64, 1025*3)); err != nil {
		t.Fatal(err)
	}
	if e.RowsEncoded() != 1025 || e.Batches() != 2 {
		t.Errorf("counted %d rows in %d batches, want 1025 in 2", e.RowsEncoded(), e.Batches())
	}
	if err := errors.Join(e.Close(), e.Close()); err != nil {
		t.Error(err)
	}
}

func TestLoadEncoderRefuses(t *testing.T) {
	rt := udftest.Runtime(t)
	plain := network(3, 8, 2)
	good := withVector(t, rt, plain, 3, 2)
	flipped := strings.Replace(string(good), "scrim.test.code\x12", "scrim.test.c0de\x12", 1)

	cases := map[string]struct {
		model  []byte
		change func(*udf.EncoderSpec)
		want   error
	}{
		"missing file":     {model: good, change: func(s *udf.EncoderSpec) { s.Path += "x" }, want: udf.ErrModelMissing},
		"wrong hash":       {model: good, change: func(s *udf.EncoderSpec) { s.SHA256 = strings.Repeat("0", 64) }, want: udf.ErrModelHash},
		"no hash":          {model: good, change: func(s *udf.EncoderSpec) { s.SHA256 = "" }, want: udf.ErrModelHash},
		"changed file":     {model: good, change: appendByte, want: udf.ErrModelHash},
		"empty file":       {model: nil, want: udf.ErrModelCorrupt},
		"not a model":      {model: []byte("PK\x03\x04 not a model"), want: udf.ErrModelCorrupt},
		"truncated":        {model: good[:len(plain)/2], want: udf.ErrModelCorrupt},
		"wrong inputs":     {model: good, change: func(s *udf.EncoderSpec) { s.Inputs = 4 }, want: udf.ErrModelSignature},
		"wrong dims":       {model: good, change: func(s *udf.EncoderSpec) { s.Dims = 1 }, want: udf.ErrModelSignature},
		"zero dims":        {model: good, change: func(s *udf.EncoderSpec) { s.Dims = 0 }, want: udf.ErrModelSignature},
		"no test vector":   {model: plain, want: udf.ErrTestVector},
		"no code":          {model: []byte(flipped), want: udf.ErrTestVector},
		"another code":     {model: otherVector(plain, "0x1p+00 0x1p+00"), want: udf.ErrTestVector},
		"code not numbers": {model: otherVector(plain, "one two"), want: udf.ErrTestVector},
		"mixes rows":       {model: withVector(t, rt, columnSums(), 1, 1), change: func(s *udf.EncoderSpec) { s.Inputs, s.Dims = 1, 1 }, want: udf.ErrTestVector},
		"code too short":   {model: otherVector(plain, "0x1p+00"), want: udf.ErrTestVector},
	}
	for name, c := range cases {
		t.Run(name, func(t *testing.T) {
			spec := write(t, c.model, 3, 2)
			if c.change != nil {
				c.change(&spec)
			}
			_, err := rt.LoadEncoder(spec)
			if !errors.Is(err, c.want) {
				t.Fatalf("got %v, want %v", err, c.want)
			}
			if !strings.HasPrefix(err.Error(), `encoder "test" version 3: `) {
				t.Errorf("error does not name the encoder: %v", err)
			}
		})
	}
}

// A file cut anywhere is refused, also where the rest happens to be valid
// protobuf: then a node, an initializer or the test vector is gone.
func TestTruncatedAnywhere(t *testing.T) {
	rt := udftest.Runtime(t)
	good := withVector(t, rt, network(2, 4, 1), 2, 1)
	for n := 0; n < len(good); n += 1 + len(good)/150 {
		_, err := rt.LoadEncoder(write(t, good[:n], 2, 1))
		if !errors.Is(err, udf.ErrModelCorrupt) && !errors.Is(err, udf.ErrModelSignature) && !errors.Is(err, udf.ErrTestVector) {
			t.Fatalf("cut at %d of %d bytes: %v", n, len(good), err)
		}
	}
}

func appendByte(s *udf.EncoderSpec) {
	model, _ := os.ReadFile(s.Path)
	_ = os.WriteFile(s.Path, append(model, 0), 0o600)
}

func otherVector(model []byte, codes string) []byte {
	model = onnx.AppendMeta(model[:len(model):len(model)], "scrim.test.features", "0x0p+00 NaN 0x1p+00")
	return onnx.AppendMeta(model, "scrim.test.code", codes)
}

func TestWrongSignature(t *testing.T) {
	rt := udftest.Runtime(t)
	for _, c := range []struct {
		in, out         string
		inType, outType onnx.Type
		dims            []int
	}{
		{"x", "code", onnx.Float, onnx.Float, []int{onnx.Batch, 2}},
		{"features", "y", onnx.Double, onnx.Double, []int{onnx.Batch, 2}},
		{"features", "code", onnx.Double, onnx.Double, []int{onnx.Batch, 2}},
		{"features", "code", onnx.Float, onnx.Float, []int{onnx.Batch, 2}},
		{"features", "code", onnx.Float, onnx.Float, []int{5, 2}},
	} {
		t.Run(fmt.Sprint(c), func(t *testing.T) {
			g := &onnx.Graph{Name: "wrong"}
			g.Input(c.in, c.inType, c.dims...)
			g.Output(c.out, c.outType, c.dims...)
			g.Node("Identity", []string{c.in}, []string{c.out})
			_, err := rt.LoadEncoder(write(t, g.Model(), 2, 2))
			if !errors.Is(err, udf.ErrModelSignature) {
				t.Fatalf("got %v", err)
			}
		})
	}
}
