package native

import (
	"archive/tar"
	"bytes"
	"io"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"testing"

	"golang.org/x/sync/errgroup"
)

// smallPin is the embedded PostgreSQL, of which only the first file is kept: under the race detector, unpacking the rest
// takes ten seconds.
func smallPin() (pin, error) {
	p, err := embeddedPostgresPin(runtime.GOOS, runtime.GOARCH)
	p.prefix += "share/postgresql/timezone/Africa/"
	p.file = "Abidjan"
	p.fileSHA256 = "f3e7fcaa0e9840ff4169d3567d8fb5926644848f4963d7acf92320843c5d486e"
	return p, err
}

// entries are the names in a cache folder.
func entries(t *testing.T, dir string) []string {
	t.Helper()
	found, err := os.ReadDir(dir)
	check(t, err)
	var names []string
	for _, e := range found {
		names = append(names, e.Name())
	}
	return names
}

// Three processes and two goroutines want the same packages from an empty cache at once: as `go test ./...` does.
func TestFetchConcurrently(t *testing.T) {
	cache := openDir(t)
	t.Setenv(envCache, cache)
	t.Setenv(envONNXRuntime, "")
	var g errgroup.Group
	for range 3 {
		cmd, out := helper(t, "fetch")
		g.Go(func() error {
			line, _ := out.ReadString('\n')
			_ = cmd.Wait()
			if !strings.HasSuffix(line, "/bin <nil>\n") {
				t.Errorf("helper: %s", line)
			}
			return nil
		})
	}
	var progress bytes.Buffer
	var lib string
	g.Go(func() (err error) {
		lib, err = ONNXRuntime(t.Context(), Config{Progress: &progress})
		return err
	})
	var b Binaries
	g.Go(func() (err error) {
		b, err = EmbeddedPostgres(t.Context(), Config{})
		return err
	})
	check(t, g.Wait())
	if !strings.HasPrefix(lib, cache) { // its hash has been checked
		t.Errorf("library is %s", lib)
	}
	wantProgress := "Fetching onnxruntime-node@1.27.0 with npm (101 MB)\nUnpacking onnxruntime-node@1.27.0 (101 MB)\n"
	if progress.String() != wantProgress {
		t.Errorf("progress is %q", &progress)
	}
	if b.Major != 18 || !b.Embedded {
		t.Errorf("binaries are %+v", b)
	}
	p, err := onnxRuntimePin(runtime.GOOS, runtime.GOARCH)
	check(t, err)
	want := []string{p.folder, p.folder + ".lock"}
	p, err = embeddedPostgresPin(runtime.GOOS, runtime.GOARCH)
	check(t, err)
	want = append(want, p.folder, p.folder+".lock")
	if got := entries(t, cache); !slices.Equal(got, want) {
		t.Errorf("the cache holds %v, not %v", got, want)
	}
	t.Run("nothing is fetched twice", func(t *testing.T) {
		t.Setenv("PATH", "")
		_, err := ONNXRuntime(t.Context(), Config{})
		check(t, err)
		_, err = EmbeddedPostgres(t.Context(), Config{})
		check(t, err)
	})
}

func TestWrongHashIsRefused(t *testing.T) {
	cache := t.TempDir()
	p, err := smallPin()
	check(t, err)
	right := p.sha256
	p.sha256 = strings.Repeat("0", 64)
	_, err = Config{CacheDir: cache}.ensure(t.Context(), p)
	wantError(t, err, p.String()+" does not have the content it was pinned with and is not used: expected SHA-256 "+
		p.sha256+", got "+right)
	if got := entries(t, cache); !slices.Equal(got, []string{p.folder + ".lock"}) {
		t.Errorf("left in the cache: %v", got)
	}
}

