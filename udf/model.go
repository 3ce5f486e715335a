package udf

import (
	"errors"
	"fmt"
	"math"
	"math/rand/v2"
	"slices"
	"strings"

	ort "github.com/yalue/onnxruntime_go"

	"github.com/scrimdb/scrim/udf/internal/onnx"
)

// What CheckModel takes: a seal has room for so many inputs, and an encoder may have so many dimensions too.
const (
	maxInputs = 62
	maxDims   = 1024
)

// The kinds of a model's inputs.
const (
	KindFloat = "float" // or double
	KindInt   = "int64"
	KindBool  = "bool"
)

var kinds = map[ort.TensorElementDataType]string{
	ort.TensorElementDataTypeFloat: KindFloat, ort.TensorElementDataTypeDouble: KindFloat,
	ort.TensorElementDataTypeInt64: KindInt, ort.TensorElementDataTypeBool: KindBool,
}

// Model is a model file that was found to be fit for use, and what was found out about it.
type Model struct {
	Content   []byte   // the file with a test vector
	Inputs    []string // the kind of each input of a row
	Dims      int      // outputs of a row
	Signature string   // in words
}

// ModelError says why a file cannot be used as a model.
type ModelError struct {
	Message string
	Hint    string
}

func (e *ModelError) Error() string { return e.Message + " (" + e.Hint + ")" }

func unfit(hint, format string, args ...any) error {
	return &ModelError{Message: fmt.Sprintf(format, args...), Hint: hint}
}

// CheckModel looks whether a file can be used as a model: rows of numbers in, a row of numbers out for each, and the same row out for
// the same row in, bit for bit, whatever the batch. It gives it a test vector. Errors are ErrModelCorrupt, *ModelError and *DeviceError.
func (rt *Runtime) CheckModel(name string, version int, content []byte) (Model, error) {
	if len(content) >= 8 && string(content[4:8]) == "ORTM" {
		return Model{}, unfit("Convert it from the ONNX file that it was made of.", "the file is in ONNX Runtime's own format")
	}
	external, err := onnx.External(content)
	if err != nil {
		return Model{}, fmt.Errorf("%w: %w", ErrModelCorrupt, err)
	}
	if external {
		return Model{}, unfit("Save the model with all its weights in one file.", "the model has weights in another file")
	}
	e, err := rt.openEncoder(EncoderSpec{Name: name, Version: version, Model: true}, content)
	if err != nil {
		return Model{}, err
	}
	m, err := e.tryModel(content)
	return m, errors.Join(err, e.Close())
}

func (e *Encoder) tryModel(content []byte) (Model, error) {
	m := Model{Content: content, Dims: e.spec.Dims, Signature: e.signature()}
	for _, p := range e.inputs {
		m.Inputs = append(m.Inputs, slices.Repeat([]string{kinds[p.kind]}, p.width)...)
	}
	rows, predictions, err := e.tryRows(m.Inputs)
	if err != nil {
		return Model{}, err
	}
	features, _, err := e.testVector()
	switch {
	case err != nil: // it has none
		m.Content = appendVector(content, rows[:vectorRows*e.spec.Inputs], predictions[:vectorRows*e.spec.Dims])
		return m, nil
	case len(features)%e.spec.Inputs != 0:
		return Model{}, unfit("Import the file that the model was exported to.", "the model has a test vector of another's")
	}
	return m, e.checkTestVector()
}

// trialRows is how many different rows a model is tried with, and vectorRows how many of them become its test vector.
const (
	trialRows  = 256
	vectorRows = 16
)

// trialSizes are batches of each size that a session sees, most of them padded.
var trialSizes = []int{2, 3, 7, 13, 31, 64, 100, 250, 500, 1024}

