package integration_test

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/jackc/pgx/v5"
)

// TestOracleClauses compares what the masked role gets with what the same statements give on a plain table that holds the
// codes: testdata/oracle has one case in a line, whose statements ;; parts. Every answer must be equal, errors included, or
// the statement refused; at most 3 % may be.
func TestOracleClauses(t *testing.T) {
	cases := oracleCases(t)
	onEachProtected(t, func(t *testing.T, e *env) {
		conn := e.connect(t, analyst)
		copyCodes(t, e, conn)
		e.exec(t, e.admin(t), `GRANT USAGE ON SCHEMA codes TO guest`, `GRANT SELECT ON codes.customers TO guest`)
		refused := 0
		for _, c := range cases {
			plain := e.directly(t, guest)
			e.exec(t, plain, `SET search_path = codes, public`)
			want := answers(t, plain, strings.ReplaceAll(c, "public.customers", "codes.customers"), false)
			got := answers(t, conn, c, false)
			switch {
			case strings.Contains(got, "ERROR 0A000") && !strings.Contains(want, "ERROR 0A000"):
				refused++
				t.Logf("refused: %s\n%s", c, got)
			case got != want:
				t.Errorf("%s\nthrough the proxy:\n%.800s\non a table of codes:\n%.800s", c, got, want)
			}
			plain = e.directly(t, guest)
			e.exec(t, plain, `SET search_path = codes, public`)
			if strings.Contains(c, "; ") && !strings.Contains(c, ";;") {
				continue // several in one message: not in the extended protocol
			}
			want = answers(t, plain, strings.ReplaceAll(c, "public.customers", "codes.customers"), true)
			got = answers(t, conn, c, true)
			if got != want && !strings.Contains(got, "ERROR 0A000") {
				t.Errorf("%s, extended protocol\nthrough the proxy:\n%.800s\non a table of codes:\n%.800s", c, got, want)
			}
			_ = plain.Close(t.Context())
		}
		if 100*refused > 3*len(cases) {
			t.Errorf("%d of %d cases were refused", refused, len(cases))
		}
		t.Logf("%d cases, %d refused", len(cases), refused)
	})
}

func oracleCases(t *testing.T) []string {
	t.Helper()
	files, err := filepath.Glob("testdata/oracle/*")
	if err != nil || len(files) == 0 {
		t.Fatal(files, err)
	}
	var cases []string
	for _, name := range files {
		b, err := os.ReadFile(name)
		if err != nil {
			t.Fatal(err)
		}
		for line := range strings.Lines(string(b)) {
			if line = strings.TrimSpace(line); line != "" && !strings.HasPrefix(line, "#") {
				cases = append(cases, line)
			}
		}
	}
	return cases
}

// answers runs the statements of a case and prints what came: rows, tags and errors.
func answers(t *testing.T, conn *pgx.Conn, statements string, extended bool) string {
	t.Helper()
	var b strings.Builder
	for s := range strings.SplitSeq(statements, ";;") {
		s = strings.TrimSpace(s)
		if extended {
			r := conn.PgConn().ExecParams(t.Context(), s, nil, nil, nil, nil)
			for r.NextRow() {
				printRow(&b, r.Values())
			}
			tag, err := r.Close()
			fmt.Fprintln(&b, tag)
			printError(&b, err)
			continue
		}
		results, err := conn.PgConn().Exec(t.Context(), s).ReadAll()
		for _, r := range results {
			for _, row := range r.Rows {
				printRow(&b, row)
			}
			fmt.Fprintln(&b, r.CommandTag)
		}
		printError(&b, err)
	}
	return b.String()
}

func printRow(b *strings.Builder, row [][]byte) {
	for _, v := range row {
		if v == nil {
			b.WriteString("∅")
		}
		b.Write(v)
		b.WriteByte('|')
	}
	b.WriteByte('\n')
}

func printError(b *strings.Builder, err error) {
	if err == nil {
		return
	}
	text := explain(err)
	if first, _, ok := strings.Cut(text, "\n"); ok {
		text = first
	}
	fmt.Fprintln(b, text)
}
