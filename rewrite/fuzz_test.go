package rewrite_test

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/scrimdb/scrim/catalog"
	"github.com/scrimdb/scrim/policy"
	"github.com/scrimdb/scrim/rewrite"
)

// FuzzInspect feeds any text through the whole of the package. It must not panic; the only errors are Refusals with a
// position inside the text; a plan sends text that differs from the client's only where a masked view stands, and maps
// every position of it back into the client's text, but for what stands in a view.
func FuzzInspect(f *testing.F) {
	files, err := filepath.Glob("testdata/goldens/*")
	if err != nil {
		f.Fatal(err)
	}
	for _, file := range files {
		content, err := os.ReadFile(file)
		if err != nil {
			f.Fatal(err)
		}
		for _, golden := range strings.Split(string(content), "\n\n") {
			statement, _, _ := strings.Cut(golden, "\n----")
			_, statement, _ = strings.Cut(statement, "plan\n")
			f.Add(statement)
		}
	}
	masks := policy.For(snapshot, map[catalog.ColumnKey]bool{})
	f.Fuzz(func(t *testing.T, text string) {
		if strings.ContainsRune(text, 0) {
			return // no message can hold one
		}
		check := func(err error) {
			var r *rewrite.Refusal
			if err == nil {
				return
			}
			if !errors.As(err, &r) || len(r.Code) != 5 || r.Message == "" || r.Offset > len(text) {
				t.Fatalf("%q: error %+v", text, err)
			}
		}
		in, err := rewrite.Inspect(text, protectedName)
		check(err)
		if err != nil || in.Command != nil || len(in.Names) == 0 {
			return
		}
		plans, err := in.Plan(resolve(in.Names), masks)
		check(err)
		for i, plan := range plans {
			if plan != nil {
				checkPlan(t, in.Statements[i].Text, plan)
			}
		}
	})
}

// checkPlan checks a plan for one statement.
func checkPlan(t *testing.T, text string, plan *rewrite.Plan) {
	if shows := strings.Contains(plan.SQL, "pg_catalog.pg_attribute"); !shows && (!strings.Contains(plan.SQL, "scrim_runtime.") || !plan.Masks()) || !plan.Masks() && len(plan.Outputs) > 0 {
		t.Fatalf("%q: a plan without a masked view: %s", text, plan.SQL)
	}
	for i := range plan.SQL {
		if at := plan.Original(i); at > len(text) || at < 0 && !strings.Contains(plan.SQL, "still_views") && !strings.Contains(plan.SQL, "pg_catalog.pg_attribute") {
			t.Fatalf("%q: byte %d of %q maps to %d", text, i, plan.SQL, at)
		}
	}
	for i, o := range plan.Outputs {
		if o.Seal >= len(plan.Seals) || o.Seal >= 0 && plan.Seals[o.Seal].Column > i {
			t.Fatalf("%q: output %d: %+v of %+v", text, i, o, plan.Seals)
		}
	}
}

// FuzzMaybeCommand: the cheap test never says no to a statement of ours.
func FuzzMaybeCommand(f *testing.F) {
	for _, s := range []string{"CREATE /* x */ ENCODER e", "--\n drop masking policy", "SHOW  ENCODERS;", "/*/**/*/ create or replace encoder", ";CREATE MODEL"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, text string) {
		if rewrite.MaybeCommand(text) {
			return
		}
		if in, err := rewrite.Inspect(text, nil); err == nil && in.Command != nil {
			t.Errorf("%q is %T", text, in.Command)
		}
	})
}
