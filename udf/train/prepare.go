package train

import (
	"context"
	"fmt"
	"math"
	"slices"
)

// clip bounds a standardised value, in training and in the exported encoder.
const clip = 10

// largest is the magnitude up to which sums of squares stay finite.
const largest = 1e140

// prepared is the data as the network sees it.
type prepared struct {
	z         []float32 // standardised, in canonical order
	order     []int32   // which row of the data each of them is
	mean, std []float64
	constant  []bool
	nulls     []int
	warnings  []string
}

func prepare(ctx context.Context, features []string, data *Data) (prepared, error) {
	k := len(features)
	switch {
	case data.rows == 0:
		return prepared{}, refuse("choose a table that has rows", "no rows to train on")
	case data.rows == 1:
		return prepared{}, refuse("an encoder learns how rows differ: choose a table that has more", "one row is not enough to train on")
	case data.features != k:
		return prepared{}, fmt.Errorf("train: rows have %d values, not %d", data.features, k)
	}
	p := prepared{
		mean:     make([]float64, k),
		std:      make([]float64, k),
		constant: make([]bool, k),
		nulls:    make([]int, k),
	}
	order, err := canonicalOrder(ctx, data)
	if err != nil {
		return prepared{}, err
	}
	p.order = order
	for j, name := range features {
		if err := p.describe(j, name, order, data); err != nil {
			return prepared{}, err
		}
	}
	if !slices.Contains(p.constant, false) {
		return prepared{}, refuse("choose a column whose values differ", "every feature is constant")
	}
	p.z = make([]float32, data.rows*k)
	for i, row := range order {
		p.standardise(p.z[i*k:(i+1)*k], data.Row(int(row)))
	}
	return p, ctx.Err()
}

// canonicalOrder sorts the rows by their values, so that the order in which the
// database returned them, which nobody controls, leaves no trace in the model.
func canonicalOrder(ctx context.Context, data *Data) ([]int32, error) {
	if data.rows > math.MaxInt32 {
		return nil, refuse("train on a sample of the rows", "too many rows")
	}
	order := make([]int32, data.rows)
	for i := range order {
		order[i] = int32(i)
	}
	var comparisons int
	var cancelled bool
	slices.SortFunc(order, func(a, b int32) int {
		if comparisons++; comparisons&0xffff == 0 {
			cancelled = ctx.Err() != nil
		}
		if cancelled {
			return 0 // ends a long sort quickly
		}
		return slices.Compare(data.Row(int(a)), data.Row(int(b)))
	})
	return order, ctx.Err()
}

// describe fills in what the encoder has to know about feature j. Sums run in
// canonical order: another order would round to other bits.
func (p *prepared) describe(j int, name string, order []int32, data *Data) error {
	var sum float64
	low, high := math.Inf(1), math.Inf(-1)
	for _, row := range order {
		v := data.Row(int(row))[j]
		if math.IsNaN(v) {
			p.nulls[j]++
			continue
		}
		low, high = min(low, v), max(high, v)
		sum += v
	}
	n := float64(data.rows - p.nulls[j])
	switch {
	case n == 0:
		return refuse("leave the column out", "feature %q is missing in every row", name)
	case math.IsInf(low, 0) || math.IsInf(high, 0):
		return refuse("filter those rows out or replace the values", "feature %q has infinite values", name)
	case max(-low, high) > largest:
		return refuse("scale the column down", "feature %q has values beyond 1e140", name)
	}
	if 2*p.nulls[j] > data.rows {
		p.warnings = append(p.warnings, fmt.Sprintf("feature %q is missing in more than half of the rows", name))
	}
	p.mean[j] = sum / n
	p.std[j] = p.deviation(j, order, data, n)
	if low == high || p.std[j] == 0 {
		p.mean[j], p.std[j], p.constant[j] = low, 1, true
		p.warnings = append(p.warnings, fmt.Sprintf("feature %q is constant: it adds nothing to the codes", name))
	}
	return nil
}

func (p *prepared) deviation(j int, order []int32, data *Data, n float64) float64 {
	var squares float64
	for _, row := range order {
		if v := data.Row(int(row))[j]; !math.IsNaN(v) {
			d := v - p.mean[j]
			squares += float64(d * d) // the conversion forbids a fused multiply-add
		}
	}
	return math.Sqrt(squares / n)
}

// standardise does what the first nodes of the encoder do.
func (p *prepared) standardise(dst []float32, row []float64) {
	for j := range dst {
		v := row[j]
		if math.IsNaN(v) {
			v = p.mean[j]
		}
		dst[j] = float32(min(max((v-p.mean[j])/p.std[j], -clip), clip)) + 0 // no negative zero
	}
}
