package integration_test

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/scrimdb/scrim/training"
	"github.com/scrimdb/scrim/udf"
)

// publishing are the steps after which a process can die that makes a version of an encoder: those of Store.Publish, and then
// those of registering it.
var publishing = []string{"begin", "written", "synced", "renamed", "published", "inserted", "committed"}

// asPublisher is what the test binary does when it was started to publish and register a version, and to be killed at a step.
func asPublisher(ctx context.Context) (bool, error) {
	args := strings.Fields(os.Getenv("SCRIM_TEST_PUBLISH"))
	if len(args) != 6 {
		return false, nil
	}
	dsn, models, encoder, step := args[0], args[1], args[3], args[5]
	content, err := os.ReadFile(args[2])
	if err != nil {
		return true, err
	}
	version, err := strconv.Atoi(args[4])
	if err != nil {
		return true, err
	}
	store, err := udf.NewStore(models)
	if err != nil {
		return true, err
	}
	store.AtStep = func(at string) {
		if at == step {
			_ = syscall.Kill(os.Getpid(), syscall.SIGKILL)
			select {}
		}
	}
	hash, err := store.Publish(encoder, version, content)
	if err != nil {
		return true, err
	}
	conn, err := pgx.Connect(ctx, dsn)
	if err != nil {
		return true, err
	}
	tx, err := conn.Begin(ctx)
	if err != nil {
		return true, err
	}
	if version == 1 {
		_, err = tx.Exec(ctx, `SELECT scrim.register_encoder($1, 'customers', '{age,income,score,vip}', '{}', 4, 2, 128, 0, $2, 300, 0.5)`, encoder, hash)
	} else if _, err = tx.Exec(ctx, `INSERT INTO scrim_state.encoder_versions SELECT id, $2, $3, 300, 0.5 FROM scrim_state.encoders WHERE name = $1`, encoder, version, hash); err == nil {
		_, err = tx.Exec(ctx, `SELECT scrim.set_default_version($1, $2)`, encoder, version)
	}
	if err != nil {
		return true, err
	}
	store.AtStep("inserted")
	if err := tx.Commit(ctx); err != nil {
		return true, err
	}
	store.AtStep("committed")
	return true, fmt.Errorf("there is no step %q", step)
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

// TestKilledWhilePublishing: whenever a process dies that makes a version, the registry has the old or the new one and its file is
// whole, masks go on, and a sweep leaves what is registered and nothing else.
func TestKilledWhilePublishing(t *testing.T) {
	onEach(t, func(t *testing.T, e *env) {
		v := twoVersions(t, e)
		admin, reader, pool := e.admin(t), v.connect(t, analyst), e.pool(t)
		var at []string
		v.store.AtStep = func(step string) { at = append(at, step) }
		if _, err := v.store.Publish("probe", 1, []byte("probe")); err != nil {
			t.Fatal(err)
		}
		v.store.AtStep = nil
		if want := slices.Concat(at, []string{"inserted", "committed"}); !slices.Equal(publishing, want) {
			t.Fatalf("the steps are %s", want)
		}
		if removed, err := training.Sweep(t.Context(), pool, v.store, busyWith("")); removed != 1 || err != nil {
			t.Fatal(removed, err)
		}
		const query = `SELECT id, age, income FROM customers WHERE id < 50 ORDER BY id`
		newest := 2
		for seed, step := range publishing {
			for _, trial := range []struct {
				encoder string
				version int
			}{{"fresh", 1}, {"enc", newest + 1}} {
				model := t.TempDir() + "/model"
				if err := os.WriteFile(model, anotherModel(t, e.rt, int64(10+seed)), 0o600); err != nil {
					t.Fatal(err)
				}
				before, shown := v.registered(t), mustText(t, reader, query)
				child := exec.CommandContext(t.Context(), os.Args[0])
				child.Env = append(os.Environ(), fmt.Sprintf("SCRIM_TEST_PUBLISH=%s %s %s %s %d %s",
					e.server.DSN(e.server.Superuser(), e.server.Password(), e.database), v.models, model, trial.encoder, trial.version, step))
				out, _ := child.CombinedOutput()
				if status, ok := child.ProcessState.Sys().(syscall.WaitStatus); !ok || status.Signal() != syscall.SIGKILL {
					t.Fatalf("%s %s: the process was not killed: %s %s", trial.encoder, step, child.ProcessState, out)
				}
				after := v.registered(t)
				isNew := step == "committed"
				if !isNew && !slices.Equal(after, before) || isNew && len(after) != len(before)+1 {
					t.Errorf("%s %s: the registry has %v, and had %v", trial.encoder, step, after, before)
				}
				found := v.files(t)
				left := !slices.Equal(found, after)
				if wants := !isNew && (step != "begin"); left != wants {
					t.Errorf("%s %s: files are left over: %v, %v", trial.encoder, step, left, found)
				}
				if removed, err := training.Sweep(t.Context(), pool, v.store, busyWith("")); err != nil || (removed > 0) != left {
					t.Errorf("%s %s: %d removed, %v", trial.encoder, step, removed, err)
				}
				if got := v.files(t); !slices.Equal(got, v.registered(t)) {
					t.Errorf("%s %s: after the sweep there are %v", trial.encoder, step, got)
				}
				if isNew && trial.encoder == "enc" {
					eventually(t, func() bool { return mustText(t, reader, query) != shown })
				} else if got := mustText(t, reader, query); got != shown {
					t.Errorf("%s %s: %s", trial.encoder, step, difference(shown, got))
				}
			}
		}
		e.exec(t, v.connect(t, v.keeper), setVersion(1)) // the old ones are all there
		if got := mustText(t, admin, `SELECT count(*) FROM scrim.encoder_versions`); got != "4\n" {
			t.Error(got)
		}
	})
}
