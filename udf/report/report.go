package report

import (
	"context"
	"encoding/json"
	"fmt"
	"math"

	"github.com/scrimdb/scrim/udf/train"
)

// maxLosses bounds the points of the loss curve.
const maxLosses = 200

// Target is a column that is not a feature, and of which codes should tell as much as features do.
type Target struct {
	Name   string
	Values []float64 // one for each row of the training data, NaN for a missing one
	Labels bool      // they stand for names of classes
}

// Report is what is to be known about an encoder.
type Report struct {
	rows     []Row
	features []string
	constant []bool
	leakage  []float64 // NaN where it cannot be told
}

// Row is one figure. Kind is training, feature, encoder or target; Feature names a column where there is one; Value is
// nil where the sample cannot tell, and Note says why.
type Row struct {
	Kind    string   `json:"kind"`
	Feature string   `json:"feature,omitempty"`
	Measure string   `json:"measure"`
	Value   *float64 `json:"value"`
	Note    string   `json:"note,omitempty"`
}

// Of makes the report of a training on data. target may be nil. It fails only if ctx ends.
func Of(ctx context.Context, features []string, data *train.Data, result train.Result, target *Target) (*Report, error) {
	s := Sample{Features: features, Dims: result.Dims, Codes: result.Codes}
	for _, row := range result.Sample {
		s.Raw = append(s.Raw, data.Row(int(row))...)
		if target != nil {
			s.Target = append(s.Target, target.Values[row])
			s.Labels = target.Labels
		}
	}
	r := &Report{features: features, constant: result.Constant}
	r.losses(result.Losses)
	few := len(result.Sample) < MinRows
	m := unknown(len(features), target != nil)
	if !few {
		var err error
		if m, err = Measure(ctx, s); err != nil {
			return nil, err
		}
	}
	for j, name := range features {
		r.feature(j, name, result, m.Leakage[j], few)
	}
	r.encoder(m, result.Rows, few)
	if target != nil {
		r.target(target.Name, *m.Target, few)
	}
	return r, nil
}

// unknown stands for what cannot be measured.
func unknown(features int, target bool) Measures {
	nan := math.NaN()
	m := Measures{Overlap: nan}
	for range features {
		m.Leakage = append(m.Leakage, Leakage{nan, nan, nan})
	}
	if target {
		m.Target = &Utility{Codes: nan, Raw: nan}
	}
	return m
}

func (r *Report) add(kind, feature, measure string, value float64, note string) {
	row := Row{Kind: kind, Feature: feature, Measure: measure, Note: note}
	if !math.IsNaN(value) {
		row.Value = &value
	}
	r.rows = append(r.rows, row)
}

// losses adds the curve; of a long one, points at equal distances and the last.
func (r *Report) losses(losses []float64) {
	step := (len(losses) + maxLosses - 1) / maxLosses
	for i, loss := range losses {
		if (i+1)%step == 0 || i == 0 || i == len(losses)-1 {
			r.add("training", "", "loss", loss, fmt.Sprintf("after epoch %d", i+1))
		}
	}
}

const fewRows = "there are less than 100 rows"

func (r *Report) feature(j int, name string, result train.Result, l Leakage, few bool) {
	note := "regained by ridge regression"
	switch {
	case result.Constant[j]:
		note = "the column has one value only"
	case few:
		note = fewRows
	case math.IsNaN(l.Value):
		note = "the sample has too few different values"
	case l.Value == 0:
		note = "nothing regained"
	case l.Neighbours > l.Ridge:
		note = "regained from nearest neighbours"
	}
	r.leakage = append(r.leakage, l.Value)
	r.add("feature", name, "reconstruction_error", result.Errors[j], "")
	r.add("feature", name, "leakage", l.Value, note)
	r.add("feature", name, "leakage_ridge", l.Ridge, "")
	r.add("feature", name, "leakage_neighbours", l.Neighbours, "")
}

func (r *Report) encoder(m Measures, rows int, few bool) {
	if few {
		r.add("encoder", "", "neighbourhood_overlap", math.NaN(), fewRows)
		return
	}
	r.add("encoder", "", "neighbourhood_overlap", m.Overlap,
		fmt.Sprintf("of the %d nearest of %d rows; by chance it would be %.2g", m.K, m.Fit, float64(m.K)/float64(m.Fit)))
	r.add("encoder", "", "sampled_rows", float64(m.Rows),
		fmt.Sprintf("of %d; the attacker has %d, tunes on %d, and is judged by %d", rows, m.Fit, m.Rows-m.Fit-m.Held, m.Held))
}

func (r *Report) target(name string, u Utility, few bool) {
	measure, note := "r2", ""
	if u.Classes {
		measure = "accuracy"
	}
	switch {
	case few:
		note = fewRows
	case math.IsNaN(u.Raw):
		note = "the sample has too few different values"
	}
	r.add("target", name, measure+"_from_codes", u.Codes, note)
	r.add("target", name, measure+"_from_features", u.Raw, note)
}

// Rows returns the figures in the order in which they are to be shown.
func (r *Report) Rows() []Row { return r.rows }

// JSON returns the rows as an array of objects.
func (r *Report) JSON() (string, error) {
	b, err := json.Marshal(r.rows)
	return string(b), err
}

// Check returns a *train.Error when a feature leaks more than most, or when that cannot be told.
func (r *Report) Check(most float64) error {
	for j, leakage := range r.leakage {
		switch name := r.features[j]; {
		case r.constant[j]: // what everybody knows
		case math.IsNaN(leakage):
			return &train.Error{
				Message: fmt.Sprintf("the leakage of column %q cannot be measured", name),
				Hint:    fmt.Sprintf("It takes %d rows with different values in a random sample. Train on more rows, or leave out the column or max_leakage.", MinRows),
			}
		case leakage > most:
			return &train.Error{
				Message: fmt.Sprintf("the leakage of column %q is %.4f, more than max_leakage %v", name, leakage, most),
				Hint:    "Choose fewer latent_dims, leave out the column, or allow more. Nothing was published.",
			}
		}
	}
	return nil
}
