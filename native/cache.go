package native

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"
	"time"
)

// Environment variables that come before what the cache holds.
const (
	envCache       = "SCRIM_CACHE"
	envONNXRuntime = "SCRIM_ONNXRUNTIME_LIB"
	envPostgresBin = "SCRIM_POSTGRES_BIN"
)

// marker is the file written last into a cached folder. It holds the hash of the tarball the folder came from, so a new
// pin makes the folder stale.
const marker = "complete"

// Config says where fetched packages are kept. The zero value is ready to use.
type Config struct {
	// CacheDir is the cache folder. Default: what [CacheDir] returns.
	CacheDir string
	// Progress is told what is being fetched: with a bar if it is a terminal, with one line a step otherwise. Default:
	// nobody is told.
	Progress io.Writer
}

// CacheDir is the folder that keeps fetched packages: SCRIM_CACHE if set; for root /var/cache/scrim, because the server
// runs as another user, who cannot read /root; else the folder scrim in the user's own cache.
func CacheDir() (string, error) {
	if dir := os.Getenv(envCache); dir != "" {
		return filepath.Abs(dir)
	}
	if os.Geteuid() == 0 {
		return "/var/cache/scrim", nil
	}
	dir, err := os.UserCacheDir()
	if err != nil {
		return "", fmt.Errorf("no cache folder: set %s: %w", envCache, err)
	}
	return filepath.Join(dir, "scrim"), nil
}

// ensure returns the folder with the unpacked package, which it fetches if it is not there.
func (c Config) ensure(ctx context.Context, p pin) (string, error) {
	dest, err := c.folder(p)
	if err != nil {
		return "", err
	}
	if complete(dest, p) {
		return dest, nil
	}
	if err := makeDir(filepath.Dir(dest)); err != nil {
		return "", fmt.Errorf("make the cache folder (%s chooses another): %w", envCache, err)
	}
	unlock, err := lockFile(ctx, dest+".lock", func() {
		step(c.Progress, fmt.Sprintf("Waiting for another process that fetches %s", p), 0).done()
	})
	if err != nil {
		return "", fmt.Errorf("lock the cache folder (%s chooses another): %w", envCache, err)
	}
	defer unlock()
	if complete(dest, p) { // another process fetched it while we waited
		return dest, nil
	}
	if err := c.fetch(ctx, p, dest); err != nil {
		return "", fmt.Errorf("fetch %s: %w", p, err)
	}
	return dest, nil
}

func (c Config) folder(p pin) (string, error) {
	cache := c.CacheDir
	if cache == "" {
		var err error
		if cache, err = CacheDir(); err != nil {
			return "", err
		}
	}
	cache, err := filepath.Abs(cache)
	if err != nil {
		return "", fmt.Errorf("cache folder: %w", err)
	}
	return filepath.Join(cache, p.folder), nil
}

func complete(dest string, p pin) bool {
	sum, err := os.ReadFile(filepath.Join(dest, marker))
	return err == nil && string(sum) == p.sha256
}

// fetch fills dest. The caller holds the lock, so every temporary folder found is one that a killed process left.
func (c Config) fetch(ctx context.Context, p pin, dest string) error {
	if err := removeGlob(dest + ".tmp-*"); err != nil {
		return err
	}
	tmp, err := os.MkdirTemp(filepath.Dir(dest), p.folder+".tmp-")
	if err != nil {
		return err
	}
	defer func() { _ = os.RemoveAll(tmp) }()

	tarball, err := c.download(ctx, p, tmp)
	if err != nil {
		return err
	}
	sum, err := fileSHA256(tarball)
	if err != nil {
		return err
	}
	if sum != p.sha256 {
		return hashError(p.String(), p.sha256, sum)
	}
	out := filepath.Join(tmp, "out")
	if err := c.unpack(ctx, p, tarball, out); err != nil {
		return fmt.Errorf("unpack: %w", err)
	}
	if err := os.WriteFile(filepath.Join(out, marker), []byte(p.sha256), 0o644); err != nil {
		return err
	}
	// After a power cut the marker must not outlive the files it speaks for.
	if err := syncFolder(out); err != nil {
		return fmt.Errorf("sync: %w", err)
	}
	if err := os.RemoveAll(dest); err != nil { // no marker, or the marker of an older pin
		return err
	}
	return os.Rename(out, dest)
}

