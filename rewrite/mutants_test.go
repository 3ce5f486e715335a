//go:build mutants

package rewrite_test

import (
	"bytes"
	"encoding/json"
	"go/ast"
	"go/parser"
	"go/token"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
)

// switched are the rules that TestMutants switches off: statements that note something about a use of a masked column.
var switched = map[string]bool{
	"stage": true, "compute": true, "consume": true, "use": true, "useAll": true, "filter": true, "groupedBy": true, "sampled": true,
	"exprColumn": true, "wholeRow": true, "modification": true, "expr": true, "sortKey": true, "tail": true, "list": true,
	"reads": true, "readsAll": true, "locks": true,
}

// TestMutants switches off each rule in turn and runs the goldens: some test must fail. It takes minutes:
//
//	go test -tags mutants -run TestMutants -timeout 30m ./rewrite
func TestMutants(t *testing.T) {
	killed := 0
	for _, name := range []string{"analysis.go", "lookup.go", "from.go", "modify.go", "plan.go", "stage.go", "inspect.go", "view.go"} {
		set := token.NewFileSet()
		source, err := os.ReadFile(name)
		if err != nil {
			t.Fatal(err)
		}
		file, err := parser.ParseFile(set, name, source, 0)
		if err != nil {
			t.Fatal(err)
		}
		ast.Inspect(file, func(n ast.Node) bool {
			statement, ok := n.(*ast.ExprStmt)
			if !ok {
				return true
			}
			call, ok := statement.X.(*ast.CallExpr)
			if !ok || !switched[calledName(call)] {
				return true
			}
			from, to := set.Position(call.Fun.Pos()).Offset, set.Position(call.Fun.End()).Offset
			mutant := bytes.Join([][]byte{source[:from], source[to:]}, []byte("func(...any) {}"))
			if survives(t, name, mutant) {
				t.Errorf("%s: without this rule no test fails", set.Position(call.Pos()))
			} else {
				killed++
			}
			return true
		})
	}
	t.Logf("%d rules, switched off in turn, were missed", killed)
}

// survives tells whether all tests of the package pass with a file in the place of another.
func survives(t *testing.T, name string, mutant []byte) bool {
	t.Helper()
	dir := t.TempDir()
	here, err := filepath.Abs(name)
	if err != nil {
		t.Fatal(err)
	}
	replaced := filepath.Join(dir, name)
	overlay, err := json.Marshal(map[string]map[string]string{"Replace": {here: replaced}})
	if err != nil {
		t.Fatal(err)
	}
	for path, content := range map[string][]byte{replaced: mutant, filepath.Join(dir, "overlay.json"): overlay} {
		if err := os.WriteFile(path, content, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	out, err := exec.Command("go", "test", "-overlay", filepath.Join(dir, "overlay.json"), "-run", "TestGoldens", ".").CombinedOutput()
	if bytes.Contains(out, []byte("[build failed]")) {
		t.Fatalf("a mutant does not compile: %s", out)
	}
	return err == nil
}
