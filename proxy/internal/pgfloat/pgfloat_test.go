package pgfloat

import (
	"bytes"
	"math"
	"math/big"
	"math/rand/v2"
	"regexp"
	"strconv"
	"strings"
	"testing"
)

// text4 and text8 write into a buffer with something before the text.
func text4(v float32) string {
	return strings.TrimPrefix(string(AppendFloat4([]byte("x="), v)), "x=")
}

func text8(v float64) string {
	return strings.TrimPrefix(string(AppendFloat8([]byte("x="), v)), "x=")
}

func TestFloat4Golden(t *testing.T) {
	for _, c := range []struct {
		bits uint32
		want string
	}{
		{0x00000000, "0"},
		{0x80000000, "-0"},
		{0x7f800000, "Infinity"},
		{0xff800000, "-Infinity"},
		{0x7fc00000, "NaN"},
		{0xffc00000, "NaN"},
		{0x7f800001, "NaN"},
		{0x00000001, "1e-45"}, // the smallest subnormal
		{0x80000001, "-1e-45"},
		{0x00000002, "3e-45"},
		{0x007fffff, "1.1754942e-38"}, // the largest subnormal
		{0x00800000, "1.1754944e-38"}, // the smallest normal
		{0x00800001, "1.1754945e-38"},
		{0x7f7fffff, "3.4028235e+38"},
		{0xff7fffff, "-3.4028235e+38"},
		{0x3f7fffff, "0.99999994"},
		{0x3f800001, "1.0000001"},
		{0x4b800001, "1.6777218e+07"},
		{0x4d000000, "1.3421773e+08"}, // a power of two: a lopsided interval
		{0x4c000000, "3.3554432e+07"},
		{0x4c000001, "3.3554436e+07"},
		// Where strconv prints a digit less, which is on the border.
		{0x4c2cf9e8, "4.5344672e+07"},
		{0x4fec5ff6, "7.9314237e+09"},
		{0x51e3f628, "1.22385924e+11"},
	} {
		if got := text4(math.Float32frombits(c.bits)); got != c.want {
			t.Errorf("%#08x: got %s, want %s", c.bits, got, c.want)
		}
	}
	for _, c := range []struct {
		v    float32
		want string
	}{
		{1, "1"},
		{-1, "-1"},
		{0.1, "0.1"},
		{1.0 / 3, "0.33333334"},
		{1.5, "1.5"},
		{-0.25, "-0.25"},
		{10, "10"},
		{100000, "100000"},
		{123456, "123456"},
		{999999, "999999"},
		{99999.99, "99999.99"},
		{1000000, "1e+06"},
		{1000001, "1.000001e+06"},
		{1200000, "1.2e+06"},
		{9999999, "9.999999e+06"},
		{16777215, "1.6777215e+07"},
		{16777216, "1.6777216e+07"},
		{10000000, "1e+07"},
		{0.0001, "0.0001"},
		{0.00012345678, "0.00012345678"},
		{0.00009999, "9.999e-05"},
		{0.00001, "1e-05"},
		{1e10, "1e+10"},
		{1e15, "1e+15"},
		{1e22, "1e+22"},
		{1e38, "1e+38"},
		{1e-38, "1e-38"},
		{1e-40, "1e-40"},
		{3.1415927, "3.1415927"},
		{8388608, "8.388608e+06"},
		{65536, "65536"},
		{0.00390625, "0.00390625"},
		{9.5367431640625e-07, "9.536743e-07"},
	} {
		if got := text4(c.v); got != c.want {
			t.Errorf("%g: got %s, want %s", c.v, got, c.want)
		}
	}
}

