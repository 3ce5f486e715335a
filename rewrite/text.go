package rewrite

import (
	"errors"
	"fmt"
	"slices"
	"strings"

	pg_query "github.com/pganalyze/pg_query_go/v6"
)

// hole is a place in a template: for a parameter of the client's, or for one array of a code list.
type hole struct {
	param       int // its number; 0 for an array
	stage, part int
}

// template is text with a zero byte, which no SQL has, for each hole.
type template struct {
	text  string
	holes []hole
}

func (t template) fill(spell func(hole) string) string {
	var b strings.Builder
	rest := t.text
	for _, h := range t.holes {
		before, after, _ := strings.Cut(rest, "\x00")
		b.WriteString(before)
		b.WriteString(spell(h))
		rest = after
	}
	b.WriteString(rest)
	return b.String()
}

// join returns the template with another behind it.
func (t template) join(more template) template {
	return template{text: t.text + more.text, holes: slices.Concat(t.holes, more.holes)}
}

// edit replaces text[start:end] by with, which is what the template gives.
type edit struct {
	start, end int
	with       string
	template
}

// splice makes the edits, which must not overlap, with their holes filled. It returns them in order.
func splice(text string, edits []edit, spell func(hole) string) (string, []edit) {
	edits = slices.Clone(edits)
	slices.SortStableFunc(edits, func(x, y edit) int { return x.start - y.start })
	var b strings.Builder
	from := 0
	for i := range edits {
		e := &edits[i]
		e.with = e.fill(spell)
		b.WriteString(text[from:e.start])
		b.WriteString(e.with)
		from = e.end
	}
	b.WriteString(text[from:])
	return b.String(), edits
}

// Original maps a byte offset in SQL to one in the text that the client sent; -1 for what stands in a view.
func (p *Plan) Original(offset int) int {
	offset, _ = original(p.edits, offset)
	return p.views.original(offset)
}

// original maps a byte offset in a text that was spliced to one in the text before. Inside of an edit that is where the
// edit begins.
func original(edits []edit, offset int) (at int, inside bool) {
	shift := 0
	for _, e := range edits {
		switch start := e.start + shift; {
		case offset < start:
			return offset - shift, false
		case offset < start+len(e.with):
			return e.start, true
		}
		shift += len(e.with) - (e.end - e.start)
	}
	return offset - shift, false
}

// asParameter spells a parameter as the client did, and arrays as NULL.
func asParameter(h hole) string {
	if h.param > 0 {
		return fmt.Sprintf("$%d", h.param)
	}
	return "NULL"
}

func withoutComments(tokens []*pg_query.ScanToken) []*pg_query.ScanToken {
	return slices.DeleteFunc(tokens, func(t *pg_query.ScanToken) bool {
		return t.GetToken() == pg_query.Token_SQL_COMMENT || t.GetToken() == pg_query.Token_C_COMMENT
	})
}

// Renamed returns the text of a PREPARE or EXECUTE with another name in it, and with arguments behind those of an EXECUTE.
func Renamed(sql, name string, arguments []string) (string, error) {
	scan, err := pg_query.Scan(sql)
	if err != nil {
		return "", fmt.Errorf("scan statement: %w", err)
	}
	tokens := withoutComments(scan.GetTokens())
	if len(tokens) < 2 {
		return "", errors.New("statement has no name")
	}
	last := 1 // token of the name
	if len(tokens) > 3 && tokens[2].GetToken() == pg_query.Token_UESCAPE {
		last = 3
	}
	before, after := sql[:tokens[1].GetStart()], sql[tokens[last].GetEnd():]
	if len(arguments) > 0 {
		end := len(tokens) - 1
		for end > last && sql[tokens[end].GetStart():tokens[end].GetEnd()] == ";" {
			end--
		}
		list := strings.Join(arguments, ", ")
		if end == last { // without arguments
			after = "(" + list + ")"
		} else {
			after = sql[tokens[last].GetEnd():tokens[end].GetStart()] + ", " + list + ")"
		}
	}
	return before + quote(name) + after, nil
}
