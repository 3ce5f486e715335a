package pgfloat

// The parameters of float4 and of its tables, as in f2s.c.
const (
	mantBits32    = 23
	bias32        = 127
	pow5InvBits32 = 59
	pow5Bits32    = 61
)

// smallInt32 returns the value as an integer where it is one below 2^24. Its
// digits may end in zeros.
func smallInt32(mant, exp uint32) (m uint32, e int, ok bool) {
	shift := bias32 + mantBits32 - exp // wraps, and is then too large
	if shift > mantBits32 || mant&(1<<(shift&31)-1) != 0 {
		return 0, 0, false
	}
	return (1<<mantBits32 | mant) >> (shift & 31), 0, true
}

// shortest32 is f2d of f2s.c: the decimal m * 10^e with the fewest digits
// strictly inside the interval that rounds to the given float, and among those
// the closest to it.
func shortest32(mant, exp uint32) (m uint32, e int) {
	m2, e2 := mant, 1-bias32-mantBits32-2
	if exp != 0 {
		m2, e2 = 1<<mantBits32|mant, int(exp)-bias32-mantBits32-2
	}

	// The interval of legal decimals, times four: (mm, mp) around mv.
	mv := 4 * m2
	mp := mv + 2
	mm := mv - 1
	if mant != 0 || exp <= 1 {
		mm--
	}

	// Convert to a decimal power base.
	var vr, vp, vm, last uint32
	var e10 int
	var exact bool // what was removed below vr and last is zero
	if e2 >= 0 {
		q := log10Pow2(e2)
		e10 = q
		shift := q - e2 + pow5InvBits32 + pow5bits(q) - 1
		f := pow5Inv32[q]
		vr, vp, vm = mulShift32(mv, f, shift), mulShift32(mp, f, shift), mulShift32(mm, f, shift)
		if q != 0 && (vp-1)/10 <= vm/10 {
			// One removed digit is needed even if the loop below removes none.
			last = mulShift32(mv, pow5Inv32[q-1], q-1-e2+pow5InvBits32+pow5bits(q-1)-1) % 10
		}
		if q <= 9 { // only one of mp, mv and mm can be a multiple of 5
			if mv%5 == 0 {
				exact = multipleOfPow5(uint64(mv), q)
			} else if multipleOfPow5(uint64(mp), q) {
				vp--
			}
		}
	} else {
		q := log10Pow5(-e2)
		e10 = q + e2
		i := -e2 - q
		shift := q - pow5bits(i) + pow5Bits32
		f := pow5Split32[i]
		vr, vp, vm = mulShift32(mv, f, shift), mulShift32(mp, f, shift), mulShift32(mm, f, shift)
		if q != 0 && (vp-1)/10 <= vm/10 {
			last = mulShift32(mv, pow5Split32[i+1], q-1-pow5bits(i+1)+pow5Bits32) % 10
		}
		if q <= 1 {
			// mv ends in two zero bits and mp in one, so both are exact.
			exact = true
			vp--
		} else if q < 31 {
			exact = mv&(1<<((q-1)&31)-1) == 0
		}
	}

	// Remove digits while the interval still holds a shorter decimal.
	if exact {
		for vp/10 > vm/10 {
			exact = exact && last == 0
			last = vr % 10
			vr, vp, vm = vr/10, vp/10, vm/10
			e10++
		}
		if exact && last == 5 && vr%2 == 0 {
			last = 4 // half to even
		}
	} else {
		for vp/10 > vm/10 {
			last = vr % 10
			vr, vp, vm = vr/10, vp/10, vm/10
			e10++
		}
	}
	// The lower bound itself is outside.
	if vr == vm || last >= 5 {
		vr++
	}
	return vr, e10
}

// mulShift32 returns m*factor >> shift. The shift is over 32.
func mulShift32(m uint32, factor uint64, shift int) uint32 {
	lo := uint64(m) * (factor & (1<<32 - 1))
	hi := uint64(m) * (factor >> 32)
	return uint32((lo>>32 + hi) >> ((shift - 32) & 63))
}
