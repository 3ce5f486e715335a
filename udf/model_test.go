package udf_test

import (
	"errors"
	"math"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/scrimdb/scrim/udf"
	"github.com/scrimdb/scrim/udf/internal/onnx"
	"github.com/scrimdb/scrim/udf/internal/udftest"
	"github.com/scrimdb/scrim/udf/onnxtest"
)

func linear() []byte { return onnxtest.Linear(1, 0.5, 2, -1, 4) }

// checked registers a model's file and loads it as a proxy would.
func checked(t *testing.T, rt *udf.Runtime, content []byte) (udf.Model, *udf.Encoder) {
	t.Helper()
	m, err := rt.CheckModel("m", 1, content)
	if err != nil {
		t.Fatal(err)
	}
	spec := write(t, m.Content, len(m.Inputs), m.Dims)
	spec.Model = true
	e, err := rt.LoadEncoder(spec)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := e.Close(); err != nil {
			t.Error(err)
		}
	})
	return m, e
}

func TestModels(t *testing.T) {
	rt := udftest.Runtime(t)
	float4 := slices.Repeat([]string{udf.KindFloat}, 4)
	nan := math.NaN()
	for name, c := range map[string]struct {
		content   []byte
		inputs    []string
		signature string
		rows      []float64
		want      []float32
	}{
		"one float tensor":  {linear(), float4, "x float [N, 4] -> y float [N, 1]", []float64{1, 2, 3, 4, 0, 0, 0, nan}, []float32{18.5, float32(nan)}},
		"one double tensor": {onnxtest.Logistic(0, 1, 0.5, 0, 0), float4, "x double [N, 4] -> y float [N]", []float64{2, -4, 0, 0.25}, []float32{0.5}},
		"a label":           {onnxtest.Classifier([3]float32{1, 1, 0.5}), float4[:3], "x float [N, 3] -> label int64 [N]", []float64{1, 2, 3, 0, 0, 1}, []float32{1, 2}},
		"tensors of all kinds": {
			onnxtest.Mixed(),
			[]string{udf.KindFloat, udf.KindFloat, udf.KindInt, udf.KindBool},
			"a float [N, 1], b double [N], c int64 [N], d bool [N, 1] -> y double [N, 2]",
			[]float64{0.5, 0.25, 7, 1, -1, nan, -3, 0, 0, 0, 1 << 40, 1},
			[]float32{8.75, 14, float32(nan), -6, 1<<40 + 1, 1 << 41},
		},
	} {
		t.Run(name, func(t *testing.T) {
			m, e := checked(t, rt, c.content)
			if !slices.Equal(m.Inputs, c.inputs) || m.Signature != c.signature || m.Dims != len(c.want)*len(c.inputs)/len(c.rows) {
				t.Errorf("%v, %d, %s", m.Inputs, m.Dims, m.Signature)
			}
			if got := encode(t, e, c.rows); differs(got, c.want) >= 0 {
				t.Errorf("got %v, want %v", got, c.want)
			}
		})
	}
}

// A value that the type of its input does not have is an error, which does not say the value.
func TestModelInputs(t *testing.T) {
	_, e := checked(t, udftest.Runtime(t), onnxtest.Mixed())
	for _, row := range [][]float64{{0, 0, 0.5, 0}, {0, 0, math.NaN(), 0}, {0, 0, math.Inf(1), 0}, {0, 0, 0, 2}, {0, 0, 0, math.NaN()}, {0, 0, -1e19, 0}} {
		if err := e.Encode(make([]float32, 2), row); !errors.Is(err, udf.ErrModelInput) {
			t.Errorf("%v: %v", row, err)
		}
	}
	if got := encode(t, e, []float64{0, 0, 1 << 63, 0}); got[1] != 1<<64 { // the largest bigint
		t.Error(got)
	}
}

// TestModelFails: a model that fails on a row does so without saying which.
func TestModelFails(t *testing.T) {
	_, e := checked(t, udftest.Runtime(t), onnxtest.Lookup(10, 20, 30))
	if got := encode(t, e, []float64{2, 0, 1}); !slices.Equal(got, []float32{30, 10, 20}) {
		t.Error(got)
	}
	err := e.Encode(make([]float32, 1), []float64{4815162})
	if !errors.Is(err, udf.ErrModelFailed) || strings.Contains(err.Error(), "4815162") {
		t.Error(err)
	}
}

func graph(build func(g *onnx.Graph)) []byte {
	g := &onnx.Graph{Name: "g"}
	build(g)
	return g.Model()
}

