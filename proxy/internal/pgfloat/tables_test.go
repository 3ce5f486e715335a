package pgfloat

import (
	"math/big"
	"slices"
	"testing"
)

// TestTables computes what gen.go wrote a second time, from the definitions.
func TestTables(t *testing.T) {
	check := func(name string, inverse bool, width, i int, got ...uint64) {
		five := new(big.Int).Exp(big.NewInt(5), big.NewInt(int64(i)), nil)
		if n := pow5bits(i); n != five.BitLen() {
			t.Errorf("pow5bits(%d) = %d, want %d", i, n, five.BitLen())
		}
		want := new(big.Int)
		if inverse {
			want.Lsh(big.NewInt(1), uint(width+five.BitLen()-1))
			want.Add(want.Quo(want, five), big.NewInt(1))
		} else {
			want.Rsh(want.Lsh(five, uint(width)), uint(pow5bits(i)))
		}
		x := new(big.Int)
		for _, word := range slices.Backward(got) {
			x.Or(x.Lsh(x, 64), new(big.Int).SetUint64(word))
		}
		if x.Cmp(want) != 0 {
			t.Errorf("%s[%d] = %d, want %d", name, i, x, want)
		}
	}
	for i, x := range pow5Inv32 {
		check("pow5Inv32", true, pow5InvBits32, i, x)
	}
	for i, x := range pow5Split32 {
		check("pow5Split32", false, pow5Bits32, i, x)
	}
	for i, x := range pow5Inv64 {
		check("pow5Inv64", true, pow5InvBits64, i, x[:]...)
	}
	for i, x := range pow5Split64 {
		check("pow5Split64", false, pow5Bits64, i, x[:]...)
	}
}

// TestLogarithms checks the two approximations over the range that is used.
func TestLogarithms(t *testing.T) {
	ten := big.NewInt(10)
	for e := range 1080 {
		for base, got := range map[int64]int{2: log10Pow2(e), 5: log10Pow5(e)} {
			p := new(big.Int).Exp(big.NewInt(base), big.NewInt(int64(e)), nil)
			lo := new(big.Int).Exp(ten, big.NewInt(int64(got)), nil)
			if p.Cmp(lo) < 0 || p.Cmp(lo.Mul(lo, ten)) >= 0 {
				t.Errorf("floor(log10(%d^%d)): got %d", base, e, got)
			}
		}
	}
}
