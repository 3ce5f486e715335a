package native

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
)

// ONNXRuntime returns the path of the ONNX Runtime shared library: the one SCRIM_ONNXRUNTIME_LIB names, else the one in the
// cache, which is fetched if it is not there. A library from the cache is hashed at every call, about 0.1 s, because it
// is loaded into our process: call it once, when the program starts.
func ONNXRuntime(ctx context.Context, cfg Config) (string, error) {
	if lib := os.Getenv(envONNXRuntime); lib != "" {
		if info, err := os.Stat(lib); err != nil || !info.Mode().IsRegular() {
			return "", fmt.Errorf("%s is %q, which is not a file: correct it, or unset it to have the library fetched",
				envONNXRuntime, lib)
		}
		return filepath.Abs(lib)
	}
	p, err := onnxRuntimePin(runtime.GOOS, runtime.GOARCH)
	if err != nil {
		return "", err
	}
	lib, err := cfg.library(ctx, p)
	if err != nil {
		return "", fmt.Errorf("ONNX Runtime: %w", err)
	}
	return lib, nil
}

// library returns p's file after a look at its hash. A damaged one is fetched anew, once.
func (c Config) library(ctx context.Context, p pin) (string, error) {
	for again := false; ; again = true {
		dir, err := c.ensure(ctx, p)
		if err != nil {
			return "", err
		}
		lib := filepath.Join(dir, p.file)
		sum, err := fileSHA256(lib)
		if err == nil && sum == p.fileSHA256 {
			return lib, nil
		}
		if err == nil {
			err = hashError(lib, p.fileSHA256, sum)
		}
		if again {
			return "", err
		}
		if rmErr := os.Remove(filepath.Join(dir, marker)); rmErr != nil && !os.IsNotExist(rmErr) {
			return "", fmt.Errorf("%w (remove %s to have it fetched again)", err, dir)
		}
	}
}