func TestUnfitModels(t *testing.T) {
	rt := udftest.Runtime(t)
	sound := linear()
	for name, c := range map[string]struct {
		content []byte
		want    string
	}{
		"a text input":          {onnxtest.Text(), `Tensor "x"`},
		"a batch of fixed size": {onnxtest.Identity(onnx.Float, 1, 3), "the inputs of the model are of another shape or type"},
		"three dimensions":      {onnxtest.Identity(onnx.Float, onnx.Batch, 3, 3), "the inputs of the model are of another shape or type"},
		"many integers":         {onnxtest.Identity(onnx.Int64, onnx.Batch, 3), "the inputs of the model are of another shape or type"},
		"too many inputs":       {onnxtest.Identity(onnx.Float, onnx.Batch, 63), "the inputs of the model are of another shape or type"},
		"a text output": {graph(func(g *onnx.Graph) {
			g.Input("x", onnx.Float, onnx.Batch)
			g.Node("Cast", []string{"x"}, []string{"y"}, onnx.Attr{Name: "to", Value: int64(onnx.String)})
			g.Output("y", onnx.String, onnx.Batch)
		}), "no output of the model can be shown"},
		"one output for all rows": {graph(func(g *onnx.Graph) {
			g.Input("x", onnx.Float, onnx.Batch)
			g.Node("ReduceSum", []string{"x"}, []string{"y"}, onnx.Attr{Name: "keepdims", Value: 1})
			g.Output("y", onnx.Float, onnx.Batch)
		}), "no output of the model can be shown"},
		"a sum over the batch": {onnxtest.Entangled(), "depends on the batch"},
		"a vectorised operator": {graph(func(g *onnx.Graph) {
			g.Input("x", onnx.Float, onnx.Batch)
			g.Node("Softplus", []string{"x"}, []string{"y"})
			g.Output("y", onnx.Float, onnx.Batch)
		}), "depends on the batch"},
		"randomness": {graph(func(g *onnx.Graph) {
			g.Input("x", onnx.Float, onnx.Batch)
			g.Node("RandomUniformLike", []string{"x"}, []string{"y"})
			g.Output("y", onnx.Float, onnx.Batch)
		}), "depends on the batch"},
		"rows of zeros": {graph(func(g *onnx.Graph) {
			g.Input("x", onnx.Int64, onnx.Batch)
			g.Ints("one", 1)
			g.Floats("table", []float32{10}, 1)
			g.Node("Sub", []string{"x", "one"}, []string{"i"})
			g.Node("Mul", []string{"i", "i"}, []string{"j"})
			g.Node("Gather", []string{"table", "j"}, []string{"y"})
			g.Output("y", onnx.Float, onnx.Batch)
		}), "cannot compute rows of zeros"},
		"ORT's own format":  {append([]byte("\x1c\x00\x00\x00ORTM"), sound...), "own format"},
		"a truncated file":  {sound[:len(sound)-9], "not a valid ONNX model"},
		"an empty file":     {nil, "it is empty"},
		"a text":            {[]byte("not a model, however long it goes on"), "not a valid ONNX model"},
		"weights elsewhere": {onnxtest.External(sound, "/etc/hostname"), "weights in another file"},
		"no graph":          {[]byte{8, 8}, "not a valid ONNX model"},
		"an unknown operator": {graph(func(g *onnx.Graph) {
			g.Input("x", onnx.Float, onnx.Batch)
			g.Node("Nonsense", []string{"x"}, []string{"y"})
			g.Output("y", onnx.Float, onnx.Batch)
		}), "not a valid ONNX model"},
	} {
		t.Run(name, func(t *testing.T) {
			m, err := rt.CheckModel("m", 1, c.content)
			if err == nil {
				t.Fatalf("taken: %s", m.Signature)
			}
			if !strings.Contains(err.Error(), c.want) {
				t.Errorf("got %v", err)
			}
			if strings.Contains(err.Error(), "onnxruntime_src") {
				t.Errorf("a place in a source: %v", err)
			}
		})
	}
}

