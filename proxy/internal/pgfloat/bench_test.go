package pgfloat

import (
	"math"
	"math/rand/v2"
	"strconv"
	"testing"
)

// The values that the benchmarks write: embeddings are small numbers around
// zero, bits are random bit patterns.
var (
	embeddings32 = func() (v [1024]float32) {
		r := rand.New(rand.NewPCG(1, 2))
		for i := range v {
			v[i] = float32(r.NormFloat64() * 0.05)
		}
		return v
	}()
	bits32 = func() (v [1024]float32) {
		r := rand.New(rand.NewPCG(3, 4))
		for i := range v {
			v[i] = math.Float32frombits(r.Uint32())
		}
		return v
	}()
	embeddings64 = func() (v [1024]float64) {
		r := rand.New(rand.NewPCG(5, 6))
		for i := range v {
			v[i] = r.NormFloat64() * 0.05
		}
		return v
	}()
	bits64 = func() (v [1024]float64) {
		r := rand.New(rand.NewPCG(7, 8))
		for i := range v {
			v[i] = math.Float64frombits(r.Uint64())
		}
		return v
	}()
)

func BenchmarkFloat4(b *testing.B) {
	for _, set := range []struct {
		name string
		vals *[1024]float32
	}{{"embeddings", &embeddings32}, {"bits", &bits32}} {
		b.Run(set.name+"/pgfloat", func(b *testing.B) {
			b.ReportAllocs()
			dst := make([]byte, 0, 64)
			i := 0
			for b.Loop() {
				dst = AppendFloat4(dst[:0], set.vals[i&1023])
				i++
			}
		})
		b.Run(set.name+"/strconv", func(b *testing.B) {
			b.ReportAllocs()
			dst := make([]byte, 0, 64)
			i := 0
			for b.Loop() {
				dst = strconv.AppendFloat(dst[:0], float64(set.vals[i&1023]), 'g', -1, 32)
				i++
			}
		})
	}
}

func BenchmarkFloat8(b *testing.B) {
	for _, set := range []struct {
		name string
		vals *[1024]float64
	}{{"embeddings", &embeddings64}, {"bits", &bits64}} {
		b.Run(set.name+"/pgfloat", func(b *testing.B) {
			b.ReportAllocs()
			dst := make([]byte, 0, 64)
			i := 0
			for b.Loop() {
				dst = AppendFloat8(dst[:0], set.vals[i&1023])
				i++
			}
		})
		b.Run(set.name+"/strconv", func(b *testing.B) {
			b.ReportAllocs()
			dst := make([]byte, 0, 64)
			i := 0
			for b.Loop() {
				dst = strconv.AppendFloat(dst[:0], set.vals[i&1023], 'g', -1, 64)
				i++
			}
		})
	}
}

// BenchmarkFloat4Array writes a vector of 768 embeddings.
func BenchmarkFloat4Array(b *testing.B) {
	vec := embeddings32[:768]
	b.Run("text", func(b *testing.B) {
		b.ReportAllocs()
		dst := make([]byte, 0, 16<<10)
		for b.Loop() {
			dst = AppendFloat4Array(dst[:0], vec)
		}
		b.SetBytes(int64(len(dst)))
	})
	b.Run("strconv", func(b *testing.B) {
		b.ReportAllocs()
		dst := make([]byte, 0, 16<<10)
		for b.Loop() {
			dst = append(dst[:0], '{')
			for _, f := range vec {
				dst = append(strconv.AppendFloat(dst, float64(f), 'g', -1, 32), ',')
			}
			dst[len(dst)-1] = '}'
		}
		b.SetBytes(int64(len(dst)))
	})
	b.Run("binary", func(b *testing.B) {
		b.ReportAllocs()
		dst := make([]byte, 0, 16<<10)
		for b.Loop() {
			dst = AppendFloat4ArrayBinary(dst[:0], vec)
		}
		b.SetBytes(int64(len(dst)))
	})
}
