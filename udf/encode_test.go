package udf_test

import (
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"math"
	"math/rand/v2"
	"os"
	"os/exec"
	"strings"
	"sync"
	"testing"

	"github.com/scrimdb/scrim/udf"
	"github.com/scrimdb/scrim/udf/internal/udftest"
)

// shapes covers the kernels that a matrix product may take: single columns,
// odd widths, wider than a vector register.
var shapes = []struct{ inputs, hidden, dims int }{
	{1, 1, 1}, {1, 32, 1}, {2, 5, 3}, {3, 32, 2}, {16, 64, 8}, {17, 31, 13}, {64, 128, 32},
}

func encode(tb testing.TB, e *udf.Encoder, src []float64) []float32 {
	tb.Helper()
	dst := make([]float32, len(src)/e.Inputs()*e.Dims())
	if err := e.Encode(dst, src); err != nil {
		tb.Fatal(err)
	}
	return dst
}

// differs returns the first component whose bits differ, or -1.
func differs(a, b []float32) int {
	if len(a) != len(b) {
		return 0
	}
	for i := range a {
		if math.Float32bits(a[i]) != math.Float32bits(b[i]) {
			return i
		}
	}
	return -1
}

// Rows encoded one by one are the reference; every batch size and every place in
// a batch must give the same bits.
func TestSameBitsInEveryBatch(t *testing.T) {
	rt := udftest.Runtime(t)
	for _, s := range shapes {
		t.Run(fmt.Sprintf("%d-%d-%d", s.inputs, s.hidden, s.dims), func(t *testing.T) {
			t.Parallel()
			e := load(t, rt, network(s.inputs, s.hidden, s.dims), s.inputs, s.dims)
			const rows = 3000
			src := values(rows * s.inputs)
			for i := 0; i < len(src); i += 11 {
				src[i] = math.NaN()
			}
			var want []float32
			for i := range rows {
				want = append(want, encode(t, e, src[i*s.inputs:(i+1)*s.inputs])...)
			}
			r := rand.New(rand.NewPCG(3, 4))
			for n := 1; n <= rows; n += 1 + n/20 {
				start := r.IntN(rows - n + 1)
				got := encode(t, e, src[start*s.inputs:(start+n)*s.inputs])
				if i := differs(got, want[start*s.dims:(start+n)*s.dims]); i >= 0 {
					t.Fatalf("%d rows from %d: component %d differs", n, start, i)
				}
			}
		})
	}
}

// Every size from 1 to 3000 once.
func TestEverySize(t *testing.T) {
	rt := udftest.Runtime(t)
	e := load(t, rt, network(3, 32, 2), 3, 2)
	src := values(3000 * 3)
	want := encode(t, e, src)
	for n := 1; n <= 3000; n++ {
		if i := differs(encode(t, e, src[:n*3]), want[:n*2]); i >= 0 {
			t.Fatalf("%d rows: component %d differs", n, i)
		}
	}
}

func TestConcurrentEncode(t *testing.T) {
	rt := udftest.Runtime(t)
	e := load(t, rt, network(16, 64, 8), 16, 8)
	const rows = 2000
	src := values(rows * 16)
	want := encode(t, e, src)
	var wg sync.WaitGroup
	for g := range 8 {
		wg.Go(func() {
			r := rand.New(rand.NewPCG(uint64(g), 0))
			dst := make([]float32, rows*8)
			for range 60 {
				start := r.IntN(rows)
				n := 1 + r.IntN(rows-start)
				if err := e.Encode(dst[:n*8], src[start*16:(start+n)*16]); err != nil {
					t.Error(err)
					return
				}
				if i := differs(dst[:n*8], want[start*8:(start+n)*8]); i >= 0 {
					t.Errorf("%d rows from %d: component %d differs", n, start, i)
					return
				}
			}
		})
	}
	wg.Wait()
}

