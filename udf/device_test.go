package udf_test

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/scrimdb/scrim/udf"
	"github.com/scrimdb/scrim/udf/internal/onnx"
	"github.com/scrimdb/scrim/udf/internal/udftest"
)

// Each folder has the real library, and something that is not what CUDA needs.
func TestDeviceSaysWhatIsMissing(t *testing.T) {
	const shared, cuda = "libonnxruntime_providers_shared.so", "libonnxruntime_providers_cuda.so"
	text := []byte("not a library")
	sharedLibrary := library(t, `void Provider_SetHost(void *host) { }`) // all that it has to have
	for name, c := range map[string]struct {
		files map[string][]byte
		want  []string
	}{
		"nothing":                       {nil, []string{"there is no ", shared}},
		"no CUDA provider":              {map[string][]byte{shared: sharedLibrary}, []string{"there is no ", cuda}},
		"no shared part":                {map[string][]byte{cuda: text}, []string{"there is no ", shared}},
		"shared part is a text":         {map[string][]byte{shared: text, cuda: text}, []string{"its libraries cannot be loaded: Failed to load library ", shared, "file too short"}},
		"CUDA provider is a text":       {map[string][]byte{shared: sharedLibrary, cuda: text}, []string{"its libraries cannot be loaded: Failed to load library ", cuda, "file too short"}},
		"CUDA provider is another one":  {map[string][]byte{shared: sharedLibrary, cuda: sharedLibrary}, []string{"its libraries cannot be loaded: ", "GetProvider"}},
		"CUDA provider lacks a library": {map[string][]byte{shared: sharedLibrary, cuda: library(t, `extern int cublasCreate(void); int f(void) { return cublasCreate(); }`)}, []string{"its libraries cannot be loaded: ", "cublasCreate"}},
	} {
		t.Run(name, func(t *testing.T) {
			folder := t.TempDir()
			rt, err := udf.NewRuntime(udftest.CopyLibrary(t, folder))
			if err != nil {
				t.Fatal(err)
			}
			for file, content := range c.files {
				if err := os.WriteFile(filepath.Join(folder, file), content, 0o700); err != nil {
					t.Fatal(err)
				}
			}
			wantNoCUDA(t, rt.Device(udf.CUDA), append(c.want, folder)...)

			// A model for CUDA is not loaded, however good it is elsewhere.
			good := withVector(t, rt, network(3, 8, 2), 3, 2)
			_, err = rt.LoadEncoder(write(t, onnx.AppendMeta(good, "scrim.device", "cuda"), 3, 2))
			wantNoCUDA(t, err, c.want...)
			if !strings.HasPrefix(err.Error(), `encoder "test" version 3: `) {
				t.Errorf("error does not name the encoder: %v", err)
			}
			_, err = rt.AddTestVector(network(3, 8, 2), udf.CUDA, 3, 2, values(15))
			wantNoCUDA(t, err, c.want...)

			// The CPU is as good as before.
			for _, d := range []udf.Device{udf.CPU, ""} {
				if err := rt.Device(d); err != nil {
					t.Error(err)
				}
			}
			if e := load(t, rt, network(3, 8, 2), 3, 2); e.Device() != udf.CPU {
				t.Errorf("device %q", e.Device())
			}
			if err := rt.Close(); err != nil {
				t.Error(err)
			}
		})
	}
}

func library(t *testing.T, source string) []byte {
	t.Helper()
	content, err := os.ReadFile(compile(t, source))
	if err != nil {
		t.Fatal(err)
	}
	return content
}

func wantNoCUDA(t *testing.T, err error, parts ...string) {
	t.Helper()
	var device *udf.DeviceError
	if !errors.As(err, &device) {
		t.Fatalf("got %v", err)
	}
	for _, part := range append(parts, `device "cuda" is not available: `) {
		if !strings.Contains(device.Message, part) {
			t.Errorf("message %q, want %q in it", device.Message, part)
		}
	}
	if strings.Contains(device.Message, "onnxruntime_src") {
		t.Errorf("message has a place in a source: %q", device.Message)
	}
	for _, part := range []string{"SCRIM_ONNXRUNTIME_LIB", "1.27.0", "CUDA 13", "cuDNN 9"} {
		if !strings.Contains(device.Hint, part) {
			t.Errorf("hint %q, want %q in it", device.Hint, part)
		}
	}
}

func TestUnknownDevice(t *testing.T) {
	rt, err := udf.NewRuntime(udftest.Library(t))
	if err != nil {
		t.Fatal(err)
	}
	var device *udf.DeviceError
	if err := rt.Device("tpu"); !errors.As(err, &device) || device.Message != `device "tpu" is unknown` {
		t.Errorf("got %v", err)
	}
	model := onnx.AppendMeta(withVector(t, rt, network(3, 8, 2), 3, 2), "scrim.device", "tpu")
	if _, err := rt.LoadEncoder(write(t, model, 3, 2)); !errors.As(err, &device) || device.Message != `device "tpu" is unknown` {
		t.Errorf("a model for it: %v", err)
	}
	if err := rt.Close(); err != nil {
		t.Fatal(err)
	}
	if err := rt.Device(udf.CUDA); !errors.Is(err, udf.ErrClosed) {
		t.Errorf("after Close: %v", err)
	}
}

// What an encoder does on a GPU, done on the CPU, where sizes make no difference: the same codes, and zeros in the padding.
func TestWholeChunks(t *testing.T) {
	rt := udftest.Runtime(t)
	whole := func(model []byte, inputs, dims int) *udf.Encoder {
		e, err := rt.OpenEncoder(udf.EncoderSpec{Name: "whole", Inputs: inputs, Dims: dims}, model)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() {
			if err := e.Close(); err != nil {
				t.Error(err)
			}
		})
		e.WholeChunks()
		return e
	}
	sums, e := whole(columnSums(), 1, 1), whole(network(3, 8, 2), 3, 2)
	other := load(t, rt, network(3, 8, 2), 3, 2)
	ones := make([]float64, 1500)
	for i := range ones {
		ones[i] = 1
	}
	for _, n := range []int{1500, 1024, 5, 1, 600} {
		if code := encode(t, sums, ones[:n])[0]; code != float32(min(n, 1024)) {
			t.Errorf("%d rows: sum is %v", n, code)
		}
		if i := differs(encode(t, e, values(3*n)), encode(t, other, values(3*n))); i >= 0 {
			t.Errorf("%d rows: component %d differs", n, i)
		}
	}
}

// On a machine with a GPU: codes depend neither on the batch, nor on the place in it, nor on what runs beside.
func TestCUDA(t *testing.T) {
	rt := udftest.Runtime(t)
	missing := rt.Device(udf.CUDA)
	model, err := rt.AddTestVector(network(16, 64, 8), udf.CUDA, 16, 8, values(16*16))
	if missing != nil {
		if err == nil || err.Error() != missing.Error() {
			t.Errorf("got %v, want %v", err, missing)
		}
		return
	}
	if err != nil {
		t.Fatal(err)
	}
	e, err := rt.LoadEncoder(write(t, model, 16, 8))
	if err != nil {
		t.Fatal(err)
	}
	if e.Device() != udf.CUDA {
		t.Errorf("device %q", e.Device())
	}
	src := values(3000 * 16)
	want := encode(t, e, src)
	for n := 1; n <= 3000; n += 1 + n/5 {
		if i := differs(encode(t, e, src[(3000-n)*16:]), want[(3000-n)*8:]); i >= 0 {
			t.Errorf("%d rows: component %d differs", n, i)
		}
	}
	if err := e.Close(); err != nil {
		t.Error(err)
	}
}
