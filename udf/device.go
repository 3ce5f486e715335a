package udf

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	ort "github.com/yalue/onnxruntime_go"

	"github.com/scrimdb/scrim/udf/internal/onnx"
)

// Device is what computes a model. One that was made on a device runs there and nowhere else: another gives other bits.
type Device string

// The devices. The zero value of Device is CPU too.
const (
	CPU  Device = "cpu"
	CUDA Device = "cuda"
)

// cudaLibraries are what ONNX Runtime loads from the folder of its own library when it is asked for CUDA.
var cudaLibraries = []string{"libonnxruntime_providers_shared.so", "libonnxruntime_providers_cuda.so"}

// DeviceError says why nothing can run on a device.
type DeviceError struct {
	Message string
	Hint    string
}

func (e *DeviceError) Error() string { return e.Message + " (" + e.Hint + ")" }

func (rt *Runtime) noCUDA(format string, args ...any) error {
	return &DeviceError{
		Message: `device "cuda" is not available: ` + fmt.Sprintf(format, args...),
		Hint: fmt.Sprintf("It needs an NVIDIA GPU, CUDA 13 with cuDNN 9 (or the CUDA version that your build of ONNX Runtime is made for), and the GPU build of ONNX Runtime %s: "+
			"SCRIM_ONNXRUNTIME_LIB names its libonnxruntime, and %s lie in the same folder. The CPU needs none of this.", rt.version, strings.Join(cudaLibraries, " and ")),
	}
}

// Device tells whether sessions on a device can be made, by making one. The error is a *DeviceError, unless the runtime is closed.
func (rt *Runtime) Device(d Device) (err error) {
	switch d {
	case "", CPU:
		return nil
	case CUDA:
	default:
		return &DeviceError{Message: fmt.Sprintf("device %q is unknown", d), Hint: "Devices are cpu and cuda."}
	}
	release, err := rt.Hold()
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, release()) }()
	for _, name := range cudaLibraries {
		path := filepath.Join(filepath.Dir(rt.path), name)
		if _, err := os.Stat(path); errors.Is(err, fs.ErrNotExist) {
			return rt.noCUDA("there is no %s", path)
		}
	}
	options, err := NewSessionOptions(CUDA)
	if err != nil {
		return rt.noCUDA("its libraries cannot be loaded: %s", runtimeWords(err))
	}
	defer func() { err = errors.Join(err, options.Destroy()) }()
	if err := runProduct(options); err != nil {
		return rt.noCUDA("a matrix product cannot be computed on it: %s", runtimeWords(err))
	}
	return nil
}

// runtimeWords cuts off the place in ONNX Runtime's source, the class and the number that stand before what an error says.
func runtimeWords(err error) string {
	text := err.Error()
	if at := strings.LastIndex(text, " : "); at >= 0 {
		text = text[at+len(" : "):]
	}
	return text
}

// appendCUDA adds the provider. TF32 would round the factors of products to ten bits. Nothing may be left to the CPU:
// what cannot run on the device is an error.
func appendCUDA(o *ort.SessionOptions) error {
	cuda, err := ort.NewCUDAProviderOptions()
	if err != nil {
		return err
	}
	err = cuda.Update(map[string]string{"use_tf32": "0"}) // this loads the libraries
	if err == nil {
		err = o.AppendExecutionProviderCUDA(cuda)
	}
	if err == nil {
		err = o.AddSessionConfigEntry("session.disable_cpu_ep_fallback", "1")
	}
	return errors.Join(err, cuda.Destroy())
}

// runProduct makes a session with the given options and computes 2 · 3. Only a run says whether there is a GPU, and a driver for it.
func runProduct(options *ort.SessionOptions) (err error) {
	g := &onnx.Graph{Name: "product"}
	g.Input("x", onnx.Float, 1, 1)
	g.Output("y", onnx.Float, 1, 1)
	g.Floats("three", []float32{3}, 1, 1)
	g.Node("Gemm", []string{"x", "three"}, []string{"y"})
	x, err := ort.NewTensor(ort.NewShape(1, 1), []float32{2})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, x.Destroy()) }()
	y, err := ort.NewEmptyTensor[float32](ort.NewShape(1, 1))
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, y.Destroy()) }()
	session, err := ort.NewAdvancedSessionWithONNXData(g.Model(), []string{"x"}, []string{"y"}, []ort.Value{x}, []ort.Value{y}, options)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, session.Destroy()) }()
	if err := session.Run(); err != nil {
		return err
	}
	if got := y.GetData()[0]; got != 6 {
		return fmt.Errorf("2 times 3 is %v", got)
	}
	return nil
}
