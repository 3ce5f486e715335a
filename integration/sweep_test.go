package integration_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/scrimdb/scrim/training"
	"github.com/scrimdb/scrim/udf"
)

// addEncoder registers an encoder with a file.
func (v *versioned) addEncoder(t *testing.T, name string) udf.File {
	t.Helper()
	hash, err := v.store.Publish(name, 1, anotherModel(t, v.rt, 20))
	if err != nil {
		t.Fatal(err)
	}
	v.exec(t, v.admin(t), fmt.Sprintf(`SELECT scrim.create_encoder('%s', 'customers', '{age,income,score,vip}', latent_dims => 4)`, name),
		fmt.Sprintf(`INSERT INTO scrim_state.encoder_versions SELECT id, 1, '%s', 300, 0.5 FROM scrim_state.encoders WHERE name = '%s'`, hash, name),
		fmt.Sprintf(`UPDATE scrim_state.encoders SET default_version = 1 WHERE name = '%s'`, name))
	return udf.FileOf(name, 1, hash)
}

func (v *versioned) put(t *testing.T, name string) {
	t.Helper()
	path := filepath.Join(v.models, name)
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte("x"), 0o600); err != nil {
		t.Fatal(err)
	}
}

func (v *versioned) has(name string) bool {
	_, err := os.Stat(filepath.Join(v.models, name))
	return err == nil
}

// TestSweep: what a dropped encoder and a crash have left goes, once it is certain, and nothing else.
func TestSweep(t *testing.T) {
	onEach(t, func(t *testing.T, e *env) {
		v := twoVersions(t, e)
		admin, pool := e.admin(t), e.pool(t)
		sweep := func(busy string, want int) {
			t.Helper()
			if removed, err := training.Sweep(t.Context(), pool, v.store, busyWith(busy)); removed != want || err != nil {
				t.Errorf("%d removed, not %d, %v", removed, want, err)
			}
		}
		gone, kept := v.addEncoder(t, "gone"), v.addEncoder(t, "kept")
		foreign := []string{"README", "enc/notes.txt", "backups/enc_v1-0123456789abcdef.onnx", "kept/other_v1-0123456789abcdef.onnx"}
		for _, name := range foreign {
			v.put(t, name)
		}
		sweep("", 0)

		// Dropped, but not yet, and then not at all.
		tx, err := admin.Begin(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		if _, err := tx.Exec(t.Context(), `SELECT scrim.drop_encoder('gone')`); err != nil {
			t.Fatal(err)
		}
		sweep("", 0)
		if err := tx.Rollback(t.Context()); err != nil {
			t.Fatal(err)
		}
		sweep("", 0)
		e.exec(t, admin, `SELECT scrim.drop_encoder('gone')`)
		sweep("gone", 0) // somebody is making it anew
		sweep("enc", 1)
		if v.has("gone") || v.has(gone.Name) {
			t.Error("the folder of a dropped encoder is still there")
		}

		// What is being published stays, whatever it is, and goes when nobody will register it.
		unregistered, err := v.store.Publish("busy", 1, []byte("not a model"))
		if err != nil {
			t.Fatal(err)
		}
		v.put(t, "busy/.publishing-1")
		v.put(t, "enc/.publishing-2")
		if _, err := v.store.Publish("enc", 3, []byte("rolled back")); err != nil {
			t.Fatal(err)
		}
		sweep("busy", 2)
		if !v.has("busy/.publishing-1") || !v.has("busy/"+udf.FileOf("busy", 1, unregistered).Name) {
			t.Error("what is being published is gone")
		}
		sweep("", 2)
		if v.has("busy") {
			t.Error("an emptied folder is still there")
		}

		failing := func(context.Context, pgx.Tx) (string, error) { return "", errors.New("cannot say") }
		v.put(t, "enc/.publishing-3")
		if removed, err := training.Sweep(t.Context(), pool, v.store, failing); removed != 0 || err == nil || !v.has("enc/.publishing-3") {
			t.Error(removed, err)
		}
		for _, name := range append(foreign, "kept/"+kept.Name) {
			if !v.has(name) {
				t.Errorf("%s is gone", name)
			}
		}
		sweep("", 1)
		if got := slices.DeleteFunc(v.files(t), func(f udf.File) bool { return f.Model == "backups" }); !slices.Equal(got, v.registered(t)) {
			t.Errorf("%v", got)
		}
	})
}

// TestSweepElsewhere: a folder is one database's. Another's sweep knows none of the files, and must touch none.
func TestSweepElsewhere(t *testing.T) {
	onEach(t, func(t *testing.T, e *env) {
		v := twoVersions(t, e)
		if removed, err := training.Sweep(t.Context(), e.pool(t), v.store, busyWith("")); removed != 0 || err != nil {
			t.Fatal(removed, err)
		}
		other := e.fresh(t)
		e.exec(t, other.admin(t), `DELETE FROM scrim_state.encoders`)
		before := v.files(t)
		if removed, err := training.Sweep(t.Context(), other.pool(t), v.store, busyWith("")); removed != 0 || err == nil || !strings.Contains(err.Error(), "each needs a folder of its own") {
			t.Error(removed, err)
		}
		if got := v.files(t); !slices.Equal(got, before) {
			t.Errorf("%v", got)
		}
	})
}

// pool connects as the catalog does.
func (e *env) pool(t *testing.T) *pgxpool.Pool {
	t.Helper()
	pool, err := pgxpool.New(t.Context(), e.server.DSN(e.server.Superuser(), e.server.Password(), e.database))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(pool.Close)
	return pool
}

// busyWith is what Sweep asks for: encoder is being published, or with "" none.
func busyWith(encoder string) func(context.Context, pgx.Tx) (string, error) {
	return func(context.Context, pgx.Tx) (string, error) { return encoder, nil }
}

// registered returns the files that the registry has, in the order of Store.List.
func (v *versioned) registered(t *testing.T) []udf.File {
	t.Helper()
	var files []udf.File
	for line := range strings.Lines(mustText(t, v.admin(t), `SELECT encoder, version, sha256 FROM scrim.encoder_versions`)) {
		f := strings.Split(strings.TrimSpace(line), "|")
		version, err := strconv.Atoi(f[1])
		if err != nil {
			t.Fatal(err)
		}
		encoder, err := v.rt.LoadEncoder(udf.EncoderSpec{Name: f[0], Version: version, SHA256: f[2], Path: v.store.Path(f[0], version, f[2]), Inputs: 4, Dims: 4})
		if err != nil {
			t.Fatal(err) // a registered version cannot be used
		}
		if err := encoder.Close(); err != nil {
			t.Error(err)
		}
		files = append(files, udf.FileOf(f[0], version, f[2]))
	}
	slices.SortFunc(files, func(a, b udf.File) int { return strings.Compare(a.Model+"/"+a.Name, b.Model+"/"+b.Name) })
	return files
}

func (v *versioned) files(t *testing.T) []udf.File {
	t.Helper()
	files, err := v.store.List()
	if err != nil {
		t.Fatal(err)
	}
	return files
}
