package console

import (
	"fmt"
	"html/template"
	"math"
	"strconv"
	"time"

	"github.com/scrimdb/scrim/catalog"
)

// report is an encoder's page: its figures as tables and a curve.
type report struct {
	catalog.EncoderReport
	Curve    *curve // nil without losses
	Features []feature
	Codes    []catalog.Figure // of the encoder as a whole
	Targets  []catalog.Figure
}

// feature is one line of the table of features. Figures are nil that the report does not have.
type feature struct {
	Name                              string
	Error, Leakage, Ridge, Neighbours *catalog.Figure
}

func newReport(known catalog.EncoderReport) report {
	r := report{EncoderReport: known}
	var losses []loss
	for i, f := range known.Figures {
		switch f.Kind {
		case "training":
			losses = append(losses, newLoss(i, f))
		case "feature":
			r.feature(f)
		case "encoder":
			r.Codes = append(r.Codes, f)
		case "target":
			r.Targets = append(r.Targets, f)
		}
	}
	r.Curve = newCurve(losses)
	return r
}

// feature puts a figure into its feature's line. The figures of one feature follow each other.
func (r *report) feature(f catalog.Figure) {
	if f.Feature == nil {
		return
	}
	if n := len(r.Features); n == 0 || r.Features[n-1].Name != *f.Feature {
		r.Features = append(r.Features, feature{Name: *f.Feature})
	}
	line := &r.Features[len(r.Features)-1]
	switch f.Measure {
	case "reconstruction_error":
		line.Error = &f
	case "leakage":
		line.Leakage = &f
	case "leakage_ridge":
		line.Ridge = &f
	case "leakage_neighbours":
		line.Neighbours = &f
	}
}

// bar is a value between 0 and 1 as a bar. It says nothing that the number beside it does not say, so it is hidden from
// screen readers.
func bar(value *float64) template.HTML {
	if value == nil || math.IsNaN(*value) {
		return ""
	}
	return template.HTML(fmt.Sprintf(`<svg class="bar" viewBox="0 0 100 8" preserveAspectRatio="none" aria-hidden="true"><rect class="track" width="100" height="8"/><rect width="%.1f" height="8"/></svg>`,
		100*min(max(*value, 0), 1)))
}

// figure is a number with four digits.
func figure(value any) string {
	switch v := value.(type) {
	case *float64:
		if v != nil {
			return figure(*v)
		}
	case float64:
		return strconv.FormatFloat(v, 'g', 4, 64)
	}
	return "unknown"
}

// count is a whole number with its thousands marked.
func count(n any) string {
	var digits string
	switch v := n.(type) {
	case int:
		digits = strconv.Itoa(v)
	case int64:
		digits = strconv.FormatInt(v, 10)
	case float64:
		digits = strconv.FormatFloat(v, 'f', 0, 64)
	case *int:
		return count(*v)
	case *int64:
		return count(*v)
	case *float64:
		return count(*v)
	}
	for i := len(digits) - 3; i > 0 && digits[i-1] != '-'; i -= 3 {
		digits = digits[:i] + "," + digits[i:]
	}
	return digits
}

func duration(seconds *float64) string {
	return time.Duration(*seconds * float64(time.Second)).Round(time.Second).String()
}
