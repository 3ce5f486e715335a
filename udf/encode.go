package udf

import (
	"errors"
	"fmt"
	"math"
	"math/bits"

	ort "github.com/yalue/onnxruntime_go"
)

// chunkRows is the largest batch that a session sees. Throughput is flat from
// 256 to 1,024 rows and falls beyond, where the layers leave the cache.
const chunkRows = 1024

// laneSizes counts the powers of two from 1 to chunkRows.
const laneSizes = 11

// lane is what one call needs for itself to run the shared session: a buffer
// for each input and one for the output and, over the same buffers, tensors and a
// binding for each batch size. ONNX Runtime keeps pointers into the buffers; Go does
// not move them, and the lane keeps them reachable.
//
// On a GPU there is one size, chunkRows: cuBLAS chooses the kernel, and so the order
// of a sum, by the shape. And a binding would copy its input to the device once, when
// it is bound, so the tensors are handed over at each run instead.
type lane struct {
	inputs   []buffer
	output   buffer
	bindings [laneSizes]*ort.IoBinding
	values   []ort.Value // inputs and output of each size
}

// Encode computes the codes of n rows: src holds n*Inputs values row by row, NaN
// for a missing one, and dst takes n*Dims. It may be called concurrently and
// does not allocate once its lane is made.
func (e *Encoder) Encode(dst []float32, src []float64) error {
	rows := len(src) / e.spec.Inputs
	if err := e.encode(dst, src, rows); err != nil {
		if refused := (*runError)(nil); errors.As(err, &refused) { // its words may have values of rows in them
			return fmt.Errorf("%s: %w", e.spec, ErrModelFailed)
		}
		return err
	}
	e.rows.Add(int64(rows))
	e.batches.Add(int64((rows + chunkRows - 1) / chunkRows))
	return nil
}

// runError is what ONNX Runtime says when it cannot compute a batch.
type runError struct{ error }

func (e *Encoder) encode(dst []float32, src []float64, rows int) error {
	if rows*e.spec.Inputs != len(src) || rows*e.spec.Dims != len(dst) {
		return fmt.Errorf("%s: %d values and room for %d codes are not whole rows of %d inputs and %d dimensions",
			e.spec, len(src), len(dst), e.spec.Inputs, e.spec.Dims)
	}
	l, err := e.acquire()
	if err != nil {
		return err
	}
	defer e.giveBack(l)
	for start := 0; start < rows; start += chunkRows {
		end := min(start+chunkRows, rows)
		err := e.run(l, dst[start*e.spec.Dims:end*e.spec.Dims], src[start*e.spec.Inputs:end*e.spec.Inputs], end-start)
		if err != nil {
			return fmt.Errorf("%s: %w", e.spec, err)
		}
	}
	return nil
}

// run encodes up to chunkRows rows. The rest of the batch is zeros, so that what
// an earlier batch left in the buffer never takes part in a computation.
func (e *Encoder) run(l *lane, dst []float32, src []float64, rows int) error {
	size := max(bits.Len(uint(rows-1)), e.smallest)
	first := 0
	for i, p := range e.inputs {
		if err := l.inputs[i].put(p, src, first, e.spec.Inputs, 1<<size); err != nil {
			return err
		}
		first += p.width
	}
	var err error
	if e.smallest > 0 {
		err = e.session.Run(l.values[:len(e.inputs)], l.values[len(e.inputs):])
	} else {
		err = e.session.RunWithBinding(l.bindings[size])
	}
	if err != nil {
		return &runError{err}
	}
	l.output.take(dst)
	return nil
}

// acquire waits for a turn. The lane that was used last comes first: its buffers
// are still in the cache.
func (e *Encoder) acquire() (*lane, error) {
	if _, open := <-e.tokens; !open {
		return nil, ErrClosed
	}
	e.mu.Lock()
	if n := len(e.free); n > 0 {
		l := e.free[n-1]
		e.free = e.free[:n-1]
		e.mu.Unlock()
		return l, nil
	}
	e.mu.Unlock()
	l, err := e.newLane()
	if err != nil {
		e.tokens <- struct{}{}
		return nil, fmt.Errorf("%s: %w", e.spec, err)
	}
	return l, nil
}

func (e *Encoder) giveBack(l *lane) {
	e.mu.Lock()
	e.free = append(e.free, l)
	e.mu.Unlock()
	e.tokens <- struct{}{}
}

func (e *Encoder) newLane() (*lane, error) {
	l := &lane{output: newBuffer(e.output)}
	for _, p := range e.inputs {
		l.inputs = append(l.inputs, newBuffer(p))
	}
	for size := e.smallest; size < laneSizes; size++ {
		if err := e.bind(l, size); err != nil {
			return nil, errors.Join(err, l.destroy())
		}
	}
	return l, nil
}

