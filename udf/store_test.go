package udf_test

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"os"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"github.com/scrimdb/scrim/udf"
	"github.com/scrimdb/scrim/udf/internal/udftest"
)

func newStore(t *testing.T) (*udf.Store, string) {
	t.Helper()
	dir := t.TempDir()
	s, err := udf.NewStore(dir)
	if err != nil {
		t.Fatal(err)
	}
	return s, dir
}

func publish(t *testing.T, s *udf.Store, model string, version int, content []byte) udf.EncoderSpec {
	t.Helper()
	hash, err := s.Publish(model, version, content)
	if err != nil {
		t.Fatal(err)
	}
	return udf.EncoderSpec{Name: model, Version: version, SHA256: hash}
}

// TestStoreList: what Publish makes is listed, whole or not, and nothing that others have put there.
func TestStoreList(t *testing.T) {
	s, dir := newStore(t)
	one := publish(t, s, "enc", 1, []byte("one"))
	two := publish(t, s, "enc", 12, []byte("two"))
	sum := sha256.Sum256([]byte("one"))
	if want := "enc_v1-" + hex.EncodeToString(sum[:])[:16] + ".onnx"; filepath.Base(s.Path("enc", 1, one.SHA256)) != want {
		t.Errorf("%s, not %s", s.Path("enc", 1, one.SHA256), want)
	}
	foreign := []string{"README", "enc/notes.txt", "enc/enc_v1.onnx", "enc/other_v1-0123456789abcdef.onnx", "enc/enc_v01-0123456789abcdef.onnx", "lost+found/x", ".git/HEAD"}
	for _, name := range append(foreign, "enc/.publishing-7", "half/.publishing-8") {
		write := filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(write), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(write, []byte(name), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	for _, name := range []string{"empty", "enc/enc_v3-0123456789abcdef.onnx"} {
		if err := os.MkdirAll(filepath.Join(dir, name), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Symlink(dir, filepath.Join(dir, "link")); err != nil {
		t.Fatal(err)
	}
	got, err := s.List()
	if err != nil {
		t.Fatal(err)
	}
	want := []udf.File{
		{Model: "empty"}, {Model: "enc", Name: ".publishing-7"}, udf.FileOf("enc", 1, one.SHA256), udf.FileOf("enc", 12, two.SHA256), {Model: "half", Name: ".publishing-8"},
	}
	if !slices.Equal(got, want) {
		t.Fatalf("%+v", got)
	}
	for _, f := range append(got, got...) { // twice: another process may have been faster
		if err := s.Remove(f); err != nil {
			t.Error(err)
		}
	}
	for _, name := range foreign {
		if _, err := os.Stat(filepath.Join(dir, name)); err != nil {
			t.Error(err)
		}
	}
	for _, name := range []string{"half", "empty", "enc/.publishing-7"} {
		if _, err := os.Stat(filepath.Join(dir, name)); err == nil {
			t.Errorf("%s is still there", name)
		}
	}
}

// TestClaim: a folder is one database's.
func TestClaim(t *testing.T) {
	s, dir := newStore(t)
	for _, owner := range []string{"a", "a"} {
		if err := s.Claim(owner); err != nil {
			t.Error(err)
		}
	}
	if err := s.Claim("b"); err == nil {
		t.Error("two owners")
	}
	if err := os.WriteFile(filepath.Join(dir, ".scrim-database"), nil, 0o600); err != nil { // a crash
		t.Fatal(err)
	}
	if err := s.Claim("b"); err != nil {
		t.Error(err)
	}
}

// TestLibraryKeeps: what is wanted is loaded before it is asked for, and nothing else stays.
func TestLibraryKeeps(t *testing.T) {
	s, _ := newStore(t)
	rt := udftest.Runtime(t)
	library := udf.NewLibrary(rt, s)
	var specs []udf.EncoderSpec
	for version := 1; version <= 3; version++ {
		spec := publish(t, s, "enc", version, withVector(t, rt, network(2, 4+version, 2), 2, 2))
		spec.Inputs, spec.Dims = 2, 2
		specs = append(specs, spec)
	}
	is := func(want ...bool) {
		t.Helper()
		for i, spec := range specs {
			if library.Loaded(spec) != want[i] {
				t.Errorf("version %d: loaded is %v", i+1, !want[i])
			}
		}
	}
	if err := library.Prepare(t.Context(), specs[:1]); err != nil {
		t.Fatal(err)
	}
	is(true, false, false)
	library.Retain(specs[:1])
	if err := library.Prepare(t.Context(), specs[1:2]); err != nil {
		t.Fatal(err)
	}
	is(true, true, false)
	held, err := library.Encoder(specs[0])
	if err != nil {
		t.Fatal(err)
	}
	library.Retain(specs[1:2])
	is(false, true, false)
	for _, spec := range []udf.EncoderSpec{specs[0], specs[2]} {
		enc, err := library.Encoder(spec)
		if err != nil {
			t.Fatal(err)
		}
		if err := enc.Encode(make([]float32, 2), make([]float64, 2)); err != nil {
			t.Error(err)
		}
	}
	if err := held.Encode(make([]float32, 2), make([]float64, 2)); err != nil {
		t.Error(err)
	}
	is(false, true, false)
	if err := library.Check(specs[2]); err != nil {
		t.Error(err)
	}
	is(false, true, false)
	ended, cancel := context.WithCancel(t.Context())
	cancel()
	_ = library.Prepare(ended, specs[2:])
	for deadline := time.Now().Add(10 * time.Second); !library.Loaded(specs[2]) && time.Now().Before(deadline); {
		time.Sleep(time.Millisecond) // it goes on
	}
	is(false, true, true)
	if err := os.WriteFile(s.Path("enc", 1, specs[0].SHA256), []byte("damaged"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := library.Check(specs[0]); err == nil {
		t.Error("a damaged file is taken")
	}
	if err := library.Prepare(t.Context(), specs); err == nil {
		t.Error("a damaged file is taken")
	}
	is(false, true, true)
}
