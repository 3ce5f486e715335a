package training

import (
	"slices"
	"strings"
	"testing"

	"github.com/scrimdb/scrim/catalog"
	"github.com/scrimdb/scrim/udf"
)

// TestOrphans: a file is an orphan if no version has it, unless its encoder is being published.
func TestOrphans(t *testing.T) {
	hash := func(c string) string { return strings.Repeat(c, 64) }
	versions := []catalog.Encoder{{Name: "a", Version: 1, SHA256: hash("1")}, {Name: "a", Version: 2, SHA256: hash("2")}, {Name: "b", Version: 1, SHA256: hash("1")}}
	kept := []udf.File{
		udf.FileOf("a", 1, hash("1")), udf.FileOf("a", 2, hash("2")), udf.FileOf("b", 1, hash("1")),
		{Model: "b"}, // its file may be put back
		udf.FileOf("p", 1, hash("9")),
		{Model: "p", Name: ".publishing-1"},
	}
	empty := []udf.File{{Model: "p"}, {Model: "c"}}
	lost := []udf.File{
		udf.FileOf("a", 3, hash("3")), udf.FileOf("a", 1, hash("2")), udf.FileOf("b", 2, hash("1")), udf.FileOf("c", 1, hash("1")),
		{Model: "a", Name: ".publishing-1"},
		{Model: "c", Name: ".publishing-1"},
	}
	for _, trial := range []struct {
		publishing string
		want       []udf.File
	}{
		{"p", slices.Concat(lost, empty[1:])},
		{"", slices.Concat(kept[4:], lost, empty)},
	} {
		if got := orphans(slices.Concat(kept, lost, empty), versions, trial.publishing); !slices.Equal(got, trial.want) {
			t.Errorf("%q: %v", trial.publishing, got)
		}
	}
	if got := orphans(kept, versions, "a"); !slices.Equal(got, kept[4:]) {
		t.Error(got)
	}
}
