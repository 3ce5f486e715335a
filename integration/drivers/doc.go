// Package drivers shows that clients cannot tell Scrim from PostgreSQL: the rows of the README's table "Works with".
//
// Each driver has a program (in testdata, or in Go) that does what applications do with it and prints what it got as text:
//
//	== types
//	1|NULL|ä€
//	== codes prepared
//	2|35|51021.52|533.2
//
// compare_test.go runs it three times on each server: as an unmasked role directly and through the proxy, which must give the same text
// byte for byte, and as a masked role through the proxy. There the sections named "codes ..." (id, age, income, score) must
// hold the codes that a plain SELECT shows, those named "copied ..." those of age that COPY shows, "described" the types of codes, "catalog" what the catalogs tell of columns, with those types, all others the same as for the unmasked
// role; and no raw value may be anywhere.
//
// What needs only Go and npm always runs. The rest (Python, Java, Perl, ODBC, PostgreSQL's own programs) is behind the build tag
// drivers: go test -tags drivers ./integration/drivers. A program that is missing fails its test with the
// name of the package to install. What the drivers' own registries give is pinned and kept in Scrim's cache folder.
package drivers
