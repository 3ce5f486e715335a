package pgfloat

import (
	"encoding/binary"
	"math"
)

// float4OID is the object identifier of PostgreSQL's type float4.
const float4OID = 700

// AppendFloat4 appends the text of v as float4out prints it.
func AppendFloat4(dst []byte, v float32) []byte {
	b := math.Float32bits(v)
	neg := b>>31 != 0
	mant := b & (1<<mantBits32 - 1)
	exp := b >> mantBits32 & 0xff
	if exp == 0xff || exp|mant == 0 {
		return appendSpecial(dst, neg, exp != 0, mant != 0)
	}
	m, e, ok := smallInt32(mant, exp)
	if !ok {
		m, e = shortest32(mant, exp)
	}
	return appendDecimal(dst, neg, uint64(m), e, 6)
}

// AppendFloat8 appends the text of v as float8out prints it.
func AppendFloat8(dst []byte, v float64) []byte {
	b := math.Float64bits(v)
	neg := b>>63 != 0
	mant := b & (1<<mantBits64 - 1)
	exp := uint32(b>>mantBits64) & 0x7ff
	if exp == 0x7ff || uint64(exp)|mant == 0 {
		return appendSpecial(dst, neg, exp != 0, mant != 0)
	}
	m, e, ok := smallInt64(mant, exp)
	if !ok {
		m, e = shortest64(mant, exp)
	}
	return appendDecimal(dst, neg, m, e, 15)
}

// AppendFloat4Array appends the text of v as array_out prints a real[] with
// one dimension and lower bound 1: {a,b,c}, or {} where v is empty.
func AppendFloat4Array(dst []byte, v []float32) []byte {
	dst = append(dst, '{')
	for i, f := range v {
		if i > 0 {
			dst = append(dst, ',')
		}
		dst = AppendFloat4(dst, f)
	}
	return append(dst, '}')
}

// AppendFloat4ArrayBinary appends v as array_send writes a real[] without
// nulls: one dimension with lower bound 1, or no dimension where v is empty.
func AppendFloat4ArrayBinary(dst []byte, v []float32) []byte {
	be := binary.BigEndian
	ndim := uint32(min(len(v), 1))
	dst = be.AppendUint32(dst, ndim)
	dst = be.AppendUint32(dst, 0) // flags: no nulls
	dst = be.AppendUint32(dst, float4OID)
	if ndim == 0 {
		return dst
	}
	dst = be.AppendUint32(dst, uint32(len(v)))
	dst = be.AppendUint32(dst, 1) // lower bound
	for _, f := range v {
		dst = be.AppendUint64(dst, 4<<32|uint64(math.Float32bits(f)))
	}
	return dst
}

// appendSpecial appends NaN, an infinity or a zero.
func appendSpecial(dst []byte, neg, exp, mant bool) []byte {
	if mant {
		return append(dst, "NaN"...)
	}
	if neg {
		dst = append(dst, '-')
	}
	if exp {
		return append(dst, "Infinity"...)
	}
	return append(dst, '0')
}
