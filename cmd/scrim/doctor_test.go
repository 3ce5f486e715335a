//go:build cgo

package main

import (
	"bytes"
	"context"
	"encoding/json"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/scrimdb/scrim/catalog"
	"github.com/scrimdb/scrim/native"
	"github.com/scrimdb/scrim/udf"
	"github.com/scrimdb/scrim/udf/onnxtest"
)

// protected is a database with a trained encoder and a policy that uses it.
func protected(t *testing.T) (conn *pgx.Conn, dsn, models string) {
	t.Helper()
	ctx, stop := context.WithCancel(context.Background())
	_, dsn = initialised(t)
	models = filepath.Join(t.TempDir(), "models")
	log, ended := &serverLog{}, make(chan error, 1)
	go func() { ended <- run(ctx, []string{"worker", "--catalog", dsn, "--models", models}, log, log) }()
	conn, err := pgx.Connect(ctx, dsn)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close(context.Background()) })
	for _, s := range []string{
		`CREATE ROLE owner LOGIN; CREATE ROLE reader LOGIN PASSWORD 'reader'`, `GRANT scrim_admin TO owner`,
		`CREATE TABLE numbers AS SELECT i AS id, i::float8 AS a, sin(i) AS b FROM generate_series(1, 1000) i`, `ALTER TABLE numbers OWNER TO owner`, `GRANT SELECT ON numbers TO reader`,
		`SELECT scrim.train_encoder('numbers', 'numbers', '{a,b}', latent_dims => 2, epochs => 3)`,
	} {
		if _, err := conn.Exec(ctx, s); err != nil {
			t.Fatal(err)
		}
	}
	await(t, log, "the job is done", func() bool {
		var state string
		return conn.QueryRow(ctx, `SELECT state FROM scrim.training_jobs`).Scan(&state) == nil && state == "completed"
	})
	if _, err := conn.Exec(ctx, `SELECT scrim.create_masking_policy('p', 'numbers', '{a}', '{}', 'numbers')`); err != nil {
		t.Fatal(err)
	}
	stop()
	if err := <-ended; err != nil {
		t.Fatal(err)
	}
	return conn, dsn, models
}

// asked runs `scrim doctor` and returns what it prints, and its exit status.
func asked(t *testing.T, args ...string) (out, complaint string, status int) {
	t.Helper()
	var stdout, stderr bytes.Buffer
	err := run(t.Context(), append([]string{"doctor"}, args...), &stdout, &stderr)
	status = exitStatus(err, &stderr)
	return stdout.String(), stderr.String(), status
}

// TestDoctor: what a script can go by, exit status and JSON, on a server of its own.
func TestDoctor(t *testing.T) {
	conn, dsn, models := protected(t)
	exec := func(s string) {
		t.Helper()
		if _, err := conn.Exec(t.Context(), s); err != nil {
			t.Fatal(err)
		}
	}
	expect := func(why string, status int, want string, args ...string) {
		t.Helper()
		out, complaint, got := asked(t, append([]string{"--catalog", dsn, "--models", models}, args...)...)
		if got != status || !strings.Contains(out, want) || complaint != "" {
			t.Errorf("%s: exit status %d\n%s%s\nwant %d and %q", why, got, out, complaint, status, want)
		}
	}
	findings := func() (list []map[string]string) {
		t.Helper()
		out, _, _ := asked(t, "--catalog", dsn, "--models", models, "--json")
		if err := json.Unmarshal([]byte(out), &list); err != nil {
			t.Fatalf("%v:\n%s", err, out)
		}
		return list
	}

	expect("clean", 0, "Errors: 0, warnings: 0, notes: 1\n", "--strict")
	exec(`CREATE ROLE tool LOGIN SUPERUSER`)
	expect("a warning", 0, "warning  superuser tool: ")
	expect("a warning, strictly", 1, "warnings: 1", "--strict")
	exec(`ALTER ROLE tool NOSUPERUSER`)
	exec(`CREATE ROLE team; GRANT SELECT (a) ON numbers TO team; GRANT team TO tool`)
	expect("an opening", 1, `public.numbers
  error    privilege team: team may still SELECT column a
           path:   team: SELECT (a) on public.numbers, granted by owner
           remedy: REVOKE SELECT (a) ON public.numbers FROM team
  error    privilege tool: tool may still SELECT column a
           path:   tool → team: SELECT (a) on public.numbers, granted by owner
           remedy: REVOKE SELECT (a) ON public.numbers FROM team
`)
	list := findings()
	at := slices.IndexFunc(list, func(f map[string]string) bool { return f["object"] == "tool" })
	if at < 0 || list[at]["remedy"] == "" {
		t.Fatalf("no finding for tool in %v", list)
	}
	for _, f := range list {
		if len(f) != 7 || f["severity"] == "" || f["kind"] == "" || f["why"] == "" {
			t.Errorf("%v", f)
		}
		for _, key := range []string{"severity", "kind", "relation", "object", "why", "path", "remedy"} {
			if _, there := f[key]; !there {
				t.Errorf("%v has no %s", f, key)
			}
		}
	}
	exec(list[at]["remedy"])
	exec(`GRANT SELECT ON numbers TO PUBLIC`)
	expect("everybody's", 1, "Errors: 1, ")
	exec(`REVOKE SELECT ON numbers FROM PUBLIC`)
	expect("closed", 0, "Errors: 0, warnings: 0", "--strict")

	file := imported(t, conn, models)
	expect("a model", 0, "Errors: 0, warnings: 0", "--strict")
	if err := os.WriteFile(file, []byte("no model"), 0o600); err != nil {
		t.Fatal(err)
	}
	expect("another model", 1, "error    model scorer: model \"scorer\" version 3: model file does not have the registered SHA-256")
	exec(`SELECT scrim.drop_model('scorer')`)

	files, err := filepath.Glob(filepath.Join(models, "numbers", "*.onnx"))
	if err != nil || len(files) != 1 {
		t.Fatal(files, err)
	}
	content, err := os.ReadFile(files[0])
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(files[0], append(content, 0), 0o600); err != nil {
		t.Fatal(err)
	}
	expect("another file", 1, "SHA-256")
	if err := os.Remove(files[0]); err != nil {
		t.Fatal(err)
	}
	expect("no file", 1, "model file is missing")
	if out, _, status := asked(t, "--catalog", dsn); status != 0 || !strings.Contains(out, "were not looked at") {
		t.Errorf("without --models: %d\n%s", status, out)
	}
}

