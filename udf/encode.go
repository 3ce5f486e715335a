package udf

import (
	"errors"
	"fmt"
	"math/bits"

	ort "github.com/yalue/onnxruntime_go"
)

// chunkRows is the largest batch that a session sees. Throughput is flat from
// 256 to 1,024 rows and falls beyond, where the layers leave the cache.
const chunkRows = 1024

// laneSizes counts the powers of two from 1 to chunkRows.
const laneSizes = 11

// lane is what one call needs for itself to run the shared session: a pair of
// buffers and, over the same two buffers, tensors and a binding for each batch
// size. ONNX Runtime keeps pointers into the buffers; Go does not move them, and
// the lane keeps them reachable.
//
// On a GPU there is one size, chunkRows: cuBLAS chooses the kernel, and so the order
// of a sum, by the shape. And a binding would copy its input to the device once, when
// it is bound, so the tensors are handed over at each run instead.
type lane struct {
	src      []float64
	dst      []float32
	bindings [laneSizes]*ort.IoBinding
	values   []ort.Value // input and output of each size
}

// Encode computes the codes of n rows: src holds n*Inputs values row by row, NaN
// for a missing one, and dst takes n*Dims. It may be called concurrently and
// does not allocate once its lane is made.
func (e *Encoder) Encode(dst []float32, src []float64) error {
	rows := len(src) / e.spec.Inputs
	if err := e.encode(dst, src, rows); err != nil {
		return err
	}
	e.rows.Add(int64(rows))
	e.batches.Add(int64((rows + chunkRows - 1) / chunkRows))
	return nil
}

func (e *Encoder) encode(dst []float32, src []float64, rows int) error {
	if rows*e.spec.Inputs != len(src) || rows*e.spec.Dims != len(dst) {
		return fmt.Errorf("encoder %q: %d values and room for %d codes are not whole rows of %d inputs and %d dimensions",
			e.spec.Name, len(src), len(dst), e.spec.Inputs, e.spec.Dims)
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
			return fmt.Errorf("encoder %q: %w", e.spec.Name, err)
		}
	}
	return nil
}

// run encodes up to chunkRows rows. The rest of the batch is zeros, so that what
// an earlier batch left in the buffer never takes part in a computation.
func (e *Encoder) run(l *lane, dst []float32, src []float64, rows int) error {
	size := max(bits.Len(uint(rows-1)), e.smallest)
	copy(l.src, src)
	clear(l.src[len(src) : (1<<size)*e.spec.Inputs])
	var err error
	if e.smallest > 0 {
		err = e.session.Run(l.values[:1], l.values[1:])
	} else {
		err = e.session.RunWithBinding(l.bindings[size])
	}
	if err != nil {
		return err
	}
	copy(dst, l.dst)
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
		return nil, fmt.Errorf("encoder %q: %w", e.spec.Name, err)
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
	l := &lane{
		src: make([]float64, chunkRows*e.spec.Inputs),
		dst: make([]float32, chunkRows*e.spec.Dims),
	}
	for size := e.smallest; size < laneSizes; size++ {
		if err := e.bind(l, size); err != nil {
			return nil, errors.Join(err, l.destroy())
		}
	}
	return l, nil
}

func (e *Encoder) bind(l *lane, size int) error {
	rows := int64(1) << size
	in, err := ort.NewTensor(ort.NewShape(rows, int64(e.spec.Inputs)), l.src)
	if err != nil {
		return err
	}
	l.values = append(l.values, in)
	out, err := ort.NewTensor(ort.NewShape(rows, int64(e.spec.Dims)), l.dst)
	if err != nil {
		return err
	}
	l.values = append(l.values, out)
	if e.smallest > 0 {
		return nil
	}
	if l.bindings[size], err = e.session.CreateIoBinding(); err != nil {
		return err
	}
	return errors.Join(l.bindings[size].BindInput(InputName, in), l.bindings[size].BindOutput(OutputName, out))
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