// A fetch is killed at a moment when its temporary folder is there; the next one must succeed and tidy up.
func TestKilledFetchIsRecovered(t *testing.T) {
	cache := openDir(t)
	t.Setenv(envCache, cache)
	p, err := smallPin()
	check(t, err)
	cmd, _ := helper(t, "fetch-small")
	eventually(t, "the helper begins to fetch", func() bool {
		found, err := filepath.Glob(filepath.Join(cache, "*.tmp-*", "*"))
		check(t, err)
		return len(found) > 0
	})
	check(t, cmd.Process.Kill())
	_ = cmd.Wait() // says that it was killed
	// What a file system that lost its last writes may show: a folder without its marker.
	check(t, os.Mkdir(filepath.Join(cache, p.folder), 0o755))

	lib, err := Config{}.library(t.Context(), p)
	check(t, err)
	if got := entries(t, cache); !slices.Equal(got, []string{p.folder, p.folder + ".lock"}) {
		t.Errorf("the cache holds %v", got)
	}
	t.Run("a damaged library is fetched again", func(t *testing.T) {
		check(t, os.WriteFile(lib, []byte("damaged"), 0o644))
		if again, err := (Config{}).library(t.Context(), p); again != lib || err != nil {
			t.Errorf("got %s, %v", again, err)
		}
	})
}

func TestMissingNpm(t *testing.T) {
	t.Setenv("PATH", "")
	t.Setenv(envONNXRuntime, "")
	cfg := Config{CacheDir: t.TempDir()}
	_, err := ONNXRuntime(t.Context(), cfg)
	wantError(t, err, "ONNX Runtime: fetch onnxruntime-node@1.27.0: npm is missing, which scrim uses to fetch it: install "+
		"Node.js (npm comes with it), or set SCRIM_ONNXRUNTIME_LIB to the path of an ONNX Runtime 1.27.0 shared library")
	_, err = EmbeddedPostgres(t.Context(), cfg)
	wantError(t, err, "install PostgreSQL, or set SCRIM_POSTGRES_BIN")
}

func TestUnsupportedPlatform(t *testing.T) {
	_, err := onnxRuntimePin("darwin", "amd64")
	wantError(t, err, "there is no packaged ONNX Runtime for darwin/amd64: set SCRIM_ONNXRUNTIME_LIB")
	_, err = embeddedPostgresPin("linux", "riscv64")
	wantError(t, err, "there is no packaged embedded PostgreSQL for linux/riscv64: install PostgreSQL")
}

func TestONNXRuntimeFromEnvironment(t *testing.T) {
	lib := filepath.Join(t.TempDir(), "lib.so")
	t.Setenv(envONNXRuntime, lib)
	_, err := ONNXRuntime(t.Context(), Config{})
	wantError(t, err, `SCRIM_ONNXRUNTIME_LIB is "`+lib+`", which is not a file`)
	check(t, os.WriteFile(lib, nil, 0o644))
	got, err := ONNXRuntime(t.Context(), Config{})
	if got != lib || err != nil {
		t.Errorf("got %s, %v", got, err)
	}
}

func TestUntarStaysInItsFolder(t *testing.T) {
	outside := t.TempDir()
	inside := filepath.Join(outside, "inside")
	check(t, os.Mkdir(inside, 0o755))
	check(t, os.Symlink(outside, filepath.Join(inside, "link")))
	for _, h := range []tar.Header{
		{Name: "../evil"},
		{Name: "package/native/../../../evil"},
		{Name: "/evil"},
		{Name: "package/native//evil"},
		{Name: "package/native/link/evil"},
		{Name: "package/native/evil", Typeflag: tar.TypeSymlink, Linkname: "/etc/passwd"},
		{Name: "package/native/evil", Typeflag: tar.TypeLink, Linkname: "../evil"},
	} {
		var b bytes.Buffer
		w := tar.NewWriter(&b)
		check(t, w.WriteHeader(&h))
		check(t, w.Close())
		root, err := os.OpenRoot(inside)
		check(t, err)
		if _, err := untar(root, io.Reader(&b), pin{prefix: "package/native/"}); err == nil {
			t.Errorf("%s of type %c is taken", h.Name, h.Typeflag)
		}
		check(t, root.Close())
	}
	if got := entries(t, outside); !slices.Equal(got, []string{"inside"}) {
		t.Errorf("written outside: %v", got)
	}
}