// Three processes with different numbers of processors compute one hash.
func TestSameBitsInEveryProcess(t *testing.T) {
	const child = "SCRIM_TEST_ENCODE_CHILD"
	if os.Getenv(child) != "" {
		rt := udftest.Runtime(t)
		h := sha256.New()
		for _, s := range shapes {
			e := load(t, rt, network(s.inputs, s.hidden, s.dims), s.inputs, s.dims)
			for _, f := range encode(t, e, values(1500*s.inputs)) {
				h.Write(binary.LittleEndian.AppendUint32(nil, math.Float32bits(f)))
			}
		}
		fmt.Printf("hash=%s\n", hex.EncodeToString(h.Sum(nil)))
		return
	}
	hashes := map[string]bool{}
	for _, procs := range []string{"1", "2", "7"} {
		cmd := exec.CommandContext(t.Context(), os.Args[0], "-test.run=^"+t.Name()+"$", "-test.v")
		cmd.Env = append(os.Environ(), child+"=1", "GOMAXPROCS="+procs)
		out, err := cmd.CombinedOutput()
		if err != nil {
			t.Fatalf("%v\n%s", err, out)
		}
		_, rest, found := strings.Cut(string(out), "hash=")
		if !found {
			t.Fatalf("no hash in\n%s", out)
		}
		hashes[rest[:64]] = true
	}
	if len(hashes) != 1 {
		t.Errorf("processes disagree: %v", hashes)
	}
}

// A model that mixes rows shows what is in the padding: zeros, whatever was
// encoded before.
func TestPaddingIsZero(t *testing.T) {
	rt := udftest.Runtime(t)
	e, err := rt.OpenEncoder(udf.EncoderSpec{Name: "sums", Inputs: 1, Dims: 1}, columnSums())
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := e.Close(); err != nil {
			t.Error(err)
		}
	}()
	ones := make([]float64, 1024)
	for i := range ones {
		ones[i] = 1
	}
	for _, n := range []int{1024, 5, 1000, 3, 513, 1} {
		for _, code := range encode(t, e, ones[:n]) {
			if code != float32(n) {
				t.Fatalf("%d rows: sum is %v", n, code)
			}
		}
	}
}

func TestEncodeRefuses(t *testing.T) {
	rt := udftest.Runtime(t)
	e := load(t, rt, network(3, 8, 2), 3, 2)
	for _, lengths := range [][2]int{{2, 4}, {2, 6}, {4, 3}, {0, 3}, {2, 0}, {3, 6}} {
		if err := e.Encode(make([]float32, lengths[0]), make([]float64, lengths[1])); err == nil {
			t.Errorf("%d codes for %d values: no error", lengths[0], lengths[1])
		}
	}
	if err := e.Encode(nil, nil); err != nil {
		t.Errorf("no rows: %v", err)
	}
	if e.RowsEncoded() != 0 {
		t.Error("refused calls are counted")
	}
}

func TestCloseWaitsForEncode(t *testing.T) {
	rt := udftest.Runtime(t)
	e := load(t, rt, network(16, 64, 8), 16, 8)
	src := values(5000 * 16)
	var wg sync.WaitGroup
	running := make(chan struct{}, 6)
	for range cap(running) {
		wg.Go(func() {
			dst := make([]float32, 5000*8)
			for first := true; ; first = false {
				err := e.Encode(dst, src)
				if errors.Is(err, udf.ErrClosed) {
					return
				}
				if err != nil {
					t.Error(err)
					return
				}
				if first {
					running <- struct{}{}
				}
			}
		})
	}
	for range cap(running) {
		<-running
	}
	if err := e.Close(); err != nil {
		t.Error(err)
	}
	wg.Wait()
	if err := e.Encode(nil, nil); !errors.Is(err, udf.ErrClosed) {
		t.Errorf("Encode after Close: %v", err)
	}
}

func TestEncodeDoesNotAllocate(t *testing.T) {
	rt := udftest.Runtime(t)
	e := load(t, rt, network(16, 64, 8), 16, 8)
	src, dst := values(2500*16), make([]float32, 2500*8)
	allocs := testing.AllocsPerRun(20, func() {
		if err := e.Encode(dst, src); err != nil {
			t.Fatal(err)
		}
	})
	if allocs != 0 {
		t.Errorf("%v allocations a call", allocs)
	}
}

func BenchmarkEncode(b *testing.B) {
	rt := udftest.Runtime(b)
	for _, s := range []struct{ inputs, hidden, dims int }{{3, 32, 2}, {16, 64, 8}} {
		for _, rows := range []int{1, 64, 1024, 16384} {
			b.Run(fmt.Sprintf("%d-%d-%d/rows=%d", s.inputs, s.hidden, s.dims, rows), func(b *testing.B) {
				e := load(b, rt, network(s.inputs, s.hidden, s.dims), s.inputs, s.dims)
				src, dst := values(rows*s.inputs), make([]float32, rows*s.dims)
				b.ReportAllocs()
				for b.Loop() {
					if err := e.Encode(dst, src); err != nil {
						b.Fatal(err)
					}
				}
				b.ReportMetric(float64(rows)*float64(b.N)/b.Elapsed().Seconds(), "rows/s")
			})
		}
	}
}
