package native

import (
	"archive/tar"
	"compress/gzip"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"strings"
)

// unpack writes what p keeps of the tarball into the new folder out. It writes through an os.Root, so no name and no
// link in the tarball can lead out of that folder.
func (c Config) unpack(ctx context.Context, p pin, tarball, out string) error {
	f, err := os.Open(tarball)
	if err != nil {
		return err
	}
	defer func() { _ = f.Close() }()
	if err := os.Mkdir(out, 0o755); err != nil {
		return err
	}
	root, err := os.OpenRoot(out)
	if err != nil {
		return err
	}
	defer func() { _ = root.Close() }()

	bar := step(c.Progress, "Unpacking "+p.String(), p.size)
	zr, err := gzip.NewReader(&watchedReader{ctx: ctx, r: f, bar: bar})
	if err != nil {
		return err
	}
	n, err := untar(root, zr, p)
	if err != nil {
		return err
	}
	if n == 0 {
		return fmt.Errorf("the package has no %s%s", p.prefix, p.file)
	}
	if err := makeSymlinks(root); err != nil {
		return err
	}
	if err := openFolders(root); err != nil {
		return err
	}
	bar.done()
	return nil
}

// untar writes the files that p keeps and returns their number.
func untar(root *os.Root, r io.Reader, p pin) (n int, err error) {
	tr := tar.NewReader(r)
	for {
		h, err := tr.Next()
		if errors.Is(err, io.EOF) {
			return n, nil
		}
		if err != nil {
			return n, err
		}
		if !filepath.IsLocal(h.Name) {
			return n, fmt.Errorf("the tarball names %q, which is outside of it", h.Name)
		}
		name, kept := strings.CutPrefix(h.Name, p.prefix)
		if !kept || h.Typeflag == tar.TypeDir || (p.file != "" && p.file != name) {
			continue
		}
		if h.Typeflag != tar.TypeReg {
			return n, fmt.Errorf("the tarball holds %q of type %q, which npm packages never do", h.Name, h.Typeflag)
		}
		if err := writeFile(root, name, h.FileInfo().Mode(), tr); err != nil {
			return n, err
		}
		n++
		if p.file != "" {
			return n, nil // saves unpacking the libraries of other platforms
		}
	}
}

func writeFile(root *os.Root, name string, mode fs.FileMode, r io.Reader) (err error) {
	if err := root.MkdirAll(path.Dir(name), 0o755); err != nil {
		return err
	}
	f, err := root.OpenFile(name, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o644)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	if _, err := io.Copy(f, r); err != nil {
		return err
	}
	perm := fs.FileMode(0o644)
	if mode&0o111 != 0 {
		perm = 0o755
	}
	return f.Chmod(perm) // OpenFile obeys the umask; the user who runs the server must be able to read
}

// makeSymlinks makes the links that npm tarballs cannot carry and that the server's libraries are found by.
func makeSymlinks(root *os.Root) error {
	list, err := root.ReadFile("pg-symlinks.json")
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	var links []struct{ Source, Target string }
	if err := json.Unmarshal(list, &links); err != nil {
		return fmt.Errorf("pg-symlinks.json: %w", err)
	}
	for _, l := range links {
		source, target := strings.TrimPrefix(l.Source, "native/"), strings.TrimPrefix(l.Target, "native/")
		if path.Dir(source) != path.Dir(target) {
			return fmt.Errorf("pg-symlinks.json: %s and %s are not in one folder", l.Source, l.Target)
		}
		if _, err := root.Stat(source); err != nil {
			return fmt.Errorf("pg-symlinks.json: %w", err)
		}
		if err := root.Symlink(path.Base(source), target); err != nil {
			return fmt.Errorf("pg-symlinks.json: %w", err)
		}
	}
	return nil
}

// openFolders lets other users into the folders, whatever the umask was.
func openFolders(root *os.Root) error {
	return fs.WalkDir(root.FS(), ".", func(name string, d fs.DirEntry, err error) error {
		if err != nil || !d.IsDir() {
			return err
		}
		return root.Chmod(name, 0o755)
	})
}

// watchedReader moves a bar by what is read, and ends when ctx does.
type watchedReader struct {
	ctx context.Context //nolint:containedctx // lives for one call of unpack
	r   io.Reader
	bar meter
	n   int64
}

func (w *watchedReader) Read(b []byte) (int, error) {
	if err := w.ctx.Err(); err != nil {
		return 0, err
	}
	n, err := w.r.Read(b)
	w.n += int64(n)
	w.bar.set(w.n)
	return n, err
}