// download runs npm, which puts the tarball into dir. npm gets a cache of its own in there: its growth is the progress
// we show, and the user's cache does not keep a second copy.
func (c Config) download(ctx context.Context, p pin, dir string) (string, error) {
	npm, err := exec.LookPath("npm")
	if err != nil {
		return "", fmt.Errorf("npm is missing, which scrim uses to fetch it: install Node.js (npm comes with it), or %s",
			p.instead)
	}
	npmCache := filepath.Join(dir, "npm-cache")
	cmd := exec.CommandContext(ctx, npm, "pack", p.String(), "--pack-destination", dir, "--cache", npmCache,
		"--ignore-scripts", "--no-update-notifier", "--loglevel=error")
	cmd.Dir = dir // away from any package.json and .npmrc of the folder we happen to be in
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	cmd.SysProcAttr = childAttr(nil, syscall.SIGKILL)
	cmd.WaitDelay = time.Second

	bar := step(c.Progress, fmt.Sprintf("Fetching %s with npm", p), p.size)
	stop := bar.watch(func() int64 { return folderSize(npmCache) })
	err = runTied(cmd)
	stop()
	if ctx.Err() != nil {
		return "", ctx.Err()
	}
	if err != nil {
		return "", fmt.Errorf("npm pack: %w: %s (check the network and npm's settings, or %s)",
			err, strings.TrimSpace(stderr.String()), p.instead)
	}
	bar.done()

	found, err := filepath.Glob(filepath.Join(dir, "*.tgz"))
	if err != nil || len(found) != 1 {
		return "", fmt.Errorf("npm pack left %d tarballs, not one", len(found))
	}
	return found[0], nil
}

func hashError(what, want, got string) error {
	return fmt.Errorf("%s does not have the content it was pinned with and is not used: expected SHA-256 %s, got %s",
		what, want, got)
}

func fileSHA256(path string) (string, error) {
	f, err := os.Open(path)
	if err != nil {
		return "", err
	}
	defer func() { _ = f.Close() }()
	h := sha256.New()
	if _, err := io.Copy(h, f); err != nil {
		return "", err
	}
	return hex.EncodeToString(h.Sum(nil)), nil
}

// makeDir makes a folder that other users can read, whatever the umask. It leaves an existing one as it is.
func makeDir(dir string) error {
	if _, err := os.Stat(dir); err == nil {
		return nil
	}
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	return os.Chmod(dir, 0o755)
}

// lockFile takes an exclusive lock that the kernel drops when the process dies. path may name a file, made if missing,
// or a folder. waiting is called once if somebody else holds the lock.
func lockFile(ctx context.Context, path string, waiting func()) (unlock func(), err error) {
	f, err := os.OpenFile(path, os.O_RDONLY|os.O_CREATE, 0o644)
	if errors.Is(err, syscall.EISDIR) {
		f, err = os.Open(path)
	}
	if err != nil {
		return nil, err
	}
	for first := true; ; first = false {
		// Not a blocking flock, because that would not hear of ctx.
		err := syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB)
		if err == nil {
			return func() { _ = f.Close() }, nil
		}
		if !errors.Is(err, syscall.EWOULDBLOCK) && !errors.Is(err, syscall.EINTR) {
			_ = f.Close()
			return nil, &fs.PathError{Op: "flock", Path: path, Err: err}
		}
		if first {
			waiting()
		}
		select {
		case <-ctx.Done():
			_ = f.Close()
			return nil, ctx.Err()
		case <-time.After(50 * time.Millisecond):
		}
	}
}

// runTied runs cmd from one thread that lives as long as cmd: the kernel sends the parent-death signal when the thread
// that forked ends, not when the process does.
func runTied(cmd *exec.Cmd) error {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	return cmd.Run()
}

func removeGlob(pattern string) error {
	found, err := filepath.Glob(pattern)
	for _, f := range found {
		err = errors.Join(err, os.RemoveAll(f))
	}
	return err
}

func folderSize(dir string) int64 {
	var size int64
	// npm renames and removes files as we look: what cannot be read counts as nothing.
	_ = filepath.WalkDir(dir, func(_ string, d fs.DirEntry, err error) error {
		if err != nil {
			return nil //nolint:nilerr // see above
		}
		if info, err := d.Info(); err == nil && info.Mode().IsRegular() {
			size += info.Size()
		}
		return nil
	})
	return size
}
