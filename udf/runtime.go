package udf

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"sync"

	ort "github.com/yalue/onnxruntime_go"
)

// ErrClosed is returned by calls on a Runtime or Encoder after its Close.
var ErrClosed = errors.New("udf: already closed")

// process is the bookkeeping of onnxruntime_go's environment. The binding keeps
// that environment in package variables, one for the process, so its users have
// to be counted in one place as well; this is that place, reached only through
// Runtime.
var process environment

type environment struct {
	mu    sync.Mutex
	path  string
	users int
}

// Runtime owns the process's ONNX Runtime environment.
type Runtime struct {
	path    string
	version string

	mu     sync.Mutex
	closed bool
}

// NewRuntime loads ONNX Runtime from a shared library. A second Runtime with the
// same library shares the environment of the first; one with another library is
// an error while the first is in use.
func NewRuntime(libraryPath string) (*Runtime, error) {
	path, err := resolveLibrary(libraryPath)
	if err != nil {
		return nil, err
	}
	if err := process.open(path); err != nil {
		return nil, err
	}
	return &Runtime{path: path, version: ort.GetVersion()}, nil
}

// Version returns the library's version, like "1.27.0".
func (rt *Runtime) Version() string { return rt.version }

// Hold keeps the library loaded, whatever happens to the Runtime meanwhile, until
// release is called. Whoever owns sessions holds.
func (rt *Runtime) Hold() (release func() error, err error) {
	rt.mu.Lock()
	defer rt.mu.Unlock()
	if rt.closed {
		return nil, ErrClosed
	}
	if err := process.open(rt.path); err != nil {
		return nil, err
	}
	return sync.OnceValue(process.release), nil
}

// Close gives up the environment; the library is unloaded when its last user has
// gone. A second Close does nothing.
func (rt *Runtime) Close() error {
	rt.mu.Lock()
	defer rt.mu.Unlock()
	if rt.closed {
		return nil
	}
	rt.closed = true
	return process.release()
}

// NewSessionOptions returns the options of every session that Scrim makes on a
// device. They are part of the promise of equal bits, so they are fixed here: one
// thread, no reordering, one optimisation level, prepacked weights (without them a
// batch of one row takes another kernel). And nothing is logged: ONNX Runtime would
// print the values that a model failed on. The caller destroys them.
func NewSessionOptions(d Device) (*ort.SessionOptions, error) {
	o, err := ort.NewSessionOptions()
	if err != nil {
		return nil, fmt.Errorf("ONNX Runtime session options: %w", err)
	}
	err = errors.Join(
		o.SetIntraOpNumThreads(1),
		o.SetInterOpNumThreads(1),
		o.SetExecutionMode(ort.ExecutionModeSequential),
		o.SetGraphOptimizationLevel(ort.GraphOptimizationLevelEnableExtended),
		o.SetMemPattern(true),
		o.SetLogSeverityLevel(ort.LoggingLevelFatal),
		o.AddSessionConfigEntry("session.disable_prepacking", "0"),
		o.AddSessionConfigEntry("session.set_denormal_as_zero", "0"),
	)
	if err == nil && d == CUDA {
		err = appendCUDA(o)
	}
	if err != nil {
		return nil, errors.Join(fmt.Errorf("ONNX Runtime session options: %w", err), o.Destroy())
	}
	return o, nil
}

func resolveLibrary(path string) (string, error) {
	if path == "" {
		return "", errors.New("ONNX Runtime library: no path given")
	}
	abs, err := filepath.Abs(path)
	if err == nil {
		abs, err = filepath.EvalSymlinks(abs)
	}
	if errors.Is(err, fs.ErrNotExist) {
		return "", fmt.Errorf("ONNX Runtime library %s does not exist: %w", path, err)
	}
	if err != nil {
		return "", fmt.Errorf("ONNX Runtime library %s: %w", path, err)
	}
	info, err := os.Stat(abs)
	if err != nil {
		return "", fmt.Errorf("ONNX Runtime library %s: %w", path, err)
	}
	if !info.Mode().IsRegular() {
		return "", fmt.Errorf("ONNX Runtime library %s is not a file", path)
	}
	return abs, nil
}

func (e *environment) open(path string) error {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.users > 0 && e.path != path {
		return fmt.Errorf("ONNX Runtime is already loaded from %s; this process cannot load %s as well", e.path, path)
	}
	if e.users == 0 {
		if err := loadLibrary(path); err != nil {
			return err
		}
		e.path = path
	}
	e.users++
	return nil
}

func (e *environment) release() error {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.users--
	if e.users > 0 {
		return nil
	}
	if err := ort.DestroyEnvironment(); err != nil {
		return fmt.Errorf("unload ONNX Runtime: %w", err)
	}
	return nil
}

func loadLibrary(path string) error {
	ort.SetSharedLibraryPath(path)
	err := ort.InitializeEnvironment()
	if err == nil {
		return nil
	}
	// The binding has no typed errors: these are its own words.
	switch text := err.Error(); {
	case strings.Contains(text, "Error loading ONNX shared library"):
		return fmt.Errorf("%s is not a library that this machine can load: %w", path, err)
	case strings.Contains(text, "Error looking up OrtGetApiBase"):
		return fmt.Errorf("%s is a library but not ONNX Runtime: %w", path, err)
	case strings.Contains(text, "Error setting ORT API base"):
		return fmt.Errorf("%s is too old: ONNX Runtime 1.24 or newer is needed: %w", path, err)
	}
	return fmt.Errorf("start ONNX Runtime from %s: %w", path, err)
}
