package udf_test

import (
	"errors"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/scrimdb/scrim/udf"
	"github.com/scrimdb/scrim/udf/internal/udftest"
)

func TestRuntimeRefusesLibrary(t *testing.T) {
	dir := t.TempDir()
	text := filepath.Join(dir, "text.so")
	if err := os.WriteFile(text, []byte("not a library"), 0o600); err != nil {
		t.Fatal(err)
	}
	cases := map[string]struct{ path, want string }{
		"missing":       {filepath.Join(dir, "none.so"), "does not exist"},
		"no path":       {"", "no path given"},
		"folder":        {dir, "is not a file"},
		"text":          {text, "is not a library"},
		"other library": {compile(t, `int nothing(void) { return 0; }`), "but not ONNX Runtime"},
		"too old": {compile(t, `
			static const void *get_api(unsigned version) { return 0; }
			static const char *get_version(void) { return "1.2.3"; }
			static struct { const void *(*api)(unsigned); const char *(*version)(void); } base = { get_api, get_version };
			const void *OrtGetApiBase(void) { return &base; }`), "1.24 or newer is needed"},
	}
	for name, c := range cases {
		t.Run(name, func(t *testing.T) {
			_, err := udf.NewRuntime(c.path)
			if err == nil || !strings.Contains(err.Error(), c.want) {
				t.Fatalf("got %v, want %q", err, c.want)
			}
			if missing := errors.Is(err, fs.ErrNotExist); missing != (name == "missing") {
				t.Errorf("fs.ErrNotExist: %t", missing)
			}
		})
	}
	udftest.Runtime(t) // none of this is in the way of the right library
}

func compile(t *testing.T, source string) string {
	t.Helper()
	lib := filepath.Join(t.TempDir(), "lib.so")
	cmd := exec.CommandContext(t.Context(), "gcc", "-shared", "-fPIC", "-x", "c", "-o", lib, "-")
	cmd.Stdin = strings.NewReader(source)
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	return lib
}

func TestRuntimeIsShared(t *testing.T) {
	first := udftest.Runtime(t)
	link := filepath.Join(t.TempDir(), "link.so")
	if err := os.Symlink(udftest.Library(t), link); err != nil {
		t.Fatal(err)
	}
	second, err := udf.NewRuntime(link)
	if err != nil {
		t.Fatalf("the same library by another name: %v", err)
	}
	if second.Version() != first.Version() {
		t.Errorf("versions %q and %q", first.Version(), second.Version())
	}
	if err := errors.Join(second.Close(), second.Close()); err != nil {
		t.Fatal(err)
	}
	if _, err := second.Hold(); !errors.Is(err, udf.ErrClosed) {
		t.Errorf("Hold after Close: %v", err)
	}
	load(t, first, network(3, 8, 2), 3, 2)

	other := compile(t, `int nothing(void) { return 0; }`)
	if _, err := udf.NewRuntime(other); err == nil || !strings.Contains(err.Error(), "already loaded") {
		t.Errorf("another library: %v", err)
	}
}

// The library stays loaded while an encoder lives, and can be loaded again after
// it was unloaded.
func TestRuntimeOutlivedByEncoder(t *testing.T) {
	for range 3 {
		rt, err := udf.NewRuntime(udftest.Library(t))
		if err != nil {
			t.Fatal(err)
		}
		spec := write(t, withVector(t, rt, network(3, 8, 2), 3, 2), 3, 2)
		e, err := rt.LoadEncoder(spec)
		if err != nil {
			t.Fatal(err)
		}
		if err := rt.Close(); err != nil {
			t.Fatal(err)
		}
		encode(t, e, values(30))
		if err := e.Close(); err != nil {
			t.Fatal(err)
		}
		if _, err := rt.LoadEncoder(spec); !errors.Is(err, udf.ErrClosed) {
			t.Fatalf("LoadEncoder after Close: %v", err)
		}
	}
}
