package pgfloat

import "math/bits"

// The parameters of float8 and of its tables, as in d2s.c.
const (
	mantBits64    = 52
	bias64        = 1023
	pow5InvBits64 = 122
	pow5Bits64    = 121
)

// smallInt64 returns the value as an integer where it is one below 2^53. Its
// digits may end in zeros.
func smallInt64(mant uint64, exp uint32) (m uint64, e int, ok bool) {
	shift := bias64 + mantBits64 - exp // wraps, and is then too large
	if shift > mantBits64 || mant&(1<<(shift&63)-1) != 0 {
		return 0, 0, false
	}
	return (1<<mantBits64 | mant) >> (shift & 63), 0, true
}

// shortest64 is d2d of d2s.c: the decimal m * 10^e with the fewest digits
// strictly inside the interval that rounds to the given float, and among those
// the closest to it.
func shortest64(mant uint64, exp uint32) (m uint64, e int) {
	m2, e2 := mant, 1-bias64-mantBits64-2
	if exp != 0 {
		m2, e2 = 1<<mantBits64|mant, int(exp)-bias64-mantBits64-2
	}

	// The interval of legal decimals, times four: (mm, mp) around mv.
	mv := 4 * m2
	mp := mv + 2
	mm := mv - 1
	if mant != 0 || exp <= 1 {
		mm--
	}

	// Convert to a decimal power base.
	var vr, vp, vm uint64
	var e10 int
	var exact bool // what was removed below vr and last is zero
	if e2 >= 0 {
		q := log10Pow2(e2)
		if e2 > 3 {
			q--
		}
		e10 = q
		shift := q - e2 + pow5InvBits64 + pow5bits(q) - 1
		f := &pow5Inv64[q]
		vr, vp, vm = mulShift64(mv, f, shift), mulShift64(mp, f, shift), mulShift64(mm, f, shift)
		if q <= 21 { // only one of mp, mv and mm can be a multiple of 5
			if mv%5 == 0 {
				exact = multipleOfPow5(mv, q)
			} else if multipleOfPow5(mp, q) {
				vp--
			}
		}
	} else {
		q := log10Pow5(-e2)
		if -e2 > 1 {
			q--
		}
		e10 = q + e2
		i := -e2 - q
		shift := q - pow5bits(i) + pow5Bits64
		f := &pow5Split64[i]
		vr, vp, vm = mulShift64(mv, f, shift), mulShift64(mp, f, shift), mulShift64(mm, f, shift)
		if q <= 1 {
			// mv ends in two zero bits and mp in one, so both are exact.
			exact = true
			vp--
		} else if q < 63 {
			exact = mv&(1<<((q-1)&63)-1) == 0
		}
	}

	// Remove digits while the interval still holds a shorter decimal.
	var up bool
	if exact {
		var last uint64
		for vp/10 > vm/10 {
			exact = exact && last == 0
			last = vr % 10
			vr, vp, vm = vr/10, vp/10, vm/10
			e10++
		}
		if exact && last == 5 && vr%2 == 0 {
			last = 4 // half to even
		}
		up = last >= 5
	} else {
		// Two digits at once pays: about two are removed on average.
		if p, m := vp/100, vm/100; p > m {
			up = vr%100 >= 50
			vr, vp, vm = vr/100, p, m
			e10 += 2
		}
		for vp/10 > vm/10 {
			up = vr%10 >= 5
			vr, vp, vm = vr/10, vp/10, vm/10
			e10++
		}
	}
	// The lower bound itself is outside.
	if vr == vm || up {
		vr++
	}
	return vr, e10
}

// mulShift64 returns m*factor >> shift, for a factor of two words, the low one
// first. The shift is over 64 and below 128, and the result fits a word.
func mulShift64(m uint64, factor *[2]uint64, shift int) uint64 {
	carry, _ := bits.Mul64(m, factor[0])
	hi, lo := bits.Mul64(m, factor[1])
	lo, c := bits.Add64(lo, carry, 0)
	hi += c
	shift -= 64
	return hi<<((64-shift)&63) | lo>>(shift&63)
}