func TestFloat8Golden(t *testing.T) {
	for _, c := range []struct {
		bits uint64
		want string
	}{
		{0x0000000000000000, "0"},
		{0x8000000000000000, "-0"},
		{0x7ff0000000000000, "Infinity"},
		{0xfff0000000000000, "-Infinity"},
		{0x7ff8000000000000, "NaN"},
		{0xfff8000000000000, "NaN"},
		{0x7ff0000000000001, "NaN"},
		{0x0000000000000001, "5e-324"}, // the smallest subnormal
		{0x0000000000000002, "1e-323"},
		{0x000fffffffffffff, "2.225073858507201e-308"},  // the largest subnormal
		{0x0010000000000000, "2.2250738585072014e-308"}, // the smallest normal
		{0x0010000000000001, "2.225073858507202e-308"},
		{0x7fefffffffffffff, "1.7976931348623157e+308"},
		{0xffefffffffffffff, "-1.7976931348623157e+308"},
		{0x3fefffffffffffff, "0.9999999999999999"},
		{0x3ff0000000000001, "1.0000000000000002"},
		{0x44b52d02c7e14af6, "9.999999999999999e+22"}, // strconv prints 1e+23, which is on the border
		{0x44b52d02c7e14af7, "1.0000000000000001e+23"},
	} {
		if got := text8(math.Float64frombits(c.bits)); got != c.want {
			t.Errorf("%#016x: got %s, want %s", c.bits, got, c.want)
		}
	}
	for _, c := range []struct {
		v    float64
		want string
	}{
		{1, "1"},
		{-1, "-1"},
		{0.1, "0.1"},
		{0.3, "0.3"},
		{0.30000000000000004, "0.30000000000000004"},
		{1.0 / 3, "0.3333333333333333"},
		{2.0 / 3, "0.6666666666666666"},
		{10, "10"},
		{1e14, "100000000000000"},
		{123456789012345, "123456789012345"},
		{999999999999999, "999999999999999"},
		{99999999999999.9, "99999999999999.9"},
		{1e15, "1e+15"},
		{1e15 + 1, "1.000000000000001e+15"},
		{1.2e15, "1.2e+15"},
		{9007199254740991, "9.007199254740991e+15"},
		{9007199254740992, "9.007199254740992e+15"},
		{9007199254740994, "9.007199254740994e+15"},
		{18014398509481984, "1.8014398509481984e+16"},
		{18446744073709551616, "1.8446744073709552e+19"},
		{1e16, "1e+16"},
		{1e21, "1e+21"},
		{1e22, "1e+22"},
		{1e99, "1e+99"},
		{1e100, "1e+100"},
		{1e308, "1e+308"},
		{1e-99, "1e-99"},
		{1e-100, "1e-100"},
		{1e-307, "1e-307"},
		{0.0001, "0.0001"},
		{0.00012345678901234567, "0.00012345678901234567"},
		{0.00001, "1e-05"},
		{0.000099999, "9.9999e-05"},
		{math.Pi, "3.141592653589793"},
		{math.E, "2.718281828459045"},
		{5e-324, "5e-324"},
		{0.5, "0.5"},
		{9.5367431640625e-07, "9.5367431640625e-07"},
		{-2.2250738585072014e-308, "-2.2250738585072014e-308"},
	} {
		if got := text8(c.v); got != c.want {
			t.Errorf("%g: got %s, want %s", c.v, got, c.want)
		}
	}
}

func TestFloat4Array(t *testing.T) {
	for _, c := range []struct {
		v      []float32
		text   string
		binary string
	}{
		{nil, "{}", "\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x02\xbc"},
		{[]float32{}, "{}", "\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x02\xbc"},
		{
			[]float32{1.5, -0.25},
			"{1.5,-0.25}",
			"\x00\x00\x00\x01\x00\x00\x00\x00\x00\x00\x02\xbc\x00\x00\x00\x02\x00\x00\x00\x01" +
				"\x00\x00\x00\x04\x3f\xc0\x00\x00\x00\x00\x00\x04\xbe\x80\x00\x00",
		},
		{
			[]float32{float32(math.Inf(-1))},
			"{-Infinity}",
			"\x00\x00\x00\x01\x00\x00\x00\x00\x00\x00\x02\xbc\x00\x00\x00\x01\x00\x00\x00\x01" +
				"\x00\x00\x00\x04\xff\x80\x00\x00",
		},
	} {
		if got := string(AppendFloat4Array([]byte("x"), c.v)); got != "x"+c.text {
			t.Errorf("%v: got %s, want x%s", c.v, got, c.text)
		}
		if got := string(AppendFloat4ArrayBinary([]byte("x"), c.v)); got != "x"+c.binary {
			t.Errorf("%v: got %q, want %q", c.v, got, "x"+c.binary)
		}
	}
}

