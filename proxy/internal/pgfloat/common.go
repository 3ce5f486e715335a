package pgfloat

import (
	"encoding/binary"
	"math/bits"
)

// pow5bits returns the number of bits of 5^e, for 0 <= e <= 3528.
func pow5bits(e int) int {
	return int(uint32(e)*1217359>>19) + 1
}

// log10Pow2 returns floor(log10(2^e)), for 0 <= e <= 1650.
func log10Pow2(e int) int {
	return int(uint32(e) * 78913 >> 18)
}

// log10Pow5 returns floor(log10(5^e)), for 0 <= e <= 2620.
func log10Pow5(e int) int {
	return int(uint32(e) * 732923 >> 20)
}

// multipleOfPow5 reports whether v, which is not zero, is divisible by 5^p.
func multipleOfPow5(v uint64, p int) bool {
	for ; p > 0; p-- {
		if v%5 != 0 {
			return false
		}
		v /= 5
	}
	return true
}

var pow10 = [...]uint64{
	1, 1e1, 1e2, 1e3, 1e4, 1e5, 1e6, 1e7, 1e8, 1e9,
	1e10, 1e11, 1e12, 1e13, 1e14, 1e15, 1e16, 1e17, 1e18, 1e19,
}

// decimalLen returns the number of digits of v, which is not zero.
func decimalLen(v uint64) int {
	n := bits.Len64(v) * 1233 >> 12
	if v < pow10[n] {
		return n
	}
	return n + 1
}

// maxLen is the room that appendDecimal needs: the longest text is 24 bytes
// (-2.2250738585072014e-308), and digits are stored eight at a time.
const maxLen = 32

// appendDecimal appends m * 10^e with m of 1 to 17 digits, in fixed notation
// where the exponent of the first digit is at least -4 and below limit, which
// is at most 15.
func appendDecimal(dst []byte, neg bool, m uint64, e, limit int) []byte {
	var buf [maxLen]byte
	at := 0
	if neg {
		buf[0] = '-'
		at = 1
	}
	n := decimalLen(m)
	exp := e + n - 1
	switch {
	case exp < -4 || exp >= limit:
		if e == 0 { // an integer: its zeros move into the exponent
			for m%10 == 0 {
				m /= 10
				n--
			}
		}
		// The digits, one place to the right, then the first one in its place.
		putDigits(&buf, at+1, n, m)
		buf[at] = buf[at+1]
		at++
		if n > 1 {
			buf[at] = '.'
			at += n
		}
		at = putExp(&buf, at, exp)
	case exp < 0: // 0.000ddd
		binary.LittleEndian.PutUint64(buf[at:], 0x303030303030<<16|'.'<<8|'0')
		at += 1 - exp
		putDigits(&buf, at, n, m)
		at += n
	case e < 0: // ddd.ddd
		putDigits(&buf, at+1, n, m)
		copy(buf[at:], buf[at+1:at+2+exp])
		buf[at+1+exp] = '.'
		at += n + 1
	default: // ddd: so small an integer comes with all its digits, e is 0
		putDigits(&buf, at, n, m)
		at += n
	}
	return append(dst, buf[:at]...)
}

// putExp stores the exponent at buf[at:] and returns where it ends.
func putExp(buf *[maxLen]byte, at, exp int) int {
	buf[at] = 'e'
	buf[at+1] = '+'
	if exp < 0 {
		buf[at+1] = '-'
		exp = -exp
	}
	at += 2
	if exp >= 100 {
		buf[at] = byte('0' + exp/100)
		exp %= 100
		at++
	}
	buf[at] = byte('0' + exp/10)
	buf[at+1] = byte('0' + exp%10)
	return at + 2
}

// putDigits stores the n digits of m at buf[at:].
func putDigits(buf *[maxLen]byte, at, n int, m uint64) {
	end := at + n
	if m>>32 != 0 {
		q := m / 1e8
		end -= 8
		binary.LittleEndian.PutUint64(buf[end:], digits8(uint32(m-q*1e8)))
		m = q
	}
	v := uint32(m) // at most nine digits are left, or a float4
	for v >= 100 {
		q := v / 100
		end -= 2
		binary.LittleEndian.PutUint16(buf[end:], digits2[v-q*100])
		v = q
	}
	if v >= 10 {
		binary.LittleEndian.PutUint16(buf[at:], digits2[v])
	} else {
		buf[at] = byte('0' + v)
	}
}

// digits8 returns the eight digits of v, below 1e8, as text with the first
// digit in the lowest byte: first two lanes of four digits, then four of two,
// then eight of one.
func digits8(v uint32) uint64 {
	x := uint64(v/1e4) | uint64(v%1e4)<<32
	q := x * 10486 >> 20 & 0x0000007f_0000007f // lanes / 100
	x = q | (x-q*100)<<16
	q = x * 103 >> 10 & 0x000f000f_000f000f // lanes / 10
	x = q | (x-q*10)<<8
	return x | 0x30303030_30303030
}

// digits2 holds the two digits of 0 to 99 as text, the first in the low byte.
var digits2 = func() (t [100]uint16) {
	for i := range t {
		t[i] = uint16('0'+i/10) | uint16('0'+i%10)<<8
	}
	return t
}()