// tryRows computes predictions of made-up rows one by one and in batches. A model that cannot take numbers of all sizes, since
// it looks something up by them, say, is tried with small ones.
func (e *Encoder) tryRows(kinds []string) (rows []float64, predictions []float32, err error) {
	for _, wide := range []bool{true, false} {
		rows = makeRows(kinds, wide)
		predictions = make([]float32, trialRows*e.spec.Dims)
		for _, size := range append([]int{1}, trialSizes...) {
			if err = e.tryBatches(rows, predictions, size); err != nil {
				break
			}
		}
		if refused := (*runError)(nil); !errors.As(err, &refused) {
			return rows, predictions, err
		}
	}
	return nil, nil, unfit("A model must take rows of zeros and ones: batches are padded with zeros.", "the model cannot compute test rows: %s", runtimeWords(err))
}

// tryBatches computes the rows in batches of a size, over again until all have been in one. Of size 1 it writes the predictions down, of any other
// it compares them.
func (e *Encoder) tryBatches(rows []float64, predictions []float32, size int) error {
	in, dims := e.spec.Inputs, e.spec.Dims
	batch, got := make([]float64, 0, size*in), make([]float32, size*dims)
	for start := 0; start < trialRows; start += size {
		batch = batch[:0]
		for i := range size {
			at := (start + i) % trialRows
			batch = append(batch, rows[at*in:(at+1)*in]...)
		}
		if err := e.encode(got, batch, size); err != nil {
			return err
		}
		if size == 1 {
			copy(predictions[start*dims:], got)
			continue
		}
		for i, v := range got {
			if at := (start*dims + i) % len(predictions); math.Float32bits(v) != math.Float32bits(predictions[at]) {
				return unfit("It must compute each row by itself, always in the same way: without randomness, sums over the batch, or operators that round differently in larger batches (Elu and Softplus do).",
					"the model's prediction for a row depends on the batch that the row is in: alone it is another than among %d", size)
			}
		}
	}
	return nil
}

// makeRows makes rows of all that columns hold: measures large and small, counts, seconds, zeros and missing values; or only zeros,
// ones and what is between.
func makeRows(kinds []string, wide bool) []float64 {
	r := rand.New(rand.NewPCG(0x5c71a, uint64(len(kinds))))
	scales := []float64{1, 1, 10, 1000, 1e5, 1e9, 1e-3, 0}
	rows := make([]float64, 0, trialRows*len(kinds))
	for row := range trialRows {
		for i, kind := range kinds {
			v := r.Float64()
			switch {
			case kind == KindBool || kind == KindInt && !wide:
				v = math.Round(v)
			case kind == KindInt:
				v = math.Round(v * []float64{1, 1, 10, 100}[row%4])
			case wide && row%8 == 5 && (row/8)%len(kinds) == i:
				v = math.NaN()
			case wide && row%3 == 0:
				v = math.Round(v * 100)
			case wide:
				v = (2*v - 1) * scales[row%len(scales)]
			}
			rows = append(rows, v)
		}
	}
	return rows
}

// openModel finds out what goes in and comes out, and makes the session.
func (rt *Runtime) openModel(e *Encoder, model []byte, inputs, outputs []ort.InputOutputInfo) (err error) {
	if e.inputs, err = inputPorts(inputs); err != nil {
		return err
	}
	width := 0
	for _, p := range e.inputs {
		width += p.width
	}
	var session *ort.DynamicAdvancedSession
	for i := range outputs {
		p, possible := outputPort(&outputs[i])
		if !possible {
			continue
		}
		if session, err = rt.newSession(e.device, model, e.inputs, p.name); err != nil {
			return err
		}
		e.session = session
		fits, err := e.probe(&p)
		if err != nil || !fits {
			if err := errors.Join(err, session.Destroy()); err != nil {
				return err
			}
			e.session = nil
			continue
		}
		e.output = p
		break
	}
	if e.session == nil {
		return unfit("Wanted is a tensor of float, double, int64 or bool, of shape [N], [N, 1] or [N, d], d being "+fmt.Sprint(maxDims)+" at most. Of a scikit-learn classifier export probabilities as a tensor (zipmap=False).",
			"no output of the model can be shown: it has %s", describe(outputs))
	}
	if e.spec.Inputs == 0 { // it is being checked
		e.spec.Inputs, e.spec.Dims = width, e.output.width
	}
	if e.spec.Inputs != width || e.spec.Dims != e.output.width {
		return errors.Join(fmt.Errorf("%w: expected %d inputs and %d outputs, found %s", ErrModelSignature, e.spec.Inputs, e.spec.Dims, e.signature()), e.session.Destroy())
	}
	return nil
}

