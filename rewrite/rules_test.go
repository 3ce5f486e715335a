package rewrite_test

import (
	"go/ast"
	"go/parser"
	"go/token"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"
)

// TestEveryRule: each refusal, and each reason to stage a statement, stands in a golden.
func TestEveryRule(t *testing.T) {
	var goldens strings.Builder
	err := filepath.WalkDir("testdata/goldens", func(path string, d os.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		b, err := os.ReadFile(path)
		goldens.Write(b)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	rules := 0
	for _, r := range rulesOf(t) {
		rules++
		if !r.pattern.MatchString(goldens.String()) {
			t.Errorf("%s: no golden says %q", r.at, r.message)
		}
	}
	if rules < 25 {
		t.Errorf("only %d rules were found in the source", rules)
	}
}

type rule struct {
	at      token.Position
	message string
	pattern *regexp.Regexp
}

// messageAt says which argument of a call is its message. compute and consume say "... is used in WHERE".
var messageAt = map[string]int{"refuse": 3, "stage": 1, "compute": 1, "consume": 1}

// elsewhere are messages of limits, which a golden would have to be long for (TestLimits), and for what the parser rules out
// today.
var elsewhere = []string{
	"statement is too complex to analyse next to masked columns", "too many branches of UNION ALL around a masked column", "target lists can have at most %d entries",
	"cannot rewrite this statement: %v", "cannot scan this statement: %v", "cannot read this statement apart from those around it",
	"cannot rewrite this mention of %q", "cannot rewrite this column reference", "cannot rewrite this TABLESAMPLE",
}

var verbs = regexp.MustCompile(`%[a-z]`)

func rulesOf(t *testing.T) []rule {
	t.Helper()
	files, err := filepath.Glob("*.go")
	if err != nil {
		t.Fatal(err)
	}
	var rules []rule
	set := token.NewFileSet()
	for _, name := range files {
		if strings.HasSuffix(name, "_test.go") || name == "command.go" { // our own grammar has goldens of its own
			continue
		}
		file, err := parser.ParseFile(set, name, nil, 0)
		if err != nil {
			t.Fatal(err)
		}
		ast.Inspect(file, func(n ast.Node) bool {
			call, ok := n.(*ast.CallExpr)
			if !ok {
				return true
			}
			at, known := messageAt[calledName(call)]
			if !known || at >= len(call.Args) {
				return true
			}
			if lit, ok := call.Args[at].(*ast.BasicLit); ok {
				message, err := strconv.Unquote(lit.Value)
				if err != nil {
					t.Fatal(err)
				}
				for _, u := range elsewhere {
					if message == u {
						return true
					}
				}
				pattern := verbs.ReplaceAllString(regexp.QuoteMeta(message), ".*")
				rules = append(rules, rule{set.Position(call.Pos()), message, regexp.MustCompile(pattern)})
			}
			return true
		})
	}
	return rules
}

func calledName(call *ast.CallExpr) string {
	switch f := call.Fun.(type) {
	case *ast.Ident:
		return f.Name
	case *ast.SelectorExpr:
		return f.Sel.Name
	}
	return ""
}
