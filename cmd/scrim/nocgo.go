//go:build !cgo

// Without a C compiler Go leaves cgo out, and with it PostgreSQL's parser and ONNX Runtime. Say so, rather than leave
// people with the compiler's complaints about packages they have never heard of.
package main

import (
	"fmt"
	"os"
)

func main() {
	fmt.Fprintln(os.Stderr, "scrim: a C compiler is needed to build Scrim: install gcc or clang (apt-get install gcc, xcode-select --install), see that CGO_ENABLED is not 0, and run this again")
	os.Exit(1)
}