// TestAppend checks that only what is appended is written.
func TestAppend(t *testing.T) {
	const want = "-0.0001234\xff\xff\xff\xff\xff\xff"
	buf := bytes.Repeat([]byte{0xff}, 16)
	if AppendFloat4(buf[:0], -0.0001234); string(buf) != want {
		t.Errorf("float4: got %q, want %q", buf, want)
	}
	buf = bytes.Repeat([]byte{0xff}, 16)
	if AppendFloat8(buf[:0], -0.0001234); string(buf) != want {
		t.Errorf("float8: got %q, want %q", buf, want)
	}
}

func TestNoAllocation(t *testing.T) {
	// Exactly the room that each text takes.
	buf4, buf8 := make([]byte, 0, 14), make([]byte, 0, 24)
	vec, big := make([]float32, 100), make([]byte, 0, 2000)
	for name, f := range map[string]func(){
		"float4": func() { AppendFloat4(buf4, -3.4028235e+38) },
		"float8": func() { AppendFloat8(buf8, -2.2250738585072014e-308) },
		"text":   func() { AppendFloat4Array(big, vec) },
		"binary": func() { AppendFloat4ArrayBinary(big, vec) },
	} {
		if n := testing.AllocsPerRun(100, f); n != 0 {
			t.Errorf("%s: %v allocations, want 0", name, n)
		}
	}
}

// number is the shape of every finite value.
var number = regexp.MustCompile(`^-?(0|[1-9]\d*|(0|[1-9]\d*)\.\d*[1-9]|[1-9](\.\d*[1-9])?e[+-](0[1-9]|[1-9]\d\d?))$`)

// check4 checks the text of one float4 by what can be said of it without a
// server.
func check4(t testing.TB, bits uint32) {
	t.Helper()
	v := math.Float32frombits(bits)
	got := text4(v)
	if special(t, float64(v), got) {
		return
	}
	back, err := strconv.ParseFloat(got, 32)
	if err != nil || math.Float32bits(float32(back)) != bits {
		t.Fatalf("%#08x: %s reads back as %v, %v", bits, got, back, err)
	}
	if !number.MatchString(got) {
		t.Fatalf("%#08x: %s is not laid out as a number", bits, got)
	}
	if v == 0 {
		return
	}
	mant, exp := uint64(bits&(1<<23-1)), int(bits>>23&0xff)
	if want := oracle(v < 0, mant, exp, 23, 6); got != want {
		t.Fatalf("%#08x: got %s, want %s", bits, got, want)
	}
}

// check8 is check4 for float8.
func check8(t testing.TB, bits uint64) {
	t.Helper()
	v := math.Float64frombits(bits)
	got := text8(v)
	if special(t, v, got) {
		return
	}
	back, err := strconv.ParseFloat(got, 64)
	if err != nil || math.Float64bits(back) != bits {
		t.Fatalf("%#016x: %s reads back as %v, %v", bits, got, back, err)
	}
	if !number.MatchString(got) {
		t.Fatalf("%#016x: %s is not laid out as a number", bits, got)
	}
	if v == 0 {
		return
	}
	mant, exp := bits&(1<<52-1), int(bits>>52&0x7ff)
	if want := oracle(v < 0, mant, exp, 52, 15); got != want {
		t.Fatalf("%#016x: got %s, want %s", bits, got, want)
	}
}

