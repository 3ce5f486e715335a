//go:build drivers

package drivers_test

import (
	"os/exec"
	"path/filepath"
	"testing"
)

func TestPsycopg2(t *testing.T) {
	works(t, python("psycopg2_driver.py"), "codes parameters", "codes prepared", "types", "codes rollback", "rollback", "error", "codes cursor",
		"codes scroll", "copy", "copied codes", "notify", "cancel")
}

// TestPsycopg3 runs over protocol 3.0, and over the newest that the server has: psycopg brings a libpq that knows 3.2.
func TestPsycopg3(t *testing.T) {
	t.Parallel()
	sections := []string{
		"protocol", "codes prepared", "codes binary", "codes pipeline", "pipeline error", "types", "codes rollback", "rollback", "error",
		"codes stream", "codes cursor", "copy", "copied codes", "notify", "cancel",
	}
	for _, protocol := range []string{"3.0", "latest"} {
		t.Run("protocol_"+protocol, func(t *testing.T) {
			works(t, python("psycopg3_driver.py", "max_protocol_version="+protocol), sections...)
		})
	}
}

func TestAsyncpg(t *testing.T) {
	works(t, python("asyncpg_driver.py"), "codes prepared", "codes pool", "types", "codes rollback", "rollback", "error", "codes cursor", "copy",
		"copied codes", "notify", "cancel")
}

// TestODBC runs psqlODBC's default, cursors in SQL, simple queries, and server-side prepare without them.
func TestODBC(t *testing.T) {
	t.Parallel()
	for name, options := range map[string]string{
		"default": "", "UseDeclareFetch": "UseDeclareFetch=1;Fetch=300", "simple": "UseServerSidePrepare=0",
	} {
		t.Run(name, func(t *testing.T) {
			works(t, python("odbc_driver.py", odbcDriver(t), options), "codes prepared", "types", "codes rollback", "rollback", "error", "codes cursor",
				"batch", "catalog", "stored", "cancel")
		})
	}
}

// odbcDriver is psqlODBC's file, which is named in the connection string: no system configuration is read or needed.
func odbcDriver(t *testing.T) string {
	t.Helper()
	for _, pattern := range []string{"/usr/lib/*/odbc/psqlodbcw.so", "/usr/lib64/psqlodbcw.so", "/opt/homebrew/lib/psqlodbcw.so"} {
		if found, _ := filepath.Glob(pattern); len(found) > 0 { // the patterns are well formed
			return found[0]
		}
	}
	t.Fatal("psqlODBC is missing: install unixodbc and odbc-postgresql")
	return ""
}

// python runs a script with the packages of testdata/python/requirements.txt.
func python(script string, args ...string) program {
	return func(t *testing.T, to login) string {
		t.Helper()
		interpreter := filepath.Join(venv(t), "bin", "python")
		return command(t, to, nil, interpreter, append([]string{"-B", filepath.Join("testdata", "python", script)}, args...)...)
	}
}

func venv(t *testing.T) string {
	t.Helper()
	const install = "python3 and python3-venv"
	python3 := tool(t, "python3", install)
	version, err := exec.CommandContext(t.Context(), python3, "-c", "import ensurepip, sys; print(sys.version, sys.base_prefix)").Output()
	if err != nil {
		t.Fatalf("%s cannot make a venv: install %s", python3, install)
	}
	requirements, err := filepath.Abs(filepath.Join("testdata", "python", "requirements.txt"))
	if err != nil {
		t.Fatal(err)
	}
	return installed(t, "python", readFile(t, requirements)+string(version), func(dir string) {
		fetch(t, dir, python3, "-m", "venv", dir)
		fetch(t, dir, filepath.Join(dir, "bin", "python"), "-m", "pip", "install", "-q", "--require-hashes", "--only-binary=:all:",
			"--no-warn-script-location", "-r", requirements)
	})
}
