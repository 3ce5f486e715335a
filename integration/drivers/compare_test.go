package drivers_test

import (
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
)

// program does what applications do with one driver and returns what it printed. See doc.go for the text.
type program func(t *testing.T, to login) string

// section is one part of what a program printed.
type section struct {
	name string
	rows []string
}

// works runs a program on every server, directly and through the proxy, unmasked and masked. The sections that it must
// print are named, so that a program which ends early cannot pass.
func works(t *testing.T, p program, sections ...string) {
	onEach(t, func(t *testing.T, w *world) { w.works(t, p, sections...) })
}

func (w *world) works(t *testing.T, p program, sections ...string) {
	direct := p(t, w.directly(risk))
	unmasked := parse(t, direct, sections)
	t.Run("unmasked", func(t *testing.T) {
		if through := p(t, w.through(risk)); through != direct {
			t.Errorf("directly:\n%s\nthrough the proxy:\n%s", shorten(direct), shorten(through))
		}
	})
	t.Run("masked", func(t *testing.T) {
		out := p(t, w.through(analyst))
		noneRaw(t, out)
		for i, s := range parse(t, out, sections) {
			w.checkMasked(t, s, unmasked[i])
		}
	})
}

// parse splits a program's text and checks that it has the sections, none of them empty.
func parse(t *testing.T, out string, names []string) []section {
	t.Helper()
	var found []section
	var got []string
	for part := range strings.SplitSeq(strings.TrimPrefix(out, "== "), "\n== ") {
		lines := strings.Split(strings.TrimRight(part, "\n"), "\n")
		found = append(found, section{lines[0], lines[1:]})
		got = append(got, lines[0])
		if len(lines) < 2 {
			t.Fatalf("section %q is empty:\n%s", lines[0], shorten(out))
		}
	}
	if strings.Join(got, ", ") != strings.Join(names, ", ") {
		t.Fatalf("sections are %q, not %q:\n%s", got, names, shorten(out))
	}
	return found
}

func (w *world) checkMasked(t *testing.T, masked, unmasked section) {
	t.Helper()
	kind, _, _ := strings.Cut(masked.name, " ")
	switch kind {
	case "codes":
		if len(masked.rows) != len(unmasked.rows) {
			t.Errorf("%s: %d rows, not %d", masked.name, len(masked.rows), len(unmasked.rows))
			return
		}
		for i, row := range masked.rows {
			w.checkCodes(t, masked.name, row, unmasked.rows[i])
		}
	case "copied": // id and age
		for i, row := range masked.rows {
			id, code, ok := strings.Cut(strings.ReplaceAll(row, "\t", "|"), "|")
			if want, _, _ := strings.Cut(w.codes[id], "|"); ok && code != want || len(masked.rows) != len(unmasked.rows) {
				t.Fatalf("%s: %d rows, and row %d is %q; the code is %s", masked.name, len(masked.rows), i, row, want)
			}
		}
	case "described":
		const want = "id|integer age|double precision income|double precision score|double precision"
		if got := strings.Join(masked.rows, " "); got != want {
			t.Errorf("%s: %s", masked.name, got)
		}
	case "catalog":
		if got, want := strings.Join(masked.rows, "\n"), strings.Join(shown(unmasked.rows), "\n"); got != want || want == strings.Join(unmasked.rows, "\n") {
			t.Errorf("%s:\n%s\nwith the types of codes:\n%s", masked.name, shorten(got), shorten(want))
		}
	default:
		if got, want := strings.Join(masked.rows, "\n"), strings.Join(unmasked.rows, "\n"); got != want {
			t.Errorf("%s:\n%s\nunmasked:\n%s", masked.name, shorten(got), shorten(want))
		}
	}
}

// shown are rows about columns as a masked role gets them: about age and income as about score, which has the type of its codes.
func shown(rows []string) []string {
	about := func(name string) func(string) bool {
		return regexp.MustCompile(`\b` + name + `\b`).MatchString
	}
	out := slices.Clone(rows)
	like := slices.IndexFunc(rows, about("score"))
	for _, name := range []string{"age", "income"} {
		if i := slices.IndexFunc(rows, about(name)); i >= 0 && like >= 0 {
			out[i] = strings.Replace(rows[like], "score", name, 1)
		}
	}
	return out
}

// checkCodes compares one row of id, age, income, score. Languages print the same number differently, so codes are compared as
// float64 bit for bit.
func (w *world) checkCodes(t *testing.T, where, row, unmasked string) {
	t.Helper()
	id, cells, _ := strings.Cut(row, "|")
	if rawID, _, _ := strings.Cut(unmasked, "|"); id != rawID {
		t.Fatalf("%s: row %q stands where the unmasked role sees row %q", where, id, rawID)
	}
	want := strings.Split(w.codes[id], "|")
	got := strings.Split(cells, "|")
	if len(got) != len(want) {
		t.Fatalf("%s: row %q, want codes %q", where, row, want)
	}
	for i := range got {
		g, err := strconv.ParseFloat(got[i], 64)
		v, err2 := strconv.ParseFloat(want[i], 64)
		if err != nil || err2 != nil || g != v {
			t.Fatalf("%s: row %q, want codes %q", where, row, want)
		}
	}
}

// noneRaw checks that no raw value of customer 2000 is in what a masked role got.
func noneRaw(t *testing.T, out string) {
	t.Helper()
	for _, c := range canaries {
		if strings.Contains(out, c) {
			t.Errorf("a raw value (%s) reached a masked role", c)
		}
	}
}

// shorten keeps failures readable.
func shorten(s string) string {
	const most = 800
	if len(s) <= most {
		return s
	}
	return s[:most/2] + "\n...\n" + s[len(s)-most/2:]
}
