package udf_test

import (
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/scrimdb/scrim/udf/internal/udftest"
	"github.com/scrimdb/scrim/udf/onnxtest"
)

// TestModelFailsSilently: ONNX Runtime prints nothing of a batch that fails; by itself it would print the value.
func TestModelFailsSilently(t *testing.T) {
	_, e := checked(t, udftest.Runtime(t), onnxtest.Lookup(10, 20, 30))
	path := filepath.Join(t.TempDir(), "stderr")
	file, err := os.Create(path)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = file.Close() }()
	terminal, err := syscall.Dup(2)
	if err != nil {
		t.Fatal(err)
	}
	if err := syscall.Dup3(int(file.Fd()), 2, 0); err != nil {
		t.Fatal(err)
	}
	failed := e.Encode(make([]float32, 1), []float64{4815162})
	if err := syscall.Dup3(terminal, 2, 0); err != nil {
		t.Fatal(err)
	}
	_ = syscall.Close(terminal)
	printed, err := os.ReadFile(path)
	if err != nil || failed == nil || strings.Contains(string(printed), "4815162") {
		t.Errorf("%v, %v: %s", err, failed, printed)
	}
}
