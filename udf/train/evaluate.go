package train

import (
	"context"
	"errors"
	"fmt"
	"math"
	"strconv"

	ort "github.com/yalue/onnxruntime_go"

	"github.com/scrimdb/scrim/udf"
	"github.com/scrimdb/scrim/udf/internal/onnx"
)

// evaluateRows is the rows of one run: few enough that a cancellation is noticed within a second.
const evaluateRows = 1000

// whole returns the graph of the whole network with its weights as constants, as in the exported encoder, so that on a CPU the
// codes have the same bits: x [N, features] → code [N, dims], output [N, features].
func (n network) whole(params []float32) (model []byte, code, output string) {
	g := &stepGraph{onnx.Graph{Name: "network"}}
	for l := range n.layers() {
		i := strconv.Itoa(l)
		in, out := n.widths[l], n.widths[l+1]
		g.Floats("w"+i, params[:in*out], in, out)
		g.Floats("b"+i, params[in*out:in*out+out], out)
		params = params[in*out+out:]
	}
	g.Input("x", onnx.Float, onnx.Batch, n.widths[0])
	activations := n.forward(g)
	code, output = activations[n.latent+1], activations[n.layers()]
	g.Output(code, onnx.Float, onnx.Batch, n.widths[n.latent+1])
	g.Output(output, onnx.Float, onnx.Batch, n.widths[0])
	return g.Model(), code, output
}

// evaluate runs the trained network on the given rows of prep.z. It is the last use of the decoder.
func evaluate(ctx context.Context, rt *udf.Runtime, device udf.Device, n network, params []float32, prep prepared, data *Data, rows []int32,
) (codes []float32, squares []float64, err error) {
	release, err := rt.Hold()
	if err != nil {
		return nil, nil, err
	}
	defer func() { err = errors.Join(err, release()) }()
	model, code, output := n.whole(params)
	options, err := udf.NewSessionOptions(device)
	if err != nil {
		return nil, nil, err
	}
	session, err := ort.NewDynamicAdvancedSessionWithONNXData(model, []string{"x"}, []string{code, output}, options)
	if err := errors.Join(err, options.Destroy()); err != nil {
		return nil, nil, fmt.Errorf("train: %w", err)
	}
	defer func() { err = errors.Join(err, session.Destroy()) }()

	k := n.widths[0]
	squares, known := make([]float64, k), make([]int, k)
	for start := 0; start < len(rows); start += evaluateRows {
		if ctx.Err() != nil {
			return nil, nil, ctx.Err()
		}
		part := rows[start:min(start+evaluateRows, len(rows))]
		x := make([]float32, 0, len(part)*k)
		for _, row := range part {
			x = append(x, prep.z[int(row)*k:(int(row)+1)*k]...)
		}
		partCodes, out, err := runNetwork(session, x, k, n.widths[n.latent+1])
		if err != nil {
			return nil, nil, fmt.Errorf("train: %w", err)
		}
		codes = append(codes, partCodes...)
		for i, row := range part {
			for j := range k {
				if !math.IsNaN(data.Row(int(prep.order[row]))[j]) {
					d := float64(out[i*k+j]) - float64(x[i*k+j])
					squares[j] += float64(d * d)
					known[j]++
				}
			}
		}
	}
	for j := range squares {
		squares[j] /= float64(known[j])
	}
	return codes, squares, nil
}

// runNetwork returns the codes and the reconstructions of the rows x, of k features each.
func runNetwork(session *ort.DynamicAdvancedSession, x []float32, k, dims int) (codes, out []float32, err error) {
	rows := len(x) / k
	codes, out = make([]float32, rows*dims), make([]float32, rows*k)
	in, err := ort.NewTensor(ort.NewShape(int64(rows), int64(k)), x)
	if err != nil {
		return nil, nil, err
	}
	defer func() { err = errors.Join(err, in.Destroy()) }()
	code, err := ort.NewTensor(ort.NewShape(int64(rows), int64(dims)), codes)
	if err != nil {
		return nil, nil, err
	}
	defer func() { err = errors.Join(err, code.Destroy()) }()
	result, err := ort.NewTensor(ort.NewShape(int64(rows), int64(k)), out)
	if err != nil {
		return nil, nil, err
	}
	defer func() { err = errors.Join(err, result.Destroy()) }()
	return codes, out, session.Run([]ort.Value{in}, []ort.Value{code, result})
}
