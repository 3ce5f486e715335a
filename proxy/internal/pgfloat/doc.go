// Package pgfloat writes float4 and float8 values, and one-dimensional real[]
// arrays, byte for byte as PostgreSQL 12 and later print them at the default
// extra_float_digits = 1.
//
// PostgreSQL prints the shortest decimal that reads back as the same value,
// but not quite the one that [strconv] finds: a decimal that lies exactly on
// the border between two neighbouring floats is refused even where
// round-half-even would read it correctly, so now and then there is a digit
// more: 1e23 is printed as 9.999999999999999e+22. The layout differs too: fixed
// notation while the decimal exponent is at least -4 and below 6 (float4) or 15
// (float8), scientific notation with a signed exponent of at least two digits
// otherwise, and the words NaN, Infinity and -Infinity. The sign of zero is
// kept (-0), that of NaN is not.
//
// The functions append to a slice and allocate only to grow it. They hold no
// state and may be called from any goroutine.
//
// # Origin and licence
//
// The algorithm is Ryu by Ulf Adams (https://github.com/ulfjack/ryu, Copyright
// 2018 Ulf Adams, Apache License 2.0 or Boost Software License 1.0) with the
// changes PostgreSQL made to it (Portions Copyright (c) 2018-2022, PostgreSQL
// Global Development Group, PostgreSQL Licence). This is a translation into Go
// of src/common/f2s.c, d2s.c, d2s_intrinsics.h and ryu_common.h of PostgreSQL
// 15.18, used, like PostgreSQL itself, under the Boost licence. Both licence
// texts are in the file NOTICE beside this one. The tables in tables.go hold
// the same numbers as d2s_full_table.h and f2s.c and are computed by gen.go.
package pgfloat

//go:generate go run gen.go
