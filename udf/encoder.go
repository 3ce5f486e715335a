package udf

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"

	ort "github.com/yalue/onnxruntime_go"
)

// Why an encoder was not loaded.
var (
	ErrModelMissing   = errors.New("model file is missing")
	ErrModelHash      = errors.New("model file does not have the registered SHA-256")
	ErrModelCorrupt   = errors.New("model file is not a valid ONNX model")
	ErrModelSignature = errors.New("model has the wrong inputs or outputs")
	ErrTestVector     = errors.New("model does not reproduce its stored test vector")
	// Besides these, a *DeviceError: this process cannot compute on the device that the model was made for.
)

// Why rows were not encoded.
var (
	ErrModelFailed = errors.New("the model could not compute a batch")
	ErrModelInput  = errors.New("a value is none of its input's type: NULL or NaN or a fraction for an integer, say")
)

// The names of an encoder's one input, double [N, Inputs], and one output,
// float [N, Dims].
const (
	InputName  = "features"
	OutputName = "code"
)

// EncoderSpec says which file to load and what it must be.
type EncoderSpec struct {
	Name    string
	Version int
	Path    string
	SHA256  string // hexadecimal
	Inputs  int
	Dims    int
	// Model means that it is any model with rows in and out (see CheckModel), not an encoder of Scrim's making.
	Model bool
}

// String names what is loaded.
func (s EncoderSpec) String() string {
	if s.Model {
		return fmt.Sprintf("model %q version %d", s.Name, s.Version)
	}
	return fmt.Sprintf("encoder %q version %d", s.Name, s.Version)
}

// Encoder is a loaded, checked and warmed model: an encoder, or any other whose predictions then are the codes.
type Encoder struct {
	spec    EncoderSpec
	inputs  []port // their widths are Inputs together
	output  port
	device  Device
	session *ort.DynamicAdvancedSession
	release func() error

	// smallest is the binary logarithm of the fewest rows that a session sees, see lane.
	smallest int

	// tokens bounds the calls that run at a time; Close takes them all.
	tokens chan struct{}
	mu     sync.Mutex
	free   []*lane

	closing  sync.Once
	closeErr error

	rows, batches atomic.Int64
}

// LoadEncoder reads the file once, checks the SHA-256 of the very bytes it then
// loads, checks the signature and the stored test vector, and warms the session.
func (rt *Runtime) LoadEncoder(spec EncoderSpec) (*Encoder, error) {
	e, err := rt.loadEncoder(spec)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", spec, err)
	}
	return e, nil
}

func (rt *Runtime) loadEncoder(spec EncoderSpec) (*Encoder, error) {
	model, err := readModel(spec.Path, spec.SHA256)
	if err != nil {
		return nil, err
	}
	e, err := rt.openEncoder(spec, model)
	if err != nil {
		return nil, err
	}
	if err := errors.Join(e.checkTestVector(), e.warm()); err != nil {
		return nil, errors.Join(err, e.Close())
	}
	return e, nil
}

// openEncoder makes an encoder of bytes that still have to prove themselves.
func (rt *Runtime) openEncoder(spec EncoderSpec, model []byte) (_ *Encoder, err error) {
	release, err := rt.Hold()
	if err != nil {
		return nil, err
	}
	e := &Encoder{spec: spec, release: release, tokens: make(chan struct{}, runtime.GOMAXPROCS(0))}
	if err := rt.openSession(e, model); err != nil {
		return nil, errors.Join(err, release())
	}
	for range cap(e.tokens) {
		e.tokens <- struct{}{}
	}
	if e.device == CUDA {
		e.smallest = laneSizes - 1
	}
	return e, nil
}

// Inputs returns the number of features of a row.
func (e *Encoder) Inputs() int { return e.spec.Inputs }

// Dims returns the number of components of a code.
func (e *Encoder) Dims() int { return e.spec.Dims }

// Device returns what computes the codes: the file says for which device it was made.
func (e *Encoder) Device() Device { return e.device }

