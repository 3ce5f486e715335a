package drivers_test

import (
	"os"
	"path/filepath"
	"testing"
)

func TestNodePostgres(t *testing.T) {
	works(t, node("node_postgres.js"), "codes prepared", "codes pool", "types", "codes rollback", "rollback", "error", "codes cursor", "copy", "copied codes", "notify", "cancel")
}

func TestPostgresJS(t *testing.T) {
	works(t, node("postgres_js.js"), "codes prepared", "codes simple", "codes pipeline", "types", "codes rollback", "rollback", "error", "codes cursor", "copy", "copied codes", "notify", "cancel")
}

// node runs a script with the packages of testdata/node/package-lock.json.
func node(script string) program {
	return func(t *testing.T, to login) string {
		t.Helper()
		modules := filepath.Join(nodePackages(t), "node_modules")
		return command(t, to, []string{"NODE_PATH=" + modules}, tool(t, "node", "Node.js"), filepath.Join("testdata", "node", script))
	}
}

func nodePackages(t *testing.T) string {
	t.Helper()
	npm := tool(t, "npm", "Node.js (npm comes with it)")
	const folder = "testdata/node/"
	manifest, lock := readFile(t, folder+"package.json"), readFile(t, folder+"package-lock.json")
	return installed(t, "node", manifest+lock, func(dir string) {
		for name, content := range map[string]string{"package.json": manifest, "package-lock.json": lock} {
			if err := os.WriteFile(filepath.Join(dir, name), []byte(content), 0o644); err != nil {
				t.Fatal(err)
			}
		}
		fetch(t, dir, npm, "ci", "--ignore-scripts", "--no-audit", "--no-fund", "--no-update-notifier", "--loglevel=error")
	})
}