func special(t testing.TB, v float64, got string) bool {
	t.Helper()
	want := ""
	switch {
	case math.IsNaN(v):
		want = "NaN"
	case math.IsInf(v, 1):
		want = "Infinity"
	case math.IsInf(v, -1):
		want = "-Infinity"
	default:
		return false
	}
	if got != want {
		t.Fatalf("%v: got %s, want %s", v, got, want)
	}
	return true
}

// oracle writes a finite value that is not zero by the definition alone, in
// exact integers: of the decimals strictly inside the interval that rounds to
// the value, one with the largest power of ten; of those the closest; of two
// as close the even one.
func oracle(neg bool, mant uint64, exp, mantBits, limit int) string {
	bias := map[int]int{23: 127, 52: 1023}[mantBits]
	m2, below, e2 := mant, int64(2), 1-bias-mantBits-2
	if exp != 0 {
		m2 |= 1 << mantBits
		e2 = exp - bias - mantBits - 2
	}
	if mant == 0 && exp > 1 {
		below = 1
	}
	// mv, mm and mp over den are the value and its borders.
	mv, den := new(big.Int).SetUint64(4*m2), big.NewInt(1)
	mm, mp := new(big.Int).Sub(mv, big.NewInt(below)), new(big.Int).Add(mv, big.NewInt(2))
	if e2 >= 0 {
		for _, x := range []*big.Int{mv, mm, mp} {
			x.Lsh(x, uint(e2))
		}
	} else {
		den.Lsh(den, uint(-e2))
	}
	// The power of ten just over the value, and down from there.
	v, _ := new(big.Rat).SetFrac(mv, den).Float64()
	e10 := int(math.Ceil(math.Log10(v))) + 1
	for ; ; e10-- {
		p := new(big.Int).Exp(big.NewInt(10), big.NewInt(int64(max(e10, -e10))), nil)
		lo, at, hi, unit := new(big.Int).Set(mm), new(big.Int).Set(mv), new(big.Int).Set(mp), new(big.Int).Set(den)
		if e10 >= 0 {
			unit.Mul(unit, p)
		} else {
			for _, x := range []*big.Int{lo, at, hi} {
				x.Mul(x, p)
			}
		}
		down, rest := new(big.Int).QuoRem(at, unit, new(big.Int))
		up := new(big.Int).Add(down, big.NewInt(1))
		downIn := new(big.Int).Mul(down, unit).Cmp(lo) > 0
		upIn := new(big.Int).Mul(up, unit).Cmp(hi) < 0
		var digits *big.Int
		switch half := rest.Lsh(rest, 1).Cmp(unit); {
		case downIn && upIn && (half > 0 || half == 0 && down.Bit(0) == 1), upIn && !downIn:
			digits = up
		case downIn:
			digits = down
		default:
			continue
		}
		return layout(neg, digits.String(), e10, limit)
	}
}

// layout writes digits * 10^e10 in PostgreSQL's notation.
func layout(neg bool, digits string, e10, limit int) string {
	exp := e10 + len(digits) - 1
	digits = strings.TrimRight(digits, "0")
	var s string
	switch {
	case exp < -4 || exp >= limit:
		s = digits[:1]
		if len(digits) > 1 {
			s += "." + digits[1:]
		}
		sign := "+"
		if exp < 0 {
			sign, exp = "-", -exp
		}
		if exp < 10 {
			sign += "0"
		}
		s += "e" + sign + strconv.Itoa(exp)
	case exp < 0:
		s = "0." + strings.Repeat("0", -exp-1) + digits
	case len(digits) <= exp+1:
		s = digits + strings.Repeat("0", exp+1-len(digits))
	default:
		s = digits[:exp+1] + "." + digits[exp+1:]
	}
	if neg {
		s = "-" + s
	}
	return s
}