// inputPorts takes one tensor of several inputs, or a tensor for each.
func inputPorts(found []ort.InputOutputInfo) ([]port, error) {
	const hint = "Wanted is one tensor of float or double and shape [N, k], or up to 62 tensors of float, double, int64 or bool and shape [N] or [N, 1], N being any number (a dynamic axis)."
	ports := make([]port, len(found))
	width := 0
	for i := range found {
		f := &found[i]
		p := port{name: f.Name, kind: f.DataType, flat: len(f.Dimensions) == 1, width: 1}
		ok := f.OrtValueType == ort.ONNXTypeTensor && kinds[f.DataType] != "" && (len(f.Dimensions) == 1 || len(f.Dimensions) == 2) && f.Dimensions[0] < 0
		if ok && !p.flat {
			p.width = int(f.Dimensions[1])
			ok = p.width == 1 || p.width > 1 && p.width <= maxInputs && len(found) == 1 && kinds[f.DataType] == KindFloat
		}
		if !ok {
			return nil, unfit(hint, "the inputs of the model are of another shape or type: it has %s", describe(found))
		}
		ports[i] = p
		width += p.width
	}
	if width == 0 || width > maxInputs {
		return nil, unfit(hint, "the model has %d inputs", width)
	}
	return ports, nil
}

// outputPort tells whether what is declared of an output leaves it possible that it has a row for each. Its width is 0 if that is not declared.
func outputPort(f *ort.InputOutputInfo) (p port, possible bool) {
	p = port{name: f.Name, kind: f.DataType}
	if f.OrtValueType != ort.ONNXTypeTensor || kinds[f.DataType] == "" || len(f.Dimensions) > 2 {
		return p, false
	}
	return p, len(f.Dimensions) == 0 || f.Dimensions[0] < 0
}

// probe computes a few rows of zeros and looks at what comes out. It tells whether that is a row for each.
func (e *Encoder) probe(p *port) (fits bool, err error) {
	const rows = 3
	values := make([]ort.Value, 0, len(e.inputs)+1)
	defer func() {
		for _, v := range values {
			err = errors.Join(err, v.Destroy())
		}
	}()
	for _, in := range e.inputs {
		b := newBuffer(in)
		v, err := b.tensor(in, rows)
		if err != nil {
			return false, err
		}
		values = append(values, v)
	}
	out := []ort.Value{nil}
	if err := e.session.Run(values, out); err != nil {
		return false, unfit("A model must take rows of zeros: batches are padded with them.", "the model cannot compute rows of zeros: %s", runtimeWords(err))
	}
	values = append(values, out[0])
	shape := out[0].GetShape()
	p.flat, p.width = len(shape) == 1, 1
	if len(shape) == 2 {
		p.width = int(shape[1])
	}
	return (p.flat || len(shape) == 2) && shape[0] == rows && p.width >= 1 && p.width <= maxDims, nil
}

// signature says in words what goes in and comes out.
func (e *Encoder) signature() string {
	in := make([]string, len(e.inputs))
	for i, p := range e.inputs {
		in[i] = p.String()
	}
	return strings.Join(in, ", ") + " -> " + e.output.String()
}

// String is name, type and shape.
func (p port) String() string {
	name := kinds[p.kind]
	if p.kind == ort.TensorElementDataTypeDouble {
		name = "double"
	}
	if p.flat {
		return fmt.Sprintf("%s %s [N]", p.name, name)
	}
	return fmt.Sprintf("%s %s [N, %d]", p.name, name, p.width)
}

// describe says what inputs or outputs there are.
func describe(found []ort.InputOutputInfo) string {
	if len(found) == 0 {
		return "none"
	}
	words := make([]string, len(found))
	for i := range found {
		words[i] = found[i].String()
	}
	return strings.Join(words, "; ")
}
