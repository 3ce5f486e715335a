package native

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func TestSystemPostgres(t *testing.T) {
	embedded, err := EmbeddedPostgres(t.Context(), Config{})
	check(t, err)
	want := Binaries{Dir: embedded.Dir, Major: 18}

	t.Run("named", func(t *testing.T) {
		t.Setenv(envPostgresBin, embedded.Dir)
		got, err := Postgres(t.Context(), Config{})
		if got != want || err != nil {
			t.Errorf("got %+v, %v", got, err)
		}
	})
	t.Run("a wrong name is no reason to take another", func(t *testing.T) {
		t.Setenv(envPostgresBin, "/nowhere")
		_, err := Postgres(t.Context(), Config{})
		if err == nil || errors.Is(err, ErrNoPostgres) || !strings.HasPrefix(err.Error(), `SCRIM_POSTGRES_BIN is "/nowhere"`) {
			t.Errorf("error is %v", err)
		}
	})
	t.Run("on PATH through a link", func(t *testing.T) {
		dir := t.TempDir()
		check(t, os.Symlink(filepath.Join(embedded.Dir, "postgres"), filepath.Join(dir, "postgres")))
		t.Setenv("PATH", dir)
		got, err := findPostgres(t.Context())
		if got != want || err != nil {
			t.Errorf("got %+v, %v", got, err)
		}
	})
	t.Run("newest usable one of the usual folders", func(t *testing.T) {
		t.Setenv("PATH", "")
		dir := t.TempDir()
		for _, version := range []string{"9", "10", "11"} {
			check(t, os.Mkdir(filepath.Join(dir, version), 0o755))
		}
		check(t, os.Symlink(filepath.Dir(embedded.Dir), filepath.Join(dir, "9", "pg")))
		check(t, os.Symlink(filepath.Dir(embedded.Dir), filepath.Join(dir, "10", "pg")))
		got, err := findPostgres(t.Context(), filepath.Join(dir, "*/pg/bin"))
		if got.Dir != filepath.Join(dir, "10/pg/bin") || err != nil {
			t.Errorf("got %+v, %v", got, err)
		}
	})
	t.Run("none", func(t *testing.T) {
		t.Setenv("PATH", "")
		if _, err := findPostgres(t.Context()); !errors.Is(err, ErrNoPostgres) {
			t.Errorf("error is %v", err)
		}
	})
	t.Run("without pgcrypto", func(t *testing.T) {
		dir := t.TempDir()
		for _, program := range []string{"postgres", "initdb"} {
			script := []byte("#!/bin/sh\necho 'postgres (PostgreSQL) 99.1'\n")
			check(t, os.WriteFile(filepath.Join(dir, program), script, 0o755))
		}
		t.Setenv("PATH", dir)
		_, err := findPostgres(t.Context())
		if !errors.Is(err, ErrNoPostgres) || !strings.Contains(err.Error(), "lacks the pgcrypto extension") {
			t.Errorf("error is %v", err)
		}
	})
}