// imported registers a model as a proxy does, and returns its file.
func imported(t *testing.T, conn *pgx.Conn, models string) string {
	t.Helper()
	library, err := native.ONNXRuntime(t.Context(), native.Config{})
	if err != nil {
		t.Fatal(err)
	}
	runtime, err := udf.NewRuntime(library)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = runtime.Close() }()
	model, err := runtime.CheckModel("scorer", 3, onnxtest.Linear(1, 2, 3))
	if err != nil {
		t.Fatal(err)
	}
	store, err := udf.NewStore(models)
	if err != nil {
		t.Fatal(err)
	}
	hash, err := store.Publish("scorer", 3, model.Content)
	if err != nil {
		t.Fatal(err)
	}
	_, err = conn.Exec(t.Context(), `SELECT scrim.register_model('scorer', 3, false, scrim.begin_publication('scorer', 3, $1, $2, $3, $4))`, hash, model.Inputs, model.Dims, model.Signature)
	if err != nil {
		t.Fatal(err)
	}
	return store.Path("scorer", 3, hash)
}

// TestInitSays: whoever runs init sees what it has granted.
func TestInitSays(t *testing.T) {
	_, dsn := initialised(t)
	var stdout, stderr bytes.Buffer
	err := run(t.Context(), []string{"init", "--catalog", dsn}, &stdout, &stderr)
	for _, want := range []string{"\n  scrim_admin: member of scrim_user\n", "\n  scrim_user: SELECT on encoder_versions, ", "\n  PUBLIC: USAGE on schema scrim, scrim_runtime\n"} {
		if err != nil || !strings.Contains(stdout.String(), want) {
			t.Errorf("%v: it does not say %q:\n%s", err, want, stdout.String())
		}
	}
}

// TestDoctorCannotRun: an exit status of its own, for CI must not take it for an answer.
func TestDoctorCannotRun(t *testing.T) {
	_, dsn := initialised(t)
	at := strings.LastIndex(dsn, "/postgres")
	for _, c := range []struct{ args, want string }{
		{"", "--catalog is required"},
		{"--catalog " + dsn + " --models " + filepath.Join(t.TempDir(), "nowhere"), "models folder"},
		{"--catalog " + dsn[:at] + "/template1" + dsn[at+len("/postgres"):], "this database has no scrim schemas"},
		{"--catalog postgres://nobody:secret@127.0.0.1:1/x", "connect"},
		{"--nonsense", "flag provided but not defined"},
		{"--catalog " + dsn + " extra", "unexpected argument"},
	} {
		out, complaint, status := asked(t, strings.Fields(c.args)...)
		if status != 2 || !strings.Contains(complaint, c.want) || out != "" || strings.Contains(complaint, "secret") {
			t.Errorf("doctor %s: exit status %d, %s%s", c.args, status, out, complaint)
		}
	}
}

// TestClock: clocks that differ are told of, in either direction.
func TestClock(t *testing.T) {
	for ahead, want := range map[time.Duration]int{0: 0, maxSkew: 0, -maxSkew: 0, maxSkew + 1: 1, -time.Hour: 1} {
		if got := clockFindings(ahead); len(got) != want {
			t.Errorf("%s ahead: %v", ahead, got)
		}
	}
}

// TestRights: README.md says what each of Scrim's roles may do, and catalogs say the same.
func TestRights(t *testing.T) {
	conn, _, _ := protected(t)
	readme, err := os.ReadFile("../../README.md")
	if err != nil {
		t.Fatal(err)
	}
	_, section, found := strings.Cut(string(readme), "\n### What Scrim's roles may do\n")
	if !found {
		t.Fatal("README.md has no such section")
	}
	section, _, _ = strings.Cut(section, "\n### ")
	said := map[string]bool{}
	for _, row := range regexp.MustCompile("(?m)^\\| `([^`]+)` \\| ([^|]+) \\|$").FindAllStringSubmatch(section, -1) {
		said[row[1]+": "+row[2]] = true
	}
	rights, err := catalog.Rights(t.Context(), conn)
	if err != nil {
		t.Fatal(err)
	}
	number := regexp.MustCompile(`\b(scrim_owner|mask_key|key)_\d+`)
	for _, r := range rights {
		is := number.ReplaceAllString(r.Role+": "+r.May, "${1}_<oid>")
		if !said[is] {
			t.Errorf("README.md does not say\n| `%s", strings.Replace(is, ": ", "` | ", 1)+" |")
		}
		delete(said, is)
	}
	for s := range said {
		t.Errorf("README.md says, and it is not so: %s", s)
	}
}
