package udf

import (
	"crypto/sha256"
	"encoding/hex"
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
}

// Encoder is a loaded, checked and warmed model.
type Encoder struct {
	spec    EncoderSpec
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
		return nil, fmt.Errorf("encoder %q version %d: %w", spec.Name, spec.Version, err)
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
func (rt *Runtime) openEncoder(spec EncoderSpec, model []byte) (*Encoder, error) {
	release, err := rt.Hold()
	if err != nil {
		return nil, err
	}
	session, device, err := rt.openSession(spec, model)
	if err != nil {
		return nil, errors.Join(err, release())
	}
	e := &Encoder{
		spec:    spec,
		device:  device,
		session: session,
		release: release,
		tokens:  make(chan struct{}, runtime.GOMAXPROCS(0)),
	}
	for range cap(e.tokens) {
		e.tokens <- struct{}{}
	}
	if device == CUDA {
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
	sum := sha256.Sum256(model)
	if got := hex.EncodeToString(sum[:]); !strings.EqualFold(got, hash) {
		return nil, fmt.Errorf("%w: %s has %s, registered is %q", ErrModelHash, path, got, hash)
	}
	return model, nil
}

// openSession makes a session on the device that the model was made for.
func (rt *Runtime) openSession(spec EncoderSpec, model []byte) (*ort.DynamicAdvancedSession, Device, error) {
	if len(model) == 0 {
		return nil, "", fmt.Errorf("%w: it is empty", ErrModelCorrupt)
	}
	inputs, outputs, err := ort.GetInputOutputInfoWithONNXData(model)
	if err != nil {
		return nil, "", fmt.Errorf("%w: %w", ErrModelCorrupt, err)
	}
	err = errors.Join(
		checkSignature("input", inputs, InputName, ort.TensorElementDataTypeDouble, spec.Inputs),
		checkSignature("output", outputs, OutputName, ort.TensorElementDataTypeFloat, spec.Dims),
	)
	if err != nil {
		return nil, "", err
	}
	device, err := modelDevice(model)
	if err != nil {
		return nil, "", fmt.Errorf("%w: %w", ErrModelCorrupt, err)
	}
	if err := rt.Device(device); err != nil {
		return nil, "", err
	}
	options, err := NewSessionOptions(device)
	if err != nil {
		return nil, "", err
	}
	session, err := ort.NewDynamicAdvancedSessionWithONNXData(model,
		[]string{InputName}, []string{OutputName}, options)
	if err != nil {
		return nil, "", errors.Join(fmt.Errorf("%w: %w", ErrModelCorrupt, err), options.Destroy())
	}
	return session, device, options.Destroy()
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