// TestExternalAnywhere: weights of other files are found wherever a tensor can be.
func TestExternalAnywhere(t *testing.T) {
	message := func(content []byte, fields ...byte) []byte {
		for _, f := range slices.Backward(fields) {
			var tag []byte
			if f > 15 {
				tag = []byte{f<<3&0x7f | 2 | 0x80, f >> 4}
			} else {
				tag = []byte{f<<3 | 2}
			}
			content = append(append(tag, byte(len(content))), content...)
		}
		return content
	}
	for _, tensor := range [][]byte{{14 << 3, 1}, message([]byte{10, 0}, 13)} {
		for _, path := range [][]byte{{7, 5}, {7, 15, 1}, {7, 15, 2}, {7, 1, 5, 5}, {7, 1, 5, 10}, {7, 1, 5, 22, 1}, {7, 1, 5, 23, 2}, {7, 1, 5, 6, 5}, {7, 1, 5, 11, 1, 5, 6, 5}, {25, 7, 5, 5}, {25, 11, 5}, {20, 1, 5}, {20, 2, 5}} {
			if found, err := onnx.External(message(tensor, path...)); !found || err != nil {
				t.Errorf("%v: %v, %v", path, found, err)
			}
		}
	}
	for _, content := range [][]byte{linear(), network(3, 8, 2), message([]byte{14 << 3, 0}, 7, 5)} {
		if found, err := onnx.External(content); found || err != nil {
			t.Errorf("%v, %v", found, err)
		}
	}
}

// TestModelVersions: a model is what was registered.
func TestModelIsRegistered(t *testing.T) {
	rt := udftest.Runtime(t)
	m, err := rt.CheckModel("m", 1, linear())
	if err != nil {
		t.Fatal(err)
	}
	for name, c := range map[string]struct {
		content      []byte
		inputs, dims int
		want         error
	}{
		"other inputs":     {m.Content, 3, 1, udf.ErrModelSignature},
		"other outputs":    {m.Content, 4, 2, udf.ErrModelSignature},
		"no test vector":   {linear(), 4, 1, udf.ErrTestVector},
		"another's vector": {append(onnxtest.Mixed(), m.Content[len(linear()):]...), 4, 2, udf.ErrTestVector},
	} {
		spec := write(t, c.content, c.inputs, c.dims)
		spec.Model = true
		if _, err := rt.LoadEncoder(spec); !errors.Is(err, c.want) || !strings.HasPrefix(err.Error(), `model "test" version 3: `) {
			t.Errorf("%s: %v", name, err)
		}
	}
	again, err := rt.CheckModel("m", 2, m.Content) // a published file, imported: it keeps its test vector
	if err != nil || !slices.Equal(again.Content, m.Content) {
		t.Error(err)
	}
	if _, err := rt.CheckModel("m", 2, append(onnxtest.Mixed(), m.Content[len(linear()):]...)); err == nil {
		t.Error("another's test vector is taken")
	}
}

func TestImport(t *testing.T) {
	s, dir := newStore(t)
	if _, err := s.Import("m.onnx"); !errors.Is(err, udf.ErrModelMissing) {
		t.Errorf("without the folder: %v", err)
	}
	put := func(name string) {
		t.Helper()
		if err := os.MkdirAll(filepath.Join(dir, filepath.Dir(name)), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(dir, name), []byte(name), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	put("import/m.onnx")
	put("import/team/n.onnx")
	put("enc/secret.onnx")
	for link, to := range map[string]string{"import/out.onnx": "../enc/secret.onnx", "import/abs.onnx": filepath.Join(dir, "enc/secret.onnx"), "import/folder": "..", "import/in.onnx": "team/n.onnx"} {
		if err := os.Symlink(to, filepath.Join(dir, link)); err != nil {
			t.Fatal(err)
		}
	}
	for path, want := range map[string]error{
		"m.onnx": nil, "team/n.onnx": nil, "team/../m.onnx": nil, "in.onnx": nil,
		"missing.onnx": udf.ErrModelMissing, "team/m.onnx": udf.ErrModelMissing,
		"": udf.ErrImportPath, ".": udf.ErrImportPath, "team": udf.ErrImportPath, "/etc/passwd": udf.ErrImportPath, filepath.Join(dir, "import/m.onnx"): udf.ErrImportPath,
		"../enc/secret.onnx": udf.ErrImportPath, "team/../../enc/secret.onnx": udf.ErrImportPath,
		"out.onnx": udf.ErrImportPath, "abs.onnx": udf.ErrImportPath, "folder/enc/secret.onnx": udf.ErrImportPath, "m.onnx\x00": udf.ErrImportPath,
	} {
		content, err := s.Import(path)
		if !errors.Is(err, want) || want == nil && (err != nil || len(content) == 0) || want != nil && content != nil {
			t.Errorf("%q: %q, %v", path, content, err)
		}
	}
	if list, err := s.List(); err != nil || len(list) != 0 {
		t.Errorf("what is to be imported is the store's: %v, %v", list, err)
	}
}
