//go:build drivers

package drivers_test

import (
	"crypto/sha256"
	"encoding/hex"
	"os"
	"path/filepath"
	"slices"
	"testing"
)

// pgjdbc as Maven Central has it.
const (
	jdbcVersion = "42.7.13"
	jdbcSHA256  = "6e0e4cc2d8cae902084f8a2b18728b073a6fd9d1f87c9d8bff8f298c18185b93"
)

// TestJDBC runs pgjdbc with its defaults, with binary transfer from the first execution on, and with simple queries; one after the
// other in one virtual machine, which takes seconds to start.
func TestJDBC(t *testing.T) {
	sections := []string{
		"codes prepared", "types", "codes rollback", "rollback", "error", "codes cursor", "codes scroll", "batch", "codes returning", "copy",
		"copied codes", "catalog", "notify", "cancel",
	}
	options := []string{"", "prepareThreshold=-1", "preferQueryMode=simple", "reWriteBatchedInserts=true"}
	works(t, jdbc(options...), slices.Repeat(sections, len(options))...)
}

func jdbc(options ...string) program {
	return func(t *testing.T, to login) string {
		t.Helper()
		return command(t, to, nil, tool(t, "java", "default-jdk-headless"),
			append([]string{"-XX:TieredStopAtLevel=1", "-XX:+UseSerialGC", "-cp", jdbcClasses(t), "Jdbc"}, options...)...)
	}
}

// jdbcClasses is the class path: pgjdbc from Maven and what javac made of testdata/java, both in the cache.
func jdbcClasses(t *testing.T) string {
	t.Helper()
	mvn, javac := tool(t, "mvn", "maven"), tool(t, "javac", "default-jdk-headless")
	source, err := filepath.Abs(filepath.Join("testdata", "java", "Jdbc.java"))
	if err != nil {
		t.Fatal(err)
	}
	jar := "postgresql-" + jdbcVersion + ".jar"
	dir := installed(t, "java", jdbcSHA256+readFile(t, source), func(dir string) {
		fetch(t, dir, mvn, "-B", "-q", "org.apache.maven.plugins:maven-dependency-plugin:3.8.1:copy",
			"-Dartifact=org.postgresql:postgresql:"+jdbcVersion, "-DoutputDirectory="+dir)
		checkSHA256(t, filepath.Join(dir, jar), jdbcSHA256)
		fetch(t, dir, javac, "-cp", jar, "-d", dir, source)
	})
	return dir + string(os.PathListSeparator) + filepath.Join(dir, jar)
}

func checkSHA256(t *testing.T, path, want string) {
	t.Helper()
	sum := sha256.Sum256([]byte(readFile(t, path)))
	if got := hex.EncodeToString(sum[:]); got != want {
		t.Fatalf("%s does not have the content it was pinned with: SHA-256 %s, not %s", filepath.Base(path), got, want)
	}
}