// Spec returns what the encoder was loaded from.
func (e *Encoder) Spec() EncoderSpec { return e.spec }

// RowsEncoded counts the rows that callers asked for, padding not included.
func (e *Encoder) RowsEncoded() int64 { return e.rows.Load() }

// Batches counts the runs of the model that those rows took.
func (e *Encoder) Batches() int64 { return e.batches.Load() }

// Close waits for running calls and frees the model. Encode returns ErrClosed
// afterwards; a second Close does nothing.
func (e *Encoder) Close() error {
	e.closing.Do(func() {
		for range cap(e.tokens) {
			<-e.tokens
		}
		close(e.tokens)
		var errs []error
		for _, l := range e.free {
			errs = append(errs, l.destroy())
		}
		e.free = nil
		e.closeErr = errors.Join(append(errs, e.session.Destroy(), e.release())...)
	})
	return e.closeErr
}

func readModel(path, hash string) ([]byte, error) {
	model, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("%w: %w", ErrModelMissing, err)
	}
	if err != nil {
		return nil, fmt.Errorf("read model: %w", err)
	}
	if got := Hash(model); !strings.EqualFold(got, hash) {
		return nil, fmt.Errorf("%w: %s has %s, registered is %q", ErrModelHash, path, got, hash)
	}
	return model, nil
}

// openSession makes a session on the device that the model was made for, and learns what goes in and comes out.
func (rt *Runtime) openSession(e *Encoder, model []byte) (err error) {
	if len(model) == 0 {
		return fmt.Errorf("%w: it is empty", ErrModelCorrupt)
	}
	inputs, outputs, err := ort.GetInputOutputInfoWithONNXData(model)
	if err != nil {
		return fmt.Errorf("%w: %s", ErrModelCorrupt, runtimeWords(err))
	}
	if e.device, err = modelDevice(model); err != nil {
		return fmt.Errorf("%w: %w", ErrModelCorrupt, err)
	}
	if e.spec.Model {
		return rt.openModel(e, model, inputs, outputs)
	}
	err = errors.Join(
		checkSignature("input", inputs, InputName, ort.TensorElementDataTypeDouble, e.spec.Inputs),
		checkSignature("output", outputs, OutputName, ort.TensorElementDataTypeFloat, e.spec.Dims),
	)
	if err != nil {
		return err
	}
	e.inputs = []port{{name: InputName, kind: ort.TensorElementDataTypeDouble, width: e.spec.Inputs}}
	e.output = port{name: OutputName, kind: ort.TensorElementDataTypeFloat, width: e.spec.Dims}
	e.session, err = rt.newSession(e.device, model, e.inputs, e.output.name)
	return err
}

// newSession makes a session for one output.
func (rt *Runtime) newSession(d Device, model []byte, inputs []port, output string) (*ort.DynamicAdvancedSession, error) {
	if err := rt.Device(d); err != nil {
		return nil, err
	}
	options, err := NewSessionOptions(d)
	if err != nil {
		return nil, err
	}
	names := make([]string, len(inputs))
	for i, p := range inputs {
		names[i] = p.name
	}
	session, err := ort.NewDynamicAdvancedSessionWithONNXData(model, names, []string{output}, options)
	if err != nil {
		return nil, errors.Join(fmt.Errorf("%w: %s", ErrModelCorrupt, runtimeWords(err)), options.Destroy())
	}
	return session, options.Destroy()
}

func checkSignature(kind string, got []ort.InputOutputInfo, name string, t ort.TensorElementDataType, width int) error {
	if len(got) == 1 && width > 0 && got[0].Name == name && got[0].OrtValueType == ort.ONNXTypeTensor &&
		got[0].DataType == t && got[0].Dimensions.Equals(ort.NewShape(-1, int64(width))) {
		return nil
	}
	found := make([]string, len(got))
	for i := range got {
		found[i] = got[i].String()
	}
	return fmt.Errorf("%w: expected one %s %q of type %s and shape [N, %d], found %s",
		ErrModelSignature, kind, name, t, width, strings.Join(found, "; "))
}
