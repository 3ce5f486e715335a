// Package udftest starts ONNX Runtime for the tests of udf and its children. It
// is the one place that knows where tests find the library: where package native
// finds or fetches it, which obeys SCRIM_ONNXRUNTIME_LIB.
package udftest

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/scrimdb/scrim/native"
	"github.com/scrimdb/scrim/udf"
)

// Library returns the path of the ONNX Runtime library. A test that needs it
// fails without it: skipping would leave the promise of equal bits unchecked.
func Library(tb testing.TB) string {
	tb.Helper()
	path, err := native.ONNXRuntime(tb.Context(), native.Config{Progress: os.Stderr})
	if err != nil {
		tb.Fatal(err)
	}
	return path
}

// CopyLibrary copies the library into a folder, where ONNX Runtime then looks for what it loads itself. A link would not
// do: the loader knows the file again.
func CopyLibrary(tb testing.TB, folder string) string {
	tb.Helper()
	content, err := os.ReadFile(Library(tb))
	if err != nil {
		tb.Fatal(err)
	}
	path := filepath.Join(folder, "libonnxruntime.so")
	if err := os.WriteFile(path, content, 0o700); err != nil {
		tb.Fatal(err)
	}
	return path
}

// Runtime returns a Runtime that is closed when the test ends.
func Runtime(tb testing.TB) *udf.Runtime {
	tb.Helper()
	rt, err := udf.NewRuntime(Library(tb))
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() {
		if err := rt.Close(); err != nil {
			tb.Error(err)
		}
	})
	return rt
}