func TestFloat4Oracle(t *testing.T) {
	for _, b := range cases4() {
		check4(t, b)
	}
	r := rand.New(rand.NewPCG(11, 12))
	for range 20_000 {
		check4(t, r.Uint32())
	}
}

func TestFloat8Oracle(t *testing.T) {
	for _, b := range cases8() {
		check8(t, b)
	}
	r := rand.New(rand.NewPCG(13, 14))
	for range 10_000 {
		check8(t, r.Uint64())
	}
}

// TestRoundTrip is the one property that everything else rests on, over more
// values than the oracle has time for.
func TestRoundTrip(t *testing.T) {
	r := rand.New(rand.NewPCG(15, 16))
	var buf [32]byte
	for range 200_000 {
		v4 := math.Float32frombits(r.Uint32())
		text := string(AppendFloat4(buf[:0], v4))
		if back, err := strconv.ParseFloat(text, 32); err != nil || float32(back) != v4 && v4 == v4 {
			t.Fatalf("%#08x: %s reads back as %v, %v", math.Float32bits(v4), text, back, err)
		}
		v8 := math.Float64frombits(r.Uint64())
		text = string(AppendFloat8(buf[:0], v8))
		if back, err := strconv.ParseFloat(text, 64); err != nil || back != v8 && v8 == v8 {
			t.Fatalf("%#016x: %s reads back as %v, %v", math.Float64bits(v8), text, back, err)
		}
	}
}

// cases4 returns the bits of values near every border there is: of each
// exponent, of powers of ten, of integers, and of short decimals.
func cases4() []uint32 {
	var c []uint32
	near := func(b uint32) {
		for d := range uint32(3) {
			c = append(c, b+d-1, (b+d-1)^1<<31)
		}
	}
	for e := range uint32(256) {
		near(e << 23)
		near(e<<23 | 1<<22)
	}
	for e := -46; e <= 38; e++ {
		for d := 1; d < 10; d++ {
			v, _ := strconv.ParseFloat(strconv.Itoa(d)+"e"+strconv.Itoa(e), 32)
			near(math.Float32bits(float32(v)))
		}
	}
	for i := range 33 {
		near(math.Float32bits(float32(uint64(1) << i)))
	}
	for i := range 2000 {
		c = append(c, math.Float32bits(float32(i)), math.Float32bits(float32(i)/64), math.Float32bits(float32(i)/1000))
	}
	return c
}

// cases8 is cases4 for float8.
func cases8() []uint64 {
	var c []uint64
	near := func(b uint64) {
		for d := range uint64(3) {
			c = append(c, b+d-1, (b+d-1)^1<<63)
		}
	}
	for e := range uint64(2048) {
		near(e << 52)
	}
	for e := -324; e <= 308; e++ {
		for d := 1; d < 10; d++ {
			v, _ := strconv.ParseFloat(strconv.Itoa(d)+"e"+strconv.Itoa(e), 64)
			near(math.Float64bits(v))
		}
	}
	for i := range 65 {
		near(math.Float64bits(math.Ldexp(1, i)))
	}
	for i := range 2000 {
		c = append(c, math.Float64bits(float64(i)), math.Float64bits(float64(i)/64), math.Float64bits(float64(i)/1000))
	}
	return c
}

func FuzzFloat4(f *testing.F) {
	for _, b := range []uint32{0, 1, 1 << 31, 0x3f800000, 0x7f7fffff, 0x7f800000, 0x7fc00000, 0x4b800000} {
		f.Add(b)
	}
	f.Fuzz(func(t *testing.T, bits uint32) { check4(t, bits) })
}

func FuzzFloat8(f *testing.F) {
	for _, b := range []uint64{0, 1, 1 << 63, 0x3ff0000000000000, 0x7fefffffffffffff, 0x7ff0000000000000, 0x7ff8000000000000, 0x4340000000000000} {
		f.Add(b)
	}
	f.Fuzz(func(t *testing.T, bits uint64) { check8(t, bits) })
}
