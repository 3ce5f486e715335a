package train

import (
	"context"
	"errors"
	"fmt"
	"math"

	ort "github.com/yalue/onnxruntime_go"

	"github.com/scrimdb/scrim/udf"
)

// machine runs training steps. It has two sets of vectors, and session s reads
// set s and writes the other one, so the sessions take turns.
type machine struct {
	batch, width int
	learning     float64
	decay1       float64 // beta1 to the number of steps so far
	decay2       float64
	turn         int

	x, rate, loss *ort.Tensor[float32]
	state         [2]state
	sessions      [2]*ort.AdvancedSession
	options       *ort.RunOptions
	tensors       []*ort.Tensor[float32]

	release func() error
	disarm  func()
}

// state is the parameters and Adam's moments.
type state struct{ p, m, v *ort.Tensor[float32] }

func (s state) values() []ort.Value { return []ort.Value{s.p, s.m, s.v} }

// newMachine starts with all vectors zero. A cancelled ctx interrupts a step that
// is running.
func newMachine(ctx context.Context, rt *udf.Runtime, device udf.Device, n network, batch int, learning float64) (*machine, error) {
	release, err := rt.Hold()
	if err != nil {
		return nil, err
	}
	m := &machine{
		batch: batch, width: n.widths[0], learning: learning,
		decay1: 1, decay2: 1,
		release: release,
		disarm:  func() {},
	}
	err = m.makeTensors(n)
	if err == nil {
		err = m.makeSessions(device, n)
	}
	if err != nil {
		return nil, errors.Join(fmt.Errorf("train: %w", err), m.close())
	}
	m.armCancel(ctx)
	return m, nil
}

func (m *machine) makeTensors(n network) error {
	type slot struct {
		tensor **ort.Tensor[float32]
		shape  ort.Shape
	}
	vector := ort.NewShape(int64(n.params()))
	slots := []slot{
		{&m.x, ort.NewShape(int64(m.batch), int64(m.width))},
		{&m.rate, ort.NewShape(1)},
		{&m.loss, ort.NewShape(1)},
	}
	for i := range m.state {
		s := &m.state[i]
		slots = append(slots, slot{&s.p, vector}, slot{&s.m, vector}, slot{&s.v, vector})
	}
	for _, s := range slots {
		t, err := ort.NewEmptyTensor[float32](s.shape)
		if err != nil {
			return err
		}
		*s.tensor = t
		m.tensors = append(m.tensors, t)
	}
	return nil
}

func (m *machine) makeSessions(device udf.Device, n network) error {
	options, err := udf.NewSessionOptions(device)
	if err != nil {
		return err
	}
	model := n.step(m.batch)
	var errs []error
	for i := range m.sessions {
		m.sessions[i], err = ort.NewAdvancedSessionWithONNXData(model,
			[]string{"x", "rate", "p", "m", "v"}, []string{"loss", "p'", "m'", "v'"},
			append([]ort.Value{m.x, m.rate}, m.state[i].values()...),
			append([]ort.Value{m.loss}, m.state[1-i].values()...),
			options)
		errs = append(errs, err)
	}
	m.options, err = ort.NewRunOptions()
	return errors.Join(append(errs, err, options.Destroy())...)
}

// armCancel makes a cancelled ctx stop the running step. disarm waits until
// nobody can touch the run options any more.
func (m *machine) armCancel(ctx context.Context) {
	done := make(chan struct{})
	stop := context.AfterFunc(ctx, func() {
		defer close(done)
		_ = m.options.Terminate() // if it fails, epoch sees ctx after the step
	})
	m.disarm = func() {
		if !stop() {
			<-done
		}
	}
}

// params is the current parameter vector.
func (m *machine) params() []float32 { return m.state[m.turn].p.GetData() }

// epoch runs a step on each full batch of rows in the given order and returns
// the mean loss.
func (m *machine) epoch(ctx context.Context, z []float32, order []int32) (float64, error) {
	var sum float64
	steps := len(order) / m.batch
	for s := range steps {
		m.gather(z, order[s*m.batch:(s+1)*m.batch])
		err := m.step()
		if ctx.Err() != nil {
			return 0, ctx.Err()
		}
		if err != nil {
			return 0, fmt.Errorf("train: %w", err)
		}
		sum += float64(m.loss.GetData()[0])
	}
	return sum / float64(steps), nil
}

func (m *machine) gather(z []float32, order []int32) {
	x := m.x.GetData()
	for i, row := range order {
		copy(x[i*m.width:(i+1)*m.width], z[int(row)*m.width:])
	}
}

func (m *machine) step() error {
	m.decay1 *= beta1
	m.decay2 *= beta2
	m.rate.GetData()[0] = float32(m.learning * math.Sqrt(1-m.decay2) / (1 - m.decay1))
	if err := m.sessions[m.turn].RunWithOptions(m.options); err != nil {
		return err
	}
	m.turn = 1 - m.turn
	return nil
}

func (m *machine) close() error {
	m.disarm()
	var errs []error
	if m.options != nil {
		errs = append(errs, m.options.Destroy())
	}
	for _, s := range m.sessions {
		if s != nil {
			errs = append(errs, s.Destroy())
		}
	}
	for _, t := range m.tensors {
		errs = append(errs, t.Destroy())
	}
	return errors.Join(append(errs, m.release())...)
}
