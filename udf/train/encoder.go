package train

import (
	"encoding/json"
	"math"
	"strconv"

	"github.com/scrimdb/scrim/udf"
	"github.com/scrimdb/scrim/udf/internal/onnx"
)

// formatVersion is the metadata entry scrim.version of the files that this
// package writes.
const formatVersion = "1"

// testRows is the length of the test vector; five rows are special cases.
const testRows = 16

// export writes the first half of the network, with the preparation of its input
// in front, as an encoder without test vector.
func export(n network, features []string, data prepared, params []float32) ([]byte, error) {
	names, err := json.Marshal(features)
	if err != nil {
		return nil, err
	}
	g := &stepGraph{onnx.Graph{Name: "encoder"}}
	g.Input(udf.InputName, onnx.Double, onnx.Batch, n.widths[0])
	g.Output(udf.OutputName, onnx.Float, onnx.Batch, n.widths[n.latent+1])
	n.encode(g, data.normalise(g), params)
	model := onnx.AppendMeta(g.Model(), "scrim.version", formatVersion)
	return onnx.AppendMeta(model, "scrim.features", string(names)), nil
}

// normalise is standardise as a graph. It stays in double until the value is
// small: a float would lose a large mean's digits.
func (p *prepared) normalise(g *stepGraph) string {
	g.Doubles("mean", p.mean, len(p.mean))
	g.Doubles("std", p.std, len(p.std))
	g.Doubles("low", []float64{-clip})
	g.Doubles("high", []float64{clip})
	g.op("IsNaN", "missing", udf.InputName)
	g.op("Where", "imputed", "missing", "mean", udf.InputName)
	g.op("Sub", "centred", "imputed", "mean")
	g.op("Div", "scaled", "centred", "std")
	g.op("Clip", "clipped", "scaled", "low", "high")
	g.Node("Cast", []string{"clipped"}, []string{"x"}, onnx.Attr{Name: "to", Value: int64(onnx.Float)})
	return "x"
}

func (n network) encode(g *stepGraph, input string, params []float32) {
	for l := range n.latent + 1 {
		i := strconv.Itoa(l)
		in, out := n.widths[l], n.widths[l+1]
		g.Floats("w"+i, params[:in*out], in, out)
		g.Floats("b"+i, params[in*out:in*out+out], out)
		params = params[in*out+out:]
		if n.linear(l) {
			g.gemm(udf.OutputName, false, false, input, "w"+i, "b"+i)
			return
		}
		g.gemm("z"+i, false, false, input, "w"+i, "b"+i)
		input = g.op("Tanh", "a"+i, "z"+i)
	}
}

// testInputs makes rows for the test vector from the means and deviations that
// the file holds anyway: the mean, missing, infinite, extreme, and then points
// within three deviations, each with one value missing.
func testInputs(data prepared, r *generator) []float64 {
	k := len(data.mean)
	rows := make([]float64, 0, testRows*k)
	special := []float64{0, math.NaN(), math.Inf(1), math.Inf(-1), 1e6}
	for i := range testRows {
		for j := range k {
			z := r.uniform(3)
			if i < len(special) {
				z = special[i]
			} else if i%k == j && k > 1 {
				z = math.NaN()
			}
			rows = append(rows, data.mean[j]+float64(z*data.std[j]))
		}
	}
	return rows
}
