package train

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"math"
	"math/bits"
	"math/rand/v2"
	"time"

	"github.com/scrimdb/scrim/udf"
)

// Run trains an encoder. The rows that are left when an epoch has no full batch
// any more sit out that epoch; each epoch shuffles anew. progress may be nil; it
// is called on the caller's goroutine.
func Run(ctx context.Context, rt *udf.Runtime, cfg Config, data *Data, progress func(Progress)) (Result, error) {
	if err := cfg.Validate(); err != nil {
		return Result{}, err
	}
	cfg = cfg.withDefaults()
	if err := rt.Device(cfg.Device); err != nil {
		return Result{}, err
	}
	prep, err := prepare(ctx, cfg.Features, data)
	if err != nil {
		return Result{}, err
	}
	if cfg.BatchSize > data.rows {
		prep.warnings = append(prep.warnings, fmt.Sprintf("a batch of %d rows is more than the %d rows that there are: each step trains on all of them",
			cfg.BatchSize, data.rows))
	}
	net := newNetwork(len(cfg.Features), cfg.Hidden, cfg.LatentDims)
	net.ones = cfg.Device == udf.CUDA
	random := newGenerator(cfg.Seed)
	params, losses, err := fit(ctx, rt, cfg, net, prep.z, random, progress)
	if err != nil {
		return Result{}, err
	}
	net.ignore(prep.constant, params)
	model, err := export(net, cfg.Features, prep, params)
	if err != nil {
		return Result{}, err
	}
	model, err = rt.AddTestVector(model, cfg.Device, len(cfg.Features), cfg.LatentDims, testInputs(prep, random))
	if err != nil {
		return Result{}, fmt.Errorf("train: check of the exported encoder: %w", err)
	}
	rows := random.draw(data.rows, SampleRows)
	codes, squares, err := evaluate(ctx, rt, cfg.Device, net, params, prep, data, rows)
	if err != nil {
		return Result{}, err
	}
	for i, row := range rows {
		rows[i] = prep.order[row]
	}
	sum := sha256.Sum256(model)
	return Result{
		Model:    model,
		SHA256:   hex.EncodeToString(sum[:]),
		Inputs:   len(cfg.Features),
		Dims:     cfg.LatentDims,
		Loss:     losses[len(losses)-1],
		Losses:   losses,
		Rows:     data.rows,
		Nulls:    prep.nulls,
		Constant: prep.constant,
		Warnings: prep.warnings,
		Sample:   rows,
		Codes:    codes,
		Errors:   squares,
	}, nil
}

// fit returns the trained parameters and the loss of each epoch.
func fit(ctx context.Context, rt *udf.Runtime, cfg Config, net network, z []float32, random *generator,
	progress func(Progress),
) (params []float32, losses []float64, err error) {
	k := len(cfg.Features)
	rows := len(z) / k
	batch := cfg.batch(rows)
	m, err := newMachine(ctx, rt, cfg.Device, net, batch, cfg.LearningRate)
	if err != nil {
		return nil, nil, err
	}
	defer func() { err = errors.Join(err, m.close()) }()
	random.glorot(net, m.params())

	order := make([]int32, rows)
	for i := range order {
		order[i] = int32(i)
	}
	start := time.Now()
	for epoch := 1; epoch <= cfg.Epochs; epoch++ {
		random.shuffle(order)
		loss, err := m.epoch(ctx, z, order)
		if err != nil {
			return nil, nil, err
		}
		if math.IsNaN(loss) || math.IsInf(loss, 0) {
			return nil, nil, refuse("choose a smaller learning rate", "training diverged in epoch %d", epoch)
		}
		losses = append(losses, loss)
		if progress != nil {
			progress(progressAt(epoch, cfg.Epochs, rows, loss, time.Since(start)))
		}
	}
	return append([]float32(nil), m.params()...), losses, nil
}

func progressAt(epoch, epochs, rows int, loss float64, elapsed time.Duration) Progress {
	return Progress{
		Epoch:         epoch,
		Epochs:        epochs,
		Loss:          loss,
		RowsPerSecond: float64(epoch*rows) / max(elapsed.Seconds(), 1e-9),
		ETA:           elapsed / time.Duration(epoch) * time.Duration(epochs-epoch),
	}
}

// generator is the source of all randomness. It uses nothing of math/rand/v2 but
// the PCG itself, whose output is specified: the derived functions may change
// with a Go release and every encoder's hash with them.
type generator struct{ pcg *rand.PCG }

func newGenerator(seed int64) *generator {
	return &generator{rand.NewPCG(uint64(seed), 0x5c71a)}
}

// uniform returns a number in [-limit, limit).
func (g *generator) uniform(limit float64) float64 {
	return (float64(g.pcg.Uint64()>>11)/(1<<52) - 1) * limit
}

// shuffle is Fisher and Yates's.
func (g *generator) shuffle(order []int32) {
	for i := len(order) - 1; i > 0; i-- {
		j, _ := bits.Mul64(g.pcg.Uint64(), uint64(i)+1)
		order[i], order[j] = order[j], order[i]
	}
}

// draw returns up to most of the numbers from 0 to n-1, each at most once, in random order.
func (g *generator) draw(n, most int) []int32 {
	all := make([]int32, n)
	for i := range all {
		all[i] = int32(i)
	}
	for i := range min(n, most) {
		j, _ := bits.Mul64(g.pcg.Uint64(), uint64(n-i))
		all[i], all[i+int(j)] = all[i+int(j)], all[i]
	}
	return append([]int32(nil), all[:min(n, most)]...)
}

// glorot fills in the initial weights and leaves the biases zero.
func (g *generator) glorot(n network, params []float32) {
	for l := range n.layers() {
		in, out := n.widths[l], n.widths[l+1]
		limit := math.Sqrt(6 / float64(in+out))
		for i := range in * out {
			params[i] = float32(g.uniform(limit))
		}
		params = params[in*out+out:]
	}
}