func (e *Encoder) bind(l *lane, size int) error {
	first := len(l.values)
	for i, p := range e.inputs {
		in, err := l.inputs[i].tensor(p, 1<<size)
		if err != nil {
			return err
		}
		l.values = append(l.values, in)
	}
	out, err := l.output.tensor(e.output, 1<<size)
	if err != nil {
		return err
	}
	l.values = append(l.values, out)
	if e.smallest > 0 {
		return nil
	}
	b, err := e.session.CreateIoBinding()
	if err != nil {
		return err
	}
	l.bindings[size] = b
	for i, p := range e.inputs {
		if err := b.BindInput(p.name, l.values[first+i]); err != nil {
			return err
		}
	}
	return b.BindOutput(e.output.name, out)
}

func (l *lane) destroy() error {
	var errs []error
	for _, b := range l.bindings {
		if b != nil {
			errs = append(errs, b.Destroy())
		}
	}
	for _, v := range l.values {
		errs = append(errs, v.Destroy())
	}
	return errors.Join(errs...)
}

// warm runs the smallest and the largest batch, so that the first statement pays
// for neither.
func (e *Encoder) warm() error {
	for _, rows := range []int{1, chunkRows} {
		if err := e.encode(make([]float32, rows*e.spec.Dims), make([]float64, rows*e.spec.Inputs), rows); err != nil {
			return err
		}
	}
	return nil
}

// port is an input or output of a model: a tensor with a row for each of the batch's.
type port struct {
	name  string
	kind  ort.TensorElementDataType
	flat  bool // [N], else [N, width]
	width int
}

func (p port) shape(rows int) ort.Shape {
	if p.flat {
		return ort.NewShape(int64(rows))
	}
	return ort.NewShape(int64(rows), int64(p.width))
}

// buffer is the memory of a port: of these the one that has its element type.
type buffer struct {
	doubles []float64
	floats  []float32
	ints    []int64
	bools   []bool
}

func newBuffer(p port) (b buffer) {
	n := chunkRows * p.width
	switch p.kind {
	case ort.TensorElementDataTypeDouble:
		b.doubles = make([]float64, n)
	case ort.TensorElementDataTypeFloat:
		b.floats = make([]float32, n)
	case ort.TensorElementDataTypeInt64:
		b.ints = make([]int64, n)
	default:
		b.bools = make([]bool, n)
	}
	return b
}

func (b *buffer) tensor(p port, rows int) (ort.Value, error) {
	switch {
	case b.doubles != nil:
		return ort.NewTensor(p.shape(rows), b.doubles)
	case b.floats != nil:
		return ort.NewTensor(p.shape(rows), b.floats)
	case b.ints != nil:
		return ort.NewTensor(p.shape(rows), b.ints)
	}
	return ort.NewTensor(p.shape(rows), b.bools)
}

// put writes a port's columns of rows, which begin with the given one and of which a row has so many in all, and zeros for the rest
// of the size.
func (b *buffer) put(p port, src []float64, first, columns, size int) error {
	n := len(src) / columns * p.width
	switch {
	case b.doubles != nil && p.width == columns:
		copy(b.doubles, src)
		clear(b.doubles[n : size*p.width])
	case b.doubles != nil:
		return fill(b.doubles, src, p, first, columns, size, func(v float64) (float64, bool) { return v, true })
	case b.floats != nil:
		return fill(b.floats, src, p, first, columns, size, func(v float64) (float32, bool) { return float32(v), true })
	case b.ints != nil:
		return fill(b.ints, src, p, first, columns, size, whole)
	default:
		return fill(b.bools, src, p, first, columns, size, func(v float64) (bool, bool) { return v == 1, v == 0 || v == 1 })
	}
	return nil
}

func fill[T any](dst []T, src []float64, p port, first, columns, size int, convert func(float64) (T, bool)) error {
	n := 0
	for row := first; row < len(src); row += columns {
		for _, v := range src[row : row+p.width] {
			converted, ok := convert(v)
			if !ok {
				return ErrModelInput
			}
			dst[n] = converted
			n++
		}
	}
	clear(dst[n : size*p.width])
	return nil
}

// whole is an integer that came as a double. The largest bigint has come as 2^63, which is none.
func whole(v float64) (int64, bool) {
	if v >= 1<<63 {
		return math.MaxInt64, v == 1<<63
	}
	return int64(v), v == math.Trunc(v) && v >= -1<<63
}

// take reads as many outputs as dst takes, as floats.
func (b *buffer) take(dst []float32) {
	switch {
	case b.floats != nil:
		copy(dst, b.floats)
	case b.doubles != nil:
		for i := range dst {
			dst[i] = float32(b.doubles[i])
		}
	case b.ints != nil:
		for i := range dst {
			dst[i] = float32(b.ints[i])
		}
	default:
		for i := range dst {
			dst[i] = 0
			if b.bools[i] {
				dst[i] = 1
			}
		}
	}
}
