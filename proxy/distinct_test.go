package proxy

import (
	"math"
	"math/rand/v2"
	"testing"
)

// TestDistinct: rows have the number of the first that is equal to them bit for bit, whatever they collide with.
func TestDistinct(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 2))
	values := []float64{0, math.Copysign(0, -1), 1, -1, math.NaN(), math.Inf(1), 1e300, 5e-324}
	for _, width := range []int{1, 3} {
		d := distinct{width: width}
		for range 3 {
			numbers := map[[3]uint64]int32{}
			for range 5000 {
				row := make([]float64, width)
				var key [3]uint64
				for i := range row {
					row[i] = values[r.IntN(len(values))] + float64(r.IntN(12))
					key[i] = math.Float64bits(row[i])
				}
				want, known := numbers[key]
				if !known {
					want = int32(len(numbers))
					numbers[key] = want
				}
				d.inputs = append(d.inputs, row...)
				if got := d.last(); got != want {
					t.Fatalf("%v is row %d, not %d", row, got, want)
				}
			}
			if d.rows() != len(numbers) {
				t.Fatalf("%d rows, not %d", d.rows(), len(numbers))
			}
			d.reset()
		}
	}
}

func BenchmarkDistinct(b *testing.B) {
	d := distinct{width: 3}
	for i := range b.N {
		d.inputs = append(d.inputs, float64(i), float64(i%7), 1)
		d.last()
		if i%maxBatch == maxBatch-1 {
			d.reset()
		}
	}
}
