//go:build drivers

package drivers_test

import (
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"
)

// TestPgDump: a dump of the whole database is the same through the proxy; a part of it, dumped and restored by two connections at a
// time through the proxy, comes out as it was; a masked role can dump what it can read, and only that.
func TestPgDump(t *testing.T) {
	version := regexp.MustCompile(`\d+`).FindString(command(t, worlds[0].admin(database), nil, tool(t, "pg_dump", postgresql), "--version"))
	major, err := strconv.Atoi(version)
	must(t, err)
	done := false
	for _, w := range worlds {
		if w.major > major { // pg_dump refuses a server that is newer than itself
			continue
		}
		done = true
		t.Run(w.name, w.dump)
	}
	if !done {
		t.Fatalf("pg_dump %d is older than every server here: install a %s of one version", major, postgresql)
	}
}

func (w *world) dump(t *testing.T) {
	through := w.admin(database)
	through.addr = w.proxy
	if got, want := dumped(t, through), dumped(t, w.admin(database)); got != want || !strings.Contains(got, canaries[0]) {
		t.Errorf("through the proxy:\n%s\ndirectly:\n%s", shorten(got), shorten(want))
	}
	tables := []string{"-t", "public.customers", "-t", "public.kinds"}
	folder := filepath.Join(t.TempDir(), "dump")
	command(t, through, nil, "pg_dump", append(tables, "-Fd", "-j2", "-f", folder)...)
	must(t, run(t.Context(), w.admin("postgres").dsn(), `CREATE DATABASE restored TEMPLATE template0`))
	restored := w.admin("restored")
	restored.addr = w.proxy
	command(t, restored, nil, tool(t, "pg_restore", postgresql), "-j2", "--exit-on-error", "-d", "restored", folder)
	if got, want := dumped(t, restored, tables...), dumped(t, w.admin(database), tables...); got != want {
		t.Errorf("restored:\n%s\noriginal:\n%s", shorten(got), shorten(want))
	}
	kinds := []string{"-t", "public.kinds"}
	if got, want := dumped(t, w.through(analyst), kinds...), dumped(t, w.directly(analyst), kinds...); got != want {
		t.Errorf("as a masked role:\n%s\ndirectly:\n%s", shorten(got), shorten(want))
	}
	out, err := try(t, w.through(analyst), nil, "pg_dump", "-t", "public.customers")
	noneRaw(t, out)
	age, _, _ := strings.Cut(w.codes["1999"], "|")
	if err != nil || !strings.Contains(out, "\n1999\t") || !strings.Contains(out, "\t"+age+"\t") {
		t.Errorf("a masked role's dump of a masked table: %v\n%s", err, shorten(out))
	}
	w.restoresCodes(t, out)
}

// restoresCodes: a masked role's dump is one of a table of codes, which can be restored. (Its indexes and grants come along.)
func (w *world) restoresCodes(t *testing.T, dump string) {
	must(t, run(t.Context(), w.admin("postgres").dsn(), `CREATE DATABASE codes TEMPLATE template0`))
	file := filepath.Join(t.TempDir(), "dump.sql")
	must(t, os.WriteFile(file, []byte(dump), 0o600))
	psql := func(args ...string) string {
		return command(t, w.admin("codes"), nil, tool(t, "psql", postgresql), append([]string{"-X", "-q", "-A", "-t", "-v", "ON_ERROR_STOP=1"}, args...)...)
	}
	psql("-f", file)
	if got := strings.TrimSpace(psql("-c", "SELECT age, income, score FROM public.customers WHERE id = 1999")); got != w.codes["1999"] {
		t.Errorf("restored from a masked role's dump: %s, not %s", got, w.codes["1999"])
	}
}

// dumped is a dump as SQL. Current versions put a random key into it, older ones do not know the option that sets it.
func dumped(t *testing.T, from login, options ...string) string {
	t.Helper()
	out := command(t, from, nil, "pg_dump", options...)
	return regexp.MustCompile(`(?m)^\\(un)?restrict \w+$`).ReplaceAllString(out, `\restrict`)
}
